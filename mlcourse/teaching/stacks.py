"""A widget without a kernel: a stack of pictures for a few values of its controls, as one block of HTML.

While the site is made (the variable MLCOURSE_SITE is set), each `explore` draws some 20 to 150 pictures and puts them
below its cell: native controls, and one picture for each choice of their values. All but the first are hidden;
`site/theme/static/stacks.js` moves through them. Without the program one sees the first picture, and no controls.

Which choices are drawn (`stack_of` takes the first that fits):

1. every combination of all values, where the pictures are small and not too many;
2. every combination of fewer values, where each slider keeps three;
3. every combination of the lists, and for each of them one slider at a time: the other sliders stand at their start;
4. one control at a time.

A control that changes no picture is left out (`recorded`), and the line below the pictures names it.

How the choices lie one behind another. The controls that move together come first, the last one fastest: of n_1, n_2, …
values, (k_1, k_2, …) is block k_1·n_2·n_3⋯ + k_2·n_3⋯ + … . Within a block are the controls that move alone: first
their start, then for each its values in their order, without the start. Choices whose pictures are the same share one:
the attribute `data-of` says for each choice which picture it has.
"""

import html
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import ipywidgets

VARIABLE = "MLCOURSE_SITE"
MOST = 36  # pictures of a stack in general
SMALL = 60_000  # bytes of a PNG (a third as WebP, fetched when one comes to the controls); of such there may be more:
ALL = 150  # where sliders are among the controls
CHOICES = 300  # where there are only lists to choose from: many of their pictures are the same
LEAST = 3  # values of a control; with fewer one sees no course
START = "start"  # the page of the site that says how to get the course
ONE_AT_A_TIME = "On this page only one of these moves at a time, the others go back to their start: {}."


@dataclass(frozen=True)
class Axis:
    """One control of a stack.

    slides: whether it is a slider; else a list of choices. whole: whether `values` are all that it can take.
    alone: whether it moves only while the others that move alone stand at their start.
    """

    name: str
    label: str
    values: Sequence[Any]
    words: Sequence[str]  # a value as it is shown
    start: int  # the number of the first value
    slides: bool
    whole: bool = True
    alone: bool = False


def wanted() -> bool:
    """Whether this run is one for the site."""
    return bool(os.environ.get(VARIABLE))


@dataclass(frozen=True)
class Stack:
    """The controls of a stack: those that move together, and those that move alone."""

    axes: Sequence[Axis]

    def choices(self) -> list[tuple[int, ...]]:
        """The numbers of the values of each choice, in the order that the program counts."""
        start = tuple(axis.start for axis in self.axes)
        alone = [place for place, axis in enumerate(self.axes) if axis.alone]
        moves = [{}, *({p: k} for p in alone for k in range(len(self.axes[p].values)) if k != start[p])]
        blocks = product(*([start[p]] if axis.alone else range(len(axis.values)) for p, axis in enumerate(self.axes)))
        return [tuple(move.get(p, k) for p, k in enumerate(block)) for block in blocks for move in moves]

    def values(self, chosen: tuple[int, ...]) -> dict[str, Any]:
        """The values of a choice, by the names of the controls."""
        return {axis.name: axis.values[k] for axis, k in zip(self.axes, chosen, strict=True)}

    def idle(self, pictures: Sequence[str]) -> list[Axis]:
        """The controls that change no picture. pictures: one for each choice."""
        seen = dict(zip(self.choices(), pictures, strict=True))
        return [
            axis
            for p, axis in enumerate(self.axes)
            if all(seen[(*chosen[:p], axis.start, *chosen[p + 1 :])] == picture for chosen, picture in seen.items())
        ]


