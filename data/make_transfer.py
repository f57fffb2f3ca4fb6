"""Measure transfer against meta-training at equal counted FLOP, distillation, and ten learnt pictures.

    python data/make_transfer.py                     # measure, and say what differs from what is stored
    python data/make_transfer.py --write             # and write it
    python data/make_transfer.py --write --parts glyphs,distillation    # these parts anew, the others stay

    data/results/transfer.json

Parts `glyphs`, `omniglot` and `caltech101` (photos, 84 × 84, in colour): 5-way 1-shot on test classes that no training
has seen. Every way of training gets the same budget of FLOP, counted by PyTorch (`torch.utils.flop_counter`, two for a
multiplication with its addition) on one step, forward and backward; the steps are as many as fit. Pre-training is
included in it, since all begin at random weights. All are Conv-4 of 32 channels, with Adam and a cosine schedule:

    pre-trained       on all classes, a linear classifier; then one body, three heads
                      (simpleshot, rfs, pretrained-ridge)
    baseline++        on all classes, a cosine classifier; a cosine head with a validated rate
    prototypical      meta-trained on 20-way episodes
    meta-baseline     half of the budget as pre-trained, the other half as cosine prototypes

The rate and the size of a step are those of FIRST: the best of two sizes and two rates on validation classes of glyphs,
at the middle budget with a seed that is none of the three. (baseline++ takes those of pre-trained, meta-baseline those
of both halves; photos take them, too: nothing was tuned on photos, and their budgets are three times as large, for a
photo costs 6 times as much as a character.) The head of `pre-trained` in a comparison is chosen on validation classes.

Part `strongest`: both were looked at again. A wider grid (`tuned`, GRIDS) found more for meta-training, with 10-way
episodes. And pre-training on 300 of the classes, drawn anew for each seed (`pre-trained-300`, its own grid), is far
above pre-training on all of them: fewer classes are told apart sooner. So these two are compared, at the same budgets.
Where no setting gains more than a point on validation classes over the first one, that one stays (`pre-trained`). A
setting at the edge of its grid says so in its row. Omniglot takes all settings of glyphs. The number 300 was not tuned.

A difference is paired: the same 600 test episodes. It has two intervals of 95 %: over episodes, each a mean over the
seeds, and over seeds (Student's t with three). `d` is the difference over its standard deviation over episodes. A
sentence names a winner only where neither interval contains 0.

Part `distillation`: on glyphs with as many steps as the largest budget gives pre-training, on Omniglot with as many as
the middle one gives, at the settings that were chosen first (`recipe`). The student of half the channels has about a
quarter of the teacher's weights. Born-again: the same size again. Plain training and distillation begin at the same
random weights and see the same batches. A next generation and a meta-learner were distilled on glyphs only. Temperature
4 and weight 0.5 were not tuned. The steps are equal, not the FLOP: a distilled step also asks the teacher, and the
teacher's own training comes on top (both are in the file). All are short trainings: what longer ones would give was not
measured.

Part `learnt`: ten pictures of MNIST's test digits, learned on the first 800 of each digit; the others are the test (a
split of our own, so no figure of it is one of MNIST). Fresh networks of 20 seeds learn from them in 10 steps. Beside
them: ten real pictures, drawn anew for each seed, and the ten mean pictures; their rates are the best on the pictures
that the learnt ones learn from.

What is not in the price: the centre of `simpleshot` (8.3e9 FLOP on glyphs, 1.1e10 on Omniglot: 17 and 23 % of the
smallest budget), and the choice of the rate of `baseline++` (about 2.2e10). Both favour pre-training. The sentences are
many (18, 12 and 4), and no interval is corrected for that: a narrow win among them may be luck.

With `--kept FOLDER` each training that is done is kept there, so that a measurement that was stopped goes on.
MNIST, Omniglot and Caltech-101 lie in MLCOURSE_DATA. One thread; about 60 minutes of one core.
"""

import argparse
import copy
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlcourse import datasets, evaluation, files, learners, places, statistics, training
from mlcourse.datasets import ClassImages
from mlcourse.episodes import EpisodeSampler
from mlcourse.learners import distillation, transfer
from mlcourse.networks import Conv4
from mlcourse.protocols import embedded
from mlcourse.protocols.flop import counted_flops
from mlcourse.protocols.protocol import without_pictures

