"""Pictures of notebook 05: the factor (1 − αa)^T, the live autograd graph of an inner step, errors, a field with curl.

`factor` is a drawing function for `widgets.explore`; the others return a figure once. Each has its words beside it, for
the alternative text.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mlcourse.teaching import figures

DIRECT, THROUGH, FAINT = figures.COLOURS[0], figures.COLOURS[1], "#888888"
CURVATURES = (1.0, 4.0)  # the two tasks of notebook 01

# ------------------------------------------------------------------ the factor (1 − αa)^T

TOP = 2.5  # the factor is drawn from −TOP to TOP
GRID = np.linspace(0.0, TOP, 251)


def verdict(rate: float, curvature: float, steps: int) -> str:
    """What (1 − αa)^T does to the slope ∇L_outer that comes back: in two or three words."""
    base, factor = 1 - rate * curvature, (1 - rate * curvature) ** steps
    if abs(base) > 1 + 1e-9:
        return "explodes" + (", sign flipped" if factor < 0 else "")
    if abs(factor) < 0.01:
        return "vanishes"
    if factor < 0:
        return "sign flipped"
    return "passes unchanged" if abs(factor - 1) < 1e-9 else "shrinks"


def _factors_in_words(rate: float, steps: int) -> str:
    words = []
    for a in CURVATURES:
        factor = (1 - rate * a) ** steps
        words.append(f"a = {a:g}: factor {round(factor, 3) + 0.0:+.3f}, {verdict(rate, a, steps)}")
    return "; ".join(words)


def factor(inner_rate: float, inner_steps: int, fig: Figure | None = None) -> tuple[Figure, str]:
    """Left: (1 − αa)^T over αa, and where two curvatures stand. Right: the same factor, step after step."""
    fig = fig or _factor_axes()
    for artist in getattr(fig, "moving", ()):
        artist.remove()
    fig.moving = _factor_at(*fig.axes, inner_rate, inner_steps)
    return fig, f"α = {inner_rate:.2f}, T = {inner_steps}. {_factors_in_words(inner_rate, inner_steps)}."


def factor_text(inner_rate: float, inner_steps: int) -> str:
    """The picture of `factor` in words."""
    return (
        f"Left, the factor (1 − αa)^T over αa for T = {inner_steps}. Right, the factor after each step for two "
        f"curvatures at inner rate {inner_rate:.2f}. {_factors_in_words(inner_rate, inner_steps)}."
    )


def _factor_axes() -> Figure:
    fig, (left, right) = figures.subplots(1, 2, size=(8.6, 3.7), width_ratios=(1.25, 1))
    left.axvspan(2, TOP, color="#EEEEEE", zorder=0)
    for x, words in ((0.5, "shrinks"), (1.5, "shrinks, sign flips"), (2.25, "explodes")):
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        left.text(x, -2.3, words, ha="center", color="#555555", bbox=box, fontsize=10, zorder=3)
    for x in (1, 2):
        left.axvline(x, color=FAINT, linewidth=1, linestyle=":")
    left.set(xlim=(0, TOP), ylim=(-TOP, TOP), xlabel="αa", ylabel="factor (1 − αa)^T", yticks=range(-2, 3))
    right.set(xlim=(-0.3, 10.3), ylim=(-TOP, TOP), xlabel="steps t", ylabel="factor (1 − αa)^t", yticks=range(-2, 3))
    right.set_xticks(range(0, 11, 2))
    looks = [figures.style(index) | {"linestyle": "none"} for index in (0, 1)]
    handles = [left.plot([], [], label=f"a = {a:g}", **look)[0] for a, look in zip(CURVATURES, looks)]
    fig.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return fig


def _factor_at(left: Axes, right: Axes, rate: float, steps: int) -> list:
    curve = np.clip((1 - GRID) ** steps, -2 * TOP, 2 * TOP)
    moving = left.plot(GRID, curve, color=figures.COLOURS[2], marker="", zorder=2)
    times = np.arange(11)
    for index, a in enumerate(CURVATURES):
        look = figures.style(index) | {"zorder": 4}
        height = np.clip((1 - rate * a) ** steps, -TOP, TOP)
        # beyond the edge of the picture the marker stands on the edge
        moving += left.plot(min(rate * a, TOP), height, markersize=11, linestyle="none", clip_on=False, **look)
        values = np.clip((1 - rate * a) ** times, -2 * TOP, 2 * TOP)
        moving += right.plot(times[: steps + 1], values[: steps + 1], linewidth=1.5, **look)
    return moving


# ------------------------------------------------------------------ the live graph of one inner step


@dataclass(frozen=True)
class Node:
    """A node of the autograd graph. row: 0 at the loss, growing towards θ. step: only the edge to be cut leads here."""

    name: str
    words: str
    row: int
    step: bool


@dataclass(frozen=True)
class Graph:
    """nodes; edges as pairs of positions in nodes, from the loss towards θ; cut: the position of φ's node."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]
    cut: int
    through: bool  # whether the inner gradient's graph hangs at φ

    @property
    def ways(self) -> int:
        """How many ways lead from the loss to θ."""
        counts = [0] * len(self.nodes)
        for index in sorted(range(len(self.nodes)), key=lambda i: -self.nodes[i].row):
            below = [b for a, b in self.edges if a == index]
            counts[index] = sum(counts[b] for b in below) if below else int("AccumulateGrad" in self.nodes[index].name)
        return counts[0]


