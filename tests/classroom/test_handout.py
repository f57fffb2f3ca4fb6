"""`mlcourse handout`: an edition without solutions that runs as it is."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from html import escape
from itertools import pairwise

import nbformat
import pytest
from typer.testing import CliRunner

from mlcourse import files, places
from mlcourse.classroom import course, handout
from mlcourse.commands import app
from mlcourse.errors import CourseError

ALL = handout.choose("", [])


@pytest.fixture(scope="module")
def edition(tmp_path_factory):
    """The edition of all notebooks."""
    out = tmp_path_factory.mktemp("class") / "edition"
    handout.make(out, ALL, later=True)
    return out


def lines_of(source: str) -> list[str]:
    """The lines of a solution's function, without its head."""
    body = source.split("assert checks.")[0].split("\n", 1)[1]
    return [line.strip() for line in body.split("\n") if line.strip()]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name[:2])
def test_no_notebook_holds_a_solution(edition, path):
    before, after = files.read_notebook(path), files.read_notebook(edition / "notebooks" / path.name)
    text = "\n".join(cell.source for cell in after.cells)
    lesson = "\n".join(cell.source for cell in before.cells if "solution" not in cell.metadata.get("tags", []))
    assert "solution_" not in text
    assert "#Solution" not in text
    assert not re.search(r"^#+ Solution", text, re.MULTILINE)
    assert "In class:" not in text
    assert not any("solution" in cell.metadata.get("tags", []) for cell in after.cells)
    assert "solution" not in str(after.metadata)
    shown = [line.strip() for cell in after.cells if cell.source != handout.START for line in cell.source.split("\n")]
    taught = [line.strip() for line in lesson.split("\n")]
    for exercise in course.read(path).exercises:
        lines = lines_of(exercise.solution)
        assert lines
        for line in lines:  # some lines the lesson itself shows, in a hint or in another function: no more than that
            assert shown.count(line) <= taught.count(line), f"{exercise.number}: {line}"
    kept = [
        cell.source for cell in before.cells if any(tag.startswith("exercise") for tag in cell.metadata.get("tags", []))
    ]
    assert [cell.source for cell in after.cells if cell.source in kept] == kept


def test_the_archive_is_the_folder_and_its_checksums_are_right(edition):
    with zipfile.ZipFile(edition.with_name("edition.zip")) as archive:
        packed = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
    there = {
        f"edition/{path.relative_to(edition).as_posix()}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in edition.rglob("*")
        if path.is_file()
    }
    assert packed == there
    told = dict(line.split("  ")[::-1] for line in (edition / "SHA256SUMS").read_text().splitlines())
    assert {f"edition/{name}": digest for name, digest in told.items()} | {
        "edition/SHA256SUMS": there["edition/SHA256SUMS"]
    } == there
    assert any(name.startswith("data/checkpoints/") for name in told)
    assert any(name.startswith("data/glyphs/") for name in told)


def test_the_solutions_come_in_an_archive_apart(edition):
    with zipfile.ZipFile(edition.with_name("edition-solutions.zip")) as archive:
        assert archive.read(f"notebooks/{ALL[0].name}") == ALL[0].read_bytes()


def test_two_editions_have_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        handout.make(tmp_path / name / "edition", ALL[:1])
    assert (tmp_path / "a" / "edition.zip").read_bytes() == (tmp_path / "b" / "edition.zip").read_bytes()


