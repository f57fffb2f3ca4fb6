"""Eight ways in which people write "MAML" in PyTorch, and a detector that tells which gradient each one returns.

Each is called as `meta_gradient(theta, task)` (see `mlcourse.meta_gradients.estimators`) and returns a vector like
theta. All run without an error, and all have φ_T right; they differ in the gradient only. `TRUTH` says what
each returns:

- "second-order": the exact meta-gradient, through the inner gradient;
- "first-order": ∇L_outer at φ_T, first-order MAML (Finn, Abbeel, Levine 2017, https://arxiv.org/abs/1703.03400);
- "wrong": neither of the two.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mlcourse.meta_gradients import estimators
from mlcourse.meta_gradients.estimators import Task

MetaGradient = Callable[[Tensor, Task], Tensor]


def unrolled(theta: Tensor, task: Task) -> Tensor:
    """A loop whose inner gradients keep their graph."""
    theta = theta.detach().requires_grad_()
    phi = theta
    for _ in range(task.steps):
        (slope,) = torch.autograd.grad(task.inner_loss(phi), phi, create_graph=True)
        phi = phi - task.rate * slope
    return torch.autograd.grad(task.outer_loss(phi), theta)[0]


def functional(theta: Tensor, task: Task) -> Tensor:
    """The same by torch.func, where the word create_graph does not occur."""

    def adapted_loss(phi: Tensor) -> Tensor:
        for _ in range(task.steps):
            phi = phi - task.rate * torch.func.grad(task.inner_loss)(phi)
        return task.outer_loss(phi)

    return torch.func.grad(adapted_loss)(theta.detach())


def graph_forgotten(theta: Tensor, task: Task) -> Tensor:
    """As `unrolled`, without create_graph=True."""
    theta = theta.detach().requires_grad_()
    phi = theta
    for _ in range(task.steps):
        (slope,) = torch.autograd.grad(task.inner_loss(phi), phi)
        phi = phi - task.rate * slope
    return torch.autograd.grad(task.outer_loss(phi), theta)[0]


class _Model(nn.Module):
    """A network that is nothing but its weights."""

    def __init__(self, weights: Tensor):
        super().__init__()
        self.weights = nn.Parameter(weights.detach().clone())


def copied_model(theta: Tensor, task: Task) -> Tensor:
    """A deep copy is trained by an ordinary optimizer; its gradient is copied back to the original."""
    model = _Model(theta)
    fast = copy.deepcopy(model)
    optimizer = torch.optim.SGD(fast.parameters(), lr=task.rate)
    for _ in range(task.steps):
        optimizer.zero_grad()
        task.inner_loss(fast.weights).backward()
        optimizer.step()
    optimizer.zero_grad()
    task.outer_loss(fast.weights).backward()
    model.weights.grad = fast.weights.grad.clone()
    return model.weights.grad


def leftovers(theta: Tensor, task: Task) -> Tensor:
    """An ordinary training loop. zero_grad is forgotten before the outer backward: .grad holds the last step's too."""
    model = _Model(theta)
    optimizer = torch.optim.SGD(model.parameters(), lr=task.rate)
    for _ in range(task.steps):
        optimizer.zero_grad()
        task.inner_loss(model.weights).backward()
        optimizer.step()
    task.outer_loss(model.weights).backward()
    return model.weights.grad


def detached(theta: Tensor, task: Task) -> Tensor:
    """Each step detaches the fast weights; then no path leads to theta, and allow_unused turns the error into zeros."""
    theta = theta.detach().requires_grad_()
    phi = theta
    for _ in range(task.steps):
        (slope,) = torch.autograd.grad(task.inner_loss(phi), phi, create_graph=True)
        phi = (phi - task.rate * slope).detach().requires_grad_()
    (found,) = torch.autograd.grad(task.outer_loss(phi), theta, allow_unused=True)
    return torch.zeros_like(theta) if found is None else found


def in_place(theta: Tensor, task: Task) -> Tensor:
    """create_graph=True, but the step is written into .data, where no graph is made."""
    weights = theta.detach().clone().requires_grad_()
    for _ in range(task.steps):
        (slope,) = torch.autograd.grad(task.inner_loss(weights), weights, create_graph=True)
        weights.data = weights.data - task.rate * slope.detach()
    return torch.autograd.grad(task.outer_loss(weights), weights)[0]


def without_grad(theta: Tensor, task: Task) -> Tensor:
    """create_graph=True, and yet the update stands under torch.no_grad."""
    phi = theta.detach().requires_grad_()
    for _ in range(task.steps):
        (slope,) = torch.autograd.grad(task.inner_loss(phi), phi, create_graph=True)
        with torch.no_grad():
            phi = phi - task.rate * slope
        phi.requires_grad_()
    return torch.autograd.grad(task.outer_loss(phi), phi)[0]


ORDERS = ("second-order", "first-order", "wrong")
LINE_UP: tuple[MetaGradient, ...] = (unrolled, functional, graph_forgotten, copied_model, leftovers, detached)
UNSEEN: tuple[MetaGradient, ...] = (in_place, without_grad)  # two more, which exercise 05.3 does not show
TRUTH = {
    "unrolled": "second-order",
    "functional": "second-order",
    "graph_forgotten": "first-order",
    "copied_model": "first-order",
    "leftovers": "wrong",
    "detached": "wrong",
    "in_place": "first-order",
    "without_grad": "first-order",
}


def curved_task() -> tuple[Tensor, Task]:
    """(theta [3], task): smooth losses whose curvature differs from place to place and between support and queries."""
    theta = torch.tensor([0.7, -0.4, 0.3], dtype=torch.float64)
    mix = torch.tensor([[1.0, 0.5, -0.3], [0.2, 1.0, 0.6], [-0.4, 0.1, 1.0]], dtype=torch.float64)
    return theta, Task(
        inner_loss=lambda phi: torch.cosh(mix.to(phi) @ phi - 0.5).sum(),
        outer_loss=lambda phi: torch.cosh(mix.T.to(phi) @ phi + 1.0).sum(),
        steps=2,
        rate=0.1,
    )


def order(meta_gradient: MetaGradient) -> str:
    """One of `ORDERS`: what a black box returns, found by differences on a task where the three part ways."""
    theta, task = curved_task()
    given = meta_gradient(theta, task)
    phi = estimators.path(theta, task)[-1]
    at_the_end = Task(task.inner_loss, task.outer_loss, steps=0)  # no step: the slope of L_outer where φ_T is
    exact = estimators.by_differences(theta, task)
    first = estimators.by_differences(phi, at_the_end)
    for name, slope in zip(ORDERS, (exact, first)):
        if (given - slope).norm() < 1e-5 * slope.norm():
            return name
    return "wrong"
