"""`mlcourse bench threads`: its settings reach the processes that are measured, and what it refuses."""

import json
import os
import shutil
import subprocess
import sys

import psutil
import pytest
from typer.testing import CliRunner

from mlcourse import shared_cores, threads
from mlcourse.commands import app
from mlcourse.errors import CourseError


@pytest.mark.parametrize("setting", list(shared_cores.SETTINGS))
def test_an_environment_says_one_thing_about_threads(setting, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("GOMP_SPINCOUNT", "9")
    about = shared_cores.environment(setting)
    said = {name: value for name, value in about.items() if name in {*threads.CHOICES, "OMP_NUM_THREADS"}}
    assert said == shared_cores.SETTINGS[setting]
    assert about["PATH"] == os.environ["PATH"]


def test_neighbours_are_there_and_gone_afterwards():
    def busy() -> list[psutil.Process]:
        children = psutil.Process().children()
        return [child for child in children if shared_cores.NEIGHBOUR in child.cmdline()]

    with shared_cores.neighbours(2):
        assert len(busy()) == 2
    assert not busy()
    with pytest.raises(KeyboardInterrupt), shared_cores.neighbours(1):
        raise KeyboardInterrupt
    assert not busy()


@pytest.mark.parametrize("make", [lambda: shared_cores.second_order("W1-q1"), shared_cores.prototypical])
def test_a_step_can_be_taken_twice(make):
    step = make()
    step()
    step()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(shared_cores, "measure", lambda setting: {"W2": {"median": 0.1, "p90": 0.2}})


def test_other_loads_of_the_file_stay(quick, tmp_path):
    out = tmp_path / "threads.json"
    shared_cores.table(loads=["quiet"], out=out)
    report = json.loads(out.read_text())
    report["loads"]["one neighbour"] = {"mark": 1}
    report["loads"]["quiet"] = {"mark": 1}
    out.write_text(json.dumps(report))
    loads = shared_cores.table(loads=["quiet"], out=out)["loads"]
    assert loads["one neighbour"] == {"mark": 1}
    assert set(loads["quiet"]) == set(shared_cores.SETTINGS)


def test_loads_of_another_machine_do_not(quick, tmp_path):
    out = tmp_path / "threads.json"
    report = shared_cores.table(loads=["one neighbour"], out=out)
    out.write_text(json.dumps(report | {"machine": {"processor": "another"}}))
    assert set(shared_cores.table(loads=["quiet"], out=out)["loads"]) == {"quiet"}


def test_an_unknown_load_is_one_line():
    with pytest.raises(CourseError, match=r"load 'loud' is unknown; use one of quiet, one neighbour, two neighbours"):
        shared_cores.table(loads=["loud"])


def test_the_command_prints_the_table(quick, tmp_path):
    done = CliRunner().invoke(app, ["bench", "threads", "--load", "quiet", "--out", str(tmp_path / "t.json")])
    assert done.exit_code == 0, done.output
    assert "spins 1,000" in done.output
    assert "100 (200)" in done.output


def test_a_process_that_fails_is_one_line(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false") or pytest.skip("there is no program `false`"))
    with pytest.raises(CourseError, match="stopped with exit code"):
        shared_cores.measure("spins 0")


def test_what_a_setting_says_stays_in_the_process():
    code = "import os, mlcourse; print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"
    about = shared_cores.environment("passive")
    done = subprocess.run([sys.executable, "-c", code], env=about, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "PASSIVE"]
