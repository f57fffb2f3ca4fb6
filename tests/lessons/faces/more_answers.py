"""More answers to the exercises of notebook 15, written after the checks: right ones and slips of learners."""

import torch
from torch.nn import functional as F

from mlcourse.lessons.faces import checks


def rates_by_sorting(scores, genuine, thresholds):
    def below(values):
        return torch.searchsorted(values.sort().values.contiguous(), thresholds.contiguous()).double() / len(values)

    return 1 - below(scores[~genuine]), below(scores[genuine])


def rates_by_counting(scores, genuine, thresholds):
    rows = []
    for t in thresholds:
        let_in = scores >= t
        rows.append([(let_in & ~genuine).sum() / (~genuine).sum(), (~let_in & genuine).sum() / genuine.sum()])
    return torch.tensor(rows)[:, 0], torch.tensor(rows)[:, 1]


def rates(change):
    """change(FMR, FNMR, scores, genuine, thresholds) → another pair."""

    def changed(scores, genuine, thresholds):
        return change(*checks.error_rates.reference(scores, genuine, thresholds), scores, genuine, thresholds)

    return changed


def logits_by_scatter(cosine, labels, scale, margin):
    taken = torch.zeros_like(cosine).scatter(1, labels[:, None], margin)
    return (cosine - taken) * scale


def logits_in_place_of_a_copy(cosine, labels, scale, margin):
    made = scale * cosine
    made[torch.arange(len(labels)), labels] -= scale * margin
    return made


def logits(change):
    def changed(cosine, labels, scale, margin):
        own = F.one_hot(labels, cosine.shape[1]).to(cosine)
        return change(cosine, own, scale, margin)

    return changed


def weights_by_bincount(drawn, people):
    times = torch.bincount(drawn, minlength=int(people.max()) + 1).double()
    a, b = people.unbind(1)
    return times[a] * torch.where(a == b, torch.ones_like(times[b]), times[b])


def weights_with_a_loop(drawn, people):
    listed, found = drawn.tolist(), []
    for a, b in people.tolist():
        found.append(float(listed.count(a) if a == b else listed.count(a) * listed.count(b)))
    return torch.tensor(found)


def weights(change):
    """change(times of the first, times of the second, same) → another weight."""

    def changed(drawn, people):
        times = (drawn == people.unsqueeze(2)).sum(2).double()
        return change(times[:, 0], times[:, 1], people[:, 0] == people[:, 1])

    return changed


def who_by_similarity(gallery, probes, threshold):
    table = F.cosine_similarity(probes[:, None], gallery[None], dim=2)
    who = table.argmax(1)
    who[table.amax(1) < threshold] = -1
    return who


def who_one_by_one(gallery, probes, threshold):
    found = []
    for probe in probes:
        scores = [float(F.cosine_similarity(probe, one, dim=0)) for one in gallery]
        best = max(scores)
        found.append(scores.index(best) if best >= threshold else -1)
    return torch.tensor(found)


def who(change):
    """change(table of cosines, threshold) → another decision."""

    def changed(gallery, probes, threshold):
        return change(F.normalize(probes, dim=1) @ F.normalize(gallery, dim=1).T, threshold)

    return changed


def fpir_with_a_loop(fmr, size):
    nobody = torch.ones_like(fmr)
    for _ in range(size):
        nobody = nobody * (1 - fmr)
    return 1 - nobody


def fpir_by_logarithms(fmr, size):
    return -torch.expm1(size * torch.log1p(-fmr))


RIGHT = {
    "error_rates": [rates_by_sorting, rates_by_counting],
    "cosface_logits": [logits_by_scatter, logits_in_place_of_a_copy],
    "pair_weights": [weights_by_bincount, weights_with_a_loop],
    "identify": [who_by_similarity, who_one_by_one],
    "fpir": [fpir_with_a_loop, fpir_by_logarithms],
}

