"""The pictures of notebook 02: images that a view cuts, one task beside the accuracy against way, and the exam.

`TaskPictures.draw` is a drawing function for `widgets.explore`: it changes the artists of the figure that it is given,
which keeps a drag fluent. The other functions return a figure once.
"""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from mlcourse.teaching import figures

SIDE = 28
TILE = SIDE + 2  # a character and its margin
LINE = torch.eye(SIDE, dtype=torch.bool)
CROSS = LINE | LINE.roll(1, 0) | LINE.flip(0) | LINE.flip(0).roll(1, 0)
FRAME = torch.ones(SIDE, SIDE, dtype=torch.bool)
FRAME[3:-3, 3:-3] = False
ORANGE, BLUE = torch.tensor([0.84, 0.37, 0.0]), torch.tensor([0.0, 0.45, 0.7])

Setting = tuple[int, int, bool]  # way, shot, leak


# ------------------------------------------------------------------ what a view makes of images


CUT_TEXT = (
    "Left, three images, each a row as long as 128 maps. Right, the same numbers after view: twelve short rows, so "
    "that row 1, which is compared with the label of image 1, holds a quarter of image 0."
)


def cut_images() -> Figure:
    """Three images as rows of 32 numbers, and the twelve rows of 8 that a view of the wrong width makes of them."""
    numbers = torch.arange(3).repeat_interleave(32)
    fig, axes = figures.subplots(1, 2, size=(9, 3.2), width_ratios=(3, 1))
    titles = ("what arrives: one image a row", "after view: 12 rows")
    for ax, rows, title in zip(axes, (3, 12), titles):
        cut = numbers.view(rows, -1)
        ax.imshow(cut, cmap=ListedColormap(figures.COLOURS[:3]), alpha=0.45, aspect="auto")
        for row, image in enumerate(cut[:, 0].tolist()):
            words = f"image {image}" if rows == 3 else f"a quarter of image {image}"
            ax.text(cut.shape[1] / 2 - 0.5, row, words, ha="center", va="center", fontsize=11)
        ax.set(xticks=[], yticks=range(rows), yticklabels=[f"row {row}" for row in range(rows)], title=title)
        ax.grid(False)
    return fig


# ------------------------------------------------------------------ tasks of any way and shot


class TaskPictures:
    """A task for each way and shot, honest or with a leak, and what the pixels make of such tasks.

    measured: (way, shot, leak) -> (mean accuracy, half its 95 % interval) over `tasks` tasks, in %.
    drawn: (way, shot, leak) -> one of these tasks: right bool [way*query], support_x [way*shot, 1, 28, 28] and query_x
    [way*query, 1, 28, 28], class-major, ink = 1. With a leak the first query of each class is a support image.
    """

    def __init__(
        self,
        measured: Mapping[Setting, tuple[float, float]],
        drawn: Mapping[Setting, tuple[Tensor, Tensor, Tensor]],
        *,
        tasks: int,
    ):
        self.measured, self.drawn, self.tasks = measured, drawn, tasks
        self.ways = sorted({way for way, _, _ in measured})

    def draw(self, way: int, shot: int, leak: bool, fig: Figure | None = None) -> tuple[Figure, str]:
        """Left one task, right the accuracy of pixels against way for this shot, honest and with the leak."""
        fig = fig or self._axes()
        left, chart = fig.axes
        picture = self.paint(way, shot, leak)
        height, width = picture.shape[:2]
        left.images[0].set_data(picture)
        left.images[0].set_extent((0, width, height, 0))
        left.set(xlim=(0, width), ylim=(height, 0), title=f"{way}-way {shot}-shot:  support | queries")
        left.lines[0].set_xdata([TILE * shot] * 2)
        for band in list(chart.collections):
            band.remove()
        for line, leaky in zip(chart.lines, (False, True)):
            mean, half = np.array([self.measured[n, shot, leaky] for n in self.ways]).T
            line.set_ydata(mean)
            chart.fill_between(self.ways, mean - half, mean + half, color=line.get_color(), alpha=0.25, linewidth=0)
        chart.lines[3].set_data([way], [self.measured[way, shot, leak][0]])
        return fig, f"Pixels: {self._accuracy(way, shot, leak)} over {self.tasks} tasks. Guessing: {100 / way:.1f} %."

    def text(self, way: int, shot: int, leak: bool) -> str:
        """The picture of `draw` in words."""
        return (
            f"A {way}-way {shot}-shot task{' with leaked queries' if leak else ''}, and accuracy against way. Over "
            f"{self.tasks} such tasks pixels get {self._accuracy(way, shot, leak)} of the queries right; guessing gets "
            f"{100 / way:.1f} %."
        )

    def paint(self, way: int, shot: int, leak: bool) -> np.ndarray:
        """One task as a picture [30*way, 30*(shot+query), 3]. Crosses: pixels err. Frames: leaked queries."""
        right, support, queries = (part.cpu() for part in self.drawn[way, shot, leak])
        rows = torch.cat([support.view(way, shot, SIDE, SIDE), queries.view(way, -1, SIDE, SIDE)], 1)
        paper = torch.ones(*rows.shape[:2], TILE, TILE, 3)
        paper[:, :, 1:-1, 1:-1] = 1 - rows.unsqueeze(-1)
        asked = paper[:, shot:, 1:-1, 1:-1]
        asked[~right.view(way, -1, 1, 1) & CROSS] = ORANGE
        if leak:
            asked[:, 0, FRAME] = BLUE
        return paper.transpose(1, 2).reshape(TILE * way, -1, 3).numpy()

    def _accuracy(self, *setting) -> str:
        mean, half = self.measured[setting]
        return f"{mean:.1f} ± {half:.1f} %"

    def _axes(self) -> Figure:
        fig, (left, chart) = figures.subplots(1, 2, size=(8.4, 3.5), width_ratios=(1, 1.1))
        left.imshow(np.ones((TILE, TILE, 3)))
        left.set_axis_off()
        left.axvline(TILE, color="#444444", linewidth=1.5)
        self._chart(chart)
        return fig

    def _chart(self, chart: Axes) -> None:
        """The lines in the order in which `draw` moves them: honest, with leak, guessing, the ring of this task."""
        for index, name in enumerate(("honest", "with leak")):
            chart.plot(self.ways, self.ways, label=name, **figures.style(index))
        chart.plot(self.ways, [100 / n for n in self.ways], "k:", label="guessing")
        chart.plot([0], [0], "o", markersize=15, markerfacecolor="none", color="k")
        chart.set(
            xlabel="way",
            ylabel="accuracy of pixels (%)\nband: 95 % interval",
            ylim=(0, 102),
            xticks=self.ways,
            yticks=(0, 50, 100),
        )
        chart.set_xlim(self.ways[0] - 0.5, self.ways[-1] + 0.5)
        chart.legend(loc="upper right", fontsize=10)


