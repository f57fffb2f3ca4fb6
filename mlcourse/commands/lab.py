"""`mlcourse lab`: a learner's own copy of each notebook, and JupyterLab on top.

The course's notebooks are never opened for writing, so `git pull` never conflicts. A learner works on copies in
`work/`. `work/copies.json` remembers from which version (SHA-256) each copy was made, so that an update can tell three
cases apart: a copy nobody touched is brought up to date; a copy with work in it stays, and the new version is put
beside it as `NAME.new.ipynb`; a copy of the present version stays.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from mlcourse import files, places
from mlcourse.errors import CourseError

MEMORY = "copies.json"


@dataclass
class Prepared:
    """What `prepare` did: names of the notebooks that were copied, brought up to date, or put beside a copy in use."""

    copied: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)  # the learner's copy -> the new version beside it


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _copy(source: Path, target: Path) -> None:
    with files.replacing(target) as temporary:
        temporary.write_bytes(source.read_bytes())


def _remembered(path: Path) -> dict[str, str]:
    """The hashes of the versions that copies were made from; {} when the file is missing or damaged.

    With {} no copy counts as untouched, so nothing is overwritten.
    """
    try:
        made_from = json.loads(path.read_text(encoding="utf-8"))
        return made_from if isinstance(made_from, dict) else {}
    except (OSError, ValueError):
        return {}


def _free_name(target: Path, version: str, memory: dict[str, str]) -> tuple[Path, bool]:
    """Where the new version goes beside a copy in use, and whether it lies there already.

    A `.new` file that holds a learner's work is not overwritten either: then it is `.new2`, and so on.
    """
    number = 1
    while True:
        beside = target.with_name(f"{target.stem}.new{number if number > 1 else ''}.ipynb")
        if memory.get(beside.name) == version and beside.exists():
            return beside, True
        if not beside.exists() or _hash(beside) == memory.get(beside.name):
            return beside, False
        number += 1


def prepare(source: Path, work: Path) -> Prepared:
    """Give the learner a copy of each notebook in `source`, without ever overwriting work.

    Args:
        source: the folder of the course's notebooks.
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
        target, version = work / notebook.name, _hash(notebook)
        if not target.exists():
            _copy(notebook, target)
            done.copied.append(target.name)
        elif (now := _hash(target)) == version:
            pass  # present version, untouched
        elif memory.get(target.name) == version:
            continue  # present version, with work in it
        elif now == memory.get(target.name):
            _copy(notebook, target)
            done.updated.append(target.name)
        else:
            beside, there = _free_name(target, version, memory)
            if not there:
                _copy(notebook, beside)
            memory[beside.name] = version
            done.beside[target.name] = beside.name
            continue  # the copy keeps the version that it was made from
        memory[target.name] = version
    files.write_json(work / MEMORY, memory)
    return done


def tell(done: Prepared, work: Path) -> None:
    """Say in words what `prepare` did."""
    if done.copied:
        print(f"Copied to {work}: {', '.join(done.copied)}")
    if done.updated:
        print(f"Brought up to date (you had not changed them): {', '.join(done.updated)}")
    for mine, new in done.beside.items():
        print(f"{mine}: your copy is of an older version and stays as it is; the new version is beside it: {new}")


def server_command(work: Path, browser: bool) -> list[str]:
    """The command line of JupyterLab: this machine only, with its token, in the learner's folder."""
    first = next(iter(sorted(path.name for path in work.glob("00_*.ipynb") if ".new" not in path.name)), "")
    command = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={work}"]
    command += [f"--LabApp.default_url=/lab{'/tree/' + first if first else ''}"]
    if not browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # in a container the only user is root, and JupyterLab would refuse
    return command


def has_browser() -> bool:
    """False on a machine without a screen or without a browser."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def _listens(port: int) -> bool:
    """Whether the server can be reached yet: it writes its address down before it listens there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
    except OSError:
        return False


def announce_address(process: subprocess.Popen, seconds: float = 60) -> None:
    """Wait until the server can be reached, then print its address with the token."""
    from jupyter_server.serverapp import list_running_servers

    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        for server in list_running_servers():
            if server["pid"] == process.pid and _listens(server["port"]):
                print(f"\nJupyterLab is at {server['url']}lab?token={server['token']}", flush=True)
                print(
                    f"Open this address in a browser on this machine (from afar: ssh -L {server['port']}:127.0.0.1:",
                    end="",
                )
                print(f"{server['port']} HOST). Ctrl-C stops it; your work is kept.\n", flush=True)
                return
        time.sleep(0.3)


def lab(
    prepare_only: Annotated[bool, typer.Option("--prepare-only", help="Make the copies, open nothing.")] = False,
    browser: Annotated[bool, typer.Option(help="Open a browser; without one the address is printed.")] = True,
) -> None:
    """Copy the notebooks to your work folder (never overwriting work) and open JupyterLab at the first one."""
    work = places.work()
    tell(prepare(places.notebooks(), work), work)
    if prepare_only:
        return
    environment = {**os.environ, "MLCOURSE_WORK": str(work)}
    process = subprocess.Popen(server_command(work, browser and has_browser()), env=environment)
    threading.Thread(target=announce_address, args=(process,), daemon=True).start()
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:
            continue  # JupyterLab got the Ctrl-C too, asks, and ends when it is told to
    raise typer.Exit(status)
