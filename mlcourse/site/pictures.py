"""Pictures of cells as files: small, fetched when they come into sight, and each only once."""

import base64
import hashlib
import io
import re
from pathlib import Path

from PIL import Image

from mlcourse import files

FOLDER = "_static/pictures"
INSIDE = re.compile(r'(<img[^>]*?\bsrc=")data:image/(png|jpeg|webp|gif);base64,([^"]+)"')
LOSSY = 60_000  # bytes: a picture that stays larger without loss is a photo, or as good as one


def kept(data: bytes, folder: Path) -> str:
    """Write a picture into the folder of the sources; return its path from there.

    A PNG or JPEG becomes WebP, which is a third of it for our figures. What moves (GIF) stays as it is.
    """
    picture = Image.open(io.BytesIO(data))
    moves = getattr(picture, "is_animated", False)
    if not moves:
        data = _small(picture.convert("RGBA" if "A" in picture.getbands() else "RGB"))
    ending = "gif" if moves else "webp"
    name = f"{FOLDER}/{hashlib.sha256(data).hexdigest()[:20]}.{ending}"
    if not (folder / name).exists():
        with files.replacing(folder / name) as temporary:
            temporary.write_bytes(data)
    return name


def _small(picture: Image.Image) -> bytes:
    exact = _webp(picture, lossless=True, quality=60, method=3)
    if len(exact) < LOSSY:
        return exact
    return min(exact, _webp(picture, quality=88, method=4), key=len)


def _webp(picture: Image.Image, **how) -> bytes:
    out = io.BytesIO()
    picture.save(out, "webp", **how)
    return out.getvalue()


def taken_out(page: str, folder: Path, up: str) -> str:
    """HTML whose pictures are inside, with pictures that are files. up: the way from the page to the top, "../"."""

    def one(found: re.Match) -> str:
        return f'{found[1]}{up}{kept(base64.b64decode(found[3]), folder)}" loading="lazy"'

    return INSIDE.sub(one, page)
