"""Put a gradient that one has computed oneself behind `.backward()`, so that everything around it stays PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mlcourse import inner
from mlcourse.errors import CourseError


@inner.with_gradients
def surrogate(value: Tensor, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """A scalar with the number `value`; its `.backward()` leaves exactly `gradients` in the params' `.grad`.

    value: a scalar, from which no other gradient flows. gradients: one per parameter, of its shape. As with any loss,
    `.backward()` adds to what `.grad` holds, and a factor before the scalar multiplies the gradients. It also works
    where the surrogate was made under `torch.no_grad()`. Raises CourseError for gradients that do not fit the params,
    and inside `torch.inference_mode()`.
    """
    if [p.shape for p in params] != [g.shape for g in gradients]:
        found = ", ".join(str(tuple(g.shape)) for g in gradients)
        wanted = ", ".join(str(tuple(p.shape)) for p in params)
        raise CourseError(f"the gradients have the shapes {found}; the parameters have {wanted}: give each its own")
    return _Surrogate.apply(value.detach(), len(params), *params, *(g.detach() for g in gradients))


def with_zeros(loss: Tensor, params: Sequence[Tensor]) -> Tensor:
    """The same loss; what of `params` it does not use gets a gradient of zeros from `.backward()`, never None.

    Where gradients are off (`torch.no_grad()`), it is the loss as it came, without a graph. Raises CourseError for such
    a loss where they are on: zeros alone would look like a gradient.
    """
    if not torch.is_grad_enabled():
        return loss
    if not loss.requires_grad:
        raise CourseError("the loss has no graph, so all gradients would be 0; compute it under torch.enable_grad()")
    return loss + surrogate(loss.new_zeros(()), params, [torch.zeros_like(p) for p in params])


class _Surrogate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, count, *params_and_gradients):
        ctx.save_for_backward(*params_and_gradients[count:])
        return value.clone()

    @staticmethod
    def backward(ctx, factor):
        gradients = ctx.saved_tensors
        return None, None, *(factor * g for g in gradients), *(None for _ in gradients)
