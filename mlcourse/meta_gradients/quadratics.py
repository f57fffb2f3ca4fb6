"""Two quadratic tasks: the smallest world in which the meta-learning methods of the course part ways, solved exactly.

A task is L(φ) = ½a(φ − c)²: it wants the one weight φ to be c, and its valley has the curvature a. It is also an image
of one pixel: the network f(x) = φx with the half squared error, on the example x = √a, y = c√a. Support and query are
the same example. T inner steps of rate α from θ shrink the distance to c by the factor (1 − αa)^T:

    φ_T − c = (1 − αa)^T (θ − c)

so each method below pulls θ towards each c with a force that is linear in θ − c, and stops at a weighted mean of the c.

| method           | the force on θ                             | weight of c     |
|------------------|--------------------------------------------|-----------------|
| joint            | gradient of L(θ), no inner step            | a               |
| first-order MAML | gradient at φ_T, used as if it were at θ   | a(1 − αa)^T     |
| MAML             | gradient of L(φ_T(θ)) with respect to θ    | a(1 − αa)^{2T}  |
| Reptile          | θ − φ_T                                    | 1 − (1 − αa)^T  |
| iMAML            | gradient of L(φ*(θ)), φ* = argmin L(φ) + (λ/2)(φ − θ)² | aλ²/(a + λ)² |

Finn, Abbeel, Levine, *Model-Agnostic Meta-Learning*, 2017, https://arxiv.org/abs/1703.03400 (MAML, first-order MAML);
Nichol, Achiam, Schulman, *On First-Order Meta-Learning Algorithms*, 2018, https://arxiv.org/abs/1803.02999 (Reptile);
Rajeswaran, Finn, Kakade, Levine, *Meta-Learning with Implicit Gradients*, 2019, https://arxiv.org/abs/1909.04630.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mlcourse.episodes import Episode
from mlcourse.errors import CourseError, check_whole

METHODS = ("joint", "first-order MAML", "MAML", "Reptile", "iMAML")
RATE, STEPS, DAMPING = 0.2, 1, 1.0  # α, T, λ of the course's example


@dataclass(frozen=True)
class Quadratic:
    """The task L(φ) = ½a(φ − c)². a: its curvature, above 0; c: where it is solved."""

    a: float
    c: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.a) and self.a > 0 and math.isfinite(self.c)):
            raise CourseError(f"a task with curvature {self.a} and centre {self.c} has no valley: give a > 0, c finite")

    def loss(self, phi):
        """L(φ), for a number, an array or a tensor."""
        return 0.5 * self.a * (phi - self.c) ** 2

    def path(self, theta: float, *, rate: float = RATE, steps: int = STEPS) -> list[float]:
        """θ = φ_0, φ_1, …, φ_T: the start and where each inner step lands."""
        check_whole("steps", steps)
        return [self.c + (1 - rate * self.a) ** t * (theta - self.c) for t in range(steps + 1)]


TASKS = (Quadratic(a=1.0, c=-1.0), Quadratic(a=4.0, c=1.0))


def episode(tasks: tuple[Quadratic, ...] = TASKS) -> Episode:
    """The tasks as a batch of one-example tasks, float64: x and y are [tasks, 1], x = √a, y = c√a; query = support."""
    x = torch.tensor([[math.sqrt(task.a)] for task in tasks], dtype=torch.float64)
    y = x * torch.tensor([[task.c] for task in tasks], dtype=torch.float64)
    none = torch.empty(len(tasks), 0, dtype=torch.int64)
    return Episode(x, y, x, y, none, none, none)


def meta_loss(theta, tasks: tuple[Quadratic, ...] = TASKS, *, rate: float = RATE, steps: int = STEPS):
    """L_outer(θ): the mean loss of the tasks after T inner steps from θ. theta: a number, an array or a tensor."""
    check_whole("steps", steps)
    adapted = (task.c + (1 - rate * task.a) ** steps * (theta - task.c) for task in tasks)
    return sum(task.loss(phi) for task, phi in zip(tasks, adapted, strict=True)) / len(tasks)


def weight(method: str, a, *, rate: float = RATE, steps: int = STEPS, damping: float = DAMPING):
    """How strongly `method` pulls the common start to a task of curvature a (a number, an array or a tensor)."""
    check_whole("steps", steps)
    shrink = (1 - rate * a) ** steps
    if method == "joint":
        return a
    if method == "first-order MAML":
        return a * shrink
    if method == "MAML":
        return a * shrink**2
    if method == "Reptile":
        return 1 - shrink
    if method == "iMAML":
        return a * (damping / (a + damping)) ** 2
    raise CourseError(f"method {method!r} is unknown here; use one of {', '.join(METHODS)}")


def attracts(method: str, tasks: tuple[Quadratic, ...] = TASKS, **options: float) -> bool:
    """Whether descent stops at `common_start`, rather than run away from it: whether all pulls together are above 0.

    Inner steps that overshoot (αa > 1) can turn the pulls of first-order MAML and of Reptile round.
    """
    return sum(weight(method, task.a, **options) for task in tasks) > 0


def common_start(method: str, tasks: tuple[Quadratic, ...] = TASKS, **options: float) -> float:
    """The θ at which `method` stops: the mean of the c, weighted by `weight`. options: rate, steps, damping.

    For joint, MAML and iMAML it is the stationary point of their outer loss (a minimum where the weights are positive).
    First-order MAML and Reptile do not follow the gradient of the outer loss: theirs is the fixed point of the update,
    which may repel (see `attracts`).
    nan where the weights add up to nothing.
    """
    weights = [weight(method, task.a, **options) for task in tasks]
    total = sum(weights)
    if abs(total) <= 1e-15 * sum(map(abs, weights)):
        return math.nan
    return sum(w * task.c for w, task in zip(weights, tasks, strict=True)) / total


def proximal_support(task: Episode, theta: Tensor, damping: float = DAMPING) -> tuple[Tensor, Tensor]:
    """The support set of one task with iMAML's proximal term (λ/2)(φ − θ)² as one more example: x = √λ, y = √λ·θ.

    task: an episode of one task; theta: float64 []. Returns x and y, [2]; y depends on θ, so gradients flow through it.
    """
    root = torch.full((1,), math.sqrt(damping), dtype=theta.dtype)
    return torch.cat([task.support_x[0], root]), torch.cat([task.support_y[0], root * theta])
