"""Kernels and commands that start warm: one process imports what they import, and each of them is a fork of it.

A kernel spends about four seconds of a core on imports before a lesson's first cell has run, a command half of that,
and the tests start hundreds of them. A fork has the modules, and nothing else of other forks: its own memory, its own
name space, its own environment and folder. One thing all forks of a process share: the seed of Python's hashes, and so
the order of sets. Kernels that start cold, each with a seed of its own, are tested by nbval, `mlcourse run` of 00
and `mlcourse lab`; what a command does before PyTorch is there is tested in processes that start cold.

    python warm.py serve SOCKET         the process that is forked
    python warm.py ask SOCKET -f FILE    what Jupyter starts: it lives, and ends, with its kernel
"""

import atexit
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

START_SECONDS = 120
PR_SET_PDEATHSIG = 1


# -------------------------------------------------------------------------------- in the tests

POSSIBLE = sys.platform == "linux"  # macOS forbids much to a fork, Windows has none


class Warm:
    """The process that is forked: it starts when it is first needed, and again when it is gone."""

    folder, server = "", None

    @classmethod
    def start(cls) -> Path:
        """The folder of the process; start it if it does not run."""
        if cls.server is None or cls.server.poll() is not None:
            cls.folder, cls.server = _start()
        return Path(cls.folder)


def jupyter_path(kernel: str) -> str:
    """JUPYTER_PATH with which Jupyter finds the warm kernel under the name `kernel`: "warm", or "python3"."""
    before = [os.environ["JUPYTER_PATH"]] if os.environ.get("JUPYTER_PATH") else []
    return os.pathsep.join([str(Warm.start() / kernel), *before] if POSSIBLE else before)


def command(*words, folder=None, environment=None, cold=False, seconds=300) -> subprocess.CompletedProcess:
    """Run the program `mlcourse` in a process of its own; a cold one starts as a learner's does.

    `environment` is added to that of the tests.
    """
    words, environment = [str(word) for word in words], os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    if cold or not POSSIBLE:
        program, taken = [sys.executable, "-m", "mlcourse"], {"capture_output": True, "timeout": seconds}
        return subprocess.run([*program, *words], cwd=folder, env=environment, encoding=encoding, **taken)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, socket.socket(socket.AF_UNIX) as line:
        line.connect(str(Warm.start() / "socket"))
        line.settimeout(seconds)
        _tell(line, "command", words, folder or os.getcwd(), environment, [out.fileno(), err.fileno()])
        try:
            answer = line.recv(1)
        except TimeoutError:
            raise subprocess.TimeoutExpired(words, seconds) from None
        said = [file.seek(0) or file.read().decode(encoding) for file in (out, err)]
    return subprocess.CompletedProcess(words, answer[0] if answer else 1, *said)


def _start() -> tuple[str, subprocess.Popen]:
    """Start the process that is forked, for as long as this one lives.

    Its folder holds two data folders of Jupyter (JUPYTER_PATH) with one kernel each, `warm` and `python3`.
    """
    folder = Path(tempfile.mkdtemp(prefix="warm-", dir="/tmp"))  # short: the path of a socket has 107 bytes at most
    place, program = folder / "socket", [sys.executable, __file__]
    kernel = {
        "argv": [*program, "ask", str(place), "-f", "{connection_file}"],
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
    }
    for name in ("warm", "python3"):
        (folder / name / "kernels" / name).mkdir(parents=True)
        (folder / name / "kernels" / name / "kernel.json").write_text(json.dumps(kernel))
    server = subprocess.Popen([*program, "serve", str(place)], stdin=subprocess.PIPE)
    atexit.register(_end, server, folder)
    deadline = time.monotonic() + START_SECONDS
    while not place.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the process that kernels and commands are forked of did not start")
        time.sleep(0.05)
    return str(folder), server


def _end(server: subprocess.Popen, folder: Path) -> None:
    import shutil

    server.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(10)
    server.kill()
    shutil.rmtree(folder, ignore_errors=True)


# -------------------------------------------------------------------------------- what Jupyter starts


def ask(place: str, *options: str) -> int:
    """Have a kernel forked, with this process's environment, folder and output; return its exit status.

    Jupyter ends a kernel by ending this process: then the connection breaks, and the server ends the fork.
    """
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(place)
        _tell(line, "kernel", options, os.getcwd(), dict(os.environ), [1, 2])
        signal.signal(signal.SIGINT, lambda *_: line.sendall(b"i"))  # how Jupyter interrupts
        answer = line.recv(1)
    return answer[0] if answer else 1


def _tell(line: socket.socket, be: str, options, folder, environment: dict[str, str], files: list[int]) -> None:
    """Ask for a fork that is a kernel or a command, with this folder, environment, standard output and error."""
    told = {"be": be, "options": list(options), "folder": str(folder), "environment": environment}
    told = json.dumps(told).encode()
    socket.send_fds(line, [len(told).to_bytes(8, "big")], files)
    line.sendall(told)


# -------------------------------------------------------------------------------- the process that is forked


