"""A small site for the tests: two notebooks at `smoke`, made once for all workers of a test run."""

import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from mlcourse import places

NOTEBOOKS = ("00", "05")  # one with the drawing pad, one with a widget; the two that run fastest
NEEDS = "mlcourse[site] is not installed: pip install -e '.[site]'"
# no proxy answers on this port: what asks for the network fails at once
OFFLINE = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": "localhost,127.0.0.1"}


def made(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    """Call `mlcourse site`."""
    command = [sys.executable, "-m", "mlcourse", "site", *arguments]
    environment = os.environ | OFFLINE | variables
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=places.repository(), timeout=570
    )


def small_site(tmp_path_factory) -> Path:
    """The folder of the small site. It skips where Sphinx and its parts are missing."""
    for name in ("myst_nb", "sphinx_book_theme"):
        pytest.importorskip(name, reason=NEEDS)
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "site"  # of all workers
    folder.mkdir(exist_ok=True)
    with filelock.FileLock(folder / "lock"):
        said = folder / "said"
        if not said.is_file():
            cache = os.environ.get("MLCOURSE_SITE_CACHE") or str(folder / "cache")
            answer = made(str(folder / "pages"), *NOTEBOOKS, "--budget", "smoke", "--cache", cache)
            said.write_text(f"{answer.returncode}\n{answer.stdout}{answer.stderr}", encoding="utf-8")
    status, text = said.read_text(encoding="utf-8").split("\n", 1)
    assert status == "0", text
    return folder / "pages"
