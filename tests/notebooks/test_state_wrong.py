"""Every answer wrong, in three ways: the lesson goes on with the package's functions, and no exercise passes."""

import harness
import nbformat
import pytest
from states import PATHS, passes, run_edition


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_runs_and_passes_nothing(path, tmp_path):
    error, _, work = run_edition(path, harness.all_wrong(nbformat.read(path, as_version=4)), tmp_path)
    assert not error
    assert passes(work) == set()
