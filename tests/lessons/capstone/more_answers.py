"""More answers to the exercises of notebook 17, written after the checks: right ones and slips of learners."""

import torch
from torch.nn import functional as F

from mlcourse.lessons.capstone import checks


def normalised_by_lerp(accuracy, way):
    chance = way.double().reciprocal()
    return torch.stack([(a - c) / (1 - c) for a, c in zip(accuracy, chance, strict=True)]).mean(0)


def normalised(change):
    def scored(accuracy, way):
        return change(accuracy, way.double())

    return scored


def prototypes_by_sums(features, labels):
    way = int(labels.max()) + 1
    found = []
    for k in range(way):
        rows = [z for z, y in zip(features, labels.tolist(), strict=True) if y == k]
        found.append(torch.stack(rows).sum(0) / len(rows))
    return torch.stack(found)


def prototypes_by_scatter(features, labels):
    index = labels.unsqueeze(1).expand_as(features)
    empty = features.new_zeros(int(labels.max()) + 1, features.shape[1])
    return empty.scatter_reduce(0, index, features, "mean", include_self=False)


def prototypes(change):
    def scored(features, labels):
        return change(features, F.one_hot(labels).to(features.dtype))

    return scored


def alone_by_products(support, labels, queries):
    """−‖a − b‖² = 2a·b − ‖a‖² − ‖b‖²."""
    m, s = support.mean(0), ((support - support.mean(0)).square().mean(0) + 1e-5).sqrt()  # as batch normalisation
    a = (queries - m) / s
    b = checks.any_prototypes.reference((support - m) / s, labels)
    return 2 * a @ b.T - a.square().sum(1, keepdim=True) - b.square().sum(1)


def alone_class_by_class(support, labels, queries):
    m, s = support.mean(0), support.std(0, unbiased=False).clamp_min(1e-6)
    columns = []
    for k in range(int(labels.max()) + 1):
        c = (support[labels == k].mean(0) - m) / s
        columns.append(-(((queries - m) / s - c) ** 2).sum(dim=1))
    return torch.stack(columns, dim=1)


def alone(change):
    def scored(support, labels, queries):
        return change(checks.alone.reference(support, labels, queries))

    return scored


def prototypes_that_move(support, labels, queries):
    """One step of soft k-means: a query moves the prototypes for the others."""
    m, s = support.mean(0), support.std(0, correction=0)
    z, q = (support - m) / s, (queries - m) / s
    first = checks.any_prototypes.reference(z, labels)
    weights = (-torch.cdist(q, first).square()).softmax(1)
    member = F.one_hot(labels).to(z.dtype)
    moved = (member.T @ z + weights.T @ q) / (member.sum(0) + weights.sum(0)).unsqueeze(1)
    return -(q[:, None] - moved).square().sum(-1)


def steps_by_halving_down(count, budget, most):
    """The first number that is too many, less one."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        if count(middle) > budget:
            high = middle
        else:
            low = middle
    return low


def steps_with_memory(count, budget, most):
    if count(most) <= budget:
        return most

    def search(low, high):
        middle = (low + high) // 2
        return low if middle == low else search(middle, high) if count(middle) <= budget else search(low, middle)

    return search(0, most)


def steps(change):
    def scored(count, budget, most):
        return change(checks.steps_within.reference(count, budget, most), budget, most)

    return scored


RIGHT = {
    "normalised": [normalised_by_lerp],
    "any_prototypes": [prototypes_by_sums, prototypes_by_scatter],
    "alone": [alone_by_products, alone_class_by_class],
    "steps_within": [steps_by_halving_down, steps_with_memory],
}
WRONG = {
    "normalised": {
        "weighted by way": (
            normalised(lambda a, n: ((a - 1 / n) / (1 - 1 / n) * n).sum() / n.sum()),
            "Episodes with more classes count more",
        ),
        "median": (normalised(lambda a, n: ((a - 1 / n) / (1 - 1 / n)).median()), "This is the median"),
        "sum": (normalised(lambda a, n: ((a - 1 / n) / (1 - 1 / n)).sum()), "This is the sum"),
        "a constant chance": (normalised(lambda a, n: ((a - 0.2) / 0.8).mean()), ""),
        "a constant chance of a quarter": (normalised(lambda a, n: ((a - 0.25) / 0.75).mean()), ""),
        "no mean below 0": (
            normalised(lambda a, n: ((a - 1 / n) / (1 - 1 / n)).mean().clamp(min=0)),
            "count as 0 in your answer",
        ),
    },
    "any_prototypes": {
        "unit prototypes": (prototypes(lambda z, m: F.normalize(m.T @ z, dim=1)), "the prototypes to length 1"),
        "unit images": (
            prototypes(lambda z, m: m.T @ F.normalize(z, dim=1) / m.sum(0)[:, None]),
            "You scale the images to length 1",
        ),
        "all": (prototypes(lambda z, m: z.mean(0).expand(m.shape[1], -1)), "the mean of all images"),
        "others": (
            prototypes(lambda z, m: (1 - m).T @ z / (1 - m).sum(0)[:, None]),
            "the images that are *not* of its class",
        ),
        "largest": (
            prototypes(lambda z, m: torch.stack([z[m[:, k] == 1].amax(0) for k in range(m.shape[1])])),
            "",
        ),
    },
    "alone": {
        "log of softmax 0": (alone(lambda x: x.log_softmax(0)), "(log_softmax over dimension 0)"),
        "log-softmax": (alone(lambda x: x.log_softmax(1)), "These are log-probabilities"),
        "roots": (alone(lambda x: -(-x).sqrt()), "distances that are not squared"),
        "mean of squares": (alone(lambda x: x / 4), "by the number of features"),
        "soft k-means": (prototypes_that_move, ""),
    },
    "steps_within": {
        "share": (steps(lambda k, b, m: k * b // (2 * b)), ""),
        "two too many": (steps(lambda k, b, m: k + 2), ""),
        "one too many": (steps(lambda k, b, m: k + 1), "one too many"),
        "no step": (steps(lambda k, b, m: 0), "0 everywhere"),
    },
}
