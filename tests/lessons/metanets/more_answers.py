"""More answers to the exercises of notebook 04, written after the checks: right ones and slips of learners."""

import itertools

import torch
from torch.func import functional_call
from torch.nn import functional as F

from mlcourse.lessons.metanets import checks


def run_by_iterator(network, written, x):
    numbers, made = iter(written), {}
    for name, value in network.named_parameters():
        made[name] = torch.stack(list(itertools.islice(numbers, value.numel()))).reshape(value.shape)
    return functional_call(network, made, x)


def run_by_offsets(network, written, x):
    sizes = [value.numel() for value in network.parameters()]
    ends = list(itertools.accumulate(sizes))
    names = [name for name, _ in network.named_parameters()]
    parts = (written[end - n : end].unflatten(0, p.shape) for end, n, p in zip(ends, sizes, network.parameters()))
    return functional_call(network, dict(zip(names, parts)), (x,))


def run_with(change):
    """change(pieces by name, network) → pieces by name."""

    def run(network, written, x):
        sizes = [value.numel() for value in network.parameters()]
        pieces = zip(network.named_parameters(), written.split(sizes))
        made = {name: piece.view_as(value) for (name, value), piece in pieces}
        return functional_call(network, change(made, network), (x,))

    return run


def layers_swapped(pieces, network):
    """Exchanged where the shapes allow it."""
    other = {name: ("2" if name[0] == "0" else "0") + name[1:] for name in pieces}
    return {name: pieces[other[name]] if pieces[other[name]].shape == v.shape else v for name, v in pieces.items()}


def run_by_rows(network, written, x):
    """The counter goes on by the length of each parameter, not by its numbers."""
    params, at = {}, 0
    for name, value in network.named_parameters():
        params[name] = written[at : at + value.numel()].view_as(value)
        at += len(value)
    return functional_call(network, params, (x,))


def run_by_state(network, written, x):
    """state_dict() holds buffers, too."""
    state = network.state_dict()
    pieces = written.split([value.numel() for value in state.values()])
    params = {name: piece.view_as(value) for (name, value), piece in zip(state.items(), pieces)}
    return functional_call(network, params, (x,))


def columns(many):
    """A mask whose rows all look at the same first columns."""
    return lambda support, queries: (torch.arange(support + queries) < many(support, queries)).repeat(
        support + queries, 1
    )


def head_by_index_add(writer, features, labels, way):
    sums = torch.zeros(way, features.shape[1], dtype=features.dtype).index_add(0, labels, features)
    rows = writer(sums / labels.bincount(minlength=way)[:, None])
    return rows[:, : features.shape[1]], rows[:, features.shape[1]]


def head_one_by_one(writer, features, labels, way):
    rows = [writer(features[labels == k].mean(0, keepdim=True))[0] for k in range(way)]
    return [torch.stack([row[:-1] for row in rows]), torch.stack([row[-1] for row in rows])]


def head_with(centre=lambda z: z.mean(0), change=lambda weight, bias: (weight, bias)):
    def head(writer, features, labels, way):
        rows = writer(torch.stack([centre(features[labels == k]) for k in range(way)]))
        return change(rows[:, :-1], rows[:, -1])

    return head


def over(value):
    return value.unsqueeze(1).unsqueeze(-1).unsqueeze(-1)


def mask_with(change):
    def mask(support, queries):
        made = torch.zeros(support + queries, support + queries, dtype=torch.bool)
        made[:, :support] = True
        return change(made, support)

    return mask


def only_first_support(made, support):
    made[:, 1:] = False
    return made


def layers(change):
    def augmented(x, slow_weight, slow_bias, fast_weight, fast_bias):
        return change(x @ slow_weight.T + slow_bias, x @ fast_weight.T + fast_bias)

    return augmented


def augmented_by_einsum(x, slow_weight, slow_bias, fast_weight, fast_bias):
    weights, biases = torch.stack([slow_weight, fast_weight]), torch.stack([slow_bias, fast_bias])
    return (torch.einsum("nd,lhd->lnh", x, weights) + biases[:, None]).relu().sum(0)


def augmented_by_conditions(x, slow_weight, slow_bias, fast_weight, fast_bias):
    slow, fast = F.linear(x, slow_weight, slow_bias), F.linear(x, fast_weight, fast_bias)
    return torch.where(slow > 0, slow, 0.0) + torch.where(fast > 0, fast, 0.0)


def read_with(scores, shares=lambda s: s.softmax(-1)):
    return lambda keys, memory, queries: shares(scores(queries, keys)) @ memory


def cosine(q, k):
    return (q / q.norm(dim=-1, keepdim=True)) @ (k / k.norm(dim=-1, keepdim=True)).T


def read_by_exp(keys, memory, queries):
    powers = cosine(queries, keys).exp()
    return torch.einsum("qs,sp->qp", powers, memory) / powers.sum(1, keepdim=True)


RIGHT = {
    "run_written": [run_by_iterator, run_by_offsets],
    "written_head": [head_by_index_add, head_one_by_one],
    "modulate": [
        lambda x, gamma, beta: x * over(1 + gamma) + over(beta),
        lambda x, gamma, beta: torch.addcmul(x + over(beta), x, over(gamma)),
    ],
    "mask": [
        mask_with(lambda made, support: made),
        lambda support, queries: torch.cat(
            [torch.ones(support + queries, support), torch.zeros(support + queries, queries)], 1
        ).bool(),
    ],
    "augmented": [augmented_by_einsum, augmented_by_conditions],
    "read_memory": [read_with(cosine), read_by_exp],
}

