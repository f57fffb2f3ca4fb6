"""Is it the same person? Error rates of a comparison, and how sure they are.

**Verification.** Two pictures are compared, and are said to be of one person where their similarity is at a threshold
or above. A *genuine* pair is of one person, an *impostor* pair of two. Two errors are possible (ISO/IEC 19795-1):

    FMR   false match rate: the share of impostor pairs that reach the threshold     who is let in by mistake
    FNMR  false non-match rate: the share of genuine pairs that do not reach it      who is shut out by mistake

A threshold trades one for the other; the DET curve shows both for all thresholds (Martin et al., *The DET Curve in
Assessment of Detection Task Performance*, 1997). A threshold must be chosen on other people than it is tested on.

**Identification** in an open set. A picture (the probe) is compared with the one picture of each enrolled person (the
gallery). The most similar one is named, if it reaches the threshold; the probe may also be of nobody there.

    FPIR  false positive identification rate: of probes of nobody there, the share for whom somebody is named
    FNIR  false negative identification rate: of the others, the share whose person is not named

Who is compared with N people has N chances of a false match: FPIR ≈ 1 − (1 − FMR)^N, if they were independent.

**How sure.** All pairs of a person have him in common, so pairs are no independent evidence. `over_people` draws
people, with replacement, and a pair counts as often as both its people were drawn, multiplied: the two-way or vertex
bootstrap (Snijders & Borgatti, *Non-Parametric Standard Errors and Tests for Network Statistics*, 1999; for face
verification, beside other ways: Fogliato, Patil, Perona, *Confidence Intervals for Error Rates in 1:1 Matching Tasks*,
2024, https://arxiv.org/abs/2306.01198).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mlcourse.errors import CourseError, check_number
from mlcourse.statistics import LEAST_CLUSTERS, NoInterval, student_quantile

AT_ONCE = 50  # bootstrap draws
ROUNDING = 1e-9  # rates that differ by less are the same: one pair more or less moves a rate further
Statistic = Callable[["Curve"], Tensor]


# ------------------------------------------------------------------ pairs


@dataclass(frozen=True)
class Pairs:
    """Comparisons of two pictures each.

    scores: float64 [pairs], how similar. genuine: bool [pairs]. people: int64 [pairs, 2], of whom the two pictures are.
    """

    scores: Tensor
    genuine: Tensor
    people: Tensor

    def curve(self) -> Curve:
        """Both error rates for all thresholds."""
        return curve(self.scores, self.genuine)

    def of(self, people: Tensor) -> Pairs:
        """The pairs whose two pictures are both of these people: int64 [people]."""
        inside = torch.isin(self.people, people).all(1)
        return Pairs(self.scores[inside], self.genuine[inside], self.people[inside])


def similarities(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of embeddings [n, D] and [m, D]: float64 [n, m], in [−1, 1]. A zero vector has cosine 0 with all."""
    return (F.normalize(a.double(), dim=-1) @ F.normalize(b.double(), dim=-1).T).clamp(-1, 1)


def all_pairs(embeddings: Tensor, people: Tensor) -> Pairs:
    """Each picture with each other one, once: embeddings [pictures, D], people int64 [pictures]."""
    _check_embeddings(embeddings, people)
    first, second = torch.triu_indices(len(people), len(people), 1)
    scores = similarities(embeddings, embeddings)[first, second]
    both = torch.stack([people[first], people[second]], 1)
    return Pairs(scores, both[:, 0] == both[:, 1], both)


def _check_embeddings(embeddings: Tensor, people: Tensor) -> None:
    if embeddings.dim() != 2 or people.shape != embeddings.shape[:1]:
        shapes = f"{tuple(embeddings.shape)} and {tuple(people.shape)}"
        raise CourseError(f"embeddings and people have the shapes {shapes}; give [pictures, D] and [pictures]")
    if not embeddings.isfinite().all():
        raise CourseError("an embedding is nan or infinite: look at the pictures and at the network's parameters")


# ------------------------------------------------------------------ the curve


