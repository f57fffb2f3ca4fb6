"""The checks of notebook 09 against right answers written differently, and against mistakes that learners make."""

import itertools
import math

import pytest
import torch
from check_helpers import SEEDS, assert_check
from torch.func import grad

from mlcourse.lessons.searching import checks, noisy_quadratic
from mlcourse.meta_optimization import search
from mlcourse.teaching.checks import Check


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


# ------------------------------------------------------------------ 09.1 the hypergradient of a rate


def rate_by_sum(inner_gradient, outer_gradient, phi, rate):
    after = phi - rate * inner_gradient(phi)
    return -sum(a * b for a, b in zip(outer_gradient(after), inner_gradient(phi)))


def rate_float32(inner_gradient, outer_gradient, phi, rate):
    step = inner_gradient(phi.float())
    return -torch.dot(outer_gradient(phi.float() - rate * step), step)


def rate_by_autograd(inner_gradient, outer_gradient, phi, rate):
    alpha = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
    after = phi - alpha * inner_gradient(phi)
    after.backward(outer_gradient(after.detach()))
    return alpha.grad


def rate_variant(change):
    def rate_with_a_mistake(inner_gradient, outer_gradient, phi, rate):
        return change(inner_gradient, outer_gradient, phi, phi - rate * inner_gradient(phi), rate)

    return rate_with_a_mistake


def test_rate_hypergradient():
    def cosine(i, o, p, q, a):
        return -o(q) @ i(p) / (o(q).norm() * i(p).norm())

    assert_check(
        checks.rate_hypergradient,
        right=[rate_by_sum, rate_float32, rate_by_autograd],
        wrong={
            "sign": (rate_variant(lambda i, o, p, q, a: o(q) @ i(p)), "Sign: when the rate grows"),
            "outer at φ": (rate_variant(lambda i, o, p, q, a: -o(p) @ i(p)), "The outer gradient is taken at φ."),
            "inner at φ′": (rate_variant(lambda i, o, p, q, a: -o(q) @ i(q)), "The inner gradient is taken at φ′"),
            "times α": (rate_variant(lambda i, o, p, q, a: -a * o(q) @ i(p)), "a factor α too much"),
            "slope alone": (rate_variant(lambda i, o, p, q, a: o(q).sum()), "the outer loss's own slope"),
            "lengths": (rate_variant(lambda i, o, p, q, a: -o(q).norm() * i(p).norm()), "need not be parallel"),
            "cosine": (rate_variant(cosine), "This is a cosine"),
            "mean": (rate_variant(lambda i, o, p, q, a: -(o(q) * i(p)).mean()), "the mean of the products"),
            "not summed": (rate_variant(lambda i, o, p, q, a: -o(q) * i(p)), "has shape"),
            "doubled": (rate_variant(lambda i, o, p, q, a: -2 * o(q) @ i(p)), "Write φ′ first"),
        },
    )


def test_the_slopes_of_the_problems_are_gradients():
    for seed in SEEDS:
        given = checks.rate_inputs(4)(torch.Generator().manual_seed(seed))
        for part in ("inner", "outer"):
            slope = grad(checks.valley(given, part))(given["phi"])
            torch.testing.assert_close(checks.slope_of(given, part)(given["phi"]), slope)


# ------------------------------------------------------------------ 09.2 best so far, at equal cost


def best_by_bisect(values, costs, grid):
    spent, best = costs.cumsum(0), values.cummin(0).values
    place = torch.searchsorted(spent, grid, right=True)
    return torch.cat([torch.tensor([math.inf], dtype=values.dtype), best])[place]


def best_float32(values, costs, grid):
    return best_by_bisect(values.float(), costs.float(), grid.float())


def best_by_package(values, costs, grid):
    curve = search.best_so_far(values.tolist(), costs.tolist())
    return torch.tensor(search.at_costs(*curve, grid.tolist()), dtype=torch.float64)


def best_slip(slip):
    def best_with_a_mistake(values, costs, grid):
        return checks.by_loop(values, costs, grid, slip=slip)

    return best_with_a_mistake


def best_curve_only(values, costs, grid):
    return torch.tensor(list(itertools.accumulate(values.tolist(), min)), dtype=torch.float64)


def best_with_nan(values, costs, grid):
    return torch.where(costs.cumsum(0) <= grid[:, None], values, torch.nan).min(1).values


def best_by_place(values, costs, grid):
    return torch.stack([values[: row + 1].min() for row in range(len(grid))])


def best_doubled(values, costs, grid):
    return 2 * best_by_bisect(values, costs, grid)


def test_best_at():
    words = dict(zip(checks.BEST_SLIPS.values(), checks.BEST_SLIPS))
    wrong = {slip: (best_slip(slip), said[:75]) for slip, said in words.items()}
    assert_check(
        checks.best_at,
        right=[best_by_bisect, best_float32, best_by_package],
        wrong=wrong
        | {
            "nan where nothing ended": (best_with_nan, "Your curve is nan or"),
            "as long as the trials": (best_curve_only, "has shape"),
            "doubled": (best_doubled, "The trials ended at"),
        },
    )


# ------------------------------------------------------------------ 09.3 the hypergradient of example weights


def weights_by_loop(example_gradients, validation_gradient, phi, weights, rate):
    after = phi - rate * sum(w * g for w, g in zip(weights, example_gradients))
    return torch.stack([-rate * g @ validation_gradient(after) for g in example_gradients])


