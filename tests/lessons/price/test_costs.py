"""What notebook 07 measures with, and its pictures: the formula is what autograd keeps, the words are what is drawn."""

import ast
import time
from functools import partial
from types import SimpleNamespace

import nbformat
import pytest
import torch
from ipywidgets import SelectionSlider
from picture_helpers import assert_follows
from torch.func import functional_call
from torch.nn import functional as F

from mlcourse import inner, networks, places
from mlcourse.errors import CourseError
from mlcourse.lessons.price import costs
from mlcourse.lessons.price.pictures import Kept, bias, bill, in_words, trade
from mlcourse.teaching import stacks
from mlcourse.teaching.widgets import Explorer

COSTS = costs.Costs(step=370_000, phi=30_000, queries=215_000, support=15_000)
VALUES = [("exact", 16, 4), ("checkpointed", 36, 6), ("truncated", 5, 9), ("first-order", 1, 1), ("Reptile", 30, 2)]


def methods(channels):
    """Unrolls of a small network as in the notebook, by name: call(steps, keep); and the costs of one step."""
    torch.manual_seed(0)
    network = networks.Conv4(channels=channels, out=5, downsample="stride")
    theta, labels = inner.parameters(network), torch.arange(5)
    x, query = torch.rand(5, 1, 28, 28), torch.rand(5, 1, 28, 28)

    def forward(params, x):
        return functional_call(network, params, (x,))

    def through(adapt, **options):
        phi = adapt(forward, theta, x, labels, rate=0.1, **options)
        return inner.gradient(F.cross_entropy(forward(phi, query), labels), theta)

    calls = {
        "exact": lambda T, keep: through(inner.adapt, steps=T),
        "truncated": lambda T, keep: through(inner.adapt_truncated, steps=T, last=keep),
        "checkpointed": lambda T, keep: through(inner.adapt_checkpointed, steps=T, every=keep),
        "first-order": lambda T, keep: through(inner.adapt, steps=T, first_order=True),
    }
    kept = {T: costs.measured(partial(calls["exact"], T, 0))[1] for T in (1, 2)}
    once = costs.measured(partial(calls["first-order"], 1, 0))[1]
    phi = sum(value.nbytes for value in theta.values())
    return calls, costs.Costs(step=kept[2] - kept[1], phi=phi, queries=once, support=x.nbytes)


@pytest.mark.parametrize("channels", [4, 16])
def test_the_formula_is_what_autograd_keeps(channels):
    calls, bytes_of = methods(channels)
    for method, steps, keep in (("exact", 1, 0), ("exact", 9, 0), ("truncated", 9, 3), ("truncated", 2, 5)):
        assert costs.measured(partial(calls[method], steps, keep))[1] == bytes_of.kept(method, steps, keep)
    assert costs.measured(partial(calls["first-order"], 9, 0))[1] == bytes_of.kept("first-order", 9)
    for steps, keep in ((9, 2), (9, 4), (5, 5), (6, 1)):
        measured = costs.measured(partial(calls["checkpointed"], steps, keep))[1]
        assert abs(measured - bytes_of.kept("checkpointed", steps, keep)) <= 0.1 * bytes_of.phi


def test_an_unknown_method_is_refused():
    with pytest.raises(CourseError, match="method 'magic' is unknown"):
        COSTS.kept("magic", 3)


def test_measured_gives_value_bytes_and_seconds():
    x = torch.ones(1000, requires_grad=True)
    value, kept, seconds = costs.measured(lambda: (x.exp().sum(), time.sleep(0.01)))
    assert value[0].item() == pytest.approx(1000 * torch.e, rel=1e-5)
    assert kept == 4000
    assert seconds >= 0.01


def test_error_and_cosine():
    exact = torch.tensor([3.0, 4.0])
    assert costs.error(exact, exact) == 0
    assert costs.error(2 * exact, exact) == pytest.approx(1)
    assert costs.cosine(2 * exact, exact) == pytest.approx(1)
    assert costs.cosine(torch.tensor([-4.0, 3.0]), exact) == pytest.approx(0)


