"""The checks of notebook 06: one outer step, adapting the head only, learned rates, what labels give away.

The oracles share no code with the package: closed forms on linear least squares (`LeastSquares`), finite differences of
such a closed form, and a loop that counts.
"""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from mlcourse import inner
from mlcourse.episodes import Episode
from mlcourse.teaching.checks import Check, close, keep_precision, relative_error
from mlcourse.teaching.least_squares import (
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

# ------------------------------------------------------------------ 06.1 one outer step


STEPS = 2


def _meta_probe(answer: Callable, inputs: Tensors) -> Tensors:
    none = torch.empty(len(inputs["support_x"]), 0, dtype=torch.int64)
    episode = Episode(*(inputs[n].clone() for n in ("support_x", "support_y", "query_x", "query_y")), none, none, none)
    theta = {name: inputs[name].clone().requires_grad_() for name in ("w", "b")}

    def call(steps: int) -> tuple[Tensor, Tensor]:
        result = answer(forward, theta, episode, steps=steps, rate=float(inputs["rate"]), loss=tilted)
        if not (isinstance(result, tuple | list) and len(result) == 2 and isinstance(result[1], dict)):
            raise TypeError("it needs a pair: the outer loss, and a dictionary with the gradient of each parameter")
        value, grads = result
        if not isinstance(value, Tensor):
            raise TypeError("the outer loss must be a tensor; a number of Python (.item()) has no dtype")
        if missing := [name for name in theta if not isinstance(grads.get(name), Tensor)]:
            raise TypeError(f"the gradient of {missing[0]!r} is missing or None")
        for name in theta:
            keep_precision(grads[name], theta[name], f"the gradient of {name!r}")
        return value, flat(grads)

    value, gradient = call(STEPS)
    value_at_theta, _ = call(0)
    return {"loss": value, "gradient": gradient, "loss, T = 0": value_at_theta}


def _meta_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    theta, rate = flat(inputs), inputs["rate"]
    support = [LeastSquares(x, y) for x, y in zip(inputs["support_x"], inputs["support_y"], strict=True)]
    query = [LeastSquares(x, y) for x, y in zip(inputs["query_x"], inputs["query_y"], strict=True)]
    phis = [task.adapted(theta, rate, STEPS) for task in support]
    expected = torch.stack([q.loss(phi) for q, phi in zip(query, phis, strict=True)]).mean()
    if not close(outputs["loss"], expected):
        mistakes = outer_mistakes(theta, rate, support, query, phis) | _more_outer_mistakes(theta, rate, support, query)
        shown, yours = told_apart(expected, outputs["loss"])
        return first_slip(outputs["loss"], mistakes) or Unnamed(
            f"The outer loss of this problem is {shown}, yours is {yours}."
        )
    slopes = [q.gradient(phi) for q, phi in zip(query, phis, strict=True)]
    pulled = [task.response(rate, STEPS) @ v for task, v in zip(support, slopes, strict=True)]
    exact = torch.stack(pulled).mean(0)
    if not close_enough(outputs["gradient"], exact):
        return _meta_mistake(outputs["gradient"], theta, rate, support, query, slopes, pulled)
    if not close_enough(outputs["loss, T = 0"], torch.stack([q.loss(theta) for q in query]).mean()):
        return "With steps=0 the outer loss is the query loss at θ, yours is not: pass steps on to adapt."
    return None


def _more_outer_mistakes(
    theta: Tensor, rate: Tensor, support: list[LeastSquares], query: list[LeastSquares]
) -> Tensors:
    """Further outer losses that mistakes give, by diagnosis."""
    still = [theta - STEPS * rate * task.gradient(theta) for task in support]
    # the gradient of all points together is the mean of the tasks' gradients: each has as many points
    merged = theta
    for _ in range(STEPS):
        merged = merged - rate * torch.stack([task.gradient(merged) for task in support]).mean(0)
    swapped = [s.loss(q.adapted(theta, rate, STEPS)) for s, q in zip(support, query, strict=True)]
    phis = [s.adapted(theta, rate, STEPS) for s in support]
    both = [s.loss(phi) + q.loss(phi) for s, q, phi in zip(support, query, phis, strict=True)]
    return {
        "The support loss is added to the query loss: the outer loss is that of the queries alone.": (
            torch.stack(both).mean()
        ),
        "Support and queries have changed places: adapt on the support set, and take the loss on the queries.": (
            torch.stack(swapped).mean()
        ),
        "Each inner step uses the gradient at θ: take it at the φ of the step before.": torch.stack(
            [q.loss(phi) for q, phi in zip(query, still, strict=True)]
        ).mean(),
        "All tasks were adapted together, as one: each task has a φ of its own, from its own support set.": torch.stack(
            [q.loss(merged) for q in query]
        ).mean(),
    }


def _meta_mistake(
    gradient: Tensor,
    theta: Tensor,
    rate: Tensor,
    support: list[LeastSquares],
    query: list[LeastSquares],
    slopes: list[Tensor],
    pulled: list[Tensor],
) -> str:
    """What a wrong gradient is. slopes: of each query loss at its φ_T; pulled: the same, brought back to θ."""
    exact = torch.stack(pulled).mean(0)
    if not gradient.any():
        return "The loss is right, but its gradient is zero: something on the way from θ cuts the graph."
    mistakes = {
        "The gradient is the sum over the tasks, the loss is their mean: divide by the number of tasks.": len(pulled)
        * exact,
        "This is the gradient at φ, not at θ: it is what the first-order method uses. Differentiate with respect to "
        "the θ that came in, and keep the graph of the inner steps.": torch.stack(slopes).mean(0),
        "This is the gradient at φ, summed over the tasks: two slips. Differentiate the mean of the losses, with "
        "respect to θ.": torch.stack(slopes).sum(0),
        "This is the gradient with respect to `phi` as the loop left it, the fast weights of the LAST task. Ask for "
        "the gradient with respect to `theta`: the graph leads there from every task.": slopes[-1] / len(slopes),
        "This is the query gradient of the last task at its own φ: all tasks count, and the gradient is wanted at θ.": (
            slopes[-1]
        ),
        "This is the gradient of the last task alone: add up the tasks.": pulled[-1],
        "Only the last task's share of the gradient is there: each round of the loop overwrites it. Add them up.": (
            pulled[-1] / len(pulled)
        ),
        "Only the first task's share of the gradient is there: add up the tasks.": pulled[0] / len(pulled),
        "This is the gradient of the support losses at θ, which the inner step uses: wanted is the outer loss's.": (
            torch.stack([s.gradient(theta) for s in support]).mean(0)
        ),
        "This is the gradient of the support losses through the inner steps: the outer loss is that of the queries.": (
            torch.stack([s.response(rate, STEPS) @ s.gradient(s.adapted(theta, rate, STEPS)) for s in support]).mean(0)
        ),
        "This is the gradient of the query loss without adaptation, the one of joint training.": torch.stack(
            [q.gradient(theta) for q in query]
        ).mean(0),
        "Sign: return the gradient itself; the optimizer subtracts it.": -exact,
        "This is θ after a step along the gradient: return the gradient itself, the optimizer takes the step.": (
            theta - rate * exact
        ),
    }
    return first_slip(gradient, mistakes) or Unnamed("The loss is right, its gradient with respect to θ is not.")


def _meta_reference(forward, theta, episode, *, steps, rate, loss) -> tuple[Tensor, inner.Parameters]:
    """The outer loss of a meta-batch, and its gradient at θ."""
    losses = []
    for support_x, support_y, query_x, query_y in zip(
        episode.support_x, episode.support_y, episode.query_x, episode.query_y, strict=True
    ):
        phi = inner.adapt(forward, theta, support_x, support_y, steps=steps, rate=rate, loss=loss)
        losses.append(loss(forward(phi, query_x), query_y))
    outer = torch.stack(losses).mean()
    return outer.detach(), inner.gradient(outer, theta)


meta_step = Check(
    exercise="06.1",
    title="One outer step",
    inputs=outer_inputs,
    probe=_meta_probe,
    judge=_meta_judge,
    reference=_meta_reference,
)


# ------------------------------------------------------------------ 06.2 the head alone adapts


HEAD_STEPS = 3
HEAD = ("head.weight", "head.bias")
BODY = "overhead"  # its name holds "head" and does not begin with "head."; it stands behind the head


def head_inputs(generator: torch.Generator) -> Tensors:
    return {
        "rate": uniform(generator, 0.05, 0.1),
        "body": randn(generator, 3, 2),
        "head.weight": randn(generator, 2),
        "head.bias": randn(generator),
        "support_x": randn(generator, 5, 3),
        "support_y": 2 * randn(generator, 5),
        "query_x": randn(generator, 7, 3),
        "query_y": 2 * randn(generator, 7),
    }


def body_and_head(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return (x @ params["body"]) @ params["head.weight"] + params["head.bias"]


def _head_probe(answer: Callable, inputs: Tensors) -> Tensors:
    leaves = {name: inputs[name].clone().requires_grad_() for name in HEAD} | {
        BODY: inputs["body"].clone().requires_grad_()
    }
    params = {name: value * 1 for name, value in leaves.items()}  # no leaves: writing into them raises no error
    settings = {"steps": HEAD_STEPS, "rate": float(inputs["rate"]), "loss": tilted}
    calls = 0

    def forward(params: dict[str, Tensor], x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return body_and_head(params | {"body": params[BODY]}, x)

    fast = answer(forward, params, inputs["support_x"].clone(), inputs["support_y"].clone(), **settings)
    if not isinstance(fast, dict) or not all(isinstance(fast.get(name), Tensor) for name in leaves):
        raise TypeError("it needs a dictionary with all names of params, those of the body too: forward needs them")
    for name, leaf in leaves.items():
        keep_precision(fast[name], leaf, f"the parameter {name!r}")
    fast = {"body": fast[BODY]} | {name: fast[name] for name in HEAD}
    loss = tilted(body_and_head(fast, inputs["query_x"]), inputs["query_y"])
    slopes = dict(zip((*HEAD, "body"), slopes_of(loss, list(leaves.values())), strict=True))
    outputs = dict(fast)
    outputs["forward passes"] = torch.tensor(calls)  # tells steps that were lost from steps that were not taken
    return outputs | {f"gradient of {name}": slope for name, slope in slopes.items()}


def head_loss(
    body: Tensor, head: Tensor, inputs: Tensors, steps: int = HEAD_STEPS, asked: Tensor | None = None
) -> Tensor:
    """The query loss after the head's steps: on fixed features it is linear least squares, in closed form.

    asked: the body that the queries go through; the steps' own where none is given.
    """
    asked = body if asked is None else asked
    support = LeastSquares(inputs["support_x"] @ body, inputs["support_y"])
    return LeastSquares(inputs["query_x"] @ asked, inputs["query_y"]).loss(support.adapted(head, inputs["rate"], steps))


def _differences(function: Callable[[Tensor], Tensor], at: Tensor, h: float = 1e-4) -> Tensor:
    """The gradient of a scalar function by central differences, entry by entry."""
    slope = torch.zeros_like(at)
    for index in range(at.numel()):
        move = torch.zeros_like(at)
        move.view(-1)[index] = h
        slope.view(-1)[index] = (function(at + move) - function(at - move)) / (2 * h)
    return slope


def _head_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    head, body = torch.cat([inputs["head.weight"], inputs["head.bias"].reshape(1)]), inputs["body"]
    found = torch.cat([outputs["head.weight"].flatten(), outputs["head.bias"].reshape(1)])
    if not close_enough(outputs["body"], body):
        if close_enough(found, head):
            return "The body moved and the head stayed: it must be the other way round."
        return (
            "The body moved too: this is MAML's inner loop. Only names that begin with `head.` may change (the body is "
            f"called `{BODY}` here, and comes last)."
        )
    support = LeastSquares(inputs["support_x"] @ body, inputs["support_y"])
    if not close_enough(found, support.adapted(head, inputs["rate"], HEAD_STEPS)):
        if (lost := _lost_steps(found, head, support, inputs["rate"], int(outputs["forward passes"]))) is not None:
            return lost
        mistakes = {
            "The head is where ALL parameters together would have led it: you adapted body and head, and kept the head "
            "of the result. The body must stand still in every step.": _with_moving_body(inputs),
            "One step is missing: take `steps` of them.": support.adapted(head, inputs["rate"], HEAD_STEPS - 1),
            "One step too many was taken.": support.adapted(head, inputs["rate"], HEAD_STEPS + 1),
            "Nothing moved: the head is still where it came in.": head,
            "Only one step was taken: use `steps`.": support.adapted(head, inputs["rate"], 1),
            "This ascends the inner loss: the sign of the step is wrong.": support.adapted(
                head, -inputs["rate"], HEAD_STEPS
            ),
            "Each step uses the gradient at the start: take it at the head of the step before.": head
            - HEAD_STEPS * inputs["rate"] * support.gradient(head),
            "The steps descend another loss than the one that you were given: pass `loss` on to adapt.": (
                support.plain().adapted(head, inputs["rate"], HEAD_STEPS)
            ),
            "The steps descend the cross-entropy, which adapt takes by itself: pass `loss` on to it.": (
                _with_cross_entropy(support, head, inputs["rate"])
            ),
            "Only the weight of the head moved: its bias belongs to it.": support.adapted(
                head, inputs["rate"], HEAD_STEPS, moves=torch.tensor([1.0, 1.0, 0.0], dtype=head.dtype)
            ),
            "Only the bias of the head moved: its weight belongs to it.": support.adapted(
                head, inputs["rate"], HEAD_STEPS, moves=torch.tensor([0.0, 0.0, 1.0], dtype=head.dtype)
            ),
        }
        return first_slip(found, mistakes) or Unnamed(
            "The head does not end where gradient descent on the support set leads."
        )
    return _head_gradient_mistake(inputs, outputs, head, body)


def _lost_steps(found: Tensor, head: Tensor, support: LeastSquares, rate: Tensor, passes: int) -> str | None:
    """Steps were taken, but two dictionaries were merged the wrong way round, so that the start's head wins."""
    if passes < HEAD_STEPS:
        return None
    if close_enough(found, head):
        return (
            "The steps were taken, but what you return holds the head as it came in. Where two dictionaries have the "
            "same name, the right one wins: return `params | fast`, not `fast | params`."
        )
    if close_enough(found, support.adapted(head, rate, 1)):
        return (
            f"{HEAD_STEPS} steps were taken, but after the first one the head no longer moves: forward still sees the "
            "head as it came in. Where two dictionaries have the same name, the right one wins: "
            "`forward(params | fast, x)`, not `forward(fast | params, x)`."
        )
    return None


def _with_cross_entropy(support: LeastSquares, head: Tensor, rate: Tensor) -> Tensor:
    """The head after steps down the cross-entropy; with targets that are numbers it raises no error."""
    for _ in range(HEAD_STEPS):
        logits = support.x @ head
        head = head - rate * support.x.T @ (logits.softmax(0) * support.y.sum() - support.y)
    return head


def _with_moving_body(inputs: Tensors) -> Tensor:
    """The head after steps in which the body moves too: gradients of the mean squared error, written out."""
    x, y, rate, body = inputs["support_x"], inputs["support_y"], inputs["rate"], inputs["body"]
    head = torch.cat([inputs["head.weight"], inputs["head.bias"].reshape(1)])
    for _ in range(HEAD_STEPS):
        task = LeastSquares(x @ body, y)
        rest = task.x @ head - y
        turn = 2 * task.weight * x.T @ (rest[:, None] * head[:-1]) / len(y)
        head, body = head - rate * task.gradient(head), body - rate * turn
    return head


def _head_gradient_mistake(inputs: Tensors, outputs: Tensors, head: Tensor, body: Tensor) -> str | None:
    if not outputs["gradient of body"].any():
        return (
            "The head is right, but no meta-gradient reaches the body (detach or no_grad). It does not *adapt*, yet "
            "the outer loop must still train it."
        )
    by_head = _differences(lambda h: head_loss(body, h, inputs), head)
    found = torch.cat([outputs["gradient of head.weight"].flatten(), outputs["gradient of head.bias"].reshape(1)])
    by_body, of_body = _differences(lambda b: head_loss(b, head, inputs), body), outputs["gradient of body"]
    if close_enough(found, by_head) and close_enough(of_body, by_body):
        return None
    if not found.any():
        return "The head is right, but no meta-gradient reaches its start (detach or no_grad)."
    if close_enough(found, by_head):
        # the queries go through the body, and the head that stands before them went through it
        through = _differences(lambda b: head_loss(b, head, inputs, asked=body), body)
        if close_enough(of_body, through):
            return (
                "The values are right, and the gradient of the head, but not that of the body: the body that you "
                "return is cut from the graph (detach). The queries go through it, too: return it as it came."
            )
        return (
            "The values are right, and the gradient of the head, but not that of the body: in the inner steps the body "
            "counts as a constant (detach). The steps of the head depend on its features, so the way through them "
            "belongs to its gradient."
        )
    return (
        "The values are right, the meta-gradient is not: the inner gradients count as constants "
        "(`create_graph` is missing, or `first_order` is on)."
    )


def _head_reference(forward, params, support_x, support_y, *, steps, rate, loss) -> inner.Parameters:
    """The fast weights when only parameters whose names begin with `head.` adapt; the body's come back as they are."""
    head = {name: value for name, value in params.items() if name.startswith("head.")}

    def with_body(fast: inner.Parameters, x: Tensor) -> Tensor:
        return forward(params | fast, x)

    return params | inner.adapt(with_body, head, support_x, support_y, steps=steps, rate=rate, loss=loss)


adapt_head = Check(
    exercise="06.2",
    title="Only the head adapts",
    inputs=head_inputs,
    probe=_head_probe,
    judge=_head_judge,
    reference=_head_reference,
)


# ------------------------------------------------------------------ 06.3 the gradient of learned rates


def _drawn_rates(generator: torch.Generator) -> Tensors:
    return {
        "w": randn(generator, 2),
        "b": randn(generator),
        "rate of w": uniform(generator, 0.05, 0.2, 2),
        "rate of b": uniform(generator, 0.05, 0.2),
        "support_x": randn(generator, 5, 2),
        "support_y": 2 * randn(generator, 5),
        "query_x": randn(generator, 7, 2),
        "query_y": 2 * randn(generator, 7),
    }


def _rates_inputs(generator: torch.Generator) -> Tensors:
    """Some rates should grow and others shrink, so that a lost sign shows."""
    while True:
        drawn = _drawn_rates(generator)
        slope = _slope_of_rates(drawn)
        if slope.min() < 0 < slope.max():
            return drawn


def _slope_of_rates(inputs: Tensors) -> Tensor:
    """−∇L_support(θ) · ∇L_query(φ), entry by entry."""
    theta, rates = flat(inputs), torch.cat([inputs["rate of w"], inputs["rate of b"].reshape(1)])
    step = LeastSquares(inputs["support_x"], inputs["support_y"]).gradient(theta)
    return -step * LeastSquares(inputs["query_x"], inputs["query_y"]).gradient(theta - rates * step)


def _single_inputs(generator: torch.Generator) -> Tensors:
    """The same in float32, the lesson's precision, in which differences are no slopes."""
    return {name: value.float() for name, value in _rates_inputs(generator).items()}


def _rates_probe(answer: Callable, inputs: Tensors) -> Tensors:
    params = {name: inputs[name].clone().requires_grad_() for name in ("w", "b")}
    # in another order than the parameters: who pairs them by place gets the wrong ones
    rates = {name: inputs[f"rate of {name}"].clone().requires_grad_() for name in ("b", "w")}
    sets = [inputs[name].clone() for name in ("support_x", "support_y", "query_x", "query_y")]
    grads = answer(forward, params, rates, *sets, loss=tilted)
    if not isinstance(grads, dict) or not all(isinstance(grads.get(name), Tensor) for name in rates):
        raise TypeError("it needs a dictionary with the gradient of each rate, by name")
    for name in rates:
        keep_precision(grads[name], rates[name], f"the gradient of the rate of {name!r}")
    return {f"gradient of the rate of {name}": grads[name] for name in rates}


def _rates_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    single = inputs["w"].dtype == torch.float32
    inputs = {name: value.double() for name, value in inputs.items()}
    theta = flat(inputs)
    rates = torch.cat([inputs["rate of w"], inputs["rate of b"].reshape(1)])
    support = LeastSquares(inputs["support_x"], inputs["support_y"])
    query = LeastSquares(inputs["query_x"], inputs["query_y"])
    step = support.gradient(theta)
    phi = theta - rates * step
    parts = [outputs[f"gradient of the rate of {name}"].flatten() for name in ("w", "b")]
    found, exact = torch.cat(parts), _slope_of_rates(inputs)
    if close_enough(found, exact):
        return None
    if single and relative_error(found, exact) < 0.3:
        return "Near, and not exact: differences of float32 losses are rounded away. Take the formula, or autograd."
    if not found.any():
        return "The gradient is zero everywhere: no path leads from the rates to the query loss (detach, float)."
    mistakes = {
        "Sign: φ = θ − α·g, so a larger rate moves φ *against* the support gradient.": -exact,
        "The query gradient is taken at θ; it belongs to φ, after the step.": -step * query.gradient(theta),
        "The gradient of the step is taken at φ; the step was taken from θ, with the support gradient there.": (
            -support.gradient(phi) * query.gradient(phi)
        ),
        "The two places are swapped: the support gradient belongs to θ, the query gradient to φ.": (
            -support.gradient(phi) * query.gradient(theta)
        ),
        "The two losses are swapped: the step uses the SUPPORT gradient at θ, the outer loss is that of the QUERIES "
        "at φ.": -query.gradient(theta) * support.gradient(theta - rates * query.gradient(theta)),
        "You used the support loss in both places: the outer loss is taken on the queries.": -step
        * support.gradient(phi),
        "Both gradients are those of the queries: the step was taken on the support set.": -query.gradient(theta)
        * query.gradient(theta - rates * query.gradient(theta)),
        "The step climbs: φ = θ − α·g goes against the support gradient.": -step * query.gradient(theta + rates * step),
        "This is the support gradient, squared: the second factor is the query gradient at φ.": -step * step,
        "This is the gradient with respect to φ: it lacks the factor dφ/dα.": query.gradient(phi),
        "This is dφ/dα alone: multiply it by the gradient of the query loss at φ.": -step,
        "The rate itself stands in front: φ is linear in α, so the slope does not hold α.": rates * exact,
        "It is divided by α: φ is linear in α, so the slope does not hold α.": exact / rates,
        "These are the sizes: the sign says in which direction a rate should move.": exact.abs(),
        "This is the gradient with respect to θ, which exists too; asked is the one of the rates.": (
            torch.eye(3, dtype=torch.float64) - support.hessian * rates
        )
        @ query.gradient(phi),
    }
    return first_slip(found, mistakes) or Unnamed("This is not the slope of the query loss along the rates.")


def rates_reference(forward, params, rates, support_x, support_y, query_x, query_y, *, loss) -> inner.Parameters:
    """d(query loss after one step φ = θ − α·g)/dα for every single rate, by autograd."""
    rates = {name: value.detach().requires_grad_() for name, value in rates.items()}
    phi = inner.adapt(forward, params, support_x, support_y, steps=1, rate=rates, loss=loss)
    return inner.gradient(loss(forward(phi, query_x), query_y), rates)


rate_gradient = Check(
    exercise="06.3",
    title="The gradient of learned rates",
    inputs={"in double precision": _rates_inputs, "in single precision, as in the lesson": _single_inputs},
    probe=_rates_probe,
    judge=_rates_judge,
    reference=rates_reference,
)


# ------------------------------------------------------------------ 06.4 what labels give away


def _labels_inputs(share: float) -> Callable[[torch.Generator], Tensors]:
    """Tasks of 4 labels over 14 classes. In about `share` of them each class has a fixed label (any partition)."""

    def make(generator: torch.Generator) -> Tensors:
        while True:
            classes = draw(generator)
            values = [float(value) for value in _labels_mistakes(classes).values()]
            if not 0 < share < 1 or len({round(value, 6) for value in values}) == len(values):
                return {"classes": classes}  # no two mistakes give the same number by luck

    def draw(generator: torch.Generator) -> Tensor:
        way, tasks = 4, 30
        groups = torch.randperm(14, generator=generator)[:12].view(3, way)  # column: the label of these three classes
        rows = torch.randint(3, (tasks, way), generator=generator)
        fixed = groups[rows, torch.arange(way)]
        # the chances of the classes differ, so a mean over classes is not a mean over questions
        chances = torch.rand(tasks, 14, generator=generator) * torch.linspace(0.5, 1, 14)
        free = chances.argsort(1, descending=True)[:, :way]
        keep = torch.rand(tasks, 1, generator=generator) < share
        return torch.where(keep, fixed, free)

    return make


def _labels_probe(answer: Callable, inputs: Tensors) -> Tensors:
    value = answer(inputs["classes"])
    return {"ceiling": torch.as_tensor(value, dtype=torch.float64)}


def _labels_seen(classes: Tensor) -> dict[int, Counter]:
    """class → how often it has each label."""
    seen: dict[int, Counter] = {}
    for task in classes.tolist():
        for label, one in enumerate(task):
            seen.setdefault(one, Counter())[label] += 1
    return seen


def _labels_right(classes: Tensor) -> Tensor:
    best = sum(max(counts.values()) for counts in _labels_seen(classes).values())
    return torch.tensor(best / classes.numel(), dtype=torch.float64)


def _labels_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    classes, found = inputs["classes"], outputs["ceiling"]
    exact = _labels_right(classes)
    if close_enough(found, exact):
        return None
    return first_slip(found, _labels_mistakes(classes)) or Unnamed(
        "The best rule is right for {} of the images, you say {}.".format(*told_apart(exact, found))
    )


def _labels_mistakes(classes: Tensor) -> Tensors:
    """Shares that mistakes give, by diagnosis."""
    seen, exact = _labels_seen(classes), _labels_right(classes)
    best = {one: max(counts.values()) for one, counts in seen.items()}
    times = {one: sum(counts.values()) for one, counts in seen.items()}
    shares = [best[one] / times[one] for one in seen]
    constant = sum(len(counts) == 1 for counts in seen.values()) / len(seen)
    mistakes = {
        "This is 1/way, guessing. The rule knows the class: it gives the label that this class has most often.": (
            1 / classes.shape[1]
        ),
        "You took the mean over classes. Each image is a question: a class that comes more often counts more.": (
            sum(shares) / len(shares)
        ),
        "This is the share of classes whose label never changes. A label that is right most often helps too.": constant,
        "You took, for each label, the class that comes most often under it. It is the other way round: the rule sees "
        "the class, and says a label.": _by_label(seen, classes.shape[1]) / classes.numel(),
        "You divided by the number of classes: each entry of `classes` is a question, so divide by their number.": (
            exact * classes.numel() / len(seen)
        ),
        "You divided by the number of tasks; a task asks about way classes.": exact * classes.shape[1],
        "This is the number of right answers, not their share: divide by the number of questions.": (
            exact * classes.numel()
        ),
        "This is the share of a rule that says each label as often as its class has it. The best rule always says the "
        "one that comes most often.": sum(sum(k * k for k in c.values()) / sum(c.values()) for c in seen.values())
        / classes.numel(),
        "This is the share of wrong answers: subtract it from 1.": 1 - exact,
        "This rule gives each class the label of its first task. The best rule gives the one that comes most often.": (
            _by_place(classes, first=True)
        ),
        "This rule gives each class the label of its last task. The best rule gives the one that comes most often.": (
            _by_place(classes, first=False)
        ),
        "This is the label that comes LEAST often for each class: take the largest of each row.": (
            sum(min(counts[label] for label in range(classes.shape[1])) for counts in seen.values()) / classes.numel()
        ),
        "This is 0, as `//` gives it: it rounds down to a whole number. Divide with `/`.": exact.floor(),
    }
    return {said: torch.as_tensor(value, dtype=torch.float64) for said, value in mistakes.items()}


def _by_place(classes: Tensor, *, first: bool) -> float:
    """How often a rule is right that knows each class by the first, or the last, label seen for it."""
    pairs = [(one, label) for task in classes.tolist() for label, one in enumerate(task)]
    known = dict(reversed(pairs) if first else pairs)
    return sum(known[one] == label for one, label in pairs) / len(pairs)


def _by_label(seen: dict[int, Counter], way: int) -> int:
    """Σ over labels of the count of the class that has this label most often: the mistake of the wrong axis."""
    return sum(max(counts[label] for counts in seen.values()) for label in range(way))


def _labels_reference(classes: Tensor) -> Tensor:
    """The share of right answers of the best rule that sees a class but no support set."""
    way = classes.shape[1]
    table = torch.zeros(int(classes.max()) + 1, way, dtype=torch.float64)
    labels = torch.arange(way).expand_as(classes)
    table.index_put_(
        (classes.flatten(), labels.flatten()), torch.ones(classes.numel(), dtype=table.dtype), accumulate=True
    )
    return table.max(1).values.sum() / classes.numel()


ceiling = Check(
    exercise="06.4",
    title="What labels give away",
    inputs={
        "mixed labels": _labels_inputs(0.3),
        "shuffled labels": _labels_inputs(0.0),
        "fixed labels": _labels_inputs(1.0),
    },
    probe=_labels_probe,
    judge=_labels_judge,
    reference=_labels_reference,
)
