"""Notebook 16 in JupyterLab: a teacher's bars follow the temperature and the letter, a guess is kept."""

import json

import pytest
from expecting import PATIENCE
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_bars_follow_the_temperature(lab, record_property):
    opened = lab(places.notebooks() / "16_transfer_and_distillation.ipynb")
    opened.run_all(seconds=400)

    # the bars of a teacher: a menu of letters, and the slider temperature
    temperature = Slider(opened.page, index=0)
    before = temperature.picture.get_attribute("alt")
    assert "bars for what the teacher says" in before
    assert "At τ = 1:" in before
    temperature.press("ArrowRight")
    assert "At τ = 1.5:" in temperature.picture.get_attribute("alt")
    median = temperature.median("ArrowRight", times=10)
    record_property("widget times", f"notebook 16, a temperature, key to picture, median of 10: {median:.0f} ms")
    temperature.press("End")
    assert "At τ = 10:" in temperature.picture.get_attribute("alt")

    # a guess
    opened.page.get_by_role("radio", name="three times as much").check()
    opened.page.get_by_text("Your guess is kept: three times as much.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["16.p1"]["choice"] == "three times as much"
