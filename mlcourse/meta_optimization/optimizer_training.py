"""Meta-train the learned optimizer that the course keeps, and compare it with tuned optimizers on unseen tasks.

    python -m mlcourse.meta_optimization.optimizer_training data/checkpoints/optimizer

writes `rule.safetensors` (for `learned_optimizers.load`) and prints the comparison. Two stages, both by truncated
backpropagation (Metz et al. 2019, https://arxiv.org/abs/1810.10180, begin with short windows, too):

1. windows of 10 steps, the mean loss over the training: it learns to descend;
2. one window of all 50 steps, the loss weighted with (t/T)⁶: it learns to end well.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mlcourse import devices, training
from mlcourse.episodes import check_positive
from mlcourse.errors import CourseError, check_number
from mlcourse.meta_optimization import learned_optimizers, small_tasks
from mlcourse.meta_optimization.evolution import Estimator
from mlcourse.meta_optimization.learned_optimizers import SGD, Adam, MLPRule, Rule, curves, inner_training, tune_rate
from mlcourse.meta_optimization.small_tasks import Family, Sample
from mlcourse.statistics import mean_interval

HORIZON = 50
RATES = torch.logspace(-4, 0.5, 28, dtype=torch.float64).tolist()  # four and a half decades, six to each
BASELINES: dict[str, Callable[..., Rule]] = {
    "SGD with momentum": lambda schedule: SGD(momentum=0.9, schedule=schedule),
    "Adam": lambda schedule: Adam(schedule=schedule),
}


class Tuned(NamedTuple):
    """A baseline with its best rate: the rule, the rate, the schedule's name, and its mean loss on the tasks it had."""

    rule: Rule
    rate: float
    schedule: str
    loss: float


class Difference(NamedTuple):
    """The mean of paired differences over tasks, and the half width of its 95 % interval."""

    mean: float
    half: float


