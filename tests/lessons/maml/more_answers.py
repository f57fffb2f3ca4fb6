"""More answers to the exercises of notebook 06, written after the checks: right ones and slips of learners."""

import torch

from mlcourse import inner
from mlcourse.lessons.maml import checks


def sets(episode):
    return zip(episode.support_x, episode.support_y, episode.query_x, episode.query_y, strict=True)


def step_with(loss_of=lambda losses: torch.stack(losses).mean(), gradient=inner.gradient, graph=True, at=None):
    def step(forward, theta, episode, *, steps, rate, loss):
        losses = []
        for sx, sy, qx, qy in sets(episode):
            phi = dict(theta)
            for _ in range(steps):
                value = loss(forward(phi, sx), sy)
                grads = torch.autograd.grad(value, list(phi.values()), create_graph=True)
                grads = grads if graph else [g.detach() for g in grads]
                phi = {name: phi[name] - (at or rate) * g for name, g in zip(phi, grads)}
            losses.append(loss(forward(phi, qx), qy))
        value = loss_of(losses)
        return value, gradient(value, theta)

    return step


def step_on_leaves(forward, theta, episode, *, steps, rate, loss):
    """`.backward()` on own leaves, task by task: their gradients add up, as they should here."""
    leaves, total = {name: value.detach().clone().requires_grad_() for name, value in theta.items()}, 0.0
    for sx, sy, qx, qy in sets(episode):
        phi = inner.adapt(forward, leaves, sx, sy, steps=steps, rate=rate, loss=loss)
        value = loss(forward(phi, qx), qy) / episode.tasks
        value.backward()
        total = total + value.detach()
    return total, {name: leaf.grad for name, leaf in leaves.items()}


def step_in_one(forward, theta, episode, *, steps, rate, loss):
    """All tasks as one: a single φ, from all support sets together."""
    parts = (episode.support_x, episode.support_y, episode.query_x, episode.query_y)
    sx, sy, qx, qy = (part.flatten(0, 1) for part in parts)
    value = loss(forward(inner.adapt(forward, theta, sx, sy, steps=steps, rate=rate, loss=loss), qx), qy)
    return value.detach(), inner.gradient(value, theta)


def step_with_old_gradients(forward, theta, episode, *, steps, rate, loss):
    losses = []
    for sx, sy, qx, qy in sets(episode):
        grads = inner.gradient(loss(forward(theta, sx), sy), theta, create_graph=True)
        losses.append(loss(forward({name: theta[name] - steps * rate * g for name, g in grads.items()}, qx), qy))
    value = torch.stack(losses).mean()
    return value.detach(), inner.gradient(value, theta)


def step_on_both(forward, theta, episode, *, steps, rate, loss):
    losses = []
    for sx, sy, qx, qy in sets(episode):
        phi = inner.adapt(forward, theta, sx, sy, steps=steps, rate=rate, loss=loss)
        losses.append(loss(forward(phi, sx), sy) + loss(forward(phi, qx), qy))
    value = torch.stack(losses).mean()
    return value.detach(), inner.gradient(value, theta)


def step_taken(forward, theta, episode, *, rate, **settings):
    value, grads = checks.meta_step.reference(forward, theta, episode, rate=rate, **settings)
    return value, {name: theta[name].detach() - rate * g for name, g in grads.items()}


def scaled(change):
    def step(forward, theta, episode, **settings):
        value, grads = checks.meta_step.reference(forward, theta, episode, **settings)
        return value, {name: change(g) for name, g in grads.items()}

    return step


def head_by_merging(forward, params, support_x, support_y, *, steps, rate, loss):
    fast = {name: value for name, value in params.items() if name.startswith("head.")}
    for _ in range(steps):
        grads = inner.gradient(loss(forward({**params, **fast}, support_x), support_y), fast, create_graph=True)
        fast = inner.sgd_step(fast, grads, rate)
    return {**params, **fast}


def head_by_masks(forward, params, support_x, support_y, *, steps, rate, loss):
    fast = dict(params)
    for _ in range(steps):
        value = loss(forward(fast, support_x), support_y)
        grads = torch.autograd.grad(value, list(fast.values()), create_graph=True)
        moves = {name: rate * float(name.startswith("head.")) for name in fast}
        fast = {name: fast[name] - moves[name] * g for name, g in zip(fast, grads)}
    return fast


def head_with(chosen=lambda name: name.startswith("head."), factor=1.0, falling=False):
    def head(forward, params, support_x, support_y, *, steps, rate, loss):
        fast = dict(params)
        for t in range(steps):
            grads = inner.gradient(loss(forward(fast, support_x), support_y), fast, create_graph=True)
            size = factor * rate / (t + 1 if falling else 1)
            fast = {name: fast[name] - size * g if chosen(name) else fast[name] for name, g in grads.items()}
        return fast

    return head


def head_of_names(choose):
    """choose(params) → the names that adapt."""

    def head(forward, params, support_x, support_y, **settings):
        chosen = {name: params[name] for name in choose(params)}
        return params | inner.adapt(lambda fast, x: forward(params | fast, x), chosen, support_x, support_y, **settings)

    return head


def head_by_default_loss(forward, params, support_x, support_y, *, steps, rate, loss):
    head = {name: value for name, value in params.items() if name.startswith("head.")}
    return params | inner.adapt(
        lambda fast, x: forward(params | fast, x), head, support_x, support_y, steps=steps, rate=rate
    )


def rates_by_vjp(forward, params, rates, support_x, support_y, query_x, query_y, *, loss):
    grads = {n: g.detach() for n, g in inner.gradient(loss(forward(params, support_x), support_y), params).items()}

    def after(rates):
        phi = {name: params[name].detach() - rates[name] * grads[name] for name in params}
        return loss(forward(phi, query_x), query_y)

    return torch.func.grad(after)({name: rate.detach() for name, rate in rates.items()})


