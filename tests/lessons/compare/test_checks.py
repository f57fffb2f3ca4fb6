"""The checks of notebook 03 against right answers written differently, and against mistakes that learners make."""

import pytest
import torch
from check_helpers import SEEDS, assert_check
from torch.nn import functional as F

from mlcourse.lessons.compare import checks
from mlcourse.teaching.oracles import directional_derivative

F64 = torch.float64


@pytest.fixture(autouse=True)
def own_work_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_WORK", str(tmp_path))


# ------------------------------------------------------------------ 03.1 prototypes as a linear layer


def layer_with_loop(prototypes):
    bias = torch.stack([-sum(value * value for value in centre) for centre in prototypes])
    return torch.stack([2 * centre for centre in prototypes]), bias


def layer_float32(prototypes):
    return 2 * prototypes.float(), -prototypes.float().square().sum(1)


def layer_moved(prototypes):
    """Softmax does not see what all classes get: another centre and another constant are as right."""
    return 2 * (prototypes - prototypes.mean(0)), 3 - prototypes.square().sum(1)


def layer_of(weight, bias):
    def layer_with_a_mistake(prototypes):
        return weight(prototypes), bias(prototypes)

    return layer_with_a_mistake


def squares(c):
    return c.square().sum(1)


def layer_transposed(c):
    return 2 * c.T, -squares(c)


def layer_weights_only(c):
    return 2 * c


def layer_in_place(c):
    c *= 2
    return c, -squares(c) / 4


def test_linear_layer():
    assert_check(
        checks.linear_layer,
        right=[layer_with_loop, layer_float32, layer_moved],
        wrong={
            "sign": (layer_of(lambda c: -2 * c, squares), "Sign: this layer likes the farthest class best"),
            "no 2": (layer_of(lambda c: c, lambda c: -squares(c)), "The factor 2 of the mixed term"),
            "length": (layer_of(lambda c: 2 * c, lambda c: -c.norm(dim=1)), "minus the length of c"),
            "plus": (layer_of(lambda c: 2 * c, squares), "bias has the wrong sign"),
            "dot product": (layer_of(lambda c: c, lambda c: 0 * squares(c)), "dot product c·z alone"),
            "half": (layer_of(lambda c: c, lambda c: -squares(c) / 2), "every logit is half"),
            "twice": (layer_of(lambda c: 2 * c, lambda c: -2 * squares(c)), "bias is twice too large"),
            "one bias for all": (
                layer_of(lambda c: 2 * c, lambda c: 0 * squares(c) - c.square().sum()),
                "the same for all",
            ),
            "mixed sign": (layer_of(lambda c: -2 * c, lambda c: -squares(c)), "two minus signs meet"),
            "square of sum": (layer_of(lambda c: 2 * c, lambda c: -(c.sum(1) ** 2)), "the square of a sum"),
            "mean": (layer_of(lambda c: 2 * c, lambda c: -c.square().mean(1)), "the mean of the squares"),
            "unit": (layer_of(lambda c: 2 * F.normalize(c, dim=1), lambda c: 0 * squares(c) - 1), "scaled to length 1"),
            "transposed": (layer_transposed, "shape"),
            "weights only": (layer_weights_only, "two tensors, the weights"),
            "in place": (layer_in_place, "in place"),
        },
    )
    no_bias = layer_of(lambda c: 2 * c, lambda c: 0 * squares(c))
    assert "The bias is missing" in checks.linear_layer.run(no_bias).diagnosis


# ------------------------------------------------------------------ 03.2 the attention of matching networks


def attention_with_loops(support, labels, queries, way, temperature):
    rows = []
    for query in queries:
        scores = torch.stack([F.cosine_similarity(query, image, dim=0) / temperature for image in support])
        rows.append(torch.stack([scores[labels == k].logsumexp(0) for k in range(way)]) - scores.logsumexp(0))
    return torch.stack(rows)


def attention_with_a_mask(support, labels, queries, way, temperature):
    scores = F.cosine_similarity(queries[:, None], support[None], dim=-1) / temperature
    scores = scores[..., None].masked_fill(~F.one_hot(labels, way).bool(), -torch.inf)
    return scores.logsumexp(1).log_softmax(1)


