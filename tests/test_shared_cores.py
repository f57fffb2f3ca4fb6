"""`mlcourse bench threads`: its settings reach the processes that are measured, and what it refuses."""

import json
import os
import shutil
import subprocess
import sys
import time

import psutil
import pytest
from processes import command_of
from typer.testing import CliRunner

from mlcourse import files, places, shared_cores, threads
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
        return [child for child in children if shared_cores.NEIGHBOUR in command_of(child)]

    with shared_cores.neighbours(2):
        until = time.monotonic() + 60  # a process that has just begun has its parent's command line
        while len(busy()) < 2 and time.monotonic() < until:
            time.sleep(0.05)
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


def test_every_lesson_is_timed_beside_a_neighbour_as_the_course_sets_its_threads(monkeypatch, tmp_path):
    asked = []

    def seconds(setting, notebook, budget, *, cells):
        assert cells
        asked.append((notebook, budget))
        return 7.0

    monkeypatch.setattr(shared_cores, "notebook_seconds", seconds)
    out = tmp_path / "lessons.json"
    report = shared_cores.lessons(loads=["one neighbour"], out=out)
    notebooks = sorted(path.stem for path in places.repository().glob("notebooks/*.ipynb"))
    assert asked == [(name[:2], "lesson") for name in notebooks]
    assert report == json.loads(out.read_text())
    assert report["seconds"]["one neighbour"] == dict.fromkeys(notebooks, 7.0)
    assert not {"GOMP_SPINCOUNT", "OMP_NUM_THREADS"} & shared_cores.environment(shared_cores.OURS).keys()
    with pytest.raises(CourseError, match="load 'loud' is unknown"):
        shared_cores.lessons(loads=["loud"])


BESIDE = places.data() / "results" / "lessons_beside_others.json"


@pytest.mark.skipif(not BESIDE.is_file(), reason="no run beside others is on record")
def test_beside_one_neighbour_no_lesson_takes_more_than_two_and_a_half_times_its_quiet_time():
    """The record of `mlcourse bench lessons` against that of `make test-full`, both of one machine with two cores."""
    quiet = files.read_json(places.data() / "results" / "lessons.json")
    beside = files.read_json(BESIDE)["seconds"]["one neighbour"]
    assert len(beside) >= 13
    for name, taken in beside.items():
        if name in quiet:
            assert taken <= 2.5 * quiet[name]["seconds"], name
