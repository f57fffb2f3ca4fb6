"""The checks of notebook 06, each with right and wrong answers."""

from collections import Counter, defaultdict

import pytest
import torch
from check_helpers import SEEDS, assert_check

from mlcourse import datasets, inner
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.lessons.maml import checks
from mlcourse.lessons.maml.fixed_labels import FixedLabels
from mlcourse.teaching import least_squares
from mlcourse.teaching.checks import Check

# ------------------------------------------------------------------ 06.1 one outer step


def sets(episode):
    return zip(episode.support_x, episode.support_y, episode.query_x, episode.query_y)


def step_task_by_task(forward, theta, episode, *, steps, rate, loss):
    """Frees the graph of each task before the next one begins."""
    total, grads = 0.0, {name: torch.zeros_like(value) for name, value in theta.items()}
    for sx, sy, qx, qy in sets(episode):
        phi = inner.adapt(forward, theta, sx, sy, steps=steps, rate=rate, loss=loss)
        value = loss(forward(phi, qx), qy) / episode.tasks
        for name, g in inner.gradient(value, theta).items():
            grads[name] = grads[name] + g
        total += value.item()
    return torch.tensor(total), grads


def step_by_func(forward, theta, episode, *, steps, rate, loss):
    def query_loss(params, sx, sy, qx, qy):
        for _ in range(steps):
            grads = torch.func.grad(lambda p: loss(forward(p, sx), sy))(params)
            params = {name: params[name] - rate * grads[name] for name in params}
        return loss(forward(params, qx), qy)

    def outer(params):
        return torch.func.vmap(query_loss, (None, 0, 0, 0, 0))(
            params, episode.support_x, episode.support_y, episode.query_x, episode.query_y
        ).mean()

    grads, value = torch.func.grad_and_value(outer)({name: value.detach() for name, value in theta.items()})
    return value, grads


def step_float32(forward, theta, episode, *, steps, rate, loss):
    theta = {name: value.float() for name, value in theta.items()}
    parts = [part.float() for part in (episode.support_x, episode.support_y, episode.query_x, episode.query_y)]
    losses = []
    for sx, sy, qx, qy in zip(*parts):
        phi = inner.adapt(forward, theta, sx, sy, steps=steps, rate=rate, loss=loss)
        losses.append(loss(forward(phi, qx), qy))
    value = torch.stack(losses).mean()
    return value, inner.gradient(value, theta)


def step_variant(*, ask="query", learn="support", total=torch.mean, steps_taken=lambda steps: steps, **options):
    """The reference with one thing changed."""

    def step_with_a_mistake(forward, theta, episode, *, steps, rate, loss):
        losses = []
        for sx, sy, qx, qy in sets(episode):
            pick = {"support": (sx, sy), "query": (qx, qy)}
            settings = {"steps": steps_taken(steps), "rate": rate, "loss": loss}
            phi = inner.adapt(forward, theta, *pick[learn], **settings, **options)
            losses.append(loss(forward(phi, pick[ask][0]), pick[ask][1]))
        value = total(torch.stack(losses))
        return value, inner.gradient(value, theta)

    return step_with_a_mistake


def step_sum_of_gradients(forward, theta, episode, *, steps, rate, loss):
    value, grads = step_task_by_task(forward, theta, episode, steps=steps, rate=rate, loss=loss)
    return value, {name: episode.tasks * g for name, g in grads.items()}


def step_at_phi(forward, theta, episode, *, steps, rate, loss):
    total, grads = 0.0, {name: torch.zeros_like(value) for name, value in theta.items()}
    for sx, sy, qx, qy in sets(episode):
        phi = inner.adapt(forward, theta, sx, sy, steps=steps, rate=rate, loss=loss)
        value = loss(forward(phi, qx), qy) / episode.tasks
        grads = {name: grads[name] + g for name, g in zip(theta, torch.autograd.grad(value, list(phi.values())))}
        total += value.item()
    return torch.tensor(total), grads


def step_query_losses(forward, theta, episode, *, steps, rate, loss):
    """The query loss and the fast weights of each task, for the slips below."""
    losses, phis = [], []
    for sx, sy, qx, qy in sets(episode):
        phis.append(inner.adapt(forward, theta, sx, sy, steps=steps, rate=rate, loss=loss))
        losses.append(loss(forward(phis[-1], qx), qy))
    return losses, phis


