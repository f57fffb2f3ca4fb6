"""The checks of notebook 17: normalised accuracy, prototypes of any way and any shot, answers alone, steps in a budget.

Oracles are plain loops over episodes, images and steps.

Snell, Swersky, Zemel, *Prototypical Networks for Few-shot Learning*, 2017, https://arxiv.org/abs/1703.05175;
Carrión-Ojeda et al., *NeurIPS'22 Cross-Domain MetaDL competition: Design and baseline results*, 2022,
https://arxiv.org/abs/2208.14686 (any way, any shot, normalised accuracy).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mlcourse.teaching.checks import Check, close
from mlcourse.teaching.oracles import Unnamed, first_mistake, randn, relative_error, told_apart, uniform

Tensors = dict[str, Tensor]
F64 = torch.float64
RTOL = 2e-4  # an answer that computes in float32 passes; the mistakes below are off by far more
_close = partial(close, rtol=RTOL)
_first = partial(first_mistake, rtol=RTOL)


# ------------------------------------------------------------------ 17.1 normalised accuracy


KINDS = ("one way", "several ways", "below chance", "worse than guessing")


def _normalised_inputs(kind: str) -> Callable[[torch.Generator], Tensors]:
    """Accuracies of episodes, and their ways. "one way"; "several ways"; "below chance": some episodes are;
    "worse than guessing": all are."""

    def make(generator: torch.Generator) -> Tensors:
        if kind == "one way":
            # Many: with few, N − 1 for the number of classes is what somebody may take for chance in every episode
            way = torch.tensor([7, 8, 9, 12, 13])[torch.randint(5, (), generator=generator)].repeat(5)
        else:
            way = torch.tensor([2, 3, 5, 8, 20])[torch.randperm(5, generator=generator)]
        chance = 1 / way.double()
        better = uniform(generator, 0.15, 0.9, 5)
        below = {"below chance": 2, "worse than guessing": 5}.get(kind, 0)
        better[:below] = uniform(generator, -0.9, -0.3, below) * (chance / (1 - chance))[:below]
        return {"accuracy": chance + better * (1 - chance), "way": way}

    return make


def _normalised_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"normalised accuracy": answer(inputs["accuracy"], inputs["way"])}


def _mean(values: list[float]) -> Tensor:
    return torch.tensor(sum(values) / len(values), dtype=F64)


def _normalised_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    pairs = list(zip(inputs["accuracy"].tolist(), inputs["way"].tolist(), strict=True))
    each = [(a - 1 / n) / (1 - 1 / n) for a, n in pairs]
    got, right = outputs["normalised accuracy"], _mean(each)
    if _close(got, right):
        return None
    a = sum(a for a, _ in pairs) / len(pairs)
    n = sum(n for _, n in pairs) / len(pairs)
    chance = sum(1 / n for _, n in pairs) / len(pairs)
    classes = sum(n for _, n in pairs)
    mistakes = {
        "This is the mean of the raw accuracies. An accuracy of 0.5 is chance for 2 classes and much for 20: normalise "
        "each episode by its own way first.": a,
        "You normalise the mean accuracy by the mean way. Each episode has a chance level of its own: normalise first, "
        "then take the mean.": (a - 1 / n) / (1 - 1 / n),
        "You normalise the mean accuracy by the mean of the chance levels. Normalise each episode by its own, then "
        "take the mean.": (a - chance) / (1 - chance),
        "You subtract the chance level and do not divide: a perfect answer gets less than 1. Divide by 1 − 1/N, what a "
        "perfect answer has above chance.": a - chance,
        "These are multiples of chance: you divide by 1/N. A perfect answer must get 1, so subtract 1/N and divide by "
        "1 − 1/N.": _mean([a * n for a, n in pairs]),
        "You divide by 1/N, the chance level. Divide by 1 − 1/N: then a perfect answer gets 1.": _mean(
            [(a - 1 / n) * n for a, n in pairs]
        ),
        "You divide by 1 − 1/N and do not subtract 1/N: then guessing gets more than 0.": _mean(
            [a / (1 - 1 / n) for a, n in pairs]
        ),
        "Episodes below chance count as 0 in your answer. They are below 0: without them the mean of pure guessing "
        "would be above 0.": _mean([max(0.0, e) for e in each]),
        "Episodes with more classes count more in your answer. Each episode counts once.": sum(
            e * n for e, (_, n) in zip(each, pairs, strict=True)
        )
        / classes,
        "This is the share that is lost, 0 for perfect answers. Return one minus it.": 1 - right,
        "You take N − 1 for the number of classes: chance is 1/N.": _mean(
            [(a - 1 / (n - 1)) / (1 - 1 / (n - 1)) if n > 2 else 0.0 for a, n in pairs]
        ),
        "This is the median. One number must count all episodes: take the mean.": sorted(each)[len(each) // 2],
        "This is the sum over the episodes. Take the mean.": sum(each),
    }
    named = _first(got, {words: torch.as_tensor(value, dtype=F64) for words, value in mistakes.items()})
    if named is not None:
        return named
    wanted, yours = told_apart(right, got)
    return Unnamed(f"The normalised accuracy is {wanted} here, and you return {yours}.")


def _normalised_reference(accuracy: Tensor, way: Tensor) -> Tensor:
    """The mean over episodes of (accuracy − 1/N) / (1 − 1/N): chance is 0, perfect is 1."""
    chance = 1 / way
    return ((accuracy - chance) / (1 - chance)).mean()


normalised = Check(
    exercise="17.1",
    title="Normalised accuracy",
    inputs={kind: _normalised_inputs(kind) for kind in KINDS},
    probe=_normalised_probe,
    judge=_normalised_judge,
    reference=_normalised_reference,
)


# ------------------------------------------------------------------ 17.2 prototypes of any way and any shot

COUNTS = {"equal shots": (4, 4, 4), "unequal shots": (1, 2, 3, 6), "two classes": (5, 1)}


def _prototype_inputs(counts: tuple[int, ...]) -> Callable[[torch.Generator], Tensors]:
    """Features and labels of a support set in mixed order; class k has counts[k] images, in some order of classes."""

    def make(generator: torch.Generator) -> Tensors:
        way = len(counts)
        shots = torch.tensor(counts)[torch.randperm(way, generator=generator)]
        labels = torch.arange(way).repeat_interleave(shots)
        order = torch.randperm(len(labels), generator=generator)
        while way > 1 and (labels[order[0]] == 0 or _sorted(labels[order])):  # neither order of first sight nor sorted
            order = torch.randperm(len(labels), generator=generator)
        labels = labels[order]
        features = randn(generator, len(labels), 4) + 3 * randn(generator, way, 4)[labels] + 1
        return {"features": features, "labels": labels}

    return make


def _sorted(labels: Tensor) -> bool:
    return bool((labels.diff() >= 0).all())


def _prototype_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"prototypes": answer(inputs["features"], inputs["labels"])}


def _prototype_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    z, y, got = inputs["features"], inputs["labels"].tolist(), outputs["prototypes"]
    way, n = max(y) + 1, len(y)
    rows = [[row for row, label in zip(z, y, strict=True) if label == k] for k in range(way)]
    sums = torch.stack([sum(of_class) for of_class in rows])
    count = torch.tensor([[len(of_class)] for of_class in rows], dtype=F64)
    right = sums / count
    if _close(got, right):
        return None
    seen = list(dict.fromkeys(y))
    parts = torch.stack([z[k * n // way : (k + 1) * n // way].mean(0) for k in range(way)])
    strides = torch.stack([z[k::way].mean(0) for k in range(way)])
    ordered = z[torch.tensor(sorted(range(n), key=y.__getitem__))]
    sorted_parts = torch.stack([ordered[k * n // way : (k + 1) * n // way].mean(0) for k in range(way)])
    mistakes = {
        "The rows stand in the order in which the labels come. Row k must be class k.": right[seen],
        "You cut the support set into equal parts, as if the classes came one after another. The labels say which "
        "image is of which class.": parts,
        "You sort by label, and then cut into equal parts. The classes have different numbers of images: take each "
        "class's own.": sorted_parts,
        "You take every N-th image, as if the classes took turns. The labels say which image is of which class.": (
            strides
        ),
        "These are the sums over each class. Divide each by its own number of images.": sums,
        "You divide each class's sum by the number of all images. Divide it by the class's own number.": sums / n,
        "You divide each class's sum by the mean number of images per class. That is right for equal shots only: "
        "divide by the class's own number.": sums / (n / way),
        "You divide each class's sum by the number of classes. Divide it by the class's own number of images.": (
            sums / way
        ),
        "You divide each class's sum by the largest number of images. Divide it by the class's own number.": sums
        / count.max(),
        "You divide each class's sum by its number of images plus 1. Divide by the number.": sums / (count + 1),
        "Each row is the first image of its class. Take the mean of all images of the class.": torch.stack(
            [of_class[0] for of_class in rows]
        ),
        "Each row is the last image of its class. It overwrites those before it: add them up, then divide.": (
            torch.stack([of_class[-1] for of_class in rows])
        ),
        "Each row is the mean of all images. Take those of one class only.": z.mean(0).expand(way, -1),
        "Each row is the mean of the images that are *not* of its class.": (z.sum(0) - sums) / (n - count),
        "You scale the prototypes to length 1. Asked are the means themselves.": F.normalize(right, dim=1),
        "You scale the images to length 1 before the mean. Asked are the means of the features as they are.": (
            torch.stack([F.normalize(torch.stack(of_class), dim=1).mean(0) for of_class in rows])
        ),
        "These are medians. Asked are means.": torch.stack([torch.stack(c).median(0).values for c in rows]),
    }
    named = _first(got, mistakes)
    if named is not None:
        return named
    worst = int((got.double() - right).norm(dim=1).argmax())
    wanted, yours = told_apart(right[worst, 0], got[worst, 0])
    return Unnamed(
        f"Class {worst} has {len(rows[worst])} of the {n} images, and the first number of its prototype is {wanted}; "
        f"yours is {yours}."
    )


def _prototype_reference(features: Tensor, labels: Tensor) -> Tensor:
    """The mean of the features of each class: [images, D] and [images] → [way, D]."""
    of_class = F.one_hot(labels).to(features.dtype)
    return of_class.T @ features / of_class.sum(0).unsqueeze(1)


any_prototypes = Check(
    exercise="17.2",
    title="Prototypes of any way and any shot",
    inputs={kind: _prototype_inputs(counts) for kind, counts in COUNTS.items()},
    probe=_prototype_probe,
    judge=_prototype_judge,
    reference=_prototype_reference,
)


# ------------------------------------------------------------------ 17.3 answers alone

SCALES = (0.7, 2.0, 5.0, 1.2)  # of the features; a usual floor of the spread (1e-5) is far within RTOL, 1e-4 beyond
LEAST_SPREAD = 0.3  # of a feature of the support set, before it is scaled


def _alone_inputs(way: int, silent: bool = False) -> Callable[[torch.Generator], Tensors]:
    """Features of a support set (two per class, with labels) and of queries, far from mean 0 and spread 1.

    silent: one feature is 0 in all pictures, as behind a ReLU. Then its value over any floor is 0, too: each right way
    not to divide by 0 gives the same logits.
    """

    def make(generator: torch.Generator) -> Tensors:
        labels = torch.arange(way).repeat(2)[torch.randperm(2 * way, generator=generator)]
        scale = torch.tensor(SCALES, dtype=F64)
        support = torch.zeros(2 * way, 4, dtype=F64)
        while (support.std(0, correction=0) < LEAST_SPREAD).any():  # else a small floor would move the logits
            centres = randn(generator, way, 4)
            support = centres[labels] + 0.4 * randn(generator, 2 * way, 4)
        asked = torch.randint(way, (5,), generator=generator)
        queries = centres[asked] + 0.4 * randn(generator, 5, 4) + uniform(generator, 0.3, 0.6, 4)
        support, queries = support * scale + 2, queries * scale + 2
        if silent:
            dead = int(torch.randint(4, (), generator=generator))
            support[:, dead] = queries[:, dead] = 0
        return {"support": support, "labels": labels, "queries": queries}

    return make


def _alone_probe(answer: Callable, inputs: Tensors) -> Tensors:
    support, labels, queries = inputs["support"], inputs["labels"], inputs["queries"]
    together = answer(support, labels, queries)
    backwards = answer(support, labels, queries.flip(0))
    alone = [answer(support, labels, queries[k : k + 1]) for k in range(len(queries))]
    for one in (together, backwards, *alone):
        if not isinstance(one, Tensor):
            raise TypeError(f"it needs one tensor, the logits [queries, way], and you return {type(one).__name__}")
    same = all(one.shape == (1, *together.shape[1:]) for one in alone)
    if together.dim() != 2 or backwards.shape != together.shape or not same:
        return {"logits": together, "logits of one query": alone[0], "backwards": backwards}
    if not together.isfinite().all() and (support == support[0]).all(0).any():
        raise ValueError(
            "one feature is the same in all support images, so its spread is 0, and the logits get nan (0 / 0). Behind "
            "a ReLU that is frequent. Such a feature tells no class from another: divide it by 1, "
            "`torch.where(spread > 0, spread, 1.0)`"
        )
    if together.isfinite().all() and not torch.cat(alone).isfinite().all():
        raise ValueError(
            "a query that comes alone gets nan: the spread of one query is 0. Take mean and spread over the support "
            "set only"
        )
    return {"logits": together, "logits of one query": torch.cat(alone), "backwards": backwards.flip(0)}


def _logits(support: Tensor, labels: Tensor, queries: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """−‖·‖² of standardised queries to standardised prototypes, pair by pair: [queries, way]."""
    z, q = (support - mean) / spread, (queries - mean) / spread
    y = labels.tolist()
    found = torch.zeros(len(q), max(y) + 1, dtype=F64)
    for k in range(found.shape[1]):
        rows = [row for row, label in zip(z, y, strict=True) if label == k]
        prototype = sum(rows) / len(rows)
        for j, one in enumerate(q):
            found[j, k] = -sum((a - b) ** 2 for a, b in zip(one.tolist(), prototype.tolist(), strict=True))
    return found


def _moments(x: Tensor, less: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column (1 for one of 0); `less` is taken off the number of rows."""
    mean = sum(x) / len(x)
    variances = (sum((x - mean) ** 2) / (len(x) - less)).tolist()
    return mean, torch.tensor([math.sqrt(v) or 1.0 for v in variances], dtype=F64)


