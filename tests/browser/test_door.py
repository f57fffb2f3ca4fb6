"""The first fifteen minutes: `mlcourse lab` as a learner meets it, in a browser with a fresh home."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from drawing import Pad
from expecting import PATIENCE, expect
from nbformat.v4 import new_code_cell, new_notebook
from slider import Slider

from mlcourse import places
from mlcourse.commands.lab import prepare
from mlcourse.teaching import tidy

pytestmark = pytest.mark.browser

CELLS = [
    """\
import time
from mlcourse import learners
from mlcourse.teaching import figures, lesson, pad, widgets
session = lesson.start("99", seed=1, budget="smoke")

def draw(rate):
    fig, ax = figures.subplots(size=(4, 2))
    ax.plot([0, rate])
    return fig, f"It ends at {rate:.2f}."

words = lambda rate: f"A straight line that rises from nought to {rate:.2f}"
widgets.explore(draw, alt=words, rate=(0.0, 1.0, 0.01, 0.2))""",
    'lesson.predict("Which way does the line go?", ["up", "down"], key="99.p1")',
    "pad.DrawingPad(learners.PixelNeighbours())",
    "time.sleep(0)",
]
TINY = "99_tiny.ipynb"
LINES = ".mlcourse-kernel"  # where a widget says that the kernel is busy or gone


@pytest.fixture
def tiny(door):
    """The course, opened at a notebook with one widget of each kind; its cells have run."""
    cells = [new_code_cell(source) for source in CELLS]
    notebook = nbformat.writes(new_notebook(cells=cells, metadata={"kernelspec": tidy.KERNEL}))
    course = door("--notebook", TINY, own={TINY: notebook})
    course.run_all()
    return course


def lines(course):
    return [text for text in course.page.locator(LINES).all_inner_texts() if text]


def errors(course):
    return (
        course.page.get_by_text("Error displaying widget").count() + course.page.get_by_text("model not found").count()
    )


# ---- the first screen ----


def test_the_address_opens_notebook_00_and_asks_nothing(door, tmp_path):
    course = door(cold=True)
    assert course.said.endswith("\n")
    assert re.search(r"/lab/tree/00_start_here\.ipynb\?token=\w+$", course.said.rstrip())
    page = course.page
    page.wait_for_timeout(3000)  # JupyterLab asks about its news a second after the page is there
    page.screenshot(path=tmp_path / "first.png")
    expect(page.get_by_role("heading", name="Start here")).to_have_count(1)
    expect(page.locator(".jp-Launcher")).to_have_count(0)
    assert page.locator(".jp-Dialog, .Toastify__toast").all_inner_texts() == []
    assert page.evaluate("window.jupyterapp.shell.currentWidget.context.path") == "00_start_here.ipynb"
    names = page.locator(".jp-DirListing-itemText")
    assert {path.name for path in places.notebooks().glob("*.ipynb")} <= set(names.all_inner_texts())
    for name in names.all():
        shown, needed = name.evaluate("name => [name.clientWidth, name.scrollWidth]")
        assert shown >= needed, f"{name.inner_text()} is cut off"


def test_every_picture_of_every_copy_is_there(door):
    """Of 00 as the door opens it. Of each other lesson its own test looks (`lab`), in a copy; here is that the
    learner's copies hold what that one holds."""
    course = door()
    course.page.locator(".jp-MarkdownOutput img").first.wait_for(timeout=PATIENCE)
    pictures = course.pictures()
    assert pictures
    assert all(there for _, there in pictures), pictures
    for path in sorted(places.notebooks().glob("*.ipynb")):
        number, copy = path.name[:2], nbformat.read(course.work / path.name, as_version=4)
        written = nbformat.read(path, as_version=4)
        assert [held(cell) for cell in copy.cells] == [held(cell) for cell in written.cells], path.name
        shown = [cell for cell in written.cells if cell.cell_type == "markdown" and "![" in cell.source]
        assert any(cell.get("attachments") for cell in shown), path.name
        looked = Path(__file__).with_name(f"test_notebook_{number}.py")
        assert number == "00" or "lab(places.notebooks()" in looked.read_text(encoding="utf-8"), looked.name


def held(cell):
    return cell.cell_type, cell.source, cell.get("attachments")


# ---- widgets while a cell runs, and after the notebook was closed ----


def test_widgets_say_that_they_wait_while_a_cell_runs(tiny, tmp_path):
    page = tiny.page
    slider, drawing = Slider(page), Pad(page)
    assert lines(tiny) == []
    slider.press("ArrowRight")
    drawing.press("Clear all boxes")
    assert lines(tiny) == []  # it was answered
    page.evaluate(
        """() => {
            const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            kernel.requestExecute({ code: 'time.sleep(6)' });
        }"""
    )
    before = slider.picture.get_attribute("src")
    slider.handle.press("ArrowRight")
    page.get_by_role("radio", name="up").check()
    drawing.button("Signs").click()
    tiny.wait_for(f"[...document.querySelectorAll('{LINES}')].filter(e => /^Waiting: /.test(e.innerText)).length === 3")
    page.screenshot(path=tmp_path / "waiting.png")
    assert slider.picture.get_attribute("src") == before
    tiny.wait_for(f"[...document.querySelectorAll('{LINES}')].every(e => e.innerText === '')")
    slider.box.locator("img[alt*='to 0.22']").wait_for(timeout=PATIENCE)
    page.get_by_text("Your guess is kept: up.").wait_for(timeout=PATIENCE)
    assert drawing.verdict.startswith("This is ")


