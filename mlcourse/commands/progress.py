"""`mlcourse progress`: which exercises you passed, what you guessed, and what you can do by now."""

from mlcourse.teaching import progress as kept
from mlcourse.teaching.finish import Row, finish_line, rows

__all__ = ["Row", "progress", "rows"]


def without(number: str) -> str:
    """An exercise as its row names it: "01.2" is 2."""
    return number.split(".", 1)[-1]


def progress() -> None:
    """Show the exercises you passed, as they are kept in your work folder, and what you can do by now."""
    from rich.console import Console
    from rich.table import Table

    # a row is a line on a terminal of 80 columns, in any encoding: no frame, and a long name is cut
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("notebook", no_wrap=True, overflow="crop", max_width=33)
    for name in ("passed", "still open", "guesses", "state"):
        table.add_column(name, no_wrap=True, overflow="crop")
    all_rows = rows()
    for row in all_rows:
        still_open = [without(one) for one in row.exercises if one not in row.passed]
        table.add_row(
            row.notebook,
            f"{len(row.passed)} of {len(set(row.exercises) | set(row.passed))}",
            " ".join(still_open) or "none",
            str(row.guesses),
            row.state,
        )
    console = Console()
    console.print(table, markup=False)
    total = sum(len(set(row.exercises) | set(row.passed)) for row in all_rows)
    done = sum(len(row.passed) for row in all_rows)
    line = f"{done} of {total} exercises passed. Kept in {kept.path()}"
    console.print(line, soft_wrap=True, highlight=False, markup=False)
    for said in ["", *finish_line(all_rows)]:
        console.print("\n".join(_wrapped(said, console.width)), soft_wrap=True, highlight=False, markup=False)


def _wrapped(line: str, width: int) -> list[str]:
    """A line in the columns of the terminal; what follows begins below its first word."""
    import textwrap

    hanging = "      " if line.startswith(" ") else ""
    return textwrap.wrap(line, max(40, width), subsequent_indent=hanging)
