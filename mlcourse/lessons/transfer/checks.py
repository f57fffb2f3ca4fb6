"""The checks of notebook 16: a transfer head, the FLOP of a training, the soft loss, and one step of learnt pictures.

Oracles share no code with the package: loops over pictures, layers and classes, and finite differences.

Wang, Chao, Weinberger, van der Maaten, *SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning*,
2019, https://arxiv.org/abs/1911.04623;
Hinton, Vinyals, Dean, *Distilling the Knowledge in a Neural Network*, 2015, https://arxiv.org/abs/1503.02531;
Wang, Zhu, Torralba, Efros, *Dataset Distillation*, 2018, https://arxiv.org/abs/1811.10959.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mlcourse.teaching.checks import Check, close, several
from mlcourse.teaching.oracles import Unnamed, directional_derivative, first_mistake, randn, uniform

Tensors = dict[str, Tensor]
F64 = torch.float64
RTOL = 2e-4  # an answer that computes in float32 passes; the mistakes below are off by far more
_close = partial(close, rtol=RTOL)
_first = partial(first_mistake, rtol=RTOL)


# ------------------------------------------------------------------ 16.1 a head on frozen features


def _head_inputs(shots: tuple[int, ...], mixed: bool) -> Callable[[torch.Generator], Tensors]:
    """Features far from 0, of unlike lengths; class k has `shots[k]` pictures. mixed: in any order."""

    def make(generator: torch.Generator) -> Tensors:
        centre = uniform(generator, 1.0, 2.5, 6)
        labels = torch.cat([torch.full((shot,), k) for k, shot in enumerate(shots)])
        if mixed:
            labels = labels[torch.randperm(len(labels), generator=generator)]
        of_class = randn(generator, len(shots), 6)
        support = centre + uniform(generator, 0.5, 3.0, len(labels), 1) * (
            of_class[labels] + 0.7 * randn(generator, len(labels), 6)
        )
        queries = centre + uniform(generator, 0.5, 3.0, 5, 1) * randn(generator, 5, 6)
        return {"support": support, "labels": labels, "queries": queries, "centre": centre}

    return make


def _head_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"scores": answer(*(inputs[name] for name in ("support", "labels", "queries", "centre")))}


def _unit(rows: Tensor) -> Tensor:
    return torch.stack([row / math.sqrt(sum(x * x for x in row.tolist())) for row in rows])


def _means(rows: Tensor, labels: Tensor) -> Tensor:
    """The mean row of each class, row by row: [way, D]."""
    way = int(labels.max()) + 1
    sums, counts = torch.zeros(way, rows.shape[1], dtype=F64), torch.zeros(way, 1, dtype=F64)
    for row, label in zip(rows, labels.tolist(), strict=True):
        sums[label] += row
        counts[label] += 1
    return sums / counts


def _squares(queries: Tensor, centroids: Tensor) -> Tensor:
    return torch.stack([torch.stack([(q - c).square().sum() for c in centroids]) for q in queries])


def _head_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    s, y, q, centre = (inputs[name].double() for name in ("support", "labels", "queries", "centre"))
    y, got = y.long(), outputs["scores"]
    support, queries = _unit(s - centre), _unit(q - centre)
    centroids = _means(support, y)
    right = -_squares(queries, centroids)
    if _close(got, right):
        return None
    cosines = queries @ _unit(centroids).T
    counts = torch.bincount(y).double()
    first = torch.stack([support[(y == k).nonzero()[0, 0]] for k in range(int(y.max()) + 1)])
    nearest = torch.stack(
        [(queries[:, None] - support[y == k]).square().sum(2).amin(1) for k in range(int(y.max()) + 1)], 1
    )
    both = torch.cat([s, q]).mean(0)
    mistakes = {
        "The features are not centred, or only after the scaling, where it cancels in each difference. Subtract "
        "`centre` from support and queries first, and scale then.": -_squares(_unit(q), _means(_unit(s), y)),
        "You scale, centre, and scale again. Subtract `centre` first, and scale once.": -_squares(
            _unit(_unit(q) - centre), _means(_unit(_unit(s) - centre), y)
        ),
        "The features are centred, but not scaled to length 1.": -_squares(q - centre, _means(s - centre, y)),
        "The queries are not scaled to length 1.": -_squares(q - centre, centroids),
        "The support features are not scaled to length 1.": -_squares(queries, _means(s - centre, y)),
        "Only the queries are centred. The support set needs the same: subtract `centre` there, too.": -_squares(
            queries, _means(_unit(s), y)
        ),
        "Only the support set is centred. The queries need the same: subtract `centre` there, too.": -_squares(
            _unit(q), centroids
        ),
        "You centre by the mean of the support set. `centre` is the mean of the training pictures: with one picture "
        "per class the support set says little about it.": -_squares(
            _unit(q - s.mean(0)), _means(_unit(s - s.mean(0)), y)
        ),
        "You centre by the queries' mean, too. Then the answer to one query depends on the others (transductive): use "
        "`centre`.": -_squares(_unit(q - both), _means(_unit(s - both), y)),
        "You take the class means first, and scale then. Scale each support feature, and take the mean then.": (
            -_squares(queries, _unit(_means(s - centre, y)))
        ),
        "You scale the centroids to length 1, too. They stay as they are, the mean of features of length 1.": (
            -_squares(queries, _unit(centroids))
        ),
        "These are inner products with the centroids, or cosines. Asked is minus the squared distance: a centroid "
        "whose pictures disagree is short, and that counts.": cosines,
        "These are inner products with the centroids. Asked is minus the squared distance.": queries @ centroids.T,
        "These are squared distances: the nearest class must get the highest score. Put a minus before them.": -right,
        "These are distances with a minus, not squared. Asked is −‖q − c‖².": -(-right).sqrt(),
        "These are distances. Asked is minus the squared distance: the nearest class gets the highest score.": (
            -right
        ).sqrt(),
        "This is minus the mean over the D numbers of the squared differences. Take their sum.": right / s.shape[1],
        "The centroids are sums. Divide each by the number of its support pictures: classes have unlike numbers "
        "here.": -_squares(queries, centroids * counts[:, None]),
        "Each class is its first picture only. Take the mean of all its support pictures.": -_squares(queries, first),
        "These are squared distances to the nearest support picture, with a minus (1-nearest neighbour). Asked is the "
        "centroid of each class.": -nearest,
        "All support pictures are divided into equal runs, as if they were sorted. Use `labels` to find those of a "
        "class.": _of_runs(queries, support, y),
        "This is a softmax of the scores. Return the scores as they are.": right.softmax(1),
        "The softmax's logarithm is asked nowhere. Return the scores as they are.": right.log_softmax(1),
    }
    named = _first(got, mistakes)
    if named:
        return named
    i, k = divmod(int((got.double() - right).abs().argmax()), right.shape[1])
    return Unnamed(
        f"Query {i} should get the score {float(right[i, k]):.3f} for class {k}; yours is {float(got[i, k]):.3f}."
    )


def _of_runs(queries: Tensor, support: Tensor, labels: Tensor) -> Tensor:
    """The scores of someone who reshapes the support set to [way, shot, D]; nan where that is impossible."""
    way = int(labels.max()) + 1
    if len(support) % way:
        return torch.full((len(queries), way), torch.nan, dtype=F64)
    return -_squares(queries, support.view(way, -1, support.shape[1]).mean(1))


def _head_reference(support: Tensor, labels: Tensor, queries: Tensor, centre: Tensor) -> Tensor:
    """Minus the squared distance of each query to each class's centroid: [queries, way]."""
    support, queries = (F.normalize(x - centre, dim=1) for x in (support, queries))
    member = F.one_hot(labels).to(support.dtype)
    centroids = member.T @ support / member.sum(0)[:, None]
    return -(queries[:, None] - centroids).square().sum(2)


