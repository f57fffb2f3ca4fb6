"""`mlcourse tidy` and `mlcourse golden` as commands."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from typer.testing import CliRunner

from mlcourse import places
from mlcourse.commands import app
from mlcourse.teaching import claims


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


def test_without_names_the_table_of_claims_is_written(path, monkeypatch):
    monkeypatch.setattr(places, "notebooks", lambda: path.parent)
    notebook = nbformat.read(path, as_version=4)
    said = {"says": "it is two", "method": "adding", "rival": "guessing", "tuned": "nothing"}
    notebook.cells.append(new_code_cell("assert 1", metadata={"tags": ["claim"], "mlcourse": {"claim": said}}))
    nbformat.write(notebook, path)
    page = path.parent / "README.md"
    page.write_text(f"{claims.BEGIN}\n{claims.END}\n", encoding="utf-8")
    assert "1 of 1 notebooks changed: 01_small; the table of claims is new" in mlcourse("tidy").output
    assert "| it is two | adding | guessing | nothing | not run |" in page.read_text(encoding="utf-8")
    assert mlcourse("tidy", "--check").exit_code == 0
    page.write_text(page.read_text(encoding="utf-8").replace("adding", "counting"), encoding="utf-8")
    answer = mlcourse("tidy", "--check")
    assert answer.exit_code == 1
    assert "the table of claims is not of today. Run: mlcourse tidy" in answer.output


def test_a_core_of_more_than_an_hour_is_a_fault(path):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(new_markdown_cell("word " * 130 * 61))
    nbformat.write(notebook, path)
    for options in ((), ("--check",)):
        answer = mlcourse("tidy", *options, path)
        assert answer.exit_code == 1
        assert "01_small: the core takes 61" in answer.output
