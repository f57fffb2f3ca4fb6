"""Checks: they try a learner's function on fresh random problems and say in words what is wrong.

In a notebook (`my_sgd_step` is the learner's function, a stub that returns `...` to begin with):

    sgd_step = checks.sgd_step(my_sgd_step).answer

`check(answer)` never raises. It shows a verdict in words and returns it: `.passed`, `.diagnosis`, and `.answer`, the
function that the lesson goes on with: the learner's once it passes, the course's reference until then.

How to write one (in `mlcourse/lessons/<lesson>/checks.py`, which a notebook imports as `checks`):

    def one_tensor(generator):                       # a fresh random problem: plain tensors, float64; easy ones first
        return {"w": torch.randn(3, generator=generator, dtype=torch.float64),
                "g": torch.randn(3, generator=generator, dtype=torch.float64), "rate": torch.tensor(0.1)}

    def probe(answer, inputs):                       # call the answer; return plain tensors by name
        new = answer({"w": inputs["w"]}, {"w": inputs["g"]}, float(inputs["rate"]))
        return {"new w": new["w"]}

    def judge(inputs, outputs):                      # the oracle; None, or what is wrong, in one or two sentences
        right = inputs["w"] - inputs["rate"] * inputs["g"]
        if close(outputs["new w"], right):
            return None
        if close(outputs["new w"], inputs["w"] + inputs["rate"] * inputs["g"]):
            return "this step climbs: the sign of the gradient is wrong"
        return Unnamed(f"the new w is off by {relative_error(outputs['new w'], right):.1e} of its size")

    sgd_step = Check(exercise="01.2", title="One step of gradient descent", inputs=one_tensor, probe=probe, judge=judge,
                     reference=inner.sgd_step)

`inputs` may also be a dict of such functions by name ("one number", "several tensors"), easy to hard; each is tried
`repeats` times. Three parts, so that grading can run the answer in one process (`problems`, `try_answer`) and judge its
outputs in another (`judge_outputs`). `judge` sees the outputs detached; whether a graph is there must be measured by
`probe`, which may call `autograd.grad` itself. What every check finds without help of its judge: a stub that was not
written, an exception (with its line), a missing or superfluous output, a wrong type, shape or kind of dtype, and traces
that a call leaves in what it received, also inside dicts, lists and episodes: a changed value, a hook, a gradient that
adds up in `.grad`. So a probe need not clone what it hands over, and must not mend what it gets back
(`torch.as_tensor`, `.reshape(())`): the lesson will not do so either. It takes a pair apart with `several`, which says
what came instead; and where a call takes no round of a loop, it comes after others, so that a `return` inside the loop
is told from a stub. Answers run with gradients on, whatever a cell before has switched off. Outputs may be float32
where the reference gives float64: use `close`, which knows the precision.

A judge names the mistakes of its own exercise. What it cannot name it returns as `Unnamed`: then `slips` looks whether
one of the common slips (a factor, a sign, a sum for a mean, one step too many, …) explains the answer on all problems.
A named cause must not be another one on the next problem of its kind, or luck would name it.
And an answer that is right once all that it computes is in float64 hears that it computes in single precision, and no
other cause.

Each check is tested with `tests/check_helpers.py`.
"""

import functools
import html
import inspect
import linecache
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mlcourse.teaching import progress
from mlcourse.teaching.oracles import Unnamed, close, gradient_error, relative_error
from mlcourse.teaching.output import Output
from mlcourse.teaching.slips import common_slip

__all__ = ["Check", "Unnamed", "Verdict", "close", "gradient_error", "keep_precision", "relative_error", "several"]

