"""What a table says of the results of one protocol: rows, ranks with ties, and pairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from mlcourse import statistics
from mlcourse.errors import CourseError
from mlcourse.learners import METHODS
from mlcourse.protocols.protocol import Protocol
from mlcourse.protocols.results import Stored, title_of
from mlcourse.statistics import Paired

TELLS = ("trained_on", "network", "normalisation", "learner")  # what tells rows of one method apart


class Interval(NamedTuple):
    """An accuracy and its 95 % interval, in [0, 1]."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Row:
    """One method as it was trained: the results of its seeds, all on the same episodes. No result: not run."""

    method: str
    title: str
    results: tuple[Stored, ...] = ()
    rank: int | None = None

    @property
    def run(self) -> bool:
        """Whether there is a result."""
        return bool(self.results)

    @property
    def first(self) -> Stored:
        """What all seeds have in common is read from the first."""
        return self.results[0]

    @cached_property
    def per_episode(self) -> Tensor:
        """The accuracy of each episode, the mean over seeds: float64 [episodes]."""
        return torch.stack([one.per_episode for one in self.results]).mean(0)

    @cached_property
    def accuracy(self) -> float:
        """The mean over episodes and seeds."""
        return self.per_episode.mean().item()

    @cached_property
    def over_episodes(self) -> Interval:
        """What other episodes of the same pictures would give: the interval that papers print."""
        value, half = statistics.interval(self.per_episode)
        return Interval(value, value - half, value + half)

    @cached_property
    def sums(self) -> Tensor:
        """Of each group, the accuracies of its episodes, each as often as it has the group's classes: float64."""
        return torch.stack([one.counts[:, 1] / one.queries for one in self.results]).mean(0)

    @cached_property
    def over_data(self) -> Interval | None:
        """What other alphabets (scripts, classes) would give; None where these say nothing of others: too few, or all
        in each episode (`statistics.NoInterval`)."""
        return _over_data(self.first, self.per_episode, self.sums)

    @cached_property
    def over_seeds(self) -> tuple[float, float] | None:
        """The lowest and the highest accuracy of a seed; None for fewer than two."""
        values = [one.per_episode.mean().item() for one in self.results]
        return (min(values), max(values)) if len(values) > 1 else None

    @cached_property
    def worst_tenth(self) -> float:
        """The mean over the tenth of the episodes where it is worst."""
        return self.per_episode.sort().values[: max(1, len(self.per_episode) // 10)].mean().item()

    def calibration_error(self, when: str) -> float:
        """The mean over seeds of the expected calibration error, "before" or "after" the temperature."""
        return sum(one.calibration_error(when) for one in self.results) / len(self.results)

    def nll(self, when: str) -> float:
        """The mean over seeds of the negative log-likelihood, "before" or "after" the temperature."""
        return sum(one.nll(when) for one in self.results) / len(self.results)


class Pair(NamedTuple):
    """Two rows on the same episodes: a − b."""

    a: Row
    b: Row
    over_episodes: Paired
    over_data: Interval | None  # of the difference
    effect: float  # Cohen's d of the pairs
    won: float  # the share of episodes in which a is above b
    tied: float
    p: float  # adjusted by Holm for all pairs of the table


def _difference(a: Row, b: Row) -> Paired:
    """The paired difference of two rows, episode by episode."""
    return statistics.paired(a.per_episode, b.per_episode)


def rows(protocol: Protocol, results: Sequence[Stored]) -> list[Row]:
    """The rows of a table, the most accurate first, then those that the protocol lists and nobody has run.

    A rank is shared by all whose paired interval over episodes, against the first of that rank, holds 0: nothing tells
    them apart. The next rank counts all above it, as in sports: 1, 1, 3.
    """
    groups = _groups(results)
    there = [Row(some[0].method, title, tuple(some)) for some, title in zip(groups, _titles(groups))]
    there.sort(key=lambda row: (-row.accuracy, row.method))
    places = statistics.shared_ranks(there, _tied)
    ranked = [Row(row.method, row.title, row.results, rank) for row, rank in zip(there, places)]
    run = {row.method for row in there if not row.first.seen}
    return ranked + [Row(method, title_of(method)) for method in protocol.rows if method not in run]


def _groups(results: Sequence[Stored]) -> list[list[Stored]]:
    """The results of each row: all that is said of a row is the same in them, and their seeds differ.

    A seed that a row has already, trained to other weights, is no further seed: it begins another row. So does a
    result without a seed.
    """
    found: list[list[Stored]] = []
    for one in results:
        group = next((some for some in found if _another_seed(one, some)), None)
        if group is None:
            found.append([one])
        else:
            group.append(one)
    return found


def _another_seed(one: Stored, some: list[Stored]) -> bool:
    seeds, weights = [other.seed for other in some], [other.weights for other in some]
    new = None not in (one.seed, *seeds) and one.seed not in seeds and one.weights not in weights
    return new and one.row == some[0].row


def _titles(groups: list[list[Stored]]) -> list[str]:
    """The titles of rows; where several have the same, with the first of TELLS that tells them apart, or a number."""
    titles = [some[0].title for some in groups]
    for title in [title for title, times in Counter(titles).items() if times > 1]:
        same = [index for index, one in enumerate(titles) if one == title]
        told = [[getattr(groups[index][0], what) for index in same] for what in TELLS]
        apart = next((values for values in told if len(set(values)) == len(same) and None not in values), told[-1])
        for index, value in zip(same, apart):
            titles[index] = f"{title}, {value}"
    seen: Counter[str] = Counter()
    for index, title in enumerate(titles):
        seen[title] += 1
        if seen[title] > 1:
            titles[index] = f"{title} ({seen[title]})"
    return titles


def _tied(a: Row, b: Row) -> bool:
    difference = _difference(a, b)
    return not (difference.lower > 0 or difference.upper < 0)  # one episode tells nothing apart


def pairs(table: Sequence[Row]) -> list[Pair]:
    """All pairs of the rows that were run, the better one first. Raises CourseError when there are fewer than two."""
    there = [row for row in table if row.run]
    if len(there) < 2:
        raise CourseError(f"a pair needs two rows, but {len(there)} were run: evaluate another learner on the protocol")
    found = list(combinations(there, 2))
    differences = [_difference(a, b) for a, b in found]
    values = [statistics.p_value(one) for one in differences]
    adjusted = statistics.holm([1.0 if math.isnan(p) else p for p in values])  # one episode is no evidence
    return [_pair(a, b, one, p) for (a, b), one, p in zip(found, differences, adjusted)]


def _pair(a: Row, b: Row, difference: Paired, p: float) -> Pair:
    won, tied = statistics.share_won(a.per_episode, b.per_episode)
    effect = statistics.effect_size(a.per_episode, b.per_episode)
    return Pair(
        a, b, difference, _over_data(a.first, a.per_episode - b.per_episode, a.sums - b.sums), effect, won, tied, p
    )


def _over_data(one: Stored, values: Tensor, sums: Tensor) -> Interval | None:
    """The interval over the data of a mean, or of a difference: all results of a protocol have the same episodes."""
    more = {"crowding": one.crowding, "scale": one.scale}
    try:
        return Interval(*statistics.episodes_over_data(values, one.counts[:, 0], sums, **more))
    except statistics.NoInterval:
        return None


def published(protocol: Protocol, row: Row) -> str:
    """The figure of the method's own paper for such tasks, in percent, and how it was taken; "" where there is none."""
    known = METHODS.get(row.method)
    key = f"{protocol.dataset} {protocol.way}-way {protocol.shot}-shot"
    if known is None or protocol.lists != "vinyals" or key not in known.published:
        return ""
    setting = f" ({known.setting})" if known.setting else ""
    return f"{known.published[key]:g}{setting}"


def short(number: int | None) -> str:
    """A large number as people read it: "3.2 T"; "" for none."""
    if number is None:
        return ""
    power = min(int(math.log10(number)) // 3, 6) if number >= 1 else 0
    return f"{number / 1000**power:.3g} {('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}".strip()
