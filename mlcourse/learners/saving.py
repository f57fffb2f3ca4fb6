"""Learners in folders: `save` writes one, `load` brings it back, where its file is damaged from a checkpoint."""

import inspect
import json
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mlcourse import files
from mlcourse.errors import CourseError, CourseWarning
from mlcourse.learners.base import Learner
from mlcourse.learners.building import completed, made_from
from mlcourse.networks import Recorded

WEIGHTS, CONFIG = "learner.safetensors", "config.json"
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
PLAIN = (bool, int, float, str, type(None))
FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, type)
# Of their classes: what has no underscore before its name is what they compute with, not what they find out.
LIBRARIES = ("torch.", "mlcourse.")
HOOKS = (
    "_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks", "_state_dict_pre_hooks",
    "_state_dict_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_post_accumulate_grad_hooks",
)  # fmt: skip


def check_saving(learner: nn.Module) -> None:
    """Raise CourseError when `load` could not bring this learner back, so before anything is learnt.

    It is made again from what it remembers. The two must have the same parts, parameters and buffers, and the values of
    their arguments must still be what they were made with.
    """
    name = type(learner).__name__
    if hasattr(learner, "_orig_mod"):
        raise CourseError(f"torch.compile({type(learner._orig_mod).__name__}) has other names; call learner.compile()")
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
    mine, other = _first_names(learner), _first_names(again)
    for key in mine:
        if mine[key] != other.get(key, mine[key]):
            shares = ["none" if one[key] == key else one[key] for one in (mine, other)]
            raise CourseError(
                f"{changed}: {key} shares its numbers with {shares[0]}, made again from its arguments with "
                f"{shares[1]}, so it could not be loaded; share them in __init__"
            )
    mine, other = (dict(one.named_parameters(remove_duplicate=False)) for one in (learner, again))
    for key in mine:
        _check_same_hooks(mine[key], other.get(key), f"{key}.", changed)
    parts, others = (dict(one.named_modules(remove_duplicate=False)) for one in (learner, again))
    for place in parts | others:
        part, other = parts.get(place), others.get(place)
        if _kind(part) != _kind(other):
            kinds = [_kind(one).split(":")[1] for one in (part, other)]
            raise CourseError(
                f"{changed}: {place} is {kinds[0]}, made again from its arguments {kinds[1]}, so it could not be "
                "loaded; make all of it in __init__"
            )
        _check_same_part(part, other, f"{place}." if place else "", changed)


def _check_same_part(part: nn.Module, other: nn.Module, place: str, changed: str) -> None:
    """Raise CourseError where one part computes otherwise than the same part made again."""
    for what in _settings_of(part):
        now, replaces = vars(part)[what], getattr(type(part), what, None)
        if callable(replaces) and what not in vars(other):
            raise CourseError(f"{changed}: it got its own {place}{what}, which no file keeps; define it in a class")
        then = vars(other).get(what, replaces if isinstance(replaces, (bool, int, float, str, tuple)) else now)
        if not _same(now, then):
            now, then = (getattr(value, "__name__", None) or repr(value) for value in (now, then))
            raise CourseError(
                f"{changed}: {place}{what} is {now}, made again from its arguments {then}, and a file keeps the "
                "arguments; make it anew with that value"
            )
    _check_same_hooks(part, other, place, changed)
    unsaved = _unsaved_tensors(other)
    for what, now in _unsaved_tensors(part).items():
        if what in unsaved and not _equal(now, unsaved[what]):
            raise CourseError(
                f"{place}{what} holds numbers that no file keeps, and other ones when it is made again; make it a "
                "buffer (register_buffer)"
            )


def _check_same_hooks(one: Any, other: Any, place: str, changed: str) -> None:
    """Raise CourseError where a module or a parameter has other hooks than the same one made again."""
    for kind in HOOKS:
        has, had = (_names_in(getattr(each, kind, None)) for each in (one, other))
        if has != had:
            raise CourseError(
                f"{changed}: {place}{kind[1:]} are {has}, made again from its arguments {had}, and no file keeps "
                "hooks; remove them, or register them in __init__"
            )


def _first_names(learner: nn.Module) -> dict[str, str]:
    """Of each parameter the first name that it has: parameters of one first name are one tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(one), name) for name, one in learner.named_parameters(remove_duplicate=False)}


def _names_in(hooks: dict[int, Any] | None) -> str:
    # a wrapped hook loses its name in copy.deepcopy; what it wraps does not
    bare = [getattr(hook, "hook", hook) for hook in (hooks or {}).values()]
    names = [getattr(hook, "__qualname__", type(hook).__qualname__) for hook in bare]
    return ", ".join(names) or "none"


def _tensors_in(items: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors among named values, and in lists, tuples and dicts among them. A parameter is kept by its module."""
    for name, value in items:
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            yield str(name), torch.as_tensor(value)
        elif isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            yield str(name), value
        elif isinstance(value, (list, tuple, dict)) and not str(name).startswith("_"):
            inside = value.items() if isinstance(value, dict) else enumerate(value)
            yield from _tensors_in((f"{name}[{key!r}]", one) for key, one in inside)


