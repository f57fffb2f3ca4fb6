"""Solve A v = b when A is only known by its products A p: one Hessian-vector product at a time, A is never built.

All functions take b as [..., n]: one system, or one a row (a task), each with numbers of its own.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mlcourse.errors import CourseError, check_number, check_whole

Product = Callable[[Tensor], Tensor]
NOISE = 16  # how many times eps counts as rounding, where it adds up over iterations


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product along the last dimension, which stays: [..., n], [..., n] → [..., 1]."""
    return (a * b).sum(-1, keepdim=True)


def conjugate_gradient(product: Product, b: Tensor, *, iterations: int, tolerance: float = 0.0) -> Tensor:
    """v ≈ A⁻¹ b for a symmetric positive definite A; exact after n iterations, but for rounding.

    product(p): A p, for p of b's shape [..., n]. tolerance: a system stops once ‖b − A v‖ ≤ tolerance · ‖b‖. Fewer than
    n iterations are an approximation; 0 iterations return zeros. A system also stops where only rounding is left to
    solve. Where A is semidefinite, going on would move v along directions that A does not see, so that of what came
    after half of all digits the v of the smallest residual is kept.
    Raises CourseError where a direction has no positive curvature and more than rounding is left to solve: there A is
    not positive definite, and what has been found so far means nothing. Also for numbers that are not finite, a
    negative number of iterations, and a tolerance below 0.

    Hestenes, Stiefel, *Methods of Conjugate Gradients for Solving Linear Systems*, 1952,
    https://doi.org/10.6028/jres.049.044.
    """
    solved, curvature = truncated_conjugate_gradient(product, b, iterations=iterations, tolerance=tolerance)
    if (curvature <= 0).any():
        raise CourseError(
            f"conjugate gradients met a direction of curvature {curvature.min().item():.3g}: the matrix is not "
            "positive definite, so no minimum is here; start nearer to one, or add damping"
        )
    return solved


