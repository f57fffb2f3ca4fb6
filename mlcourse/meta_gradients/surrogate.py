"""Put a gradient that one has computed oneself behind `.backward()`, so that everything around it stays PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor


def surrogate(value: Tensor, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """A scalar with the number `value`; its `.backward()` leaves exactly `gradients` in the params' `.grad`.

    value: a scalar, from which no other gradient flows. gradients: one a parameter, of its shape. As with any loss,
    `.backward()` adds to what `.grad` holds, and a factor before the scalar multiplies the gradients.
    """
    return _Surrogate.apply(value.detach(), len(params), *params, *(g.detach() for g in gradients))


def with_zeros(loss: Tensor, params: Sequence[Tensor]) -> Tensor:
    """The same loss; what of `params` it does not use gets a gradient of zeros from `.backward()`, never None."""
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
