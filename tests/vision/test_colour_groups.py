"""Segmentation by colour groups: what a group is, what its frame shows, its loss against a plain one."""

import pytest
import torch
from torch.nn import functional as F

from mlcourse import datasets, learners
from mlcourse.datasets import scenes
from mlcourse.evaluation import evaluate
from mlcourse.training import train
from mlcourse.vision import segmentation
from mlcourse.vision.segmentation import SceneTasks, colour_groups, framed


@pytest.fixture(scope="module")
def characters():
    return datasets.load("glyphs", "test")


@pytest.fixture
def learner():
    return segmentation.build("colour-groups", seed=0)


def test_groups_are_the_characters_that_are_seen(characters):
    source = SceneTasks(characters, characters_per_scene=(4, 12), scenes=2)
    batch, drawn = source.with_scenes(5, torch.Generator().manual_seed(0))
    masks, scene = colour_groups(batch.query_x.flatten(0, 1), scenes.LEAST)
    for number, owner in enumerate(drawn.owner):
        mine = masks[scene == number]
        seen = [owner == place for place in owner.unique().tolist() if place >= 0]
        expected = {tuple(one.flatten().tolist()) for one in seen if int(one.sum()) >= scenes.LEAST}
        assert {tuple(one.flatten().tolist()) for one in mine} == expected
    assert bool((masks.int().sum((1, 2)) >= scenes.LEAST).all())


def test_scenes_of_one_colour_or_of_none():
    x = torch.zeros(3, 3, 9, 9)
    x[0, :, 2:4, 2:4] = 0.5  # 4 pixels: fewer than `least`, but the largest there is
    x[1, 0, 1:7, 1:7] = 1.0
    masks, scene = colour_groups(x, 8)
    assert scene.tolist() == [0, 1, 2]
    assert [int(one.sum()) for one in masks] == [4, 36, 0]


def test_a_frame_shows_a_shape_whatever_its_size_place_and_proportions():
    shape = torch.zeros(1, 40, 40, dtype=torch.bool)
    shape[0, 3:17, 5:12] = torch.rand(14, 7, generator=torch.Generator().manual_seed(0)) > 0.4
    shape[0, 3, 5] = shape[0, 16, 11] = True
    moved = shape.roll((9, 20), (1, 2))
    doubled = torch.zeros(1, 80, 80, dtype=torch.bool)
    doubled[0, :28, :21] = shape[0, 3:17, 5:12].repeat_interleave(2, 0).repeat_interleave(3, 1)
    frame = framed(shape, 28)
    assert frame.shape == (1, 1, 28, 28)
    assert torch.allclose(framed(moved, 28), frame, atol=1e-5)
    # what lies between two pixels is mixed of both, so single pixels of a noisy shape may differ
    agree = ((framed(doubled, 28) > 0.5) == (frame > 0.5)).float().mean()
    assert agree > 0.9
    whole = torch.ones(1, 6, 6, dtype=torch.bool)
    assert framed(whole, 28)[0, 0, 4:24, 4:24].min() == pytest.approx(1)


def test_the_loss_is_the_cross_entropy_of_the_right_group(characters, learner):
    batch = SceneTasks(characters, characters_per_scene=(4, 7), scenes=2).sample(3, torch.Generator().manual_seed(1))
    learner.double().eval()
    batch = batch.to(dtype=torch.float64)
    loss = learner.outer_loss(batch)[0]
    masks, scene = colour_groups(batch.query_x.flatten(0, 1), learner.least)
    losses = []
    for number in range(6):
        mine = masks[scene == number]
        z = learner.embed(mine)
        prototype = learner.embed(batch.support_y[number // 2])[0]
        logits = z @ prototype / learner.log_temperature.exp()
        right = (mine & batch.query_y.flatten(0, 1)[number]).sum((1, 2)).argmax()
        losses.append(F.cross_entropy(logits.unsqueeze(0), right.unsqueeze(0)))
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-9)
    loss.backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in learner.parameters())


def test_exactly_one_group_of_a_scene_is_the_answer(characters, learner):
    batch = SceneTasks(characters, characters_per_scene=9, scenes=2).sample(4, torch.Generator().manual_seed(2))
    logits = learner.eval()(batch.support_x, batch.support_y, batch.query_x)
    assert logits.shape == batch.query_y.shape
    masks, scene = colour_groups(batch.query_x.flatten(0, 1), learner.least)
    for number, found in enumerate((logits > 0).flatten(0, 1)):
        assert any(torch.equal(found, one) for one in masks[scene == number])


def test_in_one_ink_it_answers_as_every_character(characters, learner):
    source = SceneTasks(characters, characters_per_scene=5, recipe="grey")
    batch = source.sample(3, torch.Generator().manual_seed(3))
    every = segmentation.build("every-character")
    found = [one.eval()(batch.support_x, batch.support_y, batch.query_x) > 0 for one in (learner, every)]
    assert torch.equal(*found)


def test_an_empty_scene_is_answered_by_nothing(characters, learner):
    batch = SceneTasks(characters).sample(2, torch.Generator().manual_seed(4))
    logits = learner.eval()(batch.support_x, batch.support_y, torch.zeros_like(batch.query_x))
    assert logits.isfinite().all()
    assert not (logits > 0).any()


def test_it_learns_is_inductive_and_comes_back(characters, learner, tmp_path):
    train(learner, SceneTasks(characters), steps=3, tasks=2, out=tmp_path / "run", progress=False)
    again = learners.load(tmp_path / "run")
    source = SceneTasks(characters, characters_per_scene=6, scenes=2)
    results = [evaluate(one, source, episodes=6) for one in (learner, again)]
    assert results[0].value == results[1].value
    assert results[0].transductive is False
