"""What a meta-gradient costs and how far it is from the exact one: the measurements of notebook 07."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mlcourse.errors import CourseError
from mlcourse.meta_gradients.saved_bytes import saved_bytes

METHODS = ("exact", "truncated", "checkpointed", "first-order", "Reptile")


def measured(call: Callable[[], Any]) -> tuple[Any, int, float]:
    """(what `call()` returns, the most bytes that autograd kept at one moment, seconds)."""
    began = time.perf_counter()
    with saved_bytes() as saved:
        value = call()
    return value, saved.peak, time.perf_counter() - began


@dataclass(frozen=True)
class Costs:
    """Bytes from which those of every method follow.

    step: G, the graph of one inner step. phi: P, one copy of φ. queries: the graph of the query loss, which is taken
    once; the graph of a support loss that is used once and dropped is no larger. support: the support set, kept once.
    """

    step: int
    phi: int
    queries: int
    support: int

    def kept(self, method: str, steps: int, keep: int = 1) -> int:
        """The bytes of a method after T = `steps` inner steps.

        keep: R of truncated (the last R steps have a graph), n of checkpointed.

        The formula of checkpointed is n·G + (⌈T/n⌉ − 1)·P and the support set: the graph of a block holds the φ that
        enters it anyhow. It leaves out only the few parameters that no graph needs (biases). Raises CourseError for
        an unknown method.
        """
        if method in ("first-order", "Reptile") or steps == 0:
            return self.queries
        if method == "truncated":
            return self.queries + self.support + min(keep, steps) * self.step
        if method == "exact" or (method == "checkpointed" and keep >= steps):
            return self.queries + self.support + steps * self.step
        if method == "checkpointed":
            copies = math.ceil(steps / keep)
            return self.support + max(keep * self.step + (copies - 1) * self.phi, self.queries + copies * self.phi)
        raise CourseError(f"method {method!r} is unknown; use one of {', '.join(METHODS)}")


def error(got: Tensor, exact: Tensor) -> float:
    """‖g − g_exact‖ / ‖g_exact‖."""
    return ((got - exact).norm() / exact.norm()).item()


def cosine(got: Tensor, exact: Tensor) -> float:
    """The cosine of the angle between two gradients: 1 is the same direction, 0 a right angle."""
    return (got @ exact / (got.norm() * exact.norm())).item()
