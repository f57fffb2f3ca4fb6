"""Average precision: equal to pycocotools and to a plain loop, on random and on degenerate predictions."""

import contextlib
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import box_iou

from mlcourse.errors import CourseError
from mlcourse.vision import precision
from mlcourse.vision.precision import Detections, average_precision, errors_of, matched

NOTHING = torch.full((2, 4), math.nan)


def boxes(*corners):
    return torch.tensor(corners, dtype=torch.float32).view(-1, 4)


def found(corners, scores):
    return Detections(boxes(*corners), torch.tensor(scores, dtype=torch.float32))


def by_the_usual_script(detections, truth):
    """AP50 of all sizes as COCO's own script prints it: files of annotations, `loadRes`, `summarize`."""
    images = [{"id": number} for number in range(len(truth))]
    wanted = [
        {"image_id": number, "category_id": 1, "iscrowd": 0, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for number, some in enumerate(truth)
        for x0, y0, x1, y1 in precision.true_boxes(some).double().tolist()
    ]
    for number, one in enumerate(wanted):
        one |= {"id": number + 1, "area": one["bbox"][2] * one["bbox"][3]}
    given = [
        {"image_id": number, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
        for number, one in enumerate(detections)
        for (x0, y0, x1, y1), score in zip(one.boxes.double().tolist(), one.scores.tolist())
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "annotations": wanted, "categories": [{"id": 1}]}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(given), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[1]


@st.composite
def scenes(draw, least_true=0):
    """A few scenes on a coarse grid, so that boxes often coincide, and scores are often equal."""
    whole = st.integers(0, 6)
    corner = st.tuples(whole, whole, st.integers(1, 4), st.integers(1, 4))
    score = st.sampled_from([0.1, 0.25, 0.5, 0.5, 0.9])
    detections, truth = [], []
    for _ in range(draw(st.integers(1, 5))):
        true = draw(st.lists(corner, max_size=3))
        given_ = draw(st.lists(st.tuples(corner, score), max_size=6))
        given_ += [(box, draw(score)) for box in true if draw(st.booleans())]
        truth.append(torch.cat([boxes(*((x, y, x + w, y + h) for x, y, w, h in true)), NOTHING]))
        detections.append(found([(x, y, x + w, y + h) for (x, y, w, h), _ in given_], [rate for _, rate in given_]))
    return detections, truth


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_it_is_pycocotools_and_the_same_from_the_matches(case):
    detections, truth = case
    if not sum(len(precision.true_boxes(some)) for some in truth):
        with pytest.raises(CourseError, match="recall is 0 of 0"):
            average_precision(detections, truth)
        return
    value = average_precision(detections, truth)
    assert 0 <= value <= 1
    assert matched(detections, truth).average_precision() == pytest.approx(value, abs=1e-6)
    if sum(map(len, detections)):  # its `loadRes` cannot read an empty list
        assert by_the_usual_script(detections, truth) == pytest.approx(value, abs=1e-6)
    else:
        assert value == 0


@settings(max_examples=40, deadline=None)
@given(scenes(), st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_scenes_that_count_several_times_are_those_scenes_several_times(case, times):
    detections, truth = case
    detections = [  # no two scores are equal: of equal ones the order would be another
        Detections(one.boxes, one.scores.double() + torch.arange(len(one)) / 1e3 + number / 1e5)
        for number, one in enumerate(detections)
    ]
    times = np.array(times[: len(truth)])
    again = [number for number, count in enumerate(times) for _ in range(count)]
    if not sum(len(precision.true_boxes(truth[number])) for number in again):
        return
    value = average_precision([detections[n] for n in again], [truth[n] for n in again])
    assert matched(detections, truth).average_precision(times.astype(float)) == pytest.approx(value, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(scenes())
def test_every_box_and_every_true_box_is_counted_once_among_the_errors(case):
    detections, truth = case
    counts = errors_of(detections, truth)
    wrong = sum(counts[kind] for kind in ("localisation", "background", "duplicate"))
    assert counts["right"] + wrong == sum(map(len, detections))
    wanted = sum(len(precision.true_boxes(some)) for some in truth)
    assert wanted - counts["localisation"] <= counts["right"] + counts["missed"] <= wanted
    if wanted:
        right = matched(detections, truth).right.sum()
        assert counts["right"] == right


def test_by_hand_two_scenes_one_without_the_target():
    truth = [boxes((0, 0, 10, 10)), NOTHING]
    detections = [found([(0, 0, 10, 10), (20, 20, 30, 30)], [0.8, 0.7]), found([(5, 5, 9, 9)], [0.9])]
    # the order is wrong, right, wrong: the one true box is found with a precision of one half
    assert average_precision(detections, truth) == pytest.approx(0.5)
    recall, rate = matched(detections, truth).curve()
    assert recall.tolist() == [0, 1, 1]
    assert rate.tolist() == pytest.approx([0, 1 / 2, 1 / 3])
    assert average_precision([found([(0, 0, 10, 10)], [0.8]), found([], [])], truth) == pytest.approx(1)


def test_more_than_a_hundred_boxes_of_a_scene_all_count():
    many = [(20 + i, 20, 21 + i, 30) for i in range(150)] + [(0, 0, 10, 10)]
    scores = [1 - i / 1000 for i in range(151)]
    assert average_precision([found(many, scores)], [boxes((0, 0, 10, 10))]) == pytest.approx(1 / 151)


def test_each_kind_of_error():
    truth = [boxes((0, 0, 10, 10), (50, 50, 60, 60)), boxes((0, 0, 8, 8)), NOTHING]
    detections = [
        found([(0, 0, 10, 10), (0, 0, 10, 9), (50, 50, 60, 53), (80, 80, 90, 90)], [0.9, 0.8, 0.7, 0.6]),
        found([], []),
        found([(1, 1, 5, 5)], [0.2]),
    ]
    counts = errors_of(detections, truth)
    assert counts == {"right": 1, "localisation": 1, "background": 2, "duplicate": 1, "missed": 1}
    counts = errors_of(detections, truth, score=0.85)
    assert counts == {"right": 1, "localisation": 0, "background": 0, "duplicate": 0, "missed": 2}


def test_suppression_leaves_the_better_of_two_that_overlap():
    one = Detections.suppressed(boxes((0, 0, 10, 10), (1, 0, 11, 10), (30, 30, 40, 40)), torch.tensor([0.3, 0.5, 0.4]))
    assert one.boxes.tolist() == [[1, 0, 11, 10], [30, 30, 40, 40]]
    assert one.scores.tolist() == pytest.approx([0.5, 0.4])
    overlap = box_iou(one.boxes, one.boxes)
    assert overlap[0, 1] == 0


def test_the_interval_over_scenes_and_of_a_pair():
    generator = torch.Generator().manual_seed(0)
    truth = [boxes((0, 0, 10, 10)) if n % 2 else NOTHING for n in range(60)]
    scores = torch.rand(60, generator=generator)
    good = [found([(0, 0, 10, 10)], [float(s) + (n % 2)]) for n, s in enumerate(scores)]
    poor = [found([(0, 0, 10, 10)], [float(s)]) for s in scores]
    value, low, high = precision.precision_interval([poor, good], truth, draws=200)
    assert value == pytest.approx((average_precision(poor, truth) + average_precision(good, truth)) / 2)
    assert low < value < high
    lead, low, high = precision.precision_interval([good], truth, minus=[poor], draws=200)
    assert lead == pytest.approx(average_precision(good, truth) - average_precision(poor, truth))
    assert 0 < low < lead < high


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: found([(0, 0, 1, math.nan)], [0.5]), "a corner that is not finite"),
        (lambda: found([(5, 0, 1, 4)], [0.5]), r"the box \(5, 0, 1, 4\) that is found has x1 < x0 or y1 < y0"),
        (lambda: found([(0, 0, 1, 1)], [math.nan]), "a score is not finite"),
        (lambda: found([(0, 0, 1, 1)], [0.5, 0.6]), r"have the shapes \(1, 4\) and \(2,\)"),
        (lambda: precision.true_boxes(boxes((3, 3, 3, 9))), r"the true box \(3, 3, 3, 9\) has no area"),
        (lambda: precision.true_boxes(boxes((3, 9, 5, 2))), "that is true has x1 < x0 or y1 < y0"),
        (lambda: precision.true_boxes(boxes((3, 3, math.nan, 9))), "that is true has a corner that is not finite"),
        (lambda: precision.true_boxes(torch.zeros(4)), r"have the shape \(4,\); give \[objects, 4\]"),
        (lambda: average_precision([], [NOTHING]), "there are detections of 0 scenes and boxes of 1"),
        (lambda: average_precision([found([], [])], [NOTHING]), "none of the 1 scenes has a true box"),
        (lambda: average_precision([found([], [])], [boxes((0, 0, 1, 1))], iou=0), "iou is 0"),
        (
            lambda: precision.precision_interval([[found([], [])] * 6], [boxes((0, 0, 1, 1))] + 5 * [NOTHING]),
            "1 of 6 scenes have a true box, so few that a draw of them has none",
        ),
        (lambda: errors_of([], [NOTHING]), "there are detections of 0 scenes and boxes of 1"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(call, said):
    with pytest.raises(CourseError, match=said):
        call()


def test_an_interval_of_a_share_stays_between_0_and_1():
    """Student's interval around a share near its end would leave it; that of a difference may be negative."""
    truth = [boxes((0, 0, 4, 4)) for _ in range(6)]
    right, wrong = found([(0, 0, 4, 4)], [0.9]), found([(20, 20, 24, 24)], [0.95])
    nearly_all, nearly_none = [right] * 5 + [wrong], [wrong] * 5 + [right]
    _, _, upper = precision.precision_interval([nearly_all], truth, draws=100)
    _, lower, _ = precision.precision_interval([nearly_none], truth, draws=100)
    assert upper <= 1
    assert lower >= 0
    assert precision.precision_interval([nearly_none], truth, minus=[nearly_all], draws=100)[1] < 0


@pytest.mark.parametrize("iou", [0, -1, 2, math.nan])
def test_errors_at_an_overlap_that_is_none_are_refused(iou):
    with pytest.raises(CourseError, match="above 0, and 1 at most"):
        errors_of([found([(0, 0, 4, 4)], [0.9])], [boxes((0, 0, 4, 4))], iou=iou)


def test_no_run_and_no_score_are_refused():
    found = [Detections(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([0.9]))]
    truth = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
    for runs, minus, name in (([], None, "runs"), ([found], [], "minus")):
        with pytest.raises(CourseError, match=f"{name} is empty: give the detections of one run or more"):
            precision.precision_interval(runs, truth, minus=minus)
    with pytest.raises(CourseError, match="score is nan"):
        errors_of(found, truth, score=float("nan"))
