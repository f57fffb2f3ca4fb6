"""The command `mlcourse`: one group of small commands, each in its own file and imported only when it is called.

What goes wrong for a reason that a person can mend (bad input, a missing file, a full disk) becomes one line on
stderr and exit code 2. Anything else is a fault of the course and shows its traceback, as does everything when
MLCOURSE_DEBUG is set.
"""

import errno
import importlib
import json
import math
import os
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperGroup

from mlcourse import __version__, places
from mlcourse.commands import console
from mlcourse.errors import CourseError, CourseWarning
from mlcourse.vision import TASKS

# name of the command -> where its function, or its group of commands, lives; the file is imported when it is needed
COMMANDS = {
    "lab": "mlcourse.commands.lab:lab",
    "doctor": "mlcourse.commands.doctor:doctor",
    "progress": "mlcourse.commands.progress:progress",
    "data": "mlcourse.commands.data_sets:app",
    "train": "mlcourse.commands.train:train",
    "search": "mlcourse.commands.search:search",
    "evaluate": "mlcourse.commands.evaluate:evaluate",
    "challenge": "mlcourse.commands.challenge:challenge",
    "table": "mlcourse.commands.table:table",
    "bench": "mlcourse.commands.bench:bench",
    "run": "mlcourse.commands.run:run",
    "slides": "mlcourse.commands.slides:slides",
    "site": "mlcourse.site.command:site",
    "handout": "mlcourse.commands.handout:handout",
    "grade": "mlcourse.commands.grade:grade",
    "hub": "mlcourse.commands.hub:hub",
    "tidy": "mlcourse.commands.notebook_tools:tidy",
    "golden": "mlcourse.commands.notebook_tools:golden",
}
# "train segmentation", …: a task of vision has options of its own
OF_TASKS = {f"train {name}": f"mlcourse.commands.{name}:train" for name in TASKS}

TOGETHER = ("train", *OF_TASKS)  # what several processes of torchrun may do

GIVEN = "mlcourse.given"  # where a call keeps the words of its command line


def one_line(error: BaseException) -> str | None:
    """The line that a person reads instead of a traceback, or None when the error is a fault of the course."""
    text = " ".join(str(error).split())
    full = "no space is left on the disk{}: free some, or write elsewhere; files are written whole or not at all"
    memory = "this machine's memory is full: take fewer tasks at a time, or close other programs"
    if isinstance(error, CourseError):
        return text
    if isinstance(error, OSError):
        name = f" ({error.filename})" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return full.format(name)
        remedies = {
            errno.ENOENT: "there is no such file or folder{}: check the path",
            errno.EACCES: "this file or folder may not be used{}: change its rights, or use another",
            errno.EPERM: "this file or folder may not be used{}: change its rights, or use another",
            errno.EROFS: "the disk can only be read{}: write elsewhere",
            errno.ENOTDIR: "a file is in the place of a folder{}: move it away, or use another path",
            errno.EISDIR: "a folder is in the place of a file{}: move it away, or use another path",
            errno.ENAMETOOLONG: "a name is too long for this disk{}: take a shorter one",
            errno.ELOOP: "a link leads back to itself{}: remove it, or use another path",
            errno.EFBIG: "a file grew larger than this system allows{}: write elsewhere",
            errno.ENOMEM: memory,
            errno.EEXIST: "a file is there already{}: move it away, or use another path",
        }
        if error.errno in remedies:
            return remedies[error.errno].format(name)
    if "No space left on device" in text:  # libraries in C++ and Rust wrap the system's error
        return full.format("")
    if isinstance(error, MemoryError) or "can't allocate memory" in text:  # Python's own words, and PyTorch's
        return memory
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU's memory is full: take fewer tasks at a time, close other programs, or say --device cpu"
    return None


def to_json(value: Any) -> str:
    """The JSON of what a command tells; numbers that are not finite are null, which JSON has, and NaN it has not."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_given(words: list[str]) -> None:
    """Raise CourseError for an empty word on the command line: an empty path would mean the current folder."""
    for before, word in zip(["", *words], words, strict=False):
        option, equals, value = word.partition("=")
        if word.startswith("--") and equals and not value.strip():
            raise CourseError(f"{option} is empty: give it a value, or leave it out")
        if not word.strip():
            what = before if before.startswith("-") else "an argument"
            raise CourseError(f"{what} is empty: give it a value, or leave it out")


def say(message: str) -> None:
    """Write one line to stderr."""
    print(f"mlcourse: {message}", file=sys.stderr, flush=True)


def speaks() -> bool:
    """Whether this process says its warnings and errors: of several that train together not all say the same."""
    together = sys.modules.get("mlcourse.distributed")  # only a command that joins them imports it
    return together is None or together.speaks()


_show_warning = warnings.showwarning


def _say_warning(message, category, *where, **options) -> None:
    """One line for a warning of the course, without the line of code that gave it; any other as Python shows it."""
    if issubclass(category, CourseWarning):
        if speaks():
            say(str(message))
    else:
        _show_warning(message, category, *where, **options)


class Commands(TyperGroup):
    """A group that imports a command when it is needed, and turns errors into one line."""

    def main(self, *args, **kwargs):
        console.never_fail_to_print()
        return super().main(*args, **kwargs)

    def list_commands(self, ctx):
        return list(COMMANDS)

    def resolve_command(self, ctx, args):
        if " ".join(args[:2]) in OF_TASKS:
            args = [" ".join(args[:2]), *args[2:]]
        return super().resolve_command(ctx, args)

    def get_command(self, ctx, name):
        known = COMMANDS | OF_TASKS
        if name not in known:
            return None
        module, attribute = known[name].split(":")
        found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, typer.Typer):  # a group of commands, such as `mlcourse data list`
            made = typer.main.get_command(found)
            made.name = name
            return made
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(name)(found)
        return typer.main.get_command(alone)

    def parse_args(self, ctx, args):
        ctx.meta[GIVEN] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx):
        try:
            check_given(ctx.meta[GIVEN])
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            # whoever keeps something on the way says so in the exception
            say(f"stopped: {stop}" if str(stop) else "stopped; what was written to disk before is kept")
            raise typer.Exit(130) from None
        except Exception as error:
            message = None if os.environ.get("MLCOURSE_DEBUG") else one_line(error)
            if message is None:
                raise
            if speaks():
                say(message)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def check_together(command: str | None) -> None:
    """Raise CourseError for a command that is for one process, where torchrun started several."""
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1" or command in (None, *TOGETHER):
        return
    if os.environ["RANK"] != "0":  # the first one says it
        raise typer.Exit(2)
    raise CourseError(
        f"mlcourse {command} is for one process, and torchrun started {os.environ.get('WORLD_SIZE', 'several')}: start "
        "it without torchrun (several processes are for mlcourse train)"
    )


@app.callback()
def main(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """Meta-learning for computer vision: the course's lessons, its training and its evaluation."""
    places.settle()
    check_together(ctx.invoked_subcommand)
    warnings.showwarning = _say_warning
