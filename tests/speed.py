"""Bars on speed that hold on any machine: the time of a work as a multiple of another work's, measured beside it.

A bar in seconds fails on a machine that is slow or busy, and says nothing on one that is fast. Both works run in turns,
in one process, and the least processor time of each counts: neighbours only ever add to it.

    assert speed.ratio(lambda: learner.evaluate(...), lambda: network(pictures)) < 3
"""

import time
from collections.abc import Callable

import torch

from mlcourse.networks import Conv4


def seconds(work: Callable[[], object]) -> float:
    """The processor time of one call, of all threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


def ratio(work: Callable[[], object], yardstick: Callable[[], object], *, tries: int = 5) -> float:
    """How many times the least time of `yardstick` the least of `work` is; both run once before, unmeasured."""
    yardstick(), work()
    taken = [(seconds(yardstick), seconds(work)) for _ in range(tries)]
    return min(one for _, one in taken) / min(one for one, _ in taken)


def on_one_thread(measure: Callable[[], float]) -> float:
    """What `measure` gives with one thread of torch: threads that wait for a core count as processor time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure()
    finally:
        torch.set_num_threads(threads)


QUIET = 0.69  # seconds of `unit` on the two cores that the lessons are measured on, with nothing beside it


def unit() -> float:
    """The time of a fixed work on all cores that this process may use, in seconds by the clock: how fast they are now.

    Half of it is PyTorch's, half of it Python's, as in a lesson. The least of three tries.
    """
    network, pictures = Conv4(channels=32, size=28, out=5), torch.rand(100, 1, 28, 28)

    def work() -> float:
        began = time.perf_counter()
        for _ in range(10):
            network(pictures).square().mean().backward()
        sum(k * k for k in range(4_000_000))
        return time.perf_counter() - began

    work()
    return min(work() for _ in range(3))
