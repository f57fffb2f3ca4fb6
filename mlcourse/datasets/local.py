"""Where local copies of data sets lie, and how a missing one is fetched."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from mlcourse.datasets import cache
from mlcourse.errors import CourseError

SPLITS = ("train", "val", "test", "trainval", "all")


def parts_of(split: str) -> tuple[str, ...]:
    """The disjoint parts that make up a split: "trainval" is train and val, "all" is everything."""
    if split not in SPLITS:
        raise CourseError(f"unknown split {split!r}: choose {', '.join(SPLITS)}")
    return {"trainval": ("train", "val"), "all": ("train", "val", "test")}.get(split, (split,))


def default_root() -> Path:
    """The folder that holds local copies: MLCOURSE_DATA, or `data` in the cache folder."""
    chosen = os.environ.get("MLCOURSE_DATA")
    return Path(chosen).expanduser() if chosen else cache.folder() / "data"


def find(folder: str, root: str | Path | None, download: Callable[[Path], None] | None) -> Path:
    """`folder` in `root`. If it is absent, `download` (given an empty folder, it makes `folder` in it) fetches it."""
    root = Path(root).expanduser() if root else default_root()
    place = root / folder
    if place.is_dir():
        return place
    if download is None:
        raise CourseError(
            f"no folder {place}: name a local copy with --data-root (root=) or MLCOURSE_DATA, "
            "or fetch it once with --download (download=True)"
        )
    _fetch(place, download)
    return place


def _fetch(place: Path, download: Callable[[Path], None]) -> None:
    """Download and unpack beside the goal, then rename: `place` is whole or absent, never half-written."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as temporary:
            download(Path(temporary))
            os.replace(Path(temporary) / place.name, place)
    except (OSError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CourseError(f"cannot download to {place} ({reason}): check network and disk, then try again") from None


def folders(place: Path) -> list[str]:
    """The names of the folders in `place`, sorted; hidden ones are left out."""
    try:
        with os.scandir(place) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError:
        raise CourseError(f"no folder {place}: the copy is incomplete, unpack or download it anew") from None


def files(place: Path) -> list[str]:
    """The names of the files in `place`, sorted; hidden ones are left out."""
    with os.scandir(place) as entries:
        return sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))
