"""What the commands print reaches every terminal, file and pipe, whatever its encoding; a long wait has a line."""

import io
import json
import os
import re
import subprocess
import sys
import time

import nbformat
import pytest
from challenge_helpers import made_card
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image
from typer.testing import CliRunner

from mlcourse import bench, challenge, files, places
from mlcourse.commands import COMMANDS, app, console, doctor
from mlcourse.teaching import progress

ENCODINGS = ["cp1252", "latin-1", "ascii", "cp437", "utf-8"]
TORCH = {"torch": "2.14.1", "torchvision": "0.29.1", "cuda": True, "cuda_build": "13", "gpu": "α → β"}

# one call of each command that does its whole work; {…} are folders of the test
CALLS = {
    "lab": ["lab", "--prepare-only"],
    "doctor": ["doctor"],
    "doctor, JSON": ["doctor", "--json"],
    "progress": ["progress"],
    "data, list": ["data", "list"],
    "data, show": ["data", "show", "{photos}", "--out", "{sheet}"],
    "train": ["train", "prototypical", "--recipe", "smoke", "--steps", "1", "--out", "{out}", "--device", "cpu"],
    "evaluate": ["evaluate", "pixels", "--episodes", "4"],
    "challenge": ["challenge", "pixels", "--out", "{out}"],
    "table": ["table", "glyphs-5way-1shot"],
    "search": ["search", "matching", "--recipe", "smoke", "--steps", "1", "--trials", "1", "--database", "{study}"],
    "site": ["site", "{photos}"],  # a line of refusal: it is not its folder
    "bench": ["bench", "maml", "--workload", "W2", "--rounds", "1", "--no-growth", "--device", "cpu"],
    "run": ["run", "{notebook}", "--budget", "smoke", "--out", "{out}"],
    "tidy": ["tidy", "{notebook}"],
    "golden": ["golden", "{notebook}"],
    "slides": ["slides", "{notebook}", "--out", "{out}"],
    "grade": ["grade", "--explain"],
    "hub": ["hub", "{students}", "--folder", "{out}", "--prepare-only"],
    "handout": ["handout", "{out}", "--notebooks", "05"],
    "nothing": [],
    "an error": ["run", "no → notebook"],
}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Folders whose names no small encoding has, with a small notebook; one half character where the system allows."""
    odd = "Übung → α"
    if sys.platform == "linux":
        odd += os.fsdecode(b"\xe9")
    home = tmp_path / odd
    home.mkdir()
    monkeypatch.setenv("MLCOURSE_WORK", str(home / "work"))
    notebook = home / "01_α.ipynb"
    cells = [new_code_cell("SEED = 0", metadata={"tags": ["parameters"]}), new_code_cell("print('→ α ±')")]
    nbformat.write(new_notebook(cells=cells), notebook)
    progress.record_guess("99.p1", "→?", "α")
    for number in range(4):
        folder = home / "photos" / f"→ {number}"
        folder.mkdir(parents=True)
        for sample in range(2):
            Image.new("RGB", (9, 9), (60 * number, 90 * sample, 0)).save(folder / f"{sample}.png")
    (home / "class.txt").write_text("anna\n", encoding="utf-8")
    places = {
        "study": home / "study.sqlite3",
        "out": home / "out",
        "notebook": notebook,
        "photos": home / "photos",
        "sheet": home / "sheet.png",
    }
    return places | {"students": home / "class.txt"}


@pytest.fixture
def report():
    """What `mlcourse bench` once measured: how it is printed is the question here."""
    kept = files.read_json(places.data() / "results" / "bench_maml.json")
    return kept | {"convolution_peak": 1e11}  # the file has one for each of the two calls that made it


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", CALLS)
def test_no_letter_stops_a_command(name, encoding, folders, report, monkeypatch):
    monkeypatch.setattr(bench, "bench", lambda *_, say, **__: say("W2 → α") or report)
    monkeypatch.setattr(doctor, "probe_torch", lambda: TORCH)
    monkeypatch.setattr(challenge, "run_submission", lambda *_, say, **__: say(0.5, "α → β") or made_card())
    answer = CliRunner(charset=encoding).invoke(app, [part.format(**folders) for part in CALLS[name]])
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    assert answer.exit_code == (2 if name in ("an error", "nothing", "site") else 0), answer.output
    assert answer.stdout_bytes.decode(encoding) or name in ("an error", "site")
    if name.endswith("JSON"):
        json.loads(answer.stdout)


def test_each_command_is_tried():
    assert {call[0] for call in CALLS.values() if call} == set(COMMANDS)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command(name, encoding):
    answer = CliRunner(charset=encoding).invoke(app, [name, "--help"])
    assert answer.exit_code == 0, answer.exception


@pytest.mark.parametrize(("encoding", "name"), [("cp1252", "train"), ("ascii", "evaluate")])
def test_the_real_program_in_a_pipe(encoding, name, folders):
    command = [sys.executable, "-m", "mlcourse", *(part.format(**folders) for part in CALLS[name])]
    answer = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding}, timeout=300)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == b""
    assert (b"->" if name == "train" else b"+/-") in answer.stdout


@pytest.mark.parametrize(
    ("text", "encoding", "written"),
    [
        ("78 ± 2", "ascii", b"78 +/- 2"),
        ("78 ± 2", "latin-1", b"78 \xb1 2"),
        ("a → b", "cp1252", b"a -> b"),
        ("α", "cp1252", b"\\u03b1"),
        ("caf\udce9", "utf-8", b"caf\\xe9"),
        ("𝒟", "ascii", b"\\U0001d49f"),
    ],
)
def test_what_stands_for_a_letter(text, encoding, written, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    console.never_fail_to_print()
    print(text, end="", flush=True)
    assert stream.buffer.getvalue() == written


def test_no_terminal_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console.never_fail_to_print()


# -------------------------------------------------------------------------------- waiting


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("seconds", "said"), [(3.4, "3 s"), (99, "99 s"), (240, "4 min"), (9000, "2.5 h")])
def test_durations(seconds, said):
    assert console.duration(seconds) == said


def lines_after(stream, count):
    """Wait until the stream has more lines than `count`."""
    end = time.monotonic() + 30
    while stream.getvalue().count("\n") <= count and time.monotonic() < end:
        time.sleep(0.01)


def test_a_file_gets_lines_and_the_time_left():
    stream = io.StringIO()
    with console.Progress("W3", stream, every=0.02) as waiting:
        lines_after(stream, 0)
        waiting.at(0.25, "step 2 of 4")
        lines_after(stream, stream.getvalue().count("\n") + 1)
    first, *_, last = stream.getvalue().splitlines()
    assert "left" not in first  # nothing is known yet
    assert re.fullmatch(r"W3: step 2 of 4, \d s so far, about \d s left", last)
    assert "\r" not in stream.getvalue()


def test_a_terminal_has_one_line_that_is_gone_at_the_end(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    with console.Progress("W3", stream, every=0.05) as waiting:
        waiting.at(0.5, "a text that is much longer than the terminal is wide")
        while "a text" not in stream.getvalue():
            time.sleep(0.01)
    assert "\n" not in stream.getvalue()
    assert all(len(line) < 30 for line in stream.getvalue().split("\r"))
    assert stream.getvalue().endswith("\r" + " " * 29 + "\r")


def test_a_short_work_says_nothing():
    stream = io.StringIO()
    with console.Progress("W3", stream) as waiting:
        waiting.at(0.5, "half")
    assert stream.getvalue() == ""


def test_a_note_stands_at_the_end_and_leaves_the_time_left_alone(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    waiting = console.Progress("06", io.StringIO())
    now[0] = 110.0
    waiting.at(0.25, "cell 2 of 4")
    assert waiting.line() == "06: cell 2 of 4, 10 s so far, about 30 s left"
    now[0] = 115.0
    waiting.note("accuracy=0.9 (3/8)")  # half way in a cell: the time left goes on falling
    assert waiting.line() == "06: cell 2 of 4, 15 s so far, about 25 s left; accuracy=0.9 (3/8)"
    waiting.at(0.5, "cell 3 of 4")
    assert waiting.line() == "06: cell 3 of 4, 15 s so far, about 15 s left"
