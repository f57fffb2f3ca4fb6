"""Whether classes to test on are unseen: what `mlcourse evaluate` says of a run's own training, and of those before."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from mlcourse.commands import data
from mlcourse.datasets import ClassImages
from mlcourse.datasets.images import upright
from mlcourse.errors import CourseError
from mlcourse.protocols import unseen

IF_THE_SAME = "if they are the same, this is no figure of unseen classes"


def lines(
    learner: str, about: dict[str, Any], asked: dict[str, Any], images: ClassImages, root: Path | None
) -> list[str]:
    """A line for classes that the run, or the run that it began with, was trained on, or that have their names.

    asked: the data set, split and protocol of `images`. Raises CourseError where classes for a test are those of the
    training: of another protocol, or of the same folder, where with few classes one more or less moves others between
    splits.
    """
    dataset = data.lasting_name(asked["dataset"])
    earlier = {"test": ("train", "val"), "val": ("train",)}.get(asked["split"])
    found = _of_run(learner, about)
    for one in unseen.trainings(about):
        same = unseen.same_data(one, dataset)
        if not same and (earlier is None or one.get("classes") is None):
            continue
        words = _shared(learner, about, one, images, earlier or ("train", "val"), root)
        if words is None:
            continue
        if earlier is None:
            found.append(f"{words}: this is no figure of unseen classes")
        elif not same:
            found.append(f"{words}: {IF_THE_SAME}")
        elif dataset in unseen.NO_FOLDERS:
            raise CourseError(f"{words}, so they are not unseen: {unseen.remedy(about, dataset, asked['protocol'])}")
        else:
            raise CourseError(
                f"{words} (were class folders added or removed since then?), so they are not unseen: bring the folder "
                "back to what it was, or train again"
            )
    return found


def on_protocol(
    learner: str, about: dict[str, Any], dataset: str, read: Callable[[], ClassImages], root: Path | None
) -> list[str]:
    """The same of a protocol's pictures, where `protocols.evaluate` refuses all that are of one data set.

    read: gives the pictures. It is called only where a training tells its classes, which are no fixed lists.
    """
    found = _of_run(learner, about)
    for one in unseen.trainings(about):
        if one.get("classes") is not None and not unseen.same_data(one, dataset):
            words = _shared(learner, about, one, read(), ("train", "val"), root)
            found += [] if words is None else [f"{words}: {IF_THE_SAME}"]
    return found


def stopped(learner: str, about: dict[str, Any]) -> list[str]:
    """A line for a run whose training was stopped on the way."""
    if about.get("finished") is not False:
        return []
    done = f"after {about.get('steps_done') or 0:,} of {about['steps']:,} steps" if about.get("steps") else "on the way"
    return [f"the training of {learner} was stopped {done}: the same command with --resume goes on"]


def _of_run(learner: str, about: dict[str, Any]) -> list[str]:
    begun = about | {"init": about.get("init") or about.get("start") or "none"}
    return stopped(learner, about) + unseen.untold(begun, learner)


def _shared(
    learner: str,
    about: dict[str, Any],
    one: dict[str, Any],
    images: ClassImages,
    earlier: tuple[str, ...],
    root: Path | None,
) -> str | None:
    """How many of the pictures' classes are among those of a training (`one` of `about`), in words; None: none is."""
    known = unseen.seen_classes(one, earlier, root)
    both = [name for name in images.names if upright(name) in known]
    if not both:
        return None
    how = "trained" if earlier == ("train",) else "trained or validated"
    return (
        f"{len(both)} of the {images.classes} {images.split} classes of {images.name}, such as {both[0]!r}, are "
        f"among those that {unseen.said(learner, about, one)} was {how} on"
    )


def of_folder(
    dataset: str, train: ClassImages, val: ClassImages | None, *, fixed: Collection[str] = unseen.NO_FOLDERS
) -> dict[str, Any]:
    """What a run keeps, so that later no class of its training is tested on.

    A folder may get more classes, or lose some, and then others move between the splits. The data sets `fixed` have
    fixed lists, and nothing is kept of them.
    """
    if dataset in fixed:
        return {}
    return {"classes": {"train": list(train.names), "val": [] if val is None else list(val.names)}}
