"""`mlcourse train detection`, and `mlcourse evaluate` of what it leaves."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mlcourse.commands import say, to_json, training_run
from mlcourse.commands.segmentation import (
    Characters,
    Picture,
    Protocol,
    SceneRecipe,
    characters_of,
    levels_of,
    same_picture,
    trained_picture,
)
from mlcourse.errors import CourseError

TASK = "detection"
EPISODES = 500


def train(
    method: Annotated[
        str,
        typer.Option(
            help="matched-boxes (boxes by colour, compared with the drawing), correlation (one pass over the scene, "
            "told by the drawing) or fine-tuning (its rival: the last layer learns from the drawing)"
        ),
    ] = "matched-boxes",
    dataset: Characters = "glyphs",
    protocol: Protocol = None,
    scenes: SceneRecipe = "published",
    characters: Annotated[int, typer.Option(help="characters of a scene, of which the target is one")] = 17,
    picture: Picture = None,
    shot: Annotated[int, typer.Option(help="drawings of the target (matched-boxes)")] = 1,
    absent: Annotated[float, typer.Option(help="the share of scenes without the target (matched-boxes)")] = 0.5,
    start: Annotated[
        Path | None,
        typer.Option(help="a run of segmentation by colour-groups, whose embedding of drawings is begun with"),
    ] = None,
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
    """Train a detector that finds in a scene what a drawing shows. The best step by AP50 on validation characters is
    kept."""
    from mlcourse import devices, learners
    from mlcourse.commands import data, known_classes
    from mlcourse.episodes import check_positive, check_seed
    from mlcourse.protocols.unseen import BEGAN_WITH, as_beginning
    from mlcourse.vision import detection

    check_positive("characters", characters)
    levels_of(str(characters))
    if steps is not None:
        check_positive("steps", steps)
    check_positive("shot", shot)
    check_seed(seed)
    if absent == 1:
        raise CourseError(f"--absent is {absent}: a detector needs scenes with the target, give less than 1")
    plan = detection.recipe(method, recipe)
    together, place = training_run.begin(device)
    # correlation holds a scene against the drawings of another one
    training_run.check_shares(together, plan.tasks, "scenes", least=2 if method == "correlation" else 1)
    about = {"characters_per_scene": characters, "recipe": scenes, "same_picture": same_picture(picture)}
    split = {"protocol": protocol, "root": data_root, "download": download, "skip_damaged": skip_damaged}
    with together.in_turn():  # what the first process fetches or prepares, the others find
        known, unseen = characters_of(dataset, "train", **split), characters_of(dataset, "val", **split)
    episodes = detection.tasks_for(method, known, shot=shot, absent=absent, **about)
    validation = detection.DetectionTasks(unseen, shot=shot, absent=absent, **about)
    begun, told = (None, {}) if start is None else learners.load_run(start)
    learner = detection.build(method, scenes=scenes, known=known, seed=seed, start=begun)
    out = out or Path("runs") / f"{TASK}-{method}-{Path(dataset).name}-{scenes}-{recipe}-seed{seed}"
    settings = {
        "task": TASK,
        "method": method,
        "dataset": data.lasting_name(dataset),
        "protocol": protocol or ("vinyals" if dataset == "omniglot" else None),
        "scenes": scenes,
        "characters": characters,
        "picture": "same" if validation.same_picture else "other",
        "shot": shot,
        "absent": absent,
        "recipe": recipe,
        "device": str(devices.pick(device)),  # of several processes each may have a GPU of its own
    } | known_classes.of_folder(dataset, known, unseen)
    if start is not None:
        settings |= {"start": start.as_posix(), BEGAN_WITH: as_beginning(told)}
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
        validation=detection.Precision(validation, plan.validation_episodes, (seed + 10**6) % 2**64),
        resume=resume,
        skip_damaged=skip_damaged,
        settings=settings,
    )


def evaluate(learner: str, given: dict[str, Any]) -> None:
    """Print the AP50 of a run or of a rival, level by level. given: the options of `mlcourse evaluate`."""
    from mlcourse import learners, places
    from mlcourse.commands import known_classes
    from mlcourse.episodes import check_positive, check_seed
    from mlcourse.statistics import NoInterval
    from mlcourse.vision import detection, precision

    episodes, seed = EPISODES if given["episodes"] is None else given["episodes"], given["seed"] or 0
    check_positive("episodes", episodes)
    check_seed(seed)
    place = training_run.begin_alone(given["device"])
    if Path(learner).is_dir():
        model, about = learners.load_run(learner, device=place)
    else:
        # the boxes by colour are a baseline, too: with the embedding of the stored learner of segmentation
        start = learners.load(places.data() / "checkpoints" / "segmentation") if learner == "matched-boxes" else None
        model = detection.build(learner, scenes=given["scenes"] or "published", seed=seed, start=start).to(place)
        about = {}
    dataset = given["dataset"] or about.get("dataset") or "glyphs"
    scenes = given["scenes"] or about.get("scenes") or "published"
    detection.check_channels(model, scenes)
    protocol = given["protocol"] or (about.get("protocol") if dataset == about.get("dataset") else None)
    levels = levels_of(given["characters"]) if given["characters"] else (about.get("characters") or 17,)
    shot = about.get("shot", 1) if given["shot"] is None else given["shot"]
    split, same = given["split"] or "test", same_picture(given["picture"] or trained_picture(about, scenes))
    where = {"root": given["data_root"], "download": given["download"], "skip_damaged": given["skip_damaged"]}
    images = characters_of(dataset, split, protocol=protocol, **where)
    asked = {"dataset": dataset, "split": split, "protocol": protocol}
    for line in known_classes.lines(learner, about, asked, images, given["data_root"]):
        say(line)  # on stderr: what --json prints stays JSON
    rows = []
    for level in levels:
        source = detection.DetectionTasks(
            images,
            characters_per_scene=level,
            recipe=scenes,
            shot=shot,
            absent=about.get("absent", 0.5),
            same_picture=same,
        )
        found = detection.answers(model, source, episodes=episodes, seed=seed)
        try:
            pooled = precision.precision_interval([found.detections], found.truth)
        except NoInterval:  # too few scenes, or all alike
            pooled = (found.precision(), None, None)
        rows.append((level, pooled, precision.errors_of(found.detections, found.truth, score=0.0), found))
    if given["as_json"]:
        told = [
            {"characters": level, "AP50": ap, "from": low, "to": high, "errors": errors, "scenes": len(found.truth)}
            for level, (ap, low, high), errors, found in rows
        ]
        more = {"learner": learner, "dataset": dataset, "protocol": protocol, "split": split, "trained": about}
        print(to_json(more | {"levels": told}))
        return
    drawn = "the same picture" if source.same_picture else "another picture of the class"
    print(
        f"{learner} on {dataset} {split}, {scenes} scenes, {episodes} of each level, {source.absent:.0%} without the "
        f"target, {shot}-shot, {drawn} as drawing"
    )
    for level, (ap, low, high), errors, _ in rows:
        sure = "no interval: too few scenes" if low is None else f"{low:.3f} to {high:.3f}"
        told = ", ".join(f"{count} {kind}" for kind, count in errors.items())
        print(f"{level:4d} characters: AP50 {ap:.3f} ({sure}); boxes with a score of 0 or more: {told}")
