"""The checks of notebook 14: IoU of boxes, scores by a prototype, suppression, precision and recall, interpolation.

Oracles are plain loops that write down what they do, line by line: a trace table. A diagnosis shows the first line of
that table on which the answer differs.

Everingham, Van Gool, Williams, Winn, Zisserman, *The Pascal Visual Object Classes (VOC) Challenge*, 2010,
https://doi.org/10.1007/s11263-009-0275-4;
Lin et al., *Microsoft COCO: Common Objects in Context*, 2014, https://arxiv.org/abs/1405.0312, and its evaluation,
https://cocodataset.org/#detection-eval;
Snell, Swersky, Zemel, *Prototypical Networks for Few-shot Learning*, 2017, https://arxiv.org/abs/1703.05175.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mlcourse.teaching.checks import Check, close, several
from mlcourse.teaching.oracles import Unnamed, first_mistake, randn, told_apart, uniform

Tensors = dict[str, Tensor]
F64 = torch.float64
RTOL = 2e-4  # an answer that computes in float32 passes; the mistakes below are off by far more
_close = partial(close, rtol=RTOL)
_first = partial(first_mistake, rtol=RTOL)


def _differing(got: Tensor, right: Tensor) -> int:
    """The first line on which two columns of numbers differ."""
    apart = (got.double() - right.double()).abs() > RTOL * right.double().abs().clamp_min(1e-3)
    return int(apart.nonzero()[0]) if apart.any() else 0


def _line(words: str, name: str, got: Tensor, right: Tensor) -> str:
    """What a diagnosis shows: a line of the trace table, and beside it what the answer has there."""
    wanted, yours = told_apart(right, got, digits=3) if got.is_floating_point() else (int(right), int(got))
    return f"First line of the trace that differs: `{words}, {name} {wanted}; yours {yours}`."


def _said(cause: str | None, line: str) -> str:
    """The cause, when there is one, and the line that shows it."""
    return Unnamed(line) if cause is None else f"{cause} {line}"


# ------------------------------------------------------------------ 14.1 intersection over union of boxes


def _boxes(generator: torch.Generator, n: int) -> Tensor:
    """Boxes (x0, y0, x1, y1), wider than high or the other way round, none at the corner of the picture: [n, 4]."""
    corner, size = uniform(generator, 3.0, 20.0, n, 2), uniform(generator, 6.0, 12.0, n, 2)
    return torch.cat([corner, corner + size], 1)


def _box_inputs(kind: str) -> Callable[[torch.Generator], Tensors]:
    """Boxes and others. "shifted": each other box overlaps all boxes; "apart": some lie beside, below, or both."""

    def make(generator: torch.Generator) -> Tensors:
        boxes = _boxes(generator, 1) + torch.tensor([[0.0, 0, 0, 0], [1, 0.5, 2, -0.5], [0.5, 1, -1, 1.5]], dtype=F64)
        others = boxes[[0, 1, 2, 0]] + uniform(generator, -0.8, 0.8, 4, 4)
        edges = torch.tensor([-1.0, -1, 1, 1], dtype=F64)
        others += edges * torch.tensor([1.5, 1.5, -0.6, -0.6], dtype=F64)[:, None]  # two are larger, two smaller
        if kind == "apart":
            # beside, below, and both: there the two sides of the overlap are below 0, and their product is above
            shift = torch.tensor([[18.0, 0.5], [0.5, 19.0], [17.0, 21.0]], dtype=F64)
            others = torch.cat([others[:1], others[1:] + shift.repeat(1, 2)])
        return {"boxes": boxes, "others": others}

    return make


def _box_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"IoU": answer(inputs["boxes"], inputs["others"])}


def _sides(boxes: Tensor, others: Tensor) -> dict[str, Tensor]:
    """Width and height of what each pair shares (below 0 where they lie apart), of its hull, and its areas: [n, m]."""
    names = ("w", "h", "hull w", "hull h", "a", "b")
    found = {name: torch.zeros(len(boxes), len(others), dtype=F64) for name in names}
    for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        for j, (u0, v0, u1, v1) in enumerate(others.tolist()):
            pair = (
                min(x1, u1) - max(x0, u0),
                min(y1, v1) - max(y0, v0),
                max(x1, u1) - min(x0, u0),
                max(y1, v1) - min(y0, v0),
                (x1 - x0) * (y1 - y0),
                (u1 - u0) * (v1 - v0),
            )
            for name, value in zip(names, pair, strict=True):
                found[name][i, j] = value
    return found


def _iou_of(s: dict[str, Tensor]) -> Tensor:
    shared = s["w"].clamp_min(0) * s["h"].clamp_min(0)
    return shared / (s["a"] + s["b"] - shared)


def _box_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    boxes, others = inputs["boxes"], inputs["others"]
    s, got = _sides(boxes, others), outputs["IoU"]
    right, a, b = _iou_of(s), s["a"], s["b"]
    if _close(got, right):
        return None
    shared, raw = s["w"].clamp_min(0) * s["h"].clamp_min(0), s["w"] * s["h"]
    union, hull = a + b - shared, s["hull w"] * s["hull h"]
    one = torch.tensor([0.0, 0, 1, 1], dtype=F64)  # the last pixel counted, too
    inclusive, crossed = _sides(boxes + one, others + one), [0, 2, 1, 3]
    as_sizes = _iou_of(_sides(_from_sizes(boxes), _from_sizes(others)))
    mistakes = {
        "Two boxes that lie apart in both directions share nothing. There width and height of the overlap are both "
        "below 0, and their product is above: clamp each of them at 0 before you multiply.": raw.clamp_min(0)
        / (a + b - raw.clamp_min(0)),
        "Boxes that lie apart share nothing. There the overlap has a width or a height below 0: clamp both at 0.": raw
        / (a + b - raw),
        "You divide by the sum of both areas: the shared part counts twice there. The union counts it once.": shared
        / (a + b),
        "This is twice the shared area over the sum of both areas, the Dice score. Divide the shared area by the "
        "union.": 2 * shared / (a + b),
        "You divide by the area of the first box. Divide by the union.": shared / a,
        "You divide by the area of the second box. Divide by the union.": shared / b,
        "You divide by the smaller area. Divide by the union: a small box inside a large one is no good answer.": shared
        / torch.minimum(a, b),
        "You divide by the larger area. The union may be larger than both.": shared / torch.maximum(a, b),
        "You divide by the box around both. The union is what the two cover, without the corners between them.": shared
        / hull,
        "You divide by the part that is not shared. The union holds the shared part, too.": shared / (union - shared),
        "These are the shared areas. Divide them by the unions.": shared,
        "These are the shares that are wrong, 1 − IoU.": 1 - right,
        "You add 1 to widths and heights. Here x1 and y1 are edges, not the last pixels: the width is x1 − x0.": (
            _iou_of(inclusive)
        ),
        "You read the last two numbers as width and height. They are the right and the lower edge, x1 and y1.": (
            as_sizes
        ),
        "You read the columns as x0, x1, y0, y1. The order is x0, y0, x1, y1.": _iou_of(
            _sides(boxes[:, crossed], others[:, crossed])
        ),
        "This is the box around both in place of what they share: the shared part begins at the larger of x0 and ends "
        "at the smaller of x1.": hull / (a + b - hull),
        "You compare widths only. A box has a height, too.": s["w"].clamp_min(0) / s["hull w"],
    }
    k = _differing(got.flatten(), right.flatten())
    i, j = divmod(k, len(others))
    words = (
        f"box {i}, other {j}: shared width {float(s['w'][i, j].clamp_min(0)):.2f}, height "
        f"{float(s['h'][i, j].clamp_min(0)):.2f}, area {float(shared[i, j]):.2f}, union {float(union[i, j]):.2f}"
    )
    return _said(_first(got, mistakes), _line(words, "IoU", got.flatten()[k], right.flatten()[k]))


def _from_sizes(boxes: Tensor) -> Tensor:
    """The boxes of someone who reads (x0, y0, width, height)."""
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def _box_reference(boxes: Tensor, others: Tensor) -> Tensor:
    """Shared area over united area of each pair: [n, m]."""
    first, last = (take(boxes[:, None], others) for take in (torch.maximum, torch.minimum))
    shared = (last[..., 2:] - first[..., :2]).clamp_min(0).prod(-1)
    areas = [(one[:, 2:] - one[:, :2]).prod(-1) for one in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1] - shared)


box_iou = Check(
    exercise="14.1",
    title="Intersection over union of boxes",
    inputs={"boxes that overlap": _box_inputs("shifted"), "boxes that lie apart": _box_inputs("apart")},
    probe=_box_probe,
    judge=_box_judge,
    reference=_box_reference,
)


# ------------------------------------------------------------------ 14.2 scores by a prototype


def _match_inputs(shot: int, blank: bool = False) -> Callable[[torch.Generator], Tensors]:
    """Features of boxes and of `shot` drawings, of unlike lengths; blank: one box has features that are all 0."""

    def make(generator: torch.Generator) -> Tensors:
        boxes, channels = 4 + shot, 5
        features = uniform(generator, 0.4, 3.0, boxes, 1) * randn(generator, boxes, channels)
        lengths = torch.tensor([0.4, 1.7, 4.1], dtype=F64)[torch.randperm(3, generator=generator)][:shot, None]
        support = lengths * F.normalize(randn(generator, 1, channels) + randn(generator, shot, channels), dim=1)
        if blank:
            features[int(torch.randint(1, boxes, (), generator=generator))] = 0
        return {"features": features, "support": support}

    return make


def _match_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"scores": answer(inputs["features"], inputs["support"])}


def _length(v: Tensor) -> float:
    return math.sqrt(sum(x * x for x in v.tolist()))


def _cosines(rows: Tensor, one: Tensor) -> Tensor:
    """The cosine of each row [n, D] with one list [D]; 0 where a row is all 0."""
    lengths = [_length(row) * _length(one) for row in rows]
    dots = [sum(x * y for x, y in zip(row.tolist(), one.tolist(), strict=True)) for row in rows]
    return torch.tensor([dot / size if size else 0.0 for dot, size in zip(dots, lengths, strict=True)], dtype=F64)


def _match_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    f, support, got = inputs["features"], inputs["support"], outputs["scores"]
    unit = torch.stack([row / _length(row) for row in support])
    prototype, raw = unit.sum(0) / len(unit), support.sum(0) / len(support)
    right = _cosines(f, prototype)
    if _close(got, right):
        return None
    each = torch.stack([_cosines(f, row) for row in support])  # [shot, n]
    lengths = torch.tensor([_length(row) for row in f], dtype=F64)
    centred = _cosines(f - f.mean(1, keepdim=True), prototype - prototype.mean())
    mistakes = {
        "These are dot products with the mean of the drawings as they are. A cosine divides by both lengths, and each "
        "drawing is scaled to length 1 before the mean.": f @ raw,
        "The drawings are averaged as they are: one with long features counts more. Scale each to length 1 first.": (
            _cosines(f, raw)
        ),
        "The drawings are averaged as they are, and their mean is not scaled. Scale each to length 1 first, and divide "
        "by both lengths in the cosine.": _cosines(f, raw) * _length(raw),
        "The boxes' features keep their length: a box with long features gets a large score. A cosine divides by both "
        "lengths.": right * lengths,
        "This is the dot product with the prototype: neither is scaled. A cosine divides by both lengths.": right
        * lengths
        * _length(prototype),
        "The prototype is not scaled: the mean of several lists of length 1 is shorter than 1. (It is the same as the "
        "mean of the cosines.) A cosine divides by both lengths.": right * _length(prototype),
        "This is the cosine with the nearest drawing. Asked is the cosine with the mean of all.": each.amax(0),
        "This is the cosine with the farthest drawing. Asked is the cosine with the mean of all.": each.amin(0),
        "This is the cosine with the first drawing. All of them teach: take their mean.": each[0],
        "These are distances. Here the direction counts, not the length: take cosines.": (f - prototype).norm(dim=1),
        "These are distances with a minus. Here the direction counts, not the length: take cosines.": -(
            (f - prototype).norm(dim=1)
        ),
        "These are squared distances with a minus. Here the direction counts, not the length: take cosines.": -(
            (f - prototype).square().sum(1)
        ),
        "The features are scaled over the boxes. Each box is one list: scale over dimension 1.": _dot_over_boxes(
            f, prototype
        ),
        "The scores have lost their sign: features in the opposite direction are not alike.": right.abs(),
        "Scores below 0 are cut off. Return them as they are: even among bad boxes one is better.": right.clamp_min(0),
        "You move the cosines to 0 … 1. Return them as they are.": (1 + right) / 2,
        "These are 1 − cosine, distances: the best box gets the lowest score.": 1 - right,
        "This is a softmax over the boxes. Then a scene without the target has a sure box, too: return the cosines.": (
            right.softmax(0)
        ),
        "You subtract the mean of each list first: that is a correlation. Asked is the cosine.": centred,
    }
    k = _differing(got, right)
    words = (
        f"box {k}: length of its features {float(lengths[k]):.3f}, dot product with the prototype "
        f"{float(f[k] @ prototype):.3f}, length of the prototype {_length(prototype):.3f}"
    )
    return _said(_first(got, mistakes), _line(words, "cosine", got[k], right[k]))


def _dot_over_boxes(f: Tensor, prototype: Tensor) -> Tensor:
    return F.normalize(f, dim=0) @ (prototype / _length(prototype))


def _match_reference(features: Tensor, support: Tensor) -> Tensor:
    """The cosine of each row of features with the mean of the support's rows, each of length 1: [n]."""
    prototype = F.normalize(support, dim=1).mean(0)
    return F.normalize(features, dim=1) @ F.normalize(prototype, dim=0)


