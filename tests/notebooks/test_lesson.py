"""The full length of each notebook, and whether its claim can fail.

A lesson takes minutes, so `make test` runs only those whose result can have changed. `data/results/lessons.json` has,
for each notebook, a hash of its code, of the package files that it imports (found by reading the imports, through the
whole package) and of the embedded data. It needs no git history, so it answers the same in a shallow clone and in an
archive. `make test-full` (MLCOURSE_LESSON=all) runs every lesson. Each lesson that ran and passed is written to the
file, with what its claim cell printed (`mlcourse tidy` makes the table of claims of it), and a file that was out of
date when the tests began is a fault: commit the one that they wrote.

After the lesson, in the same kernel, the notebook's baseline takes the method's place, the evidence cells run again,
and the claim cell must fail: a claim that cannot fail claims nothing.
"""

import os
from dataclasses import asdict

import harness
import nbformat
import pytest
import speed

from mlcourse import files, places
from mlcourse.commands.pages import write_html
from mlcourse.commands.run import execute
from mlcourse.teaching import claims, fingerprints

RECORD = places.data() / claims.RECORD
WHEN = os.environ.get("MLCOURSE_LESSON", "")

pytestmark = pytest.mark.lesson


def recorded() -> dict:
    return files.read_json(RECORD) if RECORD.is_file() else {}


BEFORE = recorded()  # as it was committed


def of_quiet_cores(seconds: float, unit: float) -> float:
    """What these seconds would have been on cores that do nothing else.

    unit: `speed.unit` at that time; faster cores excuse nothing.
    """
    return round(seconds / max(1.0, unit / speed.QUIET), 1)


def assert_promise(name: str, row: dict) -> None:
    """Under 180 s, and no cell over 60 s, on 2 cores that do nothing else."""
    for what, seconds, most in ((name, row["seconds"], 180), (f"a cell of {name}", row["slowest_seconds"], 60)):
        assert seconds < most, f"{what} takes {seconds} s on quiet cores (by the clock {row['clock']}); make it shorter"


@pytest.mark.parametrize("path", harness.notebooks(), ids=lambda path: path.stem)
def test_lesson_and_its_claim(path, tmp_path, record_lesson):
    if WHEN not in ("changed", "all"):
        pytest.skip("lessons take minutes: set MLCOURSE_LESSON=changed or =all")
    fingerprint = fingerprints.fingerprint(path)
    if WHEN == "changed" and recorded().get(path.stem, {}).get("fingerprint") == fingerprint:
        pytest.skip("unchanged since its last full run")
    notebook = nbformat.read(path, as_version=4)
    source = tmp_path / path.name
    nbformat.write(harness.with_claim_test(notebook), source)
    executed = places.repository() / "runs" / "lessons" / path.name
    executed.parent.mkdir(parents=True, exist_ok=True)
    unit = speed.unit()
    outcome = execute(source, executed, budget="lesson", work=tmp_path / "work")
    unit = (unit + speed.unit()) / 2
    write_html(executed)
    ran = nbformat.read(executed, as_version=4)
    costs = harness.lesson_costs(ran)
    record_lesson(**(asdict(outcome) | costs | {"executed": str(executed)}))
    assert not outcome.error, f"{outcome.error} (see {executed})"
    differing = harness.golden_differences(notebook, ran)
    assert not differing, "golden cells depend on the budget:\n" + "\n".join(differing)
    taken = {"seconds": costs["seconds"], "slowest_seconds": costs["slowest_seconds"]}
    taken |= {"processor_seconds": outcome.processor_seconds}
    kept = {name: of_quiet_cores(value, unit) for name, value in taken.items()}
    kept |= {"clock": round(costs["seconds"], 1), "unit": round(unit, 3), "peak_mb": round(outcome.peak_mb)}
    kept |= {"claim": claims.record(notebook, ran)}
    assert_promise(path.stem, kept)  # first: a run that a busy machine slowed down is not kept, and is made again
    files.write_json(RECORD, recorded() | {path.stem: {"fingerprint": fingerprint} | kept})


def test_the_record_is_of_these_lessons():
    """Otherwise its seconds and memory, which the README tells, are those of other notebooks."""
    if WHEN != "changed":
        pytest.skip("asked of `make test` only, whose record is the committed one: MLCOURSE_LESSON=changed")
    stale = [
        path.stem
        for path in harness.notebooks()
        if BEFORE.get(path.stem, {}).get("fingerprint") != fingerprints.fingerprint(path)
    ]
    assert not stale, f"{', '.join(stale)} changed since the last full run: commit {RECORD} as this run wrote it"


@pytest.mark.skipif(not recorded(), reason="no full run is on record")
def test_the_recorded_lessons_keep_the_promise_of_three_minutes():
    """The record, made by `make test-full` on 2 cores, is of notebooks that are there."""
    there = {path.stem for path in places.repository().glob("notebooks/*.ipynb")}
    for name, row in recorded().items():
        assert name in there, f"{name} is on record and is no notebook: take it out of {RECORD.name}"
        assert_promise(name, row)


def test_the_promise_is_of_quiet_cores():
    assert of_quiet_cores(200, 1.25 * speed.QUIET) == 160
    assert of_quiet_cores(200, 0.5 * speed.QUIET) == 200  # faster cores excuse nothing
    assert_promise("00", {"seconds": 160.0, "slowest_seconds": 50.0, "clock": 200.0})
    with pytest.raises(AssertionError, match="00 takes 200"):
        assert_promise("00", {"seconds": 200.0, "slowest_seconds": 50.0, "clock": 200.0})
    with pytest.raises(AssertionError, match="a cell of 00 takes 61"):
        assert_promise("00", {"seconds": 100.0, "slowest_seconds": 61.0, "clock": 100.0})
