"""The checks of notebook 01: inner step, outer loss, both terms of the derivative, common start, inner loop.

`inputs` draws a fresh problem, `probe` calls the answer and measures which gradients flow back, `judge` compares with
oracles that share no code with the package (closed forms on linear least squares) and names well-known mistakes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mlcourse import inner
from mlcourse.episodes import Episode
from mlcourse.teaching.checks import Check, close, keep_precision, relative_error
from mlcourse.teaching.least_squares import (
    OUTER_STEPS,
    LeastSquares,
    close_enough,
    first_slip,
    flat,
    forward,
    outer_inputs,
    outer_mistakes,
    slopes_of,
    tilted,
)
from mlcourse.teaching.oracles import Unnamed, randn, told_apart, uniform

Tensors = dict[str, Tensor]
# ------------------------------------------------------------------ 01.1 one inner step


NAMES = ("layer.weight", "layer.bias")  # as a network in a network has them: no answer may know them beforehand


def _step_inputs(turned: bool, *shapes: tuple[int, ...]) -> Callable[[torch.Generator], Tensors]:
    """turned: the gradients stand in another order than the parameters; who pairs them by place gets the wrong ones."""

    def inputs(generator: torch.Generator) -> Tensors:
        params = {name: randn(generator, *shape) for name, shape in zip(NAMES, shapes, strict=True)}
        grads = {f"{name}_grad": randn(generator, *shape) for name, shape in zip(NAMES, shapes, strict=True)}
        # no number that one would write in its place
        return {"rate": uniform(generator, 0.12, 0.4), **params, **grads, "turned": torch.tensor(turned)}

    return inputs


def _step_probe(answer: Callable, inputs: Tensors) -> Tensors:
    names = NAMES
    start = {name: inputs[name].clone().requires_grad_() for name in names}
    slopes = {name: inputs[f"{name}_grad"].clone().requires_grad_() for name in names}
    # copies that are no leaves: an answer that writes into them is not stopped by autograd, and gets our diagnosis
    params = {name: start[name] * 1 for name in names}
    grads = {name: slopes[name] * 1 for name in (names[::-1] if inputs["turned"] else names)}
    new = answer(params, grads, float(inputs["rate"]))
    if not isinstance(new, dict) or not all(isinstance(new.get(name), Tensor) for name in names):
        raise TypeError("it needs a new dictionary with a tensor for each name in params")
    outputs = {}
    for name in names:
        keep_precision(new[name], start[name], f"new[{name!r}]")
        path, grad_path = slopes_of(new[name], [start[name], slopes[name]])
        outputs |= {name: new[name], f"path to {name}": path, f"path to the gradient of {name}": grad_path}
    return outputs


def _step_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    rate = inputs["rate"]
    wrong = [n for n in NAMES if not close_enough(outputs[n], inputs[n] - rate * inputs[f"{n}_grad"])]
    if wrong:
        paired = zip(NAMES, NAMES[::-1])
        if inputs["turned"] and all(
            close_enough(outputs[n], inputs[n] - rate * inputs[f"{m}_grad"]) for n, m in paired
        ):
            return (
                "Parameters and gradients are paired by their place. Their dictionaries may have another order: the "
                "gradient of params[name] is grads[name]."
            )
        name = wrong[0]
        told = _step_mistake(outputs[name], inputs[name], inputs[f"{name}_grad"], rate)
        return told if len(wrong) == len(NAMES) else type(told)(f"In {name!r} alone: {told}")
    for name in NAMES:
        ones = torch.ones_like(inputs[name])
        cut = not close_enough(outputs[f"path to {name}"], ones)
        if cut or not close_enough(outputs[f"path to the gradient of {name}"], -rate * ones):
            return (
                "The numbers are right, but the step is cut from the graph (detach, .data or no_grad): "
                "no outer loss can be differentiated through it."
            )
    return None


def _step_mistake(new: Tensor, start: Tensor, slope: Tensor, rate: Tensor) -> str:
    mistakes = {
        "Sign: this ascends. The loss falls against the gradient: φ − α·g.": start + rate * slope,
        "The rate is missing: this is φ − g. Multiply the gradient by α.": start - slope,
        "This is the step alone, −α·g. Add it to the parameters.": -rate * slope,
        "These are the parameters as they came: nothing moved.": start,
        "You multiplied the parameters into the step. It is α·g, whatever φ is.": start - rate * slope * start,
        "The rate multiplies φ too: α·(φ − g). Only the gradient is multiplied: φ − α·g.": rate * (start - slope),
        "The rate is taken from φ, and the gradient multiplies: (φ − α)·g. It is φ − α·g.": (start - rate) * slope,
        "This is the sign of the gradient only: its size counts too.": start - rate * slope.sign(),
        "This shrinks φ by itself, φ − α·φ: the gradient is not used.": start - rate * start,
        "This is the gradient itself: no step was taken. Return φ − α·g.": slope,
        "The rate is added to the gradient: it multiplies it, α·g.": start - (rate + slope),
        "The gradient is scaled to length 1: its length counts too.": start - rate * slope / slope.norm(),
        "All entries move by the mean of the gradient: each entry has its own.": start - rate * slope.mean(),
    }
    for number in (0.001, 0.01, 0.05, 0.1, 0.5):
        words = f"You step by {number} times the gradient, whatever the rate: write `rate` in place of the number."
        mistakes[words] = start - number * slope
    return first_slip(new, mistakes) or Unnamed(
        f"This is not φ − α·g: it is off by {relative_error(new, start - rate * slope):.1e}."
    )


sgd_step = Check(
    exercise="01.1",
    title="One inner step",
    inputs={
        "a weight and a bias": _step_inputs(False, (3, 2), (3,)),
        # of one shape, or the wrong gradient would raise an error
        "the gradients in another order": _step_inputs(True, (3,), (3,)),
    },
    probe=_step_probe,
    judge=_step_judge,
    reference=inner.sgd_step,
)


# ------------------------------------------------------------------ 01.2 the outer loss


def _outer_probe(answer: Callable, inputs: Tensors) -> Tensors:
    none = torch.empty(len(inputs["support_x"]), 0, dtype=torch.int64)
    names = ("support_x", "support_y", "query_x", "query_y")
    episode = Episode(*(inputs[name].clone() for name in names), none, none, none)

    def call(steps: int, **options: bool) -> tuple[Tensor | None, Tensor | None]:
        theta = {name: inputs[name].clone().requires_grad_() for name in ("w", "b")}
        value = answer(forward, theta, episode, steps=steps, rate=float(inputs["rate"]), loss=tilted, **options)
        if isinstance(value, list | tuple):
            raise TypeError("it needs one tensor, and this is a list of them: torch.stack(losses).mean()")
        if not isinstance(value, Tensor) or (value.dtype != theta["w"].dtype and not value.requires_grad):
            raise TypeError("a plain number has no graph; return the tensor itself, without .item() or float()")
        if value.dim():
            raise TypeError(
                f"it needs one number, and this has shape {tuple(value.shape)}: take the mean of the losses"
            )
        keep_precision(value, theta["w"], "the outer loss")
        return value, flat(dict(zip(theta, slopes_of(value, list(theta.values())), strict=True)))

    value, gradient = call(OUTER_STEPS)
    _, first_order = call(OUTER_STEPS, first_order=True)
    value_at_theta, _ = call(0)
    return {"loss": value, "gradient": gradient, "first-order gradient": first_order, "loss, T = 0": value_at_theta}


def _outer_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    theta, rate = flat(inputs), inputs["rate"]
    support = [LeastSquares(x, y) for x, y in zip(inputs["support_x"], inputs["support_y"], strict=True)]
    query = [LeastSquares(x, y) for x, y in zip(inputs["query_x"], inputs["query_y"], strict=True)]
    phis = [task.adapted(theta, rate, OUTER_STEPS) for task in support]
    expected = torch.stack([q.loss(phi) for q, phi in zip(query, phis, strict=True)]).mean()
    if not close(outputs["loss"], expected):
        mistakes = outer_mistakes(theta, rate, support, query, phis) | _mixed_up(theta, rate, inputs, phis)
        shown, yours = told_apart(expected, outputs["loss"])
        return first_slip(outputs["loss"], mistakes) or Unnamed(
            f"The outer loss of this problem is {shown}, yours is {yours}."
        )
    slopes = [q.gradient(phi) for q, phi in zip(query, phis, strict=True)]
    responses = [task.response(rate, OUTER_STEPS) for task in support]
    first_order = torch.stack(slopes).mean(0)
    exact = torch.stack([j @ v for j, v in zip(responses, slopes, strict=True)]).mean(0)
    if mistake := _gradient_mistake(outputs["gradient"], exact, first_order):
        return mistake
    if not close_enough(outputs["first-order gradient"], first_order):
        if close_enough(outputs["first-order gradient"], exact):
            return "first_order=True changes nothing here: pass it on to adapt."
        return "With first_order=True the gradient is wrong: pass the option on to adapt, and change nothing else."
    if not close_enough(outputs["loss, T = 0"], torch.stack([q.loss(theta) for q in query]).mean()):
        return "With steps=0 the outer loss is the query loss at θ, yours is not: pass steps on to adapt."
    return None


def _mixed_up(theta: Tensor, rate: Tensor, inputs: Tensors, phis: list[Tensor]) -> Tensors:
    """Values of mistakes that mix tasks, losses or sets."""
    parts = [inputs[name] for name in ("support_x", "support_y", "query_x", "query_y")]
    pooled, asked = (
        LeastSquares(*(one.flatten(0, 1) for one in parts[:2])),
        LeastSquares(*(one.flatten(0, 1) for one in parts[2:])),
    )
    queries = [LeastSquares(x, y) for x, y in zip(*parts[2:], strict=True)]
    supports = [LeastSquares(x, y) for x, y in zip(*parts[:2], strict=True)]
    after = torch.stack([q.loss(phi) + s.loss(phi) for q, s, phi in zip(queries, supports, phis, strict=True)]).mean()
    half = torch.stack([((q.x @ phi - q.y) ** 2).mean() / 2 for q, phi in zip(queries, phis, strict=True)]).mean()
    middle = torch.stack(phis).mean(0)
    return {
        "All tasks are thrown together into one support set. Each task adapts by itself, from θ.": (
            asked.loss(pooled.adapted(theta, rate, OUTER_STEPS))
        ),
        "The support loss is added to the query loss. The outer loss is taken on the queries alone.": after,
        "The query loss is half the squared error, whatever loss was given: call `loss` there too.": half,
        "You divide by the number of queries in a task. Divide by the number of tasks.": (
            torch.stack([q.loss(phi) for q, phi in zip(queries, phis, strict=True)]).sum() / len(queries[0].y)
        ),
        "This is the largest loss of the tasks. Take their mean.": (
            torch.stack([q.loss(phi) for q, phi in zip(queries, phis, strict=True)]).max()
        ),
        "The rate is written as a number, 0.1: pass `rate` on to adapt.": torch.stack(
            [q.loss(s.adapted(theta, torch.tensor(0.1), OUTER_STEPS)) for q, s in zip(queries, supports, strict=True)]
        ).mean(),
        "The loss at θ is subtracted: this is how much adaptation helps. The outer loss is the loss after it.": (
            torch.stack([q.loss(phi) - q.loss(theta) for q, phi in zip(queries, phis, strict=True)]).mean()
        ),
        "Each task is asked the queries of another one. Ask φ of task i about the queries of task i.": torch.stack(
            [q.loss(phi) for q, phi in zip(queries[1:] + queries[:1], phis, strict=True)]
        ).mean(),
        "The fast weights of the tasks are averaged. Ask each task's own, and average the losses.": (
            torch.stack([q.loss(middle) for q in queries]).mean()
        ),
    }


def _gradient_mistake(gradient: Tensor, exact: Tensor, first_order: Tensor) -> str | None:
    if close_enough(gradient, exact):
        return None
    if not gradient.any():
        return "The value is right, but no gradient reaches θ: something on the way cuts the graph (detach, no_grad)."
    if close_enough(gradient, first_order):
        return "This is the first-order gradient: the term through the inner step is missing."
    return (
        "The value is right, but its gradient with respect to θ is not: let autograd see every step from θ to the mean."
    )


def _outer_reference(forward, theta, episode, *, steps, rate, loss, first_order=False) -> Tensor:
    """The mean over the tasks of the query loss after adaptation to the support."""
    options = {"steps": steps, "rate": rate, "loss": loss, "first_order": first_order}
    losses = []
    for support_x, support_y, query_x, query_y in zip(
        episode.support_x, episode.support_y, episode.query_x, episode.query_y, strict=True
    ):
        phi = inner.adapt(forward, theta, support_x, support_y, **options)
        losses.append(loss(forward(phi, query_x), query_y))
    return torch.stack(losses).mean()


outer_loss = Check(
    exercise="01.2",
    title="The outer loss",
    inputs=outer_inputs,
    probe=_outer_probe,
    judge=_outer_judge,
    reference=_outer_reference,
)


# ------------------------------------------------------------------ 01.3 the total derivative


def _derivative_inputs(generator: torch.Generator) -> Tensors:
    """λ > 0: the outer loss has a weight decay on θ."""
    half, other = randn(generator, 3, 3), randn(generator, 3, 3)
    return {
        "theta": randn(generator, 3),
        "curvature": half @ half.T + torch.eye(3, dtype=torch.float64),
        "centre": randn(generator, 3),
        "rates": torch.tensor([0.05, 0.15, 0.3], dtype=torch.float64),  # one per parameter: dφ/dθ is not symmetric
        "query_curvature": other @ other.T + torch.eye(3, dtype=torch.float64),
        "query_centre": 2 * randn(generator, 3),
        "decay": uniform(generator, 0.5, 1.0),
    }


def _plain_inputs(generator: torch.Generator) -> Tensors:
    """λ = 0: θ does not stand in the outer loss at all, as in plain MAML. The direct term is zero."""
    return _derivative_inputs(generator) | {"decay": torch.zeros((), dtype=torch.float64)}


def _derivative_problem(inputs: Tensors) -> tuple[Callable, Callable]:
    """The outer loss L_outer(θ, φ), and the inner step φ(θ): it takes autograd.grad, as those of the lesson do."""

    def outer(theta: Tensor, phi: Tensor) -> Tensor:
        d = phi - inputs["query_centre"].to(phi.dtype)
        loss = 0.5 * d @ inputs["query_curvature"].to(d.dtype) @ d
        return loss + 0.5 * inputs["decay"].to(d.dtype) * theta @ theta if inputs["decay"] else loss

    def update(theta: Tensor) -> Tensor:
        if not theta.requires_grad:
            raise RuntimeError("update descends by torch.autograd.grad: it needs a theta that requires grad")
        away = theta - inputs["centre"].to(theta.dtype)
        loss = 0.5 * away @ inputs["curvature"].to(theta.dtype) @ away
        (slope,) = torch.autograd.grad(loss, theta, create_graph=True)
        return theta - inputs["rates"].to(theta.dtype) * slope

    return outer, update


def _derivative_probe(answer: Callable, inputs: Tensors) -> Tensors:
    result = answer(*_derivative_problem(inputs), inputs["theta"].clone())
    if not (isinstance(result, tuple | list) and len(result) == 2 and all(isinstance(x, Tensor) for x in result)):
        raise TypeError("it needs a pair of tensors, (direct, through), each of the shape of theta")
    return {"direct": result[0], "through": result[1]}


def _derivative_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    theta, curvature, centre = inputs["theta"], inputs["query_curvature"], inputs["query_centre"]
    phi = theta - inputs["rates"] * (inputs["curvature"] @ (theta - inputs["centre"]))
    response = torch.eye(3, dtype=torch.float64) - inputs["rates"][:, None] * inputs["curvature"]
    pulled = curvature @ (phi - centre)
    direct, through = inputs["decay"] * theta, response.T @ pulled
    first, second = outputs["direct"], outputs["through"]
    if close_enough(first, through) and close_enough(second, direct):
        return "The two terms are swapped: return the direct one first."
    if not close_enough(first, direct):
        mistakes = {
            "Your first term holds the total: it was taken through φ. Hold φ fixed there (detach).": direct + through,
            "Your first term is ∂L_outer/∂φ. The direct term: how L_outer moves with θ while φ stands still.": pulled,
            "Your first term is taken at φ: it is ∂L_outer/∂θ at (θ, φ). θ and φ have their own places in outer.": (
                inputs["decay"] * phi
            ),
            "Your first term is zero, but θ also stands in L_outer itself: hold φ fixed and move θ.": 0 * direct,
            "The two arguments of outer have changed places: it is outer(theta, phi).": curvature @ (theta - centre),
        }
        return first_slip(first, mistakes) or Unnamed(
            f"The direct term ∂L_outer/∂θ is off by {relative_error(first, direct):.1e}. Hold φ fixed there."
        )
    if close_enough(second, through):
        return None
    mistakes = {
        "This is the first-order gradient: the term through the inner step is missing, dφ/dθ was taken as 1.": pulled,
        "You multiplied by dφ/dθ, not by its transpose: each parameter has its own rate here.": response @ pulled,
        "dφ/dθ lacks the identity: φ = θ − α·gradient depends on θ in two ways, and θ itself is one of them.": (
            through - pulled
        ),
        "∂L_outer/∂φ was taken at φ = θ. Take it where the inner step has landed, at update(theta).": response.T
        @ (curvature @ (theta - centre)),
        "The second term is zero, but φ moves when θ moves. It is the gradient as if φ were a constant.": 0 * through,
        "Your second term is the total: it holds the direct term too. Take it through φ alone.": direct + through,
        "You differentiated the sum of φ, and ∂L_outer/∂φ came in too late: hand it over as grad_outputs.": (
            response.sum(0) * pulled
        ),
        "This is the diagonal of dφ/dθ alone: each entry of φ depends on all of θ.": response.diagonal() * pulled,
    }
    return first_slip(second, mistakes) or Unnamed(
        f"The term through φ, (dφ/dθ)ᵀ ∂L_outer/∂φ, is off by {relative_error(second, through):.1e}."
    )


def _derivative_reference(outer, update, theta):
    """(∂L_outer/∂θ with φ fixed, (dφ/dθ)ᵀ ∂L_outer/∂φ)."""
    start = theta.detach().requires_grad_()
    phi = update(start)
    held = phi.detach().requires_grad_()
    loss = outer(start, held)
    direct, pulled = torch.autograd.grad(loss, (start, held), allow_unused=True, materialize_grads=True)
    (through,) = torch.autograd.grad(phi, start, grad_outputs=pulled)
    return direct, through


total_derivative = Check(
    exercise="01.3",
    title="Both terms of the derivative",
    inputs={"with weight decay": _derivative_inputs, "plain MAML, without weight decay": _plain_inputs},
    probe=_derivative_probe,
    judge=_derivative_judge,
    reference=_derivative_reference,
)


# ------------------------------------------------------------------ 01.4 where MAML stops


START_STEPS = (1, 2, 4)


def _start_inputs(generator: torch.Generator) -> Tensors:
    return {
        "rate": uniform(generator, 0.08, 0.15),
        "a": torch.tensor([0.7, 2.0, 4.5], dtype=torch.float64) * uniform(generator, 0.8, 1.2, 3),
        "c": torch.tensor([-1.0, 2.0, 0.5], dtype=torch.float64) + 0.3 * randn(generator, 3),
    }


def _start_probe(answer: Callable, inputs: Tensors) -> Tensors:
    a, c = inputs["a"].clone(), inputs["c"].clone()
    results = [answer(a, c, rate=float(inputs["rate"]), steps=steps) for steps in START_STEPS]
    if not all(isinstance(x, int | float) or (isinstance(x, Tensor) and x.numel() == 1) for x in results):
        raise TypeError("it needs one number, the start that all tasks share: a weighted mean of c")
    if any(isinstance(x, int) or (isinstance(x, Tensor) and not x.dtype.is_floating_point) for x in results):
        raise TypeError("a weighted mean is no whole number; int() and // cut off what stands behind the point")
    if any(isinstance(x, Tensor) and x.requires_grad for x in results):
        raise TypeError("it needs a plain number, and this one still asks for gradients; return it with .detach()")
    return {
        "starts": torch.tensor(
            [float(x.detach() if isinstance(x, Tensor) else x) for x in results], dtype=torch.float64
        )
    }


def _start_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    a, c, rate = inputs["a"], inputs["c"], inputs["rate"]

    def means(weight: Callable[[Tensor], Tensor]) -> Tensor:
        rows = [weight((1 - rate * a) ** steps) for steps in START_STEPS]
        return torch.stack([(w * c).sum() / w.sum() for w in rows])

    starts, expected = outputs["starts"], means(lambda s: a * s**2)
    if close_enough(starts, expected):
        return None

    def powers(weight: Callable[[int], Tensor]) -> Tensor:
        rows = [weight(steps) for steps in START_STEPS]
        return torch.stack([(w * c).sum() / w.sum() for w in rows])

    unnormalised = torch.stack([(a * (1 - rate * a) ** (2 * t) * c).sum() for t in START_STEPS])
    mistakes = {
        "These are the weights of joint training, a: the inner steps are missing. (A factor that all tasks share, "
        "such as (1 − α)^{2T}, cancels.)": means(lambda s: a * s**0),
        "These are the weights of first-order MAML: the factor (1 − αa)^T appears once, MAML has it twice "
        "(once where φ lands, once in dφ/dθ).": means(lambda s: a * s),
        "The exponent is one too small: it is 2T.": means(lambda s: a * s**2 / (1 - rate * a)),
        "The exponent is one too large: it is 2T.": means(lambda s: a * s**2 * (1 - rate * a)),
        "The curvature counts twice: the weight is a(1 − αa)^{2T}, with one a in front.": means(lambda s: a**2 * s**2),
        "The curvature is missing from the weights: a steep task pulls harder, by the factor a.": means(lambda s: s**2),
        "These are the weights of Reptile, 1 − (1 − αa)^T.": means(lambda s: 1 - s),
        "The weights do not add up to 1: divide by their sum.": unnormalised,
        "This is the plain mean of c: weigh each c by how hard its task pulls.": means(lambda s: s**0),
        "You divided by the number of tasks, not by the sum of the weights.": unnormalised / len(c),
        "The steps do not count here: the exponent is 2T.": expected[:1].repeat(3),
        "The curvature is raised to the power, too: the bracket is (1 − αa) alone, and one a stands before it.": (
            powers(lambda t: (a * (1 - rate * a)) ** (2 * t))
        ),
        "You divide by the sum of the centres. A weighted mean is divided by the sum of the weights.": torch.stack(
            [(a * (1 - rate * a) ** (2 * t) * c).sum() / c.sum() for t in START_STEPS]
        ),
        "The exponent is T²: the square of a power doubles its exponent, it is 2T.": (
            powers(lambda t: a * (1 - rate * a) ** (t * t))
        ),
        "The steps stand inside the bracket: T steps give (1 − αa) to the power of T, not 1 − Tαa.": (
            powers(lambda t: a * (1 - t * rate * a) ** 2)
        ),
        "This is one of the centres: where the flattest task wants to be. Every task pulls.": c[a.argmin()].repeat(3),
    }
    place = int((starts - expected).abs().argmax())  # for some T it may be right
    shown, yours = told_apart(expected[place], starts[place])
    return first_slip(starts, mistakes) or Unnamed(
        f"For T = {START_STEPS[place]} the start is {shown}, yours is {yours}."
    )


def _start_reference(a, c, *, rate, steps):
    """The mean of c, weighted with a(1 − αa)^{2T}."""
    weight = a * (1 - rate * a) ** (2 * steps)
    return (weight * c).sum() / weight.sum()


common_start = Check(
    exercise="01.4",
    title="Where MAML stops",
    inputs=_start_inputs,
    probe=_start_probe,
    judge=_start_judge,
    reference=_start_reference,
)


# ------------------------------------------------------------------ 01.5 the inner loop


ADAPT_STEPS = (0, 3, 1)  # with one step, "nothing moved" and "one step too few" are the same: three come first
MANY = 3


def adapt_inputs(generator: torch.Generator) -> Tensors:
    drawn = outer_inputs(generator)
    return {name: drawn[name] if name in ("rate", "w", "b") else drawn[name][0] for name in drawn}


def _adapt_probe(answer: Callable, inputs: Tensors) -> Tensors:
    outputs: Tensors = {}

    def call(steps: int, **options: bool) -> None:
        """φ as a vector, and the gradient that φ's query loss leaves on θ."""
        leaves = {name: inputs[name].clone().requires_grad_() for name in ("w", "b")}
        theta = {name: leaf * 1 for name, leaf in leaves.items()}
        support = inputs["support_x"], inputs["support_y"]
        phi = answer(forward, theta, *support, steps=steps, rate=float(inputs["rate"]), loss=tilted, **options)
        if not (isinstance(phi, dict) and all(isinstance(phi.get(name), Tensor) for name in leaves)):
            raise TypeError("it needs the fast weights, a dictionary with a tensor for each name in params")
        phi = {name: phi[name].double() for name in leaves}  # an answer may compute in float32
        loss = tilted(forward(phi, inputs["query_x"]), inputs["query_y"])
        key = f"T = {steps}" + ", first order" * bool(options)
        outputs[f"φ, {key}"] = flat(phi)
        outputs[f"gradient, {key}"] = flat(dict(zip(leaves, slopes_of(loss, list(leaves.values())), strict=True)))

    for steps in sorted(ADAPT_STEPS, reverse=True):  # without a step a `return` inside the loop is never reached
        call(steps)
    call(MANY, first_order=True)
    return outputs