transfer_head = Check(
    exercise="16.1",
    title="A head on frozen features",
    inputs={
        "one picture per class": _head_inputs((1, 1, 1), mixed=False),
        "three pictures per class, in any order": _head_inputs((3, 3, 3), mixed=True),
        "classes of 1, 2 and 4 pictures": _head_inputs((2, 1, 4), mixed=True),
    },
    probe=_head_probe,
    judge=_head_judge,
    reference=_head_reference,
)


# ------------------------------------------------------------------ 16.2 the FLOP of a training


def _flop_inputs(stages: int) -> Callable[[torch.Generator], Tensors]:
    """Layers of each stage (in, out, side of the kernel, height, width of the result), and its number of pictures."""

    def make(generator: torch.Generator) -> Tensors:
        def whole(low: int, high: int) -> int:
            return int(torch.randint(low, high, (), generator=generator))

        body, channels, height, width = [], whole(1, 4), whole(9, 14), whole(15, 20)
        first = channels
        for k in range(3):
            # never as many channels in as out: else squares of one of them would be right
            out, side = channels + whole(2, 6), (3, 5, 2)[(k + first) % 3]
            body.append([channels, out, side, height, width])
            channels, height, width = out, height // 2, width // 2
        of_stage, found = body, {}
        for k in range(stages):
            if k == 0 and stages > 1:  # the classifier of pre-training: a linear layer is a kernel of side 1
                of_stage = [*body, [channels, whole(20, 40), 1, 1, 1]]
            else:
                of_stage = [*body, [channels, whole(3, 9), 1, 1, 1]]
            found[f"layers {k}"] = torch.tensor(of_stage)
            found[f"pictures {k}"] = torch.tensor(whole(50, 200) * (3 if k == 0 else 1))
        return found

    return make


