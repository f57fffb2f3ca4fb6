"""What two processes do in tests/test_distributed.py; they import it by its name."""

import os
import signal
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from core_helpers import squares
from torch import distributed as dist

from mlcourse import datasets, learners, networks, training
from mlcourse.commands import app
from mlcourse.datasets import faces as drawn_faces
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.vision import detection, faces, segmentation

METHODS = [name for name, about in learners.METHODS.items() if about.learner.trains_on != "nothing"]
# (the name of the case, the method, its options, tasks of a step)
CASES = [
    *((method, method, {}, 4) for method in METHODS),
    ("three tasks", "prototypical", {}, 3),
    ("three tasks, in-context", "incontext", {}, 3),
    ("three tasks, MAML", "maml", {}, 3),
    ("one by one", "maml", {"one_by_one": True}, 3),
    ("running statistics below a head", "anil", {"normalisation": "running", "zero_head": True}, 3),
    ("other images in each inner step", "reptile", {"inner_batch": 2}, 3),
    ("second order through statistics", "metanet", {"second_order": True}, 3),
    ("another network", "prototypical", {"network": "resnet12"}, 4),
]


def built(method: str, options: dict):
    has = learners.options_of(method, options.get("network", "conv4"))
    small = {"channels": 4, "inner_steps": 2, "width": 8, "heads": 2}
    small = {name: value for name, value in small.items() if name in has}
    if learners.METHODS[method].learner.trains_on == "images":
        small["classes"] = 12
    return learners.build(method, way=3, size=16, seed=0, **small | options).double()


class OneByOne(learners.PrototypicalNetwork):
    """A learner of one's own that goes through its tasks one after another."""

    def outer_loss(self, batch, **settings):
        parts = [super(OneByOne, self).outer_loss(batch.some(slice(k, k + 1)), **settings) for k in range(batch.tasks)]
        return torch.stack([loss for loss, _ in parts]).mean(), parts[0][1]


class Masked(learners.PrototypicalNetwork):
    """A learner with a buffer that holds no finite numbers, and one that its first step makes."""

    def __init__(self, network):
        super().__init__(network)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def outer_loss(self, batch, **settings):
        if not hasattr(self, "seen"):
            self.register_buffer("seen", torch.zeros(()))
        self.seen += 1.0
        return super().outer_loss(batch, **settings)


def source_of(learner):
    if learner.trains_on == "images":
        return training.Images(squares())
    return EpisodeSampler(squares(), 3, 1, 2)


def trained(method: str, options: dict, tasks: int, **more) -> dict:
    learner = built(method, options)
    return two_steps(learner, source_of(learner), tasks, **more)


def of_vision() -> dict:
    """Learners of vision whose loss is a mean over tasks; without what training draws (changed faces, dropout)."""
    glyphs, people = datasets.load("glyphs", "train"), drawn_faces.load("train", size=(24, 20))
    scenes = segmentation.SceneTasks(glyphs, characters_per_scene=4)
    boxes = detection.tasks_for("matched-boxes", glyphs, characters_per_scene=4)
    cosface = faces.build("cosface", people, seed=0, augmentation=0.0, network={"dropout": 0.0})
    cases = {
        "unet": (segmentation.build("unet", seed=0), scenes, 4),
        "unet, three scenes": (segmentation.build("unet", seed=0), scenes, 3),
        "colour-groups": (segmentation.build("colour-groups", seed=0), scenes, 4),
        "matched-boxes": (detection.build("matched-boxes", seed=0), boxes, 4),
        "cosface": (cosface, faces.source(cosface, people, faces.recipe("cosface", "smoke")), 8),
    }
    return {name: two_steps(learner.double(), source, tasks) for name, (learner, source, tasks) in cases.items()}


def two_steps(learner, source, tasks: int, **more) -> dict:
    """Two steps: the gradients of the second, which depend on all of the first; losses; which tasks were seen."""
    seen, whole_loss = [], learner.outer_loss

    def watched(batch, **settings):
        seen.append(batch.support_index if hasattr(batch, "support_index") else batch[1])
        return whole_loss(batch, **settings)

    learner.outer_loss = watched
    settings = {"steps": 2, "tasks": tasks, "rate": 0.05, "optimizer": "sgd", "progress": False}
    history = training.train(learner, source, **settings | more)
    del learner.outer_loss
    return {
        "gradients": {name: p.grad for name, p in learner.named_parameters() if p.grad is not None},
        "state": learner.state_dict(),
        "losses": history.losses,
        "values": history.values,
        "seen": seen,
    }


def together(rank: int, world: int, folder: str, work: str) -> None:
    """One of the processes: `work` is the name of a function of this file."""
    torch.set_num_threads(1)
    meeting = f"file://{Path(folder).as_posix()}/meeting-{work}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world, timeout=timedelta(minutes=5))
    torch.save(globals()[work](rank, Path(folder)), Path(folder) / f"{work}-{rank}.pt")
    dist.destroy_process_group()


