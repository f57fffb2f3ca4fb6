"""The checks of notebook 08 against right answers written differently, and against mistakes that learners make."""

import pytest
import torch
from check_helpers import SEEDS, assert_check
from torch.func import grad, hessian, jacrev

from mlcourse.lessons.implicit import checks
from mlcourse.meta_gradients import linear_solvers
from mlcourse.teaching.checks import Check
from mlcourse.teaching.oracles import gradient_error

F64 = torch.float64


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


# ------------------------------------------------------------------ 08.1 conjugate gradients


def cg_textbook(product, b, *, iterations):
    v, r = torch.zeros_like(b), b.clone()
    p, old = r.clone(), torch.dot(r, r)
    for _ in range(iterations):
        if old == 0:
            break
        image = product(p)
        size = old / torch.dot(p, image)
        v, r = v + size * p, r - size * image
        new = torch.dot(r, r)
        p, old = r + new / old * p, new
    return v


def cg_float32(product, b, *, iterations):
    return linear_solvers.conjugate_gradient(product, b.float(), iterations=iterations)


def cg_with_other_ratio(product, b, *, iterations):
    """The same method, its ratio from A-orthogonality of the directions in place of residuals."""
    v, r, p = torch.zeros_like(b), b, b
    for _ in range(iterations):
        image = product(p)
        bend = (p * image).sum()
        if bend <= 1e-300:
            break
        v = v + (p * r).sum() / bend * p
        r = r - (p * r).sum() / bend * image
        p = r - (r * image).sum() / bend * p
    return v


def cg_slip(slip):
    def cg_with_a_mistake(product, b, *, iterations):
        return torch.zeros_like(b) if not b.any() else checks.cg_slip(product.matrix, b, iterations, slip)

    return cg_with_a_mistake


def published_with_the_old_size(product, b, *, iterations):
    """The first of two published recurrences: r moves before the size is computed."""
    v, residual, direction, size = torch.zeros_like(b), b, b, 0.0
    error = b @ b
    for _ in range(iterations):
        image = product(direction)
        residual = residual - size * image
        size = error / (direction @ image)
        v = v + size * direction
        error, before = residual @ residual, error
        direction = residual + error / before * direction
    return v


def published_with_the_first_residual(product, b, *, iterations):
    """The second: the old r·r is never replaced by the new one."""
    v, residual, direction = torch.zeros_like(b), b, b
    first = b @ b
    for _ in range(iterations):
        image = product(direction)
        size = residual @ residual / (direction @ image)
        v, residual = v + size * direction, residual - size * image
        direction = residual + residual @ residual / first * direction
    return v


def cg_unguarded(product, b, *, iterations):
    v, r, p = torch.zeros_like(b), b, b
    for _ in range(iterations):
        image = product(p)
        size = r @ r / (p @ image)
        v, new = v + size * p, r - size * image
        p, r = new + new @ new / (r @ r) * p, new
    return v


def cg_two_products(product, b, *, iterations):
    v, r, p = torch.zeros_like(b), b, b
    for _ in range(iterations):
        if not r.any():
            break
        size = r @ r / (p @ product(p))
        v = v + size * p
        new = b - product(v)
        p, r = new + new @ new / (r @ r) * p, new
    return v


def cg_fewer(product, b, *, iterations):
    return cg_textbook(product, b, iterations=iterations - 1)


def cg_more(product, b, *, iterations):
    return cg_textbook(product, b, iterations=iterations + 1)


def cg_forgets_old(product, b, *, iterations):
    v, r, p, old = torch.zeros_like(b), b, b, b @ b
    for _ in range(iterations):
        if not r.any():
            break
        image = product(p)
        size = old / (p @ image)
        v, r = v + size * p, r - size * image
        new = r @ r
        p = r + new / old * p
    return v


def cg_alias(product, b, *, iterations):
    v, r = torch.zeros_like(b), b.clone()
    p, old = r, b @ b
    for _ in range(iterations):
        if old == 0:
            break
        image = product(p)
        size = old / (p @ image)
        v += size * p
        r -= size * image
        new = r @ r
        p = r + new / old * p
        old = new
    return v


def cg_by_entries(product, b, *, iterations):
    v, r, p, old = torch.zeros_like(b), b, b, b * b
    for _ in range(iterations):
        if not b.any():
            break
        image = product(p)
        size = old / (p * image)
        v, r = v + size * p, r - size * image
        new = r * r
        p, old = r + new / old * p, new
    return v


