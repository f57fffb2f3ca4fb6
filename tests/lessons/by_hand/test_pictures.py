"""The pictures of notebook 05: the graph is PyTorch's own, the words say the numbers, the widget is fluent."""

import math

import pytest
import torch
from picture_helpers import assert_follows

from mlcourse.lessons.by_hand import pictures
from mlcourse.meta_gradients import estimators
from mlcourse.meta_gradients.estimators import Task
from mlcourse.teaching import figures
from mlcourse.teaching.widgets import Explorer

VALUES = [(0.2, 3), (0.4, 3), (0.55, 10), (0.0, 0), (0.25, 1)]


def one_step(create_graph, loss=lambda w: 0.5 * (w * 2.0 - 2.0) ** 2):
    theta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(theta), theta, create_graph=create_graph)
    phi = theta - 0.1 * slope
    return {"θ": theta, "slope": slope, "φ": phi, "L_outer": 0.5 * (phi * 3.0 - 1.0) ** 2}


def graph_of(tensors):
    return pictures.live_graph(tensors["L_outer"], tensors["φ"], tensors)


# ------------------------------------------------------------------ the factor


def test_the_factor_follows_its_controls():
    def no_minus_zero(values, caption, alt):
        assert "-0.000" not in caption + alt

    assert_follows(pictures.factor, pictures.factor_text, VALUES, says=no_minus_zero)


def test_the_words_of_the_factor():
    assert pictures.verdict(0.2, 1.0, 3) == "shrinks"
    assert pictures.verdict(0.2, 4.0, 3) == "vanishes"
    assert pictures.verdict(0.4, 4.0, 3) == "sign flipped"
    assert pictures.verdict(0.4, 4.0, 2) == "shrinks"
    assert pictures.verdict(0.55, 4.0, 2) == "explodes"
    assert pictures.verdict(0.55, 4.0, 3) == "explodes, sign flipped"
    assert pictures.verdict(0.0, 4.0, 3) == "passes unchanged"
    assert pictures.verdict(0.5, 4.0, 1) == "sign flipped"
    assert "a = 4: factor -0.216" in pictures.factor_text(0.4, 3)


def test_the_factor_is_the_derivative():
    for rate, steps in VALUES:
        for a in pictures.CURVATURES:
            task = Task(lambda w, a=a: 0.5 * a * (w - 1).square().sum(), lambda w: w.sum(), steps=steps, rate=rate)
            slope = estimators.by_autograd(torch.tensor([0.3], dtype=torch.float64), task).item()
            assert slope == pytest.approx((1 - rate * a) ** steps, abs=1e-12)


def test_in_the_widget():
    controls = {"inner_rate": (0.0, 0.6, 0.05, 0.2), "inner_steps": (0, 10, 1, 3)}
    one = Explorer(pictures.factor, alt=pictures.factor_text, **controls)
    before = one.image.value
    one.controls["inner_rate"].value = 0.4
    assert one.image.value != before
    assert "cannot be drawn" not in one.image.value
    assert "sign flipped" in one.image.value


# ------------------------------------------------------------------ the live graph


def test_the_graph_is_pytorchs_own():
    for flag in (True, False):
        tensors = one_step(flag)
        graph = graph_of(tensors)
        todo, seen = [tensors["L_outer"].grad_fn], set()
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += [below for below, _ in node.next_functions if below is not None]
        assert len(graph.nodes) == len(seen)
        assert sorted(node.name for node in graph.nodes) == sorted(node.name() for node in seen)
        assert all(graph.nodes[a].row < graph.nodes[b].row for a, b in graph.edges)


