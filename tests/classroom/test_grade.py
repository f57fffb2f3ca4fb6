"""`mlcourse grade`: forty hand-ins, the isolation of answers, records that are kept, and marks as in the notebook."""

import csv
import dataclasses
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import forty
import psutil
import pytest
from held_answers import LESSONS, tables
from typer.testing import CliRunner

from mlcourse import places
from mlcourse.classroom import answers, collecting, course, guide, marks, notebooks, sandbox
from mlcourse.classroom.marks import Grader, Settings
from mlcourse.classroom.sandbox import Limits, Sandbox
from mlcourse.commands import app
from mlcourse.errors import CourseError
from mlcourse.lessons import every_check

LIMITS = Limits(seconds=8, memory=2**30)
WALLS = pytest.mark.skipif(sandbox.bubblewrap() is None, reason="bubblewrap is not installed, or may not be used here")
POSIX = pytest.mark.skipif(os.name != "posix", reason="process groups and their limits are POSIX")


def digests(folder: Path) -> dict[str, str]:
    """A checksum of each file of a folder."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }


def processes() -> list[int]:
    """The processes of answers that still live: of this process, or of nobody any more. Others run tests, too."""
    found, below = [], {child.pid for child in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter():
        try:
            mine = {"mlcourse.classroom.child", sys.executable} <= set(process.cmdline())
            if mine and (process.pid in below or process.ppid() == 1) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def enemy(tmp_path):
    """A teacher's file, a port that listens, and a place to write."""
    home = tmp_path / "teacher"
    home.mkdir()
    (home / "marks of last year.txt").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield forty.Enemy(home / "marks of last year.txt", server.getsockname()[1], tmp_path / "written.txt")


@pytest.fixture
def hand_ins(tmp_path):
    """A folder for hand-ins, and a function that puts a notebook into it."""
    folder = tmp_path / "hand-ins"
    folder.mkdir()

    def put(student: str, notebook: dict) -> None:
        (folder / student).mkdir()
        (folder / student / forty.NAME).write_bytes(forty.bytes_of(notebook))

    return folder, put


@WALLS
def test_forty_hand_ins_get_their_marks_and_touch_nothing(tmp_path, enemy):
    folder, out = tmp_path / "hand-ins", tmp_path / "marks"
    expected = forty.hand_in_all(folder, enemy)
    assert len(expected) >= 40
    places_of_others = (folder, enemy.file.parent, places.PACKAGE, places.data())
    before = [digests(place) for place in places_of_others]
    left = processes()
    grader = Grader(out, limits=LIMITS)
    records = grader.grade(collecting.collect(folder), jobs=2)
    marks.write(out, records, Settings(), grader.columns(records))
    rows = {row["student"]: row for row in csv.DictReader((out / "marks.csv").open(encoding="utf-8"))}
    got = {student: tuple(int(row[f"00.{k}"]) for k in (1, 2, 3)) for student, row in rows.items()}
    assert got == {student: one.marks for student, one in expected.items()}
    for record in records:
        assert expected[record["student"]].words in json.dumps(record, ensure_ascii=False), record
        assert "the check itself failed" not in json.dumps(record)
    assert [digests(place) for place in places_of_others] == before
    assert not enemy.written.exists()
    assert not (tmp_path.parent / "escaped.ipynb").exists()
    assert set(processes()) <= set(left)


@POSIX
def test_without_walls_an_answer_does_damage(tmp_path, enemy, hand_ins):
    folder, put = hand_ins
    attacks = [forty.hostile(enemy)[name][0].splitlines() for name in ("neighbour", "socket", "write")]
    head, *_, right = attacks[0]
    text = "\n".join([head, *(line for _, *lines, _ in attacks for line in lines), right])
    put("all three", forty.answered(text))
    (record,) = Grader(tmp_path / "marks", limits=LIMITS, isolated=False).grade(collecting.collect(folder))
    assert record["exercises"]["00.1"]["passed"]  # each attack succeeds, and is not noticed
    assert enemy.written.read_text() == "x"


