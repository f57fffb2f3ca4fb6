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
from mlcourse.errors import CourseError

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
TRACK = re.compile(r"^\| (\w+)[^|]* \| ((?:\d\d[ ·]*)+)\|", re.MULTILINE)
# the schedule of a day, in minutes after midnight
BEGIN, NOON, END, LUNCH, BREAK = 9 * 60, 12 * 60, 17 * 60, 60, 15


@dataclass(frozen=True)
class Lesson:
    """A line of the schedule: the notebook's file and title, and the minutes that its header says."""

    file: str
    title: str
    core: int
    stretch: int


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
    """The tracks of the course's README: {"core": ["00", "01", …]}."""
    text = (places.repository() / "README.md").read_text(encoding="utf-8")
    return {name.lower(): re.findall(r"\d\d", numbers) for name, numbers in TRACK.findall(text)}


def make(out: Path, notebooks: list[Path], *, later: bool = False) -> list[Path]:
    """Make the edition in the folder `out`, and `out`.zip of it; with `later` the solutions in an archive apart.

    Raises CourseError when one of them is there already: nothing is overwritten.

    Returns:
        what was made.
    """
    archive, solutions = out.with_name(f"{out.name}.zip"), out.with_name(f"{out.name}-solutions.zip")
    targets = [out, archive, *([solutions] if later else [])]
    if there := [str(path) for path in targets if os.path.lexists(path)]:
        raise CourseError(f"{', '.join(there)} is there already: move it away, or take another name")
    if (places.repository() / "notebooks") in [out, *out.parents] or places.PACKAGE in [out, *out.parents]:
        raise CourseError(f"{out} lies in the course's own folders: take a place outside")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name[:40]}.") as temporary:
        draft = Path(temporary, "edition")
        _fill(draft, notebooks)
        pack(draft, archive, out.name)
        os.replace(draft, out)
    if later:
        with files.replacing(solutions) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as opened:
            for path in notebooks:
                _put(opened, f"notebooks/{path.name}", path.read_bytes())
    return targets


def _fill(draft: Path, notebooks: list[Path]) -> None:
    """Write all files of the edition, and their checksums."""
    (draft / "notebooks").mkdir(parents=True)
    lessons, names = [], {path.name for path in notebooks}
    for path in notebooks:
        whole = files.read_notebook(path)
        lessons.append(lesson_of(path.name, whole))
        nbformat.write(without_solutions(whole, names), draft / "notebooks" / path.name)
    leave = shutil.ignore_patterns("__pycache__", "_data", "*.pyc")
    shutil.copytree(places.PACKAGE, draft / "mlcourse", ignore=leave)
    shutil.copytree(places.data(), draft / "data", ignore=leave)
    for name in BUILD:
        shutil.copy(places.repository() / name, draft / name)
    files.write_text(draft / "index.html", cover(lessons))
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
    return Lesson(file, first.split("\n")[0].lstrip("# "), minutes["Core"], minutes.get("Stretch", 0))


def schedule(lessons: list[Lesson]) -> list[tuple[int, int, int]]:
    """When each core begins and ends: (day from 1, minutes after midnight, minutes after midnight).

    A day goes from 9 to 17 with an hour for lunch at noon or after the lesson that reaches into it, and a break of 15
    minutes after each lesson. A lesson that would end after 17 begins the next day.
    """
    day, now, eaten, found = 1, BEGIN, False, []
    for lesson in lessons:
        if not eaten and now >= NOON:
            now, eaten = now + LUNCH - BREAK, True
        if now + lesson.core > END and now > BEGIN:
            day, now, eaten = day + 1, BEGIN, False
        found.append((day, now, now + lesson.core))
        now += lesson.core + BREAK
    return found


def cover(lessons: list[Lesson]) -> str:
    """The cover page: how to begin, and the schedule."""
    rows = "\n".join(
        f'<tr><td>{day}</td><td>{_clock(begin)}–{_clock(end)}</td><td><a href="notebooks/{escape(lesson.file)}">'
        f"{escape(lesson.title)}</a></td><td>{lesson.core}</td><td>{lesson.stretch or ''}</td></tr>"
        for lesson, (day, begin, end) in zip(lessons, schedule(lessons))
    )
    core, stretch = sum(one.core for one in lessons), sum(one.stretch for one in lessons)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Meta-learning for computer vision</title>
<style>body{{font-family:sans-serif;max-width:50em;margin:2em auto;padding:0 1em;line-height:1.5}}
td,th{{text-align:left;padding:.2em .8em .2em 0}}</style></head>
<body><h1>Meta-learning for computer vision</h1>
<h2>How to begin</h2>
<ol><li>You need Python 3.11 or later. Open a terminal in this folder.</li>
<li><code>python -m venv .venv</code>, then <code>source .venv/bin/activate</code>
(on Windows <code>.venv\\Scripts\\activate</code>).</li>
<li><code>pip install -e .</code></li>
<li><code>mlcourse lab</code> opens your own copies of the notebooks, in the folder <code>work</code>.</li></ol>
<p>Data and trained networks are in this folder; nothing more is downloaded after the installation. To hand in, give
your notebooks back as they are, each as the file that ends in <code>.ipynb</code>, all in one folder or zip archive.
Do not rename the functions <code>my_…</code>.</p>
<h2>The schedule</h2>
<table><tr><th>day</th><th>time</th><th>notebook</th><th>core, minutes</th><th>stretch, minutes</th></tr>
{rows}
<tr><td></td><td></td><td>together</td><td>{core}</td><td>{stretch}</td></tr></table>
<p>The minutes are estimates from the notebooks' headers. Stretch parts may be skipped, and are not in the times.
After each notebook there is a break of {BREAK} minutes, at noon or soon after it one of {LUNCH}.</p>
<p><code>sha256sum -c {SUMS}</code> says whether all files have arrived whole.</p>
</body></html>
"""


def _clock(minutes: int) -> str:
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
