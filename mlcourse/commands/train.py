"""`mlcourse train`: meta-train a learner and keep it in a folder."""

from pathlib import Path
from typing import Annotated

import typer

from mlcourse.commands import methods


def train(
    method: Annotated[str, typer.Argument(help="one of the methods above")],
    dataset: Annotated[str, typer.Option(help="glyphs, omniglot, caltech101, or a folder of class folders")] = "glyphs",
    protocol: Annotated[str | None, typer.Option(help="split of omniglot: vinyals or lake")] = None,
    way: Annotated[int, typer.Option(help="classes a task")] = 5,
    shot: Annotated[int, typer.Option(help="support images a class")] = 1,
    query: Annotated[int, typer.Option(help="query images a class, in validation")] = 15,
    train_way: Annotated[int | None, typer.Option(help="classes a task in training (default: the recipe's)")] = None,
    budget: Annotated[str, typer.Option(help="smoke, short (at most ten minutes on 2 cores) or paper")] = "short",
    steps: Annotated[int | None, typer.Option(help="outer steps, in place of the budget's")] = None,
    normalisation: Annotated[str | None, typer.Option(help="batch, support, running, group or none")] = None,
    seed: Annotated[int, typer.Option(help="of the weights and of the episodes")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    out: Annotated[Path | None, typer.Option(help="folder of the run (default: runs/…)")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the run's checkpoint, if there is one")] = False,
    data_root: Annotated[Path | None, typer.Option(help="local copy of the data (default: MLCOURSE_DATA)")] = None,
    drawn: Annotated[bool, typer.Option("--drawn", help="redraw every image with the drawing pad's pen")] = False,
    download: Annotated[bool, typer.Option("--download", help="fetch a missing data set")] = False,
) -> None:
    """Meta-train METHOD from random weights; the best step on validation classes is kept."""
    from mlcourse import devices, learners, training
    from mlcourse.commands import data
    from mlcourse.episodes import EpisodeSampler, check_positive, check_seed
    from mlcourse.errors import CourseError

    for what, value in (("way", way), ("shot", shot), ("query", query), ("train-way", train_way)):
        if value is not None:
            check_positive(what, value)
    check_seed(seed)
    plan = learners.recipe(method, budget, way)
    ways = train_way or plan.train_way or way
    if learners.METHODS[method].head and ways != way and not plan.options.get("zero_head"):
        raise CourseError(f"train-way is {ways}, but {method}'s network ends in {way} classes; use --way {ways}")
    place = devices.pick(device)
    devices.keep_freed_memory()
    train_data, val_data = (
        data.load(
            dataset,
            split,
            protocol=protocol,
            root=data_root,
            download=download,
            drawn=drawn,
            hands=2 if split == "train" else 0,
        )
        for split in ("train", "val")
    )
    options = plan.options | ({} if normalisation is None else {"normalisation": normalisation})
    most = learners.options_of(method).get("most_ways")
    if most is not None:  # a learner that has a label vector for each class, in training and in validation
        options["most_ways"] = max(way, ways, most)
    channels, size, _ = train_data.shape
    learner = learners.build(method, way=way, in_channels=channels, size=size, seed=seed, **options).to(place)
    source = EpisodeSampler(train_data, ways, shot, plan.query or query, device=place)
    if val_data.classes < way:  # a small folder of one's own; every other fault of the request is an error
        print(f"no validation, the last step is kept: {val_data.classes} validation classes are fewer than way {way}")
        validation = None
    else:
        validation = EpisodeSampler(val_data, way, shot, query, device=place)
    out = out or Path("runs") / f"{method}-{Path(dataset).name}-{way}way-{shot}shot-{budget}-seed{seed}"
    settings = {
        "init": "none",  # random weights: nothing was pre-trained
        "dataset": data.lasting_name(dataset),
        "protocol": protocol or ("vinyals" if dataset == "omniglot" else None),
        "drawn": drawn,
        "way": way,
        "shot": shot,
        "query": query,
        "train_way": source.way,
        "train_query": source.query,
        "budget": budget,
        "device": str(place),
    }
    steps = plan.steps if steps is None else steps
    print(f"{method} on {dataset}: {steps} steps of {plan.tasks} × {source.way}-way {shot}-shot on {place} → {out}")
    history = training.train(
        learner,
        source,
        steps=steps,
        tasks=plan.tasks,
        rate=plan.rate,
        schedule=plan.schedule,
        seed=seed,
        validation=validation,
        validate_every=plan.validate_every,
        validation_episodes=plan.validation_episodes,
        out=out,
        resume=resume,
        settings=settings,
    )
    done = len(history.losses)
    if history.interrupted:
        print(f"stopped after {done} of {steps} steps; what was learnt is in {out}, --resume goes on")
        raise typer.Exit(130)
    best = f", best at step {history.best_step} on validation classes" if history.validations else ""
    print(f"{done} steps in {history.seconds:.0f} s{best}. Next: mlcourse evaluate {out}")


train.__doc__ += f"\n\n{methods.trainable()}"