# ------------------------------------------------------------------ the exam


def exam(
    images: Tensor, marks: Mapping[str, Tensor], results: Mapping[str, tuple[float, float]], *, how: str
) -> Figure:
    """Left: one task, and below each query who got it wrong. Right: accuracies on new classes, with their intervals.

    images: [5·6, 1, 28, 28], for each class one support image, then five queries. marks: name → bool [5, 5], which of
    these queries it gets right. results: name → (mean, half width) in %; the names of `marks` are among them.
    """
    fig, (left, chart) = figures.subplots(1, 2, size=(10.5, 4.6), width_ratios=(1, 1.2))
    _draw_answers(left, images, {list(results).index(name): (name, right) for name, right in marks.items()})
    for row, (mean, half) in enumerate(results.values()):
        chart.errorbar(mean, row, xerr=half, markersize=8, **figures.style(row))
        chart.annotate(f"{mean:.1f} ± {half:.1f}", (mean, row - 0.15), ha="center", va="bottom")
    chart.axvline(20, color="#444444", linestyle=":")
    chart.annotate("guessing", (20, -0.6), xytext=(4, 0), textcoords="offset points", fontsize=10)
    names = [name.replace(" listing", "\nlisting").replace(",", ":") for name in results]
    chart.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.7), xlim=(15, 100))
    chart.set(xlabel=f"accuracy on new classes (%)\n{how}", title="5-way 1-shot, 95 % intervals")
    return fig


def _draw_answers(ax: Axes, images: Tensor, marks: Mapping[int, tuple[str, Tensor]]) -> None:
    """marks: the row of a learner in the chart beside, which gives its look → its name, and what it gets right."""
    gap = 10
    step = SIDE + gap
    figures.draw_tiles(ax, images, 6, gap=gap)
    ax.axvline(step + gap / 2, color="#444444")
    for place, (index, (name, right)) in enumerate(marks.items()):
        row, query = (~right).nonzero().T
        x, y = step * (query + 1) + 18 + 12 * place, step * row + step + gap / 2
        look = figures.style(index) | {"linestyle": "none", "markersize": 7}
        ax.plot(x, y, label=f"wrong: {name}", **look)
    ax.set_title("one task:  support | queries")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), fontsize=10, handletextpad=0)
