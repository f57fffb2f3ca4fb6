"""Pairs, the interval over the data, and how sure answers are: against closed forms, libraries and simulated truth."""

import math

import pytest
import torch
from scipy import optimize, stats

from mlcourse import statistics
from mlcourse.errors import CourseError
from mlcourse.statistics import Paired, clustered_share

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def answers(n=4000, way=5, sharpness=6.0, seed=0):
    """Logits that are right more often than not, too sure of it, and at times so sure that the confidence is 1."""
    labels = torch.randint(way, (n,), generator=generator(seed))
    logits = torch.randn(n, way, generator=generator(seed + 1), dtype=F64)
    return sharpness * (logits + torch.nn.functional.one_hot(labels, way)), labels


# ------------------------------------------------------------------ pairs


def test_p_is_the_librarys_and_of_equal_pairs_one():
    a, b = torch.randn(2, 500, generator=generator(), dtype=F64)
    difference = statistics.paired(a + 0.1, b)
    z = difference.difference / (difference.ci95 / 1.96)
    assert statistics.p_value(difference) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-9)
    assert statistics.p_value(Paired(0.0, 0.0, 5)) == 1
    assert statistics.p_value(Paired(0.1, 0.0, 5)) == 0
    assert math.isnan(statistics.p_value(Paired(0.1, math.nan, 1)))


def test_p_is_uniform_where_there_is_no_difference():
    draws = torch.randn(2000, 2, 300, generator=generator(5), dtype=F64)
    p = [statistics.p_value(statistics.paired(a, b)) for a, b in draws]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_the_share_won_counts_ties_apart():
    assert statistics.share_won([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 4.0, 1.0]) == (0.5, 0.25)


# ------------------------------------------------------------------ over the data

WAY, QUERIES, GROUPS, OF_GROUP = 5, 5, 40, 3
BASE, SPREAD, WITHIN = 0.003, 0.02, 0.05


def world(seed):
    """Classes in groups, and the rate at which each is taken for each other one: [classes, classes].

    A group's classes are hard to tell from all others, from 0 to SPREAD, and from each other by WITHIN more.
    """
    hard = SPREAD * torch.rand(GROUPS, generator=generator(seed), dtype=F64).repeat_interleave(OF_GROUP)
    group = torch.arange(GROUPS).repeat_interleave(OF_GROUP)
    rates = BASE + hard[:, None] + hard[None, :] + WITHIN * (group[:, None] == group[None, :])
    return rates.fill_diagonal_(0), group


def truth_of_population():
    within = (OF_GROUP - 1) / (GROUPS * OF_GROUP - 1)
    return (WAY - 1) * (BASE + SPREAD + within * WITHIN)


def asked(rates, group, episodes, seed):
    """Episodes of random classes: the share of wrong answers of each, what `clustered_share` takes, and the wrong
    answers by the group that was asked about."""
    draws = generator(seed)
    classes = torch.rand(episodes, len(group), generator=draws).argsort(1)[:, :WAY]
    chances = rates[classes.unsqueeze(2), classes.unsqueeze(1)]
    chances = chances + torch.diag_embed(1 - chances.sum(-1))
    given = torch.multinomial(chances.flatten(0, 1), QUERIES, replacement=True, generator=draws)
    given = given.view(episodes, WAY, QUERIES)
    wrong = given != torch.arange(WAY).view(1, WAY, 1)
    of_query = group[classes].unsqueeze(2).expand_as(given)
    of_answer = group[classes].gather(1, given.flatten(1)).view_as(given)
    across = of_query != of_answer
    count = [of_query, of_query[wrong & ~across], torch.cat([of_query[across], of_answer[across]])]
    *taken, made = (torch.bincount(one.flatten(), minlength=GROUPS).double() for one in [*count, of_query[wrong]])
    return wrong.double().mean((1, 2)), taken, made


@pytest.fixture(scope="module")
def coverage():
    """In how many of 1,000 test sets each interval holds each truth."""
    held = dict.fromkeys(["episodes, these data", "episodes, other data", "data", "data, by the query alone"], 0)
    for seed in range(1000):
        rates, group = world(seed)
        here = (WAY - 1) * rates.sum().item() / (len(group) * (len(group) - 1))
        shares, (queries, inside, between), made = asked(rates, group, 600, seed + 10**4)
        value, half = statistics.mean_interval(shares)
        held["episodes, these data"] += abs(value - here) <= half
        held["episodes, other data"] += abs(value - truth_of_population()) <= half
        _, lower, upper = clustered_share(queries, inside, between, draws=1000)
        held["data"] += lower <= truth_of_population() <= upper
        # the cheap way: a wrong answer counts only where it was asked, as if it stayed there
        _, lower, upper = clustered_share(queries, made, 0 * made, draws=1000)
        held["data, by the query alone"] += lower <= truth_of_population() <= upper
    return held


def test_each_interval_covers_what_it_claims_in_93_to_97_of_100_draws(coverage):
    assert 930 <= coverage["episodes, these data"] <= 970, coverage
    assert 930 <= coverage["data"] <= 970, coverage


def test_the_interval_over_episodes_fails_for_the_question_of_the_data(coverage):
    assert coverage["episodes, other data"] < 700, coverage


def test_who_counts_a_wrong_answer_once_only_has_too_narrow_an_interval(coverage):
    assert coverage["data, by the query alone"] < 900, coverage


