"""Photos with a label map: at each pixel the class of what is seen there, or void (nobody says, so nothing counts).

    MSRC v2             591 photos, 23 classes. Shotton, Winn, Rother, Criminisi, *TextonBoost*, 2006,
                        https://doi.org/10.1007/11744023_1. As there, `horse` and `mountain` are void: too few photos.
    Pascal VOC 2012     2,913 photos, 20 classes, in torchvision's layout. Everingham et al., *The Pascal Visual Object
                        Classes Challenge: A Retrospective*, 2015, https://doi.org/10.1007/s11263-014-0733-5.
    a folder            `images/`, `labels/` (PNG, one number per pixel, same names) and `classes.json` ({"1": "cow"};
                        0 is void), as the copy of MSRC v2 has them.

**Folds.** A fold is a fixed list of classes that are unseen: part "test" asks for these only, and in part "train" their
pixels are void, so that no training sees them, neither as a class nor as background. The four folds of Pascal are
PASCAL-5i (Shaban et al., *One-Shot Learning for Semantic Segmentation*, 2017, https://arxiv.org/abs/1709.03410); there
these pixels are background in training. MSRC has no published folds: those here keep what looks alike on one side (cow
and sheep, cat and dog, face and body).

**Which photos.** Of Pascal, part "train" has those of its list `train`, part "test" those of `val`. MSRC v2 is small:
both parts take all photos, and training may see a photo of the test, with void where the unseen class is.

Every photo is scaled so that its longer side has `size` pixels, and laid on the middle of a square; what the photo does
not cover is void.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mlcourse import places
from mlcourse.datasets import cache, local, pictures
from mlcourse.datasets.faults import leads_out, rarer, settle
from mlcourse.errors import CourseError
from mlcourse.files import read_json

VOID = 255  # of a label map
SIZE = 224
PARTS = ("train", "test", "all")
LONGEST = 9  # digits of a number: what is longer is none of ours, and Python reads no number of thousands
GREY = 127  # where a photo does not cover its square

MSRC, VOC = "msrc_v2", "voc2012"
TOO_FEW = ("horse", "mountain")  # void in MSRC v2, as in the paper
VOC_FOLDER = "VOCdevkit"  # as torchvision leaves it, with VOC2012 inside
VOC_FOLDS = (
    ("aeroplane", "bicycle", "bird", "boat", "bottle"),
    ("bus", "car", "cat", "chair", "cow"),
    ("diningtable", "dog", "horse", "motorbike", "person"),
    ("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
VOC_CLASSES = tuple(name for fold in VOC_FOLDS for name in fold)  # in the order of their numbers, from 1 on
FOLDS: dict[str, tuple[tuple[str, ...], ...]] = {
    MSRC: (
        ("building", "sky", "cow", "sheep", "flower"),
        ("tree", "water", "face", "body", "boat", "book"),
        ("grass", "sign", "bird", "cat", "dog"),
        ("aeroplane", "car", "bicycle", "road", "chair"),
    ),
    VOC: VOC_FOLDS,
}
# Which of these classes the 1,000 of ImageNet hold, under some name of theirs: a network that was pre-trained there
# with labels has seen them. The name is one of several, as torchvision writes it.
IN_IMAGENET = {
    "aeroplane": "airliner", "bicycle": "mountain bike", "bird": "robin", "boat": "speedboat", "book": "comic book",
    "bottle": "beer bottle", "building": "church", "bus": "school bus", "car": "sports car", "cat": "tabby",
    "chair": "folding chair", "cow": "ox", "diningtable": "dining table", "dog": "beagle", "flower": "daisy",
    "horse": "sorrel", "motorbike": "moped", "pottedplant": "pot", "sheep": "ram", "sign": "street sign",
    "sofa": "studio couch", "train": "bullet train", "tvmonitor": "television",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class LabelMaps:
    """Photos of one size with their label maps.

    images: uint8 [photos, 3, S, S], RGB. labels: uint8 [photos, S, S]: numbers of classes, VOID where nobody says. What
    is neither VOID nor a key of `names` is background.
    names: the number of each class that may be asked for → its name. files: one per photo.
    name, part: where they come from. left_out: one line for each faulty photo that was left out.
    """

    images: Tensor
    labels: Tensor
    names: Mapping[int, str]
    files: tuple[str, ...]
    name: str
    part: str = "all"
    left_out: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        given = f"{self.images.dtype} {tuple(self.images.shape)} and {self.labels.dtype} {tuple(self.labels.shape)}"
        if self.images.dtype != torch.uint8 or self.labels.dtype != torch.uint8 or self.images.dim() != 4:
            raise CourseError(f"photos and label maps are {given}; give uint8 [photos, 3, S, S] and [photos, S, S]")
        if self.labels.shape != (len(self.files), *self.images.shape[2:]) or len(self.images) != len(self.files):
            raise CourseError(f"photos and label maps are {given}, with {len(self.files)} names; give as many of each")
        wrong = [number for number in self.names if not 0 <= number < VOID]
        if wrong or not self.names:
            raise CourseError(f"the classes are {dict(self.names)}; give one or more, numbered 0 to {VOID - 1}")

    @property
    def classes(self) -> tuple[int, ...]:
        """The numbers of the classes that may be asked for, in order."""
        return tuple(sorted(self.names))

    @cached_property
    def shares(self) -> Tensor:
        """float32 [photos, classes]: the share of each class in what is not void of a photo. Order: `classes`."""
        known = (self.labels != VOID).flatten(1).sum(1).clamp(min=1)
        return torch.stack([(self.labels == one).flatten(1).sum(1) / known for one in self.classes], 1)

    @cached_property
    def content(self) -> str:
        """A digest of photos, label maps and classes: a name alone does not tell two selections apart."""
        digest = hashlib.sha256(repr(sorted(self.names.items())).encode())
        for part in (self.images, self.labels):
            digest.update(part.cpu().contiguous().numpy())
        return digest.hexdigest()[:12]

    def only(self, names: Sequence[str]) -> LabelMaps:
        """The same photos, with these classes to ask for; all others are background."""
        numbers = self.numbers(names)
        return replace(self, names={one: self.names[one] for one in numbers}, part="test")

    def without(self, names: Sequence[str]) -> LabelMaps:
        """The same photos, with the pixels of these classes void: nothing can be learned about them."""
        numbers = self.numbers(names)
        hidden = torch.isin(self.labels, torch.tensor(numbers, dtype=torch.uint8, device=self.labels.device))
        left = {one: name for one, name in self.names.items() if one not in numbers}
        return replace(self, labels=self.labels.masked_fill(hidden, VOID), names=left, part="train")

    def numbers(self, names: Sequence[str]) -> list[int]:
        """The numbers of these classes. Raises CourseError for a name that is not there, or stands twice."""
        number_of = {name: one for one, name in self.names.items()}
        wrong = [name for name in names if name not in number_of]
        if wrong or not names or len(set(names)) < len(names):
            told = repr(wrong[0]) if wrong else list(names)
            raise CourseError(f"{self.name} cannot take the classes {told}; name some of {', '.join(number_of)}, once")
        return [number_of[name] for name in names]

    def seen_in_imagenet(self) -> list[str]:
        """The names of those classes that ImageNet's labels hold, too (known for MSRC v2 and Pascal VOC only)."""
        return [self.names[one] for one in self.classes if self.names[one] in IN_IMAGENET]


