"""What do several processes gain? MAML's step in 1 and in 2 processes, and a model that projects it to 8 GPUs.

    t(P) = serial + compute · (largest part of the tasks) + messages(P)
    messages(P) = 2 (P − 1) · latency · (number of messages) + 2 (P − 1)/P · bytes / bandwidth

serial: what every process does for all tasks (drawing the episodes, the optimizer's step). compute: forward and
backward of all tasks in one process. messages: a ring adds up the gradients in 2 (P − 1) rounds, in each of which a
process sends a P-th of the bytes (Thakur, Rabenseifner, Gropp, *Optimization of Collective Communication Operations in
MPICH*, 2005, https://doi.org/10.1177/1094342005051521).

The times of 1 and 2 processes are measured, processor time beside wall time, so that one sees whether the machine was
busy. What is said of 8 GPUs is the model's, with the constants below put in: nobody measured it.
"""

import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import distributed as dist

from mlcourse import bench, datasets, distributed, learners, training
from mlcourse.episodes import EpisodeSampler, check_positive

MESSAGES = 4  # collectives of a step: the interrupt, the gradients, the metrics (two)
WORLDS = (1, 2)
# Put into the projection, not measured: one machine of 8 GPUs with a fast link.
GPU_LATENCY, GPU_BANDWIDTH = 20e-6, 100e9  # seconds, bytes a second
GPU_COMPUTE = (0.005, 0.02, 0.1)  # seconds of forward and backward of a step on one GPU, whatever it is


def seconds_of_step(
    world: int, *, serial: float, compute: float, tasks: int, size: float, latency: float, bandwidth: float
) -> float:
    """t(P) of the model, P = world. tasks: of a step; size: bytes of the gradients. All times in seconds."""
    largest = math.ceil(tasks / world) / tasks
    if world == 1:
        return serial + compute
    rounds = 2 * (world - 1)
    return serial + compute * largest + rounds * latency * MESSAGES + rounds / world * size / bandwidth


def report(*, rounds: int = 20, recipe: str = "short") -> dict[str, Any]:
    """Medians of the steps of 1 and 2 processes, one thread each, and the projection. rounds: steps that count."""
    check_positive("rounds", rounds)
    measured = {str(world): _of_world(world, rounds, recipe) for world in WORLDS}
    one, two = measured["1"], measured["2"]
    found = {"machine": bench.machine(torch.device("cpu")) | {"load": psutil.getloadavg()[0]}, "measured": measured}
    found["rounds"], found["tasks"] = rounds, one["tasks"]
    found["times_faster"] = {kind: one[kind] / two[kind] for kind in ("wall", "processor")}
    constants = {"latency": GPU_LATENCY, "bandwidth": GPU_BANDWIDTH, "size": one["bytes"]}
    found["projection"] = [
        {"compute": compute, "tasks": tasks, "processes": world, "seconds": seconds}
        for compute in GPU_COMPUTE
        for tasks in (one["tasks"], 32)
        for world in (1, 2, 4, 8)
        if world <= tasks
        for seconds in [seconds_of_step(world, serial=one["serial"], compute=compute, tasks=tasks, **constants)]
    ]
    return found | {"assumed": constants}


def told(found: dict[str, Any]) -> list[str]:
    """The report in lines."""
    lines = []
    for world, row in found["measured"].items():
        pieces = ", ".join(f"{name} {1e3 * row[name]:.1f}" for name in ("wall", "processor", "serial", "messages"))
        lines.append(f"{world} process(es), ms a step of {found['tasks']} tasks: {pieces}")
    faster = found["times_faster"]
    lines.append(
        f"2 processes: {faster['wall']:.2f} times as fast by the clock, {faster['processor']:.2f} by processor"
    )
    lines.append(
        f"load of the machine: {found['machine']['load']:.1f}; if other programs ran, trust the processor time"
    )
    lines.append("8 GPUs, a projection with assumed constants, not measured:")
    for row in found["projection"]:
        if row["processes"] == 8:
            alone = next(
                one["seconds"]
                for one in found["projection"]
                if one["processes"] == 1 and (one["compute"], one["tasks"]) == (row["compute"], row["tasks"])
            )
            lines.append(
                f"  {row['tasks']} tasks, {1e3 * row['compute']:.0f} ms on one GPU: {1e3 * row['seconds']:.1f} ms, "
                f"{alone / row['seconds']:.1f} times as fast"
            )
    return lines


def _of_world(world: int, rounds: int, recipe: str) -> dict[str, Any]:
    """The medians of one world: of its slowest process in wall time, of all processes' mean in processor time."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_process, (world, folder, rounds, recipe), nprocs=world)
        rows = [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]
    found = {name: max(row[name] for row in rows) for name in ("wall", "serial", "messages")}
    return found | {"processor": statistics.mean(row["processor"] for row in rows), **rows[0]["about"]}


def _process(rank: int, world: int, folder: str, rounds: int, recipe: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    torch.save(_steps(rounds, recipe), Path(folder) / f"{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


def _steps(rounds: int, recipe: str) -> dict[str, Any]:
    """Steps of MAML's recipe, in this process and the others: wall and processor seconds, and of which pieces."""
    plan, together = learners.recipe("maml", recipe), distributed.current()
    learner = learners.build("maml", way=5, seed=0, **plan.options)
    source = EpisodeSampler(datasets.load("glyphs", "train"), 5, 1, plan.query or 15)
    run = training.Run(learner, plan.rate, 0, None, {}, rounds + 3)
    wall, processor, serial, messages = [], [], [], []
    for number in range(rounds + 3):
        began, spent = time.perf_counter(), time.process_time()
        together.any(False)
        run.outer_step(source, plan.tasks)
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - spent)
        began = time.process_time()
        source.sample(plan.tasks, torch.Generator().manual_seed(number))
        run.optimizer.step()
        serial.append(time.process_time() - began)
        began = time.perf_counter()
        if together.world > 1:
            together.any(False)
            together.summed_all([torch.zeros_like(p) for p in run.parameters])
            together.gathered((0.0, [], run.generator.get_state()))
        messages.append(time.perf_counter() - began)
    pieces = {"wall": wall, "processor": processor, "serial": serial, "messages": messages}
    size = sum(p.numel() * p.element_size() for p in run.parameters)
    return {name: statistics.median(each[3:]) for name, each in pieces.items()} | {
        "about": {"tasks": plan.tasks, "bytes": size}
    }
