"""Every picture embedded once: the same answers, and only where that is so."""

import pytest
import torch
from core_helpers import squares

from mlcourse import learners, training
from mlcourse.episodes import EpisodeSampler
from mlcourse.evaluation import evaluate
from mlcourse.learners.metric import MetricLearner
from mlcourse.protocols import embedded
from mlcourse.protocols.protocol import without_pictures
from mlcourse.protocols.results import Answers

COMPARING = [name for name, one in learners.METHODS.items() if issubclass(one.learner, MetricLearner)]


def samplers(**shape):
    data, shape = squares(), {"way": 4, "shot": 2, "query": 5} | shape
    return EpisodeSampler(data, **shape), EpisodeSampler(without_pictures(data), **shape)


def built(method, **options):
    """A learner whose running statistics are not those of a fresh one, so that they matter."""
    of_images = learners.METHODS[method].learner.trains_on == "images"
    options |= {"classes": squares().classes} if of_images else {}
    learner = learners.build(method, way=4, size=16, seed=0, channels=8, **options)
    source, tasks = (training.Images(squares()), 80) if of_images else (samplers()[0], 4)
    learner.train().outer_loss(source.sample(tasks, torch.Generator().manual_seed(1)))
    return learner.eval()


def logits(learner, source, episodes=40):
    answers = Answers(squares())
    result = evaluate(learner, source, episodes=episodes, seed=3, watch=answers)
    return answers.logits, result


@pytest.mark.parametrize("method", COMPARING)
def test_the_answers_are_those_of_episode_by_episode(method):
    learner, (sampler, indices) = built(method), samplers()
    short, source = embedded.once(learner, sampler, indices, episodes=40, seed=3)
    assert isinstance(short, embedded.Embedded)
    (expected, plain), (found, result) = logits(learner, sampler), logits(short, source)
    scale = (expected - expected.mean()).abs().max()
    assert (found - expected).abs().max() <= 1e-5 * scale  # float32: rounding depends on how many are embedded together
    assert torch.equal(result.per_episode, plain.per_episode)
    assert (result.digest, result.normalisation, result.transductive) == (plain.digest, plain.normalisation, False)


@pytest.mark.parametrize("method", COMPARING)
def test_in_float64_they_are_equal_to_ten_digits(method):
    learner, (sampler, indices) = built(method).double(), samplers()
    short, source = embedded.once(learner, sampler, indices, episodes=40, seed=3)
    expected, found = logits(learner, sampler)[0], logits(short, source)[0]
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_each_picture_is_embedded_once_and_no_more(monkeypatch):
    learner, (sampler, indices) = built("prototypical"), samplers()
    seen = []
    encode = type(learner).encode
    monkeypatch.setattr(type(learner), "encode", lambda self, x: seen.append(x.shape[:2].numel()) or encode(self, x))
    short, source = embedded.once(learner, sampler, indices, episodes=400, seed=3)
    evaluate(short, source, episodes=400, seed=3)
    assert len(sampler.data.images) <= sum(seen) < 2.5 * len(sampler.data.images)  # and a few to see that it is right


@pytest.mark.parametrize("method", ["maml", "pixels", "anil"])
def test_a_learner_that_does_not_compare_stays_as_it_is(method):
    learner, (sampler, indices) = learners.build(method, way=4, size=16, seed=0), samplers()
    assert embedded.once(learner, sampler, indices, episodes=400, seed=0) == (learner, sampler)


def test_few_episodes_are_not_worth_embedding_all():
    learner, (sampler, indices) = built("prototypical"), samplers()
    assert embedded.once(learner, sampler, indices, episodes=2, seed=0) == (learner, sampler)


class Company(learners.PrototypicalNetwork):
    """Its embeddings depend on what is embedded beside them."""

    def encode(self, x):
        z = super().encode(x)
        return z - z.mean(1, keepdim=True)


class Twice(learners.PrototypicalNetwork):
    """It adapts otherwise than `keep` says."""

    def inner_process(self, support_x, support_y, **more):
        return super().inner_process(support_x.flip(-1), support_y, **more)


@pytest.mark.parametrize("kind", [Company, Twice])
def test_a_learner_that_is_more_than_its_parts_is_asked_episode_by_episode(kind):
    learner, (sampler, indices) = kind(built("prototypical").network), samplers()
    assert embedded.once(learner, sampler, indices, episodes=400, seed=0) == (learner, sampler)
