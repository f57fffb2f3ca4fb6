"""Your own pictures: a folder that holds one folder of pictures per class.

If the folder holds `train`, `val` or `test` folders with class folders inside, these are the splits. Otherwise each
class goes to a split by a hash of its name: about 60 % train, 20 % val, 20 % test. A class keeps its split on every
machine, and when other classes come or go. A folder of few classes may leave a split empty; "all" takes every class.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from PIL import Image

from mlcourse.datasets import cache, local, pictures
from mlcourse.datasets.images import ClassImages
from mlcourse.errors import CourseError

SIZE = 84
PARTS = ("train", "val", "test")


def load(place: Path, split: str, *, size: int | None) -> ClassImages:
    """The classes of one split, RGB, 84×84 by default; see `mlcourse.datasets.load`."""
    return read(place, list_classes(place, split), name=place.resolve().name, split=split, size=size)


def read(place: Path, classes: list[str], *, name: str, split: str, size: int | None) -> ClassImages:
    """The pictures of these class folders (relative to `place`). The class's name is the folder's name."""
    size = size or SIZE
    files = [_pictures_of(place, one) for one in classes]
    everything = [file for some in files for file in some]
    options = {"size": size, "split": split}
    names = tuple(one.rsplit("/", 1)[-1] for one in classes)
    return ClassImages(
        images=cache.remember(name, place, everything, options, lambda: pictures.read_photos(place, everything, size)),
        counts=torch.tensor([len(some) for some in files]),
        names=names,
        groups=names,
        name=name,
        split=split,
    )


def list_classes(place: Path, split: str) -> list[str]:
    """The class folders of a split, relative to `place`, sorted by name."""
    inside = local.folders(place)
    if any(part in inside for part in PARTS):
        parts = [part for part in local.parts_of(split) if part in inside]
        classes = [f"{part}/{one}" for part in parts for one in local.folders(place / part)]
    else:
        classes = [one for one in inside if split_of(one) in local.parts_of(split)]
        if inside and not classes:
            raise CourseError(
                f"none of the {len(inside)} classes of {place} falls into split {split!r}: use split 'all', or make "
                "folders train, val and test in it, each with class folders"
            )
    if not classes:
        raise CourseError(
            f"{place} has no class folders for split {split!r}: put one folder of pictures per class there"
        )
    return classes


def split_of(class_name: str) -> str:
    """The split of a class by a hash of its name."""
    share = int.from_bytes(hashlib.sha256(class_name.encode()).digest()[:8], "big") / 2**64
    return "train" if share < 0.6 else "val" if share < 0.8 else "test"


def _pictures_of(place: Path, class_folder: str) -> list[str]:
    """The picture files of a class, relative to `place`, sorted by name. At least two: one to learn from."""
    known = Image.registered_extensions()  # extension -> format; Pillow can also write some that it cannot read
    present = local.files(place / class_folder)
    chosen = [file for file in present if known.get(Path(file).suffix.lower()) in Image.OPEN]
    if len(chosen) < 2:
        others = [file for file in present if file not in chosen]
        hint = f" ({others[0]!r} is of a type that Pillow does not read)" if others else ""
        raise CourseError(
            f"class folder {place / class_folder} has {len(chosen)} pictures{hint}: a class needs at least 2, one "
            "for the support set and one to ask about"
        )
    return [f"{class_folder}/{file}" for file in chosen]
