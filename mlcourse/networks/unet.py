"""A small U-Net that is told what to look for by a drawing.

Ronneberger, Fischer, Brox, *U-Net: Convolutional Networks for Biomedical Image Segmentation*, 2015,
https://arxiv.org/abs/1505.04597; conditioned on a drawing after the Siamese U-Net of Michaelis et al., *One-Shot
Segmentation in Clutter*, 2018, https://arxiv.org/abs/1803.09597.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.errors import CourseError
from mlcourse.networks.normalisation import normalisation as make_normalisation
from mlcourse.networks.recorded import Recorded


class Layer(nn.Module):
    """Convolution 3×3, normalisation, ReLU; with `stride` 2 half the size."""

    def __init__(self, in_channels: int, channels: int, normalisation: str, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1)
        self.norm = make_normalisation(normalisation, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Trunk(Recorded):
    """The way down: a layer at full size, then levels of two layers, the first of which halves the size.

    widths: channels of the levels, the finest first. `forward` gives the maps of all levels.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], normalisation: str = "group"):
        super().__init__()
        self.widths = tuple(widths)
        levels = [nn.Sequential(Layer(in_channels, widths[0], normalisation))]
        for before, width in pairwise(widths):
            down, on = Layer(before, width, normalisation, stride=2), Layer(width, width, normalisation)
            levels.append(nn.Sequential(down, on))
        self.levels = nn.ModuleList(levels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: [images, in_channels, H, W] → a map of each level, [images, width, H/2ˡ, W/2ˡ]."""
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


class Climb(nn.Module):
    """The way up: from the coarsest map to the finest, each time twice the size, beside the map of that size.

    skips: channels of the maps that come in, the finest first; widths: of those that go out.
    """

    def __init__(self, skips: tuple[int, ...], widths: tuple[int, ...], normalisation: str):
        super().__init__()
        below = (*widths[1:-1], skips[-1])  # what comes from the level below
        self.levels = nn.ModuleList(
            Layer(coarse + skip, width, normalisation)
            for coarse, skip, width in zip(below, skips[:-1], widths[:-1], strict=True)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """maps: of all levels, the finest first → [images, widths[0], H, W]."""
        x = maps[-1]
        for level, skip in zip(reversed(self.levels), reversed(maps[:-1]), strict=True):
            x = level(torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skip], 1))
        return x


class UNet(Recorded):
    """Features of each pixel: down, and up again with what was seen on the way down beside it.

    in_channels: of the images. widths: channels of the levels, the finest first. out: features of a pixel. Height and
    width of the images must be multiples of 2 to the number of halvings.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: tuple[int, ...] = (12, 24, 32, 64, 96),
        out: int = 24,
        normalisation: str = "group",
    ):
        super().__init__()
        check_widths(widths)
        self.in_channels, self.widths = in_channels, tuple(widths)
        self.trunk = Trunk(in_channels, widths, normalisation)
        self.up = Climb(widths, widths, normalisation)
        self.head = nn.Conv2d(widths[0], out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: [images, in_channels, H, W] → [images, out, H, W]."""
        check_images(x, self.in_channels, self.widths)
        return self.head(self.up(self.trunk(x)))


class ConditionedUNet(Recorded):
    """Drawing and scene go down the same trunk; the scene's maps are compared with the pooled drawing, and go up again.

    `describe` makes one vector of each drawing: the mean of its coarsest map. At every level but the finest a linear
    map of that vector meets the scene's map channel by channel (a depthwise correlation with a kernel of 1×1), and the
    products stand beside the map on the way up. `forward` gives one number for each pixel: a logit.

    The arguments are those of `UNet`.
    """

    def __init__(
        self,
        in_channels: int = 3,
        widths: tuple[int, ...] = (12, 24, 32, 64, 96),
        normalisation: str = "group",
    ):
        super().__init__()
        check_widths(widths)
        self.in_channels, self.widths = in_channels, tuple(widths)
        self.trunk = Trunk(in_channels, widths, normalisation)
        self.keys = nn.ModuleList(nn.Linear(widths[-1], width) for width in widths[1:])
        self.bottom = nn.Sequential(
            Layer(2 * widths[-1], widths[-1], normalisation), Layer(widths[-1], widths[-1], normalisation)
        )
        skips = (widths[0], *(2 * width for width in widths[1:-1]), widths[-1])
        self.up = Climb(skips, widths, normalisation)
        self.head = nn.Conv2d(widths[0], 1, 1)

    def describe(self, drawings: Tensor) -> Tensor:
        """Drawings [images, in_channels, h, w] → [images, widths[-1]]."""
        check_images(drawings, self.in_channels, self.widths)
        return self.trunk(drawings)[-1].mean((2, 3))

    def forward(self, scenes: Tensor, vectors: Tensor) -> Tensor:
        """Logits [images, H, W] of scenes [images, in_channels, H, W], given vectors [images, D] from `describe`."""
        check_images(scenes, self.in_channels, self.widths)
        maps = self.trunk(scenes)
        for level, key in enumerate(self.keys, 1):
            maps[level] = torch.cat([maps[level], maps[level] * key(vectors)[:, :, None, None]], 1)
        maps[-1] = self.bottom(maps[-1])
        return self.head(self.up(maps)).squeeze(1)


def check_widths(widths: tuple[int, ...]) -> None:
    """Raise CourseError for widths that make no U-Net."""
    if len(widths) < 2 or min(widths) < 1:
        raise CourseError(f"widths are {tuple(widths)}; a U-Net has two levels or more, each of one channel or more")


def check_images(x: Tensor, channels: int, widths: tuple[int, ...]) -> None:
    """Raise CourseError for images that a U-Net of these widths does not take."""
    step = 2 ** (len(widths) - 1)
    if x.dim() != 4 or x.shape[1] != channels or x.shape[2] % step or x.shape[3] % step:
        raise CourseError(
            f"images are {tuple(x.shape[1:])} (channels, height, width), but this U-Net takes {channels} channels, and "
            f"sides that are multiples of {step}"
        )
