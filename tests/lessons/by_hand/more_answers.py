"""More answers to the exercises of notebook 05, written after the checks: right ones and slips of learners."""

import torch
from torch.func import grad, hessian, jvp, vjp

from mlcourse.lessons.by_hand.implementations import curved_task
from mlcourse.meta_gradients import estimators
from mlcourse.meta_gradients.estimators import Task, gradient, hessian_vector, path


def product_by_double_backward(loss, phi, v):
    """`.backward()` twice, on an own leaf whose gradient is emptied in between."""
    leaf = phi.detach().clone().requires_grad_()
    loss(leaf).backward(create_graph=True)
    slope, leaf.grad = leaf.grad, None
    (slope * v).sum().backward()
    return leaf.grad


def product_that_adds_up(loss, phi, v):
    """The same without emptying: the first gradient stays in `.grad`."""
    leaf = phi.detach().clone().requires_grad_()
    loss(leaf).backward(create_graph=True)
    (leaf.grad.clone() * v).sum().backward()
    return leaf.grad.detach()


def end_of(task):
    def end(theta):
        phi = theta
        for _ in range(task.steps):
            phi = phi - task.rate * grad(task.inner_loss)(phi)
        return phi

    return end


def meta_by_vjp(theta, task):
    last, pull = vjp(end_of(task), theta)
    return pull(grad(task.outer_loss)(last))[0]


def meta_forward(theta, task):
    """Column by column, forwards: as dear as there are weights, and as exact."""
    units, end = torch.eye(len(theta), dtype=theta.dtype), end_of(task)
    return torch.stack([jvp(lambda at: task.outer_loss(end(at)), (theta,), (unit,))[1] for unit in units])


def meta_swept(step, start=lambda task, phis: gradient(task.outer_loss, phis[-1]), steps=lambda phis: phis[-2::-1]):
    def meta(theta, task):
        phis = path(theta, task)
        p = start(task, phis)
        for phi in steps(phis):
            p = step(p, hessian_vector(task.inner_loss, phi, p), task, phi)
        return p

    return meta


def meta_of_more_steps(more):
    def meta(theta, task):
        return estimators.by_hand(theta, Task(task.inner_loss, task.outer_loss, task.steps + more, task.rate))

    return meta


def detector_by_autograd(meta_gradient):
    theta, task = curved_task()
    given = meta_gradient(theta, task)
    exact, first = meta_by_vjp(theta, task), gradient(task.outer_loss, path(theta, task)[-1])
    errors = {"second-order": (given - exact).abs().max(), "first-order": (given - first).abs().max()}
    best = min(errors, key=errors.get)
    return best if errors[best] < 1e-4 * exact.abs().max() else "wrong"


def detector_of_lengths(meta_gradient):
    theta, task = curved_task()
    given, exact = meta_gradient(theta, task).norm(), meta_by_vjp(theta, task).norm()
    first = gradient(task.outer_loss, path(theta, task)[-1]).norm()
    return (
        "second-order" if (given - exact).abs() < 1e-6 else "first-order" if (given - first).abs() < 1e-6 else "wrong"
    )


def detector_of_one_entry(meta_gradient):
    theta, task = curved_task()
    given, exact = meta_gradient(theta, task)[0], meta_by_vjp(theta, task)[0]
    first = gradient(task.outer_loss, path(theta, task)[-1])[0]
    return (
        "second-order" if (given - exact).abs() < 1e-6 else "first-order" if (given - first).abs() < 1e-6 else "wrong"
    )


def detector_tolerant(meta_gradient):
    theta, task = curved_task()
    given, exact = meta_gradient(theta, task), meta_by_vjp(theta, task)
    return "second-order" if torch.nn.functional.cosine_similarity(given, exact, dim=0) > 0.99 else "first-order"


def rate_by_scan(theta, task):
    """d/dα of the loss after all steps, by forward mode in α."""

    def after(rate):
        phi = theta
        for _ in range(task.steps):
            phi = phi - rate * grad(task.inner_loss)(phi)
        return task.outer_loss(phi)

    alpha = torch.tensor(task.rate, dtype=theta.dtype)
    return jvp(after, (alpha,), (torch.ones_like(alpha),))[1]


def rate_swept(step, forward=False):
    """The sum of the sweep, with slips: step(p, H_t p, task) → the next p."""

    def slope(theta, task):
        *before, last = path(theta, task)
        p, total = gradient(task.outer_loss, last), 0.0
        for phi in before if forward else before[::-1]:
            total = total - p @ gradient(task.inner_loss, phi)
            p = step(p, hessian_vector(task.inner_loss, phi, p), task)
        return total

    return slope


def rate_of_losses(theta, task):
    """`.backward()` into an own rate."""
    alpha = torch.tensor(task.rate, dtype=theta.dtype, requires_grad=True)
    phi = theta.detach().clone().requires_grad_()
    for _ in range(task.steps):
        phi = phi - alpha * torch.autograd.grad(task.inner_loss(phi), phi, create_graph=True)[0]
    task.outer_loss(phi).backward()
    return alpha.grad


def product_row_by_row(loss, phi, v):
    phi = phi.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(phi), phi, create_graph=True)
    return torch.stack([torch.autograd.grad(one, phi, retain_graph=True)[0] @ v for one in slope])


