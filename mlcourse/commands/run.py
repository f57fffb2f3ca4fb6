"""`mlcourse run`: execute notebooks from top to bottom, each in a fresh kernel, with papermill.

A cell that fails is never tried again. A kernel that does not start is, once, and that is counted. Every run has time
limits, because a lost message would otherwise wait for ever. A learner's progress is never touched: the notebooks get
a work folder of their own. No file is replaced that an earlier run did not write.
"""

import ast
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mlcourse import files, places
from mlcourse.commands import one_line
from mlcourse.commands.console import Progress
from mlcourse.errors import CourseError

# Seconds that one cell may take. The contract says one minute at `lesson`; a slow machine gets ten times that.
CELL_SECONDS = {"smoke": 120, "lesson": 600, "paper": 7 * 24 * 3600}
START_SECONDS = 60
# How tqdm writes a bar: " 45%|####      | 450/1000 [00:03<00:04, 120it/s, accuracy=0.923]".
BAR = re.compile(r"\| *([^\s/]+/[^\s/]+) \[([^\]\r\n]*)\]")
KEEP_SECONDS = 60  # between two times that what has run so far is put in its place


class Budget(StrEnum):
    """How much a notebook computes. (How long a method is trained is the recipe of `mlcourse train`.)"""

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
    processor_seconds: float  # of all cores together
    kernel_starts: int  # 2 when the first kernel did not start
    executed: Path | None  # None when no cell ran, or when the disk is full: then nothing was written


# ------------------------------------------------------------------------------- which notebooks, which parameters


def find(names: list[str], folder: Path | None = None) -> list[Path]:
    """Turn "1", "01", "01_inner_and_outer_losses" or a path into notebooks; no names means all of them.

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
    path = _as_path(name)
    if path:
        return path
    number = name.zfill(2) if name.isdecimal() else name
    found = [notebook for notebook in there if number in (notebook.name, notebook.stem, notebook.stem.split("_")[0])]
    if len(found) != 1:
        known = ", ".join(notebook.stem for notebook in there) or "none"
        raise CourseError(f"there is no notebook {name}: give a path, or one of {known}")
    return found[0]


def _as_path(name: str) -> Path | None:
    """The file that a name is the path of, or None."""
    path = Path(os.path.expanduser(name))
    return path if path.suffix == ".ipynb" and path.is_file() else None


def choose(names: list[str]) -> list[Path]:
    """The notebooks to run, each once: the learner's copy where there is one, unless the name is a path."""
    chosen: dict[Path, Path] = {}  # the file itself -> the way to it that was given
    for notebook in find(names):
        named = any(_as_path(name) == notebook for name in names)
        copy = places.work() / notebook.name
        path = copy if not named and copy.is_file() else notebook
        chosen.setdefault(path.resolve(), path)
    return list(chosen.values())


def targets(paths: list[Path], out: Path) -> list[Path]:
    """Where each executed notebook goes. Its page goes beside it.

    Raises CourseError when that would replace anything but the result of an earlier run: the course's notebooks, a
    learner's copy, the input itself, somebody's file; or when two results would have one name.
    """
    for folder, what in ((places.notebooks(), "the course's own notebooks"), (places.work(), "your copies")):
        if out.resolve() == folder.resolve():
            raise CourseError(f"--out {out} holds {what}, which are never overwritten: name another folder")
    taken: dict[str, Path] = {}
    for path in paths:
        other = taken.setdefault(path.name.casefold(), path)  # a disk may not tell A.ipynb from a.ipynb
        if other is not path:
            raise CourseError(f"{other} and {path} would both become {out / path.name}: run them with an --out each")
        _check_target(out / path.name, path)
    return [out / path.name for path in paths]


