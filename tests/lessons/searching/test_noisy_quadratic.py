"""The noisy quadratic: the closed form against simulation and by hand, and the bias of a short horizon."""

import numpy as np
import pytest
import torch

from mlcourse.errors import CourseError
from mlcourse.lessons.searching.noisy_quadratic import STEEP_AND_FLAT, NoisyQuadratic


def test_one_step_by_hand():
    one = NoisyQuadratic(curvature=(2.0,), start=(3.0,), noise=(0.5,))
    assert one.expected_loss(0.25, 1) == pytest.approx(0.5 * 2 * ((0.5 * 3) ** 2 + (0.25 * 2 * 0.5) ** 2))
    assert one.expected_loss(0.25, 0) == pytest.approx(9.0)


@pytest.mark.parametrize(("rate", "steps"), [(0.5, 1), (0.5, 7), (1.7, 30), (0.02, 50)])
def test_simulated_runs_have_the_mean_of_the_closed_form(rate, steps):
    problem = NoisyQuadratic(curvature=(1.0, 0.2), start=(0.3, 2.0), noise=(1.0, 2.0))
    runs = problem.simulate(rate, steps, 40_000, torch.Generator().manual_seed(1))
    error = runs.std().item() / len(runs) ** 0.5
    assert error < 0.01 * runs.mean()
    assert abs(runs.mean().item() - problem.expected_loss(rate, steps)) < 4 * error


def test_arrays_broadcast():
    rates, steps = STEEP_AND_FLAT.rates(count=5), np.arange(4)[:, None]
    table = STEEP_AND_FLAT.expected_loss(rates, steps)
    assert table.shape == (4, 5)
    assert table[2, 3] == STEEP_AND_FLAT.expected_loss(rates[3], 2)


def test_a_short_horizon_prefers_too_small_a_rate():
    chosen = [STEEP_AND_FLAT.best_rate(steps) for steps in (1, 5, 20, 100, 200)]
    assert chosen[0] <= chosen[1] <= chosen[2] < chosen[4]
    assert chosen[4] > 20 * chosen[2]
    at_last = STEEP_AND_FLAT.expected_loss(np.array(chosen), 200)
    assert at_last[0] > 2 * at_last[4]
    # by hand: at T = 1 the loss is a parabola in α with its lowest point at Σ h²m² / Σ h³(m² + σ²)
    h, m, s = (np.array(part) for part in (STEEP_AND_FLAT.curvature, STEEP_AND_FLAT.start, STEEP_AND_FLAT.noise))
    assert chosen[0] == pytest.approx((h**2 * m**2).sum() / (h**3 * (m**2 + s**2)).sum(), rel=0.02)
    # without noise nothing holds a short horizon back
    calm = NoisyQuadratic(STEEP_AND_FLAT.curvature, STEEP_AND_FLAT.start, (0.0, 0.0))
    assert calm.best_rate(1) == calm.best_rate(200) == pytest.approx(0.95 * 2)


def test_what_it_refuses():
    with pytest.raises(CourseError, match="one curvature, start and noise"):
        NoisyQuadratic((1.0, 2.0), (1.0,), (1.0, 1.0))
    with pytest.raises(CourseError, match="above 0"):
        NoisyQuadratic((0.0,), (1.0,), (1.0,))
    with pytest.raises(CourseError, match="outside 0 to 2"):
        STEEP_AND_FLAT.expected_loss(2.0, 5)