def step_wants(gradient):
    """The right loss, and gradient(losses, phis, theta)."""

    def step_with_a_mistake(forward, theta, episode, **settings):
        losses, phis = step_query_losses(forward, theta, episode, **settings)
        return torch.stack(losses).mean(), gradient(losses, phis, theta)

    return step_with_a_mistake


def step_of_supports(through):
    """The right loss, and the gradient of the support losses: at θ, or through the inner steps."""

    def step_with_a_mistake(forward, theta, episode, *, steps, rate, loss):
        losses, phis = step_query_losses(forward, theta, episode, steps=steps, rate=rate, loss=loss)
        supports = [loss(forward(phi if through else theta, sx), sy) for phi, (sx, sy, *_) in zip(phis, sets(episode))]
        return torch.stack(losses).mean(), inner.gradient(torch.stack(supports).mean(), theta)

    return step_with_a_mistake


def of_last_phi(losses, phis, theta):
    return inner.gradient(torch.stack(losses).mean(), phis[-1])


def sum_at_phi(losses, phis, theta):
    each = [inner.gradient(value, phi) for value, phi in zip(losses, phis)]
    return {name: sum(grads[name] for grads in each) for name in theta}


def share_of(index):
    return lambda losses, phis, theta: inner.gradient(losses[index] / len(losses), theta)


def step_last_gradient(forward, theta, episode, *, steps, rate, loss):
    losses = []
    for sx, sy, qx, qy in sets(episode):
        phi = inner.adapt(forward, theta, sx, sy, steps=steps, rate=rate, loss=loss)
        losses.append(loss(forward(phi, qx), qy))
    return torch.stack(losses).mean(), inner.gradient(losses[-1], theta)


def step_accumulates(forward, theta, episode, *, steps, rate, loss):
    losses = []
    for sx, sy, qx, qy in sets(episode):
        phi = inner.adapt(forward, theta, sx, sy, steps=steps, rate=rate, loss=loss)
        losses.append(loss(forward(phi, qx), qy))
    value = torch.stack(losses).mean()
    value.backward()
    return value, {name: one.grad.clone() for name, one in theta.items()}


def step_takes_it(forward, theta, episode, *, steps, rate, loss):
    value, grads = step_task_by_task(forward, theta, episode, steps=steps, rate=rate, loss=loss)
    with torch.no_grad():
        for name, one in theta.items():
            one -= 0.1 * grads[name]
    return value, grads


def step_cut(forward, theta, episode, *, steps, rate, loss):
    return step_variant(create_graph=False)(forward, theta, episode, steps=steps, rate=rate, loss=loss)


def step_loss_only(forward, theta, episode, *, steps, rate, loss):
    return step_task_by_task(forward, theta, episode, steps=steps, rate=rate, loss=loss)[0]


def step_carried(forward, theta, episode, *, steps, rate, loss):
    losses, phi = [], theta
    for sx, sy, qx, qy in sets(episode):
        phi = inner.adapt(forward, phi, sx, sy, steps=steps, rate=rate, loss=loss)
        losses.append(loss(forward(phi, qx), qy))
    value = torch.stack(losses).mean()
    return value, inner.gradient(value, theta)


def step_negative(forward, theta, episode, *, steps, rate, loss):
    value, grads = step_task_by_task(forward, theta, episode, steps=steps, rate=rate, loss=loss)
    return value, {name: -g for name, g in grads.items()}


def test_meta_step():
    assert_check(
        checks.meta_step,
        right=[step_task_by_task, step_by_func],
        wrong={
            "float32": (step_float32, "keep the number format"),
            "asks the support": (step_variant(ask="support"), "taken on the support"),
            "adapts on the queries": (step_variant(learn="query"), "adapted on the queries: that is a leak"),
            "no adaptation": (step_variant(steps_taken=lambda steps: 0), "nothing was adapted"),
            "one inner step": (step_variant(steps_taken=lambda steps: min(steps, 1)), "Only one inner step was taken"),
            "sum": (step_variant(total=torch.sum), "Sum instead of mean"),
            "sum of gradients": (step_sum_of_gradients, "is the sum over the tasks, the loss is their mean"),
            "at φ": (step_at_phi, "the gradient at φ, not at θ"),
            "last task": (step_last_gradient, "of the last task alone"),
            "of the last φ": (step_wants(of_last_phi), "as the loop left it"),
            "of the last φ, not the mean": (
                step_wants(lambda losses, phis, theta: inner.gradient(losses[-1], phis[-1])),
                "of the last task at its own φ",
            ),
            "sum at φ": (step_wants(sum_at_phi), "summed over the tasks: two slips"),
            "last share": (step_wants(share_of(-1)), "Only the last task's share"),
            "first share": (step_wants(share_of(0)), "Only the first task's share"),
            "supports at θ": (step_of_supports(False), "which the inner step uses"),
            "supports through the steps": (step_of_supports(True), "support losses through the inner steps"),
            "adds up": (step_accumulates, "`.grad` adds up"),
            "takes the step": (step_takes_it, "changes its input (theta"),
            "cut": (step_cut, "does not require grad"),
            "loss only": (step_loss_only, "it needs a pair"),
            "carried on": (step_carried, "starts where the one before it ended"),
            "negative": (step_negative, "Sign: return the gradient itself"),
        },
    )


