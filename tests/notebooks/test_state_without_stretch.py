"""Who skips all stretch parts can go on: the edition without solutions and without the cells tagged stretch runs."""

import harness
import nbformat
import pytest
from states import PATHS, run_edition

STRETCHED = [path for path in PATHS if any("stretch" in harness.tags(cell) for cell in harness.Lesson.read(path).code)]


@pytest.mark.parametrize("path", STRETCHED, ids=[path.stem for path in STRETCHED])
def test_runs_without_its_stretch_parts(path, tmp_path):
    error, _, _ = run_edition(path, harness.without_stretch(nbformat.read(path, as_version=4)), tmp_path)
    assert not error
