"""Segmentation from one photo by a frozen network: nothing is trained, and nothing needs to be.

A frozen network turns a photo into maps of features. The prototype of the class is the mean of the features under the
support mask, that of the background the mean over the rest (masked average pooling: Wang et al., *PANet: Few-Shot Image
Semantic Segmentation with Prototype Alignment*, 2019, https://arxiv.org/abs/1908.06391). A pixel of the query belongs
to the prototype whose direction is nearer.

Here also are the answers that know nothing of the support photo, which every method must beat: `ConstantMask`.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.episodes import Episode
from mlcourse.errors import CourseError
from mlcourse.learners.base import State
from mlcourse.networks import pretrained
from mlcourse.networks.pretrained import backbone as make_backbone
from mlcourse.vision.segmentation import (
    Segmenter,
    check_device,
    check_logits,
    check_pictures,
    check_precision,
    dice_loss,
    intersection_over_union,
    pixel_counts,
)

FAR = 1e4  # a logit that is certain


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


class PhotoSegmenter(Segmenter):
    """A learner on masks with void pixels (below 0): they count neither in the loss nor in the scores.

    It takes bool masks, too. The loss, the scores and their names are those of `Segmenter`: the cross-entropy is the
    mean over the known pixels. Both raise CourseError for a mask that is all void or holds numbers above 1, `score`
    also for logits that are nan.
    """

    asked_about = "query photos"

    def check_support(self, support_x: Tensor, support_y: Tensor) -> None:
        """Raise CourseError for photos that `check_pictures` refuses, and for masks that say nothing of them.

        Of the photos of a task one at least must show the class.
        """
        check_pictures("support photos", support_x, channels=self.channels, like=self.first_tensor())
        if support_y.dim() != 4 or support_y.shape[:2] != support_x.shape[:2]:
            shapes = f"{tuple(support_x.shape)} and {tuple(support_y.shape)}"
            raise CourseError(
                f"photos and masks have the shapes {shapes}; give [tasks, images, C, H, W] and [tasks, images, H, W]"
            )
        if self.channels is not None and support_y.shape[2:] != support_x.shape[3:]:
            raise CourseError(
                f"support photos are of {tuple(support_x.shape[3:])} pixels, their masks of "
                f"{tuple(support_y.shape[2:])}; give masks of the photos' size"
            )
        check_device("masks", support_y, support_x)
        _check_numbers(support_y)
        if not (support_y > 0).flatten(1).any(1).all():
            raise CourseError("a support mask is empty: mark the class in one photo of each task at least")

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        known, truth = _known(prediction, target), (target > 0).to(prediction.dtype)
        entropy = F.binary_cross_entropy_with_logits(prediction[known], truth[known])
        # For Dice far below 0 where nobody knows: it is "not the class" there for certain, and adds nothing.
        return entropy + dice_loss(prediction.masked_fill(~known, -FAR), truth)

    def score(self, prediction: Tensor, batch: Episode) -> dict[str, Tensor]:
        known, truth = _known(prediction, batch.query_y), batch.query_y > 0
        check_logits(prediction)
        said = prediction > 0
        pairs = {"foreground": (said & known, truth), "background": (~said & known, ~truth & known)}
        scores = {f"{what} IoU": intersection_over_union(*pair).mean(1) for what, pair in pairs.items()}
        for what, before in (("foreground", ""), ("background", "background ")):
            counts = pixel_counts(*pairs[what])
            scores |= {f"{before}{name}": counts[name].sum(1) for name in ("intersection", "union")}
        return scores


def _known(prediction: Tensor, target: Tensor) -> Tensor:
    """Which pixels somebody labelled: bool, in the shape of both. Raises CourseError where a photo has none."""
    if prediction.shape != target.shape:
        shapes = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
        raise CourseError(f"logits and masks have the shapes {shapes}; give [tasks, queries, H, W] twice")
    _check_numbers(target)
    known = target >= 0
    blank = int((~known.flatten(2).any(2)).sum())
    if blank:
        raise CourseError(
            f"{blank} of {target[..., 0, 0].numel()} masks are void all over, so nothing there is right or wrong: ask "
            "about other photos"
        )
    return known


def _check_numbers(masks: Tensor) -> None:
    """Raise CourseError for masks of other numbers than 1, 0 and void: they would be taken for the class."""
    if masks.is_floating_point() or (masks.dtype != torch.bool and masks.numel() and int(masks.max()) > 1):
        given = masks.dtype if masks.is_floating_point() else int(masks.max())
        raise CourseError(f"masks hold {given}; give 1 for the class, 0 for all else, and -1 for void, or bool")


class MapPrototypes(PhotoSegmenter):
    """Masked-average prototypes on maps of features, wherever these come from (`maps`).

    Masks are int64 or bool [tasks, images, H, W]; below 0 is void. predict → [tasks, queries, H, W], H and W those of
    the support masks, or where the queries are photos those of the queries: `scale` times the cosine to the class minus
    the cosine to the background.

    Raises CourseError for a support set without a pixel of the class.
    """

    scale = 20.0  # of cosines, as PANet has it: it matters in training only
    channels = None

    def maps(self, x: Tensor) -> Tensor:
        """Features [tasks, images, D, h, w] of what stands in an episode; here they are that already."""
        return x

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_: object) -> State:
        self.check_support(support_x, support_y)
        masks = support_y.long()  # of bool masks, too: nothing there is void
        found = self.maps(support_x)
        prototypes = [F.normalize(pooled(found, here), dim=1) for here in (masks > 0, masks == 0)]
        return {"towards": prototypes[0] - prototypes[1], "size": tuple(masks.shape[2:])}

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        self.check_queries(query_x, state)
        found, towards = self.maps(query_x), state["towards"]
        if found.shape[2] != towards.shape[1]:
            raise CourseError(
                f"the queries have maps of {found.shape[2]} features, the support set has {towards.shape[1]}; take the "
                "same network and strides for both"
            )
        cosines = torch.einsum("tidhw,td->tihw", F.normalize(found, dim=2), towards)
        size = state["size"] if self.channels is None else tuple(query_x.shape[3:])
        return self.scale * F.interpolate(cosines, size, mode="bilinear", align_corners=False)


class FrozenPrototypes(MapPrototypes):
    """Prototypes on the maps of a frozen network, of photos [tasks, images, 3, H, W]. Nothing is trained.

    backbone: a name of `networks.pretrained`. strides: of the maps that are joined. pretrained, seed: as in
    `pretrained.backbone`. (Where the maps are computed already, `MapPrototypes` takes them.)
    Raises CourseError where the backbone is not installed.
    """

    channels = (1, 3)  # grey photos are repeated
    trains_on = "nothing"

    def __init__(
        self,
        backbone: str = pretrained.LITE0,
        *,
        strides: Sequence[int] = pretrained.STRIDES,
        pretrained: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        self.strides = tuple(strides)
        self.backbone = make_backbone(backbone, pretrained=pretrained, seed=seed)

    def maps(self, x: Tensor) -> Tensor:
        return joined(self.backbone.maps(x.flatten(0, 1), self.strides)).unflatten(0, x.shape[:2])


class TrainedPrototypes(MapPrototypes):
    """Prototypes on the maps of a small network that is trained on the tasks themselves, from scratch.

    Photos are halved first. Four blocks of convolution 3×3, batch normalisation and ReLU, the first three with stride
    2, so that a map has a sixteenth of the photo's height and width, as the frozen network's. width: channels of the
    first block.
    """

    channels = (3,)
    normalisation = "running"

    def __init__(self, width: int = 32):
        super().__init__()
        widths, blocks = [3, width, 2 * width, 4 * width, 4 * width], []
        for index, (a, b) in enumerate(pairwise(widths)):
            conv = nn.Conv2d(a, b, 3, stride=2 if index < 3 else 1, padding=1, bias=False)
            blocks += [conv, nn.BatchNorm2d(b), nn.ReLU()]
        self.network = nn.Sequential(*blocks[:-1])  # cosines need both signs

    def maps(self, x: Tensor) -> Tensor:
        check_precision("photos", x, self.network)
        return self.network(F.avg_pool2d(x.flatten(0, 1), 2)).unflatten(0, x.shape[:2])


class ConstantMask(PhotoSegmenter):
    """The same mask for every query: what is right about where things stand in photos, without any look at one.

    size: height and width of the masks. As it is made it says "all of it is the class"; `fit` learns the mask that is
    best for the queries of other tasks.
    """

    channels = None  # it looks at none of them

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mask", torch.ones(size, size))

    def fit(self, batch: Episode, thresholds: int = 64) -> "ConstantMask":
        """The pixels that show a class in the largest share of these tasks; how many, is what their mean IoU says."""
        known, target = batch.query_y >= 0, batch.query_y > 0
        often = target.sum((0, 1)) / known.sum((0, 1)).clamp(min=1)
        cuts = [0.0, *often.flatten().quantile(torch.linspace(0, 1, thresholds + 1)[:-1]).tolist()]
        masks = [torch.where(often >= cut, 1.0, -1.0) for cut in cuts]
        quality = [self.score(one.expand_as(batch.query_y), batch)["foreground IoU"].mean().item() for one in masks]
        self.mask.copy_(masks[max(range(len(masks)), key=quality.__getitem__)])
        return self

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_: object) -> State:
        self.check_support(support_x, support_y)
        return {"like": support_x.new_zeros(len(support_x))}

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        self.check_queries(query_x, state)
        return self.mask.to(query_x.dtype).expand(*query_x.shape[:2], -1, -1)
