"""The students' edition: notebooks without solutions, with the package and its data beside them, in one archive."""

import hashlib
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import nbformat

from mlcourse import files, places
from mlcourse.environment import CPU_INDEX
from mlcourse.errors import CourseError
from mlcourse.teaching import finish

SUMS = "SHA256SUMS"
BUILD = ("pyproject.toml", "hatch_build.py", "constraints.txt", "LICENSE", "LICENSE-text")
START = """\
# The package lies beside the notebooks, in the folder that you unpacked.
import sys
from pathlib import Path

for _folder in [Path.cwd(), *Path.cwd().parents]:
    if (_folder / "mlcourse" / "__init__.py").is_file():
        sys.path.insert(0, str(_folder))
        break"""
ADDRESS = re.compile(r'git\+ADDRESS(?:"\s*")?  \(ADDRESS: [^)]*\)')
IN_CLASS = re.compile(r"\n*<details><summary>In class: (\d+) minutes</summary>.*?</details>\n*", re.DOTALL)
LINK = re.compile(r"^\[Solution\]\(#Solution[^)]*\)\s*$\n?", re.MULTILINE)
SENTENCE = re.compile(r"[ ]*Solutions are at the very end, folded too\.")
MINUTES = re.compile(r"^\| \*\*(Core|Stretch)\*\* \| (\d+) minutes", re.MULTILINE)
# the same words as in the README and in the teacher's guide: a test looks
DISK = "about 3 GB to download and 6 GB of disk (9 GB must be free while it is made)"
# the schedule of a day, in minutes after midnight
BEGIN, NOON, END, LUNCH, BREAK = 9 * 60, 12 * 60, 17 * 60, 60, 15


@dataclass(frozen=True)
class Lesson:
    """A line of the schedule: the notebook's file and title, and the minutes that its header says.

    core, stretch: for somebody who works alone; in_class: for a class, 0 where the header does not say.
    """

    file: str
    title: str
    core: int
    stretch: int
    in_class: int = 0

    @property
    def minutes(self) -> int:
        """Its minutes in the schedule."""
        return self.in_class or self.core


def choose(track: str, numbers: Iterable[str]) -> list[Path]:
    """The notebooks of a track ("" for all), or those with these numbers. Raises CourseError for one that is none."""
    there = {path.name[:2]: path for path in sorted(places.notebooks().glob("[0-9][0-9]_*.ipynb"))}
    if not there or not (places.repository() / "pyproject.toml").is_file():
        raise CourseError(f"there is no clone of the course in {places.repository()}: a handout is made from one")
    wanted = list(numbers)
    if track:
        found = tracks()
        if track.lower() not in found:
            raise CourseError(f"there is no track {track!r}: take one of {', '.join(found)}")
        wanted += found[track.lower()]
    if unknown := [number for number in wanted if number not in there]:
        raise CourseError(f"there is no notebook {', '.join(unknown)}: take some of {', '.join(there)}")
    return [there[number] for number in sorted(set(wanted) or there)]


def tracks() -> dict[str, list[str]]:
    """The tracks of the course's README by the first word of their names: {"core": ["00", "01", …]}."""
    return {re.match(r"\w+", name)[0].lower(): numbers for name, numbers in finish.named_tracks().items()}


def make(out: Path, notebooks: list[Path], *, later: bool = False, weekly: bool = False) -> list[Path]:
    """Make the edition in the folder `out`, and `out`.zip of it; with `later` the solutions in an archive apart.

    The cover page has them in the order in which they are given, one a week with `weekly`, else in days.

    Raises CourseError when one of them is there already: nothing is overwritten.

    Returns:
        what was made.
    """
    archive, solutions = out.with_name(f"{out.name}.zip"), out.with_name(f"{out.name}-solutions.zip")
    targets = [out, archive, *([solutions] if later else [])]
    if there := [str(path) for path in targets if os.path.lexists(path)]:
        raise CourseError(f"{', '.join(there)} is there already: move it away, or take another name")
    copied = (places.notebooks(), places.PACKAGE, places.data())
    if any(folder in [out, *out.parents] for folder in copied):
        raise CourseError(f"{out} lies in the course's own folders: take a place outside")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name[:40]}.") as temporary:
        draft = Path(temporary, "edition")
        _fill(draft, notebooks, weekly=weekly)
        pack(draft, archive, out.name)
        os.replace(draft, out)
    if later:
        with files.replacing(solutions) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as opened:
            for path in notebooks:
                _put(opened, f"notebooks/{path.name}", path.read_bytes())
    return targets


