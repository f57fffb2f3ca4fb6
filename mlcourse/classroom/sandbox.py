"""Run a student's answers in a process of their own, with as little as possible within its reach.

On Linux with bubblewrap: no network, a system that can only be read and holds no student's files, an empty home, own
process numbers. Everywhere: limits on time, memory, processes and output. Nothing that the process says is trusted;
see `wire`.
"""

import contextlib
import functools
import json
import os
import queue
import secrets
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from mlcourse import places
from mlcourse.classroom import wire

TOKEN = "MLCOURSE_SANDBOX"  # an environment variable by which stray processes are found
TICK = 0.1  # seconds between two looks at what the process takes
START = 300.0  # seconds that Python and PyTorch may take to start
SHORT = "this machine ran short of memory"


@dataclass(frozen=True)
class Limits:
    """What the answers of one notebook may take.

    Attributes:
        seconds: processor time for one exercise, of all its processes; ten times as long by the clock. Both count
            all calls of the answer together, and not the time of the judges.
        memory: bytes, beyond what Python and PyTorch take themselves.
        processes: processes at a time.
        file: bytes of one file, and of all files in the temporary folder.
        all_seconds: processor time for one notebook.
        clock: seconds by the clock for all answers of one hand-in.
    """

    seconds: float = 60.0
    memory: int = 2 * 2**30
    processes: int = 32
    file: int = 64 * 2**20
    all_seconds: float = 1800.0
    clock: float = 3600.0


class Stopped(Exception):
    """The process ended, or was ended; the text says why, as a sentence about the answer."""


@dataclass
class Clock:
    """How many seconds the answers of a hand-in may still take by the clock."""

    left: float


@functools.cache
def bubblewrap() -> str | None:
    """The path of a bubblewrap that works here, or None."""
    program = shutil.which("bwrap") if sys.platform.startswith("linux") else None
    return program if program and (_enters(program, closed=True) or _enters(program, closed=False)) else None


@functools.cache
def closes_namespaces() -> bool:
    """Whether bubblewrap can forbid further user namespaces inside (it can since version 0.8)."""
    return bool(bubblewrap()) and _enters(bubblewrap(), closed=True)