def _alone_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    support, labels, queries = inputs["support"], inputs["labels"], inputs["queries"]
    got = outputs["logits"]
    mean, spread = _moments(support)
    right = _logits(support, labels, queries, mean, spread)
    if all(_close(value, right) for value in outputs.values()):
        return None
    one, zero = torch.ones(support.shape[1], dtype=F64), torch.zeros(support.shape[1], dtype=F64)
    named = _first(got, _in_company(inputs, right, 0)) or _first(got, _in_company(inputs, right, 1))
    if named is not None:
        return named
    if not _close(outputs["backwards"], got):
        return (
            "The same queries in another order get other answers: your function uses a query's place. Only its "
            "features may count."
        )
    if not _close(outputs["logits of one query"], got):
        return Unnamed(
            "A query that comes alone gets another answer than in company. Nothing that is computed from the queries "
            "together may enter: no mean, no spread, no largest value."
        )
    length = torch.stack([row.norm() for row in torch.cat([support, queries])])[:, None]
    unit = torch.cat([support, queries]) / length
    shots = [max(labels.tolist().count(k), 1) for k in range(right.shape[1])]
    mistakes = {
        "You standardise the support set, and leave the queries as they are. Both must go through the same formula, "
        "with the support set's mean and spread.": _half(support, labels, queries, mean, spread, which="support"),
        "You standardise the queries, and leave the support set as it is. Both must go through the same formula.": (
            _half(support, labels, queries, mean, spread, which="queries")
        ),
        "You leave the mean and the spread out. Answers are alone now, but a feature with large numbers decides all: "
        "standardise with the support set's mean and spread.": _logits(support, labels, queries, zero, one),
        "You subtract the mean and do not divide by the spread.": _logits(support, labels, queries, mean, one),
        "You divide by the spread with n − 1 (PyTorch's default). Here it is the mean of the squared deviations: "
        "`correction=0`.": _logits(support, labels, queries, *_moments(support, less=1)),
        "You divide by the variance. Divide by its square root, the spread.": _logits(
            support, labels, queries, mean, spread**2
        ),
        "These are distances. The nearest prototype must get the largest logit: put a minus before them.": -right,
        "These are distances that are not squared, with a minus. Asked are squared ones.": -(-right).sqrt(),
        "These are probabilities. Each query is answered alone, but asked are the logits, −‖·‖².": right.softmax(1),
        "These are log-probabilities. Each query is answered alone, but asked are the logits, −‖·‖².": (
            right.log_softmax(1)
        ),
        "You divide the squared distances by the number of features. Asked is their sum.": right / support.shape[1],
        "You scale each image to length 1. Asked is each feature minus the support's mean, over its spread.": _logits(
            unit[: len(support)], labels, unit[len(support) :], zero, one
        ),
        "The prototypes are sums, not means.": -(
            (queries - mean).div(spread)[:, None]
            - _standard_prototypes(support, labels, mean, spread)[None] * torch.tensor(shots, dtype=F64)[:, None]
        )
        .square()
        .sum(-1),
    }
    named = _first(got, mistakes)
    if named is not None:
        return named
    wanted, yours = told_apart(right[0, 0], got[0, 0])
    off = relative_error(got, right)
    return Unnamed(
        f"Each query is answered alone, as it should be, but the logits are off by {off:.1e} of their size: the first "
        f"one is {wanted}, yours is {yours}."
    )


