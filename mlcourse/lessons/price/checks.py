"""The checks of notebook 07: the best block, truncation, tasks side by side, first terms, backward with checkpoints.

All problems are small enough for closed forms: a linear model under a loss with a cubic slope, so that each inner step
has a Hessian of its own, written out here. No oracle calls the package's inner loops.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mlcourse import inner
from mlcourse.meta_gradients.saved_bytes import saved_bytes
from mlcourse.teaching.checks import Check, close, keep_precision, relative_error
from mlcourse.teaching.oracles import Unnamed, first_mistake, randn, uniform

Tensors = dict[str, Tensor]
RTOL = 2e-4  # an answer that computes in float32 passes; the mistakes below are off by far more
_close = partial(close, rtol=RTOL)
_first = partial(first_mistake, rtol=RTOL)


# ------------------------------------------------------------------ 07.1 the best block


ROWS = 4  # problems of each kind in a table


def block_bytes(n: int, steps: int, step_bytes: float, phi_bytes: float) -> float:
    """What a checkpointed unroll keeps: the graphs of n steps, and ⌈T/n⌉ copies of φ."""
    return n * step_bytes + math.ceil(steps / n) * phi_bytes


def _best_block(steps: int, step_bytes: float, phi_bytes: float) -> int:
    return min(range(1, steps + 1), key=lambda n: block_bytes(n, steps, step_bytes, phi_bytes))


def _whole(steps: int, ratio: float) -> int:
    """The root √(T P/G), rounded: the minimum of the smooth formula n G + T P/n."""
    return min(steps, max(1, round(math.sqrt(steps * ratio))))


def _inside(low: float, high: float, generator: torch.Generator, *, rounding: bool = False) -> tuple[int, int, int]:
    """A problem with P/G between low and high, where √T is far off; with `rounding`, the rounded root is off, too."""
    while True:
        steps = int(torch.randint(40, 120, (), generator=generator))
        ratio, g = float(uniform(generator, low, high)), 1000 * float(uniform(generator, 1, 9))
        least = block_bytes(_best_block(steps, 1, ratio), steps, 1, ratio)
        others = [_whole(steps, 1), _whole(steps, 1 / ratio)] + [_whole(steps, ratio)] * rounding
        if all(block_bytes(n, steps, 1, ratio) > 1.005 * least for n in others):
            return steps, round(g), round(g * ratio)


def _at_an_end(generator: torch.Generator, *, dear: bool) -> tuple[int, int, int]:
    """A problem whose best block lies at an end: one step (copies cost next to nothing), or all T (a copy is dear)."""
    steps, g = int(torch.randint(40, 120, (), generator=generator)), 100_000 * float(uniform(generator, 1, 9))
    ratio = float(uniform(generator, 1.1, 2.0)) * steps if dear else float(uniform(generator, 0.1, 0.9)) / steps
    return steps, round(g), round(g * ratio)


KINDS = {
    "φ is small beside a step's graph": partial(_inside, 0.1, 0.4),
    "φ is large": partial(_inside, 2.5, 6.0),
    "the root is not the answer": partial(_inside, 0.15, 0.7, rounding=True),
    "a copy of φ costs next to nothing": partial(_at_an_end, dear=False),
    "a copy of φ costs more than all graphs": partial(_at_an_end, dear=True),
}


def _block_inputs(generator: torch.Generator) -> Tensors:
    """Many problems at once, some of each kind, so that no mistake is right, or like another one, by luck."""
    rows = [draw(generator=generator) for draw in KINDS.values() for _ in range(ROWS)]
    # one table, not three columns by the stub's names: with T and G exchanged the reference would try G blocks
    return {"problems": torch.tensor(rows)}


def _block_probe(answer: Callable, inputs: Tensors) -> Tensors:
    found = []
    for row in inputs["problems"].tolist():
        n = torch.as_tensor(answer(*row), dtype=torch.float64)
        if n.dim():
            raise TypeError(f"it needs one number, n, and got a tensor of shape {list(n.shape)}")
        found.append(n)
    return {"n": torch.stack(found)}


def _least(steps: int, bytes_of: Callable[[int], float], first: int = 1, last: int | None = None) -> int:
    return min(range(first, (last or steps) + 1), key=bytes_of)


def _beside(root: float, steps: int) -> list[int]:
    """The whole numbers below and above, held to 1 … T."""
    return [min(steps, max(1, n)) for n in (math.floor(root), math.ceil(root))]


def _rises(n: int, steps: int, g: float, p: float) -> bool:
    return block_bytes(n + 1, steps, g, p) >= block_bytes(n, steps, g, p)


# diagnosis → how to get there: each (T, G, P) → n, before n is held to 1 … T
BLOCK_SLIPS: dict[str, tuple[Callable[[int, int, int], float], ...]] = {
    "n = 1 keeps a copy of φ for each of the T steps; fewer copies and longer blocks keep less.": (lambda t, g, p: 1,),
    "n = T is one block: the plain unroll, with the graphs of all steps.": (lambda t, g, p: t,),
    "These are the bytes of the best block. Return the block, n: `min(…, key=…)` gives the candidate itself.": (
        lambda t, g, p: block_bytes(_best_block(t, g, p), t, g, p),
    ),
    "This is √T. It is right only where a copy of φ and the graph of a step take the same bytes.": (
        lambda t, g, p: round(math.sqrt(t)),
        lambda t, g, p: math.isqrt(t),
        lambda t, g, p: math.ceil(math.sqrt(t)),
    ),
    "G and P are swapped, n·P + ⌈T/n⌉·G, or you return the copies ⌈T/n⌉: both give this. A block holds n GRAPHS, of G "
    "bytes each, and there are ⌈T/n⌉ copies; asked is n.": (lambda t, g, p: _best_block(t, p, g),),
    "You rounded T/n down: the last block, a shorter one, has a copy of φ too. ⌈ ⌉ rounds up: -(-steps // n), which is "
    "not steps // n + 1 either.": (lambda t, g, p: _least(t, lambda n: n * g + t // n * p),),
    "You rounded T/n to the nearest number of copies. A shorter last block has a copy too: round up, -(-steps // n).": (
        lambda t, g, p: _least(t, lambda n: n * g + round(t / n) * p),
    ),
    "Upside down: the dearer a copy of φ, the fewer copies, so the longer a block. You have G/P under the root.": (
        lambda t, g, p: round(math.sqrt(t * g / p)),
        lambda t, g, p: math.isqrt(t * g // p),
        lambda t, g, p: math.ceil(math.sqrt(t * g / p)),
    ),
    "Near: this is the minimum of the smooth formula n·G + T·P/n, the root √(T P/G). With ⌈T/n⌉ a neighbour can be "
    "better. Try the whole numbers.": (
        lambda t, g, p: round(math.sqrt(t * p / g)),
        lambda t, g, p: _least(t, lambda n: n * g + t / n * p),
        lambda t, g, p: math.isqrt(t * p // g),
        lambda t, g, p: math.ceil(math.sqrt(t * p / g)),
        lambda t, g, p: min(_beside(math.sqrt(t * p / g), t), key=lambda n: block_bytes(n, t, g, p)),
    ),
    "T is missing under the root, √(T P/G); and with ⌈T/n⌉ a neighbour can be better. Try the whole numbers.": (
        lambda t, g, p: round(math.sqrt(p / g)),
    ),
    "Only blocks that divide T were tried. The last block may be shorter: compare all n from 1 to T.": (
        lambda t, g, p: min((n for n in range(1, t + 1) if t % n == 0), key=lambda n: block_bytes(n, t, g, p)),
    ),
    "You stop at the first n after which more is kept. ⌈T/n⌉ jumps, so a later n can be better: compare all.": (
        lambda t, g, p: next(n for n in range(1, t + 1) if n == t or _rises(n, t, g, p)),
    ),
    "n = T is never tried: range(1, T) ends with T − 1.": (
        lambda t, g, p: _least(t, lambda n: block_bytes(n, t, g, p), last=t - 1),
    ),
    "n = 1 is never tried: blocks of one step can be the best.": (
        lambda t, g, p: _least(t, lambda n: block_bytes(n, t, g, p), first=2),
    ),
    "This is the place in a list that begins with 0. The first block that you tried is n = 1: add 1.": (
        lambda t, g, p: _best_block(t, g, p) - 1,
    ),
    "This is the worst block: take the one that keeps the fewest bytes.": (
        lambda t, g, p: _least(t, lambda n: -block_bytes(n, t, g, p)),
    ),
}


def _block_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    rows, got = inputs["problems"].tolist(), outputs["n"].tolist()
    least = [block_bytes(_best_block(*row), *row) for row in rows]

    def enough(n: float, row: tuple, least: float) -> bool:
        return n == round(n) and 1 <= n <= row[0] and block_bytes(int(n), *row) <= least * (1 + 1e-12)

    if all(map(enough, got, rows, least)):
        return None
    for diagnosis, ways in BLOCK_SLIPS.items():
        if any(_same_blocks(got, [way(*row) for row in rows], rows) for way in ways):
            return diagnosis
    for n, (steps, *_) in zip(got, rows):
        if n != round(n) or not 1 <= n <= steps:
            return f"n is {n:g}: it must be a whole number from 1 to T = {steps}."
    n, row, few = next(one for one in zip(got, rows, least) if not enough(*one))
    steps, g, p = row
    return Unnamed(
        f"For T = {steps}, G = {g} and P = {p} your n = {n:g} keeps {block_bytes(int(n), *row):.0f} bytes, but n = "
        f"{_best_block(*row)} keeps only {few:.0f}: compare n·G + ⌈T/n⌉·P for all n."
    )


def _same_blocks(got: list[float], wrong: list[float], rows: list[tuple]) -> bool:
    """Equal, as the slip gives it, or once it is held to 1 … T: some learners do so."""
    above = [max(1, n) for n in wrong]
    return got in (wrong, above, [min(row[0], n) for row, n in zip(rows, above)])


best_block = Check(
    exercise="07.1",
    title="The best block",
    inputs=_block_inputs,
    probe=_block_probe,
    judge=_block_judge,
    reference=_best_block,
)


# ------------------------------------------------------------------ a loss whose Hessian changes along the path


def _forward(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return x.to(params["w"].dtype) @ params["w"]


def _loss(prediction: Tensor, target: Tensor) -> Tensor:
    r = prediction - target.to(prediction.dtype)
    return (r**2 / 2 + r**4 / 4).mean()


class _Quartic:
    """L(φ) = mean of r²/2 + r⁴/4 with r = xφ − y, its gradient and its Hessian in closed form."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y = x, y

    def gradient(self, phi: Tensor) -> Tensor:
        r = self.x @ phi - self.y
        return self.x.T @ (r + r**3) / len(r)

    def hessian(self, phi: Tensor) -> Tensor:
        r = self.x @ phi - self.y
        return (self.x.T * (1 + 3 * r**2)) @ self.x / len(r)

    def path(self, phi: Tensor, rate: Tensor, steps: int) -> list[Tensor]:
        """φ_0, …, φ_T."""
        phis = [phi]
        for _ in range(steps):
            phis.append(phis[-1] - rate * self.gradient(phis[-1]))
        return phis

    def pull(self, phis: list[Tensor], v: Tensor, rate: Tensor, steps: range | list[int]) -> Tensor:
        """(I − αH)ᵀ of the given steps applied to v, the last step first."""
        for t in reversed(steps):
            v = v - rate * self.hessian(phis[t]) @ v
        return v


