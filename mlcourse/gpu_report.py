"""Is this GPU right, and how quick is it? One report of at most eight minutes, for a machine that one has for an hour.

    mlcourse bench gpu                # writes data/results/gpu.json

1. the tests that need a GPU: its losses and gradients are those of the CPU;
2. one second-order MAML step of the workloads W1 to W3, as PyTorch calls it kernel by kernel, and as one CUDA graph:
   the same kernels, recorded once and started together. Where kernels are small, the calls are what takes time;
3. how many episodes a second are drawn, with the pictures on the CPU and on the GPU;
4. MAML's published training: 300 of its 60,000 iterations, and what they let one expect of all;
5. a prototypical network's published training, where the rest of the time allows it.

Each part keeps to its time, and what a part could not do stands in the report in words.
"""

import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mlcourse import bench, datasets, files, learners, places, training
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.learners import Learner

MINUTES = 8
TESTS = "tests/test_cuda.py"


@dataclass(frozen=True)
class Size:
    """How much is measured; smaller in tests."""

    seconds: float = 60 * MINUTES
    rounds: int = 20  # steps of each way
    batches: int = 50  # of episodes
    iterations: int = 300  # of MAML's published training
    warm: int = 20  # first ones, which do not count: kernels are chosen, memory is taken
    workloads: tuple[str, ...] = ("W1-q1", "W1-q15", "W2", "W3")


def the_gpu() -> torch.device:
    """The GPU of this machine. Raises CourseError where PyTorch finds none."""
    if not torch.cuda.is_available():
        why = "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch finds none here"
        raise CourseError(f"bench gpu measures a CUDA GPU, and {why}; run it on a machine that has one")
    return torch.device("cuda", torch.cuda.current_device())


