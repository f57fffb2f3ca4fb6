"""Pictures of notebook 03: regions in the plane, the attention of one query, distances, and differences with intervals.

`regions` and `Attention.draw` are drawing functions for `widgets.explore`: each changes the artists of the figure that
it is given (`fig`). The matching `…_text` function puts the same picture in words.
"""

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from mlcourse import statistics
from mlcourse.teaching import figures

FAINT = "#888888"

# colour and marker of each learner, the same in all pictures
INDEX = {"prototypes": 0, "matching": 1, "relation": 2, "ridge": 3, "pixels": 5, "untrained": 6}


# ------------------------------------------------------------------ regions in the plane


LETTERS = "ABC"
EDGE, MOST = 4.0, 5  # the plane is [−EDGE, EDGE]²; support points of a class, at most
CENTRES = np.array([[-1.6, -1.2], [1.7, -0.9], [0.1, 1.9]])
# support points around their centres, fixed once: [class, point, 2]
POINTS = CENTRES[:, None] + 0.75 * np.random.RandomState(3).randn(3, MOST, 2)
POINTS[0, 0] = (-1.5, -1.0)  # the point that moves
HEIGHT = -1.0  # of the dashed line
RULES = {
    "prototypes, squared distance": "squared",
    "prototypes, distance not squared": "plain",
    "nearest support point": "nearest",
    "matching (cosine, τ = 0.1)": "matching",
    "ridge head": "ridge",
}
GRID = 97
EXTENT = (-EDGE, EDGE, -EDGE, EDGE)
AXIS = np.linspace(-EDGE, EDGE, GRID)
PLANE = np.stack(np.meshgrid(AXIS, AXIS), -1).reshape(-1, 2)
LINE = np.stack([AXIS, np.full(GRID, HEIGHT)], -1)
TINTS = np.array([to_rgb(colour) for colour in figures.COLOURS[:3]])
STEPS = (0.5, 0.75, 0.95)  # where the tint of a region gets stronger


def support(shot: int, x: float, y: float) -> np.ndarray:
    """The support points [3, shot, 2]; the first point of class A stands at (x, y)."""
    points = POINTS[:, :shot].copy()
    points[0, 0] = x, y
    return points


def probabilities(rule: str, points: np.ndarray, places: np.ndarray) -> np.ndarray:
    """p(class | place) by one of RULES' values: points [3, shot, 2], places [n, 2] → [n, 3]."""
    logits = LOGITS[rule](points, places)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """‖a_i − b_j‖² for [n, D] and [m, D] → [n, m]."""
    return np.square(a[:, None] - b[None]).sum(-1)


def _squared(points, places):
    return -_squares(places, points.mean(1))


def _plain(points, places):
    return -np.sqrt(_squares(places, points.mean(1)))


def _nearest(points, places):
    return -_squares(places, points.reshape(-1, 2)).reshape(len(places), 3, -1).min(2)


def _matching(points, places):
    def unit(v):
        return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-12)

    scores = (unit(places) @ unit(points.reshape(-1, 2)).T / 0.1).reshape(len(places), 3, -1)
    top = scores.max((1, 2), keepdims=True)
    return np.log(np.exp(scores - top).sum(2) + 1e-300)


def _ridge(points, places, lam=0.5, scale=5.0):
    def features(v):
        return np.concatenate([v, np.ones((len(v), 1))], 1)  # the 1 is the bias of the head

    x = features(points.reshape(-1, 2))
    y = np.repeat(np.eye(3), points.shape[1], 0)
    return scale * features(places) @ np.linalg.solve(x.T @ x + lam * np.eye(3), x.T @ y)


LOGITS = {"squared": _squared, "plain": _plain, "nearest": _nearest, "matching": _matching, "ridge": _ridge}


def regions(rule: str, shot: int, x: float, y: float, fig: Figure | None = None) -> tuple[Figure, str]:
    """Left: which class each place of the plane belongs to, and how surely. Right: the probabilities on a line."""
    fig = figures.redraw(fig, _regions_axes, _regions_at, rule, shot, x, y)
    shares = _shares(rule, shot, x, y)
    words = ", ".join(f"{letter} {share:.0f} %" for letter, share in zip(LETTERS, shares))
    sure = (_plane(rule, shot, x, y).max(1) > STEPS[-1]).mean()
    return fig, f"Share of the square: {words}. Surer than 95 %: {100 * sure:.0f} % of it."


