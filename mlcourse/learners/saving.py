"""Learners in folders: `save` writes one, `load` brings it back, where its file is damaged from a checkpoint."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlcourse import files
from mlcourse.errors import CourseError, CourseWarning
from mlcourse.learners.base import Learner
from mlcourse.learners.building import made_from

WEIGHTS, CONFIG = "learner.safetensors", "config.json"
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"


def check_saving(learner: nn.Module) -> None:
    """Raise CourseError when `load` could not bring this learner back, so before anything is learnt.

    It is made again from what it remembers, and the two must have the same parameters and buffers.
    """
    name = type(learner).__name__
    if not isinstance(learner, Learner):
        if hasattr(learner, "recorded"):  # a trained optimizer: resumed by whoever made it, and loaded by its own room
            return
        raise CourseError(f"{name} is no learner, so it could not be loaded; derive it from mlcourse.learners.Learner")
    again = made_from(learner.recorded())
    if type(again) is not type(learner):
        raise CourseError(f"{name} is another class now (was its file read anew?); make the learner again")
    mine, other = ({key: tuple(value.shape) for key, value in one.state_dict().items()} for one in (learner, again))
    for key in mine | other:
        if mine.get(key) != other.get(key):
            raise CourseError(
                f"{name} was changed after it was made: {key} has the shape {mine.get(key)}, made again from its "
                f"arguments {other.get(key)}, so it could not be loaded; make all of it in __init__"
            )


def save(learner: Learner, folder: Path | str, **more: Any) -> None:
    """Write `learner.safetensors`, then `config.json` with all that `load` needs and whatever `more` tells.

    Raises CourseError for a learner that could not be made again.
    """
    config = learner.recorded()
    folder = Path(folder)
    about = {"learner": config} | more  # in both files, so that either can be lost
    files.save_tensors(folder / WEIGHTS, learner.state_dict(), about)
    files.write_json(folder / CONFIG, about)


def load(folder: Path | str, *, device: torch.device | str = "cpu") -> Learner:
    """Bring a saved learner back, in evaluation mode. No random generator is touched.

    Where a file of a run is missing, damaged or unknown, the newest checkpoint that can be read stands in, with a
    warning. Raises CourseError when nothing can be read. The config names a class: its module is imported, and
    called only when it is a learner.
    """
    return load_run(folder, device=device)[0]


def load_run(folder: Path | str, *, device: torch.device | str = "cpu") -> tuple[Learner, dict[str, Any]]:
    """`load`, and what the files tell of the training: its settings, as `save` wrote them or as the checkpoint has."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CourseError(f"there is no folder {folder}; give the --out folder of a training run")
    errors: list[tuple[Path, CourseError | OSError]] = []
    for path, read in _sources(folder):
        try:
            learner, about, step = read(path)
        except (CourseError, OSError) as error:
            errors.append((path, error))
            continue
        if errors:
            reason = str(errors[0][1]).split(";")[0]
            done = "" if step is None else f", with step {step}"
            warnings.warn(f"{reason}; {path.name} stands in for it{done}", CourseWarning, stacklevel=3)
        return learner.to(device).eval(), about
    # Without a config the first error says only that; a file that is there tells more.
    there = [error for path, error in errors if (folder / CONFIG).exists() or path.exists()]
    raise there[0] if there else errors[0][1]


def _sources(folder: Path) -> list[tuple[Path, Callable]]:
    """The files that a learner may be read from, the best one first, each with the function that reads it."""
    finished, alone = (folder / WEIGHTS, _finished), (folder / WEIGHTS, _without_config)
    newest, previous = ((folder / name, _unfinished) for name in (CHECKPOINT, PREVIOUS))
    if newest[0].exists() and _was_interrupted(folder):  # it may have gone on since
        return [newest, finished, previous, alone]
    return [finished, newest, previous, alone]


def _was_interrupted(folder: Path) -> bool:
    try:
        return files.read_json(folder / CONFIG).get("finished") is False
    except (CourseError, OSError):
        return False


def _finished(path: Path) -> tuple[Learner, dict[str, Any], int | None]:
    """The learner that `save` wrote."""
    config = path.with_name(CONFIG)
    if not config.is_file():
        raise CourseError(f"{path.parent} holds no {CONFIG}: no finished training run; finish it with --resume")
    about = files.read_json(config)
    return _filled(about.get("learner"), files.load_tensors(path)[0], config, path), about, about.get("steps_done")


def _without_config(path: Path) -> tuple[Learner, dict[str, Any], int | None]:
    """The same from the weights' file alone, where the config cannot be read."""
    try:
        files.read_json(path.with_name(CONFIG))
    except (CourseError, OSError):
        tensors, about = _contents(path)
        return _filled(about.get("learner"), tensors, path, path), about, about.get("steps_done")
    raise CourseError(f"{path} does not fit its {CONFIG}; use the files of one folder")


def _contents(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file and what it tells of them."""
    tensors, about = files.load_tensors(path)
    return tensors, about if isinstance(about, dict) else {}


def _unfinished(path: Path) -> tuple[Learner, dict[str, Any], int | None]:
    """The learner in a checkpoint: its best parameters if validation chose some, else the last ones."""
    tensors, about = _contents(path)
    step, history = about.get("step"), about.get("history")
    chosen = {name.removeprefix("best/"): value for name, value in tensors.items() if name.startswith("best/")}
    best = history.get("best_step") if chosen and isinstance(history, dict) else None
    if not chosen:
        chosen = {name.removeprefix("learner/"): v for name, v in tensors.items() if name.startswith("learner/")}
    learner = _filled(about.get("learner"), chosen, path, path)
    settings = about.get("settings")
    told = settings if isinstance(settings, dict) else {}
    told = {"learner": about["learner"]} | told | {"finished": False, "steps_done": step, "best_step": best or 0}
    return learner, told, best or step


def _filled(config: Any, tensors: dict[str, Tensor], described: Path, path: Path) -> Learner:
    """The learner of a config, with the tensors of a file in it, in their number format."""
    if not isinstance(config, dict):
        raise CourseError(f"{described} describes no learner; train again, or take the file from a backup")
    try:
        learner = made_from(config)
    except (CourseError, TypeError) as error:
        raise CourseError(f"{described} describes no learner that this version knows: {error}") from None
    formats = {value.dtype for value in tensors.values() if value.is_floating_point()}
    if len(formats) == 1:
        learner.to(formats.pop())
    restore(learner, tensors, path)
    return learner


def restore(learner: nn.Module, tensors: dict[str, Tensor], source: Path | str) -> None:
    """Put tensors into a learner. Raises CourseError, naming their file, when they are another learner's."""
    try:
        learner.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CourseError(f"{source} belongs to another learner ({first}); use the folder it came with") from None