def stack_of(controls: dict[str, ipywidgets.ValueWidget], small: bool = False) -> Stack:
    """The controls with so few values each that not too many pictures come out; the start is always among them.

    Where there are too many, the control with the most values gets fewer, evenly spread. small: whether the pictures
    are so small that there may be more of them.
    """
    values = {name: found for name, one in controls.items() if len((found := _values(one))[0]) > 1}
    full = {name: len(found) for name, (found, _) in values.items()}
    lists = {name for name in full if not hasattr(controls[name], "step")}
    counts, alone = _counts(full, lists, small)
    return Stack([_axis(name, controls[name], *values[name], counts[name], name in alone) for name in values])


def _counts(full: dict[str, int], lists: set[str], small: bool) -> tuple[dict[str, int], set[str]]:
    """How many values each control gets, and which of them move alone. full: how many they have."""
    if small and math.prod(full.values()) <= (CHOICES if lists == set(full) else ALL):
        return full, set()
    counts = _fewer(full, MOST, math.prod)
    if math.prod(counts.values()) <= MOST and _enough(counts, full):
        return counts, set()
    sliders = {name: count for name, count in full.items() if name not in lists}
    most = ALL // math.prod(full[name] for name in lists) if small and lists else 0
    counts = _fewer(sliders, most, _alone)
    if _alone(counts.values()) <= most and _enough(counts, sliders):
        return full | counts, set(sliders) if len(sliders) > 1 else set()
    return _fewer(full, MOST, _alone), set(full)


def _alone(counts: Iterable[int]) -> int:
    """How many choices there are when one control moves at a time."""
    return 1 + sum(count - 1 for count in counts)


def _enough(counts: dict[str, int], full: dict[str, int]) -> bool:
    return all(count >= min(LEAST, full[name]) for name, count in counts.items())


def _fewer(full: dict[str, int], most: int, pictures: Callable[[Iterable[int]], int]) -> dict[str, int]:
    counts = dict(full)
    while pictures(counts.values()) > most and max(counts.values(), default=0) > 2:
        counts[max(counts, key=counts.get)] -= 1
    return counts


def _values(one: ipywidgets.ValueWidget) -> tuple[list, list[str]]:
    """All values that a control can take, and their words."""
    if isinstance(one, ipywidgets.Checkbox):
        return [False, True], ["no", "yes"]
    if hasattr(one, "options"):
        pairs = [pair if isinstance(pair, tuple) else (str(pair), pair) for pair in one.options]
        return [value for _, value in pairs], [str(word) for word, _ in pairs]
    if not hasattr(one, "step"):
        return [one.value], [str(one.value)]
    count = math.floor((one.max - one.min) / one.step + 1e-9) + 1
    values = [one.min + k * one.step for k in range(count)]
    if isinstance(one, ipywidgets.IntSlider):
        return values, [str(value) for value in values]
    values = [round(value, 10) for value in values]
    return values, [format(value, one.readout_format) for value in values]


def _axis(name: str, one, values: list, words: list[str], count: int, alone: bool) -> Axis:
    start = min(range(len(values)), key=lambda k: (values[k] != one.value, _distance(values[k], one.value)))
    chosen = {round(k * (len(values) - 1) / (count - 1)) for k in range(count)}
    if start not in chosen:  # the nearest value makes place for it, but for the two ends
        inner = sorted(chosen - {0, len(values) - 1}, key=lambda k: abs(k - start)) or [max(chosen)]
        chosen = chosen - {inner[0]} | {start}
    order = sorted(chosen)
    slides = hasattr(one, "step")
    shown = [values[k] for k in order], [words[k] for k in order]
    axis = Axis(name, one.description, *shown, order.index(start), slides)
    return replace(axis, whole=count == len(values), alone=alone)


def _distance(a, b) -> float:
    return abs(a - b) if isinstance(a, int | float) and isinstance(b, int | float) else 0.0