def cosine_of(a, b):
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


def attention_float32(support, labels, queries, way, temperature):
    return attention_with_loops(support.float(), labels, queries.float(), way, temperature)


def attention_variant(change, cosine=None):
    """change(scores, member [n, way], temperature) → log-probabilities; cosine: another comparison."""

    def attention_with_a_mistake(support, labels, queries, way, temperature):
        a, b = F.normalize(queries, dim=1), F.normalize(support, dim=1)
        scores = a @ b.T if cosine is None else cosine(queries, support)
        return change(scores, F.one_hot(labels, way).to(scores.dtype), temperature)

    return attention_with_a_mistake


def safe(scores, member, t):
    return (scores / t)[..., None].masked_fill(member == 0, -torch.inf).logsumexp(1).log_softmax(1)


def with_prototypes(support, labels, queries, way, temperature):
    means = torch.stack([support[labels == k].mean(0) for k in range(way)])
    return (F.normalize(queries, dim=1) @ F.normalize(means, dim=1).T / temperature).log_softmax(1)


def in_their_order(support, labels, queries, way, temperature):
    return attention_with_a_mask(support, labels.sort().values, queries, way, temperature)


def softmax_of_dimension_0(scores, member, t):
    return ((scores / t).softmax(0) @ member).log()


def largest(scores, member, t):
    attention = (scores / t).softmax(1)
    return (attention[..., None] * member).amax(1).log()


def no_denominator(scores, member, t):
    return (scores / t)[..., None].masked_fill(member == 0, -torch.inf).logsumexp(1)


def a_little_added(scores, member, t):
    return ((scores / t).softmax(1) @ member + 1e-8).log()


def clamped(scores, member, t):
    return (scores / t).softmax(1).clamp_min(1e-12).matmul(member).log()


def test_attention():
    assert_check(
        checks.attention,
        right=[attention_with_loops, attention_with_a_mask, attention_float32],
        wrong={
            "dot product": (attention_variant(safe, lambda a, b: a @ b.T), "These are dot products"),
            "times": (attention_variant(lambda s, m, t: safe(s, m, 1 / t)), "The temperature multiplies"),
            "no temperature": (attention_variant(lambda s, m, t: safe(s, m, 1.0)), "The temperature is missing"),
            "probabilities": (attention_variant(lambda s, m, t: safe(s, m, t).exp()), "These are probabilities"),
            "dimension 0": (attention_variant(softmax_of_dimension_0), "goes over the queries"),
            "mean": (attention_variant(lambda s, m, t: safe(s, m, t) - m.sum(0).log()), "You took the mean"),
            "largest": (attention_variant(largest), "You took the largest attention"),
            "sum of logs": (attention_variant(lambda s, m, t: (s / t).log_softmax(1) @ m), "You added the logarithms"),
            "sum of cosines": (attention_variant(lambda s, m, t: (s @ m / t).log_softmax(1)), "You added cosines"),
            "prototypes": (with_prototypes, "compare with the mean of each class"),
            "mean of cosines": (
                attention_variant(lambda s, m, t: (s @ m / m.sum(0) / t).log_softmax(1)),
                "You averaged the cosines",
            ),
            "class by class": (attention_variant(lambda s, m, t: 0 * (s @ m)), "runs over one class at a time"),
            "sign": (attention_variant(safe, lambda a, b: -cosine_of(a, b)), "The sign is wrong"),
            "squared": (attention_variant(safe, lambda a, b: -(torch.cdist(a, b) ** 2)), "attention of squared"),
            "in order": (in_their_order, "class by class in their order"),
            "no denominator": (attention_variant(no_denominator), "not yet shares"),
            "a little added": (attention_variant(a_little_added), "A small number, added or clamped"),
            "queries only": (attention_variant(safe, lambda a, b: F.normalize(a, dim=1) @ b.T), "Only the queries"),
            "support only": (attention_variant(safe, lambda a, b: a @ F.normalize(b, dim=1).T), "Only the support"),
            "columns": (
                attention_variant(safe, lambda a, b: F.normalize(a, dim=0) @ F.normalize(b, dim=0).T),
                "You scale each column",
            ),
            "underflow": (attention_variant(lambda s, m, t: ((s / t).softmax(1) @ m).log()), "holds infinity"),
            "unsquared": (attention_variant(safe, lambda a, b: -torch.cdist(a, b)), "exp of them must sum to 1"),
            "transposed": (attention_variant(lambda s, m, t: safe(s, m, t).T), "shape"),
        },
    )


