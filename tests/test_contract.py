"""One contract for every task: a tiny learner of each kind trains, is evaluated and compared by the same functions."""

import copy
import math
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from core_helpers import squares
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse import learners, training
from mlcourse.episodes import Episode, EpisodeSampler, SinusoidSampler
from mlcourse.errors import CourseError
from mlcourse.evaluation import Episodes, compare, depends_on_company, depends_on_other_tasks, evaluate
from mlcourse.learners.base import Frozen, Learner
from mlcourse.statistics import ACCURACY, Metric, Ratio

SIZE = 8


# ------------------------------------------------------------------ sources of each kind


class Scenes:
    """One bright square per picture, at a random place: support and queries with masks, or with boxes."""

    gives = "episodes"

    def __init__(self, kind: str):
        self.kind = kind

    def describe(self) -> dict:
        return {"data": f"squares with {self.kind}", "split": "all", "shot": 2, "query": 4}

    def sample(self, tasks: int, generator: torch.Generator) -> Episode:
        places = torch.randint(SIZE - 3, (tasks, 6, 2), generator=generator)
        rows = torch.arange(SIZE)
        inside = (rows >= places.unsqueeze(-1)) & (rows < places.unsqueeze(-1) + 3)  # [tasks, 6, 2, SIZE]
        masks = inside[:, :, 0].unsqueeze(-1) & inside[:, :, 1].unsqueeze(-2)
        x = 0.4 * masks.float() + 0.6 * torch.rand(masks.shape, generator=generator)
        x = x.unsqueeze(2)
        if self.kind == "masks":
            return Episode(x[:, :2], masks[:, :2].long(), x[:, 2:], masks[:, 2:].long())
        boxes = torch.cat([places, places + 3], -1).float().unsqueeze(2)  # one box per picture, padded to two
        targets = {"boxes": F.pad(boxes, (0, 0, 0, 1)), "counts": torch.ones(tasks, 6, dtype=torch.int64)}
        first, last = ({name: value[:, part] for name, value in targets.items()} for part in (slice(2), slice(2, None)))
        return Episode(x[:, :2], first, x[:, 2:], last)


# ------------------------------------------------------------------ a tiny learner of each kind


class Mean(Learner):
    """Regression: a line through the features of x, fitted to the support set by ridge regression."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 16), nn.Tanh())

    def inner_process(self, support_x, support_y, **_):
        z = self.body(support_x)
        gram = z.transpose(1, 2) @ z + 0.1 * torch.eye(16, dtype=z.dtype)
        return {"w": torch.linalg.solve(gram, z.transpose(1, 2) @ support_y)}

    def predict(self, state, query_x):
        return self.body(query_x) @ state["w"]


class Segmenter(Learner):
    """Masks: the support's mean brightness inside and outside its masks is a threshold, moved by a learned share."""

    metric = Metric("IoU", ratio=("intersection", "union"))

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-0.3))

    def inner_process(self, support_x, support_y, **_):
        inside = support_y.unsqueeze(2).to(support_x.dtype)
        means = [(support_x * part).flatten(1).sum(1) / part.flatten(1).sum(1) for part in (inside, 1 - inside)]
        return {"threshold": sum(means) / 2 + self.shift}

    def predict(self, state, query_x):
        return self.scale * (query_x.squeeze(2) - state["threshold"].view(-1, 1, 1, 1))

    def loss(self, prediction, target):
        return F.binary_cross_entropy_with_logits(prediction, target.to(prediction.dtype))

    def score(self, prediction, batch):
        found, there = prediction > 0, batch.query_y.bool()
        both, either = ((found & there).flatten(1).sum(1), (found | there).flatten(1).sum(1))
        return {"intersection": both, "union": either}


class Detector(Learner):
    """Boxes: the centre of brightness, with a learned half-width. What is asked is the mean distance of the corners."""

    metric = ("distance", -1)

    def __init__(self):
        super().__init__()
        self.reach = nn.Parameter(torch.tensor(0.5))

    def inner_process(self, support_x, support_y, **_):
        assert support_y["counts"].shape == support_x.shape[:2]
        return {}

    def predict(self, state, query_x):
        weights = (query_x.squeeze(2) - 0.5).clamp_min(0)
        rows = torch.arange(SIZE, dtype=query_x.dtype) + 0.5
        total = weights.sum((-1, -2)).clamp_min(1e-6)
        centre = torch.stack([(weights.sum(-1) * rows).sum(-1) / total, (weights.sum(-2) * rows).sum(-1) / total], -1)
        return {"boxes": torch.cat([centre - self.reach, centre + self.reach], -1)}

    def loss(self, prediction, target):
        return F.l1_loss(prediction["boxes"], target["boxes"][:, :, 0])

    def score(self, prediction, batch):
        return {"distance": (prediction["boxes"] - batch.query_y["boxes"][:, :, 0]).abs().flatten(1).mean(1)}


