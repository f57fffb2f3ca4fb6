"""The descents of notebook 11: rates are chosen on the tuning starts, and the sentences follow the results."""

import pytest
import torch

from mlcourse.errors import CourseError
from mlcourse.lessons.chaos import descents
from mlcourse.lessons.chaos.unroll_examples import influence_balancing, influence_balancing_gradient
from mlcourse.meta_optimization import rate_tuning

CHAIN = influence_balancing()
OPTIONS = {"budget": 4800, "truncation": 10, "pairs": 4, "sigma": 0.1, "seed": 0}


def starts(seed, count=4):
    return descents.starts(count, torch.Generator().manual_seed(seed))


def test_the_loss_is_that_of_the_chain():
    lam = torch.tensor([0.3], dtype=torch.float64)
    gap = 1e-4
    slope = (descents.outer_losses(CHAIN, lam + gap) - descents.outer_losses(CHAIN, lam - gap)) / (2 * gap)
    torch.testing.assert_close(slope[0], influence_balancing_gradient(lam[0]), rtol=1e-6, atol=0)


def test_starts_lie_between_their_ends_and_the_seed_decides():
    many = starts(0, 1000)
    assert 0.2 <= many.min() < 0.22
    assert 0.78 < many.max() <= 0.8
    assert torch.equal(many, starts(0, 1000))


def test_truncation_runs_away_from_the_chain_s_best_place_and_persistent_es_goes_there():
    race = starts(1)
    before = descents.outer_losses(CHAIN, race)
    rates = (0.01, 0.03)
    found = {way: descents.tuned(CHAIN, way, starts(0), race, rates=rates, **OPTIONS) for way in ("truncated", "PES")}
    assert torch.equal(found["PES"].path[0], race)
    assert found["truncated"].rate == 0.01, "where every rate leads uphill, the best moves least"
    assert (found["truncated"].losses > before).all()
    assert (found["PES"].losses < before).all()
    torch.testing.assert_close(found["PES"].losses, descents.outer_losses(CHAIN, found["PES"].path[-1]))
    assert found["PES"].used[-1] <= OPTIONS["budget"]


def test_the_rate_is_chosen_on_the_tuning_starts_only():
    options = {"budget": 1200, "truncation": 10}
    tuning, race, rates = starts(2), torch.tensor([5.0, -5.0], dtype=torch.float64), (1e-3, 0.05)
    ends = {}
    for rate in rates:
        given = options | {"rate": rate, "clip": descents.NO_CLIP}
        _, path = rate_tuning.descend(CHAIN, tuning, torch.zeros(len(tuning)), "exact", **given)
        ends[rate] = descents.outer_losses(CHAIN, path[-1]).mean().item()
    assert descents.tuned(CHAIN, "exact", tuning, race, rates=rates, seed=0, **options).rate == min(ends, key=ends.get)
    with pytest.raises(CourseError, match="rates is empty"):
        descents.tuned(CHAIN, "exact", tuning, race, rates=(), seed=0, **options)


def test_a_result_is_told_whichever_way_it_goes():
    one, noise = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 0.0, -0.1])
    assert descents.told(one, one + 1 + noise, "A", "B").endswith("lower in 3 of 3: A is lower")
    assert descents.told(one + 1 + noise, one, "A", "B").endswith("lower in 0 of 3: A is higher")
    assert descents.told(one + noise, one, "A", "B").endswith("lower in 1 of 3: no difference is shown")
    assert "A minus B: +0.000 ± 0.000 (paired over 3" in descents.told(one, one, "A", "B")
