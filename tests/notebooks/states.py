"""Run a notebook whose answers were filled in, and read which exercises it passed."""

import harness
import nbformat
import warm

from mlcourse.commands.run import environment
from mlcourse.teaching import progress

PATHS = harness.notebooks()
CELL_SECONDS = 120
OTHER_SEED = 20011  # than that of the notebooks
KERNEL = "warm" if warm.POSSIBLE else "python3"


def run_edition(path, edition, folder):
    """Run an edition of a notebook at `smoke` in a folder of its own, in a warm kernel.

    Returns the error of the cell that failed ("" when none did), the edition with its outputs, and the work folder.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    source, work, error = folder / path.name, folder / "work", ""
    nbformat.write(edition, source)
    executed = nbformat.read(source, as_version=4)
    with environment(MLCOURSE_BUDGET="smoke", MLCOURSE_WORK=str(work), JUPYTER_PATH=warm.jupyter_path(KERNEL)):
        client = NotebookClient(
            executed,
            timeout=CELL_SECONDS,
            startup_timeout=CELL_SECONDS,
            kernel_name=KERNEL,
            resources={"metadata": {"path": str(folder)}},
            extra_arguments=["--IPKernelApp.log_level=50"],
        )
        try:
            client.execute()
        except CellExecutionError as problem:
            error = f"{problem.ename}: {problem.evalue}"
    return error, executed, work


def passes(work) -> set[str]:
    """The numbers of the exercises that a run recorded as passed."""
    with environment(MLCOURSE_WORK=str(work)):
        return {entry["exercise"] for entry in progress.passes()}
