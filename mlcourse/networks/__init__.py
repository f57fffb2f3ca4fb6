"""Networks: plain `nn.Module`s, which know nothing of learning. `make` makes one by its name."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from mlcourse.errors import CourseError
from mlcourse.networks.conv4 import Conv4
from mlcourse.networks.normalisation import NORMALISATIONS, BatchStatistics, normalisation_of, normalisations_in
from mlcourse.networks.recorded import Recorded, class_of, made_again, under_todays_names
from mlcourse.networks.resnet12 import ResNet12

__all__ = [
    "NETWORKS", "NORMALISATIONS", "BatchStatistics", "Conv4", "Recorded", "ResNet12", "class_of", "made_again", "make",
    "normalisation_of", "normalisations_in", "under_todays_names",
]  # fmt: skip

NETWORKS: dict[str, Callable[..., nn.Module]] = {"conv4": Conv4, "resnet12": ResNet12}


def make(name: str, **options: Any) -> nn.Module:
    """The network of that name, one of NETWORKS. Raises CourseError for an unknown name or option."""
    if name not in NETWORKS:
        raise CourseError(f"network {name!r} is unknown; use one of {', '.join(NETWORKS)}")
    known = inspect.signature(NETWORKS[name]).parameters
    for option in options:
        if option not in known:
            raise CourseError(f"network {name!r} has no option {option!r}; it has {', '.join(known)}")
    return NETWORKS[name](**options)
