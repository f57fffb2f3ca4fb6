"""What every learner is: a function from a support set to a predictor, with outer parameters to train."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.errors import CourseError

State = dict[str, Any]


class Learner(nn.Module):
    """A meta-learner. Its parameters are the outer parameters θ; what else it must remember is a buffer.

    One adapts once and predicts often:

        state = learner.adapt(support_x, support_y)     # the inner process
        logits = learner.predict(state, query_x)        # [tasks, queries, way]

    support_x: [tasks, way·shot, C, H, W]; support_y: [tasks, way·shot], labels 0 … way−1;
    query_x: [tasks, queries, C, H, W].
    """

    trains_on = "episodes"
    normalisation = "none"

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}  # what `learners.build` was called with, so that a file can bring it back

    @property
    def transductive(self) -> bool:
        """Whether the answer to one query depends on the other queries."""
        return self.normalisation == "batch"

    def check_images(self, shape: tuple[int, ...]) -> None:
        """Raise CourseError when images of `shape` (C, H, W) are not what this learner was built for."""
        if not self.config or self.config["method"] == "pixels":
            return
        built = (self.config["in_channels"], self.config["size"], self.config["size"])
        if tuple(shape) != built:
            raise CourseError(
                f"the images are {tuple(shape)}, but the learner was built for {built}; choose fitting data"
            )

    def adapt(
        self,
        support_x: Tensor,
        support_y: Tensor,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """The inner process, for all tasks. Under `no_grad` it works too and returns a detached state."""
        raise TypeError(f"{type(self).__name__} must define adapt")

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        """Logits [tasks, queries, way] of the queries, given what `adapt` made of the support set."""
        raise TypeError(f"{type(self).__name__} must define predict")

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        return self.predict(self.adapt(support_x, support_y), query_x)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """L_outer: cross-entropy of logits [tasks, queries, way] and labels [tasks, queries], a mean over all."""
        return F.cross_entropy(prediction.flatten(0, 1), target.flatten())

    def outer_loss(
        self, batch: Any, *, step: int = 0, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """The outer loss of an Episode (tasks), and metrics. `.backward()` leaves the meta-gradient in `.grad`."""
        logits = self(batch.support_x, batch.support_y, batch.query_x)
        return self.loss(logits, batch.query_y), {"accuracy": accuracy(logits, batch.query_y)}


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """`with evaluation_mode(module):` The module and all in it are in evaluation mode; afterwards each is as it was."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in before:
            part.training = mode


def accuracy(logits: Tensor, target: Tensor) -> float:
    """The share of right answers, in [0, 1]."""
    return (logits.detach().argmax(-1) == target).float().mean().item()


def way_of(support_y: Tensor, *, at_most: int | None = None, who: str = "this learner") -> int:
    """The number of classes in the labels [tasks, images]. Raises CourseError when it exceeds a fixed head."""
    way = int(support_y.max()) + 1
    if at_most is not None and way > at_most:
        raise CourseError(
            f"the support set has {way} classes, but the head of {who} has {at_most}; build it with way={way}"
        )
    return way


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
