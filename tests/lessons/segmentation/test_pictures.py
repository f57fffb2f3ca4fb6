"""The pictures of notebook 13: what they say is true, they follow their values, and they are fast enough to drag."""

import numpy as np
import pytest
import torch
from picture_helpers import assert_follows

from mlcourse.episodes import Episode
from mlcourse.learners import Learner
from mlcourse.lessons.segmentation import pictures
from mlcourse.teaching import figures


class Brighter(Learner):
    """Marks the pixels of a scene that are brighter than the mean under the mask; it has nothing to train."""

    trains_on = "nothing"

    def inner_process(self, support_x, support_y, **_):
        weights = support_y[:, :, None].float()
        return {"level": (support_x * weights).sum((1, 2, 3, 4)) / (3 * weights.sum((1, 2, 3, 4))).clamp_min(1e-6)}

    def predict(self, state, query_x):
        return query_x.mean(2) - state["level"][:, None, None, None]


def some_tasks(tasks=2, side=96):
    generator = torch.Generator().manual_seed(0)
    masks = [torch.rand(tasks, 1, size, size, generator=generator) > 0.8 for size in (32, side)]
    images = [torch.rand(tasks, 1, 3, size, size, generator=generator) for size in (32, side)]
    return Episode(images[0], masks[0], images[1], masks[1], torch.zeros(tasks, 1, dtype=torch.int64))


BATCH = some_tasks()
PAINTING = pictures.Painting(Brighter(), BATCH)


def maps():
    generator = torch.Generator().manual_seed(1)
    of_drawing, of_scene = (torch.randn(8, size, size, generator=generator) for size in (16, 48))
    return pictures.CosineMap(BATCH.support_x[0, 0], BATCH.query_x[0, 0], of_drawing, of_scene)


def clutter():
    scenes = {4: BATCH.task(0), 256: BATCH.task(1)}
    nothing = torch.zeros(96, 96, dtype=torch.bool)
    answers = {"nothing": dict.fromkeys(scenes, nothing), "all of it": {k: b.query_y[0, 0] for k, b in scenes.items()}}
    return pictures.Clutter(scenes, answers)


MAPS, CLUTTER = maps(), clutter()
WIDGETS = {
    "painting": (PAINTING.draw, PAINTING.text),
    "maps": (MAPS.draw, MAPS.text),
    "clutter": (CLUTTER.draw, CLUTTER.text),
}
VALUES = {
    "painting": [(0, "ink", 16, 16, 8), (0, "brush", 20, 10, 6), (1, "erase", 20, 10, 12), (1, "all", 16, 16, 8)],
    "maps": [(10, 20), (90, 3), (47, 95)],
    "clutter": [(4, "nothing"), (256, "nothing"), (4, "all of it"), (256, "all of it")],
}


@pytest.mark.parametrize("name", WIDGETS)
def test_the_picture_follows_its_controls(name):
    assert_follows(*WIDGETS[name], VALUES[name])


def test_the_brush_is_a_disc_of_its_size():
    ink = BATCH.support_y[0, 0]
    disc = PAINTING.mask(0, "brush", 16, 16, 8)
    assert int(disc.sum()) == pytest.approx(np.pi * 16, rel=0.1)
    assert disc[16, 12:21].all()
    assert not disc[16, 11]
    assert torch.equal(PAINTING.mask(0, "ink", 1, 1, 5), ink)
    assert torch.equal(PAINTING.mask(0, "add", 16, 16, 8), ink | disc)
    assert torch.equal(PAINTING.mask(0, "erase", 16, 16, 8), ink & ~disc)
    assert torch.equal(PAINTING.mask(0, "paper", 16, 16, 8), ~ink)
    assert PAINTING.mask(0, "all", 16, 16, 8).all()


def test_the_answer_is_that_of_the_learner_and_the_words_say_its_score():
    mask = PAINTING.mask(1, "ink", 0, 0, 1)
    answer = PAINTING.answer(1, mask)
    task = BATCH.task(1)
    learner = Brighter()
    assert torch.equal(answer, learner(task.support_x, task.support_y, task.query_x)[0, 0] > 0)
    target = task.query_y[0, 0]
    score = int((answer & target).sum()) / int((answer | target).sum())
    assert f"marks {int(answer.sum())} pixels of the scene: IoU {score:.2f}" in PAINTING.draw(1, "ink", 0, 0, 1)[1]


def test_an_overlay_has_three_colours_and_faded_paper():
    image = torch.full((1, 2, 2), 0.5)
    prediction, target = torch.tensor([[True, True], [False, False]]), torch.tensor([[True, False], [True, False]])
    made = pictures.overlay(image, prediction, target)
    for place, colour in (((0, 0), pictures.HIT), ((0, 1), pictures.FALSE_ALARM), ((1, 0), pictures.MISSED)):
        assert made[place] == pytest.approx(figures_rgb(colour), abs=1e-6)
    assert made[1, 1] == pytest.approx(np.full(3, 0.5 * pictures.FADED))


def figures_rgb(colour):
    return np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])


def test_the_three_colours_differ_in_brightness():
    light = [figures_rgb(c) @ (0.2126, 0.7152, 0.0722) for c in (pictures.HIT, pictures.FALSE_ALARM, pictures.MISSED)]
    assert min(abs(a - b) for k, a in enumerate(light) for b in light[:k]) > 0.15


def test_a_pixel_is_most_alike_to_itself():
    there, support = MAPS.cosines(50, 31)
    assert there.shape == (48, 48)
    assert support.shape == (16, 16)
    assert there[15, 25] == pytest.approx(1, abs=1e-6)
    assert there.max() <= 1 + 1e-6
    flat = MAPS.features[0]
    wanted = float(flat[:, 15, 25] @ flat[:, 3, 40])
    assert there[3, 40] == pytest.approx(wanted, abs=1e-6)
    assert f"largest cosine is {support.max():.2f}" in MAPS.text(50, 31)


def test_pictures_of_results_and_their_words():
    rows = {"trained": [(0.9, 0.01), (0.4, 0.02)], "every character": [(0.3, 0.01), (0.05, 0.01)]}
    scores = {"nothing": {"by scene": 0.0, "both, pooled": 0.49}, "trained": {"by scene": 0.9, "both, pooled": 0.95}}
    drawn = [
        pictures.tasks(BATCH, 2),
        pictures.levels(rows, (4, 256), how="1,000 scenes each"),
        pictures.definitions(scores),
    ]
    assert len({figures.png(fig) for fig in drawn}) == 3
    assert "trained 0.90 ± 0.01 and 0.40 ± 0.02" in pictures.levels_text(rows, (4, 256))
    assert "nothing: 0.00 by scene, 0.49 both, pooled" in pictures.definitions_text(scores)
    shares = [100 * BATCH.query_y[k, 0].float().mean().item() for k in range(2)]
    assert f"covers {shares[0]:.1f} %, {shares[1]:.1f} % of the pixels" in pictures.tasks_text(BATCH, 2)
