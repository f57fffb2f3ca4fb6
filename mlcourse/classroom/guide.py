"""The teacher's guide, `docs/teaching.md`: its tables, made from the notebooks and their checks.

So they cannot go stale: `mlcourse tidy` writes them, and `mlcourse tidy --check` fails when they are not of today. A
new notebook joins by itself. What people write by hand is the text around the tables, and the questions for each
notebook in `docs/questions.md`.
"""

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlcourse import files
from mlcourse.classroom import course, handout
from mlcourse.errors import CourseError
from mlcourse.lessons import every_check
from mlcourse.teaching import claims
from mlcourse.teaching.checks import Check

NAME, QUESTIONS = "teaching.md", "questions.md"
MARKS = {
    name: (f"<!-- {name}: begin (written by `mlcourse tidy`) -->", f"<!-- {name}: end -->")
    for name in ("plans", "notebooks")
}
FOLD = re.compile(r"<details><summary>In class: (\d+) minutes</summary>(.*?)</details>", re.DOTALL)
ADVICE = re.compile(r"^- \*\*([^:*]+):\*\* (.*?)(?=^- \*\*|\Z)", re.DOTALL | re.MULTILINE)
ROW = re.compile(r"^\| \*\*(\w+)\*\* \| (.*) \|$", re.MULTILINE)
SHOWN = 3  # diagnoses of an exercise that are not folded

# lessons share these judges
SHARED = ("mlcourse.teaching.least_squares", "mlcourse.teaching.oracles")

OF_PART_V = "13"  # what two days have besides the core track: any notebook of part V, before the last of the core
SPARE = 15  # minutes that every lesson may take longer


@dataclass(frozen=True)
class Plan:
    """A plan of lessons.

    Attributes:
        title: as the guide heads it.
        numbers: of its notebooks, in their order. Each comes after those that it needs: a test looks.
        weekly: one meeting a week, in place of days.
        first_to_drop: the notebook that is left out when every lesson takes a quarter of an hour more; "" for none.
        note: what else the guide says of it.
    """

    title: str
    numbers: tuple[str, ...]
    weekly: bool = False
    first_to_drop: str = ""
    note: str = ""


def named_plans() -> dict[str, Plan]:
    """The plans by the name that `mlcourse handout --plan` takes."""
    core = handout.tracks().get("core", [])
    return {
        "day": Plan("One day", ("00", "01", "02", "03", "06"), first_to_drop="06"),
        "two-days": Plan(
            "Two days",
            (*core[:-1], OF_PART_V, *core[-1:]),
            first_to_drop=OF_PART_V,
            note=f"The place of {OF_PART_V} is free: take it, or another notebook of part V that your group prefers. "
            "(With another one, name the notebooks in place of the plan, as in `mlcourse handout edition 00 01 02`.)",
        ),
        "ten-weeks-vision": Plan(
            "Ten weeks, with networks and vision",
            ("00", "01", "02", "03", "04", "05", "06", "12", "13", "17"),
            weekly=True,
        ),
        "ten-weeks-gradients": Plan(
            "Ten weeks, with gradients",
            ("00", "01", "02", "03", "05", "06", "07", "08", "09", "11"),
            weekly=True,
            note="This plan has neither 12 nor 17: 11 needs 05, 07 and 09, and these need the others, so ten meetings "
            "are full. Whoever has twelve adds 12 and 17 at the end.",
        ),
    }


@dataclass(frozen=True)
class Task:
    """An exercise: number, title, "core" or "stretch", difficulty (1 to 5), minutes, the student's function, causes.

    causes: what its check names, in the order in which it looks.
    """

    number: str
    title: str
    kind: str
    difficulty: str
    minutes: str
    name: str
    causes: list[str]


