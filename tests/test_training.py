"""The training loop: it learns, keeps the best, resumes to the same numbers, and loses nothing."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from core_helpers import squares
from safetensors.torch import load_file

import mlcourse
from mlcourse import files, learners, training
from mlcourse.commands import app
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError, CourseWarning
from mlcourse.evaluation import Episodes, evaluate
from mlcourse.learners import FineTune
from mlcourse.meta_optimization import learned_optimizers
from mlcourse.networks import Conv4
from mlcourse.statistics import ACCURACY


def learner(method="prototypical", seed=0, **options):
    return learners.build(method, way=4, size=16, channels=8, seed=seed, **options)


def sampler(split="train", **shape):
    return EpisodeSampler(squares(split=split), **({"way": 4, "shot": 1, "query": 3} | shape))


def run(model, **changes):
    settings = {"steps": 8, "tasks": 2, "seed": 3, "validation": sampler("val"), "validate_every": 3, "progress": False}
    return training.train(model, sampler(), **(settings | {"validation_episodes": 10} | changes))


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole():
    """What an uninterrupted run learns: to compare with, and not to be changed."""
    model = learner()
    run(model)
    return model


@pytest.mark.parametrize("method", ["prototypical", "maml"])
def test_training_learns(method):
    model = learner(method)
    before = evaluate(model, sampler("val"), episodes=50).accuracy
    history = run(model, steps=60, rate=1e-2, validation=None)
    after = evaluate(model, sampler("val"), episodes=50).accuracy
    assert 1 - after < (1 - before) / 2, "half of the errors stay"
    assert sum(history.losses[-10:]) < sum(history.losses[:10])
    assert not model.training


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    one, two, other = learner(), learner(), learner()
    assert run(one).losses == run(two).losses
    assert same(one, two)
    assert run(other, seed=4).losses != run(learner()).losses


def test_the_best_parameters_on_validation_are_kept():
    accuracies = iter([0.5, 0.9, 0.6])
    seen = []

    class Judge:
        def evaluate(self, model):
            seen.append({name: value.clone() for name, value in model.state_dict().items()})
            return SimpleNamespace(metric=ACCURACY, value=next(accuracies))

    model = learner()
    history = run(model, steps=9, validation=Judge())
    assert history.best_step == 6
    assert history.validations == [(3, 0.5), (6, 0.9), (9, 0.6)]
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("method", ["prototypical", "maml"])
def test_a_run_that_stopped_and_resumed_equals_one_that_did_not(tmp_path, method, monkeypatch):
    whole = learner(method)
    run(whole, out=tmp_path / "whole")

    class Stop(Exception):
        pass

    class Stopping(EpisodeSampler):
        calls = 0

        def sample(self, tasks, generator):
            Stopping.calls += 1
            if Stopping.calls == 6:  # after the checkpoint at step 3, in the sixth step: steps 4 and 5 are lost
                raise Stop
            return super().sample(tasks, generator)

    settings = {"steps": 8, "tasks": 2, "seed": 3, "validation": sampler("val"), "validate_every": 3}
    settings |= {"validation_episodes": 10, "out": tmp_path / "torn", "progress": False}
    with pytest.raises(Stop):
        training.train(learner(method), Stopping(squares(), 4, 1, 3), **settings)
    resumed = learner(method, seed=99)  # whatever it holds, the checkpoint replaces it
    history = run(resumed, out=tmp_path / "torn", resume=True)
    assert same(whole, resumed)
    assert len(history.losses) == 8
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "torn")
    ]
    assert [entry["step"] for entry in logs[1]] == list(range(1, 9))
    assert [entry["loss"] for entry in logs[0]] == [entry["loss"] for entry in logs[1]]
    assert [entry["resumes"] for entry in logs[1]] == [0] * 3 + [1] * 5
    assert same(mlcourse.load(tmp_path / "torn"), whole)


@pytest.mark.parametrize("method", ["prototypical", "maml"])
def test_moments_come_back_in_the_layout_of_their_parameters(tmp_path, method):
    """An elementwise step over tensors of two layouts takes another path through memory."""
    model = learner(method)
    run(model, out=tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()  # so that the run counts as unfinished
    told = files.load_tensors(tmp_path / "run" / "checkpoint.safetensors")[1]["settings"]
    again = training.Run(learner(method), 1e-3, 3, tmp_path / "run", told, 8)
    again.open(resume=True)
    again.close_log()
    by_parameter = again.optimizer.state
    assert len(by_parameter) == len(list(model.parameters()))
    for parameter, state in by_parameter.items():
        assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()
    assert any(not parameter.is_contiguous() for parameter in by_parameter), "no learner is channels last any more"


def test_a_checkpoint_from_before_an_option_existed_goes_on(tmp_path):
    whole = learner()
    run(whole, out=tmp_path / "run")
    tensors, about = files.load_tensors(tmp_path / "run" / "checkpoint.safetensors")
    about["learner"]["options"] = {"channels": 8}
    files.save_tensors(tmp_path / "run" / "checkpoint.safetensors", tensors, about)
    again = learner(seed=9)
    run(again, out=tmp_path / "run", resume=True)
    assert same(whole, again)


def test_an_interrupt_keeps_what_was_learnt(tmp_path):
    class Interrupted(EpisodeSampler):
        calls = 0

        def sample(self, tasks, generator):
            Interrupted.calls += 1
            if Interrupted.calls == 5:
                raise KeyboardInterrupt
            return super().sample(tasks, generator)

    model = learner()
    history = training.train(
        model, Interrupted(squares(), 4, 1, 3), steps=8, tasks=2, seed=3, out=tmp_path / "run", progress=False
    )
    assert history.interrupted
    assert len(history.losses) == 4
    assert same(mlcourse.load(tmp_path / "run"), model)
    assert files.read_json(tmp_path / "run" / "config.json")["finished"] is False
    assert (
        training.train(
            learner(seed=1), sampler(), steps=8, tasks=2, seed=3, out=tmp_path / "run", resume=True, progress=False
        ).losses[:4]
        == history.losses
    )


def test_an_evaluator_of_ones_own_is_told_in_the_run(tmp_path):
    """Its name among the settings, its result as the validation."""
    own = Episodes(sampler("val"), episodes=4)
    training.train(learner(), sampler(), steps=2, tasks=2, validation=own, out=tmp_path / "run", progress=False)
    told = files.read_json(tmp_path / "run" / "config.json")
    assert told["evaluator"] == "Episodes"
    assert set(told["validation"]) == {"accuracy"}


@pytest.fixture
def interrupts_arrive():
    """As in a terminal: a process that was started in the background ignores interrupts, and the test with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("where", ["sample", "validation"])
