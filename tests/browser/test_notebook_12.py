"""Notebook 12 in JupyterLab: the two intervals follow the number of tasks, and a guess is kept."""

import json

import pytest
from expecting import PATIENCE
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_intervals_follow_the_number_of_tasks(lab, record_property):
    opened = lab(places.notebooks() / "12_few_shot_classification_honestly.ipynb")
    opened.run_all(seconds=400)

    tasks = Slider(opened.page)
    assert "At 32 tasks" in tasks.picture.get_attribute("alt")
    before = tasks.picture.get_attribute("src")
    tasks.press("ArrowRight")
    assert tasks.picture.get_attribute("src") != before
    assert "At 64 tasks" in tasks.picture.get_attribute("alt")
    tasks.press("Home")
    assert "At 8 tasks" in tasks.picture.get_attribute("alt")
    median = tasks.median("ArrowRight", times=3)
    record_property("widget times", f"notebook 12, tasks, key to picture, median of 3: {median:.0f} ms")

    # a guess
    opened.page.get_by_role("radio", name="no: the intervals nearly touch").check()
    opened.page.get_by_text("Your guess is kept: no: the intervals nearly touch.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["12.p1"]["choice"] == "no: the intervals nearly touch"
