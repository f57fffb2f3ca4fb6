"""Pictures of the two quadratics of notebook 01. All but the last are drawing functions for `widgets.explore`.

A drawing changes the artists of the figure that it is given (`fig`), and makes the figure only when it is given none:
this keeps a drag fluent. For the same reason labels stand beside the curves: titles and legends take most of the time
of a drawing. The matching `…_text` function puts the same picture in words.
"""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlcourse.meta_gradients import quadratics
from mlcourse.meta_gradients.quadratics import TASKS
from mlcourse.teaching import figures

EDGE = 2.0  # θ and φ are drawn from −EDGE to EDGE
GRID = np.linspace(-EDGE, EDGE, 161)
NAMES = ("task 1", "task 2")
START, OUTER, FAINT = "#000000", figures.COLOURS[2], "#888888"


def _point(index: int, **options) -> dict:
    """The look of a marker: colour and shape number `index`, no line."""
    look = {"color": figures.COLOURS[index], "marker": figures.MARKERS[index], "linestyle": "none", "markersize": 8}
    return look | options


# ------------------------------------------------------------------ drag θ over two losses


def two_losses(start: float, inner_steps: int, inner_rate: float, fig: Figure | None = None) -> tuple[Figure, str]:
    """Left: both inner losses, and where T inner steps from θ land. Right: the outer loss of every θ."""
    fig = figures.redraw(fig, _two_losses_axes, _two_losses_at, start, inner_steps, inner_rate)
    ends = [task.path(start, rate=inner_rate, steps=inner_steps)[-1] for task in TASKS]
    first, second = (f"{task.loss(end):.3f}" for task, end in zip(TASKS, ends))
    outer = quadratics.meta_loss(start, rate=inner_rate, steps=inner_steps)
    return fig, f"Losses where the tasks land: {first} and {second}. Their mean is L_outer({start:.2f}) = {outer:.3f}."


def two_losses_text(start: float, inner_steps: int, inner_rate: float) -> str:
    """The picture of `two_losses` in words."""
    ends = [task.path(start, rate=inner_rate, steps=inner_steps)[-1] for task in TASKS]
    outer = quadratics.meta_loss(start, rate=inner_rate, steps=inner_steps)
    return (
        f"Two valleys: a flat one with its bottom at -1, a steep one with its bottom at 1. From the start {start:.2f}, "
        f"{inner_steps} inner steps of rate {inner_rate:.2f} lead to {figures.number(ends[0])} in the flat valley and "
        f"to {figures.number(ends[1])} in the steep one; the outer loss is {outer:.3f}."
    )


def _two_losses_axes() -> Figure:
    fig, (left, right) = figures.subplots(1, 2, size=(8.4, 3.6))
    for index, (task, name) in enumerate(zip(TASKS, NAMES)):
        look = {"color": figures.COLOURS[index]}
        left.plot(GRID, task.loss(GRID), marker="", **look)
        left.plot(task.c, _row(index), marker="|", markersize=14, linestyle="none", **look)
        left.text(-EDGE + 0.05, _row(index), name, va="center", **look)
        words = f"{name}: a = {task.a:g}, c = {task.c:+g}"
        left.text((-1.95, -0.4)[index], (1.0, 5.3)[index], words, **look)
    left.axhline(0, color="#444444", linewidth=0.8)
    left.set(xlim=(-EDGE, EDGE), ylim=(-2.0, 6), xlabel="weight φ", ylabel="inner loss")
    left.set(xticks=range(-2, 3), yticks=range(0, 7, 2))
    right.plot(GRID, quadratics.meta_loss(GRID, steps=0), color=FAINT, linestyle="--", marker="")
    right.text(0.6, 2.7, "T = 0", color="#555555", ha="center")
    right.set(xlim=(-EDGE, EDGE), ylim=(0, 3), xlabel="start θ", ylabel="outer loss after T steps")
    right.set(xticks=range(-2, 3), yticks=range(4))
    return fig


def _row(index: int) -> float:
    """The height of a task's strip below the curves, where its steps are drawn."""
    return -0.65 - 0.75 * index


def _two_losses_at(left: Axes, right: Axes, start: float, steps: int, rate: float) -> list:
    moving = [left.axvline(start, color=START, linestyle=":", linewidth=1.5)]
    for index, task in enumerate(TASKS):
        path = np.clip(task.path(start, rate=rate, steps=steps), -3 * EDGE, 3 * EDGE)
        strip = np.stack([path, np.full(len(path), _row(index))], 1)
        if steps:
            moving.append(figures.arrows(left, strip[:-1], strip[1:], index=index))
        moving += left.plot(*strip[:-1].T, color=START, marker=".", markersize=5, linestyle="none", zorder=4)
        # the end of the path, in the strip and on the curve: how well the task is solved
        heights = [_row(index), task.loss(path[-1])]
        moving += left.plot([path[-1]] * 2, heights, **_point(index, linestyle=":", linewidth=1, zorder=5))
    curve, here = (quadratics.meta_loss(x, rate=rate, steps=steps) for x in (GRID, start))
    moving += right.plot(GRID, curve, color=OUTER, marker="")
    moving += right.plot([start, start], [0, here], color=START, linestyle=":", linewidth=1.5, marker="")
    moving += right.plot(start, here, color=OUTER, marker="o", markersize=10, markeredgecolor=START, linestyle="none")
    moving.append(right.text(0, 3.08, f"T = {steps}, α = {rate:.2f}", color=OUTER, ha="center", fontweight="bold"))
    return moving