@pytest.mark.usefixtures("interrupts_arrive")
def test_an_interrupt_in_the_middle_of_a_step_resumes_to_the_same_numbers(tmp_path, where, whole):
    """Ctrl-C comes when the generator has moved on and the parameters have not, or while a validation runs."""

    class Interrupted(EpisodeSampler):
        calls = 0

        def sample(self, tasks, generator):
            batch = super().sample(tasks, generator)
            Interrupted.calls += 1
            if Interrupted.calls == (5 if where == "sample" else 1):
                signal.raise_signal(signal.SIGINT)
            return batch

    handler = signal.getsignal(signal.SIGINT)
    interrupting = Interrupted(squares(split="train" if where == "sample" else "val"), 4, 1, 3)
    settings = {"steps": 8, "tasks": 2, "seed": 3, "validate_every": 3, "validation_episodes": 10, "progress": False}
    source, validation = (interrupting, sampler("val")) if where == "sample" else (sampler(), interrupting)
    history = training.train(learner(), source, validation=validation, out=tmp_path / "run", **settings)
    assert signal.getsignal(signal.SIGINT) is handler
    assert history.interrupted
    assert len(history.losses) == (5 if where == "sample" else 3)
    resumed = learner(seed=1)
    again = run(resumed, out=tmp_path / "run", resume=True)
    assert same(whole, resumed)
    assert [step for step, _ in again.validations] == [3, 6, 8]


