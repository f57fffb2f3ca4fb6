"""Data sets: pictures grouped by class, with splits that are fixed lists and share no class.

`load` (or `upright`, before classes are turned) is the one way in. This room knows nothing of tasks;
`mlcourse.episodes` makes tasks from what it returns.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from mlcourse import places
from mlcourse.datasets import caltech101, class_folders, glyphs, local, mnist, omniglot
from mlcourse.datasets.images import ClassImages
from mlcourse.errors import CourseError

NAMES = ("glyphs", "omniglot", "caltech101")

FOLDER = "folder"  # stands for a folder of class folders where a list says which data sets are taken

__all__ = ["FOLDER", "NAMES", "ClassImages", "check", "counts", "load", "taken", "upright"]


def load(
    name_or_folder: str | Path,
    split: str = "train",
    *,
    protocol: str | None = None,
    root: str | Path | None = None,
    rotations: bool | None = None,
    size: int | None = None,
    download: bool = False,
) -> ClassImages:
    """One split of a data set.

    name_or_folder: "glyphs" (embedded), "omniglot", "caltech101", "mnist" (test digits only), or the path of a folder
        of class folders. How such a folder is split (`train`, `val` and `test` folders in it, else about 60/20/20 % of
        the classes by their names; at least four classes with two pictures each) is said in
        `mlcourse.datasets.class_folders`.
    split: "train", "val", "test" (no two share a class), "trainval" (the first two) or "all".
    protocol: for omniglot, "vinyals" (default) or "lake".
    root: the folder of local copies; default: the environment variable MLCOURSE_DATA, else `data` in the cache folder
        (MLCOURSE_CACHE, else the system's place for caches).
    rotations: quarter turns as further classes. Default: omniglot in the Vinyals protocol, and the train split of
        glyphs. Of glyphs, only classes turn that stay unlike every other class.
    size: height and width in pixels; default 28 for characters (grey, ink = 255), 84 for photos (RGB).
    download: fetch a missing omniglot or caltech101 (https, checksum) into `root`. Nothing is fetched without it.

    Raises CourseError for an unknown name, split or protocol, a missing, incomplete or damaged copy, a split without
    classes. Warns (CourseWarning) of classes and files of a folder that are left out. `counts` says what is there
    without decoding it; `ClassImages.in_shape` converts to another shape.
    """
    images, may_turn, turn = _upright(name_or_folder, split, protocol=protocol, root=root, size=size, download=download)
    return images.with_rotations(may_turn) if (turn if rotations is None else rotations) else images


def upright(
    name_or_folder: str | Path,
    split: str = "train",
    *,
    protocol: str | None = None,
    root: str | Path | None = None,
    rotations: bool | None = None,
    size: int | None = None,
    download: bool = False,
) -> tuple[ClassImages, Tensor]:
    """One split before any class is turned, and which classes `load` turns: bool [classes].

    `images.with_rotations(turns)` gives what `load` gives; whoever works on the pictures first has a quarter of the
    work. The options are those of `load`.
    """
    images, may_turn, turn = _upright(name_or_folder, split, protocol=protocol, root=root, size=size, download=download)
    return images, may_turn & (turn if rotations is None else rotations)


def counts(
    name_or_folder: str | Path, split: str = "all", *, protocol: str | None = None, root: str | Path | None = None
) -> dict[str, int]:
    """Class name -> number of its pictures, for one split, before classes are turned; {} for a split without classes.

    Nothing is decoded, so a faulty request is known before the work. The options, and the errors, are those of `load`.
    """
    local.parts_of(split)
    name = _name(name_or_folder, protocol)
    if name == "glyphs":
        return glyphs.counts(split)
    if name == "omniglot":
        return omniglot.counts(split, protocol=protocol, root=root)
    if name == "caltech101":
        return caltech101.counts(split, root=root)
    if name == "mnist":
        return mnist.counts(split, root=root)
    return {one.name: len(one.files) for one in class_folders.classes_of(_existing(name), split)}


def check(
    name_or_folder: str | Path, takes: Sequence[str], least: Mapping[str, tuple[int, int]] = MappingProxyType({})
) -> None:
    """Raise CourseError, before any work, where a lesson cannot work with a data set.

    takes: names out of NAMES, and FOLDER where a folder of class folders is taken.
    least: split -> (classes, pictures in each class) that the lesson needs of it.
    """
    name = _name(name_or_folder, None)
    unknown = [one for one in takes if one not in (*NAMES, FOLDER)]
    if unknown:
        raise CourseError(f"there is no data set {unknown[0]!r} to take: choose {', '.join(NAMES)} or {FOLDER}")
    if name not in NAMES:
        _existing(name)
    if (name if name in NAMES else FOLDER) not in takes:
        raise CourseError(f"this takes {taken(takes)}, but not {name}: set DATASET to what it takes")
    for split in least or ("all",):
        there = counts(name, split)
        classes, pictures = least.get(split, (1, 1))
        if len(there) < classes:
            raise CourseError(
                f"{name} has {len(there)} {split} classes, but {classes} are needed here: add class folders, or set "
                f"DATASET to {takes[0]}"
            )
        smallest = min(there, key=there.get)
        if there[smallest] < pictures:
            raise CourseError(
                f"class {smallest!r} of {name} has {there[smallest]} pictures, but each {split} class needs {pictures} "
                f"here: add pictures, remove the class, or set DATASET to {takes[0]}"
            )


def taken(takes: Sequence[str]) -> str:
    """The data sets of a list as words: "glyphs, omniglot or a folder of class folders"."""
    words = ["a folder of class folders" if one == FOLDER else one for one in takes]
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _upright(
    name_or_folder: str | Path,
    split: str,
    *,
    protocol: str | None,
    root: str | Path | None,
    size: int | None,
    download: bool,
) -> tuple[ClassImages, Tensor, bool]:
    """One split before any class is turned, which classes may turn, and whether these do by default."""
    local.parts_of(split)
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise CourseError(f"size {size!r} is not a number of pixels: give an integer of at least 1, such as 84")
    name = _name(name_or_folder, protocol)
    if name == "glyphs":
        return glyphs.load(split, size=size)
    if name == "mnist":
        images = mnist.load(split, root=root, size=size, download=download)
        return images, torch.ones(images.classes, dtype=torch.bool), False
    turn = False
    if name == "omniglot":
        images, turn = omniglot.load(split, protocol=protocol, root=root, size=size, download=download)
    elif name == "caltech101":
        images = caltech101.load(split, root=root, size=size, download=download)
    else:
        images = class_folders.load(_existing(name), split, size=size)
    return images, torch.ones(images.classes, dtype=torch.bool), turn


def _name(name_or_folder: str | Path, protocol: str | None) -> str:
    """The request as text. Raises CourseError for one that names nothing, or a protocol where there is none."""
    try:
        name = os.fsdecode(name_or_folder)
    except TypeError:
        raise CourseError(f"data set {name_or_folder!r} is no name and no path: choose {_choices()}") from None
    if not name.strip():
        raise CourseError(f"the data set's name is empty: choose {_choices()}")
    if protocol is not None and name != "omniglot":
        raise CourseError(f"protocol {protocol!r} is for omniglot only: leave it out for {name}")
    return name


def _existing(name: str) -> Path:
    path = places.whole(name)
    if os.path.isdir(path):
        return path
    if os.path.lexists(path):
        raise CourseError(f"{path} is no folder that can be entered: name a folder that holds class folders")
    close = difflib.get_close_matches(name, NAMES, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise CourseError(f"unknown data set {name!r}: {hint}Choose {_choices()}")


def _choices() -> str:
    return f"{', '.join(NAMES)}, or the path of a folder that holds one folder of pictures per class"
