"""The common slips: twice too large, a sum for a mean, percent, a sign, transposed, one step too many, α forgotten.

A judge names the mistakes of its own exercise. What it cannot name (`oracles.Unnamed`) comes here. The right outputs of
all problems of a call are changed as a slip changes them, and compared with what the answer gave. A cause is named only
if it is the only one that fits on every problem: what fits two slips, or one problem by luck, stays without a name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import combinations

import torch
from torch import Tensor

from mlcourse.teaching.oracles import close, rounding

Tensors = dict[str, Tensor]
Change = Callable[[Tensor, int], Tensor]  # (right output in float64, place of the problem) → what the slip gives

# slips are exact: a right answer in float32 passes anyhow, so only wrong ones need the wider tolerance
PRECISION = {torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def _always(change: Callable[[Tensor], Tensor]) -> Change:
    return lambda right, place: change(right)


def _spread(right: Tensor, one: Tensor) -> Tensor:
    """One number in every place, which is a slip only where there are several."""
    return one.expand_as(right) if right.numel() > 1 else torch.full_like(right, torch.nan)


def _square(right: Tensor) -> Tensor:
    return right.T if right.dim() == 2 and len(right) == right.shape[1] else torch.full_like(right, torch.nan)


def _rows(change: Callable[[Tensor], Tensor]) -> Change:
    """A change that needs one dimension or more."""
    return _always(lambda right: change(right) if right.dim() else torch.full_like(right, torch.nan))


SIGN = "the right ones with the other sign: look for a minus."
SIZE = "the right ones without their sign: there is an absolute value too many."
ALWAYS: dict[str, Change] = {
    "twice the right ones: is there a factor 2 too many, or a ½ missing?": _always(lambda right: 2 * right),
    "half of the right ones: is there a ½ too many, or a 2 missing?": _always(lambda right: right / 2),
    SIGN: _always(lambda right: -right),
    "minus twice the right ones: a sign, and a factor 2.": _always(lambda right: -2 * right),
    "100 times the right ones: are they in percent?": _always(lambda right: 100 * right),
    "a hundredth of the right ones: were they taken as percent?": _always(lambda right: right / 100),
    "1 minus the right ones: the complement, such as wrong ones in place of right ones.": _always(lambda r: 1 - r),
    "too large by 1 everywhere: does a count begin with 1 that begins with 0?": _always(lambda right: right + 1),
    "too small by 1 everywhere: does a count begin with 0 that begins with 1?": _always(lambda right: right - 1),
    SIZE: _always(torch.abs),
    "the squares of the right ones: take the root, or leave out the square.": _always(torch.square),
    "the roots of the right ones: leave out the root, or take the square.": _always(torch.sqrt),
    "e to the power of the right ones: are logarithms asked, and these are not?": _always(torch.exp),
    "the logarithms of the right ones: these are asked as they are.": _always(torch.log),
    "1 divided by the right ones: upside down.": _always(torch.reciprocal),
    "0 everywhere: is what you compute ever used?": _always(torch.zeros_like),
    "the softmax of the right ones: there is one softmax too many.": _rows(lambda right: right.softmax(-1)),
    "the log-softmax of the right ones: there is one softmax too many.": _rows(lambda right: right.log_softmax(-1)),
    "the right ones, transposed: rows and columns have changed places.": _always(_square),
    "the right ones in reversed order.": _rows(lambda right: right.flip(0)),
    "the right ones, each row in reversed order.": _rows(lambda r: r.flip(-1) if r.dim() > 1 else r * torch.nan),
    "the right ones, moved on by one place.": _rows(lambda right: right.roll(1, 0)),
    "the right ones, moved back by one place.": _rows(lambda right: right.roll(-1, 0)),
    "the running sums of the right ones.": _rows(lambda right: right.cumsum(0)),
    "the mean of the right ones in every place: one number for all.": _always(lambda r: _spread(r, r.mean())),
    "the sum of the right ones in every place: one number for all.": _always(lambda r: _spread(r, r.sum())),
    "the right ones minus their mean.": _always(lambda r: r - _spread(r, r.mean())),
    "the right ones divided by their sum.": _always(lambda r: r / _spread(r, r.sum())),
    "the right ones scaled to length 1.": _always(lambda r: r / _spread(r, r.norm())),
}


def common_slip(
    problems: list[Tensors],
    right: list[Tensors],
    got: list[Tensors],
    *,
    arguments: Iterable[str] = (),
    again: Callable[[Tensors], Tensors] | None = None,
) -> str | None:
    """The sentence that names the one common slip which gives `got` on all problems, or None.

    Args:
        problems: the inputs of each problem.
        right, got: the reference's and the answer's outputs by name, for each problem; the same names and shapes.
        arguments: names that the learner knows from the stub; only these inputs are spoken of.
        again: the reference's outputs for other inputs: for slips such as one step too many, or an unused rate.
    """
    names = [name for name in right[0] if not all(_alike(g[name], r[name]) for g, r in zip(got, right, strict=True))]
    if any(
        right[0][name].dtype.is_floating_point for name in names
    ):  # counts beside the numbers may differ as they like
        names = [name for name in names if right[0][name].dtype.is_floating_point]
    if not names or len(problems) < 2:
        return None
    if len(names) == 2 and _fits_swapped(*names, right, got):
        return f"{names[0]!r} and {names[1]!r} have changed places: look at the order in which you return them."
    pairs = [(g[name], r[name]) for r, g in zip(right, got, strict=True) for name in names]
    if all(g.shape == r.shape and r.isfinite().all() for g, r in pairs) and (said := rounding(pairs)):
        return said
    some = f"In {' and '.join(map(repr, names))} yours are" if len(names) <= 2 else "Some of your numbers are"
    whose = "Your numbers are" if len(names) == len(right[0]) else some
    found = [
        f"{whose}, on every problem, {words}"
        for words, change in _changes(problems, arguments)
        if _fits(change, names, right, got)
    ]
    if len(found) == 2 and found[0].endswith(SIGN) and found[1].endswith(SIZE):
        del found[1]  # where no right number is above 0, both give the same
    if not found and again is not None:  # the plainer sentence first: a rate that is missing is also a rate of 1
        found = [words for words, inputs in _what_ifs(problems, arguments) if _same_as(again, inputs, right, got)]
    return found[0] if len(found) == 1 else None


def _alike(got: Tensor, wanted: Tensor) -> bool:
    got, wanted = got.detach(), wanted.detach()
    if got.shape != wanted.shape or not wanted.isfinite().all():
        return False
    return close(got.double(), wanted.double(), rtol=PRECISION.get(got.dtype, 1e-6))


def _fits(change: Change, names: list[str], right: list[Tensors], got: list[Tensors]) -> bool:
    """Whether the change explains every output that is wrong somewhere, on all problems."""
    pairs = enumerate(zip(right, got, strict=True))
    return all(_alike(g[name], change(r[name].detach().double(), place)) for place, (r, g) in pairs for name in names)


def _fits_swapped(a: str, b: str, right: list[Tensors], got: list[Tensors]) -> bool:
    return all(_alike(g[a], r[b]) and _alike(g[b], r[a]) for r, g in zip(right, got, strict=True))


def _changes(problems: list[Tensors], arguments: Iterable[str]) -> Iterator[tuple[str, Change]]:
    yield from ALWAYS.items()
    numbers = _numbers(problems, arguments)
    for name, values in numbers.items():
        if all(value not in (0, 1) for value in values):
            yield f"`{name}` times the right ones: is it there once too often?", _times(values)
            yield f"the right ones divided by `{name}`: is it missing?", _times([1 / value for value in values])
            yield f"`{name}`² times the right ones: is it there twice too often?", _times([v * v for v in values])
            yield f"the right ones divided by `{name}`²: is it missing?", _times([1 / (v * v) for v in values])
    for sizes in _sizes(problems):
        if sizes in numbers.values():
            continue  # it has been spoken of by its name
        several = max(sizes) != min(sizes)
        n = f"n = {', '.join(map(str, dict.fromkeys(sizes)))}" if several else str(sizes[0])
        yield f"{n} times the right ones: is there a sum where a mean is asked?", _times(sizes)
        yield f"the right ones divided by {n}: is there a mean where a sum is asked?", _times([1 / k for k in sizes])
        if several:  # the root of one number may be any factor
            yield f"the right ones times the root of {n}.", _times([k**0.5 for k in sizes])
            yield f"the right ones divided by the root of {n}.", _times([k**-0.5 for k in sizes])


def _times(factors: list[float]) -> Change:
    return lambda right, place: factors[place] * right


def _numbers(problems: list[Tensors], arguments: Iterable[str]) -> dict[str, list[float]]:
    """The inputs that are one number and that the learner knows by name: their values, problem by problem."""
    known = [name for name in arguments if all(name in one and one[name].dim() == 0 for one in problems)]
    plain = [name for name in known if problems[0][name].dtype != torch.bool]
    return {name: [float(one[name]) for one in problems] for name in plain}


def _sizes(problems: list[Tensors]) -> list[list[int]]:
    """The lengths of the inputs' dimensions, problem by problem, each series once; those of length 1 or 2 alone not."""
    names = [
        name
        for name, value in problems[0].items()
        if all(name in one and one[name].dim() == value.dim() for one in problems)
    ]
    series = {
        tuple(one[name].shape[dim] for one in problems) for name in names for dim in range(problems[0][name].dim())
    }
    return sorted(list(sizes) for sizes in series if set(sizes) - {1, 2})


