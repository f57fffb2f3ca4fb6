"""Hypergradients against closed forms, dense formulas and finite differences."""

from itertools import pairwise

import pytest
import torch

from mlcourse.errors import CourseError
from mlcourse.meta_gradients import hypergradients
from mlcourse.meta_gradients.hypergradients import Bilevel, exact, implicit_cg, implicit_neumann, truncated, unrolled
from mlcourse.teaching.oracles import gradient_error, relative_error

F64 = torch.float64


def ridge(seed=0, n=5):
    """Ridge regression, λ = the log of the penalty, and its hypergradient in closed form."""
    g = torch.Generator().manual_seed(seed)
    x, y, vx, vy = (torch.randn(*shape, generator=g, dtype=F64) for shape in ((12, n), (12,), (8, n), (8,)))
    problem = Bilevel(
        init=lambda lam: torch.zeros(n, dtype=F64),
        inner_loss=lambda w, lam: 0.5 * (x @ w - y).square().mean() + 0.5 * lam.exp() * w.square().sum(),
        outer_loss=lambda w, lam: 0.5 * (vx @ w - vy).square().mean(),
    )

    def closed_form(lam):
        hessian = x.T @ x / 12 + lam.exp() * torch.eye(n, dtype=F64)
        w = torch.linalg.solve(hessian, x.T @ y / 12)
        slope = vx.T @ (vx @ w - vy) / 8
        return w, hessian, -lam.exp() * w @ torch.linalg.solve(hessian, slope)

    return problem, closed_form


LAM = torch.tensor(-0.7, dtype=F64)


def test_every_estimator_meets_the_closed_form_of_ridge_regression():
    problem, closed_form = ridge()
    w, hessian, expected = closed_form(LAM)
    rate = 1 / torch.linalg.eigvalsh(hessian).max().item()
    estimates = {
        "exact": exact(problem, None, LAM),
        "exact at w": exact(problem, w, LAM, newton=0),
        "unrolled": unrolled(problem, None, LAM, steps=400, rate=rate),
        "truncated": truncated(problem, w, LAM, steps=400, last=300, rate=rate),
        "conjugate gradients": implicit_cg(problem, w, LAM, iterations=5),
        "Neumann": implicit_neumann(problem, w, LAM, terms=300, eta=rate),
        "descent, then conjugate gradients": implicit_cg(problem, None, LAM, iterations=5, steps=400, rate=rate),
    }
    value = problem.outer_loss(w, LAM)
    for name, (got_value, gradient) in estimates.items():
        assert gradient.shape == LAM.shape
        assert not gradient.requires_grad
        assert gradient.item() == pytest.approx(expected.item(), rel=1e-10), name
        assert got_value.item() == pytest.approx(value.item(), rel=1e-10), name


def test_the_bias_of_each_shortcut_is_its_formula():
    problem, closed_form = ridge()
    w, hessian, _ = closed_form(LAM)
    eye = torch.eye(5, dtype=F64)
    b = torch.autograd.grad(problem.outer_loss(w.requires_grad_(), LAM), w)[0]
    w = w.detach()
    cross = LAM.exp() * w  # ∂²L_inner/∂φ∂λ
    rate, gamma = 0.3 / torch.linalg.eigvalsh(hessian).max().item(), 0.2
    damped = implicit_cg(problem, w, LAM, iterations=5, damping=gamma)[1]
    torch.testing.assert_close(damped, -cross @ torch.linalg.solve(hessian + gamma * eye, b), rtol=1e-10, atol=0)
    torch.testing.assert_close(damped, exact(problem, w, LAM, damping=gamma)[1], rtol=1e-10, atol=0)
    for terms in (1, 4):
        shrink = eye - rate * hessian
        v = rate * sum(torch.linalg.matrix_power(shrink, k) @ b for k in range(terms))
        series = implicit_neumann(problem, w, LAM, terms=terms, eta=rate)[1]
        torch.testing.assert_close(series, -cross @ v, rtol=1e-12, atol=0)
        # at the optimum, K terms of the series are the last K steps of the descent
        steps = truncated(problem, w, LAM, steps=9, last=terms, rate=rate)[1]
        torch.testing.assert_close(series, steps, rtol=1e-10, atol=0)


