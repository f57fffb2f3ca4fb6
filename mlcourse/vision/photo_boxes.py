"""Few-shot detection in photos: boxes that know no class, and a frozen network that says what is in them.

Three steps, of which only the first one and the rival are trained:

1. **Boxes.** `BoxHead`, a small head of convolutions on the maps of a frozen network, learns from the boxes of the
   known classes, all alike, where *something* of this kind is (anchor-free, of one level: Tian et al., *FCOS*, 2019,
   https://arxiv.org/abs/1904.01355). It never hears of a class, so it may find new ones, too: those that look alike.
2. **Features.** Each box is cut out, and the frozen network turns the cutting into a list of numbers (`embeddings`).
3. **Classes.** Each class has a prototype, the mean direction of the features of its examples; the share of a class is
   the softmax of the cosines (`prototype_shares`). One example, or three, or ten, make a new class.

The rival of step 3 is `FineTuned`: two layers that learned to name the known classes, whose last one then learns the
new ones (Wang et al., *Frustratingly Simple Few-Shot Object Detection*, 2020, https://arxiv.org/abs/2003.06957).

The score of a box for a class is the probability that something is there, times the share of the class (`by_class`).
Measured on photos of playing cards: `data/results/detection_photos.json`, by `data/make_detection_photos.py`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss, roi_align, sigmoid_focal_loss

from mlcourse.datasets.boxes import Boxes
from mlcourse.episodes import check_positive
from mlcourse.errors import CourseError, check_number
from mlcourse.learners.building import drawing
from mlcourse.networks.detector import middles
from mlcourse.networks.pretrained import Backbone
from mlcourse.networks.recorded import Recorded
from mlcourse.vision.precision import Detections

STRIDE = 16  # pixels of the photo that a place of the maps is wide
SIDE = 128  # pixels of a box that was cut out
GREY = 127  # around photos that are smaller than the canvas: what the frozen network takes for 0
WIDTHS = (64, 128)  # of the head, and of the rival's first layer

# ------------------------------------------------------------------ photos


def canvas(data: Boxes, photos: Sequence[int], side: int) -> Tensor:
    """Photos in the upper left corner of squares of one grey: uint8 [photos, 3, side, side], pixels as they are.

    Raises CourseError for a photo that is larger than the square, and for one with boxes set aside, which the scores of
    this room cannot ignore.
    """
    check_positive("side", side)
    made = torch.full((len(photos), 3, side, side), GREY, dtype=torch.uint8)
    for place, index in enumerate(photos):
        height, width = data.sizes[index]
        if max(height, width) > side:
            raise CourseError(
                f"{data.files[index]} has {width}×{height} pixels, more than the canvas of {side}×{side}: give a "
                "larger side, or smaller photos"
            )
        if data.aside[index].any():
            raise CourseError(
                f"{data.files[index]} has boxes that a score shall ignore (crowds, difficult ones), and here none can "
                "be: leave the photo out"
            )
        made[place, :, :height, :width] = data.image(index)
    return made


def padded_boxes(boxes: Sequence[Tensor]) -> Tensor:
    """The boxes of each photo as one tensor [photos, most, 4]; rows of nan fill up."""
    most = max((len(one) for one in boxes), default=0)
    rows = [F.pad(one, (0, 0, 0, most - len(one)), value=float("nan")) for one in boxes]
    return torch.stack(rows) if rows else torch.empty(0, 0, 4)


# ------------------------------------------------------------------ boxes that know no class


class BoxHead(Recorded):
    """Maps of a frozen network [photos, channels, h, w] → of each place whether something has its middle there, and
    its box.

    width: channels inside. stride: pixels of the photo that a place of the maps is wide. spread: the standard
    deviation of the maps, by which they are divided.
    """

    def __init__(self, channels: int, width: int = WIDTHS[0], stride: int = STRIDE, spread: float = 1.0):
        super().__init__()
        check_number("spread", spread, above=0)
        self.stride, self.spread = stride, spread
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
        )
        self.last = nn.Conv2d(width, 5, 1)
        nn.init.zeros_(self.last.weight)
        with torch.no_grad():  # at first: nothing is anywhere (1 in 100), and edges are three places away
            self.last.bias.copy_(torch.tensor([-4.6, 1.1, 1.1, 1.1, 1.1]))

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Logits that something has its middle here [photos, h, w], and its box in pixels [photos, h, w, 4]."""
        there, *edges = self.last(self.body(maps / self.spread)).unbind(1)
        away = self.stride * torch.stack(edges, 3).clamp(max=4.0).exp()  # left, top, right, bottom
        centres = middles(*there.shape[1:], like=away, stride=self.stride)
        return there, torch.cat([centres - away[..., :2], centres + away[..., 2:]], 3)

    def loss(self, maps: Tensor, truth: Tensor) -> Tensor:
        """Focal loss of the middles, and 1 − generalised IoU of the boxes there. truth: [photos, objects, 4], nan fills
        up. A place is at a middle where it lies less than a stride away, across and down."""
        there, boxes = self(maps)
        centre = ((truth[..., :2] + truth[..., 2:]) / 2)[..., None, None, :]
        at = ((middles(*there.shape[1:], like=truth, stride=self.stride) - centre).abs() < self.stride).all(-1)
        number = (at * torch.arange(1, at.shape[1] + 1).view(1, -1, 1, 1)).amax(1)  # of two the later one
        some = number > 0
        photo, row, column = some.nonzero(as_tuple=True)
        aims = truth[photo, number[some] - 1]
        count = max(1, len(aims))
        focal = sigmoid_focal_loss(there, some.to(there.dtype), alpha=-1, reduction="sum") / count
        return focal + generalized_box_iou_loss(boxes[photo, row, column], aims, reduction="sum") / count

    @torch.no_grad()
    def found(self, maps: Tensor, sizes: Sequence[tuple[int, int]], *, most: int = 10) -> list[Detections]:
        """The best boxes of each photo after non-maximum suppression; scores are probabilities.

        sizes: (height, width) of each photo, to which its boxes are cut.
        """
        check_positive("most", most)
        there, boxes = self(maps)
        kept = []
        for logits, some, (height, width) in zip(there.flatten(1), boxes.flatten(1, 2), sizes, strict=True):
            cut = torch.minimum(some.clamp_min(0), some.new_tensor([width, height, width, height]))
            whole = ((cut[:, 2:] - cut[:, :2]) >= 1).all(1)
            one = Detections.suppressed(cut[whole], logits[whole].sigmoid())
            kept.append(Detections(one.boxes[:most], one.scores[:most]))
        return kept


