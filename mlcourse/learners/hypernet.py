"""A hypernetwork: one network writes the weights of another, here from a support set, in one forward pass.

Ha, Dai, Le, *HyperNetworks*, 2017, https://arxiv.org/abs/1609.09106. Written from examples: Qiao et al., *Few-Shot
Image Recognition by Predicting Parameters from Activations*, 2018, https://arxiv.org/abs/1706.03466 (a class's weights
from the mean of its activations); Gidaris & Komodakis, *Dynamic Few-Shot Visual Learning without Forgetting*, 2018,
https://arxiv.org/abs/1804.09458; Zhmoginov et al., *HyperTransformer*, 2022, https://arxiv.org/abs/2201.04182 (kernels
too).

Choices of this file. The head is linear, with a bias, and no cosine. A class's weights come from the mean of its own
features and from the mean of all classes' means, so that the writer knows what the class is to be told from; there is
no attention to the classes of training. A kernel is learned and what is written is added to it, a matrix of low rank:
Ha et al. write kernels whole, from a short vector per layer; Zhmoginov et al. write them by a transformer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.episodes import check_positive
from mlcourse.errors import CourseError
from mlcourse.learners.base import State, way_of
from mlcourse.learners.methods import Paper, register
from mlcourse.learners.metric import MetricLearner
from mlcourse.learners.prototypical import ENCODER, prototypes, recipes_of_encoders
from mlcourse.networks import parts


class HeadWriter(nn.Module):
    """Writes a linear head: for class k, w_k and b_k from its mean feature c_k and the mean c̄ of all classes' c."""

    def __init__(self, size: int, hidden: int):
        super().__init__()
        self.size = size
        # The last layer has no bias: it would add the same to all classes, and softmax sees differences only.
        self.write = nn.Sequential(
            nn.LayerNorm(2 * size), nn.Linear(2 * size, hidden), nn.GELU(), nn.Linear(hidden, size + 1, bias=False)
        )

    def forward(self, centres: Tensor) -> dict[str, Tensor]:
        """Class means [tasks, way, D] → weight [tasks, way, D] and bias [tasks, way]. Classes in any order."""
        context = centres.mean(1, keepdim=True).expand_as(centres)
        weight, bias = self.write(torch.cat([centres - context, context], -1)).split([self.size, 1], -1)
        return {"weight": weight, "bias": bias.squeeze(-1)}


class KernelWriter(nn.Module):
    """Writes a change of a convolution's kernel: U·V of rank r, from the mean over classes of what each says."""

    def __init__(self, conv: nn.Conv2d, hidden: int, rank: int):
        super().__init__()
        out, rows = len(conv.weight), conv.weight[0].numel()
        self.sizes = [out * rank, rank * rows]
        self.rank, self.size_of_change = rank, 0.1 / rank
        self.describe = nn.Sequential(nn.LayerNorm(conv.in_channels), nn.Linear(conv.in_channels, hidden), nn.GELU())
        self.write = nn.Linear(hidden, sum(self.sizes))

    def forward(self, kernel: Tensor, centres: Tensor) -> Tensor:
        """A kernel [out, in, h, w] and class means [tasks, way, in] → kernels [tasks, out, in, h, w]."""
        written = self.write(self.describe(centres).mean(1))
        u, v = written.split(self.sizes, -1)
        change = u.unflatten(-1, (-1, self.rank)) @ v.unflatten(-1, (self.rank, -1))
        return kernel + self.size_of_change * change.unflatten(-1, kernel.shape[1:])