def smooth_problem(seed=0):
    """Logistic regression with a weight for each example and a penalty: φ and λ are dictionaries, nothing is linear."""
    g = torch.Generator().manual_seed(seed)
    x, vx = (torch.randn(n, 3, generator=g, dtype=F64) for n in (10, 7))
    y, vy = (torch.randint(3, (n,), generator=g) for n in (10, 7))
    cross_entropy = torch.nn.functional.cross_entropy

    def inner_loss(phi, lam):
        losses = cross_entropy(x @ phi["w"] + phi["b"], y, reduction="none")
        size = phi["w"].square().sum() + phi["b"].square().sum()
        return (torch.sigmoid(lam["example"]) * losses).mean() + 0.5 * lam["penalty"].exp() * size

    def outer_loss(phi, lam):
        return cross_entropy(vx @ phi["w"] + phi["b"], vy) + 0.01 * lam["example"].square().sum()

    def init(lam):
        return {"w": torch.zeros(3, 3, dtype=F64), "b": torch.zeros(3, dtype=F64)}

    lam = {"example": torch.randn(10, generator=g, dtype=F64), "penalty": torch.tensor(-1.5, dtype=F64)}
    return Bilevel(init, inner_loss, outer_loss), lam


def split(flat):
    return {"example": flat[:10], "penalty": flat[10]}


def joined(lam):
    return torch.cat([value.flatten() for value in lam.values()])


def optimum(problem, lam):
    """argmin of the inner loss by Newton's method: by hand, so that no code of the estimators is in the oracle."""
    phi = torch.zeros(12, dtype=F64)

    def loss(flat):
        return problem.inner_loss({"w": flat[:9].view(3, 3), "b": flat[9:]}, lam)

    for _ in range(12):
        slope = torch.autograd.functional.jacobian(loss, phi)
        phi = phi - torch.linalg.solve(torch.autograd.functional.hessian(loss, phi), slope)
    return {"w": phi[:9].view(3, 3), "b": phi[9:]}


def test_exact_and_implicit_equal_richardson_differences_of_the_solved_problem():
    problem, lam = smooth_problem()

    def solved(flat):
        return problem.outer_loss(optimum(problem, split(flat)), split(flat))

    generator = torch.Generator().manual_seed(1)
    phi = optimum(problem, lam)
    for name, (value, gradient) in {
        "exact": exact(problem, None, lam),
        "conjugate gradients": implicit_cg(problem, phi, lam, iterations=12),
        "Neumann": implicit_neumann(problem, phi, lam, terms=400, eta=1.0),
    }.items():
        assert value.item() == pytest.approx(solved(joined(lam)).item(), rel=1e-12)
        assert set(gradient) == set(lam)
        assert gradient_error(solved, joined(lam), joined(gradient), generator) < 1e-8, name


@pytest.mark.parametrize("steps", [0, 1, 6])
def test_unrolled_equals_richardson_differences_of_the_descent(steps):
    problem, lam = smooth_problem()

    def descended(flat):
        phi = {name: value.requires_grad_() for name, value in problem.init(None).items()}
        for _ in range(steps):
            grads = torch.autograd.grad(problem.inner_loss(phi, split(flat)), list(phi.values()))
            phi = {n: (p - 0.8 * g).detach().requires_grad_() for (n, p), g in zip(phi.items(), grads, strict=True)}
        return problem.outer_loss(phi, split(flat))

    value, gradient = unrolled(problem, None, lam, steps=steps, rate=0.8)
    assert value.item() == pytest.approx(descended(joined(lam)).item(), rel=1e-12)
    assert gradient_error(descended, joined(lam), joined(gradient), torch.Generator().manual_seed(1)) < 1e-8


def test_truncation_goes_from_the_direct_term_to_the_whole():
    problem, lam = smooth_problem()
    whole = joined(unrolled(problem, None, lam, steps=6, rate=0.8)[1])
    errors = [
        relative_error(joined(truncated(problem, None, lam, steps=6, last=k, rate=0.8)[1]), whole) for k in range(7)
    ]
    assert errors[6] == 0
    assert all(a > b for a, b in pairwise(errors))
    direct = truncated(problem, None, lam, steps=6, last=0, rate=0.8)[1]
    torch.testing.assert_close(direct["example"], 0.02 * lam["example"], rtol=1e-12, atol=0)
    assert direct["penalty"] == 0


def test_a_start_that_is_lambda_itself_gets_mamls_gradient():
    problem = Bilevel(
        init=lambda lam: lam,
        inner_loss=lambda phi, lam: 2.0 * (phi - 1.0).square(),
        outer_loss=lambda phi, lam: 2.0 * (phi - 1.0).square(),
    )
    theta = torch.tensor(-0.3, dtype=F64)
    _, gradient = unrolled(problem, None, theta, steps=1, rate=0.2)
    assert gradient.item() == pytest.approx(4 * 0.2**2 * (-1.3), rel=1e-12)
    _, first_order = truncated(problem, None, theta, steps=1, last=0, rate=0.2)
    assert first_order.item() == pytest.approx(4 * 0.2 * (-1.3), rel=1e-12)
    assert unrolled(problem, theta, theta, steps=1, rate=0.2)[1] == 0  # a given start does not depend on λ


