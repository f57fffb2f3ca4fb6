"""The model of several processes, and the command that measures one and two."""

import json

import pytest

from mlcourse import files, places, scaling
from mlcourse.commands import app

CONSTANTS = {"serial": 0.01, "compute": 0.08, "tasks": 8, "size": 4e6, "latency": 1e-4, "bandwidth": 1e9}


def test_the_model_is_its_formula():
    assert scaling.seconds_of_step(1, **CONSTANTS) == pytest.approx(0.09)
    expected = 0.01 + 0.08 / 8 + 14 * 1e-4 * scaling.MESSAGES + 14 / 8 * 4e6 / 1e9
    assert scaling.seconds_of_step(8, **CONSTANTS) == pytest.approx(expected)


def test_tasks_that_do_not_divide_wait_for_the_largest_part():
    fine = CONSTANTS | {"latency": 0.0, "size": 0.0}
    assert scaling.seconds_of_step(3, **fine) == pytest.approx(0.01 + 0.08 * 3 / 8)


def test_the_page_says_what_was_measured():
    """docs/scaling.md and README, against data/results/scaling.json."""
    root, found = places.repository(), files.read_json(places.data() / "results" / "scaling.json")
    page, readme = ((root / name).read_text(encoding="utf-8") for name in ("docs/scaling.md", "README.md"))
    one, two = ({name: f"{1e3 * value:.1f}" for name, value in row.items()} for row in found["measured"].values())
    assert f"| 1 | {one['processor']} | – | {one['wall']} |" in page
    assert f"| 2 | {two['processor']} | {two['messages']} | {two['wall']} |" in page
    assert f"Measured: {one['serial']} of {one['processor']} ms" in page
    faster = found["times_faster"]
    assert f"**Two processes were {faster['wall']:.2f} times as fast**" in page
    assert f"{faster['processor']:.2f} times less" in page
    assert f"two processes on two cores were\n{faster['wall']:.1f} times as fast" in readme
    seconds = {(row["compute"], row["processes"]): row["seconds"] for row in found["projection"] if row["tasks"] == 8}
    for compute in scaling.GPU_COMPUTE:
        alone, eight = seconds[compute, 1], seconds[compute, 8]
        assert f"| {1e3 * compute:.0f} ms | {1e3 * eight:.1f} ms | {alone / eight:.1f} |" in page


def test_the_command_measures_and_projects(tmp_path, capsys, monkeypatch):
    out = tmp_path / "scaling.json"
    app(["bench", "processes", "--rounds", "1", "--out", str(out)], standalone_mode=False)
    found = json.loads(out.read_text())
    assert found["measured"]["2"]["wall"] > 0
    assert found["measured"]["1"]["messages"] < 1e-3
    assert found["measured"]["2"]["bytes"] > 4 * 10**5
    assert {row["processes"] for row in found["projection"]} == {1, 2, 4, 8}
    assert "a projection with assumed constants, not measured" in capsys.readouterr().out
