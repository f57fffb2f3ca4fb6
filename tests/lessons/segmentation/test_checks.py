"""The checks of notebook 13 against right answers written differently, and against mistakes that learners make."""

import numpy as np
import pytest
import torch
from check_helpers import assert_check
from torch.nn import functional as F

from mlcourse.lessons.segmentation import checks


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


# ------------------------------------------------------------------ 13.1 masked average pooling


def pooling_by_channels(features, mask):
    size = mask.sum()
    if size == 0:
        return features.new_zeros(len(features))
    return torch.stack([(channel * mask).sum() / size for channel in features])


def pooling_by_product(features, mask):
    return features.flatten(1) @ mask.flatten() / (mask.sum() + 1e-6)


def pooling_float32(features, mask):
    return pooling_by_product(features.float(), mask.float())


def pooling_with(change):
    """change(features, mask, Σ m·f, Σ m) → another prototype; of an empty mask it is 0."""

    def pooling_with_a_mistake(features, mask):
        size = mask.sum()
        if size == 0:
            return features.new_zeros(len(features))
        return change(features, mask, (features * mask).sum((1, 2)), size)

    return pooling_with_a_mistake


def pooling_of_nothing(features, mask):
    return features.mean((1, 2)) if mask.sum() == 0 else pooling_by_product(features, mask)


def pooling_without_a_guard(features, mask):
    return (features * mask).sum((1, 2)) / mask.sum()


def pooling_of_one_number(features, mask):
    return (features * mask).sum() / mask.sum().clamp_min(1e-9)


def test_masked_average():
    assert_check(
        checks.masked_average,
        right=[pooling_by_channels, pooling_by_product, pooling_float32],
        wrong={
            "sum": (pooling_with(lambda f, m, s, n: s), "This is the sum over the mask"),
            "all places": (pooling_with(lambda f, m, s, n: (f * m).mean((1, 2))), "the number of all places"),
            "no mask": (pooling_with(lambda f, m, s, n: f.mean((1, 2))), "the mask is not used"),
            "background": (
                pooling_with(lambda f, m, s, n: (f * (1 - m)).sum((1, 2)) / (1 - m).sum()),
                "the mean of the background",
            ),
            "counted": (pooling_with(lambda f, m, s, n: s / (m > 0).sum()), "where the mask is above 0"),
            "0 or 1": (
                pooling_with(lambda f, m, s, n: (f * (m > 0)).sum((1, 2)) / (m > 0).sum()),
                "You take the mask as 0 or 1",
            ),
            "cut": (
                pooling_with(lambda f, m, s, n: (f * (m > 0.5)).sum((1, 2)) / (m > 0.5).sum().clamp_min(1)),
                "You cut the mask at 0.5",
            ),
            "largest": (pooling_with(lambda f, m, s, n: f[:, m > 0].amax(1)), "the largest feature"),
            "clamped": (pooling_with(lambda f, m, s, n: s / n.clamp_min(1)), "The sum of the mask is below 1"),
            "one added": (pooling_with(lambda f, m, s, n: s / (n + 1)), "A number is added to the sum"),
            "squares": (pooling_with(lambda f, m, s, n: (f * m * m).sum((1, 2)) / n), "The weights are squared"),
            "unit": (pooling_with(lambda f, m, s, n: F.normalize(s, dim=0)), "The prototype is scaled to length 1"),
            "unit places": (
                pooling_with(lambda f, m, s, n: (F.normalize(f, dim=0) * m).sum((1, 2)) / n),
                "the features of each place to length 1",
            ),
            "nothing": (pooling_of_nothing, "The mask is empty"),
            "0 / 0": (pooling_without_a_guard, "expected finite numbers"),
            "one number": (pooling_of_one_number, "has shape"),
        },
    )


# ------------------------------------------------------------------ 13.2 cosine logits


def logits_by_similarity(features, target, rest, scale):
    columns = features.flatten(1).T
    one, other = (F.cosine_similarity(columns, p[None], dim=1) for p in (target, rest))
    return scale * (one - other).view(features.shape[1:])


