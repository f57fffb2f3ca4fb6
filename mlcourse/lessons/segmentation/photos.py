"""Photos in notebook 13: a class is shown in one photo with its mask, and a frozen network finds it in others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from mlcourse import files, places
from mlcourse.datasets import label_maps
from mlcourse.episodes import Episode
from mlcourse.errors import CourseError
from mlcourse.learners.base import evaluation_mode
from mlcourse.lessons.segmentation import pictures
from mlcourse.teaching import figures
from mlcourse.vision.frozen import FrozenPrototypes
from mlcourse.vision.photos import PhotoTasks
from mlcourse.vision.segmentation import intersection_over_union

STORED = "segmentation_photos.json"  # in data/results, by data/make_segmentation_photos.py
LEGEND = {"found": pictures.MASK, "false alarm": pictures.FALSE_ALARM, "missed": pictures.MISSED}
METHODS = {
    "frozen": "frozen network, prototypes",
    "trained": "trained from scratch, prototypes",
    "random": "random network, prototypes",
    "everything": "every pixel is the class",
}


@dataclass(frozen=True)
class Found:
    """One class in photos.

    batch: one task, a support photo with its mask and some queries. marked: bool [queries, H, W], the answer. known:
    what the network has seen before, in one line.
    """

    name: str
    batch: Episode
    marked: Tensor
    known: str

    @property
    def scores(self) -> list[float]:
        """The foreground IoU in each query photo. What nobody labelled counts nowhere."""
        target = self.batch.query_y[0].cpu()
        return intersection_over_union(self.marked & (target >= 0), target > 0).tolist()

    def __str__(self) -> str:
        scores = ", ".join(f"{one:.2f}" for one in self.scores)
        return f"{self.name}: foreground IoU {scores} in {len(self.scores)} photos\n({self.known})"


def find(
    name: str, generator: torch.Generator, *, queries: int = 4, device: torch.device | str = "cpu"
) -> Found | None:
    """Ask for a class of MSRC v2 in some photos, shown in one. None, and one line, where photos or network are missing.

    Raises CourseError for a class that MSRC v2 does not have.
    """
    try:
        learner, maps = FrozenPrototypes().to(device), label_maps.load(label_maps.MSRC)
    except CourseError as missing:
        print(f"The photos are skipped: {missing}")
        return None
    batch = PhotoTasks(maps.only([name]), query=queries, device=device).sample(1, generator)
    with torch.no_grad(), evaluation_mode(learner):
        logits = learner(batch.support_x, batch.support_y, batch.query_x)
    return Found(name, batch, (logits[0] > 0).cpu(), _known(maps, name))


def _known(maps: label_maps.LabelMaps, name: str) -> str:
    """What a network that was pre-trained on ImageNet has seen of these classes, in one line."""
    there = maps.seen_in_imagenet()
    of_this = f"{name!r} as {label_maps.IN_IMAGENET[name]!r}" if name in there else f"{name!r} was not"
    return (
        f"pre-trained on ImageNet with labels; {len(there)} of these {len(maps.classes)} classes were in it, {of_this}"
    )


def stored() -> str:
    """What `data/make_segmentation_photos.py` measured: the foreground IoU of each method, with its 95 % interval."""
    kept = files.read_json(places.data() / "results" / STORED)
    lines = [f"stored: one support photo, MSRC v2, four folds of unseen classes, {kept['tasks per fold']:,} tasks each"]
    for method, words in METHODS.items():
        value, half = kept["all folds"]["iou"][method]["foreground, per image"]
        lines.append(f"{words:33} foreground IoU {value:.3f} ± {half:.3f}")
    return "\n".join(lines)


def picture(found: Found) -> Figure:
    """The support photo with its mask, and each query photo with what was found, false alarms, and what was missed."""
    batch, scores = found.batch, found.scores
    fig, axes = figures.subplots(1, 1 + len(scores), size=(9.2, 2.7))
    axes[0].imshow(tinted(batch.support_x[0, 0], {pictures.MASK: batch.support_y[0, 0] > 0}))
    pictures.bare(axes[0], f"support: {found.name}")
    for ax, x, target, said, score in zip(
        axes[1:], batch.query_x[0], batch.query_y[0].cpu(), found.marked, scores, strict=True
    ):
        there, known = target > 0, target >= 0
        shown = dict(zip(LEGEND.values(), (said & there, said & ~there & known, ~said & there), strict=True))
        ax.imshow(tinted(x, shown))
        pictures.bare(ax, f"IoU {score:.2f}")
    pictures.legend(fig, LEGEND)
    return fig


def text(found: Found) -> str:
    """The picture of `picture` in words."""
    scores = ", ".join(f"{one:.2f}" for one in found.scores)
    share = 100 * float((found.batch.support_y[0, 0] > 0).float().mean())
    return (
        f"A support photo in which {found.name} is marked, {share:.0f} % of its pixels, and {len(found.scores)} other "
        f"photos with the answer laid over them: found, false alarms, missed. Foreground IoU {scores}."
    )


def tinted(photo: Tensor, masks: dict[str, Tensor]) -> np.ndarray:
    """A photo [3, H, W] in [0, 1] with masks (colour → bool [H, W]) laid over it, half transparent: [H, W, 3]."""
    made = pictures.coloured(photo).copy()
    for colour, mask in masks.items():
        inside = mask.cpu().numpy()
        made[inside] = 0.4 * made[inside] + 0.6 * np.array(to_rgb(colour))
    return made
