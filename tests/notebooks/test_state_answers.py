"""Every right answer of the tests in the stub's place, however it is written: what a check accepts, the lesson can use.

A notebook runs once for each turn: turn k gives every exercise the k-th right answer that the tests hold for it. By
default the first turn runs; `make test-full` (MLCOURSE_LESSON=all) runs all of them.
"""

import os

import harness
import held_answers
import nbformat
import pytest
from states import PATHS, passes, run_edition

NAMES = [path.stem for path in PATHS]


def holds(path, turn, folder):
    """Run the notebook at `smoke` with right answers number `turn`: no error, all passed, the golden cells equal."""
    notebook = nbformat.read(path, as_version=4)
    error, executed, work = run_edition(path, harness.with_answers(notebook, path.name[:2], turn), folder)
    assert not error
    stubs = harness.Lesson.read(path).tagged("exercise:")
    found = (tag for cell in stubs for tag in harness.tags(cell) if tag.startswith("exercise:"))
    exercises = {tag.split(":")[1] for tag in found}
    assert passes(work) == exercises, f"not passed: {sorted(exercises - passes(work))}"
    differing = harness.golden_differences(notebook, executed)
    assert not differing, "golden cells depend on how an answer is written:\n" + "\n".join(differing)


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_the_lesson_goes_on_with_other_right_answers(path, tmp_path):
    holds(path, 0, tmp_path)


@pytest.mark.lesson
@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_the_lesson_goes_on_with_every_right_answer(path, tmp_path):
    if os.environ.get("MLCOURSE_LESSON") != "all":
        pytest.skip("a run for each right answer takes minutes: set MLCOURSE_LESSON=all")
    failed = []
    for turn in range(1, held_answers.turns(path.name[:2])):
        folder = tmp_path / str(turn)
        folder.mkdir()
        try:
            holds(path, turn, folder)
        except AssertionError as error:
            failed.append(f"answers number {turn}: {error}")
    assert not failed, "\n".join(failed)
