"""The timing table of the lessons, printed at the end of a run."""

import json

import pytest


@pytest.fixture
def record_lesson(record_property):
    """Keep a lesson's costs with its test report, which reaches the summary from every worker."""

    def record(**costs):
        record_property("lesson", json.dumps(costs))

    return record


def pytest_terminal_summary(terminalreporter):
    rows = [
        json.loads(value)
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for name, value in getattr(report, "user_properties", [])
        if name == "lesson" and report.when == "call"
    ]
    if not rows:
        return
    terminalreporter.section("lessons: what each costs (the contract: under 180 s, no cell over 60 s, on 2 cores)")
    terminalreporter.write_line(
        f"{'notebook':40} {'seconds':>8} {'slowest cell':>13} {'peak MB':>8} {'kernel starts':>14}"
    )
    for row in rows:
        slow = f"[{row['slowest_cell']}] {row['slowest_seconds']:.1f} s"
        costs = f"{row['seconds']:8.1f} {slow:>13} {row['peak_mb']:8.0f} {row['kernel_starts']:14d}"
        terminalreporter.write_line(f"{row['notebook']:40} {costs}")
