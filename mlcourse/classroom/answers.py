"""Find the answer to each exercise among the cells that a student handed in, and what of the other cells it needs.

An exercise is found by its tag, else by the name of its function `my_…`, never by its place. Of the other cells only
what the answer needs counts: imports, helper functions, constants.
"""

import ast
import builtins
import re
import symtable
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any

from mlcourse.classroom.course import Exercise, Notebook
from mlcourse.classroom.notebooks import Cell, parse, plain

# what shows, asks and checks in a notebook: a statement that calls it is no helper of an answer
STAGE = {"lesson", "checks", "figures", "pictures", "widgets", "session", "display", "get_ipython"}
# what no exercise needs, and what could step around a check
SUSPICIOUS = {
    "exec", "eval", "compile", "__import__", "getattr", "open", "globals", "locals", "vars", "setattr", "delattr",
    "breakpoint", "importlib", "sys", "os", "subprocess", "socket", "ctypes", "inspect", "gc", "pickle", "urllib",
    "requests", "shutil", "pathlib", "threading", "multiprocessing", "signal", "builtins", "atexit", "types",
    "unittest", "checks", "attrgetter",
}  # fmt: skip
# what answers may import without a word; what a lesson's own cells import may be, too
FAMILIAR = {
    "__future__", "abc", "bisect", "cmath", "collections", "copy", "dataclasses", "decimal", "enum", "fractions",
    "functools", "heapq", "itertools", "math", "matplotlib", "mlcourse", "numbers", "numpy", "operator", "random",
    "statistics", "string", "time", "torch", "torchvision", "typing", "warnings",
}  # fmt: skip
# attributes that model.eval() and re.compile() have, too
USUAL = {"eval", "compile"}
BUILTIN = set(dir(builtins))
STAR = "star import"
ALIKE = 2  # statements: a solution that is no longer is what two people may well write alike
INNER = {
    "__globals__", "__code__", "__closure__", "__subclasses__", "__builtins__", "__dict__", "f_back", "f_globals",
    "modules", "reference", "tb_frame", "gi_frame", "__loader__", "__spec__", "__getattribute__", "__mro__",
    "__bases__",
}  # fmt: skip


def _once(about: Callable[[ast.AST], Any]) -> Callable[[ast.AST], Any]:
    """Keep with a statement what a function says of it: each exercise of a notebook asks again.

    What it says is shared by all who ask: to be read, not to be changed.
    """
    name = f"_said_by{about.__name__}"

    @wraps(about)
    def kept(node: ast.AST) -> Any:
        if name not in vars(node):
            setattr(node, name, about(node))
        return vars(node)[name]

    return kept


@dataclass
class Part:
    """Statements of one cell that an answer needs: `keep` are their places in the cell."""

    title: str
    source: str
    keep: list[int]
    future: list[str] = field(
        default_factory=list
    )  # of `from __future__ import …`, as in all later cells of a notebook
    optional: bool = False  # the course's own imports: without one of them an answer may run all the same


@dataclass
class Answer:
    """The answer to one exercise.

    Attributes:
        exercise: what it answers.
        name: the name of its function, "" when there is none.
        parts: what to run, in this order.
        given: functions of the course that it uses under a name: {"hessian_vector": "by_hand.hessian_vector"}.
        fault: a sentence that says why nothing can be run, or "".
        notes: what was wrong with its cells, and was mended.
        look: why a teacher should look at it.
    """

    exercise: Exercise
    name: str = ""
    parts: list[Part] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)
    fault: str = ""
    notes: list[str] = field(default_factory=list)
    look: list[str] = field(default_factory=list)


@dataclass
class _Candidate:
    cell: Cell
    place: int  # of the statement in its cell
    name: str
    tagged: bool
    note: str = ""

    @property
    def node(self) -> ast.stmt:
        return self.cell.tree.body[self.place]

    @property
    def written(self) -> bool:
        return not is_stub(self.node)


def find(lesson: Notebook, cells: list[Cell]) -> list[Answer]:
    """The answer to each exercise of a notebook, in its order."""
    found = []
    for exercise in lesson.exercises:
        try:
            found.append(_find(exercise, lesson, cells))
        except (RecursionError, MemoryError):
            found.append(Answer(exercise, fault="The cells are nested too deeply to be read."))
        except ValueError as error:  # such as a number of so many digits that Python does not write it
            found.append(Answer(exercise, fault=f"Python cannot read the cells: {' '.join(str(error).split())[:200]}."))
    return found


