"""Progress and guesses: kept, never lost, never in the way."""

import json
import os
import subprocess
import sys

import filelock
import pytest

from mlcourse.errors import CourseError
from mlcourse.teaching import output, progress
from mlcourse.teaching.progress import NO_GUESS, Prediction


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(progress, "_told", set())
    return tmp_path / "work"


def test_passes_are_kept_sorted_and_the_first_time_counts(monkeypatch):
    assert progress.passes() == []
    monkeypatch.setattr(progress, "_now", lambda: "first")
    progress.record_pass("02.1", "Later")
    progress.record_pass("01.2", "One step")
    monkeypatch.setattr(progress, "_now", lambda: "second")
    progress.record_pass("01.2", "One step")
    assert progress.passes() == [
        {"exercise": "01.2", "title": "One step", "when": "first"},
        {"exercise": "02.1", "title": "Later", "when": "first"},
    ]


def test_guesses_are_kept_changed_and_taken_back():
    progress.record_guess("01.p1", "Which?", "up")
    progress.record_guess("01.p1", "Which?", "down")
    assert progress.guess("01.p1") == "down"
    assert [one["question"] for one in progress.guesses()] == ["Which?"]
    progress.record_guess("01.p1", "Which?", NO_GUESS)
    assert progress.guess("01.p1") is None


@pytest.mark.parametrize("text", ["{", "", "[1]", '{"passes": 3}', "\ud800"])
def test_a_damaged_file_is_kept_aside_with_one_clear_line(work, capsys, text):
    work.mkdir()
    progress.path().write_text(text, encoding="utf-8", errors="surrogatepass")
    assert progress.passes() == []
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "is damaged" in said
    assert (work / "progress.damaged-1.json").exists()
    progress.record_pass("01.1", "x")
    assert len(progress.passes()) == 1
    progress.path().write_text("{", encoding="utf-8")
    progress.record_pass("01.2", "y")
    assert [one["exercise"] for one in progress.passes()] == ["01.2"]
    assert (work / "progress.damaged-2.json").read_text() == "{"


def test_odd_entries_are_left_out_not_lost(work):
    work.mkdir()
    progress.path().write_text(json.dumps({"passes": {"01.1": 3}, "mine": "kept"}), encoding="utf-8")
    progress.record_pass("01.2", "y")
    assert [one["exercise"] for one in progress.passes()] == ["01.2"]
    assert json.loads(progress.path().read_text())["mine"] == "kept"


def test_a_folder_that_cannot_be_written_stops_nothing_and_is_said_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path / "file" / "work"))
    progress.record_pass("01.1", "x")
    progress.record_pass("01.2", "y")
    assert progress.passes() == []
    said = capsys.readouterr().out
    assert said.count("cannot be kept") == 1


def test_a_lock_that_another_program_holds_stops_nothing(work, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOCK_SECONDS", 0.1)
    work.mkdir()
    with filelock.FileLock(work / ".progress.lock"):
        progress.record_pass("01.1", "x")
    assert "another program holds it" in capsys.readouterr().out
    progress.record_pass("01.1", "x")
    assert len(progress.passes()) == 1


def test_notebooks_open_at_once_do_not_lose_each_others_entries(work):
    code = "import sys; from mlcourse.teaching import progress\n"
    code += "for i in range(25): progress.record_pass(f'{sys.argv[1]}.{i}', 't')"
    running = [subprocess.Popen([sys.executable, "-c", code, f"{n:02d}"], env=os.environ) for n in range(3)]
    assert [one.wait(120) for one in running] == [0, 0, 0]
    assert len(progress.passes()) == 75
    assert [file.name for file in work.iterdir() if file.suffix == ".tmp"] == []


def test_predict_keeps_the_guess_and_shows_it_at_the_next_run():
    first = Prediction("Up or down?", ["up", "down"], "01.p1")
    assert first.buttons.value == NO_GUESS
    first.buttons.value = "down"
    assert progress.guess("01.p1") == "down"
    again = Prediction("Up or down?", ["up", "down"], "01.p1")
    assert again.buttons.value == "down"
    assert "Your guess is kept: down." in again.note.value
    again.buttons.value = NO_GUESS
    assert progress.guess("01.p1") is None
    assert "Commit to a guess" in again.note.value


def test_a_guess_that_is_no_longer_offered_is_no_guess():
    progress.record_guess("01.p1", "Up or down?", "sideways")
    assert Prediction("Up or down?", ["up", "down"], "01.p1").buttons.value == NO_GUESS


def test_predict_is_text_where_there_are_no_widgets(monkeypatch):
    seen = []
    monkeypatch.setattr(output, "display", seen.append)
    progress.predict("Is 1 < 2?", ["yes", "no"], "01.p1")
    forms, _ = seen[0]._repr_mimebundle_()
    assert set(forms) == {output.WIDGET, "text/html", "text/plain"}
    assert forms["text/plain"] == "Predict. Is 1 < 2?\n  - yes\n  - no"
    assert "1 &lt; 2" in forms["text/html"]


@pytest.mark.parametrize("choices", [[], ["one"], ["a", "a"], ["a", NO_GUESS]])
def test_predict_needs_different_choices(choices):
    with pytest.raises(CourseError, match=r"choices of 01\.p1"):
        progress.predict("?", choices, "01.p1")


def test_reveal_says_guess_and_result_in_words(capsys):
    progress.reveal("01.p1", "up")
    progress.record_guess("01.p1", "?", "up")
    progress.reveal("01.p1", "up")
    progress.record_guess("01.p1", "?", "down")
    progress.reveal("01.p1", "up")
    assert capsys.readouterr().out.splitlines() == [
        "You made no guess. Measured: up.",
        "Your guess: up. Measured: up. They agree.",
        "Your guess: down. Measured: up. They differ: read on.",
    ]
