"""Notebook 10 in JupyterLab: the update map follows rule, step and features, and a guess is kept."""

import json

import pytest
from expecting import PATIENCE
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_map_follows_its_controls(lab, record_property):
    opened = lab(places.notebooks() / "10_learned_optimizers.ipynb")
    opened.run_all(seconds=300)

    step = Slider(opened.page)
    assert "The map of learned at step 10." in step.picture.get_attribute("alt")
    before = step.picture.get_attribute("src")
    step.press("ArrowRight")
    assert step.picture.get_attribute("src") != before
    assert "at step 11." in step.picture.get_attribute("alt")
    median = step.median("ArrowRight", times=6)
    record_property("widget times", f"notebook 10, update map, key to picture, median of 6: {median:.0f} ms")

    # features off
    shown = step.shown
    step.box.get_by_label("momenta").uncheck()
    opened.page.wait_for_function(f"window.widgetTimes.pictures.length > {shown}", timeout=PATIENCE)
    assert "The map of learned without momenta at step" in step.picture.get_attribute("alt")

    # another rule
    shown = step.shown
    step.box.locator("select").select_option("Adam, rate tuned")
    opened.page.wait_for_function(f"window.widgetTimes.pictures.length > {shown}", timeout=PATIENCE)
    assert "The map of Adam" in step.picture.get_attribute("alt")

    # a guess
    opened.page.get_by_role("radio", name="falls slowly for all five").check()
    opened.page.get_by_text("Your guess is kept: falls slowly for all five.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["10.p1"]["choice"] == "falls slowly for all five"
