"""Notebook 05 in JupyterLab: the factor that one drags, and a guess that is kept."""

import json

import pytest
from expecting import PATIENCE
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_factor_follows_the_sliders(lab, record_property):
    opened = lab(places.notebooks() / "05_meta_gradients_by_hand.ipynb")
    opened.run_all(seconds=300)

    rate = Slider(opened.page)
    assert "at inner rate 0.20" in rate.picture.get_attribute("alt")
    assert "a = 4: factor +0.008, vanishes" in rate.picture.get_attribute("alt")
    before = rate.picture.get_attribute("src")
    for _ in range(4):
        rate.press("ArrowRight")
    assert rate.picture.get_attribute("src") != before
    assert "a = 4: factor -0.216, sign flipped" in rate.picture.get_attribute("alt")
    rate.box.get_by_text("α = 0.40, T = 3.").wait_for(timeout=PATIENCE)
    median = rate.median("ArrowLeft", times=8)
    record_property("widget times", f"notebook 05, drag the inner rate, key to picture, median of 8: {median:.0f} ms")

    steps = Slider(opened.page, index=1)
    steps.press("ArrowRight")
    assert "for T = 4" in steps.picture.get_attribute("alt")

    opened.page.get_by_role("radio", name="smaller, with the opposite sign").check()
    opened.page.get_by_text("Your guess is kept: smaller, with the opposite sign.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["05.p1"]["choice"] == "smaller, with the opposite sign"
