"""Measure what notebook 17 shows of the price of many tasks: accuracy by number of training classes, and by shots.

    python data/make_capstone.py            # train, evaluate, compare with what is stored
    python data/make_capstone.py --write    # and write it

Prototypical networks learn from 5, 20, 80, … training classes of `glyphs`, all for as many steps, and answer new
characters and drawn faces. Beside them stand the two learners that train nothing: nearest neighbour in pixels, and the
submission that the notebook begins with. A few minutes on one core. On another machine networks are not the same to the
bit, so their accuracies move a little.

    data/results/capstone.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from mlcourse import datasets, files, learners, places, training
from mlcourse.datasets import ClassImages, faces
from mlcourse.episodes import EpisodeSampler
from mlcourse.evaluation import Result, compare, evaluate
from mlcourse.lessons.capstone.submission import Edges
from mlcourse.protocols import flop

CLASSES = (5, 20, 80, 320)  # and all
SEEDS = range(3)
PLAN = {"steps": 300, "tasks": 1, "rate": 2e-3}
WAY, QUERY, CHANNELS = 20, 5, 32  # of a training task: at most, and of the network
SHOTS, EPISODES = (1, 5), 400


def some(practice: ClassImages, count: int, seed: int) -> ClassImages:
    """`count` of the training classes, drawn by the seed."""
    return practice.select(torch.randperm(practice.classes, generator=torch.Generator().manual_seed(seed))[:count])


def trained(data: ClassImages, seed: int) -> torch.nn.Module:
    """A prototypical network that has learnt from these classes."""
    learner = learners.build("prototypical", way=5, seed=seed, channels=CHANNELS, scaled=True)
    sampler = EpisodeSampler(data, min(WAY, data.classes), 1, QUERY)
    training.train(learner, sampler, seed=seed, progress=False, **PLAN)
    return learner.eval()


def exams() -> dict[str, EpisodeSampler]:
    """The tasks that all answer: data and shot → sampler."""
    data = {"characters": datasets.load("glyphs", "test"), "drawn faces": faces.load("test").in_shape((1, 28, 28))}
    return {f"{name}, {shot}-shot": EpisodeSampler(one, 5, shot, 5) for name, one in data.items() for shot in SHOTS}


def row(result: Result, *rivals: Result) -> dict[str, Any]:
    """Accuracy and half width, and the paired differences to the rivals, in the order in which they are given."""
    pairs = [compare(result, rival) for rival in rivals]
    return {
        "accuracy": [round(result.value, 5), round(result.ci95, 5)],
        "minus": [[round(one.difference, 5), round(one.ci95, 5)] for one in pairs],
    }


def main(*, keep: bool) -> None:
    torch.set_num_threads(1)
    practice, samplers = datasets.load("glyphs", "train", rotations=False), exams()
    fixed = {"pixels": learners.PixelNeighbours(), "edges": Edges()}
    alone = {
        data: {name: evaluate(one, sampler, episodes=EPISODES) for name, one in fixed.items()}
        for data, sampler in samplers.items()
    }
    runs = []
    for count in (*CLASSES, practice.classes):
        for seed in SEEDS:
            learner = trained(some(practice, count, seed), seed)
            found = {
                data: row(evaluate(learner, sampler, episodes=EPISODES), *alone[data].values())
                for data, sampler in samplers.items()
            }
            runs.append({"classes": count, "seed": seed, **found})
            print(count, seed, {data: one["accuracy"][0] for data, one in found.items()}, flush=True)
    about = {**PLAN, "train_way": WAY, "train_query": QUERY, "shot": 1}
    made = {
        "command": "python data/make_capstone.py --write",
        "what": "5-way tasks of new characters and of drawn faces, accuracy and half width of its 95 % interval over "
        f"{EPISODES} episodes; minus: paired differences to pixels and to edges",
        "recipe": about,
        "FLOP of a training": flop.of_step(learner, about, (1, 28, 28)) * PLAN["steps"],
        "nothing trained": {
            data: {name: row(one) | {"minus": []} for name, one in results.items()} for data, results in alone.items()
        },
        "runs": runs,
    }
    path = places.data() / "results" / "capstone.json"
    same = path.is_file() and files.read_json(path) == json.loads(json.dumps(made))
    print("the same as what is stored" if same else "other than what is stored")
    if keep and not same:
        files.write_json(path, made)


if __name__ == "__main__":
    if set(sys.argv[1:]) - {"--write"}:
        sys.exit(__doc__)
    main(keep="--write" in sys.argv)
