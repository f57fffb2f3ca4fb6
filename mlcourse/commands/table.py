"""`mlcourse table`: what the stored results of a protocol say, with ties, or as pairs, or as a forest plot."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlcourse.commands import say
from mlcourse.errors import CourseError

if TYPE_CHECKING:  # torch is imported late, so that `mlcourse --help` waits for nothing
    from mlcourse.protocols import Pair, Protocol, Row
    from mlcourse.teaching import forest

FORMATS = ("text", "markdown", "csv", "json")
PLOTS = (".png", ".svg", ".pdf")
NOT_RUN = "not run"
WIDE = 240  # letters of a line where no terminal says how many it has

ROWS_SAY = (
    "Accuracy in percent; both intervals are of 95 %. Over episodes: other episodes of the same pictures. Over the "
    "data: other {clusters}, by Student's t over those that there are; none where they are fewer than 5, or all "
    "of them in each episode. Methods whose paired interval over episodes, against the first of their rank, holds 0 "
    "share the rank. ECE and NLL: before > after one temperature that is fitted on validation classes. FLOP: counted, "
    "of the training and of one episode."
)
PAIRS_SAY = (
    "Differences in points, a minus b, on the same episodes; both intervals are of 95 %. Over the data: of other "
    "{clusters}. d: the mean difference over its spread. p: two-sided, by Holm for all {count} pairs."
)


def table(
    protocol: Annotated[str, typer.Argument(help="name of a protocol, or its file")],
    pairs: Annotated[
        bool, typer.Option("--pairs", help="differences of all pairs on the same episodes, in place of rows")
    ] = False,
    form: Annotated[str, typer.Option("--format", help=", ".join(FORMATS))] = "text",
    results: Annotated[
        Path | None,
        typer.Option(help="folder of results (default: the course's own, and those in runs/results of this folder)"),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help=f"draw the forest plot into this file ({', '.join(PLOTS)})")] = None,
) -> None:
    """Compare the learners that were evaluated on a PROTOCOL: mlcourse evaluate DIR --protocol PROTOCOL."""
    if form not in FORMATS:
        raise CourseError(f"--format is {form!r}; give one of {', '.join(FORMATS)}")
    if plot is not None and plot.suffix.lower() not in PLOTS:
        raise CourseError(f"--plot is {plot}; end the file's name in one of {', '.join(PLOTS)}")
    if results is not None and not results.is_dir():
        raise CourseError(f"there is no folder {results}: name one with results, or leave --results out")
    from mlcourse import protocols

    chosen = protocols.read(protocol)
    there = protocols.stored(chosen, *([results] if results else []))
    if results is not None and not there and not pairs and plot is None:  # these tell it themselves
        say(f"there is no result of protocol {chosen.name} (*.json) in {results}: name the folder that holds them")
    found = protocols.rows(chosen, there)
    if not found:
        raise CourseError(
            f"no result of protocol {chosen.name} yet: mlcourse evaluate DIR --protocol {shlex.quote(str(protocol))}"
        )
    shown = protocols.pairs(found) if pairs else found
    told = pair_cells if pairs else cells
    words = (PAIRS_SAY if pairs else ROWS_SAY).format(clusters=chosen.clusters, count=len(shown))
    if form == "json":
        numbers = [pair_numbers(one) if pairs else row_numbers(one) for one in shown]
        print(json.dumps({"protocol": chosen.name, "digest": chosen.digest, "pairs" if pairs else "rows": numbers}))
    elif form == "csv":
        print(as_csv([pair_numbers(one) if pairs else row_numbers(one) for one in shown]), end="")
    else:
        show = as_markdown if form == "markdown" else as_text
        show(chosen, [told(chosen, one) for one in shown], words, found)
    if plot is not None:
        draw(chosen, found, plot)
        say(f"the forest plot is in {plot}")


# ------------------------------------------------------------------ rows


def cells(protocol: Protocol, row: Row) -> dict[str, str]:
    """One row as people read it: column -> text."""
    from mlcourse.protocols import comparison

    if not row.run:
        return {"rank": "", "method": row.title, "accuracy": NOT_RUN}
    first, episodes, data, seeds = row.first, row.over_episodes, row.over_data, row.over_seeds
    mode = "transductive" if first.transductive else "inductive"
    flop = [comparison.short(first.flop[what]) or "-" for what in ("training", "episode")]
    return {
        "rank": str(row.rank),
        "method": row.title,
        "accuracy": percent(row.accuracy),
        "over episodes": f"± {percent(episodes.upper - episodes.value)}",
        "over the data": span(data),
        "seeds": "1" if seeds is None else f"{len(row.results)}: {span(seeds)}",
        "worst tenth": percent(row.worst_tenth, 1),
        "ECE": arrow(100 * row.calibration_error("before"), 100 * row.calibration_error("after"), 1),
        "NLL": arrow(row.nll("before"), row.nll("after"), 3),
        "normalisation": f"{first.normalisation}, {mode}",
        "trained on": first.trained_on or "-",
        "steps": "-" if first.steps is None else f"{first.steps:,}",
        "FLOP": " / ".join(flop),
        "paper": (comparison.published(protocol, row) if as_published(protocol, row) else "") or "-",
    }


def as_published(protocol: Protocol, row: Row) -> bool:
    """Whether a paper's figure on Omniglot may stand beside a row: trained and tested on the same classes."""
    same = protocol.split == "test" and protocol.rotations and not protocol.left_out and protocol.at_most is None
    alone = protocol.tasks == "classes" and not protocol.one_by_one
    return same and alone and (row.first.trained_on or "omniglot vinyals").startswith("omniglot vinyals")


