"""A desk of the class room: what one student's JupyterLab can see and take, on a machine that all share.

Every server runs as the same user of the system, inside bubblewrap: it sees the system, the course, and its own home,
all but the last one read-only. It does not see other homes, the hub's files, or other people's processes. It shares
the network, since the hub must reach it. Memory is watched from outside.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from mlcourse import memory, places
from mlcourse.classroom import sandbox
from mlcourse.errors import CourseError

GIB = 2**30
SERVER = "mlcourse.commands.desk"  # the module that a desk runs
# of one student: JupyterLab itself, and a kernel in the largest lesson, with room to spare (data/results/lessons.json)
NEEDED = 3 * GIB
SCRATCH = 256 * 2**20  # bytes of /tmp and of /dev/shm, each
KEPT = 1 * GIB  # for the hub and the system
SYSTEM = ("resolv.conf", "hosts", "nsswitch.conf", "ssl", "fonts", "localtime", "mime.types")


@dataclass(frozen=True)
class Room:
    """The class room of one machine. folder: homes, passwords, the hub's own files. memory: bytes for one student."""

    folder: Path
    memory: int = NEEDED

    def home(self, name: str) -> Path:
        """A student's home; their work folder lies in it."""
        return self.folder / "students" / name


def seats(each: int = NEEDED) -> int:
    """How many students this machine's memory is enough for at a time."""
    return max(0, (memory.total() - KEPT) // each)


def check_memory(each: int) -> None:
    """Raise CourseError where nobody could work with that much memory, or nobody fits into the machine."""
    if each < GIB:
        raise CourseError(f"{each / GIB:.1f} GB for a student is too little: JupyterLab and a lesson take 2 to 3 GB")
    if not seats(each):
        raise CourseError(
            f"this machine has {memory.total() / GIB:.1f} GB of memory, too little for one student of "
            f"{each / GIB:.1f} GB beside the hub: take a larger one"
        )


def walls(home: Path) -> list[str]:
    """The call of bubblewrap for one desk; the command that it runs follows.

    Raises:
        CourseError: there is no bubblewrap here that works.

    """
    program = sandbox.bubblewrap()
    if not program:
        raise CourseError(
            "bubblewrap does not work here, and without it students could read each other's work: install it "
            "(Debian, Ubuntu: apt install bubblewrap) where user namespaces are allowed"
        )
    words = [program, "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent"]
    words += ["--new-session", "--cap-drop", "ALL", "--hostname", "classroom", "--proc", "/proc", "--dev", "/dev"]
    for folder in ("/tmp", "/dev/shm"):  # they lie in memory that no process is charged with
        words += ["--size", str(SCRATCH), "--tmpfs", folder]
    words += sandbox.system_folders()
    for name in SYSTEM:
        if os.path.exists(f"/etc/{name}"):
            words += ["--ro-bind", os.path.realpath(f"/etc/{name}"), f"/etc/{name}"]
    more = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isdir(folder)]
    for folder in [*sandbox.read_only(), places.notebooks(), *more]:
        if home.is_relative_to(folder):
            raise CourseError(
                f"students would see all of {folder}, where Python looks for packages, and with it the hub's own files "
                "in it: name a --folder that lies elsewhere"
            )
        words += ["--ro-bind", str(folder), str(folder)]
    return [*words, "--remount-ro", "/dev", "--bind", str(home), str(home), "--chdir", str(home), "--"]


def environment(home: Path) -> dict[str, str]:
    """What a desk's environment says besides the hub's own: where the work lies, and which course it is.

    The desk takes the package that the hub itself runs, with the notebooks beside it, whatever the Python of both has
    installed: so an edition without solutions is served as it is.
    """
    paths = [str(places.repository()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "MLCOURSE_WORK": str(home / "work"),
        "MLCOURSE_CACHE": str(home / ".cache"),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "TMPDIR": "/tmp",
        "JUPYTER_RUNTIME_DIR": "/tmp/jupyter",  # inside the walls, each desk's own; names of sockets must be short
    }


def too_large(pid: int, most: int) -> psutil.Process | None:
    """The process of a desk to end when all of it together takes more than `most` bytes: the largest; else None.

    Bubblewrap and JupyterLab itself are never it: a kernel ends, and the notebook stays open.
    """
    sizes: dict[psutil.Process, int] = {}
    for process in sandbox.family(pid):
        with contextlib.suppress(psutil.Error):  # it has just ended
            sizes[process] = process.memory_info().rss
    if sum(sizes.values()) <= most:
        return None
    kept = _holding(pid)
    return max((process for process in sizes if process not in kept), key=sizes.__getitem__, default=None)


def _holding(pid: int) -> list[psutil.Process]:
    """Bubblewrap and JupyterLab itself: from the first process on the oldest child, as long as it is bubblewrap.

    By their place, not by their name, which a student's program could take.
    """
    kept: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        kept.append(process)
        while os.path.basename(process.exe()) == "bwrap":
            process = min(process.children(), key=lambda child: child.create_time(), default=None)
            if process is None:
                break
            kept.append(process)
    return kept
