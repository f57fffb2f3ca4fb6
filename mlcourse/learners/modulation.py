"""Feature-wise modulation: the support set writes a scale and a shift for each channel of the encoder.

Perez et al., *FiLM: Visual Reasoning with a General Conditioning Layer*, 2018, https://arxiv.org/abs/1709.07871;
for few-shot tasks: Oreshkin, López, Lacoste, *TADAM: Task Dependent Adaptive Metric for Improved Few-shot Learning*,
2018, https://arxiv.org/abs/1805.10123; Requeima et al., *Fast and Flexible Multi-Task Classification Using Conditional
Neural Adaptive Processes* (CNAPs), 2019, https://arxiv.org/abs/1906.07697.

As in TADAM: the task's description is the mean of its prototypes in a pass without modulation; γ = 1 + γ₀·g(task) and
β = β₀·h(task), with learned post-multipliers γ₀ and β₀ that start at 0, so that training starts from the plain network;
the metric has a learned scale. Choices of this file: Conv-4 in place of a residual network, the squared distances of
prototypical networks; TADAM's auxiliary training on all classes at once and its penalty on the post-multipliers are
left out; the pass without modulation always uses the running statistics, which belong to the modulated passes.
"""

import torch
from torch import Tensor, nn

from mlcourse import inner
from mlcourse.episodes import check_positive
from mlcourse.learners.base import State, evaluation_mode, way_of
from mlcourse.learners.methods import Paper, register
from mlcourse.learners.metric import MetricLearner, log_of
from mlcourse.learners.prototypical import ENCODER, prototypes, recipes_of_encoders, squared_distances
from mlcourse.networks import parts


class ModulationWriter(nn.Module):
    """Writes γ and β of one block from a task's description [tasks, D]."""

    def __init__(self, size: int, hidden: int, channels: int):
        super().__init__()
        self.write = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, 2 * channels)
        )
        self.multipliers = nn.Parameter(torch.zeros(2))  # γ₀ and β₀

    def forward(self, task: Tensor) -> Tensor:
        """γ and β as [tasks, 2, channels]."""
        written = self.write(task).unflatten(-1, (2, -1)) * self.multipliers.unsqueeze(-1)
        return written + torch.tensor([[1.0], [0.0]], dtype=written.dtype, device=written.device)


class FeatureModulation(MetricLearner):
    """θ is an encoder, a writer for each of its blocks, and the metric's scale s: logits are −s·‖f(x; γ, β) − c_k‖².

    network: as in MetricLearner, with `blocks`, after which the features are made flat; each block has as many channels
    out and a `conv`, and a `finish(x, modulation=(γ, β))` which modulates after the normalisation.
    hidden: width of the writers. scale: s at the start.

    state: gamma, beta [tasks, blocks, channels]; prototypes [tasks, way, D], of the modulated support set.
    """

    def __init__(self, network: nn.Module, *, hidden: int = 64, scale: float = 1.0):
        super().__init__(network)
        check_positive("hidden", hidden)
        blocks = list(getattr(network, "blocks", ()))
        there = blocks and all(hasattr(block, "conv") and hasattr(block, "finish") for block in blocks)
        parts.check_has(
            bool(there), network, "FeatureModulation", "blocks that have a conv and a finish(x, modulation=…)"
        )
        size = parts.embedding_size(network, "FeatureModulation")
        self.writers = nn.ModuleList(ModulationWriter(size, hidden, block.conv.out_channels) for block in blocks)
        self.log_scale = log_of("scale", scale)

    def modulation(self, support_x: Tensor, support_y: Tensor) -> State:
        """What the support set writes: gamma and beta, each [tasks, blocks, channels]."""
        plain = prototypes(self.plain(support_x), support_y, way_of(support_y))
        written = torch.stack([writer(plain.mean(1)) for writer in self.writers], 1)
        return {"gamma": written[:, :, 0], "beta": written[:, :, 1]}

    def plain(self, x: Tensor) -> Tensor:
        """Embeddings without modulation, [tasks, images, D], in evaluation mode.

        The running statistics come in as copies: in training the modulated pass writes into the network's own, and
        backward would read those in place of the ones that this pass has used.
        """
        own = dict(self.network.named_parameters())
        with evaluation_mode(self.network):
            return inner.call(self.network, own, x.flatten(0, 1)).flatten(1).unflatten(0, x.shape[:2])

    def features(self, written: State, x: Tensor) -> Tensor:
        """Embeddings of images x [tasks, n, C, H, W] under the modulation written for their tasks: [tasks, n, D]."""
        maps = x.flatten(0, 1)
        for index, block in enumerate(self.network.blocks):
            pair = (written[name][:, index].repeat_interleave(x.shape[1], 0) for name in ("gamma", "beta"))
            maps = block.finish(block.conv(maps), modulation=tuple(one[:, :, None, None] for one in pair))
        return maps.flatten(1).unflatten(0, x.shape[:2])

    def under(self, written: State, support_x: Tensor, support_y: Tensor) -> State:
        """The state that goes with a modulation, be it written for these tasks or for others."""
        with evaluation_mode(self):
            z = self.features(written, support_x)
        return written | self.keep(z, support_y)

    def keep(self, z: Tensor, support_y: Tensor) -> State:
        return {"prototypes": prototypes(z, support_y, way_of(support_y))}

    def inner_process(self, support_x: Tensor, support_y: Tensor, **_) -> State:
        return self.under(self.modulation(support_x, support_y), support_x, support_y)

    def compare(self, state: State, z: Tensor) -> Tensor:
        return -self.log_scale.exp() * squared_distances(z, state["prototypes"])

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        with evaluation_mode(self):
            return self.compare(state, self.features(state, query_x))

    def outer_process(self, batch, **_) -> tuple[Tensor, Tensor]:
        written = self.modulation(batch.support_x, batch.support_y)
        z = self.features(written, torch.cat([batch.support_x, batch.query_x], 1))
        support, query = z.split([batch.support_x.shape[1], batch.query_x.shape[1]], 1)
        logits = self.compare(self.keep(support, batch.support_y), query)
        return self.loss(logits, batch.query_y), logits


register(
    "film",
    learner=FeatureModulation,
    help="a network scales and shifts the encoder's features",
    title="feature-wise modulation",
    paper=Paper(
        "Perez, Strub, de Vries, Dumoulin, Courville",
        "FiLM: Visual Reasoning with a General Conditioning Layer",
        2018,
        "https://arxiv.org/abs/1709.07871",
    ),
    network=ENCODER,
    recipes=recipes_of_encoders(4000, tasks=3, train_way=20),  # what is written depends on the whole task: several
)
