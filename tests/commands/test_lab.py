"""`mlcourse lab`: a learner's copy is never overwritten, and an update loses nothing."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

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


def test_the_glossary_goes_along_and_is_that_of_today(course):
    source, work = course
    for text in ("first", "second"):
        (source / "glossary.md").write_text(text)
        lab.prepare(source, work)
        assert (work / "glossary.md").read_text() == text


@pytest.mark.parametrize("known", [True, False])
def test_notes_in_the_glossary_are_not_overwritten(course, known):
    source, work = course
    (source / "glossary.md").write_text("first")
    lab.prepare(source, work)
    (work / "glossary.md").write_text("first, and three weeks of my notes")
    if not known:  # of a version of the course that kept nothing of it
        (work / lab.MEMORY).unlink()
    (source / "glossary.md").write_text("second")
    assert lab.prepare(source, work).beside["glossary.md"] == "glossary.new.md"
    assert (work / "glossary.md").read_text() == "first, and three weeks of my notes"
    assert (work / "glossary.new.md").read_text() == "second"
    assert lab.prepare(source, work).copied == []


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
    arguments = lab.server_arguments(tmp_path, "00_a.ipynb", browser=False, port=None, token="secret")
    assert "--ServerApp.ip=127.0.0.1" in arguments
    assert "--LabApp.default_url=/lab/tree/00_a.ipynb" in arguments
    assert "--no-browser" in arguments
    assert not any("ServerApp.port=" in word for word in arguments)
    arguments = lab.server_arguments(tmp_path, "a b/ü.ipynb", browser=True, port=9000, token="secret")
    assert "--LabApp.default_url=/lab/tree/a%20b/%C3%BC.ipynb" in arguments
    assert {"--ServerApp.port=9000", "--ServerApp.port_retries=0"} <= set(arguments)  # this port or none
    assert "--no-browser" not in arguments


@pytest.fixture
def work(tmp_path):
    for name in ("00_a.ipynb", "00_a.new.ipynb", "05_e.ipynb", "05_e.new.ipynb", "my own.ipynb", "sub/x.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "opened"),
    [
        ("", "00_a.ipynb"),
        ("5", "05_e.ipynb"),
        ("05", "05_e.ipynb"),
        ("05_e", "05_e.ipynb"),
        ("05_e.ipynb", "05_e.ipynb"),
        ("05_e.new", "05_e.new.ipynb"),
        ("my own", "my own.ipynb"),
        ("sub/x.ipynb", "sub/x.ipynb"),
    ],
)
def test_the_notebook_to_open(work, name, opened):
    assert lab.chosen(name, work) == opened


@pytest.mark.parametrize("name", ["7", "5e", "../secret.ipynb", "/etc/passwd", "sub", "x", "²"])
def test_a_notebook_that_is_not_there(work, name):
    (work.parent / "secret.ipynb").touch()
    with pytest.raises(CourseError, match=r"there is no notebook .*: give a number, or one of 00_a.ipynb, 05_e.ipynb"):
        lab.chosen(name, work)


def test_a_port_that_is_taken():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        place.listen()
        port = place.getsockname()[1]
        with pytest.raises(CourseError, match=rf"port {port} cannot be used \(.+\): give another --port"):
            lab.check_port(port)
    lab.check_port(port)


@pytest.mark.skipif(os.name == "nt", reason="ends JupyterLab and its children by their process group")
def test_lab_prints_an_address_that_answers_only_with_its_token(tmp_path):
    folders = {"JUPYTER_RUNTIME_DIR": "r", "JUPYTER_CONFIG_DIR": "c", "JUPYTER_DATA_DIR": "d", "MLCOURSE_WORK": "w"}
    environment = os.environ | {name: str(tmp_path / folder) for name, folder in folders.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "mlcourse", "lab", "--no-browser"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        address, said = None, ""
        while address is None and (line := process.stdout.readline()):
            said += line
            address = re.search(r"(http://127\.0\.0\.1:\d+)/lab/tree/00_start_here\.ipynb\?token=(\w+)\n", line)
        assert address, said
        with urllib.request.urlopen(f"{address[1]}/api/status?token={address[2]}", timeout=20) as answer:
            assert json.load(answer)["kernels"] == 0
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{address[1]}/api/status?token=wrong", timeout=20)
        log = tmp_path / "w" / lab.OWN / "log"
        assert log.stat().st_mode & 0o077 == 0
        assert address[2] not in log.read_text()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_server_that_does_not_start_says_where_the_reason_stands(tmp_path, monkeypatch):
    def fail(*_):
        raise SystemExit(1)

    monkeypatch.setattr(lab, "_serve", fail)
    monkeypatch.delenv("JUPYTER_CONFIG_PATH", raising=False)
    with pytest.raises(CourseError, match=r"does not start; the reason stands at the end of .*log"):
        lab.serve(tmp_path, "", browser=False, port=None)


def test_the_settings_are_ones_that_jupyterlab_has():
    """A setting that is misspelt, or that a new JupyterLab has no more, would silently do nothing."""
    from jupyter_core.paths import jupyter_path

    shipped = json.loads((lab.CONFIG / "labconfig" / "default_setting_overrides.json").read_text())
    for name, settings in shipped.items():
        package, plugin = name.split(":")
        places_ = [Path(one) / "lab" / "schemas" / package / f"{plugin}.json" for one in jupyter_path()]
        places_ += [
            Path(one) / "labextensions" / package / "schemas" / package / f"{plugin}.json" for one in jupyter_path()
        ]
        schema = json.loads(next(one for one in places_ if one.is_file()).read_text(encoding="utf-8"))
        for setting in settings:
            assert setting in schema["properties"], f"{name} has no setting {setting}"


# ---- which copies count as untouched ----


def cell(source, name, kind="code", **more):
    code = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "id": name, "metadata": {}, "source": source} | code | more


def notebook(*cells, **metadata):
    return {"cells": list(cells), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


PICTURE = {"p.png": {"image/png": "aGFsbG8=\n"}}


def first():
    text = ["# Title\n", "![a picture](attachment:p.png)"]
    return notebook(cell(text, "a", "markdown", attachments=PICTURE), cell("x = ...", "b"), cell("print(x)", "c"))


def only_looked_at(nb):
    """What JupyterLab does to a notebook that is open for two minutes."""
    nb["metadata"] = {"kernelspec": {"name": "python3"}, "language_info": {"name": "python", "version": "3.11.2"}}
    for one in nb["cells"]:
        one["metadata"] = {"editable": True, "slideshow": {"slide_type": ""}, "tags": []}


def ran(nb):
    """What Run All adds: outputs, counts, times, the state of widgets, and folded or unfolded cells."""
    only_looked_at(nb)
    nb["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    for number, one in enumerate(nb["cells"][1:]):
        one |= {"outputs": [{"output_type": "stream", "name": "stdout", "text": "1"}], "execution_count": number}
        one["metadata"] = {
            "execution": {"iopub.status.busy": "x"},
            "jupyter": {"source_hidden": True},
            "collapsed": True,
        }


def other_lines(nb):
    """The same text and picture, written in another way."""
    for one in nb["cells"]:
        one["source"] = "".join(one["source"]).replace("\n", "\r\n")
    nb["cells"][0]["attachments"] = {"p.png": {"image/png": ["aGFs", "bG8="]}}


def test_a_copy_that_has_the_new_cells_already_is_no_older_version(course):
    source, work = course
    write(source / "00_a.ipynb", first())
    lab.prepare(source, work)
    new = first()
    answered(new)
    write(source / "00_a.ipynb", new)
    ran(new)
    write(work / "00_a.ipynb", new)
    assert lab.prepare(source, work) == lab.Prepared()
    assert not list(work.glob("*.new*"))


@pytest.mark.parametrize("change", [only_looked_at, ran, other_lines])
def test_a_copy_that_was_only_looked_at_or_run_is_brought_up_to_date(course, change):
    source, work = course
    write(source / "00_a.ipynb", first())
    lab.prepare(source, work)
    mine = first()
    change(mine)
    write(work / "00_a.ipynb", mine)
    assert lab.prepare(source, work) == lab.Prepared()  # no new version, nothing to do
    assert json.loads((work / "00_a.ipynb").read_text()) == mine
    new = first()
    new["cells"][2]["source"] = "print(x, x)"
    write(source / "00_a.ipynb", new)
    assert lab.prepare(source, work).updated == ["00_a.ipynb"]
    assert json.loads((work / "00_a.ipynb").read_text()) == new
    assert lab.prepare(source, work) == lab.Prepared()


def answered(nb):
    nb["cells"][1]["source"] = "x = 1"


def one_more(nb):
    nb["cells"].append(cell("", "d"))


def one_less(nb):
    del nb["cells"][2]


def moved(nb):
    nb["cells"].reverse()


def put_in_the_place_of_another(nb):
    nb["cells"][1]["id"] = "z"


def of_another_kind(nb):
    nb["cells"][2] = cell("print(x)", "c", "raw")


def another_picture(nb):
    nb["cells"][0]["attachments"] = {"p.png": {"image/png": "YW5kZXJz"}}


def a_blank(nb):
    nb["cells"][2]["source"] += " "


WORK = [answered, one_more, one_less, moved, put_in_the_place_of_another, of_another_kind, another_picture, a_blank]


@pytest.mark.parametrize("change", WORK)
def test_a_copy_with_work_in_it_stays(course, change):
    source, work = course
    write(source / "00_a.ipynb", first())
    lab.prepare(source, work)
    mine = first()
    ran(mine)
    change(mine)
    write(work / "00_a.ipynb", mine)
    new = first()
    new["cells"][2]["source"] = "print(x, x)"
    write(source / "00_a.ipynb", new)
    assert lab.prepare(source, work).beside == {"00_a.ipynb": "00_a.new.ipynb"}
    assert json.loads((work / "00_a.ipynb").read_text()) == mine
    # the new version beside it, only looked at, is renewed in its place
    looked = json.loads((work / "00_a.new.ipynb").read_text())
    only_looked_at(looked)
    write(work / "00_a.new.ipynb", looked)
    new["cells"][2]["source"] = "print(x, x, x)"
    write(source / "00_a.ipynb", new)
    assert lab.prepare(source, work).beside == {"00_a.ipynb": "00_a.new.ipynb"}
    assert json.loads((work / "00_a.new.ipynb").read_text()) == new


def test_a_version_that_differs_in_outputs_only_disturbs_no_work(course):
    source, work = course
    write(source / "00_a.ipynb", first())
    lab.prepare(source, work)
    mine = first()
    answered(mine)
    write(work / "00_a.ipynb", mine)
    new = first()
    only_looked_at(new)
    write(source / "00_a.ipynb", new)
    assert lab.prepare(source, work) == lab.Prepared()
    assert not list(work.glob("*.new*"))
    write(work / "00_a.ipynb", first())  # without work in it, it is brought up to date
    new["cells"][0]["metadata"] = {"tags": ["x"]}
    write(source / "00_a.ipynb", new)
    assert lab.prepare(source, work).updated == ["00_a.ipynb"]


def test_the_memory_of_an_earlier_course_is_understood(course):
    """It kept one hash of the bytes for each copy."""
    source, work = course
    for name in ("00_a.ipynb", "01_b.ipynb"):
        write(source / name, first())
    lab.prepare(source, work)
    memory = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in source.iterdir()}
    (work / lab.MEMORY).write_text(json.dumps(memory))
    mine = first()
    answered(mine)
    write(work / "01_b.ipynb", mine)
    assert lab.prepare(source, work) == lab.Prepared()  # the memory is written anew, in the new form
    looked = first()
    only_looked_at(looked)
    write(work / "00_a.ipynb", looked)
    new = first()
    new["cells"][2]["source"] = "print(x, x)"
    for name in memory:
        write(source / name, new)
    done = lab.prepare(source, work)
    assert (done.updated, done.beside) == (["00_a.ipynb"], {"01_b.ipynb": "01_b.new.ipynb"})


def write(path, nb):
    path.write_text(json.dumps(nb), encoding="utf-8")
