"""One-shot segmentation: which pixels of a scene belong to the class that a drawing shows?

A task: `shot` drawings of one class with their masks (the support set), and scenes in which to find it (the queries).
The answer is a logit at each pixel: above 0 the pixel belongs to the target. Five learners answer:

| learner | how |
|---|---|
| `ConditionedUNet` | a U-Net that compares the scene's maps with the drawing (after Michaelis et al. 2018) |
| `MaskedPrototypes` | the mean feature of the drawing's ink against each pixel's feature (PANet, Wang et al. 2019) |
| `ColourGroups` | pixels of one colour are one character; a prototypical network says which of them is the target |
| `TemplateMatching` | the drawing, turned and scaled, is moved over the scene; nothing is trained |
| `EveryCharacter` | all ink is the target; nothing is trained |

The last two say what a figure is worth: a learner must lie above both. `ColourGroups` is the strongest simple rival in
coloured scenes; in one ink it is helpless.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mlcourse.datasets.images import ClassImages
from mlcourse.datasets.scenes import LEAST, NUMBERS, SIZE, Scenes, compose, drawings, recipe_of
from mlcourse.episodes import Episode, check_positive
from mlcourse.errors import CourseError
from mlcourse.learners.base import Learner, State, evaluation_mode
from mlcourse.learners.building import drawing
from mlcourse.learners.methods import Recipe
from mlcourse.learners.metric import log_of
from mlcourse.networks import Recorded, conv4, normalisation_of, parts, unet
from mlcourse.statistics import Metric, interval

# ------------------------------------------------------------------ tasks


class SceneTasks:
    """Draws tasks of segmentation. One task: `shot` drawings of one class with their masks, and scenes to segment.

    characters: of one channel, bright ink on 0. characters_per_scene: a number (the target is one of them), or several,
    of which each task draws one. recipe: one of `datasets.scenes.RECIPES`. scenes: how many per task. size: of a
    scene, pixels. The distractors of a scene are of any class but the target's. same_picture: whether the scenes show
    the picture of the (first) drawing, turned, scaled and coloured otherwise, or another one of its class, which is
    harder; None: as the recipe says.

    An episode: support_x float32 [tasks, shot, C, 32, 32] in [0, 1], support_y bool [tasks, shot, 32, 32];
    query_x float32 [tasks, scenes, C, size, size], query_y bool [tasks, scenes, size, size]; classes int64 [tasks, 1].
    Each task takes its random numbers in one go, so that tasks are the same whether they are drawn together or not.
    """

    gives = "episodes"

    def __init__(
        self,
        characters: ClassImages,
        *,
        characters_per_scene: int | Sequence[int] = 4,
        recipe: str = "published",
        shot: int = 1,
        scenes: int = 1,
        size: int = SIZE,
        same_picture: bool | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        for what, value in (("shot", shot), ("scenes", scenes), ("size", size)):
            check_positive(what, value)
        self.levels = _levels(characters_per_scene)
        self.how = recipe_of(recipe)
        self.same_picture = self.how.same_picture if same_picture is None else same_picture
        needed = shot if self.same_picture else shot + scenes
        check_characters(characters, needed, f"shot {shot} with scenes {scenes} needs")
        self.characters, self.recipe, self.shot, self.scenes, self.size = characters, recipe, shot, scenes, size
        self.device = torch.device(device)
        self.way = 1

    def sample(self, tasks: int, generator: torch.Generator) -> Episode:
        """`tasks` fresh tasks. `generator` lives on the CPU."""
        check_positive("tasks", tasks)
        episode, _ = self.with_scenes(tasks, generator)
        return episode

    def with_scenes(self, tasks: int, generator: torch.Generator) -> tuple[Episode, Scenes]:
        """The tasks that `sample` gives, and all that is known of their scenes (task by task) for whoever explains."""
        most, most_pictures = max(self.levels), int(self.characters.counts.max())
        sizes = (
            1,
            1,
            most_pictures,
            self.shot * NUMBERS,
            self.scenes,
            self.scenes * most * (NUMBERS + 2),
        )
        numbers = torch.rand(tasks, sum(sizes), generator=generator, dtype=torch.float64).split(sizes, 1)
        level = torch.tensor(self.levels)[(numbers[0] * len(self.levels)).long()].flatten()
        target = (numbers[1] * self.characters.classes).long()
        pictures = in_random_order(numbers[2], self.characters.counts[target])
        shown = pictures[:, : self.shot]
        hidden = shown[:, :1] if self.same_picture else pictures[:, self.shot : self.shot + self.scenes]
        drawing, mask = drawings(
            self.characters,
            target.expand(-1, self.shot).flatten(),
            shown.flatten(),
            numbers[3].reshape(-1, NUMBERS),
            recipe=self.recipe,
        )
        scene = self._compose(target, hidden, level, numbers[4], numbers[5].view(tasks, self.scenes, most, -1))
        episode = Episode(
            support_x=(drawing.float() / 255).unflatten(0, (tasks, self.shot)),
            support_y=mask.unflatten(0, (tasks, self.shot)),
            query_x=(scene.images.float() / 255).unflatten(0, (tasks, self.scenes)),
            query_y=scene.masks.unflatten(0, (tasks, self.scenes)),
            classes=target,
        )
        return episode.to(self.device), scene

    def _compose(self, target: Tensor, pictures: Tensor, level: Tensor, place: Tensor, numbers: Tensor) -> Scenes:
        """Scenes of each task. target [tasks, 1], pictures [tasks, scenes], level [tasks], place [tasks, scenes]."""
        tasks, _, most, _ = numbers.shape
        others = (numbers[..., -2] * (self.characters.classes - 1)).long()
        classes = others + (others >= target.unsqueeze(2)).long()  # any class but the target's
        samples = (numbers[..., -1] * self.characters.counts[classes]).long()
        level = level.view(tasks, 1, 1).expand(-1, self.scenes, -1)
        place = level.squeeze(2) - 1 if self.how.target_last else (place * level.squeeze(2)).long()
        at = place.unsqueeze(2)
        classes = classes.scatter(2, at, target.unsqueeze(2).expand(-1, self.scenes, -1))
        samples = samples.scatter(2, at, pictures.expand(-1, self.scenes).unsqueeze(2))
        classes = classes.masked_fill(torch.arange(most) >= level, -1)
        return compose(
            self.characters,
            classes.flatten(0, 1),
            samples.flatten(0, 1),
            numbers[..., :NUMBERS].flatten(0, 1),
            recipe=self.recipe,
            size=self.size,
            target=place.flatten(),
        )

    def describe(self) -> dict[str, Any]:
        """What its episodes are, for headers, stored results and digests."""
        data = {"data": self.characters.name, "split": self.characters.split, "content": self.characters.content}
        about = {"recipe": self.recipe, "characters": list(self.levels), "shot": self.shot, "scenes": self.scenes}
        return data | about | {"size": self.size, "same_picture": self.same_picture}


def _levels(given: int | Sequence[int]) -> tuple[int, ...]:
    levels = (given,) if isinstance(given, int) else tuple(given)
    if not levels:
        raise CourseError("characters_per_scene is empty; give a number, or several")
    for level in levels:
        check_positive("characters_per_scene", level)
    return levels


def check_characters(characters: ClassImages, needed: int, asked: str, fewer: str = "fewer") -> None:
    """Raise CourseError where scenes cannot be made: of one class, or of a class with too few pictures.

    asked, fewer: the words before and after the numbers: what needs so many pictures, and what to give fewer of.
    """
    if characters.classes < 2:
        raise CourseError(
            f"{characters.name} {characters.split} has {characters.classes} class; a scene needs 2 or more: the "
            "target's, and one of the others"
        )
    smallest = int(characters.counts.argmin())
    if int(characters.counts[smallest]) < needed:
        raise CourseError(
            f"{asked} {needed} pictures per class, but {characters.names[smallest]!r} of {characters.name} "
            f"{characters.split} has {int(characters.counts[smallest])}: give {fewer}, or leave it out"
        )


def in_random_order(numbers: Tensor, counts: Tensor) -> Tensor:
    """Of each row 0 … count − 1 in random order, then what is too many: [rows, most], [rows, 1] → [rows, most]."""
    beyond = torch.arange(numbers.shape[1]) >= counts
    return (numbers + beyond).argsort(1)


# ------------------------------------------------------------------ intersection over union


def pixel_counts(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """How many pixels of each mask agree: bool [..., H, W] twice → float64 [...] for each name.

    "intersection", "union" of the foreground, and both with "background " before them. Raises CourseError for masks
    of unlike shapes.
    """
    if prediction.shape != target.shape or prediction.dtype != torch.bool or target.dtype != torch.bool:
        given = " and ".join(f"{one.dtype} {tuple(one.shape)}" for one in (prediction, target))
        raise CourseError(f"masks are {given}; give bool [..., H, W] twice, of the same shape")
    both, either = (prediction & target).sum((-2, -1)), (prediction | target).sum((-2, -1))
    pixels = target.shape[-2] * target.shape[-1]
    counts = {"intersection": both, "union": either}
    counts |= {"background intersection": pixels - either, "background union": pixels - both}
    return {name: value.double() for name, value in counts.items()}


def intersection_over_union(prediction: Tensor, target: Tensor, *, of: str = "foreground") -> Tensor:
    """IoU of each image, of the foreground or of the background: bool [..., H, W] twice → float64 [...].

    Where neither mask has a pixel of it, nothing was to be found and nothing was: that is 1.
    """
    if of not in ("foreground", "background"):
        raise CourseError(f"there is no IoU of {of!r}; use foreground or background")
    counts, before = pixel_counts(prediction, target), "" if of == "foreground" else "background "
    return _quotient(counts[f"{before}intersection"], counts[f"{before}union"])


def _quotient(intersection: Tensor, union: Tensor) -> Tensor:
    return torch.where(union == 0, 1.0, intersection / union.clamp_min(1))


@dataclass(frozen=True)
class Definition:
    """One of the published meanings of "IoU". pooled: pixels of all images are summed before they are divided.

    both: the mean of foreground and background, in place of the foreground alone. source: who reports it.
    """

    name: str
    pooled: bool
    both: bool
    source: str

    def of(self, scores: dict[str, Tensor]) -> tuple[float, float]:
        """The value, and the half-width of its 95 % interval over tasks, for scores as `Segmenter.score` gives them."""
        shares = [_linear_shares(scores["intersection"], scores["union"]) if self.pooled else scores["foreground IoU"]]
        if self.both and self.pooled:
            shares.append(_linear_shares(scores["background intersection"], scores["background union"]))
        elif self.both:
            shares.append(scores["background IoU"])
        return interval(torch.stack(shares).mean(0))


def _linear_shares(top: Tensor, bottom: Tensor) -> Tensor:
    """Numbers whose mean is Σ top / Σ bottom, and whose spread is that of `statistics.ratio_interval`."""
    if not bottom.any():
        return torch.ones_like(top)
    ratio = top.sum() / bottom.sum()
    return ratio + (top - ratio * bottom) / bottom.mean()


DEFINITIONS = (
    Definition(
        "foreground, per image",
        pooled=False,
        both=False,
        source="Michaelis et al. 2018, section 4, https://arxiv.org/abs/1803.09597; FSS-1000, Li et al. 2020, "
        "https://arxiv.org/abs/1907.12347",
    ),
    Definition(
        "foreground, pooled",
        pooled=True,
        both=False,
        source="Shaban et al. 2017, there pooled by class, then the mean over classes, https://arxiv.org/abs/1709.03410",
    ),
    Definition(
        "foreground and background, per image",
        pooled=False,
        both=True,
        source="torchmetrics.segmentation.MeanIoU with the background as one of two classes; but what an image neither "
        "has nor is said to have counts 1 here, and is left out of the mean there",
    ),
    Definition(
        "foreground and background, pooled",
        pooled=True,
        both=True,
        source="Rakelly et al. 2018, https://openreview.net/forum?id=SkMjFKJwG; PANet, Wang et al. 2019 "
        '("binary-IoU"), https://arxiv.org/abs/1908.06391',
    ),
)

# ------------------------------------------------------------------ learners


SLACK = 1e-3  # how far beyond 0 and 1 a colour may be: photos that were resized are rounded


class Segmenter(Learner):
    """What all learners of this file share: the loss, the scores, and the check of what comes in.

    The metric is the foreground IoU of each scene, and its mean over the scenes of a task. `score` gives the counts of
    pixels beside it, summed over the scenes of the task, which the other definitions are made of.

    A learner begins its `inner_process` with `check_support`, and whatever looks at scenes with `check_queries`.
    channels: how many its pictures may have; None: they are maps of features. asked_about: how an error names them.
    """

    metric = Metric("foreground IoU")
    channels: tuple[int, ...] | None = (1, 3)
    asked_about = "scenes"

    def check_support(self, support_x: Tensor, support_y: Tensor) -> None:
        """Raise CourseError for drawings, or masks of them, that teach nothing: see `check_drawings`."""
        check_drawings(support_x, support_y, channels=self.channels, like=self.first_tensor())

    def check_queries(self, query_x: Tensor, taught: State | None = None) -> None:
        """Raise CourseError for scenes that `check_pictures` refuses, and for those of other tasks than were taught."""
        check_pictures(self.asked_about, query_x, channels=self.channels, like=self.first_tensor(taught))
        check_tasks(query_x, taught)

    def first_tensor(self, taught: State | None = None) -> Tensor | None:
        """One tensor of what was taught, or of the learner: it tells the device. None: the learner holds none."""
        held = (*(taught or {}).values(), *self.parameters(), *self.buffers())
        return next((one for one in held if isinstance(one, Tensor)), None)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy of each pixel plus 1 − soft Dice of each scene.

        Most pixels are background, and cross-entropy alone is content with none of the target; Dice (Milletari et al.,
        *V-Net*, 2016, https://arxiv.org/abs/1606.04797) asks how much of it is found.
        """
        _check_masks(prediction, target)
        truth = target.to(prediction.dtype)
        return F.binary_cross_entropy_with_logits(prediction, truth) + dice_loss(prediction, truth)

    def score(self, prediction: Tensor, batch: Episode) -> dict[str, Tensor]:
        """Of each task the mean IoU of its scenes, and the counts of pixels, summed over its scenes; each [tasks].

        Raises CourseError for logits that are nan: none of them is above 0, so they would count as background.
        """
        _check_masks(prediction, batch.query_y)
        check_logits(prediction)
        found, truth = prediction > 0, batch.query_y
        scores = {
            f"{of} IoU": intersection_over_union(found, truth, of=of).mean(1) for of in ("foreground", "background")
        }
        return scores | {name: value.sum(1) for name, value in pixel_counts(found, truth).items()}


