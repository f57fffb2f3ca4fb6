"""The checks of notebook 04: written weights, a written head, modulation, the mask, layer augmentation, the memory.

Oracles share no code with the package or with each other: products and sums written out, loops in place of broadcasts.

Ha, Dai, Le, *HyperNetworks*, 2017, https://arxiv.org/abs/1609.09106; Munkhdalai, Yu, *Meta Networks*, 2017,
https://arxiv.org/abs/1703.00837; Perez et al., *FiLM*, 2018, https://arxiv.org/abs/1709.07871.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mlcourse.teaching.checks import Check, close, relative_error
from mlcourse.teaching.oracles import Unnamed, first_mistake, randn

Tensors = dict[str, Tensor]
F64 = torch.float64
RTOL = 2e-4  # an answer that computes in float32 passes; the mistakes below are off by far more
_close = partial(close, rtol=RTOL)
_first = partial(first_mistake, rtol=RTOL)


# ------------------------------------------------------------------ 04.1 run a network with written weights


def _small_network(inputs: int, hidden: int, outputs: int) -> Callable[[torch.Generator], Tensors]:
    """x [4, inputs], weights of the network's own and written ones, and what the slope is taken of."""

    def make(generator: torch.Generator) -> Tensors:
        numbers = hidden * (inputs + 1) + outputs * (hidden + 1)
        sizes = torch.tensor([inputs, hidden, outputs])
        own, written = randn(generator, numbers), randn(generator, numbers)
        x, push = randn(generator, 4, inputs), randn(generator, 4, outputs)
        return {"sizes": sizes, "x": x, "own": own, "written": written, "push": push}

    return make


def _network(sizes: Tensor, own: Tensor) -> nn.Sequential:
    inputs, hidden, outputs = sizes.tolist()
    network = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).double()
    nn.utils.vector_to_parameters(own.clone(), network.parameters())
    # as of a batch normalisation: state_dict() holds it too, named_parameters() does not
    network.register_buffer("seen", torch.zeros(2, dtype=own.dtype))
    return network


def _written_probe(answer: Callable, inputs: Tensors) -> Tensors:
    network = _network(inputs["sizes"], inputs["own"])
    written = inputs["written"].clone().requires_grad_()
    out = answer(network, written, inputs["x"])
    slope = _slope([out], [inputs["push"]], written)
    kept = torch.cat([value.detach().flatten() for value in network.parameters()])
    return {"output": out, "slope": slope, "network's own parameters": kept}


def _slope(results: Sequence[object], pushes: Sequence[Tensor], leaf: Tensor) -> Tensor:
    """d(Σ push · result)/d(leaf); a result that is no tensor with a graph, or of another shape, adds nothing."""
    pushed = [
        (result.double() * push).sum()
        for result, push in zip(results, pushes, strict=True)
        if isinstance(result, Tensor) and result.requires_grad and result.shape == push.shape
    ]
    if not pushed:
        return torch.zeros_like(leaf)
    return torch.autograd.grad(sum(pushed), leaf, allow_unused=True, materialize_grads=True)[0]


def _by_hand(sizes: Tensor, numbers: Tensor, x: Tensor, cut: Callable) -> Tensor:
    """The small network, with its four parameters cut from `numbers` by `cut(numbers, inputs, hidden, outputs)`."""
    first, first_bias, second, second_bias = cut(numbers, *sizes.tolist())
    return torch.tanh(x @ first.T + first_bias) @ second.T + second_bias


def _cut(numbers: Tensor, inputs: int, hidden: int, outputs: int) -> tuple[Tensor, ...]:
    a, b, c, d = numbers.split([hidden * inputs, hidden, outputs * hidden, outputs])
    return a.reshape(hidden, inputs), b, c.reshape(outputs, hidden), d


def _cut_biases_first(numbers: Tensor, inputs: int, hidden: int, outputs: int) -> tuple[Tensor, ...]:
    b, a, d, c = numbers.split([hidden, hidden * inputs, outputs, outputs * hidden])
    return a.reshape(hidden, inputs), b, c.reshape(outputs, hidden), d


def _cut_columns(numbers: Tensor, inputs: int, hidden: int, outputs: int) -> tuple[Tensor, ...]:
    a, b, c, d = numbers.split([hidden * inputs, hidden, outputs * hidden, outputs])
    return a.reshape(inputs, hidden).T, b, c.reshape(hidden, outputs).T, d


