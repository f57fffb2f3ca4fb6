"""Single characters as a scene shows them: what an encoder of `ColourGroups` learns from without any scene.

A scene of the recipe `published` has a colour for each character. So nobody has to learn which pixels belong
together; what is left to learn is which candidate looks like the drawing. In scenes of one ink this does not work.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mlcourse.datasets import ClassImages
from mlcourse.datasets.scenes import draw
from mlcourse.episodes import Episode, EpisodeSampler
from mlcourse.vision.segmentation import framed

SIDE = 28  # of a frame, pixels


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
        return framed(drawn.owner == 0, SIDE).unflatten(0, tuple(index.shape))
