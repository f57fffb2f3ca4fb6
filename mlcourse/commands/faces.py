"""`mlcourse train faces`, and `mlcourse evaluate` of what it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlcourse.commands import data, say, to_json, training_run
from mlcourse.errors import CourseError

if TYPE_CHECKING:  # torch is imported late, so that `mlcourse --help` waits for nothing
    from torch import nn

    from mlcourse.datasets import ClassImages

TASK = "faces"
DRAWN = "drawn"
KNOWN = (DRAWN, *(f"orl-{number}" for number in range(5)))  # data sets that are no folders
DATASET_HELP = (
    "drawn (drawn faces), orl-0 to orl-4 (the five splits of the ORL photos), or a folder with one folder of photos "
    "per person, all of whom have agreed"
)
SIZE = (24, 20)  # of the pictures: height, width
PARTS = {"train": (0, 1, 2), "val": (3,), "test": (4,)}  # of each five people of a folder, by name
LEAST = 5  # people of a folder: fewer have no part each
VALIDATE_EVERY = 250
REFUSED = ("protocol", "shot", "episodes", "characters", "scenes", "picture")  # options of `evaluate` without a meaning


def train(
    method: Annotated[
        str, typer.Option(help="cosface or arcface (margin losses), or prototypes (on tasks)")
    ] = "cosface",
    dataset: Annotated[str, typer.Option(help=DATASET_HELP)] = DRAWN,
    recipe: training_run.ShortRecipe = "short",
    steps: training_run.Steps = None,
    seed: Annotated[int, typer.Option(help="of the weights and of the pictures' order")] = 0,
    device: training_run.Device = "auto",
    out: training_run.Out = None,
    resume: training_run.Resume = False,
    data_root: Annotated[Path | None, typer.Option(help="local copy of ORL (default: MLCOURSE_DATA)")] = None,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="of a folder: leave out photos that cannot be read, and list them")
    ] = False,
) -> None:
    """Train an encoder that tells people apart whom it has not met. But for ORL the best step is kept."""
    from mlcourse import devices, learners
    from mlcourse.commands import known_classes
    from mlcourse.episodes import check_positive, check_seed
    from mlcourse.vision import faces

    if steps is not None:
        check_positive("steps", steps)
    check_seed(seed)
    numbers = faces.recipe(method, recipe)
    together, place = training_run.begin(device)
    training_run.check_shares(together, numbers.tasks, "tasks" if method == "prototypes" else "pictures")
    validation, where = None, {"root": data_root, "skip_damaged": skip_damaged}
    with together.in_turn():  # what the first process prepares, the others find
        learn = people_of(dataset, "train", **where)
        if not _is_orl(dataset):
            validation = faces.Verification(people_of(dataset, "val", **where))
    if validation is not None:
        _check_two(validation.data, dataset)
    learner = faces.build(method, learn, seed=seed).to(place)
    steps = numbers.steps if steps is None else steps
    plan = learners.Recipe(steps, numbers.tasks, numbers.rate, validate_every=VALIDATE_EVERY)
    settings = {"task": TASK, "method": method, "dataset": data.lasting_name(dataset, KNOWN), "recipe": recipe}
    settings |= known_classes.of_folder(dataset, learn, validation.data if validation else None, fixed=KNOWN)
    print(f"{TASK} by {method} on {dataset}: {steps} steps, {learn.classes} people, on {place}")
    training_run.by_recipe(
        learner,
        faces.source(learner, learn, numbers, device=place),
        plan,
        steps=steps,
        out=out or Path("runs") / f"{TASK}-{method}-{Path(dataset).name}-{recipe}-seed{seed}",
        chosen_on="validation people",
        optimizer="adamw",
        seed=seed,
        validation=validation,
        resume=resume,
        skip_damaged=skip_damaged,
        settings=settings | {"device": str(devices.pick(device))},  # of several processes each may have its own
    )


def evaluate(learner: str, given: dict[str, Any]) -> None:
    """Print the error rates of a run or of a baseline on people to test on. given: options of `mlcourse evaluate`."""
    from mlcourse import learners
    from mlcourse.episodes import check_seed
    from mlcourse.vision import faces

    for option in REFUSED:
        if given.get(option) is not None:
            raise CourseError(f"--{option} says nothing to {TASK}, where all pairs of test people count: leave it out")
    seed, split = given["seed"] or 0, given["split"] or "test"
    check_seed(seed)
    place = training_run.begin_alone(given["device"])
    about: dict[str, Any] = {}
    if Path(learner).is_dir():
        model, about = learners.load_run(learner, device=place)
    dataset = given["dataset"] or about.get("dataset") or DRAWN
    where = {"root": given["data_root"], "skip_damaged": given["skip_damaged"]}
    test = people_of(dataset, split, **where)
    told = _known(learner, about, dataset, split, test)
    if not about:
        model = baseline(learner, people_of(dataset, "train", **where)).to(place)
    others = None
    if split == "test" and not _is_orl(dataset):
        others = people_of(dataset, "val", **where)
        _check_two(others, dataset)
    found = faces.verify(model, test, others=others, seed=seed)
    if given["as_json"]:
        more = {"learner": learner, "dataset": dataset, "split": split, "trained": about}
        print(to_json(found.as_json() | more))
        return
    print(f"{learner} on {dataset} {split}: {found.people} people, {found.faces} pictures, all pairs")
    for fmr, rate in found.fnmr.items():
        print(f"FNMR at FMR {100 * fmr:g} %: {rate}")
    for fmr, (_, real, missed) in found.chosen.items():
        told = f"FMR {100 * real:.2g} %, FNMR {100 * missed:.1f} %"
        print(f"with a threshold for FMR {100 * fmr:g} % of the validation people: {told}")
    print(f"EER (a footnote): {found.eer}")
    if not told and (split == "train" or (_is_orl(dataset) and about and dataset != about.get("dataset"))):
        say("some of these people may have been trained on: no figure of unseen ones")


def _known(learner: str, about: dict[str, Any], dataset: str, split: str, people: ClassImages) -> bool:
    """Say which people of a folder the run was trained on; whether any line was said.

    Raises CourseError where these would be tested on: of each five people by name one is, so that one more or less
    moves the others between the parts.
    """
    from mlcourse.commands import known_classes
    from mlcourse.protocols import unseen

    if dataset in KNOWN or not about:
        return False
    if about.get("classes") is None:  # trained by an earlier version, or on drawn people
        if unseen.same_data(about, data.lasting_name(dataset, KNOWN)):
            say(f"{learner} does not tell whom it was trained on: the folder must be as it was then")
        return False
    asked = {"dataset": dataset, "split": split, "protocol": None}
    lines = known_classes.lines(learner, about, asked, people, None)
    for line in lines:
        say(line)
    return bool(lines)


def baseline(name: str, learn: ClassImages) -> nn.Module:
    """A baseline of the people to learn from: pictures as they are, or fisherfaces, chosen by cross-validation."""
    from mlcourse.vision import faces

    return faces.pixels(learn) if name == "face-pixels" else faces.tuned_fisherfaces(learn)[0]


def people_of(dataset: str, split: str, *, root: Path | None = None, skip_damaged: bool = False) -> ClassImages:
    """The people of a part of a data set: "train", "val" or "test".

    Raises CourseError for a data set or a part that there is not.
    """
    from mlcourse.datasets import faces, people

    if split not in PARTS:
        raise CourseError(f"split {split!r} is unknown: use one of {', '.join(PARTS)}")
    if not dataset.strip():
        raise CourseError("--dataset is empty: give drawn, orl-0 to orl-4, or a folder of people")
    if skip_damaged:
        data.check_folder(dataset, KNOWN)
    if dataset == DRAWN:
        return faces.load(split, size=SIZE)
    if _is_orl(dataset):
        if split == "val":
            raise CourseError(f"{dataset} has people to learn from and people to test on only: say train or test")
        return people.orl_split(int(dataset[-1]), root=root, size=SIZE)[split == "test"]
    if dataset.startswith("orl") and not Path(dataset).is_dir():
        raise CourseError(f"{dataset!r} is no split of ORL: give orl-0 to orl-{len(people.SPLITS) - 1}")
    return _part(people.load(dataset, size=SIZE, skip_damaged=skip_damaged), split, dataset)


def _is_orl(dataset: str) -> bool:
    return dataset in KNOWN[1:]


def _part(everyone: ClassImages, split: str, dataset: str) -> ClassImages:
    """Of each five people of a folder, by name, three learn, one validates, and one is tested on."""
    import torch

    if everyone.classes < LEAST:
        raise CourseError(
            f"{dataset} holds {everyone.classes} people: give {LEAST} or more, so that each part has some"
        )
    place = torch.arange(everyone.classes) % 5
    return everyone.select(torch.isin(place, torch.tensor(PARTS[split])))


def _check_two(data: ClassImages, dataset: str) -> None:
    """Raise CourseError where the validation people make no pair of both kinds."""
    if data.classes < 2 or int(data.counts.max()) < 2:
        raise CourseError(
            f"the {data.classes} validation people of {dataset} make no genuine and no impostor pair: give 10 people "
            "or more, and two photos of each"
        )
