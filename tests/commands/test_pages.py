"""The web page of an executed notebook needs no network, and folds what the notebook folds."""

import base64
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from mlcourse import places
from mlcourse.commands import pages

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(30)).decode()
needs_library = pytest.mark.skipif(pages.convert is None, reason="latex2mathml is not installed: run make env")


def page_of(folder, *cells):
    path = folder / "01_small.ipynb"
    nbformat.write(new_notebook(cells=list(cells)), path)
    target = pages.write_html(path)
    assert target == folder / "01_small.html"
    return target.read_text(encoding="utf-8")


def fetched(page):
    """What a browser would fetch for the page: programs, styles, pictures."""
    found = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"([^\"]*)\"|<link[^>]*\shref=\"([^\"]*)\"", page)
    found += re.findall(r"url\(\s*['\"]?(https?:)()|from\s+['\"](https?:)", page)
    return [one for pair in found for one in pair if one and not one.startswith("data:")]


@needs_library
def test_the_page_fetches_nothing(tmp_path):
    page = page_of(tmp_path, new_markdown_cell(r"$$\alpha \le 2$$ and $x_i$"), new_code_cell("1"))
    assert fetched(page) == []
    assert "<script" not in page
    assert page.count("<math") == 2
    assert "<title>01_small</title>" in page


def test_without_the_library_formulas_are_drawn_with_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "convert", None)
    page = page_of(tmp_path, new_markdown_cell(r"$\alpha$"))
    assert r"$\alpha$" in page
    assert all("mathjax" in address.lower() for address in fetched(page))


@needs_library
@pytest.mark.parametrize(
    ("formula", "parts"),
    [
        (r"\arg\min_\varphi f", ["arg", "min"]),
        (r"\arg x", ["arg"]),
        (r"\mathcal{L}_{\text{outer}}", ["outer"]),
        (r"a < b \& c > d", ["&#x0003C;", "&#x0003E;"]),
        (r"\begin{aligned} a &= b \\ c &= d \end{aligned}", ["mtable"]),
    ],
)
def test_formulas(formula, parts):
    made = pages.mathml(formula, "block")
    assert made.startswith("<math")
    assert 'display="block"' in made
    assert all(part in made for part in parts)
    assert "\\" not in made


@pytest.mark.parametrize(
    "formula",
    [
        r"\unheardof{x}",
        r"\arg \unheardof{x}",
        r"\frac{1",
        r"a < b \nothing & c",
        "}",
        r"\begin{x}",
        r"\begin{gathered} a & b \end{gathered}",
    ],
)
def test_a_formula_that_is_not_understood_is_shown_as_it_was_typed(formula):
    made = pages.mathml(formula, "inline")
    if not made.startswith("<math"):
        assert made == f"<code>{formula.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')}</code>"
    assert "\\" not in made or made.startswith("<code>")


@needs_library
def test_every_formula_of_the_course_is_understood(tmp_path):
    count = 0
    for path in sorted(places.notebooks().glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
        page = page_of(tmp_path, *prose)
        count += page.count("<math")
        assert not re.search(r"<code>[^<]*\\[a-zA-Z]", page), path.name
        assert not re.search(r"\$[^$<>]{1,60}\\[a-zA-Z]+[^$<>]{0,60}\$", page), path.name
    assert count > 500


def test_what_the_notebook_folds_is_folded(tmp_path):
    cells = [new_code_cell("shown = 1"), new_code_cell("folded = 2", metadata={"jupyter": {"source_hidden": True}})]
    page = page_of(tmp_path, *cells)
    assert page.count("<details>") == 1
    before, inside = page.split("<details>")
    assert "shown" in before
    assert "folded" in inside.split("</details>")[0]


def test_pictures_of_text_and_of_outputs_are_inside(tmp_path):
    text = new_markdown_cell("![a picture](attachment:a.png)", attachments={"a.png": {"image/png": PIXEL}})
    code = new_code_cell("1", outputs=[new_output("display_data", {"image/png": PIXEL, "text/plain": "a"})])
    page = page_of(tmp_path, text, code)
    assert page.count(f"base64,{PIXEL}") == 2
    assert 'alt="a picture"' in page
