"""`mlcourse handout`: make the students' edition."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mlcourse import files, places
from mlcourse.errors import CourseError


class Solutions(StrEnum):
    """What becomes of the solutions."""

    NONE = "none"
    LATER = "later"


def handout(
    out: Annotated[Path, typer.Argument(help="The folder to make; OUT.zip of it comes beside it.")],
    numbers: Annotated[
        list[str] | None,
        typer.Argument(help="Numbers of notebooks, such as 0 1 2; else all, or those of a plan or track."),
    ] = None,
    plan: Annotated[
        str, typer.Option(help="A plan of the teacher's guide: day, two-days, ten-weeks-vision, ten-weeks-gradients.")
    ] = "",
    track: Annotated[str, typer.Option(help="The notebooks of one track of the README, such as core.")] = "",
    notebooks: Annotated[str, typer.Option(help="The same as the numbers, in one word: 00,01,02.")] = "",
    solutions: Annotated[
        Solutions,
        typer.Option(help="none; or later: the whole notebooks in OUT-solutions.zip, to give out afterwards."),
    ] = Solutions.NONE,
) -> None:
    """Make the students' edition: notebooks without solutions, the package, its data, and a cover page.

    The package itself keeps the functions that a lesson goes on with when an exercise is not passed: whoever looks for
    them there finds them. `mlcourse grade` marks such answers "to be looked at".
    """
    from mlcourse.classroom import guide
    from mlcourse.classroom import handout as edition

    files.check_named(out, "OUT")
    if str(out).isdecimal():
        raise CourseError(f"OUT is {out}, a number: name the folder first, such as mlcourse handout edition {out}")
    wanted = [_number(word) for part in [*(numbers or []), notebooks] for word in part.replace(",", " ").split()]
    plans = guide.named_plans()
    if plan and plan not in plans:
        raise CourseError(f"there is no plan {plan!r}: take one of {', '.join(plans)}")
    if plan and (track or wanted):
        raise CourseError("a plan names its notebooks itself: take --plan, or numbers and --track")
    chosen = edition.choose(track, plans[plan].numbers if plan else wanted)
    if plan:  # in the plan's order
        chosen.sort(key=lambda path: plans[plan].numbers.index(path.name[:2]))
    weekly = bool(plan) and plans[plan].weekly
    made = edition.make(places.whole(out), chosen, later=solutions == Solutions.LATER, weekly=weekly)
    print(f"{len(chosen)} notebooks for students: {', '.join(map(str, made))}. Begin with {made[0] / 'index.html'}")


def _number(word: str) -> str:
    return word.zfill(2) if word.isdecimal() else word
