"""Every answer wrong, in three ways, in what a class is handed: the lesson goes on, and no exercise passes.

What is handed out has no solution cells. One run asks both: does a cell need a solution's name, and does one need a
learner's answer? Either is an error here.
"""

import harness
import nbformat
import pytest
from states import PATHS, passes, run_edition


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_runs_and_passes_nothing(path, tmp_path):
    handed_out = harness.without_solutions(nbformat.read(path, as_version=4))
    error, _, work = run_edition(path, harness.all_wrong(handed_out), tmp_path)
    assert not error
    assert passes(work) == set()
