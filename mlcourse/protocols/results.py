"""A learner on a protocol, and the file that keeps what came of it.

The file keeps what was counted: right answers in each episode, the same summed up per alphabet (or script, or
class), answers per confidence. Everything that a table says — means, intervals, calibration errors — is computed from
these when it is read, so no figure can be typed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlcourse import datasets, evaluation, files, places, statistics
from mlcourse.datasets import ClassImages
from mlcourse.episodes import Episode, EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.learners import METHODS
from mlcourse.learners.building import DEFAULT_NETWORK, most_ways, shape_of
from mlcourse.protocols import embedded, flop
from mlcourse.protocols.protocol import Protocol, WithinGroups, content_digest, without_pictures

VALIDATION_EPISODES = 200
ROTATION = "/rot"
# What a run's config tells of its training, besides the data, the budget, the steps and the seed.
TRAINING = ("way", "shot", "train_way", "train_query", "tasks", "rate", "schedule", "optimizer", "precision", "init")


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
        logits, labels, classes = prediction.detach().float().cpu(), batch.query_y.cpu(), batch.classes.cpu()
        if logits.shape[:2] != labels.shape or logits.shape[2] < batch.way:
            raise CourseError(
                f"predict gives {tuple(logits.shape)} for {tuple(labels.shape)} queries of {batch.way} classes; give "
                "logits [tasks, queries, way]"
            )
        given = prediction.argmax(-1).cpu()
        self.right.append((given == labels).sum(1))
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
        """Of all queries: float32 [n, way]."""
        return torch.cat([logits for logits, _ in self.parts])

    @property
    def labels(self) -> Tensor:
        """Of all queries: int64 [n]."""
        return torch.cat([labels for _, labels in self.parts])


def upright(name: str) -> str:
    """The name of a class before it was turned: "Greek/character03" of "Greek/character03/rot090"."""
    return name.rsplit(ROTATION, 1)[0]


def fitted_temperature(validation: Answers, tested: frozenset[str]) -> float:
    """The temperature that fits the answers on validation classes best.

    Raises CourseError where a class of them is tested, too: a temperature that has seen the test flatters itself.
    """
    both = sorted(validation.names & tested)
    if both:
        raise CourseError(
            f"a temperature is fitted on validation classes, but {len(both)} classes of {validation.where} are tested, "
            f"such as {both[0]!r}; take classes that are not"
        )
    return statistics.temperature(validation.logits, validation.labels)


# ------------------------------------------------------------------ a learner on a protocol


@dataclass(frozen=True)
class Stored:
    """What the file of a result holds. `right` is per episode; `groups`: see `Answers.counted`."""

    protocol: str
    digest: str
    content: str  # of the pictures
    learner: str  # the name of its folder, or of the baseline
    method: str
    title: str
    network: str | None
    normalisation: str
    transductive: bool
    trained_on: str | None  # "omniglot vinyals"; None: nothing, or not said
    seed: int | None  # of the training, or of an untrained network's weights
    budget: str | None
    steps: int | None
    shape: tuple[int, int, int]  # of the pictures that it was asked about
    settings: dict[str, Any]  # options of the learner, and what its training took
    queries: int  # per episode
    right: tuple[int, ...]
    groups: dict[str, tuple[int, int]]
    crowding: float  # of `statistics.episodes_over_data`
    scale: float
    temperature: float
    fitted_on: str
    reliability: dict[str, list[list[float]]]  # "before" and "after" the temperature
    nll: dict[str, float]
    flop: dict[str, int | None]  # of one episode, of one step of training, of all steps
    command: str
    made_by: str | None

    @cached_property
    def per_episode(self) -> Tensor:
        """The accuracy of each episode: float64 [episodes]."""
        return torch.tensor(self.right, dtype=torch.float64) / self.queries

    @cached_property
    def counts(self) -> Tensor:
        """Classes of each group in all episodes, and their episodes' right answers: float64 [groups, 2]."""
        return torch.tensor(list(self.groups.values()), dtype=torch.float64)

    @property
    def row(self) -> tuple:
        """What results of several seeds have in common: one row of a table."""
        own = (
            "" if self.method.removeprefix("untrained-") in METHODS else self.learner
        )  # a class says nothing of itself
        told = json.dumps([self.shape, self.settings], sort_keys=True)
        return self.method, own, self.network, self.normalisation, self.trained_on, self.budget, self.steps, told

    def calibration_error(self, when: str) -> float:
        """The expected calibration error "before" or "after" the temperature."""
        return statistics.calibration_error(torch.tensor(self.reliability[when], dtype=torch.float64))

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
) -> Stored:
    """Evaluate a learner on exactly the episodes of a protocol.

    name: what it is called, as its folder is. about: what its run tells (see `learners.load_run`). method: its name in
    the table (default: of its config, else its class). command: what was called. root, download: as in `datasets.load`.
    convert: give it the pictures in the shape that it was built for.
    Raises CourseError for data or episodes that are not the protocol's, pictures of a shape that the learner was not
    built for, classes that it was trained or chosen on, and all that `evaluation.evaluate` refuses.
    """
    about = about or {}
    images = protocol.images(root=root, download=download)
    protocol.check(images)
    check_unseen(protocol, images, about, name, root)
    check_way(protocol, learner, name)
    converted = fitting(protocol, learner, images, name, convert=convert, root=root)
    alone = {"one_by_one": protocol.one_by_one}
    answers, result = ask(protocol.sampler(converted, device), learner, protocol.episodes, protocol.seed, **alone)
    if result.digest != protocol.digest:
        raise CourseError(f"{name} was asked other episodes than those of protocol {protocol.name}; report this fault")
    known = protocol.sampler(protocol.validation(root=root, shape=converted.shape), device)
    episodes, seed = min(VALIDATION_EPISODES, protocol.episodes), (protocol.seed + 10**6) % 2**64
    validation, _ = ask(known, learner, episodes, seed, **alone)
    config = getattr(learner, "config", {})
    method = method or config.get("method") or type(learner).__name__
    example = protocol.sampler(converted).sample(1, torch.Generator().manual_seed(protocol.seed))
    return Stored(
        protocol=protocol.name,
        digest=result.digest,
        content=protocol.content_digest or content_digest(images),
        learner=name,
        method=method,
        title=title_of(method),
        network=config.get("network", DEFAULT_NETWORK) if config.get("options") else None,
        normalisation=result.normalisation,
        transductive=bool(result.transductive),
        trained_on=trained_on(about),
        seed=about.get("seed"),
        budget=about.get("budget"),
        steps=about.get("steps_done", about.get("steps")),
        shape=converted.shape,
        settings={"options": config.get("options", {})} | {one: about[one] for one in TRAINING if one in about},
        queries=protocol.way * protocol.query,
        scale=scale_of(protocol),
        flop=flop.count(learner, example, about, device=device),
        command=command,
        made_by=made_by(method, about),
        **answers.counted(),
        **calibrated(answers, validation),
    )


