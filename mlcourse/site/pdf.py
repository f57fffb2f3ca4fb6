"""Notebooks of the site as PDF, printed by Chromium."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from mlcourse import files
from mlcourse.errors import CourseError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 180  # that one notebook may take
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--proxy-server=127.0.0.1:9",  # nothing listens there: a page of ours needs no network
    "--no-pdf-header-footer",
    "--blink-settings=lazyLoadEnabled=false",  # else what is out of sight is missing on paper
)


def browser() -> str:
    """The path of Chromium or Chrome. Raises CourseError where there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise CourseError("--pdf needs Chromium or Chrome: install one (on Debian and Ubuntu: apt install chromium)")
    return found


def write(page: Path, target: Path, program: str) -> None:
    """Print a page into a PDF. Raises CourseError when the browser fails, or takes more than three minutes."""
    with tempfile.TemporaryDirectory(prefix="mlcourse-") as home, files.replacing(target) as temporary:
        sandbox = ["--no-sandbox"] if _is_root() else []
        command = [program, *FLAGS, *sandbox, f"--user-data-dir={home}", f"--print-to-pdf={temporary.resolve()}"]
        try:
            said = subprocess.run([*command, page.resolve().as_uri()], capture_output=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise CourseError(
                f"{program} did not print {page.name} within {SECONDS} s: try again, or leave out --pdf"
            ) from None
        if said.returncode or not temporary.is_file() or not temporary.read_bytes().startswith(b"%PDF"):
            reason = said.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise CourseError(f"{program} did not print {page.name}: {reason[0]}")


def _is_root() -> bool:
    """Whether this is the root user, for whom Chromium does not start in its sandbox (our own pages need none)."""
    return hasattr(os, "geteuid") and os.geteuid() == 0
