"""Error rates against counting one by one and against scikit-learn, intervals over people, open-set identification."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from mlcourse.errors import CourseError
from mlcourse.statistics import NoInterval
from mlcourse.vision import verification
from mlcourse.vision.verification import Curve, Pairs, all_pairs, curve, open_set, search


def counted(scores, genuine, threshold):
    """(FMR, FNMR) at a threshold, one pair after another."""
    pairs = list(zip(scores, genuine, strict=True))
    impostors = [score for score, one in pairs if not one]
    of_one = [score for score, one in pairs if one]
    return sum(s >= threshold for s in impostors) / len(impostors), sum(s < threshold for s in of_one) / len(of_one)


def check_by_counting(scores, genuine):
    found = curve(torch.tensor(scores, dtype=torch.float64), torch.tensor(genuine))
    assert found.thresholds.tolist() == [math.inf, *sorted(set(scores), reverse=True)]
    for threshold, fmr, fnmr in zip(found.thresholds.tolist(), found.fmr, found.fnmr, strict=True):
        assert (fmr.item(), fnmr.item()) == pytest.approx(counted(scores, genuine, threshold), abs=1e-12)
    assert 0 <= found.eer().item() <= 1
    return found


def check_by_sklearn(scores, genuine):
    """`roc_curve` has all our points; `det_curve` some of them, in the other order; EER by its curve."""
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    found = curve(torch.tensor(scores, dtype=torch.float64), torch.tensor(genuine))
    fpr, tpr, thresholds = metrics.roc_curve(genuine, scores, drop_intermediate=False)
    np.testing.assert_allclose(found.fmr, fpr, atol=1e-6)
    np.testing.assert_allclose(found.fnmr, 1 - tpr, atol=1e-6)
    np.testing.assert_allclose(found.thresholds, thresholds, atol=1e-6)
    fpr, fnr, thresholds = metrics.det_curve(genuine, scores, drop_intermediate=False)
    for x, y, threshold in zip(fpr, fnr, thresholds, strict=True):
        fmr, fnmr = found.point(float(threshold))
        assert (fmr.item(), fnmr.item()) == pytest.approx((x, y), abs=1e-6)
    fpr, tpr, _ = metrics.roc_curve(genuine, scores, drop_intermediate=False)
    at = np.linspace(0, 1, 2001)  # the EER: where the polygon through the points meets FMR = FNMR
    lengths = np.r_[0, np.cumsum(np.abs(np.diff(fpr)) + np.abs(np.diff(tpr)))]
    x, y = np.interp(at * lengths[-1], lengths, fpr), 1 - np.interp(at * lengths[-1], lengths, tpr)
    assert found.eer().item() == pytest.approx(x[np.abs(x - y).argmin()], abs=2e-3)


DEGENERATE = [
    ([0.5, 0.5, 0.5, 0.5], [True, False, True, False]),  # all equal
    ([1.0, 0.0], [True, False]),  # one of each, told apart
    ([0.0, 1.0], [True, False]),  # the wrong way round
    ([0.0, -0.0, 1e-300, -1e-300], [True, False, False, True]),
    ([1e300, -1e300, 1e300], [True, False, False]),
    ([0.1 + 0.2, 0.3, 0.3], [True, False, True]),  # not quite equal
]


@pytest.mark.parametrize(("scores", "genuine"), DEGENERATE)
@pytest.mark.parametrize("check", [check_by_counting, check_by_sklearn])
def test_degenerate_scores(scores, genuine, check):
    check(scores, genuine)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("check", [check_by_counting, check_by_sklearn])
def test_random_scores(seed, ties, check):
    generator = torch.Generator().manual_seed(seed)
    genuine = torch.rand(60, generator=generator) < 0.4
    scores = torch.randn(60, generator=generator, dtype=torch.float64) + genuine
    check((scores.round() if ties else scores).tolist(), genuine.tolist())


@pytest.mark.parametrize("check", [check_by_counting, check_by_sklearn])
def test_whatever_hypothesis_finds(check):
    hypothesis = pytest.importorskip("hypothesis", reason="needs hypothesis")
    numbers = hypothesis.strategies.floats(allow_nan=False, allow_infinity=False, width=32)
    some = hypothesis.strategies.sampled_from([0.0, 0.5, 1.0])
    pairs = hypothesis.strategies.lists(
        hypothesis.strategies.tuples(numbers | some, hypothesis.strategies.booleans()), min_size=2, max_size=40
    ).filter(lambda pairs: len({genuine for _, genuine in pairs}) == 2)

    @hypothesis.settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @hypothesis.given(pairs)
    def holds(some):
        check(*map(list, zip(*some, strict=True)))

    holds()


@pytest.mark.parametrize(
    ("scores", "genuine", "message"),
    [
        ([], [], "of 0 pairs none is genuine"),
        ([0.1, 0.2], [True, True], "none is impostor, so there is no such error rate: give pictures of two people"),
        ([0.1, 0.2], [False, False], "none is genuine, .* give two pictures of some person"),
        ([0.1, math.nan], [True, False], "1 of 2 scores are nan or infinite"),
        ([0.1, math.inf], [True, False], "1 of 2 scores are nan or infinite"),
        ([0.1, 0.2], [True], r"shapes \(2,\) and \(1,\)"),
        ([0.1, 0.2], [2, 0], "give bool, or 0 and 1"),
    ],
)
def test_what_has_no_curve_says_so(scores, genuine, message):
    with pytest.raises(CourseError, match=message):
        curve(torch.tensor(scores), torch.tensor(genuine, dtype=None if genuine else torch.bool))


# points of the curve


def test_a_threshold_is_the_lowest_that_keeps_the_promise():
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    genuine = torch.tensor([1, 1, 0, 1, 0, 1, 0, 0])
    found = curve(scores, genuine)
    assert found.threshold_at(0.25) == pytest.approx(0.6)
    assert found.fnmr_at(0.25).item() == 0.25
    assert found.threshold_at(0.24) == pytest.approx(0.8)
    assert found.threshold_at(1) == pytest.approx(0.2)
    assert found.eer().item() == 0.25
    assert [rate.item() for rate in found.point(0.65)] == [0.25, 0.5]
    assert [rate.item() for rate in found.point(7)] == [0, 1]
    assert [rate.item() for rate in found.point(-math.inf)] == [1, 0]
    with pytest.raises(CourseError, match="threshold is nan"):
        found.point(math.nan)
    with pytest.raises(CourseError, match=r"fmr is -0.1"):
        found.fnmr_at(-0.1)


def test_no_threshold_but_infinity_lets_no_impostor_in_where_one_is_the_most_alike():
    found = curve(torch.tensor([0.9, 0.8]), torch.tensor([False, True]))
    assert found.threshold_at(0.5) == math.inf
    assert found.fnmr_at(0.5).item() == 1
    assert found.eer().item() == 1


def test_all_pairs_are_each_two_pictures_once():
    z = torch.tensor([[1.0, 0], [1, 1], [0, 2], [0, 0]])
    pairs = all_pairs(z, torch.tensor([3, 3, 7, 7]))
    assert pairs.scores.tolist() == pytest.approx([0.5**0.5, 0, 0, 0.5**0.5, 0, 0])
    assert pairs.genuine.tolist() == [True, False, False, False, False, True]
    assert pairs.people[1].tolist() == [3, 7]
    with pytest.raises(CourseError, match="an embedding is nan"):
        all_pairs(z * math.nan, torch.tensor([3, 3, 7, 7]))
    with pytest.raises(CourseError, match="shapes"):
        all_pairs(z, torch.tensor([3, 3, 7]))


# intervals over people


def people_with_luck(people, photos, seed, hard=0.6):
    """Embeddings in which people differ in how alike their own pictures are, so pairs of one person go together."""
    generator = torch.Generator().manual_seed(seed)
    spread = 0.4 + hard * torch.rand(people, 1, 1, generator=generator)
    centre = torch.randn(people, 1, 8, generator=generator)
    z = centre + spread * torch.randn(people, photos, 8, generator=generator)
    return all_pairs(z.flatten(0, 1), torch.arange(people).repeat_interleave(photos))


def test_weights_of_people_are_copies_of_people():
    """A draw that takes a person twice has his genuine pairs twice, and his pairs with others twice."""
    pairs = people_with_luck(5, 3, 0)
    drawn = [0, 0, 2, 3, 3]
    times = torch.bincount(torch.tensor(drawn), minlength=5).double().unsqueeze(0)
    scores, genuine = [], []
    for score, one, (a, b) in zip(pairs.scores.tolist(), pairs.genuine.tolist(), pairs.people.tolist(), strict=True):
        copies = drawn.count(a) if one else drawn.count(a) * drawn.count(b)
        scores += copies * [score]
        genuine += copies * [one]
    by_hand = curve(torch.tensor(scores, dtype=torch.float64), torch.tensor(genuine))
    statistics = {"eer": Curve.eer, "fnmr": partial(Curve.fnmr_at, fmr=0.2)}
    for statistic in statistics.values():
        order = pairs.scores.argsort(descending=True)
        first = times[:, pairs.people[order, 0]]
        weights = torch.where(pairs.genuine[order], first, first * times[:, pairs.people[order, 1]])
        one = verification.weighted_curves(pairs.scores[order], pairs.genuine[order], weights)
        assert statistic(one).item() == pytest.approx(statistic(by_hand).item(), abs=1e-12)


def test_an_interval_over_people_is_wider_than_one_over_pairs():
    pairs = people_with_luck(12, 6, 1, hard=1.5)
    found = verification.over_people(pairs, lambda curve: curve.point(0.5)[1], draws=400)
    rate = pairs.curve().point(0.5)[1].item()
    assert found.value == rate
    assert found.lower < rate < found.upper
    over_pairs = 1.96 * math.sqrt(rate * (1 - rate) / int(pairs.genuine.sum()))
    assert found.upper - rate > 1.5 * over_pairs
    assert str(found).endswith("over 12 people)")


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """100 populations of 20 people: the rate over very many people lies in the interval of most of them."""
    truth = sum(people_with_luck(60, 6, 1000 + k).curve().point(0.55)[1].item() for k in range(20)) / 20
    statistic = lambda curve: curve.point(0.55)[1]  # noqa: E731
    inside = 0
    for seed in range(100):
        found = verification.over_people(people_with_luck(20, 6, seed), statistic, draws=100, seed=seed)
        inside += found.lower <= truth <= found.upper
    assert 88 <= inside <= 100


def test_of_two_systems_what_is_hard_for_both_falls_out():
    splits = [people_with_luck(12, 5, seed) for seed in (3, 4)]
    worse = [Pairs(one.scores - 0.05 * one.genuine, one.genuine, one.people) for one in splits]
    difference = verification.difference_over_people(worse, splits, Curve.eer, draws=200)
    alone = verification.mean_over_people(splits, Curve.eer, draws=200)
    assert difference.lower > 0
    assert difference.upper - difference.lower < 0.6 * (alone.upper - alone.lower)
    with pytest.raises(NoInterval, match=r"20 draws of 12 people all give 0\.0 %"):
        verification.difference_over_people(splits, splits, Curve.eer, draws=20)
    with pytest.raises(CourseError, match="compare other pictures"):
        verification.difference_over_people(splits, [people_with_luck(11, 5, 3), splits[1]], Curve.eer)
    with pytest.raises(CourseError, match="2 and 1 splits"):
        verification.difference_over_people(splits, splits[:1], Curve.eer)


def test_a_threshold_of_one_half_is_used_on_the_other():
    """By hand: the halves in the order that the seed draws, each threshold on the pairs inside the other half."""
    pairs = people_with_luck(9, 4, 5)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3)).tolist()
    rates = []
    for one, other in ((order[:4], order[4:]), (order[4:], order[:4])):
        inside = [
            [
                (score, genuine)
                for score, genuine, both in zip(
                    pairs.scores.tolist(), pairs.genuine.tolist(), pairs.people.tolist(), strict=True
                )
                if set(both) <= set(half)
            ]
            for half in (one, other)
        ]
        impostors = sorted(score for score, genuine in inside[0] if not genuine)
        allowed = [s for s, _ in inside[0] if sum(i >= s for i in impostors) <= 0.1 * len(impostors)]
        rates.append(counted(*zip(*inside[1], strict=True), min(allowed)))
    want = [sum(column) / 2 for column in zip(*rates, strict=True)]
    assert verification.on_other_people(pairs, 0.1, seed=3) == pytest.approx(tuple(want))


def test_too_few_people_give_a_line_and_no_number():
    with pytest.raises(NoInterval, match="there are 4 people, too few"):
        verification.over_people(people_with_luck(4, 5, 0), Curve.eer)
    with pytest.raises(NoInterval, match=r"20 people make 190 pairs of people, so an FMR of 0.1 % .* 0.53 % or more"):
        verification.check_fmr(0.001, 20)
    verification.check_fmr(0.01, 20)
    with pytest.raises(CourseError, match="1 people make no impostor pair"):
        verification.least_fmr(1)


@pytest.mark.parametrize("turned", [False, True])
def test_draws_that_are_all_the_same_give_a_line_and_no_interval_without_width(turned):
    """20 people perfectly told apart (or never): every draw says the same, whatever other people would give."""
    z = torch.eye(20).repeat_interleave(3, 0)
    pairs = all_pairs(z, torch.arange(20).repeat_interleave(3))
    pairs = Pairs(-pairs.scores, pairs.genuine, pairs.people) if turned else pairs
    says = rf"50 draws of 20 people all give {100 * turned}\.0 %, .*: test on more people"
    for statistic in (Curve.eer, partial(Curve.fnmr_at, fmr=0.1)):
        with pytest.raises(NoInterval, match=says):
            verification.over_people(pairs, statistic, draws=50)
    with pytest.raises(NoInterval, match=says):
        verification.interval(float(turned), torch.full((50,), float(turned)) + 1e-15, 20)  # rounding is no spread


def test_no_splits_are_one_clear_line():
    with pytest.raises(CourseError, match="pairs of 0 splits, which have no mean; give those of one or more"):
        verification.mean_over_people([], Curve.eer)
    with pytest.raises(CourseError, match="pairs of 0 splits"):
        verification.bootstrap([], [Curve.eer])
    z, people = torch.eye(6), torch.arange(6)
    with pytest.raises(CourseError, match="no size of a gallery"):
        verification.measured_drift(z, people, 0.5, [])
    with pytest.raises(CourseError, match="draws is 0"):
        verification.measured_drift(z, people, 0.5, [2], draws=0)


def test_draws_without_a_genuine_pair_are_drawn_again():
    """Of 6 people one has two pictures: most draws of the others alone have no genuine pair."""
    z = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    pairs = all_pairs(z, torch.tensor([0, 0, 1, 2, 3, 4, 5]))
    found = verification.over_people(pairs, Curve.eer, draws=50)
    assert math.isfinite(found.lower)


# identification


def test_a_search_names_the_most_similar_person():
    gallery = torch.eye(3)
    probes = torch.tensor([[1.0, 0.1, 0], [0.2, 1, 0], [0, 1, 0.9]])
    found = search(gallery, torch.tensor([5, 6, 7]), probes, torch.tensor([5, 9, 7]))
    assert found.right.tolist() == [True, False, False]
    assert found.enrolled.tolist() == [True, False, True]
    assert found.size == 3
    assert found.fpir(0.5) == 1
    assert found.fpir(0.999) == 0
    assert found.fnir(0.5) == 0.5
    assert found.fnir(0.9999) == 1
    assert found.threshold_at(0) > found.scores[1]
    assert found.fnir_at(0) == 0.5
    with pytest.raises(CourseError, match="none is of a person who is not enrolled"):
        search(gallery, torch.tensor([5, 6, 7]), probes, torch.tensor([5, 6, 7])).fpir(0.5)
    for rate in (found.fpir, found.fnir):
        with pytest.raises(CourseError, match="threshold is nan"):
            rate(math.nan)
    with pytest.raises(CourseError, match="embeddings of 3 and 2 numbers: take both from one network"):
        search(gallery, torch.tensor([5, 6, 7]), probes[:, :2], torch.tensor([5, 9, 7]))
    with pytest.raises(CourseError, match="0 pictures enrolled and 3 probes"):
        search(gallery[:0], torch.empty(0, dtype=torch.int64), probes, torch.tensor([5, 6, 7]))


def test_no_probe_is_the_enrolled_picture():
    z = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    people = torch.arange(10).repeat_interleave(3)
    found = open_set(z, people, 4, torch.Generator().manual_seed(1))
    assert found.size == 4
    assert len(found.scores) == 26
    assert int(found.enrolled.sum()) == 8
    assert found.scores.max() < 1 - 1e-9
    for wrong in (0, 10):
        with pytest.raises(CourseError, match=f"of 10 people {wrong} cannot be enrolled: give 1 to 9"):
            open_set(z, people, wrong, torch.Generator())


def test_the_threshold_drifts_with_the_gallery_as_the_formula_says():
    """Independent embeddings: the comparisons of a probe are nearly independent."""
    z = torch.randn(1200, 64, generator=torch.Generator().manual_seed(0))
    people = torch.arange(600).repeat_interleave(2)
    threshold = all_pairs(z, people).curve().threshold_at(0.01)
    sizes = [1, 10, 50, 200]
    measured = verification.measured_drift(z, people, threshold, sizes, draws=5)
    torch.testing.assert_close(measured, verification.drift(0.01, torch.tensor(sizes)), atol=0.03, rtol=0)
    assert measured[-1] > 0.8


def test_the_drift_keeps_its_digits_and_its_ends():
    assert verification.drift(1e-12, 1).item() == pytest.approx(1e-12, rel=1e-9)
    assert verification.drift(0.3, 2).item() == pytest.approx(0.51)
    assert verification.drift(1.0, 3).item() == 1
    assert verification.drift(0.2, 0).item() == 0
    assert verification.drift(1, 0).item() == 0  # nobody is there who could be named
    assert verification.drift(torch.tensor([0.0, 1.0]), torch.tensor([5, 0])).tolist() == [0, 0]
    with pytest.raises(CourseError, match="an FMR from 0 to 1"):
        verification.drift(1.2, 3)
    with pytest.raises(CourseError, match="gallery of 0 people or more"):
        verification.drift(0.0, math.inf)
