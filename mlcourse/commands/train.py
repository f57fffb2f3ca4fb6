"""`mlcourse train`: meta-train a learner and keep it in a folder."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from mlcourse.commands import fitting, methods, say, training_run
from mlcourse.commands.data import DATASET_HELP
from mlcourse.errors import CourseError, check_number
from mlcourse.vision import TASKS


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
    steps: training_run.Steps = None,
    tasks: Annotated[
        int | None, typer.Option(help="tasks of a step (in pre-training: pictures), in place of the recipe's")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="of the outer optimizer, in place of the recipe's")] = None,
    inner_rate: Annotated[
        float | None, typer.Option(help="of a method whose inner process takes steps, in place of the recipe's")
    ] = None,
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
    device: training_run.Device = "auto",
    out: training_run.Out = None,
    resume: training_run.Resume = False,
    data_root: training_run.DataRoot = None,
    drawn: Annotated[bool, typer.Option("--drawn", help="redraw every image with the drawing pad's pen")] = False,
    distort: Annotated[
        float, typer.Option(help="how strongly training pictures of characters are distorted, 0 (not) to 3")
    ] = 0,
    turned: Annotated[
        bool,
        typer.Option(
            "--turned",
            help="quarter turns of the training classes are further classes (always so in omniglot by vinyals, and "
            "in glyphs for each character that stays unlike the others)",
        ),
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option(help="a run whose network it begins with, as meta-baseline does with one that was pre-trained"),
    ] = None,
    within_groups: Annotated[
        bool, typer.Option("--within-groups", help="each task takes its classes from one group, such as one alphabet")
    ] = False,
    download: training_run.Download = False,
    skip_damaged: training_run.SkipDamaged = False,
) -> None:
    """Train METHOD, from random weights or from a run (--start); the best step on validation classes is kept."""
    from mlcourse import devices, learners, training
    from mlcourse.commands import data, known_classes, views
    from mlcourse.datasets.distortion import check_strength
    from mlcourse.episodes import EpisodeSampler, WithinGroups, check_positive, check_seed
    from mlcourse.protocols import unseen

    if method in TASKS:
        raise CourseError(f"{method} has options of its own: write it before them, mlcourse train {method} …")
    wanted = {"way": way, "shot": shot, "query": query, "train-way": train_way, "steps": steps, "tasks": tasks}
    for what, value in (wanted | {"accumulate": accumulate}).items():
        if value is not None:
            check_positive(what, value)
    check_seed(seed)
    check_strength(distort)
    for option, value in {"--rate": rate, "--inner-rate": inner_rate}.items():
        if value is not None:
            check_number(option, value, above=0)
    recipe = _recipe(recipe, budget)
    plan = learners.recipe(method, recipe, way or fitting.DEFAULT_WAY)
    of_images = learners.METHODS[method].learner.trains_on == "images"
    if of_images:
        _check_of_images(method, {"train-way": train_way, "distort": distort, "within-groups": within_groups})
    if turned:
        _check_turned(dataset, protocol, within_groups)
    together, place = training_run.begin(device)
    if method == "meta-baseline" and start is None:  # said once: of several processes the first one speaks
        print("meta-baseline begins with a run (--start RUN): from random weights it is cosine-prototypical")
    at = {"protocol": protocol, "root": data_root, "skip_damaged": skip_damaged}
    with together.in_turn():  # what the first process fetches or prepares, the others find
        fitted = fitting.fit_training(
            lambda split: data.load(
                dataset,
                split,
                **at,
                download=download,
                drawn=drawn,
                hands=2 if split == "train" else 0,
                turned=turned and split == "train",
            ),
            lambda split: data.counts(dataset, split, **at),
            method=method,
            plan=plan,
            way=way,
            shot=shot,
            query=query,
            train_way=train_way,
        )
    for line in fitted.said:
        print(line)
    if distort:
        views.check_black_ground(fitted.train, "--distort", "a distortion")
    if within_groups:
        _check_groups(fitted.train)
    way = fitted.way
    has = learners.options_of(method, network)
    options = {name: value for name, value in plan.options.items() if name in has}  # a recipe's are of Conv-4
    options |= {} if normalisation is None else {"normalisation": normalisation}
    if inner_rate is not None:
        if "inner_rate" not in has:
            raise CourseError(f"{method} has no inner rate: leave --inner-rate out")
        options["inner_rate"] = inner_rate
    options |= fitted.label_vectors(has)
    if of_images:
        options["classes"] = fitted.train.classes
    channels, size, _ = fitted.train.shape
    learner = learners.build(method, way=way, in_channels=channels, size=size, seed=seed, network=network, **options)
    began_with: list[dict] = []
    if start is not None:
        body, told = learners.load_run(start)
        for line in known_classes.stopped(str(start), told):
            print(line)
        learners.load_body(learner, body)
        began_with = unseen.as_beginning(told)
    learner = learner.to(place)
    sampler = WithinGroups if within_groups else EpisodeSampler
    episodes = (
        training.Images(fitted.train, device=place)
        if of_images
        else sampler(fitted.train, fitted.train_way, shot, fitted.train_query, device=place, distort=distort)
    )
    validation = None
    if fitted.val is not None:
        validation = sampler(fitted.val, fitted.validation_way, shot, fitted.query, device=place)
    out = out or Path("runs") / f"{method}-{Path(dataset).name}-{way}way-{shot}shot-{recipe}-seed{seed}"
    settings = {
        "init": "none" if start is None else start.as_posix(),  # none: random weights, nothing was pre-trained
        "dataset": data.lasting_name(dataset),
        "protocol": protocol or ("vinyals" if dataset == "omniglot" else None),
        "drawn": drawn,
        "way": way,
        "shot": shot,
        "query": fitted.query,
        "device": str(devices.pick(device)),  # of several processes each may have a GPU of its own
    }
    if of_images:
        settings["train_classes"] = fitted.train.classes
    else:
        settings["train_way"] = fitted.train_way
    if start is None:
        settings["budget"] = recipe  # what a recipe was called when the first runs were kept: those can go on
        settings |= {} if of_images else {"train_query": fitted.train_query}
    else:  # so that a table tells neither FLOP nor a command: those of the run that it began with would be missing
        settings["recipe"] = recipe
        settings[unseen.BEGAN_WITH] = began_with
    settings |= known_classes.of_folder(dataset, fitted.train, fitted.val if validation else None)
    if validation is not None and fitted.validation_way != way:
        settings["validation_way"] = fitted.validation_way
    if within_groups:
        settings["within_groups"] = True
    if distort:
        settings["distort"] = distort
    if turned:
        settings["turned"] = True
    steps = plan.steps if steps is None else steps
    plan = replace(plan, tasks=tasks or plan.tasks, rate=plan.rate if rate is None else rate)
    one_step = f"{fitted.train_way}-way {shot}-shot"
    one_step = f"1 image of {fitted.train.classes} classes" if of_images else one_step
    print(f"{method} on {dataset}: {steps} steps of {plan.tasks} x {one_step} on {place}")
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
        skip_damaged=skip_damaged,
        settings=settings,
    )


def _check_of_images(method: str, given: dict[str, Any]) -> None:
    """Raise CourseError for an option of episodes, where a method is trained on single images."""
    for option, value in given.items():
        if value:
            raise CourseError(f"--{option} is for training on episodes, and {method} trains on images: leave it out")


def _check_turned(dataset: str, protocol: str | None, within_groups: bool) -> None:
    """Raise CourseError for --turned where it changes nothing, or makes tasks of the turns of one class."""
    from mlcourse import datasets

    if dataset == "glyphs" or (dataset == "omniglot" and protocol in (None, "vinyals")):
        words = "vinyals in omniglot" if dataset == "omniglot" else dataset
        raise CourseError(f"--turned changes nothing: the training classes of {words} are turned already; leave it out")
    if within_groups and dataset not in datasets.NAMES:
        raise CourseError(
            "--turned and --within-groups: in a folder each class is a group, so a task would ask which turn of one "
            "class a picture shows; leave one of them out"
        )


def _check_groups(images) -> None:
    """Raise CourseError where each group is one class (its turns count as one), so that no task can be within it."""
    from mlcourse.datasets.images import upright

    if len(set(images.groups)) == len(set(map(upright, images.names))):
        raise CourseError(
            f"--within-groups takes the classes of a task from one group, such as one alphabet, but in {images.name} "
            "each class is a group of its own: leave it out"
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
