"""MAML's relatives, Reptile and implicit MAML: each against closed forms, finite differences and the plain loop."""

from dataclasses import replace

import pytest
import torch
from core_helpers import Fixed, Smooth, flat_gradient, loss_at, random_episode
from torch import nn
from torch.nn import functional as F

import mlcourse
from mlcourse import inner, learners
from mlcourse.episodes import Episode
from mlcourse.errors import CourseError
from mlcourse.evaluation import evaluate
from mlcourse.learners import ANIL, MAML, ImplicitMAML, Reptile
from mlcourse.meta_gradients import quadratics
from mlcourse.meta_gradients.saved_bytes import saved_bytes
from mlcourse.meta_gradients.surrogate import surrogate, with_zeros
from mlcourse.teaching.oracles import gradient_error, relative_error

F64 = torch.float64
OPTIONS = {
    "first_order": {"first_order": True},
    "truncate": {"truncate": 1},
    "checkpoint": {"checkpoint": 2},
    "entry": {"learned_rates": "entry"},
    "entry, checkpoint": {"learned_rates": "entry", "checkpoint": 2},
    "layer": {"learned_rates": "layer"},
    "every step": {"every_step_until": 10},
    "norm": {"norm_per_step": True},
    "maml++": {"learned_rates": "layer", "norm_per_step": True, "every_step_until": 10},
    "zero head": {"zero_head": True},
    "zero head, layer": {"zero_head": True, "learned_rates": "layer"},
}
# which of MAML (first of a pair) and ANIL takes which option: ANIL refuses norm_per_step, see below
TAKES = {
    pair: [(one, name) for one in pair for name in OPTIONS if one == pair[0] or name not in ("norm", "maml++")]
    for pair in ((MAML, ANIL), ("maml", "anil"))
}


def smooth(cls=MAML, normalisation="batch", seed=0, **options):
    torch.manual_seed(seed)
    learner = cls(Smooth(normalisation), **options).double()
    with torch.no_grad():  # learned rates that differ, or a mix-up of steps and tensors would not show
        for value in [*getattr(learner, "rates", {}).values(), *getattr(learner, "gains", {}).values()]:
            value.mul_(1 + 0.3 * torch.rand(value.shape, dtype=F64))
    return learner


def outer_parameters(learner):
    return {name: p for name, p in learner.named_parameters() if p.requires_grad}


def gradients(learner, episode, **options):
    learner.zero_grad()
    learner.outer_loss(episode, **options)[0].backward()
    return {name: p.grad.clone() for name, p in outer_parameters(learner).items()}


# ------------------------------------------------------------------ options of MAML


@pytest.mark.parametrize(
    ("cls", "name"), [(cls, name) for cls, name in TAKES[MAML, ANIL] if name not in ("first_order", "truncate")]
)
@pytest.mark.parametrize("normalisation", ["support", "group"])
def test_the_meta_gradient_of_each_option_equals_richardson_differences(name, cls, normalisation):
    learner = smooth(cls, normalisation, inner_steps=3, inner_rate=0.3, **OPTIONS[name])
    episode = random_episode(tasks=2)
    f, theta = loss_at(learner, episode)
    learner.outer_loss(episode)[0].backward()
    # norm_per_step puts its own gains in the place of the network's, on which nothing then depends
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in learner.parameters()]
    got = torch.cat([g.flatten() for g in grads])
    assert gradient_error(f, theta, got, torch.Generator().manual_seed(1)) < 1e-8


@pytest.mark.parametrize(("method", "name"), TAKES["maml", "anil"])
@pytest.mark.parametrize("normalisation", ["batch", "support", "group"])
def test_side_by_side_equals_one_by_one_for_each_option(name, method, normalisation):
    episode = random_episode(tasks=3, way=5, shot=1, query=2, size=16)
    results = []
    for one_by_one in (True, False):
        options = OPTIONS[name] | {
            "inner_steps": 3,
            "channels": 4,
            "normalisation": normalisation,
            "one_by_one": one_by_one,
        }
        learner = learners.build(method, way=5, size=16, seed=0, **options).double()
        results.append(torch.cat([g.flatten() for g in gradients(learner, episode).values()]))
    assert relative_error(results[1], results[0]) < 1e-10


