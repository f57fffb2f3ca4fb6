"""The pictures of notebook 09: what they say is true, they follow their values, and they are fast enough to drag."""

import numpy as np
import pytest
import torch
from picture_helpers import assert_follows

from mlcourse.lessons.searching import pictures
from mlcourse.lessons.searching.noisy_quadratic import STEEP_AND_FLAT
from mlcourse.teaching import figures

VALUES = [(1, 1.0), (20, 1.0), (200, 1.0), (60, 0.0), (5, 2.0)]


def test_the_picture_follows_its_controls():
    assert_follows(pictures.horizon, pictures.horizon_text, VALUES)


def test_the_words_say_the_numbers():
    text = pictures.horizon_text(1, 1.0)
    short, long = STEEP_AND_FLAT.best_rate(1), STEEP_AND_FLAT.best_rate(200)
    found = [float(word.rstrip(".,")) for word in text.split() if word.rstrip(".,").replace(".", "").isdigit()]
    assert found[2] == pytest.approx(short, rel=0.05)
    assert found[4] == pytest.approx(long, rel=0.05)
    assert found[5] == pytest.approx(STEEP_AND_FLAT.expected_loss(short, 200), abs=0.01)
    calm, _, here, best = pictures.chosen_of(1, 0.0)
    assert calm == pictures.RATES[-1]
    assert here == best


def test_bands_are_intervals_of_the_mean():
    mean, half = pictures.band([[1.0, 2.0], [3.0, 2.0]] * 4)
    np.testing.assert_allclose(mean, [2, 2])
    assert half[0] == pytest.approx(2.3646 * np.std([1, 3] * 4, ddof=1) / 8**0.5, rel=0.01)
    assert half[1] == 0
    assert pictures.band([[1.0, 2.0]])[1].tolist() == [0, 0]


def test_pictures_of_results_and_their_words():
    rates = np.geomspace(0.01, 10, 9)
    losses = (np.log(rates) ** 2 / 10 + 1).tolist()
    points = [(0.1, 1.5, -0.46), (1.0, 1.0, 0.0)]
    curves = {"unrolled": ([1, 2, 3], [[3.0, 2.0, 1.0], [3.2, 2.1, 1.1]]), "TPE": ([1, 2, 3], [[3.0, 2.5, 2.0]])}
    values, wrong = torch.linspace(0, 1, 20), torch.arange(20) < 8
    drawn = [
        pictures.tangents(rates, losses, points),
        pictures.regret(curves),
        pictures.weights(values, wrong, torch.rand(4, 28, 28), torch.rand(4, 28, 28)),
    ]
    assert len({figures.png(fig) for fig in drawn}) == 3
    labels = [text.get_text() for text in drawn[1].axes[0].get_legend().get_texts()]
    assert labels == list(curves)
    heights = sum(bar.get_height() for bars in drawn[2].axes[0].containers for bar in bars)
    assert heights == 20
    text = pictures.regret_text(curves)
    assert "unrolled from 3.10 to 1.05" in text
    assert "TPE from 3.00 to 2.00 ± 0.00" in text
    assert "lowest 1.00 at rate 0.32" in pictures.tangents_text([0.1, 0.32, 1], [2, 1, 3], points)
    assert "-0.46 at rate 0.1" in pictures.tangents_text(rates, losses, points)
    said = pictures.weights_text(values, wrong, 4, 4)
    assert f"mean of {values[8:].mean():.2f}" in said
    assert f"one {values[:8].mean():.2f}" in said


def test_jumps_of_the_loss_stay_in_the_picture():
    """A loss that jumps to fifty times its lowest value: all of the curve, and all tangents, lie inside the axes."""
    rates = np.geomspace(0.01, 10, 9)
    losses = [2.3, 2.0, 1.5, 1.0, 0.8, 7.0, 0.9, 40.0, 12.0]
    points = [(0.03, 2.1, -0.4), (3.0, 12.0, 30.0)]
    ax = pictures.tangents(rates, losses, points).axes[0]
    low, high = ax.get_ylim()
    curve, *others = ax.lines
    assert list(curve.get_ydata()) == losses
    assert low < min(losses)
    assert high > max(losses)
    tangent = next(line for line in others if line.get_label() == "hypergradient")
    x, y = np.asarray(tangent.get_xdata()), np.asarray(tangent.get_ydata())
    assert (np.diff(np.log(y)) / np.diff(np.log(x)))[0] == pytest.approx(-0.4 / 2.1)
    said = pictures.tangents_text(rates, losses, points)
    assert "changes direction 3 times, and its highest value is 40.00" in said
