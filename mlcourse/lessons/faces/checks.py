"""The checks of notebook 15: error rates at a threshold, the margin, weights of a bootstrap, open sets, the drift.

Oracles share no code with the package: loops over pairs, counts, and the formulas written out.

ISO/IEC 19795-1, *Biometric performance testing and reporting*, 2021;
Wang et al., *CosFace: Large Margin Cosine Loss for Deep Face Recognition*, 2018, https://arxiv.org/abs/1801.09414;
Snijders, Borgatti, *Non-Parametric Standard Errors and Tests for Network Statistics*, 1999.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mlcourse.teaching.checks import Check, close, relative_error, several
from mlcourse.teaching.oracles import Unnamed, first_mistake, randn, uniform
from mlcourse.vision.faces import cosface_logits as package_logits
from mlcourse.vision.verification import drift

Tensors = dict[str, Tensor]
F64 = torch.float64
RTOL = 2e-4  # an answer that computes in float32 passes; the mistakes below are off by far more
_close = partial(close, rtol=RTOL)
_first = partial(first_mistake, rtol=RTOL)


# ------------------------------------------------------------------ 15.1 error rates at a threshold


def _rates_inputs(ties: bool) -> Callable[[torch.Generator], Tensors]:
    """Scores of a few genuine and more impostor pairs. ties: some thresholds are scores of pairs."""

    def make(generator: torch.Generator) -> Tensors:
        scores = torch.cat([uniform(generator, 0.2, 0.9, 5), uniform(generator, -0.3, 0.6, 9)])
        genuine = torch.arange(14) < 5
        # one score of each kind at 0.4, so that no problem is without a tie
        scores[0], scores[5] = 0.4, 0.4
        scores[6], scores[1] = 0.1, 0.7
        chosen = [0.4, 0.1, 0.7, -1.0, 1.0] if ties else [0.35, 0.05, 0.65, -1.0, 1.0]
        order = torch.randperm(14, generator=generator)
        return {
            "scores": scores[order],
            "genuine": genuine[order],
            "thresholds": torch.tensor(chosen, dtype=F64)[torch.randperm(5, generator=generator)],
        }

    return make


def _rates_probe(answer: Callable, inputs: Tensors) -> Tensors:
    made = answer(inputs["scores"], inputs["genuine"], inputs["thresholds"])
    fmr, fnmr = several(made, "FMR", "FNMR")
    return {"FMR": fmr, "FNMR": fnmr}


def _let_in(inputs: Tensors, strict: bool) -> tuple[Tensor, Tensor]:
    """How many impostor and how many genuine pairs reach each threshold, pair by pair: each [thresholds]."""
    counts = []
    for threshold in inputs["thresholds"].tolist():
        found = [0, 0]
        for score, same in zip(inputs["scores"].tolist(), inputs["genuine"].tolist(), strict=True):
            found[same] += score > threshold if strict else score >= threshold
        counts.append(found)
    return tuple(torch.tensor(counts, dtype=F64).unbind(1))


def _rates_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    genuine = int(inputs["genuine"].sum())
    impostors, pairs = len(inputs["genuine"]) - genuine, len(inputs["genuine"])
    got = torch.stack([outputs["FMR"], outputs["FNMR"]]).double()

    def both(strict: bool) -> tuple[Tensor, Tensor]:
        wrong, right = _let_in(inputs, strict)
        return wrong / impostors, 1 - right / genuine

    fmr, fnmr = both(False)
    if _close(got, torch.stack([fmr, fnmr])):
        return None
    strict = both(True)
    in_wrong, in_right = _let_in(inputs, False)
    let_in = (in_wrong + in_right).clamp_min(1)
    mistakes = {
        "A pair whose score is exactly the threshold must be let in: compare with `>=`.": strict,
        "FNMR is right. For FMR, too, a score that is exactly the threshold is let in: compare with `>=`.": (
            strict[0],
            fnmr,
        ),
        "FMR is right. For FNMR, too, a score that is exactly the threshold is let in, so it is not shut out.": (
            fmr,
            strict[1],
        ),
        "The two rates have changed places: return FMR first, then FNMR.": (fnmr, fmr),
        "FMR is right. For FNMR you give the share of genuine pairs that are let in; asked are those shut out.": (
            fmr,
            1 - fnmr,
        ),
        "FNMR is right. For FMR you give the share of impostor pairs that are shut out; asked are those let in.": (
            1 - fmr,
            fnmr,
        ),
        "Both rates are turned round: who has a score at the threshold or above is let in.": (1 - fmr, 1 - fnmr),
        "You divide by the number of all pairs. FMR is a share of the impostor pairs, FNMR of the genuine ones.": (
            in_wrong / pairs,
            (genuine - in_right) / pairs,
        ),
        "You count the pairs. Divide by the number of impostor pairs, and by that of genuine pairs.": (
            in_wrong,
            genuine - in_right,
        ),
        "FMR is a share of those let in from you. Asked is the share of all impostor pairs that are let in.": (
            in_wrong / let_in,
            fnmr,
        ),
        "FMR is divided by the number of genuine pairs. Divide by that of the impostor pairs.": (
            in_wrong / genuine,
            fnmr,
        ),
        "FNMR is divided by the number of impostor pairs. Divide by that of the genuine pairs.": (
            fmr,
            (genuine - in_right) / impostors,
        ),
        "Both numbers are the share of wrong decisions among all pairs. Each kind of pair has a rate of its own.": (
            2 * ((in_wrong + genuine - in_right) / pairs,)
        ),
        "Both numbers are the mean of FMR and FNMR. Return each by itself.": 2 * ((fmr + fnmr) / 2,),
        "Both numbers are FMR. FNMR asks the genuine pairs: which share of them is shut out?": (fmr, fmr),
        "Both numbers are FNMR. FMR asks the impostor pairs: which share of them is let in?": (fnmr, fnmr),
    }
    named = _first(got, {words: torch.stack(pair) for words, pair in mistakes.items()})
    return named or _unnamed_rates(inputs, got, fmr, fnmr)


def _unnamed_rates(inputs: Tensors, got: Tensor, fmr: Tensor, fnmr: Tensor) -> Unnamed:
    away = (got - torch.stack([fmr, fnmr])).abs().amax(0)
    k = int(away.argmax())
    return Unnamed(
        f"At the threshold {float(inputs['thresholds'][k]):.2f} FMR should be {float(fmr[k]):.3f} and FNMR "
        f"{float(fnmr[k]):.3f}; yours are {float(got[0, k]):.3f} and {float(got[1, k]):.3f}."
    )


def _rates_reference(scores: Tensor, genuine: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """(FMR, FNMR) at each threshold: each [thresholds]."""
    accepted = (scores >= thresholds.unsqueeze(1)).double()
    return accepted[:, ~genuine].mean(1), 1 - accepted[:, genuine].mean(1)


error_rates = Check(
    exercise="15.1",
    title="The two error rates",
    inputs={"thresholds between the scores": _rates_inputs(False), "thresholds that are scores": _rates_inputs(True)},
    probe=_rates_probe,
    judge=_rates_judge,
    reference=_rates_reference,
)


# ------------------------------------------------------------------ 15.2 the margin


def _margin_inputs(images: int, classes: int) -> Callable[[torch.Generator], Tensors]:
    def make(generator: torch.Generator) -> Tensors:
        labels = torch.randperm(max(images, classes), generator=generator)[:images] % classes
        return {
            "cosine": uniform(generator, -0.7, 0.9, images, classes),
            "labels": labels,
            "scale": uniform(generator, 8.0, 20.0),
            "margin": uniform(generator, 0.15, 0.45),
            "weights": randn(generator, images, classes),
        }

    return make


def _margin_probe(answer: Callable, inputs: Tensors) -> Tensors:
    cosine = inputs["cosine"].requires_grad_()
    logits = answer(cosine, inputs["labels"], float(inputs["scale"]), float(inputs["margin"]))
    slope = torch.zeros_like(cosine)
    if isinstance(logits, Tensor) and logits.requires_grad and logits.shape == cosine.shape:
        slope = torch.autograd.grad((inputs["weights"] * logits).sum(), cosine)[0]
    return {"logits": logits, "slope": slope}


def _margin_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    c, labels = inputs["cosine"].detach(), inputs["labels"]
    scale, m = float(inputs["scale"]), float(inputs["margin"])
    got, own = outputs["logits"].double(), torch.zeros_like(c)
    for row, label in enumerate(labels.tolist()):
        own[row, label] = 1
    right = scale * (c - m * own)
    if _close(got, right):
        if _close(outputs["slope"].double(), scale * inputs["weights"]):
            return None
        return (
            "The numbers are right, but no gradient goes back to the cosines, so nothing could be learned. Leave out "
            "`.detach()`, `.data`, `.item()` and `no_grad()`."
        )
    theta = c.clamp(-1, 1).acos()
    arc = torch.where(own > 0, (theta + m).cos(), c)
    mistakes = {
        "The margin is added. Take it off the right class, so that training is harder than the test.": (
            scale * (c + m * own)
        ),
        "The margin is taken off every class. Then no class loses against another: softmax sees no difference.": (
            scale * (c - m)
        ),
        "The margin is taken off the wrong classes. It belongs to the right one, `labels`.": scale
        * (c - m * (1 - own)),
        "The margin is not scaled: s · cos θ − m. It belongs into the bracket, s · (cos θ − m).": scale * c - m * own,
        "The scale is missing.": c - m * own,
        "The margin is missing: these are s · cos θ for all classes.": scale * c,
        "This is the margin on the angle, as in ArcFace: s · cos(θ + m). Here it is taken off the cosine.": scale * arc,
        "The right cosine is multiplied by 1 − m. Subtract m.": scale * c * (1 - m * own),
        "Only the right class has a logit left. The others need s · cos θ.": scale * (c - m) * own,
        "The right class gets −s · m alone: its cosine is lost.": scale
        * torch.where(own > 0, torch.full_like(c, -m), c),
        "The scale is taken off twice: s² is too much.": scale**2 * (c - m * own),
        "The logits are divided by the scale. Multiply.": (c - m * own) / scale,
        "These are probabilities. Asked are logits; the cross-entropy takes the softmax itself.": right.softmax(1),
        "These are log-probabilities. Asked are logits; the cross-entropy takes the softmax itself.": (
            right.log_softmax(1)
        ),
    }
    return _first(got, mistakes) or Unnamed(
        f"The logits are off by {relative_error(got, right):.1e} of their size. For the right class: s · (cos θ − m); "
        "for all others: s · cos θ."
    )


cosface_logits = Check(
    exercise="15.2",
    title="Logits with a margin",
    inputs={"more people than faces": _margin_inputs(3, 5), "more faces than people": _margin_inputs(7, 4)},
    probe=_margin_probe,
    judge=_margin_judge,
    reference=package_logits,
)


# ------------------------------------------------------------------ 15.3 the weights of a bootstrap over people


def _weights_inputs(people: int) -> Callable[[torch.Generator], Tensors]:
    """All pairs of so many people, themselves included; one is drawn three times, one twice, some never."""

    def make(generator: torch.Generator) -> Tensors:
        order = torch.randperm(people, generator=generator)
        drawn = torch.cat([order[:1].repeat(3), order[1:2].repeat(2), order[2 : people - 3]])
        pairs = torch.combinations(torch.arange(people), with_replacement=True)
        flip = torch.rand(len(pairs), generator=generator) < 0.5
        pairs = torch.where(flip.unsqueeze(1), pairs.flip(1), pairs)
        return {
            "drawn": drawn[torch.randperm(people, generator=generator)],
            "people": pairs[torch.randperm(len(pairs), generator=generator)],
        }

    return make


def _weights_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"weights": answer(inputs["drawn"], inputs["people"])}


def _weights_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    drawn, people = inputs["drawn"].tolist(), inputs["people"].tolist()
    first, second = (torch.tensor([float(drawn.count(pair[k])) for pair in people], dtype=F64) for k in (0, 1))
    same = torch.tensor([a == b for a, b in people])
    got, right = outputs["weights"].double(), torch.where(same, first, first * second)
    if _close(got, right):
        return None
    there = ((first > 0) & (second > 0)).to(F64)
    mistakes = {
        "A genuine pair counts as often as its one person was drawn. You multiply this number by itself.": (
            first * second
        ),
        "A genuine pair is left out: it counts as often as its person was drawn.": right * ~same,
        "You add the two numbers. A pair counts once for each copy of the one with each copy of the other: multiply.": (
            torch.where(same, first, first + second)
        ),
        "You add the two numbers, and for a genuine pair the same number twice. Multiply; a genuine one counts once.": (
            first + second
        ),
        "You take the smaller of the two numbers. Two copies of one and three of the other make six pairs.": (
            torch.minimum(first, second)
        ),
        "You take the larger of the two numbers. If one of the two was not drawn, there is no pair.": torch.maximum(
            first, second
        ),
        "You ask only whether both were drawn. Who was drawn twice counts twice.": there,
        "You ask only whether one of the two was drawn. A pair needs both.": ((first + second) > 0).to(F64),
        "You look at the first person of each pair only.": first,
        "You look at the second person of each pair only.": second,
        "You take the mean of the two numbers. Multiply them.": (first + second) / 2,
        "You take the root of the product. Multiply the two numbers, no root.": (first * second).sqrt(),
        "You read `drawn` as the number of times. It is a list of people: count how often each one is in it.": (
            _misread(inputs)
        ),
        "The weights are divided by their sum. Return them as they are.": right / right.sum(),
        "Impostor pairs are right. A genuine pair of somebody who was drawn counts once from you, however often he "
        "was drawn.": torch.where(same, there, right),
    }
    return _first(got, mistakes) or _unnamed_weights(inputs, got, right)


def _misread(inputs: Tensors) -> Tensor:
    times = inputs["drawn"].to(F64)[inputs["people"]]
    return torch.where(inputs["people"][:, 0] == inputs["people"][:, 1], times[:, 0], times.prod(1))


def _unnamed_weights(inputs: Tensors, got: Tensor, right: Tensor) -> Unnamed:
    k = int((got - right).abs().argmax())
    a, b = inputs["people"][k].tolist()
    counts = [int((inputs["drawn"] == one).sum()) for one in (a, b)]
    return Unnamed(
        f"A pair of person {a} (drawn {counts[0]} times) and person {b} (drawn {counts[1]} times) should count "
        f"{float(right[k]):g} times, and counts {float(got[k]):g} times."
    )


def _weights_reference(drawn: Tensor, people: Tensor) -> Tensor:
    """How often each pair counts: float64 [pairs]."""
    times = (drawn == people.unsqueeze(2)).sum(2).double()
    return torch.where(people[:, 0] == people[:, 1], times[:, 0], times.prod(1))


pair_weights = Check(
    exercise="15.3",
    title="How often a pair counts",
    inputs={"six people": _weights_inputs(6), "nine people": _weights_inputs(9)},
    probe=_weights_probe,
    judge=_weights_judge,
    reference=_weights_reference,
)


# ------------------------------------------------------------------ 15.4 the decision in an open set


def _identify_inputs(people: int) -> Callable[[torch.Generator], Tensors]:
    """Enrolled embeddings of unlike lengths; probes of enrolled people and of strangers, none near the threshold."""

    def make(generator: torch.Generator) -> Tensors:
        while True:
            gallery = randn(generator, people, 6)
            gallery[1] = gallery[0] / gallery[0].norm() + 0.35 * gallery[1]  # two who look alike
            gallery = gallery[torch.randperm(people, generator=generator)] * uniform(generator, 0.3, 3.0, people, 1)
            known = torch.randint(people, (8,), generator=generator)
            probes = gallery[known] / gallery[known].norm(dim=1, keepdim=True) + 0.25 * randn(generator, 8, 6)
            probes = torch.cat([probes, randn(generator, 8, 6)]) * uniform(generator, 0.3, 3.0, 16, 1)
            given = {
                "gallery": gallery,
                "probes": probes[torch.randperm(16, generator=generator)],
                "threshold": uniform(generator, 0.55, 0.75),
            }
            if _tells(given):
                return given

    return make


def _table(inputs: Tensors) -> list[list[float]]:
    """The cosine of each probe with each enrolled one: a row for each probe."""
    gallery, probes = inputs["gallery"], inputs["probes"]
    squares = probes.square().sum(1)[:, None] * gallery.square().sum(1)
    return ((probes[:, None] * gallery).sum(2) / squares.sqrt()).tolist()


def _decided(scores: list[list[float]], threshold: float) -> Tensor:
    """Of each row the place of the largest score, or −1 where it is below the threshold."""
    best = [max(range(len(row)), key=row.__getitem__) for row in scores]
    return torch.tensor([k if row[k] >= threshold else -1 for k, row in zip(best, scores, strict=True)])


def _identify_mistakes(inputs: Tensors) -> dict[str, Tensor]:
    scores, threshold = _table(inputs), float(inputs["threshold"])
    gallery, probes = inputs["gallery"], inputs["probes"]
    right, always = _decided(scores, threshold), _decided(scores, -math.inf)
    dots = (probes @ gallery.T).tolist()
    half = (probes @ (gallery / gallery.norm(dim=1, keepdim=True)).T).tolist()
    other = ((probes / probes.norm(dim=1, keepdim=True)) @ gallery.T).tolist()
    far = (-torch.cdist(probes, gallery)).tolist()
    least = [[-score for score in row] for row in scores]
    first = [next((k for k, score in enumerate(row) if score >= threshold), -1) for row in scores]
    last = [next((k for k, score in reversed(list(enumerate(row))) if score >= threshold), -1) for row in scores]
    return {
        "Somebody is named for every probe. Who is below the threshold is nobody here: return −1.": always,
        "These are decisions by dot products: who has a long embedding wins. Divide by both lengths.": _decided(
            dots, threshold
        ),
        "The gallery is scaled to length 1, the probes are not, so their length moves the threshold.": _decided(
            half, threshold
        ),
        "The probes are scaled to length 1, the gallery is not. A cosine divides by both lengths.": _decided(
            other, threshold
        ),
        "You take the least similar one. Take the largest cosine.": _decided(least, -math.inf),
        "These are decisions by distances. Here the direction counts: take cosines.": _decided(far, -math.inf),
        "The numbers of the people are too large by 1: they begin with 0.": torch.where(right >= 0, right + 1, -1),
        "The decision is turned round: you name whoever is below the threshold.": torch.where(right < 0, always, -1),
        "A probe of nobody gets 0, which is the first person of the gallery. Return −1.": right.clamp_min(0),
        "You name the first person who reaches the threshold. Name the most similar one.": torch.tensor(first),
        "You name the last person who reaches the threshold. Name the most similar one.": torch.tensor(last),
        "Nobody is ever named.": torch.full_like(right, -1),
    }


def _tells(inputs: Tensors) -> bool:
    """Whether each mistake shows, and no score is near the threshold or near the best one."""
    right = _decided(_table(inputs), float(inputs["threshold"]))
    found = [right, *_identify_mistakes(inputs).values()]
    apart = all(not torch.equal(a, b) for k, a in enumerate(found) for b in found[:k])
    best = torch.tensor(_table(inputs)).topk(2).values
    safe = (best[:, 0] - float(inputs["threshold"])).abs().min() > 1e-3 and (best[:, 0] - best[:, 1]).min() > 1e-3
    return bool(apart and safe)


def _identify_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"who": answer(inputs["gallery"], inputs["probes"], float(inputs["threshold"]))}


def _identify_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    right, got = _decided(_table(inputs), float(inputs["threshold"])), outputs["who"].long().cpu()
    if torch.equal(got, right):
        return None
    named = next((words for words, wrong in _identify_mistakes(inputs).items() if torch.equal(got, wrong)), None)
    if named:
        return named
    k = int((got != right).nonzero()[0])
    best = max(_table(inputs)[k])
    return Unnamed(
        f"Probe {k}: its largest cosine is {best:.3f}, the threshold is {float(inputs['threshold']):.3f}, so the "
        f"answer is {int(right[k])}; yours is {int(got[k])}."
    )


def _identify_reference(gallery: Tensor, probes: Tensor, threshold: float) -> Tensor:
    """The most similar enrolled person of each probe, or −1: int64 [probes]."""
    gallery, probes = (x / x.norm(dim=1, keepdim=True) for x in (gallery, probes))
    best = (probes @ gallery.T).max(1)
    return torch.where(best.values >= threshold, best.indices, -1)


identify = Check(
    exercise="15.4",
    title="Who is it, or nobody?",
    inputs={"four enrolled people": _identify_inputs(4), "seven enrolled people": _identify_inputs(7)},
    probe=_identify_probe,
    judge=_identify_judge,
    reference=_identify_reference,
)


# ------------------------------------------------------------------ 15.5 the drift with the size of the gallery


def _fpir_inputs(generator: torch.Generator) -> Tensors:
    return {
        "fmr": torch.cat([uniform(generator, 0.02, 0.06, 3), uniform(generator, 0.2, 0.5, 1)]),
        "size": torch.randint(5, 15, (), generator=generator),
    }


def _one_inputs(generator: torch.Generator) -> Tensors:
    return {"fmr": uniform(generator, 0.05, 0.4, 5), "size": torch.tensor(1)}


def _fpir_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"FPIR": answer(inputs["fmr"], int(inputs["size"]))}


def _fpir_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    p, n = inputs["fmr"], int(inputs["size"])
    nobody = torch.ones_like(p)
    for _ in range(n):  # one enrolled person after the other is not taken for the probe
        nobody = nobody * (1 - p)
    got, right = outputs["FPIR"].double(), 1 - nobody
    if _close(got, right):
        return None
    mistakes = {
        "This is the chance that nobody is named. Asked is that somebody is: 1 minus it.": nobody,
        "These are N · FMR, which is above 1 in a large gallery. It is no chance.": n * p,
        "These are N · FMR, cut off at 1. That counts a probe twice that two people fit.": (n * p).clamp(max=1),
        "This is FMR^N: the chance that all N are named. One is enough.": p**n,
        "This is 1 − FMR^N: the chance that not all N are named. Asked is that one is or more.": 1 - p**n,
        "This is the FMR of one comparison. A probe is compared with N people.": p,
        "This is 1 − exp(−N · FMR), which is near for a small FMR only. Here the exact one is asked.": 1
        - (-n * p).exp(),
        "This is the chance in a gallery of N − 1 people.": 1 - (1 - p) ** (n - 1),
        "This is the chance in a gallery of N + 1 people.": 1 - (1 - p) ** (n + 1),
        "This is the chance that exactly one is named. Two are wrong, too.": n * p * (1 - p) ** (n - 1),
        "These are 1 − N · (1 − FMR). The chances of N people are multiplied, not added.": 1 - n * (1 - p),
    }
    if n == 1:  # most of the mistakes are right there
        mistakes = {words: wrong for words, wrong in mistakes.items() if not _close(wrong, right)}
    return _first(got, mistakes) or Unnamed(
        f"For FMR {float(p[0]):.3f} and {n} people it should be {float(right[0]):.4f}, and is {float(got[0]):.4f}."
    )


fpir = Check(
    exercise="15.5",
    title="False alarms in a gallery",
    inputs={"a small gallery": _fpir_inputs, "a gallery of one": _one_inputs},
    probe=_fpir_probe,
    judge=_fpir_judge,
    reference=drift,
)
