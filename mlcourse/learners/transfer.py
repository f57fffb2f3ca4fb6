"""Transfer learning: train a network on many classes at once, then fit a new head, or all of it, to the support set.

Yosinski et al., *How transferable are features in deep neural networks?*, 2014, https://arxiv.org/abs/1411.1792;
as a few-shot baseline: Chen et al., *A Closer Look at Few-shot Classification*, 2019, https://arxiv.org/abs/1904.04232.
The method `fine-tune` is the bottom of such a comparison: nothing was trained before. (The Baseline of Chen et al. is
trained on all base classes first, so their figures are none of this method.)
"""

from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse import inner
from mlcourse.errors import CourseError
from mlcourse.learners.base import Learner, State, answer_each, evaluation_mode, way_of
from mlcourse.learners.methods import register
from mlcourse.networks import normalisation_of, parts


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


register(
    "fine-tune",
    learner=FineTune,
    help="descends on the support set from random weights, nothing is trained before",
    title="fine-tuning from random weights",
    # statistics of the support set: those of a training, there was none; a query is still answered alone
    network={"normalisation": "support", "downsample": "stride"},
)
