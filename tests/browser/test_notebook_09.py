"""Notebook 09 in JupyterLab: the horizon and the rate that it chooses, and a guess that is kept."""

import json

import pytest
from expecting import PATIENCE
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_rate_follows_the_horizon(lab, record_property):
    opened = lab(places.notebooks() / "09_searching_meta_knowledge.ipynb")
    opened.run_all(seconds=300)

    horizon = Slider(opened.page)
    assert "after 10 steps it is least at rate 0.012" in horizon.picture.get_attribute("alt")
    before = horizon.picture.get_attribute("src")
    horizon.press("ArrowRight")
    assert horizon.picture.get_attribute("src") != before
    assert "after 11 steps it is least" in horizon.picture.get_attribute("alt")
    median = horizon.median("ArrowRight", times=6)
    record_property("widget times", f"notebook 09, horizon, key to picture, median of 6: {median:.0f} ms")
    horizon.press("End")
    assert "after 200 steps it is least at rate 0.4" in horizon.picture.get_attribute("alt")

    noise = Slider(opened.page, index=1)
    noise.press("Home")
    assert "With noise 0.0" in noise.picture.get_attribute("alt")

    # a guess
    opened.page.get_by_role("radio", name="ten times too small or more").check()
    opened.page.get_by_text("Your guess is kept: ten times too small or more.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["09.p3"]["choice"] == "ten times too small or more"
