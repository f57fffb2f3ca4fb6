"""The checks of notebook 02: the listing's network, what moved, one task by hand, a paired difference, an outer loss.

`inputs` draws a fresh problem, `probe` calls the answer and measures what it returns, `judge` compares with oracles
that share no code with the package (bookkeeping on numbered images, plain loops) and names well-known mistakes.
"""

import math
from collections.abc import Callable, Set

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.datasets import ClassImages
from mlcourse.episodes import EpisodeSampler
from mlcourse.learners import prototypes, squared_distances
from mlcourse.statistics import Z95, mean_interval
from mlcourse.teaching.checks import Check, close
from mlcourse.teaching.oracles import Unnamed, first_mistake, randn, told_apart

Tensors = dict[str, Tensor]
RTOL = 2e-4  # an answer that computes in float32 passes; the mistakes below are off by far more


def _whole(generator: torch.Generator, low: int, high: int) -> int:
    """A random whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _close(value: Tensor, expected: Tensor) -> bool:
    return close(value.double(), torch.as_tensor(expected, dtype=torch.float64), rtol=RTOL)


def _first(value: Tensor, mistakes: dict[str, Tensor]) -> str | None:
    """The diagnosis of the mistake that gives this value."""
    wrong = {words: torch.as_tensor(one, dtype=torch.float64) for words, one in mistakes.items()}
    return first_mistake(value.double(), wrong, RTOL)


# ------------------------------------------------------------------ 02.1 the listing's network, repaired


def listing_network(channels: int, size: int, classes: int) -> nn.Sequential:
    """The listing's inner network with its flaws repaired: [n, channels, size, size] -> logits [n, classes].

    Two convolutions 3×3 (64, 128 channels), each followed by ReLU and 2×2 pooling; then 1024 features and, as the last
    layer, the head. size: a multiple of 4.
    """
    side = size // 4
    return nn.Sequential(
        nn.Conv2d(channels, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128 * side * side, 1024),
        nn.ReLU(),
        nn.Linear(1024, classes),
    )


def _network_inputs(channels: int, size: int) -> Callable[[torch.Generator], Tensors]:
    def make(generator: torch.Generator) -> Tensors:
        return {"images": randn(generator, 8, channels, size, size), "classes": torch.tensor(_whole(generator, 5, 12))}

    return make


def _network_probe(answer: Callable, inputs: Tensors) -> Tensors:
    images, classes = inputs["images"].float(), int(inputs["classes"])  # float32: half the time
    network = answer(images.shape[1], images.shape[2], classes)
    if not isinstance(network, nn.Sequential) or not len(network):
        raise TypeError("it needs to be an nn.Sequential whose last layer is the head, an nn.Linear")
    if not isinstance(network[-1], nn.Linear):
        raise TypeError(
            f"its last layer is {type(network[-1]).__name__}; it must be the head, an nn.Linear, and nothing after it "
            "(cross-entropy wants logits, and does the softmax itself)"
        )
    network = network.float().eval()
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    outputs = {
        "fits": torch.tensor(False),
        "padded": torch.tensor(all(m.padding in ("same", (1, 1)) for m in convolutions)),
        "flattens": torch.tensor(any(isinstance(m, nn.Flatten | nn.Unflatten) for m in network.modules())),
        "noisy": torch.tensor(False),
        "built as": torch.tensor(0),
        "channels": torch.tensor(convolutions[0].in_channels if convolutions else -1),
        "rows and columns": torch.zeros(2, dtype=torch.int64),
        "parameters": torch.tensor(0),
        "unbent": torch.tensor(0),
        "smooth": torch.tensor(0),
        "logits": torch.zeros(len(images), classes),
        "alone": torch.zeros(len(images), classes),
        "mirrored": torch.zeros(len(images), classes),
        "idle": torch.tensor(0),
    }
    try:
        logits, unbent, smooth = _logits_and_bends(network, images)
    except RuntimeError as error:
        if not any(word in str(error) for word in ("shape", "size", "channels")):
            raise
        return outputs
    outputs |= {"fits": torch.tensor(True), "rows and columns": torch.tensor([len(logits), logits[0].numel()])}
    outputs |= {"parameters": torch.tensor(sum(p.numel() for p in network.parameters()))} | {
        "unbent": unbent,
        "smooth": smooth,
    }
    if logits.shape == outputs["logits"].shape:
        grads = torch.autograd.grad(
            (logits * images.flatten(1)[:, :classes]).sum(), list(network.parameters()), allow_unused=True
        )
        outputs["idle"] = torch.tensor(sum(g is None or not bool(g.any()) for g in grads))
        outputs |= {"logits": logits, "alone": torch.cat([network(image[None]) for image in images])}
        outputs["built as"] = torch.tensor(_built_as(network, images, logits.detach()))
        with torch.no_grad():  # the head with its signs changed gives minus the logits, if nothing bends them after it
            for value in network[-1].parameters():
                value.neg_()
            outputs["mirrored"] = network(images)
            # last: in training a batch normalisation changes
            outputs["noisy"] = torch.tensor(not close(network.train()(images), outputs["mirrored"], rtol=RTOL))
    return outputs


def _logits_and_bends(network: nn.Sequential, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logits, and into how many layers but the first negative numbers go, and into how many no zeros.

    After a ReLU, however it is written, no number is negative and many are 0.
    """
    entered: list[Tensor] = []
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [m.register_forward_pre_hook(lambda _, x: entered.append(x[0].detach())) for m in layers]
    try:
        logits = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    negative = sum(bool((x < 0).any()) for x in entered[1:])
    smooth = sum(not bool((x == 0).any()) for x in entered[1:])
    return logits, torch.tensor(negative), torch.tensor(smooth)


