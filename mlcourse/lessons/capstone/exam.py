"""What notebook 17 asks: tasks of any way and any shot in two domains, own pictures, and the leak to be mended."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse import datasets, learners, places, statistics
from mlcourse.datasets import ClassImages, faces
from mlcourse.episodes import Episode, EpisodeSampler
from mlcourse.learners import Learner
from mlcourse.learners.base import evaluation_mode
from mlcourse.lessons.capstone import submission
from mlcourse.protocols import flop

WAYS, SHOTS, QUERY = (2, 20), (1, 5), 5
SHAPE = (1, 28, 28)
DRAWS = 500  # of a bootstrap
MOST_DRAWS = 200  # support sets of one's own pictures
SUBMISSION = "my_submission.py"


# ------------------------------------------------------------------ domains and answers


@cache
def domains() -> dict[str, ClassImages]:
    """New characters (all scripts of glyphs' test split), and drawn people whom nobody has seen; grey, 28 × 28."""
    return {"characters": datasets.load("glyphs", "test"), "drawn faces": faces.load("test").in_shape(SHAPE)}


def network() -> Learner:
    """A network of the course that was meta-trained on characters of other scripts (notebook 12)."""
    return learners.load(places.data() / "checkpoints" / "prototypical-seed0")


def tasks(images: ClassImages, number: int, seed: int) -> Iterator[Episode]:
    """The same `number` tasks for the same seed: batches of one, of any way and shot, in random order."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        way, shot = (int(torch.randint(low, high + 1, (), generator=generator)) for low, high in (WAYS, SHOTS))
        yield EpisodeSampler(images, way, shot, QUERY).sample(1, generator).shuffled(generator)


@dataclass(frozen=True)
class Answers:
    """What a learner answered: of each task its accuracy and its way, [tasks] each.

    parts: of each class of each task its part of the normalised accuracy, and its share of the task, [classes, 2];
    clusters: of which script or person it is, [classes].
    """

    accuracy: Tensor
    way: Tensor
    parts: Tensor
    clusters: Tensor

    @property
    def normalised(self) -> Tensor:
        """(accuracy − 1/N) / (1 − 1/N) of each task: [tasks]."""
        chance = 1 / self.way
        return (self.accuracy - chance) / (1 - chance)

    @property
    def over_tasks(self) -> tuple[float, float]:
        """The mean of `normalised`, and the half width of its interval over tasks; with few of them it is Student's."""
        return statistics.interval(self.normalised)

    @cached_property
    def over_data(self) -> float:
        """The half width over other scripts or people (they are drawn, whole); nan where there are too few."""
        try:
            mean, low, _ = statistics.cluster_bootstrap_interval(self.parts, self.clusters, _ratio, draws=DRAWS)
        except statistics.NoInterval:
            return float("nan")
        return mean - low


def _ratio(parts: Tensor) -> Tensor:
    sums = parts.sum(0)
    return sums[0] / sums[1]


def examine(learner: nn.Module, images: ClassImages, *, number: int, seed: int) -> Answers:
    """The learner's answers to `number` tasks; the same seed gives the same tasks to all."""
    names = list(dict.fromkeys(images.groups))
    of_class = torch.tensor([names.index(group) for group in images.groups])
    accuracy, ways, parts, clusters = [], [], [], []
    with torch.no_grad(), evaluation_mode(learner):
        for task in tasks(images, number, seed):
            answer = learner(task.support_x, task.support_y, task.query_x).argmax(-1)
            right, way = (answer == task.query_y).double()[0], task.way
            recall = torch.zeros(way, dtype=torch.float64).index_add(0, task.query_y[0], right) / QUERY
            accuracy.append(right.mean())
            ways.append(way)
            part = (recall - 1 / way) / (1 - 1 / way) / way
            parts.append(torch.stack([part, torch.full_like(part, 1 / way)], 1))
            clusters.append(of_class[task.classes[0]])
    ways = torch.tensor(ways, dtype=torch.float64)
    return Answers(torch.stack(accuracy), ways, torch.cat(parts), torch.cat(clusters))


def lead(a: Answers, b: Answers) -> statistics.Paired:
    """The normalised accuracy of a minus that of b, on the same tasks; with few of them the interval is Student's."""
    return statistics.paired(a.normalised, b.normalised)


# ------------------------------------------------------------------ the leak


def together(support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Logits [queries, way]: prototypes of standardised features. It has a fault."""
    everything = torch.cat([support, queries])
    mean, spread = everything.mean(0), everything.std(0, correction=0)
    support, queries = (support - mean) / spread, (queries - mean) / spread
    of_class = F.one_hot(labels).to(support.dtype)
    prototypes = of_class.T @ support / of_class.sum(0).unsqueeze(1)
    return -(queries[:, None] - prototypes).square().sum(-1)


# ------------------------------------------------------------------ the submission


def begin(folder: Path) -> tuple[Path, bool]:
    """The learner's file in this folder, and whether it is new: a copy of `submission.py`. Nothing is overwritten."""
    path = folder / SUBMISSION
    if path.exists():
        return path, False
    folder.mkdir(parents=True, exist_ok=True)
    with open(submission.__file__, "rb") as source, open(path, "xb") as target:
        shutil.copyfileobj(source, target)
    return path, True


def as_it_came(path: Path, card: Any, run: Callable[..., Any], **how: Any) -> Any:
    """The card of the file that `begin` wrote: `card` where nothing was changed since, else `run` makes it now.

    run: `challenge.run_submission`; how: what `card` was made with, besides the file.
    """
    if path.read_bytes() == Path(submission.__file__).read_bytes():
        return card
    return run(submission.__file__, **how)


# ------------------------------------------------------------------ one's own pictures


@dataclass(frozen=True)
class Own:
    """Answers about a handful of pictures. accuracy: of each choice of support pictures, [choices]; way: of all.

    right: how often each picture was named right when it was asked, [pictures].
    """

    accuracy: Tensor
    way: int
    right: Tensor

    @property
    def normalised(self) -> Tensor:
        """0 is chance, 1 is perfect: [choices]."""
        return (self.accuracy - 1 / self.way) / (1 - 1 / self.way)

    def against(self, other: Own) -> tuple[int, int]:
        """In how many of the same choices this one is more accurate than the other, and in how many less."""
        gap = self.accuracy - other.accuracy
        return int((gap > 0).sum()), int((gap < 0).sum())


def every_support(learner: nn.Module, images: ClassImages, *, seed: int = 0) -> Own:
    """One picture of each class teaches, all others are asked: each choice of the teachers, or 200 drawn ones."""
    counts, first = images.counts.tolist(), images.first
    if math.prod(counts) <= MOST_DRAWS:
        choices = torch.tensor(list(itertools.product(*map(range, counts))))
    else:
        uniform = torch.rand(MOST_DRAWS, len(counts), generator=torch.Generator().manual_seed(seed))
        choices = (uniform * images.counts).long()
    labels = torch.arange(images.classes).repeat_interleave(images.counts)
    x = images.images.float() / 255
    shares, hits, asked = [], torch.zeros(len(x)), torch.zeros(len(x))
    with torch.no_grad(), evaluation_mode(learner):
        for choice in choices:
            support = first + choice
            query = torch.ones(len(x), dtype=torch.bool)
            query[support] = False
            answer = learner(x[support][None], labels[support][None], x[query][None]).argmax(-1)[0]
            right = answer == labels[query]
            shares.append(right.double().mean())
            hits[query] += right
            asked[query] += 1
    return Own(torch.stack(shares), images.classes, hits / asked.clamp_min(1))


# ------------------------------------------------------------------ a budget


def fine_tuned(steps: int) -> learners.FineTune:
    """The course's network, fine-tuned on each support set by so many steps of descent."""
    return learners.FineTune(network().network, inner_steps=steps, rate=0.05)


def cost_of_tuning(steps: int) -> int:
    """FLOP to fine-tune by so many steps on one 5-way 1-shot task, and to answer its 25 queries; counted, not timed."""
    return flop.of_episode(fine_tuned(steps), flop.noise(5, 1, QUERY, SHAPE))
