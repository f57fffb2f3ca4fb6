"""The meta-gradient of one task, in three independent ways: by hand, by autograd, by differences.

θ is one vector here, all weights of a network one after the other, so that the formulas can be read as they stand:

    φ_0 = θ,    φ_{t+1} = φ_t − α ∇L_inner(φ_t),    dL_outer(φ_T)/dθ = (I − αH_0) ⋯ (I − αH_{T−1}) ∇L_outer(φ_T)

with H_t the Hessian of L_inner at φ_t. All are called as `meta_gradient(theta, task)` and return a vector like theta.
Where the inner process runs away they raise CourseError; `path` shows how it does.

Finn, Abbeel, Levine, *Model-Agnostic Meta-Learning*, 2017, https://arxiv.org/abs/1703.03400;
Pearlmutter, *Fast exact multiplication by the Hessian*, 1994, https://doi.org/10.1162/neco.1994.6.1.147;
Griewank, Walther, *Evaluating Derivatives*, 2008, https://doi.org/10.1137/1.9780898717761 (the reverse sweep).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse import inner
from mlcourse.episodes import Episode
from mlcourse.errors import CourseError, check_number, check_whole

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """Two losses of a vector of weights [n], and the inner process between them.

    inner_loss(phi): on the support, a scalar. outer_loss(phi): on the queries, a scalar.
    steps: T. rate: α.
    Raises CourseError for a number of steps that is negative or not whole, and for a rate
    that is not finite.
    """

    inner_loss: Loss
    outer_loss: Loss
    steps: int = 1
    rate: float = 0.1

    def __post_init__(self) -> None:
        check_whole("steps", self.steps)
        check_number("rate", self.rate)


# ------------------------------------------------------------------ the pieces


@inner.with_gradients
def gradient(loss: Loss, phi: Tensor) -> Tensor:
    """∇loss at phi, a vector [n] without a graph; also under `torch.no_grad()`. A loss that ignores phi is an error."""
    phi = inner.leaf(phi)
    return inner.gradient(loss(phi), {"phi": phi})["phi"]


@inner.with_gradients
def hessian_vector(loss: Loss, phi: Tensor, v: Tensor) -> Tensor:
    """H v, H the Hessian of loss at phi [n], v a vector [n]: the gradient of ∇loss · v. H itself is never built."""
    phi = inner.leaf(phi)
    slope = inner.gradient(loss(phi), {"phi": phi}, create_graph=True)["phi"]
    if not slope.requires_grad:  # a loss that is linear in phi
        return torch.zeros_like(phi)
    return inner.gradient(slope @ v.detach(), {"phi": phi})["phi"]


def path(theta: Tensor, task: Task) -> list[Tensor]:
    """φ_0 = θ, φ_1, …, φ_T, without a graph."""
    phis = [theta.detach()]
    for _ in range(task.steps):
        phis.append(phis[-1] - task.rate * gradient(task.inner_loss, phis[-1]))
    return phis


def meta_loss(theta: Tensor, task: Task) -> Tensor:
    """L_outer(φ_T(θ)): adapt from theta, then ask the queries. A scalar without a graph."""
    return task.outer_loss(path(theta, task)[-1]).detach()


# ------------------------------------------------------------------ the ways


def by_hand(theta: Tensor, task: Task) -> Tensor:
    """The exact meta-gradient [n]: T steps forward, then T Hessian-vector products, the last step first."""
    *before, last = path(theta, task)
    p = gradient(task.outer_loss, last)
    for phi in reversed(before):
        p = p - task.rate * hessian_vector(task.inner_loss, phi, p)
    return _finite(p, task)


def first_order(theta: Tensor, task: Task) -> Tensor:
    """First-order MAML's direction [n]: ∇L_outer at φ_T, as if φ_T moved exactly as θ does."""
    return _finite(gradient(task.outer_loss, path(theta, task)[-1]), task)


@inner.with_gradients
def by_autograd(theta: Tensor, task: Task) -> Tensor:
    """The exact meta-gradient [n], by differentiating through the course's inner loop, `inner.descend`."""
    start = {"weights": inner.leaf(theta)}
    phi = inner.descend(lambda params: task.inner_loss(params["weights"]), start, task.steps, task.rate)
    return _finite(inner.gradient(task.outer_loss(phi["weights"]), start)["weights"], task)


def by_differences(theta: Tensor, task: Task, h: float = 3e-3) -> Tensor:
    """The exact meta-gradient [n] by Richardson's differences, one weight after the other: 4n inner processes."""
    units = torch.eye(len(theta), dtype=theta.dtype, device=theta.device)
    slopes = [richardson(lambda at: meta_loss(at, task), theta, unit, h) for unit in units]
    return _finite(theta.new_tensor(slopes), task)


