"""Find what each student handed in: a folder per student, zip archives, or nbgrader's `submitted/`.

Nothing is unpacked to the disk, no link is followed, and every size is bounded.
"""

import hashlib
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from mlcourse.errors import CourseError

LARGEST = 20_000_000  # bytes of one notebook
LARGEST_ZIP = 200_000_000
MOST = 2_000  # files of one student, or names in one archive
HIDDEN = ("__MACOSX", "__pycache__")
BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)


@dataclass
class File:
    """A file of a student.

    Attributes:
        name: its path inside the hand-in.
        read: returns its bytes, LARGEST at most; raises ValueError with a sentence when it cannot.
        when: when it was written (a file's time, or an archive's; nbgrader's timestamp goes before both).
    """

    name: str
    read: Callable[[], bytes]
    when: datetime


@dataclass
class HandIn:
    """What one student handed in: notebooks, the names of other files, and sentences on what was refused."""

    student: str
    notebooks: list[File] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    stamped: datetime | None = None  # nbgrader's timestamp.txt

    @property
    def when(self) -> datetime | None:
        """When the last notebook was written; None without notebooks."""
        return self.stamped or max((one.when for one in self.notebooks), default=None)

    def digest(self) -> str:
        """SHA-256 of all that counts: names, bytes and times of the notebooks, and what was refused."""
        told = hashlib.sha256(repr((self.student, self.others, self.refused, self.when)).encode())
        for one in self.notebooks:
            try:
                content = one.read()
            except ValueError as error:
                content = str(error).encode()
            told.update(repr(one.name).encode() + hashlib.sha256(content).digest())
        return told.hexdigest()


@dataclass
class _Entry:
    """A path found somewhere: `file` for a file that may be read, else `refused` says why not (or it is a folder)."""

    parts: tuple[str, ...]
    file: File | None = None
    refused: str = ""


def collect(place: Path) -> list[HandIn]:
    """All hand-ins in a folder or a zip archive, sorted by the student's name.

    Raises CourseError when there is nothing to mark.
    """
    if place.is_dir():
        entries = list(_folder(place))
    elif place.is_file() and zipfile.is_zipfile(place):
        entries = list(_archive(place, ()))
    else:
        raise CourseError(f"{place} is no folder and no zip archive: name the folder with the hand-ins")
    found: dict[str, HandIn] = {}
    for entry in _below_common(entries):
        alone = len(entry.parts) == 1 and (entry.file is not None or entry.refused)
        student = PurePosixPath(entry.parts[0]).stem if alone else entry.parts[0]
        _add(found.setdefault(student, HandIn(student)), entry)
    if not found:
        raise CourseError(f"there is nothing to mark in {place}: it needs a folder or a zip archive for each student")
    return [found[student] for student in sorted(found)]


def _below_common(entries: list[_Entry]) -> list[_Entry]:
    """Without the folder that holds all students: nbgrader's `submitted`, or the one folder inside a class's zip."""
    tops = {entry.parts[0] for entry in entries}
    wrapped = len(tops) == 1 and not any(entry.file and len(entry.parts) < 3 for entry in entries)
    if "submitted" in tops:
        kept = [entry for entry in entries if entry.parts[0] == "submitted"]
    elif wrapped and len({entry.parts[1] for entry in entries if len(entry.parts) > 1}) > 1:
        kept = entries
    else:
        return entries
    below = [_Entry(entry.parts[1:], entry.file, entry.refused) for entry in kept]
    return [entry for entry in below if entry.parts]


def _add(one: HandIn, entry: _Entry) -> None:
    name = "/".join(entry.parts[1:]) or entry.parts[0]
    if entry.refused:
        one.refused.append(f"{name}: {entry.refused}.")
    elif entry.file is not None and name.lower().endswith(".ipynb"):
        if len(one.notebooks) < MOST:
            one.notebooks.append(File(name, entry.file.read, entry.file.when))
    elif entry.file is not None:
        if entry.parts[-1] == "timestamp.txt":
            one.stamped = _stamp(entry.file) or one.stamped
        elif len(one.others) < 20:
            one.others.append(name)


