"""`mlcourse progress`: which exercises you passed, and what you guessed."""

import re
from collections import Counter
from dataclasses import dataclass

from mlcourse import places
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
    import nbformat

    exercises: dict[str, list[str]] = {}
    for path in sorted(places.notebooks().glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
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


def progress() -> None:
    """Show the exercises you passed, as they are kept in your work folder."""
    from rich.console import Console
    from rich.table import Table

    table = Table("notebook", "exercises", "passed", "still open", "guesses", "state")
    all_rows = rows()
    for row in all_rows:
        still_open = [one for one in row.exercises if one not in row.passed]
        table.add_row(
            row.notebook,
            str(len(row.exercises)),
            ", ".join(row.passed) or "none",
            ", ".join(still_open) or "none",
            str(row.guesses),
            row.state,
        )
    console = Console()
    console.print(table)
    total, done = sum(len(row.exercises) for row in all_rows), sum(len(row.passed) for row in all_rows)
    console.print(f"{done} of {total} exercises passed. Kept in {kept.path()}", soft_wrap=True, highlight=False)