OUT = places.data() / "results" / "transfer.json"
COMMAND = "python data/make_transfer.py --write"
CURVES = ("glyphs", "omniglot", "caltech101")
PARTS = (*CURVES, "strongest", "distillation", "learnt")
CHANNELS, SEEDS, TUNING_SEED = 32, (0, 1, 2), 100
BUDGETS = (5e10, 1.5e11, 5e11)
OF_PHOTOS = tuple(3 * budget for budget in BUDGETS)
EPISODES, EPISODES_SEED, VALIDATION_EPISODES = 600, 4, 300
SOME, FEWER, FEW = 300, "pre-trained-300", ", 300 classes"  # so many classes, drawn at random for each seed
# what is tried: images of a step (or classes of a step's one episode), and rates
GRIDS = {
    "pre-trained": ((32, 64, 128), (1e-3, 2e-3, 5e-3)),
    FEWER: ((16, 32, 64), (2e-3, 5e-3, 1e-2)),
    "prototypical": ((10, 20, 60), (2e-3, 5e-3, 1e-2)),
}
FIRST = {"pre-trained": {"size": 64, "rate": 2e-3}, "prototypical": {"size": 20, "rate": 5e-3}}  # of a narrow grid
STRONGEST = {"glyphs": BUDGETS, "omniglot": BUDGETS}  # where the strongest of both kinds were measured
WORTH = 0.01  # on validation classes: what another setting must gain, for less is within the noise
QUERIES = 5  # for each class, in training
HEADS = {"simpleshot": "centroid", "rfs": "logistic", "pretrained-ridge": "ridge"}
WAYS = ("pre-trained", "baseline++", "prototypical", "meta-baseline")
TEMPERATURE, WEIGHT = 4.0, 0.5
# what was distilled on each of the data sets
STUDENTS = {"glyphs": ("quarter", "born-again", "meta-learned quarter"), "omniglot": ("quarter",)}
TAUGHT = {"glyphs": BUDGETS[-1], "omniglot": BUDGETS[1]}  # FLOP of a teacher
EQUAL_STEPS = "5-way 1-shot, equal steps, the FLOP of the teacher not counted"
LEARNT = {"inner_steps": 10, "rate": 0.05, "starts": 4}
LEARNT_STEPS, LEARNT_BATCH, LEARNT_RATE, INITIALISATIONS = 500, 100, 2e-2, 20
REAL_RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
Kept = Callable[[str, Callable[[], dict]], dict]


# ------------------------------------------------------------------ training by a budget


@cache
def split(name: str, part: str) -> ClassImages:
    """A split of a data set."""
    return datasets.load(name, part, **({"protocol": "vinyals"} if name == "omniglot" else {}))


def some_of(data: ClassImages, seed: int) -> ClassImages:
    """SOME of the classes, drawn at random."""
    return data.select(torch.randperm(data.classes, generator=torch.Generator().manual_seed(seed))[:SOME])


def source_of(data: ClassImages, way: str, size: int) -> tuple[Any, int]:
    """What a way of training draws from, and the `tasks` of a step."""
    if way in ("pre-trained", FEWER, "baseline++"):
        return training.Images(data), size
    return EpisodeSampler(data, size, 1, QUERIES), 1


def built(method: str, data: ClassImages, seed: int, channels: int = CHANNELS) -> learners.Learner:
    """A learner at random weights, for the pictures of this data."""
    classes = {"classes": data.classes} if learners.METHODS[method].learner.trains_on == "images" else {}
    return learners.build(method, way=5, seed=seed, channels=channels, **shape_of(data), **classes)


def shape_of(data: ClassImages) -> dict[str, int]:
    """The shape of its pictures, as `learners.build` takes it."""
    return {"in_channels": data.images.shape[1], "size": data.images.shape[-1]}


def step_of(learner: learners.Learner, source: Any, tasks: int) -> int:
    """FLOP of one outer step, counted on a copy."""
    twin, batch = copy.deepcopy(learner), source.sample(tasks, torch.Generator().manual_seed(0))
    return counted_flops(lambda: twin.outer_loss(batch)[0].backward())


