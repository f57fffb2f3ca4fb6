"""`mlcourse train faces` and `mlcourse evaluate` of it: what they write, and one clear line for bad input."""

import json
import re
import shutil

import pytest
from PIL import Image
from typer.testing import CliRunner

from mlcourse import files, learners
from mlcourse.commands import app
from mlcourse.datasets import faces as drawings
from mlcourse.vision import TASKS, faces


def command(*arguments):
    """A call of `mlcourse` in this process: what it prints, and its exit code."""
    return CliRunner().invoke(app, list(map(str, arguments)), prog_name="mlcourse")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    done = command("train", "faces", "--recipe", "smoke", "--seed", 1, "--out", out)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos of twelve people, three of each: drawings, saved as files."""
    place = tmp_path_factory.mktemp("people")
    data = drawings.load("val", samples=3)
    for k, picture in enumerate(data.images[:36]):
        person = place / f"person {k // 3:02d}"
        person.mkdir(exist_ok=True)
        Image.fromarray(picture[0].numpy()).save(person / f"{k}.png")
    return place


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """An interval from few bootstrap draws: these tests ask whether it is there."""
    real = faces.verify
    monkeypatch.setattr(faces, "verify", lambda *given, **more: real(*given, **{"draws": 2} | more))


def test_train_writes_a_run_that_load_evaluate_and_resume_know(trained):
    config = files.read_json(trained / "config.json")
    assert (config["task"], config["method"], config["dataset"]) == ("faces", "cosface", "drawn")
    assert config["finished"] is True
    assert isinstance(learners.load(trained), faces.CosFace)
    done = command("evaluate", trained, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["people"] == drawings.PEOPLE["test"]
    assert told["fnmr_at_fmr"].keys() == told["threshold_of_others"].keys() == {"0.1", "0.01"}
    assert told["trained"]["method"] == "cosface"
    again = command("train", "faces", "--recipe", "smoke", "--seed", 1, "--out", trained, "--resume")
    assert again.exit_code == 0, again.output
    refused = command("train", "faces", "--recipe", "smoke", "--out", trained)
    assert refused.exit_code == 2
    assert "already holds a run" in refused.output


@pytest.mark.parametrize("method", faces.METHODS)
def test_every_method_is_trained_and_evaluated_on_a_folder_of_people(method, folder, tmp_path):
    out = tmp_path / "run"
    done = command("train", "faces", "--method", method, "--recipe", "smoke", "--dataset", folder, "--out", out)
    assert done.exit_code == 0, done.output
    assert files.read_json(out / "config.json")["dataset"] == str(folder)
    done = command("evaluate", out)
    assert done.exit_code == 0, done.output
    assert f"{out} on {folder} test: 2 people, 6 pictures" in done.stdout
    assert "FNMR at FMR 10 %: 2 people make 1 pairs of people" in done.stdout


@pytest.mark.parametrize("name", TASKS["faces"][1])
def test_baselines_are_evaluated_by_name(name, folder):
    done = command("evaluate", name, "--dataset", folder)
    assert done.exit_code == 0, done.output
    assert f"{name} on {folder} test" in done.stdout


def test_people_of_a_folder_are_parted_by_name(folder):
    from mlcourse.commands.faces import people_of

    parts = {split: people_of(str(folder), split).names for split in ("train", "val", "test")}
    assert [len(names) for names in parts.values()] == [8, 2, 2]
    assert parts["val"] == ("person 03", "person 08")
    assert parts["test"] == ("person 04", "person 09")
    assert len(set().union(*map(set, parts.values()))) == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "faces", "--method", "yolo"), "method 'yolo' of faces is unknown: use one of"),
        (("train", "faces", "--recipe", "paper"), "recipe 'paper' is unknown for cosface; use one of smoke, short"),
        (("train", "faces", "--steps", 0), "steps is 0: give an integer of at least 1"),
        (("train", "faces", "--dataset", "orl-7"), "'orl-7' is no split of ORL: give orl-0 to orl-4"),
        (("train", "faces", "--dataset", "nowhere"), "nowhere: name a folder that holds one folder of photos"),
        (("train", "faces", "--dataset", "orl-0", "--data-root", "."), "unpack the ORL (AT&T) faces there"),
        (("train", "faces", "--dataset", " "), "is empty"),
        (("train", "faces", "--skip-damaged"), "--skip-damaged is for a folder of your own, and 'drawn' is none"),
        (("evaluate", "face-pixels", "--dataset", "orl-0", "--skip-damaged"), "and 'orl-0' is none: leave it out"),
        (("evaluate", "face-pixels", "--episodes", 5), "--episodes says nothing to faces"),
        (("evaluate", "face-pixels", "--characters", "5"), "--characters says nothing to faces"),
        (("evaluate", "face-pixels", "--way", 5), "--way is for classification, not for faces"),
        (("evaluate", "face-pixels", "--split", "all"), "split 'all' is unknown: use one of train, val, test"),
        (("evaluate", "face-pixels", "--dataset", "orl-0", "--split", "val"), "orl-0 has people to learn from and"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(*arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.stderr.strip().splitlines()) == 1


def test_too_few_people_are_refused(folder, tmp_path):
    some = tmp_path / "some"
    for k in range(4):
        (some / f"person {k}").mkdir(parents=True)
        for path in sorted((folder / f"person {k:02d}").iterdir()):
            (some / f"person {k}" / path.name).write_bytes(path.read_bytes())
    done = command("train", "faces", "--recipe", "smoke", "--dataset", some, "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert "holds 4 people: give 5 or more" in done.output
    (some / "person 4").mkdir()
    (some / "person 4" / "a.png").write_bytes((folder / "person 04" / "12.png").read_bytes())
    done = command("train", "faces", "--recipe", "smoke", "--dataset", some, "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert "give 10 people or more" in done.output


def test_a_damaged_photo_is_named_or_left_out_and_the_run_says_so(folder, tmp_path):
    some = tmp_path / "some"
    shutil.copytree(folder, some)
    place = next(iter(sorted((some / "person 00").iterdir())))
    place.write_bytes(b"no picture")
    asked = ("train", "faces", "--recipe", "smoke", "--dataset", some, "--out", tmp_path / "run")
    done = command(*asked)
    assert done.exit_code == 2
    assert f"{place.name} is no readable picture" in done.output
    done = command(*asked, "--skip-damaged")
    assert done.exit_code == 0, done.output
    assert re.search(rf"1 of \d+ photos are left out: .*{place.name}", done.stderr)
    assert files.read_json(tmp_path / "run" / "config.json")["skip_damaged"] is True
    assert re.search(r"\d steps in \d+ s, peak memory \d+ MiB", done.output)


def test_nobody_of_the_training_is_tested_on(folder, tmp_path):
    """One person less, and the others change their parts."""
    people, out = tmp_path / "people", tmp_path / "run"
    shutil.copytree(folder, people)
    done = command("train", "faces", "--recipe", "smoke", "--dataset", people, "--out", out)
    assert done.exit_code == 0, done.output
    assert len(files.read_json(out / "config.json")["classes"]["train"]) == 8
    shutil.rmtree(people / "person 00")
    refused = command("evaluate", out)
    assert refused.exit_code == 2, refused.output
    assert "among those that" in refused.stderr
    assert "bring the folder back to what it was" in refused.stderr
    seen = command("evaluate", out, "--split", "train")
    assert seen.exit_code == 0, seen.output
    assert seen.stderr.count("no figure of unseen") == 1
    config = files.read_json(out / "config.json")
    del config["classes"]  # as an earlier version left it
    files.write_json(out / "config.json", config)
    old = command("evaluate", out)
    assert (old.exit_code, "does not tell whom it was trained on" in old.stderr) == (0, True), old.output
    assert "may have been trained on: no figure of unseen" in command("evaluate", out, "--split", "train").stderr
    assert "does not tell" not in command("evaluate", out, "--dataset", folder).stderr
