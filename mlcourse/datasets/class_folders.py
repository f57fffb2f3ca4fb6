"""Your own pictures: a folder that holds one folder of pictures per class.

**Splits.** No two splits share a class.

- If the folder holds `train`, `val` or `test` folders with class folders inside, these are the splits. Where their
  class names repeat (the usual layout for classifiers, which know every class), the pictures of a name are joined, and
  the classes are split by name, with a warning.
- Otherwise each class goes to a split by a hash of its name: about 60 % train, 20 % val, 20 % test. A class keeps its
  split on every machine, and when other classes come or go.
- Where that leaves fewer than two classes to train or to test on, or of eight and more classes fewer than two to
  validate on, the classes are put in the order of their hashes and shared out: 60 / 20 / 20 %, at least two for test,
  and no val where it would be one class. A warning says so. Four classes are the least: two to train on, two to test
  on. With fewer, only "all" takes each of them.

**Pictures.** A class needs two pictures, one to learn from and one to ask about. A smaller class is left out, and
named. So is a file that is no picture. A picture that cannot be read (HEIC, a camera's raw format, a damaged file) is
an error. A line says how many pictures are copies of others in their class, which pictures lie in two classes (of one
split or of two), and which class names differ in capitals only: they may be one class under two names.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mlcourse.datasets import cache, local, pictures
from mlcourse.datasets.images import ClassImages
from mlcourse.errors import CourseError, CourseWarning, printable

SIZE = 84
PARTS = ("train", "val", "test")
LEAST_CLASSES = 4  # two to train on, two to test on
END = 4096  # bytes that tell most files of one size apart
LEAST_PICTURES = 2  # one to learn from, one to ask about
# Formats of cameras and drawing programs that Pillow does not read by itself. A file of another kind is no picture.
FOREIGN = """
    .heic .heif .hif .avif .avifs .jxl .jp2 .webp .svg .svgz .xcf .kra .ai .cdr .exr .hdr .dng .cr2 .cr3 .crw .nef .nrw
    .arw .srf .sr2 .orf .raf .rw2 .pef .raw .rwl .srw .3fr .iiq .x3f
