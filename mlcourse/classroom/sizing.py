"""How large a machine does a class need? The table of docs/hub.md, from what each lesson took when it last ran.

`mlcourse tidy` writes it, from data/results/lessons.json.
"""

from pathlib import Path

from mlcourse import files
from mlcourse.classroom import desks

BEGIN, END = "<!-- sizes: begin (written by `mlcourse tidy`) -->", "<!-- sizes: end -->"
GIGABYTES = (16, 32, 64)
CLASS = 25  # students
MACHINE_GB = desks.KEPT / desks.GIB  # what the command leaves to the machine itself
LAB_GB = 0.2  # JupyterLab's server of one student, beside the kernel: 170 MB with two notebooks open


def page(folder: Path, record: Path) -> tuple[Path, str] | None:
    """docs/hub.md beside a folder of notebooks, and its text with the table; None where there is none of the two."""
    place = folder.parent / "docs" / "hub.md"
    if not place.is_file() or not record.is_file():
        return None
    text = place.read_text(encoding="utf-8")
    return place, files.between_marks(text, BEGIN, END, sizes(files.read_json(record)), f"docs/{place.name}")


def sizes(record: dict) -> str:
    """The table, and what it says of a class."""
    return f"{table(record)}\n\n{words(record)}" if record else table(record)


def words(record: dict) -> str:
    """How the table's numbers and the limit of one student go together, from the lessons with most and least memory."""
    counts = {name[:2]: _students(took, GIGABYTES[-1]) for name, took in record.items()}
    most, least = min(counts, key=counts.get), "00" if "00" in counts else max(counts, key=counts.get)
    limit, each = desks.NEEDED / desks.GIB, max(map(_memory, record.values())) + LAB_GB
    return (
        f"On {GIGABYTES[-1]} GB the table counts more students than the limit lets in ({counts[most]} for notebook "
        f"{most}, {counts[least]} for {least}): it counts the measured peak of one lesson, and {limit:g} GB is a limit "
        f"with room to spare. A class of {CLASS} needs {CLASS * limit + MACHINE_GB:g} GB at the limit of {limit:g} GB, "
        f"or {CLASS * each + MACHINE_GB:g} GB with `--memory {each:.1f}`: that is enough for one notebook at a time, "
        f"also for {most}."
    )


def _memory(took: dict) -> float:
    """The peak of a lesson's kernel in GB, rounded up to 0.2: two runs differ by less."""
    return -(-took["peak_mb"] // 200) / 5


def _students(took: dict, gigabytes: int) -> int:
    """For how many students a machine's memory is enough, all in this lesson at once."""
    return int((gigabytes - MACHINE_GB) / (_memory(took) + LAB_GB))


def table(record: dict) -> str:
    """A row for each lesson: its peak of memory, its processor time, and the students that memory is enough for.

    record: by notebook, what its last run at `lesson` took: `peak_mb` and, where measured, `processor_seconds`.
    """
    head = " | ".join(f"students, {gigabytes} GB" for gigabytes in GIGABYTES)
    lines = [f"| notebook | memory, GB | core-minutes | {head} |", "|---" * (3 + len(GIGABYTES)) + "|"]
    for name, took in sorted(record.items()):
        minutes = took.get("processor_seconds")
        shown = "–" if minutes is None else f"{max(0.5, round(minutes / 30) / 2):.1f}"
        students = " | ".join(str(_students(took, one)) for one in GIGABYTES)
        lines.append(f"| {name[:2]} | {_memory(took):.1f} | {shown} | {students} |")
    return "\n".join(lines)
