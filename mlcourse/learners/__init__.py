"""Learners, one file per family; `build` makes one from its name, `save` and `load` keep it in a folder."""

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import torch
from torch import nn

from mlcourse import files
from mlcourse.episodes import check_positive, check_seed
from mlcourse.errors import CourseError
from mlcourse.learners.base import Learner, accuracy
from mlcourse.learners.hypernet import HyperNetwork
from mlcourse.learners.implicit import ImplicitMAML
from mlcourse.learners.incontext import InContextLearner
from mlcourse.learners.maml import ANIL, MAML
from mlcourse.learners.matching import MatchingNetwork
from mlcourse.learners.metanet import MetaNetwork
from mlcourse.learners.modulation import FeatureModulation
from mlcourse.learners.pixels import PixelNeighbours
from mlcourse.learners.prototypical import PrototypicalNetwork, prototypes, squared_distances
from mlcourse.learners.relation import RelationNetwork
from mlcourse.learners.reptile import Reptile
from mlcourse.learners.ridge import R2D2, ridge
from mlcourse.learners.transfer import FineTune
from mlcourse.networks import Conv4

__all__ = [
    "ANIL", "MAML", "METHODS", "R2D2", "FeatureModulation", "FineTune", "HyperNetwork", "ImplicitMAML",
    "InContextLearner", "Learner", "MatchingNetwork", "MetaNetwork", "PixelNeighbours", "PrototypicalNetwork",
    "RelationNetwork", "Reptile", "accuracy", "build", "completed", "load", "options_of", "prototypes", "ridge", "save",
    "squared_distances",
]  # fmt: skip

WEIGHTS, CONFIG = "learner.safetensors", "config.json"
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"


@dataclass(frozen=True)
class Method:
    """How `build` makes a learner."""

    learner: type[Learner]
    network: dict[str, Any] | None  # defaults of Conv-4's options that are this method's own; None: no network
    head: bool = False  # the network ends in `way` logits
    options: dict[str, Any] = field(default_factory=dict)  # the same of the learner's options


_ADAPTED = {"normalisation": "batch", "downsample": "stride"}
_COMPARES = {"normalisation": "running", "downsample": "stride"}
# annealed over the first part of a training of a few thousand outer steps
_PLUS_PLUS = {"learned_rates": "layer", "norm_per_step": True, "every_step_until": 1000, "first_order_until": 500}
METHODS = {
    "maml": Method(MAML, _ADAPTED, head=True),
    "fomaml": Method(MAML, _ADAPTED, head=True, options={"first_order": True}),
    "anil": Method(ANIL, _ADAPTED, head=True),
    "meta-sgd": Method(MAML, _ADAPTED, head=True, options={"learned_rates": "entry"}),
    "maml++": Method(MAML, _ADAPTED, head=True, options=_PLUS_PLUS),
    "reptile": Method(Reptile, _ADAPTED, head=True),
    "imaml": Method(ImplicitMAML, _ADAPTED, head=True),
    "prototypical": Method(PrototypicalNetwork, _COMPARES),
    "cosine-prototypical": Method(PrototypicalNetwork, _COMPARES, options={"distance": "cosine"}),
    "matching": Method(MatchingNetwork, _COMPARES),
    "relation": Method(RelationNetwork, _COMPARES | {"halvings": 2}),  # as in the paper: its maps are large
    "r2d2": Method(R2D2, _COMPARES),
    "metanet": Method(MetaNetwork, {"normalisation": "running", "downsample": "stride"}, head=True),
    "hypernet": Method(HyperNetwork, _COMPARES),
    "film": Method(FeatureModulation, _COMPARES),
    "incontext": Method(InContextLearner, _COMPARES),
    "pixels": Method(PixelNeighbours, None),
}


def options_of(method: str) -> dict[str, Any]:
    """All options of a method with their defaults: its network's, then its learner's. Raises CourseError as `build`."""
    if method not in METHODS:
        raise CourseError(f"method {method!r} is unknown; use one of {', '.join(METHODS)}")
    made = METHODS[method]
    network = {} if made.network is None else _defaults(Conv4) | made.network
    given = ("in_channels", "size", "out")  # by the data and the method
    network = {name: value for name, value in network.items() if name not in given}
    return network | _defaults(made.learner) | made.options


