"""Photos of people: ORL's faces, and any folder that holds one folder of photos per person.

**ORL** (AT&T Laboratories Cambridge; Samaria & Harter, *Parameterisation of a Stochastic Model for Human Face
Identification*, 1994, https://doi.org/10.1109/ACV.1994.341300): 40 people, 10 grey photos each, 92×112 pixels, as
`orl_faces/s01/01.png` to `s40/10.png` (or `.pgm`, `s1/1.pgm`) in the folder of local copies. There is no agreed split
into people to learn from and people to test on, so the course fixes five: SPLITS.

**Your own people**: a photo shows one face, cut about as the others are; nothing here finds faces. Ask everybody whose
photos you take. The pictures are read each time and kept nowhere else: no copy of them goes to the cache folder.
A person with one photo can be enrolled, but not tested: there is nothing to compare the photo with.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from mlcourse import places
from mlcourse.datasets import class_folders, local, pictures
from mlcourse.datasets.images import ClassImages
from mlcourse.errors import CourseError, CourseWarning, check_number, printable

FOLDER = "orl_faces"
SIZE = (48, 40)  # height, width: nearly ORL's 112 × 92, and that of the drawn faces
ORL_PEOPLE, ORL_PHOTOS = 40, 10

# Five times 20 people of ORL to test on; the other 20 are to learn from. The first, third and fifth were drawn by
# chance, the second and fourth are the other half of the one before: each person is tested two or three times.
SPLITS = tuple(
    tuple(f"s{int(number):02d}" for number in people.split())
    for people in (
        "1 2 4 6 7 8 10 12 15 16 17 22 26 27 29 32 33 36 38 39",
        "3 5 9 11 13 14 18 19 20 21 23 24 25 28 30 31 34 35 37 40",
        "8 10 11 13 14 15 16 17 18 20 21 30 31 32 33 34 37 38 39 40",
        "1 2 3 4 5 6 7 9 12 19 22 23 24 25 26 27 28 29 35 36",
        "2 4 7 8 10 11 12 14 15 18 21 22 25 26 30 32 33 37 39 40",
    )
)
TWO_NAMES = re.compile(r".\s*[&+]\s*.|.[\s_]+(and|und)[\s_]+.", re.IGNORECASE)


# ------------------------------------------------------------------ ORL


def orl(*, root: str | Path | None = None, size: tuple[int, int] = SIZE) -> ClassImages:
    """All 40 people of ORL, 10 photos each: grey, uint8 [400, 1, H, W].

    root: the folder of local copies, which holds `orl_faces`; default: MLCOURSE_DATA. size: (H, W).
    Raises CourseError for a copy that is missing, incomplete or damaged.
    """
    _check_size(size)
    place = (local.default_root() if root is None else places.whole(root)) / FOLDER
    if not os.path.isdir(place):
        raise CourseError(
            f"no folder {place}: unpack the ORL (AT&T) faces there as {FOLDER}/s01/01.png … s40/10.png, or name the "
            "folder that holds such a copy with root= or MLCOURSE_DATA"
        )
    found = class_folders.gather(place, "", local.folders(place))
    files: dict[str, tuple[str, ...]] = {}
    for name in [name for name in found if re.fullmatch(r"[sS]\d+", name)]:
        person = f"s{int(name[1:]):02d}"
        if person in files:
            raise CourseError(f"{place} has two folders of the person {person}, one of them {name!r}: keep one")
        files[person] = found[name]
    wanted = [f"s{number:02d}" for number in range(1, ORL_PEOPLE + 1)]
    short = next((name for name in wanted if len(files.get(name, ())) != ORL_PHOTOS), None)
    if short is not None:
        raise CourseError(
            f"{place / short} has {len(files.get(short, ()))} photos in place of {ORL_PHOTOS}: unpack the copy anew"
        )
    photos = pictures.read_photos(place, [file for name in wanted for file in files[name]], size)
    return _people(photos, dict.fromkeys(wanted, ORL_PHOTOS), "orl", "all").in_shape((1, *size))


def orl_split(
    number: int, *, root: str | Path | None = None, size: tuple[int, int] = SIZE
) -> tuple[ClassImages, ClassImages]:
    """One of the five splits of ORL, number 0 to 4: the 20 people to learn from, and the 20 others to test on."""
    if number not in range(len(SPLITS)):
        raise CourseError(f"split {number!r} of ORL does not exist: give 0 to {len(SPLITS) - 1}")
    return divided(orl(root=root, size=size), number)


def divided(everyone: ClassImages, number: int) -> tuple[ClassImages, ClassImages]:
    """The same of what `orl` gave: (to learn from, to test on)."""
    test = torch.tensor([name in SPLITS[number] for name in everyone.names])
    return everyone.select(~test), everyone.select(test)


# ------------------------------------------------------------------ any folder of people


def load(
    folder: str | Path,
    *,
    size: tuple[int, int] = SIZE,
    channels: int = 1,
    skip_damaged: bool = False,
) -> ClassImages:
    """The people of a folder, one folder of photos each, by name: uint8 [photos, channels, H, W].

    size: (H, W); a photo is turned upright (EXIF), scaled until it just covers that, and its centre is cut out.
    channels: 1 (grey, the luma of colours) or 3. skip_damaged: use the rest where photos cannot be read, and list what
    was left out in a warning; a person of whom nothing is left is left out, too.

    Raises CourseError for a folder that is missing or holds no people, a photo that cannot be read, a folder's name
    that names two people, two folders with one name, one picture under two names. Warns (CourseWarning) of people with
    one photo, copies of a photo, and grey photos among coloured ones.
    """
    _check_size(size)
    if channels not in (1, 3):
        raise CourseError(f"channels is {channels!r}: give 1 (grey) or 3 (colours)")
    place = places.whole(folder)
    if not os.path.isdir(place):
        raise CourseError(f"no folder {place}: name a folder that holds one folder of photos per person")
    found = {name: some for name, some in class_folders.gather(place, "", local.folders(place)).items() if some}
    if not found:
        raise CourseError(f"{place} holds no folder with photos: put one folder of photos per person there")
    _check_names(place, found)
    _check_copies(place, found)
    files = [file for some in found.values() for file in some]
    if skip_damaged:
        photos, faults = pictures.read_sound_photos(place, files, size)
        found = _without(found, faults)
        _tell_left_out(place, faults, len(files))
    else:
        photos = pictures.read_photos(place, files, size)
    counts = {name: len(some) for name, some in found.items()}
    if channels == 3:
        _warn_of_grey(place, photos, [file for some in found.values() for file in some])
    single = [name for name, count in counts.items() if count == 1]
    if single:
        _warn(
            f"{class_folders.name_of(place)}: one photo only of {_some(single)}: they can be enrolled, but not tested; "
            "add a second photo of each to test with them"
        )
    return _people(photos, counts, class_folders.name_of(place), "all").in_shape((channels, *size))


def testable(people: ClassImages) -> ClassImages:
    """The people with two photos or more. Raises CourseError where there is none."""
    return people.with_at_least(2)[0]


def _people(photos: Tensor, counts: dict[str, int], name: str, split: str) -> ClassImages:
    names = tuple(counts)
    return ClassImages(photos, torch.tensor(list(counts.values())), names, names, name, split)


def _check_size(size: tuple[int, int]) -> None:
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise CourseError(f"size is {size!r}: give height and width in pixels, such as {SIZE}")
    for side in size:
        check_number("a side of the photos", side, least=1)


def _check_names(place: Path, found: dict[str, tuple[str, ...]]) -> None:
    """Raise CourseError where a name stands for two people, or two names for one."""
    for name in found:
        if TWO_NAMES.search(name):
            raise CourseError(
                f"the folder {place / name} names two people: give each a folder of their own, and leave out photos "
                "that show both"
            )
    if alike := class_folders.names_alike(found):
        one, other = alike[0][:2]
        raise CourseError(
            f"{place} has the folders {one!r} and {other!r}, whose names differ in capitals or in the form of a sign "
            "only: join them if they are one person, else give one another name"
        )


def _check_copies(place: Path, found: dict[str, tuple[str, ...]]) -> None:
    """Raise CourseError for one picture under two names; warn of a picture that one person has twice."""
    owners = [(file, name) for name, files in found.items() for file in files]
    sizes = Counter(_bytes_in(place / file) for file, _ in owners)
    seen: dict[bytes, tuple[str, str]] = {}
    twice = []
    for file, name in owners:
        if sizes[_bytes_in(place / file)] == 1:
            continue
        first = seen.setdefault(hashlib.sha256((place / file).read_bytes()).digest(), (file, name))
        if first[1] != name:
            raise CourseError(
                f"{place / file} is the same picture as {place / first[0]}: it is of one person, so remove one of them"
            )
        twice += [file] if first[0] != file else []
    if twice:
        _warn(
            f"{class_folders.name_of(place)}: photos that are there twice under one name: {_some(twice)}; a person is "
            "then compared with the very same picture, so remove the copies"
        )


def _bytes_in(path: Path) -> int:
    try:
        return os.path.getsize(path)
    except OSError as error:
        raise CourseError(f"{path} cannot be read ({error.strerror}): mend it or its rights") from None


def _without(found: dict[str, tuple[str, ...]], faults: dict[str, str]) -> dict[str, tuple[str, ...]]:
    left = {name: tuple(file for file in files if file not in faults) for name, files in found.items()}
    return {name: files for name, files in left.items() if files}


def _tell_left_out(place: Path, faults: dict[str, str], files: int) -> None:
    if len(faults) == files:
        raise CourseError(f"none of the {files} photos of {place} can be read: {next(iter(faults.values()))}")
    if faults:
        listed = "; ".join(faults.values())
        _warn(f"{class_folders.name_of(place)}: {len(faults)} of {files} photos are left out: {listed}")


def _warn_of_grey(place: Path, photos: Tensor, files: list[str]) -> None:
    grey = (photos == photos[:, :1]).flatten(1).all(1)
    if grey.any() and not grey.all():
        some = [file for file, is_grey in zip(files, grey.tolist(), strict=True) if is_grey]
        _warn(
            f"{class_folders.name_of(place)}: grey photos among coloured ones: {_some(some)}; people could be told "
            "apart by that alone, so load all of them in grey (channels=1)"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _warn(message: str) -> None:
    warnings.warn(printable(message), CourseWarning, stacklevel=3)
