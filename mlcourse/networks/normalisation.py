"""Normalisation is a named choice with named consequences.

| name      | statistics come from                                    | consequence                                        |
|-----------|---------------------------------------------------------|----------------------------------------------------|
| `batch`   | the batch at hand                                       | transductive: a query's answer depends on its company |
| `support` | the support set, also for the queries                   | inductive: one query gets the same answer alone    |
| `running` | a running average kept from training                    | inductive; for encoders that adapt no weights      |
| `group`   | each image by itself (Wu & He, *Group Normalization*, 2018, https://arxiv.org/abs/1803.08494) | inductive |
| `none`    | nothing                                                 | inductive                                          |

Batch normalisation: Ioffe & Szegedy, *Batch Normalization*, 2015, https://arxiv.org/abs/1502.03167.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.errors import CourseError

NORMALISATIONS = ("batch", "support", "running", "group", "none")


class BatchStatistics(nn.Module):
    """Normalise with the statistics of the batch, or of its first `reference` images. It remembers nothing.

    `nn.BatchNorm2d` would also update running averages: hidden state, which copies of a network would share.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        """x: [images, channels, height, width]; the same shape comes back."""
        if reference is None:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        # F.batch_norm passes no gradient to statistics that it is given, so this one is written out.
        mean = x[:reference].mean((0, 2, 3), keepdim=True)
        variance = x[:reference].var((0, 2, 3), keepdim=True, unbiased=False)
        scale = self.weight.view(1, -1, 1, 1) * torch.rsqrt(variance + self.eps)
        return (x - mean) * scale + self.bias.view(1, -1, 1, 1)


class Fixed(nn.Module):
    """A normalisation that needs no reference, behind the same call."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        return self.layer(x)


def normalisation(kind: str, channels: int) -> nn.Module:
    """Make the layer `kind` for `channels` channels. It is called as `layer(x, reference)`."""
    if kind in ("batch", "support"):
        return BatchStatistics(channels)
    if kind == "running":
        return Fixed(nn.BatchNorm2d(channels))
    if kind == "group":
        return Fixed(nn.GroupNorm(max(1, channels // 8), channels))
    if kind == "none":
        return Fixed(nn.Identity())
    raise CourseError(f"normalisation {kind!r} is unknown; use one of {', '.join(NORMALISATIONS)}")
