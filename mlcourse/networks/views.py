"""A picture seen several times: a little turned, sheared, stretched and moved; and in its quarter turns, and mirrored.

A small change leaves a character what it is, so the embeddings of such views are averaged. A quarter turn, or a mirror,
makes another character of it, of which the network may see other things: those embeddings are put side by side. Two
pictures are then as far apart as they are in all of these looks together. Nothing is drawn by chance, so an embedding
depends on its picture alone. It costs as many passes as there are views.

Averaging over altered copies of a picture ("test-time augmentation"; five crops, mirrored) stands in A. Krizhevsky,
I. Sutskever, G. E. Hinton, *ImageNet Classification with Deep Convolutional Neural Networks*, 2012,
https://doi.org/10.1145/3065386.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.datasets.distortion import SHEAR, SHIFT, STRETCH, TURN, check_strength
from mlcourse.errors import CourseError
from mlcourse.networks.recorded import Recorded

STRONGEST = 3  # as `check_strength`
SYMMETRIES = (1, 4, 8)  # the picture as it is; its quarter turns; and these mirrored


def maps(strength: float) -> list[list[list[float]]]:
    """The affine maps of the small changes, 2×3 each: the identity, then six changes, each in both directions.

    strength: 1 for the largest changes that `datasets.distortion` draws at strength 1; 0 for the identity alone.
    """
    found = [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]
    for way in (strength, -strength) if strength else ():
        cos, sin, longer = math.cos(TURN * way), math.sin(TURN * way), math.exp(STRETCH * way)
        found += [
            [[cos, -sin, 0.0], [sin, cos, 0.0]],
            [[1.0, SHEAR * way, 0.0], [0.0, 1.0, 0.0]],
            [[longer, 0.0, 0.0], [0.0, 1.0, 0.0]],
            [[1.0, 0.0, 0.0], [0.0, longer, 0.0]],
            [[1.0, 0.0, SHIFT * way], [0.0, 1.0, 0.0]],
            [[1.0, 0.0, 0.0], [0.0, 1.0, SHIFT * way]],
        ]
    return found


def looks(x: Tensor, symmetries: int) -> list[Tensor]:
    """Images [n, C, H, W] as they are and in three quarter turns (4), then all of these mirrored (8)."""
    sides = [x, x.flip(3)][: symmetries // 4]
    return [torch.rot90(side, turn, (2, 3)) for side in sides for turn in range(4)]


class Views(Recorded):
    """In evaluation mode an embedding of all views of a picture; in training mode `network` itself.

    network: an encoder, images [n, C, H, W] → [n, …]; ink on 0, since what a view brings in from outside is 0.
    strength: of the small changes, a number from 0 (none) to 3. symmetries: one of SYMMETRIES; more than 1 takes square
    pictures, and lays the embeddings flat, [n, symmetries · D].
    """

    def __init__(self, network: nn.Module, strength: float = 1.0, symmetries: int = 1):
        super().__init__()
        check_strength(strength)
        if symmetries not in SYMMETRIES or isinstance(symmetries, bool):
            raise CourseError(f"symmetries is {symmetries!r}; give one of {', '.join(map(str, SYMMETRIES))}")
        self.network, self.maps, self.symmetries = network, maps(strength), symmetries

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.network(x)
        if self.symmetries == 1:
            return self.averaged(x)
        if x.shape[2] != x.shape[3]:
            raise CourseError(
                f"a quarter turn of a picture of {x.shape[2]}×{x.shape[3]} has another shape: leave it out"
            )
        return torch.cat([self.averaged(look).flatten(1) for look in looks(x, self.symmetries)], 1)

    def averaged(self, x: Tensor) -> Tensor:
        """The mean of what the network makes of the small changes of images."""
        total = self.network(x)  # the first map changes nothing
        for one in self.maps[1:]:
            theta = torch.tensor(one, device=x.device, dtype=x.dtype).expand(len(x), 2, 3)
            grid = F.affine_grid(theta, list(x.shape), align_corners=False)
            total = total + self.network(F.grid_sample(x, grid, align_corners=False))
        return total / len(self.maps)