def _check_target(target: Path, source: Path) -> None:
    page = target.with_suffix(".html")
    if target.exists() and target.samefile(source):
        raise CourseError(f"--out {target.parent} would overwrite the notebook {source} itself: name another folder")
    if target.exists() and not _is_result(target):
        raise CourseError(f"{target} was not made by `mlcourse run` and is not overwritten: name another --out")
    if page.exists() and not target.exists():
        raise CourseError(f"{page} is there without its notebook and is not overwritten: name another --out")


def _is_result(path: Path) -> bool:
    """True for a notebook that an earlier run wrote: papermill leaves its mark."""
    try:
        return "papermill" in json.loads(path.read_text(encoding="utf-8"))["metadata"]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def check_language(notebook, name: str) -> None:
    """Raise CourseError for a notebook that is not written in Python."""
    about = notebook.metadata
    language = about.get("kernelspec", {}).get("language") or about.get("language_info", {}).get("name") or "python"
    if not str(language).lower().startswith(("python", "ipython")):
        raise CourseError(f"{name} is written in {language}: only notebooks in Python can be run")


def parameters_of(notebook, name: str = "the notebook") -> dict[str, Any]:
    """The names and default values in the cell tagged `parameters`.

    Args:
        notebook: an nbformat notebook.
        name: what an error calls it.

    Raises:
        CourseError: there is no such cell, or it holds anything but plain literals.

    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise CourseError(f"{name} has {len(cells)} cells tagged `parameters`: exactly one is needed")
    source, values = cells[0].source, {}
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # a magic such as %matplotlib, or no Python
        lines, number = source.splitlines(), getattr(error, "lineno", None) or 0
        line = lines[number - 1].strip() if 0 < number <= len(lines) else "what is no Python"
        raise _no_literal(name, line) from None
    for statement in statements:
        plain = isinstance(statement, ast.Assign) and len(statement.targets) == 1
        if not plain or not isinstance(statement.targets[0], ast.Name):
            raise _no_literal(name, ast.unparse(statement))
        try:
            values[statement.targets[0].id] = ast.literal_eval(statement.value)
        except (ValueError, TypeError, RecursionError, MemoryError):
            raise _no_literal(name, ast.unparse(statement)) from None
    return values


def _no_literal(name: str, line: str) -> CourseError:
    line = line if len(line) < 100 else f"{line[:100]} ..."
    return CourseError(f"{name}: the cell `parameters` holds `{line}`: only NAME = literal is allowed there")


def read_parameters(pairs: list[str]) -> dict[str, Any]:
    """Turn ["SEED=3", "DATASET=omniglot"] into names and values; the values are YAML."""
    import yaml

    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise CourseError(f"-p {pair} is no parameter: write -p NAME=VALUE, such as -p SEED=3")
        if name in values:
            raise CourseError(f"-p {name} is given twice: say it once")
        try:
            values[name] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: 2024-99-99 looks like a date
            raise CourseError(f"-p {pair}: the value is not valid YAML, or no UTF-8; put it in quotes") from None
    return values


def settings(pairs: list[str], budget: Budget | None, seed: int | None) -> tuple[Budget, dict[str, Any]]:
    """What the options ask for: the budget, and the parameters that are given.

    `--budget` and `-p BUDGET=` mean the same, so do `--seed` and `-p SEED=`; without one, MLCOURSE_BUDGET and then
    `lesson` is the budget. DATASET, when it is a folder, becomes an absolute path: the kernel runs elsewhere.

    Raises CourseError for a parameter that is given twice, and for an unknown budget.
    """
    values = read_parameters(pairs)
    for name, option in (("BUDGET", budget), ("SEED", seed)):
        if option is not None and name in values:
            raise CourseError(f"--{name.lower()} and -p {name} say the same: leave one out")
    if seed is not None:
        values["SEED"] = seed
    wanted = values.get("BUDGET", budget or os.environ.get("MLCOURSE_BUDGET") or Budget.lesson)
    if wanted not in list(Budget):
        raise CourseError(f"the budget {wanted!r} is unknown: use one of {', '.join(Budget)}")
    if isinstance(values.get("DATASET"), str):
        values["DATASET"] = _lasting(values["DATASET"])
    return Budget(wanted), values


def _lasting(dataset: str) -> str:
    """A data set as the kernel finds it, which runs in another folder."""
    if not os.path.isdir(os.path.expanduser(dataset)):
        return dataset  # a name; the notebook says which there are
    from mlcourse.commands import data

    folder = data.lasting_name(dataset)
    try:
        folder.encode()
    except UnicodeEncodeError:
        raise CourseError(
            f"DATASET={dataset}: the name {folder} is no UTF-8, and a notebook cannot hold it: rename the folder"
        ) from None
    return folder


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
            quotes = f" (a text in quotes: -p '{name}=\"{value}\"')" if wanted is str else ""
            raise CourseError(
                f"{notebook}: {name}={value!r} is no {wanted.__name__}, such as {defaults[name]!r}{quotes}"
            )


# ----------------------------------------------------------------------------------------------------- one notebook


class Used:
    """What the processes below this one take, as `watch` sees it: memory at its peak, and processor time."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._seconds: dict[int, float] = {}  # process -> user and system time, as last seen

    @property
    def processor_seconds(self) -> float:
        """Time on all cores together, until the last look."""
        return sum(self._seconds.values())

    def look(self, process) -> None:
        """Look once at a process's children."""
        import psutil

        total = 0
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                total += child.memory_info().rss
                times = child.cpu_times()
                self._seconds[child.pid] = times.user + times.system
        self.peak_mb = max(self.peak_mb, total / 1e6)


