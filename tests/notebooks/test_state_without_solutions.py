"""The class-room edition, without the solution cells, runs from top to bottom."""

import harness
import nbformat
import pytest
from states import PATHS, passes, run_edition


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_runs_and_passes_nothing(path, tmp_path):
    outcome, work = run_edition(path, harness.without_solutions(nbformat.read(path, as_version=4)), tmp_path)
    assert not outcome.error
    assert passes(work) == set()
