"""The pictures of notebook 08: what they say is true, they follow their values, and they are fast enough to drag."""

import numpy as np
import pytest
import torch
from picture_helpers import assert_follows

from mlcourse.lessons.implicit import pictures
from mlcourse.meta_gradients import linear_solvers
from mlcourse.teaching import figures

PICTURES = {
    "optimum": [(0.2,), (0.05,), (1.0,)],
    "solver": [(1, 10.0, 0.0), (2, 10.0, 0.0), (12, 50.0, 0.3), (0, 1.0, 0.0), (3, 1.0, 1.0)],
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_follows_its_controls(name):
    assert_follows(getattr(pictures, name), getattr(pictures, f"{name}_text"), PICTURES[name])


def test_the_optimum_is_one_and_its_slope_is_the_difference():
    for decay in (0.05, 0.3, 1.0):
        phi = pictures.best_weight(decay)
        around = pictures.decayed_loss(np.array([phi - 1e-3, phi, phi + 1e-3]), decay)
        assert around.argmin() == 1
        h = 1e-5
        slope = (pictures.best_weight(decay + h) - pictures.best_weight(decay - h)) / (2 * h)
        assert pictures.best_weight_slope(decay) == pytest.approx(slope, rel=1e-7)


@pytest.mark.parametrize(("condition", "damping"), [(1.0, 0.0), (10.0, 0.0), (50.0, 0.3)])
def test_the_drawn_path_is_the_solver_of_the_package(condition, damping):
    matrix, b = pictures.system(condition, damping)
    points = pictures.path(matrix, b, 3, memory=True)
    a, right = torch.from_numpy(matrix), torch.from_numpy(b)
    for k in range(4):
        v = linear_solvers.conjugate_gradient(a.matmul, right, iterations=k)
        np.testing.assert_allclose(points[k], v.numpy(), atol=1e-10)
    np.testing.assert_allclose(points[2], np.linalg.solve(matrix, b), atol=1e-10)
    descent = pictures.path(matrix, b, 12, memory=False)
    heights = [0.5 * v @ matrix @ v - b @ v for v in descent]
    assert all(np.diff(heights) <= 1e-14)
    if condition == 10:
        assert np.linalg.norm(descent[2] - points[2]) > 0.1


def test_the_words_say_the_numbers():
    assert "slope -3.10" in pictures.optimum_text(0.2)
    assert "the log of the residual is -1" in pictures.solver_text(3, 10.0, 0.0)
    assert "is 0 % away" in pictures.solver(2, 10.0, 0.0)[1]


def test_curves_below_rounding_are_drawn_at_the_floor():
    _, ax = figures.subplots()
    series = {"unrolled": ([1, 2], [1.0, 0.1]), "conjugate gradients": ([1, 2], [1e-3, 0.0])}
    pictures.log_curves(ax, series, xlabel="products", ylabel="error")
    pictures.log_curves(ax, {"theory": ([1, 2], [1.0, 0.2])}, xlabel="products", ylabel="error", theory=True)
    assert ax.get_yscale() == "log"
    assert ax.lines[1].get_ydata()[1] == 1e-16
    assert [line.get_label() for line in ax.lines[:2]] == ["unrolled", "conjugate gradients"]
    assert ax.lines[2].get_linestyle() == "--"
    assert pictures.last_in_words(series) == "unrolled 1.0e-01, conjugate gradients 0.0e+00"


def test_pictures_of_results_and_their_words():
    errors = {"conjugate gradients": ([1, 2, 4], [1.0, 1e-3, 1e-15]), "unrolled": ([1, 2, 4], [1.0, 0.9, 0.8])}
    kept = {"conjugate gradients": ([4, 64], [16.0, 16.0]), "unrolled": ([4, 64], [40.0, 330.0])}
    found = {"linear head": errors, "Conv-4": errors}
    decay = {"η = 1.0": (range(1, 5), [0.5, 0.25, 0.125, 0.0625])}
    drawn = pictures.neumann_decay(decay, [0.5])
    curve, theory = drawn.axes[0].lines
    np.testing.assert_allclose(curve.get_ydata(), theory.get_ydata())
    all_drawn = [pictures.costs(errors, kept), pictures.agreement(found), drawn]
    all_drawn.append(pictures.ink(torch.rand(3, 28, 28), torch.rand(3, 49)))
    assert len({figures.png(fig) for fig in all_drawn}) == 4
    text = pictures.costs_text(errors, kept)
    assert "after 4 Hessian-vector products: conjugate gradients 1.0e-15, unrolled 8.0e-01" in text
    assert "at 64 inner steps: conjugate gradients 1.6e+01, unrolled 3.3e+02" in text
    assert "Conv-4, unrolled: 1.0e+00 at T = 1, 8.0e-01 at T = 4" in pictures.agreement_text(found)
