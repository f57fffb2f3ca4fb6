"""The harness itself: a good notebook passes every rule, and for each rule there is a notebook that it catches."""

from functools import partial

import harness
import nbformat
import pytest
import tiny
from states import passes, run_edition

from mlcourse.commands.run import execute
from mlcourse.teaching import claims, fingerprints

RULES = {rule.__name__: rule for rule in harness.RULES}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # one pixel


def cell(notebook, text):
    return next(one for one in notebook.cells if text in one.source)


def replace(old, new):
    def spoil(notebook):
        one = cell(notebook, old)
        one.source = one.source.replace(old, new)

    return spoil


def tag(text, *tags):
    def spoil(notebook):
        cell(notebook, text).metadata["tags"] = list(tags)

    return spoil


def add(source, *tags):
    def spoil(notebook):
        notebook.cells.insert(5, tiny.code(source, *tags))

    return spoil


def stretch_part(heading, source):
    """Two cells that may be skipped, before the method; where the source is a cell of the lesson, that one."""

    def spoil(notebook):
        notebook.cells = [one for one in notebook.cells if one.source != source]
        place = next(k for k, one in enumerate(notebook.cells) if "result = method" in one.source)
        notebook.cells.insert(place, tiny.code(source, "stretch"))
        notebook.cells.insert(place, nbformat.v4.new_markdown_cell(heading, metadata={"tags": ["stretch"]}))

    return spoil


def drop(text):
    def spoil(notebook):
        notebook.cells.remove(cell(notebook, text))

    return spoil


def no_baseline(notebook):
    del notebook.metadata["mlcourse"]


def no_rival(notebook):
    cell(notebook, "assert result").metadata["mlcourse"]["claim"]["rival"] = " "


def bad_baseline(notebook):
    notebook.metadata["mlcourse"]["baseline"] = "method = ("


def empty_golden(notebook):
    cell(notebook, "sum_of_two(1, 2)").outputs = []


def output_elsewhere(notebook):
    cell(notebook, "method = sum_of_two").outputs = [nbformat.v4.new_output("stream", text="x")]


def unfold(notebook):
    del cell(notebook, "def solution_sum_2").metadata["jupyter"]


def lesson_after_solutions(notebook):
    notebook.cells.append(tiny.code("print('more')"))


def picture(source, attached=None):
    def spoil(notebook):
        notebook.cells.append(nbformat.v4.new_markdown_cell(source))
        if attached:
            notebook.cells[-1].attachments = {"a.png": attached}

    return spoil


def folded_end(*headings):
    def spoil(notebook):
        for heading in headings:
            notebook.cells.append(nbformat.v4.new_markdown_cell(heading))
        notebook.cells[-len(headings)].metadata["jp-MarkdownHeadingCollapsed"] = True
        notebook.cells.append(nbformat.v4.new_markdown_cell("A last word."))

    return spoil


def large(notebook):
    notebook.cells.append(nbformat.v4.new_markdown_cell("x" * harness.MAX_BYTES))