def _what_ifs(problems: list[Tensors], arguments: Iterable[str]) -> Iterator[tuple[str, list[Tensors]]]:
    """Other inputs, and what is said of an answer that is right for them."""

    def changed(name: str, change: Callable[[Tensor], Tensor]) -> list[Tensors]:
        return [one | {name: change(one[name])} for one in problems]

    for name in _numbers(problems, arguments):
        if problems[0][name].dtype.is_floating_point:
            yield f"These are the numbers for `{name}` = 1: is `{name}` used?", changed(name, torch.ones_like)
            yield f"These are the numbers for `{name}` = 0: is `{name}` used?", changed(name, torch.zeros_like)
            yield f"These are the numbers for −`{name}`: look at its sign.", changed(name, torch.neg)
            yield f"These are the numbers for 2 · `{name}`.", changed(name, lambda value: 2 * value)
            yield f"These are the numbers for `{name}` / 2.", changed(name, lambda value: value / 2)
            yield f"These are the numbers for `{name}`²: it is asked as it is.", changed(name, torch.square)
            yield f"These are the numbers for √`{name}`: it is asked as it is.", changed(name, torch.sqrt)
            yield f"These are the numbers for 1 / `{name}`: upside down.", changed(name, torch.reciprocal)
        else:
            yield f"These are the numbers for `{name}` + 1: one too many.", changed(name, lambda value: value + 1)
            yield f"These are the numbers for `{name}` − 1: one too few.", changed(name, lambda value: value - 1)
            yield f"These are the numbers for `{name}` = 1, whatever it is.", changed(name, torch.ones_like)
    tensors = [name for name in arguments if all(name in one for one in problems)]
    for a, b in combinations(tensors, 2):
        if all(one[a].shape == one[b].shape and one[a].dtype == one[b].dtype for one in problems):
            swapped = [one | {a: one[b], b: one[a]} for one in problems]
            yield f"These are the numbers with `{a}` and `{b}` in each other's place.", swapped


def _same_as(
    again: Callable[[Tensors], Tensors], inputs: list[Tensors], right: list[Tensors], got: list[Tensors]
) -> bool:
    """Whether the answer gives what is right for other inputs. Counts and truth values may stay as they were."""
    for one, r, g in zip(inputs, right, got, strict=True):
        try:
            wrong: Mapping[str, Tensor] = again(one)
        except Exception:  # the reference refuses such inputs: then no answer was right for them
            return False
        for name, value in wrong.items():
            counts = not value.dtype.is_floating_point and _alike(g[name], r[name])
            if not counts and not _alike(g[name], value):
                return False
    return True