match = Check(
    exercise="14.2",
    title="Scores by a prototype",
    inputs={
        "three drawings": _match_inputs(3),
        "one drawing": _match_inputs(1),
        "a box whose features are all 0": _match_inputs(3, blank=True),
    },
    probe=_match_probe,
    judge=_match_judge,
    reference=_match_reference,
)


# ------------------------------------------------------------------ 14.3 non-maximum suppression


def _strip(x: float, y: float, height: float) -> list[float]:
    """A box 10 wide: two that are shifted by s have an IoU of (10 − s) / (10 + s)."""
    return [x, y, x + 10, y + height]


def _suppression_inputs(kind: str) -> Callable[[torch.Generator], Tensors]:
    """Boxes of several objects, far from each other, with scores, and in mixed order.

    "groups": an object with three boxes, one with two, and one alone. "chain": the best box removes the second, which
    would have removed the third; and a small box inside a large one. "equal": a pair whose IoU is the threshold itself.
    """

    def make(generator: torch.Generator) -> Tensors:
        height = float(uniform(generator, 6.0, 14.0))
        threshold = float(uniform(generator, 0.35, 0.45))
        if kind == "groups":  # the objects' boxes are mixed, so the box kept last is not always the one that counts
            boxes = [_strip(2, 3, height), _strip(3.2, 3, height), _strip(42, 5, 9), _strip(0.8, 3, height)]
            boxes += [_strip(43, 5, 9), _strip(80, 60, 8)]
        elif kind == "chain":
            boxes = [_strip(2, 3, height), _strip(5, 3, height), _strip(8, 3, height), [40, 40, 60, 64]]
            boxes += [[42, 42, 50, 50], _strip(41, 4, 7), _strip(42.5, 4, 7)]
        else:
            threshold = 0.5  # 10 × 8 inside 20 × 8, so exactly one half
            boxes = [[4, 4, 24, 12], [4, 4, 14, 12], [50, 40, 60, 50], [51, 40, 61, 50]]
        scores = 0.95 - 0.13 * torch.arange(len(boxes), dtype=F64) - uniform(generator, 0.0, 0.05, len(boxes))
        order = torch.randperm(len(boxes), generator=generator)
        while kind == "groups" and not _tells_slips_apart(order.tolist()):
            order = torch.randperm(len(boxes), generator=generator)
        made = torch.tensor(boxes, dtype=F64)
        return {"boxes": made[order], "scores": scores[order], "limit": torch.tensor(threshold, dtype=F64)}

    return make


