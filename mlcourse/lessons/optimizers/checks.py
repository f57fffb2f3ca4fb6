"""The checks of notebook 10: momentum as two weights, Adam as a pure function, a window of a long unroll, a tuned rate,
gradients as logarithm and sign.

The oracles are PyTorch's own optimizers, derivatives carried forward by hand, and loops over numbers.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mlcourse.errors import CourseError
from mlcourse.teaching.checks import Check, close, relative_error, several
from mlcourse.teaching.least_squares import slopes_of
from mlcourse.teaching.oracles import Unnamed, first_mistake, randn, uniform

Tensors = dict[str, Tensor]
RTOL = 2e-4  # an answer that computes in float32 passes; the mistakes below are off by far more
_first = partial(first_mistake, rtol=RTOL)
STEPS = 6


def _trained_by_torch(optimizer: Callable, start: Tensor, gradients: Tensor) -> Tensor:
    """φ_1, …, φ_T [T, n] under an optimizer of PyTorch that is given these gradients [T, n]."""
    phi = start.clone().requires_grad_()
    steps, path = optimizer([phi]), []
    for g in gradients:
        phi.grad = g.clone()
        steps.step()
        path.append(phi.detach().clone())
    return torch.stack(path)


# ------------------------------------------------------------------ 10.1 momentum as weights


def _weights_inputs(nesterov: bool) -> Callable:
    def draw(generator: torch.Generator) -> Tensors:
        return {
            "rate": uniform(generator, 0.01, 0.2),
            "beta": uniform(generator, 0.6, 0.95),
            "nesterov": torch.tensor(nesterov),
        }

    return draw


def _weights_probe(answer: Callable, inputs: Tensors) -> Tensors:
    made = answer(float(inputs["rate"]), float(inputs["beta"]), nesterov=bool(inputs["nesterov"]))
    w_g, w_m = several(made, "w_g", "w_m")
    as_numbers = [torch.as_tensor(w, dtype=torch.float64) for w in (w_g, w_m)]
    return {"w_g": as_numbers[0], "w_m": as_numbers[1]}


def _linear_path(w_g: Tensor, w_m: Tensor, beta: Tensor, start: Tensor, gradients: Tensor) -> Tensor:
    phi, m, path = start, torch.zeros_like(start), []
    for g in gradients:
        m = beta * m + (1 - beta) * g
        phi = phi + w_g * g + w_m * m
        path.append(phi)
    return torch.stack(path)


def _weights_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    rate, beta, nesterov = inputs["rate"], inputs["beta"], bool(inputs["nesterov"])
    generator = torch.Generator().manual_seed(0)
    start, gradients = randn(generator, 4), randn(generator, STEPS, 4)
    settings = {"lr": float(rate), "momentum": float(beta), "nesterov": nesterov}
    right = _trained_by_torch(lambda params: torch.optim.SGD(params, **settings), start, gradients)
    w_g, w_m = outputs["w_g"], outputs["w_m"]
    if close(_linear_path(w_g, w_m, beta, start, gradients), right, rtol=RTOL):
        return None
    pair, zero, total = torch.stack([w_g, w_m]), torch.zeros(()).double(), rate / (1 - beta)
    mistakes = {
        "These weights climb: Δ is added to φ, so a step downhill needs minus signs": _signs(rate, beta, nesterov),
        "This is SGD without momentum: the weight belongs to m": (-rate, zero),
        "The weight of m is −α. But PyTorch's momentum is a sum of gradients, and m a mean: m = (1 − β) · sum": (
            zero,
            -rate,
        ),
        "The sum is m / (1 − β). You divided by 1 + β": (
            (-rate, -rate / (1 + beta) * beta) if nesterov else (zero, -rate / (1 + beta))
        ),
        "Upside down: the sum is m / (1 − β), larger than m. You multiplied by 1 − β": (
            (-rate, -rate * beta * (1 - beta)) if nesterov else (zero, -rate * (1 - beta))
        ),
        "These are the weights for β = 0.9, whatever β is: use `beta`": (
            (-rate, -9 * rate) if nesterov else (zero, -10 * rate)
        ),
        "You divided by β: the sum is m / (1 − β)": (-rate, -rate) if nesterov else (zero, -rate / beta),
    }
    if nesterov:
        mistakes |= {
            "This is momentum without the look ahead: Nesterov's step is g + β · (sum of gradients)": (zero, -total),
            "Nearly: Nesterov's step is g + β · sum. The β before the sum is missing": (-rate, -total),
            "Nearly: the β before the sum is there, but a sum is m / (1 − β)": (-rate, -rate * beta),
        }
    else:
        mistakes["The gradient is counted twice: this step's g is in m already"] = (-rate, -total)
        mistakes["This is Nesterov's momentum, although nesterov=False"] = (-rate, -total * beta)
    wrong = {words: torch.stack([torch.as_tensor(w) for w in weights]) for words, weights in mistakes.items()}
    off = relative_error(_linear_path(w_g, w_m, beta, start, gradients), right)
    return _first(pair, wrong) or Unnamed(f"After {STEPS} steps φ is off by {off:.1e} from that of torch.optim.SGD.")


def _signs(rate: Tensor, beta: Tensor, nesterov: bool) -> tuple:
    return tuple(-torch.as_tensor(w, dtype=torch.float64) for w in _linear_weights(rate, beta, nesterov=nesterov))


def _linear_weights(rate: float, beta: float, *, nesterov: bool) -> tuple[float, float]:
    total = rate / (1 - beta)
    return (-rate, -total * beta) if nesterov else (0.0, -total)


linear_weights = Check(
    exercise="10.1",
    title="Momentum as two weights",
    inputs={"momentum": _weights_inputs(False), "Nesterov": _weights_inputs(True)},
    probe=_weights_probe,
    judge=_weights_judge,
    reference=_linear_weights,
)


# ------------------------------------------------------------------ 10.2 Adam as a pure function


def _adam_inputs(generator: torch.Generator) -> Tensors:
    return {
        "phi": randn(generator, 4),
        "gradients": torch.stack([2.0**-k * randn(generator, 4) for k in range(STEPS)]),
        "rate": uniform(generator, 0.05, 0.2),
        "beta1": uniform(generator, 0.7, 0.8),
        "beta2": uniform(generator, 0.9, 0.95),
        "eps": uniform(generator, 0.05, 0.1),  # large, so that its place matters
    }


def _adam_settings(inputs: Tensors) -> dict:
    betas = (float(inputs["beta1"]), float(inputs["beta2"]))
    return {"rate": float(inputs["rate"]), "betas": betas, "eps": float(inputs["eps"])}


def _adam_path(answer: Callable, inputs: Tensors, start: Tensor, gradients: Tensor) -> Tensors:
    """φ_1, …, φ_T, and the last memory."""
    phi, path = start, []
    state = {"mean": torch.zeros_like(start), "square": torch.zeros_like(start)}
    for t, g in enumerate(gradients, start=1):
        phi, state = several(answer(phi, g.to(phi.dtype), state, t, **_adam_settings(inputs)), "φ", "state")
        if not isinstance(state, dict) or set(state) != {"mean", "square"}:
            raise TypeError("it needs (φ, state), and state a dictionary with 'mean' and 'square'")
        path.append(phi)
    return {"φ": torch.stack(path), **state}


def _adam_probe(answer: Callable, inputs: Tensors) -> Tensors:
    start, gradients = (inputs[name].clone().requires_grad_() for name in ("phi", "gradients"))
    made = _adam_path(answer, inputs, start * 1, gradients * 1)  # no leaves: writing into them raises no error
    # φ leads back to its start, and each of the three to every gradient
    ways = [slopes_of(made["φ"][-1], [start])[0], *(slopes_of(one, [gradients])[0] for one in made.values())]
    return made | {"graph": torch.tensor(all(bool(way.any(-1).all()) for way in ways))}


def adam_of(slip: str = "") -> Callable:
    """Adam's update, or with a slip by name a mistake in it. Nothing here comes from PyTorch's optimizer."""

    def update(phi, g, state, t, *, rate, betas, eps):
        b1, b2 = reversed(betas) if slip == "swapped" else betas
        m = b1 * state["mean"] + (1 - b1) * g
        square = {"not squared": g.abs(), "one for all": (g**2).mean(), "mean squared": m**2}.get(slip, g**2)
        v = b2 * state["square"] + (1 - b2) * square
        if slip == "turned":
            m, v = (1 - b1) * state["mean"] + b1 * g, (1 - b2) * state["square"] + b2 * g**2
        if slip == "no means":
            m, v = state["mean"] * b1 + g, state["square"] * b2 + g**2
        last = t + {"early": -1, "late": 1}.get(slip, 0)
        last = 1 if slip == "t forgotten" else last
        tall = m if slip in ("none", "square only") else m / (1 - b1**last)
        wide = v if slip in ("none", "mean only") else v / (1 - b2**last)
        if slip == "multiplied":
            tall, wide = m * (1 - b1**last), v * (1 - b2**last)
        if slip == "kept":
            m, v = tall, wide
        below = (wide + eps).sqrt() if slip == "eps inside" else wide if slip == "no root" else wide.sqrt() + eps
        if slip == "no root, but ε":
            below = wide + eps
        if slip == "root first":
            below = v.sqrt() / (1 - b2**last) + eps
        if slip == "g alone":
            tall = g
        if slip == "old moments":
            tall, below = state["mean"] / (1 - b1**t), (state["square"] / (1 - b2**t)).sqrt() + eps
        sign = 1 if slip == "climbs" else -1
        start = torch.zeros_like(phi) if slip == "step alone" else phi
        return start + sign * rate * tall / below, {"mean": m, "square": v}

    return update


ADAM_SLIPS = {
    "climbs": "This climbs: φ moves along the mean gradient. Subtract",
    "none": "Without bias correction: m and v start at 0 and are too small at first. Divide each by 1 − β^t",
    "mean only": "The second moment has no bias correction: v / (1 − β₂^t)",
    "square only": "The mean has no bias correction: m / (1 − β₁^t)",
    "kept": "You keep the corrected moments. Keep m and v as they are, and correct only for this step",
    "late": "Bias correction with t + 1: t counts from 1 already",
    "no root": "The root is missing: divide by √v, not by v",
    "no root, but ε": "There is no root: divide by √v + ε, not by v + ε",
    "eps inside": "ε stands under the root. In Adam it is added after it: √v + ε",
    "swapped": "β₁ and β₂ are swapped: the first is that of the mean",
    "not squared": "v is a mean of |g|. It must be one of g²",
    "no means": "These are sums, not means: the new gradient counts with 1 − β",
    "t forgotten": "Bias correction divides by 1 − β^t, not by 1 − β: t is the number of the step",
    "step alone": "This is the step alone. Add it to φ",
    "multiplied": "Bias correction divides by 1 − β^t: m and v are too small at first. You multiplied",
    "turned": "β and 1 − β have changed places: the old moment counts with β, what is new with 1 − β",
    "g alone": "The step goes along g. Adam's goes along the corrected mean, m / (1 − β₁^t)",
    "old moments": "The step is made with the moments as they came. First make m and v new, then the step",
    "root first": "The correction of v stands outside the root: it is √(v / (1 − β₂^t))",
    "one for all": "v is one number for all weights. Each weight has a v of its own: leave .mean() out",
    "mean squared": "v is made of m². It is a moving mean of g²",
}


def _adam_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    rate, betas, eps = _adam_settings(inputs).values()
    right = _trained_by_torch(
        lambda params: torch.optim.Adam(params, lr=rate, betas=betas, eps=eps), inputs["phi"], inputs["gradients"]
    )
    if close(outputs["φ"], right, rtol=RTOL):
        moments = _adam_path(adam_of(), inputs, inputs["phi"], inputs["gradients"])
        if all(close(outputs[name], moments[name], rtol=RTOL) for name in ("mean", "square")):
            if outputs["graph"]:
                return None
            return (
                "The numbers are right, but φ or the state is cut from the graph (detach, .data or no_grad): nobody "
                "can differentiate through such a step."
            )
        return "φ is right, but the state must hold m and v as they are, without correction: others will read it."
    first = close(outputs["φ"][0], right[0], rtol=RTOL)
    if first and not outputs["mean"].any() and not outputs["square"].any():
        return "The state comes back as it came in: return the new m and v, or each step begins with zeros again."
    given = inputs["phi"], inputs["gradients"]
    wrong = {words: _adam_path(adam_of(slip), inputs, *given)["φ"] for slip, words in ADAM_SLIPS.items()}
    return _first(outputs["φ"], wrong) or Unnamed(
        f"After {STEPS} steps φ is off by {relative_error(outputs['φ'], right):.1e} from that of torch.optim.Adam."
    )


adam = Check(
    exercise="10.2",
    title="Adam as a pure function",
    inputs=_adam_inputs,
    probe=_adam_probe,
    judge=_adam_judge,
    reference=adam_of(),
)


# ------------------------------------------------------------------ 10.3 a window of a long unroll


WINDOW, ALL = 3, 9  # the window, and all steps


def _window_inputs(generator: torch.Generator) -> Tensors:
    axes = torch.linalg.qr(randn(generator, 3, 3)).Q
    curvature = axes * torch.stack([uniform(generator, 0.2, 2.0) for _ in range(3)]) @ axes.T
    return {"A": curvature, "start": 2 * normalize(randn(generator, 3), dim=0), "lam": torch.tensor([-1.5, 0.3])}


def _dynamics(a: Tensor) -> tuple[Callable, Callable]:
    """Descent on ½ sᵀAs at the rate e^λ₀ / √(t + 1), plus a nonlinear push of size λ₁; the loss grows with t."""

    def step(state: Tensor, lam: Tensor, t: int) -> Tensor:
        return state - lam[0].exp() / math.sqrt(t + 1) * (a.to(state.dtype) @ state) + 0.1 * lam[1] * state.sin()

    def loss(state: Tensor, t: int) -> Tensor:
        return t * (state @ (a.to(state.dtype) @ state)) / 2

    return step, loss


def _window_probe(answer: Callable, inputs: Tensors) -> Tensors:
    step, loss = _dynamics(inputs["A"])
    state, lam, outputs = inputs["start"], inputs["lam"].double(), {}
    free = value_free = True
    for t in range(0, ALL, WINDOW):
        made = answer(step, loss, state, lam, t=t, length=WINDOW)
        value, gradient, state = several(made, "loss", "gradient", "state")
        if getattr(state, "shape", None) != inputs["start"].shape:
            raise TypeError(f"the third result, the last state, must keep its shape {list(inputs['start'].shape)}")
        where = f"after {t} steps"
        outputs |= {f"value {where}": torch.as_tensor(value), f"gradient {where}": gradient, f"state {where}": state}
        free &= not state.requires_grad
        value_free &= not (isinstance(value, Tensor) and value.requires_grad)
    return outputs | {"free": torch.tensor(free), "value free": torch.tensor(value_free)}


def _forward_mode(inputs: Tensors, *, slip: str = "") -> Tensors:
    """The same numbers with derivatives carried forward: S_t = ∂s_t/∂λ is set to 0 at each window. No autograd."""
    a, lam, outputs = inputs["A"], inputs["lam"].double(), {}
    s, sens = inputs["start"], torch.zeros(3, 2, dtype=torch.float64)
    for t0 in range(0, ALL, WINDOW):
        value, gradient = torch.zeros((), dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        if slip != "whole":
            sens = torch.zeros_like(sens)
        begin = s
        for k in range(1, WINDOW + 1 + {"short": -1, "long": 1}.get(slip, 0)):
            t = {"clock": k, "behind": t0 + k - 1, "ahead": t0 + k + 1, "step's clock": k}.get(slip, t0 + k)
            at = {"loss's clock": k, "step's clock": t0 + k}.get(slip, t)
            if slip == "early":
                value, gradient = value + t * s @ a @ s / 2, gradient + t * (a @ s) @ sens
            s = begin if slip == "restarts" else s
            rate = lam[0].exp() / math.sqrt(t + 1)
            jacobian = torch.eye(3, dtype=torch.float64) - rate * a + 0.1 * lam[1] * torch.diag(s.cos())
            direct = torch.stack([-rate * (a @ s), 0.1 * s.sin()], -1)
            carried = torch.zeros_like(sens) if slip in ("cut", "restarts") else sens
            s, sens = s - rate * (a @ s) + 0.1 * lam[1] * s.sin(), jacobian @ carried + direct
            if slip != "early":
                if slip in ("last", "last gradient"):
                    value, gradient = value * (slip == "last gradient"), torch.zeros_like(gradient)
                value, gradient = value + at * s @ a @ s / 2, gradient + at * (a @ s) @ sens
        share = WINDOW if slip == "mean" else 1
        where = f"after {t0} steps"
        outputs |= {f"value {where}": value / share, f"gradient {where}": gradient / share, f"state {where}": s}
    return outputs


WINDOW_SLIPS = {
    "last": "Only the loss of the window's last step is there. L_outer is the sum over all its steps",
    "mean": "This is a mean over the window. The windows must add up to L_outer: take the sum",
    "early": "You take each loss before its step. ℓ_t belongs to the state after step t",
    "clock": "The clock starts anew in each window: the steps have the numbers t + 1, …, t + length",
    "behind": "Every step has a number too small by one: range(t + 1, t + length + 1) begins after step t",
    "ahead": "Every step has a number too large by one: after step t comes step t + 1",
    "short": "The window's last step is missing: range(t + 1, t + length) ends before step t + length",
    "long": "One step too many: the window's last step is t + length, where range(t + 1, t + length + 1) ends",
    "restarts": "Each step starts from the window's first state. It goes on from where the step before ended",
    "step's clock": "Each `step` is told its number in the window, and the loss that in the whole. Both get t + k",
    "loss's clock": "Each `loss` is told its number in the window, and the step that in the whole. Both get t + k",
    "last gradient": "The gradient is that of the window's last loss alone. Differentiate the sum of them",
    "whole": "The gradient reaches back beyond the window: detach the state that comes in",
}


def _window_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    right = _forward_mode(inputs)
    if all(close(outputs[name], value, rtol=RTOL) for name, value in right.items()):
        if not outputs["free"]:
            return "The numbers are right, but the state you return carries its graph: it would grow with every window."
        if not outputs["value free"]:
            return "The numbers are right, but the loss you return carries its graph: return value.detach()."
        return None
    for slip, words in WINDOW_SLIPS.items():
        wrong = _forward_mode(inputs, slip=slip)
        if all(close(outputs[name], value, rtol=RTOL) for name, value in wrong.items()):
            return words
    if all(torch.equal(outputs[name], inputs["start"]) for name in outputs if name.startswith("state")):
        return "The state comes out as it went in. Return the one after the window's last step."
    first = ("value after 0 steps", "gradient after 0 steps")
    moved = not close(outputs["state after 0 steps"], right["state after 0 steps"], rtol=RTOL)
    if moved and all(close(outputs[name], right[name], rtol=RTOL) for name in first):
        return "The first window's loss and gradient are right, and the state is not the one after its last step."
    name, value = next((n, v) for n, v in right.items() if not close(outputs[n], v, rtol=RTOL))
    cut = _forward_mode(inputs, slip="cut")
    if all(close(outputs[n], v, rtol=RTOL) for n, v in cut.items()):
        return "The graph is cut at every step. Within the window a loss must reach all of its steps before it."
    return Unnamed(f"The {name} is off by {relative_error(outputs[name], value):.1e}.")


def _window(
    step: Callable, loss: Callable, state: Tensor, lam: Tensor, *, t: int, length: int
) -> tuple[Tensor, Tensor, Tensor]:
    lam, state = lam.detach().clone().requires_grad_(), state.detach()
    value = torch.zeros((), dtype=state.dtype)
    for k in range(t + 1, t + length + 1):
        state = step(state, lam, k)
        value = value + loss(state, k)
    (gradient,) = torch.autograd.grad(value, lam)
    return value.detach(), gradient, state.detach()


window = Check(
    exercise="10.3",
    title="One window of a long unroll",
    inputs=_window_inputs,
    probe=_window_probe,
    judge=_window_judge,
    reference=_window,
)


# ------------------------------------------------------------------ 10.4 a tuned rate


TABLES = 4  # of one kind in a problem


def _rates_inputs(best: str, diverge: bool) -> Callable:
    """A bowl over the log of the rate; `best`: inside, low, high, one from an end, or just below those that diverge.

    With `diverge` the largest rates give inf and nan, each on one of many tasks, and are better on all others: whoever
    leaves these tasks out, or counts them as some large number, takes such a rate.
    """

    def draw(generator: torch.Generator) -> Tensors:
        n, tasks = 9, 5
        order = torch.randperm(n, generator=generator)
        while order[0] in (0, n - 1) or order[-1] in (0, n - 1):  # the extreme rates do not stand at the ends
            order = torch.randperm(n, generator=generator)
        grid = torch.logspace(-4, 0, n, dtype=torch.float64)
        inside = int(torch.randint(2, 5, (), generator=generator))
        places = {"low": 0, "second": 1, "inside": inside, "below": n - 4, "last but one": n - 2, "high": n - 1}
        centre = places[best]
        bowl = 1 + 0.3 * (torch.arange(n).double() - centre).abs()
        losses = bowl.unsqueeze(-1) + 0.05 * torch.rand(n, tasks, generator=generator, dtype=torch.float64)
        losses[(centre + 1) % n, 0] = 0.1  # a neighbour is best on one task, and not on the mean
        losses[(centre - 1) % n] = torch.tensor([3.5, 0.5, 0.5, 3.5, 0.5])  # the other one on most, and on the last
        # the best has one large loss: by squares the first neighbour would win
        losses[centre] += torch.tensor([-0.4, 1.5, -0.4, -0.4, -0.4])
        losses[6 if centre < 5 else 2] += 3  # the worst rate is not at the edge: to take it is not refused
        if diverge:
            losses = losses.repeat(1, 8)
            losses[-3:] = torch.tensor([[0.01], [0.01], [0.02]]) * losses[-3:]
            losses[-1, 2], losses[-2, 1], losses[-3, 1:] = math.inf, math.nan, math.nan
        return {"rates": grid[order], "losses": losses[order]}

    def several_tables(generator: torch.Generator) -> Tensors:
        """Tables of one kind, so that no slip is like another one by luck."""
        drawn = [draw(generator) for _ in range(TABLES)]
        return {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}

    return several_tables


REFUSED = -1.0  # stands for a ValueError


def _right_rate(rates: Tensor, losses: Tensor) -> float:
    try:
        return _rates_reference(rates, losses)
    except CourseError:
        return REFUSED


def _rates_probe(answer: Callable, inputs: Tensors) -> Tensors:
    rates = [_rate(answer, *table) for table in zip(inputs["rates"], inputs["losses"])]
    return {"rate": torch.stack(rates)}


def _rate(answer: Callable, rates: Tensor, losses: Tensor) -> Tensor:
    """The rate that the answer returns, or REFUSED."""
    try:
        rate = answer(rates, losses)
    except Exception as error:  # a refusal is an answer here; other errors are mistakes
        raised = error.__cause__ or error
        if not isinstance(raised, ValueError):
            if isinstance(raised, AssertionError | RuntimeError) and _right_rate(rates, losses) == REFUSED:
                kind = type(raised).__name__
                raise TypeError(
                    f"where the best rate is at the edge it raises {kind}; asked is a ValueError"
                ) from error
            raise
        return torch.tensor(REFUSED, dtype=torch.float64)
    rate = torch.as_tensor(rate, dtype=torch.float64)
    if rate.dim():
        raise TypeError(f"it needs one rate, a number, and you return {rate.numel()} of them")
    return rate


def _rates_reference(rates: Tensor, losses: Tensor) -> float:
    means = losses.mean(1).nan_to_num(nan=math.inf)
    best = rates[means.argmin()]
    if best in (rates.min(), rates.max()):
        raise CourseError(f"the best rate, {best.item():g}, is at the edge of those tried; try more beyond it")
    return best.item()


def _picked(rates: Tensor, badness: Tensor) -> float:
    """The rate in the place where `badness` is least, refused at the edge."""
    best = rates[badness.nan_to_num(nan=math.inf).argmin()]
    return REFUSED if best in (rates.min(), rates.max()) else float(best)


def _rates_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    tables, got = list(zip(inputs["rates"], inputs["losses"])), outputs["rate"].tolist()
    right = [_right_rate(*table) for table in tables]
    same = [math.isclose(one, wanted, rel_tol=1e-5) for one, wanted in zip(got, right)]
    if all(same):
        return None
    over_rates = [_picked(rates, losses.mean(0)[: len(rates)]) for rates, losses in tables]
    if all(math.isclose(*pair, rel_tol=1e-5) for pair in zip(got, over_rates)):
        return (
            "This is the mean over the rates. losses is [rates, tasks]: for the mean over the tasks take dimension 1."
        )
    wrong = [place for place, one in enumerate(same) if not one]
    place = next((one for one in wrong if got[one] != REFUSED), wrong[0])  # a rate tells more than a refusal
    return _rate_mistake(*tables[place], got[place], right[place])


def _rate_mistake(rates: Tensor, losses: Tensor, got: float, right: float) -> str:
    """What one wrong rate, or a refusal, says about how it was found."""
    if got == REFUSED:
        return (
            f"It refuses, but the best rate, {right:g}, the one with the smallest mean loss, is not at the edge. Edge "
            "means the smallest or the largest rate of all, those that diverged too, not the first or the last of the "
            "list; and a loss of nan or inf is bad, not best, and no reason to refuse the others."
        )
    found = torch.isclose(rates, torch.tensor(got, dtype=torch.float64), rtol=1e-5)
    if not found.any():
        return f"{got:g} is none of the rates. Return the rate itself, not its position and not its loss."
    row = losses[int(found.nonzero()[0])]
    if not row.mean().isfinite():
        return "This rate diverged on some task. A loss that is nan or inf makes the whole rate bad: count it as inf."
    if right == REFUSED:
        return (
            f"The best of those tried is {got:g}, at the edge: a better one may lie outside. Raise a ValueError, so "
            "that nobody compares with a badly tuned baseline."
        )
    means = losses.mean(1)
    if math.isclose(float(row.mean()), float(means[means.isfinite()].max())):
        return "This is the worst rate. Take the smallest mean loss."
    if float(row.median()) <= float(losses[means.isfinite()].median(1).values.min()):
        return "This rate is best on MOST tasks, or on the last one, and bad on others. Take the mean over the tasks."
    if float(row.min()) == float(losses[losses.isfinite() & means.isfinite().unsqueeze(-1)].min()):
        return (
            "This rate is best on ONE task, which must not decide. Take the plain mean over the tasks, then the best."
        )
    return Unnamed(f"The rate {got:g} has the mean loss {float(row.mean()):.3f}; another one has a lower mean.")


tuned_rate = Check(
    exercise="10.4",
    title="A tuned rate",
    inputs={
        "the best is inside": _rates_inputs("inside", False),
        "some rates diverge": _rates_inputs("inside", True),
        "the best rate is the largest that does not diverge": _rates_inputs("below", True),
        "the second smallest rate is best": _rates_inputs("second", False),
        "the second largest rate is best": _rates_inputs("last but one", False),
        "the smallest rate is best": _rates_inputs("low", False),
        "the largest rate is best": _rates_inputs("high", False),
    },
    probe=_rates_probe,
    judge=_rates_judge,
    reference=_rates_reference,
)


# ------------------------------------------------------------------ 10.5 logarithm and sign


def _gradients_inputs(p: float) -> Callable:
    def draw(generator: torch.Generator) -> Tensors:
        sizes = torch.tensor([3.0, 1.0, 0.1, math.exp(-p) * 1.5, math.exp(-p) * 0.5, math.exp(-2 * p), 0.0]).double()
        signs = torch.where(torch.rand(7, generator=generator) < 0.5, -1.0, 1.0).double()
        signs[:2], signs[4] = torch.tensor([1.0, -1.0]), -1.0
        return {"g": sizes * signs * (1 + 0.1 * torch.rand(7, generator=generator).double()), "p": torch.tensor(p)}

    return draw


def _gradients_probe(answer: Callable, inputs: Tensors) -> Tensors:
    g = inputs["g"].clone().requires_grad_()
    seen = answer(g, float(inputs["p"]))
    if not isinstance(seen, Tensor):
        raise TypeError("it needs one tensor [n, 2]")
    slopes = torch.zeros(2, len(g), dtype=g.dtype)
    if seen.requires_grad and seen.shape == (len(g), 2):
        each = [
            torch.autograd.grad(seen[:, k].sum(), g, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for k in (0, 1)
        ]
        slopes = torch.stack(each)
    # not a number would end the check before its judge is asked: it is told by `finite`
    return {"seen": seen, "finite slope": slopes.isfinite().all(), "slopes": slopes.nan_to_num(0.0, 0.0, 0.0)}


def _slopes(g: float, p: float) -> tuple[float, float]:
    """The derivatives of the two numbers."""
    return (1 / (p * g), 0.0) if abs(g) >= math.exp(-p) else (0.0, math.exp(p))


def _number(g: float, p: float, slip: str = "") -> tuple[float, float]:
    """One gradient as two numbers, or with a slip by name a mistake."""
    if slip == "no small":
        return max(math.log(abs(g)) / p if g else -math.inf, -1.0), math.copysign(float(g != 0), g)
    p = 10.0 if slip == "p is 10" else p
    if (g if slip == "no size" else abs(g)) >= (1 / p if slip == "1 / p" else math.exp(-p)):
        log = math.log(abs(g)) / {"no p": 1, "times p": 1 / p, "minus log": -p}.get(slip, p)
        log = 2 * log if slip == "squared" else log
        log = log / math.log({"decimal": 10, "base 2": 2}.get(slip, math.e))
        return log, {"no sign": 1.0, "all scaled": math.exp(p) * g}.get(slip, math.copysign(1.0, g))
    return {"small 0": 0.0, "small 1": 1.0}.get(slip, -1.0), {
        "not scaled": g,
        "no sign": abs(g) * math.exp(p),
        "down": g * math.exp(-p),
        "p g": p * g,
    }.get(slip, math.exp(p) * g)


SMALL = (1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)  # what is added so that log 0 is a number


def _with_small(g: float, p: float, eps: float, cut: bool) -> tuple[float, float]:
    """The two numbers with log(|g| + ε); cut: at −1, and not where |g| is below the threshold."""
    log = math.log(abs(g) + eps) / p
    return max(log, -1.0) if cut else log if abs(g) >= math.exp(-p) else -1.0, _number(g, p)[1]


NUMBER_SLIPS = {
    "no p": "The logarithm is not divided by p: it should lie between −1 and about 0",
    "decimal": "This is the logarithm to the base 10. The threshold e^−p belongs to the natural one",
    "no small": "Small gradients are lost: below e^−p the second number is e^p g, which goes on smoothly to 0",
    "not scaled": "Small gradients are passed on as they are. Multiply them with e^p: then ±e^−p becomes ±1",
    "down": "Small gradients are multiplied with e^−p: they vanish altogether. It is e^p",
    "base 2": "This is the logarithm to the base 2. The threshold e^−p belongs to the natural one",
    "times p": "The logarithm is multiplied by p. Divide by it",
    "small 0": "Below e^−p the first number is −1, where the logarithm has arrived, not 0",
    "all scaled": "Large gradients keep their sign alone, ±1. Only below e^−p it is e^p g",
    "no sign": "The sign is lost: g and −g look alike, and the rule cannot know where to go",
    "no size": "Large negative gradients are taken for small ones: compare |g| with e^−p, not g",
    "squared": "This is the logarithm of g², twice that of |g|",
    "minus log": "The logarithm has the other sign: log |g| / p is negative for |g| below 1",
    "p g": "Small gradients are multiplied with p. It is e^p, so that ±e^−p becomes ±1",
    "small 1": "Below e^−p the first number is −1, where the logarithm has arrived, not +1",
    "1 / p": "The threshold is 1/p here. It is e^−p, where log |g| / p is −1",
    "p is 10": "These are the numbers for p = 10, whatever p is: use `p`",
}


def _gradients_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    g, p = inputs["g"].tolist(), float(inputs["p"])

    def all_of(slip: str = "") -> Tensor:
        return torch.tensor([_number(one, p, slip) for one in g], dtype=torch.float64)

    if close(outputs["seen"], all_of(), rtol=RTOL):
        if not outputs["finite slope"]:
            return (
                "The numbers are right, but their derivative is not finite: `where` differentiates both branches, and "
                "log 0 spoils the sum. Put a 1 in the place of small |g| before the logarithm."
            )
        slopes = torch.tensor([_slopes(one, p) for one in g], dtype=torch.float64).T
        for column, words in ((0, "log |g| / p"), (1, "e^p g")):
            if not close(outputs["slopes"][column], slopes[column], rtol=RTOL):
                return (
                    f"The numbers are right, but the derivative of the {('first', 'second')[column]} one, {words}, is "
                    "lost: one trains through it. Leave out detach, no_grad and .data."
                )
        return None
    if close(outputs["seen"], all_of().flip(1), rtol=RTOL):
        return "The two columns are swapped: the logarithm comes first."
    wrong = {words: all_of(slip) for slip, words in NUMBER_SLIPS.items()}
    small = [torch.tensor([_with_small(one, p, eps, cut) for one in g]).double() for eps in SMALL for cut in (0, 1)]
    if any(close(outputs["seen"], one, rtol=RTOL) for one in small):
        return (
            "You add a small number to |g| before the logarithm. With a large p it hides the |g| that count: take "
            "`where`, and put a 1 in the place of those below e^−p."
        )
    off = (outputs["seen"].double() - all_of()).abs().sum(1)
    worst = int(off.argmax())
    return _first(outputs["seen"], wrong) or Unnamed(
        f"For g = {g[worst]:.2e} and p = {p:g} it should be {_number(g[worst], p)}."
    )


def _gradients_reference(g: Tensor, p: float) -> Tensor:
    large = g.abs() >= math.exp(-p)
    log = torch.where(large, g.abs(), 1.0).log() / p
    return torch.stack([torch.where(large, log, -1.0), torch.where(large, g.sign(), math.exp(p) * g)], -1)


log_and_sign = Check(
    exercise="10.5",
    title="Gradients as logarithm and sign",
    inputs={
        # not 2, where log g² / p is log |g|; with 30 a small number that is added to |g| shows
        "p = 3": _gradients_inputs(3.0),
        "p = 10": _gradients_inputs(10.0),
        "p = 30": _gradients_inputs(30.0),
    },
    probe=_gradients_probe,
    judge=_gradients_judge,
    reference=_gradients_reference,
)
