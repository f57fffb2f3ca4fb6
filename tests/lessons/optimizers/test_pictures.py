"""The pictures of notebook 10: what they say is true, they follow their values, and they are fast enough to drag."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from picture_helpers import assert_follows
from scipy import stats

from mlcourse.errors import CourseError
from mlcourse.lessons.optimizers import pictures
from mlcourse.meta_optimization.learned_optimizers import SGD, Adam, LSTMRule, MLPRule
from mlcourse.teaching import figures


def untrained(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MLPRule(**options)


RULES = {"SGD with momentum": SGD(0.02, momentum=0.9), "Adam": Adam(0.1), "learned": untrained()}
VALUES = [
    ("learned", 10, True, True),
    ("learned", 50, True, False),
    ("learned", 10, False, True),
    ("Adam", 1, True, True),
]


ONE, ZERO = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
PAIRS = [(ZERO, ZERO), (ONE, ZERO), (ZERO, ONE)]  # (g, m)


def draw(values, fig=None):
    return pictures.update_map(RULES, *values, fig=fig)


def test_the_picture_follows_its_controls():
    assert_follows(partial(pictures.update_map, RULES), partial(pictures.update_map_text, RULES), VALUES)


def late(t):
    return 1 - t / 800


@pytest.mark.parametrize(
    "rule",
    [
        SGD(0.02),
        SGD(0.02, momentum=0.9),
        Adam(0.1, eps=0.0),
        SGD(0.02, schedule=late),
        Adam(0.1, eps=0.0, schedule=late),
    ],
    ids=["sgd", "momentum", "adam", "sgd with a schedule", "adam with a schedule"],
)
def test_the_map_of_a_rule_by_hand_is_its_update(rule):
    """A weight whose gradient has been constant for long: g = m, √v = |g| = 1 and Δ is what `update` does."""
    g = torch.tensor([1.0, -1.0], dtype=torch.float64)
    params, state = {"p": torch.zeros(2, dtype=torch.float64)}, None
    state = rule.init(params)
    for t in range(1, 400):
        before = params
        params, state = rule.update(params, {"p": g}, state, t)
    moved = params["p"] - before["p"]
    torch.testing.assert_close(pictures.moves(rule, g, g, 399), moved, rtol=1e-6, atol=0)


def test_the_map_of_a_learned_rule_is_its_update_where_all_momenta_agree():
    """Constant gradients of size 1 for long: all means equal g, all root mean squares are 1."""
    rule = untrained(features=("gradient", "momentum", "scaled", "size", "time"), momenta=(0.5, 0.9)).double()
    g = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    params = {"p": torch.zeros(4, dtype=torch.float64)}
    state = rule.init(params)
    with torch.no_grad():
        for t in range(1, 2000):
            before = params
            params, state = rule.update(params, {"p": g}, state, t)
    moved = params["p"] - before["p"]
    torch.testing.assert_close(pictures.moves(rule, g, g, 1999), moved, rtol=1e-6, atol=0)
    blind = pictures.moves(rule, g, g, 1999, momenta=False)
    assert (blind - moved).abs().max() > 1e-4
    torch.testing.assert_close(blind, pictures.moves(rule, g, -2 * g, 1999, momenta=False))
    timeless = [pictures.moves(rule, g, g, t, time=False) for t in (1, 50)]
    torch.testing.assert_close(*timeless)
    with pytest.raises(CourseError, match="LSTMRule has no map"):
        pictures.moves(LSTMRule(hidden=2), g, g, 1)


def test_the_words_of_the_map_say_its_numbers():
    text = pictures.update_map_text(RULES, "Adam", 5, True, False)
    assert "The map of Adam without time at step 5" in text
    assert "At rest, where both gradients are 0, the weight moves by +0.000." in text
    assert "To that a mean gradient of 1 alone adds -0.100, a gradient of 1 alone +0.000, both -0.100." in text
    middle, _, one = (pictures.moves(RULES["learned"], *pair, 10).item() for pair in PAIRS)
    text = pictures.update_map_text(RULES, "learned", 10, True, True)
    assert f"the weight moves by {middle:+.3f}. To that a mean gradient of 1 alone adds {one - middle:+.3f}" in text
    assert (
        "SGD with momentum, step 1: the largest move on this map is 0.6."
        in draw(("SGD with momentum", 1, True, True))[1]
    )


def test_curves_that_diverge_are_drawn_at_the_ceiling():
    good = torch.full((4, 3), 0.5)
    wild = torch.tensor([[1.0, 10.0, math.nan], [1.0, math.inf, 1e9]]).repeat(2, 1)
    np.testing.assert_allclose(pictures.means(wild), [1.0, (1e4 + 10) / 2, 1e4])
    series = {"good": good, "wild": wild}
    fig = pictures.training_curves(series, mark=1)
    assert fig.axes[0].get_yscale() == "log"
    assert len(fig.axes[0].collections) == 1  # a band for the good one only
    text = pictures.training_curves_text(series)
    assert figures.check_text(text, fig) == text
    assert "to the end of 2 steps: good 0.5 to 0.5, wild 1 to 1e+04" in text


def test_the_best_rate_has_a_star():
    losses = torch.tensor([1.0, 0.2, 0.3, math.nan])
    series = {"Adam, constant": ([0.001, 0.01, 0.1, 1.0], losses)}
    fig = pictures.rate_curves(series)
    assert fig.axes[0].lines[1].get_xdata() == [0.01]
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["0.2", "0.5", "1"]
    text = pictures.rate_curves_text(series)
    assert figures.check_text(text, fig) == text
    assert "Adam, constant 0.200 at 0.01" in text


def test_factors_are_geometric_means_with_intervals():
    one, other = torch.tensor([1.0, 4.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 1.0, 1.0])
    logs = one.double().log()
    mean, low, high = pictures.geometric(one, other)
    assert mean == pytest.approx(math.exp(logs.mean()))
    half = stats.t.ppf(0.975, 3) * logs.std().item() / 2
    assert (low, high) == pytest.approx((mean * math.exp(-half), mean * math.exp(half)))
    assert pictures.geometric(other, one)[0] == pytest.approx(1 / mean)
    wild = torch.tensor([math.nan, math.inf, 1e9, 1e4])
    assert pictures.geometric(wild, other) == pytest.approx((1e4, 1e4, 1e4))


def test_each_place_has_a_row():
    one, other = torch.tensor([1.0, 4.0, 2.0, 2.0]), torch.ones(4)
    series = {
        "at the old rate": {"home": (one, other), "away": (other, one)},
        "tuned": {"home": (other, other), "away": (one, one)},
    }
    fig = pictures.factors(series, xlabel="factor")
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["home", "away"]
    assert fig.axes[0].get_xscale() == "log"
    text = pictures.factors_text(series)
    assert figures.check_text(text, fig) == text
    assert "at the old rate: home 2 (0.81 to 4.9), away 0.5 (0.2 to 1.2); tuned: home 1 (1 to 1)" in text


def test_the_map_has_a_colour_bar_with_the_numbers_of_its_moves():
    fig, text = draw(("Adam", 1, True, True))
    colours = fig.axes[2]
    assert [label.get_text() for label in colours.get_yticklabels()] == ["-0.3", "+0", "+0.3"]
    assert text.endswith("the largest move on this map is 0.3.")
    draw(("SGD with momentum", 1, True, True), fig)
    assert [label.get_text() for label in colours.get_yticklabels()] == ["-0.6", "+0", "+0.6"]


def test_the_legend_leaves_the_curves_their_width():
    """The axes take three quarters of the picture or more, also with long names."""
    names = ("SGD with momentum, rate as for 50 steps", "Adam, rate as for 50 steps", "learned")
    curves = {name: torch.linspace(2, 1, 401).expand(4, -1) + torch.arange(4).unsqueeze(1) for name in names}
    valleys = {name: ([0.01, 0.1, 1.0], torch.tensor([1.0, 0.2, 0.3])) for name in names}
    for fig in (pictures.training_curves(curves, mark=50), pictures.rate_curves(valleys)):
        figures.png(fig)
        assert fig.axes[0].get_position().width > 0.75
