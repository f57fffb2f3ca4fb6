"""The benchmark: all ways do the same work. How fast they are is for the benchmark to say, not for a test."""

import gc
import json
from dataclasses import asdict

import psutil
import pytest
import torch
from typer.testing import CliRunner

from mlcourse import bench, files, memory, places
from mlcourse.commands import app
from mlcourse.errors import CourseError

TINY = bench.Workload(tasks=2, shot=1, query=2, steps=2, channels=4, downsample="stride", size=16, way=3)
CPU = torch.device("cpu")
WORKLOADS = bench.WORKLOADS


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    """Small workloads; and what was there before is not looked through for garbage at each of their steps."""
    monkeypatch.setattr(bench, "WORKLOADS", {"W1-q1": TINY, "W2": TINY})
    gc.freeze()
    yield
    gc.unfreeze()


def test_all_ways_find_the_same_gradient():
    errors = bench.gradient_errors(bench.installed(), TINY, CPU)
    assert {"plain loop", "side by side", "vmap(grad)"} <= errors.keys()
    assert max(errors.values()) < 1e-10


def test_a_first_order_step_would_be_found_out(monkeypatch):
    def first_order(learner):
        learner.first_order = True
        return bench.ours(learner)

    monkeypatch.setitem(bench.WAYS, "side by side", (first_order, False))
    assert bench.gradient_errors(["side by side"], TINY, CPU)["side by side"] > 1e-3


def test_a_network_that_knows_nothing_of_tasks_takes_part_too():
    tiny = bench.Workload(**vars(WORKLOADS["MLP"]) | {"tasks": 3})
    errors = bench.gradient_errors(["side by side", "vmap(grad)"], tiny, CPU)
    assert max(errors.values()) < 1e-10
    assert tiny.learner(torch.float64, CPU).side_by_side(tiny.batch(torch.float64, CPU).support_x)


def test_libraries_take_part_only_where_they_are_installed(monkeypatch):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    assert bench.installed() == ["plain loop", "side by side", "vmap(grad)"]


def test_ratio_is_taken_within_rounds():
    assert bench.ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == {"median": 3.0, "least": 2.0, "most": 4.0}


def test_saved_bytes_grow_with_tasks():
    few, many = (bench.kept_bytes("side by side", bench.Workload(**vars(TINY) | {"tasks": n}), CPU) for n in (2, 8))
    assert 3 * few < many < 5 * few