def _path_inputs(generator: torch.Generator, images: int = 6) -> Tensors:
    """A problem whose α‖H‖ is near ½ at first and falls: each step counts, and early steps differ from late ones."""
    x, theta = randn(generator, images, 3), 1.5 * randn(generator, 3)
    y = x @ (theta + 1.2 * F.normalize(randn(generator, 3), dim=0)) + 0.3 * randn(generator, images)
    top = torch.linalg.eigvalsh(_Quartic(x, y).hessian(theta))[-1]
    return {"x": x, "y": y, "theta": theta, "pull": randn(generator, 3), "rate": 0.5 / top}


# ------------------------------------------------------------------ 07.2 truncation

# 2 of 6: the first 2 cut leaves 4 steps, neither 2 nor 3
TRUNCATED = {"R = 2 of 6": (6, 2), "R = 0": (5, 0), "R = T": (4, 4), "R larger than T": (3, 7)}


def _truncated_probe(answer: Callable, inputs: Tensors) -> Tensors:
    outputs = {}
    for name, (steps, last) in TRUNCATED.items():
        theta = inputs["theta"].clone().requires_grad_()
        settings = {"steps": steps, "last": last, "rate": float(inputs["rate"]), "loss": _loss}
        fast = answer(_forward, {"w": theta}, inputs["x"], inputs["y"], **settings)
        if not isinstance(fast, dict) or not isinstance(fast.get("w"), Tensor):
            raise TypeError("it needs the fast weights: a dictionary with a tensor for each name in params")
        keep_precision(fast["w"], theta, "the fast weight 'w'")
        phi, slope = fast["w"], torch.zeros_like(theta)
        if phi.requires_grad:
            v = inputs["pull"]
            (slope,) = torch.autograd.grad(phi, theta, v, allow_unused=True, materialize_grads=True)
        outputs |= {f"φ, {name}": phi, f"gradient, {name}": slope}
    return outputs


