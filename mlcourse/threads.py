"""How many threads compute, and what a thread does while it waits for the others.

PyTorch divides each operation among threads of OpenMP. At its end they wait for the slowest one, and GNU's OpenMP waits
by counting to 300,000 before it sleeps. That is quick while every thread has a core to itself. On a shared core the one
who counts takes the time of the one who is waited for, and a step of training takes several times as long.
`data/results/threads.json` has the measurements (`mlcourse bench threads`).

A lesson goes further: where other programs keep a core busy, it computes with a thread less. Its many small operations
each wait for the slowest thread, so with one busy neighbour on two cores notebook 07 took 83 s with two threads and
14 s with one, notebook 04 165 s and 73 s (quiet, with two threads: 16 s and 62 s).
"""

import math
import os
import sys
import time
from pathlib import Path, PurePosixPath

SPINS = 1000  # how far a waiting thread counts before it sleeps
# What a user may have said about waiting. GOMP_SPINCOUNT is of GNU's OpenMP (PyTorch on Linux), the other of every one.
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
MOST = 8  # the course's networks are too small for more threads
LOOKS, LOOK = 4, 0.25  # how often one looks for a free core, and for how many seconds each time
NEARLY = 0.25  # a core of which this share is taken counts as free

CGROUP = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def settle() -> None:
    """Let waiting threads sleep soon, unless the user has said how they wait.

    OpenMP reads this once, when PyTorch is imported: so it stands in the environment before, and child processes
    (kernels, tests) have it, too.
    """
    if not any(name in os.environ for name in CHOICES):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


def limit() -> int:
    """Let PyTorch use the cores that this process may use, 8 at most, and return how many threads it now uses.

    Where the user has set OMP_NUM_THREADS, that number stays.
    """
    import torch  # late: `settle` has to come before it

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(cores(), torch.get_num_threads(), MOST))
    return torch.get_num_threads()


def make_room() -> int:
    """`limit`, and a thread less for each core that other programs keep busy now; 1 at least.

    Returns how many threads were given up. It looks once: the number stays as it is, so that one run of a lesson adds
    its numbers up in one order. Where the user has set OMP_NUM_THREADS, that number stays.
    """
    import torch

    wanted = limit()
    if "OMP_NUM_THREADS" in os.environ or wanted == 1:
        return 0
    for _ in range(LOOKS):  # a browser that draws the page is busy for a moment only
        free = max(1, math.floor(spare(LOOK) + NEARLY))
        if free >= wanted:
            return 0
    torch.set_num_threads(free)
    return wanted - free


def spare(seconds: float) -> float:
    """How many of this process's cores other programs leave to it, looked at for that long: 1.2 of 2, say."""
    import psutil  # late: nobody else needs it

    def left() -> float:
        every = psutil.cpu_times(percpu=True)
        bound = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(every))
        idle = sum(every[core].idle + getattr(every[core], "iowait", 0) for core in bound if core < len(every))
        return idle + time.process_time()

    before, began = left(), time.perf_counter()
    time.sleep(seconds)
    return (left() - before) / (time.perf_counter() - began)


def cores() -> int:
    """The cores that this process may use at once: those it is bound to, or fewer if its container has a quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = quota()
    return bound if share is None else max(1, min(bound, math.ceil(share)))


def quota() -> float | None:
    """How many cores' time the container may use, such as 1.5; None where there is no limit."""
    if not sys.platform.startswith("linux"):
        return None
    shares = [share for folder in _folders() if (share := _share(folder)) is not None]
    return min(shares, default=None)


def _folders() -> list[Path]:
    """The folders that can hold a quota of this process: its own group's and those of all groups around it."""
    found = [CGROUP, CGROUP / "cpu"]  # in a container the own group is the root; version 1 has a folder per kind
    try:
        lines = OWN_CGROUP.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:  # such as 0::/user.slice/session.scope (version 2), 4:cpu,cpuacct:/docker/12ab (version 1)
        _, kinds, group, *_ = [*line.split(":", 2), "", ""]
        if kinds and "cpu" not in kinds.split(","):
            continue
        inside = PurePosixPath(group.lstrip("/"))
        if ".." in inside.parts:
            continue
        root = CGROUP / "cpu" if kinds else CGROUP
        found += [root / part for part in (inside, *inside.parents)]
    return list(dict.fromkeys(found))


def _share(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():  # version 2: "150000 100000", or "max 100000"
            limit, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            limit, period = (
                (folder / f"cpu.cfs_{kind}_us").read_text(encoding="ascii") for kind in ("quota", "period")
            )
        limit, period = float(limit), float(period)
    except (OSError, ValueError):  # no such file, or the word "max": no limit
        return None
    return limit / period if limit > 0 and period > 0 else None  # version 1 says -1 for no limit
