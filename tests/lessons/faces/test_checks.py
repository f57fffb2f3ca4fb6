"""The checks of notebook 15 against right answers written differently, and against mistakes that learners make."""

import math

import numpy as np
import pytest
import torch
from check_helpers import assert_check
from sklearn.metrics import roc_curve
from torch.nn import functional as F

from mlcourse.lessons.faces import checks
from mlcourse.vision import verification


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


# ------------------------------------------------------------------ 15.1 error rates


def rates_with_loop(scores, genuine, thresholds):
    fmr, fnmr = [], []
    for threshold in thresholds.tolist():
        wrong = [s >= threshold for s, g in zip(scores.tolist(), genuine.tolist()) if not g]
        right = [s >= threshold for s, g in zip(scores.tolist(), genuine.tolist()) if g]
        fmr.append(sum(wrong) / len(wrong))
        fnmr.append(1 - sum(right) / len(right))
    return torch.tensor(fmr), torch.tensor(fnmr)


def rates_by_products(scores, genuine, thresholds):
    rejected = (scores < thresholds[:, None]).double()
    g = genuine.double()
    return 1 - rejected @ (1 - g) / (1 - g).sum(), rejected @ g / g.sum()


def rates_float32(scores, genuine, thresholds):
    accepted = (scores >= thresholds[:, None]).float()
    return accepted[:, ~genuine].mean(1), 1 - accepted[:, genuine].mean(1)


def rates_with(change):
    def rates_with_a_mistake(scores, genuine, thresholds):
        accepted = (scores >= thresholds[:, None]).double()
        return change(accepted, genuine)

    return rates_with_a_mistake


def plain(accepted, genuine):
    return accepted[:, ~genuine].mean(1), 1 - accepted[:, genuine].mean(1)


def rates_above_only(scores, genuine, thresholds):
    return plain((scores > thresholds[:, None]).double(), genuine)


def among_those_let_in(a, g):
    return a[:, ~g].sum(1) / a.sum(1).clamp_min(1), plain(a, g)[1]


def wrong_shares(a, g):
    wrong = (a.bool() != g).double().mean(1)
    return wrong, wrong


def test_error_rates():
    assert_check(
        checks.error_rates,
        right=[rates_with_loop, rates_by_products, rates_float32],
        wrong={
            "above only": (rates_above_only, "compare with `>=`"),
            "swapped": (rates_with(lambda a, g: plain(a, g)[::-1]), "have changed places"),
            "genuine let in": (
                rates_with(lambda a, g: (plain(a, g)[0], a[:, g].mean(1))),
                "genuine pairs that are let",
            ),
            "impostors out": (
                rates_with(lambda a, g: (1 - plain(a, g)[0], plain(a, g)[1])),
                "impostor pairs that are s",
            ),
            "turned": (rates_with(lambda a, g: tuple(1 - x for x in plain(a, g))), "Both rates are turned round"),
            "all pairs": (
                rates_with(lambda a, g: (a[:, ~g].sum(1) / len(g), (1 - a[:, g]).sum(1) / len(g))),
                "You divide by the number of all pairs",
            ),
            "counts": (rates_with(lambda a, g: (a[:, ~g].sum(1), (1 - a[:, g]).sum(1))), "You count the pairs"),
            "let in": (rates_with(among_those_let_in), "FMR is a share of those let in"),
            "by genuine": (
                rates_with(lambda a, g: (a[:, ~g].sum(1) / g.sum(), plain(a, g)[1])),
                "FMR is divided by the number of genuine",
            ),
            "by impostors": (
                rates_with(lambda a, g: (plain(a, g)[0], (1 - a[:, g]).sum(1) / (~g).sum())),
                "FNMR is divided by the number of impostor",
            ),
            "wrong decisions": (rates_with(wrong_shares), "the share of wrong decisions"),
            "mean of both": (rates_with(lambda a, g: 2 * (sum(plain(a, g)) / 2,)), "the mean of FMR and FNMR"),
            "twice FMR": (rates_with(lambda a, g: 2 * (plain(a, g)[0],)), "Both numbers are FMR"),
            "twice FNMR": (rates_with(lambda a, g: 2 * (plain(a, g)[1],)), "Both numbers are FNMR"),
            "one result": (rates_with(lambda a, g: a.mean()), "it needs 2 results"),
        },
    )


