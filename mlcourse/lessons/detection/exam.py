"""What notebook 14 asks its detectors: the same scenes, taught by other drawings, and which boxes are right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from mlcourse.episodes import Episode
from mlcourse.evaluation import home_of
from mlcourse.networks import Recorded
from mlcourse.statistics import NoInterval
from mlcourse.vision.detection import Detector, MatchedBoxes
from mlcourse.vision.precision import Detections, matched, precision_interval, true_boxes
from mlcourse.vision.segmentation import ColourGroups

IOU = 0.5  # from which on a box is right
AT_ONCE = 10  # tasks that are answered together


def ask(detector: Detector, batch: Episode) -> list[Detections]:
    """What a detector finds in each scene, task by task."""
    found = []
    for some in batch.split(AT_ONCE):
        found += detector.detect(some.to(*home_of(detector)))
    return found


class Pixels(Recorded):
    """An encoder that learns nothing: the features of a picture [n, 1, side, side] are its pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    @classmethod
    def detector(cls) -> MatchedBoxes:
        """The detector whose only parameters are the temperature and the score of "none of them"."""
        return MatchedBoxes(ColourGroups(cls()))


def truth_of(batch: Episode) -> list[Tensor]:
    """The target's boxes in each scene, scene by scene: [n, 4] each, n = 0 where it is not there."""
    return [true_boxes(boxes.cpu()) for task in batch.query_y for boxes in task]


def taught_by(batch: Episode, which: Sequence[int]) -> Episode:
    """The same tasks and scenes, taught by some of their drawings only."""
    chosen = list(which)
    return batch.map(lambda name, value: value[:, chosen] if name in ("support_x", "support_y") else value)


def right(boxes: Tensor, truth: Tensor, iou: float = IOU) -> Tensor:
    """Which boxes of one scene are right: bool [n].

    boxes: [n, 4], the highest score first. truth: the true boxes [m, 4].
    """
    overlaps = box_iou(boxes.double(), truth.double())
    found = torch.zeros(len(boxes), dtype=torch.bool)
    for place, row in enumerate(overlaps):
        if len(row) and row.max() >= iou:
            found[place] = True
            overlaps[:, row.argmax()] = -1  # this true box is taken
    return found


def pooled(detections: Sequence[Detections], truth: Sequence[Tensor]) -> tuple[Tensor, Tensor, int]:
    """The boxes of all scenes in one order: scores float64 [n], the highest first, hits bool [n], number of targets."""
    order = matched(detections, truth, IOU)
    return torch.from_numpy(order.scores.copy()), torch.from_numpy(order.right.copy()), int(order.wanted.sum())


def moved(detections: Sequence[Detections], share: float = 0.4) -> list[Detections]:
    """The same boxes, each moved sideways by a share of its width."""
    shifts = [share * (one.boxes[:, 2:3] - one.boxes[:, :1]) for one in detections]
    sideways = torch.tensor([1.0, 0.0, 1.0, 0.0])
    return [Detections(one.boxes + shift * sideways, one.scores) for one, shift in zip(detections, shifts, strict=True)]


def twice(detections: Sequence[Detections]) -> list[Detections]:
    """Each box two times, with the same score."""
    return [Detections(one.boxes.repeat_interleave(2, 0), one.scores.repeat_interleave(2)) for one in detections]


@dataclass(frozen=True)
class Gap:
    """The difference of two AP50 on the same scenes, with its 95 % interval over scenes."""

    difference: float
    lower: float
    upper: float
    scenes: int

    def __str__(self) -> str:
        low, high = 100 * self.lower, 100 * self.upper
        return f"{100 * self.difference:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f} ({self.scenes} scenes)"


def difference(
    a: Sequence[Detections], b: Sequence[Detections], truth: Sequence[Tensor], *, draws: int = 1000, seed: int = 0
) -> Gap:
    """AP50 of a minus that of b, paired: both meet the same scenes in each draw of the bootstrap.

    Where all draws agree, nothing is known of other scenes: the interval is endless.
    """
    try:
        value, lower, upper = precision_interval([a], truth, minus=[b], draws=draws, seed=seed)
    except NoInterval:
        value = matched(a, truth).average_precision() - matched(b, truth).average_precision()
        lower, upper = -math.inf, math.inf
    return Gap(value, lower, upper, len(truth))
