"""The checks of notebook 16 against right answers written differently, mistakes, and other libraries."""

import pytest
import torch
from check_helpers import assert_check
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mlcourse.lessons.transfer import checks
from mlcourse.networks.conv4 import Conv4


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


# ------------------------------------------------------------------ 16.1 a head on frozen features


def head_by_loop(support, labels, queries, centre):
    s = [(x - centre) / (x - centre).norm() for x in support]
    way = int(labels.max()) + 1
    means = [torch.stack([x for x, y in zip(s, labels.tolist(), strict=True) if y == k]).mean(0) for k in range(way)]
    rows = []
    for q in queries:
        q = (q - centre) / (q - centre).norm()
        rows.append(torch.stack([-(q - m).pow(2).sum() for m in means]))
    return torch.stack(rows)


def head_float32(support, labels, queries, centre):
    return head_by_loop(support.float(), labels, queries.float(), centre.float())


def head_with(scores=lambda q, c: -(q[:, None] - c).square().sum(2), support=None, queries=None, means=None):
    """support, queries: (features, centre) → features; means: (features, labels) → centroids."""

    def plain(x, centre):
        return F.normalize(x - centre, dim=1)

    def mean(x, y):
        return torch.stack([x[y == k].mean(0) for k in range(int(y.max()) + 1)])

    def head_with_a_mistake(s, y, q, centre):
        s, q = (support or plain)(s, centre), (queries or support or plain)(q, centre)
        return scores(q, (means or mean)(s, y))

    return head_with_a_mistake


def own_centre(s, y, q, centre):
    return head_by_loop(s, y, q, s.mean(0))


def transductive(s, y, q, centre):
    return head_by_loop(s, y, q, torch.cat([s, q]).mean(0))


def plain(x, centre):
    return F.normalize(x - centre, dim=1)


def sums(x, y):
    return torch.stack([x[y == k].sum(0) for k in range(int(y.max()) + 1)])


def firsts(x, y):
    return torch.stack([x[y == k][0] for k in range(int(y.max()) + 1)])


def unit_means(x, y):
    return F.normalize(torch.stack([x[y == k].mean(0) for k in range(int(y.max()) + 1)]), dim=1)


def nearest_neighbour(s, y, q, centre):
    s, q = plain(s, centre), plain(q, centre)
    return -torch.stack([(q[:, None] - s[y == k]).square().sum(2).amin(1) for k in range(int(y.max()) + 1)], 1)


def test_transfer_head():
    assert_check(
        checks.transfer_head,
        right=[head_by_loop, head_float32, head_with(lambda q, c: -torch.cdist(q, c).square())],
        wrong={
            "not centred": (
                head_with(support=lambda x, c: F.normalize(x, dim=1)),
                "The features are not centred, or only after",
            ),
            "twice": (
                head_with(support=lambda x, c: F.normalize(F.normalize(x, dim=1) - c, dim=1)),
                "You scale, centre, and scale again",
            ),
            "not scaled": (head_with(support=lambda x, c: x - c), "centred, but not scaled"),
            "queries as they are": (
                head_with(support=plain, queries=lambda x, c: x - c),
                "The queries are not scaled",
            ),
            "support as it is": (
                head_with(support=lambda x, c: x - c, queries=plain),
                "The support features are not scaled",
            ),
            "own centre": (own_centre, "You centre by the mean of the support set"),
            "transductive": (transductive, "(transductive)"),
            "squares": (head_with(lambda q, c: (q[:, None] - c).square().sum(2)), "Put a minus before them"),
            "roots": (head_with(lambda q, c: -torch.cdist(q, c)), "not squared"),
            "mean": (head_with(lambda q, c: -(q[:, None] - c).square().mean(2)), "the mean over the D numbers"),
            "products": (head_with(lambda q, c: q @ c.T), "inner products with the centroids"),
            "softmax": (
                head_with(lambda q, c: (-(q[:, None] - c).square().sum(2)).softmax(1)),
                "This is a softmax of the scores",
            ),
            "transposed": (head_with(lambda q, c: -(c[:, None] - q).square().sum(2)), "has shape"),
        },
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (head_with(means=sums), "The centroids are sums"),
        (head_with(means=firsts), "Each class is its first picture only"),
        (head_with(means=unit_means), "You scale the centroids to length 1"),
        (head_with(lambda q, c: q @ F.normalize(c, dim=1).T, means=unit_means), "or cosines"),
        (nearest_neighbour, "1-nearest neighbour"),
        (
            lambda s, y, q, c: -(plain(q, c)[:, None] - F.normalize(sums(s - c, y), dim=1)).square().sum(2),
            "You take the class means first",
        ),
    ],
    ids=["sums", "first", "unit", "cosines", "nearest", "scaled late"],
)
def test_what_one_picture_per_class_hides_is_found_with_more(answer, words):
    """With one picture these are right, or another mistake: the harder problems find them."""
    for seed in range(5):
        verdict = checks.transfer_head.run(answer, seed=seed)
        assert not verdict.passed
        assert words in verdict.diagnosis, verdict.diagnosis


