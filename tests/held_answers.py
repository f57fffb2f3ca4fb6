"""All answers that the tests of the lessons hold, right and wrong: for the notebooks, and for sweeps over many calls.

An answer is held when a test in `test_checks.py` hands it to `assert_check` or to `Check.run`, or when it stands in a
table of `more_answers.py`. So none can be forgotten: `held("losses")` runs the lesson's tests with an `assert_check`
and a `Check.run` that write down what comes.
"""

import functools
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import torch
from check_helpers import references_kept

from mlcourse import files, places
from mlcourse.classroom import course
from mlcourse.lessons import every_check
from mlcourse.teaching.checks import Check, Verdict

ROOMS = Path(__file__).parent / "lessons"


def lessons(folder: Path) -> dict[str, str]:
    """Each notebook's lesson by its number, {"05": "by_hand"}: the room whose checks the notebook imports."""
    found = {}
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        code = [cell.source for cell in files.read_notebook(path).cells if cell.cell_type == "code"]
        room = course.LESSON.search("\n".join(code))
        assert room, (
            f"{path.name} imports no checks: write `from mlcourse.lessons.<lesson> import checks` in its first cell"
        )
        found[path.name[:2]] = room[1]
    return found


LESSONS = lessons(places.notebooks())


@dataclass(frozen=True)
class Held:
    """An answer that a test holds.

    Attributes:
        check: the check that it is an answer to.
        answer: the function.
        right: whether it must pass: its test says so, or (handed to `Check.run`) its first call did.
        tried: whether its test asks for this verdict in the first calls of a learner (`check_helpers.seeds`).
    """

    check: Check
    answer: Callable
    right: bool
    tried: bool

    def __str__(self) -> str:
        name = getattr(self.answer, "__qualname__", type(self.answer).__name__)
        return f"{self.check.exercise} {name}"


@functools.cache
def held(lesson: str) -> tuple[Held, ...]:
    """The answers to a lesson's checks, each once, in the order of the tests. Of stubs and references: none."""
    seen: dict[tuple[int, int], Held] = {}
    verdicts: dict[tuple[int, int], Verdict] = {}
    run, references = Check.run, {id(check.reference) for check in every_check().values()}

    def write_down(check: Check, answer: Callable, right: bool, tried: bool) -> None:
        if id(answer) not in references:
            seen.setdefault((id(check), id(answer)), Held(check, answer, right, tried))

    def asserted(check: Check, *, right: list[Callable], wrong: dict[str, tuple[Callable, str]]) -> None:
        for answer in right:
            write_down(check, answer, True, True)
        for answer, _ in wrong.values():
            write_down(check, answer, False, True)

    def written_down(check: Check, answer: Callable, *, seed: int = 0) -> Verdict:
        if id(answer) in references:
            return Verdict(True, "", answer, "passed", check.exercise, check.title, "reference")
        key = id(check), id(answer)
        if key not in verdicts:
            verdicts[key] = run(check, answer, seed=seed)
            write_down(check, answer, verdicts[key].passed, False)
        return verdicts[key]

    table = tables(lesson)
    for name in (name for name in table.RIGHT if name in table.WRONG):
        if check := every_check().get(f"{lesson}.{name}"):  # test_every_exercise_has_more_answers names what is missing
            asserted(check, right=table.RIGHT[name], wrong=table.WRONG[name])
    module = _module(ROOMS / lesson / "test_checks.py")
    with (
        torch.random.fork_rng(devices=[]),  # a notebook's draws stay as they are without this
        references_kept(),
        mock.patch.object(Check, "run", written_down),
        mock.patch.object(module, "assert_check", asserted),
    ):
        for call in _calls(module):
            try:
                call()
            except AssertionError:
                continue  # the same verdict in each call is not what every test expects; the test itself will say
    return tuple(seen.values())


WHAT = {
    "test_checks.py": "it tests each check by `assert_check`, as tests/lessons/by_hand/test_checks.py does",
    "more_answers.py": "it holds RIGHT and WRONG, further answers to each exercise, as tests/lessons/by_hand/"
    "more_answers.py does",
}


def _module(path: Path) -> ModuleType:
    assert path.is_file(), f"tests/lessons/{path.parent.name}/{path.name} is missing: {WHAT[path.name]}"
    name = f"held_{path.parent.name}_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def _calls(module: ModuleType) -> list[Callable]:
    """The tests of a module that need no fixture, once for each of their parameters."""
    found = []
    for name, test in vars(module).items():
        if not name.startswith("test_") or not callable(test):
            continue
        sets = [_sets(mark) for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        options = [dict(itertools.chain(*(one.items() for one in chosen))) for chosen in itertools.product(*sets)]
        found += [
            functools.partial(test, **one) for one in options if set(inspect.signature(test).parameters) == set(one)
        ]
    return found


def _sets(mark: pytest.Mark) -> list[dict]:
    """The values of one parametrize, as keyword arguments."""
    names, values = mark.args
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    rows = [(value,) if len(names) == 1 else tuple(value) for value in values]
    return [dict(zip(names, row, strict=True)) for row in rows]


def tables(lesson: str) -> ModuleType:
    """The module with a lesson's further answers: RIGHT and WRONG."""
    return _module(ROOMS / lesson / "more_answers.py")


def accepted(lesson: str) -> dict[str, list[Held]]:
    """The right answers of a lesson by exercise."""
    found: dict[str, list[Held]] = {}
    for one in held(lesson):
        if one.right:
            found.setdefault(one.check.exercise, []).append(one)
    return found


def named(answer: Callable, name: str) -> Callable:
    """The answer under another name: a check keeps passes of functions called my_… only."""

    @functools.wraps(answer)
    def call(*args, **kwargs):
        return answer(*args, **kwargs)

    call.__name__ = name
    return call


def in_turn(number: str, exercise: str, turn: int, name: str) -> Callable:
    """Right answer number `turn` of an exercise, from the first again after the last: what an edition's cell takes."""
    answers = accepted(LESSONS[number])[exercise]
    return named(answers[turn % len(answers)].answer, name)


def turns(number: str) -> int:
    """How many runs of a notebook it takes to give every right answer its turn."""
    return max(len(answers) for answers in accepted(LESSONS[number]).values())
