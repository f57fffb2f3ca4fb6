"""Episodes: few-shot tasks drawn from a data set, many at a time.

The outer loop of every method in the course sees batches of tasks. All of a batch is drawn at once: random indices on
the CPU, so that one seed means the same episodes on every device, then one gather of pictures on the device.
The episode itself is due to O. Vinyals et al.: Matching Networks for One Shot Learning, NeurIPS 2016,
https://arxiv.org/abs/1606.04080.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from mlcourse.datasets.distortion import check_strength, distorted
from mlcourse.datasets.images import ClassImages
from mlcourse.datasets.sinusoids import Sinusoids
from mlcourse.errors import CourseError

Target = Tensor | dict[str, Tensor]
NONE = torch.empty(0, 0, dtype=torch.int64)


@dataclass
class Episode:
    """A batch of tasks; the leading dimension of every tensor is the task, the second one the image.

    support_x: float32 [tasks, support, C, H, W] in [0, 1], ink = 1.      support_y: the targets [tasks, support, …].
    query_x:   float32 [tasks, queries, C, H, W].                         query_y:   the targets [tasks, queries, …].

    Targets are labels (int64 [tasks, images]), values (floating point [tasks, images, values]), masks (int64 or bool
    [tasks, images, H, W]), or a dict of tensors, each [tasks, images, …]: padded boxes [tasks, images, most, 4] with
    their "counts" [tasks, images].

    classes: int64 [tasks, way], the data set's class behind each label. For analysis only: a learner must not see it.
    support_index, query_index: int64 [tasks, images], where each picture stands in the data set. These three are empty
    where there is no such thing. As a sampler makes it, all samples of label 0 come first, then 1, …; `evaluate`
    hides this order.
    """

    support_x: Tensor
    support_y: Target
    query_x: Tensor
    query_y: Target
    classes: Tensor = NONE
    support_index: Tensor = NONE
    query_index: Tensor = NONE

    @property
    def tasks(self) -> int:
        """The number of tasks in the batch."""
        return len(self.support_x)

    @property
    def way(self) -> int:
        """The number of classes of each task (0 for regression)."""
        return self.classes.shape[1]

    def map(self, change: Callable[[str, Tensor], Tensor]) -> Episode:
        """`change(name of the field, tensor)` of every tensor that there is, also of those inside targets."""
        made = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, dict):
                made[one.name] = {key: change(one.name, part) for key, part in value.items()}
            else:
                made[one.name] = change(one.name, value)
        return replace(self, **made)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Episode:
        """All tensors on `device`; the images, and nothing else, in `dtype`. None: as they are.

        Raises CourseError for images of whole numbers: as 0 … 255 they would be taken for 0 … 1.
        """

        def move(name: str, value: Tensor) -> Tensor:
            if name.endswith("_x") and dtype is not None and not value.is_floating_point():
                raise CourseError(f"{name} is of {value.dtype}; give images as floating point numbers in [0, 1]")
            return value.to(device=device, dtype=dtype if name.endswith("_x") else None)

        return self.map(move)

    def task(self, index: int) -> Episode:
        """One task, as a batch of one. A negative index counts from the end."""
        if not -self.tasks <= index < self.tasks:
            raise CourseError(f"task {index} does not exist: the batch has {self.tasks} tasks, 0 to {self.tasks - 1}")
        index %= self.tasks
        return self.some(slice(index, index + 1))

    def some(self, tasks: slice) -> Episode:
        """The tasks of a slice, as a batch."""
        return self.map(lambda name, value: value[tasks] if len(value) else value)

    def split(self, size: int) -> list[Episode]:
        """The same tasks in batches of `size`; the last one may be smaller."""
        check_positive("size", size)
        return [self.some(slice(start, start + size)) for start in range(0, self.tasks, size)]

    def part(self, rank: int, world: int) -> Episode:
        """The tasks of one of `world` processes: number `rank`, then every `world`-th after it.

        Raises CourseError when there are fewer tasks than processes.
        """
        check_positive("world", world)
        if not 0 <= rank < world:
            raise CourseError(f"rank {rank} does not exist: {world} processes are numbered 0 to {world - 1}")
        if self.tasks < world:
            raise CourseError(f"{self.tasks} tasks are fewer than {world} processes; take a larger meta-batch")
        return self.some(slice(rank, None, world))

    def shuffled(self, generator: torch.Generator) -> Episode:
        """The same tasks, the support images of each in a random order, its queries in another. Draws on the CPU."""
        orders = {}
        for part, x in (("support", self.support_x), ("query", self.query_x)):
            orders[part] = torch.rand(x.shape[:2], generator=generator).argsort(1)

        def reorder(name: str, value: Tensor) -> Tensor:
            order = orders.get(name.split("_")[0])
            if order is None or (name.endswith("_index") and not value.numel()):  # classes; indices that are not there
                return value
            if value.shape[:2] != order.shape:
                shapes = f"{tuple(value.shape)}, but its images come as {tuple(order.shape)}"
                raise CourseError(f"{name} has the shape {shapes}; give one target per image of each task")
            order = order.to(value.device)
            return value.gather(1, order.view(*order.shape, *[1] * (value.dim() - 2)).expand_as(value))

        return self.map(reorder)


class EpisodeSampler:
    """Draws N-way K-shot tasks from `data`: distinct classes, in random order, disjoint support and query samples.

    The class drawn i-th gets label i, so a class has another label in every task: only the support set tells.
    way, shot, query: classes per task, support samples per class, query samples per class.
    device: where the pictures lie and the episodes appear. Indices are drawn on the CPU in any case.
    distort: how strongly each picture is distorted (`mlcourse.datasets.distortion`): for training. 0: not at all.
    """

    gives = "episodes"  # for learners that train on them

    def __init__(
        self,
        data: ClassImages,
        way: int = 5,
        shot: int = 1,
        query: int = 15,
        *,
        device: torch.device | str = "cpu",
        distort: float = 0,
    ) -> None:
        _check_request(data, way, shot, query)
        check_strength(distort)
        self.way, self.shot, self.query, self.distort = way, shot, query, distort
        self.device = torch.device(device)
        self.data, self._given = data.to(self.device), data  # what was given knows its content, for all its samplers

    def sample(self, tasks: int, generator: torch.Generator) -> Episode:
        """`tasks` fresh tasks. `generator` lives on the CPU; the same state gives the same tasks on every device."""
        check_positive("tasks", tasks)
        if generator.device.type != "cpu":
            raise CourseError(f"the generator is on {generator.device}: make it with torch.Generator(), on the CPU")
        per_class = self.shot + self.query
        classes = self.draw_classes(tasks, generator)
        samples = self.draw_samples(classes, per_class, generator)
        index = self.data.first[classes].unsqueeze(-1) + samples.view(tasks, self.way, per_class)
        support_index = index[..., : self.shot].reshape(tasks, -1)
        query_index = index[..., self.shot :].reshape(tasks, -1)
        labels = torch.arange(self.way)
        return Episode(
            support_x=self._pictures(support_index, generator),
            support_y=labels.repeat_interleave(self.shot).repeat(tasks, 1).to(self.device),
            query_x=self._pictures(query_index, generator),
            query_y=labels.repeat_interleave(self.query).repeat(tasks, 1).to(self.device),
            classes=classes.to(self.device),
            support_index=support_index.to(self.device),
            query_index=query_index.to(self.device),
        )

    def describe(self) -> dict[str, Any]:
        """What its episodes are, for headers, stored results and digests."""
        data = {"data": self.data.name, "split": self.data.split, "content": self._given.content}
        told = data | {"way": self.way, "shot": self.shot, "query": self.query}
        return told | ({"distort": self.distort} if self.distort else {})

    def draw_classes(self, tasks: int, generator: torch.Generator) -> Tensor:
        """The class behind each label: int64 [tasks, way]."""
        return draw_distinct(torch.full((tasks,), self.data.classes), self.way, generator)

    def draw_samples(self, classes: Tensor, per_class: int, generator: torch.Generator) -> Tensor:
        """Which samples of each class are taken, support first: int64 [tasks, way] -> [tasks · way, per_class]."""
        return draw_distinct(self.data.counts[classes].flatten(), per_class, generator)

    def _pictures(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 in 0..255 to float32 in [0, 1]: [tasks, n] -> [tasks, n, C, H, W]."""
        chosen = self.data.images.index_select(0, index.flatten().to(self.device))
        chosen = distorted(chosen.to(torch.float32).div_(255), self.distort, generator)
        return chosen.view(*index.shape, *self.data.shape)