@contextlib.contextmanager
def watch() -> Iterator[Used]:
    """Watch this process's children inside the block. It looks every 0.2 s: a shorter peak can be missed."""
    import psutil

    used, done, me = Used(), threading.Event(), psutil.Process()

    def look_on() -> None:
        while not done.wait(0.2):
            used.look(me)

    watcher = threading.Thread(target=look_on, daemon=True)
    watcher.start()
    try:
        yield used
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


def _never_started(error: Exception, draft: Path) -> bool:
    """True when the kernel did not come up at all: then no cell has run, and a second try changes no result."""
    from nbclient.exceptions import DeadKernelError

    return isinstance(error, RuntimeError) and not isinstance(error, DeadKernelError) and not _has_run(draft)


def _has_run(draft: Path) -> bool:
    """Whether a cell of the draft was begun."""
    return any(cell.metadata.get("papermill", {}).get("start_time") for cell in _cells(draft))


def _cells(path: Path | None) -> list:
    """The cells of an executed notebook; none when there is none, or when a full disk cut it."""
    with contextlib.suppress(CourseError):
        return files.read_notebook(path).cells if path else []
    return []


def _one_line(error: Exception) -> str:
    """Which cell failed and with what, without papermill's frame around it."""
    if hasattr(error, "ename"):
        return f"cell {error.exec_count}: {error.ename}: {' '.join(str(error.evalue).split())}"
    if type(error).__name__ == "CellTimeoutError":
        return "a cell took longer than its limit, and was stopped"
    if type(error).__name__ == "DeadKernelError":
        return "the kernel died (often: too little memory)"
    text = " ".join(str(error).split())
    return one_line(error) or f"{type(error).__name__}: {text}"


def _before_each_cell(
    notebook: Path, injected: bool, progress: Progress | None, keep: Callable[[], object]
) -> Callable[..., None]:
    """What nbclient calls before each cell: it says which code cell of how many comes, numbered as Jupyter does.

    injected: whether papermill puts one cell, with the parameters that were given, behind the cell `parameters`.
    keep: called once a minute, so that a power cut does not take a week's results.
    """
    code = [index for index, cell in enumerate(_cells(notebook)) if cell.cell_type == "code"]
    total, kept = len(code) + injected, [time.monotonic()]

    def started(cell, cell_index: int) -> None:
        if progress and cell.cell_type == "code":
            before = sum(index < cell_index for index in code)  # behind the injected cell every index is one higher
            progress.at(before / total, f"cell {before + 1} of {total}")
        if time.monotonic() - kept[0] > KEEP_SECONDS:
            keep()
            kept[0] = time.monotonic()

    return started


