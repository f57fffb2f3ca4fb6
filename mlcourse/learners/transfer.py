"""Transfer learning: train a network on many classes at once, then fit a new head, or all of it, to the support set.

Yosinski et al., *How transferable are features in deep neural networks?*, 2014, https://arxiv.org/abs/1411.1792;
as a few-shot baseline: Chen et al., *A Closer Look at Few-shot Classification*, 2019, https://arxiv.org/abs/1904.04232.
The method `fine-tune` is the bottom of such a comparison: nothing was trained before. (The Baseline of Chen et al. is
trained on all base classes first, so their figures are none of this method.)

`PretrainedBody` is that and more: it learns to tell all training classes apart, as any classifier does, and then fits a
new head to each task, on features of a body that stays as it is. What the head is makes the method:

    simpleshot         nearest mean of features that were centred and brought to length 1     Wang et al. 2019
    rfs                logistic regression on features of length 1                            Tian et al. 2020
    pretrained-ridge   ridge regression on features of length 1
    baseline++         a cosine classifier, before and after; after by descent                Chen et al. 2019
    meta-baseline      cosine prototypes, meta-trained from the body of a pre-trained run     Chen et al. 2021

Nothing of the first four is meta-learned: no training step has seen a task.
"""

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse import inner
from mlcourse.errors import CourseError, check_number
from mlcourse.learners.base import Learner, State, answer_each, evaluation_mode, way_of
from mlcourse.learners.maml import norms_of
from mlcourse.learners.methods import Paper, Recipe, register
from mlcourse.learners.metric import MetricLearner, cosines, members
from mlcourse.learners.prototypical import (
    ENCODER,
    PrototypicalNetwork,
    prototypes,
    recipes_of_encoders,
    squared_distances,
)
from mlcourse.learners.ridge import ridge
from mlcourse.learners.saving import load
from mlcourse.networks import normalisation_of, parts

CLASSIFIERS = ("linear", "cosine")
HEADS = ("centroid", "logistic", "ridge", "cosine")
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # that `choose_rate` tries
MOST_STEPS = 5000  # of logistic regression


