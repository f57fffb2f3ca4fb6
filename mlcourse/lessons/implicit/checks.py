"""The checks of notebook 08: conjugate gradients, implicit hypergradient, Neumann series, iMAML's meta-gradient.

Oracles share no code with the package: dense inverses, the best vector of a Krylov space, closed-form derivatives.

Hestenes, Stiefel, *Methods of Conjugate Gradients for Solving Linear Systems*, 1952,
https://doi.org/10.6028/jres.049.044; Saad, *Iterative Methods for Sparse Linear Systems*, 2003, section 6.6 (Krylov).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mlcourse.meta_gradients import linear_solvers
from mlcourse.teaching.checks import Check, close, keep_precision, relative_error
from mlcourse.teaching.oracles import Unnamed, first_mistake, randn

Tensors = dict[str, Tensor]
F64 = torch.float64
RTOL = 2e-4  # an answer that computes in float32 passes; the mistakes below are off by far more
_close = partial(close, rtol=RTOL)
_first = partial(first_mistake, rtol=RTOL)


def _spd(generator: torch.Generator, n: int, condition: float, axes: Tensor | None = None) -> Tensor:
    """A symmetric positive definite [n, n]; eigenvalues from 1 / condition to 1, apart, along `axes` [n, n]."""
    q = _axes(generator, n) if axes is None else axes
    return q * torch.logspace(-math.log10(condition), 0, n, dtype=F64) @ q.T


def _axes(generator: torch.Generator, n: int) -> Tensor:
    return torch.linalg.qr(randn(generator, n, n)).Q


class _Counted:
    """p → A p, and how often it was asked."""

    def __init__(self, matrix: Tensor):
        self.matrix, self.calls = matrix, 0

    def __call__(self, p: Tensor) -> Tensor:
        self.calls += 1
        return self.matrix @ p  # of one precision, as the lesson's products are


def _vector(value, like: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != like.shape:
        raise TypeError(f"it needs one tensor of the shape of the right-hand side, {list(like.shape)}")
    return value.detach()


# ------------------------------------------------------------------ 08.1 conjugate gradients


BEYOND = 3  # iterations after the system is solved
SHORT = 1e-2  # a right-hand side below this is the short one


def system_of(n: int, condition: float, length: float = 1.0) -> Callable[[torch.Generator], Tensors]:
    """A system whose right-hand side is about `length` long: where it is short, a fixed threshold stops too early."""

    def inputs(generator: torch.Generator) -> Tensors:
        return {"matrix": _spd(generator, n, condition), "b": length * randn(generator, n)}

    return inputs


def _uneven(generator: torch.Generator) -> Tensors:
    """b has less and less along the axes of small eigenvalues: r·r is tiny beside b·b long before v is there."""
    n, axes = 6, _axes(generator, 6)
    sizes = torch.logspace(-6, 0, n, dtype=F64) * torch.where(randn(generator, n) < 0, -1.0, 1.0)
    return {"matrix": _spd(generator, n, 30.0, axes), "b": axes @ sizes}


def _solved_at_once(generator: torch.Generator) -> Tensors:
    """b = 0: the residual is gone before the first iteration, and 0 / 0 lies in wait."""
    return {"matrix": _spd(generator, 3, 5.0), "b": torch.zeros(3, dtype=F64)}


def _cg_probe(answer: Callable, inputs: Tensors) -> Tensors:
    b, path, products = inputs["b"], [], []
    for iterations in (*range(1, len(b) + 1), len(b) + BEYOND):
        product = _Counted(inputs["matrix"])
        path.append(_vector(answer(product, b, iterations=iterations), b))
        products.append(product.calls)
    path = torch.stack(path)
    finite = path.isfinite().all(1)
    # not a number would end the check before its judge is asked: it is told by `finite`
    return {"path": path.nan_to_num(0.0, 0.0, 0.0), "finite": finite, "products": torch.tensor(products)}


def krylov(matrix: Tensor, b: Tensor) -> Tensor:
    """After k iterations: the v that minimises ½vᵀAv − bᵀv among combinations of b, Ab, …, Aᵏ⁻¹b; k = 1 … n, [n, n]."""
    basis, rows = b[:, None] / b.norm(), []
    for _ in range(len(b)):
        rows.append(basis @ torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ b))
        fresh = matrix @ basis[:, -1]
        for _ in range(2):  # twice is enough for orthogonality to rounding
            fresh = fresh - basis @ (basis.T @ fresh)
        basis = torch.cat([basis, fresh[:, None] / fresh.norm()], 1)
    return torch.stack(rows)


def _solved(got: Tensor, right: Tensor) -> bool:
    """Equal to the lesson's tolerance: its claim holds to 1e-8 in double precision."""
    return close(got, right, rtol=1e-8 if got.dtype == F64 else RTOL)


