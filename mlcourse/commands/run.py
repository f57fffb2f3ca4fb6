"""`mlcourse run`: execute notebooks from top to bottom, each in a fresh kernel, with papermill.

A cell that fails is never tried again. A kernel that does not start is, once, and that is counted. Every run has time
limits, because a lost message would otherwise wait for ever. A learner's progress is never touched: the notebooks get
a work folder of their own.
"""

import ast
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mlcourse import files, places
from mlcourse.commands import data
from mlcourse.errors import CourseError

# Seconds that one cell may take. The contract says one minute at `lesson`; a slow machine gets ten times that.
CELL_SECONDS = {"smoke": 120, "lesson": 600, "paper": 7 * 24 * 3600}
START_SECONDS = 60


class Budget(StrEnum):
    """How much a notebook computes."""

    smoke = "smoke"
    lesson = "lesson"
    paper = "paper"


@dataclass(frozen=True)
class Outcome:
    """What one run of a notebook gave. Times are in seconds, memory in MB (the kernel and its children together)."""

    notebook: str
    error: str  # one line; "" when every cell ran
    seconds: float
    slowest_cell: int  # number of the code cell, counted from 1 as Jupyter does; 0 when none ran
    slowest_seconds: float
    peak_mb: float
    kernel_starts: int  # 2 when the first kernel did not start
    executed: Path


# ------------------------------------------------------------------------------- which notebooks, which parameters


def find(names: list[str], folder: Path | None = None) -> list[Path]:
    """Turn "01", "01_inner_and_outer_losses" or a path into notebooks; no names means all of them.

    Raises:
        CourseError: there is no such notebook; the line lists those that are there.

    """
    folder = folder or places.notebooks()
    there = sorted(folder.glob("*.ipynb"))
    if not names:
        if not there:
            raise CourseError(f"there are no notebooks in {folder}: start from a clone of the course's repository")
        return there
    return [_find_one(name, there) for name in names]


def _find_one(name: str, there: list[Path]) -> Path:
    path = Path(name).expanduser()
    if path.suffix == ".ipynb" and path.is_file():
        return path
    found = [notebook for notebook in there if name in (notebook.name, notebook.stem, notebook.stem.split("_")[0])]
    if len(found) != 1:
        known = ", ".join(notebook.stem for notebook in there) or "none"
        raise CourseError(f"there is no notebook {name}: give a path, or one of {known}")
    return found[0]


def parameters_of(notebook) -> dict[str, Any]:
    """The names and default values in the cell tagged `parameters`.

    Args:
        notebook: an nbformat notebook.

    Raises:
        CourseError: there is no such cell, or it holds anything but plain literals.

    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise CourseError(f"the notebook has {len(cells)} cells tagged `parameters`: exactly one is needed")
    values = {}
    for statement in ast.parse(cells[0].source).body:
        plain = isinstance(statement, ast.Assign) and len(statement.targets) == 1
        if not plain or not isinstance(statement.targets[0], ast.Name):
            raise CourseError(f"the cell `parameters` holds `{ast.unparse(statement)}`: only NAME = literal is allowed")
        try:
            values[statement.targets[0].id] = ast.literal_eval(statement.value)
        except ValueError:
            line = ast.unparse(statement)
            raise CourseError(f"the cell `parameters` holds `{line}`: only plain literals are allowed") from None
    return values


def read_parameters(pairs: list[str]) -> dict[str, Any]:
    """Turn ["SEED=3", "DATASET=omniglot"] into names and values; the values are YAML."""
    import yaml

    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise CourseError(f"-p {pair} is no parameter: write -p NAME=VALUE, such as -p SEED=3")
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise CourseError(f"-p {pair}: the value is not valid YAML; put it in quotes") from None
    return values


def check_parameters(values: dict[str, Any], defaults: dict[str, Any], notebook: str) -> None:
    """Raise CourseError for a name that the notebook does not have, or a value of another type than its default.

    papermill only warns about unknown names, so a misspelt parameter would silently change nothing.
    """
    for name, value in values.items():
        if name not in defaults:
            known = ", ".join(defaults)
            raise CourseError(f"{notebook} has no parameter {name}: it has {known}")
        wanted = type(defaults[name])
        fits = type(value) is wanted or (wanted is float and type(value) is int) or defaults[name] is None
        if not fits:
            raise CourseError(f"{notebook}: {name}={value!r} is no {wanted.__name__}, such as {defaults[name]!r}")


# ----------------------------------------------------------------------------------------------------- one notebook


@contextlib.contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Watch the memory of this process's children; the list's one number is their peak together, in MB.

    It looks every 0.2 s, so a shorter peak can be missed.
    """
    import psutil

    peak, done, me = [0.0], threading.Event(), psutil.Process()

    def watch() -> None:
        while not done.wait(0.2):
            total = 0
            for child in me.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += child.memory_info().rss
            peak[0] = max(peak[0], total / 1e6)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for the kernels started inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _never_started(error: Exception, executed: Path) -> bool:
    """True when the kernel did not come up at all: then no cell has run, and a second try changes no result."""
    from nbclient.exceptions import DeadKernelError

    if not isinstance(error, RuntimeError) or isinstance(error, DeadKernelError):
        return False
    return not any(cell.metadata.get("papermill", {}).get("start_time") for cell in _cells(executed))


def _cells(path: Path) -> list:
    import nbformat

    return nbformat.read(path, as_version=4).cells if path.is_file() else []