def test_resuming_a_finished_run_does_nothing(tmp_path):
    first = learner()
    run(first, out=tmp_path / "run")
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir() if path.name != "log.jsonl"}
    log = (tmp_path / "run" / "log.jsonl").read_text()
    again = learner(seed=9)
    history = run(again, out=tmp_path / "run", resume=True)
    assert same(first, again)
    assert not again.training
    assert len(history.losses) == 8
    assert stamps == {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir() if path.name in stamps
    }
    assert log == (tmp_path / "run" / "log.jsonl").read_text()


def test_resume_with_nothing_there_starts(tmp_path):
    assert len(run(learner(), out=tmp_path / "new", resume=True).losses) == 8


def test_another_run_in_the_folder_is_refused_and_stays_whole(tmp_path):
    run(learner(), out=tmp_path / "run")
    before = (tmp_path / "run" / "learner.safetensors").read_bytes()
    with pytest.raises(CourseError, match=r"already holds a run.*--resume"):
        run(learner(), out=tmp_path / "run")
    with pytest.raises(CourseError, match=r"of another run.*method = 'prototypical', not 'maml'"):
        run(learner("maml"), out=tmp_path / "run", resume=True)
    with pytest.raises(CourseError, match="channels = 8, not 4"):
        run(learners.build("prototypical", way=4, size=16, channels=4), out=tmp_path / "run", resume=True)
    with pytest.raises(CourseError, match="steps = 8, not 9"):
        run(learner(), out=tmp_path / "run", resume=True, steps=9)
    with pytest.raises(CourseError, match="tasks = 2, not 3"):
        run(learner(), out=tmp_path / "run", resume=True, tasks=3)
    assert (tmp_path / "run" / "learner.safetensors").read_bytes() == before


def test_a_truncated_checkpoint_is_one_clear_error(tmp_path):
    run(learner(), out=tmp_path / "run")
    path = tmp_path / "run" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    (tmp_path / "run" / "checkpoint.previous.safetensors").unlink()
    with pytest.raises(CourseError, match=r"checkpoint\.safetensors is damaged or truncated"):
        run(learner(), out=tmp_path / "run", resume=True)


def test_no_space_left_leaves_the_last_whole_checkpoint(tmp_path, monkeypatch, whole):
    real, calls = safetensors.torch.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half")
            raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
        real(tensors, path, metadata=metadata)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(CourseError, match=r"No space left.*--out"):
        run(learner(), out=tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoint.previous.safetensors",
        "checkpoint.safetensors",
        "log.jsonl",
    ]
    monkeypatch.setattr(safetensors.torch, "save_file", real)
    resumed = learner()
    run(resumed, out=tmp_path / "run", resume=True)
    assert same(whole, resumed)


def test_a_loss_that_is_not_finite_stops_with_its_remedy():
    model = learner("maml", inner_rate=1e30)
    with pytest.raises(CourseError, match=r"outer loss is (nan|inf).*inner rate"):
        run(model, steps=4, validation=None)


def test_a_run_whose_first_step_fails_leaves_nothing_in_the_way(tmp_path):
    with pytest.raises(CourseError, match="outer loss is"):
        run(learner("maml", inner_rate=1e30), out=tmp_path / "run", steps=4, validation=None)
    assert not (tmp_path / "run").exists()
    run(learner("maml"), out=tmp_path / "run", steps=1, validation=None)
    assert mlcourse.load(tmp_path / "run")


@pytest.mark.parametrize("bad", [{"steps": 0}, {"tasks": 0}, {"validate_every": -1}, {"schedule": "linear"}])
def test_bad_settings_are_named(bad):
    with pytest.raises(CourseError, match=next(iter(bad))):
        run(learner(), **bad)


def test_a_source_that_does_not_fit_its_learner_is_refused():
    data = squares()
    network = Conv4(size=16, channels=8, normalisation="running", downsample="stride")
    settings = {"steps": 1, "tasks": 2, "progress": False}
    with pytest.raises(CourseError, match=r"FineTune trains on images, but EpisodeSampler gives episodes.*Images"):
        training.train(FineTune(network, classes=data.classes), sampler(), **settings)
    with pytest.raises(CourseError, match=r"PrototypicalNetwork trains on episodes, but Images gives images.*Episode"):
        training.train(learner(), training.Images(data), **settings)
    with pytest.raises(CourseError, match="PixelNeighbours has nothing to train"):
        training.train(learners.build("pixels", way=4), sampler(), **settings)


