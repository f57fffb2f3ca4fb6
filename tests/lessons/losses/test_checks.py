"""The checks of notebook 01 against right answers written differently, and against mistakes that learners make."""

import inspect

import pytest
import torch
from check_helpers import SEEDS, assert_check
from torch.func import jacrev, vjp

from mlcourse import inner
from mlcourse.lessons.losses import checks
from mlcourse.teaching import least_squares
from mlcourse.teaching.checks import Check


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


# ------------------------------------------------------------------ 01.1 one inner step


def step_with_loop(params, grads, rate):
    new = {}
    for name in params:
        new[name] = torch.add(params[name], grads[name], alpha=-rate)
    return new


def step_by_pairs(params, grads, rate):
    steps = [(-rate * grads[name]).add(value) for name, value in params.items()]
    return dict(zip(params, steps))


def step_float32(params, grads, rate):
    return {name: params[name].float() - rate * grads[name].float() for name in params}


def step_ascends(params, grads, rate):
    return {name: params[name] + rate * grads[name] for name in params}


def step_without_rate(params, grads, rate):
    return {name: params[name] - grads[name] for name in params}


def step_alone(params, grads, rate):
    return {name: -rate * grads[name] for name in params}


def step_of_nothing(params, grads, rate):
    return dict(params)


def step_in_place(params, grads, rate):
    for name in params:
        params[name] -= rate * grads[name]
    return params


def step_into_the_same_dictionary(params, grads, rate):
    params.update(inner.sgd_step(params, grads, rate))
    return params


def step_detached(params, grads, rate):
    return {name: value.detach() for name, value in inner.sgd_step(params, grads, rate).items()}


def step_without_graph(params, grads, rate):
    with torch.no_grad():
        return inner.sgd_step(params, grads, rate)


def step_scaled_by_itself(params, grads, rate):
    return {name: params[name] * (1 - rate * grads[name]) for name in params}


def step_as_list(params, grads, rate):
    return list(inner.sgd_step(params, grads, rate).values())


def step_of_one_name(params, grads, rate):
    name = next(iter(params))
    return {name: params[name] - rate * grads[name]}


def step_transposed(params, grads, rate):
    new = inner.sgd_step(params, grads, rate)
    name = next(iter(new))
    return new | {name: new[name].T}


def test_sgd_step():
    assert_check(
        checks.sgd_step,
        right=[step_with_loop, step_by_pairs],
        wrong={
            "float32": (step_float32, "keep the number format"),
            "ascends": (step_ascends, "this ascends"),
            "no rate": (step_without_rate, "rate is missing"),
            "step alone": (step_alone, "the step alone"),
            "nothing": (step_of_nothing, "nothing moved"),
            "in place": (step_in_place, "changes its input (params['layer.weight'], params['layer.bias']) in place"),
            "detached": (step_detached, "cut from the graph"),
            "scaled": (step_scaled_by_itself, "multiplied the parameters"),
            "list": (step_as_list, "a new dictionary with a tensor for each name"),
            "transposed": (step_transposed, "shape (2, 3)"),
        },
    )
    for answer, words in (
        (step_into_the_same_dictionary, "in place"),
        (step_without_graph, "cut from the graph"),
        (step_of_one_name, "a tensor for each name"),
    ):
        assert words in checks.sgd_step.run(answer).diagnosis


# ------------------------------------------------------------------ 01.2 the outer loss


def rows(episode):
    return zip(episode.support_x, episode.support_y, episode.query_x, episode.query_y)


def outer_with_loop(forward, theta, episode, *, steps, rate, loss, first_order=False):
    total = 0.0
    for i in range(episode.tasks):
        phi = theta
        for _ in range(steps):
            value = loss(forward(phi, episode.support_x[i]), episode.support_y[i])
            grads = torch.autograd.grad(value, list(phi.values()), create_graph=not first_order)
            phi = {name: phi[name] - rate * g for name, g in zip(phi, grads)}
        total = total + loss(forward(phi, episode.query_x[i]), episode.query_y[i])
    return total / episode.tasks


