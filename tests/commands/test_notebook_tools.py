"""`mlcourse tidy` and `mlcourse golden` as commands."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from typer.testing import CliRunner

from mlcourse.commands import app


@pytest.fixture
def path(tmp_path):
    cells = [
        new_markdown_cell("# 01 · Small"),
        new_code_cell("print( 1+1 )", metadata={"tags": ["nbval-check-output"]}),
    ]
    path = tmp_path / "01_small.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def mlcourse(*arguments):
    return CliRunner().invoke(app, [str(word) for word in arguments])


def test_check_changes_nothing_and_names_the_notebook(path):
    before = path.read_bytes()
    answer = mlcourse("tidy", "--check", path)
    assert answer.exit_code == 1
    assert "01_small. Run: mlcourse tidy" in answer.output
    assert path.read_bytes() == before


def test_tidy_then_check(path):
    assert "1 of 1 notebooks changed: 01_small" in mlcourse("tidy", path).output
    assert "0 of 1" in mlcourse("tidy", path).output
    assert mlcourse("tidy", "--check", path).exit_code == 0


def test_golden_fills_and_is_tidy(path):
    assert "changed" in mlcourse("golden", path).output
    cell = nbformat.read(path, as_version=4).cells[1]
    assert cell.outputs[0].text == "2\n"
    assert cell.source == "print(1 + 1)"
    assert mlcourse("tidy", "--check", path).exit_code == 0
    assert "as before" in mlcourse("golden", path).output


def test_damaged_notebook_is_one_line(tmp_path):
    (tmp_path / "01_bad.ipynb").write_text("{")
    for verb in ("tidy", "golden"):
        answer = mlcourse(verb, tmp_path / "01_bad.ipynb")
        assert answer.exit_code == 2
        assert len(answer.stderr.splitlines()) == 1
