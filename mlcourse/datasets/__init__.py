"""Data sets: pictures grouped by class, with splits that are fixed lists and share no class.

`load` (or `upright`, before classes are turned) is the one way in. This room knows nothing of tasks;
`mlcourse.episodes` makes tasks from what it returns.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import torch
from torch import Tensor

from mlcourse.datasets import caltech101, class_folders, glyphs, local, omniglot
from mlcourse.datasets.images import ClassImages
from mlcourse.errors import CourseError

NAMES = ("glyphs", "omniglot", "caltech101")

__all__ = ["NAMES", "ClassImages", "load", "upright"]


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

    name_or_folder: "glyphs" (embedded), "omniglot", "caltech101", or the path of a folder of class folders.
    split: "train", "val", "test" (no two share a class), "trainval" (the first two) or "all".
    protocol: for omniglot, "vinyals" (default) or "lake".
    root: the folder of local copies; default: the environment variable MLCOURSE_DATA, else `data` in the cache folder
        (MLCOURSE_CACHE, else the system's place for caches).
    rotations: quarter turns as further classes. Default: omniglot in the Vinyals protocol, and the train split of
        glyphs. Of glyphs, only classes turn that stay unlike every other class.
    size: height and width in pixels; default 28 for characters (grey, ink = 255), 84 for photos (RGB).
    download: fetch a missing omniglot or caltech101 (https, checksum) into `root`. Nothing is fetched without it.

    Raises CourseError for an unknown name, split or protocol, a missing, incomplete or damaged copy.
    """
    images, may_turn, turn = _upright(name_or_folder, split, protocol=protocol, root=root, size=size, download=download)
    return images.with_rotations(may_turn) if (turn if rotations is None else rotations) else images


def upright(
    name_or_folder: str | Path,
    split: str = "train",
    *,
    protocol: str | None = None,
    root: str | Path | None = None,
    size: int | None = None,
    download: bool = False,
) -> tuple[ClassImages, Tensor]:
    """One split before any class is turned, and which classes `load` turns by default: bool [classes].

    `images.with_rotations(turns)` gives what `load` gives; whoever works on the pictures first has a quarter of the
    work. The options are those of `load`.
    """
    images, may_turn, turn = _upright(name_or_folder, split, protocol=protocol, root=root, size=size, download=download)
    return images, may_turn & turn


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
    if size is not None and (not isinstance(size, int) or size < 1):
        raise CourseError(f"size {size!r} is not a number of pixels: give an integer of at least 1, such as 84")
    name = os.fspath(name_or_folder)
    if protocol is not None and name != "omniglot":
        raise CourseError(f"protocol {protocol!r} is for omniglot only: leave it out for {name}")
    if name == "glyphs":
        return glyphs.load(split, size=size)
    turn = False
    if name == "omniglot":
        images, turn = omniglot.load(split, protocol=protocol, root=root, size=size, download=download)
    elif name == "caltech101":
        images = caltech101.load(split, root=root, size=size, download=download)
    else:
        images = class_folders.load(_existing(name), split, size=size)
    return images, torch.ones(images.classes, dtype=torch.bool), turn


def _existing(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    close = difflib.get_close_matches(name, NAMES, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise CourseError(
        f"unknown data set {name!r}: {hint}Choose {', '.join(NAMES)}, or the path of a folder that holds one folder of "
        "pictures per class"
    )
