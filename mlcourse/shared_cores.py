"""How much slower the course becomes when others compute on the same cores, by how PyTorch's threads wait.

    mlcourse bench threads --out data/results/threads.json
    mlcourse bench lessons --out data/results/lessons_beside_others.json

The second runs every lesson at its full length beside one neighbour, where a lesson computes with a thread less. A
neighbour is a process that counts for ever on one core. Each setting is an environment of its own: OpenMP reads it
when PyTorch is imported.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from mlcourse import bench, datasets, devices, files, learners, places, threads
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError

# How threads wait. 300,000 is what GNU's OpenMP takes where nothing is said (its manual, GOMP_SPINCOUNT).
SETTINGS: dict[str, dict[str, str]] = {
    "OpenMP's own": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spins 0": {"GOMP_SPINCOUNT": "0"},
    "spins 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spins 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spins 100,000": {"GOMP_SPINCOUNT": "100000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
OURS = "the course's own"  # nothing is set: `threads.settle` chooses
NEIGHBOURS = {"quiet": 0, "one neighbour": 1, "two neighbours": 2}
NEIGHBOUR = "while True: pass"
STEPS = {"W1-q1": 16, "W2": 10, "prototypical short": 60}  # timed ones; two more before them are not counted
NOTEBOOK = "06"
SECONDS = 900  # after that a notebook is given up

Step = Callable[[], None]


def second_order(name: str) -> Step:
    """A second-order MAML step of a workload of `bench`."""
    workload, cpu = bench.WORKLOADS[name], torch.device("cpu")
    batch = workload.batch(torch.float32, cpu)
    learner = workload.learner(torch.float32, cpu)
    return lambda: learner.outer_loss(batch)[0].backward()


def prototypical() -> Step:
    """A training step of prototypical networks on glyphs, by the recipe `short`, with its episodes drawn anew."""
    plan = learners.recipe("prototypical", "short")
    data = datasets.load("glyphs", "train")
    channels, size, _ = data.shape
    learner = learners.build("prototypical", way=5, in_channels=channels, size=size, seed=0, **plan.options).train()
    optimizer = torch.optim.Adam(learner.parameters(), lr=plan.rate)
    episodes = EpisodeSampler(data, plan.train_way or 5, 1, plan.query)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        learner.outer_loss(episodes.sample(plan.tasks, generator))[0].backward()
        optimizer.step()

    return step


def seconds_of_steps() -> dict[str, list[float]]:
    """Seconds of each timed step, by name. Runs in a process of its own, under one setting."""
    threads.limit()
    devices.keep_freed_memory()
    makers = {
        "W1-q1": lambda: second_order("W1-q1"),
        "W2": lambda: second_order("W2"),
        "prototypical short": prototypical,
    }
    found = {}
    for name, count in STEPS.items():
        step, taken = makers[name](), []
        for _ in range(count + 2):
            started = time.perf_counter()
            step()
            taken.append(time.perf_counter() - started)
        found[name] = taken[2:]
    return found


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """`count` processes that count for ever, until the block ends."""
    busy = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def environment(setting: str) -> dict[str, str]:
    """This process's environment with nothing said about threads but what the setting says."""
    dropped = {*threads.CHOICES, "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    return {name: value for name, value in os.environ.items() if name not in dropped} | SETTINGS.get(setting, {})


def notebook_seconds(
    setting: str, notebook: str = NOTEBOOK, budget: str = "smoke", *, cells: bool = False
) -> float | None:
    """Seconds that `mlcourse run` takes for a lesson, or only those of its `cells`; None when it was given up."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mlcourse", "run", notebook, "--budget", budget, "--out", folder]
        # a work folder of its own: the course's notebook runs, not a learner's copy
        about = environment(setting) | {"MLCOURSE_WORK": str(Path(folder) / "work")}
        started = time.perf_counter()
        try:
            done = subprocess.run(command, env=about, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CourseError(f"notebook {notebook} stopped with exit code {done.returncode}: {last}")
        whole = time.perf_counter() - started
        return sum(map(cell_seconds, Path(folder).rglob("*.ipynb"))) if cells else whole


def cell_seconds(executed: Path) -> float:
    """What the cells of an executed notebook took, without its kernel's start."""
    cells = files.read_json(executed)["cells"]
    return sum(cell["metadata"].get("papermill", {}).get("duration") or 0.0 for cell in cells)


def measure(setting: str) -> dict[str, Any]:
    """The steps' medians and 90 % points in seconds, and the notebook's seconds, under one setting."""
    command = [sys.executable, "-m", "mlcourse.shared_cores"]
    done = subprocess.run(command, env=environment(setting), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CourseError(f"the steps under {setting!r} stopped with exit code {done.returncode}: {last}")
    rows: dict[str, Any] = {}
    for name, taken in json.loads(done.stdout.splitlines()[-1]).items():
        rows[name] = {"median": statistics.median(taken), "p90": statistics.quantiles(taken, n=10)[-1]}
    return rows | {f"notebook {NOTEBOOK}": {"seconds": notebook_seconds(setting)}}


def check_loads(loads: list[str]) -> None:
    """Raise CourseError for a load that is none of NEIGHBOURS."""
    for load in loads:
        if load not in NEIGHBOURS:
            raise CourseError(f"load {load!r} is unknown; use one of {', '.join(NEIGHBOURS)}")


def table(
    *,
    loads: list[str],
    at: Callable[[float, str], None] = lambda share, text: None,
    out: Path | None = None,
) -> dict[str, Any]:
    """The whole table: loads × settings × jobs, as plain numbers. out: a JSON file, written anew after each setting.

    A load that the file holds already, measured on the same machine by the same steps, stays when it is not in `loads`.
    at: told which share of the settings is done, and what is measured.
    """
    check_loads(loads)
    cpu = torch.device("cpu")
    report: dict[str, Any] = {"machine": bench.machine(cpu), "steps": STEPS, "settings": SETTINGS, "loads": {}}
    if out is not None and out.is_file():
        earlier = files.read_json(out)
        if all(earlier.get(what) == report[what] for what in ("machine", "steps", "settings")):
            report["loads"] = {load: row for load, row in earlier["loads"].items() if load not in loads}
    pairs = [(load, setting) for load in loads for setting in SETTINGS]
    for index, (load, setting) in enumerate(pairs):
        at(index / len(pairs), f"{load}, {setting}")
        with neighbours(NEIGHBOURS[load]):
            report["loads"].setdefault(load, {})[setting] = measure(setting)
        if out is not None:
            files.write_json(out, report)
    return report


def lessons(
    *,
    loads: list[str],
    at: Callable[[float, str], None] = lambda share, text: None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Seconds of every notebook's cells at `lesson`, by load; the arguments are those of `table`.

    Threads wait as the course sets it.
    """
    check_loads(loads)
    report: dict[str, Any] = {"machine": bench.machine(torch.device("cpu")), "seconds": {load: {} for load in loads}}
    names = [path.stem for path in sorted((places.repository() / "notebooks").glob("*.ipynb"))]
    jobs = [(load, name) for load in loads for name in names]
    for index, (load, name) in enumerate(jobs):
        at(index / len(jobs), f"{load}, {name}")
        with neighbours(NEIGHBOURS[load]):
            report["seconds"][load][name] = notebook_seconds(OURS, name[:2], "lesson", cells=True)
        if out is not None:
            files.write_json(out, report)
    return report


if __name__ == "__main__":
    print(json.dumps(seconds_of_steps()))
