"""Measure a network that others pre-trained on photos, frozen, with one picture of each class: on photos, and far off.

    pip install 'mlcourse[photos]'
    MLCOURSE_DATA=FOLDER python data/make_backbone.py            # measure, and say what differs from what is stored
    MLCOURSE_DATA=FOLDER python data/make_backbone.py --write    # and write it

    data/results/backbone.json

FOLDER holds local copies of Caltech-101 (here: the first 60 photos of each class, 84 × 84) and BCCD. EfficientNet-Lite0
was trained on ImageNet with labels (`mlcourse.networks.pretrained`); it gives 1,280 numbers for a picture of 128 × 128
(smaller ones are scaled up), and no weight of it moves. Its heads are those of learners/transfer.py. All tasks have one
support picture and 15 queries of each class; all methods of a place answer the same ones.

    simpleshot, rfs, pretrained-ridge    three heads on its features, nothing is trained; simpleshot's centre is the
                                         mean feature of Caltech's training classes (where all classes are asked about,
                                         no class is left for it, and the centre is 0)
    incontext on features                the course's in-context learner, meta-trained on features of Caltech's 61
                                         training classes, validated on its 20 validation classes; three seeds
    prototypical                         the course's own, meta-trained: of photos on the same 61 classes (84 × 84,
                                         Conv-4, one setting, not tuned, a short training: it says what that buys and
                                         no more), of characters the first three stored checkpoints; three seeds
    pixels                               the nearest neighbour, nothing is trained

The places: all 101 classes of Caltech-101; its 20 test classes; blood cells, cut out of BCCD's photos by their boxes (3
classes, the first 360 boxes of each), which look like nothing in ImageNet; characters, every second class of the test
scripts of `glyphs` (dark ink on white, or the reverse: what is better on validation scripts).

The head that a sentence speaks of is the best one on the validation classes of Caltech-101. A difference is paired and
has two intervals of 95 %: over episodes, and over classes (bootstrap of whole classes; of BCCD, with its three classes,
of whole photos). Of three seeds the mean is compared. A sentence names a winner only where neither interval contains 0.

**Seen before?** `datasets.caltech101.IN_IMAGENET` names by hand, for each class, the label of ImageNet that is the same
thing; `NEAR_IMAGENET` names near relatives of others. Accuracies are told for both groups, within tasks of all classes
and in tasks of one group alone.

**Copies of single pictures.** 92 pictures of Caltech-101 are said to stand in ImageNet, too. Which ones is not known
here, and ImageNet is not at hand, so the 92 cannot be taken out by name. In place of that 92 pictures are taken out in
two other ways, and all is asked again: those of which the network's own classifier is surest (who has trained on a
picture tends to be: Yeom et al. 2018, https://arxiv.org/abs/1709.01604), and those that were answered best. The second
is the harsher one: no 92 queries could count for more in the first measurement. (Each class keeps 16 pictures.)

One thread; about eight minutes of one core. Features are kept in the cache folder, and with `--kept FOLDER` what was
trained is kept there.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse import datasets, evaluation, files, learners, places, statistics, training
from mlcourse.datasets import ClassImages, boxes, caltech101
from mlcourse.episodes import Episode, EpisodeSampler
from mlcourse.networks import pretrained
from mlcourse.protocols import embedded
from mlcourse.protocols.flop import counted_flops
from mlcourse.protocols.protocol import without_pictures

OUT = places.data() / "results" / "backbone.json"
COMMAND = "MLCOURSE_DATA=FOLDER python data/make_backbone.py --write"
SIZE, OWN_SIZE = 128, 84  # pixels: of what the frozen network sees, and the course's own
EPISODES, SEED, SEEDS, SHOT, QUERIES = 1000, 0, (0, 1, 2), 1, 15
BOOTSTRAP = 1000  # draws
HEADS = ("simpleshot", "rfs", "pretrained-ridge")
OWN = {"way": 20, "queries": 5, "rate": 5e-3, "channels": 32, "FLOP": 1e12}
IN_CONTEXT = {"steps": 1000, "tasks": 4, "rate": 1e-3, "way": 10, "queries": 5, "validate_every": 250}
CELLS = 360  # of each class of BCCD
COPIES = 92


class Given(nn.Module):
    """An encoder that has nothing to do: it is given features."""

    def __init__(self, size: int):
        super().__init__()
        self.embedding_size = size

    def forward(self, z: Tensor) -> Tensor:
        """z, as it is."""
        return z


@dataclass(frozen=True)
class Place:
    """Pictures of one place with their frozen features.

    data: pictures. features: [pictures, D]. clusters: int64 [pictures], what the interval over the data draws.
    """

    data: ClassImages
    features: Tensor
    clusters: Tensor

    def some(self, kept: Tensor) -> "Place":
        """Only the pictures that are `kept`, bool [pictures]; their classes stay in order."""
        labels = labels_of(self.data)[kept]
        left = labels.unique()
        data = replace(
            self.data,
            images=self.data.images[kept],
            counts=labels.bincount()[left],
            names=tuple(self.data.names[k] for k in left.tolist()),
            groups=tuple(self.data.groups[k] for k in left.tolist()),
        )
        return Place(data, self.features[kept], self.clusters[kept])

    def of_classes(self, classes: Sequence[int]) -> "Place":
        """Only these classes."""
        return self.some(torch.isin(labels_of(self.data), torch.tensor(list(classes))))


@dataclass(frozen=True)
class Answers:
    """Which queries a learner got right: float64 [episodes, queries], a mean over seeds; which picture each one was."""

    right: Tensor
    picture: Tensor
    digest: str


def labels_of(data: ClassImages) -> Tensor:
    """The class of each picture: int64 [pictures]."""
    return torch.arange(data.classes).repeat_interleave(data.counts)


# ------------------------------------------------------------------ pictures and features


def features_of(network: pretrained.Backbone, data: ClassImages) -> Tensor:
    """The frozen features of pictures, float32 [pictures, 1280]; the maps are kept in the cache."""
    coloured = data.in_shape((3, SIZE, SIZE))
    maps = pretrained.features(network, coloured.images, (32,))[32]
    with torch.no_grad():
        return torch.cat([network.network.head(some).mean((2, 3)) for some in maps.split(500)])


def place_of(network: pretrained.Backbone, data: ClassImages, clusters: Tensor | None = None) -> Place:
    """A place whose clusters are its classes, where nothing else is said."""
    return Place(data, features_of(network, data), labels_of(data) if clusters is None else clusters)


def inverted(data: ClassImages) -> ClassImages:
    """Dark ink on white."""
    return replace(data, images=255 - data.images)


def cells() -> tuple[ClassImages, Tensor]:
    """Blood cells, square cuts around their boxes, uint8 [n, 3, 84, 84]; and the photo of each."""
    found = boxes.load("bccd")
    cuts: dict[int, list[tuple[Tensor, int]]] = {k: [] for k in range(len(found.names))}
    for photo in range(len(found)):
        image = found.image(photo)
        for box, label in zip(found.boxes[photo], found.classes[photo].tolist(), strict=True):
            if len(cuts[label]) < CELLS:
                cuts[label].append((cut(image, box), photo))
    data = ClassImages(
        torch.stack([one for k in cuts for one, _ in cuts[k]]),
        torch.tensor([len(cuts[k]) for k in cuts]),
        found.names,
        found.names,
        "bccd",
        "all",
    )
    return data, torch.tensor([photo for k in cuts for _, photo in cuts[k]])


def cut(image: Tensor, box: Tensor) -> Tensor:
    """A square around a box, as wide as its longer side, moved into the photo where it reaches out of it."""
    x0, y0, x1, y1 = box.tolist()
    height, width = image.shape[1:]
    side = max(1, min(round(max(x1 - x0, y1 - y0)), height, width))
    left, top = ((a + b - side) / 2 for a, b in ((x0, x1), (y0, y1)))
    left, top = max(0, min(round(left), width - side)), max(0, min(round(top), height - side))
    part = image[:, top : top + side, left : left + side].float().unsqueeze(0)
    return F.interpolate(part, (OWN_SIZE, OWN_SIZE), mode="bilinear", antialias=True)[0].round().to(torch.uint8)


# ------------------------------------------------------------------ learners


def headed(head: str, centre: Tensor | None) -> learners.Learner:
    """A head of learners/transfer.py on features that are given."""
    settings = dict(learners.METHODS[head].options)
    learner = learners.METHODS[head].learner(Given(1280), **settings)
    if centre is not None:
        learner.centre.copy_(centre)
    return learner.eval()


def trained_once(learner: learners.Learner, name: str, kept: Path | None, train: Callable[[], Any]) -> learners.Learner:
    """A learner that `train` trains in place, or with the weights that were kept."""
    file = None if kept is None else kept / f"{name}.pt"
    if file is not None and file.is_file():
        learner.load_state_dict(torch.load(file, weights_only=True))
        return learner.eval()
    train()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(learner.state_dict(), file)
    return learner.eval()


def in_context(train: Place, val: Place, seed: int, kept: Path | None) -> learners.Learner:
    """The course's in-context learner, meta-trained on frozen features."""
    torch.manual_seed(seed)
    learner = learners.METHODS["incontext"].learner(Given(1280))
    wanted = {name: IN_CONTEXT[name] for name in ("steps", "tasks", "rate", "validate_every")}
    tasks, validation = tasks_of(train, IN_CONTEXT["way"], IN_CONTEXT["queries"]), tasks_of(val, 5)
    more = {"validation": validation, "seed": seed, "progress": False}
    return trained_once(
        learner, f"incontext-{seed}", kept, lambda: training.train(learner, tasks, **more, **wanted)
    )  # fmt: skip


