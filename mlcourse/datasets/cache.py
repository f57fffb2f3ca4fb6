"""Decoded pictures, kept in the user's cache folder so that the second load takes a fraction of a second.

An entry is one safetensors file per source folder and options. It holds the digest of the folder's listing (path, size
and time of every file) and of its own bytes. If either differs, the entry is made anew: a cache is never trusted more
than the files it stands for.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs
from torch import Tensor

from mlcourse import files as whole_files
from mlcourse.errors import CourseError

FORMAT = 2  # raise it when decoding or scaling changes: old entries are then made anew


def folder() -> Path:
    """The cache folder: MLCOURSE_CACHE, or the place that the operating system has for caches."""
    chosen = os.environ.get("MLCOURSE_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("mlcourse", appauthor=False)


def listing_digest(root: Path, files: Sequence[str]) -> str:
    """A digest of path, size and modification time of `files` (relative to `root`), in the order given."""
    digest = hashlib.sha256()
    for name in files:
        about = os.stat(os.path.join(root, name))
        digest.update(f"{name}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def remember(name: str, root: Path, files: Sequence[str], options: dict, build: Callable[[], Tensor]) -> Tensor:
    """`build()` (a uint8 tensor), or what it returned the last time for the same files and options."""
    key = json.dumps({"format": FORMAT, "files": listing_digest(root, files), **options}, sort_keys=True)
    place = hashlib.sha256(f"{root.resolve()}{sorted(options.items())}".encode()).hexdigest()[:16]
    path = folder() / f"{name}-{place}.safetensors"
    kept = _read(path, key)
    if kept is not None:
        return kept
    images = build()
    _write(path, key, images)
    return images


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


def _write(path: Path, key: str, images: Tensor) -> None:
    """Keep the entry, whole or not at all."""
    try:
        whole_files.save_tensors(path, {"images": images}, {"key": key, "sha256": _digest(images)})
    except (OSError, CourseError) as error:
        # A cache is a convenience: a full or read-only disk costs time at the next load, not the lesson.
        warnings.warn(f"cannot keep decoded pictures in {path.parent} ({error}): set MLCOURSE_CACHE", stacklevel=3)


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.contiguous().numpy()).hexdigest()
