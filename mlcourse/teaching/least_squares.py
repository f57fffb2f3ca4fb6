"""Linear least squares, where adapting has a closed form: the problems and the oracle of several lessons' checks.

The model is y = w·x + b. L(φ) is a quadratic in the vector φ = (w, b), so that the adapted parameters, their loss and
their derivatives are matrix products, which share no code with the package. The loss is a mean square with a weight of
its own, plus a term of the targets alone: an answer that takes another loss than the one it was given, or swaps the two
arguments (cross-entropy would raise), gives other numbers.
"""

from functools import partial

import torch
from torch import Tensor

from mlcourse.teaching.oracles import close, first_mistake, randn, uniform

Tensors = dict[str, Tensor]
RTOL = 2e-4  # an answer that computes in float32 passes; the mistakes below are off by far more
close_enough = partial(close, rtol=RTOL)
first_slip = partial(first_mistake, rtol=RTOL)


def slopes_of(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """d(sum of value)/d(leaf) for each leaf, zeros where there is no path."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(torch.autograd.grad(value.sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True))


def flat(params: dict[str, Tensor]) -> Tensor:
    """The parameters w [2] and b [] of the linear model as one vector [3]."""
    return torch.cat([params["w"].flatten(), params["b"].flatten()])


def forward(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return x @ params["w"] + params["b"]


WEIGHT, TILT = 0.7, 0.1


def tilted(prediction: Tensor, target: Tensor) -> Tensor:
    """0.7 · mean (prediction − target)² + 0.1 · mean target²."""
    return WEIGHT * ((prediction - target) ** 2).mean() + TILT * (target**2).mean()


class LeastSquares:
    """The same model and loss in closed form: L(φ) is a quadratic in the vector φ = (w, b)."""

    def __init__(self, x: Tensor, y: Tensor, weight: float = WEIGHT, tilt: float = TILT):
        self.x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        self.y, self.weight, self.tilt = y, weight, tilt
        self.hessian = 2 * weight * self.x.T @ self.x / len(y)

    def loss(self, phi: Tensor) -> Tensor:
        return self.weight * ((self.x @ phi - self.y) ** 2).mean() + self.tilt * (self.y**2).mean()

    def swapped(self, phi: Tensor) -> Tensor:
        """The value of loss(target, prediction)."""
        return self.loss(phi) + self.tilt * (((self.x @ phi) ** 2).mean() - (self.y**2).mean())

    def plain(self) -> "LeastSquares":
        """The same task under the plain mean square, which nobody asked for."""
        return LeastSquares(self.x[:, :-1], self.y, 1.0, 0.0)

    def gradient(self, phi: Tensor) -> Tensor:
        return 2 * self.weight * self.x.T @ (self.x @ phi - self.y) / len(self.y)

    def adapted(self, theta: Tensor, rate: Tensor, steps: int, moves: Tensor | float = 1.0) -> Tensor:
        """φ after steps; a place where `moves` is 0 stands still."""
        for _ in range(steps):
            theta = theta - rate * moves * self.gradient(theta)
        return theta

    def response(self, rate: Tensor, steps: int) -> Tensor:
        """dφ_T/dθ = (I − αH)^T, which is symmetric."""
        return torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) - rate * self.hessian, steps)


OUTER_STEPS = 2


def outer_inputs(generator: torch.Generator) -> Tensors:
    tasks, support, query = 3, 4, 7  # no number is a simple multiple of another: 1/2 has one cause
    return {
        "rate": uniform(generator, 0.05, 0.12),
        "w": randn(generator, 2),
        "b": randn(generator),
        "support_x": randn(generator, tasks, support, 2),
        "support_y": 2 * randn(generator, tasks, support),
        "query_x": randn(generator, tasks, query, 2),
        "query_y": 2 * randn(generator, tasks, query),
    }


def outer_mistakes(
    theta: Tensor, rate: Tensor, support: list[LeastSquares], query: list[LeastSquares], phis: list[Tensor]
) -> Tensors:
    """Values that well-known mistakes give, by diagnosis."""

    def mean(pairs) -> Tensor:
        return torch.stack([task.loss(phi) for task, phi in pairs]).mean()

    losses = torch.stack([q.loss(phi) for q, phi in zip(query, phis, strict=True)])
    carried, phi = [], theta
    for task in support:
        phi = task.adapted(phi, rate, OUTER_STEPS)
        carried.append(phi)
    return {
        "The query loss is taken on the support: this is the inner loss after adaptation.": mean(zip(support, phis)),
        "This is the query loss at θ: nothing was adapted. It is the loss of joint training.": mean(
            (q, theta) for q in query
        ),
        "This is the support loss at θ: adapt first, then take the loss on the queries.": mean(
            (s, theta) for s in support
        ),
        "You adapted on the queries: that is a leak. Adapt on the support, then ask the queries.": mean(
            (q, q.adapted(theta, rate, OUTER_STEPS)) for q in query
        ),
        "Sum instead of mean: divide by the number of tasks, or the outer rate depends on it.": losses.sum(),
        "Only the first task counts: take the mean over all tasks of the episode.": losses[0],
        "Only the last task counts: take the mean over all tasks of the episode.": losses[-1],
        "Each task starts where the one before it ended. Every task starts from θ.": mean(zip(query, carried)),
        "Only one inner step was taken: pass steps on to adapt.": mean(
            (q, s.adapted(theta, rate, 1)) for q, s in zip(query, support, strict=True)
        ),
        "One inner step too many was taken.": mean(
            (q, s.adapted(theta, rate, OUTER_STEPS + 1)) for q, s in zip(query, support, strict=True)
        ),
        "The query loss is called with swapped arguments: loss(prediction, target). Cross-entropy would raise.": (
            torch.stack([q.swapped(phi) for q, phi in zip(query, phis, strict=True)]).mean()
        ),
        "This is the mean squared error, whatever loss was given: call `loss`, for support and queries.": mean(
            (q.plain(), s.plain().adapted(theta, rate, OUTER_STEPS)) for q, s in zip(query, support, strict=True)
        ),
        "The query loss is the mean squared error, whatever loss was given: call `loss` there too.": mean(
            (q.plain(), phi) for q, phi in zip(query, phis, strict=True)
        ),
    }