def _cut_from_behind(numbers: Tensor, inputs: int, hidden: int, outputs: int) -> tuple[Tensor, ...]:
    d, c, b, a = numbers.split([outputs, outputs * hidden, hidden, hidden * inputs])
    return a.reshape(hidden, inputs), b, c.reshape(outputs, hidden), d


def _cut_each_from_the_start(numbers: Tensor, inputs: int, hidden: int, outputs: int) -> tuple[Tensor, ...]:
    a, c = numbers[: hidden * inputs], numbers[: outputs * hidden]
    return a.reshape(hidden, inputs), numbers[:hidden], c.reshape(outputs, hidden), numbers[:outputs]


def _cut_on_by_rows(numbers: Tensor, inputs: int, hidden: int, outputs: int) -> tuple[Tensor, ...]:
    starts = (0, hidden, 2 * hidden, 2 * hidden + outputs)
    lengths = (hidden * inputs, hidden, outputs * hidden, outputs)
    a, b, c, d = (numbers[start:][:length] for start, length in zip(starts, lengths))
    return a.reshape(hidden, inputs), b, c.reshape(outputs, hidden), d


def _cut_from_the_last_length(numbers: Tensor, inputs: int, hidden: int, outputs: int) -> tuple[Tensor, ...]:
    a, b = numbers[: hidden * inputs], numbers[hidden * inputs :][:hidden]
    c, d = numbers[hidden:][: outputs * hidden], numbers[outputs * hidden :][:outputs]
    return a.reshape(hidden, inputs), b, c.reshape(outputs, hidden), d


def _written_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    sizes, x, own = inputs["sizes"], inputs["x"], inputs["own"]
    if not torch.equal(outputs["network's own parameters"], own):
        return (
            "You put the numbers into the network for good: its own parameters have changed, and no gradient reaches "
            "the writer. functional_call uses them for one call only."
        )
    written = inputs["written"].requires_grad_()
    right = _by_hand(sizes, written, x, _cut)
    if _close(outputs["output"], right.detach()):
        if _close(outputs["slope"], _slope([right], [inputs["push"]], written)):
            return None
        return (
            "The output is right, but no gradient (or a wrong one) reaches the written numbers, so the writer could "
            "never learn. Look for .detach(), .data, no_grad(), torch.tensor(...) or nn.Parameter(...)."
        )
    numbers = inputs["written"].detach()

    def with_own_biases(written: Tensor, *lengths: int) -> tuple[Tensor, ...]:
        (first, _, second, _), (_, bias, _, last_bias) = _cut(written, *lengths), _cut(own, *lengths)
        return first, bias, second, last_bias

    def with_own_first(written: Tensor, *lengths: int) -> tuple[Tensor, ...]:
        return *_cut(own, *lengths)[:2], *_cut(written, *lengths)[2:]

    def without_biases(written: Tensor, *lengths: int) -> tuple[Tensor, ...]:
        first, bias, second, last_bias = _cut(written, *lengths)
        return first, 0 * bias, second, 0 * last_bias

    mistakes = {
        "This is the network's own answer: the written numbers are not used.": _by_hand(sizes, own, x, _cut),
        "The written numbers were added to the network's own. They stand in their place.": _by_hand(
            sizes, own + numbers, x, _cut
        ),
        "The biases are 0. They are written, too.": _by_hand(sizes, numbers, x, without_biases),
        "The first layer is still the network's own: all of its parameters are written.": _by_hand(
            sizes, numbers, x, with_own_first
        ),
        "The biases are still the network's own. They are written, too.": _by_hand(sizes, numbers, x, with_own_biases),
        "Each bias is taken before its weight. Cut in the order of network.named_parameters(): weight, then bias.": (
            _by_hand(sizes, numbers, x, _cut_biases_first)
        ),
        "The weights are filled column by column. A Linear's weight is [out, in]: take value.shape as it is.": _by_hand(
            sizes, numbers, x, _cut_columns
        ),
        "You cut from the end, or go through the parameters backwards.": _by_hand(sizes, numbers, x, _cut_from_behind),
        "Every parameter is cut from the beginning of the vector. Go on where the last one ended.": _by_hand(
            sizes, numbers, x, _cut_each_from_the_start
        ),
        "Your counter goes on by the rows of a weight, len(value). Go on by all of its numbers, value.numel().": (
            _by_hand(sizes, numbers, x, _cut_on_by_rows)
        ),
        "Your counter forgets the earlier pieces: add the length of each piece to it (start += …, not start = …).": (
            _by_hand(sizes, numbers, x, _cut_from_the_last_length)
        ),
    }
    return _first(outputs["output"], mistakes) or Unnamed(
        f"The output is off by {relative_error(outputs['output'], right):.1e} of its size. Print the names, shapes and "
        "places of the pieces that you cut."
    )


