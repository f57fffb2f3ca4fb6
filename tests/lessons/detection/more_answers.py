"""More answers to the exercises of notebook 14, written after the checks: right ones and slips of learners."""

import torch
from torch.nn import functional as F

from mlcourse.lessons.detection import checks


def iou_by_columns(boxes, others):
    ax0, ay0, ax1, ay1 = boxes[:, None].unbind(-1)
    bx0, by0, bx1, by1 = others[None].unbind(-1)
    w = torch.clamp(torch.min(ax1, bx1) - torch.max(ax0, bx0), min=0)
    h = torch.clamp(torch.min(ay1, by1) - torch.max(ay0, by0), min=0)
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - w * h
    return w * h / union


def iou_by_cells(boxes, others):
    """The shared length on each axis is what both together have less than the hull."""
    sizes = [one[:, 2:] - one[:, :2] for one in (boxes, others)]
    hull = torch.maximum(boxes[:, None, 2:], others[:, 2:]) - torch.minimum(boxes[:, None, :2], others[:, :2])
    shared = torch.relu(sizes[0][:, None] + sizes[1] - hull).prod(-1)
    return shared / (sizes[0].prod(-1)[:, None] + sizes[1].prod(-1) - shared)


def iou(change):
    def scored(boxes, others):
        return change(boxes, others, checks.box_iou.reference(boxes, others))

    return scored


def match_by_einsum(features, support):
    unit = support / torch.linalg.vector_norm(support, dim=1, keepdim=True)
    prototype = unit.mean(0) / unit.mean(0).norm()
    return torch.einsum("nd,d->n", features, prototype) / features.norm(dim=1).clamp_min(1e-12)


def match_by_sum(features, support):
    """A sum in place of the mean points in the same direction."""
    return F.normalize(features, dim=-1) @ F.normalize(F.normalize(support, dim=-1).sum(0), dim=0)


def match(change):
    def scored(features, support):
        return change(features, support, checks.match.reference(features, support))

    return scored


def suppress_by_matrix(boxes, scores, threshold):
    """All pairs at once, then one pass from the best to the worst."""
    order = scores.argsort(descending=True)
    too_near = checks.box_iou.reference(boxes[order], boxes[order]) > threshold
    kept = torch.ones(len(boxes), dtype=torch.bool)
    for rank in range(len(boxes)):
        kept[rank] = not (too_near[rank, :rank] & kept[:rank]).any()
    return order[kept]


def suppress_by_recursion(boxes, scores, threshold):
    places = scores.argsort(descending=True).tolist()

    def keep(left):
        if not left:
            return []
        overlaps = checks.box_iou.reference(boxes[left[:1]], boxes[left])[0]
        return [left[0], *keep([p for p, o in zip(left[1:], overlaps[1:], strict=True) if o <= threshold])]

    return torch.tensor(keep(places))


def suppress(change):
    def kept(boxes, scores, threshold):
        return change(boxes, scores, threshold, checks.suppress.reference(boxes, scores, threshold))

    return kept


def curve_by_sums(hits, targets):
    n = len(hits)
    found = torch.stack([hits[: k + 1].sum() for k in range(n)]).double()
    return found / torch.arange(1, n + 1), found / targets


def curve_by_triangle(hits, targets):
    found = torch.ones(len(hits), len(hits)).tril().double() @ hits.double()
    return found / torch.ones(len(hits)).cumsum(0), found / targets


def curve(change):
    def both(hits, targets):
        return change(hits, targets, *checks.precision_recall.reference(hits, targets))

    return both


def levels_by_envelope(precision, recall):
    best = torch.cat([precision.flip(0).cummax(0).values.flip(0), precision.new_zeros(1)])
    levels = torch.linspace(0, 1, 101, dtype=recall.dtype)
    return best[torch.searchsorted(recall.contiguous(), levels)]


def levels_by_python(precision, recall):
    p, r = precision.tolist(), recall.tolist()
    return torch.tensor([max((a for a, b in zip(p, r) if b >= k / 100), default=0.0) for k in range(101)])


def levels(change):
    def interpolated(precision, recall):
        return change(precision, recall, checks.interpolate.reference(precision, recall))

    return interpolated


