"""Descents on λ with a tuned rate, one way of estimating the gradient against another: what notebook 11 compares.

Each way gets the same rates to try, the same tuning starts and the same unroll steps; the race starts elsewhere.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from mlcourse.errors import CourseError
from mlcourse.meta_optimization import evolution, rate_tuning
from mlcourse.meta_optimization.evolution import Unroll
from mlcourse.statistics import student_interval

NO_CLIP = 1e6  # the chain's gradients are large and differ from window to window: cut off, they would lose their sum


class Descent(NamedTuple):
    """Adam's rate, the unroll steps used [updates + 1], λ [updates + 1, runs], and the last outer losses [runs]."""

    rate: float
    used: list[int]
    path: Tensor
    losses: Tensor


def starts(count: int, generator: Generator) -> Tensor:
    """λ [count] to start from on the chain, between 0.2 and 0.8: far from the best one, on one side."""
    return 0.2 + 0.6 * torch.rand(count, generator=generator, dtype=torch.float64)


@torch.no_grad()
def outer_losses(problem: Unroll, lam: Tensor) -> Tensor:
    """L_outer [runs] of a system without draws, for each λ [runs]."""
    state = evolution.start(problem, lam, torch.zeros(len(lam)), each=True)
    return evolution.advance(problem, lam, state, 0, problem.horizon, each=True)[0]


def tuned(
    problem: Unroll, way: str, tuning: Tensor, race: Tensor, *, rates: Sequence[float], seed: int, **options
) -> Descent:
    """The descent from `race` [runs] at the one of `rates` that ended lowest (in the mean) from `tuning` [runs].

    way, and options (budget, truncation, pairs, sigma): as in `rate_tuning.descend`. seed: of the perturbations. A rate
    at the edge is no error: where a way leads uphill, the best rate is the one that moves least.
    """
    if not rates:
        raise CourseError("rates is empty; give one or more to choose from")

    def descend(start: Tensor, rate: float, number: int) -> Descent:
        dice, draws = torch.Generator().manual_seed(seed + number), torch.zeros(len(start))
        settings = options | {"rate": rate, "clip": NO_CLIP, "generator": dice}
        used, path = rate_tuning.descend(problem, start, draws, way, **settings)
        return Descent(rate, used, path, outer_losses(problem, path[-1]))

    best = min((descend(tuning, rate, 0) for rate in rates), key=lambda found: found.losses.mean().item())
    return descend(race, best.rate, 1)


def told(one: Tensor, other: Tensor, name: str, rival: str) -> str:
    """Which is lower, and by how much, whichever way it goes: outer losses [runs] of the same runs, few of them."""
    mean, half = student_interval(one - other)
    if mean + half < 0:
        verdict = f"{name} is lower"
    else:
        verdict = f"{name} is higher" if mean - half > 0 else "no difference is shown"
    return (
        f"outer loss, {name} minus {rival}: {mean:+.3f} ± {half:.3f} (paired over {len(one)}, 95 %, Student's t), "
        f"lower in {int((one < other).sum())} of {len(one)}: {verdict}"
    )
