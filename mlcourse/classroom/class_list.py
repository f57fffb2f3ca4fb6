"""Who may sit in the class room: a list of names, and a password for each.

The list is a text file with one name per line. Passwords are made once, kept in a file that only its owner can read,
and handed to the students on paper or by mail. The hub compares; it never shows them.
"""

import csv
import hmac
import io
import os
import re
import secrets
from pathlib import Path

from mlcourse import files
from mlcourse.errors import CourseError, printable

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,30}")  # it is a folder's name and a part of an address
LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that two people read differently
LENGTH = 10
HEAD = ["name", "password"]


def read(path: Path) -> list[str]:
    """The names of a class: one per line; empty lines and what follows # do not count.

    Raises:
        CourseError: no file, no name, a name that cannot be one, the same name twice. The line is named.

    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise CourseError(f"the class list {path} cannot be read ({reason}): write one name per line") from None
    names: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.split("#")[0].strip()
        if not name:
            continue
        if not NAME.fullmatch(name):
            raise CourseError(
                f"line {number} of {path} is {printable(name)}: a name has small letters a to z, digits, and . _ - "
                "between them, 31 at most"
            )
        if name in names:
            raise CourseError(f"{name} stands twice in {path}, in lines {names[name]} and {number}: remove one")
        names[name] = number
    if not names:
        raise CourseError(f"the class list {path} has no name: write one name per line")
    return list(names)


def passwords(names: list[str], path: Path) -> dict[str, str]:
    """Name -> password, for the names of the list. New names get one and are added to the file; nobody loses one.

    path: a CSV file with the columns name and password. It is made when it is missing, for its owner's eyes only.

    Raises:
        CourseError: the file is damaged, or others may read it.

    """
    kept = _kept(path)
    new = {name: "".join(secrets.choice(LETTERS) for _ in range(LENGTH)) for name in names if name not in kept}
    if new:
        _write(path, kept | new)
    return {name: (kept | new)[name] for name in names}


def right(known: dict[str, str], name: str, password: str) -> bool:
    """Whether the password is the one of that name. It takes as long for a name that is unknown."""
    return hmac.compare_digest(known.get(name, "").encode(), password.encode()) and name in known


def _kept(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise CourseError(f"others can read {path}, which holds passwords: chmod 600 {path}, and tell nobody")
    try:
        text = path.read_text(encoding="utf-8-sig")  # a spreadsheet may have put a mark before it
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
        if rows[0] != HEAD or any(len(row) != 2 or len(row[1]) < LENGTH for row in rows[1:]):
            raise ValueError
        return dict(rows[1:])
    except (OSError, ValueError, IndexError, csv.Error):
        raise CourseError(
            f"{path} is damaged: mend it (columns name,password; {LENGTH} letters or more), or move it away; then "
            "everybody gets a new password"
        ) from None


def _write(path: Path, table: dict[str, str]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEAD, *table.items()])
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.chmod(0o600)
        temporary.write_text(text.getvalue(), encoding="utf-8")
