"""A small U-Net that is told what to look for by a drawing.

Ronneberger, Fischer, Brox, *U-Net: Convolutional Networks for Biomedical Image Segmentation*, 2015,
https://arxiv.org/abs/1505.04597; conditioned on a drawing after the Siamese U-Net of Michaelis et al., *One-Shot
Segmentation in Clutter*, 2018, https://arxiv.org/abs/1803.09597.
"""

from collections.abc import Callable
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


class Trunk(nn.Module):
    """The way down: a layer on squares of 2×2 pixels, then levels of two layers, the first of which halves the size.

    Squares: the pixels of each 2×2 square become channels of one place. Nothing is lost, and the finest level costs a
    quarter (Shi et al., *Real-Time Single Image and Video Super-Resolution*, 2016, https://arxiv.org/abs/1609.05158, go
    the same way back). widths: channels of the levels, the finest first.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], normalisation: str):
        super().__init__()
        levels = [nn.Sequential(Layer(4 * in_channels, widths[0], normalisation))]
        for before, width in pairwise(widths):
            down, on = Layer(before, width, normalisation, stride=2), Layer(width, width, normalisation)
            levels.append(nn.Sequential(down, on))
        self.levels = nn.ModuleList(levels)

    def forward(self, x: Tensor, change: Callable[[int, Tensor], Tensor] | None = None) -> list[Tensor]:
        """x: [images, in_channels, H, W] → a map of each level, [images, width, H/2ˡ⁺¹, W/2ˡ⁺¹].

        change: what becomes of the map of each level but the finest, counted from 0, before the next level sees it.
        """
        x, maps = F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last), []
        for number, level in enumerate(self.levels):
            x = level(x)
            if change is not None and number:
                x = change(number - 1, x)
            maps.append(x)
        return maps


class Climb(nn.Module):
    """The way up: from the coarsest map to the finest, each time twice the size, beside the map of that size.

    widths: channels of the levels, the finest first. out: numbers of each pixel.
    """

    def __init__(self, widths: tuple[int, ...], out: int, normalisation: str):
        super().__init__()
        self.levels = nn.ModuleList(Layer(fine + coarse, fine, normalisation) for fine, coarse in pairwise(widths))
        self.head = nn.Conv2d(widths[0], 4 * out, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """maps: of all levels, the finest first → [images, out, H, W]."""
        x = maps[-1]
        for level, skip in zip(reversed(self.levels), reversed(maps[:-1]), strict=True):
            x = level(torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skip], 1))
        return F.pixel_shuffle(self.head(x), 2)


WIDTHS = (24, 32, 64, 96)


class UNet(Recorded):
    """Features of each pixel: down, and up again with what was seen on the way down beside it.

    in_channels: of the images. widths: channels of the levels, the finest first. out: features of a pixel. Height and
    width of the images must be multiples of 2 to the number of levels.
    """

    def __init__(
        self, in_channels: int = 3, widths: tuple[int, ...] = WIDTHS, out: int = 24, normalisation: str = "group"
    ):
        super().__init__()
        check_widths(widths)
        self.in_channels, self.widths = in_channels, tuple(widths)
        self.trunk = Trunk(in_channels, widths, normalisation)
        self.up = Climb(widths, out, normalisation)

    def forward(self, x: Tensor) -> Tensor:
        """x: [images, in_channels, H, W] → [images, out, H, W]."""
        check_images(x, self.in_channels, self.widths)
        return self.up(self.trunk(x))


class ConditionedUNet(Recorded):
    """Drawing and scene go down the same trunk; on its way down the scene is compared with the drawing at each level.

    `describe` makes one vector of each drawing: what its coarsest map says, and of each level but the finest the mean
    feature of its ink. On the scene's way down, before the next level sees it, each of these levels

    - meets two linear maps of that vector, γ and β, channel by channel: a depthwise correlation with a kernel of 1×1
      and a threshold, known as FiLM (Perez et al., *FiLM: Visual Reasoning with a General Conditioning Layer*, 2018,
      https://arxiv.org/abs/1709.07871);
    - gets one channel more: at each place the cosine of the scene's feature and the drawing's.

    `forward` gives one number for each pixel, a logit, and these cosines, times a sharpness that is learned. To colours
    come two channels, where a pixel is unlike its right and its lower neighbour: edges are of any colour.

    The arguments are those of `UNet`; vector: numbers that the coarsest map is described by.
    """

    def __init__(
        self, in_channels: int = 3, widths: tuple[int, ...] = WIDTHS, vector: int = 128, normalisation: str = "group"
    ):
        super().__init__()
        check_widths(widths)
        self.in_channels, self.widths, self.vector = in_channels, tuple(widths), vector
        self.trunk = Trunk(in_channels + 2, widths, normalisation)
        self.describer = nn.Linear(4 * widths[-1], vector)
        self.keys = nn.ModuleList(nn.Linear(vector, 2 * width) for width in widths[1:])
        for key in self.keys:  # at first the scene's maps are nearly what they are without a drawing
            nn.init.normal_(key.weight, std=0.3 / vector**0.5)
            nn.init.zeros_(key.bias)
        self.mixers = nn.ModuleList(Layer(width + 1, width, normalisation) for width in widths[1:])
        self.sharpness = nn.Parameter(torch.full((len(widths) - 1,), 10.0))
        self.bottom = nn.Sequential(*(Layer(widths[-1], widths[-1], normalisation) for _ in range(2)))
        self.up = Climb(widths, 1, normalisation)
        nn.init.constant_(self.up.head.bias, -2.0)  # most pixels are background

    def describe(self, drawings: Tensor) -> Tensor:
        """Drawings [images, in_channels, h, w], 0 but for their ink → [images, vector + widths[1] + widths[2] + …]."""
        check_images(drawings, self.in_channels, self.widths)
        maps = self.trunk(with_edges(drawings))
        ink = drawings.amax(1, keepdim=True)
        described = [self.describer(F.adaptive_avg_pool2d(maps[-1], 2).flatten(1))]
        for features in maps[1:]:
            weight = F.adaptive_max_pool2d(ink, features.shape[2:])
            described.append((features * weight).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1e-3))
        return torch.cat(described, 1)

    def forward(self, scenes: Tensor, vectors: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits [images, H, W] of scenes [images, in_channels, H, W], given what `describe` says; and the cosines."""
        check_images(scenes, self.in_channels, self.widths)
        vector, *means = vectors.split([self.vector, *self.widths[1:]], 1)
        fits: list[Tensor] = []

        def compare(level: int, x: Tensor) -> Tensor:
            cosine = (F.normalize(x, dim=1) * F.normalize(means[level], dim=1)[:, :, None, None]).sum(1, keepdim=True)
            fits.append((self.sharpness[level] * cosine).squeeze(1))
            change, shift = self.keys[level](vector)[:, :, None, None].chunk(2, 1)
            return self.mixers[level](torch.cat([F.relu((1 + change) * x + shift), 3 * cosine], 1))

        maps = self.trunk(with_edges(scenes), compare)
        maps[-1] = self.bottom(maps[-1])
        return self.up(maps).squeeze(1), fits


def with_edges(x: Tensor) -> Tensor:
    """Images [n, C, H, W] with two channels more: 1 where a pixel is unlike its right, and its lower neighbour."""
    right, lower = x - F.pad(x, (0, 1))[..., 1:], x - F.pad(x, (0, 0, 0, 1))[..., 1:, :]
    edges = [(difference.abs().amax(1, keepdim=True) > 0.01).to(x.dtype) for difference in (right, lower)]
    return torch.cat([x, *edges], 1)


def check_widths(widths: tuple[int, ...]) -> None:
    """Raise CourseError for widths that make no U-Net."""
    if len(widths) < 2 or min(widths) < 1:
        raise CourseError(f"widths are {tuple(widths)}; a U-Net has two levels or more, each of one channel or more")


def check_images(x: Tensor, channels: int, widths: tuple[int, ...]) -> None:
    """Raise CourseError for images that a U-Net of these widths does not take."""
    step = 2 ** len(widths)
    if x.dim() != 4 or x.shape[1] != channels or x.shape[2] % step or x.shape[3] % step:
        raise CourseError(
            f"images are {tuple(x.shape[1:])} (channels, height, width), but this U-Net takes {channels} channels, and "
            f"sides that are multiples of {step}"
        )
