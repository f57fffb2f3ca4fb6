"""The minutes that a person needs: each part of the sum, what is core and what is stretch, and the header."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mlcourse.teaching import minutes, tidy

HEADER = """# 07 · A lesson

| | |
|---|---|
| **Objectives** | words that stand in the table and are not counted |
| **Reading** | 5 minutes (estimated) |
| **Core exercises** | 10 minutes |
| **Stretch exercises** | none |
| **Papers** | none |
"""


def text(source, *tags):
    return new_markdown_cell(source, metadata={"tags": list(tags)} if tags else {})


def code(source, *tags):
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def estimate(*cells):
    return minutes.estimate(new_notebook(cells=[text("# 07"), *cells]))


NOTHING = estimate()[0].reading  # the two words of the title


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (text("word " * 130), 1.0),
        (text("[a](https://example.org/a/long/address) " + "word " * 129), 1.0),
        (text("<details><summary>A hint</summary>\n\n" + "word " * 130 + "</details>"), 0.0),
        (text("## References\n\n" + "word " * 130), 0.0),
        (code("x = 1\n\n" * 40), 1.0),
        (code("x = 1\n" * 40, "parameters"), 0.0),
        (code("x = 1\n" * 40, "solution"), 0.0),
        (code("raise SystemExit\n" * 39 + "ModuleNotFoundError"), 0.0),
        (code("figures.show(fig, alt=alt)"), 1 / 40 + 0.75),
        (code("widgets.explore(draw, alt=alt)"), 1 / 40 + 1.5),
        (code('lesson.predict("?", choices=["a", "b"])'), 1 / 40 + 0.5),
        (code("learner.predict(state, query_x)"), 1 / 40),
        (code("print(inspect.getsource(f))"), 21 / 40),
        (code("%pip install x"), 1 / 40),
    ],
)
def test_each_part_of_the_sum(cell, expected):
    core, stretch = estimate(cell)
    assert core.reading - NOTHING == pytest.approx(expected)
    assert stretch.total == 0


def test_solutions_end_the_count():
    assert estimate(text("## Solutions"), text("word " * 130), code("x = 1"))[0].reading == NOTHING


def test_tagged_cells_and_stretch_exercises_are_stretch():
    easy = text("### Exercise 07.1: one (core, difficulty 1 of 5, 8 min)\n\n" + "word " * 130)
    hard = text("word " * 130 + "\n### Exercise 07.2: two (stretch, difficulty 3 of 5, 12 min)\n\n" + "word " * 260)
    detour = text("## Stretch: a detour\n\n" + "word " * 260, "stretch")
    stub = code("def my_two():\n    return ...", "exercise:07.2")
    core, stretch = estimate(
        easy, code("x = 1", "exercise:07.1"), hard, stub, detour, code("figures.show()", "stretch")
    )
    assert (core.exercises, stretch.exercises) == ({"07.1": 8}, {"07.2": 12})
    assert core.total == pytest.approx(8 + 2, abs=0.3)
    assert stretch.total == pytest.approx(12 + 4 + 0.75, abs=0.3)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (minutes.Minutes(), "0 minutes (estimated)"),
        (minutes.Minutes(1.0), "5 minutes (estimated)"),
        (minutes.Minutes(42.0, {"07.2": 8, "07.1": 7}), "55 minutes (estimated), 15 of them for exercises 07.1, 07.2"),
    ],
)
def test_how_minutes_are_said(part, said):
    assert str(part) == said


def test_tidy_writes_the_rows_of_the_header_and_a_second_time_changes_nothing(tmp_path):
    path = tmp_path / "07_x.ipynb"
    cells = [text(HEADER), text("## Exercise 07.1: one (core, difficulty 1, 8 min)\n\n" + "word " * 1300)]
    nbformat.write(new_notebook(cells=cells), path)
    assert tidy.tidy_file(path) is True
    written = nbformat.read(path, as_version=4).cells[0].source
    assert "| **Core** | 20 minutes (estimated), 8 of them for exercise 07.1 |\n| **Stretch** | 0 minutes" in written
    assert "Reading" not in written
    assert written.count("\n| ") == 4 + 1  # four rows below the table's first line
    assert tidy.check([path]) == []


def test_a_core_of_more_than_an_hour_is_told(tmp_path):
    path = tmp_path / "07_x.ipynb"
    for words, complaints in ((130 * 59, 0), (130 * 61, 1)):
        nbformat.write(new_notebook(cells=[text(HEADER), text("word " * words)]), path)
        assert len(tidy.too_long([path])) == complaints
    assert "07_x: the core takes 61" in tidy.too_long([path])[0]
