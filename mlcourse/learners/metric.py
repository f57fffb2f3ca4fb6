"""What the learners that compare have in common: one encoder for all tasks, and queries that do not see each other.

The parts that differ are two functions of embeddings: what is kept of the support set, and how a query is held
against it.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.errors import CourseError
from mlcourse.learners.base import Learner, State, evaluation_mode
from mlcourse.networks import normalisation_of, normalisations_in, parts


class MetricLearner(Learner):
    """A learner whose outer parameter θ is an encoder f (and little more). A subclass defines `keep` and `compare`.

    network: an encoder without a head, called as `network(x)`: any module, whose maps are laid flat. Its normalisation
    is `running`, `group` or `none`, so that each query is answered by itself (inductive). adapt and predict use the
    running statistics as they are, also in training mode; outer_loss, in training mode, uses those of its batch and
    updates the running ones.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        check_encoder(network, type(self).__name__)
        self.network = network
        self.normalisation = normalisation_of(network)

    @abstractmethod
    def keep(self, z: Tensor, support_y: Tensor) -> State:
        """What stays of the support set: of its embeddings [tasks, way·shot, …] and labels [tasks, way·shot]."""

    @abstractmethod
    def compare(self, state: State, z: Tensor) -> Tensor:
        """Logits [tasks, queries, way] of the queries' embeddings [tasks, queries, …]."""

    def embed(self, x: Tensor) -> Tensor:
        """[tasks, images, C, H, W] → [tasks, images, D], each image by itself: the encoder is in evaluation mode."""
        with evaluation_mode(self.network):
            return self.encode(x)

    def encode(self, x: Tensor) -> Tensor:
        """The same in the mode that the encoder is in: what `keep` and `compare` are given, here [tasks, images, D]."""
        return parts.embeddings(self.network, x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_) -> State:
        with evaluation_mode(self):
            return self.keep(self.encode(support_x), support_y)

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        with evaluation_mode(self):
            return self.compare(state, self.encode(query_x))

    def outer_process(self, batch, **_) -> tuple[Tensor, Tensor]:
        # One pass for both, so that in training both see the same batch statistics.
        z = self.encode(torch.cat([batch.support_x, batch.query_x], 1))
        support, query = z.split([batch.support_x.shape[1], batch.query_x.shape[1]], 1)
        logits = self.compare(self.keep(support, batch.support_y), query)
        return self.loss(logits, batch.query_y), logits


def check_encoder(network: nn.Module, who: str) -> None:
    """Raise CourseError, naming `who`, where a network's normalisation would let one query see another."""
    parts.check_ready(network)
    for name in ("batch", "support"):
        if name in normalisations_in(network):
            raise CourseError(
                f"normalisation {name!r} does not fit {who}, whose encoder is the same for all tasks; use running, "
                "group or none (PyTorch's batch normalisation with running statistics)"
            )


def members(labels: Tensor, way: int, dtype: torch.dtype) -> Tensor:
    """1 where an image is of a class, else 0: labels [tasks, images] → [tasks, images, way].

    Raises CourseError when a class of a task has no image.
    """
    found = F.one_hot(labels, way).to(dtype)
    if not found.any(1).all():
        raise CourseError(f"a task's support set has no image of some class below {way}; give each class one or more")
    return found


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """cos(a_i, b_j) for [tasks, n, D] and [tasks, m, D] → [tasks, n, m], in [−1, 1]. A zero vector has cosine 0."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).transpose(1, 2)


def log_of(what: str, value: float) -> nn.Parameter:
    """A parameter that is learned as its logarithm, so that it stays positive. Raises CourseError unless value > 0."""
    if not 0 < value < float("inf"):
        raise CourseError(f"{what} is {value}; give a finite number above 0")
    return nn.Parameter(torch.tensor(float(value)).log())
