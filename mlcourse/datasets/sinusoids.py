"""Sinusoids: the smallest family of tasks there is. A task is a wave; its data are points on it.

After C. Finn, P. Abbeel, S. Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017,
https://arxiv.org/abs/1703.03400, section 5.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mlcourse.errors import CourseError


@dataclass(frozen=True)
class Sinusoids:
    """y = A sin(x - b), with amplitude A, phase b (radians) and x drawn uniformly from these ranges (low, high)."""

    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, math.pi)
    x: tuple[float, float] = (-5.0, 5.0)

    def __post_init__(self) -> None:
        for what in ("amplitude", "phase", "x"):
            low, high = getattr(self, what)
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise CourseError(
                    f"the range of {what} is ({low}, {high}): give two finite numbers, the smaller one first"
                )

    def draw(self, waves: int, points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`points` points on each of `waves` random waves: x and y, float32 [waves, points, 1]."""
        amplitude, phase = (self._uniform(what, (waves, 1, 1), generator) for what in ("amplitude", "phase"))
        x = self._uniform("x", (waves, points, 1), generator)
        return x, amplitude * torch.sin(x - phase)

    def _uniform(self, what: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        low, high = getattr(self, what)
        return low + (high - low) * torch.rand(shape, generator=generator)
