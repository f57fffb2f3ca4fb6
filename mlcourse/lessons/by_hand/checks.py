"""The checks of notebook 05: Hessian-vector product, meta-gradient of T steps, detector, gradient of the inner rate.

The oracles are closed forms that share no code with the package. The problem of 05.2 and 05.4 is smooth and curved
differently at every place, so that the factors I − αH_t differ and do not commute:

    L_inner(φ) = ½ (φ − c)ᵀ A (φ − c) + k Σ log cosh φ_i,    L_outer(φ) = ½ (φ − d)ᵀ B (φ − d)
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mlcourse.lessons.by_hand import implementations
from mlcourse.lessons.by_hand.implementations import LINE_UP, ORDERS, TRUTH
from mlcourse.meta_gradients import estimators
from mlcourse.meta_gradients.estimators import Task
from mlcourse.teaching.checks import Check, close, keep_precision, relative_error
from mlcourse.teaching.oracles import Unnamed, first_mistake, randn, rounding, told_apart, uniform

Tensors = dict[str, Tensor]
_first = partial(first_mistake, rtol=2e-4)
SIZE = 3


def _positive(generator: torch.Generator) -> Tensor:
    """A symmetric positive definite matrix [n, n] with eigenvalues from 0.5 to 3, far from diagonal."""
    turned, _ = torch.linalg.qr(randn(generator, SIZE, SIZE))
    return turned @ torch.diag(torch.tensor([0.5, 1.5, 3.0], dtype=torch.float64)) @ turned.T


def _exact(given: Tensor, right: Tensor) -> bool:
    """Equal to rounding: in double precision no difference is, whatever its step."""
    return close(given, right, rtol=1e-11 if given.dtype == torch.float64 else None)


def _one_vector(result) -> Tensor:
    """A tuple of one tensor, as autograd.grad returns it, is the slip that is easiest to mend."""
    if isinstance(result, tuple | list) and len(result) == 2:
        raise TypeError("it needs one tensor, and this is a pair: functional.hvp returns (loss, H v), take the second")
    if isinstance(result, tuple | list):
        raise TypeError("it needs one tensor; autograd.grad returns a tuple: take its first element")
    if not isinstance(result, Tensor):
        raise TypeError("it needs a tensor")
    return result


# ------------------------------------------------------------------ 05.1 the Hessian-vector product


def _product_inputs(generator: torch.Generator) -> Tensors:
    return {
        "A": _positive(generator),
        "k": uniform(generator, 0.5, 1.5),
        "phi": randn(generator, SIZE),
        "v": randn(generator, SIZE) + 1.0,
    }


WAVES = 8.0


def _bends(phi: Tensor) -> Tensor:
    """Σ φ³ + sin(8φ)/64: with the cube alone the gradient is a parabola, and its central difference exact."""
    return (phi**3 + (WAVES * phi).sin() / WAVES**2).sum()


def _bends_slope(phi: Tensor) -> Tensor:
    return 3 * phi**2 + (WAVES * phi).cos() / WAVES


def _bends_curvature(phi: Tensor) -> Tensor:
    return 6 * phi - (WAVES * phi).sin()


LONG = 40  # numbers in φ of the problem on which the work is counted
FEW = 8.0  # H v takes a few gradients' work, H takes as many as φ has numbers
BUILT = (
    "The number is right, but it takes as much work as all of H: as many gradients as φ has numbers. H v takes two: "
    "the gradient, and the gradient of the number slope @ v."
)


class _Multiplications(TorchDispatchMode):
    """Counts the numbers that are multiplied, entry by entry, one by one or many at once."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket is torch.ops.aten.mul:
            self.count += result.numel()
        return result


def _work(product: Callable, phi: Tensor, v: Tensor) -> int:
    """The multiplications of a product with the Hessian of a loss on a long φ."""

    def loss(phi: Tensor) -> Tensor:
        return _bends(phi) + (phi[1:] * phi[:-1]).sum()

    with _Multiplications() as multiplications:
        product(loss, phi, v)
    return multiplications.count