def regions_text(rule: str, shot: int, x: float, y: float) -> str:
    """The picture of `regions` in words."""
    name = next(words for words, value in RULES.items() if value == rule)
    shares = ", ".join(f"{letter} {share:.0f} %" for letter, share in zip(LETTERS, _shares(rule, shot, x, y)))
    ends = probabilities(rule, support(shot, x, y), LINE[[0, -1]])
    left, right = (f"{LETTERS[row.argmax()]} with {100 * row.max():.0f} %" for row in ends)
    return (
        f"A square with three classes of {shot} support point{'s' if shot > 1 else ''} each, coloured by {name}. The "
        f"moving point of A is at ({x:.2f}, {y:.2f}). Shares of the square: {shares}. Right, the probabilities along a "
        f"line: at its left end {left}, at its right end {right}."
    )


@functools.lru_cache(maxsize=1)
def _plane(rule: str, shot: int, x: float, y: float) -> np.ndarray:
    """The probabilities of all places of the plane: [places, 3]."""
    return probabilities(rule, support(shot, x, y), PLANE)


def _shares(rule: str, shot: int, x: float, y: float) -> np.ndarray:
    """The share of the plane that each class gets, in %."""
    return 100 * np.bincount(_plane(rule, shot, x, y).argmax(1), minlength=3) / len(PLANE)


def _regions_axes() -> Figure:
    fig, (left, right) = figures.subplots(1, 2, size=(8.0, 3.7), width_ratios=(1.1, 1))
    left.set(xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE), xlabel="first feature", ylabel="second feature", aspect="equal")
    left.set(xticks=(-4, 0, 4), yticks=(-4, 0, 4))
    left.plot(AXIS, LINE[:, 1], color="#444444", linestyle="--", linewidth=1, marker="", zorder=2)
    left.plot(0, 0, marker="+", markersize=9, color="#444444", linestyle="none", zorder=2)
    left.grid(False)
    right.set(xlim=(-EDGE, EDGE), ylim=(-0.03, 1.03), xlabel="first feature, along the dashed line")
    right.set(ylabel="probability", xticks=(-4, 0, 4), yticks=(0, 0.5, 1))
    handles = [right.plot([], [], label=f"class {letter}", **figures.style(k))[0] for k, letter in enumerate(LETTERS)]
    right.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=11, frameon=False)
    return fig


def _regions_at(left, right, rule: str, shot: int, x: float, y: float) -> list:
    points = support(shot, x, y)
    p = _plane(rule, shot, x, y)
    best, sure = p.argmax(1), p.max(1)
    strength = 0.16 + 0.14 * sum((sure[:, None] > STEPS[k]) for k in range(len(STEPS)))
    image = (1 - strength * (1 - TINTS[best])).reshape(GRID, GRID, 3)
    moving = [left.imshow(image, extent=EXTENT, origin="lower", zorder=0, interpolation="bilinear")]
    on_line = probabilities(rule, points, LINE)
    for k, letter in enumerate(LETTERS):
        look = figures.style(k)
        moving += left.plot(*points[k].T, linestyle="none", markersize=7, markeredgecolor="white", **look, zorder=4)
        if rule in ("squared", "plain"):
            place = points[k].mean(0)
            moving += left.plot(
                *place, marker="o", markersize=17, color="white", markeredgecolor=look["color"], zorder=5
            )
            moving.append(left.text(*place, letter, ha="center", va="center_baseline", fontsize=11, zorder=6))
        moving += right.plot(AXIS, on_line[:, k], markevery=(4 * k, 16), **look)
    ring = {"marker": "o", "markersize": 14, "markerfacecolor": "none", "markeredgecolor": "black", "linestyle": "none"}
    return moving + left.plot(x, y, markeredgewidth=2, zorder=7, **ring)


# ------------------------------------------------------------------ the attention of one query


