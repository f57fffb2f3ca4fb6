"""Regions in place of pixels: all ink of one colour is one candidate, and a network for single characters compares.

A scene of the recipe `published` has a colour for each character. So nobody has to learn which pixels belong
together; what is left to learn is which candidate looks like the drawing. In scenes of one ink this does not work.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mlcourse.datasets import ClassImages
from mlcourse.datasets.scenes import draw
from mlcourse.episodes import Episode, EpisodeSampler
from mlcourse.learners.base import Learner, State
from mlcourse.vision.segmentation import Segmenter, colour_codes, spans

SIDE, BOX, FINE = 28, 20, 3  # of a framed character and of its ink, pixels; samples of a pixel along each side


class RegionPrototypes(Segmenter):
    """The region whose features are nearest to those of the support mask is the answer.

    encoder: a learner whose `embed` gives features of characters [tasks, n, 1, 28, 28]; None: their own pixels. It is
    not trained here.
    """

    trains_on = "nothing"

    def __init__(self, encoder: Learner | None) -> None:
        super().__init__()
        self.encoder = encoder

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_) -> State:
        """The mean feature of the support masks of each task: [tasks, D]."""
        return {"prototype": torch.stack([self.features(masks).mean(0) for masks in support_y])}

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        answers = [
            torch.stack([self.nearest(prototype, scene) for scene in scenes])
            for prototype, scenes in zip(state["prototype"], query_x, strict=True)
        ]
        return torch.where(torch.stack(answers), 1.0, -1.0)

    def nearest(self, prototype: Tensor, scene: Tensor) -> Tensor:
        """The region of a scene [C, H, W] that is nearest to the prototype [D]: bool [H, W]."""
        masks = regions(scene)
        if not len(masks):
            return torch.zeros(scene.shape[1:], dtype=torch.bool, device=scene.device)
        distances = (self.features(masks) - prototype).square().sum(1)
        return masks[distances.argmin()]

    def features(self, masks: Tensor) -> Tensor:
        """Features of masks, bool [n, H, W]: [n, D]."""
        pictures = framed(masks)
        if self.encoder is None:
            return pictures.flatten(1)
        return self.encoder.embed(pictures[None])[0]


def regions(scene: Tensor) -> Tensor:
    """The ink of each colour of a scene [C, H, W] in [0, 1]: bool [colours, H, W]."""
    code = colour_codes(scene)
    colours = code[code > 0].unique()
    return code[None] == colours[:, None, None]


def framed(masks: Tensor) -> Tensor:
    """Each mask in a frame of its own, its box scaled to BOX pixels: bool [n, H, W] → float32 [n, 1, 28, 28].

    The longer side fills the box. The shorter one is stretched towards it, by the root of their ratio, since a scene
    stretches characters along each axis. An empty mask stays empty.
    """
    height, width = masks.shape[1:]
    (left, wide), (top, high) = ((first.float(), span.float()) for first, span in spans(masks))
    longer = torch.maximum(wide, high)
    steps = (torch.arange(SIDE * FINE, device=masks.device) + 0.5) / FINE - SIDE / 2  # from the middle of the frame
    grid = []
    for first, span, size in ((left, wide, width), (top, high, height)):
        box = BOX * (span / longer).sqrt()
        at = (first + span / 2)[:, None] + steps * (span / box)[:, None]  # in pixels of the mask
        grid.append(2 * at / size - 1)
    n = len(masks)
    x = grid[0][:, None, :].expand(n, SIDE * FINE, -1)
    y = grid[1][:, :, None].expand(n, -1, SIDE * FINE)
    fine = F.grid_sample(masks[:, None].float(), torch.stack([x, y], 3), align_corners=False)
    return F.avg_pool2d(fine, FINE)


class DistortedCharacters:
    """Episodes of single characters, turned, sheared and stretched as in scenes, and framed: for `training.train`.

    way, query: classes of a task, and queries of each; one support picture each. An episode: support_x float32
    [tasks, way, 1, 28, 28], support_y int64 [tasks, way], and the same for queries.
    """

    gives = "episodes"

    def __init__(self, characters: ClassImages, way: int, query: int, *, device: torch.device | str = "cpu") -> None:
        self.sampler, self.characters = EpisodeSampler(characters, way, 1, query), characters
        self.way, self.device = way, torch.device(device)

    def sample(self, tasks: int, generator: torch.Generator) -> Episode:
        """`tasks` fresh tasks. `generator` lives on the CPU."""
        batch = self.sampler.sample(tasks, generator)
        pictures = {
            f"{part}_x": self._distorted(batch, getattr(batch, f"{part}_index"), getattr(batch, f"{part}_y"), generator)
            for part in ("support", "query")
        }
        return replace(batch, **pictures).to(self.device)

    def _distorted(self, batch: Episode, index: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        classes = batch.classes.gather(1, labels).flatten()
        samples = index.flatten() - self.characters.first[classes]
        drawn = draw(self.characters, classes[:, None], samples[:, None], generator=generator)
        return framed(drawn.owner == 0).unflatten(0, tuple(index.shape))