def test_a_seed_that_no_generator_takes_is_named_and_the_largest_works():
    for seed in (-1, 2**64, 1.5):
        with pytest.raises(CourseError, match=f"seed is {seed}: give an integer from 0 to 18446744073709551615"):
            run(learner(), seed=seed)
        with pytest.raises(CourseError, match=f"seed is {seed}: give an integer from 0 to 18446744073709551615"):
            evaluate(learner(), sampler(), episodes=1, seed=seed)
    assert len(run(learner(), seed=2**64 - 1, steps=1).validations) == 1


def test_every_recipe_can_be_built_and_the_papers_schedule_halves():
    for method, one in learners.METHODS.items():
        for recipe in one.recipes.values():
            learners.build(method, way=5, seed=0, **recipe.options)
            learners.build(method, way=5, seed=0, **recipe.many_way.get("options", {}))
            assert recipe.schedule in training.SCHEDULES
    paper = learners.recipe("prototypical", "paper")
    shares = [training.SCHEDULES[paper.schedule](step, paper.steps) for step in (0, 1999, 2000, 4000)]
    assert shares == [1, 1, 0.5, 0.25]


def test_mamls_published_settings_depend_on_the_way():
    """Finn et al. 2017, appendix A.1; their code (https://github.com/cbfinn/maml, main.py) says the same."""
    few, many = (learners.recipe("maml", "paper", way) for way in (5, 20))
    assert (few.steps, few.tasks, few.rate, few.query) == (60000, 32, 1e-3, 1)
    assert few.options == {"inner_steps": 1, "evaluation_inner_steps": 3, "inner_rate": 0.4}
    assert (many.steps, many.tasks, many.rate, many.query) == (60000, 16, 1e-3, 1)
    assert many.options == {"inner_steps": 5, "evaluation_inner_steps": 5, "inner_rate": 0.1}
    assert learners.recipe("maml", "paper") == learners.recipe("maml", "paper", 19) == few
    assert learners.recipe("prototypical", "paper", 20) == learners.recipe("prototypical", "paper", 5)


def test_short_takes_as_many_images_a_step_at_20_ways_as_at_5():
    for method in (name for name, one in learners.METHODS.items() if one.recipes):
        few, many = (learners.recipe(method, "short", way) for way in (5, 20))
        if few.train_way is None and learners.METHODS[method].learner.trains_on == "episodes":
            assert few.tasks * 5 == many.tasks * 20
        assert few.steps == many.steps


def test_the_cosine_schedule_goes_from_one_to_zero():
    assert training.cosine(0, 10) == 1
    assert training.cosine(5, 10) == pytest.approx(0.5)
    assert training.cosine(10, 10) == pytest.approx(0)


def test_pre_training_on_images_uses_the_same_loop():
    torch.manual_seed(0)
    data = squares()
    model = FineTune(Conv4(size=16, channels=8, normalisation="running", downsample="stride"), classes=data.classes)
    history = training.train(model, training.Images(data), steps=40, tasks=32, rate=1e-2, seed=0, progress=False)
    assert sum(history.values[-5:]) / 5 > 0.5
    x, y = training.Images(data).sample(6, torch.Generator().manual_seed(0))
    assert x.shape == (6, 1, 16, 16)
    for image, label in zip(x, y.tolist(), strict=True):
        assert any(torch.equal(image, other.float() / 255) for other in data.of_class(label))