def weights_by_autograd(example_gradients, validation_gradient, phi, weights, rate):
    weights = weights.clone().requires_grad_()
    after = phi - rate * torch.einsum("i,ij->j", weights, example_gradients)
    return torch.autograd.grad(after, weights, validation_gradient(after.detach()))[0]


def weights_float32(example_gradients, validation_gradient, phi, weights, rate):
    return weights_by_loop(example_gradients.float(), validation_gradient, phi.float(), weights.float(), rate)


def weights_variant(change):
    def weights_with_a_mistake(example_gradients, validation_gradient, phi, weights, rate):
        after = phi - rate * weights @ example_gradients
        return change(example_gradients, validation_gradient, phi, after, weights, rate)

    return weights_with_a_mistake


def test_weight_hypergradient():
    def cosines(G, v, p, q, w, a):
        return -(G @ v(q)) / (G.norm(dim=1) * v(q).norm())

    variants = {
        "sign": (lambda G, v, p, q, w, a: a * G @ v(q), "Sign: an example"),
        "at φ": (lambda G, v, p, q, w, a: -a * G @ v(p), "The validation gradient is taken at φ."),
        "no α": (lambda G, v, p, q, w, a: -G @ v(q), "The factor α is missing"),
        "no weights": (lambda G, v, p, q, w, a: -a * G @ v(p - a * G.sum(0)), "forgets the weights"),
        "times w": (lambda G, v, p, q, w, a: -a * w * (G @ v(q)), "a factor w_i too much"),
        "mean": (lambda G, v, p, q, w, a: -a * G @ v(q) / len(w), "You divide by the number"),
        "mean step": (lambda G, v, p, q, w, a: -a * G @ v(p - a * w @ G / len(w)), "takes the mean over the examples"),
        "cosines": (cosines, "These are cosines"),
        "one number": (lambda G, v, p, q, w, a: (-a * G @ v(q)).sum().expand(len(w)).clone(), "one number for all"),
        "shape": (lambda G, v, p, q, w, a: -a * G * v(q), "has shape"),
        "doubled": (lambda G, v, p, q, w, a: -2 * a * G @ v(q), "Do φ′ first"),
    }
    assert_check(
        checks.weight_hypergradient,
        right=[weights_by_loop, weights_by_autograd],
        wrong={name: (weights_variant(change), said) for name, (change, said) in variants.items()}
        | {"float32": (weights_float32, "keep the number format")},
    )


# ------------------------------------------------------------------ 09.4 the noisy quadratic


def loss_by_package(curvature, start, noise, rate, steps):
    parts = (tuple(part.tolist()) for part in (curvature, start, noise))
    return torch.tensor(noisy_quadratic.NoisyQuadratic(*parts).expected_loss(rate, steps))


def loss_by_steps(curvature, start, noise, rate, steps):
    total = torch.zeros((), dtype=curvature.dtype)
    for h, m, s in zip(curvature, start, noise):
        v = 0.0
        for _ in range(steps):
            m, v = (1 - rate * h) * m, (1 - rate * h) ** 2 * v + (rate * h * s) ** 2
        total = total + 0.5 * h * (m**2 + v)
    return total


def loss_float32(curvature, start, noise, rate, steps):
    return loss_by_steps(curvature.float(), start.float(), noise.float(), rate, steps)


def loss_slip(slip):
    def loss_with_a_mistake(curvature, start, noise, rate, steps):
        given = {"curvature": curvature, "start": start, "noise": noise, "rate": rate, "steps": steps}
        return checks.step_by_step(given, slip)

    return loss_with_a_mistake


def loss_each(curvature, start, noise, rate, steps):
    return curvature * start


def loss_one_step_more(curvature, start, noise, rate, steps):
    return loss_by_steps(curvature, start, noise, rate, steps + 1)


def test_expected_loss():
    words = dict(zip(checks.QUADRATIC_SLIPS.values(), checks.QUADRATIC_SLIPS))
    assert_check(
        checks.expected_loss,
        right=[loss_by_package, loss_by_steps, loss_float32],
        wrong={slip: (loss_slip(slip), said[:40]) for slip, said in words.items()}
        | {"each": (loss_each, "has shape"), "one more": (loss_one_step_more, "by hand")},
    )


# ------------------------------------------------------------------ all of them


def test_one_trial_a_place_is_named_on_every_problem():
    for name, make in checks.best_at.inputs.items():
        for seed in range(50):
            given = make(torch.Generator().manual_seed(seed))
            said = checks.best_at.judge(given, {"best": best_by_place(**given)})
            assert said is not None, name
            assert said.startswith("The first place of your curve"), (name, seed)


def test_the_best_of_all_trials_is_no_curve():
    def best_of_all(values, costs, grid):
        return values.min().expand(len(grid)).clone()

    assert "have not ended yet" in checks.best_at.run(best_of_all).diagnosis


def test_references_pass_many_problems():
    for check in vars(checks).values():
        if isinstance(check, Check):
            for seed in range(5, 25):
                assert check.run(check.reference, seed=seed).passed


def test_a_list_is_refused_as_the_lesson_would():
    said = checks.best_at.run(lambda *parts: checks.best_at.reference(*parts).tolist()).diagnosis
    assert "it needs one tensor" in said


def test_a_step_in_place_is_found_though_the_number_is_right():
    def my_rate(inner_gradient, outer_gradient, phi, rate):
        g = inner_gradient(phi)
        phi -= rate * g
        return -(outer_gradient(phi) @ g)

    assert "changes its input (phi) in place" in checks.rate_hypergradient.run(my_rate).diagnosis
