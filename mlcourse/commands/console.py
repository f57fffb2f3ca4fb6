"""What the commands write to a terminal: letters that every encoding has, and a line that moves while one waits."""

import codecs
import shutil
import sys
import threading
import time
from typing import TextIO

from mlcourse.errors import printable

# What stands for a sign in an encoding that lacks it; every other one is written as Python writes it: \u03b1.
PLAIN = {
    "→": "->", "←": "<-", "±": "+/-", "×": "x", "−": "-", "–": "-", "—": "-", "…": "...", "≤": "<=", "≥": ">=",
    "≈": "about", "·": "*", "✓": "ok", "“": '"', "”": '"', "’": "'",
}  # fmt: skip
SECONDS = {True: 1.0, False: 20.0}  # between two lines of `Progress`: on a terminal, and in a file


def plainly(error: UnicodeError) -> tuple[str, int]:
    """An error handler for `codecs`: write what an encoding lacks in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(
        PLAIN.get(sign) or printable(sign).encode("ascii", "backslashreplace").decode() for sign in signs
    ), error.end


def never_fail_to_print() -> None:
    """From now on no letter stops the program, whatever encoding the terminal, the file or the pipe has.

    A file name that is no UTF-8 (half characters in Python) stops even a terminal that knows every letter.
    """
    codecs.register_error("mlcourse.plainly", plainly)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not so for None (no terminal at all), nor for a stream of somebody's own
            stream.reconfigure(errors="mlcourse.plainly")


def duration(seconds: float) -> str:
    """Seconds as a person says them: "40 s", "3 min", "2.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


class Progress:
    """A line on stderr that says where a long work is, and about how long it still takes.

        with Progress("W3") as progress:
            progress.at(0.25, "times, step 3 of 12")

    On a terminal the line changes in its place, and is gone at the end; in a file there is one line each 20 s.
    """

    def __init__(self, what: str, stream: TextIO | None = None, every: float | None = None):
        self.what = what
        self.stream = stream or sys.stderr
        self.moves = self.stream.isatty()
        self.every = every or SECONDS[self.moves]
        self.share, self.text, self.detail, self.width = 0.0, "starting", "", 0
        self.began = self.changed = time.monotonic()
        self.done, self.lock = threading.Event(), threading.Lock()
        self.painter = threading.Thread(target=self._paint, daemon=True)

    def at(self, share: float, text: str) -> None:
        """Say that `share` of the work (0 to 1) is done, and what comes now."""
        self.share, self.text, self.detail, self.changed = share, text, "", time.monotonic()

    def note(self, detail: str) -> None:
        """Say how what runs now goes, such as "accuracy=0.91". The next `at` takes it away; the time left stays."""
        self.detail = detail

    def say(self, message: str) -> None:
        """Write a line that stays, above the one that changes."""
        with self.lock:
            self._erase()
            self.stream.write(f"mlcourse: {message}\n")
            self.stream.flush()

    def line(self) -> str:
        """What, where, how long already, how long still."""
        now = time.monotonic()
        left = ""
        if self.share:
            # the work that is done took until the last change; what runs now has used some of the time left
            left = max((self.changed - self.began) * (1 / self.share - 1) - (now - self.changed), 0)
            left = f", about {duration(left)} left"
        # at the end, where a narrow terminal cuts it first
        detail = f"; {self.detail}" if self.detail else ""
        return f"{self.what}: {self.text}, {duration(now - self.began)} so far{left}{detail}"

    def _paint(self) -> None:
        while not self.done.wait(self.every):
            with self.lock:
                self._erase()
                line = self.line()
                if self.moves:  # a longer line would fold, and only its last part could be erased
                    line = line[: shutil.get_terminal_size().columns - 1]
                    self.width = len(line)
                self.stream.write(line if self.moves else f"{line}\n")
                self.stream.flush()

    def _erase(self) -> None:
        if self.width:
            self.stream.write(f"\r{' ' * self.width}\r")
            self.width = 0

    def __enter__(self) -> "Progress":
        self.painter.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.painter.join()
        self._erase()
        self.stream.flush()
