"""More answers to the exercises of notebook 11, written after the checks: right ones and slips of learners."""

import math
import statistics

import torch


def es_with(change=lambda rise, noise, sigma: (rise[:, None] * noise).mean(0) / (2 * sigma**2)):
    """change(L₊ − L₋, noise, σ)."""

    def es(losses, lam, noise, sigma):
        plus, minus = losses(torch.cat([lam + noise, lam - noise])).chunk(2)
        return change(plus - minus, noise, sigma)

    return es


def es_from_the_middle(losses, lam, noise, sigma):
    return (losses(lam + noise) - losses(lam[None])) @ noise / (sigma**2 * len(noise))


def es_by_einsum(losses, lam, noise, sigma):
    rise = (losses(lam[None] + noise) - losses(lam[None] - noise)) / 2
    return torch.einsum("p,pn->n", rise, noise / sigma**2) / noise.shape[0]


def pes_with(gradient=None, after=lambda states, shift: (states, shift)):
    """gradient(L₊ − L₋, ξ, ε, σ)."""
    gradient = gradient or (lambda rise, xi, eps, sigma: (rise[:, None] * xi).mean(0) / (2 * sigma**2))

    def pes(window, lam, states, shift, noise, sigma):
        xi = shift + noise
        losses, states = window(torch.cat([lam + noise, lam - noise]), states)
        rise = losses[: len(noise)] - losses[len(noise) :]
        return gradient(rise, xi, noise, sigma), *after(states, xi)

    return pes


def pes_in_turn(window, lam, states, shift, noise, sigma):
    xi = shift + noise
    losses, states = window(torch.cat([lam + noise, lam - noise]), states)
    return (losses[::2] - losses[1::2]) @ xi / (2 * sigma**2 * len(noise)), states, xi


def pes_of_one_side(window, lam, states, shift, noise, sigma):
    xi = shift + noise
    losses, states = window(torch.cat([lam + noise, lam - noise]), states)
    return losses[: len(noise)] @ xi / (sigma**2 * len(noise)), states, xi


def pes_by_einsum(window, lam, states, shift, noise, sigma):
    both = torch.stack([noise, -noise]).flatten(0, 1)
    losses, states = window(lam + both, states)
    shift = torch.add(shift, noise)
    signs = torch.cat([torch.ones(len(noise)), -torch.ones(len(noise))]).to(losses.dtype)
    weights = torch.cat([shift, shift])
    return torch.einsum("k,k,kn->n", signs, losses, weights) / (2 * sigma**2) / len(noise), states, shift


def report_by_statistics(estimates, truth):
    numbers = estimates.tolist()
    bias = statistics.fmean(numbers) - float(truth)
    error = statistics.stdev(numbers) / len(numbers) ** 0.5
    return bias, error, bias / error


def report_with(change):
    def report(estimates, truth):
        bias, error = estimates.mean() - truth, estimates.std() / len(estimates) ** 0.5
        return change(bias, error, estimates, truth)

    return report


def variance_of(parts):
    """parts(n, ‖g‖², τ, σ, pairs)."""
    return lambda slope, tau, sigma, pairs: parts(len(slope), float(slope @ slope), tau, sigma, pairs)


def choose_by(error, fits=lambda memory, limit: memory <= limit):
    def choose(bias, spread, cost, memory, budget, limit):
        found = error(bias, spread, cost, budget)
        return int(torch.where(fits(memory, limit), found, torch.inf).argmin())

    return choose


def choose_with_zeros(bias, spread, cost, memory, budget, limit):
    return int(torch.where(memory <= limit, bias**2 + spread**2 * cost / budget, 0.0).argmin())


def choose_from_a_list(bias, spread, cost, memory, budget, limit):
    rows = [k for k in range(len(bias)) if memory[k] <= limit]
    return min(rows, key=lambda k: float(bias[k] ** 2 + spread[k] ** 2 * cost[k] / budget))


RIGHT = {
    "es_gradient": [es_with(), es_by_einsum],
    "pes_window": [pes_with(), pes_by_einsum],
    "report": [
        report_by_statistics,
        report_with(lambda b, e, x, t: (b.item(), e.item(), (b / e).item())),
    ],
    "es_variance": [
        variance_of(lambda n, g2, tau, sigma, pairs: ((n + 1) * g2 + n * tau**2 / (2 * sigma**2)) / pairs),
        variance_of(lambda n, g2, tau, s, pairs: torch.tensor(n / pairs * (g2 + g2 / n + 0.5 * (tau / s) ** 2))),
    ],
    "choose": [
        choose_from_a_list,
        choose_by(lambda b, s, c, budget: torch.hypot(b, s * (c / budget).sqrt())),
    ],
}

