"""How sure a mean is, or the difference of two: one interval of each kind, and what belongs to comparisons of many.

    mean_interval               many independent values: the normal distribution
    student_interval            few independent values: Student's t
    ratio_interval              a ratio of sums, as intersection over union is
    paired                      the difference of two, on the same episodes
    bootstrap_interval          any statistic of independent values
    cluster_bootstrap_interval  values that come in groups (alphabets, people): the groups are drawn, not the values
    holm                        p-values of many comparisons, each made as large as it must be
    effect_size                 a paired difference in units of its own spread

All intervals are of 95 %. Values are tensors or sequences of numbers; the arithmetic is float64.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mlcourse.errors import CourseError

Z95 = 1.96  # of the normal distribution: episodes are many (hundreds), so Student's t would say the same
LEVEL = 0.95
Values = Tensor | Sequence[float]


# ------------------------------------------------------------------ one mean


def mean_interval(values: Values) -> tuple[float, float]:
    """The mean of independent values [n] and the half-width of its 95 % interval, 1.96 · s / √n (nan for one value)."""
    values = _finite(values)
    spread = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), Z95 * spread


def student_interval(values: Values) -> tuple[float, float]:
    """The mean of few independent values [n], and the half-width of its 95 % interval by Student's t; nan for n = 1."""
    from scipy.stats import t  # late: it takes half a second

    values = _finite(values)
    if len(values) < 2:
        return values.mean().item(), math.nan
    quantile = float(t.ppf((1 + LEVEL) / 2, len(values) - 1))
    return values.mean().item(), quantile * values.std().item() / math.sqrt(len(values))


def ratio_interval(numerators: Values, denominators: Values) -> tuple[float, float]:
    """Σ numerators / Σ denominators over independent episodes [n], and the half-width of its 95 % interval.

    The interval is that of the mean of what each episode's numerator is above ratio · denominator, over the mean
    denominator (Cochran, *Sampling Techniques*, 1977, section 2.11). Raises CourseError when the denominators sum to 0.
    """
    top, bottom = _pair(numerators, denominators)
    if bottom.sum() == 0:
        raise CourseError("a ratio needs something to divide by, but all denominators are 0; take more episodes")
    ratio = top.sum() / bottom.sum()
    _, half = mean_interval((top - ratio * bottom) / bottom.mean())
    return ratio.item(), half


# ------------------------------------------------------------------ two on the same episodes


@dataclass(frozen=True)
class Paired:
    """The difference of two results on the same episodes: `difference ± ci95` is its 95 % interval."""

    difference: float
    ci95: float
    episodes: int
    percent: bool = True  # whether it is a difference of shares, which is told in points

    @property
    def lower(self) -> float:
        """The lower end of the interval."""
        return self.difference - self.ci95

    @property
    def upper(self) -> float:
        """The upper end of the interval."""
        return self.difference + self.ci95

    def __str__(self) -> str:
        if not self.percent:
            return f"{self.difference:+.4g} ± {self.ci95:.2g} ({self.episodes} paired episodes)"
        return f"{100 * self.difference:+.2f} ± {100 * self.ci95:.2f} points ({self.episodes} paired episodes)"


def paired(a: Values, b: Values, *, few: bool = False) -> Paired:
    """The mean of a − b, value by value, and its interval: normal, or with few values Student's.

    Pairing removes what is hard or easy for both: the interval shrinks. Raises CourseError for unequal lengths.
    """
    a, b = _pair(a, b)
    difference, half = (student_interval if few else mean_interval)(a - b)
    return Paired(difference, half, len(a))


def effect_size(a: Values, b: Values) -> float:
    """Cohen's d of pairs: the mean of a − b over its standard deviation. 0 where all pairs are equal.

    Cohen, *Statistical Power Analysis for the Behavioral Sciences*, 1988, section 2.3.5 (d_z). nan for one pair.
    """
    a, b = _pair(a, b)
    difference = a - b
    if not difference.any():
        return 0.0
    spread = difference.std().item() if len(difference) > 1 else math.nan
    return difference.mean().item() / spread if spread else math.copysign(math.inf, difference[0].item())


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of m comparisons, adjusted so that all claims together are wrong in at most 5 of 100 cases.

    The smallest is multiplied by m, the next by m − 1, …; none is smaller than the one before it.
    Holm, *A Simple Sequentially Rejective Multiple Test Procedure*, 1979, https://www.jstor.org/stable/4615733.
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise CourseError(f"p-values lie in [0, 1], but there is {next(p for p in p_values if not 0 <= p <= 1)}")
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


# ------------------------------------------------------------------ bootstrap


