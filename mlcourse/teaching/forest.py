"""The forest plot: one line per method, its accuracy with two intervals, and where ties begin.

Two bars say two things. The short, thick one is over episodes: what other episodes of the same pictures would give. The
long, thin one is over the data: what other alphabets, scripts or classes would give.
"""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from mlcourse.errors import CourseError
from mlcourse.teaching import figures

Ends = tuple[float, float, float]  # value, lower, upper; in [0, 1]
# no markers: the style's change from line to line, and would mean nothing here
OVER_EPISODES = {"color": figures.COLOURS[0], "linewidth": 5, "marker": ""}
OVER_DATA = {"color": figures.COLOURS[1], "linewidth": 1.2, "marker": ""}


class Line(NamedTuple):
    """One method."""

    name: str
    over_episodes: Ends
    over_data: Ends | None
    rank: int | None


def forest(lines: Sequence[Line], *, title: str, clusters: str) -> Figure:
    """The plot of the lines, the first on top. clusters: what the interval over the data draws ("alphabets").

    Raises CourseError where there is no line.
    """
    if not lines:
        raise CourseError("a forest plot needs a method; evaluate one first")
    longest = max(len(line.name) for line in lines)
    figure, axes = figures.subplots(size=(5 + 0.07 * longest, 1.7 + 0.32 * len(lines)))
    figure.set_layout_engine("constrained")
    for height, line in enumerate(reversed(lines)):
        if line.over_data is not None:
            _, lower, upper = (100 * end for end in line.over_data)
            axes.plot([lower, upper], [height, height], **OVER_DATA, zorder=1)
        value, lower, upper = (100 * end for end in line.over_episodes)
        axes.plot([lower, upper], [height, height], **OVER_EPISODES, zorder=2)
        axes.plot([value], [height], "o", color="white", markeredgecolor=figures.COLOURS[0], markersize=4, zorder=3)
    axes.set_yticks(range(len(lines)), [_label(line) for line in reversed(lines)], parse_math=False)
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.set_title(title, parse_math=False)  # a name may hold a dollar
    axes.set(xlabel="accuracy (%), 95 % intervals")
    axes.plot([], [], **OVER_EPISODES, label="over episodes")
    axes.plot([], [], **OVER_DATA, label=f"over {clusters}")
    legend = figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def alt(lines: Sequence[Line], *, title: str) -> str:
    """The plot in words, for whoever does not see it."""
    told = "; ".join(
        f"{line.name} {100 * line.over_episodes[0]:.1f} %" + (f", rank {line.rank}" if line.rank else "")
        for line in lines
    )
    return f"Forest plot of {title}: accuracies with intervals over episodes and over the data. {told}."


def metadata(kind: str, text: str) -> dict[str, str | None]:
    """What a file of a kind tells beside the picture: the plot in words, and not the moment of drawing.

    So the same plot is the same file.
    """
    told = {"png": {"Description": text}, "svg": {"Description": text, "Date": None}}
    return told.get(kind, {"Subject": text, "CreationDate": None})


def _label(line: Line) -> str:
    return line.name if line.rank is None else f"{line.rank}. {line.name}"
