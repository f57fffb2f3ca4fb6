"""Means, intervals, pairs."""

import json
import math

import pytest
import torch
from core_helpers import squares

from mlcourse import learners
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.evaluation import compare, evaluate
from mlcourse.statistics import mean_interval


def sampler(**shape):
    return EpisodeSampler(squares(), **({"way": 4, "shot": 1, "query": 3} | shape))


def test_mean_and_interval_by_hand():
    mean, half = mean_interval(torch.tensor([0.0, 1.0, 1.0, 0.0]))
    assert mean == 0.5
    assert half == pytest.approx(1.96 * math.sqrt(1 / 3) / 2)
    assert math.isnan(mean_interval(torch.tensor([1.0]))[1])


def test_the_interval_covers_the_truth_about_95_times_in_100():
    generator = torch.Generator().manual_seed(0)
    draws = (torch.rand(2000, 400, generator=generator) < 0.9).double()
    covered = sum(abs(mean - 0.9) <= half for mean, half in map(mean_interval, draws))
    assert 0.935 < covered / 2000 < 0.965


def test_the_same_seed_gives_the_same_result_and_another_seed_another():
    model = learners.build("prototypical", way=4, size=16, channels=8, seed=0)
    one = evaluate(model, sampler(), episodes=30, seed=1, tasks_at_once=10)
    two = evaluate(model, sampler(), episodes=30, seed=1, tasks_at_once=10)
    assert torch.equal(one.per_episode, two.per_episode)
    assert not torch.equal(one.per_episode, evaluate(model, sampler(), episodes=30, seed=2).per_episode)
    assert one.episodes == len(one.per_episode) == 30
    assert one.worst_tenth == pytest.approx(one.per_episode.sort().values[:3].mean().item())
    assert one.worst_tenth <= one.accuracy


def test_evaluation_leaves_the_learner_as_it_was():
    for method in ("maml", "prototypical"):
        model = learners.build(method, way=4, size=16, channels=8, seed=0).train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        evaluate(model, sampler(), episodes=5)
        assert model.training
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())


def test_a_perfect_and_a_guessing_learner():
    class Oracle(learners.PixelNeighbours):
        def score(self, prediction, batch):
            return super().score(torch.eye(4)[batch.query_y], batch)

    class Guess(learners.PixelNeighbours):
        def predict(self, state, query_x):
            return torch.eye(4)[torch.zeros(query_x.shape[:2], dtype=torch.long)]

    perfect, guess = (evaluate(model(), sampler(), episodes=20) for model in (Oracle, Guess))
    assert (perfect.accuracy, perfect.ci95, perfect.worst_tenth) == (1.0, 0.0, 1.0)
    assert guess.accuracy == pytest.approx(0.25)
    difference = compare(perfect, guess)
    assert difference.difference == pytest.approx(0.75)
    assert difference.ci95 == pytest.approx(0, abs=1e-12)


def test_pairing_is_sharper_than_two_intervals_when_episodes_are_hard_for_both():
    pixels = evaluate(learners.build("pixels", way=4, size=16), sampler(way=8), episodes=200)
    other = evaluate(learners.build("prototypical", way=4, size=16, channels=8, seed=0), sampler(way=8), episodes=200)
    paired = compare(other, pixels)
    assert paired.difference == pytest.approx(other.accuracy - pixels.accuracy)
    assert paired.ci95 < other.ci95 + pixels.ci95
    assert paired.lower == paired.difference - paired.ci95


def test_a_pair_of_different_episodes_is_refused():
    model = learners.build("pixels", way=4, size=16)
    with pytest.raises(CourseError, match="seed is 0 and 1"):
        compare(evaluate(model, sampler(), episodes=5), evaluate(model, sampler(), episodes=5, seed=1))
    one = evaluate(model, sampler(), episodes=10)
    other_data = EpisodeSampler(squares(split="test"), 4, 1, 3)
    with pytest.raises(CourseError, match="other pictures were drawn"):
        compare(one, evaluate(model, other_data, episodes=10))
    assert compare(one, evaluate(model, sampler(), episodes=10, tasks_at_once=4)).difference == 0
    assert compare(one, evaluate(model, sampler(), episodes=10)).difference == 0


def test_no_episodes_is_an_error_and_a_result_says_its_mode():
    model = learners.build("maml", way=4, size=16, channels=8, normalisation="batch")
    with pytest.raises(CourseError, match="episodes is 0"):
        evaluate(model, sampler(), episodes=0)
    json.dumps(evaluate(model, sampler(), episodes=1).as_json(), allow_nan=False)
    text = str(evaluate(model, sampler(), episodes=5))
    assert "normalisation batch, transductive" in text
    assert "5 episodes" in text