def dice_loss(prediction: Tensor, truth: Tensor) -> Tensor:
    """1 − soft Dice of each scene, the mean over scenes: logits and 0 or 1, each [..., H, W], → a single number."""
    p = prediction.sigmoid()
    found = (p * truth).sum((-2, -1))
    return (1 - (2 * found + 1) / (p.sum((-2, -1)) + truth.sum((-2, -1)) + 1)).mean()


def check_logits(prediction: Tensor) -> None:
    """Raise CourseError where a logit is nan: it is neither above 0 nor below."""
    wrong = int(prediction.isnan().sum())
    if wrong:
        raise CourseError(
            f"{wrong} of {prediction.numel()} logits are nan, which say nothing of their pixels: look at the pictures "
            "and at the network's parameters"
        )


def _check_masks(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:  # PyTorch would broadcast
        shapes = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
        raise CourseError(f"logits and masks have the shapes {shapes}; give [tasks, scenes, H, W] twice")
    _check_bool(target)


def _check_bool(masks: Tensor) -> None:
    """Raise CourseError for masks of numbers: a void pixel, −1, would be taken for one of the target, or for less."""
    if masks.dtype != torch.bool:
        raise CourseError(f"masks are {masks.dtype}; give bool (a learner of photos also takes masks with void)")


def check_pictures(
    what: str, x: Tensor, *, channels: tuple[int, ...] | None = (1, 3), like: Tensor | None = None
) -> None:
    """Raise CourseError for pictures that say nothing, before anything is made of them.

    A nan is no colour: a learner that asks which pixels are ink would find none, and answer as if the scene were empty.

    what: how the error names them. x: floating point [tasks, images, C, H, W], one or more of each, finite, in [0, 1].
    channels: what C may be; None: x are maps of features, of any C and any finite values. like: on whose device x must
    be.
    """
    if x.dim() != 5 or not x.is_floating_point() or not x.numel():
        raise CourseError(
            f"{what} are {x.dtype} {tuple(x.shape)}; give floating point numbers [tasks, images, C, H, W], one or more "
            "of each"
        )
    check_device(what, x, like)
    wrong = int((~x.isfinite()).sum())
    if wrong:
        raise CourseError(
            f"{wrong} of the {x.numel()} values of the {what} are nan or infinite, and say nothing: look at how "
            "they were made"
        )
    if channels is None:
        return
    if x.shape[2] not in channels:
        raise CourseError(f"{what} have {x.shape[2]} channels; give {' or '.join(map(str, channels))}")
    low, high = (float(end) for end in x.aminmax())
    if low < -SLACK or high > 1 + SLACK:
        raise CourseError(
            f"{what} have values from {low:.4g} to {high:.4g}; give colours in [0, 1] (divide bytes by 255)"
        )


def check_tasks(query_x: Tensor, taught: State | None) -> None:
    """Raise CourseError where the queries are of more or fewer tasks than a state, whose tensors are [tasks, …]."""
    counts = {len(one) for one in (taught or {}).values() if isinstance(one, Tensor)}
    if counts - {len(query_x)}:
        raise CourseError(
            f"the queries are of {len(query_x)} tasks, but {counts.pop()} tasks were taught: ask about the same tasks"
        )


def check_device(what: str, x: Tensor, like: Tensor | None) -> None:
    """Raise CourseError where x is on another device than `like` (None: any will do)."""
    if like is not None and x.device != like.device:
        raise CourseError(
            f"{what} are on {x.device}, but the learner, or what it was taught, is on {like.device}: bring both to one "
            "device with .to()"
        )


def check_precision(what: str, x: Tensor, network: torch.nn.Module) -> None:
    """Raise CourseError for pictures of another floating point type than a network's weights."""
    own = next((one.dtype for one in network.parameters()), x.dtype)
    if x.dtype != own:
        raise CourseError(f"{what} are {x.dtype}, but the network's weights are {own}: bring both to one with .to()")


def check_drawings(
    support_x: Tensor, support_y: Tensor, *, channels: tuple[int, ...] | None = (1, 3), like: Tensor | None = None
) -> None:
    """Raise CourseError for drawings that `check_pictures` refuses, and for masks that say nothing of them.

    support_x [tasks, shot, C, h, w], support_y bool [tasks, shot, h, w], each with a pixel or more. channels, like: as
    in `check_pictures`.
    """
    check_pictures("drawings", support_x, channels=channels, like=like)
    if support_y.shape != support_x.shape[:2] + support_x.shape[3:]:
        shapes = f"{tuple(support_x.shape)} and {tuple(support_y.shape)}"
        raise CourseError(
            f"drawings and masks have the shapes {shapes}; give [tasks, shot, C, h, w] and [tasks, shot, h, w]"
        )
    check_device("masks", support_y, support_x)
    _check_bool(support_y)
    if not support_y.flatten(2).any(2).all():
        raise CourseError("the mask of a drawing has no pixel, so nothing says what to look for; mark the character")


class ConditionedUNet(Segmenter):
    """A U-Net that compares the scene's maps with the drawing's: its network is a `networks.unet.ConditionedUNet`.

    The drawing comes as its mask (its colour says nothing of the target's colour). Of several drawings the mean of
    their vectors counts.

    localisation: the weight of a second loss, which asks each level where the target is: the cosines of its places,
    times a sharpness that is learned, are logits, and the share of the target's pixels at each place is the answer.
    Without it the comparison learns only through all layers above it.
    """

    def __init__(self, network: Recorded, *, localisation: float = 1.0) -> None:
        super().__init__()
        self.network, self.localisation = network, localisation
        self.channels = _channels(network)
        self.normalisation = normalisation_of(network)

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_) -> State:
        self.check_support(support_x, support_y)
        ink = support_y.to(support_x.dtype).unsqueeze(2).expand(-1, -1, self.network.in_channels, -1, -1)
        vectors = self.network.describe(_images(ink, self.network, "drawings"))
        return {"vector": vectors.unflatten(0, support_x.shape[:2]).mean(1)}

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        return self.located(state, query_x)[0]

    def located(self, state: State, query_x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and the fit of each level to the drawing, [tasks · queries, h, w]: where it sees the target."""
        self.check_queries(query_x, state)
        tasks, count = query_x.shape[:2]
        vectors = state["vector"].unsqueeze(1).expand(-1, count, -1).flatten(0, 1)
        logits, fits = self.network(_images(query_x, self.network), vectors)
        return logits.unflatten(0, (tasks, count)), fits

    def outer_process(self, batch: Episode, **_) -> tuple:
        prediction, fits = self.located(self.adapt(batch.support_x, batch.support_y), batch.query_x)
        loss = self.loss(prediction, batch.query_y)
        if not self.localisation:
            return loss, prediction
        where = torch.stack([localisation_loss(fit, batch.query_y.flatten(0, 1)) for fit in fits]).mean()
        return loss + self.localisation * where, prediction, {"localisation": where.item()}


def localisation_loss(fit: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy over places: fit [n, h, w], logits; bool masks [n, H, W] of the target.

    The answer is the share of the mask's pixels at each place. Where places are as large as the target, one of them
    holds all. A scene without the target is nowhere to be found: it does not count. Without any, the loss is 0.
    """
    there = masks.flatten(1).any(1)
    if not there.any():
        return fit.sum() * 0
    fit, masks = fit[there], masks[there]
    share = F.adaptive_avg_pool2d(masks.to(fit.dtype).unsqueeze(1), fit.shape[1:]).flatten(1)
    share = share / share.sum(1, keepdim=True)
    return -(share * fit.flatten(1).log_softmax(1)).sum(1).mean()


class MaskedPrototypes(Segmenter):
    """The mean feature of the drawing's ink, and that of what is not ink, are compared with each pixel's feature.

    Wang, Liew, Zou, Zhou, Feng, *PANet: Few-Shot Image Semantic Segmentation with Prototype Alignment*, ICCV 2019,
    https://arxiv.org/abs/1908.06391. Masked average pooling is due to Zhang et al., *SG-One*, 2018,
    https://arxiv.org/abs/1810.09091. The logit is α times the difference of two cosines: to the prototype of the
    foreground, and to that of the background. α = 20, as in the paper.

    alignment: the weight of the alignment loss. It goes the other way round: the prototypes of what the learner finds
    in the scenes must find the ink of the drawings.
    """

    def __init__(self, network: Recorded, *, alpha: float = 20.0, alignment: float = 1.0) -> None:
        super().__init__()
        self.network, self.alpha, self.alignment = network, alpha, alignment
        self.channels = _channels(network)
        self.normalisation = normalisation_of(network)

    def features(self, x: Tensor) -> Tensor:
        """Features of unit length: [tasks, images, C, H, W] → [tasks, images, D, H, W]."""
        z = self.network(_images(x, self.network))
        return F.normalize(z, dim=1).unflatten(0, x.shape[:2])

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_) -> State:
        self.check_support(support_x, support_y)
        return masked_prototypes(self.features(support_x), support_y)

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        self.check_queries(query_x, state)
        return self.compare(state, self.features(query_x))

    def compare(self, state: State, features: Tensor) -> Tensor:
        """Logits [tasks, images, H, W] of features [tasks, images, D, H, W]."""
        direction = F.normalize(state["foreground"], dim=1) - F.normalize(state["background"], dim=1)
        return self.alpha * torch.einsum("tidhw,td->tihw", features, direction)

    def outer_process(self, batch: Episode, **_) -> tuple:
        self.check_support(batch.support_x, batch.support_y)
        self.check_queries(batch.query_x)
        support, query = self.features(batch.support_x), self.features(batch.query_x)
        prediction = self.compare(masked_prototypes(support, batch.support_y), query)
        loss = self.loss(prediction, batch.query_y)
        if not self.alignment:
            return loss, prediction
        found = prediction.detach() > 0
        some = found.flatten(1).any(1)  # where nothing was found there is no prototype
        aligned = loss.new_zeros(())
        if some.any():
            back = self.compare(masked_prototypes(query[some], found[some]), support[some])
            aligned = self.loss(back, batch.support_y[some])
        return loss + self.alignment * aligned, prediction, {"alignment": aligned.item()}


