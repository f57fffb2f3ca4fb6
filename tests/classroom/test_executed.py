"""Executed copies of hand-ins: all cells run in the sandbox, bounded, and none of it runs in the teacher's browser."""

import base64
import dataclasses
import json
import re

import forty
import pytest
from typer.testing import CliRunner

from mlcourse.classroom import collecting, executed, marks, sandbox
from mlcourse.classroom.executed import Executor
from mlcourse.classroom.sandbox import Limits
from mlcourse.commands import app, pages
from mlcourse.errors import CourseError

LIMITS = Limits(seconds=6, memory=2 * 2**30, clock=120)
WALLS = pytest.mark.skipif(sandbox.bubblewrap() is None, reason="bubblewrap is not installed, or may not be used here")
POSIX = pytest.mark.skipif(sandbox.os.name != "posix", reason="the limits of processes are POSIX")
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()


def small(*cells: str) -> dict:
    """A hand-in to notebook 00: the answer to its first exercise, then these cells."""
    notebook = forty.answered()
    notebook["cells"] = [forty.stub(notebook, 1), *map(forty.code, cells)]
    return notebook


@pytest.fixture
def copy(tmp_path):
    """A function that makes the executed copy of one hand-in, and returns its page."""

    def make(notebook: dict, *, isolated: bool = True, **limits) -> str:
        folder = tmp_path / "hand-ins" / "ada"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / forty.NAME).write_bytes(forty.bytes_of(notebook))
        executor = Executor(
            marks.Grader(tmp_path / "marks"),
            lambda one, name: pages.page(one, name, untrusted=True),
            dataclasses.replace(LIMITS, **limits),
            isolated=isolated,
        )
        (path,) = executor.run(collecting.collect(tmp_path / "hand-ins"))
        assert path == tmp_path / "marks" / "executed" / "ada" / "00_start_here.html"
        return path.read_text(encoding="utf-8")

    return make


def body(page: str) -> str:
    return page.split("<body", 1)[1]


@WALLS
def test_all_cells_run_and_one_that_fails_stops_none(copy):
    page = body(copy(small("print('first', 1 + 1)", "1 / 0", "x = (", "x = 3", "x * 7")))
    assert "first 2" in page
    assert "ZeroDivisionError" in page
    assert "SyntaxError" in page
    assert ">21" in page or "21\n" in page
    assert "def" in page
    assert "my_nearest" in page


@WALLS
def test_an_endless_loop_ends_and_what_came_before_is_kept(copy):
    page = body(copy(small("print('before it')", "while True: pass", "print('after' + ' it')"), seconds=2))
    assert "before it" in page
    assert "Stopped in cell 3: it did not end within 2 s" in page
    assert "after it" not in page


@WALLS
@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("import os; os._exit(0)", "it ended its process"),
        ("x = bytearray(20 * 2**30)", "MemoryError"),
        ("print('y' * 10**8)", "yyyy"),
        ("import time; time.sleep(100)", "within its time by the clock"),
    ],
)
def test_what_a_cell_may_take_is_bounded(copy, cell, words):
    page = copy(small(cell), seconds=4 if "sleep" not in cell else 0.3)
    assert words in page
    assert len(page) < 3_000_000


