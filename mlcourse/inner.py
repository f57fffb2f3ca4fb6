"""The inner process: training as a pure function. Parameters go in, parameters come out, nothing else changes.

θ are the outer parameters, φ the inner ones (fast weights), D_s the support set, α the inner rate, T the inner steps:

    φ_0 = θ,    φ_{t+1} = φ_t − α ∇_φ L_inner(φ_t; D_s),    θ_inner* = φ_T
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from mlcourse.errors import CourseError, check_whole

Parameters = dict[str, Tensor]

# In `call` a network's own tensors are taken out while it answers: another thread would find those of a task.
_LENT = threading.RLock()
# How a layer may compute its weight from others.
WEIGHT_NORM, SPECTRAL_NORM = parametrizations._WeightNorm, parametrizations._SpectralNorm
OLD = (WeightNorm, SpectralNorm)
NO_CHECKPOINT = (
    "the network uses torch.utils.checkpoint, whose backward pass would find other parameters; leave it out of the "
    "network (inner.adapt_checkpointed and MAML's checkpoint save memory, too)"
)


def parameters(module: nn.Module) -> Parameters:
    """The trainable parameters of a module by name: the θ that an inner process starts from (shared, not copied)."""
    return {name: value for name, value in all_parameters(module).items() if value.requires_grad}


def all_parameters(module: nn.Module) -> Parameters:
    """The same, with the frozen ones. While another thread has put others in their place (see `call`), this waits."""
    with _LENT:
        return dict(module.named_parameters())


def call(network: nn.Module, params: Parameters, *arguments: Any) -> Any:
    """`network(*arguments)` with `params` in place of its own parameters: a pure function of `params`.

    A layer that stands under two names, and a weight that two layers share, is given once and holds everywhere. (By
    itself `torch.func.functional_call` would put it in twice, and afterwards leave it there.) Buffers come in as
    copies, so nothing that the network writes into them stays. Attention is computed step by step, since PyTorch's
    fused kernels cannot be differentiated twice, or not at all, and so is weight normalisation. Threads wait for each
    other. Raises CourseError for spectral normalisation in training mode, and for the old hooks that compute weights.
    """
    with _LENT, _plain(), _twice_differentiable(network):
        return functional_call(network, _places(network, params), arguments, tie_weights=False)


@contextmanager
def _plain() -> Iterator[None]:
    """Nothing but operations that can be differentiated twice, and no layer that is done again in backward.

    Then it would be done with the network's own parameters: those of the call are gone by that time.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack, sdpa_kernel(SDPBackend.MATH):
        with suppress(RuntimeError):  # where hooks are at work outside, they stay
            stack.enter_context(torch.autograd.graph.disable_saved_tensors_hooks(NO_CHECKPOINT))
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        except RuntimeError as error:
            if NO_CHECKPOINT in str(error):
                raise CourseError(NO_CHECKPOINT) from None
            raise
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)


@contextmanager
def _twice_differentiable(network: nn.Module) -> Iterator[None]:
    """Weights that a layer computes from others have a right second derivative inside, or are refused.

    PyTorch's kernel for weight normalisation has a wrong one (MAML's meta-gradient was off by up to a fifth), so it is
    done in ordinary operations. A spectral norm, in training mode, comes from a power iteration without derivatives.
    """
    mended = []
    try:
        for module in network.modules():
            if isinstance(module, parametrize.ParametrizationList) and parametrize._cache_enabled:
                raise CourseError(
                    "weights that are computed from others are kept by parametrize.cached(), so no inner step would "
                    "move them; leave it out"
                )
            if isinstance(module, WEIGHT_NORM):
                if type(module) is not WEIGHT_NORM:
                    raise CourseError(
                        f"{type(module).__name__} is made from PyTorch's weight normalisation, whose second derivative "
                        "is wrong; write it as a parametrization of its own"
                    )
                module.forward = partial(weight_norm, dim=module.dim)
                mended.append(module)
            elif isinstance(module, SPECTRAL_NORM) and module.training and torch.is_grad_enabled():
                raise CourseError(
                    "the network uses spectral_norm, whose power iteration has no derivative, so that the one through "
                    "its training would be wrong; leave it out, or use weight_norm"
                )
            elif module._forward_pre_hooks and any(isinstance(h, OLD) for h in module._forward_pre_hooks.values()):
                raise CourseError(
                    "a layer of the network computes its weight in an old hook, of torch.nn.utils.weight_norm or "
                    "spectral_norm, whose second derivative is wrong; use torch.nn.utils.parametrizations.weight_norm"
                )
        yield
    finally:
        for module in mended:
            del module.forward