def number_of(lessons: dict[str, Notebook], cells: list[Cell], name: str) -> str | None:
    """Which notebook of the course these cells belong to: most tags, then most names `my_…`, then the file's name."""
    text = "\n".join(cell.source for cell in cells)
    tags = [tag for cell in cells for tag in cell.tags]
    defined = set(re.findall(r"\b(my_\w+)", text))
    named = re.search(r"(?<!\d)(\d\d)(?!\d)", name.rsplit("/", 1)[-1])

    def score(number: str) -> tuple[int, int, bool]:
        asked = lessons[number].exercises
        by_tag = sum(f"exercise:{one.number}" in tags for one in asked)
        return by_tag, sum(one.name in defined for one in asked), bool(named and named[1] == number)

    best = max(lessons, key=score)
    return best if any(score(best)) else None


def is_stub(node: ast.stmt) -> bool:
    """Whether a function has no body yet: a docstring, and `return ...`, `...` or `pass`."""
    if not isinstance(node, ast.FunctionDef):
        return False
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return all(ast.dump(one) in _EMPTY for one in body)


_EMPTY = {ast.dump(node) for text in ("...", "pass") for node in ast.parse(text).body}
_EMPTY |= {
    ast.dump(ast.parse(f"def f():\n    {text}").body[0].body[0]) for text in ("return ...", "return None", "return")
}


def _find(exercise: Exercise, lesson: Notebook, cells: list[Cell]) -> Answer:
    answer = Answer(exercise)
    code = [cell for cell in cells if cell.kind == "code"]
    candidates = list(_candidates(exercise, lesson, code))
    written = [one for one in candidates if one.written]
    chosen = next((one for one in reversed(written) if one.tagged), written[-1] if written else None)
    if chosen is None:
        chosen = next((one for one in _mended(exercise, cells) if one.written), candidates[-1] if candidates else None)
    if chosen is None:
        answer.fault = _why_not(exercise, cells)
        return answer
    if len({ast.dump(one.node) for one in written}) > 1:
        which = "the one in the cell tagged for the exercise" if chosen.tagged else "the last one"
        answer.notes.append(f"{exercise.name} is written more than once; {which} counts.")
    if chosen.note:
        answer.notes.append(chosen.note)
    answer.name = chosen.name
    answer.parts, answer.given = _needed(exercise, chosen, lesson, cells)
    answer.look = _looks(answer, chosen, lesson)
    return answer


def _candidates(exercise: Exercise, lesson: Notebook, code: list[Cell]) -> Iterator[_Candidate]:
    others = {one.name for one in lesson.exercises} - {exercise.name}
    for place, cell in enumerate(code):
        if cell.tree is None:
            continue
        tagged = f"exercise:{exercise.number}" in cell.tags
        bound = [(at, names) for at, one in enumerate(cell.tree.body) if (names := _bound(one))]
        mine = [at for at, names in bound if exercise.name in names]
        functions = [at for at, _ in bound if isinstance(cell.tree.body[at], ast.FunctionDef)]
        if mine:
            longer = _with_next(cell, code[place + 1] if place + 1 < len(code) else None)
            if longer is not None:
                note = f"The cell of {exercise.name} was split in two; its parts were put together."
                yield _Candidate(longer, mine[-1], exercise.name, tagged, note)
            else:
                yield _Candidate(cell, mine[-1], exercise.name, tagged)
        elif tagged and len(functions) == 1 and (name := cell.tree.body[functions[0]].name) not in others:
            note = f"The function of the exercise was called {name} in place of {exercise.name}."
            yield _Candidate(cell, functions[0], name, True, note)


def _with_next(cell: Cell, following: Cell | None) -> Cell | None:
    """The cell together with the next, when the next is the rest of its last function (its lines are indented)."""
    if following is None or following.tree is not None or not re.match(r"(?:[ \t]*\n)*[ \t]+\S", following.source):
        return None
    joined = Cell("code", f"{cell.source}\n{following.source}", cell.tags)
    return joined if joined.tree is not None else None