@pytest.mark.parametrize("seed", range(10))
def test_the_rates_are_those_of_scikit_learn(seed):
    """At each score, ties included: roc_curve gives FMR and 1 − FNMR at all its thresholds."""
    for _, given in checks.error_rates.problems(seed):
        fmr, tpr, thresholds = roc_curve(given["genuine"], given["scores"], drop_intermediate=False)
        at = torch.tensor(thresholds[1:])
        ours = checks.error_rates.reference(given["scores"], given["genuine"], at)
        np.testing.assert_allclose(ours[0], fmr[1:], atol=1e-12)
        np.testing.assert_allclose(1 - ours[1], tpr[1:], atol=1e-12)
        assert checks.error_rates.judge(given | {"thresholds": at}, dict(zip(("FMR", "FNMR"), ours))) is None


# ------------------------------------------------------------------ 15.2 the margin


def logits_row_by_row(cosine, labels, scale, margin):
    rows = []
    for row, label in zip(cosine, labels):
        own = torch.zeros_like(row)
        own[label] = margin
        rows.append(scale * (row - own))
    return torch.stack(rows)


def logits_by_where(cosine, labels, scale, margin):
    own = torch.arange(cosine.shape[1]) == labels[:, None]
    return scale * torch.where(own, cosine - margin, cosine)


def logits_float32(cosine, labels, scale, margin):
    return logits_by_where(cosine.float(), labels, scale, margin)


def logits_with(change):
    def logits_with_a_mistake(cosine, labels, scale, margin):
        return change(cosine, F.one_hot(labels, cosine.shape[1]).to(cosine), scale, margin)

    return logits_with_a_mistake


def logits_in_place(cosine, labels, scale, margin):
    cosine[torch.arange(len(labels)), labels] -= margin
    return scale * cosine


def test_cosface_logits():
    assert_check(
        checks.cosface_logits,
        right=[logits_row_by_row, logits_by_where, logits_float32],
        wrong={
            "added": (logits_with(lambda c, o, s, m: s * (c + m * o)), "The margin is added"),
            "every class": (logits_with(lambda c, o, s, m: s * (c - m)), "off every class"),
            "wrong classes": (logits_with(lambda c, o, s, m: s * (c - m * (1 - o))), "off the wrong classes"),
            "outside": (logits_with(lambda c, o, s, m: s * c - m * o), "The margin is not scaled"),
            "no scale": (logits_with(lambda c, o, s, m: c - m * o), "The scale is missing"),
            "no margin": (logits_with(lambda c, o, s, m: s * c), "The margin is missing"),
            "angle": (logits_with(lambda c, o, s, m: s * torch.where(o > 0, (c.acos() + m).cos(), c)), "as in ArcFace"),
            "share": (logits_with(lambda c, o, s, m: s * c * (1 - m * o)), "multiplied by 1 − m"),
            "own only": (logits_with(lambda c, o, s, m: s * (c - m) * o), "Only the right class has a logit left"),
            "cosine lost": (logits_with(lambda c, o, s, m: s * (c * (1 - o) - m * o)), "its cosine is lost"),
            "squared": (logits_with(lambda c, o, s, m: s * s * (c - m * o)), "s² is too much"),
            "divided": (logits_with(lambda c, o, s, m: (c - m * o) / s), "divided by the scale"),
            "softmax": (logits_with(lambda c, o, s, m: (s * (c - m * o)).softmax(1)), "These are probabilities"),
            "logs": (logits_with(lambda c, o, s, m: (s * (c - m * o)).log_softmax(1)), "These are log-probabilities"),
            "no graph": (logits_with(lambda c, o, s, m: (s * (c - m * o)).detach()), "no gradient goes back"),
            "in place": (logits_in_place, "leaf"),
            "own logit": (logits_with(lambda c, o, s, m: (s * (c - m * o) * o).sum(1)), "has shape"),
        },
    )


def test_the_margin_is_that_of_the_closed_form():
    """The cross-entropy of two people is log(1 + exp(s (cos₂ − cos₁ + m)))."""
    cosine = torch.tensor([[0.8, 0.7]], dtype=torch.float64)
    for margin in (0.0, 0.2, 0.5):
        logits = checks.cosface_logits.reference(cosine, torch.tensor([0]), 16.0, margin)
        wanted = math.log1p(math.exp(16.0 * (0.7 - 0.8 + margin)))
        assert float(F.cross_entropy(logits, torch.tensor([0]))) == pytest.approx(wanted, rel=1e-12)


# ------------------------------------------------------------------ 15.3 weights of pairs


