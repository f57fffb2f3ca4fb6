"""The rules of the challenge as numbers; `docs/challenge.md` says them in words."""

import hashlib
from dataclasses import dataclass

from mlcourse.errors import CourseError, check_number

TRACKS = ("closed", "open")
WAYS = (2, 20)  # classes of an episode, from … to
SHOTS = (1, 10)  # support images of each class
QUERIES = 5  # of each class, or as many as there are
SHAPE = (1, 28, 28)  # of all pictures: grey, 28×28
EPISODES = 100  # of each domain
LEAST_EPISODES = 2  # one has no interval
MOST_TASKS = 20_000  # that a training gets, whatever they cost
MEMORY = 2 * 2**30  # bytes, beyond what Python and PyTorch take
SHARE = 1e-3  # of the spread of an episode's answers: what differs by less is rounding
PLAINLY = 1e-3  # of a logit, its row's median taken off: by how much the class that is named must lead


@dataclass(frozen=True)
class Budget:
    """What a submission may compute.

    Attributes:
        training: FLOP of `meta_fit` (track closed; the stream of tasks ends there in both tracks).
        episode: FLOP to adapt to one episode and to answer its queries.
        seconds: of processor time for the training; a tenth, and at least two seconds, for each episode.
    """

    training: float = 2e12
    episode: float = 2e11
    seconds: float = 300.0

    def __post_init__(self) -> None:
        for name in ("training", "episode", "seconds"):
            check_number(f"the budget's {name}", getattr(self, name), above=0)

    @property
    def episode_seconds(self) -> float:
        """Processor seconds for one episode."""
        return max(2.0, self.seconds / 10)


def check_track(track: str) -> None:
    """Raise CourseError for a track that there is not."""
    if track not in TRACKS:
        raise CourseError(f"track is {track!r}; give {' or '.join(TRACKS)}")


def check_episodes(episodes: int) -> None:
    """Raise CourseError for fewer episodes than an interval needs."""
    if isinstance(episodes, bool) or not isinstance(episodes, int) or episodes < LEAST_EPISODES:
        raise CourseError(
            f"episodes is {episodes!r}; give {LEAST_EPISODES} or more of each domain (default {EPISODES})"
        )


def seed_of(*parts: object) -> int:
    """A seed that follows from the parts, and from nothing else."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, parts)).encode()).digest()[:6], "big")