def _mended(exercise: Exercise, cells: list[Cell]) -> Iterator[_Candidate]:
    """The function in cells that are no Python by themselves: split in two, or turned into text."""
    code = [cell for cell in cells if cell.kind == "code"]
    place = -1  # of the cell among the code cells
    for cell in cells:
        place += cell.kind == "code"
        if not _defines(exercise, cell.source) or (cell.tree is not None and cell.kind == "code"):
            continue
        tries = []
        if cell.kind == "code":
            what = f"The cell of {exercise.name} was split; its parts were put together."
            tries = [("\n".join(one.source for one in code[place : place + count]), what) for count in (2, 3, 4)]
            alone = _only(exercise, cell.source)
            what = f"Python cannot read the cell of {exercise.name} ({cell.error}); of it only the function counts."
            tries += [(alone, what)]
        else:
            fenced = re.findall(r"```\w*\n(.*?)```", cell.source, re.DOTALL)
            what = f"The cell of {exercise.name} was of the kind {cell.kind}; it was read as code."
            tries = [(text, what) for text in [cell.source, *fenced]]
        for text, note in tries:
            whole = Cell("code", text, cell.tags)
            found = [at for at, one in enumerate(whole.tree.body if whole.tree else []) if exercise.name in _bound(one)]
            if found:
                yield _Candidate(whole, found[-1], exercise.name, False, note)


def _only(exercise: Exercise, source: str) -> str:
    """The lines of the function alone; blank lines stand for the others, so that lines keep their numbers."""
    kept, inside = [], False
    for line in source.split("\n"):
        if re.match(rf"def {exercise.name}\b", line):
            inside = True
        elif inside and line.strip() and not line[0].isspace() and not line.startswith(")"):
            inside = False
        kept.append(line if inside else "")
    return "\n".join(kept)


def _defines(exercise: Exercise, source: str) -> bool:
    return bool(re.search(rf"^\s*def {exercise.name}\b", source, re.MULTILINE))


def _why_not(exercise: Exercise, cells: list[Cell]) -> str:
    broken = [cell for cell in cells if cell.kind == "code" and _defines(exercise, cell.source)]
    if broken:
        return f"Python cannot read the cell of {exercise.name}: {broken[-1].error}."
    return (
        f"There is no function {exercise.name} in the notebook: its cell was deleted, or the function has another name."
    )


# ---- what an answer needs ----


@_once
def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement binds at the top of its cell."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    for one in ast.walk(node):
        if isinstance(one, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef) and one is not node:
            names |= _bound(one)
    return names


@_once
def _used(node: ast.stmt) -> set[str]:
    """The names that a statement takes from its cell's space: not the arguments and variables of its functions."""
    try:
        table = symtable.symtable(ast.unparse(node), "cell", "exec")
    except (SyntaxError, RecursionError, MemoryError, ValueError):  # `return` outside a function, or nested too deep
        return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    found, waiting = set(), [table]
    while waiting:
        scope = waiting.pop()
        waiting += scope.get_children()
        outermost = scope.get_type() == "module"
        found |= {
            one.get_name() for one in scope.get_symbols() if one.is_referenced() and (outermost or one.is_global())
        }
    return found


@_once
def _runs(node: ast.stmt) -> bool:
    """Whether a statement computes something at once, by a call."""
    define = isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)
    return not define and any(isinstance(one, ast.Call) for one in ast.walk(node))


@_once
def _called_now(node: ast.stmt) -> set[str]:
    """The names whose functions, or whose attributes' functions, a statement calls when it runs, not in later calls."""
    found, waiting = set(), [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, ast.Call):
            root = one.func
            while isinstance(root, ast.Attribute):
                root = root.value
            found |= {root.id} if isinstance(root, ast.Name) else set()
        if not isinstance(one, ast.Lambda):
            waiting += ast.iter_child_nodes(one)
    return found