def _unsaved_tensors(part: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module by name that its state does not hold: plain attributes, buffers that do not persist.

    Not of a layer of PyTorch: its plain ones are computed from its parameters, as by `torch.nn.utils.weight_norm`.
    """
    computed = type(part).__module__.startswith("torch.")
    plain = {} if computed else dict(_tensors_in(vars(part).items()))
    return plain | {name: part._buffers[name] for name in part._non_persistent_buffers_set if name in part._buffers}


def _equal(now: Tensor, then: Tensor | None) -> bool:
    """Whether two tensors hold the same numbers, in the first one's number format; nan is equal to itself."""
    if now is None or then is None or now.shape != then.shape:
        return now is then
    return torch.equal(now.cpu().nan_to_num(), then.to("cpu", now.dtype).nan_to_num())


def _kind(part: nn.Module | None) -> str:
    """ "module:Class" of a part; PyTorch makes a class anew for each layer whose weight is computed from others."""
    return f"{type(part).__module__}:{type(part).__qualname__}" if part is not None else ":nothing"


def _settings_of(part: nn.Module) -> list[str]:
    """The attributes of a module that say what it computes: its arguments, and functions such as an activation.

    Of classes of the libraries all that they show. Of another class also what it has in place of a method or of what a
    `Learner` says of itself. What it keeps besides (counts, remarks) is its own business.
    """
    given = vars(part).keys() - {"training", "made_with", "config"}
    if type(part).__module__.startswith(LIBRARIES):
        return sorted(name for name in given if not name.startswith("_"))
    known = {*inspect.signature(type(part)).parameters, *(set(dir(Learner)) - set(dir(Recorded)))}
    return sorted(
        name
        for name in given
        if name in known or callable(getattr(type(part), name, None)) or isinstance(vars(part)[name], FUNCTIONS)
    )


def _same(now: Any, then: Any) -> bool:
    """Whether two values are the same, as far as they are plain values or functions; of others it says yes."""
    if isinstance(now, partial) and isinstance(then, partial):
        return all(map(_same, (now.func, now.args, now.keywords), (then.func, then.args, then.keywords)))
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
    tensors, told = _contents(path)
    learner = _filled(about.get("learner"), tensors, config, path)
    _check_one_run(about, told, path)
    return learner, about, about.get("steps_done")


def _without_config(path: Path) -> tuple[Learner, dict[str, Any], int | None]:
    """The same from the weights' file alone, where the config cannot be read."""
    try:
        files.read_json(path.with_name(CONFIG))
    except (CourseError, OSError):
        tensors, about = _contents(path)
        return _filled(about.get("learner"), tensors, path, path), about, about.get("steps_done")
    raise CourseError(f"{path} does not fit its {CONFIG}; use the files of one folder")


def _check_one_run(about: dict[str, Any], told: dict[str, Any], path: Path) -> None:
    """Raise CourseError where the weights tell of another run than the config beside them (old files tell nothing)."""
    for name in about:
        theirs, mine = (completed(one.get(name)) if name == "learner" else one.get(name) for one in (about, told))
        if name in told and (found := first_difference(theirs, mine, name)):
            name, config, weights = found
            differs = f"{name} is {shortened(weights)}, and {shortened(config)} in {CONFIG}"
            raise CourseError(
                f"{path} is of another run than its {CONFIG}: {differs}; put the files of one run together, or delete "
                f"{CONFIG} (the weights tell what they are)"
            )


def first_difference(one: Any, other: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """(name, value, other value) of the first difference of two JSON values; None where they are the same."""
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = ((one.get(key), other.get(key), f"{name} {key}".strip()) for key in sorted(one.keys() | other.keys()))
        return next(filter(None, (first_difference(*pair) for pair in pairs)), None)
    same = one == other or json.dumps(one) == json.dumps(other)  # as text nan is equal to itself
    return None if same else (name, one, other)


def shortened(value: Any, most: int = 100) -> str:
    """A setting in words, cut where it is long, as a list of class names may be."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


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
    for name, value in learner.state_dict(keep_vars=True).items():  # parts may be of several number formats
        if name in tensors:
            value.data = value.data.to(tensors[name].dtype)
    restore(learner, tensors, path)
    return learner


def restore(learner: nn.Module, tensors: dict[str, Tensor], source: Path | str) -> None:
    """Put tensors into a learner.

    Raises CourseError, naming their file, when they are another learner's, or of another number format.
    """
    for name, value in learner.state_dict().items():
        if name in tensors and tensors[name].dtype != value.dtype:  # PyTorch would round them, and say nothing
            raise CourseError(
                f"{source} holds {name} in {tensors[name].dtype}, and the learner has {value.dtype}; call "
                f"learner.to({tensors[name].dtype}) before"
            )
    try:
        learner.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise CourseError(f"{source} belongs to another learner ({first}); use the folder it came with") from None