@pytest.fixture
def one_thread(monkeypatch):
    """In this process and in those that it starts: two threads add up in another order."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


STEPS = 24


def train_words(out, *more):
    words = ["train", "maml", "--dataset", "glyphs", "--recipe", "smoke", "--steps", str(STEPS), "--device", "cpu"]
    return [*words, "--seed", "2", "--out", str(out), *more]


@pytest.mark.usefixtures("one_thread")
def test_kill_and_resume_give_the_same_bits_as_an_uninterrupted_run(tmp_path):
    """The killed one is a process of its own; the others need none, and importing takes longer than their steps."""
    app(train_words(tmp_path / "whole"), standalone_mode=False)

    command = [sys.executable, "-m", "mlcourse", *train_words(tmp_path / "killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "killed" / "log.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") >= 8):
        time.sleep(0.005)
    process.kill()  # SIGKILL where there are signals
    assert process.wait() in (-signal.SIGKILL if hasattr(signal, "SIGKILL") else 1, 1)
    done_before = log.read_text().count("\n")
    assert 8 <= done_before < STEPS, "the process ended before it could be killed"

    app(train_words(tmp_path / "killed", "--resume"), standalone_mode=False)
    tensors = [load_file(tmp_path / name / "learner.safetensors") for name in ("whole", "killed")]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    first_run, second_run = ([line["step"] for line in lines if line["resumes"] == n] for n in (0, 1))
    assert len(first_run) >= 6, "the resumed process did nearly all the work itself"
    assert second_run == list(range(len(first_run) + 1, STEPS + 1))


# ------------------------------------------------------------------ nothing learnt is out of reach


def stopped_half_way(folder, steps=8, at=7):
    """A run that died in step `at`, with checkpoints after steps 3 and 6."""

    class Stop(Exception):
        pass

    class Stopping(EpisodeSampler):
        calls = 0

        def sample(self, tasks, generator):
            Stopping.calls += 1
            if Stopping.calls == at:
                raise Stop
            return super().sample(tasks, generator)

    settings = {"steps": steps, "tasks": 2, "seed": 3, "validation": sampler("val"), "validate_every": 3}
    settings |= {"validation_episodes": 10, "out": folder, "progress": False}
    with pytest.raises(Stop):
        training.train(learner(), Stopping(squares(), 4, 1, 3), **settings)
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    return stopped_half_way(tmp_path_factory.mktemp("stopped") / "run")


@pytest.fixture
def half_way(stopped, tmp_path):
    """A folder of one's own with what that run left."""
    return shutil.copytree(stopped, tmp_path / "run")


def without_lines(path, keep=2):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:keep]))


ODD = [
    '{"step": Infinity, "loss": 1.0}',
    '{"step": 1e999, "loss": 1.0}',
    '{"step": NaN, "loss": 1.0}',
    '{"step": 3.5, "loss": 1.0}',
    '{"step": true, "loss": 1.0}',
    '{"step": -3, "loss": 1.0}',
    '{"step": 0, "loss": 1.0}',
    '{"step": "3", "loss": 1.0}',
    '{"step": 3, "loss": null}',
    '{"step": 3, "loss": 1' + 400 * "0" + "}",
    '{"step": 1' + 5000 * "0" + ', "loss": 1.0}',
    '{"step": ' + 100_000 * "[" + "}",
    "7",
    '"step"',
]


def with_third_line(path, line):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[3:]]) + "\n")


LOGS = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "its last lines lost": without_lines,
    "its first lines lost": lambda path: path.write_text("".join(path.read_text().splitlines(keepends=True)[4:])),
    "cut in a line": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe" + path.read_bytes()),
    "zeros after a power cut": lambda path: path.write_bytes(path.read_bytes()[:100] + bytes(200)),
    "other JSON": lambda path: path.write_text('[1, 2]\n{"step": "x"}\nnull\n'),
    **{f"the third line {line[:40]}": partial(with_third_line, line=line) for line in ODD},
}