def live_graph(loss: Tensor, phi: Tensor, names: Mapping[str, Tensor]) -> Graph:
    """Walk `grad_fn.next_functions` from the loss; phi = θ − step: its second input is what first-order MAML cuts.

    names: words for the nodes of these tensors, such as {"θ": theta}.
    """
    root, cut = loss.grad_fn, phi.grad_fn
    step = cut.next_functions[1][0]
    rows, direct = _rows(root), set(_reached(root, without=(cut, step)))
    order = sorted(rows, key=rows.get)
    words = {_node_of(tensor): name for name, tensor in names.items() if _node_of(tensor) is not None}
    nodes = tuple(Node(n.name(), words.get(n, ""), rows[n], n not in direct) for n in order)
    place = {node: index for index, node in enumerate(order)}
    edges = tuple((place[a], place[b]) for a in order for b, _ in a.next_functions if b is not None)
    return Graph(nodes, edges, place[cut], step is not None)


def _node_of(tensor: Tensor):
    """The node at which a tensor's gradient arrives: its grad_fn, or a leaf's AccumulateGrad."""
    return tensor.grad_fn or (tensor.view_as(tensor).grad_fn.next_functions[0][0] if tensor.requires_grad else None)


def _reached(root, without: tuple) -> list:
    """All nodes below `root` (itself included), when the edge `without` = (from, to) is not taken."""
    todo, seen = [root], {}
    while todo:
        node = todo.pop()
        if node not in seen:
            seen[node] = None
            todo += [b for b, _ in node.next_functions if b is not None and (node, b) != without]
    return list(seen)


def _rows(root) -> dict:
    """The longest way from the root to each node, so that every edge leads downwards."""
    above = dict.fromkeys(_reached(root, without=()), 0)
    waiting = dict.fromkeys(above, 0)
    for node in above:
        for below, _ in node.next_functions:
            if below is not None:
                waiting[below] += 1
    ready = [root]
    while ready:
        node = ready.pop()
        for below, _ in node.next_functions:
            if below is None:
                continue
            above[below] = max(above[below], above[node] + 1)
            waiting[below] -= 1
            if waiting[below] == 0:
                ready.append(below)
    return above


def draw_graph(ax: Axes, graph: Graph, rows: int) -> None:
    """Draw a graph with the loss on top; the nodes of the step stand to the right, in another colour and shape."""
    places = places_of(graph, rows)
    for a, b in graph.edges:
        through = graph.nodes[b].step or graph.nodes[a].step
        look = {"color": THROUGH if through else DIRECT, "lw": 2.5 if through else 1.8}
        far = 11 if places[a][0] == places[b][0] else 20  # a slanting arrow meets the side of the next box
        arrow = {"arrowstyle": "-|>", "shrinkA": 11, "shrinkB": far, **look}
        ax.annotate("", places[b], places[a], arrowprops=arrow, zorder=1)
    for node, (x, y) in zip(graph.nodes, places):
        label = node.name.replace("torch::autograd::", "").replace("Backward0", "").replace("Backward1", "")
        label = "leaf" if label == "AccumulateGrad" else label
        box = {"facecolor": "white", "edgecolor": THROUGH if node.step else DIRECT, "linewidth": 1.5}
        box |= {"boxstyle": "round,pad=0.25" if node.step else "square,pad=0.25"}
        words = f"{node.words}:  {label}" if node.words else label
        bold = "bold" if node.words else "normal"
        ax.text(x, y, words, ha="center", va="center", bbox=box, fontsize=10.5, fontweight=bold)
    x, y = places[graph.cut]
    if graph.through:
        ax.text(x + 0.6, y - 0.15, "the edge that\nfirst-order cuts", color=THROUGH, fontsize=10.5, va="bottom")
    else:
        dotted = {"arrowstyle": "-", "ls": ":", "lw": 2.5, "color": FAINT}
        ax.annotate("", (x + 0.6, y - 0.7), (x, y), arrowprops=dotted, zorder=1)
        ax.text(x + 0.6, y - 0.75, "✕", color=THROUGH, fontsize=18, ha="center", va="center")
        ax.text(x + 0.75, y - 0.75, "cut: None", color="#555555", fontsize=10.5, va="center")
    ax.set(xlim=(-0.6, 1.7), ylim=(-rows + 0.4, 0.6))
    ax.set_axis_off()


