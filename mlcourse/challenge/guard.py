"""Say in words what a submission tries and may not: files, the network, further processes.

An audit hook of Python (PEP 578, https://peps.python.org/pep-0578/) sees these attempts and ends them with a sentence.
It is there for the words. What holds against a submission that means harm are the walls (`classroom.sandbox`).
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PROCESSES = ("os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.startfile", "subprocess.", "pty.")
NETWORK = ("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "poplib.", "imaplib.", "nntplib.", "telnetlib.")
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
CHANGES = (*CHANGES, "os.chown", "os.utime", "shutil.", "tempfile.")
LOOKS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk", "glob.")
QUIET = ("socket.gethostname",)  # tells nothing, and libraries ask for it


class Breach(BaseException):
    """What the submission tried, as a sentence. No `except Exception` of a submission stops it."""


class Guard:
    """From `stand` on, what is not allowed raises Breach; `breach` keeps the first sentence."""

    def __init__(self, readable: Sequence[str], hidden: Sequence[str]):
        """readable: folders of Python and its packages. hidden: folders inside them that are none of its business."""
        self.breach: str | None = None
        self._readable = tuple(os.path.realpath(folder) for folder in readable)
        self._hidden = tuple(os.path.realpath(folder) for folder in hidden)

    def stand(self) -> None:
        """Begin. A hook cannot be taken away again."""
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple) -> None:
        found = self._sentence(event, arguments)
        if found:
            self.breach = self.breach or found
            raise Breach(found)

    def _sentence(self, event: str, arguments: tuple) -> str | None:
        if event == "open":
            return self._of_open(*arguments)
        if event.startswith(PROCESSES):
            return f"it starts another process ({event}), and a submission is one process"
        if event.startswith(NETWORK) and event not in QUIET:
            return f"it wants the network ({event}), and there is none in the challenge"
        if event.startswith(CHANGES):
            return f"it writes files ({event} {_told(arguments)}), and a submission writes none"
        if event.startswith(LOOKS) and not self._may_read(arguments[0] if arguments else "."):
            return f"it looks into folders ({_told(arguments)}), and a submission gets tensors only"
        return None

    def _of_open(self, path: Any, mode: Any, flags: Any) -> str | None:
        if isinstance(path, int) or path in (os.devnull, os.devnull.encode()):
            return None
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & WRITING):
            return f"it writes files ({_told((path,))}), and a submission writes none"
        if not self._may_read(path):
            return (
                f"it reads files ({_told((path,))}), and a submission gets tensors only: weights of your own lie "
                "beside it, in a .safetensors of the same name"
            )
        return None

    def _may_read(self, path: Any) -> bool:
        try:
            path = os.path.realpath(os.fsdecode(path if path is not None else "."))
        except (TypeError, ValueError):
            return isinstance(path, int)
        if any(_inside(path, folder) for folder in self._hidden):
            return False
        return any(_inside(path, folder) for folder in self._readable)


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _told(arguments: tuple) -> str:
    """The first argument of an event, short."""
    first = arguments[0] if arguments else ""
    text = os.fsdecode(first) if isinstance(first, (str, bytes, os.PathLike)) else repr(first)
    return text if len(text) <= 80 else f"…{text[-79:]}"
