"""Average precision: how good boxes with scores are, and where the errors come from.

All boxes of all scenes are put in one order, the highest score first. Going down this order, precision is the share of
right boxes so far, and recall the share of the true boxes that are found so far. Average precision is the mean, over
101 levels of recall from 0 to 1, of the highest precision at that recall or a higher one. Boxes in scenes where nothing
was to be found are wrong, so a detector that always fires is punished.

A box is right when its intersection over union with a true box, which no box of a higher score has taken, is `iou` or
more. `average_precision` and `matched` ask pycocotools, the code that most papers use (Lin et al., *Microsoft COCO*,
2014, https://arxiv.org/abs/1405.0312). Every box of a scene counts; the usual script of COCO leaves out those after the
first 100.

Boxes are x0, y0, x1, y1 in pixels. Rows of true boxes that are nan fill up where a scene has fewer; they are left out.
"""

import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from mlcourse.errors import CourseError
from mlcourse.statistics import NoInterval, bootstrap_interval

RECALLS = np.linspace(0.0, 1.0, 101)
NEAR = 0.1  # intersection over union from which on a wrong box is one of a true box at a wrong place (TIDE)


@dataclass(frozen=True)
class Detections:
    """The boxes that a detector finds in one scene. boxes: float [n, 4]. scores: float [n], the highest first.

    Raises CourseError for other shapes, for numbers that are not finite, and for boxes with x1 < x0 or y1 < y0.
    """

    boxes: Tensor
    scores: Tensor

    def __post_init__(self) -> None:
        if self.scores.dim() != 1 or self.boxes.shape != (len(self.scores), 4):
            shapes = f"{tuple(self.boxes.shape)} and {tuple(self.scores.shape)}"
            raise CourseError(f"boxes and scores have the shapes {shapes}; give [n, 4] and [n]")
        if not self.scores.isfinite().all():
            raise CourseError("a score is not finite, so the boxes have no order; look at the detector's parameters")
        _check_boxes(self.boxes, "found")

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def suppressed(cls, boxes: Tensor, scores: Tensor, *, iou: float = 0.5) -> "Detections":
        """Boxes [n, 4] and scores [n] in any order → sorted, without those that overlap a better one by more than iou.

        Non-maximum suppression, by `torchvision.ops.nms`.
        """
        found = cls(boxes, scores)
        kept = nms(found.boxes.float(), found.scores.float(), iou)
        kept = kept[found.scores[kept].argsort(descending=True, stable=True)]
        return cls(boxes[kept], scores[kept])

    def above(self, score: float) -> "Detections":
        """Those whose score is `score` or more. Raises CourseError for nan, which none has."""
        if math.isnan(score):
            raise CourseError("score is nan, and no box has that much; give a number")
        kept = self.scores >= score
        return Detections(self.boxes[kept], self.scores[kept])


def _check_boxes(boxes: Tensor, kind: str) -> None:
    if not boxes.isfinite().all():
        raise CourseError(f"a box that is {kind} has a corner that is not finite; give x0, y0, x1, y1 in pixels")
    turned = (boxes[:, 2:] < boxes[:, :2]).any(1)
    if turned.any():
        where = ", ".join(f"{end:g}" for end in boxes[turned][0].tolist())
        raise CourseError(f"the box ({where}) that is {kind} has x1 < x0 or y1 < y0; give x0, y0, x1, y1 in this order")


def true_boxes(padded: Tensor) -> Tensor:
    """The boxes of one scene: [objects, 4], of which rows of nan are left out → [n, 4].

    Raises CourseError for another shape, for a row that is nan in part, for exchanged ends, and for a box of no area:
    nothing can lie on it.
    """
    if padded.dim() != 2 or padded.shape[1] != 4:
        raise CourseError(f"the true boxes of a scene have the shape {tuple(padded.shape)}; give [objects, 4]")
    boxes = padded[~padded.isnan().all(1)]
    _check_boxes(boxes, "true")
    flat = (boxes[:, 2:] == boxes[:, :2]).any(1)
    if flat.any():
        where = ", ".join(f"{end:g}" for end in boxes[flat][0].tolist())
        raise CourseError(f"the true box ({where}) has no area, so no box can lie on it: correct or remove it")
    return boxes


# ------------------------------------------------------------------ average precision


