"""`mlcourse lab` in a real terminal: what it prints, and that one Ctrl-C, or closing the terminal, ends everything."""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest
from processes import command_of, name_of

from mlcourse import places
from mlcourse.commands.lab import MEMORY, check_port
from mlcourse.environment import STAMP, fingerprint

if os.name != "posix":
    pytest.skip("pseudo-terminals exist on Linux and macOS only", allow_module_level=True)

import pty

CTRL_C = b"\x03"
ADDRESS = re.compile(r"(http://127\.0\.0\.1:(\d+))/lab/tree/00_start_here\.ipynb\?token=(\w+)")
START, END = 90, 40  # seconds; only a machine that is stuck needs them
# a lesson at work: the kernel is busy, and has started a process that is in no group or session of its own parent's
WORK = "import subprocess, time; subprocess.Popen(['sleep', '1000'], start_new_session=True); time.sleep(1000)"


class Terminal:
    """A program in a pseudo-terminal of its own: `.said` is what stood in the terminal so far."""

    def __init__(self, command, folder, environment):
        self.said = ""
        self.pid, self.keyboard = pty.fork()
        if self.pid == 0:
            for one in (signal.SIGHUP, signal.SIGINT):  # whoever started the tests may ignore them, as nohup does
                signal.signal(one, signal.SIG_DFL)
            os.chdir(folder)
            os.execvpe(command[0], command, environment)
        self.family = []

    def wait_for(self, pattern, seconds=START):
        """Read until the pattern stands in the terminal, and return its match."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.said)):
            assert time.monotonic() < end, f"no {pattern!r} within {seconds} s in: {self.said}"
            assert self._read(), f"no {pattern!r} until the end of: {self.said}"
        return found

    def read_on(self, seconds):
        """Read for some seconds, or until nobody can write any more."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._read():
            pass

    def _read(self):
        if select.select([self.keyboard], [], [], 0.2)[0]:
            try:
                more = os.read(self.keyboard, 65536)
            except OSError:  # Linux: the other side is closed
                more = b""
            self.said += more.decode(errors="replace").replace("\r\n", "\n")
            return bool(more)
        return True

    def press(self, key):
        os.write(self.keyboard, key)

    def close(self):
        """Close the window."""
        if self.keyboard is not None:
            os.close(self.keyboard)
            self.keyboard = None

    def count_family(self):
        """Note all processes that live below this terminal now."""
        me = psutil.Process(self.pid)
        self.family = [me, *me.children(recursive=True)]
        return self.family

    def survivors(self, seconds=END, but=()):
        """Those of the family, but for some, that still live after so many seconds."""
        end = time.monotonic() + seconds
        while (living := [one for one in self.family if one not in but and _lives(one)]) and time.monotonic() < end:
            self.read_on(0.2) if self.keyboard is not None else time.sleep(0.2)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
        return living

    def destroy(self):
        with contextlib.suppress(psutil.Error):
            self.count_family()
        for one in self.family:
            with contextlib.suppress(psutil.Error):
                one.kill()
        self.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _lives(process):
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone in a folder whose name has a blank and an umlaut; its .venv is finished: it is this very Python."""
    folder = tmp_path_factory.mktemp("clone") / "Kurs für mich"
    repository = places.repository()
    unwanted = shutil.ignore_patterns("__pycache__", "_data")
    for name in ("mlcourse", "notebooks"):
        shutil.copytree(repository / name, folder / name, ignore=unwanted)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(repository / name, folder)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    # what is asked of it before it is trusted ("-c import pip") is answered, everything else is run
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / ".venv" / STAMP).write_text(json.dumps(fingerprint(folder, "default")))
    return folder


@pytest.fixture
def terminal(clone, tmp_path):
    """`terminal(command)` runs it in the clone, with a fresh home."""
    opened = []

    def open_one(command):
        home = {"HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}
        for name in ("CONFIG", "DATA", "RUNTIME"):
            home[f"JUPYTER_{name}_DIR"] = str(tmp_path / name)
        away = ("DISPLAY", "WAYLAND_DISPLAY", "MLCOURSE_WORK", "NB", "MAKEFLAGS", "MAKELEVEL", "PYTHONPATH")
        environment = {name: value for name, value in os.environ.items() if name not in away}
        opened.append(Terminal(command, clone, environment | home | {"MLCOURSE_WORK": str(tmp_path / "work")}))
        return opened[-1]

    yield open_one
    for one in opened:
        one.destroy()


SHELL = ["/bin/sh", "-c"]
WAYS = {
    "make": f"make lab PYTHON='{sys.executable}'",
    "python": f"'{sys.executable}' mlcourse/environment.py lab",
    "mlcourse": f"'{sys.executable}' -m mlcourse lab",
}
BACK = "the shell is back"


def way(name):
    if name == "make" and shutil.which("make") is None:
        pytest.skip("there is no make on this machine")
    # a shell lives above each of them, and lives on, as in life: with it, the terminal stays open for orphans
    return [*SHELL, f"trap : INT; {WAYS[name]}; echo {BACK}; cat"]


def busy_kernel(address, token, runtime):
    """Start a kernel as the browser does, and give it work. Returns the process that its work has started."""
    from jupyter_client import BlockingKernelClient

    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    asked = urllib.request.Request(f"{address}/api/kernels?token={token}", data=b"{}", method="POST")
    with direct.open(asked, timeout=60) as answer:
        kernel = json.load(answer)["id"]
    client = BlockingKernelClient(connection_file=str(runtime / f"kernel-{kernel}.json"))
    client.load_connection_file()
    client.start_channels()
    client.execute(WORK)
    return client


def at_work(opened, runtime):
    """Wait for the address, start a kernel and have it work. Returns the address's port and token."""
    server, port, token = opened.wait_for(ADDRESS).groups()
    client = busy_kernel(server, token, runtime)
    limit = time.monotonic() + START
    while not any(name_of(one) == "sleep" for one in opened.count_family()):
        assert time.monotonic() < limit, "the kernel did not begin to work"
        time.sleep(0.1)
    client.stop_channels()
    return int(port), token