def run_written_reference(network: nn.Module, written: Tensor, x: Tensor) -> Tensor:
    """The network's answer to x with `written` [P] in place of its parameters, in their order."""
    sizes = [value.numel() for value in network.parameters()]
    pieces = zip(network.named_parameters(), written.split(sizes))
    return functional_call(network, {name: piece.view_as(value) for (name, value), piece in pieces}, (x,))


run_written = Check(
    exercise="04.1",
    title="Run a network with written weights",
    inputs={"two in, three hidden, two out": _small_network(2, 3, 2), "all layers square": _small_network(3, 3, 3)},
    probe=_written_probe,
    judge=_written_judge,
    reference=run_written_reference,
)


# ------------------------------------------------------------------ 04.2 write a linear head


def support_of(counts: tuple[int, ...], features: int) -> Callable[[torch.Generator], Tensors]:
    """Features and labels of a support set, in random order, and the two layers of a writer."""

    def make(generator: torch.Generator) -> Tensors:
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        labels = labels[torch.randperm(len(labels), generator=generator)]
        first, second = randn(generator, features, 6), randn(generator, 6, features + 1)
        push = randn(generator, len(counts), features + 1)
        z = randn(generator, len(labels), features)
        return {"features": z, "labels": labels, "a": first, "b": second, "push": push}

    return make


def writer_of(inputs: Tensors) -> Callable[[Tensor], Tensor]:
    """[..., D] → [..., D + 1]; not linear, so that it matters what is averaged."""
    return lambda z: torch.tanh(z @ inputs["a"].to(z.dtype)) @ inputs["b"].to(z.dtype)


def _head_probe(answer: Callable, inputs: Tensors) -> Tensors:
    way = int(inputs["labels"].max()) + 1
    z = inputs["features"].clone().requires_grad_()
    made = answer(writer_of(inputs), z, inputs["labels"], way)
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise TypeError("it needs a pair, the weight [way, D] and the bias [way]")
    push = inputs["push"]
    return {"weight": made[0], "bias": made[1], "slope": _slope(made, [push[:, :-1], push[:, -1]], z)}


