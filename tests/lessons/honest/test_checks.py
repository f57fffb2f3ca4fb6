"""The checks of notebook 12 against right answers written differently, mistakes that learners make, and libraries."""

import itertools
import math

import numpy as np
import pytest
import torch
from check_helpers import SEEDS, assert_check

from mlcourse.lessons.honest import checks

F64 = torch.float64


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


# ------------------------------------------------------------------ 12.1 the paired interval


def paired_by_loop(a, b):
    d = [float(x - y) for x, y in zip(a, b)]
    mean = sum(d) / len(d)
    s2 = sum((one - mean) ** 2 for one in d) / (len(d) - 1)
    return torch.tensor(mean), torch.tensor(1.96 * math.sqrt(s2 / len(d)))


def paired_float32(a, b):
    d = (a - b).float()
    return d.mean(), 1.96 * d.std(unbiased=True) / math.sqrt(len(d))


def paired_by_variances(a, b):
    """The variance of a difference, by the covariance of its parts."""
    joint = torch.cov(torch.stack([a, b]))
    return a.mean() - b.mean(), 1.96 * ((joint[0, 0] + joint[1, 1] - 2 * joint[0, 1]) / len(a)).sqrt()


def half_of(one):
    return 1.96 * one.std() / len(one) ** 0.5


def paired_with(change):
    def paired_with_a_mistake(a, b):
        return change(a, b, a - b)

    return paired_with_a_mistake


def paired_in_place(a, b):
    a -= b
    return a.mean(), half_of(a)


def test_paired():
    assert_check(
        checks.paired,
        right=[paired_by_loop, paired_float32, paired_by_variances],
        wrong={
            "unpaired": (
                paired_with(lambda a, b, d: (d.mean(), (half_of(a) ** 2 + half_of(b) ** 2).sqrt())),
                "the variances of a and b are added",
            ),
            "added": (paired_with(lambda a, b, d: (d.mean(), half_of(a) + half_of(b))), "You add the half widths"),
            "taken off": (paired_with(lambda a, b, d: (d.mean(), half_of(a) - half_of(b))), "subtract two half"),
            "no root": (paired_with(lambda a, b, d: (d.mean(), 1.96 * d.std())), "the spread of single tasks"),
            "by n": (paired_with(lambda a, b, d: (d.mean(), 1.96 * d.std() / len(d))), "falls as 1/√n only"),
            "one error": (paired_with(lambda a, b, d: (d.mean(), d.std() / len(d) ** 0.5)), "1.96 is missing"),
            "whole": (paired_with(lambda a, b, d: (d.mean(), 2 * half_of(d))), "the whole width"),
            "n": (
                paired_with(lambda a, b, d: (d.mean(), 1.96 * d.std(unbiased=False) / len(d) ** 0.5)),
                "Divide by n − 1",
            ),
            "variance": (paired_with(lambda a, b, d: (d.mean(), 1.96 * d.var() / len(d) ** 0.5)), "needs its root"),
            "b - a": (paired_with(lambda a, b, d: (-d.mean(), half_of(d))), "The sign is wrong"),
            "absolute": (paired_with(lambda a, b, d: (d.abs().mean(), half_of(d.abs()))), "without their sign"),
            "ends": (
                paired_with(lambda a, b, d: (d.mean() - half_of(d), d.mean() + half_of(d))),
                "You give the lower and the upper end",
            ),
            "odd": (paired_with(lambda a, b, d: (d.mean(), 1.23 * half_of(d))), "the half width is off by"),
            "odd mean": (paired_with(lambda a, b, d: (1.1 * d.mean(), half_of(d))), "The mean difference is off by"),
            "one number": (paired_with(lambda a, b, d: d.mean()), "it needs two tensors"),
            "floats": (paired_with(lambda a, b, d: (float(d.mean()), float(half_of(d)))), "is a float"),
            "single tasks": (paired_with(lambda a, b, d: (d, half_of(d))), "has shape"),
            "in place": (paired_in_place, "in place"),
        },
    )