def load(
    name_or_folder: str | Path = MSRC,
    fold: int | Sequence[str] | None = None,
    part: str = "all",
    *,
    root: str | Path | None = None,
    size: int = SIZE,
    skip_damaged: bool = False,
    download: bool = False,
) -> LabelMaps:
    """Photos with label maps.

    name_or_folder: "msrc_v2", "voc2012", or the path of a folder with `images`, `labels` and `classes.json`.
    fold: 0, 1, 2 or 3 (see FOLDS), or names of classes that are unseen. None: no class is.
    part: "train", "test" or "all". With a fold, "test" asks for its classes, and "train" has them void.
    root: the folder of local copies; by default MLCOURSE_DATA, else `data` in the cache folder.
    size: height and width of the squares, in pixels. download: fetch a missing Pascal VOC (https, checksum; 2 GB).
    skip_damaged: leave faulty photos out, with a warning, and list them in `left_out`. What is whole is kept decoded in
        the cache; with faults each load decodes anew.

    Raises CourseError for an unknown request, a missing copy, and, with the file's name and the remedy, for a damaged
    photo or label map, a label map of another size, or with unknown numbers, one without the other, two of one name, a
    grey photo among colour (or the reverse), and a photo that its EXIF tag turns.
    """
    if part not in PARTS:
        raise CourseError(f"unknown part {part!r}: choose {', '.join(PARTS)}")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise CourseError(f"size {size!r} is not a number of pixels: give an integer of at least 1, such as {SIZE}")
    if part != "all" and fold is None and name_or_folder != VOC:
        raise CourseError(f"part {part!r} needs a fold, whose classes are unseen: give fold=0, or part='all'")
    if part == "all" and fold is not None:
        raise CourseError(f"fold {fold!r} says which classes are unseen in training: choose part='train' or 'test'")
    read = _voc if name_or_folder == VOC else _folder
    maps = read(name_or_folder, part, root=root, size=size, skip=skip_damaged, download=download)
    if fold is None:
        return maps
    unseen = _unseen(str(name_or_folder), fold)
    return maps.only(unseen) if part == "test" else maps.without(unseen)