# ------------------------------------------------------------------ 16.2 the FLOP of a training


def flop_by_loop(stages):
    total = 0
    for layers, pictures in stages:
        for k, (a, b, side, height, width) in enumerate(layers):
            passes = 2 if k == 0 else 3
            total += pictures * passes * 2 * height * width * b * a * side * side
    return float(total)


def flop_by_tensors(stages):
    total = torch.zeros((), dtype=torch.float64)
    for layers, pictures in stages:
        table = torch.tensor(layers, dtype=torch.float64)
        forward = 2 * table.prod(1) * table[:, 2]
        total = total + pictures * (forward.sum() + 2 * forward.sum() - forward[0])
    return total


def flop_float32(stages):
    return flop_by_tensors(stages).float()


def flop_whole(stages):
    return torch.tensor(int(flop_by_loop(stages)))


def flop_with(layer=lambda a, b, s, h, w: 2 * a * b * s * s * h * w, first=2, inner=3, which=slice(None), picture=None):
    def flop_with_a_mistake(stages):
        total = 0
        for layers, pictures in stages[which]:
            one = sum((first if k == 0 else inner) * layer(*row) for k, row in enumerate(layers))
            total += one * (picture or pictures)
        return total

    return flop_with_a_mistake


def test_training_flop():
    assert_check(
        checks.training_flop,
        right=[flop_by_loop, flop_by_tensors, flop_float32, flop_whole],
        wrong={
            "forward": (flop_with(first=1, inner=1), "This is the forward pass only"),
            "one backward": (flop_with(first=2, inner=2), "You count the backward pass once"),
            "three": (flop_with(first=3), "nobody needs a gradient by the picture"),
            "no first": (flop_with(first=1), "The first layer has no backward pass"),
            "backward": (flop_with(first=1, inner=2), "This is the backward pass only"),
            "products": (flop_with(lambda a, b, s, h, w: a * b * s * s * h * w), "You count multiplications only"),
            "side once": (flop_with(lambda a, b, s, h, w: 2 * a * b * s * h * w), "You count side once"),
            "no kernel": (flop_with(lambda a, b, s, h, w: 2 * a * b * h * w), "The kernel is left out"),
            "weights": (flop_with(lambda a, b, s, h, w: 2 * a * b * s * s), "You count each weight once"),
            "square": (flop_with(lambda a, b, s, h, w: 2 * a * b * s * s * h * h), "You take height²"),
            "one input": (flop_with(lambda a, b, s, h, w: 2 * b * s * s * h * w), "The channels that come in are left"),
            "one output": (flop_with(lambda a, b, s, h, w: 2 * a * s * s * h * w), "The channels that come out are"),
            "one picture": (flop_with(picture=1), "This is the cost of one picture"),
            "a pair": (lambda stages: (1.0, 2.0), "tuple"),
        },
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (flop_with(which=slice(-1, None)), "Pre-training is left out"),
        (flop_with(which=slice(0, 1)), "Only the first stage is counted"),
        (
            lambda stages: flop_with()([(stages[0][0], sum(n for _, n in stages))]),
            "All stages are counted with the layers of the first",
        ),
    ],
    ids=["last", "first", "layers"],
)
def test_who_counts_one_stage_only_is_found_by_two(answer, words):
    for seed in range(5):
        verdict = checks.training_flop.run(answer, seed=seed)
        assert not verdict.passed
        assert words in verdict.diagnosis, verdict.diagnosis


def test_the_reference_is_what_pytorch_counts():
    network = Conv4(channels=8, downsample="stride", out=30)
    layers = [(1, 8, 3, 14, 14), (8, 8, 3, 7, 7), (8, 8, 3, 4, 4), (8, 8, 3, 2, 2), (32, 30, 1, 1, 1)]
    with FlopCounterMode(display=False) as counter:
        network(torch.rand(7, 1, 28, 28)).sum().backward()
    assert checks.training_flop.reference([(layers, 7)]) == counter.get_total_flops()


