"""`mlcourse grade`: mark what students handed in."""

from pathlib import Path
from typing import Annotated

import typer

from mlcourse import files, places, threads
from mlcourse.errors import CourseError


def grade(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Hand-ins: a folder per student, zip archives, or a folder with nbgrader's submitted/."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder for marks.csv, report.html and feedback/.")] = None,
    notebooks: Annotated[str, typer.Option(help="Numbers of the notebooks to mark, such as 05,06; else all.")] = "",
    marks: Annotated[Path | None, typer.Option(help="A marks.toml with weights, due, late, seed.")] = None,
    executed: Annotated[
        bool, typer.Option("--executed", help="Also run all cells, in isolation, and write a page for each notebook.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=0, max=256, help="How many students at a time; 0: one per core.")] = 0,
    explain: Annotated[bool, typer.Option("--explain", help="Say what isolates answers on this machine.")] = False,
) -> None:
    """Mark what students handed in. Only the answers run, each student's in a process of their own.

    Run it again after an interruption: what is finished is kept. A marks.toml may say

    \b
        due = 2026-11-30T18:00:00Z     # hand-ins after it are late: nbgrader's time, else the file's or archive's own
        late = 0.5                     # their points are halved; without this line late is only noted
        seed = 7                       # other problems than the notebook's first check takes
        \\[weights]                      # the last part of the file
        core = 2                       # points of each core exercise; and stretch = 1; without these lines all give 1
        "05.1" = 3                     # of this exercise, whatever its kind; 0: it does not count
    """
    from mlcourse.classroom import sandbox

    if explain:
        print("\n".join(sandbox.explain()))
        if folder is None:
            return
    if folder is None or out is None:
        raise CourseError("name the folder with the hand-ins, and --out, the folder for the marks")
    files.check_named(out, "--out")
    place, target = places.whole(folder), places.whole(out)
    if target == place or place in target.parents:
        raise CourseError(f"the marks would lie among the hand-ins: take an --out outside {folder}")
    _grade(place, target, notebooks, marks, jobs, executed=executed)


def _grade(
    place: Path, target: Path, numbers: str, settings_file: Path | None, jobs: int, *, executed: bool = False
) -> None:
    from tqdm import tqdm

    from mlcourse.classroom import collecting, sandbox
    from mlcourse.classroom import marks as marking
    from mlcourse.commands import say

    hand_ins = collecting.collect(place)
    settings = marking.Settings.read(places.whole(settings_file)) if settings_file else marking.Settings()
    wanted = tuple(dict.fromkeys(number.strip().zfill(2) for number in numbers.split(",") if number.strip()))
    grader = marking.Grader(target, settings, wanted)
    columns = grader.columns_before(hand_ins)
    marking.check_place(target, columns, [one.student for one in hand_ins])
    executor = _executor(grader) if executed else None  # before the marking: it may not be possible here
    if not sandbox.bubblewrap():
        say(sandbox.warning())
    with tqdm(total=len(hand_ins), unit="hand-in", desc="marking") as bar:
        records = grader.grade(hand_ins, jobs or threads.cores(), bar.update)
    marking.write(target, records, grader.settings, columns)
    unmarked = [record["student"] for record in records if "digest" not in record]
    if unmarked:
        say(f"not marked to the end: {', '.join(unmarked)}; the feedback says why, and another run tries again")
    made = ", ".join(str(target / name) for name in ("marks.csv", "report.html", "feedback"))
    print(f"{len(records) - len(unmarked)} hand-ins marked: {made}")
    if executor:
        with tqdm(total=len(hand_ins), unit="hand-in", desc="running all cells") as bar:
            copies = executor.run(hand_ins, jobs or threads.cores(), bar.update)
        print(f"{len(copies)} executed copies: {target / 'executed'}")


def _executor(grader):
    from mlcourse.classroom.executed import Executor
    from mlcourse.commands import pages

    return Executor(grader, lambda notebook, name: pages.page(notebook, name, untrusted=True))
