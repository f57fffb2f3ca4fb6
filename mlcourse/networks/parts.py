"""Any `nn.Module` as a network: what a learner may ask of it, and how a part of it is exchanged."""

import copy
import inspect
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from mlcourse.errors import CourseError


def embeddings(network: nn.Module, x: Tensor, *arguments: Any) -> Tensor:
    """What a network makes of images x [images, …], one row for each: [images, D]. Feature maps are laid flat.

    Raises CourseError where the network returns anything but a tensor with an entry for each image.
    """
    z = network(x, *arguments)
    if not isinstance(z, Tensor) or z.dim() == 0 or len(z) != len(x):
        given = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise CourseError(f"the network gives {given} for {len(x)} images; an encoder gives a tensor [images, …]")
    return z.reshape(len(z), -1)


def embedding_size(network: nn.Module, who: str) -> int:
    """How many numbers a network gives for an image. Raises CourseError, naming `who`, when it does not say."""
    size = getattr(network, "embedding_size", None)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise CourseError(
            f"{who} must know how many numbers its network gives for an image; set network.embedding_size to that"
        )
    return size


def check_has(there: bool, network: nn.Module, who: str, what: str) -> None:
    """Raise CourseError, naming `who` and `what` it needs, unless the network has it (`there`)."""
    if not there:
        raise CourseError(f"{who} needs a network with {what}, which {type(network).__name__} lacks; use Conv4")


def check_ready(network: nn.Module) -> None:
    """Raise CourseError for a network with lazy layers that have no weights yet."""
    if any(is_lazy(value) for value in (*network.parameters(), *network.buffers())):
        raise CourseError("the network has lazy layers without weights; call it once on images before it is used here")


def takes_reference(network: nn.Module) -> bool:
    """Whether a network can be called as `network(x, reference)`, as `support` normalisation needs it."""
    try:
        inspect.signature(network.forward).bind(None, None)
    except TypeError:
        return False
    return True


def runs_wide(network: nn.Module) -> bool:
    """Whether a network takes all tasks at once, by a `wide` of its own that does what its `forward` does.

    Not with hooks at its layers, with weights that they compute from others, or with a `forward` of a class below: of
    these `wide` would know nothing. A network may say by `fits_wide()` whether it still has the parts that it was made
    with.
    """
    if not hasattr(type(network), "wide") or not getattr(network, "fits_wide", lambda: True)():
        return False
    return all(_as_wide_has_it(part) for part in network.modules())


def _as_wide_has_it(part: nn.Module) -> bool:
    if part._forward_hooks or part._forward_pre_hooks or is_parametrized(part) or "forward" in vars(part):
        return False
    return not hasattr(type(part), "wide") or _owner(part, "wide") is _owner(part, "forward")


def _owner(part: nn.Module, name: str) -> type:
    """The class that a method comes from."""
    return next(cls for cls in type(part).__mro__ if name in vars(cls))


def key_of(name: str) -> str:
    """A parameter's name where none may hold a dot, as in an `nn.ParameterDict`: "a.b" → "a-b", but "a-b" → "a~-b".

    No two names have one key, and `name_of` gives the name back. A name that an `nn.ParameterDict` has for itself
    ("values") becomes "~values".
    """
    key = "".join({".": "-", "-": "~-", "~": "~~"}.get(sign, sign) for sign in name)
    return f"~{key}" if hasattr(nn.ParameterDict(), key) else key


def name_of(key: str) -> str:
    """The name that `key_of` wrote."""
    return re.sub(r"~(.)|-", lambda found: found[1] or ".", key)


def replaced(module: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """A copy of a module in which `new` stands wherever `old` stood. All other parts, and all weights, are shared."""
    return _replaced(module, {id(old): new})


def _replaced(module: nn.Module, done: dict[int, nn.Module]) -> nn.Module:
    if id(module) not in done:
        before = module._modules
        after = {name: part if part is None else _replaced(part, done) for name, part in before.items()}
        done[id(module)] = module
        if any(after[name] is not part for name, part in before.items()):
            twin = done[id(module)] = copy.copy(module)
            twin._modules = after
    return done[id(module)]


def exchange(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever the network holds `old`, for good."""
    for part in list(network.modules()):
        for name, child in list(part._modules.items()):
            if child is old:
                setattr(part, name, new)


@torch.no_grad()
def ends_in(network: nn.Module, head: nn.Module, x: Tensor, *arguments: Any) -> bool:
    """Whether the network's answer for x is what its `head` makes of the rest. The network is in evaluation mode."""
    body = replaced(network, head, nn.Identity())
    whole, parts = network(x, *arguments), head(body(x, *arguments))
    return whole.shape == parts.shape and torch.allclose(whole, parts, rtol=1e-3, atol=1e-5)
