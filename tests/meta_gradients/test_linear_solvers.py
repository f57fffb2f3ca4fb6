"""Conjugate gradients and the Neumann series against dense matrices."""

import math
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import pytest
import torch

from mlcourse.errors import CourseError
from mlcourse.meta_gradients.linear_solvers import (
    conjugate_gradient,
    dot,
    neumann,
    neumann_terms,
    truncated_conjugate_gradient,
)

F64 = torch.float64


def spd(n, condition, seed):
    """A symmetric positive definite n × n matrix with eigenvalues from 1/condition to 1, evenly spaced in the log."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=F64))
    values = torch.logspace(-math.log10(condition), 0, n, dtype=F64) if n > 1 else torch.ones(1, dtype=F64)
    return q * values @ q.T, torch.randn(n, generator=generator, dtype=F64)


def residual_by_the_new_size(product, b, *, iterations):
    """A plausible mistake: the residual is updated before α is, so by the α of the step before."""
    v, residual, direction, size = torch.zeros_like(b), b, b, torch.zeros(1, dtype=b.dtype)
    error = dot(b, b)
    for _ in range(iterations):
        image = product(direction)
        residual = residual - size * image
        size = error / dot(direction, image)
        v = v + size * direction
        error, before = dot(residual, residual), error
        direction = residual + error / before * direction
    return v


def ratio_of_the_first_residual(product, b, *, iterations):
    """A plausible mistake: β compares with the first residual, since the old error is never updated."""
    v, residual, direction = torch.zeros_like(b), b, b
    first = dot(b, b)
    for _ in range(iterations):
        image = product(direction)
        size = dot(residual, residual) / dot(direction, image)
        v, residual = v + size * direction, residual - size * image
        direction = residual + dot(residual, residual) / first * direction
    return v


def direction_without_memory(product, b, *, iterations):
    """A plausible mistake: the new direction is the residual alone, which is steepest descent."""
    v, residual = torch.zeros_like(b), b
    for _ in range(iterations):
        image = product(residual)
        size = dot(residual, residual) / dot(residual, image)
        v, residual = v + size * residual, residual - size * image
    return v


def worst_error(solver):
    """The largest relative error after n iterations over n ≤ 6, condition numbers up to 100 and four dampings."""
    worst = 0.0
    for n in range(1, 7):
        for condition in (2.0, 10.0, 100.0):  # different eigenvalues: n steps are needed
            for damping in (0.0, 1e-3, 0.1, 2.0):
                matrix, b = spd(n, condition, seed=n)
                system = matrix + damping * torch.eye(n, dtype=F64)
                expected = torch.linalg.inv(system) @ b
                got = solver(lambda p, system=system: system @ p, b, iterations=n)
                worst = max(worst, ((got - expected).norm() / expected.norm()).nan_to_num(math.inf).item())
    return worst


def test_conjugate_gradients_equal_the_dense_inverse_after_n_steps():
    assert worst_error(conjugate_gradient) < 1e-8
    matrix, b = spd(6, 1.0, seed=6)  # one step is enough, the others must not divide by the residual that is gone
    got = conjugate_gradient(matrix.matmul, b, iterations=6)
    torch.testing.assert_close(got, torch.linalg.solve(matrix, b), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("wrong", [residual_by_the_new_size, ratio_of_the_first_residual, direction_without_memory])
def test_the_same_test_fails_wrong_recurrences(wrong):
    assert 0.1 < worst_error(wrong) < math.inf


def test_each_row_is_a_system_of_its_own():
    matrices, b = zip(*(spd(5, condition, seed=3) for condition in (2.0, 50.0, 100.0)), strict=True)
    matrices, b = torch.stack(matrices), torch.stack(b)
    b[1] = 0  # a system that is solved from the start must not spoil its neighbours

    def product(p):
        return torch.einsum("tij,tj->ti", matrices, p)

    got = conjugate_gradient(product, b, iterations=12)  # more than needed: solved systems stay solved
    torch.testing.assert_close(got, torch.linalg.solve(matrices, b), rtol=1e-8, atol=1e-10)
    for row in range(3):
        alone = conjugate_gradient(lambda p, row=row: matrices[row] @ p, b[row], iterations=12)
        torch.testing.assert_close(got[row], alone, rtol=1e-9, atol=1e-12)
    series = neumann(product, b, terms=7, rate=0.5)
    alone = neumann(lambda p: matrices[2] @ p, b[2], terms=7, rate=0.5)
    torch.testing.assert_close(series[2], alone, rtol=1e-13, atol=0)


@contextmanager
def allow_only(words):
    """The block may raise a CourseError, if it says these words."""
    found = None
    try:
        yield
    except CourseError as error:
        found = str(error)
    assert found is None or words in found


@pytest.mark.parametrize("start", [[0.1, 1.0], [1.0, 2.0], [1.0, 0.9], [1.0, 0.5], [0.0, 1.0]])
def test_an_indefinite_matrix_is_refused_or_solved_but_never_0(start):
    b = torch.tensor(start, dtype=F64)
    for values in ([1.0, -2.0], [1.0, 0.0], [-1.0, -2.0], [1.0, -1e-6]):
        values = torch.tensor(values, dtype=F64)
        with allow_only("curvature"):
            v = conjugate_gradient(lambda p, values=values: values * p, b, iterations=9)
            torch.testing.assert_close(values * v, b, rtol=1e-7, atol=1e-9)  # solved all the same
    one_bad = torch.tensor([[1.0, 2.0], [1.0, -2.0]], dtype=F64)  # a row is enough
    with pytest.raises(CourseError, match="curvature"):
        conjugate_gradient(lambda p: one_bad * p, torch.stack([b, torch.tensor([0.1, 1.0], dtype=F64)]), iterations=2)


def test_truncated_conjugate_gradients_stop_where_they_stand_and_say_so():
    values, b = torch.tensor([1.0, -2.0], dtype=F64), torch.tensor([[0.1, 1.0], [1.0, 0.5]], dtype=F64)
    v, curvature = truncated_conjugate_gradient(lambda p: values * p, b, iterations=9)
    assert not v[0].any()
    assert curvature[0].item() == pytest.approx((0.01 - 2) / 1.01)  # of b itself
    size = 1.25 / 0.5
    torch.testing.assert_close(v[1], size * b[1])  # one step along b, then p has no positive curvature
    assert curvature[1].item() < 0
    matrix, b = spd(5, 10.0, seed=0)
    v, curvature = truncated_conjugate_gradient(matrix.matmul, b, iterations=5)
    assert torch.equal(v, conjugate_gradient(matrix.matmul, b, iterations=5))
    assert 0.1 <= curvature.item() <= 1
    assert truncated_conjugate_gradient(matrix.matmul, 0 * b, iterations=5)[1].item() == math.inf


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("solve", [partial(conjugate_gradient, iterations=3), partial(neumann, terms=3, rate=0.5)])
@pytest.mark.parametrize(
    ("product", "b"),
    [
        (lambda p: p * NAN, [1.0, 1.0, 1.0]),
        (lambda p: p * INF, [1.0, 1.0, 1.0]),
        (lambda p: -INF * p, [1.0, 1.0, 1.0]),
        (lambda p: p, [1.0, NAN, 1.0]),
        (lambda p: p, [1.0, INF, 1.0]),
        (lambda p: torch.tensor([1.0, NAN, 1.0], dtype=F64) * p, [1.0, 0.0, 1.0]),
    ],
)
def test_what_is_not_finite_is_an_error_and_not_0(solve, product, b):
    with pytest.raises(CourseError, match="is not finite"):
        solve(product, torch.tensor(b, dtype=F64))


@pytest.mark.parametrize("size", [1e-40, 1e-30, 1e-15, 1e15, 1e30])
def test_a_right_hand_side_whose_square_is_0_or_infinite_is_solved_to_the_bit(size):
    matrix, b = (part.float() for part in spd(6, 10.0, seed=2))
    power = 2.0 ** round(math.log2(size))
    right = conjugate_gradient(matrix.matmul, b, iterations=6) * power
    got = conjugate_gradient(matrix.matmul, b * power, iterations=6)
    if size < 1e-38:  # numbers there have fewer digits
        torch.testing.assert_close(got, right, rtol=1e-3, atol=1e-43)
    else:
        assert torch.equal(got, right)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("condition", [1.0, 10.0, 1e3])
def test_more_iterations_than_needed_never_look_like_a_bad_matrix(condition, dtype):
    """After the solution the residual is rounding, and its curvature may have any sign."""
    for seed in range(10):
        matrix, b = spd(8, condition, seed)
        matrix, b = matrix.to(dtype), b.to(dtype)
        for iterations in (8, 30, 100):
            v = conjugate_gradient(matrix.matmul, b, iterations=iterations)
            if iterations > 8:  # rounding costs conjugate directions, so n of them are not always enough
                assert (matrix @ v - b).norm() < 1e2 * torch.finfo(dtype).eps * condition * b.norm()


def test_a_flat_direction_that_b_does_not_ask_for_is_no_error():
    """Softmax knows no common shift of its logits: such a Hessian is singular, and b has nothing there."""
    centred = torch.eye(4, dtype=F64) - 0.25
    b = torch.tensor([1.0, -2.0, 0.5, 0.5], dtype=F64)
    v = conjugate_gradient(lambda p: centred @ p, b, iterations=10)
    torch.testing.assert_close(centred @ v, b, rtol=1e-12, atol=1e-14)
    with pytest.raises(CourseError, match="curvature"):  # here it has
        conjugate_gradient(lambda p: centred @ p, b + 1, iterations=10)


def test_a_neumann_series_that_runs_away_says_at_which_rate():
    values, b = torch.linspace(0.1, 1.0, 10, dtype=F64), torch.ones(10, dtype=F64)
    with pytest.raises(CourseError, match=r"with rate 2\.1 it runs away"):
        neumann(lambda p: values * p, b, terms=40, rate=2.1)
    for rate in (0.5, 1.0, 1.8, 1.999):
        assert neumann(lambda p: values * p, b, terms=40, rate=rate).isfinite().all()
    saddle, b2 = torch.tensor([1.0, -2.0], dtype=F64), torch.tensor([1.0, 1e-3], dtype=F64)
    with pytest.raises(CourseError, match="add damping"):  # also a matrix that is not positive definite
        neumann(lambda p: saddle * p, b2, terms=9, rate=0.9)
    sums = 2.1 * sum(neumann_terms(lambda p: values * p, b, terms=40, rate=2.1))  # as it is, to show it
    torch.testing.assert_close(sums, (1 - (1 - 2.1 * values) ** 40) / values, rtol=1e-9, atol=0)
    matrix, b = spd(6, 10.0, seed=0)  # at the edge, and long after the terms are rounding
    neumann(matrix.matmul, b, terms=2000, rate=2.0)
    neumann(matrix.float().matmul, b.float(), terms=2000, rate=1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda b: conjugate_gradient(lambda p: p, b, iterations=2, tolerance=-0.1), r"tolerance is -0\.1"),
        (lambda b: conjugate_gradient(lambda p: p, b, iterations=2, tolerance=NAN), "tolerance is nan"),
        (lambda b: neumann(lambda p: p, b, terms=2, rate=-0.1), r"rate is -0\.1"),
        (lambda b: neumann(lambda p: p, b, terms=2, rate=0.0), r"rate is 0\.0"),
        (lambda b: neumann(lambda p: p, b, terms=2, rate=NAN), "rate is nan"),
    ],
)
def test_numbers_out_of_range_are_refused(call, words):
    with pytest.raises(CourseError, match=words):
        call(torch.ones(2))


def test_the_tolerance_stops_early():
    matrix, b = spd(6, 100.0, seed=0)
    calls = []

    def product(p):
        calls.append(1)
        return matrix @ p

    v = conjugate_gradient(product, b, iterations=50, tolerance=0.3)
    assert (b - matrix @ v).norm() <= 0.3 * b.norm()
    assert len(calls) < 6


@pytest.mark.parametrize("terms", [0, 1, 2, 7])
def test_the_neumann_series_is_its_truncation_formula(terms):
    matrix, b = spd(5, 20.0, seed=1)
    shrink = torch.eye(5, dtype=F64) - 0.7 * matrix
    expected = 0.7 * sum((torch.linalg.matrix_power(shrink, k) @ b for k in range(terms)), torch.zeros(5, dtype=F64))
    got = neumann(lambda p: matrix @ p, b, terms=terms, rate=0.7)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
    inverse = torch.linalg.solve(matrix, b)
    torch.testing.assert_close(inverse - got, torch.linalg.matrix_power(shrink, terms) @ inverse, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rate", [0.5, 1.0, 1.5])
def test_the_error_of_the_neumann_series_falls_as_theory_says(rate):
    for seed in range(3):
        matrix, _ = spd(6, 6.0, seed)
        b = torch.linalg.eigh(matrix)[1].sum(1)  # a part of each eigenvector, also of the one that falls most slowly
        exact = torch.linalg.solve(matrix, b)
        series = [neumann(matrix.matmul, b, terms=k, rate=rate) for k in range(1, 51)]
        errors = [(v - exact).norm().log() for v in series]
        slope = (errors[49] - errors[24]).item() / 25
        theory = math.log((1 - rate * torch.linalg.eigvalsh(matrix)).abs().max().item())
        assert slope == pytest.approx(theory, rel=0.05)


def test_negative_counts_are_refused():
    b = torch.ones(2)
    with pytest.raises(CourseError, match="iterations is -1"):
        conjugate_gradient(lambda p: p, b, iterations=-1)
    with pytest.raises(CourseError, match="terms is -2"):
        neumann(lambda p: p, b, terms=-2, rate=0.1)
    assert not conjugate_gradient(lambda p: p, b, iterations=0).any()


# ------------------------------------------------------------------ slightly negative curvature


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    ("values", "b"),
    [
        ([1.0, -1e-3], [1.0, 3e-4]),
        ([1.0, -1e-3], [1.0, 1e-4]),
        ([1.0, -0.5], [1.0, 1e-4]),
        ([1e3, -1.0], [1e3, 0.3]),
        ([1.0, 0.5, -1e-2], [1.0, 1.0, 2e-4]),
        ([1.0, -1e-4], [1.0, 1e-2]),
    ],
)
def test_a_slightly_negative_curvature_is_an_error(values, b, dtype):
    values, b = torch.tensor(values, dtype=dtype), torch.tensor(b, dtype=dtype)
    for scale in (1.0, 2.0**-20, 2.0**20):
        with pytest.raises(CourseError, match="curvature -"):
            conjugate_gradient(lambda p: values * p, scale * b, iterations=9)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("rank", [3, 8, 20])
def test_rounding_in_a_singular_matrix_is_no_negative_curvature(rank, dtype):
    """A is positive semidefinite, and b lies in its range: the solution exists, and what is left is rounding."""
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        for n, spread in ((20, 1.0), (60, 3.0)):
            half = torch.randn(n, rank, generator=generator, dtype=F64) * torch.logspace(
                0, -spread / 2, rank, dtype=F64
            )
            matrix = (half @ half.T).to(dtype)
            b = (half @ (half.T @ torch.randn(n, generator=generator, dtype=F64))).to(dtype)
            for iterations in (rank, rank + 3, 100):
                conjugate_gradient(matrix.matmul, b, iterations=iterations)
            sizes = torch.logspace(0, -spread, n, dtype=dtype)  # nearly flat, and positive
            conjugate_gradient(lambda p, sizes=sizes: sizes * p, b, iterations=200)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_semidefinite_matrix_whose_range_holds_b_is_no_breakdown(dtype):
    """Once the system is solved, what rounding leaves has a curvature of nearly 0, which is no fault of A."""
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(60, 15, generator=generator, dtype=dtype)
        matrix = x @ x.T
        b = matrix @ torch.randn(60, generator=generator, dtype=dtype)
        v = conjugate_gradient(matrix.matmul, b, iterations=60)
        assert (matrix @ v - b).norm() < 1e-2 * b.norm()


def with_rounding(product, times, top, dtype):
    """A product whose rounding is `times` as large as that of the number format, as through a deep network."""
    generator = torch.Generator().manual_seed(0)

    def noisy(p):
        noise = torch.randn(p.shape, generator=generator, dtype=dtype)
        return product(p) + times * torch.finfo(dtype).eps * top * p.norm() * noise / noise.norm()

    return noisy


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("times", [0, 3, 30])
@pytest.mark.parametrize(("n", "rank", "spread"), [(60, 15, 0.0), (60, 15, 2.0), (500, 30, 2.0)])
def test_after_the_solution_nothing_drifts_into_the_kernel(n, rank, spread, times, dtype):
    """A is semidefinite: v may move along its kernel at no cost, and did, up to a tenth of v in float64."""
    generator = torch.Generator().manual_seed(1)
    half = torch.randn(n, rank, generator=generator, dtype=F64) * torch.logspace(0, -spread / 2, rank, dtype=F64)
    b = half @ (half.T @ torch.randn(n, generator=generator, dtype=F64))
    expected = torch.linalg.pinv(half @ half.T, hermitian=True, rtol=1e-10) @ b
    values = torch.linalg.eigvalsh(half.T @ half)
    condition, matrix = (values[-1] / values[0]).item(), (half @ half.T).to(dtype)
    product = with_rounding(matrix.matmul, times, values[-1].item(), dtype)
    bound = 20 * (10 + times) * condition * torch.finfo(dtype).eps
    for iterations in (2 * rank + 5, 60, 100, 300):
        v = truncated_conjugate_gradient(product, b.to(dtype), iterations=iterations)[0].double()
        assert (v - expected).norm() <= bound * expected.norm(), iterations


def test_an_iterate_before_the_solution_is_the_one_that_was_asked_for():
    """Its residual may be larger than that of an earlier one: it is nearer to the solution all the same."""
    matrix, b = spd(12, 1e3, seed=1)
    basis, residuals = b.unsqueeze(1) / b.norm(), []
    for k in range(1, 10):
        v = conjugate_gradient(matrix.matmul, b, iterations=k)
        best = basis @ torch.linalg.solve(basis.T @ matrix @ basis, basis.T @ b)  # in the norm of A, of this space
        torch.testing.assert_close(v, best, rtol=1e-6, atol=1e-6)
        residuals.append((b - matrix @ v).norm().item())
        basis = torch.linalg.qr(torch.cat([basis, matrix @ basis[:, -1:]], 1))[0]
    assert any(after > before for before, after in pairwise(residuals))


@pytest.mark.parametrize("solve", [partial(conjugate_gradient, iterations=3), partial(neumann, terms=3, rate=0.5)])
def test_a_product_of_another_shape_is_refused(solve):
    """PyTorch would broadcast one number to all coordinates, and solve another system."""
    with pytest.raises(CourseError, match=r"product gives \(1,\) for a p of \(3,\); give A p in p's shape"):
        solve(lambda p: p[:1], torch.ones(3))


@pytest.mark.parametrize("b", [torch.ones(0), torch.ones(0, 3, 0), torch.tensor([3, 1]), torch.tensor(1.0)])
def test_a_right_hand_side_without_numbers_is_refused(b):
    with pytest.raises(CourseError, match=r"give numbers \[..., n\]"):
        conjugate_gradient(lambda p: 2 * p, b, iterations=3)


def test_half_an_iteration_is_refused():
    with pytest.raises(CourseError, match=r"iterations is 2\.5; give a whole number, 0 or more"):
        conjugate_gradient(lambda p: 2 * p, torch.ones(2), iterations=2.5)


def test_a_badly_conditioned_system_loses_no_digits_that_it_can_have():
    """float32, condition 100,000, solved to 2e-3 of v: a stop at 16 times the rounding would leave up to 2e-2."""
    torch.manual_seed(0)
    for _ in range(40):
        basis = torch.linalg.qr(torch.randn(15, 15, dtype=torch.float64))[0]
        matrix = basis * torch.logspace(0, -5, 15, dtype=torch.float64) @ basis.T
        b = torch.randn(15, dtype=torch.float64)
        right = torch.linalg.solve(matrix, b)
        single = matrix.float()
        v = conjugate_gradient(lambda p, single=single: p @ single, b.float(), iterations=100)
        assert (v.double() - right).norm() <= 3e-3 * right.norm()


@pytest.mark.parametrize("b", [torch.ones(3, dtype=torch.int64), torch.tensor(1.0), torch.zeros(0)])
def test_every_solver_wants_vectors_of_real_numbers(b):
    for solve in (
        lambda: conjugate_gradient(lambda p: p, b, iterations=2),
        lambda: neumann(lambda p: p, b, terms=2, rate=0.5),
        lambda: next(neumann_terms(lambda p: p, b, terms=2, rate=0.5)),
    ):
        with pytest.raises(CourseError, match=r"give numbers \[\.\.\., n\] in float32 or float64"):
            solve()