def _in_company(inputs: Tensors, right: Tensor, less: int) -> dict[str, Tensor]:
    """What answers are that take something from all queries together; `less`: as in `_moments`."""
    support, labels, queries = inputs["support"], inputs["labels"], inputs["queries"]
    of_support, of_queries = _moments(support, less), _moments(queries, less)
    both = _moments(torch.cat([support, queries]), less)
    by_queries = _logits(support, labels, queries, *of_queries)
    q_own = (queries - of_queries[0]) / of_queries[1]
    mixed = -(q_own[:, None] - _standard_prototypes(support, labels, *of_support)[None]).square().sum(-1)
    return {
        "You still take mean and spread over support and queries together. A query that comes alone gets another "
        "answer: take them over the support set only.": _logits(support, labels, queries, *both),
        "You take mean and spread over the queries. A query that comes alone gets another answer: take them over the "
        "support set only.": by_queries,
        "The queries are standardised by the queries, the support set by itself. A query that comes alone gets another "
        "answer: use the support set's mean and spread for both.": mixed,
        "You normalise each class's logits over the queries (softmax over dimension 0). Then a query's answer depends "
        "on the others: leave the logits as they are.": right.softmax(0),
        "You normalise each class's log-probabilities over the queries (log_softmax over dimension 0). Then a query's "
        "answer depends on the others: leave the logits as they are.": right.log_softmax(0),
        "You subtract each class's best logit over the queries. Then a query's answer depends on the others: leave the "
        "logits as they are.": right - right.amax(0),
        "You subtract each class's mean logit over the queries, so that the classes come out balanced. Then a query's "
        "answer depends on the others.": right - right.mean(0),
    }


