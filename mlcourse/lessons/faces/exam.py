"""What notebook 15 asks of its encoders: drawn people, errors between two people, single nuisances, people alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mlcourse.datasets import ClassImages, faces
from mlcourse.statistics import NoInterval
from mlcourse.vision import verification
from mlcourse.vision.faces import embed
from mlcourse.vision.verification import Pairs, Sure

SIZE = (24, 20)  # height, width of the pictures
OTHER_SEED = 1  # of the people of a large gallery: none of them is of the usual 400

# what happens to a plain portrait, one thing at a time: its name → the numbers of `datasets.faces.PICTURE` that change
NUISANCES: Mapping[str, Mapping[str, float]] = {
    "nothing": {},
    "a smile": {"smile": 1.0, "open mouth": 0.7},
    "glasses": {"glasses": 1.0},
    "light from the side": {"light side": 0.55},
    "turned by 12°": {"turn": 12.0},
    "turned by 24°": {"turn": 24.0},
    "a hand before the chin": {"hidden": 1.0, "hidden y": 0.55, "hidden tone": 0.6},
    "a bar before the eyes": {"hidden": 1.0, "hidden y": -0.1, "hidden tone": 0.1},
}


# ------------------------------------------------------------------ people


def people(split: str, *, samples: int, most: int | None = None) -> ClassImages:
    """Drawn people of a split, so many pictures of each. most: so many people, the first ones (None: all)."""
    data = faces.load(split, samples=samples, size=SIZE)
    return data if most is None else data.select(torch.arange(min(most, data.classes)))


def crowd(count: int, *, samples: int) -> ClassImages:
    """So many drawn people (at most 400) who are in no split of the usual ones."""
    data = faces.load("all", samples=samples, size=SIZE, seed=OTHER_SEED)
    return data.select(torch.arange(min(count, data.classes)))


def people_of(data: ClassImages) -> Tensor:
    """Whose each picture is: int64 [pictures]."""
    return torch.arange(data.classes).repeat_interleave(data.counts)


# ------------------------------------------------------------------ errors, counted between two people


@dataclasses.dataclass(frozen=True)
class Couples:
    """What two people's pictures came to at a threshold; both may be the same person.

    people: int64 [couples, 2]. wrong, compared: float64 [couples], wrong decisions, and comparisons.
    """

    people: Tensor
    wrong: Tensor
    compared: Tensor

    @property
    def genuine(self) -> Tensor:
        """Where both are the same person: bool [couples]."""
        return self.people[:, 0] == self.people[:, 1]

    def rates(self, weights: Tensor | None = None) -> tuple[float, float]:
        """(FMR, FNMR), where each couple counts as often as weights [couples] say; nan for nothing to divide by."""
        weights = torch.ones_like(self.wrong) if weights is None else weights.double()
        found = []
        for kind in (~self.genuine, self.genuine):
            wrong, compared = ((weights * values)[kind].sum() for values in (self.wrong, self.compared))
            found.append(float(wrong / compared))
        return found[0], found[1]


def couples(pairs: Pairs, threshold: float) -> Couples:
    """The pairs of pictures at a threshold, added up for each two people."""
    wrong = (pairs.scores >= threshold) != pairs.genuine
    ordered = pairs.people.sort(1).values
    found, member = ordered.unique(dim=0, return_inverse=True)
    zeros = torch.zeros(len(found), dtype=torch.float64)
    compared = zeros.index_add(0, member, torch.ones(len(member), dtype=torch.float64))
    return Couples(found, zeros.index_add(0, member, wrong.double()), compared)


def covered(
    pairs: Pairs, threshold: float, half_of: Callable[[Couples, Tensor], float], *, groups: int, size: int, seed: int
) -> tuple[float, float]:
    """How often an interval for FMR holds the FMR of all people, for groups of `size` of them: (share, mean half).

    half_of: (couples of a group, its people) → half of the interval.
    """
    everyone = couples(pairs, threshold)
    truth, there = everyone.rates()[0], pairs.people.unique()
    generator = torch.Generator().manual_seed(seed)
    hits, halves = 0, []
    for _ in range(groups):
        group = there[torch.randperm(len(there), generator=generator)[:size]].sort().values
        inside = torch.isin(everyone.people, group).all(1)
        some = Couples(everyone.people[inside], everyone.wrong[inside], everyone.compared[inside])
        half = half_of(some, group)
        halves.append(half)
        hits += abs(some.rates()[0] - truth) <= half
    return hits / groups, sum(halves) / groups


def half_by_pairs(some: Couples, group: Tensor) -> float:
    """Half of the usual interval of a share, 1.96 · √(p(1 − p)/n), as if all n pairs of pictures were independent."""
    share, n = some.rates()[0], some.compared[~some.genuine].sum().item()
    return 1.96 * (share * (1 - share) / n) ** 0.5


def half_over_people(weights_of: Callable[[Tensor, Tensor], Tensor], *, draws: int, seed: int) -> Callable:
    """Half of an interval by drawing people: `half_of` for `covered`, by weights as in exercise 15.3."""

    def half(some: Couples, group: Tensor) -> float:
        generator = torch.Generator().manual_seed(seed)
        numbered = Couples(torch.searchsorted(group, some.people), some.wrong, some.compared)
        found = []
        for _ in range(draws):
            drawn = torch.randint(len(group), (len(group),), generator=generator)
            found.append(numbered.rates(weights_of(drawn, numbered.people))[0])
        return verification.half_width(torch.tensor(found, dtype=torch.float64), len(group))

    return half


def apart(ours: Pairs, theirs: Pairs, statistic: verification.Statistic, *, draws: int, seed: int) -> Sure | str:
    """How much larger a statistic is for `ours`, paired, with its interval over people; or why there is none."""
    try:
        return verification.difference_over_people([ours], [theirs], statistic, draws=draws, seed=seed)
    except NoInterval as line:
        return str(line)


# ------------------------------------------------------------------ what breaks it


def portraits(count: int, change: Mapping[str, float], *, seed: int = 0) -> Tensor:
    """The plain portraits of the test people, with these numbers changed: uint8 [people, 1, H, W]."""
    first = faces.PEOPLE["train"] + faces.PEOPLE["val"]
    everyone = faces.picked(faces.population(), torch.arange(first, first + count))
    picture = faces.plain(count) | {name: torch.full((count,), value) for name, value in change.items()}
    picture["noise"] = torch.full((count,), 0.015)
    return faces.render(everyone, picture, SIZE, generator=torch.Generator().manual_seed(seed))


def shut_out(model: nn.Module, threshold: float, count: int) -> dict[str, float]:
    """Of each nuisance the share of people who are not recognised by their plain portrait."""
    enrolled = embed(model, portraits(count, {}, seed=1))
    found = {}
    for name, change in NUISANCES.items():
        scores = (enrolled.double() * embed(model, portraits(count, change, seed=2)).double()).sum(1)
        found[name] = (scores < threshold).double().mean().item()
    return found


def look_alike(pairs: Pairs, threshold: float) -> dict[str, tuple[float, int]]:
    """FMR among all test people, and among two of alike tone: name → (FMR, couples).

    Alike: of skin and of hair they are in the same third of the test people. pairs: of the test people, in order.
    """
    found = couples(pairs, threshold)
    count = int(found.people.max()) + 1
    first = faces.PEOPLE["train"] + faces.PEOPLE["val"]
    numbers = faces.picked(faces.population(), torch.arange(first, first + count))
    same = {}
    for name in ("skin", "hair"):
        third = (3 * numbers[name].argsort().argsort() // count)[found.people]
        same[name] = third[:, 0] == third[:, 1]
    groups = {
        "any two people": torch.ones_like(found.genuine),
        "of alike skin tone": same["skin"],
        "of alike hair tone": same["hair"],
        "alike in both": same["skin"] & same["hair"],
        "alike in neither": ~same["skin"] & ~same["hair"],
    }
    rates = {}
    for name, inside in groups.items():
        some = inside & ~found.genuine
        rates[name] = (float(found.wrong[some].sum() / found.compared[some].sum()), int(some.sum()))
    return rates
