"""`mlcourse evaluate`: a learner's accuracy on test classes, with its interval."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mlcourse.commands.train import _load


def evaluate(
    learner: Annotated[str, typer.Argument(help="folder of a run; or pixels, untrained-prototypical, untrained-maml")],
    dataset: Annotated[str | None, typer.Option(help="default: what the run was trained on, else glyphs")] = None,
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
    drawn: Annotated[bool, typer.Option("--drawn", help="redraw every image with the drawing pad's pen")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON only; accuracy and ci95 are in [0, 1]")] = False,
) -> None:
    """Evaluate a trained LEARNER, or a baseline, on episodes of classes that it has never seen."""
    from mlcourse import devices, evaluation, files, learners
    from mlcourse.episodes import EpisodeSampler

    place = devices.pick(device)
    baseline = learner.removeprefix("untrained-") if learner.startswith("untrained-") or learner == "pixels" else None
    about = {} if baseline else _about(learner, files, learners)
    dataset = dataset or about.get("dataset") or "glyphs"
    if protocol is None and dataset == about.get("dataset"):
        protocol = about.get("protocol")
    way = about.get("way", 5) if way is None else way
    shot = about.get("shot", 1) if shot is None else shot
    data = _load(dataset, split, protocol, data_root, drawn, download)
    sampler = EpisodeSampler(data, way, shot, query, device=place)
    if baseline:
        channels, size, _ = data.shape
        model = learners.build(baseline, way=way, in_channels=channels, size=size, seed=0).to(place)
    else:
        model = learners.load(learner, device=place)
        model.check_images(data.shape)
    result = evaluation.evaluate(model, sampler, episodes=episodes, seed=seed)
    if as_json:
        more = {"learner": learner, "dataset": dataset, "protocol": protocol, "split": split, "drawn": drawn}
        print(json.dumps(result.as_json() | more | {"trained": about}))
    else:
        print(f"{learner} on {dataset} {split}: {result}; worst tenth {100 * result.worst_tenth:.1f} %")


def _about(folder, files, learners) -> dict:
    """What the run's config.json tells of its training ({} for a folder that `load` will refuse with a clear error)."""
    path = Path(folder) / learners.CONFIG
    return files.read_json(path) if path.is_file() else {}
