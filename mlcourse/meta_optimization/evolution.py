"""Outer gradients of long unrolls, with and without backpropagation: evolution strategies (ES), and persistent ES.

A system starts in s_0 and takes T steps, all of them governed by λ. Every state has a loss, and their sum is the outer
loss:

    s_t = step(s_{t−1}, λ, t),    L_outer(λ) = ℓ_1 + ℓ_2 + … + ℓ_T,    ℓ_t = loss(s_t, λ, t)

Training by a learned optimizer is such a system: s_t holds the weights, λ the optimizer, ℓ_t the loss after step t.
All estimators are called as

    value, gradient = estimator(problem, lam, generator=…, **options)

value: L_outer, a detached scalar (of ES: its mean over the particles). gradient: shaped as lam.

| estimator    | sees                                   | right?                                 | memory in T  |
|--------------|----------------------------------------|----------------------------------------|--------------|
| exact        | all T steps, by backpropagation        | the gradient of L_outer                | grows        |
| truncated    | K steps at a time, by backpropagation  | biased: misses what early steps cause  | grows in K   |
| es           | all T steps, by perturbation           | the gradient of a smoothed L_outer     | flat         |
| truncated_es | K steps at a time, by perturbation     | biased as truncated is                 | flat         |
| pes          | K steps at a time, by perturbation     | the gradient of a smoothed L_outer     | flat         |

ES asks how L_outer changes when λ moves by ε ~ N(0, σ²I). ε and −ε are tried together (an antithetic pair), and a mean
is taken over N/2 pairs:

    g = mean of  ε (L_outer(λ + ε) − L_outer(λ − ε)) / (2σ²),    E[g] = ∇_λ E[L_outer(λ + ε)]

PES gives every particle a state of its own, which it keeps from one window of K steps to the next, and draws a new ε
for each window. It weights the loss of a window with ξ, the sum of *all* perturbations so far: every one of them has
led to that state. Its mean is ∇_λ E[L_outer] where each window has its own ε; as σ → 0 it is the gradient of L_outer.

The estimators above go through one whole horizon with λ held fixed. Training moves λ after every window; for it there
are `truncated_window`, `es_window` and `pes_window`, which take and return where the trajectories stand (`Particles`),
and `Estimator`, which puts them behind `.backward()`.

Salimans, Ho, Chen, Sidor, Sutskever, *Evolution Strategies as a Scalable Alternative to Reinforcement Learning*, 2017,
https://arxiv.org/abs/1703.03864 (antithetic ES); Nesterov, Spokoiny, *Random Gradient-Free Minimization of Convex
Functions*, 2017, https://doi.org/10.1007/s10208-015-9296-2 (Gaussian smoothing); Vicol, Metz, Sohl-Dickstein, *Unbiased
Gradient Estimation in Unrolled Computation Graphs with Persistent Evolution Strategies*, 2021,
https://arxiv.org/abs/2112.13835 (PES).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from mlcourse import inner
from mlcourse.episodes import check_positive
from mlcourse.errors import CourseError, check_number
from mlcourse.meta_gradients.surrogate import surrogate
from mlcourse.networks.parts import key_of

Tree = Any  # a tensor, or a dictionary of trees by name


@dataclass(frozen=True)
class Unroll:
    """A system of T steps, by pure functions of ONE trajectory. States, draws and λ are tensors or (nested) dicts.

    init(λ, draw) → s_0. step(s_{t−1}, λ, t) → s_t and loss(s_t, λ, t) → ℓ_t, a scalar; t is an int, 1, …, T.
    horizon: T. draw(n, generator): all that is random in n trajectories, leading dimension n; one of them goes into
    `init`, on the device of λ, and `init` puts into the state what later steps need. Without `draw`, init gets a 0 that
    it may ignore.

    The functions run under `torch.func.vmap`: no random numbers in them, no changes in place, no branches on values.
    A step that needs a gradient of its own (of an inner loss) takes it by `torch.func.grad`.
    """

    init: Callable[[Tree, Tree], Tree]
    step: Callable[[Tree, Tree, int], Tree]
    loss: Callable[[Tree, Tree, int], Tensor]
    horizon: int
    draw: Callable[[int, Generator | None], Tree] = lambda n, generator: torch.zeros(n)

    def __post_init__(self) -> None:
        check_positive("horizon", self.horizon)


@dataclass(frozen=True)
class Particles:
    """Where all trajectories stand after a window: the next window needs nothing else.

    t: steps done, int64 []. state: s_t of each, leading dimension = trajectories. shift: PES's ξ of each pair's first
    half (the second half's is −ξ), shaped as λ with a leading dimension of pairs; empty for the other estimators.
    """

    t: Tensor
    state: Tree
    shift: Tree = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all tensors in one flat dictionary, as `files.save_tensors` and a checkpoint want them."""
        return {"t": self.t.clone()} | _flat_names(self.state, "state") | _flat_names(self.shift, "shift")

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> "Particles":
        """Back from `tensors`. Raises CourseError when they hold no particles."""
        if "t" not in tensors:
            raise CourseError(f"these tensors hold no particles: no 't' among {', '.join(tensors) or 'none'}")
        tree: dict[str, Tree] = {}
        for name, value in tensors.items():
            *path, last = name.split("/")
            branch = tree
            for part in path:
                branch = branch.setdefault(part, {})
            if last:  # an empty dictionary is kept as a name that ends in "/"
                branch[last] = value
        return cls(tree["t"], tree.get("state", {}), tree.get("shift", {}))


# ------------------------------------------------------------------ the pieces


def perturbations(lam: Tree, pairs: int, sigma: float, generator: Generator) -> Tree:
    """ε ~ N(0, σ²I) for each pair: shaped as λ, with a leading dimension of pairs."""
    check_positive("pairs", pairs)
    check_number("sigma", sigma, above=0)

    def noise(value: Tensor) -> Tensor:  # drawn on the generator's device, so that a seed means the same everywhere
        drawn = torch.randn(pairs, *value.shape, generator=generator, dtype=value.dtype, device=generator.device)
        return sigma * drawn.to(value.device)

    return map_tree(noise, lam)


def both_sides(lam: Tree, noise: Tree) -> Tree:
    """λ + ε for all pairs, then λ − ε for all pairs: leading dimension N = 2 · pairs."""
    return map_tree(lambda value, eps: torch.cat([value + eps, value - eps]), lam, noise)


def start(problem: Unroll, lam: Tree, draws: Tree, *, each: bool) -> Tree:
    """s_0 of all trajectories at once. each: λ has a leading dimension too, one λ a trajectory."""
    return torch.func.vmap(problem.init, in_dims=(0 if each else None, 0))(lam, draws)


def advance(problem: Unroll, lam: Tree, state: Tree, t: int, steps: int, *, each: bool) -> tuple[Tensor, Tree]:
    """`steps` more steps of all trajectories at once, of which t are done: (the sum of their losses [n], states)."""

    def one(lam: Tree, state: Tree) -> tuple[Tensor, Tree]:
        total = leaves(lam)[0].new_zeros(())
        for s in range(t + 1, t + steps + 1):
            state = problem.step(state, lam, s)
            total = total + problem.loss(state, lam, s)
        return total, state

    losses, state = torch.func.vmap(one, in_dims=(0 if each else None, 0))(lam, state)
    return _finite(losses, t + steps), state


def slope(shift: Tree, losses: Tensor, sigma: float) -> Tree:
    """The mean over pairs of ξ (L₊ − L₋) / (2σ²).

    shift: ξ [pairs, …]; losses [N], all L₊ first, then all L₋.
    """
    plus, minus = losses.chunk(2)
    rise = (plus - minus) / (2 * sigma**2)
    return map_tree(lambda xi: torch.tensordot(rise.to(xi.dtype), xi, 1) / len(rise), shift)


# ------------------------------------------------------------------ one window of K steps


@inner.with_gradients
def truncated_window(
    problem: Unroll,
    lam: Tree,
    at: Particles | None = None,
    *,
    truncation: int,
    trajectories: int = 1,
    generator: Generator | None = None,
    draws: Tree | None = None,
) -> tuple[Tensor, Tree, Particles]:
    """Backpropagation through the next K steps: (their loss, its gradient, where the trajectories stand then).

    at: where they stand; None, or at the end of the horizon: new trajectories start. The state that comes in is a
    constant: how it came to be is forgotten, and this is the bias. truncation: K. draws: what is random in the new
    trajectories; None: `problem.draw(trajectories, generator)`.
    """
    t, fresh = _time(problem, at, truncation, trajectories)
    lam = map_tree(lambda value: value.detach().clone().requires_grad_(), lam)
    if fresh:
        draws = draws_of(problem, lam, trajectories, generator, draws)
    state = start(problem, lam, draws, each=False) if fresh else at.state
    losses, state = advance(problem, lam, state, t, truncation, each=False)
    if truncation == problem.horizon and not losses.requires_grad:  # a window alone may truly hang on no λ
        raise CourseError(
            "the loss does not hang on λ: something in `init`, `step` or `loss` cut the graph (detach, item, numpy)"
        )
    gradient = _finite_slope(_gradient(losses.mean(), lam), t + truncation)
    return losses.mean().detach(), gradient, stand(t + truncation, state)


@torch.no_grad()
def es_window(
    problem: Unroll,
    lam: Tree,
    at: Particles | None = None,
    *,
    sigma: float,
    particles: int,
    truncation: int,
    generator: Generator,
    draws: Tree | None = None,
) -> tuple[Tensor, Tree, Particles]:
    """ES over the next K steps. Both particles of a pair start where the pair's trajectory stands, which went with λ.

    particles: N, even. The state that comes in does not depend on ε: this is the bias of truncation, as above. After
    the window, the trajectories go the same K steps with λ itself. Other arguments: as in `truncated_window`.
    """
    pairs = _pairs(sigma, particles, generator)
    t, fresh = _time(problem, at, truncation, pairs)
    if fresh:
        draws = draws_of(problem, lam, pairs, generator, draws)
    noise = perturbations(lam, pairs, sigma, generator)
    lams = both_sides(lam, noise)
    state = start(problem, lam, draws, each=False) if fresh else at.state
    perturbed = start(problem, lams, repeated(draws, 2), each=True) if fresh else repeated(state, 2)
    losses, _ = advance(problem, lams, perturbed, t, truncation, each=True)
    if t + truncation < problem.horizon:  # after the last window nobody asks where they stand
        _, state = advance(problem, lam, state, t, truncation, each=False)
    gradient = _finite_slope(slope(noise, losses, sigma), t + truncation)
    return losses.mean(), gradient, stand(t + truncation, state)


@torch.no_grad()
def pes_window(
    problem: Unroll,
    lam: Tree,
    at: Particles | None = None,
    *,
    sigma: float,
    particles: int,
    truncation: int,
    generator: Generator,
    draws: Tree | None = None,
) -> tuple[Tensor, Tree, Particles]:
    """Persistent ES over the next K steps: each particle goes on from its own state.

    It remembers ξ = Σ ε. With K = T it is `es_window`. Where λ moves between windows, the
    gradient is that of a λ which lags behind: let it move little in T/K windows. Arguments:
    as in `es_window`.
    """
    pairs = _pairs(sigma, particles, generator)
    t, fresh = _time(problem, at, truncation, particles)
    if fresh:
        draws = draws_of(problem, lam, pairs, generator, draws)
    noise = perturbations(lam, pairs, sigma, generator)
    lams = both_sides(lam, noise)
    state = start(problem, lams, repeated(draws, 2), each=True) if fresh else at.state
    # ξ ← ξ + ε: this window's ε counts in its own loss
    shift = noise if fresh else map_tree(torch.add, at.shift, noise)
    losses, state = advance(problem, lams, state, t, truncation, each=True)
    gradient = _finite_slope(slope(shift, losses, sigma), t + truncation)
    return losses.mean(), gradient, stand(t + truncation, state, shift)


# ------------------------------------------------------------------ one whole horizon


def exact(
    problem: Unroll, lam: Tree, *, trajectories: int = 1, generator: Generator | None = None
) -> tuple[Tensor, Tree]:
    """Backpropagation through all T steps; a mean over `trajectories`, which matters where something is random."""
    return truncated(problem, lam, truncation=problem.horizon, trajectories=trajectories, generator=generator)


def truncated(problem: Unroll, lam: Tree, *, truncation: int, **options: Any) -> tuple[Tensor, Tree]:
    """Truncated backpropagation through time: each K steps by themselves, summed. options: trajectories, generator."""
    return horizon_of(truncated_window, problem, lam, truncation=truncation, **options)


def es(problem: Unroll, lam: Tree, *, sigma: float, particles: int, generator: Generator) -> tuple[Tensor, Tree]:
    """Antithetic evolution strategies over all T steps. sigma: σ; particles: N, even, half of them mirror images."""
    return truncated_es(problem, lam, truncation=problem.horizon, sigma=sigma, particles=particles, generator=generator)


def truncated_es(problem: Unroll, lam: Tree, *, truncation: int, **options: Any) -> tuple[Tensor, Tree]:
    """ES on each K steps by themselves, summed. options: sigma, particles, generator."""
    return horizon_of(es_window, problem, lam, truncation=truncation, **options)


def pes(problem: Unroll, lam: Tree, *, truncation: int, **options: Any) -> tuple[Tensor, Tree]:
    """Persistent ES, K steps at a time, summed. options: sigma, particles, generator."""
    return horizon_of(pes_window, problem, lam, truncation=truncation, **options)


def measure(
    estimator: Callable[..., tuple[Tensor, Tree]],
    problem: Unroll,
    lam: Tree,
    *,
    repeats: int,
    generator: Generator,
    **options: Any,
) -> tuple[Tree, Tree]:
    """Bias and variance: the mean gradient of `repeats` independent calls, and its standard error, shaped as λ."""
    if repeats < 2:
        raise CourseError(f"repeats is {repeats}; a spread needs 2 or more")
    gradients = [estimator(problem, lam, generator=generator, **options)[1] for _ in range(repeats)]
    stacked = map_tree(lambda *values: torch.stack(values), *gradients)
    return map_tree(lambda g: g.mean(0), stacked), map_tree(lambda g: g.std(0) / math.sqrt(repeats), stacked)


def horizon_of(window: Callable[..., Any], problem: Unroll, lam: Tree, **options: Any) -> tuple[Tensor, Tree]:
    value, gradient, at = window(problem, lam, **options)
    while int(at.t) < problem.horizon:
        more, also, at = window(problem, lam, at, **options)
        value, gradient = value + more, map_tree(torch.add, gradient, also)
    return value, gradient


# ------------------------------------------------------------------ behind the training loop

WINDOWS = {"truncated": truncated_window, "es": es_window, "pes": pes_window}


class Estimator(nn.Module):
    """Outer parameters λ whose gradient comes from one of the windows, as `training.train` wants them.

    problem: an Unroll. outer: λ, a module (its parameters by name) or a tensor or a dictionary of tensors. estimator:
    "truncated", "es" or "pes". truncation: K; None: T, the whole horizon. particles: N (of "truncated": trajectories).
    sigma: σ. clip: shrink a gradient whose norm is larger than this.

    Every `outer_loss` is one window; the trajectories go on from where the last one left them, and start anew after T
    steps. Where they stand is kept in buffers: a checkpoint holds it, and training resumes to the same numbers.
    """

    trains_on = "tasks"
    accumulates = False  # each outer loss moves the trajectories on

    def __init__(
        self,
        problem: Unroll,
        outer: nn.Module | Tree,
        *,
        estimator: str = "pes",
        truncation: int | None = None,
        particles: int = 16,
        sigma: float = 0.01,
        clip: float | None = None,
    ):
        super().__init__()
        if estimator not in WINDOWS:
            raise CourseError(f"estimator {estimator!r} is unknown; use one of {', '.join(WINDOWS)}")
        if clip is not None:
            check_number("clip", clip, above=0)
        truncation = problem.horizon if truncation is None else truncation
        self.problem = problem
        self.window = partial(WINDOWS[estimator], problem, truncation=truncation)
        if estimator == "truncated":
            self.window.keywords["trajectories"] = particles
        else:
            self.window.keywords.update(particles=particles, sigma=sigma)
        self.clip = clip
        self.config = {
            "method": estimator, "horizon": problem.horizon, "truncation": truncation, "particles": particles,
            "sigma": sigma, "clip": clip,
        }  # fmt: skip
        self.outer = outer if isinstance(outer, nn.Module) else _Tensors(outer)
        _, _, at = self.window(self.lam(), generator=torch.Generator())  # only to learn the shapes of the buffers
        end = Particles(torch.tensor(problem.horizon), at.state, at.shift)  # so that the first window starts anew
        self._names = {name: "at/" + key_of(name) for name in end.tensors()}
        for name, value in end.tensors().items():
            self.register_buffer(self._names[name], value)

    def lam(self) -> Tree:
        """λ as the problem takes it, detached."""
        if isinstance(self.outer, _Tensors):
            return self.outer.tree()
        return {name: value.detach() for name, value in self.outer.named_parameters() if value.requires_grad}

    def at(self) -> Particles:
        """Where the trajectories stand."""
        return Particles.of({name: self.get_buffer(buffer) for name, buffer in self._names.items()})

    def recorded(self) -> dict[str, Any]:
        """What a checkpoint says of it, so that another estimator does not go on from there."""
        return self.config

    def outer_loss(
        self, batch: Tree | None = None, *, step: int = 0, generator: Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of the next window; `.backward()` leaves the estimate in `.grad`. metrics: t, the gradient's norm.

        batch: draws [trajectories, …] (ES, PES: one a pair), used where new trajectories start; None: problem.draw.
        Raises CourseError for losses or a gradient that are not finite, and for a batch of another size.
        """
        inner.refuse_inference_mode()  # before the trajectories move on
        value, gradient, at = self.window(self.lam(), self.at(), generator=generator, draws=batch)
        for name, tensor in at.tensors().items():
            setattr(self, self._names[name], tensor.to(self.get_buffer(self._names[name]).device))
        gradients = leaves(gradient)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        if not torch.isfinite(norm):
            raise CourseError(f"the gradient is not finite at t = {int(at.t)}; use a shorter truncation, or ES or PES")
        if self.clip is not None and norm > self.clip:
            gradients = [g * (self.clip / norm) for g in gradients]
        wanted = [p for p in self.outer.parameters() if p.requires_grad]
        return surrogate(value, wanted, gradients), {"t": int(at.t), "norm": norm.item()}


class _Tensors(nn.Module):
    """A tensor, or a dictionary of tensors, as parameters."""

    def __init__(self, tensors: Tensor | dict[str, Tensor]):
        super().__init__()
        self.names = list(tensors) if isinstance(tensors, dict) else None
        self.values = nn.ParameterList([nn.Parameter(value.detach().clone()) for value in leaves(tensors)])

    def tree(self) -> Tree:
        values = [value.detach() for value in self.values]
        return values[0] if self.names is None else dict(zip(self.names, values, strict=True))


# ------------------------------------------------------------------ trees of tensors, and what can be wrong


def map_tree(f: Callable[..., Tensor], *trees: Tree) -> Tree:
    """f of the tensors that stand at the same place in each of the trees, as a tree of the same form."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: map_tree(f, *(tree[name] for tree in trees)) for name in first}
    if not isinstance(first, Tensor):
        raise CourseError(f"a state, a draw or λ holds {first!r}, no tensor; give tensors, or dictionaries of tensors")
    return f(*trees)


def leaves(tree: Tree) -> list[Tensor]:
    """The tensors of a tree, in its order."""
    found: list[Tensor] = []
    map_tree(lambda value: found.append(value), tree)
    return found


def _flat_names(tree: Tree, prefix: str) -> dict[str, Tensor]:
    if not isinstance(tree, dict):
        return {prefix: tree.detach().clone()}
    flat: dict[str, Tensor] = {} if tree else {prefix + "/": torch.zeros(0)}
    for name, value in tree.items():
        if "/" in name:
            raise CourseError(f"the state's name {name!r} holds a '/', which separates names in files; rename it")
        flat |= _flat_names(value, f"{prefix}/{name}")
    return flat


def repeated(tree: Tree, times: int) -> Tree:
    """Each tensor [n, …] of a tree `times` times, one copy after another: [times · n, …]."""
    return map_tree(lambda value: value.repeat(times, *[1] * (value.ndim - 1)), tree)


def stand(t: int, state: Tree, shift: Tree | None = None) -> Particles:
    """Where trajectories stand after t steps, cut off from their graph and laid out in memory as a file brings them
    back: some processors round a product of the same numbers in another layout differently."""
    return Particles(torch.tensor(t), map_tree(_laid_out, state), {} if shift is None else map_tree(_laid_out, shift))


def _laid_out(value: Tensor) -> Tensor:
    return value.detach().clone(memory_format=torch.contiguous_format)


def _gradient(value: Tensor, lam: Tree) -> Tree:
    if not value.requires_grad:
        return map_tree(torch.zeros_like, map_tree(torch.Tensor.detach, lam))
    grads = iter(torch.autograd.grad(value, leaves(lam), allow_unused=True, materialize_grads=True))
    return map_tree(lambda _: next(grads), lam)


def draws_of(problem: Unroll, lam: Tree, n: int, generator: Generator | None, draws: Tree | None) -> Tree:
    """What is random in n new trajectories, on the device of λ."""
    draws = problem.draw(n, generator) if draws is None else draws
    if any(len(value) != n for value in leaves(draws)):
        raise CourseError(f"the draws are of {len(leaves(draws)[0])} trajectories; {n} start here (ES: one a pair)")
    device = leaves(lam)[0].device
    return map_tree(lambda value: value.to(device), draws)


def _time(problem: Unroll, at: Particles | None, truncation: int, n: int) -> tuple[int, bool]:
    """(steps done, whether new trajectories start)."""
    check_positive("truncation", truncation)
    check_positive("trajectories", n)
    if problem.horizon % truncation:
        raise CourseError(
            f"truncation {truncation} does not divide the horizon {problem.horizon}; all windows must be equally long"
        )
    if at is None or int(at.t) == problem.horizon:
        return 0, True
    if int(at.t) + truncation > problem.horizon:
        raise CourseError(f"after {int(at.t)} of {problem.horizon} steps there is no window of {truncation} left")
    if len(leaves(at.state)[0]) != n:
        raise CourseError(f"the particles are {len(leaves(at.state)[0])} trajectories, not {n}; go on with as many")
    return int(at.t), False


def _pairs(sigma: float, particles: int, generator: Generator | None) -> int:
    check_number("sigma", sigma, above=0)
    check_positive("particles", particles)
    if particles % 2:
        raise CourseError(f"particles is {particles}; they come in pairs, λ + ε and λ − ε: give an even number")
    if generator is None:
        raise CourseError("perturbations need a generator; pass torch.Generator().manual_seed(…)")
    return particles // 2


def _finite_slope(gradient: Tree, t: int) -> Tree:
    if not all(torch.isfinite(value).all() for value in leaves(gradient)):
        raise CourseError(f"the gradient is not finite at t = {t}; use a shorter truncation, or ES or PES")
    return gradient


def _finite(losses: Tensor, t: int) -> Tensor:
    bad = int((~torch.isfinite(losses.detach())).sum())
    if bad:
        raise CourseError(
            f"the loss of {bad} of {len(losses)} trajectories is not finite by step {t}; use a smaller sigma or a "
            "shorter horizon, or let the loss end at a ceiling"
        )
    return losses
