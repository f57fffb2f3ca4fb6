"""A widget as a stack of pictures: which values it shows, in which order, and that each has its text."""

import re
from dataclasses import replace

import ipywidgets
import pytest
import torch
from matplotlib.figure import Figure

from mlcourse.teaching import stacks, widgets
from mlcourse.teaching.output import Output
from mlcourse.teaching.pad import replay
from mlcourse.teaching.pad.samples import sample_sets

ALT = "A line that rises from the lower left to the upper right, number {}."


def controls(**wishes):
    return {name: widgets.control(name, wish) for name, wish in wishes.items()}


BIG = [
    ({"rate": (0.0, 1.0, 0.1, 0.3)}, [11], ""),  # all values where there are few
    ({"rate": (0.0, 1.0, 0.01, 0.35)}, [36], ""),
    ({"steps": (0, 6, 1, 1), "rate": (0.0, 0.6, 0.05, 0.2)}, [6, 6], ""),
    ({"rule": ["a", "b", "c"], "on": True, "x": (-4.0, 4.0, 0.25, -1.5)}, [3, 2, 6], ""),
    # every combination would leave two values for a slider: one of them moves at a time
    ({"a": (0, 9, 1, 4), "b": (0, 9, 1), "c": (0, 9, 1), "d": (0, 9, 1), "e": False}, [9, 9, 10, 10, 2], "abcde"),
    (
        {"w": list("abcdefghij"), "a": (0, 99, 1), "b": (0, 9, 1), "c": (0, 9, 1)},
        [9, 10, 10, 10],
        "wabc",
    ),
    (dict.fromkeys("abcdef", False), [2, 2, 2, 2, 2, 2], "abcdef"),
]
LITTLE = [
    ({"rate": (0.0, 0.6, 0.05, 0.2), "steps": (0, 10, 1, 3)}, [13, 11], ""),  # 143: all
    ({"rate": (0.0, 1.0, 0.01, 0.35)}, [101], ""),
    ({"rate": (0.0, 2.0, 0.01, 0.35)}, [36], ""),
    ({"w": list("abcde"), "c": list("abcd"), "s": [1, 5], "p": False, "t": ["x", "y", "z"]}, [5, 4, 2, 2, 3], ""),
    # the lists together, and for each choice one slider at a time
    (
        {"t": (0, 5, 1), "p": list("abcdef"), "x": (0, 31, 1, 16), "y": (0, 31, 1, 16), "s": (2, 32, 2, 8)},
        [6, 6, 7, 7, 8],
        "txys",
    ),
    ({"a": (0, 9, 1, 4), "b": (0, 9, 1), "c": (0, 9, 1), "d": (0, 9, 1)}, [9, 10, 10, 10], "abcd"),
]


@pytest.mark.parametrize(
    ("wishes", "counts", "alone", "small"), [*((*one, False) for one in BIG), *((*one, True) for one in LITTLE)]
)
def test_a_stack_has_not_too_many_pictures_and_the_start_is_one(wishes, counts, alone, small):
    made = controls(**wishes)
    stack = stacks.stack_of(made, small)
    axes = stack.axes
    assert "".join(axis.name for axis in axes if axis.alone) == alone
    most = (stacks.ALL if any(axis.slides for axis in axes) else stacks.CHOICES) if small else stacks.MOST
    assert len(set(stack.choices())) == len(stack.choices()) <= most
    assert tuple(axis.start for axis in axes) in stack.choices()
    assert [len(axis.values) for axis in axes] == counts
    for axis in axes:
        assert axis.values[axis.start] == made[axis.name].value
        assert len(axis.words) == len(axis.values)
        assert sorted(set(map(str, axis.values))) == sorted(map(str, axis.values))


def test_the_ends_of_a_slider_are_shown():
    (axis,) = stacks.stack_of(controls(rate=(0.0, 1.0, 0.01, 0.35))).axes
    assert (axis.values[0], axis.values[-1]) == (0.0, 1.0)
    assert axis.values == sorted(axis.values)
    assert axis.words[axis.start] == "0.35"


