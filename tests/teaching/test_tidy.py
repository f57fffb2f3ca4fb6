"""Notebooks in canonical form, and golden cells."""

import json
import os
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mlcourse.errors import CourseError
from mlcourse.teaching import tidy

GOLDEN = {"tags": [tidy.GOLDEN_TAG]}


@pytest.fixture
def write(tmp_path):
    def write(*cells, name="01_x.ipynb", **metadata):
        path = tmp_path / name
        nbformat.write(new_notebook(cells=list(cells), metadata=metadata), path)
        return path

    return write


def test_tidy_formats_strips_and_is_stable(write):
    cell = new_code_cell("x = {'a':1}\nprint( x )", execution_count=7, outputs=[new_output("stream", text="{}")])
    cell.metadata = {
        "tags": ["solution", "claim"],
        "collapsed": True,
        "execution": {"a": "1"},
        "jupyter": {"source_hidden": True},
    }
    path = write(
        new_markdown_cell("# Title  \n\n"), cell, widgets={"x": 1}, mlcourse={"baseline": "y = 1"}, papermill={}
    )
    identity = cell.id
    assert tidy.check([path]) == [path]
    assert tidy.tidy_file(path) is True
    assert (tidy.tidy_file(path), tidy.check([path])) == (False, [])
    raw = path.read_text(encoding="utf-8")
    done = json.loads(raw)
    assert raw.endswith("\n}\n")
    assert done["metadata"] == {
        "kernelspec": tidy.KERNEL,
        "language_info": {"name": "python"},
        "mlcourse": {"baseline": "y = 1"},
    }
    code = done["cells"][1]
    assert "".join(code["source"]) == 'x = {"a": 1}\nprint(x)'
    assert (code["outputs"], code["execution_count"], code["id"]) == ([], None, identity)
    assert code["metadata"] == {"jupyter": {"source_hidden": True}, "tags": ["claim", "solution"]}
    assert done["cells"][0]["source"] == ["# Title"]


def test_ids_are_kept_made_where_they_lack_and_mended_where_they_repeat(write):
    path = write(new_code_cell("a = 1", id="same"), new_code_cell("b = 2", id="other"), new_markdown_cell("c"))
    raw = json.loads(path.read_text())
    raw["cells"][1]["id"] = "same"
    del raw["cells"][2]["id"]
    path.write_text(json.dumps(raw))
    tidy.tidy_file(path)
    ids = [cell["id"] for cell in json.loads(path.read_text())["cells"]]
    assert ids[0] == "same"
    assert len(set(ids)) == 3
    again = path.read_bytes()
    path.write_text(json.dumps(raw))
    tidy.tidy_file(path)
    assert path.read_bytes() == again


def test_magics_and_stubs_survive(write):
    source = '%pip install x\n!ls\n\n\ndef my_step(x):\n    """Do."""\n    ...  # your code\n    return ...'
    path = write(new_code_cell(source))
    tidy.tidy_file(path)
    text = "".join(json.loads(path.read_text())["cells"][0]["source"])
    assert text.startswith("%pip install x\n!ls\n")
    assert "return ..." in text


def test_golden_cells_keep_their_outputs_with_a_count(write):
    kept = new_code_cell("1 + 1", execution_count=9, metadata=GOLDEN)
    kept.outputs = [new_output("execute_result", {"text/plain": "2"}, execution_count=9)]
    path = write(kept, new_code_cell("3", metadata=GOLDEN))
    tidy.tidy_file(path)
    first, second = json.loads(path.read_text())["cells"]
    assert first["execution_count"] == first["outputs"][0]["execution_count"] == tidy.GOLDEN_COUNT
    assert second["execution_count"] is None  # not filled yet


