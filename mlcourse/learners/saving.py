"""Learners in folders: `save` writes one, `load` brings it back."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlcourse import files
from mlcourse.errors import CourseError
from mlcourse.learners.base import Learner
from mlcourse.learners.building import build

WEIGHTS, CONFIG = "learner.safetensors", "config.json"
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"


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