def _head_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    z, labels, write = inputs["features"].requires_grad_(), inputs["labels"], writer_of(inputs)
    way = int(labels.max()) + 1
    got = torch.cat([outputs["weight"].double(), outputs["bias"].double()[:, None]], 1)
    rows = [[i for i in range(len(labels)) if int(labels[i]) == k] for k in range(way)]
    sums = torch.stack([sum(z[i] for i in row) for row in rows])
    means = torch.stack([sum(z[i] for i in row) / len(row) for row in rows])
    right = write(means)
    if _close(got, right):
        if _close(outputs["slope"], _slope([right], [inputs["push"]], z)):
            return None
        return (
            "The head is right, but no gradient (or a wrong one) goes back from it through the writer to the features, "
            "so neither writer nor body could learn. Look for .detach(), .data, no_grad() or torch.tensor(...)."
        )
    z, right, sums, means = (value.detach() for value in (z, right, sums, means))
    swapped = torch.cat([right[:, 1:], right[:, :1]], 1)  # the first number as the bias
    each = write(z)
    mistakes = {
        "The first number became the bias. The first D numbers are the weights, the last one is the bias.": swapped,
        "The writer got the sum of a class's features. It reads their mean: else five shots shout louder than one.": (
            write(sums)
        ),
        "You wrote for each image and averaged what was written. Average the features first, then write.": (
            torch.stack([sum(each[i] for i in row) / len(row) for row in rows])
        ),
        "All classes got the same row, written from the mean of the whole support set. Take the mean of each class.": (
            write(z.mean(0)).expand(way, -1)
        ),
        "The head is the class means themselves: the writer was not called.": torch.cat([means, right[:, -1:]], 1),
        "The bias is 0. The writer gives it: the last of the D + 1 numbers.": torch.cat(
            [right[:, :-1], torch.zeros_like(right[:, -1:])], 1
        ),
        "The bias has the wrong sign. The writer gives it as it is added.": torch.cat(
            [right[:, :-1], -right[:, -1:]], 1
        ),
        "Only the last image of each class was read. Take the mean of all of them.": write(
            torch.stack([z[row[-1]] for row in rows])
        ),
        "The sum of a class is divided by the number of ALL images or classes. Divide it by those of its own.": write(
            sums / len(labels)
        ),
        "Only the first image of each class was read. Take the mean of all of them.": write(
            torch.stack([z[row[0]] for row in rows])
        ),
    }
    mistakes[
        "This is the formula of the prototypes, 2c and −‖c‖²: the writer was not called. Hand the means to it."
    ] = torch.cat([2 * means, -means.square().sum(1, keepdim=True)], 1)
    if len({len(row) for row in rows}) > 1:
        words = "Every sum is divided by the same number. Divide it by the number of images of its own class."
        mistakes[words] = write(sums * way / len(labels))
    if len(labels) % way == 0:
        words = "You averaged the images in the order in which they come. Go by their labels: features[labels == k]."
        mistakes[words] = write(z.view(way, -1, z.shape[1]).mean(1))
    return _first(got, mistakes) or Unnamed(
        f"The head is off by {relative_error(got, right):.1e} of its size. For class k: the mean of its features, the "
        "writer, then D numbers for the weight and the last one for the bias."
    )


def written_head_reference(
    writer: Callable[[Tensor], Tensor], features: Tensor, labels: Tensor, way: int
) -> tuple[Tensor, Tensor]:
    """weight [way, D] and bias [way] of a linear head, written from the mean features of each class."""
    rows = writer(torch.stack([features[labels == k].mean(0) for k in range(way)]))
    return rows[:, :-1], rows[:, -1]


written_head = Check(
    exercise="04.2",
    title="A written head",
    inputs={
        "three classes, one image each": support_of((1, 1, 1), 4),
        "three classes, two images each": support_of((2, 2, 2), 4),
        "four classes with 1 to 4 images": support_of((3, 1, 4, 2), 5),
    },
    probe=_head_probe,
    judge=_head_judge,
    reference=written_head_reference,
)


# ------------------------------------------------------------------ 04.3 modulate features


def _maps(tasks: int, images: int, channels: int, side: int) -> Callable[[torch.Generator], Tensors]:
    def make(generator: torch.Generator) -> Tensors:
        x = randn(generator, tasks, images, channels, side, side)
        return {"x": x, "gamma": randn(generator, tasks, channels), "beta": randn(generator, tasks, channels)}

    return make


def _along(x: Tensor, values: Tensor, task_dim: int, channel_dim: int) -> Tensor:
    """values [tasks, channels] spread over two chosen dimensions of x."""
    shape = [1] * x.dim()
    shape[task_dim], shape[channel_dim] = values.shape
    return (values if task_dim < channel_dim else values.T).reshape(shape)


def _modulate_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"modulated": answer(inputs["x"], inputs["gamma"], inputs["beta"])}


