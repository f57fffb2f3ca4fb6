"""The error that the course raises on purpose, the one warning, and the checks that nearly every number needs."""

import math
import operator
import unicodedata

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # categories: controls, halves of pairs, ends of lines and of paragraphs


def printable(text: object) -> str:
    """`text` on one line, of characters that every UTF-8 file and screen takes.

    A file name may hold any bytes. Those that are no text (caf\\xe9 in Latin-1), control characters and ends of lines
    are written as escapes.
    """
    return "".join(
        _escaped(character) if unicodedata.category(character) in UNPRINTABLE else character for character in str(text)
    )


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte of a file name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


class CourseError(ValueError):
    """Bad input. The message is one line that names the value and the remedy; commands print it without a traceback."""

    def __str__(self) -> str:
        return printable(" ".join(super().__str__().splitlines()))


class RanAway(CourseError):
    """Numbers that are no longer finite: no bad input as such, but what came of rates that are too high."""


class CourseWarning(UserWarning):
    """What a person should know of an input that is used all the same: one line that names it and the remedy."""


def check_whole(name: str, value: int, *, least: int = 0) -> None:
    """Raise CourseError for what is no whole number of `least` or more; True and 2.0 are none, NumPy's integers are."""
    try:
        right = not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:  # not an integer of any kind
        right = False
    if not right:
        raise CourseError(f"{name} is {value!r}; give a whole number, {least} or more")


def check_number(name: str, value: float, *, above: float | None = None, least: float | None = None) -> None:
    """Raise CourseError for what is no finite number above `above`, or of `least` or more."""
    wanted = "a finite number"
    if above is not None:
        wanted += f" above {above:g}"
    if least is not None:
        wanted += f", {least:g} or more"
    try:
        right = math.isfinite(value) and (above is None or value > above) and (least is None or value >= least)
    except (TypeError, ValueError):  # no number at all
        right = False
    if not right:
        raise CourseError(f"{name} is {value!r}; give {wanted}")
