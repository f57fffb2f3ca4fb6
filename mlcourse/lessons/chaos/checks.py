"""The checks of notebook 11: evolution strategies, a window of persistent ES, bias, variance, which estimator to take.

Oracles share no code with the package: closed forms of a parabola and of waves, loops over particles, Gaussian moments.

Salimans, Ho, Chen, Sidor, Sutskever, *Evolution Strategies as a Scalable Alternative to Reinforcement Learning*, 2017,
https://arxiv.org/abs/1703.03864; Vicol, Metz, Sohl-Dickstein, *Unbiased Gradient Estimation in Unrolled Computation
Graphs with Persistent Evolution Strategies*, 2021, https://arxiv.org/abs/2112.13835; Isserlis, *On a formula for the
product-moment coefficient of any order of a normal frequency distribution in any number of variables*, 1918,
https://doi.org/10.1093/biomet/12.1-2.134 (moments).
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from operator import index

import torch
from torch import Tensor

from mlcourse.teaching.checks import Check, close, keep_precision, relative_error
from mlcourse.teaching.oracles import Unnamed, first_mistake, randn, uniform

Tensors = dict[str, Tensor]
F64 = torch.float64
RTOL = 3e-4  # an answer that computes in float32 passes; the mistakes below are off by far more
_close = partial(close, rtol=RTOL)
_first = partial(first_mistake, rtol=RTOL)


# ------------------------------------------------------------------ 11.1 evolution strategies


def _landscape(n: int, pairs: int, *, waves: bool) -> Callable[[torch.Generator], Tensors]:
    """L = ½λᵀAλ + bᵀλ + h Σ cos 3λ; waves: whether h is not 0."""

    def inputs(generator: torch.Generator) -> Tensors:
        root, sigma = randn(generator, n, n), uniform(generator, 0.2, 0.4)
        return {
            "bend": root @ root.T / n + torch.eye(n, dtype=F64),
            "push": randn(generator, n),
            "height": torch.tensor(0.7 if waves else 0.0, dtype=F64),
            "lam": randn(generator, n),
            "noise": sigma * randn(generator, pairs, n),
            "sigma": sigma,
        }

    return inputs


def _heights(inputs: Tensors, lams: Tensor) -> Tensor:
    """L at each row of lams: [N]."""
    bend, push, height = (inputs[name].to(lams.dtype) for name in ("bend", "push", "height"))
    return 0.5 * ((lams @ bend) * lams).sum(1) + lams @ push + height * (3 * lams).cos().sum(1)


def _es_probe(answer: Callable, inputs: Tensors) -> Tensors:
    n = len(inputs["lam"])

    def losses(lams: Tensor) -> Tensor:
        if not isinstance(lams, Tensor) or lams.ndim != 2 or lams.shape[1] != n:
            raise TypeError(f"losses takes one λ a row, [N, {n}], and got {list(getattr(lams, 'shape', []))}")
        return _heights(inputs, lams)

    gradient = answer(losses, inputs["lam"], inputs["noise"], float(inputs["sigma"]))
    keep_precision(gradient, inputs["lam"], "the gradient")
    return {"gradient": gradient}


def _es_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    lam, noise, sigma, got = inputs["lam"], inputs["noise"], inputs["sigma"], outputs["gradient"]
    slope, waves = inputs["bend"] @ lam + inputs["push"], inputs["height"] * (3 * lam).sin()
    # L(λ + ε) − L(λ − ε) = 2 εᵀ(Aλ + b) − 2h Σ sin 3λ sin 3ε: no loss is called
    right = sum(eps * (eps @ slope - waves @ (3 * eps).sin()) for eps in noise) / len(noise) / sigma**2
    if _close(got, right):
        return None

    def mean(weights: Tensor) -> Tensor:
        return (weights[:, None] * noise).mean(0)

    plus, minus, here = (_heights(inputs, at) for at in (lam + noise, lam - noise, lam[None]))
    twice = _heights(inputs, lam + sigma * noise) - _heights(inputs, lam - sigma * noise)
    one_sided = (
        "Only λ + ε is used. A pair also needs λ − ε: it takes away what is alike on both sides, and much noise."
    )
    scaled = (
        "The noise is scaled twice: `noise` has the size σ already, so the two points are lam + noise, lam − noise."
    )
    mistakes = {
        "Twice too large: the two points are 2ε apart, so divide by 2σ², not by σ².": 2 * right,
        "Divided by 2σ: ε and its length in the difference each bring one σ, so it is 2σ².": sigma * right,
        "Divided by σ: ε and its length in the difference each bring one σ, so it is 2σ².": 2 * sigma * right,
        "The factor 1/(2σ²) is missing.": 2 * sigma**2 * right,
        "This is the sum over the pairs. It is their mean.": len(noise) * right,
        "Half too small: take the mean over the pairs, not over all 2 · pairs particles; and 2σ² is not (2σ)².": right
        / 2,
        "Sign: this climbs. The difference is L(λ + ε) − L(λ − ε).": -right,
        "λ itself is the second point: a pair is λ + ε and λ − ε, on both sides.": mean(plus - here) / sigma**2,
        "λ itself is the second point: a pair is λ + ε and λ − ε, on both sides, 2ε apart.": mean(plus - here)
        / (2 * sigma**2),
        "You divided by the number of components, n. The mean is over the pairs.": right * len(noise) / len(lam),
        "The two losses are added. Their difference tells in which direction the loss rises.": mean(plus + minus)
        / (2 * sigma**2),
        one_sided: mean(plus) / sigma**2,
        one_sided + " (And with one side the factor is 1/σ².)": mean(plus) / (2 * sigma**2),
        scaled: mean(twice) / (2 * sigma**2),
        scaled + " (The factor is 1/(2σ²) then.)": mean(twice) / (2 * sigma),
    }
    return _first(got, mistakes) or Unnamed(
        f"The estimate is off by {relative_error(got, right):.1e}. Take one pair only and write it down by hand: "
        "ε (L(λ + ε) − L(λ − ε)) / (2σ²)."
    )


def _es_reference(losses: Callable, lam: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """The mean over pairs of ε (L(λ + ε) − L(λ − ε)) / (2σ²)."""
    rise = (losses(lam + noise) - losses(lam - noise)) / (2 * sigma**2)
    return rise @ noise / len(noise)


es_gradient = Check(
    exercise="11.1",
    title="Evolution strategies with pairs",
    inputs={
        # waves first: on a parabola noise that is scaled twice only changes the factor, with one pair a sum is a mean
        "waves": _landscape(3, 5, waves=True),
        "a parabola": _landscape(4, 7, waves=False),
        "one number, one pair": _landscape(1, 1, waves=True),
    },
    probe=_es_probe,
    judge=_es_judge,
    reference=_es_reference,
)


# ------------------------------------------------------------------ 11.2 one window of persistent ES


WINDOWS = 3


def _system(n: int, pairs: int) -> Callable[[torch.Generator], Tensors]:
    """s ← R s + λ ∘ (1 + s), ℓ = ½‖s‖² + Σ s: what an early λ does is there in all later states."""

    def inputs(generator: torch.Generator) -> Tensors:
        sigma = uniform(generator, 0.2, 0.4)
        return {
            "turn": 0.5 * randn(generator, n, n) / n**0.5,
            "lam": randn(generator, n),
            "states": randn(generator, n).repeat(2 * pairs, 1),
            "noise": sigma * randn(generator, WINDOWS, pairs, n),
            "sigma": sigma,
        }

    return inputs


def _pes_probe(answer: Callable, inputs: Tensors) -> Tensors:
    turn, states, noise = inputs["turn"], inputs["states"], inputs["noise"]
    shift, found = torch.zeros_like(noise[0]), []

    def window(lams: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        n = inputs["states"].shape[1]
        if lams.shape != states.shape or lams.dim() != 2 or lams.shape[1] != n:
            raise TypeError(
                f"window takes a λ and a state for each particle, [particles, {n}] both, and got {list(lams.shape)} "
                f"and {list(states.shape)}"
            )
        states = states @ turn.T.to(states.dtype) + lams * (1 + states)
        return 0.5 * states.square().sum(1) + states.sum(1), states

    for eps in noise:
        result = answer(window, inputs["lam"].clone(), states, shift, eps.clone(), float(inputs["sigma"]))
        if not isinstance(result, tuple) or len(result) != 3:
            raise TypeError("it needs three results: gradient, states, shift")
        gradient, states, shift = result
        for name, value in (("the gradient", gradient), ("states", states), ("shift", shift)):
            keep_precision(value, inputs["lam"], name)
        if getattr(shift, "shape", None) != eps.shape:
            raise TypeError(f"shift, the third result, must keep its shape {list(eps.shape)}")
        found.append((gradient, states, shift))
    return {name: torch.stack(values) for name, values in zip(("gradient", "states", "shift"), zip(*found))}


def _particles(inputs: Tensors, slip: str = "") -> Tensors:
    """PES, one particle after another, with at most one mistake: named as in PES_SLIPS."""
    turn, lam, noise, sigma = (inputs[name] for name in ("turn", "lam", "noise", "sigma"))
    pairs = noise.shape[1]
    states, shift = [state.clone() for state in inputs["states"]], [0 * lam for _ in range(pairs)]
    found = {"gradient": [], "states": [], "shift": []}
    for eps in noise:
        gradient, after, losses = 0 * lam, list(shift), [0 * sigma] * (2 * pairs)
        for k in range(pairs):
            after[k] = eps[k] if slip == "forgets" else shift[k] + eps[k]
            for half, sign in ((k, 1), (k + pairs, -1)):
                moved = lam + sign * (after[k] if slip == "moves by ξ" else eps[k])
                state = turn @ states[half] + moved * (1 + states[half])
                losses[half] = 0.5 * state @ state + state.sum()
                states[half] = states[half] if slip == "stands still" else state
        for k in range(pairs):
            plus, minus = (2 * k, 2 * k + 1) if slip == "in turn" else (k, k + pairs)
            weight = {"after": shift[k], "current": eps[k], "current, forgets": eps[k]}.get(slip, shift[k] + eps[k])
            rise = 2 * losses[plus] if slip == "one side" else losses[plus] - losses[minus]
            gradient = gradient + weight * rise / (2 * sigma**2) / pairs
        shift = list(eps) if slip == "current, forgets" else after
        for name, value in (("gradient", gradient), ("states", torch.stack(states)), ("shift", torch.stack(shift))):
            found[name].append(value)
    return {name: torch.stack(values) for name, values in found.items()}


PES_SLIPS = {
    "after": "ξ grows too late: this window's ε has moved this window's loss, so add it to shift BEFORE you weight "
    "the loss. (In the first window your gradient is 0.)",
    "current": "The loss is weighted with this window's ε alone: that is truncated ES, and it misses what the earlier "
    "perturbations did. Weight with shift, the sum of all.",
    "current, forgets": "The loss is weighted with this window's ε alone, and shift is never summed up: that is "
    "truncated ES. Weight with the sum of all perturbations.",
    "forgets": "The returned shift is this window's noise. Return the sum: from the third window on, the first "
    "perturbation is forgotten.",
    "moves by ξ": "λ is moved by the whole shift. It is moved by this window's ε only; the sum is only the weight.",
    "one side": "Only the losses at λ + ε are used. The difference of a pair takes away what is alike on both sides.",
    "in turn": "The losses are taken in turn, +, −, +, −. The first half of them is that of all λ + ε, the second half "
    "that of all λ − ε: losses.chunk(2).",
    "stands still": "The returned states are the old ones: a particle goes on from where it stands. Return those that "
    "window gives.",
}


def _pes_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    right = _particles(inputs)
    if all(_close(outputs[name], value) for name, value in right.items()):
        return None
    for slip, diagnosis in PES_SLIPS.items():
        wrong = _particles(inputs, slip)
        if all(_close(outputs[name], value) for name, value in wrong.items()):
            return diagnosis
    if not _close(outputs["states"], right["states"]):
        return (
            "The particles are not where they should be. Each goes on from its own state; the first half of "
            "them goes with λ + ε, the second with λ − ε: window(torch.cat([lam + noise, lam - noise]), states)."
        )
    if not _close(outputs["shift"], right["shift"]):
        return "The returned shift is wrong: it is shift + noise, of the first half of each pair."
    pairs = inputs["noise"].shape[1]
    mistakes = {
        "Twice too large: divide by 2σ².": 2 * right["gradient"],
        "This is the sum over the pairs. It is their mean.": pairs * right["gradient"],
        "Half too small: take the mean over the pairs, not over all 2 · pairs particles; and 2σ² is not (2σ)².": right[
            "gradient"
        ]
        / 2,
        "The factor 1/(2σ²) is missing.": 2 * inputs["sigma"] ** 2 * right["gradient"],
        "Divided by 2σ: ξ and the difference of the losses each bring one σ, so it is 2σ².": (
            inputs["sigma"] * right["gradient"]
        ),
        "Sign: this climbs. The difference is the first half's loss minus the second half's.": -right["gradient"],
    }
    off = relative_error(outputs["gradient"], right["gradient"])
    return _first(outputs["gradient"], mistakes) or Unnamed(
        f"States and shift are right; the gradient is off by {off:.1e}. "
        "It is the mean over pairs of ξ (L₊ − L₋) / (2σ²)."
    )


def _pes_reference(
    window: Callable, lam: Tensor, states: Tensor, shift: Tensor, noise: Tensor, sigma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """ξ ← ξ + ε, then the mean over pairs of ξ (L₊ − L₋) / (2σ²)."""
    shift = shift + noise
    losses, states = window(torch.cat([lam + noise, lam - noise]), states)
    plus, minus = losses.chunk(2)
    return (plus - minus) @ shift / (2 * sigma**2 * len(shift)), states, shift


pes_window = Check(
    exercise="11.2",
    title="One window of persistent ES",
    inputs={"one number, three pairs": _system(1, 3), "three numbers": _system(3, 4)},
    probe=_pes_probe,
    judge=_pes_judge,
    reference=_pes_reference,
)


# ------------------------------------------------------------------ 11.3 bias in standard errors


def _report_inputs(side: float) -> Callable[[torch.Generator], Tensors]:
    """Estimates whose mean lies above (side 1) or below (side −1) the truth."""

    def inputs(generator: torch.Generator) -> Tensors:
        estimates = 3 + 2 * randn(generator, int(torch.randint(5, 10, (), generator=generator)))  # not 4, with √R = 2
        return {"estimates": estimates, "truth": estimates.mean() - side * uniform(generator, 0.5, 3)}

    return inputs


def _report_probe(answer: Callable, inputs: Tensors) -> Tensors:
    result = answer(inputs["estimates"], inputs["truth"])
    if not isinstance(result, tuple) or len(result) != 3:
        raise TypeError("it needs three numbers: bias, standard error, bias in standard errors")
    return {
        name: torch.as_tensor(value, dtype=F64)
        for name, value in zip(("bias", "standard error", "bias in standard errors"), result)
    }


def _report_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    numbers, truth = inputs["estimates"].tolist(), inputs["truth"].item()
    count = len(numbers)
    mean = math.fsum(numbers) / count
    spread = math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (count - 1))
    error = spread / math.sqrt(count)
    bias, got, off = (torch.tensor(x, dtype=F64) for x in (mean - truth, error, (mean - truth) / error))
    if not _close(outputs["bias"], bias):
        mistakes = {
            # a wrong sign is found above the truth, the absolute value only below it
            "Sign: the bias is the mean minus the truth.": -bias if bias > 0 else torch.nan * bias,
            "This is the mean itself. The bias is the mean minus the truth.": torch.tensor(mean, dtype=F64),
            "Bias has a sign: do not take the absolute value.": bias.abs(),
            "This is the relative bias. Asked is the mean minus the truth.": bias / truth,
            "This is the median minus the truth. Take the mean.": inputs["estimates"].median() - truth,
        }
        return _first(outputs["bias"], mistakes) or Unnamed(
            "The bias is wrong: it is the mean of the estimates minus the truth."
        )
    if not _close(outputs["standard error"], got):
        mistakes = {
            "This is the standard deviation of one estimate. That of their mean is √R times smaller.": got * count**0.5,
            "The spread divides by R. Divide by R − 1: the mean was fitted to the same numbers.": got
            * math.sqrt((count - 1) / count),
            "This is the variance of the mean: take its square root.": got**2,
            "This is the half-width of a 95 % interval. The standard error is 1.96 times smaller.": 1.96 * got,
            "Divided by R: it is the standard deviation over √R.": got / count**0.5,
            "These are two standard errors. Asked is one.": 2 * got,
            "Divided by √(R − 1): the R − 1 stands in the standard deviation already. It is over √R.": got
            * math.sqrt(count / (count - 1)),
            "The spread is taken around the truth. Take it around the mean, as std() does, or the bias counts as "
            "spread.": (got**2 + bias**2 / (count - 1)).sqrt(),
        }
        return _first(outputs["standard error"], mistakes) or Unnamed(
            "The standard error is wrong: the standard deviation of the estimates, divided by √R."
        )
    if not _close(outputs["bias in standard errors"], off):
        mistakes = {
            "The bias is divided by the spread of one estimate. Divide by the standard error of the mean.": off
            / count**0.5,
            "Upside down: it is bias over standard error.": 1 / off,
            "You multiplied bias and standard error. Divide.": bias * got,
            "Keep the sign: it says on which side the estimator errs.": off.abs(),
            "It is rounded to a whole number. Return it as it is.": off.round(),
        }
        return _first(outputs["bias in standard errors"], mistakes) or Unnamed(
            "The third number is bias over standard error."
        )
    return None


def _report_reference(estimates: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(mean − truth, std / √R, their ratio)."""
    bias, error = estimates.mean() - truth, estimates.std() / len(estimates) ** 0.5
    return bias, error, bias / error


