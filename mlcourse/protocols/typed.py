"""Files that people may have changed: read as JSON, then each field is held against the type that its class gives it.

So whatever comes after may take a field for what it is, and no damaged file ends in a traceback.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mlcourse import files
from mlcourse.errors import CourseError

MOST = 2**64  # whole numbers from here on are no counts, and no tensor holds them
SHOWN = 60  # letters of a value that a message shows
WORDS = {str: "text", bool: "true or false", int: "a whole number", float: "a finite number", NoneType: "null"}
Kind = TypeVar("Kind")


def read(path: Path | str, kind: type[Kind], remedy: str) -> Kind:
    """The object of a dataclass that a JSON file holds; lists become tuples where the class has them.

    remedy: what a person can do about a damaged file. Raises CourseError, with the file and the field, for a file that
    is missing or damaged, a field that is missing or unknown, and a value of another type.
    """
    try:
        found = files.read_json(path)
    except CourseError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand lists in each other
        raise CourseError(f"{path} is damaged ({error}); {remedy}") from None
    hints = get_type_hints(kind)
    odd = sorted(found.keys() ^ hints.keys())
    if odd:
        raise CourseError(f"{path} is of another kind or version: {odd[0]!r} is missing or unknown; {remedy}")
    for name, hint in hints.items():
        if not fits(found[name], hint):
            raise CourseError(f"{path}: {name} is {shown(found[name])}, and has to be {told(hint)}; {remedy}")
    tuples = {name: tuple(found[name]) for name, hint in hints.items() if get_origin(hint) is tuple}
    return kind(**found | tuples)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value out of JSON is of a type: whole numbers are no truth values, and numbers are finite."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return any(fits(value, one) for one in inside)
    if origin is tuple and inside[-1] is not Ellipsis:
        return isinstance(value, list) and len(value) == len(inside) and all(map(fits, value, inside))
    if origin in (tuple, list):
        return isinstance(value, list) and all(fits(one, inside[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(one, inside[1]) for one in value.values())
    if hint is Any:
        return plain(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MOST
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < MOST
    return isinstance(value, hint)


def plain(value: Any) -> bool:
    """Whether all numbers in a value are finite."""
    if isinstance(value, (list, dict)):
        return all(map(plain, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def told(hint: Any) -> str:
    """A type in words: "a list, each a whole number"."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return " or ".join(map(told, inside))
    if origin is tuple and inside[-1] is not Ellipsis:
        return f"a list of {len(inside)}, each {told(inside[0])}"
    if origin in (tuple, list):
        return f"a list, each {told(inside[0])}"
    if origin is dict:
        return f"an object, each value {told(inside[1])}"
    return WORDS.get(hint, "a plain value, its numbers finite")


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} …"
