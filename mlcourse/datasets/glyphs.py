"""Glyphs: the embedded data set. Characters of the world's scripts, in many typefaces, distorted like handwriting.

`data/glyphs/README.md` is the data card; `data/make_glyphs.py` made the pictures. One PNG sheet per script holds
a row of 20 samples for each character, 28×28 grey, ink = 255.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mlcourse import files, places
from mlcourse.datasets import local
from mlcourse.datasets.images import ClassImages
from mlcourse.errors import CourseError

SIZE = 28
SAMPLES = 20
# No two splits share a script. Omniglot's evaluation alphabets, as far as Unicode has them in enough faces, are in test
# only: Cyrillic (Old Church Slavonic), Ethiopic, Gurmukhi, Kannada, Malayalam, Meetei Mayek (Manipuri), Oriya, Tibetan.
# So are digits. Coptic, Greek, Latin and Lisu share letters with Cyrillic and stand beside it. Validation takes the
# validation alphabets of Omniglot, as far as there are faces, and two scripts more.
SPLITS = {
    "train": """
        Adlam Arabic Balinese Bamum Canadian_Aboriginal Cham Devanagari Gujarati Hanifi_Rohingya Khmer Lao Medefaidrin
        Myanmar Nyiakeng_Puachue_Hmong Sinhala Sora_Sompeng Sundanese Tai_Tham Tamil Telugu Thaana Thai Yezidi
    """,
    "val": "Armenian Bengali Georgian Hebrew Kayah_Li Ol_Chiki",
    "test": "Coptic Cyrillic Digits Ethiopic Greek Gurmukhi Kannada Latin Lisu Malayalam Meetei_Mayek Oriya Tibetan",
}
SPLITS = {part: tuple(scripts.split()) for part, scripts in SPLITS.items()}


def folder() -> Path:
    """Where the sheets lie."""
    return places.data() / "glyphs"


def load(split: str, *, size: int | None) -> tuple[ClassImages, torch.Tensor, bool]:
    """One split, which classes may turn, and whether they do by default; see `mlcourse.datasets.load`.

    The splits share no script.
    """
    if size not in (None, SIZE):
        raise CourseError(f"size {size} is not there: glyphs are stored at {SIZE}×{SIZE}, leave size out")
    scripts, classes = _classes(split)
    upright = ClassImages(
        images=torch.cat([sheet_of(script, rows) for script, rows in scripts.items()]),
        counts=torch.full((len(classes),), SAMPLES),
        names=tuple(f"{script}/{one['name']}" for script, one in classes),
        groups=tuple(script for script, _ in classes),
        name="glyphs",
        split=split,
    )
    return upright, torch.tensor([one["rotates"] for _, one in classes]), split == "train"


def counts(split: str) -> dict[str, int]:
    """Class name -> number of its pictures; see `mlcourse.datasets.counts`."""
    return {f"{script}/{one['name']}": SAMPLES for script, one in _classes(split)[1]}


def _classes(split: str) -> tuple[dict[str, int], list[tuple[str, dict]]]:
    """The scripts of a split with the number of their characters, and each (script, what the index says of it)."""
    index = files.read_json(folder() / "index.json")["scripts"]
    scripts = sorted(script for part in local.parts_of(split) for script in SPLITS[part])
    return {script: len(index[script]) for script in scripts}, [(s, one) for s in scripts for one in index[s]]


def sheet_of(script: str, rows: int) -> torch.Tensor:
    """The pictures of a script: uint8 [characters*20, 1, 28, 28]."""
    path = folder() / f"{script}.png"
    try:
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("L"))
    except (OSError, SyntaxError) as error:
        raise CourseError(
            f"{path} is missing or damaged ({error}): take it anew from the course's repository"
        ) from None
    if pixels.shape != (rows * SIZE, SAMPLES * SIZE):
        raise CourseError(
            f"{path} is {pixels.shape[1]}×{pixels.shape[0]} pixels: take it anew from the course's repository"
        )
    cells = pixels.reshape(rows, SIZE, SAMPLES, SIZE).transpose(0, 2, 1, 3)
    return torch.from_numpy(cells.reshape(rows * SAMPLES, 1, SIZE, SIZE).copy())