def calibrated(answers: Answers, validation: Answers) -> dict[str, Any]:
    """How sure the answers are, before and after the temperature that fits validation classes best."""
    temperature = fitted_temperature(validation, answers.names)
    logits, labels = answers.logits.double(), answers.labels
    scaled = {"before": logits, "after": logits / temperature}
    return {
        "temperature": temperature,
        "fitted_on": validation.where,
        "reliability": {when: statistics.reliability(some, labels).tolist() for when, some in scaled.items()},
        "nll": {when: statistics.negative_log_likelihood(some, labels) for when, some in scaled.items()},
    }


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
    name = method.removeprefix("untrained-")
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
    if about.get("dataset") != protocol.dataset:
        return
    seen = datasets.counts(protocol.dataset, "trainval", protocol=about.get("protocol"), root=root)
    tested = frozenset(map(upright, images.names))
    both = sorted(tested & {upright(one) for one in seen})
    if both:
        lists = (
            f" with --protocol {protocol.lists}" if protocol.lists and protocol.split == "test" else " on other data"
        )
        raise CourseError(
            f"{name} was trained or chosen on {len(both)} of the {len(tested)} classes that protocol {protocol.name} "
            f"tests, such as {both[0]!r}: train a run{lists}"
        )


def trained_on(about: dict[str, Any]) -> str | None:
    """The data of a training, as a table says it: a folder by its name only."""
    if not about.get("dataset"):
        return None
    dataset = about["dataset"]
    words = [dataset if dataset in datasets.NAMES else Path(dataset).name, about.get("protocol")]
    return " ".join([*filter(None, words), *(["drawn"] if about.get("drawn") else [])])