def run_untouched(edition, path, tmp_path):
    """Run a notebook of an unpacked edition from top to bottom, in a Python that finds no other mlcourse."""
    home = tmp_path / "unpacked"
    shutil.copytree(edition, home)
    code = (
        "import sys, nbformat, nbclient\n"
        "notebook = nbformat.read(sys.argv[1], as_version=4)\n"
        "where = nbformat.v4.new_code_cell('import mlcourse; print(mlcourse.__file__)')\n"
        "notebook.cells.append(where)\n"
        "nbclient.NotebookClient(notebook, timeout=900, kernel_name='python3').execute()\n"
        "print(where.outputs[0].text if where.outputs else notebook.cells[-1].outputs[0]['text'])\n"
    )
    hidden = {"PYTHONPATH", "MLCOURSE_WORK", "MLCOURSE_DATA"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    call = [sys.executable, "-c", code, path.name]
    done = subprocess.run(
        call, cwd=home / "notebooks", env=environment | {"MLCOURSE_BUDGET": "smoke"}, capture_output=True, text=True,
        timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == str(home / "mlcourse" / "__init__.py")
    assert (home / "work").is_dir() or not list(home.glob("work*"))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name[:2])
def test_it_runs_untouched(edition, path, tmp_path):
    if path.name[:2] != "00" and os.environ.get("MLCOURSE_LESSON") != "all":
        pytest.skip("a run of each notebook takes minutes: set MLCOURSE_LESSON=all")
    run_untouched(edition, path, tmp_path)


def test_the_start_cell_stands_before_the_first_import_of_the_package(edition):
    for path in ALL:
        cells = [
            c.source for c in files.read_notebook(edition / "notebooks" / path.name).cells if c.cell_type == "code"
        ]
        first = next(k for k, source in enumerate(cells) if "from mlcourse" in source)
        assert cells[first - 1] == handout.START
        assert "ADDRESS" not in cells[first]
        assert "pip install" in cells[first]


# ---- the choice, the cover page, refusals ----


def test_the_cover_page_lists_the_notebooks_with_their_minutes(edition):
    page = (edition / "index.html").read_text(encoding="utf-8")
    for path in ALL:
        header = files.read_notebook(path).cells[0].source
        core = re.search(r"\*\*Core\*\* \| (\d+)", header)[1]
        in_class = int(re.search(r"In class: (\d+) minutes", header)[1])
        title = re.escape(escape(header.split("\n")[0].lstrip("# ")))
        row = re.search(rf"<td>(\d+):(\d+)–(\d+):(\d+)</td><td>{title}</td><td class=n>{core}</td>", page)
        begin, end = (60 * int(hour) + int(minute) for hour, minute in (row.groups()[:2], row.groups()[2:]))
        assert end - begin == in_class
    assert all((edition / link).is_file() for link in re.findall(r'href="([^"]+)"', page))
    assert ".ipynb" not in page  # a browser would show its JSON


def test_no_lesson_reaches_into_the_night():
    lessons = [handout.Lesson("x", "x", core, 0) for core in (30, 60, 60, 60, 55, 60, 60, 45, 60, 60, 600)]
    found = handout.schedule(lessons)
    assert found[0] == (1, 9 * 60, 9 * 60 + 30)
    for (day, _, end), (next_day, next_begin, _) in pairwise(found):
        assert end <= 17 * 60
        assert next_day > day or next_begin >= end + 15
    assert any(later - end == 60 for (_, _, end), (_, later, _) in pairwise(found))
    assert found[-1][1] == 9 * 60  # a lesson longer than a day begins in the morning


def test_tracks_and_numbers():
    assert [path.name[:2] for path in handout.choose("core", [])][:4] == ["00", "01", "02", "03"]
    assert "04" not in [path.name[:2] for path in handout.choose("core", [])]
    assert [path.name[:2] for path in handout.choose("", ["05", "01"])] == ["01", "05"]
    for track, numbers in (("night", []), ("", ["99"])):
        with pytest.raises(CourseError, match="there is no"):
            handout.choose(track, numbers)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["0"], ["00"]),
        (["00", "01"], ["00", "01"]),
        (["1", "0,2"], ["00", "01", "02"]),
        (["2", "--notebooks", "00,1"], ["00", "01", "02"]),
    ],
)
def test_plain_numbers_are_taken_as_run_takes_them(tmp_path, words, found):
    answer = CliRunner().invoke(app, ["handout", str(tmp_path / "edition"), *words])
    assert answer.exit_code == 0, answer.output
    assert sorted(path.name[:2] for path in (tmp_path / "edition" / "notebooks").glob("*.ipynb")) == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["edition", "99"], "no notebook 99"),
        (["edition", "x"], "no notebook x:"),
        (["00", "01"], "name the folder first"),
        (["edition", "--plan", "night"], "take one of day, two-days, ten-weeks-vision, ten-weeks-gradients"),
        (["edition", "01", "--plan", "day"], "names its notebooks itself"),
        (["edition", "--track", "core", "--plan", "day"], "names its notebooks itself"),
    ],
)
def test_a_wrong_choice_is_one_line(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["handout", *words])
    assert answer.exit_code == 2
    assert said in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_cover_page_says_how_to_hand_in():
    page = " ".join(handout.cover([]).split())
    for words in ("Name the archive after yourself, such as <code>ada-lovelace.zip</code>",
                  "Do not rename the functions", "Helpers and imports may stand in cells of their own",
                  "Outputs are not marked",
                  "pip install torch --index-url"):  # fmt: skip
        assert words in page


def test_it_is_known_which_notebooks_hold_solutions(edition):
    assert handout.has_solutions(places.notebooks())
    assert not handout.has_solutions(edition / "notebooks")


def test_a_link_to_a_notebook_that_is_not_there_becomes_words():
    cell = nbformat.v4.new_markdown_cell("See [one](01_a.ipynb), [two](02_b.ipynb#x) and [the web](https://x.org/a).")
    made = handout.without_solutions(nbformat.v4.new_notebook(cells=[cell]), {"01_a.ipynb"})
    assert made.cells[0].source == "See [one](01_a.ipynb), two and [the web](https://x.org/a)."


def test_the_command_overwrites_nothing(tmp_path):
    call = ["handout", str(tmp_path / "edition"), "--notebooks", "0"]
    answer = CliRunner().invoke(app, call)
    assert answer.exit_code == 0, answer.output
    there = sorted(path.name for path in (tmp_path / "edition" / "notebooks").iterdir())
    assert there == [ALL[0].name, "glossary.md"]  # the page that the notebooks link
    again = CliRunner().invoke(app, call)
    assert again.exit_code == 2
    assert "there already" in again.stderr
    inside = CliRunner().invoke(app, ["handout", str(places.notebooks() / "edition")])
    assert inside.exit_code == 2
    assert not (places.notebooks() / "edition").exists()


@pytest.mark.parametrize("inside", ["data", "notebooks", "mlcourse"])
def test_an_edition_is_never_made_inside_what_it_copies(inside):
    out = places.repository() / inside / "edition"
    with pytest.raises(CourseError, match="lies in the course's own folders"):
        handout.make(out, ALL[:1])
    assert not out.exists()
