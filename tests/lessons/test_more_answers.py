"""Answers that were written after the checks: none is judged wrongly, and most of the slips are called by their name.

`more_answers.py` of a lesson holds RIGHT: check → answers, and WRONG: check → name → (answer, a part of its diagnosis).
An empty part says that the slip is a rare one: then the check says how far it is off, and claims no cause.
"""

import random

import check_helpers
import harness
import held_answers
import nbformat
import pytest
import torch
from check_helpers import seeds

from mlcourse.classroom import course
from mlcourse.lessons import every_check
from mlcourse.teaching.checks import Check, Unnamed

CHECKS = every_check()
LESSONS = list(held_answers.LESSONS.values())
CHOSEN = [held_answers.LESSONS[path.name[:2]] for path in harness.notebooks()]  # all, or the one that NB=05 names


def rows(table: str, lessons: list[str]) -> list[tuple]:
    """(check, answer) of RIGHT, (check, name, answer, words) of WRONG."""
    found = []
    for lesson in lessons:
        for name, answers in getattr(held_answers.tables(lesson), table).items():
            check = CHECKS.get(f"{lesson}.{name}")
            if check is None:
                continue  # test_every_exercise_has_more_answers names it
            if table == "RIGHT":
                found += [(check, answer) for answer in answers]
            else:
                found += [(check, slip, *answer) for slip, answer in answers.items()]
    return found


def told(value) -> str | None:
    """How a row is called in the report: by its exercise and its slip."""
    return getattr(value, "exercise", value if isinstance(value, str) else None)


@pytest.mark.parametrize("lesson", CHOSEN)
def test_every_exercise_has_more_answers(lesson):
    names = {name.split(".")[1] for name in CHECKS if name.startswith(f"{lesson}.")}
    table = held_answers.tables(lesson)
    for kind, answers in (("RIGHT", table.RIGHT), ("WRONG", table.WRONG)):
        missing, unknown = sorted(names - set(answers)), sorted(set(answers) - names)
        where = f"tests/lessons/{lesson}/more_answers.py"
        assert not missing, f"{where}: {kind} has no answers to {', '.join(missing)}, names of checks of this lesson"
        assert not unknown, f"{where}: {kind} names {', '.join(unknown)}, and the lesson has no such check"


@pytest.mark.parametrize("lesson", CHOSEN)
def test_the_notebook_asks_for_each_check_of_its_lesson(lesson):
    (number,) = (number for number, name in held_answers.LESSONS.items() if name == lesson)
    asked = sorted((one.number, one.check) for one in course.notebooks()[number].exercises)
    held = sorted((check.exercise, name) for name, check in CHECKS.items() if name.startswith(f"{lesson}."))
    assert held == asked, f"the checks of mlcourse/lessons/{lesson} are not those that notebook {number} calls"


@pytest.mark.parametrize(("check", "answer"), rows("RIGHT", CHOSEN), ids=told)
def test_right_answers_pass(check, answer):
    for seed in seeds(check):
        verdict = check.run(answer, seed=seed)
        assert verdict.passed, verdict.diagnosis


@pytest.mark.parametrize(("check", "slip", "answer", "words"), rows("WRONG", CHOSEN), ids=told)
def test_wrong_answers_fail_and_hear_their_cause(check, slip, answer, words):
    for seed in seeds(check):
        verdict = check.run(answer, seed=seed)
        assert not verdict.passed, f"{slip!r} passes"
        assert words in verdict.diagnosis, f"{slip!r}: {verdict.diagnosis}"
        named = verdict.found_by != "judge" or not isinstance(verdict.diagnosis, Unnamed)
        assert named == bool(words), f"{slip!r}: {verdict.diagnosis}"


def test_there_are_enough_and_most_slips_have_a_name():
    right, wrong = rows("RIGHT", LESSONS), rows("WRONG", LESSONS)
    assert len(right) >= 60
    assert len(wrong) >= 100
    assert sum(bool(words) for *_, words in wrong) >= 0.8 * len(wrong)


