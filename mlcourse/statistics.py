"""Intervals: how sure a mean is."""

import math

import torch
from torch import Tensor

Z95 = 1.96  # of the normal distribution: episodes are many (hundreds), so Student's t would say the same


def mean_interval(values: Tensor) -> tuple[float, float]:
    """The mean of independent values [n] and the half-width of its 95 % interval, 1.96 · s / √n (nan for one value)."""
    values = values.double()
    spread = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), Z95 * spread


def student_interval(values: Tensor) -> tuple[float, float]:
    """The mean of few independent values [n], and the half width of its 95 % interval by Student's t; nan for n = 1.

    The quantile is Fisher's expansion in 1 / (n − 1), right to 1 % from 5 values on (Abramowitz, Stegun, *Handbook of
    Mathematical Functions*, 1964, 26.7.5).
    """
    values = torch.as_tensor(values, dtype=torch.float64)
    if len(values) < 2:
        return values.mean().item(), math.nan
    z, free = 1.959964, len(values) - 1
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    quantile = z + first / free + second / free**2 + third / free**3
    return values.mean().item(), quantile * values.std().item() / math.sqrt(len(values))
