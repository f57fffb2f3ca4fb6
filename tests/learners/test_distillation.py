"""Distillation: soft targets by hand and in their limits, frozen teachers, pictures that teach."""

import math

import pytest
import torch
from core_helpers import Smooth, random_episode, squares
from torch import nn

from mlcourse import learners, training
from mlcourse.episodes import Episode, EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.learners import (
    DistilledClassifier,
    DistilledLearner,
    FineTune,
    LearntImages,
    PretrainedBody,
    soft_cross_entropy,
)
from mlcourse.meta_gradients.estimators import richardson
from mlcourse.networks import Conv4
from mlcourse.protocols.flop import counted_flops


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------ soft targets


@pytest.mark.parametrize("temperature", [0.5, 1, 4.0])
def test_soft_targets_are_the_formula_written_out(temperature):
    student, teacher = logits(6, 4), logits(6, 4, seed=1)
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = ([math.exp(v / temperature) for v in row] for row in (t, s))
        p, q = ([v / sum(row) for v in row] for row in (p, q))
        total += temperature**2 * sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    assert soft_cross_entropy(student, teacher, temperature).item() == pytest.approx(total / 6, rel=1e-12)
    in_tasks = soft_cross_entropy(student.view(2, 3, 4), teacher.view(2, 3, 4), temperature)
    assert in_tasks.item() == pytest.approx(total / 6, rel=1e-12)


def test_at_temperature_one_it_is_the_divergence_and_of_equal_answers_it_is_zero():
    student, teacher = logits(5, 3), logits(5, 3, seed=1)
    p, q = (torch.distributions.Categorical(logits=one) for one in (teacher, student))
    expected = torch.distributions.kl_divergence(p, q).mean()
    torch.testing.assert_close(soft_cross_entropy(student, teacher, 1), expected)
    assert soft_cross_entropy(student, student + 7, 3.0).abs() < 1e-12  # softmax knows no constant


def test_for_a_large_temperature_it_is_half_the_squared_distance_of_centred_logits_over_the_classes():
    student, teacher = logits(5, 4), logits(5, 4, seed=1)
    gap = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    limit = gap.square().sum(-1).mean() / 2 / 4
    errors = [abs(soft_cross_entropy(student, teacher, tau).item() / limit.item() - 1) for tau in (1e2, 1e3, 1e4)]
    assert errors[0] < 0.05
    assert errors[2] < errors[1] / 5 < errors[0] / 25  # it falls as 1/τ


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [30, 1e3, 1e4])
def test_a_large_temperature_loses_no_digits(dtype, temperature):
    student, teacher = torch.tensor([[1.5, -0.5, 30.0]], dtype=dtype), torch.tensor([[29.0, 1.0, 0.25]], dtype=dtype)
    centred = [one.double() - one.double().mean() for one in (student, teacher)]
    limit = (centred[0] - centred[1]).square().sum().item() / 6
    found = soft_cross_entropy(student, teacher, temperature).item()
    assert found == pytest.approx(limit, rel=max(0.01, 20 / temperature))


@pytest.mark.parametrize("temperature", [1e200, 1e5, 1e-40])
def test_a_temperature_far_out_is_one_line(temperature):
    with pytest.raises(CourseError, match=r"from 0\.0001 to 10000"):
        soft_cross_entropy(torch.randn(2, 3), torch.randn(2, 3), temperature)


