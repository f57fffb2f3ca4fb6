"""Few-shot detection: where in a scene is the character that a drawing shows, if it is there at all?

A task: `shot` drawings of one class with their masks (the support set), and scenes (the queries). In half of the scenes
the target is absent. The answer are boxes with scores, which `precision.average_precision` measures over many scenes.

| detector | how |
|---|---|
| `MatchedBoxes` | pixels of one colour are one character; a prototypical network says which is the target, or none |
| `CorrelationDetector` | one pass over the scene; each place of its map is correlated with the drawing |
| `FineTunedDetector` | the same trunk, which learned known classes; the last layer learns the new one |
| `PixelBoxes` | the boxes of `MatchedBoxes`, compared with the drawing pixel by pixel; nothing is trained |
| `TemplateBoxes` | the drawing, turned and scaled, is moved over the scene; nothing is trained |
| `EveryBox` | each character is the target; nothing is trained |

The last three say what a figure is worth; all figures stand in `data/results/detection.json`. `PixelBoxes` has no
network, and is above both detectors that look once where the drawing shows the scene's own picture: in these scenes the
colours do most of the work. All scores but those of the last three are log-odds: above 0 the target is more probable
than not.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from mlcourse import evaluation
from mlcourse.datasets.images import ClassImages
from mlcourse.datasets.scenes import CHARACTER, INK, LEAST, NUMBERS, SIZE, Scenes, compose, drawings, recipe_of
from mlcourse.episodes import Episode, check_positive
from mlcourse.errors import CourseError, check_number
from mlcourse.learners.base import Frozen, Learner, State, evaluation_mode
from mlcourse.learners.building import drawing
from mlcourse.learners.methods import Recipe
from mlcourse.learners.metric import log_of
from mlcourse.learners.saving import restore
from mlcourse.networks import Recorded, conv4, normalisation_of, parts
from mlcourse.networks.detector import STRIDE, DetectorTrunk, middles
from mlcourse.statistics import Metric
from mlcourse.vision.precision import Detections, average_precision, true_boxes
from mlcourse.vision.segmentation import (
    ColourGroups,
    TemplateMatching,
    check_characters,
    check_drawings,
    check_pictures,
    check_precision,
    check_tasks,
    colour_groups,
    correlation,
    framed,
    in_random_order,
    spans,
)

NONE = -1e4  # the score of a row that holds no box
MOST = 20  # boxes of a scene

# ------------------------------------------------------------------ tasks


class DetectionTasks:
    """Draws tasks of detection. One task: `shot` drawings of one class with their masks, and scenes to look for it in.

    characters: of one channel, bright ink on 0. characters_per_scene: the target is one of them; where it is absent,
    another character has its place, so that their number tells nothing. recipe: one of `datasets.scenes.RECIPES`.
    scenes: how many per task. absent: the probability that a scene is without the target. size: of a scene, pixels.
    same_picture: whether the scenes show the picture of the (first) drawing, turned, scaled and coloured otherwise, or
    another one of its class, which is harder; None: as the recipe says. support_draw: tasks of another number have the
    same scenes, and other drawings of the same target.

    An episode: support_x float32 [tasks, shot, C, 32, 32] in [0, 1], support_y bool [tasks, shot, 32, 32];
    query_x float32 [tasks, scenes, C, size, size]; query_y float32 [tasks, scenes, 1, 4], the box x0, y0, x1, y1 around
    all ink of the target in pixels, nan where it is absent; classes int64 [tasks, 1]. Each task takes its random
    numbers in one go, so that tasks are the same whether they are drawn together or not.
    """

    gives = "episodes"
    way = 1

    def __init__(
        self,
        characters: ClassImages,
        *,
        characters_per_scene: int = 17,
        recipe: str = "published",
        shot: int = 1,
        scenes: int = 1,
        absent: float = 0.5,
        size: int = SIZE,
        same_picture: bool | None = None,
        support_draw: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        counts = {"characters_per_scene": characters_per_scene, "shot": shot, "scenes": scenes, "size": size}
        for what, value in counts.items():
            check_positive(what, value)
        _check_share("absent", absent)
        _check_draw(support_draw)
        self.how = recipe_of(recipe)
        self.same_picture = self.how.same_picture if same_picture is None else same_picture
        _check_characters(characters, shot if self.same_picture else shot + scenes)
        self.characters, self.count, self.recipe = characters, characters_per_scene, recipe
        self.shot, self.scenes, self.absent, self.size = shot, scenes, absent, size
        self.support_draw, self.device = support_draw, torch.device(device)

    def sample(self, tasks: int, generator: torch.Generator) -> Episode:
        """`tasks` fresh tasks. `generator` lives on the CPU."""
        check_positive("tasks", tasks)
        return self.with_scenes(tasks, generator)[0]

    def with_scenes(self, tasks: int, generator: torch.Generator) -> tuple[Episode, Scenes]:
        """The tasks that `sample` gives, and all that is known of their scenes (task by task) for whoever explains.

        The scenes' `target` is −1 where it is absent.
        """
        most = int(self.characters.counts.max())
        sizes = (1, most, 2 * self.scenes, self.scenes * self.count * (NUMBERS + 2), most + self.shot * NUMBERS)
        numbers = torch.rand(tasks, sum(sizes), generator=generator, dtype=torch.float64).split(sizes, 1)
        target = (numbers[0] * self.characters.classes).long()
        pictures = in_random_order(numbers[1], self.characters.counts[target])
        drawn = _another_draw(numbers[4], self.support_draw)
        hidden, shown = self._pictures(pictures, drawn[:, :most], self.characters.counts[target])
        support, mask = drawings(
            self.characters,
            target.expand(-1, self.shot).flatten(),
            shown.flatten(),
            drawn[:, most:].reshape(-1, NUMBERS),
            recipe=self.recipe,
        )
        absent, place = (numbers[2][:, part::2] for part in (0, 1))
        there = absent >= self.absent
        numbers = numbers[3].view(tasks, self.scenes, self.count, -1)
        scene = self._compose(target, hidden, there, place, numbers)
        boxes = scene.boxes.gather(1, scene.target.clamp_min(0).view(-1, 1, 1).expand(-1, 1, 4))
        boxes = boxes.masked_fill((scene.target < 0).view(-1, 1, 1), math.nan)
        episode = Episode(
            support_x=(support.float() / 255).unflatten(0, (tasks, self.shot)),
            support_y=mask.unflatten(0, (tasks, self.shot)),
            query_x=(scene.images.float() / 255).unflatten(0, (tasks, self.scenes)),
            query_y=boxes.unflatten(0, (tasks, self.scenes)),
            classes=target,
        )
        return episode.to(self.device), scene

    def _pictures(self, pictures: Tensor, again: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Which picture of the class each scene shows [tasks, scenes], and each drawing [tasks, shot]."""
        if self.same_picture:
            first, rest, left = pictures[:, :1], pictures[:, 1:], counts - 1
        else:
            first, rest, left = pictures[:, : self.scenes], pictures[:, self.scenes :], counts - self.scenes
        rest = rest.gather(1, in_random_order(again[:, : rest.shape[1]], left))
        shown = torch.cat([first, rest], 1) if self.same_picture else rest
        return first.expand(-1, self.scenes), shown[:, : self.shot]

    def _compose(self, target: Tensor, pictures: Tensor, there: Tensor, place: Tensor, numbers: Tensor) -> Scenes:
        """Scenes of each task. target [tasks, 1]; pictures, there, place [tasks, scenes]; numbers [tasks, …]."""
        others = (numbers[..., -2] * (self.characters.classes - 1)).long()
        classes = others + (others >= target.unsqueeze(2)).long()  # any class but the target's
        samples = (numbers[..., -1] * self.characters.counts[classes]).long()
        place = torch.full_like(place, self.count - 1) if self.how.target_last else place * self.count
        at = (torch.arange(self.count) == place.long().unsqueeze(2)) & there.unsqueeze(2)
        scene = compose(
            self.characters,
            torch.where(at, target.unsqueeze(2), classes).flatten(0, 1),
            torch.where(at, pictures.unsqueeze(2), samples).flatten(0, 1),
            numbers[..., :NUMBERS].flatten(0, 1),
            recipe=self.recipe,
            size=self.size,
            target=place.long().flatten(),  # where it is absent too: then another one is seen as well as it would be
        )
        return replace(scene, target=torch.where(there.flatten(), scene.target, -1))

    def describe(self) -> dict[str, Any]:
        """What its episodes are, for headers, stored results and digests."""
        data = {"data": self.characters.name, "split": self.characters.split, "content": self.characters.content}
        about = {"recipe": self.recipe, "characters": self.count, "shot": self.shot, "scenes": self.scenes}
        about |= {"absent": self.absent, "size": self.size, "same_picture": self.same_picture}
        return data | about | ({"support_draw": self.support_draw} if self.support_draw else {})


