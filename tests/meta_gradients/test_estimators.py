"""The three ways to a meta-gradient, the rules for differences, the image task, and the eight implementations."""

import pytest
import torch
from torch import nn

from mlcourse import inner
from mlcourse.episodes import Episode
from mlcourse.errors import CourseError
from mlcourse.lessons.by_hand import implementations
from mlcourse.lessons.by_hand.implementations import LINE_UP, ORDERS, TRUTH, UNSEEN
from mlcourse.meta_gradients import estimators
from mlcourse.meta_gradients.estimators import Task


def images(tasks=2, channels=1, size=28):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat(tasks, 1)
    none = torch.empty(tasks, 0, dtype=torch.int64)
    x, q = (torch.rand(tasks, 5, channels, size, size, generator=generator) for _ in range(2))
    return Episode(x, labels, q, labels, none, none, none)


def image_task(steps=2, rate=0.3, activation=nn.Tanh, **shape):
    torch.manual_seed(0)
    network = estimators.small_network(shape.get("channels", 1), 5, activation)
    forward, theta = estimators.as_function(network)
    return theta, estimators.image_task(forward, images(**shape), 1, steps=steps, rate=rate)


# ------------------------------------------------------------------ the ways


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_hand_autograd_and_differences_agree(steps):
    theta, task = image_task(steps)
    hand, auto = estimators.by_hand(theta, task), estimators.by_autograd(theta, task)
    assert (hand - auto).norm() <= 1e-13 * auto.norm()
    v = torch.randn(theta.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    v = v / v.norm()
    slope = estimators.richardson(lambda at: estimators.meta_loss(at, task), theta, v, 3e-3)
    assert float(hand @ v) == pytest.approx(slope, rel=1e-8)
    cheap = estimators.first_order(theta, task)
    assert torch.equal(cheap, hand) if steps == 0 else (cheap - hand).norm() > 0.02 * hand.norm()


def test_differences_of_all_weights():
    theta, task = implementations.curved_task()
    right = estimators.by_hand(theta, task)
    assert (estimators.by_differences(theta, task) - right).norm() < 1e-10 * right.norm()
    assert estimators.by_differences(theta, task).dtype == torch.float64


def test_the_path_is_the_inner_loop():
    theta, task = image_task(3)
    fast = inner.adapt(
        lambda params, _: params["w"],
        {"w": theta.clone().requires_grad_()},
        theta,
        theta,
        steps=3,
        rate=task.rate,
        loss=lambda w, _: task.inner_loss(w),
        create_graph=False,
    )
    phis = estimators.path(theta, task)
    assert len(phis) == 4
    assert torch.equal(phis[0], theta)
    assert torch.allclose(phis[-1], fast["w"], rtol=0, atol=1e-14)
    assert not any(phi.requires_grad for phi in phis)


def test_hessian_vector_against_the_dense_hessian():
    theta, task = image_task()
    v = torch.randn(theta.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dense = torch.autograd.functional.hessian(task.inner_loss, theta)
    product = estimators.hessian_vector(task.inner_loss, theta, v)
    assert torch.allclose(product, dense @ v, rtol=1e-10, atol=1e-12)
    linear = estimators.hessian_vector(lambda phi: (3 * phi).sum(), theta, v)
    assert torch.equal(linear, torch.zeros_like(theta))


def test_rate_gradient_against_differences():
    theta, task = image_task(3)

    def at(rate):
        return estimators.meta_loss(theta, Task(task.inner_loss, task.outer_loss, 3, float(rate)))

    one = torch.ones((), dtype=torch.float64)
    slope = estimators.richardson(at, one * task.rate, one, 1e-3)
    assert float(estimators.rate_gradient(theta, task)) == pytest.approx(slope, rel=1e-6)


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(CourseError, match="steps is -1"):
        Task(lambda phi: phi.sum(), lambda phi: phi.sum(), steps=-1)


# ------------------------------------------------------------------ differences, jumps, images


def test_the_rules_have_their_orders():
    """The error of each rule falls by 2 to its order when h is halved."""
    x, v = torch.tensor([0.3], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    f, right = lambda at: torch.exp(at).sum(), float(torch.tensor(0.3, dtype=torch.float64).exp())
    for rule, order in (
        (estimators.forward_difference, 1),
        (estimators.central_difference, 2),
        (estimators.richardson, 4),
    ):
        coarse, fine = (abs(rule(f, x, v, h) - right) for h in (0.1, 0.05))
        assert coarse / fine == pytest.approx(2**order, rel=0.05)


def test_find_jump():
    x, v = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    f = lambda at: (0.01 * at + (at > 0.123456)).sum()  # noqa: E731
    assert estimators.find_jump(f, x, v, reach=1.0) == pytest.approx(0.123456, abs=1e-9)


def test_relu_tears_the_outer_loss_and_tanh_does_not():
    v = None
    for activation, torn in ((nn.ReLU, True), (nn.Tanh, False)):
        theta, task = image_task(1, activation=activation)
        if v is None:
            v = torch.randn(theta.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
            v = v / v.norm()
        loss = lambda at, task=task: estimators.meta_loss(at, task)  # noqa: E731
        here = theta + estimators.find_jump(loss, theta, v, reach=0.5) * v
        height = abs(float(loss(here + 1e-9 * v) - loss(here - 1e-9 * v)))
        assert (height > 1e-6) == torn


@pytest.mark.parametrize("shape", [{}, {"channels": 3, "size": 84}, {"size": 14}])
def test_image_tasks_of_any_size(shape):
    theta, task = image_task(**shape)
    assert estimators.by_hand(theta, task).shape == theta.shape


def test_as_function_is_the_network():
    torch.manual_seed(0)
    network = estimators.small_network(1, 5)
    forward, theta = estimators.as_function(network)
    x = torch.rand(3, 1, 14, 14, dtype=torch.float64)
    assert torch.equal(forward(theta, x), network(x))
    assert theta.shape == (sum(p.numel() for p in network.parameters()),)


# ------------------------------------------------------------------ implementations


@pytest.mark.parametrize("black_box", [*LINE_UP, *UNSEEN], ids=lambda one: one.__name__)
def test_each_implementation_is_what_it_is_said_to_be(black_box):
    """By value, against the two formulas, on the detector's task and on images; φ_T is right in all of them."""
    for theta, task in (implementations.curved_task(), image_task(), image_task(1)):
        before = theta.clone()
        given = black_box(theta, task)
        exact, first = estimators.by_hand(theta, task), estimators.first_order(theta, task)
        close = [(given - slope).norm() < 1e-10 * slope.norm() for slope in (exact, first)]
        assert close == [TRUTH[black_box.__name__] == kind for kind in ORDERS[:2]]
        assert torch.equal(theta, before)
        assert not theta.requires_grad
    assert implementations.order(black_box) == TRUTH[black_box.__name__]


def test_the_line_up_has_two_of_each():
    kinds = [TRUTH[one.__name__] for one in LINE_UP]
    assert sorted(kinds) == sorted(2 * ORDERS)
    assert set(TRUTH) == {one.__name__ for one in (*LINE_UP, *UNSEEN)}


WAYS = ("by_hand", "first_order", "by_autograd", "by_differences", "rate_gradient")


@pytest.mark.parametrize("name", WAYS)
def test_an_inner_process_that_runs_away_is_an_error(name):
    theta = torch.tensor([0.4, -0.9], dtype=torch.float64)
    wild = Task(lambda phi: (phi**2).sum(), lambda phi: (phi**4).sum(), steps=500, rate=5.0)
    with pytest.raises(CourseError, match="not finite after 500 inner steps with rate 5; use a smaller rate"):
        getattr(estimators, name)(theta, wild)
    assert len(estimators.path(theta, wild)) == 501  # to look at


def test_numbers_out_of_range_are_refused():
    x, one = torch.zeros(1), torch.ones(1)
    for rule in (estimators.forward_difference, estimators.central_difference, estimators.richardson):
        for h in (0.0, -1e-3, float("nan"), float("inf")):
            with pytest.raises(CourseError, match="h is "):
                rule(lambda x: x.sum(), x, one, h)
    for rate in (float("nan"), float("inf")):
        with pytest.raises(CourseError, match=f"rate is {rate}"):
            Task(torch.sum, torch.sum, rate=rate)
    with pytest.raises(CourseError, match="points is 1"):
        estimators.find_jump(torch.sum, x, one, 1.0, points=1)
    with pytest.raises(CourseError, match="reach is 0"):
        estimators.find_jump(torch.sum, x, one, 0.0)


@pytest.mark.parametrize("rule", [estimators.forward_difference, estimators.central_difference, estimators.richardson])
def test_a_direction_of_another_shape_is_refused(rule):
    x = torch.ones(3, dtype=torch.float64)
    with pytest.raises(CourseError, match=r"x and v have the shapes \(3,\) and \(1,\); give a direction like x"):
        rule(lambda at: at.square().sum(), x, torch.ones(1, dtype=torch.float64), 1e-3)


@pytest.mark.parametrize("steps", [1.5, True, -1, "2"])
def test_a_task_takes_whole_steps(steps):
    with pytest.raises(CourseError, match=r"steps is .*; give a whole number, 0 or more"):
        Task(lambda phi: phi.sum(), lambda phi: phi.sum(), steps=steps)
