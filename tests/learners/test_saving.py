"""Learners of one's own in files, refusals before the first step, and runs whose files are damaged."""

import copy
import functools
import importlib
import inspect
import json
import math
import shutil
import subprocess
import sys
import types
import warnings

import pytest
import safetensors.torch
import torch
from core_helpers import squares
from torch import nn

import mlcourse
from mlcourse import files, learners, training
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError, CourseWarning
from mlcourse.evaluation import evaluate
from mlcourse.learners import CHECKPOINT, CONFIG, PREVIOUS, WEIGHTS
from mlcourse.learners.base import Frozen
from mlcourse.learners.building import made_from
from mlcourse.networks import Conv4

OWN = """
import torch
from torch import nn
from mlcourse.learners import Learner, PrototypicalNetwork
from mlcourse.learners.base import Frozen
from mlcourse.learners.building import made_from
from mlcourse.networks import Conv4, Recorded

CALLS = []

class Net(Recorded):
    normalisation = "none"

    def __init__(self, width=8, *widths, names=("a", "b"), **rest):
        super().__init__()
        self.given = width, widths, names, rest
        self.layer = nn.Linear(256, width)

    def forward(self, x):
        return self.layer(x.flatten(1))


class Mine(PrototypicalNetwork):
    def __init__(self, network, factor=1.5, activation=torch.tanh, *, labels=None):
        super().__init__(network)
        self.factor, self.activation, self.labels = factor, activation, labels
        self.shift = nn.Parameter(torch.zeros(()))

    def compare(self, state, z):
        return self.factor * super().compare(state, z) + self.shift


class Student(Mine):
    def __init__(self, network, teacher, factor=1.0):
        super().__init__(network, factor)
        self.teacher = Frozen(teacher) if isinstance(teacher, Learner) else teacher


class Acting(Net):
    def __init__(self, leaky=False):
        super().__init__()
        self.act = nn.LeakyReLU(0.2) if leaky else nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


class Normed(Net):
    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.layer)


class Twice(Net):
    def __init__(self, tied=False):
        super().__init__()
        self.two = nn.Linear(256, 8)
        if tied:
            self.two.weight = self.layer.weight

    def forward(self, x):
        return self.layer(x.flatten(1)) + self.two(x.flatten(1))


def thrice(layer, given, made):
    return 3 * made


class Hooked(Net):
    def __init__(self):
        super().__init__()
        self.handle = self.layer.register_forward_hook(thrice)


class Projected(Net):
    def __init__(self, persistent=None, fixed=False):
        super().__init__()
        shift = torch.ones(8) if fixed else torch.randn(8)
        if persistent is None:
            self.shift = shift
        else:
            self.register_buffer("shift", shift, persistent=persistent)

    def forward(self, x):
        return super().forward(x) * self.shift


class Normed(Net):
    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.layer)


class Boxed(Net):
    def __init__(self, box):
        super().__init__()
        one = torch.randn(8)
        boxes = {"list": [one], "dict": {"deep": ({"one": one},)}, "array": one.numpy(), "own": [self.layer.weight]}
        self.kept = boxes[box]


class Cooling(Mine):
    def outer_process(self, batch, **more):
        self.factor = 0.9 * self.factor
        return super().outer_process(batch, **more)


class Plain(nn.Module):
    normalisation = "none"

    def forward(self, x):
        return x.flatten(1)


class Loud:
    def __init__(self, **arguments):
        CALLS.append(arguments)


def loud(**arguments):
    CALLS.append(arguments)


class Outer:
    class Inner(Mine):
        pass


def inside():
    class Local(Mine):
        pass
    return Local
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of one's own, as a file that can be imported."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "own_learner.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "own_learner", raising=False)
    yield importlib.import_module("own_learner")
    sys.modules.pop("own_learner", None)


def source(way=4):
    return EpisodeSampler(squares(), way, 1, 3)


def train(learner, **more):
    settings = {"steps": 6, "tasks": 2, "validation": source(), "validate_every": 2, "validation_episodes": 4}
    return training.train(learner, source(), progress=False, **settings | more)


def answers(learner):
    return evaluate(learner, source(), episodes=8).per_episode


# ------------------------------------------------------------------ learners of one's own


@pytest.mark.parametrize(
    "make",
    [
        lambda own: own.Mine(own.Net(8)),
        lambda own: own.Mine(
            own.Net(8, 3, 4, names=("x",), colour="red", deep={"tuple": [1]}), 2, labels=[1, None, "c"]
        ),
        lambda own: own.Mine(network=Conv4(size=16, channels=4, normalisation="running"), factor=0.5),
        lambda own: own.Student(own.Net(8), learners.build("prototypical", way=4, size=16, channels=4, seed=3)),
        lambda own: own.Student(own.Net(8), Frozen(own.Mine(own.Net(4)))),
        lambda own: own.Outer.Inner(own.Net(8)),
        lambda own: learners.MAML(Conv4(size=16, channels=4, out=4, downsample="stride"), inner_steps=1),
    ],
)
def test_a_learner_of_ones_own_trains_saves_and_loads(own, make, tmp_path):
    learner = make(own)
    train(learner, out=tmp_path / "run", settings={"why": "test"})
    config = files.read_json(tmp_path / "run" / CONFIG)
    assert config["learner"]["class"] == f"{type(learner).__module__}:{type(learner).__qualname__}"
    loaded = mlcourse.load(tmp_path / "run")
    assert type(loaded) is type(learner)
    assert loaded.recorded() == learner.recorded()
    assert torch.equal(answers(loaded), answers(learner))
    for name in ("factor", "labels"):
        assert getattr(loaded, name, 0) == getattr(learner, name, 0)
    if hasattr(learner.network, "given"):
        assert loaded.network.given == learner.network.given
    before = (tmp_path / "run" / "log.jsonl").read_text()
    again = train(make(own), out=tmp_path / "run", settings={"why": "test"}, resume=True)
    assert len(again.losses) == 6
    assert (tmp_path / "run" / "log.jsonl").read_text() == before


def test_a_learner_of_ones_own_is_loaded_and_evaluated_in_another_process(own, tmp_path):
    learner = own.Mine(own.Net(8))
    learners.save(learner, tmp_path / "run")
    code = f"import mlcourse; print(mlcourse.load({str(tmp_path / 'run')!r}).factor)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "code", capture_output=True, text=True)
    assert done.stdout.strip() == "1.5", done.stderr
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "the module 'own_learner' of own_learner:Mine cannot be imported" in done.stderr
    assert "PYTHONPATH" in done.stderr


def test_arguments_are_those_at_the_start_and_defaults_are_kept(own):
    labels = [1, 2]
    learner = own.Mine(own.Net(8), labels=labels)
    labels.append(3)
    assert learner.recorded()["arguments"] == {
        "network": {"module": {"class": "own_learner:Net", "arguments": {"width": 8, "names": {"tuple": ["a", "b"]}}}},
        "factor": 1.5,
        "labels": [1, 2],
    }
    learner.recorded()["arguments"]["labels"].append(4)
    assert learner.recorded()["arguments"]["labels"] == [1, 2]


def test_the_signature_is_that_of_the_constructor():
    assert list(inspect.signature(learners.MAML).parameters)[:2] == ["network", "inner_steps"]
    assert next(iter(inspect.signature(Conv4).parameters)) == "in_channels"
    assert not inspect.signature(learners.PixelNeighbours).parameters
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        Conv4(colour="red")


REFUSED = {
    "stands in the notebook or the script that runs": lambda own: type("Mine", (own.Mine,), {"__module__": "__main__"})(
        own.Net()
    ),
    "class Local stands inside a function": lambda own: own.inside()(own.Net()),
    "network of Mine is a network of the class Plain, .* derive that class from .*Recorded": lambda own: own.Mine(
        own.Plain()
    ),
    "activation of Mine is of type .*plain values only": lambda own: own.Mine(own.Net(), activation=torch.relu),
    "labels of Mine is of type Tensor": lambda own: own.Mine(own.Net(), labels=torch.ones(2)),
    "labels of Mine is of type dict": lambda own: own.Mine(own.Net(), labels={1: 2}),
    "network of Mine is a network of the class Sequential": lambda own: own.Mine(Sequence()),
    "teacher of Student is a network of the class Plain": lambda own: own.Student(own.Net(), own.Plain()),
    "was changed after it was made: added": lambda own: changed(own.Mine(own.Net())),
    "was changed after it was made: network.layer.weight": lambda own: widened(own.Mine(own.Net())),
    "no learner, so it could not be loaded": lambda own: Pretends(),
}


class Sequence(nn.Sequential):
    normalisation = "none"


Sequence.__name__ = "Sequential"


class Pretends(nn.Module):
    """Has what training asks for, and is no learner."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def outer_loss(self, batch, **_):
        return self.w.square(), {}


