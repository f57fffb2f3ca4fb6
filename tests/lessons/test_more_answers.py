"""Answers that were written after the checks: none is judged wrongly, and most of the slips are called by their name.

`more_answers.py` of a lesson holds RIGHT: check → answers, and WRONG: check → name → (answer, a part of its diagnosis).
An empty part says that the slip is a rare one: then the check says how far it is off, and claims no cause.
"""

import held_answers
import pytest
from check_helpers import seeds

from mlcourse.lessons import every_check
from mlcourse.teaching.checks import Unnamed

CHECKS = every_check()
LESSONS = list(held_answers.LESSONS.values())


def rows(table: str) -> list[tuple]:
    """(check, answer) of RIGHT, (check, name, answer, words) of WRONG."""
    found = []
    for lesson in LESSONS:
        for name, answers in getattr(held_answers.tables(lesson), table).items():
            check = CHECKS[f"{lesson}.{name}"]
            if table == "RIGHT":
                found += [(check, answer) for answer in answers]
            else:
                found += [(check, slip, *answer) for slip, answer in answers.items()]
    return found


def told(value) -> str | None:
    """How a row is called in the report: by its exercise and its slip."""
    return getattr(value, "exercise", value if isinstance(value, str) else None)


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_exercise_has_more_answers(lesson):
    names = {name.split(".")[1] for name in CHECKS if name.startswith(f"{lesson}.")}
    table = held_answers.tables(lesson)
    assert set(table.RIGHT) == set(table.WRONG) == names


@pytest.mark.parametrize(("check", "answer"), rows("RIGHT"), ids=told)
def test_right_answers_pass(check, answer):
    for seed in seeds(check):
        verdict = check.run(answer, seed=seed)
        assert verdict.passed, verdict.diagnosis


@pytest.mark.parametrize(("check", "slip", "answer", "words"), rows("WRONG"), ids=told)
def test_wrong_answers_fail_and_hear_their_cause(check, slip, answer, words):
    for seed in seeds(check):
        verdict = check.run(answer, seed=seed)
        assert not verdict.passed, f"{slip!r} passes"
        assert words in verdict.diagnosis, f"{slip!r}: {verdict.diagnosis}"
        named = verdict.found_by != "judge" or not isinstance(verdict.diagnosis, Unnamed)
        assert named == bool(words), f"{slip!r}: {verdict.diagnosis}"


def test_there_are_enough_and_most_slips_have_a_name():
    right, wrong = rows("RIGHT"), rows("WRONG")
    assert len(right) >= 60
    assert len(wrong) >= 100
    assert sum(bool(words) for *_, words in wrong) >= 0.8 * len(wrong)