def _enters(program: str, *, closed: bool) -> bool:
    try:
        command = [*_walls(program, Limits(), closed=closed), sys.executable, "-c", "print('in')"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=_environment(""), check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "in"


def explain() -> list[str]:
    """What keeps answers apart from everything else on this machine, in sentences; the last may be a warning."""
    limits = Limits()
    said = [
        "Of each hand-in only the answers run, with the imports and helpers that they need, in a process of their own.",
        "The judges run in another process and get plain tensors only: what an answer prints, writes or patches "
        "gives no mark.",
        f"Limits: {limits.seconds:.0f} s of processor time for one exercise (ten times as long by the clock), "
        f"{limits.clock:.0f} s by the clock for one hand-in, {limits.memory / 2**30:.0f} GiB of memory, "
        f"{limits.processes} processes, files of {limits.file / 2**20:.0f} MiB; what is printed is thrown away. "
        f"An answer is stopped, too, when less than {floor() / 2**30:.1f} GiB of this machine's memory is free.",
    ]
    if bubblewrap():
        said.append(
            "Isolation: bubblewrap. No network, a read-only system without your files and without other hand-ins, "
            "an empty home, own process numbers."
        )
        if not closes_namespaces():
            said.append(
                "This bubblewrap cannot forbid further user namespaces (--disable-userns, version 0.8 or later): an "
                "answer could use them to take more memory than its limit."
            )
        return said
    return [*said, warning()]


def warning() -> str:
    """What is missing without bubblewrap."""
    remedy = "install bubblewrap (Debian, Ubuntu: apt install bubblewrap) where user namespaces are allowed"
    if not sys.platform.startswith("linux"):
        remedy = "mark on Linux, or in a Linux virtual machine, with bubblewrap"
    return (
        "WARNING: no bubblewrap, so there are limits only. An answer can read and change your files and use the "
        f"network: {remedy}, or mark under a user account that owns nothing."
    )


def floor() -> float:
    """Bytes of this machine's memory that must stay free: 1 GiB, or a tenth of a small machine's."""
    return min(2**30, 0.1 * psutil.virtual_memory().total)


class Sandbox:
    """A process that runs the answers of one student to one notebook.

    program: what runs in it. hidden: folders that look empty inside the walls.
    """

    def __init__(
        self,
        lessons: list[str],
        limits: Limits,
        *,
        isolated: bool | None = None,
        clock: Clock | None = None,
        program: str = "mlcourse.classroom.child",
        hidden: Sequence[str] = (),
    ):
        self.limits = limits
        self.clock = clock or Clock(limits.clock)
        self.isolated = bool(bubblewrap()) if isolated is None else isolated
        self._token = secrets.token_hex(16)
        self._home = tempfile.TemporaryDirectory(prefix="mlcourse-answers-", ignore_cleanup_errors=True)
        told = {**asdict(limits), "lessons": lessons, "processes": _threads_of_mine() + limits.processes}
        command = [sys.executable, "-s", "-m", program, json.dumps(told)]
        if self.isolated:
            walls = _walls(bubblewrap() or "bwrap", limits, closed=closes_namespaces(), hidden=hidden)
            command = [*walls, *command]
        self._replies: queue.Queue = queue.Queue(maxsize=1)  # a flood of replies waits in the pipe, not in memory
        self._closed = False
        self._spent = 0.0  # processor seconds before this exercise
        self._waited = 0.0  # seconds by the clock, for this exercise
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/" if self.isolated else self._home.name,
            env=_environment("/home/student" if self.isolated else self._home.name, self._token),
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        try:
            self._wait(START, START)
        except Stopped as stopped:
            self.close()
            raise Stopped(f"the process for answers does not start ({stopped})") from None

    def ask(self, head: dict, tensors: dict | None = None) -> tuple[dict, dict]:
        """Send a request and return the reply. Raises Stopped; then the process is gone."""
        if self._closed:
            raise Stopped("its process was ended before")
        threading.Thread(target=self._send, args=(head, tensors), daemon=True).start()
        most, began = min(10 * self.limits.seconds - self._waited, self.clock.left), time.monotonic()
        try:
            return self._wait(self.limits.seconds, most)
        except BaseException:
            self.close()
            raise
        finally:
            took = time.monotonic() - began
            self._waited += took
            self.clock.left -= took

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def begin_exercise(self) -> None:
        """Count the time of the next exercise from now."""
        self._spent, self._waited = self._usage()[0], 0.0

    def close(self) -> None:
        """End the process and all that it started. May be called twice."""
        self._closed = True
        for process in reversed(family(self._process.pid)):
            with contextlib.suppress(psutil.Error):
                process.kill()
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, 9)
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        if not self.isolated:
            _end_strays(self._token)
        self._listener.join(5)
        # a process that escaped may still hold the other end: then the listener waits on, and harms nobody
        for stream in [self._process.stdin, *([] if self._listener.is_alive() else [self._process.stdout])]:
            with contextlib.suppress(OSError):
                stream.close()
        self._home.cleanup()

    def _send(self, head: dict, tensors: dict | None) -> None:
        with contextlib.suppress(OSError, ValueError):  # the process has ended: the one who waits will see it
            wire.write(self._process.stdin, head, tensors)

    def _listen(self) -> None:
        while not self._closed:
            try:
                frame = wire.read(self._process.stdout)
            except (OSError, ValueError) as error:
                frame = error
            while not self._closed:
                with contextlib.suppress(queue.Full):
                    self._replies.put(frame, timeout=1)
                    break
            if not isinstance(frame, tuple):
                return

    def _wait(self, seconds: float, clock: float) -> tuple[dict, dict]:
        began = time.monotonic()
        while True:
            try:
                reply = self._replies.get(timeout=TICK)
            except queue.Empty:
                self._check(seconds, time.monotonic() - began > clock)
                continue
            if isinstance(reply, tuple):
                return reply
            if reply is None:
                raise Stopped("it ended its process (by os._exit, a crash, or for want of memory)")
            raise Stopped("its process wrote into the channel of the results, where nothing but results may stand")

    def _check(self, seconds: float, late: bool) -> None:
        """Raise Stopped when the process takes more than it may."""
        used, memory, count = self._usage()
        if count > self.limits.processes:
            raise Stopped(f"it started more than {self.limits.processes} processes")
        if memory > self.limits.memory + 2 * 2**30:
            raise Stopped(f"it took more than {self.limits.memory / 2**30:.0f} GiB of memory")
        if psutil.virtual_memory().available < floor():
            raise Stopped(f"{SHORT} while it ran: less than {floor() / 2**30:.1f} GiB was free")
        if used - self._spent > seconds:
            raise Stopped(f"it did not end within {seconds:.0f} s; look for a loop without an end")
        if late:
            raise Stopped("it did not end within its time by the clock; look for a loop without an end, or a wait")

    def _usage(self) -> tuple[float, int, int]:
        """Processor seconds (of ended ones, too), resident bytes, and the number of processes, of all together."""
        seconds, memory, count = 0.0, 0, 0
        for process in family(self._process.pid):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                seconds += times.user + times.system + times.children_user + times.children_system
                memory += process.memory_info().rss
                count += 1
        return seconds, memory, count


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it; [] when it has ended."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def _threads_of_mine() -> int:
    """How many threads this user has now: the system's limit on processes counts them all."""
    if os.name != "posix":
        return 0
    mine, count = os.getuid(), 0
    for process in psutil.process_iter(["uids", "num_threads"]):
        if process.info["uids"] and process.info["uids"].real == mine:
            count += process.info["num_threads"] or 1
    return count


