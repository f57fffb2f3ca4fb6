"""Pairs, the interval over the data, and how sure answers are: against closed forms, libraries and simulated truth."""

import math

import pytest
import torch
from scipy import optimize, stats

from mlcourse import statistics
from mlcourse.errors import CourseError
from mlcourse.statistics import NoInterval, Paired, episodes_over_data

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

WAY, QUERIES, GROUPS, OF_GROUP, EPISODES = 5, 5, 40, 3, 600


def rare(seed, groups=GROUPS):
    """A learner that is mostly right: the log-rate at which each class is taken for each other one.

    A group's classes are hard to tell from all others, some more, some less, and from each other by more.
    """
    hard = 0.02 * torch.rand(groups, generator=generator(seed), dtype=F64).repeat_interleave(OF_GROUP)
    group = torch.arange(groups).repeat_interleave(OF_GROUP)
    rates = 0.003 + hard[:, None] + hard[None, :] + 0.05 * (group[:, None] == group[None, :])
    return rates.fill_diagonal_(1).log(), group


def rivals(seed, groups=GROUPS):
    """A learner that is often wrong: classes of some groups are hard, and answers go to those that attract them."""
    draw = torch.rand(groups, generator=generator(seed), dtype=F64).repeat_interleave(OF_GROUP)
    group = torch.arange(groups).repeat_interleave(OF_GROUP)
    return 3 * draw[:, None] * torch.eye(len(group), dtype=F64) + 0.5 * draw[None, :], group


def asked(scores, group, seed, way=WAY):
    """Episodes of random classes: the accuracy of each, and what `episodes_over_data` takes of them."""
    draws = generator(seed)
    classes = torch.rand(EPISODES, len(group), generator=draws).argsort(1)[:, :way]
    chances = scores[classes.unsqueeze(2), classes.unsqueeze(1)].softmax(-1)
    given = torch.multinomial(chances.flatten(0, 1), QUERIES, replacement=True, generator=draws)
    values = (given.view(EPISODES, way, QUERIES) == torch.arange(way).view(1, way, 1)).double().mean((1, 2))
    return values, *over(values, group[classes], int(group.max()) + 1, len(group))


def over(values, groups, number, classes):
    """The arguments after `values`, and the options."""
    member = torch.nn.functional.one_hot(groups, number).sum(1).double()
    scale = (classes - 1) / (classes - groups.shape[1])
    told = {"crowding": member.square().sum(1).mean().item(), "scale": scale}
    return member.sum(0), (member * values.unsqueeze(1)).sum(0), told


def exact(scores, episodes):
    """The accuracy of these classes, by far more episodes than are asked."""
    classes = torch.rand(episodes, len(scores), generator=generator(99)).argsort(1)[:, :WAY]
    return scores[classes.unsqueeze(2), classes.unsqueeze(1)].softmax(-1).diagonal(dim1=1, dim2=2).mean().item()


@pytest.fixture(scope="module", params=[rare, rivals])
def coverage(request):
    """In how many of 1,000 test sets each interval holds each truth."""
    found = [asked(*request.param(seed), seed + 10**4) for seed in range(1000)]
    truth = torch.stack([values for values, *_ in found]).mean().item()  # its error is a thirtieth of the spread
    held = dict.fromkeys(["episodes, other data", "data"], 0)
    for values, classes, sums, told in found:
        value, half = statistics.mean_interval(values)
        held["episodes, other data"] += abs(value - truth) <= half
        _, lower, upper = episodes_over_data(values, classes, sums, **told)
        held["data"] += lower <= truth <= upper
    return held


def test_the_interval_over_the_data_covers_other_data_in_93_to_97_of_100_draws(coverage):
    assert 930 <= coverage["data"] <= 970, coverage


@pytest.mark.parametrize("number", [5, 8, 13])
@pytest.mark.parametrize("world", [rare, rivals])
def test_few_clusters_are_covered_in_93_to_97_of_100_draws(world, number):
    found = [asked(*world(seed, number), seed + 10**4) for seed in range(1000)]
    truth, held = torch.stack([values for values, *_ in found]).mean().item(), 0
    for values, classes, sums, told in found:
        _, lower, upper = episodes_over_data(values, classes, sums, **told)
        held += lower <= truth <= upper
    assert 930 <= held <= 970