@POSIX
@pytest.mark.parametrize("name", ["loop", "exit", "memory"])
def test_limits_hold_without_walls_and_the_next_exercise_is_marked(tmp_path, enemy, hand_ins, name):
    folder, put = hand_ins
    text, _, words = forty.hostile(enemy)[name]
    notebook = forty.answered(all_three=True)
    forty.stub(notebook, 1)["source"] = text
    put("hostile", notebook)
    left = processes()
    limits = dataclasses.replace(LIMITS, seconds=4)
    (record,) = Grader(tmp_path / "marks", limits=limits, isolated=False).grade(collecting.collect(folder))
    assert [one["passed"] for one in record["exercises"].values()] == [False, True, True]
    assert words in record["exercises"]["00.1"]["diagnosis"]
    assert set(processes()) <= set(left)


@WALLS
def test_no_answer_opens_a_namespace_of_its_own(tmp_path, hand_ins):
    if not sandbox.closes_namespaces():
        pytest.skip("this bubblewrap cannot forbid user namespaces")
    folder, put = hand_ins
    lines = ["import ctypes", "assert ctypes.CDLL(None).unshare(0x10000000) != 0", "return distances.argmin(dim=1)"]
    put("a", forty.answered(forty.body(*lines)))
    (record,) = Grader(tmp_path / "marks", limits=LIMITS).grade(collecting.collect(folder))
    assert record["exercises"]["00.1"]["passed"]


@POSIX
def test_an_answer_ends_when_the_machine_runs_short_of_memory(tmp_path, hand_ins, monkeypatch):
    folder, put = hand_ins
    put("a", forty.answered(forty.body("import time", "time.sleep(1000)")))
    monkeypatch.setattr(Sandbox, "begin_exercise", lambda box: monkeypatch.setattr(sandbox, "floor", lambda: 2.0**60))
    (record,) = Grader(tmp_path / "marks", limits=LIMITS, isolated=False).grade(collecting.collect(folder))
    assert sandbox.SHORT in record["exercises"]["00.1"]["diagnosis"]
    assert "digest" not in record  # another run tries it again: it may be the fault of somebody else


@POSIX
def test_the_clock_counts_all_calls_of_an_exercise_and_all_exercises_of_a_hand_in(tmp_path, hand_ins):
    folder, put = hand_ins
    slow = forty.answered(forty.body("import time", "time.sleep(1.5)", "return distances.argmin(dim=1)"))
    put("a", slow)
    limits = dataclasses.replace(LIMITS, seconds=0.2)  # of processor time: 2 s by the clock
    (record,) = Grader(tmp_path / "one", limits=limits, isolated=False).grade(collecting.collect(folder))
    assert "by the clock" in record["exercises"]["00.1"]["diagnosis"]
    notebook = forty.answered(all_three=True)
    forty.stub(notebook, 1)["source"] = forty.stub(slow, 1)["source"]
    shutil.rmtree(folder / "a")
    put("b", notebook)
    limits = dataclasses.replace(LIMITS, clock=2)
    (record,) = Grader(tmp_path / "all", limits=limits, isolated=False).grade(collecting.collect(folder))
    assert [one["found_by"] for one in record["exercises"].values()] == ["limits"] * 3
    assert "took all 2 s of the hand-in" in record["exercises"]["00.2"]["diagnosis"]


@POSIX
def test_the_time_of_processes_that_ended_counts(box):
    one = box(READY + "import subprocess\nfor k in range(100): subprocess.run([sys.executable, '-S', '-c', "
              "'import time\\nwhile time.process_time() < 0.4: pass'])",
              dataclasses.replace(LIMITS, seconds=1.5))  # fmt: skip
    with pytest.raises(sandbox.Stopped, match="did not end within 2 s"):
        one.ask({})


@pytest.mark.parametrize("name", ["marks.csv", "report.html", "feedback/anna.html"])
def test_files_of_somebody_else_are_not_overwritten(tmp_path, hand_ins, name, monkeypatch):
    folder, put = hand_ins
    put("one", forty.answered())
    mine = tmp_path / "marks" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("student,oral exam\nada,17\n")
    monkeypatch.setattr(marks.Grader, "grade", None)  # it is said before the work
    answer = CliRunner().invoke(app, ["grade", str(folder), "--out", str(tmp_path / "marks")])
    assert answer.exit_code == 2
    assert "is not of `mlcourse grade`, and would be overwritten: take another --out" in answer.stderr
    assert mine.read_text() == "student,oral exam\nada,17\n"