# ------------------------------------------------------------------ 16.3 learning from a teacher


def soft_by_kl(student, teacher, temperature):
    p, q = (F.log_softmax(x / temperature, dim=1) for x in (teacher.detach(), student))
    return temperature**2 * F.kl_div(q, p, log_target=True, reduction="batchmean")


def soft_by_loop(student, teacher, temperature):
    total = 0
    for s, t in zip(student, teacher.detach(), strict=True):
        p, q = (t / temperature).softmax(0), (s / temperature).softmax(0)
        total = total + (p * (p / q).log()).sum()
    return temperature**2 * total / len(student)


def soft_float32(student, teacher, temperature):
    return soft_by_kl(student.float(), teacher.float(), temperature)


def soft_with(change, of=(1.0, 1.0), dim=1, detach=True):
    """change(log p of the student, log p of the teacher, τ) → loss; of: the temperatures' powers."""

    def soft_with_a_mistake(student, teacher, temperature):
        teacher = teacher.detach() if detach else teacher
        s, t = (F.log_softmax(x / temperature**k, dim=dim) for x, k in zip((student, teacher), of, strict=True))
        return change(s, t, temperature)

    return soft_with_a_mistake


def kl(s, t, temperature):
    return temperature**2 * (t.exp() * (t - s)).sum(1).mean()


def test_soft_loss():
    assert_check(
        checks.soft_loss,
        right=[soft_by_kl, soft_by_loop, soft_float32],
        wrong={
            "cross-entropy": (
                soft_with(lambda s, t, T: -(T**2) * (t.exp() * s).sum(1).mean()),
                "It has the right gradient, but it is not 0",
            ),
            "mean of all": (soft_with(lambda s, t, T: T**2 * (t.exp() * (t - s)).mean()), "You divide by rows and by"),
            "sum": (soft_with(lambda s, t, T: T**2 * (t.exp() * (t - s)).sum()), "This is the sum over the rows"),
            "exchanged": (soft_with(lambda s, t, T: kl(t, s, T)), "The two have changed places"),
            "sign": (soft_with(lambda s, t, T: -kl(s, t, T)), "minus the right one"),
            "hard": (soft_with(lambda s, t, T: F.nll_loss(s, t.argmax(1))), "the teacher's best class only"),
            "over rows": (soft_with(kl, dim=0), "The softmax runs over the rows"),
            "logits": (lambda s, t, T: F.mse_loss(s, t.detach()), "squared differences of the logits"),
            "teacher learns": (soft_with(kl, detach=False), "a gradient flows into the teacher"),
            "no gradient": (lambda s, t, T: soft_by_kl(s.detach(), t, T), "no gradient comes to the student"),
            "rows": (soft_with(lambda s, t, T: T**2 * (t.exp() * (t - s)).sum(1)), "has shape"),
            "number": (lambda s, t, T: float(soft_by_kl(s.detach(), t, T)), "you return a float"),
        },
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (soft_with(lambda s, t, T: (t.exp() * (t - s)).sum(1).mean()), "The factor τ² is missing"),
        (soft_with(lambda s, t, T: T * (t.exp() * (t - s)).sum(1).mean()), "You multiply by τ once"),
        (soft_with(kl, of=(0.0, 1.0)), "The student's logits are not divided"),
        (soft_with(kl, of=(1.0, 0.0)), "The teacher's logits are not divided"),
        (soft_with(kl, of=(0.0, 0.0)), "Neither is divided"),
        (soft_with(kl, of=(-1.0, -1.0)), "You multiply the logits by τ."),
        (soft_with(lambda s, t, T: (t.exp() * (t - s)).sum(1).mean(), of=(0.0, 0.0)), "The temperature is not used"),
    ],
    ids=["no factor", "once", "student", "teacher", "neither", "times", "not used"],
)
def test_what_a_temperature_of_1_hides_is_found_by_a_higher_one(answer, words):
    for seed in range(5):
        verdict = checks.soft_loss.run(answer, seed=seed)
        assert not verdict.passed
        assert words in verdict.diagnosis, verdict.diagnosis
        assert "a higher temperature" in verdict.diagnosis


# ------------------------------------------------------------------ 16.4 pictures that teach