def _modulate_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    x, gamma, beta, got = inputs["x"], inputs["gamma"], inputs["beta"], outputs["modulated"]
    right = torch.stack(
        [
            torch.stack([(1 + gamma[t, c]) * x[t, :, c] + beta[t, c] for c in range(x.shape[2])], 1)
            for t in range(len(x))
        ]
    )
    if _close(got, right):
        return None
    g, b = (_along(x, value, 0, 2) for value in (gamma, beta))
    mistakes = {
        "With γ = 0 your result is β: the features are gone. Multiply by 1 + γ, so that writing nothing changes "
        "nothing.": g * x + b,
        "γ and β have changed places: 1 + γ multiplies, β is added.": (1 + b) * x + g,
        "The 1 is added to the channel, not to γ: put 1 + γ in brackets.": 1 + g * x + b,
        "β is added first and then multiplied too. Multiply, then add.": (1 + g) * (x + b),
        "β is not added.": (1 + g) * x,
        "β is subtracted. It is added.": (1 + g) * x - b,
        "γ is subtracted: 1 + γ multiplies.": (1 - g) * x + b,
        "This is γ·x alone: multiply by 1 + γ, then add β.": g * x,
        "All tasks got the numbers of the first one. Each task has its own γ and β.": (1 + g[:1]) * x + b[:1],
        "All channels of a task got the same numbers, the means of γ and β. Each channel has its own.": (
            (1 + g.mean(2, keepdim=True)) * x + b.mean(2, keepdim=True)
        ),
        "The scale is e^γ. It is 1 + γ.": g.exp() * x + b,
        "The scale is a sigmoid of γ. It is 1 + γ.": g.sigmoid() * x + b,
        "The result is scaled once more: (1 + γ) multiplies x alone, and once.": (1 + g) * ((1 + g) * x + b),
        "The 1 stands at β, too. It is (1 + γ)·x + β.": (1 + g) * x + 1 + b,
        "There is a ReLU around the result. It comes later, in the network.": F.relu((1 + g) * x + b),
    }
    square = len(set(x.shape)) == 1
    places = [(t, c) for t in range(5) for c in range(5) if t != c and (t, c) != (0, 2)] if square else []
    for t, c in places:
        names = ("tasks", "images", "channels", "rows", "columns")
        told = f"a task's own numbers run over {names[t]}, and γ_c over {names[c]}"
        wrong = (1 + _along(x, gamma, t, c)) * x + _along(x, beta, t, c)
        mistakes[
            f"The numbers meet the wrong dimensions: {told}. Broadcasting starts at the last dimension: give γ and β "
            "the shape [tasks, 1, C, 1, 1]."
        ] = wrong
    return _first(got, mistakes) or Unnamed(
        f"The result is off by {relative_error(got, right):.1e} of its size. For task t and channel c it is "
        "(1 + gamma[t, c]) * x[t, :, c] + beta[t, c]."
    )


def modulate_reference(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """(1 + γ)·x + β. x: [tasks, images, C, H, W]; gamma, beta: [tasks, C]."""
    gamma, beta = (value[:, None, :, None, None] for value in (gamma, beta))
    return (1 + gamma) * x + beta


modulate = Check(
    exercise="04.3",
    title="Feature modulation",
    inputs={"every size is 3": _maps(3, 3, 3, 3), "2 tasks, 4 images, 5 channels, 3 by 3": _maps(2, 4, 5, 3)},
    probe=_modulate_probe,
    judge=_modulate_judge,
    reference=modulate_reference,
)


# ------------------------------------------------------------------ 04.4 who may look at whom


def _sizes(support: int, queries: int) -> Callable[[torch.Generator], Tensors]:
    return lambda generator: {"support": torch.tensor(support), "queries": torch.tensor(queries)}


def _mask_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"mask": answer(int(inputs["support"]), int(inputs["queries"]))}


def _mask_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    s, q, got = int(inputs["support"]), int(inputs["queries"]), outputs["mask"]
    n = s + q
    right = (torch.arange(n) < s).expand(n, n)
    if torch.equal(got, right):
        return None
    of_support = torch.arange(n) < s
    everybody, eye = torch.ones(n, n, dtype=torch.bool), torch.eye(n, dtype=torch.bool)
    among_support = torch.tensor([[(row < s) == (column < s) for column in range(n)] for row in range(n)])
    support_alone = torch.tensor(
        [[column < s and row in (column, *range(s, n)) for column in range(n)] for row in range(n)]
    )
    mistakes = {
        "True and False have changed places: True means that this row may look at this column.": ~right,
        "Everybody looks at everybody: the answer to a query would depend on the other queries.": everybody,
        "This is the mask of a language model: each image looks at those before it. Here order means nothing.": (
            everybody.tril()
        ),
        "This is a triangle: each image looks at itself and at later ones. Here order means nothing.": everybody.triu(),
        "A query looks at itself, too. Some models have it so, and no query sees another; but here it is left out: "
        "nothing is more like a query than itself, and what it is, the sum carries on anyway.": right | eye,
        "True and False have changed places, and a query looks at itself. True means that this row may look at this "
        "column; the columns of the queries stay False.": ~(right | eye),
        "A support image looks at the queries: what is kept of the support set would depend on what is asked.": right
        | of_support[:, None],
        "The queries look at nothing. They must read the support set, else they cannot be answered.": right
        & of_support[:, None],
        "The support images look at nothing. They may look at each other, the queries look at them.": right
        & ~of_support[:, None],
        "A support image does not look at itself. It is one of the support images, and all may look at all of them.": (
            right & ~eye
        ),
        "Rows and columns have changed places: the row is the one that looks.": right.T,
        "A query looks at the other queries and not at the support set. It must be the other way round.": among_support,
        "The support images look at themselves only. They may look at the whole support set.": support_alone,
        "Each image looks at itself alone. All look at the support set.": eye,
        "A query looks at itself and at those before it. No query sees another one: their order means nothing.": (
            right | everybody.tril()
        ),
        "The support images look at themselves only, and a query looks at itself. All look at the whole support set, "
        "and at nothing else.": support_alone | eye,
    }
    found = next((diagnosis for diagnosis, wrong in mistakes.items() if torch.equal(got, wrong)), None)
    if found := found or _mask_columns(got, s, q):
        return found
    row, column = (got != right).nonzero()[0].tolist()
    who = [f"support image {i}" if i < s else f"query {i - s}" for i in (row, column)]
    may = "may" if right[row, column] else "must not"
    return Unnamed(f"{who[0]} {may} look at {who[1]} (row {row}, column {column}); your mask says the opposite.")