def test_first_order_is_called_by_its_name_too():
    verdict = checks.meta_step.run(step_variant(first_order=True))
    assert "what the first-order method uses" in verdict.diagnosis


# ------------------------------------------------------------------ 06.2 the head alone adapts


def head_with_loop(forward, params, support_x, support_y, *, steps, rate, loss):
    fast = dict(params)
    for _ in range(steps):
        names = [name for name in fast if name.startswith("head.")]
        value = loss(forward(fast, support_x), support_y)
        grads = torch.autograd.grad(value, [fast[name] for name in names], create_graph=True)
        fast |= {name: fast[name] - rate * g for name, g in zip(names, grads)}
    return fast


def head_by_zero_rates(forward, params, support_x, support_y, *, steps, rate, loss):
    rates = {name: rate if name.startswith("head.") else 0.0 for name in params}
    return inner.adapt(forward, params, support_x, support_y, steps=steps, rate=rates, loss=loss)


def head_float32(forward, params, support_x, support_y, *, steps, rate, loss):
    params = {name: value.float() for name, value in params.items()}
    return head_with_loop(forward, params, support_x.float(), support_y.float(), steps=steps, rate=rate, loss=loss)


def head_all(forward, params, support_x, support_y, *, steps, rate, loss):
    return inner.adapt(forward, params, support_x, support_y, steps=steps, rate=rate, loss=loss)


def head_swapped(forward, params, support_x, support_y, *, steps, rate, loss):
    rates = {name: 0.0 if name.startswith("head.") else rate for name in params}
    return inner.adapt(forward, params, support_x, support_y, steps=steps, rate=rates, loss=loss)


def head_alone(forward, params, support_x, support_y, *, steps, rate, loss):
    fast = head_with_loop(forward, params, support_x, support_y, steps=steps, rate=rate, loss=loss)
    return {name: value for name, value in fast.items() if name.startswith("head.")}


def head_frozen_for_ever(forward, params, support_x, support_y, *, steps, rate, loss):
    params = {name: value if name.startswith("head.") else value.detach() for name, value in params.items()}
    return head_with_loop(forward, params, support_x, support_y, steps=steps, rate=rate, loss=loss)


def head_first_order(forward, params, support_x, support_y, *, steps, rate, loss):
    rates = {name: rate if name.startswith("head.") else 0.0 for name in params}
    settings = {"steps": steps, "rate": rates, "loss": loss, "first_order": True}
    return inner.adapt(forward, params, support_x, support_y, **settings)


def head_one_step(forward, params, support_x, support_y, *, steps, rate, loss):
    return head_with_loop(forward, params, support_x, support_y, steps=1, rate=rate, loss=loss)


def head_ascends(forward, params, support_x, support_y, *, steps, rate, loss):
    return head_with_loop(forward, params, support_x, support_y, steps=steps, rate=-rate, loss=loss)


def head_in_place(forward, params, support_x, support_y, *, steps, rate, loss):
    params |= head_with_loop(forward, dict(params), support_x, support_y, steps=steps, rate=rate, loss=loss)
    return params


def head_weight_only(forward, params, support_x, support_y, *, steps, rate, loss):
    rates = {name: rate if name == "head.weight" else 0.0 for name in params}
    return inner.adapt(forward, params, support_x, support_y, steps=steps, rate=rates, loss=loss)


def head_old_gradient(forward, params, support_x, support_y, *, steps, rate, loss):
    once = head_with_loop(forward, params, support_x, support_y, steps=1, rate=rate, loss=loss)
    return {name: params[name] + steps * (once[name] - params[name]) for name in params}