report = Check(
    exercise="11.3",
    title="Bias in standard errors",
    inputs={"above the truth": _report_inputs(1), "below the truth": _report_inputs(-1)},
    probe=_report_probe,
    judge=_report_judge,
    reference=_report_reference,
)


# ------------------------------------------------------------------ 11.4 the variance of ES


def _plane(n: int, *, noisy: bool) -> Callable[[torch.Generator], Tensors]:
    def inputs(generator: torch.Generator) -> Tensors:
        return {
            "slope": randn(generator, n),
            "tau": uniform(generator, 0.5, 1.5) if noisy else torch.zeros((), dtype=F64),
            "sigma": uniform(generator, 0.2, 0.6),
            "pairs": torch.randint(9, 14, (), generator=generator),  # more than n + 2: none of them cancels
        }

    return inputs


def _variance_probe(answer: Callable, inputs: Tensors) -> Tensors:
    result = answer(inputs["slope"], float(inputs["tau"]), float(inputs["sigma"]), int(inputs["pairs"]))
    return {"variance": torch.as_tensor(result, dtype=F64)}


def _variance_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    slope, tau, sigma, pairs = (inputs[name] for name in ("slope", "tau", "sigma", "pairs"))
    n, got = len(slope), outputs["variance"]
    # of one pair and without noise, (Σ_j g_j ε_j) ε_i / σ²: E[ε_i ε_i ε_j ε_k] is a sum over the ways to pair them
    square = 0.0
    for i, j, k in itertools.product(range(n), repeat=3):
        square += float(slope[j] * slope[k]) * ((j == k) + 2 * (i == j) * (i == k))
    tilt = square - float(slope @ slope)
    noise = n * tau**2 / (2 * sigma**2)
    right = (tilt + noise) / pairs
    if _close(got, right):
        return None
    mistakes = {
        "This is the variance of one pair. The mean of independent pairs has 1/pairs of it.": tilt + noise,
        "Divide by pairs, not by its root: this is a variance.": (tilt + noise) / pairs**0.5,
        "Divide by the number of pairs, not by that of the particles.": right / 2,
        "This is the mean square: the square of the mean, ‖g‖², has to be taken away. n + 1, not n + 2.": (
            (square + noise) / pairs
        ),
        "n‖g‖² instead of (n + 1)‖g‖²: E[ε⁴] is 3σ⁴, not σ⁴.": ((tilt * n / (n + 1)) + noise) / pairs,
        "(n − 1)‖g‖² instead of (n + 1)‖g‖²: no mean was fitted here, the square of the mean is taken from n + 2.": (
            (tilt * (n - 1) / (n + 1) + noise) / pairs
        ),
        "The first part is not divided by pairs: the mean of pairs has 1/pairs of all of it.": tilt + noise / pairs,
        "The components of g are summed before they are squared: ‖g‖² is the sum of their squares.": (
            ((n + 1) * slope.sum() ** 2 + noise) / pairs
        ),
        "‖g‖² is the sum of the squares, not their mean.": (tilt / n + noise) / pairs,
        "The noise enters with 1/σ: ε brings σ² into the variance and the factor 1/(2σ²) squared σ⁻⁴.": (
            tilt + noise * sigma
        )
        / pairs,
        "The noise counts twice: the two losses of a pair give 2τ², over (2σ²)² and times σ² that is τ²/(2σ²).": (
            (tilt + 2 * noise) / pairs
        ),
        "The noise is there in each of the n components: it counts n times.": (tilt + noise / n) / pairs,
        "σ stands in the first part. For a plane it cancels: twice the step gives twice the rise.": (
            (tilt * sigma**2 + noise) / pairs
        ),
        "The noise is left out.": tilt / pairs,
        "This is the noise alone: pairs also point in random directions.": noise / pairs,
        "The noise is not divided by pairs: each pair has noise of its own, and their mean has 1/pairs of it.": tilt
        / pairs
        + noise,
        "τ is a standard deviation: a loss has the variance τ².": (tilt + n * tau / (2 * sigma**2)) / pairs,
        "The factor n + 1 is missing: each of the n components has the variance ‖g‖² + g_i².": (
            (float(slope @ slope) + noise) / pairs
        ),
        "2σ² is squared as σ⁴: (2σ²)² is 4σ⁴, so the noise is τ² · 2 · σ² / (4σ⁴), n times.": (tilt + 4 * noise)
        / pairs,
        "Half of the noise is missing. It stands over 2σ², not over (2σ)²; and a pair has two losses with noise of "
        "their own, so that their difference has the variance 2τ², not τ².": (tilt + noise / 2) / pairs,
        "The noise lacks 1/σ²: a small σ makes the difference of two noisy losses worthless.": (
            (tilt + noise * sigma**2) / pairs
        ),
        "‖g‖ stands where ‖g‖² is asked: the variance has the square of the slope.": (
            ((n + 1) * slope.norm() + noise) / pairs
        ),
        "This is the standard deviation. Asked is the variance.": right**0.5,
    }
    return _first(got, mistakes) or Unnamed(
        f"The variance is off by {relative_error(got, right):.1e}. Begin with τ = 0, then add the noise's part."
    )