class Enroller(Learner):
    """Embeddings: enrol once, then verify; the metric is the accuracy of "the same or not" at a learned threshold."""

    metric = Metric("verified")

    def __init__(self):
        super().__init__()
        self.body, self.threshold = nn.Linear(256, 8), nn.Parameter(torch.tensor(0.5))

    def inner_process(self, support_x, support_y, **_):
        return {"enrolled": F.normalize(self.body(support_x.flatten(2)), dim=-1)}

    def predict(self, state, query_x):
        z = F.normalize(self.body(query_x.flatten(2)), dim=-1)
        return 10 * (z @ state["enrolled"].transpose(1, 2) - self.threshold)

    def loss(self, prediction, target):
        return F.binary_cross_entropy_with_logits(prediction, F.one_hot(target, prediction.shape[-1]).to(prediction))

    def score(self, prediction, batch):
        same = F.one_hot(batch.query_y, prediction.shape[-1]).bool()
        return {"verified": ((prediction > 0) == same).double().flatten(1).mean(1)}


class Student(Learner):
    """Classification with a teacher that it holds: the outer loss is the distance to the teacher's logits."""

    def __init__(self, teacher: Learner):
        super().__init__()
        self.teacher = Frozen(teacher)
        self.own = learners.build("prototypical", way=4, size=16, channels=2, seed=1)

    def inner_process(self, support_x, support_y, **_):
        return self.own.adapt(support_x, support_y)

    def predict(self, state, query_x):
        return self.own.predict(state, query_x)

    def outer_process(self, batch, **_):
        logits = self(batch.support_x, batch.support_y, batch.query_x)
        wanted = self.teacher(batch.support_x, batch.support_y, batch.query_x)
        return F.kl_div(logits.log_softmax(-1), wanted.softmax(-1), reduction="batchmean"), logits


def sampler(split="train"):
    return EpisodeSampler(squares(split=split), 4, 1, 3)


