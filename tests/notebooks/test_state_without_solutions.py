"""What is handed out, and what is left out: the edition without solutions, and a lesson without its stretch parts."""

import harness
import nbformat
import pytest
from states import PATHS, passes, run_edition

STRETCHED = [path for path in PATHS if any("stretch" in harness.tags(cell) for cell in harness.Lesson.read(path).code)]


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_runs_and_passes_nothing(path, tmp_path):
    error, _, work = run_edition(path, harness.without_solutions(nbformat.read(path, as_version=4)), tmp_path)
    assert not error
    assert passes(work) == set()


@pytest.mark.parametrize("path", STRETCHED, ids=[path.stem for path in STRETCHED])
def test_runs_without_its_stretch_parts(path, tmp_path):
    error, _, _ = run_edition(path, harness.without_stretch(nbformat.read(path, as_version=4)), tmp_path)
    assert not error