def places_of(graph: Graph, rows: int) -> list[tuple[float, float]]:
    """(x, y) of each node: the direct way at 0, the step at 1, nodes of one row side by side; leaves at the bottom."""
    places, taken = [], {}
    for node in graph.nodes:
        row = rows - 1 if "AccumulateGrad" in node.name else node.row
        key = (row, node.step)
        places.append((node.step + 0.45 * taken.get(key, 0), -float(row)))
        taken[key] = taken.get(key, 0) + 1
    return places


def two_graphs(one_step: Callable[[bool], dict[str, Tensor]]) -> tuple[Figure, str]:
    """(figure, words): the graphs of the same code with create_graph=True (left) and False (right).

    one_step(create_graph) returns the tensors by name; "φ" and "L_outer" must be among them.
    """
    made = {flag: one_step(flag) for flag in (True, False)}
    graphs = {flag: live_graph(tensors["L_outer"], tensors["φ"], tensors) for flag, tensors in made.items()}
    rows = max(node.row for graph in graphs.values() for node in graph.nodes) + 1
    fig, axes = figures.subplots(1, 2, size=(9.2, 0.46 * rows + 0.9))
    for ax, (flag, graph) in zip(axes, graphs.items()):
        draw_graph(ax, graph, rows)
        ax.set_title(f"create_graph={flag}: {graph.ways} way{'s' * (graph.ways != 1)} from the loss to θ")
    counts = {flag: len(graph.nodes) for flag, graph in graphs.items()}
    words = (
        f"The autograd graph of one inner step, twice. With create_graph=True it has {counts[True]} nodes: from the "
        "node of φ one edge leads straight to θ and a second one through the inner gradient to θ. With "
        f"create_graph=False it has {counts[False]} nodes: the second edge is cut, only the straight one is left."
    )
    return fig, words


# ------------------------------------------------------------------ errors of differences


def error_curves(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str = "") -> Figure:
    """Relative errors against the step h, both on logarithmic axes. curves: name -> (steps h, errors)."""
    fig, ax = figures.subplots(size=(7.4, 3.9))
    _errors(ax, curves)
    ax.set_title(title)
    return fig


def _errors(ax: Axes, curves) -> None:
    for index, (name, (steps, errors)) in enumerate(curves.items()):
        # an error of exactly 0 has no place on a logarithmic axis
        ax.plot(steps, np.maximum(errors, 1e-16), label=name, **figures.style(index))
    ax.set(xscale="log", yscale="log", xlabel="step h of the difference", ylabel="relative error of the slope")
    ax.legend()