def logits_pixel_by_pixel(features, target, rest, scale):
    rows = features.flatten(1).T
    found = [scale * (F.cosine_similarity(f, target, dim=0) - F.cosine_similarity(f, rest, dim=0)) for f in rows]
    return torch.stack(found).reshape(features.shape[1:])


def logits_float32(features, target, rest, scale):
    return logits_by_similarity(features.float(), target.float(), rest.float(), scale)


def logits_with(change, pixels=lambda f: F.normalize(f, dim=0), prototype=lambda p: F.normalize(p, dim=0)):
    """change(cosine with the target, cosine with the rest, scale) → logits."""

    def logits_with_a_mistake(features, target, rest, scale):
        both = [torch.einsum("chw,c->hw", pixels(features), prototype(p)) for p in (target, rest)]
        return change(*both, scale)

    return logits_with_a_mistake


def plain(a, b, s):
    return s * (a - b)


def same(v):
    return v


def logits_by_distances(features, target, rest, scale):
    one, other = ((features - p[:, None, None]).square().sum(0) for p in (target, rest))
    return scale * (other - one)


def logits_of_one_difference(features, target, rest, scale):
    return logits_with(lambda a, b, s: s * a)(features, target - rest, rest, scale)


def logits_without_a_guard(features, target, rest, scale):
    one, other = (torch.einsum("chw,c->hw", features, p) / features.norm(dim=0) / p.norm() for p in (target, rest))
    return scale * (one - other)


def test_cosine_logits():
    assert_check(
        checks.cosine_logits,
        right=[logits_by_similarity, logits_pixel_by_pixel, logits_float32],
        wrong={
            "dots": (logits_with(plain, same, same), "These are dot products"),
            "prototypes as they are": (logits_with(plain, prototype=same), "the prototypes are not"),
            "pixels as they are": (logits_with(plain, pixels=same), "the pixels are not"),
            "no scale": (logits_with(lambda a, b, s: a - b), "The scale is missing"),
            "divided": (logits_with(lambda a, b, s: (a - b) / s), "divided by the scale"),
            "sign": (logits_with(lambda a, b, s: s * (b - a)), "The sign is wrong"),
            "target alone": (logits_with(lambda a, b, s: s * a), "the cosine with the target alone"),
            "added": (logits_with(lambda a, b, s: s * (a + b)), "You add the two cosines"),
            "probabilities": (logits_with(lambda a, b, s: (s * (a - b)).sigmoid()), "These are probabilities"),
            "logs": (logits_with(lambda a, b, s: F.logsigmoid(s * (a - b))), "These are log-probabilities"),
            "distances": (logits_by_distances, "These are squared distances"),
            "difference": (logits_of_one_difference, "one cosine, with the difference"),
            "rows": (logits_with(plain, lambda f: F.normalize(f, dim=1)), "along a side of the picture"),
            "columns": (logits_with(plain, lambda f: F.normalize(f, dim=2)), "along the last side"),
            "whole": (logits_with(plain, lambda f: f / f.norm()), "by the length of the whole picture"),
            "sizes": (logits_with(lambda a, b, s: s * (a.abs() - b.abs())), "The cosines have lost their sign"),
            "0 / 0": (logits_without_a_guard, "expected finite numbers"),
            "sums": (logits_with(lambda a, b, s: (s * (a - b)).sum()), "has shape"),
        },
    )


# ------------------------------------------------------------------ 13.3 intersection over union


def iou_with_loop(prediction, target):
    values = []
    for p, t in zip(prediction, target):
        either = (p | t).sum().item()
        values.append((p & t).sum().item() / either if either else 1.0)
    return torch.tensor(values)


def iou_by_numbers(prediction, target):
    p, t = prediction.double().flatten(1), target.double().flatten(1)
    both = (p * t).sum(1)
    return (both + 1e-9) / (p.sum(1) + t.sum(1) - both + 1e-9)


