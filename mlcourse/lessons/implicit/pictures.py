"""Pictures of notebook 08: the optimum as a function, conjugate gradients on a 2×2 system, errors against cost.

`optimum` and `solver` are plain drawing functions for `widgets.explore`: each changes the artists of the figure that it
is given (`fig`). The matching `…_text` function puts the same picture in words. `log_curves` fills an axis.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlcourse.teaching import figures

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]

# colour and marker of each way to a hypergradient, the same in all pictures
INDEX = {
    "conjugate gradients": 0,
    "unrolled": 1,
    "Neumann series": 2,
    "steepest descent": 3,
    "H taken as I": 4,
    "truncated, last 4": 5,
    "implicit against unrolled": 0,
    "inner slope": 5,
}
FAINT = "#888888"


# ------------------------------------------------------------------ the optimum as a function of λ


WEIGHTS = np.linspace(-0.5, 3.5, 121)
DECAYS = np.linspace(0.02, 1.0, 99)


def decayed_loss(phi, decay):
    """L_inner(φ, λ) = log(1 + e^−φ) + (λ/2)φ²: one example that wants φ to grow, and weight decay that holds it."""
    return np.logaddexp(0, -phi) + 0.5 * decay * phi**2


def best_weight(decay: float) -> float:
    """φ*(λ), the minimum of `decayed_loss`, by Newton's method."""
    phi = 0.0
    for _ in range(50):
        sigmoid = 1 / (1 + math.exp(phi))
        phi -= (decay * phi - sigmoid) / (decay + sigmoid * (1 - sigmoid))
    return phi


def best_weight_slope(decay: float) -> float:
    """dφ*/dλ = −(∂²L_inner/∂φ∂λ) / (∂²L_inner/∂φ²) at φ*(λ)."""
    phi = best_weight(decay)
    sigmoid = 1 / (1 + math.exp(phi))
    return -phi / (sigmoid * (1 - sigmoid) + decay)


def optimum(weight_decay: float, fig: Figure | None = None) -> tuple[Figure, str]:
    """Left: the inner loss at this λ, and its lowest point. Right: the lowest points of all λ, and the tangent."""
    fig = figures.redraw(fig, _optimum_axes, _optimum_at, weight_decay)
    phi, slope = best_weight(weight_decay), best_weight_slope(weight_decay)
    return fig, f"λ = {weight_decay:.2f}: φ* = {phi:.3f}, and the slope dφ*/dλ = {figures.number(slope)}."


def optimum_text(weight_decay: float) -> str:
    """The picture of `optimum` in words."""
    phi, slope = best_weight(weight_decay), best_weight_slope(weight_decay)
    return (
        f"Left, the inner loss over the weight for weight decay {weight_decay:.2f}; its lowest point is at {phi:.3f}. "
        f"Right, the lowest point falls when the weight decay grows; here the tangent has the slope "
        f"{figures.number(slope)}."
    )


def _optimum_axes() -> Figure:
    fig, (left, right) = figures.subplots(1, 2, size=(8.4, 3.5))
    for decay in (0.05, 0.2, 0.5, 1.0):
        left.plot(WEIGHTS, decayed_loss(WEIGHTS, decay), color="#CCCCCC", linewidth=1, marker="")
    left.set(xlim=(-0.5, 3.5), ylim=(0, 2), xlabel="weight φ", ylabel="inner loss", xticks=range(4), yticks=(0, 1, 2))
    right.plot(DECAYS, [best_weight(decay) for decay in DECAYS], color=figures.COLOURS[2], linewidth=3, marker="")
    right.set(xlim=(0, 1), ylim=(0, 3.5), xlabel="weight decay λ", ylabel="lowest point φ*(λ)")
    right.set(xticks=(0, 0.5, 1), yticks=range(4))
    return fig