def test_the_paired_interval_is_that_of_scipy_for_many_tasks():
    """Student's t by scipy, with the factor of its quantile taken out."""
    from scipy import stats

    given = checks.paired.problems(0)[0][1]
    found = stats.ttest_rel(given["a"].numpy(), given["b"].numpy()).confidence_interval(0.95)
    n = len(given["a"])
    mean, half = checks.paired.reference(given["a"], given["b"])
    assert float(mean) == pytest.approx((found.low + found.high) / 2)
    assert float(half) == pytest.approx((found.high - found.low) / 2 * 1.96 / stats.t.ppf(0.975, n - 1))


# ------------------------------------------------------------------ 12.2 wrong decisions


def wrong_by_loop(differences, draws):
    truth = differences.sum()
    count = 0.0
    for row in draws:
        total = differences[row].sum() * truth
        count += 1.0 if total < 0 else 0.5 if total == 0 else 0.0
    return torch.tensor(count / len(draws), dtype=F64)


def wrong_float32(differences, draws):
    means = differences.float()[draws].mean(1) * differences.float().mean().sign()
    return (means < 0).float().mean() + (means == 0).float().mean() / 2


def wrong_with(change):
    """change(sums of draws, in the direction of the truth; differences likewise; draws)."""

    def wrong_share_with_a_mistake(differences, draws):
        truth = differences.sum().sign()
        return change(differences[draws].sum(1) * truth, differences * truth, draws)

    return wrong_share_with_a_mistake


def share(some):
    return some.double().mean()


def always_a(differences, draws):
    means = differences[draws].mean(1)
    return share(means < 0) + share(means == 0) / 2


def test_wrong_share():
    assert_check(
        checks.wrong_share,
        right=[wrong_by_loop, wrong_float32],
        wrong={
            "ties right": (wrong_with(lambda s, d, w: share(s < 0)), "count as right here"),
            "ties wrong": (wrong_with(lambda s, d, w: share(s <= 0)), "count as wrong here"),
            "right ones": (wrong_with(lambda s, d, w: share(s > 0) + share(s == 0) / 2), "that decides right"),
            "no ties": (wrong_with(lambda s, d, w: share(s[s != 0] < 0)), "You leave ties out"),
            "always a": (always_a, "compare with the sign of the mean of all"),
            "singles": (wrong_with(lambda s, d, w: share(d < 0)), "single tasks that point the wrong way. First"),
            "singles, ties": (
                wrong_with(lambda s, d, w: share(d < 0) + share(d == 0) / 2),
                "with ties as half. First average",
            ),
            "votes": (
                wrong_with(lambda s, d, w: ((1 - d[w].sign().sum(1).sign()) / 2).mean()),
                "You let the tasks of a draw vote",
            ),
            "a count": (wrong_with(lambda s, d, w: ((1 - s.sign()) / 2).sum()), "a number of draws, not a share"),
            "odd": (wrong_with(lambda s, d, w: share(s < -2)), "counted one by one"),
            "of each": (wrong_with(lambda s, d, w: (1 - s.sign()) / 2), "shape"),
        },
    )


def test_four_tasks_by_hand():
    differences = torch.tensor([3.0, -1.0, 1.0, 0.0], dtype=F64)
    draws = torch.tensor([[0, 1], [1, 1], [1, 2], [3, 3]])  # sums 2, −2, 0, 0
    assert float(checks.wrong_share.reference(differences, draws)) == pytest.approx((0 + 1 + 0.5 + 0.5) / 4)
    assert float(checks.wrong_share.reference(-differences, draws)) == pytest.approx(0.5)


# ------------------------------------------------------------------ 12.3 the cluster bootstrap


def cluster_by_loop(values, clusters, draws):
    means = cluster_means(values, clusters, draws)
    return means.quantile(0.025), means.quantile(0.975)


def cluster_float32(values, clusters, draws):
    lower, upper = cluster_by_loop(values.float(), clusters, draws)
    return lower, upper


