"""More answers to the exercises of notebook 10, written after the checks: right ones and slips of learners."""

import math

import torch

from mlcourse.lessons.optimizers import checks


def weights_in_one_formula(rate, beta, *, nesterov):
    return -rate * nesterov, -rate / (1 - beta) * (beta if nesterov else 1.0)


def weights_by_the_sum(rate, beta, *, nesterov):
    """The sum of gradients is m times 1 + β + β² + …"""
    total = sum(beta**k for k in range(2000))
    return (torch.tensor(-rate), torch.tensor(-rate * beta * total)) if nesterov else (0.0, -rate * total)


def weights_with(change):
    def weights(rate, beta, *, nesterov):
        return change(*weights_in_one_formula(rate, beta, nesterov=nesterov), rate, beta, nesterov)

    return weights


def adam_by_names(phi, g, state, t, *, rate, betas, eps):
    (b1, b2), new = betas, {}
    new["mean"] = state["mean"] + (1 - b1) * (g - state["mean"])
    new["square"] = state["square"] + (1 - b2) * (g.square() - state["square"])
    corrected = [new[name].div(1 - b**t) for name, b in (("mean", b1), ("square", b2))]
    return phi - rate * corrected[0].div(corrected[1].sqrt().add(eps)), new


def adam_with(change=lambda m, v, t, b: (m / (1 - b[0] ** t), v / (1 - b[1] ** t)), phi_of=None, power=2):
    def adam(phi, g, state, t, *, rate, betas, eps):
        m = betas[0] * state["mean"] + (1 - betas[0]) * g
        v = betas[1] * state["square"] + (1 - betas[1]) * g**power
        tall, wide = change(m, v, t, betas)
        new = phi - rate * tall / (wide.sqrt() + eps)
        return (new if phi_of is None else phi_of(new, phi)), {"mean": m, "square": v}

    return adam


def window_with(total=lambda losses: sum(losses), gradient=torch.autograd.grad, first=1, state_of=lambda s: s[-1]):
    def window(step, loss, state, lam, *, t, length):
        lam, states = lam.detach().clone().requires_grad_(), [state.detach()]
        losses = []
        for k in range(t + first, t + length + first):
            states.append(step(states[-1], lam, k))
            losses.append(loss(states[-1], k))
        value = total(losses)
        return value.detach(), gradient(value, lam)[0], state_of(states).detach()

    return window


def window_forward(step, loss, state, lam, *, t, length):
    """Forward mode, one number of λ after the other."""

    def run(lam):
        s, total = state.detach(), torch.zeros((), dtype=state.dtype)
        for k in range(t + 1, t + length + 1):
            s = step(s, lam, k)
            total = total + loss(s, k)
        return total, s

    value, end = run(lam.detach())
    return value, torch.func.jacfwd(lambda at: run(at)[0])(lam.detach()), end


def rate_by_numpy(rates, losses):
    means = losses.numpy().mean(1)
    means[~(means < math.inf)] = math.inf
    order = sorted(range(len(rates)), key=lambda k: float(rates[k]))
    best = min(order, key=lambda k: means[k])
    if best in (order[0], order[-1]):
        raise ValueError("the best rate lies at the edge")
    return float(rates[best])


def rate_with(mean=lambda losses: losses.mean(1).nan_to_num(nan=math.inf), edge=True):
    def rate(rates, losses):
        best = rates[mean(losses).argmin()]
        if edge and (best == rates.min() or best == rates.max()):
            raise ValueError("at the edge")
        return best

    return rate


def rate_at_the_edge_of_those_left(rates, losses):
    whole = losses.isfinite().all(1)
    return rate_with()(rates[whole], losses[whole])


def rate_not_near_an_end(rates, losses):
    best = rate_with(edge=False)(rates, losses)
    if not rates.sort().values[1] < best < rates.sort().values[-2]:
        raise ValueError("near an end")
    return best


def rate_refuses_any_nan(rates, losses):
    if not losses.isfinite().all():
        raise ValueError("a training diverged")
    return rate_with()(rates, losses)