def _stages(inputs: Tensors) -> list[tuple[list[list[int]], int]]:
    count = sum(name.startswith("layers") for name in inputs)
    return [(inputs[f"layers {k}"].tolist(), int(inputs[f"pictures {k}"])) for k in range(count)]


def _flop_probe(answer: Callable, inputs: Tensors) -> Tensors:
    total = answer([([tuple(layer) for layer in layers], pictures) for layers, pictures in _stages(inputs)])
    whole = isinstance(total, Tensor) and total.shape == () and total.dtype == torch.int64
    if whole or (isinstance(total, int | float) and not isinstance(total, bool)):
        total = torch.tensor(float(total), dtype=F64)  # as the lesson takes it
    return {"FLOP": total}


def _layer_flop(layer: list[int], *, times: float = 2.0) -> float:
    """Of one layer and one picture: an addition and a multiplication for each weight at each place."""
    channels, out, side, height, width = layer
    total = 0.0
    for _ in range(out):
        total += times * height * width * channels * side * side
    return total


def _flop_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    stages, got = _stages(inputs), outputs["FLOP"].double()

    def total(
        of_layer=_layer_flop, *, inner: float = 3.0, first: float = 2.0, which=slice(None), pictures=None
    ) -> Tensor:
        found = 0.0
        for layers, images in stages[which]:
            costs = [(first if k == 0 else inner) * of_layer(layer) for k, layer in enumerate(layers)]
            found += sum(costs) * (images if pictures is None else pictures)
        return torch.tensor(found, dtype=F64)

    right = total()
    if _close(got, right):
        return None
    mistakes = {}
    if len(stages) > 1:
        mistakes |= {
            "Pre-training is left out: you count the last stage only. Whoever uses a trained body has paid for it, or "
            "somebody has: add up all stages.": total(which=slice(1, None)),
            "Only the first stage is counted. Add up all of them.": total(which=slice(0, 1)),
            "All stages are counted with the layers of the first one. Each stage has layers of its own.": torch.tensor(
                sum(images for _, images in stages), dtype=F64
            )
            * total(which=slice(0, 1), pictures=1),
        }
    mistakes |= {
        "This is the forward pass only. The backward pass costs as much again for the gradient by the weights, and "
        "once more for the gradient by the layer's input (not in the first layer).": total(inner=1, first=1),
        "You count the backward pass once. It makes two things in each layer but the first: the gradient by the "
        "weights, and the gradient by the layer's input.": total(inner=2, first=2),
        "In the first layer you count three passes. Its input is the picture, and nobody needs a gradient by the "
        "picture: there it is two.": total(inner=3, first=3),
        "The first layer has no backward pass in your answer. It needs the gradient by its weights: two passes.": total(
            inner=3, first=1
        ),
        "This is the backward pass only. The forward pass comes before it.": total(inner=2, first=1),
        "You count multiplications only. Each comes with an addition: two operations for each weight at each place.": (
            total(partial(_layer_flop, times=1.0))
        ),
        "The kernel has `side` rows and `side` columns: its weights are side². You count side once.": total(
            lambda layer: _layer_flop(layer) / layer[2]
        ),
        "The kernel is left out: each number of the result takes side² weights for each channel that comes in.": total(
            lambda layer: _layer_flop(layer) / layer[2] ** 2
        ),
        "You count each weight once. A convolution uses it at each of height · width places of the result.": total(
            lambda layer: _layer_flop(layer) / (layer[3] * layer[4])
        ),
        "You take height². The result has height · width places.": total(
            lambda layer: _layer_flop(layer) * layer[3] / layer[4]
        ),
        "The channels that come in are left out: each number of the result is a sum over all of them.": total(
            lambda layer: _layer_flop(layer) / layer[0]
        ),
        "The channels that come out are left out: each of them is computed by weights of its own.": total(
            lambda layer: _layer_flop(layer) / layer[1]
        ),
        "This is the cost of one picture in each stage. Multiply by the number of pictures.": total(pictures=1),
        "The last layer of each stage, its head, is left out.": torch.tensor(
            sum(
                images * sum((2 if k == 0 else 3) * _layer_flop(layer) for k, layer in enumerate(layers[:-1]))
                for layers, images in stages
            ),
            dtype=F64,
        ),
    }
    named = _first(got, mistakes)
    if named:
        return named
    layers, images = stages[0]
    return Unnamed(
        f"It should be {float(right):.6g}; yours is {float(got):.6g}. For comparison: the first layer of the first "
        f"stage takes {_layer_flop(layers[0]):.6g} forward for one picture, and the stage has {images} pictures."
    )