def _product_probe(answer: Callable, inputs: Tensors) -> Tensors:
    def loss(phi: Tensor) -> Tensor:
        a, k = inputs["A"].to(phi.dtype), inputs["k"].to(phi.dtype)
        return 0.5 * phi @ a @ phi + k * _bends(phi)

    result = _one_vector(answer(loss, inputs["phi"].clone(), inputs["v"].clone()))
    keep_precision(result, inputs["phi"], "the product")
    long = [inputs[name].repeat(LONG)[:LONG] for name in ("phi", "v")]
    work = _work(answer, *long) / _work(estimators.hessian_vector, *long)
    return {"Hv": result, "built": torch.tensor(work > FEW)}


def _product_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    a, k, phi, v = (inputs[name] for name in ("A", "k", "phi", "v"))
    hessian, slope = a + torch.diag(k * _bends_curvature(phi)), a @ phi + k * _bends_slope(phi)
    right, given = hessian @ v, outputs["Hv"]
    if _exact(given, right):
        return BUILT if outputs["built"] else None
    if said := rounding([(given, right)]):
        return said
    if close(given, right, rtol=1e-3):
        return _coarse(given, right)
    at_v = a @ v + k * _bends_slope(v)
    there = a @ (phi + v) + k * _bends_slope(phi + v)
    mistakes = {
        "Sign: this is −H v.": -right,
        "This is H v plus the gradient: `.grad` adds up from one backward() to the next. Empty it in between, or take "
        "torch.autograd.grad.": right + slope,
        "The Hessian is taken at φ + v: it is H at φ that multiplies v.": (
            (a + torch.diag(k * _bends_curvature(phi + v))) @ v
        ),
        "This is the sum of each row of H, times v, entry by entry: you summed the gradient first, and v came in too "
        "late. Multiply, then sum: differentiate the number slope @ v.": hessian.sum(1) * v,
        "This is each row's sum times the sum of v: `slope.sum() * v.sum()` is not slope · v. Multiply "
        "entry by entry, then sum: slope @ v.": hessian.sum(1) * v.sum(),
        "This is 2 H g: you differentiated slope @ slope. The second factor must be v.": 2 * hessian @ slope,
        "This is the gradient at v: call loss at φ; v only multiplies the gradient.": at_v,
        "This is the difference of the gradients at φ + v and at φ. H v is its limit for a short v; differentiate "
        "twice.": there - slope,
        "This is the gradient of the loss: differentiate once more, the number (gradient · v).": slope,
        "This is H times a vector of ones: v never came in. Multiply the gradient by v before you sum.": hessian.sum(1),
        "This is the diagonal of H times v: H has entries beside the diagonal too.": hessian.diag() * v,
        "This is gradient × (gradient · v). It has no second derivative in it.": slope * (slope @ v),
        "This is the gradient, entry by entry times v: sum, then differentiate once more.": slope * v,
        "This is H times the gradient: multiply the gradient by v, not by itself.": hessian @ slope,
        "The Hessian is taken at v, not at φ: differentiate with respect to φ.": (
            a + torch.diag(k * _bends_curvature(v))
        )
        @ v,
    }
    return (
        _first(given, mistakes)
        or _only_the_length(given, right)
        or _coarse(given, right)
        or Unnamed(f"This is not H v: it is off by {relative_error(given, right):.1e} of its size.")
    )


def _coarse(given: Tensor, right: Tensor, rtol: float = 5e-3) -> str | None:
    """What is said of a difference. One with a long step lies farther off: then only when nothing else explains it."""
    if not close(given, right, rtol=rtol):
        return None
    return (
        f"Right to about {relative_error(given, right):.0e} only, as a difference is. "
        "Differentiate (Hessian-vector products): then it is exact."
    )


def _only_the_length(given: Tensor, right: Tensor) -> str | None:
    """The diagnosis of a vector c · Hv: a mean in place of a sum, an h that was not divided by."""
    times = float(given.double() @ right / right.norm() ** 2)
    if times <= 0 or not close(given, times * right, rtol=2e-4):
        return None
    return (
        f"This is H v with a wrong length: it points the right way, but is {times:.3g} times as long. "
        "Is there a mean where slope · v needs a sum, or a number too many?"
    )


hessian_vector = Check(
    exercise="05.1",
    title="The Hessian-vector product",
    inputs=_product_inputs,
    probe=_product_probe,
    judge=_product_judge,
    reference=estimators.hessian_vector,
)


