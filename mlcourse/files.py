"""Files that are whole or not there, also after a power cut: written to a temporary name, flushed, then renamed."""

import errno
import hashlib
import json
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mlcourse.errors import CourseError

if TYPE_CHECKING:  # torch is imported late: `mlcourse lab` and `mlcourse doctor` write files, and must not need it
    import nbformat
    import torch

CHECKSUM = "checksum"  # its name beside the metadata in a file of tensors
UNNAMED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # errors of writing: the system names no file with them
NAME_START = 40  # letters of a file's name in its temporary name: at most 160 bytes, and a name may have 255


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` when the block ends well, delete it when it does not.

    The bytes reach the disk before the new name does: otherwise a power cut could leave the name with an empty file.
    The OSError of a disk that is full, or fails, names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of the name only the beginning: with an ending, a name as long as the disk allows would be too long.
    temporary = path.with_name(f".{path.name[:NAME_START]}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _flush(temporary, os.O_RDWR)  # Windows flushes only what is open for writing
        os.replace(temporary, path)
        with suppress(OSError):  # Windows and some network disks flush no folders; the file is whole all the same
            _flush(path.parent, os.O_RDONLY)
    except OSError as error:
        # the name of a temporary file, or none, would tell a person nothing
        if str(error.filename) == str(temporary) or (error.filename is None and error.errno in UNNAMED):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def check_named(path: Path | str, what: str) -> None:
    """Raise CourseError for a path without letters, which would mean the current folder, and for that of a file.

    what: its name in messages.
    """
    if not str(path).strip():
        raise CourseError(f"{what} is empty, which would mean the current folder; name a folder")
    if os.path.isfile(path):  # False for a name that no disk takes
        raise CourseError(f"{what} is {path}, a file; name a folder")


def _flush(path: Path, mode: int) -> None:
    """Wait until the disk has the bytes of a file, or the names in a folder."""
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` (UTF-8, newlines kept) to `path` in one piece.

    Half characters, which stand for bytes of a file name that is no UTF-8, become `\\udce9`, which JSON reads back.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path | str, value: object) -> None:
    """Write `value` as readable JSON. Bytes of a file name that are no text become escapes, and are read back."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_text(path, text.encode("utf-8", "backslashreplace").decode())


def read_json(path: Path | str) -> dict:
    """Read a JSON object. Raises CourseError for a missing or damaged file, which it names.

    One where a name stands twice in an object is refused, too: Python would keep the last one without a word.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=_once_each)
    except CourseError as error:
        raise CourseError(f"{path} {error}") from None
    except FileNotFoundError:
        raise CourseError(f"there is no file {path}") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # no JSON, no text; also numbers too long and lists too deep for Python
        raise CourseError(f"{path} is damaged ({error}); delete it, or take it from a backup") from None
    if not isinstance(value, dict):
        raise CourseError(f"{path} holds no JSON object; delete it, or take it from a backup")
    return value


def _once_each(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise CourseError(f"has {twice[:40]!r} twice in one object, so one of them would be lost: keep one")
    return found


def between_marks(text: str, begin: str, end: str, made: str, page: str) -> str:
    """A text with `made` between its two marks, lines that stay. page: how a message calls the text.

    Raises CourseError when a mark lacks.
    """
    before, first, rest = text.partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise CourseError(f"{page} has no line {end if first else begin}: put it back")
    return f"{before}{begin}\n\n{made}\n\n{end}{after}"


def read_notebook(path: Path | str) -> "nbformat.NotebookNode":
    """Read a notebook, of nbformat 4 or brought up to it.

    Raises CourseError for a missing file, and for one that is empty, cut, no notebook at all, or of a later format.
    """
    import nbformat

    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        notebook = nbformat.convert(nbformat.reader.reads(text), 4)  # `nbformat.reads` would also log what is wrong
        if not isinstance(notebook.cells, list):
            raise ValueError("its cells are no list")
        bare = nbformat.from_dict({**notebook, "cells": [_without_outputs(cell) for cell in notebook.cells]})
        with warnings.catch_warnings():  # of cells without ids, or with the same one: they run all the same
            warnings.simplefilter("ignore")
            nbformat.validate(bare)
        return notebook
    except FileNotFoundError:
        raise CourseError(f"there is no notebook {path}") from None
    except OSError:
        raise
    except Exception as error:  # nbformat lets whatever its parts raise through: KeyError, AttributeError, ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise CourseError(f"{path} is not a notebook, or is damaged ({reason}); take it from a backup") from None


def _without_outputs(cell: dict) -> dict:
    """A cell as it is before it runs: what is wrong with outputs alone does not matter to whoever runs it."""
    return {**cell, "outputs": [], "execution_count": None} if cell["cell_type"] == "code" else dict(cell)


def save_tensors(path: Path | str, tensors: "dict[str, torch.Tensor]", metadata: dict | None = None) -> None:
    """Write named tensors and a JSON-able `metadata`, with a checksum of both, as one safetensors file (no pickle)."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # Copies: tensors under two names share their memory, which the format does not know.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with replacing(path) as temporary:
        temporary.touch()
        rights = temporary.stat().st_mode  # of a new file here; safetensors would make one for its owner alone
        try:
            told = json.loads(json.dumps(metadata or {}))  # as it will be read: keys are text, tuples are lists
            told[CHECKSUM] = _checksum(tensors, told)
            save_file(tensors, temporary, metadata={"json": json.dumps(told)})
        except SafetensorError as error:  # safetensors wraps the system's errors, "no space left" among them
            raise CourseError(f"{path} could not be written ({error}); free some space or take another --out") from None
        temporary.chmod(rights)


def load_tensors(path: Path | str) -> "tuple[dict[str, torch.Tensor], dict]":
    """Read what `save_tensors` wrote. Raises CourseError, with its name, for a missing, damaged or foreign file.

    Files of earlier versions hold no checksum; they are read as they are.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not os.path.isfile(path):  # unlike Path.is_file, no error where a folder may not be entered
        raise CourseError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            # Copies: what comes out of `safe_open` is the file's own pages, and whoever rewrites the file changes them
            # (Windows would refuse to replace it).
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
            told = json.loads((file.metadata() or {}).get("json", "{}"))
    except (SafetensorError, json.JSONDecodeError, OSError, RuntimeError) as error:
        # (RuntimeError: PyTorch opens the file once more, and another process has removed it meanwhile)
        raise CourseError(f"{path} is damaged or truncated ({error}); delete it and train again") from None
    found = told.pop(CHECKSUM, None) if isinstance(told, dict) else None
    if found is not None and found != _checksum(tensors, told):
        raise CourseError(f"{path} is damaged: its content does not fit its checksum; take it from a backup")
    return tensors, told


def load_metadata(path: Path | str) -> dict:
    """Only what `save_tensors` was told beside the tensors: they are neither read nor checked.

    Raises CourseError, with its name, for a missing, damaged or foreign file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:  # which opens it once; PyTorch would once more
            told = json.loads((file.metadata() or {})["json"])
    except (SafetensorError, KeyError, ValueError, OSError, RecursionError) as error:
        raise CourseError(f"{path} is no file of tensors that the course wrote, or damaged ({error})") from None
    if not isinstance(told, dict):
        raise CourseError(f"{path} is no file of tensors that the course wrote: what it tells is no object")
    told.pop(CHECKSUM, None)
    return told


def _checksum(tensors: "dict[str, torch.Tensor]", metadata: dict) -> str:
    """SHA-256 of all tensors, their names, shapes and number formats, and of what is told of them."""
    import torch

    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