SPOILT = [
    ("has_header", replace("| **Core** | 10", "| **Core** | 15")),
    ("has_header", replace("| **Core** |", "| **Reading** |")),
    ("has_header", replace("| **Machine** | 1 minute, measured |\n", "")),
    ("has_header", replace("| **Papers** | none |\n", "")),
    ("has_header", replace("(core, difficulty 1 of 5, 5 min)", "(core, difficulty 1 of 5, 61 min)")),
    ("has_class_notes", replace("In class: 50 minutes", "In class")),
    ("has_class_notes", replace("- **Skip:** exercise 07.3.\n", "")),
    ("has_class_notes", replace("What is two and two?", "Say what two and two is.")),
    ("has_class_notes", replace("40 min section", "30 min section")),
    ("plans_all_of_the_core", replace("exercises 07.1 and 07.2.", "exercise 07.1.")),
    ("plans_all_of_the_core", replace("40 min section 1 with", "40 min section 2, 1 min")),
    ("plans_all_of_the_core", replace("## 1 · The claim", "## The claim")),
    ("tells_stretch_parts", tag("method = sum_of_two", "stretch")),
    ("tells_stretch_parts", stretch_part("## A detour", "x = 1")),
    ("tells_stretch_parts", stretch_part("## Stretch: a detour", "x = 1")),
    ("needs_no_stretch_part", stretch_part("## Stretch: a detour", "method = sum_of_two")),
    ("builds_on_earlier_notebooks", replace("05, 06", "05, 08")),
    ("begins_with_title", replace("# 07", "07")),
    ("has_finished_text", picture("Now read the picture. RACETEXT")),
    ("has_finished_text", picture("The curve falls. TODO: say why")),
    ("has_plain_parameters", replace("SEED = 0", "SEED = int('0')")),
    ("has_plain_parameters", replace("SEED = 0\n", "")),
    ("has_plain_parameters", replace('BUDGET = "lesson"', 'BUDGET = "smoke"')),
    ("has_plain_parameters", tag("SEED = 0")),
    ("has_short_plain_cells", add("\n".join(["x = 1"] * 21))),
    ("has_short_plain_cells", add("from os import *")),
    ("has_short_plain_cells", add("import sys\nsys.path.append('x')")),
    ("has_short_plain_cells", add("%matplotlib inline")),
    ("has_short_plain_cells", add("1 / 0", "raises-exception")),
    ("stops_without_the_package", drop("import progress")),
    ("stops_without_the_package", replace("except ModuleNotFoundError", "except ValueError")),
    ("has_exercises", tag("def my_sum_3")),
    ("has_exercises", tag("def my_sum_3", "exercise:07.4")),
    ("has_exercises", replace("Exercise 07.2: add (core, difficulty 1 of 5, 5 min)", "Exercise 07.2: add")),
    ("has_exercises", replace("Exercise 07.2: add", "Add")),
    ("has_exercises", replace("Exercise 07.2: add (core, difficulty 1 of 5", "Exercise 07.2: add (core, difficulty 1")),
    ("has_typed_stubs", replace("my_sum_1(a: int, b: int) -> int", "my_sum_1(a, b: int) -> int")),
    ("has_typed_stubs", replace("return ...", "return 0")),
    ("has_typed_stubs", replace('    """Return a + b, both of shape []."""\n', "")),
    ("has_typed_stubs", replace("def my_sum_1", "def their_sum_1")),
    ("has_typed_stubs", replace("def my_sum_1", "import math\n\n\ndef my_sum_1")),
    ("checks_each_answer", drop("sums(my_sum_2)")),
    ("takes_answers_by_their_check", replace("method = sum_of_two", "method = my_sum_1")),
    ("takes_answers_by_their_check", add("print(checks.sums(my_sum_1), my_sum_2(1, 2))")),
    ("leaves_answers_alone", add("my_sum_1 = None")),
    ("leaves_answers_alone", add("def my_other(): pass")),
    ("has_solutions", drop("def solution_sum_2")),
    ("has_solutions", tag("def solution_sum_2")),
    ("has_solutions", replace("assert checks.sums(solution_sum_2).passed", "checks.sums(solution_sum_2)")),
    ("has_solutions", unfold),
    ("has_solutions", lesson_after_solutions),
    ("has_folded_hints", replace("<details><summary>It prints ...</summary>Add.</details>", "")),
    ("has_folded_hints", replace("<summary>It prints ...</summary>", "")),
    ("has_golden_cells", tag("sum_of_two(1, 2)")),
    ("has_golden_cells", empty_golden),
    ("has_golden_cells", output_elsewhere),
    ("has_one_claim", tag("claimed")),
    ("has_one_claim", tag("method(2, 2)")),
    ("has_one_claim", replace("assert result == 4", "pass")),
    ("has_one_claim", no_rival),
    ("has_one_claim", no_baseline),
    ("has_one_claim", bad_baseline),
    ("asks_for_predictions", replace('predict("2 + 2?", choices=["3", "4"])', "")),
    ("describes_pictures", picture("![](a.png)")),
    ("describes_pictures", picture("<img src='a.png'>")),
    ("describes_pictures", add("figures.show(fig)")),
    ("describes_pictures", add("plt.show()")),
    ("carries_its_pictures", picture("![a picture with a text](../docs/a.png)")),
    ("carries_its_pictures", picture("![a text of\ntwo lines [x]](https://example.org/a.png)")),
    ("carries_its_pictures", picture("![a picture with a text][there]\n\n[there]: a.png")),
    ("carries_its_pictures", picture('<img alt="a picture with a text" src="a.png">')),
    ("carries_its_pictures", picture("![a picture with a text](attachment:a.png)")),
    ("carries_its_pictures", picture("No picture.", {"image/png": PNG})),
    ("carries_its_pictures", picture("![a picture with a text](attachment:a.png)", {"image/png": PNG[:40]})),
    ("carries_its_pictures", picture("![a picture with a text](attachment:a.png)", {"image/png": "no base64"})),
    ("ends_outside_folds", folded_end("## Solutions")),
    ("ends_outside_folds", folded_end("## Solutions", "### Solution 07.3")),
    ("ends_well", replace("References", "Sources")),
    ("ends_well", drop("session.end()")),
    ("is_small", large),
]


