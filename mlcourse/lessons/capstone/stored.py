"""What the course measured and stored (`data/results`), as notebook 17 shows it: rows with their source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mlcourse import files, places, statistics
from mlcourse.errors import CourseError
from mlcourse.learners import METHODS

# what a table calls the methods of the stored runs
TITLES = {
    "pixels": "nearest neighbour in pixels",
    "edges": "the 20 lines of this notebook (edges)",
    "untrained-prototypical": "untrained network",
    "prototypical": "prototypical network",
    "cosine-prototypical": "prototypes by cosines",
    "matching": "matching network",
    "relation": "relation network",
    "r2d2": "ridge head (R2-D2)",
    "anil": "ANIL",
    "maml": "MAML",
    "fine-tune": "fine-tuning from random weights",
    "matched-boxes": "boxes by colour, compared by a trained encoder",
    "correlation": "a detector that compares at every place",
    "fine-tuning": "a detector that is fine-tuned",
    "pixel-boxes": "boxes by colour, compared by pixels",
    "colour-groups": "regions by colour, compared by a trained encoder",
    "untrained-colour-groups": "regions by colour, untrained encoder",
    "template-matching": "template matching",
    "frozen": "a frozen pre-trained backbone",
    "frozen simpleshot": "frozen backbone, nearest mean",
    "frozen rfs": "frozen backbone, logistic regression",
    "frozen pretrained-ridge": "frozen backbone, ridge regression",
    "frozen incontext": "frozen backbone, in-context learner",
    "trained": "a small network, trained from scratch",
    "random": "the backbone with random weights",
    "fine-tuned layers": "two layers on it, the last fine-tuned",
    "logistic": "logistic regression on the backbone",
    "cosface": "margin loss (CosFace)",
    "three cosface": "three networks with a margin loss",
    "prototypes": "prototypical network",
    "fisherfaces": "fisherfaces (closed form)",
}


def title(method: str) -> str:
    """What a table calls a method: by `TITLES`, else as the course names it, else by its own name."""
    return TITLES.get(method) or (METHODS[method].title if method in METHODS else method)


@dataclass(frozen=True)
class Measured:
    """One row: what was measured of a method. Shares lie in [0, 1]; better: +1 where more is better, −1 where less is.

    ci: the half width of its 95 % interval, or None; source: the file. per_task, per_seed: the value of each task, and
    of each training, where they are kept.
    """

    method: str
    value: float
    ci: float | None
    what: str
    source: str
    better: int = 1
    per_task: torch.Tensor | None = field(default=None, repr=False, compare=False)
    per_seed: torch.Tensor | None = field(default=None, repr=False, compare=False)

    def tied(self, other: Measured) -> bool:
        """Whether the other cannot be told from this better one: paired where the tasks are kept, else by overlap.

        Where both were trained several times, other tasks and other trainings must both tell them apart.
        """
        if self.per_task is not None and other.per_task is not None:
            over = [statistics.paired(self.per_task, other.per_task)]
            if self.per_seed is not None and other.per_seed is not None:
                over.append(statistics.paired(self.per_seed, other.per_seed))
            return not all(one.lower > 0 for one in over)
        return self.better * (self.value - other.value) <= (self.ci or 0) + (other.ci or 0)

    def __str__(self) -> str:
        half = "" if self.ci is None else f" ± {100 * self.ci:.1f}"
        return f"{title(self.method)}: {100 * self.value:.1f}{half} %"


@cache
def read(*place: str) -> Any:
    """A file of data/results. Raises CourseError where it is missing or damaged."""
    return files.read_json(places.data().joinpath("results", *place))


# ------------------------------------------------------------------ rows by question


@cache
def logs() -> dict[str, torch.Tensor]:
    """Of each method on the protocol glyphs-5way-1shot the share of right answers in each of the same 1,000 tasks."""
    found = {}
    for path in _log_files():
        kept = files.read_json(path)
        found[kept["method"]] = torch.tensor(kept["right"], dtype=torch.float64) / kept["queries"]
    if not found:
        raise CourseError("data/results/glyphs-5way-1shot is empty; take it from the repository")
    return found


def _log_files() -> list[Path]:
    return sorted(places.data().joinpath("results", "glyphs-5way-1shot").glob("*.json"))


def long_training() -> list[Measured]:
    """Characters of unseen scripts, after the recipe `short` (minutes of two cores)."""
    what, source = "new characters, 5-way 1-shot, trained by the recipe short", "glyphs-5way-1shot/"
    return [
        Measured(name, *statistics.mean_interval(right), what, source, per_task=right) for name, right in logs().items()
    ]


def shifted(protocol: str, what: str) -> list[Measured]:
    """Methods that learned from characters for half a minute, on the tasks of a protocol."""
    rows = read("honest", "shift.json")["protocols"][protocol]["methods"]
    found = []
    for name, row in rows.items():
        right = torch.tensor(row["right"], dtype=torch.float64) / row["queries"]  # [trainings, tasks]
        kept = {"per_task": right.mean(0), "per_seed": right.mean(1) if len(right) > 1 else None}
        found.append(Measured(name, *statistics.mean_interval(right.mean(0)), what, "honest/shift.json", **kept))
    return found


def taught_by_photos(shots: int) -> list[Measured]:
    """Photos of unseen classes, 1 or 5 of each: what was trained on photos of other classes, and what was not."""
    folder, what = f"caltech101-5way-{shots}shot", f"new classes of photos (Caltech-101), 5-way {shots}-shot"
    rows = []
    for path in sorted(places.data().joinpath("results", folder).glob("*.json")):
        kept = files.read_json(path)
        if kept["trained_on"] in (None, "caltech101"):
            right = torch.tensor(kept["right"], dtype=torch.float64) / kept["queries"]
            rows.append(Measured(kept["method"], *statistics.mean_interval(right), what, f"{folder}/", per_task=right))
    if not rows:
        raise CourseError(f"data/results/{folder} is empty; take it from the repository")
    return rows


def lead_of_photos(rows: Sequence[Measured]) -> str:
    """How far the best of these rows is above pixels, paired, in a sentence."""
    best, pixels = max(rows, key=lambda row: row.value), next(row for row in rows if row.method == "pixels")
    lead = statistics.paired(best.per_task, pixels.per_task)
    if lead.lower <= 0:
        return "Training on photos of other classes did not lead beyond pixels."
    return f"Photos of other classes teach: {100 * lead.difference:.1f} points above pixels, on the same tasks."


def segments(photos: bool) -> list[Measured]:
    """IoU of one-shot segmentation: scenes of 32 characters, or photos."""
    kind = "foreground, per image"
    if photos:
        found = read("segmentation_photos.json")
        folds = [found[name]["iou"] for name in found if name.startswith("fold ")]
        rows = {name: [fold[name][kind][0] for fold in folds] for name in ("frozen", "trained", "random")}
        what = f"IoU on photos (MSRC), mean of {len(folds)} folds of unseen classes"
        return [Measured(n, sum(v) / len(v), None, what, "segmentation_photos.json") for n, v in rows.items()]
    found = read("segmentation.json")["recipes"]["published"]["32"]["learners"]
    what = "IoU in scenes of 32 characters, each in its colour"
    names = ("colour-groups", "untrained-colour-groups", "template-matching")
    return [Measured(name, *found[name]["IoU"][kind], what, "segmentation.json") for name in names]


def seen_before() -> str:
    """What the pre-trained backbone has seen of the photos' classes, in a sentence."""
    note = read("segmentation_photos.json")["note"]
    return f"It was {note}."