def _mask_columns(got: Tensor, support: int, queries: int) -> str | None:
    """What is said of a mask in which all rows look at the same columns, and these are not the support's."""
    columns = torch.arange(support + queries)
    if torch.equal(got, (columns >= queries).expand_as(got)):
        return "The support images stand last in your mask. They come first: the first columns are theirs."
    for many, words in (
        (support + 1, "Everybody looks at the first query, too: there is one column too many, `:support` is enough."),
        (support - 1, "Nobody looks at the last support image: there is one column too few, take `:support`."),
        (
            queries,
            "As many columns as there are QUERIES are looked at: they must be as many as there are support images.",
        ),
        (5, "The first five columns are looked at, whatever the sizes: write `support` in place of the number."),
    ):
        if torch.equal(got, (columns < many).expand_as(got)):
            return words
    return None


def mask_reference(support: int, queries: int) -> Tensor:
    """bool [support + queries, support + queries]: row may look at column; the support images come first."""
    everybody = support + queries
    return (torch.arange(everybody) < support).expand(everybody, everybody)


mask = Check(
    exercise="04.4",
    title="Who may look at whom",
    # no size is five, and none is another one plus or minus 1: each slip shows its own columns
    inputs={"three support images, six queries": _sizes(3, 6), "seven support images, two queries": _sizes(7, 2)},
    probe=_mask_probe,
    judge=_mask_judge,
    reference=mask_reference,
)


# ------------------------------------------------------------------ 04.5 layer augmentation


def _layer(inputs: int, outputs: int) -> Callable[[torch.Generator], Tensors]:
    def make(generator: torch.Generator) -> Tensors:
        return {
            "x": randn(generator, 24, inputs),  # enough that each ReLU cuts somewhere
            "slow_weight": randn(generator, outputs, inputs),
            "slow_bias": randn(generator, outputs),
            "fast_weight": randn(generator, outputs, inputs),
            "fast_bias": randn(generator, outputs),
        }

    return make


def _augmented_probe(answer: Callable, inputs: Tensors) -> Tensors:
    names = ("x", "slow_weight", "slow_bias", "fast_weight", "fast_bias")
    return {"output": answer(*(inputs[name] for name in names))}


