"""The inner loop against closed forms and finite differences."""

import pytest
import torch
from core_helpers import Smooth, flat_gradient, loss_at, random_episode

from mlcourse import inner
from mlcourse.checks.oracles import gradient_error
from mlcourse.errors import CourseError
from mlcourse.learners import MAML


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
    learner = MAML(Smooth(normalisation).double(), steps=steps, inner_rate=0.4)
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
    learner = MAML(Smooth("group").double(), steps=2, inner_rate=0.4, first_order=True)
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


def test_negative_steps_are_refused():
    theta = {"phi": torch.tensor(0.0, requires_grad=True)}
    forward, loss = quadratic(1.0, 1.0)
    with pytest.raises(CourseError, match="steps is -1"):
        inner.adapt(forward, theta, theta["phi"], theta["phi"], steps=-1, rate=0.5, loss=loss)
