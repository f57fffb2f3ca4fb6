"""Notebook 14 in JupyterLab: a threshold walks along the curve, another drawing finds other boxes, a guess is kept."""

import json

import pytest
from expecting import PATIENCE
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_boxes_follow_the_threshold_and_the_drawing(lab, record_property):
    opened = lab(places.notebooks() / "14_few_shot_detection.ipynb")
    opened.run_all(seconds=400)

    # the score threshold and the precision–recall curve: slider score
    walk = Slider(opened.page, index=0)
    before = walk.picture.get_attribute("alt")
    assert "precision–recall curve" in before
    walk.press("Home")
    assert walk.picture.get_attribute("alt") != before
    median = walk.median("ArrowRight", times=10)
    record_property("widget times", f"notebook 14, a threshold, key to picture, median of 10: {median:.0f} ms")

    walk.press("End")
    assert ": 0 boxes in" in walk.picture.get_attribute("alt")

    # the support drawing: sliders drawing, scene, score
    drawing = Slider(opened.page, index=1)
    before = drawing.picture.get_attribute("src")
    assert "Support drawing 0 of the character of scene 0" in drawing.picture.get_attribute("alt")
    drawing.press("ArrowRight")
    assert drawing.picture.get_attribute("src") != before
    assert "Support drawing 1 of the character of scene 0" in drawing.picture.get_attribute("alt")
    scene = Slider(opened.page, index=2)
    scene.press("End")
    assert "The target is absent" in scene.picture.get_attribute("alt")

    # a guess
    opened.page.get_by_role("radio", name="1/3").check()
    opened.page.get_by_text("Your guess is kept: 1/3.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["14.p1"]["choice"] == "1/3"
