"""How sure a mean is, or the difference of two: one interval of each kind, and what belongs to comparisons of many.

    mean_interval               many independent values: the normal distribution
    student_interval            few independent values: Student's t
    ratio_interval              a ratio of sums, as intersection over union is
    paired                      the difference of two, on the same episodes
    bootstrap_interval          any statistic of independent values
    cluster_bootstrap_interval  values that come in clusters (alphabets, people): these are drawn, not the values
    holm                        p-values of many comparisons, each made as large as it must be
    effect_size                 a paired difference in units of its own spread
    shared_ranks                the places of many, with ties
    p_value, share_won          how surely the two differ, and on how many of the episodes
    episodes_over_data          a mean over episodes, over the data: which alphabets or classes there are to test on
    reliability                 how sure a learner is, against how often it is right; with it the calibration error,
                                the negative log-likelihood, and the one temperature that mends most of it

All intervals are of 95 %. Values are tensors or sequences of numbers; the arithmetic is float64.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlcourse.errors import CourseError, check_number

# With fewer values intervals are Student's: with 3 of them the normal one holds the truth in 82 of 100 cases.
FEW = 100
Z95 = 1.96  # of the normal distribution: episodes are many (hundreds), so Student's t would say the same
LEVEL = 0.95
LEAST_ALIKE = 4.0  # as many clusters of one size would be as even as these, at least
LEAST_CLUSTERS = 5  # with fewer an interval over them says nothing of others
ROUNDING = 1e-9  # of the largest draw: what differs by less is the same
LEAST_FREEDOM = 4  # degrees of freedom that stay where luck is taken off, or half of all
Values = Tensor | Sequence[float]


class NoInterval(CourseError):
    """The data are too few, or too alike, for an interval over them."""


# ------------------------------------------------------------------ one mean


def mean_interval(values: Values) -> tuple[float, float]:
    """The mean of independent values [n] and the half-width of its 95 % interval, 1.96 · s / √n (nan for one value)."""
    values = _single(values)
    spread = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), Z95 * spread


def interval(values: Values) -> tuple[float, float]:
    """The mean of values [n], and the half-width of its 95 % interval: Student's where they are few, else normal."""
    return (student_interval if len(values) < FEW else mean_interval)(values)


def student_interval(values: Values) -> tuple[float, float]:
    """The mean of few independent values [n], and the half-width of its 95 % interval by Student's t; nan for n = 1."""
    values = _single(values)
    if len(values) < 2:
        return values.mean().item(), math.nan
    return values.mean().item(), student_quantile(len(values) - 1) * values.std().item() / math.sqrt(len(values))


def ratio_interval(numerators: Values, denominators: Values) -> tuple[float, float]:
    """Σ numerators / Σ denominators over independent episodes [n], and the half-width of its 95 % interval.

    The interval is that of the mean of what each episode's numerator is above ratio · denominator, over the mean
    denominator (Cochran, *Sampling Techniques*, 1977, section 2.11). Raises CourseError when the denominators sum to 0.
    """
    top, bottom = _pair(numerators, denominators)
    if bottom.sum() == 0:
        raise CourseError("a ratio needs something to divide by, but all denominators are 0; take more episodes")
    ratio = top.sum() / bottom.sum()
    _, half = interval((top - ratio * bottom) / bottom.mean())
    return ratio.item(), half


# ------------------------------------------------------------------ two on the same episodes


@dataclass(frozen=True)
class Paired:
    """The difference of two results on the same episodes: `difference ± ci95` is its 95 % interval."""

    difference: float
    ci95: float
    episodes: int
    percent: bool = True  # whether it is a difference of shares, which is told in points
    few: bool = False  # whether the interval is Student's

    @property
    def lower(self) -> float:
        """The lower end of the interval."""
        return self.difference - self.ci95

    @property
    def upper(self) -> float:
        """The upper end of the interval."""
        return self.difference + self.ci95

    def __str__(self) -> str:
        if math.isnan(self.ci95):
            shown = f"{100 * self.difference:+.2f} points" if self.percent else f"{self.difference:+.4g}"
            return f"{shown} (one paired episode: no interval)"
        if not self.percent:
            return f"{self.difference:+.4g} ± {self.ci95:.2g} ({self.episodes} paired episodes)"
        return f"{100 * self.difference:+.2f} ± {100 * self.ci95:.2f} points ({self.episodes} paired episodes)"


