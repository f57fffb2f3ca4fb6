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
        "five columns": (lambda d: d[:, :5].argmin(1), "the first classes only"),
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
        "n + 1": (
            lambda e, y, way: e.new_zeros(way, e.shape[1]).scatter_reduce(0, y[:, None].expand_as(e), e, "mean"),
            "one image too many",
        ),
        "number of class 0": (
            lambda e, y, way: torch.stack([e[y == k].sum(0) for k in range(way)]) / (y == 0).sum(),
            "you divide every class by the same number",
        ),
        "length 1": (
            lambda e, y, way: torch.nn.functional.normalize(torch.stack([e[y == k].mean(0) for k in range(way)])),
            "scaled to length 1",
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
        "n − 1": (interval(half=lambda x: 1.96 * x.std() / (len(x) - 1) ** 0.5), "s has its n - 1 already"),
        "coins": (interval(half=lambda x: 1.96 * (x.mean() * (1 - x.mean()) / len(x)) ** 0.5), "single right or wrong"),
        "root of s": (interval(half=lambda x: 1.96 * (x.std() / len(x)) ** 0.5), "the root goes over s"),
        "median": (interval(mean=lambda x: x.median()), "this is the median"),
        "90 %": (interval(half=lambda x: 1.645 * x.std() / len(x) ** 0.5), "an interval of 90 %"),
        "sum": (interval(mean=lambda x: x.sum()), "is there a sum where a mean"),
    },
}
