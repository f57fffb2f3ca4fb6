"""The checks of notebook 17 against right answers written differently, and mistakes."""

import pytest
import torch
from check_helpers import assert_check
from torch.nn import functional as F

from mlcourse.lessons.capstone import checks


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


# ------------------------------------------------------------------ 17.1 normalised accuracy


def normalised_in_a_loop(accuracy, way):
    total = 0.0
    for a, n in zip(accuracy, way, strict=True):
        total = total + (a - 1 / n) / (1 - 1 / n)
    return total / len(way)


def normalised_by_errors(accuracy, way):
    """One minus the errors, in multiples of those of guessing."""
    return 1 - ((1 - accuracy) * way / (way - 1)).mean()


def normalised_float32(accuracy, way):
    return ((way * accuracy.float() - 1) / (way - 1)).mean()


def normalised_with(change):
    def wrong(accuracy, way):
        return change(accuracy, 1 / way.double())

    return wrong


def of_means(a, c):
    n = (1 / c).mean()
    return (a.mean() - 1 / n) / (1 - 1 / n)


def test_normalised():
    assert_check(
        checks.normalised,
        right=[normalised_in_a_loop, normalised_by_errors, normalised_float32],
        wrong={
            "raw": (normalised_with(lambda a, c: a.mean()), "mean of the raw accuracies"),
            "above chance": (normalised_with(lambda a, c: (a - c).mean()), "a perfect answer gets less than 1"),
            "multiples": (normalised_with(lambda a, c: (a / c).mean()), "These are multiples of chance"),
            "over chance": (normalised_with(lambda a, c: ((a - c) / c).mean()), "You divide by 1/N"),
            "not subtracted": (normalised_with(lambda a, c: (a / (1 - c)).mean()), "do not subtract 1/N"),
            "lost": (normalised_with(lambda a, c: ((1 - a) / (1 - c)).mean()), "the share that is lost"),
            "each": (normalised_with(lambda a, c: (a - c) / (1 - c)), "has shape"),
        },
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (normalised_with(of_means), "by the mean way"),
        (normalised_with(lambda a, c: (a.mean() - c.mean()) / (1 - c.mean())), "the mean of the chance levels"),
        (normalised_with(lambda a, c: ((a - c) / (1 - c)).clamp_min(0).mean()), "below chance count as 0"),
    ],
)
def test_what_is_right_for_one_way_only_is_found(answer, words):
    verdict = checks.normalised.run(answer)
    assert not verdict.passed
    assert words in verdict.diagnosis


# ------------------------------------------------------------------ 17.2 prototypes


def prototypes_in_a_loop(features, labels):
    return torch.stack([features[labels == k].mean(0) for k in range(int(labels.max()) + 1)])


def prototypes_by_index_add(features, labels):
    way = int(labels.max()) + 1
    sums = features.new_zeros(way, features.shape[1]).index_add(0, labels, features)
    return sums / labels.bincount().unsqueeze(1)


def prototypes_float32(features, labels):
    weights = (labels == labels.unique().unsqueeze(1)).float()
    return F.normalize(weights, p=1, dim=1) @ features.float()


def prototypes_by_view(features, labels):
    way = int(labels.max()) + 1
    return features[: len(features) // way * way].view(way, -1, features.shape[1]).mean(1)


def prototypes_of_sorted(features, labels):
    return prototypes_by_view(features[labels.argsort(stable=True)], labels)


def prototypes_with(divide):
    def wrong(features, labels):
        way = int(labels.max()) + 1
        member = F.one_hot(labels).to(features.dtype)
        return member.T @ features / divide(member.sum(0)[:, None], len(labels), way)

    return wrong


def prototypes_by_sight(features, labels):
    seen = list(dict.fromkeys(labels.tolist()))
    return torch.stack([features[labels == k].mean(0) for k in seen])


def first_images(features, labels):
    return torch.stack([features[(labels == k).nonzero()[0, 0]] for k in range(int(labels.max()) + 1)])


def last_images(features, labels):
    kept = features.new_zeros(int(labels.max()) + 1, features.shape[1])
    for row, k in zip(features, labels.tolist(), strict=True):
        kept = kept.clone()
        kept[k] = row
    return kept


def test_any_prototypes():
    assert_check(
        checks.any_prototypes,
        right=[prototypes_in_a_loop, prototypes_by_index_add, prototypes_float32],
        wrong={
            "view": (prototypes_by_view, "into equal parts, as if the classes came one after another"),
            "sums": (prototypes_with(lambda count, n, way: 1), "These are the sums"),
            "over all": (prototypes_with(lambda count, n, way: n), "by the number of all images"),
            "over way": (prototypes_with(lambda count, n, way: way), "by the number of classes"),
            "plus one": (prototypes_with(lambda count, n, way: count + 1), "number of images plus 1"),
            "by sight": (prototypes_by_sight, "in the order in which the labels come"),
            "first": (first_images, "the first image of its class"),
            "last": (last_images, "the last image of its class"),
            "one row": (lambda z, y: z.mean(0), "has shape"),
        },
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (prototypes_of_sorted, "You sort by label, and then cut"),
        (prototypes_with(lambda count, n, way: n / way), "That is right for equal shots only"),
        (prototypes_with(lambda count, n, way: count.max()), "the largest number of images"),
    ],
)
def test_what_is_right_for_equal_shots_only_is_found(answer, words):
    verdict = checks.any_prototypes.run(answer)
    assert not verdict.passed
    assert words in verdict.diagnosis