RIGHT = {
    "box_iou": [iou_by_columns, iou_by_cells],
    "match": [match_by_einsum, match_by_sum],
    "suppress": [suppress_by_matrix, suppress_by_recursion],
    "precision_recall": [curve_by_sums, curve_by_triangle],
    "interpolate": [levels_by_envelope, levels_by_python],
}

WRONG = {
    "box_iou": {
        "half": (iou(lambda a, b, right: right / 2), "half of the right ones"),
        "root": (iou(lambda a, b, right: right.sqrt()), "the roots of the right ones"),
        "percent": (iou(lambda a, b, right: 100 * right), "100 times the right ones"),
        "each with its own": (lambda a, b: checks.box_iou.reference(a, b).diagonal(), "has shape"),
        "rounded": (iou(lambda a, b, right: (right * 10).round() / 10), "rounded or cut off"),
        "truth values": (iou(lambda a, b, right: right > 0.5), "dtype"),
        "around both": (
            iou(lambda a, b, right: right * 0.9 + 0.01),
            "",
        ),
    },
    "match": {
        "squared": (match(lambda f, s, right: right.square()), "the squares of the right ones"),
        "minus": (match(lambda f, s, right: -right), "with the other sign"),
        "the mean of all drawings' cosines": (
            lambda f, s: (F.normalize(f, dim=1) @ F.normalize(s, dim=1).T).mean(1),
            "The prototype is not scaled",
        ),
        "angles": (match(lambda f, s, right: right.clamp(-1, 1).acos()), ""),
        "one number": (match(lambda f, s, right: right.max()), "has shape"),
        "only of the best": (match(lambda f, s, right: right * (right == right.max())), ""),
        "of squares": (lambda f, s: checks.match.reference(f.square(), s.square()), ""),
    },
    "suppress": {
        "the other threshold": (
            lambda b, s, t: checks.suppress.reference(b, s, 1 - t),
            "",
        ),
        "one after the last": (suppress(lambda b, s, t, kept: kept[:-1]), ""),
        "twice": (suppress(lambda b, s, t, kept: torch.cat([kept, kept[:1]])), "each box is kept once at most"),
        "boxes": (suppress(lambda b, s, t, kept: b[kept]), "it needs one tensor of whole numbers"),
        "scores": (suppress(lambda b, s, t, kept: s[kept]), "it needs one tensor of whole numbers"),
        "reversed": (suppress(lambda b, s, t, kept: kept.flip(0)), "the right boxes in another order"),
    },
    "precision_recall": {
        "percent": (curve(lambda h, n, p, r: (100 * p, 100 * r)), "100 times the right ones"),
        "f1": (curve(lambda h, n, p, r: (2 * p * r / (p + r).clamp_min(1e-9), r)), ""),
        "misses counted": (curve(lambda h, n, p, r: ((~h).cumsum(0) / torch.arange(1, len(h) + 1), r)), "false alarms"),
        "one rank less": (curve(lambda h, n, p, r: (p[1:], r[1:])), "has shape"),
        "with a start": (
            curve(lambda h, n, p, r: (torch.cat([torch.ones(1), p]), torch.cat([torch.zeros(1), r]))),
            "has shape",
        ),
        "complement": (curve(lambda h, n, p, r: (1 - p, r)), "The precision counts false alarms"),
        "whole numbers": (curve(lambda h, n, p, r: (h.cumsum(0), h.cumsum(0))), "dtype"),
    },
    "interpolate": {
        "as it is": (levels(lambda p, r, right: torch.cat([p, torch.zeros(101 - len(p))])), ""),
        "half": (levels(lambda p, r, right: right / 2), "half of the right ones"),
        "area": (levels(lambda p, r, right: torch.trapezoid(p, r)), "has shape"),
        "running sum": (levels(lambda p, r, right: right.cumsum(0) / torch.arange(1, 102)), ""),
        "from the back": (levels(lambda p, r, right: right.flip(0)), "in reversed order"),
        "no zeros": (levels(lambda p, r, right: right.clamp_min(float(p[-1]))), "gets a precision above 0 from you"),
        "points": (levels(lambda p, r, right: r), "has shape"),
    },
}
