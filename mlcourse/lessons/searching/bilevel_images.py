"""The two bilevel problems of notebook 09, on pictures of characters, small enough to solve hundreds of times.

    three_knobs        λ: learning rate, weight decay and strength of the augmentation, as logarithms
    weighted_examples  λ: one weight for each training example, some of which carry a wrong label

Both are a linear classifier φ [features, way], trained from 0 by T steps of gradient descent on the training images;
the outer loss is the cross-entropy on validation images. `mlcourse.meta_gradients.hypergradients` differentiates
them; a search only needs `solve` and the outer loss.

Franceschi, Frasconi, Salzo, Grazzi, Pontil, *Bilevel Programming for Hyperparameter Optimization and Meta-Learning*,
2018, https://arxiv.org/abs/1806.04910; Ren, Zeng, Yang, Urtasun, *Learning to Reweight Examples for Robust Deep
Learning*, 2018, https://arxiv.org/abs/1803.09050.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mlcourse import inner
from mlcourse.datasets import ClassImages
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.meta_gradients.hypergradients import Bilevel, Tensors

F64 = torch.float64


@dataclass(frozen=True)
class Split:
    """One classification task in three parts that share no image. x: [n, 1, size, size], ink 1, float64; y: [n]."""

    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor
    test_x: Tensor
    test_y: Tensor
    way: int


def draw(
    data: ClassImages,
    generator: torch.Generator,
    *,
    way: int = 10,
    train: int = 10,
    val: int = 5,
    test: int = 5,
    size: int | None = None,
) -> Split:
    """`way` random classes, and for each of them `train`, `val` and `test` images, averaged over colours.

    size: pixels to shrink the images to; None keeps them. Raises CourseError when there are too few classes or images.
    """
    sampler = EpisodeSampler(data, way=way, shot=train + val, query=test)
    episode = sampler.sample(1, generator)

    def small(images: Tensor) -> Tensor:
        grey = images.mean(1, keepdim=True).double().cpu()
        return grey if size is None else F.adaptive_avg_pool2d(grey, size)

    x, y = small(episode.support_x[0]), episode.support_y[0].cpu()
    # the first `train` images of each class are for training, wherever they stand
    place = torch.stack([(y[:k] == y[k]).sum() for k in range(len(y))])
    early, late = place < train, place >= train
    queries, labels = small(episode.query_x[0]), episode.query_y[0].cpu()
    return Split(x[early], y[early], x[late], y[late], queries, labels, way)


def fewer(split: Split, val: int) -> Split:
    """The same task with only the first `val` validation images of each class; training and test images stay.

    Raises CourseError when a class has fewer.
    """
    y = split.val_y
    place = torch.stack([(y[:k] == y[k]).sum() for k in range(len(y))])
    have = int(y.bincount(minlength=split.way).min())
    if not 1 <= val <= have:
        raise CourseError(f"val is {val}, but each class has {have} validation images; give 1 to {have}")
    return replace(split, val_x=split.val_x[place < val], val_y=y[place < val])


def spoil(labels: Tensor, share: float, way: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Give a share of the labels [n] another class at random. Returns the labels [n], and bool [n]: which are wrong."""
    if not 0 <= share <= 1:
        raise CourseError(f"share is {share}; give the part of the labels that becomes wrong, from 0 to 1")
    wrong = torch.zeros(len(labels), dtype=torch.bool)
    wrong[torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]] = True
    other = (labels + torch.randint(1, way, labels.shape, generator=generator)) % way
    return torch.where(wrong, other, labels), wrong


# ------------------------------------------------------------------ the problems