# ------------------------------------------------------------------ 17.3 answers alone


def alone_query_by_query(support, labels, queries):
    spread, mean = torch.std_mean(support, 0, correction=0)
    spread[spread == 0] = 1
    centres = prototypes_in_a_loop((support - mean) / spread, labels)
    return torch.stack([-((q - mean) / spread - centres).pow(2).sum(1) for q in queries])


def alone_float32(support, labels, queries):
    """The mean cancels: a difference of standardised features has no mean in it."""
    support, queries = support.float(), queries.float()
    spread = support.var(0, unbiased=False).sqrt() + 1e-6
    return -(torch.cdist(queries / spread, prototypes_in_a_loop(support, labels) / spread) ** 2)


def alone_with(moments, after=lambda logits: logits, of_queries=None):
    def wrong(support, labels, queries):
        mean, spread = moments(support, queries)
        q_mean, q_spread = (of_queries or moments)(support, queries)
        centres = prototypes_in_a_loop((support - mean) / spread, labels)
        return after(-((queries - q_mean) / q_spread)[:, None].sub(centres).square().sum(-1))

    return wrong


def of_support(support, queries):
    return support.mean(0), support.std(0, correction=0)


def of_both(support, queries):
    both = torch.cat([support, queries])
    return both.mean(0), both.std(0)


def of_queries_only(support, queries):
    return queries.mean(0), queries.std(0, correction=0)


def padded_queries(support, queries):
    """As `of_queries_only`, but a spread of 0 becomes 1."""
    spread = queries.std(0, correction=0)
    return queries.mean(0), torch.where(spread > 0, spread, 1.0)


def nothing(support, queries):
    return torch.zeros(support.shape[1]), torch.ones(support.shape[1])


def by_place(support, labels, queries):
    logits = checks.alone.reference(support, labels, queries)
    return logits + torch.arange(len(queries)).unsqueeze(1)


def largest_first(support, labels, queries):
    """What depends on the others, and has no name."""
    logits = checks.alone.reference(support, labels, queries)
    return logits - 0.3 * logits.max()


def test_alone():
    assert_check(
        checks.alone,
        right=[alone_query_by_query, alone_float32],
        wrong={
            "both": (alone_with(of_both), "over support and queries together"),
            "queries": (alone_with(of_queries_only), "a query that comes alone gets nan"),
            "padded": (alone_with(padded_queries), "You take mean and spread over the queries"),
            "mixed": (
                alone_with(of_support, of_queries=padded_queries),
                "The queries are standardised by the queries",
            ),
            "softmax 0": (alone_with(of_support, lambda x: x.softmax(0)), "(softmax over dimension 0)"),
            "best": (alone_with(of_support, lambda x: x - x.amax(0)), "each class's best logit over the queries"),
            "balanced": (alone_with(of_support, lambda x: x - x.mean(0)), "so that the classes come out balanced"),
            "by place": (by_place, "uses a query's place"),
            "largest": (largest_first, "Nothing that is computed from the queries together may enter"),
            "nothing": (alone_with(nothing), "You leave the mean and the spread out"),
            "half": (alone_with(of_support, of_queries=nothing), "leave the queries as they are"),
            "sample spread": (alone_with(lambda s, q: (s.mean(0), s.std(0))), "`correction=0`"),
            "variance": (alone_with(lambda s, q: (s.mean(0), s.var(0, correction=0))), "You divide by the variance"),
            "sign": (alone_with(of_support, lambda x: -x), "put a minus before them"),
            "softmax": (alone_with(of_support, lambda x: x.softmax(1)), "These are probabilities"),
            "names": (alone_with(of_support, lambda x: x.argmax(1)), "has shape"),
            "no floor": (alone_with(of_support), "one feature is the same in all support images"),
        },
    )


