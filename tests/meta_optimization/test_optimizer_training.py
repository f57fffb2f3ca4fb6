"""Training the course's learned optimizer: the recipe learns, baselines are tuned and cannot be tuned badly, and the
rule that the course keeps is better at its horizon than they are."""

import math
from itertools import pairwise

import pytest
import scipy.stats
import torch

from mlcourse import places
from mlcourse.errors import CourseError
from mlcourse.meta_optimization import learned_optimizers, optimizer_training, small_tasks
from mlcourse.meta_optimization.learned_optimizers import SGD, Adam, MLPRule, curves
from mlcourse.meta_optimization.optimizer_training import (
    HORIZON,
    RATES,
    best_adam,
    best_baseline,
    late,
    meta_train,
    paired,
    stretched,
)

KEPT = places.data() / "checkpoints" / "optimizer" / "rule.safetensors"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MLPRule(**options)


def test_a_short_meta_training_learns_and_its_seed_decides():
    family = small_tasks.quadratics()
    unseen = family.sample(64, seeded(9))
    rule, again, other = made(), made(), made()
    before = curves(rule, family, unseen, horizon=20)[:, -1]
    settings = {"window": 10, "steps": 40, "tasks": 8, "horizon": 20, "progress": False}
    history = meta_train(rule, family, **settings)
    assert len(history.losses) == 40
    gain = paired(before, curves(rule, family, unseen, horizon=20)[:, -1])
    assert gain.difference - 3 * gain.ci95 > 0
    meta_train(again, family, **settings)
    meta_train(other, family, seed=1, **settings)
    assert all(torch.equal(value, again.weights()[name]) for name, value in rule.weights().items())
    assert not all(torch.equal(value, other.weights()[name]) for name, value in rule.weights().items())


def test_late_weights_count_the_end_and_sum_to_one():
    weights = [late(50)(t) for t in range(1, 51)]
    assert sum(weights) == pytest.approx(1, abs=0.1)
    assert weights == sorted(weights)
    assert sum(weights[40:]) > 0.7
    assert sum(late(5000)(t) for t in range(1, 5001)) == pytest.approx(1, abs=1e-3)


def test_the_rates_are_many_and_wide():
    """Fifteen or more, four decades, evenly spaced in the logarithm."""
    logs = [math.log10(rate) for rate in RATES]
    gaps = [b - a for a, b in pairwise(logs)]
    assert len(RATES) >= 15
    assert logs[-1] - logs[0] >= 4
    assert max(gaps) == pytest.approx(min(gaps))


def test_the_best_baseline_is_the_best_of_both_schedules():
    family = small_tasks.sinusoids()
    tasks = family.sample(16, seeded())
    rates = RATES[6::3]
    tuned = best_baseline("SGD with momentum", family, tasks, horizon=20, rates=rates)
    assert isinstance(tuned.rule, SGD)
    assert tuned.rule.momentum == 0.9
    assert tuned.rule.rate.item() == tuned.rate
    assert tuned.loss == pytest.approx(curves(tuned.rule, family, tasks, horizon=20)[:, -1].mean().item())
    factors = {"constant": None, "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * (t - 1) / 20))}
    for factor in factors.values():
        for rate in rates:
            other = curves(SGD(rate, momentum=0.9, schedule=factor), family, tasks, horizon=20)[:, -1].mean()
            assert not other < tuned.loss - 1e-6
    with pytest.raises(CourseError, match="is at the edge of those tried"):
        best_baseline("Adam", family, tasks, horizon=20, rates=[1e-4, 1e-3])
    with pytest.raises(CourseError, match="baseline 'RMSprop' is unknown; use one of SGD with momentum, Adam"):
        best_baseline("RMSprop", family, tasks)


def test_paired_differences_have_the_interval_of_their_tasks():
    one, other = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.5, 1.0, 3.5, 3.0])
    gap = paired(one, other)
    assert gap.difference == pytest.approx(0.5)
    assert gap.ci95 == pytest.approx(scipy.stats.t(3).ppf(0.975) * (one - other).std().item() / 2)
    for bad in (other[:3], other.unsqueeze(1)):
        with pytest.raises(CourseError, match="paired losses have the shapes"):
            paired(one, bad)


