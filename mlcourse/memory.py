"""How much memory this process may have: the machine's, or what its container allows; and how much it took."""

import sys
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
# Where Linux tells a container its limit, what it uses, and how much of that is only copies of files: versions 2 and 1.
FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def total() -> int:
    """Bytes of memory that this process could have if nothing else ran."""
    machine, container = psutil.virtual_memory().total, _container()
    return min(machine, container[0]) if container else machine


def available() -> int:
    """Bytes of memory that can still be taken without anything being moved to the disk."""
    machine, container = psutil.virtual_memory().available, _container()
    return min(machine, max(container[0] - container[1], 0)) if container else machine


def peak() -> float:
    """The largest memory this process has held at once, in MiB."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux KiB


def _container() -> tuple[int, int] | None:
    """The container's limit and what it uses, in bytes; None where there is no limit."""
    for names in FILES:
        try:
            limit, used, table = ((CGROUP / name).read_text(encoding="ascii") for name in names)
            counts = dict(line.split() for line in table.splitlines())
            return int(limit), max(int(used) - int(counts.get("inactive_file", 0)), 0)
        except (OSError, ValueError):  # no such file, or the word "max": no limit
            continue
    return None