@pytest.mark.parametrize("damage", LOGS)
def test_a_damaged_log_stops_nobody(half_way, whole, damage):
    LOGS[damage](half_way / "log.jsonl")
    resumed = learner(seed=1)
    if damage == "cut in a line":  # the sixth step's line: the checkpoint holds it
        with pytest.warns(UserWarning, match="lacks 1 of the 6 steps"):
            history = run(resumed, out=half_way, resume=True)
    else:
        with pytest.warns(UserWarning, match="lacks . of the 6 steps"):
            history = run(resumed, out=half_way, resume=True)
    assert same(whole, resumed)
    assert len(history.losses) == len(history.values) == 8
    assert all(math.isfinite(loss) for loss in history.losses[6:])
    steps = [json.loads(line)["step"] for line in (half_way / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-2:] == [7, 8]


@pytest.mark.parametrize("damage", ["cut", "gone", "empty", "another file"])
def test_the_checkpoint_before_takes_over(half_way, whole, damage):
    path = half_way / "checkpoint.safetensors"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": path.read_bytes()[:700], "empty": b"", "another file": b"PK\x03\x04 a zip"}[damage])
    resumed = learner(seed=1)
    with pytest.warns(UserWarning, match=r"going on from checkpoint\.previous\.safetensors, step 3"):
        run(resumed, out=half_way, resume=True)
    assert same(whole, resumed)


def test_a_checkpoint_of_an_older_version_goes_on(half_way, whole):
    """It knew neither `history` nor `resumes` nor the metric."""
    tensors, about = files.load_tensors(half_way / "checkpoint.safetensors")
    for name in ("history", "resumes", "metric", "scaler"):
        del about[name]
    files.save_tensors(half_way / "checkpoint.safetensors", tensors, about)
    resumed = learner(seed=1)
    run(resumed, out=half_way, resume=True)
    assert same(whole, resumed)


def test_a_tensor_file_that_is_no_checkpoint_says_so(half_way):
    (half_way / "checkpoint.previous.safetensors").unlink()
    files.save_tensors(half_way / "checkpoint.safetensors", {"x": torch.ones(2)}, {})
    with pytest.raises(CourseError, match="is no checkpoint of a training"):
        run(learner(), out=half_way, resume=True)


def test_the_log_reaches_the_disk_before_the_checkpoint_counts_it(tmp_path, monkeypatch):
    order = []
    fsync, save = os.fsync, files.save_tensors
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("flushed"), fsync(handle))[1])
    monkeypatch.setattr(files, "save_tensors", lambda *given: (order.append("checkpoint"), save(*given))[1])
    run(learner(), out=tmp_path / "run", steps=3)
    assert order.index("flushed") < order.index("checkpoint")


def test_an_odd_metric_in_the_log_is_a_gap_and_no_fault(half_way, whole):
    path, odd = half_way / "log.jsonl", ["null", "true", '"x"', "[1]", "1" + 400 * "0", "NaN"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    texts = [f'{{"step": {one["step"]}, "loss": {one["loss"]}, "accuracy": {value}}}' for one, value in zip(lines, odd)]
    path.write_text("\n".join(texts) + "\n")
    resumed = learner(seed=1)
    history = run(resumed, out=half_way, resume=True)
    assert same(whole, resumed)
    assert [math.isnan(value) for value in history.values] == [True, False, True, True, True, True, False, False]


def test_the_log_is_json_also_where_a_metric_is_undefined(tmp_path, monkeypatch):
    model = learner()
    metrics, odd = model.metrics, {"ratio": math.nan, "size": math.inf}
    monkeypatch.setattr(type(model), "metrics", lambda _, *given: metrics(*given) | odd)
    history = run(model, out=tmp_path / "run", steps=3)

    def refuse(word):
        raise AssertionError(word)

    for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines():
        entry = json.loads(line, parse_constant=refuse)
        assert (entry["ratio"], entry["size"]) == (None, None)
    assert math.isnan(history.others["ratio"])


# ------------------------------------------------------------------ the optimizer of a run that goes on

MADE = {
    "SGD": lambda p, rate: torch.optim.SGD(p, lr=rate),
    "SGD with momentum": lambda p, rate: torch.optim.SGD(p, lr=rate, momentum=0.9),
    "Adam": lambda p, rate: torch.optim.Adam(p, lr=rate),
    "Adam, other betas": lambda p, rate: torch.optim.Adam(p, lr=rate, betas=(0.5, 0.9)),
    "SGD, another rate": lambda p, rate: torch.optim.SGD(p, lr=0.1 * rate),
    "SGD in two groups": lambda p, rate: torch.optim.SGD(
        [{"params": list(p)[:2], "lr": 0.1 * rate}, {"params": list(p)[2:]}], lr=rate
    ),
    "SGD, groups otherwise": lambda p, rate: torch.optim.SGD(
        [{"params": list(p)[:3], "lr": 0.1 * rate}, {"params": list(p)[3:]}], lr=rate
    ),
}


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ("SGD", "Adam", "class = 'SGD', not 'Adam'"),
        ("Adam", "SGD", "class = 'Adam', not 'SGD'"),
        ("SGD", "SGD with momentum", r"momentum = 0, not 0\.9"),
        ("SGD with momentum", "SGD", r"momentum = 0\.9, not 0"),
        ("Adam", "Adam, other betas", r"betas = \[0\.9, 0\.999\], not \[0\.5, 0\.9\]"),
        ("SGD", "SGD, another rate", r"lr = 0\.001, not 0\.0001"),
        ("SGD", "SGD in two groups", "groups = 1, not 2"),
        ("SGD in two groups", "SGD, groups otherwise", "parameters = 2, not 3"),
    ],
)
def test_a_run_goes_on_with_the_optimizer_that_it_had(tmp_path, first, then, words):
    run(learner(), out=tmp_path / "run", optimizer=MADE[first], steps=4)
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    with pytest.raises(CourseError, match=f"of another run: its optimizer has {words}") as raised:
        run(learner(), out=tmp_path / "run", optimizer=MADE[then], steps=4, resume=True)
    assert "\n" not in str(raised.value)
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before
    assert len(run(learner(), out=tmp_path / "run", optimizer=MADE[first], steps=4, resume=True).losses) == 4


