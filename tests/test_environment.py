"""`make` without make: what `mlcourse/environment.py` does on good and on broken machines."""

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from mlcourse import environment, places
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
    monkeypatch.setattr(environment, "has_gpu", lambda: True)
    monkeypatch.delenv("TORCH", raising=False)
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
    monkeypatch.setattr(environment, "has_gpu", lambda: True)
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
    monkeypatch.setattr(environment, "has_gpu", lambda: True)
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
    code += "e.check_disk = lambda *a: None; e.has_gpu = lambda: True; sys.exit(e.main(['env']))"
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
    assert chosen == ["tests/lessons/by_hand", "notebooks/05_a.ipynb", *environment.SHARED_TESTS]
    assert [path for path in chosen[2:] if not (places.repository() / path).exists()] == []
    with pytest.raises(Problem, match="there are 05, 06"):
        environment.selected("07")


def test_all_stages_run_and_are_reported_together(monkeypatch, capsys):
    stages = []

    def call(python, *arguments, **environment):
        stages.append(arguments)
        return 3 if "tidy" in arguments else 4 if "not lesson" in arguments else 0

    monkeypatch.setattr(environment, "call", call)
    assert environment.run_tests("python", {}) == 3
    assert len(stages) == 6
    said = capsys.readouterr()
    assert "6 stages, about" in said.out
    assert re.findall(r"^(passed|FAILED)", said.out, re.MULTILINE) == ["passed"] * 3 + ["FAILED", "FAILED", "passed"]
    assert said.err.count("Run this stage alone") == 2
    assert '-m "not lesson"' in said.err
    assert "-rfEs" in stages[4], "the last lines name what failed, and why tests were skipped"


def test_an_interrupt_ends_the_tests(monkeypatch):
    stages = []
    monkeypatch.setattr(environment, "call", lambda python, *arguments, **_: stages.append(arguments) or 130)
    assert environment.run_tests("python", {}) == 130
    assert len(stages) == 1


# -------------------------------------------------------------------------------- which Python


