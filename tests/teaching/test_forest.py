"""The forest plot: what it draws is what it was given, and nothing covers it."""

import pytest

from mlcourse.errors import CourseError
from mlcourse.teaching import forest

LINES = [
    forest.Line("one", (0.9, 0.89, 0.91), (0.9, 0.8, 0.95), 1),
    forest.Line("two", (0.5, 0.48, 0.52), None, 2),
]


def drawn():
    figure = forest.forest(LINES, title="a protocol", clusters="scripts")
    figure.draw_without_rendering()
    return figure, figure.axes[0]


def test_each_bar_has_its_ends_and_no_marker_but_the_value():
    _, axes = drawn()
    bars = [line for line in axes.lines if len(line.get_xdata()) == 2]
    assert sorted(tuple(bar.get_xdata()) for bar in bars) == [(48, 52), (80, 95), (89, 91)]
    assert {bar.get_marker() for bar in bars} == {""}
    assert [line.get_marker() for line in axes.lines if len(line.get_xdata()) == 1] == ["o", "o"]


def test_the_legend_covers_no_bar():
    figure, axes = drawn()
    (legend,) = figure.legends
    assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    assert [text.get_text() for text in legend.get_texts()] == ["over episodes", "over scripts"]


def test_dollars_are_letters():
    """Names come from folders and files: none is a formula, not even a broken one."""
    broken = r"$\frac$"
    figure = forest.forest([LINES[0]._replace(name=broken)], title=broken, clusters=broken)
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [f"1. {broken}"]


def test_no_line_is_an_error():
    with pytest.raises(CourseError, match="needs a method"):
        forest.forest([], title="a protocol", clusters="scripts")