# ------------------------------------------------------------------ the outer loss changes its shape


SHOWN = ("joint", "first-order MAML", "MAML", "Reptile")
LONGEST = 6  # T on the axis of the right picture
LOOKS = {method: _point(figures.INDEX[method], markersize=11 if method == "MAML" else 8) for method in SHOWN}


def stop(method: str, inner_steps: int, inner_rate: float) -> float:
    """Where descent by this method stops; nan where no task pulls, or where it runs away."""
    options = {"rate": inner_rate, "steps": inner_steps}
    return quadratics.common_start(method, **options) if quadratics.attracts(method, **options) else math.nan


def _stops_in_words(inner_steps: int, inner_rate: float) -> str:
    words = []
    for method in SHOWN:
        theta = stop(method, inner_steps, inner_rate)
        pull = sum(quadratics.weight(method, task.a, rate=inner_rate, steps=inner_steps) for task in TASKS)
        lost = "runs away" if pull < 0 else "stays where it began"
        words.append(f"{method} {lost if math.isnan(theta) else figures.number(theta)}")
    return ", ".join(words)


def meta_loss(inner_steps: int, inner_rate: float, fig: Figure | None = None) -> tuple[Figure, str]:
    """Left: the outer loss after T steps, and where the methods stop on it. Right: the same places for every T."""
    fig = figures.redraw(fig, _meta_loss_axes, _meta_loss_at, inner_steps, inner_rate)
    return fig, f"T = {inner_steps}, α = {inner_rate:.2f}. Where it stops: {_stops_in_words(inner_steps, inner_rate)}."


def meta_loss_text(inner_steps: int, inner_rate: float) -> str:
    """The picture of `meta_loss` in words."""
    return (
        f"Left, the outer loss over the start after {inner_steps} inner steps of rate {inner_rate:.2f}, the curves of "
        f"other numbers of steps in grey. Right, for each number of steps, where the methods stop. Now: "
        f"{_stops_in_words(inner_steps, inner_rate)}."
    )


def _meta_loss_axes() -> Figure:
    fig, (left, right) = figures.subplots(1, 2, size=(8.4, 3.9), width_ratios=(1.1, 1))
    left.plot(GRID, quadratics.meta_loss(GRID, steps=0), color=FAINT, linestyle="--", marker="")
    left.text(0.6, 2.2, "T = 0", color="#555555", ha="center")
    left.set(xlim=(-EDGE, EDGE), ylim=(-0.1, 2.4), xlabel="start θ", ylabel="outer loss after T steps")
    left.set(xticks=range(-2, 3), yticks=(0, 1, 2))
    right.set(xlim=(-0.3, LONGEST + 0.3), ylim=(-EDGE, EDGE), xlabel="inner steps T", ylabel="start θ where it stops")
    right.set(xticks=range(0, LONGEST + 1, 2), yticks=range(-2, 3))
    for task, name in zip(TASKS, NAMES):
        right.axhline(task.c, color=FAINT, linewidth=1, linestyle=":")
        right.text(LONGEST + 0.2, 1.3 * task.c, f"c of {name}", color="#555555", ha="right", va="center")
    handles = [right.plot([], [], label=method, **LOOKS[method])[0] for method in SHOWN]
    fig.legend(handles=handles, loc="outside upper center", ncols=len(SHOWN), frameon=False, columnspacing=1.2)
    return fig


def _meta_loss_at(left: Axes, right: Axes, steps: int, rate: float) -> list:
    moving, everywhere = [], range(LONGEST + 1)
    # the grey curves are one artist: a gap (nan) lifts the pen between them
    others = [np.append(quadratics.meta_loss(GRID, rate=rate, steps=other), math.nan) for other in everywhere[1:]]
    grid = np.tile(np.append(GRID, math.nan), len(others))
    moving += left.plot(grid, np.concatenate(others), color="#CCCCCC", linewidth=1, marker="", zorder=1.5)
    moving += left.plot(GRID, quadratics.meta_loss(GRID, rate=rate, steps=steps), color=OUTER, linewidth=3, marker="")
    moving += [right.axvline(steps, color=OUTER, linewidth=6, alpha=0.3)]
    for method in SHOWN:
        look = LOOKS[method] | {"zorder": 4 + (method == "MAML")}
        thetas = [stop(method, other, rate) for other in everywhere]
        moving += right.plot(everywhere, thetas, **(look | {"linestyle": "-", "linewidth": 1, "markersize": 6}))
        theta = thetas[steps]
        if math.isfinite(theta) and abs(theta) <= EDGE:
            # joint training knows no inner step: it stops at the bottom of its own curve
            height = quadratics.meta_loss(theta, rate=rate, steps=0 if method == "joint" else steps)
            moving += left.plot(theta, height, **look, markeredgecolor="white")
    return moving


