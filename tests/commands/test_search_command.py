"""`mlcourse search`: one database for several processes, and what it cannot take, in words."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
from PIL import Image
from typer.testing import CliRunner

from mlcourse import datasets, learners, training
from mlcourse.commands import app
from mlcourse.errors import CourseError
from mlcourse.meta_optimization import search


def command(database, *more):
    return [
        "search",
        "prototypical",
        "--recipe",
        "smoke",
        "--steps",
        "5",
        "--device",
        "cpu",
        "--database",
        database,
        *more,
    ]


def test_two_processes_search_in_one_database(tmp_path, capsys):
    url = f"sqlite:///{tmp_path.as_posix()}/study.sqlite3"
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "mlcourse", *command(url, "--trials", "6")],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [one.communicate(timeout=300) for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    found = search.load(url)
    assert 6 <= len(found.trials) <= 7  # at most one more than asked for
    assert len({trial.number for trial in found.trials}) == len(found.trials)
    assert len({trial.values["rate"] for trial in found.trials}) >= 5  # one seed, and other draws
    assert all("the best, number" in out for out, _ in said)
    app(command(url, "--trials", "6"), standalone_mode=False)  # it goes on from there: nothing is left to do
    told = capsys.readouterr().out
    assert f"{len(found.trials)} trials; the best" in told

    *words, rate = shlex.split(told.splitlines()[-1].removeprefix("Next: mlcourse "))
    assert words[-1] == "--rate"
    assert float(rate) == pytest.approx(found.best.values["rate"], rel=1e-5)
    app([*words, rate, "--device", "cpu", "--out", str(tmp_path / "run")], standalone_mode=False)  # it can be trained
    assert json.loads((tmp_path / "run" / "config.json").read_text())["rate"] == float(rate)


def test_trials_of_other_weights_are_not_ranked_with_these(tmp_path, capsys):
    database = str(tmp_path / "study.sqlite3")
    app(command(database, "--trials", "1"), standalone_mode=False)
    with pytest.raises(SystemExit) as stop:
        app(command(database, "--trials", "2", "--seed", "1"))
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert re.search(r"5 steps, seed 0, pictures \w+, \w+, this is one of", said)
    assert re.search(r"5 steps, seed 1, pictures \w+, \w+; take another file or database", said)
    assert len(search.load(database).trials) == 1


def test_the_inner_rate_is_found_and_trained_with_too(tmp_path, capsys):
    asked = ["search", "maml", "--recipe", "smoke", "--steps", "2", "--trials", "2", "--device", "cpu"]
    app([*asked, "--database", str(tmp_path / "study.sqlite3")], standalone_mode=False)
    words = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("Next: mlcourse "))
    app([*words, "--steps", "1", "--device", "cpu", "--out", str(tmp_path / "run")], standalone_mode=False)
    options = learners.load(tmp_path / "run").config["options"]
    assert options["inner_rate"] == float(words[words.index("--inner-rate") + 1])


def test_a_url_of_sqlite_is_its_file(tmp_path):
    file = tmp_path / "rates.sqlite3"
    space = {"x": search.Uniform(0, 1)}
    settings = {"trials": 3, "sampler": "random"}
    found = search.minimise(lambda values, report: values["x"], space, f"sqlite:///{file.as_posix()}", **settings)
    assert search.load(file) == found == search.load(f"sqlite:///{file.as_posix()}")


@pytest.mark.parametrize("changed", [["matching"], ["prototypical", "--way", "3"], ["prototypical", "--steps", "6"]])
def test_a_search_of_something_else_is_refused(changed, tmp_path):
    database = str(tmp_path / "study.sqlite3")
    app(command(database, "--trials", "1"), standalone_mode=False)
    other = command(database, "--trials", "1", *changed[1:])
    other[1] = changed[0]
    answer = CliRunner().invoke(app, other)
    assert answer.exit_code == 2
    assert "holds a search of prototypical on glyphs, 5-way 1-shot, recipe smoke, 5 steps" in answer.stderr


def test_what_a_learner_refuses_is_no_result_of_the_rates(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise CourseError("these options do not fit")

    monkeypatch.setattr(learners, "build", refuse)
    answer = CliRunner().invoke(app, command(str(tmp_path / "study.sqlite3")))
    assert answer.exit_code == 2
    assert answer.stderr == "mlcourse: these options do not fit\n"


def test_a_learner_with_a_vector_for_each_class_gets_enough_of_them(tmp_path):
    asked = ["search", "incontext", "--recipe", "smoke", "--way", "25", "--steps", "5", "--trials", "1"]
    answer = CliRunner().invoke(app, [*asked, "--device", "cpu", "--database", str(tmp_path / "study.sqlite3")])
    assert answer.exit_code == 0, answer.output
    assert "--way 25" in answer.stdout


def test_processes_that_begin_at_once_in_a_database_by_url_all_begin(tmp_path):
    """A URL that is not opened as a file: nothing but the database itself keeps the processes apart."""
    url = f"sqlite+pysqlite:///{tmp_path.as_posix()}/study.sqlite3"
    code = (
        "import sys; from mlcourse.meta_optimization import search\n"
        "space = {'x': search.Uniform(0, 1)}\n"
        "search.minimise(lambda values, report: values['x'], space, sys.argv[1], trials=6, sampler='random')"
    )
    three = [subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [one.communicate(timeout=300)[1] for one in three]
    assert [one.returncode for one in three] == [0, 0, 0], said


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("postgresql://localhost:1/base?user=me&password=secret", "cannot be read as a study"),
        ("postgresql://me:secret@localhost:abc/base", "cannot be read as a study"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("nosuch://host/base", "cannot be read as a study"),
        ("postgresql://me:secret@localhost:1/base", "cannot be read as a study"),
    ],
)
def test_a_database_that_is_none_is_one_line_without_its_password(url, line):
    with pytest.raises(CourseError, match=line) as error:
        search.minimise(lambda values, report: 0.0, {"x": search.Uniform(0, 1)}, url, trials=1)
    assert "secret" not in str(error.value)


def folder_of(place, classes, pictures=6):
    """A folder of drawings with so many classes."""
    glyphs = datasets.load("glyphs", "test").select(range(classes))
    for index in range(classes):
        (place / f"letter{index:02}").mkdir(parents=True)
        for number, picture in enumerate(glyphs.of_class(index)[:pictures, 0]):
            Image.fromarray(picture.numpy()).save(place / f"letter{index:02}" / f"{number}.png")
    return str(place)


def test_a_small_folder_is_searched_with_the_tasks_that_it_has(tmp_path, capsys):
    """As `mlcourse train` does: fewer classes and queries where nobody asked, and a line says so."""
    folder = folder_of(tmp_path / "mine", 12)
    app(command(str(tmp_path / "a.sqlite3"), "--trials", "1", "--dataset", folder), standalone_mode=False)
    told = capsys.readouterr().out
    assert "since the test split of mine has 2 classes" in told
    assert "queries in validation: 5 in place of 15" in told
    assert "1 trials; the best" in told
    words = shlex.split(told.splitlines()[-1].removeprefix("Next: mlcourse "))
    assert words[words.index("--way") + 1] == "2"
    app([*words, "--device", "cpu", "--out", str(tmp_path / "run")], standalone_mode=False)


def test_a_folder_without_classes_to_validate_on_is_one_line(tmp_path):
    folder = folder_of(tmp_path / "mine", 4)
    answer = CliRunner().invoke(app, command(str(tmp_path / "a.sqlite3"), "--dataset", folder))
    assert answer.exit_code == 2
    assert "validation classes, and mine has fewer than 2 with 2 pictures (--shot 1" in answer.stderr
    assert "class folders (8 in all are enough)" in answer.stderr


def test_a_method_that_is_trained_on_images_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        app(["search", "simpleshot"])
    assert stop.value.code == 2
    assert "simpleshot is trained on images" in capsys.readouterr().err


def test_the_largest_seed_is_a_seed(tmp_path):
    database = str(tmp_path / "study.sqlite3")
    answer = CliRunner().invoke(app, command(database, "--trials", "1", "--seed", str(2**64 - 1)))
    assert answer.exit_code == 0, answer.stderr


def test_an_interrupted_trial_is_no_result_of_its_rates(tmp_path, monkeypatch):
    database = str(tmp_path / "study.sqlite3")
    train = training.train

    def interrupted(*arguments, **options):
        return replace(train(*arguments, **options), interrupted=True)

    with monkeypatch.context() as patched:
        patched.setattr(training, "train", interrupted)
        answer = CliRunner().invoke(app, command(database, "--trials", "2"))
    assert answer.exit_code == 130
    assert "stopped: finished trials are kept, and the same command goes on" in answer.stderr
    assert CliRunner().invoke(app, command(database, "--trials", "1")).exit_code == 0
    (only,) = search.load(database).trials
    assert only.value < 1


def test_other_pictures_of_the_same_names_are_another_search(tmp_path):
    """A trial on pictures that are gone would be ranked with those on the new ones."""
    for number, name in enumerate("abcdefgh"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(4):
            Image.new("L", (28, 28), 20 * number + k).save(tmp_path / "photos" / name / f"{k}.png")
    words = ["search", "prototypical", "--dataset", tmp_path / "photos", "--recipe", "smoke", "--steps", 1]
    words += ["--database", tmp_path / "study.sqlite3", "--trials"]
    ask = lambda trials: CliRunner().invoke(app, [str(word) for word in (*words, trials)])  # noqa: E731
    assert ask(1).exit_code == 0
    assert ask(2).exit_code == 0
    for name in "abcdefgh":  # one of them is in each split
        Image.new("L", (28, 28), 255).save(tmp_path / "photos" / name / "0.png")
    answer = ask(3)
    assert answer.exit_code == 2, answer.output
    assert "study.sqlite3" in answer.stderr