def _helps(node: ast.stmt, theirs: set[str]) -> bool:
    """Whether a statement may be run for an answer: not what stages the lesson, and not the lesson's own computing."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Try):
        return True
    return not _called_now(node) & STAGE and not (_runs(node) and ast.dump(node) in theirs)


def _needed(
    exercise: Exercise, chosen: _Candidate, lesson: Notebook, cells: list[Cell]
) -> tuple[list[Part], dict[str, str]]:
    """The parts to run before the answer, and the answer; and the course's functions that it uses."""
    own = [cell for cell in cells if cell.tree is not None]
    course, theirs = _course_cells(tuple(lesson.cells))
    binding, changing = _bindings(own, course, chosen)
    checked = _checked(own, chosen)
    keep: dict[int, set[int]] = {}  # places of statements, by the number of their cell; the course's cells as -1, -2, …
    given: dict[str, str] = {}
    seen = {chosen.name} if isinstance(chosen.node, ast.FunctionDef) else set()
    waiting = sorted(_used(chosen.node))
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        places, changes = (
            [(number, at) for number, at in found.get(name, ()) if _helps(own[number].tree.body[at], theirs)]
            for found in (binding, changing)
        )
        if before := [place for place in places if place < checked]:  # what it has later is of other answers
            places, changes = before, [place for place in changes if place < checked]
        if not places and name not in BUILTIN:
            if (check := lesson.given.get(name)) is None:
                places = [(-1 - number, at) for number, at in _course_helpers(course, name)]
            elif check != exercise.check:  # an answer cannot use itself: in the notebook its check makes it afterwards
                given[name] = check
        for number, at in places + changes:
            if at not in keep.setdefault(number, set()):
                keep[number].add(at)
                waiting += sorted(_used((own[number] if number >= 0 else course[-1 - number]).tree.body[at]))
    parts = [
        Part("course", cell.source, at, optional=True)
        for cell in course
        if cell.tree and (at := [k for k, one in enumerate(cell.tree.body) if _is_import(one)])
    ]
    for cells_of, sign in ((course, -1), (own, 1)):
        for number, cell in enumerate(cells_of):
            at = sorted(keep.get(number if sign > 0 else -1 - number, ()))
            at = [k for k in at if not (cell is chosen.cell and k == chosen.place)]
            if at:
                parts.append(Part(f"cell {number + 1}" if sign > 0 else "course", cell.source, at))
    stars = [(cell, [k for k, one in enumerate(cell.tree.body) if _is_star(one)]) for cell in own]
    parts += [Part(STAR, cell.source, at, optional=True) for cell, at in stars if at]
    parts.append(Part(chosen.name, chosen.cell.source, [chosen.place]))
    future = sorted({name for cell in own for node in cell.tree.body for name in _future(node)})
    for part in parts:
        part.future = future
    return parts, given


@lru_cache
def _course_cells(sources: tuple[str, ...]) -> tuple[list[Cell], set[str]]:
    """The course's cells, and what their statements are that compute something at once."""
    cells = [Cell("code", source) for source in sources]
    return cells, {ast.dump(node) for cell in cells if cell.tree for node in cell.tree.body if _runs(node)}


def _checked(own: list[Cell], chosen: _Candidate) -> tuple[int, int]:
    """The place of the last check of an answer: the number of the cell, and the statement. Without one, the answer's.

    A helper counts as it is then: other answers may have one of the same name later.
    """
    place = next((number for number, cell in enumerate(own) if cell is chosen.cell), len(own)), chosen.place
    nodes = [((number, at), node) for number, cell in enumerate(own) for at, node in enumerate(cell.tree.body)]
    calls = [at for at, node in nodes if "checks" in _called_now(node) and chosen.name in _used(node)]
    return max([place, *calls])


def _bindings(own: list[Cell], course: list[Cell], chosen: _Candidate) -> tuple[dict[str, list], dict[str, list]]:
    """Where each name gets a value, and where its object is changed: (number of the cell, place of the statement)."""
    binding: dict[str, list[tuple[int, int]]] = {}
    changing: dict[str, list[tuple[int, int]]] = {}
    nodes = [(number, at, node) for number, cell in enumerate(own) for at, node in enumerate(cell.tree.body)]
    functions = [node for *_, node in nodes if isinstance(node, ast.FunctionDef)]
    changes = {node.name: changed for node in functions if (changed := _changed_by(node))}
    every = [node for cell in [*course, *own] if cell.tree for node in cell.tree.body]
    imported = {name for node in every if isinstance(node, ast.Import | ast.ImportFrom) for name in _bound(node)}
    stop = next((number for number, cell in enumerate(own) if cell is chosen.cell), len(own)), chosen.place
    for number, at, node in nodes:
        names = _bound(node)
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
            changed = set()
        else:
            changed = _changed(node, imported).union(*(changes.get(name, ()) for name in _called_now(node)))
        for name in names:
            if name != chosen.name or (number, at) < stop:  # an answer made of itself: only of what was there before
                binding.setdefault(name, []).append((number, at))
        if changed and chosen.name not in _used(node):  # else it tries the answer, which is not there yet
            for name in changed:
                changing.setdefault(name, []).append((number, at))
    return binding, changing