class Attention:
    """Whom a query looks at: support images with their share of the attention, at any temperature.

    images: support images [n, C, H, W] and labels [n]; asked: queries [q, C, H, W], their labels [q];
    cosines: [q, n], of the embedded queries and support images.
    """

    def __init__(self, images, labels, asked, answers, cosines):
        self.images, self.asked = figures.as_pictures(images), figures.as_pictures(asked)
        self.labels, self.answers = labels.cpu().numpy(), answers.cpu().numpy()
        self.cosines = cosines.detach().double().cpu().numpy()
        self.way = int(self.labels.max()) + 1

    def weights(self, query: int, temperature: float) -> np.ndarray:
        """The attention of a query: [n], it sums to 1."""
        scores = self.cosines[query] / temperature
        weights = np.exp(scores - scores.max())
        return weights / weights.sum()

    def shares(self, query: int, temperature: float) -> np.ndarray:
        """The attention of a query for each class: [way]."""
        return np.bincount(self.labels, self.weights(query, temperature), minlength=self.way)

    def draw(self, query: int, temperature: float, fig: Figure | None = None) -> tuple[Figure, str]:
        """Left the query, right the support images over bars of attention."""
        fig = figures.redraw(fig, self._axes, self._at, query, temperature)
        shares = self.shares(query, temperature)
        return fig, f"Answer: class {shares.argmax()} with {100 * shares.max():.0f} %; right is {self.answers[query]}."

    def text(self, query: int, temperature: float) -> str:
        """The picture of `draw` in words."""
        words = ", ".join(f"class {k} {100 * share:.0f} %" for k, share in enumerate(self.shares(query, temperature)))
        return (
            f"Query {query}, which is of class {self.answers[query]}, and {len(self.labels)} support images over bars "
            f"of attention at temperature {temperature:.2f}. Together: {words}."
        )

    def _axes(self) -> Figure:
        fig, (left, right) = figures.subplots(1, 2, size=(8.8, 3.4), width_ratios=(1, 4.2))
        left.set(xticks=[], yticks=[], title="query")
        left.grid(False)
        n = len(self.labels)
        side = self.images.shape[2]
        strip = figures.tile(self.images, n, gap=2, shade=0.0)
        height = 0.22 * strip.shape[0] / side
        right.imshow(strip, extent=(-0.5, n - 0.5, -0.02 - height, -0.02), vmin=0, vmax=1, aspect="auto")
        for k in range(1, self.way):
            right.axvline(np.searchsorted(self.labels, k) - 0.5, color="#BBBBBB", linewidth=1, marker="")
        right.set(xlim=(-0.6, n - 0.4), ylim=(-0.04 - height, 1.25), xticks=[], yticks=(0, 0.25, 0.5, 0.75, 1))
        right.set(ylabel="attention", xlabel="support images, class by class")
        return fig

    def _at(self, left, right, query: int, temperature: float) -> list:
        weights = self.weights(query, temperature)
        colours = [figures.COLOURS[k % len(figures.COLOURS)] for k in self.labels]
        moving = [left.imshow(self.asked[query], vmin=0, vmax=1)]
        moving.append(right.bar(range(len(weights)), weights, color=colours, width=0.8))
        for k, share in enumerate(self.shares(query, temperature)):
            middle = np.flatnonzero(self.labels == k).mean()
            said = f"class {k}\n{100 * share:.0f} %"
            moving.append(right.text(middle, 1.23, said, ha="center", va="top", fontsize=11))
        return moving


# ------------------------------------------------------------------ numbers