# ------------------------------------------------------------------ 03.3 ridge regression


def ridge_inverse(x, y, lam):
    return x.T @ torch.linalg.inv(x @ x.T + lam * torch.eye(len(x), dtype=x.dtype)) @ y


def ridge_columns(x, y, lam):
    """One class after another, by a factorisation of Cholesky."""
    factor = torch.linalg.cholesky(x @ x.T + torch.diag(torch.full((len(x),), lam, dtype=x.dtype)))
    return torch.stack([x.T @ torch.cholesky_solve(column[:, None], factor)[:, 0] for column in y.T], 1)


def ridge_float32(x, y, lam):
    return ridge_inverse(x.float(), y.float(), lam)


def ridge_large(x, y, lam):
    return torch.linalg.solve(x.T @ x + lam * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)


def ridge_with(change):
    def ridge_with_a_mistake(x, y, lam):
        return change(x, y, lam, torch.eye(len(x), dtype=x.dtype))

    return ridge_with_a_mistake


def test_a_clamp_is_told_like_a_small_number_that_is_added():
    verdict = checks.attention.run(attention_variant(clamped))
    assert not verdict.passed
    assert "A small number, added or clamped" in verdict.diagnosis


def test_ridge():
    assert_check(
        checks.ridge,
        right=[ridge_inverse, ridge_columns],
        wrong={
            "float32": (ridge_float32, "keep the number format"),
            "no λ": (ridge_with(lambda x, y, lam, eye: x.T @ torch.linalg.solve(x @ x.T, y)), "λ is missing"),
            "all entries": (
                ridge_with(lambda x, y, lam, eye: x.T @ torch.linalg.solve(x @ x.T + lam, y)),
                "λ is added to every entry",
            ),
            "multiplies": (ridge_with(lambda x, y, lam, eye: x.T @ (x @ x.T + lam * eye) @ y), "You multiply by XXᵀ"),
            "mean": (
                ridge_with(lambda x, y, lam, eye: x.T @ torch.linalg.solve(x @ x.T / len(x) + lam * eye, y / len(x))),
                "multiplied by the number of images",
            ),
            "one": (ridge_with(lambda x, y, lam, eye: ridge_inverse(x, y, 1.0)), "1 stands in its place"),
            "squared": (ridge_with(lambda x, y, lam, eye: ridge_inverse(x, y, lam**2)), "λ is squared"),
            "halved": (ridge_with(lambda x, y, lam, eye: ridge_inverse(x, y, lam / 2)), "λ is halved"),
            "doubled": (ridge_with(lambda x, y, lam, eye: ridge_inverse(x, y, 2 * lam)), "λ is doubled"),
            "each entry": (
                ridge_with(lambda x, y, lam, eye: x.T @ (x @ x.T + lam * eye) ** -1 @ y),
                "one over each entry",
            ),
            "sum": (ridge_with(lambda x, y, lam, eye: x.T @ y), "nothing is solved"),
            "minus": (ridge_with(lambda x, y, lam, eye: ridge_inverse(x, y, -lam)), "Sign: it is + λI"),
            "large": (ridge_large, "Woodbury's form needs one of side"),
            "off": (ridge_with(lambda x, y, lam, eye: 1.1 * ridge_inverse(x, y, lam)), "must be zero"),
            "dual": (ridge_with(lambda x, y, lam, eye: torch.linalg.solve(x @ x.T + lam * eye, y)), "shape"),
        },
    )


def test_the_oracle_solves_the_normal_equations():
    """The singular values know nothing of Woodbury: (XᵀX + λI)W = XᵀY, for more and for fewer images than numbers."""
    for n, size in ((3, 7), (7, 3)):
        given = checks.ridge_inputs(n, size, 2)(torch.Generator().manual_seed(0))
        x, y, lam = given["x"], given["y"], given["lam"]
        w = checks.filtered(given, lambda s, lam: s / (s * s + lam))
        torch.testing.assert_close(x.T @ x @ w + lam * w, x.T @ y, rtol=1e-10, atol=1e-12)