def _standard_prototypes(support: Tensor, labels: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    return torch.stack([((support - mean) / spread)[labels == k].mean(0) for k in range(int(labels.max()) + 1)])


def _half(support: Tensor, labels: Tensor, queries: Tensor, mean: Tensor, spread: Tensor, which: str) -> Tensor:
    """Logits where only the support set, or only the queries, are standardised."""
    if which == "support":
        prototypes, q = _standard_prototypes(support, labels, mean, spread), queries
    else:
        prototypes = _standard_prototypes(support, labels, torch.zeros_like(mean), torch.ones_like(spread))
        q = (queries - mean) / spread
    return -(q[:, None] - prototypes[None]).square().sum(-1)


def _alone_reference(support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    """Logits [queries, way] of prototypes; all is standardised by mean and spread of the support set.

    A feature that is constant in the support set tells no class from another: it is divided by 1.
    """
    mean, spread = support.mean(0), support.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    support, queries = (support - mean) / spread, (queries - mean) / spread
    prototypes = _prototype_reference(support, labels)
    return -(queries[:, None] - prototypes).square().sum(-1)


alone = Check(
    exercise="17.3",
    title="Answers that depend on one query only",
    inputs={
        "two classes": _alone_inputs(2),
        "four classes": _alone_inputs(4),
        "a feature that is 0 in all pictures": _alone_inputs(2, silent=True),
    },
    probe=_alone_probe,
    judge=_alone_judge,
    reference=_alone_reference,
)


# ------------------------------------------------------------------ 17.4 as many steps as a budget allows

COUNTINGS = 20  # how often the cost may be counted: halving finds one of 1,000 in 11


def _step_inputs(kind: str) -> Callable[[torch.Generator], Tensors]:
    """The cost of 0, 1, …, most steps, and a budget that allows the first one. Two of a kind differ in the budget.

    "linear": a fixed part, and as much for each step; "exact": the budget is the cost of a number of steps; "dearer":
    later steps cost more, as where memory is bought back by computing twice; "enough": the budget allows all.
    """

    def make(generator: torch.Generator) -> Tensors:
        most = int(torch.randint(120, 200, (), generator=generator))
        fixed = int(torch.randint(3_000, 6_000, (), generator=generator))
        step = int(torch.randint(400, 900, (), generator=generator))
        steps = torch.arange(most + 1)
        cost = fixed + step * steps + (step // 40 * steps**2 if kind == "dearer" else 0)
        wanted = int(torch.randint(most // 3, 2 * most // 3, (), generator=generator))
        between = 0 if kind == "exact" else int((cost[wanted + 1] - cost[wanted]) * 0.6)
        budget = int(cost[-1]) + step // 2 if kind == "enough" else int(cost[wanted]) + between
        return {"cost": cost, "budget": torch.tensor(budget)}

    return make


def _step_probe(answer: Callable, inputs: Tensors) -> Tensors:
    cost, counted = inputs["cost"].tolist(), []

    def count(steps: int) -> int:
        if isinstance(steps, bool) or not isinstance(steps, int) or not 0 <= steps < len(cost):
            raise ValueError(f"count takes a whole number of steps from 0 to most = {len(cost) - 1}, not {steps!r}")
        counted.append(steps)
        return cost[steps]

    steps = answer(count, int(inputs["budget"]), len(cost) - 1)
    if isinstance(steps, bool) or not isinstance(steps, int):
        kind = type(steps).__name__
        raise TypeError(f"it needs a whole number of steps (int), and you return {steps!r} of type {kind}")
    return {"steps": torch.tensor(steps), "countings": torch.tensor(len(counted))}


def _step_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    cost, budget = inputs["cost"].tolist(), int(inputs["budget"])
    got, times, most = int(outputs["steps"]), int(outputs["countings"]), len(cost) - 1
    right = max(k for k in range(most + 1) if cost[k] <= budget)
    if got == right:
        if times <= COUNTINGS:
            return None
        return (
            f"The number of steps is right, but you count the cost {times} times, and each counting costs as much as "
            f"what it counts: at most {COUNTINGS} times. Halve the range that is left with each counting."
        )
    step = cost[1] - cost[0]
    by_line = int((budget - cost[0]) // step)
    mistakes = {
        "Your number of steps is one too many: with it the cost is above the budget. Return the last number that is "
        "still within.": right + 1,
        "Your number of steps is above `most`. The learner takes `most` steps at the most, also where the budget would "
        "allow more.": by_line if by_line > most else None,
        "You divide the budget by the cost of a step, and forget the fixed part: also with 0 steps the queries must be "
        "answered.": budget // step if budget // step != right else None,
        "You divide the budget by the cost of one step with the fixed part in it. The fixed part is paid once.": budget
        // cost[1],
        "You take the cost for a straight line through its first two values. Later steps may cost more: count them.": (
            min(by_line, most)
        ),
        "This is `most`, whatever the budget says.": most,
    }
    exact = cost[right] == budget
    if exact and got == right - 1:
        return "A cost that equals the budget is within it: ask for ≤, not for <."
    if got == right - 1:
        return "Your number of steps is one too few: one more is still within the budget."
    named = next((words for words, value in mistakes.items() if value == got), None)
    line = f"{right} steps cost {cost[right]:,}, the budget is {budget:,}; you return {got} steps"
    line += f", which cost {cost[got]:,}." if 0 <= got <= most else "."
    return Unnamed(line) if named is None else f"{named} ({line})"


def _step_reference(count: Callable[[int], int], budget: int, most: int) -> int:
    """The largest number of steps, from 0 to `most`, whose cost is within the budget; by halving."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(middle) <= budget else (low, middle - 1)
    return low


steps_within = Check(
    exercise="17.4",
    title="As many steps as a budget allows",
    inputs={
        "each step costs as much": _step_inputs("linear"),
        "the budget is met exactly": _step_inputs("exact"),
        "later steps cost more": _step_inputs("dearer"),
        "the budget allows all": _step_inputs("enough"),
    },
    probe=_step_probe,
    judge=_step_judge,
    reference=_step_reference,
)