def rate_gradient(theta: Tensor, task: Task) -> Tensor:
    """dL_outer(φ_T)/dα, a scalar: how the outer loss changes with the inner rate, by the same backward sweep.

    Baydin, Cornish, Martínez Rubio, Schmidt, Wood, *Online Learning Rate Adaptation with Hypergradient Descent*, 2018,
    https://arxiv.org/abs/1703.04782 (for one step); Li et al., *Meta-SGD*, 2017, https://arxiv.org/abs/1707.09835.
    """
    *before, last = path(theta, task)
    p = gradient(task.outer_loss, last)
    total = p.new_zeros(())
    for phi in reversed(before):
        total = total - p @ gradient(task.inner_loss, phi)
        p = p - task.rate * hessian_vector(task.inner_loss, phi, p)
    return _finite(total, task)


def _finite(found: Tensor, task: Task) -> Tensor:
    if not torch.isfinite(found).all():
        raise CourseError(
            f"the gradient is not finite after {task.steps} inner steps with rate {task.rate:g}; use a smaller rate or "
            "fewer steps"
        )
    return found


# ------------------------------------------------------------------ three rules for a difference


def forward_difference(f: Loss, x: Tensor, v: Tensor, h: float) -> float:
    """The derivative of f at x along v, from two values. The rule's own error shrinks with h, a number above 0."""
    _check_step(x, v, h)
    return float(f(x + h * v) - f(x)) / h


def central_difference(f: Loss, x: Tensor, v: Tensor, h: float) -> float:
    """The same from two values on both sides. The rule's own error shrinks with h²."""
    _check_step(x, v, h)
    return float(f(x + h * v) - f(x - h * v)) / (2 * h)


def richardson(f: Loss, x: Tensor, v: Tensor, h: float) -> float:
    """Two central differences whose h² errors cancel; the rule's own error shrinks with h⁴.

    Richardson, *The approximate arithmetical solution by finite differences of physical
    problems*, 1911,
    https://doi.org/10.1098/rsta.1911.0009.
    """
    return (4 * central_difference(f, x, v, h / 2) - central_difference(f, x, v, h)) / 3


def _check_step(x: Tensor, v: Tensor, h: float) -> None:
    check_number("h", h, above=0)
    if x.shape != v.shape:  # PyTorch would broadcast: the derivative along another direction
        raise CourseError(f"x and v have the shapes {tuple(x.shape)} and {tuple(v.shape)}; give a direction like x")


# ------------------------------------------------------------------ a small real network as a function of one vector


def small_network(in_channels: int, way: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """One convolution and a linear layer, float64, for images [images, in_channels, 14, 14] (see `image_task`).

    Tanh is smooth, so that differences converge as theory says; pass nn.ReLU to see that they need not.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 5, stride=3),
        activation(),
        nn.Flatten(),
        nn.Linear(4 * 4 * 4, way),
    ).double()


def as_function(network: nn.Module) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """(forward, theta): the network as a function forward(theta, x) of one vector theta [n] of all its weights."""
    weights = {name: value.detach() for name, value in inner.parameters(network).items()}
    sizes = [value.numel() for value in weights.values()]

    def forward(theta: Tensor, x: Tensor) -> Tensor:
        parts = theta.split(sizes)
        params = {name: part.view_as(value) for part, (name, value) in zip(parts, weights.items(), strict=True)}
        return inner.call(network, params, x)

    return forward, torch.cat([value.flatten() for value in weights.values()])


def find_jump(f: Loss, x: Tensor, v: Tensor, reach: float, points: int = 200) -> float:
    """The t in [0, reach] at which f(x + t v) jumps most: the largest difference between neighbours, then bisection."""
    check_number("reach", reach, above=0)
    check_number("points", points, least=2)
    values = [float(f(x + t * v)) for t in torch.linspace(0, reach, points).tolist()]
    largest = max(range(points - 1), key=lambda k: abs(values[k + 1] - values[k]))
    low, high = (reach * k / (points - 1) for k in (largest, largest + 1))
    at_low, at_high = float(f(x + low * v)), float(f(x + high * v))
    for _ in range(40):
        middle = (low + high) / 2
        at_middle = float(f(x + middle * v))
        if abs(at_middle - at_low) > abs(at_high - at_middle):
            high, at_high = middle, at_middle
        else:
            low, at_low = middle, at_middle
    return (low + high) / 2


def image_task(
    forward: Callable[[Tensor, Tensor], Tensor], episode: Episode, index: int = 0, *, steps: int, rate: float
) -> Task:
    """Task number `index` of an episode: cross-entropy on its support, and on its queries.

    Images [images, C, H, W] are shrunk to 14×14 and taken in float64.
    """
    support_x, query_x = (F.adaptive_avg_pool2d(x[index].double(), 14) for x in (episode.support_x, episode.query_x))
    support_y, query_y = episode.support_y[index], episode.query_y[index]
    return Task(
        inner_loss=lambda phi: F.cross_entropy(forward(phi, support_x), support_y),
        outer_loss=lambda phi: F.cross_entropy(forward(phi, query_x), query_y),
        steps=steps,
        rate=rate,
    )
