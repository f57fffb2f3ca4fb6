"""Find answers in damaged notebooks, and hand-ins in folders and archives. No answer runs here."""

import ast
import json
import os
import zipfile
from datetime import UTC, datetime, timedelta

import forty
import pytest
import speed

from mlcourse.classroom import answers, child, collecting, course, notebooks
from mlcourse.errors import CourseError

LESSONS = course.notebooks()


def find(content: bytes, number: str = "00"):
    cells, notes = notebooks.cells_of(content)
    return answers.find(LESSONS[number], cells), notes


@pytest.mark.parametrize("name", forty.DAMAGES)
def test_what_is_intact_is_found_and_what_is_not_has_a_sentence(name):
    damage, marks, words = forty.DAMAGES[name]
    found, notes = find(damage(forty.answered(all_three=True)))
    assert [int(not one.fault and bool(one.parts)) for one in found] == list(marks)
    said = [*notes, *(note for one in found for note in [*one.notes, one.fault])]
    assert any(words in one for one in said)
    for sentence in filter(None, said):
        assert sentence.endswith("."), sentence


def test_the_helpers_of_a_student_come_along_and_the_lesson_does_not():
    found, _ = find(forty.bytes_of(forty.answered(all_three=True)))
    text = "\n".join(part.source for one in found for part in one.parts if not part.optional)
    assert "def members" in text
    assert "FACTOR = 1.96" in text
    assert "lesson.start" not in text
    assert "datasets.load" not in text


def test_an_answer_that_uses_an_earlier_one_gets_the_courses():
    notebook = [
        notebooks.Cell("code", "hessian_vector = checks.hessian_vector(my_hessian_vector).answer"),
        notebooks.Cell("code", "def my_meta_gradient(theta, task):\n    return hessian_vector(1, 2, 3)"),
    ]
    found = answers.find(LESSONS["05"], notebook)
    assert found[1].given == {"hessian_vector": "by_hand.hessian_vector"}


@pytest.mark.parametrize(
    "text",
    [
        "def my_nearest(d):\n    return nearest(d)",
        "my_nearest = nearest",
        "my_nearest = lambda d: nearest(d)",
        "def helper(d):\n    return nearest(d)\ndef my_nearest(d):\n    return helper(d)",
    ],
)
def test_an_answer_never_gets_its_own_exercises_reference(text):
    (first, *_), _ = find(forty.bytes_of(forty.answered(text)))
    assert first.parts
    assert "nearest" not in first.given


RIGHT_OTHERWISE = {
    "a builtin's name": ("from torch import max", "def my_nearest(d):\n    return max(-d, 1).indices"),
    "a builtin of its own": ("def abs(d):\n    return d.argmin(1)", "def my_nearest(d):\n    return abs(d)"),
    "an entry": ("CFG = {}", "CFG['dim'] = 1", "def my_nearest(d):\n    return d.argmin(CFG['dim'])"),
    "entries": ("C = {}\nfor k in 'ab':\n    C[k] = 1", "def my_nearest(d):\n    return d.argmin(C['b'])"),
    "an attribute": ("class C:\n    pass", "C.dim = 1", "def my_nearest(d):\n    return d.argmin(C.dim)"),
    "a method": ("AXES = []", "AXES.append(0)\nAXES += [1]", "def my_nearest(d):\n    return d.argmin(AXES[1])"),
    "a setter": (
        "def setup():\n    global DIM\n    DIM = 1", "setup()", "def my_nearest(d):\n    return d.argmin(DIM)",
    ),
    "a setter of an entry": (
        "C = {}\ndef setup():\n    C['dim'] = 1", "setup()", "def my_nearest(d):\n    return d.argmin(C['dim'])",
    ),
    "wrapped": ("def my_nearest(d):\n    return d.argmin(1)\nmy_nearest = torch.no_grad()(my_nearest)",),
    "wrapped later": ("def my_nearest(d):\n    return d.argmin(1)", "my_nearest = torch.no_grad()(my_nearest)"),
    "annotations": (
        "from __future__ import annotations", "def my_nearest(d: Rows) -> Places:\n    return d.argmin(1)",
    ),
    "tried": ("T = {'dim': 1}", "def my_nearest(d):\n    return d.argmin(T['dim'])",
              "T['a'] = my_nearest(torch.eye(2))", "torch.testing.assert_close(1, 1)"),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT_OTHERWISE)
