"""The drawing pad without a browser: strokes to pictures, pictures to strokes, and the widget's answers."""

import base64
import random

import pytest
import torch

from mlcourse import learners
from mlcourse.datasets.images import ClassImages
from mlcourse.errors import CourseError
from mlcourse.learners.base import Learner
from mlcourse.teaching import pad
from mlcourse.teaching.pad import strokes
from mlcourse.teaching.pad.samples import SETS, sample_sets

SAMPLES = sample_sets()
DRAWINGS = [drawing for one in SAMPLES for drawing in one["support"]]


def moved(drawing, scale=1.0, x=0.0, y=0.0):
    return [[[scale * px + x, scale * py + y] for px, py in stroke] for stroke in drawing]


@pytest.fixture(scope="module")
def network():
    """A prototypical network with running statistics that are not those of a fresh network; untrained otherwise."""
    learner = learners.build("prototypical", way=5, seed=1)
    for seed in range(3):
        images = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
        learner.train().adapt(images[None], torch.arange(8)[None])
    return learner.eval()


class Fixed(Learner):
    """Answers with given logits, whatever is asked."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def inner_process(self, support_x, support_y, **_):
        return {}

    def predict(self, state, query_x):
        return self.logits


# ---- strokes to pictures ----


@pytest.mark.parametrize("index", range(len(DRAWINGS)))
def test_place_and_size_do_not_matter(index):
    picture = strokes.rasterise(DRAWINGS[index])
    for scale, x, y in ((1.0, 0.3, -0.2), (0.3, 0.0, 0.5), (250.0, 40.0, 7.0)):
        assert torch.allclose(strokes.rasterise(moved(DRAWINGS[index], scale, x, y)), picture, atol=1e-5)


def test_order_and_direction_of_strokes_do_not_matter():
    drawing = DRAWINGS[4]
    shuffled = [stroke[::-1] for stroke in drawing]
    random.Random(3).shuffle(shuffled)
    assert torch.allclose(strokes.rasterise(shuffled), strokes.rasterise(drawing), atol=1e-6)


def test_ink_lies_between_paper_and_full_and_in_the_box():
    pictures = strokes.rasterise_all(DRAWINGS)
    assert pictures.shape == (len(DRAWINGS), 1, 28, 28)
    assert pictures.dtype == torch.float32
    assert float(pictures.min()) == 0.0
    assert 0.9 < float(pictures.max()) <= 1.0
    margin = 3  # the longer side has 20 pixels and half a pen on each side
    assert float(pictures[..., :margin, :].sum() + pictures[..., -margin:, :].sum()) == 0.0
    assert float(pictures[..., :, :margin].sum() + pictures[..., :, -margin:].sum()) == 0.0
    long_side = [max(map(len, (p[0].amax(0).nonzero(), p[0].amax(1).nonzero()))) for p in pictures]
    assert min(long_side) >= 20


def test_no_points_give_empty_paper():
    for nothing in ([], [[]], [[], []]):
        assert float(strokes.rasterise(nothing).abs().sum()) == 0.0
    assert strokes.rasterise_all([]).shape == (0, 1, 28, 28)


def test_a_dot_is_a_dot_in_the_middle():
    dot = strokes.rasterise([[[0.8, 0.1]]])
    assert float(dot[0, 13:15, 13:15].min()) > 0.3
    assert float(dot.sum()) == pytest.approx(3.14159 / 4 * strokes.PEN**2, rel=0.35)
    # A hand that shakes by less than a hundredth of the pad still makes a dot, not a scribble of full size.
    shaky = strokes.rasterise([[[0.5, 0.5], [0.504, 0.502], [0.501, 0.506]]])
    assert int((shaky > 0).sum()) <= 49


def test_a_horizontal_line_has_the_ink_of_its_area():
    line = strokes.rasterise([[[0.1, 0.5], [0.9, 0.5]]], pen=2.0)
    assert float(line[0, :, 10].sum()) == pytest.approx(2.0, abs=1e-5)  # a column through the line: the pen's width
    thin = strokes.rasterise([[[0.1, 0.5], [0.9, 0.5]]], pen=0.5)
    assert float(thin[0, :, 10].sum()) == pytest.approx(0.5, abs=0.51)
    assert 0 < float(thin.max()) <= 0.5 + 1e-6  # a pen that is thinner than a pixel gives grey


def test_a_point_drawn_twice_changes_nothing():
    drawing = DRAWINGS[0]
    doubled = [[point for point in stroke for _ in range(2)] for stroke in drawing]
    assert torch.allclose(strokes.rasterise(doubled), strokes.rasterise(drawing), atol=1e-6)


def test_many_points_are_measured_in_parts():
    long = [[[i / 3000, (i * 37 % 100) / 100] for i in range(3000)]]
    assert strokes.rasterise(long).shape == (1, 28, 28)


@pytest.mark.parametrize(
    "bad",
    [
        [[[0.1, float("nan")]]],
        [[[0.1, float("inf")]]],
        [[0.1, 0.2]],
        [[[1, 2, 3]]],
        [[["a", "b"]]],
        [[[0.1], [0.2, 0.3]]],
    ],
)
def test_points_that_are_no_points_are_named(bad):
    with pytest.raises(CourseError, match=r"stroke 1 is not a list of points \[x, y\]"):
        strokes.rasterise(bad)


def test_a_pen_needs_a_width():
    with pytest.raises(CourseError, match="give a width above 0"):
        strokes.rasterise(DRAWINGS[0], pen=0.0)


# ---- pictures to strokes ----


@pytest.mark.parametrize("index", range(len(DRAWINGS)))
def test_a_traced_drawing_gives_the_same_picture(index):
    """Draw large with a broad pen, trace, and send the strokes through the pipeline: the picture comes back."""
    picture = strokes.rasterise(DRAWINGS[index])
    again = strokes.redraw(picture[None])[0]
    # The same up to a pixel: most ink has ink of the other within one pixel's reach, both ways.
    reach = torch.nn.functional.max_pool2d
    for one, other in ((picture, again), (again, picture)):
        missed = (one > 0.5) & (reach(other[None], 3, 1, 1)[0] < 0.3)
        assert int(missed.sum()) <= 3, index
    assert float((picture - again).square().mean().sqrt()) < 0.2


def test_lines_are_thinned_to_one_pixel_and_keep_their_ends():
    ink = torch.zeros(1, 40, 40, dtype=torch.bool)
    ink[0, 10:13, 5:35] = True
    line = strokes.thin(ink)[0]
    assert int(line.sum(0).max()) == 1
    columns = line.any(0).nonzero().flatten()
    assert int(columns.min()) <= 7
    assert int(columns.max()) >= 32
    assert len(columns) >= 25
    assert torch.equal(strokes.thin(line[None])[0], line)  # a thin line stays


def test_a_broad_diagonal_is_not_eaten_from_its_end():
    ink = torch.zeros(1, 40, 40, dtype=torch.bool)
    for i in range(5, 35):
        ink[0, i, i] = ink[0, i, i + 1] = True
    rows = strokes.thin(ink)[0].any(1).nonzero().flatten()
    assert (int(rows.min()), int(rows.max())) == (5, 34)


def test_a_ring_stays_closed():
    rows, columns = torch.meshgrid(torch.arange(60.0), torch.arange(60.0), indexing="ij")
    radius = ((rows - 30) ** 2 + (columns - 30) ** 2).sqrt()
    image = ((radius > 18) & (radius < 22)).float()[None]
    drawing = strokes.trace(image)[0]
    picture = strokes.rasterise(drawing)[0]
    assert float(picture[14, 14]) == 0.0
    assert float(picture[4].max()) > 0.3
    around = torch.linspace(0, 2 * torch.pi, 60)
    on_ring = torch.stack([14 + 10 * around.sin(), 14 + 10 * around.cos()], 1).long().clamp(0, 27)
    near = torch.nn.functional.max_pool2d(picture[None, None], 3, 1, 1)[0, 0]
    assert float(near[on_ring[:, 0], on_ring[:, 1]].min()) > 0.3


def test_tracing_many_is_tracing_each():
    pictures = strokes.rasterise_all(DRAWINGS[:4])
    together = strokes.trace(pictures)
    assert together == [strokes.trace(one[None])[0] for one in pictures]
    assert strokes.trace((pictures * 255).round().to(torch.uint8)) is not None
    assert strokes.trace(torch.zeros(1, 1, 28, 28)) == [[]]


def test_trace_names_a_wrong_shape():
    with pytest.raises(CourseError, match=r"images of shape \[2, 3, 28, 28\]"):
        strokes.trace(torch.zeros(2, 3, 28, 28))


def test_a_data_set_as_drawings():
    pictures = (strokes.rasterise_all(DRAWINGS[:6]) * 255).round().to(torch.uint8)
    data = ClassImages(pictures, torch.tensor([2, 4]), ("a", "b"), ("g", "g"), "toy", "train")
    once = strokes.as_drawings(data)
    assert once.images.shape == pictures.shape
    assert once.images.dtype == torch.uint8
    assert once.counts.tolist() == [2, 4]
    twice = strokes.as_drawings(data, hands=2, seed=1)
    assert twice.counts.tolist() == [4, 8]
    assert len(twice.images) == 12
    assert not torch.equal(twice.images[0], twice.images[1])
    assert torch.equal(strokes.as_drawings(data, hands=2, seed=1).images, twice.images)
    assert not torch.equal(strokes.as_drawings(data, hands=2, seed=2).images, twice.images)


def test_another_hand():
    make = torch.Generator().manual_seed
    drawing = DRAWINGS[1]
    same = strokes.another_hand(drawing, make(0), amount=0.0)
    assert torch.allclose(strokes.rasterise(same), strokes.rasterise(drawing), atol=1e-5)
    other = strokes.another_hand(drawing, make(0))
    assert [len(stroke) for stroke in other] == [len(stroke) for stroke in drawing]
    assert float((strokes.rasterise(other) - strokes.rasterise(drawing)).abs().max()) > 0.2
    assert other == strokes.another_hand(drawing, make(0)) != strokes.another_hand(drawing, make(1))
    assert strokes.another_hand([], make(0)) == []
    assert len(strokes.another_hand([[[0.5, 0.5]]], make(0))) == 1  # a dot has no size


# ---- samples ----


def test_sample_sets_are_whole():
    assert [one["name"] for one in SAMPLES] == list(SETS)
    for one in SAMPLES:
        assert len(one["support"]) == 5
        assert {query["is"] for query in one["queries"]} == set(range(5))
        points = [p for q in one["queries"] for stroke in q["drawing"] for p in stroke]
        points += [p for drawing in one["support"] for stroke in drawing for p in stroke]
        assert all(0 <= value <= 1 for point in points for value in point)
    assert sample_sets() == SAMPLES


# ---- the widget ----


def test_an_empty_pad_tells_what_to_do(network):
    widget = pad.DrawingPad(network)
    assert widget.answer["kind"] == "hint"
    assert "two characters" in widget.answer["message"]
    widget.support = [DRAWINGS[0], [], DRAWINGS[1], [], []]
    assert widget.answer["kind"] == "hint"
    assert "again" in widget.answer["message"]
    widget.query = [[]]
    assert widget.answer["kind"] == "hint"


def test_a_drawing_is_answered(network):
    widget = pad.DrawingPad(network)
    widget.support = SAMPLES[0]["support"]
    for index, drawing in enumerate(SAMPLES[0]["support"]):
        widget.query = drawing  # the very drawing that was taught: distance 0
        answer = widget.answer
        assert (answer["kind"], answer["best"]) == ("answer", index), answer["message"]
        assert sum(answer["probabilities"]) == pytest.approx(1.0, abs=1e-5)
        assert answer["message"].startswith(f"This is {'ABCDE'[index]} (")


def test_only_filled_boxes_take_part(network):
    widget = pad.DrawingPad(network)
    widget.support = [[], DRAWINGS[0], [], DRAWINGS[1], []]
    widget.query = DRAWINGS[1]
    assert [p is None for p in widget.answer["probabilities"]] == [True, False, True, False, True]
    assert widget.answer["best"] == 3


def test_what_the_learner_sees_is_sent_along(network):
    widget = pad.DrawingPad(network)
    widget.support, widget.query = SAMPLES[0]["support"], DRAWINGS[7]
    sent = torch.frombuffer(bytearray(base64.b64decode(widget.answer["seen_query"])), dtype=torch.uint8)
    assert torch.equal(sent.view(1, 28, 28), (strokes.rasterise(DRAWINGS[7]) * 255).round().to(torch.uint8))
    assert all(widget.answer["seen_support"])
    widget.support = [[], *SAMPLES[0]["support"][1:]]
    assert widget.answer["seen_support"][0] == ""


def test_it_adapts_once_per_change_of_the_support(network):
    widget = pad.DrawingPad(network)
    widget.support = SAMPLES[0]["support"]
    for query in SAMPLES[0]["queries"]:
        widget.query = query["drawing"]
    assert widget.recogniser().adaptations == 1
    widget.support = SAMPLES[1]["support"]
    assert widget.recogniser().adaptations == 2
    widget.number += 1  # the browser asks again about the same drawings
    assert widget.recogniser().adaptations == 2


def test_a_message_of_the_browser_is_answered_once_with_its_number(network):
    widget = pad.DrawingPad(network)
    answers = []
    widget.observe(lambda change: answers.append(change["new"]), names="answer")
    widget.set_state({"support": SAMPLES[0]["support"], "query": DRAWINGS[0], "number": 7})
    assert [answer["number"] for answer in answers] == [7]
    assert answers[0]["kind"] == "answer"


def test_one_query_gets_the_same_answer_alone_and_in_company(network):
    recognise = pad.Recogniser(network.train())  # even if the learner was left in training mode
    support = SAMPLES[0]["support"]
    queries = [query["drawing"] for query in SAMPLES[0]["queries"]]
    alone = torch.tensor([recognise(support, query) for query in queries])
    assert network.training
    network.eval()
    with torch.no_grad():
        state = network.adapt(strokes.rasterise_all(support)[None], torch.arange(5)[None])
        company = network.predict(state, strokes.rasterise_all(queries)[None])[0].softmax(-1)
    assert torch.allclose(alone, company, atol=1e-5)
    # A different order and a repeated question change nothing either.
    assert torch.allclose(
        torch.tensor([recognise(support, query) for query in queries[::-1]]).flip(0), alone, atol=1e-6
    )


def test_who_answers_can_be_chosen(network):
    widget = pad.DrawingPad({"network": network, "pixels": learners.PixelNeighbours()})
    widget.show_sample("Runes", 1)
    first = widget.answer["probabilities"]
    widget.chosen = "pixels"
    assert widget.names == ["network", "pixels"]
    assert widget.answer["probabilities"] != first
    widget.chosen = "nobody"
    assert widget.answer["kind"] == "error"
    assert widget.answer["message"] == "there is no learner 'nobody': choose one of network, pixels"


def test_samples_are_counted(network):
    widget = pad.DrawingPad({"network": network, "pixels": learners.PixelNeighbours()})
    right, asked = widget.score_samples("pixels")
    widget.chosen = "pixels"
    answers = [widget.show_sample(one["name"], i) for one in SAMPLES for i in range(len(one["queries"]))]
    assert asked == len(answers) == 30
    assert right == sum(answer["best"] == answer["is"] for answer in answers)
    assert 6 < right < 30  # better than guessing, and not perfect: the sets are hard enough


def test_samples_do_what_the_buttons_do(network):
    widget = pad.DrawingPad(network)
    answer = widget.show_sample("Runes", 3)
    assert widget.support == SAMPLES[1]["support"]
    assert widget.query == SAMPLES[1]["queries"][3]["drawing"]
    assert answer["kind"] == "answer"
    assert answer["is"] == SAMPLES[1]["queries"][3]["is"]
    wide = pad.DrawingPad(network, ways=7)
    assert wide.show_sample("Signs")["kind"] == "answer"
    assert len(wide.support) == 7
    with pytest.raises(CourseError, match="no sample set 'Cats': choose one of Signs, Runes, Hard"):
        widget.show_sample("Cats")
    assert pad.DrawingPad(network, ways=3).samples == []


@pytest.mark.parametrize(
    ("learner", "text"),
    [
        (Fixed(torch.zeros(1, 1, 4)), "logits of shape [1, 1, 4], not [1, 1, 5]"),
        (Fixed(torch.full((1, 1, 5), float("nan"))), "infinite or undefined"),
        (Fixed(None), "AttributeError"),
        (learners.build("maml", way=3, normalisation="none"), "the head of this MAML has 3"),
    ],
)
def test_errors_are_shown_in_one_line_and_the_pad_lives_on(learner, text):
    widget = pad.DrawingPad(learner)
    widget.support, widget.query = SAMPLES[0]["support"], DRAWINGS[0]
    assert widget.answer["kind"] == "error"
    assert text in widget.answer["message"]
    assert "\n" not in widget.answer["message"]
    assert widget.answer["best"] is None
    assert text in widget.sample_picture().plain
    widget.query = []
    assert widget.answer["kind"] == "hint"


def test_points_that_are_no_points_are_shown_in_place(network):
    widget = pad.DrawingPad(network)
    widget.support, widget.query = SAMPLES[0]["support"], [[[0.1, "x"]]]
    assert widget.answer["kind"] == "error"
    assert "stroke 1" in widget.answer["message"]


@pytest.mark.parametrize(("arguments", "text"), [((None,), "give a learner"), (({},), "give a learner")])
def test_a_pad_needs_a_learner(arguments, text):
    with pytest.raises(CourseError, match=text):
        pad.DrawingPad(*arguments)


def test_a_pad_needs_two_boxes(network):
    with pytest.raises(CourseError, match="ways is 1: give a number from 2 to 26"):
        pad.DrawingPad(network, ways=1)


def test_without_a_front_end_a_picture_is_shown(network):
    widget = pad.DrawingPad(network)
    data, metadata = widget._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/html"].startswith("<img ")
    assert "Probabilities: A " in data["text/html"]
    assert len(metadata["image/png"]["alt"]) >= 40
    assert base64.b64decode(data["image/png"])[:4] == b"\x89PNG"
    assert widget.query == []  # the picture is no drawing on the pad
