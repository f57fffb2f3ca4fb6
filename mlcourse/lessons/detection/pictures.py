"""Pictures of notebook 14: tasks with boxes, a chosen support drawing, a walk along the curve, draws, errors.

`Support` and `Walk` have a `draw` for `widgets.explore`, which changes the artists of the figure that it is given
(`fig`), and a `text` that puts the same picture in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from mlcourse.episodes import Episode
from mlcourse.lessons.detection.exam import right, truth_of
from mlcourse.teaching import figures
from mlcourse.vision.precision import Detections, matched

# right boxes are white and whole, the two kinds of error differ in colour and in their strokes
LOOKS = {"right": ("#FFFFFF", "solid"), "wrong": ("#E69F00", "dashed"), "missed": ("#56B4E9", "dotted")}
FADED = 0.75  # of the brightness of a scene under its boxes
GAP = 3  # pixels between scenes

# ------------------------------------------------------------------ one scene


def coloured(image: Tensor) -> np.ndarray:
    """A picture [C, H, W] with C 1 or 3, as [H, W, 3] in [0, 1]: bright ink on black."""
    return image.detach().float().cpu().expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1).numpy()


def _picture(ax, image: np.ndarray, title: str = ""):
    """Show [H, W, 3] so that a pixel (row i, column j) covers j to j + 1 and i to i + 1, as boxes count."""
    height, width = image.shape[:2]
    artist = ax.imshow(image, extent=(0, width, height, 0))
    ax.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    ax.set_title(title, fontsize=12)
    ax.set_anchor("N")  # titles of pictures of unlike sizes stand in one line
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return artist


def _frames(ax, boxes: Tensor, kind: str, shift: tuple[float, float] = (0, 0)) -> LineCollection:
    """The edges of boxes [n, 4], in the look of their kind."""
    colour, stroke = LOOKS[kind]
    move = np.array(shift, float)
    corners = [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]) + move for x0, y0, x1, y1 in boxes.tolist()]
    return ax.add_collection(LineCollection(corners, colors=colour, linestyles=stroke, linewidths=2.2))


def _judged(found: Detections, truth: Tensor) -> dict[str, Tensor]:
    """The boxes of one scene by kind: right, wrong, and the true boxes that are missed."""
    good = right(found.boxes, truth)
    # taken are the true boxes that a right box lies on
    taken = right(truth, found.boxes[good]) if good.any() else right(truth, truth[:0])
    return {"right": found.boxes[good], "wrong": found.boxes[~good], "missed": truth[~taken]}


def _legend(fig: Figure) -> None:
    handles = [
        Line2D([], [], color="#888888" if name == "right" else colour, linestyle=stroke, linewidth=2.2, marker="")
        for name, (colour, stroke) in LOOKS.items()
    ]
    labels = ["right (white)", "wrong", "missed"]
    fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=11)


# ------------------------------------------------------------------ tasks


def tasks(batch: Episode, count: int = 3) -> Figure:
    """The first tasks of a batch, one in a row: the support drawing, the scene, and the target's box in it."""
    fig, axes = figures.subplots(count, 3, size=(7.0, 2.3 * count), width_ratios=(1, 1.6, 1.6), squeeze=False)
    truth, scenes = truth_of(batch), batch.query_x.shape[1]
    for k, row in enumerate(axes):
        boxes, scene = truth[k * scenes], coloured(batch.query_x[k, 0])
        _picture(row[0], coloured(batch.support_x[k, 0]), "" if k else "support drawing")
        _picture(row[1], scene, "" if k else "query: a scene")
        _picture(row[2], FADED * scene, "the target's box" if len(boxes) else "the target is absent")
        _frames(row[2], boxes, "right")
    return fig


def tasks_text(batch: Episode, count: int = 3) -> str:
    """The picture of `tasks` in words."""
    truth, scenes = truth_of(batch), batch.query_x.shape[1]
    told = []
    for k in range(count):
        boxes = truth[k * scenes].tolist()
        where = [f"a box from ({x0:.0f}, {y0:.0f}) to ({x1:.0f}, {y1:.0f})" for x0, y0, x1, y1 in boxes]
        told.append(" and ".join(where) if where else "the target is absent")
    return (
        f"{count} tasks, one in a row: a support drawing of one character, a scene of many characters in many colours, "
        f"and the answer: {'; '.join(told)}."
    )


# ------------------------------------------------------------------ choose the support


