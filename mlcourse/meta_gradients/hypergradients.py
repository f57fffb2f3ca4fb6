"""Hypergradients: how the outer loss changes with λ, when φ is what an inner process has made of λ.

    min over λ of  L_outer(φ*(λ), λ),     φ*(λ) = argmin over φ of L_inner(φ, λ)

    dL_outer/dλ = ∂L_outer/∂λ + (dφ*/dλ)ᵀ ∂L_outer/∂φ

The estimators differ in one answer only: what they put for dφ*/dλ. All are called as

    value, gradient = estimator(problem, phi, lam, **options)

phi: where the inner process stands (a tensor, or tensors by name); None: `problem.init(lam)`. lam: λ, a tensor or
tensors by name. value: L_outer, a detached scalar. gradient: shaped as lam.

| estimator        | dφ/dλ is taken of                                    | memory in T | what it gives up            |
|------------------|------------------------------------------------------|-------------|-----------------------------|
| exact            | the optimum, by the dense Hessian                    | –           | nothing; only for small φ   |
| unrolled         | all T steps of the descent                           | grows       | the steps after T           |
| truncated        | the last K of T steps                                | grows in K  | what earlier steps did      |
| implicit_cg      | the optimum, (H + γI)⁻¹ by conjugate gradients       | flat        | accuracy of φ, iterations   |
| implicit_neumann | the optimum, H⁻¹ by K terms of the Neumann series    | flat        | accuracy of φ, later terms  |

Franceschi, Donini, Frasconi, Pontil, *Forward and Reverse Gradient-Based Hyperparameter Optimization*, 2017,
https://arxiv.org/abs/1703.01785 (unrolled); Shaban, Cheng, Hatch, Boots, *Truncated Back-propagation for Bilevel
Optimization*, 2019, https://arxiv.org/abs/1810.10667 (truncated); Pedregosa, *Hyperparameter optimization with
approximate gradient*, 2016, https://arxiv.org/abs/1602.02355 (conjugate gradients); Lorraine, Vicol, Duvenaud,
*Optimizing Millions of Hyperparameters by Implicit Differentiation*, 2020, https://arxiv.org/abs/1911.02590 (Neumann).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mlcourse import inner
from mlcourse.errors import CourseError
from mlcourse.meta_gradients.linear_solvers import conjugate_gradient, neumann

Tensors = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class Bilevel:
    """One loss inside another. All three are pure functions; φ and λ are tensors, or dictionaries of tensors by name.

    init(λ) → φ_0, where the inner process starts (it may depend on λ: in MAML it *is* λ).
    inner_loss(φ, λ), outer_loss(φ, λ) → a scalar.
    """

    init: Callable[[Tensors], Tensors]
    inner_loss: Callable[[Tensors, Tensors], Tensor]
    outer_loss: Callable[[Tensors, Tensors], Tensor]


# ------------------------------------------------------------------ through the path


def unrolled(problem: Bilevel, phi: Tensors | None, lam: Tensors, *, steps: int, rate: float) -> tuple[Tensor, Tensors]:
    """T steps of gradient descent from phi, φ_{t+1} = φ_t − α ∇_φ L_inner(φ_t, λ), and the gradient through all.

    It is the exact gradient of L_outer(φ_T(λ), λ), which is not yet that of the optimum. steps: T; rate: α.
    """
    return truncated(problem, phi, lam, steps=steps, last=steps, rate=rate)


@torch.enable_grad()
def truncated(
    problem: Bilevel, phi: Tensors | None, lam: Tensors, *, steps: int, last: int, rate: float
) -> tuple[Tensor, Tensors]:
    """The same T steps; the gradient goes through the last K of them. The ones before count as constants.

    last: K. K ≥ T is `unrolled`; K = 0 leaves the direct term ∂L_outer/∂λ (and the one through `init`, if phi is None).
    """
    lam = _leaves(lam)
    start = problem.init(lam) if phi is None else _detached(phi)
    fast = _descend(problem, start, lam, steps=steps, rate=rate, last=last)
    value = problem.outer_loss(fast, lam)
    return value.detach(), _like(lam, _grad(value, _list(lam)))


# ------------------------------------------------------------------ through the optimum


def implicit_cg(
    problem: Bilevel,
    phi: Tensors | None,
    lam: Tensors,
    *,
    iterations: int = 10,
    damping: float = 0.0,
    steps: int = 0,
    rate: float = 0.0,
) -> tuple[Tensor, Tensors]:
    """The implicit function theorem at phi, with v = (H + γI)⁻¹ ∂L_outer/∂φ by conjugate gradients.

    phi should be the optimum: only there does the theorem hold. steps, rate: descend T steps towards it first, without
    a graph. iterations: of conjugate gradients. damping: γ; above 0 it tames a nearly flat H, and biases.
    """

    def solve(product, b):
        return conjugate_gradient(lambda p: product(p) + damping * p, b, iterations=iterations)

    return implicit_gradient(problem, phi, lam, solve, steps=steps, rate=rate)


def implicit_neumann(
    problem: Bilevel,
    phi: Tensors | None,
    lam: Tensors,
    *,
    terms: int = 10,
    eta: float,
    steps: int = 0,
    rate: float = 0.0,
) -> tuple[Tensor, Tensors]:
    """The implicit function theorem at phi, with v = η Σ_{k<K} (I − ηH)^k ∂L_outer/∂φ in place of H⁻¹ ∂L_outer/∂φ.

    terms: K. eta: η, below 2 / (largest eigenvalue of H), or the series runs away. steps, rate: as in `implicit_cg`.
    At an optimum it is `truncated` descent with K steps of rate η.
    """

    def solve(product, b):
        return neumann(product, b, terms=terms, rate=eta)

    return implicit_gradient(problem, phi, lam, solve, steps=steps, rate=rate)


def exact(
    problem: Bilevel, phi: Tensors | None, lam: Tensors, *, newton: int = 20, damping: float = 0.0
) -> tuple[Tensor, Tensors]:
    """The hypergradient at the optimum by the dense Hessian: the oracle for the others. Use float64 and a small φ.

    newton: Newton steps from phi to the optimum at most (it stops when a step no longer moves φ); 0 takes phi as it is.
    damping: γ, solve with H + γI. Raises CourseError when H is not positive definite, or when Newton's method does not
    arrive: then φ*(λ) is no strict minimum, and has no derivative.
    """
    phi = _detached(problem.init(lam) if phi is None else phi)
    for _ in range(newton):
        gradient, hessian = _inner_derivatives(problem, phi, lam)
        move = _solve_dense(hessian, gradient)
        phi = _add(phi, -move)
        if move.norm() <= 1e-14 * (1 + _flat(_list(phi)).norm()):
            break
    else:
        if newton > 0 and move.norm() > 1e-6 * (1 + _flat(_list(phi)).norm()):
            raise CourseError(f"{newton} Newton steps did not reach the inner optimum; start nearer, or allow more")

    def solve(product, b):
        _, hessian = _inner_derivatives(problem, phi, lam)
        return _solve_dense(hessian + damping * torch.eye(len(b), dtype=b.dtype, device=b.device), b)

    return implicit_gradient(problem, phi, lam, solve, steps=0, rate=0.0)


@torch.enable_grad()
def implicit_gradient(problem, phi, lam, solve, *, steps, rate) -> tuple[Tensor, Tensors]:
    """∂L_outer/∂λ − (∂²L_inner/∂φ∂λ)ᵀ v, with v = solve(p → H p, ∂L_outer/∂φ): all by products, H is never built."""
    lam = _leaves(lam)
    phi = _detached(problem.init(lam) if phi is None else phi)
    phi = _leaves(_descend(problem, phi, _detached(lam), steps=steps, rate=rate, create_graph=False))
    value = problem.outer_loss(phi, lam)
    n = len(_list(phi))
    parts = _grad(value, _list(phi) + _list(lam))
    direct = parts[n:]
    slope = _grad(problem.inner_loss(phi, lam), _list(phi), create_graph=True)  # ∇_φ L_inner, with its graph
    flat_slope = _flat(slope)

    def hessian_vector(p: Tensor) -> Tensor:
        return _flat(_grad(flat_slope @ p, _list(phi), retain_graph=True))

    v = solve(hessian_vector, _flat(parts[:n]))
    through = _grad(flat_slope @ v.detach(), _list(lam))
    return value.detach(), _like(lam, [d - t for d, t in zip(direct, through, strict=True)])


@torch.enable_grad()
def _inner_derivatives(problem: Bilevel, phi: Tensors, lam: Tensors) -> tuple[Tensor, Tensor]:
    """∇_φ L_inner [n] and its dense Hessian [n, n], row by row."""
    phi, lam = _leaves(phi), _detached(lam)
    slope = _flat(_grad(problem.inner_loss(phi, lam), _list(phi), create_graph=True))
    rows = [_flat(_grad(s, _list(phi), retain_graph=True)) for s in slope]
    return slope.detach(), torch.stack(rows)


def _solve_dense(matrix: Tensor, b: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed or not torch.isfinite(matrix).all():
        raise CourseError("the inner Hessian is not positive definite here; give a phi near a minimum, or regularise")
    return torch.cholesky_solve(b.unsqueeze(-1), factor).squeeze(-1)


def _descend(problem, phi, lam, *, steps, rate, last=None, create_graph=True) -> Tensors:
    """`steps` steps on L_inner by the course's own inner loop: the "network" is φ itself, the "data" is λ."""
    params = phi if isinstance(phi, dict) else {"phi": phi}
    pack = (lambda fast: fast) if isinstance(phi, dict) else (lambda fast: fast["phi"])
    fast = inner.adapt_truncated(
        lambda fast, _: pack(fast),
        {name: value if value.requires_grad else value.detach().requires_grad_() for name, value in params.items()},
        lam,
        lam,
        steps=steps,
        last=steps if last is None else last,
        rate=rate,
        loss=problem.inner_loss,
        create_graph=create_graph,
    )
    return pack(fast)


