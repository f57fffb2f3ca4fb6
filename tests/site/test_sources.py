"""Markdown, docstrings, notebooks and pictures of the repository, as the site's sources hold them."""

import base64
import io
import json
import re
from types import SimpleNamespace

import nbformat
import pytest
from PIL import Image

from mlcourse import places
from mlcourse.errors import CourseError
from mlcourse.site import docstrings, methods, notebooks, pictures, sources
from mlcourse.site.markdown import Links, slug


@pytest.fixture
def links():
    pages = {"docs/glossary.md", "docs/teaching.md", "docs/syllabus.md", "index.md", "notebooks/00_start_here.ipynb"}
    return Links(places.repository(), pages)


@pytest.mark.parametrize(
    ("home", "before", "after"),
    [
        ("docs", "[a](glossary.md)", "[a](glossary.md)"),
        ("docs", "[a](teaching.md#plans)", "[a](teaching.md#plans)"),
        ("docs", "[a](../notebooks/00_start_here.ipynb)", "[a](../notebooks/00_start_here.ipynb)"),
        ("notebooks", "[a](glossary.md)", "[a](../docs/glossary.md)"),
        ("docs", "[a](../README.md)", "[a](../index.md)"),
        ("docs", "[a](../mlcourse)", "a"),  # a folder: on a code host it is a page, here it is not
        ("docs", "[a](../notebooks/05_meta_gradients_by_hand.ipynb)", "a"),  # not on this site
        ("docs", "[a](cheat_sheet.pdf)", "[a](cheat_sheet.pdf)"),
        ("notebooks", "[Solution](#Solution-00.1)", "[Solution](#solution-001)"),
        ("docs", "[a](https://arxiv.org/abs/1)", "[a](https://arxiv.org/abs/1)"),
        ("docs", "```sh\n[a](../mlcourse)\n```", "```sh\n[a](../mlcourse)\n```"),
    ],
)
def test_links_lead_to_pages_of_the_site(links, home, before, after):
    assert links.rewritten(before, home) == after


def test_files_that_pages_link_to_come_along(links):
    links.rewritten("[the sheet](cheat_sheet.pdf) and [data](../data/glyphs/README.md)", "docs")
    assert links.files == {"docs/cheat_sheet.pdf", "data/glyphs/README.md"}


def test_a_picture_for_light_and_dark_becomes_two(links):
    text = (
        '<picture>\n <source media="(prefers-color-scheme: dark)" srcset="docs/vision-dark.png">\n'
        ' <img alt="5 &lt; 6" src="docs/vision-light.png">\n</picture>'
    )
    made = links.rewritten(text, "")
    assert made.count(":alt: 5 < 6") == 2
    assert made.index(":class: only-light") < made.index(":class: only-dark")
    assert links.files == {"docs/vision-light.png", "docs/vision-dark.png"}


def test_anchors_are_those_of_code_hosts():
    assert slug("What a student hands in, and how it is marked") == "what-a-student-hands-in-and-how-it-is-marked"
    assert slug("Solution 00.1") == "solution-001"


def test_the_first_page_lists_every_page(links):
    made = sources.index(["00_start_here"], links)
    assert made.startswith("# Meta-learning for computer vision")
    assert "notebooks/00_start_here" in made
    assert "<!--" not in made
    assert all(f"docs/{name}" in made for name in sources.DOCS)


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ("https://example.org/one/course.git\n", "https://example.org/one/course.git"),
        ("https://me:secret@example.org/one/course\n", "https://example.org/one/course"),
        ("git@example.org:one/course.git\n", ""),
        ("/srv/course\n", ""),
        ("", ""),
    ],
)
def test_the_address_of_the_repository_is_told_where_a_reader_can_open_it(monkeypatch, links, said, known):
    answer = SimpleNamespace(stdout=said, returncode=0 if said else 2)
    monkeypatch.setattr(sources.subprocess, "run", lambda *_, **__: answer)
    assert sources.address() == known
    for page in (sources.start(links), sources.index(["00_start_here"], links)):
        assert f"git clone {known or sources.PLACEHOLDER}" in page
        assert ("The repository: [" in page) == bool(known)
        assert "secret" not in page


