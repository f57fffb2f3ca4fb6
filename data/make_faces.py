"""Measure face verification on ORL: three ways to train a small network, and eigenfaces with discriminants.

    export MLCOURSE_DATA=FOLDER OMP_NUM_THREADS=1
    python data/make_faces.py runs/faces                    # train, evaluate, tell
    python data/make_faces.py runs/faces --write            # and write the results
    python data/make_faces.py runs/faces cosface arcface    # only these; --write: their rows, and the others stay
    python data/make_faces.py runs/faces --choose           # choose networks to join, on training people only

FOLDER holds `orl_faces`. Five fixed splits (`mlcourse.datasets.people.SPLITS`): 20 people to learn from, 20 others to
test on. Runs that are in `runs/faces` already are not trained again; one that was stopped goes on. Trained again on
another machine the networks are not the same to the bit, so their rates move a little.

    data/results/faces.json    EER, FNMR at FMR 10 % and 1 %, with intervals over people; seconds; what was chosen

Settings of the networks, and that their last layer is left off (`Trunk`), were chosen on training people: on 6 of the
20 of three splits, by networks that learned from the other 14. Components and shrinkage of the rival were chosen by
cross-validation over the training people, for each split anew. Which networks are joined was settled when the rates of
the single ones were known, so the joined rates are a little too good; and a person who is tested on in one split is
learned from in another.

`--choose` chooses them honestly, as the settings were: networks that learned from 14 of the 20 training people of three
splits are compared on the other 6. The best one is taken, then the one that helps it most, until none helps. The choice
is kept in `runs/faces/chosen.json`; from then on it is a system of its own, "chosen networks". "every network"
joins all nine that were trained on photos, so nothing is chosen among them. "no margin" is CosFace with the margin 0, a
plain softmax of cosines.
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
from torch import Tensor, nn

from mlcourse import files, learners, places, training
from mlcourse.datasets import ClassImages, faces, people
from mlcourse.learners import Learner
from mlcourse.statistics import NoInterval, paired
from mlcourse.vision import faces as recognition
from mlcourse.vision import verification
from mlcourse.vision.faces import FMRS, RECIPES
from mlcourse.vision.verification import Curve, Pairs

SEED, MORE_SEEDS = 0, (1, 2)
EDGES = 8  # directions
DRAWN = "on-drawings"  # the run on drawn faces
RIVAL = "fisherfaces"
CHOICE, CHOSEN, EVERY = "chosen.json", "chosen networks", "every network"
TRAINED = (  # on photos, each in the same way for all splits: these are all that there are
    "cosface",
    "cosface seed 1",
    "cosface seed 2",
    "no margin",
    "arcface",
    "prototypes",
    "drawn-cosface",
    "edges",
    "drawn-edges",
)
CHOOSING, HELD = (0, 1, 2), 6  # splits, and how many of their 20 people to learn from are held out
Maker = Callable[[ClassImages, Path], tuple[nn.Module, dict[str, Any]]]

METHODS = ("cosface", "arcface", "prototypes")
DRAWS = 500
CPU = "cpu.json"  # how many seconds of one core a run took
NOTE = "which networks are joined was settled when the rates of the single ones were known"
SIZE = (24, 20)  # of the pictures: on training people better than 48×40, and four times as fast


@cache
def everyone() -> ClassImages:
    """ORL, read once."""
    return people.orl(size=SIZE)


def trained(
    method: str,
    data: ClassImages,
    out: Path,
    start: Path | None = None,
    seed: int = SEED,
    directions: int = 0,
    steps: int | None = None,
    margin: float | None = None,
) -> tuple[nn.Module, float]:
    """A learner of a method, trained on `data` or, where it was, brought back; and the seconds of one core it took.

    start: the run whose encoder is taken as a start. margin: None: the method's own.
    """
    done = (out / "config.json").is_file() and files.read_json(out / "config.json").get("finished")
    if done:
        return learners.load(out), files.read_json(out / CPU)["seconds"]
    network, more = {"directions": directions} if directions else None, {} if margin is None else {"margin": margin}
    learner = recognition.build(method, data, seed=seed, network=network, **more)
    if start is not None:
        tensors, _ = files.load_tensors(start / "learner.safetensors")
        encoder = {name.removeprefix("network."): x for name, x in tensors.items() if name.startswith("network.")}
        learner.network.load_state_dict(encoder)
    recipe = RECIPES[method]["short"]
    recipe = recipe if steps is None else replace(recipe, steps=steps)
    before = files.read_json(out / CPU)["seconds"] if (out / CPU).is_file() else 0.0
    started = time.process_time()
    training.train(
        learner,
        recognition.source(learner, data, recipe),
        steps=recipe.steps,
        tasks=recipe.tasks,
        rate=recipe.rate,
        optimizer="adamw",
        seed=seed,
        out=out,
        resume=True,
        settings={"data": data.name, "content": data.content, "start": str(start and start.name)},
        progress=False,
    )
    seconds = round(before + time.process_time() - started, 1)
    files.write_json(out / CPU, {"seconds": seconds})
    return learner, seconds


def on_drawings(runs: Path) -> tuple[nn.Module, float]:
    """CosFace on the drawn people of all splits: none of them is a person of ORL."""
    return trained("cosface", faces.load("all", size=SIZE), runs / DRAWN)


def rival(learn: ClassImages) -> tuple[nn.Module, dict[str, Any]]:
    """Fisherfaces, chosen on the training people, and how long that took."""
    started = time.process_time()
    network, chosen = recognition.tuned_fisherfaces(learn)
    return network, chosen | {"cpu_seconds": round(time.process_time() - started, 1)}


def of_network(method: str, start: bool, seed: int, learn: ClassImages, out: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A method on pictures; with `start` from a network that was trained on drawn faces."""
    if start:
        on_drawings(out.parent)
    learner, seconds = trained(method, learn, out, out.parent / DRAWN if start else None, seed)
    return learner, {"cpu_seconds": seconds}


