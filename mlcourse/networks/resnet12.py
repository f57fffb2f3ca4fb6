"""ResNet-12, the larger network of the few-shot literature: four residual blocks of three convolutions each.

Oreshkin, López, Lacoste, *TADAM: Task Dependent Adaptive Metric for Improved Few-shot Learning*, 2018,
https://arxiv.org/abs/1805.10123; with these widths and this slope: Lee, Maji, Ravichandran, Soatto, *Meta-Learning with
Differentiable Convex Optimization*, 2019, https://arxiv.org/abs/1904.03758. Their DropBlock is left out.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.errors import CourseError
from mlcourse.networks.normalisation import normalisation as make_normalisation
from mlcourse.networks.recorded import Recorded

SLOPE = 0.1  # of the leaky ReLU
GROWTH = (1, 2.5, 5, 10)  # widths of the blocks, as multiples of the first one: 64, 160, 320, 640


class ResidualBlock(nn.Module):
    """Three times convolution 3×3 and normalisation, added to a 1×1 convolution of the input; then half the size."""

    def __init__(self, in_channels: int, channels: int, normalisation: str):
        super().__init__()
        widths = [in_channels, channels, channels, channels]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(make_normalisation(normalisation, channels) for _ in range(3))
        self.shortcut = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.shortcut_norm = make_normalisation(normalisation, channels)

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        """[images, in_channels, size, size] → [images, channels, size // 2, size // 2]."""
        way_through = self.shortcut_norm(self.shortcut(x), reference)
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x), reference)
            if index < 2:
                x = F.leaky_relu(x, SLOPE)
        return F.max_pool2d(F.leaky_relu(x + way_through, SLOPE), 2)


class ResNet12(Recorded):
    """ResNet-12. With `out` numbers at the end (logits), or with `out=None` the embedding.

    in_channels, size: of the square images [images, in_channels, size, size], 16 × 16 or larger, float32 in [0, 1].
    channels: of the first block; the others have 2.5, 5 and 10 times as many (64: 64, 160, 320, 640). average: the
    embedding is the mean over the places of the last maps (Oreshkin et al.); otherwise they are laid flat (Lee et al.).
    normalisation: as of Conv-4. feature_shape: of the last block's maps, [channels, h, w]; embedding_size: numbers.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 64,
        size: int = 28,
        out: int | None = None,
        normalisation: str = "batch",
        average: bool = True,
    ):
        super().__init__()
        if channels < 2 or channels % 2:
            raise CourseError(f"channels is {channels}; the second block has 2.5 times as many, so give an even number")
        if size < 2**4:
            raise CourseError(f"images of size {size} vanish in 4 poolings; use 16 or more")
        widths = [int(channels * factor) for factor in GROWTH]
        self.blocks = nn.ModuleList(ResidualBlock(a, b, normalisation) for a, b in pairwise([in_channels, *widths]))
        self.average = average
        self.feature_shape = (widths[-1], size // 2**4, size // 2**4)
        self.embedding_size = widths[-1] * (1 if average else (size // 2**4) ** 2)
        self.head = nn.Identity() if out is None else nn.Linear(self.embedding_size, out)
        self._start()

    def _start(self) -> None:
        """He's initialisation with fan-out, for the slope of the leaky ReLU (as Lee et al.'s code)."""
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, a=SLOPE, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        """x: [images, in_channels, size, size] → [images, out] or [images, embedding_size].

        reference: how many leading images give the statistics of `support` normalisation; None: all of them.
        """
        maps = self.features(x, reference)
        return self.head(maps.mean((-2, -1)) if self.average else maps.flatten(1))

    def features(self, x: Tensor, reference: int | None = None) -> Tensor:
        """The last block's maps, [images, *feature_shape]."""
        for block in self.blocks:
            x = block(x, reference)
        return x
