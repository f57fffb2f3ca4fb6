"""Notebook 15 in JupyterLab: the threshold moves the faces that are let in and shut out, and a guess is kept."""

import json

import pytest
from expecting import PATIENCE
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_faces_follow_the_threshold(lab, record_property):
    opened = lab(places.notebooks() / "15_face_recognition.ipynb")
    opened.run_all(seconds=600)

    gate = Slider(opened.page, index=0)
    said = gate.picture.get_attribute("alt")
    assert "Two humps of similarities" in said
    before = gate.picture.get_attribute("src")
    gate.press("ArrowLeft")
    assert gate.picture.get_attribute("src") != before
    assert gate.picture.get_attribute("alt") != said
    gate.press("Home")
    assert "threshold -0.20" in gate.picture.get_attribute("alt")
    median = gate.median("ArrowRight", times=10)
    record_property("widget times", f"notebook 15, a threshold, key to picture, median of 10: {median:.0f} ms")

    opened.page.get_by_role("radio", name="in 60 to 90 %").check()
    opened.page.get_by_text("Your guess is kept: in 60 to 90 %.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["15.p3"]["choice"] == "in 60 to 90 %"