def changed(learner):
    learner.added = nn.Parameter(torch.zeros(2))
    return learner


def widened(learner):
    learner.network.layer = nn.Linear(256, 9)
    return learner


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_saved_is_refused_before_the_first_step(own, message, tmp_path):
    learner = REFUSED[message](own)
    learner.outer_loss = None  # a step would fail otherwise
    with pytest.raises(CourseError, match=message) as raised:
        train(learner, out=tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_saved_still_trains_without_a_folder(own):
    assert len(train(own.inside()(own.Net())).losses) == 6


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("own_learner:Loud", "own_learner:Loud is no Learner that remembers its arguments; it is not called"),
        ("own_learner:loud", "own_learner:loud is no Learner"),
        ("own_learner:Net", "own_learner:Net is no Learner"),
        ("own_learner:Nowhere", "the module 'own_learner' has no 'Nowhere'"),
        ("own_learner", "the module 'own_learner' has no ''"),
        ("no_such_module:Mine", "the module 'no_such_module' of no_such_module:Mine cannot be imported"),
        ("os:system", "os:system is no Learner"),
        ("builtins:exec", "builtins:exec is no Learner"),
        ("mlcourse.networks:Recorded", "is no Learner"),
        ("", "cannot be imported"),
        (None, "cannot be imported"),
        (7, "cannot be imported"),
    ],
)
def test_a_wrong_class_is_refused_before_it_is_called(own, place, message, tmp_path):
    learners.save(own.Mine(own.Net()), tmp_path / "run")
    config = files.read_json(tmp_path / "run" / CONFIG)
    for wrong in (
        config | {"learner": {"class": place, "arguments": {}}},
        config | {"learner": {"class": place, "arguments": {"argument": "rm"}}},
    ):
        files.write_json(tmp_path / "run" / CONFIG, wrong)
        with pytest.raises(CourseError, match=message):
            mlcourse.load(tmp_path / "run")
    inside = config["learner"]["arguments"] | {"network": {"module": {"class": "own_learner:Loud", "arguments": {}}}}
    files.write_json(tmp_path / "run" / CONFIG, {"learner": config["learner"] | {"arguments": inside}})
    with pytest.raises(CourseError, match="own_learner:Loud is no Module"):
        mlcourse.load(tmp_path / "run")
    assert own.CALLS == []


