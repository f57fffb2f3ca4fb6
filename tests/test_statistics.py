"""Intervals against closed forms, tables, a library and simulation."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from mlcourse import statistics
from mlcourse.errors import CourseError
from mlcourse.statistics import (
    Metric,
    NoInterval,
    bootstrap_interval,
    cluster_bootstrap_interval,
    holm,
    paired,
    ratio_interval,
)

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_students_interval_is_the_librarys(n):
    values = torch.randn(n, generator=generator(n), dtype=F64)
    mean, half = statistics.student_interval(values)
    lower, upper = stats.t.interval(0.95, n - 1, values.mean().item(), stats.sem(values.numpy()))
    assert (mean - half, mean + half) == pytest.approx((lower, upper), rel=1e-12)


def test_the_normal_interval_is_the_one_that_papers_print():
    values = torch.rand(400, generator=generator(), dtype=F64)
    mean, half = statistics.mean_interval(values)
    assert (mean, half) == pytest.approx((values.mean().item(), 1.96 * stats.sem(values.numpy())), rel=1e-12)


def test_one_value_has_no_interval():
    assert math.isnan(statistics.mean_interval([3.0])[1])
    assert math.isnan(statistics.student_interval([3.0])[1])


@pytest.mark.parametrize("call", [statistics.mean_interval, statistics.student_interval, bootstrap_interval])
@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 2.0]])
def test_no_value_and_values_that_are_not_finite_are_an_error(call, values):
    with pytest.raises(CourseError, match=r"no values|not finite"):
        call(values)


def ratios(episodes, seed):
    rng = np.random.default_rng(seed)
    bottom = rng.integers(5, 200, episodes).astype(float)
    return rng.binomial(bottom.astype(int), 0.3 + 0.3 * (bottom > 100)).astype(float), bottom


def test_the_interval_of_a_ratio_covers_the_truth_about_95_times_in_100():
    top, bottom = ratios(400_000, 0)
    truth, covered = top.sum() / bottom.sum(), 0
    for seed in range(1, 601):
        value, half = ratio_interval(*ratios(100, seed))
        covered += abs(value - truth) <= half
    assert 0.92 < covered / 600 < 0.975


def test_the_interval_of_a_ratio_agrees_with_the_bootstrap():
    top, bottom = (torch.tensor(part) for part in ratios(300, 5))
    value, half = ratio_interval(top, bottom)
    pairs = torch.stack([top, bottom], 1)
    same, lower, upper = bootstrap_interval(pairs, lambda p: p[:, 0].sum() / p[:, 1].sum())
    assert same == pytest.approx(value)
    assert (upper - lower) / 2 == pytest.approx(half, rel=0.1)


def test_a_ratio_with_nothing_to_divide_by_is_an_error():
    with pytest.raises(CourseError, match="all denominators are 0"):
        ratio_interval([0.0, 0.0], [0.0, 0.0])


def test_pairs_by_hand_and_against_the_library():
    a, b = torch.randn(2, 12, generator=generator(1), dtype=F64)
    difference = paired(a, b)
    interval = stats.ttest_rel(a.numpy(), b.numpy()).confidence_interval(0.95)
    assert (difference.lower, difference.upper) == pytest.approx((interval.low, interval.high))
    assert str(paired([0.5, 0.7], [0.4, 0.4])).startswith("+20.00 ± 127.06 points (2 paired episodes)")
    with pytest.raises(CourseError, match=r"there are \(2,\) and \(3,\)"):
        paired([1.0, 2.0], [1.0, 2.0, 3.0])


def test_the_effect_size_by_hand():
    assert statistics.effect_size([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]) == pytest.approx(2.0)
    assert statistics.effect_size([1.0, 2.0], [1.0, 2.0]) == 0
    assert statistics.effect_size([2.0, 3.0], [1.0, 2.0]) == math.inf
    assert statistics.effect_size([1.0, 2.0], [2.0, 3.0]) == -math.inf


def test_holm_by_hand_and_in_any_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04, 0.03, 0.01]) == pytest.approx([0.06, 0.06, 0.03])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(CourseError, match=r"there is 1\.2"):
        holm([0.5, 1.2])


def test_the_bootstrap_of_a_mean_is_near_the_normal_interval_and_repeats():
    values = torch.rand(500, generator=generator(2), dtype=F64)
    mean, half = statistics.mean_interval(values)
    same, lower, upper = bootstrap_interval(values, seed=3)
    assert same == pytest.approx(mean)
    assert (upper - lower) / 2 == pytest.approx(half, rel=0.08)
    assert bootstrap_interval(values, seed=3) == (same, lower, upper)
    assert bootstrap_interval(values, seed=4) != (same, lower, upper)


def test_clusters_make_the_interval_wider_and_right():
    """20 alphabets of 50 values each: the spread lies between the alphabets, so there are 20 values and not 1,000."""
    covered = {"clusters": 0, "values": 0}
    for seed in range(100):
        centres = torch.randn(20, 1, generator=generator(seed), dtype=F64)
        values = centres + 0.1 * torch.randn(20, 50, generator=generator(seed + 1000), dtype=F64)
        clusters = torch.arange(20).repeat_interleave(50)
        _, lower, upper = cluster_bootstrap_interval(values.flatten(), clusters, draws=300)
        covered["clusters"] += lower <= 0 <= upper
        _, lower, upper = bootstrap_interval(values.flatten(), draws=200)
        covered["values"] += lower <= 0 <= upper
    assert covered["clusters"] >= 86
    assert covered["values"] <= 40


def test_clusters_of_any_names_and_sizes():
    clusters = [7, 7, 2, -1, 10**9, 3]
    assert cluster_bootstrap_interval([1.0, 3.0, 5.0, 2.0, 4.0, 3.0], clusters)[0] == pytest.approx(3.0)
    values = torch.arange(6.0)
    for wrong in (clusters[:2], torch.tensor(clusters)[:, None]):  # [n, 1]: its second index would be taken for rows
        with pytest.raises(CourseError, match=r"each of 6 values needs its cluster, .*; give \[6\]"):
            cluster_bootstrap_interval(values, wrong)
    with pytest.raises(CourseError, match="the name of a cluster is nan or infinite"):
        cluster_bootstrap_interval(values, [0.0, 1.0, 2.0, 3.0, 4.0, math.nan])


def test_clusters_of_which_one_holds_nearly_all_count_as_few():
    """Its mean is nearly the mean: the spread of the others says next to nothing of how far that may be off."""
    sizes = torch.tensor([200, 5, 5, 5, 5])
    values = torch.randn(220, generator=generator(0), dtype=F64)
    few = "of 5 clusters the largest holds 91%, so they count as 1.2 only; give 5 or more of about one size"
    with pytest.raises(NoInterval, match=few):
        cluster_bootstrap_interval(values, torch.arange(5).repeat_interleave(sizes))
    sums = torch.stack([part.sum() for part in values.split(sizes.tolist())])
    with pytest.raises(NoInterval, match=few):
        statistics.episodes_over_data(values, sizes, sums)


def test_a_large_cluster_does_not_hide_the_spread():
    """60 episodes of one cluster and 10 of each of nine more: the truth is held as often as it is said, nearly."""
    sizes, held = torch.tensor([60, *9 * [10]]), 0
    for seed in range(300):
        centres = torch.randn(10, generator=generator(seed), dtype=F64).repeat_interleave(sizes)
        values = centres + 0.5 * torch.randn(150, generator=generator(seed + 10**4), dtype=F64)
        sums = torch.stack([part.sum() for part in values.split(sizes.tolist())])
        _, lower, upper = statistics.episodes_over_data(values, sizes, sums)
        held += lower <= 0 <= upper
    assert held >= 0.87 * 300  # 85 of 100 where the large one hides its own share


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_draws_that_are_all_the_same_give_no_interval_without_width(value):
    """All right (or all wrong) in 20 clusters: that they do not vary says nothing of others."""
    values = torch.full((60,), value)
    says = f"50 draws of 20 clusters .* all give {value:g}, .*; take more of them"
    with pytest.raises(NoInterval, match=says):
        cluster_bootstrap_interval(values, torch.arange(20).repeat_interleave(3), draws=50)
    with pytest.raises(NoInterval, match="all give"):
        bootstrap_interval(values, draws=50)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_few_clusters_or_values_have_no_interval(number):
    clusters = torch.arange(number).repeat_interleave(50)
    values = torch.randn(50 * number, generator=generator(1), dtype=F64)
    few = f"there are {number} clusters .or values., too few .*; give 5 or more"
    with pytest.raises(NoInterval, match=few):
        cluster_bootstrap_interval(values, clusters)
    with pytest.raises(NoInterval, match=few):
        bootstrap_interval(values[:number])


def covered_by_clusters(number, draw, seeds=1000):
    """In how many of 100 samples the interval over so many clusters, of 20 to 60 values, holds the truth 0."""
    sizes = torch.linspace(20, 60, number).long()
    clusters, held = torch.arange(number).repeat_interleave(sizes), 0
    for seed in range(seeds):
        noise = torch.randn(len(clusters), generator=generator(seed + 10**4), dtype=F64)
        values = draw(number, generator(seed))[clusters] + 0.5 * noise
        _, lower, upper = cluster_bootstrap_interval(values, clusters, draws=200, seed=seed)
        held += lower <= 0 <= upper
    return 100 * held / seeds


def normal(number, draws):
    return torch.randn(number, generator=draws, dtype=F64)


def flat(number, draws):
    return torch.rand(number, generator=draws, dtype=F64) - 0.5


@pytest.mark.parametrize("draw", [normal, flat])
@pytest.mark.parametrize("number", [5, 8, 13, 20])
def test_the_interval_over_clusters_covers_93_to_97_of_100(number, draw):
    assert 93 <= covered_by_clusters(number, draw) <= 97


def test_a_statistic_that_is_not_finite_in_a_draw_is_an_error():
    values = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0], dtype=F64)
    with pytest.raises(CourseError, match="the statistic is not finite in every draw"):
        bootstrap_interval(values, lambda some: 1 / some.sum())
    with pytest.raises(CourseError, match="draws is 1; give"):
        bootstrap_interval(values, draws=1)


def test_metrics_say_what_they_miss_and_tell_shares_as_percentages():
    with pytest.raises(CourseError, match=r"IoU needs the score 'union', but score\(\) gives intersection"):
        Metric("IoU", ratio=("intersection", "union")).interval({"intersection": torch.ones(3)})
    assert Metric("accuracy").told(0.5, 0.01) == "50.00 ± 1.00 %"
    assert Metric("error", -1).told(0.5, 0.01) == "error 0.5 ± 0.01"
    assert Metric("rate", -1, share=True).told(0.5, 0.01) == "50.00 ± 1.00 %"


def test_the_difference_of_two_ratios_is_that_of_their_values():
    a, b = (dict(zip(("i", "u"), map(torch.tensor, ratios(50, seed)))) for seed in (1, 2))
    metric = Metric("IoU", ratio=("i", "u"))
    difference = metric.compare(a, b)
    assert difference.difference == pytest.approx(metric.interval(a)[0] - metric.interval(b)[0])
    assert metric.compare(a, a).ci95 == 0


@pytest.mark.parametrize("call", [statistics.mean_interval, statistics.student_interval])
def test_a_table_of_values_is_refused(call):
    """Its length is not how many values there are: the interval would be too wide, and say nothing."""
    with pytest.raises(CourseError, match=r"the values have the shape \(3, 40\); give independent values \[n\]"):
        call(torch.rand(3, 40))


def test_p_of_few_pairs_is_the_librarys():
    a, b = torch.randn(2, 6, generator=generator(4), dtype=F64)
    expected = stats.ttest_rel(a.numpy(), b.numpy()).pvalue
    assert statistics.p_value(paired(a, b)) == pytest.approx(expected, rel=1e-9)
    assert statistics.p_value(paired(a, b)) < expected


def test_a_rank_is_shared_with_its_first_not_with_a_neighbour():
    """10, 9 and 8 are each 1 apart: 9 is tied with 10, and 8 with its neighbour 9 but not with the first, 10."""
    near = [10, 9, 8, 7, 3, 3]
    assert statistics.shared_ranks(near, lambda first, one: first - one <= 1) == [1, 1, 3, 3, 5, 5]
    assert statistics.shared_ranks([], lambda first, one: True) == []


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_the_interval_of_a_metric_over_few_episodes_covers_what_it_claims(n):
    values = torch.randn(2000, n, generator=generator(n), dtype=F64)
    found = [statistics.ACCURACY.interval({"accuracy": row}) for row in values]
    covered = sum(abs(mean) <= half for mean, half in found) / len(found)
    assert 0.935 < covered < 0.965
    paired_ones = [statistics.ACCURACY.compare({"accuracy": row}, {"accuracy": 0 * row}) for row in values]
    assert sum(one.lower <= 0 <= one.upper for one in paired_ones) / len(found) == covered


def test_one_episode_is_told_without_an_interval():
    value, half = statistics.ACCURACY.interval({"accuracy": torch.tensor([0.32])})
    assert statistics.ACCURACY.told(value, half) == "32.00 % (one episode: no interval)"


def test_a_statistic_may_be_a_float_and_is_one_number():
    values = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = statistics.bootstrap_interval(values, draws=50)
    for mean in (lambda some: some.mean().item(), lambda some: some.numpy().mean()):
        assert statistics.bootstrap_interval(values, mean, draws=50) == pytest.approx(expected, rel=1e-12)
    for wrong, told in ((lambda some: some, r"\(30,\)"), (lambda some: None, "NoneType")):
        with pytest.raises(CourseError, match=f"the statistic gave {told}; give a function of values"):
            statistics.bootstrap_interval(values, wrong, draws=5)


def test_a_metric_s_comparison_of_few_episodes_has_the_p_of_scipy():
    a, b = [0.82, 0.80, 0.84, 0.81], [0.70, 0.69, 0.70, 0.71]
    gap = statistics.Metric(*statistics.ACCURACY).compare({"accuracy": torch.tensor(a)}, {"accuracy": torch.tensor(b)})
    assert statistics.p_value(gap) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-4)


@pytest.mark.parametrize("value", [1 / 3, 0.7, 0.6, 1.0])
def test_episodes_that_are_all_alike_say_nothing_of_other_clusters(value):
    for episodes in (7, 30, 75):
        sums = [value * episodes * 5 / 8] * 8
        with pytest.raises(statistics.NoInterval, match="all episodes have one value"):
            statistics.episodes_over_data([value] * episodes, [episodes * 5 / 8] * 8, sums)


def test_one_pair_is_told_without_an_interval():
    assert str(statistics.paired([0.5], [0.4])) == "+10.00 points (one paired episode: no interval)"
