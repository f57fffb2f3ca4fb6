"""Prototypical networks: a class is the mean of its embedded support images; a query belongs to the nearest mean.

Snell, Swersky, Zemel, *Prototypical Networks for Few-shot Learning*, 2017, https://arxiv.org/abs/1703.05175.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.errors import CourseError
from mlcourse.learners.base import Learner, State, accuracy, evaluation_mode, way_of


def prototypes(embeddings: Tensor, labels: Tensor, way: int) -> Tensor:
    """c_k, the mean of the embeddings of class k. [tasks, images, D] and [tasks, images] → [tasks, way, D].

    Raises CourseError when a class has no image.
    """
    members = F.one_hot(labels, way).to(embeddings.dtype)  # [tasks, images, way]
    counts = members.sum(1)  # [tasks, way]
    if not counts.all():
        raise CourseError(f"a task's support set has no image of some class below {way}; give each class one or more")
    return members.transpose(1, 2) @ embeddings / counts.unsqueeze(-1)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """‖a_i − b_j‖² for [tasks, n, D] and [tasks, m, D] → [tasks, n, m]. Squared, as the paper has it."""
    return a.square().sum(-1).unsqueeze(-1) - 2 * a @ b.transpose(1, 2) + b.square().sum(-1).unsqueeze(-2)


class PrototypicalNetwork(Learner):
    """θ is the encoder f; adapt averages; predict compares: logits are −‖f(x) − c_k‖².

    network: an encoder without a head, called as `network(x)`. Its normalisation is `running`, `group` or `none`,
    so that each query is answered by itself (inductive). adapt and predict use the running statistics as they are, also
    in training mode; outer_loss, in training mode, uses those of its batch and updates the running ones.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        if network.normalisation not in ("running", "group", "none"):
            raise CourseError(
                f"normalisation {network.normalisation!r} does not fit a prototypical network, whose encoder is the "
                "same for all tasks; use running, group or none"
            )
        self.network = network
        self.normalisation = network.normalisation

    def embed(self, x: Tensor) -> Tensor:
        """[tasks, images, C, H, W] → [tasks, images, D], each image by itself: the encoder is in evaluation mode."""
        with evaluation_mode(self.network):
            return self._encode(x)

    def _encode(self, x: Tensor) -> Tensor:
        return self.network(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def adapt(
        self,
        support_x: Tensor,
        support_y: Tensor,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        return {"prototypes": prototypes(self.embed(support_x), support_y, way_of(support_y))}

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        return -squared_distances(self.embed(query_x), state["prototypes"])

    def outer_loss(
        self, batch, *, step: int = 0, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        # One pass for support and queries, so that in training both see the same batch statistics.
        z = self._encode(torch.cat([batch.support_x, batch.query_x], 1))
        support, query = z.split([batch.support_x.shape[1], batch.query_x.shape[1]], 1)
        logits = -squared_distances(query, prototypes(support, batch.support_y, way_of(batch.support_y)))
        return self.loss(logits, batch.query_y), {"accuracy": accuracy(logits, batch.query_y)}