def outer_by_sum(forward, theta, episode, *, steps, rate, loss, first_order=False):
    settings = {"steps": steps, "rate": rate, "loss": loss, "first_order": first_order}
    phis = [inner.adapt(forward, theta, sx, sy, **settings) for sx, sy, *_ in rows(episode)]
    return sum(loss(forward(phi, x), y) for phi, (*_, x, y) in zip(phis, rows(episode))) / len(phis)


def outer_float32(forward, theta, episode, *, steps, rate, loss, first_order=False):
    small = {name: value.float() for name, value in theta.items()}
    one = [
        loss(
            forward(inner.adapt(forward, small, sx, sy, steps=steps, rate=rate, loss=loss, first_order=first_order), x),
            y,
        )
        for sx, sy, x, y in ((t.float() for t in row) for row in rows(episode))
    ]
    return sum(one) / len(one)


def outer_variant(change):
    """The right answer with one mistake: change(adapt, losses-of-one-task) is spelt out at each use below."""

    def outer_with_a_mistake(forward, theta, episode, *, steps, rate, loss, first_order=False):
        def adapt(x, y, params=theta, steps=steps, first_order=first_order, **options):
            return inner.adapt(
                forward, params, x, y, steps=steps, rate=rate, loss=loss, first_order=first_order, **options
            )

        return change(adapt, lambda phi, x, y: loss(forward(phi, x), y), theta, episode, steps)

    return outer_with_a_mistake


def mean(values):
    return torch.stack(list(values)).mean()


def carried_over(adapt, loss, theta, episode, steps):
    values, phi = [], theta
    for sx, sy, x, y in rows(episode):
        phi = adapt(sx, sy, params=phi)
        values.append(loss(phi, x, y))
    return mean(values)


OUTER_MISTAKES = {
    "on the support": (
        lambda a, loss, th, e, s: mean(loss(a(sx, sy), sx, sy) for sx, sy, x, y in rows(e)),
        "query loss is taken on the support",
    ),
    "not adapted": (
        lambda a, loss, th, e, s: mean(loss(th, x, y) for sx, sy, x, y in rows(e)),
        "loss of joint training",
    ),
    "support loss at the start": (
        lambda a, loss, th, e, s: mean(loss(th, sx, sy) for sx, sy, x, y in rows(e)),
        "support loss at θ",
    ),
    "leak": (
        lambda a, loss, th, e, s: mean(loss(a(x, y), x, y) for sx, sy, x, y in rows(e)),
        "adapted on the queries: that is a leak",
    ),
    "sum": (
        lambda a, loss, th, e, s: e.tasks * mean(loss(a(sx, sy), x, y) for sx, sy, x, y in rows(e)),
        "Sum instead of mean",
    ),
    "first task": (
        lambda a, loss, th, e, s: next(loss(a(sx, sy), x, y) for sx, sy, x, y in rows(e)),
        "Only the first task counts",
    ),
    "last task": (
        lambda a, loss, th, e, s: [loss(a(sx, sy), x, y) for sx, sy, x, y in rows(e)][-1],
        "Only the last task counts",
    ),
    "carried over": (carried_over, "starts where the one before it ended"),
    "one step": (
        lambda a, loss, th, e, s: mean(loss(a(sx, sy, steps=min(s, 1)), x, y) for sx, sy, x, y in rows(e)),
        "Only one inner step",
    ),
    "first-order": (
        lambda a, loss, th, e, s: mean(loss(a(sx, sy, first_order=True), x, y) for sx, sy, x, y in rows(e)),
        "first-order gradient: the term through the inner step is missing",
    ),
    "no graph": (
        lambda a, loss, th, e, s: mean(loss(a(sx, sy, create_graph=False), x, y) for sx, sy, x, y in rows(e)),
        "no gradient reaches θ",
    ),
    "option ignored": (
        lambda a, loss, th, e, s: mean(loss(a(sx, sy, first_order=False), x, y) for sx, sy, x, y in rows(e)),
        "first_order=True changes nothing",
    ),
    "steps ignored": (
        lambda a, loss, th, e, s: mean(loss(a(sx, sy, steps=2), x, y) for sx, sy, x, y in rows(e)),
        "With steps=0",
    ),
    "a number": (
        lambda a, loss, th, e, s: mean(loss(a(sx, sy), x, y) for sx, sy, x, y in rows(e)).item(),
        "has no graph",
    ),
    "one for each task": (
        lambda a, loss, th, e, s: torch.stack([loss(a(sx, sy), x, y) for sx, sy, x, y in rows(e)]),
        "shape (3,)",
    ),
    "halved": (
        lambda a, loss, th, e, s: mean(loss(a(sx, sy), x, y) for sx, sy, x, y in rows(e)) / 2,
        "The outer loss of this problem is",
    ),
}