def trained_head(
    maps: Tensor, boxes: Sequence[Tensor], *, steps: int = 600, photos: int = 8, rate: float = 2e-3, seed: int = 0
) -> BoxHead:
    """A head that learned from photos' maps [n, channels, h, w] and the boxes of each, whatever their classes.

    steps of so many photos each, by Adam, whose rate falls to 0 as a cosine does. Raises CourseError where no photo has
    a box.
    """
    check_positive("steps", steps)
    check_positive("photos", photos)
    check_number("rate", rate, above=0)
    truth = padded_boxes(boxes)
    if len(maps) != len(boxes) or not truth.numel():
        raise CourseError(f"there are maps of {len(maps)} photos and boxes of {len(boxes)}; give as many, and some box")
    with drawing(seed):
        head = BoxHead(maps.shape[1], spread=float(maps.std()))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(head.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        some = torch.randint(len(maps), (photos,), generator=generator)
        optimizer.zero_grad()
        head.loss(maps[some], truth[some]).backward()
        optimizer.step()
        schedule.step()
    return head.eval()


# ------------------------------------------------------------------ what is in a box


@torch.no_grad()
def embeddings(network: Backbone, photos: Tensor, boxes: Sequence[Tensor], *, side: int = SIDE) -> list[Tensor]:
    """What the frozen network makes of each box: of each photo float [boxes, D].

    photos: uint8 [n, 3, H, W]. boxes: of each photo [k, 4]; each is cut out and stretched to side×side pixels.
    """
    if photos.dtype != torch.uint8 or len(photos) != len(boxes):
        raise CourseError(
            f"there are {len(photos)} photos of {photos.dtype} and boxes of {len(boxes)}; give uint8 photos, as many"
        )
    rows = []
    for photo, some in zip(photos, boxes):
        x = roi_align(photo[None].float() / 255, [some.float()], side, sampling_ratio=2, aligned=True)
        rows.append(network.embed(x) if len(some) else x.new_zeros(0, 1))
    wide = max((row.shape[1] for row in rows), default=1)
    return [row if len(row) else row.new_zeros(0, wide) for row in rows]


def prototype_shares(z: Tensor, examples: Sequence[Tensor], *, centre: Tensor, temperature: float = 0.1) -> Tensor:
    """The share of each class, softmax of cosines over a temperature: [n, classes].

    z: features [n, D]. examples: of each class [shot, D], one or more. centre: [D], the mean feature of known things,
    which is taken off everywhere: what all of them share says nothing of a class.
    """
    check_number("temperature", temperature, above=0)
    _check_examples([*examples, *([z] if len(z) else []), centre])
    means = torch.stack([F.normalize(F.normalize(one - centre, dim=1).mean(0), dim=0) for one in examples])
    return (F.normalize(z - centre, dim=1) @ means.T / temperature).softmax(1)


def _check_examples(examples: Sequence[Tensor]) -> None:
    bare = [place for place, one in enumerate(examples) if not len(one)]
    if bare:
        raise CourseError(f"class {bare[0]} (counted from 0) has no example, so nothing says what it is: give one")
    if wrong := sum(int((~one.isfinite()).sum()) for one in examples):
        raise CourseError(
            f"features of boxes are nan or infinite in {wrong} places; look at the photos and the network"
        )


class FineTuned(Recorded):
    """The rival: it names the known classes by two layers on the frozen features; the last one then learns new ones.

    Both layers learn from all boxes of the known classes. To `tune` it, the last layer alone learns from the examples
    of all classes, old and new, as many of each; it begins with the old weights, and for a new class with the mean of
    its examples. The logits are SHARPNESS times cosines.

    channels: of the frozen features. classes: how many are known.
    """

    def __init__(self, channels: int, classes: int, width: int = WIDTHS[1]):
        super().__init__()
        check_positive("classes", classes)
        self.body = nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width))
        self.known = nn.Parameter(torch.randn(classes, width) / width**0.5)

    def forward(self, z: Tensor) -> Tensor:
        """Directions of unit length [n, width] of features [n, channels]."""
        return F.normalize(self.body(z), dim=1)

    def tune(self, examples: Sequence[Tensor], known: Sequence[int], *, steps: int = 50, rate: float = 0.01) -> Tensor:
        """The last layer for all classes, [classes, width].

        examples: of each class [shot, channels]. known: of each class its place among the known ones; below 0: new.
        """
        _check_examples(examples)
        with torch.no_grad():
            z = [self(one) for one in examples]
            begin = [self.known[old] if old >= 0 else one.mean(0) for old, one in zip(known, z, strict=True)]
            aims = torch.cat([torch.full((len(one),), place) for place, one in enumerate(z)])
            weight = F.normalize(torch.stack(begin), dim=1)
        weight.requires_grad_()
        optimizer = torch.optim.Adam([weight], rate)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(named(torch.cat(z), weight), aims).backward()
            optimizer.step()
        return weight.detach()

    @torch.no_grad()
    def shares(self, z: Tensor, weight: Tensor) -> Tensor:
        """The share of each class by a last layer that `tune` gave: [n, classes]."""
        return named(self(z), weight).softmax(1)


