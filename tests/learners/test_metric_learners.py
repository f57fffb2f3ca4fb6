"""Learners that compare: each against a plain loop or a closed form, and what must not change an answer."""

import json
import math
from dataclasses import replace

import pytest
import torch
from core_helpers import Fixed, Smooth, flat_gradient, loss_at, random_episode, squares
from torch.nn import functional as F

import mlcourse
from mlcourse import learners, training
from mlcourse.commands import app
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.evaluation import evaluate
from mlcourse.learners import R2D2, MatchingNetwork, PrototypicalNetwork, RelationNetwork
from mlcourse.learners.metric import MetricLearner, cosines
from mlcourse.learners.ridge import ridge
from mlcourse.networks import Conv4
from mlcourse.teaching.oracles import gradient_error

F64 = torch.float64
LEARNERS = [
    ("prototypical", {}),
    ("cosine-prototypical", {}),
    ("matching", {}),
    ("matching", {"temperature": 0.1, "learned": True, "normalisation": "group"}),
    ("relation", {}),
    ("relation", {"normalisation": "none", "downsample": "pool"}),
    ("r2d2", {}),
    ("r2d2", {"normalisation": "group"}),
]
each = pytest.mark.parametrize(("method", "options"), LEARNERS)


def made(method, dtype=F64, **options):
    """A learner whose running statistics are of pictures: those that it starts with do nothing."""
    learner = learners.build(method, way=5, size=16, seed=0, **({"channels": 8} | options)).to(dtype)
    seen = random_episode(tasks=4, way=5, size=16, seed=9)
    seen.support_x, seen.query_x = seen.support_x.to(dtype), seen.query_x.to(dtype)
    with torch.no_grad():
        for _ in range(20):
            learner.outer_loss(seen)
    return learner.eval()


def episode(way=5, shot=2, query=3, tasks=2, seed=0):
    return random_episode(tasks=tasks, way=way, shot=shot, query=query, size=16, seed=seed)


def embedded(learner, batch):
    """The embeddings of both sets, [tasks, images, …] each."""
    with torch.no_grad():
        return learner.embed(batch.support_x), learner.embed(batch.query_x)


# ------------------------------------------------------------------ ridge regression


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize(("n", "size"), [(6, 20), (20, 6), (1, 3), (5, 5)])
@pytest.mark.parametrize("lam", [1e-3, 0.7, 30.0])
def test_ridge_is_the_closed_form_and_the_minimum(n, size, lam):
    x, y = numbers(3, n, size), numbers(3, n, 4, seed=1)
    w = ridge(x, y, lam)
    assert w.shape == (3, size, 4)
    primal = torch.linalg.solve(x.mT @ x + lam * torch.eye(size, dtype=F64), x.mT @ y)
    torch.testing.assert_close(w, primal, rtol=1e-9, atol=1e-10)
    slope = 2 * x.mT @ (x @ w - y) + 2 * lam * w  # of ‖XW − Y‖² + λ‖W‖²
    assert slope.abs().max() < 1e-9
    torch.testing.assert_close(ridge(x[1], y[1], lam), w[1], rtol=1e-9, atol=1e-10)  # one task without a batch