@dataclass(frozen=True)
class Curve:
    """The error rates for all thresholds; a pair is accepted where its score is at the threshold or above.

    thresholds: float64 [points], falling: infinity (nobody is let in), then each score that there is.
    fmr, fnmr: float64 [..., points] in [0, 1]: the first rises from 0 to 1, the second falls from 1 to 0. Leading
    dimensions are bootstrap draws.
    """

    thresholds: Tensor
    fmr: Tensor
    fnmr: Tensor

    def point(self, threshold: float | Tensor) -> tuple[Tensor, Tensor]:
        """(FMR, FNMR) at a threshold, which may come from other people; each [...]."""
        _check_threshold(threshold)
        same = int((self.thresholds >= threshold).sum()) - 1  # the lowest point at or above it decides as it does
        return self.fmr[..., same], self.fnmr[..., same]

    def threshold_at(self, fmr: float) -> float:
        """The lowest threshold at which at most this share of impostor pairs is let in (infinity: there is no other).

        Raises CourseError for a curve of several draws, which have a threshold each.
        """
        if self.fmr.dim() != 1:
            raise CourseError(f"the curve has the shape {tuple(self.fmr.shape)}: ask each draw for its threshold")
        return self.thresholds[self._last_at(fmr)].item()

    def fnmr_at(self, fmr: float) -> Tensor:
        """The share of genuine pairs shut out where at most this share of impostors is let in: [...]."""
        return self.fnmr.gather(-1, self._last_at(fmr).unsqueeze(-1)).squeeze(-1)

    def eer(self) -> Tensor:
        """The equal error rate: where FMR and FNMR cross, on the straight line between two points: [...].

        A footnote: nobody runs a system there, and two systems may change their order elsewhere.
        """
        above = self.fmr - self.fnmr  # from −1 to 1, never falling
        after = (above >= 0).to(torch.uint8).argmax(-1, keepdim=True)  # the first point; not 0, where it is −1
        before = after - 1
        low, high = above.gather(-1, before), above.gather(-1, after)
        share = -low / (high - low)
        start, end = self.fmr.gather(-1, before), self.fmr.gather(-1, after)
        return (start + share * (end - start)).squeeze(-1)

    def _last_at(self, fmr: float) -> Tensor:
        check_number("fmr", fmr, least=0)
        return (self.fmr <= fmr).sum(-1) - 1


def _check_threshold(threshold: float | Tensor) -> None:
    if math.isnan(threshold):  # no score reaches it, so nobody would be let in, without a word
        raise CourseError("the threshold is nan; give a number, or infinity to let nobody in")


def curve(scores: Tensor, genuine: Tensor) -> Curve:
    """The DET curve of scores [pairs] (more is more alike) and genuine bool [pairs]; equal scores stand together.

    Each threshold has both its rates: scikit-learn's `roc_curve(drop_intermediate=False)` gives (FMR, 1 − FNMR), its
    `det_curve` the part of the points between the ends. Raises CourseError for no pairs, pairs of one kind only, scores
    that are not finite, and shapes that do not fit.
    """
    scores, genuine = _checked(scores, genuine)
    order = scores.argsort(descending=True, stable=True)
    return weighted_curves(scores[order], genuine[order], torch.ones(1, len(scores), dtype=torch.float64), squeeze=True)


def _checked(scores: Tensor, genuine: Tensor) -> tuple[Tensor, Tensor]:
    scores, genuine = torch.as_tensor(scores).double().cpu(), torch.as_tensor(genuine).cpu()
    if scores.dim() != 1 or genuine.shape != scores.shape:
        shapes = f"{tuple(scores.shape)} and {tuple(genuine.shape)}"
        raise CourseError(f"scores and genuine have the shapes {shapes}; give [pairs] twice")
    if genuine.dtype != torch.bool:
        if not ((genuine == 0) | (genuine == 1)).all():
            raise CourseError("genuine says of each pair whether it is of one person; give bool, or 0 and 1")
        genuine = genuine == 1
    if not scores.isfinite().all():
        wrong = int((~scores.isfinite()).sum())
        raise CourseError(f"{wrong} of {len(scores)} scores are nan or infinite; look where the embeddings come from")
    for there, kind, remedy in (
        (genuine.any(), "genuine", "give two pictures of some person"),
        ((~genuine).any(), "impostor", "give pictures of two people"),
    ):
        if not there:
            raise CourseError(f"of {len(scores)} pairs none is {kind}, so there is no such error rate: {remedy}")
    return scores, genuine


