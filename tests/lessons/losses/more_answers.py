"""More answers to the exercises of notebook 01, written after the checks: right ones and slips of learners."""

from functools import reduce

import torch
from torch.func import jacrev

from mlcourse import inner
from mlcourse.lessons.losses import checks


def tasks(episode):
    return zip(episode.support_x, episode.support_y, episode.query_x, episode.query_y, strict=True)


def outer_by_func(forward, theta, episode, *, steps, rate, loss, first_order=False):
    """The inner gradients by torch.func, and a running mean."""
    mean = 0.0
    for count, (sx, sy, qx, qy) in enumerate(tasks(episode), start=1):
        phi = dict(theta)
        for _ in range(steps):
            grads = torch.func.grad(lambda p, sx=sx, sy=sy: loss(forward(p, sx), sy))(phi)
            phi = {k: v - rate * (grads[k].detach() if first_order else grads[k]) for k, v in phi.items()}
        mean = mean + (loss(forward(phi, qx), qy) - mean) / count
    return mean


def outer_of(collect=lambda losses: torch.stack(losses).mean(), change=lambda phi: phi, more=0, at=None):
    def outer(forward, theta, episode, *, steps, rate, loss, first_order=False):
        losses = []
        for sx, sy, qx, qy in tasks(episode):
            settings = {"steps": steps + more, "rate": rate if at is None else at, "loss": loss}
            phi = change(inner.adapt(forward, theta, sx, sy, first_order=first_order, **settings))
            losses.append(loss(forward(phi, qx), qy))
        return collect(losses)

    return outer


def derivative_by_columns(outer, update, theta):
    phi = update(theta.detach().clone().requires_grad_()).detach()
    rows = torch.autograd.functional.jacobian(update, theta)  # [φ, θ]
    return jacrev(outer, 0)(theta, phi), torch.einsum("pt,p->t", rows, jacrev(outer, 1)(theta, phi))


def derivative_by_hooks(outer, update, theta):
    """One backward pass for each term, with `.grad` of own leaves."""
    start = theta.detach().clone().requires_grad_()
    held = update(start).detach().requires_grad_()
    outer(start, held).backward()
    direct = torch.zeros_like(theta) if start.grad is None else start.grad.clone()
    again = theta.detach().clone().requires_grad_()
    update(again).backward(held.grad)
    return direct, again.grad


def derivative_with(change):
    """change(direct, through, J, ∂L/∂φ, outer, φ)."""

    def derivative(outer, update, theta):
        direct, through = checks.total_derivative.reference(outer, update, theta)
        phi = update(theta.detach().clone().requires_grad_()).detach()
        rows = torch.autograd.functional.jacobian(update, theta)
        return change(direct, through, rows, jacrev(outer, 1)(theta, phi), outer, phi)

    return derivative


def start_with(weight):
    def start(a, c, *, rate, steps):
        w = weight(a, rate, steps)
        return (w * c).sum() / w.sum()

    return start


def adapt_by_reduce(forward, params, x, y, *, steps, rate, loss, first_order=False):
    def step(phi, _):
        grads = inner.gradient(loss(forward(phi, x), y), phi, create_graph=not first_order)
        return inner.sgd_step(phi, grads, rate)

    return reduce(step, range(steps), dict(params))


def adapt_by_recursion(forward, params, x, y, *, steps, first_order=False, rate, loss):
    if steps == 0:
        return params
    names = list(params)
    grads = torch.autograd.grad(loss(forward(params, x), y), [params[n] for n in names], create_graph=not first_order)
    after = {n: params[n].add(g, alpha=-rate) for n, g in zip(names, grads)}
    return adapt_by_recursion(forward, after, x, y, steps=steps - 1, rate=rate, loss=loss, first_order=first_order)


def adapt_with(step, loss_of=lambda loss, p, y: loss(p, y)):
    """step(φ, gradient, rate, t) → φ."""

    def adapt(forward, params, x, y, *, steps, rate, loss, first_order=False):
        phi = params
        for t in range(steps):
            value = loss_of(loss, forward(phi, x), y)
            phi = step(phi, inner.gradient(value, phi, create_graph=not first_order), rate, t)
        return phi

    return adapt


def derivative_of_the_plain_theta(outer, update, theta):
    """The lesson's update raises as well: it descends from theta, so theta must ask for a gradient."""
    jacobian, phi = torch.autograd.functional.jacobian(update, theta), update(theta).detach()
    direct, pulled = jacrev(outer, argnums=(0, 1))(theta, phi)
    return direct, jacobian.T @ pulled


def adapt_returns_at_once(forward, params, support_x, support_y, *, steps, rate, loss, first_order=False):
    for _ in range(steps):
        grads = inner.gradient(loss(forward(params, support_x), support_y), params, create_graph=not first_order)
        params = inner.sgd_step(params, grads, rate)
        return params


RIGHT = {
    "sgd_step": [
        lambda params, grads, rate: {k: torch.sub(v, grads[k], alpha=rate) for k, v in params.items()},
        lambda params, grads, rate: dict(zip(params, (p + (-rate) * grads[name] for name, p in params.items()))),
    ],
    "outer_loss": [outer_by_func, outer_of(lambda losses: sum(losses) / len(losses))],
    "total_derivative": [derivative_by_columns, derivative_by_hooks],
    "common_start": [
        start_with(lambda a, rate, steps: a * torch.exp(2 * steps * torch.log1p(-rate * a))),
        lambda a, c, *, rate, steps: torch.dot(torch.softmax((a * (1 - rate * a) ** (2 * steps)).log(), 0), c).item(),
    ],
    "adapt": [adapt_by_reduce, adapt_by_recursion],
}