def test_marks_of_other_notebooks_are_not_lost(tmp_path):
    out = tmp_path / "marks"
    (out / "records").mkdir(parents=True)
    (out / "marks.csv").write_text("student,01.1,01.2,total,of,late,to be looked at,remarks\n")
    with pytest.raises(CourseError, match=r"marks of 2 exercises that are not asked for now, such as 01\.1: take"):
        marks.check_place(out, ["02.1"])
    marks.check_place(out, ["01.1", "01.2", "02.1"])
    marks.check_place(out, None)  # all
    with pytest.raises(CourseError, match="marks of 2 exercises"):
        marks.check_place(out, [])  # nothing that was handed in can be read
    (out / "marks.csv").write_text("student,01.1,total,of,late,to be looked at,remarks\nada,1,1,1,,,\n'=bob,1,1,1,,,\n")
    marks.check_place(out, ["01.1"], ["=bob", "ada", "cleo"])
    with pytest.raises(CourseError, match="marks of 1 who handed in nothing now, such as ada: take"):
        marks.check_place(out, ["01.1"], ["=bob"])


def test_without_notebooks_named_those_handed_in_are_asked_for(tmp_path, hand_ins):
    """Week 2 does not replace the marks of week 1 in silence."""
    folder, put = hand_ins
    put("ada", forty.course())
    call = ["grade", str(folder), "--out", str(tmp_path / "marks"), "--jobs", "1"]
    assert CliRunner().invoke(app, call).exit_code == 0
    first = digests(tmp_path / "marks")
    shutil.rmtree(folder)
    folder.mkdir()
    forty.hand_in_05(folder, 1)
    (name,) = (path.name for path in folder.iterdir())
    (folder / name).rename(folder / "ada")
    again = CliRunner().invoke(app, call)
    assert again.exit_code == 2
    assert "exercises that are not asked for now, such as 00.1" in again.output
    assert digests(tmp_path / "marks") == first


@pytest.mark.parametrize("checked", [False, True])
def test_each_answer_has_the_helper_that_it_was_checked_with(tmp_path, hand_ins, checked):
    """Another answer may have a helper of the same name later."""
    folder, put = hand_ins
    notebook = forty.answered("def pick(x):\n    return x.argmin(dim=1)\n\n\n" + forty.body("return pick(distances)"))
    place = notebook["cells"].index(forty.stub(notebook, 1))
    if checked:
        notebook["cells"].insert(place + 1, forty.code("assert checks.nearest(my_nearest)"))
    interval = forty.INTERVAL.replace("per_episode.std() / len(per_episode) ** 0.5", "pick(per_episode)")
    forty.stub(notebook, 3)["source"] = (
        "FACTOR = 1.96\n\n\ndef pick(x):\n    return x.std() / len(x) ** 0.5\n\n\n" + interval
    )
    put("ada", notebook)
    (hand_in,) = collecting.collect(folder)
    found = marks.Grader(tmp_path / "out").record(hand_in)["exercises"]
    assert [found[number]["passed"] for number in ("00.1", "00.2", "00.3")] == [True, False, True]


def test_only_the_notebooks_that_count_can_be_late(tmp_path, hand_ins):
    folder, put = hand_ins
    put("ada", forty.course())
    (early,) = folder.rglob("*.ipynb")
    (tmp_path / "other").mkdir()
    forty.hand_in_05(tmp_path / "other", 1)
    (later,) = (tmp_path / "other").rglob("*.ipynb")
    later = Path(shutil.copy(later, early.parent))
    for path, day in ((early, 20), (later, 30)):
        when = datetime(2026, 11, day, tzinfo=UTC).timestamp()
        os.utime(path, (when, when))
    (hand_in,) = collecting.collect(folder)
    settings = Settings(due=datetime(2026, 11, 25, tzinfo=UTC))
    late = [
        marks.Grader(tmp_path / str(k), settings, wanted).record(hand_in)["late"]
        for k, wanted in enumerate([("00",), ("05",), ()])
    ]
    assert late == [False, True, True]