def kink(at: Sequence[float], profiles: Mapping[str, Sequence[float]], curves) -> Figure:
    """Left: the outer loss along a line, minus its value in the middle; right: errors there, as in `error_curves`."""
    fig, (left, right) = figures.subplots(1, 2, size=(9.6, 3.8))
    unit = max(map(abs, at))
    for index, (name, values) in enumerate(profiles.items()):
        values = np.asarray(values) - values[len(values) // 2]
        left.plot(np.asarray(at) / unit, values, label=name, markevery=max(1, len(at) // 8), **figures.style(index))
    left.set(xlabel=f"way along a line (in units of {unit:.0e})", ylabel="outer loss, change")
    left.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    left.legend()
    _errors(right, curves)
    return fig


def kink_text(profiles: Mapping[str, Sequence[float]], curves: Mapping[str, tuple]) -> str:
    """The picture of `kink` in words: the largest step along the line compared with the usual one, and the errors."""
    jumps = []
    for name, values in profiles.items():
        steps = np.abs(np.diff(values))
        jumps.append(f"{name} {steps.max() / max(np.median(steps), 1e-300):.1f} times")
    errors = ", ".join(f"{name} {min(values):.0e}" for name, (_, values) in curves.items())
    return (
        "Left, the outer loss along a line. The largest step between two neighbouring points, compared with the median "
        f"step: {', '.join(jumps)}. Right, the error of central differences against h; the smallest: {errors}."
    )


# ------------------------------------------------------------------ what first-order loses


def cosines(rates: Sequence[float], found: Mapping[int, Tensor]) -> Figure:
    """The cosine between first-order and exact gradient against α. found: T -> cosines [tasks, rates]."""
    fig, ax = figures.subplots(size=(7.4, 3.9))
    draw_cosines(ax, rates, found)
    return fig


def draw_cosines(ax: Axes, rates: Sequence[float], found: Mapping[int, Tensor]) -> None:
    """The same on given axes: the median of the tasks as a line, all tasks within the band."""
    for index, (steps, values) in enumerate(found.items()):
        values = values.numpy()
        line = figures.curve_with_band(ax, rates, np.median(values, 0), label=f"T = {steps}", index=index)
        ax.fill_between(rates, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    ax.axhline(0, color="#444444", linewidth=0.8)
    ax.set(xscale="log", xlabel="inner rate α", ylabel="cosine(first-order, exact)", ylim=(None, 1.05))
    ax.legend(loc="lower left")


def summary(
    one_step: Callable[[bool], dict[str, Tensor]], rates: Sequence[float], found: Mapping[int, Tensor]
) -> Figure:
    """Left: the graph of `two_graphs` with its edge to be cut. Right: `cosines`."""
    tensors = one_step(True)
    graph = live_graph(tensors["L_outer"], tensors["φ"], tensors)
    rows = max(node.row for node in graph.nodes) + 1
    fig, (left, right) = figures.subplots(1, 2, size=(10, 5.8))
    draw_graph(left, graph, rows)
    draw_cosines(right, rates, found)
    return fig


def fields(
    ways: Mapping[str, Callable[[Tensor], Tensor]], loss: Callable[[Tensor], Tensor], centre: Tensor, radius: float
) -> Figure:
    """Descent directions (of length 1) of several "gradients" over the outer loss of two weights, and a circle."""
    fig, axes = figures.subplots(1, len(ways), size=(9.2, 4.1), sharex=True, sharey=True)
    side = torch.linspace(-2, 2, 41, dtype=torch.float64)
    heights = np.array([[float(loss(torch.stack([x, y]))) for x in side] for y in side])
    points = torch.cartesian_prod(side[2::6], side[2::6])
    angles = np.linspace(0, 2 * math.pi, 100)
    for index, (ax, (name, way)) in enumerate(zip(axes, ways.items())):
        ax.contour(side, side, heights, levels=12, colors="#BBBBBB", linewidths=0.8)
        downhill = torch.stack([-way(point) for point in points])
        downhill = (downhill / downhill.norm(dim=1, keepdim=True).clamp(min=1e-12)).T.numpy()  # the direction only
        ax.quiver(*points.T.numpy(), *downhill, color=figures.COLOURS[index], width=0.008, zorder=3, pivot="middle")
        x, y = (c + radius * f(angles) for c, f in zip(centre.tolist(), (np.cos, np.sin)))
        ax.plot(x, y, color="#000000", marker="", linewidth=1.5, linestyle="--")
        ax.set(title=name, xlabel="weight θ₁", ylabel="weight θ₂", aspect="equal", xlim=(-2, 2), ylim=(-2, 2))
        ax.grid(False)
    return fig


def work_round(way: Callable[[Tensor], Tensor], centre: Tensor, radius: float, points: int = 180) -> float:
    """∮ way · dθ once round a circle, anticlockwise: 0 for the gradient of any loss (two weights, trapezoid rule)."""
    total = 0.0
    for angle in (torch.arange(points, dtype=torch.float64) + 0.5) * (2 * math.pi / points):
        out = torch.stack([torch.cos(angle), torch.sin(angle)])
        along = torch.stack([-torch.sin(angle), torch.cos(angle)])
        total += float(way(centre + radius * out) @ along) * radius * 2 * math.pi / points
    return total
