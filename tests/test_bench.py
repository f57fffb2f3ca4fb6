"""The benchmark: all ways do the same work. How fast they are is for the benchmark to say, not for a test."""

import json

import pytest
import torch
from typer.testing import CliRunner

from mlcourse import bench
from mlcourse.commands import app
from mlcourse.errors import CourseError

TINY = bench.Workload(tasks=2, shot=1, query=2, steps=2, channels=4, downsample="stride", size=16, way=3)
CPU = torch.device("cpu")
WORKLOADS = bench.WORKLOADS


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    monkeypatch.setattr(bench, "WORKLOADS", {"W1-q1": TINY, "W2": TINY})


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


def test_command_reports_all(tmp_path):
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


def test_command_shows_tables_and_growth(monkeypatch):
    monkeypatch.setattr(bench, "elsewhere", _here)
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
