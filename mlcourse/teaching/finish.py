"""How far a learner has come: which exercises of each notebook are passed, and what one can do once its core is.

What one can do stands in the header of each notebook, in the row *Objectives*; which notebooks make a track stands in
the course's README. Nothing is said here a second time.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlcourse import files, places
from mlcourse.teaching import minutes, progress

TRACK = re.compile(r"^\| (\w[^|]*?) \| ((?:\d\d[ ·]*)+)\|", re.MULTILINE)
OBJECTIVES = re.compile(r"^\| \*\*Objectives\*\* \| (.*) \|$", re.MULTILINE)
ALL = "All notebooks"  # the one track where no README names any


@dataclass(frozen=True)
class Row:
    """One notebook. `passed`, `exercises` and `stretch` are numbers such as "01.2"; a core exercise is no stretch.

    objectives: what the header promises of the core, such as "write the IoU of boxes; say …".
    """

    notebook: str
    exercises: list[str]
    passed: list[str]
    guesses: int
    stretch: list[str] = field(default_factory=list)
    objectives: str = ""

    @property
    def number(self) -> str:
        """The number of the notebook."""
        return self.notebook.split("_")[0]

    @property
    def state(self) -> str:
        """In words, so that no colour is needed."""
        if not self.passed:
            return "not begun" if not self.guesses else "begun"
        return "all passed" if set(self.exercises) <= set(self.passed) else "begun"

    @property
    def done(self) -> bool:
        """Whether each exercise of the core is passed."""
        core = set(self.exercises) - set(self.stretch)
        return bool(core) and core <= set(self.passed)


def rows() -> list[Row]:
    """One row for each notebook of the course, and for each that progress was kept of."""
    told: dict[str, dict] = {}
    for path in sorted(places.notebooks().glob("*.ipynb")):
        cells = files.read_notebook(path).cells
        tags = [tag for cell in cells for tag in cell.metadata.get("tags", [])]
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        promised = OBJECTIVES.search(text)
        told[path.stem] = {
            "exercises": sorted(tag.split(":")[1] for tag in tags if re.fullmatch(r"exercise:\d\d\.\d+", tag)),
            "stretch": [number for number, kind, _ in minutes.EXERCISE.findall(text) if kind == minutes.STRETCH],
            "objectives": _plain(promised[1]) if promised else "",
        }
    passed = [entry["exercise"] for entry in progress.passes()]
    guessed = Counter(entry["key"].split(".")[0] for entry in progress.guesses())
    known = {stem.split("_")[0] for stem in told}
    for number in sorted({key.split(".")[0] for key in [*passed, *guessed]} - known):
        told[number] = {"exercises": []}  # kept from a notebook that is no longer there
    return [
        Row(stem, passed=[one for one in passed if one.split(".")[0] == number], guesses=guessed[number], **parts)
        for stem, parts in sorted(told.items())
        for number in [stem.split("_")[0]]
    ]


def _plain(objectives: str) -> str:
    """The objectives of the core as one line of plain text."""
    core = re.split(r"\.? Stretch: ", objectives.replace("\\|", "|"))[0]
    return re.sub(r"[*`$]", "", core).replace(" · ", "; ").rstrip(".")


def named_tracks() -> dict[str, list[str]]:
    """The tracks of the course's README, by the names that it gives them: {"Core": ["00", "01", …]}; {} without one."""
    readme = places.repository() / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    return {name: re.findall(r"\d\d", numbers) for name, numbers in TRACK.findall(text)}


def tracks(found: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by track, each in the track's order; all of them in one where the README names no track."""
    by_number = {row.number: row for row in found if row.exercises}
    named = named_tracks() or {ALL: list(by_number)}
    there = {name: [by_number[n] for n in numbers if n in by_number] for name, numbers in named.items()}
    return {name: some for name, some in there.items() if some}


def finish_line(found: Sequence[Row]) -> list[str]:
    """What one can do by now, track by track, in lines: how many of its notebooks are done, then their objectives."""
    lines = []
    for name, some in tracks(found).items():
        done = [row for row in some if row.done]
        lines.append(f"{name}: {len(done)} of {len(some)} notebooks done.")
        lines += [f"  {row.number}  you can now {row.objectives}" for row in done]
        following = next((row for row in some if not row.done), None)
        if following is None:
            lines.append("  The whole track is behind you.")
        else:
            core = [one for one in following.exercises if one not in {*following.passed, *following.stretch}]
            lines.append(
                f"  next: {following.notebook}, exercise {core[0]}" if core else f"  next: {following.notebook}"
            )
    return lines
