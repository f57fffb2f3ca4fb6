"""`mlcourse evaluate`: a learner's accuracy on test classes, with its interval."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mlcourse.commands.data import DATASET_HELP


def evaluate(
    learner: Annotated[str, typer.Argument(help="folder of a run; or pixels, untrained-prototypical, untrained-maml")],
    dataset: Annotated[
        str | None, typer.Option(help=f"{DATASET_HELP}. Default: what the run was trained on, else glyphs")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="split of omniglot: vinyals or lake")] = None,
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
    way: Annotated[int | None, typer.Option(help="classes a task (default: the run's, else 5)")] = None,
    shot: Annotated[int | None, typer.Option(help="support images a class (default: the run's, else 1)")] = None,
    query: Annotated[int, typer.Option(help="query images a class")] = 15,
    episodes: Annotated[int, typer.Option(help="1,000 or more for a figure to report")] = 1000,
    seed: Annotated[int, typer.Option(help="of the episodes")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    data_root: Annotated[Path | None, typer.Option(help="local copy of the data (default: MLCOURSE_DATA)")] = None,
    download: Annotated[bool, typer.Option("--download", help="fetch a missing data set")] = False,
    drawn: Annotated[
        bool | None,
        typer.Option("--drawn/--no-drawn", help="redraw every image with the pad's pen (default: as the run, else no)"),
    ] = None,
    convert: Annotated[
        bool, typer.Option("--convert", help="convert the pictures to the size and colours that the run was trained on")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON only; accuracy and ci95 are in [0, 1]")] = False,
) -> None:
    """Evaluate a trained LEARNER, or a baseline, on episodes of classes that it has never seen."""
    from mlcourse import devices, evaluation, files, learners
    from mlcourse.commands import data
    from mlcourse.episodes import EpisodeSampler, check_seed
    from mlcourse.errors import CourseError

    check_seed(seed)
    place = devices.pick(device)
    baseline = learner.removeprefix("untrained-") if learner.startswith("untrained-") or learner == "pixels" else None
    about = {} if baseline else _about(learner, files, learners)
    dataset = _dataset(learner, about) if dataset is None else dataset
    if protocol is None and dataset == about.get("dataset"):
        protocol = about.get("protocol")
    way = about.get("way", 5) if way is None else way
    shot = about.get("shot", 1) if shot is None else shot
    drawn = bool(about.get("drawn")) if drawn is None else drawn
    model = None if baseline else learners.load(learner, device=place)
    shape = None if baseline else _shape(model)
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
    )
    if shape and images.shape != shape:
        raise CourseError(
            f"the pictures of {dataset} are {images.shape} (channels, height, width), but {learner} was trained on "
            f"{shape}: add --convert, or choose fitting data"
        )
    data.check_enough(images, way=way, shot=shot, query=query)
    sampler = EpisodeSampler(images, way, shot, query, device=place)
    if baseline:
        channels, size, _ = images.shape
        model = learners.build(baseline, way=way, in_channels=channels, size=size, seed=0).to(place)
    result = evaluation.evaluate(model, sampler, episodes=episodes, seed=seed)
    if as_json:
        more = {"learner": learner, "dataset": dataset, "protocol": protocol, "split": split, "drawn": drawn}
        print(json.dumps(result.as_json() | more | {"trained": about}))
    else:
        how = " (drawn)" if drawn else ""
        print(f"{learner} on {dataset} {split}{how}: {result}; worst tenth {100 * result.worst_tenth:.1f} %")


def _about(folder, files, learners) -> dict:
    """What the run's config.json tells of its training ({} for a folder that `load` will refuse with a clear error)."""
    path = Path(folder) / learners.CONFIG
    return files.read_json(path) if path.is_file() else {}


def _shape(model) -> tuple[int, int, int] | None:
    """(C, H, W) of the pictures that a learner was built for; None when it takes any."""
    if "in_channels" not in model.config or model.config["method"] == "pixels":
        return None
    return model.config["in_channels"], model.config["size"], model.config["size"]


def _dataset(learner, about) -> str:
    """What the run was trained on. Raises CourseError when that was a folder, and the folder is gone."""
    from mlcourse import datasets
    from mlcourse.errors import CourseError

    dataset = about.get("dataset") or "glyphs"
    if dataset not in datasets.NAMES and not Path(dataset).is_dir():
        raise CourseError(f"{learner} was trained on the folder {dataset}, which is not there; say --dataset FOLDER")
    return dataset
