"""Figures of the course: one style, and no picture without its text.

Importing this module sets the style (`course.mplstyle`). A drawing function returns a matplotlib `Figure`;
`show(fig, alt=…)` puts it under the cell. Figures made by `subplots` are not registered with pyplot, so a notebook
never shows one twice and never leaks one.

    fig, ax = figures.subplots()
    figures.curve_with_band(ax, steps, accuracy, half_widths, label="MAML", index=0)
    ax.set(xlabel="outer steps", ylabel="accuracy (%)")
    figures.show(fig, alt=f"The accuracy of MAML rises to {accuracy[-1]:.0f} % in {steps[-1]} steps.")
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from mlcourse.errors import CourseError
from mlcourse.teaching.output import picture

STYLE = Path(__file__).with_name("course.mplstyle")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# the colour and the marker of each way to find a start, in all lessons
INDEX = {"MAML": 0, "first-order MAML": 1, "scratch": 3, "Reptile": 4, "iMAML": 5, "joint": 6}
SHORTEST_TEXT = 40  # characters; below that a text names the figure and does not tell what it shows


def use_style() -> None:
    """Set the course's style for all figures from here on (done when this module is imported)."""
    plt.style.use(STYLE)


use_style()


def subplots(rows: int = 1, columns: int = 1, *, size: tuple[float, float] | None = None, **options):
    """Return (figure, axes) like `plt.subplots`, but unknown to pyplot. `size` is width and height in inches."""
    fig = Figure(figsize=size)
    return fig, fig.subplots(rows, columns, **options)


def png(fig: Figure) -> bytes:
    """Draw a figure and return it as PNG bytes, `figure.dpi` dots per inch."""
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    file = io.BytesIO()
    # level 4 takes a third of the time of level 9 and gives nearly the same size on plots
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=4)
    return file.getvalue()


def pixel_size(fig: Figure) -> tuple[int, int]:
    """Width and height of the figure's PNG in pixels."""
    width, height = fig.get_size_inches() * fig.dpi
    return int(width), int(height)


def check_text(alt: str, fig: Figure | None = None) -> str:
    """Return the alternative text in one line. Raises CourseError when it is short, or only repeats a title."""
    if not isinstance(alt, str):
        raise CourseError(f"the alternative text is a {type(alt).__name__}; pass alt= a text that says what is seen")
    text = " ".join(alt.split())
    if len(text) < SHORTEST_TEXT:
        raise CourseError(
            f"the alternative text {text!r} has {len(text)} characters; say in {SHORTEST_TEXT} or more what is seen"
        )
    if fig is not None and text in {title for title in _titles(fig) if title}:
        raise CourseError(f"the alternative text {text!r} only repeats the title; say what the data show")
    return text


def _titles(fig: Figure) -> list[str]:
    titles = [ax.get_title(loc) for ax in fig.axes for loc in ("left", "center", "right")]
    return [" ".join(title.split()) for title in (*titles, fig.get_suptitle())]


def show(fig: Figure, *, alt: str) -> None:
    """Show the figure once, with its alternative text, under the cell, and close it.

    Args:
        fig: a matplotlib figure, made by `subplots` or by pyplot.
        alt: what a reader who does not see the figure must know, made from the data; 40 characters or more.

    Raises CourseError for a text that is missing, short, or only repeats a title.
    """
    try:
        text = check_text(alt, fig)
        width, height = pixel_size(fig)
        picture(png(fig), text, width=width, height=height).show()
    finally:
        plt.close(fig)  # else the notebook's own pyplot support shows it a second time, without the text


# ---- images ----


def as_pictures(images) -> np.ndarray:
    """Turn images into floats in [0, 1], [n, H, W] grey or [n, H, W, 3] colour.

    Takes a tensor or array [n, C, H, W] or [n, H, W], uint8 (0 to 255) or float (0 to 1); C is 1 or 3.
    """
    array = images.detach().cpu().numpy() if hasattr(images, "detach") else np.asarray(images)
    if array.ndim == 4 and array.shape[1] in (1, 3):
        array = array[:, 0] if array.shape[1] == 1 else np.moveaxis(array, 1, -1)
    elif array.ndim != 3:
        raise CourseError(f"images have shape {tuple(array.shape)}; they need [n, C, H, W] with C 1 or 3, or [n, H, W]")
    scale = 255.0 if array.dtype == np.uint8 else 1.0
    return np.clip(array.astype(np.float32) / scale, 0.0, 1.0)