def test_near_temperature_zero_the_gradient_pulls_towards_the_class_that_the_teacher_finds_best():
    student, teacher = torch.zeros(1, 3).double().requires_grad_(), torch.tensor([[0.0, 1.0, 0.2]])
    soft_cross_entropy(student, teacher.double(), 0.01).backward()
    torch.testing.assert_close(
        student.grad / 0.01, torch.tensor([[1 / 3, -2 / 3, 1 / 3]], dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_its_gradient_is_the_difference_of_probabilities_and_the_teacher_gets_none():
    student, teacher = logits(6, 4).requires_grad_(), logits(6, 4, seed=1).requires_grad_()
    soft_cross_entropy(student, teacher, 2.5).backward()
    expected = 2.5 * ((student / 2.5).softmax(-1) - (teacher / 2.5).softmax(-1)) / 6
    torch.testing.assert_close(student.grad, expected.detach(), rtol=1e-12, atol=1e-14)
    assert teacher.grad is None


GOOD, NAN = torch.zeros(2, 3), torch.full((2, 3), math.nan)
REFUSED = {
    "temperature is 0; give a finite number above 0": (GOOD, GOOD, 0),
    "temperature is -2.0; give a finite number above 0": (GOOD, GOOD, -2.0),
    "temperature is nan; give a finite number above 0": (GOOD, GOOD, math.nan),
    "temperature is inf; give a finite number above 0": (GOOD, GOOD, math.inf),
    "logits of the student are nan or infinite": (NAN, GOOD, 1.0),
    "logits of the teacher are nan or infinite": (GOOD, NAN, 1.0),
    "logits of the teacher are nan or infinite; look": (GOOD, GOOD + math.inf, 1.0),
    "student and teacher give (2, 3) and (2, 4); give logits [rows, classes] twice": (GOOD, torch.zeros(2, 4), 1.0),
    "student and teacher give (2, 3) and (1, 3)": (GOOD, torch.zeros(1, 3), 1.0),
    "student and teacher give (3,) and (3,)": (GOOD[0], GOOD[0], 1.0),
    "student and teacher give (0, 3) and (0, 3)": (GOOD[:0], GOOD[:0], 1.0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_soft_targets_refuse_what_makes_no_sense_in_one_line(message):
    with pytest.raises(CourseError) as raised:
        soft_cross_entropy(*REFUSED[message])
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


# ------------------------------------------------------------------ students of classifiers


def network(channels: int = 4) -> Conv4:
    return Conv4(channels=channels, size=16, normalisation="running", downsample="stride")


def teacher_of(steps: int = 30, **settings) -> PretrainedBody:
    torch.manual_seed(0)
    teacher = PretrainedBody(network(8), classes=12, **settings)
    training.train(teacher, training.Images(squares()), steps=steps, tasks=32, rate=1e-2, progress=False)
    return teacher


def images(tasks: int = 24):
    return training.Images(squares()).sample(tasks, torch.Generator().manual_seed(3))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_distilled_classifiers_loss_is_the_mixture(weight):
    teacher = teacher_of()
    student = DistilledClassifier(network(), teacher=teacher, temperature=3.0, weight=weight).train()
    x, y = images()
    loss, _ = student.outer_loss((x, y))
    with torch.no_grad():
        mine, theirs = student.class_logits(x), teacher.eval().class_logits(x)
    plain = torch.nn.functional.cross_entropy(mine, y)
    expected = (1 - weight) * plain + weight * soft_cross_entropy(mine, theirs, 3.0)
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-5, atol=1e-6)


def test_a_teacher_is_frozen_and_the_given_one_stays_trainable(tmp_path):
    teacher = teacher_of()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = DistilledClassifier(network(), teacher=teacher, head="logistic")
    training.train(student, training.Images(squares()), steps=10, tasks=16, out=tmp_path / "run", progress=False)
    for own in (teacher, student.teacher.learner):
        assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert all(value.requires_grad for value in teacher.parameters())
    assert not any(value.requires_grad or value.grad is not None for value in student.teacher.parameters())
    assert student.classes == 12
    back, batch = learners.load(tmp_path / "run"), random_episode(2, 3, 2, size=16)
    assert type(back) is DistilledClassifier
    given = [value.float() if value.is_floating_point() else value for value in vars(batch).values()][:3]
    assert torch.equal(back(*given), student(*given))


def test_a_student_learns_from_a_teacher_alone_and_generations_go_on():
    teacher, (x, _) = teacher_of(60), images(100)
    for channels in (4, 8):  # a smaller one, and one born again
        torch.manual_seed(1)
        student = DistilledClassifier(network(channels), teacher=teacher, weight=1.0)
        untrained = (student.eval().class_logits(x).argmax(-1) == teacher.class_logits(x).argmax(-1)).float().mean()
        training.train(student, training.Images(squares()), steps=150, tasks=32, rate=1e-2, progress=False)
        agree = (student.class_logits(x).argmax(-1) == teacher.class_logits(x).argmax(-1)).float().mean()
        assert agree > 0.45 > untrained
        teacher = student  # the next generation's


def test_what_does_not_fit_a_student_is_one_line():
    teacher = teacher_of(1)
    for given, message in (
        ({"teacher": PretrainedBody(network())}, "the teacher, a PretrainedBody, tells no training classes apart"),
        ({"teacher": learners.PixelNeighbours()}, "the teacher, a PixelNeighbours, tells no training classes apart"),
        ({"teacher": teacher, "classes": 5}, "the student has 5 classes, its teacher 12"),
        ({"teacher": teacher, "temperature": 0}, "temperature is 0; give"),
        ({"teacher": teacher, "weight": 1.5}, "weight is 1.5; give the teacher's share"),
        ({"teacher": teacher, "weight": -0.1}, "weight is -0.1; give"),
    ):
        with pytest.raises(CourseError, match=message):
            DistilledClassifier(network(), **given)


# ------------------------------------------------------------------ students of meta-learners


@pytest.mark.parametrize("method", ["prototypical", "maml", "r2d2"])
def test_a_distilled_learner_answers_as_its_student_and_its_loss_is_the_mixture(method):
    batch = random_episode(2, 3, 2, size=16)
    options = {"way": 3, "size": 16, "channels": 4}
    student = learners.build(method, seed=0, **options).double()
    teacher = learners.build("prototypical", seed=1, way=3, size=16, channels=8).double()
    learner = DistilledLearner(student, teacher=teacher, temperature=2.0, weight=0.25).eval()
    given = (batch.support_x, batch.support_y, batch.query_x)
    assert torch.equal(learner(*given), student(*given))
    assert learner.normalisation == student.normalisation
    loss, metrics = learner.outer_loss(batch)
    own, own_metrics = student.outer_loss(batch)
    soft = soft_cross_entropy(student(*given), teacher.eval()(*given), 2.0)
    torch.testing.assert_close(loss, 0.75 * own + 0.25 * soft)
    assert metrics == own_metrics
    loss.backward()
    assert all(value.grad is None for value in teacher.parameters())
    assert all(value.grad is None for value in learner.teacher.parameters())
    assert any(value.grad is not None and value.grad.any() for value in student.parameters())


@pytest.mark.parametrize("method", ["maml", "imaml", "reptile", "baseline++", "pixels", "incontext"])
def test_a_teacher_that_descends_can_be_frozen_too(method):
    batch, options = random_episode(2, 3, 2, size=16), {"way": 3, "size": 16, "channels": 4}
    options |= {"width": 8, "heads": 2} if method == "incontext" else {}
    teacher = learners.build(method, seed=1, **options if method != "pixels" else {"way": 3}).double().eval()
    student = learners.build("prototypical", seed=0, way=3, size=16, channels=4).double()
    learner = DistilledLearner(student, teacher=teacher, weight=1.0)
    before = [value.clone() for value in learner.teacher.state_dict().values()]
    learner.train().outer_loss(batch)[0].backward()
    given = (batch.support_x, batch.support_y, batch.query_x)
    torch.testing.assert_close(learner.teacher_logits(batch), teacher(*given).detach())
    assert not any(value.requires_grad or value.grad is not None for value in learner.teacher.parameters())
    assert all(map(torch.equal, learner.teacher.state_dict().values(), before))


def test_a_distilled_learner_trains_and_comes_back(tmp_path):
    options = {"way": 3, "size": 16}
    student, teacher = (
        learners.build("prototypical", seed=seed, channels=c, **options) for seed, c in ((0, 4), (1, 8))
    )
    learner = DistilledLearner(student, teacher=teacher)
    source = EpisodeSampler(squares(), 3, 1, 2)
    training.train(learner, source, steps=3, tasks=2, out=tmp_path / "run", progress=False)
    back, batch = learners.load(tmp_path / "run"), source.sample(2, torch.Generator().manual_seed(0))
    given = (batch.support_x, batch.support_y, batch.query_x)
    assert torch.equal(back(*given), learner(*given))
    with pytest.raises(CourseError, match="PretrainedBody trains on images; give a student of episodes"):
        DistilledLearner(PretrainedBody(network(), classes=3), teacher=teacher)
    with pytest.raises(CourseError, match="the teacher is a Linear; give a learner"):
        DistilledLearner(student, teacher=nn.Linear(2, 2))
    with pytest.raises(CourseError, match="temperature is -1; give"):
        DistilledLearner(student, teacher=teacher, temperature=-1)


def test_a_teacher_of_another_number_of_classes_is_refused_in_the_first_step():
    class Five(learners.PixelNeighbours):
        def predict(self, state, query_x):
            return super().predict(state, query_x).new_zeros(*query_x.shape[:2], 5)

    student, teacher = learners.build("prototypical", way=3, size=16, channels=4).double(), Five()
    with pytest.raises(CourseError, match=r"student and teacher give \(2, 9, 3\) and \(2, 9, 5\)"):
        DistilledLearner(student, teacher=teacher).outer_loss(random_episode(2, 3, 2, size=16))


# ------------------------------------------------------------------ pictures that teach


def smooth_images(**settings) -> LearntImages:
    torch.manual_seed(0)
    learner = LearntImages(Smooth("group"), classes=3, shape=(1, 8, 8), **settings).double()
    start = torch.rand(learner.images.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return learner.start_from(start)


@pytest.mark.parametrize("settings", [{"inner_steps": 1}, {"inner_steps": 5, "per_class": 2}, {"starts": 2}])
def test_the_unrolled_gradient_equals_richardson_differences(settings):
    learner = smooth_images(rate=0.3, **settings)
    generator = torch.Generator().manual_seed(7)
    x = torch.rand(9, 1, 8, 8, generator=generator, dtype=torch.float64)
    batch, values = (x, torch.arange(3).repeat(3)), [learner.images, learner.log_rate]
    learner.outer_loss(batch)[0].backward()
    gradient = torch.cat([value.grad.flatten() for value in values])
    at = torch.cat([value.detach().flatten() for value in values])

    def loss(flat: torch.Tensor) -> float:
        with torch.no_grad():
            learner.images.copy_(flat[:-1].view_as(learner.images))
            learner.log_rate.copy_(flat[-1])
        return learner.outer_loss(batch)[0].item()

    rate_only = torch.zeros_like(at)
    rate_only[-1] = 1
    for along in (rate_only, *(torch.randn(len(at), generator=generator, dtype=torch.float64) for _ in range(3))):
        slope = float(richardson(loss, at, along, 1e-4))
        assert slope == pytest.approx((gradient @ along).item(), rel=1e-8, abs=1e-10)
    assert gradient[:-1].abs().max() > 1e-4
    assert abs(gradient[-1]) > 1e-4


def test_fresh_weights_are_drawn_anew_and_nobody_elses_generator_moves():
    learner = smooth_images()
    before = torch.random.get_rng_state()
    first, again, other = (learner.fresh(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, value in first.items():
        assert torch.equal(value, again[name])
        assert value.dtype == torch.float64
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert not torch.equal(first["conv1.weight"], dict(learner.network.named_parameters())["conv1.weight"])
    assert not any(value.requires_grad for value in learner.network.parameters())


def test_learnt_pictures_teach_better_than_the_real_ones_that_they_began_as():
    data = squares(classes=4)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(256, 4))  # of little luck: what differs is what it learned from
    learner = LearntImages(linear, classes=4, shape=(1, 16, 16), inner_steps=5, rate=0.02)
    real = torch.stack([data.of_class(index)[0] for index in range(4)]).float() / 255
    learner.start_from(real)
    training.train(learner, training.Images(data), steps=100, tasks=40, rate=1e-2, progress=False)
    x, y = training.Images(data).sample(100, torch.Generator().manual_seed(9))
    learnt, before = learner.accuracy(x, y, seeds=8), learner.accuracy(x, y, seeds=8, images=real)
    assert torch.equal(learner.accuracy(x, y, seeds=range(8)), learnt)
    assert (learnt - before).mean() > 0.1


def test_learnt_pictures_come_back_from_their_run(tmp_path):
    net = Conv4(channels=4, size=16, out=12, normalisation="group", downsample="stride")
    learner = LearntImages(net, classes=12, shape=(1, 16, 16), inner_steps=2)
    source = training.Images(squares())
    training.train(learner, source, steps=3, tasks=8, out=tmp_path / "run", progress=False)
    back = LearntImages.load(tmp_path / "run")
    assert torch.equal(back.images, learner.images)
    assert torch.equal(back.log_rate, learner.log_rate)
    assert (back.images != 0.5).any()
    x, y = images()
    assert torch.equal(back.accuracy(x, y, seeds=2), learner.accuracy(x, y, seeds=2))
    with pytest.raises(CourseError, match="holds no finished run of learnt pictures"):
        LearntImages.load(tmp_path)


def test_what_does_not_fit_learnt_pictures_is_one_line():
    learner = smooth_images()
    x, y = torch.rand(3, 1, 8, 8, dtype=torch.float64), torch.arange(3)
    with pytest.raises(CourseError, match=r"real images are \(1, 9, 9\), the learnt ones \(1, 8, 8\)"):
        learner.outer_loss((torch.rand(3, 1, 9, 9), y))
    with pytest.raises(CourseError, match=r"class 3 \(counted from 0\), but pre-training has 3 classes"):
        learner.outer_loss((x, y + 1))
    with pytest.raises(CourseError, match="give one for each"):
        learner.start_from(x[:2])
    with pytest.raises(CourseError, match="to start from are nan"):
        learner.start_from(x * math.nan)
    with pytest.raises(CourseError, match="inner_steps is 0"):
        LearntImages(Smooth("group"), classes=3, inner_steps=0)
    with pytest.raises(CourseError, match="rate is 0; give a finite number above 0"):
        LearntImages(Smooth("group"), classes=3, rate=0)
    with pytest.raises(CourseError, match="normalisation 'running' takes statistics of many images"):
        LearntImages(Conv4(out=10, normalisation="running"))

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

    with pytest.raises(CourseError, match="Odd has weights but no reset_parameters"):
        LearntImages(Odd())


# ------------------------------------------------------------------ what it costs


def test_flop_are_counted_forward_and_backward():
    a, b = torch.randn(5, 7), torch.randn(7, 11, requires_grad=True)
    assert counted_flops(torch.matmul, a, b) == 2 * 5 * 7 * 11
    assert counted_flops(lambda: (a @ b).sum().backward()) == 2 * (2 * 5 * 7 * 11)  # only b asks for a gradient
    teacher, batch = teacher_of(1), images(8)
    plain = PretrainedBody(network(8), classes=12).train()
    student = DistilledClassifier(network(8), teacher=teacher).train()
    cost, more = (counted_flops(lambda one=one: one.outer_loss(batch)[0].backward()) for one in (plain, student))
    assert more - cost == counted_flops(lambda: teacher.class_logits(batch[0]))  # the teacher's forward pass


def test_a_teacher_with_another_kind_of_classifier_is_one_line():
    with pytest.raises(CourseError, match="FineTune, tells no training classes apart"):
        DistilledClassifier(network(), teacher=FineTune(network(), classes=3))


def test_no_seed_is_no_accuracy():
    with pytest.raises(CourseError, match="0 seeds"):
        LearntImages(Conv4(channels=4, size=16, normalisation="group", downsample="stride"), classes=3).accuracy(
            torch.rand(2, 1, 16, 16), torch.tensor([0, 1]), seeds=0
        )


@pytest.mark.parametrize("method", ["reptile", "imaml"])
def test_a_student_that_no_teacher_reaches_is_one_line(method):
    options = {"way": 4, "size": 16, "channels": 4, "seed": 0}
    teacher = learners.build("prototypical", **options)
    with pytest.raises(CourseError, match="have no graph to its outer parameters, so no teacher reaches them"):
        DistilledLearner(learners.build(method, **options), teacher=teacher)


@pytest.mark.parametrize(
    "method", [name for name, one in learners.METHODS.items() if one.learner.trains_on == "episodes"]
)
def test_every_other_student_hears_its_teacher(method):
    """With the teacher's share of 1 the gradient is the teacher's alone, and not zero."""
    options = {"way": 4, "size": 16, "channels": 4, "seed": 0}
    student = learners.build(method, **options).train()
    if not student.answers_with_graph:
        return
    distilled = DistilledLearner(student, teacher=learners.build("prototypical", **options), weight=1).train()
    batch = EpisodeSampler(squares(), 4, 1, 2).sample(2, torch.Generator().manual_seed(0))
    distilled.outer_loss(batch)[0].backward()
    assert sum(p.grad.abs().sum() for p in student.parameters() if p.grad is not None) > 0


def test_targets_that_are_values_have_no_teacher():
    student, teacher = (learners.MAML(nn.Linear(1, 1), inner_steps=1) for _ in range(2))
    x = torch.rand(2, 5, 1)
    with pytest.raises(CourseError, match=r"the targets are torch.float32 \(2, 5, 1\); give tasks with whole labels"):
        DistilledLearner(student, teacher=teacher).outer_loss(Episode(x, x, x, x, torch.zeros(2, 1, dtype=torch.long)))


@pytest.mark.parametrize("wrong", [lambda y: y.unsqueeze(1), lambda y: y[:1], lambda y: y + 9, lambda y: y[:0]])
def test_labels_that_do_not_fit_their_images_give_no_accuracy(wrong):
    y = torch.arange(3)
    with pytest.raises(CourseError, match=r"give one label for each image|pre-training has 3 classes|give int64"):
        smooth_images().accuracy(torch.rand(3, 1, 8, 8, dtype=torch.float64), wrong(y), seeds=1)
