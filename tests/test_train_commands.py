"""`mlcourse train` and `mlcourse evaluate` from outside: what they write, and one clear line for bad input."""

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

import mlcourse


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "mlcourse", *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    done = command("train", "prototypical", "--dataset", "glyphs", "--budget", "smoke", "--seed", 1, "--out", out)
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
    arguments = ["--dataset", tmp_path / "photos", "--way", 2, "--train-way", 3, "--query", 2, "--budget", "smoke"]
    done = command("train", "prototypical", *arguments, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    done = command("evaluate", tmp_path / "run", "--query", 2, "--episodes", 5, "--json")
    assert done.returncode == 0, done.stderr


BAD = {
    "unknown data set": (["train", "maml", "--dataset", "omnniglot"], "omnniglot"),
    "unknown method": (["train", "mamel"], "mamel"),
    "unknown budget": (["train", "maml", "--budget", "huge"], "huge"),
    "too few samples": (["train", "maml", "--shot", "15", "--query", "15", "--budget", "smoke"], "shot 15"),
    "shot 0": (["train", "maml", "--shot", "0"], "shot is 0"),
    "negative way": (["train", "prototypical", "--way", "-5"], "way is -5"),
    "negative query": (["train", "prototypical", "--query", "-1"], "query is -1"),
    "train way 0": (["train", "prototypical", "--train-way", "0"], "train-way is 0"),
    "way 0 in evaluation": (["evaluate", "pixels", "--way", "0"], "way is 0"),
    "shot 0 in evaluation": (["evaluate", "pixels", "--shot", "0"], "shot is 0"),
    "no such run": (["evaluate", "runs/nowhere"], "runs/nowhere"),
    "unknown split": (["evaluate", "pixels", "--split", "exam"], "exam"),
    "unknown normalisation": (["train", "maml", "--normalisation", "wishful"], "wishful"),
    "no episodes": (["evaluate", "pixels", "--episodes", "0"], "episodes is 0"),
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
    done = command("train", "maml", "--budget", "smoke", "--device", "cuda", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "--device cpu" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_checkpoint_of_another_method_and_a_truncated_one(trained, tmp_path):
    other = command("train", "maml", "--budget", "smoke", "--seed", 1, "--out", trained, "--resume")
    assert other.returncode == 2
    assert "another run" in other.stderr
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.json", "learner.safetensors", "log.jsonl", "checkpoint.safetensors"):
        (copy / name).write_bytes((trained / name).read_bytes())
    whole = (copy / "checkpoint.safetensors").read_bytes()
    (copy / "checkpoint.safetensors").write_bytes(whole[: len(whole) // 2])
    (copy / "learner.safetensors").write_bytes((copy / "learner.safetensors").read_bytes()[:100])
    arguments = ["--budget", "smoke", "--seed", 1, "--out", copy, "--resume"]
    for done in (command("train", "prototypical", *arguments), command("evaluate", copy)):
        assert done.returncode == 2
        assert "damaged or truncated" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_resume_of_a_finished_run_does_nothing(trained):
    before = (trained / "log.jsonl").read_text()
    arguments = ["--dataset", "glyphs", "--budget", "smoke", "--seed", 1, "--out", trained, "--resume"]
    done = command("train", "prototypical", *arguments)
    assert done.returncode == 0, done.stderr
    assert (trained / "log.jsonl").read_text() == before
    again = command("train", "prototypical", *arguments[:-1])
    assert again.returncode == 2
    assert "--resume" in again.stderr