class WithinGroups(EpisodeSampler):
    """Draws tasks whose classes are all of one group, as the characters of one alphabet are.

    Sample number j of each class is by drawer j, as in Omniglot: the support set of a task is by `shot` drawers, its
    queries are by `query` others, the same for all classes. So no drawer's hand tells which class a query is of (Lake,
    Salakhutdinov, Tenenbaum, *The Omniglot challenge: a 3-year progress report*, 2019,
    https://arxiv.org/abs/1902.03477). Every group with `way` classes or more is drawn as often as any other.
    """

    def __init__(self, data: ClassImages, way: int, shot: int, query: int, **more: Any):
        super().__init__(data, way, shot, query, **more)
        self.drawers = int(data.counts[0])
        if (data.counts != self.drawers).any():
            raise CourseError(
                f"classes of {data.name} have {int(data.counts.min())} to {int(data.counts.max())} pictures, but tasks "
                "within groups need the same drawers in each class; take other data, or tasks of all classes"
            )
        groups = Counter(data.groups)
        large = sorted(group for group, classes in groups.items() if classes >= way)
        if not large:
            name, most = groups.most_common(1)[0]
            raise CourseError(f"no group of {data.name} has {way} classes; {name!r} has most, {most}: take a lower way")
        self.sizes = torch.tensor([groups[group] for group in large])
        self.members = torch.zeros(len(large), int(self.sizes.max()), dtype=torch.int64)
        for row, group in enumerate(large):
            of_group = [i for i, one in enumerate(data.groups) if one == group]
            self.members[row, : len(of_group)] = torch.tensor(of_group)

    def draw_classes(self, tasks: int, generator: torch.Generator) -> Tensor:
        """The class behind each label: int64 [tasks, way], each row of one group."""
        group = torch.randint(len(self.sizes), (tasks,), generator=generator)
        return self.members[group].gather(1, draw_distinct(self.sizes[group], self.way, generator))

    def draw_samples(self, classes: Tensor, per_class: int, generator: torch.Generator) -> Tensor:
        """The same drawers for all classes of a task."""
        drawers = draw_distinct(torch.full((len(classes),), self.drawers), per_class, generator)
        return drawers.repeat_interleave(classes.shape[1], 0)