def paired(a: Values, b: Values) -> Paired:
    """The mean of a − b, value by value, and its interval: Student's where they are few, else normal.

    Pairing removes what is hard or easy for both: the interval shrinks. Raises CourseError for unequal lengths.
    """
    a, b = _pair(a, b)
    difference, half = interval(a - b)
    return Paired(difference, half, len(a), few=len(a) < FEW)


def effect_size(a: Values, b: Values) -> float:
    """Cohen's d of pairs: the mean of a − b over its standard deviation. 0 where all pairs are equal.

    Cohen, *Statistical Power Analysis for the Behavioral Sciences*, 1988, section 2.3.5 (d_z). nan for one pair.
    """
    a, b = _pair(a, b)
    difference = a - b
    if not difference.any():
        return 0.0
    mean, spread = difference.mean().item(), difference.std().item() if len(difference) > 1 else math.nan
    if spread <= 1e-12 * abs(mean):  # all are the same, but for the rounding of 1/75
        return math.copysign(math.inf, mean)
    return mean / spread


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


def shared_ranks(ordered: Sequence[Any], tied: Callable[[Any, Any], bool]) -> list[int]:
    """The ranks of what is ordered, the best first. Who is tied with the first of a rank shares it.

    The next rank counts all above it, as in sports: 1, 1, 3.
    tied: of (the first of a rank, another one), whether nothing tells them apart.
    """
    found: list[int] = []
    for place, one in enumerate(ordered, start=1):
        shares = place > 1 and tied(ordered[found[-1] - 1], one)
        found.append(found[-1] if shares else place)
    return found


def p_value(difference: Paired) -> float:
    """Two-sided p of "there is no difference", by the distribution that `difference ± ci95` comes from.

    1 where all pairs are equal, 0 where all differ by the same number; nan for one pair.
    """
    if difference.ci95 == 0:
        return float(difference.difference == 0)
    if difference.few:
        from scipy.special import stdtr  # late, and not scipy.stats, which takes half a second

        freedom = difference.episodes - 1
        return 2 * float(stdtr(freedom, -abs(difference.difference) / difference.ci95 * student_quantile(freedom)))
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
    """A statistic of independent values [n, …] with its 95 % interval: (statistic, lower, upper).

    statistic: of values [n, …], by default the mean over all. Each draw takes n of the values, with replacement. The
    interval is Student's, with the spread of the draws: see `cluster_bootstrap_interval`.
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
    The interval is statistic ± t · s · √(G/(G − 1)): s is the standard deviation of the draws, and t is Student's, with
    G − 1 degrees of freedom for G clusters (Cameron, Gelbach, Miller, *Bootstrap-Based
    Improvements for Inference with Clustered Errors*, 2008, https://doi.org/10.1162/rest.90.3.414; Cameron, Miller, *A
    Practitioner's Guide to Cluster-Robust Inference*, 2015, https://doi.org/10.3368/jhr.50.2.317).

    In how many of 100 cases it held the true mean (measured, 1,000 cases each; percentiles: of the draws, for
    comparison). With fewer than 5 clusters this hangs on how their means are distributed, which nobody can see.

    | clusters                    |  2 |  3 |  4 |  5 |  8 | 13 | 20 | 50 |
    |-----------------------------|----|----|----|----|----|----|----|----|
    | normal means                | 96 | 94 | 94 | 94 | 94 | 94 | 95 | 94 |
    | uniform means               | 95 | 92 | 92 | 93 | 93 | 94 | 95 | 95 |
    | exponential means (skewed)  | 91 | 86 | 87 | 87 | 88 | 91 | 91 | 92 |
    | percentiles, uniform means  | 48 | 68 | 78 | 83 | 86 | 89 | 91 | 92 |

    statistic: to one number. draws: 2 or more. Raises NoInterval for fewer than LEAST_CLUSTERS clusters, and where
    all draws give the same value: they do not vary, but other clusters may. CourseError for a statistic that is not
    finite in every draw.
    """
    values, statistic = _finite(values), statistic or torch.mean
    check_number("draws", draws, least=2)
    clusters = torch.as_tensor(clusters)
    if clusters.shape != values.shape[:1]:
        raise CourseError(
            f"each of {len(values)} values needs its cluster, but clusters have the shape {tuple(clusters.shape)}; "
            f"give [{len(values)}]"
        )
    if not clusters.isfinite().all():
        raise CourseError("the name of a cluster is nan or infinite; give whole numbers")
    names, member, sizes = clusters.unique(return_inverse=True, return_counts=True)
    _check_clusters(sizes)
    rows = [(member == index).nonzero().flatten() for index in range(len(names))]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(names), (draws, len(names)), generator=generator).tolist()
    value = _one_number(statistic(values))
    found = torch.tensor(
        [_one_number(statistic(values[torch.cat([rows[i] for i in one])])) for one in drawn], dtype=torch.float64
    )
    if not (math.isfinite(value) and found.isfinite().all()):
        raise CourseError("the statistic is not finite in every draw; give one that is, or more values")
    if found.max() - found.min() <= ROUNDING * found.abs().max():
        raise NoInterval(
            f"{draws} draws of {len(names)} clusters (or values) all give {value:g}, so they cannot tell how far that "
            "is from what others would give; take more of them"
        )
    of_clusters = len(names) / (len(names) - 1)  # G draws out of G vary too little
    half = student_quantile(len(names) - 1) * math.sqrt(of_clusters * found.var().item())
    return value, value - half, value + half