def script(path, text):
    """A program in the place of an interpreter, such as pyenv's shims are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def shims(tmp_path, monkeypatch):
    """A PATH on which each version has a shim, and none of them runs, as with PYENV_VERSION=3.8.18."""
    for minor in range(11, 14):
        script(tmp_path / "shims" / f"python3.{minor}", f"echo 'pyenv: python3.{minor}: command not found'; exit 127")
    monkeypatch.setenv("PATH", str(tmp_path / "shims"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return tmp_path


posix = pytest.mark.skipif(os.name == "nt", reason="shell scripts stand for interpreters")


@posix
def test_a_python_that_does_not_run_is_not_taken(shims, monkeypatch):
    assert environment.newer_python() is None
    good = script(shims / "bin" / "python3.12", f'exec "{sys.executable}" "$@"')
    monkeypatch.setenv("PATH", f"{shims / 'shims'}{os.pathsep}{shims / 'bin'}")
    assert environment.newer_python() == str(good)  # behind a dead shim of the same name, and of a newer one


@posix
def test_pyenvs_own_versions_are_found_behind_its_dead_shims(shims):
    good = script(shims / "pyenv" / "versions" / "3.11.7" / "bin" / "python", f'exec "{sys.executable}" "$@"')
    script(shims / "pyenv" / "versions" / "3.13.0" / "bin" / "python", "exit 1")
    assert environment.newer_python() == str(good)


@posix
def test_a_python_that_is_too_old_is_not_taken(shims):
    script(shims / "shims" / "python3", "exit 1")  # runs, and says that its version is below 3.11
    assert environment.newer_python() is None


# the last two: a path with a blank, and a command with an option
NAMES_OF_PYTHON = [("python-gone", "taking"), ("dead", "taking"), (sys.executable, ""), ("a b", ""), ("python3 -B", "")]


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize(("name", "said"), NAMES_OF_PYTHON)
def test_make_tries_the_python_before_it_takes_it(name, said, tmp_path):
    script(tmp_path / "dead", "exit 127")
    script(tmp_path / "a b", f'exec "{sys.executable}" "$@"')
    path = f"{tmp_path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["make", "help", f"PYTHON={name}"]
    outer = {"MAKELEVEL", "MAKEFLAGS", "MFLAGS"}  # `make test` may be running these tests
    own = {key: value for key, value in os.environ.items() if key not in outer} | {"PATH": path}
    answer = subprocess.run(command, cwd=environment.ROOT, capture_output=True, text=True, timeout=120, env=own)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == environment.HELP
    assert (said in answer.stderr) if said else answer.stderr == ""


# -------------------------------------------------------------------------------- what must not leak in

LEAKS = {
    "PIP_USER": "1", "PIP_TARGET": "{0}/target", "PIP_PREFIX": "{0}/prefix", "PIP_ROOT": "{0}/root", "PIP_NO_DEPS": "1",
    "PIP_DRY_RUN": "1", "PIP_CONSTRAINT": "{0}/gone.txt", "PIP_REQUIRE_HASHES": "1", "PIP_PYTHON": "{0}/python",
    "PYTHONPATH": "{0}/other", "PYTHONHOME": "{0}/home", "PYTHONUSERBASE": "{0}/user",
}  # fmt: skip


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A virtual environment with pip, and a wheel that needs nothing."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, timeout=300)
    about = "tinything-1.0.dist-info"
    parts = {
        "tinything.py": "x = 1\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    parts[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in [*parts, f"{about}/RECORD"])
    wheel = folder / "tinything-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return folder, environment.interpreter(folder / "venv"), wheel


def installs_there(fresh):
    """Whether pip, called as the course calls it, installs into the environment and nowhere else."""
    folder, python, wheel = fresh
    before = sorted(path.name for path in folder.iterdir())
    environment.pip_install(python, ["--no-index", "--force-reinstall", str(wheel)])
    there = environment.runs(python, f"import tinything as t; assert t.__file__.startswith({str(folder / 'venv')!r})")
    return there and sorted(path.name for path in folder.iterdir()) == before


def test_no_variable_of_the_user_leaks_into_pip(fresh, monkeypatch):
    for name, value in LEAKS.items():
        monkeypatch.setenv(name, value.format(fresh[0]))
    assert installs_there(fresh)


@pytest.mark.parametrize("line", ["user = true", "target = {0}/target"])
def test_no_configuration_of_the_user_leaks_into_pip(fresh, tmp_path, monkeypatch, line):
    (tmp_path / "pip.conf").write_text(f"[install]\n{line.format(fresh[0])}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert installs_there(fresh)


def test_how_packages_are_reached_is_the_users_choice(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://packages.example/simple")
    monkeypatch.setenv("PIP_CERT", "own.pem")
    monkeypatch.setenv("PIP_USER", "1")
    kept = environment.clean_variables()
    assert (kept["PIP_INDEX_URL"], kept["PIP_CERT"], "PIP_USER" in kept) == (
        "https://packages.example/simple",
        "own.pem",
        False,
    )


def test_pythonhome_does_not_stop_the_verbs(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    assert environment.runs(sys.executable)
    assert environment.call(sys.executable, "-c", "import json") == 0


# -------------------------------------------------------------------------------- which PyTorch, and the waiting


@pytest.mark.parametrize(
    ("system", "gpu", "reached", "torch"),
    [
        ("linux", False, True, "cpu"),
        ("linux", True, True, "default"),
        ("linux", False, False, "default"),
        ("win32", False, True, "default"),
        ("darwin", False, True, "default"),
    ],
)
def test_the_small_pytorch_where_no_gpu_is(clone, installs, monkeypatch, capsys, system, gpu, reached, torch):
    monkeypatch.setattr(environment, "has_gpu", lambda: gpu)
    monkeypatch.setattr(environment, "reaches", lambda address: reached)
    monkeypatch.setattr(sys, "platform", system)
    assert environment.chosen_torch({}, {}) == (torch, True)
    assert environment.chosen_torch({"TORCH": "cpu"}, {}) == ("cpu", False)
    assert environment.chosen_torch({}, {"torch": "default"}) == ("default", False)
    monkeypatch.undo()


def test_the_small_pytorch_is_said_and_stays(clone, installs, monkeypatch, capsys):
    monkeypatch.setattr(environment, "chosen_torch", lambda options, stamp: (stamp.get("torch") or "cpu", not stamp))
    environment.make_environment({}, clone)
    said = capsys.readouterr().out
    assert "No NVIDIA GPU was found" in said
    assert "TORCH=default" in said
    assert said.index("Installing collected packages") < said.index("is ready")
    assert environment.read_stamp(clone / ".venv")["torch"] == "cpu"
    environment.make_environment({}, clone)
    assert len(installs) == 2


def test_an_index_that_fails_is_replaced_only_where_nobody_asked_for_it(clone, monkeypatch):
    def pip_install(python, arguments):
        if environment.CPU_INDEX in arguments:
            raise Problem("pip could not reach its package index")

    monkeypatch.setattr(environment, "pip_install", pip_install)
    assert environment.fill("python", "cpu", automatic=True) == "default"
    with pytest.raises(Problem, match="could not reach"):
        environment.fill("python", "cpu")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/", "no address", "https://"])
def test_what_cannot_be_reached(address):
    assert not environment.reaches(address)


@posix
@pytest.mark.parametrize(
    ("text", "there"), [("echo 'GPU 0: A Fine GPU (UUID: x)'", True), ("echo 'No devices were found'; exit 6", False)]
)
def test_the_driver_is_asked_for_a_gpu(tmp_path, monkeypatch, text, there):
    script(tmp_path / "nvidia-smi", text)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.has_gpu() is there
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert environment.has_gpu() is False


# -------------------------------------------------------------------------------- help, clean, terminals


def test_help_names_every_verb_and_makes_nothing(monkeypatch, capsys):
    monkeypatch.setattr(environment, "make_environment", lambda options: pytest.fail("it made an environment"))
    assert environment.main(["help"]) == 0
    said = capsys.readouterr().out
    assert all(f"make {verb} " in said for verb in [*environment.VERBS, *environment.BARE])
    makefile = (environment.ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{verb}:" in makefile for verb in [*environment.VERBS, *environment.BARE])


def test_clean_removes_caches_and_nothing_else(clone, monkeypatch):
    gone = [".ruff_cache/x", "build/x", "mlcourse/a/__pycache__/x", "notebooks/.ipynb_checkpoints/x"]
    stays = ["work/mine.ipynb", "work/__pycache__/x", "runs/mine/model", ".venv/__pycache__/x", "mlcourse/a.py"]
    for name in [*gone, *stays]:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).touch()
    monkeypatch.setattr(environment, "ROOT", clone)
    assert environment.main(["clean"]) == 0
    assert not any((clone / name).parent.exists() for name in gone)
    assert all((clone / name).exists() for name in stays)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
@pytest.mark.parametrize("arguments", [["help"], ["fly → α"], ["NÜ=1", "env"], ["env", "TORCH=→"]])
def test_no_letter_stops_the_file_that_comes_first(encoding, arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    answer = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding}, timeout=60)
    assert b"Traceback" not in answer.stderr
    assert answer.returncode == (0 if arguments == ["help"] else 2)


def test_a_folder_with_any_letters_can_be_announced(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setitem(
        environment.BARE, "help", lambda: environment.announce(Path("Übung α \udce9"), "cpu", True) or 0
    )
    assert environment.main(["help"]) == 0
    stream.flush()
    assert rb"\xdcbung \u03b1 \udce9" in stream.buffer.getvalue()


def test_no_tested_package_builds_a_grammar_at_each_start():
    """jsonschema from 4.25 on brings rfc3987-syntax: `import nbformat` then takes 2.1 s of a core in place of 0.2."""
    pinned = dict(
        re.findall(
            r"^([\w.-]+)==(\d+\.\d+)", (places.repository() / "constraints.txt").read_text("utf-8"), re.MULTILINE
        )
    )
    if not pinned:
        pytest.skip("no versions are pinned here: a run on the newest ones")
    assert "rfc3987-syntax" not in pinned
    assert tuple(map(int, pinned["jsonschema"].split("."))) < (4, 25)