def masked_prototypes(features: Tensor, masks: Tensor) -> State:
    """Masked average pooling: features [tasks, images, D, H, W], bool masks [tasks, images, H, W].

    Returns "foreground" and "background", each [tasks, D]: the mean feature of all pixels of a task in its masks, and
    out of them. Of no pixel it is 0.
    """
    inside = masks.to(features.dtype)
    pooled = {}
    for name, weight in (("foreground", inside), ("background", 1 - inside)):
        total = torch.einsum("tidhw,tihw->td", features, weight)
        pooled[name] = total / weight.sum((1, 2, 3)).clamp_min(1).unsqueeze(1)
    return pooled


def _channels(network: Recorded) -> tuple[int, ...]:
    """How many channels the pictures of a network may have: its own number, or one, which is repeated."""
    return tuple(sorted({1, network.in_channels}))


def _images(x: Tensor, network: Recorded, what: str = "pictures") -> Tensor:
    """[tasks, images, C, H, W] → [tasks · images, channels, H, W], channels last; grey becomes equal channels."""
    check_precision(what, x, network)
    x = x.flatten(0, 1)
    x = x.expand(-1, network.in_channels, -1, -1) if x.shape[1] == 1 else x
    return x.contiguous(memory_format=torch.channels_last)


# ------------------------------------------------------------------ rivals without training


