"""`mlcourse train` and `mlcourse evaluate` from outside: what they write, and one clear line for bad input."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
import typer
from filelock import FileLock
from PIL import Image
from warm import command

import mlcourse
from mlcourse import datasets, files, learners
from mlcourse.commands import app, data, known_classes, one_line
from mlcourse.datasets import ClassImages, glyphs
from mlcourse.datasets.images import upright
from mlcourse.teaching.pad import strokes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    done = command("train", "prototypical", "--dataset", "glyphs", "--recipe", "smoke", "--seed", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_train_writes_a_learner_that_load_and_evaluate_read(trained):
    assert {"learner.safetensors", "config.json", "log.jsonl"} <= {path.name for path in trained.iterdir()}
    config = json.loads((trained / "config.json").read_text())
    assert config["init"] == "none"
    assert config["finished"] is True
    assert not mlcourse.load(trained).training
    done = command("evaluate", trained, "--episodes", 20, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert 0.2 < result["accuracy"] <= 1
    assert 0 < result["ci95"] < 0.2
    assert (result["episodes"], result["normalisation"], result["split"]) == (20, "running", "test")
    assert result["transductive"] is False


@pytest.mark.parametrize("baseline", ["pixels", "untrained-prototypical", "untrained-maml"])
def test_baselines_are_evaluated_by_name(baseline):
    done = command("evaluate", baseline, "--episodes", 5, "--query", 2)
    assert done.returncode == 0, done.stderr
    assert "5-way 1-shot, 5 episodes" in done.stdout


def test_a_folder_of_class_folders_is_a_data_set(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for index in range(24):
        (tmp_path / "photos" / f"class{index:02d}").mkdir(parents=True)
        for sample in range(4):
            pixels = torch.randint(0, 255, (20, 20, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / "photos" / f"class{index:02d}" / f"{sample}.png")
    arguments = ["--dataset", "photos", "--way", 2, "--train-way", 3, "--query", 2, "--recipe", "smoke"]
    done = command("train", "prototypical", *arguments, "--out", tmp_path / "run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dataset"] == str(tmp_path / "photos")
    evaluate = ["evaluate", tmp_path / "run", "--query", 2, "--episodes", 5, "--json"]
    done = command(*evaluate)  # from another folder
    assert done.returncode == 0, done.stderr
    (tmp_path / "photos").rename(tmp_path / "moved")
    gone = command(*evaluate)
    assert gone.returncode == 2
    assert len(gone.stderr.strip().splitlines()) == 1
    assert f"was trained on the folder {tmp_path / 'photos'}, which is not there; say --dataset" in gone.stderr
    again = command(*evaluate, "--dataset", "moved", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["accuracy"] == json.loads(done.stdout)["accuracy"]


def drawn_data(asked, monkeypatch):
    """Stands in for tracing, which takes minutes: notes what was asked for and gives the pictures as they are."""

    def load(dataset, split, *, drawn=False, hands=0, **_):
        asked.append((dataset, split, drawn, hands))
        return datasets.load(dataset, split)

    monkeypatch.setattr(data, "load", load)


def inside(capsys, *arguments):
    """The command in this process: what it prints as JSON."""
    app(list(map(str, arguments)), standalone_mode=False)
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def told_anew(folder, **changes):
    """Let both files of a run tell something else of its training."""
    tensors, about = files.load_tensors(folder / "learner.safetensors")
    files.save_tensors(folder / "learner.safetensors", tensors, about | changes)
    files.write_json(folder / "config.json", files.read_json(folder / "config.json") | changes)


def test_evaluate_draws_as_the_run_did_unless_told_otherwise(trained, tmp_path, monkeypatch, capsys):
    asked = []
    drawn_data(asked, monkeypatch)
    for name in ("config.json", "learner.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    told_anew(tmp_path, drawn=True)
    cases = [
        ([tmp_path], True),
        ([tmp_path, "--no-drawn"], False),
        ([trained], False),
        ([trained, "--drawn"], True),
        (["pixels"], False),
        (["pixels", "--drawn"], True),
    ]
    for arguments, drawn in cases:
        told = inside(capsys, "evaluate", *arguments, "--episodes", 2, "--query", 1, "--json")
        assert told["drawn"] is drawn
        assert asked.pop() == ("glyphs", "test", drawn, 0)


@pytest.mark.parametrize("split", ["train", "val"])
def test_drawn_pictures_are_those_of_the_data_set_read_once(split, monkeypatch):
    sheets, sheet = [], glyphs.sheet_of

    def counted(script, rows):
        sheets.append(script)
        return sheet(script, rows)

    monkeypatch.setattr(glyphs, "sheet_of", counted)
    monkeypatch.setattr(strokes, "as_drawings", lambda images, hands: images)  # tracing takes minutes
    drawn = data.load("glyphs", split, drawn=True)
    assert sorted(sheets) == sorted(glyphs.SPLITS[split])
    plain = datasets.load("glyphs", split)
    assert drawn.names == plain.names
    assert torch.equal(drawn.images, plain.images)


def test_names_stay_names_and_folders_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [data.lasting_name(name) for name in datasets.NAMES] == list(datasets.NAMES)
    assert data.lasting_name("photos") == str(Path.cwd() / "photos")
    assert data.lasting_name(str(tmp_path / "photos")) == str(tmp_path / "photos")


BAD = {
    "unknown data set": (["train", "maml", "--dataset", "omnniglot"], "omnniglot"),
    "empty data set": (["train", "maml", "--dataset", ""], "--dataset is empty"),
    "empty data set in evaluation": (["evaluate", "pixels", "--dataset", ""], "--dataset is empty"),
    "blank data set": (["train", "maml", "--dataset", " "], "--dataset is empty"),
    "unknown method": (["train", "mamel"], "mamel"),
    "unknown recipe": (["train", "maml", "--recipe", "huge"], "huge"),
    "too few samples": (
        ["train", "maml", "--shot", "15", "--query", "15", "--recipe", "smoke"],
        "--query is 15, but class",
    ),
    "shot 0": (["train", "maml", "--shot", "0"], "shot is 0"),
    "negative way": (["train", "prototypical", "--way", "-5"], "way is -5"),
    "negative query": (["train", "prototypical", "--query", "-1"], "query is -1"),
    "train way 0": (["train", "prototypical", "--train-way", "0"], "train-way is 0"),
    "way 0 in evaluation": (["evaluate", "pixels", "--way", "0"], "way is 0"),
    "shot 0 in evaluation": (["evaluate", "pixels", "--shot", "0"], "shot is 0"),
    "no such run": (["evaluate", "runs/nowhere"], "runs/nowhere"),
    "unknown split": (["evaluate", "pixels", "--split", "exam"], "exam"),
    "unknown normalisation": (["train", "maml", "--normalisation", "wishful"], "wishful"),
    "fewer ways than the head": (["train", "maml", "--train-way", "3"], "train-way is 3, but the network ends in 5"),
    "more ways than the head": (["train", "maml", "--train-way", "9"], "train-way is 9, but the network ends in 5"),
    "no episodes": (["evaluate", "pixels", "--episodes", "0"], "episodes is 0"),
    "huge seed": (["train", "maml", "--recipe", "smoke", "--seed", str(2**70)], "seed is 11805"),
    "negative seed": (["train", "maml", "--recipe", "smoke", "--seed", "-1"], "seed is -1"),
    "huge seed in evaluation": (["evaluate", "pixels", "--seed", str(2**64)], "seed is 18446"),
    "no steps": (["train", "maml", "--steps", "0"], "steps is 0"),
    "negative steps": (["train", "maml", "--steps", "-1"], "steps is -1"),
    "no rate": (["train", "maml", "--rate", "0"], "--rate is 0.0; give a finite number above 0"),
    "a rate without end": (["train", "maml", "--rate", "inf"], "--rate is inf"),
    "an inner rate that is no number": (["train", "maml", "--inner-rate", "nan"], "--inner-rate is nan"),
    "an inner rate where there is none": (["train", "matching", "--inner-rate", "0.1"], "matching has no inner rate"),
    "unknown optimizer": (["train", "maml", "--recipe", "smoke", "--optimizer", "adagrad"], "adam, adamw, sgd"),
    "unknown precision": (["train", "maml", "--recipe", "smoke", "--precision", "int8"], "float32, bfloat16"),
    "float16 without a GPU": (
        ["train", "maml", "--recipe", "smoke", "--precision", "float16", "--device", "cpu"],
        "needs a GPU",
    ),
    "more parts than tasks": (
        ["train", "maml", "--recipe", "smoke", "--accumulate", "3"],
        "accumulate is 3, more than",
    ),
    "no parts": (["train", "maml", "--accumulate", "0"], "accumulate is 0"),
    "one class per task": (["train", "prototypical", "--recipe", "smoke", "--way", "1"], "--way is 1"),
    "more ways than classes": (
        ["train", "prototypical", "--train-way", "9999"],
        "--train-way is 9999, but the train split",
    ),
    "one class per task in evaluation": (["evaluate", "pixels", "--way", "1"], "--way is 1, but a task needs 2"),
    "more ways than any split has": (
        ["train", "prototypical", "--recipe", "smoke", "--way", "100000"],
        "--way is 100000, but the test split of glyphs has",
    ),
    "more ways than test classes": (["evaluate", "pixels", "--way", "9999"], "--way is 9999, but the test split"),
    "more shots than pictures": (["train", "prototypical", "--shot", "20"], "use --shot 19 or less"),
    "more shots than pictures in evaluation": (["evaluate", "pixels", "--shot", "25"], "use --shot 19 or less"),
    "negative seed in evaluation": (["evaluate", "pixels", "--seed", "-1"], "seed is -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case, tmp_path):
    arguments, named = BAD[case]
    more = ["--out", tmp_path / "run"] if arguments[0] == "train" else []
    done = command(*arguments, *more)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert named in lines[0]
    assert not (tmp_path / "run").exists(), "something half-written was left"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_cuda_asked_for_and_absent(tmp_path):
    done = command("train", "maml", "--recipe", "smoke", "--device", "cuda", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "--device cpu" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_checkpoint_of_another_method_and_a_truncated_one(trained, tmp_path):
    other = command("train", "maml", "--recipe", "smoke", "--seed", 1, "--out", trained, "--resume")
    assert other.returncode == 2
    assert "another run" in other.stderr
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.json", "learner.safetensors", "log.jsonl", "checkpoint.safetensors"):
        (copy / name).write_bytes((trained / name).read_bytes())
    whole = (copy / "checkpoint.safetensors").read_bytes()
    (copy / "checkpoint.safetensors").write_bytes(whole[: len(whole) // 2])
    (copy / "learner.safetensors").write_bytes((copy / "learner.safetensors").read_bytes()[:100])
    arguments = ["--recipe", "smoke", "--seed", 1, "--out", copy, "--resume"]
    for done in (command("train", "prototypical", *arguments), command("evaluate", copy)):
        assert done.returncode == 2
        assert "damaged or truncated" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_resume_of_a_finished_run_does_nothing(trained):
    before = (trained / "log.jsonl").read_text()
    arguments = ["--dataset", "glyphs", "--recipe", "smoke", "--seed", 1, "--out", trained, "--resume"]
    done = command("train", "prototypical", *arguments)
    assert done.returncode == 0, done.stderr
    assert (trained / "log.jsonl").read_text() == before
    again = command("train", "prototypical", *arguments[:-1])
    assert again.returncode == 2
    assert "--resume" in again.stderr


def test_pictures_of_another_shape_are_converted_when_asked(trained, tmp_path, capsys):
    for part in ("train", "test"):
        for i in range(2):
            (tmp_path / "mine" / part / f"{part} {i}").mkdir(parents=True)
            for k in range(3):
                Image.new("RGB", (40, 30), (90 * i, 20 * k, 9 * len(part))).save(
                    tmp_path / "mine" / part / f"{part} {i}" / f"{k}.jpg"
                )
    asked = ["evaluate", trained, "--dataset", tmp_path / "mine", "--way", 2, "--query", 2, "--episodes", 5]
    done = command(*asked)
    assert done.returncode == 2
    assert "are (3, 84, 84) (channels, height, width), but" in done.stderr
    assert "was trained on (1, 28, 28): add --convert" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    told = inside(capsys, *asked, "--convert", "--json")
    assert told["dataset"] == str(tmp_path / "mine")
    done = command("evaluate", "pixels", "--convert")
    assert done.returncode == 2
    assert "--convert is for a trained run of one shape" in done.stderr


def test_what_a_folder_loses_is_one_line_on_stderr(trained, tmp_path):
    for i, count in enumerate((3, 3, 3, 3, 1)):
        (tmp_path / "mine" / f"kind {i}").mkdir(parents=True)
        for k in range(count):
            Image.new("L", (28, 28), 50 * i + k).save(tmp_path / "mine" / f"kind {i}" / f"{k}.png")
    done = command("evaluate", trained, "--dataset", "mine", "--convert", "--way", 2, "--query", 2, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    small, shared = done.stderr.strip().splitlines()
    assert small.startswith("mlcourse: mine: 1 of 5 classes have fewer than 2 pictures and are left out: 'kind 4' (1);")
    assert shared.startswith("mlcourse: mine: its 4 classes are too few")
    for more, remedy in ((["--way", 3], "use --way 2 or less"), (["--query", 3], "use --query 2 or less")):
        done = command("evaluate", "pixels", "--dataset", "mine", *more, folder=tmp_path)
        assert done.returncode == 2
        assert remedy in done.stderr.splitlines()[-1]


# ------------------------------------------------------------------ pictures of one's own


def photos(place, classes, pictures, size=12, name="kind"):
    """A folder of class folders: a shade per class, a little noise. pictures: for each class, or a list of counts."""
    counts = [pictures] * classes if isinstance(pictures, int) else pictures
    generator = torch.Generator().manual_seed(classes)
    for index, count in enumerate(counts):
        (place / f"{name} {index:02d}").mkdir(parents=True)
        for number in range(count):
            noise = torch.randint(0, 40, (size, size, 3), generator=generator)
            shade = torch.tensor([200 * index // len(counts), 200 - 200 * index // len(counts), 100])
            Image.fromarray((noise + shade).to(torch.uint8).numpy()).save(
                place / f"{name} {index:02d}" / f"{number}.png"
            )
    return place


def in_this_process(capsys, *arguments):
    """Runs a command here: its exit code, lines on stdout, lines on stderr."""
    try:
        code = app(list(map(str, arguments)), standalone_mode=False) or 0
    except typer.Exit as end:
        code = end.exit_code
    told = capsys.readouterr()
    return code, told.out.splitlines(), told.err.splitlines()


@pytest.mark.parametrize("pictures", [2, 5, 8, 30])
@pytest.mark.parametrize("classes", [3, 4, 6, 20])
@pytest.mark.parametrize("method", ["prototypical", "maml"])
def test_ones_own_pictures_work_with_one_command(method, classes, pictures, tmp_path, capsys):
    folder, run = photos(tmp_path / "mine", classes, pictures), tmp_path / "run"
    code, out, err = in_this_process(
        capsys, "train", method, "--dataset", folder, "--recipe", "smoke", "--steps", 2, "--out", run
    )
    if classes == 3:
        assert code == 2
        assert "4 in all are the least" in err[-1]
        assert not run.exists()
        return
    assert code == 0, err
    config = json.loads((run / "config.json").read_text())
    assert 2 <= config["way"] <= 5
    if classes < 8:
        assert any(line.startswith("no validation, the last step is kept: mine has 0 classes") for line in out)
    if method == "prototypical" and classes < 20:
        assert any(re.match(r"train way: \d in place of 10, since the train split of mine has", line) for line in out)
    code, out, err = in_this_process(capsys, "evaluate", run, "--episodes", 20, "--json")
    assert code == 0, err
    result = json.loads(out[-1])
    assert (result["way"], result["query"]) == (config["way"], min(15, pictures - 1))
    assert 0 <= result["accuracy"] <= 1
    assert result["ci95"] is not None


def test_what_is_fitted_is_said_in_a_line_each_and_what_was_asked_for_is_never_changed(tmp_path, capsys):
    folder = photos(tmp_path / "mine", 6, 8)
    base = ["train", "prototypical", "--dataset", folder, "--recipe", "smoke", "--steps", 1]
    code, out, _ = in_this_process(capsys, *base, "--out", tmp_path / "run")
    assert code == 0
    assert out[:3] == [
        "way: 2 in place of 5, since the test split of mine has 2 classes",
        "train way: 4 in place of 10, since the train split of mine has 4 classes",
        "no validation, the last step is kept: mine has 0 classes for it, and a task needs 2",
    ]
    for more, message in (
        (["--train-way", 9], "--train-way is 9, but the train split of mine has 4 classes: use --train-way 4 or less"),
        (["--shot", 8], "use --shot 7 or less, or add pictures"),
    ):
        code, _, err = in_this_process(capsys, *base, *more, "--out", tmp_path / "other")
        assert (code, message in err[-1]) == (2, True), err
    code, _, err = in_this_process(
        capsys, "train", "maml", "--dataset", folder, "--way", 5, "--out", tmp_path / "other"
    )
    assert (code, err[-1].endswith("the train split of mine has 4 classes: use --way 4 or less")) == (2, True), err
    code, _, err = in_this_process(capsys, "evaluate", tmp_path / "run", "--query", 15, "--episodes", 5)
    assert (code, err[-1].endswith("1 of them as support: use --query 7 or less")) == (2, True), err
    code, out, err = in_this_process(capsys, "evaluate", tmp_path / "run", "--episodes", 5)
    assert code == 0
    assert any("queries: 7 in place of 15, since class" in line for line in err)
    code, _, err = in_this_process(capsys, "evaluate", "untrained-maml", "--dataset", folder, "--episodes", 5)
    assert code == 0
    assert any("way: 2 in place of 5" in line for line in err)


def test_a_class_that_is_too_small_is_left_out_and_named(tmp_path, capsys):
    for split, counts in (("train", [8, 8, 8, 4]), ("val", [8, 3, 8]), ("test", [8, 8, 2])):
        photos(tmp_path / "mine" / split, 0, counts, name=split)
    arguments = ["train", "prototypical", "--dataset", tmp_path / "mine", "--recipe", "smoke", "--steps", 1]
    code, out, err = in_this_process(capsys, *arguments, "--shot", 4, "--out", tmp_path / "run")
    assert code == 0, err
    code, _, later = in_this_process(capsys, "evaluate", tmp_path / "run", "--episodes", 5)
    assert code == 0, later
    named = [line for line in [*out, *later] if "left out of the" in line]
    for line, name in zip(named, ("'train 03' (4)", "'val 01' (3)", "'test 02' (2)"), strict=True):
        assert f"with fewer than 5 pictures: {name}; add pictures, or take a lower --shot" in line
    for shot, most in ((8, 7), (9, 7)):
        code, _, err = in_this_process(capsys, *arguments, "--shot", shot, "--out", tmp_path / "other")
        assert (code, f"use --shot {most} or less" in err[-1]) == (2, True), err


def test_evaluate_asks_as_many_queries_as_the_run(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    told_anew(tmp_path / "run", query=3)
    told = inside(capsys, "evaluate", tmp_path / "run", "--episodes", 2, "--json")
    assert told["query"] == 3
    assert inside(capsys, "evaluate", tmp_path / "run", "--episodes", 2, "--query", 4, "--json")["query"] == 4


def test_more_ways_than_a_run_has_names_the_option(tmp_path, capsys):
    arguments = ["--recipe", "smoke", "--steps", 1, "--out"]
    for method, most in (("maml", 5), ("incontext", 20)):
        assert in_this_process(capsys, "train", method, *arguments, tmp_path / method)[0] == 0
        code, _, err = in_this_process(capsys, "evaluate", tmp_path / method, "--way", 30, "--episodes", 2)
        assert code == 2
        assert f"tells {most} classes apart at most: use --way {most} or less" in err[-1]
        fewer = inside(capsys, "evaluate", tmp_path / method, "--way", 3, "--episodes", 2, "--json")
        assert fewer["way"] == 3


def test_optimizer_accumulation_and_precision_are_options(tmp_path, capsys):
    arguments = ["--optimizer", "sgd", "--accumulate", 1, "--precision", "bfloat16", "--device", "cpu"]
    code, _, err = in_this_process(
        capsys, "train", "prototypical", "--recipe", "smoke", *arguments, "--out", tmp_path / "run"
    )
    assert code == 0, err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["optimizer"], config["precision"]) == ("sgd", "bfloat16")
    code, _, err = in_this_process(
        capsys, "train", "maml", "--recipe", "smoke", "--accumulate", 2, "--out", tmp_path / "a"
    )
    assert json.loads((tmp_path / "a" / "config.json").read_text())["accumulate"] == 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_training_and_evaluating_print_in_any_encoding(encoding, tmp_path):
    run = str(tmp_path / "run")
    words = ["train", "prototypical", "--recipe", "smoke", "--steps", "1", "--out", run]
    for command_words in (words, ["evaluate", run, "--episodes", "3"], ["train", "--help"], ["evaluate", "--help"]):
        done = command(*command_words, environment={"PYTHONIOENCODING": encoding}, cold=encoding == "ascii")
        assert done.returncode == 0, done.stderr


def test_a_damaged_run_is_evaluated_from_its_checkpoint(trained, tmp_path, capsys):
    whole = inside(capsys, "evaluate", trained, "--episodes", 5, "--json")
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{")
    code, out, err = in_this_process(capsys, "evaluate", tmp_path / "run", "--episodes", 5, "--json")
    assert code == 0, err
    assert any("checkpoint.safetensors stands in for it" in line for line in err)
    assert json.loads(out[-1])["accuracy"] == whole["accuracy"]


# ------------------------------------------------------------------ recipes, once called budgets


def test_the_earlier_name_of_a_recipe_still_works_and_says_so(trained, tmp_path, capsys):
    arguments = ["train", "prototypical", "--steps", 1, "--seed", 1]
    runs = {}
    for option in ("--recipe", "--budget"):
        code, _, err = in_this_process(capsys, *arguments, option, "smoke", "--out", tmp_path / option)
        assert code == 0, err
        assert len(err) == (option == "--budget"), err
        runs[option] = json.loads((tmp_path / option / "config.json").read_text())
        runs[option].pop("seconds")
    assert runs["--recipe"] == runs["--budget"]
    assert "is called --recipe now" in err[0]
    both = ["--recipe", "smoke", "--budget", "short"]
    code, _, err = in_this_process(capsys, *arguments, *both, "--out", tmp_path / "x")
    assert (code, len(err)) == (2, 1)
    assert "leave --budget out" in err[0]
    code, _, err = in_this_process(capsys, "train", "maml", "--recipe", "lesson", "--out", tmp_path / "x")
    assert (code, err) == (2, ["mlcourse: recipe 'lesson' is unknown for maml; use one of smoke, short, paper"])
    assert not (tmp_path / "x").exists()


def test_a_run_that_was_asked_for_by_its_budget_goes_on(trained):
    """A folder and its checkpoint keep the word that they were written with."""
    assert json.loads((trained / "config.json").read_text())["budget"] == "smoke"
    before = (trained / "log.jsonl").read_text()
    for option in ("--budget", "--recipe"):
        done = command("train", "prototypical", option, "smoke", "--seed", 1, "--out", trained, "--resume")
        assert done.returncode == 0, done.stderr
    assert (trained / "log.jsonl").read_text() == before


def test_each_command_has_its_own_word(capsys):
    helps = {}
    for name in ("train", "run"):
        app([name, "--help"], standalone_mode=False)
        helps[name] = capsys.readouterr().out
    assert "--recipe" in helps["train"]
    assert "--budget" not in helps["train"]
    assert "--budget" in helps["run"]
    assert "--recipe" not in helps["run"]
    for words, name in (("smoke short paper", "train"), ("smoke lesson paper", "run")):
        assert all(word in helps[name] for word in words.split())


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_whoever_may_read_a_new_file_may_read_those_of_a_run(trained):
    plain = trained.parent / "plain"
    plain.touch()
    assert {path.name: oct(path.stat().st_mode) for path in trained.iterdir()} == {
        path.name: oct(plain.stat().st_mode) for path in trained.iterdir()
    }


EMPTY = {
    "out": (["train", "maml", "--recipe", "smoke", "--out", ""], "--out is empty"),
    "out with a sign": (["train", "maml", "--recipe", "smoke", "--out="], "--out is empty"),
    "blank out": (["train", "maml", "--recipe", "smoke", "--out", "  "], "--out is empty"),
    "data root": (["train", "maml", "--data-root", "", "--dataset", "omniglot"], "--data-root is empty"),
    "learner": (["evaluate", ""], "an argument is empty"),
    "blank learner": (["evaluate", " "], "an argument is empty"),
    "data root in evaluation": (["evaluate", "pixels", "--data-root", ""], "--data-root is empty"),
    "notebook": (["run", ""], "an argument is empty"),
    "out of run": (["run", "01", "--out", ""], "--out is empty"),
    "split": (["evaluate", "pixels", "--split", ""], "--split is empty"),
}


@pytest.mark.parametrize("case", EMPTY)
def test_an_empty_word_is_no_path(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments, words = EMPTY[case]
    code, out, err = in_this_process(capsys, *arguments)
    assert (code, out, len(err)) == (2, [], 1), err
    assert f"{words}: give it a value, or leave it out" in err[0]
    assert list(tmp_path.iterdir()) == []


def test_inner_steps_of_an_evaluation_can_be_chosen(tmp_path, capsys):
    run = tmp_path / "run"
    code, _, err = in_this_process(capsys, "train", "maml", "--recipe", "smoke", "--out", run)
    assert code == 0, err
    base = ["evaluate", run, "--episodes", 20, "--json"]
    results = [inside(capsys, *base, *more) for more in ([], ["--inner-steps", 1], ["--inner-steps", 5])]
    assert [result["inner_steps"] for result in results] == [None, 1, 5]
    assert results[0]["accuracy"] == results[1]["accuracy"] != results[2]["accuracy"]  # the run's own is 1
    code, out, _ = in_this_process(capsys, "evaluate", run, "--episodes", 5, "--inner-steps", 2)
    assert (code, "2 inner steps" in out[-1]) == (0, True)
    for learner, more, words in (
        (run, ["--inner-steps", -1], "--inner-steps is -1: give 0 or more"),
        ("pixels", ["--inner-steps", 3], "--inner-steps is 3, but pixels has no inner steps: leave it out"),
        ("untrained-prototypical", ["--inner-steps", 3], "untrained-prototypical has no inner steps: leave it out"),
    ):
        code, _, err = in_this_process(capsys, "evaluate", learner, "--episodes", 2, *more)
        assert (code, words in err[-1]) == (2, True), err


@pytest.mark.parametrize("turned", [[], ["--turned"]])
def test_a_class_that_was_trained_on_is_not_unseen_when_the_folder_has_changed(tmp_path, capsys, turned):
    folder, run = photos(tmp_path / "mine", 6, 4), tmp_path / "run"
    code, _, err = in_this_process(capsys, "train", "prototypical", "--dataset", folder, "--recipe", "smoke",
                                   "--steps", 1, "--out", run, *turned)  # fmt: skip
    assert code == 0, err
    about = json.loads((run / "config.json").read_text())
    told = {part: list(dict.fromkeys(map(upright, names))) for part, names in about["classes"].items()}
    assert told == {"train": list(datasets.counts(folder, "train")), "val": []}
    base = ["evaluate", run, "--episodes", 3]
    assert in_this_process(capsys, *base)[0] == 0
    shutil.copytree(folder, tmp_path / "copy")
    before = set(told["train"])
    shutil.rmtree(folder / next(iter(datasets.counts(folder, "test"))))  # now a class of train must help out
    moved = before & set(datasets.counts(folder, "test"))
    assert len(moved) == 1
    code, _, err = in_this_process(capsys, *base)
    assert code == 2
    assert re.search(r"\d of the \d test classes of mine, such as 'kind \d+', are among those that .*trained", err[-1])
    assert "bring the folder back to what it was, or train again" in err[-1]
    assert in_this_process(capsys, *base, "--split", "train")[0] == 0
    code, _, err = in_this_process(capsys, *base, "--dataset", tmp_path / "copy")
    assert code == 0, err  # the copy is as the folder was
    photos(tmp_path / "other" / "train", 2, 4, name="tree")
    photos(tmp_path / "other" / "test", 2, 4, name="flower")
    shutil.copytree(folder / min(moved), tmp_path / "other" / "test" / min(moved))
    code, _, err = in_this_process(capsys, *base, "--dataset", tmp_path / "other")
    assert code == 0, err  # another folder: the same name need not be the same class
    assert any(line.startswith("mlcourse: 1 of the 3 test classes of other, such as") for line in err), err
    # and a training does not go on with other classes
    code, _, err = in_this_process(capsys, "train", "prototypical", "--dataset", folder, "--recipe", "smoke",
                                   "--steps", 1, "--out", run, "--resume", *turned)  # fmt: skip
    assert (code, "of another run" in err[-1]) == (2, True), err


SMALL = ("--recipe", "smoke", "--steps", 1)


def test_classes_of_the_run_that_a_run_began_with_are_not_unseen(tmp_path, capsys):
    """Training on other data hides nothing: what the start saw, the run has seen; so for the start of the start."""
    earlier, later = photos(tmp_path / "earlier", 6, 4), photos(tmp_path / "later", 6, 4, name="tree")
    start = []
    for number, folder in enumerate([earlier, later, later]):
        run = tmp_path / f"run{number}"
        words = ["train", "prototypical", "--dataset", folder, *SMALL, *start, "--out", run]
        code, _, err = in_this_process(capsys, *words)
        assert code == 0, err
        start = ["--start", run]
    seen = set(datasets.counts(earlier, "train"))
    for number in (1, 2):
        ask = ["evaluate", tmp_path / f"run{number}", "--dataset", earlier, "--episodes", 2]
        code, _, err = in_this_process(capsys, *ask)
        assert (code, any("began with" in line for line in err)) == (0, False), err
        for split in ("train", "all"):
            code, _, err = in_this_process(capsys, *ask, "--split", split)
            assert code == 0
            assert any(
                f"4 of the {4 if split == 'train' else 6} {split} classes of earlier" in line
                and f"the run that {tmp_path / f'run{number}'} began with was trained" in line
                and line.endswith("this is no figure of unseen classes")
                for line in err
            ), err
    shutil.rmtree(earlier / next(iter(datasets.counts(earlier, "test"))))  # now a class of train must help out
    assert seen & set(datasets.counts(earlier, "test"))
    code, _, err = in_this_process(capsys, *ask)
    assert (code, "so they are not unseen" in err[-1]) == (2, True), err


def test_the_pictures_of_a_protocol_may_be_those_of_the_training_by_another_name(tmp_path, capsys):
    """They are another data set, so nothing is refused; but classes of the same names are told."""
    first, run = photos(tmp_path / "first", 6, 4), tmp_path / "run"
    assert in_this_process(capsys, "train", "prototypical", "--dataset", first, *SMALL, "--out", run)[0] == 0
    second = tmp_path / "second"
    for split in ("train", "val", "test"):  # what was trained on is tested
        other = {"train": "test", "test": "train"}.get(split, split)
        for name in datasets.counts(first, split):
            shutil.copytree(first / name, second / other / name)
    told, pictures = learners.load_run(run)[1], datasets.load(second, "test")
    (line,) = known_classes.on_protocol("run", told, str(second), lambda: pictures, None)
    assert f"{pictures.classes} of the {pictures.classes} test classes of second" in line
    assert line.endswith("if they are the same, this is no figure of unseen classes")
    same = known_classes.on_protocol("run", told, str(first), lambda: pytest.fail("read"), None)
    assert same == []  # `protocols.evaluate` refuses these


def test_a_run_that_was_stopped_says_so_wherever_it_is_used(tmp_path, capsys):
    run = tmp_path / "run"
    assert in_this_process(capsys, "train", "prototypical", *SMALL, "--out", run)[0] == 0
    config = files.read_json(run / "config.json")
    begin = ["train", "prototypical", *SMALL, "--start", run, "--out", tmp_path / "b"]
    asked = (["evaluate", run, "--episodes", 2], begin)
    for words in asked:
        code, out, err = in_this_process(capsys, *words)
        assert (code, "was stopped" in f"{out}{err}") == (0, False)
    files.write_json(run / "config.json", config | {"finished": False})
    for words in (asked[0], [*begin[:-1], tmp_path / "c"]):
        code, out, err = in_this_process(capsys, *words)
        assert code == 0, err
        assert f"the training of {run} was stopped after 1 of" in f"{out}{err}"
    told = {"finished": False, "steps": 4000, "steps_done": 1}
    assert known_classes.stopped("it", told)[0].startswith("the training of it was stopped after 1 of 4,000 steps: ")
    assert known_classes.stopped("it", told | {"finished": True}) == known_classes.stopped("it", {}) == []


def test_a_run_that_an_earlier_version_began_with_another_goes_on(tmp_path, capsys):
    """It did not keep what that one saw; nothing is lost, and whoever evaluates it reads so."""
    first, run = tmp_path / "first", tmp_path / "run"
    assert in_this_process(capsys, "train", "prototypical", *SMALL, "--out", first)[0] == 0
    words = ["train", "prototypical", "--start", first, "--recipe", "smoke", "--out", run]
    assert in_this_process(capsys, *words)[0] == 0
    tensors, about = files.load_tensors(run / "checkpoint.safetensors")
    assert about["settings"].pop("began_with") == [{"dataset": "glyphs"}]
    files.save_tensors(run / "checkpoint.safetensors", tensors, about)
    config = files.read_json(run / "config.json")
    del config["began_with"]
    files.write_json(run / "config.json", config)
    code, _, err = in_this_process(capsys, *words, "--resume")
    assert code == 0, err
    code, _, err = in_this_process(capsys, "evaluate", run, "--episodes", 2)
    assert (code, any("does not tell which classes that was trained on" in line for line in err)) == (0, True), err


@pytest.mark.skipif(not os.environ.get("MLCOURSE_DATA"), reason="needs a local copy of Omniglot")
def test_test_classes_of_another_list_of_omniglot_are_not_unseen(tmp_path, capsys):
    run = tmp_path / "run"
    assert in_this_process(capsys, "train", "prototypical", "--dataset", "omniglot", *SMALL, "--out", run)[0] == 0
    assert in_this_process(capsys, "evaluate", run, "--episodes", 2)[0] == 0
    code, _, err = in_this_process(capsys, "evaluate", run, "--protocol", "lake", "--episodes", 2)
    assert code == 2
    assert "236 of the 659 test classes of omniglot, such as" in err[-1]
    assert "its classes for a test are those of --protocol vinyals" in err[-1]


def test_a_run_in_a_folder_that_is_named_as_a_baseline_is_evaluated(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert in_this_process(capsys, "train", "prototypical", *SMALL, "--out", "untrained-maml")[0] == 0
    _, out, _ = in_this_process(capsys, "evaluate", "untrained-maml", "--episodes", 2, "--json")
    assert json.loads(out[-1])["trained"]["dataset"] == "glyphs"
    shutil.rmtree("untrained-maml")
    _, out, _ = in_this_process(capsys, "evaluate", "untrained-maml", "--episodes", 2, "--json")
    assert json.loads(out[-1])["trained"] == {}


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (("--within-groups",), "each class is a group of its own: leave it out"),
        (("--distort", "1"), "--distort is for characters, bright on black: what a distortion brings in is black"),
    ],
)
def test_options_for_characters_are_refused_for_photos(option, named, tmp_path, capsys):
    folder = photos(tmp_path / "mine", 8, 4)
    words = ["train", "prototypical", "--dataset", folder, *SMALL, *option, "--out", tmp_path / "run"]
    code, _, err = in_this_process(capsys, *words)
    assert (code, named in err[-1]) == (2, True), err
    assert not (tmp_path / "run").exists()


def test_digits_of_one_size_are_converted_to_that_of_a_run(tmp_path, capsys, monkeypatch):
    """The size of the files is no option where there is one only: they are converted after they were read."""
    folder, run = photos(tmp_path / "mine", 6, 4, size=40), tmp_path / "run"
    assert in_this_process(capsys, "train", "prototypical", "--dataset", folder, *SMALL, "--out", run)[0] == 0
    for name in ("glyphs", "mnist"):
        asked = {}
        monkeypatch.setattr(datasets, "load", lambda *_, size, asked=asked, **__: asked.update(size=size) or some())
        code, _, err = in_this_process(capsys, "evaluate", run, "--dataset", name, "--convert", "--episodes", 2)
        assert code == 0, err
        assert asked == {"size": None}


def some():
    """Six classes of twenty pictures of 28 pixels."""
    names = tuple(f"class {k}" for k in range(6))
    pictures = torch.zeros(120, 1, 28, 28, dtype=torch.uint8)
    return ClassImages(pictures, torch.full((6,), 20), names, names, name="digits", split="test")


def test_a_run_that_does_not_tell_its_classes_goes_on_and_is_evaluated(tmp_path, capsys):
    folder, run = photos(tmp_path / "mine", 6, 4), tmp_path / "run"
    words = ["train", "prototypical", "--dataset", folder, "--recipe", "smoke", "--steps", 1, "--out", run]
    assert in_this_process(capsys, *words)[0] == 0
    tensors, about = files.load_tensors(run / "checkpoint.safetensors")
    del about["settings"]["classes"]
    files.save_tensors(run / "checkpoint.safetensors", tensors, about)
    config = json.loads((run / "config.json").read_text())
    del config["classes"]
    (run / "config.json").write_text(json.dumps(config))
    code, _, err = in_this_process(capsys, *words, "--resume")
    assert code == 0, err
    assert in_this_process(capsys, "evaluate", run, "--episodes", 3)[0] == 0


def test_the_last_line_of_a_training_names_what_was_measured_besides(tmp_path, capsys):
    code, out, err = in_this_process(capsys, "train", "imaml", "--recipe", "smoke", "--out", tmp_path / "run")
    assert code == 0, err
    assert re.search(r", indefinite [\d.e-]+ in the last steps\. Next: mlcourse evaluate", out[-1])


def test_distortion_and_tasks_within_groups_are_options_that_a_run_tells(tmp_path):
    whole = ["train", "prototypical", "--recipe", "smoke", "--out", str(tmp_path / "run")]
    done = command(*whole, "--distort", "0.5", "--within-groups")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["distort"] == 0.5
    assert config["within_groups"] is True
    refused = command(*whole[:-1], tmp_path / "other", "--distort", "7")
    assert refused.returncode != 0
    assert "strength is 7" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "other").exists()


def test_quarter_turns_are_further_classes_of_training_only_where_asked(tmp_path, capsys):
    place = photos(tmp_path / "mine", 12, 6)
    configs = {}
    for name, more in (("as it is", []), ("turned", ["--turned"])):
        words = ["train", "prototypical", "--dataset", place, "--recipe", "smoke", "--out", tmp_path / name, *more]
        code, _, err = in_this_process(capsys, *words)
        assert code == 0, err
        configs[name] = json.loads((tmp_path / name / "config.json").read_text())
    before, after = (configs[name]["classes"] for name in ("as it is", "turned"))
    assert after["train"] == [f"{name}/rot{turn:03d}" for name in before["train"] for turn in (0, 90, 180, 270)]
    assert after["val"] == before["val"]
    assert configs["turned"]["turned"] is True
    assert "turned" not in configs["as it is"]
    assert in_this_process(capsys, "evaluate", tmp_path / "turned", "--episodes", 3)[0] == 0
    # a run that did not turn does not go on turning, nor the other way round
    for name, more in (("as it is", ["--turned"]), ("turned", [])):
        words = ["train", "prototypical", "--dataset", place, "--recipe", "smoke", "--out", tmp_path / name, *more]
        code, _, err = in_this_process(capsys, *words, "--resume")
        assert (code, "of another run" in err[-1]) == (2, True), err


@pytest.mark.parametrize("skip_damaged", [False, True])
def test_the_turned_pictures_are_the_pictures_turned(tmp_path, skip_damaged):
    place = photos(tmp_path / "mine", 12, 3)
    images = data.load(str(place), "train", skip_damaged=skip_damaged)
    turned = data.load(str(place), "train", skip_damaged=skip_damaged, turned=True)
    assert turned.classes == 4 * images.classes
    for i in range(images.classes):
        for quarter in range(4):
            assert torch.equal(turned.of_class(4 * i + quarter), images.of_class(i).rot90(quarter, dims=(-2, -1)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--turned"], "the training classes of glyphs are turned already; leave it out"),
        (["--turned", "--dataset", "omniglot"], "the training classes of vinyals in omniglot are turned already"),
        (["--turned", "--within-groups", "--dataset", "mine"], "would ask which turn of one class a picture shows"),
    ],
)
def test_turns_that_change_nothing_or_ask_for_nothing_are_refused(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "mine", 12, 3)
    code, _, err = in_this_process(capsys, "train", "prototypical", "--recipe", "smoke", "--out", "run", *words)
    assert code == 2
    assert said in err[-1]
    assert not Path("run").exists()


def test_drawn_pictures_turn_where_asked(monkeypatch):
    monkeypatch.setattr(strokes, "as_drawings", lambda images, hands: images)  # tracing takes minutes
    upright, may_turn = datasets.upright("glyphs", "test", rotations=True)
    assert data.load("glyphs", "test", drawn=True).classes == upright.classes
    assert data.load("glyphs", "test", drawn=True, turned=True).classes == upright.classes + 3 * int(may_turn.sum())
    assert may_turn.any()


def test_damaged_pictures_are_left_out_and_listed_when_asked(tmp_path, capsys):
    place = photos(tmp_path / "mine", 12, 8)
    damaged = sorted(place.rglob("*.png"))[::9]
    for file in damaged:
        file.write_bytes(file.read_bytes()[:50])
    arguments = ["train", "prototypical", "--dataset", place, "--recipe", "smoke", "--out", tmp_path / "run"]
    code, _, err = in_this_process(capsys, *arguments)
    assert code == 2
    assert "is no readable picture" in err[-1]  # before it: how so few classes are split
    assert not (tmp_path / "run").exists()
    code, _, err = in_this_process(capsys, *arguments, "--skip-damaged")
    assert code == 0, err
    told = [line for line in err if "left out of" in line]
    assert files.read_json(tmp_path / "run" / "config.json")["skip_damaged"] is True
    code, _, err = in_this_process(capsys, "evaluate", tmp_path / "run", "--episodes", 4)
    assert (code, "is no readable picture" in err[-1]) == (2, True)
    code, out, err = in_this_process(capsys, "evaluate", tmp_path / "run", "--episodes", 4, "--skip-damaged", "--json")
    assert code == 0, err
    assert 0 <= json.loads(out[-1])["accuracy"] <= 1
    told += [line for line in err if "left out of test: " in line]
    named = [file for file in damaged if any(str(file) in line for line in told)]
    assert named == damaged
    assert len(told) == len(damaged)


@pytest.mark.parametrize("dataset", ["glyphs", "nowhere"])
def test_only_of_a_folder_pictures_may_be_left_out(dataset, tmp_path, capsys):
    code, _, err = in_this_process(capsys, "evaluate", "pixels", "--dataset", dataset, "--skip-damaged")
    assert code == 2
    assert err == [f"mlcourse: --skip-damaged is for a folder of your own, and '{dataset}' is none: leave it out"]


def test_fixed_episodes_leave_nothing_out(capsys):
    asked = ["evaluate", "pixels", "--protocol", "glyphs-5way-1shot", "--skip-damaged"]
    code, _, err = in_this_process(capsys, *asked)
    assert (code, len(err)) == (2, 1)
    assert "--skip-damaged is True, but protocol glyphs-5way-1shot fixes the episodes" in err[0]


def test_two_trainings_do_not_share_a_folder(tmp_path, capsys, monkeypatch):
    run = tmp_path / "runs" / "run"
    run.parent.mkdir()
    words = ["train", "prototypical", *SMALL, "--out", run]
    with FileLock(run.with_name(f".{run.name}.lock")):
        code, _, err = in_this_process(capsys, *words)
    assert (code, err[-1]) == (
        2,
        f"mlcourse: another training writes into {run} now: wait for it, or name another --out",
    )
    assert not run.exists()
    assert in_this_process(capsys, *words)[0] == 0
    assert [path.name for path in run.parent.iterdir()] == ["run"]
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert in_this_process(capsys, *words[:-1], ".")[0] == 0
    assert (here / "config.json").is_file()


def test_a_task_after_its_options_is_one_line(capsys):
    code, _, err = in_this_process(capsys, "train", "--recipe", "smoke", "segmentation")
    assert (code, err[-1].endswith("write it before them, mlcourse train segmentation …")) == (2, True)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2400000000 bytes"),
    ],
)
def test_a_full_memory_is_one_line(error):
    assert one_line(error).startswith("this machine's memory is full: take fewer tasks")
