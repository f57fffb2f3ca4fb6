"""More answers to the exercises of notebook 13, written after the checks: right ones and slips of learners."""

import torch
from torch.nn import functional as F

from mlcourse.lessons.segmentation import checks


def pooling_by_einsum(features, mask):
    total = torch.einsum("chw,hw->c", features, mask)
    return torch.where(mask.sum() > 0, total / mask.sum().clamp_min(1e-12), torch.zeros_like(total))


def pooling_by_weights(features, mask):
    weights = mask / mask.sum() if mask.any() else mask
    return torch.tensordot(features, weights, dims=2)


def pooling(change):
    def pooled(features, mask):
        size = mask.sum()
        if size == 0:
            return torch.zeros(len(features), dtype=features.dtype)
        return change(features, mask, size)

    return pooled


def logits_by_matmul(features, target, rest, scale):
    channels, h, w = features.shape
    f = features.reshape(channels, -1)
    f = f / f.norm(dim=0).clamp_min(1e-12)
    prototypes = torch.stack([target / target.norm(), rest / rest.norm()])
    one, other = scale * (prototypes @ f)
    return (one - other).reshape(h, w)


def logits_by_softmax(features, target, rest, scale):
    """The logit of the probability that a softmax of the two scores gives."""
    scores = [scale * F.cosine_similarity(features, p[:, None, None], dim=0) for p in (target, rest)]
    return torch.logit(torch.stack(scores).softmax(0)[0].double(), eps=1e-15)


def logits(change):
    def logits_of(features, target, rest, scale):
        a, b = (F.cosine_similarity(features, p[:, None, None], dim=0) for p in (target, rest))
        return change(a, b, scale)

    return logits_of


def iou_by_sizes(prediction, target):
    shared = torch.logical_and(prediction, target).flatten(1).sum(1)
    union = prediction.flatten(1).sum(1) + target.flatten(1).sum(1) - shared
    return torch.where(union == 0, torch.ones(len(union)), shared / union)


def iou_by_min_and_max(prediction, target):
    p, t = prediction.double(), target.double()
    low, high = torch.minimum(p, t).sum((-2, -1)), torch.maximum(p, t).sum((-2, -1))
    return torch.where(high > 0, low / high, 1.0)


def iou(change):
    def score(prediction, target):
        both, p, t = (one.sum((1, 2)).double() for one in (prediction & target, prediction, target))
        return change(both, p, t, p + t - both).nan_to_num(1.0)

    return score


def pooled_by_counts(prediction, target):
    both, neither = (prediction & target).sum(), (~prediction & ~target).sum()
    wrong = (prediction != target).sum()
    return both / (both + wrong), neither / (neither + wrong)


def pooled_as_one_scene(prediction, target):
    flat = [one.reshape(1, 1, -1) for one in (prediction, target)]
    return iou_by_sizes(*flat)[0], iou_by_sizes(*[~one for one in flat])[0]


def pooled(change):
    def both_classes(prediction, target):
        return change(prediction, target, *checks.pooled_iou.reference(prediction, target))

    return both_classes


RIGHT = {
    "masked_average": [pooling_by_einsum, pooling_by_weights],
    "cosine_logits": [logits_by_matmul, logits_by_softmax],
    "iou": [iou_by_sizes, iou_by_min_and_max],
    "pooled_iou": [pooled_by_counts, pooled_as_one_scene],
}

