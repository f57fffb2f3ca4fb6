"""Find what each student handed in: a folder per student, zip archives, or nbgrader's `submitted/`.

Nothing is unpacked to the disk, no link is followed, and every size is bounded.
"""

import hashlib
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from mlcourse.errors import CourseError

LARGEST = 20_000_000  # bytes of one notebook
LARGEST_ZIP = 200_000_000
MOST = 2_000  # files of one student, or names in one archive
HIDDEN = ("__MACOSX", "__pycache__")
SUBMITTED = "submitted"
# what nbgrader itself puts beside the folder `submitted`
NBGRADERS = {"source", "release", "autograded", "feedback", "solution", "downloaded", "exchange", "gradebook.db",
             "nbgrader_config.py", "header.ipynb"}  # fmt: skip
# of a file that stands for a student; a name such as max.mustermann has none of them
ENDINGS = {".ipynb", ".zip", ".7z", ".rar", ".gz", ".pdf", ".html", ".py", ".txt"}
WORK = "work"  # the folder in which every student writes: nobody's name
NUMBERED = re.compile(r"\d\d_")  # a notebook of the course
BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)


@dataclass
class File:
    """A file of a student.

    Attributes:
        name: its path inside the hand-in.
        read: returns its bytes, LARGEST at most; raises ValueError with a sentence when it cannot.
        when: when it came: nbgrader's time of its assignment, else the file's time; for a file in an archive, the
            archive's. (Times inside an archive are the student's to choose, and name no zone.)
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

    def digest(self) -> str:
        """SHA-256 of all that counts: names, bytes and times of the notebooks, and what was refused."""
        told = hashlib.sha256(repr((self.student, self.others, self.refused)).encode())
        for one in self.notebooks:
            try:
                content = one.read()
            except ValueError as error:
                content = str(error).encode()
            told.update(repr((one.name, one.when)).encode() + hashlib.sha256(content).digest())
        return told.hexdigest()


@dataclass
class _Entry:
    """A path found somewhere: `file` for a file that may be read, else `refused` says why not (or it is a folder).

    archive: the place of the student's own archive in which it lies; () outside of one.
    folder: whether it is a folder, or a link to one.
    """

    parts: tuple[str, ...]
    file: File | None = None
    refused: str = ""
    archive: tuple[str, ...] = ()
    folder: bool = False

    @property
    def student(self) -> str:
        """Whose it is: the first part, without the ending of a file. Folders and archives have none to cut."""
        name = PurePosixPath(self.parts[0])
        whole = len(self.parts) > 1 or self.archive or self.folder
        return name.stem if not whole and name.suffix.lower() in ENDINGS else self.parts[0]

    @property
    def is_notebook(self) -> bool:
        return self.file is not None and self.parts[-1].lower().endswith(".ipynb")


def collect(place: Path) -> list[HandIn]:
    """All hand-ins in a folder or a zip archive, sorted by the student's name.

    Raises CourseError when there is nothing to mark, or when it is not plain which folders are the students'.
    """
    if place.is_dir():
        entries = list(_folder(place))
    elif place.is_file() and zipfile.is_zipfile(place):
        entries = list(_archive(place, ()))
    else:
        raise CourseError(f"{place} is no folder and no zip archive: name the folder with the hand-ins")
    found: dict[str, HandIn] = {}
    loose: list[tuple[tuple[str, ...], File]] = []
    stamps: dict[tuple[str, ...], datetime] = {}  # nbgrader's timestamp.txt of each student and assignment
    below, nbgraders = _below_common(entries, place)
    if not nbgraders:
        _refuse_one(below, place)
    for entry in below:
        one = found.setdefault(entry.student, HandIn(entry.student))
        if nbgraders and not entry.archive and len(entry.parts) == 3 and entry.parts[2] == "timestamp.txt":
            if when := _stamp(one, entry):
                stamps[entry.parts[:2]] = when
            continue
        file = _add(one, entry)
        # an archive beside the stamp was collected with it; one that stands for the student may name any assignment
        if file and len(entry.archive) not in (1, 2):
            loose.append((entry.parts[:2], file))
    if not found:
        raise CourseError(f"there is nothing to mark in {place}: it needs a folder or a zip archive for each student")
    for place_of, file in loose:
        file.when = stamps.get(place_of, file.when)
    return [found[student] for student in sorted(found)]


def _below_common(entries: list[_Entry], place: Path) -> tuple[list[_Entry], bool]:
    """Without the folder that holds all students: nbgrader's `submitted`, or the one folder inside a class's zip.

    Returns:
        the entries, and whether they lie as nbgrader puts them: STUDENT/ASSIGNMENT/NAME.
    """
    tops = {entry.parts[0] for entry in entries}
    if SUBMITTED in tops:
        kinds = {
            bool(entry.archive) for entry in entries if entry.parts == (SUBMITTED,)
        }  # an archive, a folder, or both
        strangers = sorted(tops - NBGRADERS - {SUBMITTED}) + [f"{SUBMITTED}.zip"] * (len(kinds) > 1)
        if strangers:
            more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
            raise CourseError(
                f"{place} holds {SUBMITTED} beside {', '.join(strangers[:3])}{more}: move it away, or, if it is "
                "nbgrader's folder of all hand-ins, name that folder"
            )
        if kinds == {False} or not place.is_dir():
            return _unwrapped([entry for entry in entries if entry.parts[0] == SUBMITTED]), True
    wrapped = len(tops) == 1 and not any(entry.file and len(entry.parts) < 3 for entry in entries)
    if wrapped and len({entry.parts[1] for entry in entries if len(entry.parts) > 1}) > 1:
        if place.is_dir():
            (top,) = tops
            raise CourseError(
                f"{place} holds {top} alone, with several folders inside: if these are the students, name {top} "
                f"itself; if {top} is a student, put the notebooks into one folder"
            )
        return _unwrapped(entries), False
    return entries, place.is_dir() and place.name == SUBMITTED


def _unwrapped(entries: list[_Entry]) -> list[_Entry]:
    return [
        replace(entry, parts=entry.parts[1:], archive=entry.archive[1:]) for entry in entries if len(entry.parts) > 1
    ]


def _refuse_one(entries: list[_Entry], place: Path) -> None:
    """Raise CourseError where the names are those inside one student's hand-in: its files would become students."""
    tops: dict[str, list[str]] = {}  # the names of the notebooks in each; a loose file of another kind says nothing
    for entry in entries:
        if entry.is_notebook or entry.file is None or len(entry.parts) > 1:
            tops.setdefault(entry.parts[0], []).extend([entry.parts[-1]] if entry.is_notebook else [])
    if WORK in tops or (tops and all(_is_numbered(top, names) for top, names in tops.items())):
        told = sorted(tops, key=lambda top: (top != WORK, top))
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        raise CourseError(
            f"{place} looks like one student's hand-in ({', '.join(told[:3])}{more}): name the folder that holds all "
            "hand-ins, each named as its student"
        )