WRONG = {
    "es_gradient": {
        "(2σ)²": (es_with(lambda rise, e, s: (rise[:, None] * e).mean(0) / (2 * s) ** 2), "2σ² is not (2σ)²"),
        "σ": (es_with(lambda rise, e, s: (rise[:, None] * e).mean(0) / s), "Divided by σ"),
        "unit noise": (es_with(lambda rise, e, s: (rise[:, None] * e / s).mean(0) / (2 * s**2)), "divided by `sigma`"),
        "signs": (es_with(lambda rise, e, s: (rise[:, None] * e.sign()).mean(0) / (2 * s)), ""),
        "from the middle": (es_from_the_middle, "λ itself is the second point"),
        "components": (
            es_with(lambda rise, e, s: rise @ e / (2 * s**2 * e.shape[1])),
            "divided by the number of components",
        ),
        "other side": (es_with(lambda rise, e, s: (-rise[:, None] * e).mean(0) / (2 * s**2)), "Sign"),
    },
    "pes_window": {
        "sum over pairs": (pes_with(lambda rise, xi, e, s: (rise[:, None] * xi).sum(0) / (2 * s**2)), "sum over the"),
        "σ²": (pes_with(lambda rise, xi, e, s: (rise[:, None] * xi).mean(0) / s**2), "Twice too large"),
        "σ": (pes_with(lambda rise, xi, e, s: (rise[:, None] * xi).mean(0) / (2 * s)), "Divided by 2σ"),
        "no factor": (pes_with(lambda rise, xi, e, s: (rise[:, None] * xi).mean(0)), "The factor 1/(2σ²) is missing"),
        "ξ of both halves": (pes_with(after=lambda states, xi: (states, torch.cat([xi, -xi]))), "must keep its shape"),
        "one side": (pes_of_one_side, "Only the losses at λ + ε are used"),
        "in turn": (pes_in_turn, "The losses are taken in turn"),
        "order of results": (pes_with(after=lambda states, xi: (xi, states)), "must keep its shape"),
    },
    "report": {
        "percent": (report_with(lambda b, e, x, t: (100 * b, e, b / e)), "are they in percent"),
        "1.96": (report_with(lambda b, e, x, t: (b, 1.96 * e, b / e)), "half-width of a 95 %"),
        "order": (report_with(lambda b, e, x, t: (e, b, b / e)), "have changed places"),
        "median": (report_with(lambda b, e, x, t: (x.median() - t, e, (x.median() - t) / e)), "This is the median"),
        "two errors": (report_with(lambda b, e, x, t: (b, 2 * e, b / (2 * e))), "two standard errors"),
        "√(R − 1)": (
            report_with(lambda b, e, x, t: (b, x.std() / (len(x) - 1) ** 0.5, b / x.std() * (len(x) - 1) ** 0.5)),
            "Divided by √(R − 1)",
        ),
        "around the truth": (
            report_with(lambda b, e, x, t: (b, s := ((x - t).square().sum() / (len(x) - 1) / len(x)).sqrt(), b / s)),
            "around the truth",
        ),
        "rounded": (report_with(lambda b, e, x, t: (b, e, (b / e).round())), "rounded to a whole number"),
        "product": (report_with(lambda b, e, x, t: (b, e, b * e)), "You multiplied bias"),
    },
    "es_variance": {
        "noise not divided": (
            variance_of(lambda n, g2, tau, s, pairs: (n + 1) * g2 / pairs + n * tau**2 / (2 * s**2)),
            "The noise is not divided by pairs",
        ),
        "pairs below the noise": (
            variance_of(lambda n, g2, tau, s, pairs: (n + 1) * g2 + n * tau**2 / (2 * s**2) / pairs),
            "The first part is not divided by pairs",
        ),
        "n − 1": (
            variance_of(lambda n, g2, tau, s, pairs: ((n - 1) * g2 + n * tau**2 / (2 * s**2)) / pairs),
            "(n − 1)‖g‖²",
        ),
        "sum squared": (
            lambda g, tau, s, pairs: ((len(g) + 1) * g.sum() ** 2 + len(g) * tau**2 / (2 * s**2)) / pairs,
            "summed before they are squared",
        ),
        "mean of squares": (
            variance_of(lambda n, g2, tau, s, pairs: ((n + 1) * g2 / n + n * tau**2 / (2 * s**2)) / pairs),
            "not their mean",
        ),
        "τ": (variance_of(lambda n, g2, tau, s, pairs: ((n + 1) * g2 + n * tau / (2 * s**2)) / pairs), "τ is a"),
        "‖g‖²": (variance_of(lambda n, g2, tau, s, pairs: (g2 + n * tau**2 / (2 * s**2)) / pairs), "n + 1 is missing"),
        "one loss": (
            variance_of(lambda n, g2, tau, s, pairs: ((n + 1) * g2 + n * tau**2 / (4 * s**2)) / pairs),
            "two losses with noise",
        ),
        "‖g‖": (
            variance_of(lambda n, g2, tau, s, pairs: ((n + 1) * g2**0.5 + n * tau**2 / (2 * s**2)) / pairs),
            "‖g‖ stands where",
        ),
        "√pairs": (
            variance_of(lambda n, g2, tau, s, pairs: ((n + 1) * g2 + n * tau**2 / (2 * s**2)) / math.sqrt(pairs)),
            "not by its root",
        ),
    },
    "choose": {
        "rounded down, 1 at least": (
            choose_by(lambda b, s, c, budget: b**2 + s**2 / (budget / c).floor().clamp(min=1)),
            "n is rounded down, and 1 at least",
        ),
        "strictly": (
            choose_by(lambda b, s, c, budget: b**2 + s**2 * c / budget, lambda memory, limit: memory < limit),
            "Compare with ≤",
        ),
        "|bias| + spread": (
            choose_by(lambda b, s, c, budget: b.abs() + s * (c / budget).sqrt()),
            "The sizes are added",
        ),
        "spread not squared": (choose_by(lambda b, s, c, budget: b**2 + s * c / budget), "The spread is not squared"),
        "no budget": (choose_by(lambda b, s, c, budget: b**2 + s**2 * c), "The budget is left out"),
        "√n": (choose_by(lambda b, s, c, budget: b**2 + s**2 * (c / budget).sqrt()), "n stands under a root"),
        "square of the sum": (
            choose_by(lambda b, s, c, budget: (b + s * (c / budget).sqrt()) ** 2),
            "The sum is squared",
        ),
        "0 beyond the limit": (choose_with_zeros, "more memory than the limit"),
        "cheapest": (choose_by(lambda b, s, c, budget: c), "the cheapest estimator"),
        "from 1": (lambda *table: choose_from_a_list(*table) + 1, "a whole number from 0 to 4"),
    },
}
