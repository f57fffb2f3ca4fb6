"""Run a notebook whose answers were filled in, and read which exercises it passed."""

import harness
import nbformat

from mlcourse.commands.run import environment, execute
from mlcourse.teaching import progress

PATHS = harness.notebooks()


def run_edition(path, edition, folder):
    """Run an edition of a notebook at `smoke` in a folder of its own; return what happened and its work folder."""
    source = folder / path.name
    nbformat.write(edition, source)
    work = folder / "work"
    return execute(source, folder / "executed.ipynb", budget="smoke", work=work), work


def passes(work) -> set[str]:
    """The numbers of the exercises that a run recorded as passed."""
    with environment(MLCOURSE_WORK=str(work)):
        return {entry["exercise"] for entry in progress.passes()}
