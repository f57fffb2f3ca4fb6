"""The checks of notebook 07 against right answers written differently, and against mistakes that learners make."""

import math

import pytest
import torch
from check_helpers import assert_check
from torch.func import jacfwd
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mlcourse import inner
from mlcourse.lessons.price import checks


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


# ------------------------------------------------------------------ 07.1 the best block


def block_with_loop(steps, step_bytes, phi_bytes):
    best, least = None, math.inf
    for n in range(1, steps + 1):
        copies = (steps + n - 1) // n
        if n * step_bytes + copies * phi_bytes < least:
            best, least = n, n * step_bytes + copies * phi_bytes
    return best


def block_float32(steps, step_bytes, phi_bytes):
    n = torch.arange(1, steps + 1)
    return ((n * step_bytes + (steps + n - 1) // n * phi_bytes).float().argmin() + 1).float()


def block_root(steps, step_bytes, phi_bytes):
    return round(math.sqrt(steps))


def block_upside_down(steps, step_bytes, phi_bytes):
    return min(steps, max(1, round(math.sqrt(steps * step_bytes / phi_bytes))))


def block_rounded(steps, step_bytes, phi_bytes):
    return max(1, round(math.sqrt(steps * phi_bytes / step_bytes)))


def block_not_whole(steps, step_bytes, phi_bytes):
    return math.sqrt(steps * phi_bytes / step_bytes)


def block_one(steps, step_bytes, phi_bytes):
    return 1


def block_all(steps, step_bytes, phi_bytes):
    return steps


def block_nearly_all(steps, step_bytes, phi_bytes):
    return steps - 1


def block_floor(steps, step_bytes, phi_bytes):
    return min(range(1, steps + 1), key=lambda n: n * step_bytes + steps // n * phi_bytes)


def block_swapped(steps, step_bytes, phi_bytes):
    return block_with_loop(steps, phi_bytes, step_bytes)


def block_bytes(steps, step_bytes, phi_bytes):
    return min(n * step_bytes + -(-steps // n) * phi_bytes for n in range(1, steps + 1))


def test_best_block():
    assert_check(
        checks.best_block,
        right=[block_with_loop, block_float32],
        wrong={
            "root of T": (block_root, "This is √T"),
            "upside down": (block_upside_down, "Upside down"),
            "rounded root": (block_rounded, "a neighbour can be better"),
            "not whole": (block_not_whole, "must be a whole number"),
            "one": (block_one, "a copy of φ for each of the"),
            "all": (block_all, "the plain unroll"),
            "swapped": (block_swapped, "G and P are swapped"),
            "the bytes": (block_bytes, "These are the bytes of the best block"),
            "nearly all": (block_nearly_all, "compare n·G + ⌈T/n⌉·P for all n"),
        },
    )


def test_rounding_down_is_told_in_every_call():
    for seed in range(20):
        assert "You rounded T/n down" in checks.best_block.run(block_floor, seed=seed).diagnosis


# ------------------------------------------------------------------ 07.2 truncation


def descend(forward, phi, x, y, steps, rate, loss, graph):
    for _ in range(steps):
        grads = torch.autograd.grad(loss(forward(phi, x), y), list(phi.values()), create_graph=graph)
        phi = {name: value - rate * g for (name, value), g in zip(phi.items(), grads)}
    return phi


def truncated_by_hand(forward, params, x, y, *, steps, last, rate, loss):
    early = max(0, steps - last)
    phi = descend(forward, params, x, y, early, rate, loss, False)
    return descend(forward, phi, x, y, steps - early, rate, loss, True)


def truncated_in_one_loop(forward, params, x, y, *, steps, last, rate, loss):
    phi = params
    for t in range(steps):
        grads = inner.gradient(loss(forward(phi, x), y), phi, create_graph=True)
        if t < steps - last:
            grads = {name: g.detach() for name, g in grads.items()}
        phi = inner.sgd_step(phi, grads, rate)
    return phi


def truncated_float32(forward, params, x, y, **settings):
    small = {name: value.float() for name, value in params.items()}
    return inner.adapt_truncated(forward, small, x.float(), y.float(), **settings)


def truncated_first(forward, params, x, y, *, steps, last, rate, loss):
    head = min(last, steps)
    phi = descend(forward, params, x, y, head, rate, loss, True)
    return descend(forward, phi, x, y, steps - head, rate, loss, False)


def truncated_detached(forward, params, x, y, *, steps, last, rate, loss):
    early = max(0, steps - last)
    phi = descend(forward, params, x, y, early, rate, loss, False)
    phi = {name: value.detach().requires_grad_() for name, value in phi.items()}
    return descend(forward, phi, x, y, steps - early, rate, loss, True)


def truncated_end_detached(forward, params, x, y, **settings):
    return {name: value.detach() for name, value in truncated_by_hand(forward, params, x, y, **settings).items()}


def truncated_one_less(forward, params, x, y, *, last, **settings):
    return truncated_by_hand(forward, params, x, y, last=max(0, last - 1), **settings)


def truncated_one_more(forward, params, x, y, *, last, **settings):
    return truncated_by_hand(forward, params, x, y, last=last + 1, **settings)


def truncated_never(forward, params, x, y, *, last, **settings):
    return inner.adapt(forward, params, x, y, **settings)


def truncated_always(forward, params, x, y, *, last, **settings):
    return inner.adapt(forward, params, x, y, first_order=True, **settings)


def truncated_short(forward, params, x, y, *, steps, last, rate, loss):
    return descend(forward, params, x, y, min(last, steps), rate, loss, True)


def truncated_early_only(forward, params, x, y, *, steps, last, rate, loss):
    return descend(forward, params, x, y, max(0, steps - last), rate, loss, False)


def truncated_no_max(forward, params, x, y, *, steps, last, rate, loss):
    phi = descend(forward, params, x, y, steps - last, rate, loss, False)
    return descend(forward, phi, x, y, last, rate, loss, True)


def truncated_at_theta(forward, params, x, y, *, steps, last, rate, loss):
    phi = params
    for t in range(steps):
        grads = inner.gradient(loss(forward(params, x), y), params, create_graph=t >= steps - last)
        phi = inner.sgd_step(phi, grads, rate)
    return phi


def truncated_without_a_way(forward, params, x, y, *, steps, last, rate, loss):
    early = max(0, steps - last)
    settings = {"rate": rate, "loss": loss}
    phi = inner.adapt(forward, params, x, y, steps=early, create_graph=False, **settings)
    return inner.adapt(forward, phi, x, y, steps=steps - early, **settings)


def truncated_as_tensor(forward, params, x, y, **settings):
    return truncated_by_hand(forward, params, x, y, **settings)["w"]


def test_truncated():
    assert_check(
        checks.truncated,
        right=[truncated_by_hand, truncated_in_one_loop],
        wrong={
            "float32": (truncated_float32, "keep the number format"),
            "first steps": (truncated_first, "keeps the first R steps"),
            "detached at the border": (truncated_detached, "no gradient reaches θ"),
            "one less": (truncated_one_less, "one step too few"),
            "one more": (truncated_one_more, "one step too many"),
            "never": (truncated_never, "nothing is cut"),
            "always": (truncated_always, "whatever R is: the last"),
            "only R steps": (truncated_short, "Only the last R steps were taken"),
            "only T − R steps": (truncated_early_only, "Only the first T − R steps were taken"),
            "R larger than T": (truncated_no_max, "and here R steps were taken"),
            "at θ": (truncated_at_theta, "All steps use the gradient at θ"),
            "create_graph=False": (truncated_without_a_way, "does not require grad"),
            "a tensor": (truncated_as_tensor, "a dictionary with a tensor for each name"),
        },
    )
    assert "no gradient reaches θ" in checks.truncated.run(truncated_end_detached).diagnosis


# ------------------------------------------------------------------ 07.3 tasks side by side


def wide_by_vmap(x, weight, bias):
    return torch.func.vmap(lambda x, w, b: F.conv2d(x, w, b, padding=1))(x, weight, bias)


def wide_by_reshape(x, weight, bias):
    tasks, images, channels, height, width = x.shape
    wide = x.permute(1, 0, 2, 3, 4).reshape(images, tasks * channels, height, width)
    maps = F.conv2d(wide, weight.reshape(-1, channels, 3, 3), bias.reshape(-1), padding=1, groups=tasks)
    return maps.reshape(images, tasks, -1, height, width).permute(1, 0, 2, 3, 4)


def wide_float32(x, weight, bias):
    return wide_by_reshape(x.float(), weight.float(), bias.float())


def wide_loop(x, weight, bias):
    return torch.stack([F.conv2d(a, w, b, padding=1) for a, w, b in zip(x, weight, bias)])


def wide_shared(x, weight, bias):
    return wide_by_reshape(x, weight[:1].expand_as(weight), bias)


def wide_without_bias(x, weight, bias):
    return wide_by_reshape(x, weight, torch.zeros_like(bias))


def wide_first_bias(x, weight, bias):
    return wide_by_reshape(x, weight, bias[:1].expand_as(bias))


def wide_not_transposed(x, weight, bias):
    tasks, images, channels, height, width = x.shape
    wide = x.reshape(images, tasks * channels, height, width)
    maps = F.conv2d(wide, weight.flatten(0, 1), bias.flatten(), padding=1, groups=tasks)
    return maps.reshape(images, tasks, -1, height, width).transpose(0, 1)


def wide_never_transposed(x, weight, bias):
    tasks, images, channels, height, width = x.shape
    wide = x.reshape(images, tasks * channels, height, width)
    maps = F.conv2d(wide, weight.flatten(0, 1), bias.flatten(), padding=1, groups=tasks)
    return maps.reshape(tasks, images, -1, height, width)


def wide_not_transposed_back(x, weight, bias):
    return wide_by_reshape(x, weight, bias).transpose(0, 1)


def wide_without_padding(x, weight, bias):
    return torch.stack([F.conv2d(a, w, b) for a, w, b in zip(x, weight, bias)])


def wide_flipped(x, weight, bias):
    return wide_by_reshape(x, weight.flip(-1), bias)


def wide_split_wrong(x, weight, bias):
    tasks = len(x)
    wide = x.transpose(0, 1).flatten(1, 2)
    maps = F.conv2d(wide, weight.flatten(0, 1), bias.flatten(), padding=1, groups=tasks)
    return maps.unflatten(1, (-1, tasks)).permute(2, 0, 1, 3, 4)


def test_side_by_side():
    assert_check(
        checks.side_by_side,
        right=[wide_by_vmap, wide_by_reshape, wide_float32],
        wrong={
            "loop": (wide_loop, "all tasks fit into one"),
            "shared weights": (wide_shared, "the filters of the first"),
            "no bias": (wide_without_bias, "The bias is missing"),
            "one bias": (wide_first_bias, "the bias of the first"),
            "not transposed": (wide_not_transposed, "by a transpose before the flatten"),
            "never transposed": (wide_never_transposed, "on the way in and out"),
            "not transposed back": (wide_not_transposed_back, "Transpose it back"),
            "split wrong": (wide_split_wrong, "split them as (tasks, -1)"),
            "no padding": (wide_without_padding, "has shape"),
            "flipped": (wide_flipped, "These are not the maps"),
        },
    )


# ------------------------------------------------------------------ 07.4 the first terms


def slope(loss, theta):
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(loss(theta), theta)[0]


def product(loss, theta, v):
    theta = theta.detach().requires_grad_()
    (g,) = torch.autograd.grad(loss(theta), theta, create_graph=True)
    return torch.autograd.grad(g @ v.detach(), theta)[0]


def parts(on_support, on_queries, theta):
    gs, gq = slope(on_support, theta), slope(on_queries, theta)
    return gs, gq, *(product(f, theta, v) for f, v in ((on_queries, gs), (on_support, gq), (on_support, gs)))


def terms_by_products(on_support, on_queries, theta, *, rate, steps):
    gs, gq, qs, sq, ss = parts(on_support, on_queries, theta)
    pairs = steps * (steps - 1) / 2
    return gq - rate * steps * (qs + sq), gq - rate * steps * qs, steps * gs - rate * pairs * ss


def terms_with_hessians(on_support, on_queries, theta, *, rate, steps):
    hs, hq = (torch.func.hessian(f)(theta) for f in (on_support, on_queries))
    gs, gq = (torch.func.grad(f)(theta) for f in (on_support, on_queries))
    reptile = sum(gs - rate * t * hs @ gs for t in range(steps))
    return gq - rate * steps * (hq @ gs + hs @ gq), gq - rate * steps * hq @ gs, reptile


def terms_float32(on_support, on_queries, theta, **settings):
    return terms_by_products(on_support, on_queries, theta.float(), **settings)


def changed(place, change):
    """The right terms, with one of the three changed: change(gs, gq, H_q g_s, H_s g_q, H_s g_s, rate, steps)."""

    def answer(on_support, on_queries, theta, *, rate, steps):
        right = list(terms_by_products(on_support, on_queries, theta, rate=rate, steps=steps))
        right[place] = change(*parts(on_support, on_queries, theta), rate, steps)
        return tuple(right)

    return answer


def terms_whole(on_support, on_queries, theta, *, rate, steps):
    theta = theta.detach().requires_grad_()
    phi = theta
    for _ in range(steps):
        (g,) = torch.autograd.grad(on_support(phi), phi, create_graph=True)
        phi = phi - rate * g
    right = terms_by_products(on_support, on_queries, theta, rate=rate, steps=steps)
    return torch.autograd.grad(on_queries(phi), theta)[0], *right[1:]


def terms_with_loose_v(on_support, on_queries, theta, *, rate, steps):
    """v keeps its graph, so (g · v) is differentiated by v too."""
    theta = theta.detach().requires_grad_()
    gs, gq = (torch.autograd.grad(f(theta), theta, create_graph=True)[0] for f in (on_support, on_queries))
    qs, sq, ss = (torch.autograd.grad(g @ v, theta, retain_graph=True)[0] for g, v in ((gq, gs), (gs, gq), (gs, gs)))
    pairs = steps * (steps - 1) / 2
    return gq - rate * steps * (qs + sq), gq - rate * steps * qs, steps * gs - rate * pairs * ss


def crossed(on_support, on_queries, theta):
    """H_q g_q, H_s g_s, H_q g_s."""
    gs, gq = slope(on_support, theta), slope(on_queries, theta)
    return product(on_queries, theta, gq), product(on_support, theta, gs), product(on_queries, theta, gs)


def changed_by(place, change):
    """As `changed`, with change(gs, gq, H_q g_q, H_s g_s, H_q g_s, rate, steps)."""

    def answer(on_support, on_queries, theta, *, rate, steps):
        right = list(terms_by_products(on_support, on_queries, theta, rate=rate, steps=steps))
        slopes = slope(on_support, theta), slope(on_queries, theta)
        right[place] = change(*slopes, *crossed(on_support, on_queries, theta), rate, steps)
        return tuple(right)

    return answer


CROSSED = {
    "MAML, own gradients": (
        changed_by(0, lambda gs, gq, qq, ss, qs, a, T: gq - a * T * (qq + ss)),
        "each Hessian stands before its own gradient",
    ),
    "first-order, H_q g_q": (
        changed_by(1, lambda gs, gq, qq, ss, qs, a, T: gq - a * T * qq),
        "H_q stands before g_q",
    ),
    "Reptile on queries": (
        changed_by(2, lambda gs, gq, qq, ss, qs, a, T: T * gq - a * T * (T - 1) / 2 * qq),
        "Reptile knows no queries",
    ),
    "Reptile, H_q": (
        changed_by(2, lambda gs, gq, qq, ss, qs, a, T: T * gs - a * T * (T - 1) / 2 * qs),
        "the Hessian is of the support loss",
    ),
    "Reptile from 1": (
        changed_by(2, lambda gs, gq, qq, ss, qs, a, T: T * gs - a * T * (T + 1) / 2 * ss),
        "You began at 1",
    ),
}


def terms_pair(on_support, on_queries, theta, **settings):
    return terms_by_products(on_support, on_queries, theta, **settings)[:2]


def test_first_terms():
    assert_check(
        checks.first_terms,
        right=[terms_by_products, terms_with_hessians],
        wrong={
            "float32": (terms_float32, "keep the number format"),
            "MAML is first-order": (changed(0, lambda gs, gq, qs, sq, ss, a, T: gq - a * T * qs), "lacks H_s g_q"),
            "MAML without H_q g_s": (changed(0, lambda gs, gq, qs, sq, ss, a, T: gq - a * T * sq), "lacks H_q g_s"),
            "MAML of one step": (changed(0, lambda gs, gq, qs, sq, ss, a, T: gq - a * (qs + sq)), "MAML: the factor T"),
            "MAML, sign": (changed(0, lambda gs, gq, qs, sq, ss, a, T: gq + a * T * (qs + sq)), "MAML: sign"),
            "the whole gradient": (terms_whole, "no higher ones"),
            "first-order, other term": (changed(1, lambda gs, gq, qs, sq, ss, a, T: gq - a * T * sq), "kept the other"),
            "first-order at θ": (changed(1, lambda gs, gq, qs, sq, ss, a, T: gq), "the query gradient at θ"),
            "Reptile, mean": (changed(2, lambda gs, gq, qs, sq, ss, a, T: gs - a * (T - 1) / 2 * ss), "their mean"),
            "Reptile, T²": (
                changed(2, lambda gs, gq, qs, sq, ss, a, T: T * gs - a * T * (T - 1) * ss),
                "pair of steps",
            ),
            "Reptile, unscaled": (
                changed(2, lambda gs, gq, qs, sq, ss, a, T: a * (T * gs - a * T * (T - 1) / 2 * ss)),
                "α times too small",
            ),
            "loose v": (terms_with_loose_v, "both terms count twice"),
            "first-order is MAML": (
                changed(1, lambda gs, gq, qs, sq, ss, a, T: gq - a * T * (qs + sq)),
                "this is MAML's whole line",
            ),
            **CROSSED,
            "two only": (terms_pair, "three tensors"),
        },
    )
    one = changed(1, lambda gs, gq, qs, sq, ss, a, T: gq - a * qs)
    assert "First-order MAML: the factor T" in checks.first_terms.run(one).diagnosis
    gone = changed(2, lambda gs, gq, qs, sq, ss, a, T: 0 * gs)
    assert "Reptile is off" in checks.first_terms.run(gone).diagnosis


# ------------------------------------------------------------------ 07.5 backward with checkpoints


def pull_with_list(step, theta, pull, *, steps, every):
    starts, phi = list(range(0, steps, every)), theta
    kept = {}
    for t in range(steps):
        if t in starts:
            kept[t] = phi
        phi = step(phi.detach()).detach()
    for start in reversed(starts):
        leaf = kept[start].clone().requires_grad_()
        phi = leaf
        for _ in range(start, min(start + every, steps)):
            phi = step(phi)
        pull = torch.autograd.grad(phi, leaf, pull)[0]
    return pull


def pull_by_vjp(step, theta, pull, *, steps, every):
    def block(phi, count):
        for _ in range(count):
            phi = step(phi)
        return phi

    kept, lengths = [theta], [min(every, steps - start) for start in range(0, steps, every)]
    for count in lengths:
        kept.append(block(kept[-1], count))
    for phi, count in zip(reversed(kept[:-1]), reversed(lengths)):
        pull = torch.func.vjp(lambda phi, count=count: block(phi, count), phi)[1](pull)[0]
    return pull


def pull_float32(step, theta, pull, **settings):
    return pull_with_list(step, theta.float(), pull.float(), **settings)


def pull_plain(step, theta, pull, *, steps, every):
    theta = theta.requires_grad_()
    phi = theta
    for _ in range(steps):
        phi = step(phi)
    return torch.autograd.grad(phi, theta, pull)[0]


def blocks(step, theta, pull, order, every, steps):
    """Pull through blocks, given as (start, length), each begun anew at θ."""
    for start, length in order:
        phi = theta.detach()
        with torch.no_grad():
            for _ in range(start):
                phi = step(phi)
        leaf = phi.detach().requires_grad_()
        phi = leaf
        for _ in range(length):
            phi = step(phi)
        (pull,) = torch.autograd.grad(phi, leaf, pull)
    return pull


def lengths(steps, every):
    return [(start, min(every, steps - start)) for start in range(0, steps, every)]


def pull_from_the_start(step, theta, pull, *, steps, every):
    return blocks(step, theta, pull, reversed(lengths(steps, every)), every, steps)


def pull_forwards(step, theta, pull, *, steps, every):
    return blocks(step, theta, pull, lengths(steps, every), every, steps)


def pull_last_block(step, theta, pull, *, steps, every):
    return blocks(step, theta, pull, lengths(steps, every)[-1:], every, steps)


def pull_whole_blocks(step, theta, pull, *, steps, every):
    whole = [pair for pair in lengths(steps, every) if pair[1] == every]
    return blocks(step, theta, pull, reversed(whole), every, steps)


def pull_never_handed_on(step, theta, pull, *, steps, every):
    found = [blocks(step, theta, pull, [pair], every, steps) for pair in reversed(lengths(steps, every))]
    return found[-1]


def pull_kept_late(step, theta, pull, *, steps, every):
    return blocks(step, theta, pull, [(at + 1, n) for at, n in reversed(lengths(steps, every))], every, steps)


def pull_full_last(step, theta, pull, *, steps, every):
    return blocks(step, theta, pull, [(at, every) for at, _ in reversed(lengths(steps, every))], every, steps)


def pull_short_first(step, theta, pull, *, steps, every):
    starts = [at for at, _ in lengths(steps, every)]
    order = [(at, every if at else steps % every or every) for at in reversed(starts)]
    return blocks(step, theta, pull, order, every, steps)


def pull_nothing(step, theta, pull, *, steps, every):
    return pull.clone()


def pull_at_start(step, theta, pull, *, steps, every):
    for _ in range(steps):
        leaf = theta.detach().requires_grad_()
        (pull,) = torch.autograd.grad(step(leaf), leaf, pull)
    return pull


def pull_negative(step, theta, pull, **settings):
    return -pull_with_list(step, theta, pull, **settings)


def test_checkpointed():
    assert_check(
        checks.checkpointed,
        right=[pull_with_list, pull_by_vjp],
        wrong={
            "float32": (pull_float32, "keep the number format"),
            "plain": (pull_plain, "more than one block was alive"),
            "each block from the start": (pull_from_the_start, "you begin at θ for each block"),
            "forwards": (pull_forwards, "begin with the last"),
            "last block": (pull_last_block, "Only one block"),
            "whole blocks": (pull_whole_blocks, "shorter block is missing"),
            "never handed on": (pull_never_handed_on, "Every block begins with the pull"),
            "kept late": (pull_kept_late, "one step late"),
            "full last block": (pull_full_last, "you did n steps there as everywhere"),
            "short first": (pull_short_first, "The SHORT block is the last one"),
            "nothing": (pull_nothing, "This is the pull as it came"),
            "at the start": (pull_at_start, "All steps were done at the start"),
            "negative": (pull_negative, "this is not (dφ_T/dθ)ᵀ·pull"),
        },
    )


# ------------------------------------------------------------------ 07.5 right, and written as libraries do


def lengths_of(steps, every):
    return [min(every, steps - start) for start in range(0, steps, every)]


class Block(torch.autograd.Function):
    """A block of steps that saves what enters it and computes the rest again, as the package does."""

    @staticmethod
    def forward(ctx, phi, step, count):
        ctx.save_for_backward(phi)
        ctx.step, ctx.count = step, count
        for _ in range(count):
            phi = step(phi)
        return phi

    @staticmethod
    def backward(ctx, pull):
        (phi,) = ctx.saved_tensors
        with torch.enable_grad():
            start = end = phi.detach().requires_grad_()
            for _ in range(ctx.count):
                end = ctx.step(end)
        return torch.autograd.grad(end, start, pull)[0], None, None


def pull_by_functions(step, theta, pull, *, steps, every):
    start = phi = theta.detach().clone().requires_grad_()
    for count in lengths_of(steps, every):
        phi = Block.apply(phi, step, count)
    return torch.autograd.grad(phi, start, pull)[0]


def block_of(step, count):
    def block(phi):
        for _ in range(count):
            phi = step(phi)
        return phi

    return block


def pull_by_reentrant_checkpoints(step, theta, pull, *, steps, every):
    start = phi = theta.detach().clone().requires_grad_()
    for count in lengths_of(steps, every):
        phi = checkpoint(block_of(step, count), phi, use_reentrant=True)
    phi.backward(pull)
    return start.grad


def pull_by_jacobians(step, theta, pull, *, steps, every):
    kept, phi = [], theta
    for count in lengths_of(steps, every):
        kept.append((phi, count))
        phi = block_of(step, count)(phi)
    for phi, count in reversed(kept):
        pull = jacfwd(block_of(step, count))(phi).T @ pull
    return pull


@pytest.mark.parametrize("answer", [pull_by_functions, pull_by_reentrant_checkpoints, pull_by_jacobians])
def test_checkpoints_written_as_libraries_do_pass(answer):
    for seed in range(5):
        assert checks.checkpointed.run(answer, seed=seed).passed


# ------------------------------------------------------------------ 07.1 the ends


def test_a_search_that_leaves_out_an_end_is_found():
    def block_from_two(steps, step_bytes, phi_bytes):
        return min(range(2, steps + 1), key=lambda n: n * step_bytes - (-steps // n) * phi_bytes)

    def block_below_all(steps, step_bytes, phi_bytes):
        return min(range(1, steps), key=lambda n: n * step_bytes - (-steps // n) * phi_bytes)

    for answer in (block_from_two, block_below_all):
        for seed in range(10):
            assert not checks.best_block.run(answer, seed=seed).passed
