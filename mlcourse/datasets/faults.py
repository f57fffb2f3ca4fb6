"""Faulty files: one error that names them and the remedy, or, where they are to be left out, the list of them."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath

from mlcourse.errors import CourseError, CourseWarning, printable


def settle(faults: Sequence[str], *, skip: bool, of: str) -> tuple[str, ...]:
    """What was left out, one line each; a warning counts them. Nothing to leave out: an empty tuple.

    faults: one line for each photo that cannot be used; it names the file and the remedy. of: the data set's name.
    Raises CourseError with the first line, and the number of the others, unless they are to be left out (`skip`).
    """
    if not faults:
        return ()
    if not skip:
        more = f" (and {len(faults) - 1} more faults in {of})" if len(faults) > 1 else ""
        raise CourseError(f"{faults[0]}{more}, or leave such photos out with skip_damaged=True")
    more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    warnings.warn(
        printable(f"{of}: left out {len(faults)}: {faults[0]}{more}; all are listed in `left_out`"),
        CourseWarning,
        stacklevel=3,
    )
    return tuple(printable(fault) for fault in faults)


def rarer(grey: Mapping[Path, bool]) -> dict[Path, str]:
    """A fault for each file of the rarer kind where some photos are grey and some are in colour; else none.

    A network may learn which kind a photo is in place of what it shows. grey: file → whether it holds no colour.
    """
    some = [file for file, is_grey in grey.items() if is_grey]
    others = [file for file, is_grey in grey.items() if not is_grey]
    if not some or not others:
        return {}
    if len(some) <= len(others):
        return {file: f"{file} is grey among photos in colour: save it as RGB, or remove it" for file in some}
    return {file: f"{file} is in colour among grey photos: save it as grey, or remove it" for file in others}


def leads_out(name: str) -> bool:
    """Whether a file name, as a list of files gives it, leads out of the folder that it belongs to (or names none)."""
    parts = PureWindowsPath(name)  # it knows / and \ and drives
    return not name.strip() or bool(parts.drive or parts.root) or ".." in parts.parts or "\0" in name