def made_by(method: str, about: dict[str, Any]) -> str | None:
    """The command that trains such a run, as far as its config tells."""
    if not {"dataset", "way", "shot", "budget", "seed"} <= about.keys() or method not in METHODS:
        return None
    config, words = about.get("learner", {}), ["mlcourse train", method]
    given = {"dataset": trained_on({"dataset": about["dataset"]}), "protocol": about.get("protocol")}
    given |= {"way": about["way"], "shot": about["shot"], "train-way": about.get("train_way")}
    given |= {"network": config.get("network"), "normalisation": config.get("options", {}).get("normalisation")}
    given |= {"recipe": about["budget"], "steps": about.get("steps"), "seed": about["seed"]}
    words += [f"--{name} {value}" for name, value in given.items() if value is not None]
    return " ".join([*words, *(["--drawn"] if about.get("drawn") else [])])


# ------------------------------------------------------------------ files


def folders(protocol: Protocol) -> tuple[Path, Path]:
    """Where results of a protocol lie: the course's own, and those that `mlcourse evaluate` leaves here."""
    return places.data() / "results" / protocol.name, Path("runs") / "results" / protocol.name


def save(result: Stored, path: Path | str) -> None:
    """Write a result, a line per field."""
    lines = (f" {json.dumps(name)}: {json.dumps(value)}" for name, value in result.as_json().items())
    files.write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def load(path: Path | str, protocol: Protocol) -> Stored:
    """Read a result. Raises CourseError for a damaged file, one of another protocol or other episodes, and NaN."""
    found = files.read_json(path)
    wanted = {one.name for one in fields(Stored)}
    if found.keys() != wanted:
        odd = sorted(found.keys() ^ wanted)[0]
        raise CourseError(f"{path} is no result, or of another version: {odd!r} is missing or unknown; evaluate anew")
    if found["protocol"] != protocol.name:
        raise CourseError(f"{path} is a result of protocol {found['protocol']!r}, not of {protocol.name}; move it away")
    if found["digest"] != protocol.digest:
        raise CourseError(
            f"{path} is of other episodes ({found['digest']}) than protocol {protocol.name} has now "
            f"({protocol.digest}): evaluate anew"
        )
    try:
        made = Stored(**found | {"right": tuple(found["right"]), "shape": tuple(found["shape"])})
        _check_counts(made, protocol)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, CourseError):
            raise CourseError(f"{path}: {error}") from None
        raise CourseError(f"{path} is damaged ({error}); evaluate anew") from None
    return made


def _check_counts(result: Stored, protocol: Protocol) -> None:
    """Raise CourseError where the counts of a file cannot be those of this protocol, or contradict each other."""
    right, counts = torch.tensor(result.right), result.counts
    if len(right) != protocol.episodes:
        raise CourseError(f"it has {len(right)} episodes, but protocol {protocol.name} has {protocol.episodes}")
    if result.queries != protocol.way * protocol.query or right.is_floating_point() or int(right.min()) < 0:
        raise CourseError(f"it counts other queries than the {protocol.way * protocol.query} of each episode")
    each = protocol.way if protocol.tasks == "classes" else 1  # classes that an episode counts for
    sums = [each * len(right), each * int(right.sum())]
    if int(right.max()) > result.queries or counts.sum(0).tolist() != sums or result.scale != scale_of(protocol):
        raise CourseError("its right answers per episode and per group do not add up to the same; evaluate anew")
    numbers = [
        result.temperature,
        result.crowding,
        *result.nll.values(),
        *(n for t in result.reliability.values() for r in t for n in r),
    ]
    if not torch.tensor(numbers).isfinite().all():
        raise CourseError("it holds a number that is not finite; evaluate anew")


def stored(protocol: Protocol, *places_to_look: Path | str) -> list[Stored]:
    """All results of a protocol (default: of `folders`), in the order of their files' names.

    Raises CourseError for a file that is no result of this protocol, for results of other pictures, and for two that
    differ and claim to be of the same row and seed.
    """
    found: dict[tuple, tuple[Path, Stored]] = {}
    for place in places_to_look or folders(protocol):
        for path in sorted(Path(place).glob("*.json")):
            one = load(path, protocol)
            first, other = found.setdefault((*one.row, one.seed), (path, one))
            if other.right != one.right:
                raise CourseError(f"{first} and {path} are of the same row and seed, but differ: remove one of them")
    contents = {one.content for _, one in found.values()}
    if len(contents) > 1:
        raise CourseError(
            f"results of protocol {protocol.name} are of {len(contents)} different copies of its pictures (another "
            "decoder, or other files), so they are no pairs: evaluate all on one copy"
        )
    return [one for _, one in found.values()]
