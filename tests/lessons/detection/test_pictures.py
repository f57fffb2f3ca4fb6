"""The pictures of notebook 14: what they say is true, they follow their values, and they are fast enough to drag."""

import pytest
import torch
from picture_helpers import assert_follows

from mlcourse.episodes import Episode
from mlcourse.lessons.detection import exam, pictures
from mlcourse.teaching import figures
from mlcourse.vision.precision import Detections

NAN = float("nan")
TRUTH = torch.tensor([[10.0, 20, 40, 50]])
NONE = TRUTH[:0]


def some_tasks():
    """Four tasks of two drawings and one scene; the target is there in the first and the third."""
    generator = torch.Generator().manual_seed(0)
    drawings, scenes = (
        torch.rand(4, n, 3, size, size, generator=generator) * (size / 96) for n, size in ((2, 32), (1, 96))
    )
    boxes = torch.full((4, 1, 1, 4), NAN)
    boxes[[0, 2], 0, 0] = TRUTH[0]
    masks = torch.ones(4, 2, 32, 32, dtype=torch.bool)
    return Episode(drawings, masks, scenes, boxes, torch.zeros(4, 1, dtype=torch.int64))


BATCH = some_tasks()
FOUND = [
    Detections(torch.tensor([[12.0, 20, 40, 52], [60, 60, 90, 90]]), torch.tensor([2.0, -1.0])),
    Detections(torch.tensor([[5.0, 5, 30, 30]]), torch.tensor([0.5])),
    Detections(torch.tensor([[30.0, 40, 60, 80], [10, 20, 41, 50]]), torch.tensor([1.0, 0.0])),
    Detections(torch.zeros(0, 4), torch.zeros(0)),
]
WANTED = exam.truth_of(BATCH)


def support():
    return pictures.Support.of(
        [BATCH, BATCH.map(lambda name, value: value.flip(1))], [FOUND, FOUND[::-1]], WANTED, [0, 1]
    )


SUPPORT, WALK = support(), pictures.Walk(BATCH.query_x[:, 0], FOUND, WANTED)
WIDGETS = {"support": (SUPPORT.draw, SUPPORT.text), "walk": (WALK.draw, WALK.text)}
VALUES = {
    "support": [(0, 0, -2.0), (0, 0, 0.0), (1, 0, -2.0), (0, 1, -2.0), (0, 1, 3.0)],
    "walk": [(-1.5,), (0.2,), (1.5,), (2.1,)],
}


@pytest.mark.parametrize("name", WIDGETS)
def test_the_picture_follows_its_controls(name):
    assert_follows(*WIDGETS[name], VALUES[name])


def test_the_words_count_what_is_right_wrong_and_missed():
    told = {values: SUPPORT.draw(*values)[1] for values in [(0, 0, -2.0), (0, 0, 3.0), (0, 1, -2.0)]}
    assert (
        "The target is there. Boxes: 1 right, 1 wrong, 0 missed. The highest scores are 2.00, -1.00."
        in told[0, 0, -2.0]
    )
    assert "0 right, 0 wrong, 1 missed" in told[0, 0, 3.0]
    assert "The target is absent. Boxes: 0 right, 1 wrong, 0 missed" in told[0, 1, -2.0]


def test_the_walk_stands_where_the_threshold_cuts_the_list():
    assert WALK.point(-5) == (1.0, 2 / 5, 5)
    assert WALK.point(0.7) == (0.5, 1 / 2, 2)
    assert WALK.point(9) == (0.0, 1.0, 0)
    assert "2 boxes in 4 scenes, 1 right; precision 0.50, recall 0.50" in WALK.draw(0.7)[1]
    low, high = WALK.range()
    assert low <= WALK.middle() <= high
    assert WALK.point(high)[2] == 0


def test_pictures_of_results_and_their_words():
    found = {"ours": FOUND, "nothing": [FOUND[3]] * 4}
    counts = {"ours": {"right": 2, "localisation": 1, "background": 2, "duplicate": 0, "missed": 0}}
    rows = {"one drawing": [0.2, 0.4], "two drawings": [0.5, 0.3]}
    drawn = [
        pictures.tasks(BATCH, 2),
        pictures.curves({"ours": FOUND}, WANTED),
        pictures.draws(rows),
        pictures.errors(counts),
    ]
    assert len({figures.png(fig) for fig in drawn}) == 4
    assert "a box from (10, 20) to (40, 50); the target is absent" in pictures.tasks_text(BATCH, 2)
    assert "nothing has an average precision of 0.00 and reaches recall 0.00" in pictures.curves_text(found, WANTED)
    assert "one drawing: 2 draws from 0.20 to 0.40, mean 0.30" in pictures.draws_text(rows)
    assert "ours: 1 localisation, 2 background, 0 duplicate, 0 missed" in pictures.errors_text(counts)