def trained(
    learner: learners.Learner, source: Any, tasks: int, *, rate: float, seed: int, flop: float = 0, steps: int = 0
) -> dict[str, Any]:
    """Train in place, for as many steps as the FLOP allow (or `steps`); the steps and the FLOP that it took."""
    one = step_of(learner, source, tasks)
    steps = steps or max(1, int(flop / one))
    training.train(learner, source, steps=steps, tasks=tasks, rate=rate, seed=seed, progress=False)
    return {"steps": steps, "FLOP of a step": one, "FLOP": steps * one}


def accuracies(learner: learners.Learner, data: ClassImages, episodes: int = EPISODES) -> Tensor:
    """The accuracy in each of the episodes, always the same ones: float64 [episodes]."""
    source, indices = (EpisodeSampler(one, 5, 1, 15) for one in (data, without_pictures(data)))
    settings = {"episodes": episodes, "seed": EPISODES_SEED}
    learner, source = embedded.once(getattr(learner, "student", learner), source, indices, **settings)
    return evaluation.evaluate(learner, source, **settings).per_episode


def tuned(kept: Kept) -> dict[str, Any]:
    """The best rate and size of a step for the two ways of training, and what was tried."""
    found = {}
    for way, (sizes, rates) in GRIDS.items():
        rows = []
        for size in sizes:
            for rate in rates:
                row = {"size": size, "rate": rate}
                rows.append(row | kept(f"tuned-{way}-{size}-{rate}", partial(tried, way, size, rate)))
        found[way] = chosen(way, rows) | {"tried": rows}
    return found