def _unseen(name: str, fold: int | Sequence[str]) -> Sequence[str]:
    if not isinstance(fold, int):
        return (fold,) if isinstance(fold, str) else fold
    known = FOLDS.get(name, ())
    if isinstance(fold, bool) or not 0 <= fold < len(known):
        have = f"has the folds 0 to {len(known) - 1}" if known else "has no fixed folds: name the unseen classes"
        raise CourseError(f"fold {fold!r} does not exist: {name} {have}")
    return known[fold]


# ------------------------------------------------------------------ layouts


def _folder(
    name: str | Path, part: str, *, root: str | Path | None, size: int, skip: bool, download: bool
) -> LabelMaps:
    """MSRC v2, or a folder of the same layout."""
    known = name == MSRC
    place = local.find(MSRC, root, None) if known else places.whole(name)
    if not os.path.isdir(place):
        raise CourseError(f"there is no folder {place}: choose {MSRC}, {VOC} or a folder with images and labels")
    names = _names(place / "classes.json")
    asked = {number: one for number, one in names.items() if not (known and one in TOO_FEW)}
    to_void = [0, *(names.keys() - asked.keys())]
    (photos, twice), (masks, twice_there) = _by_name(place, "images"), _by_name(place, "labels")
    unclear = twice.keys() | twice_there.keys()  # nobody knows which belongs to which
    photos, masks = ({one: file for one, file in some.items() if one not in unclear} for some in (photos, masks))
    faults = [*twice.values(), *twice_there.values()]
    faults += [f"{place / photos[one]} has no label map: add labels/{one}.png" for one in photos.keys() - masks.keys()]
    faults += [f"{place / masks[one]} has no photo: add it to images" for one in masks.keys() - photos.keys()]
    pairs = [(photos[one], masks[one]) for one in sorted(photos.keys() & masks.keys())]
    allowed = {*names, 0}
    layout = Layout(place, MSRC if known else place.name, asked, allowed, tuple(sorted(to_void)))
    return _read(layout, pairs, part, size, sorted(faults), skip)


