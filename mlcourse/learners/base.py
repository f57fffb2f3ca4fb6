"""What every learner is: a function from a support set to a predictor, with outer parameters to train."""

import inspect
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.episodes import Episode
from mlcourse.errors import CourseError, check_whole
from mlcourse.networks.recorded import Recorded
from mlcourse.statistics import ACCURACY, ERROR, Metric, Ratio

State = dict[str, Any]


class Learner(Recorded):
    """A meta-learner. Its parameters are the outer parameters θ; what else it must remember is a buffer.

    One adapts once and predicts often:

        state = learner.adapt(support_x, support_y)     # the inner process
        logits = learner.predict(state, query_x)        # [tasks, queries, way]

    support_x: [tasks, way·shot, C, H, W]; support_y: [tasks, way·shot], labels 0 … way−1;
    query_x: [tasks, queries, C, H, W]. Targets may also be values, masks or boxes: see `Episode`.

    A learner of one's own defines `inner_process` and `predict` (or all of `adapt` and `predict`), and where its task
    is another one `loss`, `score` and `metric`. Where the outer loss is more than the loss of `predict` it defines
    `outer_process`. A learner remembers the arguments that it was made with (`Recorded`), so that `learners.save` and
    `load` know it by its class.
    """

    trains_on = "episodes"  # or "images" (x, global class), or "nothing"
    normalisation = "none"
    metric = ACCURACY  # what validation looks at, and which way is better
    mixes_tasks = False  # whether a task is answered by other tasks of its batch, on purpose
    labels_images = True  # whether each image has a whole label; False: other tasks, of which no form is checked
    answers_with_graph = True  # whether the predictions of `outer_process` have a graph to the outer parameters

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "adapt" in vars(cls) and cls.inner_process is Learner.inner_process:
            cls.inner_process = None  # who defines all of `adapt` owes no hook for it

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}  # what `learners.build` was called with

    def recorded(self) -> dict[str, Any]:
        """What `learners.load` makes this learner from again: the arguments of `build`, or class and arguments."""
        return self.config or super().recorded()

    # ------------------------------------------------------------------ the inner process

    def adapt(
        self,
        support_x: Tensor,
        support_y: Any,
        *,
        inner_steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """The inner process, for all tasks. Under `no_grad` it works too and returns a detached state.

        inner_steps: for learners that have them (None: the learner's own). generator: for learners that draw.
        Raises CourseError for a negative number of steps, for any number where a learner has none, and for a support
        set of another form.
        """
        if inner_steps is not None:
            check_whole("inner_steps", inner_steps)
        if inner_steps is not None and not takes_inner_steps(self):
            raise CourseError(f"{type(self).__name__} has no inner steps to choose; leave inner_steps out")
        if self.labels_images:
            support_y = whole_labels(support_x, support_y)
        return self.inner_process(support_x, support_y, inner_steps=inner_steps, generator=generator)

    @abstractmethod
    def inner_process(
        self, support_x: Tensor, support_y: Any, *, inner_steps: int | None, generator: torch.Generator | None
    ) -> State:
        """What `adapt` returns. A learner without inner steps and without draws takes `**_` for the last two."""

    @abstractmethod
    def predict(self, state: State, query_x: Tensor) -> Any:
        """Logits [tasks, queries, way] of the queries, given what `adapt` made of the support set.

        In place of logits: values, masks, boxes, embeddings, whatever `loss` and `score` take.
        """

    def forward(self, support_x: Tensor, support_y: Any, query_x: Tensor) -> Any:
        return self.predict(self.adapt(support_x, support_y), query_x)

    # ------------------------------------------------------------------ the outer loss

    def loss(self, prediction: Any, target: Any) -> Tensor:
        """L_outer, a mean over all tasks and queries: cross-entropy of logits and labels, mean square of values."""
        if not target.is_floating_point():
            return F.cross_entropy(prediction.flatten(0, 1), target.flatten())
        if prediction.shape != target.shape:  # PyTorch would broadcast: another loss, and only a warning
            shapes = f"{tuple(prediction.shape)} and {tuple(target.shape)}"
            raise CourseError(f"predictions and targets have the shapes {shapes}; give targets [tasks, images, values]")
        return F.mse_loss(prediction, target)

    def outer_loss(
        self, batch: Any, *, step: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """The outer loss of an Episode (tasks), and metrics. `.backward()` leaves the meta-gradient in `.grad`.

        step: the outer step, for what is annealed over the training (None: the annealing is over). generator: for
        learners that draw. In training mode the learner may `augment` the batch first.
        """
        if self.labels_images and isinstance(batch, Episode):
            support_y = whole_labels(batch.support_x, batch.support_y)
            query_y = whole_labels(batch.query_x, batch.query_y, "query")
            batch = replace(batch, support_y=support_y, query_y=query_y)
        if self.training:
            batch = self.augment(batch, generator)
        loss, prediction, *more = self.outer_process(batch, step=step, generator=generator)
        return loss, self.metrics(prediction, batch) | (more[0] if more else {})

    def augment(self, batch: Any, generator: torch.Generator | None) -> Any:
        """The batch that the outer loss is taken on: by default as it came. For augmentation of images or of tasks."""
        return batch

    def outer_process(self, batch: Any, *, step: int | None, generator: torch.Generator | None) -> tuple:
        """The outer loss of a batch, the predictions that it was taken on, and, where wanted, more metrics by name."""
        prediction = self(batch.support_x, batch.support_y, batch.query_x)
        return self.loss(prediction, batch.query_y), prediction

    def doubt(self, metrics: dict[str, float]) -> str | None:
        """What a person should know of training steps with these metrics: one line that names the remedy, or None."""
        return None

    # ------------------------------------------------------------------ how good it is

    def metric_for(self, batch: Any) -> Metric:
        """What the scores of a batch are summed up in: `metric`; for values (regression) the mean squared error."""
        metric, target = Metric(*self.metric), getattr(batch, "query_y", None)
        values = isinstance(target, Tensor) and target.is_floating_point()
        return ERROR if values and metric == ACCURACY else metric

    def score(self, prediction: Any, batch: Episode) -> dict[str, Tensor]:
        """What is right and wrong in each task, by name, each [tasks]: the accuracy, or the mean squared error."""
        given, asked = tuple(prediction.shape), tuple(batch.query_y.shape)
        values = batch.query_y.is_floating_point()
        if given != asked if values else given[:-1] != asked:  # PyTorch would broadcast: another number, and no word
            wanted = "the targets' shape" if values else "logits [tasks, queries, way]"
            raise CourseError(f"{type(self).__name__} predicts {given} for targets {asked}; give {wanted}")
        if not values and batch.query_y.numel():
            low, high = (int(end) for end in batch.query_y.long().aminmax())
            if low < 0 or high >= given[-1]:
                raise CourseError(
                    f"{type(self).__name__} predicts {given[-1]} logits, but a query is of class number "
                    f"{low if low < 0 else high} (counted from 0); give one logit for each class of the tasks"
                )
        if values:
            return {"error": (prediction - batch.query_y).double().square().flatten(1).mean(1)}
        return {"accuracy": (prediction.argmax(-1) == batch.query_y).double().mean(1)}

    @torch.no_grad()
    def metrics(self, prediction: Any, batch: Any) -> dict[str, float]:
        """The metric of one batch by name, for the log of a training. Of a metric that is a ratio, a `Ratio`."""
        scores, metric = self.score(detached(prediction), batch), self.metric_for(batch)
        if metric.ratio is None:
            return {metric.name: scores[metric.name].double().mean().item()}
        top, bottom = (scores[name].double().sum().item() for name in metric.ratio)
        return {metric.name: Ratio(top, bottom)}


def takes_inner_steps(learner: nn.Module) -> bool:
    """Whether one can say to `learner.adapt` how many inner steps it shall take: by that name, or by `**settings`."""
    whole = getattr(type(learner), "adapt", None) is Learner.adapt
    takes = inspect.signature(learner.inner_process if whole else learner.adapt).parameters
    return "inner_steps" in takes or any(one.kind is one.VAR_KEYWORD and name != "_" for name, one in takes.items())


# ------------------------------------------------------------------ modes


# One for all modules: a learner and its network are changed together, whichever was asked first.
_MODES = threading.RLock()


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """`with evaluation_mode(module):` The module and all in it are in evaluation mode; afterwards each is as it was.

    A module that was in another mode is lent to one thread at a time: meanwhile another thread would see a mode that is
    not its own.
    """
    with _MODES:
        before = [(part, part.training) for part in module.modules() if part.training]
        if before:
            module.eval()
            try:
                yield
            finally:
                for part, mode in before:
                    part.training = mode
            return
    yield  # nothing to change, so nobody has to wait


class Frozen(Recorded):
    """A learner that another one holds, as a teacher: saved with it, never trained, always in evaluation mode."""

    def __init__(self, learner: nn.Module):
        super().__init__()
        self.learner = learner.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)

    @torch.no_grad()
    def forward(self, *arguments: Any) -> Any:
        return self.learner(*arguments)


# ------------------------------------------------------------------ predictions


def detached(prediction: Any) -> Any:
    """The same without a graph: a tensor, or tensors in dicts, lists and tuples."""
    if isinstance(prediction, Tensor):
        return prediction.detach()
    if isinstance(prediction, dict):
        return {name: detached(value) for name, value in prediction.items()}
    if isinstance(prediction, (list, tuple)):
        return type(prediction)(detached(value) for value in prediction)
    return prediction


def way_of(support_y: Tensor, *, at_most: int | None = None, who: str = "this learner") -> int:
    """The number of classes in the labels [tasks, images].

    Raises CourseError when it exceeds a fixed head, for labels that are no whole numbers, and for one below 0: no task
    can be padded with -100, which `cross_entropy` would leave out of the mean over all tasks.
    """
    if support_y.is_floating_point() or support_y.dtype == torch.bool or not support_y.numel():
        raise CourseError(
            f"the support labels are {support_y.dtype} {tuple(support_y.shape)}; give whole numbers, 0 … way − 1"
        )
    low, high = (int(end) for end in support_y.aminmax())
    if low < 0:
        raise CourseError(f"a support label is {low}; labels of a task are 0 … way − 1, and all images have one")
    way = high + 1
    if at_most is not None and way > at_most:
        raise CourseError(
            f"the support set has {way} classes, but the head of {who} has {at_most}; build it with way={way}"
        )
    return way


def whole_labels(x: Any, y: Any, what: str = "support") -> Any:
    """The labels [tasks, images] of images x as int64; what is no whole label (masks, boxes, values) as it is.

    what: the set in messages. Raises CourseError for images in bytes, and for labels that are none of theirs: labels of
    one task would be those of all, without a word. No value is looked at.
    """
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return y
    if x.dtype == torch.uint8:
        raise CourseError(f"the {what} images are {x.dtype}; give floating point numbers, as x.float() / 255")
    if y.is_floating_point() or y.dtype == torch.bool or y.dim() > 2:
        return y
    if y.dim() != 2 or x.shape[:2] != y.shape or not y.numel():
        raise CourseError(
            f"the {what} set is {tuple(x.shape)} with labels {y.dtype} {tuple(y.shape)}; give images [tasks, images, "
            "C, H, W] and whole labels [tasks, images], one image or more"
        )
    return y.long()


def answer_each(
    call: Callable[..., Tensor], fast: Iterable[dict[str, Tensor]], state: State, query_x: Tensor, normalisation: str
) -> Tensor:
    """Logits [tasks, queries, way] of networks with weights of their own: `call(params, x, reference)`, task by task.

    With `support` normalisation the support set comes along, and it alone gives the statistics: no query sees another.
    """
    if normalisation != "support":
        return torch.stack([call(params, x) for params, x in zip(fast, query_x, strict=True)])
    n = state["support_x"].shape[1]
    both = torch.cat([state["support_x"], query_x], 1)
    return torch.stack([call(params, x, n)[n:] for params, x in zip(fast, both, strict=True)])