def seen_by_index(g, p):
    seen = torch.stack([torch.full_like(g, -1.0), math.exp(p) * g], 1)
    large = g.abs() >= math.exp(-p)
    return torch.where(large[:, None], torch.stack([torch.where(large, g, 1.0).abs().log() / p, g.sign()], 1), seen)


def seen_by_index_put(g, p):
    small = math.exp(-p)
    large = g.abs() >= small
    seen = torch.stack([torch.full_like(g, -1.0), g / small], -1)
    return seen.index_put((large,), torch.stack([g[large].abs().log() / p, g[large].sign()], -1))


def seen_with(log=lambda size, p: size.log() / p, small=-1.0, limit=lambda p: math.exp(-p), second=None):
    def seen(g, p):
        large = g.abs() >= limit(p)
        first = torch.where(large, log(torch.where(large, g.abs(), 1.0), p), small)
        rest = torch.where(large, g.sign(), math.exp(p) * g) if second is None else second(g, p, large)
        return torch.stack([first, rest], -1)

    return seen


def seen_of_signed(g, p):
    large = g >= math.exp(-p)
    first = torch.where(large, torch.where(large, g, 1.0).log() / p, -1.0)
    return torch.stack([first, torch.where(large, g.sign(), math.exp(p) * g)], -1)


def adam_cut(name):
    """Adam whose new memory has no graph under this name."""

    def adam(*args, **options):
        phi, state = checks.adam.reference(*args, **options)
        return phi, state | {name: state[name].detach()}

    return adam


def finite_mean(losses, dim):
    mean = losses.mean(dim)
    return torch.where(mean.isfinite(), mean, math.inf)


def seen_lifted(eps):
    """log(|g| + ε), cut off at −1."""

    def seen(g, p):
        right = seen_with()(g, p)
        return torch.stack([((g.abs() + eps).log() / p).clamp(min=-1), right[:, 1]], -1)

    return seen


RIGHT = {
    "linear_weights": [weights_in_one_formula, weights_by_the_sum],
    "adam": [adam_by_names, adam_with()],
    "window": [window_with(), window_forward],
    "tuned_rate": [rate_by_numpy, rate_with()],
    "log_and_sign": [seen_by_index, seen_with(), seen_by_index_put],
}

