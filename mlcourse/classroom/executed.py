"""Executed copies of what students handed in: every cell runs, in a sandbox, and a page shows what came.

All that comes from the student's process is data: of what a cell shows, only plain text, PNG pictures and cleaned HTML
are kept. The course's own prose is shown as in the notebook; other prose stands as it was typed.
"""

import hashlib
import html
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import bleach
import nbformat

from mlcourse import __version__, files, places
from mlcourse.classroom import handout, marks, notebooks
from mlcourse.classroom.collecting import HandIn
from mlcourse.classroom.sandbox import Clock, Limits, Sandbox, Stopped, bubblewrap
from mlcourse.errors import CourseError

FOLDER = "executed"
PROGRAM = "mlcourse.classroom.runner"
MARKS = 1000  # tags of a page: cleaning takes time that grows with their square, in the teacher's own process
LIMITS = Limits(seconds=120.0, memory=4 * 2**30, clock=900.0)  # seconds: of a cell; clock: of a notebook
TAGS = {
    "b", "br", "code", "details", "div", "em", "i", "img", "li", "ol", "p", "pre", "span", "strong", "summary", "sub",
    "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
ATTRIBUTES = {"img": ["src", "alt", "width", "height"], "div": ["role"]}


@dataclass
class Executor:
    """Makes executed copies.

    Args:
        grader: whose notebooks count, and which are wanted.
        render: makes a web page of a notebook and its title; it is told that the notebook is a stranger's.
        limits: of each cell, and by the clock of each notebook.
        isolated: of the sandbox. Whole notebooks run only in isolation; tests say otherwise.
    """

    grader: marks.Grader
    render: Callable[[nbformat.NotebookNode, str], str]
    limits: Limits = LIMITS
    isolated: bool = True
    _open: set[Sandbox] = field(default_factory=set)
    _stopping: bool = False

    def __post_init__(self):
        if self.isolated and not bubblewrap():
            raise CourseError(
                "--executed runs every cell of a student, so it needs the isolation of bubblewrap, which does not work "
                "here: see `mlcourse grade --explain`, or leave --executed out"
            )

    def run(self, hand_ins: list[HandIn], jobs: int = 1, finished: Callable[[], None] = lambda: None) -> list[Path]:
        """The copies of all hand-ins; those that are there and of today are kept. `finished` is called after each."""
        pool = ThreadPoolExecutor(jobs)
        try:
            made = []
            for paths in pool.map(self.copies, hand_ins):
                made += paths
                finished()
        except BaseException:  # Ctrl-C: what runs is ended
            self._stopping = True
            pool.shutdown(wait=False, cancel_futures=True)
            for box in list(self._open):
                box.close()
            raise
        pool.shutdown()
        return made

    def copies(self, hand_in: HandIn) -> list[Path]:
        """The pages of one student, OUT/executed/STUDENT/05_….html."""
        folder = self.grader.out / FOLDER / marks.file_name(hand_in.student)
        made = []
        for number, cells in sorted(self.grader.read(hand_in, []).items()):
            lesson = self.grader.lessons[number]
            path = folder / f"{lesson.stem}.html"
            told = repr(([(cell.kind, cell.source) for cell in cells], self.limits, __version__))
            mark = f"<!-- {hashlib.sha256(told.encode('utf-8', 'surrogateescape')).hexdigest()} -->"
            if not (path.is_file() and path.read_text(encoding="utf-8").endswith(mark)):
                files.write_text(path, self._page(cells, hand_in.student, lesson.stem, mark))
            made.append(path)
        return made

    def _page(self, cells: list[notebooks.Cell], student: str, stem: str, mark: str) -> str:
        """The page of one notebook. One that cannot be made says so, and is made again by the next run."""
        title = _clean(f"{student}: {stem}")
        try:
            return self.render(self.execute(cells, student, stem), title) + mark
        except Exception as error:  # one hand-in never ends the work on a class
            said = html.escape(_clean(f"{type(error).__name__}: {error}")[:500])
            return (
                f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title></head>'
                f"<body><p>The executed copy could not be made ({said}); the next run tries it again.</p></body></html>"
            )

    def execute(self, cells: list[notebooks.Cell], student: str, stem: str) -> nbformat.NotebookNode:
        """Run the cells in a sandbox of their own, one after another, also after an error."""
        if self._stopping:
            raise KeyboardInterrupt
        made, stopped = [], ""
        clock = Clock(self.limits.clock)
        try:
            box = Sandbox([], self.limits, isolated=self.isolated, clock=clock, program=PROGRAM)
            self._open.add(box)
        except Stopped as reason:
            box, stopped = None, f"Nothing was run: {reason}."
        try:
            ours = prose(stem)
            for place, cell in enumerate(cells):
                outputs = []
                if cell.kind == "code" and cell.source.strip() and not stopped:
                    outputs, stopped = self._outputs(box, cell, place)
                made.append(_shown(cell, outputs, place, ours))
        finally:
            if box is not None:
                self._open.discard(box)
                box.close()
        head = f"{student}: {stem}. Every cell was run, at the budget smoke, in a sandbox. {stopped}"
        return nbformat.v4.new_notebook(cells=[_words(head, "head"), *made])

    def _outputs(self, box: Sandbox, cell: notebooks.Cell, place: int) -> tuple[list, str]:
        """What a cell showed, and why nothing can be run after it, or ""."""
        box.begin_exercise()
        try:
            if box.clock.left <= 0:
                raise Stopped(f"the cells before it took all {self.limits.clock:.0f} s of the notebook")
            reply = box.ask({"source": cell.source})[0]
        except Stopped as reason:
            said = f"Stopped in cell {place + 1}: {reason}."
            return [nbformat.v4.new_output("stream", name="stderr", text=said)], said
        return outputs_of(reply), ""


def outputs_of(reply: dict) -> list[nbformat.NotebookNode]:
    """The outputs of a cell, from what its process said; what is none of the three kinds is dropped."""
    printed, shown = reply.get("printed"), reply.get("shown")
    outputs = []
    if isinstance(printed, str) and printed:
        outputs.append(nbformat.v4.new_output("stream", name="stdout", text=_clean(printed)))
    for one in shown if isinstance(shown, list) else []:
        if isinstance(one, dict) and (data := _data(one)):
            outputs.append(nbformat.v4.new_output("display_data", data))
    return outputs


def _data(shown: dict) -> dict[str, str]:
    data = {}
    page, picture, text = (shown.get(kind) for kind in ("text/html", "image/png", "text/plain"))
    if isinstance(page, str) and max(page.count("<"), page.count("&")) > MARKS:
        data["text/html"] = f"<p>(A page with more than {MARKS:,} tags is left out.)</p>"
    elif isinstance(page, str):
        data["text/html"] = bleach.clean(
            _clean(page), tags=TAGS, attributes=ATTRIBUTES, protocols={"data"}, strip=True, strip_comments=True
        )
    if isinstance(picture, str) and re.fullmatch(r"[A-Za-z0-9+/=\s]*", picture):
        data["image/png"] = picture
    if isinstance(text, str):
        data["text/plain"] = _clean(text)
    return data


def _clean(text: str) -> str:
    """The text with ? in place of half characters, which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def prose(stem: str) -> dict[str, str]:
    """The prose of a notebook of the course, as an executed copy shows it; by the words that a hand-in has of it."""
    cells = files.read_notebook(places.notebooks() / f"{stem}.ipynb").cells
    texts = [_plain(cell.source) for cell in cells if cell.cell_type == "markdown"]
    return {text: re.sub(r"!\[([^\]]*)\]\(attachment:[^)]*\)", r"*(\1)*", text) for text in texts}


def _plain(text: str) -> str:
    """The prose of a notebook without what a students' edition changes in it: links, and notes for teachers."""
    whole = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    left = handout.without_solutions(whole, set()).cells
    return left[0].source if left else ""


def _shown(cell: notebooks.Cell, outputs: list, place: int, ours: dict[str, str]) -> nbformat.NotebookNode:
    name = f"cell-{place + 1}"
    if cell.kind == "code":
        made = nbformat.v4.new_code_cell(_clean(cell.source), id=name)
        made.outputs = outputs
        return made
    known = ours.get(_plain(cell.source))
    return nbformat.v4.new_markdown_cell(known, id=name) if known else _words(cell.source, name)


def _words(text: str, name: str) -> nbformat.NotebookNode:
    """A text as it was typed: nothing in it is markup, HTML or a formula."""
    lines = [html.escape(_clean(line)).replace("$", "&#36;").replace("\\", "&#92;") for line in text.split("\n")]
    return nbformat.v4.new_markdown_cell(f'<pre style="white-space: pre-wrap">{"<br>".join(lines)}</pre>', id=name)
