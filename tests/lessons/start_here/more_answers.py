"""More answers to the exercises of notebook 00, written after the checks: right ones and slips of learners."""

import torch

RIGHT = {
    "nearest": [
        lambda distances: (-distances).argmax(1),
        lambda distances: distances.topk(1, dim=1, largest=False).indices.squeeze(1),
        lambda distances: torch.stack([row.argmin() for row in distances]),
    ],
    "prototypes": [
        lambda e, y, way: torch.zeros(way, e.shape[1], dtype=e.dtype).index_add(0, y, e) / y.bincount()[:, None],
        lambda e, y, way: torch.stack([e[(y == k).nonzero().flatten()].mean(dim=0) for k in range(way)]),
    ],
    "accuracy_interval": [
        lambda x: (x.sum() / len(x), 1.96 * (x.var() / len(x)).sqrt()),
        lambda x: (x.mean().item(), 1.96 * x.std(unbiased=True).item() / len(x) ** 0.5),
    ],
}


def interval(mean=lambda x: x.mean(), half=lambda x: 1.96 * x.std() / len(x) ** 0.5):
    return lambda x: (mean(x), half(x))


WRONG = {
    "nearest": {
        "columns counted from behind": (lambda d: d.flip(1).argmin(1), ""),
        "one too small": (lambda d: d.argmin(1) - 1, "too small by 1 everywhere"),
        "kept dimension": (lambda d: d.argmin(1, keepdim=True), "has shape"),
        "order of the order": (lambda d: d.argsort(1).argmin(1), "these are ranks"),
    },
    "prototypes": {
        "every way-th image": (
            lambda e, y, way: torch.stack([e[k::way].mean(0) for k in range(way)]),
            "the order of the images",
        ),
        "labels from 1": (lambda e, y, way: torch.stack([e[y == k + 1].mean(0) for k in range(way)]), "holds NaN"),
        "median": (
            lambda e, y, way: torch.stack([e[y == k].median(0).values for k in range(way)]),
            "these are medians",
        ),
        "last image": (lambda e, y, way: torch.stack([e[y == k][-1] for k in range(way)]), "only the last image"),
    },
    "accuracy_interval": {
        "two ends": (
            lambda x: (x.mean() - 2 * x.std() / len(x) ** 0.5, x.mean() + 2 * x.std() / len(x) ** 0.5),
            "the two ends of the interval",
        ),
        "in the other order": (lambda x: interval()(x)[::-1], "have changed places"),
        "half-width in percent": (interval(half=lambda x: 196 * x.std() / len(x) ** 0.5), "are they in percent"),
        "90 %": (interval(half=lambda x: 1.645 * x.std() / len(x) ** 0.5), "an interval of 90 %"),
        "sum": (interval(mean=lambda x: x.sum()), "is there a sum where a mean"),
    },
}