def _fill(draft: Path, notebooks: list[Path], *, weekly: bool) -> None:
    """Write all files of the edition, and their checksums."""
    (draft / "notebooks").mkdir(parents=True)
    lessons, names = [], {path.name for path in notebooks}
    for path in notebooks:
        whole = files.read_notebook(path)
        lessons.append(lesson_of(path.name, whole))
        nbformat.write(without_solutions(whole, names), draft / "notebooks" / path.name)
    if (page := places.notebooks() / "glossary.md").is_file():  # the notebooks link it
        text = _linked(page.read_text(encoding="utf-8"), names)
        files.write_text(draft / "notebooks" / page.name, text)
    leave = shutil.ignore_patterns("__pycache__", "_data", "*.pyc")
    shutil.copytree(places.PACKAGE, draft / "mlcourse", ignore=leave)
    shutil.copytree(places.data(), draft / "data", ignore=leave)
    for name in BUILD:
        shutil.copy(places.repository() / name, draft / name)
    files.write_text(draft / "index.html", cover(lessons, weekly=weekly))
    files.write_text(draft / "README.md", "# The course\n\nOpen index.html: it says how to begin, and when.\n")
    files.write_text(draft / SUMS, sums(draft))


def without_solutions(notebook: nbformat.NotebookNode, names: set[str]) -> nbformat.NotebookNode:
    """The notebook as students get it: no solutions, no links to them, no notes for teachers, a start cell.

    names: the notebooks of the edition; a link to any other becomes plain words.
    """
    cells = []
    for cell in notebook.cells:
        heading = cell.cell_type == "markdown" and re.match(r"##+ Solutions?\b", cell.source)
        if "solution" in cell.metadata.get("tags", []) or heading:
            continue
        if cell.cell_type == "markdown":
            text = SENTENCE.sub("", LINK.sub("", IN_CLASS.sub("\n\n", cell.source)))
            cell = nbformat.from_dict({**cell, "source": _linked(text.strip("\n"), names)})
            if not cell.source:
                continue
        elif "ModuleNotFoundError" in cell.source:
            cells.append(nbformat.v4.new_code_cell(START, id="edition-start"))
            source = ADDRESS.sub("-e ..  (.. is the folder that you unpacked)", cell.source)
            cell = nbformat.from_dict({**cell, "source": source})
        cells.append(cell)
    return nbformat.from_dict({**notebook, "cells": cells})


def has_solutions(folder: Path) -> bool:
    """Whether one of the notebooks of a folder holds a solution or the notes for teachers."""
    cells = (cell for path in folder.glob("*.ipynb") for cell in files.read_notebook(path).cells)
    return any("solution" in cell.metadata.get("tags", []) or IN_CLASS.search(cell.source) for cell in cells)


def _linked(text: str, names: set[str]) -> str:
    def keep(found: re.Match) -> str:
        return found[0] if found[2].split("#")[0] in names else found[1]

    return re.sub(r"\[([^\]]*)\]\(([^)\s/]+\.ipynb[^)]*)\)", keep, text)


def lesson_of(file: str, notebook: nbformat.NotebookNode) -> Lesson:
    """What the schedule says of a notebook: its title and the minutes of its header."""
    first = notebook.cells[0].source
    minutes = {name: int(number) for name, number in MINUTES.findall(first)}
    if "Core" not in minutes:
        raise CourseError(f"{file} does not say its minutes in its header: run `mlcourse tidy`")
    fold = IN_CLASS.search(first)
    title = first.split("\n")[0].lstrip("# ")
    return Lesson(file, title, minutes["Core"], minutes.get("Stretch", 0), int(fold[1]) if fold else 0)


def schedule(lessons: list[Lesson]) -> list[tuple[int, int, int]]:
    """When each lesson begins and ends: (day from 1, minutes after midnight, minutes after midnight).

    A day goes from 9 to 17 with an hour for lunch at noon or after the lesson that reaches into it, and a break of 15
    minutes after each lesson. A lesson that would end after 17 begins the next day.
    """
    day, now, eaten, found = 1, BEGIN, False, []
    for lesson in lessons:
        if not eaten and now >= NOON:
            now, eaten = now + LUNCH - BREAK, True
        if now + lesson.minutes > END and now > BEGIN:
            day, now, eaten = day + 1, BEGIN, False
        found.append((day, now, now + lesson.minutes))
        now += lesson.minutes + BREAK
    return found


