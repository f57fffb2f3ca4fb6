"""A learner on a protocol: what it got right in each episode, how sure it was, and how it was trained.

What is kept was counted: right answers in each episode, the same summed up per alphabet (or script, or class), answers
per confidence with their losses. Everything that a table says — means, intervals, calibration errors — is computed from
these when it is read, so no figure can be typed. `result_files.py` writes and reads it.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlcourse import datasets, evaluation, statistics
from mlcourse.datasets import ClassImages
from mlcourse.datasets.images import upright
from mlcourse.episodes import Episode, EpisodeSampler, WithinGroups
from mlcourse.errors import CourseError
from mlcourse.learners import METHODS, Recipe, options_of, recipe
from mlcourse.learners.building import DEFAULT_NETWORK, most_ways, shape_of
from mlcourse.learners.views import with_views
from mlcourse.protocols import embedded, flop
from mlcourse.protocols.protocol import UNTRAINED, Protocol, content_digest, without_pictures
from mlcourse.protocols.unseen import said, same_data, seen_classes, trainings

VALIDATION_EPISODES = 200
WHEN = ("before", "after")  # the temperature
COLUMNS = 4  # of reliability: answers, their confidences, those that are right, losses
# What a run's config tells of its training, besides the data, the budget, the steps and the seed.
TRAINING = (
    "way", "shot", "query", "train_way", "train_query", "tasks", "rate", "schedule", "optimizer", "accumulate",
    "precision", "init", "validate_every", "validation_episodes", "validation_way",
    "distort", "turned", "within_groups",
)  # fmt: skip
SEEN = ("views", "symmetries")  # what an evaluation adds: of `learners.views`
BY_COMMAND = ("normalisation", "most_ways", "inner_rate")  # a learner's options that a command gives, not a recipe


# ------------------------------------------------------------------ counting


class Answers:
    """Counts what a learner answers: `evaluation.evaluate(…, watch=answers)` calls it for each batch of episodes."""

    def __init__(self, images: ClassImages, *, within_groups: bool = False):
        """within_groups: the classes of a task are all of one group, so the task is a task of that group."""
        self.groups = tuple(dict.fromkeys(images.groups))
        self.group_of = torch.tensor([self.groups.index(group) for group in images.groups])
        self.names = frozenset(map(upright, images.names))
        self.where = f"{images.name} {images.split}"
        self.within_groups = within_groups
        self.members: list[Tensor] = []  # how many classes of each group each episode has
        self.right: list[Tensor] = []
        self.parts: list[tuple[Tensor, Tensor]] = []

    def __call__(self, prediction: Any, batch: Episode) -> None:
        """prediction: logits [tasks, queries, way]. Raises CourseError for anything else."""
        if not isinstance(prediction, Tensor) or prediction.dim() != 3 or batch.query_y.is_floating_point():
            raise CourseError("a protocol compares classifiers: predict has to give logits [tasks, queries, way]")
        logits = prediction.detach().to(torch.promote_types(prediction.dtype, torch.float32)).cpu()
        labels, classes = batch.query_y.cpu(), batch.classes.cpu()
        if logits.shape[:2] != labels.shape or logits.shape[2] < batch.way:
            raise CourseError(
                f"predict gives {tuple(logits.shape)} for {tuple(labels.shape)} queries of {batch.way} classes; give "
                "logits [tasks, queries, way]"
            )
        self.right.append((logits.argmax(-1) == labels).sum(1))
        self.parts.append((logits.flatten(0, 1), labels.flatten()))
        member = torch.nn.functional.one_hot(self.group_of[classes], len(self.groups)).sum(1)
        self.members.append(member.clamp(max=1) if self.within_groups else member)

    def counted(self) -> dict[str, Any]:
        """What is kept: right answers per episode; of each group classes, and right answers of their episodes."""
        right, members = torch.cat(self.right), torch.cat(self.members)
        table = torch.stack([members.sum(0), (members * right.unsqueeze(1)).sum(0)], 1).tolist()
        groups = {group: tuple(counts) for group, counts in zip(self.groups, table)}
        crowding = members.square().sum(1).double().mean().item()
        return {"right": tuple(right.tolist()), "groups": groups, "crowding": crowding}

    @property
    def logits(self) -> Tensor:
        """Of all queries: float32 [n, way], or as exact as the learner is."""
        return torch.cat([logits for logits, _ in self.parts])

    @property
    def labels(self) -> Tensor:
        """Of all queries: int64 [n]."""
        return torch.cat([labels for _, labels in self.parts])


def fitted_temperature(validation: Answers, tested: frozenset[str]) -> float:
    """The temperature that fits the answers on validation classes best.

    Raises CourseError where a class of them is tested, too: a temperature that has seen the test flatters itself.
    """
    check_apart(validation.names, tested, validation.where)
    return statistics.temperature(validation.logits, validation.labels)


def check_apart(validation: frozenset[str], tested: frozenset[str], where: str) -> None:
    """Raise CourseError where a class of `validation` is tested. where: what those classes are of."""
    both = sorted(validation & tested)
    if both:
        raise CourseError(
            f"a temperature is fitted on validation classes, but {len(both)} classes of {where} are tested, such as "
            f"{both[0]!r}; take classes that are not"
        )


# ------------------------------------------------------------------ a learner on a protocol


@dataclass(frozen=True)
class Stored:
    """What the file of a result holds. `right` is per episode; `groups`: see `Answers.counted`."""

    protocol: str
    digest: str
    content: str  # of the pictures
    learner: str  # the name of its folder, or of the baseline
    method: str
    network: str | None
    normalisation: str
    transductive: bool
    trained_on: str | None  # "omniglot vinyals"; None: nothing, or not said
    seed: int | None  # of the training, or of an untrained network's weights
    budget: str | None
    steps: int | None
    weights: str  # a digest of the learner's: of one training they are the same
    shape: tuple[int, int, int]  # of the pictures that it was asked about
    settings: dict[str, Any]  # options of the learner, what its training took, and in what views it saw pictures
    queries: int  # per episode
    right: tuple[int, ...]
    groups: dict[str, tuple[int, int]]
    crowding: float  # of `statistics.episodes_over_data`
    scale: float
    temperature: float
    fitted_on: str
    reliability: dict[str, list[list[float]]]  # of WHEN: rows by confidence, of COLUMNS
    flop: dict[str, int | None]  # of one episode, of one step of training, of all steps
    command: str
    made_by: str | None

    @cached_property
    def per_episode(self) -> Tensor:
        """The accuracy of each episode: float64 [episodes]."""
        return torch.tensor(self.right, dtype=torch.float64) / self.queries

    @cached_property
    def counts(self) -> Tensor:
        """Classes of each group in all episodes, and their episodes' right answers: float64 [groups, 2].

        Sorted by the groups' names, so that all results of a protocol have them in one order.
        """
        return torch.tensor([self.groups[name] for name in sorted(self.groups)], dtype=torch.float64)

    @property
    def seen(self) -> dict[str, float]:
        """In what views it saw each picture, where it did: see `learners.views`."""
        return {name: self.settings[name] for name in SEEN if name in self.settings}

    @property
    def title(self) -> str:
        """The method's name in tables, and its views."""
        return ", ".join([title_of(self.method), *(f"{name} {value}" for name, value in self.seen.items())])

    @property
    def row(self) -> tuple:
        """What results of several seeds have in common: one row of a table."""
        # a class of one's own says nothing of itself but its name
        own = "" if self.method.removeprefix(UNTRAINED) in METHODS else self.learner
        told = json.dumps([self.shape, self.settings], sort_keys=True)
        return self.method, own, self.network, self.normalisation, self.trained_on, self.budget, self.steps, told

    def calibration_error(self, when: str) -> float:
        """The expected calibration error "before" or "after" the temperature."""
        return statistics.calibration_error(self._table(when)[:, :3])

    def nll(self, when: str) -> float:
        """The negative log-likelihood, a mean over all queries, "before" or "after" the temperature."""
        answers, _, _, losses = self._table(when).sum(0).tolist()
        return losses / answers

    def _table(self, when: str) -> Tensor:
        return torch.tensor(self.reliability[when], dtype=torch.float64)

    def as_json(self) -> dict[str, Any]:
        """All fields, for the file."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


def evaluate(
    protocol: Protocol,
    learner: nn.Module,
    *,
    name: str,
    about: dict[str, Any] | None = None,
    method: str | None = None,
    command: str = "",
    root: Path | str | None = None,
    download: bool = False,
    convert: bool = False,
    device: torch.device | str = "cpu",
    seen: Mapping[str, float] | None = None,
) -> Stored:
    """Evaluate a learner on exactly the episodes of a protocol.

    name: what it is called, as its folder is. about: what its run tells (see `learners.load_run`). method: its name in
    the table (default: of its config, else its class). command: what was called. root, download: as in `datasets.load`.
    convert: give it the pictures in the shape that it was built for. seen: in what views it sees each picture, by the
    names of SEEN, as `learners.views.with_views` takes them; None: once.
    Raises CourseError for data or episodes that are not the protocol's, pictures of a shape that the learner was not
    built for, classes that it was trained or chosen on, and all that `evaluation.evaluate` refuses.
    """
    about = about or {}
    images = protocol.images(root=root, download=download)
    protocol.check(images)
    check_unseen(protocol, images, about, name, root)
    check_way(protocol, learner, name)
    converted = fitting(protocol, learner, images, name, convert=convert, root=root)
    known = protocol.sampler(protocol.validation(root=root, shape=converted.shape), device)
    where = f"{known.data.name} {known.data.split}"
    check_apart(frozenset(map(upright, known.data.names)), frozenset(map(upright, images.names)), where)
    alone = {"one_by_one": protocol.one_by_one}
    asked = with_views(learner, name, **seen) if seen else learner
    answers, result = ask(protocol.sampler(converted, device), asked, protocol.episodes, protocol.seed, **alone)
    if result.digest != protocol.index_digest:
        raise CourseError(f"{name} was asked other episodes than those of protocol {protocol.name}; report this fault")
    episodes, seed = min(VALIDATION_EPISODES, protocol.episodes), (protocol.seed + 10**6) % 2**64
    validation, _ = ask(known, asked, episodes, seed, **alone)
    example = protocol.sampler(converted).sample(1, torch.Generator().manual_seed(protocol.seed))
    return Stored(
        protocol=protocol.name,
        digest=protocol.digest,
        content=protocol.content_digest or content_digest(images),
        learner=name,
        transductive=bool(result.transductive),
        shape=converted.shape,
        queries=protocol.way * protocol.query,
        scale=scale_of(protocol),
        flop=flop.count(asked, example, about, device=device),
        command=command,
        made_by=made_by(about, learner),
        **of_training(learner, about, method, seen),
        **answers.counted(),
        **calibrated(answers, validation),
    )


def of_training(
    learner: nn.Module, about: dict[str, Any], method: str | None = None, seen: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """What says which training a learner is of; the arguments are those of `evaluate`. It takes no evaluation."""
    config = getattr(learner, "config", {})
    settings = {"options": arguments_of(learner)} | {one: about[one] for one in TRAINING if one in about}
    settings |= seen or {}
    if about.get("dataset") and about["dataset"] not in datasets.NAMES:  # two folders may have one last name
        told = json.dumps([about["dataset"], about.get("classes")])
        settings["folder"] = hashlib.sha256(told.encode()).hexdigest()[:16]
    return {
        "method": method or config.get("method") or type(learner).__name__,
        "network": config.get("network", DEFAULT_NETWORK) if config.get("options") else None,
        "normalisation": learner.normalisation,
        "trained_on": trained_on(about),
        "seed": about.get("seed"),
        "budget": about.get("budget"),
        "steps": about.get("steps_done", about.get("steps")),
        "settings": settings,
        "weights": weights_digest(learner),
    }


def arguments_of(learner: nn.Module) -> dict[str, Any]:
    """The options of a method, or the arguments of a class of one's own, as far as it remembers them."""
    if getattr(learner, "config", {}):
        return learner.config["options"]
    try:
        return learner.recorded()["arguments"]
    except (AttributeError, KeyError, CourseError):  # of a class that stands in a notebook, for one
        return {}


