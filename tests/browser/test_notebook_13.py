"""Notebook 13 in JupyterLab: the painted mask, the pixel and the clutter move their pictures, and a guess is kept."""

import json
import re

import pytest
from expecting import PATIENCE, expect
from slider import Slider

from mlcourse import places

pytestmark = pytest.mark.browser


class MaskPad:
    """The mask pad in the page."""

    def __init__(self, page):
        self.page, self.root = page, page.locator(".mlmask")
        self.root.wait_for(timeout=PATIENCE)
        self.root.scroll_into_view_if_needed()
        self.canvas = self.root.locator("canvas")

    @property
    def pixels(self) -> int:
        """How many pixels the painted mask has."""
        return int(re.search(r"mask: (\d+) pixels", self.canvas.get_attribute("aria-label"))[1])

    @property
    def message(self) -> str:
        return self.root.locator(".mlmask-message").inner_text()

    @property
    def scene(self) -> str:
        return self.root.locator("img").get_attribute("src")

    def press(self, name: str) -> None:
        self.root.get_by_role("button", name=name).click()

    def stroke(self, *points) -> None:
        """Paint with the mouse; points in units of the canvas."""
        box = self.canvas.bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=5)
        self.page.mouse.up()

    def answered(self, act) -> None:
        """Do something, and wait until its answer is shown: the number of the answer has grown, and stands still."""
        before = int(self.root.get_attribute("data-number"))
        act()
        script = """([root, before]) => {
            const now = Number(root.dataset.number);
            if (root.seen?.number !== now) { root.seen = { number: now, since: performance.now() }; return false; }
            return now > before && performance.now() - root.seen.since > 300;
        }"""
        self.page.wait_for_function(script, arg=[self.root.element_handle(), before], timeout=PATIENCE, polling=50)


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

    # the mask pad: mouse, keys, buttons
    pad = MaskPad(opened.page)
    assert "IoU" in pad.message
    with_ink = pad.pixels
    pad.answered(lambda: pad.press("Clear the mask"))
    unanswered = pad.scene
    assert pad.pixels == 0
    assert pad.message.startswith("Paint on the drawing")
    pad.answered(lambda: pad.stroke((0.2, 0.2), (0.8, 0.2), (0.8, 0.8)))
    painted = pad.pixels
    assert pad.scene != unanswered
    assert painted > 20
    assert f"The mask holds {painted} pixels." in pad.message
    pad.answered(lambda: pad.press("The brush erases") or pad.stroke((0.2, 0.2), (0.5, 0.2)))
    assert 0 < pad.pixels < painted
    pad.answered(lambda: pad.press("Undo the last stroke"))
    assert pad.pixels == painted
    pad.press("The brush paints")
    pad.canvas.focus()
    pad.canvas.press("ArrowDown")
    pad.answered(lambda: pad.canvas.press(" "))
    assert pad.pixels > painted
    expect(opened.page.locator(".jp-Notebook.jp-mod-editMode")).to_have_count(0)  # the keys stayed in the pad
    pad.answered(lambda: pad.press("Let the mask be the ink of the drawing"))
    assert pad.pixels == with_ink
    assert f"The mask holds {with_ink} pixels." in pad.message
    pad.answered(lambda: pad.root.get_by_label("Which task").select_option("2"))
    assert "The drawing of task 2" in pad.canvas.get_attribute("aria-label")
    assert "The scene of task 2" in pad.root.locator("img").get_attribute("alt")

    # a guess
    opened.page.get_by_role("radio", name="1 to 5 %").check()
    opened.page.get_by_text("Your guess is kept: 1 to 5 %.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["13.p1"]["choice"] == "1 to 5 %"
