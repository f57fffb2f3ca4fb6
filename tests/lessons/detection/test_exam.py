"""What notebook 14 asks its detectors, held against the package, pycocotools and hand-made scenes."""

import math

import pytest
import torch

from mlcourse import datasets, training
from mlcourse.lessons.detection import checks, exam
from mlcourse.vision.detection import DetectionTasks, EveryBox
from mlcourse.vision.precision import Detections, average_precision, errors_of, matched


@pytest.fixture(scope="module")
def batch():
    tasks = DetectionTasks(datasets.load("glyphs", "val"), characters_per_scene=6, same_picture=False, shot=2)
    return tasks.sample(24, torch.Generator().manual_seed(0))


def random_boxes(generator, n):
    corners = torch.rand(n, 4, generator=generator) * 20
    boxes = torch.cat([corners[:, :2], corners[:, :2] + 4 + corners[:, 2:]], 1)
    return Detections(boxes, torch.rand(n, generator=generator).sort(descending=True).values)


def random_scenes(seed, scenes=12):
    """Few boxes near few true ones, so that hits, duplicates and misses all occur; the last scene has no true box."""
    generator = torch.Generator().manual_seed(seed)
    truth = [random_boxes(generator, 1 + k % 3).boxes for k in range(scenes - 1)] + [torch.zeros(0, 4)]
    found = []
    for boxes in truth:
        near = boxes.repeat(3, 1) + torch.randn(3 * len(boxes), 4, generator=generator)
        other = random_boxes(generator, 2).boxes
        some = torch.cat([near, other])
        found.append(Detections(some, torch.rand(len(some), generator=generator).sort(descending=True).values))
    return found, truth


@pytest.mark.parametrize("seed", range(5))
def test_right_boxes_are_those_of_pycocotools(seed):
    found, truth = random_scenes(seed)
    ours = sum(int(exam.right(one.boxes, boxes).sum()) for one, boxes in zip(found, truth, strict=True))
    assert ours == int(matched(found, truth).right.sum()) == errors_of(found, truth)["right"]


@pytest.mark.parametrize("seed", range(5))
def test_the_learners_functions_give_average_precision_of_all_scenes(seed):
    found, truth = random_scenes(seed)
    scores, hits, targets = exam.pooled(found, truth)
    assert (scores[:-1] >= scores[1:]).all()
    curve = checks.precision_recall.reference(hits, targets)
    ours = float(checks.interpolate.reference(*curve).mean())
    assert ours == pytest.approx(average_precision(found, truth), abs=1e-9)


def test_truth_has_no_box_where_the_target_is_absent(batch):
    truth = exam.truth_of(batch)
    there = ~batch.query_y.isnan().any(3).flatten()
    assert [len(boxes) for boxes in truth] == there.int().tolist()
    assert 0 < int(there.sum()) < len(truth)


def test_other_drawings_teach_the_same_scenes(batch):
    second = exam.taught_by(batch, [1])
    assert torch.equal(second.support_x, batch.support_x[:, 1:])
    assert torch.equal(second.support_y, batch.support_y[:, 1:])
    assert torch.equal(second.query_x, batch.query_x)


def test_ask_gives_what_detect_gives(batch):
    found = exam.ask(EveryBox(), batch)
    alone = EveryBox().detect(batch.task(13))[0]
    assert len(found) == batch.tasks
    assert torch.equal(found[13].boxes, alone.boxes)


def test_pixels_learn_two_numbers_only(batch):
    detector = exam.Pixels.detector()
    assert sum(one.numel() for one in detector.parameters()) == 2
    before = [one.clone() for one in detector.parameters()]
    tasks = DetectionTasks(datasets.load("glyphs", "val"), characters_per_scene=6, same_picture=False)
    training.train(detector, tasks, steps=2, tasks=2, rate=0.05, progress=False)
    assert all(not torch.equal(a, b) for a, b in zip(before, detector.parameters(), strict=True))


def test_spoiled_lists_have_their_own_errors():
    truth = [torch.tensor([[10.0, 10, 30, 20]]), torch.tensor([[5.0, 5, 15, 40]])]
    found = [Detections(boxes, torch.tensor([0.9])) for boxes in truth]
    assert errors_of(found, truth)["right"] == 2
    assert errors_of(exam.moved(found), truth)["localisation"] == 2
    both = errors_of(exam.twice(found), truth)
    assert (both["right"], both["duplicate"]) == (2, 2)


def test_a_difference_is_that_of_the_two_and_has_an_interval():
    found, truth = random_scenes(0, scenes=30)
    worse = exam.moved(found)
    gap = exam.difference(found, worse, truth, draws=200)
    assert gap.difference == pytest.approx(average_precision(found, truth) - average_precision(worse, truth))
    assert gap.lower < gap.difference < gap.upper
    assert f"{100 * gap.difference:+.1f} points" in str(gap)


def test_a_detector_against_itself_differs_by_nothing_and_nothing_is_known():
    found, truth = random_scenes(0)
    gap = exam.difference(found, found, truth, draws=50)
    assert (gap.difference, gap.lower, gap.upper) == (0.0, -math.inf, math.inf)