def _truncated_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    task, rate, v = _Quartic(inputs["x"], inputs["y"]), inputs["rate"], inputs["pull"]
    for name, (steps, last) in TRUNCATED.items():
        phis = task.path(inputs["theta"], rate, max(steps, last))
        if not _close(outputs[f"φ, {name}"], phis[steps]):
            return _end_mistake(outputs[f"φ, {name}"], phis, steps, last, _of_cross_entropy(inputs, steps))
        early, slope = max(0, steps - last), outputs[f"gradient, {name}"]
        if _close(slope, task.pull(phis, v, rate, range(early, steps))):
            continue
        if not slope.any():
            return (
                f"With {name} no gradient reaches θ. Only the inner gradients of early steps are constants; φ = θ − α·"
                "(constant) still depends on θ. Detach the gradient, not φ."
            )
        mistakes = {
            # with R = 0 it is also what cuts the first R steps: so it comes first
            f"This is the whole gradient: nothing is cut, with {name}. The first T − R steps must be first-order.": (
                range(steps)
            ),
            "This keeps the first R steps and cuts the last ones. Truncation keeps the last.": range(min(last, steps)),
            "This cuts the first R steps. It is the last R that keep their graph: the first T − R are cut.": range(
                min(last, steps), steps
            ),
            "This is the first-order gradient, whatever R is: the last R steps must carry a graph.": [],
            f"Off by one: with {name} one step too few carries a graph.": range(early + 1, steps),
            f"Off by one: with {name} one step too many carries a graph.": range(max(0, early - 1), steps),
        }
        if last > steps and _close(slope, v):
            return (
                f"With {name}, all T steps carry a graph: the number of early ones is max(0, T − R), neither T − R, "
                "which is below 0 here, nor its size."
            )
        wrong = {words: task.pull(phis, v, rate, kept) for words, kept in mistakes.items()}
        return _first(slope, wrong) or Unnamed(
            f"φ is right, but with {name} its gradient is not that of the last R steps."
        )
    return None