# ------------------------------------------------------------------ a task with a closed form


def _task_inputs(steps: int, sign: int = 0, *, slope: bool = False) -> Callable[[torch.Generator], Tensors]:
    def drawn(generator: torch.Generator) -> Tensors:
        return {
            "A": _positive(generator),
            "B": _positive(generator),
            "c": 2 * randn(generator, SIZE),
            "d": 2 * randn(generator, SIZE) + 1.0,
            "k": uniform(generator, 2.0, 3.0),
            "rate": uniform(generator, 0.1, 0.15),
            "steps": torch.tensor(steps),
            "theta": randn(generator, SIZE),
        }

    def inputs(generator: torch.Generator) -> Tensors:
        while True:  # by luck the factors may nearly commute: such a problem is drawn again
            problem = drawn(generator)
            task = Closed(problem)
            if slope and not _weighty(task):
                continue
            if (steps == 1 or _told_apart(task)) and (not sign or sign * task.rate_slope() > 0):
                return problem

    return inputs


def _weighty(task: "Closed") -> bool:
    """Whether the slope of α is no small rest of large terms: then rounding alone would make a right answer miss."""
    terms = [task.pulled(task.before[t + 1 :], task.g) @ task.slope(task.before[t]) for t in range(task.steps)]
    largest = max(task.g.norm() * task.slope(task.before[0]).norm(), *(term.abs() for term in terms))
    return bool(task.rate_slope().abs() > 0.02 * largest)


def _told_apart(task: "Closed") -> bool:
    """Whether no mistake gives the truth to a few thousandths."""
    right = task.pulled(task.before, task.g)
    return min(relative_error(wrong, right) for wrong in gradient_mistakes(task).values()) > 3e-3


def make_task(inputs: Tensors) -> Task:
    def inner_loss(phi: Tensor) -> Tensor:
        a, c, k = (inputs[name].to(phi.dtype) for name in ("A", "c", "k"))
        return 0.5 * (phi - c) @ a @ (phi - c) + k * torch.log(torch.cosh(phi)).sum()

    def outer_loss(phi: Tensor) -> Tensor:
        b, d = (inputs[name].to(phi.dtype) for name in ("B", "d"))
        return 0.5 * (phi - d) @ b @ (phi - d)

    return Task(inner_loss, outer_loss, steps=int(inputs["steps"]), rate=float(inputs["rate"]))


