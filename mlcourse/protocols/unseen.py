"""Which classes a run has seen: those that it was trained or chosen on, and those of the runs that it began with."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mlcourse import datasets
from mlcourse.datasets.images import upright
from mlcourse.errors import CourseError
from mlcourse.protocols import typed

TOLD = ("dataset", "protocol", "classes")  # what a run keeps of the run that it began with
BEGAN_WITH = "began_with"  # where it keeps it
NO_FOLDERS = (*datasets.NAMES, "mnist")  # the names that `datasets.load` takes


def trainings(about: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a run tells (see `learners.load_run`): of its own training first, then of those before it.

    Raises CourseError where that cannot be: somebody changed the file.
    """
    before = about.get(BEGAN_WITH) or []
    if not typed.fits(before, list[dict[str, Any]]):
        raise CourseError(f"{BEGAN_WITH} of the run is {typed.shown(before)}: bring its config.json back")
    every = [about, *before]
    for one in every:
        fitting = typed.fits(one.get("dataset"), str | None) and typed.fits(one.get("protocol"), str | None)
        if not (fitting and typed.fits(one.get("classes"), dict[str, list[str]] | None)):
            told = {name: one.get(name) for name in TOLD}
            raise CourseError(f"the run was trained on {typed.shown(told)}, it says: bring its config.json back")
    return every


def as_beginning(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a run keeps of one that it begins with, so that nobody tests it on classes that this one saw."""
    return [{name: one[name] for name in TOLD if one.get(name) is not None} for one in trainings(about)]


def untold(about: Mapping[str, Any], name: str) -> list[str]:
    """A line where a run began with another one and does not tell what that saw: an earlier version trained it."""
    start = about.get("init", "none")
    if start == "none" or BEGAN_WITH in about:
        return []
    return [f"{name} began with {start}, and does not tell which classes that was trained on: test on none of them"]


def same_data(training: Mapping[str, Any], dataset: str) -> bool:
    """Whether a training had this data set; a folder is the same however its path is written."""
    mine = training.get("dataset")
    if mine is None or mine in NO_FOLDERS or dataset in NO_FOLDERS:
        return mine == dataset
    return Path(mine).resolve() == Path(dataset).resolve()


def seen_classes(training: Mapping[str, Any], parts: Collection[str], root: Path | str | None = None) -> set[str]:
    """The classes of the splits `parts`, "train" and perhaps "val", of a training; of turned classes the upright one.

    Those that the run tells. Where it tells none, those that its data set has now. root: as in `datasets.load`.
    """
    told = training.get("classes")
    if told is not None:
        return {upright(name) for part in parts for name in told.get(part) or ()}
    split = "trainval" if "val" in parts else "train"
    now = datasets.counts(training["dataset"], split, protocol=training.get("protocol"), root=root)
    return set(map(upright, now))


def said(name: str, about: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """A training of a run called `name` in words: the run itself, or the one that it began with."""
    return name if training is about else f"the run that {name} began with"


def remedy(about: Mapping[str, Any], dataset: str, lists: str | None) -> str:
    """What to do where classes of a data set, in its `lists` (a protocol of Omniglot), were seen."""
    known = {one.get("protocol") or "vinyals" for one in trainings(about) if same_data(one, dataset)}
    if dataset == "omniglot" and known == {lists or "vinyals"}:
        return "test it on classes of the test split"
    if dataset == "omniglot" and len(known) == 1:
        return f"its classes for a test are those of --protocol {known.pop()}; or train another run"
    return "train another run"