def _one_line(error: Exception) -> str:
    """Which cell failed and with what, without papermill's frame around it."""
    if hasattr(error, "ename"):
        return f"cell {error.exec_count}: {error.ename}: {' '.join(str(error.evalue).split())}"
    if type(error).__name__ == "CellTimeoutError":
        return "a cell took longer than its limit, and was stopped"
    if type(error).__name__ == "DeadKernelError":
        return "the kernel died (often: too little memory)"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"


def execute(
    notebook: Path,
    executed: Path,
    *,
    budget: str,
    parameters: dict[str, Any] | None = None,
    work: Path,
    cell_seconds: float | None = None,
    progress: bool = False,
) -> Outcome:
    """Run one notebook in a fresh kernel; never raises for what the notebook does.

    Args:
        notebook: the source; it is not changed.
        executed: where the notebook with its outputs goes.
        budget: "smoke", "lesson" or "paper".
        parameters: what replaces the defaults of the cell `parameters`.
        work: the work folder that the kernel sees (MLCOURSE_WORK).
        cell_seconds: limit for each cell; default by budget.
        progress: show a progress bar over the cells.

    Returns:
        times, memory and the first error.

    """
    import papermill

    error, starts, begin = "", 0, time.monotonic()
    with peak_memory() as peak, environment(MLCOURSE_BUDGET=budget, MLCOURSE_WORK=str(work)):
        while starts < 2:
            starts += 1
            try:
                papermill.execute_notebook(
                    str(notebook),
                    str(executed),
                    parameters=parameters or {},
                    kernel_name="python3",
                    language="python",
                    cwd=str(notebook.parent),
                    progress_bar={"desc": notebook.stem, "leave": False} if progress else False,
                    start_timeout=START_SECONDS,
                    execution_timeout=cell_seconds or CELL_SECONDS[budget],
                )
                error = ""
                break
            except Exception as problem:
                error = _one_line(problem)
                if not _never_started(problem, executed):
                    break
    cell, seconds = _slowest(executed)
    total = time.monotonic() - begin
    return Outcome(notebook.stem, error, total, cell, seconds, peak[0], starts, executed)


def _slowest(executed: Path) -> tuple[int, float]:
    """The number of the slowest code cell and its seconds; (0, 0.0) when none ran."""
    times = [
        (cell.metadata.get("papermill", {}).get("duration") or 0.0, cell.get("execution_count") or 0)
        for cell in _cells(executed)
        if cell.cell_type == "code"
    ]
    seconds, number = max(times, default=(0.0, 0))
    return number, seconds


def write_html(executed: Path) -> Path:
    """Write the executed notebook as a web page beside it."""
    import nbformat
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    notebook = nbformat.read(executed, as_version=4)
    # With the widgets' state, nbconvert shows views that want a network instead of the pictures that stand for them.
    notebook.metadata.pop("widgets", None)
    exporter = HTMLExporter()
    # A progress bar writes over its own line; a page would show each of its hundred states below the last.
    exporter.register_preprocessor(CoalesceStreamsPreprocessor(), enabled=True)
    page, _ = exporter.from_notebook_node(notebook)
    target = executed.with_suffix(".html")
    files.write_text(target, page)
    return target


# ------------------------------------------------------------------------------------------------------ the command


def show(outcomes: list[Outcome]) -> None:
    """Print the timing table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("notebook", "result", "seconds", "slowest cell", "its seconds", "peak MB", "kernel starts")
    for one in outcomes:
        cells = (one.notebook, "failed" if one.error else "passed", f"{one.seconds:.1f}", f"[{one.slowest_cell}]")
        table.add_row(*cells, f"{one.slowest_seconds:.1f}", f"{one.peak_mb:.0f}", str(one.kernel_starts))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table, markup=False)
    for one in outcomes:
        if one.error:
            console.print(f"{one.notebook}: {one.error}", markup=False, soft_wrap=True, highlight=False)


def run(
    notebooks: Annotated[list[str] | None, typer.Argument(help="01, 01_name or a path; default: all")] = None,
    budget: Annotated[Budget, typer.Option(help="How much to compute.")] = Budget.lesson,
    seed: Annotated[int | None, typer.Option(help="Another SEED.")] = None,
    parameter: Annotated[list[str] | None, typer.Option("-p", help="NAME=VALUE in YAML; may be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="Where the executed notebooks go (.ipynb and .html).")] = Path(
        "runs/notebooks"
    ),
) -> None:
    """Run notebooks from top to bottom, and print what each cost; exit code 1 when a cell fails."""
    import nbformat

    values = read_parameters(parameter or [])
    values |= {"BUDGET": budget.value} | ({} if seed is None else {"SEED": seed})
    if os.path.isdir(str(values.get("DATASET", ""))):  # the kernel works in the notebook's folder
        values["DATASET"] = data.lasting_name(values["DATASET"])
    paths = find(notebooks or [])
    for path in paths:  # all of them, before the first one runs
        check_parameters(values, parameters_of(nbformat.read(path, as_version=4)), path.stem)
    out.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for number, path in enumerate(paths, start=1):
        print(f"{number}/{len(paths)} {path.stem} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="mlcourse-") as work:
            executed = out / path.name
            outcome = execute(
                path, executed, budget=budget.value, parameters=values, work=Path(work), progress=sys.stderr.isatty()
            )
        if executed.is_file():
            write_html(executed)
        outcomes.append(outcome)
    show(outcomes)
    print(f"Executed notebooks: {out}")
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(1)