def head_nothing(forward, params, support_x, support_y, *, steps, rate, loss):
    return dict(params)


def head_merged(*, in_forward=False, in_return=False):
    """Exercise 06.2 with `fast | params` in one of its two places."""

    def head_with_a_mistake(forward, params, support_x, support_y, *, steps, rate, loss):
        def with_body(fast, x):
            return forward(fast | params if in_forward else params | fast, x)

        head = {name: value for name, value in params.items() if name.startswith("head.")}
        fast = inner.adapt(with_body, head, support_x, support_y, steps=steps, rate=rate, loss=loss)
        return fast | params if in_return else params | fast

    return head_with_a_mistake


def head_of_all(forward, params, support_x, support_y, *, steps, rate, loss):
    fast = inner.adapt(forward, params, support_x, support_y, steps=steps, rate=rate, loss=loss)
    return params | {name: value for name, value in fast.items() if name.startswith("head.")}


def head_body_constant_inside(forward, params, support_x, support_y, **settings):
    still = {name: value if name.startswith("head.") else value.detach() for name, value in params.items()}
    fast = head_with_loop(forward, still, support_x, support_y, **settings)
    return params | {name: value for name, value in fast.items() if name.startswith("head.")}


def head_more(steps_more):
    def head_with_a_mistake(forward, params, support_x, support_y, *, steps, rate, loss):
        return head_with_loop(forward, params, support_x, support_y, steps=steps + steps_more, rate=rate, loss=loss)

    return head_with_a_mistake


def test_adapt_head():
    assert_check(
        checks.adapt_head,
        right=[head_with_loop, head_by_zero_rates],
        wrong={
            "float32": (head_float32, "keep the number format"),
            "all": (head_all, "The body moved too"),
            "swapped": (head_swapped, "the other way round"),
            "head alone": (head_alone, "with all names of params"),
            "frozen for ever": (head_frozen_for_ever, "no meta-gradient reaches the body"),
            "first order": (head_first_order, "the inner gradients count as constants"),
            "one step": (head_one_step, "Only one step was taken"),
            "ascends": (head_ascends, "This ascends"),
            "in place": (head_in_place, "changes its input (params"),
            "weight only": (head_weight_only, "its bias belongs to it"),
            "old gradient": (head_old_gradient, "uses the gradient at the start"),
            "nothing": (head_nothing, "Nothing moved"),
            "merged in forward": (head_merged(in_forward=True), "not `forward(fast | params, x)`"),
            "merged in return": (head_merged(in_return=True), "not `fast | params`."),
            "head of all": (head_of_all, "where ALL parameters together would have led it"),
            "body constant inside": (head_body_constant_inside, "in the inner steps the body counts as a constant"),
            "a step less": (head_more(-1), "One step is missing"),
            "a step more": (head_more(1), "One step too many"),
        },
    )


# ------------------------------------------------------------------ 06.3 the gradient of learned rates


def rates_by_formula(forward, params, rates, support_x, support_y, query_x, query_y, *, loss):
    g = inner.gradient(loss(forward(params, support_x), support_y), params)
    phi = {name: (params[name] - rates[name] * g[name]).detach().requires_grad_() for name in params}
    q = inner.gradient(loss(forward(phi, query_x), query_y), phi)
    return {name: -g[name] * q[name] for name in params}


def rates_by_differences(forward, params, rates, support_x, support_y, query_x, query_y, *, loss, h=1e-5):
    def value(moved):
        phi = inner.adapt(forward, params, support_x, support_y, steps=1, rate=moved, loss=loss, create_graph=False)
        return loss(forward(phi, query_x), query_y).detach()

    slopes = {name: torch.zeros(rate.shape, dtype=rate.dtype) for name, rate in rates.items()}
    for name, rate in rates.items():
        for index in range(rate.numel()):
            move = torch.zeros(rate.shape, dtype=rate.dtype)  # in one piece, unlike some rates of the lesson
            move.view(-1)[index] = h
            ends = [value(rates | {name: (rate + sign * move).detach()}) for sign in (1, -1)]
            slopes[name].view(-1)[index] = (ends[0] - ends[1]) / (2 * h)
    return slopes


def rates_by_func(forward, params, rates, support_x, support_y, query_x, query_y, *, loss):
    theta = {name: value.detach() for name, value in params.items()}
    slopes = torch.func.grad(lambda at: loss(forward(at, support_x), support_y))(theta)

    def outer(rates):
        phi = {name: theta[name] - rates[name] * slopes[name] for name in theta}
        return loss(forward(phi, query_x), query_y)

    return torch.func.grad(outer)({name: rate.detach() for name, rate in rates.items()})