def _optimum_at(left: Axes, right: Axes, decay: float) -> list:
    phi, slope = best_weight(decay), best_weight_slope(decay)
    reach = np.array([-1.0, 1.0]) * 0.35 / math.hypot(1, slope / 3.5)  # lines of about one length on the page
    look = {"color": figures.COLOURS[0], "marker": "o", "markersize": 10, "linestyle": "none", "zorder": 5}
    moving = left.plot(WEIGHTS, decayed_loss(WEIGHTS, decay), color=figures.COLOURS[0], marker="")
    moving += left.plot(phi, decayed_loss(phi, decay), **look)
    moving += left.plot([phi, phi], [0, decayed_loss(phi, decay)], color=FAINT, linestyle=":", marker="")
    moving += right.plot(decay + reach, phi + slope * reach, color=figures.COLOURS[1], marker="")
    moving += right.plot(decay, phi, **look)
    moving.append(
        right.text(0.97, 3.2, f"slope {figures.number(slope)}", color=figures.COLOURS[1], ha="right", va="center")
    )
    return moving


# ------------------------------------------------------------------ two ways over the ellipses


AXES = np.array([[math.cos(0.45), -math.sin(0.45)], [math.sin(0.45), math.cos(0.45)]])  # columns: flat, steep
GOAL = AXES @ np.array([3.0, 1.0])  # A⁻¹b, the same for every A, so that the picture stays in place
MOST, FLOOR = 12, -16.0  # iterations on the axis; the log of rounding


