"""Solve A v = b when A is only known by its products A p: one Hessian-vector product at a time, A is never built.

All functions take b as [..., n]: one system, or one a row (a task), each with numbers of its own.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mlcourse.errors import CourseError

Product = Callable[[Tensor], Tensor]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product along the last dimension, which stays: [..., n], [..., n] → [..., 1]."""
    return (a * b).sum(-1, keepdim=True)


def conjugate_gradient(product: Product, b: Tensor, *, iterations: int, tolerance: float = 0.0) -> Tensor:
    """v ≈ A⁻¹ b for a symmetric positive definite A; exact after n iterations, but for rounding.

    product(p): A p, for p of b's shape [..., n]. tolerance: a system stops once ‖b − A v‖ ≤ tolerance · ‖b‖. A system
    also stops where it stands when its direction has no positive curvature: there A is not positive definite.
    Raises CourseError for a negative number of iterations; 0 iterations return zeros.

    Hestenes, Stiefel, *Methods of Conjugate Gradients for Solving Linear Systems*, 1952,
    https://doi.org/10.6028/jres.049.044.
    """
    _check("iterations", iterations)
    v, residual, direction = torch.zeros_like(b), b, b
    error = dot(b, b)  # ‖b − A v‖²
    enough = tolerance**2 * error
    going = error > enough
    for _ in range(iterations):
        image = product(direction)
        curvature = dot(direction, image)
        going = going & (curvature > 0) & (error > enough)
        if not going.any():
            break
        size = torch.where(going, error / curvature, 0)
        v = v + size * direction
        residual = residual - size * image
        error, before = dot(residual, residual), error
        direction = residual + torch.where(going, error / before, 0) * direction
    return v


def neumann(product: Product, b: Tensor, *, terms: int, rate: float) -> Tensor:
    """v = η Σ_{k<K} (I − ηA)^k b, which tends to A⁻¹ b where every eigenvalue of ηA lies between 0 and 2.

    product(p): A p, for p of b's shape [..., n]. terms: K, so K − 1 products. rate: η.
    Its error is exactly (I − ηA)^K A⁻¹ b: each term more shrinks it by the largest |1 − η·eigenvalue|.
    Raises CourseError for a negative number of terms; 0 terms are zeros.

    Lorraine, Vicol, Duvenaud, *Optimizing Millions of Hyperparameters by Implicit Differentiation*, 2020,
    https://arxiv.org/abs/1911.02590.
    """
    _check("terms", terms)
    term, total = b, torch.zeros_like(b)
    for k in range(terms):
        if k > 0:
            term = term - rate * product(term)
        total = total + term
    return rate * total


def _check(name: str, value: int) -> None:
    if value < 0:
        raise CourseError(f"{name} is {value}; a solver takes 0 or more")