def draw_distinct(sizes: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """For each row, k distinct numbers of 0..size-1 in random order: int64 [rows] -> [rows, k]; k <= every size.

    Floyd's algorithm (J. Bentley, R. Floyd: A sample of brilliance, Communications of the ACM, 1987,
    https://doi.org/10.1145/30401.315746) on all rows at once: the work is k steps, whatever the sizes. It gives a
    uniform set; a random order of each row makes it a uniform sequence.
    Raises CourseError where a size is below k.
    """
    if len(sizes) and int(sizes.min()) < k:
        raise CourseError(f"{k} distinct numbers do not fit into {int(sizes.min())}; draw fewer")
    uniform = torch.rand(len(sizes), 2 * k, generator=generator, dtype=torch.float64)
    last = sizes.unsqueeze(-1) - k + torch.arange(k)
    candidates = (uniform[:, :k] * (last + 1)).long()
    for i in range(1, k):
        taken = (candidates[:, :i] == candidates[:, i : i + 1]).any(1)
        candidates[:, i] = torch.where(taken, last[:, i], candidates[:, i])
    return candidates.gather(1, uniform[:, k:].argsort(1))


class PartOfGenerator(torch.Generator):
    """A generator that stands where another one does, for a learner that sees a part of a step's tasks.

    part: (all tasks, r, P): this part holds the tasks r, r + P, …; None: it holds all.
    """

    part: tuple[int, int, int] | None = None

    @classmethod
    def like(cls, generator: torch.Generator) -> PartOfGenerator:
        """One that draws next what `generator` would."""
        made = cls()
        made.set_state(generator.get_state())
        return made


def uniform_of_tasks(tasks: int, *shape: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers [tasks, *shape] on the CPU. A task gets the same ones whichever process has it."""
    part = getattr(generator, "part", None)
    if part is None:
        return torch.rand(tasks, *shape, generator=generator)
    whole, rank, world = part
    return torch.rand(whole, *shape, generator=generator)[rank::world]


def check_positive(what: str, value: int) -> None:
    """Raise CourseError unless `value`, which the caller knows as `what`, is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CourseError(f"{what} is {value!r}: give an integer of at least 1")


def check_seed(seed: int) -> None:
    """Raise CourseError unless `seed` is an integer from 0 to 2⁶⁴ − 1, which PyTorch's generators take."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise CourseError(f"seed is {seed!r}: give an integer from 0 to {2**64 - 1}")


def _check_request(data: ClassImages, way: int, shot: int, query: int) -> None:
    for what, value in (("way", way), ("shot", shot), ("query", query)):
        check_positive(what, value)
    if way > data.classes:
        raise CourseError(
            f"way {way} is more than the {data.classes} classes of {data.name} {data.split}: "
            f"choose way <= {data.classes}, or a split with more classes"
        )
    smallest = int(data.counts.argmin())
    if shot + query > int(data.counts[smallest]):
        raise CourseError(
            f"shot {shot} + query {query} = {shot + query} samples per class, but {data.names[smallest]!r} of "
            f"{data.name} {data.split} has {int(data.counts[smallest])}: choose fewer, or leave it out with select()"
        )


@dataclass(frozen=True)
class SinusoidTasks(Sinusoids):
    """Regression tasks: the points of one wave, some as support, others as queries."""

    def sample(self, tasks: int, shot: int, query: int, generator: torch.Generator) -> Episode:
        """x and y are float32: support [tasks, shot, 1], query [tasks, query, 1]. No classes, no indices."""
        for what, value in (("tasks", tasks), ("shot", shot), ("query", query)):
            check_positive(what, value)
        x, y = self.draw(tasks, shot + query, generator)
        none = torch.empty(tasks, 0, dtype=torch.int64)
        return Episode(x[:, :shot], y[:, :shot], x[:, shot:], y[:, shot:], none, none, none)


class SinusoidSampler:
    """Draws regression tasks for `train` and `evaluate`: `shot` points of each wave as support, `query` as queries."""

    gives = "episodes"

    def __init__(self, waves: SinusoidTasks | None = None, shot: int = 5, query: int = 10) -> None:
        for what, value in (("shot", shot), ("query", query)):
            check_positive(what, value)
        self.waves, self.shot, self.query = waves or SinusoidTasks(), shot, query

    def sample(self, tasks: int, generator: torch.Generator) -> Episode:
        """`tasks` fresh waves."""
        return self.waves.sample(tasks, self.shot, self.query, generator)

    def describe(self) -> dict[str, Any]:
        """What its episodes are, for headers, stored results and digests."""
        waves = {f"{what} {edge}": end for what, ends in asdict(self.waves).items() for edge, end in zip("<>", ends)}
        return {"data": "sinusoids", "split": "all", "shot": self.shot, "query": self.query} | waves