def system(condition: float, damping: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A + γI with eigenvalues 1/κ and 1 (plus γ), and b = A · GOAL."""
    matrix = AXES * np.array([1 / condition, 1.0]) @ AXES.T
    return matrix + damping * np.eye(2), matrix @ GOAL


def path(matrix: np.ndarray, b: np.ndarray, iterations: int, *, memory: bool) -> np.ndarray:
    """v_0 = 0, v_1, …, [iterations + 1, 2]: conjugate gradients, or without memory steepest descent."""
    v, residual, direction = np.zeros(2), b, b
    found = [v]
    for _ in range(iterations):
        error = residual @ residual
        if error > 1e-30:
            size = (residual @ direction) / (direction @ matrix @ direction)
            v, residual = v + size * direction, residual - size * matrix @ direction
            direction = residual + (residual @ residual / error if memory else 0.0) * direction
        found.append(v)
    return np.stack(found)


def _rest(matrix: np.ndarray, b: np.ndarray, points: np.ndarray) -> np.ndarray:
    """log₁₀ of ‖b − A v‖ / ‖b‖ for each point, not below rounding."""
    sizes = np.linalg.norm(b - points @ matrix, axis=1) / np.linalg.norm(b)
    return np.log10(np.maximum(sizes, 10**FLOOR))


def _found(iterations: int, condition: float, damping: float):
    matrix, b = system(condition, damping)
    paths = [path(matrix, b, iterations, memory=memory) for memory in (True, False)]
    return matrix, b, paths, [_rest(matrix, b, points) for points in paths]


def solver(iterations: int, condition: float, damping: float, fig: Figure | None = None) -> tuple[Figure, str]:
    """Left: both paths over the level lines of ½vᵀ(A + γI)v − bᵀv. Right: what is left of the residual."""
    fig = figures.redraw(fig, _solver_axes, _solver_at, iterations, condition, damping)
    matrix, b, _, rests = _found(iterations, condition, damping)
    off = np.linalg.norm(np.linalg.solve(matrix, b) - GOAL) / np.linalg.norm(GOAL)
    words = f"Residual left: conjugate gradients 10^{rests[0][-1]:.1f}, steepest descent 10^{rests[1][-1]:.1f}."
    return fig, f"{words} The damped solution is {100 * off:.0f} % away from A⁻¹b."


def solver_text(iterations: int, condition: float, damping: float) -> str:
    """The picture of `solver` in words."""
    matrix, b, paths, rests = _found(iterations, condition, damping)
    off = np.linalg.norm(np.linalg.solve(matrix, b) - GOAL) / np.linalg.norm(GOAL)
    end = ", ".join(f"{value:.2f}" for value in paths[0][-1])
    return (
        f"Level lines are ellipses, condition number {condition:g}, damping {damping:.2f}. After {iterations} "
        f"iterations conjugate gradients stand at ({end}), the log of the residual is {rests[0][-1]:.1f}; "
        f"that of steepest descent is {rests[1][-1]:.1f}. The solution is "
        f"{100 * off:.0f} % away from the undamped one."
    )


def _solver_axes() -> Figure:
    fig, (left, right) = figures.subplots(1, 2, size=(8.8, 4.0), width_ratios=(1.25, 1))
    left.set(xlim=(-0.9, 4.1), ylim=(-0.9, 3.1), xlabel="first entry of v", ylabel="second entry of v", aspect="equal")
    left.plot(*GOAL, marker="*", markersize=15, color="#000000", linestyle="none", zorder=6)
    left.text(GOAL[0] + 0.2, GOAL[1] + 0.25, "A⁻¹b", zorder=6)
    left.text(-0.75, -0.35, "start")
    right.set(xlim=(-0.3, MOST + 0.3), ylim=(FLOOR - 0.8, 1.5), xlabel="iterations", xticks=range(0, MOST + 1, 2))
    right.set(ylabel="log₁₀ of the residual left", yticks=range(-16, 1, 4))
    handles = [
        left.plot([], [], label=name, **figures.style(INDEX[name]))[0]
        for name in ("conjugate gradients", "steepest descent")
    ]
    fig.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    return fig


def _solver_at(left: Axes, right: Axes, iterations: int, condition: float, damping: float) -> list:
    matrix, b, paths, _ = _found(MOST, condition, damping)
    bottom = np.linalg.solve(matrix, b)
    drop = 0.5 * b @ bottom  # how far the bowl lies below the start
    values, axes = np.linalg.eigh(matrix)
    angles = np.linspace(0, 2 * math.pi, 90)
    circle = np.stack([np.cos(angles), np.sin(angles)])
    rings = []
    for level in (1.0, 0.5, 0.2, 0.06, 0.01):
        ring = bottom[:, None] + axes @ (circle * np.sqrt(2 * level * drop / values)[:, None])
        rings.append(np.append(ring, [[math.nan], [math.nan]], 1))  # a gap lifts the pen between the rings
    moving = left.plot(*np.concatenate(rings, 1), color="#BBBBBB", linewidth=1, marker="", zorder=1.5)
    for points, name in zip(reversed(paths), ("steepest descent", "conjugate gradients")):
        look = figures.style(INDEX[name])
        moving += left.plot(*points[: iterations + 1].T, zorder=4, markersize=6, **look)
        rest = _rest(matrix, b, points)
        moving += right.plot(range(MOST + 1), rest, alpha=0.3, **look)
        moving += right.plot(iterations, rest[iterations], markersize=11, linestyle="none", zorder=5, **look)
    if damping:
        moving += left.plot(*bottom, marker="*", markersize=13, color=figures.COLOURS[4], linestyle="none", zorder=6)
    return moving


# ------------------------------------------------------------------ errors and bytes


def log_curves(
    ax: Axes,
    series: Curves,
    *,
    xlabel: str,
    ylabel: str,
    floor: float | None = 1e-16,
    theory: bool = False,
) -> None:
    """Draw `name: (x, y)` with logarithmic y; what lies below `floor` is drawn there. Colours follow INDEX.

    theory: dashed black lines without markers or names, for what a formula predicts.
    """
    for place, (name, (x, y)) in enumerate(series.items()):
        look = figures.style(INDEX.get(name, place))
        if theory:
            look = {"color": "#000000", "marker": "", "linestyle": "--", "linewidth": 1, "zorder": 4}
        values = np.asarray(y, float) if floor is None else np.maximum(np.asarray(y, float), floor)
        every = max(1, len(x) // 10)
        ax.plot(x, values, label=None if theory else name, markevery=every, **look)
    ax.set(yscale="log", xlabel=xlabel, ylabel=ylabel)


def last_in_words(series: Curves, unit: str = "") -> str:
    """The last value of each curve, for alternative texts: "unrolled 2.1e-02, conjugate gradients 3.0e-15"."""
    return ", ".join(f"{name} {float(y[-1]):.1e}{unit}" for name, (_, y) in series.items())


def neumann_decay(series: Curves, factors: Sequence[float]) -> Figure:
    """Errors against terms, and dashed lines through their ends that fall by theory's factor a term.

    series: name → (terms, errors). factors: for each curve max |1 − η · eigenvalue|, which wins in the end.
    """
    fig, ax = figures.subplots(size=(7, 3.6))
    labels = {"xlabel": "terms K", "ylabel": "error of v, relative"}
    log_curves(ax, series, **labels)
    theory = {
        name: (terms, [float(errors[-1]) * factor ** (k - terms[-1]) for k in terms])
        for (name, (terms, errors)), factor in zip(series.items(), factors, strict=True)
    }
    log_curves(ax, theory, **labels, theory=True)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def costs(errors: Curves, kept: Curves) -> Figure:
    """Left: errors against Hessian-vector products. Right: KiB saved for backward against inner steps."""
    fig, (left, right) = figures.subplots(1, 2, size=(10, 3.9))
    log_curves(left, errors, xlabel="Hessian-vector products", ylabel="relative error of the hypergradient")
    left.set(xscale="log", ylim=(1e-17, 1e2))
    left.legend(loc="lower left")
    log_curves(right, kept, xlabel="inner steps T", ylabel="saved for backward (KiB)")
    _plain_ticks(right, next(iter(kept.values()))[0])
    sizes = _all(kept)
    ticks = [size for size in (10, 30, 100, 300, 1000, 3000) if min(sizes) / 2 <= size <= 2 * max(sizes)]
    right.set(yticks=ticks, yticklabels=ticks)
    right.legend(loc="upper left")
    return fig


def costs_text(errors: Curves, kept: Curves) -> str:
    """The picture of `costs` in words."""
    products, steps = (next(iter(curves.values()))[0][-1] for curves in (errors, kept))
    return (
        f"Left, relative error after {products} Hessian-vector products: {last_in_words(errors)}. "
        f"Right, KiB saved for backward at {steps} inner steps: {last_in_words(kept)}."
    )


def agreement(found: Mapping[str, Curves]) -> Figure:
    """Side by side, one picture a network: name → its curves against the inner steps."""
    fig, axes = figures.subplots(1, len(found), size=(9.4, 3.8), sharey=True)
    for ax, (name, curves) in zip(axes, found.items(), strict=True):
        log_curves(ax, curves, xlabel="inner steps T", ylabel="", floor=None)
        _plain_ticks(ax, next(iter(curves.values()))[0])
        ax.set_title(name)
    axes[0].set_ylabel("relative difference; slope")
    axes[0].legend(loc="lower left")
    return fig


def agreement_text(found: Mapping[str, Curves]) -> str:
    """The picture of `agreement` in words."""
    words = []
    for name, curves in found.items():
        for what, (steps, values) in curves.items():
            words.append(f"{name}, {what}: {values[0]:.1e} at T = {steps[0]}, {values[-1]:.1e} at T = {steps[-1]}")
    return "; ".join(words) + "."


def ink(images, features) -> Figure:
    """Grey images [n, H, W] above, and their features [n, side · side] as squares below."""
    side = math.isqrt(features.shape[1])
    scale = images.shape[-1] // side
    squares = features.float().view(-1, side, side).repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    fig, axes = figures.subplots(2, 1, size=(7, 2.9))
    for ax, rows in zip(axes, (images, squares)):
        figures.draw_tiles(ax, rows, columns=len(rows))
    return fig


def _plain_ticks(ax: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis with its values in plain numbers."""
    ax.set(xscale="log")
    ax.minorticks_off()
    ax.set(xticks=values, xticklabels=values)


def _all(curves: Curves) -> list[float]:
    return [float(value) for _, values in curves.values() for value in values]
