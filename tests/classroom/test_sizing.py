"""The sizes of a hub are what the lessons took."""

import re

import pytest

from mlcourse import files, places
from mlcourse.classroom import desks, sizing
from mlcourse.errors import CourseError
from mlcourse.teaching import claims


def test_more_memory_for_more_students():
    record = {"01_a": {"peak_mb": 1095, "processor_seconds": 44}, "02_b": {"peak_mb": 2013}}
    head, _, first, second = sizing.table(record).splitlines()
    assert head.startswith("| notebook | memory, GB | core-minutes | students, 16 GB |")
    assert first == "| 01 | 1.2 | 0.5 | 10 | 22 | 45 |"
    assert second == "| 02 | 2.2 | – | 6 | 12 | 26 |"


def test_a_page_without_its_marks_is_one_line(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "hub.md").write_text("no table")
    files.write_json(tmp_path / "lessons.json", {})
    with pytest.raises(CourseError, match="put it back"):
        sizing.page(tmp_path / "notebooks", tmp_path / "lessons.json")


def test_every_lesson_on_record_has_a_row():
    record = places.data() / claims.RECORD
    found = sizing.page(places.notebooks(), record)
    if found is None:
        pytest.skip("needs a clone of the repository")
    for name in files.read_json(record):
        assert f"| {name[:2]} | " in found[1]


def test_the_class_of_25_is_counted_from_the_measured_peaks():
    place, _ = sizing.page(places.notebooks(), places.data() / "results" / "lessons.json")
    text = place.read_text(encoding="utf-8")
    told = re.search(
        r"A class of (\d+) needs (\d+) GB at the limit of (\d) GB, or (\d+) GB with `--memory ([\d.]+)`", text
    )
    class_of, most, limit, less, each = map(float, told.groups())
    assert limit * desks.GIB == desks.NEEDED
    assert most == class_of * limit + sizing.MACHINE_GB
    assert less == pytest.approx(class_of * each + sizing.MACHINE_GB)
    peaks = [row["peak_mb"] / 1000 for row in files.read_json(places.data() / "results" / "lessons.json").values()]
    assert max(peaks) + sizing.LAB_GB <= each
    counts = {row[2:4]: row.split("|")[-2].strip() for row in text.splitlines() if re.match(r"\| \d\d ", row)}
    assert f"({counts['02']} for notebook 02, {counts['00']} for 00)" in text
    assert f"{(64 - 1) // 3} of 3 GB on 64 GB" in text
