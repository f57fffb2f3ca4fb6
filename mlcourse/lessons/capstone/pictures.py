"""Pictures of notebook 17: two domains, who leads where, own pictures, the road ahead, the path of a learner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure

from mlcourse.datasets import ClassImages
from mlcourse.lessons.capstone import stored
from mlcourse.lessons.capstone.exam import Answers, Own
from mlcourse.teaching import figures
from mlcourse.teaching.finish import Row

# the parts of the course, by the first of their notebooks
PARTS = {
    "I  two losses": "00",
    "II  meta-networks": "03",
    "III  meta-gradients": "05",
    "IV  meta-optimization": "09",
    "V  meta-learning sees": "12",
    "VI  yours": "17",
}


# ------------------------------------------------------------------ two domains


def samples(domains: Mapping[str, ClassImages], classes: int = 6, each: int = 3) -> Figure:
    """A few classes of each domain, one class in a column."""
    fig, axes = figures.subplots(1, len(domains), size=(7.4, 2.4))
    for ax, (name, images) in zip(axes, domains.items(), strict=True):
        chosen = torch.linspace(0, images.classes - 1, classes).long().tolist()
        rows = [images.of_class(k)[row] for row in range(each) for k in chosen]
        shown = torch.stack(rows)
        # characters have bright ink, which is drawn dark on paper; in all others bright is bright
        figures.draw_tiles(ax, shown if name == "characters" else shown.expand(-1, 3, -1, -1), classes)
        ax.set_title(f"{name}: {images.classes} classes", fontsize=12)
    return fig


def samples_text(domains: Mapping[str, ClassImages], classes: int = 6, each: int = 3) -> str:
    """The same in words."""
    told = " and ".join(f"{name} ({images.classes} classes)" for name, images in domains.items())
    return f"Samples of two domains, {told}: {classes} classes each, one in a column, {each} pictures of each."


# ------------------------------------------------------------------ who leads where


def board(answers: Mapping[str, Mapping[str, Answers]]) -> Figure:
    """Domain → method → answers: normalised accuracy with its two intervals, a panel for each domain."""
    fig, axes = figures.subplots(1, len(answers), size=(8.4, 2.9), sharey=True)
    for ax, (domain, rows) in zip(axes, answers.items(), strict=True):
        for place, (_, one) in enumerate(rows.items()):
            value, half = one.over_tasks
            look = figures.style(place)
            ax.errorbar(value, place, xerr=one.over_data, elinewidth=1, capsize=3, **look)
            ax.errorbar(value, place, xerr=half, elinewidth=4, capsize=0, markersize=8, **look)
            ax.annotate(
                f"{value:.2f}", (value, place), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=10
            )
        ax.set_title(domain, fontsize=12)
        ax.set(xlim=(0, 1), xlabel="normalised accuracy", ylim=(len(rows) - 0.4, -0.75))
    axes[0].set_yticks(range(len(rows)), list(rows))
    return fig


def board_text(answers: Mapping[str, Mapping[str, Answers]]) -> str:
    """The same in words."""
    told = []
    for domain, rows in answers.items():
        order = sorted(rows, key=lambda name: -rows[name].over_tasks[0])
        values = ", ".join(
            f"{name} {rows[name].over_tasks[0]:.2f} (± {rows[name].over_tasks[1]:.2f} over tasks)" for name in order
        )
        told.append(f"{domain}: {values}")
    return f"Normalised accuracy of {len(rows)} learners, the best first. {'; '.join(told)}."


# ------------------------------------------------------------------ one's own pictures


def own(images: ClassImages, answers: Own) -> Figure:
    """All pictures, a class in a row, and below each how often it was named right."""
    labels = [f"{100 * share:.0f} %" for share in answers.right.tolist()]
    return figures.grid(images.images, int(images.counts.max()), labels=labels, width=4.6)


def own_text(images: ClassImages, answers: Own) -> str:
    """The same in words."""
    per_class = answers.right.split(images.counts.tolist())
    told = ", ".join(f"{name} {100 * part.mean():.0f} %" for name, part in zip(images.names, per_class, strict=True))
    return (
        f"{len(images.images)} pictures in {images.classes} rows, one row a class, with the share of the choices of "
        f"support pictures in which each was named right. Mean by class: {told}."
    )


# ------------------------------------------------------------------ the road ahead


def prices() -> Figure:
    """Accuracy by number of training classes, on characters and on drawn faces, beside what needs no training."""
    fig, axes = figures.subplots(1, 2, size=(8.4, 3.3), sharey=True)
    for ax, domain in zip(axes, ("characters", "drawn faces"), strict=True):
        curve = stored.by_classes(f"{domain}, 1-shot")
        (line,) = ax.plot(curve.classes, _percent(curve.mean), label="prototypical network", **figures.style(0))
        ax.fill_between(
            curve.classes, _percent(curve.low), _percent(curve.high), color=line.get_color(), alpha=0.2, lw=0
        )
        for index, (name, value) in enumerate(stored.untrained(f"{domain}, 1-shot").items(), start=1):
            stroke = "--" if index == 1 else "-."
            ax.axhline(100 * value, color=figures.COLOURS[index], linestyle=stroke, label=f"{name}, nothing trained")
        ax.set(xscale="log", xlabel="training classes", title=f"new {domain}", ylim=(20, 100))
        ax.set_xticks(curve.classes, curve.classes)
        ax.minorticks_off()
    axes[0].set_ylabel("accuracy (%), 5-way 1-shot")
    axes[0].legend(fontsize=9, loc="upper left")
    return fig


def prices_text() -> str:
    """The same in words."""
    told = []
    for domain in ("characters", "drawn faces"):
        curve = stored.by_classes(f"{domain}, 1-shot")
        pairs = ", ".join(f"{m:.0f} % from {n}" for n, m in zip(curve.classes, _percent(curve.mean), strict=True))
        flat = ", ".join(f"{name} {100 * v:.0f} %" for name, v in stored.untrained(f"{domain}, 1-shot").items())
        told.append(f"On new {domain} a prototypical network reaches {pairs} training classes; {flat}")
    return f"Accuracy in 5-way 1-shot tasks by the number of training classes. {'. '.join(told)}."


def speed() -> Figure:
    """Left: seconds of one MAML step, by workload and way. Right: what is kept for backward, by inner steps."""
    times, kept = stored.step_times(), stored.growth("steps")
    fig, (left, right) = figures.subplots(1, 2, size=(8.4, 3.2))
    for index, way in enumerate(("plain loop", "higher", "side by side")):
        values = [times[name][way] for name in times]
        left.plot(range(len(times)), values, label=way, linestyle="none", markersize=9, **figures.style(index))
    left.set_xticks(range(len(times)), list(times))
    left.set(yscale="log", ylabel="seconds of one outer step", xlabel="workload", xlim=(-0.4, 4.4))
    left.legend(fontsize=9)
    for way, rows in kept.items():
        look = figures.style(0 if way == "plain loop" else 2)
        right.plot([n for n, *_ in rows], [mb for *_, mb in rows], label=way, **look)
    right.set(xlabel="inner steps (workload W2)", ylabel="kept for backward (MB)", ylim=(0, None))
    right.legend(fontsize=9)
    return fig


def speed_text() -> str:
    """The same in words."""
    times, kept = stored.step_times(), stored.growth("steps")
    gain = [one["plain loop"] / one["side by side"] for one in times.values()]
    rows = kept["plain loop"]
    return (
        f"Seconds of one second-order MAML step on {len(times)} workloads: tasks side by side are {min(gain):.1f} to "
        f"{max(gain):.1f} times as fast as the plain loop. What is kept for backward grows with the inner steps, from "
        f"{rows[0][2]:.0f} MB at {rows[0][0]} to {rows[-1][2]:.0f} MB at {rows[-1][0]}."
    )


def _percent(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


# ------------------------------------------------------------------ the path


def _part_of(number: str) -> str:
    return [name for name, first in PARTS.items() if first <= number][-1]


def path(rows: Sequence[Row]) -> Figure:
    """The notebooks as stations, a part in a line: done (the core is passed), begun, or not begun."""
    stations = [row for row in rows if row.exercises]
    lines: dict[str, list[Row]] = {name: [] for name in PARTS}
    for row in stations:
        lines[_part_of(row.number)].append(row)
    fig, ax = figures.subplots(size=(7.6, 4.4))
    places = []
    for height, some in enumerate(lines.values()):
        there = some if height % 2 == 0 else some[::-1]  # the path winds
        step = {row.number: x for x, row in enumerate(there)}
        shift = 0 if height % 2 == 0 else 4 - len(some)
        places += [(step[row.number] + shift, -height, row) for row in some]
    ax.plot([x for x, *_ in places], [y for _, y, _ in places], color="#999999", linewidth=1.5, marker="", zorder=1)
    for x, y, row in places:
        colour, edge, shape = LOOKS[_state(row)]
        ax.plot(x, y, shape, markersize=24, color=colour, markeredgecolor=edge, markeredgewidth=2, zorder=2)
        ax.annotate(row.number, (x, y), ha="center", va="center", fontsize=11, color="white" if row.done else "black")
        share = len(set(row.passed) & set(row.exercises))
        ax.annotate(f"{share}/{len(row.exercises)}", (x, y - 0.48), ha="center", va="center", fontsize=8)
    for height, name in enumerate(lines):
        ax.annotate(name, (-0.7, -height), ha="right", va="center", fontsize=11)
    ax.set(xlim=(-3.2, 4.6), ylim=(-len(lines) + 0.2, 0.5))
    ax.set_axis_off()
    for state, (colour, edge, shape) in LOOKS.items():
        ax.plot([], [], shape, color=colour, markeredgecolor=edge, markeredgewidth=2, markersize=11, label=state)
    fig.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return fig


LOOKS = {
    "core passed": (figures.COLOURS[2], figures.COLOURS[2], "o"),
    "begun": ("#FFFFFF", figures.COLOURS[3], "s"),
    "not begun": ("#FFFFFF", "#999999", "o"),
}


def _state(row: Row) -> str:
    return "core passed" if row.done else "begun" if row.state != "not begun" else "not begun"


def path_text(rows: Sequence[Row]) -> str:
    """The same in words. Where nothing is done, it says so."""
    stations = [row for row in rows if row.exercises]
    total, passed = sum(len(row.exercises) for row in stations), sum(len(row.passed) for row in stations)
    if not any(_state(row) != "not begun" for row in stations):
        return (
            f"Your path through the course, {len(stations)} notebooks with {total} exercises: nothing is done yet. "
            "Notebook 00 is the first station."
        )
    told = {state: [row.number for row in stations if _state(row) == state] for state in LOOKS}
    words = "; ".join(f"{state}: {', '.join(numbers) or 'none'}" for state, numbers in told.items())
    return f"Your path through the course: {passed} of {total} exercises passed. Notebooks by state: {words}."