@pytest.mark.parametrize("cls", [MAML, ANIL])
def test_a_zero_head_is_any_head_with_equal_rows(cls):
    """Softmax does not see what all logits share, so a row that all classes start from says nothing."""
    episode, zero = random_episode(tasks=2, way=3), smooth(cls, "group", inner_steps=3, inner_rate=0.1, zero_head=True)
    full = smooth(cls, "group", inner_steps=3, inner_rate=0.3)
    row = {name: torch.randn(1, *p.shape[1:], dtype=F64) for name, p in full.network.head.named_parameters()}
    for name, p in full.network.head.named_parameters():
        p.detach().copy_(row[name].expand_as(p))
    of_zero, of_full = gradients(zero, episode), gradients(full, episode)
    assert not any("head" in name for name in of_zero)
    for name, grad in of_full.items():
        if "head" in name:  # and so its gradient, summed over the rows, is nothing
            assert grad.sum(0).norm() < 1e-12 < grad.norm()
        else:
            assert relative_error(of_zero[name], grad) < 1e-10, name


def test_with_a_zero_head_the_rate_means_the_same_for_any_number_of_classes():
    """One step from zero makes a class's row of the head α times (the class's mean − the mean over classes)."""
    learner = learners.build(
        "anil", way=5, size=16, seed=0, channels=4, zero_head=True, normalisation="group", inner_steps=1
    )
    learner = learner.double().eval()
    for way, shot in ((2, 1), (3, 4), (9, 2)):
        episode = random_episode(tasks=2, way=way, shot=shot, query=1, size=16)
        rows = learner.adapt(episode.support_x, episode.support_y)["fast"]["head.weight"]
        centres = learner.features(episode.support_x).unflatten(1, (way, shot)).mean(2)
        expected = learner.inner_rate * (centres - centres.mean(1, keepdim=True))
        torch.testing.assert_close(rows, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["maml", "anil", "meta-sgd"])
def test_a_zero_head_takes_any_number_of_classes_and_knows_no_order_of_them(method):
    options = {"zero_head": True, "inner_steps": 3, "channels": 4, "normalisation": "group"}
    learner = learners.build(method, way=5, size=16, seed=0, **options).double().eval()
    for way in (2, 8):
        episode = random_episode(tasks=2, way=way, shot=2, query=2, size=16)
        logits = learner(episode.support_x, episode.support_y, episode.query_x).detach()
        assert logits.shape == (2, way * 2, way)
        order = torch.arange(way).roll(1)
        other = learner(episode.support_x, order[episode.support_y], episode.query_x).detach()
        assert not torch.allclose(other, logits)
        torch.testing.assert_close(other[..., order], logits, rtol=1e-9, atol=1e-12)


def test_a_zero_head_wants_classes_and_a_head():
    with pytest.raises(CourseError, match="linear layer called head"):
        MAML(nn.Sequential(nn.Linear(1, 1)), zero_head=True)
    learner = smooth(zero_head=True)
    x, y = torch.rand(2, 3, 1, 8, 8, dtype=F64), torch.rand(2, 3, 1, dtype=F64)
    with pytest.raises(CourseError, match="zero_head is for classes"):
        learner.adapt(x, y)


def test_anil_with_running_statistics_answers_each_query_by_itself():
    learner = learners.build(
        "anil", way=5, size=16, seed=0, channels=4, normalisation="running", inner_steps=3
    ).double()
    episode = random_episode(tasks=3, way=5, shot=1, query=3, size=16)
    before = {name: value.clone() for name, value in learner.named_buffers()}
    learner.outer_loss(episode)[0].backward()
    assert not all(torch.equal(value, before[name]) for name, value in learner.named_buffers())  # the average moves
    kept = {name: value.clone() for name, value in learner.named_buffers()}
    state = learner.adapt(episode.support_x, episode.support_y)  # in training mode too: statistics as they are
    together = learner.predict(state, episode.query_x)
    alone = torch.cat([learner.predict(state, q) for q in episode.query_x.split(1, 1)], 1)
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(value, kept[name]) for name, value in learner.named_buffers())


W1, W2, W3 = (1, 28, 64, "stride"), (1, 28, 32, "pool"), (3, 84, 32, "pool")


