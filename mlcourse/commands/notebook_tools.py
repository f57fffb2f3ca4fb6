"""`mlcourse tidy` and `mlcourse golden`: the notebooks as they stand in the repository."""

from pathlib import Path
from typing import Annotated

import typer

from mlcourse import files, places
from mlcourse.commands.run import find

Names = Annotated[list[str] | None, typer.Argument(help="01, 01_name or a path; default: all")]


def tidy(
    notebooks: Names = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 when a byte would change.")
    ] = False,
) -> None:
    """Write notebooks in their canonical form: stable ids, formatted code, minutes, no outputs but the golden ones.

    Without names it also writes the table of claims into the README.md beside the notebooks, the tables of
    docs/teaching.md and docs/hub.md, and the syllabus, docs/syllabus.md. The exit code is 1 when the core of a notebook
    takes more than an hour.
    """
    from mlcourse.teaching import tidy as tools

    paths = find(notebooks or [])
    untidy = tools.check(paths) if check else [path for path in paths if tools.tidy_file(path)]
    new = [what for what, made in (PAGES if not notebooks else {}).items() if _write(made(), check)]
    if check and (untidy or new):
        found = [f"{len(untidy)} of {len(paths)} notebooks are not tidy: {_names(untidy)}"] if untidy else []
        print(", and ".join([*found, *(f"{what} is not of today" for what in new)]) + ". Run: mlcourse tidy")
    elif check:
        print(f"{len(paths)} notebooks are tidy.")
    else:
        also = "".join(f"; {what} is new" for what in new)
        print(f"{len(untidy)} of {len(paths)} notebooks changed: {_names(untidy)}{also}")
    too_long = tools.too_long(paths)
    print(*too_long, sep="\n", end="\n" * bool(too_long))
    if too_long or (check and (untidy or new)):
        raise typer.Exit(1)


def _write(page: tuple[Path, str] | None, check: bool) -> bool:
    """Write a page, unless this only checks. Returns whether a byte changes."""
    place, text = page or (None, "")
    changes = place is not None and place.read_text(encoding="utf-8") != text
    if changes and not check:
        files.write_text(place, text)
    return changes


def _claims() -> tuple[Path, str]:
    from mlcourse.teaching import claims

    return claims.page(places.notebooks(), places.data())


def _guide() -> tuple[Path, str] | None:
    from mlcourse.classroom import guide

    return guide.page(places.notebooks())


def _sizes() -> tuple[Path, str] | None:
    from mlcourse.classroom import sizing
    from mlcourse.teaching import claims

    return sizing.page(places.notebooks(), places.data() / claims.RECORD)


def _syllabus() -> tuple[Path, str] | None:
    from mlcourse.classroom import syllabus

    return syllabus.page(places.notebooks())


# what is written beside the notebooks: how a message calls it, and what makes it
PAGES = {
    "the table of claims": _claims,
    "the teacher's guide": _guide,
    "the sizes of a hub": _sizes,
    "the syllabus": _syllabus,
}


def golden(notebooks: Names = None) -> None:
    """Fill the golden outputs (cells tagged nbval-check-output) from a fresh run at the budget smoke."""
    from mlcourse.teaching import tidy as tools

    paths = find(notebooks or [])
    for number, path in enumerate(paths, start=1):
        print(f"{number}/{len(paths)} {path.stem} ...", end=" ", flush=True)
        print("changed" if tools.golden(path) else "as before", flush=True)


def _names(paths) -> str:
    return ", ".join(path.stem for path in paths) or "none"
