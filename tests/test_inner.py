"""The inner loop against closed forms and finite differences."""

from itertools import pairwise

import pytest
import torch
from core_helpers import Smooth, flat_gradient, loss_at, random_episode
from torch import nn

from mlcourse import inner
from mlcourse.errors import CourseError
from mlcourse.learners import MAML
from mlcourse.meta_gradients.saved_bytes import saved_bytes
from mlcourse.teaching.oracles import gradient_error


def quadratic(a, c):
    """A task as data: the "prediction" is φ itself, the loss ½ a (φ − c)²."""
    return lambda params, x: params["phi"], lambda phi, y: 0.5 * a * (phi - c) ** 2


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("first_order", [False, True])
def test_the_meta_gradient_of_a_quadratic_is_its_closed_form(steps, first_order):
    a, c, rate, theta = 4.0, 1.0, 0.2, torch.tensor(-0.3, dtype=torch.float64, requires_grad=True)
    forward, loss = quadratic(a, c)
    fast = inner.adapt(
        forward, {"phi": theta}, theta, theta, steps=steps, rate=rate, loss=loss, first_order=first_order
    )
    (got,) = torch.autograd.grad(loss(fast["phi"], None), theta)
    shrink = (1 - rate * a) ** steps
    assert fast["phi"].item() == pytest.approx(c + shrink * (theta.item() - c), rel=1e-12)
    expected = a * shrink * (theta.item() - c) * (1 if first_order else shrink)
    assert got.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("normalisation", ["batch", "support", "group", "none"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_meta_gradient_equals_richardson_differences(normalisation, steps):
    torch.manual_seed(0)
    learner = MAML(Smooth(normalisation).double(), inner_steps=steps, inner_rate=0.4)
    episode = random_episode(tasks=2)
    f, theta = loss_at(learner, episode)
    generator = torch.Generator().manual_seed(1)
    learner.outer_loss(episode)[0].backward()
    assert gradient_error(f, theta, flat_gradient(learner), generator) < 1e-8

    learner.zero_grad()
    learner.first_order = True
    learner.outer_loss(episode)[0].backward()
    learner.first_order = False  # f must stay the true loss
    assert gradient_error(f, theta, flat_gradient(learner), generator) > 1e-3


def test_first_order_is_the_outer_gradient_at_the_adapted_parameters():
    torch.manual_seed(0)
    learner = MAML(Smooth("group").double(), inner_steps=2, inner_rate=0.4, first_order=True)
    episode = random_episode(tasks=1)
    learner.outer_loss(episode)[0].backward()
    fast = learner.adapt(episode.support_x, episode.support_y)["fast"]
    fast = {name: value[0].detach().requires_grad_() for name, value in fast.items()}
    loss = torch.nn.functional.cross_entropy(learner.call(fast, episode.query_x[0]), episode.query_y[0])
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(fast.values()))])
    torch.testing.assert_close(flat_gradient(learner), expected, rtol=1e-12, atol=1e-14)


def test_adapt_changes_nothing_that_came_in():
    network = Smooth("none").double()
    theta = inner.parameters(network)
    before = {name: value.clone() for name, value in theta.items()}
    x, y = torch.rand(4, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])

    def forward(params, x):
        return torch.func.functional_call(network, params, (x,))

    one = inner.adapt(forward, theta, x, y, steps=3, rate=0.1)
    two = inner.adapt(forward, theta, x, y, steps=3, rate=0.1)
    for name, value in theta.items():
        assert torch.equal(value, before[name])
        assert torch.equal(one[name], two[name])
        assert not torch.equal(one[name], value)
        assert value.grad is None