# ------------------------------------------------------------------ 03.4 the slope


def slope_autograd(x, y, lam):
    lam = torch.tensor(lam, dtype=x.dtype)
    return torch.autograd.functional.jacobian(lambda value: ridge_inverse(x, y, value), lam)


def slope_large(x, y, lam):
    curvature = x.T @ x + lam * torch.eye(x.shape[1], dtype=x.dtype)
    return -torch.linalg.inv(curvature) @ torch.linalg.solve(curvature, x.T @ y)


def slope_by_differences(x, y, lam):
    return (ridge_inverse(x, y, lam + 1e-4) - ridge_inverse(x, y, lam - 1e-4)) / 2e-4


def slope_with(change):
    def slope_with_a_mistake(x, y, lam):
        return change(slope_large(x, y, lam), ridge_inverse(x, y, lam), x, lam)

    return slope_with_a_mistake


def test_ridge_slope():
    assert_check(
        checks.ridge_slope,
        right=[slope_autograd, slope_large, slope_by_differences],
        wrong={
            "sign": (slope_with(lambda s, w, x, lam: -s), "Sign: more λ"),
            "W": (slope_with(lambda s, w, x, lam: w), "This is W itself"),
            "minus W": (slope_with(lambda s, w, x, lam: -w), "This is −W: the curvature"),
            "multiplies": (slope_with(lambda s, w, x, lam: -(x.T @ x @ w + lam * w)), "where you must solve with it"),
            "times λ": (slope_with(lambda s, w, x, lam: lam * s), "λ multiplies W"),
            "by λ": (slope_with(lambda s, w, x, lam: -w / lam), "This is −W/λ"),
            "no λI": (slope_with(lambda s, w, x, lam: -torch.linalg.pinv(x.T @ x) @ w), "its λI is missing"),
            "twice": (slope_with(lambda s, w, x, lam: 2 * s), "A factor 2 too many"),
            "half": (slope_with(lambda s, w, x, lam: s / 2), "A factor ½ too many"),
            "nothing": (slope_with(lambda s, w, x, lam: 0 * s), "as if W did not depend on λ"),
            "off": (slope_with(lambda s, w, x, lam: 1.1 * s), "is off by"),
            "one number": (slope_with(lambda s, w, x, lam: s.sum()), "shape"),
        },
    )


def test_the_slope_is_the_derivative_of_the_solution():
    """Differences of the solved problem, along a random direction of the weights."""
    for seed in SEEDS:
        given = checks.ridge_inputs(4, 9, 2)(torch.Generator().manual_seed(seed))
        direction = torch.randn(9, 2, generator=torch.Generator().manual_seed(seed), dtype=F64)

        def along(lam, given=given, direction=direction):
            return (direction * checks.filtered(given | {"lam": lam}, lambda s, lam: s / (s * s + lam))).sum()

        slope = checks.filtered(given, lambda s, lam: -s / (s * s + lam) ** 2)
        wanted = directional_derivative(along, given["lam"], torch.ones((), dtype=F64))
        assert float((direction * slope).sum()) == pytest.approx(wanted, rel=1e-8)


# ------------------------------------------------------------------ 03.5 symmetries


def symmetries_with(order=None, alone=None, renamed=None):
    """The three tests, each of which may be replaced by a wrong one."""

    def symmetries_of_a_learner(learner, x, y, q):
        logits = learner(x, y, q)
        permutation = torch.arange(int(y.max()) + 1).roll(1)
        shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
        found = [torch.allclose(learner(x[shuffled], y[shuffled], q), logits)]
        found.append(all(torch.allclose(learner(x, y, q[i : i + 1])[0], logits[i]) for i in range(len(q))))
        new = learner(x, permutation[y], q)
        found.append(torch.allclose(new[:, permutation], logits))
        for index, other in enumerate((order, alone, renamed)):
            if other is not None:
                found[index] = other(learner, x, y, q, logits)
        return tuple(found)

    return symmetries_of_a_learner