# Not yet, and passed. The signs ○ and ✓ say the same to those who do not see the colours: vermilion, and bluish green.
LOOK = "border-left: 6px solid {0}; background-color: {0}1f; padding: 4px 10px;"
LOOKS = {False: LOOK.format("#d55e00"), True: LOOK.format("#009e73")}
PACKAGE = str(Path(__file__).resolve().parents[1])


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        passed: whether the answer is right on every problem tried.
        diagnosis: what is wrong, or "" when nothing is.
        answer: the function to go on with: the learner's when it passed, else the reference.
        found_by: "passed", "stub", "exception", "outputs" (type, shape, dtype), "inputs" (changed in place), "judge",
            "check" (a fault of the check itself).
        exercise, title: as in the check.
        name: the name of the learner's function.
    """

    passed: bool
    diagnosis: str
    answer: Callable
    found_by: str
    exercise: str
    title: str
    name: str

    def __repr__(self) -> str:
        return " ".join(self._sentences())

    def _sentences(self) -> list[str]:
        if self.passed:
            # a solution is checked too, but the lesson does not go on with it
            on = [] if self.name.startswith("solution_") else [f"The lesson goes on with your function {self.name}."]
            return [f"✓ Passed: exercise {self.exercise}, {self.title}.", *on]
        return [
            f"○ Not yet: exercise {self.exercise}, {self.title}.",
            f"Diagnosis: {self.diagnosis}",
            "The lesson goes on with the course's function.",
        ]

    def show(self) -> None:
        """Show it in words."""
        head, *rest = self._sentences()
        said = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(" ".join(rest)))
        look = LOOKS[self.passed]
        Output(
            repr(self), f'<div role="status" style="{look}"><strong>{html.escape(head)}</strong> {said}</div>'
        ).show()

    def _ipython_display_(self) -> None:
        """Nothing: the check has shown it already, and a cell that ends in the check would show it twice."""


@dataclass
class _Fault(Exception):
    """Something wrong that is found before the judge is asked."""

    found_by: str
    diagnosis: str


@dataclass
class Check:
    """A check of one exercise. See the module's text for an example.

    Args:
        exercise: notebook and number, "01.2".
        title: what the function does, in a few words.
        inputs: `inputs(generator) -> dict of plain tensors`, or a dict of such functions by name, easy to hard.
        probe: `probe(answer, inputs) -> dict of plain tensors`.
        judge: `judge(inputs, outputs) -> None or diagnosis`.
        reference: the course's function.
        repeats: fresh problems for each function in `inputs`.
    """

    exercise: str
    title: str
    inputs: Callable | Mapping[str, Callable]
    probe: Callable
    judge: Callable
    reference: Callable
    repeats: int = 3
    _calls: int = field(default=0, repr=False)

    def __call__(self, answer: Callable) -> Verdict:
        """Try the answer on fresh problems, show the verdict, keep a pass, and return the verdict. Never raises."""
        self._calls += 1
        verdict = self.run(answer, seed=self.first_seed - 1 + self._calls)
        verdict.show()
        # only the learner's own function counts: the notebook's last section passes its solutions through here too
        if verdict.passed and verdict.name.startswith("my_"):
            progress.record_pass(self.exercise, self.title)
        return verdict

    @property
    def first_seed(self) -> int:
        """The seed of the problems that the first call tries."""
        return crc32(self.exercise.encode()) + 1

    def run(self, answer: Callable, *, seed: int = 0) -> Verdict:
        """Try the answer on the problems of `seed`, without showing or keeping anything. Never raises."""
        try:
            found_by, diagnosis = self._find(answer, seed)
        except Exception as error:
            found_by, diagnosis = "check", f"the check itself failed: {_one_line(error)}. Please report this."
        passed = found_by == "passed"
        going_on = answer if passed else self.reference
        return Verdict(passed, diagnosis, going_on, found_by, self.exercise, self.title, _name(answer))

    def _find(self, answer: Callable, seed: int) -> tuple[str, str]:
        problems = self.problems(seed)
        for name, given in problems:
            outputs, found_by, diagnosis = self.try_answer(answer, given)
            if outputs is not None:
                found_by, diagnosis = "judge", self.judge_outputs(given, outputs)
            if diagnosis is not None:
                if found_by == "judge":
                    kin = [one for other, one in problems if other == name and one is not given]
                    single = self._only_single_precision(answer, [given, *kin])
                    diagnosis = single or self._agreed(diagnosis, answer, kin)
                if isinstance(diagnosis, Unnamed) and (cause := self._common_slip(answer, problems)):
                    diagnosis = f"{diagnosis} {cause}"
                where = f" (Problem: {name}.)" if name and found_by in ("judge", "outputs") else ""
                return found_by, type(diagnosis)(diagnosis + where)
        return "passed", ""

    def _agreed(self, diagnosis: str, answer: Callable, kin: list[dict[str, Tensor]]) -> str:
        """The diagnosis, if the other problems of its kind do not speak against it: what fits one by luck misleads."""
        if isinstance(diagnosis, Unnamed):
            return diagnosis
        tried = [(given, self.try_answer(answer, given)[0]) for given in kin]
        said = [self.judge_outputs(given, outputs) for given, outputs in tried if outputs is not None]
        others = [one for one in said if one is not None and _cause(one) != _cause(diagnosis)]
        unnamed = [one for one in others if isinstance(one, Unnamed)]
        if len(unnamed) < len(others):
            other = next(one for one in others if not isinstance(one, Unnamed))
            return unnamed[0] if unnamed else Unnamed(f"{diagnosis} But on another problem of the same kind: {other}")
        return unnamed[0] if len(unnamed) > len(kin) / 2 else diagnosis

    def _only_single_precision(self, answer: Callable, problems: list[dict[str, Tensor]]) -> str | None:
        """Say so when the answer is right on all problems once what it computes is in double precision, else None."""
        for given in problems:  # on all of them: an answer that draws or counts its calls may be right by luck
            outputs = self.try_in_double(answer, given)
            if outputs is None or self.judge_outputs(given, outputs) is not None:
                return None
        return (
            "the formula is right, its numbers are too coarse. Somewhere you compute in single precision (float32, 7 "
            "digits): `torch.tensor(0.1)` and `torch.zeros(3)` are in float32 unless you give a dtype, and `.float()` "
            "makes it so. The check computes in float64."
        )

    def _common_slip(self, answer: Callable, problems: list[tuple[str, dict[str, Tensor]]]) -> str | None:
        """The common slip that explains this wrong answer on all problems, in a sentence, or None. Never raises."""
        tried = [self.try_answer(answer, given)[0] for _, given in problems]
        if any(outputs is None for outputs in tried):
            return None
        inputs = [given for _, given in problems]
        try:
            arguments = list(inspect.signature(self.reference).parameters)
            right = [self._right(given) for given in inputs]
            return common_slip(inputs, right, tried, arguments=arguments, again=self._right)
        except Exception:  # the diagnosis is there already: this only adds a cause to it
            return None

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _right(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """The reference's outputs."""
        outputs = self.probe(self.reference, _copy(given))
        return {name: value.detach().clone() for name, value in outputs.items()}

    @torch.inference_mode(False)
    def problems(self, seed: int) -> list[tuple[str, dict[str, Tensor]]]:
        """Fresh problems as (name, inputs), easy to hard; the same seed gives the same problems."""
        makers = self.inputs if isinstance(self.inputs, Mapping) else {"": self.inputs}
        generator = torch.Generator().manual_seed(seed)
        return [(name, make(generator)) for name, make in makers.items() for _ in range(self.repeats)]

    @torch.inference_mode(False)
    @torch.enable_grad()
    def try_answer(
        self, answer: Callable, given: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor] | None, str, str | None]:
        """Call the answer once. Returns (outputs, "", None), or (None, how the fault was found, diagnosis)."""
        try:
            return self._outputs(answer, given), "", None
        except _Fault as fault:
            return None, fault.found_by, fault.diagnosis

    def try_in_double(self, answer: Callable, given: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """The outputs once all that the answer computes is in float64; None for a fault, or when it draws numbers."""
        state = torch.get_rng_state()
        outputs = self.try_answer(_in_double_precision(answer), given)[0]
        return outputs if torch.equal(state, torch.get_rng_state()) else None

    def _outputs(self, answer: Callable, given: dict[str, Tensor]) -> dict[str, Tensor]:
        if not callable(answer):
            raise _Fault(
                "outputs", f"the answer is {_kind(answer)}, not a function; pass the function's name without ()."
            )
        copy = _copy(given)
        try:
            outputs = self.probe(_watched(answer), copy)
            if not isinstance(outputs, Mapping):
                raise TypeError(f"the probe returned {_kind(outputs)}, not a dict of tensors")
        except _Fault:
            raise
        except Exception as error:  # the answer's result cannot be used as the probe uses it
            what = f"what {_name(answer)} returns cannot be used: {_one_line(error)}."
            raise _Fault("outputs", f"{what} Compare with the docstring of the stub.") from error
        if changed := [name for name, value in given.items() if not _same(value, copy[name])]:
            what = f"{_name(answer)} changes its input ({', '.join(changed)}) in place."
            raise _Fault("inputs", f"{what} Compute a new tensor instead: the caller still needs the old one.")
        if fault := self.compare(given, outputs):
            raise _Fault("outputs", fault)
        return {name: value.detach().clone() for name, value in outputs.items()}

    @torch.inference_mode(False)
    @torch.enable_grad()
    def judge_outputs(self, given: dict[str, Tensor], outputs: dict[str, Tensor]) -> str | None:
        """Return None when the outputs are right, else the diagnosis. Never raises."""
        try:
            diagnosis = self.judge(_copy(given), outputs)
        except Exception as error:
            return f"the check itself failed: {_one_line(error)}. Please report this with your function."
        return None if diagnosis is None else _sentence(diagnosis)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def compare(self, given: dict[str, Tensor], outputs) -> str | None:
        """Compare names, types, shapes and kinds of dtype with those of the reference; None, or what differs."""
        try:
            expected = self.probe(self.reference, _copy(given))
        except Exception as error:
            return f"the check itself failed: {_one_line(error)}. Please report this."
        if missing := [name for name in expected if name not in outputs]:
            return f"the result lacks {', '.join(map(repr, missing))}."
        if extra := [name for name in outputs if name not in expected]:
            return f"the result has {', '.join(map(repr, extra))}, which nobody asked for."
        for name, right in expected.items():
            if fault := _fault(name, outputs[name], right):
                return fault
        return None


# ---- calling the answer ----


def keep_precision(value: Tensor, like: Tensor, what: str) -> None:
    """Raise TypeError unless `value` has the number format of `like`, which the lesson's next lines compute with."""
    if isinstance(value, Tensor) and value.dtype != like.dtype:
        came, is_now = (str(dtype).removeprefix("torch.") for dtype in (like.dtype, value.dtype))
        raise TypeError(f"keep the number format: {what} is {is_now}, and what you got was {came} (leave .float() out)")


def several(result, *names: str) -> tuple:
    """The results as a tuple, one for each name; TypeError says what came in place of so many.

    A tensor with so many rows is as good as a tuple: the lesson takes it apart in the same way.
    """
    rows = isinstance(result, Tensor) and result.dim() > 0
    if (rows or isinstance(result, tuple | list)) and len(result) == len(names):
        return tuple(result)
    came = f"{len(result)} of them" if isinstance(result, tuple | list) else f"only {_kind(result)}"
    raise TypeError(f"it needs {len(names)} results, ({', '.join(names)}), and you return {came}")


def _watched(answer: Callable) -> Callable:
    """The answer, with its exceptions marked as its own, a stub recognised, and what it received compared."""
    answered = False

    def call(*args, **kwargs):
        nonlocal answered
        received = _by_name(answer, args, kwargs)
        before = {where: _Trace.of(value) for where, value in _tensors(received)}
        try:
            result = answer(*args, **kwargs)
        except KeyboardInterrupt:
            raise  # the learner stops an endless loop
        except BaseException as error:
            raise _Fault("exception", _explain(error, answer)) from error
        if any(one is ... for one in (result if isinstance(result, tuple) else (result,))):
            raise _Fault("stub", f"{_name(answer)} is not written yet: it returns `...`.")
        if result is None and answered:
            what = (
                f"{_name(answer)} returns a result in one call and None in another: on some way it meets no `return`."
            )
            raise _Fault("outputs", f"{what} Does the `return` stand inside a loop, or an `if`?")
        if result is None:
            raise _Fault("stub", f"{_name(answer)} is not written yet, or its `return` is missing: it returns None.")
        answered = True
        _refuse_traces(answer, before, received, lambda: answer(*args, **kwargs))
        return result

    if inspect.isfunction(answer):
        functools.update_wrapper(call, answer)
    return call


class _InDoublePrecision(TorchFunctionMode):
    """While it is on, whatever would be made in float32 is made in float64."""

    def __enter__(self):
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        torch.set_default_dtype(self.before)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        function = Tensor.double if function is Tensor.float else function
        args = [torch.float64 if one is torch.float32 else one for one in args]
        kwargs = {name: torch.float64 if one is torch.float32 else one for name, one in (kwargs or {}).items()}
        return function(*args, **kwargs)


def _in_double_precision(answer: Callable) -> Callable:
    def call(*args, **kwargs):
        with _InDoublePrecision():
            return answer(*args, **kwargs)

    return functools.update_wrapper(call, answer) if inspect.isfunction(answer) else call


def _by_name(answer: Callable, args: tuple, kwargs: dict) -> dict:
    """The arguments by the names that the learner gave them."""
    try:
        return dict(inspect.signature(answer).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return {f"argument {place}": value for place, value in enumerate(args, start=1)} | kwargs


def _tensors(value, where: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in what was received, however deep, with the words that lead there: params['w'], episode.query_x."""
    if isinstance(value, Tensor):
        yield where, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _tensors(one, f"{where}[{key!r}]" if where else str(key))
    elif isinstance(value, list | tuple):
        for place, one in enumerate(value):
            yield from _tensors(one, f"{where}[{place}]")
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            yield from _tensors(getattr(value, one.name), f"{where}.{one.name}")


@dataclass
class _Trace:
    """What a call must leave as it is: a tensor's values, its gradient, its hooks."""

    value: Tensor
    gradient: Tensor | None
    hooks: int

    @classmethod
    def of(cls, tensor: Tensor) -> "_Trace":
        gradient = tensor.grad if tensor.is_leaf else None
        copy = None if gradient is None else gradient.detach().clone()
        return cls(tensor.detach().clone(), copy, len(tensor._backward_hooks or ()))


def _refuse_traces(answer: Callable, before: dict[str, _Trace], received: dict, again: Callable[[], object]) -> None:
    """Raise a fault when the call has changed what it received, or has left something there that adds up."""
    if not torch.is_grad_enabled():
        torch.set_grad_enabled(True)
        what = f"{_name(answer)} switches gradients off for all cells that follow."
        raise _Fault("inputs", f"{what} Write `with torch.no_grad():` around the lines that need none.")
    after = {where: _Trace.of(value) for where, value in _tensors(received)}
    kept = [where for where in before if where in after and _same(before[where].value, after[where].value)]
    if changed := [where for where in before | after if where not in kept]:
        what = f"{_name(answer)} changes its input ({', '.join(changed)}) in place."
        raise _Fault("inputs", f"{what} Compute a new tensor instead: the caller still needs the old one.")
    if hooked := [where for where in kept if after[where].hooks > before[where].hooks]:
        what = f"{_name(answer)} leaves a hook on its input ({', '.join(hooked)})."
        raise _Fault("inputs", f"{what} It would run in every later backward pass: call .remove() on it.")
    if left := [where for where in kept if not _equal_or_none(before[where].gradient, after[where].gradient)]:
        again()  # an answer that clears `.grad` first leaves the same there each time, and harms nobody
        twice = dict(_tensors(received))
        if any(not _equal_or_none(after[where].gradient, twice[where].grad) for where in left):
            what = (
                f"{_name(answer)} leaves gradients on its input ({', '.join(left)}): `.grad` adds up from call to call."
            )
            raise _Fault("inputs", f"{what} Take torch.autograd.grad, which returns a fresh gradient.")


def _equal_or_none(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else _same(a, b)


def _explain(error: BaseException, answer: Callable) -> str:
    """Say what was raised, and on which line of the learner's code."""
    said = f"{_name(answer)} raises {_one_line(error)}."
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(inspect.unwrap(answer), "__code__", None)
    own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    # helpers that the learner wrote in other cells count too, our package and installed ones do not
    own = own or [f for f in frames if not f.filename.startswith(PACKAGE) and "site-packages" not in f.filename][1:]
    if not own:
        return said + " Python could not call it as the check does: keep the arguments of the stub."
    line = own[-1].line or linecache.getline(own[-1].filename, own[-1].lineno).strip()
    return f"{said} This happens on line {own[-1].lineno} of its cell: `{line}`."


def _name(answer) -> str:
    return getattr(answer, "__name__", None) or type(answer).__name__


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _sentence(diagnosis: str) -> str:
    text = " ".join(str(diagnosis).split())
    kind = Unnamed if isinstance(diagnosis, Unnamed) else str
    return kind(text if text.endswith((".", "!", "?")) else text + ".")


def _cause(diagnosis: str) -> str:
    """A diagnosis without its numbers, which differ from problem to problem."""
    return re.sub(r"[-+−]?\d[\d.,]*(e[-+]?\d+)?", "#", diagnosis)


# ---- comparing ----


def _copy(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in given.items()}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _kind(value) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {str(value.dtype).removeprefix('torch.')}"
    word = type(value).__name__
    return f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}"


def _family(dtype: torch.dtype) -> str:
    if dtype == torch.bool:
        return "true/false"
    return "floating point" if dtype.is_floating_point else "complex" if dtype.is_complex else "whole numbers"


def _fault(name: str, got, right: Tensor) -> str | None:
    """Compare type, shape and kind of dtype of one output with the reference's."""
    if not isinstance(got, Tensor):
        return f"{name!r} is {_kind(got)}; expected {_kind(right)}."
    if got.shape != right.shape:
        return f"{name!r} has shape {tuple(got.shape)}; expected {tuple(right.shape)}."
    if _family(got.dtype) != _family(right.dtype):
        dtypes = str(got.dtype).removeprefix("torch."), str(right.dtype).removeprefix("torch.")
        return f"{name!r} has dtype {dtypes[0]}; expected {dtypes[1]} ({_family(right.dtype)})."
    if right.dtype.is_floating_point and right.isfinite().all() and not got.isfinite().all():
        return f"{name!r} holds {'NaN' if got.isnan().any() else 'infinity'}; expected finite numbers."
    return None
