"""The common slips: named where only one fits on all problems, and silent else."""

import pytest
import torch

from mlcourse.teaching.checks import Check, close
from mlcourse.teaching.oracles import Unnamed, told_apart


def problem(n):
    def inputs(generator):
        return {
            "x": torch.randn(n, n, generator=generator, dtype=torch.float64),
            "y": torch.randn(n, n, generator=generator, dtype=torch.float64),
            "rate": 0.2 + torch.rand((), generator=generator, dtype=torch.float64),
            "steps": torch.tensor(n - 1),
        }

    return inputs


def course(x, y, rate, steps):
    """A matrix and a number that depend on everything in their own way."""
    moved = x
    for _ in range(steps):
        moved = moved - rate * (moved - y.sin())
    return moved, moved.square().mean() + rate**2


def probe(answer, inputs):
    table, number = answer(inputs["x"], inputs["y"], float(inputs["rate"]), int(inputs["steps"]))
    return {"table": table, "number": torch.as_tensor(number)}


def judge(inputs, outputs):
    right = probe(course, inputs)
    if all(close(outputs[name], right[name]) for name in right):
        return None
    return Unnamed("it is off")


CHECK = Check("99.1", "Anything", {"three": problem(3), "five": problem(5)}, probe, judge, course)


def both(change):
    return lambda *args: tuple(change(one) for one in course(*args))


def table(change):
    return lambda *args: (change(course(*args)[0]), course(*args)[1])


def number(change):
    return lambda *args: (course(*args)[0], change(course(*args)[1], *args))


SLIPS = {
    "two digits": (both(lambda right: right.round(decimals=2)), "digits left behind the point: 2"),
    "cut off": (table(lambda right: (10 * right).trunc() / 10), "digits left behind the point"),
    "whole numbers": (table(torch.floor), "digits left behind the point: 0"),
    "twice": (both(lambda right: 2 * right), "Your numbers are, on every problem, twice the right ones"),
    "half of one": (number(lambda right, *_: right / 2), "In 'number' yours are, on every problem, half of the right"),
    "sign": (table(lambda right: -right), "In 'table' yours are, on every problem, the right ones with the other sign"),
    "percent": (number(lambda right, *_: 100 * right), "are they in percent?"),
    "float32, percent": (number(lambda right, *_: (100 * right).float()), "are they in percent?"),
    "absolute": (table(torch.abs), "there is an absolute value too many"),
    "softmax": (table(lambda right: right.softmax(-1)), "there is one softmax too many"),
    "transposed": (table(lambda right: right.T), "rows and columns have changed places"),
    "reversed": (table(lambda right: right.flip(0)), "in reversed order"),
    "sum": (number(lambda right, x, *_: len(x) * right), "n = 3, 5 times the right ones: is there a sum where a mean"),
    "mean": (number(lambda right, x, *_: right / len(x)), "is there a mean where a sum is asked?"),
    "times rate": (number(lambda right, x, y, rate, *_: rate * right), "`rate` times the right ones"),
    "over rate": (number(lambda right, x, y, rate, *_: right / rate), "divided by `rate`: is it missing?"),
    "rate unused": (lambda x, y, rate, steps: course(x, y, 1.0, steps), "for `rate` = 1: is `rate` used?"),
    "one step more": (lambda x, y, rate, steps: course(x, y, rate, steps + 1), "for `steps` + 1: one too many"),
    "one step less": (lambda x, y, rate, steps: course(x, y, rate, steps - 1), "for `steps` − 1: one too few"),
    "exchanged": (lambda x, y, rate, steps: course(y, x, rate, steps), "`x` and `y` in each other's place"),
}


@pytest.mark.parametrize("name", SLIPS)
def test_a_common_slip_is_named_in_every_call(name):
    answer, words = SLIPS[name]
    for seed in range(20):
        verdict = CHECK.run(answer, seed=seed)
        assert verdict.diagnosis.startswith("it is off. ")
        assert words in verdict.diagnosis
        assert not isinstance(verdict.diagnosis, Unnamed)


NO_NAME = {
    "no slip": table(lambda right: right + 0.1 * right.sin()),
    "a slip on one problem only": table(lambda right: 2 * right if len(right) == 3 else 3 * right),
    "two slips": lambda *args: (-course(*args)[0], 2 * course(*args)[1]),
}


@pytest.mark.parametrize("name", NO_NAME)
def test_what_is_no_common_slip_gets_no_name(name):
    for seed in range(20):
        verdict = CHECK.run(NO_NAME[name], seed=seed)
        assert verdict.diagnosis == "it is off. (Problem: three.)"
        assert isinstance(verdict.diagnosis, Unnamed)


def test_what_two_slips_explain_gets_no_name():
    """Four times the right number: is `n` there once too often, or `m`? Nobody can know."""

    def alike(generator):
        x = torch.rand(4, 2, generator=generator, dtype=torch.float64)
        return {"x": x, "n": torch.tensor(4), "m": torch.tensor(4)}

    def one_number(answer, inputs):
        return {"value": answer(inputs["x"], int(inputs["n"]), int(inputs["m"]))}

    def unknown(inputs, outputs):
        return Unnamed("it is off")

    check = Check("99.2", "Four", alike, one_number, unknown, lambda x, n, m: x.mean())
    assert check.run(lambda x, n, m: 4 * x.mean()).diagnosis == "it is off."
    assert "half of the right ones" in check.run(lambda x, n, m: x.mean() / 2).diagnosis


def test_where_no_number_is_above_zero_a_lost_sign_is_a_wrong_sign():
    def below(generator):
        return {"x": -torch.rand(4, 2, generator=generator, dtype=torch.float64)}

    def same(answer, inputs):
        return {"value": answer(inputs["x"])}

    check = Check("99.4", "Below", below, same, lambda inputs, outputs: Unnamed("it is off"), lambda x: x * 1)
    assert "look for a minus" in check.run(torch.abs).diagnosis


def test_a_name_that_the_judge_gives_stays_alone():
    def names(inputs, outputs):
        return None if judge(inputs, outputs) is None else "a cause of its own"

    check = Check("99.3", "Anything", problem(3), probe, names, course)
    assert check.run(both(lambda right: 2 * right)).diagnosis == "a cause of its own."


def test_slips_that_fail_leave_the_diagnosis():
    """An answer that raises on a later problem, and a probe that refuses other inputs, spoil nothing."""

    def later(x, y, rate, steps):
        if len(x) == 5:
            raise RuntimeError("five")
        return both(lambda right: 2 * right)(x, y, rate, steps)

    assert CHECK.run(later).diagnosis == "it is off. (Problem: three.)"


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((0.5, 0.25), ["0.5000", "0.2500"]),
        ((0.50001, 0.50002), ["0.50001", "0.50002"]),
        ((1.0, 1.0), ["1.0000", "1.0000"]),
        ((float("inf"), 2.0), ["inf", "2.0000"]),
        ((1e-20, 2e-20), ["1e-20", "2e-20"]),
    ],
)
def test_two_numbers_that_differ_never_look_alike(values, texts):
    assert told_apart(*values) == texts
    assert told_apart(*(torch.tensor(value, dtype=torch.float64) for value in values)) == texts
