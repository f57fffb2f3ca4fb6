"""The checks of notebook 13: masked average pooling, cosine logits, intersection over union, pooled or by scene.

Oracles are plain loops over pixels; they share no code with the package.

Wang, Liew, Zou, Zhou, Feng, *PANet: Few-Shot Image Semantic Segmentation with Prototype Alignment*, 2019,
https://arxiv.org/abs/1908.06391;
Shaban, Bansal, Liu, Essa, Boots, *One-Shot Learning for Semantic Segmentation*, 2017,
https://arxiv.org/abs/1709.03410;
Rakelly, Shelhamer, Darrell, Efros, Levine, *Conditional Networks for Few-Shot Semantic Segmentation*, 2018,
https://openreview.net/forum?id=SkMjFKJwG.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mlcourse.teaching.checks import Check, close, relative_error
from mlcourse.teaching.oracles import Unnamed, first_mistake, randn, uniform

Tensors = dict[str, Tensor]
F64 = torch.float64
RTOL = 2e-4  # an answer that computes in float32 passes; the mistakes below are off by far more
_close = partial(close, rtol=RTOL)
_first = partial(first_mistake, rtol=RTOL)


# ------------------------------------------------------------------ 13.1 masked average pooling


def _pooling_inputs(kind: str) -> Callable[[torch.Generator], Tensors]:
    """Features on 24 places, not centred at 0, and a mask of 0 and 1, soft, faint, or empty. Sizes differ."""
    channels, height, width = {"hard": (3, 4, 6), "soft": (5, 6, 4)}.get(kind, (4, 3, 8))

    def make(generator: torch.Generator) -> Tensors:
        mask = torch.zeros(height, width, dtype=F64)
        if kind == "hard":
            mask.view(-1)[torch.randperm(24, generator=generator)[:7]] = 1
        elif kind == "soft":
            chosen = torch.randperm(24, generator=generator)[:9]
            mask.view(-1)[chosen] = torch.cat([uniform(generator, 0.1, 0.4, 4), uniform(generator, 0.6, 0.9, 5)])
        elif kind == "faint":
            mask.view(-1)[torch.randperm(24, generator=generator)[:3]] = uniform(generator, 0.05, 0.2, 3)
        return {"features": 0.7 + randn(generator, channels, height, width), "mask": mask}

    return make


def _pooling_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"prototype": answer(inputs["features"], inputs["mask"])}


def _weighted(features: Tensor, mask: Tensor) -> Tensor:
    """Σ m·f over the places, place by place: [channels]."""
    total = torch.zeros(len(features), dtype=F64)
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            total = total + mask[row, column] * features[:, row, column]
    return total


def _pooling_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    f, m = inputs["features"], inputs["mask"]
    got, size = outputs["prototype"], float(m.sum())
    right = _weighted(f, m) / size if size else torch.zeros(len(f), dtype=F64)
    if _close(got, right):
        return None
    if not size:
        return "The mask is empty, so there is nothing to average. Then the prototype is 0 in every channel."
    places, inked, most = m.numel(), float((m > 0).sum()), (m > 0.5).to(F64)
    if not got.any():
        return "The prototype is 0 in every channel. Only an empty mask gives that, and this one has values above 0."
    small = {
        "The sum of the mask is below 1 here, and you divide by 1: a clamp, or a number that is added, is too "
        "large.": right * size
    }
    mistakes = (small if size < 1 else {}) | {
        "This is the sum over the mask. Divide it by the size of the mask, which is the sum of its values.": right
        * size,
        "You divide by the number of all places. Divide by the sum of the mask.": (right * size / places),
        "You divide by the number of places where the mask is above 0. A place with 0.2 counts as 0.2: divide by the "
        "sum of the mask.": right * size / inked,
        "This is the mean over the whole picture: the mask is not used.": f.flatten(1).sum(1) / places,
        "This is the mean of the background: 1 minus the mask is where the class is not.": _weighted(f, 1 - m)
        / float((1 - m).sum()),
        "You take the mask as 0 or 1. Its values are weights: multiply by them.": _weighted(f, (m > 0).to(F64)) / inked,
        "You cut the mask at 0.5. Its values are weights: multiply by them.": _weighted(f, most)
        / max(float(most.sum()), 1.0),
        "You take the largest feature under the mask. Asked is the mean.": f.flatten(1)[:, m.flatten() > 0].amax(1),
        "A number is added to the sum of the mask, and it is too large for a small mask: 1e-6 is enough.": (
            right * size / (size + 1)
        ),
        "The weights are squared: multiply by the mask once, and divide by its sum.": _weighted(f, m * m) / size,
        "The prototype is scaled to length 1. Take the mean as it is.": right / right.norm(),
        "You scale the features of each place to length 1 before the mean. Take them as they are.": _weighted(
            f / f.norm(dim=0), m
        )
        / size,
    }
    return _first(got, mistakes) or Unnamed(
        f"The prototype is off by {relative_error(got, right):.1e} of its size. Add up mask times feature over all "
        "places, channel by channel, and divide by the sum of the mask."
    )


def _pooling_reference(features: Tensor, mask: Tensor) -> Tensor:
    """Σ m·f / Σ m over the places; 0 where the mask is empty."""
    return (features * mask).sum((1, 2)) / mask.sum().clamp_min(1e-9)


masked_average = Check(
    exercise="13.1",
    title="Masked average pooling",
    inputs={
        "a mask of 0 and 1": _pooling_inputs("hard"),
        "a soft mask": _pooling_inputs("soft"),
        "a faint mask": _pooling_inputs("faint"),
        "an empty mask": _pooling_inputs("empty"),
    },
    probe=_pooling_probe,
    judge=_pooling_judge,
    reference=_pooling_reference,
)


# ------------------------------------------------------------------ 13.2 the cosine logits of every pixel


def _cosine_inputs(blank: bool) -> Callable[[torch.Generator], Tensors]:
    """Features of some channels on some places; blank: two places hold zeros only, as empty paper may."""
    channels, height, width = (6, 5, 3) if blank else (5, 3, 4)

    def make(generator: torch.Generator) -> Tensors:
        lengths = 0.5 + 2 * torch.rand(1, height, width, generator=generator, dtype=F64)
        features = lengths * randn(generator, channels, height, width)
        if blank:
            features.flatten(1)[:, torch.randperm(height * width, generator=generator)[:2]] = 0
        return {
            "features": features,
            "target": 2 * randn(generator, channels),
            "rest": 0.6 * randn(generator, channels),
            "scale": uniform(generator, 4.0, 9.0),
        }

    return make


def _cosine_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"logits": answer(inputs["features"], inputs["target"], inputs["rest"], float(inputs["scale"]))}


def _cosines(features: Tensor, prototype: Tensor) -> Tensor:
    """The cosine of each place with the prototype, place by place; 0 where there are no features: [h, w]."""
    found = torch.zeros(features.shape[1:], dtype=F64)
    for row in range(features.shape[1]):
        for column in range(features.shape[2]):
            f = features[:, row, column]
            length = math.sqrt(float(f @ f)) * math.sqrt(float(prototype @ prototype))
            found[row, column] = float(f @ prototype) / length if length else 0.0
    return found


def _cosine_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    f, t, r, scale = inputs["features"], inputs["target"], inputs["rest"], float(inputs["scale"])
    to_target, to_rest = _cosines(f, t), _cosines(f, r)
    got, right = outputs["logits"], scale * (to_target - to_rest)
    if _close(got, right):
        return None

    def dots(features: Tensor, one: Tensor, other: Tensor) -> Tensor:
        return torch.einsum("chw,c->hw", features, one) - torch.einsum("chw,c->hw", features, other)

    lengths = f.norm(dim=0)
    squares = [-((f - one[:, None, None]) ** 2).sum(0) for one in (t, r)]
    difference = _cosines(f, t - r)
    mistakes = {
        "These are dot products: a pixel with long features gets large logits. A cosine divides by both lengths.": (
            scale * dots(f, t, r)
        ),
        "The pixels are scaled to length 1, the prototypes are not. A cosine divides by both lengths.": scale
        * dots(F.normalize(f, dim=0), t, r),
        "The prototypes are scaled to length 1, the pixels are not. A cosine divides by both lengths.": scale
        * (to_target - to_rest)
        * lengths,
        "The scale is missing: without it no answer can be sure, since a cosine is 1 at most.": right / scale,
        "The cosines are divided by the scale. Multiply.": right / scale**2,
        "The sign is wrong: a pixel like the rest must get a logit below 0.": -right,
        "This is the cosine with the target alone. Subtract the cosine with the rest: which one is nearer?": scale
        * to_target,
        "You add the two cosines. The logit is their difference: which of the two is nearer?": scale
        * (to_target + to_rest),
        "These are probabilities. Asked is the logit, which goes into a sigmoid later.": right.sigmoid(),
        "These are log-probabilities of the target. Asked is the logit, a difference of scores.": F.logsigmoid(right),
        "This is one cosine, with the difference of the two prototypes. Take two cosines, then their difference.": (
            scale * difference
        ),
        "These are squared distances. Here the direction counts, not the length: take cosines.": scale
        * (squares[0] - squares[1]),
        "The features are scaled along a side of the picture. Each pixel is one list: scale over dimension 0, the "
        "channels.": scale * dots(F.normalize(f, dim=1), F.normalize(t, dim=0), F.normalize(r, dim=0)),
        "The features are scaled along the last side of the picture. Each pixel is one list: scale over dimension 0, "
        "the channels.": scale * dots(F.normalize(f, dim=2), F.normalize(t, dim=0), F.normalize(r, dim=0)),
        "The features are scaled by the length of the whole picture. Each pixel has its own length.": scale
        * (to_target - to_rest)
        * lengths
        / f.norm(),
        "The cosines have lost their sign: features in the opposite direction are not alike.": scale
        * (to_target.abs() - to_rest.abs()),
    }
    return _first(got, mistakes) or Unnamed(
        f"The logits are off by {relative_error(got, right):.1e} of their size. For one pixel: "
        "scale · (cos(pixel, target) − cos(pixel, rest))."
    )


def _cosine_reference(features: Tensor, target: Tensor, rest: Tensor, scale: float) -> Tensor:
    """scale · (cos(f, target) − cos(f, rest)) at each place."""
    f = F.normalize(features, dim=0)
    return scale * torch.einsum("chw,c->hw", f, F.normalize(target, dim=0) - F.normalize(rest, dim=0))


cosine_logits = Check(
    exercise="13.2",
    title="Cosine logits of every pixel",
    inputs={"features everywhere": _cosine_inputs(False), "pixels whose features are all 0": _cosine_inputs(True)},
    probe=_cosine_probe,
    judge=_cosine_judge,
    reference=_cosine_reference,
)


# ------------------------------------------------------------------ 13.3 intersection over union


SIDE = 6  # of a scene in the problems


def _square(row: int, column: int, height: int, width: int) -> Tensor:
    """A rectangle of True in a picture of 6 × 6."""
    picture = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    picture[row : row + height, column : column + width] = True
    return picture


def _overlapping(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A target and a prediction of another size that share some pixels, and no more than some."""
    height, width = (int(torch.randint(2, 4, (), generator=generator)) for _ in range(2))
    row, column = (int(torch.randint(0, 2, (), generator=generator)) for _ in range(2))
    return _square(row, column, height, width), _square(row + 1, column + 1, height, width + 1)


