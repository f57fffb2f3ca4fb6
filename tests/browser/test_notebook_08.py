"""Notebook 08 in JupyterLab: the optimum as a function, two ways over the ellipses, and a guess that is kept."""

import json

import pytest
from expecting import PATIENCE
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_pictures_follow_the_sliders(lab, record_property):
    opened = lab(places.notebooks() / "08_implicit_meta_gradients.ipynb")
    opened.run_all(seconds=300)

    # the optimum as a function: slider weight decay
    decay = Slider(opened.page)
    assert "for weight decay 0.20; its lowest point is at 1.178" in decay.picture.get_attribute("alt")
    before = decay.picture.get_attribute("src")
    decay.press("ArrowRight")
    assert decay.picture.get_attribute("src") != before
    assert "for weight decay 0.25" in decay.picture.get_attribute("alt")
    median = decay.median("ArrowRight", times=6)
    record_property("widget times", f"notebook 08, optimum, key to picture, median of 6: {median:.0f} ms")

    # two ways over the ellipses: sliders iterations, condition, damping
    iterations = Slider(opened.page, index=1)
    assert "After 1 iterations" in iterations.picture.get_attribute("alt")
    iterations.press("ArrowRight")
    assert "After 2 iterations" in iterations.picture.get_attribute("alt")
    assert "the log of the residual is -1" in iterations.picture.get_attribute("alt")
    median = iterations.median("ArrowRight", times=6)
    record_property("widget times", f"notebook 08, conjugate gradients, key to picture, median of 6: {median:.0f} ms")
    condition = Slider(opened.page, index=2)
    condition.press("ArrowRight")
    assert "condition number 11" in condition.picture.get_attribute("alt")
    damping = Slider(opened.page, index=3)
    assert "The solution is 0 % away" in damping.picture.get_attribute("alt")
    damping.press("ArrowRight")
    assert "damping 0.05" in damping.picture.get_attribute("alt")
    assert "The solution is 0 % away" not in damping.picture.get_attribute("alt")

    # a guess
    opened.page.get_by_role("radio", name="down, by about 0.03").check()
    opened.page.get_by_text("Your guess is kept: down, by about 0.03.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["08.p1"]["choice"] == "down, by about 0.03"