def test_what_is_finished_is_kept_and_two_runs_give_the_same_bytes(tmp_path, hand_ins, monkeypatch):
    folder, put = hand_ins
    put("one", forty.answered())
    put("two", forty.course())
    call = ["grade", str(folder), "--out", str(tmp_path / "marks"), "--jobs", "1"]
    assert CliRunner().invoke(app, call).exit_code == 0
    first = digests(tmp_path / "marks")

    def judge(*args):
        raise AssertionError("a finished hand-in was judged again")

    monkeypatch.setattr(marks, "judge", judge)
    assert CliRunner().invoke(app, call).exit_code == 0
    assert digests(tmp_path / "marks") == first
    names = {Path(name).name for name in first}
    assert names == {"marks.csv", "report.html", "one.html", "two.html", "one.json", "two.json"}
    monkeypatch.undo()
    (tmp_path / "marks" / "records" / "one.json").write_text("{")  # cut by a power failure
    assert CliRunner().invoke(app, call).exit_code == 0
    assert digests(tmp_path / "marks") == first


@POSIX
def test_ctrl_c_ends_what_runs_and_keeps_no_half_record(tmp_path, hand_ins, monkeypatch):
    folder, put = hand_ins
    put("a", forty.course())
    put("b", forty.answered(forty.body("import time", "time.sleep(1000)")))
    left, ask = processes(), Sandbox.ask

    def finished():
        raise KeyboardInterrupt

    def late(box, *args):
        asked.set()
        return ask(box, *args)

    asked = threading.Event()
    monkeypatch.setattr(Sandbox, "ask", late)
    monkeypatch.setattr(marks, "as_completed", lambda futures: asked.wait(300) and reversed(list(futures)[:1]))
    with pytest.raises(KeyboardInterrupt):
        Grader(tmp_path / "marks", limits=LIMITS).grade(collecting.collect(folder), 2, finished)
    deadline = time.monotonic() + 60
    while set(processes()) - set(left) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert set(processes()) <= set(left)
    assert [path.name for path in (tmp_path / "marks" / "records").iterdir()] == ["a.json"]


def test_thirty_hand_ins_of_notebook_05_take_less_than_five_minutes_on_two_cores(tmp_path, hand_ins):
    if os.environ.get("MLCOURSE_LESSON") != "all":
        pytest.skip("it takes minutes: set MLCOURSE_LESSON=all")
    if os.getloadavg()[0] > 2:
        pytest.skip("other programs keep the cores busy: a time says nothing")
    folder, _ = hand_ins
    forty.hand_in_05(folder, 30)
    grader, begin = Grader(tmp_path / "marks"), time.monotonic()
    records = grader.grade(collecting.collect(folder), 2)
    assert time.monotonic() - begin < 300
    passed = [sum(one["passed"] for one in record["exercises"].values()) for record in records]
    assert passed == [4, 0, 0] * 10  # by the students' names: right, wrong, untouched


def test_an_answer_that_calls_what_its_own_check_gives_does_not_pass(tmp_path, hand_ins):
    folder, put = hand_ins
    put("a", forty.answered(forty.body("return nearest(distances)")))
    (record,) = Grader(tmp_path / "marks", limits=LIMITS).grade(collecting.collect(folder))
    assert not record["exercises"]["00.1"]["passed"]
    assert "name 'nearest' is not defined" in record["exercises"]["00.1"]["diagnosis"]


def test_one_hand_in_that_cannot_be_marked_does_not_end_the_class(tmp_path, hand_ins, monkeypatch):
    folder, put = hand_ins
    put("a", forty.answered("# unheard of"))
    put("b", forty.course())

    def fall(content):
        if b"unheard of" in content:
            raise TypeError("a kind of file that nobody thought of")
        return cells_of(content)

    cells_of = notebooks.cells_of
    call = ["grade", str(folder), "--out", str(tmp_path / "marks"), "--jobs", "1"]
    monkeypatch.setattr(notebooks, "cells_of", fall)
    answer = CliRunner().invoke(app, call)
    assert answer.exit_code == 0
    assert "not marked to the end: a" in answer.stderr
    assert "nobody thought of" in (tmp_path / "marks" / "feedback" / "a.html").read_text(encoding="utf-8")
    monkeypatch.undo()
    answer = CliRunner().invoke(app, call)
    assert "not marked" not in answer.stderr
    assert "2 hand-ins marked" in answer.stdout


# ---- what comes back from the process ----


@pytest.fixture
def box(monkeypatch):
    """A sandbox whose process is a Python program of choice."""
    made = []

    def start(program: str, limits: Limits = LIMITS) -> Sandbox:
        popen = subprocess.Popen
        monkeypatch.setattr(
            subprocess, "Popen", lambda command, **options: popen([sys.executable, "-c", program], **options)
        )
        made.append(Sandbox(["start_here"], limits, isolated=False))
        monkeypatch.undo()
        return made[-1]

    yield start
    for one in made:
        one.close()