KINDS = {
    "values": (Mean, SinusoidSampler(shot=10, query=20), "error", -1),
    "masks": (Segmenter, Scenes("masks"), "IoU", 1),
    "boxes": (Detector, Scenes("boxes"), "distance", -1),
    "embeddings": (Enroller, sampler(), "verified", 1),
    "labels": (lambda: learners.build("prototypical", way=4, size=16, channels=8), sampler(), "accuracy", 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_learner_of_each_kind_trains_is_evaluated_and_compared(kind):
    make, source, name, better = KINDS[kind]
    torch.manual_seed(0)
    learner = make()
    before = evaluate(learner, source, episodes=40)
    settings = {"steps": 60, "tasks": 4, "rate": 3e-2, "seed": 0, "progress": False}
    history = training.train(learner, source, validation=source, validate_every=20, **settings)
    after = evaluate(learner, source, episodes=40)
    assert (after.metric.name, after.metric.better) == (name, better)
    assert better * after.value > better * before.value
    difference = compare(after, before)
    assert difference.difference == pytest.approx(after.value - before.value)
    assert better * difference.difference > difference.ci95
    best = max(history.validations, key=lambda pair: better * pair[1])
    assert history.best_step == best[0]
    assert len(history.values) == 60
    assert name in after.as_json()
    assert (kind in ("labels", "embeddings", "masks")) == ("%" in str(after))
    if name != "accuracy":
        with pytest.raises(CourseError, match=f"holds the metric {name}"):
            _ = after.accuracy


def test_the_worst_tenth_of_an_error_is_the_largest():
    result = evaluate(Mean(), SinusoidSampler(), episodes=40)
    assert result.worst_tenth == pytest.approx(result.per_episode.sort().values[-4:].mean().item())


def test_an_intersection_over_union_is_summed_before_it_is_divided():
    result = evaluate(Segmenter(), Scenes("masks"), episodes=40)
    top, bottom = result.scores["intersection"], result.scores["union"]
    assert result.value == pytest.approx((top.sum() / bottom.sum()).item())
    assert result.value != pytest.approx(result.per_episode.mean().item(), abs=1e-6)


def test_a_teacher_is_held_and_not_trained():
    teacher = learners.build("prototypical", way=4, size=16, channels=8, seed=0)
    kept = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = Student(teacher)
    training.train(student, sampler(), steps=5, tasks=2, rate=1e-2, progress=False)
    student.train()
    assert not any(part.training for part in student.teacher.modules())
    assert all(torch.equal(kept[name], value) for name, value in teacher.state_dict().items())
    assert student.state_dict().keys() > {"teacher.learner.network.blocks.0.conv.weight"}


def test_a_learner_may_augment_its_batches_in_training_only():
    seen = []

    class Noisy(learners.PrototypicalNetwork):
        def augment(self, batch, generator):
            seen.append(batch.tasks)
            noise = torch.rand(batch.query_x.shape, generator=generator)
            return Episode(batch.support_x, batch.support_y, (batch.query_x + noise) / 2, batch.query_y)

    plain = learners.build("prototypical", way=4, size=16, channels=8, seed=0)
    noisy, batch = Noisy(plain.network), sampler().sample(2, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    assert noisy.train().outer_loss(batch, generator=generator)[0] != plain.train().outer_loss(batch)[0]
    noisy.eval().outer_loss(batch)
    evaluate(noisy, sampler(), episodes=3)
    assert seen == [2]


# ------------------------------------------------------------------ what evaluation does not trust


class ByOrder(learners.PixelNeighbours):
    """Answers the labels in the order in which a sampler puts the queries, without looking at them."""

    def predict(self, state, query_x):
        way, asked = state["members"].shape[-1], query_x.shape[1]
        return F.one_hot(torch.arange(way).repeat_interleave(asked // way), way).float().expand(len(query_x), -1, -1)


class ByCompany(learners.PixelNeighbours):
    """Adds to each answer what the mean of all queries looks like."""

    def predict(self, state, query_x):
        return super().predict(state, query_x) + query_x.mean((1, 2, 3, 4)).view(-1, 1, 1) * torch.arange(4.0)


class BySupportOrder(learners.PixelNeighbours):
    """Takes the first support image for class 0, the second for class 1, …, whatever their labels are."""

    def inner_process(self, support_x, support_y, **_):
        return super().inner_process(support_x, torch.arange(4).expand(len(support_x), -1))


def test_the_order_of_queries_and_support_is_worth_nothing():
    honest = evaluate(learners.PixelNeighbours(), sampler(), episodes=100)
    assert honest.accuracy > 0.9
    for cheat in (ByOrder(), BySupportOrder()):
        assert abs(evaluate(cheat, sampler(), episodes=100).accuracy - 0.25) < 0.08
    assert evaluate(ByOrder(), sampler(), episodes=5).transductive


def test_company_is_measured_not_claimed():
    batch = sampler().sample(3, torch.Generator().manual_seed(0))
    assert depends_on_company(ByCompany(), batch)
    assert not depends_on_company(learners.PixelNeighbours(), batch)
    assert evaluate(ByCompany(), sampler(), episodes=5).transductive is True
    assert evaluate(learners.PixelNeighbours(), sampler(), episodes=5).transductive is False
    for normalisation, leaks in (("batch", True), ("support", False), ("group", False)):
        learner = learners.build("maml", way=4, size=16, channels=8, seed=0, normalisation=normalisation)
        assert evaluate(learner, sampler(), episodes=3).transductive is leaks, normalisation


@pytest.mark.parametrize("at_once", [1, 3, 7, 20, 50])
def test_the_same_episodes_whatever_is_answered_at_once(at_once):
    learner = learners.build("prototypical", way=4, size=16, channels=8, seed=0)
    one, other = (evaluate(learner, sampler(), episodes=45, tasks_at_once=n) for n in (20, at_once))
    assert one.digest == other.digest
    assert compare(one, other).difference == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_and_scores_that_are_not_finite_are_an_error(value):
    class Runaway(learners.PixelNeighbours):
        def predict(self, state, query_x):
            return super().predict(state, query_x) * value

    class Undefined(learners.PixelNeighbours):
        def score(self, prediction, batch):
            return {"accuracy": torch.full((batch.tasks,), value)}

    class Short(learners.PixelNeighbours):
        def score(self, prediction, batch):
            return {"accuracy": torch.ones(batch.tasks, 2)}

    for learner, words in (
        (Runaway(), "Runaway's answers are not finite"),
        (Undefined(), r"Undefined\.score gives a 'accuracy' that is not finite"),
        (Short(), "one number per task"),
        (learners.FineTune(learners.build("prototypical", way=4, size=16, channels=8).network, rate=1e8), "not finite"),
    ):
        with pytest.raises(CourseError, match=words):
            evaluate(learner, sampler(), episodes=3)


def test_what_is_no_learner_and_what_are_no_episodes_is_one_line():
    with pytest.raises(CourseError, match="Linear is no learner"):
        evaluate(nn.Linear(2, 2), sampler(), episodes=3)
    with pytest.raises(CourseError, match="Images gives images"):
        evaluate(learners.PixelNeighbours(), training.Images(squares()), episodes=3)


def test_an_episode_of_ones_own_with_more_fields_stays_one():
    @dataclass
    class Named(Episode):
        weights: Tensor = None

    x, y = torch.rand(3, 2, 1, 4, 4), torch.zeros(3, 2).long()
    batch = Named(x, y, x, y, weights=torch.arange(3.0))
    assert batch.task(1).weights.tolist() == [1.0]
    assert type(batch.shuffled(torch.Generator())) is Named


def test_a_learner_in_float64_and_one_without_parameters_are_evaluated():
    for learner in (learners.build("maml", way=4, size=16, channels=4, seed=0).double(), learners.PixelNeighbours()):
        assert evaluate(learner, sampler(), episodes=3).episodes == 3


@pytest.mark.parametrize("inner_steps", [-1, 1.5, True])
def test_steps_that_make_no_sense_give_no_figure(inner_steps):
    with pytest.raises(CourseError, match="inner_steps is"):
        evaluate(learners.build("maml", way=4, size=16, channels=4), sampler(), episodes=3, inner_steps=inner_steps)


@pytest.mark.parametrize("request_", [{"episodes": 0}, {"episodes": 2.5}, {"tasks_at_once": 0}, {"seed": -1}])
def test_requests_that_make_no_sense_are_one_line(request_):
    with pytest.raises(CourseError, match=f"{next(iter(request_))} is"):
        evaluate(learners.PixelNeighbours(), sampler(), **({"episodes": 3} | request_))


# ------------------------------------------------------------------ the training loop


def test_a_finite_loss_with_a_gradient_that_is_not_leaves_weights_and_checkpoint_whole(tmp_path):
    class Root(Learner):
        """The issue's own: from step 3 on the root of 0, whose slope is not finite."""

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))
            self.config = {"method": "root"}

        def inner_process(self, support_x, support_y, **_):
            return {}

        def predict(self, state, query_x):
            return self.w

        def outer_process(self, batch, *, step, **_):
            return (self.w * (0 if step == 3 else 1)).square().sum().sqrt(), self.w

        def metrics(self, prediction, batch):
            return {}

    learner = Root()
    settings = {"steps": 8, "tasks": 2, "rate": 1e-2, "validate_every": 2, "progress": False}
    with pytest.raises(CourseError, match=r"gradient is not.* at step 3; .*of the step before"):
        training.train(learner, sampler(), **settings)
    assert learner.w.isfinite().all()
    run = training.Run(learner, 1e-2, 0, None, {}, 8)
    learner.w.data[0] = math.nan
    run.out = tmp_path
    with pytest.raises(CourseError, match="w is no longer finite"):
        run.checkpoint()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False)])