def test_outer_loss():
    assert_check(
        checks.outer_loss,
        right=[outer_with_loop, outer_by_sum],
        wrong={name: (outer_variant(change), words) for name, (change, words) in OUTER_MISTAKES.items()}
        | {"float32": (outer_float32, "keep the number format")},
    )


# ------------------------------------------------------------------ 01.3 the total derivative


def terms(outer, update, theta):
    """The pieces: direct, J, ∂L_outer/∂φ."""
    start = theta.detach().clone().requires_grad_()
    phi = update(start)
    jacobian = torch.stack([torch.autograd.grad(one, start, retain_graph=True)[0] for one in phi])
    held = phi.detach().requires_grad_()
    leaves = (start, held)
    direct, pulled = torch.autograd.grad(outer(*leaves), leaves, allow_unused=True, materialize_grads=True)
    return direct, jacobian, pulled


def derivative_with_jacobian(outer, update, theta):
    direct, jacobian, pulled = terms(outer, update, theta)
    return direct, torch.stack([jacobian[:, i] @ pulled for i in range(len(theta))])


def derivative_with_vjp(outer, update, theta):
    direct, _, pulled = terms(outer, update, theta)
    return direct, torch.autograd.functional.vjp(update, theta, pulled)[1]


def derivative_by_func(outer, update, theta):
    phi, back = vjp(update, theta)
    direct, pulled = torch.func.grad(outer, (0, 1))(theta, phi)
    return direct, back(pulled)[0]


def derivative_forward(outer, update, theta):
    """Right where `update` is a formula. The lesson's takes autograd.grad, which forward mode cannot see."""
    phi, jacobian = update(theta), torch.func.jacfwd(update)(theta)
    return jacrev(outer, 0)(theta, phi), jacobian.T @ jacrev(outer, 1)(theta, phi)


def derivative_as_difference(outer, update, theta):
    start = theta.clone().requires_grad_()
    (total,) = torch.autograd.grad(outer(start, update(start)), start)
    held = outer(start, update(start).detach())
    direct = torch.autograd.grad(held, start)[0] if held.requires_grad else torch.zeros_like(start)
    return direct, total - direct


def derivative_float32(outer, update, theta):
    return derivative_with_vjp(outer, update, theta.float())


def derivative_swapped(outer, update, theta):
    return derivative_with_vjp(outer, update, theta)[::-1]


def derivative_first_order(outer, update, theta):
    direct, _, pulled = terms(outer, update, theta)
    return direct, pulled


def derivative_not_transposed(outer, update, theta):
    direct, jacobian, pulled = terms(outer, update, theta)
    return direct, jacobian @ pulled


def derivative_forgotten(outer, update, theta):
    direct, _, _ = terms(outer, update, theta)
    return direct, torch.zeros_like(direct)


def derivative_at_the_start(outer, update, theta):
    direct, jacobian, _ = terms(outer, update, theta)
    return direct, jacobian.T @ jacrev(outer, 1)(theta, theta)


def derivative_total_first(outer, update, theta):
    direct, through = derivative_with_vjp(outer, update, theta)
    return direct + through, through