def test_what_is_right_in_a_notebook_is_right_here(name):
    import torch

    cells = [notebooks.Cell("code", text) for text in RIGHT_OTHERWISE[name]]
    answer = answers.find(LESSONS["00"], cells)[0]
    request = {"exercise": "00.1", "name": answer.name, "given": {}, "parts": [vars(part) for part in answer.parts]}
    function = child.load(request)  # these answers are ours: they run here
    distances = torch.tensor([[2.0, 1, 3], [0, 1, 2]])
    assert function(distances).tolist() == [1, 0]
    assert answer.look == []


def look(*lines: str, before: str = "") -> str:
    notebook = forty.answered(forty.body(*lines))
    notebook["cells"].insert(0, forty.code(before or "pass"))
    return " ".join(find(forty.bytes_of(notebook))[0][0].look)


def test_what_a_teacher_should_look_at():
    assert look("return distances.argmin(dim=1)") == ""  # one statement, as the course's own: many write it so
    assert look("return distances.min(dim=1).indices") == ""
    own = look("return checks.nearest.reference(distances)", before="from mlcourse.lessons.start_here import checks")
    assert "mlcourse.lessons.start_here.checks.nearest.reference" in own
    late = look("from mlcourse.networks import closed_form as c", "return c.solve(distances)")
    assert "mlcourse.networks.closed_form.solve" in late
    assert "solution_nearest" in look("return solution_nearest(distances)")
    assert "torch.allclose" in look("torch.allclose = None", "return distances.min(dim=1).indices")
    assert "__globals__" in look("return my_nearest.__globals__['x']")
    stolen = look(
        "m = torch.sys.modules", "return m['mlcourse.lessons.start_here.checks'].nearest.reference(distances)"
    )
    assert "modules, reference, sys" in stolen
    assert "mlcourse, as a text" in stolen
    for module, call in {"pkgutil": "resolve_name", "runpy": "run_module", "pydoc": "locate"}.items():
        hidden = look(f"return {module}.{call}('ml' + 'course.lessons')", before=f"import {module}")
        assert f"imports {module}, which the exercise does not need" in hidden
    assert look("return math.nan", before="import math") == ""
    assert "getattr" in look("return getattr(torch, 'argmin')(distances, 1)")
    assert "modules" in look("return m['a'].f(distances)", before="from torch.sys import modules as m")
    assert "checks" in look("return reference_nearest(distances)",
                            before="from mlcourse.lessons.start_here.checks import *")  # fmt: skip
    assert look("net = torch.nn.Identity().eval()", "return net(distances).min(dim=1).indices") == ""


def test_equality_is_said_of_solutions_of_three_statements_or_more():
    short = long = 0
    for lesson in LESSONS.values():
        cells = [notebooks.Cell("code", text) for text in lesson.cells]
        for exercise in lesson.exercises:
            tree = ast.parse(exercise.solution)
            node = next(one for one in tree.body if isinstance(one, ast.FunctionDef))
            node.name = exercise.name
            body = [*node.body[ast.get_docstring(node) is not None :]]
            size = sum(isinstance(one, ast.stmt) for part in body for one in ast.walk(part))
            copied = [*cells, notebooks.Cell("code", ast.unparse(node), [f"exercise:{exercise.number}"])]
            answer = next(one for one in answers.find(lesson, copied) if one.exercise == exercise)
            assert ("to the letter" in " ".join(answer.look)) == (size > 2), f"{exercise.number}: {size} statements"
            short, long = short + (size <= 2), long + (size > 2)
    assert min(short, long) > 5


