"""`mlcourse train segmentation` and `mlcourse evaluate` of it: what they write, and one clear line for bad input."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from mlcourse import datasets, files, learners, places
from mlcourse.commands import app
from mlcourse.vision import TASKS, segmentation


def command(*arguments):
    """A call of `mlcourse` in this process: what it prints, and its exit code."""
    return CliRunner().invoke(app, list(map(str, arguments)), prog_name="mlcourse")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    done = command("train", "segmentation", "--recipe", "smoke", "--characters", "2,3", "--seed", 1, "--out", out)
    assert done.exit_code == 0, done.output
    return out


def test_train_writes_a_run_that_load_evaluate_and_resume_know(trained):
    config = files.read_json(trained / "config.json")
    assert (config["task"], config["scenes"], config["characters"]) == ("segmentation", "published", [2, 3])
    assert config["finished"] is True
    assert isinstance(learners.load(trained), segmentation.ConditionedUNet)
    done = command("evaluate", trained, "--episodes", 5, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [level["characters"] for level in told["levels"]] == [2, 3]
    level = told["levels"][0]
    assert level["definitions"].keys() == {one.name for one in segmentation.DEFINITIONS}
    assert level["definitions"]["foreground, per image"] == pytest.approx([level["foreground IoU"], level["ci95"]])
    again = command(
        *(
            "train",
            "segmentation",
            "--recipe",
            "smoke",
            "--characters",
            "2,3",
            "--seed",
            1,
            "--out",
            trained,
            "--resume",
        )
    )
    assert again.exit_code == 0, again.output
    refused = command("train", "segmentation", "--recipe", "smoke", "--out", trained)
    assert refused.exit_code == 2
    assert "already holds a run" in refused.output


def test_evaluate_prints_a_line_for_each_level_with_all_definitions(trained):
    done = command("evaluate", trained, "--episodes", 4, "--characters", "2,5", "--scenes", "grey")
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if "characters: IoU" in line]
    assert [line.split()[0] for line in lines] == ["2", "5"]
    for line in lines:
        assert all(f"{one.name} 0." in line for one in segmentation.DEFINITIONS)
    assert "grey scenes" in done.stdout


@pytest.mark.parametrize("name", TASKS["segmentation"][1])
def test_baselines_are_evaluated_by_name(name):
    assert name.removeprefix("untrained-") in segmentation.METHODS
    done = command("evaluate", name, "--episodes", 2, "--characters", 2)
    assert done.exit_code == 0, done.output
    assert f"{name} on glyphs test" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "segmentation", "--characters", "four"), "--characters is 'four': give a number of 1 or more"),
        (("train", "segmentation", "--characters", "4,0"), "--characters is '4,0'"),
        (("train", "segmentation", "--method", "yolo"), "method 'yolo' is unknown or has nothing to train"),
        (("train", "segmentation", "--recipe", "paper"), "recipe 'paper' is unknown for unet; use one of smoke, short"),
        (("train", "segmentation", "--scenes", "blue"), "scenes of 'blue' are unknown; use one of published, grey"),
        (("train", "segmentation", "--steps", 0), "steps is 0: give an integer of at least 1"),
        (("train", "segmentation", "--shot", 25), "shot 25 with scenes 1 needs 25 pictures per class"),
        (("train", "segmentation", "--dataset", "glpyhs"), "did you mean 'glyphs'?"),
        (("evaluate", "every-character", "--characters", "-3"), "--characters is '-3'"),
        (("evaluate", "every-character", "--way", 5), "--way is for classification, not for segmentation"),
        (("train", "segmentation", "--picture", "mine"), "--picture is 'mine': give same or other"),
        (("evaluate", "every-character", "--episodes", 0), "episodes is 0: give an integer of at least 1"),
        (("evaluate", "pixels", "--characters", 4), "--characters is for a task of vision, and pixels classifies"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command(*arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir()), "refused before anything is written"


def test_help_lists_tasks_and_imports_no_torch():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom mlcourse.commands import app\n"
        "for words in (['train', '--help'], ['train', 'segmentation', '--help'], ['evaluate', '--help']):\n"
        "    done = CliRunner().invoke(app, words)\n    assert done.exit_code == 0, done.output\n"
        "    print(done.output)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=places.repository())
    assert done.returncode == 0, done.stderr
    assert "which pixels belong to what a drawing shows?" in done.stdout
    assert "--method" in done.stdout
    assert "every-character" in done.stdout


def test_the_table_of_tasks_is_all_that_the_commands_ask():
    for task, (asks, names) in TASKS.items():
        room, commands = (places.repository() / "mlcourse" / where / f"{task}.py" for where in ("vision", "commands"))
        assert room.is_file(), room
        assert commands.is_file(), commands
        assert asks
        assert isinstance(names, tuple)


def test_evaluate_draws_as_the_run_was_trained_where_nothing_else_is_said(tmp_path):
    run = tmp_path / "run"
    words = ("train", "segmentation", "--recipe", "smoke", "--characters", 2, "--picture", "other", "--out", run)
    done = command(*words)
    assert done.exit_code == 0, done.output
    cases = {(): "another picture of the class", ("--picture", "same"): "the same picture"}
    for more, drawn in cases.items():
        done = command("evaluate", run, "--episodes", 2, *more)
        assert f"{drawn} as drawing" in done.stdout, done.output


def test_other_scenes_than_those_of_the_run_have_their_own_default(trained):
    """The run's drawings show the scene's picture; grey scenes ask with another one, unless one says otherwise."""
    assert files.read_json(trained / "config.json")["picture"] == "same"
    cases = {(): "another picture of the class", ("--picture", "same"): "the same picture"}
    for more, drawn in cases.items():
        done = command("evaluate", trained, "--episodes", 2, "--scenes", "grey", *more)
        assert f"{drawn} as drawing" in done.stdout, done.output


def test_a_folder_of_drawings_bright_on_dark_makes_scenes_without_its_damaged_ones(tmp_path):
    """Colours and size of the pictures do not matter; one that cannot be read is an error, or listed when asked."""
    glyphs = datasets.load("glyphs", "test").select(range(10))
    for index in range(10):
        place = tmp_path / "mine" / f"letter{index}"
        place.mkdir(parents=True)
        for number, picture in enumerate(glyphs.of_class(index)[:4, 0]):
            Image.fromarray(picture.numpy()).convert("RGB").resize((40, 40)).save(place / f"{number}.png")
    arguments = ("train", "segmentation", "--recipe", "smoke", "--characters", 2, "--dataset", tmp_path / "mine")
    done = command(*arguments, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    for place in (tmp_path / "mine").iterdir():
        (place / "1.png").write_bytes(b"no picture")
    refused = command(*arguments, "--out", tmp_path / "other")
    assert refused.exit_code == 2
    assert "1.png is no readable picture" in refused.stderr
    done = command(*arguments, "--out", tmp_path / "other", "--skip-damaged")
    assert done.exit_code == 0, done.output
    assert "left out of train: " in done.stderr
    assert "left out of val: " in done.stderr
    asked = ("evaluate", tmp_path / "other", "--episodes", 2, "--skip-damaged")
    done = command(*asked)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("left out of test: ") == 2


@pytest.mark.skipif(not os.environ.get("MLCOURSE_DATA"), reason="needs a local copy of Omniglot")
@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_test_classes_of_another_list_of_omniglot_are_not_unseen(task, tmp_path):
    words = ["--recipe", "smoke", "--steps", 1, "--characters", "2", "--dataset", "omniglot", "--out", tmp_path / "run"]
    done = command("train", task, *words)
    assert done.exit_code == 0, done.output
    ask = ["evaluate", tmp_path / "run", "--episodes", 2]
    assert command(*ask).exit_code == 0
    refused = command(*ask, "--protocol", "lake")
    assert refused.exit_code == 2
    assert "236 of the 659 test classes of omniglot, such as" in refused.stderr


def test_a_folder_that_changed_is_no_test_of_a_run(tmp_path):
    pictures = datasets.load("glyphs", "train").images
    for k in range(10):
        (tmp_path / "mine" / f"sign {k}").mkdir(parents=True)
        for copy in range(4):
            Image.fromarray(pictures[20 * k + copy, 0].numpy()).save(tmp_path / "mine" / f"sign {k}" / f"{copy}.png")
    words = ["--recipe", "smoke", "--steps", 1, "--characters", "2", "--dataset", tmp_path / "mine"]
    done = command("train", "segmentation", *words, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    ask = ["evaluate", tmp_path / "run", "--episodes", 2]
    assert command(*ask).exit_code == 0
    known = files.read_json(tmp_path / "run" / "config.json")["classes"]
    test = datasets.load(tmp_path / "mine", "test").names
    assert not set(test) & set(known["train"] + known["val"])
    for name in test:
        shutil.rmtree(tmp_path / "mine" / name)
    refused = command(*ask)
    assert refused.exit_code == 2
    assert "so they are not unseen" in refused.stderr


def test_one_episode_has_no_interval_and_its_json_is_json(trained):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    told = command("evaluate", trained, "--episodes", 1, "--json")
    assert told.exit_code == 0, told.output
    level = json.loads(told.stdout, parse_constant=refuse)["levels"][0]
    assert [pair[1] for pair in level["definitions"].values()] == [None] * len(segmentation.DEFINITIONS)
    assert "nan" not in command("evaluate", trained, "--episodes", 1).stdout
