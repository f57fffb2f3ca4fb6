"""More answers to the exercises of notebook 09, written after the checks: right ones and slips of learners."""

import math

import torch


def rate_with(read):
    """read(inner, outer, φ, φ′, α)."""

    def rate_gradient(inner_gradient, outer_gradient, phi, rate):
        return read(inner_gradient, outer_gradient, phi, phi - rate * inner_gradient(phi), rate)

    return rate_gradient


def rate_by_einsum(inner_gradient, outer_gradient, phi, rate):
    g = inner_gradient(phi)
    return -torch.einsum("i,i->", outer_gradient(phi - rate * g), g)


def best_by_loop(values, costs, grid):
    found = []
    for limit in grid:
        spent, best = 0.0, math.inf
        for value, cost in zip(values, costs):
            spent = spent + float(cost)
            if spent > float(limit):
                break
            best = min(best, float(value))
        found.append(best)
    return torch.tensor(found, dtype=values.dtype)


def best_by_mask(values, costs, grid):
    late = costs.cumsum(0)[None, :] > grid[:, None]
    return values.expand(len(grid), -1).masked_fill(late, float("inf")).amin(1)


def best_with(ends=lambda costs: costs.cumsum(0), compare=torch.le, read=lambda seen: seen.amin(1), empty=torch.inf):
    def best(values, costs, grid):
        done = compare(ends(costs)[None, :], grid[:, None])
        return read(torch.where(done, values, empty))

    return best


def weights_with(read):
    """read(G, v, φ, φ′, w, α)."""

    def weights_gradient(example_gradients, validation_gradient, phi, weights, rate):
        after = phi - rate * (weights[:, None] * example_gradients).sum(0)
        return read(example_gradients, validation_gradient, phi, after, weights, rate)

    return weights_gradient


def loss_closed(curvature, start, noise, rate, steps):
    """The sum of the geometric series, written out."""
    q = (1 - rate * curvature) ** 2
    variance = (rate * curvature * noise) ** 2 * sum(q**k for k in range(steps))
    return (curvature * (q**steps * start**2 + variance)).sum() / 2


def loss_with(mean_power=2, noise_power=2, more=0, front=0.5, total=torch.sum):
    def loss(curvature, start, noise, rate, steps):
        steps, shrink = steps + more, 1 - rate * curvature
        variance = sum((shrink**2) ** k for k in range(steps)) * (rate * curvature * noise) ** noise_power
        return front * total(curvature * ((shrink**steps * start) ** mean_power + variance))

    return loss


RIGHT = {
    "rate_hypergradient": [rate_by_einsum, rate_with(lambda i, o, p, q, a: (o(q) * -i(p)).sum())],
    "best_at": [best_by_loop, best_by_mask],
    "weight_hypergradient": [
        weights_with(lambda G, v, p, q, w, a: -a * torch.einsum("ij,j->i", G, v(q))),
        weights_with(lambda G, v, p, q, w, a: -(a * G * v(q)).sum(1)),
    ],
    "expected_loss": [loss_closed, loss_with()],
}

WRONG = {
    "rate_hypergradient": {
        "both at φ′": (rate_with(lambda i, o, p, q, a: -o(q) @ i(q)), "The inner gradient is taken at φ′"),
        "squares": (rate_with(lambda i, o, p, q, a: -i(p) @ i(p)), "Both gradients are those of the inner"),
        "no inner": (rate_with(lambda i, o, p, q, a: -o(q) @ o(p)), "Both gradients are those of the outer"),
        "half": (rate_with(lambda i, o, p, q, a: -o(q) @ i(p) / 2), "half of the right ones"),
        "exchanged": (rate_with(lambda i, o, p, q, a: -i(p - a * o(p)) @ o(p)), "have changed places"),
        "α below": (rate_with(lambda i, o, p, q, a: -o(q) @ i(p) / a), "divided by `rate`"),
    },
    "best_at": {
        "costs not summed": (best_with(ends=lambda costs: costs), "have not ended yet"),
        "mean cost": (best_with(ends=lambda costs: costs.mean() * torch.arange(1, len(costs) + 1)), ""),
        "large number": (best_with(empty=1e3), "the curve is infinite there"),
        "ends before": (best_with(ends=lambda costs: costs.cumsum(0) - costs), "from the moment it begins"),
        "sum": (best_with(read=lambda seen: seen.nan_to_num(posinf=0.0).sum(1)), ""),
    },
    "weight_hypergradient": {
        "both": (weights_with(lambda G, v, p, q, w, a: -a * G @ G.sum(0)), ""),
        "α²": (weights_with(lambda G, v, p, q, w, a: -(a**2) * G @ v(q)), "`rate` times the right ones"),
        "half": (weights_with(lambda G, v, p, q, w, a: -a * G @ v(q) / 2), "half of the right ones"),
        "plain mean": (
            weights_with(lambda G, v, p, q, w, a: -a * G @ v(p - a * G.mean(0))),
            "and divides by the number",
        ),
        "weighted mean": (weights_with(lambda G, v, p, q, w, a: -a * G @ v(p - a * w @ G / w.sum())), "is no mean"),
        "no α in the step": (weights_with(lambda G, v, p, q, w, a: -a * G @ v(p - w @ G)), "The step forgets the rate"),
        "climbs": (weights_with(lambda G, v, p, q, w, a: -a * G @ v(p + a * w @ G)), "The step climbs"),
        "normalised": (
            weights_with(lambda G, v, p, q, w, a: -a * G @ v(p - a * w @ G / w.sum()) / w.sum()),
            "divided by their sum, in the step and in the result",
        ),
        "cut off": (weights_with(lambda G, v, p, q, w, a: (-a * G @ v(q)).clamp_min(0)), "cut off at 0"),
        "in λ": (weights_with(lambda G, v, p, q, w, a: -a * w * (1 - w) * (G @ v(q))), "the derivative in λ"),
        "one by one": (
            weights_with(lambda G, v, p, q, w, a: torch.stack([-a * g @ v(p - a * u * g) for g, u in zip(G, w)])),
            "Each example makes a step of its own",
        ),
        "mean of entries": (weights_with(lambda G, v, p, q, w, a: -a * (G * v(q)).mean(1)), "a mean where a sum"),
    },
    "expected_loss": {
        "a step more": (loss_with(more=1), "`steps` + 1"),
        "a step less": (loss_with(more=-1), "`steps` − 1"),
        "mean over coordinates": (loss_with(total=torch.mean), "a mean where a sum"),
        "no square of the start": (loss_with(mean_power=1), "The mean is not squared"),
        "quarter": (loss_with(front=0.25), "half of the right ones"),
    },
}
