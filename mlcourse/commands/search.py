"""`mlcourse search`: search for the rates of a method; several processes may search together, in one database."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer


def search(
    method: Annotated[str, typer.Argument(help="a method of `mlcourse train`, trained on episodes")],
    dataset: Annotated[str, typer.Option(help="as of `mlcourse train`")] = "glyphs",
    way: Annotated[int | None, typer.Option(help="classes per task (default: 5, or as many as there are)")] = None,
    shot: Annotated[int, typer.Option(help="support images per class")] = 1,
    recipe: Annotated[str, typer.Option(help="whose settings all trials share")] = "short",
    steps: Annotated[int, typer.Option(help="outer steps of a trial")] = 500,
    trials: Annotated[int, typer.Option(help="finished trials, of all processes together")] = 20,
    database: Annotated[
        str, typer.Option(help="a file, or the URL of a database that Optuna speaks to, such as sqlite:///FILE")
    ] = "work/search.sqlite3",
    seed: Annotated[
        int, typer.Option(help="of the search, of the weights and of the episodes; one for all processes")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    data_root: Annotated[Path | None, typer.Option(help="local copy of the data (default: MLCOURSE_DATA)")] = None,
) -> None:
    """Search for METHOD's outer rate (and inner rate, where it has one): Bayesian search, judged on validation classes.

    Call it with the same database and the same seed as often as you like: it goes on, and several processes search
    together. A trial that is worse than the median of the others after as many steps is stopped.
    """
    from mlcourse import learners, training
    from mlcourse.commands import data, fitting, training_run
    from mlcourse.episodes import EpisodeSampler, check_positive, check_seed
    from mlcourse.errors import CourseError, RanAway
    from mlcourse.meta_optimization import search as searching
    from mlcourse.protocols.results import train_command

    for name, value in {"way": way, "shot": shot, "steps": steps, "trials": trials}.items():
        if value is not None:
            check_positive(name, value)
    check_seed(seed)
    plan = learners.recipe(method, recipe, way or fitting.DEFAULT_WAY)
    if learners.METHODS[method].learner.trains_on != "episodes":
        raise CourseError(
            f"{method} is trained on images; search for the rates of a method that is trained on episodes"
        )
    place = training_run.begin_alone(device)
    fitted = fitting.fit_training(
        lambda split: data.load(dataset, split, root=data_root),
        lambda split: data.counts(dataset, split, root=data_root),
        method=method,
        plan=plan,
        way=way,
        shot=shot,
        query=None,
        train_way=None,
    )
    if fitted.val is None:
        raise CourseError(
            f"a search is judged on validation classes, and {fitted.train.name} has fewer than {fitting.LEAST} with "
            f"{shot + 1} pictures (--shot {shot}, and one to ask about): add pictures, or class folders (8 in all are "
            "enough)"
        )
    for line in fitted.said:
        print(line)
    way = fitted.way
    source = EpisodeSampler(fitted.train, fitted.train_way, shot, fitted.train_query, device=place)
    validation = EpisodeSampler(fitted.val, fitted.validation_way, shot, fitted.query, device=place)
    space = {"rate": searching.LogUniform(plan.rate / 30, plan.rate * 30)}
    options = learners.options_of(method) | plan.options
    if options.get("inner_rate"):
        space["inner_rate"] = searching.LogUniform(options["inner_rate"] / 30, options["inner_rate"] * 30)
    first = {"rate": plan.rate} | ({"inner_rate": float(options["inner_rate"])} if "inner_rate" in space else {})
    given = plan.options | fitted.label_vectors(options)
    pieces = 5 if steps % 5 == 0 else 1

    def objective(values, report):
        """The validation's error after `steps` steps; told five times, so that a bad trial may be stopped."""
        rate, inner = values["rate"], {name: value for name, value in values.items() if name != "rate"}
        channels, size, _ = fitted.train.shape
        learner = learners.build(method, way=way, in_channels=channels, size=size, seed=seed, **given | inner).to(place)
        watched = Watched(validation, plan.validation_episodes, seed, report, steps // pieces)
        settings = {"steps": steps, "tasks": plan.tasks, "rate": rate, "schedule": plan.schedule, "seed": seed}
        settings |= {"validation": watched, "validate_every": steps // pieces, "progress": False}
        try:
            history = training.train(learner, source, **settings)
        except RanAway:  # a result of these rates
            return float("inf")
        if history.interrupted:  # no result of theirs
            raise KeyboardInterrupt("finished trials are kept, and the same command goes on")
        print(f"{1 - watched.last:.4f} with " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
        return watched.last

    of = f"{method} on {data.lasting_name(dataset)}, {way}-way {shot}-shot, recipe {recipe}, {steps} steps, seed {seed}"
    # of other pictures a trial says nothing, be their files called the same
    of += ", pictures " + ", ".join(str(some.describe()["content"]) for some in (source, validation))
    wishes = {"trials": trials, "pruner": "median", "seed": seed, "first": first, "of": of}
    found = searching.minimise(objective, space, database, **wishes)
    best = found.best
    if not math.isfinite(best.value):
        raise CourseError(f"none of {len(found.trials)} trainings stayed finite: try more --trials, or fewer --steps")
    rates = ", ".join(f"{name} {value:.4g}" for name, value in best.values.items())
    print(f"{len(found.trials)} trials; the best, number {best.number}: {rates}, validation {1 - best.value:.4f}")
    asked = {"dataset": dataset, "way": way, "shot": shot, "recipe": recipe, "seed": seed}
    asked |= {name.replace("_", "-"): f"{value:.6g}" for name, value in best.values.items()}
    print(f"Next: {train_command(method, asked)}")


class Watched:
    """An evaluator that also tells the search what it found: 1 − metric, and what the steps since then cost."""

    def __init__(self, source, episodes: int, seed: int, report, every: int):
        from mlcourse.evaluation import Episodes

        self.episodes = Episodes(source, episodes=episodes, seed=(seed + 10**6) % 2**64)
        self.report, self.every = report, every
        self.last = float("inf")

    def evaluate(self, learner):
        """The result, which `training.train` keeps the best of."""
        result = self.episodes.evaluate(learner)
        self.last = min(self.last, 1 - result.value)
        self.report(1 - result.value, cost=self.every)
        return result
