"""A protocol is a file that fixes the episodes of a comparison: their data, how they are drawn, and what came of it.

Two results are a pair only when both learners answered the same episodes, in the same way. So the file holds digests:
of the names and numbers of pictures of the classes (is it the same data?), of the pictures themselves (are they the
same to the bit?), of all indices drawn (are they the same episodes?), and one of all fields that a figure depends on,
these three among them. Results carry the last one. `data/protocols/README.md` says what each field is.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mlcourse import datasets, evaluation, places
from mlcourse.datasets import ClassImages
from mlcourse.episodes import EpisodeSampler, WithinGroups, check_positive, check_seed
from mlcourse.errors import CourseError, printable
from mlcourse.learners import METHODS
from mlcourse.protocols import typed

TASKS = ("classes", "within groups")
LEAST_EPISODES, LEAST_WAY = 2, 2  # one episode has no interval, one class nothing to be told from
UNTRAINED = "untrained-"  # before the name of a method: its network of random weights
SAID = ("name", "what", "rows", "digest")  # fields that no figure depends on
ANY_SIZE = ("omniglot", "caltech101")  # files are read in any size; others have one size, and are converted
EXACT = ("glyphs", "omniglot", "mnist")  # data sets whose files every decoder reads alike
OWN = "complete a comparison of your own (`Protocol.completed`) under a name of its own"


@dataclass(frozen=True)
class Protocol:
    """The fields of a protocol's file; see `data/protocols/README.md`."""

    name: str
    what: str
    dataset: str
    lists: str | None  # the split's lists, of omniglot: vinyals or lake
    split: str
    rotations: bool
    at_most: int | None  # pictures of a class that are taken, the first by name
    left_out: tuple[str, ...]  # groups (alphabets, scripts)
    tasks: str  # one of TASKS
    way: int
    shot: int
    query: int
    one_by_one: bool  # each query is asked alone
    seed: int
    episodes: int
    calibrate_on: dict[str, str | None]  # dataset, lists and split of the classes that a temperature is fitted on
    clusters: str  # what the groups are: alphabets, scripts, classes
    rows: tuple[str, ...]  # the methods of its table
    classes: int
    pictures: int
    data_digest: str = ""  # of the classes' names and numbers of pictures
    content_digest: str | None = None  # of the pictures; None where a decoder may differ (JPEG)
    index_digest: str = ""  # of all indices drawn, as in `evaluation.Result`
    digest: str = ""  # of all fields but SAID: two protocols of one digest ask the same

    # ------------------------------------------------------------------ data

    def images(
        self, *, root: Path | str | None = None, download: bool = False, shape: tuple[int, int, int] | None = None
    ) -> ClassImages:
        """The classes that are tested; in another `shape` (C, H, W) where one is given. Nothing is checked yet."""
        where = {"root": root, "download": download, "shape": shape}
        found = _load(self.dataset, self.split, self.lists, self.rotations, **where)
        unknown = sorted(set(self.left_out) - set(found.groups))
        if unknown:
            raise CourseError(f"protocol {self.name} leaves out {unknown[0]!r}, which {self.dataset} has not; mend it")
        found = found.select([i for i, group in enumerate(found.groups) if group not in self.left_out])
        return found if self.at_most is None else _first(found, self.at_most)

    def check(self, images: ClassImages) -> None:
        """Raise CourseError unless `images`, in their own shape, are the data, and give the episodes, of this file."""
        there = (self.classes, self.pictures) == (images.classes, len(images.images))
        if data_digest(images) != self.data_digest or not there:
            raise CourseError(
                f"protocol {self.name} is of other data: of {self.classes} classes with {self.pictures} pictures, and "
                f"{self.dataset} {self.split} has here {images.classes} with {len(images.images)}, or under other "
                "names; take a whole copy of the data, and the protocol's file as it came"
            )
        if self.content_digest not in (None, content_digest(images)):
            raise CourseError(
                f"protocol {self.name} is of other pictures: the classes of {self.dataset} {self.split} have the right "
                "names, but their pixels are not the same; take the data anew"
            )
        found = self.digest_on(images)
        if found != self.index_digest:
            raise CourseError(
                f"protocol {self.name} gives other episodes than its index_digest says ({found} and "
                f"{self.index_digest}): the file was changed; take it anew, or {OWN}"
            )
        self.check_digest()

    def check_digest(self) -> None:
        """Raise CourseError where a field was changed after the digest was taken. This takes no data."""
        if self.field_digest != self.digest:
            raise CourseError(
                f"protocol {self.name} was changed: its fields have the digest {self.field_digest}, and it says "
                f"{self.digest}; take the file anew, or {OWN}"
            )

    def digest_on(self, images: ClassImages) -> str:
        """The digest of all indices that are drawn. No picture is looked at: only how many each class has."""
        return evaluation.digest_of(self.sampler(without_pictures(images)), episodes=self.episodes, seed=self.seed)

    @property
    def field_digest(self) -> str:
        """The digest of all fields that a figure depends on."""
        told = {name: value for name, value in asdict(self).items() if name not in SAID}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def completed(self, images: ClassImages | None = None) -> Protocol:
        """The same with what is counted and digested of its data (default: `images()`), for one's own comparison."""
        images = self.images() if images is None else images
        known = replace(
            self,
            classes=images.classes,
            pictures=len(images.images),
            data_digest=data_digest(images),
            content_digest=content_digest(images) if self.dataset in EXACT else None,
            index_digest=self.digest_on(images),
        )
        return replace(known, digest=known.field_digest)

    # ------------------------------------------------------------------ episodes

    def sampler(self, images: ClassImages, device: torch.device | str = "cpu") -> EpisodeSampler:
        """What draws the episodes. Raises CourseError where classes have too few pictures."""
        kind = EpisodeSampler if self.tasks == "classes" else WithinGroups
        return kind(images, self.way, self.shot, self.query, device=device)

    def validation(self, *, root: Path | str | None = None, shape: tuple[int, int, int] | None = None) -> ClassImages:
        """The classes that a temperature is fitted on."""
        dataset, split, lists = (self.calibrate_on[name] for name in ("dataset", "split", "lists"))
        return _load(dataset, split, lists, self.rotations and dataset == self.dataset, root=root, shape=shape)

    def as_json(self) -> dict[str, Any]:
        """All fields, for the file."""
        return asdict(self)


