"""More answers to the exercises of notebook 03, written after the checks: right ones and slips of learners."""

import torch
from torch.nn import functional as F

from mlcourse.lessons.compare import checks


def attention_with(scores, share=lambda s: s.log_softmax(1), gather=torch.logsumexp):
    """scores(queries, support, τ) → [queries, images]; then shares over images, gathered class by class."""

    def attention(support, labels, queries, way, temperature):
        shares = share(scores(queries, support, temperature))
        return torch.stack([gather(shares[:, labels == k], 1) for k in range(way)], dim=1)

    return attention


def cosines(queries, support, temperature):
    return F.normalize(queries, dim=1) @ F.normalize(support, dim=1).T / temperature


def with_norms(queries, support, temperature):
    lengths = queries.norm(dim=1, keepdim=True) * support.norm(dim=1)
    return queries @ support.T / lengths / temperature


def attention_by_scatter(support, labels, queries, way, temperature):
    scores = cosines(queries, support, temperature)
    top = scores.amax(1, keepdim=True)
    rows = []
    for k in range(way):
        mine = scores.masked_fill(labels != k, -torch.inf)
        rows.append(mine.logsumexp(1, keepdim=True) - top)
    return torch.cat(rows, 1) - (scores - top).logsumexp(1, keepdim=True)


def eye(x):
    return torch.eye(len(x), dtype=x.dtype)


def ridge_by_solve_triangular(x, y, lam):
    factor = torch.linalg.cholesky(x @ x.T + lam * eye(x))
    half = torch.linalg.solve_triangular(factor, y, upper=False)
    return x.T @ torch.linalg.solve_triangular(factor.T, half, upper=True)


def ridge_by_eigenvectors(x, y, lam):
    values, vectors = torch.linalg.eigh(x @ x.T)
    return x.T @ (vectors @ ((vectors.T @ y) / (values + lam)[:, None]))


def slope_by_forward_mode(x, y, lam):
    def weights(value):
        return x.T @ torch.linalg.solve(x @ x.T + value * eye(x), y)

    return torch.func.jacfwd(weights)(torch.tensor(lam, dtype=x.dtype))


def slope_in_two_lines(x, y, lam):
    inverse = torch.linalg.inv(x @ x.T + lam * eye(x))
    return -x.T @ inverse @ inverse @ y


def symmetries_with(order=None, company=None, names=None):
    def symmetries(learner, x, y, q):
        found = list(checks.symmetries.reference(learner, x, y, q))
        logits = learner(x, y, q)
        for place, other in enumerate((order, company, names)):
            if other is not None:
                found[place] = other(learner, x, y, q, logits)
        return tuple(found)

    return symmetries


def reversed_order(f, x, y, q, z):
    return torch.allclose(f(x.flip(0), y.flip(0), q), z, atol=1e-6)


def halves_of_the_queries(f, x, y, q, z):
    return torch.allclose(torch.cat([f(x, y, q[:1]), f(x, y, q[1:])]), z, atol=1e-6)


def renamed_at_random(learner, x, y, q, z):
    """A renaming drawn anew each time, which may leave a label as it was: what it finds is a matter of luck."""
    way = z.shape[1]
    names = torch.arange(way)
    while torch.equal(names, torch.arange(way)):
        names = torch.randperm(way)
    return torch.allclose(learner(x, names[y], q)[:, names], z, atol=1e-6)


RIGHT = {
    "linear_layer": [
        lambda c: (c + c, -(c * c).sum(dim=-1)),
        lambda c: [2 * c, -torch.einsum("kd,kd->k", c, c)],
    ],
    "attention": [attention_with(with_norms), attention_by_scatter],
    "ridge": [ridge_by_solve_triangular, ridge_by_eigenvectors],
    "ridge_slope": [slope_by_forward_mode, slope_in_two_lines],
    "symmetries": [symmetries_with(order=reversed_order), symmetries_with(company=halves_of_the_queries)],
}

