"""Hypergradients: how the outer loss changes with λ, when φ is what an inner process has made of λ.

    min over λ of  L_outer(φ*(λ), λ),     φ*(λ) = argmin over φ of L_inner(φ, λ)

    dL_outer/dλ = ∂L_outer/∂λ + (dφ*/dλ)ᵀ ∂L_outer/∂φ

The estimators differ in one answer only: what they put for dφ*/dλ. All are called as

    value, gradient = estimator(problem, phi, lam, **options)

phi: where the inner process stands (a tensor, or tensors by name); None: `problem.init(lam)`. lam: λ, a tensor or
tensors by name. value: L_outer, a detached scalar. gradient: shaped as lam. All work under `torch.no_grad()`, too.

All raise CourseError, and never return nan or a 0 that means "no graph": inside `torch.inference_mode()`; where the
descent, the solver or the outer loss runs away; for a loss that depends on neither φ nor λ; for options out of range.

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
from mlcourse.errors import CourseError, check_number, check_whole
from mlcourse.meta_gradients.linear_solvers import conjugate_gradient, neumann, truncated_conjugate_gradient

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


@inner.with_gradients
def truncated(
    problem: Bilevel, phi: Tensors | None, lam: Tensors, *, steps: int, last: int, rate: float
) -> tuple[Tensor, Tensors]:
    """The same T steps; the gradient goes through the last K of them. The ones before count as constants.

    last: K. K ≥ T is `unrolled`; K = 0 leaves the direct term ∂L_outer/∂λ (and the one through `init`, if phi is None).
    """
    check_whole("steps", steps)
    check_whole("last", last)
    check_number("rate", rate, least=0)
    lam = _leaves(lam)
    start = problem.init(lam) if phi is None else _leaves(phi)
    kept = min(last, steps)
    start = _descend(problem, start, lam, steps - kept, rate, first_order=True)
    fast = _descend(problem, start, lam, kept, rate)
    value = problem.outer_loss(fast, lam)
    return _outcome(value, lam, _grad(value, _list(lam)), steps=steps, rate=rate)


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
    indefinite: str = "raise",
) -> tuple[Tensor, Tensors]:
    """The implicit function theorem at phi, with v = (H + γI)⁻¹ ∂L_outer/∂φ by conjugate gradients.

    phi should be the optimum: only there does the theorem hold. steps, rate: descend T steps towards it first, without
    a graph. iterations: of conjugate gradients. damping: γ, 0 or more; above 0 it tames a nearly flat H, and biases.
    indefinite: "raise" a CourseError where conjugate gradients find that H + γI is not positive definite, for then φ
    is no minimum; "stop" them where they stand, and take a vector without that meaning, or 0.
    """
    if indefinite not in ("raise", "stop"):
        raise CourseError(f"indefinite {indefinite!r} is unknown; use raise or stop")

    check_number("damping", damping, least=0)

    def solve(product, b):
        def damped(p):
            return product(p) + damping * p

        if indefinite == "stop":
            return truncated_conjugate_gradient(damped, b, iterations=iterations)[0]
        return conjugate_gradient(damped, b, iterations=iterations)

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

    terms: K. eta: η, above 0 and below 2 / (largest eigenvalue of H), or the series runs away, which is a CourseError.
    steps, rate: as in `implicit_cg`.
    At an optimum it is `truncated` descent with K steps of rate η.
    """

    check_number("eta", eta, above=0)

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
    check_whole("newton", newton)
    check_number("damping", damping, least=0)
    phi = _detached(problem.init(lam) if phi is None else phi)
    for _ in range(newton):
        gradient, hessian = _inner_derivatives(problem, phi, lam)
        move = _solve_dense(hessian, gradient)
        phi = _add(phi, -move)
        if move.norm() <= 1e-14 * (1 + _flat(_list(phi)).norm()):
            break
    else:
        if newton > 0 and not move.norm() <= 1e-6 * (1 + _flat(_list(phi)).norm()):  # nor is a nan
            raise CourseError(f"{newton} Newton steps did not reach the inner optimum; start nearer, or allow more")

    def solve(product, b):
        _, hessian = _inner_derivatives(problem, phi, lam)
        return _solve_dense(hessian + damping * torch.eye(len(b), dtype=b.dtype, device=b.device), b)

    return implicit_gradient(problem, phi, lam, solve, steps=0, rate=0.0)


