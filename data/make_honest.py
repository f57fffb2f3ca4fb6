"""Make what notebook 12 compares: six networks, logs of two methods, and results under shift.

    MLCOURSE_DATA=FOLDER python data/make_honest.py runs/honest            # train, evaluate, compare with the stored
    MLCOURSE_DATA=FOLDER python data/make_honest.py runs/honest --write    # and write it

FOLDER holds local copies of Omniglot, Caltech-101 and MNIST's test digits, for the results under shift only. Runs that
are in `runs/honest` already are not trained again. About half an hour on one core. Trained again on another machine the
networks are not the same to the bit, so their accuracies move a little.

    data/checkpoints/prototypical-seed0 … 5    six trainings of one method
    data/results/honest/logs.json              the exam of the notebook, of two methods, six trainings each
    data/results/honest/shift.json             four methods, an untrained network and pixels on four protocols
"""

from __future__ import annotations

import json
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlcourse import datasets, files, learners, places, protocols, training
from mlcourse.episodes import EpisodeSampler
from mlcourse.lessons.honest import contest

CHANNELS = 32
COMPARING = {"steps": 500, "tasks": 1, "rate": 2e-3, "train_way": 30, "train_query": 5}
DESCENDING = {"steps": 300, "tasks": 4, "rate": 3e-3, "train_way": 5, "train_query": 3}
PLANS = {
    "prototypical": (COMPARING, {"scaled": True}),  # else training starts from answers that are sure and wrong
    "cosine-prototypical": (COMPARING, {}),
    "r2d2": (COMPARING, {}),
    "maml": (DESCENDING, {"inner_steps": 1, "evaluation_inner_steps": 3, "normalisation": "support"}),
}
OF_LOGS, OF_SHIFT = range(6), range(3)  # seeds
KEPT = ("learner.safetensors", "config.json")


@cache
def practice() -> datasets.ClassImages:
    """What all train on, read once."""
    return datasets.load("glyphs", "train")


def trained(method: str, seed: int, runs: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The learner of a method and a seed, trained on glyphs, and what its run tells; trained only where it is not."""
    place = runs / f"{method}-seed{seed}"
    if not (place / "config.json").is_file() or not files.read_json(place / "config.json").get("finished"):
        plan, options = PLANS[method]
        learner = learners.build(method, way=5, seed=seed, channels=CHANNELS, **options)
        source = EpisodeSampler(practice(), plan["train_way"], 1, plan["train_query"])
        settings = {"init": "none", "dataset": "glyphs", "protocol": None, "way": 5, "shot": 1}
        settings |= {name: plan[name] for name in ("train_way", "train_query")}
        how = {name: plan[name] for name in ("steps", "tasks", "rate")}
        training.train(learner, source, seed=seed, out=place, settings=settings, progress=False, **how)
        print("trained", place, flush=True)
    return learners.load_run(place)


def untrained(seed: int) -> nn.Module:
    """The network of the prototypes at its random weights."""
    _, options = PLANS["prototypical"]
    return learners.build("prototypical", way=5, seed=seed, channels=CHANNELS, **options).eval()


def logs(runs: Path) -> dict[str, Any]:
    """The exam of the notebook: what each of two methods got right in each episode, with each of six seeds."""
    sampler = contest.exam(datasets.load("glyphs", "test"))
    found: dict[str, list] = {}
    for method in contest.TWO:
        for seed in OF_LOGS:
            log = contest.examine(trained(method, seed, runs)[0], sampler, contest.EPISODES, contest.SEED)
            counted = (log.right / 100 * contest.WAY * contest.QUERY).round().int()
            found.setdefault(method, []).append(counted.tolist())
    groups = tuple(dict.fromkeys(sampler.data.groups))
    return {"digest": log.result.digest, "scripts": groups, "script": log.script.tolist(), "right": found}


def shift(runs: Path) -> dict[str, Any]:
    """What each method gets right on each protocol, with each of three seeds (pixels have none)."""
    found: dict[str, Any] = {}
    for name in contest.PROTOCOLS.values():
        protocol = protocols.read(name)
        methods = {"pixels": on(protocol, "pixels", [learners.build("pixels", way=5)], [{}])}
        random = [untrained(seed) for seed in OF_SHIFT]
        methods["untrained-prototypical"] = on(protocol, "untrained-prototypical", random, [{}] * len(random))
        for method in PLANS:
            there = [trained(method, seed, runs) for seed in OF_SHIFT]
            methods[method] = on(protocol, method, *map(list, zip(*there)))
        found[name] = {"index_digest": protocol.index_digest, "methods": methods}
        print("evaluated on", name, flush=True)
    return {"protocols": found}


def on(protocol: Any, method: str, some: list[nn.Module], about: list[dict[str, Any]]) -> dict[str, Any]:
    """One method on one protocol."""
    results = [
        protocols.evaluate(protocol, learner, name=method, about=told, method=method, convert=method != "pixels")
        for learner, told in zip(some, about)
    ]
    flop = {what: results[0].flop[what] for what in ("training", "episode")}
    return {"queries": results[0].queries, "flop": flop, "right": [list(one.right) for one in results]}


def write(path: Path, content: dict[str, Any]) -> None:
    """A file without blanks, since most of it is counts."""
    files.write_text(path, json.dumps(content, separators=(",", ":")) + "\n")


def main(runs: Path, *, keep: bool) -> None:
    torch.set_num_threads(1)
    made = {"logs.json": logs(runs), "shift.json": shift(runs)}
    results = places.data() / "results" / "honest"
    for name, content in made.items():
        path = results / name
        same = path.is_file() and files.read_json(path) == json.loads(json.dumps(content))
        print(name, "is the same" if same else "differs from what is stored")
        if keep and not same:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, content)
    if keep:
        for seed in OF_LOGS:
            contest.folder(seed).mkdir(exist_ok=True)
            for name in KEPT:
                shutil.copyfile(runs / f"prototypical-seed{seed}" / name, contest.folder(seed) / name)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), keep="--write" in sys.argv)