def _of_cross_entropy(inputs: Tensors, steps: int) -> Tensor:
    """φ after steps down the cross-entropy, which adapt takes by itself: numbers as targets raise no error."""
    x, y, phi = inputs["x"], inputs["y"], inputs["theta"]
    for _ in range(steps):
        phi = phi - inputs["rate"] * x.T @ ((x @ phi).softmax(0) * y.sum() - y)
    return phi


def _end_mistake(phi: Tensor, phis: list[Tensor], steps: int, last: int, other: Tensor) -> str:
    mistakes = {
        f"T = {steps}, R = {last}: φ must be that of T plain inner steps, whatever R is, and here R steps were taken. "
        "The second part takes the steps that the first one has left.": phis[-1],
        "The steps descend the cross-entropy, which adapt takes by itself: pass `loss` on, in both parts.": other,
        "Only the last R steps were taken. All T steps are taken; the first T − R without a graph.": phis[
            min(last, steps)
        ],
        "Only the first T − R steps were taken: the R steps with a graph are missing.": phis[max(0, steps - last)],
        "These are the parameters as they came: no step was taken.": phis[0],
        "All steps use the gradient at θ: take it at the φ of the step before.": phis[0] + steps * (phis[1] - phis[0]),
    }
    return _first(phi, mistakes) or Unnamed(
        f"T = {steps}, R = {last}: φ must be that of T plain inner steps, whatever R is; "
        f"it is off by {relative_error(phi, phis[steps]):.1e}."
    )


truncated = Check(
    exercise="07.2",
    title="A truncated unroll",
    inputs=_path_inputs,
    probe=_truncated_probe,
    judge=_truncated_judge,
    reference=inner.adapt_truncated,
)


# ------------------------------------------------------------------ 07.3 tasks side by side


def _wide_inputs(generator: torch.Generator) -> Tensors:
    tasks, images, channels, out = 3, 4, 2, 5
    return {
        "x": randn(generator, tasks, images, channels, 6, 6),
        "weight": randn(generator, tasks, out, channels, 3, 3),
        "bias": randn(generator, tasks, out),
    }


def _one_wide_inputs(generator: torch.Generator) -> Tensors:
    """As many images as tasks, and one channel: whoever mixes up the two gets the right shape."""
    return {
        "x": randn(generator, 3, 3, 1, 6, 6),
        "weight": randn(generator, 3, 4, 1, 3, 3),
        "bias": randn(generator, 3, 4),
    }