WRONG = {
    "error_rates": {
        "above only": (
            lambda s, g, t: (
                (s[~g] > t[:, None]).double().mean(1),
                1 - (s[g] > t[:, None]).double().mean(1),
            ),
            "compare with `>=`",
        ),
        "swapped": (rates(lambda a, b, *_: (b, a)), "have changed places"),
        "true accept rate": (rates(lambda a, b, *_: (a, 1 - b)), "the share of genuine pairs that are let in"),
        "true reject rate": (rates(lambda a, b, *_: (1 - a, b)), "the share of impostor pairs that are shut out"),
        "distances": (rates(lambda a, b, *_: (1 - a, 1 - b)), "Both rates are turned round"),
        "over all": (
            lambda s, g, t: (
                ((s >= t[:, None]) & ~g).double().mean(1),
                ((s < t[:, None]) & g).double().mean(1),
            ),
            "You divide by the number of all pairs",
        ),
        "counts": (
            rates(lambda a, b, s, g, t: (a * (~g).sum(), b * g.sum())),
            "You count the pairs",
        ),
        "percent": (rates(lambda a, b, *_: (100 * a, 100 * b)), "are they in percent"),
        "one number": (rates(lambda a, b, *_: a), "results, (FMR, FNMR)"),
        "at the first threshold": (rates(lambda a, b, *_: (a[:1].expand_as(a), b[:1].expand_as(b))), ""),
    },
    "cosface_logits": {
        "added": (logits(lambda c, own, s, m: s * (c + m * own)), "The margin is added"),
        "everywhere": (logits(lambda c, own, s, m: s * (c - m)), "off every class"),
        "outside": (logits(lambda c, own, s, m: s * c - m * own), "The margin is not scaled"),
        "angle": (
            logits(lambda c, own, s, m: s * torch.where(own > 0, (c.acos() + m).cos(), c)),
            "as in ArcFace",
        ),
        "no graph": (logits(lambda c, own, s, m: (s * (c - m * own)).detach()), "no gradient goes back"),
        "in place": (
            lambda c, labels, s, m: c.sub_(m * F.one_hot(labels, c.shape[1])).mul_(s),
            "leaf",
        ),
        "half": (logits(lambda c, own, s, m: s * (c - m / 2 * own)), "`margin` / 2"),
        "loss": (lambda c, labels, s, m: F.cross_entropy(s * c, labels), "has shape"),
        "one column": (lambda c, labels, s, m: s * (c - m * (torch.arange(c.shape[1]) == labels[0]).to(c)), ""),
    },
    "pair_weights": {
        "product": (weights(lambda a, b, same: a * b), "this number by itself"),
        "sum": (weights(lambda a, b, same: a + b), "for a genuine pair the same number twice"),
        "least": (weights(lambda a, b, same: torch.minimum(a, b)), "the smaller of the two"),
        "there": (weights(lambda a, b, same: ((a > 0) & (b > 0)).double()), "only whether both were drawn"),
        "first": (weights(lambda a, b, same: a), "the first person"),
        "mean": (weights(lambda a, b, same: (a + b) / 2), "the mean of the two numbers"),
        "no genuine ones": (weights(lambda a, b, same: a * b * ~same), "A genuine pair is left out"),
        "whole numbers": (weights(lambda a, b, same: torch.where(same, a, a * b).long()), "floating point"),
        "squares": (weights(lambda a, b, same: torch.where(same, a, a * b) ** 2), "the squares of the right ones"),
        "one too many": (weights(lambda a, b, same: torch.where(same, a, (a + 1) * b)), ""),
    },
    "identify": {
        "always": (who(lambda table, t: table.argmax(1)), "Somebody is named for every probe"),
        "dots": (
            lambda g, p, t: torch.where((p @ g.T).amax(1) >= t, (p @ g.T).argmax(1), -1),
            "decisions by dot products",
        ),
        "least": (who(lambda table, t: table.argmin(1)), "the least similar one"),
        "from 1": (
            who(lambda table, t: torch.where(table.amax(1) >= t, table.argmax(1) + 1, -1)),
            "too large by 1",
        ),
        "zero for nobody": (
            who(lambda table, t: torch.where(table.amax(1) >= t, table.argmax(1), 0)),
            "A probe of nobody gets 0",
        ),
        "first": (
            who(lambda table, t: torch.where((table >= t).any(1), (table >= t).int().argmax(1), -1)),
            "You name the first person",
        ),
        "turned round": (
            who(lambda table, t: torch.where(table.amax(1) < t, table.argmax(1), -1)),
            "The decision is turned round",
        ),
        "names and scores": (who(lambda table, t: table), "shape"),
        "squared threshold": (
            who(lambda table, t: torch.where(table.amax(1) >= t**2, table.argmax(1), -1)),
            "`threshold`²",
        ),
        "another threshold": (who(lambda table, t: torch.where(table.amax(1) >= 0.8 * t, table.argmax(1), -1)), ""),
    },
    "fpir": {
        "sum": (lambda p, n: n * p, "It is no chance"),
        "cut": (lambda p, n: (n * p).clamp(max=1), "cut off at 1"),
        "nobody": (lambda p, n: (1 - p) ** n, "that nobody is named"),
        "all": (lambda p, n: p**n, "that all N are named"),
        "one of them": (lambda p, n: n * p * (1 - p) ** (n - 1), "exactly one is named"),
        "approximation": (lambda p, n: 1 - torch.exp(-n * p), "which is near for a small FMR only"),
        "one comparison": (lambda p, n: p, "the FMR of one comparison"),
        "one number": (lambda p, n: float(1 - (1 - p[0]) ** n), "expected a tensor"),
        "every second": (lambda p, n: 1 - (1 - p) ** (n // 2 + 1), ""),
    },
}
