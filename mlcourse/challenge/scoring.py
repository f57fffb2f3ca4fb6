"""Figures of answers: how far above chance, how sure that is, how bad the worst tasks are, how calibrated.

The normalised accuracy of an episode of `way` classes is (accuracy − 1/way) / (1 − 1/way): chance is 0, perfect is 1.
So tasks of two classes and of twenty can be averaged (El Baz et al., *Lessons learned from the NeurIPS 2021 MetaDL
challenge*, 2022, https://arxiv.org/abs/2206.08138).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlcourse import statistics
from mlcourse.challenge.domains import Domain
from mlcourse.episodes import Episode

DRAWS = 1000  # of the bootstrap
Answer = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, int]]


@dataclass(frozen=True)
class Answers:
    """What a learner answered in the episodes of one domain.

    values: normalised accuracy, float64 [episodes]. rows: a line for each class of each episode, float64 [n, 2]: its
    share of the episode's value, and its share of the episode; their sums give the mean. clusters: int64 [n], of which
    script or class each line is. reliability: of `statistics.reliability`. flop: int, of all episodes.
    """

    domain: Domain
    values: Tensor
    rows: Tensor
    clusters: Tensor
    reliability: Tensor
    flop: int


@dataclass(frozen=True)
class Score:
    """Figures in [0, 1] (a normalised accuracy may be below 0). Half-widths are of 95 %; None: too few clusters."""

    value: float
    over_episodes: float
    over_clusters: float | None
    clusters: int
    worst_tenth: float
    calibration_error: float
    flop: int  # of an episode, the mean
    episodes: int


def collect(domain: Domain, answer: Answer, episodes: Iterable[Episode]) -> Answers:
    """Ask all episodes of a domain. answer: of support_x, support_y and query_x, logits [1, queries, way] and FLOP."""
    values, rows, clusters, flop = [], [], [], 0
    reliability = torch.zeros(statistics.BINS + 1, 3, dtype=torch.float64)
    for episode in episodes:
        logits, spent = answer(episode.support_x, episode.support_y, episode.query_x)
        labels, way = episode.query_y[0], episode.way
        of_class = torch.nn.functional.one_hot(labels, way).double()
        recall = of_class.T @ (logits[0].argmax(-1) == labels).double() / of_class.sum(0)
        normalised = (recall - 1 / way) / (1 - 1 / way)
        values.append(normalised.mean())
        rows.append(torch.stack([normalised / way, torch.full_like(normalised, 1 / way)], 1))
        clusters.append(domain.cluster_of[episode.classes[0]])
        reliability += statistics.reliability(logits[0], labels)
        flop += spent
    return Answers(domain, torch.stack(values), torch.cat(rows), torch.cat(clusters), reliability, flop)


def score(answers: Answers) -> Score:
    """The figures of one domain."""
    value, half = statistics.interval(answers.values)
    return Score(
        value=value,
        over_episodes=half,
        over_clusters=_over_clusters(answers, half),
        clusters=len(answers.clusters.unique()),
        worst_tenth=_worst_tenth(answers.values),
        calibration_error=statistics.calibration_error(answers.reliability),
        flop=answers.flop // len(answers.values),
        episodes=len(answers.values),
    )


def total(parts: Sequence[Answers]) -> Score:
    """The figures over several domains, each with the same weight: they are strata, drawn independently."""
    scores = [score(one) for one in parts]
    values = torch.cat([one.values for one in parts])
    halves = [one.over_clusters for one in scores]
    return Score(
        value=_mean([one.value for one in scores]),
        over_episodes=_of_strata([one.over_episodes for one in scores]),
        over_clusters=None if None in halves else _of_strata(halves),
        clusters=sum(one.clusters for one in scores),
        worst_tenth=_worst_tenth(values),
        calibration_error=statistics.calibration_error(sum(one.reliability for one in parts)),
        flop=sum(one.flop for one in parts) // len(values),
        episodes=len(values),
    )


def difference(a: Sequence[Answers], b: Sequence[Answers]) -> statistics.Paired:
    """a − b, paired episode by episode, over all domains."""
    pairs = [statistics.paired(x.values, y.values) for x, y in zip(a, b, strict=True)]
    return statistics.Paired(
        _mean([one.difference for one in pairs]),
        _of_strata([one.ci95 for one in pairs]),
        sum(one.episodes for one in pairs),
    )


def _over_clusters(answers: Answers, of_episodes: float) -> float | None:
    """The half-width over clusters and episodes: both may be others, and each varies by itself.

    Two-way clustering (Cameron, Gelbach, Miller, *Robust Inference With Multiway Clustering*, 2011,
    https://doi.org/10.1198/jbes.2010.07136) adds the two variances, and takes off what both hold. It is left in here,
    so the interval is rather too wide. Measured on made-up answers (100 episodes of 13 or 20 scripts, 250 cases each):
    it held the truth in 95 to 99 of 100 cases, and without the variance over episodes in 67 to 95.
    """
    try:
        mean, _, upper = statistics.cluster_bootstrap_interval(
            answers.rows, answers.clusters, _ratio, draws=DRAWS, seed=0
        )
    except statistics.NoInterval:
        return None
    return math.hypot(upper - mean, of_episodes)


def _ratio(rows: Tensor) -> Tensor:
    """Σ of the values' shares over Σ of the episodes' shares: the mean over (parts of) episodes."""
    sums = rows.sum(0)
    return sums[0] / sums[1]


def _worst_tenth(values: Tensor) -> float:
    return values.sort().values[: max(1, len(values) // 10)].mean().item()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _of_strata(halves: Sequence[float]) -> float:
    """The half-width of the mean of independent means."""
    return math.sqrt(sum(half**2 for half in halves)) / len(halves)
