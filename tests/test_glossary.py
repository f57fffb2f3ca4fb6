"""The glossary: one sentence per term, no term that no lesson uses, and none that a lesson introduces without it."""

import re

import pytest
from programs import program

from mlcourse import places
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
def maker():
    return program("docs/make_glossary.py")


def undefined(text, known):
    """The terms that a text introduces and the glossary does not have."""
    return sorted({term.lower() for term in INTRODUCED.findall(text)} - known - ORDINARY.keys())


def test_the_page_is_made_from_the_table(maker):
    for place, folder in maker.PAGES.items():
        assert place.read_text(encoding="utf-8") == maker.page(folder), "run python docs/make_glossary.py"


def test_each_notebook_links_the_page_beside_it(maker):
    assert (ROOT / "notebooks" / "glossary.md") in maker.PAGES
    for path, text in maker.lessons().items():
        link = "[glossary](glossary.md)"
        assert "](glossary.md)" in text, f"{path.name} has no link to the glossary: write {link} under References"


def test_each_term_stands_once_in_one_short_sentence_and_is_used(maker):
    said, seen = maker.lessons(), set()
    for row in maker.rows():
        assert maker.first_use(row, said), f"no lesson says {row['term']}"
        assert len(row["say"].split()) <= 30, row["term"]
        assert row["say"].endswith("."), row["term"]
        for name in maker.names(row):
            assert name.lower() not in seen, f"{name} stands twice"
            seen.add(name.lower())


def test_what_a_lesson_introduces_stands_in_the_glossary(maker):
    known = {name.lower() for row in maker.rows() for name in maker.names(row)}
    for path, text in maker.lessons().items():
        missing = undefined(text, known)
        assert not missing, f"{path.name} introduces {missing}: write a row for each in docs/glossary.yaml"


def test_the_search_finds_introduced_terms(maker):
    introduced = [term.lower() for text in maker.lessons().values() for term in INTRODUCED.findall(text)]
    assert len(introduced) >= 15
    assert {"regret", "meta-batch", "forest plot", "unrolled", "hypergradient"} <= set(introduced)
    assert undefined("Such a gap is called the *wobble* of a net.", {"regret"}) == ["wobble"]


def test_families_of_methods_are_explained(maker):
    known = {name.lower() for row in maker.rows() for name in maker.names(row)}
    titles = {about.title.split(",")[0].split(" (")[0].lower() for about in METHODS.values()}
    for title in ("prototypical networks", "matching networks", "hypernetwork", "feature-wise modulation"):
        assert title in titles
        assert title in known
