"""Learners by name: the options of a method, a learner made of them, and what a learner was made for."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import UnionType
from typing import Any, get_args, get_type_hints

import torch
from torch import nn

from mlcourse.episodes import check_positive, check_seed
from mlcourse.errors import CourseError
from mlcourse.learners.base import Learner
from mlcourse.learners.methods import METHODS, known
from mlcourse.networks import NETWORKS, class_of, made_again, make, under_todays_names

GIVEN = ("way", "in_channels", "size")  # by the data
DEFAULT_NETWORK = "conv4"


def options_of(method: str, network: str = DEFAULT_NETWORK) -> dict[str, Any]:
    """All options of a method with their defaults: its network's, then its learner's. Raises CourseError as `build`."""
    made = known(method)
    if network not in NETWORKS:
        raise CourseError(f"network {network!r} is unknown; use one of {', '.join(NETWORKS)}")
    has = {} if made.network is None else _defaults(NETWORKS[network])
    of_network = has | {name: value for name, value in (made.network or {}).items() if name in has}
    of_network = {name: value for name, value in of_network.items() if name not in (*GIVEN, "out")}
    return of_network | _defaults(made.learner) | made.options


def _defaults(made: type) -> dict[str, Any]:
    arguments = inspect.signature(made).parameters.values()
    return {one.name: one.default for one in arguments if one.default is not one.empty}


def completed(config: Any) -> Any:
    """What `recorded` told, as this version tells it: under today's names, a method's options all there.

    Options that it does not name are at their defaults of today. What is nothing of the kind stays as it is.
    """
    if not isinstance(config, dict):
        return config
    if isinstance(config.get("options"), dict) and str(config.get("method")) in METHODS:
        defaults = options_of(config["method"], config.get("network", DEFAULT_NETWORK))
        return config | {"options": defaults | _todays_options(config)}
    if isinstance(config.get("arguments"), dict) and "class" in config:
        try:
            arguments = under_todays_names(class_of(config["class"]), config["arguments"])
        except (CourseError, TypeError, ValueError):  # no class, or none that is there: whoever makes it again says so
            return config
        return config | {"arguments": {name: _completed_inside(value) for name, value in arguments.items()}}
    return config


def _completed_inside(value: Any) -> Any:
    """An argument with the modules in it `completed`."""
    if isinstance(value, list):
        return [_completed_inside(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"module"}:
        return {"module": completed(value["module"])}
    return {name: _completed_inside(one) for name, one in value.items()}


def _todays_options(config: dict[str, Any]) -> dict[str, Any]:
    return under_todays_names(known(config["method"]).learner, config["options"])


def build(
    method: str,
    *,
    way: int,
    in_channels: int = 1,
    size: int = 28,
    seed: int | None = None,
    network: str = DEFAULT_NETWORK,
    **options: Any,
) -> Learner:
    """Make a learner with a network of random weights.

    way: classes per task (only learners with a fixed head use it). in_channels, size: of the images. seed: of the
    random weights; the same seed gives the same weights, and the global random state stays as it was. network: one of
    `networks.NETWORKS`. options: of the method, any of `options_of(method, network)`; `learner.config` keeps all of
    them, so that a default that changes later changes no learner that was saved before.
    Raises CourseError for an unknown method, network or option, and for a value that does not fit.
    """
    has = options_of(method, network)
    for what, value in {"way": way, "in_channels": in_channels, "size": size}.items():
        check_positive(what, value)
    if seed is not None:
        check_seed(seed)
    _check_options(method, network, options, has)
    options = has | options
    made = METHODS[method]
    own = {name: options[name] for name in _defaults(made.learner)}
    with drawing(seed):
        if made.network is None:
            learner = made.learner(**own)
        else:
            body = {name: value for name, value in options.items() if name not in own}
            shape = {"in_channels": in_channels, "size": size, "out": way if made.head else None}
            learner = made.learner(make(network, **shape, **body), **own)
    # Channels last is the layout that convolutions like best: measured on 2 cores, about 2 times as fast with strides
    # and 1.35 times with pooling.
    learner.to(memory_format=torch.channels_last)
    learner.config = {"method": method, "way": way, "in_channels": in_channels, "size": size, "options": options}
    if network != DEFAULT_NETWORK:  # files of learners from before the table name no network
        learner.config["network"] = network
    return learner


def shape_of(learner: nn.Module) -> tuple[int, int, int] | None:
    """(C, H, W) of the pictures that a learner was built for; None when it takes any, or does not say."""
    config = getattr(learner, "config", {})
    if "in_channels" not in config or getattr(learner, "trains_on", None) == "nothing":
        return None
    return config["in_channels"], config["size"], config["size"]


def most_ways(learner: nn.Module) -> int | None:
    """How many classes a learner tells apart at most; None when it takes any number, or does not say."""
    config = getattr(learner, "config", {})
    options, method = config.get("options", {}), METHODS.get(config.get("method"))
    fixed = method is not None and method.head and not options.get("zero_head")
    return config.get("way") if fixed else options.get("most_ways")


def made_from(config: dict[str, Any]) -> Learner:
    """A learner from what its `recorded` told, at random weights; no generator has drawn afterwards.

    Raises CourseError for a method, a class or an argument that there is not, and a class that is no learner.
    """
    with drawing(0):
        return _made(config, Learner)


def _made(config: dict[str, Any], kind: type = nn.Module) -> Any:
    if not isinstance(config, dict) or "method" not in config:
        return made_again(config, kind, named=_made)
    if not {"way", "in_channels", "size", "options"} <= config.keys() or not isinstance(config["options"], dict):
        raise CourseError("it holds a method without way, in_channels, size and options")
    network = config.get("network", DEFAULT_NETWORK)
    return build(config["method"], **{name: config[name] for name in GIVEN}, network=network, **_todays_options(config))


@contextmanager
def drawing(seed: int | None) -> Iterator[None]:
    """Weights are drawn on the CPU inside, from `seed`; afterwards all generators are as they were.

    seed: None lets the CPU's generator move on. `torch.manual_seed` would seed the generators of all GPUs, too.
    """
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=gpus, enabled=seed is not None), torch.device("cpu"):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        yield


def _check_options(method: str, network: str, options: dict[str, Any], has: dict[str, Any]) -> None:
    kinds = get_type_hints(NETWORKS[network].__init__) | get_type_hints(METHODS[method].learner.__init__)
    for name, value in options.items():
        if name not in has:
            raise CourseError(f"method {method!r} has no option {name!r}; it has {', '.join(has) or 'none'}")
        if not _is_a(value, kinds.get(name, Any)):
            wanted = inspect.formatannotation(kinds[name])
            raise CourseError(f"option {name} of method {method!r} is {value!r}; give a value of type {wanted}")
    if "channels" in options:
        check_positive("channels", options["channels"])


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value fits an annotation that is a class or a union of classes (of others it says yes)."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if not all(isinstance(one, type) for one in kinds):
        return True
    if isinstance(value, bool):  # Python counts it among the integers
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)