def truncated_conjugate_gradient(
    product: Product, b: Tensor, *, iterations: int, tolerance: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The same for a symmetric A that need not be positive definite: (v, the lowest curvature that was met [..., 1]).

    A system stops where it stands when its direction has no positive curvature. There its v is not A⁻¹ b, only
    something that leads downhill, or 0; the caller must look at the curvature pᵀAp / pᵀp. It is inf where no direction
    was needed. Other arguments and errors: as in `conjugate_gradient`.

    Steihaug, *The Conjugate Gradient Method and Trust Regions in Large Scale Optimization*, 1983,
    https://doi.org/10.1137/0720042.
    """
    check_whole("iterations", iterations)
    check_number("tolerance", tolerance, least=0)
    _check_right_hand_side(b)
    eps = torch.finfo(b.dtype).eps
    # by a power of 2, which rounds nothing: a square of very small or large numbers would be 0 or inf
    scale = b.abs().amax(-1, keepdim=True).log2().floor().nan_to_num(neginf=0.0).exp2()
    v, residual, direction = torch.zeros_like(b), b / scale, b / scale
    error = dot(residual, residual)  # ‖b − A v‖²
    enough = max(tolerance, 1e-3 * eps) ** 2 * error  # below rounding, going on would only add noise
    size_of_b, rounding = error.sqrt(), eps * error  # half of all digits: a residual of √eps · ‖b‖
    going, lowest, highest = error > enough, torch.full_like(error, math.inf), torch.zeros_like(error)
    best, least = v, error
    for _ in range(iterations):
        if not going.any():
            break
        image = _fitting(product(direction), direction)
        curvature = dot(direction, image)
        _check_finite(curvature, "a product A p")
        slant = curvature / dot(direction, direction)
        highest = torch.maximum(highest, slant.abs())
        slant = torch.where(slant.abs() <= NOISE * eps * highest, 0, slant)  # beside the highest one it is rounding
        # A curvature counts while more than rounding is left to solve. One that is clearly negative counts down to what
        # rounding leaves of b − A v, about eps · (‖A‖‖v‖ + ‖b‖).
        noise = NOISE * eps * (highest * dot(v, v).sqrt() + size_of_b)
        clear = (slant < -NOISE * eps * highest) & (error > noise.square())
        counts = going & ((error > rounding) | clear)
        lowest = torch.where(counts, torch.minimum(lowest, slant), lowest)
        going = going & (slant > 0)
        size = torch.where(going, error / curvature, 0)
        v = v + size * direction
        residual = residual - size * image
        error, before = dot(residual, residual), error
        _check_finite(error, "the residual b − A v")
        direction = residual + torch.where(going, error / before, 0) * direction
        better = error < least / 4  # clearly: what rounding leaves goes up and down
        best, least = torch.where(better, v, best), torch.where(better, error, least)
        # only rounding is left; not NOISE times that, which would cost a badly conditioned system digits
        left = eps * (highest * dot(v, v).sqrt() + size_of_b)
        going = going & (error > torch.maximum(enough, left.square()))
    v = scale * torch.where((least <= rounding) & (error > least), best, v)
    _check_finite(v, "the solution")
    return v, lowest


def neumann(product: Product, b: Tensor, *, terms: int, rate: float) -> Tensor:
    """v = η Σ_{k<K} (I − ηA)^k b, which tends to A⁻¹ b where every eigenvalue of ηA lies between 0 and 2.

    product(p): A p with a symmetric A, for p of b's shape [..., n]. terms: K, so K − 1 products. rate: η, above 0.
    Its error is exactly (I − ηA)^K A⁻¹ b: each term more shrinks it by the largest |1 − η·eigenvalue|.
    Raises CourseError when a term is larger than the one before: then an eigenvalue of ηA lies outside of [0, 2], and
    the series runs away (`neumann_terms` shows it). Also for numbers that are not finite, and a negative number of
    terms; 0 terms are zeros.

    Lorraine, Vicol, Duvenaud, *Optimizing Millions of Hyperparameters by Implicit Differentiation*, 2020,
    https://arxiv.org/abs/1911.02590.
    """
    check_number("rate", rate, above=0)
    _check_right_hand_side(b)
    total, size = torch.zeros_like(b), dot(b, b)
    grown = 1 + torch.finfo(b.dtype).eps ** 0.5  # more than by rounding
    for k, term in enumerate(neumann_terms(product, b, terms=terms, rate=rate)):
        size, before = dot(term, term), size
        _check_finite(size, f"term {k + 1} of the Neumann series")
        if (size > grown * before).any():
            raise CourseError(
                f"term {k + 1} of the Neumann series is larger than the one before: with rate {rate:g} it runs away; "
                "use a smaller rate, below 2 / (largest eigenvalue of A); if A has an eigenvalue below 0, add damping"
            )
        total = total + term
    return rate * total


def neumann_terms(product: Product, b: Tensor, *, terms: int, rate: float) -> Iterator[Tensor]:
    """(I − ηA)^k b for k = 0 … K − 1, whether or not they shrink; η times their sum is what `neumann` returns.

    product, terms, rate: as in `neumann`. Raises CourseError for a negative number of terms.
    """
    check_whole("terms", terms)
    _check_right_hand_side(b)
    term = b
    for k in range(terms):
        if k > 0:
            term = term - rate * _fitting(product(term), term)
        yield term


def _check_right_hand_side(b: Tensor) -> None:
    if not b.is_floating_point() or b.dim() == 0 or b.shape[-1] == 0:
        raise CourseError(f"b is {tuple(b.shape)} in {b.dtype}; give numbers [..., n] in float32 or float64")
    _check_finite(b, "the right-hand side b")


def _fitting(image: Tensor, p: Tensor) -> Tensor:
    """A p, which has to have p's shape: PyTorch would broadcast another one."""
    if image.shape != p.shape:
        raise CourseError(f"product gives {tuple(image.shape)} for a p of {tuple(p.shape)}; give A p in p's shape")
    return image


def _check_finite(values: Tensor, what: str) -> None:
    if not torch.isfinite(values).all():
        raise CourseError(
            f"{what} is not finite, so the solver breaks down; look at the losses, start elsewhere, or use float64"
        )