def derivative_total_second(outer, update, theta):
    direct, through = derivative_with_vjp(outer, update, theta)
    return direct, direct + through


def derivative_no_direct(outer, update, theta):
    direct, through = derivative_with_vjp(outer, update, theta)
    return torch.zeros_like(direct), through


def derivative_pulled_first(outer, update, theta):
    _, through = derivative_with_vjp(outer, update, theta)
    return terms(outer, update, theta)[2], through


def derivative_summed(outer, update, theta):
    direct, through = derivative_with_vjp(outer, update, theta)
    return direct + through


def derivative_of_decay_only(outer, update, theta):
    start = theta.detach().requires_grad_()
    phi = update(start)
    held = phi.detach().requires_grad_()
    direct, pulled = torch.autograd.grad(outer(start, held), (start, held))
    return direct, torch.autograd.grad(phi, start, grad_outputs=pulled)[0]


def derivative_negative(outer, update, theta):
    direct, through = derivative_with_vjp(outer, update, theta)
    return direct, -through


def test_total_derivative():
    assert_check(
        checks.total_derivative,
        right=[
            derivative_with_jacobian,
            derivative_with_vjp,
            derivative_by_func,
            derivative_as_difference,
            derivative_float32,
        ],
        wrong={
            "swapped": (derivative_swapped, "swapped"),
            "first-order": (derivative_first_order, "first-order gradient: the term through the inner step is missing"),
            "not transposed": (derivative_not_transposed, "not by its transpose"),
            "forgotten": (derivative_forgotten, "The second term is zero"),
            "at the start": (derivative_at_the_start, "taken at φ = θ"),
            "total first": (derivative_total_first, "first term holds the total"),
            "total second": (derivative_total_second, "second term is the total"),
            "no direct term": (derivative_no_direct, "Your first term is zero"),
            "∂/∂φ first": (derivative_pulled_first, "Your first term is ∂L_outer/∂φ"),
            "one tensor": (derivative_summed, "a pair of tensors"),
            "negative": (derivative_negative, "is off by"),
            "θ without gradients": (derivative_forward, "it needs a theta that requires grad"),
            "needs θ in the loss": (derivative_of_decay_only, "to not have been used in the graph"),
        },
    )


# ------------------------------------------------------------------ 01.4 where MAML stops


def start_with_loop(a, c, *, rate, steps):
    top = bottom = 0.0
    for curvature, centre in zip(a.tolist(), c.tolist()):
        weight = curvature
        for _ in range(2 * steps):
            weight *= 1 - rate * curvature
        top, bottom = top + weight * centre, bottom + weight
    return top / bottom


def start_float32(a, c, *, rate, steps):
    weight = (a * (1 - rate * a).pow(2 * steps)).float()
    return weight @ c.float() / weight.sum()


def start_by_descent(a, c, *, rate, steps):
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    for _ in range(12):  # Newton's method: on a quadratic the first step is exact
        phi = c + (1 - rate * a) ** steps * (theta - c)
        slope = torch.autograd.grad((0.5 * a * (phi - c) ** 2).sum(), theta, create_graph=True)[0]
        bend = torch.autograd.grad(slope, theta)[0]
        theta = (theta - slope / bend).detach().requires_grad_()
    return theta.detach()


def start_with_a_graph(a, c, *, rate, steps):
    return start_by_descent(a, c, rate=rate, steps=steps).requires_grad_()


def start_weighted(weight, exponent=1):
    def start_with_other_weights(a, c, *, rate, steps):
        w = weight(a, (1 - rate * a) ** (steps * exponent))
        return (w * c).sum() / w.sum()

    return start_with_other_weights


def start_not_divided(a, c, *, rate, steps):
    return (a * (1 - rate * a) ** (2 * steps) * c).sum()


def start_divided_by_number(a, c, *, rate, steps):
    return start_not_divided(a, c, rate=rate, steps=steps) / len(c)


def start_one_step(a, c, *, rate, steps):
    return checks.common_start.reference(a, c, rate=rate, steps=1)


