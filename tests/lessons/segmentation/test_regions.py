"""What notebook 13 asks its methods, and regions of one colour: held against definitions and hand-made scenes."""

from itertools import pairwise

import pytest
import torch

from mlcourse import datasets, learners
from mlcourse.episodes import Episode
from mlcourse.evaluation import evaluate
from mlcourse.lessons.segmentation import exam, regions
from mlcourse.vision.segmentation import EveryCharacter, SceneTasks, intersection_over_union


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


def test_a_region_is_all_ink_of_one_colour():
    scene, square, bar = two_shapes()
    found = regions.regions(scene)
    assert len(found) == 2
    assert {tuple(one.flatten().tolist()) for one in found} == {tuple(m.flatten().tolist()) for m in (square, bar)}
    assert len(regions.regions(torch.zeros(3, 8, 8))) == 0


def test_regions_of_scenes_are_their_characters(characters):
    tasks = SceneTasks(characters, characters_per_scene=8)
    batch, scenes = tasks.with_scenes(4, generator())
    for k in range(4):
        wanted = int((scenes.visible[k] > 0).sum())
        found = regions.regions(batch.query_x[k, 0])
        assert len(found) == wanted
        assert any(torch.equal(one, batch.query_y[k, 0]) for one in found)


def test_a_frame_holds_the_whole_mask_in_its_middle():
    _, square, bar = two_shapes()
    pictures = regions.framed(torch.stack([square, bar]))
    assert pictures.shape == (2, 1, 28, 28)
    assert pictures[0].sum() == pytest.approx(20 * 20, rel=0.02)
    ink = pictures[0, 0] > 0.5
    assert ink[5:23, 5:23].all()  # corners are soft: a mask is sampled between its pixels
    assert not ink[:3].any()
    assert not ink[:, 25:].any()
    rows, columns = (pictures[1, 0] > 0.5).any(1).sum(), (pictures[1, 0] > 0.5).any(0).sum()
    assert int(columns) == 20
    assert int(rows) == pytest.approx(20 * (3 / 18) ** 0.5, abs=1)  # stretched by the root of the ratio


def test_a_frame_forgets_place_and_size():
    small, large, moved = torch.zeros(3, 60, 60, dtype=torch.bool)
    small[5:9, 5:11], large[8:24, 10:34], moved[40:44, 30:36] = True, True, True
    made = regions.framed(torch.stack([small, large, moved]))
    torch.testing.assert_close(made[0], made[2])
    assert float(((made[0] > 0.5) == (made[1] > 0.5)).float().mean()) > 0.95


def test_the_nearest_region_is_the_answer():
    scene, square, bar = two_shapes()
    support = torch.zeros(32, 32, dtype=torch.bool)
    support[2:30, 2:30] = True  # a square
    task = Episode(support.float().expand(1, 1, 3, -1, -1), support[None, None], scene[None, None], square[None, None])
    assert torch.equal(exam.ask(regions.RegionPrototypes(None), task)[0], square)
    flat = torch.zeros(32, 32, dtype=torch.bool)
    flat[14:18, 3:29] = True
    taught = exam.with_mask(task, lambda masks: flat.expand_as(masks))
    assert torch.equal(exam.ask(regions.RegionPrototypes(None), taught)[0], bar)
    empty = Episode(task.support_x, task.support_y, torch.zeros_like(task.query_x), task.query_y)
    assert not exam.ask(regions.RegionPrototypes(None), empty).any()


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
    counts = [len(regions.regions(one.query_x[0, 0])) for one in scenes.values()]
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