def own(train: ClassImages, seed: int, kept: Path | None) -> tuple[learners.Learner, dict[str, Any]]:
    """The course's prototypical network, meta-trained on photos; and what that took."""
    learner = learners.build(
        "prototypical", way=5, in_channels=3, size=OWN_SIZE, seed=seed, channels=OWN["channels"]
    )  # fmt: skip
    source = EpisodeSampler(train, OWN["way"], SHOT, OWN["queries"])
    batch = source.sample(1, torch.Generator().manual_seed(0))
    one = counted_flops(lambda: learner.outer_loss(batch)[0].backward())
    learner.zero_grad()
    steps = int(OWN["FLOP"] / one)
    settings = {"steps": steps, "tasks": 1, "rate": OWN["rate"], "seed": seed, "progress": False}
    learner = trained_once(
        learner, f"prototypical-{seed}", kept, lambda: training.train(learner, source, **settings)
    )  # fmt: skip
    return learner, {"steps": steps, "FLOP of a step": one}


# ------------------------------------------------------------------ asking


def tasks_of(place: Place, way: int, queries: int = QUERIES) -> embedded.EmbeddedSampler:
    """Tasks of features in place of pictures."""
    samplers = (EpisodeSampler(one, way, SHOT, queries) for one in (place.data, without_pictures(place.data)))
    return embedded.EmbeddedSampler(*samplers, place.features)


