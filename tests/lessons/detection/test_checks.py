"""The checks of notebook 14 against right answers written differently, mistakes, and other libraries."""

import numpy as np
import pytest
import torch
import torchvision
from check_helpers import assert_check
from torch.nn import functional as F

from mlcourse.lessons.detection import checks


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


# ------------------------------------------------------------------ 14.1 IoU of boxes


def iou_pair_by_pair(boxes, others):
    rows = []
    for a in boxes:
        row = []
        for b in others:
            w = (torch.minimum(a[2], b[2]) - torch.maximum(a[0], b[0])).clamp_min(0)
            h = (torch.minimum(a[3], b[3]) - torch.maximum(a[1], b[1])).clamp_min(0)
            areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
            row.append(w * h / (sum(areas) - w * h))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def iou_float32(boxes, others):
    return torchvision.ops.box_iou(boxes.float(), others.float())


def iou_with(change, sides=lambda w, h: (w.clamp_min(0), h.clamp_min(0)), read=lambda b: b):
    """change(shared, a, b, area of the box around both) → another score."""

    def iou_with_a_mistake(boxes, others):
        a, b = read(boxes)[:, None], read(others)[None]
        w = torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])
        h = torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])
        hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
        w, h = sides(w, h)
        areas = [(c[..., 2:] - c[..., :2]).prod(-1) for c in (a, b)]
        return change(w * h, *areas, hull)

    return iou_with_a_mistake


def ratio(i, a, b, hull):
    return i / (a + b - i)


def not_clamped(w, h):
    return w, h


def iou_inclusive(boxes, others):
    one = torch.tensor([0, 0, 1, 1])
    return checks.box_iou.reference(boxes + one, others + one)


def iou_clamped_late(boxes, others):
    return iou_with(lambda i, a, b, h: i.clamp_min(0) / (a + b - i.clamp_min(0)), sides=not_clamped)(boxes, others)


def test_box_iou():
    assert_check(
        checks.box_iou,
        right=[iou_pair_by_pair, iou_float32, iou_with(ratio)],
        wrong={
            "not clamped": (iou_with(ratio, sides=not_clamped), "clamp both at 0"),
            "clamped late": (iou_clamped_late, "clamp each of them at 0 before you multiply"),
            "sum": (iou_with(lambda i, a, b, h: i / (a + b)), "You divide by the sum of both areas"),
            "dice": (iou_with(lambda i, a, b, h: 2 * i / (a + b)), "the Dice score"),
            "first": (iou_with(lambda i, a, b, h: i / a), "the area of the first box"),
            "second": (iou_with(lambda i, a, b, h: i / b), "the area of the second box"),
            "smaller": (iou_with(lambda i, a, b, h: i / torch.minimum(a, b)), "You divide by the smaller area"),
            "larger": (iou_with(lambda i, a, b, h: i / torch.maximum(a, b)), "You divide by the larger area"),
            "hull": (iou_with(lambda i, a, b, h: i / h), "You divide by the box around both"),
            "rest": (iou_with(lambda i, a, b, h: i / (a + b - 2 * i)), "the part that is not shared"),
            "areas": (iou_with(lambda i, a, b, h: i), "These are the shared areas"),
            "distance": (iou_with(lambda i, a, b, h: 1 - i / (a + b - i)), "1 − IoU"),
            "inclusive": (iou_inclusive, "You add 1 to widths and heights"),
            "sizes": (
                iou_with(ratio, read=lambda b: torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], 1)),
                "the last two numbers as width and height",
            ),
            "columns": (iou_with(ratio, read=lambda b: b[:, [0, 2, 1, 3]]), "You read the columns as"),
            "transposed": (lambda a, b: checks.box_iou.reference(b, a), "has shape"),
        },
    )


# ------------------------------------------------------------------ 14.2 scores by a prototype


def match_by_similarity(features, support):
    prototype = torch.stack([one / one.norm() for one in support]).mean(0)
    return F.cosine_similarity(features, prototype[None], dim=1)


def match_box_by_box(features, support):
    lengths = support.norm(dim=1, keepdim=True)
    prototype = (support / lengths).sum(0)
    found = [f @ prototype / (f.norm() * prototype.norm()).clamp_min(1e-12) for f in features]
    return torch.stack(found)


def match_float32(features, support):
    return match_by_similarity(features.float(), support.float())