def _iou_inputs(special: bool) -> Callable[[torch.Generator], Tensors]:
    """special: with an empty target, an empty prediction, both empty, nothing shared, and all right."""

    def make(generator: torch.Generator) -> Tensors:
        pairs = [_overlapping(generator) for _ in range(4)]
        pairs[2:] = [pair[::-1] for pair in pairs[2:]]  # so that neither mask is always the larger one
        if special:
            some, empty = _square(1, 1, 3, 2), torch.zeros(SIDE, SIDE, dtype=torch.bool)
            pairs += [(some, empty), (empty, some), (empty, empty), (some, some), (_square(0, 0, 1, 2), some)]
            pairs = [pairs[k] for k in torch.randperm(len(pairs), generator=generator).tolist()]
        return {
            "prediction": torch.stack([prediction for _, prediction in pairs]),
            "target": torch.stack([target for target, _ in pairs]),
        }

    return make


def _iou_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"IoU": answer(inputs["prediction"], inputs["target"])}


def _counts(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """True positives, false positives, false negatives, true negatives of each scene, pixel by pixel: each [n]."""
    rows = []
    for p, t in zip(prediction.flatten(1).tolist(), target.flatten(1).tolist(), strict=True):
        pairs = list(zip(p, t, strict=True))
        rows.append([pairs.count(one) for one in ((True, True), (True, False), (False, True), (False, False))])
    return torch.tensor(rows, dtype=F64).unbind(1)


def _share(top: Tensor, bottom: Tensor, nothing: float = 1.0) -> Tensor:
    """top / bottom, and `nothing` where there is nothing to divide by."""
    return torch.where(bottom > 0, top / bottom.clamp_min(1), torch.full_like(top, nothing))


def _iou_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    tp, fp, fn, tn = _counts(inputs["prediction"], inputs["target"])
    got, union = outputs["IoU"], tp + fp + fn
    right = _share(tp, union)
    if _close(got, right):
        return None
    empty = union == 0
    if empty.any() and _close(got[~empty], right[~empty]):
        return (
            "One scene has no target, and nothing is predicted there: nothing is wrong, so the IoU is 1. Yours is "
            f"{float(got[empty][0]):.2f}."
        )
    background = _share(tn, tn + fp + fn)
    mistakes = {
        "This is twice the intersection over the sum of both sizes, the Dice score. Divide the intersection by the "
        "union.": _share(2 * tp, 2 * tp + fp + fn),
        "You divide by the sum of both sizes: shared pixels count twice there. The union counts them once.": _share(
            tp, 2 * tp + fp + fn
        ),
        "This is the share of the prediction that is right (precision). Divide by the union: missed pixels must count, "
        "too.": _share(tp, tp + fp),
        "This is the share of the target that is found (recall). Divide by the union: an answer that says `target` "
        "everywhere would get 1.": _share(tp, tp + fn),
        "This is the share of pixels that are right (accuracy). Nearly all pixels are background, so it says little of "
        "the target.": (tp + tn) / (tp + fp + fn + tn),
        "This is the IoU of the background. Asked is that of the target, where both masks are True.": background,
        "This is the mean of the IoU of target and background. Asked is that of the target alone.": (right + background)
        / 2,
        "You divide by the size of the larger mask. The union may be larger than both.": _share(
            tp, tp + torch.maximum(fp, fn)
        ),
        "You divide by the size of the smaller mask. Divide by the union.": _share(tp, tp + torch.minimum(fp, fn)),
        "You divide by the pixels that differ. The union holds the shared pixels, too.": _share(tp, fp + fn),
        "You divide by all pixels of the scene. Divide by the union.": tp / (tp + fp + fn + tn),
        "These are the intersections. Divide them by the unions.": tp,
        "This is one number for all scenes together. Asked is the IoU of each: sum over the two last dimensions.": (
            (tp.sum() / union.sum()).expand_as(tp)
        ),
        "These are the shares that are wrong, 1 − IoU.": 1 - right,
        "A number is added above and below, and it is too large: 1 pixel is a lot in a small mask.": (tp + 1)
        / (union + 1),
        "You add a number below only. So no answer gets 1, not even the right one.": tp / (union + 1),
    }
    alarm, missed = (tp + fn == 0) & (fp > 0), (tp + fp == 0) & (fn > 0)
    if alarm.any():  # special scenes are among them
        mistakes |= {
            "A scene without a target, where something is predicted, gets 1 from you. That is a false alarm: 0.": (
                right + alarm.to(F64)
            ),
            "A target that is missed as a whole gets 1 from you: nothing is predicted there. It gets 0.": (
                right + missed.to(F64)
            ),
            "Wherever one mask is empty you give 1. Only where both are: a false alarm and a missed target get 0.": (
                right + (alarm | missed).to(F64)
            ),
        }
    if empty.any():  # the same slips, with 0 where nothing is there
        zeros = {words: value * ~empty for words, value in mistakes.items()}
        return _first(got, mistakes) or _first(got, zeros) or _unnamed_iou(got, right)
    return _first(got, mistakes) or _unnamed_iou(got, right)


def _unnamed_iou(got: Tensor, right: Tensor) -> Unnamed:
    worst = int((got.double() - right).abs().argmax())
    return Unnamed(
        f"Scene {worst} should get {float(right[worst]):.3f}, and gets {float(got[worst]):.3f}: count the pixels where "
        "both are True, and those where one or both are."
    )


def _iou_reference(prediction: Tensor, target: Tensor) -> Tensor:
    """|both| / |either| of each scene; 1 where both masks are empty."""
    union = (prediction | target).sum((1, 2))
    return torch.where(union > 0, (prediction & target).sum((1, 2)) / union.clamp_min(1), 1.0)


iou = Check(
    exercise="13.3",
    title="Intersection over union",
    inputs={"scenes with a target": _iou_inputs(False), "empty masks among them": _iou_inputs(True)},
    probe=_iou_probe,
    judge=_iou_judge,
    reference=_iou_reference,
)


# ------------------------------------------------------------------ 13.4 pooled over scenes


def _pooled_inputs(empty: bool) -> Callable[[torch.Generator], Tensors]:
    """A large target that is found well, and small ones that are not: a mean over scenes says something else."""

    def make(generator: torch.Generator) -> Tensors:
        pairs = [(_square(0, 0, 5, 5), _square(0, 1, 5, 4)), (_square(1, 1, 1, 2), _square(1, 2, 2, 3))]
        pairs += [_overlapping(generator), (_square(3, 3, 1, 1), _square(0, 0, 2, 2))]
        if empty:
            pairs.append((torch.zeros(SIDE, SIDE, dtype=torch.bool), _square(2, 2, 2, 2)))
        return {
            "prediction": torch.stack([prediction for _, prediction in pairs]),
            "target": torch.stack([target for target, _ in pairs]),
        }

    return make


def _pooled_probe(answer: Callable, inputs: Tensors) -> Tensors:
    made = answer(inputs["prediction"], inputs["target"])
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise TypeError("it needs two tensors, the pooled IoU of the target and that of the background")
    return {"target": made[0], "background": made[1]}


def _pooled_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    tp, fp, fn, tn = _counts(inputs["prediction"], inputs["target"])
    wrong = fp + fn
    front, back = tp.sum() / (tp + wrong).sum(), tn.sum() / (tn + wrong).sum()
    got, right = torch.stack([outputs["target"], outputs["background"]]).double(), torch.stack([front, back])
    if _close(got, right):
        return None
    by_scene, back_by_scene = _share(tp, tp + wrong), _share(tn, tn + wrong)
    mean, back_mean = by_scene.sum() / len(tp), back_by_scene.sum() / len(tp)
    all_pixels = (tp + wrong + tn).sum()
    mistakes = {
        "These are means of the IoU of each scene. Pooled: add the pixels of all scenes first, then divide once.": (
            mean,
            back_mean,
        ),
        "The target's IoU is the mean over scenes. Add the pixels of all scenes first, then divide once.": (mean, back),
        "The background's IoU is the mean over scenes. Add the pixels of all scenes first, then divide once.": (
            front,
            back_mean,
        ),
        "The two have changed places: the target first, then the background.": (back, front),
        "The second number is the mean of target and background. Asked is the background alone; the mean comes "
        "later.": (front, (front + back) / 2),
        "The second number is 1 minus the first. The background is right where both masks are False: count these "
        "pixels.": (front, 1 - front),
        "The background's union is all pixels. It holds the pixels where one of the masks, or both, are False.": (
            front,
            tn.sum() / all_pixels,
        ),
        "The second number is the share of all pixels that are right. Asked is the IoU of the background.": (
            front,
            (tp + tn).sum() / all_pixels,
        ),
        "These are Dice scores: divide the intersection by the union.": (
            2 * tp.sum() / (2 * tp + wrong).sum(),
            2 * tn.sum() / (2 * tn + wrong).sum(),
        ),
        "Both numbers are that of the target. The background has its own intersection and union: use ~prediction and "
        "~target.": (front, front),
        "Only the prediction is turned around for the background. Turn both masks: ~prediction and ~target.": (
            front,
            fn.sum() / (tp + fn + tn).sum(),
        ),
        "Only the target is turned around for the background. Turn both masks: ~prediction and ~target.": (
            front,
            fp.sum() / (tp + fp + tn).sum(),
        ),
        "The second number is 1. The background's intersection is where both masks are False: ~prediction & ~target.": (
            front,
            torch.ones_like(front),
        ),
        "You divide by the sum of both sizes: shared pixels count twice there. The union counts them once.": (
            tp.sum() / (2 * tp + wrong).sum(),
            tn.sum() / (2 * tn + wrong).sum(),
        ),
        "Both numbers are the mean of target and background. Asked are the two of which it is the mean.": (
            (front + back) / 2,
            (front + back) / 2,
        ),
        "Scenes where nothing is found are left out. All scenes count.": tuple(_without_empty(tp, wrong, tn)),
    }
    found = _first(got, {words: torch.stack(list(pair)) for words, pair in mistakes.items()})
    if found:
        return found
    name, place = ("target", 0) if not _close(got[0], right[0]) else ("background", 1)
    return Unnamed(f"The pooled IoU of the {name} should be {float(right[place]):.4f}, and is {float(got[place]):.4f}.")


def _without_empty(tp: Tensor, wrong: Tensor, tn: Tensor) -> list[Tensor]:
    """The pooled IoUs of those scenes only where something is found."""
    kept = tp > 0
    return [one[kept].sum() / (one + wrong)[kept].sum() for one in (tp, tn)]


def _pooled_reference(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Σ intersections / Σ unions over all scenes, of the target and of the background."""

    def pooled(p: Tensor, t: Tensor) -> Tensor:
        return (p & t).sum() / (p | t).sum()

    return pooled(prediction, target), pooled(~prediction, ~target)


pooled_iou = Check(
    exercise="13.4",
    title="Pooled intersection over union",
    inputs={"four scenes": _pooled_inputs(False), "a scene without a target": _pooled_inputs(True)},
    probe=_pooled_probe,
    judge=_pooled_judge,
    reference=_pooled_reference,
)
