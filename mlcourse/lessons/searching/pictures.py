"""Pictures of notebook 09: the outer loss over a rate, regret against cost, weights of examples, horizon and rate.

`horizon` is a plain drawing function for `widgets.explore`: it changes the artists of the figure that it is given
(`fig`). The matching `…_text` functions put the same pictures in words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mlcourse.lessons.searching.noisy_quadratic import STEEP_AND_FLAT, NoisyQuadratic
from mlcourse.statistics import student_interval
from mlcourse.teaching import figures

# colour and marker of each way, the same in all pictures
INDEX = {"hypergradient": 0, "unrolled": 0, "TPE": 1, "random search": 2, "truncated": 5, "implicit": 4}
FAINT = "#888888"

Runs = Sequence[Sequence[float]]
Regret = Mapping[str, tuple[Sequence[float], Runs]]


# ------------------------------------------------------------------ the outer loss over one rate


def tangents(rates: Sequence[float], losses: Sequence[float], points: Sequence[tuple[float, float, float]]) -> Figure:
    """The outer loss over the learning rate, and at some rates (rate, loss, slope in log rate) the tangent.

    Both axes are logarithmic, so that a loss that jumps to many times its lowest value stays in the picture.
    """
    fig, ax = figures.subplots(size=(7, 3.6))
    ax.plot(rates, losses, color=figures.COLOURS[2], marker="", label="outer loss after T steps")
    reach = np.array([-0.45, 0.45])
    for place, (rate, loss, slope) in enumerate(points):
        look = {"color": figures.COLOURS[1], "marker": "", "linewidth": 3}
        label = None if place else "hypergradient"
        # the slope of log loss is slope / loss: a straight line on these axes
        ax.plot(rate * np.exp(reach), loss * np.exp(slope / loss * reach), **look, label=label)
        ax.plot(rate, loss, color=figures.COLOURS[0], marker="o", markersize=8, linestyle="none", zorder=5)
    ax.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="validation loss")
    ax.set(ylim=(0.85 * min(losses), 1.6 * max(losses)))  # the legend stands above the curve
    ax.minorticks_off()
    ax.set(xticks=(0.01, 0.1, 1, 10), xticklabels=("0.01", "0.1", "1", "10"))
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if min(losses) < tick < 1.3 * max(losses)]
    ax.set(yticks=ticks, yticklabels=[f"{tick:g}" for tick in ticks])
    ax.legend(loc="upper left", ncols=2)
    return fig


def tangents_text(rates: Sequence[float], losses: Sequence[float], points: Sequence[tuple[float, float, float]]) -> str:
    """The picture of `tangents` in words."""
    best = int(np.argmin(losses))
    after = losses[best:]
    turns = sum((b - a) * (c - b) < 0 for a, b, c in zip(after, after[1:], after[2:]))
    slopes = ", ".join(f"{slope:+.2f} at rate {rate:.2g}" for rate, _, slope in points)
    return (
        f"The validation loss over the learning rate: {losses[0]:.2f} at rate {rates[0]:.2g}, lowest "
        f"{losses[best]:.2f} at rate {rates[best]:.2g}, {losses[-1]:.2f} at rate {rates[-1]:.2g}. To the "
        f"right of the lowest point it changes direction {turns} times, and its highest value is {max(losses):.2f}. "
        f"Its slopes: {slopes}."
    )


# ------------------------------------------------------------------ regret against cost


def regret(curves: Regret) -> Figure:
    """Regret against cost, the mean over tasks with the 95 % interval of this mean as a band.

    curves: name → (costs [m], one curve [m] for each task).
    """
    fig, ax = figures.subplots(size=(7.4, 3.9))
    for name, (costs, runs) in curves.items():
        mean, half = band(runs)
        look = figures.style(INDEX.get(name, 3))
        ax.plot(costs, mean, label=name, markevery=max(1, len(costs) // 7), **look)
        ax.fill_between(costs, mean - half, mean + half, color=look["color"], alpha=0.15, linewidth=0)
    ax.set(xlabel="cost (gradient evaluations)", ylabel="regret (validation loss)", xlim=(0, None), ylim=(0, None))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def band(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the runs [tasks, m] at each cost, and the half width of its 95 % interval (0 for a single run)."""
    pairs = [student_interval(torch.as_tensor(column)) for column in np.asarray(runs, float).T]
    mean, half = np.array(pairs).T
    return mean, np.nan_to_num(half)


def regret_text(curves: Regret) -> str:
    """The picture of `regret` in words: where each curve begins and ends."""
    words = []
    for name, (costs, runs) in curves.items():
        mean, half = band(runs)
        words.append(f"{name} from {mean[0]:.2f} to {mean[-1]:.2f} ± {half[-1]:.2f}")
        last = costs[-1]
    return f"Mean regret within {last:.0f} gradient evaluations: {'; '.join(words)}."


# ------------------------------------------------------------------ weights of examples


