"""Learning in context: one network reads the support set and the query, and answers. Nothing is fitted in between.

This is the black-box family. Santoro et al., *One-shot Learning with Memory-Augmented Neural Networks*, 2016,
https://arxiv.org/abs/1605.06065 (a recurrent network with a memory); Mishra et al., *A Simple Neural Attentive
Meta-Learner* (SNAIL), 2018, https://arxiv.org/abs/1707.03141 (convolutions over time and attention); Kirsch et al.,
*General-Purpose In-Context Learning by Meta-Learning Transformers*, 2022, https://arxiv.org/abs/2212.04458.

Choices of this file. The first two read the images one after another, so the order of the support set matters. Here it
does not: the tokens carry no position. As in SNAIL a query token holds no label. Layers normalise before they compute
(Xiong et al. 2020, https://arxiv.org/abs/2002.04745). Embeddings are taken relative to the support set's mean.

From ordinary random weights such a learner stays at chance for long: it must find at the same time what to attend to
and what to do with what it reads. Kirsch et al. describe such plateaus. Here the first weights give a start: queries
and keys are projected alike, so that an image attends to images like it, and the matrix behind the values is undone by
the one that joins the heads, so that the label read arrives as that label. Training may move all of them apart.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.episodes import check_positive, uniform_of_tasks
from mlcourse.errors import CourseError
from mlcourse.learners.base import State, way_of
from mlcourse.learners.methods import Paper, register
from mlcourse.learners.metric import MetricLearner, members
from mlcourse.learners.prototypical import ENCODER, recipes_of_encoders
from mlcourse.networks import parts


class Layer(nn.Module):
    """One transformer layer, in which all tokens, of support images and of queries, attend to the support tokens.

    No query attends to another one. Nor to its own key: that one is always the most alike and would win the attention,
    and what a token is itself it carries along anyway, in the sum (the residual path).

    width: numbers a token. heads: attention heads; each has width / heads numbers.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_step = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_queries, self.to_values, self.join = (nn.Linear(width, width) for _ in range(3))
        self.to_keys = nn.Linear(width, width, bias=False)  # one would add the same to all scores of a query: nothing
        self.step = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        with torch.no_grad():  # attention starts as likeness, and hands on what it reads (see above)
            self.to_queries.weight.normal_(std=(2 / width) ** 0.5)
            self.to_keys.weight.copy_(self.to_queries.weight)
            nn.init.orthogonal_(self.to_values.weight)
            self.join.weight.copy_(self.to_values.weight.T)

    def _heads(self, projection: nn.Linear, tokens: Tensor) -> Tensor:
        """[tasks, tokens, width] → [tasks, heads, tokens, width / heads]."""
        return projection(self.before_attention(tokens)).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def support(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Support tokens [tasks, support, width] → the next ones, and the keys and values that all tokens read."""
        keys, values = self._heads(self.to_keys, tokens), self._heads(self.to_values, tokens)
        return self(tokens, keys, values), keys, values

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Tokens [tasks, any number, width] → the next ones, each by itself, given the support's keys and values."""
        read = F.scaled_dot_product_attention(self._heads(self.to_queries, tokens), keys, values)
        tokens = tokens + self.join(read.transpose(1, 2).flatten(2))
        return tokens + self.step(self.before_step(tokens))


class InContextLearner(MetricLearner):
    """θ is an encoder and a transformer; adapt reads the support set; predict lets each query attend to what was read.

    It is inductive: a query reads the support set and no other query. New names for the classes permute the
    logits only if the classes keep their label vectors: the learner has to learn that names mean nothing.
    A support token is the projected embedding of an image plus the vector of its label; a query token is the same with
    the vector "unknown". Logits are the products of a query's last token with the label vectors.
    network: an encoder without a head, as in prototypical networks. width, heads, layers: of the transformer.
    most_ways: how many label vectors there are, the most classes of a task. Label k has vector k, but where a
    `generator` is given (training gives one) each task draws its vectors anew: no label is special, and all vectors are
    trained, also those beyond the way of training.

    state: keys, values [tasks, layers, heads, support, width / heads], the support set as the queries of each layer
    read it; centre [tasks, 1, D], its mean embedding; labels [tasks, way, width], the label vectors.
    """

    def __init__(self, network: nn.Module, *, width: int = 128, heads: int = 4, layers: int = 2, most_ways: int = 20):
        super().__init__(network)
        for what, value in {"width": width, "heads": heads, "layers": layers, "most_ways": most_ways}.items():
            check_positive(what, value)
        if width % heads:
            raise CourseError(f"width {width} does not divide into {heads} heads; give a multiple of {heads}")
        self.most_ways = most_ways
        size = parts.embedding_size(network, "InContextLearner")
        self.project = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width))
        self.labels = nn.Parameter(0.5 * torch.randn(most_ways, width))  # images have the larger part in a token
        self.unknown = nn.Parameter(torch.zeros(width))
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.last = nn.LayerNorm(width)
        self.scale = nn.Parameter(torch.tensor(width**-0.5))

    def assigned(self, support_y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The label vectors [tasks, way, width]: the first ones, or with a generator other ones for each task."""
        tasks, way = len(support_y), way_of(support_y)
        if way > self.most_ways:
            raise CourseError(
                f"the support set has {way} classes, but this learner has vectors for {self.most_ways} labels; "
                f"build it with most_ways={way}"
            )
        if generator is None:
            return self.labels[:way].repeat(tasks, 1, 1)
        drawn = uniform_of_tasks(tasks, self.most_ways, generator=generator).argsort(1)[:, :way]
        return self.labels[drawn.to(self.labels.device)]

    def keep(self, z: Tensor, support_y: Tensor, labels: Tensor | None = None) -> State:
        """The support set's embeddings as keys and values of each layer. labels: label vectors (None: the first)."""
        if labels is None:
            labels = self.assigned(support_y)
        centre = z.mean(1, keepdim=True)
        tokens = self.project(z - centre) + members(support_y, labels.shape[1], z.dtype) @ labels
        keys, values = [], []
        for layer in self.layers:
            tokens, key, value = layer.support(tokens)
            keys.append(key)
            values.append(value)
        return {"centre": centre, "keys": torch.stack(keys, 1), "values": torch.stack(values, 1), "labels": labels}

    def compare(self, state: State, z: Tensor) -> Tensor:
        tokens = self.project(z - state["centre"]) + self.unknown
        for index, layer in enumerate(self.layers):
            tokens = layer(tokens, state["keys"][:, index], state["values"][:, index])
        return self.scale * self.last(tokens) @ state["labels"].transpose(1, 2)

    def outer_process(self, batch, generator=None, **_) -> tuple[Tensor, Tensor]:
        """As in MetricLearner, with label vectors that `generator` draws for each task (None: the first)."""
        labels = self.assigned(batch.support_y, generator)
        z = self.encode(torch.cat([batch.support_x, batch.query_x], 1))
        support, query = z.split([batch.support_x.shape[1], batch.query_x.shape[1]], 1)
        logits = self.compare(self.keep(support, batch.support_y, labels), query)
        return self.loss(logits, batch.query_y), logits


register(
    "incontext",
    learner=InContextLearner,
    help="a transformer reads the support set and the query",
    title="in-context learner",
    paper=Paper(
        "Mishra, Rohaninejad, Chen, Abbeel",
        "A Simple Neural Attentive Meta-Learner",
        2018,
        "https://arxiv.org/abs/1707.03141",
    ),
    published={
        "omniglot 5-way 1-shot": 99.07,
        "omniglot 5-way 5-shot": 99.78,
        "omniglot 20-way 1-shot": 97.64,
        "omniglot 20-way 5-shot": 99.36,
    },
    setting="another network, SNAIL; a split of 1,200 and 423 characters; normalisation not looked up",
    network=ENCODER,
    # What is read depends on the whole task, so it sees several tasks per step.
    recipes=recipes_of_encoders(5000, tasks=4, train_way=20, query=4, rate=1e-3),
)
