"""Notebook 03 in JupyterLab: a support point moves the regions, a query looks at its support, and a guess is kept."""

import json

import pytest
from expecting import PATIENCE
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_regions_follow_the_support_point(lab, record_property):
    opened = lab(places.notebooks() / "03_learning_to_compare.ipynb")
    opened.run_all(seconds=400)

    # the regions: a choice of rules, and sliders shot, x, y
    x = Slider(opened.page, index=1)
    assert "The moving point of A is at (-1.50, -1.00)" in x.picture.get_attribute("alt")
    before = x.picture.get_attribute("src")
    x.press("ArrowRight")
    assert x.picture.get_attribute("src") != before
    assert "The moving point of A is at (-1.25, -1.00)" in x.picture.get_attribute("alt")
    median = x.median("ArrowRight", times=10)
    record_property("widget times", f"notebook 03, a support point, key to picture, median of 10: {median:.0f} ms")
    assert "at its right end B with 100 %" in x.picture.get_attribute("alt")
    x.box.locator("select").select_option("prototypes, distance not squared")
    opened.wait_for("document.body.innerText.includes('Surer than 95 %: 0 % of it')")
    assert "coloured by prototypes, distance not squared" in x.picture.get_attribute("alt")
    shot = Slider(opened.page, index=0)
    shot.press("ArrowRight")
    assert "three classes of 4 support points each" in shot.picture.get_attribute("alt")

    # the attention of a query: sliders query and temperature
    temperature = Slider(opened.page, index=4)
    assert "at temperature 0.10" in temperature.picture.get_attribute("alt")
    temperature.press("ArrowRight")
    assert "at temperature 0.12" in temperature.picture.get_attribute("alt")
    median = temperature.median("ArrowRight", times=10)
    record_property("widget times", f"notebook 03, attention, key to picture, median of 10: {median:.0f} ms")
    query = Slider(opened.page, index=3)
    query.press("ArrowRight")
    assert "Query 1, which is of class 0" in query.picture.get_attribute("alt")

    # a guess
    opened.page.get_by_role("radio", name="a straight line").check()
    opened.page.get_by_text("Your guess is kept: a straight line.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["03.p2"]["choice"] == "a straight line"
