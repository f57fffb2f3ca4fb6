"""Notebook 06 in JupyterLab: a wave of one's own, learnt from three starts."""

import pytest
from expecting import PATIENCE
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_wave_follows_its_controls(lab, record_property):
    opened = lab(places.notebooks() / "06_maml_from_sinusoids_to_images.ipynb")
    opened.run_all(seconds=300)

    # sliders: amplitude, phase, points, inner steps
    steps = Slider(opened.page, index=3)
    assert (
        "after 1 inner steps on 10 points from the whole of a wave with amplitude 3.0"
        in steps.picture.get_attribute("alt")
    )
    before = steps.picture.get_attribute("src")
    steps.press("ArrowLeft")
    assert steps.picture.get_attribute("src") != before
    assert "after 0 inner steps" in steps.picture.get_attribute("alt")
    steps.box.get_by_text("Mean squared error on the whole wave").wait_for(timeout=PATIENCE)

    points = Slider(opened.page, index=2)
    points.press("ArrowRight")
    assert "on 11 points" in points.picture.get_attribute("alt")

    points.box.get_by_label("left half only").check()
    points.box.locator("img[alt*='on 11 points from the left half']").wait_for(timeout=PATIENCE)

    amplitude = Slider(opened.page)
    median = amplitude.median("ArrowRight", times=5)
    record_property("widget times", f"notebook 06, own wave, key to picture, median of 5: {median:.0f} ms")