def asked(learner: learners.Learner, source: Any) -> Answers:
    """The answers of one learner to the tasks of a place."""
    right, picture = [], []

    def note(logits: Tensor, batch: Episode) -> None:
        order = batch.query_index.argsort(1)  # evaluation hides the order of queries
        right.append((logits.argmax(-1) == batch.query_y).double().gather(1, order))
        picture.append(batch.query_index.gather(1, order))

    result = evaluation.evaluate(learner, source, episodes=EPISODES, seed=SEED, watch=note)
    return Answers(torch.cat(right), torch.cat(picture), result.digest)


def on_features(place: Place, way: int, each: Sequence[learners.Learner]) -> Answers:
    """The answers of learners on features, a mean over them."""
    return mean_of([asked(embedded.Embedded(one).eval(), tasks_of(place, way)) for one in each])


def on_pictures(place: Place, way: int, each: Sequence[learners.Learner]) -> Answers:
    """The answers of learners on the pictures themselves, a mean over them."""
    settings, found = {"episodes": EPISODES, "seed": SEED}, []
    for one in each:
        source, indices = (EpisodeSampler(data, way, SHOT, QUERIES) for data in
                           (place.data, without_pictures(place.data)))  # fmt: skip
        found.append(asked(*embedded.once(one, source, indices, **settings)))
    return mean_of(found)


