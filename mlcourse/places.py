"""Where things lie: the repository, its notebooks, the embedded data, the learner's work."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


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
        return Path(named).expanduser().resolve()
    home = repository() if (repository() / "pyproject.toml").is_file() else Path.cwd()
    return home / "work"


def fix_relative() -> None:
    """Make the folders that the user's environment names absolute: a kernel runs in another folder than its command."""
    for name in ("MLCOURSE_DATA", "MLCOURSE_WORK", "MLCOURSE_CACHE"):
        if os.environ.get(name):
            os.environ[name] = os.path.abspath(Path(os.environ[name]).expanduser())
