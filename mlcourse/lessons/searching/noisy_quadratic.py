"""The noisy quadratic: the smallest problem on which a short horizon chooses the wrong learning rate, in closed form.

    L(φ) = ½ Σ_i h_i (φ_i − c_i)²,   c_i drawn anew in each step with mean 0 and variance σ_i²

One step of SGD at rate α, φ_i ← φ_i − α h_i (φ_i − c_i), moves the mean m and the variance V of each coordinate by

    m ← (1 − αh) m,     V ← (1 − αh)² V + (αhσ)²

so after T steps from a known start, with q = (1 − αh)^{2T}:  m² = q m_0²  and  V = (1 − q) αhσ² / (2 − αh). The
expected loss above the lowest one is ½ Σ h (m² + V): what is left of the start, and what the noise put in its place.

Wu, Ren, Liao, Grosse, *Understanding Short-Horizon Bias in Stochastic Meta-Optimization*, 2018,
https://arxiv.org/abs/1803.02021, section 2.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlcourse.errors import CourseError


@dataclass(frozen=True)
class NoisyQuadratic:
    """curvature h, start m_0 and noise σ of each coordinate, all of one length."""

    curvature: tuple[float, ...]
    start: tuple[float, ...]
    noise: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.curvature) == len(self.start) == len(self.noise) > 0:
            raise CourseError(f"{self}: give one curvature, start and noise for each coordinate, and one or more")
        if min(self.curvature) <= 0 or min(self.noise) < 0:
            raise CourseError(f"{self}: curvatures must be above 0, and noises not below")

    @property
    def fastest(self) -> float:
        """2 / (largest curvature): at this rate and above the expected loss grows without end."""
        return 2 / max(self.curvature)

    def expected_loss(self, rate, steps) -> np.ndarray:
        """E[L(φ_T)] above the lowest loss, for rates α in (0, fastest) and steps T; arrays broadcast."""
        rate, steps = np.asarray(rate, float)[..., None], np.asarray(steps)[..., None]
        if (rate <= 0).any() or (rate >= self.fastest).any():
            raise CourseError(f"a rate is outside 0 to {self.fastest:g}, where the loss has a limit; choose one inside")
        h, start, noise = (np.array(part, float) for part in (self.curvature, self.start, self.noise))
        left = (1 - rate * h) ** (2 * steps)
        variance = (1 - left) * rate * h * noise**2 / (2 - rate * h)
        return 0.5 * (h * (left * start**2 + variance)).sum(-1)

    def rates(self, lowest: float = 1e-3, count: int = 400) -> np.ndarray:
        """A grid of rates, equally spaced in their logarithm, up to 95 % of the fastest."""
        return np.geomspace(lowest, 0.95 * self.fastest, count)

    def best_rate(self, steps: int) -> float:
        """The rate of the grid with the lowest expected loss after T steps."""
        rates = self.rates()
        return float(rates[self.expected_loss(rates, steps).argmin()])

    def simulate(self, rate: float, steps: int, runs: int, generator: torch.Generator) -> Tensor:
        """L(φ_T) above the lowest loss for `runs` runs of SGD: float64 [runs]."""
        parts = (self.curvature, self.start, self.noise)
        h, start, noise = (torch.tensor(part, dtype=torch.float64) for part in parts)
        phi = start.expand(runs, -1)
        for _ in range(steps):
            target = noise * torch.randn(phi.shape, generator=generator, dtype=torch.float64)
            phi = phi - rate * h * (phi - target)
        return 0.5 * (h * phi**2).sum(1)


# One steep direction that has arrived already, where every step only stirs up noise, and one flat direction that is far
# from its goal: what the training of a network looks like after its first steps.
STEEP_AND_FLAT = NoisyQuadratic(curvature=(1.0, 0.01), start=(0.0, 10.0), noise=(1.0, 1.0))
