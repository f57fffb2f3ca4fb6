"""`mlcourse hub`: JupyterHub for a class on one Linux machine, a walled desk for each student."""

import importlib.util
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from mlcourse import files, places
from mlcourse.commands import lab, say
from mlcourse.errors import CourseError

PROXY = "configurable-http-proxy"
CONFIG = Path(__file__).with_name("hub_config.py")


def hub(
    students: Annotated[Path, typer.Argument(help="The class list: a text file with one name per line.")],
    folder: Annotated[Path, typer.Option(help="Where homes, passwords and the hub's files lie.")] = Path("hub"),
    ip: Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port of the students' address.")] = 8000,
    memory: Annotated[float, typer.Option(help="GB of memory for one student: JupyterLab and all kernels.")] = 3.0,
    idle: Annotated[int, typer.Option(min=60, help="A server that nobody uses ends after so many seconds.")] = 3600,
    prepare_only: Annotated[bool, typer.Option("--prepare-only", help="Make the passwords only.")] = False,
) -> None:
    """Serve the course to a class: each student logs in, and works in a home of their own.

    Passwords are made once and lie in FOLDER/passwords.csv. The work lies in FOLDER/students/NAME/work: hand this
    folder to `mlcourse grade`. Ctrl-C ends the hub and all servers; saved work stays, and so do the passwords.
    """
    from mlcourse.classroom import class_list, desks, handout

    files.check_named(folder, "--folder")
    place, names_file = places.whole(folder), places.whole(students)
    if not 0 < memory < 2**20:
        raise CourseError(f"--memory is {memory}: give GB for one student, such as 3")
    each = int(memory * desks.GIB)
    names = class_list.read(names_file)
    desks.check_memory(each)
    proxy = "" if prepare_only else _needed(desks.Room(place).home(names[0]), port)
    if place.is_dir() and any(place.iterdir()) and not (place / "passwords.csv").exists():
        raise CourseError(f"--folder {folder} holds other things: name a new folder for the hub")
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.chmod(0o700)
    class_list.passwords(names, place / "passwords.csv")
    seats = min(len(names), desks.seats(each))
    print(f"{len(names)} students; passwords: {place / 'passwords.csv'}")
    print(f"The notebooks that they get: {places.notebooks()}")
    if handout.has_solutions(places.notebooks()):
        say(
            "they hold the solutions and the teacher's notes: to serve them without, make the students' edition "
            "(mlcourse handout edition), and call this command in its folder"
        )
    if seats < len(names):
        say(f"memory is enough for {seats} of them at a time ({memory:.1f} GB each): others wait until one ends")
    if prepare_only:
        return
    told = {"folder": str(place), "students": str(names_file), "ip": ip, "port": port, "proxy": [proxy], "idle": idle}
    told |= {"memory": each, "seats": seats, "first": sorted(places.notebooks().glob("*.ipynb"))[0].name}
    told |= {"hub_port": _free_port(), "api_port": _free_port()}
    _serve(place, told, f"http://{socket.gethostname() if ip == '0.0.0.0' else ip}:{port}/")


def _needed(home: Path, port: int) -> str:
    """The path of the proxy. Raises CourseError for what is missing on this machine, with the remedy."""
    from mlcourse.classroom import desks

    if not sys.platform.startswith("linux"):
        raise CourseError("the hub needs Linux: elsewhere let each student run make lab")
    desks.walls(home)
    lab.check_port(port)
    missing = [name for name in ("jupyterhub", "jupyterhub_idle_culler") if importlib.util.find_spec(name) is None]
    if missing:
        raise CourseError(
            f"{missing[0]} is not installed: pip install 'mlcourse[hub]' (in a clone: pip install '.[hub]')"
        )
    proxy = shutil.which(PROXY)
    if not proxy:
        raise CourseError(f"{PROXY} is not installed: npm install -g {PROXY}")
    return proxy


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def _serve(place: Path, told: dict, address: str) -> None:
    """Run JupyterHub in this process until it is told to end; its log lies in the folder."""
    os.environ["MLCOURSE_HUB"] = json.dumps(told)
    os.environ.setdefault("CONFIGPROXY_AUTH_TOKEN", os.urandom(24).hex())
    os.chdir(place)
    print(
        f"The students' address: {address}\nCtrl-C here ends the hub and all servers; what is saved stays.", flush=True
    )
    with lab.log_elsewhere(place / "log"):
        from jupyterhub.app import main

        main(["-f", str(CONFIG)])
