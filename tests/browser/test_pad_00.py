"""Notebook 00 in JupyterLab: the pad is taught five characters and asked, with mouse, finger, pen and keyboard."""

import pytest
from drawing import CLEAR_QUERY, Pad
from expecting import expect

from mlcourse import places
from mlcourse.teaching.pad.samples import sample_sets

pytestmark = pytest.mark.browser

NOTEBOOK = places.notebooks() / "00_start_here.ipynb"
SIGNS = next(one for one in sample_sets() if one["name"] == "Signs")
A, B, C, D, E = SIGNS["support"]


@pytest.fixture(scope="module")
def notebook(module_lab):
    """Notebook 00, run once for all tests."""
    notebook = module_lab(NOTEBOOK)
    notebook.run_all(seconds=180)
    return notebook


@pytest.fixture
def opened(notebook):
    """The notebook with an empty pad, as it is after its cells have run."""
    pad = Pad(notebook.page)
    yield notebook
    notebook.page.evaluate("document.body.style.zoom = ''")
    pad.root.get_by_label("Who answers?").select_option(index=0)
    pad.press("Clear all boxes")
    pad.press(CLEAR_QUERY)


def test_draw_and_be_understood(opened, tmp_path, record_property):
    pad = Pad(opened.page)
    assert "two characters" in pad.verdict
    assert pad.percentages == ["–"] * 5
    for letter, drawing in zip("ABCDE", SIGNS["support"], strict=True):
        pad.mouse(drawing, letter)
    assert "again in the large box" in pad.verdict
    pad.mouse(C)
    assert pad.verdict.startswith("This is C (")
    before = pad.percentages
    assert sum(int(text.split()[0]) for text in before) in range(98, 103)  # rounded to whole percent
    opened.page.screenshot(path=tmp_path / "mouse.png")

    pad.press(CLEAR_QUERY)
    pad.finger(B)
    assert pad.verdict.startswith("This is B (")
    assert pad.percentages != before
    expect(pad.root.get_by_label("Drawing to classify: 2 strokes")).to_have_count(1)
    opened.page.screenshot(path=tmp_path / "finger.png")

    pad.press(CLEAR_QUERY)
    pad.pen(E)
    assert pad.verdict.startswith("This is E (")
    median = pad.median(A, times=20)
    record_property("widget times", f"end of a drawing to its answer, median of 20: {median:.0f} ms")
    assert pad.verdict.startswith("This is A (")


def test_keyboard_undo_clear_and_who_answers(opened):
    pad = Pad(opened.page)
    pad._answered(lambda: pad.button('Fill the boxes with the sample drawings "Runes"').press("Enter"))
    assert pad.verdict.startswith("This is ")
    expect(pad.root.get_by_text("the pad drew")).to_have_count(1)
    expect(opened.page.locator(".jp-Notebook.jp-mod-editMode")).to_have_count(0)  # Enter did not open a cell
    first = pad.percentages
    pad._answered(lambda: pad.button("Draw another sample to classify").press("Enter"))
    assert pad.percentages != first
    before = pad.percentages
    pad._answered(lambda: pad.root.get_by_label("Who answers?").select_option("pixels"))
    assert pad.percentages != before

    # The first rune has three strokes; undo takes off one, clear the rest, and an empty box takes no part.
    expect(pad.root.get_by_label("Drawing of character A: 3 strokes")).to_have_count(1)
    pad.press("Undo the last stroke of character A")
    expect(pad.root.get_by_label("Drawing of character A: 2 strokes")).to_have_count(1)
    pad.press("Clear character A")
    assert pad.percentages[0] == "–"
    pad.press("Clear all boxes")
    assert pad.percentages == ["–"] * 5


def test_a_zoomed_page_draws_in_the_right_place(opened):
    page = opened.page
    pad = Pad(page)
    pad.press('Fill the boxes with the sample drawings "Signs"')
    page.evaluate("document.body.style.zoom = '130%'")
    pad.press(CLEAR_QUERY)
    pad.mouse(D)
    assert pad.verdict.startswith("This is D (")


def test_an_error_is_shown_in_place_and_the_pad_lives_on(opened):
    pad = Pad(opened.page)
    pad.press('Fill the boxes with the sample drawings "Signs"')
    opened.run("drawing_pad.recogniser().learner.predict = lambda *a: 1 / 0")
    pad.press("Draw another sample to classify")
    assert pad.verdict == "ZeroDivisionError: division by zero"
    opened.run("del drawing_pad.recogniser().learner.predict")
    pad.press("Draw another sample to classify")
    assert pad.verdict.startswith("This is ")