def _by_name(place: Path, kind: str) -> tuple[dict[str, str], dict[str, str]]:
    """The files of a folder by their names without ending; and, for each name of several files, the fault."""
    found: dict[str, list[str]] = {}
    for file in local.files(place / kind):
        found.setdefault(Path(file).stem, []).append(file)
    faults = {
        one: f"{place / kind / some[0]} and {some[1]} have one name without the ending: keep one, or rename it"
        for one, some in found.items()
        if len(some) > 1
    }
    return {one: f"{kind}/{some[0]}" for one, some in found.items()}, faults


def _names(path: Path) -> dict[int, str]:
    """Number → name of the classes of a folder, without 0."""
    names = {}
    for number, name in read_json(path).items():
        known = number.isdecimal() and len(number) <= LONGEST and int(number) < VOID
        if not known or not isinstance(name, str):
            shown = f"{number[:20]!r}: {name!r:.60}"
            raise CourseError(f'{path} has {shown}; write {{"1": "cow", …}}, with numbers below {VOID}')
        if int(number) in names:
            raise CourseError(
                f"{path} has the class {int(number)} twice, as {names[int(number)]!r} and {name!r}: keep one"
            )
        names[int(number)] = name
    names.pop(0, None)
    if not names or len(set(names.values())) < len(names):
        raise CourseError(f"{path} names no classes, or one twice; give each number from 1 on a name of its own")
    return names


def _voc(name: str | Path, part: str, *, root: str | Path | None, size: int, skip: bool, download: bool) -> LabelMaps:
    """Pascal VOC 2012 as torchvision leaves it: VOCdevkit/VOC2012."""
    place = local.find(VOC_FOLDER, root, _download if download else None) / "VOC2012"
    lists = {"train": ["train"], "test": ["val"], "all": ["train", "val"]}[part]
    stems = [stem for one in lists for stem in _listed(place / "ImageSets" / "Segmentation" / f"{one}.txt")]
    twice = [stem for stem, count in Counter(stems).items() if count > 1]
    if twice:
        raise CourseError(f"the lists of {place} name {twice[0]!r} twice: unpack the archive anew")
    faults, pairs = [], []
    for stem in stems:
        pair = f"JPEGImages/{stem}.jpg", f"SegmentationClass/{stem}.png"
        lost = [file for file in pair if not os.path.isfile(place / file)]
        if lost:
            faults.append(f"{place / lost[0]} is missing: unpack the archive anew")
        else:
            pairs.append(pair)
    names = dict(enumerate(VOC_CLASSES, start=1))
    return _read(Layout(place, VOC, names, {0, VOID, *names}, ()), pairs, part, size, faults, skip)


def _listed(path: Path) -> list[str]:
    """The names in a list of Pascal VOC."""
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"{path} cannot be read ({error}): unpack the archive anew") from None
    wrong = [name for name in names if leads_out(name)]
    if wrong:
        raise CourseError(f"{path} names {wrong[0]!r}, which leads out of the data set: unpack the archive anew")
    return names


def _download(folder: Path) -> None:
    """Fill an empty folder with `VOCdevkit`. torchvision knows the address and checks the sum of what it gets."""
    from torchvision.datasets import VOCSegmentation  # late: it takes a second, and only a download needs it

    VOCSegmentation(folder, year="2012", download=True)


# ------------------------------------------------------------------ reading


@dataclass(frozen=True)
class Layout:
    """How a copy's label maps are read: which numbers may stand there, and which of them mean void."""

    place: Path
    name: str
    names: Mapping[int, str]
    allowed: set[int]
    void: tuple[int, ...]


class Faulty(CourseError):
    """Some photos of a copy are faulty. faults: a line for each. whole: the files and tensors of all others."""

    def __init__(self, faults: list[str], whole: tuple[list[str], Tensor | None]):
        super().__init__(faults[0])
        self.faults, self.whole = faults, whole


