"""`mlcourse slides`: nbconvert's slides of a notebook, without a network."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from typer.testing import CliRunner

from mlcourse import files, places
from mlcourse.commands import app, pages, slides

needs_library = pytest.mark.skipif(pages.convert is None, reason="latex2mathml is not installed: run make env")
PICTURE = new_output("display_data", {"image/png": "aGVsbG8=", "text/plain": "a picture"})


def kinds(*cells):
    arranged = slides.arranged(new_notebook(cells=list(cells)))
    return [(cell.metadata["slideshow"]["slide_type"], cell.source.split("\n")[0]) for cell in arranged.cells]


def mlcourse(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_headings_prose_guesses_and_results_begin_slides():
    cells = [
        new_markdown_cell("# 01 · A\n\n<details><summary>In class: 60 minutes</summary>secret</details>"),
        new_code_cell("SEED = 0", metadata={"tags": ["parameters"]}),
        new_code_cell("try:\n    import x\nexcept ModuleNotFoundError as missing:\n    raise"),
        new_markdown_cell("The end of a section.\n\n## 1 · A section\n\nIts text.\n\n### A part"),
        new_code_cell("first = 1"),
        new_code_cell("lesson.predict('How much?', choices=['a', 'b'], key='01.p1')"),
        new_code_cell("lesson.reveal('01.p1', 'a')", outputs=[PICTURE]),
        new_code_cell("then = 2"),
        new_code_cell(" "),
        new_markdown_cell("### Solution 01.1"),
        new_code_cell("def solution_a(): pass", metadata={"tags": ["solution"]}),
        new_code_cell("session.end()"),
    ]
    assert kinds(*cells) == [
        ("slide", "# 01 · A"),
        ("subslide", "The end of a section."),
        ("slide", "## 1 · A section"),
        ("subslide", "### A part"),
        ("-", "first = 1"),
        ("-", "lesson.predict('How much?', choices=['a', 'b'], key='01.p1')"),
        ("subslide", "lesson.reveal('01.p1', 'a')"),
        ("subslide", "then = 2"),
    ]


def test_what_a_teacher_says_in_the_notebook_goes_before_the_rules():
    cells = [
        new_markdown_cell("# 01"),
        new_markdown_cell("more", metadata={"slideshow": {"slide_type": "-"}}),
        new_code_cell("1", metadata={"slideshow": {"slide_type": "slide"}}),
        new_code_cell("2", metadata={"slideshow": {"slide_type": "skip"}}),
    ]
    assert [kind for kind, _ in kinds(*cells)] == ["slide", "-", "slide", "skip"]
    page = slides.page(new_notebook(cells=[*cells, new_markdown_cell("the end")]), "01")
    assert page.count("<section") == 5  # two slides with one below each, and the end below the second
    assert ">2<" not in page


@needs_library
@pytest.mark.parametrize("number", ["05"])
def test_the_slides_of_a_notebook_need_no_network(number, tmp_path):
    (path,) = places.notebooks().glob(f"{number}_*.ipynb")
    notebook = files.read_notebook(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        cell.outputs = cell.outputs or [PICTURE]
    page = slides.page(notebook, path.stem)
    fetched = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"([^\"]*)\"|<link[^>]*\shref=\"([^\"]*)\"", page)
    assert [one for pair in fetched for one in pair if one and not one.startswith("data:")] == []
    assert not re.search(r"url\(\s*['\"]?https?:|from\s+['\"]https?:|@import", page)
    assert page.count("<math") > 50
    assert page.count("aGVsbG8=") > 20
    assert page.count("<section") == page.count("</section>") > 40
    assert "solution_" not in page
    assert "#Solution" not in page
    assert "In class:" not in page
    assert "ModuleNotFoundError" not in page
    for section in (cell.source for cell in notebook.cells if cell.cell_type == "markdown"):
        for heading in re.findall(r"^## (\d+ · [A-Z]\w+)", section, re.MULTILINE):
            assert heading in page


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """A small notebook in a folder of its own, and a run of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path / "work"))
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(places, "notebooks", lambda: tmp_path / "notebooks")
    cells = [new_markdown_cell("# 01 · Small"), new_code_cell("1 + 1")]
    path = tmp_path / "notebooks" / "01_small.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    run = new_notebook(cells=[cells[0], new_code_cell("SEED = 3", metadata={"tags": ["injected-parameters"]})])
    run.cells.append(new_code_cell("1 + 1", outputs=[PICTURE]))

    def execute():
        (tmp_path / "runs" / "notebooks").mkdir(parents=True)
        nbformat.write(run, tmp_path / "runs" / "notebooks" / path.name)

    return path, execute


def test_the_pictures_are_those_of_the_last_run(lesson, tmp_path):
    path, execute = lesson
    target = tmp_path / "runs" / "slides" / "01_small.slides.html"
    answer = mlcourse("slides", 1)
    assert answer.exit_code == 0, answer.output
    assert "call `mlcourse run` for it first" in answer.stderr
    assert "aGVsbG8=" not in target.read_text(encoding="utf-8")
    execute()
    answer = mlcourse("slides", 1)
    assert (answer.exit_code, answer.stderr) == (0, "")
    assert "aGVsbG8=" in target.read_text(encoding="utf-8")
    notebook = files.read_notebook(path)
    notebook.cells[1].source = "1 + 2"
    nbformat.write(notebook, path)
    assert "was run from another version of 01_small" in mlcourse("slides", 1).stderr
    notebook.cells[1].outputs = [PICTURE]  # a copy that was run in JupyterLab
    nbformat.write(notebook, tmp_path / "mine.ipynb")
    answer = mlcourse("slides", "mine.ipynb", "--out", "elsewhere")
    assert (answer.exit_code, answer.stderr) == (0, "")
    assert "aGVsbG8=" in (tmp_path / "elsewhere" / "mine.slides.html").read_text(encoding="utf-8")


def test_no_file_of_somebody_else_is_overwritten(lesson, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "01_small.slides.html").write_text("mine")
    answer = mlcourse("slides", 1, "--out", "out")
    assert answer.exit_code == 2
    assert "is not overwritten" in answer.stderr
    assert (tmp_path / "out" / "01_small.slides.html").read_text() == "mine"


def test_two_notebooks_of_one_name_do_not_become_one_file(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        nbformat.write(new_notebook(cells=[new_markdown_cell(f"# {folder}")]), tmp_path / folder / "x.ipynb")
    done = mlcourse("slides", tmp_path / "a" / "x.ipynb", tmp_path / "b" / "x.ipynb", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "would both become x.slides.html" in done.output
    assert not (tmp_path / "out").exists()