def test_a_loss_without_a_graph_is_refused(switch):
    class Cut(learners.PrototypicalNetwork):
        def outer_process(self, batch, **how):
            with switch():
                loss, prediction = super().outer_process(batch, **how)
            torch.set_grad_enabled(True)
            return loss.clone(), prediction

    network = learners.build("prototypical", way=4, size=16, channels=8).network
    with pytest.raises(CourseError, match="has no graph"):
        training.train(Cut(network), sampler(), steps=2, tasks=2, progress=False)


def test_what_has_nothing_to_train_is_refused():
    frozen = learners.build("prototypical", way=4, size=16, channels=8).requires_grad_(False)
    with pytest.raises(CourseError, match="no parameter that asks for a gradient"):
        training.train(frozen, sampler(), steps=2, tasks=2, progress=False)


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("method", ["maml", "prototypical"])
def test_accumulated_gradients_are_those_of_the_whole_meta_batch(method, parts):
    gradients = []
    for accumulate in (1, parts):
        learner = learners.build(method, way=4, size=16, channels=4, seed=0, normalisation="group").double()
        run = training.Run(learner, 1e-3, 0, None, {}, 1, lambda p, rate: torch.optim.SGD(p, lr=rate))

        class Doubles:
            def sample(self, tasks, generator):
                return sampler().sample(tasks, generator).to(dtype=torch.float64)

        run.outer_step(Doubles(), 4, accumulate)
        gradients.append(torch.cat([p.grad.flatten() for p in learner.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", lambda p, rate: torch.optim.RMSprop(p, lr=rate)])
def test_any_optimizer_resumes_to_the_same_numbers(tmp_path, optimizer):
    def made():
        return learners.build("prototypical", way=4, size=16, channels=4, seed=0)

    settings = {"tasks": 2, "rate": 1e-3, "validate_every": 3, "optimizer": optimizer, "progress": False}
    settings["schedule"] = "constant"
    whole, torn = made(), made()
    training.train(whole, sampler(), steps=6, **settings)

    class Stop(Exception):
        pass

    class Stopping(EpisodeSampler):
        calls = 0

        def sample(self, tasks, generator):
            Stopping.calls += 1
            if Stopping.calls == 5:
                raise Stop
            return super().sample(tasks, generator)

    with pytest.raises(Stop):
        training.train(torn, Stopping(squares(), 4, 1, 3), steps=6, out=tmp_path / "run", **settings)
    resumed = made()
    training.train(resumed, sampler(), steps=6, out=tmp_path / "run", resume=True, **settings)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    other = "sgd" if optimizer != "sgd" else "adam"
    with pytest.raises(CourseError, match="optimizer"):
        training.train(made(), sampler(), steps=6, out=tmp_path / "run", resume=True, **settings | {"optimizer": other})


def test_settings_of_a_training_that_make_no_sense_are_one_line():
    learner = learners.build("prototypical", way=4, size=16, channels=4, seed=0)
    for wrong, words in {
        "optimizer 'adagrad' is unknown": {"optimizer": "adagrad"},
        "accumulate is 3, more than the 2 tasks": {"accumulate": 3},
        "accumulate is 0": {"accumulate": 0},
        "precision 'int8' is unknown": {"precision": "int8"},
        "precision float16 needs a GPU": {"precision": "float16"},
        "rate is nan": {"rate": math.nan},
        "rate is 0": {"rate": 0},
        "rate is -1": {"rate": -1},
        "steps is 2.0": {"steps": 2.0},
    }.items():
        with pytest.raises(CourseError, match=wrong):
            training.train(learner, sampler(), **{"steps": 2, "tasks": 2, "progress": False} | words)


@pytest.mark.parametrize("method", ["prototypical", "maml", "images"])
def test_a_learner_in_float64_is_trained_on_pictures_in_float32(method):
    if method == "images":
        network = learners.build("prototypical", way=4, size=16, channels=4).network
        learner, source = learners.FineTune(network, classes=12).double(), training.Images(squares())
    else:
        learner, source = learners.build(method, way=4, size=16, channels=4, seed=0).double(), sampler()
    history = training.train(learner, source, steps=3, tasks=2, progress=False)
    assert all(math.isfinite(loss) for loss in history.losses)
    assert all(p.dtype == torch.float64 for p in learner.parameters())


def test_mixed_precision_trains_and_its_parameters_stay_in_float32():
    learner = learners.build("prototypical", way=4, size=16, channels=8, seed=0)
    history = training.train(learner, sampler(), steps=30, tasks=2, rate=1e-2, precision="bfloat16", progress=False)
    assert all(p.dtype == torch.float32 for p in learner.parameters())
    assert sum(history.losses[-5:]) < sum(history.losses[:5])


def test_an_evaluator_of_ones_own_chooses_the_best_step():
    class Smallest:
        """Prefers small weights; the number is a count, no share."""

        def evaluate(self, learner):
            norm = sum(p.square().sum() for p in learner.parameters()).item()
            return SimpleNamespace(metric=Metric("norm", better=-1), value=norm)

    learner = learners.build("prototypical", way=4, size=16, channels=8, seed=0)
    settings = {"steps": 9, "tasks": 2, "rate": 1e-2, "progress": False, "validate_every": 3}
    history = training.train(learner, sampler(), validation=Smallest(), **settings)
    assert history.best_step == min(history.validations, key=lambda pair: pair[1])[0]
    assert Episodes(sampler(), episodes=3).evaluate(learner).metric == ACCURACY


# ------------------------------------------------------------------ episodes


def test_an_episode_with_dict_targets_moves_splits_and_shuffles():
    batch = Scenes("boxes").sample(5, torch.Generator().manual_seed(0))
    half = batch.to(dtype=torch.float64)
    assert half.query_x.dtype == torch.float64
    assert half.query_y["boxes"].dtype == torch.float32
    assert half.query_y["counts"].dtype == torch.int64
    assert [part.tasks for part in batch.split(2)] == [2, 2, 1]
    assert torch.equal(batch.task(3).query_y["boxes"], batch.query_y["boxes"][3:4])
    shuffled = batch.shuffled(torch.Generator().manual_seed(1))
    assert not torch.equal(shuffled.query_x, batch.query_x)
    for task in range(5):
        for index in range(4):
            old = (batch.query_x[task] == shuffled.query_x[task, index]).flatten(1).all(1).nonzero().item()
            assert torch.equal(shuffled.query_y["boxes"][task, index], batch.query_y["boxes"][task, old])


def test_only_images_are_converted_to_another_number_format():
    batch = SinusoidSampler(shot=2, query=3).sample(2, torch.Generator().manual_seed(0)).to(dtype=torch.float64)
    assert batch.query_x.dtype == torch.float64
    assert batch.support_y.dtype == torch.float32, "targets stay as they are: converting them could lose their digits"


@pytest.mark.parametrize(("tasks", "world"), [(8, 1), (8, 2), (7, 3), (4, 4)])
def test_parts_are_disjoint_and_complete(tasks, world):
    batch = sampler().sample(tasks, torch.Generator().manual_seed(0))
    parts = [batch.part(rank, world) for rank in range(world)]
    seen = torch.cat([part.query_index for part in parts])
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, batch.query_index.tolist()))
    with pytest.raises(CourseError, match=f"rank {world} does not exist"):
        batch.part(world, world)


def test_more_processes_than_tasks_are_refused():
    with pytest.raises(CourseError, match="2 tasks are fewer than 3 processes"):
        sampler().sample(2, torch.Generator().manual_seed(0)).part(0, 3)


def test_targets_that_do_not_belong_to_the_images_are_refused():
    x = torch.rand(2, 3, 1, 4, 4)
    batch = Episode(x, torch.zeros(2, 3).long(), x, torch.zeros(2, 4).long())
    with pytest.raises(CourseError, match="query_y has the shape"):
        batch.shuffled(torch.Generator())


# ------------------------------------------------------------------ learners of one's own


def test_what_a_learner_must_define_is_abstract():
    class Nothing(Learner):
        pass

    class OnlyPredict(Learner):
        def predict(self, state, query_x):
            return query_x

    class AllOfAdapt(Learner):
        def adapt(self, support_x, support_y, *, inner_steps=None, generator=None):
            return {"mean": support_x.flatten(2).mean(1)}

        def predict(self, state, query_x):
            return torch.zeros(*query_x.shape[:2], 4)

    for wrong in (Nothing, OnlyPredict):
        with pytest.raises(TypeError, match="abstract"):
            wrong()
    assert evaluate(AllOfAdapt(), sampler(), episodes=3).accuracy == pytest.approx(0.25)


def test_a_target_of_another_shape_is_no_broadcast():
    prediction, target = torch.zeros(2, 3, 1), torch.zeros(2, 3)
    with pytest.raises(CourseError, match="give targets"):
        Mean().loss(prediction, target)
    assert isinstance(Mean().loss(prediction, prediction), Tensor)


# ------------------------------------------------------------------ more that evaluation does not trust


def test_predictions_of_another_shape_are_no_broadcast():
    class Flat(Mean):
        def inner_process(self, support_x, support_y, **_):
            return {"mean": support_y.mean(1)}

        def predict(self, state, query_x):
            return state["mean"].expand(query_x.shape[:2])

    class OneTask(learners.PixelNeighbours):
        def predict(self, state, query_x):
            return super().predict(state, query_x)[:1]

    for learner, source in ((Flat(), SinusoidSampler(query=20)), (OneTask(), sampler())):
        with pytest.raises(CourseError, match=r"predicts .* for targets"):
            evaluate(learner, source, episodes=10)


@pytest.mark.parametrize("shift", [1e6, -1e9])
def test_company_is_found_beside_large_constants(shift):
    class Shifted(ByCompany):
        def predict(self, state, query_x):
            logits = super().predict(state, query_x).double()
            return torch.cat([logits, torch.full_like(logits[..., :1], shift)], -1)

    class Remembers(learners.PixelNeighbours):
        def predict(self, state, query_x):
            if "mean" not in state:
                state["mean"] = query_x.mean(1, keepdim=True)
            return super().predict(state, query_x - state["mean"])

    batch = sampler().sample(2, torch.Generator().manual_seed(0))
    assert depends_on_company(Shifted(), batch)
    assert depends_on_company(Remembers(), batch)


def test_a_learner_that_changes_while_it_is_evaluated_is_refused_and_given_its_values_back():
    class Counts(learners.PixelNeighbours):
        def __init__(self):
            super().__init__()
            self.register_buffer("asked", torch.zeros(()))

        def predict(self, state, query_x):
            self.asked += query_x.shape[1]
            return super().predict(state, query_x)

    learner = Counts()
    with pytest.raises(CourseError, match="Counts changes asked while it is evaluated"):
        evaluate(learner, sampler(), episodes=3)
    assert learner.asked == 0


def test_draws_of_a_learner_follow_from_the_seed_and_leave_the_global_generator_alone():
    class Draws(learners.PixelNeighbours):
        def predict(self, state, query_x):
            return torch.rand(*query_x.shape[:2], 4)

    before = torch.random.get_rng_state()
    one, two = (evaluate(Draws(), sampler(), episodes=30).accuracy for _ in range(2))
    assert one == two
    assert evaluate(Draws(), sampler(), episodes=30, seed=1).accuracy != one
    assert torch.equal(torch.random.get_rng_state(), before)


def test_dropout_in_training_follows_from_the_seed_and_resumes():
    def made():
        torch.manual_seed(0)
        return learners.PrototypicalNetwork(nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.Dropout(0.5)))

    histories = []
    for _ in range(2):
        torch.rand(3)  # the global generator stands elsewhere
        histories.append(training.train(made(), sampler(), steps=4, tasks=2, seed=0, progress=False).losses)
    assert histories[0] == histories[1]


