"""Where the minutes of a run go, printed at its end: what is not seen is not mended."""

from collections import Counter

SHOWN, LEAST_MINUTES = 40, 1.0


def pytest_terminal_summary(terminalreporter):
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            seconds[getattr(report, "nodeid", "").partition("::")[0]] += getattr(report, "duration", 0.0)
    total = sum(seconds.values()) / 60
    if total < LEAST_MINUTES:
        return
    terminalreporter.section(f"minutes of the workers together: {total:.1f}; the {SHOWN} files that take most")
    for file, taken in seconds.most_common(SHOWN):
        terminalreporter.write_line(f"{taken / 60:6.2f}  {file}")