def cg_from_b(product, b, *, iterations):
    return b + cg_textbook(product, b, iterations=iterations)


def cg_shifted(product, b, *, iterations):
    return 1.1 * cg_textbook(product, b, iterations=iterations)


def cg_returns_the_rest(product, b, *, iterations):
    return b - product(cg_textbook(product, b, iterations=iterations))


def cg_column(product, b, *, iterations):
    return cg_textbook(product, b, iterations=iterations)[:, None]


def cg_in_place(product, b, *, iterations):
    v, p, old = torch.zeros_like(b), b.clone(), b @ b
    for _ in range(iterations):
        image = product(p)
        size = old / (p @ image)
        v += size * p
        b += size * image  # the residual under the name of b, and with the wrong sign
        old = b @ b
    return v


def test_conjugate_gradient():
    assert_check(
        checks.conjugate_gradient,
        right=[cg_textbook, cg_with_other_ratio],
        wrong={
            "float32": (cg_float32, "same dtype"),
            "published, old size": (published_with_the_old_size, "size of the iteration before"),
            "published, first residual": (published_with_the_first_residual, "compares with the first residual"),
            "steepest descent": (cg_slip("no p"), "steepest descent"),
            "inverted": (cg_slip("inverted"), "upside down"),
            "norms": (cg_slip("norms"), "ratio is taken of norms"),
            "minus p": (cg_slip("minus p"), "subtracts the old one"),
            "plus Ap": (cg_slip("plus Ap"), "The residual grows"),
            "no A": (cg_slip("no A"), "A is missing"),
            "old r": (cg_slip("old r"), "made of the old residual"),
            "fewer": (cg_fewer, "one iteration too few"),
            "more": (cg_more, "One iteration too many"),
            # 0 or nearly 0: it depends on how a processor rounds which problem is the first to show it
            "unguarded": (cg_unguarded, "Stop when r·r is 0"),
            "two products": (cg_two_products, "One for each is enough"),
            "the rest": (cg_returns_the_rest, "This is the residual r"),
            "old forgotten": (cg_forgets_old, "The old r·r is never replaced"),
            "the same tensor": (cg_alias, "r and p are the same tensor"),
            "by entries": (cg_by_entries, "The products are entry by entry"),
            "from b": (cg_from_b, "v begins at b"),
            "something else": (cg_shifted, "After 1 iteration v is off by"),
            "a column": (cg_column, "one tensor of the shape of the right-hand side"),
        },
    )


def test_the_best_vector_of_a_krylov_space_is_the_iterate():
    """The oracle shares no code with the recurrence, and ends in the dense solution."""
    for seed in SEEDS:
        given = checks.system_of(6, 30.0)(torch.Generator().manual_seed(seed))
        rows = checks.krylov(given["matrix"], given["b"])
        torch.testing.assert_close(rows[-1], torch.linalg.solve(given["matrix"], given["b"]), rtol=1e-9, atol=1e-10)
        for k in range(6):
            got = linear_solvers.conjugate_gradient(given["matrix"].matmul, given["b"], iterations=k + 1)
            torch.testing.assert_close(got, rows[k], rtol=1e-7, atol=1e-9)


# ------------------------------------------------------------------ 08.2 the implicit hypergradient


def parts(inner_loss, outer_loss, phi, lam):
    """b, the direct term, H, ∂²L_inner/∂φ∂λ, by torch.func."""
    b, direct = grad(outer_loss, (0, 1))(phi, lam)
    return b, direct, hessian(inner_loss)(phi, lam), jacrev(jacrev(inner_loss, 0), 1)(phi, lam)


def hyper_by_func(inner_loss, outer_loss, phi, lam, solve):
    b, direct, h, mixed = parts(inner_loss, outer_loss, phi, lam)
    return direct - mixed.T @ solve(lambda p: h @ p, b)


def hyper_with_loop(inner_loss, outer_loss, phi, lam, solve):
    phi, lam = phi.clone().requires_grad_(), lam.clone().requires_grad_()
    b = torch.autograd.grad(outer_loss(phi, lam), phi, retain_graph=True)[0]
    slope = torch.autograd.grad(inner_loss(phi, lam), phi, create_graph=True)[0]

    def product(p):
        rows = [torch.autograd.grad(s, phi, retain_graph=True)[0] for s in slope]
        return torch.stack([row @ p for row in rows])

    v = solve(product, b)
    direct = grad(outer_loss, 1)(phi.detach(), lam.detach())
    return torch.stack([d - sum(m * v) for d, m in zip(direct, jacrev(grad(inner_loss), 1)(phi, lam).T)])


