"""Pictures of notebook 04: weights that a network wrote, as colours, as a map, and beside the images they are for.

`WrittenHead.draw` is a plain drawing function for `widgets.explore`: it changes the artists of the figure that it is
given (`fig`), and `WrittenHead.text` puts the same picture in words. The other functions return one figure each.
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from mlcourse.errors import CourseError
from mlcourse.teaching import figures

SIGNED = "RdBu_r"  # blue below zero, white at zero, red above; told apart by the colour-blind too
CLASSES = figures.COLOURS[:2]
NOTHING = "nothing"


def _plain(ax: Axes, title: str | None = None) -> None:
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    if title is not None:
        ax.set_title(title)


# ------------------------------------------------------------------ a toy: points in a square


GRID = torch.stack(torch.meshgrid(torch.linspace(-1, 1, 41), torch.linspace(-1, 1, 41), indexing="xy"), -1).view(-1, 2)


def regions(
    points: Tensor, labels: Tensor, answers: Sequence[Tensor], written: Tensor, titles: Sequence[str]
) -> Figure:
    """A column for each task: above, its labelled points and where the network answers 0 or 1; below, its weights.

    points: [tasks, n, 2] in the square from −1 to 1; labels: [tasks, n], 0 or 1; answers: for each task the
    probability of class 1 at the points of GRID; written: [tasks, P], the numbers that were written.
    """
    tasks = len(points)
    fig, axes = figures.subplots(2, tasks, size=(2.35 * tasks, 3.5), height_ratios=(3, 1), squeeze=False)
    side, most = int(len(GRID) ** 0.5), written.abs().max().item()
    for task, (above, below) in enumerate(axes.T):
        shades = np.asarray(answers[task].detach().cpu(), float).reshape(side, side)
        above.imshow(shades, cmap="PuOr_r", vmin=0.0, vmax=1.0, extent=(-1, 1, -1, 1), origin="lower", alpha=0.55)
        above.contour(shades, [0.5], extent=(-1, 1, -1, 1), colors="#444444", linewidths=1.5)
        for label, colour, marker in zip((0, 1), ("#5E3C99", "#B35806"), ("o", "^")):
            x, y = points[task][labels[task] == label].cpu().T
            above.plot(x, y, linestyle="none", marker=marker, color=colour, markeredgecolor="white", markersize=8)
        _plain(above, titles[task])
        image = below.imshow(folded(written[task]), cmap=SIGNED, vmin=-most, vmax=most, aspect="auto")
        _plain(below)
    axes[1, 0].set_ylabel("weights", fontsize=11)
    fig.colorbar(image, ax=list(axes[1]), label="weight", fraction=0.03, pad=0.01)
    return fig


def folded(numbers: Tensor, rows: int = 4) -> np.ndarray:
    """Numbers [P] as rows of equal length; white where they do not fill the last row."""
    values = numbers.detach().cpu().float().numpy()
    columns = -(-len(values) // rows)
    return np.pad(values, (0, rows * columns - len(values)), constant_values=np.nan).reshape(rows, columns)


def weight_map(written: Tensor, directions: Tensor) -> Figure:
    """Each task an arrow on the two main axes of its written weights; it points along the border of the task.

    written: [tasks, P]; directions: [tasks], angles in radians.
    """
    places = main_axes(written)
    angles = directions.flatten().cpu().numpy()
    fig, ax = figures.subplots(size=(5.6, 4.4))
    reach = 0.035 * float(np.ptp(places))
    steps = reach * np.stack([np.cos(angles), np.sin(angles)], 1)
    shades = matplotlib.colormaps["twilight"](angles / (2 * np.pi) % 1) * (0.8, 0.8, 0.8, 1)  # none too pale on white
    ax.quiver(
        *(places - steps).T, *(2 * steps).T, color=shades, angles="xy", scale_units="xy", scale=1, width=0.005,
        headwidth=4, headlength=4,
    )  # fmt: skip
    ax.set(xlabel="first main axis of the weights", ylabel="second main axis", aspect="equal")
    margin = 2 * reach
    ax.set(xlim=(places[:, 0].min() - margin, places[:, 0].max() + margin))
    ax.set(ylim=(places[:, 1].min() - margin, places[:, 1].max() + margin))
    return fig


def main_axes(written: Tensor) -> np.ndarray:
    """The two coordinates of each row [n, P] along the directions in which the rows differ most: [n, 2]."""
    values = written.detach().cpu().double()
    values = values - values.mean(0)
    _, _, axes = torch.linalg.svd(values, full_matrices=False)
    return (values @ axes[:2].T).numpy()


# ------------------------------------------------------------------ heads of characters


class WrittenHead:
    """Pick a support set, exchange one of its classes, add noise; see the head that is written for it.

    write: images [n, C, H, W] and labels [n] → numbers [way, D], one row for each class.
    episodes: support images [episodes, way, C, H, W], one of each class. others: [episodes, C, H, W], a character of
    another class for each episode, which takes the place of the exchanged one. seed: of the noise.
    """

    def __init__(self, write: Callable[[Tensor, Tensor], Tensor], episodes: Tensor, others: Tensor, *, seed: int = 0):
        if len(episodes) != len(others):
            raise CourseError(f"there are {len(episodes)} episodes and {len(others)} other images; pass one for each")
        self.write, self.episodes, self.others = write, episodes, others
        noise = torch.rand(episodes.shape[1:], generator=torch.Generator().manual_seed(seed))
        self.noise = noise.to(episodes.device)
        self.most = max(self.rows(episode, NOTHING, 0.0).abs().max().item() for episode in range(len(episodes)))

    @property
    def way(self) -> int:
        """Classes of a task."""
        return self.episodes.shape[1]

    def support(self, episode: int, exchange: str, noise: float) -> Tensor:
        """The images [way, C, H, W] of one setting. noise 0 to 1: this share of each pixel is a random grey."""
        images = self.episodes[episode].clone()
        if exchange != NOTHING:
            images[int(exchange.split()[-1])] = self.others[episode]
        return (1 - noise) * images + noise * self.noise

    def rows(self, episode: int, exchange: str, noise: float) -> Tensor:
        """What is written for one setting, [way, D]."""
        labels = torch.arange(self.way, device=self.episodes.device)
        with torch.no_grad():
            return self.write(self.support(episode, exchange, noise), labels).detach()

    def moved(self, episode: int, exchange: str, noise: float) -> list[float]:
        """For each class, how far its row is from what the untouched support set writes, relative to that."""
        plain, now = (self.rows(episode, *setting) for setting in ((NOTHING, 0.0), (exchange, noise)))
        return ((now - plain).norm(dim=1) / plain.norm(dim=1)).tolist()

    def draw(self, episode: int, exchange: str, noise: float, fig: Figure | None = None) -> tuple[Figure, str]:
        """Left the support images; middle the rows of the head; right how far each row has moved."""
        fig = fig or self._axes()
        left, middle, right = fig.axes[:3]  # the fourth is the colour bar
        images = figures.as_pictures(self.support(episode, exchange, noise))
        left.images[0].set_data(column_of(images))
        middle.images[0].set_data(self.rows(episode, exchange, noise).cpu().numpy())
        moved = self.moved(episode, exchange, noise)
        for bar, share, words in zip(right.patches, moved, right.texts):
            bar.set_width(min(share, 2.0))
            words.set_text(f"{100 * share:.0f} %")
            words.set_x(min(share, 2.0) + 0.06)
        return fig, f"Moved, row by row: {', '.join(f'{100 * share:.0f} %' for share in moved)}."

    def text(self, episode: int, exchange: str, noise: float) -> str:
        """The picture of `draw` in words."""
        moved = ", ".join(
            f"class {k} by {100 * share:.0f} %" for k, share in enumerate(self.moved(episode, exchange, noise))
        )
        return (
            f"Support set of episode {episode}, exchanged: {exchange}, noise {noise:.2f}. Beside each of {self.way} "
            f"images the row of the head written for its class. The rows have moved from those of the untouched "
            f"support set: {moved}."
        )

    def _axes(self) -> Figure:
        way, numbers = self.rows(0, NOTHING, 0.0).shape
        fig, (left, middle, right) = figures.subplots(1, 3, size=(8.8, 3.7), width_ratios=(0.9, 4.6, 1.7))
        left.imshow(column_of(figures.as_pictures(self.episodes[0])), vmin=0.0, vmax=1.0, aspect="auto")
        _plain(left, "support")
        image = middle.imshow(np.zeros((way, numbers)), cmap=SIGNED, vmin=-self.most, vmax=self.most, aspect="auto")
        _plain(middle, f"the head: {way} rows of {numbers} numbers")
        for k in range(1, way):
            middle.axhline(k - 0.5, color="white", linewidth=3, marker="")
        right.barh(range(way), [1.0] * way, color=figures.COLOURS[0], height=0.5)
        for k in range(way):
            right.text(0.0, k, "", va="center", fontsize=11)
        right.set(
            ylim=(way - 0.5, -0.5), xlim=(0, 2.9), yticks=[], xticks=(0, 1, 2), xticklabels=("0", "100 %", "200 %")
        )
        right.set_title("row moved by")
        fig.colorbar(image, ax=middle, label="number", fraction=0.03, pad=0.01)
        return fig


def column_of(images: np.ndarray, gap: int = 2) -> np.ndarray:
    """Grey images [n, H, W] below each other; colour images [n, H, W, 3] by their ink."""
    if images.ndim == 4:
        images = 1 - images.mean(-1)
    padded = np.pad(images, ((0, 0), (gap, gap), (gap, gap)))
    return padded.reshape(-1, padded.shape[-1])


def alikeness(rows: Tensor, classes: Sequence[int]) -> tuple[float, float]:
    """How alike the rows [n, D] are: the mean cosine of two rows of one class, and of two rows of two classes.

    The mean of all rows is subtracted first, so that what every row has in common does not count: 0 is "unrelated".
    """
    which = torch.as_tensor(classes, device=rows.device)
    centred = torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
    cosines = centred @ centred.T
    same = which[:, None] == which
    others = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return cosines[same & others].mean().item(), cosines[~same].mean().item()


def row_map_text(rows: Tensor, classes: Sequence[int], names: Sequence[str]) -> str:
    """The picture of `row_map` in words, from the data: how alike rows of one class are, and rows of two classes."""
    same, different = alikeness(rows, classes)
    nearest = (torch.cdist(rows, rows) + 1e9 * torch.eye(len(rows), device=rows.device)).argmin(1).cpu()
    which = torch.as_tensor(classes)
    own = (which[nearest] == which).double().mean().item()
    return (
        f"Rows written for {', '.join(names)}, {len(rows)} rows on two main axes. Two rows of one character have a "
        f"mean cosine of {same:+.2f}, rows of two characters {different:+.2f}; for {100 * own:.0f} % of the rows the "
        f"nearest other row is of the same character, by chance about {100 / len(names):.0f} %."
    )


def row_map(rows: Tensor, classes: Sequence[int], names: Sequence[str]) -> Figure:
    """Each written row a point on the two main axes of all rows; one colour and marker for each class.

    rows: [n, D]; classes: for each row the number of its class; names: of the classes.
    """
    places = main_axes(rows)
    which = np.asarray(classes)
    fig, ax = figures.subplots(size=(6.8, 3.9))
    for k, name in enumerate(names):
        look = figures.style(k) | {"linestyle": "none", "markersize": 7, "alpha": 0.8}
        ax.plot(*places[which == k].T, label=name, **look)
    ax.set(xlabel="first main axis of the rows", ylabel="second main axis")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=10)
    return fig


# ------------------------------------------------------------------ strips and attention


def strips(values: Mapping[str, Tensor], blocks: int, *, rows: str) -> Figure:
    """Written scales and shifts as colours: name → [tasks, blocks · channels], one picture below the other.

    rows: what a row is, for the axis.
    """
    fig, axes = figures.subplots(len(values), 1, size=(8.4, 1.75 * len(values) + 0.6), squeeze=False)
    for ax, (name, numbers) in zip(axes[:, 0], values.items()):
        numbers = numbers.detach().cpu().float()
        most = max(numbers.abs().max().item(), 1e-6)
        image = ax.imshow(numbers, cmap=SIGNED, vmin=-most, vmax=most, aspect="auto")
        channels = numbers.shape[1] // blocks
        for block in range(1, blocks):
            ax.axvline(block * channels - 0.5, color="#444444", linewidth=1.5, marker="")
        ax.set(xticks=[(k + 0.5) * channels - 0.5 for k in range(blocks)], yticks=[], ylabel=rows)
        ax.set_xticklabels([f"block {k + 1}" for k in range(blocks)])
        ax.tick_params(length=0)
        ax.grid(False)
        ax.set_title(name)
        fig.colorbar(image, ax=ax, fraction=0.04, pad=0.01)
    return fig


def attention(support: Tensor, queries: Tensor, shares: Tensor, *, title: str) -> Figure:
    """What each query reads of each support image: a table of shares, the images on its edges.

    support: [n, C, H, W]; queries: [q, C, H, W]; shares: [q, n], rows that sum to 1.
    """
    n, q = len(support), len(queries)
    cell = 0.62
    fig = Figure(figsize=(cell * (n + 1) + 1.4, cell * (q + 1) + 0.6))
    fig.set_layout_engine("none")
    width, height = fig.get_size_inches()
    box = (cell / width, 0.1 / height, n * cell / width, q * cell / height)  # left, bottom, width, height
    table = fig.add_axes(box)
    most = 1.6 * float(shares.max())  # pale enough for the numbers
    table.imshow(shares.detach().cpu().float(), cmap="Blues", vmin=0.0, vmax=most, aspect="auto")
    for row in range(q):
        for column in range(n):
            share = float(shares[row, column])
            ink = "white" if share > 0.65 * most else "black"
            table.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=10, color=ink)
    above = fig.add_axes((box[0], box[1] + box[3], box[2], cell / height))
    above.imshow(figures.tile(support, n, gap=0), vmin=0.0, vmax=1.0, aspect="auto")
    beside = fig.add_axes((0.0, box[1], box[0], box[3]))
    beside.imshow(figures.tile(queries, 1, gap=0), vmin=0.0, vmax=1.0, aspect="auto")
    for ax in (table, above, beside):
        _plain(ax)
        ax.spines[:].set_visible(False)
    fig.text(box[0], 1 - 0.1 / height, title, va="top", fontsize=12)
    return fig


def fast_weights(support: Tensor, labels: Tensor, memory: Tensor) -> Figure:
    """Above, the support images; below each, the fast weights that it wrote for a softmax layer, a row for each class.

    support: [n, C, H, W]; labels: [n], named above the images; memory: [n, way, P].
    """
    n, most = len(support), memory.abs().max().item()
    fig, axes = figures.subplots(2, n, size=(1.9 * n, 3.3), height_ratios=(1, 1.5), squeeze=False)
    for k, (above, below) in enumerate(axes.T):
        above.imshow(figures.tile(support[k : k + 1], 1, gap=0), vmin=0.0, vmax=1.0)
        _plain(above, f"class {int(labels[k])}")
        above.spines[:].set_visible(False)
        image = below.imshow(memory[k].detach().cpu().float(), cmap=SIGNED, vmin=-most, vmax=most, aspect="auto")
        _plain(below)
    axes[1, 0].set(yticks=range(memory.shape[1]), ylabel="row of class")
    axes[1, 0].tick_params(length=0, labelsize=10)
    fig.colorbar(image, ax=list(axes[1]), label="fast weight", fraction=0.03, pad=0.01)
    return fig


# ------------------------------------------------------------------ the parts of a Meta-Network

META_NETWORK_TEXT = (
    "A drawing of a Meta-Network. Above, a support image with its label goes into u, which makes its key, and into "
    "b, which answers. The gradients of their losses go to d, which writes the fast weights of u once for each "
    "task, and to m, which writes the fast weights of b for this image. The memory keeps a row for each support "
    "image: its key and its fast weights. Below, a query goes into u; its key is compared with the keys in the "
    "memory; the fast weights that it reads go into b, which answers."
)
INK, SLOW, WRITER = "#444444", "#D6E6F2", "#F8DCCB"


def meta_network() -> Figure:
    """The parts of a Meta-Network, u, b, d, m and the memory, and what flows between them."""
    fig, ax = figures.subplots(size=(9.6, 4.6))
    ax.set(xlim=(0, 12), ylim=(0, 6))
    ax.set_axis_off()
    _box(ax, (0.9, 4.25), "support\nimage, label", size=(1.6, 1.0))
    _box(ax, (0.9, 0.75), "query", size=(1.6, 0.7))
    _box(ax, (3.2, 5.0), "u  makes keys", SLOW)
    _box(ax, (3.2, 3.1), "b  answers", SLOW)
    _box(ax, (6.5, 5.0), "d  writes for u", WRITER)
    _box(ax, (6.5, 3.1), "m  writes for b", WRITER)
    _box(ax, (9.9, 3.7), "memory, a row for each\nsupport image:\n\nkey | fast weights of b", size=(3.2, 2.0))
    _box(ax, (3.2, 0.75), "u  slow + fast", SLOW)
    _box(ax, (9.9, 0.75), "b  slow + fast", SLOW, size=(2.2, 0.8))
    _flow(ax, (1.7, 4.4), (2.2, 4.9))
    _flow(ax, (1.7, 4.0), (2.2, 3.3))
    _flow(ax, (4.2, 5.0), (5.5, 5.0), "gradient")
    _flow(ax, (4.2, 3.1), (5.5, 3.1), "gradient")
    _flow(ax, (6.2, 4.6), (3.6, 4.6), "fast weights of u", bend=-0.25, shift=(0.0, -0.55))
    _flow(ax, (7.5, 3.1), (8.3, 3.1), "fast\nweights", shift=(-0.1, -0.45))
    _flow(ax, (4.0, 5.4), (8.9, 4.7), "key", bend=-0.32, shift=(1.9, 0.75))
    _flow(ax, (1.7, 0.75), (2.2, 0.75))
    _flow(ax, (4.2, 0.9), (9.4, 2.7), "its key, compared with all keys", shift=(1.0, -0.4))
    _flow(ax, (9.9, 2.7), (9.9, 1.15), "what the\nquery reads", shift=(0.9, 0.0))
    _flow(ax, (11.0, 0.75), (11.9, 0.75), "answer", shift=(0.0, 0.3))
    return fig


def _box(ax: Axes, centre: tuple[float, float], words: str, colour: str = "white", size=(2.0, 0.8)) -> None:
    left, bottom = centre[0] - size[0] / 2, centre[1] - size[1] / 2
    ax.add_patch(Rectangle((left, bottom), *size, facecolor=colour, edgecolor=INK))
    ax.text(*centre, words, ha="center", va="center", fontsize=11)


def _flow(ax: Axes, start, end, words: str = "", *, bend: float = 0.0, shift=(0.0, 0.25)) -> None:
    look = {"arrowstyle": "-|>", "color": INK, "connectionstyle": f"arc3,rad={bend}", "linewidth": 1.4}
    ax.annotate("", xy=end, xytext=start, arrowprops=look)
    middle = [(a + b) / 2 + move for a, b, move in zip(start, end, shift)]
    ax.text(*middle, words, ha="center", va="center", fontsize=10, color=INK)