def test_disjoint_classes_of_one_name_make_no_pair():
    data = squares()
    sources = [EpisodeSampler(data.select(part), 4, 1, 3) for part in (range(6), range(6, 12))]
    one, other = (evaluate(learners.PixelNeighbours(), source, episodes=5) for source in sources)
    with pytest.raises(CourseError, match="other pictures were drawn"):
        compare(one, other)


def test_groups_of_parameters_keep_their_own_rates():
    learner = learners.build("prototypical", way=4, size=16, channels=4, seed=0)
    first, *others = learner.parameters()
    kept = [p.detach().clone() for p in others]

    def make(parameters, rate):
        return torch.optim.SGD([{"params": [first], "lr": rate}, {"params": others, "lr": 0.0}], lr=rate)

    training.train(learner, sampler(), steps=3, tasks=2, rate=0.1, optimizer=make, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(kept, others, strict=True))


def test_a_layer_under_two_names_is_saved(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)
            self.b = self.a

    from mlcourse import files

    module = Twice()
    files.save_tensors(tmp_path / "twice.safetensors", module.state_dict())
    loaded, _ = files.load_tensors(tmp_path / "twice.safetensors")
    assert torch.equal(loaded["a.weight"], loaded["b.weight"])


# ------------------------------------------------------------------ other tasks, inner steps, ratios


