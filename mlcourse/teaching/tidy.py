"""Notebooks in one canonical form, so that a diff shows what an author changed.

`tidy_file` formats the code (ruff), keeps the cells' ids, and removes outputs and counts, except in golden cells: those
tagged `nbval-check-output`. It writes the minutes into the header: those of a person (`minutes`), and those of a
machine, which the last full run measured (`data/results/lessons.json`). `golden` fills golden cells from a fresh
run. (nbstripout clears the counts of kept cells, on which nbval fails, and renumbers ids.)

Golden outputs are text: pictures and widgets differ from machine to machine, and nbval skips them silently.
"""

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mlcourse import files, places
from mlcourse.errors import CourseError
from mlcourse.teaching import claims, minutes

GOLDEN_TAG = "nbval-check-output"
GOLDEN_COUNT = 1  # nbval refuses kept outputs without a count; a running number would change with every cell put before
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
KEPT_NOTEBOOK = ("mlcourse",)
KEPT_CELL = ("tags", "jupyter", "mlcourse", "jp-MarkdownHeadingCollapsed")
LINE_LENGTH = 92
MACHINE = re.compile(r"^(\| \*\*Machine\*\* \| )[^;|\n]*(;[^|\n]*?)? *\|$", re.MULTILINE)
CELL_SECONDS = 120  # a cell of a golden run; without a limit a stalled kernel is waited for for ever


def tidy_file(path: Path | str) -> bool:
    """Write the notebook in its canonical form. Returns whether a byte changed.

    Raises CourseError for a file that is no notebook, or that holds code ruff cannot read.
    """
    path = Path(path)
    before, after = _text(path), _canonical(path)
    if after != before:
        files.write_text(path, after)
    return after != before


def check(paths: Iterable[Path | str]) -> list[Path]:
    """The notebooks among `paths` that `tidy_file` would change."""
    return [path for path in map(Path, paths) if _canonical(path) != _text(path)]


def too_long(paths: Iterable[Path | str]) -> list[str]:
    """One line for each notebook whose core takes more than an hour."""
    lines = []
    for path in map(Path, paths):
        core, _ = minutes.estimate(_read(path))
        if core.total > minutes.LIMIT:
            lines.append(
                f"{path.stem}: the core takes {core.total:.1f} minutes, at most {minutes.LIMIT}: "
                f"cut, or tag cells `{minutes.STRETCH}`"
            )
    return lines


def golden(path: Path | str, *, budget: str = "smoke", cell_seconds: int = CELL_SECONDS) -> bool:
    """Run the notebook in a fresh kernel, keep the outputs of its golden cells, and tidy it.

    Args:
        path: the notebook. It runs in a copy: progress goes to a temporary folder.
        budget: what MLCOURSE_BUDGET says in the kernel. Golden outputs must not depend on it.
        cell_seconds: the longest that one cell may take.

    Returns whether a byte changed. Raises CourseError, and leaves the file as it was, when a cell fails or takes too
    long, when a golden cell shows nothing, or anything but text, or when somebody saves the file meanwhile.
    """
    path = Path(path)
    begun, notebook = _text(path), _read(path)
    ran = _run(path, notebook, budget, cell_seconds)
    for cell, fresh in zip(notebook.cells, ran.cells):
        if is_golden(cell):
            cell.outputs = _kept_outputs(path, fresh)
    after = _written(path, notebook)
    if _text(path) != begun:
        raise CourseError(f"{path} was changed while it ran, and is left as it is now: call mlcourse golden again")
    if after != begun:
        files.write_text(path, after)
    return after != begun


def is_golden(cell: NotebookNode) -> bool:
    """Whether a cell keeps its outputs in the repository."""
    return cell.cell_type == "code" and GOLDEN_TAG in cell.metadata.get("tags", [])


# ---- reading and writing ----


def _text(path: Path) -> str:
    try:
        # read as bytes: a line ending that is not \n is a difference too
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise CourseError(f"there is no notebook {path}") from None
    except UnicodeDecodeError as error:
        raise CourseError(f"{path} is not UTF-8 text ({error}); take it from a backup") from None


def _read(path: Path) -> NotebookNode:
    try:
        text = _text(path)
        found = json.loads(text)["nbformat"]
        if found != 4:
            raise ValueError(f"format {found}, not 4")
        return nbformat.v4.reads(text)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CourseError(f"{path} is not a notebook ({' '.join(str(error).split())}); take it from a backup") from None


def _canonical(path: Path) -> str:
    return _written(path, _read(path))


