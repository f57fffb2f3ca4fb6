"""Omniglot: 1623 hand-drawn characters of 50 alphabets, 20 drawers each.

B. Lake, R. Salakhutdinov, J. Tenenbaum: Human-level concept learning through probabilistic program induction.
Science, 2015. https://doi.org/10.1126/science.aab3050 and https://github.com/brendenlake/omniglot (MIT licence).

Two protocols, both fixed here as names, so that a split needs no download:

- "vinyals": 1028 / 172 / 423 characters, each in four rotations, after O. Vinyals et al.: Matching Networks for One
  Shot Learning, NeurIPS 2016, https://arxiv.org/abs/1606.04080, in the lists that J. Snell published with Prototypical
  Networks (https://github.com/jakesnell/prototypical-networks, MIT licence). Those lists are long, but what they say is
  short: whole alphabets, but for Gurmukhi, which lies in both train and test. A test compares with the lists.
- "lake": the authors' own split by alphabets. Background is train and val, evaluation is test. The authors name no
  validation alphabets; val is the same five alphabets as above, so both protocols choose models on the same classes.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mlcourse.datasets import cache, local, pictures
from mlcourse.datasets.images import ClassImages
from mlcourse.errors import CourseError

PROTOCOLS = ("vinyals", "lake")
FOLDER = "omniglot-py"
HALVES = ("images_background", "images_evaluation")
CHARACTERS = {"images_background": 964, "images_evaluation": 659}
DRAWERS = 20

VALIDATION_ALPHABETS = frozenset({"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"})
VINYALS_TEST_ALPHABETS = frozenset(
    {
        "Kannada",
        "Keble",
        "Malayalam",
        "Manipuri",
        "Mongolian",
        "Old_Church_Slavonic_(Cyrillic)",
        "Oriya",
        "Sylheti",
        "Syriac_(Serto)",
        "Tengwar",
        "Tibetan",
        "ULOG",
    }
)
VINYALS_TEST_CHARACTERS = frozenset(f"Gurmukhi/character{number}" for number in (42, 43, 44, 45))


def split_of(half: str, character: str, protocol: str) -> str:
    """The split of a character such as "Greek/character03" of a half such as "images_background"."""
    alphabet = character.split("/")[0]
    if alphabet in VALIDATION_ALPHABETS:
        return "val"
    if protocol == "lake":
        return "test" if half == "images_evaluation" else "train"
    return "test" if alphabet in VINYALS_TEST_ALPHABETS or character in VINYALS_TEST_CHARACTERS else "train"


def load(
    split: str, *, protocol: str | None, root: Path | None, size: int | None, download: bool
) -> tuple[ClassImages, bool]:
    """One split, and whether its classes turn by default (in the Vinyals protocol); see `mlcourse.datasets.load`."""
    protocol = _known(protocol)
    size = size or 28
    place = local.find(FOLDER, root, _download if download else None)
    listed = _listing(place)
    files = [file for _, _, names in listed for file in names]
    everything = ClassImages(
        images=cache.remember("omniglot", place, files, {"size": size}, lambda: pictures.read_ink(place, files, size)),
        counts=torch.tensor([len(names) for _, _, names in listed]),
        names=tuple(character for _, character, _ in listed),
        groups=tuple(character.split("/")[0] for _, character, _ in listed),
        name="omniglot",
        split=split,
    )
    return everything.select(_chosen(listed, split, protocol)), protocol == "vinyals"


def counts(split: str, *, protocol: str | None, root: str | Path | None) -> dict[str, int]:
    """Class name -> number of its drawings, without decoding any; see `mlcourse.datasets.counts`."""
    listed = _listing(local.find(FOLDER, root, None))
    return {listed[i][1]: len(listed[i][2]) for i in _chosen(listed, split, _known(protocol))}


def _known(protocol: str | None) -> str:
    protocol = "vinyals" if protocol is None else protocol
    if protocol not in PROTOCOLS:
        raise CourseError(f"unknown protocol {protocol!r} for omniglot: choose {' or '.join(PROTOCOLS)}")
    return protocol


def _chosen(listed: list[tuple[str, str, list[str]]], split: str, protocol: str) -> list[int]:
    """The positions in `listed` of the characters of a split."""
    wanted = local.parts_of(split)
    return [i for i, (half, character, _) in enumerate(listed) if split_of(half, character, protocol) in wanted]


def _listing(place: Path) -> list[tuple[str, str, list[str]]]:
    """(half, "Alphabet/characterNN", its files relative to `place`), sorted by name, not in the file system's order."""
    listed = []
    for half in HALVES:
        characters = [
            f"{alphabet}/{one}"
            for alphabet in local.folders(place / half)
            for one in local.folders(place / half / alphabet)
        ]
        for character in characters:
            names = [
                f"{half}/{character}/{file}" for file in local.files(place / half / character) if file.endswith(".png")
            ]
            if len(names) != DRAWERS:
                found = f"{place / half / character} has {len(names)} drawings instead of {DRAWERS}"
                raise CourseError(f"{found}: unpack {half}.zip anew, or remove {place} and load with download")
            listed.append((half, character, names))
        if len(characters) != CHARACTERS[half]:
            found = f"{place / half} has {len(characters)} characters instead of {CHARACTERS[half]}"
            raise CourseError(f"{found}: unpack {half}.zip anew, or remove {place} and load with download")
    return sorted(listed, key=lambda entry: entry[1])


def _download(folder: Path) -> None:
    """Fill an empty folder with `omniglot-py`. torchvision knows the address and checks the sum of what it gets."""
    # Not imported at the top: it takes a second, and only a download needs it.
    from torchvision.datasets import Omniglot

    for background in (True, False):
        Omniglot(folder, background=background, download=True)
    for half in HALVES:
        (folder / FOLDER / f"{half}.zip").unlink()
