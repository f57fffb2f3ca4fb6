"""`mlcourse evaluate`: a learner's accuracy on test classes, with its interval."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mlcourse.commands import fitting, methods, on_protocol, say, to_json, training_run
from mlcourse.commands.data import DATASET_HELP, SKIP_HELP
from mlcourse.commands.views import SYMMETRIES_HELP, VIEWS_HELP, asked, check_ground
from mlcourse.errors import CourseError

OF_TASKS = ("characters", "scenes", "picture")  # options that tasks of vision take
# and those that they do not take
NOT_OF_TASKS = ("way", "query", "inner_steps", "drawn", "convert", "out", "views", "symmetries")


def evaluate(
    learner: Annotated[str, typer.Argument(help="folder of a run, or a baseline")],
    dataset: Annotated[
        str | None, typer.Option(help=f"{DATASET_HELP}. Default: what the run was trained on, else glyphs")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="split of omniglot, vinyals or lake; or fixed episodes: a name out of data/protocols, or a file, "
            "which says all but the learner (the result is kept for mlcourse table)"
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test (default: test)")] = None,
    way: Annotated[int | None, typer.Option(help="classes per task (default: the run's, else 5)")] = None,
    shot: Annotated[int | None, typer.Option(help="support images per class (default: the run's, else 1)")] = None,
    query: Annotated[
        int | None, typer.Option(help="query images per class (default: the run's, else 15, or as many as there are)")
    ] = None,
    episodes: Annotated[int | None, typer.Option(help="1,000 or more for a figure to report (default: 1,000)")] = None,
    inner_steps: Annotated[
        int | None, typer.Option(help="steps of descent on a task, for methods that descend (default: the run's)")
    ] = None,
    views: Annotated[float | None, typer.Option(help=VIEWS_HELP)] = None,
    symmetries: Annotated[int | None, typer.Option(help=SYMMETRIES_HELP)] = None,
    seed: Annotated[
        int | None, typer.Option(help="of the episodes, and of an untrained network's weights (default: 0)")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    data_root: Annotated[Path | None, typer.Option(help="local copy of the data (default: MLCOURSE_DATA)")] = None,
    download: Annotated[bool, typer.Option("--download", help="fetch a missing data set")] = False,
    drawn: Annotated[
        bool | None,
        typer.Option("--drawn/--no-drawn", help="redraw every image with the pad's pen (default: as the run, else no)"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="file of the result on fixed episodes, a .json (default: one in runs/results)")
    ] = None,
    convert: Annotated[
        bool, typer.Option("--convert", help="convert the pictures to the size and colours that the run was trained on")
    ] = False,
    characters: Annotated[
        str | None,
        typer.Option(help="of scenes: characters of each, or several numbers (4,32): a line for each of them"),
    ] = None,
    scenes: Annotated[
        str | None, typer.Option(help="of scenes: published or grey (default: as the run, else published)")
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option(help="of scenes: what the drawing shows, same or other (default: as the run, else as the scenes)"),
    ] = None,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help=SKIP_HELP)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON only; accuracy and ci95 are in [0, 1]")] = False,
) -> None:
    """Evaluate a trained LEARNER, or a baseline, on episodes of classes that it has never seen."""
    options = locals()
    task = methods.task_of(learner)
    if task is not None:
        return methods.command_of(task, "evaluate")(learner, _for_task(task, options))
    for option in OF_TASKS:
        if options[option] is not None:
            raise CourseError(f"--{option} is for a task of vision, and {learner} classifies: leave it out")
    from mlcourse.episodes import EpisodeSampler, check_positive, check_seed

    seen = asked(views, symmetries)
    if on_protocol.names_episodes(protocol, out):
        fixed = {"dataset": dataset, "split": split, "way": way, "shot": shot, "query": query, "episodes": episodes}
        fixed |= {"drawn": drawn, "inner-steps": inner_steps}  # a result says nothing of them
        fixed["skip-damaged"] = skip_damaged or None  # fixed episodes name their pictures
        on_protocol.check_free(protocol, fixed)
        if seed is not None:
            check_seed(seed)
        more = {"baseline": _baseline(learner), "seed": seed, "device": device, "root": data_root}
        more |= {"download": download, "convert": convert, "out": out, "as_json": as_json, "seen": seen}
        return on_protocol.evaluate(learner, protocol, **more)
    from mlcourse import evaluation, learners
    from mlcourse.commands import data, known_classes
    from mlcourse.learners.views import with_views

    split, episodes, seed = split or "test", 1000 if episodes is None else episodes, seed or 0
    for what, value in (("shot", shot), ("query", query)):
        if value is not None:
            check_positive(what, value)
    if way is not None and way < fitting.LEAST:
        raise CourseError(f"--way is {way}, but a task needs {fitting.LEAST} classes or more")
    check_seed(seed)
    place = training_run.begin_alone(device)
    baseline = _baseline(learner)
    model, about = (None, {}) if baseline else learners.load_run(learner, device=place)
    dataset = _dataset(learner, about) if dataset is None else dataset
    if protocol is None and dataset == about.get("dataset"):
        protocol = about.get("protocol")
    shot = about.get("shot", 1) if shot is None else shot
    drawn = bool(about.get("drawn")) if drawn is None else drawn
    shape = None if baseline else learners.shape_of(model)
    if convert and shape is None:
        raise CourseError(f"--convert is for a trained run of one shape; {learner} takes any pictures: leave it out")
    images = data.load(
        dataset,
        split,
        protocol=protocol,
        root=data_root,
        download=download,
        drawn=drawn,
        shape=shape if convert else None,
        skip_damaged=skip_damaged,
    )
    if shape and images.shape != shape:
        raise CourseError(
            f"the pictures of {dataset} are {images.shape} (channels, height, width), but {learner} was trained on "
            f"{shape}: add --convert, or choose fitting data"
        )
    fit = fitting.Fit()
    images = fit.large_enough(images, shot)
    where = {"dataset": dataset, "split": split, "protocol": protocol}
    fit.said += known_classes.lines(learner, about, where, images, data_root)
    way = fit.classes(images, fitting.Wish("way", "--way", way, about.get("way") or fitting.DEFAULT_WAY))
    wish = fitting.Wish("queries", "--query", query, about.get("query") or fitting.DEFAULT_QUERY)
    sampler = EpisodeSampler(images, way, shot, fit.queries(images, shot, wish), device=place)
    for line in fit.said:
        say(line)  # on stderr: what --json prints stays JSON
    if baseline:
        channels, size, _ = images.shape
        model = learners.build(baseline, way=way, in_channels=channels, size=size, seed=seed).to(place)
    else:
        _check_way(learner, model, way)
    _check_inner_steps(learner, model, inner_steps)
    if seen:
        check_ground(images, seen)
        model = with_views(model, learner, **seen)
    result = evaluation.evaluate(model, sampler, episodes=episodes, seed=seed, inner_steps=inner_steps)
    if as_json:
        more = {"learner": learner, "dataset": dataset, "protocol": protocol, "split": split, "drawn": drawn}
        more |= {"inner_steps": inner_steps, "seen": seen}
        print(to_json(result.as_json() | more | {"trained": about}))
    else:
        how = " (drawn)" if drawn else ""
        how += "" if inner_steps is None else f", {inner_steps} inner steps"
        how += "".join(f", {name} {value}" for name, value in seen.items())
        worst = f"{100 * result.worst_tenth:.1f} %" if result.metric.percent else f"{result.worst_tenth:.4g}"
        print(f"{learner} on {dataset} {split}{how}: {result}; worst tenth {worst}")


def _for_task(task: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options that a task of vision takes. Raises CourseError for one that it does not."""
    for option in NOT_OF_TASKS:
        if options[option] is not None and options[option] is not False:
            raise CourseError(f"--{option.replace('_', '-')} is for classification, not for {task}: leave it out")
    return {name: value for name, value in options.items() if name not in ("learner", *NOT_OF_TASKS)}


