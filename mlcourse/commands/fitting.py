"""A request fitted to the data that there is: six folders with eight pictures each work with one command.

What was asked for is never changed: where it cannot be, one line names the value and the option. What was not asked for
(a recipe's train way, 15 queries) becomes as much as there is, and a line says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlcourse.errors import CourseError

if TYPE_CHECKING:  # torch is imported late, so that `mlcourse --help` waits for nothing
    from mlcourse.datasets import ClassImages
    from mlcourse.learners.methods import Recipe

LEAST = 2  # classes of a task: with one there is nothing to tell apart
DEFAULT_WAY, DEFAULT_QUERY = 5, 15
FOUR = "add class folders (4 in all are the least: 2 to train on, 2 to test on)"


@dataclass
class Wish:
    """A number that somebody asked for with an `option`, or a default that may shrink."""

    name: str
    option: str
    asked: int | None
    default: int

    @property
    def value(self) -> int:
        """What is wanted."""
        return self.default if self.asked is None else self.asked


@dataclass
class Fit:
    """Collects what was changed: a line for each in `said`."""

    said: list[str] = field(default_factory=list)

    def at_most(self, wish: Wish, most: int, why: str) -> int:
        """What is wanted, or `most` where nobody asked. Raises CourseError where somebody asked for more."""
        if wish.value <= most:
            return wish.value
        if wish.asked is not None:
            raise CourseError(f"{wish.option} is {wish.asked}, but {why}: use {wish.option} {most} or less")
        self.said.append(f"{wish.name}: {most} in place of {wish.value}, since {why}")
        return most

    def large_enough(self, images: ClassImages, shot: int) -> ClassImages:
        """Only the classes with a picture more than the shots. Raises CourseError where fewer than two are left."""
        enough = images.counts > shot
        kept, where = int(enough.sum()), split_of(images)
        if kept < LEAST:
            if images.classes < LEAST:
                raise CourseError(f"{where} has {images.classes} class, but a task needs {LEAST}: {FOUR}")
            most = int(images.counts.sort(descending=True).values[LEAST - 1]) - 1
            remedy = f"use --shot {most} or less, or add pictures" if most else "add pictures"
            raise CourseError(
                f"{where} has {kept} classes with {shot + 1} pictures (--shot {shot}, and one to ask about), but a "
                f"task needs {LEAST}: {remedy}"
            )
        if kept == images.classes:
            return images
        small = [f"{name!r} ({count})" for name, count in zip(images.names, images.counts.tolist()) if count <= shot]
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        self.said.append(
            f"left out of {where}, with fewer than {shot + 1} pictures: {', '.join(small[:5])}{more}; add pictures, or "
            "take a lower --shot"
        )
        return images.select(enough)

    def queries(self, images: ClassImages, shot: int, wish: Wish) -> int:
        """The queries per class that the smallest class has left."""
        smallest = int(images.counts.argmin())
        name, there = images.names[smallest], int(images.counts[smallest])
        return self.at_most(
            wish, there - shot, f"class {name!r} of {split_of(images)} has {there} pictures, {shot} of them as support"
        )

    def classes(self, images: ClassImages, wish: Wish) -> int:
        """The classes per task that a split has."""
        return self.at_most(wish, images.classes, f"{split_of(images)} has {images.classes} classes")


def split_of(images: ClassImages) -> str:
    """A split as messages name it."""
    return f"the {images.split} split of {images.name}"


# ------------------------------------------------------------------ of a training


@dataclass
class Training:
    """What a training takes of its data, and what was changed for that."""

    way: int
    train_way: int
    train_query: int
    query: int
    train: ClassImages
    val: ClassImages | None  # None: no class to validate on
    validation_way: int
    said: list[str]

    def label_vectors(self, options: Mapping[str, Any]) -> dict[str, int]:
        """For a learner (its `options`) with a vector for each label: enough of them for training and validation."""
        most = options.get("most_ways")
        return {} if most is None else {"most_ways": max(self.way, self.train_way, most)}


def fit_training(
    load: Callable[[str], ClassImages],
    counts: Callable[[str], dict[str, int]],
    *,
    method: str,
    plan: Recipe,
    way: int | None,
    shot: int,
    query: int | None,
    train_way: int | None,
) -> Training:
    """Fit a recipe to the splits of a data set.

    load, counts: of a split, as in `mlcourse.datasets`. method, plan: its name, and its recipe. way, query, train_way:
    what was asked for (None: nothing).
    Raises CourseError for what was asked for and cannot be.
    """
    from mlcourse.learners import METHODS

    fixed_head = METHODS[method].head and not plan.options.get("zero_head")  # the network ends in `way` logits
    fit = Fit()
    train = fit.large_enough(load("train"), shot)
    asked_way, way = way, _way(fit, train, list(counts("test").values()), way, shot)
    if fixed_head:  # as many classes in training as in the test
        ways = way = fit.classes(train, Wish("way", "--way", asked_way, way))
        if train_way not in (None, way):
            raise CourseError(
                f"--train-way is {train_way}, but the network ends in {way} classes, in training too: use --way "
                f"{train_way}"
            )
    else:
        ways = fit.classes(train, Wish("train way", "--train-way", train_way, plan.train_way or way))
    asked = None if plan.query else query
    queries = fit.queries(train, shot, Wish("training queries", "--query", asked, plan.query or DEFAULT_QUERY))
    query_wish = Wish("queries in validation", "--query", query, DEFAULT_QUERY)
    val = _validation(fit, load, counts, shot, train.name)
    if val is None:
        return Training(way, ways, queries, query_wish.value, train, None, way, fit.said)
    val_way = fit.classes(val, Wish("way in validation", "--way", None, way))
    return Training(way, ways, queries, fit.queries(val, shot, query_wish), train, val, val_way, fit.said)


def _way(fit: Fit, train: ClassImages, test: list[int], asked: int | None, shot: int) -> int:
    """The classes per task: by default as many as there are to test on. test: the pictures of each test class."""
    large = sum(pictures > shot for pictures in test)
    if test and large < LEAST:
        most = min(sorted(test)[-LEAST:]) - 1 if len(test) >= LEAST else 0
        raise CourseError(
            f"the test split of {train.name} has {large} classes with {shot + 1} pictures, but a task needs {LEAST}: "
            + (f"use --shot {most} or less, or add pictures" if most else FOUR)
        )
    if not test and asked is None and train.classes < 4:
        raise CourseError(
            f"{train.name} has {train.classes} classes, none of them to test on: {FOUR}, or say --way to train only"
        )
    if not test:
        fit.said.append(f"{train.name} has no class to test on: evaluate this run on another --dataset, or {FOUR}")
    if asked is not None:
        if asked < LEAST:
            raise CourseError(f"--way is {asked}, but a task needs {LEAST} classes or more")
        most = max(train.classes, large)
        if test and asked > most:  # without: it will be tested on other data
            raise CourseError(
                f"--way is {asked}, but the test split of {train.name} has {large} classes, and {split_of(train)} has "
                f"{train.classes} classes: use --way {most} or less"
            )
        return asked
    why = f"the test split of {train.name} has {large} classes"
    return fit.at_most(Wish("way", "--way", None, DEFAULT_WAY), large, why) if test else DEFAULT_WAY


def _validation(
    fit: Fit, load: Callable[[str], ClassImages], counts: Callable[[str], dict[str, int]], shot: int, name: str
) -> ClassImages | None:
    """The validation classes, or None, with a line, where there are fewer than two."""
    there = [pictures for pictures in counts("val").values() if pictures > shot]
    if len(there) >= LEAST:
        return fit.large_enough(load("val"), shot)
    fit.said.append(
        f"no validation, the last step is kept: {name} has {len(there)} classes for it, and a task needs {LEAST}"
    )
    return None