def names_photos() -> list[Measured]:
    """Photos of unseen classes, one of each: heads on a frozen pre-trained backbone, and what was trained here."""
    told = read("backbone.json")["places"]["Caltech-101, 20 test classes"]["methods"]
    names = {one: f"frozen {one}" for one in ("simpleshot", "rfs", "pretrained-ridge")}
    names["incontext on features"] = "frozen incontext"
    what = "new classes of photos (Caltech-101), 5-way 1-shot"
    return [
        Measured(names.get(one, one), row["accuracy"], row["ci95 over episodes"], what, "backbone.json")
        for one, row in told.items()
    ]


def photos_seen_before() -> str:
    """How many of those photos' classes the backbone met in its pre-training, and what that is worth, in a sentence."""
    groups = read("backbone.json")["seen"]["groups"]
    rest = groups["not seen"]["in tasks of these classes alone"]
    met = groups["seen"]["in tasks of these classes alone"]
    return (
        f"Of all 101 classes {groups['seen']['classes']} were in its pre-training: {100 * met['accuracy']:.1f} % in "
        f"tasks of these, {100 * rest['accuracy']:.1f} % in tasks of the others."
    )


def far_from_photos() -> str:
    """What such a backbone does on characters, in a sentence made from the paired result."""
    told = read("backbone.json")["places"]["glyphs, characters"]["sentences"]
    return next(one for one in told if "prototypical" in one)