def weight_norm(g: Tensor, v: Tensor, dim: int) -> Tensor:
    """g·v/‖v‖, with a norm for each index of dimension `dim` (−1: one norm of all), as PyTorch's layers have it.

    Salimans, Kingma, *Weight Normalization*, 2016, https://arxiv.org/abs/1602.07868.
    """
    kept = dim if dim == -1 else dim % v.dim()  # −2 is the last but one dimension, −1 none
    others = [other for other in range(v.dim()) if other != kept]
    return v * (g / v.square().sum(others, keepdim=dim != -1).sqrt())


def _places(network: nn.Module, params: Parameters) -> Parameters:
    """`params`, and copies of the buffers, by every place where a module holds them; each module has one name here."""
    held: dict[int, list[str]] = {}
    found: Parameters = {}
    copies: dict[int, Tensor] = {}
    for prefix, module in network.named_modules():
        start = f"{prefix}." if prefix else ""
        for name, value in module.named_parameters(recurse=False, remove_duplicate=False):
            held.setdefault(id(value), []).append(start + name)
        for name, value in module.named_buffers(recurse=False, remove_duplicate=False):
            found[start + name] = copies.setdefault(id(value), value.clone())
    own = dict(network.named_parameters(remove_duplicate=False))
    for name, value in params.items():
        found |= dict.fromkeys(held[id(own[name])], value)
    return found


def by_every_name(network: nn.Module, params: Parameters) -> Parameters:
    """`params` under all the names that they have in the network: two for a layer that stands in two places."""
    own = dict(network.named_parameters(remove_duplicate=False))
    values = {id(own[name]): value for name, value in params.items()}
    return {name: values[id(held)] for name, held in own.items() if id(held) in values}


def refuse_inference_mode() -> None:
    """Raise CourseError inside `torch.inference_mode()`: there no tensor has a graph, and every gradient would be 0."""
    if torch.is_inference_mode_enabled():
        raise CourseError("gradients are needed here, and torch.inference_mode() forbids them all; use torch.no_grad()")


def with_gradients(function: Callable) -> Callable:
    """A decorator: the function has gradients also under `torch.no_grad()`, and refuses `torch.inference_mode()`."""

    @wraps(function)
    def wrapped(*args: Any, **options: Any) -> Any:
        refuse_inference_mode()
        with torch.enable_grad():
            return function(*args, **options)

    return wrapped


def leaf(value: Tensor) -> Tensor:
    """The value as a tensor that gradients can be asked for; one that was made in inference mode is copied."""
    return (value.clone() if value.is_inference() else value).detach().requires_grad_()


def gradient(loss: Tensor, params: Parameters, *, create_graph: bool = False) -> Parameters:
    """∇_φ of a scalar loss, by name. A parameter that the loss does not use gets zeros, never None.

    create_graph: keep the graph of the gradient itself, so that one can differentiate through it once more.
    Raises CourseError without any parameter, for a loss without a graph (which is not a gradient of 0), and inside
    `torch.inference_mode()`, which knows no gradients.
    """
    if not params:
        raise CourseError("no parameter asks for a gradient, so nothing can be adapted; let some have requires_grad")
    refuse_inference_mode()
    if not loss.requires_grad:
        raise CourseError(
            "the loss has no graph, it does not require grad: it uses no parameter that asks for a gradient, or was "
            "computed under torch.no_grad(); compute it from the parameters, under torch.enable_grad()"
        )
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


