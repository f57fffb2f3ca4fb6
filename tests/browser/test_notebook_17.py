"""Notebook 17 in JupyterLab: the method picker answers its choices, the submission lies in the work folder."""

import json

import pytest
from expecting import PATIENCE, expect

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_picker_the_submission_and_a_guess(lab):
    opened = lab(places.notebooks() / "17_capstone.ipynb")
    opened.run_all(seconds=500)

    # the picker: drop-downs task, training classes, shots, compute, and a box to tick
    choices = opened.page.locator(".widget-dropdown select")
    choices.first.wait_for(timeout=PATIENCE)
    box = choices.first.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')][1]")
    picture = box.locator("img")
    assert "edges" in picture.get_attribute("alt")
    choices.first.select_option("find boxes")
    box.locator("img[alt*='AP50']").wait_for(timeout=PATIENCE)
    assert "data/results/detection.json" in box.inner_text()
    box.get_by_role("button", name="Reset").click()
    box.locator("img[alt*='new characters']").wait_for(timeout=PATIENCE)

    # the file of the submission, and the drawn pictures that stand for photos
    assert "class Edges(Learner)" in (opened.work / "my_submission.py").read_text(encoding="utf-8")
    assert len(list((opened.work / "drawn_pictures").rglob("*.png"))) == 15

    # the path: nothing is done yet
    expect(opened.page.locator("img[alt*='nothing is done yet']")).to_have_count(1)

    # a guess
    opened.page.get_by_role("radio", name="320 or more").check()
    opened.page.get_by_text("Your guess is kept: 320 or more.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["17.p4"]["choice"] == "320 or more"