# ------------------------------------------------------------------ files


def folder() -> Path:
    """Where the course's own protocols lie."""
    return places.data() / "protocols"


def names() -> list[str]:
    """The names of the course's protocols."""
    return sorted(path.stem for path in folder().glob("*.json"))


def read(name_or_file: str | Path) -> Protocol:
    """The protocol of a name, or of a file.

    Raises CourseError for one that is unknown, damaged, changed or makes no sense. Whether its data are there, and the
    same, `Protocol.check` says.
    """
    known = names()
    path = folder() / f"{name_or_file}.json" if str(name_or_file) in known else Path(name_or_file)
    if not path.is_file() and path.suffix != ".json":
        raise CourseError(f"there is no protocol {str(name_or_file)!r}: name a file, or one of {', '.join(known)}")
    made = typed.read(path, Protocol, "take it anew")
    try:
        _check_fields(made)
        made.check_digest()
    except CourseError as error:
        raise CourseError(f"protocol {path.name}: {error}") from None
    if str(name_or_file) in known and made.name != str(name_or_file):
        raise CourseError(f"protocol {path.name}: name is {made.name!r}, and has to be that of its file; take it anew")
    own = folder() / f"{made.name}.json"
    if made.name in known and path.resolve() != own.resolve() and read(made.name).digest != made.digest:
        raise CourseError(
            f"protocol {path.name}: name is {made.name!r}, which is another protocol of the course; give it a name of "
            "its own"
        )
    return made


def _check_fields(protocol: Protocol) -> None:
    """Raise CourseError for fields that make no sense, whatever the data are."""
    for name in ("way", "shot", "query", "episodes", "classes", "pictures"):
        check_positive(name, getattr(protocol, name))
    check_seed(protocol.seed)
    if protocol.at_most is not None:
        check_positive("at_most", protocol.at_most)
    if protocol.way < LEAST_WAY:
        raise CourseError(f"way is {protocol.way}, and with one class there is nothing to tell apart; give 2 or more")
    if protocol.episodes < LEAST_EPISODES:
        raise CourseError(f"episodes is {protocol.episodes}, and one has no interval; give 1,000 for a figure")
    if protocol.tasks not in TASKS:
        raise CourseError(f"tasks is {protocol.tasks!r}; give one of {', '.join(TASKS)}")
    if protocol.calibrate_on.keys() != {"dataset", "lists", "split"} or None in (
        protocol.calibrate_on["dataset"],
        protocol.calibrate_on["split"],
    ):
        raise CourseError("calibrate_on names dataset, lists and split; mend it")
    plain = printable(protocol.name) == protocol.name and protocol.name not in ("", ".", "..")
    if not (plain and protocol.name.strip() and protocol.name == Path(protocol.name).name):
        raise CourseError(f"name is {protocol.name!r}; give one that a file can have")
    for name in ("dataset", "split", "clusters", "what"):
        if not getattr(protocol, name).strip():
            raise CourseError(f"{name} is empty; mend it")
        if printable(getattr(protocol, name)) != getattr(protocol, name):
            raise CourseError(f"{name} is {getattr(protocol, name)!r}, which is no line of text; mend it")
    unknown = [row for row in protocol.rows if row.removeprefix(UNTRAINED) not in METHODS]
    if unknown:
        raise CourseError(f"rows has {unknown[0]!r}, which is no method; give names out of {', '.join(METHODS)}")
    twice = [row for row, times in Counter(protocol.rows).items() if times > 1]
    if twice:
        raise CourseError(f"rows has {twice[0]!r} twice; name each method once")


# ------------------------------------------------------------------ what digests are of


def data_digest(images: ClassImages) -> str:
    """Of the names of the classes and groups, and of how many pictures each class has."""
    told = [images.name, images.names, images.groups, images.counts.tolist()]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def content_digest(images: ClassImages) -> str:
    """Of every byte of the pictures."""
    return hashlib.sha256(images.images.cpu().numpy().tobytes()).hexdigest()[:16]


def without_pictures(images: ClassImages) -> ClassImages:
    """The same classes, with pictures of one empty pixel: whoever draws needs no more."""
    return replace(images, images=torch.zeros(len(images.images), 1, 1, 1, dtype=torch.uint8))


def _load(
    dataset: str,
    split: str,
    lists: str | None,
    rotations: bool,
    *,
    root: Path | str | None,
    download: bool = False,
    shape: tuple[int, int, int] | None,
) -> ClassImages:
    """A split in a shape: scaled once, from the file, where its pictures are larger."""
    size = shape[1] if shape and shape[1] == shape[2] and dataset in ANY_SIZE else None
    where = {"protocol": lists, "rotations": rotations, "root": root, "download": download}
    found = datasets.load(dataset, split, size=size, **where)
    return found.in_shape(shape) if shape else found


def _first(images: ClassImages, most: int) -> ClassImages:
    """The first `most` pictures of each class."""
    counts = images.counts.clamp(max=most)
    kept = torch.cat([torch.arange(int(n)) + int(start) for n, start in zip(counts, images.first)])
    return replace(images, images=images.images[kept], counts=counts)