class Support:
    """Scenes, and what is found in them when the class is taught by one drawing or another."""

    def __init__(
        self,
        drawings: Tensor,
        scenes: Tensor,
        truth: Sequence[Tensor],
        found: Sequence[Sequence[Detections]],
    ):
        """drawings [n, k, C, h, w] of k classes, scenes [k, C, H, W], their true boxes; found[drawing][scene]."""
        self.drawings = [[coloured(one) for one in some] for some in drawings]
        self.scenes = [coloured(one) for one in scenes]
        self.truth, self.found = list(truth), found

    @classmethod
    def of(
        cls,
        taught: Sequence[Episode],
        found: Sequence[Sequence[Detections]],
        truth: Sequence[Tensor],
        which: Sequence[int],
    ) -> Support:
        """The first drawing of each batch in the tasks `which`; the batches share their scenes."""
        return cls(
            torch.stack([batch.support_x[list(which), 0] for batch in taught]),
            taught[0].query_x[list(which), 0],
            [truth[k] for k in which],
            [[run[k] for k in which] for run in found],
        )

    def draw(self, drawing: int, scene: int, score: float, fig: Figure | None = None) -> tuple[Figure, str]:
        """Left the support drawing, right the scene with the boxes of this score or more."""
        fig = figures.redraw(fig, self._axes, self._at, drawing, scene, score)
        return fig, self._told(drawing, scene, score)

    def text(self, drawing: int, scene: int, score: float) -> str:
        """The picture of `draw` in words."""
        return (
            f"Support drawing {drawing} of the character of scene {scene}, and this scene with the boxes of score "
            f"{score:.2f} or more. {self._told(drawing, scene, score)}"
        )

    def _told(self, drawing: int, scene: int, score: float) -> str:
        found = self.found[drawing][scene]
        parts = _judged(found.above(score), self.truth[scene])
        there = "The target is there" if len(self.truth[scene]) else "The target is absent"
        best = ", ".join(f"{value:.2f}" for value in found.scores[:3].tolist())
        counts = ", ".join(f"{len(boxes)} {name}" for name, boxes in parts.items())
        return f"{there}. Boxes: {counts}. The highest scores are {best or 'none'}."

    def _axes(self) -> Figure:
        fig, (left, middle) = figures.subplots(1, 2, size=(7.6, 4.4), width_ratios=(1, 1.7))
        _picture(left, self.drawings[0][0], "support drawing")
        _picture(middle, self.scenes[0], "scene, boxes and scores")
        _legend(fig)
        return fig

    def _at(self, left, right_ax, drawing: int, scene: int, score: float) -> list:
        found = self.found[drawing][scene].above(score)
        parts = _judged(found, self.truth[scene])
        moving = [
            _picture(left, self.drawings[drawing][scene], "support drawing"),
            _picture(right_ax, FADED * self.scenes[scene], "scene, boxes and scores"),
        ]
        moving += [_frames(right_ax, boxes, name) for name, boxes in parts.items()]
        for (x0, y0, *_), value in list(zip(found.boxes.tolist(), found.scores.tolist(), strict=True))[:6]:
            look = {"facecolor": "#000000", "alpha": 0.6, "edgecolor": "none", "pad": 1}
            moving.append(
                right_ax.text(
                    x0 + 1, max(y0, 6) - 1, f"{value:.2f}", color="white", fontsize=9, bbox=look, clip_on=True
                )
            )
        return moving


# ------------------------------------------------------------------ walk along the curve


class Walk:
    """A score threshold that walks along the precision–recall curve, and what it lets through in some scenes."""

    SHOWN = 6  # scenes

    def __init__(self, scenes: Tensor, found: Sequence[Detections], truth: Sequence[Tensor]):
        """scenes [k, C, H, W], of which the first six are shown; found and truth of all scenes."""
        self.found, self.truth = list(found), list(truth)
        self.order = matched(found, truth)
        self.recall, self.precision = self.order.curve()
        self.side = scenes.shape[-1]
        self.picture = FADED * figures.tile(scenes[: self.SHOWN].cpu(), 3, gap=GAP, shade=1.0)

    def range(self) -> tuple[float, float]:
        """Where the slider begins and ends: three boxes for each target, and no box at all; 2.5 apart at least."""
        last = min(3 * int(self.order.wanted.sum()), len(self.order.scores)) - 1
        high = round(float(self.order.scores[0]) + 0.2, 1)
        return min(round(float(self.order.scores[last]), 1), round(high - 2.5, 1)), high

    def middle(self) -> float:
        """A threshold with about as many boxes as there are targets."""
        low, high = self.range()
        place = min(int(self.order.wanted.sum()), len(self.order.scores)) - 1
        return min(max(round(float(self.order.scores[place]), 1), low), high)

    def point(self, score: float) -> tuple[float, float, int]:
        """Recall, precision and number of boxes at a threshold. Without a box the precision is told as 1."""
        boxes = int((self.order.scores >= score).sum())
        if not boxes:
            return 0.0, 1.0, 0
        return float(self.recall[boxes - 1]), float(self.precision[boxes - 1]), boxes

    def draw(self, score: float, fig: Figure | None = None) -> tuple[Figure, str]:
        """Left the curve and the point of this threshold, right what it lets through in six scenes."""
        fig = figures.redraw(fig, self._axes, self._at, score)
        return fig, self._told(score)

    def text(self, score: float) -> str:
        """The picture of `draw` in words."""
        return (
            f"The precision–recall curve of {len(self.order.scores)} boxes with a point on it, and {self.SHOWN} scenes "
            f"with the boxes of score {score:.2f} or more. {self._told(score)}"
        )

    def _told(self, score: float) -> str:
        recall, precision, boxes = self.point(score)
        hits = int(self.order.right[:boxes].sum())
        return (
            f"Score {score:.2f} or more: {boxes} boxes in {len(self.truth)} scenes, {hits} right; precision "
            f"{precision:.2f}, recall {recall:.2f}."
        )

    def _axes(self) -> Figure:
        fig, (curve, scenes) = figures.subplots(1, 2, size=(9.4, 4.0), width_ratios=(1, 1.45))
        best = np.maximum.accumulate(self.precision[::-1])[::-1]
        curve.plot(self.recall, self.precision, color="#999999", marker="", linewidth=1, label="rank by rank")
        curve.plot(self.recall, best, color=figures.COLOURS[0], marker="", drawstyle="steps-pre", label="interpolated")
        curve.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
        curve.legend(loc="lower left")
        _picture(scenes, self.picture, "what stays in six scenes")
        _legend(fig)
        return fig

    def _at(self, curve, scenes, score: float) -> list:
        recall, precision, _ = self.point(score)
        moving = curve.plot(recall, precision, marker="o", markersize=11, color=figures.COLOURS[1], linestyle="none")
        moving.append(curve.text(0.97, 0.97, f"score ≥ {score:.1f}", transform=curve.transAxes, ha="right", va="top"))
        for name in LOOKS:
            for k in range(min(self.SHOWN, len(self.found))):
                boxes = _judged(self.found[k].above(score), self.truth[k])[name]
                moving.append(_frames(scenes, boxes, name, self._corner(k)))
        return moving

    def _corner(self, k: int) -> tuple[int, int]:
        """Where scene k begins in the picture of all."""
        return GAP + k % 3 * (self.side + GAP), GAP + k // 3 * (self.side + GAP)


