"""`mlcourse lab`: a learner's copy is never overwritten, and an update loses nothing."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from mlcourse.commands import lab
from mlcourse.errors import CourseError


@pytest.fixture
def course(tmp_path):
    (tmp_path / "notebooks").mkdir()
    for name in ("00_a.ipynb", "01_b.ipynb"):
        (tmp_path / "notebooks" / name).write_text("first")
    return tmp_path / "notebooks", tmp_path / "work"


def names(work):
    return {path.name: path.read_text() for path in work.glob("*.ipynb")}


def test_copies_once(course):
    source, work = course
    assert lab.prepare(source, work).copied == ["00_a.ipynb", "01_b.ipynb"]
    (work / "01_b.ipynb").write_text("my answers")
    assert lab.prepare(source, work) == lab.Prepared()
    assert names(work) == {"00_a.ipynb": "first", "01_b.ipynb": "my answers"}


def test_update_keeps_answers_and_puts_the_new_version_beside(course, capsys):
    source, work = course
    lab.prepare(source, work)
    (work / "01_b.ipynb").write_text("my answers")
    for notebook in source.iterdir():
        notebook.write_text("second")
    done = lab.prepare(source, work)
    assert done.updated == ["00_a.ipynb"]
    assert done.beside == {"01_b.ipynb": "01_b.new.ipynb"}
    assert names(work) == {"00_a.ipynb": "second", "01_b.ipynb": "my answers", "01_b.new.ipynb": "second"}
    lab.tell(done, work)
    assert "01_b.ipynb: your copy is of an older version" in capsys.readouterr().out


def test_new_version_beside_is_renewed_until_it_is_worked_in(course):
    source, work = course
    lab.prepare(source, work)
    (work / "01_b.ipynb").write_text("my answers")
    (source / "01_b.ipynb").write_text("second")
    lab.prepare(source, work)
    (source / "01_b.ipynb").write_text("third")
    assert lab.prepare(source, work).beside == {"01_b.ipynb": "01_b.new.ipynb"}
    assert names(work)["01_b.new.ipynb"] == "third"
    (work / "01_b.new.ipynb").write_text("more answers")
    assert lab.prepare(source, work).beside == {"01_b.ipynb": "01_b.new.ipynb"}  # still of the third version
    (source / "01_b.ipynb").write_text("fourth")
    assert lab.prepare(source, work).beside == {"01_b.ipynb": "01_b.new2.ipynb"}
    kept = {"01_b.ipynb": "my answers", "01_b.new.ipynb": "more answers", "01_b.new2.ipynb": "fourth"}
    assert names(work) == {"00_a.ipynb": "first"} | kept


def test_a_deleted_copy_comes_back(course):
    source, work = course
    lab.prepare(source, work)
    (work / "00_a.ipynb").unlink()
    assert lab.prepare(source, work).copied == ["00_a.ipynb"]


@pytest.mark.parametrize("memory", ["{", "[]", None])
def test_without_memory_nothing_is_overwritten(course, memory):
    source, work = course
    lab.prepare(source, work)
    (work / "01_b.ipynb").write_text("my answers")
    (source / "00_a.ipynb").write_text("second")
    (work / lab.MEMORY).unlink() if memory is None else (work / lab.MEMORY).write_text(memory)
    lab.prepare(source, work)
    assert names(work)["01_b.ipynb"] == "my answers"
    assert names(work)["00_a.ipynb"] == "first"
    assert names(work)["00_a.new.ipynb"] == "second"


def test_no_notebooks(tmp_path):
    with pytest.raises(CourseError, match="clone"):
        lab.prepare(tmp_path, tmp_path / "work")


def test_stopped_in_the_middle_leaves_whole_files(course, monkeypatch):
    source, work = course

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        lab.prepare(source, work)
    assert list(work.iterdir()) == []


def test_server_listens_on_this_machine_only(tmp_path):
    (tmp_path / "00_a.ipynb").touch()
    (tmp_path / "00_a.new.ipynb").touch()
    command = lab.server_command(tmp_path, browser=False)
    assert "--ServerApp.ip=127.0.0.1" in command
    assert "--LabApp.default_url=/lab/tree/00_a.ipynb" in command
    assert "--no-browser" in command
    assert not any("token" in word or "password" in word for word in command)


def test_the_address_is_told_only_when_somebody_listens_there(monkeypatch, capsys):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
        info = {"pid": process.pid, "url": f"http://127.0.0.1:{port}/", "token": "abc", "port": port}
        monkeypatch.setattr("jupyter_server.serverapp.list_running_servers", lambda: iter([info]))
        try:
            lab.announce_address(process, seconds=1)
            assert capsys.readouterr().out == ""  # JupyterLab wrote its address down and does not listen yet
            place.listen()
            lab.announce_address(process, seconds=30)
            assert f"JupyterLab is at http://127.0.0.1:{port}/lab?token=abc" in capsys.readouterr().out
        finally:
            process.kill()
            process.wait()


@pytest.mark.skipif(os.name == "nt", reason="ends JupyterLab and its children by their process group")
def test_lab_prints_an_address_that_answers_only_with_its_token(tmp_path):
    folders = {"JUPYTER_RUNTIME_DIR": "r", "JUPYTER_CONFIG_DIR": "c", "JUPYTER_DATA_DIR": "d", "MLCOURSE_WORK": "w"}
    environment = os.environ | {name: str(tmp_path / folder) for name, folder in folders.items()}
    code = "from mlcourse.commands import lab; lab.prepare = lambda *a: lab.Prepared(); lab.places.work().mkdir();"
    process = subprocess.Popen(
        [sys.executable, "-c", code + "lab.lab(browser=False)"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        address, end = None, time.monotonic() + 60
        while address is None and time.monotonic() < end:
            address = re.search(
                r"JupyterLab is at (http://127\.0\.0\.1:\d+/lab)\?token=(\w+)", process.stdout.readline()
            )
        assert address
        server = address[1].removesuffix("/lab")
        with urllib.request.urlopen(f"{server}/api/status?token={address[2]}", timeout=20) as answer:
            assert json.load(answer)["kernels"] == 0
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{server}/api/status?token=wrong", timeout=20)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