def weights(values: Tensor, wrong: Tensor, images: Tensor, claimed: Tensor) -> Figure:
    """Left: how the weights [n] of right and wrong labels are spread. Right: the examples with the lowest weights.

    images, claimed: [m, H, W] above, an example; below it, another picture of the class that its label names.
    """
    fig, (left, right) = figures.subplots(1, 2, size=(9.4, 3.6), width_ratios=(1, 1.25))
    bins = np.linspace(0, 1, 11)
    groups = [("right label", 0, values[~wrong]), ("wrong label", 1, values[wrong])]
    left.hist(
        [group.numpy() for _, _, group in groups],
        bins,
        color=[figures.COLOURS[index] for _, index, _ in groups],
        label=[name for name, _, _ in groups],
    )
    for index, bars in enumerate(left.containers):
        for bar in bars:
            bar.set_hatch(("", "//")[index])
    left.set(xlabel="weight of the example", ylabel="examples", xlim=(0, 1))
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    figures.draw_tiles(right, torch.cat([images, claimed]), columns=len(images))
    right.set_title("lowest weights: image, and what its label says")
    return fig


def weights_text(values: Tensor, wrong: Tensor, shown_wrong: int, shown: int) -> str:
    """The picture of `weights` in words."""
    means = [values[~wrong].mean().item(), values[wrong].mean().item()]
    return (
        f"Weights of {len(values)} examples: those with a right label have a mean of {means[0]:.2f}, those with a "
        f"wrong one {means[1]:.2f}. Of the {shown} with the lowest weights, {shown_wrong} carry a wrong label: "
        "image and label do not match."
    )


# ------------------------------------------------------------------ horizon and rate


LAST = 200  # steps of the whole training
ABOVE = "loss above the lowest"  # expected; the noise of the targets adds ½ Σ h σ² to it, whatever φ is
RATES = STEEP_AND_FLAT.rates(count=240)
STEPS = np.unique(np.geomspace(1, LAST, 40).round().astype(int))


def _problem(noise: float) -> NoisyQuadratic:
    return replace(STEEP_AND_FLAT, noise=(noise, noise))


def chosen_of(steps: int, noise: float) -> tuple[float, float, float, float]:
    """The rate that is best after `steps`, the one that is best after all, and the loss of both after all steps."""
    problem = _problem(noise)
    short, long = (float(RATES[problem.expected_loss(RATES, count).argmin()]) for count in (steps, LAST))
    return short, long, *(float(problem.expected_loss(rate, LAST)) for rate in (short, long))


def horizon(horizon_T: int, noise: float, fig: Figure | None = None) -> tuple[Figure, str]:
    """Left: the loss (ABOVE) over the rate after T steps, and after all. Right: training with the two chosen rates."""
    fig = figures.redraw(fig, _horizon_axes, _horizon_at, horizon_T, noise)
    short, long, here, best = chosen_of(horizon_T, noise)
    return fig, (
        f"T = {horizon_T} chooses rate {short:.3f}; {LAST} steps would choose {long:.3f}. "
        f"Expected loss above the lowest after {LAST} steps: {here:.3f} against {best:.3f}."
    )


def horizon_text(horizon_T: int, noise: float) -> str:
    """The picture of `horizon` in words."""
    short, long, here, best = chosen_of(horizon_T, noise)
    return (
        f"The expected loss above the lowest possible one. With noise {noise:.1f}, after {horizon_T} steps it is least "
        f"at rate {short:.3f}, after {LAST} steps at rate {long:.3f}. Trained to the end, the first rate gives "
        f"{here:.3f}, the second {best:.3f}."
    )


def _horizon_axes() -> Figure:
    fig, (left, right) = figures.subplots(1, 2, size=(8.8, 3.9))
    left.set(xscale="log", xlim=(RATES[0], RATES[-1]), ylim=(0, 1), xlabel="learning rate", ylabel=ABOVE)
    right.set(xscale="log", xlim=(1, LAST), ylim=(0, 1), xlabel="steps", ylabel=ABOVE)
    for ax in (left, right):
        ax.minorticks_off()
    left.set(xticks=(1e-3, 1e-2, 1e-1, 1), xticklabels=("0.001", "0.01", "0.1", "1"))
    right.set(xticks=(1, 10, 100), xticklabels=("1", "10", "100"))
    handles = [
        left.plot([], [], label="chosen by horizon T", **figures.style(0))[0],
        left.plot([], [], label=f"chosen by all {LAST} steps", **figures.style(1))[0],
    ]
    fig.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return fig


def _horizon_at(left: Axes, right: Axes, steps: int, noise: float) -> list:
    problem, (short, long, *_) = _problem(noise), chosen_of(steps, noise)
    moving = []
    for index, (rate, count) in enumerate(((short, steps), (long, LAST))):
        look = figures.style(index)
        line, point = look | {"marker": ""}, look | {"linestyle": "none", "markersize": 10, "zorder": 5}
        moving += left.plot(RATES, problem.expected_loss(RATES, count), **line)
        moving += left.plot(rate, problem.expected_loss(rate, count), **point)
        moving += right.plot(STEPS, problem.expected_loss(rate, STEPS), **line)
        moving += right.plot(LAST, problem.expected_loss(rate, LAST), clip_on=False, **point)
    moving.append(right.axvline(steps, color=FAINT, linestyle=":", linewidth=1.5))
    return moving