def match_with(change, of=lambda s: F.normalize(s, dim=1).mean(0)):
    """change(features, prototype, support, cosines) → other scores."""

    def match_with_a_mistake(features, support):
        prototype = of(support)
        return change(features, prototype, support, F.cosine_similarity(features, prototype[None], dim=1))

    return match_with_a_mistake


def raw_mean(support):
    return support.mean(0)


def match_each(features, support):
    return F.normalize(features, dim=1) @ F.normalize(support, dim=1).T


def match_without_a_guard(features, support):
    prototype = F.normalize(support, dim=1).mean(0)
    return features @ prototype / features.norm(dim=1) / prototype.norm()


def test_match():
    assert_check(
        checks.match,
        right=[match_by_similarity, match_box_by_box, match_float32],
        wrong={
            "dots": (match_with(lambda f, p, s, c: f @ p, raw_mean), "dot products with the mean of the drawings"),
            "raw mean": (match_with(lambda f, p, s, c: c, raw_mean), "The drawings are averaged as they are: one"),
            "long boxes": (match_with(lambda f, p, s, c: f @ F.normalize(p, dim=0)), "The boxes' features keep"),
            "dot": (match_with(lambda f, p, s, c: f @ p), "neither is scaled"),
            "mean of cosines": (lambda f, s: match_each(f, s).mean(1), "The prototype is not scaled"),
            "nearest": (lambda f, s: match_each(f, s).amax(1), "the nearest drawing"),
            "farthest": (lambda f, s: match_each(f, s).amin(1), "the farthest drawing"),
            "first": (lambda f, s: match_each(f, s)[:, 0], "the first drawing"),
            "distances": (match_with(lambda f, p, s, c: (f - p).norm(dim=1)), "These are distances. Here"),
            "minus distances": (match_with(lambda f, p, s, c: -(f - p).norm(dim=1)), "distances with a minus. Here"),
            "over boxes": (
                match_with(lambda f, p, s, c: F.normalize(f, dim=0) @ F.normalize(p, dim=0)),
                "scaled over the boxes",
            ),
            "sizes": (match_with(lambda f, p, s, c: c.abs()), "have lost their sign"),
            "cut": (match_with(lambda f, p, s, c: c.relu()), "Scores below 0 are cut off"),
            "moved": (match_with(lambda f, p, s, c: (1 + c) / 2), "You move the cosines"),
            "one minus": (match_with(lambda f, p, s, c: 1 - c), "These are 1 − cosine"),
            "softmax": (match_with(lambda f, p, s, c: c.softmax(0)), "a softmax over the boxes"),
            "0 / 0": (match_without_a_guard, "expected finite numbers"),
            "all pairs": (match_each, "has shape"),
        },
    )


# ------------------------------------------------------------------ 14.3 suppression


def suppress_by_torchvision(boxes, scores, threshold):
    return torchvision.ops.nms(boxes, scores, threshold)


def suppress_by_mask(boxes, scores, threshold):
    overlaps = checks.box_iou.reference(boxes, boxes)
    alive, kept = torch.ones(len(boxes), dtype=torch.bool), []
    while alive.any():
        best = int(scores.masked_fill(~alive, -1).argmax())
        kept.append(best)
        alive = alive & (overlaps[best] <= threshold)
        alive[best] = False
    return torch.tensor(kept)


def suppress_with(remove=None, order=lambda s: s.argsort(descending=True).tolist(), overlap=None, after=None):
    """remove(overlaps of this box with those kept, kept, overlaps, place, seen) → whether it goes."""

    def suppress_with_a_mistake(boxes, scores, threshold):
        overlaps, kept, seen = (overlap or checks.box_iou.reference)(boxes, boxes), [], []
        for place in order(scores):
            goes = any(overlaps[place, k] > threshold for k in kept)
            if remove is not None:
                goes = remove(overlaps[place], kept, seen, threshold)
            if not goes:
                kept.append(place)
            seen.append(place)
        return torch.tensor(after(kept, scores) if after else kept)

    return suppress_with_a_mistake


def untranslated(boxes, scores, threshold):
    order = scores.argsort(descending=True)
    return torchvision.ops.nms(boxes[order], scores[order], threshold)


def removed(boxes, scores, threshold):
    kept = torchvision.ops.nms(boxes, scores, threshold).tolist()
    return torch.tensor([k for k in range(len(boxes)) if k not in kept])


def good_scores(boxes, scores, threshold):
    return (scores > threshold).nonzero().flatten()