def _baseline(learner: str) -> str | None:
    """The method of a baseline: one without training, or one that is left untrained; None for the folder of a run."""
    from mlcourse.learners import METHODS

    if learner in METHODS and not METHODS[learner].recipes and not Path(learner).is_dir():
        return learner
    untrained = learner.startswith("untrained-") and not Path(learner).is_dir()
    return learner.removeprefix("untrained-") if untrained else None


def _check_way(learner, model, way: int) -> None:
    """Raise CourseError where a run was trained for fewer classes than are asked for."""
    from mlcourse.learners import most_ways

    most = most_ways(model)
    if most is not None and way > most:
        raise CourseError(
            f"--way is {way}, but {learner} tells {most} classes apart at most: use --way {most} or less, or train "
            f"another run with --way {way}"
        )


def _check_inner_steps(learner, model, inner_steps: int | None) -> None:
    """Raise CourseError for a number of inner steps that makes no sense, or of a learner that has none."""
    from mlcourse.learners.base import takes_inner_steps

    if inner_steps is None:
        return
    if inner_steps < 0:
        raise CourseError(f"--inner-steps is {inner_steps}: give 0 or more")
    if not takes_inner_steps(model):
        raise CourseError(f"--inner-steps is {inner_steps}, but {learner} has no inner steps: leave it out")


def _dataset(learner, about) -> str:
    """What the run was trained on. Raises CourseError when that was a folder, and the folder is gone."""
    from mlcourse import datasets

    dataset = about.get("dataset") or "glyphs"
    if dataset not in datasets.NAMES and not Path(dataset).is_dir():
        raise CourseError(f"{learner} was trained on the folder {dataset}, which is not there; say --dataset FOLDER")
    return dataset


evaluate.__doc__ += f"\n\n{methods.baselines()}"
