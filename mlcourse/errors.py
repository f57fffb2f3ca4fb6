"""The one error that the course raises on purpose, and the check of a number that nearly every option needs."""

import math


class CourseError(ValueError):
    """Bad input. The message is one line that names the value and the remedy; commands print it without a traceback."""


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