@WALLS
def test_no_cell_reaches_the_teachers_files_or_the_network(copy, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("the exam")
    page = copy(
        small(
            f"print(open({str(secret)!r}).read())",
            f"open({str(tmp_path / 'written')!r}, 'w').write('x')",
            "import socket; socket.create_connection(('192.0.2.1', 80), 2)",
        )
    )
    assert "the exam" not in page
    assert "FileNotFoundError" in page
    assert "OSError" in page
    assert not (tmp_path / "written").exists()


BAD = "<script>alert(1)</script><img src=x onerror=alert(1)><a href='javascript:alert(1)'>x</a><b>bold</b>"


@WALLS
def test_nothing_of_a_hand_in_runs_in_the_teachers_browser(copy):
    notebook = small(
        f"from IPython.display import HTML, Javascript, SVG, display\ndisplay(HTML({BAD!r}))",
        "display(Javascript('alert(1)'))",
        "display(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"><script>alert(1)</script></svg>'))",
        f"print({BAD!r})",
        f"from IPython.display import Image\ndisplay(Image(data=__import__('base64').b64decode({PNG!r})))",
    )
    for kind in ("markdown", "raw", "heading"):
        notebook["cells"].append(
            {"cell_type": kind, "metadata": {}, "source": f"{BAD}\n\n{BAD} $\\alpha$ [x](javascript:1)"}
        )
    page = copy(notebook)
    assert "<meta content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in page
    inside = body(page)
    assert "<script" not in inside
    assert not re.search(r"<[^>]*\son\w+=", inside)
    assert not re.search(r"<a[^>]*href=[\"']javascript", inside)
    assert "<b>bold</b>" in inside
    assert PNG in inside


@POSIX
def test_what_the_process_sends_is_only_data():
    shown = [{"text/html": BAD, "image/png": '"><script>', "application/javascript": "x", "text/plain": 3}, 7, {}]
    (one,) = executed.outputs_of({"printed": 5, "shown": shown})
    assert set(one.data) == {"text/html"}
    assert "script>" not in one.data["text/html"]
    assert "onerror" not in one.data["text/html"]
    for flood in ("<b>" * 80_000, "&lt;" * 80_000):  # cleaning it would take minutes of the teacher's process
        (one,) = executed.outputs_of({"shown": [{"text/html": flood}]})
        assert one.data["text/html"] == "<p>(A page with more than 1,000 tags is left out.)</p>"
    assert executed.outputs_of({}) == []
    assert executed.outputs_of({"shown": "x"}) == []


@WALLS
def test_a_copy_that_is_there_is_kept_until_the_hand_in_changes(copy):
    first = copy(small("import time; print(time.time())"))
    assert copy(small("import time; print(time.time())")) == first
    assert copy(small("import time; print(time.time(), 2)")) != first


@WALLS
def test_half_characters_are_no_trouble_and_one_bad_page_does_not_end_the_class(copy, monkeypatch):
    notebook = small("print('half \\ud800 a character')", "'and shown \\udfff'", "x = '\ud800'  # typed")
    notebook["cells"].append({"cell_type": "markdown", "metadata": {}, "source": "prose \ud800"})
    monkeypatch.setattr(forty, "bytes_of", lambda one: json.dumps(one).encode())  # escaped, as a browser may save it
    page = copy(notebook)
    assert "half ? a character" in page
    assert "prose ?" in page
    monkeypatch.setattr(pages, "page", lambda *args, **options: 1 / 0)
    page = copy(small("print('another one')"))
    assert "could not be made (ZeroDivisionError" in page
    monkeypatch.undo()
    assert "another one" in copy(small("print('another one')"))


@WALLS
def test_the_courses_own_prose_is_shown_as_in_the_notebook(copy):
    notebook = forty.course()
    prose = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    kept = next(cell for cell in prose if "prototypical network" in forty.source(cell))
    mine = {"cell_type": "markdown", "metadata": {}, "source": "## My *own* words"}
    page = body(copy(small() | {"cells": [forty.stub(notebook, 1), kept, mine]}))
    assert "<math" in page or "$" in page
    assert "<strong>prototypical network</strong>" in page
    assert "## My *own* words" in page


def test_without_isolation_it_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(executed, "bubblewrap", lambda: None)
    with pytest.raises(CourseError, match="needs the isolation of bubblewrap"):
        Executor(marks.Grader(tmp_path), lambda one, name: "")
    (tmp_path / "hand-ins" / "ada").mkdir(parents=True)
    (tmp_path / "hand-ins" / "ada" / forty.NAME).write_bytes(forty.bytes_of(small()))
    answer = CliRunner().invoke(app, ["grade", str(tmp_path / "hand-ins"), "--out", str(tmp_path / "m"), "--executed"])
    assert answer.exit_code == 2
    assert not (tmp_path / "m").exists()


@WALLS
def test_the_command_writes_marks_and_copies(tmp_path):
    (tmp_path / "hand-ins" / "ada").mkdir(parents=True)
    (tmp_path / "hand-ins" / "ada" / forty.NAME).write_bytes(forty.bytes_of(small("print('all of it')")))
    call = ["grade", str(tmp_path / "hand-ins"), "--out", str(tmp_path / "marks"), "--executed", "--jobs", "1"]
    answer = CliRunner().invoke(app, call)
    assert answer.exit_code == 0, answer.output
    assert "1 executed copies" in answer.stdout
    assert "all of it" in (tmp_path / "marks" / "executed" / "ada" / "00_start_here.html").read_text(encoding="utf-8")
    assert (tmp_path / "marks" / "marks.csv").is_file()