def _augmented_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    x, got = inputs["x"], outputs["output"]
    slow = torch.einsum("nd,hd->nh", x, inputs["slow_weight"]) + inputs["slow_bias"]
    fast = torch.einsum("nd,hd->nh", x, inputs["fast_weight"]) + inputs["fast_bias"]

    def relu(z: Tensor) -> Tensor:
        return z * (z > 0)

    right = relu(slow) + relu(fast)
    if _close(got, right):
        return None
    mistakes = {
        "This adds before the ReLU: the same as ONE layer with the weights W + W*. Each layer has its own ReLU, then "
        "add.": relu(slow + fast),
        "This is the slow layer alone.": relu(slow),
        "This is the fast layer alone. The slow one stays: it knows what all tasks have in common.": relu(fast),
        "There is no ReLU at all: two linear layers in parallel are one linear layer.": slow + fast,
        "The ReLU of the fast layer is missing.": relu(slow) + fast,
        "The ReLU of the slow layer is missing.": slow + relu(fast),
        "You halve the sum: it is a sum, not a mean.": right / 2,
        "The fast layer is subtracted. Add it.": relu(slow) - relu(fast),
        "This is the larger of the two. Add them.": torch.maximum(relu(slow), relu(fast)),
        "The two results are multiplied. Add them.": relu(slow) * relu(fast),
        "The slow layer is counted twice, and the fast one is missing.": 2 * relu(slow),
        "The two layers share the slow bias. The fast layer has its own.": relu(slow)
        + relu(fast - inputs["fast_bias"] + inputs["slow_bias"]),
        "The fast bias is missing.": relu(slow) + relu(fast - inputs["fast_bias"]),
        "The slow bias is missing.": relu(slow - inputs["slow_bias"]) + relu(fast),
        "Both biases are missing.": relu(slow - inputs["slow_bias"]) + relu(fast - inputs["fast_bias"]),
        "The biases are added after the ReLU. They belong inside: ReLU(W x + b).": (
            relu(slow - inputs["slow_bias"])
            + inputs["slow_bias"]
            + relu(fast - inputs["fast_bias"])
            + inputs["fast_bias"]
        ),
        "The two biases have changed places.": relu(slow - inputs["slow_bias"] + inputs["fast_bias"])
        + relu(fast - inputs["fast_bias"] + inputs["slow_bias"]),
        "These are leaky ReLUs: they let a hundredth of the negative numbers through. Take F.relu.": F.leaky_relu(slow)
        + F.leaky_relu(fast),
        "There is one more ReLU around the sum, and none around the fast layer. Each layer has its own, then add.": (
            relu(relu(slow) + fast)
        ),
    }
    if len(slow[0]) == len(x[0]):  # mistakes that need as many outputs as inputs
        through = torch.einsum("nd,hd->nh", relu(slow), inputs["fast_weight"]) + inputs["fast_bias"]
        after = "The fast layer comes after the slow one. They stand side by side: both read the same x."
        turned = [x @ inputs[f"{name}_weight"] + inputs[f"{name}_bias"] for name in ("slow", "fast")]
        words = "A weight is [H, D], a row for each output: it is x @ weight.T + bias, or F.linear(x, weight, bias)."
        mistakes |= {after: relu(through), words: relu(turned[0]) + relu(turned[1])}
    return _first(got, mistakes) or Unnamed(
        f"The output is off by {relative_error(got, right):.1e} of its size. Write two lines, one for each layer, and "
        "return their sum."
    )


def augmented_reference(
    x: Tensor, slow_weight: Tensor, slow_bias: Tensor, fast_weight: Tensor, fast_bias: Tensor
) -> Tensor:
    """ReLU(W x + b) + ReLU(W* x + b*). x: [images, D]; weights [H, D], biases [H]. Returns [images, H]."""
    return F.relu(F.linear(x, slow_weight, slow_bias)) + F.relu(F.linear(x, fast_weight, fast_bias))


augmented = Check(
    exercise="04.5",
    title="Layer augmentation",
    inputs={"as many in as out": _layer(4, 4), "four in, three out": _layer(4, 3)},
    probe=_augmented_probe,
    judge=_augmented_judge,
    reference=augmented_reference,
)


# ------------------------------------------------------------------ 04.6 read a memory


def _memory(slots: int, queries: int, size: int, numbers: int) -> Callable[[torch.Generator], Tensors]:
    def make(generator: torch.Generator) -> Tensors:
        spread = torch.linspace(0.3, 1.2, slots, dtype=F64)  # keys of different length, so that it shows
        return {
            "keys": spread[:, None] * randn(generator, slots, size),
            "memory": randn(generator, slots, numbers),
            "queries": 0.7 * randn(generator, queries, size),
        }

    return make


def _read_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"read": answer(inputs["keys"], inputs["memory"], inputs["queries"])}