def _is_numbered(top: str, names: list[str]) -> bool:
    """Whether this is a notebook of the course, or a folder for one; 01_ada with notebooks 05_… is a student."""
    return bool(NUMBERED.match(top) and names) and all(name.startswith(top[:3]) for name in names)


def _add(one: HandIn, entry: _Entry) -> File | None:
    """Put what was found into the hand-in; the notebook, where it is one."""
    name = "/".join(entry.parts[1:]) or entry.parts[0]
    if entry.refused:
        one.refused.append(f"{name}: {entry.refused}.")
    elif entry.is_notebook:
        if len(one.notebooks) < MOST:
            one.notebooks.append(File(name, entry.file.read, entry.file.when))
            return one.notebooks[-1]
    elif entry.file is not None and len(one.others) < 20:
        one.others.append(name)
    return None


def _stamp(one: HandIn, entry: _Entry) -> datetime | None:
    """The time in nbgrader's timestamp.txt; None, with a sentence in the hand-in, when it cannot be read."""
    why = entry.refused or "this is no file"
    try:
        if entry.file is not None:
            return _time(entry.file)
    except ValueError as error:
        why = str(error)
    one.refused.append(f"{'/'.join(entry.parts[1:])}: {why}. Until then the file's own time counts.")
    return None


def _time(file: File) -> datetime:
    """A time such as "2026-11-28 17:00:00 UTC". Raises ValueError with a sentence when it is none."""
    text = file.read().decode(errors="replace").strip()
    try:  # a zone may stand apart, as UTC does: the remedy below is to put another in its place
        return utc(datetime.fromisoformat(text.removesuffix(" UTC").replace(" +", "+").replace(" -", "-")))
    except (ValueError, OverflowError):  # the year 1 in a zone east of Greenwich is the year 0 in UTC
        said = f"the time {text[:60]!r} cannot be read; write its zone as UTC or as +01:00"
        raise ValueError(said) from None


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
    try:
        kind = path.lstat()
    except OSError as error:  # a name or a path too long for this system, or a file that went away
        yield _Entry((*parts[:1], "a file"), refused=f"it cannot be read ({error.strerror})")
        return
    if stat.S_ISLNK(kind.st_mode):
        said = "this is a link, and links are not followed; hand in the file itself"
        yield _Entry(parts, refused=said, folder=os.path.isdir(path))
    elif stat.S_ISDIR(kind.st_mode):
        yield _Entry(parts, folder=True)
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
    """The files in an archive. `parts` is the place of a student's archive; () for the one archive of a class."""
    where = parts or (path.stem,)
    told = path.stat()
    if told.st_size > LARGEST_ZIP:
        yield _Entry(where, refused=f"the archive is larger than {LARGEST_ZIP // 1_000_000} MB", archive=parts)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        yield _Entry(where, refused="the archive is damaged, or is no zip", archive=parts)
        return
    if parts:
        yield _Entry(parts, archive=parts)  # an empty archive has a row, too
    if len(members) > MOST:
        said = f"the archive holds {len(members)} names; {MOST} at most are read"
        yield _Entry(where, refused=said, archive=parts)
    when = datetime.fromtimestamp(told.st_mtime, UTC)
    for member in members[:MOST]:
        for entry in _member(path, member, parts, when):
            yield replace(entry, archive=parts)


def _member(path: Path, member: zipfile.ZipInfo, parts: tuple[str, ...], when: datetime) -> Iterator[_Entry]:
    name = member.filename
    inside = PurePosixPath(name.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts or ":" in name or "\0" in name:
        yield _Entry(parts or (path.stem,), refused="a name in the archive leads out of it; this file is not read")
    elif not inside.parts or any(_is_hidden(part) for part in inside.parts):
        return
    elif stat.S_ISLNK(member.external_attr >> 16):
        yield _Entry((*parts, *inside.parts), refused="this is a link, and links are not followed")
    elif member.is_dir():
        yield _Entry((*parts, *inside.parts), folder=True)
    elif inside.suffix.lower() == ".zip":
        yield _Entry((*parts, *inside.parts), refused="an archive inside an archive is not read")
    else:
        yield _Entry((*parts, *inside.parts), File(name, lambda: _read_member(path, member), when))


def _read_member(path: Path, member: zipfile.ZipInfo) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            return _bounded(file.read(LARGEST + 1))  # the size in the archive's list may be a lie
    except (*BROKEN, OSError, EOFError, RuntimeError, NotImplementedError, MemoryError) as error:
        raise ValueError(f"the file in the archive cannot be read ({type(error).__name__})") from None
