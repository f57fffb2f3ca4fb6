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


@pytest.mark.parametrize("level", ["4", "8", "16", "32", "64", "128", "256"])
def test_in_one_ink_it_marks_everything_at_every_level_and_that_is_said(level):
    """The stored learner looks at colours. What needs no training stands beside it, and no answer is a good one."""
    assert RESULTS["grey"].keys() == RESULTS["published"].keys()
    rows = RESULTS["grey"][level]["learners"]
    assert rows.keys() == {
        "colour-groups",
        "untrained-colour-groups",
        "template-matching",
        "every-character",
        "untrained-prototypes",
    }
    assert iou("grey", level, "colour-groups") == iou("grey", level, "every-character")
    for name in rows:
        value, half = iou("grey", level, name)
        assert 0 < half < value + 0.01
        assert value + half < BARS["4"] - 0.2


def test_some_of_the_scenes_answered_again():
    """100 of the 1,000 scenes: the same learner, so a value within what 100 scenes allow."""
    learner = learners.load(places.data() / "checkpoints" / "segmentation")
    source = segmentation.SceneTasks(load("glyphs", "test"), characters_per_scene=32)
    result = evaluation.evaluate(learner, source, episodes=100)
    value, half = iou("published", "32", "colour-groups")
    assert abs(result.value - value) < result.ci95 + half + 0.02
