"""The checks of notebook 10 against right answers written differently, and against mistakes that learners make."""

import math

import pytest
import torch
from check_helpers import assert_check

from mlcourse.lessons.optimizers import checks
from mlcourse.meta_optimization import learned_optimizers


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


# ------------------------------------------------------------------ 10.1 momentum as weights


def weights_branches(rate, beta, *, nesterov):
    if nesterov:
        return torch.tensor([-rate, -rate * beta / (1 - beta)], dtype=torch.float64)
    return 0, -rate / (1 - beta)


def weights_float32(rate, beta, *, nesterov):
    total = torch.tensor(rate).float() / (1 - torch.tensor(beta).float())
    return -rate * nesterov, -total * (beta if nesterov else 1)


def weights_climb(rate, beta, *, nesterov):
    return tuple(-w for w in weights_branches(rate, beta, nesterov=nesterov))


def weights_plain(rate, beta, *, nesterov):
    return -rate, 0.0


def weights_mean(rate, beta, *, nesterov):
    return 0.0, -rate


def weights_upside_down(rate, beta, *, nesterov):
    return 0.0, -rate * (1 - beta)


def weights_twice(rate, beta, *, nesterov):
    return -rate, -rate / (1 - beta)


def weights_never_nesterov(rate, beta, *, nesterov):
    return 0.0, -rate / (1 - beta)


def weights_nesterov_without_beta(rate, beta, *, nesterov):
    return (-rate, -rate / (1 - beta)) if nesterov else (0.0, -rate / (1 - beta))


def weights_nesterov_of_means(rate, beta, *, nesterov):
    return (-rate, -rate * beta) if nesterov else (0.0, -rate / (1 - beta))


def weights_always_nesterov(rate, beta, *, nesterov):
    return -rate, -rate * beta / (1 - beta)


def weights_halved(rate, beta, *, nesterov):
    return 0.0, -rate / (1 - beta) / 2


def weights_one_number(rate, beta, *, nesterov):
    return -rate / (1 - beta)


def test_linear_weights():
    assert_check(
        checks.linear_weights,
        right=[weights_branches, weights_float32],
        wrong={
            "climbs": (weights_climb, "These weights climb"),
            "plain": (weights_plain, "SGD without momentum"),
            "mean for sum": (weights_mean, "The weight of m is −α"),
            "upside down": (weights_upside_down, "Upside down"),
            "twice": (weights_twice, "counted twice"),
            "never Nesterov": (weights_never_nesterov, "without the look ahead"),
            "no β": (weights_nesterov_without_beta, "The β before the sum is missing"),
            "Nesterov of means": (weights_nesterov_of_means, "but a sum is m / (1 − β)"),
            "always Nesterov": (weights_always_nesterov, "although nesterov=False"),
            "half": (weights_halved, "from that of torch.optim.SGD"),
            "one number": (weights_one_number, "cannot be used"),
        },
    )


# ------------------------------------------------------------------ 10.2 Adam


def adam_by_lerp(phi, g, state, t, *, rate, betas, eps):
    m, v = torch.lerp(g, state["mean"], betas[0]), torch.lerp(g * g, state["square"], betas[1])
    size = rate * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
    return phi - size * m / (v.sqrt() + eps * math.sqrt(1 - betas[1] ** t)), {"mean": m, "square": v}


def adam_loop(phi, g, state, t, *, rate, betas, eps):
    new, mean, square = [], [], []
    for p, x, m, v in zip(phi, g, state["mean"], state["square"], strict=True):
        mean.append(betas[0] * m + (1 - betas[0]) * x)
        square.append(betas[1] * v + (1 - betas[1]) * x**2)
        new.append(p - rate * mean[-1] / (1 - betas[0] ** t) / ((square[-1] / (1 - betas[1] ** t)) ** 0.5 + eps))
    return torch.stack(new), {"mean": torch.stack(mean), "square": torch.stack(square)}


def adam_float32(phi, g, state, t, **settings):
    small = {name: value.float() for name, value in state.items()}
    return checks.adam.reference(phi.float(), g.float(), small, t, **settings)


