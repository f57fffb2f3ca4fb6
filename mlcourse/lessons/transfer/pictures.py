"""Pictures of notebook 16: accuracy against counted FLOP, a teacher's bars at a temperature, pictures as they form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mlcourse.teaching import figures

Points = Mapping[str, Mapping[float, Sequence[float]]]  # way → FLOP → the accuracy of each training, in %
GREY = "#888888"
SHOWN = 8  # classes that a teacher's bars show


def known(name: str) -> str:
    """The name of a class as a learner reads it: "capital q"."""
    return name.split("/")[-1]


def letter(name: str) -> str:
    """The letter itself, where the name is "capital q" or "small q"; else the name."""
    case, _, rest = known(name).partition(" ")
    return {"capital": rest.upper(), "small": rest}.get(case, known(name)) if len(rest) == 1 else known(name)


# ------------------------------------------------------------------ accuracy against FLOP


def prices(points: Points, stored: Points | None = None) -> Figure:
    """Accuracies against counted FLOP: a small mark for each training, a line through their means.

    stored: longer trainings, in grey, with a band from the lowest to the highest of each.
    """
    fig, ax = figures.subplots(size=(7.0, 4.8 if stored else 4.2))
    for index, (name, row) in enumerate((stored or {}).items()):
        flop = sorted(row)
        marker = figures.MARKERS[-1 - index % len(figures.MARKERS)]
        ends = [[end(row[one]) for one in flop] for end in (min, max)]
        ax.fill_between(flop, *ends, color=GREY, alpha=0.25, linewidth=0)
        means = [float(np.mean(row[one])) for one in flop]
        ax.plot(flop, means, color=GREY, marker=marker, markersize=6, linewidth=1, label=f"stored: {name}")
    for index, (name, row) in enumerate(points.items()):
        flop, look = sorted(row), figures.style(index)
        ax.plot(flop, [float(np.mean(row[one])) for one in flop], label=name, markersize=8, **look)
        each = [(one, value) for one in flop for value in row[one]]
        ax.plot(*zip(*each, strict=True), linestyle="none", markersize=4, alpha=0.6, **look)
    ax.set(xscale="log", xlabel="FLOP of all training, counted", ylabel="accuracy on new characters (%)")
    every = [flop for row in (dict(points) | dict(stored or {})).values() for flop in row]
    ticks = _round_numbers(0.9 * min(every), 1.1 * max(every))
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.minorticks_off()
    if stored:  # six lines leave no corner free
        fig.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=10)
    else:
        ax.legend(fontsize=10)
    return fig


def _round_numbers(low: float, high: float) -> dict[float, str]:
    """1, 2 and 5 times the powers of ten from low to high, each as it is written."""
    found = {}
    for power in range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1):
        for first in (1, 2, 5):
            if low <= first * 10.0**power <= high:
                found[first * 10.0**power] = rf"${first}\times10^{{{power}}}$" if first > 1 else rf"$10^{{{power}}}$"
    return found


def prices_text(points: Points, stored: Points | None = None) -> str:
    """The picture of `prices` in words."""

    def told(name: str, row: Mapping[float, Sequence[float]]) -> str:
        pairs = [f"{', '.join(f'{a:.1f}' for a in each)} % at {flop:.2g} FLOP" for flop, each in sorted(row.items())]
        return f"{name} reaches {'; '.join(pairs)}"

    parts = [told(name, row) for name, row in points.items()]
    parts += [told(f"in grey, stored, {name}", row) for name, row in (stored or {}).items()]
    return f"Accuracy on tasks of new characters against the counted FLOP, training by training. {'. '.join(parts)}."


# ------------------------------------------------------------------ near photos and far from them

Places = Mapping[str, Mapping[str, tuple[float, float, float]]]  # place → method → mean and ends of its interval, in %


def near_and_far(places: Places, ways: Mapping[str, int]) -> Figure:
    """The accuracy of each method at each place, with its interval: a row for each place.

    ways: place → classes in a task; a small line marks what guessing gives, 1 / way.
    """
    fig, ax = figures.subplots(size=(7.2, 0.8 * len(places) + 1.6))
    names = list(dict.fromkeys(name for told in places.values() for name in told))
    for index, name in enumerate(names):
        rows = [(row, told[name]) for row, told in enumerate(places.values()) if name in told]
        height = [row + 0.17 * (index - (len(names) - 1) / 2) for row, _ in rows]
        means = [mean for _, (mean, _, _) in rows]
        ends = [[mean - low for _, (mean, low, _) in rows], [high - mean for _, (mean, _, high) in rows]]
        ax.errorbar(means, height, xerr=ends, label=name, markersize=7, **figures.style(index) | {"linestyle": "none"})
    chance = [100 / ways[name] for name in places]
    ax.plot(chance, range(len(places)), "|", color=GREY, markersize=16, markeredgewidth=2, label="chance")
    labels = [f"{name} ({ways[name]}-way)".replace(", ", ",\n") for name in places]
    ax.set(yticks=range(len(places)), yticklabels=labels)
    ax.set(ylim=(len(places) - 0.5, -0.5), xlabel="accuracy, one picture of each class (%)")
    fig.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=10)
    return fig


def near_and_far_text(places: Places, ways: Mapping[str, int]) -> str:
    """The picture of `near_and_far` in words."""
    told = []
    for where, each in places.items():
        means = ", ".join(f"{name} {mean:.1f} %" for name, (mean, _, _) in each.items())
        told.append(f"{where} ({ways[where]}-way, chance {100 / ways[where]:.1f} %): {means}")
    return f"Accuracy of a frozen network and its rivals, near its photos and far from them. {'; '.join(told)}."


# ------------------------------------------------------------------ the bars of a teacher


class Bars:
    """What a teacher says of a picture at a temperature: `draw` for `widgets.explore`, `text` the same in words."""

    def __init__(self, pictures: Tensor, logits: Tensor, labels: Tensor, names: Sequence[str]):
        """pictures [n, C, H, W] in [0, 1], the teacher's logits [n, classes], labels [n], names of all classes."""
        self.pictures = figures.as_pictures(pictures)
        self.logits, self.labels = logits.detach().double().cpu(), labels.cpu().tolist()
        self.names = [known(name) for name in names]
        self.order = self.logits.argsort(dim=1, descending=True)[:, :SHOWN].tolist()

    def choices(self) -> dict[str, int]:
        """What the menu shows: the true name of each picture."""
        return {self.names[label]: place for place, label in enumerate(self.labels)}

    def shares(self, letter: int, temperature: float) -> list[float]:
        """The probabilities of the classes that are shown, in per cent, the largest first."""
        p = (self.logits[letter] / temperature).softmax(0)
        return [100 * float(p[k]) for k in self.order[letter]]

    def draw(self, letter: int, temperature: float, fig: Figure | None = None) -> tuple[Figure, str]:
        """Left the picture, right a bar for each of the eight most probable classes."""
        fig = figures.redraw(fig, self._axes, self._at, letter, temperature)
        return fig, self._told(letter, temperature)

    def text(self, letter: int, temperature: float) -> str:
        """The picture of `draw` in words."""
        return f"A picture, and bars for what the teacher says of it. {self._told(letter, temperature)}"

    def _told(self, letter: int, temperature: float) -> str:
        names = [self.names[k] for k in self.order[letter]]
        shares = [f"{name} {share:.1f} %" for name, share in zip(names, self.shares(letter, temperature), strict=True)]
        return f"It is a {self.names[self.labels[letter]]}. At τ = {temperature:g}: {', '.join(shares[:4])}."

    def _axes(self) -> Figure:
        fig, (left, right) = figures.subplots(1, 2, size=(7.6, 3.8), width_ratios=(1, 2.2))
        left.set_axis_off()
        right.set(xlim=(0, 100), ylim=(SHOWN - 0.4, -0.6), xlabel="probability (%)", yticks=range(SHOWN))
        return fig

    def _at(self, left, right, letter: int, temperature: float) -> list:
        true, order = self.labels[letter], self.order[letter]
        shares = self.shares(letter, temperature)
        bars = right.barh(range(len(order)), shares, color=figures.COLOURS[5], edgecolor="black", linewidth=0.6)
        for bar, k in zip(bars, order, strict=True):
            bar.set_facecolor(figures.COLOURS[0] if k == true else figures.COLOURS[5])
        right.set_yticks(range(len(order)), [self.names[k] + (" (true)" if k == true else "") for k in order])
        said = [
            right.text(share + 1.5 if share < 85 else share - 1.5, row, f"{share:.1f}", va="center",
                       ha="left" if share < 85 else "right", color="black" if share < 85 else "white", fontsize=10)
            for row, share in enumerate(shares)
        ]  # fmt: skip
        shown = left.imshow(self.pictures[letter], cmap="gray_r", vmin=0, vmax=1)
        return [shown, *bars, *said]