@pytest.mark.parametrize(
    ("method", "options", "shape"),
    [
        *((method, {}, W1) for method in ("fomaml", "anil", "meta-sgd", "maml++", "reptile")),
        *(("imaml", {"strength": 10.0, "inner_rate": 0.05, "iterations": 2}, shape) for shape in (W1, W2, W3)),
        *(("maml++", {}, shape) for shape in (W2, W3)),
        *(("anil", {}, shape) for shape in (W2, W3)),
        ("maml", {"checkpoint": 1}, W1),
    ],
)
def test_both_ways_agree_at_the_shapes_of_the_course(method, options, shape):
    in_channels, size, channels, downsample = shape
    generator = torch.Generator().manual_seed(0)
    x, q = (torch.rand(2, 5, in_channels, size, size, generator=generator, dtype=F64) for _ in range(2))
    y = torch.arange(5).expand(2, -1)
    none = torch.empty(2, 0, dtype=torch.long)
    results = []
    for one_by_one in (True, False):
        made = {
            "way": 5,
            "in_channels": in_channels,
            "size": size,
            "seed": 0,
            "inner_steps": 2,
            "one_by_one": one_by_one,
        }
        network = {"channels": channels, "downsample": downsample}
        learner = learners.build(method, **made, **network, **options).double()
        results.append(flat(gradients(learner, Episode(x, y, q, y, none, none, none))))
    assert relative_error(results[1], results[0]) < 1e-10


def test_truncation_and_checkpoints_of_the_learner_are_those_of_the_inner_loop():
    episode = random_episode(tasks=2)
    plain = gradients(smooth(inner_steps=4, one_by_one=True), episode)
    for every in (1, 2, 3):
        kept = gradients(smooth(inner_steps=4, one_by_one=True, checkpoint=every), episode)
        assert all(torch.equal(kept[name], plain[name]) for name in plain)
    for k, same in ((4, plain), (9, plain), (0, gradients(smooth(inner_steps=4, first_order=True), episode))):
        cut = gradients(smooth(inner_steps=4, truncate=k), episode)
        assert all(torch.equal(cut[name], same[name]) for name in plain)
    between = gradients(smooth(inner_steps=4, truncate=2), episode)
    assert 1e-4 < relative_error(flat(between), flat(plain)) < relative_error(flat(cut), flat(plain))


def flat(named):
    return torch.cat([value.flatten() for value in named.values()])


def test_checkpoints_side_by_side_give_the_same_bits_and_keep_memory_flat():
    """The bar for the whole learner: 36 steps keep at most 3 × the bytes of 4 steps, recomputation included."""
    episode, peaks = random_episode(tasks=2, way=3, shot=1, query=1, size=16), {}
    for steps in (4, 36):
        for every in (None, 2):
            options = {"inner_steps": steps, "inner_rate": 0.01, "channels": 4, "checkpoint": every}
            learner = learners.build("maml", way=3, size=16, seed=0, **options).double()
            with saved_bytes() as saved:
                found = gradients(learner, episode)
            peaks[steps, every] = saved.peak
            if every is None:
                plain = found
        assert all(torch.equal(found[name], plain[name]) for name in plain)
    assert peaks[36, 2] <= 3 * peaks[4, 2]
    assert peaks[36, None] > 6 * peaks[4, None]


def test_anil_is_maml_with_a_body_that_the_inner_process_does_not_move():
    episode = random_episode(tasks=2)
    anil = smooth(ANIL, "support", inner_steps=3)
    slow = smooth(MAML, "support", inner_steps=3)
    slow.start = lambda: {n: p for n, p in inner.parameters(slow.network).items() if n.startswith("head.")}
    state = anil.adapt(episode.support_x, episode.support_y)
    assert set(state["fast"]) == {"head.weight", "head.bias"}
    expected = gradients(slow, episode)
    for name, got in gradients(anil, episode).items():
        torch.testing.assert_close(got, expected[name], rtol=1e-10, atol=1e-12)
    with saved_bytes() as few:
        anil.outer_loss(episode)[0].backward()
    with saved_bytes() as many:
        slow.outer_loss(episode)[0].backward()
    assert few.peak < 0.75 * many.peak  # one pass through the body, not one a step


def test_meta_sgd_of_one_step_has_its_gradient_in_closed_form():
    """φ = θ − α∘g: dL/dα = −g∘∇L(φ)."""
    learner = smooth(learned_rates="entry", inner_steps=1)
    episode = random_episode(tasks=1)
    x, y = episode.support_x[0], episode.support_y[0]
    theta = learner.start()
    g = inner.gradient(F.cross_entropy(learner.call(theta, x), y), theta)
    fast = {n: (v - learner.rates[n.replace(".", "-")] * g[n]).detach().requires_grad_() for n, v in theta.items()}
    outer = inner.gradient(F.cross_entropy(learner.call(fast, episode.query_x[0]), episode.query_y[0]), fast)
    got = gradients(learner, episode)
    for name in theta:
        key = "rates." + name.replace(".", "-")
        torch.testing.assert_close(got[key], -g[name] * outer[name], rtol=1e-10, atol=1e-14)


