"""Sentences of notebook 10's races, made from paired results, whichever way these go."""

from collections.abc import Mapping

from torch import Tensor

from mlcourse.lessons.optimizers.pictures import bounded, geometric
from mlcourse.meta_optimization.optimizer_training import paired


def told(one: Tensor, other: Tensor, name: str, rival: str) -> str:
    """Which is lower, and by how much: losses [tasks] of the same tasks, each `bounded`.

    Differences are skewed, since a few trainings go wrong: so the median and the count stand beside the mean.
    """
    one, other = bounded(one), bounded(other)
    gap, tasks = paired(one, other), len(one)
    if gap.upper < 0:
        verdict = f"{name} is lower"
    else:
        verdict = f"{name} is higher" if gap.lower > 0 else "no difference is shown"
    return (
        f"{name} minus {rival}: {gap.difference:+.4f} ± {gap.ci95:.4f} (mean of {tasks} paired differences of losses, "
        f"95 %), median {(one - other).median().item():+.4f}, lower in {int((one < other).sum())} of {tasks} tasks: "
        f"{verdict}"
    )


def sorted_places(found: Mapping[str, tuple[Tensor, Tensor]], rival: str) -> str:
    """In which places the learned rule is ahead of a rival, and in which behind, by the 95 % interval of the factor."""
    kinds: dict[str, list[str]] = {"ahead": [], "behind": [], "not shown": []}
    for place, pair in found.items():
        mean, low, high = geometric(*pair)
        kinds["ahead" if high < 1 else "behind" if low > 1 else "not shown"].append(f"{place} ({mean:.2g})")
    return f"{rival}: " + "; ".join(f"{kind}: {', '.join(places) or 'nowhere'}" for kind, places in kinds.items())