def _cg_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    matrix, b, path = inputs["matrix"], inputs["b"], outputs["path"]
    n = len(b)
    if not b.any():
        if not outputs["finite"].all():
            return "Here b = 0, so v = 0 is right at once, and your function divides 0 by 0. Stop when r·r is 0."
        return None if not path.any() else "Here b = 0, so v is 0: start from zeros."
    right = krylov(matrix, b)
    wrong = next((k for k in range(n) if not (outputs["finite"][k] and _solved(path[k], right[k]))), None)
    if wrong is not None:
        return _cg_mistake(path, right, matrix, b, wrong + 1)
    if not outputs["finite"].all() or not _solved(path[-1], right[-1]):
        return (
            f"After {n} iterations you are there, after {n + BEYOND} no longer: the residual is nearly 0, and you go "
            "on dividing by it. Stop when r·r is 0 or as good as that."
        )
    if outputs["products"][n - 1] > n + 1:
        return (
            f"The numbers are right, but {n} iterations asked for {outputs['products'][n - 1]} products A p. One for "
            "each is enough: keep A p, it serves for the size and for the new residual."
        )
    return None


def _cg_mistake(path: Tensor, right: Tensor, matrix: Tensor, b: Tensor, wrong: int) -> str:
    n = len(b)
    before = path[wrong - 2] if wrong > 1 else 0 * b  # where v stood one iteration earlier
    far = (b - matrix @ path[0]).norm() > 0.1 * b.norm()  # no tolerance would be met
    if n > 2 and wrong == 2 and b.norm() > SHORT and all(torch.equal(row, path[0]) for row in path) and far:
        return "v stands still after one iteration, whatever `iterations` is. Is the `return` inside the loop?"
    if torch.equal(path[wrong - 1], before) and (wrong > 1 or b.norm() < SHORT):
        short = f"Here b is only {b.norm():.0e} long: do not compare with a fixed number. " if b.norm() < SHORT else ""
        return (
            f"You stop too early: v stands still from iteration {wrong} on, though it is off by "
            f"{relative_error(path[wrong - 1], right[wrong - 1]):.0e} of its size. {short}Stop when r·r is 0, or tiny "
            "beside b·b, such as 1e-20 of it."
        )
    if _close(path[:n], right):
        return (
            f"v is right to {relative_error(path[wrong - 1], right[wrong - 1]):.0e} of its size only. Leave out "
            ".float(), and go on until r·r is 0, or tiny beside b·b."
        )
    if n > 2 and all(_close(row, right[-1]) for row in path):
        return (
            "This is the solution at once, whatever `iterations` is, as from a dense solve. Take `iterations` steps, "
            "with one product A p each: A itself is never built."
        )
    if not path[0].any():
        return "After 1 iteration v is still 0: one iteration too few, or v is never updated."
    residuals = torch.stack([b - matrix @ v for v in right])
    if all(_close(got, rest) for got, rest in zip(path[:-2], residuals[:-1], strict=False)):
        return "This is the residual r, what is still missing. Return v."
    if _close(path[:n], right + b):
        return "v begins at b. It begins at zeros: then the residual b − A v is b, as in the text."
    if _close(path[0], b * b / (matrix @ b)):  # then every entry of r is 0, or rounding
        return (
            "The products are entry by entry. r·r and p·(A p) are dot products, one number each: `r @ r`, not `r * r`."
        )
    if _close(path[: n - 1], right[1:]):
        return "One iteration too many: with iterations=1 there is one step along b, and no more."
    for diagnosis, slip in CG_SLIPS.items():
        slipped = torch.stack([cg_slip(matrix, b, k, slip) for k in range(1, n + 1)])
        # up to where the mistake shows, and one iteration further where there is one
        upto = min(n, wrong + 1)
        if slipped[:upto].isfinite().all() and _close(path[:upto], slipped[:upto]):
            return diagnosis
    return Unnamed(
        f"After {wrong} iteration{'s' * (wrong > 1)} v is off by "
        f"{relative_error(path[wrong - 1], right[wrong - 1]):.1e}. Write the four lines again, in the order of the "
        "text: size, v, residual, direction."
    )


