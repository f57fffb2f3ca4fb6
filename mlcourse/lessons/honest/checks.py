"""The checks of notebook 12: paired interval, wrong decisions, cluster bootstrap, balancing, calibration, a sentence.

Oracles are plain loops; they share no code with the package. The tests hold them against scipy and torchmetrics.

Lafargue, Smith, Vermet, Löwe, Reid, Gripon, Valmadre, *Oops, I Sampled it Again*, 2024,
https://arxiv.org/abs/2409.02850;
Cameron, Gelbach, Miller, *Bootstrap-Based Improvements for Inference with Clustered Errors*, 2008;
Guo et al., *On Calibration of Modern Neural Networks*, 2017, https://arxiv.org/abs/1706.04599.
"""

import math
import re
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mlcourse.teaching.checks import Check, close, relative_error
from mlcourse.teaching.oracles import Unnamed, first_mistake, randn, uniform

Tensors = dict[str, Tensor]
F64 = torch.float64
RTOL = 2e-4  # an answer that computes in float32 passes; the mistakes below are off by far more
_close = partial(close, rtol=RTOL)
_first = partial(first_mistake, rtol=RTOL)


# ------------------------------------------------------------------ 12.1 the paired interval


def _paired_inputs(n: int, better: float) -> Callable[[torch.Generator], Tensors]:
    """Accuracies in percent of two learners on the same n tasks: how hard a task is moves both."""

    def make(generator: torch.Generator) -> Tensors:
        hard = 12 * randn(generator, n)
        a, b = (70 + shift + hard + 4 * randn(generator, n) for shift in (better, 0.0))
        return {"a": a, "b": b}

    return make


def _two(made, words: str) -> tuple:
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise TypeError(f"it needs two tensors, {words}")
    return tuple(made)


def _paired_probe(answer: Callable, inputs: Tensors) -> Tensors:
    made = _two(answer(inputs["a"], inputs["b"]), "the mean difference and the half width of its interval")
    return {"difference": made[0], "half width": made[1]}


def _spread(values: Tensor, less: int = 1) -> Tensor:
    """The standard deviation, by its definition."""
    mean = sum(values.tolist()) / len(values)
    return torch.tensor(math.sqrt(sum((v - mean) ** 2 for v in values.tolist()) / (len(values) - less)), dtype=F64)


def _paired_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    a, b = inputs["a"], inputs["b"]
    n, d = len(a), a - b
    mean, s = d.sum() / n, _spread(d)
    half = 1.96 * s / math.sqrt(n)
    got, right = torch.stack([outputs["difference"], outputs["half width"]]).double(), torch.stack([mean, half])
    if _close(got, right):
        return None
    of_a, of_b = (1.96 * _spread(one) / math.sqrt(n) for one in (a, b))
    mistakes = {
        "This half width is that of two learners on different tasks: the variances of a and b are added. Both answer "
        "the same tasks, so take the differences first, and their spread.": (mean, (of_a**2 + of_b**2).sqrt()),
        "You add the half widths of a and b. Take the differences task by task first; what is hard for both goes "
        "away.": (mean, of_a + of_b),
        "You subtract two half widths. Take the differences task by task first, and then one half width of them.": (
            mean,
            of_a - of_b,
        ),
        "This is the spread of single tasks, 1.96 · s. The mean of n tasks is surer: divide by √n.": (mean, 1.96 * s),
        "You divide by n. The spread of a mean falls as 1/√n only.": (mean, 1.96 * s / n),
        "The factor 1.96 is missing: one standard error is an interval of 68 %.": (mean, half / 1.96),
        "You give the whole width of the interval. The half width is asked, so that it reads mean ± half.": (
            mean,
            2 * half,
        ),
        "The standard deviation divides by n here. Divide by n − 1, as `.std()` does by itself: the mean came from the "
        "same values.": (mean, 1.96 * _spread(d, 0) / math.sqrt(n)),
        "This is the variance, s². The half width needs its root, s.": (mean, 1.96 * s**2 / math.sqrt(n)),
        "The variance divided by √n: take the root of s² / n as a whole.": (mean, 1.96 * s**2 / n),
        "The sign is wrong: the difference is a − b, so it is above 0 where a is better.": (-mean, half),
        "These are differences without their sign, |a − b|. A task that b wins must count against a.": (
            d.abs().sum() / n,
            1.96 * _spread(d.abs()) / math.sqrt(n),
        ),
        "The half width is right, but the mean difference has lost its sign.": (mean.abs(), half),
        "You give the lower and the upper end. Asked are the mean and the half width.": (mean - half, mean + half),
    }
    found = _first(got, {words: torch.stack([torch.as_tensor(v) for v in pair]) for words, pair in mistakes.items()})
    if found:
        return found
    if _close(got[0], right[0]):
        return Unnamed(
            f"The mean difference is right; the half width is off by {relative_error(got[1], right[1]):.1e}."
        )
    return Unnamed(f"The mean difference is off by {relative_error(got[0], right[0]):.1e} of its size.")


