"""Reading picture files. A file that does not decode becomes an error that names it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from mlcourse.errors import CourseError

# EXIF's orientation -> how a picture that was stored so is turned upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


GREY_MODES = ("1", "L", "LA", "La", "I", "F")
PHOTOMETRIC = 262  # TIFF's tag for what 0 means, white (0) or black (1)
NEARLY_BLACK = "reach less than 1/16 of their range, which is nearly black; save it with 8 bits per channel"


def read_ink(root: Path, files: Sequence[str], size: int) -> Tensor:
    """Dark-on-white drawings as uint8 [files, 1, size, size] with ink = 255, scaled down with antialiasing."""
    return _decode_all(root, files, lambda picture: _ink(picture, size))


def read_photos(root: Path, files: Sequence[str], size: int | tuple[int, int]) -> Tensor:
    """Photos as uint8 [files, 3, H, W]: turned upright (EXIF), scaled until they just cover H × W, centre cut out.

    size: of a square, or (H, W).
    """
    return _decode_all(root, files, lambda picture: _photo(picture, *_sides(size)))


def read_sound_photos(root: Path, files: Sequence[str], size: int | tuple[int, int]) -> tuple[Tensor, dict[str, str]]:
    """As `read_photos`, of the files that are readable, in order; and of each other one (its name) what is wrong."""
    decoded = dict(zip(files, _decode_each(root, files, lambda picture: _photo(picture, *_sides(size))), strict=True))
    faults = {file: one for file, one in decoded.items() if isinstance(one, str)}
    sound = [one for one in decoded.values() if not isinstance(one, str)]
    return torch.from_numpy(np.stack(sound)) if sound else torch.empty(0, 3, *_sides(size), dtype=torch.uint8), faults


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


@dataclass(frozen=True)
class Marked:
    """A photo on which somebody has drawn masks or boxes: its pixels as RGB, its (height, width), whether it is grey.

    size is that of the file, also where fewer pixels were decoded.
    """

    photo: Image.Image
    size: tuple[int, int]
    grey: bool


def open_marked(path: Path, *, least: int | None = None) -> Marked:
    """Decode a photo with masks or boxes. least: of a JPEG, no more pixels than give this height and width.

    Raises CourseError for a file that is no readable picture, and for one that its EXIF tag turns: nobody can know
    whether the marks belong to the photo before or after the turn.
    """
    try:
        with Image.open(path) as picture:
            size = picture.height, picture.width
            if least is not None:
                picture.draft(None, (least, least))
            picture.load()
            turned = _turn(picture) is not None
            grey = picture.mode.split(";")[0] in GREY_MODES
            photo = _rgb(picture)
    except Exception as error:  # see `_decode`
        raise CourseError(f"{_unreadable(path, error)}: replace or remove it") from None
    if turned:
        raise CourseError(
            f"{path} is turned by its EXIF tag, and its masks or boxes may belong to either side: save it upright "
            "without the tag (Pillow's ImageOps.exif_transpose does), or remove it"
        )
    return Marked(photo, size, grey)


def open_labels(path: Path) -> np.ndarray:
    """A label map as it is stored: one number per pixel, uint8 [height, width].

    Raises CourseError for a file that is no readable picture, or holds colours in place of numbers.
    """
    try:
        with Image.open(path) as picture:
            picture.load()
            mode, labels = picture.mode, np.asarray(picture)
    except Exception as error:  # see `_decode`
        raise CourseError(f"{_unreadable(path, error)}: replace or remove it") from None
    if mode not in ("L", "P"):
        raise CourseError(
            f"{path} is no label map, but a picture of the kind {mode}: save one number of 8 bits per pixel (grey, or "
            "with a palette)"
        )
    return labels


def _ink(picture: Image.Image, size: int) -> np.ndarray:
    ink = ImageOps.invert(_eight_bits(picture).convert("L"))
    return np.asarray(ink.resize((size, size), Image.Resampling.BILINEAR))[None]


def _photo(picture: Image.Image, height: int, width: int) -> np.ndarray:
    side = 2 * max(height, width)  # of either side: the picture may still be turned
    picture.draft("RGB", (side, side))  # JPEG: decode no more pixels than the scaling below can use
    deep = any("16" in str(tile[3]) for tile in picture.tile)  # known before the picture is loaded only
    colours = _rgb(_upright(picture))
    if deep and max(high for _, high in colours.getextrema()) < 16:  # Pillow keeps the upper 8 of 16 bits per channel
        raise ValueError(f"its 16-bit pixels {NEARLY_BLACK}")
    photo = ImageOps.fit(colours, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(photo).transpose(2, 0, 1)


def _upright(picture: Image.Image) -> Image.Image:
    """The picture as its orientation tag (EXIF or XMP) says.

    Pillow's `exif_transpose` also writes all other tags anew, and fails where one of them is of an odd type.
    """
    picture.load()
    turn = _turn(picture)
    return picture if turn is None else picture.transpose(turn)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """What turns a loaded picture upright, as its tag says; None where nothing needs to."""
    try:
        return UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # whatever damaged tags raise: they are remarks beside a picture that is sound without them
        return None


def _decode_all(root: Path, files: Sequence[str], decode: Callable[[Image.Image], np.ndarray]) -> Tensor:
    """`decode` of every file, stacked, in order.

    Raises CourseError, which names the first unreadable file and counts the others.
    """
    decoded = _decode_each(root, files, decode)
    faults = [one for one in decoded if isinstance(one, str)]
    if faults:
        more = f", nor are {len(faults) - 1} more of {len(files)}" if len(faults) > 1 else ""
        raise CourseError(f"{faults[0]}{more}: replace or remove the file{'s' * (len(faults) > 1)}")
    return torch.from_numpy(np.stack(decoded))


def _decode_each(
    root: Path, files: Sequence[str], decode: Callable[[Image.Image], np.ndarray]
) -> list[np.ndarray | str]:
    """`decode` of every file, or what is wrong with it, in order. Pillow decodes outside the GIL, so threads help."""
    # Long runs of files per job: handing out each of 32,460 small files alone costs more than reading it.
    runs = [files[start : start + 200] for start in range(0, len(files), 200)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        chunks = pool.map(lambda names: [_decode(root / name, decode) for name in names], runs)
        return [one for chunk in chunks for one in chunk]


def _decode(path: Path, decode: Callable[[Image.Image], np.ndarray]) -> np.ndarray | str:
    """`decode` of one file; a text that names it where it is no readable picture."""
    try:
        with Image.open(path) as picture:
            return decode(picture)
    except Exception as error:  # Pillow's decoders raise errors of many kinds on files that are cut, damaged or hostile
        return _unreadable(path, error)


def _unreadable(path: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"{path} is no readable picture ({reason.replace(repr(os.fspath(path)), 'the file')})"


def _rgb(picture: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB. Transparency is laid on white."""
    picture = _eight_bits(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8 bits; Pillow would clip it. Every other mode as it is.

    Raises ValueError for pixels of no agreed range, and where a 16-bit picture uses so few of its bits that it would
    become black: there the numbers mean something else than a grey from 0 to 65,535.
    """
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save it with 8 bits per channel")
    if not picture.mode.startswith("I"):
        return picture
    if picture.mode == "I" and picture.format not in ("PNG", "PPM"):  # those two hold 16 bits at most
        raise ValueError("32-bit or signed integer pixels have no agreed range; save it with 8 bits per channel")
    grey = np.asarray(picture).astype(np.int64)
    if grey.max() < 2**12:
        raise ValueError(f"its 16-bit pixels {NEARLY_BLACK}")
    if getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == 0:  # a TIFF that stores white as 0; Pillow leaves it so
        grey = 65535 - grey
    return Image.fromarray(((grey + 128) // 257).clip(0, 255).astype(np.uint8))
