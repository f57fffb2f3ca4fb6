"""`mlcourse lab`: a learner's own copy of each notebook, and JupyterLab on top.

The course's notebooks are never opened for writing, so `git pull` never conflicts. A learner works on copies in
`work/`. `work/copies.json` remembers from which version each copy was made, so that an update can tell three cases
apart: a copy that nobody changed is brought up to date; a copy with work in it stays, and the new version is put beside
it as `NAME.new.ipynb`; a copy of the present version stays.

Changed means: other cells (their text, their ids, their attached pictures). Outputs, counts and metadata do not count,
because JupyterLab writes them into every notebook that was only looked at.
"""

import contextlib
import hashlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TextIO
from urllib.parse import quote

import psutil
import typer

from mlcourse import files, places
from mlcourse.errors import CourseError
from mlcourse.teaching import saved_widgets

MEMORY = "copies.json"
GLOSSARY = "glossary.md"  # goes along with the notebooks
OWN = ".jupyterlab"  # the folder in the work folder that keeps JupyterLab's layout
HOST = "127.0.0.1"
CONFIG = Path(__file__).with_name("lab_config")
LAYOUT = CONFIG / "default-37a8.jupyterlab-workspace"  # JupyterLab's own name for the layout "default"


@dataclass
class Prepared:
    """What `prepare` did: names of the notebooks that were copied, brought up to date, or put beside a copy in use."""

    copied: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)  # the learner's copy -> the new version beside it


# ---- the copies ----


@dataclass(frozen=True)
class Version:
    """A notebook, or the glossary, as it is: `file`, a hash of its bytes; `cells`, one of what a learner can change."""

    file: str
    cells: str

    @classmethod
    def of(cls, path: Path) -> "Version":
        """Read it; a file that is no notebook has its bytes only."""
        content = path.read_bytes()
        file = hashlib.sha256(content).hexdigest()
        try:
            cells = json.dumps([_essence(cell) for cell in json.loads(content)["cells"]], sort_keys=True)
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls(file, file)
        return cls(file, hashlib.sha256(cells.encode()).hexdigest())


def _essence(cell: dict) -> list:
    """What of a cell counts: id, kind, text, attached pictures. Not how JSON breaks their lines."""
    pictures = {
        name: {kind: "".join(_text(data).split()) for kind, data in forms.items()}
        for name, forms in cell.get("attachments", {}).items()
    }
    return [cell.get("id"), cell["cell_type"], _text(cell["source"]).replace("\r\n", "\n"), pictures]


def _text(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)


def _copy(source: Path, target: Path) -> None:
    with files.replacing(target) as temporary:
        temporary.write_bytes(source.read_bytes())


def _remembered(path: Path) -> dict[str, Version]:
    """The versions that copies were made from; {} when the file is missing or damaged.

    With {} no copy counts as untouched, so nothing is overwritten. Earlier versions of the course kept one hash, of
    the bytes.
    """
    try:
        made_from = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: Version(kept, kept) if isinstance(kept, str) else Version(kept["file"], kept["cells"])
            for name, kept in made_from.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _unchanged(path: Path, made_from: Version | None) -> bool:
    """Whether a copy still is what it was made from, apart from outputs, counts and metadata."""
    now = Version.of(path)
    return made_from is not None and (now.cells == made_from.cells or now.file == made_from.file)


def _free_name(target: Path, version: Version, memory: dict[str, Version]) -> tuple[Path, bool]:
    """Where the new version goes beside a copy in use, and whether it lies there already.

    A `.new` file that holds a learner's work is not overwritten either: then it is `.new2`, and so on.
    """
    number = 1
    while True:
        beside = target.with_name(f"{target.stem}.new{number if number > 1 else ''}{target.suffix}")
        made_from = memory.get(beside.name)
        if beside.exists() and made_from is not None and made_from.file == version.file:
            return beside, True
        if not beside.exists() or _unchanged(beside, made_from):
            return beside, False
        number += 1


def prepare(source: Path, work: Path) -> Prepared:
    """Give the learner a copy of each notebook in `source`, without ever overwriting work.

    Args:
        source: the folder of the course's notebooks, and of the glossary that they link.
        work: the learner's folder; it is made when it is missing.

    Returns:
        what was done.

    Raises:
        CourseError: there are no notebooks in `source`.

    """
    notebooks = sorted(source.glob("*.ipynb"))
    if not notebooks:
        raise CourseError(f"there are no notebooks in {source}: start from a clone of the course's repository")
    work.mkdir(parents=True, exist_ok=True)
    memory, done = _remembered(work / MEMORY), Prepared()
    for notebook in notebooks:
        _prepare_one(notebook, work / notebook.name, memory, done)
    if (page := source / GLOSSARY).is_file():
        _prepare_one(page, work / GLOSSARY, memory, done)
    kept = {name: {"file": version.file, "cells": version.cells} for name, version in memory.items()}
    files.write_json(work / MEMORY, kept)
    return done


