"""How many minutes a person needs for a notebook: its core, and the stretch parts beside it.

The estimate is a sum: words of prose / 130, lines of code / 40 (a function of the package that is shown counts as 20
lines), 0.75 for each picture, 1.5 for each widget, 0.5 for each guess, and the minutes in each exercise's heading.

Where the numbers come from. Adults read English non-fiction silently at 238 words a minute, most at 175 to 300, and
more slowly when English is their second language (Brysbaert 2019, "How many words do we read per minute?", Journal of
Memory and Language 109). Our text has formulas (each sign of one counts as a word here) and is read by people who are
not native speakers, so we take 130. The other numbers are chosen, so that the sums come near to what we know: careful
readings of notebooks 01 to 11, with their core exercises, took 65 to 95 minutes, where earlier headers, which counted
words only, said 60; the formula gives 66 to 82 for them. One of 00 took 25, where the header said 15; the formula gives
31. So it is right to about a quarter of an hour, and no class has been timed.

The parts that may be skipped do not count into the core: cells tagged `stretch`, and exercises whose heading says
"(stretch". What nobody reads in the hour counts nowhere: hints and other folds, references, solutions, the header's
table, and the two first code cells, which are alike in all notebooks.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from nbformat import NotebookNode

WORDS, LINES = 130, 40  # read in a minute
SHOWN = 20  # lines of one function that `inspect.getsource` shows
PICTURE, WIDGET, GUESS = 0.75, 1.5, 0.5  # minutes
COST = {"getsource": SHOWN / LINES, "show": PICTURE, "explore": WIDGET}  # the name of a function -> minutes
LIMIT = 60  # minutes of a core
STRETCH = "stretch"  # the tag of a cell that a learner may skip
EXERCISE = re.compile(r"Exercise (\d\d\.\d+)\b.*\((core|stretch),.*?(\d+) ?min")
ROW = re.compile(r"^\| \*\*(?:Reading|Core|Core exercises|Stretch|Stretch exercises)\*\* \|.*\n", re.MULTILINE)


@dataclass
class Minutes:
    """What one part of a notebook, the core or the stretch, asks of a person; all times in minutes."""

    reading: float = 0.0  # and running, looking and guessing
    exercises: dict[str, int] = field(default_factory=dict)  # number -> the minutes that its heading says

    @property
    def total(self) -> float:
        return self.reading + sum(self.exercises.values())

    def __str__(self):
        said = f"{max(5, 5 * round(self.total / 5)) if self.total else 0} minutes (estimated)"
        if self.exercises:
            numbers = ", ".join(sorted(self.exercises))
            word = "exercise" if len(self.exercises) == 1 else "exercises"
            said += f", {sum(self.exercises.values())} of them for {word} {numbers}"
        return said


def estimate(notebook: NotebookNode) -> tuple[Minutes, Minutes]:
    """The minutes of the core, and those of the stretch parts."""
    parts = {False: Minutes(), True: Minutes()}
    optional: set[str] = set()  # tags of the exercises that are stretch
    for place, cell in enumerate(notebook.cells):
        tags = set(cell.metadata.get("tags", []))
        if cell.cell_type == "markdown" and re.search(r"^## Solutions", cell.source, re.MULTILINE):
            break
        if cell.cell_type == "markdown":
            for heading, words in _sections(cell.source, header=place == 0):
                found = EXERCISE.search(heading)
                stretch = STRETCH in tags or bool(found and found[2] == "stretch")
                parts[stretch].reading += words / WORDS
                if found:
                    parts[stretch].exercises[found[1]] = int(found[3])
                    optional |= {f"exercise:{found[1]}"} if stretch else set()
        elif cell.cell_type == "code" and not _is_frame(cell, tags):
            parts[bool(tags & {STRETCH, *optional})].reading += _code(cell.source)
    return parts[False], parts[True]


def with_header(source: str, core: Minutes, stretch: Minutes) -> str:
    """The text of a notebook's first cell with its rows of minutes written anew; without such rows, as it was."""
    rows = iter([f"| **Core** | {core} |\n| **Stretch** | {stretch} |\n"])
    return ROW.sub(lambda found: next(rows, ""), source)


def _sections(source: str, header: bool) -> Iterator[tuple[str, int]]:
    """The heading ("" when there is none) and the number of words of each section of a cell that is read."""
    text = re.sub(r"<details\b.*?</details>", "", source, flags=re.DOTALL)
    text = re.sub(r"\]\([^)\s]*\)", "]", text)  # the addresses of links and pictures
    if header:
        text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    for section in re.split(r"^(?=#+ )", text, flags=re.MULTILINE):
        heading = section.split("\n")[0] if section.startswith("#") else ""
        if "references" not in heading.lower():
            yield heading, len(section.split())


def _is_frame(cell: NotebookNode, tags: set[str]) -> bool:
    """Whether a code cell is alike in all notebooks (parameters, start of the session), or a solution."""
    return bool(tags & {"parameters", "solution"}) or "ModuleNotFoundError" in cell.source


def _code(source: str) -> float:
    """The minutes of a code cell: its lines, what it shows, and what it asks."""
    lines = sum(bool(line.strip()) for line in source.splitlines())
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:  # a magic; a rule of its own says so
        nodes = []
    names = [getattr(node, "attr", getattr(node, "id", "")) for node in nodes]
    guesses = sum(isinstance(node, ast.keyword) and node.arg == "choices" for node in nodes)
    return lines / LINES + sum(COST.get(name, 0.0) for name in names) + GUESS * guesses
