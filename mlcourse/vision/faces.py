"""Recognising people: embeddings of faces that are alike for one person, trained on other people than they meet.

Three ways to train the same network, and the rival that they must beat:

    FacePrototypes   on episodes: each face must be nearest to its person's mean (Snell et al. 2017)
    CosFace          as a classifier of the training people, whose right cosine must win by a margin: s·(cos θ − m)
                     Wang et al., *CosFace: Large Margin Cosine Loss for Deep Face Recognition*, 2018,
                     https://arxiv.org/abs/1801.09414
    ArcFace          the same with the margin on the angle: s·cos(θ + m)
                     Deng et al., *ArcFace: Additive Angular Margin Loss for Deep Face Recognition*, 2019,
                     https://arxiv.org/abs/1801.07698
    fisherfaces      principal components, then linear discriminants; a matrix, found at once
                     Turk & Pentland, *Eigenfaces for Recognition*, 1991, https://doi.org/10.1162/jocn.1991.3.1.71;
                     Belhumeur, Hespanha, Kriegman, *Eigenfaces vs. Fisherfaces*, 1997,
                     https://doi.org/10.1109/34.598228

Two faces are compared by the cosine of their embeddings; what follows from that is told in `verification`.

Measured on ORL, five splits of 20 people to learn from and 20 to test on (`data/results/faces.json`; mean equal error
rate, and over 40 people its 95 % interval): pixels 11.2 %, fisherfaces 9.6 % (7.8 to 11.4), prototypes 9.3 %, CosFace
without a margin 8.2 %, ArcFace 8.0 %, CosFace 7.9 % (6.2 to 9.7), CosFace started from drawn faces 7.4 %, two joined
networks that were chosen on training people 7.2 % (5.3 to 9.1), all nine networks joined, so that nothing is chosen,
6.8 % (5.0 to 8.7). Six of them have 6.6 %, but these were settled when the rates of the single ones were known.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.datasets.images import ClassImages
from mlcourse.episodes import Episode, EpisodeSampler, check_positive, check_seed
from mlcourse.errors import CourseError, CourseWarning, check_number
from mlcourse.learners.base import Learner, State, evaluation_mode, way_of
from mlcourse.learners.building import drawing
from mlcourse.learners.metric import MetricLearner, cosines
from mlcourse.learners.prototypical import PrototypicalNetwork, prototypes
from mlcourse.learners.transfer import check_classes
from mlcourse.networks import Recorded, parts
from mlcourse.networks.conv4 import Block
from mlcourse.statistics import Metric, NoInterval
from mlcourse.training import Images
from mlcourse.vision import verification
from mlcourse.vision.verification import Curve, Pairs, Sure

GROWTH = (1, 2, 4, 4)  # widths of the blocks, as multiples of the first one
ROOM = 1e-6  # of sin² θ: below it the slope of the sine, which has no bound at θ = 0, is that of a straight line
FMRS = (0.1, 0.01)
EER = Metric("equal error rate", better=-1, share=True)


# ------------------------------------------------------------------ the network


def standardised(x: Tensor) -> Tensor:
    """Each picture [images, C, H, W] with mean 0 and spread 1, by itself: how bright it is says nothing of a person."""
    mean, spread = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True, unbiased=False)
    return (x - mean) / (spread + 1e-3)


def edges(x: Tensor, directions: int = 8) -> Tensor:
    """How much grey rises in each of some directions, at each place: [images, C, H, W] → [images, C·directions, H, W].

    Divided by how strong edges are around, so that a face in weak light has the same ones (as in histograms of oriented
    gradients: Dalal & Triggs, 2005, https://doi.org/10.1109/CVPR.2005.177). Nothing in it is learned.
    """
    check_positive("directions", directions)
    wide = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across, down = wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2], wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]
    angles = [2 * math.pi * k / directions for k in range(directions)]
    maps = torch.cat([F.relu(math.cos(angle) * across + math.sin(angle) * down) for angle in angles], 1)
    around = F.avg_pool2d(maps.square().mean(1, keepdim=True), 5, 1, 2, count_include_pad=False).sqrt()
    return maps / (around + 0.1 * around.mean((1, 2, 3), keepdim=True) + 1e-6)


class FaceNet(Recorded):
    """Four blocks of convolution, normalisation, ReLU and max-pooling, then a linear layer: one embedding per face.

    in_channels, size: of the pictures [images, in_channels, H, W], float32 in [0, 1]; size is (H, W).
    channels: of the first block; the others have 2, 4 and 4 times as many. embedding: numbers per face. dropout: the
    share of the maps' numbers that training hides from the linear layer. halvings: how many
    blocks, the first ones, halve the size. directions: of the `edges` that it sees in place of the picture (0: it sees
    the picture).
    """

    def __init__(
        self,
        in_channels: int = 1,
        size: tuple[int, int] = (24, 20),
        channels: int = 24,
        embedding: int = 128,
        normalisation: str = "running",
        dropout: float = 0.2,
        halvings: int = 3,
        directions: int = 0,
    ):
        super().__init__()
        if not 1 <= halvings <= len(GROWTH):
            raise CourseError(f"halvings is {halvings}; of the {len(GROWTH)} blocks 1 to {len(GROWTH)} halve the size")
        if min(size) < 2**halvings:
            raise CourseError(
                f"pictures of {size[0]}×{size[1]} vanish in {halvings} poolings; give larger ones, or fewer halvings"
            )
        self.directions = directions
        widths = [in_channels * (directions or 1), *(channels * factor for factor in GROWTH)]
        kinds = halvings * ["pool"] + (len(GROWTH) - halvings) * ["none"]
        self.blocks = nn.ModuleList(
            Block(a, b, normalisation, kind) for (a, b), kind in zip(pairwise(widths), kinds, strict=True)
        )
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(widths[-1] * (size[0] // 2**halvings) * (size[1] // 2**halvings), embedding)
        self.embedding_size = embedding

    def forward(self, x: Tensor) -> Tensor:
        """[images, in_channels, H, W] → [images, embedding]."""
        return self.last(self.dropout(self.maps(x).flatten(1)))

    def maps(self, x: Tensor) -> Tensor:
        """The last block's maps, [images, channels, H, W], which the last layer sees."""
        x = edges(standardised(x), self.directions) if self.directions else standardised(x)
        for block in self.blocks:
            x = block(x)
        return x


class Trunk(Recorded):
    """A trained FaceNet without its last layer: the embedding is the last block's maps, laid flat.

    The last layer learns what tells the training people apart, and drops the rest, which may tell others apart (seen
    before: Chen et al., *A Simple Framework for Contrastive Learning*, 2020, section 4.2,
    https://arxiv.org/abs/2002.05709).
    """

    def __init__(self, network: FaceNet):
        super().__init__()
        if not isinstance(network, FaceNet):
            raise CourseError(f"a Trunk is of a FaceNet, but this is a {type(network).__name__}; take it as it is")
        self.network = network
        self.embedding_size = network.last.in_features

    def forward(self, x: Tensor) -> Tensor:
        """[images, C, H, W] → [images, numbers of the last maps]."""
        return self.network.maps(x).flatten(1)


class Joined(Recorded):
    """Several encoders side by side: their embeddings, each of length 1, one after another.

    So the cosine of two faces is the mean of the encoders' cosines.
    """

    def __init__(self, networks: list[nn.Module]):
        super().__init__()
        if not networks:
            raise CourseError("there is no encoder to join: give one or more")
        self.networks = nn.ModuleList(networks)
        self.embedding_size = sum(parts.embedding_size(one, "Joined") for one in networks)

    def forward(self, x: Tensor) -> Tensor:
        """[images, C, H, W] → [images, the sum of their sizes]."""
        return torch.cat([F.normalize(parts.embeddings(one, x), dim=-1) for one in self.networks], 1)


# ------------------------------------------------------------------ augmentation


def jitter(images: Tensor, generator: torch.Generator | None = None, strength: float = 1.0) -> Tensor:
    """Faces [images, C, H, W] as other pictures of the same people could be: each changed in its own way.

    Half of them are mirrored. All are tilted (to 10 degrees), moved (8 %), zoomed (10 %), their middle is moved against
    the edges as when a head turns (8 %), light falls from a side (30 %), and from a third of them a box is hidden.
    strength: all of that but mirroring, multiplied; 0: nothing is changed at all. The generator is on the CPU.
    """
    check_number("strength", strength, least=0)
    if strength == 0 or not len(images):
        return images
    n, _, height, width = images.shape

    def drawn(*shape: int) -> Tensor:
        """Even numbers from −strength to strength."""
        return ((2 * torch.rand(n, *shape, generator=generator) - 1) * strength).to(images)

    tilt, zoom = math.radians(10) * drawn(), 1 + 0.1 * drawn()
    mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0).to(images)
    cos, sin = tilt.cos() / zoom, tilt.sin() / zoom
    # grid_sample counts each side from −1 to 1: sides of other lengths turn a tilt into a shear without these factors
    rows = [mirror * cos, -sin * height / width, mirror * sin * width / height, cos]
    turning = torch.stack(rows, 1).view(n, 2, 2)
    moved = torch.cat([turning, 0.16 * drawn(2).unsqueeze(2)], 2)
    grid = F.affine_grid(moved, list(images.shape), align_corners=False)
    grid = grid + 0.16 * drawn(1, 1, 2) * (1 - grid.square()).clamp(min=0)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    y = torch.linspace(-1, 1, height).to(images).view(1, 1, height, 1)
    x = torch.linspace(-1, 1, width).to(images).view(1, 1, 1, width)
    side, above = (0.3 * drawn(1, 1, 1) for _ in range(2))
    images = images * (1 + side * x + above * y)
    return _with_boxes_hidden(images, x, y, generator, min(strength, 1.0) / 3)


