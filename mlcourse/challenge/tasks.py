"""The training tasks of the challenge: what `meta_fit(tasks)` is given."""

from collections.abc import Iterator

import torch

from mlcourse.challenge import rules
from mlcourse.challenge.counting import Counter
from mlcourse.datasets import ClassImages
from mlcourse.episodes import Episode, EpisodeSampler

TRIES = 20  # to draw a task that fits into what is left


class Tasks:
    """Training tasks of the training scripts, of any way and shot, until the budget is nearly spent.

        for episode in tasks:                       # an Episode of one task
            loss, _ = self.outer_loss(episode)
            ...

    The loop ends by itself before the budget does. What a task will cost is estimated from the dearest one so far, and
    by the square of the number of pictures where it has more of them; tasks that may not fit are left out.
    """

    def __init__(self, images: ClassImages, counter: Counter, budget: float, generator: torch.Generator):
        self.images = images
        self.generator = generator
        self._counter, self._budget = counter, budget

    @property
    def flop_left(self) -> float:
        """FLOP of the budget that are left."""
        return self._budget - self._counter.flop

    def sample(self, way: int, shot: int, query: int = rules.QUERIES, tasks: int = 1) -> Episode:
        """A batch of `tasks` fresh tasks of one way and shot, for a training of one's own kind."""
        return EpisodeSampler(self.images, way, shot, query).sample(tasks, self.generator)

    def __iter__(self) -> Iterator[Episode]:
        dearest, pictures = 0, 1  # what the dearest task took, and how many pictures it had
        for _ in range(rules.MOST_TASKS):
            for _ in range(TRIES):
                way, shot = self._between(*rules.WAYS), self._between(*rules.SHOTS)
                number = way * (shot + rules.QUERIES)
                if dearest * max(1, number / pictures) ** 2 <= self.flop_left:
                    break
            else:
                return
            before = self._counter.flop
            yield self.sample(way, shot)
            dearest, pictures = max((dearest, pictures), (self._counter.flop - before, number))

    def _between(self, least: int, most: int) -> int:
        return int(torch.randint(least, most + 1, (1,), generator=self.generator))