def learnt_by_formula(weights, pictures, labels, rate, real, real_labels):
    """The gradients by hand: of p and of the logits by the pictures."""
    n, eye = len(pictures), torch.eye(weights.shape[1], dtype=weights.dtype)
    p = (pictures @ weights).softmax(1)
    slope = pictures.T @ (p - eye[labels]) / n
    taught = weights - rate * slope
    q = (real @ taught).softmax(1)
    outer = real.T @ (q - eye[real_labels]) / len(real)
    loss = F.cross_entropy(real @ taught, real_labels)
    towards = pictures @ outer  # how each picture's logits point along the outer gradient
    bent = p * (towards - (p * towards).sum(1, keepdim=True))
    by_pictures = -rate / n * ((p - eye[labels]) @ outer.T + bent @ weights.T)
    return loss, by_pictures, -(slope * outer).sum()


def learnt_by_functions(weights, pictures, labels, rate, real, real_labels):
    def inner(w, x):
        return F.cross_entropy(x @ w, labels)

    def outer(x, step):
        return F.cross_entropy(real @ (weights - step * torch.func.grad(inner)(weights, x)), real_labels)

    slopes, loss = torch.func.grad_and_value(outer, argnums=(0, 1))(pictures, rate)
    return loss, *slopes


def learnt_float32(weights, pictures, labels, rate, real, real_labels):
    w, x, a, r = (value.float() for value in (weights, pictures, rate, real))
    return learnt_by_functions(w, x, labels, a, r, real_labels)


def learnt_with(*, sign=1.0, rate_used=True, inner_on="learnt", outer_on="real", after=True, cut=False, total=False):
    def learnt_with_a_mistake(weights, pictures, labels, rate, real, real_labels):
        w, x, a = (value.clone().requires_grad_() for value in (weights, pictures, rate))
        taught_on = (x, labels) if inner_on == "learnt" else (real, real_labels)
        inner = F.cross_entropy(taught_on[0] @ w, taught_on[1], reduction="sum" if total else "mean")
        (slope,) = torch.autograd.grad(inner, w, create_graph=True)
        slope = slope.detach() if cut else slope
        taught = w - sign * (a if rate_used else 1) * slope if after else w
        asked = (real, real_labels) if outer_on == "real" else (x, labels)
        loss = F.cross_entropy(asked[0] @ taught, asked[1])
        slopes = torch.autograd.grad(loss, (x, a), allow_unused=True)
        none = [torch.zeros_like(v) if s is None else s for s, v in zip(slopes, (x, a), strict=True)]
        return loss, *none

    return learnt_with_a_mistake


def changed(change):
    def learnt_changed(weights, pictures, labels, rate, real, real_labels):
        return change(rate, *learnt_by_functions(weights, pictures, labels, rate, real, real_labels))

    return learnt_changed


def of_the_inner_loss(weights, pictures, labels, rate, real, real_labels):
    loss, _, by_rate = learnt_by_functions(weights, pictures, labels, rate, real, real_labels)
    return loss, torch.func.grad(lambda x: F.cross_entropy(x @ weights, labels))(pictures), by_rate


def test_learnt_step():
    assert_check(
        checks.learnt_step,
        right=[learnt_by_formula, learnt_by_functions, learnt_float32],
        wrong={
            "climbs": (learnt_with(sign=-1.0), "The step climbs"),
            "no rate": (learnt_with(rate_used=False), "The rate is left out of the step"),
            "real teach": (learnt_with(inner_on="real"), "You take the step on the real pictures"),
            "asks the learnt": (learnt_with(outer_on="learnt"), "the loss on the learnt pictures after the step"),
            "before": (learnt_with(after=False), "This is the outer loss before the step"),
            "sum": (learnt_with(total=True), "The inner loss is a sum"),
            "cut": (learnt_with(cut=True), "the inner gradient was cut off"),
            "inner gradient": (of_the_inner_loss, "the gradient of the inner loss by the pictures"),
            "sign": (changed(lambda a, loss, x, r: (loss, -x, r)), "The gradient by pictures: it has the other sign"),
            "rate's sign": (changed(lambda a, loss, x, r: (loss, x, -r)), "a longer step along"),
            "rate left out": (changed(lambda a, loss, x, r: (loss, x / a, r)), "the pictures act through rate"),
            "no rate gradient": (changed(lambda a, loss, x, r: (loss, x, 0 * r)), "no gradient arrives at the rate"),
            "two": (changed(lambda a, loss, x, r: (loss, x)), "it needs 3 results"),
            "another order": (changed(lambda a, loss, x, r: (x, loss, r)), "has shape"),
        },
    )


# ------------------------------------------------------------------ the whole
