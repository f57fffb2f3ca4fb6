"""Learners in folders: `save` writes one, `load` brings it back, where its file is damaged from a checkpoint."""

import inspect
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mlcourse import files
from mlcourse.errors import CourseError, CourseWarning
from mlcourse.learners.base import Learner
from mlcourse.learners.building import made_from

WEIGHTS, CONFIG = "learner.safetensors", "config.json"
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
PLAIN = (bool, int, float, str, type(None))
FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, type)
ANSWERS = ("adapt", "inner_process", "predict", "forward")  # methods that one object may have been given anew


def check_saving(learner: nn.Module) -> None:
    """Raise CourseError when `load` could not bring this learner back, so before anything is learnt.

    It is made again from what it remembers. The two must have the same parts, parameters and buffers, and the values of
    their arguments must still be what they were made with.
    """
    name = type(learner).__name__
    if not isinstance(learner, Learner):
        if hasattr(learner, "recorded"):  # a trained optimizer: resumed by whoever made it, and loaded by its own room
            return
        raise CourseError(f"{name} is no learner, so it could not be loaded; derive it from mlcourse.learners.Learner")
    _check_same(learner, made_from(learner.recorded()))


def _check_same(learner: Learner, again: Learner) -> None:
    """Raise CourseError where a learner is another one than `again`, which was made from what it remembers."""
    name = type(learner).__name__
    if type(again) is not type(learner):
        raise CourseError(f"{name} is another class now (was its file read anew?); make the learner again")
    changed = f"{name} was changed after it was made"
    if lazy := [key for key, value in (*learner.named_parameters(), *again.named_parameters()) if is_lazy(value)]:
        raise CourseError(f"{lazy[0]} of {name} has no shape before the first pictures come; give the layer its size")
    moves, again_moves = ({k: v.requires_grad for k, v in one.named_parameters()} for one in (learner, again))
    for key, moved in moves.items():
        if again_moves.get(key, moved) != moved:
            raise CourseError(
                f"{changed}: {key} is {'trained' if moved else 'frozen'}, made again from its arguments it is "
                f"{'frozen' if moved else 'trained'}, and a file keeps the arguments; set requires_grad in __init__"
            )
    mine, other = ({key: tuple(value.shape) for key, value in one.state_dict().items()} for one in (learner, again))
    for key in mine | other:
        if mine.get(key) != other.get(key):
            raise CourseError(
                f"{changed}: {key} has the shape {mine.get(key)}, made again from its "
                f"arguments {other.get(key)}, so it could not be loaded; make all of it in __init__"
            )
    parts, others = (dict(one.named_modules(remove_duplicate=False)) for one in (learner, again))
    for place in parts | others:
        part, other = parts.get(place), others.get(place)
        if _kind(part) != _kind(other):
            kinds = [_kind(one).split(":")[1] for one in (part, other)]
            raise CourseError(
                f"{changed}: {place} is {kinds[0]}, made again from its arguments {kinds[1]}, so it could not be "
                "loaded; make all of it in __init__"
            )
        for what in _settings_of(part):
            name, now = f"{place}.{what}" if place else what, vars(part)[what]
            if what in ANSWERS and what not in vars(other):
                raise CourseError(f"{changed}: it got a {name} of its own, which no file keeps; define it in a class")
            then = vars(other).get(what, now)
            if not _same(now, then):
                now, then = (getattr(value, "__name__", None) or repr(value) for value in (now, then))
                raise CourseError(
                    f"{changed}: {name} is {now}, made again from its arguments {then}, and a file keeps the "
                    "arguments; make it anew with that value"
                )


def _kind(part: nn.Module | None) -> str:
    """ "module:Class" of a part; PyTorch makes a class anew for each layer whose weight is computed from others."""
    return f"{type(part).__module__}:{type(part).__qualname__}" if part is not None else ":nothing"


def _settings_of(part: nn.Module) -> list[str]:
    """The attributes of a module that say what it computes: its arguments, and functions such as an activation.

    Of a layer of PyTorch all that it shows. What another class keeps besides (counts, remarks) is its own business.
    """
    given = vars(part).keys() - {"training"}
    if type(part).__module__.startswith("torch."):
        return sorted(name for name in given if not name.startswith("_"))
    arguments = inspect.signature(type(part)).parameters
    return sorted(n for n in given if n in arguments or n in ANSWERS or isinstance(vars(part)[n], FUNCTIONS))


def _same(now: Any, then: Any) -> bool:
    """Whether two values are the same, as far as they are plain values or functions; of others it says yes."""
    if isinstance(now, FUNCTIONS) or isinstance(then, FUNCTIONS):
        return now is then or getattr(now, "__qualname__", now) == getattr(then, "__qualname__", then)
    if isinstance(now, PLAIN) and isinstance(then, PLAIN):
        return now == then or (now != now and then != then)  # nan is not equal to itself
    if isinstance(now, (list, tuple)) and isinstance(then, (list, tuple)):
        return len(now) == len(then) and all(map(_same, now, then))
    if isinstance(now, dict) and isinstance(then, dict):
        return now.keys() == then.keys() and all(_same(now[key], then[key]) for key in now)
    return not isinstance(now, PLAIN) and not isinstance(then, PLAIN)


def save(learner: Learner, folder: Path | str, **more: Any) -> None:
    """Write `learner.safetensors`, then `config.json` with all that `load` needs and whatever `more` tells.

    Raises CourseError for a learner that could not be made again as it is.
    """
    check_saving(learner)
    config = learner.recorded()
    files.check_named(folder, "the folder of the learner")
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
    files.check_named(folder, "the folder of the learner")
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
