"""Reading picture files. A file that does not decode becomes an error that names it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from mlcourse.errors import CourseError

# What Pillow raises on files that are cut off, damaged, hostile (too many pixels) or no pictures at all.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, UnidentifiedImageError)


def read_ink(root: Path, files: Sequence[str], size: int) -> Tensor:
    """Dark-on-white drawings as uint8 [files, 1, size, size] with ink = 255, scaled down with antialiasing."""
    return _decode_all(root, files, lambda picture: _ink(picture, size))


def read_photos(root: Path, files: Sequence[str], size: int) -> Tensor:
    """Photos as uint8 [files, 3, size, size]: turned upright (EXIF), shorter side scaled to `size`, centre cut out."""
    return _decode_all(root, files, lambda picture: _photo(picture, size))


def _ink(picture: Image.Image, size: int) -> np.ndarray:
    ink = ImageOps.invert(picture.convert("L"))
    return np.asarray(ink.resize((size, size), Image.Resampling.BILINEAR))[None]


def _photo(picture: Image.Image, size: int) -> np.ndarray:
    picture.draft("RGB", (2 * size, 2 * size))  # JPEG: decode no more pixels than the scaling below can use
    upright = ImageOps.exif_transpose(picture)
    photo = ImageOps.fit(_rgb(upright), (size, size), Image.Resampling.BICUBIC)
    return np.asarray(photo).transpose(2, 0, 1)


def _decode_all(root: Path, files: Sequence[str], decode: Callable[[Image.Image], np.ndarray]) -> Tensor:
    """`decode` of every file, stacked, in order. Pillow decodes outside the GIL, so threads help."""
    # Long runs of files per job: handing out each of 32,460 small files alone costs more than reading it.
    runs = [files[start : start + 200] for start in range(0, len(files), 200)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        chunks = list(pool.map(lambda names: np.stack([_decode(root / name, decode) for name in names]), runs))
    return torch.from_numpy(np.concatenate(chunks))


def _decode(path: Path, decode: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return decode(picture)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CourseError(f"{path} is no readable picture ({reason}): replace or remove the file") from None


def _rgb(picture: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB. 16-bit grey is scaled (Pillow would clip it), transparency is laid on white."""
    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.int64)
        return Image.fromarray((grey // 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")
