"""What notebook 15 asks: errors added up by people, intervals that cover, single nuisances, people alike."""

import pytest
import torch

from mlcourse.lessons.faces import checks, exam
from mlcourse.vision import faces as recognition
from mlcourse.vision import verification
from mlcourse.vision.verification import Pairs


@pytest.fixture(scope="module")
def data():
    return exam.people("test", samples=3, most=30)


@pytest.fixture(scope="module")
def pairs(data):
    return recognition.pairs_of(recognition.pixels(data), data)


def test_nobody_of_the_crowd_is_in_a_split():
    crowd, everyone = exam.crowd(400, samples=1), exam.people("all", samples=1)
    assert crowd.classes == 400
    assert exam.crowd(30, samples=2).counts.tolist() == [2] * 30
    straight = [exam.faces.render(exam.faces.population(seed), exam.faces.plain(400)) for seed in (0, exam.OTHER_SEED)]
    flat = [one.flatten(1).float() / 255 for one in straight]
    assert torch.cdist(*flat).min() > 0
    assert everyone.classes == 400


def test_couples_add_up_to_the_rates_of_the_curve(pairs):
    for threshold in (0.0, 0.4, 0.8):
        found = exam.couples(pairs, threshold)
        assert len(found.people) == 30 * 31 // 2
        assert found.compared.sum() == len(pairs.scores)
        fmr, fnmr = pairs.curve().point(threshold)
        assert found.rates() == pytest.approx((float(fmr), float(fnmr)), abs=1e-12)


def test_weighted_rates_are_those_of_the_packages_bootstrap(pairs):
    generator = torch.Generator().manual_seed(4)
    drawn = torch.randint(30, (30,), generator=generator)
    found = exam.couples(pairs, 0.5)
    rates = found.rates(checks.pair_weights.reference(drawn, found.people))
    order = pairs.scores.argsort(descending=True)
    weights = checks.pair_weights.reference(drawn, pairs.people)[order]
    curve = verification.weighted_curves(pairs.scores[order], pairs.genuine[order], weights.unsqueeze(0))
    at = int((curve.thresholds >= 0.5).sum()) - 1
    assert rates == pytest.approx((float(curve.fmr[0, at]), float(curve.fnmr[0, at])), abs=1e-9)


def made_of_people(people=60, pictures=4, seed=0):
    """Pairs whose scores hang on the two people much more than on the pictures."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(people, generator=generator, dtype=torch.float64)
    who = torch.arange(people).repeat_interleave(pictures)
    first, second = torch.triu_indices(len(who), len(who), 1)
    both = torch.stack([who[first], who[second]], 1)
    noise = 0.3 * torch.randn(len(first), generator=generator, dtype=torch.float64)
    return Pairs(own[both[:, 0]] + own[both[:, 1]] + noise, both[:, 0] == both[:, 1], both)


def test_an_interval_over_people_covers_where_one_over_pairs_does_not():
    pairs = made_of_people()
    asked = {"groups": 60, "size": 20, "seed": 0}
    over_people = exam.half_over_people(checks.pair_weights.reference, draws=60, seed=0)
    held, half = exam.covered(pairs, 1.5, over_people, **asked)
    held_by_pairs, narrow = exam.covered(pairs, 1.5, exam.half_by_pairs, **asked)
    assert held > 0.85
    assert held_by_pairs < 0.6
    assert narrow < half / 2


def test_apart_pairs_people_and_says_why_it_has_no_interval(data, pairs):
    other = recognition.pairs_of(recognition.eigenfaces(data, 5), data)
    found = exam.apart(other, pairs, verification.Curve.eer, draws=50, seed=0)
    assert found.value == pytest.approx(float(other.curve().eer() - pairs.curve().eer()))
    assert found.lower < found.value < found.upper
    assert "draws" in exam.apart(pairs, pairs, verification.Curve.eer, draws=50, seed=0)


def test_a_nuisance_changes_one_thing_and_a_plain_portrait_is_let_in(data):
    plain = exam.portraits(10, {}, seed=1)
    assert plain.shape == (10, 1, *exam.SIZE)
    away = {
        name: (exam.portraits(10, change, seed=1).float() - plain).abs().mean()
        for name, change in exam.NUISANCES.items()
    }
    assert away.pop("nothing") == 0
    assert all(value > 0.3 for value in away.values()), away
    rates = exam.shut_out(recognition.pixels(data), 0.9, 30)
    assert rates.keys() == exam.NUISANCES.keys()
    assert rates["nothing"] < 0.05
    assert all(0 <= rate <= 1 for rate in rates.values())
    assert exam.shut_out(recognition.pixels(data), 1.01, 5) == dict.fromkeys(exam.NUISANCES, 1.0)


def test_portraits_are_of_the_test_people():
    """The first portrait is that of the first test person, but for the noise."""
    numbers = exam.faces.population()
    first = exam.faces.PEOPLE["train"] + exam.faces.PEOPLE["val"]
    one = exam.faces.picked(numbers, torch.arange(first, first + 1))
    wanted = exam.faces.render(one, exam.faces.plain(1), exam.SIZE).float()
    assert (exam.portraits(1, {}).float() - wanted).abs().mean() < 6  # the noise


def test_couples_alike_are_parts_of_all(pairs):
    found = exam.look_alike(pairs, 0.3)
    counts = {name: count for name, (_, count) in found.items()}
    assert counts["any two people"] == 30 * 29 // 2
    assert (
        counts["alike in both"]
        == counts["of alike skin tone"]
        + counts["of alike hair tone"]
        + counts["alike in neither"]
        - counts["any two people"]
    )
    assert counts["of alike skin tone"] == 3 * (10 * 9 // 2)
    assert found["any two people"][0] == pytest.approx(float(pairs.curve().point(0.3)[0]), abs=1e-12)
