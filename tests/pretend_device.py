"""A device that only pretends: its tensors hold their numbers on the CPU, and refuse to meet the CPU's own.

    with pretending():
        learner = learners.build("maml", way=5).to(DEVICE)
        learner.outer_loss(batch.to(DEVICE))[0].backward()

Whatever was made without `device=` then meets a tensor of another device, and that is the error that a GPU would raise:
WrongDevice. What CUDA allows is allowed here, too: a CPU tensor without dimensions in arithmetic, CPU indices into a
tensor of the device, `copy_` and `to` from one to the other.

It reports the device "meta" (PyTorch's name for tensors without numbers), which autograd, `torch.func` and `vmap` take
as it comes on every machine. A real tensor of that device, one without numbers, is an error here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
aten = torch.ops.aten
# Between devices, or with places that may lie on the CPU.
CROSSES = {aten.copy_.default, aten._to_copy.default}
INDEXES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
JOINS = {aten.cat.default, aten.stack.default}  # take no CPU tensor beside others, not even one without dimensions


class WrongDevice(RuntimeError):
    """What a GPU would raise where tensors of two devices meet."""


class Pretended(Tensor):
    """A tensor that says it is on DEVICE. Its numbers are in `held`, on the CPU."""

    @staticmethod
    def __new__(cls, held: Tensor):
        return Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
        )

    def __init__(self, held: Tensor):
        self.held = held

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:
        return f"Pretended({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})


@contextmanager
def pretending() -> Iterator[None]:
    """Inside, DEVICE is a device like any other: one can make tensors there, and move some to it."""
    with _FromNumbers(), _Everywhere(), mock.patch("torch.is_autocast_enabled", _no_autocast):
        yield


def _no_autocast(device_type: str = "cpu") -> bool:
    """PyTorch's own function takes no "meta"."""
    return False


class _Everywhere(TorchDispatchMode):
    """Also for calls without a tensor of the device, such as `torch.zeros(3, device=DEVICE)`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})


class _FromNumbers(TorchFunctionMode):
    """Where PyTorch goes from Python's numbers to tensors, or back, and would look for none on "meta"."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, torch.asarray):
            there = kwargs.pop("device", None)
            return _made(func, args, kwargs, there)
        if func is Tensor.new_tensor:
            like, *rest = args
            there, kwargs["dtype"] = kwargs.pop("device", None), kwargs.get("dtype") or like.dtype
            return _made(torch.tensor, rest, kwargs, there or like.device)
        if func is torch.unravel_index and isinstance(args[0], Pretended):
            return tuple(map(Pretended, func(args[0].held, *args[1:], **kwargs)))
        if func is Tensor.tolist and isinstance(args[0], Pretended):
            return args[0].held.tolist()
        if func in (Tensor.numpy, Tensor.__array__) and isinstance(args[0], Pretended):
            raise WrongDevice("can't convert a tensor of the pretended device to numpy; use Tensor.cpu() first")
        return func(*args, **kwargs)


def _made(func: Any, args: Any, kwargs: dict[str, Any], there: Any) -> Tensor:
    """A tensor from Python's numbers on the CPU, then moved; a leaf of the graph stays one."""
    leaf = kwargs.pop("requires_grad", False)
    made = func(*args, **kwargs)
    made = made if there is None else made.to(there)
    return made.requires_grad_() if leaf else made


def _call(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The operation on the numbers, after a look at where its tensors lie; what comes out lies where they do."""
    there: dict[int, Pretended] = {}  # by what they hold
    here: list[Tensor] = []

    def held(value: Any) -> Any:
        if isinstance(value, Pretended):
            there[id(value.held)] = value
            return value.held
        if isinstance(value, Tensor):
            if value.device.type == DEVICE.type:
                raise WrongDevice(f"{func} met a tensor of {DEVICE} without numbers")
            here.append(value)
        elif isinstance(value, (list, tuple)):
            return type(value)(map(held, value))
        return value

    plain, named = tuple(map(held, args)), {name: held(value) for name, value in kwargs.items()}
    asked = named.get("device")
    goes = bool(there) if asked is None else torch.device(asked).type == DEVICE.type
    if asked is not None:
        named["device"] = torch.device("cpu")
    if there and here:
        _check_mix(func, args, here)
    if goes and any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values())):
        raise WrongDevice(f"{func} draws on {DEVICE} with a generator of the CPU; draw on the CPU, then move")
    found = func(*plain, **named)
    return _there(found, there) if goes else found


def _check_mix(func: Any, args: tuple, here: list[Tensor]) -> None:
    if func in CROSSES:
        return
    if func in INDEXES and isinstance(args[0], Pretended):
        places = {id(one) for one in args[1] if one is not None}
        here = [one for one in here if id(one) not in places]
    several = [one for one in here if one.dim() > 0 or func in JOINS]
    if several:
        shapes = ", ".join(str(list(one.shape)) for one in several)
        raise WrongDevice(f"{func}: tensors of {DEVICE} and of the CPU (of the shapes {shapes}) meet")


def _there(found: Any, known: dict[int, Pretended]) -> Any:
    """The results as tensors of the device; one that was changed in place is the one that came in."""
    if isinstance(found, Tensor):
        return known.get(id(found)) if id(found) in known else Pretended(found)
    if isinstance(found, (list, tuple)):
        return type(found)(_there(one, known) for one in found)
    return found


# ------------------------------------------------------------------ what lies elsewhere


def elsewhere(value: Any, where: str = "it") -> list[str]:
    """The names of all tensors with a dimension that are not on DEVICE: of a module, its buffers and gradients, of
    dictionaries, lists, and the fields of objects such as an Episode."""
    if isinstance(value, Tensor):
        return [] if value.device.type == DEVICE.type or (value.dim() == 0) else [f"{where} {list(value.shape)}"]
    if isinstance(value, nn.Module):
        tensors = dict(value.named_parameters()) | dict(value.named_buffers())
        tensors |= {f"{name}.grad": p.grad for name, p in value.named_parameters() if p.grad is not None}
        return elsewhere(tensors, where)
    if isinstance(value, dict):
        return [one for name, part in value.items() for one in elsewhere(part, f"{where}[{name!r}]")]
    if isinstance(value, (list, tuple)):
        return [one for number, part in enumerate(value) for one in elsewhere(part, f"{where}[{number}]")]
    if hasattr(value, "__dataclass_fields__"):
        return elsewhere({name: getattr(value, name) for name in value.__dataclass_fields__}, where)
    return []