class Metric:
    """What a cell prints, for the line that one sees meanwhile: the metric and the count of its last training bar.

    papermill writes each piece of a cell's text here as it arrives. Only a whole bar is read: half a figure is wrong.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def write(self, text: str) -> None:
        """Read a piece of text."""
        for count, words in BAR.findall(text)[-1:]:
            metrics = ", ".join(words.split(", ")[2:])  # the first two are times and speed
            self.progress.note(f"{metrics} ({count})" if metrics else count)

    def flush(self) -> None:
        """Nothing is held back."""


def execute(
    notebook: Path,
    executed: Path,
    *,
    budget: str,
    parameters: dict[str, Any] | None = None,
    work: Path,
    cell_seconds: float | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Run one notebook in a fresh kernel; never raises for what the notebook does.

    Args:
        notebook: the source; it is not changed.
        executed: where the notebook with its outputs goes, in one piece: at the end, after Ctrl-C, and once a minute.
        budget: "smoke", "lesson" or "paper".
        parameters: what replaces the defaults of the cell `parameters`.
        work: the work folder that the kernel sees (MLCOURSE_WORK).
        cell_seconds: limit for each cell; default by budget.
        progress: is told which cell runs, and the metric of its training.

    Returns:
        times, memory and the first error.

    """
    import papermill

    error, starts, begin = "", 0, time.monotonic()
    place = executed.absolute()  # papermill changes the folder while it runs
    # papermill formats paths (`{x}`) and takes some for addresses: it sees plain ones
    with tempfile.TemporaryDirectory(prefix="mlcourse-") as folder:
        source, draft = Path(folder) / "source.ipynb", Path(folder) / "executed.ipynb"
        shutil.copyfile(notebook, source)
        heard = Metric(progress) if progress else None
        hook = _before_each_cell(notebook, bool(parameters), progress, lambda: _keep(draft, notebook, place))
        try:
            with watch() as used, environment(MLCOURSE_BUDGET=budget, MLCOURSE_WORK=str(work.resolve())):
                while starts < 2:
                    starts += 1
                    try:
                        papermill.execute_notebook(
                            _braces(source),
                            _braces(draft),
                            parameters=parameters or {},
                            kernel_name="python3",
                            language="python",
                            cwd=str(notebook.resolve().parent),
                            progress_bar=False,
                            stdout_file=heard,
                            stderr_file=heard,
                            start_timeout=START_SECONDS,
                            execution_timeout=cell_seconds or CELL_SECONDS[budget],
                            # nothing that it logs can be acted upon: that it uses TCP, that it is told to end
                            extra_arguments=["--IPKernelApp.log_level=50"],
                            on_cell_start=hook,
                        )
                        error = ""
                        break
                    except Exception as problem:
                        error = _one_line(problem)
                        if not _never_started(problem, draft):
                            break
        finally:
            cell, seconds = _slowest(draft)
            kept, why_not = _keep(draft, notebook, executed)
    total = time.monotonic() - begin
    used_up = used.peak_mb, used.processor_seconds
    return Outcome(notebook.stem, error or why_not, total, cell, seconds, *used_up, starts, kept)