def within_between(found: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Histograms side by side: name → (distances within a class, distances between classes), in units of their mean.

    The pairs are of the same first image: the title says how often the one within is the larger one, with its interval.
    """
    fig, axes = figures.subplots(1, len(found), size=(3.1 * len(found), 3.3), sharey=True, squeeze=False)
    bins = np.linspace(0, 3.2, 49)
    for ax, (name, pair) in zip(axes[0], found.items(), strict=True):
        scale = np.mean(np.concatenate([np.asarray(part, float) for part in pair]))
        for index, part in enumerate(pair):
            values = np.clip(np.asarray(part, float) / scale, 0, bins[-1])
            fill = {"histtype": "stepfilled", "alpha": 0.35} if index == 0 else {"histtype": "step", "linewidth": 2}
            weights = np.full(len(values), 100 / len(values))
            label = ("one character", "two characters")[index]
            ax.hist(values, bins, weights=weights, color=figures.COLOURS[index], label=label, **fill)
        share, half = mistaken(*pair)
        ax.set(title=f"{name}:\nwrong in {share:.0f} ± {half:.0f} %", xlabel="distance / mean", xlim=(0, 3.2))
    axes[0, 0].set_ylabel("share of pairs (%)")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return fig


def mistaken(within: Sequence[float], between: Sequence[float]) -> tuple[float, float]:
    """How often the distance within a class is larger than the one between classes, pair by pair.

    In %, with the half width of its 95 % interval.
    """
    larger = np.asarray(within, float) > np.asarray(between, float)
    return statistics.mean_interval((100.0 * larger).tolist())


def within_between_text(found: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """The picture of `within_between` in words."""
    shares = {name: mistaken(*pair) for name, pair in found.items()}
    words = "; ".join(f"{name}: {share:.0f} ± {half:.0f} %" for name, (share, half) in shares.items())
    return f"Distances of pairs of one character and of two. How often the first is the larger one: {words}."


def forest(
    rows: Mapping[str, tuple[float, float]],
    pairs: Mapping[str, tuple[float, float]],
    *,
    xlabel: str,
    paired_label: str,
    chance: float,
) -> Figure:
    """Left: means with intervals. Right: paired differences with theirs. Both name → (mean, half width), in %."""
    fig, (left, right) = figures.subplots(1, 2, size=(9.8, 0.48 * len(rows) + 1.3), width_ratios=(1.25, 1), sharey=True)
    for place, name in enumerate(rows):
        look = figures.style(INDEX.get(name.split(",")[0], 4))
        if "untrained" in name:
            look = look | {"markerfacecolor": "white"}
        mean, half = rows[name]
        left.errorbar(mean, place, xerr=half, linestyle="none", markersize=8, **look)
        _say(left, f"{mean:.1f} ± {half:.1f}", mean, place)
        if name in pairs:
            mean, half = pairs[name]
            right.errorbar(mean, place, xerr=half, linestyle="none", markersize=8, **look)
            _say(right, f"{mean:+.1f} ± {half:.1f}", mean, place)
    left.axvline(chance, color="#444444", linestyle="--", linewidth=1, marker="")
    right.axvline(0, color="#444444", linestyle="--", linewidth=1, marker="")
    left.set(yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.4, -0.8), xlabel=xlabel)
    left.margins(x=0.12)
    right.margins(x=0.2)
    right.set(xlabel=paired_label)
    return fig


def _say(ax, words: str, x: float, row: int) -> None:
    ax.annotate(words, (x, row), xytext=(0, 6), textcoords="offset points", ha="center", va="bottom", fontsize=10)


def reach(counts: Mapping[str, Sequence[tuple[float, float]]], shots: Sequence[int], *, how: str, chance: float):
    """Accuracy against shots, one curve with a band for each name → [(mean, half width) in % for each shot]."""
    fig, ax = figures.subplots(size=(7.2, 3.7))
    for name, values in counts.items():
        mean, half = zip(*values, strict=True)
        figures.curve_with_band(ax, shots, mean, half, label=name, index=INDEX.get(name.split(",")[0], 4))
    ax.axhline(chance, color="#444444", linestyle="--", linewidth=1, marker="")
    ax.text(max(shots), chance + 1, "guessing", ha="right", fontsize=10)
    ax.set(xscale="log", ylabel="accuracy on new scripts (%)")
    ax.set_xlabel(f"shots: support images of each class\n{how}")
    ax.minorticks_off()
    ax.set(xticks=list(shots), xticklabels=list(shots))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def reach_text(counts: Mapping[str, Sequence[tuple[float, float]]], shots: Sequence[int]) -> str:
    """The picture of `reach` in words."""
    words = "; ".join(
        f"{name} {values[0][0]:.1f} ± {values[0][1]:.1f} % and {values[-1][0]:.1f} ± {values[-1][1]:.1f} %"
        for name, values in counts.items()
    )
    return f"Accuracy with {shots[0]} and with {shots[-1]} support images of each class: {words}."


def surest(way: int, temperature: float, lowest: float = 0.0) -> float:
    """The largest probability that cosines allow: one is 1, the others are `lowest`."""
    return 1 / (1 + (way - 1) * math.exp((lowest - 1) / temperature))
