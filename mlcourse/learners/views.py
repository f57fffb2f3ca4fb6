"""A learner that compares, for whom each picture is seen several times (`networks/views.py`). Nothing is trained."""

import copy
from typing import TypeVar

from mlcourse.errors import CourseError
from mlcourse.learners.base import Learner
from mlcourse.learners.metric import MetricLearner
from mlcourse.networks.views import Views

L = TypeVar("L", bound=Learner)
EMBED = ("encode", "inner_process", "predict")  # where a learner asks its encoder


def with_views(learner: L, name: str, *, views: float = 0.0, symmetries: int = 1) -> L:
    """A copy of the learner whose encoder sees each picture in `Views` of that strength and so many symmetries.

    name: as a person calls the learner. Raises CourseError for one that does not compare what its encoder makes of a
    picture by itself, and nothing else: it would go past the views, or has numbers that fit other embeddings.
    """
    what = f"views are for learners that compare the embeddings of pictures, such as prototypical, and {name}"
    kind = type(learner)
    if not isinstance(learner, MetricLearner):
        raise CourseError(f"{what} is none: leave --views and --symmetries out")
    own = [one for one in EMBED if getattr(kind, one) is not getattr(MetricLearner, one)]
    if own:
        raise CourseError(f"{what} asks its network in a way of its own ({own[0]}): leave --views and --symmetries out")
    values = [*learner.named_parameters(), *learner.named_buffers()]
    more = [one for one, value in values if not one.startswith("network.") and value.numel() > 1]
    if more:
        raise CourseError(
            f"{what} has numbers beside its encoder's that fit its embeddings as they were trained ({more[0]}): leave "
            "--views and --symmetries out"
        )
    seen = copy.deepcopy(learner)
    seen.network = Views(seen.network, views, symmetries).train(learner.training)
    return seen
