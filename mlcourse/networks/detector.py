"""The trunk of a detector of one level: a map with one place for every 4×4 pixels of the image.

It goes down to a place for every 16×16 pixels, where it sees the most around, and up again to 4×4, each time beside the
map of that size (as feature pyramids do: Lin et al., *Feature Pyramid Networks for Object Detection*, 2017,
https://arxiv.org/abs/1612.03144). Three heads of 1×1 read the last map: is the middle of something here, how far are
its four edges (Tian et al., *FCOS*, 2019, https://arxiv.org/abs/1904.01355), and what does it look like.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.networks.normalisation import normalisation as make_normalisation
from mlcourse.networks.recorded import Recorded
from mlcourse.networks.unet import Layer, Trunk, check_images, check_widths

STRIDE = 4  # pixels of the image that a place of the map is wide
AWAY = (1, 3, 7, 14)  # pixels
WIDTHS = (24, 48, 96, 128)  # channels of the maps of stride 2, 4, 8, 16


class DetectorTrunk(Recorded):
    """Images → of each place whether something has its middle there, its edges, and its feature.

    in_channels: of the images; `likeness` adds which pixels around are of the same colour. widths: of the four levels.
    channels: of the last map. features: numbers that tell what a thing looks like. Height and width of the images must
    be multiples of 16.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: tuple[int, ...] = WIDTHS,
        channels: int = 96,
        features: int = 256,
        normalisation: str = "running",
    ):
        super().__init__()
        check_widths(widths)
        self.in_channels, self.widths = in_channels, tuple(widths)
        self.trunk = Trunk(in_channels + 4 * len(AWAY), widths, normalisation)
        _, fine, middle, coarse = widths
        self.up = nn.ModuleList(
            [Layer(coarse + middle, middle, normalisation), Layer(middle + fine, channels, normalisation)]
        )
        self.last = Layer(channels, channels, normalisation)
        self.head = nn.Conv2d(channels, 5, 1)
        self.features = features
        self.look = nn.Sequential(nn.Conv2d(channels, features, 1), make_normalisation("running", features))
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():  # at first: nothing is anywhere (1 in 100), and edges are 10 pixels away
            self.head.bias.copy_(torch.tensor([-4.6, 0.9, 0.9, 0.9, 0.9]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [images, in_channels, H, W] in [0, 1] → with h = H/4 and w = W/4:

        logits [images, h, w] that something has its middle there; the boxes [images, h, w, 4] of what has; features
        [images, h, w, features], of unit length.
        """
        check_images(x, self.in_channels, self.widths)
        _, fine, middle, coarse = self.trunk(torch.cat([x, likeness(x)], 1))
        z = coarse
        for level, skip in zip(self.up, (middle, fine), strict=True):
            z = level(torch.cat([F.interpolate(z, scale_factor=2, mode="nearest"), skip], 1))
        z = self.last(z)
        there, *edges = self.head(z).unbind(1)
        away = STRIDE * torch.stack(edges, 3).clamp(max=4.0).exp()  # left, top, right, bottom, in pixels
        centres = middles(*there.shape[1:], like=away)
        boxes = torch.cat([centres - away[..., :2], centres + away[..., 2:]], 3)
        return there, boxes, F.normalize(self.look(z).permute(0, 2, 3, 1), dim=3)


def middles(height: int, width: int, *, like: Tensor, stride: int = STRIDE) -> Tensor:
    """x and y of the middle of each place of a map, in pixels of the image: [height, width, 2]."""
    x, y = ((torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) * stride for count in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)


def likeness(x: Tensor) -> Tensor:
    """Where ink has its own colour some pixels AWAY, to the right, left, below and above: [n, C, H, W] → [n, 16, H, W].

    1: the same colour; 0: another one, no ink, or beyond the edge. So a character is told from what lies around it,
    whatever its colour is (after Shechtman & Irani, *Matching Local Self-Similarities across Images and Videos*, 2007,
    https://doi.org/10.1109/CVPR.2007.383198).
    """
    ink, maps = x.amax(1) > 0, []
    for away in AWAY:
        for axis, step in ((3, -away), (3, away), (2, -away), (2, away)):
            maps.append(ink & ((x - _moved(x, axis, step)).abs().amax(1) < 0.01))
    return torch.stack(maps, 1).to(x.dtype)


def _moved(x: Tensor, axis: int, step: int) -> Tensor:
    """Images moved by `step` pixels along an axis; what comes in is 0."""
    sides = (max(step, 0), max(-step, 0), 0, 0) if axis == 3 else (0, 0, max(step, 0), max(-step, 0))
    wide = F.pad(x, sides)
    return wide.narrow(axis, max(-step, 0), x.shape[axis])
