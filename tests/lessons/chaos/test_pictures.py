"""The pictures of notebook 11: what they say is true, they follow their values, and they are fast enough to drag."""

import numpy as np
import pytest
import torch
from picture_helpers import assert_follows

from mlcourse.lessons.chaos import pictures
from mlcourse.meta_optimization import evolution
from mlcourse.teaching import figures

VALUES = [(50, 0.2, 1.5), (5, 0.05, -1.0), (100, 0.3, 0.4)]


def bowl(horizon):
    return evolution.Unroll(
        init=lambda lam, draw: torch.full_like(lam, pictures.START),
        step=lambda phi, lam, t: phi - lam.exp() * (0.1 * phi + phi.sin()),
        loss=lambda phi, lam, t: (0.05 * phi.square() + 1 - phi.cos()) / horizon,
        horizon=horizon,
    )


def test_the_drawn_loss_and_slope_are_those_of_the_package():
    for lam, horizon in ((-1.0, 10), (0.3, 20), (1.5, 6)):
        value, slope = evolution.exact(bowl(horizon), torch.tensor(lam, dtype=torch.float64))
        found = pictures.outer_loss(np.array([lam]), horizon)
        np.testing.assert_allclose([found[0][0], found[1][0]], [value.item(), slope.item()], rtol=1e-9)


def test_smoothing_is_that_of_a_parabola_and_a_wave():
    grid, sigma = np.arange(-3, 3.0005, 0.001), 0.2
    inner = grid[800:-800]
    value, slope = pictures.smoothed(grid**2, sigma, 0.001)
    np.testing.assert_allclose(value, inner**2 + sigma**2, atol=1e-4)
    np.testing.assert_allclose(slope, 2 * inner, atol=1e-2)
    value, slope = pictures.smoothed(np.sin(4 * grid), sigma, 0.001)
    fade = np.exp(-((4 * sigma) ** 2) / 2)
    np.testing.assert_allclose(value, fade * np.sin(4 * inner), atol=1e-3)
    np.testing.assert_allclose(slope, 4 * fade * np.cos(4 * inner), atol=1e-2)


def test_the_picture_follows_its_controls():
    assert_follows(pictures.jagged, pictures.jagged_text, VALUES)


@pytest.mark.parametrize("horizon", [1, 100])
def test_all_values_of_the_controls_can_be_drawn(horizon):
    for sigma in (0.02, pictures.LARGEST_SIGMA):
        for place in (pictures.LOW, pictures.HIGH):
            assert "nan" not in pictures.jagged(horizon, sigma, place)[1]


def test_the_words_count_the_teeth():
    """One step gives a curve with few minima; a hundred give a jagged one, and smoothing takes most teeth away."""
    found = []
    for horizon in (1, 100):
        words = pictures.jagged_text(horizon, 0.3, 1.5)
        found.append(
            [
                int(word)
                for word in (words.split(" local minima")[0].split()[-1], words.split("it has ")[1].split(".")[0])
            ]
        )
    (few, _), (many, smoothed) = found
    assert few < 10
    assert many > 10 * few
    assert smoothed < many / 10
    wave = np.sin(np.linspace(0, 20, 2001))
    assert "Local minima on the grid: 4 at T = 3." in pictures.horizons_text({3: (None, wave, wave)})


def test_the_smooth_side_agrees_and_the_jagged_side_does_not():
    assert pictures.jagged(100, 0.1, -1.0)[1].count("a larger rate") == 2
    text = pictures.jagged(100, 0.2, 1.5)[1]
    assert "e+" in text.partition(";")[0]
    assert text.endswith("asks for a smaller rate.")


def test_pictures_of_results_and_their_words():
    lam = np.linspace(-2, 2, 41)
    found = {10: (lam, lam**2, 2 * lam), 50: (lam, lam**2 + 1, 1e6 * lam)}
    panels = {"λ numbers": {"ES": ([1, 10], [0.5, 1.5], [0.5, 1.6])}, "σ": {"ES": ([0.1, 1], [2.0, 0.2], [2.0, 0.2])}}
    paths = {"ES": ([0, 1000, 2000], [1.7, 1.0, 0.1]), "PES": ([0, 1000, 2000], [1.7, 0.5, -0.1])}
    drawn = [
        pictures.horizons(found),
        pictures.spreads(panels),
        pictures.against_truth(["PES", "truncated ES"], [3500.0, -180.0], [40.0, 0.0], 3571.6),
        pictures.tuning(lam, lam**2, paths),
    ]
    assert len({figures.png(fig) for fig in drawn}) == 4
    assert "10^6 at T = 50" in pictures.horizons_text(found)
    assert "Local minima on the grid: 1 at T = 10, 1 at T = 50." in pictures.horizons_text(found)
    assert "σ from 0.1 to 1: 2 to 0.2, by the formula 2 to 0.2" in pictures.spreads_text(panels)
    assert "PES at -0.10 (loss 0.01)" in pictures.tuning_text(lam, lam**2, paths)


def test_no_arrow_is_cut_off():
    """Heads and markers, with their width, lie within the axes, wherever the place is."""
    for horizon, place in [(50, 1.5), (50, pictures.HIGH), (1, pictures.LOW), (100, 0.4), (100, pictures.HIGH)]:
        fig, _ = pictures.jagged(horizon, 0.2, place)
        left = fig.axes[0]
        (low, high), (bottom, top) = left.get_xlim(), left.get_ylim()
        drawn = [line for line in left.lines if line.get_marker() in ("<", ">", "s", "o") and len(line.get_xdata())]
        assert len(drawn) == 4
        for line in drawn:
            x, y = float(line.get_xdata()[0]), float(line.get_ydata()[0])
            assert low + 0.05 < x < high - 0.05, (horizon, place)
            assert bottom <= y <= top, (horizon, place)


@pytest.mark.parametrize("values", [(1.1, 1.9), (2.1, 4.9), (0.03, 0.04), (0.9, 70.0)])
def test_each_panel_of_spreads_has_two_tick_labels_or_more(values):
    fig = pictures.spreads({"n": {"ES": ([1, 10], values, values)}})
    figures.png(fig)
    low, high = fig.axes[0].get_ylim()
    ticks = [tick for tick in fig.axes[0].get_yticks() if low <= tick <= high]
    assert len(ticks) >= 2
    assert low <= min(values)
    assert high >= max(values)


def test_arrivals_say_where_the_descents_end():
    path = torch.tensor([[0.4, 0.6], [0.0, 0.2]], dtype=torch.float64)
    paths = {"PES": ([0, 1000], path), "truncated": ([0, 500], path.flip(0) + 1)}
    fig = pictures.arrivals(paths, -0.05)
    text = pictures.arrivals_text(paths, -0.05)
    assert figures.check_text(text, fig) == text
    assert "means of 2 descents; best λ -0.05: PES from 0.50 to 0.10, truncated from 1.10 to 1.50." in text
