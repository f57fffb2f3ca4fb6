"""Notebook 13 in JupyterLab: the painted mask, the pixel and the clutter move their pictures, and a guess is kept."""

import json

import pytest
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_answer_follows_the_painted_mask(lab, record_property):
    opened = lab(places.notebooks() / "13_few_shot_segmentation.ipynb")
    opened.run_all(seconds=400)

    # the painted mask: sliders task, x, y, size, and a choice of what is painted
    x = Slider(opened.page, index=1)
    assert "Task 0: a support drawing with a painted mask (the ink of the drawing" in x.picture.get_attribute("alt")
    before = x.picture.get_attribute("src")
    x.box.locator("select").select_option("the brush alone")
    opened.wait_for("document.body.innerText.includes('the brush alone')")
    x.press("ArrowRight")
    assert x.picture.get_attribute("src") != before
    assert "(the brush alone; brush of 8 pixels at x 17, y 16)" in x.picture.get_attribute("alt")
    median = x.median("ArrowRight", times=10)
    record_property("widget times", f"notebook 13, a painted mask, key to picture, median of 10: {median:.0f} ms")

    # the pixel and its cosine maps: sliders x, y
    pixel = Slider(opened.page, index=4)
    before = pixel.picture.get_attribute("src")
    pixel.press("ArrowRight")
    assert pixel.picture.get_attribute("src") != before
    median = pixel.median("ArrowRight", times=10)
    record_property("widget times", f"notebook 13, a pixel, key to picture, median of 10: {median:.0f} ms")

    # clutter: a slider of characters, and a choice of methods
    clutter = Slider(opened.page, index=6)
    assert "a scene of 4 characters" in clutter.picture.get_attribute("alt")
    clutter.press("ArrowRight")
    assert "a scene of 8 characters" in clutter.picture.get_attribute("alt")
    clutter.press("End")
    assert "a scene of 256 characters" in clutter.picture.get_attribute("alt")

    # a guess
    opened.page.get_by_role("radio", name="1 to 5 %").check()
    opened.page.get_by_text("Your guess is kept: 1 to 5 %.").wait_for(timeout=20_000)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["13.p1"]["choice"] == "1 to 5 %"