def test_each_layer_and_step_has_a_rate_of_its_own():
    learner = smooth(learned_rates="layer", inner_steps=2, evaluation_inner_steps=4)
    assert {tuple(r.shape) for r in learner.rates.values()} == {(2,)}
    assert len(learner.rates) == len(learner.start())
    with torch.no_grad():
        for rate in learner.rates.values():
            rate.copy_(torch.tensor([0.0, 0.0]))
        learner.rates["head-bias"].copy_(torch.tensor([0.0, 0.5]))
    episode = random_episode(tasks=1)
    for steps, moved in ((1, set()), (2, {"head.bias"}), (4, {"head.bias"})):
        fast = learner.adapt(episode.support_x, episode.support_y, inner_steps=steps)["fast"]
        assert {n for n, v in fast.items() if not torch.equal(v[0], learner.start()[n])} == moved
    after = [learner.adapt(episode.support_x, episode.support_y, inner_steps=s)["fast"]["head.bias"] for s in (2, 3, 4)]
    assert not torch.equal(after[0], after[1])  # after the last trained step its rate goes on
    assert not torch.equal(after[1], after[2])


def test_the_loss_of_every_step_is_annealed_to_the_last():
    learner = smooth(inner_steps=4, every_step_until=10)
    assert learner.step_weights(0) == pytest.approx([0.25] * 4)
    assert learner.step_weights(5) == pytest.approx([0.125, 0.125, 0.125, 0.625])
    assert learner.step_weights(10) == learner.step_weights(99) == [0, 0, 0, 1]
    assert smooth(inner_steps=0, every_step_until=10).step_weights(0) == [1]
    episode = random_episode(tasks=2)
    each = []
    for steps in range(1, 5):
        state = learner.adapt(episode.support_x, episode.support_y, inner_steps=steps)
        each.append(learner.loss(learner.predict(state, episode.query_x), episode.query_y))
    for step in (0, 5, 10):
        expected = sum(w * loss for w, loss in zip(learner.step_weights(step), each, strict=True))
        torch.testing.assert_close(learner.outer_loss(episode, step=step)[0], expected, rtol=1e-12, atol=0)
    plain = gradients(smooth(inner_steps=4), episode)
    assert all(torch.equal(plain[n], g) for n, g in gradients(learner, episode, step=10).items())


def test_first_order_is_annealed_to_second_order():
    episode = random_episode(tasks=2)
    learner = smooth(inner_steps=3, first_order_until=7)
    first, second = (
        gradients(smooth(inner_steps=3, first_order=True), episode),
        gradients(smooth(inner_steps=3), episode),
    )
    for step, expected in ((0, first), (6, first), (7, second), (100, second)):
        assert all(torch.equal(expected[n], g) for n, g in gradients(learner, episode, step=step).items())


def test_each_inner_step_has_its_own_norm_and_the_inner_process_does_not_adapt_it():
    learner = smooth(normalisation="support", inner_steps=2, evaluation_inner_steps=3, norm_per_step=True)
    assert {tuple(value.shape) for value in learner.gains.values()} == {(3, 4)}
    episode = random_episode(tasks=1)
    state = learner.adapt(episode.support_x, episode.support_y)
    assert not any("norm" in name for name in state["fast"])
    before = learner.predict(state, episode.query_x)
    with torch.no_grad():
        learner.gains["norm1-weight"][2] *= 1.5  # of φ_2: the queries are answered with it, no inner step sees it
    again = learner.adapt(episode.support_x, episode.support_y)
    assert all(torch.equal(state["fast"][n], again["fast"][n]) for n in state["fast"])
    assert not torch.allclose(learner.predict(again, episode.query_x), before)
    more = learner.adapt(
        episode.support_x, episode.support_y, inner_steps=3
    )  # more steps than trained: the last set goes on
    assert learner.predict(more, episode.query_x).isfinite().all()


def test_no_outer_parameter_is_left_without_a_gradient():
    """First order cuts what α_0 or the norm of φ_0 do to the loss: their gradient is zero, never None."""
    episode = random_episode(tasks=2)
    for name, options in OPTIONS.items():
        for steps in (0, 1, 3):
            for first_order in (False, True):
                learner = smooth(inner_steps=steps, **options | {"first_order": first_order})
                assert all(g.isfinite().all() for g in gradients(learner, episode).values()), name
    for cls in (ANIL, Reptile, ImplicitMAML):
        for steps in (0, 2):
            assert len(gradients(smooth(cls, inner_steps=steps), episode)) == 10


