"""Relation networks: the comparison is learned too. A small network looks at two feature maps and scores them.

Sung, Yang, Zhang, Xiang, Torr, Hospedales, *Learning to Compare: Relation Network for Few-Shot Learning*, 2018,
https://arxiv.org/abs/1711.06025. With the paper's symbols:

    r(i, j) = g(C(f(xᵢ), f(xⱼ)))        loss: Σᵢⱼ (r(i, j) − 1[yᵢ = yⱼ])²        (equations 1 and 2)

f is the encoder, C sets two maps one behind the other in depth, g is the relation module, r a score in (0, 1). The map
of a class is the sum of its support images' maps.

Choices of this file: the loss is the mean over all pairs, where the paper writes the sum; convolutions pad, so that a
28 × 28 image gives maps of 7 × 7 and the poolings of g make 3 × 3 and 1 × 1 of them.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.episodes import check_positive
from mlcourse.errors import CourseError
from mlcourse.learners.base import State, way_of
from mlcourse.learners.methods import Paper, register
from mlcourse.learners.metric import MetricLearner, members
from mlcourse.learners.prototypical import ENCODER, recipes_of_encoders
from mlcourse.networks import normalisation_of, parts
from mlcourse.networks.conv4 import Block


class RelationModule(nn.Module):
    """g: two blocks of convolution, normalisation, ReLU and pooling, then two linear layers and a sigmoid.

    channels, size: of a feature map [channels, size, size]. hidden: numbers between the two linear layers.
    """

    def __init__(self, channels: int, size: int, normalisation: str, hidden: int):
        super().__init__()
        if size < 4:
            raise CourseError(
                f"feature maps of {size} × {size} vanish in two poolings; give larger images or fewer halvings"
            )
        self.first = Block(2 * channels, channels, normalisation, "pool")
        self.second = Block(channels, channels, normalisation, "pool")
        self.inner = nn.Linear(channels * (size // 4) ** 2, hidden)
        self.outer = nn.Linear(hidden, 1)

    def forward(self, classes: Tensor, queries: Tensor) -> Tensor:
        """Scores [tasks, queries, way] of all pairs: maps [tasks, way, C, h, w] and [tasks, queries, C, h, w].

        A convolution of two maps in depth is the sum of one convolution of each. So each map is convolved once, and not
        once for each pair; the numbers are the same.
        """
        conv, channels = self.first.conv, classes.shape[2]
        of_class, of_query = conv.weight.split(channels, 1)
        a = F.conv2d(classes.flatten(0, 1), of_class, conv.bias, padding=1).unflatten(0, classes.shape[:2])
        b = F.conv2d(queries.flatten(0, 1), of_query, padding=1).unflatten(0, queries.shape[:2])
        pairs = a.unsqueeze(1) + b.unsqueeze(2)  # [tasks, queries, way, C, h, w]
        x = self.second(self.first.finish(pairs.flatten(0, 2).contiguous(memory_format=torch.channels_last)))
        scores = torch.sigmoid(self.outer(F.relu(self.inner(x.flatten(1)))))
        return scores.view(pairs.shape[:3])


class RelationNetwork(MetricLearner):
    """θ is the encoder f and the relation module g; adapt sums maps; predict scores each query against each class.

    network: as in MetricLearner, with `features(x)`, maps of `feature_shape`. hidden: as in RelationModule; the paper
    has 8. What predict returns are scores in (0, 1), the largest for the class that a query is most like.
    """

    def __init__(self, network: nn.Module, *, hidden: int = 8):
        super().__init__(network)
        check_positive("hidden", hidden)
        shape = getattr(network, "feature_shape", ())
        there = hasattr(network, "features") and len(shape) == 3 and shape[1] == shape[2]
        parts.check_has(there, network, "RelationNetwork", "features(x), square maps of a feature_shape (C, h, w)")
        channels, size, _ = shape
        self.relation = RelationModule(channels, size, normalisation_of(network), hidden)

    def encode(self, x: Tensor) -> Tensor:
        """Feature maps: [tasks, images, C, H, W] → [tasks, images, channels, h, w]."""
        return self.network.features(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def keep(self, z: Tensor, support_y: Tensor) -> State:
        of_class = members(support_y, way_of(support_y), z.dtype)
        return {"maps": torch.einsum("tnk,tnchw->tkchw", of_class, z)}

    def compare(self, state: State, z: Tensor) -> Tensor:
        return self.relation(state["maps"], z)

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The mean squared error of scores [tasks, queries, way]: 1 is right, 0 for others."""
        wanted = F.one_hot(target, prediction.shape[-1]).to(prediction.dtype)
        return F.mse_loss(prediction, wanted)


register(
    "relation",
    learner=RelationNetwork,
    help="a small network compares maps",
    title="relation networks",
    paper=Paper(
        "Sung, Yang, Zhang, Xiang, Torr, Hospedales",
        "Learning to Compare: Relation Network for Few-Shot Learning",
        2018,
        "https://arxiv.org/abs/1711.06025",
    ),
    published={
        "omniglot 5-way 1-shot": 99.6,
        "omniglot 5-way 5-shot": 99.8,
        "omniglot 20-way 1-shot": 97.6,
        "omniglot 20-way 5-shot": 99.1,
    },
    setting="a split of 1,200 and 423 characters; normalisation not looked up",
    network=ENCODER | {"halvings": 2},  # as in the paper: its maps are large
    # It looks at every pair of a query and a class, so tasks are smaller. No paper recipe: Sung et al. state no number
    # of steps.
    recipes=recipes_of_encoders(5000, train_way=20, rate=3e-3),
)
