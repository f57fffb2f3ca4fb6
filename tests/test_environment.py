"""`make` without make: what `mlcourse/environment.py` does on good and on broken machines."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from mlcourse import environment
from mlcourse.environment import Problem

SCRIPT = Path(environment.__file__)


@pytest.fixture
def clone(tmp_path):
    """An empty repository, as far as the environment looks at it."""
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("torch==2.14.1\n")
    return tmp_path


@pytest.fixture
def installs(monkeypatch):
    """Record what pip would install; every environment that pip was asked to fill imports everything."""
    calls = []
    monkeypatch.setattr(environment, "pip_install", lambda python, arguments: calls.append(arguments))
    monkeypatch.setattr(environment, "check_disk", lambda folder, torch: None)
    # without pip a virtual environment is made in no time; test_network_away_is_one_line makes a real one
    monkeypatch.setattr(environment, "VENV", ("-m", "venv", "--without-pip"))
    real = environment.runs

    def runs(python, code="import pip"):
        return bool(calls) if code == environment.PROOF else real(python, "pass")

    monkeypatch.setattr(environment, "runs", runs)
    return calls


def test_file_needs_the_standard_library_only():
    code = f"import runpy, sys; runpy.run_path({str(SCRIPT)!r}); print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    names = {name.split(".")[0] for name in loaded}
    assert names - set(sys.stdlib_module_names) <= {"__main__", "__mp_main__"}


def test_an_old_python_can_read_the_file():
    source = SCRIPT.read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 6))
    assert "__future__" not in source


def test_a_newer_python_takes_over(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(environment, "OLDEST", (99, 0))
    monkeypatch.setattr(environment, "newer_python", lambda: "python99")
    monkeypatch.setattr(environment, "become", lambda *command: called.append(command) or 7)
    assert environment.main(["env", "TORCH=cpu"]) == 7
    assert called == [("python99", environment.__file__, "env", "TORCH=cpu")]


def test_module_does_not_import_torch():
    code = "import sys, mlcourse.environment; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_makes_once_and_then_costs_nothing(clone, installs):
    python = environment.make_environment({}, clone)
    assert python.exists()
    assert installs == [["-c", "constraints.txt", "-e", ".[test]"]]
    assert json.loads((clone / ".venv" / environment.STAMP).read_text())["torch"] == "default"
    assert environment.make_environment({}, clone) == python
    assert len(installs) == 1


def test_changed_constraints_bring_it_up_to_date(clone, installs):
    environment.make_environment({}, clone)
    (clone / "constraints.txt").write_text("torch==2.15.0\n")
    environment.make_environment({}, clone)
    assert len(installs) == 2


def test_without_stamp_it_goes_on_in_the_same_folder(clone, installs):
    environment.make_environment({}, clone)
    (clone / ".venv" / environment.STAMP).unlink()
    (clone / ".venv" / "kept").touch()
    environment.make_environment({}, clone)
    assert len(installs) == 2
    assert (clone / ".venv" / "kept").exists()


def test_half_made_environment_is_made_anew(clone, installs):
    (clone / ".venv").mkdir()
    (clone / ".venv" / "pyvenv.cfg").write_text("home = nowhere\n")
    assert environment.make_environment({}, clone).exists()


def test_environment_whose_python_vanished_is_made_anew(clone, installs):
    python = environment.make_environment({}, clone)
    shutil.rmtree(python.parent)
    assert environment.make_environment({}, clone).exists()
    assert len(installs) == 2


def test_environment_that_does_not_import_is_made_anew_once(clone, monkeypatch):
    monkeypatch.setattr(environment, "check_disk", lambda folder, torch: None)
    monkeypatch.setattr(environment, "pip_install", lambda python, arguments: None)
    made = []
    monkeypatch.setattr(environment, "create", lambda folder: made.append(folder))
    with pytest.raises(Problem, match="doctor"):
        environment.make_environment({}, clone)
    assert len(made) == 2
    assert not (clone / ".venv" / environment.STAMP).exists()


def test_foreign_folder_is_left_alone(clone, installs):
    (clone / ".venv").mkdir()
    (clone / ".venv" / "my_thesis.txt").write_text("years of work")
    with pytest.raises(Problem, match="move it away"):
        environment.make_environment({}, clone)
    assert (clone / ".venv" / "my_thesis.txt").exists()


def test_cpu_pair_comes_from_one_index_and_stays(clone, installs, monkeypatch):
    monkeypatch.delenv("TORCH", raising=False)
    environment.make_environment({"TORCH": "cpu"}, clone)
    first, second = installs
    assert first[-3:] == [environment.CPU_INDEX, "torch", "torchvision"]
    assert second == ["-c", "constraints.txt", "-e", ".[test]"]
    environment.make_environment({}, clone)  # no option: what is there is what is wanted
    assert len(installs) == 2
    environment.make_environment({"TORCH": "default"}, clone)
    assert len(installs) == 3


def test_unknown_torch(clone):
    with pytest.raises(Problem, match="TORCH=gpu"):
        environment.make_environment({"TORCH": "gpu"}, clone)


def test_old_python():
    with pytest.raises(Problem, match=r"3\.9 is too old.*PYTHON="):
        environment.check_python((3, 9, 2))


def test_full_disk(clone, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**10, 9 * 10**9, 10**9))
    with pytest.raises(Problem, match=r"1\.0 GB are free.*TORCH=cpu"):
        environment.make_environment({}, clone)
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "disk became full"),
        ("WARNING: Retrying ... NewConnectionError('... Temporary failure in name resolution')", "HTTPS_PROXY"),
        ("ERROR: No matching distribution found for torch", "HTTPS_PROXY"),
        ("ERROR: a strange thing\n\n", "pip failed: ERROR: a strange thing"),
        ("", "pip failed: no message"),
    ],
)
def test_pip_remedies(said, remedy):
    line = environment.pip_remedy(said)
    assert remedy in line
    assert "\n" not in line


def test_network_away_is_one_line(clone):
    """The real pip, without any index: every address is a closed port."""
    shutil.copytree(SCRIPT.parent, clone / "mlcourse", ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    )
    closed = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    code = f"import sys; sys.path.insert(0, {str(clone / 'mlcourse')!r}); import environment as e;"
    code += "e.check_disk = lambda *a: None; sys.exit(e.main(['env']))"
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, env=clean | closed, timeout=300)
    assert answer.returncode == 2
    last = answer.stderr.strip().splitlines()[-1]
    assert last.startswith("mlcourse: pip could not reach its package index")
    assert "Traceback" not in answer.stderr
    assert not (clone / ".venv" / environment.STAMP).exists()


@pytest.mark.parametrize("arguments", [[], ["fly"], ["test", "lab"], ["test", "NN=05"]])
def test_bad_arguments_are_one_line(arguments, capsys):
    assert environment.main(arguments) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_nb_selects_the_notebook_its_checks_and_the_harness(clone, monkeypatch):
    for name in ("05_a.ipynb", "06_b.ipynb"):
        (clone / "notebooks").mkdir(exist_ok=True)
        (clone / "notebooks" / name).write_text("from mlcourse.lessons.by_hand import checks")
    monkeypatch.setattr(environment, "ROOT", clone)
    chosen = [Path(path).as_posix() for path in environment.selected("05")]
    assert chosen == ["tests/lessons/by_hand", "notebooks/05_a.ipynb", "tests/notebooks"]
    with pytest.raises(Problem, match="there are 05, 06"):
        environment.selected("07")


def test_stops_at_the_first_stage_that_fails(monkeypatch, capsys):
    stages = []

    def call(python, *arguments, **environment):
        stages.append(arguments)
        return 3 if "pytest" in arguments else 0

    monkeypatch.setattr(environment, "call", call)
    assert environment.run_tests("python", {}) == 3
    assert stages[-1][:2] == ("-m", "pytest")
    assert "Run this stage alone" in capsys.readouterr().err