def rates_float32(forward, params, rates, support_x, support_y, query_x, query_y, *, loss):
    params, rates = ({name: v.detach().float().requires_grad_() for name, v in d.items()} for d in (params, rates))
    parts = [part.float() for part in (support_x, support_y, query_x, query_y)]
    return checks.rates_reference(forward, params, rates, *parts, loss=loss)


def rates_variant(make):
    """make(g, q at φ, q at θ, rates, gradient function) gives the wrong gradient of one parameter."""

    def rates_with_a_mistake(forward, params, rates, support_x, support_y, query_x, query_y, *, loss):
        def slope(at, x, y):
            at = {name: value.detach().requires_grad_() for name, value in at.items()}
            return inner.gradient(loss(forward(at, x), y), at)

        g = slope(params, support_x, support_y)
        phi = {name: params[name] - rates[name] * g[name] for name in params}
        seen = {
            "g": g,
            "q": slope(phi, query_x, query_y),
            "q at θ": slope(params, query_x, query_y),
            "s at φ": slope(phi, support_x, support_y),
            "rate": rates,
        }
        return {name: make({what: value[name] for what, value in seen.items()}).detach() for name in params}

    return rates_with_a_mistake


def rates_of_theta(forward, params, rates, support_x, support_y, query_x, query_y, *, loss):
    phi = inner.adapt(forward, params, support_x, support_y, steps=1, rate=rates, loss=loss)
    return inner.gradient(loss(forward(phi, query_x), query_y), params)


def rates_swapped(forward, params, rates, support_x, support_y, query_x, query_y, *, loss):
    return rates_by_formula(forward, params, rates, query_x, query_y, support_x, support_y, loss=loss)


def rates_cut(forward, params, rates, support_x, support_y, query_x, query_y, *, loss):
    loose = {name: rate.detach() for name, rate in rates.items()}
    phi = inner.adapt(forward, params, support_x, support_y, steps=1, rate=loose, loss=loss)
    return inner.gradient(loss(forward(phi, query_x), query_y), rates)


def test_rate_gradient():
    assert_check(
        checks.rate_gradient,
        right=[rates_by_formula, rates_by_func],
        wrong={
            "float32": (rates_float32, "keep the number format"),
            "differences": (rates_by_differences, "Near, and not exact"),
            "sign": (rates_variant(lambda s: s["g"] * s["q"]), "Sign: φ = θ − α·g"),
            "at θ": (rates_variant(lambda s: -s["g"] * s["q at θ"]), "it belongs to φ"),
            "support twice": (rates_variant(lambda s: -s["g"] * s["s at φ"]), "the support loss in both places"),
            "g at φ": (rates_variant(lambda s: -s["s at φ"] * s["q"]), "The gradient of the step is taken at φ"),
            "places": (rates_variant(lambda s: -s["s at φ"] * s["q at θ"]), "The two places are swapped"),
            "losses": (rates_swapped, "The two losses are swapped"),
            "∂L/∂φ": (rates_variant(lambda s: s["q"]), "it lacks the factor dφ/dα"),
            "dφ/dα": (rates_variant(lambda s: -s["g"]), "This is dφ/dα alone"),
            "α in front": (rates_variant(lambda s: -s["rate"] * s["g"] * s["q"]), "φ is linear in α"),
            "one number each": (rates_variant(lambda s: (-s["g"] * s["q"]).sum()), "shape"),
            "of θ": (rates_of_theta, "with respect to θ, which exists too"),
            "cut": (rates_cut, "The gradient is zero everywhere"),
        },
    )


# ------------------------------------------------------------------ 06.4 what labels give away


def ceiling_by_loop(classes):
    counts = defaultdict(Counter)
    for task in classes.tolist():
        for label, one in enumerate(task):
            counts[one][label] += 1
    return sum(max(c.values()) for c in counts.values()) / classes.numel()


def ceiling_by_one_hot(classes):
    way = classes.shape[1]
    here = classes.unsqueeze(-1) == torch.arange(int(classes.max()) + 1)  # [tasks, way, classes]
    table = here.sum(0).float()  # [way, classes]
    assert table.shape[0] == way
    return table.max(0).values.sum() / classes.numel()


def ceiling_counts(classes):
    return torch.stack([(classes == one).sum(0) for one in classes.unique()]).double()


