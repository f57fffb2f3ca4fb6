"""The syllabus, `docs/syllabus.md`: each notebook on one page, with its reading. Made from the notebooks' headers.

So it cannot go stale: `mlcourse tidy` writes it, and `mlcourse tidy --check` fails when it is not of today.
"""

import re
from pathlib import Path

from mlcourse import files
from mlcourse.classroom import guide
from mlcourse.teaching import finish

NAME = "syllabus.md"
HEAD = """# Syllabus

<!-- written by `mlcourse tidy` from the headers of the notebooks -->

Each notebook with what you will be able to do, what it builds on, the time of one person (estimated), and its reading.
[The teacher's guide](teaching.md) has the plans for a class, the [glossary](glossary.md) each term, the
[cheat sheet](cheat_sheet.pdf) symbols and shapes.
"""
PROMISE = re.compile(r"^\*\*(.+?)\*\*$", re.MULTILINE)
REFERENCES = re.compile(r"^##+ [^\n]*[Rr]eferences[^\n]*\n+(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)


def page(folder: Path) -> tuple[Path, str] | None:
    """The syllabus beside a folder of notebooks, and its text of today; None where there is no syllabus."""
    place = folder.parent / "docs" / NAME
    if not place.is_file():
        return None
    tracks = [f"- **{name}**: {' '.join(numbers)}" for name, numbers in finish.named_tracks().items()]
    sections = [_section(folder / one.file, one) for one in guide.read(folder)]
    return place, "\n".join([HEAD, "## Tracks", "", *tracks, "", "\n\n".join(sections), ""])


def _section(path: Path, one: guide.Entry) -> str:
    """One notebook: promise, a table of its header, and what to read."""
    text = [cell.source for cell in files.read_notebook(path).cells if cell.cell_type == "markdown"]
    promise = PROMISE.search(text[0])
    rows = [("You will", one.header.get("Objectives", "–")), ("Builds on", one.header.get("Prerequisites", "–"))]
    rows.append(("Minutes", f"{one.at_desk} (core + stretch)"))
    table = "\n".join(["| | |", "|---|---|", *(f"| **{name}** | {words} |" for name, words in rows)])
    parts = [f"## [{one.title}](../notebooks/{one.file})", promise[1] if promise else "", table, _reading(text)]
    return "\n\n".join(part for part in parts if part)


def _reading(text: list[str]) -> str:
    """The references, an entry in a line; the course's own pages are none."""
    found = REFERENCES.search("\n".join(text))
    entries = re.split(r"^- ", found[1], flags=re.MULTILINE)[1:] if found else []
    lines = [f"- {' '.join(entry.split())}" for entry in entries if "http" in entry]
    return "\n".join(["Reading:", "", *lines]) if lines else ""
