"""The methods that there are, as `--help` lists them.

PyTorch takes seconds to import, and help is asked for often. So the files of `mlcourse/learners` are not run: what
stands in their calls `register("name", help="…", …)` is read from their text.
"""

import ast
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlcourse import files, places
from mlcourse.errors import CourseError
from mlcourse.vision import TASKS


@dataclass(frozen=True)
class Line:
    """A method's name, what it does, and whether it has recipes to train by."""

    name: str
    help: str
    trains: bool


def catalogue(folder: Path | None = None) -> list[Line]:
    """All methods that the files of a folder register (default: the course's learners), by file and place in it."""
    folder = places.PACKAGE / "learners" if folder is None else folder
    return [line for path in sorted(folder.glob("*.py")) for line in _registered(path)]


def trainable() -> str:
    """What `mlcourse train --help` says of METHOD."""
    return _paragraph("METHOD is one of", [line for line in catalogue() if line.trains])


def baselines() -> str:
    """What `mlcourse evaluate --help` says of learners that are no run."""
    untrained = Line("untrained-METHOD", "any method of mlcourse train --help, with random weights", False)
    of_tasks = [Line(name, f"of {task}", False) for task, (_, names) in TASKS.items() for name in names]
    return _paragraph("Baselines", [line for line in catalogue() if not line.trains] + [untrained, *of_tasks])


def tasks() -> str:
    """What `mlcourse train --help` says of tasks that are no classification."""
    lines = [Line(name, asks, True) for name, (asks, _) in TASKS.items()]
    return _paragraph("Other tasks, each with options of its own (mlcourse train TASK --help)", lines)


def task_of(learner: str) -> str | None:
    """The task of vision that the folder of a run, or the name of a baseline, belongs to; None: classification."""
    config = Path(learner) / "config.json"
    if config.is_file():
        try:
            told = files.read_json(config)
        except CourseError:  # a damaged one: its checkpoint may stand in for it, and knows the task of the learner
            return _task_of_damaged(learner)
        return told.get("task") if isinstance(told, dict) and told.get("task") in TASKS else None
    return next((task for task, (_, names) in TASKS.items() if learner in names), None)


def _task_of_damaged(learner: str) -> str | None:
    from mlcourse import learners  # late: it brings PyTorch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whoever loads it for good says what stands in
        try:
            _, about = learners.load_run(learner)
        except (CourseError, OSError):
            return None
    return about.get("task") if about.get("task") in TASKS else None


def command_of(task: str, name: str) -> Callable:
    """The function of a task's own command, "train" or "evaluate"."""
    return getattr(importlib.import_module(f"mlcourse.commands.{task}"), name)


def _paragraph(title: str, lines: list[Line]) -> str:
    """A title, then a line for each; "\\b" tells the command line to leave them as they are."""
    width = max(len(line.name) for line in lines)
    return "\n".join(["\b", f"{title}", *(f"  {line.name:{width}}  {line.help}" for line in lines)])


def _registered(path: Path) -> list[Line]:
    calls = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call)]
    calls = [call for call in calls if _name(call.func) == "register" and call.args]
    lines = []
    for call in sorted(calls, key=lambda call: call.lineno):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        name, told = _text(call.args[0]), _text(given.get("help"))
        if name:
            lines.append(Line(name, told, "recipes" in given))
    return lines


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _text(node: ast.expr | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
