"""Pictures of notebook 07: what an unrolled inner process keeps, what it costs, and how far shortcuts lead astray."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlcourse.lessons.price.costs import METHODS, Costs
from mlcourse.teaching import figures

LOOKS = {method: figures.style(index) for index, method in enumerate(METHODS)}
LONGEST, ROW = 36, 12  # T on the axis; steps in a row of the sketch
MB = 1e6
ALIVE, AGAIN, GONE = figures.COLOURS[0], figures.COLOURS[5], "#FFFFFF"
STATES = {"graph alive": ALIVE, "graph made in its turn": AGAIN, "no graph": GONE}


class Kept:
    """The widget's picture: bytes against T of all methods, and which steps of one method keep what.

    `draw` and `text` take the values of the controls: the method, T, and R or n.
    """

    def __init__(self, costs: Costs):
        self.costs = costs

    def draw(self, method: str, inner_steps: int, R_or_n: int, fig: Figure | None = None) -> tuple[Figure, str]:
        """Left: the bytes; right: a square for each inner step, a dot for each φ that is kept."""
        fig = fig or self._axes()
        for artist in getattr(fig, "moving", ()):
            artist.remove()
        lines, sketch = fig.axes
        fig.moving = self._lines(lines, method, inner_steps, R_or_n) + _sketch(sketch, method, inner_steps, R_or_n)
        return fig, f"{self._words(method, inner_steps, R_or_n)}."

    def text(self, method: str, inner_steps: int, R_or_n: int) -> str:
        """The picture in words."""
        steps = [_state(method, inner_steps, R_or_n, t) for t in range(inner_steps)]
        counts = ", ".join(f"{name} {steps.count(name)}" for name in STATES)
        return f"{self._words(method, inner_steps, R_or_n)}. Of {inner_steps} steps: {counts}."

    def _words(self, method: str, steps: int, keep: int) -> str:
        here, exact = (self.costs.kept(m, steps, keep) / MB for m in (method, "exact"))
        option = {"truncated": f", R = {keep}", "checkpointed": f", n = {keep}"}.get(method, "")
        return f"{method}{option}, T = {steps}: {here:.2f} MB; the exact unroll keeps {exact:.2f} MB"

    def _axes(self) -> Figure:
        fig, (left, right) = figures.subplots(1, 2, size=(8.8, 3.9), width_ratios=(1.2, 1))
        top = self.costs.kept("exact", LONGEST) / MB
        left.set(xlim=(0, LONGEST + 0.5), ylim=(0, 1.05 * top), xlabel="inner steps T", ylabel="kept for backward (MB)")
        left.set(xticks=range(0, LONGEST + 1, 6))
        right.set(xlim=(-0.8, ROW - 0.2), ylim=(-4.6, 0.8))
        right.set_axis_off()
        handles = [left.plot([], [], label=method, **LOOKS[method])[0] for method in METHODS]
        look = {"linestyle": "none", "marker": "s", "markersize": 11, "markeredgecolor": "#444444"}
        squares = [right.plot([], [], color=colour, label=name, **look)[0] for name, colour in STATES.items()]
        squares.append(
            right.plot([], [], color="black", marker="o", markersize=5, linestyle="none", label="a φ kept")[0]
        )
        left.legend(handles=handles, frameon=False, loc="upper left")
        right.legend(handles=squares, frameon=False, loc="lower left")
        return fig

    def _lines(self, ax: Axes, method: str, steps: int, keep: int) -> list:
        everywhere, moving = range(1, LONGEST + 1), []
        for name in METHODS:
            bytes_ = np.array([self.costs.kept(name, T, keep) for T in everywhere]) / MB
            width = 3 if name == method else 1.2
            dashes = ":" if name == "Reptile" else "-"  # it lies on first-order
            look = LOOKS[name] | {"marker": "", "linewidth": width, "linestyle": dashes}
            moving += ax.plot(everywhere, bytes_, **look)
        here = self.costs.kept(method, steps, keep) / MB
        return moving + ax.plot(steps, here, **(LOOKS[method] | {"markersize": 11, "markeredgecolor": "black"}))


def _state(method: str, steps: int, keep: int, t: int) -> str:
    """What is kept of inner step t (from 0)."""
    if method == "exact" or (method in ("truncated", "checkpointed") and keep >= steps):
        return "graph alive"
    if method == "truncated":
        return "graph alive" if t >= steps - keep else "no graph"
    if method == "checkpointed":
        return "graph alive" if t >= keep * ((steps - 1) // keep) else "graph made in its turn"
    return "no graph"


def _sketch(ax: Axes, method: str, steps: int, keep: int) -> list:
    t = np.arange(steps)
    x, y = t % ROW, -(t // ROW)
    colours = [STATES[_state(method, steps, keep, int(step))] for step in t]
    squares = ax.scatter(x, y, s=190, c=colours, marker="s", edgecolors="#444444")
    kept = t[::keep] if method == "checkpointed" and keep < steps else t[:0]
    dots = ax.scatter(kept % ROW - 0.5, -(kept // ROW), s=28, c="black", zorder=3)
    return [squares, dots]


# ------------------------------------------------------------------ lines of measurements


def bill(bytes_: Mapping[str, Sequence[float]], seconds: Mapping[str, Sequence[float]], steps: Sequence[int]) -> Figure:
    """Left: bytes against T; right: milliseconds against T; a line for each method."""
    fig, (left, right) = figures.subplots(1, 2, size=(9.6, 3.8))
    for method, look in LOOKS.items():
        # Reptile lies on first-order: dashed, both can be seen
        dashes = "--" if method == "Reptile" else "-"
        left.plot(steps, np.array(bytes_[method]) / MB, linestyle=dashes, label=method, **look)
        right.plot(steps, 1000 * np.array(seconds[method]), linestyle=dashes, **look)
    left.set(xlabel="inner steps T", ylabel="kept for backward (MB)", ylim=(0, None), xticks=steps)
    right.set(xlabel="inner steps T", ylabel="one meta-gradient (ms)", ylim=(0, None), xticks=steps)
    fig.legend(loc="outside upper center", ncols=len(LOOKS), frameon=False, columnspacing=1.2)
    return fig


def bias(
    rates: Sequence[float], by_rate: Mapping[str, Sequence[float]], kept: Sequence[int], by_kept: Mapping[str, Sequence]
) -> Figure:
    """Relative error of the first-order gradient against α (left), of truncated ones against R (right), by network."""
    fig, (left, right) = figures.subplots(1, 2, size=(9.6, 3.8), sharey=True)
    for index, name in enumerate(by_rate):
        left.plot(rates, by_rate[name], label=name, **_network(index))
        right.plot(kept, by_kept[name], **_network(index))
    left.set(ylabel="‖g − exact‖ / ‖exact‖")
    _rate_axis(left, rates)
    left.set_title("first-order (R = 0)")
    right.set(xlabel="steps with a graph, R", xticks=kept)
    right.set_title("truncated")
    fig.legend(loc="outside upper center", ncols=len(by_rate), frameon=False)
    return fig


def _network(index: int) -> dict:
    """Colour and marker of a network: other ones than those of the methods."""
    return figures.style(index + len(METHODS))


def _rate_axis(ax: Axes, rates: Sequence[float]) -> None:
    ax.set(xscale="log", xlabel="inner rate α", ylim=(-0.03, 1.1))
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.minorticks_off()


def trade(
    steps: Sequence[int], bytes_: Mapping[str, Sequence[float]], rates: Sequence[float], errors: Mapping[str, Sequence]
) -> Figure:
    """The notebook in one picture. Left: bytes against T. Right: what first-order gives up, against α, by network."""
    fig, (left, right) = figures.subplots(1, 2, size=(10, 4))
    for method, look in LOOKS.items():
        left.plot(
            steps,
            np.array(bytes_[method]) / MB,
            linestyle="--" if method == "Reptile" else "-",
            label=method,
            markevery=5,
            **look,
        )
    left.set(xlabel="inner steps T", ylabel="kept for backward (MB)", ylim=(0, None))
    left.set_title("what it costs")
    left.legend(frameon=False)
    for index, name in enumerate(errors):
        right.plot(rates, errors[name], label=name, **_network(index))
    right.set(ylabel="relative error of first-order")
    _rate_axis(right, rates)
    right.set_title("what it gives up")
    right.legend(frameon=False)
    return fig


def in_words(curves: Mapping[str, Sequence[float]]) -> str:
    """First and last value of each curve, for alternative texts: "exact from 0.6 to 13.5, …"."""
    return ", ".join(f"{name} from {values[0]:.2g} to {values[-1]:.2g}" for name, values in curves.items())
