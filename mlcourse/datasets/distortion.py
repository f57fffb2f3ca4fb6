"""Pictures of characters as another hand might have drawn them: turned, sheared, stretched and moved a little.

Two drawings of one character differ in such ways, so a training that sees them learns to overlook them. After the
affine part of P. Simard, D. Steinkraus, J. Platt, *Best Practices for Convolutional Neural Networks Applied to Visual
Document Analysis*, 2003, https://doi.org/10.1109/ICDAR.2003.1227801.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mlcourse.errors import CourseError

# At strength 1, the largest of each, in either direction: drawn uniformly, for each picture by itself.
TURN = 0.26  # radians, 15 degrees
SHEAR = 0.2
STRETCH = 0.2  # of each axis, as a logarithm: × e^−0.2 … e^0.2
SHIFT = 0.15  # of half the picture's width: 2 of 28 pixels


def check_strength(strength: float) -> None:
    """Raise CourseError unless `strength` is a number from 0 to 3: beyond, characters leave their pictures."""
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 <= strength <= 3:
        raise CourseError(f"a distortion's strength is {strength!r}; give a number from 0 (none) to 3")


def distorted(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Each picture by a random affine map of its own; what comes in from outside is 0.

    images: floating point [n, C, H, W], ink bright on 0. strength: 0 changes nothing (and draws nothing).
    generator: on the CPU, so that one seed means the same on every device.
    """
    check_strength(strength)
    if strength == 0 or not len(images):
        return images
    drawn = torch.rand(len(images), 6, generator=generator) * 2 - 1
    turn, shear, wide, high, right, down = (strength * drawn).T
    cos, sin = (TURN * turn).cos(), (TURN * turn).sin()
    turned = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    sheared = torch.stack([torch.ones_like(shear), SHEAR * shear, torch.zeros_like(shear), torch.ones_like(shear)], 1)
    stretched = (STRETCH * torch.stack([wide, high], 1)).exp()
    linear = turned @ sheared.view(-1, 2, 2) @ torch.diag_embed(stretched)
    maps = torch.cat([linear, SHIFT * torch.stack([right, down], 1).unsqueeze(2)], 2)
    grid = F.affine_grid(maps.to(images.device, images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