def test_a_notebook_joins_by_what_it_imports(tmp_path):
    cells = [
        "x = 1",
        "try:\n    from mlcourse.lessons.price import checks, pictures\nexcept ModuleNotFoundError:\n    raise",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    nbformat.write(notebook, tmp_path / "18_new.ipynb")
    assert held_answers.lessons(tmp_path) == {"18": "price"}
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "19_empty.ipynb")
    with pytest.raises(AssertionError, match=r"19_empty\.ipynb imports no checks: write `from"):
        held_answers.lessons(tmp_path)


def test_a_lesson_without_more_answers_is_told_what_to_write():
    with pytest.raises(AssertionError, match=r"tests/lessons/nowhere/more_answers\.py is missing: it holds RIGHT and"):
        held_answers.tables("nowhere")


def one_check(reference, probe=lambda answer, inputs: {"twice": answer(inputs["x"])}):
    return Check(
        exercise="99.1",
        title="Twice",
        inputs=lambda generator: {"x": torch.randn(3, generator=generator, dtype=torch.float64)},
        probe=probe,
        judge=lambda inputs, outputs: None if torch.equal(outputs["twice"], 2 * inputs["x"]) else "not twice",
        reference=reference,
    )


def test_what_the_tests_keep_of_a_check_no_answer_can_change(monkeypatch):
    """`references_kept`: the reference is asked once for each problem, and what is kept is what it gave."""
    calls = []

    def reference(x):
        calls.append(x)
        return 2 * x

    check = one_check(reference)
    monkeypatch.setattr(check_helpers, "every_check", lambda: {"lesson.twice": check})

    def in_place(x):
        return x.mul_(2)

    with check_helpers.references_kept():
        for _ in range(3):
            assert check.run(lambda x: x + x, seed=1).passed
            assert check.run(in_place, seed=1).found_by == "inputs"
            assert check.run(lambda x: x[:2], seed=1).found_by == "outputs"
            assert check.run(lambda x: -x, seed=1).diagnosis == "not twice."
            right = check.probe(reference, check.problems(1)[0][1])["twice"]
            right.zero_()  # a copy: the next answers are compared with the same as these
            check.problems(1)[0][1]["x"].zero_()
        assert len(calls) == check.repeats
        assert check.run(reference, seed=1).passed
        assert len(calls) == 2 * check.repeats, "the reference as an answer is called"
        for (_, kept), (_, fresh) in zip(check.problems(1), Check.problems(check, 1), strict=True):
            assert torch.equal(kept["x"], fresh["x"])
            assert torch.equal(check.probe(reference, kept)["twice"], 2 * fresh["x"])
    assert check.run(lambda x: x + x, seed=1).passed
    assert len(calls) > 2 * check.repeats, "outside nothing is kept"


def test_the_problems_of_a_check_that_is_gone_are_nobody_elses(monkeypatch):
    """A check, or what it draws, may get the number in memory of one that is gone."""
    for size in range(2, 30):
        check = one_check(lambda x: 2 * x)
        check.inputs = lambda generator, size=size: {"x": torch.randn(size, generator=generator, dtype=torch.float64)}
        monkeypatch.setattr(check_helpers, "every_check", lambda check=check: {"lesson.twice": check})
        with check_helpers.references_kept():
            assert {len(given["x"]) for _, given in check.problems(1)} == {size}


@pytest.mark.parametrize("draw", [lambda: torch.rand(()), random.random])
def test_a_reference_that_draws_is_not_kept(monkeypatch, draw):
    calls = []

    def reference(x):
        calls.append(draw())
        return 2 * x

    check = one_check(reference)
    monkeypatch.setattr(check_helpers, "every_check", lambda: {"lesson.twice": check})
    with check_helpers.references_kept():
        for _ in range(2):
            assert check.run(lambda x: x + x, seed=1).passed
    assert len({float(one) for one in calls}) == 2 * check.repeats
