"""`mlcourse tidy` and `mlcourse golden`: the notebooks as they stand in the repository."""

from typing import Annotated

import typer

from mlcourse.commands.run import find

Names = Annotated[list[str] | None, typer.Argument(help="01, 01_name or a path; default: all")]


def tidy(
    notebooks: Names = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit code 1 when a byte would change.")
    ] = False,
) -> None:
    """Write notebooks in their canonical form: stable ids, formatted code, no outputs but the golden ones."""
    from mlcourse.teaching import tidy as tools

    paths = find(notebooks or [])
    if not check:
        changed = [path for path in paths if tools.tidy_file(path)]
        print(f"{len(changed)} of {len(paths)} notebooks changed: {_names(changed)}")
        return
    untidy = tools.check(paths)
    if untidy:
        print(f"{len(untidy)} of {len(paths)} notebooks are not tidy: {_names(untidy)}. Run: mlcourse tidy")
        raise typer.Exit(1)
    print(f"{len(paths)} notebooks are tidy.")


def golden(notebooks: Names = None) -> None:
    """Fill the golden outputs (cells tagged nbval-check-output) from a fresh run at the budget smoke."""
    from mlcourse.teaching import tidy as tools

    paths = find(notebooks or [])
    for number, path in enumerate(paths, start=1):
        print(f"{number}/{len(paths)} {path.stem} ...", end=" ", flush=True)
        print("changed" if tools.golden(path) else "as before", flush=True)


def _names(paths) -> str:
    return ", ".join(path.stem for path in paths) or "none"