class BySupports(learners.PixelNeighbours):
    """Takes the mean of all support images of all tasks away from each image."""

    def inner_process(self, support_x, support_y, **_):
        self.mean = support_x.mean((0, 1))
        return super().inner_process(support_x - self.mean * 3, support_y)


class ByNeighbour(learners.PixelNeighbours):
    """Adds to each answer something of the queries of all tasks."""

    def predict(self, state, query_x):
        return super().predict(state, query_x) + query_x.mean() * torch.arange(4.0)


class BySize(learners.PixelNeighbours):
    """Answers otherwise when more than one task is there."""

    def predict(self, state, query_x):
        return super().predict(state, query_x) * (1.0 if len(query_x) == 1 else torch.arange(4.0))


class OnlyMany(learners.PixelNeighbours):
    def predict(self, state, query_x):
        if len(query_x) == 1:
            raise CourseError("one task is not enough")
        return super().predict(state, query_x)


@pytest.mark.parametrize("mixing", [BySupports, ByNeighbour, BySize, OnlyMany])
def test_a_learner_that_answers_a_task_by_other_tasks_is_refused(mixing):
    learner = mixing()
    with pytest.raises(CourseError, match=rf"{mixing.__name__} answers a task otherwise beside other.*tasks_at_once"):
        evaluate(learner, sampler(), episodes=5)
    learner.mixes_tasks = True  # on purpose
    assert evaluate(learner, sampler(), episodes=5).episodes == 5
    if mixing is not OnlyMany:  # each task alone: nothing is mixed
        assert evaluate(mixing(), sampler(), episodes=3, tasks_at_once=1).episodes == 3