def _read(
    layout: Layout, pairs: list[tuple[str, str]], part: str, size: int, faults: list[str], skip: bool
) -> LabelMaps:
    """Photos and label maps of these pairs of files (relative to the copy's folder), in their order."""
    files = [photo for photo, _ in pairs]
    if faults and not skip:
        settle(faults, skip=False, of=layout.name)
    which = part if layout.name == VOC else "all"  # elsewhere all parts have the same photos
    options = {"label maps": size, "void": list(layout.void), "part": which}
    try:
        both = [file for pair in pairs for file in pair]
        stacked = cache.remember(layout.name, layout.place, both, options, lambda: _decoded(layout, pairs, size))
    except Faulty as found:
        faults = [*faults, *found.faults]
        files, stacked = found.whole
    left_out = settle(faults, skip=skip, of=layout.name)
    if not files:
        raise CourseError(f"{layout.place} holds no photo with a label map that can be used: add some")
    images, labels = stacked[:, :3], stacked[:, 3]
    return LabelMaps(images, labels, dict(layout.names), tuple(files), layout.name, part, left_out)


def _decoded(layout: Layout, pairs: list[tuple[str, str]], size: int) -> Tensor:
    """uint8 [photos, 4, size, size]: red, green, blue, label. Raises Faulty, which holds the whole ones, too."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(pairs, pool.map(lambda pair: _pair(layout, *pair, size), pairs)))
    faults = [one for one in found.values() if isinstance(one, str)]
    whole = {photo: one for (photo, _), one in found.items() if not isinstance(one, str)}
    odd = rarer({layout.place / photo: is_grey for photo, (_, is_grey) in whole.items()})
    files = [photo for photo in whole if layout.place / photo not in odd]
    stacked = torch.from_numpy(np.stack([whole[photo][0] for photo in files])) if files else None
    if faults or odd or stacked is None:
        raise Faulty([*faults, *odd.values()] or [f"{layout.place} holds no photos: add some"], (files, stacked))
    return stacked


def _pair(layout: Layout, photo: str, mask: str, size: int) -> tuple[np.ndarray, bool] | str:
    """uint8 [4, size, size] of one photo and its label map, and whether it is grey; or a line that tells its fault."""
    try:
        marked = pictures.open_marked(layout.place / photo, least=2 * size)
        labels = pictures.open_labels(layout.place / mask)
    except CourseError as error:
        return str(error)
    if labels.shape != marked.size:
        sizes = [f"{width}×{height}" for height, width in (labels.shape, marked.size)]
        return (
            f"{layout.place / mask} has {sizes[0]} pixels, but its photo has {sizes[1]}: save both in one size, or "
            "remove both"
        )
    unknown = sorted(set(np.unique(labels).tolist()) - layout.allowed)
    if unknown:
        return (
            f"{layout.place / mask} has the unknown label {unknown[0]}: name it among the classes, or paint these "
            "pixels void"
        )
    labels = np.where(np.isin(labels, layout.void), VOID, labels).astype(np.uint8)
    colours = np.asarray(_square(marked.photo, size, Image.Resampling.BICUBIC, (GREY,) * 3, marked.size))
    numbers = np.asarray(_square(Image.fromarray(labels), size, Image.Resampling.NEAREST, VOID, marked.size))
    return np.concatenate([colours.transpose(2, 0, 1), numbers[None]]), marked.grey


def _square(
    picture: Image.Image, size: int, method: Image.Resampling, around: int | tuple, of: tuple[int, int]
) -> Image.Image:
    """A picture of (height, width) `of`, scaled to `size` at its longer side, in the middle of a square."""
    scale = size / max(of)
    height, width = (max(1, round(side * scale)) for side in of)
    scaled = picture.resize((width, height), method)
    square = Image.new(scaled.mode, (size, size), around)
    square.paste(scaled, ((size - width) // 2, (size - height) // 2))
    return square