def _braces(path: Path) -> str:
    """The path as papermill wants it: it fills parameters into braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _keep(draft: Path, notebook: Path, executed: Path) -> tuple[Path | None, str]:
    """Put a draft in its place: (the place, "") or (None, why not). A draft in which no cell ran is not kept.

    The page of an earlier run is removed: it would show other results than the notebook beside it.
    """
    if not _has_run(draft):
        return None, ""
    try:
        content = json.loads(draft.read_text(encoding="utf-8"))
        content["metadata"]["papermill"] |= {"input_path": str(notebook), "output_path": str(executed)}
        files.write_text(executed, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        executed.with_suffix(".html").unlink(missing_ok=True)
        return executed, ""
    except OSError as error:
        return None, _one_line(error)


def _slowest(executed: Path | None) -> tuple[int, float]:
    """The number of the slowest code cell and its seconds; (0, 0.0) when none ran."""
    times = [
        (cell.metadata.get("papermill", {}).get("duration") or 0.0, cell.get("execution_count") or 0)
        for cell in _cells(executed)
        if cell.cell_type == "code"
    ]
    seconds, number = max(times, default=(0.0, 0))
    return number, seconds


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
    notebooks: Annotated[list[str] | None, typer.Argument(help="1, 01, 01_name or a path; default: all")] = None,
    budget: Annotated[
        Budget | None,
        typer.Option(
            help="How much each notebook computes: smoke (a few steps, to see that it runs), lesson (up to 3 minutes) "
            "or paper (long: for a GPU). Default: MLCOURSE_BUDGET, else lesson."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**64 - 1, help="The notebook's SEED (default: 0).")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("-p", help="NAME=VALUE in YAML, such as DATASET=omniglot; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the executed notebooks go (.ipynb and .html).")] = Path(
        "runs/notebooks"
    ),
) -> None:
    """Run notebooks from top to bottom, and print what each cost; exit code 1 when a cell fails.

    A name runs your copy in `work/` when there is one, else the course's notebook; a path runs that file. Neither is
    changed, and your progress is not either.
    """
    chosen_budget, values = settings(parameter or [], budget, seed)
    paths = choose(notebooks or [])
    given = {path: _fitting(path, chosen_budget, values) for path in paths}  # all of them, before the first one runs
    places_of_results = targets(paths, out)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out):
        pass  # a folder that cannot be written is told now, and not after an hour
    outcomes = []
    for number, (path, executed) in enumerate(zip(paths, places_of_results, strict=True), start=1):
        whose = f" (your copy, {path})" if path.resolve().parent == places.work().resolve() else ""
        print(f"{number}/{len(paths)} {path.stem}{whose} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="mlcourse-") as work, Progress(_short(path.stem)) as progress:
            outcome = execute(
                path, executed, budget=chosen_budget, parameters=given[path], work=Path(work), progress=progress
            )
        outcomes.append(_with_page(outcome))
    show(outcomes)
    for outcome, executed in zip(outcomes, places_of_results, strict=True):
        if outcome.executed is None:
            old = f"; {executed} is of an earlier run" if executed.exists() else ""
            print(f"{outcome.notebook}: nothing was written{old}")
    if any(outcome.executed for outcome in outcomes):
        print(f"Executed notebooks: {out}")
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(1)


def _short(stem: str) -> str:
    """A notebook as a narrow terminal names it: by its number, where it has one."""
    number = stem.split("_")[0]
    return number if number.isdecimal() else stem


def _fitting(path: Path, budget: Budget, values: dict[str, Any]) -> dict[str, Any]:
    """The values for one notebook, which has all these parameters; its BUDGET, where it has one, is the run's."""
    notebook = files.read_notebook(path)
    check_language(notebook, path.name)
    defaults = parameters_of(notebook, path.name)
    check_parameters(values, defaults, path.stem)
    return values | ({"BUDGET": str(budget)} if "BUDGET" in defaults else {})


def _with_page(outcome: Outcome) -> Outcome:
    """The outcome after its page was written; a disk that is full is its error."""
    from mlcourse.commands.pages import write_html

    if outcome.executed is None:
        return outcome
    try:
        write_html(outcome.executed)
    except OSError as error:
        return replace(outcome, error=outcome.error or f"no page: {_one_line(error)}")
    return outcome