class Drawing(learners.PixelNeighbours):
    """Adds noise, other noise each time."""

    def predict(self, state, query_x):
        answers = super().predict(state, query_x)
        return answers + 0.1 * torch.randn_like(answers)


def test_tasks_that_are_answered_by_themselves_are_not_refused():
    batch = sampler().sample(3, torch.Generator().manual_seed(0))
    for learner in (learners.PixelNeighbours(), Drawing(), ByCompany()):
        assert not depends_on_other_tasks(learner, batch)
    for normalisation in ("batch", "support", "group"):
        for one_by_one in (True, False):
            learner = learners.build(
                "maml", way=4, size=16, channels=8, seed=0, normalisation=normalisation, one_by_one=one_by_one
            )
            assert not depends_on_other_tasks(learner, batch), normalisation
            # 30 large steps blow rounding up
            assert not depends_on_other_tasks(learner, batch, inner_steps=30), normalisation
    assert not depends_on_other_tasks(learners.PixelNeighbours(), batch.some(slice(0, 1)))
    assert not depends_on_other_tasks(Mean(), SinusoidSampler(shot=5, query=5).sample(2, torch.Generator()))


def test_looking_at_the_tasks_costs_no_draw():
    learner = Drawing()
    whole = evaluate(learner, sampler(), episodes=40).per_episode
    learner.mixes_tasks = True
    assert torch.equal(evaluate(learner, sampler(), episodes=40).per_episode, whole)


class Wrapped(Learner):
    """Hands everything on to another learner."""

    def __init__(self, learner):
        super().__init__()
        self.learner = learner

    def inner_process(self, support_x, support_y, **settings):
        return self.learner.adapt(support_x, support_y, **settings)

    def predict(self, state, query_x):
        return self.learner.predict(state, query_x)