def test_without_git_there_is_no_address(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(sources.subprocess, "run", missing)
    assert sources.address() == ""


def test_the_syllabus_has_measured_minutes():
    made = sources.measured(["00_start_here"])
    found = re.search(r"\| \[00\]\(\.\./notebooks/00_start_here\.ipynb\) \| ([\d.]+) \| ([\d.]+) GB \|", made)
    record = json.loads((places.data() / "results" / "lessons.json").read_text(encoding="utf-8"))["00_start_here"]
    assert float(found[1]) == pytest.approx(record["seconds"] / 60, abs=0.051)
    assert float(found[2]) == pytest.approx(record["peak_mb"] / 1000, abs=0.051)
    assert "01_" not in made


# ------------------------------------------------------------------ docstrings

DOCSTRING = """Say it.

Args:
    rate, steps: of the descent,
        both above 0.
    name: a word.

Returns:
    a tensor [n].
    Always.

    x = f(y)
"""


def test_sections_become_lists():
    made = docstrings.markdown(DOCSTRING)
    assert "**Args**\n\n- `rate, steps`: of the descent, both above 0.\n- `name`: a word.\n" in made
    assert "**Returns** a tensor [n]. Always." in made
    assert "Args:" not in made


def test_addresses_become_links_and_code_stays():
    text = "A, *B*, 2017, {}.\n\n    load(https://arxiv.org/abs/2)\n\n[a](https://b.org)"
    made = docstrings.markdown(text.format("https://arxiv.org/abs/1"))
    assert made == text.format("<https://arxiv.org/abs/1>")


SOURCE = '''"""A room."""
from dataclasses import dataclass

@dataclass
class Point:
    """A point."""
    x: float
    y: float = 0.0

    def far(self, other: "Point", *, power=2) -> float:
        """How far."""

    @property
    def norm(self):
        """Its length."""

    def _hidden(self):
        """No."""

class Empty:
    def f(self):
        """A class without a docstring is not shown."""

def act(a, *b, c: int = 3) -> None:
    """Act."""

def silent(): ...
'''


def test_the_reference_is_read_from_the_source(tmp_path):
    (tmp_path / "mlcourse").mkdir()
    room = tmp_path / "mlcourse" / "room.py"
    room.write_text(SOURCE)
    made = docstrings.page("room", "What is it?", [room], tmp_path / "mlcourse")
    assert "{py:class} Point(x: float, y: float = 0.0)" in made
    assert "{py:method} far(other: 'Point', *, power=2) -> float" in made
    assert "{py:property} norm" in made
    assert "{py:function} act(a, *b, c: int=3) -> None" in made
    assert not any(name in made for name in ("_hidden", "silent", "Empty"))


def test_every_room_but_four_is_in_the_reference():
    plan = {name for name, _, _ in docstrings.rooms(places.PACKAGE)}
    there = {path.stem for path in places.PACKAGE.iterdir() if (path / "__init__.py").is_file() or path.suffix == ".py"}
    assert there - plan == {"lessons", "commands", "site", "environment", "__init__", "__main__"}


# ------------------------------------------------------------------ methods


def test_the_page_of_a_method_is_made_of_what_it_registers(links):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# 03 · Compare"), nbformat.v4.new_code_cell("PrototypicalNetwork(f)")]
    )
    page = "## Tables\n\n| rank | method |\n|---|---|\n| 3 | prototypical networks |\n\n"
    page += "**small**: nine letters (`mlcourse table small` has all columns)\n\n"
    page += "| rank | method |\n|---|---|\n| 1 | prototypical networks |\n| 2 | matching networks |\n"
    measured = methods.tables([page])
    method = methods.METHODS["prototypical"]
    made = methods.page("prototypical", method, {"03_learning_to_compare": notebook}, measured, links)
    assert method.paper.link in made
    assert "98.8 %" in made
    assert "[03 · Compare](../notebooks/03_learning_to_compare.ipynb): used in its code" in made
    assert re.search(r"\*\*Tables\*\*\n\n.*\n.*\n\| 3 \| prototypical networks \|", made)
    assert re.search(r"\*\*nine letters\*\*\n\n.*\n.*\n\| 1 \| prototypical networks \|", made)
    assert "matching networks" not in made.split("## Measured here")[1]
    assert ":pyobject: PrototypicalNetwork" in made
    assert links.files == {"mlcourse/learners/prototypical.py"}


def test_each_method_has_a_file_of_its_own():
    names = {methods.file_of(name) for name in methods.METHODS}
    assert len(names) == len(methods.METHODS)
    assert not any(set(name) & set("+ /") for name in names)


# ------------------------------------------------------------------ cells and their pictures


def png(size=(60, 40), colour=(200, 0, 0)) -> str:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "png")
    return base64.b64encode(out.getvalue()).decode()


