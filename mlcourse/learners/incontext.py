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

from mlcourse.episodes import check_positive
from mlcourse.errors import CourseError
from mlcourse.learners.base import State, accuracy, way_of
from mlcourse.learners.metric import MetricLearner, members


class Layer(nn.Module):
    """One transformer layer. Support tokens attend to the support set; a query token to the support set and to itself.

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

    def _projected(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [tasks, heads, tokens, width / heads]."""
        x = self.before_attention(tokens)
        made = (self.to_queries(x), self.to_keys(x), self.to_values(x))
        return tuple(one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in made)

    def _finished(self, tokens: Tensor, read: Tensor) -> Tensor:
        tokens = tokens + self.join(read.transpose(1, 2).flatten(2))
        return tokens + self.step(self.before_step(tokens))

    def support(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[tasks, support, width] → the next tokens, and the keys and values that queries will read."""
        queries, keys, values = self._projected(tokens)
        read = F.scaled_dot_product_attention(queries, keys, values)
        return self._finished(tokens, read), keys, values

    def query(self, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[tasks, queries, width] → the next tokens. Each query adds one key and value, its own, to the support's."""
        queries, own_keys, own_values = self._projected(tokens)
        queries = queries / queries.shape[-1] ** 0.5
        scores = torch.cat([queries @ keys.transpose(-1, -2), (queries * own_keys).sum(-1, keepdim=True)], -1)
        shares = scores.softmax(-1)  # [tasks, heads, queries, support + 1]
        return self._finished(tokens, shares[..., :-1] @ values + shares[..., -1:] * own_values)


class InContextLearner(MetricLearner):
    """θ is an encoder and a transformer; adapt reads the support set; predict lets each query attend to what was read.

    It is inductive: a query sees the support set and itself, no other query. New names for the classes permute the
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
        self.project = nn.Sequential(nn.LayerNorm(network.embedding_size), nn.Linear(network.embedding_size, width))
        self.labels = nn.Parameter(torch.randn(most_ways, width))
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
        drawn = torch.rand(tasks, self.most_ways, generator=generator).argsort(1)[:, :way]
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
            tokens = layer.query(tokens, state["keys"][:, index], state["values"][:, index])
        return self.scale * self.last(tokens) @ state["labels"].transpose(1, 2)

    def outer_loss(
        self, batch, *, step: int = 0, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """As in MetricLearner, with label vectors that `generator` draws for each task (None: the first)."""
        labels = self.assigned(batch.support_y, generator)
        z = self._encode(torch.cat([batch.support_x, batch.query_x], 1))
        support, query = z.split([batch.support_x.shape[1], batch.query_x.shape[1]], 1)
        logits = self.compare(self.keep(support, batch.support_y, labels), query)
        return self.loss(logits, batch.query_y), {"accuracy": accuracy(logits, batch.query_y)}