def _end_strays(token: str) -> None:
    """End the processes that left the family but still carry its token (only where there are no walls)."""
    mine = os.getpid()
    for _ in range(100):
        strays = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid != mine and process.environ().get(TOKEN) == token and process.status() != "zombie":
                    process.kill()
                    strays.append(process)
        if not strays:
            return
        psutil.wait_procs(strays, timeout=1)


def _environment(home: str, token: str = "") -> dict[str, str]:
    """The environment of the process: nothing of the teacher's, and the package's place."""
    own = {
        "HOME": home,
        "TMPDIR": "/tmp" if home == "/home/student" else home,
        "MLCOURSE_CACHE": home,
        "MLCOURSE_WORK": home,
        "MLCOURSE_BUDGET": "smoke",
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join([str(places.repository()), *_user_site()]),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "LANG": "C.UTF-8",
        TOKEN: token,
    }
    if os.name == "nt":
        own |= {name: os.environ[name] for name in ("SYSTEMROOT", "PATH", "TEMP", "TMP") if name in os.environ}
    return own


def _walls(program: str, limits: Limits, *, closed: bool, hidden: Sequence[str] = ()) -> list[str]:
    """The call of bubblewrap: what the process sees is listed here, and nothing else is there."""
    words = [program, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    words += [
        "--unshare-user",
        *(["--disable-userns"] if closed else []),
        "--uid",
        "65534",
        "--gid",
        "65534",
        "--hostname",
        "classroom",
    ]
    words += ["--proc", "/proc", "--dev", "/dev"]
    for tmp in ("/tmp", "/home/student"):
        words += ["--size", str(limits.file), "--tmpfs", tmp]
    words += system_folders()
    for folder in read_only():
        words += ["--ro-bind", folder, folder]
    for folder in hidden:
        words += ["--tmpfs", folder, "--remount-ro", folder]
    return [*words, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/home/student", "--"]


def system_folders() -> list[str]:
    """Words for bubblewrap: programs and libraries of the system, read-only."""
    words = []
    for system in ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives"):
        if os.path.islink(system):
            words += ["--symlink", os.readlink(system), system]
        elif os.path.exists(system):
            words += ["--ro-bind", system, system]
    return words


def _user_site() -> list[str]:
    """The folder of packages that this user has installed for themselves, where Python takes it into account."""
    return [site.getusersitepackages()] if site.ENABLE_USER_SITE else []


def read_only() -> list[str]:
    """Python, the installed packages, this package and its data; none inside another."""
    folders = [sys.prefix, sys.base_prefix, *site.getsitepackages(), sysconfig.get_paths()["stdlib"]]
    folders += [*_user_site(), sysconfig.get_paths()["purelib"], str(places.PACKAGE), str(places.data())]
    real = sorted({os.path.abspath(folder) for folder in folders if os.path.isdir(folder)})
    system = ("/usr", "/bin", "/lib")
    kept: list[str] = []
    for folder in real:
        if not any(Path(folder).is_relative_to(other) for other in [*kept, *system]):
            kept.append(folder)
    return kept