def start_of_each(a, c, *, rate, steps):
    return a * (1 - rate * a) ** (2 * steps) * c


def start_plus_rate(a, c, *, rate, steps):
    return checks.common_start.reference(a, c, rate=-rate, steps=steps)


def test_common_start():
    assert_check(
        checks.common_start,
        right=[start_with_loop, start_float32, start_by_descent],
        wrong={
            "joint": (start_weighted(lambda a, s: a), "weights of joint training"),
            "first-order": (start_weighted(lambda a, s: a * s), "weights of first-order MAML"),
            "no curvature": (start_weighted(lambda a, s: s, 2), "curvature is missing"),
            "Reptile": (start_weighted(lambda a, s: 1 - s), "weights of Reptile"),
            "plain mean": (start_weighted(lambda a, s: torch.ones_like(a)), "plain mean of c"),
            "not divided": (start_not_divided, "do not add up to 1"),
            "divided by the number": (start_divided_by_number, "divided by the number of tasks"),
            "one step": (start_one_step, "The steps do not count"),
            "one for each task": (start_of_each, "one number"),
            "graph": (start_with_a_graph, "still asks for gradients"),
            "1 + αa": (start_plus_rate, "the start is"),
        },
    )


# ------------------------------------------------------------------ 01.5 the inner loop


def adapt_with_loop(forward, params, x, y, *, steps, rate, loss, first_order=False):
    for _ in range(steps):
        value = loss(forward(params, x), y)
        grads = torch.autograd.grad(value, tuple(params.values()), create_graph=True)
        if first_order:
            grads = [g.detach() for g in grads]
        params = {name: params[name] - rate * g for name, g in zip(params, grads)}
    return params


def adapt_by_func(forward, params, x, y, *, steps, rate, loss, first_order=False):
    for _ in range(steps):
        grads = torch.func.grad(lambda p: loss(forward(p, x), y))(params)
        params = {
            name: params[name] - rate * (g.detach() if first_order else g) for name, g in zip(params, grads.values())
        }
    return params


def adapt_float32(forward, params, x, y, *, steps, rate, loss, first_order=False):
    params = {name: value.float() for name, value in params.items()}
    return adapt_with_loop(
        forward, params, x.float(), y.float(), steps=steps, rate=rate, loss=loss, first_order=first_order
    )


def adapt_variant(
    *, create_graph=True, sign=1.0, change=lambda params: params, steps_taken=lambda steps: steps, fresh=True, cut=True
):
    def adapt_with_a_mistake(forward, params, x, y, *, steps, rate, loss, first_order=False):
        start, params = params, change(params)
        for _ in range(steps_taken(steps)):
            at = params if fresh else start
            grads = inner.gradient(loss(forward(at, x), y), at, create_graph=create_graph and not (first_order and cut))
            params = inner.sgd_step(params, grads, sign * rate)
        return params

    return adapt_with_a_mistake


def adapt_in_place(forward, params, x, y, *, steps, rate, loss, first_order=False):
    for _ in range(steps):
        grads = inner.gradient(loss(forward(params, x), y), params, create_graph=not first_order)
        for name in params:
            params[name] = params[name] - rate * grads[name]
    return params


def adapt_detached(forward, params, x, y, *, steps, rate, loss, first_order=False):
    return inner.adapt(forward, params, x, y, steps=steps, rate=rate, loss=loss, create_graph=False)


def adapt_cut_too_much(forward, params, x, y, *, steps, rate, loss, first_order=False):
    return inner.adapt(forward, params, x, y, steps=steps, rate=rate, loss=loss, create_graph=not first_order)


def adapt_to_nothing(forward, params, x, y, *, steps, rate, loss, first_order=False):
    return dict(params)


def adapt_to_list(forward, params, x, y, *, steps, rate, loss, first_order=False):
    return list(params.values())


