"""Small data and smooth networks, shared by the tests of the learners and the training loop."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mlcourse.datasets import ClassImages
from mlcourse.episodes import Episode
from mlcourse.networks.normalisation import normalisation as make_normalisation


def squares(classes: int = 12, samples: int = 20, size: int = 16, split: str = "train") -> ClassImages:
    """Classes that one can tell apart: a bright square at a place of its own, over noise."""
    generator = torch.Generator().manual_seed(len(split))
    images = torch.randint(0, 60, (classes, samples, 1, size, size), generator=generator, dtype=torch.uint8)
    for index in range(classes):
        row, column = divmod(index, 4)
        images[index, :, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 150
    names = tuple(f"square{index:02d}" for index in range(classes))
    counts = torch.full((classes,), samples)
    return ClassImages(images.flatten(0, 1), counts, names, names, "squares", split)


class Smooth(nn.Module):
    """A small network without a kink (softplus, average pooling), on which finite differences mean something."""

    def __init__(self, normalisation: str, way: int = 3, channels: int = 4):
        super().__init__()
        self.normalisation = normalisation
        self.conv1, self.conv2 = nn.Conv2d(1, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1, self.norm2 = (make_normalisation(normalisation, channels) for _ in range(2))
        self.pool, self.softplus = nn.AvgPool2d(2), nn.Softplus()
        self.head = nn.Linear(4 * channels, way)

    def forward(self, x: Tensor, reference: int | None = None) -> Tensor:
        x = self.pool(self.softplus(self.norm1(self.conv1(x), reference)))
        x = self.pool(self.softplus(self.norm2(self.conv2(x), reference)))
        return self.head(x.flatten(1))


def random_episode(tasks: int, way: int = 3, shot: int = 2, query: int = 3, size: int = 8, seed: int = 0) -> Episode:
    """An episode of noise in float64: enough for gradients."""
    generator = torch.Generator().manual_seed(seed)
    support_y = torch.arange(way).repeat_interleave(shot).expand(tasks, -1)
    query_y = torch.arange(way).repeat_interleave(query).expand(tasks, -1)
    images = [
        torch.rand(*y.shape, 1, size, size, generator=generator, dtype=torch.float64) for y in (support_y, query_y)
    ]
    none = torch.zeros(tasks, way, dtype=torch.long)
    return Episode(images[0], support_y, images[1], query_y, none)


def flat_gradient(learner: nn.Module) -> Tensor:
    """All `.grad` as one vector, but those of frozen parameters. A None would raise here, as it should."""
    return torch.cat([p.grad.flatten() for p in learner.parameters() if p.requires_grad])


def loss_at(learner: nn.Module, episode: Episode):
    """The outer loss as a function of one flat vector of all outer parameters."""
    names, values = zip(*learner.named_parameters(), strict=True)
    sizes = [value.numel() for value in values]

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.learner = learner

        def forward(self):
            return self.learner.outer_loss(episode)[0]

    outer = Outer()

    def f(flat: Tensor) -> Tensor:
        flat = flat.detach().requires_grad_()  # a frozen parameter would not be adapted
        parts = [part.view_as(v) for part, v in zip(flat.split(sizes), values, strict=True)]
        return functional_call(outer, {f"learner.{name}": part for name, part in zip(names, parts, strict=True)}, ())

    return f, torch.cat([value.detach().flatten() for value in values])


class Fixed:
    """A source that always gives the same episode, for what `evaluate` makes of it."""

    def __init__(self, episode: Episode):
        self.episode = episode

    def sample(self, tasks: int, generator: torch.Generator) -> Episode:
        return self.episode
