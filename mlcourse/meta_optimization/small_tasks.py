"""Small training problems, as many as one likes, for optimizers to be trained and compared on: no images, all quick.

A family is a distribution of tasks. A task is a dictionary of tensors: the parameters from which training starts, and
the data. Families are sampled many tasks at a time and run side by side under `torch.func.vmap`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from mlcourse.episodes import check_positive
from mlcourse.errors import CourseError, check_number

Parameters = dict[str, Tensor]
Sample = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """A distribution of tasks, and a source for `training.train`.

    sample(tasks, generator) → a Sample with a leading dimension of tasks; task["start"] holds the first parameters.
    loss(params, task, t) → the inner loss of ONE task on its minibatch number t (1, 2, …), a scalar.
    validation(params, task) → its loss on data that training never sees, a scalar.
    """

    name: str
    sample: Callable[[int, Generator], Sample]
    loss: Callable[[Parameters, Sample, int], Tensor]
    validation: Callable[[Parameters, Sample], Tensor]


def quadratics(size: int = 10, *, condition: float = 100.0, dtype: torch.dtype = torch.float32) -> Family:
    """½ (φ − c)ᵀ A (φ − c) / size from φ = 0: A with random axes and log-uniform eigenvalues around 1, c ~ N(0, I).

    condition: the largest ratio of two eigenvalues, so that they lie in [condition^−½, condition^½]. There is no noise
    and nothing to generalise to: the validation loss is the inner loss.
    """
    check_positive("size", size)
    check_number("condition", condition, least=1)  # the ratio of the largest to the smallest eigenvalue

    def sample(tasks: int, generator: Generator) -> Sample:
        axes = torch.linalg.qr(torch.randn(tasks, size, size, generator=generator, dtype=dtype)).Q
        place = torch.rand(tasks, size, generator=generator, dtype=dtype) - 0.5
        root = axes * (0.5 * math.log(condition) * place).exp().unsqueeze(-2)  # A = root rootᵀ
        centre = torch.randn(tasks, size, generator=generator, dtype=dtype)
        return {"start": {"phi": torch.zeros(tasks, size, dtype=dtype)}, "root": root, "centre": centre}

    def validation(params: Parameters, task: Sample) -> Tensor:
        return 0.5 * (task["root"].mT @ (params["phi"] - task["centre"])).square().sum() / size

    return Family("quadratics", sample, lambda params, task, t: validation(params, task), validation)


def blobs(
    classes: int = 4,
    inputs: int = 4,
    *,
    hidden: int = 16,
    batch: int = 16,
    examples: int = 128,
    dtype: torch.dtype = torch.float32,
) -> Family:
    """Classification of Gaussian blobs by a network of one hidden layer; each task has its own blobs and first weights.

    The centres are N(0, 4I), the blobs N(centre, I). batch: of the `examples` that training cycles through; as many
    more are kept for validation.
    """

    def data(tasks: int, generator: Generator) -> tuple[Tensor, Tensor]:
        centres = 2 * torch.randn(tasks, classes, inputs, generator=generator, dtype=dtype)
        y = torch.randint(classes, (tasks, 2 * examples), generator=generator)
        noise = torch.randn(tasks, 2 * examples, inputs, generator=generator, dtype=dtype)
        return noise + centres.gather(1, y.unsqueeze(-1).expand(-1, -1, inputs)), y

    return _network_family("blobs", data, (inputs, hidden, classes), F.cross_entropy, batch, examples, dtype)


def sinusoids(
    *,
    hidden: int = 20,
    batch: int = 16,
    examples: int = 64,
    activation: str = "tanh",
    dtype: torch.dtype = torch.float32,
) -> Family:
    """Regression of y = a sin(x + b), x in [−5, 5], a in [0.5, 2], b in [0, π], by a network of one hidden layer.

    activation: of the hidden layer, one of ACTIVATIONS.
    """

    def data(tasks: int, generator: Generator) -> tuple[Tensor, Tensor]:
        x = 10 * torch.rand(tasks, 2 * examples, 1, generator=generator, dtype=dtype) - 5
        amplitude, phase = torch.rand(2, tasks, 1, 1, generator=generator, dtype=dtype)
        return x, (0.5 + 1.5 * amplitude) * (x + math.pi * phase).sin()

    return _network_family("sinusoids", data, (1, hidden, 1), F.mse_loss, batch, examples, dtype, activation)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": F.relu, "sine": torch.sin}


def network(params: Parameters, x: Tensor, activation: str = "tanh") -> Tensor:
    """One hidden layer: x [examples, inputs] → [examples, outputs]. activation: one of ACTIVATIONS."""
    return ACTIVATIONS[activation](x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def first_weights(
    tasks: int, sizes: tuple[int, int, int], generator: Generator, dtype: torch.dtype = torch.float32
) -> Parameters:
    """Weights N(0, 1 / inputs of the layer) and zero biases for `network`, leading dimension = tasks."""
    inputs, hidden, outputs = sizes
    return {
        "w1": torch.randn(tasks, inputs, hidden, generator=generator, dtype=dtype) / inputs**0.5,
        "b1": torch.zeros(tasks, hidden, dtype=dtype),
        "w2": torch.randn(tasks, hidden, outputs, generator=generator, dtype=dtype) / hidden**0.5,
        "b2": torch.zeros(tasks, outputs, dtype=dtype),
    }


def _network_family(
    name: str,
    data: Callable[[int, Generator], tuple[Tensor, Tensor]],
    sizes: tuple[int, int, int],
    loss: Callable[[Tensor, Tensor], Tensor],
    batch: int,
    examples: int,
    dtype: torch.dtype,
    activation: str = "tanh",
) -> Family:
    for what, value in (("size", min(sizes)), ("batch", batch), ("examples", examples)):
        check_positive(what, value)
    if activation not in ACTIVATIONS:
        raise CourseError(f"activation {activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}")
    if examples % batch:
        raise CourseError(f"batch {batch} does not divide the {examples} examples; minibatches are equally large")

    def sample(tasks: int, generator: Generator) -> Sample:
        x, y = data(tasks, generator)
        parts = {"x": x[:, :examples], "y": y[:, :examples], "x_val": x[:, examples:], "y_val": y[:, examples:]}
        return {"start": first_weights(tasks, sizes, generator, dtype)} | parts

    def inner_loss(params: Parameters, task: Sample, t: int) -> Tensor:
        first = (t - 1) * batch % examples  # the examples are in random order as they are
        x, y = (task[part][first : first + batch] for part in ("x", "y"))
        return loss(network(params, x, activation), y)

    def validation(params: Parameters, task: Sample) -> Tensor:
        return loss(network(params, task["x_val"], activation), task["y_val"])

    return Family(name, sample, inner_loss, validation)


def scaled(family: Family, *, loss: float = 1.0, units: float = 1.0) -> Family:
    """The same tasks written in other units, to see whether an optimizer notices.

    loss: the inner loss is multiplied by this; the validation loss stays, so that numbers compare. units: parameters
    are written as φ = units · ψ, and ψ is what the optimizer moves: moves of φ/units do the same, and gradients are
    `units` times as large. A step of SGD that is right for φ is off by units², one of Adam by units.
    """
    for name, value in (("loss", loss), ("units", units)):
        check_number(name, value, above=0)

    def phi(params: Parameters) -> Parameters:
        return {name: units * value for name, value in params.items()}

    def sample(tasks: int, generator: Generator) -> Sample:
        drawn = family.sample(tasks, generator)
        return drawn | {"start": {name: value / units for name, value in drawn["start"].items()}}

    return Family(
        f"{family.name}, scaled",
        sample,
        lambda params, task, t: loss * family.loss(phi(params), task, t),
        lambda params, task: family.validation(phi(params), task),
    )


FAMILIES: dict[str, Callable[..., Family]] = {"quadratics": quadratics, "blobs": blobs, "sinusoids": sinusoids}