def three_knobs(split: Split, generator: torch.Generator, *, copies: int = 2) -> Bilevel:
    """λ: `rate`, `decay`, `jitter`, each the logarithm of its value.

    jitter: the standard deviation, in pixels, by which `copies` copies of each training
    image are moved. The directions are drawn once: so the inner loss is a smooth function
    of λ. The inner loss is multiplied by the learning rate, and takes steps of rate 1: the
    same steps, but the learning rate stands where a hypergradient sees it.
    """
    images, labels = split.train_x.repeat(copies, 1, 1, 1), split.train_y.repeat(copies)
    directions = torch.randn(len(images), 2, generator=generator, dtype=F64)
    val_x = split.val_x.flatten(1)

    def inner_loss(phi: Tensor, lam: Tensors) -> Tensor:
        x = moved(images, lam["jitter"].exp() * directions).flatten(1)
        penalty = 0.5 * lam["decay"].exp() * phi.square().sum()
        return lam["rate"].exp() * (F.cross_entropy(x @ phi, labels) + penalty)

    def outer_loss(phi: Tensor, lam: Tensors) -> Tensor:
        return F.cross_entropy(val_x @ phi, split.val_y)

    shape = val_x.shape[1], split.way
    return Bilevel(lambda lam: torch.zeros(shape, dtype=F64), inner_loss, outer_loss)


def moved(images: Tensor, pixels: Tensor) -> Tensor:
    """Images [n, 1, S, S] moved by `pixels` [n, 2] (right, down; fractions allowed), paper coming in at the edge."""
    size = images.shape[-1]
    turn = torch.eye(2, dtype=images.dtype).expand(len(images), 2, 2)
    grid = torch.cat([turn, (-2 / size * pixels).unsqueeze(2)], 2)  # the grid reads where a pixel comes from
    grid = F.affine_grid(grid, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def weighted_examples(
    train_x: Tensor,
    train_y: Tensor,
    val_x: Tensor,
    val_y: Tensor,
    *,
    way: int,
    decay: float = 1e-3,
) -> Bilevel:
    """λ [n]: the weight of training example i is σ(λ_i), from 0 to 1.

    λ = 0 is ordinary training: 2 σ(0) = 1.
    train_x [n, features], val_x [m, features]; labels [n] and [m].
    """

    def inner_loss(phi: Tensor, lam: Tensor) -> Tensor:
        losses = F.cross_entropy(train_x @ phi, train_y, reduction="none")
        return 2 * (torch.sigmoid(lam) * losses).mean() + 0.5 * decay * phi.square().sum()

    def outer_loss(phi: Tensor, lam: Tensor) -> Tensor:
        return F.cross_entropy(val_x @ phi, val_y)

    shape = train_x.shape[1], way
    return Bilevel(lambda lam: torch.zeros(shape, dtype=F64), inner_loss, outer_loss)


def solve(problem: Bilevel, lam: Tensors, *, steps: int, rate: float) -> Tensor:
    """φ_T after T steps of gradient descent on the inner loss, without a graph: T gradient evaluations."""
    start = {"phi": problem.init(lam).detach().requires_grad_()}
    return inner.descend(lambda fast: problem.inner_loss(fast["phi"], lam), start, steps, rate, create_graph=False)[
        "phi"
    ]


# ------------------------------------------------------------------ measures


def accuracy(phi: Tensor, x: Tensor, y: Tensor) -> float:
    """The share of images whose highest score is their class. Raises CourseError where a score is not finite."""
    scores = x.flatten(1) @ phi
    _check_finite(scores)
    return (scores.argmax(1) == y).double().mean().item()


def auc(scores: Tensor, positive: Tensor) -> float:
    """The chance that a random positive example has a higher score than a random other one (ties count half).

    It is the area under the ROC curve: 0.5 for scores that know nothing, 1 for a perfect order. positive: bool [n],
    with both kinds. Hanley, McNeil, *The Meaning and Use of the Area under a ROC Curve*, 1982,
    https://doi.org/10.1148/radiology.143.1.7063747.
    """
    if positive.all() or not positive.any():
        raise CourseError("the area under the ROC curve compares two kinds of examples; there is only one here")
    _check_finite(scores)
    high, low = scores[positive][:, None], scores[~positive]
    return ((high > low).double() + 0.5 * (high == low).double()).mean().item()


def _check_finite(scores: Tensor) -> None:
    if not scores.isfinite().all():
        raise CourseError("a score is not finite, so there is no order; take a smaller rate")
