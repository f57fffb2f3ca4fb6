"""A check says the same of an answer in every call: nobody passes, or fails, by the luck of one random problem.

The calls are those that a learner makes: the first, the second, … of a check. The tests of the lessons try their
answers in the first five (`check_helpers.seeds`); here are those which a test tries by itself, and, in `make
test-full`, 200 calls of all.
"""

import os
from collections.abc import Iterable

import harness
import held_answers
import pytest
from check_helpers import CALLS, references_kept

LESSONS = [held_answers.LESSONS[path.name[:2]] for path in harness.notebooks()]


def passes(check, answer, seed: int) -> bool:
    """Whether a call of the check passes the answer. What it would say is not asked, which makes it quick."""
    for _, given in check.problems(seed):
        outputs, _, _ = check.try_answer(answer, given)
        if outputs is None or check.judge_outputs(given, outputs) is not None:
            return False
    return True


def flips(held: Iterable[held_answers.Held], calls: int) -> list[str]:
    """The answers that pass in some calls and not in others."""
    found = []
    for one in held:
        first = one.check.first_seed
        with references_kept():
            other = [k for k in range(calls) if passes(one.check, one.answer, first + k) != one.right]
        if other:
            word = "rejected" if one.right else "accepted"
            found.append(f"{one} is {word} in {len(other)} of {calls} calls, such as number {other[0] + 1}")
    return found


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_verdict_is_the_same_in_five_calls(lesson):
    assert flips([one for one in held_answers.held(lesson) if not one.tried], CALLS) == []


@pytest.mark.lesson
@pytest.mark.parametrize("lesson", LESSONS)
def test_a_verdict_is_the_same_in_two_hundred_calls(lesson):
    if os.environ.get("MLCOURSE_LESSON") != "all":
        pytest.skip("200 calls of every check for every answer take minutes: set MLCOURSE_LESSON=all")
    assert flips(held_answers.held(lesson), 200) == []


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_check_has_answers_of_both_kinds(lesson):
    """What collects the answers finds them: two right ones or more, and three wrong ones, for each exercise."""
    held = held_answers.held(lesson)
    for exercise in {one.check.exercise for one in held}:
        rights = [one.right for one in held if one.check.exercise == exercise]
        assert rights.count(True) >= 2, exercise
        assert rights.count(False) >= 3, exercise
