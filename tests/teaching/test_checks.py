"""The framework of checks: what it finds by itself, what it returns, what it keeps."""

import functools
import re
from dataclasses import is_dataclass

import pytest
import torch
from check_helpers import SEEDS, assert_check

from mlcourse.episodes import Episode
from mlcourse.lessons import every_check
from mlcourse.teaching import progress
from mlcourse.teaching.checks import Check, close, relative_error, several
from mlcourse.teaching.oracles import directional_derivative, gradient_error


def one_tensor(generator):
    w, g = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    return {"w": w, "g": g, "rate": torch.tensor(0.1, dtype=torch.float64)}


def matrix(generator):
    w, g = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    return {"w": w, "g": g, "rate": torch.rand((), generator=generator, dtype=torch.float64)}


def probe(answer, inputs):
    return {"new w": answer(inputs["w"], inputs["g"], inputs["rate"])}


def judge(inputs, outputs):
    right = inputs["w"] - inputs["rate"] * inputs["g"]
    if close(outputs["new w"], right):
        return None
    if close(outputs["new w"], inputs["w"] + inputs["rate"] * inputs["g"]):
        return "this step climbs: the sign of the gradient is wrong"
    return f"the result is off by {relative_error(outputs['new w'], right):.0e} of its size"


def reference(w, g, rate):
    return w - rate * g


def make(**changes):
    parts = {"inputs": {"a vector": one_tensor, "a matrix": matrix}, "probe": probe, "judge": judge}
    return Check(exercise="99.1", title="One step", **({"reference": reference} | parts | changes))


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


def my_loop(w, g, rate):
    return torch.stack([a - rate * b for a, b in zip(w.flatten(), g.flatten())]).reshape(w.shape)


def my_float32(w, g, rate):
    return w.float() - rate.float() * g.float()


def my_climb(w, g, rate):
    return w + rate * g


def my_gradient(w, g, rate):
    return g


def my_sum(w, g, rate):
    return (w - rate * g).sum()


def my_in_place(w, g, rate):
    w -= rate * g
    return w


def my_float(w, g, rate):
    return 0.5


def my_whole(w, g, rate):
    return (w - rate * g).long()


def my_nan(w, g, rate):
    return w * float("nan")


def my_broken(w, g, rate):
    scale = 1.0
    return w.view(7, 7) * scale


def my_two_arguments(w, g):
    return w


def test_the_helper_for_checks_and_its_own_demands():
    wrong = {
        "climbs": (my_climb, "this step climbs"),
        "gradient": (my_gradient, "off by"),
        "sum": (my_sum, "has shape ()"),
    }
    assert_check(make(), right=[my_loop, my_float32], wrong=wrong)
    with pytest.raises(AssertionError, match="passes"):
        assert_check(make(), right=[my_loop, my_float32], wrong=wrong | {"right": (my_loop, "off by")})
    with pytest.raises(AssertionError, match="same diagnosis"):
        assert_check(make(), right=[my_loop, my_float32], wrong=wrong | {"nan": (lambda w, g, r: 3 * w, "off by")})


@pytest.mark.parametrize(
    ("answer", "found_by", "part"),
    [
        (my_in_place, "inputs", "changes its input (w) in place"),
        (my_float, "outputs", "'new w' is a float; expected a tensor of shape (3,) and float64"),
        (my_whole, "outputs", "dtype int64; expected float64"),
        (my_nan, "outputs", "holds NaN"),
        (my_sum, "outputs", "has shape (); expected (3,)"),
        (my_broken, "exception", "`return w.view(7, 7) * scale`"),
        (my_two_arguments, "exception", "keep the arguments of the stub"),
        (3, "outputs", "not a function"),
    ],
)
def test_what_a_check_finds_without_its_judge(answer, found_by, part):
    verdict = make().run(answer)
    assert (verdict.passed, verdict.found_by) == (False, found_by), verdict
    assert part in verdict.diagnosis
    assert verdict.answer is reference
    assert "\n" not in verdict.diagnosis


def test_an_exception_names_the_line_of_the_learners_cell():
    verdict = make().run(my_broken)
    assert "raises RuntimeError" in verdict.diagnosis
    assert f"on line {my_broken.__code__.co_firstlineno + 2} of its cell" in verdict.diagnosis


def test_a_pass_is_kept_for_the_learners_function_only(capsys):
    check = make()
    assert check(my_loop).answer is my_loop
    assert [one["exercise"] for one in progress.passes()] == ["99.1"]
    assert "✓ Passed: exercise 99.1" in capsys.readouterr().out
    progress.path().unlink()

    def solution_step(w, g, rate):
        return w - rate * g

    assert check(solution_step).passed
    assert check(reference).passed
    assert not check(my_climb).passed
    assert progress.passes() == []