def of_smaller(boxes, others):
    return iou_with(lambda i, a, b, h: i / torch.minimum(a, b))(boxes, others)


def test_suppress():
    assert_check(
        checks.suppress,
        right=[suppress_by_torchvision, suppress_by_mask, suppress_with()],
        wrong={
            "by place": (suppress_with(after=lambda kept, s: sorted(kept)), "the right boxes in another order"),
            "untranslated": (untranslated, "These are places in the sorted list"),
            "lowest first": (suppress_with(order=lambda s: s.argsort().tolist()), "You begin with the lowest score"),
            "as they come": (suppress_with(order=lambda s: range(len(s))), "You take the boxes as they come"),
            "chain": (
                suppress_with(lambda o, kept, seen, t: any(o[k] > t for k in seen)),
                "A box that was removed removes others",
            ),
            "last": (suppress_with(lambda o, kept, seen, t: bool(kept) and o[kept[-1]] > t), "that was kept last"),
            "best": (suppress_with(lambda o, kept, seen, t: bool(kept) and o[kept[0]] > t), "with the best box only"),
            "one": (suppress_with(lambda o, kept, seen, t: bool(kept)), "You keep one box only"),
            "all": (suppress_with(lambda o, kept, seen, t: False), "Nothing is removed"),
            "equal": (suppress_with(lambda o, kept, seen, t: any(o[k] >= t for k in kept)), "equal to the threshold"),
            "other way": (
                suppress_with(lambda o, kept, seen, t: any(o[k] <= t for k in kept)),
                "It is the other way round",
            ),
            "scores": (good_scores, "You compare the scores with the threshold"),
            "smaller": (suppress_with(overlap=of_smaller), "divide the shared area by the smaller box"),
            "removed": (removed, "These are the boxes that are removed"),
            "truth values": (lambda b, s, t: s > t, "of torch.bool"),
            "list": (lambda b, s, t: [0, 1], "and you return list"),
        },
    )


# ------------------------------------------------------------------ 14.4 precision and recall


def curve_by_loop(hits, targets):
    found, rows = 0, []
    for rank, hit in enumerate(hits, start=1):
        found += int(hit)
        rows.append((found / rank, found / targets))
    return tuple(torch.tensor(column) for column in zip(*rows, strict=True))


def curve_by_numpy(hits, targets):
    tp, fp = np.cumsum(hits.numpy()), np.cumsum(~hits.numpy())
    return torch.from_numpy(tp / (tp + fp)), torch.from_numpy(tp / targets)


def curve_stacked(hits, targets):
    found = hits.cumsum(0)
    return torch.stack([found / torch.arange(1, len(hits) + 1), found / targets])


def curve_with(change):
    """change(hits so far, rank, targets, hits) → (precision, recall)."""

    def curve_with_a_mistake(hits, targets):
        h = hits.double()
        return change(h.cumsum(0), torch.arange(1, len(h) + 1).double(), targets, h)

    return curve_with_a_mistake


def test_precision_recall():
    assert_check(
        checks.precision_recall,
        right=[curve_by_loop, curve_by_numpy, curve_stacked],
        wrong={
            "swapped": (curve_with(lambda c, k, n, h: (c / n, c / k)), "The two have changed places"),
            "over all boxes": (curve_with(lambda c, k, n, h: (c / len(h), c / n)), "the number of all boxes"),
            "recall over boxes": (curve_with(lambda c, k, n, h: (c / k, c / len(h))), "in the list for the recall"),
            "over hits": (curve_with(lambda c, k, n, h: (c / k, c / c[-1])), "The recall divides by the hits"),
            "over targets": (curve_with(lambda c, k, n, h: (c / n, c / n)), "The precision divides by the number"),
            "over ranks": (curve_with(lambda c, k, n, h: (c / k, c / k)), "The recall divides by the rank"),
            "no sum": (curve_with(lambda c, k, n, h: (h / k, h / n)), "These are the hits themselves"),
            "false alarms": (curve_with(lambda c, k, n, h: ((k - c) / k, c / n)), "The precision counts false alarms"),
            "before": (curve_with(lambda c, k, n, h: ((c - h) / k, (c - h) / n)), "the boxes before this one only"),
            "from below": (
                curve_with(lambda c, k, n, h: (h.flip(0).cumsum(0) / k, h.flip(0).cumsum(0) / n)),
                "from the end of the list",
            ),
            "misses": (curve_with(lambda c, k, n, h: (c / k, 1 - c / n)), "1 minus the share that was found"),
            "odds": (
                curve_with(lambda c, k, n, h: (c / (k - c).clamp_min(1), c / n)),
                "hits over false alarms",
            ),
            "counts": (curve_with(lambda c, k, n, h: (c, c)), "but do not divide"),
            "last": (
                curve_with(lambda c, k, n, h: ((c / k)[-1].expand(len(h)), (c / n)[-1].expand(len(h)))),
                "the last value in every line",
            ),
            "falling": (
                curve_with(lambda c, k, n, h: ((c / k).flip(0).cummax(0).values.flip(0), c / n)),
                "That comes in the next exercise",
            ),
            "one": (curve_with(lambda c, k, n, h: c / k), "it needs 2 results"),
        },
    )