# ------------------------------------------------------------------ order by name is order by value


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("maml", {}),
        ("anil", {}),
        ("meta-sgd", {}),
        ("maml++", {"first_order_until": 0}),
        ("maml", {"checkpoint": 1}),
        ("maml", {"one_by_one": True}),
    ],
)
def test_second_order_by_name_is_second_order_by_value(method, options):
    episode = random_episode(tasks=2, way=5, shot=1, query=2, size=16)
    found = []
    for first_order in (False, True):
        shape = {"inner_steps": 2, "channels": 4, "normalisation": "support"}
        learner = learners.build(method, way=5, size=16, seed=0, first_order=first_order, **shape, **options).double()
        found.append(flat({n: g for n, g in gradients(learner, episode).items() if n.startswith("network")}))
    assert relative_error(found[1], found[0]) > 1e-3


def test_first_order_by_name_is_first_order_by_value():
    episode = random_episode(tasks=2, way=5, shot=1, query=2, size=16)
    shape = {"inner_steps": 2, "channels": 4, "way": 5, "size": 16, "seed": 0}
    named = gradients(learners.build("fomaml", **shape).double(), episode)
    option = gradients(learners.build("maml", first_order=True, **shape).double(), episode)
    assert all(torch.equal(named[n], option[n]) for n in option)


# ------------------------------------------------------------------ Reptile


class Line(nn.Module):
    """f(x) = w·x: the network of the two quadratics."""

    def __init__(self, w=0.3):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=F64))

    def forward(self, x):
        return self.w * x


def on_quadratics(cls, **options):
    """A learner of the two quadratic tasks, with their half squared error in both losses."""

    class Half(cls):
        def loss(self, prediction, target):
            return 0.5 * (prediction - target).square().mean()

    return Half(Line(), **options)


def stops_at(learner, outer_steps=400, rate=0.5):
    """Gradient descent on θ by `.backward()` alone, and where it ends."""
    optimizer = torch.optim.SGD(learner.parameters(), lr=rate)
    for step in range(outer_steps):
        optimizer.zero_grad()
        learner.outer_loss(quadratics.episode(), step=step)[0].backward()
        optimizer.step()
    return learner.network.w.item()


def test_reptiles_gradient_is_exactly_the_way_it_went():
    for one_by_one in (True, False):
        learner = learners.build(
            "reptile", way=3, size=16, seed=0, inner_steps=3, channels=4, one_by_one=one_by_one
        ).double()
        learner.all_images = False
        episode = random_episode(tasks=2, size=16)
        with torch.no_grad():
            fast = learner.adapt(episode.support_x, episode.support_y)["fast"]
        for name, value in learner.start().items():
            got = gradients(learner, episode)[f"network.{name}"]
            torch.testing.assert_close(got, value.detach() - fast[name].mean(0), rtol=1e-10, atol=1e-14)


def test_reptiles_gradient_on_a_quadratic_is_its_closed_form_and_its_metric_stands_beside_it():
    learner = on_quadratics(Reptile, inner_steps=5, inner_rate=0.2)
    value, metrics = learner.outer_loss(quadratics.episode())
    (3 * value).backward()
    expected = sum((1 - (1 - 0.2 * task.a) ** 5) * (0.3 - task.c) for task in quadratics.TASKS) / 2
    assert learner.network.w.grad.item() == pytest.approx(3 * expected, rel=1e-12)
    adapted = [task.path(0.3, steps=5)[-1] for task in quadratics.TASKS]
    losses = [task.loss(phi) for task, phi in zip(quadratics.TASKS, adapted, strict=True)]
    assert value.item() == pytest.approx(sum(losses) / 2, rel=1e-12)
    assert set(metrics) == {"error"}


@pytest.mark.parametrize(
    ("cls", "options", "expected"),
    [
        (MAML, {"inner_steps": 1, "inner_rate": 0.2}, -0.6),
        (MAML, {"inner_steps": 1, "inner_rate": 0.2, "first_order": True}, 0.0),
        (MAML, {"inner_steps": 0, "inner_rate": 0.2}, 0.6),
        (Reptile, {"inner_steps": 1, "inner_rate": 0.2}, 0.6),
        (Reptile, {"inner_steps": 5, "inner_rate": 0.2}, quadratics.common_start("Reptile", steps=5)),
        (ImplicitMAML, {"inner_steps": 60, "inner_rate": 0.25, "strength": 1.0, "iterations": 2}, -9 / 41),
    ],
)
def test_learners_stop_where_the_two_quadratics_say(cls, options, expected):
    outer = (40, 3.0) if cls is ImplicitMAML else (400, 0.5)
    assert stops_at(on_quadratics(cls, **options), *outer) == pytest.approx(expected, abs=1e-10)


