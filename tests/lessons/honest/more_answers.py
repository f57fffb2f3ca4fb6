"""More answers to the exercises of notebook 12, written after the checks: right ones and slips of learners."""

import math

import torch

from mlcourse.lessons.honest import checks


def paired_by_numpy(a, b):
    d = (a - b).numpy()
    return torch.tensor(d.mean()), torch.tensor(1.96 * d.std(ddof=1) / len(d) ** 0.5)


def paired_by_sums(a, b):
    d = a - b
    n = len(d)
    variance = (d.square().sum() - d.sum() ** 2 / n) / (n - 1)
    return d.sum() / n, 1.96 * (variance / n).sqrt()


def wrong_by_where(differences, draws):
    means = differences[draws].mean(dim=-1)
    sign = torch.sign(differences.mean())
    votes = torch.where(means == 0, 0.5, (torch.sign(means) != sign).double())
    return votes.mean()


def wrong_in_halves(differences, draws):
    products = differences[draws].sum(1) * differences.sum()
    return ((products <= 0).double().mean() + (products < 0).double().mean()) / 2


def cluster_by_weights(values, clusters, draws):
    """How often each cluster was drawn is the weight of its values."""
    times = torch.stack([(draws == k).sum(1) for k in range(draws.shape[1])], 1).double()
    weights = times[:, clusters]
    means = (weights * values).sum(1) / weights.sum(1)
    return means.quantile(0.025), means.quantile(0.975)


def cluster_by_numpy(values, clusters, draws):
    import numpy as np

    v, c = values.numpy(), clusters.numpy()
    means = [np.concatenate([v[c == k] for k in row]).mean() for row in draws.tolist()]
    low, high = np.percentile(means, [2.5, 97.5])
    return torch.tensor(low), torch.tensor(high)


def balance_by_normalize(logits, rounds):
    p = torch.softmax(logits, dim=-1)
    for _ in range(rounds):
        p = torch.nn.functional.normalize(p, p=1, dim=0)
        p = torch.nn.functional.normalize(p, p=1, dim=1)
    return p


def balance_by_scales(logits, rounds):
    """Sinkhorn's own form: two vectors of scales, and the matrix itself never touched."""
    kernel = (logits - logits.amax()).exp()
    rows = 1 / kernel.sum(1)
    for _ in range(rounds):
        columns = len(logits) / logits.shape[1] / (kernel.T @ rows)
        rows = 1 / (kernel @ columns)
    return rows[:, None] * kernel * columns if rounds else logits.softmax(1)


def calibration_by_one_hot(confidence, right, bins):
    place = (confidence * bins).long().clamp(max=bins - 1)
    member = torch.nn.functional.one_hot(place, bins).to(confidence.dtype)
    return ((confidence - right.to(confidence.dtype)) @ member).abs().sum() / len(right)


def calibration_by_buckets(confidence, right, bins):
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype)
    place = (torch.bucketize(confidence, edges, right=True) - 1).clamp(max=bins - 1)
    total = 0.0
    for b in set(place.tolist()):
        here = place == b
        total = total + here.sum() * (confidence[here].mean() - right[here].double().mean()).abs()
    return total / len(confidence)


def sentence_in_steps(a, b, over_tasks, over_scripts, over_seeds):
    if over_tasks[0] > 0:
        better, worse, ends = a, b, [over_seeds[0], over_scripts[0]]
    elif over_tasks[1] < 0:
        better, worse, ends = b, a, [-over_seeds[1], -over_scripts[1]]
    else:
        return f"{a} and {b} cannot be told apart."
    if min(ends) > 0:
        scope = "networks trained anew on these scripts and for these networks on other scripts"
    elif ends[0] > 0:
        scope = "networks trained anew, on these scripts"
    else:
        scope = "these networks, on " + ("other scripts" if ends[1] > 0 else "these scripts")
    return f"{better} is better than {worse}, for {scope}."


def sentence_by_swapping(a, b, over_tasks, over_scripts, over_seeds):
    def turned(interval):
        return -interval[1], -interval[0]

    if over_tasks[1] < 0:
        return sentence_by_swapping(b, a, *map(turned, (over_tasks, over_scripts, over_seeds)))
    if over_tasks[0] <= 0:
        return f"{a} and {b} cannot be told apart."
    anew, others = over_seeds[0] > 0, over_scripts[0] > 0
    scopes = ["for networks trained anew, on these scripts"] * anew + ["for these networks, on other scripts"] * others
    return f"{a} is better than {b}, " + "; ".join(scopes or ["for these networks, on these scripts"])


def reference(name):
    return getattr(checks, name).reference


MEAN = "is told by the mean of all differences"


def share_against(sums, truth):
    """The share of draws on the other side of 0 than `truth`, ties as half."""
    return ((1 - sums.sign() * truth.sign()) / 2).mean()


def means_of_draws(values, clusters, draws):
    """The clusters are looked up once, not for each draw."""
    by = [values[clusters == k] for k in range(draws.shape[1])]
    return torch.stack([torch.cat([by[k] for k in row]).mean() for row in draws.tolist()])


