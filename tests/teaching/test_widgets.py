"""`explore`, without a browser (tests/browser has it in one)."""

import os
import re
import subprocess
import sys

import ipywidgets
import matplotlib.pyplot as plt
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from mlcourse.errors import CourseError
from mlcourse.teaching import figures, output, tidy, widgets
from mlcourse.teaching.widgets import Explorer, control

TEXT = "A curve that rises from nought to nine, steeper with the rate"


def draw(rate=0.5):
    fig, ax = figures.subplots()
    ax.plot([rate * x for x in range(10)])
    return fig


def source(explorer):
    return re.search(r'src="([^"]+)"', explorer.image.value)[1]


def test_the_picture_follows_the_control_and_carries_its_text():
    explorer = Explorer(draw, alt=lambda rate: f"{TEXT}, here {rate:.1f}", rate=(0.0, 1.0, 0.1, 0.5))
    before = source(explorer)
    assert "here 0.5" in explorer.image.value
    explorer.controls["rate"].value = 0.7
    assert source(explorer) != before
    assert "here 0.7" in explorer.image.value
    assert explorer.narrator.said.endswith("here 0.7")
    explorer.controls["rate"].value = 0.7
    assert explorer.drawn == 2  # the same value again draws nothing


def test_reset_draws_once_and_gives_the_first_picture_back():
    def two(a, b):
        return draw(a + b)

    explorer = Explorer(two, alt=TEXT, a=(0, 5, 1, 2), b=[1, 2, 3])
    before = source(explorer)
    explorer.controls["a"].value, explorer.controls["b"].value = 5, 3
    drawn = explorer.drawn
    explorer.reset.click()
    assert explorer.values() == {"a": 2, "b": 1}
    assert (source(explorer), explorer.drawn) == (before, drawn + 1)


def test_a_figure_is_handed_back_to_a_draw_that_takes_it():
    seen = []

    def reuse(rate, fig=None):
        seen.append(fig)
        return fig or draw(rate)

    explorer = Explorer(reuse, alt=TEXT, rate=(0.0, 1.0, 0.1))
    explorer.controls["rate"].value = 0.5
    explorer.controls["rate"].value = 0.6
    assert seen[0] is None
    assert seen[1] is seen[2] is not None


def test_errors_are_raised_at_the_first_drawing_and_shown_later():
    def fails(rate):
        if rate > 0.5:
            raise ValueError("too\nfast <b>")
        return draw(rate)

    with pytest.raises(ValueError, match="too"):
        Explorer(fails, alt=TEXT, rate=(0.0, 1.0, 0.1, 0.9))
    explorer = Explorer(fails, alt=TEXT, rate=(0.0, 1.0, 0.1))
    explorer.controls["rate"].value = 0.9
    shown = explorer.image.value
    assert shown == '<p role="alert">This picture cannot be drawn. ValueError: too fast &lt;b&gt;</p>'
    explorer.controls["rate"].value = 0.2
    assert "<img " in explorer.image.value


def test_text_below_the_picture():
    explorer = Explorer(lambda rate: (draw(rate), f"rate < {rate}"), alt=TEXT, rate=[1, 2])
    explorer.controls["rate"].value = 2
    assert explorer.text.value == "<p>rate &lt; 2</p>"


def test_pyplot_figures_are_not_left_open_for_the_notebook_to_show_again():
    plt.close("all")
    mine = plt.figure()

    def with_pyplot(rate):
        fig, ax = plt.subplots()
        ax.plot([rate, 1])
        return fig

    explorer = Explorer(with_pyplot, alt=TEXT, rate=(0, 3, 1))
    explorer.controls["rate"].value = 2
    assert plt.get_fignums() == [mine.number]
    plt.close("all")


@pytest.mark.parametrize(
    ("wish", "kind"),
    [
        ((0, 5, 1), ipywidgets.IntSlider),
        ((0, 5, 1, 3), ipywidgets.IntSlider),
        ((0.0, 5, 1), ipywidgets.FloatSlider),
        ([1, 2], ipywidgets.Dropdown),
        ({"one": 1}, ipywidgets.Dropdown),
        (True, ipywidgets.Checkbox),
        (ipywidgets.IntText(3), ipywidgets.IntText),
    ],
)
def test_controls_have_the_name_as_label(wish, kind):
    made = control("inner_rate", wish)
    assert type(made) is kind
    assert made.description == "inner rate"