def hyper_float32(inner_loss, outer_loss, phi, lam, solve):
    return hyper_by_func(inner_loss, outer_loss, phi.float(), lam.float(), solve)


def hyper_variant(change):
    def hyper_with_a_mistake(inner_loss, outer_loss, phi, lam, solve):
        b, direct, h, mixed = parts(inner_loss, outer_loss, phi, lam)
        return change(b, direct, h, mixed, lambda matrix, c: solve(lambda p: matrix @ p, c))

    return hyper_with_a_mistake


def hyper_of_outer_hessian(inner_loss, outer_loss, phi, lam, solve):
    b, direct, _, mixed = parts(inner_loss, outer_loss, phi, lam)
    h = hessian(outer_loss)(phi, lam)
    return direct - mixed.T @ solve(lambda p: h @ p, b)


def hyper_of_inner_slope(inner_loss, outer_loss, phi, lam, solve):
    _, direct, h, mixed = parts(inner_loss, outer_loss, phi, lam)
    return direct - mixed.T @ solve(lambda p: h @ p, grad(inner_loss)(phi, lam))


def hyper_of_outer_mixed(inner_loss, outer_loss, phi, lam, solve):
    b, direct, h, _ = parts(inner_loss, outer_loss, phi, lam)
    return direct - jacrev(grad(outer_loss), 1)(phi, lam).T @ solve(lambda p: h @ p, b)


def hyper_of_inner_direct(inner_loss, outer_loss, phi, lam, solve):
    b, _, h, mixed = parts(inner_loss, outer_loss, phi, lam)
    return grad(inner_loss, 1)(phi, lam) - mixed.T @ solve(lambda p: h @ p, b)


def hyper_dense(inner_loss, outer_loss, phi, lam, solve):
    b, direct, h, mixed = parts(inner_loss, outer_loss, phi, lam)
    return direct - mixed.T @ torch.linalg.inv(h) @ b


def hyper_pair(inner_loss, outer_loss, phi, lam, solve):
    b, direct, h, mixed = parts(inner_loss, outer_loss, phi, lam)
    return direct, -mixed.T @ solve(lambda p: h @ p, b)


def hyper_halved(inner_loss, outer_loss, phi, lam, solve):
    return hyper_by_func(inner_loss, outer_loss, phi, lam, solve) / 2


def test_hypergradient():
    assert_check(
        checks.hypergradient,
        right=[hyper_by_func, hyper_with_loop],
        wrong={
            "float32": (hyper_float32, "keep the number format"),
            "sign": (hyper_variant(lambda b, d, h, m, s: d + m.T @ s(h, b)), "Sign: it is the direct term minus"),
            "direct only": (hyper_variant(lambda b, d, h, m, s: d), "This is the direct term alone"),
            "no direct term": (hyper_variant(lambda b, d, h, m, s: -m.T @ s(h, b)), "The direct term ∂L_outer/∂λ is"),
            "H as I": (hyper_variant(lambda b, d, h, m, s: d - m.T @ b), "H is taken as I"),
            "times H": (hyper_variant(lambda b, d, h, m, s: d - m.T @ h @ b), "multiplies by H where it must divide"),
            "transposed": (
                hyper_variant(lambda b, d, h, m, s: d - (m if len(m) == len(m.T) else m.T) @ s(h, b)),
                "not by its transpose",
            ),
            "v": (hyper_variant(lambda b, d, h, m, s: s(h, b) if len(m) == len(m.T) else d), "This is v itself"),
            "half": (hyper_variant(lambda b, d, h, m, s: m.T @ s(h, b)), "Half of step 3 is missing"),
            "outer Hessian": (hyper_of_outer_hessian, "product is that of the outer loss"),
            "inner slope": (hyper_of_inner_slope, "right-hand side is the slope of the inner loss"),
            "outer mixed": (hyper_of_outer_mixed, "mixed derivative is that of the outer loss"),
            "inner direct": (hyper_of_inner_direct, "The first term is ∂L_inner/∂λ"),
            "dense": (hyper_dense, "solve was never called"),
            "a pair": (hyper_pair, "expected a tensor of shape"),
            "halved": (hyper_halved, "is off by"),
        },
    )


