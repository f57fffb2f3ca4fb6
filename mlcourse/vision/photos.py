"""One-shot tasks on photos with label maps: here is one class in one photo, find it in another.

    maps = label_maps.load("msrc_v2", fold=0, part="test")
    source = PhotoTasks(maps)                       # pixels as images
    source = PhotoTasks(maps, features=joined)      # the same tasks, with maps of features in place of pixels

In the masks of these episodes 1 is the class, 0 is all else, and VOID (−1) is what nobody labelled: it counts neither
in a loss nor in a score. A learner writes `masks > 0` for the class and `masks == 0` for the background.
"""

from typing import Any

import torch
from torch import Tensor

from mlcourse.datasets import label_maps
from mlcourse.datasets.label_maps import LabelMaps
from mlcourse.episodes import Episode, check_positive, draw_distinct
from mlcourse.errors import CourseError, check_number

VOID = -1  # of a mask
LEAST = 0.01  # the smallest share of a photo, without its void, that a class must have to be asked for there


class PhotoTasks:
    """Draws tasks: one class, `shot` photos that show it with their masks, `query` other photos that show it, too.

    Every class is drawn equally often, and every photo of it where the class covers the share `least` or more.
    features: float [photos, D, h, w], what the episodes hold in place of the photos' pixels.
    device: where photos lie and episodes appear.

    Episode: support_x float32 [tasks, shot, 3, S, S] in [0, 1] (or features [tasks, shot, D, h, w]); support_y int64
    [tasks, shot, S, S]: 1, 0 or VOID; query_x, query_y likewise; classes int64 [tasks, 1], an index into maps.classes.

    Raises CourseError where a class has too few photos for a task, or features are not those of as many photos, or
    nan.
    """

    gives = "episodes"

    def __init__(
        self,
        maps: LabelMaps,
        *,
        shot: int = 1,
        query: int = 1,
        least: float = LEAST,
        features: Tensor | None = None,
        device: torch.device | str = "cpu",
    ):
        check_positive("shot", shot)
        check_positive("query", query)
        check_number("least", least, above=0)
        if features is not None and (features.dim() != 4 or len(features) != len(maps.images)):
            raise CourseError(
                f"features are {tuple(features.shape)} for {len(maps.images)} photos; give [photos, D, h, w]"
            )
        if features is not None and not (features.is_floating_point() and features.isfinite().all()):
            wrong = int((~features.isfinite()).sum())
            raise CourseError(
                f"features are {features.dtype}, {wrong} of them nan or infinite; give finite floating point numbers, "
                "as networks.pretrained.features computes them"
            )
        self.maps, self.shot, self.query, self.least = maps, shot, query, least
        self.device = torch.device(device)
        self.x = (maps.images if features is None else features).to(self.device)
        self.labels = maps.labels.to(self.device)
        shows = maps.shares >= least
        self.counts = shows.sum(0)
        self.photos = [column.nonzero().flatten() for column in shows.T]
        few = [maps.names[one] for one, count in zip(maps.classes, self.counts.tolist()) if count < shot + query]
        if few:
            raise CourseError(
                f"{', '.join(few)} of {maps.name}: fewer than {shot + query} photos where the class covers "
                f"{100 * least:g} %; ask for fewer photos, for a smaller share, or leave the class out with only()"
            )

    def sample(self, tasks: int, generator: torch.Generator) -> Episode:
        """`tasks` fresh tasks. `generator` lives on the CPU."""
        check_positive("tasks", tasks)
        drawn = torch.randint(len(self.photos), (tasks,), generator=generator)
        places = draw_distinct(self.counts[drawn], self.shot + self.query, generator)
        index = torch.stack([self.photos[one][place] for one, place in zip(drawn.tolist(), places)])
        support, query = index[:, : self.shot], index[:, self.shot :]
        numbers = torch.tensor(self.maps.classes)[drawn]
        return Episode(
            support_x=self._pictures(support),
            support_y=self._masks(support, numbers),
            query_x=self._pictures(query),
            query_y=self._masks(query, numbers),
            classes=drawn.unsqueeze(1).to(self.device),
            support_index=support.to(self.device),
            query_index=query.to(self.device),
        )

    def describe(self) -> dict[str, Any]:
        """What its episodes are, for headers, stored results and digests."""
        names = [self.maps.names[one] for one in self.maps.classes]
        data = {"data": self.maps.name, "split": f"{self.maps.part}: {', '.join(names)}", "content": self.maps.content}
        return data | {"shot": self.shot, "query": self.query, "least": self.least}

    def _pictures(self, index: Tensor) -> Tensor:
        chosen = self.x[index.to(self.device)]
        return chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen

    def _masks(self, index: Tensor, numbers: Tensor) -> Tensor:
        labels = self.labels[index.to(self.device)]
        found = (labels == numbers.to(self.device).view(-1, 1, 1, 1)).long()
        return found.masked_fill_(labels == label_maps.VOID, VOID)
