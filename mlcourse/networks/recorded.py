"""Modules that remember what they were made with, so that a file can tell it and another process make them again.

    class MyNetwork(Recorded):
        def __init__(self, width: int = 32): ...

    MyNetwork(64).recorded()   # {"class": "my_file:MyNetwork", "arguments": {"width": 64}}
    made_again({"class": "my_file:MyNetwork", "arguments": {"width": 64}})

Learners are Recorded. What is written are plain values: None, bool, numbers, text, lists, tuples, dicts with text as
keys, and modules that are themselves Recorded. No pickle: a file names a class and values, and brings no code along.
"""

import copy
import importlib
import inspect
import sys
from abc import ABCMeta
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from mlcourse.errors import CourseError

WRAPS = ("module", "tuple", "dict")  # {"tuple": […]}: what JSON has no form of its own for


class Recording(ABCMeta):
    """The type of classes whose objects remember their arguments."""

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        # Before the object is made: a constructor may change the lists that it is given.
        config, trouble = _written(cls, arguments, named)
        made = super().__call__(*arguments, **named)
        made.made_with = config, trouble
        return made

    @property
    def __signature__(cls) -> inspect.Signature:
        """That of `__init__`: without this, inspect would show the one of `__call__` above."""
        signature = inspect.signature(cls.__init__)
        return signature.replace(parameters=list(signature.parameters.values())[1:])


class Recorded(nn.Module, metaclass=Recording):
    """An `nn.Module` that remembers what it was made with.

    renamed: arguments that files of earlier versions give under another name, {then: now}.
    """

    made_with: tuple[dict[str, Any] | None, str] = (None, "")
    renamed: Mapping[str, str] = MappingProxyType({})

    def recorded(self) -> dict[str, Any]:
        """{"class": "module:Class", "arguments": {…}}, from which `made_again` makes a module of the same shape.

        Raises CourseError, with the remedy, where that is not possible.
        """
        config, trouble = self.made_with
        if config is None:
            raise CourseError(trouble)
        return copy.deepcopy(config)


def made_again(config: dict[str, Any], kind: type = nn.Module, named: Callable | None = None) -> Any:
    """A module of the class and the arguments that `recorded` wrote. Its module is imported, as `import` would.

    kind: what the class must be. named: makes modules that are recorded otherwise than by their class.
    Raises CourseError for a class that is not there, is no such kind, or does not take the arguments.
    """
    if not isinstance(config, dict) or not isinstance(config.get("arguments"), dict) or "class" not in config:
        raise CourseError("it holds no class with its arguments")
    found = class_of(config["class"])
    if not isinstance(found, Recording) or not issubclass(found, kind):
        raise CourseError(f"{config['class']} is no {kind.__name__} that remembers its arguments; it is not called")
    arguments = _read(under_todays_names(found, config["arguments"]), named)
    signature = inspect.signature(found)
    unknown = [name for name in arguments if name not in signature.parameters]
    if unknown:
        raise CourseError(f"{config['class']} has no argument {unknown[0]!r}; it has {', '.join(signature.parameters)}")
    bound = inspect.BoundArguments(signature, arguments)
    try:
        return found(*bound.args, **bound.kwargs)
    except CourseError:
        raise
    except Exception as error:  # whatever a constructor of one's own raises
        raise CourseError(f"{config['class']} cannot be made again: {type(error).__name__}: {error}") from error


def under_todays_names(made: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a file gives for `made`, those that were `renamed` since then under their names of today."""
    has = inspect.signature(made).parameters
    names = {then: now for then, now in getattr(made, "renamed", {}).items() if now in has and then not in has}
    return {names.get(name, name): value for name, value in arguments.items()}


def class_of(place: Any) -> Any:
    """What "module:Class" names. Raises CourseError where it is not there."""
    module, _, names = str(place).partition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # what the module's own code raises, too
        raise CourseError(
            f"the module {module!r} of {place} cannot be imported ({type(error).__name__}: {error}); start where it "
            "can, or name its folder in PYTHONPATH"
        ) from None
    for name in names.split("."):
        if not hasattr(found, name):
            raise CourseError(f"the module {module!r} has no {names!r}; take the file as it was when this was saved")
        found = getattr(found, name)
    return found


def _written(cls: type, arguments: tuple, named: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """What `recorded` gives, or None and why it cannot."""
    try:
        place = place_of(cls)
        bound = inspect.signature(cls).bind(*arguments, **named)
        written = {name: _plain(value, f"{name} of {cls.__name__}") for name, value in bound.arguments.items()}
    except CourseError as trouble:
        return None, str(trouble)
    except TypeError as error:  # of `bind`: the call is wrong, and making the object says so
        return None, str(error)
    for name, parameter in inspect.signature(cls).parameters.items():
        # So that a default that changes later changes no module that was saved before. Others are the class's business.
        if name not in written and parameter.default is not parameter.empty:
            try:
                written[name] = _plain(parameter.default, name)
            except CourseError:
                continue
    return {"class": place, "arguments": written}, ""


def place_of(cls: type) -> str:
    """ "module:Class", where another process finds it. Raises CourseError where it would not."""
    if cls.__module__ == "__main__":
        raise CourseError(
            f"the class {cls.__name__} stands in the notebook or the script that runs, where no other process finds "
            "it; put it into a file of its own (my_learner.py) and import it from there"
        )
    if "<locals>" in cls.__qualname__:
        raise CourseError(
            f"the class {cls.__name__} stands inside a function, where no other process finds it; move it to the top "
            "level of its file"
        )
    found = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    # While its own module is still being imported a class is not there yet.
    if found is not None and found is not cls:
        raise CourseError(
            f"{cls.__module__} has another class {cls.__qualname__} now (was the file read anew?); make the learner "
            "again, from the new class"
        )
    return f"{cls.__module__}:{cls.__qualname__}"


def _plain(value: Any, what: str) -> Any:
    """A value as JSON has it. Raises CourseError where that is not possible."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [_plain(one, what) for one in value]
    if type(value) is tuple:
        return {"tuple": [_plain(one, what) for one in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        inside = {key: _plain(one, what) for key, one in value.items()}
        return {"dict": inside} if len(inside) == 1 and set(inside) <= set(WRAPS) else inside
    if isinstance(value, Recorded):
        return {"module": value.recorded()}
    if isinstance(value, nn.Module):
        raise CourseError(
            f"{what} is a network of the class {type(value).__name__}, which does not remember its arguments; derive "
            "that class from mlcourse.networks.Recorded, or make the network inside the learner from plain values"
        )
    raise CourseError(
        f"{what} is of type {type(value).__name__}, and a file keeps plain values only (numbers, text, lists); give "
        "its name, and look it up in __init__"
    )


def _read(value: Any, named: Callable | None) -> Any:
    """The value that `_plain` wrote."""
    if isinstance(value, list):
        return [_read(one, named) for one in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(wrap, inside)] = value.items()
        if wrap == "module":
            return named(inside) if named else made_again(inside, named=named)
        if wrap == "tuple":
            return tuple(_read(one, named) for one in inside)
        if wrap == "dict":
            return {key: _read(one, named) for key, one in inside.items()}
    return {key: _read(one, named) for key, one in value.items()}
