"""The hub of a class: what a desk sees and may take, what the command refuses, and two students at once."""

import csv
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
import uuid

import pytest
from hub_helpers import HUB, WALLS, Hub
from typer.testing import CliRunner

from mlcourse import memory, places
from mlcourse.classroom import desks, handout, sandbox
from mlcourse.commands import app
from mlcourse.commands import hub as command
from mlcourse.errors import CourseError

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the hub needs Linux")


# -------------------------------------------------------------------------------- a desk


@WALLS
def test_a_desk_sees_its_own_home_and_the_course_read_only(tmp_path):
    mine, other = tmp_path / "students" / "anna", tmp_path / "students" / "bo"
    mine.mkdir(parents=True)
    other.mkdir()
    (other / "answer.txt").write_text("42")
    (tmp_path / "passwords.csv").write_text("name,password\n")
    code = f"""
        import os
        from pathlib import Path
        seen = [Path({str(other)!r}).exists(), Path({str(tmp_path / "passwords.csv")!r}).exists(),
                Path({str(places.repository() / ".git")!r}).exists()]
        Path("mine.txt").write_text("kept")
        try:
            (Path({str(places.notebooks())!r}) / "new.txt").write_text("x")
            seen.append(True)
        except OSError:
            seen.append(False)
        print(seen, len(list(Path({str(places.notebooks())!r}).glob("*.ipynb"))) > 9,
              os.getcwd() == {str(mine)!r}, len([one for one in os.listdir("/proc") if one.isdigit()]) < 6)
    """
    words = [*desks.walls(mine), sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split("\n")[0] == "[False, False, False, False] True True True", done.stderr
    assert (mine / "mine.txt").read_text() == "kept"
    assert not (places.notebooks() / "new.txt").exists()


@WALLS
def test_a_desk_of_an_edition_gets_its_notebooks_without_solutions(tmp_path):
    """Whatever course the Python of both has installed."""
    handout.make(tmp_path / "edition", handout.choose("", ["00"]))
    home = tmp_path / "hub" / "students" / "anna"
    home.mkdir(parents=True)
    (tmp_path / "class.txt").write_text("anna\n")
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    options = {"cwd": tmp_path / "edition", "env": kept, "capture_output": True, "text": True, "timeout": 120}
    code = f"""
        import os, subprocess, sys
        from pathlib import Path
        from mlcourse.classroom import desks
        home = Path({str(home)!r})
        inner = "import os; from mlcourse.places import notebooks as n; print(n()); print(os.listdir(n()))"
        words = [*desks.walls(home), sys.executable, "-c", inner]
        sys.exit(subprocess.run(words, env=os.environ | desks.environment(home)).returncode)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, **options)
    assert done.stdout.splitlines()[:1] == [str(tmp_path / "edition" / "notebooks")], done.stderr
    assert "00_start_here.ipynb" in done.stdout
    for folder, told in ((tmp_path / "edition", False), (places.repository(), True)):
        call = [sys.executable, "-m", "mlcourse", "hub", str(tmp_path / "class.txt"), "--prepare-only"]
        done = subprocess.run([*call, "--folder", str(tmp_path / "hub2")], check=False, **options | {"cwd": folder})
        assert f"The notebooks that they get: {folder / 'notebooks'}" in done.stdout, done.stderr
        assert ("they hold the solutions" in done.stderr) == told


def test_without_bubblewrap_there_is_no_desk(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "bubblewrap", lambda: None)
    with pytest.raises(CourseError, match="read each other's work: install it"):
        desks.walls(tmp_path)


@WALLS
def test_what_students_write_into_memory_is_bounded(tmp_path):
    code = """
        for name in ("/tmp/a", "/dev/shm/a", "/dev/a"):
            try:
                with open(name, "wb") as file:
                    for _ in range(20):
                        file.write(bytes(2**24))
                print(name, "all")
            except OSError as error:
                print(name, error.strerror)
    """
    words = [*desks.walls(tmp_path), sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    said = done.stdout.splitlines()
    assert said[:2] == [f"{name} No space left on device" for name in ("/tmp/a", "/dev/shm/a")], done
    assert said[2] == "/dev/a Read-only file system"


@WALLS
def test_packages_around_the_hubs_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CourseError, match="students would see all of"):
        desks.walls(tmp_path / "hub" / "students" / "anna")


EATS = "import time; held = bytearray(300 * 2**20); held[::4096] = b'1' * len(held[::4096]); time.sleep(60)"


@LINUX
def test_the_largest_process_of_a_desk_is_ended_and_never_its_server():
    # the student's program bears the name of the server, which must not help it
    server = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {EATS!r}, {desks.SERVER!r}])"
    with subprocess.Popen([sys.executable, "-c", server, desks.SERVER]) as desk:
        try:
            deadline = time.monotonic() + 60
            while (large := desks.too_large(desk.pid, 250 * 2**20)) is None and time.monotonic() < deadline:
                time.sleep(0.1)
            assert large is not None
            assert large.ppid() == desk.pid
            assert desks.too_large(desk.pid, 8 * 2**30) is None
            large.kill()
            assert desk.wait(30) == 0
        finally:
            for process in sandbox.family(desk.pid):
                process.kill()
    assert desks.too_large(desk.pid, 0) is None
    assert sandbox.family(desk.pid) == []


def test_seats_follow_the_memory_that_there_is(monkeypatch):
    monkeypatch.setattr(memory, "total", lambda: 64 * desks.GIB)
    assert desks.seats(3 * desks.GIB) == 21
    assert desks.seats(63 * desks.GIB) == 1
    assert desks.seats(64 * desks.GIB) == 0
    desks.check_memory(2 * desks.GIB)
    with pytest.raises(CourseError, match="too little for one student"):
        desks.check_memory(64 * desks.GIB)
    with pytest.raises(CourseError, match="is too little"):
        desks.check_memory(desks.GIB // 2)


# -------------------------------------------------------------------------------- the command


def called(*words):
    return CliRunner().invoke(app, ["hub", *map(str, words)])


def test_the_command_makes_passwords_and_says_for_how_many_memory_is_enough(tmp_path, monkeypatch):
    (tmp_path / "class.txt").write_text("anna\nbo\ncy\n")
    monkeypatch.setattr(memory, "total", lambda: 7 * desks.GIB)
    done = called(tmp_path / "class.txt", "--folder", tmp_path / "hub", "--prepare-only")
    assert done.exit_code == 0, done.output
    assert "3 students" in done.output
    assert "enough for 2 of them" in done.output
    assert os.name != "posix" or (tmp_path / "hub").stat().st_mode & 0o077 == 0
    rows = list(csv.reader((tmp_path / "hub" / "passwords.csv").open()))
    assert [row[0] for row in rows] == ["name", "anna", "bo", "cy"]
    assert not any(row[1] in done.output for row in rows[1:])


@LINUX
def test_what_is_missing_is_one_line_and_nothing_is_made(tmp_path, monkeypatch):
    (tmp_path / "class.txt").write_text("anna\n")
    monkeypatch.setattr(sandbox, "bubblewrap", lambda: "/bin/bwrap")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    with pytest.raises(CourseError, match=r"jupyterhub is not installed: .*pip install '\.\[hub\]'"):
        command.hub(tmp_path / "class.txt", tmp_path / "hub")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: name)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CourseError, match="npm install -g configurable-http-proxy"):
        command.hub(tmp_path / "class.txt", tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


@LINUX
def test_a_port_in_use_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "bubblewrap", lambda: "/bin/bwrap")
    (tmp_path / "class.txt").write_text("anna\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CourseError, match=f"port {port} cannot be used"):
            command.hub(tmp_path / "class.txt", tmp_path / "hub", port=port)


@pytest.mark.parametrize("memory", ["nan", "inf", "-1", "0", "1e30"])
def test_memory_that_is_none_is_one_line(tmp_path, memory):
    (tmp_path / "class.txt").write_text("anna\n")
    with pytest.raises(CourseError, match="--memory is"):
        command.hub(tmp_path / "class.txt", tmp_path / "hub", memory=float(memory), prepare_only=True)


def test_a_folder_with_other_things_stays_as_it_is(tmp_path):
    (tmp_path / "class.txt").write_text("anna\n")
    tmp_path.chmod(0o755)
    with pytest.raises(CourseError, match="holds other things"):
        command.hub(tmp_path / "class.txt", tmp_path, memory=3.0, prepare_only=True)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert not (tmp_path / "passwords.csv").exists()


def test_elsewhere_than_on_linux_the_hub_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "class.txt").write_text("anna\n")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(CourseError, match="let each student run make lab"):
        command.hub(tmp_path / "class.txt", tmp_path / "hub")


# -------------------------------------------------------------------------------- two students at once


class Student:
    """Someone who logs in, opens JupyterLab, and runs a cell."""

    def __init__(self, base, name, password):
        import requests

        self.base, self.name = base, name
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.get(f"{base}/hub/login")
        token = self.session.cookies.get("_xsrf")
        words = {"username": name, "password": password, "_xsrf": token}
        self.status = self.session.post(f"{base}/hub/login", params={"_xsrf": token}, data=words).status_code

    def open(self, seconds=180):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.session.get(f"{self.base}/user/{self.name}/lab")
            if self.get(self.name, "status") == 200:
                return
            time.sleep(1)
        raise AssertionError(f"the server of {self.name} does not start")

    def get(self, name, what):
        return self.session.get(f"{self.base}/user/{name}/api/{what}").status_code

    def run(self, code):
        """What a cell prints in a new kernel; "ended" where the kernel was ended."""
        import websocket

        jar = self.session.cookies
        token = jar.get("_xsrf", path=f"/user/{self.name}/")
        place = f"{self.base}/user/{self.name}/api/kernels"
        made = self.session.post(
            place, params={"_xsrf": token}, headers={"X-XSRFToken": token}, json={"name": "python3"}
        )
        cookies = "; ".join(f"{one.name}={one.value}" for one in jar)
        address = f"{place.replace('http', 'ws', 1)}/{made.json()['id']}/channels"
        channel = websocket.create_connection(address, header={"Cookie": cookies}, timeout=120)
        head = {"msg_id": uuid.uuid4().hex, "username": "", "session": uuid.uuid4().hex, "version": "5.3"}
        content = {"code": textwrap.dedent(code), "silent": False}
        message = {"header": head | {"msg_type": "execute_request"}, "parent_header": {}, "metadata": {}}
        channel.send(json.dumps(message | {"content": content, "channel": "shell"}))
        printed = ""
        while True:
            said = json.loads(channel.recv())
            if said["msg_type"] == "stream":
                printed += said["content"]["text"]
            if said["msg_type"] == "status" and said["content"]["execution_state"] in ("restarting", "dead"):
                return "ended"
            if said["msg_type"] == "status" and said["content"]["execution_state"] == "idle" and printed:
                return printed


@HUB
@WALLS
def test_two_students_work_at_once_each_in_a_room_of_their_own(tmp_path):
    with Hub(tmp_path, "anna", "bo") as hub:
        words = hub.passwords()
        assert Student(hub.base, "anna", words["bo"]).status == 403
        assert Student(hub.base, "eve", words["bo"]).status == 403
        anna, bo = (Student(hub.base, name, words[name]) for name in ("anna", "bo"))
        anna.open()
        bo.open()
        assert anna.get("bo", "contents") in (403, 404)
        assert anna.get("anna", "contents/01_inner_and_outer_losses.ipynb") == 200
        assert anna.run("open('mine.txt', 'w').write('kept'); print('written')").strip() == "written"
        assert anna.run(f"import os; print(os.listdir({str(tmp_path / 'hub' / 'students')!r}))").strip() == "['anna']"
        wires = "from ipykernel.connect import get_connection_info as told; print('ipc' in told())"
        assert anna.run(wires).strip() == "True"  # by TCP the other desk could listen
        eats = "held = []\nwhile True: held.append(bytearray(b'1') * 2**26)"
        assert anna.run(eats) == "ended"
        assert bo.run("print(6 * 7)").strip() == "42"
    with hub:  # started again: the same password, the same work
        anna = Student(hub.base, "anna", words["anna"])
        anna.open()
        assert anna.run("print(open('mine.txt').read())").strip() == "kept"
    assert os.listdir(tmp_path / "hub" / "students" / "bo" / "work")
