"""Several processes: the gradients of one, the files of one, one that is killed, and what cannot be, in words."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
import torch
from distributed_workers import (
    CASES,
    COMMANDS,
    commands,
    every_method,
    of_vision,
    own,
    together,
    trained,
    whole_training,
)
from processes import command_of

from mlcourse import distributed, files, learners
from mlcourse.commands import app, training_run
from mlcourse.episodes import PartOfGenerator, uniform_of_tasks
from mlcourse.errors import CourseError

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not torch.distributed.is_available(), reason="needs torch.distributed and signals"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def two(folder):
    """What two processes found, all in one start of theirs."""
    whole_training(folder / "begun by one", stop_after=3)
    torch.multiprocessing.spawn(together, (2, str(folder), every_method.__name__), nprocs=2)
    return [torch.load(folder / f"every_method-{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize(("name", "method", "options", "tasks"), CASES, ids=[name for name, *_ in CASES])
def test_two_processes_have_the_gradients_of_one(two, name, method, options, tasks):
    check_same([one[name] for one in two], trained(method, options, tasks))


def test_two_processes_have_the_gradients_of_one_in_vision(two):
    for name, alone in of_vision().items():
        check_same([one["vision"][name] for one in two], alone)


def check_same(found_by_each, alone):
    """Two processes found what one finds alone, and hold the same learner."""
    for found in found_by_each:
        assert found["gradients"].keys() == alone["gradients"].keys()
        for what in ("gradients", "state"):
            ours, whole = (torch.cat([v.double().flatten() for v in d[what].values()]) for d in (found, alone))
            assert (ours - whole).norm() <= 1e-6 * whole.norm()
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-6)
        assert found["values"] == pytest.approx(alone["values"], rel=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(*(found["state"].values() for found in found_by_each), strict=True))


def test_every_command_of_vision_trains_in_two_processes(tmp_path, capfd):
    """Losses that divide by what a batch shows, and changed faces: other numbers than in one process, but one run."""
    ports = [free_port() for _ in COMMANDS]
    torch.multiprocessing.spawn(commands, (2, str(tmp_path), ports), nprocs=2)
    assert capfd.readouterr().out.count("the run is kept in") == len(COMMANDS)  # one process speaks
    for name in COMMANDS:
        learners.load_run(tmp_path / name)
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))


@pytest.mark.parametrize(
    ("world", "tasks", "least", "remedy"),
    [
        (3, 16, 1, "start 2 or 4 or 8 or 16 processes"),
        (2, 1, 1, "start it without torchrun"),
        (4, 4, 2, "start 2 processes"),
        (8, 8, 2, "start 2 or 4 processes"),
    ],
)
def test_a_step_that_cannot_be_shared_evenly_names_what_can(world, tasks, least, remedy):
    with pytest.raises(CourseError, match=remedy):
        training_run.check_shares(distributed.Processes(0, world), tasks, "scenes", least=least)


def test_a_step_that_can_be_shared_is_not_refused():
    for world, tasks, least in ((1, 1, 1), (2, 4, 2), (4, 4, 1), (1, 5, 1)):
        together = distributed.Alone() if world == 1 else distributed.Processes(0, world)
        training_run.check_shares(together, tasks, "scenes", least=least)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_learners_of_ones_own_learn_what_one_process_learns(two):
    """One has a buffer of -inf, and another that its first step makes; one goes through its tasks one by one."""
    alone = own()["Masked"]
    for found in (one["own"]["Masked"] for one in two):
        assert found.keys() == alone.keys()
        for key, value in alone.items():
            assert torch.allclose(found[key].double(), value.double(), rtol=1e-4, atol=1e-5), key
    assert alone["seen"].item() == 2.0
    first, second = (one["own"]["OneByOne"] for one in two)
    assert all(torch.equal(value, second[key]) for key, value in first.items())  # they stay one learner


def test_each_task_is_seen_by_one_process(two):
    for name, method, options, tasks in CASES:
        alone = trained(method, options, tasks)["seen"]
        for step, whole in enumerate(alone):
            first, second = (one[name]["seen"][step] for one in two)
            assert len(first) == (tasks + 1) // 2
            assert len(second) == tasks // 2
            assert torch.equal(whole[0::2], first)
            assert torch.equal(whole[1::2], second)
            if whole.dim() > 1:
                assert not (first.unsqueeze(1) == second.unsqueeze(0)).all(-1).any()


def test_parts_of_parts_give_the_same_gradient(two):
    alone = trained("maml", {}, 4)
    found = two[0]["in two parts"]
    for name, whole in alone["gradients"].items():
        torch.testing.assert_close(found["gradients"][name], whole, rtol=1e-6, atol=1e-9)


def test_a_whole_training_validates_alike_and_writes_one_log(two, folder):
    first, second = (one["a whole training"] for one in two)
    assert all(torch.equal(a, second["state"][name]) for name, a in first["state"].items())
    assert first["validations"] == second["validations"]
    assert first["losses"] == second["losses"]
    lines = (folder / "two" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    alone = whole_training(folder / "one")
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-6)
    for found, whole in zip(first["validations"], alone["validations"], strict=True):
        assert found == pytest.approx(whole)
    assert (
        json.loads((folder / "one" / "config.json").read_text()).keys()
        == json.loads((folder / "two" / "config.json").read_text()).keys()
    )


def test_a_checkpoint_of_two_processes_goes_on_in_one_and_the_other_way(two, folder, tmp_path):
    alone = whole_training(tmp_path / "alone")
    before = files.load_tensors(folder / "begun by two" / learners.CHECKPOINT)[1]
    assert before["step"] == 3
    assert before["settings"] == files.load_tensors(tmp_path / "alone" / learners.CHECKPOINT)[1]["settings"]
    for found in (whole_training(folder / "begun by two"), two[0]["begun by one"], two[1]["begun by one"]):
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-6)
        assert found["state"].keys() == alone["state"].keys()
        for name, whole in alone["state"].items():
            torch.testing.assert_close(found["state"][name], whole, rtol=1e-6, atol=1e-9)


def test_an_interrupt_of_one_process_stops_both_after_the_same_step(two):
    assert [one["stop"] for one in two] == [2, 2]


def test_what_cannot_be_is_said_in_words(two):
    for one in two:
        said = one["errors"]
        assert "2 processes are more than the 1 tasks of a step" in said["few tasks"]
        assert "accumulate is 2, but 3 tasks in 2 processes do not divide" in said["uneven parts"]
        assert "a batch of type dict cannot be shared out" in said["another batch"]
        assert "has seed = " in said["another seed"]
        assert "3 tasks do not divide into 2 equal parts, and OneByOne has batch norm" in said["tasks one by one"]
        assert "the outer loss is nan at step 0" in said["a loss of one process"]


# ------------------------------------------------------------------ one process


def test_one_process_is_alone():
    assert type(distributed.current()) is distributed.Alone
    assert distributed.speaks()


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE is set in the environment, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is",
        ),
        ({"RANK": "0"}, "RANK is set in the environment, but WORLD_SIZE"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE is 'two' in the environment, no whole number"),
        (
            {"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "99999"},
            "MASTER_PORT is 99999, but ports go from 1 to 65535",
        ),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2, but 2 processes are numbered 0 to 1"),
    ],
)
def test_half_of_what_torchrun_tells_is_one_line(monkeypatch, told, line):
    for name in distributed.TOLD:
        monkeypatch.delenv(name, raising=False)
    rest = {"LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"} if len(told) > 1 else {}
    for name, value in (rest | told).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CourseError, match=line):
        distributed.join()


def test_a_world_of_one_and_no_world_at_all_are_one_process(monkeypatch):
    for name in distributed.TOLD:
        monkeypatch.delenv(name, raising=False)
    assert type(distributed.join()) is distributed.Alone
    for name in ("WORLD_SIZE", "RANK"):  # a cluster may say no more than this of one process
        monkeypatch.setenv(name, str(int(name == "WORLD_SIZE")))
    assert type(distributed.join()) is distributed.Alone
    alone = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    assert type(distributed.join()) is distributed.Alone


def test_a_part_of_the_tasks_draws_what_these_tasks_draw_in_one_process():
    whole = uniform_of_tasks(5, 3, generator=torch.Generator().manual_seed(0))
    for rank in range(2):
        generator = PartOfGenerator.like(torch.Generator().manual_seed(0))
        generator.part = (5, rank, 2)
        assert torch.equal(uniform_of_tasks(3 - rank, 3, generator=generator), whole[rank::2])


def test_a_command_for_one_process_says_so_once(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        for command in ("evaluate", "tidy"):
            with pytest.raises(SystemExit) as stop:
                app([*command.split(), "x"])
            assert stop.value.code == 2
            assert capsys.readouterr().err.count(f"mlcourse {command} is for one process") == lines


# ------------------------------------------------------------------ with torchrun

GONE = 60  # seconds


def torchrun(out, *more, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "mlcourse", "train", *more, "--out", str(out), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name in distributed.TOLD:
        environment.pop(name, None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes, **options)


def workers_of(pid: int) -> list[int]:
    children = psutil.Process(pid).children(recursive=True)
    return sorted(one.pid for one in children if "mlcourse" in command_of(one))


def end(run: subprocess.Popen) -> None:
    """Of torchrun and of its workers nothing stays, whatever a test found."""
    left = workers_of(run.pid) if run.poll() is None else []
    for pid in [run.pid, *left]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def steps_in(out) -> int:
    log = out / "log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_torchrun_trains_and_a_killed_worker_leaves_a_usable_checkpoint(tmp_path):
    out = tmp_path / "run"
    run = torchrun(out, "maml", "--recipe", "smoke", "--steps", "5000")
    try:
        wait_for(lambda: (out / learners.CHECKPOINT).exists() or run.poll() is not None, 240)
        assert run.poll() is None, run.stderr.read()
        os.kill(workers_of(run.pid)[-1], signal.SIGKILL)
        killed = time.monotonic()
        said, complained = run.communicate(timeout=GONE)
        assert time.monotonic() - killed < GONE
    finally:
        end(run)
    assert run.returncode != 0
    # torchrun may end the other worker before it notices: then torchrun's own report is what is left
    assert "another process of this training is gone" in complained or "Signal 9 (SIGKILL)" in complained, complained
    assert said.count("the run is kept in") == 1
    about = files.load_tensors(out / learners.CHECKPOINT)[1]
    steps = about["step"]
    assert steps >= 3
    with pytest.raises(SystemExit) as stop:  # in one process, another number of steps is another run
        app(
            [
                "train",
                "prototypical",
                "--recipe",
                "smoke",
                "--steps",
                "2",
                "--device",
                "cpu",
                "--out",
                str(out),
                "--resume",
            ]
        )
    assert stop.value.code == 2
    logged = steps_in(out)  # more than the checkpoint has: the rest is cut off when the run goes on
    whole = torchrun(out, "maml", "--recipe", "smoke", "--steps", "5000", "--resume")
    try:
        wait_for(lambda: steps_in(out) > logged + 2 or whole.poll() is not None, 240)
        assert whole.poll() is None, whole.stderr.read()
        os.kill(workers_of(whole.pid)[0], signal.SIGINT)
        said, complained = whole.communicate(timeout=GONE)
    finally:
        end(whole)
    assert "stopped after" in said
    assert json.loads((out / "config.json").read_text())["finished"] is False