BUILT = {  # what may stand between the layers of the listing: the words say what is wrong with it
    "": (F.relu, F.max_pool2d, (2, 2)),
    "You pool by averages. The listing takes the largest of four numbers: nn.MaxPool2d(2).": (
        F.relu,
        F.avg_pool2d,
        (2, 2),
    ),
    "Both poolings come after the second convolution. Pool after EACH of the two.": (F.relu, F.max_pool2d, (1, 4)),
    "Both poolings come after the first convolution. Pool after EACH of the two.": (F.relu, F.max_pool2d, (4, 1)),
}


def _built_as(network: nn.Sequential, images: Tensor, logits: Tensor) -> int:
    """The place in BUILT of the network that has the same weights and the same logits; else -1, with strides -2."""
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if [type(m) for m in layers] != [nn.Conv2d, nn.Conv2d, nn.Linear, nn.Linear]:
        return -1
    if any(m.stride != (1, 1) for m in layers[:2]):
        return -2
    for place, (bend, pool, sides) in enumerate(BUILT.values()):
        x = images
        for layer, side in zip(layers, sides):
            x = pool(bend(layer(x)), side)
        if x[0].numel() == layers[2].in_features and close(layers[3](bend(layers[2](x.flatten(1)))), logits, rtol=RTOL):
            return place
    return -1


def _network_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    images, classes = inputs["images"], int(inputs["classes"])
    channels, size = images.shape[1], images.shape[2]
    if not outputs["fits"]:
        if outputs["channels"] not in (-1, channels):
            return f"Its first convolution takes {int(outputs['channels'])} channels, but the images have {channels}."
        if not outputs["padded"]:
            return (
                "A 3×3 convolution without padding loses a pixel at each border, so fewer numbers arrive. "
                "The listing has padding=1, which keeps the size."
            )
        if not outputs["flattens"]:
            return "There is no nn.Flatten(): the maps come as [n, 128, rows, columns], and a Linear takes rows."
        return (
            f"It cannot take images of {channels}×{size}×{size}: a layer gets more or fewer numbers than it expects. "
            "Print the shape before the layer of 1024. The images must stand first (nn.Flatten() keeps them apart), "
            "and the number of features must follow from size, after two poolings."
        )
    rows, columns = outputs["rows and columns"].tolist()
    if rows != len(images):
        return (
            f"{len(images)} images became {rows} rows: the flattening cuts each image into pieces or glues images. "
            "Keep the batch dimension: nn.Flatten() leaves dimension 0 alone."
        )
    if columns != classes:
        return (
            f"The head gives {columns} numbers an image. Cross-entropy needs one logit for each of {classes} classes."
        )
    logits = outputs["logits"]
    if not close(outputs["alone"], logits):
        return "The answer to one image changes with its neighbours in the batch: the flattening mixes images."
    if _close(logits.sum(1), torch.ones(len(images))) and bool((logits >= 0).all()):
        return (
            "The rows add up to 1: there is a softmax at the end. Cross-entropy wants logits, it has its own softmax."
        )
    if outputs["noisy"]:
        return (
            "In training it answers otherwise than in testing: it holds dropout or batch normalisation. The "
            "listing has neither."
        )
    if not _close(-outputs["mirrored"], logits):
        return "Something bends the logits after the head, a ReLU for instance. It hides half of what the head can say."
    return _network_size(channels, size, classes, int(outputs["parameters"])) or _network_layers(outputs)


def _network_layers(outputs: Tensors) -> str | None:
    """The right number of parameters is not enough: what stands between the layers?"""
    if outputs["idle"]:
        return f"{int(outputs['idle'])} of its parameters get no gradient: a layer is cut off from the output."
    if outputs["unbent"]:
        return (
            f"Into {int(outputs['unbent'])} of its layers go negative numbers: a ReLU is missing. Put one after each "
            "convolution and one after the layer of 1024: without them two layers are no more than one."
        )
    if outputs["smooth"]:
        return (
            f"Into {int(outputs['smooth'])} of its layers goes no 0 at all, so what stands before them is no ReLU. "
            "The listing has ReLUs: nn.ReLU()."
        )
    if outputs["built as"] == -2:
        return (
            "A convolution moves on by more than one pixel (stride). The listing's do not: its poolings halve the side."
        )
    if outputs["built as"] == -1:
        return (
            "It has the listing's layers, but something else stands between them: it is a ReLU and a 2×2 max pooling "
            "after each convolution, and a ReLU after the layer of 1024."
        )
    return list(BUILT)[int(outputs["built as"])] or None