@dataclass(frozen=True)
class Entry:
    """What the guide says of a notebook.

    Attributes:
        file, title: "05_meta_gradients_by_hand.ipynb", "05 · Meta-gradients by hand".
        minutes: of a class; 0 where the notebook does not say.
        advice: the words of its fold *In class*: {"Open with": "…"}.
        header: the rows of its header: {"Core": "60 minutes …"}.
        claim: what its claim cell names: says, method, rival, tuned; {} where it makes none.
        tasks: its exercises.
    """

    file: str
    title: str
    minutes: int
    advice: dict[str, str]
    header: dict[str, str]
    claim: dict[str, str] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)

    @property
    def number(self) -> str:
        return self.file[:2]

    @property
    def needs(self) -> list[str]:
        """The notebooks that its prerequisites name."""
        found = re.findall(r"\b\d\d\b(?! is no condition)", self.header.get("Prerequisites", ""))
        return list(dict.fromkeys(found))

    @property
    def at_desk(self) -> str:
        """The minutes of core and stretch for somebody who works alone."""
        core, stretch = (re.match(r"\d+", self.header.get(row, "")) for row in ("Core", "Stretch"))
        return f"{core[0] if core else '–'} + {stretch[0] if stretch else '–'}"


def page(folder: Path) -> tuple[Path, str] | None:
    """The guide beside a folder of notebooks, and its text with the tables of today; None where there is no guide.

    Raises CourseError when one of the marks of its tables is missing.
    """
    place = folder.parent / "docs" / NAME
    if not place.is_file():
        return None
    text, entries, asked = place.read_text(encoding="utf-8"), read(folder), questions(place.with_name(QUESTIONS))
    sections = [section(one, asked=one.number in asked) for one in entries]
    told = {"plans": plans(entries), "notebooks": "\n\n".join([overview(entries), *sections])}
    for name, made in told.items():
        text = files.between_marks(text, *MARKS[name], made, f"docs/{NAME}")
    return place, text


def read(folder: Path) -> list[Entry]:
    """What the guide says of each notebook of a folder."""
    checks = every_check()
    return [_entry(path, checks) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]


def _entry(path: Path, checks: dict[str, Check]) -> Entry:
    notebook = files.read_notebook(path)
    first = notebook.cells[0].source if notebook.cells else ""
    fold = FOLD.search(first)
    advice = {name: " ".join(words.split()) for name, words in ADVICE.findall(fold[2] if fold else "")}
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    told = {number: rest for number, *rest in course.HEADING.findall(text)}
    claimed = any("claim" in cell.metadata.get("tags", []) for cell in notebook.cells)
    tasks = []
    for one in course.read(path).exercises:
        if one.check not in checks:
            room, name = one.check.split(".")
            raise CourseError(
                f"{path.name} calls checks.{name}, and mlcourse/lessons/{room}/checks.py has no such Check"
            )
        if one.number not in told:
            raise CourseError(
                f"{path.name}: no heading has the form `{course.FORM.format(one.number)}`, or with `stretch`"
            )
        check, (kind, difficulty, minutes) = checks[one.check], told[one.number]
        tasks.append(Task(one.number, check.title, kind, difficulty, minutes, one.name, diagnoses(check)))
    return Entry(
        path.name,
        first.split("\n")[0].lstrip("# "),
        int(fold[1]) if fold else 0,
        advice,
        dict(ROW.findall(first)),
        claims.of(notebook) if claimed else {},
        tasks,
    )


# ---- the tables ----


def plans(entries: list[Entry]) -> str:
    """One day, two days, ten weeks: which notebooks, when, and the command that makes the edition of them."""
    known, parts = {one.number: one for one in entries}, []
    for name, plan in named_plans().items():
        chosen = [known[number] for number in plan.numbers if number in known]
        parts += [f"### {plan.title}", f"The students' edition of this plan: `mlcourse handout edition --plan {name}`"]
        parts.append(_weeks(chosen) if plan.weekly else _days(chosen))
        if plan.first_to_drop in known:
            parts.append(
                f"When every lesson takes {SPARE} minutes more, drop {plan.first_to_drop} first: the others then end "
                f"in time, and none of them needs it."
            )
        parts += [plan.note] if plan.note else []
    weekly = [plan.numbers for plan in named_plans().values() if plan.weekly]
    left = [one for one in entries if all(one.number not in numbers for numbers in weekly)]
    if left:
        rows = [f"| {_both(one)} | {one.minutes or '–'} | {', '.join(one.needs) or '–'} |" for one in left]
        head = "| in neither plan of ten weeks | minutes of a class | needs |\n|---|---|---|"
        parts += ["\n".join([head, *rows])]
    return "\n\n".join(parts)