"""
FOREIGN = frozenset(FOREIGN.split())


@dataclass(frozen=True)
class Class:
    """One class of a folder: its name, its split, and its files relative to the folder, sorted."""

    name: str
    part: str
    files: tuple[str, ...]


def load(place: Path, split: str, *, size: int | None) -> ClassImages:
    """The classes of one split, RGB, 84×84 by default; see `mlcourse.datasets.load`."""
    chosen = classes_of(place, split)
    if not chosen:
        raise CourseError(_no_classes(place, split))
    warn_of_copies(place, chosen)
    return read(place, chosen, name=name_of(place), split=split, size=size)


def name_of(place: Path) -> str:
    """What a folder is called in messages."""
    return printable(place.resolve().name) or "pictures"


def read(place: Path, classes: list[Class], *, name: str, split: str, size: int | None) -> ClassImages:
    """The pictures of these classes of the folder `place`."""
    size = size or SIZE
    files = [file for one in classes for file in one.files]
    options = {"size": size, "split": split}
    names = tuple(one.name for one in classes)
    return ClassImages(
        images=cache.remember(name, place, files, options, lambda: pictures.read_photos(place, files, size)),
        counts=torch.tensor([len(one.files) for one in classes]),
        names=names,
        groups=names,
        name=name,
        split=split,
    )


def classes_of(place: Path, split: str) -> list[Class]:
    """The classes of a split that have pictures enough, sorted by split and name. Nothing is decoded.

    Warns (CourseWarning) of classes and files that are left out, of classes that are split anew, and of names that
    differ in capitals only. (`load` also warns of copies of one picture.)
    """
    wanted = local.parts_of(split)
    return [one for one in _every_class(place) if one.part in wanted]


def _every_class(place: Path) -> list[Class]:
    """The classes of all splits; see `classes_of`."""
    folders, beside = local.listing(place)
    parts = _split_folders(place, folders)
    beside = [file for file in beside if _is_picture(file)]
    if folders and beside:
        _warn(
            f"{name_of(place)}: {len(beside)} pictures lie beside the class folders and belong to no class, such as "
            f"{beside[0]}: move them into one, or away"
        )
    found = {part: gather(place, f"{part}/", local.folders(place / part)) for part in parts}
    found = found or {"": gather(place, "", folders)}
    _warn_of_names_alike(place, {name for classes in found.values() for name in classes})
    if not parts:
        return _by_name(place, found[""])
    if _share_names(place, found):
        return _by_name(place, _joined(place, found))
    return [
        Class(name, part, files) for part, some in found.items() for name, files in _large_enough(place, some).items()
    ]


def _by_name(place: Path, found: dict[str, tuple[str, ...]]) -> list[Class]:
    """The classes that are large enough, split by their names."""
    found = _large_enough(place, found)
    part_of = _share_out(place, list(found))
    return [Class(name, part_of[name], files) for name, files in found.items()]


def _joined(place: Path, found: dict[str, dict[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """The pictures of each name from all split folders, without copies: one picture must not be support and query."""
    names = sorted({name for classes in found.values() for name in classes})
    joined = {name: [file for classes in found.values() for file in classes.get(name, ())] for name in names}
    return {name: tuple(_distinct(place, files)) for name, files in joined.items()}


def _distinct(place: Path, files: list[str]) -> list[str]:
    """The first file of each content, in order."""
    again = {file for some in _copies(place, files) for file in some[1:]}
    return [file for file in files if file not in again]


def _copies(place: Path, files: Iterable[str]) -> list[list[str]]:
    """Files of the same bytes, together and in order. Only those of one size and one end are read as a whole."""
    groups = [list(files)]
    for content in (os.path.getsize, _end, _digest):
        groups = [some for group in groups for some in _alike(group, lambda file: content(place / file))]  # noqa: B023
    return groups


def _alike(files: list[str], content: Callable[[str], Any]) -> list[list[str]]:
    """The files that have their content with others in common."""
    found: dict[Any, list[str]] = {}
    for file in files:
        found.setdefault(content(file), []).append(file)
    return [some for some in found.values() if len(some) > 1]


def _end(path: Path) -> bytes:
    """The last bytes of a file: photos of one camera begin alike."""
    with open(path, "rb") as file:
        file.seek(-min(END, os.path.getsize(path)), os.SEEK_END)
        return file.read()


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def warn_of_copies(place: Path, classes: list[Class]) -> None:
    """Say how many pictures of these classes are copies of others in their class, and which lie in another class, too.

    The other classes are those of all splits.
    """
    with warnings.catch_warnings():  # `classes_of` has said it
        warnings.simplefilter("ignore", CourseWarning)
        class_of = {file: one for one in _every_class(place) for file in one.files}
    class_of |= {file: one for one in classes for file in one.files}
    mine, within, shared = [one.name for one in classes], Counter(), []
    used = {file for one in classes for file in one.files}
    class_of = {file: one for file, one in class_of.items() if file in used or one.name not in mine}
    for some in _copies(place, class_of):
        of = Counter(class_of[file].name for file in some)
        within.update({name: of[name] - 1 for name in mine if of[name] > 1})
        if len(of) > 1 and of.keys() & set(mine):
            first = {class_of[file].name: file for file in reversed(some)}  # of each class
            by_split = sorted(first.values(), key=lambda file: PARTS.index(class_of[file].part))
            shared.append(" and ".join(f"{file!r} ({class_of[file].part})" for file in (by_split[0], by_split[-1])))
    if within:
        _warn(
            f"{name_of(place)}: byte copies of other pictures in their class: {within.total()}, such as in "
            f"{next(name for name in mine if name in within)!r}; a task may then ask about the very picture that it "
            "showed: remove the copies"
        )
    if shared:
        _warn(
            f"{name_of(place)}: pictures with byte copies in another class: {len(shared)}, such as {shared[0]}; a "
            "picture of two classes has no right answer, and one that was trained on is not new: keep it in one class"
        )


def _warn_of_names_alike(place: Path, names: set[str]) -> None:
    """Say which class names differ in capitals, accents' spelling or signs' width only: "Anna" and "anna"."""
    if alike := names_alike(names):
        _warn(
            f"{name_of(place)}: class names that differ in capitals or in the form of a sign only: {len(alike)}, such "
            f"as {alike[0][0]!r} and {alike[0][1]!r}; if they are one class, give its folders one name, since a class "
            "that is trained on is not new"
        )


def names_alike(names: Iterable[str]) -> list[list[str]]:
    """Names that differ in capitals, accents' spelling or signs' width only, together."""
    spelled: dict[str, list[str]] = {}
    for name in sorted(names):
        spelled.setdefault(unicodedata.normalize("NFKC", name).casefold(), []).append(name)
    return [some for some in spelled.values() if len(some) > 1]


def in_folders(place: Path, folders: tuple[str, ...]) -> list[Class]:
    """These class folders of `place`, whatever split they are of. Raises CourseError for one that is too small."""
    classes = [Class(name, "", files) for name, files in gather(place, "", folders).items()]
    for one in classes:
        if len(one.files) < LEAST_PICTURES:
            raise CourseError(
                f"{place / one.name} has {len(one.files)} pictures: the copy is incomplete, unpack it anew"
            )
    return classes


def split_of(class_name: str) -> str:
    """The split of a class by a hash of its name."""
    share = _share(class_name)
    return "train" if share < 0.6 else "val" if share < 0.8 else "test"


def _share(class_name: str) -> float:
    # Not every disk writes é in the same way, and not every name is text; "surrogatepass" takes those that are not.
    name = unicodedata.normalize("NFC", class_name).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") / 2**64


def _no_classes(place: Path, split: str) -> str:
    """Why a split has no class, and what to do."""
    known = Counter(one.part for one in classes_of(place, "all"))
    if not known:
        folders, files = local.listing(place)
        found = f", but {len(files)} files" if files and not folders else ""
        found = f", but {folders[0]!r} with too few pictures; is it one folder deeper?" if folders else found
        return (
            f"{place} has no class folders for split {split!r}{found}: put one folder of pictures per class there, "
            f"with at least {LEAST_PICTURES} pictures in each"
        )
    there = ", ".join(f"{known[part]} {part}" for part in PARTS)
    if _split_folders(place, local.folders(place)):
        return f"{place} has no class folders for split {split!r} ({there}): make a folder {split} in it, or use 'all'"
    return (
        f"none of the {sum(known.values())} classes of {place} falls into split {split!r} ({there}; at least "
        f"{LEAST_CLASSES} classes are needed to train and test, {_least_with_val()} to validate as well): use split "
        "'all', add classes, or make folders train, val and test in it, each with class folders"
    )


# ------------------------------------------------------------------------------------------------------------- splits


def _split_folders(place: Path, folders: tuple[str, ...]) -> list[str]:
    """Which of `train`, `val` and `test` are there as splits: folders of class folders. A class may have such a "
    "name."""
    here = [part for part in PARTS if part in folders]
    classes = [part for part in here if _has_pictures(place / part)]
    splits = [part for part in here if part not in classes and local.folders(place / part)]
    if not splits:
        return []
    beside = [one for one in folders if one not in PARTS and _holds_pictures(place / one)]
    if classes or beside:
        raise CourseError(
            f"{place} has {splits[0]!r} as a split, with class folders inside, and {(classes + beside)[0]!r} beside "
            "it: put every class folder into train, val or test, or none"
        )
    return splits