def test_reptile_draws_its_batches_from_the_generator():
    episode = random_episode(tasks=2)

    def one(seed, **options):
        learner = smooth(Reptile, "group", inner_steps=3, **options)
        learner.outer_loss(episode, generator=torch.Generator().manual_seed(seed))[0].backward()
        return flat_gradient(learner)

    assert torch.equal(one(0, inner_batch=4), one(0, inner_batch=4))
    assert not torch.equal(one(0, inner_batch=4), one(1, inner_batch=4))
    assert torch.equal(one(0), one(1))
    assert torch.equal(one(0), one(0, inner_batch=99))
    assert not torch.equal(one(0), one(0, all_images=False))


# ------------------------------------------------------------------ implicit MAML


def settled(**options):
    """A smooth network, small and strongly anchored, whose inner optimum is reached."""
    made = {"inner_steps": 80, "inner_rate": 0.1, "strength": 4.0, "iterations": 40} | options
    return smooth(ImplicitMAML, "group", **made)


def test_the_implicit_gradient_is_the_dense_formula():
    learner, episode = settled(), random_episode(tasks=2)
    theta = learner.start()
    got = flat(gradients(learner, episode))
    state = learner.adapt(episode.support_x, episode.support_y)
    expected = torch.zeros_like(got)
    for task in range(2):
        phi = torch.cat([v[task].flatten() for v in state["fast"].values()])

        def at(flat_phi, x):
            parts = flat_phi.split([v.numel() for v in theta.values()])
            return learner.call({n: p.view_as(v) for (n, v), p in zip(theta.items(), parts, strict=True)}, x)

        def support(flat_phi, task=task):
            return F.cross_entropy(at(flat_phi, episode.support_x[task]), episode.support_y[task])

        def query(flat_phi, task=task):
            return F.cross_entropy(at(flat_phi, episode.query_x[task]), episode.query_y[task])

        hessian = torch.autograd.functional.hessian(support, phi)
        slope = torch.autograd.functional.jacobian(query, phi)
        expected += torch.linalg.solve(torch.eye(len(phi), dtype=F64) + hessian / 4.0, slope) / 2
    assert relative_error(got, expected) < 1e-10


def test_the_implicit_gradient_at_the_optimum_equals_richardson_differences():
    learner, episode = settled(), random_episode(tasks=1)
    f, theta = loss_at(learner, episode)
    learner.outer_loss(episode)[0].backward()
    generator = torch.Generator().manual_seed(1)
    assert gradient_error(f, theta, flat_gradient(learner), generator, directions=2) < 1e-8


