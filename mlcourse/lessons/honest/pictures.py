"""The pictures of notebook 12: seeds, two intervals, calibration, shift, price, and broken promises."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter
from torch import Tensor

from mlcourse import statistics
from mlcourse.episodes import Episode
from mlcourse.lessons.honest.contest import Log, Shifted, draws_of, numbered, ranks
from mlcourse.teaching import figures, forest
from mlcourse.teaching.forest import Line

COUNTS = (8, 16, 32, 64, 128, 256, 512, 1000, 2000, 5000, 10_000)  # of tasks, for the slider
DRAWS = 1000  # of clusters
HOLLOW = {"linestyle": "none", "markersize": 10, "markerfacecolor": "none", "markeredgewidth": 2}  # hides nothing


# ------------------------------------------------------------------ six lines


def line(name: str, log: Log, interval) -> Line:
    """A line of the forest plot. interval: over scripts, of (right, script) → (lower, upper), in percent."""
    mean, half = statistics.mean_interval(log.right)
    lower, upper = (float(end) for end in interval(log.right, numbered(log.script)))
    over_tasks = tuple(end / 100 for end in (mean, mean - half, mean + half))
    return Line(name, over_tasks, (mean / 100, lower / 100, upper / 100), None)


def seeds(lines: Sequence[Line], band: Sequence[str], *, title: str) -> Figure:
    """The forest plot of the lines; a grey band from the lowest to the highest mean of those that `band` names."""
    fig = forest.forest(lines, title=title, clusters="scripts")
    (ax,) = fig.axes
    handles, labels = ax.get_legend_handles_labels()
    for legend in list(fig.legends):
        legend.remove()
    means = [100 * line.over_episodes[0] for line in lines if line.name in band]
    grey = ax.axvspan(min(means), max(means), color="#888888", alpha=0.25, linewidth=0, zorder=0)
    words = [*(label.replace("episodes", "tasks") for label in labels), f"means of {len(means)} seeds"]
    fig.legend([*handles, grey], words, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    return fig


def seeds_text(lines: Sequence[Line], band: Sequence[str], *, title: str) -> str:
    """The picture of `seeds` in words."""
    means = [100 * line.over_episodes[0] for line in lines if line.name in band]
    told = "; ".join(
        f"{line.name} {100 * line.over_episodes[0]:.1f} %, {100 * line.over_data[1]:.1f} to "
        f"{100 * line.over_data[2]:.1f} over scripts"
        for line in lines
    )
    return (
        f"Forest plot of {title}: accuracies with intervals over tasks and over scripts. {told}. A grey band from "
        f"{min(means):.1f} to {max(means):.1f} % holds the means of {len(means)} of them."
    )


# ------------------------------------------------------------------ the number of tasks


class Intervals:
    """Both intervals of a mean, for every number of tasks: the first so many of a log."""

    def __init__(self, right: Tensor, script: Tensor, scripts: Sequence[str], counts: Sequence[int] = COUNTS):
        """right [tasks] in percent; script [tasks]: which of `scripts` each task is of."""
        self.counts = [n for n in counts if n <= len(right)]
        self.right, self.script = right.double(), script
        self.scripts = [scripts[k] for k in script.unique().tolist()]
        generator = torch.Generator().manual_seed(0)
        self.rows = [self._row(n, generator) for n in self.counts]

    def _row(self, n: int, generator: torch.Generator) -> tuple[float, float, float, float]:
        """Mean, half width over tasks, lower and upper end over scripts."""
        right, script = self.right[:n], numbered(self.script[:n])
        mean, half = statistics.mean_interval(right)
        many = int(script.max()) + 1
        zeros = torch.zeros(many, dtype=torch.float64)
        sums, sizes = zeros.index_add(0, script, right), zeros.index_add(0, script, torch.ones_like(right))
        draws = draws_of(script, DRAWS, generator)
        means = sums[draws].sum(1) / sizes[draws].sum(1)
        ends = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64))
        return mean, half, *ends.tolist()

    def of_scripts(self, n: int) -> list[float]:
        """The mean of each script over the first n tasks; nan where it has none."""
        right, script = self.right[:n], self.script[:n]
        names = self.script.unique().tolist()
        return [right[script == k].mean().item() if (script == k).any() else math.nan for k in names]

    def draw(self, tasks: int, fig: Figure | None = None) -> tuple[Figure, str]:
        """Left, half the width of both intervals for all numbers of tasks; right, the intervals at `tasks`."""
        fig = figures.redraw(fig, self._axes, self._at, tasks)
        mean, half, lower, upper = self.rows[self.counts.index(tasks)]
        return fig, (
            f"{tasks} tasks: {mean:.1f} ± {half:.2f} % over tasks; {lower:.1f} to {upper:.1f} % over scripts "
            f"(95 % intervals, running statistics, inductive)."
        )

    def text(self, tasks: int) -> str:
        """The picture of `draw` in words."""
        mean, half, lower, upper = self.rows[self.counts.index(tasks)]
        first, last = self.rows[0], self.rows[-1]
        return (
            f"Half widths of two intervals against the number of tasks. Over tasks it falls from {first[1]:.1f} points "
            f"at {self.counts[0]} tasks to {last[1]:.2f} at {self.counts[-1]}; over scripts it is "
            f"{(last[3] - last[2]) / 2:.1f} at the end. At {tasks} tasks: mean {mean:.1f} %, {mean - half:.1f} to "
            f"{mean + half:.1f} over tasks, {lower:.1f} to {upper:.1f} over scripts."
        )

    def _axes(self) -> Figure:
        fig, (left, right) = figures.subplots(1, 2, size=(9.2, 3.9), width_ratios=(1.05, 1))
        halves = np.array([[row[1], (row[3] - row[2]) / 2] for row in self.rows])
        for index, name in enumerate(("over tasks", "over scripts")):
            left.plot(self.counts, halves[:, index], label=name, **figures.style(index))
        left.set(xscale="log", yscale="log", xlabel="number of tasks", ylabel="half the width (points)")
        ticks = [n for n in (8, 32, 128, 512, 2000, 10_000) if n <= self.counts[-1]]
        left.minorticks_off()
        left.set_xticks(ticks, [f"{n:,}" for n in ticks])
        low, high = halves[halves > 0].min(), halves.max()
        ticks = [one for one in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if low / 1.5 <= one <= high * 1.5]
        left.set_yticks(ticks, [f"{one:g}" for one in ticks])
        left.legend(loc="lower left", fontsize=11)
        means = [one for one in self.of_scripts(self.counts[-1]) if not math.isnan(one)]
        right.set(xlim=(min(means) - 15, min(100.5, max(means) + 15)), ylim=(-0.6, 2.9))
        right.set(xlabel="accuracy (%)", yticks=(0, 1, 2))
        right.set_yticklabels(["each script", "over scripts", "over tasks"])
        return fig

    def _at(self, left, right, tasks: int) -> list:
        mean, half, lower, upper = self.rows[self.counts.index(tasks)]
        moving = [left.axvline(tasks, color="#444444", linestyle="--", linewidth=1, marker="")]
        for place, (low, high) in ((2, (mean - half, mean + half)), (1, (lower, upper))):
            colour = figures.COLOURS[2 - place]
            moving += right.plot([low, high], [place, place], color=colour, linewidth=6, marker="", zorder=2)
            moving += right.plot([mean], [place], "o", color="white", markeredgecolor=colour, markersize=6, zorder=3)
            words = f"{low:.1f} to {high:.1f}"
            moving.append(right.text(mean, place + 0.25, words, ha="center", va="bottom", fontsize=11))
        found = [one for one in self.of_scripts(tasks) if not math.isnan(one)]
        moving += right.plot(found, [0] * len(found), "|", color="#444444", markersize=16, markeredgewidth=2)
        return moving


# ------------------------------------------------------------------ the hardest task


def hardest(episode: Episode, task: int, right: Tensor) -> Figure:
    """`figures.episode` with a frame around each query that is answered wrongly. right: bool [queries]."""
    fig = figures.episode(episode, task)
    labels, (height, width) = episode.query_y[task].cpu(), episode.query_x.shape[-2:]
    for label in labels.unique().tolist():
        for column, one in enumerate(right.cpu()[labels == label].tolist()):
            if not one:
                corner = 1 + column * (width + 2), 1 + label * (height + 2)
                fig.axes[1].add_patch(
                    Rectangle(corner, width + 1, height + 1, fill=False, edgecolor=figures.COLOURS[1], linewidth=3)
                )
    return fig


# ------------------------------------------------------------------ calibration


def reliability(tables: Mapping[str, Tensor]) -> Figure:
    """How often answers are right, against how sure they are: name → table of `statistics.reliability`."""
    fig, axes = figures.subplots(1, len(tables), size=(3.9 * len(tables), 3.9), sharey=True, squeeze=False)
    for ax, (name, table) in zip(axes[0], tables.items()):
        counts, sure, right = table.T[:3].numpy()
        there = counts > 0
        sure, right, share = sure[there] / counts[there], right[there] / counts[there], counts[there] / counts.sum()
        ax.plot([0, 1], [0, 1], color="#444444", linestyle="--", linewidth=1, marker="")
        ax.vlines(sure, sure, right, color=figures.COLOURS[1], linewidth=2, zorder=1)
        ax.scatter(sure, right, s=30 + 600 * share, color=figures.COLOURS[0], edgecolor="white", zorder=2)
        error = 100 * statistics.calibration_error(table)
        ax.set(xlim=(0, 1.03), ylim=(0, 1.03), aspect="equal", title=f"{name}: error {error:.1f} points")
        ax.set_xlabel("confidence")
    axes[0, 0].set_ylabel("share of right answers")
    return fig


def reliability_text(tables: Mapping[str, Tensor]) -> str:
    """The picture of `reliability` in words."""
    told = []
    for name, table in tables.items():
        counts, sure, right = table.sum(0)[:3].tolist()
        told.append(
            f"{name}: mean confidence {100 * sure / counts:.1f} %, right {100 * right / counts:.1f} %, calibration "
            f"error {100 * statistics.calibration_error(table):.1f} points"
        )
    return f"Confidence against the share of right answers, bin by bin. {'; '.join(told)}."


# ------------------------------------------------------------------ shift


def slope(results: Mapping[str, Mapping[str, Shifted]]) -> Figure:
    """One line per method, from data set to data set: above its accuracy, below its rank."""
    fig, (top, below) = figures.subplots(2, 1, size=(8.2, 7.4), sharex=True, height_ratios=[1.2, 1])
    data, methods = list(results), list(next(iter(results.values())))
    places = [ranks(dict(results[one])) for one in data]
    for index, name in enumerate(methods):
        top.plot([results[one][name].mean for one in data], label=name, markersize=8, **figures.style(index))
        shifted = [found[name] + 0.16 * _before(found, name) for found in places]  # those that share a rank stay apart
        below.plot(shifted, markersize=8, **figures.style(index))
    for place, one in enumerate(data):
        order = sorted(methods, key=lambda name, one=one: -results[one][name].mean)
        words = "\n".join(f"{places[place][name]}. {name}" for name in order)
        top.annotate(words, (place, 1.02), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=10)
    top.axhline(20, color="#444444", linestyle="--", linewidth=1, marker="")
    top.text(-0.38, 20.8, "chance", ha="left", va="bottom", fontsize=10)
    top.set(xlim=(-0.4, len(data) - 0.6), ylabel="accuracy (%)")
    below.set(ylabel="rank", ylim=(len(methods) + 0.6, 0.6), yticks=range(1, len(methods) + 1))
    below.set_xticks(range(len(data)), data)
    top.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=11)
    return fig


def _before(found: Mapping[str, int], name: str) -> int:
    """How many methods that share the rank stand before `name`."""
    return [one for one in found if found[one] == found[name]].index(name)


def slope_text(results: Mapping[str, Mapping[str, Shifted]]) -> str:
    """The picture of `slope` in words."""
    told = []
    for data, methods in results.items():
        found = ranks(dict(methods))
        order = sorted(methods, key=lambda name: -methods[name].mean)
        told.append(f"{data}: " + ", ".join(f"{found[n]}. {n} {methods[n].mean:.1f} %" for n in order))
    return f"Accuracy of each method on each data set, ranks with ties. {'; '.join(told)}."


def price(methods: Mapping[str, Shifted], *, title: str) -> Figure:
    """Accuracy against counted FLOP of the training, and of one task at test."""
    fig, axes = figures.subplots(1, 2, size=(8.8, 4.2), sharey=True)
    for ax, what, words in zip(axes, ("training", "episode"), ("of the training", "of one task at test")):
        counted = [getattr(one, what) for one in methods.values() if getattr(one, what)]
        for index, (name, one) in enumerate(methods.items()):
            flop = getattr(one, what)
            mean, half = one.interval
            if flop:
                look = figures.style(index) | HOLLOW
                ax.errorbar(flop, mean, yerr=half, label=name, **look)
        ax.set(xscale="log", xlabel=f"FLOP {words}", xlim=(min(counted) / 4, max(counted) * 4))
        ax.xaxis.set_minor_formatter(NullFormatter())
    untrained = ", ".join(name for name, one in methods.items() if not one.training)
    if untrained:
        words = f"no training, so not here:\n{untrained}"
        axes[0].text(0.04, 0.04, words, transform=axes[0].transAxes, ha="left", va="bottom", fontsize=10)
    axes[0].set_ylabel(f"accuracy on {title} (%)")
    fig.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    return fig


def price_text(methods: Mapping[str, Shifted], *, title: str) -> str:
    """The picture of `price` in words."""
    told = "; ".join(
        f"{name} {one.mean:.1f} % for {one.training:.2g} FLOP of training and {one.episode:.2g} per task"
        for name, one in methods.items()
        if one.training
    )
    return f"Accuracy on {title} against counted floating-point operations: {told}."


# ------------------------------------------------------------------ promises


def promises(tables: Mapping[str, tuple[Tensor, Tensor]], truth: float, *, most: int = 40) -> Figure:
    """Intervals of many people and the mean over all scripts: name → the two parts of `contest.trials`."""
    fig, axes = figures.subplots(1, len(tables), size=(4.6 * len(tables), 3.9), sharey=True, squeeze=False)
    for ax, (name, (table, holds)) in zip(axes[0], tables.items()):
        shown = range(min(most, len(table)))
        for held, look in ((True, figures.style(0)), (False, figures.style(1))):
            places = [k for k in shown if bool(holds[k]) == held]
            if places:
                mean, lower, upper = table[places].T.numpy()
                ends = np.maximum([mean - lower, upper - mean], 0)
                words = "holds the truth" if held else "misses it"
                ax.errorbar(places, mean, yerr=ends, linestyle="none", markersize=4, label=words, **look)
        ax.axhline(truth, color="black", linewidth=1.5, marker="")
        ax.set(
            title=f"{name}:\n{100 * holds.double().mean():.0f} % hold it",
            xlabel=f"person (the first {len(shown)})",
            xticks=[],
        )
    axes[0, 0].set_ylabel("accuracy (%)")
    fig.legend(
        *max((ax.get_legend_handles_labels() for ax in axes[0]), key=lambda pair: len(pair[1])),
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    return fig


def promises_text(tables: Mapping[str, tuple[Tensor, Tensor]], truth: float, *, most: int = 40) -> str:
    """The picture of `promises` in words."""
    told = "; ".join(
        f"{name}: {int(holds.sum())} of {len(holds)} intervals hold it, mean width "
        f"{float((table[:, 2] - table[:, 1]).mean()):.1f} points"
        for name, (table, holds) in tables.items()
    )
    return (
        f"Intervals of people who have some of the scripts (at most {most} are drawn), and the mean over all, "
        f"{truth:.1f} %. {told}."
    )
