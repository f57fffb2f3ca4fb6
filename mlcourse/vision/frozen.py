"""Segmentation from one photo by a frozen network: nothing is trained, and nothing needs to be.

A frozen network turns a photo into maps of features. The prototype of the class is the mean of the features under the
support mask, that of the background the mean over the rest (masked average pooling: Wang et al., *PANet: Few-Shot Image
Semantic Segmentation with Prototype Alignment*, 2019, https://arxiv.org/abs/1908.06391). A pixel of the query belongs
to the prototype whose direction is nearer.

Here also are the answers that know nothing of the support photo, which every method must beat: `ConstantMask`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mlcourse.episodes import Episode
from mlcourse.errors import CourseError
from mlcourse.learners.base import Learner, State
from mlcourse.networks import pretrained
from mlcourse.networks.pretrained import backbone as make_backbone


def joined(maps: dict[int, Tensor]) -> Tensor:
    """Maps of several strides as one, on the finest grid: [images, D, h, w], D the sum of their channels.

    Each map counts as much as any other: at each place its features have the length 1.
    """
    finest = maps[min(maps)].shape[2:]
    parts = [F.normalize(maps[stride], dim=1) for stride in sorted(maps)]
    return torch.cat([F.interpolate(part, finest, mode="bilinear", align_corners=False) for part in parts], 1)


def pooled(features: Tensor, weights: Tensor) -> Tensor:
    """The mean of the features under a mask, over all images of a task: [tasks, images, D, h, w] → [tasks, D].

    weights: [tasks, images, H, W], how much each pixel counts (0 or 1); a place of the coarser grid counts as much as
    the share of its pixels does. Zeros where no pixel counts.
    """
    share = F.adaptive_avg_pool2d(weights.to(features.dtype), features.shape[-2:]).unsqueeze(2)
    return (features * share).sum((1, 3, 4)) / share.sum((1, 3, 4)).clamp(min=1e-6)


def overlaps(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Intersections and unions of masks, per task: float64 [tasks] each. Void pixels count nowhere.

    prediction: logits [tasks, queries, H, W], above 0 for the class. target: 1, 0, or below 0 for void.
    hit, union: of the class. rest_hit, rest_union: of the background. iou: hit / union, the mean over the task's
    queries. fb_iou: the mean of that and of the background's. (Of an empty union the IoU is 1: both say "nothing".)
    """
    known, is_there, said = target >= 0, target > 0, prediction > 0
    made = {}
    for prefix, one, other in (("", said, is_there), ("rest_", ~said, ~is_there)):
        made[f"{prefix}hit"] = (one & other & known).sum((2, 3)).double()
        made[f"{prefix}union"] = ((one | other) & known).sum((2, 3)).double()
    of_class, of_rest = (
        torch.where(union > 0, hit / union.clamp(min=1), 1.0)
        for hit, union in ((made["hit"], made["union"]), (made["rest_hit"], made["rest_union"]))
    )
    summed = {name: value.sum(1) for name, value in made.items()}
    return summed | {"iou": of_class.mean(1), "fb_iou": ((of_class + of_rest) / 2).mean(1)}


class MaskLearner(Learner):
    """What the learners here have in common: logits per pixel, above 0 for the class, and the scores of masks."""

    metric = ("iou", +1)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy over all pixels that are not void."""
        known = target >= 0
        return F.binary_cross_entropy_with_logits(prediction[known], (target[known] > 0).to(prediction.dtype))

    def score(self, prediction: Tensor, batch: Episode) -> dict[str, Tensor]:
        """See `overlaps`."""
        return overlaps(prediction, batch.query_y)


class FrozenPrototypes(MaskLearner):
    """Masked-average prototypes on the maps of a frozen network. No outer parameter is trained.

    backbone: a name of `networks.pretrained`, and then images are photos [tasks, images, 3, H, W]; or None: they are
    maps already [tasks, images, D, h, w], computed once, as `PhotoTasks(features=…)` gives them. strides: of the maps
    that are joined. pretrained, seed: as in `pretrained.backbone`.
    Masks are int64 or bool [tasks, images, H, W]; below 0 is void. predict → [tasks, queries, H, W], H and W those of
    the masks: cosine to the class minus cosine to the background.

    Raises CourseError where the backbone is not installed, and for a support set without a pixel of the class.
    """

    def __init__(
        self,
        backbone: str | None = pretrained.LITE0,
        *,
        strides: Sequence[int] = pretrained.STRIDES,
        pretrained: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        self.strides = tuple(strides)
        self.backbone = None if backbone is None else make_backbone(backbone, pretrained=pretrained, seed=seed)

    def maps(self, x: Tensor) -> Tensor:
        """Features [tasks, images, D, h, w] of photos, or of what are features already."""
        if self.backbone is None:
            return x
        return joined(self.backbone.maps(x.flatten(0, 1), self.strides)).unflatten(0, x.shape[:2])

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_: object) -> State:
        masks = support_y.long()  # of bool masks, too: nothing there is void
        if not (masks > 0).flatten(1).any(1).all():
            raise CourseError("a support mask is empty: mark the class in one photo of each task at least")
        found = self.maps(support_x)
        prototypes = [F.normalize(pooled(found, here), dim=1) for here in (masks > 0, masks == 0)]
        return {"towards": prototypes[0] - prototypes[1], "size": tuple(masks.shape[2:])}

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        logits = torch.einsum("tidhw,td->tihw", F.normalize(self.maps(query_x), dim=2), state["towards"])
        return F.interpolate(logits, state["size"], mode="bilinear", align_corners=False)


class ConstantMask(MaskLearner):
    """The same mask for every query: what is right about where things stand in photos, without any look at one.

    size: height and width of the masks. As it is made it says "all of it is the class"; `fit` learns the mask that is
    best for the queries of other tasks.
    """

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mask", torch.ones(size, size))

    def fit(self, batch: Episode, thresholds: int = 64) -> "ConstantMask":
        """The pixels that show a class in the largest share of these tasks; how many, is what their mean IoU says."""
        known = (batch.query_y >= 0).flatten(0, 1)
        target = (batch.query_y > 0).flatten(0, 1)
        often = target.sum(0) / known.sum(0).clamp(min=1)
        cuts = often.flatten().quantile(torch.linspace(0, 1, thresholds + 1)[:-1])
        masks = [torch.where(often >= cut, 1.0, -1.0) for cut in [torch.tensor(-1.0), *cuts]]
        quality = [overlaps(one.expand_as(batch.query_y), batch.query_y)["iou"].mean().item() for one in masks]
        self.mask.copy_(masks[max(range(len(masks)), key=quality.__getitem__)])
        return self

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_: object) -> State:
        return {"like": support_x.new_zeros(len(support_x))}

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        return self.mask.to(query_x.dtype).expand(*query_x.shape[:2], -1, -1)