def test_few_iterations_are_the_biased_answer_of_few_iterations():
    episode = random_episode(tasks=2)
    exact = flat(gradients(settled(), episode))
    errors = [relative_error(flat(gradients(settled(iterations=k), episode)), exact) for k in (1, 3, 6, 12)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3
    assert not flat(gradients(settled(iterations=0), episode)).any()
    assert relative_error(flat(gradients(settled(damping=5.0), episode)), exact) > 1e-2


def test_implicit_side_by_side_equals_one_by_one():
    episode = random_episode(tasks=3, way=5, shot=1, query=2, size=16)
    for normalisation in ("batch", "support", "none"):
        results = []
        for one_by_one in (True, False):
            options = {"channels": 4, "normalisation": normalisation, "one_by_one": one_by_one, "strength": 10.0}
            learner = learners.build("imaml", way=5, size=16, seed=0, inner_rate=0.05, **options).double()
            results.append(flat(gradients(learner, episode)))
        assert relative_error(results[1], results[0]) < 1e-10


@pytest.mark.parametrize("cls", [ImplicitMAML, Reptile])
def test_memory_is_flat_in_the_number_of_steps(cls):
    peaks = {}
    for steps in (4, 64):
        learner = smooth(cls, "group", inner_steps=steps, inner_rate=0.01)
        with saved_bytes() as saved:
            learner.outer_loss(random_episode(tasks=2))[0].backward()
        peaks[steps] = saved.peak
    assert peaks[64] <= 1.1 * peaks[4]


# ------------------------------------------------------------------ edges


METHODS = ["maml", "fomaml", "anil", "meta-sgd", "maml++", "reptile", "imaml"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fewer_classes_than_the_head_are_answered_among_themselves(method, dtype):
    wide = learners.build(method, way=5, size=16, seed=0, channels=4, inner_steps=2).to(dtype)
    episode = random_episode(tasks=2, way=3, size=16)
    x, q = episode.support_x.to(dtype), episode.query_x.to(dtype)
    logits = wide(x, episode.support_y, q)
    assert logits.shape == (2, 9, 3)
    assert logits.dtype == dtype
    narrow = learners.build(method, way=3, size=16, seed=0, channels=4, inner_steps=2).to(dtype)
    tensors = wide.state_dict()
    shapes = {name: value.shape for name, value in narrow.state_dict().items()}
    narrow.load_state_dict({n: v[tuple(slice(0, s) for s in shapes[n])] for n, v in tensors.items()})
    tolerance = 1e-10 if dtype == F64 else 1e-3
    torch.testing.assert_close(narrow(x, episode.support_y, q), logits, rtol=tolerance, atol=tolerance)
    with pytest.raises(CourseError, match=r"6 classes.*has 5.*way=6"):
        wide.adapt(x, torch.tensor([[0, 1, 2, 3, 4, 5]] * 2))


@pytest.mark.parametrize("method", METHODS)
def test_one_class_and_no_rate_and_no_steps_are_defined(method):
    one = random_episode(tasks=2, way=1, size=16)
    loss, metrics = learners.build(method, way=5, size=16, seed=0, channels=4).double().outer_loss(one)
    loss.backward()
    assert loss.item() == 0
    assert metrics == {"accuracy": 1.0} | ({"indefinite": 0.0} if method == "imaml" else {})
    episode = random_episode(tasks=2, way=5, shot=1, query=1, size=16)
    for still in ({"inner_rate": 0.0}, {"inner_steps": 0}):
        learner = learners.build(method, way=5, size=16, seed=0, channels=4, **still).double()
        fast = learner.adapt(episode.support_x, episode.support_y)["fast"]
        assert all(torch.equal(value, learner.start()[name].expand_as(value)) for name, value in fast.items())
        assert all(g.isfinite().all() for g in gradients(learner, episode).values())


@pytest.mark.parametrize("method", METHODS)
def test_answers_that_are_not_finite_are_an_error_in_evaluation(method):
    learner = learners.build(method, way=5, size=16, seed=0, channels=4, inner_steps=3, inner_rate=1e30)
    episode = random_episode(tasks=1, way=5, shot=1, query=1, size=16)
    x, q = episode.support_x.float(), episode.query_x.float()
    x = x * float("nan") if method == "anil" else x  # a linear head does not run away: its gradient is bounded
    with torch.no_grad():
        assert not learner(x, episode.support_y, q).isfinite().all()  # in training the outer loss is checked
    with pytest.raises(CourseError, match=r"not finite.*inner rate"):
        evaluate(learner, Fixed(replace(episode, support_x=x, query_x=q)), episodes=1)


@pytest.mark.parametrize("method", METHODS)
def test_saved_learners_come_back_with_their_learned_rates(tmp_path, method):
    learner = learners.build(method, way=5, size=16, seed=0, channels=4, inner_steps=2, normalisation="support")
    with torch.no_grad():
        for value in learner.parameters():
            value += 0.01 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    episode = random_episode(tasks=2, way=5, shot=1, query=2, size=16)
    data = episode.support_x.float(), episode.support_y, episode.query_x.float()
    with torch.no_grad():
        expected = learner.eval()(*data)
        learners.save(learner, tmp_path / "run")
        got = mlcourse.load(tmp_path / "run")(*data)
    assert torch.equal(got, expected)


def test_regression_is_the_same_learner_with_float_targets():
    generator = torch.Generator().manual_seed(0)
    x, q = (torch.rand(3, n, 1, generator=generator, dtype=F64) for n in (5, 7))
    none = torch.empty(3, 0, dtype=torch.long)
    batch = Episode(x, x.sin(), q, q.sin(), none, none, none)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    for cls in (MAML, Reptile, ImplicitMAML):
        learner = cls(network, inner_steps=2, inner_rate=0.1)
        found = flat(gradients(learner, batch))
        assert learner.outer_loss(batch)[1].keys() - {"indefinite"} == {"error"}
        if cls is MAML:
            f, theta = loss_at(learner, batch)
            assert gradient_error(f, theta, found, generator) < 1e-8


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (MAML, {"inner_rate": -0.1}, "inner_rate is -0.1"),
        (MAML, {"inner_rate": float("nan")}, "inner_rate is nan"),
        (MAML, {"truncate": -1}, "truncate is -1"),
        (MAML, {"checkpoint": 0}, "checkpoint is 0"),
        (MAML, {"checkpoint": 2, "truncate": 1}, "checkpoint needs inner steps that are all alike"),
        (MAML, {"checkpoint": 2, "norm_per_step": True}, "checkpoint needs inner steps that are all alike"),
        (MAML, {"learned_rates": "layers"}, "learned_rates 'layers' is unknown"),
        (MAML, {"every_step_until": -1}, "every_step_until is -1"),
        (MAML, {"first_order_until": -1}, "first_order_until is -1"),
        (ANIL, {"norm_per_step": True}, "leave norm_per_step out"),
        (Reptile, {"inner_batch": 0}, "inner_batch is 0"),
        (ImplicitMAML, {"strength": 0.0}, "strength is 0.0"),
        (ImplicitMAML, {"damping": -1.0}, "damping is -1.0"),
        (ImplicitMAML, {"iterations": -1}, "iterations is -1"),
    ],
)
def test_bad_options_are_named(cls, options, message):
    with pytest.raises(CourseError, match=message):
        smooth(cls, **options)