def test_of_two_different_answers_the_tagged_one_counts():
    notebook = forty.answered()
    notebook["cells"].append(forty.code(forty.body("return distances.argmax(dim=1)")))
    (first, *_), _ = find(forty.bytes_of(notebook))
    assert "indices" in first.parts[-1].source
    assert "more than once" in first.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{" * 100_000,
        '{"cells": ' + "[" * 100_000,
        '{"cell_type": {' * 20_000,
        '{"cells": 3}',
        '{"cells": [3, null, {"cell_type": "code"}, {"cell_type": [], "source": "x"}]}',
        "[]",
        "null",
        "\0" * 100,
        json.dumps({"cells": [{"cell_type": "code", "source": "(" * 90_000 + "my_nearest"}]}),
        json.dumps({"cells": [{"cell_type": "code", "source": "x" + ".a" * 60_000}]}),
        json.dumps(
            {"cells": [{"cell_type": "code", "source": "def my_nearest(d):\n    return " + "d+" * 40_000 + "d"}]}
        ),
        json.dumps(
            {"cells": [{"cell_type": "code", "source": "def my_nearest(d):\n    return " + "-" * 90_000 + "d"}]}
        ),
        json.dumps({"cells": [{"cell_type": "code", "source": "def my_nearest(d):\0"}]}),
        *(
            json.dumps({"cells": [{"cell_type": "code", "source": f"def my_nearest(d):\n    return {text}"}] * 2})
            for depth in (150, 300, 600, 900, 1500)
            for text in ("d+" * depth + "d", "-" * depth + "d", "d" + ".a" * depth, "(" * min(depth, 190) + "d")
        ),
        '{"id": ' * 900 + "[" + "1," * 500_000,
        json.dumps({"cells": [{"cell_type": "code", "source": "x = 1\n" * 30_000}] * 90}),
        json.dumps({"cells": [{"cell_type": "code", "source": "\ud800 = 3"}]}),
        json.dumps({"cells": [{"cell_type": "code", "source": f"def my_nearest(d):\n    return 0x{'F' * 5000}"}]}),
        '{"worksheets": [{"cells": 5}]}',
        '{"worksheets": [{"cells": {"a": 1}}, {"cells": [3]}]}',
    ],
)
def test_no_file_makes_the_reader_fall(text):
    found, _ = find(text.encode("utf-8", "surrogatepass"))
    assert len(found) == 3