def average_precision(detections: Sequence[Detections], truth: Sequence[Tensor], iou: float = 0.5) -> float:
    """AP in [0, 1] of one class: the boxes of all scenes are pooled. By pycocotools.

    detections: of each scene. truth: of each scene its true boxes [objects, 4]; nan fills up. Of boxes with equal
    scores those of an earlier scene come first. Raises CourseError where no scene has a true box: recall is then 0 of
    0, and AP says nothing.
    """
    evaluation = _evaluated(detections, truth, iou)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    return float(evaluation.eval["precision"].mean())


@dataclass(frozen=True)
class Matched:
    """All boxes in the order of their scores, and which of them are right.

    scores: float64 [n]. right: bool [n]. scene: int64 [n], the scene of each. wanted: int64 [scenes], its true boxes.
    """

    scores: np.ndarray
    right: np.ndarray
    scene: np.ndarray
    wanted: np.ndarray

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Recall and precision after each box, float64 [n] each."""
        return _curve(self.right, np.ones(len(self.right)), self.wanted.sum())

    def average_precision(self, times: np.ndarray | None = None) -> float:
        """What the function of that name gives. times: how often each scene counts [scenes]; None: once.

        A scene that counts twice has each of its boxes twice, one after the other.
        """
        times = np.ones(len(self.wanted)) if times is None else times
        wanted = (times * self.wanted).sum()
        if not wanted:
            return math.nan
        recall, precision = _curve(self.right, times[self.scene], wanted)
        best = np.maximum.accumulate(precision[::-1])[::-1]
        place = np.searchsorted(recall, RECALLS)
        return float(np.append(best, 0.0)[place].mean())


def _curve(right: np.ndarray, times: np.ndarray, wanted: float) -> tuple[np.ndarray, np.ndarray]:
    found, boxes = np.cumsum(right * times), np.cumsum(times)
    return found / wanted, found / (boxes + np.spacing(1))


def matched(detections: Sequence[Detections], truth: Sequence[Tensor], iou: float = 0.5) -> Matched:
    """Which boxes are right, for the curve and for intervals. The arguments are those of `average_precision`."""
    evaluation = _evaluated(detections, truth, iou)
    rows = [[], [], []]
    for number, scene in enumerate(evaluation.evalImgs):
        if scene is not None:
            for row, part in zip(rows, (scene["dtScores"], scene["dtMatches"][0] > 0, [number] * len(scene["dtIds"]))):
                row.extend(part)
    scores, right, scene = np.array(rows[0], float), np.array(rows[1], bool), np.array(rows[2], int)
    order = np.argsort(-scores, kind="stable")
    wanted = np.array([len(true_boxes(boxes)) for boxes in truth])
    return Matched(scores[order], right[order], scene[order], wanted)


def _check_iou(iou: float) -> None:
    if not 0 < iou <= 1:
        raise CourseError(f"iou is {iou!r}; give a number above 0, and 1 at most")


def _evaluated(detections: Sequence[Detections], truth: Sequence[Tensor], iou: float) -> Any:
    """pycocotools' evaluation of each scene, before it is summed up."""
    _check_iou(iou)
    if len(detections) != len(truth):
        raise CourseError(f"there are detections of {len(detections)} scenes and boxes of {len(truth)}; give as many")
    wanted = [true_boxes(boxes) for boxes in truth]
    if not sum(map(len, wanted)):
        raise CourseError(
            f"none of the {len(truth)} scenes has a true box, so recall is 0 of 0 and average precision says nothing; "
            "add scenes with what is looked for"
        )
    from pycocotools.coco import COCO  # late: only who measures waits for it
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # they print as they go
        sides = [_coco(COCO(), wanted), _coco(COCO(), [d.boxes for d in detections], [d.scores for d in detections])]
        evaluation = COCOeval(*sides, "bbox")
        settings = evaluation.params
        settings.iouThrs, settings.recThrs = np.array([float(iou)]), RECALLS
        settings.areaRng, settings.areaRngLbl = [[0, math.inf]], ["all"]
        settings.maxDets = [max(1, *map(len, detections))]
        evaluation.evaluate()
    return evaluation


def _coco(coco: Any, boxes: list[Tensor], scores: list[Tensor] | None = None) -> Any:
    """Boxes of scenes as pycocotools has them. Numbers of boxes begin at 1: it takes a match with number 0 for none."""
    annotations = []
    for scene, (some, rates) in enumerate(zip(boxes, scores or [None] * len(boxes))):
        for index, (x0, y0, x1, y1) in enumerate(some.double().tolist()):
            one = {"id": len(annotations) + 1, "image_id": scene, "category_id": 1, "iscrowd": 0}
            one |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
            annotations.append(one if rates is None else one | {"score": rates[index].item()})
    images = [{"id": scene} for scene in range(len(boxes))]
    coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
    coco.createIndex()
    return coco


