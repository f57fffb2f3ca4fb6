"""The checks of notebook 03: prototypes as a linear layer, attention, ridge regression and its slope, symmetries.

Oracles share no code with the package: plain loops over images, singular values, learners whose symmetries are known.

Snell, Swersky, Zemel, *Prototypical Networks for Few-shot Learning*, 2017, https://arxiv.org/abs/1703.05175;
Vinyals et al., *Matching Networks for One Shot Learning*, 2016, https://arxiv.org/abs/1606.04080;
Bertinetto et al., *Meta-learning with differentiable closed-form solvers*, 2019, https://arxiv.org/abs/1805.08136.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mlcourse.teaching.checks import Check, close, keep_precision, relative_error
from mlcourse.teaching.oracles import Unnamed, first_mistake, randn, rounding

Tensors = dict[str, Tensor]
F64 = torch.float64
RTOL = 2e-4  # an answer that computes in float32 passes; the mistakes below are off by far more
_close = partial(close, rtol=RTOL)
_first = partial(first_mistake, rtol=RTOL)


# ------------------------------------------------------------------ 03.1 prototypes as a linear layer


def _layer_inputs(way: int, size: int) -> Callable[[torch.Generator], Tensors]:
    def make(generator: torch.Generator) -> Tensors:
        lengths = torch.linspace(0.6, 1.8, way, dtype=F64).unsqueeze(-1)  # so that the bias matters
        directions = F.normalize(randn(generator, way, size), dim=-1)
        return {"prototypes": lengths * directions, "queries": randn(generator, 8, size)}

    return make


def _layer_probe(answer: Callable, inputs: Tensors) -> Tensors:
    made = answer(inputs["prototypes"])
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise TypeError("it needs two tensors, the weights [way, D] and the bias [way]")
    return {"weight": made[0], "bias": made[1]}


def _layer_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    c, x = inputs["prototypes"], inputs["queries"]

    def says(weight: Tensor, bias: Tensor) -> Tensor:
        return (x.to(weight.dtype) @ weight.T + bias).log_softmax(1)

    distances = torch.stack([torch.stack([((one - centre) ** 2).sum() for centre in c]) for one in x])
    got, right = says(outputs["weight"], outputs["bias"]), (-distances).log_softmax(1)
    if _close(got, right):
        return None
    squares = (c * c).sum(1)
    mistakes = {
        "Sign: this layer likes the farthest class best. Multiply −‖z − c‖² out, with its minus.": (-2 * c, squares),
        "The factor 2 of the mixed term 2 c·z is missing in the weights.": (c, -squares),
        "The bias is minus the length of c. It is minus the squared length, −‖c‖².": (2 * c, -squares.sqrt()),
        "The bias has the wrong sign: −‖z − c‖² holds −‖c‖².": (2 * c, squares),
        "The bias is missing, or the same for all classes: without −‖c_k‖² a long prototype wins too often.": (
            2 * c,
            0 * squares,
        ),
        "This is the dot product c·z alone. The factor 2 and the bias are missing.": (c, 0 * squares),
        "The regions are right, but every logit is half of what it should be, so the softmax is less sure.": (
            c,
            -squares / 2,
        ),
        "The bias is twice too large: it is −‖c‖², not −2‖c‖².": (2 * c, -2 * squares),
        "The bias is half of what it should be: beside the weights 2c it is −‖c‖².": (2 * c, -squares / 2),
        "The weights are twice too large: −‖z − c‖² holds + 2 c·z.": (4 * c, -squares),
        "The regions are right, but every logit is twice what it should be, so the softmax is too sure.": (
            4 * c,
            -2 * squares,
        ),
        "The bias is −‖2c‖². It is the square of the prototypes themselves, −‖c‖².": (2 * c, -4 * squares),
        "The mixed term has the wrong sign: in −(‖z‖² − 2 c·z + ‖c‖²) two minus signs meet, so it is + 2 c·z.": (
            -2 * c,
            -squares,
        ),
        "The bias is the square of a sum. ‖c‖² is the sum of the squares: square first, then sum.": (
            2 * c,
            -(c.sum(1) ** 2),
        ),
        "The bias holds the mean of the squares. ‖c‖² is their sum.": (2 * c, -squares / c.shape[1]),
        "The bias is minus the sum of the numbers. It is minus the sum of their squares, −‖c‖².": (2 * c, -c.sum(1)),
        "The prototypes are scaled to length 1. Take them as they come.": (
            2 * F.normalize(c, dim=1),
            -torch.ones_like(squares),
        ),
    }
    found = _first(got, {words: says(*layer) for words, layer in mistakes.items()})
    return found or Unnamed(
        "The probabilities differ from those of −‖z − c‖². Multiply the square out and compare term by term; "
        f"yours are off by {relative_error(got, right):.1e}."
    )


def _layer_reference(prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """W = 2c and b = −‖c‖²: −‖z − c_k‖² = 2 c_k·z − ‖c_k‖² − ‖z‖², and softmax does not see the last term."""
    return 2 * prototypes, -prototypes.square().sum(1)


linear_layer = Check(
    exercise="03.1",
    title="Prototypes as a linear layer",
    # in the plane ½ and the mean of two squares are the same
    inputs={"three classes, four numbers": _layer_inputs(3, 4), "five classes, eight numbers": _layer_inputs(5, 8)},
    probe=_layer_probe,
    judge=_layer_judge,
    reference=_layer_reference,
)


# ------------------------------------------------------------------ 03.2 the attention of matching networks


def _attention_inputs(shots: tuple[int, ...], temperature: float) -> Callable[[torch.Generator], Tensors]:
    """shots: images of each class, in turn."""

    def make(generator: torch.Generator) -> Tensors:
        labels = torch.cat([torch.full((shot,), k) for k, shot in enumerate(shots)])
        order = torch.randperm(len(labels), generator=generator)
        lengths = 0.5 + 2 * torch.rand(len(labels), 1, generator=generator, dtype=F64)
        return {
            "support": lengths * randn(generator, len(labels), 5),
            "labels": labels[order],
            "queries": randn(generator, 6, 5),
            "way": torch.tensor(len(shots)),
            "temperature": torch.tensor(temperature, dtype=F64),
        }

    return make


def _attention_probe(answer: Callable, inputs: Tensors) -> Tensors:
    given = [inputs[name] for name in ("support", "labels", "queries")]
    return {"log-probabilities": answer(*given, int(inputs["way"]), float(inputs["temperature"]))}


def _log_sum(values: Tensor) -> Tensor:
    """log Σ exp of values [n], however small they are."""
    top = values.max()
    return top + math.log(sum(math.exp(float(value - top)) for value in values))


def _by_class(inputs: Tensors, scores: Tensor) -> Tensor:
    """log Σ softmax(scores) over the images of each class, by loops: scores [queries, n] → [queries, way]."""
    y, way = inputs["labels"], int(inputs["way"])
    rows = [torch.stack([_log_sum(row[y == k]) for k in range(way)]) - _log_sum(row) for row in scores]
    return torch.stack(rows)


def _attention_mistakes(inputs: Tensors, cosine: Tensor, tau: float) -> Tensors:
    x, y, q, way = inputs["support"], inputs["labels"], inputs["queries"], int(inputs["way"])
    counts = torch.stack([(y == k).sum() for k in range(way)]).double()
    attention = (cosine / tau).softmax(1)
    member = F.one_hot(y, way).double()
    summed, right = cosine @ member, _by_class(inputs, cosine / tau)
    means = torch.stack([x[y == k].mean(0) for k in range(way)])
    best = torch.stack([attention[:, y == k].max(1).values for k in range(way)], 1)
    squared = torch.stack([torch.stack([((a - b) ** 2).sum() for b in x]) for a in q])
    return {
        "These are dot products: long embeddings win. A cosine divides by both lengths.": _by_class(
            inputs, torch.stack([x @ one for one in q]) / tau
        ),
        "The temperature multiplies: cosines are divided by τ.": _by_class(inputs, cosine * tau),
        "The temperature is missing: divide the cosines by τ.": _by_class(inputs, cosine),
        "These are probabilities. Return their logarithms.": right.exp(),
        "There are two softmaxes: the second one makes shares of shares. log_softmax of the scores is enough.": (
            _by_class(inputs, attention)
        ),
        "You took the mean of the logarithms. Add the attention of a class, then take the logarithm.": (
            attention.log() @ member / counts
        ),
        "The softmax goes over the queries (dimension 0). Each query shares its attention among the support images: "
        "dimension 1.": torch.stack([torch.log((cosine / tau).softmax(0)[:, y == k].sum(1)) for k in range(way)], 1),
        "You took the mean of the attention over each class. The formula adds it up.": right - counts.log(),
        "You took the largest attention of each class. The formula adds it up.": best.log(),
        "The sum over all support images is missing below: these scores are not yet shares. Take log_softmax over all "
        "images of a query first.": right + torch.logsumexp(cosine / tau, 1, keepdim=True),
        "Only the queries have length 1. A cosine divides by both lengths: scale the support features too.": _by_class(
            inputs, cosine * x.norm(dim=1) / tau
        ),
        "Only the support features have length 1. A cosine divides by both lengths: scale the queries too.": _by_class(
            inputs, cosine * q.norm(dim=1, keepdim=True) / tau
        ),
        "You scale each column to length 1. Each row, one image, must have length 1: F.normalize(v, dim=1).": (
            _by_class(inputs, F.normalize(q, dim=0) @ F.normalize(x, dim=0).T / tau)
        ),
        "You added the logarithms of the attention. Add the attention of a class, then take the logarithm.": (
            attention.log() @ member
        ),
        "You added cosines and then took the softmax over classes. The softmax comes first, over support images.": (
            summed / tau
        ).log_softmax(1),
        "You compare with the mean of each class: that is a prototypical network with cosines. Here every support "
        "image gets attention of its own.": (F.normalize(q, dim=1) @ F.normalize(means, dim=1).T / tau).log_softmax(1),
        "The temperature divides the logarithms. It divides the cosines, before the softmax.": torch.stack(
            [torch.stack([_log_sum(row[y == k]) for k in range(way)]) for row in cosine.log_softmax(1) / tau]
        ),
        "The cosines have lost their sign: opposite images are not alike.": _by_class(inputs, cosine.abs() / tau),
        "The sign is wrong: the least similar image gets the most attention.": _by_class(inputs, -cosine / tau),
        "You averaged the cosines of each class, and took a softmax over classes. The softmax comes first, over "
        "support images; then their attention is added up.": (summed / counts / tau).log_softmax(1),
        "The softmax runs over one class at a time, so each class gets all of the attention. It runs over ALL support "
        "images; after it the classes are added up.": torch.zeros_like(right),
        "This is the attention of squared distances. Matching networks take the cosine.": _by_class(
            inputs, -squared / tau
        ),
        "The images are taken class by class in their order. Here the classes have different numbers of images, in "
        "mixed order: use the labels.": _by_class(inputs | {"labels": y.sort().values}, cosine / tau),
    }


def _attention_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    x, q, tau = inputs["support"], inputs["queries"], float(inputs["temperature"])
    cosine = torch.stack([torch.stack([(a @ b) / (a.norm() * b.norm()) for b in x]) for a in q])
    got, right = outputs["log-probabilities"], _by_class(inputs, cosine / tau)
    if _close(got, right):
        return None
    tiny = right < -15  # a number that was added, or a clamp, shows here alone
    if tiny.any() and _close(got[~tiny], right[~tiny]) and (got[tiny] > right[tiny]).all():
        return (
            f"A small number, added or clamped, hides log 0: a class with log p = {float(right.min()):.0f} got "
            f"{float(got[right == right.min()][0]):.0f}. Stay with logarithms: log_softmax, then logsumexp."
        )
    return _first(got, _attention_mistakes(inputs, cosine, tau)) or Unnamed(
        f"The log-probabilities are off by {relative_error(got, right):.1e}. For each query exp of them must sum to 1; "
        f"yours sum to {float(got[0].exp().sum()):.3f} for the first one."
    )


def _attention_reference(support: Tensor, labels: Tensor, queries: Tensor, way: int, temperature: float) -> Tensor:
    """log Σ a(x̂, xᵢ) over the images of each class; a is the softmax of cosines over all support images."""
    cosine = F.normalize(queries, dim=1) @ F.normalize(support, dim=1).T
    attention = (cosine / temperature).log_softmax(1)
    return torch.stack([attention[:, labels == k].logsumexp(1) for k in range(way)], 1)


attention = Check(
    exercise="03.2",
    title="The attention of matching networks",
    inputs={
        "one image a class": _attention_inputs((1, 1, 1), 0.5),
        "different numbers of images": _attention_inputs((1, 2, 4), 0.3),
        "a tiny temperature": _attention_inputs((2, 1, 3), 2e-4),
    },
    probe=_attention_probe,
    judge=_attention_judge,
    reference=_attention_reference,
)


# ------------------------------------------------------------------ 03.3 ridge regression by Woodbury


SOLVERS = ("solve", "inv", "chol", "lstsq", "eig")


class _Watch(TorchFunctionMode):
    """Notes the longest side of a matrix that is solved with, inverted or factorised."""

    def __init__(self):
        super().__init__()
        self.side = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if any(word in getattr(func, "__name__", "") for word in SOLVERS):
            matrices = [one for one in (*args, *(kwargs or {}).values()) if isinstance(one, Tensor) and one.dim() > 1]
            self.side = max([self.side, *(min(one.shape[-2:]) for one in matrices)])
        return func(*args, **(kwargs or {}))


def ridge_inputs(n: int, size: int, way: int) -> Callable[[torch.Generator], Tensors]:
    def make(generator: torch.Generator) -> Tensors:
        labels = torch.arange(n) % way
        lam = 0.3 + torch.rand((), generator=generator, dtype=F64)
        return {"x": randn(generator, n, size), "y": F.one_hot(labels, way).to(F64), "lam": lam}

    return make


def _ridge_probe(answer: Callable, inputs: Tensors) -> Tensors:
    with _Watch() as watch:
        weights = answer(inputs["x"], inputs["y"], float(inputs["lam"]))
    keep_precision(weights, inputs["x"], "the weights")
    return {"weights": weights, "longest side": torch.tensor(watch.side)}


def filtered(inputs: Tensors, keep: Callable[[Tensor, float], Tensor]) -> Tensor:
    """Σ keep(s, λ) v uᵀY over the singular values s of X = U S Vᵀ; the rest of the space gets nothing."""
    u, s, vt = torch.linalg.svd(inputs["x"], full_matrices=False)
    return vt.T @ (keep(s, float(inputs["lam"])).unsqueeze(-1) * (u.T @ inputs["y"]))


def _ridge_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    x, y, lam = inputs["x"], inputs["y"], float(inputs["lam"])
    n = len(x)
    got, right = outputs["weights"], filtered(inputs, lambda s, lam: s / (s * s + lam))
    if _close(got, right):
        if int(outputs["longest side"]) > n:
            side = int(outputs["longest side"])
            return (
                f"The weights are right, but you solve with a matrix of side {side}, as large as the embedding. "
                f"Woodbury's form needs one of side {n}, the number of support images."
            )
        return None
    gram = x @ x.T
    mistakes = {
        "λ is missing: this fits the support labels exactly, and noise with them.": filtered(
            inputs, lambda s, _: 1 / s
        ),
        "λ is added to every entry of XXᵀ. It belongs on the diagonal: λ times the identity.": x.T
        @ torch.linalg.solve(gram + lam, y),
        "You multiply by XXᵀ + λI where you must solve with it.": x.T @ (gram + lam * torch.eye(n, dtype=F64)) @ y,
        "λ is multiplied by the number of images: that is the ridge of a mean. The loss here is a sum.": filtered(
            inputs, lambda s, lam: s / (s * s + n * lam)
        ),
        "λ is not used: 1 stands in its place. The identity is multiplied by λ.": filtered(
            inputs, lambda s, _: s / (s * s + 1)
        ),
        "XXᵀ is divided by the number of images: the loss here is a sum.": filtered(
            inputs, lambda s, lam: s / (s * s / n + lam)
        ),
        "λ is squared: the price is λ‖W‖².": filtered(inputs, lambda s, lam: s / (s * s + lam * lam)),
        "λ is halved on the way: setting the gradient 2Xᵀ(XW − Y) + 2λW to zero cancels both 2s.": filtered(
            inputs, lambda s, lam: s / (s * s + lam / 2)
        ),
        "λ is doubled on the way: setting the gradient 2Xᵀ(XW − Y) + 2λW to zero cancels both 2s.": filtered(
            inputs, lambda s, lam: s / (s * s + 2 * lam)
        ),
        "You took one over each entry (** -1 or 1 / …). The inverse of a matrix is another thing: solve with it.": x.T
        @ (gram + lam * torch.eye(n, dtype=F64)).reciprocal()
        @ y,
        "This is XᵀY: nothing is solved.": x.T @ y,
        "The labels are centred: Y stands in the formula as it is.": x.T
        @ torch.linalg.solve(gram + lam * torch.eye(n, dtype=F64), y - y.mean(0)),
        "λ multiplies the diagonal of XXᵀ. It is added to it: λ times the identity.": x.T
        @ torch.linalg.solve(gram + lam * gram.diagonal().diag(), y),
        "Sign: it is + λI.": x.T @ torch.linalg.solve(gram - lam * torch.eye(n, dtype=F64), y),
    }
    return _first(got, mistakes) or Unnamed(
        f"The weights are off by {relative_error(got, right):.1e}. Test: Xᵀ(XW − Y) + λW must be zero; its largest "
        f"entry is {(x.T @ (x @ got.double() - y) + lam * got.double()).abs().max():.1e}."
    )


def _ridge_reference(x: Tensor, y: Tensor, lam: float) -> Tensor:
    """Xᵀ(XXᵀ + λI)⁻¹Y."""
    return x.T @ torch.linalg.solve(x @ x.T + lam * torch.eye(len(x), dtype=x.dtype), y)


ridge = Check(
    exercise="03.3",
    title="Ridge regression with a small matrix",
    inputs={
        "three images, seven numbers each": ridge_inputs(3, 7, 3),
        "four images, twelve numbers each, two classes": ridge_inputs(4, 12, 2),
        "one image, five numbers": ridge_inputs(1, 5, 1),
    },
    probe=_ridge_probe,
    judge=_ridge_judge,
    reference=_ridge_reference,
)


# ------------------------------------------------------------------ 03.4 how the solution moves with λ


def _slope_probe(answer: Callable, inputs: Tensors) -> Tensors:
    return {"slope": answer(inputs["x"], inputs["y"], float(inputs["lam"]))}


def _slope_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    x, lam = inputs["x"], float(inputs["lam"])
    got, right = outputs["slope"], filtered(inputs, lambda s, lam: -s / (s * s + lam) ** 2)
    if _close(got, right):
        return None
    if said := rounding([(got, right)]):
        return said
    weights = filtered(inputs, lambda s, lam: s / (s * s + lam))
    mistakes = {
        "Sign: more λ holds W closer to zero. dW/dλ is minus the solved system.": -right,
        "This is W itself: one more system is to be solved, with the right-hand side W.": weights,
        "This is −W: the curvature XᵀX + λI is taken as I. Solve with it.": -weights,
        "You multiply by XᵀX + λI where you must solve with it.": -(x.T @ (x @ weights) + lam * weights),
        "This is −W/λ: that would be right if X were zero.": -weights / lam,
        "The curvature is taken as XᵀX: its λI is missing.": filtered(inputs, lambda s, lam: -1 / (s * (s * s + lam))),
        "There is one system too many: W solves one, its slope one more, and you solve three.": filtered(
            inputs, lambda s, lam: -s / (s * s + lam) ** 3
        ),
        "You divide by the diagonal of XᵀX + λI alone: solve with the whole matrix.": -weights
        / ((x * x).sum(0) + lam)[:, None],
        "λ multiplies W: the term λW* has, by the product rule, the two parts W* and λ dW*/dλ. On the right stands −W* "
        "alone.": lam * right,
        "A factor 2 too many: λ‖W‖² and ‖XW − Y‖² both bring a 2, and they cancel.": 2 * right,
        "A factor ½ too many: λ‖W‖² and ‖XW − Y‖² both bring a 2, and they cancel.": right / 2,
    }
    if relative_error(got, right) > 1e6:
        return (
            "These numbers are huge: the matrix that you solve with has no inverse. XᵀX alone, or XᵀX + λ in every "
            "entry, has none where there are fewer images than numbers. λ belongs on the diagonal, as λ · identity."
        )
    if not got.any():
        return "dW/dλ is 0 here, as if W did not depend on λ. It does; and λW* has two terms: W* + λ dW*/dλ."
    if found := _first(got, mistakes):
        return found
    if close(got, right, rtol=1e-2):
        return (
            f"Right to about {relative_error(got, right):.0e} only, as a difference of two solutions is. Differentiate "
            "the condition by hand: then it is exact."
        )
    return Unnamed(
        f"dW/dλ is off by {relative_error(got, right):.1e}. Compare with (W(λ + h) − W(λ − h)) / 2h for h = 1e-4."
    )


def _slope_reference(x: Tensor, y: Tensor, lam: float) -> Tensor:
    """−(XᵀX + λI)⁻¹W = −Xᵀ(XXᵀ + λI)⁻²Y."""
    gram = x @ x.T + lam * torch.eye(len(x), dtype=x.dtype)
    return -x.T @ torch.linalg.solve(gram, torch.linalg.solve(gram, y))


ridge_slope = Check(
    exercise="03.4",
    title="How the ridge solution moves with λ",
    inputs={"three images": ridge_inputs(3, 6, 3), "four images, two classes": ridge_inputs(4, 9, 2)},
    probe=_slope_probe,
    judge=_slope_judge,
    reference=_slope_reference,
)


# ------------------------------------------------------------------ 03.5 what must not change an answer


NAMES = ("the order of the support set", "the other queries", "the names of the classes")


def _compare(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """Minus the squared distances to the class means, by loops: all three symmetries."""
    means = torch.stack([support_x[support_y == k].mean(0) for k in range(int(support_y.max()) + 1)])
    return -torch.stack([((query_x - centre) ** 2).sum(1) for centre in means], 1)


def _reads_in_turn(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """Later images count more; the first two count the same, so that to exchange these is not enough."""
    weights = torch.linspace(0.97, 1.03, len(support_x), dtype=support_x.dtype)
    weights[0] = weights[1]
    return _compare(support_x * weights.unsqueeze(1), support_y, query_x)


def _sees_the_others(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """All images are centred at the mean of the queries, and a little of it stays."""
    return _compare(support_x, support_y, query_x - 0.05 * query_x.mean(0))


def _sees_those_before(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """Each query is moved a little towards those before it: the first one is answered as if alone."""
    before = [torch.zeros_like(query_x[0]), *(query_x[:i].mean(0) for i in range(1, len(query_x)))]
    return _compare(support_x, support_y, query_x - 0.05 * torch.stack(before))


def _lifted_by_the_others(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """All logits of a task are lifted together, by how far the queries spread: a softmax does not see it."""
    return _compare(support_x, support_y, query_x) + (query_x - query_x.mean(0)).square().mean()


def _last_sees_the_first(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """The last query is moved towards the first: all others are answered as if alone."""
    moved = query_x.clone()
    if len(query_x) > 1:
        moved[-1] = 0.95 * query_x[-1] + 0.05 * query_x[0]
    return _compare(support_x, support_y, moved)


def _likes_the_last(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """A small bias for the last label."""
    logits = _compare(support_x, support_y, query_x)
    return logits + 0.1 * (torch.arange(logits.shape[1]) == logits.shape[1] - 1)


def _likes_zero(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """A small bias for label 0."""
    logits = _compare(support_x, support_y, query_x)
    return logits + 0.1 * (torch.arange(logits.shape[1]) == 0)


def _sorts_the_classes(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """Columns in the order of the first number of the class means: new names leave the logits where they were."""
    first = [support_x[support_y == k, 0].mean() for k in range(int(support_y.max()) + 1)]
    return _compare(support_x, support_y, query_x)[:, torch.stack(first).argsort()]


def _all_wrong(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    weights = torch.linspace(-1.0, 3.0, len(support_x), dtype=support_x.dtype)
    return _likes_zero(support_x * weights.unsqueeze(1), support_y, query_x - query_x.mean(0))


LEARNERS = {
    "class means": (_compare, (True, True, True)),
    "one that weights later images more": (_reads_in_turn, (False, True, True)),
    "one that looks at the mean of the queries": (_sees_the_others, (True, False, True)),
    "one in which a query sees those before it": (_sees_those_before, (True, False, True)),
    "one in which the last query sees the first": (_last_sees_the_first, (True, False, True)),
    "one whose logits all move with the other queries": (_lifted_by_the_others, (True, False, True)),
    "one with a bias for label 0": (_likes_zero, (True, True, False)),
    "one with a bias for the last label": (_likes_the_last, (True, True, False)),
    "one whose columns are sorted, whatever the labels": (_sorts_the_classes, (True, True, False)),
    "one with all three faults": (_all_wrong, (False, False, False)),
    # a renaming at random leaves the label 0 as it was now and then: by luck it finds the bias once, and never always
    **{f"one with a bias for label 0, call {call}": (_likes_zero, (True, True, False)) for call in range(2, 12)},
}


def symmetry_inputs(way: int, shot: int, mixed: bool = True) -> Callable[[torch.Generator], Tensors]:
    """mixed: the images come in random order, else class by class, as a sampler gives them."""

    def make(generator: torch.Generator) -> Tensors:
        labels = torch.arange(way).repeat_interleave(shot)
        order = torch.randperm(len(labels), generator=generator) if mixed else torch.arange(len(labels))
        return {
            "support_x": randn(generator, len(labels), 5),
            "support_y": labels[order],
            "query_x": randn(generator, 6, 5),
        }

    return make


def _symmetry_probe(answer: Callable, inputs: Tensors) -> Tensors:
    rows = []
    for learner, _ in LEARNERS.values():
        found = answer(learner, *(inputs[name].clone() for name in ("support_x", "support_y", "query_x")))
        if not isinstance(found, tuple | list) or len(found) != 3:
            raise TypeError("it needs three truth values: order, company, names")
        rows.append(torch.tensor([bool(one) for one in found]))
    return {"found": torch.stack(rows)}


def _symmetry_judge(inputs: Tensors, outputs: Tensors) -> str | None:
    got, right = outputs["found"], torch.tensor([truth for _, truth in LEARNERS.values()])
    if torch.equal(got, right):
        return None
    if torch.equal(got, ~right):
        return "Everything is the wrong way round: True means that nothing changes."
    if any(torch.equal(got[:, list(places)], right) for places in permutations(range(3))):
        return "Your three tests are right, but their results stand in another order: return order, company, names."
    wrong = (got != right).any(0)
    for column, name in enumerate(NAMES):
        if not wrong[column]:
            continue
        if bool((right & ~got)[:, column].any()):
            return f"{ACCUSES.format(name)} {ACCUSED[column]}"
        return (
            f"Your test of {name} never finds a fault, or not every one. Ask the learner twice, with two inputs that "
            "differ in this alone. Compare logits, neither winners nor probabilities: small changes count. "
            f"{MISSED[column]}"
        )
    return None


ACCUSES = "Your test of {} accuses the class means, or another learner that keeps this symmetry."
MISSED = (
    "The images may come sorted by class already, or be exchanged where it makes no difference: take a random order of "
    "all of them, torch.randperm.",
    "Ask EACH query alone, the last one too. The same queries in another order are still the same company.",
    # three labels: a random permutation leaves label 0 in its place in one case of three
    "And every label must get another name: a random permutation can leave one as it was. Take "
    "torch.arange(way).roll(1).",
)
ACCUSED = (
    "Let images and labels move together, and compare with a tolerance (torch.allclose): a sum in another order rounds "
    "differently.",
    "Ask each query alone with the same support set, and compare with its row of the joint answer, with a tolerance "
    "(torch.allclose).",
    "When label k becomes permutation[k], column k of the old logits must be column permutation[k] of the new ones. "
    "Compare with a tolerance (torch.allclose).",
)


def _symmetry_reference(
    learner: Callable, support_x: Tensor, support_y: Tensor, query_x: Tensor
) -> tuple[bool, bool, bool]:
    """Whether the logits stay (order, company), and whether they move with the names of the classes."""
    logits = learner(support_x, support_y, query_x)

    def same(other: Tensor) -> bool:
        return torch.allclose(logits, other, rtol=1e-4, atol=1e-5)

    order = torch.arange(len(support_x) - 1, -1, -1)
    names = torch.arange(int(support_y.max()) + 1).roll(1)
    alone = torch.cat([learner(support_x, support_y, one[None]) for one in query_x])
    renamed = learner(support_x, names[support_y], query_x)[:, names]
    return same(learner(support_x[order], support_y[order], query_x)), same(alone), same(renamed)


symmetries = Check(
    exercise="03.5",
    title="What must not change an answer",
    inputs={
        "three labels": symmetry_inputs(3, 4),
        "five labels, class by class, as in the lesson": symmetry_inputs(5, 2, mixed=False),
    },
    probe=_symmetry_probe,
    judge=_symmetry_judge,
    reference=_symmetry_reference,
)