def _stamp(file: File) -> datetime | None:
    """The time in nbgrader's timestamp.txt, "2026-11-28 17:00:00 UTC"; None when it is none."""
    try:
        return utc(datetime.fromisoformat(file.read().decode().strip().removesuffix(" UTC")))
    except (ValueError, OverflowError):  # the year 1 in a zone east of Greenwich is the year 0 in UTC
        return None


def utc(when: datetime) -> datetime:
    """The time with its zone; without one, UTC is meant."""
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


# ---- folders ----


def _folder(top: Path) -> Iterator[_Entry]:
    for folder, inside, names in os.walk(top):
        inside[:] = sorted(name for name in inside if not _is_hidden(name))
        below = Path(folder).relative_to(top).parts
        for name in [*inside, *sorted(names)]:
            if not _is_hidden(name):
                yield from _path(Path(folder, name), (*below, name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in HIDDEN


def _path(path: Path, parts: tuple[str, ...]) -> Iterator[_Entry]:
    kind = path.lstat()
    if stat.S_ISLNK(kind.st_mode):
        yield _Entry(parts, refused="this is a link, and links are not followed; hand in the file itself")
    elif stat.S_ISDIR(kind.st_mode):
        yield _Entry(parts)
    elif not stat.S_ISREG(kind.st_mode):
        yield _Entry(parts, refused="this is no plain file")
    elif path.suffix.lower() == ".zip":
        yield from _archive(path, (*parts[:-1], path.stem))
    else:
        when = datetime.fromtimestamp(kind.st_mtime, UTC)
        yield _Entry(parts, File(path.name, lambda: _read(path), when))


def _read(path: Path) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
            return _bounded(file.read(LARGEST + 1))
    except OSError as error:
        raise ValueError(f"the file cannot be read ({error.strerror})") from None


def _bounded(content: bytes) -> bytes:
    if len(content) > LARGEST:
        raise ValueError(f"the file is larger than {LARGEST // 1_000_000} MB; clear its outputs and hand it in again")
    return content


# ---- archives ----


def _archive(path: Path, parts: tuple[str, ...]) -> Iterator[_Entry]:
    where = parts or (path.stem,)
    if path.stat().st_size > LARGEST_ZIP:
        yield _Entry(where, refused=f"the archive is larger than {LARGEST_ZIP // 1_000_000} MB")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        yield _Entry(where, refused="the archive is damaged, or is no zip")
        return
    if parts:
        yield _Entry(parts)  # an empty archive has a row, too
    if len(members) > MOST:
        yield _Entry(where, refused=f"the archive holds {len(members)} names; {MOST} at most are read")
    for member in members[:MOST]:
        yield from _member(path, member, parts)


def _member(path: Path, member: zipfile.ZipInfo, parts: tuple[str, ...]) -> Iterator[_Entry]:
    name = member.filename
    inside = PurePosixPath(name.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts or ":" in name or "\0" in name:
        yield _Entry(parts or (path.stem,), refused="a name in the archive leads out of it; this file is not read")
    elif not inside.parts or any(_is_hidden(part) for part in inside.parts):
        return
    elif stat.S_ISLNK(member.external_attr >> 16):
        yield _Entry((*parts, *inside.parts), refused="this is a link, and links are not followed")
    elif member.is_dir():
        yield _Entry((*parts, *inside.parts))
    elif inside.suffix.lower() == ".zip":
        yield _Entry((*parts, *inside.parts), refused="an archive inside an archive is not read")
    else:
        when = utc(datetime(*_date(member)))
        yield _Entry((*parts, *inside.parts), File(name, lambda: _read_member(path, member), when))


def _date(member: zipfile.ZipInfo) -> tuple[int, ...]:
    try:
        datetime(*member.date_time)
    except ValueError:
        return (1980, 1, 1)
    return member.date_time


def _read_member(path: Path, member: zipfile.ZipInfo) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            return _bounded(file.read(LARGEST + 1))  # the size in the archive's list may be a lie
    except (*BROKEN, OSError, EOFError, RuntimeError, NotImplementedError, MemoryError) as error:
        raise ValueError(f"the file in the archive cannot be read ({type(error).__name__})") from None
