"""Executed notebooks are kept by the fingerprint of what they depend on; one that fails is one line, and not kept."""

from types import SimpleNamespace

import nbformat
import pytest

from mlcourse.errors import CourseError
from mlcourse.site import executed as room
from mlcourse.site.executed import executed
from mlcourse.teaching.stacks import VARIABLE


@pytest.fixture
def runs(monkeypatch):
    """Every run of a notebook, in place of a kernel: each code cell prints its number."""
    import os

    made, faults = [], []

    def execute(path, place, *, budget, **_):
        made.append((path.name, budget, os.environ.get(VARIABLE)))
        notebook = nbformat.read(path, as_version=4)
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                cell.outputs = [nbformat.v4.new_output("stream", text=f"cell {number}, run {len(made)}")]
        notebook.metadata["widgets"] = {"state": {}}
        nbformat.write(notebook, place)
        return SimpleNamespace(error=faults[0] if faults else "")

    monkeypatch.setattr(room, "execute", execute)
    made_of = SimpleNamespace(made=made, faults=faults)
    return made_of


@pytest.fixture
def path(tmp_path):
    cells = [nbformat.v4.new_markdown_cell("# A"), nbformat.v4.new_code_cell("x = 1")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbformat.write(notebook, tmp_path / "a.ipynb")
    return tmp_path / "a.ipynb"


def change(path, place, source):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[place].source = source
    nbformat.write(notebook, path)


def test_it_runs_once_and_again_when_code_or_budget_change(path, tmp_path, runs):
    first, fresh = executed(path, "smoke", tmp_path / "cache")
    assert fresh
    assert first.cells[1].outputs[0].text == "cell 1, run 1"
    assert "widgets" not in first.metadata
    assert runs.made == [("a.ipynb", "smoke", "1")]  # the site's own pictures are asked for
    assert not executed(path, "smoke", tmp_path / "cache")[1]
    change(path, 1, "x = 2")
    assert executed(path, "smoke", tmp_path / "cache")[1]
    assert executed(path, "lesson", tmp_path / "cache")[1]
    assert len(runs.made) == 3


def test_prose_and_comments_of_today_stand_beside_the_results(path, tmp_path, runs):
    executed(path, "smoke", tmp_path / "cache")
    change(path, 0, "# B")
    change(path, 1, "x = 1  # why")
    notebook, fresh = executed(path, "smoke", tmp_path / "cache")
    assert not fresh
    assert [cell.source for cell in notebook.cells] == ["# B", "x = 1  # why"]
    assert notebook.cells[1].outputs[0].text == "cell 1, run 1"


def test_a_damaged_file_in_the_cache_is_made_anew(path, tmp_path, runs):
    executed(path, "smoke", tmp_path / "cache")
    kept = tmp_path / "cache" / "smoke" / "a.ipynb"
    kept.write_text(kept.read_text()[:100])
    assert executed(path, "smoke", tmp_path / "cache")[1]


def test_a_cell_that_fails_is_one_line_and_nothing_is_kept(path, tmp_path, runs):
    runs.faults.append("cell 1: ZeroDivisionError: division by zero")
    with pytest.raises(CourseError, match="a failed, so there is no page of it: cell 1: ZeroDivisionError"):
        executed(path, "smoke", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    runs.faults.clear()
    assert executed(path, "smoke", tmp_path / "cache")[1]
