"""Notebook 04 in JupyterLab: a support set is picked, a class exchanged, noise added, and the written head follows."""

import json

import pytest
from expecting import PATIENCE
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


def test_the_written_head_follows_its_support_set(lab, record_property, tmp_path):
    opened = lab(places.notebooks() / "04_meta_networks.ipynb")
    opened.run_all(seconds=300)

    episode = Slider(opened.page)
    assert episode.picture.get_attribute("alt").startswith("Support set of episode 0, exchanged: nothing, noise 0.00.")
    assert "class 0 by 0 %, class 1 by 0 %" in episode.picture.get_attribute("alt")
    before = episode.picture.get_attribute("src")
    episode.press("ArrowRight")
    assert episode.picture.get_attribute("src") != before
    assert episode.picture.get_attribute("alt").startswith("Support set of episode 1,")
    median = episode.median("ArrowRight", times=10)
    record_property("widget times", f"notebook 04, episode, key to picture, median of 10: {median:.0f} ms")

    # another class: only its row moves
    episode.box.locator("select").select_option("class 2")
    episode.box.locator("img[alt*='exchanged: class 2']").wait_for(timeout=PATIENCE)
    words = episode.picture.get_attribute("alt")
    assert [f"class {k} by 0 %" in words for k in range(5)] == [True, True, False, True, True]

    noise = Slider(opened.page, index=1)
    noise.press("ArrowRight")
    assert "noise 0.05" in noise.picture.get_attribute("alt")
    noise.picture.scroll_into_view_if_needed()
    opened.page.screenshot(path=tmp_path / "head.png")
    episode.box.get_by_role("button", name="Reset").press("Enter")
    episode.box.locator("img[alt^='Support set of episode 0, exchanged: nothing, noise 0.00']").wait_for(
        timeout=PATIENCE
    )

    # a guess
    opened.page.get_by_role("radio", name="their borders are turned alike").check()
    opened.page.get_by_text("Your guess is kept: their borders are turned alike.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["04.p2"]["choice"] == "their borders are turned alike"