def weights_digest(learner: nn.Module) -> str:
    """Of every parameter and buffer, with its name, number format and shape."""
    digest = hashlib.sha256()
    for name, value in sorted(learner.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def calibrated(answers: Answers, validation: Answers) -> dict[str, Any]:
    """How sure the answers are, before and after the temperature that fits validation classes best."""
    temperature = fitted_temperature(validation, answers.names)
    logits, labels = answers.logits.double(), answers.labels
    scaled = {"before": logits, "after": logits / temperature}
    return {
        "temperature": temperature,
        "fitted_on": validation.where,
        "reliability": {when: reliability(some, labels).tolist() for when, some in scaled.items()},
    }


def reliability(logits: Tensor, labels: Tensor) -> Tensor:
    """`statistics.reliability` with one more column, the losses −log p(right class): float64 [rows, COLUMNS]."""
    table = statistics.reliability(logits, labels)
    row = statistics.rows_by_confidence(logits.softmax(-1).amax(-1))
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none").unsqueeze(1)
    return torch.cat([table, torch.zeros(len(table), 1, dtype=torch.float64).index_add_(0, row, losses)], 1)


def ask(
    sampler: EpisodeSampler, learner: nn.Module, episodes: int, seed: int, *, one_by_one: bool
) -> tuple[Answers, evaluation.Result]:
    """A learner's answers to a sampler's episodes, and the result. Where it may be, each picture is embedded once.

    one_by_one: each query is asked alone.
    """
    indices = type(sampler)(without_pictures(sampler.data), sampler.way, sampler.shot, sampler.query)
    asked, source = embedded.once(learner, sampler, indices, episodes=episodes, seed=seed)
    answers = Answers(sampler.data, within_groups=isinstance(sampler, WithinGroups))
    at_once = 1 if one_by_one else None
    result = evaluation.evaluate(asked, source, episodes=episodes, seed=seed, queries_at_once=at_once, watch=answers)
    return answers, result


def scale_of(protocol: Protocol) -> float:
    """The `scale` of `statistics.episodes_over_data`: the fewer classes there are, the more alike are episodes."""
    if protocol.tasks != "classes" or protocol.classes == protocol.way:
        return 1.0
    return (protocol.classes - 1) / (protocol.classes - protocol.way)


def title_of(method: str) -> str:
    """A method's name in tables."""
    name = method.removeprefix(UNTRAINED)
    title = METHODS[name].title if name in METHODS else name
    return title if name == method else f"{title}, untrained"


# ------------------------------------------------------------------ before work is done


def fitting(
    protocol: Protocol, learner: nn.Module, images: ClassImages, name: str, *, convert: bool, root: Path | str | None
) -> ClassImages:
    """The pictures in the shape that a learner was built for. Raises CourseError where they would have to be converted.

    convert: do that.
    """
    shape = shape_of(learner)
    if shape is None or shape == images.shape:
        return images
    if not convert:
        raise CourseError(
            f"the pictures of protocol {protocol.name} are {images.shape} (channels, height, width), but {name} was "
            f"built for {shape}: add --convert, or evaluate a fitting run"
        )
    return protocol.images(root=root, shape=shape)


def check_way(protocol: Protocol, learner: nn.Module, name: str) -> None:
    """Raise CourseError where a learner has outputs for fewer classes than the protocol's tasks have."""
    most = most_ways(learner)
    if most is not None and protocol.way > most:
        raise CourseError(
            f"protocol {protocol.name} has tasks of {protocol.way} classes, but {name} tells {most} apart at most: "
            f"train another run with --way {protocol.way}"
        )


def check_unseen(
    protocol: Protocol, images: ClassImages, about: dict[str, Any], name: str, root: Path | str | None
) -> None:
    """Raise CourseError where a class that is tested was trained on, or the run was chosen on it."""
    tested = frozenset(map(upright, images.names))
    for one in trainings(about):
        if not same_data(one, protocol.dataset):
            continue
        both = sorted(tested & seen_classes(one, ("train", "val"), root))
        if both:
            lists = protocol.lists if protocol.split == "test" else None
            raise CourseError(
                f"{said(name, about, one)} was trained or chosen on {len(both)} of the {len(tested)} classes "
                f"that protocol {protocol.name} tests, such as {both[0]!r}: train a run"
                + (f" with --protocol {lists}" if lists else " on other data")
                + ("" if one is about else ", begun with one that did not see them")
            )


def trained_on(about: dict[str, Any]) -> str | None:
    """The data of a training, as a table says it: a folder by its name only."""
    if not about.get("dataset"):
        return None
    dataset = about["dataset"]
    words = [dataset if dataset in datasets.NAMES else Path(dataset).name, about.get("protocol")]
    words += ["drawn"] if about.get("drawn") else []
    words += [f"distorted by {about['distort']:g}"] if about.get("distort") else []
    words += ["turned"] if about.get("turned") else []
    words += ["within groups"] if about.get("within_groups") else []
    return " ".join(filter(None, words))


def made_by(about: dict[str, Any], learner: nn.Module) -> str | None:
    """The command that trains such a run; None for one that no command makes, or that was stopped on the way."""
    config = getattr(learner, "config", {})
    made = None if about.get("finished") is False else _by_recipe(about, config)
    if made is None:
        return None
    plan, options = made
    dataset, inner_rate = about["dataset"], config["options"].get("inner_rate")
    given = {
        "dataset": dataset if dataset in datasets.NAMES else Path(dataset).name,
        "protocol": about.get("protocol"),
        "way": about["way"],
        "shot": about["shot"],
        "query": about["query"],
        "train-way": about.get("train_way"),
        "recipe": about["budget"],
        "steps": about["steps"],
        "tasks": about["tasks"] if about["tasks"] != plan.tasks else None,
        "rate": about["rate"] if about["rate"] != plan.rate else None,
        "inner-rate": inner_rate if inner_rate != options.get("inner_rate") else None,
        "network": config.get("network", DEFAULT_NETWORK),
        "normalisation": config["options"].get("normalisation"),
        "optimizer": about.get("optimizer", "adam"),
        "accumulate": about.get("accumulate", 1),
        "precision": about.get("precision", "float32"),
        "seed": about["seed"],
        "distort": about.get("distort") or None,
        "device": about.get("device", "cpu").split(":")[0],
        "drawn": about.get("drawn") or None,
        "turned": about.get("turned") or None,
        "within-groups": about.get("within_groups") or None,
    }
    return train_command(config["method"], given)


def train_command(method: str, given: Mapping[str, Any]) -> str:
    """The command that trains a method. given: options by name, without dashes; True: a flag, None: left out."""
    said = {name: value for name, value in given.items() if value is not None}
    words = [part for name, value in said.items() for part in ([f"--{name}"] + [str(value)] * (value is not True))]
    return shlex.join(["mlcourse", "train", method, *words])


def _by_recipe(about: dict[str, Any], config: dict[str, Any]) -> tuple[Recipe, dict[str, Any]] | None:
    """The recipe of a run, as it is today, and all options by it; None for a run that no `mlcourse train` makes."""
    needed = {"dataset", "way", "shot", "query", "budget", "steps", "seed", "tasks", "rate"}
    if not needed <= about.keys() or "method" not in config:
        return None
    try:
        plan = recipe(config["method"], about["budget"], about["way"])
    except CourseError:
        return None
    has = options_of(config["method"], config.get("network", DEFAULT_NETWORK))
    options = has | {name: value for name, value in plan.options.items() if name in has}
    wanted = {name: value for name, value in options.items() if name not in BY_COMMAND}
    same = {name: config["options"].get(name) for name in wanted} == wanted
    return (plan, options) if same and about.get("schedule") == plan.schedule else None