def cluster_by_sorting(values, clusters, draws):
    """Percentiles without interpolation, as many write them."""
    means = cluster_means(values, clusters, draws).sort().values
    cut = int(0.025 * len(means))
    return means[cut], means[len(means) - 1 - cut]


def cluster_means(values, clusters, draws):
    by = [values[clusters == k] for k in range(draws.shape[1])]  # once, not for each draw
    return torch.stack([torch.cat([by[k] for k in row]).mean() for row in draws.tolist()])


def cluster_with(change, of=cluster_means):
    def cluster_interval_with_a_mistake(values, clusters, draws):
        return change(of(values, clusters, draws))

    return cluster_interval_with_a_mistake


def ends(means, low=0.025):
    return means.quantile(low), means.quantile(1 - low)


def means_of_means(values, clusters, draws):
    each = torch.stack([values[clusters == k].mean() for k in range(draws.shape[1])])
    return each[draws].mean(1)


def once_each(values, clusters, draws):
    return torch.stack([values[torch.isin(clusters, row)].mean() for row in draws])


def one_of_each(values, clusters, draws):
    each = torch.stack([values[clusters == k][0] for k in range(draws.shape[1])])
    return each[draws].mean(1)


def around(means, half):
    return means.mean() - half, means.mean() + half


def tasks_only(values, clusters, draws):
    half = 1.96 * values.std() / len(values) ** 0.5
    return values.mean() - half, values.mean() + half


def test_cluster_interval():
    assert_check(
        checks.cluster_interval,
        right=[cluster_by_loop, cluster_float32, cluster_by_sorting],
        wrong={
            "means of means": (cluster_with(ends, means_of_means), "You average the means of the clusters"),
            "once": (cluster_with(ends, once_each), "drawn twice counts once here"),
            "single values": (cluster_with(ends, lambda v, c, d: v[d].mean(1)), "You draw single values"),
            "one of each": (cluster_with(ends, one_of_each), "You take one value of each"),
            "90": (cluster_with(lambda m: ends(m, 0.05)), "an interval of 90 %"),
            "range": (cluster_with(lambda m: (m.min(), m.max())), "the smallest and the largest mean"),
            "normal": (cluster_with(lambda m: around(m, 1.96 * m.std())), "1.96 standard deviations of the draws"),
            "more draws": (
                cluster_with(lambda m: around(m, 1.96 * m.std() / len(m) ** 0.5)),
                "More draws do not make new scripts",
            ),
            "tasks": (tasks_only, "the clusters are not used"),
            "of values": (cluster_with(ends, lambda v, c, d: v), "percentiles of the single values"),
            "swapped": (cluster_with(lambda m: ends(m)[::-1]), "The upper end stands first"),
            "odd": (cluster_with(lambda m: ends(m + 1)), "A loop over the draws finds"),
            "one end": (cluster_with(lambda m: ends(m)[0]), "it needs two tensors, the lower"),
            "all means": (cluster_with(lambda m: (m, m)), "shape"),
        },
    )


def test_the_cluster_bootstrap_is_scipys_where_clusters_are_equally_large():
    """Then it is the usual bootstrap of the clusters' means; all draws are tried on both sides, none at random."""
    from scipy.stats import bootstrap

    values = torch.tensor([50.0, 54.0, 60.0, 66.0, 71.0, 79.0, 80.0, 90.0], dtype=F64)
    clusters = torch.arange(4).repeat_interleave(2)
    draws = torch.tensor(list(itertools.product(range(4), repeat=4)))
    lower, upper = checks.cluster_interval.reference(values, clusters, draws)
    each = values.view(4, 2).mean(1).numpy()
    # scipy draws at random: with many draws its percentiles of this discrete distribution are those of all draws
    found = bootstrap(
        (each,), np.mean, n_resamples=40_000, method="percentile", vectorized=True, rng=np.random.default_rng(0)
    ).confidence_interval
    assert (float(lower), float(upper)) == pytest.approx((found.low, found.high), abs=0.6)