def report(
    device: torch.device,
    out: Path,
    *,
    size: Size | None = None,
    say: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """All parts, one after another; `out` is written anew after each, so that what was measured is kept.

    say: told what comes next. A part that fails has {"error": …} in the report, and the next one begins; one for which
    no time is left has {"skipped": …}.
    """
    size = size or Size()
    end = clock() + size.seconds
    found: dict[str, Any] = {"machine": machine(device), "parts": {}}
    for name, (part, least) in PARTS.items():
        left = end - clock()
        say(f"{name} ({max(0, left):.0f} s are left)")
        if left < least:
            found["parts"][name] = {"skipped": f"{max(0, left):.0f} s were left, and it takes {least} or more"}
        else:
            found["parts"][name] = _tried(part, device, size, left)
        found["seconds"] = round(size.seconds - (end - clock()), 1)
        files.write_json(out, found)
    return found


def _tried(part: Callable, device: torch.device, size: Size, left: float) -> dict[str, Any]:
    try:
        return part(device, size, left)
    except Exception as error:  # of a driver, a kernel, a full memory: the other parts still tell something
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def told(found: dict[str, Any]) -> list[str]:
    """The report in lines."""
    about, lines = found["machine"], []
    lines.append(
        f"{about['device']}, PyTorch {about['versions'].get('torch')}, CUDA {about['cuda']}: {found['seconds']} s"
    )
    for name, part in found["parts"].items():
        if "error" in part or "skipped" in part:
            lines.append(f"{name}: {part.get('error') or part['skipped']}")
        elif name == "tests":
            lines.append(f"tests: {part['passed']} passed, {part['failed']} failed, {part['skipped_tests']} skipped")
        elif name == "steps":
            lines += [_told_step(workload, row) for workload, row in part.items()]
        elif name == "sampling":
            lines += [f"episodes a second, {how}: {row['episodes_per_second']:.0f}" for how, row in part.items()]
        else:
            whole = f"{part['iterations_published']:,} iterations in {part['projected_seconds'] / 60:.1f} minutes"
            lines.append(f"{name}: {whole}, projected from {part['iterations_measured']}")
            if part.get("ran"):
                lines.append(
                    f"{name}: run in {part['seconds']:.0f} s, accuracy {part['accuracy']:.4f} ± {part['ci95']:.4f}"
                )
    return lines


def _told_step(name: str, row: dict[str, Any]) -> str:
    if "skipped" in row:
        return f"{name}: {row['skipped']}"
    line = f"{name}: {1e3 * row['kernels']['median']:.2f} ms a step"
    if "graph" in row:
        line += f", as a graph {1e3 * row['graph']['median']:.2f} ms ({row['times_faster_as_graph']['median']:.2f} ×)"
    return line


def failures(found: dict[str, Any]) -> list[str]:
    """What a person must look at: the parts that failed, and tests that did."""
    lines = [f"{name}: {part['error']}" for name, part in found["parts"].items() if "error" in part]
    tests = found["parts"].get("tests", {})
    if tests.get("failed"):
        lines.append(f"tests: {tests['failed']} failed")
    for name, row in found["parts"].get("steps", {}).items():
        if isinstance(row, dict) and row.get("gradient_difference", 0) > 1e-3:
            lines.append(f"steps: the graph of {name} has another gradient, by {row['gradient_difference']:.1e}")
    return lines


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures hold for: card, versions, settings that change numbers or times."""
    about = bench.machine(device) | {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    about["tf32"] = {"convolutions": torch.backends.cudnn.allow_tf32, "products": torch.backends.cuda.matmul.allow_tf32}
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        about |= {"memory_gb": round(card.total_memory / 1e9, 1), "capability": f"{card.major}.{card.minor}"}
        about |= {"multiprocessors": card.multi_processor_count, "cards": torch.cuda.device_count()}
    return about | {"host": platform.system()}


# ------------------------------------------------------------------ the tests


def run_tests(device: torch.device, size: Size, left: float) -> dict[str, Any]:
    """tests/test_cuda.py in a process of its own: how many passed, failed, were skipped."""
    path = places.repository() / TESTS
    if not path.exists():
        return {"skipped": f"{TESTS} is not here; run it from a clone of the repository"}
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", str(path)]
    try:
        done = subprocess.run(command, cwd=path.parents[1], capture_output=True, text=True, timeout=min(150, left))
    except subprocess.TimeoutExpired as late:
        return {"error": f"the tests were not done after {late.timeout:.0f} s"}
    found = counted(done.stdout)
    if done.returncode not in (0, 1) or not found["passed"] + found["failed"]:
        last = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        return {"error": f"the tests did not run (exit code {done.returncode}): {last[-1][:200]}"}
    return found | {"code": done.returncode, "seconds": round(time.monotonic() - started, 1)}


def counted(said: str) -> dict[str, Any]:
    """The numbers of pytest's last line, and the lines of what failed."""
    words = r"(\d+) (passed|failed|skipped|error)"
    last = next((line for line in reversed(said.splitlines()) if re.search(words, line)), "")
    found = {word: int(number) for number, word in re.findall(words, last)}
    failed = found.get("failed", 0) + found.pop("error", 0)
    lines = [line[:200] for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return {
        "passed": found.get("passed", 0),
        "failed": failed,
        "skipped_tests": found.get("skipped", 0),
        "lines": lines,
    }


# ------------------------------------------------------------------ steps, with and without a graph


def step_of_kernels(learner: Learner, batch: SimpleNamespace, way: int) -> Tensor:
    """The outer loss of MAML, all tasks side by side, without a look at a number: a graph may hold nothing else.

    (`outer_loss` counts the classes in the labels and tells its accuracy: both wait for the GPU.)
    """
    settings = {"inner_steps": learner.inner_steps, "first_order": learner.first_order, "every_step": False}
    theta = learner.start()
    fast = learner.adapt_side_by_side(theta, batch.support_x, batch.support_y, way, settings)[-1]
    state = {"fast": fast, "step": learner.inner_steps, "support_x": batch.support_x, "way": way}
    return learner.loss(learner.predict(state, batch.query_x), batch.query_y)


class Graph:
    """A step that is recorded once, with its gradients in tensors that stay, and then started as one."""

    def __init__(self, learner: Learner, batch: SimpleNamespace, way: int):
        self.parameters = [p for p in learner.parameters() if p.requires_grad]

        def step() -> None:
            for p in self.parameters:
                p.grad = None
            step_of_kernels(learner, batch, way).backward()

        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what kernels prepare at their first call must not be recorded
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(aside)
        for p in self.parameters:
            p.grad = None
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            step_of_kernels(learner, batch, way).backward()

    def __call__(self) -> None:
        self.graph.replay()


def steps(device: torch.device, size: Size, left: float) -> dict[str, Any]:
    """One MAML step of each workload: seconds kernel by kernel, and as a graph where there is a GPU; taking turns."""
    found, end = {}, time.monotonic() + min(left, 150)
    for name in size.workloads:
        if time.monotonic() > end:
            found[name] = {"skipped": "the time of this part was over"}
            continue
        try:
            found[name] = step_times(bench.WORKLOADS[name], device, size.rounds)
        except torch.OutOfMemoryError:
            found[name] = {"skipped": "the GPU's memory is too small"}
    return found


def step_times(workload: bench.Workload, device: torch.device, rounds: int) -> dict[str, Any]:
    """Seconds of `rounds` steps by way, the ratio within rounds, and how far the graph's gradient is from the other."""
    batch, learner = workload.batch(torch.float32, device), workload.learner(torch.float32, device)
    ways: dict[str, Callable[[], None]] = {"kernels": lambda: _plain_step(learner, batch, workload.way)}
    if device.type == "cuda":
        ways["graph"] = Graph(workload.learner(torch.float32, device), batch, workload.way)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 3):
        for way, step in ways.items():
            taken = bench.timed(step, device)
            if number >= 3:
                seconds[way].append(taken)
    row: dict[str, Any] = {way: {"seconds": each, "median": statistics.median(each)} for way, each in seconds.items()}
    if "graph" in ways:
        one, other = (
            torch.cat([p.grad.flatten() for p in parameters])
            for parameters in ([p for p in learner.parameters() if p.requires_grad], ways["graph"].parameters)
        )
        row["gradient_difference"] = ((one - other).norm() / one.norm()).item()
        row["times_faster_as_graph"] = bench.ratio(seconds["kernels"], seconds["graph"])
    return row


def _plain_step(learner: Learner, batch: SimpleNamespace, way: int) -> None:
    learner.zero_grad()
    step_of_kernels(learner, batch, way).backward()


# ------------------------------------------------------------------ episodes


def sampling(device: torch.device, size: Size, left: float) -> dict[str, Any]:
    """Episodes a second: 5 classes, 1 + 15 pictures each, 32 at a time; pictures on the CPU (and moved), or there."""
    data, found = datasets.load("glyphs", "train"), {}
    for name, home in (("on the CPU, then moved", torch.device("cpu")), ("on the device", device)):
        sampler, generator = EpisodeSampler(data, 5, 1, 15, device=home), torch.Generator().manual_seed(0)

        def draw(sampler=sampler, generator=generator) -> None:
            sampler.sample(32, generator).to(device)

        for _ in range(3):
            draw()
        taken = [bench.timed(draw, device) for _ in range(size.batches)]
        found[name] = {"episodes_per_second": 32 / statistics.median(taken), "median_seconds": statistics.median(taken)}
    return found


# ------------------------------------------------------------------ published trainings


def published(method: str, device: torch.device, iterations: int, warm: int) -> dict[str, Any]:
    """Some iterations of a method's published training on glyphs, and the seconds that all of them let one expect.

    The first `warm` ones do not count. Validations are not in it.
    """
    plan = learners.recipe(method, "paper")
    data = datasets.load("glyphs", "train")
    learner = learners.build(method, way=5, size=28, seed=0, **plan.options).to(device)
    source = EpisodeSampler(data, plan.train_way or 5, 1, plan.query or 15, device=device)
    settings = {"tasks": plan.tasks, "rate": plan.rate, "schedule": "constant", "progress": False}
    training.train(learner, source, steps=warm, **settings)
    taken = bench.timed(lambda: training.train(learner, source, steps=iterations, seed=1, **settings), device)
    each = taken / iterations
    return {
        "tasks": plan.tasks,
        "iterations_measured": iterations,
        "seconds_measured": taken,
        "seconds_per_iteration": each,
        "iterations_published": plan.steps,
        "projected_seconds": plan.steps * each,
    }


def maml(device: torch.device, size: Size, left: float) -> dict[str, Any]:
    """MAML's published iterations; all of them are a projection."""
    return published("maml", device, size.iterations, size.warm)


def prototypical(device: torch.device, size: Size, left: float) -> dict[str, Any]:
    """The same of a prototypical network, and the whole training with its accuracy where it fits into what is left."""
    began = time.monotonic()
    found = published("prototypical", device, max(1, size.iterations // 3), size.warm)
    if 1.2 * found["projected_seconds"] > left - (time.monotonic() - began):
        return found | {"ran": False}
    from mlcourse.evaluation import evaluate

    plan = learners.recipe("prototypical", "paper")
    learner = learners.build("prototypical", way=5, size=28, seed=0, **plan.options).to(device)
    source = EpisodeSampler(datasets.load("glyphs", "train"), plan.train_way or 5, 1, plan.query or 15, device=device)
    settings = {"steps": plan.steps, "tasks": plan.tasks, "rate": plan.rate, "schedule": plan.schedule}
    taken = bench.timed(lambda: training.train(learner, source, progress=False, **settings), device)
    test = EpisodeSampler(datasets.load("glyphs", "test"), 5, 1, 15, device=device)
    result = evaluate(learner, test, episodes=600)
    return found | {"ran": True, "seconds": taken, "accuracy": result.value, "ci95": result.ci95}


# name -> the part, and the fewest seconds for which it begins
PARTS: dict[str, tuple[Callable[[torch.device, Size, float], dict[str, Any]], int]] = {
    "tests": (run_tests, 30),
    "steps": (steps, 10),
    "sampling": (sampling, 5),
    "maml": (maml, 30),
    "prototypical": (prototypical, 20),
}