SHARPNESS = 20.0  # it multiplies cosines


def named(z: Tensor, weight: Tensor) -> Tensor:
    """Logits [n, classes] of directions [n, width] by weights [classes, width]."""
    return SHARPNESS * z @ F.normalize(weight, dim=1).T


def trained_rival(
    z: Tensor, classes: Tensor, *, steps: int = 300, boxes: int = 32, rate: float = 1e-3, seed: int = 0
) -> FineTuned:
    """A `FineTuned` that learned to name the known classes: features [n, D], classes int64 [n], from 0 without gaps."""
    check_positive("steps", steps)
    check_positive("boxes", boxes)
    with drawing(seed):
        rival = FineTuned(z.shape[1], int(classes.max()) + 1)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(rival.parameters(), rate)
    for _ in range(steps):
        some = torch.randint(len(z), (boxes,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(named(rival(z[some]), rival.known), classes[some]).backward()
        optimizer.step()
    return rival.eval()


# ------------------------------------------------------------------ both together


def by_class(found: Sequence[Detections], shares: Sequence[Tensor]) -> list[list[Detections]]:
    """Of each class the detections of each photo: scores are those of the boxes times the share of the class.

    found: of each photo. shares: of each photo [boxes, classes].
    """
    if len(found) != len(shares) or any(len(one) != len(some) for one, some in zip(found, shares)):
        raise CourseError("boxes and shares are of other photos, or of other numbers of boxes: give a row for each box")
    classes = shares[0].shape[1] if shares else 0
    made: list[list[Detections]] = [[] for _ in range(classes)]
    for one, some in zip(found, shares):
        for place, row in enumerate(made):
            scores = one.scores * some[:, place]
            order = scores.argsort(descending=True, stable=True)
            row.append(Detections(one.boxes[order], scores[order]))
    return made
