"""Pictures of notebook 11: a jagged outer loss and its smoothed version, estimates against the truth, descents.

`jagged` is a plain drawing function for `widgets.explore`: it changes the artists of the figure that it is given
(`fig`). `jagged_text` puts the same picture in words.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mlcourse.teaching import figures

EXACT, SMOOTH = figures.COLOURS[1], figures.COLOURS[0]
FAINT = "#999999"

# ------------------------------------------------------------------ the bowl with ripples


START = 3.0
LOW, HIGH, STEP = -2.0, 1.8, 0.004  # the λ that are drawn, and their distance
LARGEST_SIGMA = 0.3
ARROW = 0.45  # its length; the axes are so much wider on both sides
_REACH = 4 * LARGEST_SIGMA  # beyond it a Gaussian weighs nothing
_GRID = np.arange(LOW - _REACH, HIGH + _REACH + STEP / 2, STEP)
_INSIDE = (_GRID > LOW - STEP / 2) & (_GRID < HIGH + STEP / 2)


def outer_loss(lam, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """L_outer of T steps in the bowl with ripples, and its exact slope, for each λ = log α.

    Inner loss 0.05φ² + 1 − cos φ, from φ = 3; L_outer is its mean over φ_1, …, φ_T. The slope is carried forward beside
    φ: dφ_t/dλ = (1 − α L″) dφ_{t−1}/dλ − α L′.
    """
    lam = np.asarray(lam, float)
    rate, phi = np.exp(lam), np.full(lam.shape, START)
    moved, total, slope = np.zeros(lam.shape), np.zeros(lam.shape), np.zeros(lam.shape)
    for _ in range(horizon):
        pull, bend = 0.1 * phi + np.sin(phi), 0.1 + np.cos(phi)
        moved = (1 - rate * bend) * moved - rate * pull
        phi = phi - rate * pull
        total = total + 0.05 * phi**2 + 1 - np.cos(phi)
        slope = slope + (0.1 * phi + np.sin(phi)) * moved
    return total / horizon, slope / horizon


def smoothed(losses: np.ndarray, sigma: float, step: float = STEP) -> tuple[np.ndarray, np.ndarray]:
    """E[L(λ + ε)] and its slope E[ε L(λ + ε)] / σ² on the inner points of a grid of distance `step`.

    Points within 4σ of an end have no neighbours on one side: they are left out.
    """
    reach = round(4 * sigma / step)
    eps = step * np.arange(-reach, reach + 1)
    weight = np.exp(-0.5 * (eps / sigma) ** 2)
    weight /= weight.sum()
    flip = slice(None, None, -1)  # np.convolve turns its second argument round
    return np.convolve(losses, weight[flip], "valid"), np.convolve(losses, (weight * eps)[flip], "valid") / sigma**2


def _found(horizon: int, sigma: float, place: float):
    losses, slopes = outer_loss(_GRID, horizon)
    values, tilt = smoothed(losses, sigma)
    cut = (len(values) - _INSIDE.sum()) // 2
    inner = slice(cut, cut + int(_INSIDE.sum()))
    here = int(np.argmin(abs(_GRID[_INSIDE] - place)))
    return _GRID[_INSIDE], losses[_INSIDE], slopes[_INSIDE], values[inner], tilt[inner], here


def _words(horizon: int, sigma: float, place: float) -> str:
    lam, _, slopes, _, tilt, here = _found(horizon, sigma, place)
    ways = ["a smaller rate" if slope > 0 else "a larger rate" for slope in (slopes[here], tilt[here])]
    return (
        f"At λ = {lam[here]:.2f} (rate α = {math.exp(lam[here]):.2f}) the exact slope is {slopes[here]:+.2g} and asks "
        f"for {ways[0]}; the slope of the smoothed loss is {tilt[here]:+.2g} and asks for {ways[1]}."
    )


def jagged(horizon: int, sigma: float, place: float, fig: Figure | None = None) -> tuple[Figure, str]:
    """Left: the outer loss, its smoothed version, and where each slope points. Right: the sizes of both slopes."""
    fig = figures.redraw(fig, _jagged_axes, _jagged_at, horizon, sigma, place)
    return fig, _words(horizon, sigma, place)


def jagged_text(horizon: int, sigma: float, place: float) -> str:
    """The picture of `jagged` in words."""
    _, losses, slopes, values, *_ = _found(horizon, sigma, place)
    return (
        f"The outer loss of {horizon} inner steps over the log of the rate has {_minima(losses)} local minima; "
        f"smoothed with sigma {sigma:.2f} it has {_minima(values)}. {_words(horizon, sigma, place)} "
        f"The largest exact slope is about 10 to the power {np.log10(abs(slopes).max()):.0f}."
    )


def _minima(curve) -> int:
    """How many points of a curve lie below both neighbours, the two ends among them: 1 for a single valley."""
    steps = np.sign(np.diff(np.asarray(curve, float)))
    steps = np.concatenate([[-1], steps[steps != 0], [1]])
    return int(((steps[:-1] < 0) & (steps[1:] > 0)).sum())


def _jagged_axes() -> Figure:
    fig, (left, right) = figures.subplots(1, 2, size=(9.2, 4.0))
    left.set(xlim=(LOW - ARROW - 0.1, HIGH + ARROW + 0.1), ylim=(0, 3))
    left.set(xlabel="λ, log of the inner rate", ylabel="outer loss", yticks=range(4))
    right.set(xlim=(LOW, HIGH), ylim=(-3, 43), xlabel="λ, log of the inner rate", ylabel="log₁₀ |slope|")
    handles = [
        left.plot([], [], color=colour, marker=marker, label=name)[0]
        for colour, marker, name in ((EXACT, "s", "exact"), (SMOOTH, "o", "smoothed"))
    ]
    fig.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return fig


def _jagged_at(left: Axes, right: Axes, horizon: int, sigma: float, place: float) -> list:
    lam, losses, slopes, values, tilt, here = _found(horizon, sigma, place)
    moving = left.plot(lam, losses, color=EXACT, linewidth=0.8, marker="")
    moving += left.plot(lam, values, color=SMOOTH, linewidth=2.5, marker="")
    for height, slope, colour, marker in (
        (losses[here], slopes[here], EXACT, "s"),
        (values[here], tilt[here], SMOOTH, "o"),
    ):
        end = lam[here] - ARROW * np.sign(slope)
        moving += left.plot(
            lam[here], height, color=colour, marker=marker, markersize=9, markeredgecolor="black", zorder=5
        )
        head = "<" if end < lam[here] else ">"
        moving += left.plot([lam[here], end], [height, height], color="black", linewidth=2, marker="", zorder=4)
        moving += left.plot(
            end, height, color=colour, marker=head, markersize=11, markeredgecolor="black", zorder=5, linestyle="none"
        )
    for slope, colour, width in ((slopes, EXACT, 0.8), (tilt, SMOOTH, 2.5)):
        moving += right.plot(lam, np.log10(abs(slope) + 1e-3), color=colour, linewidth=width, marker="")
    return [*moving, right.axvline(lam[here], color=FAINT, linestyle=":")]


# ------------------------------------------------------------------ results of a run


def horizons(found: Mapping[int, tuple]) -> Figure:
    """T → (λ, outer loss, exact slope). Left: the losses; right: the size of their slopes."""
    fig, (left, right) = figures.subplots(1, 2, size=(9.2, 3.8))
    for index, (horizon, (lam, losses, slopes)) in enumerate(reversed(found.items())):
        look = figures.style(index) | {"linewidth": 1.2, "markersize": 5, "markevery": max(1, len(lam) // 10)}
        left.plot(lam, losses, label=f"T = {horizon}", **look)
        right.plot(lam, np.log10(np.abs(np.asarray(slopes)) + 1e-3), **look)
    left.set(xlabel="λ, log of the inner rate", ylabel="outer loss on the queries", yscale="log")
    left.legend(frameon=False)
    right.set(xlabel="λ, log of the inner rate", ylabel="log₁₀ |exact slope|")
    return fig


def horizons_text(found: Mapping[int, tuple]) -> str:
    """The picture of `horizons` in words."""
    sizes = ", ".join(f"10^{np.log10(np.abs(np.asarray(s)).max()):.0f} at T = {T}" for T, (_, _, s) in found.items())
    teeth = ", ".join(f"{_minima(losses)} at T = {T}" for T, (_, losses, _) in found.items())
    return f"Outer loss over the log of the rate. Local minima on the grid: {teeth}. Largest slope: {sizes}."


def spreads(panels: Mapping[str, Mapping[str, tuple]]) -> Figure:
    """A panel for each axis label: name → (x, measured spread, spread by the formula), both axes logarithmic."""
    fig, axes = figures.subplots(1, len(panels), size=(9.2, 3.6))
    for ax, (xlabel, curves) in zip(np.atleast_1d(axes), panels.items()):
        for index, (name, (x, measured, formula)) in enumerate(curves.items()):
            ax.plot(x, formula, color="black", linestyle="--", linewidth=1, marker="")
            ax.plot(x, measured, linestyle="none", label=name, **figures.style(index))
        ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="relative error of one estimate")
        ax.set_xticks(x, [f"{one:g}" for one in x])
        ticks = _ticks(*ax.get_ylim())
        ax.set_ylim(0.95 * ticks[0], 1.05 * ticks[-1])
        ax.set_yticks(ticks, [f"{one:g}" for one in ticks])
        ax.minorticks_off()
        ax.legend(frameon=False)
    return fig


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten from the last one below `low` to the first one above `high`: two or more."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    first, last = max(one for one in every if one <= low), min(one for one in every if one >= high)
    return [one for one in every if first <= one <= last]


def spreads_text(panels: Mapping[str, Mapping[str, tuple]]) -> str:
    """The picture of `spreads` in words."""
    parts = [
        f"{name}, {xlabel} from {x[0]:g} to {x[-1]:g}: {measured[0]:.2g} to {measured[-1]:.2g}, by the formula "
        f"{formula[0]:.2g} to {formula[-1]:.2g}"
        for xlabel, curves in panels.items()
        for name, (x, measured, formula) in curves.items()
    ]
    return f"Relative error of ES, measured as points, the formula as a dashed line: {'; '.join(parts)}."


def against_truth(names: Sequence[str], means, errors, truth: float) -> Figure:
    """A row for each estimator: its mean with three standard errors, and the true gradient as a dashed line."""
    fig, ax = figures.subplots(size=(8.4, 0.55 * len(names) + 1.2))
    for row, (mean, error) in enumerate(zip(means, errors)):
        ax.errorbar(float(mean), row, xerr=3 * float(error), linestyle="none", markersize=8, **figures.style(row))
        label = f"{float(mean):.0f} ± {float(error):.0f}" if error else f"{float(mean):.0f}"
        ax.annotate(
            label,
            (1.0, row),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    ax.axvline(truth, color="black", linestyle="--", linewidth=1.2, label="true gradient")
    ax.axvline(0, color=FAINT, linewidth=1)
    ax.legend(loc="lower center", frameon=False)
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    ax.set(xlabel="estimate of dL_outer/dλ (± one standard error; bars: three)")
    return fig


def arrivals(paths: Mapping[str, tuple[Sequence[float], Tensor]], best: float) -> Figure:
    """λ of many descents against the unroll steps: their mean, a band from the lowest to the highest, and the best λ.

    paths: name → (unroll steps used [updates + 1], λ [updates + 1, runs]).
    """
    fig, ax = figures.subplots(size=(7.2, 3.9))
    for index, (name, (used, places)) in enumerate(paths.items()):
        look, steps = figures.style(index), np.asarray(used) / 1000
        ax.plot(steps, places.mean(1), label=name, markevery=max(1, len(used) // 8), **look)
        ax.fill_between(steps, places.amin(1), places.amax(1), color=look["color"], alpha=0.15, linewidth=0)
    ax.axhline(best, color="black", linestyle="--", linewidth=1.2)
    ax.text(0, best, "best λ", va="top")
    ax.set(xlabel="unroll steps (thousands)", ylabel="λ")
    fig.legend(loc="outside upper center", ncols=len(paths), frameon=False)
    return fig


def arrivals_text(paths: Mapping[str, tuple[Sequence[float], Tensor]], best: float) -> str:
    """The picture of `arrivals` in words."""
    ends = ", ".join(
        f"{name} from {float(places[0].mean()):.2f} to {float(places[-1].mean()):.2f}"
        for name, (_, places) in paths.items()
    )
    runs = len(next(iter(paths.values()))[1][0])
    return f"λ against unroll steps, means of {runs} descents; best λ {best:.2f}: {ends}."


def tuning(lam, losses, paths: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Left: the outer loss, and where each descent ends. Right: λ against the unroll steps used, a line for each."""
    fig, (left, right) = figures.subplots(1, 2, size=(9.8, 4.0))
    left.plot(lam, losses, color=FAINT, linewidth=1, marker="")
    for index, (name, (used, places)) in enumerate(paths.items()):
        look = figures.style(index)
        height = float(np.interp(places[-1], lam, losses))
        left.plot(places[-1], height, markersize=11, markeredgecolor="black", linestyle="none", zorder=5, **look)
        right.plot(np.asarray(used) / 1000, places, label=name, markevery=max(1, len(used) // 8), **look)
    first = next(iter(paths.values()))[1][0]
    left.set(xlabel="λ, log of the inner rate", ylabel="outer loss on the queries", yscale="log")
    left.axvline(first, color="black", linestyle=":", linewidth=1)
    left.text(first, left.get_ylim()[1], "start ", ha="right", va="top")
    right.set(xlabel="unroll steps (thousands)", ylabel="λ, log of the inner rate")
    fig.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=len(paths), frameon=False)
    return fig


def tuning_text(lam, losses, paths: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """The picture of `tuning` in words."""
    ends = ", ".join(
        f"{name} at {places[-1]:.2f} (loss {float(np.interp(places[-1], lam, losses)):.2f})"
        for name, (_, places) in paths.items()
    )
    best = float(np.asarray(lam)[np.argmin(losses)])
    first = next(iter(paths.values()))[1][0]
    return f"Descents on the log of the rate from {first:.2f}; the loss is lowest near {best:.2f}. They end: {ends}."