def _has_pictures(folder: Path) -> bool:
    """Whether pictures lie in the folder itself."""
    return any(_is_picture(file) or Path(file).suffix.lower() in FOREIGN for file in local.files(folder))


def _holds_pictures(folder: Path) -> bool:
    """Whether pictures lie in the folder, or in a folder of it."""
    return _has_pictures(folder) or any(_has_pictures(folder / inside) for inside in local.folders(folder))


def _share_names(place: Path, found: dict[str, dict]) -> bool:
    """Whether the split folders hold the same classes, as for a classifier; said in a warning.

    Raises CourseError where they share some names only: that may be a slip, and joining would undo a split on purpose.
    """
    pairs = [(one, two, found[one].keys() & found[two].keys()) for one, two in combinations(found, 2)]
    pairs = [pair for pair in pairs if pair[2]]
    if not pairs:
        return False
    for one, two, shared in pairs:
        if len(shared) < min(len(found[one]), len(found[two])):
            raise CourseError(
                f"{place}: {one} and {two} share {len(shared)} of their {len(found[one])} and {len(found[two])} class "
                f"names, such as {min(shared)!r}, but splits share no class: rename or remove it on one side"
            )
    one, two, shared = pairs[0]
    _warn(
        f"{name_of(place)}: {one} and {two} share {len(shared)} class names, such as {min(shared)!r}; a class that is "
        "trained on is not new, so the pictures of a name are joined (copies once), and the classes are split by name"
    )
    return True