class OldWay(learners.PixelNeighbours):
    """All of adapt, without a word of steps."""

    def adapt(self, support_x, support_y):
        return super().inner_process(support_x, support_y)


def test_inner_steps_are_for_learners_that_have_them():
    maml = learners.build("maml", way=4, size=16, channels=4, seed=0, inner_rate=1.0).eval()
    none, many = (evaluate(maml, sampler(), episodes=20, inner_steps=n) for n in (0, 5))
    assert many.accuracy > none.accuracy + 0.1
    assert torch.equal(evaluate(Wrapped(maml), sampler(), episodes=20, inner_steps=5).per_episode, many.per_episode)
    assert evaluate(OldWay(), sampler(), episodes=3).episodes == 3
    prototypes = learners.build("prototypical", way=4, size=16, channels=4, seed=0)
    for learner in (learners.PixelNeighbours(), prototypes, Wrapped(prototypes), OldWay()):
        with pytest.raises(CourseError, match="has no inner steps to choose; leave inner_steps out"):
            evaluate(learner, sampler(), episodes=3, inner_steps=2)
    batch = sampler().sample(1, torch.Generator())
    with pytest.raises(CourseError, match="PrototypicalNetwork has no inner steps"):
        prototypes.adapt(batch.support_x, batch.support_y, inner_steps=2)


class Uneven:
    """Scenes whose squares are large in the first task and small in the others: a mean of ratios is another number."""

    gives = "episodes"

    def sample(self, tasks: int, generator: torch.Generator) -> Episode:
        batch = Scenes("masks").sample(tasks, generator)
        batch.query_y[0, :, : SIZE - 2] = 1
        return batch


@pytest.mark.parametrize("tasks", [4, 5])
def test_ratios_of_parts_are_summed_before_they_are_divided(tasks):
    logged = []
    for accumulate in (1, 2, tasks):
        torch.manual_seed(0)
        history = training.train(
            Segmenter(), Uneven(), steps=3, tasks=tasks, rate=1e-9, accumulate=accumulate, progress=False
        )
        logged.append(history.values)
    assert logged[0] == pytest.approx(logged[1], rel=1e-9)
    assert logged[0] == pytest.approx(logged[2], rel=1e-9)
    parts = [Ratio(1, 2), Ratio(9, 10)]
    assert Ratio.of_sums(parts) == pytest.approx(10 / 12)
    assert math.isnan(Ratio(0, 0))
    assert copy.deepcopy(parts[1]).bottom == 10


def test_what_cannot_be_taken_in_parts_says_so():
    class Plain:
        def sample(self, tasks, generator):
            return {"x": torch.zeros(tasks, 2)}

    with pytest.raises(CourseError, match="a batch of type dict cannot be taken in parts; leave accumulate at 1"):
        training.train(Mean(), Plain(), steps=2, tasks=2, accumulate=2, progress=False)


def test_logits_for_fewer_classes_than_the_tasks_have_are_refused():
    """The missing class could never be named: the accuracy would be too low, and nobody would know why."""
    learner = learners.MAML(nn.Sequential(nn.Flatten(), nn.Linear(256, 4)), inner_steps=0)
    assert evaluate(learner, EpisodeSampler(squares(), 4, 1, 2), episodes=2).episodes == 2
    prediction = torch.zeros(2, 10, 4)
    batch = EpisodeSampler(squares(), 5, 1, 2).sample(2, torch.Generator().manual_seed(0))
    with pytest.raises(CourseError, match=r"MAML predicts 4 logits, but a query is of class number 4 .counted from 0"):
        learner.score(prediction, batch)


class Leaks(EpisodeSampler):
    """Asks about the pictures of the support set: whoever remembers them is always right."""

    def sample(self, tasks, generator):
        one = super().sample(tasks, generator)
        return Episode(
            one.support_x,
            one.support_y,
            one.support_x,
            one.support_y,
            one.classes,
            one.support_index,
            one.support_index,
        )


def test_queries_that_are_support_pictures_are_refused():
    learner = learners.build("prototypical", way=4, size=16, channels=4, seed=0)
    with pytest.raises(CourseError, match="a query of a task is one of its support pictures"):
        evaluate(learner, Leaks(squares(), 4, 1, 2), episodes=2)


def test_labels_below_0_are_refused():
    learner = learners.build("prototypical", way=4, size=16, channels=4, seed=0)
    batch = EpisodeSampler(squares(), 4, 1, 2).sample(2, torch.Generator().manual_seed(0))
    batch.query_y[0, 0] = -100  # cross-entropy would leave it out, and say nothing
    with pytest.raises(CourseError, match="a query is of class number -100"):
        learner.outer_loss(batch)
