"""Pictures of notebook 15: people, DET curves, margins, the gate of a threshold, the drift, and what breaks it.

`Gate` has a `draw` for `widgets.explore`, which changes the artists of the figure that it is given
(`fig`), and a `text` that puts the same picture in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from mlcourse.datasets import ClassImages
from mlcourse.teaching import figures
from mlcourse.vision.verification import Curve, Pairs, drift

SHOWN = 4  # pairs of each kind of error
LEAST = 1e-4  # where logarithmic axes of rates begin


def _bare(ax, title: str = "") -> None:
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=12)
    ax.grid(False)
    ax.spines[:].set_visible(False)


def _grey(images: Tensor) -> np.ndarray:
    """uint8 [n, 1, H, W] → [n, H, W] in [0, 1]."""
    return images[:, 0].numpy() / 255


# ------------------------------------------------------------------ people


def some_people(data: ClassImages, people: int = 4, pictures: int = 6) -> Figure:
    """The first pictures of the first people, a person in each row."""
    fig, ax = figures.subplots(size=(1.15 * pictures, 1.4 * people))
    height, width = data.shape[1:]
    rows = [_grey(data.images[start : start + pictures]) for start in _starts(data)[:people]]
    canvas = np.ones((people * (height + 2), pictures * (width + 2)), np.float32)
    for i, row in enumerate(rows):
        for j, one in enumerate(row):
            top, left = i * (height + 2), j * (width + 2)
            canvas[top : top + height, left : left + width] = one
    ax.imshow(canvas, cmap="gray", vmin=0, vmax=1)
    _bare(ax)
    return fig


def _starts(data: ClassImages) -> list[int]:
    return (data.counts.cumsum(0) - data.counts).tolist()


def some_people_text(data: ClassImages, people: int = 4, pictures: int = 6) -> str:
    """The picture of `some_people` in words."""
    return (
        f"{people} rows of {pictures} small grey drawings of faces, one person in each row. In a row the head, hair, "
        "eyes and nose have the same shape; the turn of the head, the light, the mouth and the background differ, "
        "and some pictures have glasses or a box before the face."
    )


# ------------------------------------------------------------------ rates


def det(curves: Mapping[str, Curve], mark: float = 0.01) -> Figure:
    """FNMR against FMR for all thresholds, both logarithmic; a dashed line at one FMR."""
    fig, ax = figures.subplots(size=(7.4, 4.4))
    for index, (name, curve) in enumerate(curves.items()):
        fmr, fnmr = curve.fmr.numpy(), curve.fnmr.numpy()
        inside = (fmr >= LEAST) & (fnmr >= LEAST)
        ax.plot(fmr[inside], fnmr[inside], label=name, **_look(index, fmr[inside]))
    ax.axvline(mark, color="#444444", linestyle="--", linewidth=1, marker="")
    ax.set(xscale="log", yscale="log", xlim=(LEAST, 1), ylim=(1e-3, 1))
    ax.set(xlabel="FMR: impostor pairs let in (share)", ylabel="FNMR: genuine pairs\nshut out (share)")
    ax.legend(loc="lower left")
    return fig


def _look(index: int, x: np.ndarray) -> dict:
    """Colour and marker, with about eight markers evenly spread on a logarithmic axis."""
    if not len(x):
        return figures.style(index)
    wanted = np.geomspace(x.min(), x.max(), 8)
    return figures.style(index) | {"markevery": sorted(set(np.searchsorted(x, wanted).clip(0, len(x) - 1).tolist()))}


def det_text(curves: Mapping[str, Curve], mark: float = 0.01) -> str:
    """The picture of `det` in words."""
    told = "; ".join(f"{name} {100 * float(curve.fnmr_at(mark)):.0f} %" for name, curve in curves.items())
    return f"FNMR falls as FMR rises, for each method. Where FMR is {100 * mark:g} %, FNMR is: {told}."


# ------------------------------------------------------------------ margins


def margins(scale: float, cosface: float, arcface: float) -> Figure:
    """The logit of the right person against the angle, without a margin and with two kinds of it."""
    degrees = np.linspace(0, 150, 151)
    theta = np.deg2rad(degrees)
    moved = np.where(theta + arcface <= math.pi, np.cos(theta + arcface), np.cos(theta) - arcface * np.sin(arcface))
    fig, ax = figures.subplots(size=(7.4, 3.6))
    lines = {"no margin": np.cos(theta), "CosFace": np.cos(theta) - cosface, "ArcFace": moved}
    for index, (name, values) in enumerate(lines.items()):
        ax.plot(degrees, scale * values, label=name, markevery=25, **figures.style(index))
    ax.set(xlabel="angle between the face and its person's direction (degrees)", ylabel="logit of the right person")
    ax.legend()
    return fig


def margins_text(scale: float, cosface: float, arcface: float) -> str:
    """The picture of `margins` in words."""
    return (
        "The logit of the right person against the angle. All three curves fall. At 0 degrees it is "
        f"{scale:.1f} without a margin, {scale * (1 - cosface):.1f} with CosFace and "
        f"{scale * math.cos(arcface):.1f} with ArcFace; at 90 degrees 0, {-scale * cosface:.1f} and "
        f"{scale * math.cos(math.pi / 2 + arcface):.1f}."
    )


# ------------------------------------------------------------------ the gate: who is let in, who is shut out


class Gate:
    """A threshold that a person moves, and the faces it lets in and shuts out by mistake."""

    def __init__(self, data: ClassImages, pairs: Pairs):
        """pairs: `all_pairs` of the pictures of `data`, in order."""
        self.images = _grey(data.images)
        first, second = torch.triu_indices(len(data.images), len(data.images), 1)
        self.curve = pairs.curve()
        self.scores, self.places = {}, {}
        for kind, inside in (("impostor", ~pairs.genuine), ("genuine", pairs.genuine)):
            order = pairs.scores[inside].argsort()
            self.scores[kind] = pairs.scores[inside][order]
            self.places[kind] = torch.stack([first[inside][order], second[inside][order]], 1)
        bins = np.linspace(-0.4, 1, 57)
        self.bins = (bins[1:] + bins[:-1]) / 2
        self.bars = {kind: np.histogram(values.numpy(), bins)[0] / len(values) for kind, values in self.scores.items()}

    def draw(self, threshold: float, fig: Figure | None = None) -> tuple[Figure, str]:
        """Left the scores of both kinds of pair and the threshold; right pairs that are decided wrongly."""
        fig = figures.redraw(fig, self._axes, self._at, threshold)
        return fig, self._told(threshold)

    def text(self, threshold: float) -> str:
        """The picture of `draw` in words."""
        wrong = [len(self.errors(threshold)[kind]) for kind in ("impostor", "genuine")]
        return (
            "Two humps of similarities, impostor pairs on the left, genuine pairs on the right, and a line at the "
            f"threshold {threshold:.2f}. Beside it {wrong[0]} impostor pairs that are let in, and {wrong[1]} genuine "
            f"pairs that are shut out. {self._told(threshold)}"
        )

    def errors(self, threshold: float) -> dict[str, list[tuple[int, int]]]:
        """Of each kind some pairs that are decided wrongly, spread evenly over all of them: places of two pictures."""
        found = {}
        for kind in ("impostor", "genuine"):
            reached = int(torch.searchsorted(self.scores[kind], float(threshold)))
            count = len(self.scores[kind])
            low, high = (reached, count) if kind == "impostor" else (0, reached)
            chosen = torch.linspace(low, high - 1, min(SHOWN, high - low)).round().long() if high > low else []
            found[kind] = [tuple(self.places[kind][k].tolist()) for k in chosen]
        return found

    def _told(self, threshold: float) -> str:
        fmr, fnmr = (float(rate) for rate in self.curve.point(threshold))
        impostors, genuine = len(self.scores["impostor"]), len(self.scores["genuine"])
        return (
            f"At {threshold:.2f}: FMR {100 * fmr:.2f} %, {round(fmr * impostors):,} of {impostors:,} impostor pairs "
            f"let in; FNMR {100 * fnmr:.1f} %, {round(fnmr * genuine):,} of {genuine:,} genuine pairs shut out."
        )

    def _axes(self) -> Figure:
        fig, (left, middle, right) = figures.subplots(1, 3, size=(9.2, 3.7), width_ratios=(1.5, 0.8, 0.8))
        for index, kind in enumerate(("impostor", "genuine")):
            left.plot(self.bins, self.bars[kind], label=kind, markevery=6, **figures.style(index))
        left.set(xlabel="similarity (cosine)", ylabel="share of the pairs", xlim=(-0.4, 1.0))
        left.legend(loc="upper left")
        _bare(middle, "let in:\ntwo people")
        _bare(right, "shut out:\none person")
        return fig

    def _at(self, left, middle, right, threshold: float) -> list:
        errors = self.errors(threshold)
        moving = [left.axvline(threshold, color="#000000", linewidth=2, marker="")]
        for ax, kind in ((middle, "impostor"), (right, "genuine")):
            moving.append(ax.imshow(self._stack(errors[kind]), cmap="gray", vmin=0, vmax=1))
        return moving

    def _stack(self, places: list[tuple[int, int]]) -> np.ndarray:
        """Pairs below each other; white where there are fewer than SHOWN."""
        height, width = self.images.shape[1:]
        canvas = np.ones((SHOWN * (height + 2), 2 * width + 2), np.float32)
        for row, pair in enumerate(places):
            for side, place in enumerate(pair):
                top, start = row * (height + 2), side * (width + 2)
                canvas[top : top + height, start : start + width] = self.images[place]
        return canvas


# ------------------------------------------------------------------ intervals, the drift, nuisances


def drifts(sizes: Sequence[int], measured: Mapping[float, Sequence[float]]) -> Figure:
    """FPIR against the size of the gallery: measured (markers), and 1 − (1 − FMR)^N (lines). measured: FMR → FPIR."""
    fig, ax = figures.subplots(size=(7.4, 4.0))
    for index, (fmr, values) in enumerate(measured.items()):
        look = figures.style(index)
        ax.plot(sizes, values, linestyle="none", label=f"measured, FMR {100 * fmr:.2g} %", **look)
        formula = drift(fmr, torch.tensor(sizes))
        ax.plot(sizes, formula, color=look["color"], marker="", linestyle="--", label=f"formula, FMR {100 * fmr:.2g} %")
    ax.set(xscale="log", ylim=(-0.02, 1.02), ylabel="FPIR (share of strangers\nwho get a name)")
    ax.set_xlabel("enrolled people N")
    ax.minorticks_off()
    ax.set(xticks=list(sizes), xticklabels=list(sizes))
    ax.legend(loc="upper left")
    return fig


def drifts_text(sizes: Sequence[int], measured: Mapping[float, Sequence[float]]) -> str:
    """The picture of `drifts` in words."""
    told = "; ".join(
        f"at FMR {100 * fmr:.2g} % it rises from {100 * values[0]:.1f} % to {100 * values[-1]:.0f} % (formula "
        f"{100 * float(drift(fmr, sizes[-1])):.0f} %)"
        for fmr, values in measured.items()
    )
    return f"The share of strangers who get a name, for {sizes[0]} to {sizes[-1]} enrolled people: {told}."


def bars(rates: Mapping[str, float], *, xlabel: str) -> Figure:
    """A share for each name, drawn as bars from the top, with the number beside each."""
    fig, ax = figures.subplots(size=(7.4, 0.42 * len(rates) + 1.0))
    values = [100 * value for value in rates.values()]
    ax.barh(range(len(values)), values, color=figures.COLOURS[0])
    for row, words in enumerate(_percents(rates)):
        ax.annotate(words, (values[row], row), xytext=(5, 0), textcoords="offset points", va="center")
    ax.set(yticks=range(len(values)), yticklabels=list(rates), xlabel=xlabel)
    ax.set(xlim=(0, 1.15 * max(*values, 1e-3)), ylim=(len(values) - 0.4, -0.6))
    ax.grid(False)
    return fig


def _percents(rates: Mapping[str, float]) -> list[str]:
    """The shares in per cent, with two digits behind the point where all are small."""
    digits = 2 if max(rates.values()) < 0.1 else 0
    return [f"{100 * value:.{digits}f} %" for value in rates.values()]


def bars_text(rates: Mapping[str, float], *, what: str) -> str:
    """The picture of `bars` in words."""
    told = zip(rates, _percents(rates), strict=True)
    return f"{what}: " + "; ".join(f"{name} {words}" for name, words in told) + "."
