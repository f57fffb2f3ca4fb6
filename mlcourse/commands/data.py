"""The data that `mlcourse train` and `mlcourse evaluate` work on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlcourse import places
from mlcourse.errors import CourseError

if TYPE_CHECKING:  # torch is imported late, so that `mlcourse --help` waits for nothing
    from mlcourse.datasets import ClassImages

# What `--help` says of --dataset.
DATASET_HELP = (
    "glyphs, omniglot, caltech101, or your own folder with one folder of pictures per class. Such a folder is split by "
    "train, val and test folders in it, else by the names of the classes: about 60 % train, 20 % val, 20 % test. It "
    "needs at least 4 classes (8 to validate as well) with 2 pictures each; a smaller class is left out, and named"
)


def lasting_name(dataset: str) -> str:
    """A data set's name as it is; a folder as an absolute path, which means the same from everywhere."""
    from mlcourse import datasets

    if not dataset.strip():
        raise CourseError("--dataset is empty: give a name or a folder")
    return dataset if dataset in datasets.NAMES else str(places.whole(dataset))


def load(
    dataset: str,
    split: str,
    *,
    protocol: str | None = None,
    root: Path | None = None,
    download: bool = False,
    drawn: bool = False,
    hands: int = 0,
    shape: tuple[int, int, int] | None = None,
) -> ClassImages:
    """A split of a data set, as `datasets.load` gives it.

    drawn: send each picture through the drawing pad's pipeline, and add as many variants by other `hands`.
    shape: convert the pictures to this shape (C, H, W), such as that of the data that a learner was trained on.
    """
    from mlcourse import datasets
    from mlcourse.teaching.pad import strokes

    place = {"protocol": protocol, "root": root, "download": download}
    if drawn:
        # Lines are traced once, in the largest pictures that there are, and then turned: turning first is the same.
        images, turns = datasets.upright(dataset, split, size=105 if dataset == "omniglot" else None, **place)
        images = strokes.as_drawings(images, hands=hands).with_rotations(turns)
    else:
        # Scaled once, from the file to the size that is asked for; glyphs have one size only.
        size = shape[1] if shape and shape[1] == shape[2] and dataset != "glyphs" else None
        images = datasets.load(dataset, split, size=size, **place)
    return images.in_shape(shape) if shape else images
