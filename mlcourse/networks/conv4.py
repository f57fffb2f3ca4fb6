"""The small network of the few-shot literature: four blocks of convolution, normalisation, ReLU and downsampling.

Vinyals et al., *Matching Networks for One Shot Learning*, 2016, https://arxiv.org/abs/1606.04080 (with pooling);
Finn et al., *Model-Agnostic Meta-Learning*, 2017, https://arxiv.org/abs/1703.03400 (with strides on Omniglot).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.errors import CourseError
from mlcourse.networks import closed_form
from mlcourse.networks.normalisation import normalisation as make_normalisation
from mlcourse.networks.recorded import Recorded


class Block(nn.Module):
    """Convolution 3×3, normalisation, ReLU; half the size, by a stride or by max-pooling ("none": the same size)."""

    def __init__(self, in_channels: int, channels: int, normalisation: str, downsample: str):
        super().__init__()
        stride = 2 if downsample == "stride" else 1
        self.conv = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1)
        self.norm = make_normalisation(normalisation, channels)
        self.pool = downsample == "pool"

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        return self.finish(self.conv(x), reference)

    def finish(
        self, x: Tensor, reference: int | None = None, modulation: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """All that follows the convolution: normalisation, ReLU, pooling. x: [images, channels, H, W].

        modulation: γ and β, each to broadcast with x; they give γ·x + β between normalisation and ReLU.
        """
        x = self.norm(x, reference)
        if modulation is not None:
            scale, shift = modulation
            x = scale * x + shift
        x = F.relu(x)
        return F.max_pool2d(x, 2) if self.pool else x

    def fits_wide(self) -> bool:
        """Whether `wide` knows the convolution and the normalisation."""
        conv, usual = self.conv, {"groups": 1, "dilation": (1, 1), "padding_mode": "zeros"}
        plain = type(conv) is nn.Conv2d and conv.bias is not None and not isinstance(conv.padding, str)
        plain = plain and all(getattr(conv, name) == value for name, value in usual.items())
        return plain and hasattr(type(self.norm), "wide")

    def wide(
        self,
        params: dict[str, Tensor],
        x: Tensor,
        reference: int | None = None,
    ) -> Tensor:
        """The block of many tasks side by side: one grouped convolution, a group per task."""
        weight, bias = params["conv.weight"], params["conv.bias"]
        stride, padding = self.conv.stride, self.conv.padding
        tasks, weight, bias = len(weight), weight.flatten(0, 1), bias.flatten()
        x = closed_form.convolution(x, weight, bias, stride, padding, groups=tasks)
        x = self.norm.wide(_below(params, "norm."), x, reference)
        return closed_form.relu_and_pool(x) if self.pool else F.relu(x)


class Conv4(Recorded):
    """Conv-4. With `out` numbers at the end (logits), or with `out=None` the flat embedding.

    in_channels, size: of the square images [images, in_channels, size, size], float32 in [0, 1].
    downsample: "pool" (28 → 14 → 7 → 3 → 1) or "stride" (28 → 14 → 7 → 4 → 2, about 3.6 × cheaper).
    halvings: how many blocks, the first ones, halve the size; the others keep it.
    feature_shape: of the last block's maps, [channels, h, w].
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 64,
        size: int = 28,
        out: int | None = None,
        normalisation: str = "batch",
        downsample: str = "pool",
        halvings: int = 4,
    ):
        super().__init__()
        if downsample not in ("pool", "stride"):
            raise CourseError(f"downsample {downsample!r} is unknown; use pool or stride")
        if not 0 <= halvings <= 4:
            raise CourseError(f"halvings is {halvings}; of the four blocks 0 to 4 halve the size")
        if downsample == "pool" and size < 2**halvings:
            vanish = f"images of size {size} vanish in {halvings} poolings"
            raise CourseError(f"{vanish}; use {2**halvings} or more, or downsample='stride'")
        widths = [in_channels] + 4 * [channels]
        kinds = halvings * [downsample] + (4 - halvings) * ["none"]
        self.blocks = nn.ModuleList(
            Block(a, b, normalisation, kind) for (a, b), kind in zip(pairwise(widths), kinds, strict=True)
        )
        for _ in range(halvings):
            size = size // 2 if downsample == "pool" else (size + 1) // 2
        self.feature_shape = (channels, size, size)
        self.embedding_size = channels * size * size
        self.head = nn.Identity() if out is None else nn.Linear(self.embedding_size, out)

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        """x: [images, in_channels, size, size] → [images, out] or [images, embedding_size].

        reference: how many leading images give the statistics of `support` normalisation; None: all of them.
        """
        return self.head(self.features(x, reference).flatten(1))

    def features(self, x: Tensor, reference: int | None = None) -> Tensor:
        """The last block's maps, [images, *feature_shape], before they are laid flat."""
        for block in self.blocks:
            x = block(x, reference)
        return x

    def fits_wide(self) -> bool:
        """Whether `wide` knows all the parts: none of them was exchanged for one that does something else."""
        head = type(self.head) is nn.Identity or (type(self.head) is nn.Linear and self.head.bias is not None)
        return head and all(type(block) is Block and block.fits_wide() for block in self.blocks)

    def wide(
        self,
        params: dict[str, Tensor],
        x: Tensor,
        reference: int | None = None,
    ) -> Tensor:
        """Many tasks at once, each with weights of its own.

        They lie side by side, as the groups of one wide network.

        params: by name, with a leading dimension of tasks.
        x: [tasks, images, in_channels, size, size].
        Returns [tasks, images, out], the same as `forward` for one task after another.
        """
        tasks, images = x.shape[:2]
        x = x.transpose(0, 1).flatten(1, 2)  # [images, tasks·channels, size, size]
        for index, block in enumerate(self.blocks):
            x = block.wide(_below(params, f"blocks.{index}."), x, reference)
        x = x.reshape(images, tasks, -1).transpose(0, 1)
        if isinstance(self.head, nn.Identity):
            return x
        bias, weight = params["head.bias"].unsqueeze(1), params["head.weight"].transpose(1, 2)
        return torch.baddbmm(bias, x, weight)


def _below(params: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The parameters whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
