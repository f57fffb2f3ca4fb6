"""Checks of notebook 00: the nearest prototype, the prototypes, the interval of an accuracy."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mlcourse import learners
from mlcourse.statistics import Z95, mean_interval
from mlcourse.teaching.checks import Check, close
from mlcourse.teaching.oracles import Unnamed, told_apart

# ---- 00.1 nearest ----


def reference_nearest(distances: Tensor) -> Tensor:
    """[queries, way] -> int64 [queries]: the column of the smallest distance."""
    return distances.argmin(dim=1)


def _distances(queries: int, way: int):
    def make(generator: torch.Generator) -> dict[str, Tensor]:
        while True:  # no two answers may be the same by chance: two faults with one face
            distances = 10 * torch.rand(queries, way, generator=generator, dtype=torch.float64)
            nearest, ranks = distances.argmin(1), distances.argsort(1).argmin(1)
            faces = len({tuple(one.tolist()) for one in (nearest, nearest + 1, distances.argmax(1), ranks)})
            # and the last class is somewhere the nearest: an answer that looks at some columns only is found out
            if faces == 4 and way - 1 in nearest:
                return {"distances": distances}

    return make


def _nearest_probe(answer, inputs):
    return {"labels": answer(inputs["distances"])}


def _judge_nearest(inputs, outputs):
    distances, labels = inputs["distances"], outputs["labels"]
    if torch.equal(labels, distances.argmin(1)):
        return None
    if torch.equal(labels, distances.argmax(1)):
        return "these are the farthest prototypes: take the smallest distance, not the largest"
    if torch.equal(labels, distances.argmin(1) + 1):
        return "every label is one too large: labels begin with 0"
    if torch.equal(labels, distances.sum(0).argmin().expand_as(labels)):
        return "all queries got the class that is nearest to all of them together: look at each row by itself (dim=1)"
    if torch.equal(labels, distances.argmin().expand_as(labels)) or bool((labels >= distances.shape[1]).any()):
        return "one place in the whole table is no label: look for the smallest distance in each row (dim=1)"
    if torch.equal(labels, distances.argsort(1).argmin(1)):
        return "these are ranks: argsort gives the columns in their order, and its first entry is the label"
    if torch.equal(labels, distances.argsort(1)[:, 1]):
        return "these are the second nearest: places are counted from 0"
    for columns in range(2, distances.shape[1]):
        if torch.equal(labels, distances[:, :columns].argmin(1)):
            return f"you look at the first classes only, and here are {distances.shape[1]}: take all columns"
    return Unnamed(f"{int((labels != distances.argmin(1)).sum())} of {len(labels)} labels are wrong")


nearest = Check(
    exercise="00.1",
    title="The nearest prototype",
    inputs={"three queries, four classes": _distances(3, 4), "seven queries, eight classes": _distances(7, 8)},
    probe=_nearest_probe,
    judge=_judge_nearest,
    reference=reference_nearest,
)

# ---- 00.2 prototypes ----


def reference_prototypes(embeddings: Tensor, labels: Tensor, way: int) -> Tensor:
    """[images, D], int64 [images] -> [way, D]: the course's function, for one task."""
    return learners.prototypes(embeddings[None], labels[None], way)[0]


def _support(shots: tuple[int, ...], size: int):
    """Embeddings in mixed order, so that an answer which trusts the order is found out; shots: images of each class."""
    way = len(shots)

    def make(generator: torch.Generator) -> dict[str, Tensor]:
        labels = torch.arange(way).repeat_interleave(torch.tensor(shots))
        while True:
            mixed = labels[torch.randperm(len(labels), generator=generator)]
            if not torch.equal(mixed, labels):
                break
        embeddings = torch.randn(len(labels), size, generator=generator, dtype=torch.float64) + 1
        return {"embeddings": embeddings, "labels": mixed, "way": torch.tensor(way)}

    return make


def _prototypes_probe(answer, inputs):
    return {"prototypes": answer(inputs["embeddings"], inputs["labels"], int(inputs["way"]))}


def _judge_prototypes(inputs, outputs):
    embeddings, labels, way = inputs["embeddings"], inputs["labels"], int(inputs["way"])
    got = outputs["prototypes"]
    members = [embeddings[labels == k] for k in range(way)]
    if close(got, torch.stack([one.mean(0) for one in members])):
        return None
    # With one image in each class, sum, first and mean are the same: only the order can be wrong there.
    if len(labels) % way == 0 and close(got, embeddings.view(way, -1, embeddings.shape[1]).mean(1)):
        return "the order of the images is taken for their class: use `labels`, the images come in mixed order"
    if close(got, torch.stack([one.sum(0) for one in members])):
        return "these are sums: divide by the number of images of the class"
    if close(got, torch.stack([one[0] for one in members])):
        return "only the first image of each class is used: average over all of them"
    if close(got, embeddings.mean(0).expand(way, -1)):
        return "all prototypes are the same: average over the images of one class only, not over all images"
    if close(got, torch.stack([one.sum(0) for one in members]) / len(labels)):
        return "you divide by the number of all images, or of classes: divide by the number of images of the class"
    if close(got, torch.stack([one.sum(0) for one in members]) * way / len(labels)):
        return "you divide every class by the same number: here classes have different numbers of images"
    if close(got, torch.stack([one[-1] for one in members])):
        return "only the last image of each class is used: average over all of them"
    if close(got, torch.stack([one.amax(0) for one in members])):
        return "these are the largest numbers of each class: a prototype is the mean"
    if close(got, torch.stack([one.median(0).values for one in members])):
        return "these are medians: a prototype is the mean"
    if close(got, torch.stack([one.sum(0) / (len(one) + 1) for one in members])):
        return "you divide by one image too many: does a zero that you began with count too (include_self=False)?"
    if close(got, F.normalize(torch.stack([one.mean(0) for one in members]), dim=1)):
        return "the prototypes are scaled to length 1: a mean is left as long as it is"
    if len({len(one) for one in members}) > 1:
        same = torch.stack([one.sum(0) for one in members])
        if close(got * (same[0, 0] / got[0, 0]), same):
            return "you divide every class by the same number: here classes have different numbers of images"
    wrong = [k for k in range(way) if not close(got[k], members[k].mean(0))]
    return Unnamed(f"the prototypes of the classes {', '.join(map(str, wrong))} are not the means of their images")


