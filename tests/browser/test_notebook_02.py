"""Notebook 02 in JupyterLab: the sliders for way and shot, and the leak."""

import pytest
from expecting import PATIENCE
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_way_shot_and_leak_change_the_task(lab, record_property):
    opened = lab(places.notebooks() / "02_tasks_and_episodes.ipynb")
    opened.run_all(seconds=300)
    way = Slider(opened.page)
    assert way.picture.get_attribute("alt").startswith("A 5-way 1-shot task, and accuracy against way.")
    way.press("ArrowRight")
    assert way.picture.get_attribute("alt").startswith("A 6-way 1-shot task, and")
    shot = Slider(opened.page, index=1)
    shot.press("ArrowRight")
    assert shot.picture.get_attribute("alt").startswith("A 6-way 2-shot task, and")
    way.box.get_by_label("leak").check()
    way.box.locator("img[alt^='A 6-way 2-shot task with leaked queries']").wait_for(timeout=PATIENCE)
    way.box.get_by_role("button", name="Reset").press("Enter")
    way.box.locator("img[alt^='A 5-way 1-shot task, and']").wait_for(timeout=PATIENCE)
    median = Slider(opened.page, index=1).median("ArrowRight", times=4)  # the slider for shot has five places
    record_property("widget times", f"notebook 02, key to picture, median of 4: {median:.0f} ms")