def _read_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    keys, memory, queries, got = inputs["keys"], inputs["memory"], inputs["queries"], outputs["read"]
    dots = torch.stack([torch.stack([(q * k).sum() for k in keys]) for q in queries])
    lengths = torch.stack([torch.stack([q.norm() * k.norm() for k in keys]) for q in queries])
    cosines = dots / lengths

    def shares(scores: Tensor, dim: int = 1) -> Tensor:
        powers = scores.exp()
        return powers / powers.sum(dim, keepdim=True)

    right = shares(cosines) @ memory
    if _close(got, right):
        return None
    distances = torch.stack([torch.stack([(q - k).square().sum() for k in keys]) for q in queries])
    key_lengths = keys.norm(dim=1)
    mistakes = {
        "These are dot products: a long key would be read more than others. Divide by both lengths.": shares(dots)
        @ memory,
        "The softmax runs over the queries. Each query shares ITS attention among the keys: the last dimension.": (
            shares(cosines, 0) @ memory
        ),
        "There is no softmax: the shares do not sum to 1.": cosines @ memory,
        "You take the nearest key only. The reading is a mixture, which has a slope.": memory[cosines.argmax(1)],
        "These are distances. The similarity is the cosine.": shares(-distances) @ memory,
        "Negative cosines are set to 0 before the softmax. It takes them as they are.": shares(cosines.clamp(min=0))
        @ memory,
        "The powers are not divided by their sum: the shares of a query must add up to 1.": cosines.exp() @ memory,
        "These are distances, not squared. The similarity is the cosine.": shares(-distances.sqrt()) @ memory,
        "The softmax runs over all pairs at once. Each query has shares of its own, along the slots.": (
            (cosines.exp() / cosines.exp().sum()) @ memory
        ),
        "What is stored is scaled to length 1. Only keys and queries are, for the cosine.": shares(cosines)
        @ F.normalize(memory, dim=1),
        "The first query's shares are used for all. Each query reads with its own.": (
            (shares(cosines)[0] @ memory).expand_as(got)
        ),
        "The cosines are divided by a temperature of 0.1, as in matching networks. Here there is none.": (
            shares(cosines / 0.1) @ memory
        ),
        "Only the keys are scaled to length 1. Scale the queries too.": shares(dots / key_lengths) @ memory,
        "Only the queries are scaled to length 1. Scale the keys too.": shares(dots / queries.norm(dim=1)[:, None])
        @ memory,
        "The sign is wrong: the least similar key is read most.": shares(-cosines) @ memory,
        "There are two softmaxes: the second one makes shares of shares, nearly the same for all.": (
            shares(shares(cosines)) @ memory
        ),
        "These are distances, so the farthest key is read most. The similarity is the cosine.": (
            shares(distances.sqrt()) @ memory
        ),
        "The shares are cosines over their sum. Cosines may be negative: take the softmax of them.": (
            cosines / cosines.sum(1, keepdim=True)
        )
        @ memory,
        "This is the attention of transformers, dot products over √D. Here it is the cosine.": shares(
            dots / keys.shape[1] ** 0.5
        )
        @ memory,
        "The cosines are divided by √D, as in transformers. Cosines are between −1 and 1 already: no √D here.": shares(
            cosines / keys.shape[1] ** 0.5
        )
        @ memory,
        "These shares are logarithms (log_softmax). Take softmax.": shares(cosines).log() @ memory,
        "You scale each column to length 1. Each row, a key or a query, must have length 1: F.normalize(v, dim=-1).": (
            shares(F.normalize(queries, dim=0) @ F.normalize(keys, dim=0).T) @ memory
        ),
        "Every slot gets the same share: this is the mean of the memory.": memory.mean(0).expand_as(got),
    }
    return _first(got, mistakes) or Unnamed(
        f"What is read is off by {relative_error(got, right):.1e} of its size. Cosines [queries, slots], softmax along "
        "the slots, times the memory."
    )


def read_reference(keys: Tensor, memory: Tensor, queries: Tensor) -> Tensor:
    """softmax(cos(queries, keys)) · memory. keys [n, D], memory [n, P], queries [q, D] → [q, P]."""
    return (F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).T).softmax(-1) @ memory


read_memory = Check(
    exercise="04.6",
    title="Read a memory by attention",
    inputs={"three slots, two queries": _memory(3, 2, 4, 5), "four slots, four queries": _memory(4, 4, 3, 6)},
    probe=_read_probe,
    judge=_read_judge,
    reference=read_reference,
)
