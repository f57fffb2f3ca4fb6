"""Transfer learning: train a network on many classes at once, then fit a new head, or all of it, to the support set.

Yosinski et al., *How transferable are features in deep neural networks?*, 2014, https://arxiv.org/abs/1411.1792;
as a few-shot baseline: Chen et al., *A Closer Look at Few-shot Classification*, 2019, https://arxiv.org/abs/1904.04232.
"""

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mlcourse import inner
from mlcourse.learners.base import Learner, State, accuracy, answer_each, evaluation_mode, way_of


class FineTune(Learner):
    """Gradient descent on the support set, from pre-trained weights or from random ones ("from scratch").

    network: without a head, called as `network(x, reference)`. classes: how many classes pre-training tells apart
    (None: no pre-training). A new task gets a new head, zero at first. steps, rate: of the descent. head_only: the
    network stays frozen and only the head is fitted.
    """

    trains_on = "images"

    def __init__(
        self,
        network: nn.Module,
        *,
        classes: int | None = None,
        steps: int = 50,
        rate: float = 0.1,
        head_only: bool = False,
    ):
        super().__init__()
        self.network = network
        self.classifier = None if classes is None else nn.Linear(network.embedding_size, classes)
        self.steps, self.rate, self.head_only = steps, rate, head_only
        self.normalisation = network.normalisation

    def call(self, params: inner.Parameters, x: Tensor, reference: int | None = None) -> Tensor:
        """Logits of one task: the network with its parameters, in evaluation mode, then the task's own linear head."""
        body = {name: value for name, value in params.items() if not name.startswith("head.")}
        with evaluation_mode(self.network):  # `running` statistics are of pre-training: no task changes them
            features = functional_call(self.network, body, (x, reference))
        return F.linear(features, params["head.weight"], params["head.bias"])

    def inner_process(self, support_x: Tensor, support_y: Tensor, steps=None, **_) -> State:
        way, size = way_of(support_y), self.network.embedding_size
        head = {
            "head.weight": support_x.new_zeros(way, size, requires_grad=True),
            "head.bias": support_x.new_zeros(way, requires_grad=True),
        }
        start = head if self.head_only else inner.parameters(self.network) | head
        fast = [
            inner.adapt(
                self.call,
                start,
                x,
                y,
                steps=self.steps if steps is None else steps,
                rate=self.rate,
                create_graph=False,  # nothing outside asks for a gradient: this is not meta-learning
            )
            for x, y in zip(support_x, support_y, strict=True)
        ]
        return {"fast": fast, "support_x": support_x}

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        return answer_each(self.call, state["fast"], state, query_x, self.normalisation)

    def outer_process(self, batch: tuple[Tensor, Tensor], **_) -> tuple[Tensor, Tensor]:
        """Pre-training: ordinary classification of a batch of (images [n, C, H, W], global classes [n])."""
        x, y = batch
        logits = self.classifier(self.network(x))
        return F.cross_entropy(logits, y), logits

    def metrics(self, prediction: Tensor, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
        """The accuracy in pre-training, over all its classes."""
        return {"accuracy": accuracy(prediction, batch[1])}