def _paired_reference(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of a − b and 1.96 · s / √n."""
    difference = a - b
    return difference.mean(), 1.96 * difference.std() / len(difference) ** 0.5


paired = Check(
    exercise="12.1",
    title="The paired interval",
    inputs={"a is better": _paired_inputs(12, 6.0), "b is better": _paired_inputs(40, -4.0)},
    probe=_paired_probe,
    judge=_paired_judge,
    reference=_paired_reference,
)


# ------------------------------------------------------------------ 12.2 how often few tasks decide wrongly


def _wrong_inputs(sign: int) -> Callable[[torch.Generator], Tensors]:
    """Whole numbers, so that sums are exact and ties are ties; their mean has the sign, and a fifth of them is 0."""

    def make(generator: torch.Generator) -> Tensors:
        base = torch.tensor([2, 1, 1, 3, 0, 0, -1, -2, -1, 2, 0, -3, 1, 4, -1, 2, 0, -2, 1, 1])
        extra = torch.randint(1, 4, (6,), generator=generator)
        differences = sign * torch.cat([base, extra])[torch.randperm(26, generator=generator)]
        return {"differences": differences.to(F64), "draws": torch.randint(26, (150, 4), generator=generator)}

    return make


def _few_large_inputs(generator: torch.Generator) -> Tensors:
    """Three large differences decide the mean, 23 small ones point the other way: most draws have none of the large."""
    large = torch.randint(12, 16, (3,), generator=generator)
    differences = torch.cat([large, torch.full((23,), -1)])[torch.randperm(26, generator=generator)]
    return {"differences": differences.to(F64), "draws": torch.randint(26, (150, 4), generator=generator)}


def _wrong_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"share": answer(inputs["differences"], inputs["draws"])}


def _wrong_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    d, draws = inputs["differences"], inputs["draws"]
    truth = 1 if float(d.sum()) > 0 else -1
    sums = [sum(float(d[i]) for i in row) * truth for row in draws.tolist()]
    count = len(sums)
    wrong, ties = sum(one < 0 for one in sums) / count, sum(one == 0 for one in sums) / count
    got, right = outputs["share"].double(), torch.tensor(wrong + ties / 2, dtype=F64)
    if _close(got, right):
        return None
    singles = [float(one) * truth for one in d]
    votes = [sum((float(d[i]) * truth > 0) - (float(d[i]) * truth < 0) for i in row) for row in draws.tolist()]
    majority = sum(one > 0 for one in singles) / len(singles)  # on the side of the mean
    by_majority = 1 - wrong - ties / 2 if majority < 0.5 else math.nan
    mistakes = {
        "Which network is better is told by the mean of all differences. Neither the median nor most tasks nor most "
        "draws tell it, and more than half of all draws may be wrong.": by_majority,
        "You look whether a draw's mean is below 0. Where b is better on all tasks, a mean above 0 is the wrong one: "
        "compare with the sign of the mean of all differences.": 1 - wrong - ties / 2 if truth < 0 else math.nan,
        "Draws with a mean of exactly 0 count as right here. They decide nothing: count each as half, as if a coin "
        "was tossed.": wrong,
        "Draws with a mean of exactly 0 count as wrong here. They decide nothing: count each as half, as if a coin was "
        "tossed.": wrong + ties,
        "This is the share that decides right. Asked is the share that decides wrongly.": 1 - wrong - ties / 2,
        "You leave ties out of the count: the share is of all draws, and a tie counts as half.": wrong
        / max(1e-9, 1 - ties),
        "This is the share of single tasks that point the wrong way. First average over the tasks of a draw, then "
        "look at the sign.": sum(one < 0 for one in singles) / len(singles),
        "This is the share of single tasks that point the wrong way, with ties as half. First average over the tasks "
        "of a draw, then look at the sign.": sum((one < 0) + (one == 0) / 2 for one in singles) / len(singles),
        "You let the tasks of a draw vote. The mean decides, and a task that is won by much counts for more.": sum(
            (one < 0) + (one == 0) / 2 for one in votes
        )
        / count,
        "This is a number of draws, not a share: divide by how many draws there are.": (wrong + ties / 2) * count,
    }
    found = _first(got, {words: torch.tensor(value, dtype=F64) for words, value in mistakes.items()})
    return found or Unnamed(f"The share is {float(got):.4f}; counted one by one it is {float(right):.4f}.")


def _wrong_reference(differences: Tensor, draws: Tensor) -> Tensor:
    """The share of draws whose mean has another sign than the mean of all; a mean of 0 counts half."""
    agree = differences[draws].sum(1).sign() * differences.sum().sign()
    return ((1 - agree) / 2).mean()


wrong_share = Check(
    exercise="12.2",
    title="How often few tasks decide wrongly",
    inputs={
        "a is better": _wrong_inputs(1),
        "b is better": _wrong_inputs(-1),
        "few large differences": _few_large_inputs,
    },
    probe=_wrong_probe,
    judge=_wrong_judge,
    reference=_wrong_reference,
)


# ------------------------------------------------------------------ 12.3 the cluster bootstrap


def _cluster_inputs(sizes: tuple[int, ...], count: int) -> Callable[[torch.Generator], Tensors]:
    """Values of clusters of different sizes, the large ones higher, in mixed order; and draws of clusters."""

    def make(generator: torch.Generator) -> Tensors:
        clusters = torch.cat([torch.full((size,), place) for place, size in enumerate(sizes)])
        clusters = clusters[torch.randperm(len(clusters), generator=generator)]
        levels = 60 + 3 * torch.tensor(sizes, dtype=F64) + 4 * randn(generator, len(sizes))
        values = levels[clusters] + 5 * randn(generator, len(clusters))
        draws = torch.randint(len(sizes), (count, len(sizes)), generator=generator)
        return {"values": values, "clusters": clusters, "draws": draws}

    def told_apart(generator: torch.Generator) -> Tensors:
        """The same, drawn again where the percentiles 2 and 3 are as near to 2.5 as two rules for one percentile."""
        while True:
            inputs = make(generator)
            means = _means_of(**inputs).tolist()
            if not any(any(_near(_ends(means, share), means)) for share in (0.021, 0.029)):
                return inputs

    return told_apart


def _cluster_probe(answer: Callable, inputs: Tensors) -> Tensors:
    made = answer(inputs["values"], inputs["clusters"], inputs["draws"])
    lower, upper = _two(made, "the lower and the upper end")
    return {"lower": lower, "upper": upper}


def _percentile(values: list[float], share: float) -> float:
    """The percentile of values, between neighbours in proportion."""
    values = sorted(values)
    place = share * (len(values) - 1)
    below = min(int(place), len(values) - 2)
    return values[below] + (place - below) * (values[below + 1] - values[below])


def _ends(values: list[float], low: float = 0.025) -> Tensor:
    return torch.tensor([_percentile(values, low), _percentile(values, 1 - low)], dtype=F64)


def _cluster_means(inputs: Tensors) -> list[float]:
    """The mean over all values of the clusters of each draw, by loops."""
    v, c = inputs["values"].tolist(), inputs["clusters"].tolist()
    by = {k: [one for one, of in zip(v, c) if of == k] for k in set(c)}
    means = []
    for row in inputs["draws"].tolist():
        drawn = [one for k in row for one in by[k]]
        means.append(sum(drawn) / len(drawn))
    return means


def _near(got: Tensor, means: list[float]) -> list[bool]:
    """Whether each end is the percentile by one of the usual rules: between the neighbours of the exact place."""
    ordered, near = sorted(means), []
    for value, share in zip(got.tolist(), (0.025, 0.975)):
        place = share * (len(ordered) - 1)
        low, high = max(0, math.floor(place) - 1), min(len(ordered) - 1, math.ceil(place) + 1)
        slack = RTOL * abs(ordered[low])
        near.append(ordered[low] - slack <= value <= ordered[high] + slack)
    return near


def _near_ends(got: Tensor, means: list[float]) -> bool:
    return all(_near(got, means))


def _cluster_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    v, c, draws = inputs["values"], inputs["clusters"], inputs["draws"]
    got = torch.stack([outputs["lower"], outputs["upper"]]).double()
    means = _cluster_means(inputs)
    if _near_ends(got, means):
        return None
    if _near_ends(got.flip(0), means):
        return "The upper end stands first. Return the lower end, then the upper one."
    values, rows = v.tolist(), draws.tolist()  # plain numbers: a loop over tensors takes ten times as long
    by = [v[c == k].tolist() for k in range(int(c.max()) + 1)]
    totals, counts = [sum(one) for one in by], [len(one) for one in by]
    equal = [sum(totals[k] / counts[k] for k in row) / len(row) for row in rows]
    once = [sum(totals[k] for k in set(row)) / sum(counts[k] for k in set(row)) for row in rows]
    singles = [sum(values[k] for k in row) / len(row) for row in rows]
    firsts = [sum(by[k][0] for k in row) / len(row) for row in rows]
    mean, spread = sum(means) / len(means), float(_spread(torch.tensor(means, dtype=F64)))
    whole = float(v.mean())
    normal = torch.tensor([mean - 1.96 * spread, mean + 1.96 * spread], dtype=F64)
    of_tasks = 1.96 * float(_spread(v)) / math.sqrt(len(v))
    mistakes = {
        "You average the means of the clusters. Take the mean over all values of the drawn clusters, so that a large "
        "cluster counts for more.": _ends(equal),
        "A cluster that is drawn twice counts once here. It counts twice: take its values two times.": _ends(once),
        "You draw single values: `draws` holds numbers of clusters. Take all values of each drawn cluster.": _ends(
            singles
        ),
        "You take one value of each drawn cluster. Take all of them, whole.": _ends(firsts),
        "This is an interval of 90 %: 5 and 95. For 95 % take the percentiles 2.5 and 97.5.": _ends(means, 0.05),
        "These are the percentiles 2 and 98, an interval of 96 %. For 95 % take 2.5 and 97.5.": _ends(means, 0.02),
        "These are the percentiles 3 and 97, an interval of 94 %. For 95 % take 2.5 and 97.5.": _ends(means, 0.03),
        "These are the percentiles 1 and 99, an interval of 98 %. For 95 % take 2.5 and 97.5.": _ends(means, 0.01),
        "This is an interval of 97.5 % and more: cut 2.5 % off at each side.": _ends(means, 0.0125),
        "These are the smallest and the largest mean. One odd draw decides there: take the percentiles.": _ends(
            means, 0.0
        ),
        "You take the mean ± 1.96 standard deviations of the draws. Asked are percentiles, which need not lie the same "
        "way on both sides.": normal,
        "You take the mean of all values ± 1.96 standard deviations of the draws. Asked are percentiles.": normal
        - mean
        + whole,
        "You divide the spread of the draws by the root of their number. More draws do not make new scripts: the "
        "draws' spread itself is the answer.": torch.tensor(
            [mean - 1.96 * spread / len(means) ** 0.5, mean + 1.96 * spread / len(means) ** 0.5], dtype=F64
        ),
        "This is the interval over tasks, ± 1.96 · s / √n: the clusters are not used.": torch.tensor(
            [whole - of_tasks, whole + of_tasks], dtype=F64
        ),
        "These are percentiles of the single values. Take percentiles of the draws' means.": _ends(v.tolist()),
    }
    found = _first(got, mistakes)
    if found:
        return found
    return Unnamed(
        f"The ends are {float(got[0]):.3f} and {float(got[1]):.3f}. A loop over the draws finds "
        f"{_percentile(means, 0.025):.3f} and {_percentile(means, 0.975):.3f}."
    )


def _means_of(values: Tensor, clusters: Tensor, draws: Tensor) -> Tensor:
    """The mean over whole clusters for each draw."""
    zeros = values.new_zeros(int(clusters.max()) + 1)
    sums, counts = (zeros.index_add(0, clusters, one) for one in (values, torch.ones_like(values)))
    return sums[draws].sum(1) / counts[draws].sum(1)


def _cluster_reference(values: Tensor, clusters: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """The 2.5 and 97.5 percentiles of the mean over whole clusters, drawn as `draws` [B, C] says."""
    means = _means_of(values, clusters, draws)
    lower, upper = torch.quantile(means, means.new_tensor([0.025, 0.975]))
    return lower, upper


cluster_interval = Check(
    exercise="12.3",
    title="The cluster bootstrap",
    inputs={
        "six clusters": _cluster_inputs((1, 3, 6, 9, 2, 7), 1000),
        "seven clusters": _cluster_inputs((2, 8, 1, 5, 12, 3, 9), 1000),
    },
    probe=_cluster_probe,
    judge=_cluster_judge,
    reference=_cluster_reference,
)


# ------------------------------------------------------------------ 12.4 a head that knows that queries are balanced


def _balance_inputs(queries: int, way: int, rounds: int) -> Callable[[torch.Generator], Tensors]:
    def make(generator: torch.Generator) -> Tensors:
        liked = torch.linspace(-1.0, 1.5, way, dtype=F64)  # the network likes the last classes too much
        return {"logits": 2 * randn(generator, queries, way) + liked, "rounds": torch.tensor(rounds)}

    return make


def _balance_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"probabilities": answer(inputs["logits"], int(inputs["rounds"]))}


def _balanced(
    logits: Tensor, rounds: int, *, rows_first: bool = False, rows: bool = True, start: Tensor | None = None
) -> Tensor:
    """By loops: in each round scale every column, then every row. start: other probabilities to begin with."""
    p = [[math.exp(v - max(row)) for v in row] for row in logits.tolist()]
    p = [[v / sum(row) for v in row] for row in p] if start is None else start.tolist()
    share = len(p) / len(p[0])

    def by_columns(p):
        sums = [sum(row[k] for row in p) for k in range(len(p[0]))]
        return [[v * share / total for v, total in zip(row, sums)] for row in p]

    def by_rows(p):
        return [[v / sum(row) for v in row] for row in p]

    steps = [by_columns, by_rows] if rows else [by_columns]
    for _ in range(rounds):
        for step in steps[::-1] if rows_first else steps:
            p = step(p)
    return torch.tensor(p, dtype=F64)


def _balance_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    logits, rounds = inputs["logits"], int(inputs["rounds"])
    got, right = outputs["probabilities"], _balanced(logits, rounds)
    if _close(got, right):
        return None
    mistakes = {
        "Nothing was balanced: these are the probabilities as they came.": logits.softmax(1),
        "Only one round was taken, whatever `rounds` says.": _balanced(logits, 1),
        "The rows are scaled first and the columns last. End with the rows, so that each query has probabilities that "
        "sum to 1.": _balanced(logits, rounds, rows_first=True),
        "The rows are never scaled: after each round let each row sum to 1 again.": _balanced(
            logits, rounds, rows=False
        ),
        "Each column sums to 1 at the end. The rows come last: each query has probabilities that sum to 1.": (
            lambda p: p / p.sum(0)
        )(_balanced(logits, rounds)),
        "The softmax goes over the queries (dimension 0). Each query has probabilities of its own: dimension 1.": (
            _balanced(logits, rounds, start=logits.softmax(0))
        ),
        "You subtract from the logits and never scale probabilities: this only takes the mean of each class away.": (
            logits - logits.mean(0)
        ).softmax(1),
        "These are the logarithms. Return probabilities.": right.log(),
        "These are answers, 0 or 1. Return the probabilities.": torch.nn.functional.one_hot(
            right.argmax(1), right.shape[1]
        ).to(F64),
        "You take the softmax once more at the end. The scaled rows are probabilities already.": right.softmax(1),
    }
    found = _first(got, mistakes)
    if found:
        return found
    return Unnamed(
        f"The probabilities are off by {relative_error(got, right):.1e}; your first row sums to "
        f"{float(got[0].sum()):.3f}."
    )


def _balance_reference(logits: Tensor, rounds: int) -> Tensor:
    """In each round: columns to queries/way, then rows to 1 (Sinkhorn and Knopp)."""
    p = logits.softmax(1)
    for _ in range(rounds):
        p = p / p.sum(0) * (len(p) / p.shape[1])
        p = p / p.sum(1, keepdim=True)
    return p


balance = Check(
    exercise="12.4",
    title="A head that expects balanced queries",
    inputs={"two rounds": _balance_inputs(6, 3, 2), "four rounds": _balance_inputs(10, 4, 4)},
    probe=_balance_probe,
    judge=_balance_judge,
    reference=_balance_reference,
)


# ------------------------------------------------------------------ 12.5 the expected calibration error


def _calibration_inputs(n: int, bins: int) -> Callable[[torch.Generator], Tensors]:
    """Too sure in the middle and too modest at the top; some bins are empty, and three answers are quite sure."""

    def make(generator: torch.Generator) -> Tensors:
        confidence = uniform(generator, 0.34, 0.999, n)
        truth = torch.where(confidence < 0.8, confidence - 0.25, (confidence + 0.2).clamp(max=1))
        right = torch.rand(n, generator=generator, dtype=F64) < truth
        confidence[:3], right[:3] = 1.0, torch.tensor([False, True, False])  # as a saturated softmax gives
        return {"confidence": confidence, "right": right, "bins": torch.tensor(bins)}

    return make


def _calibration_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"error": answer(inputs["confidence"], inputs["right"], int(inputs["bins"]))}


def _by_bin(inputs: Tensors) -> list[tuple[int, float, float]]:
    """(answers, mean confidence, share right) of each bin that is not empty."""
    bins, found = int(inputs["bins"]), {}
    for sure, right in zip(inputs["confidence"].tolist(), inputs["right"].tolist()):
        found.setdefault(min(int(sure * bins), bins - 1), []).append((sure, float(right)))
    return [(len(rows), *(sum(column) / len(rows) for column in zip(*rows))) for _, rows in sorted(found.items())]


def _calibration_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    rows, n, bins = _by_bin(inputs), len(inputs["right"]), int(inputs["bins"])
    got = outputs["error"].double()
    right = sum(count / n * abs(sure - true) for count, sure, true in rows)
    if _close(got, torch.tensor(right, dtype=F64)):
        return None
    sure, true = inputs["confidence"], inputs["right"].to(F64)
    centres = {
        place: [(float(s), float(t)) for s, t in zip(sure, true) if min(int(float(s) * bins), bins - 1) == place]
        for place in range(bins)
    }
    by_centre = sum(
        len(some) / n * abs((place + 0.5) / bins - sum(t for _, t in some) / len(some))
        for place, some in centres.items()
        if some
    )
    gaps = [abs(s - t) for _, s, t in rows]
    below = {name: inputs[name][sure < 1] for name in ("confidence", "right")} | {"bins": inputs["bins"]}
    without = sum(count * abs(s - t) for count, s, t in _by_bin(below))
    quite = float((sure - true)[sure == 1].sum().abs())
    mistakes = {
        "A confidence of exactly 1 gets a bin of its own here, as in torchmetrics. That is another convention; in this "
        "exercise it falls into the last bin.": (without + quite) / n,
        "A confidence of exactly 1 is in no bin here. It falls into the last one.": without / n,
        "A confidence of exactly 1 is in no bin here, and is not counted. It falls into the last one.": without
        / len(below["right"]),
        "All bins count the same here. Weight each by its share of the answers, n_b / n.": sum(gaps) / len(gaps),
        "You divide by the number of bins, the empty ones too. Weight each bin by its share of the answers.": sum(gaps)
        / bins,
        "This is the sum of the gaps. Weight each bin by its share of the answers, n_b / n.": sum(gaps),
        "This is the largest gap of a bin (the maximum calibration error). Asked is the weighted mean.": max(gaps),
        "The gaps have signs here, so too sure and too modest cancel. Take the absolute value in each bin.": sum(
            count / n * (s - t) for count, s, t in rows
        ),
        "The gaps have signs here (accuracy minus confidence), so too sure and too modest cancel. Take the absolute "
        "value in each bin.": sum(count / n * (t - s) for count, s, t in rows),
        "This is |mean confidence − accuracy| over all answers. Too sure and too modest cancel: compare bin by "
        "bin.": float((sure.mean() - true.mean()).abs()),
        "This is the mean of |confidence − right| over single answers. One answer is 0 or 1, never 0.7: average within "
        "a bin first.": float((sure - true).abs().mean()),
        "You take the middle of each bin. Take the mean confidence of the answers in it.": by_centre,
        "The gaps are squared. The expected calibration error takes their absolute value.": sum(
            count / n * (s - t) ** 2 for count, s, t in rows
        ),
        "You multiply by the number of answers of a bin and never divide by all of them.": right * n,
    }
    found = _first(got, {words: torch.tensor(value, dtype=F64) for words, value in mistakes.items()})
    return found or Unnamed(f"The error is {float(got):.5f}; counted bin by bin it is {right:.5f}.")


def _calibration_reference(confidence: Tensor, right: Tensor, bins: int) -> Tensor:
    """Σ over bins of n_b/n · |mean confidence − share right|."""
    place = (confidence * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=confidence.dtype).index_add(0, place, confidence - right.to(confidence.dtype))
    return gap.abs().sum() / len(confidence)


calibration_error = Check(
    exercise="12.5",
    title="The expected calibration error",
    inputs={"60 answers": _calibration_inputs(60, 10), "200 answers": _calibration_inputs(200, 15)},
    probe=_calibration_probe,
    judge=_calibration_judge,
    reference=_calibration_reference,
)


# ------------------------------------------------------------------ 12.6 one sentence

TIED = "cannot be told apart"
OLD_NETS, NEW_NETS = "these networks", "networks trained anew"
OLD_SCRIPTS, NEW_SCRIPTS = "these scripts", "other scripts"
NOBODY, FIRST, SECOND, EQUAL = range(4)


def _one_claim(over_tasks: tuple, over_scripts: tuple, over_seeds: tuple) -> tuple[int, int, int, int]:
    """Who is better; 1 or 0: for networks trained anew, on other scripts, and both at once (which no interval says)."""
    if over_tasks[0] <= 0 <= over_tasks[1]:
        return NOBODY, 0, 0, 0
    sign = 1 if over_tasks[0] > 0 else -1
    carried = [min(sign * low, sign * high) > 0 for low, high in (over_seeds, over_scripts)]
    return (FIRST if sign > 0 else SECOND), int(carried[0]), int(carried[1]), 0


KINDS = (  # (over tasks, over scripts, over seeds): the sign of an interval, 0 where it holds 0
    (1, 1, 1), (1, 0, 1), (1, 1, 0), (1, 0, 0), (-1, -1, -1), (-1, 0, -1), (-1, -1, 0), (-1, 0, 0),
    (0, 0, 0), (0, 1, 1), (0, -1, 0), (1, -1, 1), (1, 1, -1), (-1, 1, -1),
)  # fmt: skip


def _sentence_inputs(generator: torch.Generator) -> Tensors:
    """Intervals (lower, upper) of a − b in points: over tasks, over scripts, over seeds, of all kinds."""
    rows = []
    for place in torch.randperm(len(KINDS), generator=generator).tolist():
        row = []
        for sign in KINDS[place]:
            near, far = sorted(uniform(generator, 0.2, 3.0, 2).tolist())
            skew = float(uniform(generator, -0.1, 0.1))
            row.append({1: (near, near + far), -1: (-near - far, -near), 0: (-near + skew, near + skew)}[sign])
        rows.append(row)
    return {"intervals": torch.tensor(rows, dtype=F64)}


A, B = "the square", "the cosine"


def read_sentence(said: str, a: str, b: str) -> tuple[int, int, int, int]:
    """What a sentence claims: (who is better, networks, scripts, both at once), as codes. TypeError: cannot be read.

    It may name two scopes: the first networks go with the first scripts, the second with the second.
    """
    if not isinstance(said, str):
        raise TypeError(f"it needs one sentence, a str, and not {type(said).__name__}")
    text = " ".join(said.lower().replace("’", "'").split())
    if re.search(r"\b(equally|are equal|are the same|there is no difference|do not differ)\b", text):
        return EQUAL, 0, 0, 0
    if TIED in text and " better than " not in text:
        return NOBODY, 0, 0, 0
    if TIED in text or re.search(r"\b(false|not|never|no|nor)\b|n't\b", text):
        raise TypeError(f"the check cannot read {said!r}: say either who is better or `{TIED}`, and deny nothing")
    who = {f"{a} is better than {b}": FIRST, f"{b} is better than {a}": SECOND}
    winners = [code for words, code in who.items() if words in text]
    if len(winners) != 1:
        raise TypeError(
            f"the check cannot read {said!r}: write `{a} is better than {b}`, the other way round, or `{TIED}`"
        )
    named = []
    for narrow, wide in ((OLD_NETS, NEW_NETS), (OLD_SCRIPTS, NEW_SCRIPTS)):
        there = [words == wide for words in re.findall(f"{narrow}|{wide}", text)]
        if not there:
            raise TypeError(f"the check cannot read {said!r}: say either `{narrow}` or `{wide}`")
        named.append(there)
    if len(named[0]) != len(named[1]):
        raise TypeError(f"the check cannot read {said!r}: name the networks and the scripts of each scope")
    together = any(anew and others for anew, others in zip(*named))
    return winners[0], int(any(named[0])), int(any(named[1])), int(together)


def _sentence_probe(answer: Callable, inputs: Tensors) -> Tensors:
    claims = []
    for row in inputs["intervals"].tolist():
        claims.append(read_sentence(answer(A, B, *(tuple(pair) for pair in row)), A, B))
    return {"claims": torch.tensor(claims)}


def _sentence_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    rows = [[tuple(pair) for pair in row] for row in inputs["intervals"].tolist()]
    got = [tuple(row) for row in outputs["claims"].tolist()]
    right = [_one_claim(*row) for row in rows]
    if got == right:
        return None
    swapped = [(who, scripts, nets, 0) for who, nets, scripts, _ in right]
    other = [({FIRST: SECOND, SECOND: FIRST}.get(who, who), *scopes) for who, *scopes in right]
    if got == swapped:
        return (
            "The two scopes are mixed up: the interval over scripts speaks of other scripts, the one over seeds of "
            "networks trained anew."
        )
    if got == other:
        return "The winner is the wrong one: all intervals are of a − b, so above 0 means that a is better."
    pairs = list(zip(got, right, rows))
    if any(g[0] == EQUAL for g, _, _ in pairs):
        return (
            "An interval that holds 0 does not show that two methods are equal: a better one may be hidden in it. Say "
            f"that they {TIED}."
        )
    if any(r[0] == NOBODY and g[0] != NOBODY for g, r, _ in pairs):
        row = next(row for g, r, row in pairs if r[0] == NOBODY and g[0] != NOBODY)
        return (
            f"Over tasks the interval goes from {row[0][0]:.2f} to {row[0][1]:.2f}. It holds 0, so not even these "
            f"networks on these scripts have a winner: say that they {TIED}."
        )
    if any(r[0] != NOBODY and g[0] == NOBODY for g, r, _ in pairs):
        return (
            "You say less than the data carry. Where the interval over tasks lies on one side of 0, these networks do "
            "differ on these scripts, even if an interval over scripts or seeds holds 0."
        )
    if any(g[0] != r[0] for g, r, _ in pairs):
        return "In some cases the winner is the wrong one: look at the side of 0 on which the interval over tasks lies."
    for place, name, words in ((1, "seeds", NEW_NETS), (2, "scripts", NEW_SCRIPTS)):
        many = [(row[3 - place], row[0]) for g, r, row in pairs if g[place] > r[place]]
        opposite = [one for one, tasks in many if (one[0] > 0) != (tasks[0] > 0) and one[0] * one[1] > 0]
        if many and len(opposite) == len(many):
            return (
                f"Where the interval over {name} lies on the other side of 0 than the one over tasks, it does not "
                f"carry the same winner to {words}."
            )
        if many:
            return f"You claim {words}, but the interval over {name} holds 0. The one over tasks cannot carry that."
    if any(g[1:3] != r[1:3] for g, r, _ in pairs):
        return _too_modest(pairs)
    return (
        f"{NEW_NETS.capitalize()} on {NEW_SCRIPTS} at once is too much: each interval holds the other factor fixed. "
        f"Say two scopes: for {NEW_NETS}, on {OLD_SCRIPTS}, and for {OLD_NETS}, on {NEW_SCRIPTS}."
    )


def _too_modest(pairs: list[tuple]) -> str:
    """The words for a claim that leaves out a scope. pairs: (claimed, right, intervals)."""
    place = 1 if any(g[1] < r[1] for g, r, _ in pairs) else 2
    name, words = (("seeds", NEW_NETS), ("scripts", NEW_SCRIPTS))[place - 1]
    return f"You claim less than the data carry: where the interval over {name} agrees, the sentence may say {words}."


def sentence_of(a: str, b: str, over_tasks: tuple, over_scripts: tuple, over_seeds: tuple) -> str:
    """The strongest sentence that three intervals (lower, upper) of a − b carry, in points."""
    lower, upper = over_tasks
    if lower <= 0 <= upper:
        return f"{a} and {b} {TIED}."
    winner, loser, sign = (a, b, 1) if lower > 0 else (b, a, -1)

    def agrees(interval: tuple) -> bool:
        return min(sign * interval[0], sign * interval[1]) > 0

    scopes = []
    if agrees(over_seeds):
        scopes.append(f"for {NEW_NETS}, on {OLD_SCRIPTS}")
    if agrees(over_scripts):
        scopes.append(f"for {OLD_NETS}, on {NEW_SCRIPTS}")
    return f"{winner} is better than {loser}, {', and '.join(scopes) or f'for {OLD_NETS}, on {OLD_SCRIPTS}'}."


sentence = Check(
    exercise="12.6",
    title="One sentence that the data carry",
    inputs=_sentence_inputs,
    probe=_sentence_probe,
    judge=_sentence_judge,
    reference=sentence_of,
)
