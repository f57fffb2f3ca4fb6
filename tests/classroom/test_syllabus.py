"""The syllabus is of today, and has each notebook with what it promises and what to read."""

import re
import shutil

import nbformat
import pytest

from mlcourse import places
from mlcourse.classroom import handout, syllabus
from mlcourse.teaching import finish

DOCS = places.repository() / "docs"
pytestmark = pytest.mark.skipif(not (DOCS / syllabus.NAME).is_file(), reason="needs a clone of the repository")


@pytest.fixture(scope="module")
def text():
    place, made = syllabus.page(places.notebooks())
    assert place == DOCS / syllabus.NAME
    return made


def test_it_is_of_today(text):
    assert (DOCS / syllabus.NAME).read_text(encoding="utf-8") == text, "call `mlcourse tidy`"


def test_each_notebook_has_a_section_with_objectives_and_reading(text):
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    of_notebook = {found[1]: one for one in sections if (found := re.match(r"\[(\d\d) · ", one))}
    paths = sorted(places.notebooks().glob("*.ipynb"))
    assert list(of_notebook) == [path.name[:2] for path in paths]
    for path in paths:
        section = of_notebook[path.name[:2]]
        assert f"](../notebooks/{path.name})" in section
        for row in ("You will", "Builds on", "Minutes"):
            assert re.search(rf"^\| \*\*{row}\*\* \| \S", section, re.MULTILINE), f"{path.name}: {row}"
        cells = nbformat.read(path, as_version=4).cells
        text_of = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        (listed,) = re.findall(r"^##+ .*references.*$([^#]*)", text_of, re.MULTILINE | re.IGNORECASE)
        links = re.findall(r"<(https?://[^>]+)>", listed)
        assert links
        assert [link for link in links if link not in section] == [], path.name


def test_it_names_each_track(text):
    assert len(handout.tracks()) == len(finish.named_tracks()) >= 3
    for name, numbers in finish.named_tracks().items():
        assert f"- **{name}**: {' '.join(numbers)}" in text


def test_without_the_page_there_is_none_to_write(tmp_path):
    (tmp_path / "notebooks").mkdir()
    assert syllabus.page(tmp_path / "notebooks") is None


def test_a_new_notebook_joins(tmp_path):
    shutil.copytree(places.notebooks(), tmp_path / "notebooks")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / syllabus.NAME).write_text("", encoding="utf-8")
    head = "# 99 · Something new\n\n**You will see.**\n\n| | |\n|---|---|\n| **Objectives** | see |\n"
    more = "### References\n\n- A. One: *Two*, 2020.\n  <https://example.org/a>\n- [glossary](glossary.md)\n"
    cells = [nbformat.v4.new_markdown_cell(part) for part in (head, more)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "99_new.ipynb")
    _, made = syllabus.page(tmp_path / "notebooks")
    last = made.split("## [99")[1]
    assert "You will see." in last
    assert "- A. One: *Two*, 2020. <https://example.org/a>" in last
    assert "glossary.md" not in last