def adam_in_place(phi, g, state, t, *, rate, betas, eps):
    state["mean"].mul_(betas[0]).add_((1 - betas[0]) * g)
    state["square"].mul_(betas[1]).add_((1 - betas[1]) * g**2)
    m, v = (state[name] / (1 - beta**t) for name, beta in zip(("mean", "square"), betas))
    return phi - rate * m / (v.sqrt() + eps), state


def adam_state_corrected_afterwards(phi, g, state, t, *, rate, betas, eps):
    raw = {
        name: value * (1 - beta ** (t - 1))
        for (name, value), beta in zip((("mean", state["mean"]), ("square", state["square"])), betas)
    }
    phi, new = checks.adam.reference(phi, g, raw, t, rate=rate, betas=betas, eps=eps)
    return phi, {name: new[name] / (1 - beta**t) for name, beta in zip(("mean", "square"), betas)}


def adam_early(phi, g, state, t, **settings):
    return checks.adam_of("early")(phi, g, state, t, **settings)


def adam_plain(phi, g, state, t, *, rate, betas, eps):
    return phi - rate * g, state


def adam_only_phi(phi, g, state, t, **settings):
    return checks.adam.reference(phi, g, state, t, **settings)[0]


def test_adam():
    slips = {slip: (checks.adam_of(slip), words) for slip, words in checks.ADAM_SLIPS.items()}
    assert_check(
        checks.adam,
        right=[adam_by_lerp, adam_loop, adam_float32],
        wrong=slips
        | {
            "in place": (adam_in_place, "changes its input (state['mean'], state['square']) in place"),
            "corrected state": (adam_state_corrected_afterwards, "others will read it"),
            "t − 1": (adam_early, "holds NaN"),
            "plain": (adam_plain, "from that of torch.optim.Adam"),
            "only φ": (adam_only_phi, "cannot be used"),
        },
    )


# ------------------------------------------------------------------ 10.3 a window


def window_in_a_list(step, loss, state, lam, *, t, length):
    lam, state = lam.detach().requires_grad_(), state.detach()
    losses = []
    for k in range(length):
        state = step(state, lam, t + 1 + k)
        losses.append(loss(state, t + 1 + k))
    total = torch.stack(losses).sum()
    total.backward()
    return total.item(), lam.grad, state.detach()


def window_by_func_aux(step, loss, state, lam, *, t, length):
    gradient, (value, end) = torch.func.grad(_both(step, loss, state, t, length), has_aux=True)(lam)
    return value, gradient, end


def _both(step, loss, state, t, length):
    def run(lam):
        s, total = state, 0.0
        for k in range(t + 1, t + length + 1):
            s = step(s, lam, k)
            total = total + loss(s, k)
        return total, (total, s)

    return run


def window_float32(step, loss, state, lam, **where):
    return checks.window.reference(step, loss, state.float(), lam.float(), **where)


def window_variant(slip):
    def with_a_mistake(step, loss, state, lam, *, t, length):
        lam, state = lam.detach().clone().requires_grad_(), state.detach()
        losses = []
        first = state
        for k in range(1, length + 1 + {"short": -1, "long": 1}.get(slip, 0)):
            when = {"clock": k, "behind": t + k - 1, "ahead": t + k + 1}.get(slip, t + k)
            if slip == "early":
                losses.append(loss(state, when))
            begin = {"cut": state.detach(), "restarts": first}.get(slip, state)
            state = step(begin, lam, k if slip == "step's clock" else when)
            if slip != "early":
                losses.append(loss(state, k if slip == "loss's clock" else when))
        total = losses[-1] if slip == "last" else sum(losses)
        total = total / length if slip == "mean" else total
        of = losses[-1] if slip == "last gradient" else total
        (gradient,) = torch.autograd.grad(of, lam, retain_graph=True)
        gradient = gradient / 2 if slip == "half" else gradient
        value = total if slip == "value" else total.detach()
        return value, gradient, state if slip == "graph" else state.detach()

    return with_a_mistake