class Closed:
    """The same task by formulas: the path φ_0 … φ_T, the inner slopes, the factors I − αH_t, the outer slope."""

    def __init__(self, inputs: Tensors):
        self.a, self.b, self.c, self.d, self.k = (inputs[name] for name in "ABcdk")
        self.rate, self.steps = inputs["rate"], int(inputs["steps"])
        self.one = torch.eye(SIZE, dtype=torch.float64)
        self.phis = [inputs["theta"]]
        for _ in range(self.steps):
            self.phis.append(self.phis[-1] - self.rate * self.slope(self.phis[-1]))
        self.g = self.outer_slope(self.phis[-1])

    def slope(self, phi: Tensor) -> Tensor:
        return self.a @ (phi - self.c) + self.k * torch.tanh(phi)

    def hessian(self, phi: Tensor) -> Tensor:
        return self.a + self.k * torch.diag(1 - torch.tanh(phi) ** 2)

    def outer_slope(self, phi: Tensor) -> Tensor:
        return self.b @ (phi - self.d)

    def pulled(self, phis: list[Tensor], vector: Tensor, factor: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The vector, multiplied by the factor of each φ, the last of `phis` first."""
        factor = factor or (lambda phi: self.one - self.rate * self.hessian(phi))
        for phi in reversed(phis):
            vector = factor(phi) @ vector
        return vector

    def swept(self, keep: Callable, into: Callable) -> Tensor:
        """The backward sweep with slips: p ← keep(φ_t, p) − α H_t · into(φ_t, p), from the last step to the first."""
        p = self.g
        for phi in reversed(self.before):
            p = keep(phi, p) - self.rate * self.hessian(phi) @ into(phi, p)
        return p

    @property
    def before(self) -> list[Tensor]:
        """φ_0 … φ_{T−1}: the places where a step was taken."""
        return self.phis[:-1]

    def rate_slope(self) -> Tensor:
        """dL_outer/dα: dφ_t/dα, carried forward."""
        moved = torch.zeros(SIZE, dtype=torch.float64)
        for phi in self.before:
            moved = moved - self.rate * self.hessian(phi) @ moved - self.slope(phi)
        return self.g @ moved


# ------------------------------------------------------------------ 05.2 the meta-gradient of T steps


def _gradient_probe(answer: Callable, inputs: Tensors) -> Tensors:
    result = _one_vector(answer(inputs["theta"].clone(), make_task(inputs)))
    keep_precision(result, inputs["theta"], "the meta-gradient")
    return {"meta-gradient": result}


def _gradient_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    task, given = Closed(inputs), outputs["meta-gradient"]
    right = task.pulled(task.before, task.g)
    if _exact(given, right):
        return None
    if said := rounding([(given, right)]):
        return said
    if close(given, right, rtol=1e-3):
        return _coarse(given, right)
    return (
        _first(given, gradient_mistakes(task))
        or _coarse(given, right)
        or Unnamed(f"This is not the meta-gradient: it is off by {relative_error(given, right):.1e} of its size.")
    )


def _one_step_more(task: Closed) -> Tensor:
    beyond = task.phis[-1] - task.rate * task.slope(task.phis[-1])
    return task.pulled(task.phis, task.outer_slope(beyond))


def gradient_mistakes(task: Closed) -> Tensors:
    """Vectors that well-known mistakes give, by diagnosis."""
    before, g, one, rate = task.before, task.g, task.one, task.rate
    theta, last = task.phis[0], task.phis[-1]
    return {
        "This is the first-order gradient: the term through the inner gradient, −αHg, is missing.": g,
        "Sign: you multiplied by I + αH. The step goes downhill, φ = θ − α·gradient, so it is I − αH.": task.pulled(
            before, g, lambda phi: one + rate * task.hessian(phi)
        ),
        "α is missing: you multiplied by I − H.": task.pulled(before, g, lambda phi: one - task.hessian(phi)),
        "The identity is missing: this is a product of −αH alone. φ = θ − α·gradient depends on θ in two ways.": (
            task.pulled(before, g, lambda phi: -rate * task.hessian(phi))
        ),
        "The identity and the sign are missing: this is a product of αH alone.": task.pulled(
            before, g, lambda phi: rate * task.hessian(phi)
        ),
        "Sign: this is minus the gradient. Return the gradient itself; whoever descends subtracts it.": -task.pulled(
            before, g
        ),
        "In the product H_t · … stands the outer gradient at φ_t. It must be p: the outer gradient is taken once, at "
        "φ_T, and then only pulled back.": task.swept(lambda phi, p: p, lambda phi, p: task.outer_slope(phi)),
        "H_t is multiplied by the INNER gradient. It must be multiplied by p, the vector that comes back from the "
        "outer loss.": task.swept(lambda phi, p: p, lambda phi, p: task.slope(phi)),
        "Each round begins again with g: it must begin with the p of the round before, p ← p − αH_t p.": task.swept(
            lambda phi, p: g, lambda phi, p: p
        ),
        "The order of the product is reversed: begin with the LAST step's factor, and go back to the first.": (
            task.pulled(before[::-1], g)
        ),
        "All factors are taken at θ: step t has the Hessian at its own φ_t.": task.pulled([theta] * task.steps, g),
        "All factors are taken at one place, φ_{T−1}, where the last step began: step t has the Hessian at its own "
        "φ_t. Does your loop use its own variable?": task.pulled(before[-1:] * task.steps, g),
        "The Hessian is of the wrong loss: the inner step descends the support's loss, so H is of inner_loss.": (
            task.pulled(before, g, lambda phi: one - rate * task.b)
        ),
        "The outer gradient is taken at θ: take ∇L_outer where the steps have landed, at φ_T.": task.pulled(
            before, task.outer_slope(theta)
        ),
        "The outer gradient is taken at φ_{T−1}, one step too early: take it at φ_T, the last of the path.": (
            task.pulled(before, task.outer_slope(before[-1]))
        ),
        "You pulled back the gradient of the INNER loss at φ_T: the queries' loss, outer_loss, is what counts.": (
            task.pulled(before, task.slope(last))
        ),
        "The factors are one step late: a step from φ_t uses the gradient at φ_t, before the step. "
        "Leave φ_T out and θ in.": task.pulled(task.phis[1:], g),
        "All factors are taken at the end, φ_T. Step t has the Hessian at its own φ_t, where it began. (If you kept "
        "the places in a list and moved φ in place, `phi -= …`, all of them are one tensor, the last.)": task.pulled(
            [last] * task.steps, g
        ),
        "There is one factor too many: T steps give T factors, at φ_0 to φ_{T−1}.": task.pulled(task.phis, g),
        "α is squared: the factor of a step is I − αH.": task.pulled(
            before, g, lambda phi: one - rate**2 * task.hessian(phi)
        ),
        "One inner step is missing: T steps, from φ_0 to φ_T.": task.pulled(before[:-1], task.outer_slope(before[-1])),
        "The outer gradient is added once more at the end: p holds it already.": task.pulled(before, g) + g,
        "One inner step too many was taken: T steps, from φ_0 to φ_T.": _one_step_more(task),
        "This is divided by the number of steps. Nothing is averaged: the factors multiply.": task.pulled(before, g)
        / task.steps,
        "Only the last step's factor is there: go on back to θ, one factor for each step.": task.pulled(before[-1:], g),
        "Only the first step's factor is there: every step has one.": task.pulled(before[:1], g),
        "The first step's factor is missing: the loop must go back to φ_0 = θ.": task.pulled(before[1:], g),
        "The last step's factor is missing: the loop must begin at φ_{T−1}.": task.pulled(before[:-1], g),
        "The inner gradient is subtracted from p. It must be H_t p, a Hessian-vector product.": (
            g - rate * sum(task.slope(phi) for phi in before)
        ),
        "Only the diagonal of each Hessian is there: H_t p has all of it.": task.pulled(
            before, g, lambda phi: one - rate * torch.diag(task.hessian(phi).diagonal())
        ),
        "The Hessian is of both losses together: the inner step descends inner_loss alone.": task.pulled(
            before, g, lambda phi: one - rate * (task.hessian(phi) + task.b)
        ),
        "α is divided by the number of steps: every step has the whole of it.": task.pulled(
            before, g, lambda phi: one - rate / task.steps * task.hessian(phi)
        ),
        "This is only what the first-order gradient drops, g minus the meta-gradient.": g - task.pulled(before, g),
        "Each step subtracts αH_t g with the same g: multiply H_t by the new p, which holds the steps behind it.": g
        - rate * sum(task.hessian(phi) @ g for phi in before),
    }


by_hand = Check(
    exercise="05.2",
    title="The meta-gradient of T steps",
    # three first: with one step "too late" and "too many" are the same, and much is right that is not with three
    inputs={"three steps": _task_inputs(3), "one step": _task_inputs(1)},
    probe=_gradient_probe,
    judge=_gradient_judge,
    reference=estimators.by_hand,
)


# ------------------------------------------------------------------ 05.3 the detector


def _turned(theta: Tensor, task: Task) -> Tensor:
    """The exact gradient with other signs behind its first entry: as long as it is, and right in one place."""
    signs = torch.full_like(theta, -1.0)
    if theta.numel() > 1:
        signs.view(-1)[0] = 1.0
    return signs * estimators.by_hand(theta, task)


def _swept(theta: Tensor, task: Task, places: Callable[[list[Tensor]], list[Tensor]]) -> Tensor:
    """The backward sweep with the factors of other places than φ_{T−1}, …, φ_0."""
    *before, last = estimators.path(theta, task)
    p = estimators.gradient(task.outer_loss, last)
    for phi in places(before):
        p = p - task.rate * estimators.hessian_vector(task.inner_loss, phi, p)
    return p


def _first_step_first(theta: Tensor, task: Task) -> Tensor:
    """Factors in the wrong order: right where they commute."""
    return _swept(theta, task, lambda before: before)


def _all_at_theta(theta: Tensor, task: Task) -> Tensor:
    """Every factor at θ: right where the curvature is the same everywhere."""
    return _swept(theta, task, lambda before: [before[0] for _ in before])


def _a_little_long(theta: Tensor, task: Task) -> Tensor:
    """The exact gradient, 1 % too long."""
    return 1.01 * estimators.by_hand(theta, task)


# Behind those of the exercise, wrong ones that it does not show. Neither a length nor one entry is enough to find them,
# nor is a task on which a wrong formula is right.
HIDDEN = (_turned, _first_step_first, _all_at_theta, _a_little_long)
ASKED = (*LINE_UP, *HIDDEN)
ANSWERS = [ORDERS.index(TRUTH[one.__name__]) for one in LINE_UP] + [ORDERS.index("wrong")] * len(HIDDEN)


def _detector_inputs(generator: torch.Generator) -> Tensors:
    return {"order": torch.randperm(len(ASKED), generator=generator)}


def _detector_probe(answer: Callable, inputs: Tensors) -> Tensors:
    """Labels by implementation, how often each black box was asked, how far apart the two gradients were there, how far
    what it gave lay from the one (shown) and from the other (beside), and how far φ moved."""
    count = len(ASKED)
    labels, asked = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
    apart, shown, beside, moved = torch.zeros(4, count, dtype=torch.float64)
    for index in inputs["order"].tolist():

        def meta_gradient(theta: Tensor, task: Task, index: int = index) -> Tensor:
            asked[index] += 1
            exact, first = estimators.by_hand(theta, task), estimators.first_order(theta, task)
            given = ASKED[index](theta, task)
            away = estimators.path(theta, task)[-1] - theta.detach()
            found = (_apart(first, exact), _apart(given, exact), _apart(given, first), away.norm().double())
            for most, value in zip((apart, shown, beside, moved), found):
                most[index] = torch.maximum(most[index], value)
            return given

        label = answer(meta_gradient)
        if label not in ORDERS:
            raise TypeError(f"it needs one of the words {', '.join(map(repr, ORDERS))}, not {label!r}")
        labels[index] = ORDERS.index(label)
    return {"labels": labels, "asked": asked, "apart": apart, "shown": shown, "beside": beside, "moved": moved}


def _apart(given: Tensor, exact: Tensor) -> Tensor:
    """‖given − exact‖ / ‖exact‖ on the task that the detector uses; 0 where that is no number."""
    return torch.nan_to_num((given - exact).norm() / exact.norm(), 0.0, 0.0, 0.0).double()


def _detector_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    labels, truth = outputs["labels"], torch.tensor(ANSWERS)
    if torch.equal(labels, truth):
        return None
    right = int((labels == truth).sum())
    if not outputs["asked"].any():
        return "Your detector never calls meta_gradient: it cannot know what is inside."
    if float(outputs["apart"].max()) < 1e-4:
        return (
            "On your task the first-order and the second-order gradient are the same, so nobody can tell them apart: "
            "its inner loss has no curvature (or α or T is 0). Use a task whose inner loss bends."
        )
    if float(outputs["moved"].max()) < 1e-6:
        return (
            "On your task nothing moves: the slope of its inner loss is 0 at your θ, so every φ_t is θ, and programs "
            "that mix up the steps are right. Take a θ where it is not 0."
        )
    if len(labels.unique()) == 1:
        return f"Your detector says '{ORDERS[int(labels[0])]}' to all of them. There are some of each kind."
    for hidden, words in UNSEEN_FAULTS.items():
        place = ASKED.index(hidden)
        others = torch.arange(len(ASKED)).lt(len(LINE_UP) + 1)
        if torch.equal(labels[others], truth[others]) and labels[place] == ORDERS.index("second-order"):
            return words[0] if float(outputs["shown"][place]) < 1e-4 else words[1]
    if said := _too_much_allowed(outputs, truth):
        return said
    return f"{_detector_mistake(labels, truth)} ({right} of {len(truth)} right.)"


ALL_ENTRIES = "A wrong gradient is called 'second-order': compare all entries, and several directions."
# what is said when only this one is not found: because nothing shows on the task, or though it does
UNSEEN_FAULTS = {
    _a_little_long: (
        ALL_ENTRIES,
        "A gradient that is 1 % too long is called 'second-order': allow for a relative error of, say, 1e-5.",
    ),
    _first_step_first: (
        "On your task the factors of the steps may stand in any order, so a program that takes them in the wrong one "
        "is called 'second-order'. Take two or three steps, and an inner loss that bends and couples two weights, such "
        "as torch.cosh(phi).sum() + phi[0] * phi[1].",
        ALL_ENTRIES,
    ),
    _all_at_theta: (
        "On your task the curvature is the same everywhere, so a program that takes all Hessians at θ is called "
        "'second-order'. Take two or three steps, and an inner loss that is no quadratic, such as "
        "torch.cosh(phi).sum() + phi[0] * phi[1].",
        ALL_ENTRIES,
    ),
}


def _too_much_allowed(outputs: Tensors, truth: Tensor) -> str | None:
    """What is said when all wrong gradients that pass for another kind lie near that one, on the detector's task."""
    labels = outputs["labels"]
    mistaken = (labels != truth).nonzero().flatten().tolist()
    if any(truth[place] != ORDERS.index("wrong") for place in mistaken):
        return None
    off = {place: float(outputs[("shown", "beside")[int(labels[place])]][place]) for place in mistaken}
    if not all(1e-4 < one < 0.3 for one in off.values()):
        return None
    worst = max(off, key=off.get)
    return (
        f"You allow for too much: a gradient that is {100 * off[worst]:.0f} % off passes for "
        f"'{ORDERS[int(labels[worst])]}'. Allow for a relative error of, say, 1e-5."
    )


def _detector_mistake(labels: Tensor, truth: Tensor) -> str:
    """What a pattern of labels says about the detector. 0 second-order, 1 first-order, 2 wrong."""
    called = {kind: set(labels[truth == kind].tolist()) for kind in range(3)}
    if called[0] == {1} and called[1] == {0}:
        return (
            "Second-order and first-order are swapped: move θ and adapt anew for the exact slope; "
            "the slope at φ_T, with φ_T held, is the first-order one."
        )
    if 2 in called[0]:
        return (
            "An exact gradient is called 'wrong': your differences are less precise than you demand, or taken at "
            "another place. Use estimators.by_differences at the θ that meta_gradient gets, float64, a smooth task,"
            " and allow a relative error of, say, 1e-5."
        )
    if called[0] == {1}:
        return "An exact gradient is called 'first-order': you compare with the slope at φ_T before that of θ."
    if 0 in called[1]:
        return (
            "A first-order gradient is called 'second-order': it points to the same side, but it has other numbers. "
            "Compare all entries (or several directions), not only the sign, and do not allow for too much."
        )
    if 1 in called[2]:
        return "A wrong gradient is called 'first-order': not exact is not yet first-order. Compare with ∇L_outer(φ_T)."
    if 0 in called[2]:
        return ALL_ENTRIES
    return "A first-order gradient is called 'wrong': it is ∇L_outer at φ_T, not at θ and not of the support."


detector = Check(
    exercise="05.3",
    title="The detector",
    inputs=_detector_inputs,
    probe=_detector_probe,
    judge=_detector_judge,
    reference=implementations.order,
    repeats=2,
)


# ------------------------------------------------------------------ 05.4 the gradient of the inner rate


def _rate_probe(answer: Callable, inputs: Tensors) -> Tensors:
    result = answer(inputs["theta"].clone(), make_task(inputs))
    if isinstance(result, float):  # a number of Python has no dtype: it is in double precision
        result = torch.tensor(result, dtype=torch.float64)
    if not isinstance(result, Tensor) or result.dim():
        raise TypeError("it needs one number, of shape []: α is one number, so its gradient is one too")
    keep_precision(result, inputs["theta"], "the gradient of α")
    return {"slope": result}


def _rate_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    task, given = Closed(inputs), outputs["slope"]
    right = task.rate_slope()
    if _exact(given, right):
        return None
    if said := rounding([(given, right)]):
        return said
    if close(given, right, rtol=1e-3):
        return _coarse(given, right)
    ps = [task.pulled(task.before[t + 1 :], task.g) for t in range(task.steps)]  # dL_outer/dφ_{t+1}
    late = [task.pulled(task.before[t:], task.g) for t in range(task.steps)]
    slopes = [task.slope(phi) for phi in task.before]

    def total(vectors: list[Tensor], slopes: list[Tensor] = slopes) -> Tensor:
        return -sum(p @ slope for p, slope in zip(vectors, slopes))

    def swept(factor: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return [task.pulled(task.before[t + 1 :], task.g, factor) for t in range(task.steps)]

    def forward(task: Closed) -> Tensor:
        p, found = task.g, torch.zeros((), dtype=torch.float64)
        for phi, slope in zip(task.before, slopes):
            found, p = found - p @ slope, p - task.rate * task.hessian(phi) @ p
        return found

    mistakes = {
        # on a positive slope a wrong sign is found, on a negative one, which comes later, a lost one
        "This is the size of the slope: keep its sign, it says whether more α helps.": right.abs(),
        "Sign: the step is −α·gradient, so more α means less of the gradient's direction.": -right,
        "All steps count with the same g: pull p back through each step (p ← p − αHp) before you go on.": total(
            [task.g] * task.steps
        ),
        "p is one step ahead: take the product with ∇L_inner BEFORE you pull p back through this step.": total(late),
        "Only the last step counts here: α stands in every step.": -(task.g @ slopes[-1]),
        "Only the first step counts here: α stands in every step.": -(ps[0] @ slopes[0]),
        "The inner gradients are all taken at θ: take each one at its own φ_t.": total(ps, [slopes[0]] * task.steps),
        "The inner gradients are taken after the step, at φ_{t+1}: step t uses the gradient at φ_t.": total(
            ps, [task.slope(phi) for phi in task.phis[1:]]
        ),
        "The inner gradients are all taken at φ_{T−1}: take each one at its own φ_t, where the step began.": total(
            ps, [slopes[-1]] * task.steps
        ),
        "Only the first step counts here, with g itself: α stands in every step.": -(task.g @ slopes[0]),
        "The sweep runs forward: begin with the LAST step, and go back to the first.": forward(task),
        "The sweep has the wrong sign: p ← p − αH_t p.": total(
            swept(lambda phi: task.one + task.rate * task.hessian(phi))
        ),
        "α is missing in the sweep: p ← p − αH_t p.": total(swept(lambda phi: task.one - task.hessian(phi))),
        "All steps count with the meta-gradient, the last p. Step t has its own p_{t+1}.": total(
            [late[0]] * task.steps
        ),
        "The pairs are crossed: p_{t+1}, which comes back from step t, belongs to the inner gradient of the same step. "
        "Go backward with both.": total(ps[::-1]),
        "You multiplied by the gradient of the OUTER loss at φ_t. What α stands before is ∇L_inner(φ_t).": total(
            ps, [task.outer_slope(phi) for phi in task.before]
        ),
        "The outer gradient is taken at θ, before the steps: p begins as ∇L_outer at φ_T.": total(
            [task.pulled(task.before[t + 1 :], task.outer_slope(task.before[0])) for t in range(task.steps)]
        ),
        "You took the outer gradient anew at each φ_{t+1}. It is taken once, at φ_T, and then pulled back, "
        "p ← p − αH_t p: this holds the steps in between.": total([task.outer_slope(phi) for phi in task.phis[1:]]),
        "There is a factor T too many: each step adds its term once.": task.steps * right,
        "This is a mean over the steps: α stands in every step, so the terms add up.": right / task.steps,
        "α was multiplied in: φ = θ − α·gradient has the derivative −gradient with respect to α.": task.rate * right,
        "This is divided by α: the derivative of −α·gradient with respect to α is −gradient.": right / task.rate,
        "p begins with the INNER gradient at φ_T. It begins with the outer one: dL_outer/dα is asked.": total(
            [task.pulled(task.before[t + 1 :], task.slope(task.phis[-1])) for t in range(task.steps)]
        ),
    }
    shown, yours = told_apart(right, given)
    return (
        _first(given, mistakes)
        or _coarse(given, right, 2e-2)
        or Unnamed(f"For this problem it is {shown}, yours is {yours}.")
    )


rate_gradient = Check(
    exercise="05.4",
    title="The gradient of the inner rate",
    # three first: with one step "too late" and "too many" are the same, and much is right that is not with three
    inputs={
        "three steps, less α helps": _task_inputs(3, 1, slope=True),
        "three steps, more α helps": _task_inputs(3, -1, slope=True),
        "one step": _task_inputs(1, slope=True),
    },
    probe=_rate_probe,
    judge=_rate_judge,
    reference=estimators.rate_gradient,
)
