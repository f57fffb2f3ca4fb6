"""A picture seen several times: as it is, and a little turned, sheared, stretched and moved. The mean embedding counts.

No view is drawn by chance, so an embedding depends on its picture alone. It costs as many passes as there are views.
Averaging over altered copies of a picture ("test-time augmentation"; five crops, mirrored) stands in A. Krizhevsky,
I. Sutskever, G. E. Hinton, *ImageNet Classification with Deep Convolutional Neural Networks*, 2012,
https://doi.org/10.1145/3065386.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.datasets.distortion import SHEAR, SHIFT, STRETCH, TURN, check_strength
from mlcourse.networks.recorded import Recorded


def maps(strength: float) -> list[list[list[float]]]:
    """The affine maps of the views, 2×3 each: the identity, then six changes, each in both directions.

    strength: 1 for the largest changes that `datasets.distortion` draws at strength 1.
    """
    found = [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]
    for way in (strength, -strength):
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


class Views(Recorded):
    """In evaluation mode the mean of what `network` makes of all views of a picture; in training mode `network` itself.

    network: an encoder, images [n, C, H, W] → [n, …]; ink on 0, since what a view brings in from outside is 0.
    strength: of the views, a number from 0 (13 times the same) to 3.
    """

    def __init__(self, network: nn.Module, strength: float = 1.0):
        super().__init__()
        check_strength(strength)
        self.network, self.maps = network, maps(strength)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.network(x)
        total = self.network(x)  # the first map changes nothing
        for one in self.maps[1:]:
            theta = torch.tensor(one, device=x.device, dtype=x.dtype).expand(len(x), 2, 3)
            grid = F.affine_grid(theta, list(x.shape), align_corners=False)
            total = total + self.network(F.grid_sample(x, grid, align_corners=False))
        return total / len(self.maps)
