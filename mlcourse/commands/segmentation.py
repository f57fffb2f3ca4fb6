"""`mlcourse train segmentation`, and `mlcourse evaluate` of what it leaves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlcourse.commands import say, to_json, training_run
from mlcourse.errors import CourseError

if TYPE_CHECKING:  # torch is imported late, so that `mlcourse --help` waits for nothing
    from mlcourse.datasets import ClassImages

TASK = "segmentation"
MOST_CHARACTERS = 1000  # the recipes go up to 256; each takes memory of its own
ONE_INK = (1, 28, 28)  # channels, height and width of a character
CHARACTERS = "characters of a scene, of which the target is one: a number, or several, such as 4,8,16"

# options that every training on scenes takes
Characters = Annotated[str, typer.Option(help="glyphs, omniglot, or a folder of characters, bright on dark")]
Protocol = Annotated[str | None, typer.Option(help="split of omniglot: vinyals or lake")]
SceneRecipe = Annotated[
    str, typer.Option(help="published (colours, target on top) or grey (one ink, the target may be hidden in part)")
]
Picture = Annotated[
    str | None,
    typer.Option(
        help="what the drawing shows: same (the scene's own picture, turned otherwise) or other (another of the "
        "class). Default: same for published scenes, other for grey ones"
    ),
]


def train(
    method: Annotated[
        str,
        typer.Option(help="unet (conditioned on the drawing), prototypes (PANet) or colour-groups (looks at colours)"),
    ] = "unet",
    dataset: Characters = "glyphs",
    protocol: Protocol = None,
    scenes: SceneRecipe = "published",
    characters: Annotated[str, typer.Option(help=f"{CHARACTERS}: each task draws one of them")] = "4,8,16,32",
    picture: Picture = None,
    shot: Annotated[int, typer.Option(help="drawings of the target")] = 1,
    recipe: training_run.ShortRecipe = "short",
    steps: training_run.Steps = None,
    seed: Annotated[int, typer.Option(help="of the weights and of the scenes")] = 0,
    device: training_run.Device = "auto",
    out: training_run.Out = None,
    resume: training_run.Resume = False,
    data_root: training_run.DataRoot = None,
    download: training_run.Download = False,
    skip_damaged: training_run.SkipDamaged = False,
) -> None:
    """Train a learner that finds in a scene what a drawing shows. The best step on validation characters is kept."""
    from mlcourse import devices
    from mlcourse.commands import data, known_classes
    from mlcourse.episodes import check_positive, check_seed
    from mlcourse.vision import segmentation

    levels = levels_of(characters)
    if steps is not None:
        check_positive("steps", steps)
    check_positive("shot", shot)
    check_seed(seed)
    plan = segmentation.recipe(method, recipe)
    learner = segmentation.build(method, scenes=scenes, seed=seed)
    together, place = training_run.begin(device)
    training_run.check_shares(together, plan.tasks, "scenes")
    about = {"characters_per_scene": levels, "recipe": scenes, "shot": shot, "same_picture": same_picture(picture)}
    split = {"protocol": protocol, "root": data_root, "download": download, "skip_damaged": skip_damaged}
    with together.in_turn():  # what the first process fetches or prepares, the others find
        known, unseen = characters_of(dataset, "train", **split), characters_of(dataset, "val", **split)
    episodes, validation = segmentation.SceneTasks(known, **about), segmentation.SceneTasks(unseen, **about)
    out = out or Path("runs") / f"{TASK}-{method}-{Path(dataset).name}-{scenes}-{recipe}-seed{seed}"
    settings = {
        "task": TASK,
        "method": method,
        "dataset": data.lasting_name(dataset),
        "protocol": protocol or ("vinyals" if dataset == "omniglot" else None),
        "scenes": scenes,
        "characters": list(levels),
        "picture": "same" if episodes.same_picture else "other",
        "shot": shot,
        "recipe": recipe,
        "device": str(devices.pick(device)),  # of several processes each may have a GPU of its own
    } | known_classes.of_folder(dataset, known, unseen)
    steps = plan.steps if steps is None else steps
    print(
        f"{TASK} by {method} on {dataset}: {steps} steps of {plan.tasks} scenes of {characters} characters on {place}"
    )
    training_run.by_recipe(
        learner.to(place),
        episodes,
        plan,
        steps=steps,
        out=out,
        chosen_on="validation characters",
        seed=seed,
        validation=validation,
        resume=resume,
        skip_damaged=skip_damaged,
        settings=settings,
    )


def evaluate(learner: str, given: dict[str, Any]) -> None:
    """Print the IoU of a run or of a baseline, level by level. given: the options of `mlcourse evaluate`."""
    from mlcourse import evaluation, learners
    from mlcourse.commands import known_classes
    from mlcourse.episodes import check_positive, check_seed
    from mlcourse.vision import segmentation

    episodes, seed = given["episodes"] or 1000, given["seed"] or 0
    check_positive("episodes", episodes if given["episodes"] is None else given["episodes"])
    check_seed(seed)
    place = training_run.begin_alone(given["device"])
    if Path(learner).is_dir():
        model, about = learners.load_run(learner, device=place)
    else:
        model, about = segmentation.build(learner, seed=seed).to(place), {}
    dataset = given["dataset"] or about.get("dataset") or "glyphs"
    scenes = given["scenes"] or about.get("scenes") or "published"
    segmentation.check_scenes(model, scenes)
    protocol = given["protocol"] or (about.get("protocol") if dataset == about.get("dataset") else None)
    levels = levels_of(given["characters"]) if given["characters"] else tuple(about.get("characters") or (4, 32))
    shot = about.get("shot", 1) if given["shot"] is None else given["shot"]
    split, same = given["split"] or "test", same_picture(given["picture"] or trained_picture(about, scenes))
    where = {"root": given["data_root"], "download": given["download"], "skip_damaged": given["skip_damaged"]}
    images = characters_of(dataset, split, protocol=protocol, **where)
    asked = {"dataset": dataset, "split": split, "protocol": protocol}
    for line in known_classes.lines(learner, about, asked, images, given["data_root"]):
        say(line)  # on stderr: what --json prints stays JSON
    rows = []
    for level in levels:
        source = segmentation.SceneTasks(
            images, characters_per_scene=level, recipe=scenes, shot=shot, same_picture=same
        )
        result = evaluation.evaluate(model, source, episodes=episodes, seed=seed)
        rows.append((level, result, segmentation.by_definition(result.scores)))
    if given["as_json"]:
        more = {"learner": learner, "dataset": dataset, "protocol": protocol, "trained": about}
        told = [
            result.as_json() | {"characters": level, "definitions": {name: list(pair) for name, pair in found.items()}}
            for level, result, found in rows
        ]
        print(to_json(more | {"levels": told}))
        return
    drawn = "the same picture" if source.same_picture else "another picture of the class"
    print(f"{learner} on {dataset} {split}, {scenes} scenes, {episodes} of each level, {shot}-shot, {drawn} as drawing")
    for level, result, found in rows:
        told = "; ".join(f"{name} {value:.3f} {_sure(half)}" for name, (value, half) in found.items())
        print(f"{level:4d} characters: IoU {told}; worst tenth {result.worst_tenth:.3f}")


def _sure(half: float) -> str:
    return f"± {half:.3f}" if math.isfinite(half) else "(one episode: no interval)"


def characters_of(dataset: str, split: str, **how: Any) -> ClassImages:
    """A split of characters in one ink: pictures of a folder lose their colours, and get the size of the glyphs."""
    from mlcourse import datasets
    from mlcourse.commands import data

    return data.load(dataset, split, **how, shape=None if dataset in datasets.NAMES else ONE_INK)


def trained_picture(about: dict[str, Any], scenes: str) -> str | None:
    """What a run's drawings showed; None for other scenes than those of the run, which have a default of their own."""
    return about.get("picture") if scenes == about.get("scenes") else None


def same_picture(picture: str | None) -> bool | None:
    """Whether the drawing is of the scene's picture; None: as the recipe of the scenes says."""
    if picture not in (None, "same", "other"):
        raise CourseError(f"--picture is {picture!r}: give same or other")
    return None if picture is None else picture == "same"


def levels_of(characters: str) -> tuple[int, ...]:
    """ "4,8,16" as numbers. Raises CourseError for anything else."""
    parts = [part.strip() for part in characters.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise CourseError(f"--characters is {characters!r}: give a number of 1 or more, or several, such as 4,8,16")
    if max(map(int, parts)) > MOST_CHARACTERS:
        raise CourseError(f"--characters is {characters!r}: a scene has room for {MOST_CHARACTERS:,} at most")
    return tuple(map(int, parts))
