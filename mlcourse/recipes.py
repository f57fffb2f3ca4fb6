"""Settings that work, by method and budget. A budget counts steps, never minutes.

`smoke` proves that everything runs, `short` takes at most ten minutes on a 2-core machine, `paper` is the published
protocol and wants a GPU.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from mlcourse.errors import CourseError

MANY = 20  # papers report 5 and 20 ways


@dataclass(frozen=True)
class Recipe:
    """How to meta-train. tasks: the meta-batch. rate: the outer rate β of Adam. train_way, query: None: as at test."""

    steps: int
    tasks: int
    rate: float
    schedule: str = "cosine"
    train_way: int | None = None
    query: int | None = None
    validate_every: int = 100
    validation_episodes: int = 200
    options: dict[str, Any] = field(default_factory=dict)  # of the learner
    many_way: dict[str, Any] = field(default_factory=dict)  # what is different in tasks of MANY classes or more


RECIPES: dict[str, dict[str, Recipe]] = {
    "prototypical": {
        "smoke": Recipe(steps=5, tasks=1, rate=1e-3, train_way=10, query=2, validate_every=5, validation_episodes=10),
        "short": Recipe(
            steps=13000, tasks=1, rate=2e-3, train_way=60, query=5, validate_every=1000, validation_episodes=500
        ),
        # Snell et al. 2017, section 3.1: 60-way episodes, 5 queries a class, Adam at 1e-3, halved every 2,000 episodes;
        # four blocks with max-pooling.
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
    "maml": {
        "smoke": Recipe(
            steps=3, tasks=2, rate=1e-3, query=2, validate_every=3, validation_episodes=10, options={"steps": 1}
        ),
        "short": Recipe(
            steps=10000,
            tasks=8,
            rate=3e-3,
            query=3,
            validate_every=1000,
            options={"steps": 1, "evaluation_steps": 3, "normalisation": "support"},
            many_way={"tasks": 2},  # as many images a step as 8 tasks of 5 classes
        ),
        # Finn et al. 2017, appendix A.1: 60,000 iterations. 5-way: meta-batch 32, one inner step of 0.4, three at test
        # time. 20-way: meta-batch 16, five inner steps of 0.1, as many at test time.
        "paper": Recipe(
            steps=60000,
            tasks=32,
            rate=1e-3,
            schedule="constant",
            query=1,
            validate_every=1000,
            options={"steps": 1, "evaluation_steps": 3, "inner_rate": 0.4},
            many_way={"tasks": 16, "options": {"steps": 5, "evaluation_steps": 5, "inner_rate": 0.1}},
        ),
    },
}


def _like_maml(short_steps: int = 10000, **options: Any) -> dict[str, Recipe]:
    """MAML's smoke and short recipes, with other options where a method needs them.

    short_steps: how many outer steps fit into ten minutes on 2 cores. Measured, processor time of one step of 8 tasks:
    MAML 70 ms, first-order 47, ANIL 48, Meta-SGD 70, MAML++ 141, Reptile 168, implicit MAML 288.
    """
    smoke, short = RECIPES["maml"]["smoke"], RECIPES["maml"]["short"]
    return {
        "smoke": replace(smoke, options=smoke.options | options),
        "short": replace(short, steps=short_steps, options=short.options | options),
    }


_ANIL = {"zero_head": True, "normalisation": "running", "inner_rate": 0.005}
RECIPES |= {
    "fomaml": RECIPES["maml"],
    # The body is one for all tasks, so it learns from more classes at a time, as a prototypical network's encoder does.
    # Tried on Omniglot, 700 steps, one seed, validation accuracy at 5-way 1-shot. 20-way tasks with a rate of 0.005:
    # 94.1 % with 3 inner steps, 95.3 % with 5; with 0.0125: 91.8 %; with 0.001 and 3 steps: 88.5 %. 60-way tasks with
    # 0.005 and 3 steps: 93.8 %.
    "anil": {
        "smoke": replace(RECIPES["maml"]["smoke"], options={"steps": 1, **_ANIL}),
        "short": Recipe(
            steps=7000,
            tasks=3,
            rate=2e-3,
            train_way=20,
            query=5,
            validate_every=1000,
            options={"steps": 5, "evaluation_steps": 10, **_ANIL},
        ),
    },
    "meta-sgd": _like_maml(),
    "maml++": _like_maml(5000, steps=3, evaluation_steps=3),
    "reptile": _like_maml(
        4000, steps=8, evaluation_steps=8, inner_rate=0.2, inner_batch=10
    ),  # batches: as in the paper
    "imaml": _like_maml(2500, steps=8, evaluation_steps=8),
}


def _like_prototypical(steps: int = 3500, **more: Any) -> dict[str, Recipe]:
    """The smoke and short recipes of prototypical networks, for the other learners that compare."""
    smoke, short = RECIPES["prototypical"]["smoke"], RECIPES["prototypical"]["short"]
    return {"smoke": smoke, "short": replace(short, steps=steps, **more)}


# No paper recipes: Vinyals et al. state no outer rate and no number of steps, Sung et al. no number of steps, and the
# encoders of Bertinetto et al. and of Munkhdalai & Yu are others.
RECIPES |= {
    "cosine-prototypical": _like_prototypical(6000),
    # The paper's softmax of plain cosines learns far more slowly with this many ways. On validation classes of Omniglot
    # after 600 steps: 86.6 % without, 96.2 % with a learned temperature (5-way 1-shot; 69.5 % and 88.5 % at 20 ways).
    "matching": _like_prototypical(6000, options={"temperature": 0.1, "learned": True}),
    # It looks at every pair of a query and a class, so tasks are smaller.
    "relation": _like_prototypical(5000, train_way=20, rate=3e-3),
    "r2d2": _like_prototypical(6000),
    # A head is written class by class, as prototypes are; what the others write or read depends on the whole task, so
    # they see several tasks a step.
    "hypernet": _like_prototypical(5000),
    "film": _like_prototypical(4000, tasks=3, train_way=20),
    "incontext": _like_prototypical(5000, tasks=4, train_way=20, query=4, rate=1e-3),
    "metanet": {
        "smoke": Recipe(steps=3, tasks=2, rate=1e-3, query=2, validate_every=3, validation_episodes=10),
        # Most of a step's time goes into d, which reads T gradients of each fast weight: T = 2 of the 5 examples.
        "short": Recipe(
            steps=3000, tasks=4, rate=3e-3, query=15, validate_every=500, options={"examples": 2}, many_way={"tasks": 1}
        ),
    },
}


def recipe(method: str, budget: str, way: int = 5) -> Recipe:
    """The recipe of a method at a budget, for `way` classes a task. Raises CourseError when there is none."""
    if method not in RECIPES:
        raise CourseError(f"method {method!r} is unknown or has nothing to train; use one of {', '.join(RECIPES)}")
    if budget not in RECIPES[method]:
        raise CourseError(f"budget {budget!r} is unknown; use one of {', '.join(RECIPES[method])}")
    found = RECIPES[method][budget]
    return replace(found, **found.many_way, many_way={}) if way >= MANY else found
