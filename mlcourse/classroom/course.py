"""What the course's notebooks ask: their exercises, each with its stub, its check and its solution."""

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

from mlcourse import files, places
from mlcourse.errors import CourseError

HEADING = re.compile(r"^#+ Exercise (\d\d\.\d+): .*\((core|stretch), difficulty (\d) of 5, (\d+) min\)", re.MULTILINE)
FORM = "### Exercise {}: title (core, difficulty 2 of 5, 6 min)"  # what HEADING reads, for whoever writes one
LESSON = re.compile(r"from mlcourse\.lessons\.(\w+) import \(?[\w\s,]*\bchecks\b")


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        number: "05.1".
        name: the function that a student writes, "my_hessian_vector".
        check: its check by the lesson's name, "by_hand.hessian_vector".
        stub, solution: the source of their cells.
        kind: "core", or "stretch", as its heading says.
    """

    number: str
    name: str
    check: str
    stub: str
    solution: str
    kind: str = "core"


@dataclass
class Notebook:
    """A notebook of the course.

    Attributes:
        number, stem: "05", "05_meta_gradients_by_hand".
        exercises: in their order.
        cells: the sources of its code cells, without solutions.
        given: the functions that it goes on with after a check, by name: {"hessian_vector": "by_hand.hessian_vector"}.
    """

    number: str
    stem: str
    exercises: list[Exercise] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)


def notebooks(folder: Path | None = None) -> dict[str, Notebook]:
    """The course's notebooks by number. Raises CourseError where there are none."""
    folder = folder or places.notebooks()
    found = [read(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]
    if not found:
        raise CourseError(f"there are no notebooks in {folder}: start from a clone of the course's repository")
    return {one.number: one for one in found}


def read(path: Path) -> Notebook:
    """Read one notebook of the course. Raises CourseError for an exercise without its stub or its check."""
    every = files.read_notebook(path).cells
    kinds = {told[1]: told[2] for cell in every for told in HEADING.finditer(cell.source)}
    cells = [cell for cell in every if cell.cell_type == "code"]
    tagged = [(cell.metadata.get("tags", []), cell.source) for cell in cells]
    text = "\n".join(source for _, source in tagged)
    lesson = LESSON.search(text)
    notebook = Notebook(path.name[:2], path.stem, cells=[source for tags, source in tagged if "solution" not in tags])
    solutions = {name: source for tags, source in tagged if "solution" in tags for name in functions(source)}
    for tags, source in tagged:
        for tag in tags:
            if lesson and tag.startswith("exercise:"):
                number = tag.split(":")[1]
                name = next((one for one in functions(source) if one.startswith("my_")), None)
                if name is None:
                    raise CourseError(
                        f"{path.name}: the cell tagged {tag} defines no function my_…: write its stub there"
                    )
                check = re.search(rf"checks\.(\w+)\({name}\)", text)
                if check is None:
                    line = f"{name.removeprefix('my_')} = checks.NAME({name}).answer"
                    raise CourseError(f"{path.name}: no cell checks {name}: write `{line}` in a cell after its stub")
                solution, kind = solutions.get(name.replace("my_", "solution_", 1), ""), kinds.get(number, "core")
                notebook.exercises.append(Exercise(number, name, f"{lesson[1]}.{check[1]}", source, solution, kind))
    notebook.exercises.sort(key=lambda one: int(one.number.split(".")[1]))
    for name, check in re.findall(r"^(\w+) = checks\.(\w+)\(my_\w+\)\.answer", text, re.MULTILINE):
        notebook.given[name] = f"{lesson[1]}.{check}"
    return notebook


def functions(source: str) -> list[str]:
    """The names of the functions that a cell defines; none when it is no plain Python."""
    try:
        return [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    except SyntaxError:
        return []