@inner.with_gradients
def implicit_gradient(problem, phi, lam, solve, *, steps, rate) -> tuple[Tensor, Tensors]:
    """∂L_outer/∂λ − (∂²L_inner/∂φ∂λ)ᵀ v, with v = solve(p → H p, ∂L_outer/∂φ).

    All by products: H is never built.
    """
    check_number("rate", rate, least=0)
    if steps > 0 and not rate:
        nowhere = f"{steps} inner steps at the rate 0 go nowhere"
        raise CourseError(f"{nowhere}; give a rate above 0, or steps=0")
    lam = _leaves(lam)
    phi = problem.init(lam) if phi is None else phi
    phi = _leaves(_descend(problem, phi, _detached(lam), steps, rate, create_graph=False))
    value = problem.outer_loss(phi, lam)
    n = len(_list(phi))
    parts = _grad(value, _list(phi) + _list(lam))
    _outcome(value, phi, parts[:n], steps=steps, rate=rate)  # before the solver is asked
    direct = parts[n:]
    # ∇_φ L_inner, with its graph
    slope = _grad(problem.inner_loss(phi, lam), _list(phi), create_graph=True)
    flat_slope = _flat(slope)

    def hessian_vector(p: Tensor) -> Tensor:
        return _flat(_grad_or_zeros(flat_slope @ p, _list(phi), retain_graph=True))

    v = solve(hessian_vector, _flat(parts[:n]))
    through = _grad_or_zeros(flat_slope @ v.detach(), _list(lam))
    gradient = [d - t for d, t in zip(direct, through, strict=True)]
    return _outcome(value, lam, gradient, steps=steps, rate=rate)


@inner.with_gradients
def _inner_derivatives(problem: Bilevel, phi: Tensors, lam: Tensors) -> tuple[Tensor, Tensor]:
    """∇_φ L_inner [n] and its dense Hessian [n, n], row by row."""
    phi, lam = _leaves(phi), _detached(lam)
    slope = _flat(_grad(problem.inner_loss(phi, lam), _list(phi), create_graph=True))
    rows = [_flat(_grad_or_zeros(s, _list(phi), retain_graph=True)) for s in slope]
    return slope.detach(), torch.stack(rows)


def _solve_dense(matrix: Tensor, b: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed or not torch.isfinite(matrix).all():
        raise CourseError("the inner Hessian is not positive definite here; give a phi near a minimum, or regularise")
    return torch.cholesky_solve(b.unsqueeze(-1), factor).squeeze(-1)


def _descend(problem, phi, lam, steps, rate, **options) -> Tensors:
    """`steps` steps on L_inner by the course's own inner loop. options: of `inner.descend`."""
    params = phi if isinstance(phi, dict) else {"phi": phi}
    pack = (lambda fast: fast) if isinstance(phi, dict) else (lambda fast: fast["phi"])
    start = {name: value if value.requires_grad else inner.leaf(value) for name, value in params.items()}
    return pack(inner.descend(lambda fast: problem.inner_loss(pack(fast), lam), start, steps, rate, **options))


def _outcome(value: Tensor, tensors: Tensors, gradient: list[Tensor], *, steps: int, rate: float):
    """(the outer loss, the gradient shaped as `tensors`). Raises CourseError when they are not finite."""
    if not torch.isfinite(value):
        found = f"the outer loss is {value.item():g}"
    elif not all(torch.isfinite(part).all() for part in gradient):
        found = f"the outer loss is {value.item():g}, but its gradient is not finite"
    else:
        return value.detach(), _like(tensors, gradient)
    cause = f"after {steps} inner steps with rate {rate:g}" if steps else "at this φ and λ"
    remedy = "use a smaller rate or fewer steps" if steps else "look at the losses there, or start elsewhere"
    raise CourseError(f"{found} {cause}; {remedy}")


# ------------------------------------------------------------------ tensors, or tensors by name


def _list(tensors: Tensors) -> list[Tensor]:
    return list(tensors.values()) if isinstance(tensors, dict) else [tensors]


def _like(tensors: Tensors, values: list[Tensor]) -> Tensors:
    return dict(zip(tensors, values, strict=True)) if isinstance(tensors, dict) else values[0]


def _detached(tensors: Tensors) -> Tensors:
    return _like(tensors, [inner.leaf(value).detach() for value in _list(tensors)])


def _leaves(tensors: Tensors) -> Tensors:
    """Copies of the values that gradients can be asked for."""
    return _like(tensors, [value.detach().clone().requires_grad_() for value in _list(tensors)])


def _flat(values: list[Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values])


def _add(tensors: Tensors, flat: Tensor) -> Tensors:
    parts = flat.split([value.numel() for value in _list(tensors)])
    return _like(tensors, [v + part.view_as(v) for v, part in zip(_list(tensors), parts, strict=True)])


def _grad(scalar: Tensor, wrt: list[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """Gradients of a loss; what it does not depend on gets zeros. A loss without any graph is a mistake, not a 0."""
    return list(inner.gradient(scalar, dict(enumerate(wrt)), create_graph=create_graph).values())


def _grad_or_zeros(scalar: Tensor, wrt: list[Tensor], *, retain_graph: bool = False) -> list[Tensor]:
    """Gradients of what is a derivative itself: of a loss that is linear, it is a constant, and has no graph."""
    if not scalar.requires_grad:
        return [torch.zeros_like(value) for value in wrt]
    grads = torch.autograd.grad(scalar, wrt, retain_graph=retain_graph, allow_unused=True, materialize_grads=True)
    return list(grads)
