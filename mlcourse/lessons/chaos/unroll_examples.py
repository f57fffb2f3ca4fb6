"""Small systems whose outer gradient one can write down: what estimators of `evolution` are measured against.

All in float64. The first three have closed forms: the gradient of L_outer, and of the smoothed L_outer, where there is
one ε ~ N(0, σ²I) for the whole horizon (what ES estimates) or one for each window of K steps (what PES estimates).
"""

import torch
from torch import Tensor

from mlcourse.errors import CourseError
from mlcourse.meta_optimization.evolution import Unroll

F64 = torch.float64


def two_steps() -> Unroll:
    """s_1 = λ, s_2 = λ s_1, ℓ_t = s_t: L_outer = λ + λ², by hand on one line. λ: [].

    With K = 1 the gradient 1 + 2λ falls to 1 + λ in truncated backpropagation and in truncated ES.
    """
    return Unroll(
        init=lambda lam, draw: torch.ones_like(lam),
        step=lambda s, lam, t: lam * s,
        loss=lambda s, lam, t: s,
        horizon=2,
    )


def influence_balancing(size: int = 23, positive: int = 10, horizon: int = 100) -> Unroll:
    """λ pushes `positive` cells of a chain up at once, and the others down; a look at the first cell shows it late.

    s_t = A s_{t−1} + λb, with 0.5 on A's diagonal and beside it, b = +1 for the first cells and −1 for the rest;
    ℓ_t = ½(s_t[0] − 1)², s_0 = 1. λ: []. In the first steps more λ means more s[0]; in the end it means less, since
    what the last cells lose arrives only after many steps: short windows get the sign wrong.

    Tallec, Ollivier, *Unbiasing Truncated Backpropagation Through Time*, 2017, https://arxiv.org/abs/1705.08209.
    """
    matrix, push = _chain(size, positive)
    return Unroll(
        init=lambda lam, draw: torch.ones(size, dtype=F64),
        step=lambda s, lam, t: matrix @ s + lam * push,
        loss=lambda s, lam, t: 0.5 * (s[0] - 1).square(),
        horizon=horizon,
    )


def influence_balancing_gradient(lam: Tensor, size: int = 23, positive: int = 10, horizon: int = 100) -> Tensor:
    """dL_outer/dλ: s_t[0] = u_t + λw_t, so Σ w_t (u_t + λw_t − 1). Smoothing changes nothing: L_outer is quadratic."""
    matrix, push = _chain(size, positive)
    u, w, total = torch.ones(size, dtype=F64), torch.zeros(size, dtype=F64), torch.zeros((), dtype=F64)
    for _ in range(horizon):
        u, w = matrix @ u, matrix @ w + push
        total = total + w[0] * (u[0] + lam * w[0] - 1)
    return total


def _chain(size: int, positive: int) -> tuple[Tensor, Tensor]:
    if not 0 <= positive <= size:
        raise CourseError(f"positive is {positive}; of {size} cells 0 to {size} can be pushed up")
    matrix = 0.5 * (torch.eye(size, dtype=F64) + torch.diag(torch.ones(size - 1, dtype=F64), 1))
    push = -torch.ones(size, dtype=F64)
    push[:positive] = 1
    return matrix, push


def spiral(horizon: int = 12) -> Unroll:
    """A point in the plane turns by ω and stretches by e^ρ at each step: λ = (ρ, ω). ℓ_t = x_t², s_0 = (1, 0).

    s_t = e^{ρt}(cos ωt, sin ωt): not linear in λ, and what an early step does grows or turns in all later ones.
    """

    def step(s: Tensor, lam: Tensor, t: int) -> Tensor:
        stretch, c, d = lam[0].exp(), lam[1].cos(), lam[1].sin()
        return stretch * torch.stack([c * s[0] - d * s[1], d * s[0] + c * s[1]])

    return Unroll(
        init=lambda lam, draw: torch.tensor([1.0, 0.0], dtype=F64),
        step=step,
        loss=lambda s, lam, t: s[0].square(),
        horizon=horizon,
    )


def spiral_gradient(lam: Tensor, horizon: int = 12, *, sigma: float = 0.0, truncation: int | None = None) -> Tensor:
    """The gradient of E[L_outer], [2], where ε is drawn anew every `truncation` steps (None: once, as ES does).

    By step t the sum of the perturbations has the variance σ²τ, τ = Σ (steps of a window so far)². With it
    E[x_t²] = ½ e^{2ρt + 2σ²τ} (1 + e^{−2σ²τ} cos 2ωt).
    """
    window = horizon if truncation is None else truncation
    lam = lam.detach().clone().requires_grad_()
    total = torch.zeros((), dtype=F64)
    for t in range(1, horizon + 1):
        whole, rest = divmod(t, window)
        spread = 2 * sigma**2 * (whole * window**2 + rest**2)
        total = total + 0.5 * (2 * lam[0] * t).exp() * (torch.tensor(spread, dtype=F64).exp() + (2 * lam[1] * t).cos())
    return torch.autograd.grad(total, lam)[0]


def ravine(horizon: int = 100) -> Unroll:
    """Gradient descent in a valley with ripples, whose rate falls from e^λ[0] to e^λ[1]: a jagged outer loss. λ: [2].

    The inner loss is ¼x² + sin²(3y)·e^{−x²} + ½(y − 4)²/(1 + |y − 4|), from (x, y) = (1, 1): to get to y = 4 one has to
    leave a row of small hollows, and large rates jump at random. ℓ_t is the inner loss, over T. After the idea of the
    2-D regression of Vicol et al. 2021; the function is the course's own.
    """

    def inner_loss(p: Tensor) -> Tensor:
        far = p[1] - 4
        return 0.25 * p[0] ** 2 + (3 * p[1]).sin() ** 2 * (-(p[0] ** 2)).exp() + 0.5 * far**2 / (1 + far.abs())

    def step(p: Tensor, lam: Tensor, t: int) -> Tensor:
        share = (t - 1) / max(1, horizon - 1)
        rate = (1 - share) * lam[0].exp() + share * lam[1].exp()
        return p - rate * torch.func.grad(inner_loss)(p)

    return Unroll(
        init=lambda lam, draw: torch.ones(2, dtype=F64),
        step=step,
        loss=lambda p, lam, t: inner_loss(p) / horizon,
        horizon=horizon,
    )
