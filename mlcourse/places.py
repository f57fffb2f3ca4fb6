"""Where things lie: the repository, its notebooks, the embedded data, the learner's work."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
VARIABLES = ("MLCOURSE_DATA", "MLCOURSE_CACHE", "MLCOURSE_WORK")  # each may name a folder


def whole(path: str | os.PathLike) -> Path:
    """A path as a person writes it (`~`, relative), as one that means the same from everywhere."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def settle() -> None:
    """Make the folders that the environment names absolute: a notebook's kernel works in another folder."""
    for name in VARIABLES:
        if os.environ.get(name):
            os.environ[name] = str(whole(os.environ[name]))


def repository() -> Path:
    """The folder that holds `mlcourse/` (a clone), wherever the command is called from."""
    return PACKAGE.parent


def notebooks() -> Path:
    """The course's own notebooks, never written to by a learner."""
    return repository() / "notebooks"


def data() -> Path:
    """The embedded data: inside an installed package, else the clone's folder `data/`."""
    inside = PACKAGE / "_data"
    return inside if inside.is_dir() else repository() / "data"


def work() -> Path:
    """The learner's folder: MLCOURSE_WORK, else `work/` in the clone (or here, when there is no clone)."""
    named = os.environ.get("MLCOURSE_WORK")
    if named:
        return whole(named)
    home = repository() if (repository() / "pyproject.toml").is_file() else Path.cwd()
    return home / "work"
