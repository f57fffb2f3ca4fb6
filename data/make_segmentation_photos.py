"""Measure one-shot segmentation of photos: a frozen network with prototypes, against what should be beaten.

    pip install 'mlcourse[photos]'
    MLCOURSE_DATA=FOLDER python data/make_segmentation_photos.py runs/photos            # measure, compare with stored
    MLCOURSE_DATA=FOLDER python data/make_segmentation_photos.py runs/photos --write    # and write it

FOLDER holds a local copy of MSRC v2. Four folds of classes; the classes of a fold are unseen: in training their pixels
are void. Per fold the same 1,000 tasks (one support photo with its mask, one query photo) for

    frozen      EfficientNet-Lite0, pre-trained on ImageNet with labels, frozen; masked-average prototypes on its map of
                stride 16. Which map was chosen on the training classes of folds 0 and 1.
    trained     prototypes on a small network that is trained from scratch on the training classes of the fold; a short
                training (TRAINING: about 15 seconds of one core), so it says what that buys and no more
    random      the frozen network's architecture with random weights, and batch statistics of these photos
    everything  each pixel is the class
    prior       the constant mask that is best on the training classes

`trained` and `prior` see the photos of the test, too, with void where an unseen class stands: that favours them. About
a quarter of an hour on one core; a network that lies in `runs/photos` already is not trained again.

    data/results/segmentation_photos.json
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlcourse import evaluation, files, learners, places, statistics, training
from mlcourse.datasets import label_maps
from mlcourse.evaluation import Result
from mlcourse.networks import pretrained
from mlcourse.vision import frozen
from mlcourse.vision.photos import PhotoTasks
from mlcourse.vision.segmentation import DEFINITIONS

DATA, FOLDS, EPISODES, SEED = label_maps.MSRC, range(4), 1000, 0
STRIDES = (16,)
TRAINING = {"steps": 300, "tasks": 4, "rate": 2e-3, "seed": 0}
LOSS = "cross-entropy, the mean over pixels that are not void, plus 1 - soft Dice"
PRIOR_TASKS, CALIBRATION = 200, 64  # tasks that the prior is learned from; photos that give the batch statistics
RIVALS = ("trained", "random", "everything", "prior")
BOOTSTRAP = 500  # draws


def features(whole: label_maps.LabelMaps, network: pretrained.Backbone) -> Tensor:
    """The map of every photo that the prototypes take, from the cache where it lies there."""
    return frozen.joined(pretrained.features(network, whole.images, STRIDES))


def random_network(whole: label_maps.LabelMaps) -> pretrained.Backbone:
    """The same architecture, untrained, with the batch statistics of some of the photos."""
    some = whole.images[:: len(whole.images) // CALIBRATION][:CALIBRATION].float() / 255
    return pretrained.calibrate(pretrained.backbone(pretrained=False, seed=SEED), some)


def trained(fold: int, maps: label_maps.LabelMaps, runs: Path) -> tuple[nn.Module, float]:
    """The small network of a fold, and the seconds of one core that its training took."""
    place = runs / f"fold{fold}"
    if not (place / "config.json").is_file() or not files.read_json(place / "config.json").get("finished"):
        torch.manual_seed(TRAINING["seed"])
        began = time.process_time()
        learner = frozen.TrainedPrototypes()
        training.train(learner, PhotoTasks(maps), out=place, progress=False, resume=False, **TRAINING)
        files.write_json(place / "seconds.json", {"seconds": time.process_time() - began})
    learner, _ = learners.load_run(place)
    return learner, files.read_json(place / "seconds.json")["seconds"]


def measured(learner: nn.Module, source: PhotoTasks) -> tuple[Result, Tensor]:
    """A learner's result on the tasks of a fold, and the class of each."""
    classes: list[Tensor] = []
    result = evaluation.evaluate(
        learner, source, episodes=EPISODES, seed=SEED, watch=lambda _, batch: classes.append(batch.classes.flatten())
    )
    return result, torch.cat(classes)