def recorded(controls: dict[str, ipywidgets.ValueWidget], draw: Callable[[dict], str], small: bool = False) -> str:
    """The block of a widget. A control that changes no picture is not shown; the line below names it.

    draw, and what is returned: as for `page`. small: as for `stack_of`.
    """
    left_out: list[str] = []
    while True:
        stack = stack_of(controls, small)
        pictures = [_drawn(draw, stack.values(chosen)) for chosen in stack.choices()]
        idle = stack.idle([_without_text(picture) for picture in pictures])
        if not idle:
            return _page(stack, pictures, _left_out(left_out))
        left_out += [axis.label for axis in idle]
        controls = {name: one for name, one in controls.items() if name not in {axis.name for axis in idle}}


def _without_text(picture: str) -> str:
    """A picture without its alternative text, which may name values that change nothing."""
    return re.sub(r'\b(alt|aria-label)="[^"]*"', "", picture)


def _left_out(labels: Sequence[str]) -> str:
    return f"Left out, because no recorded picture changes with them: {', '.join(labels)}." if labels else ""


def page(stack: Stack, draw: Callable[[dict], str], note: str = "") -> str:
    """The block: a control for each axis, the pictures, and a line that says what was recorded.

    draw: from the values of the axes, by name, to a picture as HTML, with its text. A combination that cannot be drawn
    becomes its error, in one line. note: what else the line says.
    """
    return _page(stack, [_drawn(draw, stack.values(chosen)) for chosen in stack.choices()], note)


def _page(stack: Stack, pictures: Sequence[str], note: str) -> str:
    different = list(dict.fromkeys(pictures))
    number = {picture: k for k, picture in enumerate(different)}
    shown = pictures[stack.choices().index(tuple(axis.start for axis in stack.axes))]
    frames = "".join(f"<div{'' if picture == shown else ' hidden'}>{picture}</div>" for picture in different)
    controls = "".join(map(_control, stack.axes))
    alone = ", ".join(axis.label for axis in stack.axes if axis.alone)
    slow = f"<p>{html.escape(ONE_AT_A_TIME.format(alone))}</p>" if alone else ""
    return (
        f'<div class="stack"><div class="stack-controls" hidden>{controls}'
        f'<button type="button">Reset</button>{slow}</div>'
        f'<div class="stack-frames" data-of="{" ".join(str(number[picture]) for picture in pictures)}">{frames}</div>'
        f'<p class="stack-said" role="status"></p>{_line(stack, len(different), note)}</div>'
    )


def _line(stack: Stack, count: int, note: str) -> str:
    """What was recorded, and how to get the rest."""
    choices = len(stack.choices())
    said = [f"Recorded: {count} picture{'' if count == 1 else 's'}"]
    if all(axis.whole and not axis.alone for axis in stack.axes):
        said[0] += f", for all {choices} combinations of these values." if choices > 1 else "."
    else:
        said += ["In the living course each control takes every value, with every value of the others."]
        said[0] += "."
    line = html.escape(" ".join([*said, note]).strip(), quote=False)
    return f'<p class="stack-line">{line} <a href="../{START}.html">Start the living course</a></p>'


def _drawn(draw: Callable[[dict], str], values: dict) -> str:
    try:
        return draw(values)
    except Exception as error:  # as the widget itself: what cannot be drawn is said in its place
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return f"<p>This picture cannot be drawn. {html.escape(reason)}</p>"


def _control(axis: Axis) -> str:
    label, alone = html.escape(axis.label), " data-alone" if axis.alone else ""
    if not axis.slides:
        options = "".join(
            f"<option{' selected' if k == axis.start else ''}>{html.escape(word)}</option>"
            for k, word in enumerate(axis.words)
        )
        return f'<label>{label} <select data-start="{axis.start}"{alone}>{options}</select></label>'
    words, first = html.escape("|".join(axis.words)), html.escape(axis.words[axis.start])
    return (
        f'<label>{label} <input type="range" min="0" max="{len(axis.values) - 1}" value="{axis.start}"'
        f' data-start="{axis.start}"{alone} data-words="{words}" aria-valuetext="{first}">'
        f" <output>{first}</output></label>"
    )
