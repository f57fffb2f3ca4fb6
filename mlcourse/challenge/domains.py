"""The hidden tasks: from which pictures they are drawn, and how."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from mlcourse import datasets, places
from mlcourse.challenge import rules
from mlcourse.datasets import ClassImages
from mlcourse.episodes import Episode, EpisodeSampler
from mlcourse.errors import CourseError

# name on the card -> the data set, its split, and its lists
HIDDEN = {
    "glyphs": ("glyphs", "test", None),
    "Omniglot": ("omniglot", "test", "lake"),
    "MNIST": ("mnist", "test", None),
    "Caltech-101": ("caltech101", "test", None),
}
OWN = "own pictures"
LEAST_OWN = 15  # pictures of one's own folder


@dataclass(frozen=True)
class Domain:
    """Pictures that episodes are drawn from. hidden: whether it counts for the score (one's own folder does not).

    clusters: what a new data set would have others of: scripts, alphabets, or classes.
    """

    name: str
    images: ClassImages
    hidden: bool = True

    def episodes(self, number: int, seed: int) -> Iterator[Episode]:
        """The same `number` tasks for the same seed, each a batch of one, in random order, of any way and shot."""
        generator = torch.Generator().manual_seed(rules.seed_of("episodes", seed, self.name))
        least = int(self.images.counts.min())
        for _ in range(number):
            way = _between(rules.WAYS[0], min(rules.WAYS[1], self.images.classes), generator)
            shot = _between(rules.SHOTS[0], min(rules.SHOTS[1], least - 1), generator)
            sampler = EpisodeSampler(self.images, way, shot, min(rules.QUERIES, least - shot))
            yield sampler.sample(1, generator).shuffled(generator)

    @functools.cached_property
    def cluster_of(self) -> torch.Tensor:
        """Of each class the number of its script, alphabet or class: int64 [classes]."""
        names = list(dict.fromkeys(self.images.groups))
        return torch.tensor([names.index(group) for group in self.images.groups])


def _between(least: int, most: int, generator: torch.Generator) -> int:
    return int(torch.randint(least, most + 1, (1,), generator=generator))


def training() -> ClassImages:
    """The training scripts of `glyphs`, upright: all that the closed track may learn from."""
    return datasets.load("glyphs", "train", rotations=False).in_shape(rules.SHAPE)


def hidden() -> tuple[list[Domain], list[str]]:
    """The hidden domains whose pictures are on this machine, and, in sentences, those that are left out."""
    found, left_out = [], []
    for name, (dataset, split, lists) in HIDDEN.items():
        try:
            size = rules.SHAPE[1] if dataset in ("omniglot", "caltech101") else None
            images = datasets.load(dataset, split, protocol=lists, rotations=False, size=size)
        except CourseError:
            if name == "glyphs":  # embedded: it is always there
                raise
            left_out.append(f"{name}: no whole copy of it on this machine (MLCOURSE_DATA)")
            continue
        found.append(Domain(name, images.in_shape(rules.SHAPE)))
    return found, left_out


def own(folder: Path | str) -> Domain:
    """The learner's own folder of class folders. Raises CourseError for one with too few pictures."""
    place = places.whole(folder)
    images = datasets.load(place, "all", size=rules.SHAPE[1]).in_shape(rules.SHAPE)
    if images.classes < 2 or len(images.images) < LEAST_OWN:
        raise CourseError(
            f"{place} has {len(images.images)} pictures in {images.classes} classes: give {LEAST_OWN} or more in two "
            "classes or more, such as three classes of five"
        )
    return Domain(OWN, images, hidden=False)