def detector_on_a_task(theta=(0.5, -0.8, 0.3), tolerance=1e-5):
    """The two gradients that it looks for are computed once, not for each program that it judges."""
    start = torch.tensor(theta, dtype=torch.float64)
    task = Task(
        inner_loss=lambda p: torch.cosh(p).sum() + p[0] * p[1] - 0.5 * p[1] * p[2],
        outer_loss=lambda p: (p - 1).pow(4).sum() + p[0] * p[2],
        steps=3,
        rate=0.1,
    )
    exact, first = estimators.by_differences(start, task), estimators.first_order(start, task)

    def detector(meta_gradient):
        given = meta_gradient(start, task)
        if (given - exact).norm() < tolerance * exact.norm():
            return "second-order"
        return "first-order" if (given - first).norm() < tolerance * first.norm() else "wrong"

    return detector


RIGHT = {
    "hessian_vector": [
        product_by_double_backward,
        lambda loss, phi, v: vjp(grad(loss), phi)[1](v)[0],
    ],
    "by_hand": [meta_by_vjp, meta_forward],
    "detector": [detector_by_autograd],
    "rate_gradient": [rate_by_scan, rate_of_losses],
}

WRONG = {
    "hessian_vector": {
        "all of H": (
            lambda loss, phi, v: torch.autograd.functional.hessian(loss, phi) @ v,
            "as much work as all of H",
        ),
        "all of H at once": (
            lambda loss, phi, v: torch.autograd.functional.hessian(loss, phi, vectorize=True) @ v,
            "as much work as all of H",
        ),
        "H by torch.func": (lambda loss, phi, v: hessian(loss)(phi) @ v, "as much work as all of H"),
        "row by row": (product_row_by_row, "as much work as all of H"),
        "two digits": (lambda *a: estimators.hessian_vector(*a).round(decimals=2), "digits left behind the point"),
        "adds up": (product_that_adds_up, "`.grad` adds up"),
        "a pair": (torch.autograd.functional.hvp, "take the second"),
        "v Hv": (lambda loss, phi, v: v * estimators.hessian_vector(loss, phi, v), ""),
        "H(v²)": (lambda loss, phi, v: estimators.hessian_vector(loss, phi, v * v), ""),
        "unit v": (lambda loss, phi, v: estimators.hessian_vector(loss, phi, v / v.norm()), "with a wrong length"),
        "of the outer point": (lambda loss, phi, v: estimators.hessian_vector(loss, phi + v, v), "taken at φ + v"),
    },
    "by_hand": {
        "four digits": (lambda *a: estimators.by_hand(*a).round(decimals=4), "digits left behind the point"),
        "subtracts H p, not α H p twice": (meta_swept(lambda p, hp, task, phi: p - 2 * task.rate * hp), ""),
        "first step left out": (
            meta_swept(lambda p, hp, task, phi: p - task.rate * hp, steps=lambda phis: phis[-2:0:-1]),
            "The first step's factor is missing",
        ),
        "last step left out": (
            meta_swept(lambda p, hp, task, phi: p - task.rate * hp, steps=lambda phis: phis[:-2][::-1]),
            "The last step's factor is missing",
        ),
        "α in float32": (
            meta_swept(lambda p, hp, task, phi: p - torch.tensor(task.rate) * hp),
            "you compute in single precision",
        ),
        "α²": (meta_swept(lambda p, hp, task, phi: p - task.rate**2 * hp), "α is squared"),
        "a step less": (meta_of_more_steps(-1), "One inner step is missing"),
        "a step more": (meta_of_more_steps(1), "One inner step too many"),
        "sum of the p": (
            lambda theta, task: estimators.by_hand(theta, task) + gradient(task.outer_loss, path(theta, task)[-1]),
            "added once more",
        ),
    },
    "detector": {
        "10 %": (detector_on_a_task(tolerance=0.1), "You allow for too much"),
        "5 %": (detector_on_a_task(tolerance=0.05), "You allow for too much"),
        "θ = 0": (detector_on_a_task(theta=(0.0, 0.0, 0.0)), "On your task nothing moves"),
        "lengths": (detector_of_lengths, "A wrong gradient is called 'second-order'"),
        "one entry": (detector_of_one_entry, "A wrong gradient is called 'second-order'"),
        "cosine": (detector_tolerant, "it points to the same side"),
        "upper case": (lambda meta_gradient: detector_by_autograd(meta_gradient).title(), "one of the words"),
    },
    "rate_gradient": {
        "two digits": (lambda *a: round(float(estimators.rate_gradient(*a)), 2), "digits left behind the point"),
        "whole": (lambda *a: estimators.rate_gradient(*a).round(), "digits left behind the point"),
        "minus H": (
            lambda theta, task: estimators.by_hand(theta, task) @ gradient(task.inner_loss, theta),
            "",
        ),
        "of the first-order": (
            lambda theta, task: -gradient(task.outer_loss, path(theta, task)[-1]) @ gradient(task.inner_loss, theta),
            "Only the first step counts here, with g itself",
        ),
        "forward": (rate_swept(lambda p, hp, task: p - task.rate * hp, forward=True), "The sweep runs forward"),
        "plus": (rate_swept(lambda p, hp, task: p + task.rate * hp), "The sweep has the wrong sign"),
        "no α": (rate_swept(lambda p, hp, task: p - hp), "α is missing in the sweep"),
        "length": (lambda theta, task: estimators.rate_gradient(theta, task).abs(), "This is the size of the slope"),
        "times T": (lambda theta, task: task.steps * estimators.rate_gradient(theta, task), "a factor T too many"),
    },
}
