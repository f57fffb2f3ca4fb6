"""Tasks whose labels are not shuffled: a class has the same label in every task. Made to show what goes wrong then.

M. Yin, G. Tucker, M. Zhou, S. Levine, C. Finn: *Meta-Learning without Memorization*, 2020,
https://arxiv.org/abs/1912.03820, call such tasks *not mutually exclusive*: one network that ignores the support set can
solve them all.
"""

import torch
from torch import Tensor

from mlcourse.datasets import ClassImages
from mlcourse.episodes import EpisodeSampler


class FixedLabels(EpisodeSampler):
    """As EpisodeSampler, but class c always gets label c mod way. So a task never holds two classes of one label.

    Where the number of classes is no multiple of way, the last few classes are never drawn.
    """

    def __init__(
        self, data: ClassImages, way: int = 5, shot: int = 1, query: int = 15, *, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(data, way, shot, query, device=device)
        self.rows = data.classes // way  # classes of each label

    def draw_classes(self, tasks: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(self.rows, (tasks, self.way), generator=generator)
        return rows * self.way + torch.arange(self.way)
