"""What notebook 12 compares: six trained networks, stored logs, and results on other data.

`data/make_honest.py` made all of it, and makes it again. The networks lie in `data/checkpoints`, the logs in
`data/results/honest`; a log keeps every episode, so each mean and each interval is computed when it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor, nn

from mlcourse import files, learners, places, statistics
from mlcourse.datasets import ClassImages
from mlcourse.episodes import WithinGroups
from mlcourse.errors import CourseError
from mlcourse.evaluation import Result
from mlcourse.protocols.results import ask

# What a table calls the six. Which network is whose stands in their files.
NAMES = ("Acacia", "Birch", "Cedar", "Dogwood", "Elm", "Fir")
ORDER = (3, 0, 5, 1, 4, 2)  # the seed of each, so that the names do not give it away
WAY, SHOT, QUERY = 5, 1, 5  # of the exam
EPISODES, SEED = 1000, 0  # of the stored logs
TWO = ("prototypical", "cosine-prototypical")  # whose logs are stored
PROTOCOLS = {
    "glyphs": "glyphs-5way-1shot",
    "Omniglot": "glyphs-to-omniglot",
    "digits": "characters-to-digits",
    "photos": "caltech101-5way-1shot",
}
TITLES = {
    "pixels": "pixels",
    "untrained-prototypical": "untrained",
    "prototypical": "prototypes",
    "cosine-prototypical": "cosines",
    "r2d2": "ridge head",
    "maml": "MAML",
}


# ------------------------------------------------------------------ the six


def folder(seed: int):
    """Where the network of a seed lies."""
    return places.data() / "checkpoints" / f"prototypical-seed{seed}"


def contestants() -> dict[str, nn.Module]:
    """The six networks of the first table, by the names that it gives them."""
    return {name: learners.load_run(folder(seed))[0] for name, seed in zip(NAMES, ORDER)}


def who_they_are() -> dict[str, str]:
    """What the files of the six say: method, steps and seed of the training."""
    told = {}
    for name, seed in zip(NAMES, ORDER):
        learner, about = learners.load_run(folder(seed))
        told[name] = f"{learner.config['method']}, {about['steps']} steps, seed {about['seed']}"
    return told


# ------------------------------------------------------------------ the exam


@dataclass(frozen=True)
class Log:
    """What a learner answered: `right` [episodes] in percent, `script` [episodes], all logits and labels."""

    right: Tensor
    script: Tensor
    logits: Tensor
    labels: Tensor
    result: Result


def exam(data: ClassImages, device: torch.device | str = "cpu") -> WithinGroups:
    """Tasks of five characters of one script, one support image and five queries of each."""
    return WithinGroups(data, WAY, SHOT, QUERY, device=device)


def examine(learner: nn.Module, sampler: WithinGroups, episodes: int, seed: int) -> Log:
    """The log of a learner on the episodes of a seed; every picture is embedded once where that is the same."""
    answers, result = ask(sampler, learner, episodes, seed, one_by_one=False)
    script = torch.cat(answers.members).argmax(1)
    return Log(100 * result.per_episode, script, answers.logits, answers.labels, result)


def draws_of(clusters: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` draws of clusters, with replacement: int64 [count, C] out of 0 to C − 1."""
    many = len(clusters.unique())
    return torch.randint(many, (count, many), generator=generator)


def numbered(clusters: Tensor) -> Tensor:
    """The clusters of values, numbered 0 to C − 1 without a gap: int64 [n]."""
    return clusters.unique(return_inverse=True)[1]


# ------------------------------------------------------------------ does an interval keep what it promises?


