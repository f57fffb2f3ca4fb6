"""Notebook 01 in JupyterLab: the three pictures that one drags, and a guess that is kept."""

import json

import pytest
from expecting import PATIENCE
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_losses_follow_the_sliders(lab, record_property):
    opened = lab(places.notebooks() / "01_inner_and_outer_losses.ipynb")
    opened.run_all(seconds=300)

    # drag θ over two losses: sliders start, inner steps, inner rate
    start = Slider(opened.page)
    assert "From the start 0.50, 1 inner steps" in start.picture.get_attribute("alt")
    before = start.picture.get_attribute("src")
    start.press("ArrowLeft")
    assert start.picture.get_attribute("src") != before
    assert "From the start 0.45" in start.picture.get_attribute("alt")
    start.box.get_by_text("L_outer(0.45)").wait_for(timeout=PATIENCE)
    median = start.median("ArrowLeft", times=20)
    record_property("widget times", f"notebook 01, drag θ, key to picture, median of 20: {median:.0f} ms")

    # the outer loss changes its shape with the number of inner steps: sliders inner steps, inner rate
    steps = Slider(opened.page, index=3)
    assert "MAML -0.60" in steps.picture.get_attribute("alt")
    before = steps.picture.get_attribute("src")
    steps.press("ArrowRight")
    assert steps.picture.get_attribute("src") != before
    assert "after 2 inner steps" in steps.picture.get_attribute("alt")
    assert "MAML -0.97" in steps.picture.get_attribute("alt")
    rate = Slider(opened.page, index=4)
    median = rate.median("ArrowRight", times=6)
    record_property("widget times", f"notebook 01, meta-loss, key to picture, median of 6: {median:.0f} ms")

    # three slopes, one tangent
    slopes = Slider(opened.page, index=5)
    assert "total +0.12" in slopes.picture.get_attribute("alt")
    slopes.press("ArrowRight")
    assert "its point at -0.15" in slopes.picture.get_attribute("alt")

    # a guess
    opened.page.get_by_role("radio", name="no, the second loss is lower").check()
    opened.page.get_by_text("Your guess is kept: no, the second loss is lower.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["01.p1"]["choice"] == "no, the second loss is lower"