def rates_with(change):
    def wrong(forward, params, rates, *parts, loss):
        right = checks.rates_reference(forward, params, rates, *parts, loss=loss)
        return {name: change(g, rates[name].detach()) for name, g in right.items()}

    return wrong


def rates_uphill(forward, params, rates, *parts, loss):
    """The step climbs; the sign of its derivative is kept."""
    right = checks.rates_reference(forward, params, {name: -rate for name, rate in rates.items()}, *parts, loss=loss)
    return right


def ceiling_by_first(classes):
    known = {}
    pairs = [(one, label) for task in classes.tolist() for label, one in enumerate(task)]
    return torch.tensor(sum(known.setdefault(one, label) == label for one, label in pairs) / len(pairs))


def counts_of(classes):
    """[classes, way]: how often each class has each label."""
    table = torch.zeros(int(classes.max()) + 1, classes.shape[1], dtype=torch.float64)
    for label in range(classes.shape[1]):
        table[:, label] = classes[:, label].bincount(minlength=len(table))
    return table


def ceiling_of(read):
    return lambda classes: read(counts_of(classes), classes)


def ceiling_by_mode(classes):
    right, labels = 0, torch.arange(classes.shape[1]).expand_as(classes)
    for one in classes.unique():
        seen = labels[classes == one]
        right += int((seen == seen.mode().values).sum())
    return right / classes.numel()


def head_of_a_constant_body(forward, params, *sets, **settings):
    body = {name: value.detach() for name, value in params.items() if not name.startswith("head.")}
    adapted = checks.adapt_head.reference(forward, params | body, *sets, **settings)
    return {name: params[name] if name in body else value for name, value in adapted.items()}


def head_returns_at_once(forward, params, support_x, support_y, *, steps, rate, loss):
    for _ in range(steps):
        return head_with()(forward, params, support_x, support_y, steps=1, rate=rate, loss=loss)


def rates_by_place(forward, params, rates, *parts, loss):
    mixed = dict(zip(params, rates.values()))
    right = checks.rates_reference(forward, params, mixed, *parts, loss=loss)
    return {name: right[name] for name in rates}


RIGHT = {
    "meta_step": [step_with(), step_on_leaves],
    "adapt_head": [head_by_merging, head_by_masks],
    "rate_gradient": [rates_by_vjp],
    "ceiling": [ceiling_of(lambda table, classes: (table.amax(1).sum() / table.sum()).item()), ceiling_by_mode],
}

WRONG = {
    "meta_step": {
        "gradient halved": (scaled(lambda g: g / 2), "half of the right ones"),
        "clipped": (scaled(lambda g: g.clamp(-0.1, 0.1)), ""),
        "first-order": (step_with(graph=False), "what the first-order method uses"),
        "rate 0.01": (step_with(at=0.01), ""),
        "unit": (scaled(lambda g: g / g.norm()), ""),
        "all tasks as one": (step_in_one, "adapted together, as one"),
        "old gradients": (step_with_old_gradients, "Each inner step uses the gradient at θ"),
        "both losses": (step_on_both, "The support loss is added"),
        "the step": (step_taken, "This is θ after a step"),
    },
    "adapt_head": {
        "body cut in the return": (
            lambda f, params, *a, **k: (
                {
                    n: v if n.startswith("head.") else v.detach()
                    for n, v in checks.adapt_head.reference(f, params, *a, **k).items()
                }
            ),
            "the body that you return is cut",
        ),
        "body cut in the steps": (head_of_a_constant_body, "in the inner steps the body counts as a constant"),
        "return in the loop": (head_returns_at_once, "Only one step was taken"),
        "bias only": (head_with(lambda name: name == "head.bias"), "Only the bias of the head"),
        "twice the rate": (head_with(factor=2.0), "2 · `rate`"),
        "falling rate": (head_with(falling=True), ""),
        "names with weight": (head_with(lambda name: "weight" in name), "its bias belongs to it"),
        "head in the name": (head_of_names(lambda params: [n for n in params if "head" in n]), "The body moved too"),
        "the last two": (head_of_names(lambda params: list(params)[-2:]), "The body moved too"),
        "cross-entropy": (head_by_default_loss, "pass `loss` on to it"),
    },
    "rate_gradient": {
        "by place": (rates_by_place, "must match the size"),
        "over α": (rates_with(lambda g, a: g / a), "It is divided by α"),
        "half": (rates_with(lambda g, a: g / 2), "half of the right ones"),
        "length": (rates_with(lambda g, a: g.abs()), "These are the sizes"),
        "uphill": (rates_uphill, "The step climbs"),
    },
    "ceiling": {
        "two digits": (
            lambda classes: round(float(checks.ceiling.reference(classes)), 2),
            "digits left behind the point",
        ),
        "squares": (
            ceiling_of(lambda t, c: (t.square().sum(1) / t.sum(1).clamp_min(1)).sum() / c.numel()),
            "as often as its class has it",
        ),
        "percent": (ceiling_of(lambda table, classes: 100 * table.amax(1).sum() / table.sum()), "are they in percent"),
        "any label": (ceiling_of(lambda table, classes: (table > 0).double().mean()), ""),
        "rarest label": (ceiling_of(lambda t, c: t[t.sum(1) > 0].amin(1).sum() / c.numel()), "LEAST often"),
        "first label": (ceiling_by_first, "the label of its first task"),
        "whole numbers": (ceiling_of(lambda table, classes: table.amax(1).sum() // table.sum()), "as `//` gives it"),
    },
}