def test_the_hypergradient_works_under_no_grad_and_changes_nothing_that_came_in():
    problem, lam = smooth_problem()
    phi = optimum(problem, lam)
    before = joined(lam).clone(), joined(phi).clone()
    estimators = {
        "exact": {},
        "unrolled": {"steps": 2, "rate": 0.5},
        "truncated": {"steps": 2, "last": 1, "rate": 0.5},
        "implicit_cg": {},
        "implicit_neumann": {"eta": 0.5},
    }
    for name, options in estimators.items():
        estimator = getattr(hypergradients, name)
        with torch.no_grad():
            without = estimator(problem, phi, lam, **options)[1]
        torch.testing.assert_close(without, estimator(problem, phi, lam, **options)[1], rtol=1e-12, atol=0)
        assert not any(value.requires_grad for value in [*lam.values(), *phi.values()])
    assert torch.equal(joined(lam), before[0])
    assert torch.equal(joined(phi), before[1])


def test_single_precision_is_right_to_single_precision():
    problem, closed_form = ridge()
    expected = closed_form(LAM)[2]
    single = Bilevel(
        init=lambda lam: torch.zeros(5),
        inner_loss=lambda w, lam: problem.inner_loss(w.double(), lam.double()).float(),
        outer_loss=lambda w, lam: problem.outer_loss(w.double(), lam.double()).float(),
    )
    got = implicit_cg(single, None, LAM.float(), steps=300, rate=0.2, iterations=5)[1]
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_oracle_refuses_a_place_that_is_no_minimum():
    saddle = Bilevel(
        init=lambda lam: torch.ones(2, dtype=F64),
        inner_loss=lambda phi, lam: 0.5 * lam * (phi[0] ** 2 - phi[1] ** 2),
        outer_loss=lambda phi, lam: phi.sum(),
    )
    with pytest.raises(CourseError, match="not positive definite"):
        exact(saddle, None, torch.tensor(1.0, dtype=F64))
    slow = Bilevel(
        init=lambda lam: torch.tensor([3.0], dtype=F64),
        inner_loss=lambda phi, lam: (lam * phi.cosh()).sum(),
        outer_loss=lambda phi, lam: phi.sum(),
    )
    with pytest.raises(CourseError, match="2 Newton steps did not reach"):
        exact(slow, None, torch.tensor(1.0, dtype=F64), newton=2)
    with pytest.raises(CourseError, match="last is -1"):
        truncated(slow, None, torch.tensor(1.0, dtype=F64), steps=2, last=-1, rate=0.1)


# ------------------------------------------------------------------ what runs away, and what is out of range


def bowl(curvature, start=1.0):
    """A bowl with two curvatures around λ: descent runs away beyond a rate of 2 / (the larger one)."""
    curvature = torch.tensor(curvature, dtype=F64)
    return Bilevel(
        init=lambda lam: torch.full((2,), start, dtype=F64),
        inner_loss=lambda phi, lam: 0.5 * (curvature * (phi - lam) ** 2).sum(),
        outer_loss=lambda phi, lam: phi.square().sum(),
    )


HERE = torch.tensor(0.5, dtype=F64)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unrolled", {}),
        ("truncated", {"last": 1}),
        ("truncated", {"last": 0}),
        ("implicit_cg", {}),
        ("implicit_neumann", {"eta": 0.1}),
    ],
)
def test_a_descent_that_runs_away_names_its_rate(name, options):
    estimator = getattr(hypergradients, name)
    with pytest.raises(CourseError, match=r"after 2000 inner steps with rate 5; use a smaller rate or fewer steps"):
        estimator(bowl([1.0, 3.0]), None, HERE, steps=2000, rate=5.0, **options)
    value, gradient = estimator(bowl([1.0, 3.0]), None, HERE, steps=2000, rate=0.5, **options)
    assert value.isfinite()
    assert gradient.isfinite()