def chosen(way: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The best of the rows that were tried, or the FIRST setting where the best gains no more than WORTH."""
    best = max(rows, key=lambda row: row["accuracy"])
    if way in FIRST:
        first = next(row for row in rows if all(row[name] == value for name, value in FIRST[way].items()))
        best = best if best["accuracy"] > first["accuracy"] + WORTH else first
    return best | {"at the edge of the grid": at_edge(way, best)}


def at_edge(way: str, row: dict[str, Any]) -> list[str]:
    """Which of its settings are the lowest or the highest that were tried: there may be better ones beyond."""
    ends = {name: (min(values), max(values)) for name, values in zip(("size", "rate"), GRIDS[way], strict=True)}
    return [name for name in ends if row[name] in ends[name]]


def tried(way: str, size: int, rate: float) -> dict[str, float]:
    """The accuracy on validation classes after the middle budget."""
    data = some_of(split("glyphs", "train"), TUNING_SEED) if way == FEWER else split("glyphs", "train")
    learner = built("simpleshot" if way in (FEWER, "pre-trained") else way, data, TUNING_SEED)
    source, tasks = source_of(data, way, size)
    trained(learner, source, tasks, rate=rate, seed=TUNING_SEED, flop=BUDGETS[1])
    return {"accuracy": accuracies(learner, split("glyphs", "val"), VALIDATION_EPISODES).mean().item()}


def run(name: str, way: str, budget: float, seed: int, best: dict[str, Any]) -> dict[str, Any]:
    """One way of training at one budget: for each method that comes of it the accuracies, on test and validation."""
    data, meta = split(name, "train"), best["prototypical"]
    pre = best[FEWER if way == FEWER else "pre-trained"]
    if way in ("pre-trained", FEWER, "baseline++"):
        data = some_of(data, seed) if way == FEWER else data
        learner = built("baseline++" if way == "baseline++" else "simpleshot", data, seed)
        source, tasks = source_of(data, way, pre["size"])
        cost = trained(learner, source, tasks, rate=pre["rate"], seed=seed, flop=budget)
    elif way == "prototypical":
        learner = built(way, data, seed)
        source, tasks = source_of(data, way, meta["size"])
        cost = trained(learner, source, tasks, rate=meta["rate"], seed=seed, flop=budget)
    else:
        body = built("simpleshot", data, seed)
        source, tasks = source_of(data, "pre-trained", pre["size"])
        first = trained(body, source, tasks, rate=pre["rate"], seed=seed, flop=budget / 2)
        learner = transfer.load_body(built(way, data, seed), body)
        source, tasks = source_of(data, way, meta["size"])
        cost = trained(learner, source, tasks, rate=meta["rate"], seed=seed, flop=budget / 2)
        cost = {"steps": [first["steps"], cost["steps"]], "FLOP": first["FLOP"] + cost["FLOP"]}
    return cost | {"methods": answered(name, way, learner, data)}


def answered(name: str, way: str, learner: learners.Learner, data: ClassImages) -> dict[str, Any]:
    """Of each method that a learner trained on `data` gives: its accuracies, and the FLOP of an episode."""
    val, test, found = split(name, "val"), split(name, "test"), {}
    each = {way: learner}
    if way in ("pre-trained", FEWER):
        learner.centre_on(data.images[::10])  # every tenth is enough for a mean
        each = {
            head + FEW * (way == FEWER): transfer.load_body(
                learners.build(head, way=5, channels=CHANNELS, **shape_of(data)), learner
            )
            for head in HEADS
        }
    for method, one in each.items():
        more = {}
        if method == "baseline++":
            more["rates"] = {
                f"{rate:g}": value for rate, value in transfer.choose_rate(one, EpisodeSampler(val, 5, 1, 15)).items()
            }
        batch = EpisodeSampler(test, 5, 1, 15).sample(1, torch.Generator().manual_seed(0))
        with torch.no_grad():
            flop = counted_flops(one.eval(), batch.support_x, batch.support_y, batch.query_x)
        found[method] = more | {
            "FLOP of an episode": flop,
            "validation": accuracies(one, val, VALIDATION_EPISODES).mean().item(),
            "test": accuracies(one, test).tolist(),
        }
    return found


# ------------------------------------------------------------------ what came of it


def compared(first: list[list[float]], second: list[list[float]]) -> dict[str, float]:
    """first minus second, accuracies [seeds][episodes] of the same episodes: the difference and its two intervals."""
    a, b = (torch.tensor(values, dtype=torch.float64) for values in (first, second))
    over_episodes = statistics.paired(a.mean(0), b.mean(0))
    over_seeds = statistics.paired(a.mean(1), b.mean(1))
    return {
        "difference": round(over_episodes.difference, 5),
        "ci95 over episodes": round(over_episodes.ci95, 5),
        "ci95 over seeds": round(over_seeds.ci95, 5),
        "d": round(statistics.effect_size(a.mean(0), b.mean(0)), 3),
        "seeds": len(a),
        "episodes": a.shape[1],
    }


def sentence(where: str, first: str, second: str, pair: dict[str, float]) -> str:
    """Who wins, by how much and how surely; or that nobody does. pair: of `compared`, first minus second."""
    difference, d = 100 * pair["difference"], pair["d"]
    halves = [100 * pair["ci95 over episodes"], 100 * pair["ci95 over seeds"]]
    told = f"± {halves[0]:.2f} over {pair['episodes']} episodes and ± {halves[1]:.2f} over {pair['seeds']} seeds"
    if not all(abs(difference) > half for half in halves):  # nan, of one seed, is no winner either
        return (
            f"{where}: no winner between {first} and {second}; the paired difference is {difference:+.2f} points, "
            f"{told}, and one of the two intervals contains 0 (d = {d:.2f})."
        )
    winner, loser = (first, second) if difference > 0 else (second, first)
    return (
        f"{where}: {winner} wins against {loser} by d = {abs(d):.2f}; the paired difference is "
        f"{abs(difference):.2f} points, {told}."
    )


def of_data(name: str, kept: Kept) -> dict[str, Any]:
    """All ways of training at all budgets on one data set, and the comparison of transfer with meta-training."""
    rows = []
    for budget in OF_PHOTOS if name == "caltech101" else BUDGETS:
        runs = {way: runs_of(name, way, budget, FIRST, kept) for way in WAYS}
        rows.append(at_budget(name, budget, runs))
    return {"data": f"{name} test", "way": 5, "shot": 1, "query": 15, "settings": FIRST, "budgets": rows}


def of_strongest(kept: Kept, best: dict[str, Any]) -> dict[str, Any]:
    """The strongest that was found of both kinds: pre-training on some of the classes, and meta-training retuned."""
    found = {}
    for name, budgets in STRONGEST.items():
        rows = []
        for budget in budgets:
            runs = {way: runs_of(name, way, budget, FIRST, kept) for way in ("pre-trained", "baseline++")}
            more = {way: runs_of(name, way, budget, best, kept, "strongest-") for way in (FEWER, "prototypical")}
            rows.append(at_budget(name, budget, runs | more))
        told = {way: {one: value for one, value in best[way].items() if one != "tried"} for way in best}
        found[name] = {"data": f"{name} test", "settings": told, "budgets": rows}
    return found


def runs_of(name: str, way: str, budget: float, best: dict, kept: Kept, which: str = "") -> list[dict[str, Any]]:
    """One way of training at one budget: for each seed what came of it. which: of two settings, for what is kept."""
    return [
        kept(f"{which}{name}-{way}-{budget:g}-{seed}", partial(run, name, way, budget, seed, best)) for seed in SEEDS
    ]


def at_budget(name: str, budget: float, runs: dict[str, list[dict]]) -> dict[str, Any]:
    """What is stored of one budget. runs: of each way of training, one for each seed."""
    told, test, validation = {}, {}, {}
    for way, each in runs.items():
        for method in each[0]["methods"]:
            test[method] = [one["methods"][method]["test"] for one in each]
            validation[method] = sum(one["methods"][method]["validation"] for one in each) / len(each)
            values = torch.tensor(test[method], dtype=torch.float64)
            mean, over_episodes = statistics.mean_interval(values.mean(0))
            told[method] = {
                "trained as": way,
                "steps": each[0]["steps"],
                "FLOP of training": each[0]["FLOP"],
                "FLOP of an episode": each[0]["methods"][method]["FLOP of an episode"],
                "accuracy": round(mean, 5),
                "ci95 over episodes": round(over_episodes, 5),
                "ci95 over seeds": round(statistics.student_interval(values.mean(1))[1], 5),
                "accuracy of each seed": [round(value, 5) for value in values.mean(1).tolist()],
                "validation accuracy": round(validation[method], 5),
            }
            if "rates" in each[0]["methods"][method]:
                told[method]["validated rates of each seed"] = [
                    {rate: round(value, 5) for rate, value in one["methods"][method]["rates"].items()} for one in each
                ]
    transferred = max((*HEADS, "baseline++"), key=validation.get)
    heads = {"head chosen on validation classes": transferred}
    if FEWER in runs:
        fewer = max((head + FEW for head in HEADS), key=validation.get)
        wanted = [(fewer, "prototypical"), (fewer, transferred)]
        heads[f"head chosen on validation classes{FEW}"] = fewer
    else:
        wanted = [(transferred, "prototypical"), ("meta-baseline", "prototypical"), ("meta-baseline", transferred)]
    pairs = {f"{first} minus {second}": compared(test[first], test[second]) for first, second in wanted}
    where = f"{name}, 5-way 1-shot, {budget:.3g} FLOP of training"
    return {
        "FLOP": budget,
        "methods": told,
        **heads,
        "pairs": pairs,
        "sentences": [sentence(where, *names.split(" minus "), pair) for names, pair in pairs.items()],
    }


# ------------------------------------------------------------------ distillation


def distilled(name: str, seed: int) -> dict[str, Any]:
    """Of one seed: teachers, and plain and distilled students of a quarter of the size and of the same size."""
    data, test, pre, meta = split(name, "train"), split(name, "test"), FIRST["pre-trained"], FIRST["prototypical"]
    images, size = source_of(data, "pre-trained", pre["size"])
    episodes, tasks = source_of(data, "prototypical", meta["size"])
    teacher, other = built("simpleshot", data, seed), built("prototypical", data, seed)
    cost = trained(teacher, images, size, rate=pre["rate"], seed=seed, flop=TAUGHT[name])
    found = {"teacher": test_of(teacher, test, cost)}
    fresh = seed + 1000  # of the students: not the teacher's own weights and batches
    mixture = {"temperature": TEMPERATURE, "weight": WEIGHT}
    sizes = {"quarter": CHANNELS // 2, "born-again": CHANNELS}
    for size_of, channels in [(one, sizes[one]) for one in STUDENTS[name] if one in sizes]:
        for kind in ("plain", "distilled"):
            student = plain = built("simpleshot", data, fresh, channels)
            if kind == "distilled":
                student = distillation.DistilledClassifier(plain.network, teacher=teacher, **mixture)
                student.classifier = plain.classifier  # the same random weights
            told = trained(student, images, size, rate=pre["rate"], seed=fresh, steps=cost["steps"])
            found[f"{size_of}, {kind}"] = test_of(student, test, told)
    if "meta-learned quarter" not in STUDENTS[name]:
        return found
    meta_cost = trained(other, episodes, tasks, rate=meta["rate"], seed=seed, flop=TAUGHT[name])
    found["meta-learned teacher"] = test_of(other, test, meta_cost)
    for kind in ("plain", "distilled"):
        student = built("prototypical", data, fresh, CHANNELS // 2)
        if kind == "distilled":
            student = distillation.DistilledLearner(student, teacher=other, **mixture)
        told = trained(student, episodes, tasks, rate=meta["rate"], seed=fresh, steps=meta_cost["steps"])
        found[f"meta-learned quarter, {kind}"] = test_of(student, test, told)
    return found


def test_of(learner: learners.Learner, test: ClassImages, cost: dict[str, Any]) -> dict[str, Any]:
    """A trained learner's accuracies, its weights and its cost."""
    network = getattr(learner, "student", learner).network
    weights = sum(value.numel() for value in network.parameters())
    return {"weights": weights, "test": accuracies(learner, test).tolist()} | cost


def of_distillation(kept: Kept) -> dict[str, Any]:
    """Distilled against plain students, on two data sets."""
    about = {"temperature": TEMPERATURE, "weight": WEIGHT, "seeds": len(SEEDS), "recipe": FIRST}
    return about | {name: students_of(name, kept) for name in ("glyphs", "omniglot")}


def students_of(data: str, kept: Kept) -> dict[str, Any]:
    """Distilled against plain students of one data set, paired."""
    runs = [kept(f"distilled-{data}-{seed}", partial(distilled, data, seed)) for seed in SEEDS]
    rows, pairs, sentences = {}, {}, []
    test = {name: [one[name]["test"] for one in runs] for name in runs[0]}
    for name, values in test.items():
        accuracy = torch.tensor(values, dtype=torch.float64)
        rows[name] = {one: runs[0][name][one] for one in ("weights", "steps", "FLOP")} | {
            "accuracy": round(accuracy.mean().item(), 5),
            "accuracy of each seed": [round(value, 5) for value in accuracy.mean(1).tolist()],
        }
    for name in STUDENTS[data]:
        first, second = f"{name}, distilled", f"{name}, plain"
        pairs[f"{first} minus {second}"] = pair = compared(test[first], test[second])
        sentences.append(sentence(f"{data}, {EQUAL_STEPS}", f"{name}: distillation", "plain training", pair))
    return {"data": f"{data} test", "learners": rows, "pairs": pairs, "sentences": sentences}


# ------------------------------------------------------------------ ten pictures


def learnt() -> dict[str, Any]:
    """Ten learnt pictures of digits, ten real ones and the ten means, each with its accuracy for 20 fresh networks."""
    digits = datasets.load("mnist", "test")
    each = [digits.of_class(digit) for digit in range(10)]
    train = ClassImages(
        torch.cat([one[:800] for one in each]), torch.full((10,), 800), digits.names, digits.groups, "mnist", "test"
    )
    x = torch.cat([one[800:] for one in each]).float() / 255
    y = torch.cat([torch.full((len(one) - 800,), digit) for digit, one in enumerate(each)])
    torch.manual_seed(0)
    network = Conv4(channels=CHANNELS, out=10, normalisation="group", downsample="stride")
    pictures = distillation.LearntImages(network, classes=10, **LEARNT)

    def real(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        places = [int(torch.randint(800, (), generator=generator)) for _ in range(10)]
        return torch.stack([each[digit][place] for digit, place in enumerate(places)]).float() / 255

    means = torch.stack([one[:800].float().mean(0) for one in each]) / 255
    source, seeds = training.Images(train), range(1000, 1000 + INITIALISATIONS)  # fresh: no outer step has drawn them
    known, of_known = source.sample(2000, torch.Generator().manual_seed(5))

    def known_accuracy(draw: Callable[[int], Tensor], seed: int, rate: float) -> Tensor:
        return pictures.accuracy(known, of_known, seeds=range(seed, seed + 1), images=draw(seed), rate=rate)

    rates = {
        "real": best_rate(partial(known_accuracy, real)),
        "means": best_rate(partial(known_accuracy, lambda seed: means)),
    }
    pictures.start_from(real(7))
    settings = {"steps": LEARNT_STEPS, "tasks": LEARNT_BATCH, "rate": LEARNT_RATE, "seed": 0, "progress": False}
    history = training.train(pictures, source, **settings)
    found = {"learnt": pictures.accuracy(x, y, seeds=seeds).tolist(), "real": [], "means": []}
    for seed in seeds:
        for name, images in (("real", real(seed)), ("means", means)):
            given = {"images": images, "rate": rates[name]["rate"]}
            found[name] += pictures.accuracy(x, y, seeds=range(seed, seed + 1), **given).tolist()
    batch = source.sample(LEARNT_BATCH, torch.Generator().manual_seed(0))
    one = counted_flops(lambda: pictures.outer_loss(batch)[0].backward())
    cost = {"steps": LEARNT_STEPS, "FLOP of a step": one, "FLOP": LEARNT_STEPS * one}
    told = {"accuracies": found, "rates": rates, "learnt rate": pictures.log_rate.exp().item()} | cost
    return told | {"outer loss of the last 20 steps": sum(history.losses[-20:]) / 20}


def best_rate(accuracy: Callable[[int, float], Tensor]) -> dict[str, Any]:
    """The rate with the highest mean accuracy over five networks that are none of the 20."""
    tried = {rate: sum(accuracy(seed, rate).mean().item() for seed in range(5)) / 5 for rate in REAL_RATES}
    return {"rate": max(tried, key=tried.get), "tried": {f"{rate:g}": round(value, 4) for rate, value in tried.items()}}


def of_learnt(kept: Kept) -> dict[str, Any]:
    """The paired differences over the 20 initialisations."""
    told = kept("learnt", learnt)
    values, pairs = told["accuracies"], {}
    for other in ("real", "means"):
        pair = statistics.paired(values["learnt"], values[other])
        d = statistics.effect_size(values["learnt"], values[other])
        pairs[f"learnt minus {other}"] = {
            "difference": round(pair.difference, 5), "ci95": round(pair.ci95, 5), "d": round(d, 3),
        }  # fmt: skip
    means = {name: round(sum(one) / len(one), 5) for name, one in values.items()}
    more = {name: value for name, value in told.items() if name != "accuracies"}
    return {"data": "MNIST's test digits, split 800 and the rest", "initialisations": INITIALISATIONS} | more | {
        "accuracy": means, "pairs": pairs,
    }  # fmt: skip


# ------------------------------------------------------------------ all of it


def everything(parts: tuple[str, ...], kept: Kept, before: dict[str, Any]) -> dict[str, Any]:
    """All that is stored: these parts anew, the others as they were."""
    best = tuned(kept)
    found = {
        "command": COMMAND,
        "torch": torch.__version__,
        "seeds": list(SEEDS),
        "episodes": EPISODES,
        "channels": CHANNELS,
        "tuned": best,
    }
    for part in PARTS:
        if part not in parts:
            found |= {part: before[part]} if part in before else {}
        elif part in CURVES:
            found[part] = of_data(part, kept)
        elif part == "strongest":
            found[part] = of_strongest(kept, best)
        else:
            found[part] = of_distillation(kept) if part == "distillation" else of_learnt(kept)
        print(part, (found.get(part) or {}).get("sentences") or "", flush=True)
    return found


def keeping(folder: Path | None) -> Kept:
    """What computes a result once, and reads it from the folder ever after."""

    def kept(name: str, make: Callable[[], dict]) -> dict:
        if folder is None:
            return make()
        file = folder / f"{name}.json"
        if not file.is_file():
            files.write_json(file, make())
            print(name, flush=True)
        return files.read_json(file)

    return kept


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--kept", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.kept is not None:
        given.kept.mkdir(parents=True, exist_ok=True)
    stored = files.read_json(OUT) if OUT.is_file() else {}
    now = everything(tuple(given.parts.split(",")), keeping(given.kept), stored)
    if stored not in ({}, now):
        print(f"{OUT} says otherwise")
    if given.write:
        files.write_json(OUT, now)