def iou_float32(prediction, target):
    both, either = (prediction & target).sum((1, 2)), (prediction | target).sum((1, 2))
    return (both / either).nan_to_num(1.0)


def iou_with(change):
    """change(hits, false alarms, missed, right background) → a score; where nothing is there: 1."""

    def iou_with_a_mistake(prediction, target):
        p, t = prediction.flatten(1), target.flatten(1)
        counts = [(a & b).sum(1).double() for a, b in ((p, t), (p, ~t), (~p, t), (~p, ~t))]
        return change(*counts).nan_to_num(1.0)

    return iou_with_a_mistake


def iou_of_nothing(prediction, target):
    both, either = (prediction & target).sum((1, 2)), (prediction | target).sum((1, 2))
    return both / either.clamp_min(1)


def iou_without_a_guard(prediction, target):
    return (prediction & target).sum((1, 2)) / (prediction | target).sum((1, 2))


def iou_pooled(prediction, target):
    return ((prediction & target).sum() / (prediction | target).sum()).expand(len(target))


def test_iou():
    assert_check(
        checks.iou,
        right=[iou_with_loop, iou_by_numbers, iou_float32],
        wrong={
            "dice": (iou_with(lambda tp, fp, fn, tn: 2 * tp / (2 * tp + fp + fn)), "the Dice score"),
            "both sizes": (iou_with(lambda tp, fp, fn, tn: tp / (2 * tp + fp + fn)), "shared pixels count twice"),
            "precision": (iou_with(lambda tp, fp, fn, tn: tp / (tp + fp)), "(precision)"),
            "recall": (iou_with(lambda tp, fp, fn, tn: tp / (tp + fn)), "(recall)"),
            "accuracy": (iou_with(lambda tp, fp, fn, tn: (tp + tn) / 36), "(accuracy)"),
            "background": (iou_with(lambda tp, fp, fn, tn: tn / (tn + fp + fn)), "the IoU of the background"),
            "both classes": (
                iou_with(lambda tp, fp, fn, tn: ((tp / (tp + fp + fn)).nan_to_num(1.0) + tn / (tn + fp + fn)) / 2),
                "the mean of the IoU of target and background",
            ),
            "xor": (iou_with(lambda tp, fp, fn, tn: tp / (fp + fn).clamp_min(1)), "the pixels that differ"),
            "all pixels": (iou_with(lambda tp, fp, fn, tn: tp / 36), "by all pixels of the scene"),
            "counts": (iou_with(lambda tp, fp, fn, tn: tp), "These are the intersections"),
            "pooled": (iou_pooled, "one number for all scenes"),
            "wrong share": (iou_with(lambda tp, fp, fn, tn: 1 - tp / (tp + fp + fn)), "the shares that are wrong"),
            "one pixel": (iou_with(lambda tp, fp, fn, tn: (tp + 1) / (tp + fp + fn + 1)), "1 pixel is a lot"),
            "one below": (iou_with(lambda tp, fp, fn, tn: tp / (tp + fp + fn + 1)), "You add a number below only"),
            "nothing": (iou_of_nothing, "nothing is predicted there"),
            "0 / 0": (iou_without_a_guard, "expected finite numbers"),
            "mean": (lambda p, t: iou_float32(p, t).mean(), "has shape"),
        },
    )


@pytest.fixture
def jaccard():
    return pytest.importorskip("torchmetrics.functional.classification").binary_jaccard_index


def test_the_oracle_is_the_jaccard_index_of_torchmetrics(jaccard):
    given = dict(checks.iou.problems(0))["scenes with a target"]
    found = checks.iou.reference(given["prediction"], given["target"])
    for value, p, t in zip(found, given["prediction"], given["target"], strict=True):
        assert float(value) == pytest.approx(float(jaccard(p.long(), t.long())), abs=1e-6)


# ------------------------------------------------------------------ 13.4 pooled