def test_adapt():
    assert_check(
        checks.adapt,
        right=[adapt_with_loop, adapt_by_func, adapt_float32],
        wrong={
            "first-order": (adapt_variant(create_graph=False), "first-order gradient: the term through the inner step"),
            "ascends": (adapt_variant(sign=-1.0), "this ascends the inner loss"),
            "one step": (adapt_variant(steps_taken=lambda steps: min(steps, 1)), "Only one step was taken"),
            "old gradient": (adapt_variant(fresh=False), "Each step uses the gradient at θ"),
            "one too many": (adapt_variant(steps_taken=lambda steps: steps + bool(steps)), "One step too many"),
            "one too few": (adapt_variant(steps_taken=lambda steps: max(steps - (steps > 1), 0)), "One step too few"),
            "starts with a step": (adapt_variant(steps_taken=lambda steps: max(steps, 1)), "With steps=0"),
            "in place": (adapt_in_place, "changes its input (params"),
            "detached": (adapt_detached, "no gradient reaches θ: something on the way"),
            "option ignored": (adapt_variant(cut=False), "first_order=True changes nothing"),
            "cut too much": (adapt_cut_too_much, "With first_order=True no gradient reaches θ"),
            "nothing": (adapt_to_nothing, "Nothing moved"),
            "list": (adapt_to_list, "the fast weights, a dictionary"),
        },
    )


# ------------------------------------------------------------------ all of them


def test_references_pass_many_problems():
    for check in vars(checks).values():
        if isinstance(check, Check):
            for seed in range(5, 20):
                assert check.run(check.reference, seed=seed).passed


def test_the_oracle_is_the_package_in_closed_form():
    """`_Task` shares no code with `inner`: value, path and response agree to rounding."""
    for seed in SEEDS:
        given = checks.adapt_inputs(torch.Generator().manual_seed(seed))
        theta = least_squares.flat(given)
        task = least_squares.LeastSquares(given["support_x"], given["support_y"])

        def landed(vector, given=given):
            params = {"w": vector[:2], "b": vector[2]}
            x, y, rate = given["support_x"], given["support_y"], given["rate"]
            return least_squares.flat(
                inner.adapt(least_squares.forward, params, x, y, steps=3, rate=rate, loss=least_squares.tilted)
            )

        leaf = theta.clone().requires_grad_()
        assert torch.allclose(landed(leaf), task.adapted(theta, given["rate"], 3), rtol=0, atol=1e-12)
        jacobian = torch.autograd.functional.jacobian(landed, leaf)
        assert torch.allclose(jacobian, task.response(given["rate"], 3), rtol=0, atol=1e-12)


def test_the_reference_of_the_outer_loss_takes_the_first_order():
    assert "first_order" in inspect.signature(checks.outer_loss.reference).parameters


def test_the_given_loss_is_called_and_in_its_order():
    def swapped(forward, theta, episode, *, steps, rate, loss, first_order=False):
        values = []
        for sx, sy, x, y in rows(episode):
            phi = inner.adapt(forward, theta, sx, sy, steps=steps, rate=rate, loss=loss, first_order=first_order)
            values.append(loss(y, forward(phi, x)))
        return torch.stack(values).mean()

    def own_loss(forward, theta, episode, *, loss, **options):
        return outer_with_loop(forward, theta, episode, loss=torch.nn.functional.mse_loss, **options)

    assert "called with swapped arguments" in checks.outer_loss.run(swapped).diagnosis
    assert "whatever loss was given" in checks.outer_loss.run(own_loss).diagnosis


def test_one_step_too_few_is_not_called_nothing():
    def fewer(forward, params, x, y, *, steps, **options):
        return inner.adapt(forward, params, x, y, steps=max(0, steps - 1), **options)

    assert "One step too few" in checks.adapt.run(fewer).diagnosis


def test_the_number_of_steps_that_is_shown_is_one_where_the_answer_is_wrong():
    def my_start(a, c, *, rate, steps):
        return checks.common_start.reference(a, c, rate=rate, steps=steps) + (steps > 1)

    said = checks.common_start.run(my_start).diagnosis
    assert "For T = 1" not in said
    assert "the start is" in said