def _flop_reference(stages: list) -> int:
    """FLOP of a training: Σ over stages of pictures · (forward + backward)."""
    total = 0
    for layers, pictures in stages:
        forward = [2 * a * b * side**2 * height * width for a, b, side, height, width in layers]
        total += pictures * (3 * sum(forward) - forward[0])
    return total


training_flop = Check(
    exercise="16.2",
    title="The FLOP of a training",
    inputs={"one stage": _flop_inputs(1), "pre-training, then another stage": _flop_inputs(2)},
    probe=_flop_probe,
    judge=_flop_judge,
    reference=_flop_reference,
)


# ------------------------------------------------------------------ 16.3 learning from a teacher


def _soft_inputs(equal: bool) -> Callable[[torch.Generator], Tensors]:
    """Logits of a student and a teacher, and a temperature. equal: of 1, where the factor says nothing."""

    def make(generator: torch.Generator) -> Tensors:
        student, teacher = 1.5 * randn(generator, 3, 5), 3 * randn(generator, 3, 5)
        temperature = 1.0 if equal else float(uniform(generator, 2.2, 4.5))
        return {"student": student, "teacher": teacher, "temperature": torch.tensor(temperature, dtype=F64)}

    return make


def _soft_probe(answer: Callable, inputs: Tensors) -> Tensors:
    student, teacher = (inputs[name].requires_grad_() for name in ("student", "teacher"))
    loss = answer(student, teacher, float(inputs["temperature"]))
    if not isinstance(loss, Tensor):
        raise TypeError(f"it needs a tensor with one number, and you return a {type(loss).__name__}")
    by_teacher = by_student = None
    if loss.requires_grad and loss.numel() == 1:
        by_student, by_teacher = torch.autograd.grad(loss.sum(), (student, teacher), allow_unused=True)
    return {
        "loss": loss,
        "gradient by the student": torch.zeros_like(student) if by_student is None else by_student,
        "gradient by the teacher": torch.zeros_like(teacher) if by_teacher is None else by_teacher,
    }


def _log_p(logits: Tensor, temperature: float) -> Tensor:
    """log softmax of logits / temperature, row by row: [rows, classes]."""
    rows = []
    for row in logits.tolist():
        scaled = [x / temperature for x in row]
        top = max(scaled)
        total = top + math.log(sum(math.exp(x - top) for x in scaled))
        rows.append([x - total for x in scaled])
    return torch.tensor(rows, dtype=F64)