def weights_by_copies(drawn, people):
    """Every copy of the one with every copy of the other; a genuine pair once for each copy."""
    found = []
    for a, b in people.tolist():
        if a == b:
            found.append(sum(one == a for one in drawn.tolist()))
        else:
            found.append(sum(x == a and y == b for x in drawn.tolist() for y in drawn.tolist()))
    return torch.tensor(found, dtype=torch.float64)


def weights_by_one_hot(drawn, people):
    times = F.one_hot(drawn, int(people.max()) + 1).sum(0).double()
    both = times[people]
    return torch.where(people[:, 0] == people[:, 1], both[:, 0], both.prod(1))


def weights_float32(drawn, people):
    return weights_by_one_hot(drawn, people).float()


def weights_with(change):
    def weights_with_a_mistake(drawn, people):
        times = torch.bincount(drawn, minlength=int(people.max()) + 1).double()
        a, b = people.unbind(1)
        return change(times[a], times[b], a == b)

    return weights_with_a_mistake


def weights_misread(drawn, people):
    times = drawn.double()[people]
    return torch.where(people[:, 0] == people[:, 1], times[:, 0], times.prod(1))


def right_weights(a, b, same):
    return torch.where(same, a, a * b)


def test_pair_weights():
    assert_check(
        checks.pair_weights,
        right=[weights_by_copies, weights_by_one_hot, weights_float32],
        wrong={
            "product": (weights_with(lambda a, b, s: a * b), "this number by itself"),
            "impostors only": (weights_with(lambda a, b, s: a * b * ~s), "A genuine pair is left out"),
            "sum": (weights_with(lambda a, b, s: torch.where(s, a, a + b)), "each copy of the one"),
            "sum of all": (weights_with(lambda a, b, s: a + b), "the same number twice"),
            "smaller": (weights_with(lambda a, b, s: torch.minimum(a, b)), "the smaller of"),
            "larger": (weights_with(lambda a, b, s: torch.maximum(a, b)), "the larger of"),
            "both there": (weights_with(lambda a, b, s: ((a > 0) & (b > 0)).double()), "whether both were drawn"),
            "one there": (weights_with(lambda a, b, s: (a + b > 0).double()), "whether one of the two"),
            "first": (weights_with(lambda a, b, s: a), "the first person of each"),
            "second": (weights_with(lambda a, b, s: b), "the second person of each"),
            "mean": (weights_with(lambda a, b, s: (a + b) / 2), "the mean of the two numbers"),
            "root": (weights_with(lambda a, b, s: (a * b).sqrt()), "the root of the product"),
            "misread": (weights_misread, "as the number of times"),
            "shares": (
                weights_with(lambda a, b, s: right_weights(a, b, s) / right_weights(a, b, s).sum()),
                "by their sum",
            ),
            "genuine once": (
                weights_with(lambda a, b, s: torch.where(s, (a > 0).double(), a * b)),
                "counts once from you",
            ),
            "whole": (weights_with(lambda a, b, s: right_weights(a, b, s).long()), "floating point"),
        },
    )


def test_the_weights_are_those_of_the_packages_bootstrap():
    generator = torch.Generator().manual_seed(3)
    people = torch.arange(8).repeat_interleave(2)
    pairs = verification.all_pairs(torch.randn(16, 4, generator=generator), people)
    drawn = torch.randint(8, (8,), generator=generator)
    weights = checks.pair_weights.reference(drawn, pairs.people)
    order = pairs.scores.argsort(descending=True)
    curve = verification.weighted_curves(pairs.scores[order], pairs.genuine[order], weights[order].unsqueeze(0))
    copies = [(a, b) for a in range(8) for b in range(8) if a < b]  # the drawn people, each copy by itself
    impostor = [
        float(s >= 0.3)
        for a, b in copies
        for s, (p, q) in zip(pairs.scores.tolist(), pairs.people.tolist())
        if {int(drawn[a]), int(drawn[b])} == {p, q} and p != q
    ]
    at = int((curve.thresholds >= 0.3).sum()) - 1
    assert float(curve.fmr[0, at]) == pytest.approx(sum(impostor) / len(impostor), abs=1e-12)


# ------------------------------------------------------------------ 15.4 open sets


def who_with_loop(gallery, probes, threshold):
    found = []
    for probe in probes:
        best, name = -2.0, -1
        for k, one in enumerate(gallery):
            score = float(probe @ one / probe.norm() / one.norm())
            if score > best:
                best, name = score, k
        found.append(name if best >= threshold else -1)
    return torch.tensor(found)