@pytest.mark.parametrize("end", ["ctrl-c", "closed terminal"])
@pytest.mark.parametrize("name", WAYS)
def test_it_ends_with_all_that_it_started(terminal, tmp_path, name, end):
    opened = terminal(way(name))
    port, token = at_work(opened, tmp_path / "RUNTIME")
    opened.read_on(0.5)
    assert opened.said.rstrip().endswith(f"token={token}")  # the address is the last line, and stays the last line
    if end == "ctrl-c":
        opened.press(CTRL_C)
        opened.wait_for(BACK)
        assert opened.survivors(seconds=1, but=opened.family[:1]) == []  # when the shell is back, all is over
    else:
        opened.close()
        assert opened.survivors() == []
    assert "[n]" not in opened.said
    assert "Traceback" not in opened.said
    check_port(port)


def test_ctrl_c_twice_ends_it_at_once(terminal, tmp_path):
    opened = terminal([sys.executable, "-m", "mlcourse", "lab"])
    port, _ = at_work(opened, tmp_path / "RUNTIME")
    kernel = next(one for one in opened.family if "ipykernel_launcher" in " ".join(command_of(one)))
    kernel.suspend()  # it can neither answer nor end by itself
    opened.press(CTRL_C)
    opened.read_on(0.5)
    opened.press(CTRL_C)
    assert opened.survivors() == []
    check_port(port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_server_ends_it(terminal, number):
    opened = terminal([sys.executable, "-m", "mlcourse", "lab"])
    opened.wait_for(ADDRESS)
    opened.count_family()
    os.kill(opened.pid, number)
    assert opened.survivors() == []
    assert "all kernels have ended" in opened.said


def test_ctrl_c_before_the_address_ends_it_too(terminal):
    opened = terminal([sys.executable, "-m", "mlcourse", "lab"])
    opened.wait_for("Copied to")
    opened.press(CTRL_C)
    assert opened.survivors() == []
    assert "[n]" not in opened.said
    assert "Traceback" not in opened.said


def test_a_job_that_ignores_closed_terminals_goes_on(terminal):
    opened = terminal([*SHELL, f"trap '' HUP; exec '{sys.executable}' -m mlcourse lab"])
    opened.wait_for(ADDRESS)
    opened.count_family()
    os.kill(opened.pid, signal.SIGHUP)
    opened.read_on(2)
    assert _lives(opened.family[0])
    opened.press(CTRL_C)
    assert opened.survivors() == []


def test_port_and_notebook_are_chosen(terminal, tmp_path):
    first = terminal([sys.executable, "-m", "mlcourse", "lab"])
    port = int(first.wait_for(ADDRESS)[2])
    second = terminal([sys.executable, "-m", "mlcourse", "lab", "--port", str(port)])
    second.wait_for(rf"mlcourse: port {port} cannot be used \(.*\): give another --port")
    second.survivors()
    third = terminal([sys.executable, "-m", "mlcourse", "lab", "--port", str(port + 1), "--notebook", "5"])
    third.wait_for(rf"http://127\.0\.0\.1:{port + 1}/lab/tree/05_meta_gradients_by_hand\.ipynb\?token=")


def test_make_opens_the_notebook_that_nb_names(terminal):
    if shutil.which("make") is None:
        pytest.skip("there is no make on this machine")
    opened = terminal(["make", "lab", f"PYTHON={sys.executable}", "NB=03"])
    opened.wait_for(r"/lab/tree/03_learning_to_compare\.ipynb\?token=")


# ---- Codespaces and VS Code ----


def settings(*parts):
    return json.loads(places.repository().joinpath(*parts).read_text(encoding="utf-8"))


def test_a_dev_container_opens_copies(clone):
    container = settings(".devcontainer", "devcontainer.json")
    assert container["waitFor"] == "postCreateCommand"  # nothing is opened before the copies are there
    made, copied = container["postCreateCommand"].split(" && ")
    assert made.startswith("make env")
    environment = {name: value for name, value in os.environ.items() if name not in ("MLCOURSE_WORK", "PYTHONPATH")}
    opened = [clone / name for name in container["customizations"]["codespaces"]["openFiles"]]
    assert opened == [clone / "work" / "00_start_here.ipynb"]
    for command in (copied, container["postStartCommand"]):  # the second brings copies up to date after a pull
        (clone / "work" / MEMORY).unlink(missing_ok=True)
        subprocess.run(["/bin/sh", "-c", command], cwd=clone, env=environment, check=True, capture_output=True)
        assert all(path.is_file() for path in opened)
        assert (clone / "work" / MEMORY).is_file()
    shutil.rmtree(clone / ".venv")  # a container whose environment could not be made still starts
    subprocess.run(["/bin/sh", "-c", container["postStartCommand"]], cwd=clone, env=environment, check=True)


def test_the_tracked_notebooks_are_read_only_in_vs_code():
    container = settings(".devcontainer", "devcontainer.json")["customizations"]["vscode"]["settings"]
    for own in (container, settings(".vscode", "settings.json")):
        assert own["files.readonlyInclude"] == {"notebooks/**": True}
        assert own["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
    assert container["files.exclude"] == {"notebooks": True}