def test_adapt_matches_torch_sgd():
    torch.manual_seed(0)
    network = Smooth("batch").double()
    x, y = torch.rand(6, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])

    def forward(params, x):
        return torch.func.functional_call(network, params, (x,))

    fast = inner.adapt(forward, inner.parameters(network), x, y, steps=4, rate=0.3, create_graph=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
    for _ in range(4):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    for name, value in network.named_parameters():
        torch.testing.assert_close(fast[name], value.detach(), rtol=1e-12, atol=1e-14)
        assert not fast[name].requires_grad


def test_a_rate_per_parameter_gets_its_own_gradient():
    rate = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    theta = torch.tensor(-0.3, dtype=torch.float64, requires_grad=True)
    forward, loss = quadratic(2.0, 1.0)
    fast = inner.adapt(forward, {"phi": theta}, theta, theta, steps=1, rate={"phi": rate}, loss=loss)
    (got,) = torch.autograd.grad(fast["phi"], rate)
    assert got.item() == pytest.approx(-2.0 * (-0.3 - 1.0), rel=1e-12)  # −∇L_inner(θ)


def test_a_parameter_that_the_loss_ignores_gets_zeros_not_none():
    params = {"used": torch.ones(2, requires_grad=True), "unused": torch.ones(3, requires_grad=True)}
    grads = inner.gradient(params["used"].sum(), params)
    assert torch.equal(grads["unused"], torch.zeros(3))


def test_under_no_grad_adapt_still_adapts_and_returns_detached_tensors():
    theta = {"phi": torch.tensor(0.0, requires_grad=True)}
    forward, loss = quadratic(1.0, 1.0)
    with torch.no_grad():
        fast = inner.adapt(forward, theta, theta["phi"], theta["phi"], steps=2, rate=0.5, loss=loss, create_graph=False)
    assert fast["phi"].item() == pytest.approx(0.75)
    assert not fast["phi"].requires_grad


@pytest.mark.parametrize("create_graph", [True, False])
def test_without_gradients_there_is_no_inner_process(create_graph):
    forward, loss = quadratic(1.0, 1.0)
    settings = {"steps": 1, "rate": 0.5, "loss": loss, "create_graph": create_graph}
    theta = torch.tensor(0.0, requires_grad=True)
    with torch.inference_mode(), pytest.raises(CourseError, match=r"inference_mode.*use torch.no_grad"):
        inner.adapt(forward, {"phi": theta}, theta, theta, **settings)
    with pytest.raises(CourseError, match="nothing can be adapted"):
        inner.adapt(lambda params, x: theta, {}, theta, theta, **settings)


def test_negative_steps_are_refused():
    theta = {"phi": torch.tensor(0.0, requires_grad=True)}
    forward, loss = quadratic(1.0, 1.0)
    with pytest.raises(CourseError, match="steps is -1"):
        inner.adapt(forward, theta, theta["phi"], theta["phi"], steps=-1, rate=0.5, loss=loss)


# ------------------------------------------------------------------ truncated, checkpointed


def problem(steps, seed=0, normalisation="batch"):
    """A smooth network, its θ, and the keyword arguments of an unroll of `steps` steps."""
    torch.manual_seed(seed)
    network = Smooth(normalisation).double()
    episode = random_episode(tasks=1)

    def forward(params, x):
        return torch.func.functional_call(network, params, (x,))

    def outer(fast):
        return torch.nn.functional.cross_entropy(forward(fast, episode.query_x[0]), episode.query_y[0])

    arguments = (forward, inner.parameters(network), episode.support_x[0], episode.support_y[0])
    return arguments, {"steps": steps, "rate": 0.3}, outer


def meta_gradient(adapt, arguments, outer, **options):
    theta = arguments[1]
    grads = torch.autograd.grad(outer(adapt(*arguments, **options)), list(theta.values()))
    return torch.cat([g.flatten() for g in grads])


def test_truncation_goes_from_first_order_to_exact():
    arguments, settings, outer = problem(steps=4)
    exact = meta_gradient(inner.adapt, arguments, outer, **settings)
    first = meta_gradient(inner.adapt, arguments, outer, **settings, first_order=True)
    cut = [meta_gradient(inner.adapt_truncated, arguments, outer, **settings, last=k) for k in range(6)]
    assert torch.equal(cut[0], first)
    assert torch.equal(cut[4], exact)
    assert torch.equal(cut[5], exact)
    errors = [(g - exact).norm().item() for g in cut[:5]]
    assert all(a > b for a, b in pairwise(errors))


@pytest.mark.parametrize("last", [0, 1, 3, 5])
def test_the_truncated_gradient_of_a_quadratic_is_its_closed_form(last):
    a, c, rate, steps = 4.0, 1.0, 0.2, 5
    theta = torch.tensor(-0.3, dtype=torch.float64, requires_grad=True)
    forward, loss = quadratic(a, c)
    fast = inner.adapt_truncated(
        forward, {"phi": theta}, theta, theta, steps=steps, last=last, rate=rate, loss=loss
    )  # the factor of each step that carries no graph is 1, not 1 − αa
    (got,) = torch.autograd.grad(loss(fast["phi"], None), theta)
    expected = a * (1 - rate * a) ** (steps + last) * (theta.item() - c)
    assert got.item() == pytest.approx(expected, rel=1e-12)


def test_truncation_needs_memory_for_its_last_steps_only():
    peaks = {}
    for steps, last in ((4, 4), (4, 2), (32, 2), (32, 0)):
        arguments, settings, outer = problem(steps)
        with saved_bytes() as saved:
            outer(inner.adapt_truncated(*arguments, **settings, last=last)).backward()
        peaks[steps, last] = saved.peak
    assert peaks[32, 2] == peaks[4, 2] < 0.7 * peaks[4, 4]
    assert peaks[32, 0] < 0.7 * peaks[4, 2]


@pytest.mark.parametrize("every", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("normalisation", ["batch", "group", "none"])
def test_the_checkpointed_gradient_is_the_plain_one_to_the_last_bit(every, normalisation):
    arguments, settings, outer = problem(steps=7, normalisation=normalisation)
    plain = inner.adapt(*arguments, **settings)
    kept = inner.adapt_checkpointed(*arguments, **settings, every=every)
    assert all(torch.equal(plain[name], kept[name]) for name in plain)
    expected = meta_gradient(inner.adapt, arguments, outer, **settings)
    assert torch.equal(meta_gradient(inner.adapt_checkpointed, arguments, outer, **settings, every=every), expected)


def test_checkpoints_pass_gradients_to_learned_rates_and_to_the_support_set():
    arguments, _, outer = problem(steps=5, normalisation="none")
    forward, theta, x, y = arguments
    x = x.clone().requires_grad_()
    rates = {name: torch.full_like(value, 0.2, requires_grad=True) for name, value in theta.items()}
    wanted = [*theta.values(), *rates.values(), x]
    grads = []
    for adapt, options in ((inner.adapt, {}), (inner.adapt_checkpointed, {"every": 2})):
        fast = adapt(forward, theta, x, y, steps=5, rate=rates, **options)
        grads.append(torch.autograd.grad(outer(fast), wanted))
    for plain, kept in zip(*grads, strict=True):
        torch.testing.assert_close(kept, plain, rtol=1e-12, atol=1e-15)  # sums of blocks: another order of addition
    one = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(outer(inner.adapt(*arguments, steps=5, rate=one)), one)
    (got,) = torch.autograd.grad(outer(inner.adapt_checkpointed(*arguments, steps=5, rate=one, every=2)), one)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_a_checkpointed_unroll_refuses_to_lose_a_gradient():
    theta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    hidden = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def loss(phi, y):
        return (torch.exp(hidden) * phi**2).sum()

    fast = inner.adapt_checkpointed(
        lambda p, x: p["phi"], {"phi": theta}, theta, theta, steps=4, every=2, rate=0.1, loss=loss
    )
    with pytest.raises(CourseError, match="came in through forward or loss"):
        fast["phi"].backward()


def test_a_checkpointed_unroll_says_that_it_can_be_differentiated_once():
    """A gradient with a graph would lack the second derivative through the unroll, and nothing would tell."""
    arguments, settings, outer = problem(steps=4, normalisation="none")
    loss = outer(inner.adapt_checkpointed(*arguments, **settings, every=2))
    with pytest.raises(CourseError, match="differentiated once"):
        torch.autograd.grad(loss, arguments[1]["head.weight"], create_graph=True)


def test_checkpoints_keep_the_memory_of_a_long_unroll_flat():
    """The bar: 36 steps keep at most 3 × the bytes of 4 steps, what backward recomputes included."""
    peaks = {}
    for steps in (4, 36):
        for every in (None, 2, 4):
            arguments, settings, outer = problem(steps)
            adapt = inner.adapt if every is None else inner.adapt_checkpointed
            with saved_bytes() as saved:
                outer(adapt(*arguments, **settings, **({} if every is None else {"every": every}))).backward()
            peaks[steps, every] = saved.peak
            assert saved.now == 0  # nothing is left when the graph is gone
    assert peaks[36, None] > 6 * peaks[4, None]
    assert peaks[36, 4] <= 3 * peaks[4, 4]
    assert peaks[36, 2] <= 3 * peaks[4, 2]


@pytest.mark.parametrize("bad", [{"every": 0}, {"every": -2}])
def test_a_bad_distance_of_checkpoints_is_refused(bad):
    arguments, settings, _ = problem(steps=4)
    with pytest.raises(CourseError, match=f"every is {bad['every']}"):
        inner.adapt_checkpointed(*arguments, **settings, **bad)


# ------------------------------------------------------------------ edges


VARIANTS = [
    (inner.adapt, {}),
    (inner.adapt, {"first_order": True}),
    (inner.adapt, {"create_graph": False}),
    (inner.adapt_truncated, {"last": 1}),
    (inner.adapt_checkpointed, {"every": 1}),
]


@pytest.mark.parametrize(("adapt", "options"), VARIANTS)
def test_rates_of_any_sign_are_taken_at_their_word(adapt, options):
    forward, loss = quadratic(2.0, 1.0)
    theta = torch.tensor(-0.3, dtype=torch.float64, requires_grad=True)
    for rate in (0.0, -0.25, 0.25):
        fast = adapt(forward, {"phi": theta}, theta, theta, steps=3, rate=rate, loss=loss, **options)["phi"]
        assert fast.item() == pytest.approx(1 + (1 - 2 * rate) ** 3 * -1.3, rel=1e-12)
        if rate == 0 and fast.requires_grad:
            assert torch.autograd.grad(loss(fast, None), theta)[0].item() == pytest.approx(2 * -1.3, rel=1e-12)


@pytest.mark.parametrize(("adapt", "options"), VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_steps_and_precisions(adapt, options, dtype):
    network = Smooth("batch").to(dtype)
    theta = inner.parameters(network)
    x, y = torch.rand(4, 1, 8, 8, dtype=dtype), torch.tensor([0, 1, 2, 0])

    def forward(params, x):
        return torch.func.functional_call(network, params, (x,))

    none = adapt(forward, theta, x, y, steps=0, rate=0.1, **options)
    some = adapt(forward, theta, x, y, steps=3, rate=0.1, **options)
    for name, value in theta.items():
        assert torch.equal(none[name], value)
        assert some[name].dtype == dtype
        assert some[name].requires_grad == options.get("create_graph", True)


@pytest.mark.parametrize(("adapt", "options"), VARIANTS)
def test_one_class_has_nothing_to_learn(adapt, options):
    network = Smooth("none", way=1).double()
    theta = inner.parameters(network)
    fast = adapt(
        lambda p, x: torch.func.functional_call(network, p, (x,)),
        theta,
        torch.rand(3, 1, 8, 8, dtype=torch.float64),
        torch.zeros(3, dtype=torch.long),
        steps=3,
        rate=0.5,
        **options,
    )
    assert all(torch.equal(fast[name], theta[name]) for name in theta)  # cross-entropy of one class is 0 everywhere


@pytest.mark.parametrize(("adapt", "options"), VARIANTS)
def test_a_loss_that_is_not_finite_shows_in_the_result(adapt, options):
    theta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    fast = adapt(
        lambda p, x: p["phi"],
        {"phi": theta},
        theta,
        theta,
        steps=3,
        rate=0.1,
        loss=lambda phi, y: torch.log(phi - 0.5),
        **options,
    )
    assert not fast["phi"].isfinite()


# ------------------------------------------------------------------ any loss


@pytest.mark.parametrize(("first_order", "create_graph"), [(False, True), (True, True), (False, False)])
def test_adapt_is_descent_on_the_loss_of_a_support_set(first_order, create_graph):
    (forward, theta, x, y), settings, outer = problem(steps=3)
    options = {"first_order": first_order, "create_graph": create_graph}
    adapted = inner.adapt(forward, theta, x, y, **settings, **options)
    loss = torch.nn.functional.cross_entropy
    descended = inner.descend(lambda fast: loss(forward(fast, x), y), theta, 3, settings["rate"], **options)
    assert all(torch.equal(adapted[name], descended[name]) for name in theta)
    if create_graph:
        grads = [torch.autograd.grad(outer(fast), list(theta.values())) for fast in (adapted, descended)]
        assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


def test_descent_is_on_any_loss_and_has_its_closed_form():
    """φ_T = c + (1 − αa)^T (θ − c), and its derivative with respect to θ and to what the loss holds."""
    theta, centre = torch.tensor([0.3, -2.0], dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    theta.requires_grad_(), centre.requires_grad_()
    fast = inner.descend(lambda p: 1.5 * (p["phi"] - centre).square().sum(), {"phi": theta}, 4, 0.1)["phi"]
    shrink = (1 - 0.1 * 3) ** 4
    torch.testing.assert_close(fast, centre + shrink * (theta - centre))
    to_theta, to_centre = torch.autograd.grad(fast.sum(), (theta, centre))
    torch.testing.assert_close(to_theta, torch.full_like(theta, shrink))
    torch.testing.assert_close(to_centre, torch.tensor(2 * (1 - shrink), dtype=torch.float64))
    with pytest.raises(CourseError, match="steps is -1"):
        inner.descend(lambda p: p["phi"].sum(), {"phi": theta}, -1, 0.1)


@pytest.mark.parametrize("dim", [0, 1, -1, -2])
def test_weight_normalisation_over_every_dimension(dim):
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 5).double(), dim=dim)
    x = torch.rand(3, 4, dtype=torch.float64)
    found = inner.call(layer, inner.parameters(layer), x)
    assert torch.allclose(found, layer(x), rtol=1e-12)


def test_a_parametrization_made_from_weight_normalisation_is_refused():
    class Twice(inner.WEIGHT_NORM):
        def forward(self, g, v):
            return 2 * super().forward(g, v)

    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))
    layer.parametrizations.weight[0].__class__ = Twice
    with pytest.raises(CourseError, match="Twice is made from"):
        inner.call(layer, inner.parameters(layer), torch.rand(3, 4))


def test_weights_that_are_kept_are_refused():
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))
    with torch.nn.utils.parametrize.cached(), pytest.raises(CourseError, match="cached"):
        inner.call(layer, inner.parameters(layer), torch.rand(3, 4))
    plain = nn.Linear(4, 5)
    with torch.nn.utils.parametrize.cached():
        assert inner.call(plain, inner.parameters(plain), torch.rand(3, 4)).shape == (3, 5)
