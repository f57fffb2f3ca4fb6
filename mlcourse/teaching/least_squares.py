"""Linear least squares, where adapting has a closed form: the problems and the oracle of several lessons' checks.

The model is y = w·x + b, the loss the mean square. L(φ) is then a quadratic in the vector φ = (w, b), so that the
adapted parameters, their loss and their derivatives are matrix products, which share no code with the package.
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


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    return ((prediction - target) ** 2).mean()


class LeastSquares:
    """The same model and loss in closed form: L(φ) is a quadratic in the vector φ = (w, b)."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        self.y = y
        self.hessian = 2 * self.x.T @ self.x / len(y)

    def loss(self, phi: Tensor) -> Tensor:
        return ((self.x @ phi - self.y) ** 2).mean()

    def gradient(self, phi: Tensor) -> Tensor:
        return 2 * self.x.T @ (self.x @ phi - self.y) / len(self.y)

    def adapted(self, theta: Tensor, rate: Tensor, steps: int) -> Tensor:
        for _ in range(steps):
            theta = theta - rate * self.gradient(theta)
        return theta

    def response(self, rate: Tensor, steps: int) -> Tensor:
        """dφ_T/dθ = (I − αH)^T, which is symmetric."""
        return torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) - rate * self.hessian, steps)


OUTER_STEPS = 2


def outer_inputs(generator: torch.Generator) -> Tensors:
    tasks, support, query = 3, 4, 6
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
    }
