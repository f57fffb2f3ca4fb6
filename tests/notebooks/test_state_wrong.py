"""Every answer wrong, in three ways, in what a class is handed, with another seed: the lesson goes on, nothing passes.

What is handed out has no solution cells. One run asks all of it: does a cell need a solution's name, does one need a
right answer, does what the course goes on with (each check's reference) hang on one seed? Each is an error here.
"""

import re

import harness
import nbformat
import pytest
from states import OTHER_SEED, PATHS, passes, run_edition


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_runs_and_passes_nothing(path, tmp_path):
    handed_out = harness.without_solutions(nbformat.read(path, as_version=4))
    error, executed, work = run_edition(path, with_seed(harness.all_wrong(handed_out)), tmp_path)
    assert not error
    assert passes(work) == set()
    differing = harness.golden_differences(handed_out, executed)
    assert not differing, "golden cells depend on the seed:\n" + "\n".join(differing)


def with_seed(notebook):
    """The notebook with another SEED in its parameters."""
    (cell,) = [cell for cell in notebook.cells if "parameters" in harness.tags(cell)]
    cell.source, changed = re.subn(r"^SEED = \d+", f"SEED = {OTHER_SEED}", cell.source, flags=re.MULTILINE)
    assert changed == 1
    return notebook
