"""`mlcourse tidy` and `mlcourse golden`: the notebooks as they stand in the repository."""

from pathlib import Path
from typing import Annotated

import typer

from mlcourse import files, places
from mlcourse.commands.run import find

Page = tuple[Path, str]  # where it stands, and its text of today
Names = Annotated[list[str] | None, typer.Argument(help="01, 01_name or a path; default: all")]


def tidy(
    notebooks: Names = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 when a byte would change.")
    ] = False,
) -> None:
    """Write notebooks in their canonical form: stable ids, formatted code, minutes, no outputs but the golden ones.

    Without names it also writes the table of claims into the README.md beside the notebooks, the tables of
    docs/teaching.md and docs/hub.md, the syllabus, docs/syllabus.md, and the glossary. The exit code is 1 when the core
    of a notebook takes more than an hour.
    """
    from mlcourse.teaching import tidy as tools

    paths = find(notebooks or [])
    untidy = tools.check(paths) if check else [path for path in paths if tools.tidy_file(path)]
    beside = PAGES if not notebooks else {}
    new = [what for what, made in beside.items() if sum(_write(page, check) for page in made())]  # any() skips
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


def _write(page: Page, check: bool) -> bool:
    """Write a page, unless this only checks. Returns whether a byte changes."""
    place, text = page
    changes = not place.is_file() or place.read_text(encoding="utf-8") != text
    if changes and not check:
        files.write_text(place, text)
    return changes


def _claims() -> list[Page]:
    from mlcourse.teaching import claims

    return [claims.page(places.notebooks(), places.data())]


def _guide() -> list[Page]:
    from mlcourse.classroom import guide

    return _where_it_stands(guide.page(places.notebooks()))


def _sizes() -> list[Page]:
    from mlcourse.classroom import sizing
    from mlcourse.teaching import claims

    return _where_it_stands(sizing.page(places.notebooks(), places.data() / claims.RECORD))


def _syllabus() -> list[Page]:
    from mlcourse.classroom import syllabus

    return _where_it_stands(syllabus.page(places.notebooks()))


def _glossary() -> list[Page]:
    from mlcourse.classroom import glossary

    return glossary.pages(places.notebooks())


def _where_it_stands(page: Page | None) -> list[Page]:
    return [] if page is None else [page]


# what is written beside the notebooks: how a message calls it, and what makes its pages
PAGES = {
    "the table of claims": _claims,
    "the teacher's guide": _guide,
    "the sizes of a hub": _sizes,
    "the syllabus": _syllabus,
    "the glossary": _glossary,
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