class Remembering:
    """An answer that keeps λ and the state's graph between the windows: the whole gradient."""

    def __init__(self):
        self.lam, self.state = None, None

    def __call__(self, step, loss, state, lam, *, t, length):
        if t == 0:
            self.lam, self.state = lam.clone().requires_grad_(), state
        total = 0.0
        for k in range(t + 1, t + length + 1):
            self.state = step(self.state, self.lam, k)
            total = total + loss(self.state, k)
        (gradient,) = torch.autograd.grad(total, self.lam, retain_graph=True)
        return total.detach(), gradient, self.state.detach()


def window_returns_start(step, loss, state, lam, **where):
    value, gradient, _ = checks.window.reference(step, loss, state, lam, **where)
    return value, gradient, state


def window_without_lam(step, loss, state, lam, *, t, length):
    total = sum(loss(state := step(state, lam, k), k) for k in range(t + 1, t + length + 1))
    return total, torch.autograd.grad(total, lam)[0], state


def test_window():
    slips = {slip: (window_variant(slip), words) for slip, words in checks.WINDOW_SLIPS.items() if slip != "whole"}
    assert_check(
        checks.window,
        right=[window_in_a_list, window_by_func_aux, window_float32],
        wrong=slips
        | {
            "whole": (Remembering(), checks.WINDOW_SLIPS["whole"]),
            "cut": (window_variant("cut"), "cut at every step"),
            "graph": (window_variant("graph"), "the state you return carries its graph"),
            "value": (window_variant("value"), "the loss you return carries its graph"),
            "half": (window_variant("half"), "The gradient after 0 steps is off by"),
            "start": (window_returns_start, "comes out as it went in"),
            "no leaf": (window_without_lam, "does not require grad"),
        },
    )


# ------------------------------------------------------------------ 10.4 a tuned rate


def rate_with_loop(rates, losses):
    best, least = None, math.inf
    for rate, row in zip(rates.tolist(), losses.tolist(), strict=True):
        mean = sum(row) / len(row)
        if mean < least:  # false for nan
            best, least = rate, mean
    if best in (min(rates.tolist()), max(rates.tolist())):
        raise ValueError("at the edge")
    return best


def rate_float32(rates, losses):
    means = losses.float().mean(1)
    means[means.isnan()] = math.inf
    order = rates.argsort()
    place = int(means[order].argmin())
    if place in (0, len(rates) - 1):
        raise ValueError("at the edge")
    return rates[order][place].float()


def rate_nan_is_best(rates, losses):
    best = rates[losses.mean(1).argmin()]
    if best in (rates.min(), rates.max()):
        raise ValueError
    return best


def rate_nanmean(rates, losses):
    best = rates[losses.nanmean(1).argmin()]
    if best in (rates.min(), rates.max()):
        raise ValueError
    return best


def rate_one_task(rates, losses):
    return rates[losses.nan_to_num(nan=math.inf).min(1).values.argmin()]


def rate_index(rates, losses):
    return losses.mean(1).nan_to_num(nan=math.inf).argmin()


def rate_worst(rates, losses):
    return rates[losses.mean(1).nan_to_num(nan=0, posinf=0).argmax()]


def rate_no_edge(rates, losses):
    return rates[losses.mean(1).nan_to_num(nan=math.inf).argmin()]


def rate_edge_of_list(rates, losses):
    place = int(losses.mean(1).nan_to_num(nan=math.inf).argmin())
    if place in (0, len(rates) - 1):
        raise ValueError
    return rates[place]


def rate_always_refuses(rates, losses):
    raise ValueError("no")


def test_tuned_rate():
    assert_check(
        checks.tuned_rate,
        right=[rate_with_loop, rate_float32],
        wrong={
            "nan is best": (rate_nan_is_best, "diverged on some task"),
            "one task": (rate_one_task, "best on ONE task"),
            "index": (rate_index, "is none of the rates"),
            "worst": (rate_worst, "This is the worst rate"),
            "edge not refused": (rate_no_edge, "at the edge: a better one may lie outside"),
            "always refuses": (rate_always_refuses, "It refuses, but"),
        },
    )
    assert "diverged on some task" in checks.tuned_rate.run(rate_nanmean).diagnosis
    assert "another one has a lower mean" in checks.tuned_rate.run(_second_best).diagnosis
    assert not any(checks.tuned_rate.run(rate_edge_of_list, seed=seed).passed for seed in range(10))


