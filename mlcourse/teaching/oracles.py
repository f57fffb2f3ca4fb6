"""What judges compare with: relative errors that know the precision, and finite differences.

Richardson, L. F. (1911), "The approximate arithmetical solution by finite differences of physical problems",
https://doi.org/10.1098/rsta.1911.0009: two central differences of different step cancel each other's leading error.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

# relative tolerance of a result by its precision: a few hundred roundings of a well-conditioned computation
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


class Unnamed(str):
    """A diagnosis that says how far an answer is off and names no cause: `slips.common_slip` then looks for one."""


def told_apart(*values: Tensor | float, digits: int = 4) -> list[str]:
    """The values as texts, with as many digits as it takes to tell them apart (4 or more after the point)."""
    numbers = [float(value.detach() if isinstance(value, Tensor) else value) for value in values]
    for more in range(digits, 17):
        texts = [f"{number:.{more}f}" for number in numbers]
        if len(set(texts)) >= len(set(numbers)):
            return texts
    return [repr(number) for number in numbers]


def relative_error(got: Tensor, expected: Tensor) -> float:
    """‖got − expected‖ / ‖expected‖, or ‖got‖ where the expected norm is 0. Computed in float64."""
    got, expected = got.detach().double().cpu(), expected.detach().double().cpu()
    size = float(expected.norm())
    return float((got - expected).norm()) / size if size > 0 else float(got.norm())


def close(got: Tensor, expected: Tensor, rtol: float | None = None) -> bool:
    """Whether `got` equals `expected` (the same shape) within the relative error `rtol`.

    The default follows the dtype of `got`, so a right answer computed in float32 passes. Whole numbers and truth values
    must be equal.
    """
    if got.shape != expected.shape:
        return False
    if not got.dtype.is_floating_point:
        return torch.equal(got.cpu(), expected.cpu().to(got.dtype))
    error = relative_error(got, expected)
    return error <= (TOLERANCE[got.dtype] if rtol is None else rtol)


def first_mistake(value: Tensor, mistakes: Mapping[str, Tensor], rtol: float | None = None) -> str | None:
    """The diagnosis of the mistake that gives this value, the first of them where several do.

    mistakes: diagnosis → what the mistake gives. Two mistakes may lie within `rtol` of each other by the luck of one
    problem, so the nearest counts, and what is as near as that but for rounding.
    """
    errors = {words: relative_error(value, wrong) for words, wrong in mistakes.items() if close(value, wrong, rtol)}
    nearest = max(10 * min(errors.values(), default=0.0), TOLERANCE[torch.float64])
    return next((words for words, error in errors.items() if error <= nearest), None)


ROUNDED = "These are the right numbers, rounded or cut off (digits left behind the point: {}). Return them as they are."


def rounding(pairs: Sequence[tuple[Tensor, Tensor]]) -> str | None:
    """What is said of results that are the right ones with few digits behind the point, or None.

    pairs: (result, right one), in double precision. They are rounded or cut off, all to as many digits, 6 at most.
    """
    pairs = [(got.detach().double(), right.detach().double()) for got, right in pairs]
    pairs = [(got, right) for got, right in pairs if not close(got, right)]
    if not pairs or not all(got.any() for got, _ in pairs):  # a zero has other causes
        return None
    if any(all(close(got, cut(right)) for got, right in pairs) for cut in (torch.round, torch.trunc, torch.floor)):
        return ROUNDED.format(0)
    for digits in range(1, 7):
        if all(_has_digits(got, digits) and ((got - right).abs() < 10.0**-digits).all() for got, right in pairs):
            return ROUNDED.format(digits)
    return None


def _has_digits(value: Tensor, digits: int) -> bool:
    """Whether a number of so many digits behind the point is as near as numbers of double precision can be."""
    return close(value * 10.0**digits, (value * 10.0**digits).round(), rtol=1e-13)


def randn(generator: torch.Generator, *shape: int) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Uniform numbers from low to high in float64."""
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def directional_derivative(f: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor, h: float = 1e-3) -> float:
    """The derivative of the scalar function `f` at `x` along `direction`, by Richardson-extrapolated differences.

    Two central differences, of steps h and h/2, leave an error of order h⁴; `f` must be smooth near `x`. Use float64.
    """

    def central(step: float) -> float:
        return float((f(x + step * direction) - f(x - step * direction)).detach()) / (2 * step)

    return (4 * central(h / 2) - central(h)) / 3


def gradient_error(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    gradient: Tensor,
    generator: torch.Generator,
    *,
    directions: int = 5,
    h: float = 1e-3,
) -> float:
    """How far `gradient` is from the gradient of the scalar function `f` at `x`, relative to the derivatives' size.

    It compares ⟨gradient, v⟩ with finite differences along random unit directions v, and returns
    ‖differences between the two‖ / ‖derivatives‖ over the directions.
    """
    wrong = right = 0.0
    for _ in range(directions):
        v = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        v = (v / v.norm()).to(x.device)
        slope = directional_derivative(f, x.double(), v, h)
        wrong += (float((gradient.double() * v).sum()) - slope) ** 2
        right += slope**2
    return (wrong / right) ** 0.5 if right > 0 else wrong**0.5