def _changed(node: ast.AST, imported: set[str] = frozenset()) -> set[str]:
    """The names whose objects a statement changes: `x[0] = 1`, `x.a = 1`, `del x[0]`, and `x.append(1)` alone.

    A function called alone from a module (`imported`) changes nothing of the module: `torch.manual_seed(0)`.
    """
    always, called = _changes(node)
    return (always | (called - imported)) - {""}


@_once
def _changes(node: ast.AST) -> tuple[set[str], set[str]]:
    """The names whose objects a statement changes by itself, and those of which it calls a function alone."""
    always, called, waiting = set(), set(), [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, ast.Attribute | ast.Subscript) and isinstance(one.ctx, ast.Store | ast.Del):
            always.add(_root(one))
        elif isinstance(one, ast.Expr) and isinstance(one.value, ast.Call):
            function = one.value.func
            if isinstance(function, ast.Attribute):
                called.add(_root(function))
        if one is node or not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(one)
    return always, called


def _root(node: ast.expr) -> str:
    """The name at the root of `name.a[0].b`; "" when it is no name."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


@_once
def _changed_by(function: ast.FunctionDef) -> set[str]:
    """The cell's names that a call of a function gives a value, or changes."""
    told = {name for one in ast.walk(function) if isinstance(one, ast.Global) for name in one.names}
    changed = _changed(function)
    return told | (changed & _used(function) if changed else set())


def _future(node: ast.stmt) -> list[str]:
    future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
    return [alias.name for alias in node.names] if future else []


def _course_helpers(course: list[Cell], name: str) -> list[tuple[int, int]]:
    """Where the course's own cells define a function or a plain value of this name."""
    found = []
    for number, cell in enumerate(course):
        for at, node in enumerate(cell.tree.body if cell.tree else []):
            plain_value = isinstance(node, ast.Assign) and not any(isinstance(one, ast.Call) for one in ast.walk(node))
            if name in _bound(node) and (isinstance(node, ast.FunctionDef | ast.ClassDef) or plain_value):
                found.append((number, at))
    return found


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom) and not _is_star(node)


