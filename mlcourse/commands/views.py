"""`mlcourse evaluate … --views STRENGTH`: a learner that compares sees each picture several times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlcourse.errors import CourseError

if TYPE_CHECKING:  # torch is imported late, so that `mlcourse --help` waits for nothing
    from mlcourse.learners import Learner

VIEWS_HELP = (
    "for learners that compare, on characters: each picture is seen as it is and in 12 views, turned, sheared, "
    "stretched and moved by so much (0 to 3; 1: 15 degrees, a fifth), and its mean embedding counts"
)


def check_views(strength: float | None) -> None:
    """Raise CourseError for a strength out of bounds, before any work is done; None: no views are asked for."""
    from mlcourse.datasets.distortion import check_strength

    if strength is None:
        return
    check_strength(strength)
    if strength == 0:
        raise CourseError("--views is 0: 13 times the same picture; give more, or leave --views out")


def with_views(learner: Learner, name: str, strength: float | None) -> Learner:
    """The learner, in place, with `networks.views.Views` before its comparison; None: as it is.

    name: as a person calls it. Its config tells the strength, so that a table holds it for another row than without.
    Raises CourseError for a learner that does not compare embeddings.
    """
    from mlcourse.learners.metric import MetricLearner
    from mlcourse.networks.views import Views

    if strength is None:
        return learner
    if not isinstance(learner, MetricLearner):
        raise CourseError(
            f"--views is for learners that compare embeddings (such as prototypical), and {name} is none: leave it out"
        )
    learner.network = Views(learner.network, strength).train(learner.training)
    if getattr(learner, "config", {}):
        learner.config["options"] = learner.config["options"] | {"views": strength}
    return learner
