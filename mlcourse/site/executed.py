"""Executed notebooks, kept until their code, the package or the data change.

What is kept are outputs. Prose and comments come from the notebook of today: they change no result, so they are no
reason to run it again (`teaching/fingerprints.py`).
"""

import os
import tempfile
from pathlib import Path

import nbformat

from mlcourse import files
from mlcourse.commands.console import Progress
from mlcourse.commands.run import environment, execute
from mlcourse.errors import CourseError
from mlcourse.teaching import fingerprints
from mlcourse.teaching.stacks import VARIABLE

MARK = "mlcourse_site"  # in the metadata of what is kept


def executed(path: Path, budget: str, cache: Path) -> tuple[nbformat.NotebookNode, bool]:
    """A notebook of today with the outputs of a run, and whether the run is one of now.

    Args:
        path: the notebook; it is not changed.
        budget: "smoke" or "lesson".
        cache: the folder of what was executed before.

    Raises CourseError when a cell fails: the line names the notebook and the cell. Nothing of that run is kept.
    """
    mark = {"fingerprint": fingerprints.fingerprint(path), "budget": budget}
    kept = cache / budget / path.name
    fresh = not _is_of(kept, mark)
    if fresh:
        _run(path, budget, kept, mark)
    return with_outputs(files.read_notebook(path), files.read_notebook(kept)), fresh


def _is_of(kept: Path, mark: dict[str, str]) -> bool:
    """Whether the file holds a run of this very code; a damaged file does not."""
    try:
        return kept.is_file() and files.read_notebook(kept).metadata.get(MARK) == mark
    except CourseError:
        return False


def _run(path: Path, budget: str, kept: Path, mark: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix="mlcourse-") as folder, Progress(path.stem[:20]) as progress:
        place = Path(folder) / path.name
        with environment(**{VARIABLE: "1"}):
            outcome = execute(path, place, budget=budget, work=Path(folder) / "work", progress=progress)
        if outcome.error:
            raise CourseError(f"{path.stem} failed, so there is no page of it: {outcome.error}")
        ran = files.read_notebook(place)
    ran.metadata[MARK] = mark
    files.write_text(kept, nbformat.writes(ran) + "\n")


def with_outputs(notebook: nbformat.NotebookNode, ran: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The first notebook with the outputs of the second, cell by cell, as their ids say.

    The state of widgets is left out: there is no kernel that it could speak to.
    """
    outputs = {cell.id: cell for cell in ran.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id in outputs:
            cell.outputs = outputs[cell.id].outputs
            cell.execution_count = outputs[cell.id].execution_count
    notebook.metadata.pop("widgets", None)
    return notebook


def default_cache() -> Path:
    """Where executed notebooks are kept: MLCOURSE_SITE_CACHE, else runs/site."""
    return Path(os.environ.get("MLCOURSE_SITE_CACHE") or Path("runs") / "site")