class HyperNetwork(MetricLearner):
    """θ is an encoder and the writers; adapt writes weights, predict uses them: logits are w_k·f(x) + b_k.

    network: as in MetricLearner; with "network" it must have `blocks`, after which the features are made flat.
    writes: "head", or "network": also the kernel of the last block. hidden: width of the writers. rank: of what is
    added to the kernel.

    state: weight [tasks, way, D] and bias [tasks, way] of the head; with "network" also kernel [tasks, out, in, h, w].
    """

    def __init__(self, network: nn.Module, *, writes: str = "head", hidden: int = 256, rank: int = 4):
        super().__init__(network)
        if writes not in ("head", "network"):
            raise CourseError(f"writes is {writes!r}; use head, or network for the last block's kernel too")
        for what, value in {"hidden": hidden, "rank": rank}.items():
            check_positive(what, value)
        self.head = HeadWriter(parts.embedding_size(network, "HyperNetwork"), hidden)
        self.kernel = None
        if writes == "network":
            last = list(getattr(network, "blocks", ()))[-1:]
            there = bool(last) and hasattr(last[0], "finish") and isinstance(getattr(last[0], "conv", None), nn.Conv2d)
            what = "blocks, of which the last has a conv and a finish(x)"
            parts.check_has(there and last[0].conv.bias is not None, network, "HyperNetwork('network')", what)
            self.kernel = KernelWriter(last[0].conv, hidden, rank)

    def encode(self, x: Tensor) -> Tensor:
        """[tasks, n, C, H, W] → what all tasks share: features [tasks, n, D], or the maps that enter the last block."""
        if self.kernel is None:
            return super().encode(x)
        maps = x.flatten(0, 1)
        for block in self.network.blocks[:-1]:
            maps = block(maps)
        return maps.unflatten(0, x.shape[:2])

    def _written(self, maps: Tensor, support_y: Tensor) -> Tensor:
        """A kernel for each task [tasks, out, in, h, w]."""
        centres = prototypes(maps.mean((-2, -1)), support_y, way_of(support_y))
        return self.kernel(self.network.blocks[-1].conv.weight, centres)

    def _last_block(self, kernel: Tensor, maps: Tensor) -> Tensor:
        """The last block with a kernel of each task's own: maps [tasks, n, C, H, W] → features [tasks, n, D]."""
        block, (tasks, n) = self.network.blocks[-1], maps.shape[:2]
        side_by_side = F.conv2d(  # the tasks are the groups of one wide convolution
            maps.transpose(0, 1).flatten(1, 2), kernel.flatten(0, 1), block.conv.bias.repeat(tasks),
            block.conv.stride, block.conv.padding, groups=tasks,
        )  # fmt: skip
        out = side_by_side.unflatten(1, (tasks, -1)).transpose(0, 1).flatten(0, 1)
        return block.finish(out).flatten(1).unflatten(0, (tasks, n))

    def keep(self, z: Tensor, support_y: Tensor) -> State:
        written = {}
        if self.kernel is not None:
            written["kernel"] = self._written(z, support_y)
            z = self._last_block(written["kernel"], z)
        return written | self.head(prototypes(z, support_y, way_of(support_y)))

    def compare(self, state: State, z: Tensor) -> Tensor:
        if self.kernel is not None:
            z = self._last_block(state["kernel"], z)
        return z @ state["weight"].transpose(1, 2) + state["bias"].unsqueeze(1)

    def outer_process(self, batch, **how) -> tuple[Tensor, Tensor]:
        if self.kernel is None:
            return super().outer_process(batch, **how)
        sizes = [batch.support_x.shape[1], batch.query_x.shape[1]]
        maps = self.encode(torch.cat([batch.support_x, batch.query_x], 1))
        kernel = self._written(maps[:, : sizes[0]], batch.support_y)
        # One pass through the last block too, so that in training support and queries see the same batch statistics.
        support, query = self._last_block(kernel, maps).split(sizes, 1)
        head = self.head(prototypes(support, batch.support_y, way_of(batch.support_y)))
        logits = query @ head["weight"].transpose(1, 2) + head["bias"].unsqueeze(1)
        return self.loss(logits, batch.query_y), logits


register(
    "hypernet",
    learner=HyperNetwork,
    help="a network writes the classifier's weights",
    title="hypernetwork",
    paper=Paper("Ha, Dai, Le", "HyperNetworks", 2017, "https://arxiv.org/abs/1609.09106"),
    network=ENCODER,
    recipes=recipes_of_encoders(5000),  # a head is written class by class, as prototypes are
)