def weighted_curves(scores: Tensor, genuine: Tensor, weights: Tensor, squeeze: bool = False) -> Curve:
    """The curves of pairs by falling score, where pairs count as often as weights [draws, pairs] say."""
    last = torch.ones(len(scores), dtype=torch.bool)
    last[:-1] = scores[1:] != scores[:-1]  # of equal scores
    rates = []
    for kind in (~genuine, genuine):
        accepted = (weights * kind).cumsum(1)
        share = accepted[:, last] / accepted[:, -1:]
        rates.append(F.pad(share, (1, 0)).clamp(max=1))
    fmr, fnmr = rates[0], 1 - rates[1]
    thresholds = F.pad(scores[last], (1, 0), value=math.inf)
    return Curve(thresholds, fmr[0], fnmr[0]) if squeeze else Curve(thresholds, fmr, fnmr)


# ------------------------------------------------------------------ how sure


@dataclass(frozen=True)
class Sure:
    """A number with its 95 % interval over people."""

    value: float
    lower: float
    upper: float
    people: int

    def __str__(self) -> str:
        told = f"{100 * self.value:.1f} % ({100 * self.lower:.1f} to {100 * self.upper:.1f}"
        return f"{told}, over {self.people} people)"


def over_people(pairs: Pairs, statistic: Statistic, *, draws: int = 1000, seed: int = 0) -> Sure:
    """A statistic of a curve, such as `Curve.eer`, with its 95 % interval over people.

    The interval is statistic ± t · s · √(G/(G − 1)), as of `statistics.cluster_bootstrap_interval`: s is the standard
    deviation of the draws, t is Student's with G − 1 degrees of freedom for G people; it is cut off at 0 and 1.
    draws: 2 or more. Raises NoInterval (a line, no number) for fewer than 5 people, and where all draws give the same
    value, such as 0 errors: they do not vary, but other people may.
    """
    return mean_over_people([pairs], statistic, draws=draws, seed=seed)


def difference_over_people(
    a: list[Pairs], b: list[Pairs], statistic: Statistic, *, draws: int = 1000, seed: int = 0
) -> Sure:
    """How much larger a statistic is for `a` than for `b`, on average over splits, with its 95 % interval over people.

    a, b: of each split the pairs of the same pictures, compared by two systems. A draw takes the same people for both,
    and for all splits: what is hard for both falls out. Raises NoInterval as `over_people` does.
    """
    if len(a) != len(b) or not a:
        raise CourseError(f"there are {len(a)} and {len(b)} splits; give the same ones for both, one or more")
    for one, other in zip(a, b, strict=True):
        if not torch.equal(one.people, other.people):
            raise CourseError("the two systems compare other pictures; give all_pairs of the same pictures twice")
    value = sum((statistic(x.curve()) - statistic(y.curve())).item() for x, y in zip(a, b, strict=True)) / len(a)
    found = bootstrap(a + b, [statistic], draws=draws, seed=seed)[0]
    return interval(value, found[: len(a)].mean(0) - found[len(a) :].mean(0), _people_in(a), least=-1.0)


def mean_over_people(splits: list[Pairs], statistic: Statistic, *, draws: int = 1000, seed: int = 0) -> Sure:
    """The mean of a statistic over splits of the same people, with its 95 % interval over people; see `over_people`.

    Raises CourseError where there is no split.
    """
    found = bootstrap(splits, [statistic], draws=draws, seed=seed)[0].mean(0)
    value = sum(statistic(one.curve()).item() for one in splits) / len(splits)
    return interval(value, found, _people_in(splits))


def _people_in(splits: list[Pairs]) -> int:
    return len(torch.cat([one.people.flatten() for one in splits]).unique())


def bootstrap(splits: list[Pairs], statistics: list[Statistic], *, draws: int = 1000, seed: int = 0) -> Tensor:
    """Each statistic of each split in each bootstrap draw of people: float64 [statistics, splits, draws].

    For the same people, splits and seed the draws are the same, whatever the scores: those of two systems pair off. A
    draw without a pair of one kind in some split has no rate there; it is drawn again.
    """
    check_number("draws", draws, least=2)
    if not splits:
        raise CourseError("there are pairs of 0 splits, which have no mean; give those of one or more")
    people = torch.cat([one.people.flatten() for one in splits]).unique()
    if len(people) < LEAST_CLUSTERS:
        raise NoInterval(
            f"there are {len(people)} people, too few for an interval that says something of others: give "
            f"{LEAST_CLUSTERS} or more"
        )
    generator = torch.Generator().manual_seed(seed)
    ready = [_sorted(one, people) for one in splits]
    found, left = [], draws
    while left > 0:
        drawn = torch.randint(len(people), (min(AT_ONCE, left), len(people)), generator=generator)
        times = torch.zeros(drawn.shape, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())
        weights = [_weights(times, genuine, both) for _, genuine, both in ready]
        fit = torch.stack(
            [(w[:, g].sum(1) > 0) & (w[:, ~g].sum(1) > 0) for w, (_, g, _) in zip(weights, ready, strict=True)]
        ).all(0)
        if not fit.any():
            continue
        curves = [weighted_curves(s, g, w[fit]) for w, (s, g, _) in zip(weights, ready, strict=True)]
        found.append(torch.stack([torch.stack([statistic(one) for one in curves]) for statistic in statistics]))
        left -= int(fit.sum())
    return torch.cat(found, 2)


