"""`mlcourse bench` refuses what it would ignore, and a place where its report could not stand, before it measures."""

import errno
import json
import os
import re

import pytest
import torch
from typer.testing import CliRunner

from mlcourse import bench, devices, files, gpu_report, places, scaling, shared_cores
from mlcourse.commands import app

WORK = {
    "maml": (bench, "bench"),
    "threads": (shared_cores, "table"),
    "lessons": (shared_cores, "lessons"),
    "processes": (scaling, "report"),
    "gpu": (gpu_report, "report"),
}
GIVEN = {
    "--workload": ["--workload", "W2"],
    "--rounds": ["--rounds", "3"],
    "--growth": ["--growth"],
    "--no-growth": ["--no-growth"],
    "--load": ["--load", "quiet"],
    "--device": ["--device", "cpu"],
}
TAKERS = {"--rounds": ["maml", "processes"], "--load": ["threads", "lessons"]}
IGNORED = [(what, option) for option in GIVEN for what in WORK if what not in TAKERS.get(option, ["maml"])]


class Started(Exception):
    """The measuring began."""


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """No call measures: each notes with which arguments it was asked to, and stops."""
    found = {}

    def start(*words, **named):
        found.update(named, words=words)
        raise Started

    for module, name in WORK.values():
        monkeypatch.setattr(module, name, start)
    monkeypatch.setattr(gpu_report, "the_gpu", lambda: torch.device("cpu"))
    return found


def refused(*words):
    """The line of a call that is refused before it measures."""
    done = CliRunner().invoke(app, ["bench", *map(str, words)])
    assert done.exit_code == 2, done.exception
    (line,) = done.stderr.splitlines()
    return line.removeprefix("mlcourse: ")


def starts(*words):
    return isinstance(CliRunner().invoke(app, ["bench", *map(str, words)]).exception, Started)


# ------------------------------------------------------------------ options


@pytest.mark.parametrize(("what", "option"), IGNORED)
def test_an_option_of_another_benchmark_is_refused(what, option):
    takers = " and ".join(TAKERS.get(option, ["maml"]))
    assert refused(what, *GIVEN[option]) == f"{option} is for bench {takers}: leave it out"


def test_of_several_such_options_the_first_is_named():
    words = ["--workload", "W2", "--device", "cuda", "--load", "nonsense", "--no-growth"]
    assert refused("processes", *words).startswith("--workload is for bench maml")


def test_an_unknown_benchmark_is_told_before_its_options():
    assert "'other' has no benchmark" in refused("other", "--load", "quiet")


@pytest.mark.parametrize("what", WORK)
def test_each_option_is_taken_where_it_belongs(what):
    assert starts(what, *(word for option, words in GIVEN.items() if (what, option) not in IGNORED for word in words))


def test_what_is_left_out_is_as_the_help_says(asked):
    assert starts("maml")
    assert asked["words"] == (list(bench.WORKLOADS),)
    assert (asked["rounds"], asked["grow"], asked["device"]) == (5, True, devices.pick("auto"))
    assert starts("maml", "--no-growth")
    assert asked["grow"] is False
    assert starts("processes")
    assert asked["rounds"] == 5
    assert starts("threads")
    assert asked["loads"] == list(shared_cores.NEIGHBOURS)
    assert starts("lessons")
    assert asked["loads"] == ["one neighbour"]
    told = re.sub(r"[\s│]+", " ", CliRunner().invoke(app, ["bench", "--help"]).output)
    for default in ("all", "5", "yes", "all; of lessons one neighbour", "auto"):
        assert f"(default: {default})" in told


# ------------------------------------------------------------------ the place of the report


REPORTS = {"maml": "bench_maml", "threads": "threads", "lessons": "lessons_beside_others", "processes": "scaling"}
GPU = {"machine": {}, "parts": {}, "seconds": 1.5}


def report_of(what):
    return GPU if what == "gpu" else files.read_json(places.data() / "results" / f"{REPORTS[what]}.json")


@pytest.mark.parametrize("what", WORK)
@pytest.mark.parametrize("content", [b"my diary\n", b"\xff\x00", b"", b"[1]", b'{"machine": {}}', b'{"loads": 1}'])
def test_a_file_that_is_no_report_stays(what, content, tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_bytes(content)
    assert refused(what, "--out", precious).startswith(f"{precious} is there, and is no report of bench {what}: name")
    assert precious.read_bytes() == content


@pytest.mark.parametrize("what", WORK)
@pytest.mark.parametrize("earlier", WORK)
def test_an_earlier_report_is_replaced_by_one_of_the_same_benchmark_only(what, earlier, tmp_path):
    out = tmp_path / "report.json"
    files.write_json(out, report_of(earlier))
    if what == earlier:
        assert starts(what, "--out", out)
    else:
        assert f"is no report of bench {what}: name another file" in refused(what, "--out", out)
        assert files.read_json(out) == json.loads(json.dumps(report_of(earlier)))


@pytest.mark.parametrize("what", WORK)
def test_a_folder_is_refused_before_the_work(what, tmp_path):
    line = refused(what, "--out", tmp_path)
    assert line == f"{tmp_path} is a folder: name a file in it with --out, such as {tmp_path / what}.json"


@pytest.mark.parametrize("what", WORK)
@pytest.mark.parametrize("name", ["file/report.json", "file/more/report.json", f"{300 * 'a'}.json"])
def test_an_unwritable_place_is_refused_before_the_work(what, name, tmp_path):
    (tmp_path / "file").write_text("in the place of a folder")
    line = refused(what, "--out", tmp_path / name)
    assert re.fullmatch(r"\S+ cannot be written \(.+\): name another file with --out", line)


def test_so_is_a_disk_that_can_only_be_read(tmp_path, monkeypatch):
    def no_file(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", no_file)
    assert "cannot be written (Read-only file system)" in refused("maml", "--out", tmp_path / "report.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_so_are_pipes_and_links_that_lead_nowhere(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name in ("pipe", "link"):
        assert "is no report of bench maml" in refused("maml", "--out", tmp_path / name)


def test_the_usual_place_of_the_report_on_a_gpu_is_checked_too(tmp_path, monkeypatch, asked):
    monkeypatch.setattr(places, "data", lambda: tmp_path)
    out = tmp_path / "results" / "gpu.json"
    assert starts("gpu")
    assert asked["words"][1] == out
    out.parent.mkdir()
    out.write_text("mine")
    assert f"{out} is there, and is no report of bench gpu" in refused("gpu")


@pytest.mark.parametrize("what", WORK)
def test_a_new_file_in_a_new_folder_is_taken_and_nothing_is_left_by_the_check(what, tmp_path):
    assert starts(what, "--out", tmp_path / "new" / "report.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_the_report_is_printed_even_where_the_disk_is_full_by_then(words, tmp_path, monkeypatch):
    measured = report_of("processes")
    monkeypatch.setattr(scaling, "report", lambda **_: measured)

    def full(path, value):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_json", full)
    done = CliRunner().invoke(app, ["bench", "processes", "--out", str(tmp_path / "report.json"), *words])
    assert done.exit_code == 2
    assert "no space is left on the disk" in done.stderr
    assert json.loads(done.stdout) == measured if words else "a projection with assumed constants" in done.stdout