def test_golden_fills_the_tagged_cells_only_and_nbval_agrees(write):
    path = write(
        new_code_cell("import os\nprint('not golden')"),
        new_code_cell("print('one')\nprint('two')\n1 + 1", metadata=GOLDEN),
        new_code_cell("print(os.environ['MLCOURSE_BUDGET'])", metadata=GOLDEN),
    )
    assert tidy.golden(path) is True
    plain, first, second = json.loads(path.read_text())["cells"]
    assert plain["outputs"] == []
    assert "".join(first["outputs"][0]["text"]) == "one\ntwo\n"
    assert first["outputs"][1]["data"]["text/plain"] == ["2"]
    assert "".join(second["outputs"][0]["text"]) == "smoke\n"
    assert tidy.check([path]) == []
    assert tidy.golden(path) is False
    assert nbval(path, MLCOURSE_BUDGET="smoke").returncode == 0
    assert nbval(path, MLCOURSE_BUDGET="lesson").returncode == 1  # this golden cell depends on the budget


def nbval(path, **variables):
    options = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=60", "-p", "no:cacheprovider", "-q"]
    command = [sys.executable, "-m", "pytest", *options, str(path)]
    return subprocess.run(command, env={**os.environ, **variables}, cwd=path.parent, capture_output=True)


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("x = 1", "shows nothing"),
        ("import sys; print('a', file=sys.stderr)", "shows stderr"),
        ("from IPython.display import Image, display\ndisplay({'image/png': 'aGk='}, raw=True)", "shows image/png"),
        ("1 / 0", "ZeroDivisionError"),
        ("import time; time.sleep(30)", "timed out"),
    ],
)
def test_golden_refuses_and_leaves_the_file_as_it_was(write, source, part):
    path = write(new_code_cell(source, metadata=GOLDEN))
    before = path.read_bytes()
    with pytest.raises(CourseError, match=part) as caught:
        tidy.golden(path, cell_seconds=2 if "sleep" in source else 60)
    assert path.read_bytes() == before
    assert "\n" not in str(caught.value)


def test_golden_leaves_what_is_saved_while_it_runs(write):
    path = write(new_code_cell("", metadata=GOLDEN))
    author = f"from pathlib import Path; me = Path({str(path)!r}); me.write_text(me.read_text() + ' ')"
    path = write(new_code_cell(f"{author}; print(1)", metadata=GOLDEN))
    before = path.read_text()
    with pytest.raises(CourseError, match="was changed while it ran"):
        tidy.golden(path)
    assert path.read_text() == before + " "


@pytest.mark.parametrize(
    ("text", "part"),
    [("{", "is not a notebook"), ("[]", "is not a notebook"), ('{"nbformat": 3, "cells": []}', "format 3, not 4")],
)
def test_files_that_are_no_notebooks_are_one_line(tmp_path, text, part):
    path = tmp_path / "x.ipynb"
    path.write_text(text)
    with pytest.raises(CourseError, match=part):
        tidy.tidy_file(path)
    assert path.read_text() == text
    with pytest.raises(CourseError, match="no notebook"):
        tidy.tidy_file(tmp_path / "y.ipynb")


def test_code_that_is_no_python_is_named(write):
    path = write(new_code_cell("def f(:"))
    with pytest.raises(CourseError, match="cannot be formatted"):
        tidy.tidy_file(path)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(16.1, "about 1 minute at"), (60, "about 1 minute at"), (132.8, "about 3 minutes at"), (None, "about 9 hours")],
)
def test_the_header_says_the_minutes_that_the_last_full_run_took(seconds, said):
    header = "# 03\n\n| | |\n|---|---|\n| **Machine** | about 9 hours; longer with photos |\n| **Papers** | x |\n"
    rows = tidy.with_measured(header, seconds).splitlines()
    assert rows[4].startswith(f"| **Machine** | {said}")
    assert rows[4].endswith("; longer with photos |")
    assert rows[:4] + rows[5:] == header.splitlines()[:4] + header.splitlines()[5:]


def test_minutes_come_from_the_record_of_the_notebook_with_this_name(write, tmp_path, monkeypatch):
    monkeypatch.setattr(tidy.places, "data", lambda: tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "lessons.json").write_text('{"01_x": {"seconds": 61.0}}', encoding="utf-8")
    for name, said in [("01_x.ipynb", "about 2 minutes at"), ("02_y.ipynb", "9 hours")]:
        path = write(new_markdown_cell("# T\n\n| **Machine** | 9 hours |"), name=name)
        tidy.tidy_file(path)
        assert f"| **Machine** | {said}" in path.read_text(encoding="utf-8")