def _second_best(rates, losses):
    means = losses.mean(1).nan_to_num(nan=math.inf)
    order = means.argsort()
    return rates[order[2] if losses[order[1]].min() == losses.min() else order[1]]


# ------------------------------------------------------------------ 10.5 logarithm and sign


def seen_with_loop(g, p):
    rows = []
    for one in g:
        large = one.abs() >= math.exp(-p)
        rows.append(
            torch.stack([one.abs().log() / p, one.sign()] if large else [one.new_tensor(-1), math.exp(p) * one])
        )
    return torch.stack(rows)


def seen_by_clamp(g, p):
    log = g.abs().clamp(min=math.exp(-p)).log() / p
    return torch.stack([log, (g * math.exp(p)).clamp(-1, 1)], -1)


def seen_float32(g, p):
    return learned_optimizers.log_and_sign(g.float(), p)


def seen_with(*, log=None, small=None, sign=None, flip=False):
    def with_a_mistake(g, p):
        large = g.abs() >= math.exp(-p)
        safe = torch.where(large, g.abs(), 1.0)
        first = torch.where(large, safe.log() / p if log is None else log(safe, p), -1.0)
        tiny = math.exp(p) * g if small is None else small(g, p)
        second = torch.where(large, g.sign() if sign is None else sign(g), tiny)
        return torch.stack([second, first] if flip else [first, second], -1)

    return with_a_mistake


def seen_raw(g, p):
    return torch.stack([g.abs().log() / p, g.sign()], -1)


def seen_spoilt(g, p):
    large = g.abs() >= math.exp(-p)
    first = torch.where(large, g.abs().log() / p, -1.0)
    return torch.stack([first, torch.where(large, g.sign(), math.exp(p) * g)], -1)


def test_log_and_sign():
    words = checks.NUMBER_SLIPS
    assert_check(
        checks.log_and_sign,
        right=[seen_with_loop, seen_by_clamp, seen_float32, learned_optimizers.log_and_sign],
        wrong={
            "no p": (seen_with(log=lambda size, p: size.log()), words["no p"]),
            "decimal": (seen_with(log=lambda size, p: size.log10() / p), words["decimal"]),
            "no small": (seen_with(small=lambda g, p: g.sign()), words["no small"]),
            "not scaled": (seen_with(small=lambda g, p: g), words["not scaled"]),
            "down": (seen_with(small=lambda g, p: math.exp(-p) * g), words["down"]),
            "no sign": (seen_with(small=lambda g, p: math.exp(p) * g.abs(), sign=torch.ones_like), words["no sign"]),
            "swapped": (seen_with(flip=True), "The two columns are swapped"),
            "raw": (seen_raw, "holds infinity"),
            "spoilt": (seen_spoilt, "their derivative is not finite"),
            "shifted": (seen_with(log=lambda size, p: size.log() / p + 0.1), "it should be ("),
        },
    )


def test_a_state_that_drags_its_graph_along_meets_the_words_of_the_hint():
    def my_window(step, loss, state, lam, *, t, length):
        lam, value = lam.requires_grad_(), 0.0
        for k in range(t + 1, t + length + 1):
            state = step(state, lam, k)
            value = value + loss(state, k)
        return value.detach(), torch.autograd.grad(value, lam)[0], state

    assert "Trying to backward through the graph a second time" in checks.window.run(my_window).diagnosis


def test_a_clock_that_is_one_behind_is_told():
    def my_window(step, loss, state, lam, *, t, length):
        return checks.window.reference(step, loss, state, lam, t=t - 1, length=length)

    assert "too small by one" in checks.window.run(my_window).diagnosis