def _soft_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    student, teacher, t = inputs["student"].double(), inputs["teacher"].double(), float(inputs["temperature"])
    got, rows, classes = outputs["loss"], len(inputs["student"]), inputs["student"].shape[1]

    def loss(s: Tensor, p: Tensor, factor: float = t * t) -> Tensor:
        """factor · mean over rows of Σ p (log p − s), of two log-probabilities."""
        return factor * (p.exp() * (p - s)).sum() / rows

    log_s, log_p = _log_p(student, t), _log_p(teacher, t)
    right = loss(log_s, log_p)
    if _close(got, right):
        return _soft_gradients(outputs, log_s, log_p, t)
    plain_s, plain_p = _log_p(student, 1.0), _log_p(teacher, 1.0)
    entropy = -(log_p.exp() * log_p).sum() / rows
    columns = [_log_p(x.T, t).T for x in (student, teacher)]
    hard = -log_s[torch.arange(rows), teacher.argmax(1)].mean()
    over_columns = t * t * (columns[1].exp() * (columns[1] - columns[0])).sum() / rows
    mistakes = {
        "This is the cross-entropy with the teacher's probabilities (times τ²). It has the right gradient, but it is "
        "not 0 when both agree: subtract the teacher's own entropy, log p_teacher − log "
        "p_student.": right + t * t * entropy,
        "This is the cross-entropy with the teacher's probabilities, without τ². Asked is τ² Σ p (log p_teacher − "
        "log p_student).": right / t**2 + entropy,
        "You divide by rows and by classes: `kl_div(..., reduction='mean')` does so, too. Take the sum over the "
        "classes, and the mean over the rows (`batchmean`).": right / classes,
        "You divide by rows and by classes, and leave out τ². Sum over the classes, mean over the rows, times τ².": (
            right / classes / t**2
        ),
        "This is the sum over the rows. Take their mean.": right * rows,
        "You divide by τ² in place of multiplying.": right / t**4,
        "The two have changed places: the probabilities before the bracket are the teacher's.": loss(log_p, log_s),
        "The two have changed places, and τ² is missing: the probabilities before the bracket are the teacher's.": loss(
            log_p, log_s, 1.0
        ),
        "This is minus the right one: log p_teacher − log p_student, in this order.": -right,
        "You take the teacher's best class only. That is a hard label, and all that it knows of the other classes is "
        "lost.": hard,
        "You take the teacher's best class only (times τ²). That is a hard label, and all that it knows of the other "
        "classes is lost.": t * t * hard,
        "The softmax runs over the rows. Each row is one picture: take it over dimension 1.": over_columns,
        "The softmax runs over the rows, and τ² is missing. Each row is one picture: take it over dimension 1.": (
            over_columns / t**2
        ),
        "These are squared differences of the logits. Compare the probabilities.": (student - teacher).square().mean(),
        "These are squared differences of the probabilities. Asked is τ² Σ p (log p_teacher − log p_student).": (
            (log_s.exp() - log_p.exp()).square().mean()
        ),
    }
    if t != 1:
        mistakes |= {
            "The factor τ² is missing. Without it the gradients shrink by 1/τ² when τ grows.": right / t**2,
            "You multiply by τ once. The gradient shrinks by 1/τ²: multiply by τ².": right / t,
            "The student's logits are not divided by τ.": loss(plain_s, log_p),
            "The student's logits are not divided by τ, and τ² is missing.": loss(plain_s, log_p, 1.0),
            "The teacher's logits are not divided by τ.": loss(log_s, plain_p),
            "The teacher's logits are not divided by τ, and τ² is missing.": loss(log_s, plain_p, 1.0),
            "Neither is divided by τ. Divide both logits by τ, before the softmax.": loss(plain_s, plain_p),
            "The temperature is not used at all. Divide both logits by τ, and multiply the mean by τ².": loss(
                plain_s, plain_p, 1.0
            ),
            "You multiply the logits by τ. Divide them: a large τ makes the probabilities even.": loss(
                _log_p(student, 1 / t), _log_p(teacher, 1 / t)
            ),
            "You multiply the logits by τ, and τ² is missing. Divide them: a large τ makes the "
            "probabilities even.": loss(_log_p(student, 1 / t), _log_p(teacher, 1 / t), 1.0),
        }
    return _first(got, mistakes) or Unnamed(f"The loss should be {float(right):.5f}; yours is {float(got):.5f}.")