FLOORS = {
    "1 for 0": (lambda s: torch.where(s > 0, s, 1.0), True),
    "1e-6": (lambda s: s.clamp_min(1e-6), True),
    "0.1": (lambda s: s.clamp_min(0.1), True),
    "add 1e-5": (lambda s: s + 1e-5, True),
    "batch normalisation": (lambda s: (s.square() + 1e-5).sqrt(), True),
    "none": (lambda s: s, False),
    "add 1e-4": (lambda s: s + 1e-4, False),
    "add 0.01": (lambda s: s + 0.01, False),
}


@pytest.mark.parametrize("name", FLOORS)
def test_floors_of_the_spread_have_one_verdict_each(name):
    floor, right = FLOORS[name]

    def moments(support, queries):
        mean, spread = of_support(support, queries)
        return mean, floor(spread)

    answer = alone_with(moments)
    assert all(checks.alone.run(answer, seed=seed).passed is right for seed in range(100, 130))


def test_a_feature_that_only_a_query_has_leaves_the_taught_answer_finite_and_its_order():
    """A floor of 1e-6 does not, in float32: that is why the text teaches 1."""
    given = next(inputs for name, inputs in checks.alone.problems(0) if name.startswith("a feature"))
    support, labels, queries = (given[name] for name in ("support", "labels", "queries"))
    dead = int((support == 0).all(0).nonzero()[0])
    lit = queries.clone()
    lit[:, dead] = 0.5
    before, after = (
        checks.alone.reference(support.float(), labels, some.float()).log_softmax(1) for some in (queries, lit)
    )
    assert torch.allclose(before, after, atol=1e-3)


# ------------------------------------------------------------------ 17.4 steps within a budget


def steps_by_bisect(count, budget, most):
    import bisect

    return bisect.bisect_right(range(most + 1), budget, key=count) - 1


def steps_by_two(count, budget, most):
    """From large strides to small ones."""
    steps, stride = 0, 1
    while 2 * stride <= most:
        stride *= 2
    while stride:
        if steps + stride <= most and count(steps + stride) <= budget:
            steps += stride
        stride //= 2
    return steps


def steps_one_by_one(count, budget, most):
    steps = 0
    while steps < most and count(steps + 1) <= budget:
        steps += 1
    return steps


def steps_by_line(count, budget, most):
    first = count(0)
    return min((budget - first) // (count(1) - first), most)


def moved_by(one):
    def wrong(count, budget, most):
        return checks.steps_within.reference(count, budget, most) + one

    return wrong


def strictly_below(count, budget, most):
    return checks.steps_within.reference(count, budget - 1, most)


def test_steps_within():
    assert_check(
        checks.steps_within,
        right=[steps_by_bisect, steps_by_two],
        wrong={
            "one by one": (steps_one_by_one, "Halve the range"),
            "one too many": (moved_by(1), "one too many"),
            "one too few": (moved_by(-1), "one too few"),
            "strict": (strictly_below, "ask for ≤, not for <"),
            "line": (steps_by_line, "a straight line through its first two values"),
            "no fixed part": (lambda c, b, m: b // (c(1) - c(0)), "forget the fixed part"),
            "fixed each time": (lambda c, b, m: b // c(1), "The fixed part is paid once"),
            "most": (lambda c, b, m: m, "whatever the budget says"),
            "a float": (lambda c, b, m: float(checks.steps_within.reference(c, b, m)), "of type float"),
            "beyond": (lambda c, b, m: c(m + 1), "whole number of steps from 0 to most"),
        },
    )


def test_a_line_that_goes_beyond_most_is_told():
    def beyond(count, budget, most):
        within = checks.steps_within.reference(count, budget, most)
        return within if within < most else (budget - count(0)) // (count(1) - count(0)) + 1

    assert not checks.steps_within.run(beyond).passed