def _with_boxes_hidden(images: Tensor, x: Tensor, y: Tensor, generator: torch.Generator | None, share: float) -> Tensor:
    """A box of one grey, about a tenth of the picture, before a share of the faces."""
    n = len(images)
    middle = (1.8 * torch.rand(2, n, 1, 1, 1, generator=generator) - 0.9).to(images)
    half = (0.15 + 0.3 * torch.rand(2, n, 1, 1, 1, generator=generator)).to(images)
    tone, there = torch.rand(2, n, 1, 1, 1, generator=generator).to(images)
    inside = ((x - middle[0]).abs() < half[0]) & ((y - middle[1]).abs() < half[1]) & (there < share)
    return torch.where(inside, tone, images)


class _Augmented(MetricLearner):
    """A learner whose training pictures are changed by `jitter`."""

    augmentation = 0.0

    def augment(self, batch: Any, generator: torch.Generator | None) -> Any:
        if isinstance(batch, Episode):
            return batch.map(lambda name, x: self._jittered(x, generator) if name.endswith("_x") else x)
        return (jitter(batch[0], generator, self.augmentation), *batch[1:])

    def _jittered(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return jitter(x.flatten(0, 1), generator, self.augmentation).unflatten(0, x.shape[:2])


# ------------------------------------------------------------------ prototypes


class FacePrototypes(_Augmented, PrototypicalNetwork):
    """Prototypical networks with cosines, on faces that are changed in training.

    network: an encoder, as of any learner that compares. temperature: where the learned one starts. augmentation: the
    strength of `jitter` (0: none).
    """

    def __init__(self, network: nn.Module, *, temperature: float = 0.1, augmentation: float = 1.0):
        super().__init__(network, distance="cosine", temperature=temperature)
        self.augmentation = augmentation


# ------------------------------------------------------------------ margins


def cosface_logits(cosine: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """s·(cos θ − m) for the right class and s·cos θ for the others: cosine [images, classes], labels [images]."""
    return scale * (cosine - margin * F.one_hot(labels, cosine.shape[1]).to(cosine))


def arcface_logits(cosine: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """s·cos(θ + m) for the right class and s·cos θ for the others: cosine [images, classes], labels [images].

    θ + m may reach beyond π, where the cosine would rise again; from there it is cos θ − m·sin m, which goes on falling
    (as in the authors' code). At cos θ = ±1 the sine's slope has no bound; it is bounded there by 1/√ROOM.
    """
    right = cosine.gather(1, labels.unsqueeze(1))
    square = (1 - right.square()).clamp(min=0)
    root = torch.where(square > ROOM, square, torch.ones_like(square)).sqrt()  # no infinite slope enters the graph
    sine = torch.where(square > ROOM, root, square / math.sqrt(ROOM))
    moved = right * math.cos(margin) - sine * math.sin(margin)
    beyond = right - margin * math.sin(margin)
    moved = torch.where(right > -math.cos(margin), moved, beyond)
    return scale * cosine.scatter(1, labels.unsqueeze(1), moved)


class MarginLearner(_Augmented):
    """A classifier of the training people on the sphere: each has a direction, faces are held against it by cosine.

    After training the directions are of no use: new people come with faces of their own. adapt keeps the mean direction
    of each person's faces, predict compares by s·cos, without a margin.

    network: an encoder that says its `embedding_size`. classes: people to train on. scale: s. margin: m. augmentation:
    the strength of `jitter` (0: none).
    """

    trains_on = "images"

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: int,
        scale: float = 16.0,
        margin: float = 0.2,
        augmentation: float = 1.0,
    ):
        super().__init__(network)
        check_positive("classes", classes)
        check_number("scale", scale, above=0)
        check_number("margin", margin, least=0)
        size = parts.embedding_size(network, type(self).__name__)
        self.directions = nn.Parameter(torch.randn(classes, size) / math.sqrt(size))
        self.scale, self.margin, self.augmentation = scale, margin, augmentation

    @abstractmethod
    def logits(self, cosine: Tensor, labels: Tensor) -> Tensor:
        """Training logits of cosines [images, classes], the margin taken off the right class."""

    def keep(self, z: Tensor, support_y: Tensor) -> State:
        return {"prototypes": prototypes(F.normalize(z, dim=-1), support_y, way_of(support_y))}

    def compare(self, state: State, z: Tensor) -> Tensor:
        return self.scale * cosines(z, state["prototypes"])

    def outer_process(self, batch: tuple[Tensor, Tensor], **_) -> tuple[Tensor, Tensor]:
        """The loss of a batch of (images [n, C, H, W], global classes [n]), and the logits without the margin."""
        x, y = batch
        check_classes(y, len(self.directions))
        cosine = cosines(parts.embeddings(self.network, x).unsqueeze(0), self.directions.unsqueeze(0)).squeeze(0)
        return F.cross_entropy(self.logits(cosine, y), y), self.scale * cosine

    def metrics(self, prediction: Tensor, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
        """The accuracy in training, over all training people."""
        return {"accuracy": (prediction.argmax(-1) == batch[1]).float().mean().item()}


class CosFace(MarginLearner):
    """The margin is taken off the cosine (Wang et al. 2018)."""

    def logits(self, cosine: Tensor, labels: Tensor) -> Tensor:
        return cosface_logits(cosine, labels, self.scale, self.margin)


class ArcFace(MarginLearner):
    """The margin is added to the angle (Deng et al. 2019)."""

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: int,
        scale: float = 16.0,
        margin: float = 0.3,
        augmentation: float = 1.0,
    ):
        super().__init__(network, classes=classes, scale=scale, margin=margin, augmentation=augmentation)
        if margin >= math.pi / 2:
            raise CourseError(f"margin is {margin}, a right angle or more; give radians below {math.pi / 2:.2f}")

    def logits(self, cosine: Tensor, labels: Tensor) -> Tensor:
        return arcface_logits(cosine, labels, self.scale, self.margin)


# ------------------------------------------------------------------ ready to train


@dataclass(frozen=True)
class Recipe:
    """Settings that work. tasks: pictures per step, or episodes. way, shot, query: of the episodes."""

    steps: int
    tasks: int
    rate: float
    way: int = 0
    shot: int = 1
    query: int = 4


METHODS: Mapping[str, type[Learner]] = MappingProxyType(
    {"prototypes": FacePrototypes, "cosface": CosFace, "arcface": ArcFace}
)
RECIPES: Mapping[str, Mapping[str, Recipe]] = MappingProxyType(
    {
        "prototypes": {"smoke": Recipe(3, 1, 1e-3, way=4), "short": Recipe(1500, 1, 2e-3, way=16, query=1)},
        "cosface": {"smoke": Recipe(3, 8, 1e-3), "short": Recipe(1500, 32, 2e-3)},
        "arcface": {"smoke": Recipe(3, 8, 1e-3), "short": Recipe(1500, 32, 2e-3)},
    }
)


def build(method: str, data: ClassImages, *, seed: int = 0, network: Mapping[str, Any] | None = None, **options: Any):
    """A learner of METHODS for these pictures, with a FaceNet of random weights.

    network: options of FaceNet. options: of the learner. Raises CourseError for an unknown method or option.
    """
    if method not in METHODS:
        raise CourseError(f"method {method!r} of faces is unknown: use one of {', '.join(METHODS)}")
    check_seed(seed)
    if METHODS[method].trains_on == "images":
        options = {"classes": data.classes} | options
    try:
        with drawing(seed):
            net = FaceNet(data.shape[0], data.shape[1:], **(network or {}))
            learner = METHODS[method](net, **options)
    except TypeError as error:
        raise CourseError(f"{method} of faces takes other options ({error})") from None
    return learner.to(memory_format=torch.channels_last)


def recipe(method: str, name: str) -> Recipe:
    """The recipe `name` of a method. Raises CourseError when there is none."""
    if method not in RECIPES:
        raise CourseError(f"method {method!r} of faces is unknown: use one of {', '.join(RECIPES)}")
    if name not in RECIPES[method]:
        raise CourseError(f"recipe {name!r} is unknown for {method}; use one of {', '.join(RECIPES[method])}")
    return RECIPES[method][name]


def source(
    learner: Learner, data: ClassImages, recipe: Recipe, *, device: torch.device | str = "cpu"
) -> Images | EpisodeSampler:
    """What `training.train` draws from, for this learner. Tasks take no more people and queries than there are."""
    if learner.trains_on == "images":
        return Images(data, device=device)
    query = max(1, min(recipe.query, int(data.counts.min()) - recipe.shot))
    return EpisodeSampler(data, min(recipe.way, data.classes), recipe.shot, query, device=device)


# ------------------------------------------------------------------ the rival


class Projection(Recorded):
    """A matrix as a network: pictures [images, C, H, W] → standardised, minus a mean, times a matrix → [images, D]."""

    def __init__(self, pixels: int, embedding: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("matrix", torch.zeros(pixels, embedding))
        self.embedding_size = embedding

    def forward(self, x: Tensor) -> Tensor:
        return (standardised(x).flatten(1) - self.mean) @ self.matrix


def pixels(data: ClassImages) -> Projection:
    """Nothing is learned but the mean face: pictures are compared as they are."""
    network = Projection(math.prod(data.shape), math.prod(data.shape))
    network.mean.copy_(_rows(data.images).mean(0))
    network.matrix.copy_(torch.eye(network.embedding_size))
    return network


def eigenfaces(data: ClassImages, components: int) -> Projection:
    """The directions in which faces differ most (Turk & Pentland 1991): principal components, whoever it is."""
    mean, directions = _principal(_rows(data.images), components)
    return _projection(mean, directions)


def fisherfaces(data: ClassImages, components: int, shrinkage: float = 0.0, *, mirrored: bool = False) -> Projection:
    """The directions in which people differ most, measured by how much one person's faces differ.

    Principal components first, so many; in them linear discriminants, one less than people at most (Belhumeur et al.
    1997). shrinkage: from 0 to 1, how much the spread within people is drawn to a ball, since few faces tell little of
    it. mirrored: the faces in the mirror come along, as the same people.
    """
    rows, people = _rows(data.images), _people_of(data)
    if mirrored:
        rows, people = torch.cat([rows, _rows(data.images.flip(-1))]), people.repeat(2)
    mean, directions = _principal(rows, components)
    return _projection(mean, directions @ discriminants((rows - mean) @ directions, people, shrinkage))


def discriminants(rows: Tensor, people: Tensor, shrinkage: float = 0.0) -> Tensor:
    """Fisher's linear discriminants of rows [n, D], people int64 [n]: a matrix float64 [D, d], d < people and d ≤ D.

    Its columns w solve S_between w = λ S_within w, the largest λ first, scaled to wᵀ S_within w = 1. S_within is drawn
    to a ball by `shrinkage`. Raises CourseError where S_within has no inverse.
    """
    check_number("shrinkage", shrinkage, least=0)
    if shrinkage > 1:
        raise CourseError(f"shrinkage is {shrinkage}; give 0 (none) to 1 (a ball)")
    rows = rows.double()
    there, member, counts = people.unique(return_inverse=True, return_counts=True)
    if len(there) < 2:
        raise CourseError("discriminants tell people apart, but there is one only: give two or more")
    means = torch.zeros(len(there), rows.shape[1], dtype=torch.float64).index_add_(0, member, rows)
    means = means / counts.unsqueeze(1)
    apart = rows - means[member]
    within = apart.T @ apart / len(rows)
    ball = torch.eye(len(within), dtype=torch.float64) * within.diagonal().mean()
    within = (1 - shrinkage) * within + shrinkage * ball
    spread, axes = torch.linalg.eigh(within)
    if spread[0] <= 1e-10 * spread[-1]:
        raise CourseError(
            f"the faces do not tell the spread within people in {len(within)} directions: take fewer components, or a "
            "shrinkage above 0"
        )
    whiten = axes / spread.sqrt()
    centred = (means - rows.mean(0)) * (counts / len(rows)).sqrt().unsqueeze(1)
    _, _, found = torch.linalg.svd(centred @ whiten, full_matrices=False)
    return whiten @ found[: min(len(there) - 1, len(within))].T


COMPONENTS = (15, 25, 40, 60, 90, 130)
SHRINKAGES = (0.01, 0.03, 0.1, 0.2, 0.4, 0.7)


def tuned_fisherfaces(data: ClassImages, *, folds: int = 4, seed: int = 0) -> tuple[Projection, dict[str, Any]]:
    """Fisherfaces whose components, shrinkage and mirrored faces are chosen on the training people, and the choice.

    People are dealt out to `folds`; each fold is tested on by what the others gave, and the mean EER decides. (EER
    of faces averaged with their mirror images, as `verify` compares them.)
    """
    check_positive("folds", folds)
    if data.classes < 2 * folds:
        raise CourseError(f"{data.classes} people are too few for {folds} folds of two or more: take fewer folds")
    order = torch.randperm(data.classes, generator=torch.Generator().manual_seed(seed))
    parts_of_all = [order[k::folds] for k in range(folds)]
    found: dict[tuple, list[float]] = {}
    for held in parts_of_all:
        rest = torch.tensor([one for one in range(data.classes) if one not in set(held.tolist())])
        for options, network in _candidates(data.select(rest)):
            found.setdefault(options, []).append(pairs_of(network, data.select(held)).curve().eer().item())
    complete = {options: sum(rates) / folds for options, rates in found.items() if len(rates) == folds}
    components, shrinkage, mirrored = min(complete, key=complete.get)
    chosen = {"components": components, "shrinkage": shrinkage, "mirrored": mirrored}
    return fisherfaces(data, **chosen), chosen | {"eer_in_folds": complete[components, shrinkage, mirrored]}


def _candidates(data: ClassImages):
    """((components, shrinkage, mirrored), network) of all choices; the principal components are found once."""
    for mirrored in (False, True):
        rows, people = _rows(data.images), _people_of(data)
        if mirrored:
            rows, people = torch.cat([rows, _rows(data.images.flip(-1))]), people.repeat(2)
        mean, directions = _principal(rows, min(max(COMPONENTS), len(rows) - 1))
        inside = (rows - mean) @ directions
        for components in (one for one in COMPONENTS if one <= directions.shape[1]):
            for shrinkage in SHRINKAGES:
                matrix = discriminants(inside[:, :components], people, shrinkage)
                yield (components, shrinkage, mirrored), _projection(mean, directions[:, :components] @ matrix)


def _rows(images: Tensor) -> Tensor:
    """uint8 [n, C, H, W] as standardised rows, float64 [n, C·H·W]."""
    return standardised(images.double() / 255).flatten(1)


def _people_of(data: ClassImages) -> Tensor:
    return torch.arange(data.classes).repeat_interleave(data.counts)


def _principal(rows: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """The mean row, and the first principal directions [D, components]."""
    check_positive("components", components)
    if components > min(len(rows) - 1, rows.shape[1]):
        raise CourseError(
            f"components is {components}, but {len(rows)} faces of {rows.shape[1]} pixels differ in "
            f"{min(len(rows) - 1, rows.shape[1])} directions at most: give fewer"
        )
    mean = rows.mean(0)
    _, _, directions = torch.linalg.svd(rows - mean, full_matrices=False)
    return mean, directions[:components].T


def _projection(mean: Tensor, matrix: Tensor) -> Projection:
    network = Projection(*matrix.shape)
    network.mean.copy_(mean)
    network.matrix.copy_(matrix)
    return network


# ------------------------------------------------------------------ verification


@torch.no_grad()
def embed(model: nn.Module, images: Tensor, *, mirrored: bool = True, at_once: int = 500) -> Tensor:
    """Embeddings of length 1 of faces uint8 [n, C, H, W]: float32 [n, D] on the CPU.

    model: a learner that compares, or an encoder. mirrored: the mean of a face and its mirror image, each of length 1.
    Raises CourseError for pictures that are not uint8 [n, C, H, W].
    """
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise CourseError(f"faces are {images.dtype} {tuple(images.shape)}; give uint8 [n, C, H, W]")
    network = model.network if isinstance(model, MetricLearner) else model
    home = next(iter([*network.parameters(), *network.buffers()]), images)
    found = []
    with evaluation_mode(network):
        for some in images.split(at_once):
            x = some.to(home.device).to(home.dtype) / 255
            z = F.normalize(parts.embeddings(network, x), dim=-1)
            if mirrored:
                z = F.normalize(z + F.normalize(parts.embeddings(network, x.flip(-1)), dim=-1), dim=-1)
            found.append(z.float().cpu())
    return torch.cat(found)


def pairs_of(model: nn.Module, data: ClassImages, *, mirrored: bool = True) -> Pairs:
    """Each face of `data` with each other one; people are the classes of `data`."""
    return verification.all_pairs(embed(model, data.images, mirrored=mirrored), _people_of(data))


@dataclass(frozen=True)
class Verified:
    """How well people are told apart who were not learned from.

    eer: the equal error rate, a footnote. fnmr: FMR → the FNMR there, with its interval over people. Where the people
    are too few for a number, the line that says so. chosen: FMR → (threshold, FMR, FNMR) with the threshold that gives
    this FMR on *other* people ({}: there were none).
    """

    people: int
    faces: int
    eer: Sure | str
    fnmr: dict[float, Sure | str]
    chosen: dict[float, tuple[float, float, float]]
    value: float  # the equal error rate, for a validation
    metric = EER

    def as_json(self) -> dict[str, Any]:
        """For files of results."""
        told = {"people": self.people, "faces": self.faces, "eer": _json(self.eer)}
        told["fnmr_at_fmr"] = {f"{fmr:g}": _json(one) for fmr, one in self.fnmr.items()}
        names = ("threshold", "fmr", "fnmr")
        told["threshold_of_others"] = {
            f"{fmr:g}": dict(zip(names, one, strict=True)) for fmr, one in self.chosen.items()
        }
        return told


def _json(one: Sure | str) -> dict[str, float] | str:
    return one if isinstance(one, str) else {"value": one.value, "ci95": [one.lower, one.upper]}


def verify(
    model: nn.Module,
    data: ClassImages,
    *,
    others: ClassImages | None = None,
    mirrored: bool = True,
    fmrs: tuple[float, ...] = FMRS,
    draws: int = 1000,
    seed: int = 0,
) -> Verified:
    """Verification of all pairs of faces of `data`. others: people to choose thresholds on; none is in `data`.

    A person with one face makes no genuine pair, and is left out, with a CourseWarning. Raises CourseError where a
    person of `data` is one of the others, and where there is no pair of some kind.
    """
    if others is not None and (both := sorted(set(data.names) & set(others.names))):
        raise CourseError(f"{both[0]!r} is among the people to test on and to choose thresholds on: keep them apart")
    data, alone = data.with_at_least(2)
    if alone:
        message = f"{len(alone)} people of {data.name} with one face are left out, such as {alone[0]!r}: add faces"
        warnings.warn(message, CourseWarning, stacklevel=2)
    pairs = pairs_of(model, data, mirrored=mirrored)
    curve = pairs.curve()
    chosen = {}
    if others is not None:
        of_others = pairs_of(model, others, mirrored=mirrored).curve()
        for fmr in fmrs:
            threshold = of_others.threshold_at(fmr)
            chosen[fmr] = (threshold, *(rate.item() for rate in curve.point(threshold)))
    return Verified(
        people=data.classes,
        faces=len(data.images),
        eer=_told(pairs, Curve.eer, draws, seed),
        fnmr={fmr: _fnmr(pairs, data.classes, fmr, draws, seed) for fmr in fmrs},
        chosen=chosen,
        value=curve.eer().item(),
    )


def _fnmr(pairs: Pairs, people: int, fmr: float, draws: int, seed: int) -> Sure | str:
    try:
        verification.check_fmr(fmr, people)
    except NoInterval as line:
        return str(line)
    return _told(pairs, lambda curve: curve.fnmr_at(fmr), draws, seed)


def _told(pairs: Pairs, statistic: verification.Statistic, draws: int, seed: int) -> Sure | str:
    try:
        return verification.over_people(pairs, statistic, draws=draws, seed=seed)
    except NoInterval as line:
        return str(line)


@dataclass(frozen=True)
class Verification:
    """The evaluator for `training.train(validation=…)`: the equal error rate on people of its own."""

    data: ClassImages
    mirrored: bool = False

    def evaluate(self, learner: nn.Module) -> Verified:
        return verify(learner, self.data, mirrored=self.mirrored, fmrs=(), draws=2)