def test_one_edge_is_cut():
    whole, cut = (graph_of(one_step(flag)) for flag in (True, False))
    assert (whole.ways, cut.ways) == (2, 1)
    assert (whole.through, cut.through) == (True, False)
    assert [node.words for node in whole.nodes if node.words] == ["L_outer", "φ", "slope", "θ"]
    assert [node.words for node in cut.nodes if node.words] == ["L_outer", "φ", "θ"]
    assert not any(node.step for node in cut.nodes)
    # what is left without the step is the cut graph
    assert [n.name for n in whole.nodes if not n.step] == [n.name for n in cut.nodes]
    # from the node of φ one edge leads to θ and one into the step
    below = [whole.nodes[b] for a, b in whole.edges if a == whole.cut]
    assert sorted((node.words, node.step) for node in below) == [("", True), ("θ", False)]


def test_a_branching_step_and_a_straight_one():
    """A network with tanh has several ways through the step; a linear loss has none, although the graph is kept."""
    bent = graph_of(one_step(True, lambda w: torch.tanh(w) ** 2 + w**3))
    assert bent.ways > 2
    fig, ax = figures.subplots()
    pictures.draw_graph(ax, bent, max(node.row for node in bent.nodes) + 1)
    places = pictures.places_of(bent, max(node.row for node in bent.nodes) + 1)
    assert len(set(places)) == len(places), "two boxes stand in one place"
    assert figures.png(fig)
    straight = graph_of(one_step(True, lambda w: 3.0 * w))
    assert (straight.ways, straight.through) == (1, False)


def test_two_graphs_and_the_summary():
    fig, words = pictures.two_graphs(one_step)
    assert figures.check_text(words, fig) == words
    assert "it has 13 nodes" in words
    assert "it has 6 nodes" in words
    assert [ax.get_title(loc="left") for ax in fig.axes] == [
        "create_graph=True: 2 ways from the loss to θ",
        "create_graph=False: 1 way from the loss to θ",
    ]
    found = {1: torch.rand(3, 4), 3: torch.rand(3, 4)}
    assert figures.png(pictures.summary(one_step, [0.01, 0.1, 1.0, 2.0], found))


# ------------------------------------------------------------------ the others


def test_errors_cosines_and_kinks_are_drawn():
    curves = {"central": ([1e-1, 1e-2], [1e-3, 0.0])}
    assert figures.png(pictures.error_curves(curves, title="errors"))
    assert figures.png(pictures.kink([-1e-4, 0.0, 1e-4], {"tanh": [0.0, 1.0, 2.0]}, curves))
    assert figures.png(pictures.cosines([0.01, 0.1], {1: torch.rand(3, 2)}))


def test_work_is_zero_for_gradients_and_the_curl_else():
    centre = torch.tensor([0.3, -0.2], dtype=torch.float64)
    matrix = torch.tensor([[1.6, 0.3], [1.2, 0.4]], dtype=torch.float64)
    work = pictures.work_round(lambda at: matrix @ at, centre, radius=0.5)
    assert work == pytest.approx((1.2 - 0.3) * math.pi * 0.5**2, abs=1e-12)
    symmetric = matrix + matrix.T
    assert pictures.work_round(lambda at: symmetric @ at, centre, 0.5) == pytest.approx(0, abs=1e-12)
    ways = {"a": lambda at: matrix @ at, "b": lambda at: symmetric @ at}
    assert figures.png(pictures.fields(ways, lambda at: at @ symmetric @ at, centre, 0.5))


def test_the_words_of_a_kink_follow_the_data():
    """A jump is told where there is one, and not where the line is smooth."""
    smooth, torn = list(range(9)), [0, 1, 2, 3, 34, 35, 36, 37, 38]
    curves = {"tanh": ([1e-1, 1e-2], [1e-3, 1e-5])}
    words = pictures.kink_text({"tanh": smooth, "ReLU": torn}, curves)
    assert "tanh 1.0 times, ReLU 31.0 times" in words
    assert "tanh 1e-05" in words
    assert "the smallest: tanh" in pictures.kink_text({"tanh": [1.0, 1.0, 1.0]}, curves), (
        "a flat line is no division by 0"
    )