def _prepare_one(notebook: Path, target: Path, memory: dict[str, Version], done: Prepared) -> None:
    """Bring one copy up to date, or put the new version beside it; note it in `memory` and `done`."""
    version, made_from = Version.of(notebook), memory.get(target.name)
    if not target.exists():
        _copy(notebook, target)
        done.copied.append(target.name)
    elif made_from is not None and made_from.file == version.file:
        pass  # the present version, touched or not
    elif _unchanged(target, made_from):
        _copy(notebook, target)
        done.updated.append(target.name)
    elif version.cells in (Version.of(target).cells, made_from and made_from.cells):
        pass  # it has the cells of the present version, or has work in it and the new version brings no other cells
    else:
        beside, there = _free_name(target, version, memory)
        if not there:
            _copy(notebook, beside)
        memory[beside.name] = version
        done.beside[target.name] = beside.name
        return  # the copy keeps the version that it was made from
    memory[target.name] = version


def tell(done: Prepared, work: Path) -> None:
    """Say in words what `prepare` did."""
    if done.copied:
        print(f"Copied to {work}: {', '.join(done.copied)}")
    if done.updated:
        print(f"Brought up to date (you had not changed them): {', '.join(done.updated)}")
    for mine, new in done.beside.items():
        print(f"{mine}: your copy is of an older version and stays as it is; the new version is beside it: {new}")


# ---- JupyterLab ----


def chosen(name: str, work: Path) -> str:
    """The notebook to open, as a path inside `work`. "" is the first one; "5", "05", a name or a path are understood.

    Raises:
        CourseError: there is no such notebook; the line lists those that are there.

    """
    there = sorted(path.name for path in work.glob("*.ipynb"))
    own = [one for one in there if ".new" not in one] or there
    if not name:
        return own[0] if own else ""
    number = name.zfill(2) if name.isdecimal() else name
    found = [one for one in there if name in (one, Path(one).stem)]
    found = found or [one for one in own if one.split("_")[0] == number]
    if len(found) == 1:
        return found[0]
    path = (work / name).resolve()
    if path.suffix == ".ipynb" and path.is_file() and path.is_relative_to(work):
        return path.relative_to(work).as_posix()
    raise CourseError(f"there is no notebook {name} in {work}: give a number, or one of {', '.join(own) or 'none'}")


def check_port(port: int) -> None:
    """Raise CourseError when a server cannot listen at `port` of this machine."""
    with socket.socket() as place:
        if (
            os.name == "posix"
        ):  # a port that was left a moment ago is free; elsewhere this would let two programs share it
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((HOST, port))
        except OSError as error:
            reason = error.strerror or error
            raise CourseError(
                f"port {port} cannot be used ({reason}): give another --port, or none to take a free one"
            ) from None


def server_arguments(work: Path, notebook: str, *, browser: bool, port: int | None, token: str) -> list[str]:
    """The arguments of JupyterLab: this machine only, with its token, in the learner's folder."""
    arguments = [f"--ServerApp.ip={HOST}", f"--ServerApp.root_dir={work}", f"--IdentityProvider.token={token}"]
    arguments += [f"--LabApp.default_url=/lab{'/tree/' + quote(notebook) if notebook else ''}"]
    arguments += [f"--LabApp.workspaces_dir={work / OWN / 'workspaces'}"]
    if port is not None:
        arguments += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if not browser:
        arguments.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--allow-root")  # in a container the only user is root, and JupyterLab would refuse
    return arguments


def use_settings(work: Path) -> None:
    """Give this server the course's settings; what a learner sets goes before them, and other servers keep theirs.

    `lab_config` asks nothing at the first start, saves widgets with the notebook, and shows whole file names. It has
    widgets answer between cells: JupyterLab would have them draw in a second thread while a cell draws, and pyplot
    cannot do that. A layout with a wide file browser is put into the work folder once.
    """
    before = os.environ.get("JUPYTER_CONFIG_PATH")
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join([str(CONFIG), *([before] if before else [])])
    layout = work / OWN / "workspaces" / LAYOUT.name
    if not layout.exists():
        _copy(LAYOUT, layout)


def has_browser() -> bool:
    """False on a machine without a screen or without a browser."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


@contextlib.contextmanager
def log_elsewhere(path: Path) -> Iterator[TextIO]:
    """Send what this process and its children write to a file; yield a stream that still writes to the terminal.

    The address stays the last line in the terminal: JupyterLab and each kernel write many lines that no learner needs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    kept = {place: os.dup(place) for place in (1, 2)}
    for place in kept:
        os.dup2(log, place)
    os.close(log)
    try:
        yield os.fdopen(os.dup(kept[1]), "w", encoding=sys.stdout.encoding, errors="replace")
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        for place, before in kept.items():
            os.dup2(before, place)
            os.close(before)


