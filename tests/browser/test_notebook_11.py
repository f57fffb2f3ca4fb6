"""Notebook 11 in JupyterLab: the jagged loss follows horizon, smoothing and place, and a guess is kept."""

import json

import pytest
from expecting import PATIENCE
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_teeth_follow_the_controls(lab, record_property):
    opened = lab(places.notebooks() / "11_when_gradients_fail.ipynb")
    opened.run_all(seconds=400)

    horizon = Slider(opened.page)
    assert "The outer loss of 50 inner steps" in horizon.picture.get_attribute("alt")
    before = horizon.picture.get_attribute("src")
    horizon.press("ArrowRight")
    assert horizon.picture.get_attribute("src") != before
    assert "The outer loss of 51 inner steps" in horizon.picture.get_attribute("alt")
    median = horizon.median("ArrowRight", times=6)
    record_property("widget times", f"notebook 11, horizon, key to picture, median of 6: {median:.0f} ms")

    sigma = Slider(opened.page, index=1)
    sigma.press("Home")
    assert "smoothed with sigma 0.02" in sigma.picture.get_attribute("alt")
    place = Slider(opened.page, index=2)
    place.press("Home")
    assert "At λ = -2.00 (rate α = 0.14)" in place.picture.get_attribute("alt")

    # a guess
    opened.page.get_by_role("radio", name="a billion or more").check()
    opened.page.get_by_text("Your guess is kept: a billion or more.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["11.p1"]["choice"] == "a billion or more"