def _lessons(chosen: list[Entry]) -> list[handout.Lesson]:
    return [handout.Lesson(one.file, one.title, one.minutes, 0) for one in chosen]


def _days(chosen: list[Entry]) -> str:
    rows = [
        f"| {day} | {time} | {_both(one)} | {_cell(one.advice.get('Skip', '–'))} |"
        for one, (day, time) in zip(chosen, handout.timetable(_lessons(chosen)))
    ]
    return "\n".join(["| day | time | notebook | skip |", "|---|---|---|---|", *rows])


def _weeks(chosen: list[Entry]) -> str:
    rows = []
    for one, (week, time) in zip(chosen, handout.timetable(_lessons(chosen), weekly=True)):
        more = ", ".join(task.number for task in one.tasks if task.kind == "stretch")
        rows.append(f"| {week} | {_both(one)} | {time} | {more or '–'} |")
    head = "| week | notebook | the meeting | for more |\n|---|---|---|---|"
    return "\n".join([head, *rows])


def overview(entries: list[Entry]) -> str:
    """One line for each notebook."""
    rows = [
        f"| {_link(one)} | {one.minutes or '–'} | {one.at_desk} | {', '.join(one.needs) or '–'} | "
        f"{', '.join(task.number for task in one.tasks if task.kind == 'core') or '–'} |"
        for one in entries
    ]
    head = "| notebook | minutes of a class | alone: core + stretch | needs | core exercises |\n|---|---|---|---|---|"
    return "\n".join([head, *rows])


def questions(place: Path) -> list[str]:
    """The notebooks for which there are questions."""
    return re.findall(r"^## (\d\d)$", place.read_text(encoding="utf-8"), re.MULTILINE) if place.is_file() else []


def section(one: Entry, *, asked: bool) -> str:
    """All that the guide says of one notebook; asked: whether there are questions for it."""
    rows = [("Minutes", f"{one.minutes or '–'} in class; alone {one.at_desk} (core + stretch, estimated)")]
    rows += [(name, one.header[name]) for name in ("Prerequisites", "Machine") if name in one.header]
    rows += list(one.advice.items())
    if one.claim:
        rows.append(("Its claim", f"{one.claim['says']} (against {one.claim['rival']})"))
    there = f"[for discussion and for an exam]({QUESTIONS}#{one.number})"
    rows.append(("Questions", there if asked else f"none yet: write a section ## {one.number} in docs/{QUESTIONS}"))
    table = "\n".join(["| | |", "|---|---|", *(f"| **{name}** | {_cell(words)} |" for name, words in rows)])
    return "\n\n".join([f"### {one.title}", table, *(part for task in one.tasks for part in _task(task))])


def _task(task: Task) -> Iterator[str]:
    yield (
        f"**{task.number} {task.title}** ({task.kind}, difficulty {task.difficulty}, {task.minutes} minutes; "
        f"`{task.name}`). What goes wrong:"
    )
    lines = [f"- {_prose(cause)}" for cause in task.causes]
    yield "\n".join(lines[:SHOWN]) if lines else "- (the check names no cause)"
    if more := lines[SHOWN:]:
        yield f"<details><summary>{len(more)} more that the check of {task.number} names</summary>"
        yield "\n".join(more)
        yield "</details>"


def _link(one: Entry) -> str:
    return f"[{one.title}](../notebooks/{one.file})"


