"""`explore` and `predict` in JupyterLab, in a browser."""

import json

import nbformat
import pytest
from expecting import PATIENCE, expect
from nbformat.v4 import new_code_cell, new_notebook
from slider import Slider

from mlcourse.teaching import tidy

pytestmark = pytest.mark.browser

CELLS = [
    """\
import time
from mlcourse.teaching import figures, lesson, widgets
session = lesson.start("99", seed=1, budget="smoke")""",
    """\
calls = []
def draw(rate, power, fig=None):
    calls.append(rate)
    if power == 3:
        raise ValueError("no cubes today")
    if fig is None:
        fig, ax = figures.subplots()
        ax.plot(range(11))
        ax.set(xlabel="x", ylabel="rate times x to the power", ylim=(0, 100))
    fig.axes[0].lines[0].set_ydata([rate * x**power for x in range(11)])
    return fig, f"The curve ends at {rate * 10**power:.2f}."

def words(rate, power):
    return f"A curve of rate {rate:.2f} and power {power} that ends at {rate * 10**power:.2f}"

widgets.explore(draw, alt=words, rate=(0.0, 1.0, 0.01, 0.2), power=[1, 2, 3])""",
    'lesson.predict("Which way does the curve bend?", ["up", "down"], key="99.p1")',
    """\
fig, ax = figures.subplots()
ax.plot([3, 2, 1])
figures.show(fig, alt="A line that falls from three to one in two steps of equal length")""",
]


@pytest.fixture
def notebook(tmp_path):
    path = tmp_path / "99_tiny.ipynb"
    cells = [new_code_cell(source) for source in CELLS]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": tidy.KERNEL}), path)
    return path


def test_a_slider_changes_the_picture(lab, notebook, tmp_path, record_property):
    opened = lab(notebook)
    opened.run_all()
    slider = Slider(opened.page)
    assert slider.picture.get_attribute("alt") == "A curve of rate 0.20 and power 1 that ends at 2.00"
    before = slider.picture.get_attribute("src")
    slider.press("ArrowRight")
    assert slider.picture.get_attribute("src") != before
    assert slider.picture.get_attribute("alt") == "A curve of rate 0.21 and power 1 that ends at 2.10"
    expect(opened.page.get_by_role("slider", name="rate")).to_have_count(1)
    slider.box.locator("[aria-live]", has_text="A curve of rate 0.21 and power 1").wait_for(state="attached")
    opened.page.screenshot(path=tmp_path / "explore.png")
    median = slider.median("ArrowRight", times=20)
    record_property("widget times", f"key to picture, median of 20: {median:.0f} ms")


def test_dragging_does_not_queue_up_and_ends_at_the_last_value(lab, notebook):
    opened = lab(notebook)
    opened.run_all()
    slider = Slider(opened.page)
    # all keys at once: faster than any drawing, and no slower when the machine is busy
    slider.handle.evaluate(
        """handle => {
            for (let i = 0; i < 40; i++) {
                handle.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight', bubbles: true }));
            }
        }"""
    )
    opened.wait_for("document.querySelector(\"img[alt*='rate 0.60 and']\") !== null")
    assert slider.shown <= 10


def test_choices_errors_and_reset(lab, notebook):
    opened = lab(notebook)
    opened.run_all()
    slider = Slider(opened.page)
    slider.press("ArrowRight")
    choice = slider.box.get_by_label("power")
    choice.select_option("3")
    slider.box.get_by_role("alert").wait_for(timeout=PATIENCE)
    assert slider.box.get_by_role("alert").inner_text() == "This picture cannot be drawn. ValueError: no cubes today"
    slider.box.get_by_role("button", name="Reset").press("Enter")
    slider.box.locator("img[alt*='rate 0.20 and power 1']").wait_for(timeout=PATIENCE)
    # the line below the picture is a message of its own: it comes after the picture
    slider.box.get_by_text("The curve ends at 2.00.").wait_for(timeout=PATIENCE)


def test_a_guess_is_kept_and_figures_have_their_text_once(lab, notebook):
    opened = lab(notebook)
    opened.run_all()
    page = opened.page
    page.get_by_role("radio", name="down").check()
    page.get_by_text("Your guess is kept: down.").wait_for(timeout=PATIENCE)
    kept = json.loads((opened.work / "progress.json").read_text(encoding="utf-8"))
    assert kept["guesses"]["99.p1"]["choice"] == "down"
    expect(page.locator("img[alt^='A line that falls']")).to_have_count(1)
    opened.run_all()
    page.get_by_text("Your guess is kept: down.").wait_for(timeout=PATIENCE)
    assert page.get_by_role("radio", name="down").is_checked()
