"""`mlcourse tidy` and `mlcourse golden`: the notebooks as they stand in the repository."""

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

    Without names it also writes the table of claims into the README.md beside the notebooks. The exit code is 1 when
    the core of a notebook takes more than an hour.
    """
    from mlcourse.teaching import tidy as tools

    paths = find(notebooks or [])
    untidy = tools.check(paths) if check else [path for path in paths if tools.tidy_file(path)]
    whole = not notebooks and _table_of_claims(check)
    if check and (untidy or whole):
        table = ", and the table of claims is not of today" if whole else ""
        print(f"{len(untidy)} of {len(paths)} notebooks are not tidy: {_names(untidy)}{table}. Run: mlcourse tidy")
    elif check:
        print(f"{len(paths)} notebooks are tidy.")
    else:
        table = "; the table of claims is new" if whole else ""
        print(f"{len(untidy)} of {len(paths)} notebooks changed: {_names(untidy)}{table}")
    too_long = tools.too_long(paths)
    print(*too_long, sep="\n", end="\n" * bool(too_long))
    if too_long or (check and (untidy or whole)):
        raise typer.Exit(1)


def _table_of_claims(check: bool) -> bool:
    """Write the table of claims, unless this only checks. Returns whether a byte changes."""
    from mlcourse.teaching import claims

    place, text = claims.page(places.notebooks(), places.data())
    changes = place.read_text(encoding="utf-8") != text
    if changes and not check:
        files.write_text(place, text)
    return changes


def golden(notebooks: Names = None) -> None:
    """Fill the golden outputs (cells tagged nbval-check-output) from a fresh run at the budget smoke."""
    from mlcourse.teaching import tidy as tools

    paths = find(notebooks or [])
    for number, path in enumerate(paths, start=1):
        print(f"{number}/{len(paths)} {path.stem} ...", end=" ", flush=True)
        print("changed" if tools.golden(path) else "as before", flush=True)


def _names(paths) -> str:
    return ", ".join(path.stem for path in paths) or "none"