READY = (
    "import os, struct, sys, time, json\nw = lambda h, b=b'': os.write(1, struct.pack('<II', len(h), len(b)) + h + b)\n"
)
READY += "w(b'{}')\nsys.stdin.buffer.read(1)\n"


@POSIX
@pytest.mark.parametrize(
    "program",
    [
        "os.write(1, b'\\xff' * 100)",
        "w(b'[]')",
        "w(b'no json')",
        "w(b'[' * 100_000)",
        "w(b'{}', b'no tensors')",
        "w(b'{}', struct.pack('<Q', 2**60) + b'{}')",
        'w(b\'{"a": "\\xff"}\')',
        "os.write(1, struct.pack('<II', 10, 10) + b'{}')",
        "pass",
    ],
)
def test_what_is_no_reply_stops_the_answer(box, program):
    one = box(READY + program)
    with pytest.raises(sandbox.Stopped):
        one.ask({})
    assert one.ended
    with pytest.raises(sandbox.Stopped):
        one.ask({})


@POSIX
def test_a_flood_of_replies_waits_outside_of_the_grader(box):
    one = box(READY + "body = struct.pack('<Q', 2) + b'{}'\nwhile True: w(b'{}' + b' ' * 3_000_000)")
    before = psutil.Process().memory_info().rss
    assert one.ask({}) == ({}, {})
    time.sleep(2)
    assert psutil.Process().memory_info().rss - before < 200e6
    one.close()
    assert one.ended


# ---- marks as in the notebook ----


def as_cells(lesson: str, name: str, words: str) -> list[notebooks.Cell]:
    """A hand-in whose answer is taken from the tables of a lesson's further answers."""
    table = (Path(tables(lesson).__file__)).read_text(encoding="utf-8")
    return [notebooks.Cell("code", table), notebooks.Cell("code", f"{name} = {words}")]


@pytest.mark.parametrize("number", LESSONS)
def test_marks_are_what_the_students_own_checks_say(number):
    if number != "00" and os.environ.get("MLCOURSE_LESSON") != "all":
        pytest.skip("all answers of all lessons take minutes: set MLCOURSE_LESSON=all")
    lesson, asked, checks = LESSONS[number], course.notebooks()[number], every_check()
    table, differ, count = tables(lesson), [], 0
    box = Sandbox([lesson], Limits())
    try:
        for exercise in asked.exercises:
            name, check = exercise.check.split(".")[1], checks[exercise.check]
            right = [(f"RIGHT[{name!r}][{k}]", one) for k, one in enumerate(table.RIGHT.get(name, []))]
            wrong = [(f"WRONG[{name!r}][{key!r}][0]", one[0]) for key, one in table.WRONG.get(name, {}).items()]
            for words, function in [*right, *wrong]:
                own = check.run(function, seed=check.first_seed)
                found = answers.find(asked, as_cells(lesson, exercise.name, words))
                answer = next(one for one in found if one.exercise is exercise)
                answer.exercise = dataclasses.replace(exercise, number=f"{exercise.number} {words}")
                verdict = marks.judge(check, answer, box, check.first_seed)
                count += 1
                if (own.passed, own.found_by, without_line(own)) != (
                    verdict.passed, verdict.found_by, without_line(verdict),
                ):  # fmt: skip
                    differ.append((words, own.diagnosis, verdict.diagnosis))
    finally:
        box.close()
    assert differ == []
    assert count >= 15


def without_line(verdict) -> str:
    return verdict.diagnosis.split(" This happens on line")[0]


# ---- settings, dates, names ----


def test_weights_and_a_date(tmp_path):
    (tmp_path / "marks.toml").write_text('due = 2026-11-01T12:00:00Z\nlate = 0.5\n[weights]\n"00.1" = 3\n')
    settings = Settings.read(tmp_path / "marks.toml")
    assert settings == Settings({"00.1": 3}, datetime(2026, 11, 1, 12, tzinfo=UTC), 0.5)
    one = {"passed": True, "diagnosis": "", "notes": [], "look": []}
    record = {"student": "=1+1", "late": True, "notes": [], "exercises": {"00.1": one, "00.10": one, "00.2": one}}
    marks.write(tmp_path / "out", [record], settings, ["00.1", "00.2", "00.10"])
    head, row = csv.reader((tmp_path / "out" / "marks.csv").open(encoding="utf-8"))
    assert head[:6] == ["student", "00.1", "00.2", "00.10", "total", "of"]
    assert row[:7] == ["'=1+1", "3", "1", "1", "2.5", "5", "late"]  # a name is no formula of a spreadsheet


