"""`mlcourse handout`: make the students' edition."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mlcourse import files, places


class Solutions(StrEnum):
    """What becomes of the solutions."""

    NONE = "none"
    LATER = "later"


def handout(
    out: Annotated[Path, typer.Argument(help="The folder to make; OUT.zip of it comes beside it.")],
    track: Annotated[str, typer.Option(help="The notebooks of one track of the README, such as core.")] = "",
    notebooks: Annotated[str, typer.Option(help="Numbers of notebooks, such as 00,01; else all, or the track's.")] = "",
    solutions: Annotated[
        Solutions,
        typer.Option(help="none; or later: the whole notebooks in OUT-solutions.zip, to give out afterwards."),
    ] = Solutions.NONE,
) -> None:
    """Make the students' edition: notebooks without solutions, the package, its data, and a cover page.

    The package itself keeps the functions that a lesson goes on with when an exercise is not passed: whoever looks for
    them there finds them. `mlcourse grade` marks such answers "to be looked at".
    """
    from mlcourse.classroom import handout as edition

    files.check_named(out, "OUT")
    numbers = [number.strip().zfill(2) for number in notebooks.replace(" ", ",").split(",") if number.strip()]
    chosen = edition.choose(track, numbers)
    made = edition.make(places.whole(out), chosen, later=solutions == Solutions.LATER)
    print(f"{len(chosen)} notebooks for students: {', '.join(map(str, made))}. Begin with {made[0] / 'index.html'}")