def every_method(rank: int, folder: Path) -> dict:
    found = {name: trained(method, options, tasks) for name, method, options, tasks in CASES}
    found["vision"] = of_vision()
    found["own"] = own()
    found["in two parts"] = trained("maml", {}, 4, accumulate=2)
    found["a whole training"] = whole_training(folder / "two")
    whole_training(folder / "begun by two", stop_after=3)
    found["begun by one"] = whole_training(folder / "begun by one")
    return found | {"errors": errors(), "stop": stopped(rank)}


# each command of vision that trains, as two processes of torchrun
COMMANDS = {
    "segmentation": ["segmentation", "--method", "prototypes"],
    "detection": ["detection", "--method", "correlation", "--characters", "4"],
    "faces": ["faces", "--method", "arcface"],
}


def commands(rank: int, world: int, folder: str, ports: list[int]) -> None:
    """One of the processes that torchrun would start for each of COMMANDS, one after another."""
    torch.set_num_threads(1)
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {name: str(value) for name, value in told.items()}
    for (name, words), port in zip(COMMANDS.items(), ports, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        stdout = sys.stdout  # the second process is quiet while it trains
        app(["train", *words, "--recipe", "smoke", "--out", f"{folder}/{name}"], standalone_mode=False)
        sys.stdout = stdout
        assert not dist.is_initialized()


SETTINGS = {"tasks": 3, "rate": 0.01, "validate_every": 2, "validation_episodes": 5, "progress": False, "resume": True}


class Interrupted(EpisodeSampler):
    """A source that is as good as any, but an interrupt comes while it draws for the step `at`."""

    at, calls = None, 0

    def sample(self, tasks, generator):
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().sample(tasks, generator)


def whole_training(out: Path, stop_after: int | None = None) -> dict:
    """Six steps with validation and files. stop_after: an interrupt comes in that step."""
    learner, source = built("prototypical", {}), Interrupted(squares(), 3, 1, 2)
    source.at = stop_after
    validation = EpisodeSampler(squares(split="val"), 3, 1, 2)
    history = training.train(learner, source, steps=6, validation=validation, out=out, **SETTINGS)
    return {"state": learner.state_dict(), "losses": history.losses, "validations": history.validations}


def stopped(rank: int) -> int:
    """An interrupt of the second process only ends both after the same step."""
    learner, calls = built("prototypical", {}), []
    whole_loss = learner.outer_loss

    def interrupted(batch, **settings):
        calls.append(1)
        if rank == 1 and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return whole_loss(batch, **settings)

    learner.outer_loss = interrupted
    history = training.train(learner, source_of(learner), steps=9, tasks=2, progress=False)
    assert history.interrupted
    return len(history.losses)


def errors() -> dict[str, str]:
    """The lines of what cannot be; both processes find them before they wait for each other."""
    learner = built("prototypical", {})
    source = source_of(learner)
    rank = dist.get_rank()

    class Nothing:
        def sample(self, tasks, generator):
            return {"a": torch.zeros(tasks)}

    def broken(batch, **settings):
        loss, metrics = built("prototypical", {}).outer_loss(batch)
        weight = next(learner.parameters()).sum()
        return loss.detach() + weight * (float("nan") if rank == 1 else 1.0), metrics

    requests = {
        "few tasks": partial(training.train, learner, source, steps=1, tasks=1),
        "uneven parts": partial(training.train, learner, source, steps=1, tasks=3, accumulate=2),
        "another batch": partial(training.train, learner, Nothing(), steps=1, tasks=4),
        "another seed": partial(training.train, learner, source, steps=1, tasks=4, seed=rank),
    }
    found = {}
    for name, request in requests.items():
        try:
            request(progress=False)
        except CourseError as error:
            found[name] = str(error)
    network = networks.make("conv4", size=16, channels=4, normalisation="running")
    try:
        training.train(OneByOne(network), source, steps=1, tasks=3, progress=False)
    except CourseError as error:
        found["tasks one by one"] = str(error)
    learner.outer_loss = broken
    try:
        training.train(learner, source, steps=1, tasks=4, progress=False)
    except CourseError as error:
        found["a loss of one process"] = str(error)
    return found


def own() -> dict:
    """Learners of one's own: two steps of each."""
    found = {}
    for kind, tasks in ((OneByOne, 4), (Masked, 4)):
        torch.manual_seed(0)
        learner = kind(networks.make("conv4", size=16, channels=4, normalisation="running"))
        training.train(learner.double(), source_of(learner), steps=2, tasks=tasks, rate=0.05, progress=False)
        found[kind.__name__] = learner.state_dict()
    return found
