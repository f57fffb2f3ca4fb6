"""Learners, one file per family; `build` makes one from its name, `save` and `load` keep it in a folder."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlcourse import files
from mlcourse.errors import CourseError
from mlcourse.learners.base import Learner, accuracy
from mlcourse.learners.maml import MAML
from mlcourse.learners.pixels import PixelNeighbours
from mlcourse.learners.prototypical import PrototypicalNetwork, prototypes, squared_distances
from mlcourse.learners.transfer import FineTune
from mlcourse.networks import Conv4

__all__ = [
    "MAML", "METHODS", "FineTune", "Learner", "PixelNeighbours", "PrototypicalNetwork", "accuracy", "build", "load",
    "prototypes", "save", "squared_distances",
]  # fmt: skip

WEIGHTS, CONFIG = "learner.safetensors", "config.json"


def _maml(*, way, in_channels, size, channels=64, normalisation="batch", downsample="stride", **options) -> Learner:
    return MAML(Conv4(in_channels, channels, size, way, normalisation, downsample), **options)


def _prototypical(
    *, way, in_channels, size, channels=64, normalisation="running", downsample="stride", **options
) -> Learner:
    return PrototypicalNetwork(Conv4(in_channels, channels, size, None, normalisation, downsample), **options)


def _pixels(*, way, in_channels, size) -> Learner:
    return PixelNeighbours()


METHODS = {"maml": _maml, "prototypical": _prototypical, "pixels": _pixels}


def build(
    method: str, *, way: int, in_channels: int = 1, size: int = 28, seed: int | None = None, **options: Any
) -> Learner:
    """Make a learner with a Conv-4 network.

    way: classes a task (only learners with a fixed head use it). in_channels, size: of the images. seed: of the random
    weights; the same seed gives the same weights, and the global random state stays as it was. options: of the method.
    Raises CourseError for an unknown method or option.
    """
    if method not in METHODS:
        raise CourseError(f"method {method!r} is unknown; use one of {', '.join(METHODS)}")
    try:
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            learner = METHODS[method](way=way, in_channels=in_channels, size=size, **options)
    except TypeError as error:
        raise CourseError(f"method {method!r} has no such option ({error})") from None
    # Channels last is the layout that convolutions like best: several times faster on a CPU.
    learner.to(memory_format=torch.channels_last)
    learner.config = {"method": method, "way": way, "in_channels": in_channels, "size": size, "options": options}
    return learner


def save(learner: nn.Module, folder: Path | str, **more: Any) -> None:
    """Write `learner.safetensors`, then `config.json` with all that `load` needs and whatever `more` tells."""
    if not learner.config:
        raise CourseError(
            "this learner was not made by learners.build, so its file could not be read back; build it there"
        )
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
    learner = build(
        config["method"], way=config["way"], in_channels=config["in_channels"], size=config["size"], **config["options"]
    )
    restore(learner, files.load_tensors(folder / WEIGHTS)[0], folder / WEIGHTS)
    return learner.to(device).eval()


def restore(learner: nn.Module, tensors: dict[str, torch.Tensor], source: Path | str) -> None:
    """Put tensors into a learner. Raises CourseError, naming their file, when they are another learner's."""
    try:
        learner.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CourseError(f"{source} belongs to another learner ({first}); use the folder it came with") from None