def _tells_slips_apart(order: list[int]) -> bool:
    """Whether an order of the "groups" makes each slip another set of boxes. Boxes are numbered by score here."""
    first = {min(group, key=order.index) for group in ((0, 1, 3), (2, 4), (5,))}  # kept by who does not sort
    untranslated = {order[0], order[2], order[5]}  # the right boxes have the ranks 0, 2, 5
    others = [{0, 2, 5}, {3, 4, 5}, {0, 1, 3}, {1, 3, 4}, {0, 1, 2}]
    return first not in others and untranslated not in [first, *others]


def _suppression_probe(answer: Callable, inputs: Tensors) -> Tensors:
    boxes, scores = inputs["boxes"], inputs["scores"]
    kept = answer(boxes, scores, float(inputs["limit"]))
    if not isinstance(kept, Tensor) or kept.dim() != 1 or kept.dtype not in (torch.int64, torch.int32):
        came = f"{tuple(kept.shape)} of {kept.dtype}" if isinstance(kept, Tensor) else type(kept).__name__
        raise TypeError(f"it needs one tensor of whole numbers, the places of the kept boxes, and you return {came}")
    if len(kept) > len(boxes) or len(kept.unique()) < len(kept):
        raise ValueError(f"each box is kept once at most, and you return the places {kept.tolist()}")
    if len(kept) and not 0 <= int(kept.min()) <= int(kept.max()) < len(boxes):
        raise ValueError(f"the boxes have the places 0 to {len(boxes) - 1}, and you return {kept.tolist()}")
    # of the same length whatever is kept, so that a judge can say more than that the lengths differ
    places = torch.full((len(boxes),), -1)
    places[: len(kept)] = kept
    return {"kept": places}