class FineTune(Learner):
    """Gradient descent on the support set, from pre-trained weights or from random ones ("from scratch").

    network: any module without a head that says its `embedding_size`; with `support` normalisation it is called as
    `network(x, reference)`. classes: how many classes pre-training tells apart (None: no pre-training). A new task gets
    a new head, zero at first. inner_steps, rate: of the descent. head_only: the network stays frozen and only the head
    is fitted, on features that are computed once.
    """

    trains_on = "images"
    renamed = MappingProxyType({"steps": "inner_steps"})

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: int | None = None,
        inner_steps: int = 50,
        rate: float = 0.1,
        head_only: bool = False,
    ):
        super().__init__()
        self.network = network
        parts.check_ready(network)
        self.size = parts.embedding_size(network, "FineTune")
        if not head_only and any(name.startswith("head.") for name in inner.parameters(network)):
            raise CourseError("FineTune fits a head of its own, but the network has one, too; make it nn.Identity()")
        self.classifier = None if classes is None else nn.Linear(self.size, classes)
        self.inner_steps, self.rate, self.head_only = inner_steps, rate, head_only
        self.normalisation = normalisation_of(network)
        if self.normalisation == "support" and not parts.takes_reference(network):
            raise CourseError("normalisation 'support' needs a network that is called as network(x, reference)")

    def call(self, params: inner.Parameters, x: Tensor, reference: int | None = None) -> Tensor:
        """Logits of one task: the network with its parameters, in evaluation mode, then the task's own linear head."""
        body = {name: value for name, value in params.items() if not name.startswith("head.")}
        return self.head(params, self.features(x, reference, body))

    def features(self, x: Tensor, reference: int | None = None, body: inner.Parameters | None = None) -> Tensor:
        """What the head sees of images x [images, C, H, W], [images, D]. body: weights in place of the network's."""
        arguments = (x,) if reference is None else (x, reference)
        with evaluation_mode(self.network):  # `running` statistics are of pre-training: no task changes them
            if not body:
                return parts.embeddings(self.network, *arguments)
            return parts.embeddings(lambda *given: inner.call(self.network, body, *given), *arguments)

    @staticmethod
    def head(params: inner.Parameters, features: Tensor) -> Tensor:
        """Logits of features [images, D]."""
        return F.linear(features, params["head.weight"], params["head.bias"])

    def inner_process(self, support_x: Tensor, support_y: Tensor, inner_steps=None, **_) -> State:
        steps = self.inner_steps if inner_steps is None else inner_steps
        way = way_of(support_y)
        head = {
            "head.weight": support_x.new_zeros(way, self.size, requires_grad=True),
            "head.bias": support_x.new_zeros(way, requires_grad=True),
        }
        # Without a graph: nothing outside asks for a gradient, this is not meta-learning.
        settings = {"steps": steps, "rate": self.rate, "create_graph": False}
        if self.head_only:
            return {"fast": self.fit_heads(head, support_x, support_y, settings), "support_x": support_x}
        start = inner.parameters(self.network) | head
        tasks = zip(support_x, support_y, strict=True)
        return {"fast": [inner.adapt(self.call, start, x, y, **settings) for x, y in tasks], "support_x": support_x}

    def fit_heads(self, head: inner.Parameters, support_x: Tensor, support_y: Tensor, settings: dict) -> list:
        """The heads of all tasks, side by side, on the features of a frozen network: the parameters of each."""
        with torch.no_grad():
            z = torch.stack([self.features(x) for x in support_x])
        start = {name: value.expand(len(z), *value.shape) for name, value in head.items()}
        fast = inner.adapt(_heads, start, z, support_y, loss=_summed, **settings)
        return [{name: value[task] for name, value in fast.items()} for task in range(len(z))]

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        return answer_each(self.call, state["fast"], state, query_x, self.normalisation)

    def outer_process(self, batch: tuple[Tensor, Tensor], **_) -> tuple[Tensor, Tensor]:
        """Pre-training: ordinary classification of a batch of (images [n, C, H, W], global classes [n])."""
        x, y = batch
        logits = self.classifier(parts.embeddings(self.network, x))
        return F.cross_entropy(logits, y), logits

    def metrics(self, prediction: Tensor, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
        """The accuracy in pre-training, over all its classes."""
        return {"accuracy": (prediction.argmax(-1) == batch[1]).float().mean().item()}


def _heads(params: inner.Parameters, z: Tensor) -> Tensor:
    """Logits [tasks, images, way] of features [tasks, images, D], each task by its own head."""
    return torch.baddbmm(params["head.bias"].unsqueeze(1), z, params["head.weight"].transpose(1, 2))


def _summed(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum over tasks of each one's mean cross-entropy: so each head gets its own gradient."""
    return len(labels) * F.cross_entropy(logits.flatten(0, 1), labels.flatten())


# ------------------------------------------------------------------ a body that is trained first, and a new head


class CosineClassifier(nn.Module):
    """Logits scale · cos(z, w_k), with a learned vector w_k for each class (Chen et al. 2019, Baseline++)."""

    def __init__(self, size: int, classes: int, scale: float):
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(classes, size) / size**0.5), scale

    def forward(self, z: Tensor) -> Tensor:
        """[images, D] → [images, classes]."""
        return self.scale * F.normalize(z, dim=-1) @ F.normalize(self.weight, dim=-1).T


class PretrainedBody(MetricLearner):
    """A network that learned to tell all training classes apart; a task gets a new head on its features.

    network: an encoder without a head that says its `embedding_size`; its normalisation is running, group or none.
    classes: how many classes pre-training tells apart (None: the network is taken as it is, there is no pre-training).
    classifier: of pre-training, "linear" or "cosine". head: of a task, fitted to the support set alone,

        "centroid"  −scale · ‖z − mean of the class‖²                      (Wang et al., *SimpleShot*, 2019)
        "logistic"  logistic regression: ½ λ‖W‖² + Σ cross-entropy         (Tian et al., *Rethinking Few-Shot …*, 2020)
        "ridge"     scale · zW, with W of ridge regression                 (learners/ridge.py)
        "cosine"    scale · cos(z, w_k), by `inner_steps` of descent from the means of the classes, at the inner `rate`
                    (Chen et al., *A Closer Look …*, 2019; they start at random). `choose_rate` validates the rate.

    z are features of length 1. centred: the mean of the training images' features is taken off before (None: for
    "centroid" only, as SimpleShot does). That mean is followed during pre-training; `centre_on` computes it exactly;
    before either it is 0. strength: λ, of "logistic" (scikit-learn's 1/C) and "ridge". scale: it changes how sure an
    answer is, and of "cosine" also the descent.
    Raises CourseError for what is none of these, and for settings that are not above 0.
    """

    trains_on = "images"

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: int | None = None,
        classifier: str = "linear",
        head: str = "centroid",
        centred: bool | None = None,
        strength: float = 1.0,
        scale: float = 10.0,
        inner_steps: int = 100,
        rate: float = 0.1,
    ):
        super().__init__(network)
        if classifier not in CLASSIFIERS:
            raise CourseError(f"classifier {classifier!r} is unknown; use one of {', '.join(CLASSIFIERS)}")
        if head not in HEADS:
            raise CourseError(f"head {head!r} is unknown; use one of {', '.join(HEADS)}")
        for name, value in (("strength", strength), ("scale", scale), ("rate", rate)):
            check_number(name, value, above=0)
        check_number("inner_steps", inner_steps, least=0)
        if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int) or classes < 2):
            raise CourseError(f"classes is {classes!r}; pre-training tells 2 classes or more apart")
        size = parts.embedding_size(network, type(self).__name__)
        self.classes, self.head, self.strength, self.scale = classes, head, float(strength), float(scale)
        self.centred = head == "centroid" if centred is None else centred
        self.inner_steps = inner_steps
        self.register_buffer("rate", torch.tensor(float(rate)))  # so that a validated one is saved
        self.register_buffer("centre", torch.zeros(size))
        made = nn.Linear if classifier == "linear" else lambda *shape: CosineClassifier(*shape, self.scale)
        self.classifier = None if classes is None else made(size, classes)

    # ------------------------------------------------------------------ pre-training

    def class_logits(self, x: Tensor) -> Tensor:
        """Logits [images, classes] over the training classes, for images [images, C, H, W]."""
        return self.classify(parts.embeddings(self.network, x))

    def classify(self, z: Tensor) -> Tensor:
        """The same for features [images, D]. Raises CourseError where there is no classifier."""
        self.needs_classes()
        return self.classifier(z)

    def needs_classes(self) -> None:
        """Raise CourseError where there is no classifier."""
        if self.classifier is None:
            raise CourseError(f"{type(self).__name__} has no training classes; make it with classes=data.classes")

    def outer_process(self, batch: tuple[Tensor, Tensor], **_: Any) -> tuple[Tensor, Tensor]:
        """Pre-training: ordinary classification of a batch of (images [n, C, H, W], global classes [n])."""
        x, y = batch
        self.needs_classes()
        check_classes(y, self.classes)
        z = parts.embeddings(self.network, x)
        logits = self.classify(z)
        mean = z.detach().mean(0).to(self.centre.dtype)
        if self.training and mean.isfinite().all():  # one bad batch must not spoil the centre for good
            self.centre.lerp_(mean, 0.1)
        return self.class_loss(logits, batch), logits

    def class_loss(self, logits: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """What pre-training makes small: the cross-entropy."""
        return F.cross_entropy(logits, batch[1])

    def metrics(self, prediction: Tensor, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
        """The accuracy in pre-training, over all its classes."""
        return {"accuracy": (prediction.argmax(-1) == batch[1]).float().mean().item()}

    @torch.no_grad()
    def centre_on(self, images: Tensor, at_once: int = 500) -> "PretrainedBody":
        """Compute the centre: the mean feature of images, float [n, C, H, W] in [0, 1] or uint8 as data sets keep them.

        Of the training classes: those of a test are not known before.
        """
        if len(images) == 0:
            raise CourseError("the centre is a mean of features, but there are no images; give one or more")
        total = torch.zeros_like(self.centre, dtype=torch.float64)
        for part in images.split(at_once):
            x = part.to(self.centre) / 255 if part.dtype == torch.uint8 else part.to(self.centre)
            total += self.embed(x.unsqueeze(0))[0].double().sum(0)
        if not total.isfinite().all():
            raise CourseError("the mean feature is nan or infinite; look at the images and the weights")
        self.centre.copy_(total / len(images))
        return self

    # ------------------------------------------------------------------ a task

    def features(self, z: Tensor) -> Tensor:
        """What a head sees of embeddings [tasks, images, D]: centred where that is wanted, of length 1."""
        return F.normalize(z - self.centre if self.centred else z, dim=-1)

    def inner_process(self, support_x: Tensor, support_y: Tensor, inner_steps: int | None = None, **_: Any) -> State:
        if inner_steps is not None and self.head != "cosine":
            raise CourseError(f"the head {self.head!r} has a solution and no inner steps; leave inner_steps out")
        with evaluation_mode(self):
            return self.fit(self.features(self.encode(support_x)), support_y, inner_steps)

    def keep(self, z: Tensor, support_y: Tensor) -> State:
        return self.fit(self.features(z), support_y)

    def fit(self, z: Tensor, support_y: Tensor, inner_steps: int | None = None) -> State:
        """The head of each task, for features [tasks, images, D] and labels [tasks, images]."""
        if not z.isfinite().all():
            raise CourseError("features of the support set are nan or infinite; look at the images and the weights")
        way = way_of(support_y)
        of_class = members(support_y, way, z.dtype)
        if self.head == "centroid":
            return {"prototypes": prototypes(z, support_y, way)}
        if self.head == "logistic":
            weights, bias = logistic_regression(z, of_class, self.strength)
            return {"weights": weights, "bias": bias}
        if self.head == "ridge":
            return {"weights": ridge(z, of_class, self.strength)}
        steps = self.inner_steps if inner_steps is None else inner_steps
        return {"directions": self.descended(z, support_y, prototypes(z, support_y, way), steps)}

    def descended(self, z: Tensor, labels: Tensor, start: Tensor, steps: int) -> Tensor:
        """The class vectors [tasks, way, D] of "cosine" heads, side by side; no task moves those of another."""
        fast = inner.adapt(
            lambda params, x: self.scale * cosines(x, params["w"]),
            {"w": start.detach().requires_grad_()},
            z.detach(),
            labels,
            steps=steps,
            rate=self.rate,
            loss=_summed,
            create_graph=False,  # nobody asks for a meta-gradient
        )
        return fast["w"]

    def compare(self, state: State, z: Tensor) -> Tensor:
        z = self.features(z)
        if self.head == "centroid":
            return -self.scale * squared_distances(z, state["prototypes"])
        if self.head == "logistic":
            return z @ state["weights"] + state["bias"].unsqueeze(1)
        if self.head == "ridge":
            return self.scale * (z @ state["weights"])
        return self.scale * cosines(z, state["directions"])


def check_classes(labels: Tensor, classes: int) -> None:
    """Raise CourseError for no labels, for labels that are no int64, and for those outside 0 … classes − 1."""
    if not labels.numel() or labels.dtype != torch.int64:
        raise CourseError(f"labels are {labels.dtype} {tuple(labels.shape)}; give int64 [images], one image or more")
    low, high = (int(end) for end in labels.aminmax())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise CourseError(f"an image is of class {wrong} (counted from 0), but pre-training has {classes} classes")


@torch.no_grad()
def logistic_regression(z: Tensor, of_class: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """The W [tasks, D, way] and b [tasks, way] that minimise ½ λ‖W‖² + Σ_images cross-entropy(zW + b), for each task.

    z: [tasks, images, D]. of_class: one-hot [tasks, images, way]. strength: λ > 0; b is free. By steps with a fixed
    matrix, which bounds the Hessian from above, so that each step goes down and none needs a rate (Böhning,
    *Multinomial logistic regression algorithm*, 1992, https://doi.org/10.1007/BF00048682). In float64. A task that has
    arrived rests, so its answer depends on no other. Raises CourseError where one has not arrived after MOST_STEPS.
    """
    check_number("strength", strength, above=0)
    dtype, z, y = z.dtype, z.double(), of_class.double()
    basis = torch.linalg.qr(z.mT).Q  # W lies in the span of the images: as many numbers as images are enough
    x = torch.cat([z @ basis, z.new_ones(*z.shape[:2], 1)], -1)
    penalty = z.new_full((x.shape[-1],), strength)
    penalty[-1] = 0
    bound = torch.linalg.cholesky(x.mT @ x / 2 + penalty.diag())
    w = z.new_zeros(len(z), x.shape[-1], y.shape[-1])
    for _ in range(MOST_STEPS):
        gradient = x.mT @ ((x @ w).softmax(-1) - y) + penalty.unsqueeze(-1) * w
        moving = gradient.abs().amax((1, 2), keepdim=True) > 1e-10 * x.shape[1]
        if not moving.any():
            return (basis @ w[:, :-1]).to(dtype), w[:, -1].to(dtype)
        w = torch.where(moving, w - torch.cholesky_solve(gradient, bound), w)
    raise CourseError(
        f"logistic regression has not arrived after {MOST_STEPS} steps at strength {strength:g}; take a larger one"
    )


@torch.no_grad()
def choose_rate(
    learner: Learner, source: Any, *, rates: Sequence[float] = RATES, episodes: int = 200, seed: int = 0
) -> dict[float, float]:
    """Validate the inner rate of a "cosine" head: the accuracy of each rate, and the learner keeps the best one.

    source: of episodes of *validation* classes. Every rate answers the same ones; of equal rates the first is kept.
    Raises CourseError for a learner with another head, and without a rate to try.
    """
    if getattr(learner, "head", None) != "cosine":
        raise CourseError("a rate is validated for the head 'cosine'; the other heads have a solution, and no rate")
    if not rates:
        raise CourseError("there is no rate to try; give one or more")
    for rate in rates:
        check_number("rate", rate, above=0)
    batch = source.sample(episodes, torch.Generator().manual_seed(seed)).to(learner.centre.device, learner.centre.dtype)
    support, query = (learner.features(learner.embed(x)) for x in (batch.support_x, batch.query_x))
    found, start = {}, prototypes(support, batch.support_y, way_of(batch.support_y))
    for rate in rates:
        learner.rate.fill_(rate)
        directions = learner.descended(support, batch.support_y, start, learner.inner_steps)
        right = cosines(query, directions).argmax(-1) == batch.query_y
        found[rate] = right.double().mean().item()
    learner.rate.fill_(max(found, key=found.get))
    return found


def load_body(learner: nn.Module, run: str | Path | nn.Module) -> nn.Module:
    """Put the network of a trained run into a learner, which is returned: where Meta-Baseline begins.

    run: the folder of a run, or a learner. Between two `PretrainedBody` the centre goes along. Raises CourseError where
    one of the two has no network, or theirs are not of one shape.
    """
    other = run if isinstance(run, nn.Module) else load(run)
    mine, theirs = getattr(learner, "network", None), getattr(other, "network", None)
    for one, network in ((learner, mine), (other, theirs)):
        if not isinstance(network, nn.Module):
            raise CourseError(f"{type(one).__name__} has no network to start from; take a learner with one")
    shapes = [{name: tuple(value.shape) for name, value in one.state_dict().items()} for one in (mine, theirs)]
    for name in shapes[0] | shapes[1]:
        if shapes[0].get(name) != shapes[1].get(name):
            raise CourseError(
                f"the networks differ: {name} is {shapes[0].get(name)} here and {shapes[1].get(name)} in the run; "
                "build the learner with the run's options"
            )
    norms = norms_of(learner, other)  # before anything is changed
    mine.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        for parameter, value in norms:
            parameter.copy_(value)
    if isinstance(learner, PretrainedBody) and isinstance(other, PretrainedBody):
        learner.centre.copy_(other.centre)
    return learner


class MetaBaseline(PrototypicalNetwork):
    """Cosine prototypes with a learned scale, meta-trained from a pre-trained body (`load_body`; Chen et al. 2021).

    network, temperature: as in PrototypicalNetwork. From random weights it is `cosine-prototypical`.
    """

    def __init__(self, network: nn.Module, *, temperature: float = 0.1):
        super().__init__(network, distance="cosine", temperature=temperature)


# ------------------------------------------------------------------ as methods

register(
    "fine-tune",
    learner=FineTune,
    help="descends on the support set from random weights, nothing is trained before",
    title="fine-tuning from random weights",
    # statistics of the support set: those of a training, there was none; a query is still answered alone
    network={"normalisation": "support", "downsample": "stride"},
)

# A step takes `tasks` images: as many, and at the rate, that data/make_transfer.py found best in short trainings.
PRETRAINING = {
    "smoke": Recipe(steps=5, tasks=16, rate=1e-3, query=2, validate_every=5, validation_episodes=10),
    "short": Recipe(steps=10000, tasks=64, rate=2e-3, validate_every=1000, validation_episodes=500),
}

register(
    "simpleshot",
    learner=PretrainedBody,
    help="pre-trained on all classes; nearest mean of centred features",
    title="SimpleShot",
    paper=Paper(
        "Wang, Chao, Weinberger, van der Maaten",
        "SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning",
        2019,
        "https://arxiv.org/abs/1911.04623",
    ),
    network=ENCODER,
    options={"head": "centroid"},
    recipes=PRETRAINING,
)
register(
    "rfs",
    learner=PretrainedBody,
    help="pre-trained on all classes; logistic regression on features",
    title="RFS (logistic regression)",
    paper=Paper(
        "Tian, Wang, Krishnan, Tenenbaum, Isola",
        "Rethinking Few-Shot Image Classification: a Good Embedding Is All You Need?",
        2020,
        "https://arxiv.org/abs/2003.11539",
    ),
    network=ENCODER,
    options={"head": "logistic"},
    recipes=PRETRAINING,
)
register(
    "pretrained-ridge",
    learner=PretrainedBody,
    help="pre-trained on all classes; ridge regression on features",
    title="pre-training, ridge regression",
    network=ENCODER,
    options={"head": "ridge"},
    recipes=PRETRAINING,
)
register(
    "baseline++",
    learner=PretrainedBody,
    help="pre-trained on all classes by cosines; a cosine head by descent",
    title="Baseline++",
    paper=Paper(
        "Chen, Liu, Kira, Wang, Huang",
        "A Closer Look at Few-shot Classification",
        2019,
        "https://arxiv.org/abs/1904.04232",
    ),
    network=ENCODER,
    options={"classifier": "cosine", "head": "cosine"},
    recipes=PRETRAINING,
)
register(
    "meta-baseline",
    learner=MetaBaseline,
    help="cosine prototypes, meta-trained from a pre-trained body",
    title="Meta-Baseline",
    paper=Paper(
        "Chen, Liu, Xu, Darrell, Wang",
        "Meta-Baseline: Exploring Simple Meta-Learning for Few-Shot Learning",
        2021,
        "https://arxiv.org/abs/2003.04390",
    ),
    network=ENCODER,
    recipes=recipes_of_encoders(3000),
)