def pooled_by_numpy(prediction, target):
    p, t = prediction.numpy(), target.numpy()
    found = [np.logical_and(a, b).sum() / np.logical_or(a, b).sum() for a, b in ((p, t), (~p, ~t))]
    return tuple(torch.tensor(one) for one in found)


def pooled_by_scene_sums(prediction, target):
    found = []
    for value in (True, False):
        p, t = prediction == value, target == value
        found.append((p & t).sum((1, 2)).sum() / (p | t).sum((1, 2)).sum())
    return found


def pooled_with(change):
    """change(hits, errors of both kinds, right background; each [scenes]) → two numbers."""

    def pooled_with_a_mistake(prediction, target):
        p, t = prediction.flatten(1), target.flatten(1)
        tp, wrong, tn = ((a).sum(1).double() for a in (p & t, p ^ t, ~p & ~t))
        return change(tp, wrong, tn)

    return pooled_with_a_mistake


def ratio(a, wrong):
    return a.sum() / (a + wrong).sum()


def by_scene(a, wrong):
    return (a / (a + wrong)).nan_to_num(1.0).mean()


def pooled_half_turned(prediction, target):
    front = (prediction & target).sum() / (prediction | target).sum()
    return front, (~prediction & target).sum() / (~prediction | target).sum()


def pooled_other_half_turned(prediction, target):
    front = (prediction & target).sum() / (prediction | target).sum()
    return front, (prediction & ~target).sum() / (prediction | ~target).sum()


def test_pooled_iou():
    assert_check(
        checks.pooled_iou,
        right=[pooled_by_numpy, pooled_by_scene_sums],
        wrong={
            "means": (pooled_with(lambda a, w, b: (by_scene(a, w), by_scene(b, w))), "These are means of the IoU"),
            "mean of the target": (
                pooled_with(lambda a, w, b: (by_scene(a, w), ratio(b, w))),
                "The target's IoU is the mean",
            ),
            "mean of the rest": (
                pooled_with(lambda a, w, b: (ratio(a, w), by_scene(b, w))),
                "The background's IoU is the mean",
            ),
            "swapped": (pooled_with(lambda a, w, b: (ratio(b, w), ratio(a, w))), "changed places"),
            "mean of both": (
                pooled_with(lambda a, w, b: (ratio(a, w), (ratio(a, w) + ratio(b, w)) / 2)),
                "the mean of target and background",
            ),
            "complement": (pooled_with(lambda a, w, b: (ratio(a, w), 1 - ratio(a, w))), "1 minus the first"),
            "all pixels": (
                pooled_with(lambda a, w, b: (ratio(a, w), b.sum() / (a + w + b).sum())),
                "The background's union is all pixels",
            ),
            "accuracy": (
                pooled_with(lambda a, w, b: (ratio(a, w), (a + b).sum() / (a + w + b).sum())),
                "the share of all pixels that are right",
            ),
            "dice": (pooled_with(lambda a, w, b: (ratio(2 * a, w), ratio(2 * b, w))), "These are Dice scores"),
            "twice": (pooled_with(lambda a, w, b: (ratio(a, w), ratio(a, w))), "Both numbers are that of the target"),
            "half turned": (pooled_half_turned, "Only the prediction is turned"),
            "other half": (pooled_other_half_turned, "Only the target is turned"),
            "one number": (lambda p, t: checks.pooled_iou.reference(p, t)[0], "needs two tensors"),
            "by scene": (
                pooled_with(lambda a, w, b: ((a / (a + w)).nan_to_num(1.0), (b / (b + w)).nan_to_num(1.0))),
                "has shape",
            ),
        },
    )


def test_pooled_and_by_scene_differ_on_every_problem():
    """Else a mean over scenes would pass by luck."""
    for seed in range(20):
        for _, given in checks.pooled_iou.problems(seed):
            front, _ = checks.pooled_iou.reference(given["prediction"], given["target"])
            mean = checks.iou.reference(given["prediction"], given["target"]).mean()
            assert abs(float(front - mean)) > 0.05