# ------------------------------------------------------------------ 12.4 balanced queries


def balance_with_logs(logits, rounds):
    logs = logits.log_softmax(1)
    for _ in range(rounds):
        logs = logs - logs.logsumexp(0) + math.log(len(logits) / logits.shape[1])
        logs = logs.log_softmax(1)
    return logs.exp()


def balance_float32(logits, rounds):
    p = logits.float().softmax(1)
    for _ in range(rounds):
        p = p / p.sum(0, keepdim=True)  # the factor queries/way goes away with the rows
        p = p / p.sum(1, keepdim=True)
    return p


def balance_with(columns=True, rows=True, rows_first=False, rounds=lambda r: r, start=lambda z: z.softmax(1)):
    def balance_with_a_mistake(logits, n):
        p = start(logits)
        for _ in range(rounds(n)):
            for which in ("rows", "columns") if rows_first else ("columns", "rows"):
                if which == "columns" and columns:
                    p = p / p.sum(0) * (len(p) / p.shape[1])
                if which == "rows" and rows:
                    p = p / p.sum(1, keepdim=True)
        return p

    return balance_with_a_mistake


def after(change):
    return lambda logits, rounds: change(balance_with()(logits, rounds))


def test_balance():
    assert_check(
        checks.balance,
        right=[balance_with_logs, balance_float32],
        wrong={
            "nothing": (balance_with(rounds=lambda n: 0), "Nothing was balanced"),
            "rows first": (balance_with(rows_first=True), "The rows are scaled first"),
            "no rows": (balance_with(rows=False), "The rows are never scaled"),
            "columns last": (after(lambda p: p / p.sum(0)), "Each column sums to 1 at the end"),
            "dimension 0": (balance_with(start=lambda z: z.softmax(0)), "softmax goes over the queries"),
            "centred": (lambda z, n: (z - z.mean(0)).softmax(1), "never scale probabilities"),
            "logs": (after(torch.log), "These are the logarithms"),
            "answers": (
                after(lambda p: torch.nn.functional.one_hot(p.argmax(1), p.shape[1]).double()),
                "These are answers, 0 or 1",
            ),
            "softmax": (after(lambda p: p.softmax(1)), "softmax once more at the end"),
            "odd": (after(lambda p: p**2), "your first row sums to"),
            "classes": (after(lambda p: p.argmax(1)), "shape"),
        },
    )
    one_round = balance_with(rounds=lambda n: 1)
    said = checks.balance.run(one_round).diagnosis
    assert "Only one round was taken" in said or "`rounds` = 1" in said


def test_many_rounds_balance_the_columns():
    p = checks.balance.reference(torch.randn(10, 5, generator=torch.Generator().manual_seed(0), dtype=F64), 500)
    torch.testing.assert_close(p.sum(0), torch.full((5,), 2.0, dtype=F64))
    torch.testing.assert_close(p.sum(1), torch.ones(10, dtype=F64))


# ------------------------------------------------------------------ 12.5 calibration


def calibration_by_loop(confidence, right, bins):
    total = torch.zeros((), dtype=confidence.dtype)
    for b in range(bins):
        here = (confidence >= b / bins) & ((confidence < (b + 1) / bins) | (b == bins - 1))
        if here.any():
            total += here.sum() / len(here) * (confidence[here].mean() - right[here].double().mean()).abs()
    return total


def calibration_float32(confidence, right, bins):
    return checks.calibration_error.reference(confidence, right, bins).float()


def calibration_with(change):
    """change(counts, mean confidences, shares right) of the bins that are not empty."""

    def calibration_error_with_a_mistake(confidence, right, bins):
        place = (confidence * bins).long().clamp(max=bins - 1)
        there = place.unique()
        counts = torch.stack([(place == b).sum() for b in there]).double()
        sure = torch.stack([confidence[place == b].mean() for b in there])
        true = torch.stack([right[place == b].double().mean() for b in there])
        return change(counts, sure, true, bins)

    return calibration_error_with_a_mistake