# ------------------------------------------------------------------ pictures


def test_the_picture_follows_its_controls():
    def the_words_begin_with_the_caption(values, caption, alt):
        assert alt.startswith(caption[:-1])

    kept = Kept(COSTS)
    assert_follows(kept.draw, kept.text, VALUES, says=the_words_begin_with_the_caption)


def test_the_words_count_the_squares():
    kept = Kept(COSTS)
    assert "graph alive 2, graph made in its turn 0, no graph 8" in kept.text("truncated", 10, 2)
    assert "graph alive 2, graph made in its turn 8, no graph 0" in kept.text("checkpointed", 10, 4)
    assert "graph alive 4, graph made in its turn 6, no graph 0" not in kept.text("checkpointed", 10, 5)
    assert "graph alive 3, graph made in its turn 0, no graph 0" in kept.text("checkpointed", 3, 5)
    assert "no graph 7" in kept.text("Reptile", 7, 1)
    assert "n = 4" in kept.text("checkpointed", 10, 4)
    assert "R = 2" in kept.text("truncated", 10, 2)


def test_in_the_widget():
    one = explorer_of_the_notebook()
    before = one.image.value
    one.controls["method"].value = "checkpointed"
    assert one.image.value != before
    assert "cannot be drawn" not in one.image.value
    assert "checkpointed, n = 4, T = 16" in one.image.value


def test_a_page_without_a_kernel_holds_what_the_tasks_ask_for():
    """T = 2 and the T that keeps ten times as much, which is more than 20; T = 36; all methods."""
    page = stacks.stack_of(explorer_of_the_notebook().controls, small=True)
    values = {axis.name: set(axis.values) for axis in page.axes}
    assert values["method"] == set(costs.METHODS)
    assert {2, 20, 26, 36} <= values["inner_steps"]
    assert {1, 2, 3, 4, 6, 9, 12, 18} <= values["R_or_n"]
    assert not any(axis.alone for axis in page.axes)


def explorer_of_the_notebook() -> Explorer:
    """What the notebook's own cell asks for, with other costs."""
    [source] = [
        cell.source
        for cell in nbformat.read(places.notebooks() / "07_the_price_of_unrolling.ipynb", as_version=4).cells
        if "kept_picture.draw" in cell.source
    ]
    call = ast.Expression(ast.parse(source).body[-1].value)
    names = {"widgets": SimpleNamespace(explore=Explorer), "kept_picture": Kept(COSTS), "METHODS": costs.METHODS}
    return eval(compile(call, "the notebook's cell", "eval"), names | {"SelectionSlider": SelectionSlider})


def test_the_other_pictures_draw_what_they_are_given():
    steps, rates, kept = (1, 4), (0.01, 0.1), (0, 1, 2)
    by_method = {name: [1e6 * (index + 1), 2e6] for index, name in enumerate(costs.METHODS)}
    errors = {"one": [0.1, 0.5], "two": [0.2, 0.9]}
    left, right = bill(by_method, by_method, steps).axes
    assert [line.get_ydata()[0] for line in left.lines] == [1, 2, 3, 4, 5]
    assert right.lines[0].get_ydata()[0] == 1e9
    left, right = bias(rates, errors, kept, {"one": [0.3, 0.2, 0], "two": [0.9, 0.8, 0]}).axes
    assert list(left.lines[1].get_ydata()) == [0.2, 0.9]
    assert list(right.lines[0].get_ydata()) == [0.3, 0.2, 0]
    left, right = trade(steps, by_method, rates, errors).axes
    assert len(left.lines) == 5
    assert list(right.lines[0].get_ydata()) == [0.1, 0.5]
    assert in_words(errors) == "one from 0.1 to 0.5, two from 0.2 to 0.9"
