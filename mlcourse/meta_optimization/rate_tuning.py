"""Many descents on a learning rate at once: each run has a training, a λ and an optimizer of its own, side by side.

    used, path = descend(problem, lam, draws, "pes", budget=30_000, truncation=10, pairs=4, generator=generator)

λ [runs] is one number a run. The estimates are those of `evolution`, made of its pieces, for one λ a run instead of one
λ for all: a comparison needs many independent runs, and one after another they would take most of their time in calls.
Cost is counted in unroll steps: one step of one trajectory is 1, and the way back through it is 2 more.

Vicol, Metz, Sohl-Dickstein, *Unbiased Gradient Estimation in Unrolled Computation Graphs with Persistent Evolution
Strategies*, 2021, https://arxiv.org/abs/2112.13835.
"""

from functools import partial

import torch
from torch import Generator, Tensor

from mlcourse import inner
from mlcourse.episodes import check_positive
from mlcourse.errors import CourseError, check_number
from mlcourse.meta_optimization import evolution
from mlcourse.meta_optimization.evolution import Particles, Tree, Unroll

WAYS = ("exact", "truncated", "ES", "PES")


def price(way: str, horizon: int, truncation: int, pairs: int) -> int:
    """Unroll steps that one update costs. truncation: K; pairs: N/2."""
    if way not in WAYS:
        raise CourseError(f"way {way!r} is unknown; use one of {', '.join(WAYS)}")
    check_positive("truncation", truncation)
    check_positive("pairs", pairs)
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
    for name, value in (("sigma", sigma), ("rate", rate), ("clip", clip)):
        check_number(name, value, above=0)
    check_number("budget", budget)
    if budget < cost:
        raise CourseError(f"budget is {budget}, and one update of {way} costs {cost} unroll steps; give as many")
    length = _length(problem, way, truncation)
    _check_generator(way, generator)
    lam, used, at = lam.detach().clone(), [0], None
    adam, path = torch.optim.Adam([lam], lr=rate), [lam.clone()]
    for _ in range(budget // cost):
        gradient, at = _window(problem, lam, draws, way, at, length, pairs, sigma, generator)
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
    price(way, problem.horizon, truncation, pairs)  # refuses what is out of range
    check_positive("count", count)
    check_number("sigma", sigma, above=0)
    _check_generator(way, generator)
    length = _length(problem, way, truncation)
    lams, draws, at = lam.expand(count), problem.draw(count, generator), None
    total = lam.new_zeros(count)
    for _ in range(problem.horizon // length):
        gradient, at = _window(problem, lams, draws, way, at, length, pairs, sigma, generator)
        total = total + gradient
    return total


def _length(problem: Unroll, way: str, truncation: int) -> int:
    """Steps of one window."""
    if problem.horizon % truncation:
        raise CourseError(f"truncation {truncation} does not divide the horizon {problem.horizon}; take one that does")
    return problem.horizon if way in ("exact", "ES") else truncation


def _check_generator(way: str, generator: Generator | None) -> None:
    if generator is None and way in ("ES", "PES"):
        raise CourseError(f"{way} needs a generator for its perturbations; pass torch.Generator().manual_seed(…)")


def _window(problem, lam, draws, way, at, length, pairs, sigma, generator) -> tuple[Tensor, Particles | None]:
    """Each run's gradient [runs] of the next `length` steps, one of WAYS, and where the trajectories stand then."""
    if way in ("exact", "truncated"):
        gradient, at = backwards(problem, lam, draws, at, length)
    else:
        noise = evolution.perturbations(lam, pairs, sigma, generator)
        gradient, at = perturbed(problem, lam, draws, at, length, noise, sigma)
    if gradient.isnan().any():
        bad = int(gradient.isnan().sum())
        raise CourseError(f"the gradient of {bad} runs by {way} is nan; use a shorter horizon, or PES")
    return gradient, at


@inner.with_gradients
def backwards(
    problem: Unroll, lam: Tensor, draws: Tree, at: Particles | None, length: int
) -> tuple[Tensor, Particles | None]:
    """Each run's gradient [runs] through the next `length` steps; the state that comes in is a constant."""
    lam = lam.detach().clone().requires_grad_()
    t, state = (0, evolution.start(problem, lam, draws, each=True)) if at is None else (int(at.t), at.state)
    losses, state = evolution.advance(problem, lam, state, t, length, each=True)
    gradient = inner.gradient(losses.sum(), {"lam": lam})["lam"]  # no run's loss depends on another run's λ
    return gradient, _after(problem, t + length, state)


@torch.no_grad()
def perturbed(
    problem: Unroll, lam: Tensor, draws: Tree, at: Particles | None, length: int, noise: Tensor, sigma: float
) -> tuple[Tensor, Particles | None]:
    """Each run's PES gradient [runs] of the next `length` steps, for noise [pairs, runs]; of all T steps it is ES."""
    lams = evolution.both_sides(lam, noise).flatten()  # pair after pair, and in each all runs
    if at is None:
        start = evolution.start(problem, lams, evolution.repeated(draws, 2 * len(noise)), each=True)
        at = Particles(torch.tensor(0), start, torch.zeros_like(noise))
    losses, state = evolution.advance(problem, lams, at.state, int(at.t), length, each=True)
    shift = at.shift + noise
    of_each_run = torch.func.vmap(partial(evolution.slope, sigma=sigma), in_dims=1)
    gradient = of_each_run(shift, losses.view(-1, len(lam)))
    return gradient, _after(problem, int(at.t) + length, state, shift)


def _after(problem: Unroll, t: int, state: Tree, shift: Tree | None = None) -> Particles | None:
    """Where one stands after a window; None at the end of the horizon: new trajectories start."""
    if t == problem.horizon:
        return None
    return evolution.stand(t, state, shift)