def test_pictures_become_small_files_and_each_only_once(tmp_path):
    page = f'<img alt="a" src="data:image/png;base64,{png()}"><img src="data:image/png;base64,{png()}" alt="b">'
    made = pictures.taken_out(page, tmp_path, "../")
    files = list((tmp_path / pictures.FOLDER).iterdir())
    assert len(files) == 1
    assert made.count(f'src="../{pictures.FOLDER}/{files[0].name}" loading="lazy"') == 2
    assert Image.open(files[0]).convert("RGB").getpixel((5, 5)) == (200, 0, 0)


def test_what_moves_stays_as_it_is(tmp_path):
    out = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(out, "gif", save_all=True, append_images=frames[1:])
    name = pictures.kept(out.getvalue(), tmp_path)
    assert (tmp_path / name).read_bytes() == out.getvalue()


def test_outputs_take_one_form_and_solutions_are_folded(tmp_path, links):
    forms = {
        "image/png": png(),
        "text/plain": "Picture: x",
        "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
    }
    output = nbformat.v4.new_output("display_data", forms, metadata={"image/png": {"alt": "A < B"}})
    shown = nbformat.v4.new_code_cell("show()", outputs=[output])
    solution = nbformat.v4.new_code_cell("def solution_a(): ...", metadata={"tags": ["solution"]})
    hidden = nbformat.v4.new_code_cell("import a", metadata={"jupyter": {"source_hidden": True}})
    injected = nbformat.v4.new_code_cell("SEED = 1", metadata={"tags": ["injected-parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[shown, solution, hidden, injected], metadata={"widgets": {}})
    made = notebooks.source(notebook, tmp_path, links)
    data = made.cells[0].outputs[0].data
    assert list(data) == ["text/html"]
    assert 'alt="A &lt; B"' in data["text/html"]
    assert [cell.metadata.tags for cell in made.cells] == [[], ["hide-input"], ["hide-input"]]
    assert "widgets" not in made.metadata


@pytest.mark.parametrize("attachments", [None, {}, {"b.png": {"image/png": png()}}, {"a.png": {}}])
def test_a_picture_that_is_not_attached_is_one_line(attachments):
    more = {} if attachments is None else {"attachments": attachments}
    cell = nbformat.v4.new_markdown_cell("A sheet\n\n![A red sheet](attachment:a.png)", **more)
    with pytest.raises(CourseError, match=r"01_a shows a\.png, which is not attached to its cell \('A sheet'\)"):
        notebooks.check_attached(nbformat.v4.new_notebook(cells=[cell]), "01_a")


@pytest.mark.parametrize(
    "text",
    [
        "![A red sheet](attachment:a%20b.png)",
        "![A red sheet](<attachment:a b.png>)",
        '![A red sheet](attachment:a%20b.png "red")',
        '<img alt="A red sheet" src="attachment:a b.png">',
        "![A red sheet][1]\n\n[1]: attachment:a%20b.png",
    ],
)
def test_every_way_to_show_an_attached_picture_becomes_its_file(tmp_path, links, text):
    cell = nbformat.v4.new_markdown_cell(text, attachments={"a b.png": {"image/png": png()}})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebooks.check_attached(notebook, "01_a")
    made = notebooks.source(notebook, tmp_path, links).cells[0].source
    assert "attachment:" not in made
    assert f"/{pictures.FOLDER}/" in made
    cell = nbformat.v4.new_markdown_cell(text, attachments={"other.png": {"image/png": png()}})
    with pytest.raises(CourseError, match=r"01_a shows a b\.png"):
        notebooks.check_attached(nbformat.v4.new_notebook(cells=[cell]), "01_a")


@pytest.mark.parametrize(
    "text", ["Write `![a](attachment:a.png)`.", "```\n![a](attachment:a.png)\n```", "an attachment: a.png"]
)
def test_what_only_tells_how_a_picture_is_shown_shows_none(text):
    cell = nbformat.v4.new_markdown_cell(text)
    notebooks.check_attached(nbformat.v4.new_notebook(cells=[cell]), "01_a")


def test_attached_pictures_keep_their_text(tmp_path, links):
    cell = nbformat.v4.new_markdown_cell(
        "![A red sheet](attachment:a.png)", attachments={"a.png": {"image/png": png()}}
    )
    notebooks.check_attached(nbformat.v4.new_notebook(cells=[cell]), "01_a")
    made = notebooks.source(nbformat.v4.new_notebook(cells=[cell]), tmp_path, links)
    assert made.cells[0].source.startswith(f"![A red sheet](/{pictures.FOLDER}/")
    assert "attachments" not in made.cells[0]