Runs = Sequence[Sequence[Detections]]


def precision_interval(
    runs: Runs,
    truth: Sequence[Tensor],
    *,
    minus: Runs | None = None,
    iou: float = 0.5,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The mean AP of several runs on the same scenes with its 95 % interval over scenes: (mean, lower, upper).

    runs: of each drawing of a support set the detections of all scenes. minus: those of another detector: then it is
    the difference of the two means, paired, since both meet the same scenes in each draw. The interval is that of
    `statistics.bootstrap_interval`: each draw takes as many scenes as there are, with replacement.

    Raises NoInterval for scenes so few that a draw has none with a true box, CourseError for no run.
    """
    for name, some in (("runs", runs), ("minus", minus)):
        if some is not None and not len(some):
            raise CourseError(f"{name} is empty: give the detections of one run or more")
    wanted = np.array([len(true_boxes(boxes)) for boxes in truth])
    signed = [(1 / len(runs), matched(run, truth, iou)) for run in runs]
    signed += [(-1 / len(minus), matched(run, truth, iou)) for run in minus] if minus is not None else []

    def mean(scenes: Tensor) -> Tensor:
        times = np.bincount(scenes.long().numpy(), minlength=len(truth)).astype(float)
        if not (times * wanted).sum():
            raise NoInterval(
                f"{int((wanted > 0).sum())} of {len(truth)} scenes have a true box, so few that a draw of them has "
                "none; take more scenes"
            )
        return torch.tensor(sum(share * one.average_precision(times) for share, one in signed), dtype=torch.float64)

    value, lower, upper = bootstrap_interval(torch.arange(len(truth)), mean, draws=draws, seed=seed)
    return (value, max(lower, 0.0), min(upper, 1.0)) if minus is None else (value, lower, upper)


# ------------------------------------------------------------------ where the errors come from

ERRORS = ("localisation", "background", "duplicate", "missed")


def errors_of(
    detections: Sequence[Detections], truth: Sequence[Tensor], *, iou: float = 0.5, score: float = -math.inf
) -> dict[str, int]:
    """How many boxes are right, and how many errors of each kind there are: "right", and each of ERRORS.

    Only boxes with `score` or more count. Of each scene the highest score comes first, and takes the free true box that
    it overlaps most.

    | error | meaning |
    |---|---|
    | localisation | it overlaps a true box by NEAR = 0.1 or more, but by less than `iou` |
    | duplicate | it overlaps a true box by `iou` or more, but a box of a higher score has it already |
    | background | it overlaps no true box by NEAR; in scenes of many characters this is mostly another character |
    | missed | a true box that no right box has, and no localisation error lies near |

    After Bolya et al., *TIDE*, 2020, https://arxiv.org/abs/2008.08115, for one class.
    """
    _check_iou(iou)
    if len(detections) != len(truth):
        raise CourseError(f"there are detections of {len(detections)} scenes and boxes of {len(truth)}; give as many")
    counts = dict.fromkeys(("right", *ERRORS), 0)
    for found, boxes in zip(detections, truth):
        for kind, count in _errors_of_one(found.above(score), true_boxes(boxes), iou).items():
            counts[kind] += count
    return counts


def _errors_of_one(found: Detections, boxes: Tensor, iou: float) -> dict[str, int]:
    counts = dict.fromkeys(("right", *ERRORS), 0)
    overlap = box_iou(found.boxes.double(), boxes.double())
    taken, near = torch.zeros(2, len(boxes), dtype=torch.bool).unbind()
    for row in overlap[found.scores.argsort(descending=True, stable=True)]:
        free = row.masked_fill(taken, -1.0)
        if len(row) and free.max() >= iou:
            counts["right"] += 1
            taken[free.argmax()] = True
        elif len(row) and row.max() >= iou:
            counts["duplicate"] += 1
        elif len(row) and row.max() >= NEAR:
            counts["localisation"] += 1
            near[row.argmax()] = True
        else:
            counts["background"] += 1
    counts["missed"] = int((~taken & ~near).sum())
    return counts