def test_a_checkpoint_that_does_not_tell_its_optimizer_goes_on(half_way):
    tensors, about = files.load_tensors(half_way / "checkpoint.safetensors")
    assert about.pop("optimizer")["class"] == "Adam"
    files.save_tensors(half_way / "checkpoint.safetensors", tensors, about)
    assert len(run(learner(seed=1), out=half_way, resume=True).losses) == 8


# ------------------------------------------------------------------ metrics beside the first


def test_what_a_learner_measures_besides_is_named(tmp_path, capsys):
    model = learner("imaml", inner_steps=1)
    history = training.train(model, sampler(), steps=3, tasks=2, out=tmp_path / "run", rate=1e-3)
    assert 0 <= history.others["indefinite"] <= 1
    assert "indefinite=" in capsys.readouterr().out
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert sum(entry["indefinite"] for entry in entries) / 3 == pytest.approx(history.others["indefinite"])
    assert run(learner(), steps=2).others == {}


# ------------------------------------------------------------------ before the first step, and after a stop


def test_a_run_does_not_go_on_with_other_pictures_or_tasks(tmp_path):
    others = {
        "shot = 1, not 2": EpisodeSampler(squares(), 4, 2, 2),
        "content = ": EpisodeSampler(squares(split="val"), 4, 1, 2),
    }
    first = EpisodeSampler(squares(), 4, 1, 2)
    training.train(learner(), first, steps=2, tasks=2, out=tmp_path / "own", progress=False)
    for words, source in others.items():
        with pytest.raises(CourseError, match=f"is of another run: its settings have source {words}"):
            training.train(learner(), source, steps=2, tasks=2, out=tmp_path / "own", progress=False, resume=True)
    about = files.load_tensors(tmp_path / "own" / "checkpoint.safetensors")
    about[1]["settings"].pop("source")  # as an earlier version wrote it
    files.save_tensors(tmp_path / "own" / "checkpoint.safetensors", *about)
    training.train(learner(), first, steps=2, tasks=2, out=tmp_path / "own", progress=False, resume=True)


@pytest.mark.parametrize("which", ["source", "validation"])
def test_tasks_of_more_classes_than_a_head_has_are_refused_before_the_first_step(which):
    model = learner("maml")
    sources = {"source": sampler(), "validation": sampler()} | {which: EpisodeSampler(squares(), 6, 1, 2)}
    model.outer_loss = None  # a step would fail otherwise
    with pytest.raises(CourseError, match="tasks have 6 classes, but MAML tells 4 apart at most; build it"):
        training.train(model, **sources, steps=2, tasks=2, progress=False)


