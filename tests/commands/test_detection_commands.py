"""`mlcourse train detection` and `mlcourse evaluate` of it: what they write, and one clear line for bad input."""

import json

import pytest
from typer.testing import CliRunner

from mlcourse import datasets, files, learners, places
from mlcourse.commands import app, known_classes
from mlcourse.vision import TASKS, detection

SEGMENTATION = places.data() / "checkpoints" / "segmentation"


def command(*arguments):
    """A call of `mlcourse` in this process: what it prints, and its exit code."""
    return CliRunner().invoke(app, list(map(str, arguments)), prog_name="mlcourse")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    words = ("--recipe", "smoke", "--characters", 3, "--absent", 0.25, "--start", SEGMENTATION)
    done = command("train", "detection", *words, "--out", out)
    assert done.exit_code == 0, done.output
    return out


def test_train_writes_a_run_that_load_evaluate_and_resume_know(trained):
    config = files.read_json(trained / "config.json")
    assert (config["task"], config["scenes"], config["characters"]) == ("detection", "published", 3)
    assert config["finished"] is True
    assert isinstance(learners.load(trained), detection.MatchedBoxes)
    done = command("evaluate", trained, "--episodes", 20, "--json")
    assert done.exit_code == 0, done.output
    [level] = json.loads(done.stdout)["levels"]
    assert (level["characters"], level["scenes"]) == (3, 20)
    assert level["from"] <= level["AP50"] <= level["to"]
    assert level["AP50"] > 0.5, "it starts from a trained embedding"
    words = ("--recipe", "smoke", "--characters", 3, "--absent", 0.25, "--start", SEGMENTATION, "--out", trained)
    assert command("train", "detection", *words, "--resume").exit_code == 0
    refused = command("train", "detection", *words)
    assert refused.exit_code == 2
    assert "already holds a run" in refused.output


@pytest.mark.parametrize("method", ["correlation", "fine-tuning"])
def test_the_detectors_that_look_once_are_trained_and_evaluated(method, tmp_path):
    done = command(
        "train", "detection", "--method", method, "--recipe", "smoke", "--characters", 3, "--out", tmp_path / "run"
    )
    assert done.exit_code == 0, done.output
    done = command("evaluate", tmp_path / "run", "--episodes", 6)
    assert done.exit_code == 0, done.output
    assert "characters: AP50 0." in done.stdout


def test_evaluate_prints_a_line_for_each_level(trained):
    done = command("evaluate", trained, "--episodes", 8, "--characters", "2,5", "--picture", "other")
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if "characters: AP50" in line]
    assert [line.split()[0] for line in lines] == ["2", "5"]
    assert all("background" in line and "missed" in line for line in lines)
    assert "25% without the target, 1-shot, another picture of the class as drawing" in done.stdout


@pytest.mark.parametrize("name", TASKS["detection"][1])
def test_rivals_are_evaluated_by_name(name):
    assert name.removeprefix("untrained-") in detection.METHODS
    done = command("evaluate", name, "--episodes", 4, "--characters", 2)
    assert done.exit_code == 0, done.output
    assert f"{name} on glyphs test" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "detection", "--characters", 0), "characters is 0: give an integer of at least 1"),
        (("train", "detection", "--absent", 1), "--absent is 1.0: a detector needs scenes with the target"),
        (("evaluate", "every-box", "--characters", 99999999), "a scene has room for 1,000 at most"),
        (("train", "detection", "--method", "yolo"), "method 'yolo' is unknown or has nothing to train"),
        (("train", "detection", "--recipe", "paper"), "recipe 'paper' is unknown for matched-boxes"),
        (("train", "detection", "--scenes", "blue"), "scenes of 'blue' are unknown; use one of published, grey"),
        (("train", "detection", "--steps", 0), "steps is 0: give an integer of at least 1"),
        (("train", "detection", "--absent", 2), "absent is 2.0; give a share, from 0 to 1"),
        (("train", "detection", "--method", "correlation", "--shot", 2), "trains with one drawing of each character"),
        (("train", "detection", "--picture", "mine"), "--picture is 'mine': give same or other"),
        (("train", "detection", "--start", "nowhere"), "there is no folder nowhere"),
        (
            ("train", "detection", "--start", str(places.data() / "checkpoints" / "pad")),
            "give a run of segmentation by colour-groups",
        ),
        (("evaluate", "every-box", "--characters", "-3"), "--characters is '-3'"),
        (("evaluate", "every-box", "--way", 5), "--way is for classification, not for detection"),
        (("evaluate", "every-box", "--episodes", 0), "episodes is 0: give an integer of at least 1"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(*arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()), "refused before anything is written"


def test_what_an_older_run_does_not_tell_of_its_start_is_said():
    images = datasets.load("glyphs", "test")
    asked = {"dataset": "glyphs", "split": "test", "protocol": None}
    about = {"dataset": "glyphs", "protocol": None, "start": "runs/segmentation"}
    (line,) = known_classes.lines("mine", about, asked, images, None)
    assert "mine began with runs/segmentation, and does not tell which classes" in line
    assert known_classes.lines("mine", about | {"began_with": [{"dataset": "glyphs"}]}, asked, images, None) == []
