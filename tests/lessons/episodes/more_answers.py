"""More answers to the exercises of notebook 02, written after the checks: right ones and slips of learners."""

import copy
import statistics
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from mlcourse.lessons.episodes import checks


def network(channels, size, classes, *, bend=nn.ReLU, pool=lambda side: nn.MaxPool2d(2), kernel=3, extra=()):
    features = 128 * (size // 4) ** 2
    return nn.Sequential(
        nn.Conv2d(channels, 64, kernel, padding=kernel // 2), bend(), pool(size // 2),
        nn.Conv2d(64, 128, kernel, padding=kernel // 2), bend(), *extra, pool(size // 4),
        nn.Flatten(), nn.Linear(features, 1024), bend(), nn.Linear(1024, classes),
    )  # fmt: skip


def network_by_name(channels, size, classes):
    parts = OrderedDict((f"layer{i}", layer) for i, layer in enumerate(network(channels, size, classes)))
    return nn.Sequential(parts)


def network_pooled_late(channels, size, classes):
    layers = list(network(channels, size, classes))
    layers[2], layers[5] = nn.Identity(), nn.MaxPool2d(4)
    return nn.Sequential(*layers)


def average(side):
    return nn.AvgPool2d(2)


def moved_with_buffers(module, train):
    old = copy.deepcopy(module.state_dict())
    train()
    return {name for name, value in module.state_dict().items() if not torch.equal(value, old[name])}


def moved_on_top(module, train):
    old = {name: value.detach().clone() for name, value in module.named_parameters(recurse=False)}
    train()
    return {name for name, value in module.named_parameters(recurse=False) if not torch.equal(value, old[name])}


def moved_by_deep_copy(module, train):
    old = copy.deepcopy(module)
    train()
    pairs = zip(module.named_parameters(), old.parameters(), strict=True)
    return [name for (name, new), before in pairs if not torch.equal(new, before)]


def moved_by_lists(module, train):
    old = {name: value.tolist() for name, value in module.named_parameters()}
    train()
    return {name for name, value in module.named_parameters() if value.tolist() != old[name]}


def moved_by(differ):
    def moved(module, train):
        old = {name: value.detach().clone() for name, value in module.named_parameters()}
        train()
        return {name for name, value in module.named_parameters() if differ(value.detach(), old[name], name)}

    return moved


def moved_copied_late(module, train):
    train()
    return moved_by(lambda new, old, name: not torch.equal(new, old))(module, lambda: None)


def task(data, way, shot, query, generator, *, pick=None, order=lambda labels, generator: labels):
    """One task by lists; pick(n, shot + query, generator) → the places of a class's images."""
    pick = pick or (lambda n, many, generator: torch.randperm(n, generator=generator)[:many])
    chosen = torch.randperm(data.classes, generator=generator)[:way].tolist()
    support, queries = [], []
    for index in chosen:
        images = data.of_class(index)
        places = pick(len(images), shot + query, generator)
        support.append(images[places[:shot]])
        queries.append(images[places[shot : shot + query]])
    labels = torch.arange(way)
    return (
        torch.cat(support),
        order(labels.repeat_interleave(shot), generator),
        torch.cat(queries),
        labels.repeat_interleave(query),
    )


def task_by_columns(data, way, shot, query, generator):
    """Sample by sample over all classes, so that labels come as 0, 1, …, 0, 1, …"""
    chosen = torch.randperm(data.classes, generator=generator)[:way].tolist()
    places = [torch.randperm(int(data.counts[c]), generator=generator)[: shot + query] for c in chosen]
    rows = [torch.stack([data.of_class(c)[p[k]] for c, p in zip(chosen, places)]) for k in range(shot + query)]
    labels = torch.arange(way)
    return torch.cat(rows[:shot]), labels.repeat(shot), torch.cat(rows[shot:]), labels.repeat(query)


def window(n, many, generator):
    return int(torch.randint(n - many + 1, (), generator=generator)) + torch.arange(many)


def task_of_neighbours(data, way, shot, query, generator):
    """A random first class, and those behind it."""
    start, support, queries = int(torch.randint(data.classes, (), generator=generator)), [], []
    for k in range(way):
        images = data.of_class((start + k) % data.classes)
        places = torch.randperm(len(images), generator=generator)
        support.append(images[places[:shot]])
        queries.append(images[places[shot : shot + query]])
    labels = torch.arange(way)
    return torch.cat(support), labels.repeat_interleave(shot), torch.cat(queries), labels.repeat_interleave(query)


def task_in_another_order(*given):
    support_x, support_y, query_x, query_y = task(*given)
    return support_x, query_x, support_y, query_y


def first_of_the_rest(n, many, generator):
    """The support at random, the queries the first images that are left."""
    order = torch.randperm(n, generator=generator)
    rest = [k for k in range(n) if k not in order[:1].tolist()]
    return torch.tensor([int(order[0]), *rest])[:many]


def parted(part, allowed, at_random=True):
    """One part of a task has its images from allowed(free, n, smallest): those that the other part, drawn at random
    before, leaves free, of n in the class, of `smallest` in the smallest class."""

    def answer(data, way, shot, query, generator):
        wanted, rows = {"support": shot, "queries": query}, {"support": [], "queries": []}
        other = "queries" if part == "support" else "support"
        for index in torch.randperm(data.classes, generator=generator)[:way].tolist():
            images = data.of_class(index)
            order = torch.randperm(len(images), generator=generator).tolist()
            first, free = order[: wanted[other]], sorted(order[wanted[other] :])
            left = allowed(free, len(images), int(data.counts.min()))
            mixed = torch.randperm(len(left), generator=generator) if at_random else torch.arange(len(left))
            rows[other].append(images[torch.tensor(first)])
            rows[part].append(images[torch.tensor(left)[mixed[: wanted[part]]]])
        labels = torch.arange(way)
        support, queries = torch.cat(rows["support"]), torch.cat(rows["queries"])
        return support, labels.repeat_interleave(shot), queries, labels.repeat_interleave(query)

    return answer


def drawn_twice(n, many, generator):
    return torch.randint(n, (many,), generator=generator)


def paired_of(mean, half):
    return lambda a, b: (mean(a, b), half(a, b))


def paired_by_statistics(a, b):
    values = (a - b).tolist()
    return statistics.fmean(values), 1.96 * statistics.stdev(values) / len(values) ** 0.5


def standard(a, b):
    return 1.96 * (a - b).std() / len(a) ** 0.5


def outer_with(logits, loss=F.cross_entropy, centre=lambda z: z.mean(0)):
    def outer(body, support_x, support_y, query_x, query_y, way):
        features = body(support_x)
        centres = torch.stack([centre(features[support_y == k]) for k in range(way)])
        return loss(logits(body(query_x), centres), query_y)

    return outer


def minus_squares(z, c):
    return -(z.unsqueeze(1) - c).pow(2).sum(2)


def by_hand(logits, labels):
    return (logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]).mean()


RIGHT = {
    "inner_network": [
        network_by_name,
        lambda channels, size, classes: network(channels, size, classes, pool=nn.AdaptiveMaxPool2d),
    ],
    "moved": [lambda module, train: sorted(checks.moved_parameters(module, train)), moved_by_deep_copy, moved_by_lists],
    "sample_episode": [task, task_by_columns],
    "paired": [paired_by_statistics, lambda a, b: ((a - b).mean().item(), 2 * ((a - b).var() / len(a)).sqrt().item())],
    "outer_loss": [
        outer_with(lambda z, c: 2 * z @ c.T - (z * z).sum(1, keepdim=True) - (c * c).sum(1)),
        outer_with(minus_squares, by_hand),
    ],
}

WRONG = {
    "inner_network": {
        "sigmoid": (lambda *sizes: network(*sizes, bend=nn.Sigmoid), "no ReLU"),
        "leaky": (lambda *sizes: network(*sizes, bend=nn.LeakyReLU), "a ReLU is missing"),
        "pooled late": (network_pooled_late, "Both poolings come after the second convolution"),
        "averages": (lambda *sizes: network(*sizes, pool=average), "You pool by averages"),
        "dropout": (lambda *sizes: network(*sizes, extra=[nn.Dropout(0.5)]), "dropout or batch normalisation"),
        "kernel 5": (lambda *sizes: network(*sizes, kernel=5), "the listing's layers"),
        "batch norm": (lambda *sizes: network(*sizes, extra=[nn.BatchNorm2d(128)]), "dropout or batch normalisation"),
        "a list": (lambda *sizes: list(network(*sizes)), "nn.Sequential"),
    },
    "moved": {
        "all entries": (moved_by(lambda new, old, name: bool((new != old).all())), "as soon as one of its entries"),
        "lengths": (moved_by(lambda new, old, name: float(new.norm()) != float(old.norm())), "You compare lengths"),
        "first entry": (
            moved_by(lambda new, old, name: bool(new.flatten()[0] != old.flatten()[0])),
            "as soon as one of its entries",
        ),
        "buffers": (moved_with_buffers, "You report a buffer"),
        "first floor": (moved_on_top, "parameters of the module itself only"),
        "copied late": (moved_copied_late, "keep a copy from before"),
        "weights only": (
            moved_by(lambda new, old, name: "weight" in name and not torch.equal(new, old)),
            "You miss parameters that moved",
        ),
        "a dictionary": (lambda module, train: train() or dict(module.named_parameters()), "needs a set of names"),
    },
    "sample_episode": {
        "first of the rest": (lambda *a: task(*a, pick=first_of_the_rest), "The queries are always the first"),
        "last of the rest": (parted("queries", lambda free, *_: free[::-1], False), "The queries are always the last"),
        "support first of the rest": (parted("support", lambda free, *_: free, False), "images are always the first"),
        "support last of the rest": (
            parted("support", lambda free, *_: free[::-1], False),
            "images are always the last",
        ),
        "queries but the last": (
            parted("queries", lambda free, n, _: [k for k in free if k < n - 1]),
            "The last image of a class is never in the queries",
        ),
        "support but the first": (
            parted("support", lambda free, *_: [k for k in free if k > 0]),
            "The first image of a class is never in the support",
        ),
        "queries of the smallest size": (
            parted("queries", lambda free, _, smallest: [k for k in free if k < smallest]),
            "The last image of most classes is never in the queries",
        ),
        "with replacement": (lambda *a: task(*a, pick=drawn_twice), "An image occurs twice"),
        "a window": (lambda *a: task(*a, pick=window), "The images of a class are always neighbours"),
        "neighbours": (task_of_neighbours, "The classes of a task are always neighbours"),
        "another order": (task_in_another_order, "The four results stand in another order"),
        "shot and query": (lambda data, way, shot, query, g: task(data, way, query, shot, g), "are exchanged"),
        "labels shuffled alone": (
            lambda *a: task(*a, order=lambda y, g: y[torch.randperm(len(y), generator=g)]),
            "label",
        ),
    },
    "paired": {
        "90 %": (
            paired_of(lambda a, b: (a - b).mean(), lambda a, b: 1.645 * (a - b).std() / len(a) ** 0.5),
            "an interval of 90 %",
        ),
        "n − 1": (
            paired_of(lambda a, b: (a - b).mean(), lambda a, b: 1.96 * (a - b).std() / (len(a) - 1) ** 0.5),
            "s has its n − 1 already",
        ),
        "2n": (
            paired_of(lambda a, b: (a - b).mean(), lambda a, b: 1.96 * (a - b).std() / (2 * len(a)) ** 0.5),
            "You count 2n episodes",
        ),
        "widths subtracted": (
            paired_of(lambda a, b: (a - b).mean(), lambda a, b: standard(a, 0) - standard(b, 0)),
            "You subtract the two half widths",
        ),
        "torn": (
            paired_of(lambda a, b: (a - b).mean(), lambda a, b: standard(a.sort().values, b.sort().values)),
            "torn",
        ),
        "ratio": (paired_of(lambda a, b: (a / b).mean(), standard), ""),
        "absolute": (paired_of(lambda a, b: (a - b).abs().mean(), standard), "The sign of each difference is lost"),
        "percent": (
            paired_of(lambda a, b: 100 * (a - b).mean(), lambda a, b: 100 * standard(a, b)),
            "are they in percent",
        ),
        "other order": (paired_of(standard, lambda a, b: (a - b).mean()), "have changed places"),
    },
    "outer_loss": {
        "cosines": (outer_with(lambda z, c: F.normalize(z, dim=1) @ F.normalize(c, dim=1).T), "These are cosines"),
        "absolute": (outer_with(lambda z, c: -torch.cdist(z, c, p=1)), "These are absolute differences"),
        "over the queries": (
            outer_with(minus_squares, lambda z, y: F.nll_loss(z.log_softmax(0), y)),
            "The softmax goes over the queries",
        ),
        "pixels": (lambda body, *rest: checks.outer_loss.reference(lambda x: x, *rest), "These are the pixels"),
        "dot products": (outer_with(lambda z, c: z @ c.T), "These are dot products"),
        "no log": (outer_with(minus_squares, F.nll_loss), "The softmax is missing"),
        "minus": (outer_with(minus_squares, lambda z, y: -F.cross_entropy(z, y)), "with the other sign"),
        "first image": (outer_with(minus_squares, centre=lambda z: z[0]), "Only the first image"),
        "one mean": (outer_with(minus_squares, lambda z, y: z.log_softmax(1).mean()), ""),
    },
}