def symmetries_float32(learner, x, y, q):
    """Another permutation, undone on the other side; logits compared by their largest difference."""
    logits = learner(x.float(), y, q.float())
    swap = torch.arange(int(y.max()) + 1).flip(0)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5))
    others = (
        learner(x.float()[order], y[order], q.float()),
        torch.cat([learner(x.float(), y, one[None]) for one in q.float()]),
        learner(x.float(), swap[y], q.float())[:, swap],
    )
    return [bool((logits - other).abs().max() < 1e-3 * logits.abs().mean()) for other in others]


def test_symmetries():
    flip = torch.tensor([2, 1, 0])
    wheel = torch.tensor([1, 2, 0])

    def images_alone(f, x, y, q, z):
        return torch.allclose(f(x.flip(0), y, q), z)

    def winners(f, x, y, q, z):
        return torch.equal(f(x.flip(0), y.flip(0), q).argmax(1), z.argmax(1))

    def not_undone(f, x, y, q, z):
        return torch.allclose(f(x, flip[y], q), z)

    def undone_wrongly(f, x, y, q, z):
        return torch.allclose(f(x, wheel[y], q)[:, wheel.argsort()], z)

    assert_check(
        checks.symmetries,
        right=[symmetries_with(), symmetries_float32],
        wrong={
            "x alone": (symmetries_with(order=images_alone), "Let images and labels move together"),
            "order by winners": (
                symmetries_with(order=winners),
                "Your test of the order of the support set never finds a fault, or not every",
            ),
            "never tested": (
                symmetries_with(alone=lambda *_: True),
                "Your test of the other queries never finds a fault",
            ),
            "names not undone": (symmetries_with(renamed=not_undone), "column k of the old logits"),
            "company refused": (symmetries_with(alone=lambda *_: False), "Ask each query alone"),
            "inverted": (
                lambda f, x, y, q: tuple(not one for one in symmetries_with()(f, x, y, q)),
                "the wrong way round",
            ),
            "one value": (lambda f, x, y, q: True, "three truth values"),
        },
    )
    verdict = checks.symmetries.run(symmetries_with(renamed=undone_wrongly))
    assert "column k of the old logits" in verdict.diagnosis


@pytest.mark.parametrize("permutation", [[0, 1, 2], [0, 2, 1]])
def test_names_that_stay_are_told(permutation):
    """What a random permutation of three labels does in one case of three: label 0 keeps its name."""
    names = torch.tensor(permutation)

    def renamed(f, x, y, q, z):
        return torch.allclose(f(x, names[y], q)[:, names], z, rtol=1e-4, atol=1e-5)

    verdict = checks.symmetries.run(symmetries_with(renamed=renamed))
    assert not verdict.passed
    assert "every label must get another name" in verdict.diagnosis


def test_the_learners_of_the_check_have_the_faults_that_it_says():
    """By definition, not by the reference: each symmetry tried with every permutation of names and several orders."""
    given = checks.symmetry_inputs(3, 4)(torch.Generator().manual_seed(0))
    x, y, q = given["support_x"], given["support_y"], given["query_x"]
    for name, (learner, truth) in checks.LEARNERS.items():
        logits = learner(x, y, q)
        orders = [torch.randperm(12, generator=torch.Generator().manual_seed(k)) for k in range(4)]
        kept = [torch.allclose(learner(x[order], y[order], q), logits) for order in orders]
        alone = torch.cat([learner(x, y, one[None]) for one in q])
        names = torch.tensor([[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
        moved = [torch.allclose(learner(x, new[y], q)[:, new], logits) for new in names]
        assert (all(kept), torch.allclose(alone, logits), all(moved)) == truth, name


def test_an_answer_for_three_labels_is_not_for_five():
    def three_names(learner, x, y, q):
        order, company, _ = checks.symmetries.reference(learner, x, y, q)
        names = torch.tensor([1, 2, 0])
        return order, company, torch.allclose(learner(x, names[y], q)[:, names], learner(x, y, q))

    said = checks.symmetries.run(three_names).diagnosis
    assert "IndexError" in said


def test_half_and_the_mean_of_squares_are_told_apart():
    said = checks.linear_layer.run(lambda c: (2 * c, -(c**2).mean(1))).diagnosis
    assert "The bias holds the mean of the squares" in said
