"""The checks of notebook 09: a rate's hypergradient, best so far at equal cost, weights of examples, short horizons.

Oracles share no code with the package: differences of the loss after the step, plain loops over trials and steps.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mlcourse.teaching.checks import Check, close, keep_precision, relative_error
from mlcourse.teaching.oracles import Unnamed, directional_derivative, first_mistake, randn, told_apart, uniform

Tensors = dict[str, Tensor]
F64 = torch.float64
RTOL = 2e-4  # an answer that computes in float32 passes; the mistakes below are off by far more
_close = partial(close, rtol=RTOL)
_first = partial(first_mistake, rtol=RTOL)


def _bowl(generator: torch.Generator, n: int) -> Tensor:
    """A symmetric positive definite matrix [n, n]."""
    root = randn(generator, n, n)
    return root @ root.T / n + 0.5 * torch.eye(n, dtype=F64)


# ------------------------------------------------------------------ 09.1 the hypergradient of a rate


def rate_inputs(n: int, sign: int = 0) -> Callable[[torch.Generator], Tensors]:
    """sign: that of the derivative; 0 leaves it to luck."""

    def inputs(generator: torch.Generator) -> Tensors:
        while True:
            drawn = {
                "phi": randn(generator, n),
                "rate": uniform(generator, 0.05, 0.25),
                "inner_bowl": _bowl(generator, n),
                "inner_centre": randn(generator, n),
                "outer_bowl": _bowl(generator, n),
                "outer_centre": randn(generator, n),
            }
            step = slope_of(drawn, "inner")(drawn["phi"])
            derivative = -slope_of(drawn, "outer")(drawn["phi"] - drawn["rate"] * step) @ step
            if not sign or sign * derivative > 0:
                return drawn

    return inputs


def valley(inputs: Tensors, part: str) -> Callable[[Tensor], Tensor]:
    """½ (φ − c)ᵀ A (φ − c) + ¼ Σ (φ − c)⁴ as a function of φ."""

    def loss(phi: Tensor) -> Tensor:
        away = phi - inputs[f"{part}_centre"].to(phi.dtype)
        return 0.5 * away @ inputs[f"{part}_bowl"].to(phi.dtype) @ away + 0.25 * away.pow(4).sum()

    return loss


def slope_of(inputs: Tensors, part: str) -> Callable[[Tensor], Tensor]:
    """Its gradient, written out."""

    def gradient(phi: Tensor) -> Tensor:
        away = phi - inputs[f"{part}_centre"].to(phi.dtype)
        return inputs[f"{part}_bowl"].to(phi.dtype) @ away + away**3

    return gradient


def _rate_probe(answer: Callable, inputs: Tensors) -> Tensors:
    slopes = (slope_of(inputs, "inner"), slope_of(inputs, "outer"))
    return {"derivative": answer(*slopes, inputs["phi"].clone(), float(inputs["rate"]))}


def _rate_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    phi, rate = inputs["phi"], inputs["rate"]
    inner, outer, loss = slope_of(inputs, "inner"), slope_of(inputs, "outer"), valley(inputs, "outer")
    right = directional_derivative(lambda a: loss(phi - a * inner(phi)), rate, torch.ones((), dtype=F64), h=1e-4)
    right, got = torch.tensor(right, dtype=F64), outputs["derivative"]
    if _close(got, right):
        return None
    after = phi - rate * inner(phi)
    mistakes = {
        # on a positive derivative a wrong sign is found, on a negative one, which comes later, a lost one
        "This is the size of the derivative: keep its sign, it says whether a larger rate helps.": right.abs(),
        "Sign: when the rate grows, φ′ moves along −∇L_inner. So the derivative is minus the product.": -right,
        "The outer gradient is taken at φ. It is the loss after the step that counts: take it at φ′.": -outer(phi)
        @ inner(phi),
        "The inner gradient is taken at φ′. The step was made with the one at φ.": -outer(after) @ inner(after),
        "Both gradients are those of the inner loss. The loss after the step is the outer one: take ∇L_outer at φ′.": (
            -inner(phi) @ inner(phi)
        ),
        "Both gradients are those of the outer loss. The step was made with the inner one: ∇L_inner at φ.": (
            -outer(after) @ outer(phi)
        ),
        "The two losses have changed places: the step goes along ∇L_inner at φ, and the outer loss is asked at φ′.": (
            -inner(phi - rate * outer(phi)) @ outer(phi)
        ),
        "There is a factor α too much: φ′ = φ − α ∇L_inner, and its derivative in α is −∇L_inner.": rate * right,
        "That is the outer loss's own slope, without how far φ′ moves: multiply by −∇L_inner and sum.": outer(
            after
        ).sum(),
        "This is the length of the gradients' product. The two need not be parallel: take the dot product.": -outer(
            after
        ).norm()
        * inner(phi).norm(),
        "This is a cosine: it is divided by the lengths. The derivative is the plain dot product.": right
        / (outer(after).norm() * inner(phi).norm()),
        "This is the mean of the products. The dot product is their sum.": right / len(phi),
    }
    return _first(got, mistakes) or Unnamed(
        f"The derivative is off by {relative_error(got, right):.1e}. Write φ′ first, then the outer gradient there, "
        "then its dot product with −∇L_inner(φ)."
    )


def _rate_reference(inner_gradient, outer_gradient, phi, rate) -> Tensor:
    """−∇L_outer(φ′)·∇L_inner(φ), φ′ = φ − α ∇L_inner(φ)."""
    step = inner_gradient(phi)
    return -outer_gradient(phi - rate * step) @ step


rate_hypergradient = Check(
    exercise="09.1",
    title="The hypergradient of a learning rate",
    inputs={
        "three weights, a larger rate hurts": rate_inputs(3, 1),  # with two, a half and a mean are the same
        "three weights, a larger rate helps": rate_inputs(3, -1),
        "six weights": rate_inputs(6),
    },
    probe=_rate_probe,
    judge=_rate_judge,
    reference=_rate_reference,
)


# ------------------------------------------------------------------ 09.2 best so far, at equal cost


ENDLESS = 1e30  # stands for infinity


def _trials(count: int, *, equal: bool, late: bool) -> Callable[[torch.Generator], Tensors]:
    """late: one point of the grid lies before the first trial has finished. Some points lie exactly where one ends."""

    def inputs(generator: torch.Generator) -> Tensors:
        while True:
            drawn = draw(generator)
            curves = [by_loop(**drawn, slip=slip) for slip in ("", "sorted", "trials", "start", "own")]
            if equal or not any(torch.equal(a, b) for a, b in itertools.combinations(curves, 2)):
                return drawn

    def draw(generator: torch.Generator) -> Tensors:
        costs = torch.full((count,), 3, dtype=F64)
        if not equal:
            costs = torch.randint(2, 9, (count,), generator=generator).double()
        # the best trial is one of the later ones, but not the last
        values = uniform(generator, 2, 3, count).index_add(
            0, torch.tensor([count // 2 + 1]), -uniform(generator, 1, 2, 1)
        )
        spent = costs.cumsum(0)
        grid = torch.cat([spent, spent[1:] - 0.5 * costs[1:], 2 * spent[-1:]]).sort().values
        return {"values": values, "costs": costs, "grid": torch.cat([costs[:1] / 2, grid]) if late else grid}

    return inputs


def _best_probe(answer: Callable, inputs: Tensors) -> Tensors:
    result = answer(*(inputs[name].clone() for name in ("values", "costs", "grid")))
    if not isinstance(result, Tensor):
        raise TypeError("it needs one tensor, with a number for each cost of the grid")
    # infinity would end the check before its judge is asked
    return {"best": result.nan_to_num(nan=-ENDLESS, posinf=ENDLESS)}


READ = {
    "last": lambda seen, values: seen[-1],
    "largest": lambda seen, values: max(seen),
    "mean": lambda seen, values: sum(seen) / len(seen),
    "regret": lambda seen, values: min(seen) - min(values),
    "zeros": lambda seen, values: min(seen) if len(seen) == len(values) else min(0.0, *seen),
}


def _best(seen: list[float], values: list[float]) -> float:
    return min(seen)


def by_loop(values: Tensor, costs: Tensor, grid: Tensor, *, slip: str = "") -> Tensor:
    """The best value finished by each cost of the grid, trial by trial; with one mistake, named as in BEST_SLIPS."""
    found = []
    if slip == "sorted":
        values, costs = values[costs.argsort(stable=True)], costs.sort(stable=True).values
    for row, limit in enumerate(grid.tolist()):
        spent, seen = 0.0, []
        for place, (value, cost) in enumerate(zip(values.tolist(), costs.tolist())):
            ends = spent + cost
            by = {"start": spent, "trials": place + 1.0, "own": cost, "places": limit + (place - row)}.get(slip, ends)
            if by < limit or (by == limit and slip != "strict"):
                seen.append(value)
            spent = ends
        empty = {"zero": 0.0, "zeros": 0.0, "first": values[0].item()}.get(slip, math.inf)
        found.append(READ.get(slip, _best)(seen, values.tolist()) if seen else empty)
    return torch.tensor(found, dtype=F64)


BEST_SLIPS = {
    "This is the last value that was finished, not the best one until then.": "last",
    "This is the largest value until then. Losses are better when they are lower: take the smallest.": "largest",
    "This is the mean of the values until then. What counts is the best one: take the smallest.": "mean",
    "A trial counts here from the moment it begins. Its value is known when its cost is paid.": "start",
    "This counts trials, and ignores what they cost. Add the costs up, and compare the sum with the grid.": "trials",
    "The first place of your curve holds one trial, the second two: what trials cost is ignored. Compare their summed "
    "costs with the grid.": "places",
    "Trials count here that have not ended yet: add the costs up first, then compare the sum with the grid.": "own",
    "A trial that ends exactly at a cost of the grid is finished there. Compare with ≤.": "strict",
    "The best of all trials is taken away: that is the regret. Asked is the best value itself.": "regret",
    "A trial that has not ended counts as 0 here, which is lower than any value. Give it infinity.": "zeros",
    "The trials are sorted by their cost. They are paid for in the order in which they come.": "sorted",
    "Before the first trial has ended nothing is known, and you say 0, the best loss there is. Say infinity.": "zero",
    "Before the first trial has ended nothing is known yet, also not the value of the first. Say infinity.": "first",
}


def _equal(got: Tensor, expected: Tensor) -> bool:
    return torch.allclose(got, expected, rtol=RTOL, atol=0.0)


def _best_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    got = outputs["best"].double()
    got, parts = torch.where(got > 0.9 * ENDLESS, torch.inf, got), (inputs["values"], inputs["costs"], inputs["grid"])
    right = by_loop(*parts)
    if _equal(got, right):
        return None
    if got.min() < -0.9 * ENDLESS:
        return "Your curve is nan or −infinity somewhere. In the place of a trial that has not ended put torch.inf."
    for diagnosis, slip in BEST_SLIPS.items():
        if _equal(got, by_loop(*parts, slip=slip)):
            return diagnosis
    # compared where something is known, or infinity against a number would hide the rest
    known = right.isfinite()
    if not _equal(got[~known], right[~known]):
        return "Before the first trial has ended nothing is known: the curve is infinite there."
    place = int((~torch.isclose(got, right, rtol=RTOL)).nonzero()[0, 0])
    shown, yours = told_apart(right[place], got[place])
    ends = ", ".join(f"{cost:g}" for cost in parts[1].cumsum(0)[:4])
    return Unnamed(
        f"At cost {parts[2][place]:g} the best loss is {shown}, and you say {yours}. The trials ended at {ends}, …"
    )


def _best_reference(values: Tensor, costs: Tensor, grid: Tensor) -> Tensor:
    """min over trials with Σ costs ≤ limit, else infinity."""
    finished = costs.cumsum(0) <= grid[:, None]
    return torch.where(finished, values, torch.inf).min(1).values


best_at = Check(
    exercise="09.2",
    title="The best so far, at equal cost",
    inputs={
        "trials of equal cost": _trials(5, equal=True, late=False),
        "trials of unequal cost": _trials(7, equal=False, late=False),
        "the grid begins before the first trial ends": _trials(6, equal=False, late=True),
    },
    probe=_best_probe,
    judge=_best_judge,
    reference=_best_reference,
)


# ------------------------------------------------------------------ 09.3 the hypergradient of example weights


def _weight_inputs(examples: int, n: int) -> Callable[[torch.Generator], Tensors]:
    def inputs(generator: torch.Generator) -> Tensors:
        return {
            "gradients": randn(generator, examples, n),
            "phi": randn(generator, n),
            "weights": uniform(generator, 0.2, 1.2, examples),
            "rate": uniform(generator, 0.05, 0.15),
            "outer_bowl": _bowl(generator, n),
            "outer_centre": randn(generator, n),
        }

    return inputs


def _weight_probe(answer: Callable, inputs: Tensors) -> Tensors:
    gradients, phi, weights = (inputs[name].clone() for name in ("gradients", "phi", "weights"))
    result = answer(gradients, slope_of(inputs, "outer"), phi, weights, float(inputs["rate"]))
    keep_precision(result, inputs["phi"], "the gradient of the weights")
    return {"gradient": result}


def _weight_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    gradients, phi, weights, rate = (inputs[name] for name in ("gradients", "phi", "weights", "rate"))
    loss, slope = valley(inputs, "outer"), slope_of(inputs, "outer")

    def after(w: Tensor) -> Tensor:
        return loss(phi - rate * (w[:, None] * gradients).sum(0))

    each = torch.eye(len(weights), dtype=F64)
    right = torch.tensor([directional_derivative(after, weights, one) for one in each], dtype=F64)
    got = outputs["gradient"]
    if _close(got, right):
        return None
    new = phi - rate * (weights[:, None] * gradients).sum(0)
    alike = -rate * gradients @ slope(phi - rate * gradients.sum(0))
    mistakes = {
        "Sign: an example that points where the validation gradient points should gain weight, so its derivative is "
        "negative.": -right,
        "The validation gradient is taken at φ. It is wanted after the step, at φ′.": -rate * gradients @ slope(phi),
        "The factor α is missing: a weight moves φ′ by −α times the example's gradient.": right / rate,
        "The step forgets the weights: φ′ = φ − α Σ w_i g_i.": alike,
        "There is a factor w_i too much: φ′ is linear in w_i, so its derivative has none.": weights * right,
        "You divide by the number of examples, and the step sums over them.": right / len(weights),
        "This step takes the mean over the examples: φ′ = φ − α Σ w_i g_i is a sum.": -rate
        * gradients
        @ slope(phi - rate * (weights[:, None] * gradients).mean(0)),
        "The step forgets the weights, and divides by the number of examples: φ′ = φ − α Σ w_i g_i.": -rate
        * gradients
        @ slope(phi - rate * gradients.mean(0)),
        "The step divides by the sum of the weights: φ′ = φ − α Σ w_i g_i is no mean.": -rate
        * gradients
        @ slope(phi - rate * weights @ gradients / weights.sum()),
        "The weights are divided by their sum, in the step and in the result. They count as they are.": -rate
        * gradients
        @ slope(phi - rate * weights @ gradients / weights.sum())
        / weights.sum(),
        "The step forgets the rate: φ′ = φ − α Σ w_i g_i.": -rate * gradients @ slope(phi - weights @ gradients),
        "The step climbs: φ′ = φ − α Σ w_i g_i.": -rate * gradients @ slope(phi + rate * weights @ gradients),
        "Negative ones are cut off at 0. That is what comes after, for the weights; the derivative keeps its sign.": (
            right.clamp_min(0)
        ),
        "Positive ones are cut off at 0: the derivative has either sign.": right.clamp_max(0),
        "This is the derivative in λ, with σ′ = w (1 − w). Asked is the one in the weight itself.": weights
        * (1 - weights)
        * right,
        "Each example makes a step of its own here. φ′ is one point, where all of them together lead.": torch.stack(
            [-rate * g @ slope(phi - rate * w * g) for g, w in zip(gradients, weights)]
        ),
        "These are cosines: each is divided by the lengths. A long gradient moves φ′ more; keep the lengths.": -(
            gradients @ slope(new)
        )
        / (gradients.norm(dim=1) * slope(new).norm()),
        "This is one number for all, the derivative for all weights together. Leave the sum over examples out.": right
        * 0
        + right.sum(),
    }
    return _first(got, mistakes) or Unnamed(
        f"The gradient is off by {relative_error(got, right):.1e}. Do φ′ first, then the validation gradient there, "
        "then one dot product for each example."
    )


def _weight_reference(example_gradients, validation_gradient, phi, weights, rate) -> Tensor:
    """−α G ∇L_outer(φ′), φ′ = φ − α Gᵀw."""
    return -rate * example_gradients @ validation_gradient(phi - rate * weights @ example_gradients)


weight_hypergradient = Check(
    exercise="09.3",
    title="The hypergradient of example weights",
    inputs={"three examples, two weights": _weight_inputs(3, 2), "eight examples, five weights": _weight_inputs(8, 5)},
    probe=_weight_probe,
    judge=_weight_judge,
    reference=_weight_reference,
)


# ------------------------------------------------------------------ 09.4 the noisy quadratic


def _quadratic_inputs(n: int, steps: int) -> Callable[[torch.Generator], Tensors]:
    def inputs(generator: torch.Generator) -> Tensors:
        curvature = uniform(generator, 0.1, 2.1, n)
        return {
            "curvature": curvature,
            "start": uniform(generator, 1, 2, n),
            "noise": uniform(generator, 0.5, 1.5, n),
            "rate": uniform(generator, 0.2, 0.7) / curvature.max(),
            "steps": torch.tensor(steps),
        }

    return inputs


def _quadratic_probe(answer: Callable, inputs: Tensors) -> Tensors:
    parts = (inputs[name].clone() for name in ("curvature", "start", "noise"))
    return {"loss": answer(*parts, float(inputs["rate"]), int(inputs["steps"]))}


def step_by_step(inputs: Tensors, slip: str = "") -> Tensor:
    """½ Σ h (m² + V), mean and variance moved step by step; with one mistake, named as in QUADRATIC_SLIPS."""
    h, mean, noise, rate = (inputs[name] for name in ("curvature", "start", "noise", "rate"))
    variance = noise**2 if slip == "begins" else torch.zeros_like(mean)
    for k in range(int(inputs["steps"])):
        shrink, fresh = 1 - (rate if slip == "1 − α" else rate * h), (rate * h * noise) ** 2
        if slip == "σ":
            fresh = (rate * h) ** 2 * noise
        elif slip == "α":
            fresh = rate * h * noise**2
        elif slip == "no squares":
            fresh = rate * h * noise
        elif slip == "h":
            fresh = (rate * noise) ** 2
        mean = shrink * mean if slip != "grows" else (1 + rate * h) * mean
        variance = {"all kept": variance, "shrink": shrink * variance, "last": 0 * variance}.get(
            slip, shrink**2 * variance
        )
        variance = variance + (0.0 if slip == "first" and k else fresh)
    if slip in ("no noise", "noise only"):
        mean, variance = (mean, 0 * variance) if slip == "no noise" else (0 * mean, variance)
    if slip == "|m|":
        return 0.5 * (h * (mean.abs() + variance)).sum()
    if slip == "floor":
        variance = rate * h * noise**2 / (2 - rate * h)
    if slip == "spreads":  # of noise that is the same in every step: standard deviations add up then
        variance = (rate * h * noise * sum((1 - rate * h).abs() ** k for k in range(int(inputs["steps"])))) ** 2
    if slip == "goal":
        variance = variance + noise**2
    if slip == "one T":
        left = (1 - rate * h) ** int(inputs["steps"])
        mean, variance = left.abs().sqrt() * inputs["start"], (1 - left) * rate * h * noise**2 / (2 - rate * h)
    if slip == "h²":
        h = h**2
    if slip == "no h":
        h = torch.ones_like(h)
    return (1.0 if slip == "half" else 0.5) * (h * (mean**2 + variance)).sum()


QUADRATIC_SLIPS = {
    "The noise is missing: this is the loss of the mean path alone. Add the variance V of each coordinate.": "no noise",
    "The start is missing: this is what the noise adds. Add m², the square of what is left of the start.": "noise only",
    "The variance of the last step alone is in it. Earlier noise is still there, shrunk by (1 − αh)² a step.": "last",
    "The noise is added up and never shrinks. Each step multiplies the variance by (1 − αh)².": "all kept",
    "The variance shrinks by 1 − αh a step. It is a square: (1 − αh)².": "shrink",
    "The noise of the first step alone is in it. Every step adds its own.": "first",
    "σ is a standard deviation: the variance that a step adds is (αhσ)².": "σ",
    "What a step adds is not squared, αhσ. That is a standard deviation; the variance is (αhσ)².": "no squares",
    "A step adds the variance (αhσ)²: the rate is squared, too, and so is h.": "α",
    "The noise reaches φ through the gradient h(φ − c): the variance that a step adds is (αhσ)².": "h",
    "The mean is not squared: the loss is ½ h (m² + V).": "|m|",
    "The noise is at its limit for T → ∞ at once. After T steps the share 1 − (1 − αh)^{2T} of it is there.": "floor",
    "Standard deviations are added up. Of independent noise the variances add up: (αhσ)² in each step.": "spreads",
    "The noise at the goal, ½ Σ h σ², is added. Asked is the loss above the lowest one.": "goal",
    "The power is T: in the closed form q = (1 − αh)^{2T}, since m and the spread are squared.": "one T",
    "The variance begins with σ². The start is one fixed point: V begins with 0.": "begins",
    "The factor ½ of the loss is missing.": "half",
    "The curvature in front is missing: the loss is ½ Σ h (m² + V).": "no h",
    "The curvature in front is squared: the loss is ½ Σ h (m² + V).": "h²",
    "A step shrinks by 1 − α here. It is 1 − αh: a flat direction moves slowly.": "1 − α",
    "The mean runs away: a step multiplies it by 1 − αh.": "grows",
}


def _quadratic_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    right, got = step_by_step(inputs), outputs["loss"]
    if _close(got, right):
        return None
    slips = {diagnosis: step_by_step(inputs, slip) for diagnosis, slip in QUADRATIC_SLIPS.items()}
    shown, yours = told_apart(right, got)
    return _first(got, slips) or Unnamed(
        f"The expected loss is {shown}, and you say {yours}. Do one coordinate and T = 1 by hand: "
        "½ h ((1 − αh)² m² + (αhσ)²)."
    )


def _quadratic_reference(curvature, start, noise, rate, steps) -> Tensor:
    """½ Σ h (q m₀² + (1 − q) αhσ² / (2 − αh)), q = (1 − αh)^{2T}."""
    left = (1 - rate * curvature) ** (2 * steps)
    variance = (1 - left) * rate * curvature * noise**2 / (2 - rate * curvature)
    return 0.5 * (curvature * (left * start**2 + variance)).sum()


expected_loss = Check(
    exercise="09.4",
    title="The expected loss of SGD on a noisy quadratic",
    inputs={
        # not two, where (1 − αh)^T is the (1 − αh)^{2T} of one step
        "one coordinate, three steps": _quadratic_inputs(1, 3),
        "three coordinates, five steps": _quadratic_inputs(3, 5),
        "four coordinates, seven steps": _quadratic_inputs(4, 7),
    },
    probe=_quadratic_probe,
    judge=_quadratic_judge,
    reference=_quadratic_reference,
)