def _soft_gradients(outputs: Tensors, log_s: Tensor, log_p: Tensor, t: float) -> str | None:
    """What is said of the gradients of an answer whose loss is right."""
    if float(outputs["gradient by the teacher"].abs().max()) > 1e-7:
        return (
            "The loss is right, but a gradient flows into the teacher: it would learn from its student. Put "
            "`.detach()` behind the teacher's logits."
        )
    right = t * (log_s.exp() - log_p.exp()) / len(log_s)
    if _close(outputs["gradient by the student"], right):
        return None
    if not outputs["gradient by the student"].any():
        return (
            "The loss is right, but no gradient comes to the student. Detach the teacher only, and compute outside of "
            "`no_grad`."
        )
    return Unnamed("The loss is right, but its gradient by the student is not that of the formula.")


def _soft_reference(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """τ² times the mean over rows of Σ p_teacher (log p_teacher − log p_student): a number."""
    of_student = F.log_softmax(student / temperature, dim=1)
    of_teacher = F.log_softmax(teacher.detach() / temperature, dim=1)
    return temperature**2 * (of_teacher.exp() * (of_teacher - of_student)).sum(1).mean()


soft_loss = Check(
    exercise="16.3",
    title="Learning from a teacher",
    inputs={"a temperature of 1": _soft_inputs(True), "a higher temperature": _soft_inputs(False)},
    probe=_soft_probe,
    judge=_soft_judge,
    reference=_soft_reference,
)


# ------------------------------------------------------------------ 16.4 pictures that teach


def _learnt_inputs(generator: torch.Generator) -> Tensors:
    """A linear network, a few pictures to learn, the rate of one step, and real pictures."""
    classes, pixels = 3, 5
    order = torch.randperm(classes, generator=generator)
    return {
        "weights": 0.4 * randn(generator, pixels, classes),
        "pictures": randn(generator, classes, pixels),
        "labels": order,
        "rate": uniform(generator, 0.4, 1.2, 1)[0],
        "real": randn(generator, 7, pixels),
        "real labels": torch.tensor([0, 1, 2, 0, 0, 1, 0])[torch.randperm(7, generator=generator)],
    }


def _learnt_probe(answer: Callable, inputs: Tensors) -> Tensors:
    weights, pictures, labels, rate, real, real_labels = inputs.values()
    made = several(
        answer(weights, pictures, labels, rate, real, real_labels), "loss", "gradient by pictures", "gradient by rate"
    )
    return dict(zip(("loss", "gradient by pictures", "gradient by rate"), made, strict=True))


def _linear_loss(w: Tensor, x: Tensor, y: Tensor) -> float:
    """The mean cross-entropy of a linear network, picture by picture."""
    logits = x @ w
    return sum(-float(_log_p(row[None], 1.0)[0, label]) for row, label in zip(logits, y.tolist(), strict=True)) / len(x)


def _linear_slope(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Its gradient by w, by the formula xᵀ(p − y) / n."""
    p = _log_p(x @ w, 1.0).exp()
    return x.T @ (p - torch.eye(w.shape[1], dtype=F64)[y]) / len(x)


def _picture_slope(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Its gradient by the pictures: (p − y) wᵀ / n."""
    p = _log_p(x @ w, 1.0).exp()
    return (p - torch.eye(w.shape[1], dtype=F64)[y]) @ w.T / len(x)


def _learnt_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    w, x, y, rate, real, real_y = (v.double() if v.is_floating_point() else v for v in inputs.values())
    taught = w - rate * _linear_slope(w, x, y)
    right = torch.tensor(_linear_loss(taught, real, real_y), dtype=F64)
    got = outputs["loss"]
    if not _close(got, right):
        losses = {
            "This is the outer loss before the step. Take it with the weights after the step.": _linear_loss(
                w, real, real_y
            ),
            "This is the inner loss, on the learnt pictures. The outer loss is taken on the real ones.": _linear_loss(
                w, x, y
            ),
            "This is the loss on the learnt pictures after the step. The outer loss is taken on the real ones.": (
                _linear_loss(taught, x, y)
            ),
            "The step climbs: it is weights − rate · gradient.": _linear_loss(
                w + rate * _linear_slope(w, x, y), real, real_y
            ),
            "The rate is left out of the step.": _linear_loss(w - _linear_slope(w, x, y), real, real_y),
            "The inner loss is a sum over the pictures. Take the mean.": _linear_loss(
                w - rate * len(x) * _linear_slope(w, x, y), real, real_y
            ),
            "You take the step on the real pictures. The network is taught by the learnt ones.": _linear_loss(
                w - rate * _linear_slope(w, real, real_y), real, real_y
            ),
            "The outer loss is a sum over the real pictures. Take the mean.": len(real) * float(right),
        }
        named = _first(got, {words: torch.tensor(value, dtype=F64) for words, value in losses.items()})
        return named or Unnamed(f"The outer loss should be {float(right):.5f}; yours is {float(got):.5f}.")
    return _learnt_slopes(inputs, outputs, taught)


def _learnt_slopes(inputs: Tensors, outputs: Tensors, taught: Tensor) -> str | None:
    """What is said of the gradients of an answer whose outer loss is right."""
    w, x, y, rate, real, real_y = (v.double() if v.is_floating_point() else v for v in inputs.values())
    slope, outer = _linear_slope(w, x, y), _linear_slope(taught, real, real_y)

    def after(pictures: Tensor, step: Tensor) -> Tensor:
        return torch.tensor(_linear_loss(w - step * _linear_slope(w, pictures, y), real, real_y), dtype=F64)

    by_pictures = torch.zeros_like(x)
    for i in range(x.numel()):
        direction = torch.zeros_like(x)
        direction.view(-1)[i] = 1
        by_pictures.view(-1)[i] = directional_derivative(lambda p: after(p, rate), x, direction)
    by_rate = torch.tensor(directional_derivative(lambda r: after(x, r), rate, torch.ones((), dtype=F64)), dtype=F64)
    fine = {"gradient by pictures": by_pictures, "gradient by rate": by_rate}
    wrong = [name for name, right in fine.items() if not _close(outputs[name], right)]
    if not wrong:
        return None
    p = _log_p(x @ w, 1.0).exp() - torch.eye(w.shape[1], dtype=F64)[y]
    direct = -rate * p @ outer.T / len(x)  # the part that takes the network's answers as they were
    mistakes = {
        "gradient by pictures": {
            "no gradient arrives at the pictures: the inner gradient was cut off from them. Give `create_graph=True` "
            "to `autograd.grad`, and detach nothing.": torch.zeros_like(x),
            "this is the gradient of the inner loss by the pictures. Asked is that of the outer loss.": _picture_slope(
                w, x, y
            ),
            "this is a part of it only: the network's answers to the learnt pictures depend on these pictures, too.": (
                direct
            ),
            "the rate is left out: the pictures act through rate · gradient.": by_pictures / rate,
            "it has the other sign.": -by_pictures,
        },
        "gradient by rate": {
            "no gradient arrives at the rate. Keep it a tensor (no `float`, no `.item()`), and detach nothing.": (
                torch.zeros_like(by_rate)
            ),
            "it has the other sign: a longer step along −gradient.": -by_rate,
            "this is the squared length of the inner gradient. Multiply the inner gradient with the *outer* one.": (
                slope.square().sum()
            ),
            "this is minus the squared length of the inner gradient. Multiply the inner gradient with the "
            "*outer* one.": (-slope.square().sum()),
            "you take the outer gradient before the step. Take it with the weights after it.": -(
                slope * _linear_slope(w, real, real_y)
            ).sum(),
        },
    }
    for name in wrong:
        named = _first(outputs[name], mistakes[name])
        if named:
            return f"The loss is right. The {name}: {named}"
    return Unnamed(f"The loss is right, but the {wrong[0]} is not that of finite differences.")


def _learnt_reference(
    weights: Tensor, pictures: Tensor, labels: Tensor, rate: Tensor, real: Tensor, real_labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The outer loss after one step on the pictures, and its gradients by the pictures and by the rate."""
    weights, pictures, rate = (value.detach().clone().requires_grad_() for value in (weights, pictures, rate))
    inner = F.cross_entropy(pictures @ weights, labels)
    (slope,) = torch.autograd.grad(inner, weights, create_graph=True)
    outer = F.cross_entropy(real @ (weights - rate * slope), real_labels)
    return outer.detach(), *torch.autograd.grad(outer, (pictures, rate))


learnt_step = Check(
    exercise="16.4",
    title="Pictures that teach",
    inputs=_learnt_inputs,
    probe=_learnt_probe,
    judge=_learnt_judge,
    reference=_learnt_reference,
)