def middles(confidence, right, bins):
    place = (confidence * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=F64).index_add(0, place, (place + 0.5) / bins - right.double())
    return gap.abs().sum() / len(confidence)


def one_bin_more(confidence, right, bins):
    gap = confidence.new_zeros(bins + 1).index_add(0, (confidence * bins).long(), confidence - right.double())
    return gap.abs().sum() / len(confidence)


def without_ones(confidence, right, bins):
    there = confidence < 1
    few = checks.calibration_error.reference(confidence[there], right[there], bins)
    return few * there.sum() / len(there)


def test_calibration_error():
    assert_check(
        checks.calibration_error,
        right=[calibration_by_loop, calibration_float32],
        wrong={
            "bins alike": (calibration_with(lambda n, s, t, b: (s - t).abs().mean()), "All bins count the same"),
            "by bins": (calibration_with(lambda n, s, t, b: (s - t).abs().sum() / b), "the empty ones too"),
            "sum": (calibration_with(lambda n, s, t, b: (s - t).abs().sum()), "This is the sum of the gaps"),
            "largest": (calibration_with(lambda n, s, t, b: (s - t).abs().max()), "the largest gap of a bin"),
            "signed": (
                calibration_with(
                    lambda n, s, t, b: (
                        (n * (t - s)).sum() / n.sum() if (n * (t - s)).sum() < 0 else (n * (s - t)).sum() / n.sum()
                    )
                ),
                "The gaps have signs here",
            ),
            "single": (lambda c, r, b: (c - r.double()).abs().mean(), "over single answers"),
            "middles": (middles, "You take the middle of each bin"),
            "squares": (calibration_with(lambda n, s, t, b: (n * (s - t) ** 2).sum() / n.sum()), "gaps are squared"),
            "not divided": (calibration_with(lambda n, s, t, b: (n * (s - t).abs()).sum()), "never divide by all"),
            "odd": (calibration_with(lambda n, s, t, b: (s - t).abs().median()), "counted bin by bin"),
            "1 apart": (one_bin_more, "gets a bin of its own here, as in torchmetrics"),
            "1 nowhere": (without_ones, "is in no bin here. It"),
            "beyond": (lambda c, r, b: torch.zeros(b, dtype=c.dtype).index_add(0, (c * b).long(), c).sum(), "Error"),
            "of bins": (calibration_with(lambda n, s, t, b: (s - t).abs()), "shape"),
        },
    )
    overall = checks.calibration_error.run(lambda c, r, b: (c.mean() - r.double().mean()).abs()).diagnosis
    assert "over all answers" in overall or "The gaps have signs here" in overall


def test_the_calibration_error_is_that_of_torchmetrics():
    from torchmetrics.functional.classification import binary_calibration_error

    for seed in SEEDS:
        for _, given in checks.calibration_error.problems(seed):
            bins, there = int(given["bins"]), given["confidence"] < 1  # it gives 1 a bin of its own
            confidence, right = given["confidence"][there], given["right"][there]
            found = checks.calibration_error.reference(confidence, right, bins)
            theirs = binary_calibration_error(confidence, right.int(), n_bins=bins, norm="l1")
            assert float(found) == pytest.approx(float(theirs), abs=1e-6)


# ------------------------------------------------------------------ 12.6 one sentence


def side(interval):
    return (interval[0] > 0) - (interval[1] < 0)


def sentence_by_sides(a, b, over_tasks, over_scripts, over_seeds):
    if side(over_tasks) == 0:
        return f"{b} and {a} cannot be told apart"
    names = (a, b) if side(over_tasks) == 1 else (b, a)
    nets = "networks trained anew" if side(over_seeds) == side(over_tasks) else "these networks"
    where = "other scripts" if side(over_scripts) == side(over_tasks) else "these scripts"
    if side(over_seeds) == side(over_scripts) == side(over_tasks):
        nets, where = "networks trained anew and these networks", "these scripts and other scripts, respectively"
    return f"On {where}, and for {nets}, {names[0]} is better than {names[1]}."


