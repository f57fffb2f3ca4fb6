"""The report on a GPU, as far as a CPU can try it: its parts, its time, what it says where there is none."""

import json

import pytest
import torch

from mlcourse import bench, gpu_report
from mlcourse.commands import app
from mlcourse.gpu_report import Size

CPU = torch.device("cpu")
TINY = bench.Workload(tasks=2, shot=1, query=2, steps=2, channels=4, downsample="stride", size=16, way=3)
SMALL = Size(rounds=2, batches=2, iterations=3, warm=1, workloads=("W1-q1",))


def test_without_a_gpu_it_is_one_line_and_no_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        app(["bench", "gpu", "--out", str(tmp_path / "gpu.json")])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "bench gpu measures a CUDA GPU" in line
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.parametrize("options", [{}, {"downsample": "pool", "steps": 1}, {"network": "mlp", "size": 4}])
def test_the_step_that_a_graph_records_has_the_gradient_of_the_learner(options):
    workload = bench.Workload(**vars(TINY) | options)
    batch, learner = workload.batch(torch.float64, CPU), workload.learner(torch.float64, CPU)
    learner.outer_loss(batch)[0].backward()
    whole = [p.grad.clone() for p in learner.parameters()]
    learner.zero_grad()
    gpu_report.step_of_kernels(learner, batch, workload.way).backward()
    for p, expected in zip(learner.parameters(), whole, strict=True):
        torch.testing.assert_close(p.grad, expected, rtol=1e-9, atol=1e-12)


def test_it_looks_at_no_number_of_a_tensor(monkeypatch):
    """What a graph records may not wait for the GPU."""
    workload = TINY
    batch, learner = workload.batch(torch.float32, CPU), workload.learner(torch.float32, CPU)

    def looked(*_):
        raise AssertionError("a number was looked at")

    for name in ("item", "__int__", "__float__", "__bool__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, looked)
    gpu_report.step_of_kernels(learner, batch, workload.way).backward()


def test_the_parts_are_measured_and_kept_one_by_one(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "WORKLOADS", {"W1-q1": TINY})
    monkeypatch.setitem(
        gpu_report.PARTS, "tests", (lambda device, size, left: {"passed": 3, "failed": 0, "skipped_tests": 1}, 1)
    )
    monkeypatch.setitem(gpu_report.PARTS, "maml", (lambda device, size, left: 1 / 0, 1))
    monkeypatch.setattr(gpu_report, "published", lambda *_: PROJECTED)
    out, said = tmp_path / "gpu.json", []
    found = gpu_report.report(CPU, out, size=SMALL, say=said.append)
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    assert [line.split()[0] for line in said] == list(gpu_report.PARTS)
    parts = found["parts"]
    assert len(parts["steps"]["W1-q1"]["kernels"]["seconds"]) == 2
    assert parts["sampling"]["on the device"]["episodes_per_second"] > 0
    assert parts["maml"] == {"error": "ZeroDivisionError: division by zero"}
    assert parts["prototypical"]["ran"] is False
    assert gpu_report.failures(found) == ["maml: ZeroDivisionError: division by zero"]
    lines = gpu_report.told(found)
    assert any("3 passed, 0 failed" in line for line in lines)
    assert any("20,000 iterations in" in line for line in lines)


PROJECTED = {
    "iterations_measured": 1, "seconds_measured": 1.0, "iterations_published": 20000, "projected_seconds": 1e6,
}  # fmt: skip


def test_when_the_time_is_over_the_rest_is_named(monkeypatch, tmp_path):
    now = iter(range(0, 10**6, 200))
    for name in gpu_report.PARTS:
        monkeypatch.setitem(gpu_report.PARTS, name, (lambda device, size, left: {"left": left}, 30))
    found = gpu_report.report(CPU, tmp_path / "gpu.json", size=SMALL, clock=lambda: next(now))
    assert "skipped" in found["parts"]["prototypical"]
    assert "skipped" not in found["parts"]["tests"]


def test_iterations_of_a_published_training_are_projected(monkeypatch):
    monkeypatch.setattr(gpu_report.bench, "timed", lambda work, device: [work(), 6.0][1])
    found = gpu_report.published("prototypical", CPU, 2, 1)
    assert found["seconds_per_iteration"] == 3.0
    assert found["projected_seconds"] == 3.0 * 20000
    assert found["iterations_published"] == 20000


@pytest.mark.parametrize(
    ("said", "passed", "failed"),
    [
        ("....\n31 passed, 2 skipped in 12.3s\n", 31, 0),
        ("FAILED tests/test_cuda.py::test_x - boom\n1 failed, 30 passed in 9s\n", 30, 1),
        ("1 error in 0.5s", 0, 1),
        ("", 0, 0),
    ],
)
def test_the_last_line_of_the_tests_is_read(said, passed, failed):
    found = gpu_report.counted(said)
    assert (found["passed"], found["failed"]) == (passed, failed)
    report = {"parts": {"tests": found}}
    assert bool(gpu_report.failures(report)) == bool(failed)
