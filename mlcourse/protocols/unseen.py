"""Which classes a run has seen: those that it was trained or chosen on, and those of the run that it began with."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mlcourse import datasets
from mlcourse.datasets.images import upright

TOLD = ("dataset", "protocol", "classes")  # what a run keeps of the run that it began with
BEGAN_WITH = "began_with"  # where it keeps it


def trainings(about: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a run tells (see `learners.load_run`): of its own training first, then of those before it."""
    return [about, *(about.get(BEGAN_WITH) or [])]


def as_beginning(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a run keeps of one that it begins with, so that nobody tests it on classes that this one saw."""
    return [{name: one[name] for name in TOLD if one.get(name) is not None} for one in trainings(about)]


def same_data(training: Mapping[str, Any], dataset: str) -> bool:
    """Whether a training had this data set; a folder is the same however its path is written."""
    mine = training.get("dataset")
    if mine is None or mine in datasets.NAMES or dataset in datasets.NAMES:
        return mine == dataset
    return Path(mine).resolve() == Path(dataset).resolve()


def seen_classes(training: Mapping[str, Any], parts: Collection[str], root: Path | str | None = None) -> set[str]:
    """The classes of the splits `parts`, "train" and perhaps "val", of a training; of turned classes the upright one.

    Those that the run tells. Where it tells none, those that its data set has now. root: as in `datasets.load`.
    """
    told = training.get("classes")
    if isinstance(told, Mapping):
        return {upright(name) for part in parts for name in told.get(part) or ()}
    split = "trainval" if "val" in parts else "train"
    now = datasets.counts(training["dataset"], split, protocol=training.get("protocol"), root=root)
    return set(map(upright, now))