def mean_of(each: Sequence[Answers]) -> Answers:
    """The mean over learners that answered the same tasks."""
    (picture, *others) = [one.picture for one in each]
    assert all(torch.equal(picture, other) for other in others)
    return Answers(torch.stack([one.right for one in each]).mean(0), picture, each[0].digest)


def interval(right: Tensor, picture: Tensor, clusters: Tensor) -> list[float]:
    """The interval over the data of a mean over queries [episodes, queries]: whole clusters are drawn."""
    cluster = clusters[picture].flatten()
    sums = torch.zeros(int(clusters.max()) + 1, 2, dtype=torch.float64)
    sums.index_add_(0, cluster, torch.stack([right.flatten(), torch.ones(right.numel()).double()], 1))
    _, low, high = statistics.bootstrap_interval(
        sums[sums[:, 1] > 0], lambda some: some[:, 0].sum() / some[:, 1].sum(), draws=BOOTSTRAP
    )
    return [round(low, 5), round(high, 5)]


def row_of(answers: Answers, place: Place) -> dict[str, Any]:
    """The accuracy with its two intervals."""
    mean, half = statistics.mean_interval(answers.right.mean(1))
    return {
        "accuracy": round(mean, 5),
        "ci95 over episodes": round(half, 5),
        "interval over the data": interval(answers.right, answers.picture, place.clusters),
    }


def compared(first: Answers, second: Answers, place: Place) -> dict[str, Any]:
    """first minus second, with both intervals."""
    pair = statistics.paired(first.right.mean(1), second.right.mean(1))
    return {
        "difference": round(pair.difference, 5),
        "over episodes": [round(pair.lower, 5), round(pair.upper, 5)],
        "over the data": interval(first.right - second.right, first.picture, place.clusters),
        "d": round(statistics.effect_size(first.right.mean(1), second.right.mean(1)), 3),
    }


def sentence(where: str, first: str, second: str, pair: dict[str, Any]) -> str:
    """Who wins, by how much and how surely; or that nobody does. pair: of `compared`, first minus second."""
    ends = [pair["over episodes"], pair["over the data"]]
    if not (all(low > 0 for low, _ in ends) or all(high < 0 for _, high in ends)):
        return (
            f"{where}: no winner between {first} and {second}; the paired difference is "
            f"{100 * pair['difference']:+.1f} points, {told(ends)}, and one of the two intervals contains 0."
        )
    winner, loser = (first, second) if pair["difference"] > 0 else (second, first)
    if pair["difference"] < 0:
        ends = [[-high, -low] for low, high in ends]
    return (
        f"{where}: {winner} wins against {loser}; the paired difference is {100 * abs(pair['difference']):.1f} points, "
        f"{told(ends)}."
    )


def told(ends: Sequence[Sequence[float]]) -> str:
    """Two intervals in words."""
    episodes, data = (f"{100 * low:+.1f} to {100 * high:+.1f}" for low, high in ends)
    return f"95 % interval {episodes} over episodes and {data} over the data"


def placed(where: str, place: Place, way: int, answers: dict[str, Answers], head: str) -> dict[str, Any]:
    """All that is stored of a place: accuracies, the chosen head against each other method, the sentences."""
    (digest,) = {one.digest for one in answers.values()}
    rivals = [name for name in answers if name not in HEADS]
    pairs = {f"{head} minus {rival}": compared(answers[head], answers[rival], place) for rival in rivals}
    names = {rival: rival if rival != "incontext on features" else "the in-context learner on it" for rival in rivals}
    data = place.data
    return {
        "data": f"{data.name} {data.split}, {data.classes} classes, {len(data.images)} pictures",
        "content": data.content,
        "digest": digest,
        "way": way,
        "clusters": len(place.clusters.unique()),
        "methods": {name: row_of(one, place) for name, one in answers.items()},
        "pairs": pairs,
        "sentences": [
            sentence(where, f"the frozen network ({head})", names[rival], pairs[f"{head} minus {rival}"])
            for rival in rivals
        ],
    }


