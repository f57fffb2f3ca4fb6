"""Prototypical networks: a class is the mean of its embedded support images; a query belongs to the nearest mean.

Snell, Swersky, Zemel, *Prototypical Networks for Few-shot Learning*, 2017, https://arxiv.org/abs/1703.05175.

The paper compares squared Euclidean distances with cosines, and finds the first much better. Softmax can only be sure
of an answer when logits may be large, and cosines lie in [−1, 1]; so here they are multiplied by a learned scale, the
inverse of a temperature (Gidaris & Komodakis, *Dynamic Few-Shot Visual Learning without Forgetting*, 2018,
https://arxiv.org/abs/1804.09458).
"""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from mlcourse.errors import CourseError
from mlcourse.learners.base import State, way_of
from mlcourse.learners.methods import Paper, Recipe, register
from mlcourse.learners.metric import MetricLearner, cosines, log_of, members

DISTANCES = ("euclidean", "cosine")


def prototypes(embeddings: Tensor, labels: Tensor, way: int) -> Tensor:
    """c_k, the mean of the embeddings of class k.

    [tasks, images, D] and [tasks, images] → [tasks, way, D].

    Raises CourseError when a class has no image.
    """
    of_class = members(labels, way, embeddings.dtype)  # [tasks, images, way]
    return of_class.transpose(1, 2) @ embeddings / of_class.sum(1).unsqueeze(-1)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """‖a_i − b_j‖², squared, as the paper has it.

    [tasks, n, D] and [tasks, m, D] → [tasks, n, m].

    By ‖a‖² − 2a·b + ‖b‖², which takes one product of matrices. Far from 0 that would be
    a small difference of large numbers; so both are moved first, by the mean of b
    (a constant: no distance and no derivative depends on it).
    """
    centre = b.detach().mean(-2, keepdim=True)
    a, b = a - centre, b - centre
    of_a, of_b = a.square().sum(-1).unsqueeze(-1), b.square().sum(-1).unsqueeze(-2)
    return of_a - 2 * a @ b.transpose(1, 2) + of_b


class PrototypicalNetwork(MetricLearner):
    """θ is the encoder f; adapt averages; predict compares: logits are −‖f(x) − c_k‖².

    network: as in MetricLearner. distance: "euclidean" (squared), or "cosine": logits are s·cos(f(x), c_k), with a
    scale s > 0 that is learned, and starts at 1 / temperature. Only cosines need the temperature.
    scaled: logits are −‖f(x) − c_k‖²/√D for D numbers, as attention divides its products (Vaswani et al., *Attention Is
    All You Need*, 2017, https://arxiv.org/abs/1706.03762). The distances of an untrained network grow with D, so that
    without it training may start from answers that are sure and wrong. The paper has no scale. (Measured on glyphs, 150
    steps of two 20-way tasks, three seeds, 20-way accuracy on validation classes: 31 to 35 % without, 54 to 61 % with.
    A long training makes up for it: the whole recipe `short` on Omniglot, seed 1, 1,000 test episodes, gave 98.45 %
    ± 0.17 and 94.70 % ± 0.17 (5-way, 20-way) without, 98.42 % ± 0.17 and 94.64 % ± 0.17 with. So recipes have none.)
    """

    def __init__(
        self, network: nn.Module, *, distance: str = "euclidean", temperature: float = 0.1, scaled: bool = False
    ):
        super().__init__(network)
        if distance not in DISTANCES:
            raise CourseError(f"distance {distance!r} is unknown; use one of {', '.join(DISTANCES)}")
        if scaled and distance == "cosine":
            raise CourseError("scaled is for Euclidean distances; cosines have a temperature")
        self.distance, self.scaled = distance, scaled
        log_temperature = log_of("temperature", temperature)
        # No parameter without cosines: the files of learners from before them hold none.
        self.log_temperature = log_temperature if distance == "cosine" else None

    def keep(self, z: Tensor, support_y: Tensor) -> State:
        return {"prototypes": prototypes(z, support_y, way_of(support_y))}

    def compare(self, state: State, z: Tensor) -> Tensor:
        if self.log_temperature is None:
            distances = squared_distances(z, state["prototypes"])
            return -distances / z.shape[-1] ** 0.5 if self.scaled else -distances
        return cosines(z, state["prototypes"]) / self.log_temperature.exp()


# ------------------------------------------------------------------ as methods

# The defaults of Conv-4 for learners that compare.
ENCODER = {"normalisation": "running", "downsample": "stride"}
SMOKE = Recipe(steps=5, tasks=1, rate=1e-3, train_way=10, query=2, validate_every=5, validation_episodes=10)
SHORT = Recipe(steps=13000, tasks=1, rate=2e-3, train_way=60, query=5, validate_every=1000, validation_episodes=500)


def recipes_of_encoders(steps: int = 3500, **more: Any) -> dict[str, Recipe]:
    """The smoke and short recipes of prototypical networks, for the other learners that compare."""
    return {"smoke": SMOKE, "short": replace(SHORT, steps=steps, **more)}


register(
    "prototypical",
    learner=PrototypicalNetwork,
    help="compares with the mean embedding of each class",
    title="prototypical networks",
    paper=Paper(
        "Snell, Swersky, Zemel",
        "Prototypical Networks for Few-shot Learning",
        2017,
        "https://arxiv.org/abs/1703.05175",
    ),
    published={
        "omniglot 5-way 1-shot": 98.8,
        "omniglot 5-way 5-shot": 99.7,
        "omniglot 20-way 1-shot": 96.0,
        "omniglot 20-way 5-shot": 98.9,
    },
    setting="Vinyals split",
    network=ENCODER,
    recipes={
        "smoke": SMOKE,
        "short": SHORT,
        # Snell et al. 2017, section 3.1: 60-way episodes, 5 queries per class, Adam at 1e-3, halved every 2,000
        # episodes; four blocks with max-pooling.
        "paper": Recipe(
            steps=20000,
            tasks=1,
            rate=1e-3,
            schedule="halving",
            train_way=60,
            query=5,
            validate_every=500,
            options={"downsample": "pool"},
        ),
    },
)
register(
    "cosine-prototypical",
    learner=PrototypicalNetwork,
    help="the same with cosines and a learned temperature",
    title="prototypical networks, cosine",
    paper=Paper(
        "Gidaris, Komodakis",
        "Dynamic Few-Shot Visual Learning without Forgetting",
        2018,
        "https://arxiv.org/abs/1804.09458",
    ),
    network=ENCODER,
    options={"distance": "cosine"},
    recipes=recipes_of_encoders(6000),
)