def _defaults(made: type) -> dict[str, Any]:
    arguments = inspect.signature(made).parameters.values()
    return {one.name: one.default for one in arguments if one.default is not one.empty}


def completed(config: dict[str, Any]) -> dict[str, Any]:
    """A learner's `config` with the options that it does not name at their defaults of today."""
    if config.get("method") not in METHODS:
        return config
    return config | {"options": options_of(config["method"]) | config.get("options", {})}


def build(
    method: str, *, way: int, in_channels: int = 1, size: int = 28, seed: int | None = None, **options: Any
) -> Learner:
    """Make a learner with a Conv-4 network.

    way: classes a task (only learners with a fixed head use it). in_channels, size: of the images. seed: of the random
    weights; the same seed gives the same weights, and the global random state stays as it was. options: of the method,
    any of `options_of(method)`; `learner.config` keeps all of them, so that a default that changes later changes no
    learner that was saved before.
    Raises CourseError for an unknown method or option, and for a value that does not fit.
    """
    known = options_of(method)
    for what, value in {"way": way, "in_channels": in_channels, "size": size}.items():
        check_positive(what, value)
    if seed is not None:
        check_seed(seed)
    _check_options(method, options, known)
    options = known | options
    made = METHODS[method]
    own = {name: options[name] for name in _defaults(made.learner)}
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        if made.network is None:
            learner = made.learner(**own)
        else:
            body = {name: value for name, value in options.items() if name not in own}
            learner = made.learner(Conv4(in_channels, size=size, out=way if made.head else None, **body), **own)
    # Channels last is the layout that convolutions like best: measured on 2 cores, about 2 times as fast with strides
    # and 1.35 times with pooling.
    learner.to(memory_format=torch.channels_last)
    learner.config = {"method": method, "way": way, "in_channels": in_channels, "size": size, "options": options}
    return learner


def _check_options(method: str, options: dict[str, Any], known: dict[str, Any]) -> None:
    kinds = get_type_hints(Conv4.__init__) | get_type_hints(METHODS[method].learner.__init__)
    for name, value in options.items():
        if name not in known:
            raise CourseError(f"method {method!r} has no option {name!r}; it has {', '.join(known) or 'none'}")
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


def check_saving(learner: nn.Module) -> None:
    """Raise CourseError when `load` could not bring this learner back, so before anything is learnt."""
    if not learner.config:
        raise CourseError(
            "this learner was not made by learners.build, so its file could not be read back; build it there"
        )


def save(learner: nn.Module, folder: Path | str, **more: Any) -> None:
    """Write `learner.safetensors`, then `config.json` with all that `load` needs and whatever `more` tells."""
    check_saving(learner)
    folder = Path(folder)
    files.save_tensors(folder / WEIGHTS, learner.state_dict(), {"method": learner.config["method"]})
    files.write_json(folder / CONFIG, {"learner": learner.config} | more)


def load(folder: Path | str, *, device: torch.device | str = "cpu") -> Learner:
    """Bring a saved learner back, in evaluation mode. Raises CourseError when folder or files are not whole."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CourseError(f"there is no folder {folder}; give the --out folder of a training run")
    if not (folder / CONFIG).is_file():
        raise CourseError(f"{folder} holds no {CONFIG}: no finished training run; finish it with --resume")
    config = files.read_json(folder / CONFIG).get("learner")
    if not isinstance(config, dict) or not {"method", "way", "in_channels", "size", "options"} <= config.keys():
        raise CourseError(f"{folder / CONFIG} describes no learner; train again, or take the file from a backup")
    try:
        shape = {name: config[name] for name in ("way", "in_channels", "size")}
        learner = build(config["method"], **shape, **config["options"])
    except (CourseError, TypeError) as error:
        raise CourseError(f"{folder / CONFIG} describes no learner that this version knows: {error}") from None
    restore(learner, files.load_tensors(folder / WEIGHTS)[0], folder / WEIGHTS)
    return learner.to(device).eval()


def restore(learner: nn.Module, tensors: dict[str, torch.Tensor], source: Path | str) -> None:
    """Put tensors into a learner. Raises CourseError, naming their file, when they are another learner's."""
    try:
        learner.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CourseError(f"{source} belongs to another learner ({first}); use the folder it came with") from None