def log_and_sign(g: Tensor, p: float) -> Tensor:
    """Two numbers of moderate size for each coordinate of a gradient, for networks that read it: [...] → [..., 2].

        (log|g| / p, sign g)  where |g| ≥ e^−p,      (−1, e^p·g)  elsewhere

    Andrychowicz et al., *Learning to Learn by Gradient Descent by Gradient Descent*, 2016, appendix A,
    https://arxiv.org/abs/1606.04474.
    """
    smallest = torch.exp(torch.tensor(-p, dtype=g.dtype, device=g.device))
    size = g.abs().clamp_min(smallest).log() / p  # never the logarithm of 0, whose derivative is not finite
    return torch.stack([size, (g / smallest).clamp(-1, 1)], -1)


def descend(
    loss: Callable[[Parameters], Tensor],
    params: Parameters,
    steps: int,
    rate: float | Tensor | Parameters,
    *,
    first_order: bool = False,
    create_graph: bool = True,
) -> Parameters:
    """Gradient descent on any scalar loss of the parameters, from `params`: where it ends.

    loss(fast): L_inner at the parameters `fast`, a scalar. The other arguments and the
    errors: as in `adapt`, which is this descent on a support set.
    """
    check_whole("steps", steps)
    if not create_graph:
        params = {name: leaf(value) for name, value in params.items()}
    fast = params
    with torch.enable_grad():  # also under no_grad: the inner process needs a gradient
        for _ in range(steps):
            grad = gradient(loss(fast), fast, create_graph=create_graph and not first_order)
            fast = sgd_step(fast, grad, rate)
            if not create_graph:
                fast = {name: leaf(value) for name, value in fast.items()}
    return fast if create_graph else {name: value.detach() for name, value in fast.items()}


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
    """Adapt `params` to the support set of ONE task by gradient descent: the fast weights.

    forward(params, x): the prediction of the network for images x.
    support_x: [images, …]; support_y: [images].
    first_order: treat each inner gradient as a constant. The result still depends on
    `params`, through the identity path φ = θ − α·(constant); what is lost is the term
    through the gradient (Finn et al. 2017, section 5.2).
    create_graph=False: the same numbers, detached, where nobody asks for a meta-gradient.
    steps=0 returns the parameters as they came. Raises CourseError for a negative number
    of steps. Any rate is taken at its word: 0 stays, a negative one climbs. Losses that are
    not finite give parameters that are not.

    Finn, Abbeel, Levine, *Model-Agnostic Meta-Learning for Fast Adaptation of Deep
    Networks*, 2017, https://arxiv.org/abs/1703.03400.
    """
    return descend(
        lambda fast: loss(forward(fast, support_x), support_y),
        params,
        steps,
        rate,
        first_order=first_order,
        create_graph=create_graph,
    )


def adapt_truncated(
    forward: Callable[[Parameters, Tensor], Tensor],
    params: Parameters,
    support_x: Tensor,
    support_y: Tensor,
    *,
    steps: int,
    last: int,
    **settings: Any,
) -> Parameters:
    """As `adapt`, but only the last K steps carry a graph; the inner gradients before them count as constants.

    last: K. K = steps (or more) is `adapt`, K = 0 is `adapt` with first_order=True; memory grows with K, not with T.
    settings: of `adapt`. Raises CourseError for a negative K.

    Shaban, Cheng, Hatch, Boots, *Truncated Back-propagation for Bilevel Optimization*, 2019,
    https://arxiv.org/abs/1810.10667.
    """
    check_whole("last", last)
    early = max(0, steps - last)
    params = adapt(forward, params, support_x, support_y, steps=early, **settings | {"first_order": True})
    return adapt(forward, params, support_x, support_y, steps=steps - early, **settings)