def test_the_closed_form_is_the_derivative_of_the_solved_problem():
    """Differences through a Newton solve know nothing of the implicit function theorem."""
    for name, make in checks.hypergradient.inputs.items():
        given = make(torch.Generator().manual_seed(1))
        inner_loss, outer_loss = checks.losses(given)

        def optimum(lam, inner_loss=inner_loss, given=given):
            phi = 0 * given["phi"]
            for _ in range(12):
                phi = phi - torch.linalg.solve(hessian(inner_loss)(phi, lam), grad(inner_loss)(phi, lam))
            return phi

        there = given | {"phi": optimum(given["lam"])}
        answer = hyper_by_func(
            inner_loss, outer_loss, there["phi"], there["lam"], lambda p, b: torch.linalg.solve(_dense(p, b), b)
        )
        assert checks.hyper_judge(there, {"gradient": answer, "used": torch.tensor(True)}) is None
        error = gradient_error(
            lambda lam, optimum=optimum, outer_loss=outer_loss: outer_loss(optimum(lam), lam),
            given["lam"],
            answer,
            torch.Generator().manual_seed(2),
        )
        assert error < 1e-8, name


def _dense(product, b):
    return torch.stack([product(column) for column in torch.eye(len(b), dtype=b.dtype)], 1)


# ------------------------------------------------------------------ 08.3 the Neumann series


def neumann_by_steps(product, b, *, terms, rate):
    """The same number as descent on ½vᵀAv − bᵀv from 0."""
    v = torch.zeros_like(b)
    for _ in range(terms):
        v = v - rate * (product(v) - b)
    return v


def neumann_as_list(product, b, *, terms, rate):
    found = [b]
    for _ in range(terms - 1):
        found.append(found[-1] - rate * product(found[-1]))
    return rate * torch.stack(found).sum(0)


def neumann_float32(product, b, *, terms, rate):
    return neumann_as_list(product, b.float(), terms=terms, rate=rate)


def series(next_term=lambda term, image, rate: term - rate * image, *, more=0, front=True, total=sum, extra=0.0):
    def series_with_a_mistake(product, b, *, terms, rate):
        found = [b]
        for _ in range(terms - 1 + more):
            found.append(next_term(found[-1], product(found[-1]), rate))
        found = found[: terms + more]
        return (rate if front else 1.0) * (total(found) + extra * b if found else torch.zeros_like(b))

    return series_with_a_mistake


def neumann_by_powers(product, b, *, terms, rate):
    total = torch.zeros_like(b)
    for k in range(terms):
        term = b
        for _ in range(k):
            term = term - rate * product(term)
        total = total + term
    return rate * total


def neumann_to_number(product, b, *, terms, rate):
    return neumann_as_list(product, b, terms=terms, rate=rate).norm()


def neumann_of_b(product, b, *, terms, rate):
    total = b
    for _ in range(terms - 1):
        total = total + (b - rate * product(b))
    return rate * total


def neumann_of_sum(product, b, *, terms, rate):
    total = b
    for _ in range(terms - 1):
        total = total + (total - rate * product(total))
    return rate * total


def test_neumann():
    assert_check(
        checks.neumann,
        right=[neumann_by_steps, neumann_as_list],
        wrong={
            "float32": (neumann_float32, "same dtype"),
            "no factor": (series(front=False), "factor η in front is missing"),
            "sign": (series(lambda term, image, rate: term + rate * image), "powers of I + ηA"),
            "powers of A": (series(lambda term, image, rate: rate * image), "The terms are powers of ηA"),
            "last only": (series(total=lambda found: found[-1]), "the last term alone"),
            "one more": (series(more=1), "One term too many"),
            "one fewer": (series(more=-1), "One term too few"),
            "no η inside": (series(lambda term, image, rate: term - image), "η is missing inside"),
            "first twice": (series(extra=1.0), "counted twice"),
            "powers anew": (neumann_by_powers, "more products than terms"),
            "a number": (neumann_to_number, "one tensor of the shape of the right-hand side"),
            "doubled": (series(total=lambda found: 2 * sum(found)), "you are off by"),
            "of b again": (neumann_of_b, "made of b again"),
            "of the sum": (neumann_of_sum, "made of the SUM"),
            "mean": (series(total=lambda found: sum(found) / len(found)), "the mean of the terms"),
        },
    )


# ------------------------------------------------------------------ 08.4 the meta-gradient of implicit MAML


def meta_of_scaled_system(product, outer_gradient, *, strength, iterations):
    return linear_solvers.conjugate_gradient(
        lambda p: product(p) + strength * p, strength * outer_gradient, iterations=iterations
    )


def meta_by_textbook(product, outer_gradient, *, strength, iterations):
    return cg_textbook(lambda p: p + product(p) / strength, outer_gradient, iterations=iterations)