# ------------------------------------------------------------------ seen before?


def groups_of(names: Sequence[str]) -> dict[str, list[int]]:
    """The classes that ImageNet's labels hold, those that they do not, and of these those without a near relative."""
    met = [k for k, name in enumerate(names) if name in caltech101.IN_IMAGENET]
    rest = [k for k in range(len(names)) if k not in met]
    return {"seen": met, "not seen": rest, "not seen, nor a near relative": [
        k for k in rest if names[k] not in caltech101.NEAR_IMAGENET
    ]}  # fmt: skip


def seen(place: Place, answers: Answers, head: str) -> dict[str, Any]:
    """The accuracy of each class and of each group, in tasks of all classes and in tasks of the group alone."""
    label, names = labels_of(place.data)[answers.picture], place.data.names
    classes = {
        name: {
            "in ImageNet": caltech101.IN_IMAGENET.get(name),
            "near in ImageNet": caltech101.NEAR_IMAGENET.get(name),
            "accuracy": round(answers.right[label == k].mean().item(), 4),
            "queries": int((label == k).sum()),
        }
        for k, name in enumerate(names)
    }
    groups = {}
    for name, members in groups_of(names).items():
        each = torch.tensor([classes[names[k]]["accuracy"] for k in members], dtype=torch.float64)
        _, low, high = statistics.bootstrap_interval(each, draws=BOOTSTRAP)
        alone = place.of_classes(members)
        groups[name] = {
            "classes": len(members),
            "accuracy in tasks of all classes, mean over classes": round(each.mean().item(), 5),
            "interval over classes": [round(low, 5), round(high, 5)],
            "in tasks of these classes alone": row_of(on_features(alone, 5, [headed(head, None)]), alone),
        }
    return {"head": head, "classes": classes, "groups": groups}


def copies(network: pretrained.Backbone, place: Place, answers: Answers, head: str) -> dict[str, Any]:
    """The accuracy without 92 pictures, chosen in two ways."""
    with torch.no_grad():
        surest = network.network.classifier(place.features).softmax(1).amax(1)
    sums = torch.zeros(len(place.features), 2, dtype=torch.float64)
    right, picture = answers.right.flatten(), answers.picture.flatten()
    sums.index_add_(0, picture, torch.stack([right - right.mean(), torch.ones_like(right)], 1))
    found = {"pictures": COPIES}
    for name, score in {"surest": surest, "answered best": sums[:, 0]}.items():
        left = place.some(without(place.data, score))
        found[f"without the {name}"] = row_of(on_features(left, 5, [headed(head, None)]), left)
    return found


def without(data: ClassImages, score: Tensor) -> Tensor:
    """All pictures but the COPIES with the highest score, bool [pictures]; each class keeps as many as a task takes."""
    kept, left, label = torch.ones(len(score), dtype=torch.bool), data.counts.tolist(), labels_of(data).tolist()
    out = 0
    for picture in score.argsort(descending=True).tolist():
        if out < COPIES and left[label[picture]] > SHOT + QUERIES:
            kept[picture], left[label[picture]], out = False, left[label[picture]] - 1, out + 1
    return kept


# ------------------------------------------------------------------ all of it


