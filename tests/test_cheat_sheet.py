"""The cheat sheet: it holds the glossary's symbols, each formula is one, and two runs give the same file."""

import re

import pytest
import yaml
from matplotlib.mathtext import MathTextParser
from programs import program

from mlcourse import places

ROOT = places.repository()
pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="needs a clone of the repository")


@pytest.fixture(scope="module")
def maker():
    return program("docs/make_cheat_sheet.py")


def words(fig):
    """All texts of the page, with the formulas' own markup."""
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def test_each_symbol_of_the_glossary_stands_on_the_page(maker):
    terms = yaml.safe_load(maker.GLOSSARY.read_text(encoding="utf-8"))
    known = {(row["symbol"], row["term"]) for row in terms if "symbol" in row}
    rows = maker.table()
    assert known <= {(row["symbol"], row["says"]) for row in rows["symbols"]}
    said = words(maker.sheet(rows))
    assert len(known) > 15
    for symbol, term in known:
        assert term in said
        assert symbol in said or symbol.split("_")[0] in "".join(said)


def test_what_the_page_adds_has_no_row_in_the_glossary(maker):
    own = yaml.safe_load(maker.TABLE.read_text(encoding="utf-8"))["symbols"]
    of_glossary = {row.get("symbol") for row in yaml.safe_load(maker.GLOSSARY.read_text(encoding="utf-8"))}
    assert [row["symbol"] for row in own if row["symbol"] in of_glossary] == []


def test_each_formula_can_be_set_and_its_notebook_is_there(maker):
    there = {path.name[:2] for path in (ROOT / "notebooks").glob("*.ipynb")}
    for row in maker.table()["formulas"]:
        assert row["in"] in there, row["name"]
        MathTextParser("agg").parse(row["formula"])


def test_nothing_on_the_page_lies_on_something_else(maker):
    fig = maker.sheet(maker.table())
    fig.canvas.draw()
    for ax in fig.axes:
        boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
        for k, one in enumerate(boxes):
            assert not any(one.shrunk(0.98, 0.7).overlaps(other.shrunk(0.98, 0.7)) for other in boxes[:k]), ax.texts[k]


@pytest.mark.parametrize("kind", ["pdf", "png"])
def test_two_runs_give_the_same_bytes_and_the_stored_page_is_of_this_table(maker, kind):
    made = maker.drawn(kind)
    assert made == maker.drawn(kind)
    kept = maker.PAGES[kind].read_bytes()
    digest = maker.digest(maker.table()).encode()
    assert digest in made
    assert digest in kept, "run python docs/make_cheat_sheet.py"
    assert not re.search(rb"CreationDate|/ModDate", kept)


def test_a_row_with_another_field_is_an_error(maker, monkeypatch, tmp_path):
    table = tmp_path / "cheat_sheet.yaml"
    table.write_text("symbols: [{symbol: x, means: y}]\nshapes: []\nformulas: []\n", encoding="utf-8")
    monkeypatch.setattr(maker, "TABLE", table)
    with pytest.raises(ValueError, match="other fields than says, symbol"):
        maker.table()