class _Convolutions(TorchDispatchMode):
    """Counts how often a convolution is called, whichever way it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += "convolution" in str(function)
        return function(*args, **(kwargs or {}))


def _wide_probe(answer: Callable, inputs: Tensors) -> Tensors:
    leaves = [inputs[name].clone().requires_grad_() for name in ("x", "weight", "bias")]
    with _Convolutions() as convolutions:
        out = answer(*(leaf * 1 for leaf in leaves))  # no leaves: writing into them raises no error
    slopes = [None]
    if isinstance(out, Tensor) and out.requires_grad:
        slopes = torch.autograd.grad(out.sum(), leaves, retain_graph=True, allow_unused=True)
    return {
        "maps": out,
        "calls": torch.tensor(float(convolutions.count)),
        "graph": torch.tensor(all(slope is not None for slope in slopes)),
    }


def _by_task(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.stack([F.conv2d(*task, padding=1) for task in zip(x, weight, bias, strict=True)])


def _wide_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    x, weight, bias = inputs["x"], inputs["weight"], inputs["bias"]
    maps, right = outputs["maps"], _by_task(x, weight, bias)
    if _close(maps, right):
        if not outputs["graph"]:
            return (
                "The numbers are right, but no gradient leads back from the maps to x, weight and bias: the fast path "
                "is trained through. Leave out detach and no_grad."
            )
        if outputs["calls"] == 1:
            return None
        calls = int(outputs["calls"])
        return f"The numbers are right, but it took {calls} calls of a convolution: all tasks fit into one, in groups."
    mistakes = {
        "Every task was convolved with the filters of the first: each has weights of its own.": _by_task(
            x, weight[:1].expand_as(weight), bias
        ),
        "The bias is missing.": _by_task(x, weight, torch.zeros_like(bias)),
        "The bias is added twice: conv2d adds it already.": _by_task(x, weight, 2 * bias),
        "Every task was convolved with the filters of the first, and got its bias: each has its own.": _by_task(
            x, weight[:1].expand_as(weight), bias[:1].expand_as(bias)
        ),
        "Every task got the bias of the first.": _by_task(x, weight, bias[:1].expand_as(bias)),
    }
    tasks = len(x)
    split_wrong = right.transpose(0, 1).flatten(1, 2).unflatten(1, (-1, tasks)).permute(2, 0, 1, 3, 4)
    mistakes["The channels come out as [tasks·out], tasks outside: split them as (tasks, -1), not (-1, tasks)."] = (
        split_wrong
    )
    if x.shape[0] == x.shape[1]:
        swapped = _by_task(x.transpose(0, 1), weight, bias)
        mistakes |= {
            "Tasks and images are mixed up: image i of all tasks got the filters of task i. Bring the tasks next to "
            "the channels, [images, tasks·channels, H, W], by a transpose before the flatten.": swapped,
            "Tasks and images are mixed up, on the way in and out: a reshape is no transpose.": swapped.transpose(0, 1),
            "Right maps in the wrong order: the result is [images, tasks, …]. Transpose it back.": right.transpose(
                0, 1
            ),
        }
    return _first(maps, mistakes) or Unnamed(
        f"These are not the maps of one convolution for each task; they are off by {relative_error(maps, right):.1e}."
    )


def _wide_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One grouped convolution for all tasks; a group is a task."""
    tasks = len(x)
    wide = x.transpose(0, 1).flatten(1, 2)
    maps = F.conv2d(wide, weight.flatten(0, 1), bias.flatten(), padding=1, groups=tasks)
    return maps.unflatten(1, (tasks, -1)).transpose(0, 1)


side_by_side = Check(
    exercise="07.3",
    title="Tasks side by side",
    inputs={"as many images as tasks": _one_wide_inputs, "two channels": _wide_inputs},
    probe=_wide_probe,
    judge=_wide_judge,
    reference=_wide_reference,
)


# ------------------------------------------------------------------ 07.4 the first terms in α

TERMS = ("MAML", "first-order MAML", "Reptile")
TERM_STEPS = 4  # not 3, where T(T+1)/2 and T(T−1) are the same number


def _terms_inputs(generator: torch.Generator) -> Tensors:
    made, theta = _path_inputs(generator), randn(generator, 3)
    other = _path_inputs(generator)
    support = {"x": made["x"], "y": made["y"]}
    return support | {"query_x": other["x"], "query_y": other["y"], "theta": theta, "rate": 0.3 * made["rate"]}