def test_arguments_that_the_class_no_longer_takes_are_named(own, tmp_path):
    learners.save(own.Mine(own.Net()), tmp_path / "run")
    config = files.read_json(tmp_path / "run" / CONFIG)
    for arguments, message in (
        (config["learner"]["arguments"] | {"colour": 1}, "has no argument 'colour'; it has network, factor"),
        ({}, "cannot be made again: TypeError"),
        ("text", "describes no learner"),
    ):
        files.write_json(tmp_path / "run" / CONFIG, {"learner": config["learner"] | {"arguments": arguments}})
        with pytest.raises(CourseError, match=message):
            mlcourse.load(tmp_path / "run")


def test_a_learner_comes_back_in_its_number_format(tmp_path):
    learner = learners.build("prototypical", way=4, size=16, channels=4, seed=0).double()
    learners.save(learner, tmp_path)
    loaded = mlcourse.load(tmp_path)
    assert torch.equal(loaded.network.blocks[0].conv.weight, learner.network.blocks[0].conv.weight)
    assert loaded.network.blocks[0].conv.weight.dtype == torch.float64


# ------------------------------------------------------------------ random states


def test_build_with_a_seed_and_load_leave_all_generators_alone(tmp_path, monkeypatch):
    learners.save(learners.build("prototypical", way=4, size=16, channels=4), tmp_path)
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)  # what torch.manual_seed does to GPUs
    torch.default_generator.manual_seed(3)
    before = torch.get_rng_state()
    learners.build("incontext", way=4, size=16, seed=7, channels=4)
    mlcourse.load(tmp_path)
    learners.check_saving(learners.build("maml", way=4, size=16, seed=1, channels=4))
    assert torch.equal(torch.get_rng_state(), before)
    assert seeded == []
    learners.build("prototypical", way=4, size=16, channels=4)
    assert not torch.equal(torch.get_rng_state(), before), "without a seed weights are drawn from the global generator"