def test_the_interval_over_episodes_fails_for_the_question_of_the_data(coverage):
    assert coverage["episodes, other data"] < 700, coverage


@pytest.mark.parametrize("world", [rare, rivals])
def test_the_interval_over_episodes_covers_other_episodes_of_these_data(world):
    scores, group = world(0)
    truth, covered = exact(scores, 200_000), 0
    for seed in range(1000):
        value, half = statistics.mean_interval(asked(scores, group, seed + 10**4)[0])
        covered += abs(value - truth) <= half
    assert 930 <= covered <= 970


@pytest.mark.parametrize("groups", [5, 8, 13, 20, 50])
def test_tasks_within_a_group_are_covered_too(groups):
    covered = 0
    for seed in range(1000):
        accuracy = 0.75 + 0.2 * torch.rand(groups, generator=generator(seed), dtype=F64)
        group = torch.randint(groups, (EPISODES,), generator=generator(seed + 10**4))
        values = (
            torch.binomial(torch.full((EPISODES,), 20.0, dtype=F64), accuracy[group], generator=generator(seed + 10**5))
            / 20
        )
        member = torch.nn.functional.one_hot(group, groups).double()
        _, lower, upper = episodes_over_data(values, member.sum(0), member.T @ values)
        covered += lower <= 0.85 <= upper
    assert 930 <= covered <= 970


def test_the_mean_is_that_of_the_episodes_and_a_difference_is_the_difference():
    a, b = (asked(*rare(world), 1) for world in (0, 1))  # the same episodes, other learners
    assert torch.equal(a[1], b[1])
    assert episodes_over_data(*a[:3], **a[3])[0] == pytest.approx(a[0].mean().item())
    difference = episodes_over_data(a[0] - b[0], a[1], a[2] - b[2], **a[3])
    assert difference[0] == pytest.approx((a[0] - b[0]).mean().item())
    assert difference[1] < difference[0] < difference[2]
    with pytest.raises(NoInterval, match="all episodes have one value"):  # of a learner and itself
        episodes_over_data(0 * a[0], a[1], 0 * a[2], **a[3])


def test_it_is_never_narrower_than_over_episodes_where_groups_do_not_matter():
    values = torch.rand(EPISODES, generator=generator(3), dtype=F64)
    groups = torch.randint(GROUPS, (EPISODES, WAY), generator=generator(4))
    classes, sums, told = over(values, groups, GROUPS, 3 * GROUPS)
    _, lower, upper = episodes_over_data(values, classes, sums, **told)
    assert (upper - lower) / 2 > 0.9 * statistics.mean_interval(values)[1]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_few_clusters_have_no_interval(number):
    with pytest.raises(NoInterval, match=f"there are {number} clusters .or values., too few"):
        episodes_over_data([0.5, 0.6], [1.0] * number, [0.5] * number)
    with pytest.raises(NoInterval, match=f"there are {number} clusters"):  # no episode has the others
        episodes_over_data([0.5, 0.6], [1.0] * number + [0.0] * 9, [0.5] * number + [0.0] * 9)


def test_episodes_that_have_all_clusters_alike_say_nothing_of_others():
    """Of 10 digits in tasks of 10 ways each episode has all: its share of each is the same, and the spread was 0."""
    values = torch.rand(EPISODES, generator=generator(3), dtype=F64)
    classes, sums, _ = over(values, torch.arange(10).expand(EPISODES, 10), 10, 11)
    with pytest.raises(NoInterval, match="as much of each cluster as any other"):
        episodes_over_data(values, classes, sums, crowding=10.0)
    with pytest.raises(NoInterval, match="all episodes have one value"):
        episodes_over_data(0 * values + 1, classes, classes, crowding=10.0)


def test_clusters_that_say_nothing_are_refused():
    with pytest.raises(CourseError, match=r"\(2,\) and \(3,\)"):
        episodes_over_data([0.5, 0.6], [1.0, 1.0], [0.0, 0.0, 0.0])
    with pytest.raises(CourseError, match="not finite"):
        episodes_over_data([0.5, math.nan], [1.0, 1.0], [0.0, 0.0])


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


def test_a_temperature_that_changes_nothing_is_one():
    assert statistics.temperature(torch.zeros(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])) == 1.0
