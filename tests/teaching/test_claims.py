"""The table of claims: what it takes from a notebook, from a run, and what it does without one."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mlcourse.errors import CourseError
from mlcourse.teaching import claims

SAID = {"says": "it helps", "method": "ours", "rival": "theirs | tuned", "tuned": "five rates"}


def notebook(source="print(1)"):
    metadata = {"tags": ["claim"], "mlcourse": {"claim": SAID}}
    return new_notebook(cells=[new_markdown_cell("# 07"), new_code_cell(source, metadata=metadata)])


def executed(printed):
    ran = notebook()
    ran.cells[1].outputs = [
        new_output("stream", text=printed),
        new_output("stream", name="stderr", text="a warning"),
        new_output("display_data", data={"text/plain": "a picture"}),
    ]
    return ran


def test_a_row_says_what_the_run_printed():
    kept = {"07_x": {"claim": claims.record(notebook(), executed("a minus b: +1 | 2\nClaim holds.\n"))}}
    row = claims.table({"07_x": notebook()}, kept).splitlines()[2]
    assert row == (
        "| [07](07_x.ipynb) | it helps | ours | theirs \\| tuned | five rates | a minus b: +1 \\| 2<br>Claim holds. |"
    )


def test_other_code_or_no_run_is_not_run():
    kept = {"07_x": {"claim": claims.record(notebook(), executed("yes"))}}
    for there, recorded in ((notebook("print(2)"), kept), (notebook(), {}), (notebook(), {"07_x": {"seconds": 1}})):
        assert claims.table({"07_x": there}, recorded).endswith("| not run |")


def test_the_page_keeps_what_stands_around_the_table(tmp_path):
    nbformat.write(notebook(), tmp_path / "07_x.ipynb")
    nbformat.write(new_notebook(cells=[new_markdown_cell("no claim")]), tmp_path / "08_x.ipynb")
    (tmp_path / "results").mkdir()
    kept = {"07_x": {"claim": claims.record(notebook(), executed("yes"))}}
    (tmp_path / "results" / "lessons.json").write_text(json.dumps(kept), encoding="utf-8")
    (tmp_path / "README.md").write_text(f"before\n{claims.BEGIN}\nold\n{claims.END}\nafter\n", encoding="utf-8")
    place, text = claims.page(tmp_path, tmp_path)
    assert place == tmp_path / "README.md"
    assert text.startswith(f"before\n{claims.BEGIN}\n\n| notebook |")
    assert text.endswith(f"| yes |\n\n{claims.END}\nafter\n")
    place.write_text(text, encoding="utf-8")
    assert claims.page(tmp_path, tmp_path)[1] == text


@pytest.mark.parametrize(("page", "part"), [(None, "no file"), ("x", "claims: begin"), (claims.BEGIN, "claims: end")])
def test_a_page_that_is_not_there_or_has_no_mark_is_one_line(tmp_path, page, part):
    if page is not None:
        (tmp_path / "README.md").write_text(page, encoding="utf-8")
    with pytest.raises(CourseError, match=part):
        claims.page(tmp_path, tmp_path)


def test_code_beside_a_docstring_is_code():
    one_line = 'class Ä: """Ö"""; x = 1\ndef f(): "say"; return 1\ndef g():\n    """Say\n    more."""; return 2'
    kept = claims.without_comments(one_line)
    assert kept == "class Ä: ; x = 1\ndef f(): ; return 1\ndef g():\n    ; return 2"
    for other in (one_line.replace("x = 1", "x = 3"), one_line.replace("return 2", "return 3")):
        assert claims.without_comments(other) != kept
    assert claims.without_comments(one_line.replace("Ö", "other").replace("say", "more")) == kept
    assert claims.without_comments('def f():\n    """"""\n    return 1') == "def f():\n    return 1"


@pytest.mark.parametrize("magic", ["%matplotlib inline\n", "%%time\n", "!ls\n", "print?\n", "x = %pwd\n"])
def test_a_cell_with_a_magic_has_a_mark(magic):
    kept = {"07_x": {"claim": claims.record(notebook(magic + "print(1)"), executed("yes"))}}
    assert claims.table({"07_x": notebook(magic + "print(1)")}, kept).endswith("| yes |")
    assert claims.table({"07_x": notebook(magic + "print(2)")}, kept).endswith("| not run |")


def test_a_cell_that_is_no_code_at_all_is_one_line():
    with pytest.raises(CourseError, match=r"not Python .*print\(1"):
        claims.record(notebook("print(1"), executed("yes"))
