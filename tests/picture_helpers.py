"""What every picture that follows its controls must do: one test for all lessons.

from picture_helpers import assert_follows

def test_the_picture_follows_its_controls():
    assert_follows(pictures.horizon, pictures.horizon_text, [(1, 1.0), (20, 1.0), (60, 0.0)])
"""

import math
import time
from collections.abc import Callable

from mlcourse.teaching import figures

# The processor time of one drawing, in seconds: the bar is 60 ms on two idle cores, and busy neighbours double it, and
# more. So a drawing is tried up to DRAWS times; the fastest counts, of all values and of each.
SECONDS, SECONDS_EACH, DRAWS = 0.12, 0.2, 40


def assert_follows(
    draw: Callable, words: Callable, values: list[tuple], *, says: Callable | None = None, exact: bool = False
) -> None:
    """Each value has its picture and its words, a redrawn figure is the fresh one, and dragging is fluent.

    Args:
        draw: `draw(*values, fig=None) -> (figure, caption)`; with a figure it draws into that one.
        words: `words(*values) -> alternative text`.
        values: what the controls are set to; each must look and read different.
        says: `says(values, caption, alternative text)`: further assertions on the texts.
        exact: whether the redrawn figure must be the fresh one to the pixel; else all its axes hold as many artists.
    """
    _each_its_own(draw, words, values, says)
    _redrawn_as_fresh(draw, values, exact)
    _fluent(draw, words, values)


def _each_its_own(draw: Callable, words: Callable, values: list[tuple], says: Callable | None) -> None:
    fig, seen, told = None, set(), set()
    for one in values:
        fig, caption = draw(*one, fig=fig)
        seen.add(figures.png(fig))
        fig.set_layout_engine("none")
        alt = words(*one)
        assert figures.check_text(alt, fig) == alt
        assert "nan" not in caption + alt
        if says:
            says(one, caption, alt)
        told.add(alt)
    assert len(seen) == len(told) == len(values)


def _redrawn_as_fresh(draw: Callable, values: list[tuple], exact: bool) -> None:
    def settled(fig):
        png = figures.png(fig)
        fig.set_layout_engine("none")
        return png

    fig, _ = draw(*values[0])
    settled(fig)
    for other in values[1:]:
        draw(*other, fig=fig)
    again, _ = draw(*values[0], fig=fig)
    fresh, _ = draw(*values[0])
    assert [len(ax.get_children()) for ax in again.axes] == [len(ax.get_children()) for ax in fresh.axes]
    assert [(ax.get_xlim(), ax.get_ylim()) for ax in again.axes] == [(a.get_xlim(), a.get_ylim()) for a in fresh.axes]
    if exact:
        settled(fresh)
        assert figures.png(again) == figures.png(fresh)


def _fluent(draw: Callable, words: Callable, values: list[tuple]) -> None:
    fig, _ = draw(*values[0])
    figures.png(fig)
    fig.set_layout_engine("none")
    seconds = dict.fromkeys(range(len(values)), math.inf)
    for k in range(DRAWS):
        if min(seconds.values()) < SECONDS and max(seconds.values()) < SECONDS_EACH:
            break
        began = time.process_time()
        draw(*values[k % len(values)], fig=fig)
        words(*values[k % len(values)])
        figures.png(fig)
        taken = time.process_time() - began
        seconds[k % len(values)] = min(taken, seconds[k % len(values)])
    fastest, slowest = min(seconds.values()), max(seconds.values())
    assert fastest < SECONDS, f"{1000 * fastest:.0f} ms"
    assert slowest < SECONDS_EACH, f"{1000 * slowest:.0f} ms"