WRONG = {
    "run_written": {
        "biases of 0": (
            run_with(lambda p, n: {k: v if "weight" in k else 0 * v for k, v in p.items()}),
            "The biases are 0",
        ),
        "layers swapped": (run_with(layers_swapped), ""),
        "by rows": (run_by_rows, "Your counter goes on by the rows"),
        "with buffers": (run_by_state, "RuntimeError"),
        "last layer only": (
            run_with(lambda p, n: {k: v for k, v in p.items() if k.startswith("2")}),
            "The first layer is still",
        ),
        "mean of both": (
            run_with(lambda p, n: {k: (v + dict(n.named_parameters())[k]) / 2 for k, v in p.items()}),
            "",
        ),
    },
    "written_head": {
        "no mean, last image": (head_with(centre=lambda z: z[-1]), "Only the last image"),
        "formula": (
            lambda writer, z, y, way: head_with()(
                lambda c: torch.cat([2 * c, -c.square().sum(1, keepdim=True)], 1), z, y, way
            ),
            "This is the formula of the prototypes",
        ),
        "largest": (head_with(centre=lambda z: z.amax(0)), ""),
        "minus bias": (head_with(change=lambda w, b: (w, -b)), "The bias has the wrong sign"),
        "unit mean": (head_with(centre=lambda z: F.normalize(z.mean(0), dim=0)), ""),
        "other order": (head_with(change=lambda w, b: (b, w)), "has shape"),
    },
    "modulate": {
        "1 − γ": (lambda x, gamma, beta: (1 - over(gamma)) * x + over(beta), "γ is subtracted"),
        "first task": (
            lambda x, gamma, beta: (1 + over(gamma[:1])) * x + over(beta[:1]),
            "the numbers of the first one",
        ),
        "mean channel": (
            lambda x, gamma, beta: (1 + over(gamma.mean(1, keepdim=True))) * x + over(beta.mean(1, keepdim=True)),
            "All channels of a task got the same",
        ),
        "e^γ": (lambda x, gamma, beta: over(gamma.exp()) * x + over(beta), "The scale is e^γ"),
        "half": (lambda x, gamma, beta: ((1 + over(gamma)) * x + over(beta)) / 2, "half of the right ones"),
        "γ alone": (lambda x, gamma, beta: over(gamma) * x, "This is γ·x alone"),
        "no brackets": (lambda x, gamma, beta: 1 + over(gamma) * x + over(beta), "put 1 + γ in brackets"),
    },
    "mask": {
        "first only": (mask_with(only_first_support), ""),
        "five": (columns(lambda s, q: 5), "The first five columns"),
        "one more": (columns(lambda s, q: s + 1), "one column too many"),
        "one less": (columns(lambda s, q: s - 1), "one column too few"),
        "of queries": (columns(lambda s, q: q), "as there are QUERIES"),
        "queries first": (lambda s, q: (torch.arange(s + q) >= q).repeat(s + q, 1), "stand last in your mask"),
        "nothing": (mask_with(lambda made, support: made & False), "0 everywhere"),
        "upper triangle": (mask_with(lambda made, support: torch.ones_like(made).triu()), "This is a triangle"),
        "blocks": (mask_with(lambda made, support: made & made.T), "The queries look at nothing"),
    },
    "augmented": {
        "difference": (layers(lambda s, f: s.relu() - f.relu()), "The fast layer is subtracted"),
        "larger": (layers(lambda s, f: torch.maximum(s.relu(), f.relu())), "This is the larger"),
        "leaky": (layers(lambda s, f: F.leaky_relu(s) + F.leaky_relu(f)), "These are leaky ReLUs"),
        "biases exchanged": (
            lambda x, sw, sb, fw, fb: checks.augmented.reference(x, sw, fb, fw, sb),
            "The two biases have changed places",
        ),
        "biases outside": (
            lambda x, sw, sb, fw, fb: (x @ sw.T).relu() + sb + (x @ fw.T).relu() + fb,
            "added after the ReLU",
        ),
        "sigmoid": (layers(lambda s, f: s.sigmoid() + f.sigmoid()), ""),
        "joined": (layers(lambda s, f: torch.cat([s.relu(), f.relu()], 1)), "has shape"),
    },
    "read_memory": {
        "twice": (read_with(cosine, lambda s: s.softmax(1).softmax(1)), "There are two softmaxes"),
        "of distances": (read_with(torch.cdist), "the farthest key is read most"),
        "minus distances": (read_with(lambda q, k: -torch.cdist(q, k)), "These are distances, not squared"),
        "all pairs": (
            read_with(cosine, lambda s: s.flatten().softmax(0).view_as(s)),
            "The softmax runs over all pairs",
        ),
        "first query": (
            read_with(cosine, lambda s: s.softmax(1)[:1].expand_as(s)),
            "The first query's shares",
        ),
        "no exp": (read_with(cosine, lambda s: s.relu() / s.relu().sum(1, keepdim=True).clamp_min(1e-9)), ""),
        "sigmoid": (read_with(cosine, torch.sigmoid), ""),
    },
}