def _written(path: Path, notebook: NotebookNode) -> str:
    """The canonical text of a notebook."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    kept = {name: notebook.metadata[name] for name in KEPT_NOTEBOOK if name in notebook.metadata}
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}, **kept})
    _give_ids(notebook)
    for cell in notebook.cells:
        _tidy_cell(cell)
    if notebook.cells:
        header = minutes.with_header(notebook.cells[0].source, *minutes.estimate(notebook))
        notebook.cells[0].source = with_measured(header, _measured_seconds(path.stem))
    notebook = _format_code(path, notebook)
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        raise CourseError(f"{path} is not a valid notebook: {' '.join(str(error).split())[:300]}") from None
    # sorted keys, one space of indent, sources split in lines: what Jupyter writes itself
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def with_measured(header: str, seconds: float | None) -> str:
    """The text of a first cell with the minutes that a machine takes in its row "Machine"; what follows a ";" stays.

    seconds: of a full run; None when there was none, and the row stays as it is.
    """
    if seconds is None:
        return header
    count = math.ceil(seconds / 60)
    said = f"about {count} minute{'' if count == 1 else 's'} at `lesson` (measured on 2 cores)"
    return MACHINE.sub(lambda row: f"{row[1]}{said}{row[2] or ''} |", header)


def _measured_seconds(name: str) -> float | None:
    """What the last full run of the course's own notebook of this name took."""
    record = places.data() / claims.RECORD
    return files.read_json(record).get(name, {}).get("seconds") if record.is_file() else None


def _give_ids(notebook: NotebookNode) -> None:
    """Keep the ids that are there and different; make the others from the cell's text, so that a second run agrees."""
    used: set[str] = set()
    for place, cell in enumerate(notebook.cells):
        found = cell.get("id")
        salt = 0
        while not found or found in used:
            found = hashlib.sha256(f"{place} {salt} {cell.source}".encode()).hexdigest()[:8]
            salt += 1
        cell.id = found
        used.add(found)


def _tidy_cell(cell: NotebookNode) -> None:
    cell.source = cell.source.replace("\r\n", "\n").rstrip()
    cell.metadata = nbformat.from_dict({name: cell.metadata[name] for name in KEPT_CELL if name in cell.metadata})
    if "tags" in cell.metadata:
        cell.metadata.tags = sorted(set(cell.metadata.tags))
    if cell.cell_type != "code":
        return
    golden_cell = is_golden(cell) and bool(cell.get("outputs"))
    cell.outputs = cell.outputs if golden_cell else []
    cell.execution_count = GOLDEN_COUNT if golden_cell else None
    for output in cell.outputs:
        if "execution_count" in output:
            output.execution_count = GOLDEN_COUNT


def _format_code(path: Path, notebook: NotebookNode) -> NotebookNode:
    """The notebook with its code cells formatted by ruff, which knows notebooks and their magics."""
    # the options stand here, so that a notebook gets the same form in any folder
    options = [
        "--isolated",
        f"--line-length={LINE_LENGTH}",
        "--target-version=py311",
        "--stdin-filename=notebook.ipynb",
    ]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ruff", "format", *options, "-"],
            input=nbformat.writes(notebook),
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
    except OSError as error:
        raise CourseError(f"ruff cannot be started ({error.strerror}); install it: pip install ruff") from None
    if "No module named ruff" in done.stderr:
        raise CourseError("tidy needs ruff, which is not installed; install it: pip install ruff")
    if done.returncode:
        reason = " ".join(done.stderr.split()).removeprefix("error: ")
        raise CourseError(f"{path} has code that cannot be formatted: {reason}")
    return nbformat.v4.reads(done.stdout)


# ---- golden runs ----


def _run(path: Path, notebook: NotebookNode, budget: str, cell_seconds: int) -> NotebookNode:
    """A copy of the notebook after a run from top to bottom in a fresh kernel."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    ran = nbformat.from_dict(json.loads(json.dumps(notebook)))
    # the limits matter: without them the client waits for ever for a message that never comes
    client = NotebookClient(
        ran,
        timeout=cell_seconds,
        startup_timeout=60,
        kernel_name="python3",
        store_widget_state=False,
        resources={"metadata": {"path": str(path.resolve().parent)}},
    )
    with tempfile.TemporaryDirectory() as work:
        try:
            client.execute(env={**os.environ, "MLCOURSE_BUDGET": budget, "MLCOURSE_WORK": work})
        except CellExecutionError as error:
            raise CourseError(f"{path}: a cell fails with {error.ename}: {error.evalue}") from None
        except (CellTimeoutError, DeadKernelError) as error:
            raise CourseError(f"{path}: {' '.join(str(error).split())[:200]}") from None
    return ran


def _kept_outputs(path: Path, cell: NotebookNode) -> list[NotebookNode]:
    """The outputs of a golden cell after a run: text only, pieces of one stream put together."""
    kept: list[NotebookNode] = []
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stdout":
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
            else:
                kept.append(output)
            continue
        forms = set(output.get("data", {}))
        page = "".join(output.get("data", {}).get("text/html", ""))
        if not forms or not forms <= {"text/plain", "text/html"} or "data:image" in page:
            what = ", ".join(sorted(forms)) or output.get("name", output.output_type)
            raise CourseError(f"{path}: golden cell {cell.id} shows {what}; a golden cell shows text on stdout only")
        kept.append(output)
    if not kept:
        raise CourseError(f"{path}: golden cell {cell.id} shows nothing; print what it proves, or take its tag away")
    return kept