def bootstrap_interval(
    values: Values,
    statistic: Callable[[Tensor], Tensor] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A statistic of independent values [n, …] with its 95 % percentile interval: (statistic, lower, upper).

    statistic: of values [n, …], by default the mean over all. Each draw takes n of the values, with replacement.
    Efron, *Bootstrap Methods: Another Look at the Jackknife*, 1979, https://doi.org/10.1214/aos/1176344552.
    """
    values = _finite(values)
    return cluster_bootstrap_interval(values, torch.arange(len(values)), statistic, draws=draws, seed=seed)


def cluster_bootstrap_interval(
    values: Values,
    clusters: Tensor | Sequence[int],
    statistic: Callable[[Tensor], Tensor] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The same where values [n, …] come in clusters: `clusters` [n] says which. Each draw takes clusters, whole.

    What is alike within a cluster (an alphabet, a person) is no new evidence: with few clusters the interval is wide.
    Cameron, Gelbach, Miller, *Bootstrap-Based Improvements for Inference with Clustered Errors*, 2008,
    https://doi.org/10.1162/rest.90.3.414. Raises CourseError for fewer than two clusters.
    """
    values, statistic = _finite(values), statistic or torch.mean
    names, member = torch.as_tensor(clusters).unique(return_inverse=True)
    if len(member) != len(values):
        raise CourseError(f"each value needs its cluster, but of {len(values)} values {len(member)} have one")
    if len(names) < 2:
        raise CourseError("all values are of one cluster, which says nothing about others; give two clusters or more")
    rows = [(member == index).nonzero().flatten() for index in range(len(names))]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(names), (draws, len(names)), generator=generator).tolist()
    found = torch.stack([statistic(values[torch.cat([rows[i] for i in one])]) for one in drawn])
    lower, upper = torch.quantile(found, torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=found.dtype)).tolist()
    return statistic(values).item(), lower, upper


# ------------------------------------------------------------------ what a learner is measured by


class Metric(NamedTuple):
    """What scores of episodes are summed up in, and which way is better.

    name: of the metric, and without `ratio` of the score that it is the mean of. better: +1 where more is better, −1
    where less is. ratio: two scores; the metric is then the sum of the first over the sum of the second, both over all
    episodes: an intersection over union is summed before it is divided. Of a single episode it is their quotient.
    share: whether it is a share, which is told as a percentage (None: what is better when there is more of it is one).
    """

    name: str
    better: int = 1
    ratio: tuple[str, str] | None = None
    share: bool | None = None

    @property
    def percent(self) -> bool:
        """Whether it is told as a percentage."""
        return self.better > 0 if self.share is None else self.share

    def per_episode(self, scores: dict[str, Tensor]) -> Tensor:
        """The metric of each episode: float64 [episodes]. Where there is nothing to divide by, nan."""
        if self.ratio is None:
            return self._score(scores, self.name)
        top, bottom = (self._score(scores, name) for name in self.ratio)
        return top / bottom

    def interval(self, scores: dict[str, Tensor]) -> tuple[float, float]:
        """The metric over all episodes, and the half-width of its 95 % interval over episodes."""
        if self.ratio is None:
            return mean_interval(self._score(scores, self.name))
        return ratio_interval(*(self._score(scores, name) for name in self.ratio))

    def compare(self, a: dict[str, Tensor], b: dict[str, Tensor]) -> Paired:
        """a − b on the same episodes. For ratios, of what each episode adds to its ratio of sums."""
        if self.ratio is None:
            difference = paired(self._score(a, self.name), self._score(b, self.name))
        else:
            difference = paired(*(self._shares(scores) for scores in (a, b)))
        return Paired(difference.difference, difference.ci95, difference.episodes, self.percent)

    def told(self, value: float, half: float) -> str:
        """A value with its half-width, as people read it."""
        if self.percent:
            return f"{100 * value:.2f} ± {100 * half:.2f} %"
        return f"{self.name} {value:.4g} ± {half:.2g}"

    def _shares(self, scores: dict[str, Tensor]) -> Tensor:
        """Numbers whose mean is the ratio of sums, and whose spread is that of `ratio_interval`."""
        top, bottom = (self._score(scores, name) for name in self.ratio)
        ratio = top.sum() / bottom.sum()
        return ratio + (top - ratio * bottom) / bottom.mean()

    def _score(self, scores: dict[str, Tensor], name: str) -> Tensor:
        if name not in scores:
            raise CourseError(f"the metric {self.name} needs the score {name!r}, but score() gives {', '.join(scores)}")
        return scores[name].double()


class Ratio(float):
    """A quotient of two sums that remembers them; nan where there is nothing to divide by."""

    top: float
    bottom: float

    def __new__(cls, top: float, bottom: float) -> "Ratio":
        made = super().__new__(cls, top / bottom if bottom else math.nan)
        made.top, made.bottom = top, bottom
        return made

    def __getnewargs__(self) -> tuple[float, float]:
        return self.top, self.bottom

    @classmethod
    def of_sums(cls, ratios: Sequence["Ratio"]) -> "Ratio":
        """Several in one: their sums are added up, and then divided."""
        return cls(sum(one.top for one in ratios), sum(one.bottom for one in ratios))


ACCURACY = Metric("accuracy")
ERROR = Metric("error", better=-1)  # the mean squared error of values


def _pair(a: Values, b: Values) -> tuple[Tensor, Tensor]:
    """Both as float64 [n]. Raises CourseError when they do not pair off: PyTorch would broadcast."""
    a, b = _finite(a), _finite(b)
    if a.shape != b.shape or a.dim() != 1:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise CourseError(f"a pair needs as many values on both sides, but there are {shapes}; give [n] twice")
    return a, b


def _finite(values: Values) -> Tensor:
    """The values as float64. Raises CourseError when there are none, or one is not finite: no mean of it is."""
    values = torch.as_tensor(values, dtype=torch.float64)
    if not values.numel():
        raise CourseError("there are no values; an interval needs one or more")
    if not values.isfinite().all():
        wrong = int((~values.isfinite()).sum())
        raise CourseError(f"{wrong} of {values.numel()} values are not finite; look where they come from")
    return values
