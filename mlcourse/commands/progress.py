"""`mlcourse progress`: which exercises you passed, and what you guessed."""

import re
from collections import Counter
from dataclasses import dataclass

from mlcourse import files, places
from mlcourse.teaching import progress as kept


@dataclass(frozen=True)
class Row:
    """One notebook of the table. `passed` and `exercises` are numbers such as "01.2"."""

    notebook: str
    exercises: list[str]
    passed: list[str]
    guesses: int

    @property
    def state(self) -> str:
        """In words, so that no colour is needed."""
        if not self.passed:
            return "not begun" if not self.guesses else "begun"
        return "all passed" if set(self.exercises) <= set(self.passed) else "begun"


def rows() -> list[Row]:
    """One row for each notebook of the course, and for each that progress was kept of."""
    exercises: dict[str, list[str]] = {}
    for path in sorted(places.notebooks().glob("*.ipynb")):
        cells = files.read_notebook(path).cells
        tags = [tag for cell in cells for tag in cell.metadata.get("tags", [])]
        exercises[path.stem] = sorted(tag.split(":")[1] for tag in tags if re.fullmatch(r"exercise:\d\d\.\d+", tag))
    passed = [entry["exercise"] for entry in kept.passes()]
    guessed = Counter(entry["key"].split(".")[0] for entry in kept.guesses())
    known = {stem.split("_")[0] for stem in exercises}
    for number in sorted({key.split(".")[0] for key in [*passed, *guessed]} - known):
        exercises[number] = []  # kept from a notebook that is no longer there
    return [
        Row(stem, numbers, [one for one in passed if one.split(".")[0] == number], guessed[number])
        for stem, numbers in sorted(exercises.items())
        for number in [stem.split("_")[0]]
    ]


def without(number: str) -> str:
    """An exercise as its row names it: "01.2" is 2."""
    return number.split(".", 1)[-1]


def progress() -> None:
    """Show the exercises you passed, as they are kept in your work folder."""
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
    total, done = sum(len(row.exercises) for row in all_rows), sum(len(row.passed) for row in all_rows)
    line = f"{done} of {total} exercises passed. Kept in {kept.path()}"
    console.print(line, soft_wrap=True, highlight=False, markup=False)
