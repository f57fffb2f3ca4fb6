"""A folder of class folders without the pictures that cannot be read: the rest is used, what was left out is listed.

`mlcourse.datasets.load` refuses such a folder, and names the first picture. This is for whoever says that the rest will
do. Which split a class belongs to does not change: it hangs on the classes that there are, not on their pictures.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mlcourse.datasets import class_folders, pictures
from mlcourse.datasets.class_folders import Class
from mlcourse.datasets.images import ClassImages
from mlcourse.errors import CourseError


def load(place: Path, split: str, *, size: int | None = None) -> tuple[ClassImages, list[str]]:
    """The classes of one split, as `class_folders.load` gives them, and a line for all that was left out.

    Nothing is left out where each picture can be read. Else the split is decoded anew by each call.
    Raises CourseError where no class is left, and for all that is no damage (`class_folders.load` says what).
    """
    images, classes, faults = _readable(place, split, size)
    if not faults:
        return class_folders.load(place, split, size=size), []  # from the cache, with all that it has to say
    if not classes:
        raise CourseError(
            f"{faults[0]} (and {len(faults) - 1} more faults): no {split} class of {class_folders.name_of(place)} has "
            f"{class_folders.LEAST_PICTURES} pictures that can be read; mend or replace them"
        )
    class_folders.warn_of_copies(place, classes)
    names = tuple(one.name for one in classes)
    sizes = torch.tensor([len(one.files) for one in classes])
    return ClassImages(images, sizes, names, names, class_folders.name_of(place), split), faults


def counts(place: Path, split: str) -> dict[str, int]:
    """Class name -> number of the pictures that `load` gives; {} for a split without classes. All are decoded."""
    return {one.name: len(one.files) for one in _readable(place, split, None)[1]}


def _readable(place: Path, split: str, size: int | None) -> tuple[Tensor, list[Class], list[str]]:
    """The pictures that can be read, the classes with their names, and a line for each fault.

    A class with too few such pictures is left out, too, and is a fault of its own.
    """
    classes = class_folders.classes_of(place, split)
    files = [file for one in classes for file in one.files]
    images, faults = pictures.read_sound_photos(place, files, size or class_folders.SIZE)
    sound = [replace(one, files=tuple(file for file in one.files if file not in faults)) for one in classes]
    small = [one for one in sound if len(one.files) < class_folders.LEAST_PICTURES]
    kept = [one for one in sound if len(one.files) >= class_folders.LEAST_PICTURES]
    chosen = {file for one in kept for file in one.files}
    lines = [*faults.values()]
    lines += [
        f"class {one.name!r}: of its pictures {len(one.files)} can be read, and a class needs "
        f"{class_folders.LEAST_PICTURES}"
        for one in small
    ]
    readable = [file for file in files if file not in faults]
    return images[torch.tensor([file in chosen for file in readable], dtype=torch.bool)], kept, lines