def announce(server, notebook: str, work: Path, terminal: TextIO) -> None:
    """Print how to stop, and as the last line the address that opens the notebook."""
    if server.ending.asked:
        return  # it was stopped before it began
    address = f"{server.connection_url}lab{'/tree/' + quote(notebook) if notebook else ''}"
    lines = [
        "",
        f"JupyterLab works in {work}. Ctrl-C here stops it and all kernels; what you saved is kept.",
        f"From another machine, first: ssh -L {server.port}:{HOST}:{server.port} HOST",
        "Open this address in a browser:",
        "",
        f"  {address}?token={server.identity_provider.token}",
    ]
    print("\n".join(lines), file=terminal, flush=True)


class Ending:
    """What Ctrl-C, `kill` and a closed terminal do: the server ends, and with it every process below it.

    JupyterLab itself would ask "Shut down this Jupyter server (y/[n])?", and would not hear a closed terminal at all.
    """

    SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # SIGHUP: the terminal is closed; SIGBREAK: on Windows
    PATIENCE = 15.0  # seconds that kernels get to end by themselves

    def __init__(self, server) -> None:
        self._server, self._children, self.asked = server, [], False

    def listen(self) -> None:
        """Take the signals over; one that is ignored (`nohup`, a job in the background) stays ignored."""
        for name in self.SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame) -> None:
        if getattr(self._server, "io_loop", None) is None:
            raise KeyboardInterrupt  # nothing runs yet
        if self.asked:
            self._at_once()
        self.asked = True
        # looked up now: once a kernel has ended, nobody knows any more which processes it had started
        self._children = psutil.Process().children(recursive=True)
        limit = threading.Timer(self.PATIENCE, self._at_once)
        limit.daemon = True
        limit.start()
        self._server.stop(from_signal=True)

    def sweep(self) -> None:
        """End what is left of the processes that were there when the end was asked for."""
        for process in self._children:
            with contextlib.suppress(psutil.Error):  # it has ended; psutil knows a process number that was used anew
                process.kill()

    def _at_once(self) -> None:
        self._children += psutil.Process().children(recursive=True)
        self.sweep()
        os._exit(130)


def serve(work: Path, notebook: str, *, browser: bool, port: int | None) -> None:
    """Run JupyterLab in this process until it is told to end.

    In this process, so that there is one process to end, whoever started it: `make`, Python or a shell.

    Raises:
        CourseError: JupyterLab does not start; the line names its log.

    """
    use_settings(work)
    arguments = server_arguments(work, notebook, browser=browser, port=port, token=secrets.token_hex(24))
    log = work / OWN / "log"
    with log_elsewhere(log) as terminal:
        try:
            _serve(arguments, lambda server: announce(server, notebook, work, terminal))
        except SystemExit as stopped:
            if stopped.code:
                raise CourseError(f"JupyterLab does not start; the reason stands at the end of {log}") from None
        with contextlib.suppress(OSError):  # the terminal may be closed
            print("\nJupyterLab and all kernels have ended.", file=terminal, flush=True)


def _serve(arguments: list[str], on_start: Callable) -> None:
    from jupyter_server.serverapp import ServerApp
    from jupyterlab.labapp import LabApp

    class Server(ServerApp):
        def init_signal(self) -> None:
            self.ending = Ending(self)
            self.ending.listen()

    LabApp.serverapp_class = Server
    server = LabApp.initialize_server(argv=arguments)
    server.contents_manager.register_pre_save_hook(saved_widgets.before_saving)
    server.io_loop.add_callback(on_start, server)
    try:
        server.start()
    finally:
        server.ending.sweep()


def lab(
    notebook: Annotated[str, typer.Option(help="Open this one: 05, or a notebook's name.")] = "",
    port: Annotated[
        int | None, typer.Option(help="Listen at this port; without it at 8888 or the next free one.", min=1, max=65535)
    ] = None,
    prepare_only: Annotated[bool, typer.Option("--prepare-only", help="Make the copies, open nothing.")] = False,
    browser: Annotated[bool, typer.Option(help="Open a browser; the address is printed in any case.")] = True,
) -> None:
    """Copy the notebooks to your work folder (never overwriting work) and open JupyterLab at the first one."""
    work = places.work()
    tell(prepare(places.notebooks(), work), work)
    opened = chosen(notebook, work)
    if prepare_only:
        return
    if port is not None:
        check_port(port)
    os.environ["MLCOURSE_WORK"] = str(work)
    serve(work, opened, browser=browser and has_browser(), port=port)