def without_margin(learn: ClassImages, out: Path) -> tuple[nn.Module, dict[str, Any]]:
    """CosFace with the margin 0: a plain softmax of cosines, which shows what the margin adds."""
    learner, seconds = trained("cosface", learn, out, margin=0.0)
    return learner, {"cpu_seconds": seconds}


def of_edges(start: bool, learn: ClassImages, out: Path) -> tuple[nn.Module, dict[str, Any]]:
    """CosFace on edges; with `start` from a network that was trained on edges of drawn faces."""
    drawn = out.parent / f"{DRAWN}-edges"
    if start:
        trained("cosface", faces.load("all", size=SIZE), drawn, directions=EDGES, steps=1000)
    steps = 500 if start else 1000
    learner, seconds = trained("cosface", learn, out, drawn if start else None, directions=EDGES, steps=steps)
    return learner, {"cpu_seconds": seconds}


def joined(makers: list[Maker], names: list[str], learn: ClassImages, out: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The networks of some systems side by side."""
    number = out.name.rsplit("-", 1)[1]
    found = [make(learn, out.parent / f"{folder(name)}-{number}") for make, name in zip(makers, names, strict=True)]
    network = recognition.Joined([recognition.Trunk(learner.network) for learner, _ in found])
    return network, {"cpu_seconds": round(sum(more["cpu_seconds"] for _, more in found), 1)}


def folder(name: str) -> str:
    """What the runs of a system are called."""
    return name.replace(" ", "-")


def systems(runs: Path) -> dict[str, Maker]:
    """Name → what makes a model of the people of a split to learn from. Joined ones come after those that they join."""
    made: dict[str, Maker] = {
        "pixels": lambda learn, out: (recognition.pixels(learn), {}),
        RIVAL: lambda learn, out: rival(learn),
        "drawn": lambda learn, out: (on_drawings(runs)[0], {}),
        "no margin": without_margin,
        "cosface": partial(of_network, "cosface", False, SEED),
        "drawn-cosface": partial(of_network, "cosface", True, SEED),
    }
    for seed in MORE_SEEDS:
        made[f"cosface seed {seed}"] = partial(of_network, "cosface", False, seed)
    made["edges"] = partial(of_edges, False)
    made["drawn-edges"] = partial(of_edges, True)
    three = ["cosface", *(f"cosface seed {seed}" for seed in MORE_SEEDS)]
    for name, names in (("three cosface", three), ("six networks", [*three, "drawn-cosface", "edges", "drawn-edges"])):
        made[name] = partial(joined, [made[one] for one in names], names)
    if (runs / CHOICE).is_file():
        names = files.read_json(runs / CHOICE)["networks"]
        made[CHOSEN] = partial(joined, [made[one] for one in names], names)
    for method in ("arcface", "prototypes"):
        made[method] = partial(of_network, method, False, SEED)
    made[EVERY] = partial(joined, [made[one] for one in TRAINED], list(TRAINED))
    return made


# ------------------------------------------------------------------ which networks are joined


def forward(names: list[str], rate: Callable[[list[str]], float]) -> tuple[list[str], float]:
    """Names taken one by one, each the one that lowers the rate most, until none lowers it; and the rate."""
    kept: list[str] = []
    best = float("inf")
    while left := [name for name in names if name not in kept]:
        rates = {name: rate([*kept, name]) for name in left}
        name = min(rates, key=rates.get)
        if rates[name] >= best:
            break
        kept, best = [*kept, name], rates[name]
    return kept, best


def choose(runs: Path) -> dict[str, Any]:
    """The networks to join, by their mean EER on training people that they did not learn from."""
    single = [name for name in systems(runs) if name.startswith(("cosface", "drawn-cosface", "edges", "drawn-edges"))]
    trunks: dict[tuple[str, int], nn.Module] = {}
    held: dict[int, ClassImages] = {}
    for number in CHOOSING:
        inner, held[number] = held_out(people.divided(everyone(), number)[0], number)
        for name in single:
            model, _ = systems(runs)[name](inner, runs / f"held-{folder(name)}-{number}")
            trunks[name, number] = recognition.Trunk(model.network)

    def rate(names: list[str]) -> float:
        together = {number: recognition.Joined([trunks[name, number] for name in names]) for number in CHOOSING}
        rates = [recognition.pairs_of(together[number], held[number]).curve().eer().item() for number in CHOOSING]
        return sum(rates) / len(rates)

    names, eer = forward(single, rate)
    return {"networks": names, "eer of people held out": eer, "single": {name: rate([name]) for name in single}}


def held_out(learn: ClassImages, number: int) -> tuple[ClassImages, ClassImages]:
    """The people to learn from, without HELD of them; and these."""
    order = torch.randperm(learn.classes, generator=torch.Generator().manual_seed(number))
    return learn.select(order[HELD:].sort().values), learn.select(order[:HELD].sort().values)


STATISTICS = {"eer": Curve.eer} | {f"fnmr at fmr {fmr:g}": partial(Curve.fnmr_at, fmr=fmr) for fmr in FMRS}


def told(pairs: dict[str, list[Pairs]]) -> dict[str, dict[str, Any]]:
    """The rates of each system over all splits, with intervals over people, and how far they are from the rival's."""
    draws = {name: verification.bootstrap(some, [*STATISTICS.values()], draws=DRAWS) for name, some in pairs.items()}
    values = {
        name: torch.tensor([[statistic(one.curve()).item() for one in some] for statistic in STATISTICS.values()])
        for name, some in pairs.items()
    }
    return {name: _told(values[name], draws[name], values[RIVAL], draws[RIVAL], name == RIVAL) for name in pairs}


def _told(values: Tensor, draws: Tensor, theirs: Tensor, their_draws: Tensor, same: bool) -> dict[str, Any]:
    """One system's, from values [statistics, splits] and draws [statistics, splits, draws] of both."""
    found: dict[str, Any] = {}
    for k, statistic in enumerate(STATISTICS):
        mean = values[k].mean().item()
        found[statistic] = {
            "mean": mean,
            "ci95 over people": ends(mean, draws[k].mean(0)),
            "by split": values[k].tolist(),
        }
        if not same:
            away = draws[k].mean(0) - their_draws[k].mean(0)
            value = (values[k] - theirs[k]).mean().item()
            over_splits = paired(values[k], theirs[k])
            found[statistic][f"minus {RIVAL}"] = {
                "mean": value,
                "ci95 over people": ends(value, away, least=-1),
                "ci95 over splits": [over_splits.lower, over_splits.upper],
            }
    return found


def ends(value: float, draws: Tensor, least: float = 0.0) -> list[float] | str:
    """The ends of the interval over people, or the line that says why there is none."""
    try:
        found = verification.interval(value, draws, people.ORL_PEOPLE, least=least)
    except NoInterval as line:
        return str(line)
    return [found.lower, found.upper]


def measured(runs: Path, names: list[str]) -> tuple[dict[str, list[Pairs]], dict[str, list[dict[str, Any]]]]:
    """Of each system and split the pairs of the people to test on, and what is told of it."""
    pairs: dict[str, list[Pairs]] = {}
    about: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        for number in range(len(people.SPLITS)):
            learn, test = people.divided(everyone(), number)
            model, more = systems(runs)[name](learn, runs / f"{folder(name)}-{number}")
            if isinstance(model, Learner):
                last = recognition.pairs_of(model, test).curve().eer().item()
                model, more = recognition.Trunk(model.network), more | {"eer with the last layer": last}
            pairs.setdefault(name, []).append(recognition.pairs_of(model, test))
            crossed = {f"{fmr:g}": verification.on_other_people(pairs[name][-1], fmr) for fmr in FMRS}
            more |= {"fmr and fnmr with a threshold of other people": crossed}
            about.setdefault(name, []).append(more)
            print(f"{name} split {number}: EER {pairs[name][-1].curve().eer().item():.2%}", flush=True)
    return pairs, about


def main(runs: Path, names: list[str], write: bool) -> None:
    torch.set_num_threads(1)
    names = [RIVAL, *names] if write and names and RIVAL not in names else names
    pairs, about = measured(runs, names or list(systems(runs)))
    if names and not write:
        return
    path = places.repository() / "data" / "results" / "faces.json"
    before = files.read_json(path) if names else {}
    rows = {name: rates | {"of each split": about[name]} for name, rates in told(pairs).items()}
    result = {
        "command": "python data/make_faces.py runs/faces --choose; python data/make_faces.py runs/faces --write",
        "data": {"name": "ORL", "content": everyone().content, "size": list(SIZE), "splits": people.SPLITS},
        "note": NOTE,
        "seeds": [SEED, *MORE_SEEDS],
        "bootstrap draws": DRAWS,
        "recipes": {method: vars(RECIPES[method]["short"]) for method in METHODS},
        "drawn faces": {"people": sum(faces.PEOPLE.values()), "cpu_seconds": on_drawings(runs)[1]},
        "systems": before.get("systems", {}) | rows,
    }
    if before:  # an earlier training gave the other rows, and on another machine the networks are a little different
        result["trained later"] = sorted({*before.get("trained later", ()), *(set(names) - {RIVAL})})
    if (runs / CHOICE).is_file():
        result[CHOSEN] = files.read_json(runs / CHOICE)
    if write:
        files.write_json(path, result)
    print(json.dumps({name: one["eer"] for name, one in rows.items()}, indent=1))


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    if "--choose" in sys.argv:
        torch.set_num_threads(1)
        choice = choose(Path(sys.argv[1]))
        files.write_json(Path(sys.argv[1]) / CHOICE, choice)
        print(json.dumps(choice, indent=1))
    else:
        main(Path(sys.argv[1]), [name for name in sys.argv[2:] if name != "--write"], "--write" in sys.argv)