# ------------------------------------------------------------------ tensors, or tensors by name


def _list(tensors: Tensors) -> list[Tensor]:
    return list(tensors.values()) if isinstance(tensors, dict) else [tensors]


def _like(tensors: Tensors, values: list[Tensor]) -> Tensors:
    return dict(zip(tensors, values, strict=True)) if isinstance(tensors, dict) else values[0]


def _detached(tensors: Tensors) -> Tensors:
    return _like(tensors, [value.detach() for value in _list(tensors)])


def _leaves(tensors: Tensors) -> Tensors:
    """Copies of the values that gradients can be asked for."""
    return _like(tensors, [value.detach().clone().requires_grad_() for value in _list(tensors)])


def _flat(values: list[Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values])


def _add(tensors: Tensors, flat: Tensor) -> Tensors:
    parts = flat.split([value.numel() for value in _list(tensors)])
    return _like(tensors, [v + part.view_as(v) for v, part in zip(_list(tensors), parts, strict=True)])


def _grad(scalar: Tensor, wrt: list[Tensor], *, create_graph: bool = False, retain_graph: bool | None = None):
    """Gradients as a list; what the scalar does not depend on gets zeros."""
    if not scalar.requires_grad:
        return [torch.zeros_like(value) for value in wrt]
    return list(
        torch.autograd.grad(
            scalar,
            wrt,
            create_graph=create_graph,
            retain_graph=retain_graph,
            allow_unused=True,
            materialize_grads=True,
        )
    )