CG_SLIPS = {
    "The residual is updated with the size of the iteration before. Compute the size first, then v and r.": "old size",
    "The ratio compares with the first residual: after each iteration the new r·r must become the old one.": "first r",
    "The old r·r is never replaced: size and ratio both still use that of b. End each iteration with old = new.": (
        "stale old"
    ),
    "r and p are the same tensor: `r -= …` in place changes p (and b) with it. Write r = r − size · A p.": "alias",
    "r and p are one tensor all the time: what is done to one in place is done to the other, and p += r doubles both. "
    "Write r = r − size · A p.": "one tensor",
    "r is moved with the size of the iteration before, at first with 1. Compute the size first, then v and r.": (
        "old size, from 1"
    ),
    "This is steepest descent: the new direction is r alone. Add ratio · p, which remembers the old direction.": "no p",
    "The ratio is upside down: it is new r·r over old r·r, a number that is small when things go well.": "inverted",
    "The ratio is taken of norms. It is r·r over r·r, the squares.": "norms",
    "The ratio is missing: the old direction is added as it is. It is r + ratio · p.": "ratio 1",
    "The size is upside down: it is r·r / p·(A p).": "size inverted",
    "The size is only half: r·r / p·(A p) goes to the lowest point along p.": "half size",
    "The new direction subtracts the old one: it is r + ratio · p.": "minus p",
    "The residual grows: r loses size · A p. Look at its sign.": "plus Ap",
    "The size is r·r / p·p: A is missing. It is r·r / p·(A p), the curvature along p.": "no A",
    "The new direction is made of the old residual. Update r first.": "old r",
}


def cg_slip(matrix: Tensor, b: Tensor, iterations: int, slip: str) -> Tensor:
    """Conjugate gradients with one mistake, named as in CG_SLIPS."""
    v, r, p, size = torch.zeros_like(b), b, b, 1.0 if slip == "old size, from 1" else 0.0
    before = first = b @ b
    for step in range(iterations):
        image, before_r = matrix @ p, r
        if slip.startswith("old size"):
            r = r - size * image
        size = r @ r if slip not in ("one tensor", "old size", "old size, from 1") else before
        size = (first if slip == "stale old" else size) / (p @ p if slip == "no A" else p @ image)
        size = {"size inverted": 1 / size, "half size": size / 2}.get(slip, size)
        v = v + size * p
        if not slip.startswith("old size"):
            r = r + size * image if slip == "plus Ap" else r - size * image
        if slip == "alias" and step == 0:
            p = r
        ratio = (r @ r) / (first if slip in ("first r", "stale old") else before)
        ratio = {
            "ratio 1": ratio**0,
            "inverted": 1 / ratio,
            "norms": ratio.sqrt(),
            "no p": 0 * ratio,
            "minus p": -ratio,
        }.get(slip, ratio)
        before = r @ r
        p = (before_r if slip == "old r" else r) + ratio * p
        if slip == "one tensor":
            p = r = 2 * ratio * r
    return v


conjugate_gradient = Check(
    exercise="08.1",
    title="Conjugate gradients",
    inputs={
        # with two numbers one iteration too many and a dense solve are the same: six come first
        "six by six": system_of(6, 30.0),
        "two by two": system_of(2, 10.0),
        "a short right-hand side": system_of(6, 30.0, length=1e-6),
        "a right-hand side of uneven parts": _uneven,
        "solved from the start": _solved_at_once,
    },
    probe=_cg_probe,
    judge=_cg_judge,
    reference=linear_solvers.conjugate_gradient,
)


# ------------------------------------------------------------------ 08.2 the implicit hypergradient