@pytest.mark.parametrize("wish", [(0, 1), (1, 0, 1), (0, 5, 0), (0, 5, 1, 9), [], "text", 3, None, ("a", "b", "c")])
def test_controls_that_make_no_sense_are_one_line(wish):
    with pytest.raises(CourseError, match="control rate=") as caught:
        control("rate", wish)
    assert "\n" not in str(caught.value)


def test_readout_shows_as_many_decimals_as_the_step_has():
    assert control("rate", (0.0, 1.0, 0.005)).readout_format == ".3f"


@pytest.mark.parametrize(
    ("drawing", "alt", "part"),
    [
        (lambda rate: None, TEXT, "draw returned a NoneType"),
        (draw, "short", "alternative text"),
        (draw, lambda rate: "short", "alternative text"),
    ],
)
def test_what_explore_refuses(drawing, alt, part):
    with pytest.raises(CourseError, match=part):
        widgets.explore(drawing, alt=alt, rate=(0, 3, 1))
    with pytest.raises(CourseError, match="no control"):
        widgets.explore(draw, alt=TEXT)


def test_the_one_output_has_the_view_and_the_picture_of_the_defaults(monkeypatch):
    seen = []
    monkeypatch.setattr(output, "display", seen.append)
    widgets.explore(lambda rate: (draw(rate), "Ends at nine."), alt=TEXT, rate=(0, 3, 1, 1))
    (one,) = seen
    forms, _ = one._repr_mimebundle_()
    assert set(forms) == {output.WIDGET, "text/html", "image/png", "text/plain"}
    assert forms["text/html"].endswith("<p>Ends at nine.</p>")
    assert forms["text/plain"] == f"Picture: {TEXT}\nEnds at nine."


NOTEBOOK = f"""\
from mlcourse.teaching import figures, lesson, widgets
def draw(rate):
    fig, ax = figures.subplots()
    ax.plot([rate, 2, 3])
    return fig
for _ in range(3):
    widgets.explore(draw, alt="{TEXT}", rate=(0.0, 1.0, 0.1))
lesson.predict("Up or down?", ["up", "down"], key="99.p1")"""


def test_papermill_ends_and_html_shows_each_picture_once_with_its_text(tmp_path):
    path, done = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(NOTEBOOK)], metadata={"kernelspec": tidy.KERNEL}), path)
    command = [sys.executable, "-m", "papermill", "--execution-timeout", "120", "--no-progress-bar", path, done]
    subprocess.run(
        command, check=True, timeout=180, capture_output=True, env={**os.environ, "MLCOURSE_WORK": str(tmp_path)}
    )
    from nbconvert import HTMLExporter

    notebook = nbformat.read(done, as_version=4)
    notebook.metadata.pop("widgets", None)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert len(re.findall(rf'<img [^>]*alt="{TEXT}"', page)) == 3
    assert page.count("<img ") == 3
    assert "<li>up</li>" in page


def test_the_narrator_is_told_of_its_controls_and_hears_each_change():
    explorer = Explorer(draw, alt=TEXT, rate=(0.0, 1.0, 0.1, 0.5))
    narrator = explorer.narrator
    assert narrator.own == narrator.model_id
    assert narrator.watched == [explorer.controls["rate"].model_id]
    assert narrator in explorer.box.children
    explorer.controls["rate"].value = 0.7
    assert narrator.heard == 1
    explorer.reset.click()
    assert narrator.heard == 2


def test_a_change_that_cannot_be_drawn_is_heard_too():
    def fails(rate):
        if rate == 1:
            raise ValueError("no")
        return draw(rate)

    explorer = Explorer(fails, alt=TEXT, rate=[0, 1])
    explorer.controls["rate"].value = 1
    assert explorer.narrator.heard == 1