WRONG = {
    "linear_layer": {
        "bias twice halved": (lambda c: (2 * c, -c.square().sum(1) / 2), "The bias is half"),
        "4c": (lambda c: (4 * c, -c.square().sum(1)), "The weights are twice too large"),
        "all twice": (lambda c: (4 * c, -2 * c.square().sum(1)), "every logit is twice"),
        "bias of all": (lambda c: (2 * c, -c.square().sum(0)), "has shape"),
        "not squared": (lambda c: (2 * c, -c.sum(1)), "minus the sum of the numbers"),
        "(2c)²": (lambda c: (2 * c, -(2 * c).square().sum(1)), "The bias is −‖2c‖²"),
    },
    "attention": {
        "√τ": (attention_with(lambda q, s, t: cosines(q, s, t**0.5)), "√`temperature`"),
        "twice": (attention_with(cosines, share=lambda s: s.softmax(1).log_softmax(1)), "There are two softmaxes"),
        "τ late": (
            lambda s, y, q, way, t: torch.stack(
                [(cosines(q, s, 1.0).log_softmax(1) / t)[:, y == k].logsumexp(1) for k in range(way)], 1
            ),
            "The temperature divides the logarithms",
        ),
        "sizes of cosines": (
            attention_with(lambda q, s, t: cosines(q, s, t).abs()),
            "The cosines have lost their sign",
        ),
        "minus": (
            lambda s, y, q, way, t: -attention_with(cosines)(s, y, q, way, t),
            "with the other sign",
        ),
        "mean of logs": (attention_with(cosines, gather=lambda s, dim: s.mean(dim)), "the mean of the logarithms"),
    },
    "ridge": {
        "√λ": (lambda x, y, lam: x.T @ torch.linalg.solve(x @ x.T + lam**0.5 * eye(x), y), "√`lam`"),
        "of means": (
            lambda x, y, lam: x.T @ torch.linalg.solve(x @ x.T / len(x) + lam * eye(x), y),
            "divided by the number of images",
        ),
        "1/λ": (lambda x, y, lam: x.T @ torch.linalg.solve(x @ x.T + eye(x) / lam, y), "1 / `lam`"),
        "targets of ±1": (lambda x, y, lam: x.T @ torch.linalg.solve(x @ x.T + lam * eye(x), 2 * y - 1), ""),
    },
    "ridge_slope": {
        "three digits": (lambda *a: checks.ridge_slope.reference(*a).round(decimals=3), "digits left behind the point"),
        "one solve": (lambda x, y, lam: -x.T @ torch.linalg.solve(x @ x.T + lam * eye(x), y), "This is −W"),
        "three solves": (
            lambda x, y, lam: -x.T @ torch.linalg.matrix_power(torch.linalg.inv(x @ x.T + lam * eye(x)), 3) @ y,
            "one system too many",
        ),
        "one-sided": (
            lambda x, y, lam: (checks.ridge.reference(x, y, lam + 0.1) - checks.ridge.reference(x, y, lam)) / 0.1,
            "",
        ),
        "a short difference": (
            lambda x, y, lam: (checks.ridge.reference(x, y, lam + 1e-3) - checks.ridge.reference(x, y, lam)) / 1e-3,
            "as a difference of two solutions is",
        ),
        "λ everywhere": (
            lambda x, y, lam: -torch.linalg.pinv(x.T @ x) @ torch.linalg.pinv(x.T @ x + 1e-13) @ x.T @ y * 1e9,
            "These numbers are huge",
        ),
        "over λ": (lambda x, y, lam: checks.ridge_slope.reference(x, y, lam) / lam, "divided by `lam`"),
    },
    "symmetries": {
        "random names": (symmetries_with(names=renamed_at_random), "every label must get another name"),
        "labels alone": (
            symmetries_with(order=lambda f, x, y, q, z: torch.allclose(f(x, y.flip(0), q), z)),
            "Let images and labels move together",
        ),
        "same queries": (symmetries_with(company=lambda f, x, y, q, z: torch.allclose(f(x, y, q), z)), "never finds"),
        "first query": (
            symmetries_with(company=lambda f, x, y, q, z: torch.allclose(f(x, y, q[:1]), z[:1])),
            "Ask EACH query alone",
        ),
        "probabilities": (
            symmetries_with(
                company=lambda f, x, y, q, z: torch.allclose(
                    torch.cat([f(x, y, one[None]) for one in q]).softmax(1), z.softmax(1)
                )
            ),
            "neither winners nor probabilities",
        ),
        "sorted images": (
            symmetries_with(
                order=lambda f, x, y, q, z: torch.allclose(f(x[y.argsort()], y.sort().values, q), z, atol=1e-6)
            ),
            "The images may come sorted by class",
        ),
        "two labels": (
            symmetries_with(
                names=lambda f, x, y, q, z: torch.allclose(
                    f(x, torch.where(y < 2, 1 - y, y), q)[:, [1, 0, *range(2, z.shape[1])]], z, atol=1e-6
                )
            ),
            "every label must get another name",
        ),
        "other places": (lambda *a: checks.symmetries.reference(*a)[::-1], "their results stand in another order"),
        "exactly": (
            symmetries_with(company=lambda f, x, y, q, z: torch.equal(f(x, y, q.flip(0)).flip(0), z)),
            "Compare logits",
        ),
        "winners of names": (
            symmetries_with(
                names=lambda f, x, y, q, z: torch.equal(
                    f(x, (y + 1) % (int(y.max()) + 1), q).argmax(1), (z.argmax(1) + 1) % z.shape[1]
                )
            ),
            "Compare logits",
        ),
    },
}
