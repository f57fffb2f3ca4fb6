"""The inner process: training as a pure function. Parameters go in, parameters come out, nothing else changes.

θ are the outer parameters, φ the inner ones (fast weights), D_s the support set, α the inner rate, T the inner steps:

    φ_0 = θ,    φ_{t+1} = φ_t − α ∇_φ L_inner(φ_t; D_s),    θ_inner* = φ_T
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.errors import CourseError

Parameters = dict[str, Tensor]


def parameters(module: nn.Module) -> Parameters:
    """The trainable parameters of a module by name: the θ that an inner process starts from (shared, not copied)."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def gradient(loss: Tensor, params: Parameters, *, create_graph: bool = False) -> Parameters:
    """∇_φ of a scalar loss, by name. A parameter that the loss does not use gets zeros, never None.

    create_graph: keep the graph of the gradient itself, so that one can differentiate through it once more.
    """
    grads = torch.autograd.grad(
        loss, list(params.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return dict(zip(params, grads, strict=True))


def sgd_step(params: Parameters, grads: Parameters, rate: float | Tensor | Parameters) -> Parameters:
    """One step of gradient descent, φ − α·g, into a new dictionary. The parameters that came in stay as they are.

    rate: α, one number; or a tensor or one tensor a parameter, learned rates as in Meta-SGD
    (Li et al., *Meta-SGD*, 2017, https://arxiv.org/abs/1707.09835).
    """
    rates = rate if isinstance(rate, dict) else dict.fromkeys(params, rate)
    return {name: value - rates[name] * grads[name] for name, value in params.items()}


def adapt(
    forward: Callable[[Parameters, Tensor], Tensor],
    params: Parameters,
    support_x: Tensor,
    support_y: Tensor,
    *,
    steps: int,
    rate: float | Tensor | Parameters,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    first_order: bool = False,
    create_graph: bool = True,
) -> Parameters:
    """Adapt `params` to the support set of ONE task by `steps` steps of gradient descent; return the fast weights.

    forward(params, x): the prediction of the network for images x; support_x: [images, …]; support_y: [images].
    first_order: treat each inner gradient as a constant. The result still depends on `params`, through the identity
    path φ = θ − α·(constant); what is lost is the term through the gradient (Finn et al. 2017, section 5.2).
    create_graph=False: the same numbers, detached, for when nobody asks for a meta-gradient.
    steps=0 returns the parameters as they came. Raises CourseError for a negative number of steps.

    Finn, Abbeel, Levine, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks*, 2017,
    https://arxiv.org/abs/1703.03400.
    """
    if steps < 0:
        raise CourseError(f"steps is {steps}; an inner loop takes 0 steps or more")
    if not create_graph:
        params = {name: value.detach().requires_grad_() for name, value in params.items()}
    fast = params
    with torch.enable_grad():  # also under no_grad: the inner process needs its own gradient
        for _ in range(steps):
            inner_loss = loss(forward(fast, support_x), support_y)
            grads = gradient(inner_loss, fast, create_graph=create_graph and not first_order)
            fast = sgd_step(fast, grads, rate)
            if not create_graph:
                fast = {name: value.detach().requires_grad_() for name, value in fast.items()}
    return fast if create_graph else {name: value.detach() for name, value in fast.items()}