def test_a_check_never_raises_except_for_the_learners_interrupt(capsys):
    def my_exit(*_):
        raise SystemExit("bye")

    def my_endless(*_):
        raise KeyboardInterrupt

    assert make()(my_exit).found_by == "exception"
    broken = make(judge=lambda inputs, outputs: 1 / 0)(my_loop)
    assert "the check itself failed: ZeroDivisionError" in broken.diagnosis
    with pytest.raises(KeyboardInterrupt):
        make()(my_endless)


def test_problems_are_fresh_at_each_call_and_the_same_for_the_same_seed():
    check, seen = make(inputs=one_tensor), []
    check(lambda w, g, rate: (seen.append(w.clone()), reference(w, g, rate))[1])
    check(lambda w, g, rate: (seen.append(w.clone()), reference(w, g, rate))[1])
    assert len({tuple(w.tolist()) for w in seen}) == 6
    first, again = check.problems(7), check.problems(7)
    assert all(torch.equal(a["w"], b["w"]) for (_, a), (_, b) in zip(first, again))


def test_the_verdict_is_words_in_html_and_text():
    verdict = make().run(lambda w, g, rate: w * float("<3" == "<3") + 1e3)
    assert repr(verdict).startswith("○ Not yet: exercise 99.1, One step. Diagnosis: ")
    assert "The lesson goes on with the course's function." in repr(verdict)
    assert "goes on with your function my_loop" in repr(make().run(my_loop))


def test_oracles_know_the_precision():
    x = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert close(x.float(), x)
    assert not close(x + 1e-6, x)
    assert close(torch.tensor([1, 2]), torch.tensor([1.0, 2.0]))
    assert not close(x[:3], x[:2])
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0


def test_finite_differences_find_a_wrong_gradient():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, dtype=torch.float64, generator=generator)

    def f(z):
        return (z.sin() * z.exp()).sum()

    right = x.exp() * (x.sin() + x.cos())
    assert gradient_error(f, x, right, generator) < 1e-9
    assert gradient_error(f, x, x.exp() * x.cos(), generator) > 1e-2
    assert (
        abs(directional_derivative(lambda z: z.pow(3).sum(), torch.ones(1).double(), torch.ones(1).double()) - 3) < 1e-9
    )


@pytest.mark.parametrize("name", sorted(every_check()))
def test_every_check_of_the_course_takes_its_reference_and_no_stub(name):
    check = every_check()[name]
    for seed in SEEDS:
        verdict = check.run(check.reference, seed=seed)
        assert verdict.passed, verdict.diagnosis
    assert check.run(lambda *args, **kwargs: ...).found_by == "stub"
    assert check.exercise.count(".") == 1


# ------------------------------------------------------------------ what an answer leaves in what it received


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)
    elif is_dataclass(value):
        yield from tensors_in(vars(value))


def spoiled(reference, seen):
    """The course's function, which spoils afterwards every tensor that it received."""

    @functools.wraps(reference)
    def answer(*args, **kwargs):
        result = reference(*args, **kwargs)
        for one in tensors_in([args, kwargs]):
            seen.append(one)
            one.data.logical_not_() if one.dtype == torch.bool else one.data.add_(1)
        return result

    return answer


@pytest.mark.parametrize("name", sorted(every_check()))
def test_whatever_a_probe_hands_over_a_change_in_place_is_found(name):
    check, seen = every_check()[name], []
    verdict = check.run(spoiled(check.reference, seen))
    assert verdict.found_by == ("inputs" if seen else "passed"), verdict
    if seen:
        assert "in place" in verdict.diagnosis


def nested(answer, inputs):
    """A probe that hands over a dictionary, a list and an episode, all of them copies."""
    w, g = inputs["w"].clone().requires_grad_(), inputs["g"].clone()
    none = torch.empty(0, dtype=torch.int64)
    episode = Episode(g, g, g.clone(), g, none, none, none)
    return {"new w": answer({"w": w}, [g], episode)}


def test_copies_inside_dictionaries_lists_and_episodes_are_compared():
    def my_first(params, grads, episode):
        grads[0].mul_(2)
        return params["w"]

    def my_second(params, grads, episode):
        episode.query_x.zero_()
        return params["w"]

    def my_third(params, grads, episode):
        params["w"] = params["w"] - grads[0]
        return params["w"]

    def my_fourth(params, grads, episode):
        params["b"] = grads[0]
        return params["w"]

    check = make(probe=nested, reference=lambda params, grads, episode: params["w"] - grads[0])
    for answer, where in (
        (my_first, "grads[0], episode.support_x, episode.support_y, episode.query_y"),
        (my_second, "episode.query_x"),
        (my_third, "params['w']"),
        (my_fourth, "params['b']"),
    ):
        assert f"changes its input ({where}) in place" in check.run(answer).diagnosis