def detects() -> list[Measured]:
    """AP50 of one-shot detection: scenes of 17 characters, in half of them the target; the drawing is another one."""
    found = read("detection.json")["pictures"]["other"]
    rows = {name: found[name]["AP50"] for name in ("matched-boxes", "correlation", "fine-tuning", "pixel-boxes")}
    what = "AP50 in scenes of 17 characters, in half of them without the target"
    return [Measured(n, v, (high - low) / 2, what, "detection.json") for n, (v, low, high) in rows.items()]


BOXES = {"frozen": "frozen", "random": "random", "fine-tuned layers": "fine-tuning", "logistic": "logistic"}


def detects_in_photos(examples: int) -> list[Measured]:
    """AP50 of new ranks of playing cards, so many examples of each (1, 3 or 10); all answer on the same boxes."""
    found = read("detection_photos.json")["systems"]
    what = f"AP50, new ranks of cards in photos, {examples}-shot"
    rows = {name: found[one][f"{examples} shots"]["new"]["AP50"] for name, one in BOXES.items()}
    return [Measured(n, v, (high - low) / 2, what, "detection_photos.json") for n, (v, low, high) in rows.items()]


def lead_on_boxes(examples: int) -> str:
    """Whether the frozen backbone is above each other of these rows, paired, in a sentence."""
    found = read("detection_photos.json")["systems"]
    kept = {name: found[one][f"{examples} shots"]["new"].get("frozen minus this") for name, one in BOXES.items()}
    held = [title(name) for name, pair in kept.items() if pair and pair[1] <= 0]
    if held:
        return f"Paired, it cannot be told from {', nor from '.join(held)}."
    return "Paired, it lies above each other row."


def boxes_need_a_head() -> str:
    """What finding boxes in photos with a pre-trained network needs, and what it then gives, in a sentence."""
    first = detects_in_photos(1)[0]
    return (
        "In photos a head must first learn the boxes of other classes of such things. Choose such classes and a minute "
        f"of training to see it ({first}, {first.what}; data/results/{first.source})."
    )


def boxes_in_photos() -> str:
    """What those photos are, and what the backbone and the head of the boxes have seen of them, in a sentence."""
    note = read("detection_photos.json")["note"].removeprefix("frozen: ")
    return f"It was {note}. A head learned the boxes from four other ranks, and all rows have these boxes."


def recognises() -> list[Measured]:
    """Equal error rates on photos of faces (ORL): less is better."""
    found = read("faces.json")["systems"]
    what = "equal error rate on ORL, five splits of people (less is better)"
    rows = {name: found[name]["eer"] for name in ("three cosface", "cosface", "prototypes", "fisherfaces", "pixels")}
    ends = {name: row["ci95 over people"] for name, row in rows.items()}
    return [
        Measured(name, row["mean"], (ends[name][1] - ends[name][0]) / 2, what, "faces.json", better=-1)
        for name, row in rows.items()
    ]


# ------------------------------------------------------------------ the road ahead


@dataclass(frozen=True)
class Curve:
    """Accuracy by number of training classes: mean over seeds, and the lowest and highest seed."""

    classes: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def by_classes(exam: str) -> Curve:
    """The network's accuracy in an exam ("characters, 1-shot") by the number of classes that it learnt from."""
    runs = read("capstone.json")["runs"]
    counts = sorted({run["classes"] for run in runs})
    values = [[run[exam]["accuracy"][0] for run in runs if run["classes"] == count] for count in counts]
    return Curve(counts, [sum(v) / len(v) for v in values], [min(v) for v in values], [max(v) for v in values])


