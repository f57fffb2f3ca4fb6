"""Every answer right: the solution stands in the stub's place, under the stub's name."""

import harness
import nbformat
import pytest
from states import PATHS, passes, run_edition

NAMES = [path.stem for path in PATHS]


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_runs_and_passes_every_exercise(path, tmp_path):
    error, _, work = run_edition(path, harness.all_right(nbformat.read(path, as_version=4)), tmp_path)
    assert not error
    exercises = {
        tag.split(":")[1] for cell in harness.Lesson.read(path).code for tag in harness.tags(cell) if ":" in tag
    }
    assert passes(work) == exercises