def _suppressed(
    boxes: Tensor,
    scores: Tensor,
    remove: Callable[[Tensor, list[int], list[int], int], bool],
    by: Sequence[int] | None = None,
) -> list[int]:
    """The places that stay, box by box in the order `by`: remove(IoU, kept, seen, place) → whether it goes."""
    s = _sides(boxes, boxes)
    overlaps = _iou_of(s)
    kept: list[int] = []
    seen: list[int] = []
    for place in by if by is not None else scores.argsort(descending=True).tolist():
        if not remove(overlaps, kept, seen, place):
            kept.append(place)
        seen.append(place)
    return kept


def _above(threshold: float) -> Callable[[Tensor, list[int], list[int], int], bool]:
    return lambda overlaps, kept, seen, place: any(float(overlaps[place, k]) > threshold for k in kept)


def _suppression_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    boxes, scores, t = inputs["boxes"], inputs["scores"], float(inputs["limit"])
    got = [place for place in outputs["kept"].tolist() if place >= 0]
    order = scores.argsort(descending=True).tolist()
    right = _suppressed(boxes, scores, _above(t))
    if got == right:
        return None
    if set(got) == set(right):
        cause = "These are the right boxes in another order. Return them by score, the highest first."
        k = next(k for k, (a, b) in enumerate(zip(got, right, strict=True)) if a != b)
        words = f"place {k} of your result, score {float(scores[right[k]]):.3f}"
        return f"{cause} {_line(words, 'box', torch.tensor(got[k]), torch.tensor(right[k]))}"
    s = _sides(boxes, boxes)
    smaller = s["w"].clamp_min(0) * s["h"].clamp_min(0) / torch.minimum(s["a"], s["b"])
    ranks = {place: rank for rank, place in enumerate(order)}

    def alternatives() -> dict[str, list[int]]:
        def keep(remove, by=None):
            return _suppressed(boxes, scores, remove, by)

        return {
            "These are places in the sorted list. Translate them back: the caller knows boxes by their places in "
            "`boxes`.": [ranks[place] for place in right],
            "You begin with the lowest score. The best box is kept first, and removes others.": keep(
                _above(t), order[::-1]
            ),
            "You take the boxes as they come. Sort them by score first, the highest first.": keep(
                _above(t), range(len(boxes))
            ),
            "A box that was removed removes others in your answer. Only kept boxes do: compare with these alone.": keep(
                lambda o, kept, seen, place: any(float(o[place, k]) > t for k in seen)
            ),
            "You compare with the box that was kept last. Compare with all kept boxes.": keep(
                lambda o, kept, seen, place: bool(kept) and float(o[place, kept[-1]]) > t
            ),
            "You compare with the best box only. Each kept box removes those that overlap it: go on with the next "
            "one.": keep(lambda o, kept, seen, place: bool(kept) and float(o[place, kept[0]]) > t),
            "You keep one box only. Boxes that do not overlap it show other objects.": order[:1],
            "Nothing is removed. A box goes when its IoU with a kept box is above the threshold.": order,
            "An IoU equal to the threshold removes a box in your answer. Only one above it does.": keep(
                lambda o, kept, seen, place: any(float(o[place, k]) >= t for k in kept)
            ),
            "You remove the boxes that overlap little, and keep those that overlap much. It is the other way round.": (
                keep(lambda o, kept, seen, place: any(float(o[place, k]) <= t for k in kept))
            ),
            "You compare the scores with the threshold. Compare the IoU with it.": [
                place for place in order if float(scores[place]) > t
            ],
            "You divide the shared area by the smaller box. Take the IoU: a small box inside a large one may show "
            "another object.": keep(lambda o, kept, seen, place: any(float(smaller[place, k]) > t for k in kept)),
            "These are the boxes that are removed. Return those that are kept.": [p for p in order if p not in right],
            "Every box that overlaps another one is gone, the best of them, too. The best one of a group stays.": [
                p for p in order if not any(q != p and float(_iou_of(s)[p, q]) > t for q in order)
            ],
        }

    causes = [words for words, kept in alternatives().items() if kept and set(kept) == set(got)]
    place = next(place for place in order if (place in got) != (place in right))
    before = [k for k in right if ranks[k] < ranks[place]]
    largest = max((float(_iou_of(s)[place, k]) for k in before), default=0.0)
    words = f"box {place}, score {float(scores[place]):.3f}, largest IoU with a kept box {largest:.3f}"
    line = _line(words, "kept (1 yes, 0 no)", torch.tensor(int(place in got)), torch.tensor(int(place in right)))
    return _said(causes[0] if causes else None, line)