def _network_size(channels: int, size: int, classes: int, parameters: int) -> str | None:
    """Compare the number of parameters with the listing's, and say which layer may differ."""

    def count(side: int) -> int:
        convolutions = 64 * (9 * channels + 1) + 128 * (9 * 64 + 1)
        return convolutions + 1024 * (128 * side * side + 1) + classes * 1025

    if parameters == count(size // 2):
        return (
            "This works, but it pools once: the next layer is four times as large, and the lesson would wait for it. "
            "Pool after each of the two convolutions."
        )
    if parameters != count(size // 4):
        return (
            f"It has {parameters:,} parameters; the listing's layers, pooled twice, have {count(size // 4):,}. "
            "Keep 3×3 convolutions to 64 and 128 channels, then 1024, then the classes."
        )
    return None


inner_network = Check(
    exercise="02.1",
    title="Repair the inner network",
    # small images: the layers are the same, and what comes after them has millions of weights less to draw
    inputs={"8×8 in colour": _network_inputs(3, 8), "12×12 in grey": _network_inputs(1, 12)},
    probe=_network_probe,
    judge=_network_judge,
    reference=listing_network,
    repeats=1,
)


# ------------------------------------------------------------------ 02.2 what moved?


def moved_parameters(module: nn.Module, train: Callable[[], object]) -> set[str]:
    """Call `train()` once; return the names of the parameters of `module` whose values it changed."""
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    train()
    return {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}


MOVED_NAMES = ("scale", "inner.weight", "inner.bias", "head.weight", "head.bias")
MOVED_BUFFER = "inner.seen"


def _moved_inputs(size: float, kind: str = "") -> Callable[[torch.Generator], Tensors]:
    def make(generator: torch.Generator) -> Tensors:
        steps = size * randn(generator, 5, 6)
        values = randn(generator, 5, 6)
        if kind == "balanced":  # the entries of each parameter move, their sum does not
            steps = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64) * steps[:, :1]
        if kind == "single":  # one entry of each parameter moves, the others stay
            steps = steps * (torch.arange(6) == _whole(generator, 1, 4))  # not the first, not the last
        if kind == "turned":  # all signs change: no length does
            steps = -2 * values
        # a weight and a bias, and sometimes a third: whoever looks at one kind only misses the other
        which = (
            torch.tensor([2 * _whole(generator, 0, 1), 2 * _whole(generator, 0, 1) + 1, _whole(generator, 0, 3)]) + 1
        )
        # and the module's own parameter: whoever stays on its first floor reports that one alone
        chosen = torch.zeros(5, 1, dtype=torch.bool).index_fill(0, which, True).index_fill(0, torch.tensor([0]), True)
        return {"values": values, "steps": steps * chosen}

    return make


def _moved_probe(answer: Callable, inputs: Tensors) -> Tensors:
    module = nn.ModuleDict({"inner": nn.Module(), "head": nn.Module()})
    for name, values in zip(MOVED_NAMES, inputs["values"], strict=True):
        *where, what = name.split(".")
        setattr(module[where[0]] if where else module, what, nn.Parameter(values.clone()))
    module["inner"].register_buffer("seen", torch.zeros(()))  # such as the counter of a batch normalisation
    calls = 0

    def train() -> None:
        nonlocal calls
        calls += 1
        module["inner"].seen += 1
        for value, step in zip(module.parameters(), inputs["steps"], strict=True):
            value.grad = torch.ones_like(value)  # as after loss.backward(): every parameter has a gradient
            value.data.add_(step)

    names = answer(module, train)
    if not isinstance(names, Set | list | tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError("it needs a set of names, such as {'head.weight'}")
    names = set(names)
    return {
        "moved": torch.tensor([name in names for name in MOVED_NAMES]),
        "unknown": torch.tensor(len(names - {*MOVED_NAMES, MOVED_BUFFER})),
        "buffer": torch.tensor(MOVED_BUFFER in names),
        "calls": torch.tensor(calls),
    }


def _moved_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    right = inputs["steps"].ne(0).any(1)
    got = outputs["moved"]
    if outputs["calls"] != 1:
        return f"train() was called {int(outputs['calls'])} times. Copy the values, call it once, compare."
    if outputs["unknown"]:
        return "Some names are none of module.named_parameters(): return those names, such as 'head.weight'."
    if outputs["buffer"]:
        return (
            "You report a buffer, 'inner.seen'. state_dict() holds buffers too, such as the counters of a batch "
            "normalisation; parameters are what module.named_parameters() gives."
        )
    if torch.equal(got, right):
        return None
    if torch.equal(got, ~right):
        return "These are the names whose values stayed as they were. Return the others, those that moved."
    extra, missing = got & ~right, right & ~got
    if bool(got.all()) or bool(extra.any()):
        return (
            "You report parameters whose values stayed the same. A gradient is not a movement: "
            "after backward() all have one, but an optimizer moves only those it was given. Compare values."
        )
    steps = inputs["steps"][missing]
    if bool((steps <= 0).all()) and bool(got.any()):
        return "You report only what became larger. A parameter that became smaller has moved, too: compare with !=."
    if bool((steps.sum(1).abs() < 1e-9).all()):
        return "You compare sums or means: entries that move in opposite directions cancel. Compare entry by entry."
    if bool(torch.isclose(steps, -2 * inputs["values"][missing]).all()):
        return "You compare lengths or sizes: a parameter that only changes its sign has moved. Compare entry by entry."
    if bool((steps.ne(0).sum(1) == 1).all()):
        return (
            "A parameter has moved as soon as one of its entries has. You ask whether all of them did, or look at "
            "some of them only: compare with torch.equal, or (new != old).any()."
        )
    if bool((steps.abs() < 1e-5).all()):
        return "A small movement is a movement: compare exactly (torch.equal), not within a tolerance."
    if got[0] and not got[1:].any():
        return (
            "You report parameters of the module itself only. The names go down into its parts ('head.weight'): "
            "module.named_parameters() without recurse=False."
        )
    if not bool(got.any()):
        return (
            "You report nothing, but something moved. A reference to a parameter moves along with it, and a copy made "
            "after train() comes too late: keep a copy from before, .detach().clone()."
        )
    return "You miss parameters that moved: compare every name in module.named_parameters()."


moved = Check(
    exercise="02.2",
    title="Which parameters moved?",
    inputs={
        "plain steps": _moved_inputs(0.1),
        "steps that add up to nothing": _moved_inputs(0.1, "balanced"),
        "small steps": _moved_inputs(1e-7),
        "one entry of a parameter moves": _moved_inputs(0.1, "single"),
        "parameters that change their sign": _moved_inputs(0.1, "turned"),
    },
    probe=_moved_probe,
    judge=_moved_judge,
    reference=moved_parameters,
)


# ------------------------------------------------------------------ 02.3 one task by hand

DRAWS = 64  # tasks drawn by one probe: rare events (a class never drawn) then have odds below 1e-9


def one_task(
    data: ClassImages, way: int, shot: int, query: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One task without the leading dimension: support_x, support_y, query_x, query_y (as in `Episode`)."""
    task = EpisodeSampler(data, way, shot, query).sample(1, generator)
    return task.support_x[0], task.support_y[0], task.query_x[0], task.query_y[0]


def _sample_inputs(generator: torch.Generator) -> Tensors:
    classes = _whole(generator, 6, 8)
    shot = _whole(generator, 2, 3)  # one image per class would hide labels in another order
    query = shot + _whole(generator, 1, 2)  # not as many: who exchanges the two is found out
    counts = shot + query + 1 + torch.randint(1, 4, (classes,), generator=generator)
    counts[_whole(generator, 0, classes - 1)] = shot + query + 1  # one is the smallest: who takes its size is found out
    return {
        "counts": counts,
        "way": torch.tensor(_whole(generator, 3, 4)),
        "shot": torch.tensor(shot),
        "query": torch.tensor(query),
        "seed": torch.tensor(_whole(generator, 0, 10**6)),
    }


def _numbered(counts: Tensor) -> ClassImages:
    """A data set whose images carry their own number: image i is filled with the grey value i + 1."""
    total, names = int(counts.sum()), tuple(f"class {i}" for i in range(len(counts)))
    images = (torch.arange(total) + 1).to(torch.uint8).view(total, 1, 1, 1).expand(total, 1, 2, 2).clone()
    return ClassImages(images, counts.clone(), names, names, "numbered", "train")


def _numbers(images: Tensor) -> Tensor:
    """Which images these are, whether they come as uint8 or divided by 255: [n, 1, 2, 2] -> int64 [n]."""
    values = images.double().amax((1, 2, 3))
    return (values * (255 if images.dtype.is_floating_point and float(values.max()) <= 1 else 1)).round().long() - 1


def _sample_probe(answer: Callable, inputs: Tensors) -> Tensors:
    way, shot, query, seed = (int(inputs[name]) for name in ("way", "shot", "query", "seed"))
    data = _numbered(inputs["counts"])
    sizes = {"support_x": way * shot, "support_y": way * shot, "query_x": way * query, "query_y": way * query}
    outputs = {name: torch.zeros(DRAWS, n, dtype=torch.int64) for name, n in sizes.items()}
    outputs |= {"shapes": torch.full((4, 5), -1), "whole labels": torch.tensor(True), "repeats": torch.tensor(True)}

    def draw(number: int) -> list[Tensor]:
        task = answer(data, way, shot, query, torch.Generator().manual_seed(seed + number))
        if not isinstance(task, tuple | list) or len(task) != 4 or not all(isinstance(part, Tensor) for part in task):
            raise TypeError("it needs four tensors, support_x, support_y, query_x, query_y, in this order")
        return list(task)

    right_shapes = _right_shapes(inputs)
    with torch.random.fork_rng(devices=[]):
        for number in range(DRAWS):
            torch.default_generator.manual_seed(number)  # only the given generator may decide
            task = draw(number)
            shapes = [[*part.shape, -1, -1, -1, -1, -1][:5] for part in task]
            whole = not any(task[i].dtype.is_floating_point for i in (1, 3))
            outputs |= {"shapes": torch.tensor(shapes), "whole labels": torch.tensor(whole)}
            if shapes != right_shapes or not whole:
                return outputs
            task = [_numbers(task[0]), task[1], _numbers(task[2]), task[3]]
            for name, part in zip(sizes, task, strict=True):
                outputs[name][number] = part
        torch.default_generator.manual_seed(DRAWS)
        outputs["repeats"] = torch.tensor(
            all(torch.equal(_numbers(draw(n)[0]), outputs["support_x"][n]) for n in range(DRAWS - 3, DRAWS))
        )
    return outputs


def _right_shapes(inputs: Tensors) -> list[list[int]]:
    support, queries = int(inputs["way"] * inputs["shot"]), int(inputs["way"] * inputs["query"])
    return [[support, 1, 2, 2, -1], [support, -1, -1, -1, -1], [queries, 1, 2, 2, -1], [queries, -1, -1, -1, -1]]


def _sample_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    return _sample_form(inputs, outputs) or _sample_task(inputs, outputs) or _sample_many(inputs, outputs)


def _sample_form(inputs: Tensors, outputs: Tensors) -> str | None:
    """Shapes and types."""
    names = ("support_x", "support_y", "query_x", "query_y")
    shapes = [[n for n in shape if n >= 0] for shape in outputs["shapes"].tolist()]
    wanted = [[n for n in shape if n >= 0] for shape in _right_shapes(inputs)]
    if shapes != wanted and shapes == [wanted[2], wanted[3], wanted[0], wanted[1]]:
        return "The numbers of images are exchanged: shot in each class of the support, query in each of the queries."
    if shapes != wanted and sorted(shapes) == sorted(wanted):
        return f"The four results stand in another order: return {', '.join(names)}."
    for name, got, right in zip(names, outputs["shapes"].tolist(), _right_shapes(inputs), strict=True):
        got, right = [n for n in got if n >= 0], [n for n in right if n >= 0]
        if got == [1, *right]:
            return f"{name} has a leading task dimension {got}. Here it is one task without it: {right}."
        if got != right:
            way, shot, query = (int(inputs[key]) for key in ("way", "shot", "query"))
            return f"{name} has shape {got}; for {way}-way, {shot}-shot and {query} queries per class it is {right}."
    if not outputs["whole labels"]:
        return "The labels are floating point. Labels are whole numbers (int64): torch.arange(way) makes them."
    return None


def _sample_task(inputs: Tensors, outputs: Tensors) -> str | None:
    """What must hold in each single task."""
    way, counts = int(inputs["way"]), inputs["counts"]
    class_of = torch.arange(len(counts)).repeat_interleave(counts)
    support_x, query_x, support_y, query_y = (
        outputs[name] for name in ("support_x", "query_x", "support_y", "query_y")
    )
    for labels, per_class in ((support_y, inputs["shot"]), (query_y, inputs["query"])):
        if int(labels.min()) < 0 or int(labels.max()) >= way:
            return (
                f"The labels run from {int(labels.min())} to {int(labels.max())}. In a task they are 0 … {way - 1}, "
                "not the numbers of the classes in the data set."
            )
        if not bool((F.one_hot(labels, way).sum(1) == per_class).all()):
            return (
                "The labels do not occur equally often: each shot times in the support, query times among the queries."
            )
    order = support_y.argsort(dim=1, stable=True)
    owner = class_of[support_x].gather(1, order).view(DRAWS, way, -1)  # [draws, way, shot]: the class behind each label
    if bool((owner != owner[..., :1]).any()):
        return "Support images of one label come from different classes: repeat each label shot times, class by class."
    owner = owner[..., 0]
    if bool((class_of[query_x] != owner.gather(1, query_y)).any()):
        return (
            "A query's label does not name its class: a label means the same class in the support and in the queries."
        )
    if any(len(set(row)) < way for row in owner.tolist()):
        return "Two labels of one task mean the same class: draw classes without replacement (torch.randperm)."
    if any(len(set(row)) < len(row) for row in [*support_x.tolist(), *query_x.tolist()]):
        return "An image occurs twice in one task: draw the samples of a class without replacement (torch.randperm)."
    if any(set(s) & set(q) for s, q in zip(support_x.tolist(), query_x.tolist(), strict=True)):
        return "Support and query share images: the exam was seen before. Draw shot + query samples at once, then cut."
    return None


def _sample_many(inputs: Tensors, outputs: Tensors) -> str | None:
    """What must hold over many tasks."""
    counts = inputs["counts"]
    class_of = torch.arange(len(counts)).repeat_interleave(counts)
    support, queries = outputs["support_x"], outputs["query_x"]
    if not outputs["repeats"]:
        return "The same generator state gave two different tasks: hand generator=generator to every draw."
    if bool((support.sort(1).values == support[:1].sort(1).values).all()):
        return "Every generator gives the same task: draw from it, instead of making one of your own."
    drawn = torch.cat([support, queries], 1)
    if len(class_of[drawn].unique()) < len(counts):
        return f"In {DRAWS} tasks some classes were never drawn: all {len(counts)} classes must have their chance."
    owner = class_of[support.gather(1, outputs["support_y"].argsort(dim=1, stable=True))][:, :: int(inputs["shot"])]
    if bool((owner.diff(dim=1) > 0).all()):
        return (
            "Labels are not shuffled per task: they follow the order of the classes in the data set, "
            "so a label gives its class away. Keep the random order in which the classes were drawn."
        )
    if _neighbours(owner.sort(1).values, len(counts)):
        return (
            "The classes of a task are always neighbours in the data set, which are often of one script: draw each by "
            "itself, with torch.randperm."
        )
    by_class = drawn.gather(1, class_of[drawn].argsort(dim=1, stable=True)).view(DRAWS * owner.shape[1], -1)
    moving = len(drawn.unique()) > len(counts) * by_class.shape[1]  # not always the same ones, which is said below
    if moving and _neighbours(by_class.sort(1).values):
        return (
            "The images of a class are always neighbours in the data set: draw each by itself, with torch.randperm, "
            "not one window of them."
        )
    if len(queries.unique()) == len(counts) * int(inputs["query"]) < len(support.unique()):
        return "The same images of a class are always the queries: draw these at random too."
    if len(support.unique()) < 0.6 * len(class_of):
        return "The same images of a class are always the support: draw the samples at random too."
    return _sample_ends(counts, support, queries)


def _sample_ends(counts: Tensor, support: Tensor, queries: Tensor) -> str | None:
    """Whether the first and the last image of a class have their chance, in the support and among the queries."""
    first, last = counts.cumsum(0) - counts, counts.cumsum(0) - 1
    for name, part, other in (("queries", queries, support), ("support images", support, queries)):
        for end, samples in (("first", last), ("last", first)):
            # the other end is drawn, but not here: where it is never drawn, another cause is told below
            if _mostly(samples, other) and _left_over(counts, part, other, end):
                return f"The {name} are always the {end} of the images that are left: draw them at random too."
    if not bool(torch.isin(last, torch.cat([support, queries], 1)).all()):
        return "The last sample of some class is never drawn: classes may differ in size, use the size of each."
    for name, part in (("queries", queries), ("support", support)):
        for end, samples in (("first", first), ("last", last)):
            if not bool(torch.isin(samples, part).any()):
                return f"The {end} image of a class is never in the {name}: each of its images must have its chance."
            if not _mostly(samples, part):
                return (
                    f"The {end} image of most classes is never in the {name}: classes may differ in size, use the size "
                    "of each."
                )
    return None


def _left_over(counts: Tensor, part: Tensor, other: Tensor, end: str) -> bool:
    """Whether, in all tasks, `part` is what stands first, or last, among the images of a class that `other` leaves."""
    ends = counts.cumsum(0).tolist()
    for mine, taken in zip(part.tolist(), other.tolist(), strict=True):
        for size, stop in zip(counts.tolist(), ends, strict=True):
            left = [image for image in range(stop - size, stop) if image not in taken]
            here = sorted(image for image in mine if stop - size <= image < stop)
            if here != (left[: len(here)] if end == "first" else left[len(left) - len(here) :]):
                return False
    return True


def _mostly(samples: Tensor, drawn: Tensor) -> bool:
    """Whether half of the samples, or more, were drawn."""
    return float(torch.isin(samples, drawn).double().mean()) >= 0.5


def _neighbours(numbers: Tensor, round_of: int | None = None) -> bool:
    """Whether every row of sorted numbers follows one on the other, on a line or around a circle of `round_of`."""
    gaps = numbers.diff(dim=1).ne(1).sum(1)
    if round_of is None:
        return not bool(gaps.any())
    closes = (numbers[:, 0] == 0) & (numbers[:, -1] == round_of - 1)
    return bool(((gaps == 0) | ((gaps == 1) & closes)).all())


sample_episode = Check(
    exercise="02.3",
    title="Sample a task by hand",
    inputs=_sample_inputs,
    probe=_sample_probe,
    judge=_sample_judge,
    reference=one_task,
    repeats=1,
)


# ------------------------------------------------------------------ 02.4 a paired difference


def paired_difference(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The mean of a − b over the same episodes [n], and the half width of its 95 % interval."""
    return mean_interval(a - b)


def _paired_inputs(low: float, high: float, ahead: float = 0.08) -> Callable[[torch.Generator], Tensors]:
    """Accuracies of two learners on the same episodes: what makes an episode hard is common to both."""

    def make(generator: torch.Generator) -> Tensors:
        n = _whole(generator, 40, 80)
        hard = low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)
        a, b = (hard + 0.1 * torch.rand(n, generator=generator, dtype=torch.float64) for _ in range(2))
        return {"a": ((a + ahead) * 75).round() / 75, "b": (b * 75).round() / 75}

    return make


def _paired_probe(answer: Callable, inputs: Tensors) -> Tensors:
    result = answer(inputs["a"], inputs["b"])
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError("it needs two numbers, the mean difference and the half width")
    mean, half = (torch.as_tensor(part, dtype=torch.float64) for part in result)
    return {"mean": mean, "half width": half}


def _paired_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    a, b = inputs["a"], inputs["b"]
    (mean, half), got_mean, got = mean_interval(a - b), outputs["mean"], outputs["half width"]
    # where b is the better one, a lost sign is found: b minus a has been found before, where a is
    ends = {"size": abs(mean), "sizes": (a - b).abs().mean(), "two ends": mean - half, "b minus a": -mean}
    ends |= {"a": a.mean(), "b": b.mean(), "middle": (a - b).median()}
    found = next((name for name, value in ends.items() if _close(got_mean, value)), None)
    if not _close(got_mean, mean):
        return {
            "two ends": "You return the two ends of the interval. Return the mean and the half width.",
            "sizes": "The sign of each difference is lost: where b is the better one, a − b is negative.",
            "size": "The sign of the mean is lost: where b is the better one, it is negative.",
            "b minus a": "The sign: it is a − b, positive when a is the better one.",
            "middle": "This is the median of the differences. Take their mean.",
            "a": "This is the mean of a alone. Subtract first: one difference for each episode.",
            "b": "This is the mean of b alone. Subtract first: one difference for each episode.",
            None: Unnamed("The mean difference is {}, you return {}.".format(*told_apart(mean, got_mean))),
        }[found]
    # 1.96, 2 and Student's t are right within their meaning; a slip may lie as near as that
    student = _student(len(a) - 1)
    if (
        any(_close(got, quantile / Z95 * half) for quantile in (Z95, 1.96, 2.0))
        or abs(got * Z95 / half / student - 1) < 4e-3
    ):
        return None
    mistakes = _paired_mistakes(a, b, got)
    shown, yours = told_apart(half, got)
    return _first(got, mistakes) or Unnamed(f"The half width is {shown} (1.96 · s / √n), you return {yours}.")


def _student(freedom: int) -> float:
    """The quantile of 97.5 % of Student's t, by its series around the normal one (from 20 degrees of freedom on)."""
    z = Z95
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2 + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / freedom**3


def _paired_mistakes(a: Tensor, b: Tensor, got: Tensor) -> dict[str, Tensor]:
    """Diagnosis -> the half width that this mistake gives."""
    n, spread = len(a), (a - b).std()
    of_a, of_b = mean_interval(a)[1], mean_interval(b)[1]
    return {
        "This is the interval as if the episodes were different ones, √(half_a² + half_b²). They are the same: take "
        "the difference in each episode first, then its spread. What is hard for both drops out.": torch.tensor(
            math.hypot(of_a, of_b)
        ),
        "You add the two half widths. Take the difference in each episode first, then one interval of it.": (
            torch.tensor(of_a + of_b)
        ),
        "You subtract the two half widths. Take the difference in each episode first, "
        "then one interval of it.": torch.tensor(math.copysign(of_a - of_b, got)),
        "You divide by √(n − 1): s has its n − 1 already, here it is √n.": Z95 * spread / math.sqrt(n - 1),
        "You count 2n episodes: both learners saw the same n, and there are n differences.": Z95
        * spread
        / math.sqrt(2 * n),
        "The pairs are torn apart: each list was sorted by itself. Episode i of a belongs to episode i of b.": (
            torch.tensor(mean_interval(a.sort().values - b.sort().values)[1])
        ),
        "This is the half width of a alone. Use the differences a − b.": torch.tensor(of_a),
        "This is the half width of b alone. Use the differences a − b.": torch.tensor(of_b),
        "The standard deviation divides by n here: for a sample it is n − 1, as in values.std().": (
            Z95 * (a - b).std(correction=0) / math.sqrt(n)
        ),
        "This is the spread of single differences. Their mean is known better, by √n.": spread,
        "This is 1.96 standard deviations: where single differences fall. For the mean, divide by √n.": Z95 * spread,
        "This is the standard error: about 68 % of such intervals hold the truth. For 95 % multiply by 1.96.": (
            spread / math.sqrt(n)
        ),
        "1.645 gives an interval of 90 %. For 95 % it is 1.96.": 1.645 * spread / math.sqrt(n),
        "2.58 gives an interval of 99 %. For 95 % it is 1.96.": 2.576 * spread / math.sqrt(n),
        "This is the full width. The half width stands after the ±.": 2 * Z95 * spread / math.sqrt(n),
        "Divide by √n, not by n: the error of a mean falls with the root.": Z95 * spread / n,
        "This uses the variance: take its root, the standard deviation.": Z95 * spread**2 / math.sqrt(n),
    }


paired = Check(
    exercise="02.4",
    title="A paired difference and its interval",
    inputs={
        "easy and hard episodes": _paired_inputs(0.1, 0.8),
        "much alike episodes": _paired_inputs(0.3, 0.7),
        "b is the better one": _paired_inputs(0.2, 0.8, ahead=-0.08),
    },
    probe=_paired_probe,
    judge=_paired_judge,
    reference=paired_difference,
)


# ------------------------------------------------------------------ 02.5 the outer loss of one task


def task_outer_loss(
    body: Callable[[Tensor], Tensor], support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor, way: int
) -> Tensor:
    """L_outer of one task: the inner problem is solved by the class means, then they are asked about the queries.

    body: images [n, …] -> features [n, D]; labels [n]. The result is a scalar whose gradient reaches the body through
    the support features and the query features (Snell, Swersky, Zemel, *Prototypical Networks for Few-shot Learning*,
    2017, https://arxiv.org/abs/1703.05175).
    """
    centres = prototypes(body(support_x)[None], support_y[None], way)
    logits = -squared_distances(body(query_x)[None], centres)[0]
    return F.cross_entropy(logits, query_y)


def _outer_inputs(shot: int) -> Callable[[torch.Generator], Tensors]:
    def make(generator: torch.Generator) -> Tensors:
        way, query, pixels, size = 3, 4, 6, 5
        labels = torch.arange(way).repeat_interleave(shot)
        return {
            "theta": randn(generator, pixels, size),
            "support_x": randn(generator, way * shot, pixels),
            "support_y": labels[torch.randperm(way * shot, generator=generator)],
            "query_x": randn(generator, way * query, pixels),
            "query_y": torch.arange(way).repeat(query),
            "way": torch.tensor(way),
        }

    return make


def _outer_probe(answer: Callable, inputs: Tensors) -> Tensors:
    theta = inputs["theta"].clone().requires_grad_()

    def body(x: Tensor) -> Tensor:
        return torch.tanh(x @ theta)

    task = [inputs[name] for name in ("support_x", "support_y", "query_x", "query_y")]
    loss = answer(body, *task, int(inputs["way"]))
    if not isinstance(loss, Tensor):
        raise TypeError(f"it needs one tensor, the loss, not a {type(loss).__name__}")
    gradient = torch.zeros_like(theta)
    if loss.requires_grad and loss.dim() == 0:
        (gradient,) = torch.autograd.grad(loss, theta, allow_unused=True, materialize_grads=True)
    return {"loss": loss, "gradient": gradient}


class _Task:
    """The same task by plain loops, each step a method so that the mistakes can be built from it."""

    def __init__(self, inputs: Tensors):
        self.inputs, self.way = inputs, int(inputs["way"])
        self.theta = inputs["theta"].clone().requires_grad_()
        self.support, self.queries = (torch.tanh(inputs[f"{name}_x"] @ self.theta) for name in ("support", "query"))
        self.sy, self.qy = inputs["support_y"], inputs["query_y"]

    def means(self, features: Tensor, labels: Tensor) -> Tensor:
        return torch.stack([features[labels == label].mean(0) for label in range(self.way)])

    def loss(self, centres: Tensor, features: Tensor, labels: Tensor, power: float = 1.0, sign: float = -1.0) -> Tensor:
        distances = torch.stack([((features - centre) ** 2).sum(1) for centre in centres], 1)
        return -torch.log_softmax(sign * distances**power, 1)[torch.arange(len(labels)), labels].mean()

    def twice(self, centres: Tensor) -> Tensor:
        """The loss of a softmax that goes through the softmax of cross-entropy once more."""
        distances = torch.stack([((self.queries - centre) ** 2).sum(1) for centre in centres], 1)
        return F.cross_entropy((-distances).softmax(1), self.qy)

    def slope(self, loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, self.theta, retain_graph=True)[0]


def _outer_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    with torch.enable_grad():
        task = _Task(inputs)
        centres = task.means(task.support, task.sy)
        right = task.loss(centres, task.queries, task.qy)
        if not _close(outputs["loss"], right):
            return _outer_value(task, outputs["loss"], centres)
        if _close(outputs["gradient"], task.slope(right)):
            return None
        cut = task.slope(task.loss(centres.detach(), task.queries, task.qy))
        half = task.slope(task.loss(centres, task.queries.detach(), task.qy))
    mistakes = {
        "The loss is right, but it carries no gradient (detach, no_grad, .item()): the body cannot learn from it.": (
            torch.zeros_like(cut)
        ),
        "The loss is right, but the class means are cut from the graph: the body learns from the queries alone, never "
        "from what its support features do to the means. Leave out the detach or no_grad.": cut,
        "The loss is right, but the query features are cut from the graph: half of the gradient is missing.": half,
    }
    found = _first(outputs["gradient"], mistakes)
    return found or Unnamed("The loss is right, its gradient is not: keep both calls of body in the graph.")


def _outer_value(task: _Task, got: Tensor, centres: Tensor) -> str:
    right = task.loss(centres, task.queries, task.qy)
    both, labels = torch.cat([task.support, task.queries]), torch.cat([task.sy, task.qy])
    in_order = task.support.view(task.way, -1, task.support.shape[1]).mean(1)
    summed = centres * (len(task.sy) // task.way)
    mistakes = {
        "This is the loss on the support set. The outer loss is taken on the queries.": (
            task.loss(centres, task.support, task.sy)
        ),
        "Sign: the nearest mean must get the largest logit. The logit is minus the squared distance.": (
            task.loss(centres, task.queries, task.qy, sign=1.0)
        ),
        "The distances are not squared: the logit is −‖f(x) − v‖², the root is one too many.": (
            task.loss(centres, task.queries, task.qy, power=0.5)
        ),
        "The distances are means over the features: add the squares up, ‖f(x) − v‖² is a sum.": (
            task.loss(centres, task.queries, task.qy, sign=-1 / task.support.shape[1])
        ),
        "The means are taken in the order of the images, not by their labels: in this task the support is shuffled. "
        "Select with support_y == label.": task.loss(in_order, task.queries, task.qy),
        "The means hold the queries too: they are the exam. Average the support features only.": (
            task.loss(task.means(both, labels), task.queries, task.qy)
        ),
        "The centres are the means of the queries: they are the exam. Average the support features.": (
            task.loss(task.means(task.queries, task.qy), task.queries, task.qy)
        ),
        "The logit is minus the squared distance, without the ½ that stands in the inner loss.": (
            task.loss(centres, task.queries, task.qy, sign=-0.5)
        ),
        "There are two softmaxes: F.cross_entropy does its own. Give it the logits, minus the squared distances.": (
            task.twice(centres)
        ),
        "These are dot products with the means: −‖c‖² is missing. The logit is minus the squared distance.": (
            F.cross_entropy(task.queries @ centres.T, task.qy)
        ),
        "The softmax is missing: F.nll_loss takes log-probabilities. F.cross_entropy takes the logits as they are.": (
            ((task.queries - centres[task.qy]) ** 2).sum(1).mean()
        ),
        "The squared distances are divided by √D, as dot products are in transformers. Here they are not.": task.loss(
            centres, task.queries, task.qy, sign=-(task.support.shape[1] ** -0.5)
        ),
        "Each class is asked by its nearest image. Average the features of a class first.": F.cross_entropy(
            torch.stack(
                [-(torch.cdist(task.queries, task.support[task.sy == k]) ** 2).amin(1) for k in range(task.way)], 1
            ),
            task.qy,
        ),
        "These are cosines. The logit is minus the squared distance to the mean.": F.cross_entropy(
            F.normalize(task.queries, dim=1) @ F.normalize(centres, dim=1).T, task.qy
        ),
        "These are absolute differences. The logit is minus the squared distance, Σ (difference)².": F.cross_entropy(
            -torch.cdist(task.queries, centres, p=1), task.qy
        ),
        "The features are scaled to length 1. Compare them as the body gives them.": task.loss(
            task.means(F.normalize(task.support, dim=1), task.sy), F.normalize(task.queries, dim=1), task.qy
        ),
        "These are the pixels: body was never asked. Compare features, body(support_x) and body(query_x).": task.loss(
            task.means(task.inputs["support_x"], task.sy), task.inputs["query_x"], task.qy
        ),
        "This is the rate of wrong answers. It has no slope: take the cross-entropy.": (
            (torch.cdist(task.queries, centres).argmin(1) != task.qy).to(right.dtype).mean()
        ),
        "The squares are summed over the classes. Sum over the features, the last dimension.": F.cross_entropy(
            -((task.queries[:, None] - centres) ** 2).sum(1), task.qy
        ),
        "The softmax goes over the queries. Each query shares its probability among the classes: dimension 1.": (
            -(-(torch.cdist(task.queries, centres) ** 2)).log_softmax(0)[torch.arange(len(task.qy)), task.qy].mean()
        ),
        "Only the first image of each class counts: average the features of all of them.": task.loss(
            torch.stack([task.support[task.sy == k][0] for k in range(task.way)]), task.queries, task.qy
        ),
        "The query losses are added up: take their mean, as F.cross_entropy does by default.": right * len(task.qy),
        "The centres are sums of features: divide by the number of images of the class.": (
            task.loss(summed, task.queries, task.qy)
        ),
    }
    shown, yours = told_apart(right, got)
    return _first(got, mistakes) or Unnamed(f"The loss is {yours}; class means asked about the queries give {shown}.")


outer_loss = Check(
    exercise="02.5",
    title="The outer loss of one task",
    inputs={"one shot": _outer_inputs(1), "three shots": _outer_inputs(3)},
    probe=_outer_probe,
    judge=_outer_judge,
    reference=task_outer_loss,
)
