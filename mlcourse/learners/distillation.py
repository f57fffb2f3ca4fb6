"""Distillation: a student learns from what a teacher answers, or a few pictures teach what a data set would.

Hinton, Vinyals, Dean, *Distilling the Knowledge in a Neural Network*, 2015, https://arxiv.org/abs/1503.02531. A label
says which class is right; a teacher's probabilities also say which wrong ones are near. With a temperature τ,
p_τ = softmax(logits / τ), the student makes

    (1 − weight) · cross-entropy(student, label) + weight · τ² · KL(p_τ(teacher) ‖ p_τ(student))

small. The gradient of the second part shrinks as 1/τ², so τ² keeps the two in proportion. The teacher is frozen.

`DistilledClassifier` does this in pre-training: with a smaller student, or with one of the same size, a "born-again"
next generation (Furlanello et al., *Born-Again Neural Networks*, 2018, https://arxiv.org/abs/1805.04770).
`DistilledLearner` does it with a meta-learner, on the logits of each episode's queries.
`LearntImages` is dataset distillation (Wang et al., *Dataset Distillation*, 2018, https://arxiv.org/abs/1811.10959):
pictures, learned by the meta-gradient, that teach a fresh network in a few steps.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse import files, inner
from mlcourse.episodes import Episode, check_positive
from mlcourse.errors import CourseError, check_number
from mlcourse.learners.base import Frozen, Learner, State
from mlcourse.learners.building import drawing
from mlcourse.learners.metric import log_of
from mlcourse.learners.saving import CONFIG, WEIGHTS, restore
from mlcourse.learners.transfer import PretrainedBody, check_classes
from mlcourse.networks import Recorded, made_again, normalisations_in


def soft_cross_entropy(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """τ² Σ_k p_τ(teacher)_k (log p_τ(teacher)_k − log p_τ(student)_k), a mean over rows: a scalar, 0 where they agree.

    Both [..., classes], of one shape; all but the last dimension are rows. temperature: τ > 0. As τ grows it becomes
    half the squared distance of the two, each with its mean taken off, over the number of classes. The teacher gets no
    gradient. It is computed in float64: for a large τ it is the small rest of large terms. Raises CourseError for other
    shapes, for logits that are nan or infinite, and for τ outside 1e-4 … 1e4.
    """
    check_temperature(temperature)
    shapes = [tuple(logits.shape) for logits in (student_logits, teacher_logits)]
    if shapes[0] != shapes[1] or len(shapes[0]) < 2 or 0 in shapes[0]:
        raise CourseError(f"student and teacher give {shapes[0]} and {shapes[1]}; give logits [rows, classes] twice")
    teacher_logits = teacher_logits.detach()
    for who, logits in (("student", student_logits), ("teacher", teacher_logits)):
        if not logits.isfinite().all():
            raise CourseError(f"logits of the {who} are nan or infinite; look at its training before it is compared")
    student, teacher = (
        ((logits - logits.mean(-1, keepdim=True)) / temperature).log_softmax(-1)
        for logits in (student_logits.double(), teacher_logits.double())
    )
    loss = temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1).mean()
    return loss.to(student_logits.dtype)


def check_temperature(temperature: float) -> None:
    """Raise CourseError for a temperature that is not above 0, or so far out that float64 loses the loss."""
    check_number("temperature", temperature, above=0)
    if not 1e-4 <= temperature <= 1e4:
        raise CourseError(f"temperature is {temperature!r}; give one from 0.0001 to 10000")


def check_mixture(temperature: float, weight: float) -> None:
    """Raise CourseError unless the temperature is above 0 and the weight of the teacher in [0, 1]."""
    check_temperature(temperature)
    check_number("weight", weight, least=0)
    if weight > 1:
        raise CourseError(f"weight is {weight!r}; give the teacher's share of the loss, from 0 to 1")


class DistilledClassifier(PretrainedBody):
    """Pre-training with a teacher: (1 − weight) · cross-entropy + weight · `soft_cross_entropy`.

    network, settings: as in PretrainedBody; the network may be smaller than the teacher's, or of its size (born-again).
    teacher: a PretrainedBody of the same classes; a copy of it is kept, frozen and in evaluation mode. temperature: τ.
    weight: the teacher's share, in [0, 1]; 0 is plain pre-training.
    Raises CourseError for a teacher of other classes, and for a temperature or weight out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        teacher: PretrainedBody,
        temperature: float = 4.0,
        weight: float = 0.5,
        **settings: Any,
    ):
        check_mixture(temperature, weight)
        if not isinstance(teacher, PretrainedBody) or teacher.classifier is None:
            raise CourseError(
                f"the teacher, a {type(teacher).__name__}, tells no training classes apart; pre-train one"
            )
        classes = settings.setdefault("classes", teacher.classes)
        if classes != teacher.classes:
            raise CourseError(f"the student has {classes} classes, its teacher {teacher.classes}; give both the same")
        super().__init__(network, **settings)
        self.temperature, self.weight = temperature, weight
        self.teacher = Frozen(copy.deepcopy(teacher))

    def class_loss(self, logits: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        plain = super().class_loss(logits, batch)
        with torch.no_grad():
            told = self.teacher.learner.class_logits(batch[0])
        return (1 - self.weight) * plain + self.weight * self.soft_loss(logits, told)

    def soft_loss(self, logits: Tensor, told: Tensor) -> Tensor:
        """How far the student's logits are from the teacher's, both [images, classes]."""
        return soft_cross_entropy(logits, told, self.temperature)


class DistilledLearner(Learner):
    """A meta-learner that learns from another one: both adapt to each episode, and their queries' logits are compared.

    student: any learner on episodes; `adapt` and `predict` are its own. teacher: any learner that answers episodes; a
    copy of it is kept, frozen. temperature, weight: as in DistilledClassifier; the rest is the student's own loss.
    Raises CourseError for a student that trains on something else, and for one that a teacher cannot reach.
    """

    def __init__(self, student: Learner, *, teacher: Learner, temperature: float = 4.0, weight: float = 0.5):
        super().__init__()
        check_mixture(temperature, weight)
        for who, one in (("student", student), ("teacher", teacher)):
            if not isinstance(one, Learner):
                raise CourseError(f"the {who} is a {type(one).__name__}; give a learner")
        if student.trains_on != "episodes":
            raise CourseError(f"{type(student).__name__} trains on {student.trains_on}; give a student of episodes")
        if not student.answers_with_graph:
            raise CourseError(
                f"the predictions of a {type(student).__name__} have no graph to its outer parameters, so no teacher "
                "reaches them; take a student whose outer loss is differentiated, such as MAML"
            )
        self.student, self.temperature, self.weight = student, temperature, weight
        self._descends = [name for name, value in teacher.named_parameters() if value.requires_grad]
        self.teacher = Frozen(copy.deepcopy(teacher))
        self.normalisation, self.mixes_tasks = student.normalisation, student.mixes_tasks
        self.mixed_precision = getattr(student, "mixed_precision", True)
        self.accumulates = getattr(student, "accumulates", True)

    def inner_process(
        self, support_x: Tensor, support_y: Any, inner_steps: int | None = None, generator: Any = None
    ) -> State:
        return self.student.adapt(support_x, support_y, inner_steps=inner_steps, generator=generator)

    def predict(self, state: State, query_x: Tensor) -> Any:
        return self.student.predict(state, query_x)

    def augment(self, batch: Episode, generator: torch.Generator | None) -> Episode:
        return self.student.augment(batch, generator)

    def outer_process(self, batch: Episode, **settings: Any) -> tuple:
        y = batch.query_y
        if not isinstance(y, Tensor) or y.dim() != 2 or y.is_floating_point() or y.dtype == torch.bool:
            told = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise CourseError(
                f"a teacher's class logits are learnt here, and the targets are {told}; give tasks with whole labels "
                "[tasks, images]"
            )
        loss, prediction, *more = self.student.outer_process(batch, **settings)
        if torch.is_grad_enabled() and not prediction.requires_grad:
            raise CourseError(f"the predictions of {type(self.student).__name__} have no graph: no teacher reaches it")
        soft = soft_cross_entropy(prediction, self.teacher_logits(batch), self.temperature)
        return (1 - self.weight) * loss + self.weight * soft, prediction, *more

    def teacher_logits(self, batch: Episode) -> Tensor:
        """What the frozen teacher answers to an episode's queries: [tasks, queries, way], without a graph.

        While it adapts its parameters ask for gradients, for an inner process that descends from them. None is kept.
        """
        own = dict(self.teacher.learner.named_parameters())
        try:
            for name in self._descends:
                own[name].requires_grad_(True)
            return self.teacher(batch.support_x, batch.support_y, batch.query_x).detach()
        finally:
            self.teacher.learner.requires_grad_(False)


# ------------------------------------------------------------------ pictures that teach


class LearntImages(Recorded):
    """Dataset distillation: a few pictures and a rate, learned so that T steps on them teach a fresh network.

        φ_0 random,   φ_{t+1} = φ_t − α ∇ L(φ_t; pictures),   outer loss: L(φ_T; real images), over many φ_0

    It trains on images (`training.Images`), in the loop of all learners; its outer parameters are the pictures and
    log α, and the meta-gradient goes through all T steps. `LearntImages.load` reads a finished run.

    network: with `classes` logits; it gives the form, and each outer step draws weights anew. It must treat each image
    by itself (normalisation "group" or "none"). classes, per_class: so many pictures, in the order of the classes.
    shape: (C, H, W) of one. inner_steps: T. rate: α at the start. starts: how many fresh networks an outer step takes.
    Raises CourseError for a network that draws weights which nobody can draw again, or whose images see each other.
    """

    trains_on = "images"

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: int = 10,
        shape: tuple[int, int, int] = (1, 28, 28),
        per_class: int = 1,
        inner_steps: int = 10,
        rate: float = 0.05,
        starts: int = 1,
    ):
        super().__init__()
        counts = {"classes": classes, "per_class": per_class, "inner_steps": inner_steps, "starts": starts}
        for name, value in counts.items():
            check_positive(name, value)
        check_redrawable(network)
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.classes, self.inner_steps, self.starts = classes, inner_steps, starts
        self.images = nn.Parameter(torch.full((classes * per_class, *shape), 0.5))  # grey: `start_from` real ones
        self.log_rate = log_of("rate", rate)
        self.register_buffer("labels", torch.arange(classes).repeat_interleave(per_class))

    @classmethod
    def load(cls, folder: str | Path) -> "LearntImages":
        """The learnt pictures of a finished run (`training.train(…, out=folder)`).

        Raises CourseError for a folder that holds none.
        """
        config, weights = Path(folder) / CONFIG, Path(folder) / WEIGHTS
        if not config.is_file() or not weights.is_file():
            raise CourseError(f"{folder} holds no finished run of learnt pictures; give the out folder of one")
        learner = made_again(files.read_json(config).get("learner"), cls)
        restore(learner, files.load_tensors(weights)[0], weights)
        return learner

    @torch.no_grad()
    def start_from(self, images: Tensor) -> "LearntImages":
        """Let learning begin at these images, float in [0, 1], of the pictures' shape."""
        if images.shape != self.images.shape:
            shapes = f"{tuple(images.shape)}, the learnt ones {tuple(self.images.shape)}"
            raise CourseError(f"the images are {shapes}; give one for each")
        if not images.isfinite().all():
            raise CourseError("the images to start from are nan or infinite; give numbers in [0, 1]")
        self.images.copy_(images)
        return self

    def fresh(self, generator: torch.Generator) -> inner.Parameters:
        """Random weights φ_0 for the network: one draw of the generator, which lives on the CPU, is their seed."""
        seed = int(torch.randint(2**62, (), generator=generator))
        with drawing(seed):
            twin = copy.deepcopy(self.network).cpu()
            for part in twin.modules():
                if hasattr(part, "reset_parameters"):
                    part.reset_parameters()
        like = self.images
        return {name: value.detach().to(like).requires_grad_() for name, value in twin.named_parameters()}

    def call(self, params: inner.Parameters, x: Tensor) -> Tensor:
        """Logits [images, classes] of the network with these weights."""
        return inner.call(self.network, params, x)

    def taught(self, start: inner.Parameters, **given: Any) -> inner.Parameters:
        """φ_T: weights `start` after T steps on the pictures. given: `images`, `labels`, `rate` in place of its own.

        With `create_graph=False` the result is detached.
        """
        return inner.adapt(
            self.call,
            start,
            given.get("images", self.images),
            given.get("labels", self.labels),
            steps=self.inner_steps,
            rate=given.get("rate", self.log_rate.exp()),
            create_graph=given.get("create_graph", True),
        )

    def outer_loss(
        self, batch: tuple[Tensor, Tensor], *, step: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of taught networks on real images (float [n, C, H, W], labels [n]), and their accuracy.

        generator: draws φ_0 (None: the same ones each time).
        """
        x, y = batch
        if x.shape[1:] != self.images.shape[1:]:
            shapes = f"{tuple(x.shape[1:])}, the learnt ones {tuple(self.images.shape[1:])}"
            raise CourseError(f"real images are {shapes}; make LearntImages with shape={tuple(x.shape[1:])}")
        check_classes(y, self.classes)
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        logits = [self.call(self.taught(self.fresh(generator)), x) for _ in range(self.starts)]
        loss = torch.stack([F.cross_entropy(one, y) for one in logits]).mean()
        right = torch.stack([(one.argmax(-1) == y).float().mean() for one in logits]).mean()
        return loss, {"accuracy": right.item()}

    def accuracy(self, x: Tensor, y: Tensor, *, seeds: int | range = 20, **given: Any) -> Tensor:
        """The accuracy of fresh networks after T steps, on images x and labels y: float64 [seeds].

        seeds: of the initial weights; the same ones make a pair with other pictures. given: as in `taught`.
        """
        each, seeds = [], range(seeds) if isinstance(seeds, int) else seeds
        if not len(seeds):
            raise CourseError("accuracy over 0 seeds is no number; give one or more")
        check_classes(y, self.classes)
        if y.shape != x.shape[:1]:
            raise CourseError(f"there are {len(x)} images and labels {tuple(y.shape)}; give one label for each image")
        for seed in seeds:
            start = self.fresh(torch.Generator().manual_seed(seed))
            fast = self.taught(start, **given, create_graph=False)
            with torch.no_grad():
                each.append((self.call(fast, x).argmax(-1) == y).double().mean())
        return torch.stack(each)


def check_redrawable(network: nn.Module) -> None:
    """Raise CourseError unless all weights of a network can be drawn anew, and it treats each image by itself."""
    for name, part in network.named_modules():
        if list(part.parameters(recurse=False)) and not hasattr(part, "reset_parameters"):
            where = name or type(network).__name__
            raise CourseError(f"{where} has weights but no reset_parameters, so none can be drawn anew; define it")
    shared = [kind for kind in normalisations_in(network) if kind not in ("group", "none")]
    if shared:
        raise CourseError(
            f"normalisation {shared[0]!r} takes statistics of many images, of which the learnt ones are few; use "
            "group or none"
        )