def _variance_reference(slope: Tensor, tau: float, sigma: float, pairs: int) -> Tensor:
    """((n + 1)‖g‖² + n τ² / (2σ²)) / pairs."""
    n = len(slope)
    return ((n + 1) * slope.square().sum() + n * tau**2 / (2 * sigma**2)) / pairs


es_variance = Check(
    exercise="11.4",
    title="The variance of ES",
    inputs={
        # noise first: without it half of the mistakes cannot be seen
        "three numbers": _plane(3, noisy=True),
        "six numbers": _plane(6, noisy=True),
        "two numbers, no noise": _plane(2, noisy=False),
    },
    probe=_variance_probe,
    judge=_variance_judge,
    reference=_variance_reference,
)


# ------------------------------------------------------------------ 11.5 choose an estimator


CASES, ESTIMATORS = 120, 5
COLUMNS = ("bias", "spread", "cost", "memory", "budget", "limit")


def _choose_inputs(low: float, high: float) -> Callable[[torch.Generator], Tensors]:
    """Many small tables at once, so that no mistake is right by luck in all; a budget of 10^low to 10^high steps."""

    def inputs(generator: torch.Generator) -> Tensors:
        while True:
            tables = _tables(low, high, generator)
            spread = _choices(tables, lambda bias, spread, n, cost: spread**2 / n)
            if not torch.equal(spread, _choices(tables, lambda bias, spread, n, cost: bias**2 + spread**2 * cost)):
                return tables

    return inputs


