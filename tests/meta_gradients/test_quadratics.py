"""The closed forms of the two quadratics, against the real inner loop and against gradient descent on θ."""

import math

import pytest
import torch

from mlcourse import inner
from mlcourse.errors import CourseError
from mlcourse.meta_gradients import quadratics

KNOWN = {"joint": 0.6, "first-order MAML": 0.0, "MAML": -0.6, "Reptile": 0.6, "iMAML": -9 / 41}
OTHERS = (quadratics.Quadratic(0.5, 2.0), quadratics.Quadratic(3.0, -1.5), quadratics.Quadratic(1.7, 0.3))


def forward(params, x):
    return params["w"] * x


def half_squared_error(prediction, target):
    return 0.5 * ((prediction - target) ** 2).sum()


def adapted(theta, batch, i, steps, rate, **options):
    return inner.adapt(
        forward,
        {"w": theta},
        batch.support_x[i],
        batch.support_y[i],
        steps=steps,
        rate=rate,
        loss=half_squared_error,
        **options,
    )["w"]


def force(method, theta, tasks, rate, steps, damping):
    """What a method adds to −θ in one outer step, from the real inner loop: no closed form in it."""
    batch = quadratics.episode(tasks)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(tasks)):
        if method == "iMAML":
            x, y = quadratics.proximal_support(batch.task(i), theta, damping)
            phi = inner.adapt(forward, {"w": theta}, x, y, steps=160, rate=0.25, loss=half_squared_error)["w"]
        else:
            t = 0 if method == "joint" else steps
            phi = adapted(theta, batch, i, t, rate, first_order=method == "first-order MAML")
        if method == "Reptile":
            total = total + (theta - phi).detach()
        else:
            outer = half_squared_error(phi * batch.query_x[i], batch.query_y[i])
            total = total + torch.autograd.grad(outer, theta)[0]
    return total


def test_the_numbers_of_the_course():
    for method, theta in KNOWN.items():
        assert quadratics.common_start(method) == pytest.approx(theta, abs=1e-12)
    assert quadratics.common_start("Reptile", steps=5) == pytest.approx(0.196, abs=5e-4)


@pytest.mark.parametrize("tasks", [quadratics.TASKS, OTHERS], ids=["course", "three others"])
@pytest.mark.parametrize(("steps", "rate"), [(1, 0.2), (3, 0.1), (4, 0.3)])
@pytest.mark.parametrize("method", quadratics.METHODS)
def test_the_real_force_is_the_weighted_mean(method, tasks, steps, rate):
    for start in (-0.7, 0.4):
        theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        weights = [quadratics.weight(method, task.a, rate=rate, steps=steps, damping=0.8) for task in tasks]
        expected = sum(w * (start - task.c) for w, task in zip(weights, tasks, strict=True))
        assert force(method, theta, tasks, rate, steps, 0.8).item() == pytest.approx(expected, abs=1e-12)
    fixed = quadratics.common_start(method, tasks, rate=rate, steps=steps, damping=0.8)
    assert sum(w * (fixed - task.c) for w, task in zip(weights, tasks, strict=True)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("method", quadratics.METHODS)
def test_descent_by_the_real_force_stops_there(method):
    theta = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    for _ in range(200):
        theta = (theta - 0.4 * force(method, theta, quadratics.TASKS, 0.2, 1, 1.0) / 2).detach().requires_grad_()
        if method == "iMAML":  # its force is the weakest and its inner loop the longest: a few steps show the factor
            break
    distance = theta.item() - KNOWN[method]
    if method == "iMAML":
        assert distance == pytest.approx((1.5 - KNOWN[method]) * (1 - 0.4 * 0.41 / 2), abs=1e-12)
    else:
        assert distance == pytest.approx(0, abs=1e-12)


def test_path_and_meta_loss_are_the_inner_loop():
    batch = quadratics.episode()
    theta = torch.tensor(0.35, dtype=torch.float64, requires_grad=True)
    for steps in (0, 1, 4):
        landed = [adapted(theta, batch, i, steps, 0.2).item() for i in range(2)]
        assert landed == pytest.approx([task.path(0.35, steps=steps)[-1] for task in quadratics.TASKS], abs=1e-12)
        mean = sum(task.loss(phi) for task, phi in zip(quadratics.TASKS, landed, strict=True)) / 2
        assert quadratics.meta_loss(0.35, steps=steps) == pytest.approx(mean, abs=1e-12)
    assert quadratics.TASKS[0].path(0.0, steps=2) == pytest.approx([0.0, -0.2, -0.36], abs=1e-12)
    grid = torch.linspace(-2, 2, 9, dtype=torch.float64)
    assert torch.equal(quadratics.meta_loss(grid)[3], quadratics.meta_loss(grid[3]))


def test_a_task_is_one_example():
    batch = quadratics.episode(OTHERS)
    assert batch.support_x.shape == (3, 1)
    assert batch.way == 0
    for phi in (-1.0, 0.2):
        for i, task in enumerate(OTHERS):
            loss = half_squared_error(phi * batch.query_x[i], batch.query_y[i])
            assert loss.item() == pytest.approx(task.loss(phi), abs=1e-12)


def test_maml_minimises_and_first_order_does_not():
    at = {m: quadratics.meta_loss(quadratics.common_start(m)) for m in ("joint", "first-order MAML", "MAML")}
    assert at["MAML"] < at["first-order MAML"] < at["joint"]
    h = 1e-4
    slope = {
        m: (quadratics.meta_loss(KNOWN[m] + h) - quadratics.meta_loss(KNOWN[m] - h)) / (2 * h)
        for m in ("first-order MAML", "MAML")
    }
    assert slope["MAML"] == pytest.approx(0, abs=1e-9)
    assert slope["first-order MAML"] == pytest.approx(0.24, abs=1e-9)


def test_where_descent_runs_away():
    """At α = 0.3 the steep task's step overshoots: the force of first-order MAML points away from its fixed point."""
    options = {"rate": 0.3, "steps": 1}
    fixed = quadratics.common_start("first-order MAML", **options)
    theta = torch.tensor(fixed + 0.1, dtype=torch.float64, requires_grad=True)
    assert force("first-order MAML", theta, quadratics.TASKS, 0.3, 1, 1.0).item() < 0  # descent adds 0.1 · more
    assert not quadratics.attracts("first-order MAML", **options)
    assert all(quadratics.attracts(method) for method in quadratics.METHODS)
    assert quadratics.attracts("MAML", **options)


def test_no_pull_no_start():
    one = (quadratics.Quadratic(5.0, 1.0),)
    assert math.isnan(quadratics.common_start("MAML", one, rate=0.2, steps=1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quadratics.Quadratic(0.0, 1.0), "curvature 0.0"),
        (lambda: quadratics.Quadratic(1.0, math.inf), "centre inf"),
        (lambda: quadratics.weight("mamml", 1.0), "'mamml' is unknown"),
        (lambda: quadratics.meta_loss(0.0, steps=-1), "steps is -1"),
        (lambda: quadratics.TASKS[0].path(0.0, steps=-2), "steps is -2"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(CourseError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