def _bilevel(n: int, m: int, *, direct: bool) -> Callable[[torch.Generator], Tensors]:
    """Matrices of a problem with n inner and m outer numbers; direct: whether λ stands in the outer loss."""

    def inputs(generator: torch.Generator) -> Tensors:
        return {
            "phi": randn(generator, n),
            "lam": randn(generator, m),
            "inner_curvature": 2 * _spd(generator, n, 8.0),
            "mixed": randn(generator, n, m),
            "outer_curvature": 2 * _spd(generator, n, 8.0),
            "centre": randn(generator, n),
            "outer_mixed": randn(generator, n, m) if direct else torch.zeros(n, m, dtype=F64),
            "direct": torch.tensor(float(direct), dtype=F64),
        }

    return inputs


def losses(inputs: Tensors) -> tuple[Callable, Callable]:
    """L_inner = ½φᵀAφ + ¼Σφ⁴ − φᵀBλ + ¼Σλ⁴ and L_outer = ½(φ − c)ᵀD(φ − c) + direct · (φᵀEλ + ½λᵀλ)."""

    def inner_loss(phi: Tensor, lam: Tensor) -> Tensor:
        a, b = inputs["inner_curvature"].to(phi.dtype), inputs["mixed"].to(phi.dtype)
        return 0.5 * phi @ a @ phi + 0.25 * phi.pow(4).sum() - phi @ b @ lam + 0.25 * lam.pow(4).sum()

    def outer_loss(phi: Tensor, lam: Tensor) -> Tensor:
        away = phi - inputs["centre"].to(phi.dtype)
        loss = 0.5 * away @ inputs["outer_curvature"].to(phi.dtype) @ away
        return loss + phi @ inputs["outer_mixed"].to(phi.dtype) @ lam + 0.5 * lam @ lam if inputs["direct"] else loss

    return inner_loss, outer_loss


SINGULAR = 1e-12  # a determinant this small is that of a matrix without inverse


def _hyper_probe(answer: Callable, inputs: Tensors) -> Tensors:
    n = len(inputs["phi"])
    seen = {"matrix": torch.zeros(n, n, dtype=F64), "used": torch.tensor(False)}

    def solve(product: Callable, b: Tensor) -> Tensor:
        columns = torch.eye(n, dtype=b.dtype)
        matrix = torch.stack([product(column).detach() for column in columns], 1)
        seen["matrix"], seen["used"] = matrix.double(), torch.tensor(True)
        return torch.linalg.solve(matrix, b.detach()) if matrix.det().abs() > SINGULAR else torch.zeros_like(b)

    result = answer(*losses(inputs), inputs["phi"].clone(), inputs["lam"].clone(), solve)
    keep_precision(result, inputs["phi"], "the gradient")
    return {"gradient": result} | seen