def _tables(low: float, high: float, generator: torch.Generator) -> Tensors:
    def powers(low: float, high: float) -> Tensor:
        return 10 ** (low + (high - low) * torch.rand(CASES, ESTIMATORS, generator=generator, dtype=F64))

    signs = 2.0 * torch.randint(2, (CASES, ESTIMATORS), generator=generator).to(F64) - 1
    memory = torch.randint(1, 30, (CASES, ESTIMATORS), generator=generator)
    return {
        "bias": signs * powers(-1.5, 0.5),
        "spread": powers(-1.0, 1.0),
        "cost": powers(1.0, 3.0),
        "memory": memory,
        "budget": 10 ** uniform(generator, low, high, CASES),
        # a limit that one estimator or more keeps
        "limit": memory.min(1).values + torch.randint(0, 15, (CASES,), generator=generator),
    }


def _is_whole(value) -> bool:
    """Whether a list can be asked for its element of this number: 2.0 cannot be used so."""
    try:
        index(value)
    except TypeError:
        return False
    return True


def _choose_probe(answer: Callable, inputs: Tensors) -> Tensors:
    chosen = []
    for bias, spread, cost, memory, budget, limit in zip(*(inputs[name] for name in COLUMNS)):
        one = answer(bias.clone(), spread.clone(), cost.clone(), memory.clone(), float(budget), int(limit))
        if isinstance(one, Tensor) and one.numel() != 1:
            raise TypeError(f"it needs the number of one estimator, and got a tensor of shape {list(one.shape)}")
        if isinstance(one, bool) or not _is_whole(one) or not 0 <= index(one) < ESTIMATORS:
            raise TypeError(
                f"it needs the number of one estimator, a whole number from 0 to {ESTIMATORS - 1}, not {one}"
            )
        chosen.append(index(one))
    return {"chosen": torch.tensor(chosen)}


