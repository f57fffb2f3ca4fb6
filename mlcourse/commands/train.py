"""`mlcourse train`: meta-train a learner and keep it in a folder."""

from pathlib import Path
from typing import Annotated

import typer

from mlcourse.commands import fitting, methods, say, training_run
from mlcourse.commands.data import DATASET_HELP
from mlcourse.errors import CourseError


def train(
    method: Annotated[str, typer.Argument(help="one of the methods above")],
    dataset: Annotated[str, typer.Option(help=DATASET_HELP)] = "glyphs",
    protocol: Annotated[str | None, typer.Option(help="split of omniglot: vinyals or lake")] = None,
    way: Annotated[int | None, typer.Option(help="classes per task (default: 5, or as many as there are)")] = None,
    shot: Annotated[int, typer.Option(help="support images per class")] = 1,
    query: Annotated[
        int | None, typer.Option(help="query images per class, in validation (default: 15, or as many as there are)")
    ] = None,
    train_way: Annotated[
        int | None, typer.Option(help="classes per task in training (default: the recipe's, or as many as there are)")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="how the method is trained: smoke (a few steps, to see that it runs), short (at most ten minutes on 2 "
            "cores) or paper (the published protocol, for a GPU). Default: short"
        ),
    ] = None,
    budget: Annotated[str | None, typer.Option("--budget", hidden=True)] = None,
    steps: Annotated[int | None, typer.Option(help="outer steps, in place of the recipe's")] = None,
    network: Annotated[str, typer.Option(help="conv4 or resnet12")] = "conv4",
    normalisation: Annotated[
        str | None,
        typer.Option(
            help="whose statistics normalise: running, group, support, none, or batch, where queries see each other "
            "(default: the recipe's)"
        ),
    ] = None,
    optimizer: Annotated[str, typer.Option(help="of the outer parameters: adam, adamw or sgd")] = "adam",
    accumulate: Annotated[
        int, typer.Option(help="in how many parts a step's tasks are taken, one after another: less memory")
    ] = 1,
    precision: Annotated[str, typer.Option(help="float32, bfloat16, or on a GPU float16")] = "float32",
    seed: Annotated[int, typer.Option(help="of the weights and of the episodes")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    out: Annotated[Path | None, typer.Option(help="folder of the run (default: one in runs)")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the run's checkpoint, if there is one")] = False,
    data_root: Annotated[Path | None, typer.Option(help="local copy of the data (default: MLCOURSE_DATA)")] = None,
    drawn: Annotated[bool, typer.Option("--drawn", help="redraw every image with the drawing pad's pen")] = False,
    distort: Annotated[
        float, typer.Option(help="how strongly training pictures of characters are distorted, 0 (not) to 3")
    ] = 0,
    within_groups: Annotated[
        bool, typer.Option("--within-groups", help="each task takes its classes from one group, such as one alphabet")
    ] = False,
    download: Annotated[bool, typer.Option("--download", help="fetch a missing data set")] = False,
) -> None:
    """Meta-train METHOD from random weights; the best step on validation classes is kept."""
    from mlcourse import datasets, devices, learners, threads
    from mlcourse.commands import data
    from mlcourse.datasets.distortion import check_strength
    from mlcourse.episodes import EpisodeSampler, WithinGroups, check_positive, check_seed

    wanted = {"way": way, "shot": shot, "query": query, "train-way": train_way, "steps": steps}
    for what, value in (wanted | {"accumulate": accumulate}).items():
        if value is not None:
            check_positive(what, value)
    check_seed(seed)
    check_strength(distort)
    recipe = _recipe(recipe, budget)
    plan = learners.recipe(method, recipe, way or fitting.DEFAULT_WAY)
    place = devices.pick(device)
    devices.keep_freed_memory()
    threads.limit()
    at = {"protocol": protocol, "root": data_root}
    fitted = fitting.fit_training(
        lambda split: data.load(
            dataset, split, **at, download=download, drawn=drawn, hands=2 if split == "train" else 0
        ),
        lambda split: datasets.counts(dataset, split, **at),
        fixed_head=learners.METHODS[method].head and not plan.options.get("zero_head"),
        recipe_way=plan.train_way,
        recipe_query=plan.query,
        way=way,
        shot=shot,
        query=query,
        train_way=train_way,
    )
    for line in fitted.said:
        print(line)
    way = fitted.way
    has = learners.options_of(method, network)
    options = {name: value for name, value in plan.options.items() if name in has}  # a recipe's are of Conv-4
    options |= {} if normalisation is None else {"normalisation": normalisation}
    most = has.get("most_ways")
    if most is not None:  # a learner that has a label vector for each class, in training and in validation
        options["most_ways"] = max(way, fitted.train_way, most)
    channels, size, _ = fitted.train.shape
    learner = learners.build(method, way=way, in_channels=channels, size=size, seed=seed, network=network, **options)
    learner = learner.to(place)
    sampler = WithinGroups if within_groups else EpisodeSampler
    episodes = sampler(fitted.train, fitted.train_way, shot, fitted.train_query, device=place, distort=distort)
    validation = None
    if fitted.val is not None:
        validation = sampler(fitted.val, fitted.validation_way, shot, fitted.query, device=place)
    out = out or Path("runs") / f"{method}-{Path(dataset).name}-{way}way-{shot}shot-{recipe}-seed{seed}"
    settings = {
        "init": "none",  # random weights: nothing was pre-trained
        "dataset": data.lasting_name(dataset),
        "protocol": protocol or ("vinyals" if dataset == "omniglot" else None),
        "drawn": drawn,
        "way": way,
        "shot": shot,
        "query": fitted.query,
        "train_way": fitted.train_way,
        "train_query": fitted.train_query,
        "budget": recipe,  # what a recipe was called when the first runs were kept: those can go on
        "device": str(place),
    }
    if dataset not in datasets.NAMES:  # a folder may get more classes, or lose some, and then others move
        settings["classes"] = {"train": list(fitted.train.names), "val": list(fitted.val.names) if validation else []}
    if validation is not None and fitted.validation_way != way:
        settings["validation_way"] = fitted.validation_way
    if within_groups:
        settings["within_groups"] = True
    if distort:
        settings["distort"] = distort
    steps = plan.steps if steps is None else steps
    print(f"{method} on {dataset}: {steps} steps of {plan.tasks} x {fitted.train_way}-way {shot}-shot on {place}")
    training_run.by_recipe(
        learner,
        episodes,
        plan,
        steps=steps,
        out=out,
        chosen_on="validation classes",
        seed=seed,
        optimizer=optimizer,
        accumulate=accumulate,
        precision=precision,
        validation=validation,
        resume=resume,
        settings=settings,
    )


def _recipe(asked: str | None, budget: str | None) -> str:
    """The recipe's name. Its option was once called --budget, which still works, with a word."""
    if budget is None:
        return "short" if asked is None else asked
    if asked not in (None, budget):
        raise CourseError(f"--recipe is {asked}, but --budget, its earlier name, is {budget}: leave --budget out")
    say(f"--budget of a training is called --recipe now (a budget is a lesson's): --recipe {budget}")
    return budget


train.__doc__ = f"{train.__doc__}\n\n{methods.trainable()}\n\n{methods.tasks()}"