def telling(logits: Tensor, labels: Tensor, count: int = 8) -> list[int]:
    """Places of pictures that a teacher gets right and is fairly sure of, one for each class: at most `count`.

    Fairly sure: its probability is near 80 %, so that something is left for the others. Where it gets too few classes
    right, pictures that it gets wrong follow.
    """
    logits, labels = logits.detach().cpu(), labels.cpu()
    p = logits.softmax(1)
    of_true, is_right = p[torch.arange(len(labels)), labels], p.argmax(1) == labels
    chosen: dict[int, int] = {}
    for place in ((of_true - 0.8).abs() + (~is_right).float()).argsort().tolist():
        chosen.setdefault(int(labels[place]), place)
    return list(chosen.values())[:count]


# ------------------------------------------------------------------ pictures as they form


def film(rows: Mapping[str, Tensor], names: Sequence[str]) -> Figure:
    """Rows of pictures [n, C, H, W], each with its own words; grey is 0, ink dark, and what is below 0 is white."""
    count = len(names)
    fig, axes = figures.subplots(len(rows), 1, size=(7.6, 0.98 * len(rows) + 0.3), squeeze=False)
    for place, (ax, (words, images)) in enumerate(zip(axes[:, 0], rows.items(), strict=True)):
        last = place == len(rows) - 1
        figures.draw_tiles(
            ax, images.detach().clamp(0, 1), count, labels=[letter(one) for one in names] if last else None
        )
        ax.set_axis_on()
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.set_ylabel(words, rotation=0, ha="right", va="center", fontsize=11)
    return fig


def film_text(rows: Mapping[str, Tensor], names: Sequence[str]) -> str:
    """The picture of `film` in words."""
    first, *_, last = list(rows.values())
    moved = (last - first).abs().mean().item()
    letters = ", ".join(letter(one) for one in names)
    return (
        f"Rows of {len(names)} pictures ({letters}): {', '.join(rows)}. From the first row to the last one a pixel "
        f"changes by {moved:.2f} in the mean, where paper is 0 and ink is 1."
    )