def who_by_a_row_for_nobody(gallery, probes, threshold):
    table = F.normalize(probes, dim=1) @ F.normalize(gallery, dim=1).T
    nobody = torch.full_like(table[:, :1], threshold)
    best = torch.cat([nobody, table], 1).argmax(1)
    return best - 1


def who_float32(gallery, probes, threshold):
    return who_by_a_row_for_nobody(gallery.float(), probes.float(), threshold)


def who_with(change, gallery_of=lambda g: F.normalize(g, dim=1), probes_of=lambda p: F.normalize(p, dim=1)):
    def who_with_a_mistake(gallery, probes, threshold):
        return change(probes_of(probes) @ gallery_of(gallery).T, threshold)

    return who_with_a_mistake


def decided(table, threshold):
    return torch.where(table.amax(1) >= threshold, table.argmax(1), -1)


def same(x):
    return x


def last_of(table, threshold):
    reached = (table >= threshold).flip(1).int()
    return torch.where(reached.any(1), table.shape[1] - 1 - reached.argmax(1), -1)


def nearest(gallery, probes, threshold):
    return torch.cdist(probes, gallery).argmin(1)


def test_identify():
    assert_check(
        checks.identify,
        right=[who_with_loop, who_by_a_row_for_nobody, who_float32],
        wrong={
            "always": (who_with(lambda t, x: t.argmax(1)), "Somebody is named for every probe"),
            "dots": (who_with(decided, same, same), "decisions by dot products"),
            "probes as they are": (who_with(decided, probes_of=same), "their length moves the threshold"),
            "gallery as it is": (who_with(decided, gallery_of=same), "the gallery is not"),
            "least": (who_with(lambda t, x: t.argmin(1)), "the least similar one"),
            "distances": (nearest, "decisions by distances"),
            "from 1": (who_with(lambda t, x: torch.where(t.amax(1) >= x, t.argmax(1) + 1, -1)), "too large by 1"),
            "turned": (who_with(lambda t, x: torch.where(t.amax(1) < x, t.argmax(1), -1)), "is turned round"),
            "zero": (who_with(lambda t, x: decided(t, x).clamp_min(0)), "gets 0"),
            "first": (
                who_with(lambda t, x: torch.where((t >= x).any(1), (t >= x).int().argmax(1), -1)),
                "the first person who reaches",
            ),
            "last": (who_with(last_of), "the last person who reaches"),
            "nobody": (who_with(lambda t, x: torch.full_like(t[:, 0], -1).long()), "Nobody is ever named"),
            "scores": (who_with(lambda t, x: t.amax(1)), "whole numbers"),
            "table": (who_with(lambda t, x: (t >= x).long()), "has shape"),
        },
    )


# ------------------------------------------------------------------ 15.5 the drift


def fpir_by_product(fmr, size):
    return 1 - (1 - fmr).expand(size, *fmr.shape).prod(0)


def fpir_plain(fmr, size):
    return 1 - (1 - fmr) ** size


def fpir_float32(fmr, size):
    return 1 - (1 - fmr.float()) ** size


def test_fpir():
    assert_check(
        checks.fpir,
        right=[fpir_by_product, fpir_plain, fpir_float32],
        wrong={
            "nobody": (lambda p, n: (1 - p) ** n, "that nobody is named"),
            "sum": (lambda p, n: n * p, "It is no chance"),
            "cut": (lambda p, n: (n * p).clamp(max=1), "cut off at 1"),
            "all": (lambda p, n: p**n, "that all N are named"),
            "not all": (lambda p, n: 1 - p**n, "that not all N"),
            "one comparison": (lambda p, n: p, "the FMR of one comparison"),
            "exponential": (lambda p, n: 1 - torch.exp(-n * p), "near for a small FMR"),
            "one fewer": (lambda p, n: 1 - (1 - p) ** (n - 1), "N − 1 people"),
            "one more": (lambda p, n: 1 - (1 - p) ** (n + 1), "N + 1 people"),
            "exactly one": (lambda p, n: n * p * (1 - p) ** (n - 1), "exactly one is named"),
            "added": (lambda p, n: 1 - n * (1 - p), "are multiplied, not added"),
            "mean": (lambda p, n: (1 - (1 - p) ** n).mean(), "has shape"),
        },
    )


def test_the_formula_is_what_independent_comparisons_give():
    generator = torch.Generator().manual_seed(0)
    fired = torch.rand(200_000, 20, generator=generator) < 0.03
    measured = float(fired.any(1).double().mean())
    assert float(checks.fpir.reference(torch.tensor(0.03), 20)) == pytest.approx(measured, abs=0.004)