def _both(one: Entry) -> str:
    """A link to the notebook, and one to what this guide says of it."""
    return f"{_link(one)} ([in this guide](#{_anchor(one.title)}))"


def _anchor(heading: str) -> str:
    """The name of a heading in links, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _prose(text: str) -> str:
    """A diagnosis as Markdown shows it: signs that would be markup are kept as signs."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<|])", r"\\\1", part) for part in parts)


# ---- what a check names ----


def diagnoses(check: Check) -> list[str]:
    """The causes that a check can name, read from the code of its judge and of its probe, in the order of that code.

    What only says *how far off* a result is, is left out. "…" stands for what depends on the answer.
    """
    seen = {check.reference}
    found = [*_texts(check.judge, seen), *_texts(check.probe, seen, raised=True)]
    return list(dict.fromkeys(text for text in found if _is_sentence(text)))


def _is_sentence(text: str) -> bool:
    """Whether a text of the code is meant for a person, and no name of a result."""
    words = len(text.split())
    if re.match(r"\w+ …", text) and text.endswith("…"):
        return False  # a row of a table that is shown beside the cause
    return words >= 6 or (words >= 4 and text.endswith((".", "!", "?")))


def _texts(function: Callable, seen: set[Callable], *, raised: bool = False) -> Iterator[str]:
    """The texts in the code of a function, and of the lesson's functions that it calls, each function once.

    raised: only those of exceptions, since the other texts of a probe are names.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if function in seen:
        return
    seen.add(function)
    around = function.__globals__ | inspect.getclosurevars(function).nonlocals
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in _parts(tree):
        if isinstance(node, ast.Name) and _speaks(value := around.get(node.id), function):
            yield from _texts(value, seen, raised=raised)
        elif isinstance(node, ast.Raise) or not raised:
            yield from _said(node, around)


def _said(node: ast.AST, around: dict) -> Iterator[str]:
    """The texts of one part of the code: written there, or behind a name of the module."""
    if isinstance(node, ast.Raise):
        yield from (text for part in _parts(node.exc) if part is not node for text in _said(part, around))
    elif isinstance(node, ast.Name):
        yield from _table(around.get(node.id))
    elif (text := _text(node)) is not None:
        yield text


def _table(value) -> Iterator[str]:
    """The whole sentences in a constant of the module, a text or a table of texts; {} in it stands for a value."""
    if isinstance(value, str) and value.endswith((".", "!", "?", ")")):
        yield re.sub(r"\{\w*\}", "…", value)
    elif isinstance(value, dict | list | tuple):
        for one in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _table(one)


def _speaks(value, function: Callable) -> bool:
    """Whether a value is a function that belongs to the diagnoses: of the same lesson, or shared by lessons."""
    while isinstance(value, functools.partial):
        value = value.func
    return inspect.isfunction(value) and (value.__module__ == function.__module__ or value.__module__ in SHARED)


def _parts(tree: ast.AST | None) -> Iterator[ast.AST]:
    """The parts of a piece of code in its order, without docstrings, places in tables, and what names no cause."""
    unnamed = isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "Unnamed"
    docstring = isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Constant)
    if tree is None or unnamed or docstring:
        return
    yield tree
    if isinstance(tree, ast.JoinedStr):
        for value in tree.values:
            yield from _parts(value.value if isinstance(value, ast.FormattedValue) else None)
    if isinstance(tree, ast.Raise) or _text(tree) is not None:
        return
    read = isinstance(tree, ast.Subscript) and isinstance(tree.ctx, ast.Load)  # a name of a result stands there
    for node in [tree.value] if read else ast.iter_child_nodes(tree):
        yield from _parts(node)


def _text(node: ast.AST) -> str | None:
    """The text that an expression makes, with "…" for its values; None when it makes none."""
    if isinstance(node, ast.Constant):
        return " ".join(node.value.split()) if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
        return " ".join("".join(parts).split())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        both = _text(node.left), _text(node.right)
        return " ".join(both) if None not in both else None
    return None