# ------------------------------------------------------------------ damaged runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    learner = learners.build("prototypical", way=4, size=16, channels=4, seed=0)
    train(learner, out=out, settings={"dataset": "squares", "way": 4})
    return out


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path):
    whole = bytearray(path.read_bytes())
    whole[: len(whole) // 3] = b"\xff" * (len(whole) // 3)
    path.write_bytes(whole)


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "overwritten": overwritten,
    "not UTF-8": lambda path: path.write_bytes(b"\xe9" + path.read_bytes()),
    "HTML": lambda path: path.write_text("<html></html>"),
    "another kind of JSON": lambda path: path.write_text("[1, 2]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("names", [(CONFIG,), (WEIGHTS,), (CONFIG, WEIGHTS), (CONFIG, WEIGHTS, CHECKPOINT)])
def test_nothing_learnt_is_out_of_reach(finished, names, damage, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in names:
        DAMAGES[damage](folder / name)
    with pytest.warns(CourseWarning) as told:
        learner, about = learners.load_run(folder)
    assert len(told) == 1
    where = PREVIOUS if CHECKPOINT in names else CHECKPOINT
    assert f"{where} stands in for it, with step" in str(told[0].message)
    assert (about["dataset"], about["way"]) == ("squares", 4)
    if where == CHECKPOINT:
        assert torch.equal(answers(learner), answers(mlcourse.load(finished)))


def test_without_checkpoints_the_weights_tell_what_they_are(finished, tmp_path):
    for damage in ("missing", "not UTF-8"):
        folder = tmp_path / damage
        shutil.copytree(finished, folder)
        for name in (CHECKPOINT, PREVIOUS):
            (folder / name).unlink()
        DAMAGES[damage](folder / CONFIG)
        with pytest.warns(CourseWarning, match=r"learner\.safetensors stands in for it, with step 6"):
            learner, about = learners.load_run(folder)
        assert torch.equal(answers(learner), answers(mlcourse.load(finished)))
        assert about["dataset"] == "squares"


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_nothing_can_be_read_there_is_one_clear_error(finished, damage, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in (WEIGHTS, CHECKPOINT, PREVIOUS):
        DAMAGES[damage](folder / name)
    with pytest.raises(CourseError, match=r"run/learner\.safetensors") as raised:
        mlcourse.load(folder)
    assert "\n" not in str(raised.value)
    DAMAGES[damage](folder / CONFIG)
    with pytest.raises(CourseError, match=r"config\.json"):
        mlcourse.load(folder)


def test_a_run_that_was_killed_is_loaded_from_its_checkpoint(tmp_path, monkeypatch):
    learner = learners.build("prototypical", way=4, size=16, channels=4, seed=0)
    steps = iter(range(100))
    whole = learner.outer_loss

    def killed(_, *arguments, **more):
        if next(steps) == 5:
            raise SystemExit("killed")
        return whole(*arguments, **more)

    monkeypatch.setattr(type(learner), "outer_loss", killed)
    with pytest.raises(SystemExit):
        train(learner, out=tmp_path / "run")
    assert not (tmp_path / "run" / CONFIG).exists()
    with pytest.warns(CourseWarning, match=rf"holds no {CONFIG}.*{CHECKPOINT} stands in for it, with step"):
        mlcourse.load(tmp_path / "run")


def test_a_checkpoint_of_an_older_version_is_read(finished, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    tensors, about = files.load_tensors(finished / CHECKPOINT)
    old = {name: about[name] for name in ("step", "learner", "settings")}
    files.save_tensors(folder / CHECKPOINT, {n: v for n, v in tensors.items() if not n.startswith("best/")}, old)
    with pytest.warns(CourseWarning, match="with step 6"):
        mlcourse.load(folder)
    files.save_tensors(folder / CHECKPOINT, tensors, {"step": 6})
    with pytest.raises(CourseError, match=r"checkpoint\.safetensors describes no learner"):
        mlcourse.load(folder)


def test_a_run_that_was_interrupted_and_went_on_gives_its_newest_step(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    about = files.read_json(folder / CONFIG)
    old = learners.build("prototypical", way=4, size=16, channels=4, seed=9)
    learners.save(old, folder, **{k: v for k, v in about.items() if k != "learner"} | {"finished": False})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner, about = learners.load_run(folder)
    assert torch.equal(answers(learner), answers(mlcourse.load(finished)))
    (folder / CHECKPOINT).unlink()
    assert torch.equal(answers(mlcourse.load(folder)), answers(old))


def test_files_of_two_learners_are_not_mixed(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    learners.save(learners.build("maml", way=4, size=16, channels=4), tmp_path / "maml")
    shutil.copy(tmp_path / "maml" / WEIGHTS, folder / WEIGHTS)
    for name in (CHECKPOINT, PREVIOUS):
        (folder / name).unlink()
    with pytest.raises(CourseError, match="belongs to another learner"):
        mlcourse.load(folder)


def test_weights_of_another_run_are_refused(finished, tmp_path):
    """The same method and shape: the files fit each other, and tell that they are of two runs."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    about = files.read_json(folder / CONFIG)
    other = learners.build("prototypical", way=4, size=16, channels=4, seed=9)
    learners.save(other, tmp_path / "other", **{k: v for k, v in about.items() if k != "learner"} | {"seed": 9})
    shutil.copy(tmp_path / "other" / WEIGHTS, folder / WEIGHTS)
    with pytest.warns(CourseWarning, match=r"learner.safetensors is of another run.*checkpoint.safetensors stands in"):
        assert torch.equal(answers(mlcourse.load(folder)), answers(mlcourse.load(finished)))
    for name in (CHECKPOINT, PREVIOUS):
        (folder / name).unlink()
    with pytest.raises(
        CourseError, match=r"another run than its config.json: seed is 9, and 0 in.*or delete"
    ) as raised:
        mlcourse.load(folder)
    assert "\n" not in str(raised.value)
    (folder / CONFIG).unlink()
    with pytest.warns(CourseWarning, match="stands in for it"):
        assert torch.equal(answers(mlcourse.load(folder)), answers(other))


def test_files_from_before_classes_were_written_load(tmp_path):
    learner = learners.build("r2d2", way=4, size=16, channels=4, seed=0)
    files.save_tensors(tmp_path / WEIGHTS, learner.state_dict(), {"method": "r2d2"})
    files.write_json(tmp_path / CONFIG, {"learner": learner.config, "validation_accuracy": 0.5})
    assert torch.equal(answers(mlcourse.load(tmp_path)), answers(learner))


# ------------------------------------------------------------------ files of earlier versions


NAMES_OF_BEFORE = {"inner_steps": "steps", "evaluation_inner_steps": "evaluation_steps"}


def as_before(value):
    """What a file of before `inner_steps` says in place of this."""
    if isinstance(value, list):
        return [as_before(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {NAMES_OF_BEFORE.get(name, name): as_before(one) for name, one in value.items()}


FROM_BEFORE = {
    "a method": lambda own: learners.build(
        "maml", way=4, size=16, channels=4, seed=0, inner_steps=3, evaluation_inner_steps=2
    ),
    "reptile": lambda own: learners.build("reptile", way=4, size=16, channels=4, seed=0, inner_steps=3),
    "a class": lambda own: learners.ImplicitMAML(
        Conv4(size=16, channels=4, out=4, downsample="stride"), inner_steps=3, evaluation_inner_steps=2
    ),
    "a baseline": lambda own: learners.FineTune(Conv4(size=16, channels=4, normalisation="group"), inner_steps=3),
    "a teacher inside": lambda own: own.Student(
        own.Net(8), learners.build("maml", way=4, size=16, channels=4, seed=0, inner_steps=3)
    ),
    "a class inside": lambda own: own.Student(
        own.Net(8), learners.FineTune(Conv4(size=16, channels=4, normalisation="group"), inner_steps=3)
    ),
}


@pytest.mark.parametrize("which", FROM_BEFORE)
def test_a_learner_saved_before_inner_steps_had_their_name_loads(own, which, tmp_path):
    learner = FROM_BEFORE[which](own)
    learners.save(learner, tmp_path)
    tensors, about = files.load_tensors(tmp_path / WEIGHTS)
    assert "inner_steps" in str(about)
    assert "inner_steps" not in str(as_before(about))
    files.save_tensors(tmp_path / WEIGHTS, tensors, as_before(about))
    files.write_json(tmp_path / CONFIG, as_before(files.read_json(tmp_path / CONFIG)))
    loaded = mlcourse.load(tmp_path)
    assert loaded.recorded() == learner.recorded()
    assert torch.equal(answers(loaded), answers(learner))
    (tmp_path / CONFIG).unlink()
    with pytest.warns(CourseWarning, match="stands in for it"):
        assert mlcourse.load(tmp_path).recorded() == learner.recorded()


@pytest.mark.parametrize("which", ["a method", "a class", "a teacher inside"])
def test_a_run_from_before_inner_steps_had_their_name_goes_on(own, which, tmp_path):
    train(FROM_BEFORE[which](own), out=tmp_path / "run")
    tensors, about = files.load_tensors(tmp_path / "run" / CHECKPOINT)
    about["learner"] = as_before(about["learner"])
    files.save_tensors(tmp_path / "run" / CHECKPOINT, tensors, about)
    assert len(train(FROM_BEFORE[which](own), out=tmp_path / "run", resume=True).losses) == 6


def test_a_learner_of_ones_own_may_call_its_steps_as_it_likes(own):
    config = {"class": "own_learner:Mine", "arguments": {"network": {"module": own.Net(8).recorded()}, "steps": 3}}
    with pytest.raises(CourseError, match="has no argument 'steps'; it has network, factor"):
        made_from(config)


# ------------------------------------------------------------------ changed after it was made


def replaced_module(learner):
    learner.network.act = nn.Tanh()


def other_function(learner):
    learner.u.activation = torch.tanh


CHANGED = {
    "evaluation_inner_steps is 20, made again from its arguments 3": (
        lambda own: learners.build("maml", way=4, size=16, channels=4, seed=0, evaluation_inner_steps=3),
        lambda learner: setattr(learner, "evaluation_inner_steps", 20),
    ),
    "inner_rate is 0.1, made again from its arguments 0.4": (
        lambda own: learners.MAML(Conv4(size=16, channels=4, out=4, downsample="stride")),
        lambda learner: setattr(learner, "inner_rate", 0.1),
    ),
    "first_order is True": (
        lambda own: learners.build("maml", way=4, size=16, channels=4),
        lambda learner: setattr(learner, "first_order", True),
    ),
    "factor is 2, made again from its arguments 1.5": (
        lambda own: own.Mine(own.Net()),
        lambda learner: setattr(learner, "factor", 2),
    ),
    "factor is nan": (lambda own: own.Mine(own.Net()), lambda learner: setattr(learner, "factor", float("nan"))),
    "labels is .1, 3., made again from its arguments .1, 2.": (
        lambda own: own.Mine(own.Net(), labels=[1, 2]),
        lambda learner: learner.labels.__setitem__(1, 3),
    ),
    "network.act is Tanh, made again from its arguments ReLU": (lambda own: own.Mine(own.Acting()), replaced_module),
    "network.act.negative_slope is 0.5": (
        lambda own: own.Mine(own.Acting(leaky=True)),
        lambda learner: setattr(learner.network.act, "negative_slope", 0.5),
    ),
    "network.drop is Dropout, made again from its arguments nothing": (
        lambda own: own.Mine(own.Net()),
        lambda learner: learner.network.add_module("drop", nn.Dropout()),
    ),
    "u.activation is tanh, made again from its arguments relu": (
        lambda own: learners.build("metanet", way=4, size=16, channels=4),
        other_function,
    ),
    "it got its own predict, which no file keeps; define it in a class": (
        lambda own: own.Mine(own.Net()),
        lambda learner: setattr(learner, "predict", lambda state, x: x),
    ),
    "it got its own encode, which": (
        lambda own: own.Mine(own.Net()),
        lambda learner: setattr(learner, "encode", lambda x: 2 * x.flatten(2)),
    ),
    "it got its own score, which": (
        lambda own: own.Mine(own.Net()),
        lambda learner: setattr(learner, "score", types.MethodType(lambda self, prediction, batch: {}, learner)),
    ),
    "it got its own loss, which": (
        lambda own: learners.build("maml", way=4, size=16, channels=4),
        lambda learner: setattr(learner, "loss", functools.partial(torch.nn.functional.cross_entropy)),
    ),
    "it got its own network.forward, which": (
        lambda own: own.Mine(own.Net()),
        lambda learner: setattr(learner.network, "forward", lambda x: x.flatten(1)),
    ),
    "normalisation is 'group', made again from its arguments 'none'": (
        lambda own: own.Mine(own.Net()),
        lambda learner: setattr(learner, "normalisation", "group"),
    ),
    "metric is .*error.*, made again from its arguments .*accuracy": (
        lambda own: own.Mine(own.Net()),
        lambda learner: setattr(learner, "metric", ("error", -1)),
    ),
    "shares_body is True": (
        lambda own: learners.build("maml", way=4, size=16, channels=4),
        lambda learner: setattr(learner, "shares_body", True),
    ),
    "network.layer.forward_hooks are hooked, made again from its arguments none, and no file keeps hooks": (
        lambda own: own.Mine(own.Net()),
        lambda learner: learner.network.layer.register_forward_hook(hooked),
    ),
    "network.forward_pre_hooks are hooked": (
        lambda own: own.Mine(own.Net()),
        lambda learner: learner.network.register_forward_pre_hook(hooked),
    ),
    "backward_hooks are hooked": (
        lambda own: own.Mine(own.Net()),
        lambda learner: learner.register_full_backward_hook(hooked),
    ),
    "network.layer.weight.backward_hooks are hooked": (
        lambda own: own.Mine(own.Net()),
        lambda learner: learner.network.layer.weight.register_hook(hooked),
    ),
    "network.two.weight shares its numbers with network.layer.weight, made again from its arguments with none": (
        lambda own: own.Mine(own.Twice()),
        lambda learner: setattr(learner.network.two, "weight", learner.network.layer.weight),
    ),
    "network.two.weight shares its numbers with none, made again from its arguments with network.layer.weight": (
        lambda own: own.Mine(own.Twice(tied=True)),
        lambda learner: setattr(learner.network.two, "weight", nn.Parameter(torch.rand(8, 256))),
    ),
    "teacher.learner.inner_rate is 0.7": (
        lambda own: own.Student(own.Net(8), learners.build("maml", way=4, size=16, channels=4)),
        lambda learner: setattr(learner.teacher.learner, "inner_rate", 0.7),
    ),
}


def hooked(*_):
    """A hook that changes nothing."""


@pytest.mark.parametrize("message", CHANGED)
def test_a_learner_that_was_changed_is_not_saved_as_it_was(own, message, tmp_path):
    make, change = CHANGED[message]
    learner = make(own)
    learners.save(learner, tmp_path / "before")
    change(learner)
    for attempt in (lambda: learners.save(learner, tmp_path / "run"), lambda: train(learner, out=tmp_path / "run")):
        with pytest.raises(CourseError, match=f"was changed after it was made: {message}") as raised:
            attempt()
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "run").exists()


def test_hooks_that_a_learner_makes_itself_come_back(own, tmp_path):
    learner = own.Mine(own.Hooked())
    train(learner, out=tmp_path / "run")
    assert torch.equal(answers(mlcourse.load(tmp_path / "run")), answers(learner))
    learner.network.handle.remove()
    with pytest.raises(CourseError, match="forward_hooks are none, made again from its arguments thrice"):
        learners.save(learner, tmp_path / "other")


@pytest.mark.parametrize("persistent", [None, False])
def test_numbers_outside_of_the_state_are_refused_where_they_would_be_others(own, persistent, tmp_path):
    """A random projection that is no buffer: every learner that is made again has another one."""
    with pytest.raises(CourseError, match=r"network.shift holds numbers that no file keeps.*register_buffer"):
        train(own.Mine(own.Projected(persistent=persistent)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    learners.save(own.Mine(own.Projected(persistent=persistent, fixed=True)).double(), tmp_path / "fixed")
    learner = own.Mine(own.Projected(persistent=True))
    train(learner, out=tmp_path / "run")
    assert torch.equal(answers(mlcourse.load(tmp_path / "run")), answers(learner))


@pytest.mark.parametrize("box", ["list", "dict", "array"])
def test_numbers_in_boxes_are_refused_as_well(own, box, tmp_path):
    with pytest.raises(CourseError, match=r"network.kept\S* holds numbers that no file keeps"):
        train(own.Mine(own.Boxed(box)), out=tmp_path / "run")
    learners.save(own.Mine(own.Boxed("own")), tmp_path / "own")  # a parameter in a list is kept by its layer


def test_what_a_step_changes_is_told_after_one_step(own, tmp_path):
    """Not after all of them; and no checkpoint of it exists, which `resume` would take for the learner."""
    learner = own.Cooling(own.Net())
    with pytest.raises(CourseError, match=r"factor is 1\.35, made again from its arguments 1\.5"):
        train(learner, steps=500, out=tmp_path / "run")
    assert not (tmp_path / "run" / CHECKPOINT).exists()


def test_a_compiled_learner_is_told_how_to_be_compiled(own, tmp_path):
    with pytest.raises(CourseError, match=r"torch.compile\(Mine\) has other names; call learner.compile\(\)"):
        learners.save(torch.compile(own.Mine(own.Net())), tmp_path / "run")


def test_a_copy_with_weight_normalisation_is_saved(own, tmp_path):
    """copy.deepcopy takes their names from the hooks of a parametrization."""

    learner = own.Mine(own.Normed())
    copied = copy.deepcopy(learner)
    learners.save(copied, tmp_path / "run")
    assert torch.equal(answers(mlcourse.load(tmp_path / "run")), answers(learner))


def test_parts_in_several_number_formats_come_back_in_theirs(tmp_path):
    learner = learners.build("prototypical", way=4, size=16, channels=4, seed=0)
    last = list(learner.network.parameters())[-1]
    last.data = last.data.double() + 1e-12
    learner.network.blocks[0].norm.layer.running_var.data = torch.full((4,), 1 + 1e-12, dtype=torch.float64)
    learners.save(learner, tmp_path)
    for (name, value), loaded in zip(learner.state_dict().items(), mlcourse.load(tmp_path).state_dict().values()):
        assert value.dtype == loaded.dtype, name
        assert torch.equal(value, loaded), name


def test_a_run_goes_on_in_its_number_format_only(tmp_path):
    learner = learners.build("prototypical", way=4, size=16, channels=4, seed=0).double()
    train(learner, out=tmp_path / "run")
    single = learners.build("prototypical", way=4, size=16, channels=4, seed=0)
    with pytest.raises(CourseError, match=r"in torch.float64, and the learner has torch.float32; call learner.to"):
        train(single, out=tmp_path / "run", resume=True)
    assert len(train(single.double(), out=tmp_path / "run", resume=True).losses) == 6


def test_what_does_not_change_the_answers_may_change(own, tmp_path):
    learner = own.Mine(own.Acting(), labels=[float("nan")])
    learner.count, learner.remark, learner.activation = 7, "seen", torch.tanh
    learner.train().double()
    learners.save(learner, tmp_path / "run")
    assert torch.equal(answers(mlcourse.load(tmp_path / "run")), answers(learner))
    normed = own.Mine(own.Normed())  # PyTorch makes a class anew for each such layer
    learners.save(normed, tmp_path / "normed")
    assert torch.equal(answers(mlcourse.load(tmp_path / "normed")), answers(normed))


# ------------------------------------------------------------------ checksums


def test_a_flipped_bit_is_found_wherever_it_is(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    for name in (CHECKPOINT, PREVIOUS):
        (folder / name).unlink()
    whole = (folder / WEIGHTS).read_bytes()
    generator = torch.Generator().manual_seed(0)
    head = 8 + int.from_bytes(whole[:8], "little")
    places = [head, len(whole) - 1, *torch.randint(head, len(whole), (20,), generator=generator).tolist()]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        (folder / WEIGHTS).write_bytes(damaged)
        with pytest.raises(CourseError, match=r"learner\.safetensors is damaged") as raised:
            mlcourse.load(folder)
        assert "\n" not in str(raised.value)
    for place in torch.randint(0, head, (60,), generator=generator).tolist():  # names, shapes, what is told
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (folder / WEIGHTS).write_bytes(damaged)
        try:
            loaded = mlcourse.load(folder)
        except CourseError:
            continue
        assert torch.equal(answers(loaded), answers(mlcourse.load(finished))), "only a remark was hit"


def test_a_checkpoint_with_a_flipped_bit_is_not_gone_on_from(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    damaged = bytearray((folder / CHECKPOINT).read_bytes())
    damaged[-100] ^= 4
    (folder / CHECKPOINT).write_bytes(damaged)
    (folder / CONFIG).unlink()
    with pytest.warns(CourseWarning, match=rf"holds no {CONFIG}.*{PREVIOUS} stands in for it"):
        mlcourse.load(folder)


def test_files_without_a_checksum_load(finished, tmp_path):
    tensors, about = files.load_tensors(finished / WEIGHTS)
    assert files.CHECKSUM not in about
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(finished / CONFIG, folder / CONFIG)
    safetensors.torch.save_file(tensors, folder / WEIGHTS, metadata={"json": json.dumps(about)})
    assert torch.equal(answers(mlcourse.load(folder)), answers(mlcourse.load(finished)))


def test_a_checksum_is_of_any_tensors_and_any_remarks(tmp_path):
    tensors = {
        "empty": torch.zeros(0, 3), "scalar": torch.tensor(1.5), "bool": torch.tensor([True]),
        "half": torch.ones(3, dtype=torch.bfloat16), "turned": torch.rand(3, 4).t(), "int": torch.arange(5),
    }  # fmt: skip
    about = {"tuple": (1, 2), "number": {1: math.pi, 10: None, 2: math.inf}, "name": "caf\udce9"}
    files.save_tensors(tmp_path / "a.safetensors", tensors, about)
    loaded, told = files.load_tensors(tmp_path / "a.safetensors")
    assert (told["tuple"], told["number"]["2"], told["name"]) == ([1, 2], math.inf, "caf\udce9")
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())


def test_a_folder_without_a_name_is_not_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learner = learners.build("prototypical", way=4, size=16, channels=4)
    learners.save(learner, tmp_path)
    for attempt in (lambda: mlcourse.load(""), lambda: learners.save(learner, " "), lambda: train(learner, out="")):
        with pytest.raises(CourseError, match="is empty, which would mean the current folder; name a folder"):
            attempt()


def test_what_was_frozen_after_it_was_made_is_refused(tmp_path):
    learner = learners.build("maml", way=2, in_channels=1, size=8, channels=2, seed=0)
    next(learner.network.parameters()).requires_grad_(False)
    with pytest.raises(CourseError, match="is frozen, made again from its arguments it is trained"):
        learners.save(learner, tmp_path)


class WithALazyLayer(learners.PrototypicalNetwork):
    def __init__(self):
        super().__init__(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)))
        self.more = torch.nn.LazyLinear(2)


def test_a_layer_without_a_size_is_refused_in_one_line(tmp_path):
    learner = WithALazyLayer()
    learner.more(torch.rand(1, 3))  # here it gets its size; one that is made again has none
    with pytest.raises(CourseError, match="has no shape before the first pictures come"):
        learners.save(learner, tmp_path)


class Unmappable(learners.MAML):
    """Its network branches on numbers, which `vmap` does not take: the learner finds it out in its first step."""

    def __init__(self):
        super().__init__(Branching(), inner_steps=1)


class Branching(nn.Linear):
    def __init__(self):
        super().__init__(256, 4)

    def forward(self, x):
        z = super().forward(x.flatten(1))
        return z if z.sum() > 0 else 2 * z


def test_what_a_learner_finds_out_in_training_is_no_change(tmp_path):
    learner = Unmappable()
    train(learner, out=tmp_path / "run")
    assert not learner.mappable
    assert torch.equal(answers(mlcourse.load(tmp_path / "run")), answers(learner))
