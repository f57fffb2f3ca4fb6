"""How far one has come: done notebooks, what one can do by then, and what comes next."""

import pytest
from typer.testing import CliRunner

from mlcourse import places
from mlcourse.commands import app
from mlcourse.teaching import finish, progress
from mlcourse.teaching.finish import Row

README = "| track | notebooks | hours |\n|---|---|---|\n| Core | 00 05 | 1 |\n| Vision, after the core | 13 | 2 |\n"


def row(number, exercises, passed=(), stretch=(), objectives="write a loss"):
    return Row(f"{number}_a", list(exercises), list(passed), 0, list(stretch), objectives)


@pytest.fixture
def tracks_of_a_readme(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    monkeypatch.setattr(places, "repository", lambda: tmp_path)
    return tmp_path


def test_done_is_who_has_passed_the_core():
    assert row("05", ["05.1", "05.2"], ["05.1"], stretch=["05.2"]).done
    assert not row("05", ["05.1", "05.2"], ["05.2"], stretch=["05.2"]).done
    assert not row("05", [], []).done  # of a notebook that is gone


def test_each_track_says_what_one_can_do_and_what_comes_next(tracks_of_a_readme):
    rows = [row("00", ["00.1"], ["00.1"]), row("05", ["05.1", "05.2"], ["05.1"]), row("13", ["13.1"])]
    assert finish.finish_line(rows) == [
        "Core: 1 of 2 notebooks done.",
        "  00  you can now write a loss",
        "  next: 05_a, exercise 05.2",
        "Vision, after the core: 0 of 1 notebooks done.",
        "  next: 13_a, exercise 13.1",
    ]


def test_a_track_that_is_done_says_so(tracks_of_a_readme):
    lines = finish.finish_line([row("13", ["13.1"], ["13.1"])])
    assert lines[-1] == "  The whole track is behind you."
    assert lines[0] == "Vision, after the core: 1 of 1 notebooks done."  # nothing of a track without notebooks


def test_without_a_readme_there_is_one_track(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "repository", lambda: tmp_path)
    assert list(finish.tracks([row("00", ["00.1"])])) == [finish.ALL]


def test_the_course_itself_has_objectives_and_every_track(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))
    rows = finish.rows()
    assert all(one.objectives for one in rows)
    assert not any(sign in one.objectives for one in rows for sign in "*`$")
    assert {one.number for some in finish.tracks(rows).values() for one in some} == {one.number for one in rows}
    assert any(one.stretch for one in rows)
    assert all(set(one.stretch) <= set(one.exercises) for one in rows)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_progress_says_it_in_80_columns(tmp_path, monkeypatch, encoding):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    (one,) = (one for one in finish.rows() if one.number == "00")
    for exercise in one.exercises:
        progress.record_pass(exercise, "a title")
    lines = CliRunner(charset=encoding).invoke(app, ["progress"]).output.splitlines()
    told = "\n".join(lines[next(k for k, line in enumerate(lines) if line.startswith("Core:")) :])
    assert told.startswith("Core: 1 of ")
    assert "  00  you can now teach and ask a meta-learner" in told
    assert max(map(len, told.splitlines())) <= 80