def untrained(exam: str) -> dict[str, float]:
    """The accuracies of the two that learn nothing, in the same exam."""
    return {name: row["accuracy"][0] for name, row in read("capstone.json")["nothing trained"][exam].items()}


def pays_from(exam: str) -> int | None:
    """The least number of training classes from which on each seed is above the edges, paired; None: never."""
    runs = read("capstone.json")["runs"]
    counts = sorted({run["classes"] for run in runs})
    leads = {count: [run[exam]["minus"][1] for run in runs if run["classes"] == count] for count in counts}
    above = {count: all(lead > half for lead, half in some) for count, some in leads.items()}
    surely = [count for k, count in enumerate(counts) if all(above[one] for one in counts[k:])]
    return surely[0] if surely else None


def classes_and_gain() -> list[str]:
    """What the price of many tasks was, in three sentences made from the figures."""
    curve = by_classes("characters, 1-shot")
    first = pays_from("characters, 1-shot")
    if first is None or first == curve.classes[0]:
        border = f"New characters: {'no' if first is None else 'every'} number that was tried beats the edges."
    else:
        before = curve.classes[curve.classes.index(first) - 1]
        border = f"New characters: {before} classes do not beat the edges, {first} do. Between them nothing was tried."
    best = max(range(len(curve.classes)), key=curve.mean.__getitem__)
    rest = curve.classes[best + 1 :]
    more = f"More classes help up to {curve.classes[best]}."
    more = f"{more[:-1]}; {' and '.join(map(str, rest))} gave no more." if rest else more
    on_faces = pays_from("drawn faces, 1-shot")
    faces = "no number that was tried beats the edges" if on_faces is None else f"{on_faces} or more beat the edges"
    return [border, more, f"Drawn faces: {faces}."]


def step_times() -> dict[str, dict[str, float]]:
    """Seconds of one second-order MAML step: workload → way of computing it → median, with the allocator tuned."""
    found = read("bench_maml.json")["workloads"]
    return {
        name: {way: median(row["tuned allocator"]["seconds"]) for way, row in one["ways"].items()}
        for name, one in found.items()
    }


def growth(what: str) -> dict[str, list[tuple[int, float, float]]]:
    """Way of computing → (number, seconds, megabytes kept for the backward pass), by "tasks" or by inner "steps"."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for row in read("bench_maml.json")["growth"]:
        if what in row:
            found.setdefault(row["way"], []).append((row[what], row["seconds"], row["saved_bytes"] / 1e6))
    return found


def means_and_worst() -> list[tuple[str, float, float, float, float]]:
    """Of each method on the stored tasks, the best mean first.

    Its title, mean accuracy, half width over tasks, mean of the worst tenth of the tasks, and what that mean would be
    if all tasks were equally hard.
    """
    rows = []
    for name, right in logs().items():
        worst = right.sort().values[: len(right) // 10].mean().item()
        mean, half = statistics.mean_interval(right)
        rows.append((title(name), mean, half, worst, worst_by_chance(mean, queries())))
    return sorted(rows, key=lambda row: -row[1])


def queries() -> int:
    """How many queries each of the stored tasks has. Raises CourseError where the methods have different numbers."""
    found = {files.read_json(path)["queries"] for path in _log_files()}
    if len(found) != 1:
        raise CourseError("the methods of data/results/glyphs-5way-1shot were asked different numbers of queries")
    return found.pop()


def worst_by_chance(share: float, queries: int) -> float:
    """The mean share of right answers in the worst tenth of many tasks that are all equally hard.

    Each answer is right with probability `share`, so the number of right ones of a task is binomial.
    """
    left, total = 0.1, 0.0
    for right in range(queries + 1):
        weight = min(left, math.comb(queries, right) * share**right * (1 - share) ** (queries - right))
        left, total = left - weight, total + weight * right / queries
    return total / 0.1
