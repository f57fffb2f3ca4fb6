"""What notebook 13 asks its methods, and regions of one colour: held against definitions and hand-made scenes."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from mlcourse import datasets, learners
from mlcourse.episodes import Episode
from mlcourse.evaluation import evaluate
from mlcourse.lessons.segmentation import exam, regions
from mlcourse.vision.segmentation import (
    ColourGroups,
    EveryCharacter,
    SceneTasks,
    colour_groups,
    framed,
    intersection_over_union,
)


@pytest.fixture(scope="module")
def characters():
    return datasets.load("glyphs", "val")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def two_shapes():
    """A scene with a red square and a blue bar, and masks of them."""
    square, bar = torch.zeros(2, 24, 24, dtype=torch.bool)
    square[3:9, 4:10], bar[14:17, 2:20] = True, True
    scene = torch.zeros(3, 24, 24)
    scene[0][square], scene[2][bar] = 0.8, 0.4
    return scene, square, bar


def test_regions_of_scenes_are_their_characters(characters):
    tasks = SceneTasks(characters, characters_per_scene=8)
    batch, scenes = tasks.with_scenes(4, generator())
    for k in range(4):
        wanted = int((scenes.visible[k] > 0).sum())
        found, _ = colour_groups(batch.query_x[k], 1)
        assert len(found) == wanted
        assert any(torch.equal(one, batch.query_y[k, 0]) for one in found)


def by_pixels():
    """Regions compared by their pixels: the encoder that learns nothing."""
    return ColourGroups(nn.Flatten())


def test_the_nearest_region_is_the_answer():
    scene, square, bar = two_shapes()
    support = torch.zeros(32, 32, dtype=torch.bool)
    support[2:30, 2:30] = True  # a square
    task = Episode(support.float().expand(1, 1, 3, -1, -1), support[None, None], scene[None, None], square[None, None])
    assert torch.equal(exam.ask(by_pixels(), task)[0], square)
    flat = torch.zeros(32, 32, dtype=torch.bool)
    flat[14:18, 3:29] = True
    taught = exam.with_mask(task, lambda masks: flat.expand_as(masks))
    assert torch.equal(exam.ask(by_pixels(), taught)[0], bar)
    empty = Episode(task.support_x, task.support_y, torch.zeros_like(task.query_x), task.query_y)
    assert not exam.ask(by_pixels(), empty).any()


def test_ask_gives_what_evaluate_scores(characters):
    tasks = SceneTasks(characters, characters_per_scene=4)
    result = evaluate(EveryCharacter(), tasks, episodes=15, seed=3)
    batch = torch.cat([tasks.sample(15, generator(3)).query_y])
    sampled = tasks.sample(15, generator(3))
    found = exam.ask(EveryCharacter(), sampled)
    assert torch.equal(batch[:, 0], sampled.query_y[:, 0])
    torch.testing.assert_close(intersection_over_union(found, sampled.query_y[:, 0]), result.per_episode)


def test_half_of_a_mask_is_its_upper_half():
    masks = torch.rand(3, 1, 9, 7, generator=generator()) > 0.4
    half = exam.upper_half(masks)
    assert (half <= masks).all()
    assert torch.equal(half.sum((-2, -1)), masks.sum((-2, -1)) // 2)
    kept, left = half[0, 0].flatten().nonzero(), (masks & ~half)[0, 0].flatten().nonzero()
    assert int(kept.max()) < int(left.min())


def test_the_target_stays_while_the_scene_fills(characters):
    scenes = exam.growing(characters, generator(1), counts=(4, 16, 64))
    ink = [one.query_x[0, 0].amax(0) > 0 for one in scenes.values()]
    for one in scenes.values():
        assert torch.equal(one.query_y, scenes[4].query_y)
        assert torch.equal(one.support_x, scenes[4].support_x)
        assert int(one.query_y.sum()) >= 12
    assert all((a <= b).all() for a, b in pairwise(ink))
    counts = [len(colour_groups(one.query_x[0], 1)[0]) for one in scenes.values()]
    assert counts[0] == 4
    assert counts[0] < counts[1] < counts[2]


def test_growing_scenes_show_another_picture_than_the_drawing(characters):
    for seed in range(20):
        scenes = exam.growing(characters, generator(seed), counts=(4,))
        assert int(scenes[4].classes.unique().numel()) == 1


def test_distorted_characters_are_tasks_for_training(characters):
    source = regions.DistortedCharacters(characters, way=4, query=2)
    batch = source.sample(2, generator())
    assert batch.support_x.shape == (2, 4, 1, 28, 28)
    assert batch.query_x.shape == (2, 8, 1, 28, 28)
    assert torch.equal(batch.support_y, torch.arange(4).repeat(2, 1))
    assert ((batch.support_x.flatten(2).amax(2)) > 0.5).all()
    again = source.sample(2, generator())
    assert torch.equal(batch.query_x, again.query_x)
    learner = learners.build("prototypical", way=4, channels=8)
    assert learner.outer_loss(batch)[0].isfinite()


def test_an_encoder_learns_from_frames_as_the_learner_of_scenes_sees_them(characters):
    """Trained on single characters, asked about scenes: both must frame a shape alike."""
    drawn = regions.DistortedCharacters(characters, way=3, query=1).sample(1, generator())
    seen = []
    learner = ColourGroups(nn.Flatten())
    learner.network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    masks = torch.rand(3, 40, 30, generator=generator()) > 0.7
    learner.embed(masks)
    assert seen[0].shape[1:] == drawn.support_x.shape[2:]
    assert torch.equal(seen[0], framed(masks, regions.SIDE))
    edges = torch.stack([drawn.support_x[0, :, 0, 0], drawn.support_x[0, :, 0, -1]]).amax(2)
    assert (edges > 0.1).all(), "a shape fills its frame"
