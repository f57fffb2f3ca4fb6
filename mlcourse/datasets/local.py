"""Where local copies of data sets lie, and how a missing one is fetched."""

from __future__ import annotations

import http.client
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from mlcourse import places
from mlcourse.datasets import cache
from mlcourse.errors import CourseError

SPLITS = ("train", "val", "test", "trainval", "all")
# What systems put into folders by themselves, besides files whose name begins with a dot.
JUNK = frozenset({"thumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"})
# What a network that breaks off, a damaged archive or a full disk raises while a data set is fetched.
BROKEN_DOWNLOAD = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    http.client.HTTPException,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def parts_of(split: str) -> tuple[str, ...]:
    """The disjoint parts that make up a split: "trainval" is train and val, "all" is everything."""
    if split not in SPLITS:
        raise CourseError(f"unknown split {split!r}: choose {', '.join(SPLITS)}")
    return {"trainval": ("train", "val"), "all": ("train", "val", "test")}.get(split, (split,))


def default_root() -> Path:
    """The folder that holds local copies: MLCOURSE_DATA, or `data` in the cache folder."""
    chosen = os.environ.get("MLCOURSE_DATA")
    return places.whole(chosen) if chosen else cache.folder() / "data"


def find(folder: str, root: str | Path | None, download: Callable[[Path], None] | None) -> Path:
    """`folder` in `root`. If it is absent, `download` (given an empty folder, it makes `folder` in it) fetches it."""
    root = places.whole(root) if root else default_root()
    place = root / folder
    if os.path.isdir(place):
        return place
    if os.path.lexists(place):
        raise CourseError(
            f"{place} is no folder (a file, or a link that leads nowhere): remove it, or name a local copy with "
            "--data-root (root=) or MLCOURSE_DATA"
        )
    if download is None:
        raise CourseError(
            f"no folder {place}: name a local copy with --data-root (root=) or MLCOURSE_DATA, "
            "or fetch it once with --download (download=True), or with mlcourse data fetch"
        )
    _fetch(place, download)
    return place


def _fetch(place: Path, download: Callable[[Path], None]) -> None:
    """Download and unpack beside the goal, then rename: `place` is whole or absent, never half-written."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as temporary:
            download(Path(temporary))
            _put(Path(temporary) / place.name, place)
    except BROKEN_DOWNLOAD as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CourseError(f"cannot download to {place} ({reason}): check network and disk, then try again") from None


def _put(fetched: Path, place: Path) -> None:
    """Rename, unless another process was quicker: what it put there is whole, so it serves both."""
    try:
        os.replace(fetched, place)
    except OSError:
        if not (fetched.is_dir() and place.is_dir()):
            raise


def listing(place: Path) -> tuple[list[str], list[str]]:
    """The names of the folders and of the files in `place`, each sorted; hidden ones are left out.

    Raises CourseError where the folder is absent or cannot be read, and for anything that is neither file nor folder,
    such as a link that leads nowhere or to itself: it may stand for pictures that would be missing without a word.
    """
    try:
        with os.scandir(place) as entries:
            kinds = {entry.name: _kind(entry) for entry in entries if not _hidden(entry.name)}
    except FileNotFoundError:
        raise CourseError(f"no folder {place}: the copy is incomplete, unpack or download it anew") from None
    except OSError as error:
        raise CourseError(f"the folder {place} cannot be read ({error.strerror}): mend it or its rights") from None
    lost = sorted(name for name, kind in kinds.items() if kind is None)
    if lost:
        more = f" (and {len(lost) - 1} more there)" if len(lost) > 1 else ""
        raise CourseError(
            f"{place / lost[0]}{more} is neither a file nor a folder, such as a link that leads nowhere: mend or "
            "remove it"
        )
    return tuple(sorted(name for name, kind in kinds.items() if kind == one) for one in ("folder", "file"))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def _kind(entry: os.DirEntry) -> str | None:
    """ "folder", "file", or None for what is neither, or cannot be reached."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else None
    except OSError:  # a link to itself, or into a folder that may not be entered
        return None


def folders(place: Path) -> list[str]:
    """The names of the folders in `place`, sorted; see `listing`."""
    return listing(place)[0]


def files(place: Path) -> list[str]:
    """The names of the files in `place`, sorted; see `listing`."""
    return listing(place)[1]