def serve(place: str) -> None:
    """Import, then fork a kernel for each connection, until standard input closes."""
    import selectors

    _import()
    selector, kernels = selectors.DefaultSelector(), {}  # connection -> process id
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place + ".begun")
    listener.listen()
    os.rename(place + ".begun", place)
    listener.setblocking(True)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal: the tests end, then this process
    for source in (listener, sys.stdin.fileno(), woken):
        selector.register(source, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                line, _ = listener.accept()
                process = _fork(line, [listener, *kernels], woken, wake)
                if process is None:
                    line.close()
                    continue
                kernels[line] = process
                selector.register(line, selectors.EVENT_READ)
            elif key.fileobj == woken:
                os.read(woken, 4096)
                _tell_ended(kernels, selector)
            elif key.fileobj == sys.stdin.fileno():
                for process in kernels.values():
                    _kill(process, signal.SIGKILL)
                return
            elif key.fileobj in kernels:
                word = key.fileobj.recv(1)
                _kill(kernels[key.fileobj], signal.SIGINT if word else signal.SIGKILL)
                if not word:
                    selector.unregister(key.fileobj)


def _kill(process: int, how: int) -> None:
    """Send a signal to a kernel and to what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, how)


def _import() -> None:
    """What lessons and commands import: the package, by way of all lessons, comes first, as it does in a notebook."""
    import importlib
    import pkgutil

    import mlcourse.lessons
    from mlcourse.commands import COMMANDS, OF_TASKS

    for module in pkgutil.walk_packages(mlcourse.lessons.__path__, "mlcourse.lessons."):
        importlib.import_module(module.name)
    for name in (
        *dict.fromkeys(place.partition(":")[0] for place in (COMMANDS | OF_TASKS).values()),
        "papermill",
        "ipykernel.kernelapp",
        "matplotlib.pyplot",
        "torchvision",
        "torch.utils.flop_counter",
        "torch._dynamo",
        "scipy.special",
        "alembic.command",
        "sqlalchemy.orm",
    ):
        importlib.import_module(name)
    _do_once()


def _do_once() -> None:
    """Read words of a command, and make a page: what they need is imported and read only then."""
    import typer
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    from mlcourse.commands import pages

    command = typer.Typer()
    command.command()(lambda: None)
    command([], standalone_mode=False)
    cell = new_code_cell("1", outputs=[new_output("stream", text="1")])
    pages.page(new_notebook(cells=[cell]), "any")


def _fork(line: socket.socket, others: list[socket.socket], *pipe: int) -> int | None:
    """Fork a kernel for a connection; return its process id, or None when the connection asks for nothing."""
    head, files, _, _ = socket.recv_fds(line, 8, 2)
    length, told = int.from_bytes(head, "big"), b""
    while len(told) < length and (more := line.recv(length - len(told))):
        told += more
    if not told or len(told) < length:  # the asker has ended before it had said what it wants
        return None
    process = os.fork()
    if process:
        for file in files:
            os.close(file)
        return process
    for one in [line, *others]:
        one.close()
    os.setsid()  # a group of its own, as Jupyter gives a kernel
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it ends when the process that forked it does
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for file in pipe:
        os.close(file)
    _be(json.loads(told), files)
    return 0


def _be(told: dict, files: list[int]) -> None:
    """Be the kernel or the command that was asked for, to its end."""
    status = 1
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in zip([nothing, *files], (0, 1, 2), strict=True):
            os.dup2(source, target)
            os.close(source)
        os.environ.clear()
        os.environ.update(told["environment"])
        os.environ.pop("JPY_PARENT_PID", None)  # this fork's parent is another process: it ends the fork
        os.chdir(told["folder"])
        _speak(told["environment"].get("PYTHONIOENCODING"))
        sys.path[0] = ""  # the folder it runs in, as a process that starts cold has it
        {"kernel": _be_kernel, "command": _be_command}[told["be"]](told["options"])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _speak(encoding: str | None) -> None:
    """Read and write in this encoding, which Python asks for when it starts."""
    for stream in (sys.stdin, sys.stdout, sys.stderr) if encoding else ():
        stream.reconfigure(encoding=encoding, errors="backslashreplace" if stream is sys.stderr else "strict")


def _be_kernel(options: list[str]) -> None:
    from ipykernel.kernelapp import IPKernelApp

    sys.argv = ["ipykernel_launcher", *options]
    IPKernelApp.launch_instance(options)


def _be_command(words: list[str]) -> None:
    from mlcourse.commands import app

    sys.argv = ["mlcourse", *words]
    app(prog_name="mlcourse")


def _tell_ended(kernels: dict[socket.socket, int], selector) -> None:
    """Tell the askers of kernels that have ended with which status."""
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not process:
            return
        for line in [line for line, one in kernels.items() if one == process]:
            with contextlib.suppress(KeyError):
                selector.unregister(line)
            with contextlib.suppress(OSError):
                line.sendall(bytes([abs(os.waitstatus_to_exitcode(status)) & 255]))
            line.close()
            del kernels[line]


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    sys.exit({"serve": serve, "ask": ask}[verb](*words))