def hyper_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    phi, lam, mixed = inputs["phi"], inputs["lam"], -inputs["mixed"]  # mixed: ∂²L_inner/∂φ∂λ, [n, m]
    hessian = inputs["inner_curvature"] + torch.diag(3 * phi**2)
    b = inputs["outer_curvature"] @ (phi - inputs["centre"]) + inputs["outer_mixed"] @ lam
    direct = inputs["outer_mixed"].T @ phi + inputs["direct"] * lam
    v = torch.linalg.solve(hessian, b)
    right = direct - mixed.T @ v
    if _close(outputs["gradient"], right):
        if outputs["used"]:
            return None
        return "The number is right, but solve was never called. Pass it a product: then H need not be built at all."
    if outputs["used"] and _close(outputs["matrix"], inputs["outer_curvature"]):
        return "Your product is that of the outer loss. H is the Hessian of the inner loss, which φ minimises."
    if outputs["used"] and (said := _wrong_product(outputs["matrix"], hessian)):
        return said
    inner_slope = inputs["inner_curvature"] @ phi + phi**3 + mixed @ lam
    mistakes = {
        "Sign: it is the direct term minus (∂²L_inner/∂φ∂λ)ᵀ v. The minus comes from solving for dφ*/dλ.": direct
        + mixed.T @ v,
        "This is the direct term alone: how φ* moves with λ is missing.": direct,
        "The direct term ∂L_outer/∂λ is missing: λ also stands in the outer loss itself.": -mixed.T @ v,
        "Half of step 3 is missing: this is −(∂²L_inner/∂φ∂λ)ᵀ v with the other sign, and without the direct term.": (
            mixed.T @ v
        ),
        "The way through φ* counts half: it is the whole (∂²L_inner/∂φ∂λ)ᵀ v.": direct - mixed.T @ v / 2,
        "The direct term counts twice.": 2 * direct - mixed.T @ v,
        "H is taken as I: solve was left out, or its result is not used.": direct - mixed.T @ b,
        "This multiplies by H where it must divide: v solves H v = ∂L_outer/∂φ.": direct - mixed.T @ hessian @ b,
        "The right-hand side is the slope of the inner loss. It is that of the outer one, ∂L_outer/∂φ.": direct
        - mixed.T @ torch.linalg.solve(hessian, inner_slope),
        "The mixed derivative is that of the outer loss. It is ∂²L_inner/∂φ∂λ.": direct - inputs["outer_mixed"].T @ v,
        "The first term is ∂L_inner/∂λ. It is the outer loss that is differentiated: ∂L_outer/∂λ.": lam**3
        + mixed.T @ phi
        - mixed.T @ v,
    }
    if len(phi) == len(lam):
        words = "You multiplied by ∂²L_inner/∂φ∂λ, not by its transpose: autograd.grad(slope @ v, lam) transposes."
        mistakes[words] = direct - mixed @ v
        mistakes["This is v itself. Step 3 is missing: direct term − (∂²L_inner/∂φ∂λ)ᵀ v."] = v
    return _first(outputs["gradient"], mistakes) or Unnamed(
        f"The hypergradient is off by {relative_error(outputs['gradient'], right):.1e}. Test its parts one by one: b, "
        "v, the mixed product, the direct term."
    )


def _wrong_product(matrix: Tensor, hessian: Tensor) -> str | None:
    """What is said of a product p → matrix · p that is not H p in a known way; else None."""
    rows, one = hessian.sum(1), torch.ones(len(hessian), dtype=F64)
    if _close(matrix, torch.outer(rows, one)):
        return (
            "Your product is each row's sum of H, times the sum of p: `slope.sum() * p.sum()` is not slope · p. "
            "Multiply entry by entry, then sum: slope @ p."
        )
    if _close(matrix, rows.diag()):
        return (
            "Your product is each row's sum of H, times p, entry by entry: p came in too late. Differentiate "
            "the number slope @ p."
        )
    if _close(matrix, hessian.diag().diag()):
        return "Your product has the diagonal of H alone: H has entries beside the diagonal too."
    if _close(matrix, -hessian):
        return "Your product is −H p: look at its sign."
    if matrix.det().abs() <= SINGULAR:
        return "The product that you hand to solve has no inverse: it is not that of H. Differentiate slope @ p by φ."
    return None


def _hyper_reference(inner_loss, outer_loss, phi, lam, solve) -> Tensor:
    """∂L_outer/∂λ − (∂²L_inner/∂φ∂λ)ᵀ v, with v = solve(p → H p, ∂L_outer/∂φ)."""
    phi, lam = (value.detach().clone().requires_grad_() for value in (phi, lam))
    zeros = {"allow_unused": True, "materialize_grads": True}
    b, direct = torch.autograd.grad(outer_loss(phi, lam), (phi, lam), **zeros)
    (slope,) = torch.autograd.grad(inner_loss(phi, lam), phi, create_graph=True)
    v = solve(lambda p: torch.autograd.grad(slope @ p, phi, retain_graph=True)[0], b)
    (through,) = torch.autograd.grad(slope @ v, lam, **zeros)
    return direct - through


hypergradient = Check(
    exercise="08.2",
    title="The implicit hypergradient",
    inputs={
        "three inner and three outer numbers": _bilevel(3, 3, direct=True),
        "five inner numbers, two outer ones": _bilevel(5, 2, direct=True),
        "λ stands in the inner loss only": _bilevel(4, 3, direct=False),
    },
    probe=_hyper_probe,
    judge=hyper_judge,
    reference=_hyper_reference,
)