# ------------------------------------------------------------------ numbers


def curves(found: Mapping[str, Sequence[Detections]], truth: Sequence[Tensor]) -> Figure:
    """The interpolated precision–recall curves of several methods on the same scenes."""
    fig, ax = figures.subplots(size=(8.6, 3.9))
    for index, (name, boxes) in enumerate(found.items()):
        recall, precision = matched(boxes, truth).curve()
        best = np.maximum.accumulate(precision[::-1])[::-1]
        every = max(1, len(recall) // 12)
        ax.plot(recall, best, label=name, markevery=every, drawstyle="steps-pre", **figures.style(index))
    ax.set(xlabel="recall", ylabel="interpolated precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def curves_text(found: Mapping[str, Sequence[Detections]], truth: Sequence[Tensor]) -> str:
    """The picture of `curves` in words."""
    told = []
    for name, boxes in found.items():
        order = matched(boxes, truth)
        recall, _ = order.curve()
        reached = float(recall[-1]) if len(recall) else 0.0
        told.append(
            f"{name} has an average precision of {order.average_precision():.2f} and reaches recall {reached:.2f}"
        )
    return f"Interpolated precision against recall on {len(truth)} scenes: {'; '.join(told)}."


def draws(rows: Mapping[str, Sequence[float]]) -> Figure:
    """AP of each draw of the support as a dot, and the mean as a line: name → values in [0, 1]."""
    fig, ax = figures.subplots(size=(8.2, 0.75 * len(rows) + 1.3))
    for index, values in enumerate(rows.values()):
        look = figures.style(index)
        ax.plot(values, [index] * len(values), linestyle="none", markersize=8, alpha=0.7, **look)
        mean = float(np.mean(values))
        ax.plot([mean, mean], [index - 0.3, index + 0.3], color=look["color"], marker="", linewidth=3)
    ax.set(yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.5, -0.5), xlabel="average precision")
    return fig


def draws_text(rows: Mapping[str, Sequence[float]]) -> str:
    """The picture of `draws` in words."""
    told = "; ".join(
        f"{name}: {len(values)} draws from {min(values):.2f} to {max(values):.2f}, mean {float(np.mean(values)):.2f}"
        for name, values in rows.items()
    )
    return f"The average precision of each draw of the support as a dot, the mean as a line. {told}."


HATCHES = {"localisation": "//", "background": "", "duplicate": "..", "missed": "\\\\"}


def errors(rows: Mapping[str, Mapping[str, int]]) -> Figure:
    """How many errors of each kind each method makes: name → kind → count, one stacked bar for each method."""
    fig, ax = figures.subplots(size=(8.6, 0.75 * len(rows) + 1.8))
    left = np.zeros(len(rows))
    for index, (kind, hatch) in enumerate(HATCHES.items()):
        values = np.array([counts[kind] for counts in rows.values()], float)
        ax.barh(range(len(rows)), values, left=left, hatch=hatch, color=figures.COLOURS[index + 2],
                edgecolor="white", label=kind)  # fmt: skip
        left += values
    ax.set(yticks=range(len(rows)), yticklabels=list(rows), ylim=(len(rows) - 0.5, -0.5), xlabel="errors")
    fig.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=11)
    return fig


def errors_text(rows: Mapping[str, Mapping[str, int]]) -> str:
    """The picture of `errors` in words."""
    told = "; ".join(
        f"{name}: " + ", ".join(f"{counts[kind]} {kind}" for kind in HATCHES) for name, counts in rows.items()
    )
    return f"How many errors of each kind each method makes, one bar for each method. {told}."