def _terms_probe(answer: Callable, inputs: Tensors, steps: int = TERM_STEPS) -> Tensors:
    def loss(x: Tensor, y: Tensor) -> Callable:
        return lambda phi: _loss(_forward({"w": phi}, x), y)

    on_support, on_queries = loss(inputs["x"], inputs["y"]), loss(inputs["query_x"], inputs["query_y"])
    result = answer(on_support, on_queries, inputs["theta"].clone(), rate=float(inputs["rate"]), steps=steps)
    right = isinstance(result, tuple | list) and len(result) == 3 and all(isinstance(r, Tensor) for r in result)
    if not right:
        raise TypeError("it needs three tensors (maml, first_order, reptile), each of the shape of theta")
    for name, value in zip(TERMS, result, strict=True):
        keep_precision(value, inputs["theta"], name)
    return dict(zip(TERMS, result, strict=True))


def _terms_judge(inputs: Tensors, outputs: Tensors, steps: int = TERM_STEPS) -> str | None:
    theta, rate = inputs["theta"], inputs["rate"]
    support, query = _Quartic(inputs["x"], inputs["y"]), _Quartic(inputs["query_x"], inputs["query_y"])
    gs, gq, hs, hq = support.gradient(theta), query.gradient(theta), support.hessian(theta), query.hessian(theta)
    a, phis = rate * steps, support.path(theta, rate, steps)
    pairs = rate * steps * (steps - 1) / 2
    right = {
        "MAML": gq - a * (hq @ gs + hs @ gq),
        "first-order MAML": gq - a * hq @ gs,
        "Reptile": steps * gs - pairs * hs @ gs,
    }
    whole = {
        "MAML": support.pull(phis, query.gradient(phis[-1]), rate, range(steps)),
        "first-order MAML": query.gradient(phis[-1]),
        "Reptile": (theta - phis[-1]) / rate,
    }
    if order := _their_order(outputs, right):
        return order
    wrong = {
        "MAML": {
            "The MAML term lacks H_s g_q, the part through the inner step.": right["first-order MAML"],
            "The MAML term lacks H_q g_s: the query gradient itself moves with φ.": gq - a * hs @ gq,
            "MAML: the factor T is missing, this is the term of one inner step.": gq - rate * (hq @ gs + hs @ gq),
            "MAML: the factor is T, one for each inner step, not T − 1.": gq - (a - rate) * (hq @ gs + hs @ gq),
            "MAML: α is missing, this is the term for a rate of 1.": gq - steps * (hq @ gs + hs @ gq),
            "This is the query gradient at θ. MAML's line has two terms with α.": gq,
            "MAML: both terms count twice. v must be held fixed in H v, and yours still has a graph: v.detach().": (
                gq - 2 * a * (hq @ gs + hs @ gq)
            ),
            "MAML: each Hessian stands before its own gradient, H_q g_q and H_s g_s. They go crosswise: H_q g_s + H_s "
            "g_q, the slope of g_s · g_q.": gq - a * (hq @ gq + hs @ gs),
            "MAML: sign. Descent moves φ against g_s, so both terms are subtracted.": gq + a * (hq @ gs + hs @ gq),
        },
        "first-order MAML": {
            "First-order MAML drops H_s g_q and keeps H_q g_s: you kept the other one.": gq - a * hs @ gq,
            "This is the query gradient at θ. First-order MAML takes it at φ_T: H_q g_s is missing.": gq,
            "First-order MAML: the factor T is missing.": gq - rate * hq @ gs,
            "First-order MAML: the Hessian is that of the QUERY loss, H_q g_s, since the query gradient is taken "
            "elsewhere.": gq - a * hs @ gs,
            "First-order MAML: sign. Descent moves φ against g_s, so H_q g_s is subtracted.": gq + a * hq @ gs,
            "First-order MAML: H_q stands before g_q. The steps moved φ along g_s, so it is H_q g_s.": gq - a * hq @ gq,
            "First-order MAML: this is MAML's whole line. Drop H_s g_q. (Has your v a graph? v.detach().)": right[
                "MAML"
            ],
        },
        "Reptile": {
            "Reptile sums T gradients; this is their mean. Do not divide by T.": right["Reptile"] / steps,
            "Reptile: the term with α is missing. Each step begins where the one before it ended, so its gradient is "
            "g_s − α t H_s g_s.": steps * gs,
            "Reptile: this is the gradient of one step. It sums those of all T.": gs,
            "Reptile: 0 + 1 + … + (T − 1) is T(T − 1)/2, not T²/2.": steps * gs - rate * steps**2 / 2 * hs @ gs,
            "Reptile: α is missing.": steps * gs - pairs / rate * hs @ gs,
            "Reptile: sign. The steps go downhill, so H_s g_s is subtracted.": steps * gs + pairs * hs @ gs,
            "Reptile: each of T(T−1)/2 pairs of steps gives one H_s g_s; you counted T.": steps * gs - a * hs @ gs,
            "Reptile knows no queries: its steps, and all its gradients, are of the support loss.": (
                steps * gq - pairs * hq @ gq
            ),
            "Reptile: the Hessian is of the support loss, and so is the gradient behind it: H_s g_s.": (
                steps * gs - pairs * hq @ gs
            ),
            "Reptile: sum t over 0, …, T−1, which is T(T−1)/2. You began at 1: the first step is taken at θ itself.": (
                steps * gs - rate * steps * (steps + 1) / 2 * hs @ gs
            ),
            "Reptile: H_s g_s is there twice. Each pair of steps gives one, T(T−1)/2 in all; and v must be held fixed "
            "in H v: g_s with a graph gives 2 H_s g_s, so v.detach().": steps * gs - 2 * pairs * hs @ gs,
            "Reptile: this is (θ − φ_T), α times too small. Here it is the sum of the gradients.": rate
            * right["Reptile"],
        },
    }
    for name in TERMS:
        if _close(outputs[name], right[name]):
            continue
        if _close(outputs[name], whole[name]):
            return f"{name}: this is the gradient itself. Asked are its terms without α and with α, no higher ones."
        return _first(outputs[name], wrong[name]) or Unnamed(
            f"{name} is off by {relative_error(outputs[name], right[name]):.1e}: put φ_t = θ − α t g_s into it, and "
            "keep the terms without α and with α."
        )
    return None


