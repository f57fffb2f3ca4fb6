"""Many descents on a learning rate at once: each run has a training, a λ and an optimizer of its own, side by side.

    used, path = descend(problem, lam, draws, "pes", budget=30_000, truncation=10, pairs=4, generator=generator)

λ [runs] is one number a run. The estimates are those of `evolution` (a test says so), for one λ a run instead of one λ
for all: a comparison needs many independent runs, and one after another they would take most of their time in calls.
Cost is counted in unroll steps: one step of one trajectory is 1, and the way back through it is 2 more.

Vicol, Metz, Sohl-Dickstein, *Unbiased Gradient Estimation in Unrolled Computation Graphs with Persistent Evolution
Strategies*, 2021, https://arxiv.org/abs/2112.13835.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from mlcourse.errors import CourseError
from mlcourse.meta_optimization.evolution import Tree, Unroll, advance, map_tree, repeated, start

WAYS = ("exact", "truncated", "ES", "PES")


@dataclass
class _Stand:
    """Where all trajectories stand: t steps done, their states, and PES's ξ [pairs, runs]."""

    t: int
    state: Tree
    shift: Tensor | float


def price(way: str, horizon: int, truncation: int, pairs: int) -> int:
    """Unroll steps that one update costs. truncation: K; pairs: N/2."""
    if way not in WAYS:
        raise CourseError(f"way {way!r} is unknown; use one of {', '.join(WAYS)}")
    length = horizon if way in ("exact", "ES") else truncation
    return length * (3 if way in ("exact", "truncated") else 2 * pairs)


def descend(
    problem: Unroll,
    lam: Tensor,
    draws: Tree,
    way: str,
    *,
    budget: int,
    truncation: int,
    pairs: int = 4,
    sigma: float = 0.1,
    rate: float = 0.1,
    clip: float = 1.0,
    generator: Generator | None = None,
) -> tuple[list[int], Tensor]:
    """Adam on λ [runs] until the budget of each run is spent. Returns unroll steps used [updates + 1], and λ […, runs].

    draws: what each run's trajectories start from, leading dimension runs. way: one of WAYS. budget: unroll steps a
    run. rate: Adam's. clip: no component of a gradient is larger than this, so that no single one stops a run for good.
    generator: of the perturbations; the backpropagating ways need none. Raises CourseError for values out of range.
    """
    cost = price(way, problem.horizon, truncation, pairs)
    if budget < cost:
        raise CourseError(f"budget is {budget}, and one update of {way} costs {cost} unroll steps; give as many")
    length = _length(problem, way, truncation)
    lam, used, at = lam.detach().clone(), [0], None
    adam, path = torch.optim.Adam([lam], lr=rate), [lam.clone()]
    for _ in range(budget // cost):
        if way in ("exact", "truncated"):
            gradient, at = backwards(problem, lam, draws, at, length)
        else:
            noise = sigma * torch.randn(pairs, len(lam), generator=generator, dtype=lam.dtype)
            gradient, at = perturbed(problem, lam, draws, at, length, noise, sigma)
        lam.grad = gradient.clamp(-clip, clip)
        adam.step()
        used.append(used[-1] + cost)
        path.append(lam.clone())
    return used, torch.stack(path)


def estimates(
    problem: Unroll,
    lam: Tensor,
    way: str,
    count: int,
    *,
    truncation: int,
    pairs: int = 4,
    sigma: float = 0.1,
    generator: Generator,
) -> Tensor:
    """`count` independent estimates of the gradient over one whole horizon at the same λ [], side by side: [count]."""
    lams, draws, at = lam.expand(count), problem.draw(count, generator), None
    length = _length(problem, way, truncation)
    total = torch.zeros(count, dtype=lam.dtype)
    for _ in range(problem.horizon // length):
        if way in ("exact", "truncated"):
            gradient, at = backwards(problem, lams, draws, at, length)
        else:
            noise = sigma * torch.randn(pairs, count, generator=generator, dtype=lam.dtype)
            gradient, at = perturbed(problem, lams, draws, at, length, noise, sigma)
        total = total + gradient
    return total


def _length(problem: Unroll, way: str, truncation: int) -> int:
    """Steps of one window."""
    if problem.horizon % truncation:
        raise CourseError(f"truncation {truncation} does not divide the horizon {problem.horizon}; take one that does")
    return problem.horizon if way in ("exact", "ES") else truncation


def backwards(
    problem: Unroll, lam: Tensor, draws: Tree, at: _Stand | None, length: int
) -> tuple[Tensor, _Stand | None]:
    """Each run's gradient [runs] through the next `length` steps; the state that comes in is a constant."""
    lam = lam.detach().clone().requires_grad_()
    at = at or _Stand(0, start(problem, lam, draws, each=True), 0.0)
    losses, state = advance(problem, lam, at.state, at.t, length, each=True)
    (gradient,) = torch.autograd.grad(losses.sum(), lam)  # no run's loss depends on another run's λ
    return gradient, _after(problem, at, length, map_tree(Tensor.detach, state), 0.0)


@torch.no_grad()
def perturbed(
    problem: Unroll, lam: Tensor, draws: Tree, at: _Stand | None, length: int, noise: Tensor, sigma: float
) -> tuple[Tensor, _Stand | None]:
    """Each run's PES gradient [runs] of the next `length` steps, for noise [pairs, runs]; of all T steps it is ES."""
    lams = torch.cat([lam + noise, lam - noise]).flatten()  # pair after pair, and in each all runs
    at = at or _Stand(0, start(problem, lams, repeated(draws, 2 * len(noise)), each=True), 0.0)
    losses, state = advance(problem, lams, at.state, at.t, length, each=True)
    plus, minus = losses.view(2, *noise.shape)
    shift = at.shift + noise
    return (shift * (plus - minus)).mean(0) / (2 * sigma**2), _after(problem, at, length, state, shift)


def _after(problem: Unroll, at: _Stand, length: int, state: Tree, shift: Tensor | float) -> _Stand | None:
    """Where one stands after a window; None at the end of the horizon: new trajectories start."""
    return None if at.t + length == problem.horizon else _Stand(at.t + length, state, shift)
