"""Photos with boxes around objects, as two kinds of files tell them.

    COCO-style json   `annotations.json` beside a folder `images`: "images", "annotations", "categories".
                      Lin et al., *Microsoft COCO: Common Objects in Context*, 2014, https://arxiv.org/abs/1405.0312.
    VOC-style xml     one file per photo in `Annotations`, the photos in `JPEGImages`.
                      Everingham et al., *The Pascal Visual Object Classes Challenge*, 2010,
                      https://doi.org/10.1007/s11263-009-0275-4.

However a file counts, the boxes come as x0, y0, x1, y1 in pixels from the photo's upper left corner, so that x1 − x0 is
the width (COCO gives width and height; VOC counts pixels from 1, and both ends belong to the box). A box may reach
beyond its photo by SLACK, from rounding, and is then cut there. Each photo is decoded once to see that it is whole, and
again when it is asked for: the photos are not kept in memory.

(The blood cells of BCCD are no few-shot set: nearly every photo holds all three classes, so no split of classes is
disjoint. Use it as a test on another domain, and say so.)
"""

from __future__ import annotations

import json
import math
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlcourse import places
from mlcourse.datasets import local, pictures
from mlcourse.datasets.faults import leads_out, rarer, settle
from mlcourse.errors import CourseError
from mlcourse.files import read_json

NAMES = ("playing_cards", "bccd")  # local copies in the folder of data
SLACK = 1.0  # pixels


