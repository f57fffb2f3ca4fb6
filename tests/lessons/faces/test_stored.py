"""Section 9 of notebook 15 says of the joined rows what was joined, and of all rows how many people they test."""

import pytest
from programs import program

from mlcourse import files, places

NUMBERS = {"nine": 9, "two": 2}


@pytest.fixture(scope="module")
def section():
    """The text above the stored rows."""
    notebook = files.read_notebook(places.repository() / "notebooks" / "15_face_recognition.ipynb")
    return next(cell.source for cell in notebook.cells if cell.id == "s9")


def test_the_text_counts_the_joined_networks(section):
    maker = program("data/make_faces.py")
    kept = files.read_json(places.data() / "results" / "faces.json")
    assert "`every network` all nine" in section
    assert len(maker.TRAINED) == NUMBERS["nine"]
    assert "`chosen networks` the two" in section
    assert len(kept["chosen networks"]["networks"]) == NUMBERS["two"]


def test_the_text_says_when_the_join_was_settled_and_how_many_people_are_tested(section):
    kept = files.read_json(places.data() / "results" / "faces.json")
    assert "settled when the rates of the single ones were known" in kept["note"]
    assert "settled when the single rates were known (`faces.json` notes it)" in section
    splits = kept["data"]["splits"]
    assert {len(one) for one in splits} == {20}
    assert len({person for one in splits for person in one}) == 40
    assert "Each split tests 20 people, all together 40" in section