prototypes = Check(
    exercise="00.2",
    title="Prototypes: the mean of each class",
    inputs={
        "three classes with one image": _support((1, 1, 1), 2),
        "five classes with four images": _support((4, 4, 4, 4, 4), 6),
        "four classes with one to five images": _support((2, 5, 1, 4), 6),
    },
    probe=_prototypes_probe,
    judge=_judge_prototypes,
    reference=reference_prototypes,
)

# ---- 00.3 accuracy_interval ----


def _rights(episodes: int):
    """Accuracies of episodes with 15 queries; never all the same."""

    def make(generator: torch.Generator) -> dict[str, Tensor]:
        right = torch.randint(4, 15, (episodes,), generator=generator).double() / 15
        right[0] = 1.0
        return {"per_episode": right}

    return make


def _interval_probe(answer, inputs):
    mean, half = answer(inputs["per_episode"])
    return {"mean": _number(mean), "half-width": _number(half)}


def _number(value) -> Tensor:
    """A Python float, a number of NumPy or a tensor -> float64 []."""
    return torch.as_tensor(value).detach().double()


def _near(got: Tensor, right: Tensor) -> bool:
    return close(got, right, rtol=1e-4)  # answers in float32 are right too


def _judge_interval(inputs, outputs):
    values, mean, half = inputs["per_episode"], outputs["mean"], outputs["half-width"]
    n, spread = len(values), values.std()
    width = Z95 * spread / math.sqrt(n)
    if any(_near(mean, values.mean() - w) and _near(half, values.mean() + w) for w in (width, 2 * width / Z95)):
        return "these are the two ends of the interval: return the mean and the half-width"
    if not _near(mean, values.mean()):
        if _near(mean, values.median()):
            return "this is the median, the value in the middle: take the mean"
        return (
            "the mean is in percent: leave it in [0, 1]"
            if _near(mean, 100 * values.mean())
            else Unnamed("the mean is wrong")
        )
    faults = {
        Z95 * spread: "the half-width is that of single episodes: divide by √n, the mean of many spreads less than one",
        Z95 * spread / n: "you divide by n: the spread of a mean shrinks with √n",
        spread / math.sqrt(n): "this is the standard error, an interval of 68 %: times 1.96 gives 95 %",
        2 * Z95 * spread / math.sqrt(n): "this is the whole width: the half-width goes from the mean to one end",
        1.645 * spread / math.sqrt(n): "1.645 gives an interval of 90 %: for 95 % it is 1.96",
        2.576 * spread / math.sqrt(n): "2.58 gives an interval of 99 %: for 95 % it is 1.96",
        2.58 * spread / math.sqrt(n): "2.58 gives an interval of 99 %: for 95 % it is 1.96",
        Z95 * values.var() / math.sqrt(n): "this uses the variance: take its root, the standard deviation",
        Z95 * values.std(correction=0) / math.sqrt(n): "the standard deviation divides by n: for a sample it is n - 1",
        Z95 * spread / math.sqrt(n - 1): "you divide by √(n - 1): s has its n - 1 already, here it is √n",
        Z95 * (spread / n).sqrt(): "the root goes over s, too: it belongs to n alone, s / √n",
        Z95 * (values.mean() * (1 - values.mean()) / n).sqrt(): (
            "this is the formula for single right or wrong answers: each value here is the accuracy of an episode, "
            "take their standard deviation"
        ),
    }
    # Some write 2 for 1.96; that is close enough for an interval, and much farther from every fault above.
    if _near(half, Z95 * spread / math.sqrt(n)) or _near(half, 2 * spread / math.sqrt(n)):
        return None
    for wrong, diagnosis in faults.items():
        if _near(half, wrong):
            return diagnosis
    shown, yours = told_apart(Z95 * spread / math.sqrt(n), half)
    return Unnamed(f"the half-width is {yours}, and 1.96 · s / √n is {shown}")


accuracy_interval = Check(
    exercise="00.3",
    title="An accuracy and its 95 % interval",
    inputs={"twelve episodes": _rights(12), "three hundred episodes": _rights(300)},
    probe=_interval_probe,
    judge=_judge_interval,
    reference=mean_interval,
)
