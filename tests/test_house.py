"""The rules of the house that import-linter does not keep: no private name crosses a file, the plan lists the rooms."""

import ast
import re
import subprocess
import sys

import nbformat
import pytest

from mlcourse import environment, places

ROOT = places.repository()
HOUSE = ROOT / "mlcourse"


def private_names(source: str) -> list[str]:
    """The names beginning with one underscore that a file takes from another file of the course."""
    tree, modules, found = ast.parse(source), set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {(a.asname or a.name).split(".")[0] for a in node.names if a.name.split(".")[0] == "mlcourse"}
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "mlcourse"):
            modules |= {alias.asname or alias.name for alias in node.names}
            found += [alias.name for alias in node.names if is_private(alias.name)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in modules:
                found.append(ast.unparse(node))
    return found


def is_private(name: str) -> bool:
    """Whether a name begins with an underscore and is not one of Python's own, like `__file__`."""
    return name.startswith("_") and not name.endswith("__")


@pytest.mark.parametrize(
    "source",
    [
        "from mlcourse.teaching.figures import _titles",
        "from .figures import _titles",
        "from mlcourse.teaching import figures as f\nf._titles(3)",
        "import mlcourse.teaching.figures\nmlcourse.teaching.figures._titles(3)",
        "def late():\n    from mlcourse import inner\n    return inner._step",
    ],
)
def test_a_private_name_that_crosses_a_file_is_found(source):
    assert len(private_names(source)) == 1


def test_what_is_not_private_or_not_ours_passes():
    assert (
        private_names("import torch\nfrom mlcourse import inner\ntorch._C\ninner.__file__\nself._x\ninner.adapt") == []
    )


def test_no_private_name_crosses_a_file():
    files = [path for room in ("mlcourse", "tests", "docs", "data") for path in (ROOT / room).rglob("*.py")]
    wrong = {path.name: names for path in files if (names := private_names(path.read_text(encoding="utf-8")))}
    for path in places.notebooks().glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        code = [c.source for c in cells if c.cell_type == "code" and not c.source.lstrip().startswith(("%", "!"))]
        if names := private_names("\n".join(code)):
            wrong[path.name] = names
    assert wrong == {}


def rooms() -> set[str]:
    """What lies in the package: its folders, and its files but for the package's own."""
    there = {path.name + "/" for path in HOUSE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    return there | {path.name for path in HOUSE.glob("*.py") if not path.name.startswith("__")}


def test_the_plan_lists_the_rooms_in_the_order_of_imports():
    plan = (HOUSE / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w./]+)` \|", plan, re.MULTILINE)
    assert sorted(listed) == sorted(rooms())
    contract = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("layers = [")[1].split("]")[0]
    layers = [re.findall(r"mlcourse\.(\w+)", line) for line in contract.strip().splitlines()][::-1]
    place = {name: level for level, names in enumerate(layers) for name in names}
    levels = [place[name.rstrip("/").removesuffix(".py")] for name in listed if name != "environment.py"]
    assert levels == sorted(levels), "the plan and the contract in pyproject.toml list the rooms in another order"


def test_every_room_says_what_it_is():
    for path in HOUSE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


def test_tests_lie_as_the_package_does():
    for path in (ROOT / "tests").rglob("test_*.py"):
        room = path.parent.relative_to(ROOT / "tests")
        if room.parts[:1] not in ((), ("browser",), ("notebooks",)):
            assert (HOUSE / room).is_dir(), f"{path} tests no room of the house"


def test_the_command_of_the_house_is_in_the_style_stage():
    assert "LINT_IMPORTS]" in (HOUSE / "environment.py").read_text(encoding="utf-8")
    code = [sys.executable, "-c", environment.LINT_IMPORTS]
    assert "0 broken" in subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=True).stdout