def meta_train(
    rule: Rule,
    family: Family,
    *,
    window: int,
    steps: int,
    tasks: int = 32,
    rate: float = 0.01,
    horizon: int = HORIZON,
    weight: Callable[[int], float] | None = None,
    first_order: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> training.History:
    """Train the rule in place by truncated backpropagation. steps: windows, each one Adam step on λ.

    window: inner steps that a gradient reaches back; it divides the horizon. tasks: side by side, new ones every
    horizon. weight, first_order: as in `learned_optimizers.inner_training`. Gradients are clipped to norm 1.
    """
    problem = inner_training(rule, family, horizon=horizon, weight=weight, first_order=first_order)
    learner = Estimator(problem, rule, estimator="truncated", truncation=window, particles=tasks, clip=1.0)
    return training.train(learner, family, steps=steps, tasks=tasks, rate=rate, seed=seed, progress=progress)


def late(horizon: int, power: int = 6) -> Callable[[int], float]:
    """Weights of the losses that grow as (t/T)^power, with a sum of about 1: the end counts."""
    check_positive("horizon", horizon)
    check_number("power", power, least=0)
    return lambda t: (power + 1) / horizon * (t / horizon) ** power


def best_baseline(
    name: str, family: Family, tasks: Sample, *, horizon: int = HORIZON, rates: list[float] | None = None
) -> Tuned:
    """The baseline (one of BASELINES), constant or with a cosine, whose best rate has the lowest loss at the horizon.

    tasks: to tune on; never those of the comparison. Raises CourseError when a best rate is at the edge of `rates`.
    """
    if name not in BASELINES:
        raise CourseError(f"baseline {name!r} is unknown; use one of {', '.join(BASELINES)}")
    schedules = {"constant": None, "cosine": lambda t: training.cosine(t - 1, horizon)}
    found = []
    for schedule, factor in schedules.items():
        rule = BASELINES[name](factor)
        rate, losses = tune_rate(rule, family, tasks, horizon=horizon, rates=rates or RATES)
        with torch.no_grad():
            rule.rate.fill_(rate)
        found.append(Tuned(rule, rate, schedule, losses.min().item()))
    return min(found, key=lambda tuned: tuned.loss)


def paired(one: Tensor, other: Tensor) -> Difference:
    """one − other, both [tasks] losses of the same tasks. Raises CourseError for fewer than 2 tasks."""
    if one.shape != other.shape or one.dim() != 1 or len(one) < 2:
        raise CourseError(f"paired losses have the shapes {tuple(one.shape)} and {tuple(other.shape)}; give [tasks] ×2")
    return Difference(*mean_interval(one - other))


def make(*, short: int = 500, whole: int = 1500, tasks: int = 32, seed: int = 1, progress: bool = True) -> Rule:
    """The course's learned optimizer. short, whole: the windows of the two stages. seed: of its first weights too."""
    family = small_tasks.sinusoids()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rule = MLPRule()
    shared = {"tasks": tasks, "progress": progress}
    meta_train(rule, family, window=10, steps=short, rate=0.01, seed=seed, **shared)
    ending = {"weight": late(HORIZON), "seed": seed + 1}
    meta_train(rule, family, window=HORIZON, steps=whole, rate=0.003, **ending, **shared)
    return rule


def compare(rule: Rule, *, tasks: int = 256, tuning_tasks: int = 128, seed: int = 7) -> list[str]:
    """Lines that say how the rule does at its horizon beside tuned baselines, on tasks that none of them has seen.

    Each line ends with the time that a step of one task took, where all tasks run side by side.
    """
    family = small_tasks.sinusoids()
    generator = torch.Generator().manual_seed(seed)
    to_tune, unseen = family.sample(tuning_tasks, generator), family.sample(tasks, generator)
    own, clock = _timed(rule, family, unseen)
    lines = [f"learned optimizer: {own.mean():.4f} after {HORIZON} steps, {tasks} unseen tasks; {clock}"]
    for name in BASELINES:
        tuned = best_baseline(name, family, to_tune)
        ends, clock = _timed(tuned.rule, family, unseen)
        gap = paired(own, ends)
        lines.append(
            f"{name}, rate {tuned.rate:.3g}, {tuned.schedule}: {ends.mean():.4f}; learned minus this "
            f"{gap.mean:+.4f} ± {gap.half:.4f} (paired, 95 %); {clock}"
        )
    return lines


def _timed(rule: Rule, family: Family, tasks: Sample) -> tuple[Tensor, str]:
    """(losses at the horizon [tasks], the time of a step in words): the quicker one of two runs."""
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        ends = curves(rule, family, tasks, horizon=HORIZON)[:, -1]
        seconds.append(time.perf_counter() - began)
    return ends, f"{1e6 * min(seconds) / HORIZON / len(ends):.1f} µs for a step of one task"


def main(arguments: list[str] | None = None) -> None:
    """Train, save, compare."""
    parser = argparse.ArgumentParser(description="Meta-train the course's learned optimizer.")
    parser.add_argument("out", type=Path, help="the folder for rule.safetensors")
    recipe = {name: make.__kwdefaults__[name] for name in ("short", "whole", "tasks")}
    for name, default in recipe.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"as in make (default {default})")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    settings = {name: getattr(options, name) for name in recipe}
    changed = [f"--{name} {value}" for name, value in settings.items() if value != recipe[name]]
    command = " ".join(["python -m mlcourse.meta_optimization.optimizer_training", options.out.as_posix(), *changed])
    devices.keep_freed_memory()
    began = time.perf_counter()
    rule = make(**settings, progress=not options.quiet)
    seconds = time.perf_counter() - began
    options.out.mkdir(parents=True, exist_ok=True)
    learned_optimizers.save(
        rule, options.out / "rule.safetensors", command=command, horizon=HORIZON, family="sinusoids", **settings
    )
    print(f"trained in {seconds:.0f} s ({time.process_time():.0f} s of processor time)", *compare(rule), sep="\n")


if __name__ == "__main__":
    main()