WRONG = {
    "masked_average": {
        "sum of features": (pooling(lambda f, m, n: f.sum((1, 2)) / n), ""),
        "mean of the product": (pooling(lambda f, m, n: (f * m).mean((1, 2))), "the number of all places"),
        "minus": (pooling(lambda f, m, n: -(f * m).sum((1, 2)) / n), "with the other sign"),
        "twice divided": (pooling(lambda f, m, n: (f * m).sum((1, 2)) / n / n), ""),
        "soft as hard": (
            pooling(lambda f, m, n: (f * (m > 0)).sum((1, 2)) / (m > 0).sum()),
            "You take the mask as 0 or 1",
        ),
        "rows": (pooling(lambda f, m, n: (f * m).sum(1) / n), "has shape"),
        "three channels": (
            pooling(lambda f, m, n: torch.stack([(f[c] * m).sum() for c in range(3)]) / n),
            "shape",
        ),
        "nothing below one pixel": (
            lambda f, m: (f * m).sum((1, 2)) / m.sum() if m.sum() >= 1 else torch.zeros(len(f), dtype=f.dtype),
            "Only an empty mask gives that",
        ),
        "empty is 1": (
            lambda f, m: checks.masked_average.reference(f, m) if m.any() else torch.ones(len(f), dtype=f.dtype),
            "The mask is empty",
        ),
    },
    "cosine_logits": {
        "half": (logits(lambda a, b, s: s * (a - b) / 2), "half of the right ones"),
        "√scale": (logits(lambda a, b, s: s**0.5 * (a - b)), "√`scale`"),
        "softmax": (logits(lambda a, b, s: torch.stack([s * a, s * b]).softmax(0)[0]), "These are probabilities"),
        "ratio": (logits(lambda a, b, s: s * a / b.abs().clamp_min(1e-3)), ""),
        "swapped": (logits(lambda a, b, s: s * (b - a)), "The sign is wrong"),
        "two maps": (logits(lambda a, b, s: s * torch.stack([a, b])), "has shape"),
        "of a picture of 3 × 4": (
            lambda f, t, r, s: checks.cosine_logits.reference(f[:, :3, :4], t, r, s),
            "shape",
        ),
        "rest alone": (logits(lambda a, b, s: -s * b), ""),
    },
    "iou": {
        "larger mask": (iou(lambda both, p, t, either: both / torch.maximum(p, t)), "the larger mask"),
        "smaller mask": (iou(lambda both, p, t, either: both / torch.minimum(p, t)), "the smaller mask"),
        "dice": (iou(lambda both, p, t, either: 2 * both / (p + t)), "the Dice score"),
        "f2": (iou(lambda both, p, t, either: both / p), "(precision)"),
        "percent": (iou(lambda both, p, t, either: 100 * both / either), ""),
        "background": (
            lambda p, t: checks.iou.reference(~p, ~t),
            "the IoU of the background",
        ),
        "no target is 1": (
            lambda p, t: torch.where(t.any(2).any(1), checks.iou.reference(p, t), 1.0),
            "That is a false alarm",
        ),
        "nothing predicted is 1": (
            lambda p, t: torch.where(p.any(2).any(1), checks.iou.reference(p, t), 1.0),
            "A target that is missed as a whole",
        ),
        "one empty mask is 1": (
            lambda p, t: torch.where(p.any(2).any(1) & t.any(2).any(1), checks.iou.reference(p, t), 1.0),
            "Wherever one mask is empty",
        ),
        "empty is 0": (
            lambda p, t: torch.where(p.any((1, 2)) | t.any((1, 2)), checks.iou.reference(p, t), 0.0),
            "nothing is wrong",
        ),
    },
    "pooled_iou": {
        "the first scene": (pooled(lambda p, t, a, b: checks.pooled_iou.reference(p[:1], t[:1])), ""),
        "mean of scenes": (
            pooled(lambda p, t, a, b: (checks.iou.reference(p, t).mean(), checks.iou.reference(~p, ~t).mean())),
            "These are means of the IoU",
        ),
        "swapped": (pooled(lambda p, t, a, b: (b, a)), "changed places"),
        "both are the mean": (pooled(lambda p, t, a, b: ((a + b) / 2, (a + b) / 2)), "Both numbers are the mean"),
        "over the sizes": (
            pooled(
                lambda p, t, a, b: ((p & t).sum() / (p.sum() + t.sum()), (~p & ~t).sum() / ((~p).sum() + (~t).sum()))
            ),
            "The union counts them once",
        ),
        "not both": (
            pooled(lambda p, t, a, b: (a, (~(p & t)).sum() / (~p | ~t).sum())),
            "The second number is 1",
        ),
        "halves": (pooled(lambda p, t, a, b: (a / 2, b / 2)), "half of the right ones"),
        "in a list of scenes": (
            pooled(lambda p, t, a, b: (checks.iou.reference(p, t), checks.iou.reference(~p, ~t))),
            "has shape",
        ),
    },
}