def adapt_checkpointed(
    forward: Callable[[Parameters, Tensor], Tensor],
    params: Parameters,
    support_x: Tensor,
    support_y: Tensor,
    *,
    steps: int,
    every: int,
    rate: float | Tensor | Parameters,
    **settings: Any,
) -> Parameters:
    """As `adapt`, with the same gradient, but it keeps φ only every n steps, and does each n steps again in backward.

    every: n. Memory: n steps' graph and T/n copies of φ, instead of all T steps' graph; time: one more inner process.
    Gradients flow to params, rate, support_x and support_y. What else `forward` and `loss` use must be constant: if it
    asks for a gradient, backward raises a CourseError rather than leave it out. The result can be differentiated once:
    with create_graph=True backward raises a CourseError, too.
    settings: of `adapt`. Raises CourseError for n below 1.

    Chen, Xu, Zhang, Guestrin, *Training Deep Nets with Sublinear Memory Cost*, 2016, https://arxiv.org/abs/1604.06174.
    """
    check_whole("every", every, least=1)
    if steps <= every or settings.get("first_order") or not settings.get("create_graph", True):
        return adapt(forward, params, support_x, support_y, steps=steps, rate=rate, **settings)
    rates = rate if isinstance(rate, dict) else {"": rate}
    tensors = {name: value for name, value in rates.items() if isinstance(value, Tensor)}

    def block(steps: int, fast: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        *learned, x, y = others
        each = rates | dict(zip(tensors, learned, strict=True))
        each = each if isinstance(rate, dict) else each[""]
        fast = dict(zip(params, fast, strict=True))
        return tuple(adapt(forward, fast, x, y, steps=steps, rate=each, **settings).values())

    lengths = [min(every, steps - start) for start in range(0, steps, every)]
    with torch.enable_grad():  # as in descend: the result has a graph also under no_grad
        fast = Recompute.apply(block, lengths, len(params), *params.values(), *tensors.values(), support_x, support_y)
    return dict(zip(params, fast, strict=True))


class Recompute(torch.autograd.Function):
    """A chain of blocks that keeps what enters each block, and no graph. backward makes one block's graph at a time."""

    @staticmethod
    def forward(ctx, block, lengths, count, *tensors):
        fast, others = tensors[:count], tensors[count:]
        kept = []
        for steps in lengths:
            kept += fast
            for _ in range(steps):  # with a graph, though it is dropped: some kernels round otherwise without one
                with torch.enable_grad():
                    fast = block(1, tuple(value.detach().requires_grad_() for value in fast), others)
                fast = tuple(value.detach() for value in fast)
        ctx.block, ctx.lengths, ctx.count = block, lengths, count
        ctx.save_for_backward(*kept, *others)
        return fast

    @staticmethod
    def backward(ctx, *grads):
        # PyTorch's own guard (once_differentiable) is silent, with a wrong result, in
        # autograd.grad by named tensors.
        if torch.is_grad_enabled():
            what = "a checkpointed inner process can be differentiated once only"
            raise CourseError(f"{what}; for more use adapt")
        n, blocks = ctx.count, len(ctx.lengths)
        kept, others = ctx.saved_tensors[: n * blocks], ctx.saved_tensors[n * blocks :]
        wanted = ctx.needs_input_grad[3 + n :]
        sums: list[Tensor | None] = [None] * len(others)
        for index in reversed(range(blocks)):
            with torch.enable_grad():
                begin = kept[n * index : n * index + n]
                fast = tuple(value.detach().requires_grad_() for value in begin)
                pairs = zip(others, wanted, strict=True)
                also = tuple(value.detach().requires_grad_(w) for value, w in pairs)
                out = ctx.block(ctx.lengths[index], fast, also)
            asked = [*fast, *(value for value, w in zip(also, wanted, strict=True) if w)]
            _refuse_other_leaves(out, asked)
            unused = {"materialize_grads": True, "allow_unused": True}
            found = iter(torch.autograd.grad(out, asked, grads, **unused))
            grads = [next(found) for _ in fast]
            for i in (i for i, w in enumerate(wanted) if w):
                more = next(found)
                sums[i] = more if sums[i] is None else sums[i] + more
        return None, None, None, *grads, *sums


def _refuse_other_leaves(outputs: tuple[Tensor, ...], known: list[Tensor]) -> None:
    """Raise CourseError when a graph ends in a tensor that is not in `known`: its gradient would silently be lost."""
    todo, seen, known_ids = [out.grad_fn for out in outputs], set(), {id(value) for value in known}
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in known_ids:
            raise CourseError(
                f"a tensor of shape {tuple(variable.shape)} asks for a gradient inside a checkpointed inner process, "
                "but came in through forward or loss; pass it in params, rate or the support set, or use adapt"
            )
        todo += [function for function, _ in node.next_functions]