def _sorted(pairs: Pairs, people: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, genuine, and where the two people stand in `people`, by falling score."""
    scores, genuine = _checked(pairs.scores, pairs.genuine)
    order = scores.argsort(descending=True, stable=True)
    return scores[order], genuine[order], torch.searchsorted(people, pairs.people[order].contiguous())


def _weights(times: Tensor, genuine: Tensor, both: Tensor) -> Tensor:
    """How often each pair counts: times [draws, people] → [draws, pairs].

    A genuine pair counts as often as its person was drawn. (Two copies of one person are the same pictures: no pairs.)
    """
    first = times[:, both[:, 0]]
    return torch.where(genuine, first, first * times[:, both[:, 1]])


def interval(value: float, draws: Tensor, people: int, *, least: float = 0.0, most: float = 1.0) -> Sure:
    """The 95 % interval of a value from its bootstrap draws [draws] over so many people; see `over_people`.

    Raises NoInterval where all draws are the same.
    """
    if draws.max() - draws.min() <= ROUNDING:
        raise NoInterval(
            f"{len(draws)} draws of {people} people all give {100 * value:.1f} %, so they cannot tell how far that is "
            "from the rate of others: test on more people"
        )
    half = half_width(draws, people)
    return Sure(value, max(value - half, least), min(value + half, most), people)


def half_width(draws: Tensor, people: int) -> float:
    """Half of the 95 % interval from bootstrap draws [draws] of so many people: t · s · √(G/(G − 1))."""
    return student_quantile(people - 1) * math.sqrt(people / (people - 1) * draws.var().item())


def on_other_people(pairs: Pairs, fmr: float, seed: int = 0) -> tuple[float, float]:
    """(FMR, FNMR) that follow when a threshold for this FMR is chosen on half of the people and used on the others.

    Both ways round, and averaged; the halves are drawn by chance. Raises CourseError where one lacks a kind of pairs.
    """
    people = pairs.people.unique()
    order = people[torch.randperm(len(people), generator=torch.Generator().manual_seed(seed))]
    halves = [pairs.of(order[: len(order) // 2]), pairs.of(order[len(order) // 2 :])]
    rates = []
    for one, other in (halves, halves[::-1]):
        threshold = one.curve().threshold_at(fmr)
        rates.append([rate.item() for rate in other.curve().point(threshold)])
    found = torch.tensor(rates, dtype=torch.float64).mean(0).tolist()
    return found[0], found[1]


def least_fmr(people: int) -> float:
    """The smallest FMR that so many people can tell of: one pair of people out of all that there are.

    Their pairs of pictures are many more, but those of the same two people say nearly the same.
    """
    if people < 2:
        raise CourseError(f"{people} people make no impostor pair: give pictures of two people or more")
    return 2 / (people * (people - 1))


def check_fmr(fmr: float, people: int) -> None:
    """Raise NoInterval (a line, no number) where an FMR is smaller than so many people can tell of."""
    check_number("fmr", fmr, above=0)
    if fmr < least_fmr(people):
        raise NoInterval(
            f"{people} people make {people * (people - 1) // 2} pairs of people, so an FMR of {100 * fmr:g} % would "
            f"hang on less than one of them: ask for {100 * least_fmr(people):.2g} % or more, or test on more people"
        )


# ------------------------------------------------------------------ identification


@dataclass(frozen=True)
class Searches:
    """Probes that were compared with a gallery.

    scores: float64 [probes], of the most similar picture there. right: bool [probes], whether it is of the probe's
    person. enrolled: bool [probes], whether the probe's person is there at all. size: people in the gallery.
    """

    scores: Tensor
    right: Tensor
    enrolled: Tensor
    size: int

    def fpir(self, threshold: float) -> float:
        """Of the probes of nobody there, the share for whom somebody is named. Raises CourseError without such."""
        _check_threshold(threshold)
        return self._share(~self.enrolled, self.scores >= threshold, "of a person who is not enrolled")

    def fnir(self, threshold: float) -> float:
        """Of the probes of somebody there, the share whose person is not named (first, and at the threshold)."""
        _check_threshold(threshold)
        return self._share(self.enrolled, ~(self.right & (self.scores >= threshold)), "of an enrolled person")

    def threshold_at(self, fpir: float) -> float:
        """The lowest threshold, out of the scores that there are, with at most this FPIR (infinity: none)."""
        check_number("fpir", fpir, least=0)
        for threshold in self.scores.unique().tolist():
            if self.fpir(threshold) <= fpir:
                return threshold
        return math.inf

    def fnir_at(self, fpir: float) -> float:
        """The FNIR at the lowest threshold with at most this FPIR."""
        return self.fnir(self.threshold_at(fpir))

    def _share(self, probes: Tensor, wrong: Tensor, kind: str) -> float:
        if not probes.any():
            raise CourseError(f"of {len(probes)} probes none is {kind}, so there is no such error rate: add some")
        return wrong[probes].double().mean().item()


def search(gallery: Tensor, gallery_people: Tensor, probes: Tensor, probe_people: Tensor) -> Searches:
    """Look for each probe [probes, D] in a gallery [pictures, D]; people int64 [probes] and [pictures]."""
    _check_embeddings(gallery, gallery_people)
    _check_embeddings(probes, probe_people)
    if not len(gallery) or not len(probes):
        raise CourseError(f"there are {len(gallery)} pictures enrolled and {len(probes)} probes: give one or more")
    if gallery.shape[1] != probes.shape[1]:
        sizes = f"{gallery.shape[1]} and {probes.shape[1]}"
        raise CourseError(f"gallery and probes are embeddings of {sizes} numbers: take both from one network")
    best = similarities(probes, gallery).max(1)
    enrolled = (probe_people.unsqueeze(1) == gallery_people).any(1)
    return Searches(best.values, gallery_people[best.indices] == probe_people, enrolled, len(gallery_people.unique()))


def open_set(embeddings: Tensor, people: Tensor, enrolled: int, generator: torch.Generator) -> Searches:
    """Enrol so many people, drawn by chance, with one picture each; all other pictures are probes.

    Raises CourseError where nobody would be left who is not enrolled.
    """
    _check_embeddings(embeddings, people)
    there = people.unique()
    if not 1 <= enrolled < len(there):
        raise CourseError(
            f"of {len(there)} people {enrolled} cannot be enrolled: give 1 to {len(there) - 1}, so that some are not"
        )
    chosen = there[torch.randperm(len(there), generator=generator)[:enrolled]]
    order = torch.randperm(len(people), generator=generator)
    first = torch.stack([order[(people[order] == one).nonzero()[0, 0]] for one in chosen])
    rest = torch.ones(len(people), dtype=torch.bool)
    rest[first] = False
    return search(embeddings[first], people[first], embeddings[rest], people[rest])


def drift(fmr: float | Tensor, size: int | Tensor) -> Tensor:
    """The FPIR that a gallery of `size` people would have if its comparisons were independent: 1 − (1 − FMR)^N."""
    fmr, size = torch.as_tensor(fmr, dtype=torch.float64), torch.as_tensor(size, dtype=torch.float64)
    if not ((fmr >= 0) & (fmr <= 1)).all() or not ((size >= 0) & size.isfinite()).all():
        raise CourseError("drift takes an FMR from 0 to 1 and a gallery of 0 people or more")
    return -torch.expm1(torch.special.xlog1py(size, -fmr))  # digits stay where FMR is tiny; 0 for nobody, also at FMR 1


def measured_drift(
    embeddings: Tensor, people: Tensor, threshold: float, sizes: list[int], *, draws: int = 20, seed: int = 0
) -> Tensor:
    """The FPIR at a threshold for galleries of these sizes, a mean over galleries drawn by chance: float64 [sizes].

    draws: galleries of each size, 1 or more.
    """
    check_number("draws", draws, least=1)
    if not sizes:
        raise CourseError("there is no size of a gallery to measure; give one or more")
    generator = torch.Generator().manual_seed(seed)
    found = [[open_set(embeddings, people, size, generator).fpir(threshold) for _ in range(draws)] for size in sizes]
    return torch.tensor(found, dtype=torch.float64).mean(1)