class EveryCharacter(Segmenter):
    """All ink is the target. What a learner must beat to have looked at the drawing at all."""

    trains_on = "nothing"

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_) -> State:
        self.check_support(support_x, support_y)
        return {}

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        self.check_queries(query_x, state)
        return torch.where(query_x.amax(2) > 0, 1.0, -1.0)


class TemplateMatching(Segmenter):
    """The drawing, turned and scaled, is moved over the scene; where it fits best, ink of one colour is the target.

    Fit is the normalised cross-correlation (Lewis, *Fast Normalized Cross-Correlation*, 1995,
    http://scribblethink.org/Work/nvisionInterface/nip.html), its size averaged over the colour channels, at half the
    resolution: a character may be darker than what lies around it. Of the pixels under the best template the most
    frequent colour counts; all pixels of that colour in the template's frame are the answer. Of several drawings each
    is tried.

    scales: of each axis by itself. turns: in degrees.
    """

    trains_on = "nothing"

    def __init__(
        self, *, scales: tuple[float, ...] = (0.5, 0.71, 1.0, 1.41, 2.0), turns: tuple[float, ...] = (-13.0, 0.0, 13.0)
    ) -> None:
        super().__init__()
        self.scales, self.turns = tuple(scales), tuple(turns)

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_) -> State:
        self.check_support(support_x, support_y)
        return {"ink": support_y.to(support_x.dtype)}

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        self.check_queries(query_x, state)
        rows = [self._answered(ink, x) for ink, x in zip(state["ink"], query_x, strict=True)]
        return torch.where(torch.stack(rows), 1.0, -1.0)

    def templates(self, ink: Tensor, step: int = 1) -> tuple[Tensor, Tensor]:
        """Every drawing [shot, h, w] in every turn and scale, and its frame: float32 [templates, side, side], side odd.

        step: how many pixels of the scene one pixel of a template is. A frame is the drawing's box, one pixel wider.
        """
        shot, height, width = ink.shape
        side = 2 * math.ceil(max(self.scales) * max(height, width) / (2 * step)) + 1
        middle = (torch.arange(side, dtype=ink.dtype, device=ink.device) - side // 2) * step
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        grids = []
        for turn in map(math.radians, self.turns):
            along, across = math.cos(turn) * x - math.sin(turn) * y, math.sin(turn) * x + math.cos(turn) * y
            for wide, high in itertools.product(self.scales, self.scales):
                grids.append(torch.stack([along / wide * 2 / width, across / high * 2 / height], 2))
        pictures = torch.stack([_in_the_middle(one) for one in ink]).repeat_interleave(len(grids), 0)
        drawn = F.grid_sample(pictures, torch.stack(grids).repeat(shot, 1, 1, 1), align_corners=False)
        return drawn[:, 0], (drawn[:, 1] > 0.5).to(ink.dtype)

    def _answered(self, ink: Tensor, x: Tensor) -> Tensor:
        """bool [queries, H, W] of one task: drawings [shot, h, w], scenes [queries, C, H, W]."""
        small, (half, window) = F.avg_pool2d(x, 2), self.templates(ink, step=2)
        templates, frames = self.templates(ink)
        found = []
        for scene, coarse in zip(x, small, strict=True):
            fit = correlation(coarse, half, window).abs().mean(0)  # [templates, H/2, W/2]
            number, row, column = (int(i) for i in torch.unravel_index(fit.argmax(), fit.shape))
            at = (2 * row, 2 * column)
            under, frame = (_laid(one[number] > 0.5, at, scene.shape[1:]) for one in (templates, frames))
            found.append(_of_one_colour(scene, under, frame))
        return torch.stack(found)


def correlation(image: Tensor, templates: Tensor, frames: Tensor) -> Tensor:
    """The normalised cross-correlation, in [−1, 1]: image [C, H, W], templates and frames [n, s, s] → [C, n, H, W].

    At each place the pixels of the image in a template's frame are correlated with the template's own. Where all of
    them are alike it is 0. s is odd; beyond its edge the image is 0.
    """
    area = frames.sum((1, 2), keepdim=True).clamp_min(1)
    centred = (templates - (templates * frames).sum((1, 2), keepdim=True) / area) * frames
    spread = centred.square().sum((1, 2)).sqrt()
    x, side = image.unsqueeze(1), templates.shape[-1]
    product = F.conv2d(x, centred.unsqueeze(1), padding=side // 2)
    total = F.conv2d(x, frames.unsqueeze(1), padding=side // 2)
    squares = F.conv2d(x.square(), frames.unsqueeze(1), padding=side // 2)
    of_image = (squares - total.square() / area.view(-1, 1, 1)).clamp_min(0).sqrt()
    bottom = of_image * spread.view(-1, 1, 1)
    return torch.where(bottom > 1e-4, product / bottom.clamp_min(1e-4), 0.0)


def _in_the_middle(ink: Tensor) -> Tensor:
    """The drawing [h, w] with the middle of its ink in the middle, and its frame: [2, h, w]."""
    shifts, sides = [], []
    for axis in (0, 1):
        lines = ink.any(1 - axis).nonzero().flatten()
        first, last = int(lines[0]), int(lines[-1])
        shifts.append((ink.shape[axis] - 1 - first - last) // 2)
        sides.append((max(0, first + shifts[-1] - 1), last + shifts[-1] + 2))
    frame = torch.zeros_like(ink)
    frame[slice(*sides[0]), slice(*sides[1])] = 1
    return torch.stack([ink.roll(shifts, (0, 1)), frame])


def _laid(shape: Tensor, at: tuple[int, int], size: torch.Size) -> Tensor:
    """A shape bool [s, s] with its middle at (row, column) of a canvas bool [H, W]; what lies beyond is cut."""
    edge = shape.shape[0]
    canvas = torch.zeros(size[0] + 2 * edge, size[1] + 2 * edge, dtype=torch.bool, device=shape.device)
    row, column = (place + edge - edge // 2 for place in at)
    canvas[row : row + edge, column : column + edge] = shape
    return canvas[edge:-edge, edge:-edge]


def _of_one_colour(scene: Tensor, under: Tensor, frame: Tensor) -> Tensor:
    """All ink of the colour that is most frequent under a template: bool [H, W]. In one ink, what lies in the frame."""
    colour = colour_codes(scene)
    ink = colour[under & (colour > 0)]
    if not len(ink):
        return torch.zeros_like(frame)
    alike = colour == ink.mode().values
    return alike if len(scene) > 1 else alike & frame


# ------------------------------------------------------------------ the rival that looks at colours


class ColourGroups(Segmenter):
    """Pixels of one colour are one character; the character whose shape is most like the drawing is the target.

    The rival that a critic would name first: in `published` scenes each character has a colour of its own, so nobody
    has to learn where it ends, and what is left is one-shot classification among the characters of the scene
    (prototypical networks, Snell et al. 2017, https://arxiv.org/abs/1703.05175, with cosines). Each group of pixels is
    cut out, stretched to the frame of the encoder (so that size and proportions say nothing), and embedded. The logit
    of its pixels is how much better it fits than the best of the others. Where all ink is of one colour (`grey`), there
    is one group, and the answer is that of `EveryCharacter`.

    network: an encoder of pictures [n, 1, side, side] without a head. least: pixels of the smallest group; what is
    smaller is taken for a rest of something hidden.
    """

    def __init__(self, network: Recorded, *, side: int = 28, temperature: float = 0.1, least: int = LEAST) -> None:
        super().__init__()
        check_positive("side", side)
        check_positive("least", least)
        self.network, self.side, self.least = network, side, least
        self.normalisation = normalisation_of(network)
        self.log_temperature = log_of("temperature", temperature)

    def embed(self, masks: Tensor) -> Tensor:
        """bool [n, H, W] → embeddings of unit length [n, D] of the shapes, each stretched to its frame."""
        return F.normalize(parts.embeddings(self.network, self._framed(masks)), dim=1)

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_) -> State:
        self.check_support(support_x, support_y)
        with evaluation_mode(self):
            return {"prototype": self._prototypes(self.embed(support_y.flatten(0, 1)), support_y.shape[1])}

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        self.check_queries(query_x, state)
        masks, scene = colour_groups(query_x.flatten(0, 1), self.least)
        with evaluation_mode(self):
            fits = self._fits(self.embed(masks), state["prototype"], scene, query_x.shape[1])
        return self._painted(fits, masks, scene, query_x)

    def outer_process(self, batch: Episode, **_) -> tuple:
        """Cross-entropy over the groups of each scene: which of them is the target?

        The drawings and the groups go through the encoder together, so that in training both see the same statistics.
        """
        self.check_support(batch.support_x, batch.support_y)
        self.check_queries(batch.query_x)
        masks, scene = colour_groups(batch.query_x.flatten(0, 1), self.least)
        support, query = batch.support_y.flatten(0, 1), batch.query_y.flatten(0, 1)
        z = F.normalize(parts.embeddings(self.network, torch.cat([self._framed(support), self._framed(masks)])), dim=1)
        prototypes = self._prototypes(z[: len(support)], batch.support_y.shape[1])
        fits = self._fits(z[len(support) :], prototypes, scene, batch.query_x.shape[1])
        right = (masks & query[scene]).sum((1, 2))
        target = right == _largest(right, scene, len(query))[scene]
        target &= right > 0  # a target that has no group of its own teaches nothing
        losses = _log_sums(fits, scene, len(query))[scene] - fits
        loss = losses[target].mean() if target.any() else fits.sum() * 0
        return loss, self._painted(fits, masks, scene, batch.query_x)

    def _framed(self, masks: Tensor) -> Tensor:
        return framed(masks, self.side).to(self.log_temperature.dtype)

    def _prototypes(self, z: Tensor, shot: int) -> Tensor:
        return F.normalize(z.unflatten(0, (-1, shot)).mean(1), dim=1)

    def _fits(self, z: Tensor, prototypes: Tensor, scene: Tensor, scenes: int) -> Tensor:
        """The logit of each group [n]: its cosine with its task's prototype, over the temperature."""
        return (z * prototypes[scene // scenes]).sum(1) / self.log_temperature.exp()

    def _painted(self, fits: Tensor, masks: Tensor, scene: Tensor, x: Tensor) -> Tensor:
        """[tasks, scenes, H, W]: on the pixels of a group its logit minus the best of the others; −1e4 elsewhere."""
        tasks, scenes = x.shape[:2]
        best = _largest(fits, scene, tasks * scenes)
        others = fits.masked_fill(fits >= best[scene], -math.inf)
        second = _largest(others, scene, tasks * scenes)
        lead = fits - torch.where(fits >= best[scene], second[scene], best[scene])
        lead = lead.clamp(-NOTHING, NOTHING)  # alone in its scene it is ahead of nothing
        painted = x.new_full((tasks * scenes, *x.shape[3:]), -NOTHING)
        where, row, column = masks.nonzero(as_tuple=True)
        return painted.index_put((scene[where], row, column), lead[where]).unflatten(0, (tasks, scenes))


NOTHING = 1e4  # the size of a logit that leaves no doubt


def colour_codes(x: Tensor) -> Tensor:
    """A whole number for the colour of each pixel, 0 for black: [..., C, H, W] in [0, 1] → int64 [..., H, W]."""
    levels = (x * 255).round().long()
    return sum(one << 8 * channel for channel, one in enumerate(levels.unbind(-3)))


def spans(masks: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The box of each mask, bool [n, H, W]: (first column, columns) and (first row, rows), int64 [n] each.

    An empty mask has the whole picture as its box.
    """
    found = []
    for axis, size in ((1, masks.shape[2]), (2, masks.shape[1])):
        lines = masks.any(axis).int()
        first = lines.argmax(1)
        found.append((first, size - lines.flip(1).argmax(1) - first))
    return tuple(found)


def colour_groups(x: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """The pixels of each colour: scenes [n, C, H, W] in [0, 1] → bool masks [groups, H, W], the scene of each [groups].

    Black is no colour. Groups of fewer than `least` pixels are left out, but the largest of a scene stays. A scene
    without ink has one empty group.
    """
    masks, scene = [], []
    for number, code in enumerate(colour_codes(x)):
        colours, counts = code[code > 0].unique(return_counts=True)
        kept = colours[(counts >= least) | (counts == counts.max())] if len(colours) else colours.new_zeros(1) - 1
        masks.append(code == kept.view(-1, 1, 1))
        scene.append(torch.full((len(kept),), number, device=x.device))
    return torch.cat(masks), torch.cat(scene)


def framed(masks: Tensor, side: int) -> Tensor:
    """Each shape stretched so that its box fills the picture: bool [n, H, W] → float32 [n, 1, side, side]."""
    theta = torch.zeros(len(masks), 2, 3, device=masks.device)
    for row, ((first, span), size) in enumerate(zip(spans(masks), (masks.shape[2], masks.shape[1]), strict=True)):
        theta[:, row, row] = span / size
        theta[:, row, 2] = (2 * first + span) / size - 1
    grid = F.affine_grid(theta, [len(masks), 1, side, side], align_corners=False)
    return F.grid_sample(masks.unsqueeze(1).float(), grid, align_corners=False)


def _largest(values: Tensor, scene: Tensor, scenes: int) -> Tensor:
    """The largest value of each scene's groups [scenes]; −∞ (or the smallest whole number) where there is none."""
    lowest = -math.inf if values.is_floating_point() else torch.iinfo(values.dtype).min
    return values.new_full((scenes,), lowest).scatter_reduce(0, scene, values.detach(), "amax")


def _log_sums(values: Tensor, scene: Tensor, scenes: int) -> Tensor:
    """log Σ exp over the groups of each scene: [groups] → [scenes]."""
    top = _largest(values, scene, scenes)
    total = values.new_zeros(scenes).scatter_add(0, scene, (values - top[scene]).exp())
    return total.log() + top


# ------------------------------------------------------------------ by name


def by_definition(scores: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Each of the DEFINITIONS by name: its value, and the half-width of its 95 % interval over tasks.

    scores: as `Segmenter.score` gives them, and as `evaluate` collects them in `Result.scores`, each [tasks].
    """
    return {one.name: one.of(scores) for one in DEFINITIONS}


@dataclass(frozen=True)
class Method:
    """A learner by its name. make: from the number of channels. recipes: by name; none: nothing to train."""

    make: Callable[[int], Segmenter]
    recipes: dict[str, Recipe]


SMOKE = Recipe(steps=4, tasks=2, rate=1e-3, validate_every=2, validation_episodes=4)
METHODS = {
    "unet": Method(
        lambda channels: ConditionedUNet(unet.ConditionedUNet(channels)),
        {"smoke": SMOKE, "short": Recipe(steps=2000, tasks=16, rate=2e-3, validate_every=500)},
    ),
    "prototypes": Method(
        lambda channels: MaskedPrototypes(unet.UNet(channels)),
        {"smoke": SMOKE, "short": Recipe(steps=2000, tasks=16, rate=2e-3, validate_every=500)},
    ),
    "colour-groups": Method(
        lambda channels: ColourGroups(conv4.Conv4(normalisation="running", downsample="stride")),
        {"smoke": SMOKE, "short": Recipe(steps=2000, tasks=16, rate=2e-3, validate_every=500)},
    ),
    "every-character": Method(lambda channels: EveryCharacter(), {}),
    "template-matching": Method(lambda channels: TemplateMatching(), {}),
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


def build(method: str, *, scenes: str = "published", seed: int | None = None) -> Segmenter:
    """A learner by its name, for scenes of a recipe. seed: of its random weights; "untrained-" may stand before a name.

    Raises CourseError for an unknown method or recipe of scenes.
    """
    name = method.removeprefix("untrained-")
    if name not in METHODS:
        raise CourseError(f"method {method!r} is unknown; use one of {', '.join(METHODS)}")
    with drawing(seed):
        learner = METHODS[name].make(recipe_of(scenes).channels)
    return learner.to(memory_format=torch.channels_last)


def check_scenes(learner: Segmenter, scenes: str) -> None:
    """Raise CourseError where a learner was made for scenes of other colours than those of a recipe."""
    channels = getattr(getattr(learner, "network", None), "in_channels", None)
    wanted = recipe_of(scenes).channels
    if channels not in (None, wanted) and wanted != 1:  # grey is a colour, too
        raise CourseError(
            f"{scenes} scenes have {wanted} channels, but the learner was trained on {channels}; train one with "
            f"--scenes {scenes}, or evaluate it on what it was trained on"
        )
