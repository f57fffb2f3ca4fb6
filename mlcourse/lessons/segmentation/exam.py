"""What notebook 13 asks its methods: many scenes at once, and one target among more and more characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mlcourse.datasets import ClassImages
from mlcourse.datasets.scenes import LEVELS, NUMBERS, compose, drawings
from mlcourse.episodes import Episode
from mlcourse.evaluation import home_of
from mlcourse.learners.base import Learner, evaluation_mode

AT_ONCE = 10  # tasks that are answered together


@torch.no_grad()
def ask(learner: Learner, batch: Episode) -> Tensor:
    """What a learner marks in the first scene of each task: bool [tasks, H, W], on the CPU."""
    found = []
    with evaluation_mode(learner):
        for some in batch.split(AT_ONCE):
            some = some.to(*home_of(learner))
            found.append((learner(some.support_x, some.support_y, some.query_x)[:, 0] > 0).cpu())
    return torch.cat(found)


def with_mask(batch: Episode, change: Callable[[Tensor], Tensor]) -> Episode:
    """The same tasks, taught with other masks: `change` of bool [tasks, shot, h, w]."""
    return batch.map(lambda name, value: change(value) if name == "support_y" else value)


def upper_half(masks: Tensor) -> Tensor:
    """The first half of each mask's pixels, read from the top: bool [..., h, w]."""
    read = masks.flatten(-2).long()
    half = read.cumsum(-1) * 2 <= read.sum(-1, keepdim=True)
    return masks & half.view_as(masks)


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