# ------------------------------------------------------------------ 08.3 the Neumann series


TERMS = (1, 2, 5)


def _neumann_inputs(generator: torch.Generator) -> Tensors:
    rate = 0.7 + 0.4 * torch.rand((), generator=generator, dtype=F64)
    return {"matrix": _spd(generator, 4, 6.0), "b": randn(generator, 4), "rate": rate}


def _neumann_probe(answer: Callable, inputs: Tensors) -> Tensors:
    b, path, products = inputs["b"], [], []
    for terms in reversed(TERMS):  # with one term a `return` inside the loop is never reached
        product = _Counted(inputs["matrix"])
        path.append(_vector(answer(product, b.clone(), terms=terms, rate=float(inputs["rate"])), b))
        products.append(product.calls)
    return {"path": torch.stack(path[::-1]), "products": torch.tensor(products[::-1])}


def _neumann_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    matrix, b, rate = inputs["matrix"], inputs["b"], inputs["rate"]
    eye = torch.eye(len(b), dtype=F64)

    def powers(base: Tensor, counts=TERMS) -> Tensor:
        """Σ_{k<K} baseᵏ b for each K."""
        total = [sum((torch.linalg.matrix_power(base, k) @ b for k in range(terms)), 0 * b) for terms in counts]
        return torch.stack(total)

    shrink = eye - rate * matrix
    inverse = torch.linalg.solve(matrix, b)
    right = torch.stack([inverse - torch.linalg.matrix_power(shrink, terms) @ inverse for terms in TERMS])
    path = outputs["path"]
    if _close(path, right):
        if (outputs["products"] > torch.tensor(TERMS)).any():
            return "The numbers are right, but with more products than terms: make each term from the one before."
        return None
    last = torch.stack([torch.linalg.matrix_power(shrink, terms - 1) @ b for terms in TERMS])
    mistakes = {
        "The factor η in front is missing: without it this tends to A⁻¹b / η.": right / rate,
        "Sign: this sums powers of I + ηA, which run away. A term loses η A · term.": rate
        * powers(eye + rate * matrix),
        "The terms are powers of ηA. They are powers of I − ηA: each term is the last one minus η A · (last one).": rate
        * powers(rate * matrix),
        "This is the last term alone, not the sum of all.": rate * last,
        "This is the first term alone, η b: each further term is the last one minus η A · (last one).": (
            rate * b.expand_as(path)
        ),
        "The terms are powers of −ηA: the I of I − ηA is missing. Each term is the last one minus η A · (last one).": (
            rate * powers(-rate * matrix)
        ),
        "One term too many: K terms are k = 0 … K − 1, the first is b itself.": rate
        * powers(shrink, [terms + 1 for terms in TERMS]),
        "One term too few: K terms are k = 0 … K − 1, the first is b itself.": rate
        * powers(shrink, [terms - 1 for terms in TERMS]),
        "η is missing inside: the terms are powers of I − ηA, not of I − A.": rate * powers(eye - matrix),
        "The first term, b itself, is left out of the sum: K terms are k = 0 … K − 1.": rate
        * (powers(shrink, [terms + 1 for terms in TERMS]) - b),
        "The first term, b itself, is left out of the sum, and K − 1 others are there.": rate * (powers(shrink) - b),
        "Term and sum are the same tensor: `-=` and `+=` in place change both. Write total = total + term.": rate
        * torch.stack([torch.linalg.matrix_power(2 * shrink, terms - 1) @ b for terms in TERMS]),
        "The first term b is counted twice.": rate * (b + powers(shrink)),
        "From the third on, each term is made of b again: make it of the term before, or the powers do not grow.": (
            rate * torch.stack([b + (terms - 1) * shrink @ b for terms in TERMS])
        ),
        "Each new term is made of the SUM so far. Keep two variables, the last term and the sum.": rate
        * torch.stack([torch.linalg.matrix_power(eye + shrink, terms - 1) @ b for terms in TERMS]),
        "This is the mean of the terms. The series is their sum.": right / torch.tensor(TERMS, dtype=F64)[:, None],
    }
    return _first(path, mistakes) or Unnamed(
        f"With {TERMS[0]}, {TERMS[1]} and {TERMS[2]} terms together you are off by {relative_error(path, right):.1e}. "
        "With one term the answer is η b: begin there."
    )


