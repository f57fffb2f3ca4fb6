"""How sure a mean is, or the difference of two: one interval of each kind, and what belongs to comparisons of many.

    mean_interval               many independent values: the normal distribution
    student_interval            few independent values: Student's t
    ratio_interval              a ratio of sums, as intersection over union is
    paired                      the difference of two, on the same episodes
    bootstrap_interval          any statistic of independent values
    cluster_bootstrap_interval  values that come in groups (alphabets, people): the groups are drawn, not the values
    holm                        p-values of many comparisons, each made as large as it must be
    effect_size                 a paired difference in units of its own spread
    p_value, share_won          how surely the two differ, and on how many of the episodes
    episodes_over_data          a mean over episodes, over the data: which alphabets or classes there are to test on
    reliability                 how sure a learner is, against how often it is right; with it the calibration error,
                                the negative log-likelihood, and the one temperature that mends most of it

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
LEAST_FREEDOM = 4  # degrees of freedom: with fewer an interval says nothing
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


def p_value(difference: Paired) -> float:
    """Two-sided p of "there is no difference", by the normal distribution that `difference ± ci95` comes from.

    1 where all pairs are equal, 0 where all differ by the same number; nan for one pair.
    """
    if difference.ci95 == 0:
        return float(difference.difference == 0)
    return math.erfc(abs(difference.difference) / difference.ci95 * Z95 / math.sqrt(2))


def share_won(a: Values, b: Values) -> tuple[float, float]:
    """In which share of the pairs a is above b, and in which share the two are equal."""
    a, b = _pair(a, b)
    return (a > b).double().mean().item(), (a == b).double().mean().item()


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


def episodes_over_data(
    values: Values,
    classes: Values,
    sums: Values,
    *,
    crowding: float = 1.0,
    scale: float = 1.0,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The mean of episodes with its 95 % interval *over the data*: (mean, lower, upper).

    An interval over episodes says what other episodes of the same classes would give: episodes are drawn again and
    again from the same pictures, so it measures the sampler, and shrinks to nothing. This one says what other clusters
    (alphabets, scripts, classes) would give. An episode mixes several, so it belongs to none. But how far the mean
    hangs on a cluster can be measured: by how much the episodes with its classes lie above the others, as often as they
    have them (Hoeffding's projection, *A Class of Statistics with Asymptotically Normal Distribution*, 1948,
    https://doi.org/10.1214/aoms/1177730196). The bootstrap draws these shares of the clusters, with replacement.

    values [episodes]. classes [clusters]: how many classes of each cluster all episodes have, together. sums
    [clusters]: the same, each counted with its episode's value. crowding: Σ over clusters of (classes of it in an
    episode)², the mean over episodes: an episode's own luck is counted once for each, and is taken off again. scale:
    (C − 1)/(C − way) where the classes of an episode are drawn out of only C. Where each episode is of one cluster,
    count it as one class, and leave both at 1. Of a difference of two learners: give those of values and of sums.

    Percentiles are expanded for few clusters (Hesterberg, *What Teachers Should Know about the Bootstrap*, 2015,
    https://doi.org/10.1080/00031305.2015.1089789), as Student's t is for few values; what is taken off for luck costs
    degrees of freedom (Satterthwaite, 1946, https://doi.org/10.2307/3002019), of which LEAST_FREEDOM stay.
    Raises CourseError for fewer than two clusters, and for sums that do not pair off.
    """
    from scipy.stats import norm, t  # late: it takes half a second

    values, (classes, sums) = _finite(values), _pair(classes, sums)
    clusters = len(classes)
    if clusters < 2:
        raise CourseError("all episodes are of one cluster, which says nothing of others; give two or more")
    mean = values.mean()
    shares = scale * (sums - classes * mean) / len(values)
    luck = (values - mean).square().sum() / len(values) ** 2  # the variance of the mean over episodes
    found = shares.square().sum()
    true = max(found - (crowding * scale**2 - 1) * luck, luck)
    kept = (true / found).item() if found > 0 else 1.0
    shares = shares * math.sqrt(kept)
    freedom = max((clusters - 1) * min(kept, 1) ** 2, min(clusters - 1, LEAST_FREEDOM))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(clusters, (draws, clusters), generator=generator)
    tail = norm.cdf(-math.sqrt(clusters / (clusters - 1)) * t.ppf((1 + LEVEL) / 2, freedom))
    ends = torch.tensor([tail, 1 - tail], dtype=shares.dtype)
    lower, upper = (mean + torch.quantile(shares[drawn].sum(1), ends)).tolist()
    return mean.item(), lower, upper


