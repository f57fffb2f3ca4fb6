"""What every picture that follows its controls must do: one test for all lessons.

from picture_helpers import assert_follows

def test_the_picture_follows_its_controls():
    assert_follows(pictures.horizon, pictures.horizon_text, [(1, 1.0), (20, 1.0), (60, 0.0)])
"""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import speed

from mlcourse.teaching import figures

# The time of one drawing, as a multiple of the time of `plain_drawing` (some 60 ms on two idle cores): of the
# fastest and of the slowest value. The pictures of the course lie between 0.3 and 0.9.
FASTEST, SLOWEST = 1.0, 1.6
TRIES = 3


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


def plain_drawing() -> Callable[[], object]:
    """A call that draws an ordinary figure anew: two axes with three lines, labels and a legend each, as PNG."""
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.5))
    x = np.linspace(0, 1, 200)

    def drawn() -> bytes:
        for k, ax in enumerate(axes):
            ax.clear()
            for j in range(3):
                ax.plot(x, x ** (j + k + 1), label=f"line {j}")
            ax.set(xlabel="x", ylabel="y", title="lines")
            ax.legend()
        return figures.png(fig)

    return drawn


def drawing_ratios(draw: Callable, words: Callable, values: list[tuple]) -> list[float]:
    """The time of each value's drawing and words, in a figure that is there, as multiples of `plain_drawing`'s."""
    fig, _ = draw(*values[0])
    figures.png(fig)
    fig.set_layout_engine("none")
    plain = plain_drawing()

    def redrawn(value: tuple) -> None:
        draw(*value, fig=fig)
        words(*value)
        figures.png(fig)

    return [speed.ratio(lambda value=value: redrawn(value), plain, tries=TRIES) for value in values]


def _fluent(draw: Callable, words: Callable, values: list[tuple]) -> None:
    ratios = drawing_ratios(draw, words, values)
    assert min(ratios) < FASTEST, f"{min(ratios):.2f} times a plain drawing"
    assert max(ratios) < SLOWEST, f"{max(ratios):.2f} times a plain drawing"
