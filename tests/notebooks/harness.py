"""What the tests of the notebooks share: finding them, the rules of the contract, and the states an exercise can be in.

A rule is a function from a notebook to a list of lines, each naming what is wrong; an empty list means it is kept. So a
rule can be tested itself, with a notebook that breaks it (test_harness.py).
"""

import ast
import base64
import copy
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from PIL import Image

from mlcourse import places
from mlcourse.classroom import course
from mlcourse.site import notebooks as of_site
from mlcourse.teaching import claims, minutes

CORE = {"00", "01", "02", "03", "05", "06", "12", "13", "14", "15", "17"}
MAX_LINES, MAX_BYTES, MIN_EXERCISES, MIN_GOLDEN, MIN_ALT = 20, 400_000, 3, 3, 10
GOLDEN = "nbval-check-output"


# -------------------------------------------------------------------------------- finding and reading


def notebooks() -> list[Path]:
    """All notebooks, or the one that NB=05 names."""
    return sorted(places.notebooks().glob(f"{os.environ.get('NB', '')}*.ipynb"))


@dataclass
class Lesson:
    """A notebook with the questions that the rules ask of it."""

    path: Path
    notebook: nbformat.NotebookNode

    @classmethod
    def read(cls, path: Path) -> "Lesson":
        return cls(path, nbformat.read(path, as_version=4))

    @property
    def number(self) -> str:
        return self.path.name[:2]

    @property
    def code(self) -> list:
        return [cell for cell in self.notebook.cells if cell.cell_type == "code"]

    @property
    def prose(self) -> list:
        return [cell for cell in self.notebook.cells if cell.cell_type == "markdown"]

    def tagged(self, tag: str) -> list:
        """The code cells with a tag; `exercise:` finds every exercise."""
        whole = not tag.endswith(":")
        return [cell for cell in self.code if any(t == tag if whole else t.startswith(tag) for t in tags(cell))]

    def header(self) -> dict[str, str]:
        """The rows of the header table: the first words in lower case -> what stands beside them."""
        rows = {}
        for cell in self.prose[:4]:
            for line in cell.source.splitlines():
                columns = [column.strip().strip("*_ ") for column in line.strip().strip("|").split("|")]
                if line.strip().startswith("|") and len(columns) >= 2 and columns[0].lower() not in rows:
                    rows[columns[0].lower()] = " ".join(columns[1:]).strip()
        return rows

    def field(self, word: str) -> str:
        """The text of the first header row whose name contains a word, or ""."""
        return next((text for name, text in self.header().items() if word in name), "")

    def minutes(self, word: str) -> float | None:
        """The first number of a header row, or None."""
        found = re.search(r"\d+(?:\.\d+)?", self.field(word))
        return float(found[0]) if found else None


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def parse(cell) -> ast.Module:
    """The syntax tree of a code cell; an empty one when the cell is no plain Python (a rule of its own says so)."""
    try:
        return ast.parse(cell.source)
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


def functions(cell, prefix: str) -> list[ast.FunctionDef]:
    """The functions that a cell defines and whose name begins with `prefix`."""
    return [node for node in parse(cell).body if isinstance(node, ast.FunctionDef) and node.name.startswith(prefix)]