class CrowdTasks:
    """Scenes for training of which *every* character is a target: one scene, and a drawing of each of its characters.

    A scene of 17 characters so teaches 17 times what it teaches as a task of one target. The arguments are those of
    `DetectionTasks`.

    An episode (one task is one scene): support_x float32 [tasks, count, C, 32, 32], support_y bool [tasks, count, 32,
    32]; query_x float32 [tasks, 1, C, size, size]; query_y float32 [tasks, 1, count, 4], nan for a character of which
    less than SEEN = half of the ink is seen; classes int64 [tasks, count].
    """

    gives = "episodes"

    def __init__(
        self,
        characters: ClassImages,
        *,
        characters_per_scene: int = 17,
        recipe: str = "published",
        size: int = SIZE,
        same_picture: bool | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        for what, value in (("characters_per_scene", characters_per_scene), ("size", size)):
            check_positive(what, value)
        how = recipe_of(recipe)
        self.same_picture = how.same_picture if same_picture is None else same_picture
        _check_characters(characters, 1 if self.same_picture else 2)
        self.characters, self.count, self.recipe, self.size = characters, characters_per_scene, recipe, size
        self.device = torch.device(device)

    def sample(self, tasks: int, generator: torch.Generator) -> Episode:
        """`tasks` fresh scenes. `generator` lives on the CPU."""
        check_positive("tasks", tasks)
        shape = (tasks, self.count, 2 * NUMBERS + 3)
        numbers = torch.rand(shape, generator=generator, dtype=torch.float64)
        classes = (numbers[..., 0] * self.characters.classes).long()
        counts = self.characters.counts[classes]
        samples = (numbers[..., 1] * counts).long()
        shift = 0 if self.same_picture else 1 + (numbers[..., 2] * (counts - 1)).long()
        scene = compose(
            self.characters, classes, samples, numbers[..., 3 : 3 + NUMBERS], recipe=self.recipe, size=self.size
        )
        support, mask = drawings(
            self.characters,
            classes.flatten(),
            ((samples + shift) % counts).flatten(),
            numbers[..., 3 + NUMBERS :].flatten(0, 1),
            recipe=self.recipe,
        )
        hidden = (scene.visible < SEEN).unsqueeze(2)
        return Episode(
            support_x=(support.float() / 255).unflatten(0, (tasks, self.count)),
            support_y=mask.unflatten(0, (tasks, self.count)),
            query_x=(scene.images.float() / 255).unsqueeze(1),
            query_y=scene.boxes.masked_fill(hidden, math.nan).unsqueeze(1),
            classes=classes,
        ).to(self.device)

    def describe(self) -> dict[str, Any]:
        """What its episodes are, for headers and stored runs."""
        data = {"data": self.characters.name, "split": self.characters.split, "content": self.characters.content}
        about = {"recipe": self.recipe, "characters": self.count, "size": self.size, "same_picture": self.same_picture}
        return data | about | {"targets": "all"}


SEEN = 0.5  # the share of a character's ink that must be seen for it to be a target


def _check_share(what: str, value: float) -> None:
    check_number(what, value, least=0)
    if value > 1:
        raise CourseError(f"{what} is {value!r}; give a share, from 0 to 1")


def _check_draw(number: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise CourseError(f"support_draw is {number!r}; give an integer of 0 or more")


def _check_characters(characters: ClassImages, needed: int) -> None:
    check_characters(characters, needed, "these tasks need", "fewer shots or scenes")


def _another_draw(numbers: Tensor, draw: int) -> Tensor:
    """Other random numbers [tasks, n] for each draw; draw 0: as they are.

    Each column is shifted by a random number of its own, modulo 1: it stays uniform, and independent of the one before
    (Cranley & Patterson, 1976, https://doi.org/10.1137/0713071).
    """
    if not draw:
        return numbers
    generator = torch.Generator().manual_seed(draw)
    return (numbers + torch.rand(1, numbers.shape[1], generator=generator, dtype=torch.float64)) % 1


# ------------------------------------------------------------------ detectors


class Detector(Learner):
    """What all detectors share: `detect`, the score of a training step, and the check of what comes in.

    `predict` gives {"boxes": [tasks, scenes, most, 4], "scores": [tasks, scenes, most]}, the best first; rows without a
    box have zeros and the score NONE. The metric of a single step is the share of the scenes with the target where the
    best box lies on it; average precision needs many scenes (`Precision`).

    overlap: of two boxes that overlap by more than this intersection over union, the worse one is dropped.
    """

    metric = Metric("hits", ratio=("hits", "scenes with it"))
    overlap = 0.5
    most = MOST

    @abstractmethod
    def find(self, state: State, scenes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [images, n, 4] and scores [images, n] of scenes [tasks, scenes, C, H, W], images = tasks · scenes.

        Rows without a box have the score NONE.
        """

    def predict(self, state: State, query_x: Tensor) -> dict[str, Tensor]:
        check_pictures("scenes", query_x)
        check_tasks(query_x, state)
        boxes, scores = self.find(state, query_x)
        if scores.isnan().any() or not boxes.isfinite().all():
            raise CourseError(
                f"{type(self).__name__} finds boxes or scores that are not finite; look at its parameters"
            )
        rows = [self._kept(*pair) for pair in zip(boxes, scores, strict=True)]
        shape = query_x.shape[:2]
        return {name: torch.stack(part).unflatten(0, shape) for name, part in zip(("boxes", "scores"), zip(*rows))}

    def _kept(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The best boxes of one scene after non-maximum suppression, filled up to `most`."""
        there = scores > NONE
        kept = Detections.suppressed(boxes[there], scores[there], iou=self.overlap)
        missing = max(0, self.most - len(kept))
        boxes, scores = F.pad(kept.boxes, (0, 0, 0, missing)), F.pad(kept.scores, (0, missing), value=NONE)
        return boxes[: self.most], scores[: self.most]

    @torch.no_grad()
    def detect(self, state: State | Episode, scenes: Tensor | None = None) -> list[Detections]:
        """The boxes of each scene, task by task, sorted by score, after non-maximum suppression.

        state: what `adapt` gave, and scenes [tasks, scenes, C, H, W], or [scenes, C, H, W] of one task. Or an Episode:
        its drawings are adapted to, and its scenes are asked.
        """
        if isinstance(state, Episode):
            state, scenes = self.adapt(state.support_x, state.support_y), state.query_x if scenes is None else scenes
        if scenes is None:
            raise CourseError("detect needs scenes; give [tasks, scenes, C, H, W], or an episode in place of the state")
        with evaluation_mode(self):
            return as_detections(self.predict(state, scenes.unsqueeze(0) if scenes.dim() == 4 else scenes))

    def score(self, prediction: dict[str, Tensor], batch: Episode) -> dict[str, Tensor]:
        """Of each task [tasks]: "hits", in how many scenes with the target the best box lies on it (intersection over
        union of half or more), and "scenes with it"."""
        hits = torch.zeros(batch.query_y.shape[:2], dtype=torch.float64)
        there = hits.clone()
        for task in range(len(hits)):
            for scene, padded in enumerate(batch.query_y[task].cpu()):
                boxes = true_boxes(padded)
                there[task, scene] = len(boxes) > 0
                best = prediction["boxes"][task, scene, :1].cpu().to(boxes.dtype)
                found = len(boxes) > 0 and prediction["scores"][task, scene, 0] > NONE
                hits[task, scene] = found and bool((box_iou(best, boxes) >= 0.5).any())
        return {"hits": hits.sum(1), "scenes with it": there.sum(1)}


def as_detections(prediction: dict[str, Tensor]) -> list[Detections]:
    """What `predict` gives as Detections, scene by scene, task by task."""
    found = []
    for boxes, scores in zip(prediction["boxes"].flatten(0, 1).cpu(), prediction["scores"].flatten(0, 1).cpu()):
        there = scores > NONE
        found.append(Detections(boxes[there], scores[there]))
    return found


def check_truth(boxes: Tensor, size: tuple[int, int]) -> None:
    """Raise CourseError for a true box that lies outside its scene, even in part, has no area, or ends exchanged.

    boxes [..., 4], nan where there is none. size: (height, width) of the scenes.
    """
    found = true_boxes(boxes.reshape(-1, 4))
    height, width = size
    outside = (found[:, :2] < 0).any(1) | (found[:, 2] > width) | (found[:, 3] > height)
    if outside.any():
        where = ", ".join(f"{end:g}" for end in found[outside][0].tolist())
        raise CourseError(f"the true box ({where}) lies outside its scene of {width}×{height} pixels: correct it")


class MatchedBoxes(Detector):
    """The box of each colour is a character; the one whose shape is most like the drawing is the target, if any is.

    The boxes know nothing of classes, and what is left is one-shot classification with one answer more: "none of them".
    The shapes are compared as in `segmentation.ColourGroups`, by the cosine of their embeddings over a temperature;
    "none" has a cosine of its own, which is learned. The score of a box is the log-odds of its share in the softmax
    over all boxes of its scene and "none". In scenes of one ink (`grey`) there is one box, and it is no use.

    groups: the learner whose embedding it takes; it may be trained already. none: the cosine of "none" at first.
    """

    def __init__(self, groups: ColourGroups, *, none: float = 0.7) -> None:
        super().__init__()
        self.groups = groups
        self.none = nn.Parameter(torch.tensor(float(none)))
        self.normalisation = normalisation_of(groups.network)

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_) -> State:
        check_drawings(support_x, support_y)
        with evaluation_mode(self):
            return {"prototype": _prototypes(self.groups.embed(support_y.flatten(0, 1)), support_y.shape[1])}

    def find(self, state: State, scenes: Tensor) -> tuple[Tensor, Tensor]:
        masks, scene = colour_groups(scenes.flatten(0, 1), self.groups.least)
        with evaluation_mode(self):
            fits = self._fits(self.groups.embed(masks), state["prototype"], scene, scenes.shape[1])
        count = scenes.shape[0] * scenes.shape[1]
        fits = _rows(fits.masked_fill(~masks.any(2).any(1), -math.inf), scene, count, -math.inf)
        rest = torch.stack([_without(fits, column) for column in range(fits.shape[1])], 1)
        odds = fits - torch.logaddexp(rest, self._over_temperature(self.none))
        return _rows(boxes_of(masks).to(scenes.dtype), scene, count, 0.0), odds.clamp_min(NONE)

    def outer_process(self, batch: Episode, **_) -> tuple:
        """Cross-entropy over the boxes of each scene and "none": which is the target?

        Drawings and boxes go through the encoder together, so that in training both see the same statistics.
        """
        check_drawings(batch.support_x, batch.support_y)
        check_pictures("scenes", batch.query_x)
        check_truth(batch.query_y, tuple(batch.query_x.shape[3:]))
        masks, scene = colour_groups(batch.query_x.flatten(0, 1), self.groups.least)
        support, count = batch.support_y.flatten(0, 1), batch.query_x.shape[0] * batch.query_x.shape[1]
        shapes = torch.cat([framed(one, self.groups.side) for one in (support, masks)]).to(self.none.dtype)
        z = F.normalize(parts.embeddings(self.groups.network, shapes), dim=1)
        prototypes = _prototypes(z[: len(support)], batch.support_y.shape[1])
        fits = self._fits(z[len(support) :], prototypes, scene, batch.query_x.shape[1])
        logits = torch.cat(
            [_rows(fits, scene, count, -math.inf), self._over_temperature(self.none).expand(count, 1)], 1
        )
        truth = batch.query_y.flatten(0, 1)[scene]  # [boxes, objects, 4]
        overlap = torch.stack(
            [
                box_iou(box.unsqueeze(0), some).nan_to_num(nan=0.0).amax()  # a row of nan is no box
                for box, some in zip(boxes_of(masks).to(truth), truth)
            ]
        )
        overlap = _rows(overlap, scene, count, 0.0)
        best, index = overlap.max(1)
        target = torch.where(best >= 0.5, index, logits.shape[1] - 1)
        loss = F.cross_entropy(logits, target)
        with torch.no_grad():
            found = self.predict({"prototype": prototypes}, batch.query_x)
        return loss, found

    def _fits(self, z: Tensor, prototypes: Tensor, scene: Tensor, scenes: int) -> Tensor:
        """The logit of each box [n]: its cosine with its task's prototype, over the temperature."""
        return self._over_temperature((z * prototypes[scene // scenes]).sum(1))

    def _over_temperature(self, cosines: Tensor) -> Tensor:
        return cosines / self.groups.log_temperature.exp()


def boxes_of(masks: Tensor) -> Tensor:
    """The box of each mask: bool [n, H, W] → float32 [n, 4]. Of an empty mask the whole picture."""
    (column, columns), (row, rows) = spans(masks)
    return torch.stack([column, row, column + columns, row + rows], 1).float()


def _prototypes(z: Tensor, shot: int) -> Tensor:
    return F.normalize(z.unflatten(0, (-1, shot)).mean(1), dim=1)


def _rows(values: Tensor, scene: Tensor, scenes: int, fill: float) -> Tensor:
    """Values [n, …] of scenes, in the order of the scenes → [scenes, most, …], each scene's in a row of its own."""
    counts = torch.bincount(scene, minlength=scenes)
    column = torch.arange(len(scene), device=scene.device) - (counts.cumsum(0) - counts)[scene]
    rows = values.new_full((scenes, int(counts.max()), *values.shape[1:]), fill)
    return rows.index_put((scene, column), values)


def _without(values: Tensor, column: int) -> Tensor:
    """log Σ exp of each row but for one column: [rows, columns] → [rows]; −∞ of none."""
    return torch.cat([values[:, :column], values[:, column + 1 :]], 1).logsumexp(1)


# ------------------------------------------------------------------ detectors that look once


class OnePass(Detector):
    """What the two detectors with a `DetectorTrunk` share: its map, and the loss that knows nothing of classes.

    A place of the map is one of a character where it lies within RADIUS pixels of the middle of its box, across and
    down. Of several the one drawn last counts. The loss: sigmoid focal loss of "something has its middle here" (Lin et
    al., *Focal Loss*, 2017, https://arxiv.org/abs/1708.02002), and 1 − generalised intersection over union of the boxes
    at such places (Rezatofighi et al., 2019, https://arxiv.org/abs/1902.09630).
    """

    def __init__(self, trunk: DetectorTrunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.normalisation = normalisation_of(trunk)

    def maps(self, scenes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the trunk says of scenes [tasks, scenes, C, H, W]; the leading dimension is tasks · scenes."""
        check_precision("scenes", scenes, self.trunk)
        x = scenes.flatten(0, 1)
        x = x.expand(-1, self.trunk.in_channels, -1, -1) if x.shape[1] == 1 else x
        return self.trunk(x.contiguous(memory_format=torch.channels_last))

    @abstractmethod
    def place_scores(self, state: State, features: Tensor, there: Tensor, scenes: int) -> Tensor:
        """The log-odds that the middle of the target is at each place, [images, h, w]."""

    def find(self, state: State, scenes: Tensor) -> tuple[Tensor, Tensor]:
        there, boxes, features = self.maps(scenes)
        scores = self.place_scores(state, features, there, scenes.shape[1]).flatten(1)
        best = scores.topk(min(4 * self.most, scores.shape[1]), dim=1)
        height, width = scenes.shape[3:]
        boxes = boxes.flatten(1, 2).gather(1, best.indices.unsqueeze(2).expand(-1, -1, 4))
        ends = boxes.new_tensor([width, height, width, height])
        return torch.minimum(boxes.clamp_min(0), ends), best.values.clamp_min(NONE / 2)

    def located(self, batch: Episode) -> "Located":
        """The maps of a batch of `CrowdTasks`, where its characters are, and the loss that knows no classes."""
        check_pictures("scenes", batch.query_x)
        check_drawings(batch.support_x, batch.support_y)
        check_truth(batch.query_y, tuple(batch.query_x.shape[3:]))
        if batch.query_x.shape[1] != 1 or batch.query_y.shape[2] != batch.support_x.shape[1]:
            given = (
                f"{batch.support_x.shape[1]} drawings, {batch.query_x.shape[1]} scenes, {batch.query_y.shape[2]} boxes"
            )
            raise CourseError(f"a task has {given}; train on detection.CrowdTasks: one scene, a drawing for each box")
        there, boxes, features = self.maps(batch.query_x)
        truth = batch.query_y.squeeze(1)
        at = _at_middles(truth, *there.shape[1:])  # [scenes, characters, h, w]
        last = (at * torch.arange(1, at.shape[1] + 1, device=at.device).view(1, -1, 1, 1)).amax(1)
        some = last > 0
        scene, row, column = some.nonzero(as_tuple=True)
        aims = truth[scene, last[scene, row, column] - 1].to(boxes.dtype)
        objectness = sigmoid_focal_loss(there, some.to(there.dtype), alpha=-1, reduction="sum") / max(
            1, int(some.sum())
        )
        edges = generalized_box_iou_loss(boxes[scene, row, column], aims, reduction="sum") / max(1, len(aims))
        return Located(there, features, at, objectness + edges)

    def metrics(self, prediction: dict[str, float], batch: Episode) -> dict[str, float]:
        """Of a training step: average precision needs many scenes, so it says only how often features name the right
        one."""
        return prediction


@dataclass(frozen=True)
class Located:
    """there [scenes, h, w], features [scenes, h, w, D], at bool [scenes, characters, h, w], and a loss."""

    there: Tensor
    features: Tensor
    at: Tensor
    loss: Tensor


RADIUS = 4.0  # pixels around the middle of a box


def _at_middles(boxes: Tensor, height: int, width: int) -> Tensor:
    """Which places are at the middle of each box: [scenes, n, 4] → bool [scenes, n, height, width]. Of nan: none."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    away = (middles(height, width, like=centre) - centre[..., None, None, :]).abs()
    return (away < RADIUS).all(-1)


def _at_centres(at: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One place of each character that has any: scene, character, row, column, int64 [n] each."""
    scene, character = at.flatten(2).any(2).nonzero(as_tuple=True)
    place = at[scene, character].flatten(1).int().argmax(1)
    return scene, character, place // at.shape[3], place % at.shape[3]


class CorrelationDetector(OnePass):
    """Each place of the scene's map is correlated with the drawing: one pass finds boxes, and which is the target.

    An anchor-free detector of one level (Tian et al., *FCOS*, 2019, https://arxiv.org/abs/1904.01355; Zhou et al.,
    *Objects as Points*, 2019, https://arxiv.org/abs/1904.07850), told by a drawing what to find, as in Siamese
    detectors (Michaelis et al., *One-Shot Instance Segmentation*, 2018, https://arxiv.org/abs/1811.11507). The
    drawing's feature is a kernel of 1×1 for a depthwise correlation: channel by channel it multiplies the map, and a
    learned weight of each channel sums it up. At first all weights are alike, so that the sum is the cosine: an easy
    path from the drawing to the answer.

    encoder: makes the feature of a drawing [n, 1, side, side], stretched to its frame, as many numbers as the trunk's
    features. frozen: whether it stays as it is, since it was trained before.

    Its losses beside those of `OnePass`: focal loss of the correlation maps of all drawings of a scene, and of those of
    another scene, which must find nothing; and which of all drawings of the batch each character is, by cosines (cross-
    entropy).
    """

    def __init__(
        self,
        trunk: DetectorTrunk,
        encoder: Recorded,
        *,
        frozen: bool = False,
        side: int = 28,
        temperature: float = 0.05,
    ) -> None:
        super().__init__(trunk)
        self.encoder, self.side = Frozen(encoder) if frozen else encoder, side
        size = parts.embedding_size(encoder, "CorrelationDetector")
        if size != trunk.features:
            raise CourseError(
                f"the encoder gives {size} numbers for a drawing, the trunk {trunk.features} for a place; "
                "make both alike"
            )
        self.weight = nn.Parameter(torch.full((size,), 8.0))
        self.bias = nn.Parameter(torch.tensor(-8.0))
        self.log_temperature = log_of("temperature", temperature)

    def kernels(self, support_y: Tensor) -> Tensor:
        """Masks of drawings bool [tasks, n, h, w] → features of unit length [tasks, n, D]."""
        shapes = framed(support_y.flatten(0, 1), self.side).to(self.weight.dtype)
        return F.normalize(parts.embeddings(self.encoder, shapes), dim=1).unflatten(0, support_y.shape[:2])

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_) -> State:
        check_drawings(support_x, support_y)
        with evaluation_mode(self):
            return {"kernel": F.normalize(self.kernels(support_y).mean(1), dim=1)}

    def place_scores(self, state: State, features: Tensor, there: Tensor, scenes: int) -> Tensor:
        kernels = state["kernel"].repeat_interleave(scenes, 0).unsqueeze(1)
        return self.correlated(kernels, features, there).squeeze(1)

    def correlated(self, kernels: Tensor, features: Tensor, there: Tensor) -> Tensor:
        """Log-odds [images, n, h, w] of n kernels [images, n, D] on features [images, h, w, D]."""
        fit = torch.einsum("ind,ihwd->inhw", kernels * self.weight, features) + self.bias
        return fit + F.logsigmoid(there).unsqueeze(1)

    def outer_process(self, batch: Episode, **_) -> tuple:
        found = self.located(batch)
        kernels = self.kernels(batch.support_y)
        loss = found.loss + self._correlation_loss(found, kernels, batch.classes)
        scene, character, row, column = _at_centres(found.at)
        z, classes = found.features[scene, row, column], batch.classes
        logits = z @ kernels.flatten(0, 1).T / self.log_temperature.exp()
        own = scene * classes.shape[1] + character
        same = classes[scene, character].unsqueeze(1) == classes.flatten()
        same[torch.arange(len(own)), own] = False  # other drawings of its class are neither right nor wrong
        logits = logits.masked_fill(same, -math.inf)
        named = F.cross_entropy(logits, own) if len(own) else loss.new_zeros(())
        right = (logits.argmax(1) == own).double().mean().item() if len(own) else 0.0
        return loss + named, {"named": right}, {"classless loss": found.loss.item()}

    def _correlation_loss(self, found: Located, kernels: Tensor, classes: Tensor) -> Tensor:
        other, theirs = kernels.roll(1, 0), classes.roll(1, 0)
        maps = self.correlated(torch.cat([kernels, other], 1), found.features, found.there)
        truth = torch.cat([found.at, torch.zeros_like(found.at)], 1)
        seen = found.at.flatten(2).any(2)
        strange = (theirs.unsqueeze(2) != classes.unsqueeze(1)).all(2)  # classes that the scene has not
        twice = (classes.unsqueeze(2) == classes.unsqueeze(1)).sum(2) > 1  # two of its class in the scene
        counts = torch.cat([seen & ~twice, strange], 1)
        loss = sigmoid_focal_loss(maps, truth.to(maps.dtype), alpha=-1, reduction="none").sum((2, 3))
        positive = truth.sum((2, 3))
        return (loss * counts).sum() / (positive * counts).sum().clamp_min(1)


class FineTunedDetector(OnePass):
    """The rival without conditioning: the same trunk learns to name the classes of training; then a new one is added.

    The trunk's features are compared with one weight of each training class by the cosine; the loss beside that of
    `OnePass` is the cross-entropy of the class of each character. To adapt, the last layer alone learns (Wang et al.,
    *Frustratingly Simple Few-Shot Object Detection*, 2020, https://arxiv.org/abs/2003.06957): the drawing is put into
    an empty scene in SCALES sizes, the mean of the features at its middle is the new class's first weight, and
    `inner_steps` of gradient descent at `inner_rate` make it right for these features and wrong for the weights of the
    known classes. The score of a place is the log-odds of the new class against all known ones, and that something is
    there.

    classes: how many there are in training. canvas: of the empty scene, pixels. sharpness: it multiplies cosines.
    """

    def __init__(
        self,
        trunk: DetectorTrunk,
        classes: int,
        *,
        canvas: int = 64,
        sharpness: float = 20.0,
        inner_steps: int = 20,
        inner_rate: float = 0.01,
    ) -> None:
        super().__init__(trunk)
        check_positive("classes", classes)
        self.canvas, self.inner_steps, self.inner_rate = canvas, inner_steps, inner_rate
        self.known = nn.Parameter(torch.randn(classes, trunk.features) / math.sqrt(trunk.features))
        self.log_sharpness = log_of("sharpness", sharpness)

    def inner_process(self, support_x: Tensor, support_y: Tensor, *, inner_steps: int | None = None, **_) -> State:
        check_drawings(support_x, support_y)
        check_precision("drawings", support_x, self.trunk)
        with evaluation_mode(self), torch.no_grad():
            z = self.looks(support_x, support_y)  # [tasks, n, D]
            known, sharpness = F.normalize(self.known, dim=1), self.log_sharpness.exp()
            others = sharpness * known @ known.T  # of each known weight, as if it were a picture
            against_looks, against_known = (sharpness * z @ known.T).logsumexp(2), others.logsumexp(1)
        weight = F.normalize(z.mean(1), dim=1)
        for _ in range(self.inner_steps if inner_steps is None else inner_steps):
            with torch.enable_grad():
                w = weight.detach().requires_grad_()
                unit = F.normalize(w, dim=1)
                right = F.softplus(against_looks - sharpness.detach() * torch.einsum("tnd,td->tn", z, unit)).mean(1)
                wrong = F.softplus(sharpness.detach() * unit @ known.detach().T - against_known).sum(1)
                (slope,) = torch.autograd.grad((right + wrong).sum(), w)
            weight = F.normalize(w.detach() - self.inner_rate * slope, dim=1)
        return {"weight": weight}

    def looks(self, support_x: Tensor, support_y: Tensor) -> Tensor:
        """The features of drawings in an empty scene, at their middles: [tasks, shot · SCALES, D]."""
        tasks, shot = support_x.shape[:2]
        pictures, mask = support_x.flatten(0, 1), support_y.flatten(0, 1)
        pictures = pictures * mask.unsqueeze(1)
        rows = []
        for scale in SCALES:
            side = int(CHARACTER * scale)
            small = F.interpolate(pictures, size=(side, side), mode="nearest-exact")
            before = (self.canvas - side) // 2
            scene = F.pad(small, (before, self.canvas - side - before) * 2)
            box = boxes_of(scene.amax(1) > 0)
            centre = (((box[:, :2] + box[:, 2:]) / 2) / STRIDE).long()
            _, _, features = self.maps(scene.unsqueeze(1))
            rows.append(features[torch.arange(len(box)), centre[:, 1], centre[:, 0]])
        return torch.stack(rows, 1).view(tasks, shot * len(SCALES), -1)

    def place_scores(self, state: State, features: Tensor, there: Tensor, scenes: int) -> Tensor:
        sharpness = self.log_sharpness.exp()
        weight = state["weight"].repeat_interleave(scenes, 0)
        new = sharpness * torch.einsum("ihwd,id->ihw", features, weight)
        known = sharpness * features @ F.normalize(self.known, dim=1).T
        return new - known.logsumexp(3) + F.logsigmoid(there)

    def outer_process(self, batch: Episode, **_) -> tuple:
        found = self.located(batch)
        if int(batch.classes.max()) >= len(self.known):
            raise CourseError(
                f"a character is of class {int(batch.classes.max())} (counted from 0), but this detector names "
                f"{len(self.known)}; make it with classes={int(batch.classes.max()) + 1} or more"
            )
        scene, character, row, column = _at_centres(found.at)
        logits = self.log_sharpness.exp() * found.features[scene, row, column] @ F.normalize(self.known, dim=1).T
        aims = batch.classes[scene, character]
        named = F.cross_entropy(logits, aims) if len(aims) else found.loss.new_zeros(())
        right = (logits.argmax(1) == aims).double().mean().item() if len(aims) else 0.0
        return found.loss + named, {"named": right}, {"classless loss": found.loss.item()}


SCALES = (0.6, 1.0, 1.6)  # in which a drawing is put into an empty scene

# ------------------------------------------------------------------ rivals without training


class EveryBox(Detector):
    """Each character is the target, with the same score. What a detector must beat to have looked at the drawing."""

    trains_on = "nothing"
    most = 1000  # each character is a box, however many there are

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_) -> State:
        check_drawings(support_x, support_y)
        return {}

    def find(self, state: State, scenes: Tensor) -> tuple[Tensor, Tensor]:
        masks, scene = colour_groups(scenes.flatten(0, 1), LEAST)
        count = scenes.shape[0] * scenes.shape[1]
        scores = torch.where(masks.any(2).any(1), 0.0, NONE).to(scenes.dtype)
        return _rows(boxes_of(masks).to(scenes.dtype), scene, count, 0.0), _rows(scores, scene, count, NONE)


class PixelBoxes(Detector):
    """The box of each colour, scored by the cosine of its shape with the drawing, pixel by pixel; nothing is learned.

    The shapes are framed as for `MatchedBoxes`, and have the mean 0. What it finds is what the colours tell.
    """

    trains_on = "nothing"
    side = 28

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_) -> State:
        check_drawings(support_x, support_y)
        return {"prototype": _prototypes(self._shapes(support_y.flatten(0, 1)), support_y.shape[1])}

    def find(self, state: State, scenes: Tensor) -> tuple[Tensor, Tensor]:
        masks, scene = colour_groups(scenes.flatten(0, 1), LEAST)
        count = scenes.shape[0] * scenes.shape[1]
        cosines = (self._shapes(masks) * state["prototype"][scene // scenes.shape[1]]).sum(1)
        scores = cosines.masked_fill(~masks.any(2).any(1), NONE).to(scenes.dtype)
        return _rows(boxes_of(masks).to(scenes.dtype), scene, count, 0.0), _rows(scores, scene, count, NONE)

    def _shapes(self, masks: Tensor) -> Tensor:
        pixels = framed(masks, self.side).flatten(1).double()
        return F.normalize(pixels - pixels.mean(1, keepdim=True), dim=1)


class TemplateBoxes(Detector):
    """The drawing, turned and scaled, is moved over the scene; each template's best place is a box.

    The score is the normalised cross-correlation there, its size averaged over the colour channels, as in
    `segmentation.TemplateMatching`, at half the resolution.
    """

    trains_on = "nothing"

    def __init__(self) -> None:
        super().__init__()
        self.matching = TemplateMatching()

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_) -> State:
        check_drawings(support_x, support_y)
        return {"ink": support_y.to(support_x.dtype)}

    def find(self, state: State, scenes: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = [], []
        for ink, x in zip(state["ink"], scenes, strict=True):
            templates, frames = self.matching.templates(ink, step=2)
            extent = boxes_of(frames > 0) - frames.shape[-1] // 2  # from the template's middle, with a margin of 1
            extent = 2 * (extent + extent.new_tensor([1, 1, -1, -1]) / 2)
            for scene in F.avg_pool2d(x, 2):
                fit = correlation(scene, templates, frames).abs().mean(0)
                best, place = fit.flatten(1).max(1)
                row, column = 2 * (place // fit.shape[2]) + 1, 2 * (place % fit.shape[2]) + 1
                found = extent + torch.stack([column, row, column, row], 1)
                height, width = x.shape[2:]
                found = torch.minimum(found.clamp_min(0), found.new_tensor([width, height, width, height]))
                boxes.append(found.to(x.dtype))
                scores.append(best)
        return torch.stack(boxes), torch.stack(scores)


# ------------------------------------------------------------------ how good they are


@dataclass(frozen=True)
class Answers:
    """What a detector says of many scenes: `detections`, the true boxes `truth` [objects, 4] of each, and `result`,
    how often the best box was right."""

    detections: list[Detections]
    truth: list[Tensor]
    result: evaluation.Result

    def precision(self, iou: float = 0.5) -> float:
        """Average precision over all scenes."""
        return average_precision(self.detections, self.truth, iou)


def answers(detector: Detector, source: DetectionTasks, *, episodes: int, seed: int = 0) -> Answers:
    """Ask a detector `episodes` tasks; the same seed gives the same ones. By `evaluation.evaluate`, with its checks."""
    found: list[Detections] = []
    truth: list[Tensor] = []

    def keep(prediction: dict[str, Tensor], batch: Episode) -> None:
        found.extend(as_detections(prediction))
        truth.extend(batch.query_y.flatten(0, 1).cpu())

    result = evaluation.evaluate(detector, source, episodes=episodes, seed=seed, watch=keep)
    return Answers(found, truth, result)


@dataclass(frozen=True)
class Precision:
    """The evaluator by average precision, for `train`: always on the same tasks."""

    source: DetectionTasks
    episodes: int = 200
    seed: int = 10**6

    def evaluate(self, learner: Detector) -> evaluation.Result:
        """The result, whose value is AP50 over all scenes; it has no interval of its own."""
        found = answers(learner, self.source, episodes=self.episodes, seed=self.seed)
        return replace(found.result, metric=Metric("AP50"), value=found.precision(), ci95=math.nan)


# ------------------------------------------------------------------ by name


@dataclass(frozen=True)
class Method:
    """A detector by its name. make: from the channels of scenes, the number of training classes, and whether its
    embedding of drawings is trained already.

    recipes: by name; none: nothing to train. crowd: whether it trains on `CrowdTasks`.
    """

    make: Callable[[int, int, bool], Detector]
    recipes: dict[str, Recipe]
    crowd: bool = False


def _encoder() -> conv4.Conv4:
    return conv4.Conv4(normalisation="running", downsample="stride")


SMOKE = Recipe(steps=4, tasks=4, rate=1e-3, validate_every=2, validation_episodes=8)
METHODS = {
    "matched-boxes": Method(
        lambda channels, classes, trained: MatchedBoxes(ColourGroups(_encoder())),
        {"smoke": SMOKE, "short": Recipe(steps=2000, tasks=16, rate=2e-3, validate_every=500)},
    ),
    "correlation": Method(
        lambda channels, classes, trained: CorrelationDetector(DetectorTrunk(channels), _encoder(), frozen=trained),
        {"smoke": SMOKE, "short": Recipe(steps=4000, tasks=8, rate=3e-3, validate_every=500, validation_episodes=100)},
        crowd=True,
    ),
    "fine-tuning": Method(
        lambda channels, classes, trained: FineTunedDetector(DetectorTrunk(channels), classes),
        {"smoke": SMOKE, "short": Recipe(steps=4000, tasks=8, rate=3e-3, validate_every=500, validation_episodes=100)},
        crowd=True,
    ),
    "template-boxes": Method(lambda channels, classes, trained: TemplateBoxes(), {}),
    "pixel-boxes": Method(lambda channels, classes, trained: PixelBoxes(), {}),
    "every-box": Method(lambda channels, classes, trained: EveryBox(), {}),
}


def recipe(method: str, name: str) -> Recipe:
    """The recipe `name` of a method. Raises CourseError when there is none."""
    known = [one for one, about in METHODS.items() if about.recipes]
    if method not in known:
        raise CourseError(f"method {method!r} is unknown or has nothing to train; use one of {', '.join(known)}")
    recipes = METHODS[method].recipes
    if name not in recipes:
        raise CourseError(f"recipe {name!r} is unknown for {method}; use one of {', '.join(recipes)}")
    return recipes[name]


def build(
    method: str,
    *,
    scenes: str = "published",
    known: ClassImages | None = None,
    seed: int | None = None,
    start: Learner | None = None,
) -> Detector:
    """A detector by its name, for scenes of a recipe. seed: of its random weights. "untrained-" may stand before it.

    known: the characters of training, whose classes `fine-tuning` names. start: a trained `ColourGroups`, with whose
    embedding of drawings a detector begins (`fine-tuning`: with the means of the known classes in it). Raises
    CourseError for an unknown method or recipe of scenes, and for a start that is none.
    """
    name = method.removeprefix("untrained-")
    if name not in METHODS:
        raise CourseError(f"method {method!r} is unknown; use one of {', '.join(METHODS)}")
    with drawing(seed):
        classes = 1 if known is None else known.classes
        learner = METHODS[name].make(recipe_of(scenes).channels, classes, start is not None)
    if start is not None:
        _begin_with(learner, start, name, known)
    return learner.to(memory_format=torch.channels_last)


def _begin_with(learner: Detector, start: Learner, name: str, known: ClassImages | None) -> None:
    if not isinstance(start, ColourGroups):
        raise CourseError(f"the start is a {type(start).__name__}; give a run of segmentation by colour-groups")
    if isinstance(learner, MatchedBoxes):
        restore(learner.groups, start.state_dict(), "the start")
    elif isinstance(learner, CorrelationDetector):
        restore(learner.encoder.learner, start.network.state_dict(), "the start")
    elif isinstance(learner, FineTunedDetector) and known is not None:
        learner.known.data.copy_(class_means(start, known))
    else:
        raise CourseError(f"{name} has no use for a start; leave it out, or give the known characters with it")


@torch.no_grad()
def class_means(groups: ColourGroups, characters: ClassImages, pictures: int = 5) -> Tensor:
    """The mean embedding of the first few pictures of each class, of unit length: [classes, D]."""
    count = min(pictures, int(characters.counts.min()))
    index = characters.first.unsqueeze(1) + torch.arange(count)
    with evaluation_mode(groups):
        rows = [groups.embed(characters.images[some.flatten()].squeeze(1) >= 255 * INK) for some in index.split(64)]
    return F.normalize(torch.cat(rows).unflatten(0, (-1, count)).mean(1), dim=1)


def tasks_for(method: str, characters: ClassImages, **about: Any) -> DetectionTasks | CrowdTasks:
    """What a method trains on; about: the arguments of the source. Raises CourseError for more shots than it takes."""
    if not METHODS[method].crowd:
        return DetectionTasks(characters, **about)
    shot = about.pop("shot", 1)
    if shot != 1:
        raise CourseError(
            f"{method} trains with one drawing of each character, not {shot}; ask for more when evaluating"
        )
    about.pop("absent", None)
    return CrowdTasks(characters, **about)


def check_channels(learner: Detector, scenes: str) -> None:
    """Raise CourseError where a detector was made for scenes of other colours than those of a recipe."""
    channels = getattr(getattr(learner, "trunk", None), "in_channels", None)
    wanted = recipe_of(scenes).channels
    if channels not in (None, wanted) and wanted != 1:  # grey is a colour, too
        raise CourseError(
            f"{scenes} scenes have {wanted} channels, but the detector was trained on {channels}; train one with "
            f"--scenes {scenes}, or evaluate it on what it was trained on"
        )