@pytest.mark.parametrize("rule", harness.RULES, ids=lambda rule: rule.__name__)
def test_good_notebook_keeps_the_rule(rule, tmp_path):
    assert rule(harness.Lesson.read(tiny.write(tiny.tiny(), tmp_path))) == []


@pytest.mark.parametrize(("rule", "spoil"), SPOILT, ids=[f"{name}-{k}" for k, (name, _) in enumerate(SPOILT)])
def test_rule_catches_the_bad_notebook(rule, spoil, tmp_path):
    notebook = tiny.tiny()
    spoil(notebook)
    assert RULES[rule](harness.Lesson.read(tiny.write(notebook, tmp_path)))


def test_attached_pictures_and_folded_solutions_keep_the_rules(tmp_path):
    notebook = tiny.tiny()
    picture("![a picture with a text](attachment:a.png)\n\n`![no picture](a.png)`", {"image/png": PNG})(notebook)
    folded_end("## Solutions", "### Solution 07.3")(notebook)
    notebook.cells[-1].source = "## The end"
    lesson = harness.Lesson.read(tiny.write(notebook, tmp_path))
    assert RULES["carries_its_pictures"](lesson) == []
    assert RULES["ends_outside_folds"](lesson) == []


def test_every_rule_has_a_bad_notebook():
    assert {name for name, _ in SPOILT} == set(RULES)


def test_core_track_does_not_lean_on_other_tracks(tmp_path):
    notebook = tiny.tiny()
    replace("05, 06", "05, 08")(notebook)
    lesson = harness.Lesson.read(tiny.write(notebook, tmp_path, "12_tiny.ipynb"))
    assert RULES["builds_on_earlier_notebooks"](lesson) == ["prerequisite 08 lies outside the core track"]


# -------------------------------------------------------------------------------- running


def run(notebook, folder, budget="smoke"):
    path = tiny.write(notebook, folder)
    return execute(path, folder / "executed.ipynb", budget=budget, work=folder / "work", cell_seconds=60)


RIGHT = {"07.1", "07.2", "07.3"}


@pytest.mark.parametrize(
    ("edition", "passed"),
    [
        (lambda n: n, set()),
        (harness.without_solutions, set()),
        (harness.all_right, RIGHT),
        (harness.all_wrong, set()),
    ],
    ids=["untouched", "without", "right", "wrong"],
)
def test_states(edition, passed, tmp_path):
    error, _, work = run_edition(tmp_path / "07_tiny.ipynb", edition(tiny.tiny()), tmp_path)
    assert not error
    assert passes(work) == passed


def test_states_leave_the_notebook_alone():
    notebook = tiny.tiny()
    before = nbformat.writes(notebook)
    other = partial(harness.with_answers, number="07", turn=0)
    for edition in (harness.without_solutions, harness.all_right, other, harness.with_claim_test):
        assert nbformat.writes(edition(notebook)) != before
    assert nbformat.writes(notebook) == before


def test_a_lesson_that_overwrites_an_answer_is_found_out(tmp_path):
    notebook = tiny.tiny()
    replace("method = sum_of_two", "method = my_sum_1")(notebook)  # leans on the answer instead of the checked function
    replace("result = method(2, 2)", "result = method(2, 2) + 1")(notebook)
    assert "TypeError" in run(harness.all_wrong(notebook), tmp_path).error


