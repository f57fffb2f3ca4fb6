"""Decoded pictures, kept in the user's cache folder so that the second load takes a fraction of a second.

An entry is one safetensors file per source folder and options. It holds the digest of the folder's listing (of every
file path, size, number on the disk, time of its content and time of its last change of any kind) and of its own bytes.
If either differs, the entry is made anew: a cache is never trusted more than the files it stands for. A picture that
another one replaces has another number or another time of change, also where size and time of content are made equal.

Whoever adds an entry takes out those that nobody can read any more: of an older format, or of a folder that is gone
(after a week: it may be on a disk that is not plugged in, or on another machine).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs
from torch import Tensor

from mlcourse import files as whole_files
from mlcourse import places
from mlcourse.errors import CourseError, CourseWarning, printable

FORMAT = 4  # raise it when decoding, scaling or what an entry tells changes: old entries are then made anew
WEEK = 7 * 24 * 3600


def folder() -> Path:
    """The cache folder: MLCOURSE_CACHE, or the place that the operating system has for caches."""
    chosen = os.environ.get("MLCOURSE_CACHE")
    return places.whole(chosen) if chosen else platformdirs.user_cache_path("mlcourse", appauthor=False)


def listing_digest(root: Path, files: Sequence[str]) -> str:
    """A digest of what the disk knows of `files` (relative to `root`), in the order given.

    Raises CourseError for a file that is gone or cannot be reached.
    """
    digest = hashlib.sha256()
    for name in files:
        try:
            about = os.stat(os.path.join(root, name))
        except OSError as error:
            raise CourseError(f"{root / name} cannot be read ({error.strerror}): mend it, or load again") from None
        state = (about.st_size, about.st_ino, about.st_mtime_ns, about.st_ctime_ns)
        digest.update(_bytes(f"{name}\0{state}\n"))
    return digest.hexdigest()


def _bytes(text: str) -> bytes:
    """UTF-8, also for what is no text in a file name."""
    return text.encode("utf-8", "surrogatepass")


def remember(name: str, root: Path, files: Sequence[str], options: dict, build: Callable[[], Tensor]) -> Tensor:
    """`build()` (a uint8 tensor), or what it returned the last time for the same files and options."""
    key = json.dumps({"format": FORMAT, "files": listing_digest(root, files), **options}, sort_keys=True)
    place = hashlib.sha256(_bytes(f"{os.path.realpath(root)}{sorted(options.items())}")).hexdigest()[:16]
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:40]  # a folder may be called anything, at any length
    path = folder() / f"{readable}-{place}.safetensors"
    kept = _read(path, key)
    if kept is not None:
        return kept
    images = build()
    _write(path, {"images": images}, {"key": key, "sha256": _digest(images), "root": os.path.realpath(root)})
    return images


def remember_content(name: str, key: dict, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """`build()`, or what it returned the last time for the same key: a JSON-able dict that holds digests of all inputs.

    One file per key, since the key is the content: nothing is ever out of date. A damaged file is made anew.
    """
    written = json.dumps({"format": FORMAT, **key}, sort_keys=True)
    path = folder() / f"{name}-{hashlib.sha256(_bytes(written)).hexdigest()[:16]}.safetensors"
    try:
        tensors, about = whole_files.load_tensors(path)
        if about.get("key") == written:
            return tensors
    except CourseError:
        pass
    tensors = build()
    _write(path, tensors, {"key": written})
    return tensors


def _read(path: Path, key: str) -> Tensor | None:
    """The entry, or None when it is absent, of other files, or damaged in any way."""
    try:
        tensors, about = whole_files.load_tensors(path)
    except CourseError:
        return None
    images = tensors.get("images")
    if images is None or about.get("key") != key or about.get("sha256") != _digest(images):
        return None
    return images


def _write(path: Path, tensors: dict[str, Tensor], about: dict) -> None:
    """Keep the entry, whole or not at all."""
    with contextlib.suppress(OSError):  # first, since it may be what makes room
        _forget_the_unreadable(path.parent)
    try:
        whole_files.save_tensors(path, tensors, about)
    except (OSError, CourseError) as error:
        # A cache is a convenience: a full or read-only disk costs time at the next load, not the lesson.
        reason = printable(f"cannot keep decoded pictures in {path.parent} ({error})")
        warnings.warn(
            f"{reason}, so each load decodes them anew: set MLCOURSE_CACHE to a folder that you may write to",
            CourseWarning,
            stacklevel=3,
        )


def _forget_the_unreadable(place: Path) -> None:
    """Remove entries of older formats, and of folders that are gone; nothing else that lies in the cache folder."""
    for path in place.glob("*.safetensors"):
        if not re.search(r"-[0-9a-f]{16}$", path.stem):
            continue
        try:
            about = whole_files.load_metadata(path)
            known = json.loads(about["key"])["format"]
            old = time.time() - path.stat().st_mtime > WEEK
        except (CourseError, LookupError, TypeError, ValueError, RecursionError, OSError):
            # damaged, gone meanwhile, or no entry at all
            continue
        root = about.get("root")
        gone = isinstance(root, str) and not os.path.isdir(root)
        if (type(known) is int and known < FORMAT) or (gone and old):
            with contextlib.suppress(OSError):  # another process may be reading, or have removed it
                path.unlink()


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy()).hexdigest()
