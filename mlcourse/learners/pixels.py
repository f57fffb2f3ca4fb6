"""The baseline without learning: the nearest neighbour on pixels.

Cover & Hart, *Nearest Neighbor Pattern Classification*, 1967, https://doi.org/10.1109/TIT.1967.1053964.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mlcourse.learners.base import Learner, State, way_of
from mlcourse.learners.methods import Paper, register
from mlcourse.learners.prototypical import squared_distances


class PixelNeighbours(Learner):
    """A query gets the label of the support image with the smallest squared distance on pixels. Nothing is trained."""

    trains_on = "nothing"

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_) -> State:
        return {"pixels": support_x.flatten(2), "members": F.one_hot(support_y, way_of(support_y)).bool()}

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        distances = squared_distances(query_x.flatten(2), state["pixels"])  # [tasks, queries, support]
        other = ~state["members"].unsqueeze(1)  # [tasks, 1, support, way]
        return -distances.unsqueeze(-1).masked_fill(other, torch.inf).amin(2)  # the best of each class


register(
    "pixels",
    learner=PixelNeighbours,
    help="the nearest neighbour in pixels, nothing is trained",
    title="nearest neighbour in pixels",
    paper=Paper(
        "Cover, Hart", "Nearest Neighbor Pattern Classification", 1967, "https://doi.org/10.1109/TIT.1967.1053964"
    ),
    network=None,
)