WRONG = {
    "linear_weights": {
        "w_m alone": (lambda *a, **k: checks.linear_weights.reference(*a, **k)[1], "it needs 2 results, (w_g, w_m)"),
        "other order": (weights_with(lambda g, m, a, b, n: (m, g)), "have changed places"),
        "1 + β": (weights_with(lambda g, m, a, b, n: (g, -a / (1 + b) * (b if n else 1))), "You divided by 1 + β"),
        "β²": (weights_with(lambda g, m, a, b, n: (g, m * b)), "`beta` times the right ones"),
        "plus": (weights_with(lambda g, m, a, b, n: (g, -m)), "These weights climb"),
        "β = 0.9": (weights_with(lambda g, m, a, b, n: (g, -9 * a if n else -10 * a)), "for β = 0.9"),
    },
    "adam": {
        "φ alone": (lambda *a, **o: checks.adam.reference(*a, **o)[0], "it needs 2 results, (φ, state)"),
        "mean cut": (adam_cut("mean"), "is cut from the graph"),
        "square cut": (adam_cut("square"), "is cut from the graph"),
        "φ cut": (adam_with(phi_of=lambda new, phi: new.detach()), "is cut from the graph"),
        "no_grad": (torch.no_grad()(checks.adam.reference), "is cut from the graph"),
        "t forgotten": (adam_with(lambda m, v, t, b: (m / (1 - b[0]), v / (1 - b[1]))), "not by 1 − β:"),
        "no correction, no state": (
            lambda phi, g, state, t, **o: (checks.adam.reference(phi, g, state, t, **o)[0], state),
            "comes back as it came in",
        ),
        "step alone": (adam_with(phi_of=lambda new, phi: new - phi), "the step alone"),
        "cubes": (adam_with(power=4), ""),
        "inverted β": (adam_with(lambda m, v, t, b: (m / b[0] ** t, v / b[1] ** t)), ""),
    },
    "window": {
        "two results": (
            lambda *a, **k: checks.window.reference(*a, **k)[:2],
            "it needs 3 results, (loss, gradient, state)",
        ),
        "from t": (window_with(first=0), "too small by one"),
        "two late": (window_with(first=2), "too large by one"),
        "state of the start": (window_with(state_of=lambda s: s[0]), "comes out as it went in"),
        "one step less": (window_with(state_of=lambda s: s[-2]), "not the one after its last step"),
        "half": (window_with(total=lambda losses: sum(losses) / 2), "half of the right ones"),
    },
    "tuned_rate": {
        "mean over the rates": (rate_with(lambda losses: finite_mean(losses, 0)), "This is the mean over the rates"),
        "argmax": (rate_with(lambda losses: -finite_mean(losses, 1)), "This is the worst rate"),
        "all rates": (lambda rates, losses: rates, "it needs one rate"),
        "nan is 0": (rate_with(lambda losses: losses.mean(1).nan_to_num(nan=0.0, posinf=0.0)), "diverged on some task"),
        "median": (rate_with(lambda losses: losses.nan_to_num(nan=math.inf).median(1).values), "best on MOST tasks"),
        "sum without nan": (
            rate_with(lambda losses: losses.nan_to_num(nan=0.0, posinf=0.0).sum(1)),
            "diverged on some task",
        ),
        "last task": (rate_with(lambda losses: losses[:, -1].nan_to_num(nan=math.inf)), "best on MOST tasks"),
        "loss": (lambda rates, losses: losses.mean(1).nan_to_num(nan=math.inf).min(), "none of the rates"),
        "10 for inf": (rate_with(lambda losses: losses.nan_to_num(nan=10.0, posinf=10.0).mean(1)), "diverged on some"),
        "far from an end": (rate_not_near_an_end, "is not at the edge"),
        "squares": (rate_with(lambda losses: (losses**2).mean(1).nan_to_num(nan=math.inf)), "Take the plain mean"),
        "edge of those left": (rate_at_the_edge_of_those_left, "those that diverged too"),
        "no table with nan": (rate_refuses_any_nan, "no reason to refuse the others"),
    },
    "log_and_sign": {
        "log of |g| + 1e-8": (seen_lifted(1e-8), "You add a small number"),
        "log of |g| + 1e-12": (seen_lifted(1e-12), "You add a small number"),
        "log of |g| + 1e-8 where large": (
            seen_with(log=lambda size, p: (size + 1e-8).log() / p),
            "You add a small number",
        ),
        "log of |g| + 3e-9": (seen_lifted(3e-9), ""),
        "minus 0": (seen_with(small=0.0), "the first number is −1"),
        "log of 2": (seen_with(log=lambda size, p: size.log2() / p), "base 2"),
        "times p": (seen_with(log=lambda size, p: size.log() * p), "multiplied by p"),
        "limit p": (seen_with(limit=lambda p: 1 / p), "The threshold is 1/p"),
        "log g²": (seen_with(log=lambda size, p: size.square().log() / p), "the logarithm of g²"),
        "minus log": (seen_with(log=lambda size, p: -size.log() / p), "has the other sign"),
        "p g": (seen_with(second=lambda g, p, large: torch.where(large, g.sign(), p * g)), "multiplied with p."),
        "small 1": (seen_with(small=1.0), "not +1"),
        "no size": (seen_of_signed, "compare |g|"),
        "p = 10": (lambda g, p: seen_with()(g, 10.0), "for p = 10"),
        "detached": (lambda g, p: seen_with()(g.detach(), p), "the derivative of the first one"),
        "small detached": (
            seen_with(second=lambda g, p, large: torch.where(large, g.sign(), math.exp(p) * g.detach())),
            "the derivative of the second one",
        ),
        "all scaled": (seen_with(second=lambda g, p, large: math.exp(p) * g), "Large gradients keep their sign"),
    },
}
