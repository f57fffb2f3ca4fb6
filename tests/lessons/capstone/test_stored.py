"""Rows of data/results as notebook 17 names them."""

import torch

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
    for task, both in (
        ("name characters", {"prototypes by cosines", "prototypical network"}),
        ("name photos", {"ridge head (R2-D2)", "prototypes by cosines"}),
    ):
        advice = picker.advise(task, "hundreds", 1, False, "a minute")
        assert set(advice.method.split(" or ")) == both
        assert "cannot be told apart" in advice.why
        kind = "glyphs-5way-1shot" if task == "name characters" else "caltech101-5way-1shot"
        rows = {stored.title(row.method): row for row in stored.shifted(kind, "")}
        gap = student_interval(torch.sub(*(rows[name].per_seed for name in sorted(both, reverse=True))))
        assert abs(gap[0]) <= gap[1]