def test_a_control_of_ones_own_with_a_step_is_a_slider_and_one_without_stays():
    mine = {"a": ipywidgets.IntSlider(min=1, max=3, description="a"), "b": ipywidgets.Text("x", description="b")}
    assert [axis.name for axis in stacks.stack_of(mine).axes] == ["a"]


def test_pictures_lie_in_the_order_that_the_program_counts():
    page = stacks.page(
        stacks.stack_of(controls(a=["x", "y"], b=(1, 3, 1, 2))), lambda values: f"<i>{values['a']}{values['b']}</i>"
    )
    assert re.findall(r"<i>(..)</i>", page) == ["x1", "x2", "x3", "y1", "y2", "y3"]
    assert re.findall(r"<div( hidden)?><i>", page) == [" hidden", "", *[" hidden"] * 4]  # x2: the start
    assert page.count("<select") == page.count('type="range"') == 1
    assert page.count("<label>") == 2  # each control has its name


def alone(stack: stacks.Stack, names: str) -> stacks.Stack:
    return stacks.Stack([replace(axis, alone=axis.name in names) for axis in stack.axes])


def test_one_at_a_time_the_start_comes_first_then_each_control_in_turn():
    over = stacks.stack_of(controls(a=["x", "y"], b=(1, 3, 1, 2)))
    page = stacks.page(alone(over, "ab"), lambda values: f"<i>{values['a']}{values['b']}</i>")
    assert re.findall(r"<i>(..)</i>", page) == ["x2", "y2", "x1", "x3"]
    assert re.findall(r"<div( hidden)?><i>", page) == ["", " hidden", " hidden", " hidden"]
    assert stacks.ONE_AT_A_TIME.format("a, b") in page


def test_lists_together_come_in_blocks_of_what_moves_alone():
    over = stacks.stack_of(controls(b=(1, 3, 1, 2), a=["x", "y"], c=(7, 8, 1, 7)))
    page = stacks.page(alone(over, "bc"), lambda values: f"<i>{values['a']}{values['b']}{values['c']}</i>")
    assert re.findall(r"<i>(...)</i>", page) == ["x27", "x17", "x37", "x28", "y27", "y17", "y37", "y28"]
    assert page.count("data-alone") == 2
    assert stacks.ONE_AT_A_TIME.format("b, c") in page


def test_choices_with_the_same_picture_share_it():
    over = stacks.stack_of(controls(a=["x", "y"], b=(1, 3, 1, 2)))
    page = stacks.page(over, lambda values: f"<i>{values['a'] if values['b'] > 1 else 'z'}</i>")
    assert re.findall(r"<i>(.)</i>", page) == ["z", "x", "y"]
    assert 'data-of="0 1 1 0 2 2"' in page
    assert re.findall(r"<div( hidden)?><i>", page) == [" hidden", "", " hidden"]
    assert "Recorded: 3 pictures, for all 6 combinations of these values." in page


@pytest.mark.parametrize(
    ("wishes", "shown", "gone"),
    [
        ({"a": ["x", "y"], "b": (1, 9, 1, 2), "c": (1, 9, 1, 2)}, ["a"], "b, c"),
        ({"b": (0, 99, 1, 2), "a": ["x", "y"], "c": (0, 99, 1, 2), "d": (0, 99, 1)}, ["a"], "b, c, d"),
        ({"b": (1, 9, 1, 2)}, [], "b"),
        ({"a": ["x", "y"]}, ["a"], ""),
    ],
)
@pytest.mark.parametrize("small", [True, False])
def test_a_control_that_changes_no_picture_is_left_out_and_named(wishes, shown, gone, small):
    def draw(values):  # the text names what the picture does not show
        return f'<img alt="A picture of {values}" src="{values.get("a")}">'

    page = stacks.recorded(controls(**wishes), draw, small)
    assert re.findall(r"<label>(\w+) ", page) == shown
    assert page.count("<img") == 2 ** len(shown)
    told = f"Left out, because no recorded picture changes with them: {gone}."
    assert (told in page) == bool(gone)
    assert f'href="../{stacks.START}.html"' in page