def trials(
    right: Tensor, script: Tensor, interval: Callable, *, scripts: int, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Intervals of `count` people who have `scripts` of the scripts each, and whether they hold the mean over all.

    right, script: as in `Log`. interval: of (right, script) → (lower, upper). Returns [count, 3] (mean, lower, upper)
    and bool [count].
    """
    names = script.unique()
    if scripts >= len(names):
        raise CourseError(f"scripts is {scripts}, but there are only {len(names)}; give fewer, so that some are unseen")
    truth = right.mean()
    rows = []
    for _ in range(count):
        chosen = names[torch.randperm(len(names), generator=generator)[:scripts]]
        mine = torch.isin(script, chosen)
        lower, upper = (float(end) for end in interval(right[mine], numbered(script[mine])))
        rows.append((float(right[mine].mean()), lower, upper))
    table = torch.tensor(rows, dtype=torch.float64)
    return table, (table[:, 1] <= truth) & (truth <= table[:, 2])


# ------------------------------------------------------------------ what is stored


@dataclass(frozen=True)
class Stored:
    """Logs of two methods, six trainings each, on the same episodes: right [seeds, episodes] in percent."""

    right: dict[str, Tensor]
    script: Tensor
    scripts: tuple[str, ...]
    digest: str


@cache
def logs() -> Stored:
    """The stored logs of TWO. Raises CourseError for a file that is missing or damaged."""
    path = places.data() / "results" / "honest" / "logs.json"
    found = files.read_json(path)
    try:
        counted = {name: torch.tensor(found["right"][name], dtype=torch.float64) for name in TWO}
        right = {name: 100 * of_seeds / (WAY * QUERY) for name, of_seeds in counted.items()}
        made = Stored(right, torch.tensor(found["script"]), tuple(found["scripts"]), found["digest"])
    except (KeyError, TypeError, ValueError) as error:
        raise CourseError(f"{path} is damaged ({error}); take it from the repository") from None
    if any(one.shape != (len(ORDER), len(made.script)) for one in right.values()):
        raise CourseError(f"{path} does not hold the same episodes for all; take it from the repository")
    return made


@dataclass(frozen=True)
class Shifted:
    """One method on one protocol: right [seeds, episodes] in percent; FLOP of the training and of one episode."""

    right: Tensor
    training: int | None
    episode: int

    @property
    def mean(self) -> float:
        """Over seeds and episodes."""
        return self.right.mean().item()

    @property
    def interval(self) -> tuple[float, float]:
        """The mean over seeds with its interval over episodes."""
        return statistics.mean_interval(self.right.mean(0))


@cache
def under_shift() -> dict[str, dict[str, Shifted]]:
    """Data set → method → its stored result. All learned from glyphs. Raises CourseError as `logs` does."""
    path = places.data() / "results" / "honest" / "shift.json"
    found = files.read_json(path)
    try:
        return {
            data: {
                TITLES[method]: Shifted(
                    100 * torch.tensor(row["right"], dtype=torch.float64) / row["queries"],
                    row["flop"]["training"],
                    row["flop"]["episode"],
                )
                for method, row in found["protocols"][protocol]["methods"].items()
            }
            for data, protocol in PROTOCOLS.items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise CourseError(f"{path} is damaged ({error}); take it from the repository") from None


def ranks(results: dict[str, Shifted]) -> dict[str, int]:
    """The rank of each method, the best first. Who cannot be told from the first of a rank shares it (1, 1, 3)."""
    order = sorted(results, key=lambda name: -results[name].mean)

    def tied(first: str, name: str) -> bool:
        return statistics.paired(results[first].right.mean(0), results[name].right.mean(0)).lower <= 0

    return dict(zip(order, statistics.shared_ranks(order, tied)))


def untold(results: dict[str, Shifted]) -> list[tuple[str, str, float, float]]:
    """Neighbours in the order of the means that the seeds cannot tell apart: (better, worse, gap, half width).

    The interval of the gap is Student's t over the trainings, so it speaks of networks trained anew.
    """
    order = sorted(results, key=lambda name: -results[name].mean)
    found = []
    for better, worse in pairwise(order):
        gap, half = statistics.student_interval(results[better].right.mean(1) - results[worse].right.mean(1))
        if gap - half <= 0:
            found.append((better, worse, gap, half))
    return found