def test_an_outer_loss_that_is_no_number_is_one_line():
    model = learner()
    for given, words in ((torch.ones(3, requires_grad=True), r"\(3,\)"), (1.0, "float")):
        model.outer_loss = lambda batch, given=given, **_: (given, {})
        with pytest.raises(CourseError, match=f"the outer loss of PrototypicalNetwork is {words}; give one number"):
            run(model, steps=1)


def test_what_a_learner_doubts_is_said_once_in_a_training():
    """With batch normalisation φ is no minimum: what implicit MAML takes for its meta-gradient is none."""
    with pytest.warns(CourseWarning, match="step 1: in 100 % of the tasks φ is no minimum.*; add damping") as heard:
        run(learner("imaml", inner_steps=1, strength=1e-3, inner_rate=1e-4, iterations=20), steps=3)
    assert len([one for one in heard if issubclass(one.category, CourseWarning)]) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"optimizer": lambda p, rate: torch.optim.SGD(learner().parameters(), lr=rate)},
            "has no parameter of the lea",
        ),
        ({"validation": 3}, "validation is a int; give a source of episodes"),
        ({"out": "run", "settings": {"why": {1, 2}}}, "the setting why is a set; give numbers, text or lists"),
    ],
)
def test_what_would_fail_or_learn_nothing_is_refused_before_the_first_step(changes, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CourseError, match=words):
        run(learner(), **changes)
    assert not (tmp_path / "run").exists()


def test_data_in_place_of_a_source_are_named():
    with pytest.raises(CourseError, match=r"a ClassImages gives no tasks; give a source, such as EpisodeSampler"):
        training.train(learner(), squares(), steps=1, tasks=1, progress=False)
    with pytest.raises(CourseError, match=r"a ClassImages gives no episodes; give a source"):
        evaluate(learner(), squares(), episodes=1)


def test_a_run_does_not_go_on_with_another_validation(tmp_path):
    def go(validation, **more):
        how = {"steps": 4, "tasks": 2, "validate_every": 2, "validation_episodes": 4, "progress": False, "rate": 1e-3}
        return training.train(learner(), sampler(), validation=validation, out=tmp_path / "own", **how, **more)

    go(EpisodeSampler(squares(split="val"), 2, 5, 3))
    with pytest.raises(CourseError, match="is of another run: its settings have validation_source shot = 5, not 1"):
        go(EpisodeSampler(squares(split="val"), 4, 1, 3), resume=True)


def test_a_run_does_not_go_on_with_another_learned_optimizer(tmp_path):
    def go(rule, **more):
        def optimizer(params, rate):
            return learned_optimizers.LearnedOptimizer(params, rule)

        return run(learner(), out=tmp_path / "own", optimizer=optimizer, **more)

    go(learned_optimizers.SGD(0.01))
    for other in (learned_optimizers.SGD(0.02), learned_optimizers.Adam(0.01)):
        with pytest.raises(CourseError, match="is of another run: its optimizer has rule"):
            go(other, resume=True)


@pytest.mark.parametrize("name", ["learner.safetensors", "checkpoint.previous.safetensors"])
def test_weights_that_lie_alone_are_not_overwritten(tmp_path, name):
    run(learner(), out=tmp_path / "run")
    (tmp_path / "lone").mkdir()
    shutil.copy(tmp_path / "run" / "learner.safetensors", tmp_path / "lone" / name)
    before = (tmp_path / "lone" / name).read_bytes()
    with pytest.raises(CourseError, match=f"already holds a run \\({name}\\)"):
        run(learner(), out=tmp_path / "lone")
    if name == "learner.safetensors":
        with pytest.raises(CourseError, match=r"holds a learner but no checkpoint\.safetensors"):
            run(learner(), out=tmp_path / "lone", resume=True)
    assert (tmp_path / "lone" / name).read_bytes() == before


def test_an_optimizer_that_computes_its_loss_again_is_one_line(tmp_path):
    with pytest.raises(CourseError, match="LBFGS computes the loss several times per step"):
        run(learner(), out=tmp_path / "run", optimizer=lambda p, rate: torch.optim.LBFGS(p, lr=rate))
    assert not (tmp_path / "run").exists()


def test_a_file_is_no_folder_for_a_run(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CourseError, match=r"out is .*notes.txt, a file; name a folder"):
        run(learner(), out=tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