def _their_order(outputs: Tensors, right: Tensors) -> str | None:
    """Whether the three are right, in another order than asked: no one of them is a mistake then."""
    for order in itertools.permutations(TERMS):
        if order != TERMS and all(_close(outputs[place], right[name]) for place, name in zip(TERMS, order)):
            return f"The order: you return ({', '.join(order)}). Asked is ({', '.join(TERMS)})."
    return None


def _terms_reference(
    on_support: Callable, on_queries: Callable, theta: Tensor, *, rate: float, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The terms of order α⁰ and α¹ of MAML's gradient, of first-order MAML's, and of Reptile's sum of gradients."""

    def gradient_and_product(loss: Callable, v: Tensor) -> tuple[Tensor, Tensor]:
        return torch.autograd.functional.hvp(loss, theta, v)[1], torch.autograd.functional.jacobian(loss, theta)

    gs = torch.autograd.functional.jacobian(on_support, theta)
    hq_gs, gq = gradient_and_product(on_queries, gs)
    hs_gq, _ = gradient_and_product(on_support, gq)
    hs_gs, _ = gradient_and_product(on_support, gs)
    first_order = gq - rate * steps * hq_gs
    return first_order - rate * steps * hs_gq, first_order, steps * gs - rate * steps * (steps - 1) / 2 * hs_gs


first_terms = Check(
    exercise="07.4",
    title="The first terms",
    inputs=_terms_inputs,
    probe=_terms_probe,
    judge=_terms_judge,
    reference=_terms_reference,
)


# ------------------------------------------------------------------ 07.5 backward with checkpoints

# with n = 1 a block of any other length is too long
LENGTHS = {"T = 12, n = 3": (12, 3), "T = 11, n = 4": (11, 4), "T = 5, n = 1": (5, 1)}
IMAGES = 60  # they make the graph of one step far larger than a copy of φ


def _pull_probe(answer: Callable, inputs: Tensors) -> Tensors:
    outputs = {}
    for name, (steps, every) in LENGTHS.items():
        calls = 0

        def step(phi: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            r = inputs["x"].to(phi.dtype) @ phi - inputs["y"].to(phi.dtype)
            return phi - inputs["rate"].to(phi.dtype) * (inputs["x"].to(phi.dtype).T @ (r + r**3)) / len(r)

        def call(step=step, steps=steps, every=every) -> Tensor:
            return answer(step, inputs["theta"].clone(), inputs["pull"].clone(), steps=steps, every=every)

        value = call()
        keep_precision(value, inputs["theta"], "the pulled vector")
        outputs |= {name: value, f"calls, {name}": torch.tensor(float(calls))}
        dtype = value.dtype if isinstance(value, Tensor) else torch.float64
        longest = inputs["theta"].to(dtype).requires_grad_()
        # the φ that enters each block may be kept in a graph too: one autograd.Function a block saves it there
        lengths = [_graph(partial(_repeat, step, longest, count)) for count in (every, every + 1)]
        enough = sum(lengths) / 2 + math.ceil(steps / every) * longest.nbytes
        outputs[f"graph, {name}"] = torch.tensor(_graph(call) / enough)
    return outputs


def _repeat(step: Callable, phi: Tensor, times: int) -> Tensor:
    for _ in range(times):
        phi = step(phi)
    return phi


def _graph(call: Callable) -> float:
    """The most bytes that graphs keep during the call; 0 where torch.func, which lets nobody look, makes them.

    The same call has succeeded without hooks before, so what is raised here is theirs, not the answer's.
    """
    try:
        with saved_bytes() as saved:
            call()
    except Exception:
        return 0.0
    return float(saved.peak)


def _pull_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    task, rate, v = _Quartic(inputs["x"], inputs["y"]), inputs["rate"], inputs["pull"]
    for name, (steps, every) in LENGTHS.items():
        phis, got = task.path(inputs["theta"], rate, steps + every), outputs[name]
        if not _close(got, task.pull(phis, v, rate, range(steps))):
            whole = every * (steps // every)
            blocks = [range(start, min(start + every, steps)) for start in range(0, steps, every)]
            forwards = [t for block in reversed(blocks) for t in block]
            mistakes = {
                "This is the pull as it came: nothing was differentiated.": [],
                "One step is missing at the end: there are T steps, φ_0 to φ_T.": range(steps - 1),
                "The first step is missing: θ itself is the first φ that is kept.": range(1, steps),
                "Only one block was differentiated: hand its result on to the block before it.": blocks[-1],
                "Every block begins with the pull as it came, so only the first block counts in the end: hand the "
                "result of a block on to the block before it.": blocks[0],
                "What you kept is one step late: keep φ BEFORE the first step of its block, not after it.": range(
                    1, steps + 1
                ),
                "The last block is shorter, and you did n steps there as everywhere: min(n, steps that are left).": (
                    range(whole + every)
                ),
                "One step too many: there are T steps, φ_0 to φ_T.": range(steps + 1),
                "The SHORT block is the last one, at the end of the path, not the first.": [
                    t for t in range(whole + every) if not steps - whole <= t < every
                ],
                "The blocks are in the wrong order: begin with the last.": forwards,
                "The last, shorter block is missing: T need not be a multiple of n.": range(whole),
                "All steps were done at the start: do each block again from the φ that entered it.": [0] * steps,
                "This is (dφ_T/dθ)·pull, as a derivative carried forward gives it. Asked is the transpose: begin with "
                "the last step.": list(reversed(range(steps))),
            }
            return _first(
                got, {words: task.pull(phis, v, rate, list(kept)) for words, kept in mistakes.items()}
            ) or Unnamed(
                f"With {name} this is not (dφ_T/dθ)ᵀ·pull; it is off by "
                f"{relative_error(got, task.pull(phis, v, rate, range(steps))):.1e}."
            )
    for name, (steps, every) in LENGTHS.items():
        if outputs[f"graph, {name}"] > 1:
            return (
                "The gradient is right, but the graph of more than one block was alive at one moment. Go forward under "
                "no_grad, keep only what enters each block, and free a block's graph before the next."
            )
        if outputs[f"calls, {name}"] > 2 * steps + every:
            return "The gradient is right, but you begin at θ for each block. Keep the φ that enters each block."
    return None


def _pull_reference(step: Callable, theta: Tensor, pull: Tensor, *, steps: int, every: int) -> Tensor:
    """(dφ_T/dθ)ᵀ pull: forward without a graph, then block after block from the end."""
    kept, phi = [], theta.detach()
    with torch.no_grad():
        for t in range(steps):
            if t % every == 0:
                kept.append(phi)
            phi = step(phi)
    for block in reversed(range(len(kept))):
        start = end = kept[block].requires_grad_()
        for _ in range(min(every, steps - block * every)):
            end = step(end)
        (pull,) = torch.autograd.grad(end, start, pull)
    return pull


checkpointed = Check(
    exercise="07.5",
    title="Backward with checkpoints",
    inputs=partial(_path_inputs, images=IMAGES),
    probe=_pull_probe,
    judge=_pull_judge,
    reference=_pull_reference,
)