def _suppression_reference(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The places of the boxes that stay, by score: int64 [kept]."""
    overlaps, kept = _box_reference(boxes, boxes), []
    for place in scores.argsort(descending=True).tolist():
        if all(overlaps[place, k] <= threshold for k in kept):
            kept.append(place)
    return torch.tensor(kept, dtype=torch.int64)


suppress = Check(
    exercise="14.3",
    title="Non-maximum suppression",
    inputs={
        "several boxes on an object": _suppression_inputs("groups"),
        "a chain of boxes": _suppression_inputs("chain"),
        "an IoU equal to the threshold": _suppression_inputs("equal"),
    },
    probe=_suppression_probe,
    judge=_suppression_judge,
    reference=_suppression_reference,
)


# ------------------------------------------------------------------ 14.4 precision and recall, rank by rank


PRIMES = (7, 11, 13)  # numbers of targets whose shares are none of the levels of COCO, but 0 and 1


def _ranked_hits(generator: torch.Generator, found: int, misses: int) -> Tensor:
    """Hits and false alarms by rank, a false alarm first, a hit last, and the best precision neither there nor here.

    bool [found + misses].
    """
    middle = torch.cat([torch.ones(found - 1), torch.zeros(misses - 1)]).bool()
    while True:
        middle = middle[torch.randperm(len(middle), generator=generator)]
        hits = torch.cat([torch.tensor([False]), middle, torch.tensor([True])])
        precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
        if int((middle[1:] != middle[:-1]).sum()) >= 4 and precision.max() > precision[-1] + 0.03:
            return hits


def _curve_inputs(kind: str) -> Callable[[torch.Generator], Tensors]:
    """Hits by rank. "missed": some targets are never found; "all": each is."""

    def make(generator: torch.Generator) -> Tensors:
        targets = PRIMES[int(torch.randint(len(PRIMES), (), generator=generator))]
        found = targets if kind == "all" else targets - int(torch.randint(2, 4, (), generator=generator))
        misses = int(torch.randint(5, 8, (), generator=generator))
        return {"hits": _ranked_hits(generator, found, misses), "targets": torch.tensor(targets)}

    return make


def _curve_probe(answer: Callable, inputs: Tensors) -> Tensors:
    made = several(answer(inputs["hits"], int(inputs["targets"])), "precision", "recall")
    return dict(zip(("precision", "recall"), made, strict=True))


def _curve(hits: Tensor, targets: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hits so far, precision and recall, rank by rank: [n] each."""
    rows, so_far = [], 0
    for rank, hit in enumerate(hits.tolist(), start=1):
        so_far += int(hit)
        rows.append([so_far, so_far / rank, so_far / targets])
    return torch.tensor(rows, dtype=F64).unbind(1)


def _curve_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    hits, targets = inputs["hits"], int(inputs["targets"])
    tp, precision, recall = _curve(hits, targets)
    n, rank = len(hits), torch.arange(1, len(hits) + 1, dtype=F64)
    fp = rank - tp
    got = torch.cat([outputs["precision"].double(), outputs["recall"].double()])
    right = torch.cat([precision, recall])
    if _close(got, right):
        return None
    hit, found = hits.double(), tp[-1].clamp_min(1)
    from_below = hit.flip(0).cumsum(0)
    pairs = {
        "The two have changed places: the precision first, then the recall.": (recall, precision),
        "You divide by the number of all boxes. At rank k the list holds k boxes: the precision is hits so far over "
        "k.": (tp / n, recall),
        "You divide by the number of boxes in the list for the recall. Divide by the number of targets.": (
            precision,
            tp / n,
        ),
        "The recall divides by the hits that the list has. Targets that are never found must count: divide by "
        "`targets`.": (precision, tp / found),
        "The precision divides by the number of targets. At rank k the list holds k boxes: divide by k.": (
            tp / targets,
            recall,
        ),
        "The recall divides by the rank. Divide by the number of targets.": (precision, precision),
        "These are the hits themselves. Count all hits so far: `cumsum`.": (hit / rank, hit / targets),
        "The precision counts false alarms. It is the share of *hits* among the boxes so far.": (fp / rank, recall),
        "You count the boxes before this one only. At rank k the k-th box is in the list, too.": (
            (tp - hit) / rank,
            (tp - hit) / targets,
        ),
        "You add up from the end of the list. The best box comes first: add up from there.": (
            from_below / rank,
            from_below / targets,
        ),
        "The recall is 1 minus the share that was found: the misses. Asked is the share that was found.": (
            precision,
            1 - recall,
        ),
        "The precision is hits over false alarms. It is hits over all boxes so far.": (
            tp / fp.clamp_min(1),
            recall,
        ),
        "You count hits so far, but do not divide.": (tp, tp),
        "Each is the last value in every line. Asked is one value for each rank.": (
            precision[-1].expand(n),
            recall[-1].expand(n),
        ),
        "The precision is made to fall (or to stay) from rank to rank. That comes in the next exercise: return it as "
        "it is.": (precision.flip(0).cummax(0).values.flip(0), recall),
    }
    cause = _first(got, {words: torch.cat(list(pair)) for words, pair in pairs.items()})
    lines = [_differing(outputs[name].double(), one) for name, one in (("precision", precision), ("recall", recall))]
    wrong = [not _close(outputs[name], one) for name, one in (("precision", precision), ("recall", recall))]
    k = min(line for line, bad in zip(lines, wrong, strict=True) if bad)
    words = f"rank {k + 1}: hit {int(hits[k])}, hits so far {int(tp[k])}, targets {targets}"
    told = [
        told_apart(one[k], outputs[name][k], digits=3) for name, one in (("precision", precision), ("recall", recall))
    ]
    line = (
        f"First line of the trace that differs: `{words}, precision {told[0][0]}, recall {told[1][0]}; yours "
        f"{told[0][-1]} and {told[1][-1]}`."
    )
    return _said(cause, line)


def _curve_reference(hits: Tensor, targets: int) -> tuple[Tensor, Tensor]:
    """Precision and recall after each rank: [n] each."""
    found = hits.cumsum(0).double()
    return found / torch.arange(1, len(hits) + 1, device=hits.device), found / targets


precision_recall = Check(
    exercise="14.4",
    title="Precision and recall, rank by rank",
    inputs={
        "all targets are found": _curve_inputs("all"),
        "some targets are never found": _curve_inputs("missed"),
    },
    probe=_curve_probe,
    judge=_curve_judge,
    reference=_curve_reference,
)


# ------------------------------------------------------------------ 14.5 the interpolation of COCO


LEVELS = 101  # of recall: 0, 0.01, …, 1


def _interpolation_inputs(kind: str) -> Callable[[torch.Generator], Tensors]:
    of_hits = _curve_inputs(kind)

    def make(generator: torch.Generator) -> Tensors:
        given = of_hits(generator)
        _, precision, recall = _curve(given["hits"], int(given["targets"]))
        return {"precision": precision, "recall": recall}

    return make


def _interpolation_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"interpolated": answer(inputs["precision"], inputs["recall"])}


