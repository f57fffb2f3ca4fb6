"""More answers to the exercises of notebook 07, written after the checks: right ones and slips of learners."""

import math

import torch
from torch.nn import functional as F

from mlcourse import inner


def kept(n, steps, step_bytes, phi_bytes, copies=lambda steps, n: -(-steps // n)):
    return n * step_bytes + copies(steps, n) * phi_bytes


def block_with(copies=lambda steps, n: -(-steps // n), first=1, beyond=1, pick=min):
    def block(steps, step_bytes, phi_bytes):
        sizes = range(first, steps + beyond)
        return pick(sizes, key=lambda n: kept(n, steps, step_bytes, phi_bytes, copies))

    return block


def block_by_table(steps, step_bytes, phi_bytes):
    n = torch.arange(1, steps + 1, dtype=torch.float64)
    return int((n * step_bytes + (steps / n).ceil() * phi_bytes).argmin()) + 1


def block_sorted(steps, step_bytes, phi_bytes):
    return sorted(range(1, steps + 1), key=lambda n: n * step_bytes + math.ceil(steps / n) * phi_bytes)[0]


def block_beside_the_root(steps, step_bytes, phi_bytes):
    root = math.sqrt(steps * phi_bytes / step_bytes)
    near = [min(steps, max(1, n)) for n in (math.floor(root), math.ceil(root))]
    return min(near, key=lambda n: kept(n, steps, step_bytes, phi_bytes))


def block_of_divisors(*problem):
    return min((n for n in range(1, problem[0] + 1) if problem[0] % n == 0), key=lambda n: kept(n, *problem))


def block_at_the_first_rise(*problem):
    n = 1
    while n < problem[0] and kept(n + 1, *problem) < kept(n, *problem):
        n += 1
    return n


def truncated_by_masks(forward, params, x, y, *, steps, last, rate, loss):
    phi = dict(params)
    for left in range(steps, 0, -1):
        grads = inner.gradient(loss(forward(phi, x), y), phi, create_graph=left <= last)
        phi = {k: phi[k] - rate * (g if left <= last else g.detach()) for k, g in grads.items()}
    return phi


def truncated_by_func(forward, params, x, y, *, steps, last, rate, loss):
    phi = dict(params)
    for t in range(steps):
        grads = torch.func.grad(lambda p: loss(forward(p, x), y))(phi)
        cut = t < steps - last
        phi = {k: phi[k] - rate * (g.detach() if cut else g) for k, g in grads.items()}
    return phi


def truncated_with(keep):
    """keep(t, steps, last) → whether step t keeps its graph."""

    def truncated(forward, params, x, y, *, steps, last, rate, loss):
        phi = dict(params)
        for t in range(steps):
            grads = inner.gradient(loss(forward(phi, x), y), phi, create_graph=True)
            phi = {k: phi[k] - rate * (g if keep(t, steps, last) else g.detach()) for k, g in grads.items()}
        return phi

    return truncated


def truncated_rate(forward, params, x, y, *, steps, last, rate, loss):
    return truncated_by_func(forward, params, x, y, steps=steps, last=last, rate=rate / max(steps, 1), loss=loss)


def truncated_too_long(forward, params, x, y, *, steps, last, **settings):
    phi = inner.adapt(forward, params, x, y, steps=max(0, steps - last), first_order=True, **settings)
    return inner.adapt(forward, phi, x, y, steps=last, **settings)


def truncated_by_default_loss(forward, params, x, y, *, steps, last, rate, loss):
    return inner.adapt_truncated(forward, params, x, y, steps=steps, last=last, rate=rate)


def wide(x, weight, bias):
    tasks, images = x.shape[:2]
    rows = x.permute(1, 0, 2, 3, 4).reshape(images, -1, *x.shape[3:])
    maps = F.conv2d(rows, weight.flatten(0, 1), bias.flatten(), padding=1, groups=tasks)
    return torch.stack(maps.chunk(tasks, dim=1))


def wide_of_unfolded(x, weight, bias):
    """Bias after the convolution."""
    tasks, out = weight.shape[:2]
    maps = F.conv2d(torch.cat(list(x), dim=1), weight.flatten(0, 1), padding="same", groups=tasks)
    return maps.view(len(maps), tasks, out, *maps.shape[2:]).movedim(1, 0) + bias[:, None, :, None, None]


def slopes(on_support, on_queries, theta):
    gs, gq = torch.func.grad(on_support)(theta), torch.func.grad(on_queries)(theta)

    def product(loss, v):
        return torch.func.jvp(torch.func.grad(loss), (theta,), (v,))[1]

    return gs, gq, product(on_queries, gs), product(on_support, gq), product(on_support, gs)


def terms_by_forward_mode(on_support, on_queries, theta, *, rate, steps):
    gs, gq, q_s, s_q, s_s = slopes(on_support, on_queries, theta)
    first = gq - rate * steps * q_s
    return [first - rate * steps * s_q, first, steps * gs - rate * sum(range(steps)) * s_s]


def terms_by_derivative_in_alpha(on_support, on_queries, theta, *, rate, steps):
    """Each whole gradient as a function of α: its value and slope at α = 0."""

    def end(at, alpha):
        for _ in range(steps):
            at = at - alpha * torch.func.grad(on_support)(at)
        return at

    def maml(alpha):
        return torch.func.grad(lambda at: on_queries(end(at, alpha)))(theta)

    def first_order(alpha):
        return torch.func.grad(on_queries)(end(theta, alpha))

    def reptile(alpha):
        phi, total = theta, torch.zeros_like(theta)
        for _ in range(steps):
            g = torch.func.grad(on_support)(phi)
            phi, total = phi - alpha * g, total + g
        return total

    zero = torch.zeros((), dtype=theta.dtype)
    found = [torch.func.jvp(f, (zero,), (torch.ones_like(zero),)) for f in (maml, first_order, reptile)]
    return tuple(value + rate * slope for value, slope in found)


def terms_of_one_product(on_support, on_queries, theta, *, rate, steps):
    """The slopes of g_s · g_q and of ½ g_s · g_s: no vector is held fixed there."""
    at = theta.detach().clone().requires_grad_()
    (gs,) = torch.autograd.grad(on_support(at), at, create_graph=True)
    (gq,) = torch.autograd.grad(on_queries(at), at, create_graph=True)
    (both,) = torch.autograd.grad(gs @ gq, at, retain_graph=True)
    (one,) = torch.autograd.grad(gq @ gs.detach(), at, retain_graph=True)
    (half,) = torch.autograd.grad(gs @ gs / 2, at)
    gs, gq = gs.detach(), gq.detach()
    return gq - rate * steps * both, gq - rate * steps * one, steps * gs - rate * math.comb(steps, 2) * half


def terms_with(change):
    """change(maml, first_order, reptile, slopes, rate, steps) → three."""

    def terms(on_support, on_queries, theta, *, rate, steps):
        right = terms_by_forward_mode(on_support, on_queries, theta, rate=rate, steps=steps)
        return tuple(change(*right, slopes(on_support, on_queries, theta), rate, steps))

    return terms


def pull_with_stack(step, theta, pull, *, steps, every):
    kept, phi = [], theta.detach()
    for t in range(steps):
        if t % every == 0:
            kept.append((phi, min(every, steps - t)))
        with torch.no_grad():
            phi = step(phi)
    while kept:
        start, count = kept.pop()
        leaf = start.clone().requires_grad_()
        end = leaf
        for _ in range(count):
            end = step(end)
        end.backward(pull)
        pull = leaf.grad
    return pull


def pull_recursive(step, theta, pull, *, steps, every):
    if steps == 0:
        return pull
    count, phi = min(every, steps), theta.detach()
    with torch.no_grad():
        for _ in range(count):
            phi = step(phi)
    later = pull_recursive(step, phi, pull, steps=steps - count, every=every)
    leaf = theta.detach().clone().requires_grad_()
    end = leaf
    for _ in range(count):
        end = step(end)
    return torch.autograd.grad(end, leaf, later)[0]


def pull_changed(change):
    def pull_with_a_mistake(step, theta, pull, *, steps, every):
        return change(pull_with_stack(step, theta, pull, steps=steps, every=every), pull)

    return pull_with_a_mistake


def carried_forward(step, theta, v, steps):
    phi = theta
    for _ in range(steps):
        phi, v = torch.func.jvp(step, (phi,), (v,))
    return v


def pull_of_steps(count):
    def pull_with_a_mistake(step, theta, pull, *, steps, every):
        return pull_with_stack(step, theta, pull, steps=count(steps), every=every)

    return pull_with_a_mistake


def pull_in_blocks_of(length):
    """Whatever n is asked."""

    def pull_with_a_mistake(step, theta, pull, *, steps, every):
        return pull_with_stack(step, theta, pull, steps=steps, every=length(every) if callable(length) else length)

    return pull_with_a_mistake


RIGHT = {
    "best_block": [block_by_table, block_sorted],
    "truncated": [truncated_by_masks, truncated_by_func],
    "side_by_side": [wide, wide_of_unfolded],
    "first_terms": [terms_by_forward_mode, terms_by_derivative_in_alpha, terms_of_one_product],
    "checkpointed": [pull_with_stack, pull_recursive],
}

WRONG = {
    "best_block": {
        "rounded down": (block_with(copies=lambda steps, n: steps // n), "You rounded T/n down"),
        "a fraction": (block_with(copies=lambda steps, n: steps / n), "a neighbour can be better"),
        "one copy more": (block_with(copies=lambda steps, n: steps // n + 1), "not steps // n + 1 either"),
        "without T": (block_with(beyond=0), "n = T is never tried"),
        "without 1": (block_with(first=2), "n = 1 is never tried"),
        "the worst": (block_with(pick=max), "This is the worst block"),
        "a place": (lambda *problem: block_by_table(*problem) - 1, "This is the place in a list"),
        "divisors": (block_of_divisors, "Only blocks that divide T"),
        "beside the root": (block_beside_the_root, "a neighbour can be better"),
        "no T under the root": (lambda steps, g, p: max(1, round(math.sqrt(p / g))), "T is missing under the root"),
        "first rise": (block_at_the_first_rise, "You stop at the first n"),
        "copies": (lambda steps, g, p: -(-steps // block_by_table(steps, g, p)), "or you return the copies"),
    },
    "truncated": {
        "size of T − R": (truncated_with(lambda t, steps, last: t >= abs(steps - last)), "max(0, T − R)"),
        "every other": (truncated_with(lambda t, steps, last: t % 2 == 0), ""),
        "from R on": (truncated_with(lambda t, steps, last: t >= last), "This cuts the first R steps"),
        "rate over T": (truncated_rate, ""),
        "strictly": (truncated_with(lambda t, steps, last: t > steps - last), "one step too few"),
        "R steps at the end": (truncated_too_long, "and here R steps were taken"),
        "cross-entropy": (truncated_by_default_loss, "pass `loss` on, in both parts"),
    },
    "side_by_side": {
        "mean over tasks": (lambda x, w, b: wide(x, w, b).mean(0, keepdim=True).expand(len(x), -1, -1, -1, -1), ""),
        "bias twice": (lambda x, w, b: wide(x, w, b) + b[:, None, :, None, None], "The bias is added twice"),
        "reversed tasks": (lambda x, w, b: wide(x, w, b).flip(0), "in reversed order"),
        "relu": (lambda x, w, b: wide(x, w, b).relu(), ""),
        "detached": (lambda x, w, b: wide(x.detach(), w.detach(), b.detach()), "no gradient leads back"),
        "detached weights": (lambda x, w, b: wide(x, w.detach(), b), "no gradient leads back"),
    },
    "first_terms": {
        "order": (terms_with(lambda m, f, r, s, a, T: (f, m, r)), "The order"),
        "order of all": (terms_with(lambda m, f, r, s, a, T: (r, f, m)), "The order"),
        "no α": (terms_with(lambda m, f, r, s, a, T: (s[1] - T * (s[2] + s[3]), f, r)), "MAML: α is missing"),
        "α²": (terms_with(lambda m, f, r, s, a, T: (m, f, T * s[0] - a * T**2 / 2 * s[4])), "not T²/2"),
        "H_s g_s": (
            terms_with(lambda m, f, r, s, a, T: (m, s[1] - a * T * s[4], r)),
            "the Hessian is that of the QUERY loss",
        ),
        "T − 1": (terms_with(lambda m, f, r, s, a, T: (s[1] - a * (T - 1) * (s[2] + s[3]), f, r)), "not T − 1"),
        "twice H_s g_s": (terms_with(lambda m, f, r, s, a, T: (m, f, T * s[0] - a * T * (T - 1) * s[4])), "v.detach()"),
        "Reptile, no Hessian": (terms_with(lambda m, f, r, s, a, T: (m, f, T * s[0])), "the term with α is missing"),
        "Reptile, one gradient": (terms_with(lambda m, f, r, s, a, T: (m, f, s[0])), "the gradient of one step"),
    },
    "checkpointed": {
        "always 4": (pull_in_blocks_of(4), "more than one block"),
        "always 3": (pull_in_blocks_of(3), "more than one block"),
        "always 2": (pull_in_blocks_of(2), "more than one block"),
        "one step too long": (pull_in_blocks_of(lambda every: every + 1), "more than one block"),
        "one step less": (pull_of_steps(lambda steps: steps - 1), "One step is missing at the end"),
        "one step more": (pull_of_steps(lambda steps: steps + 1), "One step too many"),
        "carried forward": (
            lambda step, theta, pull, *, steps, every: carried_forward(step, theta, pull, steps),
            "Asked is the transpose",
        ),
        "plus the pull": (pull_changed(lambda found, pull: found + pull), ""),
        "half": (pull_changed(lambda found, pull: found / 2), "half of the right ones"),
    },
}