def _neumann_reference(product, b, *, terms, rate) -> Tensor:
    """The sum as it stands, also where it runs away: the lesson shows that."""
    return rate * sum(linear_solvers.neumann_terms(product, b, terms=terms, rate=rate), torch.zeros_like(b))


neumann = Check(
    exercise="08.3",
    title="The Neumann series",
    inputs=_neumann_inputs,
    probe=_neumann_probe,
    judge=_neumann_judge,
    reference=_neumann_reference,
)


# ------------------------------------------------------------------ 08.4 the meta-gradient of implicit MAML


def _meta_inputs(generator: torch.Generator) -> Tensors:
    strength = 1.5 + torch.rand((), generator=generator, dtype=F64)
    return {"hessian": 3 * _spd(generator, 5, 10.0), "outer_gradient": randn(generator, 5), "strength": strength}


def _meta_probe(answer: Callable, inputs: Tensors) -> Tensors:
    b, strength = inputs["outer_gradient"], float(inputs["strength"])
    whole, one = (
        _vector(answer(_Counted(inputs["hessian"]), b.clone(), strength=strength, iterations=iterations), b)
        for iterations in (len(b), 1)
    )
    return {"gradient": whole, "after one iteration": one}


def _meta_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    hessian, b, strength = inputs["hessian"], inputs["outer_gradient"], inputs["strength"]
    eye = torch.eye(len(b), dtype=F64)
    right = torch.linalg.solve(eye + hessian / strength, b)
    if not _close(outputs["gradient"], right):
        mistakes = {
            "λ stands on the wrong side: the matrix is I + H/λ, yours is I + λH.": torch.linalg.solve(
                eye + strength * hessian, b
            ),
            "This is (H + λI)⁻¹ b: the factor λ is missing. (I + H/λ)⁻¹ = λ (H + λI)⁻¹.": right / strength,
            "This is H⁻¹ b: the leash is missing. Solve with I + H/λ.": torch.linalg.solve(hessian, b),
            "This is the outer gradient as it came: H is taken as 0, and dφ*/dθ as I (first-order).": b,
            "This multiplies by I + H/λ where it must divide: solve a system.": b + hessian @ b / strength,
            "This is (H/λ)⁻¹ b: the I is missing. Solve with I + H/λ.": strength * torch.linalg.solve(hessian, b),
            "Sign: the matrix is I + H/λ, yours is I − H/λ.": torch.linalg.solve(eye - hessian / strength, b),
            "λ divides all of I + H: it stands under H alone.": strength * torch.linalg.solve(eye + hessian, b),
            "The factor λ is there once too often: (I + H/λ)⁻¹ = λ (H + λI)⁻¹.": strength * right,
            "λ is missing: this solves with I + H, whatever the leash is.": torch.linalg.solve(eye + hessian, b),
            "This is (I − H/λ) b, the first two terms of the series for the inverse. Solve the system.": b
            - hessian @ b / strength,
        }
        return _first(outputs["gradient"], mistakes) or Unnamed(
            f"(I + H/λ)⁻¹ b is missed by {relative_error(outputs['gradient'], right):.1e} after {len(b)} iterations."
        )
    one = outputs["after one iteration"]
    shortest = krylov(eye + hessian / strength, b)[0]  # one step along b
    if _close(one, right):
        return "With iterations=1 nothing changes: pass iterations on to conjugate_gradient."
    if not _close(one, shortest):
        return "With enough iterations it is right, with 1 it is not one step of conjugate gradients on I + H/λ."
    return None


def _meta_reference(product, outer_gradient, *, strength, iterations) -> Tensor:
    """(I + H/λ)⁻¹ ∂L_outer/∂φ, by conjugate gradients."""
    return linear_solvers.conjugate_gradient(lambda p: p + product(p) / strength, outer_gradient, iterations=iterations)


meta_gradient = Check(
    exercise="08.4",
    title="The meta-gradient of implicit MAML",
    inputs=_meta_inputs,
    probe=_meta_probe,
    judge=_meta_judge,
    reference=_meta_reference,
)
