"""Pictures of notebook 10: training curves of many tasks, losses against rates, and the map of an update rule.

`update_map` is a plain drawing function for `widgets.explore`: it changes the artists of the figure that it is given
(`fig`). The matching `…_text` functions put the same pictures in words.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from mlcourse.errors import CourseError
from mlcourse.meta_optimization.learned_optimizers import SGD, Adam, MLPRule, Rule
from mlcourse.statistics import Z95, interval
from mlcourse.teaching import figures

EDGE, POINTS = 3.0, 49  # g and m in units of √v; points on each axis of a map
LONG = 100  # steps; longer curves are drawn thin
CEILING = 1e4  # losses above it, inf and nan are drawn there: the run has diverged


# ------------------------------------------------------------------ curves of many tasks


def bounded(losses: Tensor) -> Tensor:
    """The losses in float64; what is not finite, or above the ceiling, counts as the ceiling."""
    return losses.double().nan_to_num(nan=CEILING, posinf=CEILING).clamp(max=CEILING)


def means(curves: Tensor) -> Tensor:
    """[tasks, T + 1] losses → their mean [T + 1], each loss `bounded`."""
    return bounded(curves).mean(0)


def training_curves(series: Mapping[str, Tensor], *, mark: int | None = None) -> Figure:
    """Mean validation loss against the step, with a 95 % band over tasks. series: name → losses [tasks, T + 1].

    mark: a step for a dotted line, say the horizon of meta-training.
    """
    fig, ax = figures.subplots(size=(7.2, 4.4))
    for index, (name, curves) in enumerate(series.items()):
        mean, style = means(curves), figures.style(index)
        steps = np.arange(len(mean))
        width = 1.2 if len(mean) > LONG else None  # a long restless curve is a thin one, or it hides the others
        ax.plot(steps, mean, label=name, markevery=max(1, len(mean) // 10), **style | {"linewidth": width})
        if mean.max() < CEILING / 10:
            half = Z95 * bounded(curves).std(0) / math.sqrt(len(curves))
            low, high = torch.maximum(mean - half, mean / 3), mean + half  # on a logarithmic axis 0 has no place
            ax.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    if mark is not None:
        ax.axvline(mark, color="#888888", linestyle=":", linewidth=1.2)
    ax.set(yscale="log", xlabel="inner step t", ylabel="validation loss, mean over tasks")
    fig.legend(loc="outside upper center", ncols=2, frameon=False)  # at the side it would take half of the width
    return fig


def training_curves_text(series: Mapping[str, Tensor]) -> str:
    """The picture of `training_curves` in words."""
    words = []
    for name, curves in series.items():
        mean = means(curves)
        words.append(f"{name} {mean[0]:.3g} to {mean[-1]:.3g}")
    steps = max(curves.shape[1] for curves in series.values()) - 1
    return f"Mean validation loss from the start to the end of {steps} steps: {', '.join(words)}."


# ------------------------------------------------------------------ losses against rates


def rate_curves(series: Mapping[str, tuple[Sequence[float], Tensor]]) -> Figure:
    """Mean loss at the horizon against the rate; a star at the best. series: name → (rates, losses)."""
    fig, ax = figures.subplots(size=(7.2, 3.6))
    for index, (name, (rates, losses)) in enumerate(series.items()):
        losses = torch.as_tensor(losses).double()
        shown = torch.where(losses < 10, losses, math.nan)
        best, style = int(losses.nan_to_num(nan=math.inf).argmin()), figures.style(index)
        ax.plot(rates, shown, label=name, markersize=5, **style)
        ax.plot(rates[best], losses[best], marker="*", markersize=17, color=style["color"], linestyle="none", zorder=5)
    ax.set(xscale="log", yscale="log", xlabel="rate α", ylabel="loss at the horizon")
    low, high = ax.get_ylim()
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if low <= tick <= high]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    fig.legend(loc="outside upper center", ncols=2, frameon=False)
    return fig


def rate_curves_text(series: Mapping[str, tuple[Sequence[float], Tensor]]) -> str:
    """The picture of `rate_curves` in words."""
    words = []
    for name, (rates, losses) in series.items():
        best = int(torch.as_tensor(losses).nan_to_num(nan=math.inf).argmin())
        words.append(f"{name} {float(losses[best]):.3f} at {float(rates[best]):.3g}")
    return f"Loss at the horizon against the rate; the lowest loss and its rate: {', '.join(words)}."


# ------------------------------------------------------------------ one rule against another, in many places


def geometric(one: Tensor, other: Tensor) -> tuple[float, float, float]:
    """(mean, low, high) of the factor one / other over tasks: its geometric mean and 95 % interval.

    one, other: losses [tasks] of the same tasks, each `bounded`.
    """
    logs = [bounded(losses).clamp(min=1e-12).log() for losses in (one, other)]
    mean, half = interval(logs[0] - logs[1])
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def factors(series: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]], *, xlabel: str) -> Figure:
    """Factors with their intervals, a row for each place: left of the line `one` is better, right of it `other`.

    series: what is compared → place → (one, other), as `geometric` takes them. All have the same places.
    """
    places = list(next(iter(series.values())))
    fig, ax = figures.subplots(size=(8.2, 0.52 * len(places) + 1.7))
    for index, (name, rows) in enumerate(series.items()):
        found = [geometric(*rows[place]) for place in places]
        mean, low, high = map(np.array, zip(*found, strict=True))
        height = np.arange(len(places)) + 0.25 * (index - (len(series) - 1) / 2)
        look = figures.style(index) | {"linestyle": "none", "markersize": 7, "label": name}
        ax.errorbar(mean, height, xerr=[mean - low, high - mean], **look)
    ax.axvline(1, color="#444444", linestyle="--", linewidth=1)
    ax.set(xscale="log", xlabel=xlabel, yticks=range(len(places)), yticklabels=places, ylim=(len(places) - 0.5, -0.5))
    fig.legend(loc="outside upper right", ncols=2, frameon=False)
    return fig


def factors_text(series: Mapping[str, Mapping[str, tuple[Tensor, Tensor]]]) -> str:
    """The picture of `factors` in words."""
    words = []
    for name, rows in series.items():
        found = {place: geometric(*pair) for place, pair in rows.items()}
        words.append(f"{name}: " + ", ".join(f"{place} {_factor(*three)}" for place, three in found.items()))
    return f"Factors between losses, with 95 % intervals, a row for each place. {'; '.join(words)}."


def _factor(mean: float, low: float, high: float) -> str:
    return f"{mean:.2g} ({low:.2g} to {high:.2g})"


# ------------------------------------------------------------------ the map of an update rule


def moves(rule: Rule, g: Tensor, m: Tensor, t: int, *, momenta: bool = True, time: bool = True) -> Tensor:
    """Δ [n] of coordinates with the gradient g [n] and the mean gradient m [n], in units of √v, at step t.

    All momenta of the rule equal m, √v and the root mean square over the tensor are 1, the value is 0. momenta, time:
    whether a learned rule sees these features; those that it does not see are 0. Takes SGD, Adam, MLPRule.
    """
    if isinstance(rule, SGD | Adam):
        rate = rule.rate.detach() * (1.0 if rule.schedule is None else rule.schedule(t))
        if isinstance(rule, Adam):
            return -rate * m
        return -rate * (m / (1 - rule.momentum) if rule.momentum else g)
    if not isinstance(rule, MLPRule):
        raise CourseError(f"{type(rule).__name__} has no map over g and m: what it does depends on its whole memory")
    g, m = g.to(rule.mlp[0].weight.dtype), m.to(rule.mlp[0].weight.dtype) * momenta
    clock = torch.tanh(t / g.new_tensor(rule.times) - 1).expand(len(g), -1) * time
    several = m.unsqueeze(-1).expand(-1, len(rule.momenta))
    columns = {
        "gradient": g.unsqueeze(-1),
        "value": torch.zeros_like(g).unsqueeze(-1),
        "momentum": several,
        "scaled": torch.cat([g.unsqueeze(-1), several], -1),
        "size": torch.ones_like(g).unsqueeze(-1),
        "time": clock,
    }
    with torch.no_grad():
        direction, magnitude = rule.mlp(torch.cat([columns[name] for name in rule.features], -1)).unbind(-1)
        return -rule.scale * direction * (rule.gain * magnitude).exp()


def update_map(
    rules: Mapping[str, Rule], rule: str, step: int, momenta: bool, time: bool, fig: Figure | None = None
) -> tuple[Figure, str]:
    """Left: Δ over g and m, blue down and red up. Right: two cuts through the map. rules: by name; rule: one name."""
    table = _table(rules[rule], step, momenta, time)
    fig = figures.redraw(fig, _map_axes, _map_at, table)
    return fig, f"{rule}, step {step}: the largest move on this map is {np.abs(table).max():.3g}."


def update_map_text(rules: Mapping[str, Rule], rule: str, step: int, momenta: bool, time: bool) -> str:
    """The picture of `update_map` in words."""
    table = _table(rules[rule], step, momenta, time)
    middle, one = POINTS // 2, POINTS // 2 + round(POINTS // 2 / EDGE)
    seen = [name for name, on in {"momenta": momenta, "time": time}.items() if not on]
    rest = table[middle, middle]
    without = f" without {' and '.join(seen)}" if seen else ""
    return (
        f"The map of {rule}{without} at step {step}. At rest, where both gradients are 0, the weight moves by "
        f"{_signed(rest)}. To that a mean gradient of 1 alone adds {_signed(table[one, middle] - rest)}, a gradient of "
        f"1 alone {_signed(table[middle, one] - rest)}, both {_signed(table[one, one] - rest)}."
    )


def _signed(value: float) -> str:
    return f"{round(float(value), 3) + 0.0:+.3f}"


def _table(rule: Rule, step: int, momenta: bool, time: bool) -> np.ndarray:
    """Δ [m, g] on the grid."""
    grid = torch.linspace(-EDGE, EDGE, POINTS, dtype=torch.float64)
    m, g = torch.meshgrid(grid, grid, indexing="ij")
    delta = moves(rule, g.flatten(), m.flatten(), step, momenta=momenta, time=time)
    return delta.view(POINTS, POINTS).double().numpy()


def _map_axes() -> Figure:
    fig, (left, right) = figures.subplots(1, 2, size=(9.4, 3.7), width_ratios=(1.25, 1.2))
    scale = ScalarMappable(Normalize(-1, 1), "RdBu_r")
    fig.colorbar(scale, ax=left, ticks=(-1, 0, 1), label="move Δ", shrink=0.9)
    ticks = range(-3, 4)
    left.set(xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE), aspect="equal", xticks=ticks, yticks=ticks)
    left.set(xlabel="gradient g (in √v)", ylabel="mean gradient m (in √v)")
    right.set(xlim=(-EDGE, EDGE), xticks=ticks, xlabel="g or m (in √v)", ylabel="move Δ")
    right.axhline(0, color="#BBBBBB", linewidth=1)
    names = ("along m, at g = 0", "along g, at m = 0")
    handles = [right.plot([], [], label=name, **figures.style(index))[0] for index, name in enumerate(names)]
    fig.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False)
    return fig


def _map_at(left: Axes, right: Axes, colours: Axes, table: np.ndarray) -> list:
    size, middle = max(np.abs(table).max(), 1e-9), POINTS // 2
    extent = (-EDGE, EDGE, -EDGE, EDGE)
    moving = [left.imshow(table / size, origin="lower", extent=extent, cmap="RdBu_r", vmin=-1, vmax=1, zorder=0)]
    moving += left.plot([0, 0], [-EDGE, EDGE], color=figures.COLOURS[0], linewidth=1.5, marker="")
    moving += left.plot([-EDGE, EDGE], [0, 0], color=figures.COLOURS[1], linewidth=1.5, linestyle="--", marker="")
    grid = np.linspace(-EDGE, EDGE, POINTS)
    for index, cut in enumerate((table[:, middle], table[middle])):
        moving += right.plot(grid, cut, markevery=8, markersize=6, **figures.style(index))
    top = _round_up(1.05 * size)
    right.set(ylim=(-top, top), yticks=[-top, -top / 2, 0, top / 2, top])
    colours.set_yticklabels([f"{one:+.2g}" for one in (-size, 0, size)])
    return moving


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, …: an axis that changes rarely."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value)