def _adapt_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    theta, rate, last = flat(inputs), inputs["rate"], MANY
    support, query = (
        LeastSquares(inputs["support_x"], inputs["support_y"]),
        LeastSquares(inputs["query_x"], inputs["query_y"]),
    )
    for steps in ADAPT_STEPS:
        phi, expected = outputs[f"φ, T = {steps}"], support.adapted(theta, rate, steps)
        if not close_enough(phi, expected):
            return (
                _miscounted(outputs, theta, rate, support)
                or _landing_mistake(phi, steps, theta, rate, support)
                or Unnamed(f"After {steps} steps φ is off by {relative_error(phi, expected):.1e}.")
            )
    plain = query.gradient(support.adapted(theta, rate, last))
    exact = support.response(rate, last) @ plain
    if mistake := _gradient_mistake(outputs[f"gradient, T = {last}"], exact, plain):
        hint = " Ask inner.gradient for create_graph=True." if "first-order" in mistake else ""
        return mistake + hint
    given = outputs[f"gradient, T = {last}, first order"]
    if close_enough(given, plain):
        return None
    if close_enough(given, exact):
        return "first_order=True changes nothing here: it must switch create_graph off."
    if not given.any():
        return "With first_order=True no gradient reaches θ: cut the inner gradient only, not the parameters."
    return "With first_order=True the gradient is not ∂L_outer/∂φ: treat the inner gradients as constants, no more."