def sentence_in_capitals(*given):
    return checks.sentence.reference(*given).upper()


def sentence_with(tasks=side, scripts=None, seeds=None, tied="cannot be told apart", turn=1, who=None, at_once=False):
    def sentence_with_a_mistake(a, b, over_tasks, over_scripts, over_seeds):
        winner = tasks(over_tasks) if who is None else who(over_tasks, over_scripts, over_seeds)
        if winner == 0:
            return f"{a} and {b} {tied}."
        names = (a, b) if winner * turn == 1 else (b, a)
        new_nets = side(over_seeds) == side(over_tasks) if seeds is None else seeds(over_scripts, over_seeds, winner)
        new = side(over_scripts) == side(over_tasks) if scripts is None else scripts(over_scripts, over_seeds, winner)
        nets = "networks trained anew" if new_nets else "these networks"
        scope = f"for {nets}, on {'other' if new else 'these'} scripts"
        if new and new_nets and not at_once:
            scope = "for networks trained anew, on these scripts, and for these networks, on other scripts"
        return f"{names[0]} is better than {names[1]}, {scope}."

    return sentence_with_a_mistake


def mean_sign(interval):
    return 1 if sum(interval) > 0 else -1


def all_three(tasks, scripts, seeds):
    return side(tasks) if side(tasks) == side(scripts) == side(seeds) else 0


def test_sentence():
    assert_check(
        checks.sentence,
        right=[sentence_by_sides, sentence_in_capitals],
        wrong={
            "sign of the mean": (sentence_with(tasks=mean_sign), "say that they cannot be told apart"),
            "equal": (sentence_with(tied="are equally good"), "a better one may be hidden in it"),
            "turned": (sentence_with(turn=-1), "all intervals are of a − b"),
            "seeds": (sentence_with(seeds=lambda c, s, w: True), "You claim networks trained anew"),
            "scripts": (sentence_with(scripts=lambda c, s, w: True), "You claim other scripts"),
            "not 0": (
                sentence_with(seeds=lambda c, s, w: side(s) != 0),
                "does not carry the same winner to networks trained anew",
            ),
            "scripts not 0": (
                sentence_with(scripts=lambda c, s, w: side(c) != 0),
                "does not carry the same winner to other scripts",
            ),
            "mixed up": (
                sentence_with(seeds=lambda c, s, w: side(c) == w, scripts=lambda c, s, w: side(s) == w),
                "The two scopes are mixed up",
            ),
            "modest": (sentence_with(who=all_three), "You say less than the data carry"),
            "old nets": (sentence_with(seeds=lambda c, s, w: False), "the sentence may say networks trained anew"),
            "old scripts": (sentence_with(scripts=lambda c, s, w: False), "the sentence may say other scripts"),
            "at once": (sentence_with(at_once=True), "each interval holds the other factor fixed"),
            "no scope": (
                lambda a, b, t, c, s: f"{a} is better than {b}." if side(t) else f"{a} and {b} cannot be told apart.",
                "say either `these networks`",
            ),
            "own words": (lambda a, b, t, c, s: f"{a} wins", "the other way round, or"),
            "a number": (lambda *given: 1.0, "one sentence, a str"),
        },
    )


def test_every_kind_of_three_intervals_is_asked():
    for seed in SEEDS:
        ((_, given), *_) = checks.sentence.problems(seed)
        kinds = sorted(tuple(side(pair) for pair in row) for row in given["intervals"].tolist())
        assert kinds == sorted(checks.KINDS)


@pytest.mark.parametrize("name", ["paired", "wrong_share", "cluster_interval", "balance", "calibration_error"])
def test_a_verdict_is_the_same_in_many_calls(name):
    check = getattr(checks, name)
    assert all(check.run(check.reference, seed=seed).passed for seed in range(40))