def interval_of(low, high):
    """The interval from one percentile to another."""

    def interval(values, clusters, draws):
        means = means_of_draws(values, clusters, draws)
        return means.quantile(low), means.quantile(high)

    return interval


RIGHT = {
    "paired": [paired_by_numpy, paired_by_sums],
    "wrong_share": [wrong_by_where, wrong_in_halves],
    "cluster_interval": [cluster_by_weights, cluster_by_numpy],
    "balance": [balance_by_normalize, balance_by_scales],
    "calibration_error": [calibration_by_one_hot, calibration_by_buckets],
    "sentence": [sentence_in_steps, sentence_by_swapping],
}

WRONG = {
    "paired": {
        "√(s²)/n of variances": (lambda a, b: ((a - b).mean(), 1.96 * (a - b).var() / len(a)), "The variance divided"),
        "2 for 1.96": (lambda a, b: ((a - b).mean(), 2 * (a - b).std() / len(a) ** 0.5), ""),
        "99 %": (lambda a, b: ((a - b).mean(), 2.576 * (a - b).std() / len(a) ** 0.5), ""),
        "b's half": (lambda a, b: ((b - a).mean(), 1.96 * (a - b).std() / len(a) ** 0.5), "The sign is wrong"),
    },
    "wrong_share": {
        "complement": (lambda d, w: 1 - reference("wrong_share")(d, w), "that decides right"),
        "in percent": (lambda d, w: 100 * reference("wrong_share")(d, w), "percent"),
        "a tie is wrong": (lambda d, w: (d[w].sum(1) * d.sum() <= 0).double().mean(), "count as wrong here"),
        "at most half": (lambda d, w: min(reference("wrong_share")(d, w), 1 - reference("wrong_share")(d, w)), MEAN),
        "median": (lambda d, w: share_against(d[w].sum(1), d.median()), MEAN),
        "most tasks": (lambda d, w: share_against(d[w].sum(1), d.sign().sum()), MEAN),
        "most draws": (lambda d, w: share_against(d[w].sum(1), d[w].sum(1).sign().sum()), MEAN),
    },
    "cluster_interval": {
        "2 and 98": (interval_of(0.02, 0.98), "the percentiles 2 and 98"),
        "3 and 97": (interval_of(0.03, 0.97), "the percentiles 3 and 97"),
        "1 and 99": (interval_of(0.01, 0.99), "the percentiles 1 and 99"),
        "2.5 and 98": (interval_of(0.025, 0.98), ""),
        "2.5 %": (
            lambda v, c, w: tuple(means_of_draws(v, c, w).quantile(q) for q in (0.0125, 0.9875)),
            "97.5 % and more",
        ),
        "whole ± spread": (
            lambda v, c, w: tuple(v.mean() + sign * 1.96 * means_of_draws(v, c, w).std() for sign in (-1, 1)),
            "1.96 standard deviations of the draws",
        ),
        "68 %": (
            lambda v, c, w: tuple(means_of_draws(v, c, w).quantile(q) for q in (0.16, 0.84)),
            "",
        ),
    },
    "balance": {
        "no softmax": (lambda z, n: z.exp() / z.exp().sum(0) * len(z) / z.shape[1], ""),
        "twice as many rounds": (lambda z, n: reference("balance")(z, 2 * n), ""),
        "one more": (lambda z, n: reference("balance")(z, n + 1), "`rounds` + 1"),
    },
    "calibration_error": {
        "root of squares": (
            lambda c, r, b: (
                torch.zeros(b, dtype=c.dtype)
                .index_add(0, (c * b).long().clamp(max=b - 1), c - r.to(c.dtype))
                .square()
                .sum()
                .sqrt()
                / math.sqrt(len(c))
            ),
            "",
        ),
        "wrong ones": (lambda c, r, b: reference("calibration_error")(c, ~r, b), ""),
        "percent": (lambda c, r, b: 100 * reference("calibration_error")(c, r, b), "percent"),
    },
    "sentence": {
        "same": (
            lambda a, b, t, c, s: reference("sentence")(a, b, t, c, s).replace("cannot be told apart", "are the same"),
            "a better one may be hidden",
        ),
        "scripts decide": (
            lambda a, b, t, c, s: reference("sentence")(a, b, c, c, s),
            "not even these networks",
        ),
        "never anew": (
            lambda a, b, t, c, s: reference("sentence")(a, b, t, c, (-1.0, 1.0)),
            "the sentence may say networks trained anew",
        ),
        "both at once": (
            lambda a, b, t, c, s: reference("sentence")(a, b, t, c, s).replace(
                "for networks trained anew, on these scripts, and for these networks, on other scripts",
                "for networks trained anew, on other scripts",
            ),
            "each interval holds the other factor fixed",
        ),
        "denied": (lambda *all: "It is false that " + reference("sentence")(*all), "deny nothing"),
        "denied at the end": (lambda *all: reference("sentence")(*all)[:-1] + ", or not.", "deny nothing"),
        "both": (lambda a, b, *all: f"{a} is better than {b}, or they cannot be told apart.", "deny nothing"),
    },
}
