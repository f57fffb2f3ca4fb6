"""Where the minutes of a run go, printed at its end: what is not seen is not mended."""

import os
from collections import Counter

import pytest

SHOWN, LEAST_MINUTES = 40, 1.0


def core_seconds() -> float:
    """Of a core, by this process and by the processes that it started and that have ended."""
    return sum(os.times()[:4])


before = core_seconds()


def pytest_collection_finish():
    """What the imports of all test files took is no file's own."""
    global before
    before = core_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    global before
    report, now = (yield), core_seconds()
    report.core_seconds, before = now - before, now
    return report


def pytest_terminal_summary(terminalreporter):
    clock: Counter[str] = Counter()
    core: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            file = getattr(report, "nodeid", "").partition("::")[0]
            clock[file] += getattr(report, "duration", 0.0) / 60
            core[file] += getattr(report, "core_seconds", 0.0) / 60
    if clock.total() < LEAST_MINUTES:
        return
    terminalreporter.section(
        f"{core.total():.1f} minutes of a core, {clock.total():.1f} of the workers; the {SHOWN} files that take most"
    )
    for file, minutes in core.most_common(SHOWN):
        terminalreporter.write_line(f"{minutes:6.2f} {clock[file]:6.2f}  {file}")
