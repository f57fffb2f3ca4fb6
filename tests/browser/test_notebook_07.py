"""Notebook 07 in JupyterLab: the picture of what is kept follows its three controls, and a guess is kept."""

import json
import statistics

import pytest
from expecting import PATIENCE
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_bill_follows_the_controls(lab, record_property):
    opened = lab(places.notebooks() / "07_the_price_of_unrolling.ipynb")
    opened.run_all(seconds=400)

    # sliders inner steps (2, 5, 10, 16, 20, 26, 36), R or n; the method is exact at first
    steps = Slider(opened.page)
    assert "exact, T = 16" in steps.picture.get_attribute("alt")
    assert "graph alive 16" in steps.picture.get_attribute("alt")
    before = steps.picture.get_attribute("src")
    steps.press("ArrowRight")
    assert steps.picture.get_attribute("src") != before
    assert "exact, T = 20" in steps.picture.get_attribute("alt")
    median = statistics.median(steps.press(key) for key in ["ArrowRight", "ArrowLeft"] * 5)
    record_property("widget times", f"notebook 07, inner steps, key to picture, median of 10: {median:.0f} ms")

    # another method: the same number of steps, but only the last block has a graph
    steps.box.locator("select").select_option("checkpointed")
    opened.wait_for("document.body.innerText.includes('checkpointed, n = 4, T = 20')")
    assert "graph alive 4, graph made in its turn 16" in steps.picture.get_attribute("alt")
    block = Slider(opened.page, index=1)
    block.press("ArrowLeft")
    assert "checkpointed, n = 3, T = 20" in block.picture.get_attribute("alt")

    # a guess
    opened.page.get_by_role("radio", name="about 8 times").check()
    opened.page.get_by_text("Your guess is kept: about 8 times.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["07.p1"]["choice"] == "about 8 times"