@dataclass(frozen=True, eq=False)
class Boxes:
    """Photos and the boxes of each; the tensors of a photo have one entry per box.

    files: where each photo lies. sizes: (height, width) in pixels.
    boxes: float32 [n, 4], x0, y0, x1, y1. classes: int64 [n], an index into `names`. aside: bool [n], boxes that a
    score shall ignore, found or not (COCO's crowds, VOC's difficult ones).
    name: of the data set. left_out: one line for each fault for which something was left out.
    """

    files: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    boxes: tuple[Tensor, ...]
    classes: tuple[Tensor, ...]
    aside: tuple[Tensor, ...]
    names: tuple[str, ...]
    name: str
    left_out: tuple[str, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        """The number of photos."""
        return len(self.files)

    def __repr__(self) -> str:
        total = sum(len(one) for one in self.boxes)
        return f"Boxes({self.name}: {len(self)} photos, {total} boxes of {len(self.names)} classes)"

    def image(self, index: int) -> Tensor:
        """One photo, decoded now: uint8 [3, height, width], RGB. A negative index counts from the end.

        Raises CourseError for a photo that is not there, or was changed since it was looked at.
        """
        if not -len(self) <= index < len(self):
            raise CourseError(f"photo {index} does not exist: {self.name} has {len(self)}, counted from 0")
        marked = pictures.open_marked(self.files[index])
        if marked.size != self.sizes[index]:
            raise CourseError(f"{self.files[index]} has changed since its boxes were read: load the data set again")
        return torch.from_numpy(np.array(marked.photo)).permute(2, 0, 1).contiguous()


def load(name_or_folder: str | Path, *, root: str | Path | None = None, skip_damaged: bool = False) -> Boxes:
    """Photos with boxes, by the layout that is there: `annotations.json` (COCO) or the folder `Annotations` (VOC).

    name_or_folder: "playing_cards", "bccd" (local copies in `root`, by default MLCOURSE_DATA), or a folder's path.
    skip_damaged: leave out what is faulty, with a warning, and list it in `left_out`. A photo goes with all its boxes:
        with one of them missing, a detector that finds it would be blamed.

    Raises CourseError for a folder that is missing or of no such layout, and, with the file's name and the remedy, for
    a photo that is missing, damaged, of another size than its file of boxes says, turned by its EXIF tag, or grey among
    colour (or the reverse), for a box that lies outside its photo, has no area, or its ends exchanged, for a photo that
    two files tell of, and for a file of boxes that is damaged or unsafe.
    """
    name = os.fspath(name_or_folder)
    place = local.find(name, root, None) if name in NAMES else places.whole(name)
    if os.path.isfile(place / "annotations.json"):
        return coco(place / "annotations.json", place / "images", name=place.name, skip_damaged=skip_damaged)
    if os.path.isdir(place / "Annotations"):
        return voc(place, name=place.name, skip_damaged=skip_damaged)
    raise CourseError(
        f"{place} holds neither annotations.json nor a folder Annotations: name a folder of one of the two layouts, or "
        f"choose {', '.join(NAMES)}"
    )


# ------------------------------------------------------------------ one photo, as both kinds of files tell it


@dataclass
class Told:
    """What a file says of one photo. boxes: (x0, y0, x1, y1, class, aside)."""

    file: Path
    size: tuple[int, int]
    source: Path
    boxes: list[tuple[float, float, float, float, int, bool]] = field(default_factory=list)


def _whole(told: list[Told], names: tuple[str, ...], name: str, faults: list[str], skip: bool) -> Boxes:
    """The photos without a fault, or the error that names the first fault."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looks = list(pool.map(_fault_or_grey, told))
    faults = faults + [look for look in looks if isinstance(look, str)]
    grey = {one.file: look for one, look in zip(told, looks) if not isinstance(look, str)}
    odd = rarer(grey)
    left_out = settle([*faults, *odd.values()], skip=skip, of=name)
    kept = [one for one in told if one.file in grey and one.file not in odd]
    if not kept:
        raise CourseError(f"{name} holds no photo with boxes that can be used: add some")
    return Boxes(
        files=tuple(one.file for one in kept),
        sizes=tuple(one.size for one in kept),
        boxes=tuple(torch.tensor([_cut(box, one.size) for box in one.boxes]).view(-1, 4) for one in kept),
        classes=tuple(torch.tensor([box[4] for box in one.boxes], dtype=torch.int64) for one in kept),
        aside=tuple(torch.tensor([box[5] for box in one.boxes], dtype=torch.bool) for one in kept),
        names=names,
        name=name,
        left_out=left_out,
    )


def _fault_or_grey(told: Told) -> str | bool:
    """A line that says what is wrong with a photo or its boxes; else whether it is grey."""
    if not os.path.isfile(told.file):
        return f"{told.source} names the photo {told.file}, which is missing: add it, or remove what is told of it"
    for box in told.boxes:
        trouble = _trouble(box[:4], told.size)
        if trouble:
            where = ", ".join(f"{end:g}" for end in box[:4])
            return f"{told.source}: the box ({where}) of {told.file.name} {trouble}: correct or remove it"
    try:
        marked = pictures.open_marked(told.file, least=1)
    except CourseError as error:
        return str(error)
    if marked.size != told.size:
        given, there = (f"{width}×{height}" for height, width in (told.size, marked.size))
        return f"{told.file} has {there} pixels, but {told.source} says {given}: take the photo that was labelled"
    return marked.grey


def _trouble(box: tuple[float, ...], size: tuple[int, int]) -> str:
    """What is wrong with a box, in words; nothing where all is well."""
    x0, y0, x1, y1 = box
    if not all(math.isfinite(end) for end in box):
        return "is not finite"
    if x1 < x0 or y1 < y0:
        return "has its ends exchanged (x1 < x0 or y1 < y0)"
    if x1 == x0 or y1 == y0:
        return "has no area"
    height, width = size
    inside = min(x1, width) - max(x0, 0) > 0 and min(y1, height) - max(y0, 0) > 0
    if not inside or min(x0, y0) < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
        return f"lies outside its photo of {width}×{height} pixels"
    return ""


def _cut(box: tuple, size: tuple[int, int]) -> list[float]:
    (x0, y0, x1, y1), (height, width) = box[:4], size
    return [max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))]


# ------------------------------------------------------------------ COCO


def coco(annotations: str | Path, images: str | Path, *, name: str | None = None, skip_damaged: bool = False) -> Boxes:
    """COCO-style boxes: the file of all annotations, and the folder of the photos. See `load`."""
    source, folder = places.whole(annotations), places.whole(images)
    content = _coco_parts(source)
    names = _coco_names(source, content["categories"])
    index_of = {number: index for index, number in enumerate(sorted(names))}
    told, faults = {}, []
    for entry in content["images"]:
        file = _field(source, "images", entry, "file_name", str)
        if leads_out(file):
            raise CourseError(f"{source} names the photo {file!r}, which leads out of its folder: correct the name")
        number = _field(source, "images", entry, "id", int)
        size = tuple(_field(source, "images", entry, side, int) for side in ("height", "width"))
        if number in told:
            raise CourseError(f"{source} has two photos of the id {number}: give each its own")
        told[number] = Told(folder / file, size, source)
    twice = [file for file, count in Counter(one.file for one in told.values()).items() if count > 1]
    if twice:
        raise CourseError(f"{source} names the photo {twice[0].name!r} twice: join what is told of it")
    for entry in content["annotations"]:
        image, category = (_field(source, "annotations", entry, key, int) for key in ("image_id", "category_id"))
        if category not in names:
            raise CourseError(f"{source} has a box of the category {category}, which it does not name: add it")
        if image not in told:
            faults.append(f"{source} has a box of the photo with id {image}, which it does not list: add or remove it")
            continue
        x, y, width, height = _four(source, entry)
        crowd = entry.get("iscrowd", 0)
        if not isinstance(crowd, (bool, int)) or crowd not in (0, 1):
            raise CourseError(f"{source} has a box whose 'iscrowd' is {crowd!r}: write 0 or 1, without quotes")
        aside = bool(crowd)
        told[image].boxes.append((x, y, x + width, y + height, index_of[category], aside))
    ordered = tuple(names[number] for number in sorted(names))
    return _whole(list(told.values()), ordered, name or folder.parent.name, faults, skip_damaged)


def _coco_parts(source: Path) -> dict[str, list]:
    content = read_json(source)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list) or not all(isinstance(one, dict) for one in content[key]):
            raise CourseError(f"{source} has no list {key!r}: give images, annotations and categories, as COCO does")
    return content


def _coco_names(source: Path, categories: list[dict]) -> dict[int, str]:
    names = {
        _field(source, "categories", one, "id", int): _field(source, "categories", one, "name", str)
        for one in categories
    }
    if len(names) < len(categories) or len(set(names.values())) < len(names):
        raise CourseError(f"{source} has two categories of one id or name: give each its own")
    return names


def _field(source: Path, where: str, entry: dict, key: str, kind: type) -> Any:
    """One value of an entry. Raises CourseError where it is missing, or of another kind."""
    value = entry.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        shown = json.dumps(entry)[:80]
        raise CourseError(f"{source} has an entry of {where!r} whose {key!r} is {value!r} ({shown}): correct it")
    return value


def _four(source: Path, entry: dict) -> list[float]:
    """x, y, width, height of a box."""
    box = entry.get("bbox")
    try:
        if isinstance(box, list) and len(box) == 4 and not any(isinstance(one, (bool, str)) for one in box):
            return [float(one) for one in box]
    except (TypeError, OverflowError):  # no number, or one of hundreds of digits
        pass
    raise CourseError(f"{source} has a box {box!r}: give [x, y, width, height]")


# ------------------------------------------------------------------ VOC


def voc(place: str | Path, *, name: str | None = None, skip_damaged: bool = False) -> Boxes:
    """VOC-style boxes: `Annotations/*.xml` and `JPEGImages` in a folder. Classes are in the order of their names."""
    place = places.whole(place)
    files = [file for file in local.files(place / "Annotations") if file.lower().endswith(".xml")]
    read, faults = [], []
    for file in files:
        try:
            read.append(_voc_photo(place, place / "Annotations" / file))
        except CourseError as error:
            faults.append(str(error))
    read, twice = _told_once(read)
    faults += twice
    names = tuple(sorted({box[4] for one in read for box in one.boxes}))
    for one in read:
        one.boxes = [(*box[:4], names.index(box[4]), box[5]) for box in one.boxes]
    return _whole(read, names, name or place.name, faults, skip_damaged)


def _told_once(told: list[Told]) -> tuple[list[Told], list[str]]:
    """What is told of photos that one file tells of; and a line for each photo that two tell of."""
    sources: dict[Path, list[Path]] = {}
    for one in told:
        sources.setdefault(one.file, []).append(one.source)
    faults = [
        f"{some[0]} and {some[1].name} tell of the same photo {file.name!r}: join them in one file, or correct a name"
        for file, some in sources.items()
        if len(some) > 1
    ]
    return [one for one in told if len(sources[one.file]) == 1], faults


def _voc_photo(place: Path, source: Path) -> Told:
    """What one xml file tells; the class of each box is still a name."""
    tree = _safe_xml(source)
    file = _text(source, tree, "filename")
    if leads_out(file):
        raise CourseError(f"{source} names the photo {file!r}, which leads out of its folder: correct the name")
    size = tuple(int(_number(source, tree, f"size/{side}")) for side in ("height", "width"))
    told = Told(place / "JPEGImages" / file, size, source)
    for thing in tree.iter("object"):
        x0, y0, x1, y1 = (_number(source, thing, f"bndbox/{end}") for end in ("xmin", "ymin", "xmax", "ymax"))
        difficult = _text(source, thing, "difficult") if thing.find("difficult") is not None else "0"
        if difficult not in ("0", "1"):
            raise CourseError(f"{source} has {difficult[:40]!r} as <difficult>: write 0 or 1")
        told.boxes.append((x0 - 1, y0 - 1, x1, y1, _text(source, thing, "name"), difficult == "1"))
    return told


class _NoDoctype(ElementTree.TreeBuilder):
    """Builds a tree, and refuses a document type: only there can entities be made that blow up, or read other files."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise CourseError("it declares a document type, which no file of boxes needs and which may be an attack")


def _safe_xml(source: Path) -> ElementTree.Element:
    """The tree of an xml file. Raises CourseError for one that is damaged, or declares a document type (entities)."""
    try:
        return ElementTree.fromstring(source.read_bytes(), ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, CourseError, OSError, ValueError, LookupError) as error:
        raise CourseError(f"{source} is no safe and whole xml file ({error}): replace or remove it") from None


def _text(source: Path, tree: ElementTree.Element, path: str) -> str:
    found, told = tree.findall(path), path.replace("/", "><")
    if len(found) > 1:
        raise CourseError(f"{source} has <{told}> twice in one place: keep one")
    text = (found[0].text or "").strip() if found else ""
    if not text:
        raise CourseError(f"{source} has no <{told}>: add it, or remove the file")
    return text


def _number(source: Path, tree: ElementTree.Element, path: str) -> float:
    found = _text(source, tree, path)
    try:
        value = float(found)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CourseError(f"{source} has {found[:40]!r} as <{path.replace('/', '><')}>: give a number")
    return value