def _is_star(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.names[0].name == "*" and node.module != "__future__"


# ---- what a teacher should look at ----


def _looks(answer: Answer, chosen: _Candidate, lesson: Notebook) -> list[str]:
    """Why a person should look at an answer that may well be right: sentences, in a fixed order."""
    exercise, said = answer.exercise, []
    run = [part for part in answer.parts if not part.optional or part.title == STAR]
    nodes = [body[at] for part in run for body in [parse(part.source)[0].body] for at in part.keep]
    solution = next((one for one in _tree(exercise.solution).body if isinstance(one, ast.FunctionDef)), None)
    if solution is not None and _length(solution) > ALIKE and _essence(chosen.node) == _essence(solution):
        said.append("It equals the course's solution to the letter.")
    imports = _course_imports(tuple(lesson.cells)) | _imports([_tree(exercise.solution), *nodes])
    allowed = _course_names([_tree(exercise.solution), _tree(exercise.stub)], imports)
    foreign = sorted(_course_names(nodes, imports) - allowed)
    if foreign:
        said.append(f"It calls the course's own code: {', '.join(foreign)}.")
    names = {name for node in nodes for name in _used(node) | _bound(node)}
    if copied := sorted(name for name in names if name.startswith("solution_")):
        said.append(f"It calls {', '.join(copied)}, a solution of the notebook.")
    asked = _attributes([_tree(exercise.solution), _tree(exercise.stub)])
    inner = (_attributes(nodes) - asked) & (INNER | SUSPICIOUS - USUAL)
    modules = {part for node in nodes for alias in _modules(node) for part in alias.split(".")}
    if strange := sorted(((names | modules) & SUSPICIOUS) | (modules & INNER) | inner):
        said.append(f"It uses {', '.join(strange)}, which the exercise does not need.")
    usual = FAMILIAR | _roots(cell.tree for cell in _course_cells(tuple(lesson.cells))[0] if cell.tree)
    if unusual := sorted(_roots(nodes) - usual - set(strange)):
        said.append(f"It imports {', '.join(unusual)}, which the exercise does not need.")
    if any("mlcourse" in text for node in nodes for text in _texts(node)):
        said.append("It holds the name of the course's package, mlcourse, as a text.")
    if patched := sorted({text for node in nodes for text in _patches(node, imports)}):
        said.append(f"It changes code that is not its own: {', '.join(patched)}.")
    return said


def _roots(nodes: Iterable[ast.AST]) -> set[str]:
    """The packages that statements import from."""
    return {name.split(".")[0] for node in nodes for name in _modules(node)} - {""}


def _tree(source: str) -> ast.Module:
    return parse(plain(source))[0] or ast.Module(body=[], type_ignores=[])


def _length(function: ast.FunctionDef) -> int:
    """The statements of a function, those inside others too; its docstring is none."""
    return sum(isinstance(one, ast.stmt) for one in ast.walk(function)) - 1 - (ast.get_docstring(function) is not None)


def _essence(node: ast.stmt) -> str:
    """A function without its name, docstring and annotations."""
    if not isinstance(node, ast.FunctionDef):
        return ast.dump(node)
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    arguments = [one.arg for one in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
    calls = "\n".join(ast.dump(one) for one in body).replace("solution_", "my_")
    return f"{arguments}\n{calls}"


def _modules(node: ast.AST) -> Iterator[str]:
    for one in ast.walk(node):
        if isinstance(one, ast.Import):
            yield from (alias.name for alias in one.names)
        elif isinstance(one, ast.ImportFrom):
            yield from (f"{one.module or ''}.{alias.name}" for alias in one.names)


def _attributes(nodes: list[ast.AST]) -> set[str]:
    return {one.attr for node in nodes for one in ast.walk(node) if isinstance(one, ast.Attribute)}


def _texts(node: ast.AST) -> Iterator[str]:
    yield from (one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str))


@lru_cache
def _course_imports(sources: tuple[str, ...]) -> dict[str, str]:
    return _imports([_tree(source) for source in sources])


def _imports(nodes: list[ast.AST]) -> dict[str, str]:
    """What each imported name stands for: {"estimators": "mlcourse.meta_gradients.estimators"}."""
    found: dict[str, str] = {}
    for node in nodes:
        for one in ast.walk(node):
            if isinstance(one, ast.Import):
                found |= {
                    (a.asname or a.name.split(".")[0]): (a.name if a.asname else a.name.split(".")[0])
                    for a in one.names
                }
            elif isinstance(one, ast.ImportFrom) and one.module:
                found |= {(a.asname or a.name): f"{one.module}.{a.name}" for a in one.names}
    return found


def _course_names(nodes: list[ast.AST], imports: dict[str, str]) -> set[str]:
    """The names of the package that are used, in full: {"mlcourse.meta_gradients.estimators.gradient"}."""
    found, inner = set(), set()
    for node in nodes:
        for one in ast.walk(node):  # outer attributes come before those inside them
            if id(one) in inner or not isinstance(one, ast.Attribute | ast.Name):
                continue
            names, root = [], one
            while isinstance(root, ast.Attribute):
                names, root = [root.attr, *names], root.value
                inner.add(id(root))
            if isinstance(root, ast.Name) and imports.get(root.id, "").split(".")[0] == "mlcourse":
                found.add(".".join([imports[root.id], *names]))
    return found


def _patches(node: ast.AST, imports: dict[str, str]) -> Iterator[str]:
    """Assignments to an attribute of something imported: `torch.allclose = …`."""
    for one in ast.walk(node):
        if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store | ast.Del):
            root = one.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in imports:
                yield ast.unparse(one)
