"""What every `mlcourse train …` does at the end: train by a recipe, keep the run, say how it ended."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:  # torch is imported late, so that `mlcourse --help` waits for nothing
    from mlcourse.learners import Learner, Recipe


def by_recipe(
    learner: Learner, source: Any, plan: Recipe, *, steps: int, out: Path, chosen_on: str, **settings: Any
) -> None:
    """`training.train` by the numbers of a recipe, into `out`, and a line on what came of it.

    chosen_on: what the best step was chosen on, such as "validation classes". settings: more of `training.train`.
    Leaves with exit code 130 when it was interrupted: what was learnt is kept.
    """
    from mlcourse import training

    print(f"the run is kept in {out}")
    history = training.train(
        learner,
        source,
        steps=steps,
        tasks=plan.tasks,
        rate=plan.rate,
        schedule=plan.schedule,
        validate_every=plan.validate_every,
        validation_episodes=plan.validation_episodes,
        out=out,
        **settings,
    )
    done = len(history.losses)
    if history.interrupted:
        print(f"stopped after {done} of {steps} steps; what was learnt is in {out}, --resume goes on")
        raise typer.Exit(130)
    best = f", best at step {history.best_step} on {chosen_on}" if history.validations else ""
    others = "".join(f", {name} {value:.3g} in the last steps" for name, value in history.others.items())
    print(f"{done} steps in {history.seconds:.0f} s{best}{others}. Next: mlcourse evaluate {out}")