def _choices(
    inputs: Tensors,
    error: Callable[..., float],
    *,
    fits: bool = True,
    largest: bool = False,
    first_of_infinite: bool = False,
) -> Tensor:
    """The row that has the smallest error(bias, spread, n, cost) in each table, by plain loops.

    first_of_infinite: where all errors are infinite it is row 0, as in argmin, and not the first that fits.
    """
    found = []
    for bias, spread, cost, memory, budget, limit in zip(*(inputs[name].tolist() for name in COLUMNS)):
        rows = [k for k in range(ESTIMATORS) if not fits or memory[k] <= limit]
        by = {k: error(bias[k], spread[k], budget / cost[k], cost[k]) for k in rows}
        rows = [] if first_of_infinite and all(map(math.isinf, by.values())) else rows
        found.append((max if largest else min)(rows, key=by.get) if rows else 0)  # as argmin of infinities
    return torch.tensor(found)


def _choose_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    def right_error(bias: float, spread: float, n: float, cost: float) -> float:
        return bias**2 + spread**2 / n

    got, right = outputs["chosen"], _choices(inputs, right_error)
    if torch.equal(got, right):
        return None
    # the place in a list from which those that do not fit were taken out
    shifted = torch.stack(
        [(memory[:best] <= limit).sum() for memory, limit, best in zip(inputs["memory"], inputs["limit"], right)]
    )
    mistakes = {
        "The limit of memory is ignored: an estimator that does not fit cannot be chosen.": _choices(
            inputs, right_error, fits=False
        ),
        "This counts places in the shortened list. Keep all rows, and give those that do not fit an infinite error.": (
            shifted
        ),
        "Only the spread counts here. A bias does not go away, however many estimates you pay for.": _choices(
            inputs, lambda bias, spread, n, cost: spread**2 / n
        ),
        "An estimator that needs exactly as much memory as the limit fits. Compare with ≤.": _choices(
            inputs | {"limit": inputs["limit"] - 1}, right_error
        ),
        "The sizes are added, |bias| + spread/√n. What is asked are the squares: bias² + spread² / n.": _choices(
            inputs, lambda bias, spread, n, cost: abs(bias) + spread / n**0.5
        ),
        "The spread is not squared: bias² + spread² / n.": _choices(
            inputs, lambda bias, spread, n, cost: bias**2 + spread / n
        ),
        "This is the cheapest estimator that fits, however good it is.": _choices(
            inputs, lambda bias, spread, n, cost: cost
        ),
        "Only the bias counts here. With few estimates an unbiased mean can be far off.": _choices(
            inputs, lambda bias, spread, n, cost: abs(bias)
        ),
        "This compares single estimates. For the same budget a cheap estimator is called more often: spread² / n.": (
            _choices(inputs, lambda bias, spread, n, cost: bias**2 + spread**2)
        ),
        "The bias is averaged away, too. Only the spread shrinks with n: bias² + spread² / n.": _choices(
            inputs, lambda bias, spread, n, cost: (bias**2 + spread**2) / n
        ),
        "A negative bias counts as good here. Take its square.": torch.stack(  # either of two gives this
            [
                _choices(inputs, lambda bias, spread, n, cost: bias + spread / n**0.5),
                _choices(inputs, lambda bias, spread, n, cost: bias + spread**2 / n),
            ]
        ),
        "n divides the variance, which is spread² already: spread² / n, not (spread / n)².": (
            _choices(inputs, lambda bias, spread, n, cost: bias**2 + spread**2 / n**2)
        ),
        "Upside down: n = budget / cost, so a costly estimator is called less often.": _choices(
            inputs, lambda bias, spread, n, cost: bias**2 + spread**2 * n
        ),
        "n is rounded down, and estimators are lost that the budget pays in part. Take n = budget / cost as it is.": (
            _choices(
                inputs, lambda bias, spread, n, cost: bias**2 + (spread**2 / math.floor(n) if n >= 1 else math.inf)
            )
        ),
        "n is rounded down, to 0 where the budget does not pay for one. Take n = budget / cost as it is.": _choices(
            inputs,
            lambda bias, spread, n, cost: bias**2 + (spread**2 / math.floor(n) if n >= 1 else math.inf),
            first_of_infinite=True,
        ),
        "n is rounded down, and 1 at least. Take n = budget / cost as it is: a part of one is allowed.": _choices(
            inputs, lambda bias, spread, n, cost: bias**2 + spread**2 / max(1, math.floor(n))
        ),
        "n is rounded. Take n = budget / cost as it is.": _choices(
            inputs, lambda bias, spread, n, cost: bias**2 + spread**2 / max(1, round(n))
        ),
        "n is at least 1 here. Take n = budget / cost as it is: a part of an estimate is allowed in this formula.": (
            _choices(inputs, lambda bias, spread, n, cost: bias**2 + spread**2 / max(1, n))
        ),
        "This is the estimator with the largest error.": _choices(inputs, right_error, largest=True),
        "The budget is left out: n = budget / cost, so it is spread² · cost / budget.": _choices(
            inputs, lambda bias, spread, n, cost: bias**2 + spread**2 * cost
        ),
        "n stands under a root. The spread is squared already: spread² / n.": _choices(
            inputs, lambda bias, spread, n, cost: bias**2 + spread**2 / n**0.5
        ),
        "The sum is squared, (bias + spread/√n)². What is asked is the sum of the squares, bias² + spread² / n.": (
            _choices(inputs, lambda bias, spread, n, cost: (bias + spread / n**0.5) ** 2)
        ),
    }
    for said, wrong in mistakes.items():
        if any(torch.equal(got, one) for one in wrong.view(-1, CASES)):
            return said
    fits = inputs["memory"].gather(1, got[:, None])[:, 0] <= inputs["limit"]
    if torch.equal(got[fits], right[fits]):
        return (
            "Where you choose one that fits, it is the best; but some that you choose need more memory than the limit. "
            "Give those an infinite error, and then take the smallest."
        )
    different = int((got != right).sum())
    return Unnamed(
        f"{different} of {CASES} choices are not those with the smallest bias² + spread² · cost / budget that fit."
    )


def _choose_reference(bias: Tensor, spread: Tensor, cost: Tensor, memory: Tensor, budget: float, limit: int) -> int:
    """The smallest bias² + spread² / n, n = budget / cost, among those that fit."""
    error = bias**2 + spread**2 * cost / budget
    return int(torch.where(memory <= limit, error, math.inf).argmin())


choose = Check(
    exercise="11.5",
    title="Choose an estimator",
    # few estimates first: there n is small, and what is done to it shows
    inputs={"budgets of a few estimates": _choose_inputs(1.5, 3.0), "long budgets": _choose_inputs(3.0, 4.5)},
    probe=_choose_probe,
    judge=_choose_judge,
    reference=_choose_reference,
)
