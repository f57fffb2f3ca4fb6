"""Learners that compare, on many episodes: every picture is embedded once, and not in each episode that draws it.

1,000 episodes of 5 classes with 16 pictures ask for 80,000 embeddings of some 30,000 pictures. An encoder that treats
each picture by itself gives the same embedding every time. So `once` embeds them all, and what it returns is a learner
and a source of episodes as any others, of embeddings in place of pictures; `evaluation.evaluate` takes the two.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mlcourse import memory
from mlcourse.episodes import Episode, EpisodeSampler
from mlcourse.evaluation import BLOCK, depends_on_company, home_of
from mlcourse.learners.base import Learner, State, evaluation_mode
from mlcourse.learners.metric import MetricLearner

AT_ONCE = 256  # pictures
TRIED = 4  # tasks that are answered in both ways, before one trusts the other
TOLERANCE = 1e-4  # of how far answers lie apart: rounding depends on how many pictures are embedded together


class Embedded(Learner):
    """A learner that compares, behind its encoder: what it is given in place of pictures are their embeddings."""

    def __init__(self, learner: MetricLearner):
        super().__init__()
        self.learner = learner
        self.normalisation = learner.normalisation

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_) -> State:
        return self.learner.keep(support_x, support_y)

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        return self.learner.compare(state, query_x)

    def metric_for(self, batch: Any):
        return self.learner.metric_for(batch)

    def score(self, prediction: Any, batch: Episode) -> dict[str, Tensor]:
        return self.learner.score(prediction, batch)


class EmbeddedSampler:
    """The episodes of a sampler, with `embeddings` [pictures, …] in place of its pictures."""

    gives = "episodes"

    def __init__(self, sampler: EpisodeSampler, indices: EpisodeSampler, embeddings: Tensor):
        """indices: the same sampler on pictures of one pixel, which cost nothing to gather."""
        self.sampler, self.indices, self.embeddings = sampler, indices, embeddings

    def sample(self, tasks: int, generator: torch.Generator) -> Episode:
        """The same tasks as the sampler's: the same classes, pictures and labels."""
        episode, z = self.indices.sample(tasks, generator), self.embeddings
        support, query = (index.to(z.device) for index in (episode.support_index, episode.query_index))
        return replace(episode, support_x=z[support], query_x=z[query])

    def describe(self) -> dict[str, Any]:
        """What the sampler says."""
        return self.sampler.describe()


def once(
    learner: Learner, sampler: EpisodeSampler, indices: EpisodeSampler, *, episodes: int, seed: int
) -> tuple[Learner, Any]:
    """The learner and a source that need each picture once, or the two as they came where that is not the same.

    It is the same for a `MetricLearner` whose answers do not depend on their company, and whose answers to the first
    tasks are the same in both ways. It pays where there are fewer pictures than the episodes draw, and fit in memory.
    sampler, indices: as in `EmbeddedSampler`. episodes, seed: of the evaluation to come.
    """
    drawn = episodes * sampler.way * (sampler.shot + sampler.query)
    if not isinstance(learner, MetricLearner) or len(sampler.data.images) >= drawn:
        return learner, sampler
    batch = sampler.sample(BLOCK, torch.Generator().manual_seed(seed)).some(slice(0, TRIED)).to(*home_of(learner))
    if depends_on_company(learner, batch):
        return learner, sampler
    with torch.no_grad(), evaluation_mode(learner):
        one = learner.encode(batch.query_x[:1, :1])
        if one.numel() * one.element_size() * len(sampler.data.images) > memory.available() / 2:
            return learner, sampler
        source = EmbeddedSampler(sampler, indices, embeddings(learner, sampler.data.images))
        short = Embedded(learner).eval()
        again = source.sample(BLOCK, torch.Generator().manual_seed(seed)).some(slice(0, TRIED))
        answers, expected = (
            short(again.support_x, again.support_y, again.query_x),
            learner(batch.support_x, batch.support_y, batch.query_x),
        )
    far = (expected - expected.mean()).abs().max()
    return (short, source) if (answers - expected).abs().max() <= TOLERANCE * far else (learner, sampler)


@torch.no_grad()
def embeddings(learner: MetricLearner, images: Tensor) -> Tensor:
    """What the encoder makes of pictures, uint8 [pictures, C, H, W] → [pictures, …], on the learner's device."""
    device, dtype = home_of(learner)
    with evaluation_mode(learner):
        parts = [
            learner.encode(some.to(device=device, dtype=torch.float32).div_(255).to(dtype).unsqueeze(0))[0]
            for some in images.split(AT_ONCE)
        ]
    return torch.cat(parts)