def meta_float32(product, outer_gradient, *, strength, iterations):
    return meta_by_textbook(product, outer_gradient.float(), strength=strength, iterations=iterations)


def meta_variant(matrix, change=lambda v, s: v, count=lambda n: n):
    def meta_with_a_mistake(product, outer_gradient, *, strength, iterations):
        v = linear_solvers.conjugate_gradient(
            lambda p: matrix(p, product(p), strength), outer_gradient, iterations=count(iterations)
        )
        return change(v, strength)

    return meta_with_a_mistake


def meta_first_order(product, outer_gradient, *, strength, iterations):
    return outer_gradient.clone()


def meta_multiplied(product, outer_gradient, *, strength, iterations):
    return outer_gradient + product(outer_gradient) / strength


def meta_two_terms(product, outer_gradient, *, strength, iterations):
    return outer_gradient - product(outer_gradient) / strength


def meta_dense(product, outer_gradient, *, strength, iterations):
    n = len(outer_gradient)
    matrix = torch.stack([product(p) for p in torch.eye(n, dtype=outer_gradient.dtype)], 1)
    return torch.linalg.solve(torch.eye(n, dtype=matrix.dtype) + matrix / strength, outer_gradient)


def meta_as_pair(product, outer_gradient, *, strength, iterations):
    return meta_by_textbook(product, outer_gradient, strength=strength, iterations=iterations), None


def test_meta_gradient():
    right_matrix = lambda p, hp, s: p + hp / s  # noqa: E731
    assert_check(
        checks.meta_gradient,
        right=[meta_of_scaled_system, meta_by_textbook],
        wrong={
            "float32": (meta_float32, "same dtype"),
            "λH": (meta_variant(lambda p, hp, s: p + s * hp), "wrong side"),
            "no factor": (meta_variant(lambda p, hp, s: hp + s * p), "the factor λ is missing"),
            "no leash": (meta_variant(lambda p, hp, s: hp), "the leash is missing"),
            "first-order": (meta_first_order, "outer gradient as it came"),
            "multiplied": (meta_multiplied, "multiplies by I + H/λ"),
            "no I": (meta_variant(lambda p, hp, s: hp / s), "the I is missing"),
            "no λ": (meta_variant(lambda p, hp, s: p + hp), "whatever the leash is"),
            "λ under all": (meta_variant(lambda p, hp, s: (p + hp) / s), "λ divides all of I + H"),
            "λ twice": (meta_variant(right_matrix, change=lambda v, s: s * v), "once too often"),
            "two terms": (meta_two_terms, "the first two terms of the series"),
            "iterations ignored": (meta_variant(right_matrix, count=lambda n: 50), "nothing changes"),
            "one more": (meta_variant(right_matrix, count=lambda n: 2 * n), "not one step of conjugate gradients"),
            "doubled": (meta_variant(right_matrix, change=lambda v, s: 2 * v), "is missed by"),
            "a pair": (meta_as_pair, "needs one tensor"),
        },
    )
    assert "nothing changes" in checks.meta_gradient.run(meta_dense).diagnosis


# ------------------------------------------------------------------ all of them


def test_references_pass_many_problems():
    for check in vars(checks).values():
        if isinstance(check, Check):
            for seed in range(5, 25):
                assert check.run(check.reference, seed=seed).passed


def test_an_input_that_is_changed_is_noticed():
    # the right-hand side is a copy: writing into it is the learner's own affair, and the numbers tell
    assert not checks.conjugate_gradient.run(cg_in_place).passed


def test_a_fixed_threshold_is_not_precise_enough_for_the_lesson():
    def my_gradients(product, b, *, iterations):
        v, r, p, old = torch.zeros_like(b), b, b, b @ b
        for _ in range(iterations):
            if old < 1e-12:
                break
            image = product(p)
            size = old / (p @ image)
            v, r = v + size * p, r - size * image
            old, before = r @ r, old
            p = r + old / before * p
        return v

    for seed in SEEDS:
        assert "You stop too early" in checks.conjugate_gradient.run(my_gradients, seed=seed).diagnosis


def test_a_dense_solve_is_named():
    def my_solve(product, b, *, iterations):
        matrix = torch.stack([product(one) for one in torch.eye(len(b), dtype=b.dtype)], 1)
        return torch.linalg.solve(matrix, b)

    assert "as from a dense solve" in checks.conjugate_gradient.run(my_solve).diagnosis