def test_a_notebook_of_very_many_cells_is_read_in_linear_time():
    def cells(count):
        one = {"cell_type": "code", "source": "def my_nearest(d):"}
        rest = {"cell_type": "code", "source": "    return d.argmin(1)"}
        return json.dumps({"cells": [one, rest] * (count // 2)}).encode()

    small, large = cells(2_000), cells(100_000)
    found, notes = find(small)
    assert (len(found), notes) == (3, [])
    assert len(find(large)[0]) == 3
    assert speed.ratio(lambda: find(large), lambda: find(small), tries=2) < 50 / 2  # 50 times the cells
    many = json.dumps({"cells": [{"cell_type": "code", "source": "x = 1\n" * 15_000}] * 2}).encode()
    assert "more than 20000 statements" in " ".join(find(many)[1])
    assert "has 2001 cells; the first 2000 are read" in find(json.dumps({"cells": [{}] * 2001}).encode())[1][0]


@pytest.mark.parametrize("text", ["x{0} = x{1}", "x{0} = [x{1}]; x{0}[0] = x{1}"])
def test_a_long_chain_of_names_is_read_in_linear_time(text):
    def chain(length):
        lines = "\n".join(text.format(k, k + 1) for k in range(length))
        cells = [notebooks.Cell("code", lines), notebooks.Cell("code", "def my_nearest(d):\n    return x0")]
        assert answers.find(LESSONS["00"], cells)[0].parts

    times = speed.ratio(lambda: chain(3_000), lambda: chain(300), tries=2)
    assert times < 30  # of ten times the names; in squares it would be 100


# ---- collecting ----


def test_folders_archives_and_single_files(tmp_path):
    right = forty.bytes_of(forty.answered())
    (tmp_path / "ada" / "deep" / ".ipynb_checkpoints").mkdir(parents=True)
    (tmp_path / "ada" / "deep" / "00.ipynb").write_bytes(right)
    (tmp_path / "ada" / "deep" / ".ipynb_checkpoints" / "00-checkpoint.ipynb").write_bytes(right)
    (tmp_path / "bob.zip").write_bytes(forty.zipped({"mine/00.ipynb": right, "__MACOSX/._00.ipynb": b"x"}))
    (tmp_path / "cleo.ipynb").write_bytes(right)
    (tmp_path / "dan").mkdir()
    (tmp_path / "dan" / "print.pdf").write_bytes(b"%PDF")
    (tmp_path / "eve.zip").write_bytes(b"PK no zip")
    found = collecting.collect(tmp_path)
    assert [one.student for one in found] == ["ada", "bob", "cleo", "dan", "eve"]
    assert [len(one.notebooks) for one in found] == [1, 1, 1, 0, 0]
    assert found[3].others == ["print.pdf"]
    assert "damaged" in found[4].refused[0]


def test_what_is_wrong_stands_under_the_full_name(tmp_path):
    (tmp_path / "elsewhere.d").mkdir()
    folder = tmp_path / "hand-ins"
    (folder / "max").mkdir(parents=True)
    (folder / "max" / "05_maml.ipynb").write_bytes(b"{}")
    (folder / "max.mustermann.zip").write_bytes(b"PK no zip")
    (folder / "eva.klein.zip").write_bytes(forty.zipped({"../evil.txt": b"x"}))
    (folder / "ida.gross").symlink_to(tmp_path / "elsewhere.d")
    (folder / "jo.py").symlink_to(tmp_path / "elsewhere.d")
    (folder / "kim.lang.zip").symlink_to(tmp_path / "no file")
    (folder / "leo.kurz").write_bytes(b"x")
    (folder / "mia.weiss.ipynb").write_bytes(b"{}")
    (folder / "ned.pdf").write_bytes(b"%PDF")
    found = {one.student: one for one in collecting.collect(folder)}
    words = {"max.mustermann": "damaged", "eva.klein": "leads out of it", "ida.gross": "a link", "jo.py": "a link",
             "kim.lang": "a link"}  # fmt: skip
    assert list(found) == sorted([*words, "max", "leo.kurz", "mia.weiss", "ned"])
    for student, one in found.items():
        assert len(one.refused) == (student in words)
        assert words.get(student, "") in "".join(one.refused)


def test_names_with_dots_stay_whole_in_an_archive_of_a_class(tmp_path):
    inside = {"ada/00.ipynb": b"{}", "bob.klein.zip": b"PK", "eve.gross/": b""}
    (tmp_path / "all.zip").write_bytes(forty.zipped(inside))
    assert [one.student for one in collecting.collect(tmp_path / "all.zip")] == ["ada", "bob.klein", "eve.gross"]


def test_nbgraders_layout_and_its_time(tmp_path):
    folder = tmp_path / "submitted" / "ada" / "week 1"
    folder.mkdir(parents=True)
    (folder / "00.ipynb").write_bytes(b"{}")
    (folder / "timestamp.txt").write_text("2026-11-02 10:00:00.123456 UTC")
    (tmp_path / "source").mkdir()
    (one,) = collecting.collect(tmp_path)
    assert one.student == "ada"
    assert one.notebooks[0].when == datetime(2026, 11, 2, 10, 0, 0, 123456, tzinfo=UTC)


def test_one_archive_of_a_class(tmp_path):
    right = forty.bytes_of(forty.answered())
    (tmp_path / "all.zip").write_bytes(forty.zipped({"class/ada/00.ipynb": right, "class/bob/00.ipynb": right}))
    assert [one.student for one in collecting.collect(tmp_path / "all.zip")] == ["ada", "bob"]


def test_a_folder_without_hand_ins_is_one_line(tmp_path):
    with pytest.raises(CourseError, match="nothing to mark"):
        collecting.collect(tmp_path)


def write(folder, *names):
    """Write an empty notebook, or another file, under each name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}")


ONE_STUDENT = [
    ("work/05_maml.ipynb", "work/06_x.ipynb"),
    ("work/05_maml.ipynb", "notes/a.pdf"),
    ("05_maml.ipynb", "06_x-Copy1.ipynb", "print.pdf"),
    ("05_maml/05_maml.ipynb", "06_x/06_x.ipynb", "06_x/data.csv"),
]


@pytest.mark.parametrize("names", ONE_STUDENT)
def test_one_students_hand_in_is_no_class(tmp_path, names):
    """Its folders and notebooks would become students."""
    write(tmp_path / "ada", *names)
    (tmp_path / "ada-lovelace.zip").write_bytes(forty.zipped(dict.fromkeys(names, b"{}")))
    for place in (tmp_path / "ada", tmp_path / "ada-lovelace.zip"):
        with pytest.raises(CourseError, match=r"looks like one student's hand-in \((work|05).*\): name the folder"):
            collecting.collect(place)


@pytest.mark.parametrize("names", [("work/05_maml.ipynb", "notes/06_x.ipynb"), ("05_a/05_a.ipynb", "06_x/06_x.ipynb")])
def test_one_student_with_two_folders_in_an_archive_is_no_class(tmp_path, names):
    (tmp_path / "ada.zip").write_bytes(forty.zipped({f"ada/{name}": b"{}" for name in names}))
    with pytest.raises(CourseError, match="looks like one student's hand-in"):
        collecting.collect(tmp_path / "ada.zip")


@pytest.mark.parametrize(
    ("names", "students"),
    [
        (("ada/work/05_maml.ipynb", "bob/work/05_maml.ipynb"), ["ada", "bob"]),
        (("01_ada/05_maml.ipynb", "02_bob/05_maml.ipynb"), ["01_ada", "02_bob"]),  # groups have numbers, too
        (("ada/05_maml.ipynb", "05_maml.ipynb"), ["05_maml", "ada"]),
        (("cleo.ipynb", "dan.ipynb"), ["cleo", "dan"]),
        (("submitted/05_eve/hw/05_maml.ipynb", "submitted/work/hw/05_maml.ipynb"), ["05_eve", "work"]),
    ],
)
def test_a_class_is_not_taken_for_one_student(tmp_path, names, students):
    write(tmp_path / "in", *names)
    (tmp_path / "all.zip").write_bytes(forty.zipped(dict.fromkeys(names, b"{}")))
    for place in (tmp_path / "in", tmp_path / "all.zip"):
        assert [one.student for one in collecting.collect(place)] == students


def test_a_time_that_cannot_be_read_is_a_sentence(tmp_path):
    stamps = {"ada": "2026-01-10 17:00:00.123456 CET", "bob": "2026-01-10 17:00:00.123456 +01:00", "cleo": "\ufffd"}
    for student, text in stamps.items():
        write(tmp_path, f"submitted/{student}/week 1/00.ipynb")
        (tmp_path / "submitted" / student / "week 1" / "timestamp.txt").write_text(text, encoding="utf-8")
    write(tmp_path, "submitted/dan/week 1/00.ipynb")
    (tmp_path / "submitted" / "dan" / "week 1" / "timestamp.txt").symlink_to(tmp_path / "elsewhere")
    found = {one.student: one for one in collecting.collect(tmp_path)}
    assert found["ada"].refused == [
        f"week 1/timestamp.txt: the time '{stamps['ada']}' cannot be read; write its zone as UTC or as +01:00. "
        "Until then the file's own time counts."
    ]
    own = (tmp_path / "submitted" / "ada" / "week 1" / "00.ipynb").stat().st_mtime
    assert found["ada"].notebooks[0].when.timestamp() == pytest.approx(own)
    assert found["bob"].refused == []  # the remedy helps
    assert found["bob"].notebooks[0].when == datetime(2026, 1, 10, 16, 0, 0, 123456, tzinfo=UTC)
    assert "cannot be read" in found["cleo"].refused[0]
    assert "this is a link" in found["dan"].refused[0]


def test_a_time_that_no_calendar_has_is_no_time(tmp_path):
    for student, text in (("ada", "0001-01-01T00:00:00+14:00"), ("bob", "9999-12-31T23:59:59-14:00")):
        folder = tmp_path / "submitted" / student / "week 1"
        folder.mkdir(parents=True)
        (folder / "00.ipynb").write_bytes(b"{}")
        (folder / "timestamp.txt").write_text(text)
    now = datetime.now(UTC)
    assert all(abs(now - one.notebooks[0].when) < timedelta(hours=1) for one in collecting.collect(tmp_path))


@pytest.mark.parametrize("method", ["ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA"])
def test_a_damaged_file_in_an_archive_is_a_sentence(tmp_path, method):
    made = tmp_path / "ada.zip"
    with zipfile.ZipFile(made, "w", getattr(zipfile, method)) as archive:
        archive.writestr("00.ipynb", bytes(range(256)) * 40)
    content = bytearray(made.read_bytes())
    content[45:75] = b"\xff" * 30  # in the compressed data: the names at the end stay whole
    made.write_bytes(content)
    (one,) = collecting.collect(tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        one.notebooks[0].read()
    assert one.digest()


def test_submitted_beside_students_is_asked_about(tmp_path):
    right = forty.bytes_of(forty.answered())
    for student in ("alice", "bob"):
        (tmp_path / student).mkdir()
        (tmp_path / student / "00.ipynb").write_bytes(right)
    (tmp_path / "submitted.zip").write_bytes(forty.zipped({"eve/00.ipynb": right}))
    with pytest.raises(CourseError, match="holds submitted beside alice, bob"):
        collecting.collect(tmp_path)
    (tmp_path / "submitted.zip").unlink()
    (tmp_path / "submitted").mkdir()
    with pytest.raises(CourseError, match="holds submitted beside alice, bob"):
        collecting.collect(tmp_path)


def test_submitted_as_an_archive_beside_the_folder_is_asked_about(tmp_path):
    (tmp_path / "submitted" / "ada" / "week 1").mkdir(parents=True)
    (tmp_path / "submitted" / "ada" / "week 1" / "00.ipynb").write_bytes(b"{}")
    (tmp_path / "submitted.zip").write_bytes(forty.zipped({"00.ipynb": b"{}"}))
    with pytest.raises(CourseError, match=r"beside submitted\.zip"):
        collecting.collect(tmp_path)


def test_an_archive_called_submitted_is_a_student(tmp_path):
    (tmp_path / "submitted.zip").write_bytes(forty.zipped({"00.ipynb": b"{}"}))
    assert [(one.student, len(one.notebooks)) for one in collecting.collect(tmp_path)] == [("submitted", 1)]


def test_one_student_with_two_folders_is_asked_about(tmp_path):
    for week in ("week 1", "week 2"):
        (tmp_path / "hand-ins" / "alice" / week).mkdir(parents=True)
        (tmp_path / "hand-ins" / "alice" / week / "00.ipynb").write_bytes(b"{}")
    with pytest.raises(CourseError, match="alice alone, with several folders"):
        collecting.collect(tmp_path / "hand-ins")
    assert [one.student for one in collecting.collect(tmp_path / "hand-ins" / "alice")] == ["week 1", "week 2"]


def test_no_student_can_forge_the_time(tmp_path):
    late, early = datetime(2026, 11, 9, tzinfo=UTC), "2001-01-01 00:00:00 UTC"
    (tmp_path / "ada" / "week 1").mkdir(parents=True)
    for place in ("ada", "ada/week 1"):
        (tmp_path / place / "00.ipynb").write_bytes(b"{}")
        (tmp_path / place / "timestamp.txt").write_text(early)
    stamped = {"00.ipynb": b"{}", "timestamp.txt": early.encode(), "week 1/timestamp.txt": early.encode()}
    (tmp_path / "bob.zip").write_bytes(forty.zipped(stamped))
    for path in tmp_path.rglob("*"):
        os.utime(path, (late.timestamp(), late.timestamp()))
    assert {file.when for one in collecting.collect(tmp_path) for file in one.notebooks} == {late}


def test_only_nbgraders_own_timestamp_counts(tmp_path):
    for student, folder in (("ada", "week 1"), ("ada", "week 2"), ("ada", "week 1/deep")):
        place = tmp_path / "submitted" / student / folder
        place.mkdir(parents=True)
        (place / "00.ipynb").write_bytes(b"{}")
    (tmp_path / "submitted" / "ada" / "week 1" / "timestamp.txt").write_text("2026-11-03 10:00:00 UTC")
    (tmp_path / "submitted" / "ada" / "week 2" / "timestamp.txt").write_text("2026-11-02 10:00:00 UTC")
    (tmp_path / "submitted" / "ada" / "week 1" / "deep" / "timestamp.txt").write_text("2001-01-01 00:00:00 UTC")
    (tmp_path / "submitted" / "bob.zip").write_bytes(
        forty.zipped({"w/00.ipynb": b"{}", "w/timestamp.txt": b"2001-01-01"})
    )
    (tmp_path / "submitted" / "ada" / "week 1" / "hw.zip").write_bytes(forty.zipped({"00.ipynb": b"{}"}))
    (tmp_path / "submitted" / "ada.zip").write_bytes(forty.zipped({"week 2/01.ipynb": b"{}"}))
    for place in (tmp_path, tmp_path / "submitted"):
        ada, bob = collecting.collect(place)
        times = {file.name: file.when.day for file in ada.notebooks if file.name.endswith("/00.ipynb")}
        assert times.pop("week 1/hw/00.ipynb") == 3  # an archive beside the stamp
        assert times.pop("week 1/deep/00.ipynb") == 3
        packed = next(file for file in ada.notebooks if file.name == "week 2/01.ipynb")
        assert packed.when.year > 2020 and packed.when != datetime(2026, 11, 2, 10, tzinfo=UTC)  # noqa: PT018
        assert times == {"week 1/00.ipynb": 3, "week 2/00.ipynb": 2}  # each assignment has its own
        assert all(file.when.year > 2020 for file in (*ada.notebooks, *bob.notebooks))