def test_each_task_may_have_a_strength_of_its_own():
    x, y, lam = numbers(3, 4, 7), numbers(3, 4, 2, seed=1), torch.tensor([0.1, 1.0, 10.0], dtype=F64)
    for task in range(3):
        torch.testing.assert_close(ridge(x, y, lam)[task], ridge(x[task], y[task], lam[task]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("n", "size"), [(5, 9), (9, 5)])
def test_the_gradient_of_ridge_equals_richardson_differences(n, size):
    x, y, lam, v = numbers(2, n, size), numbers(2, n, 3, seed=1), torch.tensor(0.4, dtype=F64), numbers(2, size, 3)

    def f(flat):
        a, b, c = flat.split([x.numel(), y.numel(), 1])
        return (v * ridge(a.view_as(x), b.view_as(y), c.squeeze())).sum()

    for where in ("all", "x", "lam"):
        start = torch.cat([x.flatten(), y.flatten(), lam.view(1)])
        chosen = {"all": slice(None), "x": slice(0, x.numel()), "lam": slice(-1, None)}[where]

        def g(part, start=start, chosen=chosen):
            flat = start.clone()
            flat[chosen] = part
            return f(flat)

        part = start[chosen].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(g(part), part)
        assert gradient_error(g, part.detach(), gradient, torch.Generator().manual_seed(1)) < 1e-8


@pytest.mark.parametrize("lam", [0.0, -0.5, torch.tensor([1.0, -2.0])])
def test_ridge_refuses_a_strength_that_is_not_positive(lam):
    with pytest.raises(CourseError, match=r"λ is (0|-0\.5|-2); ridge regression needs a λ above 0"):
        ridge(torch.rand(2, 3, 4), torch.rand(2, 3, 2), lam)


def test_r2d2_is_ridge_regression_on_one_hot_labels_then_scale_and_bias():
    learner, batch = made("r2d2", strength=0.3, scale=4.0), episode()
    with torch.no_grad():
        learner.bias += 0.25
    support, query = embedded(learner, batch)
    assert learner.log_strength.exp().item() == pytest.approx(0.3)
    y = F.one_hot(batch.support_y, 5).double()
    eye = learner.log_strength.exp() * torch.eye(support.shape[-1], dtype=F64)
    w = torch.linalg.solve(support.mT @ support + eye, support.mT @ y)
    expected = learner.log_scale.exp() * query @ w + 0.25
    torch.testing.assert_close(learner(batch.support_x, batch.support_y, batch.query_x), expected, rtol=1e-9, atol=1e-9)


def test_r2d2s_strength_stays_positive_whatever_the_optimizer_does():
    learner = made("r2d2", strength=1e-3)
    optimizer = torch.optim.SGD([learner.log_strength], lr=1.0)
    for _ in range(50):
        learner.log_strength.grad = torch.ones_like(learner.log_strength)
        optimizer.step()
    assert learner.log_strength.exp() > 0


def test_r2d2s_bias_changes_no_probability():
    learner = made("r2d2").train()
    loss, _ = learner.outer_loss(episode())
    loss.backward()
    assert abs(learner.bias.grad.item()) < 1e-12
    assert min(abs(learner.log_scale.grad.item()), abs(learner.log_strength.grad.item())) > 1e-6


# ------------------------------------------------------------------ the others against plain loops


@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_matching_equals_the_papers_sum_written_as_a_loop(temperature):
    learner, batch = made("matching", temperature=temperature), episode(shot=3)
    support, query = embedded(learner, batch)
    logits = learner(batch.support_x, batch.support_y, batch.query_x)
    for task in range(2):
        for q, place in zip(query[task], logits[task], strict=True):
            cosine = [float(q @ s / (q.norm() * s.norm())) / temperature for s in support[task]]
            total = sum(math.exp(c) for c in cosine)
            expected = torch.zeros(5, dtype=F64)
            for c, label in zip(cosine, batch.support_y[task], strict=True):
                expected[label] += math.exp(c) / total
            torch.testing.assert_close(place.exp(), expected, rtol=1e-6, atol=1e-12)


def test_matching_gives_probabilities_and_is_finite_at_any_temperature():
    batch = episode()
    for temperature in (1.0, 1e-4):
        logits = made("matching", temperature=temperature)(batch.support_x, batch.support_y, batch.query_x)
        assert logits.isfinite().all()
        torch.testing.assert_close(logits.exp().sum(-1), torch.ones(2, 15, dtype=F64))


def test_matching_with_one_image_a_class_is_cosine_prototypes():
    batch = episode(shot=1)
    matching, cosine = made("matching", temperature=0.1), made("cosine-prototypical", temperature=0.1)
    logits = [one(batch.support_x, batch.support_y, batch.query_x) for one in (matching, cosine)]
    torch.testing.assert_close(logits[0], logits[1].log_softmax(-1))


def test_only_a_learned_temperature_is_learned():
    batch = episode()
    for learned in (False, True):
        learner = made("matching", learned=learned).train()
        learner.outer_loss(batch)[0].backward()
        assert learner.log_temperature.requires_grad is learned
        assert (learner.log_temperature.grad is not None) is learned


def test_cosine_prototypes_equal_a_loop():
    learner, batch = made("cosine-prototypical", temperature=0.2), episode(shot=3)
    support, query = embedded(learner, batch)
    logits = learner(batch.support_x, batch.support_y, batch.query_x)
    for task in range(2):
        for k in range(5):
            c = sum(z for z, y in zip(support[task], batch.support_y[task], strict=True) if y == k) / 3
            for q, place in zip(query[task], logits[task], strict=True):
                assert place[k].item() == pytest.approx(float(q @ c / (q.norm() * c.norm())) / 0.2, rel=1e-6)


def test_a_zero_embedding_has_cosine_zero_and_a_finite_gradient():
    z = torch.zeros(1, 2, 3, dtype=F64, requires_grad=True)
    found = cosines(z, torch.ones(1, 1, 3, dtype=F64))
    found.sum().backward()
    assert not found.any()
    assert z.grad.isfinite().all()


def test_prototypes_are_a_linear_layer():
    """−‖z − v‖² = 2v·z − ‖v‖² − ‖z‖²: weights 2v, bias −‖v‖², and a number that is the same for all classes."""
    learner, batch = made("prototypical"), episode()
    _, query = embedded(learner, batch)
    state = learner.adapt(batch.support_x, batch.support_y)
    v = state["prototypes"]
    linear = query @ (2 * v).mT - v.square().sum(-1).unsqueeze(1)
    logits = learner.predict(state, batch.query_x)
    torch.testing.assert_close(logits, linear - query.square().sum(-1, keepdim=True))
    torch.testing.assert_close(logits.softmax(-1), linear.softmax(-1))


@pytest.mark.parametrize("options", [{}, {"downsample": "pool"}, {"normalisation": "group"}])
def test_relation_scores_are_those_of_summed_maps_set_side_by_side_in_a_loop(options):
    learner, batch = made("relation", **options), episode(shot=2)
    maps, queries = embedded(learner, batch)
    assert maps.shape == (2, 10, 8, 4, 4)
    scores = learner(batch.support_x, batch.support_y, batch.query_x)
    g = learner.relation
    for task in range(2):
        for k in range(5):
            of_class = sum(m for m, y in zip(maps[task], batch.support_y[task], strict=True) if y == k)
            for q, place in zip(queries[task], scores[task], strict=True):
                x = g.second(g.first(torch.cat([of_class, q]).unsqueeze(0)))
                expected = torch.sigmoid(g.outer(F.relu(g.inner(x.flatten(1)))))
                assert place[k].item() == pytest.approx(expected.item(), rel=1e-9)


def test_relation_loss_is_the_mean_squared_error_of_scores():
    scores, target = torch.tensor([[[0.9, 0.2], [0.4, 0.5]]]), torch.tensor([[0, 1]])
    loss = made("relation").loss(scores, target)
    assert loss.item() == pytest.approx((0.1**2 + 0.2**2 + 0.4**2 + 0.5**2) / 4)


def test_relation_scores_lie_between_0_and_1():
    batch = episode()
    scores = made("relation")(batch.support_x, batch.support_y, batch.query_x)
    assert 0 < scores.min() < scores.max() < 1


# ------------------------------------------------------------------ gradients


def smooth_learners():
    torch.manual_seed(0)
    for cls, options in (
        (PrototypicalNetwork, {"distance": "cosine"}),
        (MatchingNetwork, {"temperature": 0.5, "learned": True}),
        (R2D2, {"strength": 0.3}),
    ):
        network = Smooth("group")
        network.head = torch.nn.Identity()
        yield cls(network.double(), **options).double()


@pytest.mark.parametrize("index", range(3))
def test_the_gradient_of_the_outer_loss_equals_richardson_differences(index):
    learner = list(smooth_learners())[index]
    batch = random_episode(tasks=2)
    f, theta = loss_at(learner, batch)
    learner.outer_loss(batch)[0].backward()
    assert gradient_error(f, theta, flat_gradient(learner), torch.Generator().manual_seed(1)) < 1e-8


@each
def test_every_outer_parameter_gets_a_gradient(method, options):
    learner = made(method, **options).train()
    learner.outer_loss(episode())[0].backward()
    without = {name for name, p in learner.named_parameters() if p.requires_grad and not p.grad.any()}
    assert without <= {"bias"}  # R2-D2's β, which may round to 0


# ------------------------------------------------------------------ what must not matter, and what must


@each
def test_other_queries_change_no_answer(method, options):
    learner, batch = made(method, **options), episode()
    order = torch.randperm(15, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        state = learner.adapt(batch.support_x, batch.support_y)
        plain = learner.predict(state, batch.query_x)
        moved = learner.predict(state, batch.query_x[:, order])
        fewer = learner.predict(state, batch.query_x[:, 4:5])
        more = learner.predict(state, torch.cat([batch.query_x, 9 * episode(seed=5).query_x], 1))
    torch.testing.assert_close(moved, plain[:, order], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(fewer, plain[:, 4:5], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(more[:, :15], plain, rtol=1e-10, atol=1e-10)


@each
def test_relabelling_permutes_and_the_order_of_the_support_set_does_not_matter(method, options):
    learner, batch = made(method, **options), episode()
    names, order = torch.tensor([3, 1, 4, 0, 2]), torch.randperm(10, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = learner(batch.support_x, batch.support_y, batch.query_x)
        renamed = learner(batch.support_x, names[batch.support_y], batch.query_x)
        moved = learner(batch.support_x[:, order], batch.support_y[:, order], batch.query_x)
    torch.testing.assert_close(renamed[..., names], plain, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved, plain, rtol=1e-9, atol=1e-9)
    assert (plain[..., 0] - plain[..., 1]).abs().max() > 1e-6  # or the test says nothing


@each
def test_tasks_do_not_see_each_other_and_adapting_changes_nothing(method, options):
    learner, batch = made(method, **options), episode(tasks=3)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    answers = []
    for mode in (False, True):  # in training mode, too
        learner.train(mode)
        together = learner(batch.support_x, batch.support_y, batch.query_x)
        one = batch.task(1)
        alone = learner(one.support_x, one.support_y, one.query_x)
        torch.testing.assert_close(alone, together[1:2], rtol=1e-10, atol=1e-10)
        assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())
        assert all(part.training is mode for part in learner.modules())
        answers.append(together)
    assert torch.equal(*answers)


@pytest.mark.parametrize("method", ["relation", "r2d2"])
def test_only_the_outer_loss_in_training_mode_updates_the_running_statistics(method):
    learner, batch = made(method), episode()
    for mode in (False, True):
        learner.train(mode)
        before = {name: value.clone() for name, value in learner.named_buffers()}
        learner.outer_loss(batch)
        changed = [not torch.equal(before[name], value) for name, value in learner.named_buffers()]
        assert all(changed) if mode else not any(changed)


@each
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_way_and_shots_come_from_the_labels_and_may_be_uneven(method, options, dtype):
    learner = made(method, dtype, **options)
    for way, shot in ((1, 1), (2, 7), (8, 1)):
        batch = episode(way=way, shot=shot)
        logits = learner(batch.support_x.to(dtype), batch.support_y, batch.query_x.to(dtype))
        assert logits.shape == (2, 3 * way, way)
        assert logits.dtype == dtype
        assert logits.isfinite().all()
    batch = episode(way=3, shot=2)
    uneven = torch.tensor([[0, 0, 0, 1, 2, 2], [2, 1, 1, 1, 1, 0]])
    logits = learner(batch.support_x.to(dtype), uneven, batch.query_x.to(dtype))
    assert logits.shape == (2, 9, 3)
    assert logits.isfinite().all()


@each
def test_one_class_is_always_right_and_its_loss_has_a_gradient(method, options):
    learner = made(method, **options).train()
    loss, metrics = learner.outer_loss(episode(way=1))
    loss.backward()
    assert metrics == {"accuracy": 1.0}
    assert (loss.item() == pytest.approx(0, abs=1e-12)) == (method != "relation")  # whose score is not yet 1
    assert all(p.grad.isfinite().all() for p in learner.parameters() if p.requires_grad)


@each
def test_a_class_without_an_image_is_an_error(method, options):
    learner, batch = made(method, **options), episode(way=3, shot=1)
    with pytest.raises(CourseError, match="no image of some class below 3"):
        learner.adapt(batch.support_x, torch.tensor([[0, 1, 2], [0, 2, 2]]))


@each
def test_answers_that_are_not_finite_are_an_error_in_evaluation_and_a_loss_in_training(method, options):
    learner, batch = made(method, **options), episode()
    bad = batch.query_x.clone()
    bad[0, 0, 0, 5, 5] = float("nan")
    for spoilt in ({"query_x": bad}, {"support_x": batch.support_x * float("nan")}):
        with pytest.raises(CourseError, match=rf"{type(learner).__name__}'s answers are not finite"):
            evaluate(learner, Fixed(replace(batch, **spoilt)), episodes=1)
    batch.support_x = batch.support_x * float("nan")
    assert not learner.train().outer_loss(batch)[0].isfinite()  # which training refuses, and says so


@pytest.mark.parametrize("method", ["prototypical", "cosine-prototypical", "matching", "r2d2"])
def test_more_shots_make_better_answers(method):
    """The pictures are noisy, and nothing was trained: with eight of each class there is less noise than with one."""
    learner = made(method, torch.float32)
    one, eight = (evaluate(learner, EpisodeSampler(squares(), 5, shot, 8), episodes=60).accuracy for shot in (1, 8))
    assert eight > one + 0.02


# ------------------------------------------------------------------ options and files


@each
def test_saved_learners_come_back(tmp_path, method, options):
    learner, batch = made(method, torch.float32, **options), episode()
    x, q = batch.support_x.float(), batch.query_x.float()
    with torch.no_grad():
        for value in learner.parameters():
            value += 0.05 * torch.rand(value.shape, generator=torch.Generator().manual_seed(1))
        learners.save(learner, tmp_path / "run")
        got = mlcourse.load(tmp_path / "run")
        assert torch.equal(got(x, batch.support_y, q), learner(x, batch.support_y, q))
    assert got.config == learner.config


def test_a_prototypical_network_from_before_there_were_distances_loads_and_answers_as_it_did(tmp_path):
    learner, batch = made("prototypical", torch.float32), episode()
    assert not [name for name in learner.state_dict() if not name.startswith("network.")]
    learners.save(learner, tmp_path)
    config = mlcourse.files.read_json(tmp_path / "config.json")
    config["learner"]["options"] = {"channels": 8, "normalisation": "running", "downsample": "stride"}  # all it had
    mlcourse.files.write_json(tmp_path / "config.json", config)
    loaded = mlcourse.load(tmp_path)
    assert loaded.distance == "euclidean"
    x, q = batch.support_x.float(), batch.query_x.float()
    assert torch.equal(loaded(x, batch.support_y, q), learner(x, batch.support_y, q))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("prototypical", {"distance": "taxi"}, "distance 'taxi' is unknown; use one of euclidean, cosine"),
        ("prototypical", {"distance": "cosine", "temperature": 0.0}, "temperature is 0.0; give a finite number above"),
        ("matching", {"temperature": -1.0}, "temperature is -1.0"),
        ("matching", {"temperature": math.nan}, "temperature is nan"),
        ("r2d2", {"strength": 0.0}, "strength is 0.0"),
        ("r2d2", {"scale": math.inf}, "scale is inf"),
        ("relation", {"hidden": 0}, "hidden is 0"),
        ("relation", {"halvings": 4}, "maps of 1 × 1 vanish in two poolings"),
        ("relation", {"halvings": 5}, "halvings is 5; of the four blocks 0 to 4"),
        ("relation", {"normalisation": "batch"}, "'batch' does not fit RelationNetwork"),
        ("r2d2", {"normalisation": "support"}, "'support' does not fit R2D2"),
    ],
)
def test_bad_options_are_named(method, options, message):
    with pytest.raises(CourseError, match=message):
        made(method, **options)


def test_the_base_class_says_what_a_subclass_must_define():
    with pytest.raises(TypeError, match="abstract methods compare, keep"):
        MetricLearner(Conv4(size=16, channels=8, normalisation="running"))


# ------------------------------------------------------------------ maps of Conv-4


@pytest.mark.parametrize(
    ("downsample", "halvings", "size", "edge"),
    [("stride", 4, 28, 2), ("stride", 2, 28, 7), ("pool", 4, 28, 1), ("pool", 2, 28, 7), ("pool", 0, 9, 9)],
)
def test_conv4_hands_on_its_maps(downsample, halvings, size, edge):
    network = Conv4(size=size, channels=8, normalisation="none", downsample=downsample, halvings=halvings)
    x = torch.rand(3, 1, size, size)
    maps = network.features(x)
    assert maps.shape[1:] == network.feature_shape == (8, edge, edge)
    assert network.embedding_size == 8 * edge * edge
    assert torch.equal(network(x), maps.flatten(1))


def test_images_that_vanish_in_the_poolings_are_named():
    with pytest.raises(CourseError, match=r"size 15 vanish in 4 poolings; use 16 or more, or downsample='stride'"):
        Conv4(size=15)
    Conv4(size=15, halvings=2)


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("method", ["prototypical", "cosine-prototypical", "matching", "relation", "r2d2"])
def test_a_few_steps_teach_it_something_about_unseen_classes(method):
    """Trained on eight ways, evaluated on five, of other classes."""
    data = squares(classes=13)
    known, unseen = data.select(range(8)), data.select(range(8, 13))
    learner = learners.build(method, way=5, size=16, channels=16, seed=0)
    before = evaluate(learner, EpisodeSampler(unseen, 5, 1, 5), episodes=60).accuracy
    training.train(learner, EpisodeSampler(known, 8, 1, 5), steps=60, tasks=1, rate=5e-3, seed=0, progress=False)
    after = evaluate(learner, EpisodeSampler(unseen, 5, 1, 5), episodes=60).accuracy
    assert after > before + 0.05
    assert after > 0.5


@pytest.mark.parametrize("method", ["cosine-prototypical", "matching", "relation", "r2d2"])
def test_the_commands_train_and_evaluate_it(tmp_path, method, capsys):
    out = str(tmp_path / "run")
    app(["train", method, "--recipe", "smoke", "--out", out], standalone_mode=False)
    capsys.readouterr()
    app(["evaluate", out, "--episodes", "10", "--query", "3", "--json"], standalone_mode=False)
    result = json.loads(capsys.readouterr().out)
    assert 0.1 < result["accuracy"] <= 1
    assert (result["normalisation"], result["transductive"]) == ("running", False)
    assert result["trained"]["train_way"] > result["way"] == 5


@pytest.mark.parametrize("method", ["cosine-prototypical", "matching", "relation", "r2d2"])
def test_recipes_train_with_more_ways_than_they_are_tested_with(method):
    for recipe in ("smoke", "short"):
        assert learners.recipe(method, recipe).train_way > 5
    assert not learners.METHODS[method].head


def test_the_public_names_are_the_classes():
    assert type(made("relation")) is RelationNetwork
    assert type(made("matching")) is MatchingNetwork
    assert type(made("r2d2")) is R2D2
    assert learners.ridge is ridge
