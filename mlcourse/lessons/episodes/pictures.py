"""The picture of notebook 02: one task beside the accuracy against way. A plain drawing function for `widgets.explore`.

As in `quadratic_pictures`, a drawing changes the artists of the figure that it is given: this keeps a drag fluent.
"""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
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
        for line, leaky in zip(chart.lines, (False, True)):
            line.set_ydata([self.measured[n, shot, leaky][0] for n in self.ways])
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
        chart.set(xlabel="way", ylabel="accuracy of pixels (%)", ylim=(0, 102), xticks=self.ways, yticks=(0, 50, 100))
        chart.set_xlim(self.ways[0] - 0.5, self.ways[-1] + 0.5)
        chart.legend(loc="upper right", fontsize=10)