def episodes_over_data(
    values: Values,
    classes: Values,
    sums: Values,
    *,
    crowding: float = 1.0,
    scale: float = 1.0,
) -> tuple[float, float, float]:
    """The mean of episodes with its 95 % interval *over the data*: (mean, lower, upper).

    An interval over episodes says what other episodes of the same classes would give: episodes are drawn again and
    again from the same pictures, so it measures the sampler, and shrinks to nothing. This one says what other clusters
    (alphabets, scripts, classes) would give. An episode mixes several, so it belongs to none. But how far the mean
    hangs on a cluster can be measured: by how much the episodes with its classes lie above the others, as often as they
    have them (Hoeffding's projection, *A Class of Statistics with Asymptotically Normal Distribution*, 1948,
    https://doi.org/10.1214/aoms/1177730196). The spread of these shares of the clusters is that of the mean.

    values [episodes]. classes [clusters]: how many classes of each cluster all episodes have, together. sums
    [clusters]: the same, each counted with its episode's value. crowding: Σ over clusters of (classes of it in an
    episode)², the mean over episodes: an episode's own luck is counted once for each, and is taken off again. scale:
    (C − 1)/(C − way) where the classes of an episode are drawn out of only C. Where each episode is of one cluster,
    count it as one class, and leave both at 1. Of a difference of two learners: give those of values and of sums.

    The interval is Student's, with G − 1 degrees of freedom for G clusters, as in `cluster_bootstrap_interval`; what is
    taken off for luck costs some (Satterthwaite, 1946, https://doi.org/10.2307/3002019), but not more than half, and
    LEAST_FREEDOM stay. In how many of 100 cases it held the truth (measured, 1,000 cases each, 600 episodes):

    | clusters                                       |   2 |  3 |  4 |  5 |  8 | 13 | 20 | 50 |
    |------------------------------------------------|-----|----|----|----|----|----|----|----|
    | each episode of one cluster                    |  92 | 91 | 92 | 94 | 94 | 94 | 95 | 95 |
    | classes of clusters that matter                |  97 | 96 | 94 | 94 | 94 | 95 | 95 | 95 |
    | classes of clusters that matter little         | 100 | 98 | 98 | 96 | 93 | 96 | 98 | 99 |

    Raises NoInterval for fewer than LEAST_CLUSTERS clusters, where each episode has all clusters alike, and where all
    episodes have one value (a learner compared with itself, too); CourseError for sums that do not pair off.
    """
    values, (classes, sums) = _finite(values), _pair(classes, sums)
    _check_clusters(classes[classes > 0])  # one that no episode has is none
    clusters = int((classes > 0).sum())
    mean = values.mean()
    shares = scale * (sums - classes * mean) / len(values)
    luck = (values - mean).square().sum() / len(values) ** 2  # the variance of the mean over episodes
    found = shares.square().sum()
    if values.max() - values.min() <= ROUNDING * values.abs().max():
        raise NoInterval("all episodes have one value, which does not say that other clusters have it, too")
    if found <= torch.finfo(found.dtype).eps * luck:
        raise NoInterval(
            "each episode has as much of each cluster as any other, which says nothing of other clusters; take fewer "
            "classes per episode"
        )
    # each cluster left out once, the jackknife: one that holds much of the data has drawn the mean to itself
    left = 1 - classes / classes.sum()
    found = (shares / left).square().sum() * (clusters - 1) / clusters
    noise = scale**2 * (crowding - (classes / len(values)).square().sum()) * clusters / (clusters - 1) * luck
    variance = max(found - noise, torch.zeros_like(luck)) + luck  # of the mean, over the data
    kept = min((variance / found).item(), 1.0) if found > 0 else 1.0
    freedom = max((clusters - 1) * kept**2, min((clusters - 1) / 2, LEAST_FREEDOM))
    half = student_quantile(freedom) * math.sqrt(variance.item())
    return mean.item(), mean.item() - half, mean.item() + half


