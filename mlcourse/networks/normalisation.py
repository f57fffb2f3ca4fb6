"""Normalisation is a named choice with named consequences.

| name      | statistics come from                         | consequence                                           |
|-----------|----------------------------------------------|-------------------------------------------------------|
| `batch`   | the batch at hand                            | transductive: an answer depends on its company        |
| `support` | the support set, also for the queries        | inductive: one query gets the same answer alone       |
| `running` | a running average kept from training         | inductive; for encoders that adapt no weights         |
| `group`   | each image by itself                         | inductive                                             |
| `none`    | nothing                                      | inductive                                             |

Batch normalisation: Ioffe & Szegedy, *Batch Normalization*, 2015, https://arxiv.org/abs/1502.03167.
Group normalisation: Wu & He, *Group Normalization*, 2018, https://arxiv.org/abs/1803.08494.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.errors import CourseError
from mlcourse.networks import closed_form

NORMALISATIONS = ("batch", "support", "running", "group", "none")


def normalisation_of(network: nn.Module) -> str:
    """The name of a network's normalisation, found by the types of its modules, PyTorch's and the course's.

    Of several kinds it is the first of `batch`, `support`, `running`, `group`: the one that an answer depends on most.
    """
    return next((name for name in NORMALISATIONS if name in normalisations_in(network)), "none")


def normalisations_in(network: nn.Module) -> set[str]:
    """The names of all kinds of normalisation in a network."""
    return {name for name in map(_name_of, network.modules()) if name is not None}


def _name_of(module: nn.Module) -> str | None:
    if isinstance(module, BatchStatistics):
        return "support" if isinstance(module, SupportStatistics) else "batch"
    if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
        if module.track_running_stats:
            return "running"
        return "batch" if isinstance(module, nn.modules.batchnorm._BatchNorm) else "group"
    return "group" if isinstance(module, (nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm)) else None


def normalise(x: Tensor, weight: Tensor, bias: Tensor, eps: float, reference: int | None = None) -> Tensor:
    """Batch normalisation of x [images, channels, H, W], with the statistics of all or the first `reference`."""
    closed_form.check_variance(x[:reference])
    if reference is None:
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
    # F.batch_norm passes no gradient to statistics that it is given, so this one is written out.
    mean = x[:reference].mean((0, 2, 3), keepdim=True)
    variance = x[:reference].var((0, 2, 3), keepdim=True, unbiased=False)
    scale = weight.view(1, -1, 1, 1) * torch.rsqrt(variance + eps)
    return (x - mean) * scale + bias.view(1, -1, 1, 1)


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
        return normalise(x, self.weight, self.bias, self.eps, reference)

    def wide(self, params: dict[str, Tensor], x: Tensor, reference: int | None = None) -> Tensor:
        """The same for many tasks side by side: x [images, tasks·channels, H, W], weights [tasks, channels]."""
        return closed_form.normalise(x, params["weight"].flatten(), params["bias"].flatten(), self.eps, reference)


class SupportStatistics(BatchStatistics):
    """The same layer in a network that is told how many of its images, the first ones, are the support set."""


class Fixed(nn.Module):
    """A normalisation that needs no reference, behind the same call."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        return self.layer(x)

    def wide(self, params: dict[str, Tensor], x: Tensor, reference: int | None = None) -> Tensor:
        """The same for many tasks side by side: x [images, tasks·channels, H, W], weights [tasks, channels]."""
        if isinstance(self.layer, nn.Identity):
            return x
        if not isinstance(self.layer, nn.GroupNorm):
            raise CourseError(
                "normalisation 'running' has one average for all; networks side by side need another kind"
            )
        weight, bias = params["layer.weight"], params["layer.bias"]
        return F.group_norm(x, len(weight) * self.layer.num_groups, weight.flatten(), bias.flatten(), self.layer.eps)


def normalisation(kind: str, channels: int) -> nn.Module:
    """Make the layer `kind` for `channels` channels. It is called as `layer(x, reference)`."""
    if kind == "batch":
        return BatchStatistics(channels)
    if kind == "support":
        return SupportStatistics(channels)
    if kind == "running":
        return Fixed(nn.BatchNorm2d(channels))
    if kind == "group":
        groups = max(1, channels // 8)
        if channels % groups:
            raise CourseError(
                f"{channels} channels do not divide into groups of 8; give fewer than 16 or a multiple of 8"
            )
        return Fixed(nn.GroupNorm(groups, channels))
    if kind == "none":
        return Fixed(nn.Identity())
    raise CourseError(f"normalisation {kind!r} is unknown; use one of {', '.join(NORMALISATIONS)}")