def page_of(tmp_path, factor, **record):
    one = {"passed": True, "diagnosis": "", "notes": [], "look": ["It calls solution_x."]}
    record = {"student": "ada", "late": False, "notes": [], "exercises": {"00.1": one}} | record
    marks.write(tmp_path, [record], Settings(late=factor), ["00.1", "05.1"])
    return [(tmp_path / name).read_text(encoding="utf-8") for name in ("feedback/ada.html", "report.html")]


def test_what_is_to_be_looked_at_is_for_the_teacher_alone(tmp_path):
    feedback, report = page_of(tmp_path, 1.0)
    assert "It calls solution_x." in report
    assert "look" not in feedback
    assert "solution_x" not in feedback


def test_the_feedback_says_what_a_late_hand_in_costs(tmp_path):
    assert (
        "It came after the date: the points of what passed are multiplied by 0.5."
        in page_of(tmp_path, 0.5, late=True)[0]
    )
    assert "It came after the date; this takes no points." in page_of(tmp_path, 1.0, late=True)[0]
    assert "after the date" not in page_of(tmp_path, 0.5)[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [("05_x.ipynb", "Could not be read"), ("homework.ipynb", "Not found; one of the files could not be read")],
)
@pytest.mark.parametrize("content", ["", '{"cells": [{"cell_ty', "%PDF-1.4", "{}"])
def test_a_file_without_a_cell_that_can_be_read_is_not_called_missing(tmp_path, name, words, content):
    for student in ("ada", "bo"):
        (tmp_path / "in" / student).mkdir(parents=True)
    (tmp_path / "in" / "ada" / name).write_text(content)
    (tmp_path / "in" / "bo" / "00_x.ipynb").write_text("")
    grader = Grader(tmp_path / "out", wanted=("05",))
    records = grader.grade(collecting.collect(tmp_path / "in"))
    columns = grader.columns(records)
    marks.write(tmp_path / "out", records, grader.settings, columns)
    ada, bo, report = [
        (tmp_path / "out" / page).read_text(encoding="utf-8")
        for page in ("feedback/ada.html", "feedback/bo.html", "report.html")
    ]
    assert f"○ {words}." in ada
    assert "Not handed in" not in ada
    assert bo.count("○ Not handed in.") == len(columns)
    assert f"<p>1 – {words.lower()}.</p>" in report
    assert "<p>1 did not hand it in.</p>" in report


def test_core_and_stretch_have_weights_and_an_exercise_its_own(tmp_path):
    (tmp_path / "marks.toml").write_text('[weights]\ncore = 2\nstretch = 0.5\n"00.1" = 5\n"00.3" = 0\n')
    weights = Grader(tmp_path, Settings.read(tmp_path / "marks.toml")).settings.weights
    assert [weights[number] for number in ("00.1", "00.2", "00.3", "05.1", "05.3")] == [5, 2, 0, 2, 0.5]
    (tmp_path / "marks.toml").write_text("[weights]\ncore = 2\n")
    assert Grader(tmp_path, Settings.read(tmp_path / "marks.toml")).settings.weights["05.3"] == 1


