"""Meta-train the learned optimizer that the course keeps, and compare it with tuned optimizers on unseen tasks.

    python -m mlcourse.meta_optimization.optimizer_training data/checkpoints/optimizer

writes `rule.safetensors` (for `learned_optimizers.load`) and prints the comparison. Two stages, both by truncated
backpropagation (Metz et al. 2019, https://arxiv.org/abs/1810.10180, begin with short windows, too):

1. windows of 10 steps, the mean loss over the training: it learns to descend;
2. one window of all 50 steps, the loss weighted with (t/T)⁶: it learns to end well.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mlcourse import devices, statistics, training
from mlcourse.episodes import check_positive
from mlcourse.errors import CourseError, check_number
from mlcourse.meta_optimization import learned_optimizers, small_tasks
from mlcourse.meta_optimization.evolution import Estimator, leaves
from mlcourse.meta_optimization.learned_optimizers import SGD, Adam, MLPRule, Rule, curves, inner_training, tune_rate
from mlcourse.meta_optimization.small_tasks import Family, Sample
from mlcourse.statistics import Paired

HORIZON = 50
RATES = torch.logspace(-4, 0.5, 28, dtype=torch.float64).tolist()  # four and a half decades, six to each
BASELINES: dict[str, Callable[..., Rule]] = {
    "SGD with momentum": lambda schedule: SGD(momentum=0.9, schedule=schedule),
    "Adam": lambda schedule: Adam(schedule=schedule),
}
SCHEDULES: dict[str, Callable[[int, int], float] | None] = {  # the factor on the rate, of (t − 1, the horizon)
    "constant": None,
    "linear": lambda done, horizon: max(0.0, 1 - done / horizon),
    "cosine": training.cosine,
}
ADAM_BETAS = tuple(itertools.product((0.5, 0.7, 0.8, 0.9), (0.7, 0.8, 0.9, 0.99)))
ADAM_RATES = RATES[16:25:2]  # 0.05 to 1, three to a decade: the betas and the schedule decide more than a finer rate


class Tuned(NamedTuple):
    """A baseline at its best: the rule, its rate, its schedule's name, its mean loss on the tasks that it was tuned on.

    tried: how many configurations it was chosen from.
    """

    rule: Rule
    rate: float
    schedule: str
    loss: float
    tried: int


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
    problem = inner_training(
        rule,
        family,
        horizon=horizon,
        weight=weight,
        first_order=first_order,
    )
    learner = Estimator(
        problem,
        rule,
        estimator="truncated",
        truncation=window,
        particles=tasks,
        clip=1.0,
    )
    return training.train(
        learner,
        family,
        steps=steps,
        tasks=tasks,
        rate=rate,
        seed=seed,
        progress=progress,
    )


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
    found, rates = [], rates or RATES
    for schedule in ("constant", "cosine"):
        rule = BASELINES[name](factor(schedule, horizon))
        rate, losses = tune_rate(rule, family, tasks, horizon=horizon, rates=rates)
        with torch.no_grad():
            rule.rate.fill_(rate)
        found.append(Tuned(rule, rate, schedule, losses.min().item(), 2 * len(rates)))
    return min(found, key=lambda tuned: tuned.loss)


def factor(schedule: str, horizon: int) -> Callable[[int], float] | None:
    """One of SCHEDULES for trainings of `horizon` steps: t = 1, 2, … → the factor on the rate. None: no factor."""
    if schedule not in SCHEDULES:
        raise CourseError(f"schedule {schedule!r} is unknown; use one of {', '.join(SCHEDULES)}")
    share = SCHEDULES[schedule]
    return None if share is None else lambda t: share(t - 1, horizon)


def best_adam(
    family: Family,
    tasks: Sample,
    *,
    horizon: int = HORIZON,
    rates: Sequence[float] = ADAM_RATES,
    betas: Sequence[tuple[float, float]] = ADAM_BETAS,
    schedules: Sequence[str] = tuple(SCHEDULES),
) -> Tuned:
    """Adam with the rate, the two β and the schedule (of SCHEDULES) that have the lowest mean loss at the horizon.

    tasks: to tune on; never those of the comparison. Every combination is tried. A loss that is not finite counts as
    inf. Raises CourseError for an unknown schedule, and when the best rate is the lowest or the highest of `rates`.
    """
    rates, found = sorted(rates), []
    for pair, schedule in itertools.product(betas, schedules):
        losses = _at_the_end(Adam(betas=pair, schedule=factor(schedule, horizon)), family, tasks, horizon, rates)
        best = int(losses.argmin())
        found.append((losses[best].item(), rates[best], pair, schedule))
    loss, rate, pair, schedule = min(found)
    if rate in (rates[0], rates[-1]):
        raise CourseError(f"the best rate, {rate:g}, is at the edge of those tried; try more beyond it")
    rule = Adam(rate, pair, schedule=factor(schedule, horizon))
    return Tuned(rule, rate, schedule, loss, len(found) * len(rates))


def stretched(tuned: Tuned, horizon: int) -> Rule:
    """A tuned Adam for trainings of another length: its rate and β as they are, its schedule over all of the steps."""
    return Adam(tuned.rate, tuned.rule.betas, schedule=factor(tuned.schedule, horizon))


@torch.no_grad()
def _at_the_end(rule: Adam, family: Family, tasks: Sample, horizon: int, rates: Sequence[float]) -> Tensor:
    """Mean validation losses at the horizon [rates]; all tasks and all rates side by side."""
    problem = inner_training(rule, family, horizon=horizon)

    def one(rate: Tensor, task: Sample) -> Tensor:
        state = problem.init({"rate": rate}, task)
        for t in range(1, horizon + 1):
            state = problem.step(state, {"rate": rate}, t)
        return family.validation(state["params"], state["task"])

    of_tasks = torch.func.vmap(one, in_dims=(None, 0))
    each = torch.tensor(rates, dtype=torch.float64, device=leaves(tasks["start"])[0].device)
    losses = torch.func.vmap(of_tasks, in_dims=(0, None))(each, tasks)
    return losses.double().mean(1).nan_to_num(nan=torch.inf, posinf=torch.inf)


def paired(one: Tensor, other: Tensor) -> Paired:
    """one − other, both [tasks] losses of the same tasks. Raises CourseError for fewer than 2 tasks."""
    if one.shape != other.shape or one.dim() != 1 or len(one) < 2:
        raise CourseError(f"paired losses have the shapes {tuple(one.shape)} and {tuple(other.shape)}; give [tasks] ×2")
    return statistics.paired(one, other)


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
            f"{gap.difference:+.4f} ± {gap.ci95:.4f} (paired, 95 %); {clock}"
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