def _check_clusters(sizes: Tensor) -> None:
    """Raise NoInterval for fewer than LEAST_CLUSTERS clusters, or where a few hold nearly all: they count as few."""
    if len(sizes) < LEAST_CLUSTERS:
        raise NoInterval(
            f"there are {len(sizes)} clusters (or values), too few for an interval that says something of others; give "
            f"{LEAST_CLUSTERS} or more"
        )
    sizes = sizes.double()
    alike = (sizes.sum().square() / sizes.square().sum()).item()  # so many of one size would be as even
    if alike < LEAST_ALIKE:
        share = (sizes.max() / sizes.sum()).item()
        raise NoInterval(
            f"of {len(sizes)} clusters the largest holds {share:.0%}, so they count as {alike:.1f} only; give "
            f"{LEAST_CLUSTERS} or more of about one size"
        )


def student_quantile(freedom: float) -> float:
    """How many standard errors Student's 95 % interval reaches to each side: 1.96 where the freedom is large."""
    from scipy.special import stdtrit  # late, and not scipy.stats, which takes half a second

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


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
    table = torch.zeros(bins + 1, 3, dtype=torch.float64)
    counted = torch.stack([torch.ones_like(confidence), confidence, answer == labels], 1)
    return table.index_add_(0, rows_by_confidence(confidence, bins), counted)


def rows_by_confidence(confidence: Tensor, bins: int = BINS) -> Tensor:
    """In which row of `reliability` each answer is counted: int64 [n], from 0 to bins. confidence [n], in [0, 1]."""
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    return torch.bucketize(confidence, edges, right=True) - 1


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
            return interval(self._score(scores, self.name))
        return ratio_interval(*(self._score(scores, name) for name in self.ratio))

    def compare(self, a: dict[str, Tensor], b: dict[str, Tensor]) -> Paired:
        """a − b on the same episodes. For ratios, of what each episode adds to its ratio of sums."""
        if self.ratio is None:
            difference = paired(self._score(a, self.name), self._score(b, self.name))
        else:
            difference = paired(*(self._shares(scores) for scores in (a, b)))
        return replace(difference, percent=self.percent)

    def told(self, value: float, half: float) -> str:
        """A value with its half-width, as people read it; of one episode there is none."""
        if math.isnan(half):
            shown = f"{100 * value:.2f} %" if self.percent else f"{self.name} {value:.4g}"
            return f"{shown} (one episode: no interval)"
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


def _single(values: Values) -> Tensor:
    """The values as float64 [n]. Raises CourseError for another shape: n would be a length, not how many there are."""
    values = _finite(values)
    if values.dim() != 1:
        raise CourseError(f"the values have the shape {tuple(values.shape)}; give independent values [n]")
    return values


def _one_number(value: Any) -> float:
    """A statistic as a float. Raises CourseError for what is not one number."""
    try:
        return value.item() if isinstance(value, Tensor) else float(value)
    except (TypeError, ValueError, RuntimeError):
        told = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise CourseError(f"the statistic gave {told}; give a function of values [n, …] to one number") from None


def _finite(values: Values) -> Tensor:
    """The values as float64. Raises CourseError when there are none, or one is not finite: no mean of it is."""
    values = torch.as_tensor(values, dtype=torch.float64)
    if not values.numel():
        raise CourseError("there are no values; an interval needs one or more")
    if not values.isfinite().all():
        wrong = int((~values.isfinite()).sum())
        raise CourseError(f"{wrong} of {values.numel()} values are not finite; look where they come from")
    return values