def row_numbers(row: Row) -> dict[str, object]:
    """One row as numbers, shares in [0, 1]: for CSV and JSON."""
    told = {"rank": row.rank, "method": row.method, "title": row.title, "run": row.run}
    if not row.run:
        return told
    first, data, seeds = row.first, row.over_data, row.over_seeds
    told |= {"accuracy": row.accuracy, "ci95": row.over_episodes.upper - row.accuracy}
    told |= {"data_lower": data and data.lower, "data_upper": data and data.upper}
    told |= {"seeds": len(row.results), "seeds_lowest": seeds and seeds[0], "seeds_highest": seeds and seeds[1]}
    told |= {"episodes": len(row.per_episode), "worst_tenth": row.worst_tenth}
    for when in ("before", "after"):
        told |= {f"ece_{when}": row.calibration_error(when), f"nll_{when}": row.nll(when)}
    told |= {name: getattr(first, name) for name in ("normalisation", "transductive", "trained_on", "budget", "steps")}
    told |= {f"flop_{what}": first.flop[what] for what in ("training", "episode")}
    return told | {"trained_by": first.made_by, "command": first.command}


# ------------------------------------------------------------------ pairs


def pair_cells(protocol: Protocol, pair: Pair) -> dict[str, str]:
    """One pair as people read it: column -> text."""
    difference, data = pair.over_episodes, pair.over_data
    return {
        "a": name_of(pair.a),
        "b": name_of(pair.b),
        "a - b": f"{100 * difference.difference:+.2f} ± {100 * difference.ci95:.2f}",
        "over the data": "-" if data is None else f"{100 * data.lower:+.2f} to {100 * data.upper:+.2f}",
        "d": f"{pair.effect:+.2f}",
        "won": f"{100 * pair.won:.0f} %",
        "tied": f"{100 * pair.tied:.0f} %",
        "p (Holm)": f"{pair.p:.2g}" if pair.p >= 1e-4 else "< 0.0001",
    }


def pair_numbers(pair: Pair) -> dict[str, object]:
    """One pair as numbers, shares in [0, 1]."""
    data = pair.over_data
    told = {"a": name_of(pair.a), "b": name_of(pair.b), "difference": pair.over_episodes.difference}
    told |= {"ci95": pair.over_episodes.ci95, "data_lower": data and data.lower, "data_upper": data and data.upper}
    effect = pair.effect if math.isfinite(pair.effect) else None  # all pairs differ by the same: JSON knows no infinity
    return told | {"effect_size": effect, "won": pair.won, "tied": pair.tied, "p_holm": pair.p}


def name_of(row: Row) -> str:
    """A row's name where its other columns are not beside it."""
    return f"{row.title} ({row.first.normalisation})"


# ------------------------------------------------------------------ forms


def percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f}"


def span(ends: tuple[float, ...] | None) -> str:
    return "-" if ends is None else f"{percent(ends[-2])} to {percent(ends[-1])}"


def arrow(before: float, after: float, digits: int) -> str:
    return f"{before:.{digits}f} > {after:.{digits}f}"


def as_text(protocol: Protocol, lines: list[dict[str, str]], words: str, rows: list[Row]) -> None:
    """A table on the terminal; on a narrow one cells are folded, never cut."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    columns = max(lines, key=len)
    drawn = Table(box=None, padding=(0, 2, 0, 0))
    for name in columns:
        drawn.add_column(name, overflow="fold")
    for line in lines:
        drawn.add_row(*(line.get(name, "") for name in columns))
    said = {"markup": False, "highlight": False, "soft_wrap": True}
    console.print(f"{protocol.name}: {protocol.what}", **said)
    console.print(drawn, markup=False)
    console.print(words, **said)
    for command in commands(rows):
        console.print(f"  {command}", **said)


def as_markdown(protocol: Protocol, lines: list[dict[str, str]], words: str, rows: list[Row]) -> None:
    """A table for a page."""
    columns = list(max(lines, key=len))
    print(f"**{protocol.name}**: {protocol.what}\n")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for line in lines:
        print(f"| {' | '.join(line.get(name, '').replace('|', chr(92) + '|') for name in columns)} |")
    print(f"\n{words}\n")
    for command in commands(rows):
        print(f"- `{command}`")


def as_csv(lines: list[dict[str, object]]) -> str:
    """Numbers, a line per row; what is not there is empty."""
    columns = list(max(lines, key=len))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def commands(rows: list[Row]) -> list[str]:
    """The commands that make the rows again."""
    found = []
    for row in rows:
        found += [f"{one.made_by} --out {shlex.quote(one.learner)}" for one in row.results if one.made_by]
        found += [one.command for one in row.results if one.command]
    return list(dict.fromkeys(found))


def forest_lines(rows: list[Row]) -> list[forest.Line]:
    """The rows that were run, as the forest plot takes them."""
    from mlcourse.teaching import forest

    return [forest.Line(name_of(row), row.over_episodes, row.over_data, row.rank) for row in rows if row.run]


def draw(protocol: Protocol, rows: list[Row], path: Path) -> None:
    """The forest plot of the rows that were run. Raises CourseError where there is none."""
    import matplotlib

    from mlcourse import files
    from mlcourse.teaching import forest

    lines = forest_lines(rows)
    if not lines:
        raise CourseError(f"nothing to draw: no learner was evaluated on protocol {protocol.name} yet")
    figure = forest.forest(lines, title=protocol.name, clusters=protocol.clusters)
    kind, text = path.suffix.lower()[1:], forest.alt(lines, title=protocol.name)
    # matplotlib numbers the parts of an SVG at random, but for a salt
    with matplotlib.rc_context({"svg.hashsalt": protocol.name}), files.replacing(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=forest.metadata(kind, text))
