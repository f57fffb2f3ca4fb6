"""The data that `mlcourse train` and `mlcourse evaluate` work on."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from mlcourse import places
from mlcourse.commands import say
from mlcourse.errors import CourseError

if TYPE_CHECKING:  # torch is imported late, so that `mlcourse --help` waits for nothing
    from mlcourse.datasets import ClassImages

# What `--help` says of --dataset.
DATASET_HELP = (
    "glyphs, omniglot, caltech101, or your own folder with one folder of pictures per class. Such a folder is split by "
    "train, val and test folders in it, else by the names of the classes: about 60 % train, 20 % val, 20 % test. It "
    "needs at least 4 classes (8 to validate as well) with 2 pictures each; a smaller class is left out, and named"
)
# What it says of --skip-damaged.
SKIP_HELP = (
    "of a folder of your own: use the pictures that can be read, and list those that cannot. Without it, the first of "
    "them is an error"
)


def lasting_name(dataset: str, known: Collection[str] | None = None) -> str:
    """A data set's name as it is; a folder as an absolute path, which means the same from everywhere.

    known: the names that are no folders; default: those that `datasets.load` takes.
    """
    from mlcourse.protocols.unseen import NO_FOLDERS

    if not dataset.strip():
        raise CourseError("--dataset is empty: give a name or a folder")
    return dataset if dataset in (known or NO_FOLDERS) else str(places.whole(dataset))


def load(
    dataset: str,
    split: str,
    *,
    protocol: str | None = None,
    root: Path | None = None,
    download: bool = False,
    drawn: bool = False,
    hands: int = 0,
    turned: bool = False,
    shape: tuple[int, int, int] | None = None,
    skip_damaged: bool = False,
) -> ClassImages:
    """A split of a data set, as `datasets.load` gives it.

    drawn: send each picture through the drawing pad's pipeline, and add as many variants by other `hands`.
    turned: take the quarter turns of a class as further classes, also where the data set does not by default.
    shape: convert the pictures to this shape (C, H, W), such as that of the data that a learner was trained on.
    skip_damaged: of a folder, use the pictures that can be read, and write a line to stderr for each that cannot.
    """
    from mlcourse import datasets
    from mlcourse.datasets import sound_folders
    from mlcourse.protocols.protocol import ANY_SIZE
    from mlcourse.protocols.unseen import NO_FOLDERS
    from mlcourse.teaching.pad import strokes

    place = {"protocol": protocol, "root": root, "download": download, "rotations": True if turned else None}
    # Scaled once, from the file to the size that is asked for, where files are read in any size.
    any_size = dataset in ANY_SIZE or dataset not in NO_FOLDERS
    size = shape[1] if shape and shape[1] == shape[2] and any_size else None
    if skip_damaged:
        check_folder(dataset)
        images, left_out = sound_folders.load(places.whole(dataset), split, size=None if drawn else size)
        for line in left_out:
            say(f"left out of {split}: {line}")
        if drawn:
            images = strokes.as_drawings(images, hands=hands)
        images = images.with_rotations() if turned else images
    elif drawn:
        # Lines are traced once, in the largest pictures that there are, and then turned: turning first is the same.
        images, turns = datasets.upright(dataset, split, size=105 if dataset == "omniglot" else None, **place)
        images = strokes.as_drawings(images, hands=hands).with_rotations(turns)
    else:
        images = datasets.load(dataset, split, size=size, **place)
    return images.in_shape(shape) if shape else images


def counts(dataset: str, split: str, *, skip_damaged: bool = False, **place: object) -> dict[str, int]:
    """Class name -> number of its pictures that `load` would give; with skip_damaged they are decoded for that."""
    from mlcourse import datasets
    from mlcourse.datasets import sound_folders

    if not skip_damaged:
        return datasets.counts(dataset, split, **place)
    check_folder(dataset)
    return sound_folders.counts(places.whole(dataset), split)


def check_folder(dataset: str, known: Collection[str] | None = None) -> None:
    """Raise CourseError where no picture may be left out: a data set of the course is checked as a whole.

    known: as in `lasting_name`.
    """
    from mlcourse.protocols.unseen import NO_FOLDERS

    if dataset in (known or NO_FOLDERS) or not places.whole(dataset).is_dir():
        raise CourseError(f"--skip-damaged is for a folder of your own, and {dataset!r} is none: leave it out")