def assigned(cell) -> set[str]:
    """Every name that a cell binds: assignments, functions, classes, loops, imports."""
    names = set()
    for node in ast.walk(parse(cell)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
    return names


# -------------------------------------------------------------------------------- the rules

RULES: list[Callable[[Lesson], list[str]]] = []


def rule(function: Callable[[Lesson], Iterator[str]]) -> Callable[[Lesson], list[str]]:
    """Make a rule of a generator of complaints."""

    def complaints(lesson: Lesson) -> list[str]:
        return list(function(lesson))

    complaints.__name__ = function.__name__
    complaints.__doc__ = function.__doc__
    RULES.append(complaints)
    return complaints


@rule
def has_header(lesson):
    """The header says objectives, prerequisites, papers and three kinds of minutes; a core fits an hour."""
    for word in ("objectives", "prerequisites", "papers"):
        if not lesson.field(word):
            yield f"the header table has no row `{word}`"
    for word in ("core", "stretch", "machine"):
        if lesson.minutes(word) is None:
            yield f"the header table has no minutes in a row `{word}`"
    limit = 30 if lesson.number == "00" else minutes.LIMIT
    core, stretch = minutes.estimate(lesson.notebook)
    if core.total > limit:
        yield f"the core takes {core.total:.1f} minutes: at most {limit}"
    if lesson.field("core") != str(core) or lesson.field("stretch") != str(stretch):
        yield f"the header does not say what the formula does (run `make tidy`): core {core}; stretch {stretch}"


CLASS_NOTES = ("Open with:", "Expect the guess:", "Skip:", "Plan:")


@rule
def has_class_notes(lesson):
    """The first cell folds "In class: N minutes": the question to open with, the guess to expect, what to skip."""
    found = re.search(r"<details><summary>In class: (\d+) minutes</summary>(.*?)</details>", _first(lesson), re.DOTALL)
    if not found:
        yield "the first cell has no <details><summary>In class: N minutes</summary>"
        return
    notes = dict(re.findall(r"^- \*\*([^*]+)\*\*\s+(.*?)(?=^- \*\*|\Z)", found[2], re.MULTILINE | re.DOTALL))
    for word in CLASS_NOTES:
        if len(notes.get(word, "").split()) < 2:
            yield f"In class has no line `- **{word}** ...`"
    if "?" not in notes.get(CLASS_NOTES[0], "?"):
        yield "In class opens with no question"
    planned = sum(int(n) for n in re.findall(r"(\d+) min", notes.get(CLASS_NOTES[-1], "")))
    if planned != int(found[1]):
        yield f"the parts of the class take {planned} minutes together, and its title says {found[1]}"


@rule
def plans_all_of_the_core(lesson):
    """The class's Plan or Skip names every core exercise, and its Plan names the section of the claim."""
    notes = dict(re.findall(r"^- \*\*(Plan|Skip):\*\*\s+(.*?)(?=^- \*\*|^</details>|\Z)", _first(lesson), re.M | re.S))
    named = set(re.findall(r"\d\d\.\d+", " ".join(notes.values())))
    text = "\n".join(cell.source for cell in lesson.prose)
    for number in (number for number, kind, _ in minutes.EXERCISE.findall(text) if kind != minutes.STRETCH):
        if number not in named:
            yield f"neither Plan nor Skip names the core exercise {number}"
    section = None
    for cell in lesson.notebook.cells:
        if "claim" in tags(cell):
            break
        if cell.cell_type == "markdown":
            section = [section, *re.findall(r"^## (\d+) ·", cell.source, re.MULTILINE)][-1]
    if section is None:
        yield "the claim cell stands in no section with a number"
    elif int(section) not in _sections(notes.get("Plan", "")):
        yield f"the Plan does not name section {section}, where the claim is"


def _sections(plan: str) -> set[int]:
    """The sections that a plan names: "10 min section 1, 5 min sections 3, 5 to 7" are 1, 3, 5, 6, 7."""
    found: set[int] = set()
    for listed in re.findall(r"\bsections? (\d+(?:(?:, | and | to )\d+(?!\d| min))*)", " ".join(plan.split())):
        for part in re.split(r", | and ", listed):
            first, *last = map(int, part.split(" to "))
            found |= set(range(first, (last or [first])[0] + 1))
    return found


def _first(lesson) -> str:
    return lesson.notebook.cells[0].source


@rule
def tells_stretch_parts(lesson):
    """Cells tagged stretch stand together under a heading that says so, and the core goes on under a heading."""
    before = False
    for cell in lesson.notebook.cells:
        now, heading = minutes.STRETCH in tags(cell), cell.source.split("\n")[0]
        titled = cell.cell_type == "markdown" and heading.startswith("#")
        if now and not before and not (titled and "stretch" in heading.lower()):
            yield f"a stretch part does not begin with a heading that says `stretch` ({heading[:40]!r})"
        if before and not now and not titled:
            yield f"after a stretch part the core goes on without a heading ({heading[:40]!r})"
        before = now


@rule
def needs_no_stretch_part(lesson):
    """No cell of the core uses a name that only a cell tagged stretch binds: who skips these cells can go on."""
    core: set[str] = set()
    skipped: set[str] = set()
    for cell in lesson.code:
        if minutes.STRETCH in tags(cell):
            skipped |= assigned(cell)
            continue
        core |= assigned(cell)
        if "solution" not in tags(cell):
            for name in sorted(_used(cell) & (skipped - core)):
                yield f"{name} is bound in a stretch part only, and used in the core ({cell.source[:40]!r})"


def _used(cell) -> set[str]:
    """The names that a cell reads, without the arguments of its own functions."""
    nodes = list(ast.walk(parse(cell)))
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return read - {node.arg for node in nodes if isinstance(node, ast.arg)}


@rule
def builds_on_earlier_notebooks(lesson):
    """No prerequisite is a later notebook; none of the core track lies outside it."""
    for number in re.findall(r"\b\d\d\b", lesson.field("prerequisites")):
        if number >= lesson.number:
            yield f"prerequisite {number} is no earlier notebook"
        elif lesson.number in CORE and number not in CORE:
            yield f"prerequisite {number} lies outside the core track"


@rule
def begins_with_title(lesson):
    """The first cell is the title; the first heading is the only one of its size."""
    first = lesson.notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "the first cell is no title (# ...)"


@rule
def has_finished_text(lesson):
    """No word in the text still waits for its sentence: TODO, TBD, FIXME, XXX, or seven capitals and more."""
    for cell in lesson.prose:
        prose = re.sub(r"```.*?```|`[^`]*`|<[^>]*>|\$[^$]*\$", "", cell.source, flags=re.DOTALL)
        for word in re.findall(r"\b(?:TODO|TBD|FIXME|XXX|[A-Z]{7,})\b", prose):
            yield f"{word} stands where a text should be"


@rule
def has_plain_parameters(lesson):
    """One cell `parameters` with SEED, DATASET, BUDGET = "lesson" and DEVICE = "auto", all plain literals."""
    from mlcourse.commands.run import parameters_of
    from mlcourse.errors import CourseError

    try:
        values = parameters_of(lesson.notebook)
    except CourseError as error:
        yield str(error)
        return
    missing = [name for name in ("SEED", "DATASET", "BUDGET", "DEVICE") if name not in values]
    yield from (f"the parameter {name} is missing" for name in missing)
    for name, default in (("BUDGET", "lesson"), ("DEVICE", "auto")):
        if values.get(name, default) != default:
            yield f"{name} is {values[name]!r}: the default is {default!r}"


@rule
def has_short_plain_cells(lesson):
    """Cells of 20 lines at most, in plain Python, without star imports, sys.path and the tag raises-exception."""
    for number, cell in enumerate(lesson.code, start=1):
        where = f"code cell {number} ({cell.source.splitlines()[0][:40] if cell.source else 'empty'})"
        if not cell.source.strip():
            yield f"{where} is empty"
        if len(cell.source.splitlines()) > MAX_LINES:
            yield f"{where} has {len(cell.source.splitlines())} lines: at most {MAX_LINES}"
        try:
            nodes = list(ast.walk(ast.parse(cell.source)))
        except SyntaxError as error:
            yield f"{where} is no plain Python: {error.msg}"
            continue
        if any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in nodes):
            yield f"{where} imports *"
        if any(isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path" for node in nodes):
            yield f"{where} touches sys.path"
        if "raises-exception" in tags(cell):
            yield f"{where} is tagged raises-exception: show an expected error through a context manager"


@rule
def stops_without_the_package(lesson):
    """Opened without the package (Colab, Kaggle), it stops at its first import, with the one line to paste."""
    first = next((cell for cell in lesson.code if "mlcourse" in cell.source), None)
    if first is None or "except ModuleNotFoundError" not in first.source or "pip install" not in first.source:
        yield "the first cell that needs the package does not say how to install it (lesson.IMPORT_CELL)"


@rule
def has_exercises(lesson):
    """Three exercises or more, numbered NN.1, NN.2, ..., each under a heading that says difficulty and minutes."""
    found = [tag for cell in lesson.code for tag in tags(cell) if tag.startswith("exercise:")]
    if len(found) < MIN_EXERCISES:
        yield f"{len(found)} exercises: {MIN_EXERCISES} or more"
    wanted = [f"exercise:{lesson.number}.{k}" for k in range(1, len(found) + 1)]
    if sorted(found) != wanted:
        yield f"the exercises are tagged {', '.join(found)}: {', '.join(wanted)} in order"
    headed = {told[1] for cell in lesson.prose for told in course.HEADING.finditer(cell.source)}
    for number in (tag.split(":")[1] for tag in found):
        if number not in headed:
            yield f"no heading has the form `{course.FORM.format(number)}`, or with `stretch`"


@rule
def has_typed_stubs(lesson):
    """Each stub defines one function my_..., alone, typed, with shapes in its docstring, that returns `...`."""
    for cell in lesson.tagged("exercise:"):
        stubs = functions(cell, "my_")
        if len(stubs) != 1:
            yield f"an exercise cell defines {len(stubs)} functions my_...: exactly one ({cell.source[:40]!r})"
            continue
        stub = stubs[0]
        if len(parse(cell).body) > 1:
            yield f"the cell of {stub.name} holds more than the stub, and an answer replaces it: import before"
        last = stub.body[-1]
        if not (isinstance(last, ast.Return) and isinstance(last.value, ast.Constant) and last.value.value is ...):
            yield f"{stub.name} does not return `...`"
        if len(stub.body) != 2 or not ast.get_docstring(stub):
            yield f"{stub.name} is not a docstring and `return ...`"
        arguments = [*stub.args.posonlyargs, *stub.args.args, *stub.args.kwonlyargs]
        if stub.returns is None or any(argument.annotation is None for argument in arguments):
            yield f"{stub.name} is not fully typed"


@rule
def checks_each_answer(lesson):
    """The lesson goes on with `x = checks.exercise(my_x).answer` in a cell after the stub."""
    for cell in lesson.tagged("exercise:"):
        for stub in functions(cell, "my_"):
            after = lesson.code[lesson.code.index(cell) :]
            pattern = rf"checks\.\w+\({stub.name}\)"
            if not any(re.search(pattern, other.source) for other in after if "solution" not in tags(other)):
                yield f"no cell calls checks....({stub.name})"


@rule
def takes_answers_by_their_check(lesson):
    """A name my_... is read by its check only: whatever an answer is, the lesson goes on with what the check gives."""
    for cell in lesson.code:
        if any(tag.startswith("exercise:") for tag in tags(cell)):
            continue
        for name in sorted(set(re.findall(r"\bmy_\w+", re.sub(r"\bchecks\.\w+\(my_\w+\)", "", cell.source)))):
            yield f"{name} is read, and not by its check ({cell.source[:40]!r})"


@rule
def leaves_answers_alone(lesson):
    """Only the stub binds a name my_...: a learner's answer is never overwritten."""
    for cell in lesson.code:
        if not any(tag.startswith("exercise:") for tag in tags(cell)):
            for name in sorted(assigned(cell)):
                if name.startswith("my_"):
                    yield f"a cell that is no exercise binds {name} ({cell.source[:40]!r})"


@rule
def has_solutions(lesson):
    """Solutions stand together at the end, tagged, folded, one for each exercise, and end in a check that must pass."""
    solutions = lesson.tagged("solution")
    names = {function.name for cell in solutions for function in functions(cell, "solution_")}
    for cell in lesson.tagged("exercise:"):
        for stub in functions(cell, "my_"):
            if stub.name.replace("my_", "solution_", 1) not in names:
                yield f"{stub.name} has no solution"
    for cell in lesson.code:
        if functions(cell, "solution_") and "solution" not in tags(cell):
            yield f"a solution is not tagged ({cell.source[:40]!r})"
    for cell in solutions:
        last = (parse(cell).body or [None])[-1]
        text = ast.unparse(last) if isinstance(last, ast.Assert) else ""
        if not re.fullmatch(r"assert checks\.\w+\(solution_\w+\)\.passed", text):
            yield f"a solution does not end in `assert checks....(solution_...).passed` ({cell.source[:40]!r})"
        if not _folded(lesson, cell):
            yield f"a solution is not folded: set jupyter.source_hidden ({cell.source[:40]!r})"
    yield from _after_lesson(lesson, solutions)


def _folded(lesson, cell) -> bool:
    if cell.metadata.get("jupyter", {}).get("source_hidden"):
        return True
    before = lesson.notebook.cells[: lesson.notebook.cells.index(cell)]
    headings = [one for one in before if one.cell_type == "markdown" and one.source.startswith("#")]
    return bool(headings) and any(one.metadata.get("jp-MarkdownHeadingCollapsed") for one in headings[-2:])


def _after_lesson(lesson, solutions) -> Iterator[str]:
    """After the first solution, only solutions and prose (and the closing line that prints time and memory)."""
    if not solutions:
        return
    first = lesson.code.index(solutions[0])
    for cell in lesson.code[first:]:
        if "solution" not in tags(cell) and "session.end(" not in cell.source:
            yield f"a cell of the lesson stands among the solutions ({cell.source[:40]!r})"


@rule
def has_folded_hints(lesson):
    """At least one hint for each exercise, as <details> with a <summary> that is titled by what the learner sees."""
    text = "\n".join(cell.source for cell in lesson.prose if cell is not lesson.notebook.cells[0])  # In class
    hints, exercises = text.count("<details"), len(lesson.tagged("exercise:"))
    if hints < exercises:
        yield f"{hints} hints for {exercises} exercises"
    if text.count("<summary") != hints or text.count("</details>") != hints:
        yield "a hint lacks its <summary> or its </details>"


@rule
def has_golden_cells(lesson):
    """Three cells or more are tagged nbval-check-output and carry their outputs; no other cell carries any."""
    golden = lesson.tagged(GOLDEN)
    if len(golden) < MIN_GOLDEN:
        yield f"{len(golden)} golden cells: {MIN_GOLDEN} or more"
    for cell in golden:
        if not cell.outputs:
            yield f"a golden cell is empty: run `make golden` ({cell.source[:40]!r})"
        if any(output.output_type == "error" for output in cell.outputs):
            yield f"a golden cell holds an error ({cell.source[:40]!r})"
    for cell in lesson.code:
        if cell not in golden and (cell.outputs or cell.execution_count):
            yield f"a cell that is not golden has outputs: run `make tidy` ({cell.source[:40]!r})"


@rule
def has_one_claim(lesson):
    """One claim cell that asserts and names its rival, evidence cells, and the code that puts the baseline there."""
    found = lesson.tagged("claim")
    if len(found) != 1:
        yield f"{len(found)} claim cells: exactly one"
    elif not any(isinstance(node, ast.Assert) for node in ast.walk(parse(found[0]))):
        yield "the claim cell asserts nothing"
    else:
        for word, text in claims.of(lesson.notebook).items():
            if not text.strip():
                yield f"the claim cell's metadata has no mlcourse.claim.{word}"
    if not lesson.tagged("evidence"):
        yield "no cell is tagged evidence"
    baseline = lesson.notebook.metadata.get("mlcourse", {}).get("baseline", "")
    if not baseline.strip():
        yield "the notebook's metadata has no mlcourse.baseline"
        return
    try:
        ast.parse(baseline)
    except SyntaxError as error:
        yield f"mlcourse.baseline is no Python: {error.msg}"


@rule
def asks_for_predictions(lesson):
    """The learner commits to a guess at least once."""
    calls = [node for cell in lesson.code for node in ast.walk(parse(cell)) if isinstance(node, ast.Call)]
    if not any(ast.unparse(call.func).split(".")[-1] == "predict" and _has_choices(call) for call in calls):
        yield "no call of predict(question, choices=...)"


def _has_choices(call) -> bool:
    return any(keyword.arg == "choices" for keyword in call.keywords)


@rule
def describes_pictures(lesson):
    """Every picture has an alternative text: in prose, and in figures.show and explore."""
    for cell in lesson.prose:
        for text in re.findall(r"!\[(.*?)\]\(", cell.source):
            if len(text) < MIN_ALT:
                yield f"a picture's alternative text is {text!r}: {MIN_ALT} characters or more"
        for tag in re.findall(r"<img\b[^>]*>", cell.source):
            if not re.search(rf"alt=[\"'][^\"']{{{MIN_ALT},}}", tag):
                yield f"{tag[:50]} has no alternative text"
    for cell in lesson.code:
        for node in ast.walk(parse(cell)):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            pictures = ("figures.show", "widgets.explore", "explore")
            if name in pictures and not any(k.arg == "alt" for k in node.keywords):
                yield f"{name}(...) without alt= ({cell.source[:40]!r})"
        if re.search(r"\bplt\.show\(", cell.source):
            yield f"plt.show() has no alternative text: figures.show(fig, alt=...) ({cell.source[:40]!r})"


@rule
def carries_its_pictures(lesson):
    """Every picture in prose is attached to its cell: a path is broken in a learner's copy and in a page."""
    for cell in lesson.prose:
        attached = cell.get("attachments", {})
        shown = of_site.shown(cell.source)
        for place in shown:
            if place.removeprefix("attachment:") == place or place.removeprefix("attachment:") not in attached:
                yield f"the picture {place[:60]} is not attached to its cell"
        for name, forms in attached.items():
            if f"attachment:{name}" not in shown:
                yield f"{name} is attached to a cell that does not show it"
            if not all(_is_picture(data) for data in forms.values()):
                yield f"the attached {name} cannot be read as a picture"


def _is_picture(data: str) -> bool:
    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            picture.load()
            return True
    except (ValueError, OSError):  # no base64, no picture, or half of one
        return False


@rule
def ends_outside_folds(lesson):
    """After Run All the last cell is the active one, and JupyterLab unfolds what it lies in: no folded heading."""
    level = 7
    for cell in reversed(lesson.notebook.cells):
        levels = [len(marks) for marks in re.findall(r"^(#+) ", cell.source, re.M)] if cell in lesson.prose else []
        if levels and min(levels) < level:
            level = min(levels)
            if cell.metadata.get("jp-MarkdownHeadingCollapsed") and cell is not lesson.notebook.cells[-1]:
                yield f"the last cell lies under the folded heading {cell.source[:40]!r}"


@rule
def ends_well(lesson):
    """A summary, what was left out, references with links, and the closing line that prints time and memory."""
    headings = " ".join(line.lower() for c in lesson.prose for line in c.source.splitlines() if line.startswith("#"))
    for word in ("left out", "references"):
        if word not in headings:
            yield f"no section is called `{word}`"
    if not any("session.end(" in cell.source for cell in lesson.code):
        yield "no cell calls session.end()"


@rule
def is_small(lesson):
    """The file is below 400 kB: pictures are drawn, not stored."""
    size = lesson.path.stat().st_size
    if size >= MAX_BYTES:
        yield f"{size} bytes: below {MAX_BYTES}"


# -------------------------------------------------------------------------------- the four states


def without_solutions(notebook):
    """The class-room edition: the same notebook without its solution cells."""
    edition = copy.deepcopy(notebook)
    edition.cells = [cell for cell in edition.cells if "solution" not in tags(cell)]
    return edition


def without_stretch(notebook):
    """The notebook of who skips all stretch parts, and so opens no solution of them."""
    edition = without_solutions(notebook)
    edition.cells = [cell for cell in edition.cells if minutes.STRETCH not in tags(cell)]
    return edition


def _answered(notebook, answer: Callable[[str, ast.FunctionDef], str]):
    """The notebook with each stub's cell replaced by `answer(solution source, stub)`."""
    edition = copy.deepcopy(notebook)
    solutions = {f.name: c.source for c in edition.cells if "solution" in tags(c) for f in functions(c, "solution_")}
    for cell in edition.cells:
        if any(tag.startswith("exercise:") for tag in tags(cell)):
            for stub in functions(cell, "my_"):
                cell.source = answer(solutions.get(stub.name.replace("my_", "solution_", 1), ""), stub)
    return edition


def all_right(notebook):
    """Every stub is replaced by its solution, under the stub's name; the solution's assert comes along."""
    return _answered(notebook, lambda solution, stub: re.sub(r"\bsolution_(?=\w)", "my_", solution))


OTHER_ANSWER = """import sys

sys.path.insert(0, {tests!r})
import held_answers

{stub} = held_answers.in_turn({number!r}, {exercise!r}, {turn}, {stub!r})"""


def with_answers(notebook, number: str, turn: int):
    """Every stub's place is taken by right answer number `turn` that the tests hold for its exercise."""
    edition = copy.deepcopy(notebook)
    tests = str(Path(__file__).resolve().parents[1])
    for cell in edition.cells:
        for exercise in [tag.split(":")[1] for tag in tags(cell) if tag.startswith("exercise:")]:
            (stub,) = functions(cell, "my_")
            told = {"tests": tests, "number": number, "exercise": exercise, "turn": turn, "stub": stub.name}
            cell.source = OTHER_ANSWER.format(**told)
    return edition


WRONG = {"raises": 'raise RuntimeError("an answer that fails")', "value": "return 0.0", "none": "return None"}


def all_wrong(notebook):
    """Every answer is wrong in three ways, one after the other, and the lesson goes on with the last, None.

    After each check it goes on with the package's function, whatever the answer was: no cell takes an answer but by
    its check (the rule `takes_answers_by_their_check`). So one run does for three.
    """
    edition = copy.deepcopy(notebook)
    for cell in list(edition.cells):
        if any(tag.startswith("exercise:") for tag in tags(cell)):
            (stub,) = functions(cell, "my_")
            *first, cell.source = (_with_body(stub, body) for body in WRONG.values())
            place = _checked_at(edition.cells, cell, stub.name)
            call = re.search(CHECKED.format(stub.name), edition.cells[place].source)[0]
            shown = f"assert (lambda one: not one.passed and one.answer is not {stub.name})({call})"  # binds no name
            more = [nbformat.v4.new_code_cell(text) for one in first for text in (one, shown)]
            again = nbformat.v4.new_code_cell(cell.source)
            edition.cells[place:place] = [*more, again]
    return edition


CHECKED = r"checks\.\w+\({}\)"


def _checked_at(cells, stub_cell, name: str) -> int:
    """The index of the cell that checks an answer first."""
    first = cells.index(stub_cell)
    return next(k for k in range(first, len(cells)) if re.search(CHECKED.format(name), cells[k].source))


def _with_body(stub: ast.FunctionDef, body: str) -> str:
    """The source of a function with another body."""
    changed = copy.deepcopy(stub)
    changed.body = ast.parse(f"def body():\n    {body}").body[0].body
    return ast.unparse(changed)


# -------------------------------------------------------------------------------- golden cells, claims


def _shown(output) -> str:
    """What nbval compares of an output: text, not pictures and not the numbers of widgets."""
    if output.output_type == "stream":
        return output.text
    return str(output.get("data", {}).get("text/plain", ""))


def golden_differences(notebook, executed) -> list[str]:
    """Golden cells whose text in a run is not the text in the file: they depend on seed, budget or machine."""
    ran = {cell.id: cell for cell in executed.cells if cell.cell_type == "code"}
    differing = []
    for cell in notebook.cells:
        if GOLDEN in tags(cell):
            stored, now = ("".join(map(_shown, one.outputs)) for one in (cell, ran[cell.id]))
            if stored != now:
                differing.append(f"{cell.source[:40]!r}: the file has {stored[:80]!r}, the run {now[:80]!r}")
    return differing


CLAIM_TEST = """
_mlcourse_refuted = False
try:
    exec(compile({claim!r}, "<claim cell>", "exec"), globals())
except AssertionError as error:
    _mlcourse_refuted = True
    print("With the baseline in the method's place the claim fails, as it should:", error)
assert _mlcourse_refuted, "the claim cell passes with the baseline in the method's place"
"""


def with_claim_test(notebook):
    """The notebook, then the baseline in the method's place, the evidence again, and a claim that must fail."""
    edition = copy.deepcopy(notebook)
    evidence = [cell.source for cell in edition.cells if "evidence" in tags(cell) and cell.cell_type == "code"]
    claim = next(cell.source for cell in edition.cells if "claim" in tags(cell))
    for source in [edition.metadata["mlcourse"]["baseline"], *evidence, CLAIM_TEST.format(claim=claim)]:
        edition.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": ["claim-test"]}))
    return edition


def lesson_costs(executed) -> dict[str, float]:
    """Seconds of the lesson's own cells, without the cells of the claim test: together, and the slowest one."""
    own = [cell for cell in executed.cells if cell.cell_type == "code" and "claim-test" not in tags(cell)]
    times = [(cell.metadata.get("papermill", {}).get("duration") or 0.0, cell.execution_count or 0) for cell in own]
    slowest, number = max(times, default=(0.0, 0))
    return {"seconds": sum(t for t, _ in times), "slowest_seconds": slowest, "slowest_cell": number}
