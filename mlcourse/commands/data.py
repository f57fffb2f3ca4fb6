"""The data that `mlcourse train` and `mlcourse evaluate` work on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is imported late, so that `mlcourse --help` waits for nothing
    from mlcourse.datasets import ClassImages


def lasting_name(dataset: str) -> str:
    """A data set's name as it is; a folder as an absolute path, which means the same from everywhere."""
    from mlcourse import datasets

    return dataset if dataset in datasets.NAMES else os.path.abspath(Path(dataset).expanduser())


def load(
    dataset: str,
    split: str,
    *,
    protocol: str | None = None,
    root: Path | None = None,
    download: bool = False,
    drawn: bool = False,
    hands: int = 0,
) -> ClassImages:
    """A split of a data set, as `datasets.load` gives it.

    drawn: send each picture through the drawing pad's pipeline, and add as many variants by other `hands`.
    """
    from mlcourse import datasets
    from mlcourse.teaching.pad import strokes

    place = {"protocol": protocol, "root": root, "download": download}
    if not drawn:
        return datasets.load(dataset, split, **place)
    # Lines are traced once, in the largest pictures that there are, and then turned: turning first comes to the same.
    images, turns = datasets.upright(dataset, split, size=105 if dataset == "omniglot" else None, **place)
    return strokes.as_drawings(images, hands=hands).with_rotations(turns)