WRONG = {
    "sgd_step": {
        "by place": (
            lambda p, g, rate: {k: v - rate * slope for (k, v), slope in zip(p.items(), g.values())},
            "are paired by their place",
        ),
        "over α": (lambda p, g, rate: {k: p[k] - g[k] / rate for k in p}, "for 1 / `rate`"),
        "α²": (lambda p, g, rate: {k: p[k] - rate**2 * g[k] for k in p}, "for `rate`²"),
        "weight only": (
            lambda p, g, rate: {k: p[k] - rate * g[k] if k.endswith("weight") else p[k] for k in p},
            "In 'layer.bias' alone",
        ),
        "names known": (lambda p, g, rate: {k: p[k] - rate * g[k] for k in ("weight", "bias")}, "KeyError: 'weight'"),
        "a number for α": (lambda p, g, rate: {k: p[k] - 0.1 * g[k] for k in p}, "You step by 0.1 times"),
        "α(φ − g)": (lambda p, g, rate: {k: rate * (p[k] - g[k]) for k in p}, "The rate multiplies φ too"),
        "(φ − α)g": (lambda p, g, rate: {k: (p[k] - rate) * g[k] for k in p}, "The rate is taken from φ"),
        "sign of g": (lambda p, g, rate: {k: p[k] - rate * g[k].sign() for k in p}, "the sign of the gradient only"),
        "shrinks": (lambda p, g, rate: {k: p[k] - rate * p[k] for k in p}, "This shrinks φ by itself"),
        "decay": (lambda p, g, rate: {k: (1 - rate) * p[k] - rate * g[k] for k in p}, ""),
    },
    "outer_loss": {
        "cut at φ": (outer_of(change=lambda phi: {k: v.detach() for k, v in phi.items()}), "no gradient reaches θ"),
        "one step more": (outer_of(more=1), "One inner step too many"),
        "own rate": (outer_of(at=0.01), ""),
        "a list": (lambda *a, **k: [checks.outer_loss.reference(*a, **k)], "this is a list of them"),
        "one loss a task": (lambda *a, **k: checks.outer_loss.reference(*a, **k).expand(3) * 1, "take the mean of the"),
        "item": (
            lambda *a, **k: torch.tensor(checks.outer_loss.reference(*a, **k).item()),
            "a plain number has no graph",
        ),
        "rate 1": (outer_of(at=1.0), "for `rate` = 1"),
    },
    "total_derivative": {
        "θ as it came": (derivative_of_the_plain_theta, "it needs a theta that requires grad"),
        "minus direct": (derivative_with(lambda d, t, J, p, outer, phi: (-d, t)), "with the other sign"),
        "direct at φ": (
            derivative_with(lambda d, t, J, p, outer, phi: (jacrev(outer, 0)(phi, phi), t)),
            "Your first term is taken at φ",
        ),
        "total twice": (derivative_with(lambda d, t, J, p, outer, phi: (d + t, d + t)), "first term holds the total"),
        "sum of φ": (
            derivative_with(lambda d, t, J, p, outer, phi: (d, J.sum(0) * p)),
            "You differentiated the sum of φ",
        ),
        "diagonal": (derivative_with(lambda d, t, J, p, outer, phi: (d, J.diagonal() * p)), "the diagonal of dφ/dθ"),
        "no identity": (derivative_with(lambda d, t, J, p, outer, phi: (d, t - p)), "lacks the identity"),
    },
    "common_start": {
        "int": (lambda *a, **k: int(checks.common_start.reference(*a, **k)), "no whole number"),
        "whole tensor": (lambda *a, **k: checks.common_start.reference(*a, **k).long(), "no whole number"),
        "two digits": (
            lambda *a, **k: round(float(checks.common_start.reference(*a, **k)), 2),
            "digits left behind the point",
        ),
        "cut off": (
            lambda *a, **k: (checks.common_start.reference(*a, **k) * 1000).trunc() / 1000,
            "digits left behind the point",
        ),
        "2T − 1": (
            start_with(lambda a, rate, steps: a * (1 - rate * a) ** (2 * steps - 1)),
            "The exponent is one too small",
        ),
        "a²": (start_with(lambda a, rate, steps: a**2 * (1 - rate * a) ** (2 * steps)), "The curvature counts twice"),
        "T²": (start_with(lambda a, rate, steps: a * (1 - rate * a) ** steps**2), "The exponent is T²"),
        "bracket": (start_with(lambda a, rate, steps: (a * (1 - rate * a)) ** (2 * steps)), "raised to the power, too"),
        "1 − Tαa": (start_with(lambda a, rate, steps: a * (1 - rate * steps * a) ** 2), "inside the bracket"),
        "1 − α": (start_with(lambda a, rate, steps: a * (1 - rate) ** (2 * steps)), "weights of joint training"),
    },
    "adapt": {
        "return in the loop": (adapt_returns_at_once, "Does the `return` stand inside a loop"),
        "swapped loss": (
            adapt_with(lambda phi, g, rate, t: inner.sgd_step(phi, g, rate), lambda loss, p, y: loss(y, p)),
            "swapped arguments",
        ),
        "falling rate": (adapt_with(lambda phi, g, rate, t: inner.sgd_step(phi, g, rate / (t + 1))), ""),
        "gradients": (adapt_with(lambda phi, g, rate, t: g), "has no graph"),
        "w only": (adapt_with(lambda phi, g, rate, t: {**phi, "w": phi["w"] - rate * g["w"]}), "Only w moved"),
    },
}