def timetable(lessons: list[Lesson], *, weekly: bool = False) -> list[tuple[int, str]]:
    """When each lesson takes place, as the guide and the cover page write it.

    (day, "09:00–09:45"), or with `weekly` one lesson each week, (week, "45 minutes").
    """
    if weekly:
        return [(week, f"{lesson.minutes} minutes") for week, lesson in enumerate(lessons, start=1)]
    return [(day, f"{clock(begin)}–{clock(end)}") for day, begin, end in schedule(lessons)]


def cover(lessons: list[Lesson], *, weekly: bool = False) -> str:
    """The cover page: how to begin, and the schedule, in days or (`weekly`) with one lesson a week."""
    rows = "\n".join(
        f"<tr><td>{when}</td><td>{time}</td><td>{escape(lesson.title)}</td>"
        f"<td class=n>{lesson.core}</td><td class=n>{lesson.stretch or ''}</td></tr>"
        for lesson, (when, time) in zip(lessons, timetable(lessons, weekly=weekly))
    )
    head = "<th>week</th><th>the meeting</th>" if weekly else "<th>day</th><th>time</th>"
    breaks = f" After each notebook there is a break of {BREAK} minutes, at noon or soon after it one of {LUNCH}."
    core, stretch = sum(one.core for one in lessons), sum(one.stretch for one in lessons)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Meta-learning for computer vision</title>
<style>body{{font-family:sans-serif;max-width:50em;margin:2em auto;padding:0 1em;line-height:1.5}}
td,th{{text-align:left;padding:.2em .8em .2em 0;vertical-align:top}} .n{{text-align:right}}</style></head>
<body><h1>Meta-learning for computer vision</h1>
<h2>How to begin</h2>
<p>You need Python 3.11 or later and a network for the installation: {DISK}. Data and trained networks are in this
folder; nothing is downloaded later. Open a terminal in this folder, and call</p>
<ol><li><code>python3 -m venv .venv</code> (on Windows <code>py -m venv .venv</code>);</li>
<li><code>source .venv/bin/activate</code> (on Windows <code>.venv\\Scripts\\activate</code>);</li>
<li><code>pip install -e .</code>, which takes some minutes. (On Linux without an NVIDIA GPU call
<code>pip install torch --index-url {CPU_INDEX}</code> before it: that is PyTorch without CUDA, about 2 GB on the disk
in place of 6, an estimate: we could not test this index.);</li>
<li><code>mlcourse lab</code>. It opens JupyterLab with your own copies of the notebooks, in the folder
<code>work</code>.</li></ol>
<p>The next time, call 2 and 4 only. If something does not work, <code>mlcourse doctor</code> says what is missing.</p>
<h2>How to hand in</h2>
<p>Your answers are in the folder <code>work</code>. Hand in this folder, as it is, in a zip archive. Name the archive
after yourself, such as <code>ada-lovelace.zip</code>.</p>
<ul><li>Do not rename the functions whose names begin with <code>my_</code>.</li>
<li>Helpers and imports may stand in cells of their own.</li>
<li>Outputs are not marked.</li></ul>
<h2>The schedule</h2>
<table><tr>{head}<th>notebook</th>
<th class=n>core, minutes</th><th class=n>stretch, minutes</th></tr>
{rows}
<tr><td></td><td></td><td>together</td><td class=n>{core}</td><td class=n>{stretch}</td></tr></table>
<p>The times are those of a class. The minutes of core and stretch are for somebody who works alone. All are estimates.
Stretch parts may be skipped, and are not in the times.{"" if weekly else breaks}</p>
<p><code>sha256sum -c {SUMS}</code> (on a Mac <code>shasum -a 256 -c {SUMS}</code>) says whether all files have arrived
whole.</p>
</body></html>
"""


def clock(minutes: int) -> str:
    """Minutes after midnight as a clock shows them: "09:45"."""
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def sums(folder: Path) -> str:
    """A line for each file of a folder, as `sha256sum -c` reads it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}" for path in paths
    ]
    return "\n".join(lines) + "\n"


def pack(folder: Path, archive: Path, name: str) -> None:
    """Write a folder as a zip archive, below `name`; the same files give the same bytes."""
    with files.replacing(archive) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            _put(opened, f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def _put(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
    archive.writestr(entry, content)
