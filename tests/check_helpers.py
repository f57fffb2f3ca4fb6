"""How a check is tested itself.

from check_helpers import assert_check
from mlcourse.lessons.losses import checks

def with_loop(params, grads, rate): ...        # right answers, written differently from the reference
def in_float32(params, grads, rate): ...
def climbs(params, grads, rate): ...           # wrong ones, of right shape and type
def returns_gradient(params, grads, rate): ...
def scalar(params, grads, rate): ...

def test_sgd_step():
    assert_check(
        checks.sgd_step,
        right=[with_loop, in_float32],
        wrong={"climbs": (climbs, "this step climbs"), "returns the gradient": (returns_gradient, "is the gradient"),
               "one number": (scalar, "shape")},
    )
"""

import contextlib
import functools
import pickle
import random
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import Tensor

from mlcourse.lessons import every_check
from mlcourse.teaching.checks import Check, Verdict

SEEDS = range(5)
CALLS = 5
RIGHT: dict[tuple, dict[str, Tensor]] = {}  # probe, reference, problem → the reference's outputs, of this whole process
PROBLEMS: dict[tuple, tuple] = {}  # check, seed → whose problems, and the problems
MOST = 5000  # so many are kept: the five calls of all lessons; a sweep over 200 calls must not fill the memory


def seeds(check: Check) -> range:
    """The seeds of the first calls that a learner makes: on their problems each answer is tried."""
    return range(check.first_seed, check.first_seed + CALLS)


@contextlib.contextmanager
def references_kept() -> Iterator[None]:
    """While it is on, a check makes a seed's problems once, and asks its reference once for each of them.

    The tests try some twenty answers on the same problems, each up to four times. What the reference gives is kept by
    the numbers of the problem, so a problem that came out otherwise is asked anew. Everything is copied out, so no
    answer reaches what is kept. An answer that is the reference itself is called each time: the check hands it to the
    probe as an answer.
    """
    with contextlib.ExitStack() as stack:
        for check in every_check().values():
            stack.enter_context(mock.patch.object(check, "probe", _reference_kept(check, check.probe)))
            stack.enter_context(mock.patch.object(check, "problems", functools.partial(_problems_kept, check)))
        yield


def _make_room(kept: dict) -> None:
    if len(kept) >= MOST:
        kept.clear()


def _problems_kept(check: Check, seed: int) -> list[tuple[str, dict[str, Tensor]]]:
    key = id(check), check.repeats, seed
    kept = PROBLEMS.get(key)
    if kept is None or kept[0] is not check or kept[1] is not check.inputs:  # a number of a dead one is given again
        _make_room(PROBLEMS)
        kept = PROBLEMS[key] = check, check.inputs, Check.problems(check, seed)
    return [(name, {part: value.clone() for part, value in given.items()}) for name, given in kept[2]]


def _dice() -> bytes:
    """The state of every generator that a reference may draw from without being given one."""
    return pickle.dumps((torch.get_rng_state().tolist(), random.getstate()))


def _reference_kept(check: Check, probe: Callable) -> Callable:
    if hasattr(probe, "keeps_the_reference"):
        return probe

    @functools.wraps(probe)
    def call(answer: Callable, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if answer is not check.reference:
            return probe(answer, inputs)
        numbers = ((name, one.dtype, one.shape, one.numpy().tobytes()) for name, one in inputs.items())
        key = probe, answer, torch.is_grad_enabled(), torch.get_default_dtype(), *numbers
        if key not in RIGHT:
            before = _dice()
            outputs = {name: value.detach().clone() for name, value in probe(answer, inputs).items()}
            if before != _dice():
                return outputs  # it has drawn: the next call must draw, too
            _make_room(RIGHT)
            RIGHT[key] = outputs
        return {name: value.clone() for name, value in RIGHT[key].items()}

    call.keeps_the_reference = True
    return call


def assert_check(check: Check, *, right: list[Callable], wrong: dict[str, tuple[Callable, str]]) -> None:
    """Test a check with its reference, right answers, named wrong answers, stubs and a raising answer.

    Args:
        right: two or more right answers, written differently (loop and vectorised, float32, …).
        wrong: name -> (wrong answer, a part of its diagnosis); three or more, two of them of right shape and type, so
            that the judge itself must find them; no two with the same diagnosis.
    """
    assert len(right) >= 2, "a check is tested with two right answers or more"
    assert len(wrong) >= 3, "a check is tested with three wrong answers or more"
    for answer in (check.reference, *right):
        for seed in seeds(check):
            verdict = check.run(answer, seed=seed)
            assert verdict.passed, f"right answer {answer.__name__} fails: {verdict.diagnosis}"
            assert verdict.answer is answer
    found = {name: _wrong(check, name, answer, part) for name, (answer, part) in wrong.items()}
    judged = [name for name, verdict in found.items() if verdict.found_by == "judge"]
    assert len(judged) >= 2, f"two wrong answers or more must have the right shape and type; only {judged} have"
    for name, (_, part) in wrong.items():
        others = [other for other in found if other != name and part in found[other].diagnosis]
        assert not others, f"{name!r} and {others} get the same diagnosis {part!r}"
    _stubs_and_errors(check)


def _wrong(check: Check, name: str, answer: Callable, part: str) -> Verdict:
    """The verdict on a wrong answer: it fails for every seed, with its own diagnosis."""
    for seed in seeds(check):
        verdict = check.run(answer, seed=seed)
        assert not verdict.passed, f"wrong answer {name!r} passes (seed {seed})"
        assert part in verdict.diagnosis, f"{name!r}: {part!r} is not in the diagnosis {verdict.diagnosis!r}"
        assert "the check itself failed" not in verdict.diagnosis, verdict.diagnosis
        assert verdict.answer is check.reference
    return verdict


def _stubs_and_errors(check: Check) -> None:
    """What every check does without help of its judge."""

    def my_stub(*args, **kwargs):
        return ...

    def my_nothing(*args, **kwargs):
        return None

    def my_mistake(*args, **kwargs):
        raise RuntimeError("on purpose")

    for answer, found_by, part in (
        (my_stub, "stub", "not written yet"),
        (my_nothing, "stub", "not written yet"),
        (my_mistake, "exception", "RuntimeError: on purpose"),
    ):
        verdict = check.run(answer)
        assert (verdict.passed, verdict.found_by) == (False, found_by), verdict
        assert part in verdict.diagnosis, verdict.diagnosis
        assert verdict.answer is check.reference
