"""What notebook 13 asks its methods: many scenes at once, and one target among more and more characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mlcourse.datasets import ClassImages
from mlcourse.datasets.scenes import LEVELS, NUMBERS, compose, drawings
from mlcourse.episodes import Episode
from mlcourse.evaluation import Source, evaluate


def ask(learner: nn.Module, source: Source, scenes: int, seed: int) -> tuple[Tensor, Tensor]:
    """What a learner marks in scenes of a source, and the targets there: bool [scenes, H, W] each.

    The same seed gives the same scenes to every learner.
    """
    found: list[tuple[Tensor, Tensor]] = []

    def keep(logits: Tensor, batch: Episode) -> None:
        found.append(((logits > 0).flatten(0, 1).cpu(), batch.query_y.flatten(0, 1).cpu()))

    evaluate(learner, source, episodes=scenes, seed=seed, watch=keep)
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def growing(
    characters: ClassImages, generator: torch.Generator, *, counts: Sequence[int] = LEVELS, recipe: str = "published"
) -> dict[int, Episode]:
    """One target, at one place, among more and more characters of other classes: number of characters → one task.

    The characters of a smaller scene are those that a larger one draws last.
    """
    most = max(counts)
    classes = torch.randperm(characters.classes, generator=generator)
    # more places than classes: others come again, the target does not
    others = classes[1 + torch.arange(most - 1) % (len(classes) - 1)]
    row = torch.cat([others, classes[:1]])  # the target is drawn last
    samples = (torch.rand(most + 1, generator=generator) * characters.counts[torch.cat([row, row[-1:]])]).long()
    if samples[-1] == samples[-2]:  # the support drawing is another picture than the one in the scene
        samples[-1] = (samples[-1] + 1) % characters.counts[row[-1]]
    numbers = torch.rand(most + 1, NUMBERS, generator=generator, dtype=torch.float64)
    drawing, mask = drawings(characters, row[-1:], samples[-1:], numbers[-1:], recipe=recipe)
    there = torch.stack([torch.arange(most) >= most - count for count in counts])
    scenes = compose(
        characters,
        torch.where(there, row, -1),
        samples[:-1].repeat(len(counts), 1),
        numbers[:-1].repeat(len(counts), 1, 1),
        recipe=recipe,
        target=torch.full((len(counts),), most - 1),
    )
    images, masks = scenes.images.float() / 255, scenes.masks
    support = {"support_x": drawing[None].float() / 255, "support_y": mask[None], "classes": row[-1:][None]}
    return {
        count: Episode(query_x=images[k][None, None], query_y=masks[k][None, None], **support)
        for k, count in enumerate(counts)
    }


def four_scores(prediction: Tensor, target: Tensor, iou: Callable, pooled_iou: Callable) -> dict[str, float]:
    """The same predictions by four definitions. iou, pooled_iou: what exercises 13.3 and 13.4 ask."""
    front, back = (float(one) for one in pooled_iou(prediction, target))
    by_scene, back_by_scene = (float(iou(a, b).mean()) for a, b in ((prediction, target), (~prediction, ~target)))
    return {
        "target, by scene": by_scene,
        "target, pooled": front,
        "both, by scene": (by_scene + back_by_scene) / 2,
        "both, pooled": (front + back) / 2,
    }