def tile(images, columns: int | None = None, *, gap: int = 2, shade: float = 0.25) -> np.ndarray:
    """Put n images into one array, `columns` in a row, so that one `imshow` draws them all.

    Args:
        images: as in `as_pictures`.
        columns: images in a row; default about the square root of 2n.
        gap: pixels between images.
        shade: grey of the gap, 0 is paper and 1 is ink (grey images), or 0 black and 1 white (colour).

    Returns an array [rows·(H + gap) + gap, columns·(W + gap) + gap] or the same with 3 channels.
    """
    pictures = as_pictures(images)
    count, height, width = pictures.shape[:3]
    if count == 0:
        raise CourseError("there are no images to show (n = 0); pass one or more")
    columns = columns or min(count, max(1, math.ceil(math.sqrt(2 * count))))
    rows = math.ceil(count / columns)
    canvas = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, *pictures.shape[3:]), shade, np.float32
    )
    for place, one in enumerate(pictures):
        top, left = (gap + (place // columns) * (height + gap)), (gap + (place % columns) * (width + gap))
        canvas[top : top + height, left : left + width] = one
    return canvas


def draw_tiles(ax: Axes, images, columns: int | None = None, *, gap: int = 2, labels: Sequence[str] | None = None):
    """Draw tiled images on `ax`; `labels` stand below them. Returns the one image artist.

    Grey images are drawn with ink dark on white paper.
    """
    pictures = as_pictures(images)
    # a band of paper below each row holds its labels
    band = max(8, round(0.36 * pictures.shape[1])) if labels is not None else 0
    if band:
        paper = 0.0 if pictures.ndim == 3 else 1.0
        padding = [(0, 0), (0, band)] + [(0, 0)] * (pictures.ndim - 2)
        pictures = np.pad(pictures, padding, constant_values=paper)
    stacked = pictures if pictures.ndim == 3 else np.moveaxis(pictures, -1, 1)
    columns = columns or min(len(pictures), max(1, math.ceil(math.sqrt(2 * len(pictures)))))
    artist = ax.imshow(tile(stacked, columns, gap=gap), vmin=0.0, vmax=1.0)
    ax.set_axis_off()
    height, width = pictures.shape[1] + gap, pictures.shape[2] + gap
    for place, label in enumerate(labels if labels is not None else ()):
        x, y = gap + (place % columns + 0.5) * width, (place // columns + 1) * height - band / 2
        ax.text(x, y, label, ha="center", va="center", fontsize=11)
    return artist


def grid(
    images,
    columns: int | None = None,
    *,
    labels: Sequence[str] | None = None,
    title: str | None = None,
    width: float = 7.0,
    gap: int = 2,
) -> Figure:
    """Return a figure of tiled images, drawn by one `imshow`.

    Args:
        images: [n, C, H, W] or [n, H, W]; uint8, or float in [0, 1]. Grey images are drawn as dark ink on paper.
        columns: images in a row.
        labels: n short texts, drawn below the images.
        title: one line above them.
        width: inches.
        gap: pixels between images.
    """
    pictures = as_pictures(images)
    count = len(pictures)
    if labels is not None and len(labels) != count:
        raise CourseError(f"there are {count} images and {len(labels)} labels; pass one label for each image")
    columns = columns or min(max(count, 1), max(1, math.ceil(math.sqrt(2 * count))))
    tall = (pictures.shape[1] * (1.36 if labels is not None else 1.0) + gap) / (pictures.shape[2] + gap)
    height = width / columns * math.ceil(count / columns) * tall
    fig, ax = subplots(size=(width, height + (0.4 if title else 0.1)))
    draw_tiles(ax, images, columns, gap=gap, labels=labels)
    if title:
        ax.set_title(title)
    return fig


def episode(episode, task: int = 0, *, queries: int = 5, names: Sequence[str] | None = None) -> Figure:
    """Draw one task of an episode: a row for each label, its support images left, its queries right.

    Args:
        episode: `mlcourse.episodes.Episode`.
        task: which task, 0 to tasks − 1.
        queries: queries drawn for each label, at most.
        names: `way` names of the classes behind the labels, drawn beside them.
    """
    if not 0 <= task < len(episode.support_x):
        raise CourseError(f"task {task} does not exist; the episode has tasks 0 to {len(episode.support_x) - 1}")
    support = _by_label(episode.support_x[task], episode.support_y[task])
    asked = _by_label(episode.query_x[task], episode.query_y[task], limit=queries)
    shot, query = len(support[0]), len(asked[0])
    height, side = 0.75 * len(support) + 0.55, 0.75 * (shot + query) + 1.6
    fig = Figure(figsize=(min(side, 9.0), height * min(1.0, 9.0 / side)))
    left, right = fig.subplots(1, 2, width_ratios=[shot, query])
    for ax, rows, title in ((left, support, "support"), (right, asked, "queries")):
        ax.imshow(tile(np.concatenate(rows), len(rows[0])), vmin=0.0, vmax=1.0)
        ax.set_title(title)
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
    step = episode.support_x.shape[-2] + 2
    words = [f"label {label}" + (f"\n{names[label]}" if names else "") for label in range(len(support))]
    left.set_yticks([2 + (row + 0.45) * step for row in range(len(support))], words)
    left.tick_params(length=0)
    return fig


def _by_label(images, labels, limit: int | None = None) -> list[np.ndarray]:
    """The images of each label as arrays [n, C, H, W], label 0 first."""
    images, labels = images.detach().cpu().numpy(), labels.detach().cpu().numpy()
    return [images[labels == label][:limit] for label in range(int(labels.max()) + 1)]


# ---- numbers ----


def style(index: int) -> dict:
    """Colour and marker number `index`, as keywords for `ax.plot`."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def curve_with_band(ax: Axes, x, mean, half=None, *, label: str | None = None, index: int = 0, markers: int = 12):
    """Draw a curve with a band of ± `half` (a half width of the same length, say of a 95 % interval). Returns the line.

    `index` picks colour and marker; about `markers` markers are drawn, however long the curve is.
    """
    x, mean = np.asarray(x, float), np.asarray(mean, float)
    (line,) = ax.plot(x, mean, label=label, markevery=max(1, len(x) // markers), **style(index))
    if half is not None:
        half = np.asarray(half, float)
        ax.fill_between(x, mean - half, mean + half, color=line.get_color(), alpha=0.2, linewidth=0)
    return line


def lines(series: Mapping[str, tuple], *, xlabel: str, ylabel: str, title: str | None = None) -> Figure:
    """Draw named curves, each `name: (x, y)` or `name: (x, y, half width)`, with different colours and markers.

    Name the units in `xlabel` and `ylabel`.
    """
    fig, ax = subplots()
    for index, (name, values) in enumerate(series.items()):
        curve_with_band(ax, *values, label=name, index=index)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if title:
        ax.set_title(title)
    ax.legend()
    return fig


def interval_bars(names: Sequence[str], means, halves, *, xlabel: str, decimals: int = 1, chance: float | None = None):
    """Draw means with their intervals as a forest plot, the numbers in words beside. Returns the figure.

    Args:
        names: one for each row, drawn from the top.
        means, halves: the means and the half widths of their 95 % intervals, in the unit of `xlabel`.
        chance: a value marked by a dashed line, such as the accuracy of guessing.
    """
    if not len(names) == len(means) == len(halves):
        raise CourseError(f"{len(names)} names, {len(means)} means and {len(halves)} half widths; pass equally many")
    fig, ax = subplots(size=(7.0, 0.5 * len(names) + 1.1))
    for row, (mean, half) in enumerate(zip(means, halves)):
        look = style(row)
        ax.errorbar(float(mean), row, xerr=float(half), linestyle="none", markersize=8, **look)
        ax.annotate(
            f"{float(mean):.{decimals}f} ± {float(half):.{decimals}f}",
            (1.0, row),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    if chance is not None:
        ax.axvline(chance, color="#444444", linestyle="--", linewidth=1)
        ax.annotate("chance", (chance, -0.5), xytext=(4, -2), textcoords="offset points", va="top", fontsize=11)
    ax.set(yticks=range(len(names)), yticklabels=names, xlabel=xlabel, ylim=(len(names) - 0.5, -0.5))
    return fig


def interval_words(names: Sequence[str], means, halves, *, unit: str = "%", decimals: int = 1) -> str:
    """The same in words, for alternative texts and prose: "MAML 93.1 ± 0.4 %, from scratch 41.0 ± 0.9 %"."""
    unit = f" {unit}" if unit else ""
    rows = zip(names, means, halves)
    return ", ".join(f"{name} {float(m):.{decimals}f} ± {float(h):.{decimals}f}{unit}" for name, m, h in rows)


def arrows(ax: Axes, starts, ends, *, label: str | None = None, index: int = 0):
    """Draw arrows from `starts` to `ends`, both [n, 2] in data units. Returns the artist."""
    starts, ends = np.asarray(starts, float), np.asarray(ends, float)
    steps = ends - starts
    colour = COLOURS[index % len(COLOURS)]
    return ax.quiver(
        *starts.T, *steps.T, angles="xy", scale_units="xy", scale=1, width=0.006, color=colour, label=label, zorder=3
    )


def redraw(fig: Figure | None, set_up: Callable[[], Figure], add: Callable[..., list], *values) -> Figure:
    """Take the moving artists of the last drawing away, and add those of the new values."""
    fig = fig or set_up()
    for artist in getattr(fig, "moving", ()):
        artist.remove()
    fig.moving = add(*fig.axes, *values)
    return fig


def number(value: float) -> str:
    """A number with sign and two decimals; never "-0.00"."""
    return f"{round(value, 2) + 0.0:+.2f}"