def test_a_control_stays_that_acts_only_where_another_stands_elsewhere():
    def draw(values):
        return f"<i>{values['a']}{values['b'] if values['a'] == 'y' else ''}</i>"

    page = stacks.recorded(controls(a=["x", "y"], b=(0, 99, 1, 2), c=(0, 99, 1, 2)), draw, small=True)
    assert re.findall(r"<label>(\w+) ", page) == ["a", "b"]


def test_the_line_says_what_was_recorded():
    def line_of(stack):
        return re.search(r'<p class="stack-line">(.*?)</p>', stacks.page(stack, str, "More."))[1]

    few = stacks.stack_of(controls(b=(1, 3, 1, 2)))
    assert line_of(few).startswith("Recorded: 3 pictures, for all 3 combinations of these values. More. <a")
    for thinned in (stacks.stack_of(controls(b=(1, 99, 1, 2))), alone(few, "b")):
        assert "In the living course each control takes every value" in line_of(thinned)
        assert "for all" not in line_of(thinned)


def test_what_cannot_be_drawn_is_said_in_its_place():
    def draw(values):
        if values["a"] == 2:
            raise ValueError("no <two>")
        return "<i>"

    page = stacks.page(stacks.stack_of(controls(a=(1, 3, 1))), draw)
    assert page.count("<i>") == 1  # of 1 and 3, which look alike
    assert "This picture cannot be drawn. ValueError: no &lt;two&gt;" in page


def line(a=1, fig=None):
    fig = Figure(figsize=(2, 1))
    fig.subplots().plot([0, a])
    return fig


def test_explore_gives_a_stack_only_while_the_site_is_made(monkeypatch):
    shown = []
    monkeypatch.setattr(Output, "show", lambda self: shown.append(self.forms["text/html"]))
    widgets.explore(line, alt=lambda a: ALT.format(a), a=(1, 4, 1))
    monkeypatch.setenv(stacks.VARIABLE, "1")
    widgets.explore(line, alt=lambda a: ALT.format(a), a=(1, 4, 1))
    usual, site = shown
    assert 'class="stack"' not in usual
    assert usual.count("<img") == 1
    assert re.findall(r'alt="([^"]*)"', site) == [ALT.format(a) for a in (1, 2, 3, 4)]
    assert site.count("<div hidden>") == 3


def test_a_stack_takes_no_random_number_from_the_lesson(monkeypatch):
    monkeypatch.setattr(Output, "show", lambda self: None)
    monkeypatch.setenv(stacks.VARIABLE, "1")

    def noisy(a=1):
        torch.rand(5)
        return line(a)

    torch.manual_seed(0)
    explorer = widgets.Explorer(noisy, alt=lambda a: ALT.format(a), a=(1, 4, 1))  # draws once, as without a site
    state = torch.get_rng_state()
    explorer.show()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_stack_moves_no_control():
    explorer = widgets.Explorer(line, alt=lambda a: ALT.format(a), a=(1, 4, 1))
    stacks.page(stacks.stack_of(explorer.controls), explorer._frame)
    assert explorer.values() == {"a": 1}


def test_the_pad_replays_strokes_with_the_answer_in_words():
    one = sample_sets()[0]
    made = replay.page(one["support"], one["queries"][0]["drawing"], [0.1, 0.6, 0.1, 0.1, 0.1], "B <best>")
    assert 'role="img" aria-label="B &lt;best&gt;"' in made
    strokes = sum(len(drawing) for drawing in [*one["support"], one["queries"][0]["drawing"]])
    assert made.count("<path") == strokes
    assert made.count("pad-stroke") == len(one["queries"][0]["drawing"])
    assert made.count("pad-best") == 1
    assert [len(axis.values) for axis in replay.stack(sample_sets()).axes] == [3, 5]