def _miscounted(outputs: Tensors, theta: Tensor, rate: Tensor, support: LeastSquares) -> str | None:
    """One step too many, or always as many, is seen best where none is asked, and some are."""
    none, many = outputs["φ, T = 0"], outputs[f"φ, T = {MANY}"]
    if close_enough(none, support.adapted(theta, rate, 1)) and close_enough(
        many, support.adapted(theta, rate, MANY + 1)
    ):
        return "One step too many was taken, with any number of steps: range(steps) gives as many as it says."
    if close_enough(none, many) and not close_enough(none, theta):
        return "As many steps are taken, whatever `steps` says: loop over range(steps)."
    return None


def _landing_mistake(phi: Tensor, steps: int, theta: Tensor, rate: Tensor, support: LeastSquares) -> str | None:
    if steps == 0:
        return "With steps=0 the parameters come back as they are."
    up = again = added = theta
    total = torch.zeros_like(theta)
    for _ in range(steps):
        up = up + rate * support.gradient(up)
        again = theta - rate * support.gradient(again)
        total = total + support.gradient(added)
        added = added - rate * total
    mistakes = {
        "Sign: this ascends the inner loss.": up,
        "Nothing moved: return the new parameters.": theta,
        "Each step starts from θ again: sgd_step gets the parameters of the step before.": again,
        "The gradients add up from step to step: each step uses its own gradient alone.": added,
        "Only one step was taken, whatever steps says.": support.adapted(theta, rate, 1),
        "Each step uses the gradient at θ: take it anew, at the parameters of the step before.": theta
        - steps * rate * support.gradient(theta),
        "One step too many was taken.": support.adapted(theta, rate, steps + 1),
        "One step too few was taken.": support.adapted(theta, rate, steps - 1),
        "Only w moved: b is a parameter as well.": support.adapted(
            theta, rate, steps, moves=torch.tensor([1.0, 1.0, 0.0], dtype=theta.dtype)
        ),
        "Only b moved: w is a parameter as well.": support.adapted(
            theta, rate, steps, moves=torch.tensor([0.0, 0.0, 1.0], dtype=theta.dtype)
        ),
        "The loss is called with swapped arguments: loss(prediction, target). Cross-entropy would raise.": (
            _swapped_loss(support, theta, rate, steps)
        ),
        "This descends the mean squared error, whatever loss was given: call `loss`.": support.plain().adapted(
            theta, rate, steps
        ),
    }
    if steps == 1:  # one step cannot tell these apart from the right answer
        expected = support.adapted(theta, rate, 1)
        mistakes = {words: value for words, value in mistakes.items() if not close_enough(value, expected)}
    return first_slip(phi, mistakes)


def _swapped_loss(support: LeastSquares, phi: Tensor, rate: Tensor, steps: int) -> Tensor:
    """φ after steps on loss(target, prediction)."""
    for _ in range(steps):
        leaf = phi.detach().requires_grad_()
        phi = phi - rate * torch.autograd.grad(support.swapped(leaf), leaf)[0]
    return phi


adapt = Check(
    exercise="01.5",
    title="The inner loop",
    inputs=adapt_inputs,
    probe=_adapt_probe,
    judge=_adapt_judge,
    reference=inner.adapt,
)
