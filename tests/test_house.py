"""The rules of the house that import-linter does not keep: no private name crosses a file, a method is one file, the
plan lists the rooms."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from mlcourse import environment, learners, places
from mlcourse.commands import methods
from mlcourse.errors import CourseError

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


# ------------------------------------------------------------------ a method is one file

NEW_METHOD = '''"""Nearest centre of ranks, a method that nobody has."""

import torch
from torch import Tensor

from mlcourse.learners.base import State, way_of
from mlcourse.learners.methods import Paper, Recipe, register
from mlcourse.learners.metric import MetricLearner
from mlcourse.learners.prototypical import prototypes


class RankedCentres(MetricLearner):
    """Prototypes, and logits on a scale of its own."""

    def __init__(self, network: torch.nn.Module, *, sharpness: float = 2.0):
        super().__init__(network)
        self.sharpness = sharpness

    def keep(self, z: Tensor, support_y: Tensor) -> State:
        return {"centres": prototypes(z, support_y, way_of(support_y))}

    def compare(self, state: State, z: Tensor) -> Tensor:
        return -self.sharpness * torch.cdist(z, state["centres"])


register(
    "ranked",
    learner=RankedCentres,
    help="compares with centres of ranks",
    title="ranked centres",
    paper=Paper("Nobody, Someone, Anyone", "Ranked Centres", 2031, "https://example.org/ranked"),
    published={"omniglot 5-way 1-shot": 12.34},
    network={"normalisation": "group", "channels": 8},
    recipes={"smoke": Recipe(steps=2, tasks=2, rate=1e-3, query=2, validate_every=2, validation_episodes=4)},
)
'''
TABULATED = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("make_results", sys.argv[1])
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)
run = dict(method="ranked", normalisation="group", way=5, accuracy=0.5, ci95=0.01, worst_tenth=0.4, steps=2)
print(made.rows([run | dict(transductive=False)], {})[0])
"""


@pytest.fixture(scope="module")
def house_with_one_more_method(tmp_path_factory):
    """A copy of the package with one more file in `learners/`, and a function that runs Python in it."""
    copy = tmp_path_factory.mktemp("house")
    shutil.copytree(HOUSE, copy / "mlcourse", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(places.data(), copy / "data")
    (copy / "mlcourse" / "learners" / "ranked.py").write_text(NEW_METHOD, encoding="utf-8")

    def python(*arguments):
        environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)], cwd=copy, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(copy) in python("-c", "import mlcourse; print(mlcourse.__file__)")
    return copy, python


def test_a_method_is_one_file(house_with_one_more_method):
    copy, python = house_with_one_more_method
    command = ("-m", "mlcourse")
    listed = python(*command, "train", "--help")
    assert re.search(r"ranked +compares with centres of ranks", listed)
    assert "prototypical" in listed
    python(*command, "train", "ranked", "--recipe", "smoke", "--seed", 3, "--out", "run")
    config = json.loads((copy / "run" / "config.json").read_text(encoding="utf-8"))["learner"]
    assert (config["method"], config["options"]["sharpness"], config["options"]["channels"]) == ("ranked", 2.0, 8)
    loaded = "import mlcourse; print(type(mlcourse.load('run')).__name__, mlcourse.load('run').sharpness)"
    assert python("-c", loaded).split() == ["RankedCentres", "2.0"]
    for learner in ("run", "untrained-ranked"):
        result = json.loads(python(*command, "evaluate", learner, "--episodes", 4, "--query", 2, "--json"))
        assert (result["normalisation"], result["episodes"]) == ("group", 4)
    row = python("-c", TABULATED, ROOT / "docs" / "make_results.py")
    assert row.startswith("| ranked centres | 50.00 % ± 1.00 over episodes |")
    assert "[Nobody et al. 2031](https://example.org/ranked): 12.34, –" in row


def test_help_lists_what_the_files_register():
    assert [
        (line.name, line.help, line.trains) for line in sorted(methods.catalogue(), key=lambda line: line.name)
    ] == [(name, one.help, bool(one.recipes)) for name, one in sorted(learners.METHODS.items())]
    assert all(one.help and one.title for one in learners.METHODS.values())


def test_a_method_says_what_it_is_in_one_file_only():
    """No other file of the package or of the results table has a list of methods."""
    names = set(learners.METHODS)
    for path in [*HOUSE.rglob("*.py"), ROOT / "docs" / "make_results.py"]:
        if path.parent.name == "learners" or "lessons" in path.parts:
            continue
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        # in a table of other things, such as {"median": …, "least": …}, a word is no method that is called so
        tables = [{getattr(key, "value", None) for key in node.keys} for node in nodes if isinstance(node, ast.Dict)]
        words = {one for keys in tables if len(keys & names) <= 1 < len(keys) for one in keys & names}
        found = sorted((names & strings) - words)
        assert len(found) <= 2, f"{path} names the methods {found}: ask learners.METHODS"


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(CourseError, match=r"method 'maml' is registered in .*maml\.py and in .*; rename one"):
        learners.register("maml", learner=learners.MAML, help="again")
    assert learners.METHODS["maml"].file.endswith("maml.py")


def test_help_is_there_without_torch():
    code = (
        "import sys\nfrom mlcourse.commands import app\n"
        "for words in (['--help'], ['train', '--help'], ['evaluate', '--help']):\n"
        "    try:\n        app(words)\n    except SystemExit:\n        pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert all(name in done.stdout for name in learners.METHODS)