def _at_levels(choose: Callable[[float], float], first: int = 0) -> Tensor:
    return torch.tensor([choose(k / (LEVELS - 1)) for k in range(first, first + LEVELS)], dtype=F64)


def _added_up(points: list[tuple[float, float]]) -> Tensor:
    """The best precision from levels 0, 0.01, 0.01 + 0.01, …, as floating-point numbers add up."""
    level, found = 0.0, []
    for _ in range(LEVELS):
        found.append(max((p for p, r in points if r >= level), default=0.0))
        level += 0.01
    return torch.tensor(found, dtype=F64)


def _interpolation_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    precision, recall, got = inputs["precision"].tolist(), inputs["recall"].tolist(), outputs["interpolated"]
    points = list(zip(precision, recall, strict=True))

    def best(level: float, *, none: float = 0.0, reached: Callable = lambda r, level: r >= level - 1e-9) -> float:
        return max((p for p, r in points if reached(r, level)), default=none)

    right = _at_levels(best)
    if _close(got, right):
        return None

    def at_first(level: float, none: float = 0.0) -> float:
        return next((p for p, r in points if r >= level - 1e-9), none)

    def at_last(level: float) -> float:
        return next((p for p, r in reversed(points) if r <= level + 1e-9), 0.0)

    def between(level: float) -> float:
        """The straight line between neighbours; before the first and after the last point their values."""
        after = next((k for k, (_, r) in enumerate(points) if r >= level), None)
        if after is None or after == 0:
            return points[-1][0] if after is None else points[0][0]
        (p0, r0), (p1, r1) = points[after - 1], points[after]
        return p0 + (p1 - p0) * (level - r0) / (r1 - r0) if r1 > r0 else p1

    def mean_from(level: float) -> float:
        there = [p for p, r in points if r >= level - 1e-9]
        return sum(there) / len(there) if there else 0.0

    mistakes = {
        "You take the precision at the first rank that reaches the level. Interpolated means: the best precision at "
        "this recall *or any higher one*.": _at_levels(at_first),
        "You look back: the best precision at this recall or a lower one. Look ahead, to all higher recalls.": (
            _at_levels(lambda level: best(level, reached=lambda r, level: r <= level + 1e-9))
        ),
        "A recall that the list never reaches gets a precision above 0 from you. It gets 0: nothing was found there.": (
            _at_levels(lambda level: best(level, none=precision[-1]))
        ),
        "A recall that the list never reaches gets the best precision of all. It gets 0: nothing was found there.": (
            _at_levels(lambda level: best(level, none=max(precision)))
        ),
        "A recall that the list never reaches gets 1. It gets 0: nothing was found there.": _at_levels(
            lambda level: best(level, none=1.0)
        ),
        "You take the last rank below the level. Interpolated means: the best precision at this recall or any higher "
        "one.": _at_levels(at_last),
        "You draw straight lines between the points. COCO takes steps: the best precision at this recall or any higher "
        "one.": _at_levels(between),
        "You take the mean of all later precisions. Take the largest.": _at_levels(mean_from),
        "You take the smallest of all later precisions. Take the largest.": _at_levels(
            lambda level: min((p for p, r in points if r >= level - 1e-9), default=0.0)
        ),
        "Your levels begin with 0.01. The first one is 0, the last one 1.": _at_levels(best, first=1),
        "Only a recall above the level counts for you, or your levels add up 0.01 and rounding moves them. One that "
        "equals the level counts, too (level k is k / 100, the last one is 1).": _at_levels(
            lambda level: best(level, reached=lambda r, level: r > level + 1e-9)
        ),
        "Your levels add up 0.01 again and again. Rounding moves them, and some recalls just miss: take k / 100.": (
            _added_up(points)
        ),
        "This is the best precision of all in every line. Only ranks that reach the level count.": _at_levels(
            lambda level: max(precision)
        ),
        "These are recalls in place of precisions.": _at_levels(
            lambda level: next((r for _, r in points if r >= level - 1e-9), 0.0)
        ),
    }
    k = _differing(got, right)
    reach = sum(r >= k / (LEVELS - 1) - 1e-9 for r in recall)
    words = f"level {k / (LEVELS - 1):.2f}: ranks that reach it {reach}, the highest recall {max(recall):.3f}"
    return _said(_first(got, mistakes), _line(words, "best precision among them", got[k], right[k]))


def _interpolation_reference(precision: Tensor, recall: Tensor) -> Tensor:
    """The best precision at each of 101 recalls or any higher one; 0 where none is as high: [101]."""
    levels = torch.arange(LEVELS, dtype=F64, device=recall.device) / (LEVELS - 1)
    reached = recall[None] >= levels[:, None] - 1e-9
    return torch.where(reached, precision[None], 0.0).amax(1)


interpolate = Check(
    exercise="14.5",
    title="The interpolation of COCO",
    inputs={
        "all targets are found": _interpolation_inputs("all"),
        "some targets are never found": _interpolation_inputs("missed"),
    },
    probe=_interpolation_probe,
    judge=_interpolation_judge,
    reference=_interpolation_reference,
)
