"""MNIST's test digits: 10,000 handwritten digits of ten classes, 28×28 grey, ink = 255. Nothing is trained on them.

Y. LeCun, C. Cortes, C. Burges: the MNIST database of handwritten digits, http://yann.lecun.com/exdb/mnist/; Y. LeCun,
L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document recognition, Proceedings of the IEEE,
1998, https://doi.org/10.1109/5.726791.

Ten classes are too few to meta-train on. They are here to ask what a learner of other characters makes of digits that
people wrote with a pen; so all of them are in the split `test`.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import torch

from mlcourse.datasets import local
from mlcourse.datasets.images import ClassImages
from mlcourse.errors import CourseError

FOLDERS = ("MNIST", "mnist_t10k/MNIST")  # as torchvision leaves it; a copy of the test digits alone
FILES = {"images": "t10k-images-idx3-ubyte", "labels": "t10k-labels-idx1-ubyte"}
CLASSES = 10
SIZE = 28


def load(split: str, *, root: str | Path | None, size: int | None, download: bool) -> ClassImages:
    """The test digits; see `mlcourse.datasets.load`. Raises CourseError for splits that have none."""
    if "test" not in local.parts_of(split):
        raise CourseError(f"mnist has test digits only, none for split {split!r}: train on glyphs or omniglot")
    if size not in (None, SIZE):
        raise CourseError(f"size {size} is not there: digits are stored at {SIZE}×{SIZE}, leave size out")
    place = folder(root, download)
    labels, pictures = _read(place / FILES["labels"], 1), _read(place / FILES["images"], 3)
    if len(labels) != len(pictures) or pictures.shape[1:] != (SIZE, SIZE) or labels.max() >= CLASSES:
        raise CourseError(f"{place} holds files that are not MNIST's: remove them, and load with download")
    order = np.argsort(labels, kind="stable")
    names = tuple(str(digit) for digit in range(CLASSES))
    return ClassImages(
        images=torch.from_numpy(pictures[order]).unsqueeze(1),
        counts=torch.from_numpy(np.bincount(labels, minlength=CLASSES)),
        names=names,
        groups=names,
        name="mnist",
        split="test",
    )


def counts(split: str, *, root: str | Path | None) -> dict[str, int]:
    """Class name -> number of its pictures; see `mlcourse.datasets.counts`."""
    if "test" not in local.parts_of(split):
        return {}
    labels = _read(folder(root) / FILES["labels"], 1)
    return {str(digit): int((labels == digit).sum()) for digit in range(CLASSES)}


def folder(root: str | Path | None, download: bool = False) -> Path:
    """The folder `raw` of the first copy that there is. Raises CourseError where there is none."""
    place = local.default_root() if root is None else Path(root)
    for name in FOLDERS:
        if (place / name / "raw").is_dir():
            return place / name / "raw"
    return local.find(FOLDERS[0], root, _download if download else None) / "raw"


def _read(path: Path, dimensions: int) -> np.ndarray:
    """A file in MNIST's format (idx), as it is or packed: a header of big-endian numbers, then bytes."""
    packed = path.with_name(f"{path.name}.gz")
    path = path if os.path.isfile(path) else packed
    try:
        content = gzip.decompress(path.read_bytes()) if path == packed else path.read_bytes()
        header = np.frombuffer(content, ">u4", 1 + dimensions)
        if header[0] != 0x800 + dimensions:  # unsigned bytes, so many dimensions
            raise ValueError("its header is another one")
        return np.frombuffer(content, np.uint8, offset=header.nbytes).reshape(header[1:]).copy()
    except FileNotFoundError:
        raise CourseError(f"there is no file {path}: the copy is incomplete, unpack or download it anew") from None
    except (ValueError, EOFError, zlib.error, OSError) as error:
        raise CourseError(f"{path} is damaged ({error}): unpack or download it anew") from None


def _download(folder: Path) -> None:
    """Fill an empty folder with `MNIST`. torchvision knows the address and checks the sum of what it gets."""
    # Not imported at the top: it takes a second, and only a download needs it.
    from torchvision.datasets import MNIST

    MNIST(str(folder), train=False, download=True)