def ceiling_wrong_axis(classes):
    return ceiling_counts(classes).max(0).values.sum() / classes.numel()


def ceiling_by_classes(classes):
    return ceiling_counts(classes).max(1).values.mean()


def ceiling_guess(classes):
    return 1 / classes.shape[1]


def ceiling_of_classes(classes):
    table = torch.stack([(classes == one).sum(0) for one in classes.unique()]).double()
    return (table.max(1).values / table.sum(1)).mean()


def ceiling_never_changes(classes):
    table = torch.stack([(classes == one).sum(0) for one in classes.unique()])
    return ((table > 0).sum(1) == 1).double().mean()


def ceiling_by_tasks(classes):
    return ceiling_by_loop(classes) * classes.shape[1]


def ceiling_number(classes):
    return ceiling_by_loop(classes) * classes.numel()


def ceiling_wrong_share(classes):
    return 1 - ceiling_by_loop(classes)


def ceiling_modulo(classes):
    return (classes % classes.shape[1] == torch.arange(classes.shape[1])).double().mean()


def test_ceiling():
    assert_check(
        checks.ceiling,
        right=[ceiling_by_loop, ceiling_by_one_hot],
        wrong={
            "guess": (ceiling_guess, "This is 1/way, guessing"),
            "mean over classes": (ceiling_of_classes, "the mean over classes"),
            "never changes": (ceiling_never_changes, "whose label never changes"),
            "wrong axis": (ceiling_wrong_axis, "the class that comes most often under it"),
            "by classes": (ceiling_by_classes, "divided by the number of classes"),
            "by tasks": (ceiling_by_tasks, "divided by the number of tasks"),
            "number": (ceiling_number, "the number of right answers"),
            "wrong share": (ceiling_wrong_share, "the share of wrong answers"),
            "modulo": (ceiling_modulo, "The best rule is right for"),
        },
    )


# ------------------------------------------------------------------ the oracles, and the tasks with fixed labels


def test_the_closed_form_of_the_head_is_its_path():
    for seed in SEEDS:
        given = checks.head_inputs(torch.Generator().manual_seed(seed))
        params = {name: given[name] for name in ("body", *checks.HEAD)}
        fast = checks.adapt_head.reference(
            checks.body_and_head,
            {name: value.clone().requires_grad_() for name, value in params.items()},
            given["support_x"],
            given["support_y"],
            steps=checks.HEAD_STEPS,
            rate=given["rate"],
            loss=least_squares.tilted,
        )
        mine = least_squares.tilted(checks.body_and_head(fast, given["query_x"]), given["query_y"])
        head = torch.cat([params["head.weight"], params["head.bias"].reshape(1)])
        assert torch.allclose(mine, checks.head_loss(params["body"], head, given), rtol=1e-12)


def test_a_class_has_one_label_with_fixed_labels_and_all_with_shuffled_ones():
    data = datasets.load("glyphs", "train").select(torch.arange(23))
    for sampler, expected in ((FixedLabels(data, 5, 1, 2), 1.0), (EpisodeSampler(data, 5, 1, 2), 0.2)):
        episode = sampler.sample(2000, torch.Generator().manual_seed(0))
        assert abs(checks.ceiling.reference(episode.classes).item() - expected) < 0.05
        assert episode.classes.unique().numel() == (20 if expected == 1.0 else 23)
        picture = data.images[episode.query_index[3]].float() / 255
        assert torch.equal(episode.query_x[3], picture)
        starts = data.first[episode.classes].repeat_interleave(2, 1)
        inside = episode.query_index - starts
        assert inside.min() >= 0
        assert inside.max() < 20


def test_fixed_labels_refuse_what_episodes_refuse():
    data = datasets.load("glyphs", "test").select(torch.arange(4))
    with pytest.raises(CourseError, match="way 5 is more than the 4 classes"):
        FixedLabels(data, 5, 1, 2)


def test_references_pass_many_problems():
    for check in vars(checks).values():
        if isinstance(check, Check):
            for seed in range(5, 20):
                assert check.run(check.reference, seed=seed).passed


def test_a_loss_that_is_no_tensor_is_refused_as_the_lesson_would():
    def my_step(*args, **kwargs):
        value, grads = checks.meta_step.reference(*args, **kwargs)
        return value.item(), grads

    assert "the outer loss must be a tensor" in checks.meta_step.run(my_step).diagnosis
