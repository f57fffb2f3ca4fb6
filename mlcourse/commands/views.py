"""`mlcourse evaluate … --views STRENGTH --symmetries N`: a learner that compares sees each picture several times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlcourse.errors import CourseError

if TYPE_CHECKING:  # torch is imported late, so that `mlcourse --help` waits for nothing
    from mlcourse.learners import Learner

VIEWS_HELP = (
    "for learners that compare, on characters: each picture is seen as it is and in 12 views, turned, sheared, "
    "stretched and moved by so much (up to 3; 1: 15 degrees, a fifth), and its mean embedding counts"
)
SYMMETRIES_HELP = (
    "for learners that compare by distances: each picture is seen in its quarter turns, too (4), and these mirrored "
    "(8); the embeddings stand side by side"
)


def check_views(strength: float | None, symmetries: int | None) -> None:
    """Raise CourseError for views that there are not, before any work is done. None: they are not asked for."""
    from mlcourse.datasets.distortion import check_strength
    from mlcourse.networks.views import SYMMETRIES

    if strength is not None:
        check_strength(strength)
        if strength == 0:
            raise CourseError("--views is 0: 13 times the same picture; give more, or leave --views out")
    if symmetries is not None and symmetries not in SYMMETRIES[1:]:
        raise CourseError(
            f"--symmetries is {symmetries}: give {' or '.join(map(str, SYMMETRIES[1:]))}, or leave it out"
        )


def given(strength: float | None, symmetries: int | None) -> dict[str, float]:
    """The two options, by name, as far as they are asked for."""
    return {name: one for name, one in {"views": strength, "symmetries": symmetries}.items() if one is not None}


def with_views(learner: Learner, name: str, strength: float | None, symmetries: int | None) -> Learner:
    """The learner, in place, with `networks.views.Views` before its comparison, where views are asked for.

    name: as a person calls it. Its config tells both, so that a table holds it for another row than without.
    Raises CourseError for a learner that does not compare embeddings, or (symmetries) has weights for their numbers.
    """
    from mlcourse.learners.metric import MetricLearner
    from mlcourse.networks.views import Views

    asked = given(strength, symmetries)
    if not asked:
        return learner
    option = f"--{next(iter(asked))}"
    if not isinstance(learner, MetricLearner):
        raise CourseError(
            f"{option} is for learners that compare embeddings (such as prototypical), and {name} is none: leave it out"
        )
    own = [one for one, value in learner.named_parameters() if not one.startswith("network.") and value.numel() > 1]
    if symmetries is not None and own:
        raise CourseError(
            f"--symmetries makes longer embeddings, and {name} has weights of its own for each number of one "
            f"({own[0]}): leave it out"
        )
    learner.network = Views(learner.network, strength or 0, symmetries or 1).train(learner.training)
    if getattr(learner, "config", {}):
        learner.config["options"] = learner.config["options"] | asked
    return learner