# ------------------------------------------------------------------ 14.5 interpolation


def levels_by_loop(precision, recall):
    found = []
    for k in range(101):
        there = precision[recall >= k / 100 - 1e-9]
        found.append(there.max() if len(there) else torch.tensor(0.0, dtype=precision.dtype))
    return torch.stack(found)


def levels_as_in_coco(precision, recall):
    best = np.maximum.accumulate(precision.numpy()[::-1])[::-1]
    places = np.searchsorted(recall.numpy(), np.linspace(0, 1, 101), side="left")
    return torch.tensor([best[place] if place < len(best) else 0.0 for place in places])


def levels_float32(precision, recall):
    return checks.interpolate.reference(precision.float(), recall.float())


def levels_with(choose, levels=None):
    """choose(precision, recall, level) → its value."""

    def levels_with_a_mistake(precision, recall):
        at = torch.linspace(0, 1, 101, dtype=torch.float64) if levels is None else levels
        return torch.tensor([float(choose(precision, recall, float(level))) for level in at])

    return levels_with_a_mistake


def best_from(p, r, level, otherwise=0.0):
    there = p[r >= level - 1e-9]
    return there.max() if len(there) else otherwise


def first_from(p, r, level):
    there = p[r >= level - 1e-9]
    return there[0] if len(there) else 0.0


def levels_by_lines(precision, recall):
    return torch.from_numpy(np.interp(np.linspace(0, 1, 101), recall.numpy(), precision.numpy()))


def levels_not_beyond(precision, recall):
    best = precision.flip(0).cummax(0).values.flip(0)
    places = torch.searchsorted(recall, torch.linspace(0, 1, 101, dtype=recall.dtype))
    return best[places.clamp_max(len(best) - 1)]


def test_interpolate():
    assert_check(
        checks.interpolate,
        right=[levels_by_loop, levels_as_in_coco, levels_float32],
        wrong={
            "first": (levels_with(first_from), "You take the precision at the first rank"),
            "back": (
                levels_with(lambda p, r, x: p[r <= x + 1e-9].max() if (r <= x + 1e-9).any() else 0),
                "You look back",
            ),
            "not beyond": (levels_not_beyond, "gets a precision above 0 from you"),
            "best beyond": (levels_with(lambda p, r, x: best_from(p, r, x, p.max())), "gets the best precision of all"),
            "1 beyond": (levels_with(lambda p, r, x: best_from(p, r, x, 1.0)), "never reaches gets 1"),
            "mean": (
                levels_with(lambda p, r, x: p[r >= x - 1e-9].mean() if (r >= x - 1e-9).any() else 0),
                "the mean of all later precisions",
            ),
            "smallest": (
                levels_with(lambda p, r, x: p[r >= x - 1e-9].min() if (r >= x - 1e-9).any() else 0),
                "the smallest of all later precisions",
            ),
            "from 0.01": (levels_with(best_from, torch.arange(1, 102) / 100), "Your levels begin with 0.01"),
            "above": (
                levels_with(lambda p, r, x: p[r > x + 1e-9].max() if (r > x + 1e-9).any() else 0),
                "Only a recall above the level",
            ),
            "lines": (levels_by_lines, "You draw straight lines"),
            "everywhere": (levels_with(lambda p, r, x: p.max()), "the best precision of all in every line"),
            "eleven": (lambda p, r: levels_by_loop(p, r)[::10], "has shape (11,)"),
            "the mean": (lambda p, r: levels_by_loop(p, r).mean(), "has shape ()"),
        },
    )


# ------------------------------------------------------------------ the trace, and other libraries