def photos_of(source: PhotoTasks) -> Tensor:
    """Which photo is the query of each task: int64 [episodes]. Drawn as `evaluate` draws."""
    generator = torch.Generator().manual_seed(SEED)
    blocks = [evaluation.BLOCK] * (EPISODES // evaluation.BLOCK)
    return torch.cat([source.sample(size, generator).query_index.flatten() for size in blocks])


def both(scores: dict[str, Tensor]) -> Tensor:
    """The mean of foreground and background IoU, per task (one query each)."""
    return (scores["foreground IoU"] + scores["background IoU"]) / 2


PER_IMAGE = {"foreground": lambda scores: scores["foreground IoU"], "foreground and background": both}


def told(scores: dict[str, Tensor], classes: Tensor) -> dict[str, Any]:
    """All definitions of one learner's IoU, each [value, half-width of the 95 % interval over tasks]."""
    made: dict[str, Any] = {one.name: [round(x, 4) for x in one.of(scores)] for one in DEFINITIONS}
    numbers = classes.unique().tolist()
    tops, bottoms = ([scores[name][classes == one].sum() for one in numbers] for name in ("intersection", "union"))
    made["foreground, pooled by class, mean over classes"] = round(
        float(torch.stack([a / b for a, b in zip(tops, bottoms)]).mean()), 4
    )
    return made


def differences(ours: dict[str, Tensor], theirs: dict[str, Tensor], photos: Tensor) -> dict[str, Any]:
    """Ours − theirs, per image, by both definitions: over tasks (paired), and over the photos that were asked about."""
    found = {}
    for name, of in PER_IMAGE.items():
        pair = statistics.paired(of(ours), of(theirs))
        _, low, high = statistics.cluster_bootstrap_interval(of(ours) - of(theirs), photos, draws=BOOTSTRAP)
        found[name] = {
            "difference": round(pair.difference, 4),
            "over tasks": [round(pair.lower, 4), round(pair.upper, 4)],
            "over photos": [round(low, 4), round(high, 4)],
        }
    return found


def fold_of(fold: int, maps: dict[str, Tensor], runs: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is told of a fold, and what the mean over folds needs of it."""
    train, test = (label_maps.load(DATA, fold, part) for part in ("train", "test"))
    pixels = PhotoTasks(test)
    scratch, seconds = trained(fold, train, runs)
    prior_tasks = PhotoTasks(train).sample(PRIOR_TASKS, torch.Generator().manual_seed(1))
    size = test.images.shape[-1]
    asked = {
        name: (frozen.MapPrototypes(), PhotoTasks(test, features=maps[name])) for name in maps
    } | {
        "trained": (scratch, pixels),
        "everything": (frozen.ConstantMask(size), pixels),
        "prior": (frozen.ConstantMask(size).fit(prior_tasks), pixels),
    }  # fmt: skip
    scores, digests, classes = {}, set(), torch.empty(0)
    for name, (learner, source) in asked.items():
        result, classes = measured(learner, source)
        scores[name], digests = result.scores, digests | {result.digest}
    (digest,) = digests  # all of them had the same tasks
    photos = photos_of(pixels)
    about = {
        "unseen classes": list(test.names.values()),
        "of these in ImageNet": test.seen_in_imagenet(),
        "digest": digest,
        "photos that were asked about": len(photos.unique()),
        "seconds of training from scratch": round(seconds),
        "pixels of the prior": round(float((asked["prior"][0].mask > 0).float().mean()), 3),
        "iou": {name: told(scores[name], classes) for name in ("frozen", *RIVALS)},
        "frozen minus": {name: differences(scores["frozen"], scores[name], photos) for name in RIVALS},
    }
    return about, {"scores": scores, "photos": photos, "classes": classes + 100 * fold}


def mean_of(folds: list[dict[str, Any]]) -> dict[str, Any]:
    """The same over all folds together: each has as many tasks."""
    names = ("frozen", *RIVALS)
    scores = {
        name: {key: torch.cat([one["scores"][name][key] for one in folds]) for key in folds[0]["scores"][name]}
        for name in names
    }
    photos, classes = (torch.cat([one[key] for one in folds]) for key in ("photos", "classes"))
    return {
        "iou": {name: told(scores[name], classes) for name in names},
        "frozen minus": {name: differences(scores["frozen"], scores[name], photos) for name in RIVALS},
    }


def measure(runs: Path) -> dict[str, Any]:
    """All that the file holds."""
    whole = label_maps.load(DATA)
    seen = whole.seen_in_imagenet()
    maps = {"frozen": features(whole, pretrained.backbone()), "random": features(whole, random_network(whole))}
    found, kept = {}, []
    for fold in FOLDS:
        found[f"fold {fold}"], more = fold_of(fold, maps, runs)
        kept.append(more)
        print("fold", fold, json.dumps(found[f"fold {fold}"]["frozen minus"]), flush=True)
    return {
        "command": "MLCOURSE_DATA=FOLDER python data/make_segmentation_photos.py runs/photos --write",
        "note": f"pre-trained on ImageNet with labels; {len(seen)} of these {len(whole.names)} classes were in it",
        "data": f"{whole.name}, {len(whole.files)} photos, {whole.images.shape[-1]} × {whole.images.shape[-1]}",
        "tasks per fold": EPISODES,
        "seed": SEED,
        "strides": list(STRIDES),
        "weights": pretrained.SHA256,
        "training from scratch": TRAINING,
        "loss of that training": LOSS,
        **found,
        "all folds": mean_of(kept),
    }


def main(runs: Path, *, keep: bool) -> None:
    torch.set_num_threads(1)
    made = measure(runs)
    path = places.data() / "results" / "segmentation_photos.json"
    same = path.is_file() and files.read_json(path) == json.loads(json.dumps(made))
    print(path.name, "is the same" if same else "differs from what is stored")
    print(json.dumps(made["all folds"], indent=1))
    if keep and not same:
        files.write_json(path, made)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), keep="--write" in sys.argv)
