"""The glossary: one sentence per term, no term that no lesson uses, and none that a lesson introduces without it."""

import re
import shutil

import pytest
from typer.testing import CliRunner

from mlcourse import places
from mlcourse.classroom import glossary
from mlcourse.commands import app
from mlcourse.errors import CourseError
from mlcourse.learners import METHODS

ROOT = places.repository()
pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="needs a clone of the repository")

# How a lesson introduces a term: "is called *regret*", "(a *meta-batch*)", "are the *logits*".
BEFORE = r"(?:\b(?:is|are) called (?:the |an? )?|\((?:an? |the )|\bare the )"
INTRODUCED = re.compile(BEFORE + r"(?<!\*)\*{1,2}([A-Za-z][A-Za-z -]{2,40})\*{1,2}(?!\*)")
# What the pattern finds and is no term of its own, with the reason.
ORDINARY = {
    "inner": "half of a term: the outer and the inner parameters",
    "outer": "half of a term: the outer and the inner parameters",
    "weights of the examples": "says itself what it is",
}


@pytest.fixture(scope="module")
def said():
    return glossary.lessons(places.notebooks())


@pytest.fixture(scope="module")
def rows():
    return glossary.rows(ROOT / "docs" / glossary.TABLE)


def undefined(text, known):
    """The terms that a text introduces and the glossary does not have."""
    return sorted({term.lower() for term in INTRODUCED.findall(text)} - known - ORDINARY.keys())


def test_the_pages_are_of_today():
    for place, text in glossary.pages(places.notebooks()):
        assert place.read_text(encoding="utf-8") == text, "run mlcourse tidy"


def test_each_notebook_links_the_page_beside_it(said):
    assert (places.notebooks() / glossary.NAME) in dict(glossary.pages(places.notebooks()))
    for path, text in said.items():
        link = "[glossary](glossary.md)"
        assert "](glossary.md)" in text, f"{path.name} has no link to the glossary: write {link} under References"


def test_tidy_writes_both_pages_and_a_check_finds_either_stale(tmp_path, monkeypatch):
    folder, docs = tmp_path / "notebooks", tmp_path / "docs"
    for one in (folder, docs):
        one.mkdir()
    for path in [*places.notebooks().glob("00_*.ipynb"), places.notebooks() / "README.md"]:
        shutil.copy(path, folder / path.name)
    shutil.copy(ROOT / "docs" / glossary.TABLE, docs)
    monkeypatch.setattr(places, "notebooks", lambda: folder)
    assert "the glossary is new" in CliRunner().invoke(app, ["tidy"]).output
    assert CliRunner().invoke(app, ["tidy", "--check"]).exit_code == 0
    assert "](../notebooks/00_start_here.ipynb)" in (docs / glossary.NAME).read_text(encoding="utf-8")
    assert "](00_start_here.ipynb)" in (folder / glossary.NAME).read_text(encoding="utf-8")
    for page in (docs / glossary.NAME, folder / glossary.NAME):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace("[00]", "[04]", 1), encoding="utf-8")
        answer = CliRunner().invoke(app, ["tidy", "--check"])
        assert answer.exit_code == 1
        assert answer.output == "the glossary is not of today. Run: mlcourse tidy\n"
        page.write_text(text, encoding="utf-8")


BAD = {
    "a row without its sentence": ("- {term: way, zh: x}", "a row has term, zh and say"),
    "a field too many": ("- {term: way, zh: x, say: Y., note: z}", "a row has term, zh and say"),
    "no row": ("- way", "a row has term, zh and say"),
    "nothing": ("", "holds no rows"),
    "no list": ("a: b", "holds no rows"),
    "no YAML": ("- {term: [", "is no YAML"),
    "a number": ("- {term: 5, zh: x, say: Y.}", "5 stands in no cell"),
    "a word that YAML takes for false": ("- {term: no, zh: x, say: Y.}", "False stands in no cell"),
    "a text for a list": ("- {term: way, zh: x, say: Y., forms: ways}", "forms is 'ways'"),
    "another column": ("- {term: way, zh: x, say: a|b}", "'a|b' stands in no cell"),
    "another line": ('- {term: way, zh: x, say: "a\\nb"}', "stands in no cell"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_one_clear_line(tmp_path, case):
    text, said = BAD[case]
    table = tmp_path / "table.yaml"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(CourseError, match=re.escape(said)) as error:
        glossary.rows(table)
    assert str(table) in str(error.value)
    assert "\n" not in str(error.value)


def test_each_term_stands_once_in_one_short_sentence_and_is_used(said, rows):
    seen = set()
    for row in rows:
        assert glossary.first_use(row, said), f"no lesson says {row['term']}"
        assert len(row["say"].split()) <= 30, row["term"]
        assert row["say"].endswith("."), row["term"]
        for name in glossary.names(row):
            assert name.lower() not in seen, f"{name} stands twice"
            seen.add(name.lower())


def test_what_a_lesson_introduces_stands_in_the_glossary(said, rows):
    known = {name.lower() for row in rows for name in glossary.names(row)}
    for path, text in said.items():
        missing = undefined(text, known)
        assert not missing, f"{path.name} introduces {missing}: write a row for each in docs/glossary.yaml"


def test_the_search_finds_introduced_terms(said):
    introduced = [term.lower() for text in said.values() for term in INTRODUCED.findall(text)]
    assert len(introduced) >= 15
    assert {"regret", "meta-batch", "forest plot", "unrolled", "hypergradient"} <= set(introduced)
    assert undefined("Such a gap is called the *wobble* of a net.", {"regret"}) == ["wobble"]


def test_families_of_methods_are_explained(rows):
    known = {name.lower() for row in rows for name in glossary.names(row)}
    titles = {about.title.split(",")[0].split(" (")[0].lower() for about in METHODS.values()}
    for title in ("prototypical networks", "matching networks", "hypernetwork", "feature-wise modulation"):
        assert title in titles
        assert title in known
