"""Matching networks: a query's label is a mean of the support labels, weighted by attention.

Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra, *Matching Networks for One Shot Learning*, 2016,
https://arxiv.org/abs/1606.04080. With the paper's symbols:

    ŷ = Σᵢ a(x̂, xᵢ) yᵢ        (equation 1)        a(x̂, xᵢ) = exp c(f(x̂), g(xᵢ)) / Σⱼ exp c(f(x̂), g(xⱼ))

c is the cosine, and f = g is one encoder. Left out: full context embeddings, the recurrent networks that would embed
each image in the light of the whole support set. They read the support set one image after another, so an answer would
depend on an order that means nothing. Prototypical networks differ from this in nothing but the mean: with one image a
class, cosines and the same temperature the two are the same learner.
"""

import torch
from torch import Tensor, nn

from mlcourse.learners.base import State, way_of
from mlcourse.learners.methods import Paper, register
from mlcourse.learners.metric import MetricLearner, cosines, log_of, members
from mlcourse.learners.prototypical import ENCODER, recipes_of_encoders


class MatchingNetwork(MetricLearner):
    """θ is the encoder; adapt keeps the embedded support set; predict attends to it.

    network: as in MetricLearner. temperature: the cosines are divided by it; 1 is the paper's softmax.
    learned: whether the temperature is an outer parameter, learned as its logarithm. The paper has none, and its
    attention can never be sure of an answer, since cosines lie in [−1, 1]: with one image of each of five classes it
    gives at most 65 % to one of them.

    Logits are log-probabilities: log Σ a(x̂, xᵢ) over the support images of a class. They sum to 1 after exp.
    """

    def __init__(self, network: nn.Module, *, temperature: float = 1.0, learned: bool = False):
        super().__init__(network)
        self.log_temperature = log_of("temperature", temperature).requires_grad_(learned)

    def keep(self, z: Tensor, support_y: Tensor) -> State:
        return {"support": z, "members": members(support_y, way_of(support_y), torch.bool)}

    def compare(self, state: State, z: Tensor) -> Tensor:
        attention = (cosines(z, state["support"]) / self.log_temperature.exp()).log_softmax(-1)  # [tasks, queries, n]
        other = ~state["members"].unsqueeze(1)  # [tasks, 1, n, way]
        return attention.unsqueeze(-1).masked_fill(other, -torch.inf).logsumexp(2)


register(
    "matching",
    learner=MatchingNetwork,
    help="attends to each support image",
    title="matching networks",
    paper=Paper(
        "Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra",
        "Matching Networks for One Shot Learning",
        2016,
        "https://arxiv.org/abs/1606.04080",
    ),
    published={
        "omniglot 5-way 1-shot": 98.1,
        "omniglot 5-way 5-shot": 98.9,
        "omniglot 20-way 1-shot": 93.8,
        "omniglot 20-way 5-shot": 98.5,
    },
    setting="Vinyals split",
    network=ENCODER,
    # No paper recipe: Vinyals et al. state no outer rate and no number of steps.
    # The paper's softmax of plain cosines learns far more slowly with this many ways. On validation classes of Omniglot
    # after 600 steps: 86.6 % without, 96.2 % with a learned temperature (5-way 1-shot; 69.5 % and 88.5 % at 20 ways).
    recipes=recipes_of_encoders(6000, options={"temperature": 0.1, "learned": True}),
)
