"""The checks of notebook 00, against right and wrong answers."""

import math

import numpy as np
import torch
from check_helpers import assert_check

from mlcourse.lessons.start_here import checks

# ---- nearest ----


def nearest_loop(distances):
    return torch.tensor([min(range(len(row)), key=row.__getitem__) for row in distances.tolist()])


def nearest_sorted(distances):
    return distances.float().sort(dim=-1).indices[:, 0].to(torch.int32)


def test_nearest():
    assert_check(
        checks.nearest,
        right=[nearest_loop, nearest_sorted],
        wrong={
            "the farthest": (lambda d: d.argmax(1), "the farthest prototypes"),
            "from 1": (lambda d: d.argmin(1) + 1, "labels begin with 0"),
            "one for all": (lambda d: d.argmin().expand(len(d)), "in each row (dim=1)"),
            "columns": (lambda d: d.argmin(0), "has shape"),
            "distances": (lambda d: d.amin(1), "has dtype"),
            "always the second": (lambda d: d.argsort(1)[:, 1], "second nearest"),
        },
    )


# ---- prototypes ----


def prototypes_loop(embeddings, labels, way):
    rows = []
    for k in range(way):
        members = [e for e, label in zip(embeddings.tolist(), labels.tolist(), strict=True) if label == k]
        rows.append([sum(column) / len(members) for column in zip(*members, strict=True)])
    return torch.tensor(rows, dtype=torch.float64)


def prototypes_matrix(embeddings, labels, way):
    members = torch.nn.functional.one_hot(labels, way).float()
    return (members / members.sum(0)).T @ embeddings.float()


def in_order(embeddings, labels, way):
    return embeddings.view(way, -1, embeddings.shape[1]).mean(1)


def test_prototypes():
    by_class = "over the images of one class only"
    assert_check(
        checks.prototypes,
        right=[prototypes_loop, prototypes_matrix],
        wrong={
            "in order": (in_order, "taken for their class"),
            "sums": (lambda e, y, n: torch.stack([e[y == k].sum(0) for k in range(n)]), "these are sums"),
            "first": (lambda e, y, n: torch.stack([e[y == k][0] for k in range(n)]), "only the first image"),
            "one mean": (lambda e, y, n: e.mean(0).expand(n, -1).clone(), by_class),
            "all images": (lambda e, y, n: torch.stack([e[y == k].sum(0) / len(y) for k in range(n)]), "of all images"),
            "largest": (lambda e, y, n: torch.stack([e[y == k].amax(0) for k in range(n)]), "the largest numbers"),
            "turned": (lambda e, y, n: torch.stack([e[y == k].mean(0) for k in range(n)], 1), "has shape"),
        },
    )


# ---- accuracy_interval ----


def interval_loop(per_episode):
    values = per_episode.tolist()
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, 1.96 * math.sqrt(variance / len(values))


def interval_numpy(per_episode):
    values = per_episode.numpy().astype(np.float32)
    return values.mean(), 2 * values.std(ddof=1) / np.sqrt(len(values))


def _with(half):
    return lambda x: (x.mean(), half(x))


def test_accuracy_interval():
    assert_check(
        checks.accuracy_interval,
        right=[interval_loop, interval_numpy],
        wrong={
            "single episodes": (_with(lambda x: 1.96 * x.std()), "single episodes"),
            "by n": (_with(lambda x: 1.96 * x.std() / len(x)), "you divide by n"),
            "standard error": (_with(lambda x: x.std() / len(x) ** 0.5), "interval of 68 %"),
            "whole width": (_with(lambda x: 3.92 * x.std() / len(x) ** 0.5), "the whole width"),
            "variance": (_with(lambda x: 1.96 * x.var() / len(x) ** 0.5), "uses the variance"),
            "population": (_with(lambda x: 1.96 * x.std(correction=0) / len(x) ** 0.5), "it is n - 1"),
            "99 %": (_with(lambda x: 2.58 * x.std() / len(x) ** 0.5), "an interval of 99 %"),
            "by the root of the root": (_with(lambda x: 1.96 * x.std() / len(x) ** 0.25), "the half-width is 0"),
            "percent": (lambda x: (100 * x.mean(), 196 * x.std() / len(x) ** 0.5), "in percent"),
            "median": (lambda x: (x.median() + 0.01, x.std()), "the mean is wrong"),
            "one number": (lambda x: x.mean(), "cannot be used"),
        },
    )


def test_classes_of_different_size_are_not_divided_by_one_number():
    def my_prototypes(embeddings, labels, way):
        sums = torch.stack([embeddings[labels == k].sum(0) for k in range(way)])
        return sums / (len(labels) / way)

    assert "divide every class by the same number" in checks.prototypes.run(my_prototypes).diagnosis
