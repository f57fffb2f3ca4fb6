"""Rows of data/results as notebook 17 names them."""

import pytest
import torch

from mlcourse import protocols
from mlcourse.learners import METHODS
from mlcourse.lessons.capstone import picker, stored
from mlcourse.statistics import student_interval


def test_a_row_that_comes_later_has_a_name():
    assert stored.title("film") == METHODS["film"].title
    assert stored.title("a method of tomorrow") == "a method of tomorrow"
    assert {name for name, *_ in stored.means_and_worst()} == {stored.title(name) for name in stored.logs()}


def measured(name, trainings):
    """A row of trainings [trainings, tasks]."""
    values = torch.tensor(trainings, dtype=torch.float64)
    mean = values.mean().item()
    return stored.Measured(name, mean, None, "", "", per_task=values.mean(0), per_seed=values.mean(1))


def test_a_lead_must_hold_over_tasks_and_over_trainings():
    tasks = [0.2 + 0.01 * (k % 7) for k in range(50)]
    three = [tasks, [one + 0.001 for one in tasks], [one - 0.001 for one in tasks]]
    better = measured("better", [[one + 0.1 for one in some] for some in three])
    assert not better.tied(measured("worse", three))
    # the same lead in each task on average, but one training of three has all of it
    lucky = measured("lucky", [[one + 0.3 for one in three[0]], *three[1:]])
    assert lucky.tied(measured("worse", three))
    # ahead in each training, but by a few tasks only
    some = [[one + (0.4 if k < 2 else -0.001) for k, one in enumerate(training)] for training in three]
    assert measured("in few tasks", some).tied(measured("worse", three))


def test_the_picker_names_the_ties_that_notebook_12_finds():
    """Over three trainings: two kinds of prototypes on characters, and the ridge head and cosines on photos."""
    for task, classes, both in (
        ("name characters", "hundreds", {"prototypes by cosines", "prototypical network"}),
        ("name photos", "none like mine", {"ridge head (R2-D2)", "prototypes by cosines"}),
    ):
        advice = picker.advise(task, classes, 1, False, "a minute")
        assert set(advice.method.split(" or ")) == both
        assert "cannot be told apart" in advice.why
        kind = "glyphs-5way-1shot" if task == "name characters" else "caltech101-5way-1shot"
        rows = {stored.title(row.method): row for row in stored.shifted(kind, "")}
        gap = student_interval(torch.sub(*(rows[name].per_seed for name in sorted(both, reverse=True))))
        assert abs(gap[0]) <= gap[1]


@pytest.mark.parametrize("shots", [1, 5])
def test_photos_of_other_classes_are_advised_by_what_was_trained_on_them(shots):
    """By the result files, whose rows are paired with pixels; without training a row without training is taken."""
    protocol = protocols.read(f"caltech101-5way-{shots}shot")
    results = protocols.stored(protocol, protocols.folders(protocol)[0])
    table = [row for row in protocols.rows(protocol, results) if row.run]
    pixels = next(row for row in table if row.method == "pixels")
    assert table[0].first.trained_on == "caltech101"
    advice = picker.advise("name photos", "hundreds", shots, False, "minutes or more")
    assert set(advice.method.split(" or ")) == {stored.title(row.method) for row in table if row.rank == 1}
    assert [row.value for row in advice.rows] == pytest.approx([row.accuracy for row in table])
    assert f"{100 * (table[0].accuracy - pixels.accuracy):.1f} points above pixels" in advice.why
    untrained = picker.advise("name photos", "hundreds", shots, False, "no training")
    assert set(untrained.method.split(" or ")) <= {stored.title(row.method) for row in table if not row.first.steps}
    far = picker.advise("name photos", "none like mine", shots, False, "a minute")
    assert ("With five pictures of each class" in far.near) == (shots == 5)