def test_command_reports_all(tmp_path, monkeypatch):
    """Times and the peak of memory are measured in processes of their own, as always."""
    real = bench.elsewhere
    own = ("times", "peak_memory")
    monkeypatch.setattr(bench, "elsewhere", lambda what, **told: (real if what in own else _here)(what, **told))
    path = tmp_path / "bench.json"
    arguments = ["bench", "maml", "--workload", "W1-q1", "--rounds", "2", "--no-growth", "--device", "cpu"]
    done = CliRunner().invoke(app, [*arguments, "--json", "--out", str(path)])
    assert done.exit_code == 0, done.output
    report = json.loads(path.read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == report
    row = report["workloads"]["W1-q1"]["ways"]["side by side"]
    assert row["gradient_error"] < 1e-10
    assert row["saved_bytes"] > 0
    assert row["peak_bytes"] >= 0
    for kind in ("default allocator", "tuned allocator"):
        assert len(row[kind]["seconds"]) == 2
        assert min(row[kind]["seconds"]) > 0
    assert "torch" in report["machine"]["versions"]


@pytest.mark.parametrize(
    ("what", "asked"), [("kept_bytes", {"way": bench.FAST}), ("gradient_errors", {"ways": [bench.FAST]})]
)
def test_a_process_of_its_own_answers_as_this_one(what, asked):
    there = bench.elsewhere(what, tuned=False, threads=1, workload=asdict(TINY), device="cpu", **asked)
    assert there == pytest.approx(bench.TASKS[what](workload=TINY, device=CPU, **asked), abs=1e-12)


def test_command_shows_tables_and_growth(monkeypatch):
    monkeypatch.setattr(bench, "elsewhere", _here)
    monkeypatch.setattr(bench, "convolution_peak", lambda device: 1e9)
    monkeypatch.setattr(bench, "growing", lambda: [("W2", "steps", 10, TINY), ("W2", "tasks", 2, TINY)])
    done = CliRunner().invoke(app, ["bench", "maml", "--workload", "W2", "--rounds", "1", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "side by side" in done.stdout
    assert "growth" in done.stdout


def _here(what, *, tuned, threads, workload, device, **arguments):
    return bench.TASKS[what](workload=bench.Workload(**workload), device=torch.device(device), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["other"], "no benchmark"), (["maml", "--workload", "W9"], "W9"), (["maml", "--rounds", "0"], "rounds is 0")],
)
def test_bad_input_is_one_line(arguments, message):
    done = CliRunner().invoke(app, ["bench", *arguments, "--device", "cpu"])
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_measurement_that_dies_is_reported():
    with pytest.raises(CourseError, match="exit code"):
        bench.elsewhere("times", tuned=False, threads=1, nonsense=1)


# -------------------------------------------------------------------------------- before it starts, while it works


def test_the_memory_table_is_what_was_measured():
    """The file in the repository was made by `mlcourse bench maml`; the table is its hungriest way."""
    measured = files.read_json(places.data() / "results" / "bench_maml.json")["workloads"]
    assert set(bench.PEAK_GB) == set(measured)
    for name, entry in measured.items():
        most = max(way["peak_bytes"] for way in entry["ways"].values()) / 1e9
        assert bench.PEAK_GB[name] == pytest.approx(most, rel=0.05, abs=0.01), name


def test_too_little_memory_is_told_before_anything_starts(monkeypatch):
    monkeypatch.setattr(bench, "WORKLOADS", {"W1-q1": TINY, "W2": TINY, "W3": TINY})
    monkeypatch.setattr(memory, "available", lambda: 4_000_000_000)
    monkeypatch.setattr(bench, "elsewhere", lambda *_, **__: pytest.fail("it started"))
    done = CliRunner().invoke(app, ["bench", "maml", "--device", "cpu"])
    assert done.exit_code == 2
    line = "W3 takes up to 17 GB of memory, and 4.0 GB are free: leave it out (--workload W1-q1 --workload W2)"
    assert done.stderr.strip() == f"mlcourse: {line}"
    monkeypatch.setattr(memory, "available", lambda: 900_000_000)
    with pytest.raises(CourseError, match="close other programs"):
        bench.check_memory(["W1-q1"], CPU)


def test_enough_memory_is_told_too(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 20_000_000_000)
    assert bench.check_memory(["W2", "W1-q1"], CPU) == "W2 takes up to 3 GB of memory, 20 GB are free"


def test_each_step_is_heard_and_the_last_one_is_all_of_the_work(monkeypatch):
    monkeypatch.setattr(bench, "elsewhere", _here)
    monkeypatch.setattr(bench, "convolution_peak", lambda device: 1e9)
    monkeypatch.setattr(bench, "growing", lambda: [("W2", "steps", 10, TINY)])
    shares, said = [], []
    options = {"rounds": 1, "device": CPU, "grow": True, "say": said.append}
    bench.bench(["W1-q1", "W2"], at=lambda share, text: shares.append((share, text)), **options)
    assert [share for share, _ in shares] == sorted(share for share, _ in shares)
    assert shares[0] == (0.0, "W1-q1, gradients in float64")
    assert shares[-1] == (pytest.approx(1.0), "growth, W2 with 10 steps")
    assert any(text == "W2, times, tuned allocator" for _, text in shares)
    assert said[0].startswith("W2 takes up to 3 GB of memory")


def test_steps_in_another_process_are_heard():
    heard = []
    workload = asdict(TINY)
    arguments = {"ways": ["plain loop"], "rounds": 2, "workload": workload, "device": "cpu"}
    seconds = bench.elsewhere("times", tuned=False, threads=1, tick=lambda: heard.append(1), **arguments)
    assert len(seconds["plain loop"]) == 2
    assert len(heard) == 3


# -------------------------------------------------------------------------------- what a container allows


@pytest.mark.parametrize(
    ("content", "total", "free"),
    [
        ({"memory.max": "max"}, None, None),
        ({"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 1\ninactive_file 200"}, 1000, 500),
        ({"memory.max": "1000", "memory.current": "700", "memory.stat": "damaged"}, None, None),
        (
            {
                "memory/memory.limit_in_bytes": "1000",
                "memory/memory.usage_in_bytes": "700",
                "memory/memory.stat": "inactive_file 0",
            },
            1000,
            300,
        ),
        ({}, None, None),
    ],
)
def test_a_containers_limit_counts(tmp_path, monkeypatch, content, total, free):
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    machine = psutil.virtual_memory().total
    assert memory.total() == (total or machine)
    assert memory.available() == free if free else 0 < memory.available() <= machine