# ------------------------------------------------------------------ three slopes, one tangent


DECAY = 0.2  # ρ of the weight decay (ρ/2)θ², which gives the outer loss a direct dependence on θ


def slopes(start: float, decay: float = DECAY) -> dict[str, float]:
    """Three values for the derivative of L_outer + (ρ/2)θ² at θ = start, T = 1: dφ/dθ taken as 0, as 1, as it is."""
    pulls = [(task, task.a * (task.path(start)[-1] - task.c)) for task in TASKS]
    exact = sum((1 - quadratics.RATE * task.a) * pull for task, pull in pulls) / len(pulls)
    first_order = sum(pull for _, pull in pulls) / len(pulls)
    direct = decay * start
    return {"direct term only": direct, "first-order": direct + first_order, "total": direct + exact}


def three_slopes(start: float, fig: Figure | None = None) -> tuple[Figure, str]:
    """The outer loss with weight decay, and a line through the point at θ for each of the three slopes."""
    fig = figures.redraw(fig, _slopes_axes, _slopes_at, start)
    words = ", ".join(f"{name} {figures.number(value)}" for name, value in slopes(start).items())
    return fig, f"Slopes at θ = {start:.2f}: {words}."


def three_slopes_text(start: float) -> str:
    """The picture of `three_slopes` in words."""
    words = ", ".join(f"{name} {figures.number(value)}" for name, value in slopes(start).items())
    return (
        f"The outer loss with weight decay, and three lines through its point at {start:.2f}, with the slopes {words}. "
        "Only the line of the total derivative is a tangent of the curve."
    )


def _decayed(theta):
    return quadratics.meta_loss(theta) + 0.5 * DECAY * theta**2


SLOPE_LOOKS = {"direct term only": _point(4), "first-order": _point(1), "total": _point(0)}
SLOPE_LINES = {"direct term only": ":", "first-order": "--", "total": "-"}


def _slopes_axes() -> Figure:
    fig, ax = figures.subplots(size=(7.6, 3.6))
    ax.plot(GRID, _decayed(GRID), color=OUTER, linewidth=4, alpha=0.6, marker="")
    ax.set(xlim=(-EDGE, EDGE), ylim=(0, 1.2), xlabel="start θ", ylabel="outer loss + (ρ/2)θ²")
    ax.set(xticks=range(-2, 3), yticks=(0, 0.5, 1))
    looks = {name: SLOPE_LOOKS[name] | {"linestyle": SLOPE_LINES[name]} for name in SLOPE_LOOKS}
    handles = [ax.plot([], [], label=name, **look)[0] for name, look in looks.items()]
    fig.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return fig


def _slopes_at(ax: Axes, start: float) -> list:
    here, moving = _decayed(start), []
    for name, slope in slopes(start).items():
        reach = np.array([-1.0, 1.0]) * 0.9 / math.hypot(1, slope)  # lines of about one length
        look = SLOPE_LOOKS[name] | {"linestyle": SLOPE_LINES[name]}
        moving += ax.plot(start + reach, here + slope * reach, **look)
    moving += ax.plot(start, here, color=START, marker="o", markersize=9, linestyle="none", zorder=5)
    return moving


# ------------------------------------------------------------------ where three methods stop


def draw_stops(ax: Axes, stops: Mapping[str, float]) -> None:
    """The outer loss without and with one inner step, and on it where each method stops (name → θ)."""
    for steps, line, place in ((0, "--", (-0.95, 1.7)), (1, "-", (-1.9, 0.65))):
        ax.plot(GRID, quadratics.meta_loss(GRID, steps=steps), color=OUTER, linestyle=line, marker="")
        ax.text(*place, f"T = {steps}", color=OUTER)
    for name, theta in stops.items():
        height = quadratics.meta_loss(theta, steps=0 if name == "joint" else 1)
        look = figures.style(figures.INDEX[name]) | {"linestyle": "none", "markersize": 11, "zorder": 4}
        ax.plot(theta, height, **look)
        words = f"{round(theta, 1) + 0.0:+.1f}"
        ax.annotate(words, (theta, height), (0, -18), textcoords="offset points", ha="center")
    ax.set(xlabel="start θ", ylabel="outer loss of two quadratics", ylim=(-0.25, 2), yticks=(0, 1, 2))