@pytest.mark.parametrize(
    ("check", "answer", "line"),
    [
        (checks.box_iou, iou_with(lambda i, a, b, h: i / (a + b)), "box 0, other 0: shared width"),
        (checks.match, match_with(lambda f, p, s, c: -c), "box 0: length of its features"),
        (checks.suppress, suppress_with(lambda o, kept, seen, t: False), "kept (1 yes, 0 no) 0; yours 1"),
        (checks.precision_recall, curve_with(lambda c, k, n, h: (c / n, c / k)), "rank 3: hit"),
        (checks.interpolate, levels_with(lambda p, r, x: 0.5 * best_from(p, r, x)), "level 0.00: ranks that reach it"),
    ],
    ids=lambda one: getattr(one, "exercise", None),
)
def test_a_diagnosis_shows_the_first_line_that_differs(check, answer, line):
    said = check.run(answer, seed=3).diagnosis
    assert "First line of the trace that differs: `" in said
    assert line in said or check is checks.precision_recall, said


def test_the_first_line_is_the_first_wrong_one():
    """An answer that is right up to one rank hears of that rank."""

    def from_the_fifth(hits, targets):
        precision, recall = checks.precision_recall.reference(hits, targets)
        return torch.cat([precision[:4], 0.9 * precision[4:] + 0.01]), recall

    assert "`rank 5: hit" in checks.precision_recall.run(from_the_fifth).diagnosis


def test_the_references_are_those_of_torchvision_on_random_boxes():
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 7, 30):
        corners = torch.rand(n, 4, generator=generator, dtype=torch.float64) * 30
        boxes = torch.cat([corners[:, :2], corners[:, :2] + 1 + corners[:, 2:]], 1)
        scores = torch.rand(n, generator=generator, dtype=torch.float64)
        other = boxes.flip(0)[: max(1, n // 2)]
        torch.testing.assert_close(checks.box_iou.reference(boxes, other), torchvision.ops.box_iou(boxes, other))
        for threshold in (0.0, 0.3, 0.7):
            wanted = torchvision.ops.nms(boxes, scores, threshold)
            assert torch.equal(checks.suppress.reference(boxes, scores, threshold), wanted)


def by_pycocotools(hits, targets):
    """Average precision of hits by rank: targets lie apart, a hit lies on the next of them, a false alarm far away."""
    coco, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    truth, found = coco.COCO(), coco.COCO()
    boxes = [[20.0 * k, 0.0, 10.0, 10.0] for k in range(targets)]
    places = iter(boxes)
    marked = [next(places) if hit else [5.0, 500.0 + 20 * k, 10.0, 10.0] for k, hit in enumerate(hits)]
    for side, rows in ((truth, boxes), (found, marked)):
        annotations = [
            {"id": k, "image_id": 1, "category_id": 1, "bbox": box, "area": 100.0, "iscrowd": 0, "score": 1 - k / 1000}
            for k, box in enumerate(rows, start=1)
        ]
        side.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": annotations}
        side.createIndex()
    one = evaluation.COCOeval(truth, found, "bbox")
    one.params.iouThrs, one.params.areaRng, one.params.areaRngLbl = np.array([0.5]), [[0, 1e9]], ["all"]
    one.params.maxDets = [len(hits)]
    one.evaluate()
    one.accumulate()
    return float(one.eval["precision"].mean())


def test_average_precision_is_that_of_pycocotools():
    generator = torch.Generator().manual_seed(1)
    for targets in (1, 3, 7, 13):
        for share in (0.0, 0.3, 0.8):
            hits = torch.rand(targets + 6, generator=generator) < share
            hits &= hits.cumsum(0) <= targets
            precision, recall = checks.precision_recall.reference(hits, targets)
            ours = float(checks.interpolate.reference(precision, recall).mean())
            assert ours == pytest.approx(by_pycocotools(hits.tolist(), targets), abs=1e-9)


def test_precision_and_recall_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    for _, given in checks.precision_recall.problems(0):
        hits = given["hits"].numpy()
        scores = -np.arange(len(hits), dtype=float)
        precision, recall, _ = metrics.precision_recall_curve(hits, scores)
        ours, our_recall = checks.precision_recall.reference(given["hits"], int(hits.sum()))
        np.testing.assert_allclose(ours.numpy(), precision[:-1][::-1][-len(hits) :])
        np.testing.assert_allclose(our_recall.numpy(), recall[:-1][::-1][-len(hits) :])