@pytest.mark.parametrize("one_by_one", [True, False])
def test_anil_takes_a_head_that_is_partly_frozen(one_by_one):
    learner = learners.build("anil", way=3, size=16, seed=0, channels=4, inner_steps=2, one_by_one=one_by_one).double()
    learner.network.head.bias.requires_grad_(False)
    episode = random_episode(tasks=2, size=16)
    state = learner.adapt(episode.support_x, episode.support_y)
    assert set(state["fast"]) == {"head.weight"}
    before = learner.predict(state, episode.query_x)
    assert "network.head.bias" not in gradients(learner, episode)
    with torch.no_grad():
        learner.network.head.bias += torch.tensor([0.0, 0.0, 7.0])
    torch.testing.assert_close(learner.predict(state, episode.query_x)[..., 2], before[..., 2] + 7)


def test_anil_takes_a_head_without_a_bias():
    network = Smooth("batch")
    network.head = nn.Linear(network.head.in_features, 3, bias=False)
    learner, episode = ANIL(network.double(), inner_steps=2), random_episode(tasks=2)
    f, theta = loss_at(learner, episode)
    learner.outer_loss(episode)[0].backward()
    assert gradient_error(f, theta, flat_gradient(learner), torch.Generator().manual_seed(1)) < 1e-8


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(CourseError, match="linear layer called head"):
        ANIL(nn.Linear(2, 2))
    with pytest.raises(CourseError, match="norm_per_step needs a network with normalisation"):
        MAML(Smooth("none"), norm_per_step=True)


def test_a_surrogate_leaves_its_gradients_and_adds_to_others():
    a, b = torch.zeros(2, requires_grad=True), torch.zeros(3, requires_grad=True)
    value = surrogate(torch.tensor(4.0), [a, b], [torch.tensor([1.0, 2.0]), torch.ones(3)])
    assert value.item() == 4
    (0.5 * value + a.sum()).backward()
    assert a.grad.tolist() == [1.5, 2.0]
    assert b.grad.tolist() == [0.5] * 3


@pytest.mark.parametrize("strength", [1e-3, 1e3])
def test_the_implicit_learner_says_where_its_matrix_is_not_positive_definite(strength):
    """At random weights a network with batch normalisation has negative curvature; a strong leash outweighs it."""
    learner = smooth(ImplicitMAML, inner_steps=1, strength=strength, inner_rate=1e-4, iterations=20)
    episode = random_episode(tasks=3)
    share = learner.outer_loss(episode)[1]["indefinite"]
    assert share == (1.0 if strength < 1 else 0.0)


def test_surrogates_that_do_not_fit_or_hide_a_lost_graph_are_refused():
    w, v = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    with pytest.raises(CourseError, match=r"\(3,\), \(2,\); the parameters have \(2,\), \(3,\)"):
        surrogate(torch.zeros(()), [w, v], [torch.zeros(3), torch.zeros(2)])
    with pytest.raises(CourseError, match="give each its own"):
        surrogate(torch.zeros(()), [w, v], [torch.zeros(2)])
    with pytest.raises(CourseError, match="no graph"):
        with_zeros(torch.zeros(()), [w])
    with torch.no_grad():
        lost = with_zeros(w.sum(), [v])
    assert not lost.requires_grad  # a number, and no gradient of zeros