def test_a_reopened_notebook_shows_what_it_showed_and_says_how_it_lives_again(tiny, tmp_path):
    page = tiny.page
    Slider(page).press("End")
    page.get_by_role("radio", name="down").check()
    page.get_by_text("Your guess is kept: down.").wait_for(timeout=PATIENCE)
    Pad(page).press('Fill the boxes with the sample drawings "Runes"')
    shown = Pad(page).percentages
    tiny.do("docmanager:save")
    # the second time it was saved while no kernel had its widgets
    for time in ("first", "second"):
        tiny.end_kernels()
        tiny.open(TINY)
        tiny.wait_for(f"[...document.querySelectorAll('{LINES}')].filter(e => e.innerText).length === 3", seconds=180)
        tiny.wait_for("document.querySelectorAll('.mlcourse-saved').length === 2")
        page.screenshot(path=tmp_path / f"reopened-{time}.png")
        assert errors(tiny) == 0
        assert all("run the cells above" in text and "then this cell" in text for text in lines(tiny))
        expect(page.locator("img[alt='A straight line that rises from nought to 1.00']")).to_have_count(1)
        assert page.get_by_role("radio", name="down", include_hidden=True).is_checked()
        assert Pad(page).percentages == shown
        # what nobody would answer cannot be moved
        assert page.locator(".noUi-handle").evaluate("handle => handle.closest('[inert]') !== null")
        tiny.do("notebook:insert-cell-below")
        tiny.do("docmanager:save")
    tiny.run_all()
    tiny.wait_for(f"[...document.querySelectorAll('{LINES}')].every(e => e.innerText === '')")
    slider = Slider(page)
    slider.press("ArrowRight")
    assert slider.picture.get_attribute("alt").endswith("0.21")
    Pad(page).press("Clear all boxes")
    # and only what is shown is kept, however often the cells have run
    tiny.do("docmanager:save")
    few = len((tiny.work / TINY).read_text(encoding="utf-8"))
    tiny.run_all()
    tiny.do("docmanager:save")
    assert len((tiny.work / TINY).read_text(encoding="utf-8")) < 1.2 * few


def test_a_reloaded_page_whose_kernel_lives_is_alive(tiny):
    tiny.do("docmanager:save")
    tiny.open(TINY)
    slider = Slider(tiny.page)
    slider.press("ArrowRight")
    assert slider.picture.get_attribute("alt").endswith("0.21")
    assert (errors(tiny), lines(tiny)) == (0, [])


def test_a_restarted_kernel_is_said_too(tiny):
    tiny.page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    tiny.wait_for(f"[...document.querySelectorAll('{LINES}')].filter(e => e.innerText).length === 3")
    assert all("run the cells above" in text for text in lines(tiny))


# ---- copies ----


def test_a_copy_that_jupyterlab_saved_or_ran_is_unchanged(door, tmp_path):
    course = door()
    before = (course.work / "00_start_here.ipynb").read_bytes()
    course.run_all(seconds=300)
    course.do("docmanager:save")
    course.open("01_inner_and_outer_losses.ipynb")
    course.do("notebook:insert-cell-below")
    course.do("notebook:delete-cell")
    course.do("docmanager:save")
    course.open("02_tasks_and_episodes.ipynb")
    course.page.locator(".jp-CodeCell .cm-content").nth(1).click()
    course.page.keyboard.type("my_answer = 1")
    course.do("docmanager:save")
    assert (course.work / "00_start_here.ipynb").read_bytes() != before
    source = tmp_path / "pulled"
    source.mkdir()
    for path in places.notebooks().glob("0[012]*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["cells"][-1]["source"] = "A new last word."
        (source / path.name).write_text(json.dumps(notebook), encoding="utf-8")
    done = prepare(source, course.work)
    assert done.updated == ["00_start_here.ipynb", "01_inner_and_outer_losses.ipynb"]
    assert list(done.beside) == ["02_tasks_and_episodes.ipynb"]


# ---- a lesson that has run ----


def solutions_are_folded(page):
    page.wait_for_timeout(500)
    solutions = page.locator(".jp-Notebook .jp-CodeCell", has_text=re.compile("^def solution_", re.M))
    assert solutions.count() >= 3
    assert [cell.evaluate("cell => cell.offsetHeight") for cell in solutions.all()] == [0] * solutions.count()
    expect(page.get_by_role("heading", name="The end")).to_be_visible()


def test_solutions_stay_folded_after_run_all(door, tmp_path):
    course = door("--notebook", "01")
    course.run_all(seconds=300)
    course.page.screenshot(path=tmp_path / "folded.png")
    solutions_are_folded(course.page)


def test_solutions_stay_folded_and_passed_and_not_yet_differ_in_sign_and_colour(door, tmp_path):
    course = door()
    course.run_all(seconds=300)
    solutions_are_folded(course.page)
    looks = {}
    for verdict in course.page.locator(".jp-OutputArea [role=status]:not(.mlcourse-kernel)").all():
        colour = verdict.evaluate("verdict => getComputedStyle(verdict).borderLeftColor")
        looks.setdefault(verdict.text_content()[0], set()).add(colour)
    assert set(looks) == {"○", "✓"}
    assert len(looks["○"]) == len(looks["✓"]) == 1
    assert looks["○"] != looks["✓"]
    course.page.get_by_text("○ Not yet").first.evaluate("verdict => verdict.scrollIntoView({ block: 'center' })")
    course.page.wait_for_timeout(1000)
    course.page.screenshot(path=tmp_path / "verdict.png")