def test_the_command_writes_a_rule_that_says_how_it_was_made(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(optimizer_training, "compare", lambda rule: [f"compared {type(rule).__name__}"])
    optimizer_training.main([str(tmp_path / "new"), "--short", "2", "--whole", "1", "--tasks", "2", "--quiet"])
    assert "compared MLPRule" in capsys.readouterr().out
    rule, about = learned_optimizers.load(tmp_path / "new" / "rule.safetensors")
    assert (about["short"], about["whole"], about["tasks"], about["horizon"]) == (2, 1, 2, HORIZON)
    assert about["command"].endswith("new --short 2 --whole 1 --tasks 2")
    same = optimizer_training.make(short=2, whole=1, tasks=2, progress=False)
    assert all(torch.equal(value, rule.weights()[name]) for name, value in same.weights().items())


def test_the_kept_rule_is_of_the_recipe():
    rule, about = learned_optimizers.load(KEPT)
    defaults = optimizer_training.make.__kwdefaults__
    assert {name: about[name] for name in ("short", "whole", "tasks")} == {
        name: defaults[name] for name in ("short", "whole", "tasks")
    }
    assert about["command"] == "python -m mlcourse.meta_optimization.optimizer_training data/checkpoints/optimizer"
    assert rule.config == made().config


def test_the_kept_rule_beats_tuned_optimizers_at_its_horizon_and_an_untrained_one_does_not():
    """64 unseen tasks, paired; fewer rates than in the comparison of data/checkpoints/README.md, around the best."""
    rule, _ = learned_optimizers.load(KEPT)
    family = small_tasks.sinusoids()
    to_tune, unseen = family.sample(64, seeded(70)), family.sample(256, seeded(71))
    own, raw = (curves(one, family, unseen, horizon=HORIZON)[:, -1] for one in (rule, made()))
    for name in optimizer_training.BASELINES:
        tuned = best_baseline(name, family, to_tune, rates=RATES[9:25:3])
        theirs = curves(tuned.rule, family, unseen, horizon=HORIZON)[:, -1]
        gap = paired(own, theirs)
        assert gap.upper < 0, name
        assert not paired(raw.nan_to_num(nan=1e4, posinf=1e4), theirs).difference < 0, (
            "the bar would be passed untrained"
        )


def test_adam_is_a_baseline_too():
    assert isinstance(optimizer_training.BASELINES["Adam"](None), Adam)


def test_the_best_adam_is_the_best_of_all_configurations():
    family = small_tasks.sinusoids()
    tasks, rates, betas = family.sample(16, seeded()), RATES[14:26:3], [(0.7, 0.9), (0.9, 0.999)]
    tuned = best_adam(family, tasks, horizon=20, rates=rates[::-1], betas=betas)
    assert tuned.tried == 2 * 3 * len(rates)
    assert tuned.rule.rate.item() == tuned.rate
    assert tuned.loss == pytest.approx(curves(tuned.rule, family, tasks, horizon=20)[:, -1].mean().item(), rel=1e-3)
    factors = {
        "constant": None,
        "linear": lambda t: 1 - (t - 1) / 20,
        "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * (t - 1) / 20)),
    }
    others = {}
    for name, factor in factors.items():
        for rate in rates:
            for pair in betas:
                end = curves(Adam(rate, pair, schedule=factor), family, tasks, horizon=20)[:, -1].mean().item()
                others[end] = (rate, pair, name)
    assert (tuned.rate, tuned.rule.betas, tuned.schedule) == others[min(others)]


def test_an_adam_cannot_be_tuned_badly():
    family = small_tasks.sinusoids()
    tasks, few = family.sample(4, seeded()), {"horizon": 4, "betas": [(0.9, 0.99)]}
    with pytest.raises(CourseError, match=r"the best rate, 0\.001, is at the edge of those tried"):
        best_adam(family, tasks, rates=[1e-4, 1e-3], schedules=["constant"], **few)
    with pytest.raises(CourseError, match="schedule 'warm' is unknown; use one of constant, linear, cosine"):
        best_adam(family, tasks, schedules=["warm"], **few)


def test_an_adam_for_longer_trainings_stretches_its_schedule():
    family = small_tasks.sinusoids()
    tuned = best_adam(family, family.sample(4, seeded()), horizon=4, betas=[(0.7, 0.9)], schedules=["linear"])
    longer = stretched(tuned, 8)
    assert (longer.rate.item(), longer.betas) == (tuned.rate, (0.7, 0.9))
    assert [longer.schedule(t) for t in (1, 5, 8)] == [1, 0.5, 0.125]
    assert tuned.rule.schedule(9) == 0, "beyond its horizon a linear schedule stays at 0"