# ------------------------------------------------------------------ how sure, against how often right

BINS = 15
COLDEST, HOTTEST = 0.05, 20.0  # temperatures: where all validation answers are right, none is the best


def reliability(logits: Tensor, labels: Tensor, bins: int = BINS) -> Tensor:
    """How sure answers are, and how often they are right: float64 [bins + 1, 3].

    logits [n, way], labels [n]. An answer's confidence is the probability of the class that it names. Answers are
    counted by confidence in `bins` equal parts of [0, 1); confidence 1 has a row of its own, as in torchmetrics. The
    three columns are the number of answers, the sum of their confidences, and the number that is right.
    """
    logits, labels = _answers(logits, labels)
    confidence, answer = logits.softmax(-1).amax(-1), logits.argmax(-1)  # not that of softmax, which may round to ties
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    row = torch.bucketize(confidence, edges, right=True) - 1
    table = torch.zeros(bins + 1, 3, dtype=torch.float64)
    return table.index_add_(0, row, torch.stack([torch.ones_like(confidence), confidence, answer == labels], 1))


def calibration_error(table: Tensor) -> float:
    """The expected calibration error of what `reliability` gives: how far confidence and accuracy are apart, in [0, 1].

    Naeini, Cooper, Hauskrecht, *Obtaining Well Calibrated Probabilities Using Bayesian Binning*, 2015,
    https://doi.org/10.1609/aaai.v29i1.9602; for networks Guo et al., *On Calibration of Modern Neural Networks*, 2017,
    https://arxiv.org/abs/1706.04599.
    """
    answers, confidence, right = table.unbind(1)
    return ((confidence - right).abs().sum() / answers.sum()).item()


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """The mean of −log p(right class): logits [n, way], labels [n]. It punishes an answer that is sure and wrong."""
    logits, labels = _answers(logits, labels)
    return torch.nn.functional.cross_entropy(logits, labels).item()


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The T for which softmax(logits / T) has the least negative log-likelihood (Guo et al. 2017, section 4.2).

    logits [n, way], labels [n], of validation classes. The log-likelihood is concave in 1/T, so its slope
    Σ (z_right − E_p[z]) changes its sign once, and halving an interval finds where. It stays between 0.05 and 20, where
    all answers are right or none; it is 1 where it changes nothing, for logits that are all alike.
    """
    logits, labels = _answers(logits, labels)
    right = logits.gather(1, labels.unsqueeze(1)).squeeze(1)

    def slope(log_t: float) -> float:
        return (right - (logits * (logits / math.exp(log_t)).softmax(-1)).sum(-1)).sum().item()

    low, high = math.log(COLDEST), math.log(HOTTEST)
    if slope(low) == slope(high) == 0:
        return 1.0
    for _ in range(60):  # to 14 digits
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) >= 0 else (middle, high)
    return math.exp((low + high) / 2)


def _answers(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits as float64 [n, way] and labels [n]. Raises CourseError when they do not fit, or are not finite."""
    logits, labels = _finite(logits.detach().cpu()), labels.cpu()
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or labels.is_floating_point():
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise CourseError(f"logits and labels have the shapes {shapes}; give logits [n, way] and integer labels [n]")
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise CourseError(f"labels are 0 to {logits.shape[1] - 1}, but one is {int(labels.max())} or below 0")
    return logits, labels.long()


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
