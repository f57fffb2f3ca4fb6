"""The stored figures of segmentation: `python data/make_segmentation.py` makes them."""

import pytest

from mlcourse import evaluation, files, learners, places
from mlcourse.datasets import load
from mlcourse.vision import segmentation

RESULTS = files.read_json(places.data() / "results" / "segmentation.json")["recipes"]
BARS = {"4": 0.85, "32": 0.50}


def iou(scenes, level, name):
    return RESULTS[scenes][level]["learners"][name]["IoU"]["foreground, per image"]


@pytest.mark.parametrize(("level", "bar"), BARS.items())
def test_the_stored_learner_meets_its_bar_and_what_only_looks_at_ink_stays_far_below(level, bar):
    """Marking everything, and moving the drawing over the scene, must not pass."""
    value, half = iou("published", level, "colour-groups")
    assert value - half >= bar
    for rival in ("template-matching", "every-character"):
        value, half = iou("published", level, rival)
        assert value + half <= bar - 0.2


@pytest.mark.parametrize("level", RESULTS["published"])
def test_training_is_worth_something_on_the_same_scenes(level):
    for name, row in RESULTS["published"][level]["learners"].items():
        if name != "colour-groups":
            difference, half = row["colour-groups minus this"]
            assert difference - half > 0, name


def test_in_one_ink_it_marks_everything_and_that_is_said():
    assert iou("grey", "32", "colour-groups") == iou("grey", "32", "every-character")


def test_some_of_the_scenes_answered_again():
    """100 of the 1,000 scenes: the same learner, so a value within what 100 scenes allow."""
    learner = learners.load(places.data() / "checkpoints" / "segmentation")
    source = segmentation.SceneTasks(load("glyphs", "test"), characters_per_scene=32)
    result = evaluation.evaluate(learner, source, episodes=100)
    value, half = iou("published", "32", "colour-groups")
    assert abs(result.value - value) < result.ci95 + half + 0.02
