"""How curved a loss is where one stands: can steps of a given rate arrive, and what does a lost second order cost?"""

from collections.abc import Callable

import torch
from torch import Tensor

from mlcourse import inner
from mlcourse.errors import CourseError, check_number


@inner.with_gradients
def largest_curvature(
    loss: Callable[[inner.Parameters], Tensor], params: inner.Parameters, generator: torch.Generator, rounds: int = 20
) -> float:
    """The largest |eigenvalue| of the Hessian of `loss` at `params`, by `rounds` of power iteration: |h|max.

    Each round is one product of the Hessian with a vector, by differentiating the gradient once more (Pearlmutter,
    *Fast exact multiplication by the Hessian*, 1994, https://doi.org/10.1162/neco.1994.6.1.147). Power iteration comes
    from below: the value is a lower bound. 0 where the loss is linear, or flat here in every direction.
    Raises CourseError for fewer rounds than one, and for a curvature that is not finite.
    """
    check_number("rounds", rounds, least=1)
    params = {name: value.detach().requires_grad_() for name, value in params.items()}
    slope = _flat(inner.gradient(loss(params), params, create_graph=True))
    v, size = torch.randn(slope.shape, generator=generator, dtype=slope.dtype, device=generator.device), torch.zeros(())
    v = v.to(slope.device)  # drawn where the generator lives, so that a seed means the same everywhere
    if not slope.requires_grad:  # linear: the slope is the same everywhere
        return 0.0
    for _ in range(rounds):
        if not v.any():
            break
        product = torch.autograd.grad(
            slope @ (v / v.norm()), list(params.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        v = _flat(dict(zip(params, product, strict=True)))
        size = v.norm()
    if not torch.isfinite(size):
        raise CourseError("the curvature is not finite here; look at the loss, or start elsewhere")
    return size.item()


def _flat(params: inner.Parameters) -> Tensor:
    return torch.cat([value.flatten() for value in params.values()])