def test_tasks_within_a_group_are_covered_too():
    covered = 0
    for seed in range(1000):
        rate = 0.05 + 0.2 * torch.rand(20, generator=generator(seed), dtype=F64)
        wrong = torch.binomial(torch.full((20,), 1000.0, dtype=F64), rate, generator=generator(seed + 10**4))
        _, lower, upper = clustered_share(torch.full((20,), 1000.0), wrong, torch.zeros(20), draws=1000)
        covered += lower <= 0.15 <= upper
    assert 930 <= covered <= 970


def test_the_share_is_that_of_all_queries_and_a_difference_is_the_difference():
    shares, (queries, inside, between), _ = asked(*world(0), 50, 1)
    assert clustered_share(queries, inside, between)[0] == pytest.approx(shares.mean().item())
    fewer = (inside / 2).floor(), 2 * (between / 4).floor()
    difference = clustered_share(queries, inside - fewer[0], between - fewer[1])[0]
    assert difference == pytest.approx(shares.mean().item() - clustered_share(queries, *fewer)[0])
    assert clustered_share(queries, 0 * inside, 0 * between) == (0, 0, 0)


def test_clusters_that_say_nothing_are_refused():
    with pytest.raises(CourseError, match="one cluster"):
        clustered_share([5.0], [1.0], [0.0])
    with pytest.raises(CourseError, match="queries is 0 or more"):
        clustered_share([0.0, 0.0], [0.0, 0.0], [0.0, 0.0])
    with pytest.raises(CourseError, match=r"\(2,\) and \(3,\)"):
        clustered_share([1.0, 1.0], [0.0, 0.0], [0.0, 0.0, 0.0])


# ------------------------------------------------------------------ how sure


def plain_error(logits, labels, bins=15):
    """The calibration error, answer by answer."""
    table = [[0, 0.0, 0] for _ in range(bins + 1)]
    for row, label in zip(logits.softmax(-1).tolist(), labels.tolist()):
        confidence = max(row)
        place = table[int(confidence * bins)]
        place[0] += 1
        place[1] += confidence
        place[2] += row.index(confidence) == label
    return sum(n * abs(right / n - sure / n) for n, sure, right in table if n) / len(labels)


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 6.0, 200.0])
def test_the_calibration_error_is_that_of_a_plain_loop(sharpness):
    logits, labels = answers(sharpness=sharpness)
    found = statistics.calibration_error(statistics.reliability(logits, labels))
    assert found == pytest.approx(plain_error(logits, labels), abs=1e-12)


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 6.0, 200.0])
@pytest.mark.parametrize("way", [5, 20])
def test_the_calibration_error_is_torchmetrics(way, sharpness):
    classification = pytest.importorskip("torchmetrics.classification", reason="needs torchmetrics (mlcourse[test])")
    logits, labels = answers(way=way, sharpness=sharpness, seed=3)
    oracle = classification.MulticlassCalibrationError(way, n_bins=15, norm="l1")
    found = statistics.calibration_error(statistics.reliability(logits, labels))
    assert found == pytest.approx(oracle(logits.softmax(-1), labels).item(), abs=1e-6)


def test_the_likelihood_is_that_of_a_plain_loop():
    logits, labels = answers()
    plain = -sum(math.log(row[label]) for row, label in zip(logits.softmax(-1).tolist(), labels.tolist())) / len(labels)
    assert statistics.negative_log_likelihood(logits, labels) == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("sharpness", [0.3, 6.0])
def test_the_temperature_is_where_scipy_finds_the_least(sharpness):
    logits, labels = answers(sharpness=sharpness)

    def loss(log_t):
        return statistics.negative_log_likelihood(logits / math.exp(log_t), labels)

    least = optimize.minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9})
    found = statistics.temperature(logits, labels)
    assert found == pytest.approx(math.exp(least.x), rel=1e-4)
    assert loss(math.log(found)) <= least.fun + 1e-12
    assert statistics.temperature(3 * logits, labels) == pytest.approx(3 * found, rel=1e-9)


def test_a_temperature_mends_answers_that_are_too_sure():
    logits, labels = answers(sharpness=6.0)
    scaled = logits / statistics.temperature(logits, labels)
    before, after = (statistics.calibration_error(statistics.reliability(some, labels)) for some in (logits, scaled))
    assert after < before / 5


def test_answers_that_are_all_right_have_no_best_temperature_but_one_that_is_finite():
    labels = torch.arange(5)
    assert statistics.temperature(torch.eye(5), labels) == pytest.approx(statistics.COLDEST)
    assert statistics.temperature(torch.eye(5), labels.flip(0) + torch.tensor([0, 0, -1, 0, 0])) == pytest.approx(
        statistics.HOTTEST
    )


@pytest.mark.parametrize(
    ("logits", "labels", "named"),
    [
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), r"\(3, 2\) and \(2,\)"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), r"\(3,\) and \(3,\)"),
        (torch.zeros(3, 2), torch.zeros(3), "integer labels"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), "one is 2"),
        (torch.full((3, 2), math.nan), torch.tensor([0, 1, 1]), "not finite"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "no values"),
    ],
)
@pytest.mark.parametrize("call", ["reliability", "negative_log_likelihood", "temperature"])
def test_answers_that_do_not_fit_are_one_line(call, logits, labels, named):
    with pytest.raises(CourseError, match=named):
        getattr(statistics, call)(logits, labels)