@pytest.mark.parametrize(
    ("baseline", "error"),
    [("method = lambda a, b: 0", ""), ("method = lambda a, b: a + b", "the claim cell passes with the baseline")],
)
def test_claim_must_fail_with_the_baseline(baseline, error, tmp_path):
    notebook = tiny.tiny()
    notebook.metadata["mlcourse"]["baseline"] = baseline
    outcome = run(harness.with_claim_test(notebook), tmp_path, budget="lesson")
    assert (error in outcome.error) if error else not outcome.error


def test_claim_that_fails_by_itself_is_an_error(tmp_path):
    notebook = tiny.tiny()
    replace("result == 4", "result == 5")(notebook)
    assert "AssertionError" in run(harness.with_claim_test(notebook), tmp_path, budget="lesson").error


def test_golden_differences(tmp_path):
    notebook = tiny.tiny()
    replace("print(sum_of_two(1, 2))", "print(sum_of_two(1, 2 if budget == 'lesson' else 3))")(notebook)
    source = nbformat.read(tiny.write(notebook, tmp_path, "source.ipynb"), as_version=4)
    for budget, number in (("lesson", 0), ("smoke", 1)):
        executed = nbformat.read(run(notebook, tmp_path, budget).executed, as_version=4)
        assert len(harness.golden_differences(source, executed)) == number


# -------------------------------------------------------------------------------- what changed


@pytest.fixture
def package(tmp_path):
    files = {
        "mlcourse/__init__.py": "",
        "mlcourse/a.py": "from mlcourse.room import inner",
        "mlcourse/room/__init__.py": "def late():\n    from . import other\n",
        "mlcourse/room/inner.py": "import torch",
        "mlcourse/room/other.py": "",
        "mlcourse/unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_imports_are_followed(package):
    found = fingerprints.imported_modules("from mlcourse import a\nimport numpy", root=package)
    names = sorted(str(path.relative_to(package / "mlcourse").as_posix()) for path in found)
    assert names == ["__init__.py", "a.py", "room/__init__.py", "room/inner.py", "room/other.py"]


def test_fingerprint_sees_code_and_baseline_but_not_prose(tmp_path):
    def mark(spoil):
        notebook = tiny.tiny()
        spoil(notebook)
        return fingerprints.fingerprint(tiny.write(notebook, tmp_path))

    same, prose = mark(lambda n: None), mark(replace("A tiny lesson", "A lesson"))
    assert same == prose
    assert len({same, mark(add("x = 1")), mark(bad_baseline)}) == 3


def test_fingerprint_sees_the_package_and_the_data(package, tmp_path, monkeypatch):
    notebook = tiny.tiny()
    add("from mlcourse import a")(notebook)
    path = tiny.write(notebook, tmp_path)
    monkeypatch.setattr(fingerprints.places, "repository", lambda: package)
    monkeypatch.setattr(fingerprints.places, "data", lambda: package / "data")
    (package / "data" / "results").mkdir(parents=True)
    before = fingerprints.fingerprint(path)
    (package / "mlcourse" / "unused.py").write_text("x = 1")
    (package / "data" / "results" / "lessons.json").write_text("{}")
    (package / "data" / "make_glyphs.py").write_text("x = 1")
    assert fingerprints.fingerprint(path) == before
    (package / "mlcourse" / "room" / "other.py").write_text("x = 1")
    second = fingerprints.fingerprint(path)
    (package / "data" / "glyphs.png").write_text("pixels")
    assert len({before, second, fingerprints.fingerprint(path)}) == 3


def test_comments_and_docstrings_are_no_code():
    code = '''"""About."""
import a  # why


class B:
    """One

    line."""

    text = "# no comment"

    def c(self):
        """Say."""
        return f"{self.text} # {'no'}"  # yes
'''
    assert claims.without_comments(code) == "\n".join(
        [
            "import a",
            "class B:",
            '    text = "# no comment"',
            "    def c(self):",
            """        return f"{self.text} # {'no'}\"""",
        ]
    )
    assert claims.without_comments(code.replace("\n", "\r\n")) == claims.without_comments(code)
    assert claims.without_comments(code.replace("import a", "import b")) != claims.without_comments(code)