def test_an_indefinite_hessian_is_refused_and_never_0():
    saddle = bowl([1.0, -2.0])
    phi, b = torch.tensor([0.55, 1.0], dtype=F64), torch.tensor([0.1, 1.0], dtype=F64)
    problem = Bilevel(saddle.init, saddle.inner_loss, lambda phi, lam: b @ phi)
    for estimator, options, words in (
        (implicit_cg, {"iterations": 9}, "curvature -1.97"),
        (implicit_neumann, {"eta": 0.5, "terms": 9}, "runs away"),
        (exact, {"newton": 0}, "not positive definite"),
    ):
        with pytest.raises(CourseError, match=words):
            estimator(problem, phi, HERE, **options)
    stopped = implicit_cg(problem, phi, HERE, iterations=9, indefinite="stop")[1]
    assert stopped == 0  # as asked for
    damped = implicit_cg(problem, phi, HERE, iterations=9, damping=3.0)[1]  # H + 3 = diag(4, 1)
    torch.testing.assert_close(damped, torch.tensor(0.1 / 4 - 2 * 1.0, dtype=F64), rtol=1e-10, atol=0)
    with pytest.raises(CourseError, match="indefinite 'zero' is unknown"):
        implicit_cg(problem, phi, HERE, indefinite="zero")


@pytest.mark.parametrize("name", ["unrolled", "truncated", "implicit_cg", "implicit_neumann", "exact"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_losses_that_are_not_finite_are_an_error(name, bad):
    options = {
        "unrolled": {"steps": 2, "rate": 0.1},
        "truncated": {"steps": 2, "last": 1, "rate": 0.1},
        "implicit_neumann": {"eta": 0.1},
    }
    good = bowl([1.0, 3.0])
    for problem in (
        Bilevel(good.init, lambda phi, lam: bad * good.inner_loss(phi, lam), good.outer_loss),
        Bilevel(good.init, good.inner_loss, lambda phi, lam: bad * good.outer_loss(phi, lam)),
    ):
        with pytest.raises(CourseError, match=r"not finite|is nan|is inf|is -inf|not positive definite"):
            getattr(hypergradients, name)(problem, None, HERE, **options.get(name, {}))
    # a finite outer loss with a gradient that is not: a root at 0
    rooted = Bilevel(good.init, good.inner_loss, lambda phi, lam: (0 * phi).square().sum().sqrt() + phi.sum())
    with pytest.raises(CourseError, match="gradient is not finite"):
        getattr(hypergradients, name)(rooted, None, HERE, **options.get(name, {}))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("unrolled", {"steps": 2, "rate": -0.1}, r"rate is -0\.1"),
        ("unrolled", {"steps": 2, "rate": float("nan")}, "rate is nan"),
        ("unrolled", {"steps": -2, "rate": 0.1}, "steps is -2"),
        ("truncated", {"steps": 2, "last": 1, "rate": float("inf")}, "rate is inf"),
        ("truncated", {"steps": 2, "last": -1, "rate": 0.1}, "last is -1"),
        ("implicit_cg", {"damping": -0.1}, r"damping is -0\.1"),
        ("implicit_cg", {"damping": float("nan")}, "damping is nan"),
        ("implicit_cg", {"iterations": -1}, "iterations is -1"),
        ("implicit_cg", {"steps": 2, "rate": -1.0}, r"rate is -1\.0"),
        ("implicit_cg", {"steps": -2}, "steps is -2"),
        ("implicit_neumann", {"eta": 0.0}, r"eta is 0\.0"),
        ("implicit_neumann", {"eta": -0.5}, r"eta is -0\.5"),
        ("implicit_neumann", {"eta": float("nan")}, "eta is nan"),
        ("implicit_neumann", {"eta": 0.5, "terms": -1}, "terms is -1"),
        ("exact", {"damping": -1.0}, r"damping is -1\.0"),
        ("exact", {"newton": -1}, "newton is -1"),
    ],
)
def test_options_out_of_range_are_refused(name, options, words):
    with pytest.raises(CourseError, match=words):
        getattr(hypergradients, name)(bowl([1.0, 3.0]), None, HERE, **options)


def test_a_linear_inner_loss_has_no_optimum_and_a_linear_path():
    """Its Hessian is 0: a right value for descent, an error for the implicit ways."""
    line = Bilevel(
        lambda lam: torch.zeros(2, dtype=F64), lambda phi, lam: lam * phi.sum(), lambda phi, lam: phi.square().sum()
    )
    _, gradient = unrolled(line, None, HERE, steps=3, rate=0.1)  # φ = −0.3 λ
    torch.testing.assert_close(gradient, 2 * 2 * 0.09 * HERE, rtol=1e-12, atol=0)
    for estimator in (implicit_cg, exact):
        with pytest.raises(CourseError, match="not positive definite"):
            estimator(line, torch.ones(2, dtype=F64), HERE)
