"""One evaluation for all learners: the mean over episodes, its 95 % interval, the worst tenth, paired comparison."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mlcourse.episodes import EpisodeSampler, check_seed
from mlcourse.errors import CourseError
from mlcourse.learners.base import evaluation_mode
from mlcourse.statistics import mean_interval


@dataclass(frozen=True)
class Result:
    """Accuracy on episodes. `accuracy ± ci95` is the 95 % interval of the mean over episodes, all in [0, 1]."""

    accuracy: float
    ci95: float
    worst_tenth: float  # the mean over the tenth of the episodes with the lowest accuracy
    episodes: int
    normalisation: str
    transductive: bool
    way: int
    shot: int
    query: int
    seed: int
    digest: str  # of the indices of all pictures: equal for the same episodes, which alone make a pair
    per_episode: Tensor  # float64 [episodes]

    def __str__(self) -> str:
        mode = "transductive" if self.transductive else "inductive"
        return (
            f"{100 * self.accuracy:.2f} ± {100 * self.ci95:.2f} % ({self.way}-way {self.shot}-shot, "
            f"{self.episodes} episodes, normalisation {self.normalisation}, {mode})"
        )

    def as_json(self) -> dict[str, Any]:
        """Everything but the single episodes, for `--json` and for data/results. No interval (one episode) is None."""
        values = {name: value for name, value in vars(self).items() if name != "per_episode"}
        return values | {"ci95": None if math.isnan(self.ci95) else self.ci95}  # JSON knows no NaN


@dataclass(frozen=True)
class Paired:
    """The difference of two results on the same episodes: `difference ± ci95` is its 95 % interval."""

    difference: float
    ci95: float
    episodes: int

    @property
    def lower(self) -> float:
        """The lower end of the interval."""
        return self.difference - self.ci95

    def __str__(self) -> str:
        return f"{100 * self.difference:+.2f} ± {100 * self.ci95:.2f} points ({self.episodes} paired episodes)"


def evaluate(
    learner: nn.Module,
    sampler: EpisodeSampler,
    *,
    episodes: int = 1000,
    seed: int = 0,
    tasks_at_once: int = 20,
    steps: int | None = None,
) -> Result:
    """Adapt to and predict `episodes` episodes of the sampler; the same seed gives the same episodes.

    tasks_at_once: how many are drawn and answered together; another number draws other episodes.
    steps: inner steps, for learners that have them (None: the learner's own). The learner keeps its mode
    (training or evaluation) and no parameter of it changes.
    """
    if episodes < 1:
        raise CourseError(f"episodes is {episodes}; give 1 or more (1,000 for a figure to report)")
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    rights, digest = [], hashlib.sha256(f"{sampler.data.name} {sampler.data.split}".encode())
    with torch.no_grad(), evaluation_mode(learner):
        for start in range(0, episodes, tasks_at_once):
            batch = sampler.sample(min(tasks_at_once, episodes - start), generator)
            for index in (batch.support_index, batch.query_index):
                digest.update(index.cpu().numpy().tobytes())
            state = learner.adapt(batch.support_x, batch.support_y, steps=steps)
            right = learner.predict(state, batch.query_x).argmax(-1) == batch.query_y
            rights.append(right.double().mean(1).cpu())
    per_episode = torch.cat(rights)
    accuracy, ci95 = mean_interval(per_episode)
    worst = per_episode.sort().values[: max(1, episodes // 10)].mean().item()
    return Result(
        accuracy=accuracy,
        ci95=ci95,
        worst_tenth=worst,
        episodes=episodes,
        normalisation=learner.normalisation,
        transductive=learner.transductive,
        way=sampler.way,
        shot=sampler.shot,
        query=sampler.query,
        seed=seed,
        digest=digest.hexdigest()[:16],
        per_episode=per_episode,
    )


def compare(a: Result, b: Result) -> Paired:
    """a − b on the same episodes. Pairing removes what is hard or easy for both: the interval shrinks.

    Raises CourseError when the two were not evaluated on the same episodes.
    """
    same = ("episodes", "way", "shot", "query", "seed")
    for name in same:
        if getattr(a, name) != getattr(b, name):
            raise CourseError(
                f"a pair needs the same episodes, but {name} is {getattr(a, name)} and {getattr(b, name)}; "
                "use the same sampler and seed for both"
            )
    if a.digest != b.digest:
        raise CourseError(
            "a pair needs the same episodes, but other pictures were drawn; use the same data, split and tasks_at_once"
        )
    difference, ci95 = mean_interval(a.per_episode - b.per_episode)
    return Paired(difference, ci95, a.episodes)