def test_kinds_are_those_of_the_headings():
    kinds = {one.number: one.kind for lesson in course.notebooks().values() for one in lesson.exercises}
    assert kinds == {task.number: task.kind for one in guide.read(places.notebooks()) for task in one.tasks}
    assert set(kinds.values()) == {"core", "stretch"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("weight = 1", "it may set"),
        ('"00.1" = 1', r"put exercises below a line \[weights\]"),
        ("00.1 = 1", r"put exercises below a line \[weights\]"),
        ("core = 2", r"put exercises below a line \[weights\]"),
        ("[weights]\ncore = -1", "the weight core"),
        ("[weights]\nhard = 1", "the weight hard"),
        ("weights = 3", "write a table"),
        ('[weights]\n"5.1" = 2', "the weight 5.1"),
        ('[weights]\n"05.1" = -2', "the weight 05.1"),
        ('[weights]\n"05.1" = nan', "the weight 05.1"),
        ("due = 3", "write a day and a time"),
        ("due = 2026-11-30T18:00:00", r"T18:00:00, without a zone; write 2026-11-30T18:00:00Z .* 2026.*\+01:00"),
        ("late = 2", "from 0 to 1"),
        ("seed = -1", "whole number"),
        ("due = ", "no TOML"),
        ("weights = " + "[" * 20_000, "no TOML"),
        ("weights = " + "{a=" * 20_000, "no TOML"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path, text, words):
    (tmp_path / "marks.toml").write_text(text)
    with pytest.raises(CourseError, match=words):
        Settings.read(tmp_path / "marks.toml")


def test_an_exercise_that_nobody_knows_has_no_weight(tmp_path):
    with pytest.raises(CourseError, match=r"99\.1"):
        Grader(tmp_path, Settings({"99.1": 1.0}))


def test_names_of_students_stay_apart_as_files():
    names = ["Ada", "ada", "a/da", "a_da", "..", "äda", "-", "x" * 200]
    made = [marks.file_name(name) for name in names]
    assert len({name.casefold() for name in made}) == len(names)
    assert all("/" not in name and name not in ("", ".", "..") for name in made)


def test_a_name_and_a_diagnosis_are_no_html(tmp_path):
    bad = "<script>alert(1)</script>"
    one = {"passed": False, "diagnosis": bad, "notes": [bad], "look": [bad]}
    record = {"student": bad, "late": False, "notes": [bad], "exercises": {"00.1": one}}
    marks.write(tmp_path, [record], Settings(), ["00.1"])
    for page in tmp_path.rglob("*.html"):
        assert "<script" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ([], "name the folder"),
        (["{}"], "--out"),
        (["{}", "--out", "{}/marks"], "among the hand-ins"),
        (["{}", "--out", "elsewhere"], "nothing to mark"),
        (["{}/none", "--out", "elsewhere"], "no folder and no zip"),
    ],
)
def test_a_wrong_call_is_one_line(tmp_path, call, words):
    answer = CliRunner().invoke(app, ["grade", *(word.format(tmp_path) for word in call)])
    assert answer.exit_code == 2
    assert words in answer.stderr


def test_it_explains_its_isolation(monkeypatch):
    monkeypatch.setattr(sandbox, "bubblewrap", lambda: None)
    answer = CliRunner().invoke(app, ["grade", "--explain"])
    assert answer.exit_code == 0
    assert "WARNING: no bubblewrap" in answer.stdout
    monkeypatch.setattr(sandbox, "bubblewrap", lambda: "bwrap")
    for closes, told in ((True, False), (False, True)):
        monkeypatch.setattr(sandbox, "closes_namespaces", lambda closes=closes: closes)
        answer = CliRunner().invoke(app, ["grade", "--explain"])
        assert "WARNING" not in answer.stdout
        assert ("--disable-userns" in answer.stdout) == told
    assert "s by the clock for one hand-in" in answer.stdout


def test_the_course_says_what_it_asks():
    asked = course.notebooks()
    checks = every_check()
    for number, lesson in asked.items():
        assert [one.number for one in lesson.exercises] == [f"{number}.{k + 1}" for k in range(len(lesson.exercises))]
        for exercise in lesson.exercises:
            assert checks[exercise.check].exercise == exercise.number
            assert exercise.solution
    assert asked["05"].given["hessian_vector"] == "by_hand.hessian_vector"
    assert places.notebooks().is_dir()


@POSIX
def test_a_path_too_long_for_the_system_is_refused_and_ends_nothing(tmp_path):
    """One student's nested folders must not end the marking of the class."""
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "05_x.ipynb").write_text("{}")
    (tmp_path / "bo").mkdir()
    here = os.getcwd()
    try:
        os.chdir(tmp_path / "bo")
        for _ in range(25):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        Path("05_x.ipynb").write_text("{}")
    finally:
        os.chdir(here)
    found = {one.student: one for one in collecting.collect(tmp_path)}
    assert set(found) == {"anna", "bo"}
    assert len(found["anna"].notebooks) == 1
    assert found["bo"].notebooks == []
    assert any("cannot be read (File name too long)" in line for line in found["bo"].refused)
