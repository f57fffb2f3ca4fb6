"""Measure face verification on ORL: three ways to train a small network, and eigenfaces with discriminants.

    MLCOURSE_DATA=FOLDER OMP_NUM_THREADS=1 python data/make_faces.py runs/faces            # train, evaluate, tell
    MLCOURSE_DATA=FOLDER OMP_NUM_THREADS=1 python data/make_faces.py runs/faces --write    # and write the results

FOLDER holds `orl_faces`. Five fixed splits (`mlcourse.datasets.people.SPLITS`): 20 people to learn from, 20 others to
test on. Runs that are in `runs/faces` already are not trained again; one that was stopped goes on. Trained again on
another machine the networks are not the same to the bit, so their rates move a little.

    data/results/faces.json    EER, FNMR at FMR 10 % and 1 %, with intervals over people; seconds; what was chosen

No number here was chosen on people who are tested on in the same split: the settings of the networks were chosen by
holding out 5 of the 20 training people of each split; components and shrinkage of the rival likewise, by
cross-validation, for each split anew.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlcourse import files, places, training
from mlcourse.datasets import ClassImages, faces, people
from mlcourse.statistics import paired
from mlcourse.vision import faces as recognition
from mlcourse.vision import verification
from mlcourse.vision.faces import RECIPES
from mlcourse.vision.verification import Curve, Pairs

SEED = 0
DRAWN = "drawn"  # the run on drawn faces
RIVAL = "fisherfaces"
METHODS = ("cosface", "arcface", "prototypes")
DRAWS = 2000


@cache
def everyone() -> ClassImages:
    """ORL, read once."""
    return people.orl()


def trained(method: str, data: ClassImages, out: Path, start: Path | None = None, **more: Any) -> tuple[nn.Module, Any]:
    """A learner of a method, trained on `data` or, where it was, brought back; and its history.

    start: the run whose encoder is taken as a start.
    """
    learner = recognition.build(method, data, seed=SEED)
    if start is not None:
        tensors, _ = files.load_tensors(start / "learner.safetensors")
        encoder = {name.removeprefix("network."): x for name, x in tensors.items() if name.startswith("network.")}
        learner.network.load_state_dict(encoder)
    recipe = replace(RECIPES[method]["short"], **more)
    history = training.train(
        learner,
        recognition.source(learner, data, recipe),
        steps=recipe.steps,
        tasks=recipe.tasks,
        rate=recipe.rate,
        optimizer="adamw",
        seed=SEED,
        out=out,
        resume=True,
        settings={"data": data.name, "content": data.content, "start": str(start and start.name)},
        progress=False,
    )
    return learner, history


def on_drawings(runs: Path) -> tuple[nn.Module, Any]:
    """CosFace on the drawn people of all splits: none of them is a person of ORL."""
    return trained("cosface", faces.load("all"), runs / DRAWN)


def rival(learn: ClassImages) -> tuple[nn.Module, dict[str, Any]]:
    """Fisherfaces, chosen on the training people, and how long that took."""
    started = time.process_time()
    network, chosen = recognition.tuned_fisherfaces(learn)
    return network, chosen | {"cpu_seconds": round(time.process_time() - started, 1)}


def of_network(method: str, start: Path | None, learn: ClassImages, out: Path) -> tuple[nn.Module, dict[str, Any]]:
    learner, history = trained(method, learn, out, start)
    return learner, {"seconds": round(history.seconds, 1)}


def systems(runs: Path) -> dict[str, Callable[[ClassImages, Path], tuple[nn.Module, dict[str, Any]]]]:
    """Name → what makes a model of the people of a split to learn from."""
    made: dict[str, Any] = {
        "pixels": lambda learn, out: (recognition.pixels(learn), {}),
        RIVAL: lambda learn, out: rival(learn),
    }
    for method in METHODS:
        made[method] = partial(of_network, method, None)
    made["drawn only"] = lambda learn, out: (on_drawings(runs)[0], {})
    made["drawn, then cosface"] = partial(of_network, "cosface", runs / DRAWN)
    return made


def told(splits: list[Pairs], rivals: list[Pairs]) -> dict[str, Any]:
    """The rates of a system over all splits, with intervals over people, and how far it is from the rival's."""
    statistics = {"eer": Curve.eer} | {f"fnmr at fmr {fmr:g}": partial(Curve.fnmr_at, fmr=fmr) for fmr in (0.1, 0.01)}
    found: dict[str, Any] = {}
    for name, statistic in statistics.items():
        mean = verification.mean_over_people(splits, statistic, draws=DRAWS)
        found[name] = {
            "mean": mean.value,
            "ci95 over people": [mean.lower, mean.upper],
            "by split": [statistic(one.curve()).item() for one in splits],
        }
        if splits is not rivals:
            difference = verification.difference_over_people(splits, rivals, statistic, draws=DRAWS)
            theirs = [statistic(one.curve()).item() for one in rivals]
            over_splits = paired(found[name]["by split"], theirs, few=True)
            found[name][f"minus {RIVAL}"] = {
                "mean": difference.value,
                "ci95 over people": [difference.lower, difference.upper],
                "ci95 over splits": [over_splits.lower, over_splits.upper],
            }
    return found


def main(runs: Path, write: bool) -> None:
    torch.set_num_threads(1)
    pairs: dict[str, list[Pairs]] = {}
    about: dict[str, list[dict[str, Any]]] = {}
    drawn = on_drawings(runs)[1]
    for name, make in systems(runs).items():
        for number in range(len(people.SPLITS)):
            learn, test = people.divided(everyone(), number)
            model, more = make(learn, runs / f"{name.replace(', ', '-').replace(' ', '-')}-{number}")
            pairs.setdefault(name, []).append(recognition.pairs_of(model, test))
            of_threshold = recognition.verify(model, test, others=learn, draws=2).as_json()["threshold_of_others"]
            about.setdefault(name, []).append(more | {"threshold of the training people": of_threshold})
            print(f"{name} split {number}: EER {pairs[name][-1].curve().eer().item():.2%} {more}", flush=True)
    result = {
        "command": "python data/make_faces.py runs/faces --write",
        "data": {"name": "ORL", "content": everyone().content, "size": list(people.SIZE), "splits": people.SPLITS},
        "seed": SEED,
        "bootstrap draws": DRAWS,
        "recipes": {method: vars(RECIPES[method]["short"]) for method in METHODS},
        "drawn faces": {"people": sum(faces.PEOPLE.values()), "seconds": round(drawn.seconds, 1)},
        "systems": {name: told(some, pairs[RIVAL]) | {"of each split": about[name]} for name, some in pairs.items()},
    }
    if write:
        files.write_json(places.repository() / "data" / "results" / "faces.json", result)
    print(json.dumps({name: one["eer"] for name, one in result["systems"].items()}, indent=1))


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), "--write" in sys.argv)
