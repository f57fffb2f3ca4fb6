"""The pictures of notebook 06: three starts learn a wave of one's own, and the results of both halves in one picture.

`WavePictures.draw` is a plain drawing function for `widgets.explore`. It changes the artists of the figure that it is
given: this keeps a drag fluent.
"""

from collections.abc import Callable, Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from mlcourse import inner
from mlcourse.evaluation import Result
from mlcourse.statistics import mean_interval
from mlcourse.teaching import figures

EDGE = 5.0  # x is drawn from -EDGE to EDGE
MOST = 20  # points of the learner's own wave
PLACES = torch.rand(MOST, 1, generator=torch.Generator().manual_seed(6))  # where they stand, in [0, 1]
GRID = torch.linspace(-EDGE, EDGE, 201).unsqueeze(1)


def wave(x: Tensor, amplitude: float, phase: float) -> Tensor:
    """A sin(x - b), the wave with amplitude A and phase b (radians)."""
    return amplitude * torch.sin(x - phase)


class WavePictures:
    """Starts that learn a wave from a few of its points.

    forward(params, x): the prediction for x [points, 1]. starts: θ by the start's name, "MAML", "joint" or "scratch".
    rates: the inner rate of each start.
    """

    def __init__(
        self,
        forward: Callable[[inner.Parameters, Tensor], Tensor],
        starts: Mapping[str, inner.Parameters],
        rates: Mapping[str, float],
    ):
        self.forward, self.rates = forward, rates
        self.starts = {name: {key: v.detach() for key, v in theta.items()} for name, theta in starts.items()}

    def draw(
        self,
        amplitude: float,
        phase: float,
        points: int,
        inner_steps: int,
        left_half_only: bool,
        fig: Figure | None = None,
    ) -> tuple[Figure, str]:
        """A panel for each start: the wave, its points, the start (dotted), and what it became (solid)."""
        fig = fig or self._axes()
        x = self._points(points, left_half_only)
        y, curves = wave(x, amplitude, phase), self._curves(amplitude, phase, x, inner_steps)
        for ax, curve in zip(fig.axes, curves.values()):
            truth, dots, _, after = ax.lines
            truth.set_ydata(wave(GRID, amplitude, phase)[:, 0])
            dots.set_data(x[:, 0], y[:, 0])
            after.set_ydata(curve[:, 0])
        return fig, f"Mean squared error on the whole wave: {self._errors(amplitude, phase, curves)}."

    def text(self, amplitude: float, phase: float, points: int, inner_steps: int, left_half_only: bool) -> str:
        """The picture of `draw` in words."""
        x = self._points(points, left_half_only)
        errors = self._errors(amplitude, phase, self._curves(amplitude, phase, x, inner_steps))
        where = "the left half" if left_half_only else "the whole"
        return (
            f"Three starts after {inner_steps} inner steps on {points} points from {where} of a wave with amplitude "
            f"{amplitude:.1f} and phase {phase:.1f}. Mean squared error on the whole wave: {errors}."
        )

    def _points(self, points: int, left_half_only: bool) -> Tensor:
        return -EDGE + (EDGE if left_half_only else 2 * EDGE) * PLACES[:points]

    def _curves(self, amplitude: float, phase: float, x: Tensor, steps: int) -> dict[str, Tensor]:
        """What each start predicts on the grid after `steps` inner steps on the points x: [grid, 1]."""
        settings = {"steps": steps, "loss": F.mse_loss, "create_graph": False}
        curves = {}
        for name, theta in self.starts.items():
            phi = inner.adapt(self.forward, theta, x, wave(x, amplitude, phase), rate=self.rates[name], **settings)
            with torch.no_grad():
                curves[name] = self.forward(phi, GRID)
        return curves

    @staticmethod
    def _errors(amplitude: float, phase: float, curves: Mapping[str, Tensor]) -> str:
        truth = wave(GRID, amplitude, phase)
        return ", ".join(f"{name} {F.mse_loss(curve, truth).item():.2f}" for name, curve in curves.items())

    def _axes(self) -> Figure:
        """The lines of each panel in the order in which `draw` moves them: wave, points, start, adapted."""
        fig, axes = figures.subplots(1, len(self.starts), size=(9.0, 3.3), sharey=True)
        for ax, (name, theta) in zip(axes, self.starts.items()):
            with torch.no_grad():
                start = self.forward(theta, GRID)[:, 0]
            colour = figures.COLOURS[figures.INDEX[name]]
            ax.plot(GRID[:, 0], start, color="#999999", linewidth=5, alpha=0.5, marker="", label="the wave")
            ax.plot([0], [0], "o", color="k", markersize=6, zorder=4, label="its points")
            ax.plot(GRID[:, 0], start, color=colour, linestyle=":", marker="", label="start")
            ax.plot(GRID[:, 0], start, color=colour, linewidth=2.2, marker="", label="adapted")
            ax.set(title=name, xlabel="x", xlim=(-EDGE, EDGE), ylim=(-6.5, 6.5), xticks=(-5, 0, 5))
        axes[0].set_ylabel("y")
        axes[0].legend(loc="lower left", fontsize=9, ncols=2)
        return fig


# ------------------------------------------------------------------ results of a run

Accuracies = Mapping[tuple[str, str, int], Result]


def both_halves(errors: Mapping[str, Tensor], accuracies: Accuracies) -> Figure:
    """Left: errors on new waves against inner steps. Right: accuracies on characters before and after one step.

    errors: the start's name → losses [steps + 1, tasks]. accuracies: (kind of labels, "training classes" or another
    place, inner steps 0 or 1) → a result.
    """
    fig, (left, right) = figures.subplots(1, 2, size=(10, 3.6))
    for name, losses in errors.items():
        mean, half = zip(*(mean_interval(at) for at in losses), strict=True)
        figures.curve_with_band(left, range(len(losses)), mean, half, label=name, index=figures.INDEX[name])
    left.set(xlabel="inner steps on 10 points of a new wave", ylabel="mean squared error", ylim=(0, None))
    left.set(xticks=(0, 5, 10))
    left.legend()
    kinds = _first(accuracies)
    for labels, where in dict.fromkeys((labels, where) for labels, where, _ in accuracies):
        pair = [accuracies[labels, where, steps] for steps in (0, 1)]
        look = figures.style(kinds.index(labels) + 1) | {"linestyle": "-" if where == "training classes" else "--"}
        look["label"] = f"{labels},\n{where}"
        right.errorbar((0, 1), [100 * r.accuracy for r in pair], [100 * r.ci95 for r in pair], **look)
    right.set(xlabel="inner steps on characters", ylabel="accuracy (%)", xticks=(0, 1))
    right.set(xlim=(-0.1, 1.1), ylim=(0, 102))
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=10, handlelength=4)
    return fig


def both_halves_text(errors: Mapping[str, Tensor], accuracies: Accuracies) -> str:
    """The picture of `both_halves` in words."""
    waves = ", ".join(f"{name} {losses[1].mean().item():.2f}" for name, losses in errors.items())
    known = ", ".join(
        f"{labels} {100 * accuracies[labels, 'training classes', 0].accuracy:.0f} %" for labels in _first(accuracies)
    )
    return f"Left, error on new waves after one step: {waves}. Right, training classes before any step: {known}."


def _first(accuracies: Accuracies) -> list[str]:
    """The kinds of labels, each once, in their order."""
    return list(dict.fromkeys(labels for labels, _, _ in accuracies))