def test_gradients_that_add_up_hooks_and_the_switch_are_found():
    def my_sum(params, grads, episode):
        (params["w"] * grads[0]).sum().backward()
        return params["w"] - params["w"].grad

    def my_clean(params, grads, episode):
        params["w"].grad = None
        return my_sum(params, grads, episode)

    def my_hook(params, grads, episode):
        params["w"].register_hook(lambda g: 2 * g)
        return params["w"] - grads[0]

    def my_switch(params, grads, episode):
        torch.set_grad_enabled(False)
        return params["w"] - grads[0]

    def judge(inputs, outputs):
        return None if close(outputs["new w"], inputs["w"] - inputs["g"]) else "wrong"

    check = make(probe=nested, judge=judge, reference=lambda params, grads, episode: params["w"] - grads[0])
    assert "`.grad` adds up from call to call" in check.run(my_sum).diagnosis
    assert check.run(my_clean).passed
    assert "leaves a hook on its input (params['w'])" in check.run(my_hook).diagnosis
    assert "switches gradients off for all cells" in check.run(my_switch).diagnosis
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", sorted(every_check()))
def test_gradients_that_a_cell_before_has_switched_off_are_not_the_answers_fault(name):
    check = every_check()[name]
    with torch.no_grad():
        assert check.run(check.reference).passed
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert check.run(check.reference).passed


def step_with(rate_of):
    return lambda w, g, rate: w - rate_of(rate) * g


@pytest.mark.parametrize(
    "coarse",
    [
        step_with(lambda rate: torch.tensor(float(rate))),
        step_with(lambda rate: rate.float().double()),
        step_with(lambda rate: rate.to(torch.float32).to(torch.float64)),
        lambda w, g, rate: w - torch.ones(()) * torch.full((), float(rate), dtype=torch.float32) * g,
    ],
)
def test_a_right_formula_in_single_precision_hears_that_and_no_other_cause(coarse):
    # on the old code the judge named a cause: it knows only "right" and "not right"
    def blames(inputs, outputs):
        right = inputs["w"] - inputs["rate"] * inputs["g"]
        return None if close(outputs["new w"], right) else "the sign of the gradient is wrong"

    for check in (make(), make(judge=blames)):
        for seed in SEEDS:
            verdict = check.run(coarse, seed=seed)
            assert not verdict.passed
            assert "float32" in verdict.diagnosis, verdict.diagnosis
            assert "sign" not in verdict.diagnosis
    assert torch.get_default_dtype() == torch.float32


def test_a_wrong_formula_in_single_precision_hears_its_own_cause():
    verdict = make().run(lambda w, g, rate: w + torch.tensor(float(rate)) * g)
    assert "float32" not in verdict.diagnosis
    nearly = make().run(lambda w, g, rate: w - rate * (1 + 2e-7) * g)  # as far off, but in double precision
    assert not nearly.passed
    assert "float32" not in nearly.diagnosis


def test_an_answer_that_is_right_by_luck_does_not_hear_of_precision():
    def gambles(w, g, rate):
        return w - rate * g * (1 if torch.rand(()) < 0.5 else -1)

    torch.manual_seed(0)
    said = [make(repeats=1, inputs=one_tensor).run(gambles, seed=seed) for seed in range(40)]
    assert {verdict.passed for verdict in said} == {True, False}
    assert not any("float32" in verdict.diagnosis for verdict in said)


def test_a_return_that_is_not_always_reached_is_told_from_a_stub():
    def my_step(w, g, rate):
        if w[0] > g[0]:
            return w - rate * g

    def both_ways(answer, inputs):
        low, high = inputs["w"].sort().values, inputs["w"].sort(descending=True).values
        return {"new w": answer(high, low, inputs["rate"]), "other": answer(low, high, inputs["rate"])}

    verdict = make(probe=both_ways, inputs=one_tensor).run(my_step)
    assert verdict.found_by == "outputs"
    assert "my_step returns a result in one call and None in another" in verdict.diagnosis
    assert "inside a loop, or an `if`?" in verdict.diagnosis


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ((1, 2), "2 of them"),
        ([1, 2, 3, 4], "4 of them"),
        (torch.zeros(4), "only a tensor of shape (4,) and float32"),
        (2.0, "only a float"),
    ],
)
def test_several_results_are_counted(made, words):
    with pytest.raises(TypeError, match=re.escape(f"it needs 3 results, (φ, m, v), and you return {words}")):
        several(made, "φ", "m", "v")


def test_several_results_come_as_a_tuple():
    assert several([1, 2], "φ", "m") == (1, 2)
    assert several(torch.tensor([1.0, 2.0]), "φ", "m") == (1.0, 2.0)
