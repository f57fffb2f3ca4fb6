"""Pictures of notebook 13: tasks, a painted support mask, cosine maps, clutter, and one prediction scored four times.

`Painting`, `CosineMap` and `Clutter` have a `draw` for `widgets.explore`, which changes the artists of the figure that
it is given (`fig`), and a `text` that puts the same picture in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor
from torch.nn import functional as F

from mlcourse.episodes import Episode
from mlcourse.evaluation import home_of
from mlcourse.learners.base import Learner, evaluation_mode
from mlcourse.teaching import figures
from mlcourse.vision.segmentation import intersection_over_union

# hits are white, the two kinds of error differ in brightness, too
HIT, FALSE_ALARM, MISSED = "#FFFFFF", "#D55E00", "#56B4E9"
MASK = "#009E73"  # of the support
LEGEND = {"found": HIT, "false alarm": FALSE_ALARM, "missed": MISSED}
FADED = 0.35  # what is left of the brightness of pixels that are neither target nor prediction


# ------------------------------------------------------------------ one picture


def coloured(image: Tensor) -> np.ndarray:
    """A picture [C, H, W] with C 1 or 3, as [H, W, 3] in [0, 1]: bright ink on black."""
    return image.detach().float().cpu().expand(3, -1, -1).permute(1, 2, 0).clamp(0, 1).numpy()


def overlay(image: Tensor, prediction: Tensor, target: Tensor) -> np.ndarray:
    """The picture [C, H, W], faded, with what was found, what is a false alarm and what was missed: [H, W, 3].

    prediction, target: bool [H, W].
    """
    made = FADED * coloured(image)
    p, t = (mask.detach().cpu().numpy().astype(bool) for mask in (prediction, target))
    for where, colour in ((p & t, HIT), (p & ~t, FALSE_ALARM), (~p & t, MISSED)):
        made[where] = to_rgb(colour)
    return made


def painted(image: Tensor, mask: Tensor) -> np.ndarray:
    """The picture [C, H, W] with its mask (bool [H, W]) laid over it, half transparent: [H, W, 3]."""
    made = 0.8 * coloured(image)
    inside = mask.detach().cpu().numpy().astype(bool)
    made[inside] = 0.45 * made[inside] + 0.55 * np.array(to_rgb(MASK))
    return made


def bare(ax, title: str) -> None:
    """A picture without axes, under a title."""
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=12)
    ax.set_anchor("N")  # titles of pictures of unlike sizes stand in one line
    ax.grid(False)
    ax.spines[:].set_visible(False)


def legend(fig: Figure, colours: Mapping[str, str]) -> None:
    """Below the figure: what its colours mean, words → colour."""
    handles = [Patch(facecolor=colour, edgecolor="#444444", label=words) for words, colour in colours.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=11)


# ------------------------------------------------------------------ tasks


def tasks(batch: Episode, count: int = 3) -> Figure:
    """The first tasks of a batch, one in a row: the support drawing, its mask, the scene, and the target in it."""
    fig, axes = figures.subplots(count, 4, size=(7.6, 2.05 * count), width_ratios=(1, 1, 1.6, 1.6), squeeze=False)
    for k, row in enumerate(axes):
        drawing, mask = batch.support_x[k, 0], batch.support_y[k, 0]
        scene, target = batch.query_x[k, 0], batch.query_y[k, 0]
        shown = (coloured(drawing), mask.float().cpu().numpy(), coloured(scene), overlay(scene, target, target))
        titles = ("support drawing", "its mask", "query: a scene", "the target in it")
        for ax, one, title in zip(row, shown, titles, strict=True):
            ax.imshow(one, vmin=0, vmax=1, cmap="gray")
            bare(ax, title if k == 0 else "")
    return fig


def tasks_text(batch: Episode, count: int = 3) -> str:
    """The picture of `tasks` in words."""
    shares = [100 * batch.query_y[k, 0].float().mean().item() for k in range(count)]
    told = ", ".join(f"{share:.1f} %" for share in shares)
    return (
        f"{count} tasks, one in a row: a support drawing of one character, its mask, a scene of many characters in "
        f"many colours, and the target in the scene, white. The target covers {told} of the pixels."
    )


# ------------------------------------------------------------------ paint the support mask


PAINTS = {
    "the ink of the drawing": "ink",
    "the ink, and what the brush adds": "add",
    "the ink without what the brush covers": "erase",
    "the brush alone": "brush",
    "the whole square": "all",
    "the paper alone": "paper",
}


class Painting:
    """One task whose support mask a person paints: the answer in the scene follows."""

    def __init__(self, learner: Learner, batch: Episode):
        """batch: tasks of one support drawing and one scene each."""
        self.learner, self.batch = learner, batch.to(*home_of(learner))
        side = batch.support_x.shape[-1]
        self.rows, self.columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")

    def mask(self, task: int, paint: str, x: int, y: int, size: int) -> Tensor:
        """The painted mask: bool [H, W]. The brush is a disc around (x, y), `size` pixels wide."""
        ink = self.batch.support_y[task, 0].cpu().bool()
        brush = (self.columns - x).square() + (self.rows - y).square() <= (size / 2) ** 2
        masks = {"ink": ink, "add": ink | brush, "erase": ink & ~brush, "brush": brush}
        return (masks | {"all": torch.ones_like(ink), "paper": ~ink})[paint]

    @torch.no_grad()
    def answer(self, task: int, mask: Tensor) -> Tensor:
        """What the learner marks in the scene, taught with this mask: bool [H, W], on the CPU.

        Raises CourseError for a mask without a pixel.
        """
        one = self.batch.task(task)
        with evaluation_mode(self.learner):
            state = self.learner.adapt(one.support_x, mask[None, None].to(one.support_x.device))
            return (self.learner.predict(state, one.query_x)[0, 0] > 0).cpu()

    def draw(self, task: int, paint: str, x: int, y: int, size: int, fig: Figure | None = None) -> tuple[Figure, str]:
        """Left the support drawing under its painted mask, right the scene with the answer."""
        mask = self.mask(task, paint, x, y, size)
        answer = self.answer(task, mask)
        fig = figures.redraw(fig, self._axes, self._at, task, mask, answer)
        return fig, self.score(task, mask, answer)

    def text(self, task: int, paint: str, x: int, y: int, size: int) -> str:
        """The picture of `draw` in words."""
        mask = self.mask(task, paint, x, y, size)
        words = next(words for words, value in PAINTS.items() if value == paint)
        return (
            f"Task {task}: a support drawing with a painted mask ({words}; brush of {size} pixels at x {x}, y {y}), "
            f"and a scene with the answer. {self.score(task, mask, self.answer(task, mask))}"
        )

    def score(self, task: int, mask: Tensor, answer: Tensor) -> str:
        """What an answer, bool [H, W], is worth, in one line."""
        score = float(intersection_over_union(answer, self.batch.query_y[task, 0].cpu()))
        marked = int(answer.sum())
        return (
            f"The mask holds {int(mask.sum())} pixels. The answer marks {marked} pixels of the scene: IoU {score:.2f}."
        )

    def _axes(self) -> Figure:
        fig, (left, right) = figures.subplots(1, 2, size=(7.6, 4.3), width_ratios=(1, 1.5))
        bare(left, "support drawing, painted mask")
        bare(right, "scene, answer")
        legend(fig, LEGEND)
        return fig

    def _at(self, left, right, task: int, mask: Tensor, answer: Tensor) -> list:
        scene, target = self.batch.query_x[task, 0], self.batch.query_y[task, 0]
        return [
            left.imshow(painted(self.batch.support_x[task, 0], mask)),
            right.imshow(overlay(scene, answer, target)),
        ]


# ------------------------------------------------------------------ the cosine map of one pixel


class CosineMap:
    """How alike the features of one pixel of the scene are to those of all pixels, in the scene and in the support."""

    def __init__(self, drawing: Tensor, scene: Tensor, of_drawing: Tensor, of_scene: Tensor):
        """drawing [C, h, w] and scene [C, H, W]; their features, each [channels, rows, columns], of any resolution."""
        self.pictures = coloured(scene), coloured(drawing)
        self.features = [F.normalize(one.detach().float().cpu(), dim=0) for one in (of_scene, of_drawing)]

    def cosines(self, x: int, y: int) -> tuple[np.ndarray, np.ndarray]:
        """The cosines of the pixel in column x and row y of the scene with the scene, and with the support."""
        (height, width), (rows, columns) = self.pictures[0].shape[:2], self.features[0].shape[1:]
        pixel = self.features[0][:, y * rows // height, x * columns // width]
        return tuple(torch.einsum("chw,c->hw", one, pixel).numpy() for one in self.features)

    def draw(self, x: int, y: int, fig: Figure | None = None) -> tuple[Figure, str]:
        """Left the scene and the pixel; then the cosines with all pixels of the scene, and of the support drawing."""
        fig = figures.redraw(fig, self._axes, self._at, x, y)
        return fig, self._told(x, y)

    def text(self, x: int, y: int) -> str:
        """The picture of `draw` in words."""
        return (
            f"A scene with a ring around the pixel in column {x}, row {y}, and two maps of cosines with its features, "
            f"in the scene and in the support drawing. {self._told(x, y)}"
        )

    def _told(self, x: int, y: int) -> str:
        in_scene, in_support = self.cosines(x, y)
        ink = "ink" if self.pictures[0][y, x].max() > 0.2 else "paper"
        alike = 100 * float((in_scene > 0.8).mean())
        return (
            f"The pixel is {ink}. {alike:.0f} % of the scene has a cosine above 0.8 with it; in the support the "
            f"largest cosine is {in_support.max():.2f}."
        )

    def _axes(self) -> Figure:
        fig, (scene, there, support, bar) = figures.subplots(1, 4, size=(9.2, 3.5), width_ratios=(1, 1, 1, 0.05))
        bare(scene, "scene, and the pixel")
        bare(there, "cosine in the scene")
        bare(support, "cosine in the support")
        scene.imshow(self.pictures[0])
        colours = there.imshow(np.zeros((1, 1)), cmap="PuOr", vmin=-1, vmax=1)
        fig.colorbar(colours, cax=bar, label="cosine", ticks=(-1, 0, 1))
        colours.remove()
        return fig

    def _at(self, scene, there, support, _bar, x: int, y: int) -> list:
        size = self.pictures[0].shape[:2]
        moving = [
            ax.imshow(values, cmap="PuOr", vmin=-1, vmax=1, extent=(-0.5, size[1] - 0.5, size[0] - 0.5, -0.5))
            for ax, values in zip((there, support), self.cosines(x, y), strict=True)
        ]
        ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "linestyle": "none", "markeredgewidth": 2}
        moving += scene.plot(x, y, markeredgecolor="white", **ring)
        return moving + there.plot(x, y, markeredgecolor="black", **ring)


# ------------------------------------------------------------------ clutter


class Clutter:
    """One target among more and more characters, and what each method marks."""

    def __init__(self, scenes: Mapping[int, Episode], answers: Mapping[str, Mapping[int, Tensor]]):
        """scenes: number of characters → a batch whose first task is shown. answers: method → number → bool [H, W]."""
        self.scenes, self.answers = scenes, answers
        self.counts, self.methods = list(scenes), list(answers)

    def draw(self, characters: int, method: str, fig: Figure | None = None) -> tuple[Figure, str]:
        """The support drawing, the scene, and the scene with the answer of the method."""
        fig = figures.redraw(fig, self._axes, self._at, characters, method)
        return fig, self._told(characters, method)

    def text(self, characters: int, method: str) -> str:
        """The picture of `draw` in words."""
        return (
            f"A support drawing, a scene of {characters} characters, and the same scene with the answer of "
            f"{method}. {self._told(characters, method)}"
        )

    def _told(self, characters: int, method: str) -> str:
        target, answer = self._target(characters), self.answers[method][characters]
        score = float(intersection_over_union(answer.cpu(), target))
        share = 100 * float(target.float().mean())
        return f"{characters} characters, {method}: IoU {score:.2f}. The target covers {share:.1f} % of the pixels."

    def _target(self, characters: int) -> Tensor:
        return self.scenes[characters].query_y[0, 0].cpu()

    def _axes(self) -> Figure:
        fig, axes = figures.subplots(1, 3, size=(9.2, 4.0), width_ratios=(0.6, 1, 1))
        for ax, title in zip(axes, ("support drawing", "scene", "answer"), strict=True):
            bare(ax, title)
        legend(fig, LEGEND)
        return fig

    def _at(self, left, middle, right, characters: int, method: str) -> list:
        batch = self.scenes[characters]
        scene, answer = batch.query_x[0, 0], self.answers[method][characters]
        return [
            left.imshow(coloured(batch.support_x[0, 0])),
            middle.imshow(coloured(scene)),
            right.imshow(overlay(scene, answer, self._target(characters))),
        ]


# ------------------------------------------------------------------ numbers


def levels(rows: Mapping[str, Sequence[tuple[float, float]]], counts: Sequence[int], *, how: str) -> Figure:
    """IoU against the number of characters: name → (mean, half width) for each count, both in [0, 1]."""
    fig, ax = figures.subplots(size=(8.6, 3.9))
    for index, (name, values) in enumerate(rows.items()):
        mean, half = zip(*values, strict=True)
        figures.curve_with_band(ax, counts, mean, half, label=name, index=index)
    ax.set(xscale="log", ylim=(-0.02, 1.02), ylabel="IoU of the target")
    ax.set_xlabel(f"characters in the scene\n{how}")
    ax.minorticks_off()
    ax.set(xticks=list(counts), xticklabels=list(counts))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def levels_text(rows: Mapping[str, Sequence[tuple[float, float]]], counts: Sequence[int]) -> str:
    """The picture of `levels` in words."""
    told = "; ".join(
        f"{name} {values[0][0]:.2f} ± {values[0][1]:.2f} and {values[-1][0]:.2f} ± {values[-1][1]:.2f}"
        for name, values in rows.items()
    )
    return f"The IoU of the target in scenes of {counts[0]} and of {counts[-1]} characters: {told}."


def definitions(scores: Mapping[str, Mapping[str, float]]) -> Figure:
    """The same predictions by each definition, a row of points: method → definition → score in [0, 1]."""
    names = list(next(iter(scores.values())))
    fig, ax = figures.subplots(size=(8.6, 0.62 * len(names) + 1.7))
    for index, (method, by_name) in enumerate(scores.items()):
        places = np.arange(len(names)) + 0.12 * (index - (len(scores) - 1) / 2)
        ax.plot([by_name[name] for name in names], places, linestyle="none", markersize=9, label=method, **_look(index))
    for place in range(len(names) - 1):
        ax.axhline(place + 0.5, color="#BBBBBB", linewidth=0.8, marker="")
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5), xlim=(-0.02, 1.02))
    ax.set_xlabel("score of the same predictions")
    fig.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    return fig


def _look(index: int) -> dict:
    return figures.style(index)


def definitions_text(scores: Mapping[str, Mapping[str, float]]) -> str:
    """The picture of `definitions` in words."""
    told = "; ".join(
        f"{method}: " + ", ".join(f"{score:.2f} {name}" for name, score in by_name.items())
        for method, by_name in scores.items()
    )
    return f"The same predictions scored by several definitions of IoU. {told}."