def measure(kept: Path | None) -> dict[str, Any]:
    """All that the file holds. kept: where the trained weights are kept."""
    network = pretrained.backbone()
    whole = place_of(network, datasets.load("caltech101", "all"))
    parts = {part: [whole.data.names.index(name) for name in caltech101.SPLITS[part]] for part in caltech101.SPLITS}
    train, val, test = (relabelled(whole.of_classes(parts[part])) for part in ("train", "val", "test"))
    centre = train.features.mean(0)
    tried = {head: on_features(val, 5, [headed(head, centre)]).right.mean().item() for head in HEADS}
    head = max(tried, key=tried.get)
    print("validation", tried, flush=True)

    photos = [own(train.data, seed, kept) for seed in SEEDS]
    readers = [in_context(train, val, seed, kept) for seed in SEEDS]
    protos = [learner for learner, _ in photos]
    pixels = [learners.build("pixels", way=5)]
    print("trained", photos[0][1], flush=True)

    found = {}
    everything = {one: on_features(whole, 5, [headed(one, None)]) for one in HEADS}
    everything["pixels"] = on_pictures(whole, 5, pixels)
    found["Caltech-101, all 101 classes"] = (whole, 5, everything)
    found["Caltech-101, 20 test classes"] = (test, 5, all_of(test, 5, centre, readers, protos, pixels))
    blood = place_of(network, *cells())
    found["BCCD, blood cells"] = (blood, 3, all_of(blood, 3, centre, readers, protos, pixels))
    ink, glyphs, middle = characters(network, head)
    checkpoints = [learners.load(places.data() / "checkpoints" / f"prototypical-seed{seed}") for seed in SEEDS]
    bright = replace(glyphs, data=inverted(glyphs.data)) if ink["chosen"] == "dark on white" else glyphs
    of_glyphs = all_of(glyphs, 5, middle, readers, None, pixels) | {"prototypical": on_pictures(bright, 5, checkpoints)}
    found["glyphs, characters"] = (glyphs, 5, of_glyphs)

    batch = torch.zeros(1, 3, SIZE, SIZE)
    return {
        "command": COMMAND,
        "torch": torch.__version__,
        "seed": SEED,
        "seeds": list(SEEDS),
        "episodes": EPISODES,
        "shot": SHOT,
        "query": QUERIES,
        "backbone": {
            "name": network.name,
            "weights file": pretrained.SHA256,
            "pixels": SIZE,
            "weights": sum(one.numel() for one in network.parameters()),
            "FLOP of a picture": counted_flops(network.embed, batch),
            "pre-trained on": "ImageNet with labels, 1.28 million photos of 1,000 classes; not ours, and not counted",
        },
        "head": {"chosen": head, "accuracy on Caltech-101's validation classes": {
            one: round(value, 5) for one, value in tried.items()
        }},
        "ink": ink,
        "trained here": {"prototypical": OWN | photos[0][1], "incontext on features": IN_CONTEXT},
        "places": {where: placed(where, *one, head) for where, one in found.items()},
        "seen": seen(whole, everything[head], head),
        "copies": copies(network, whole, everything[head], head),
    }  # fmt: skip


def relabelled(place: Place) -> Place:
    """A part of a place whose clusters are its own classes."""
    return replace(place, clusters=labels_of(place.data))


def all_of(
    place: Place, way: int, centre: Tensor, readers: list, protos: list | None, pixels: list
) -> dict[str, Answers]:
    """The answers of all methods at a place."""
    answers = {one: on_features(place, way, [headed(one, centre)]) for one in HEADS}
    answers["incontext on features"] = on_features(place, way, readers)
    if protos:
        answers["prototypical"] = on_pictures(place, way, protos)
    return answers | {"pixels": on_pictures(place, way, pixels)}


def characters(network: pretrained.Backbone, head: str) -> tuple[dict[str, Any], Place, Tensor]:
    """The test scripts of glyphs, drawn as is better for the frozen network on validation scripts; and the centre."""
    val = datasets.load("glyphs", "val").select(range(0, 195, 8))
    kinds = {"bright on black": lambda data: data, "dark on white": inverted}
    tried = {}
    for name, drawn in kinds.items():
        place = place_of(network, drawn(val))
        tried[name] = on_features(place, 5, [headed(head, place.features.mean(0))]).right.mean().item()
    chosen = max(tried, key=tried.get)
    train = kinds[chosen](datasets.load("glyphs", "train").select(range(0, 3000, 60)))
    test = datasets.load("glyphs", "test")
    place = place_of(network, kinds[chosen](test.select(range(0, test.classes, 2))))
    ink = {"chosen": chosen, "accuracy on validation scripts": {one: round(value, 5) for one, value in tried.items()}}
    return ink, place, features_of(network, train).mean(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--kept", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    stored = files.read_json(OUT) if OUT.is_file() else {}
    now = measure(given.kept)
    for place in now["places"].values():
        print(*place["sentences"], sep="\n", flush=True)
    if stored not in ({}, now):
        print(f"{OUT} says otherwise")
    if given.write:
        files.write_json(OUT, now)
