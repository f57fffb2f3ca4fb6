"""The methods that there are, as `--help` lists them.

PyTorch takes seconds to import, and help is asked for often. So the files of `mlcourse/learners` are not run: what
stands in their calls `register("name", help="…", …)` is read from their text.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

from mlcourse import places


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
    return _paragraph("Baselines", [line for line in catalogue() if not line.trains] + [untrained])


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