def _share_out(place: Path, names: list[str]) -> dict[str, str]:
    """The split of each class: by the hash of its name, or, where a split gets too few, by the order of the hashes."""
    by_hash = {name: split_of(name) for name in names}
    sizes = Counter(by_hash.values())
    wanted = _fair(len(names))
    if len(names) < LEAST_CLASSES or all(sizes[part] >= min(2, wanted[part]) for part in PARTS):
        return by_hash
    _warn(
        f"{name_of(place)}: its {len(names)} classes are too few to be split by each name alone, so they are shared "
        "out: "
        + ", ".join(f"{wanted[part]} {part}" for part in PARTS)
        + "; when classes come or go, others may change their split"
    )
    parts = [part for part in PARTS for _ in range(wanted[part])]
    return dict(zip(sorted(names, key=_share), parts, strict=True))


def _fair(classes: int) -> dict[str, int]:
    """60 / 20 / 20 % of the classes: at least two for test, and no val where it would be one class."""
    fifth = round(classes / 5)
    val = fifth if fifth >= 2 else 0
    test = max(2, fifth)
    return {"train": classes - val - test, "val": val, "test": test}


def _least_with_val() -> int:
    return next(classes for classes in range(LEAST_CLASSES, 100) if _fair(classes)["val"])


# ------------------------------------------------------------------------------------------------- classes and files


def gather(place: Path, inside: str, folders: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Class name -> its picture files relative to `place`. Says which files are no pictures.

    Raises CourseError for pictures in a format that is not read, and where two folders have the same name.
    """
    classes: dict[str, tuple[str, ...]] = {}
    other, foreign = [], []
    for folder in folders:
        name = printable(unicodedata.normalize("NFC", folder))
        if name in classes:
            raise CourseError(f"{place / inside} has two class folders {name!r}, written in two ways: join them")
        nested, present = local.listing(place / inside / folder)
        paths = [f"{inside}{folder}/{file}" for file in present]
        classes[name] = tuple(path for path in paths if _is_picture(path))
        rest = [path for path in paths if not _is_picture(path)]
        foreign += [path for path in rest if Path(path).suffix.lower() in FOREIGN]
        other += [path for path in rest if Path(path).suffix.lower() not in FOREIGN]
        other += [f"{inside}{folder}/{one}/" for one in nested]
    if foreign:
        read = sum(len(files) for files in classes.values())
        raise CourseError(
            f"{place} has {len(foreign)} pictures in a format that is not read here ({_kinds(foreign)}), besides "
            f"{read} that are: convert them to JPEG or PNG, or move them out"
        )
    if other:
        _warn(
            f"{name_of(place)}: left out of the class folders, for it is no picture: {_kinds(other)}; convert to JPEG "
            "or PNG what should be a picture, and move pictures out of inner folders"
        )
    return classes


def _is_picture(file: str) -> bool:
    known = Image.registered_extensions()  # extension -> format; Pillow can also write some that it cannot read
    return known.get(Path(file).suffix.lower()) in Image.OPEN


def _kinds(paths: list[str]) -> str:
    """How many of which kind, the most frequent first, and an example: "38 .heic, such as cats/1.heic"."""
    kinds = Counter(
        "inner folder" if path.endswith("/") else Path(path).suffix.lower() or "without an ending" for path in paths
    )
    return printable(", ".join(f"{number} {kind}" for kind, number in kinds.most_common(4)) + f", such as {paths[0]}")


def _large_enough(place: Path, classes: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The classes with two pictures or more; the others are named in a warning."""
    small = {name: len(files) for name, files in classes.items() if len(files) < LEAST_PICTURES}
    if small:
        some = ", ".join(f"{name!r} ({count})" for name, count in list(small.items())[:5])
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        _warn(
            f"{name_of(place)}: {len(small)} of {len(classes)} classes have fewer than {LEAST_PICTURES} pictures and "
            f"are left out: {some}{more}; add pictures, or remove the folders"
        )
    return {name: files for name, files in classes.items() if name not in small}


def _warn(message: str) -> None:
    warnings.warn(printable(message), CourseWarning, stacklevel=2)
