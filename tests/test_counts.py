"""A count (steps, iterations, terms, images) is a whole number everywhere: 1.5, True and -1 are one clear line."""

import numpy as np
import pytest
import torch
from core_helpers import Smooth

from mlcourse import inner, learners
from mlcourse.errors import CourseError, check_whole
from mlcourse.meta_gradients import hypergradients, linear_solvers, quadratics
from mlcourse.meta_gradients.hypergradients import Bilevel

PHI = {"phi": torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)}
X = torch.zeros(1)
LAM = torch.tensor(0.5, dtype=torch.float64)
PROBLEM = Bilevel(
    init=lambda lam: torch.zeros(2, dtype=torch.float64),
    inner_loss=lambda phi, lam: 0.5 * (phi - lam).square().sum(),
    outer_loss=lambda phi, lam: phi.square().sum(),
)


def squares(prediction, y):
    return 0.5 * prediction.square().sum()


def forward(params, x):
    return params["phi"]


def adapted(how, **settings):
    return how(forward, PHI, X, X, **{"steps": 2, "rate": 0.1, "loss": squares} | settings)


PLACES = {
    "adapt: steps": lambda n: adapted(inner.adapt, steps=n),
    "adapt_truncated: last": lambda n: adapted(inner.adapt_truncated, last=n),
    "unrolled: steps": lambda n: hypergradients.unrolled(PROBLEM, None, LAM, steps=n, rate=0.1),
    "truncated: last": lambda n: hypergradients.truncated(PROBLEM, None, LAM, steps=2, last=n, rate=0.1),
    "exact: newton": lambda n: hypergradients.exact(PROBLEM, None, LAM, newton=n),
    "quadratics: steps": lambda n: quadratics.meta_loss(0.3, steps=n),
    "conjugate gradients: iterations": lambda n: linear_solvers.conjugate_gradient(
        lambda p: 2 * p, torch.ones(3), iterations=n
    ),
    "maml: inner_steps": lambda n: learners.MAML(Smooth("group"), inner_steps=n),
    "maml: evaluation_inner_steps": lambda n: learners.MAML(Smooth("group"), evaluation_inner_steps=n),
    "imaml: iterations": lambda n: learners.ImplicitMAML(Smooth("group"), iterations=n),
}
FROM_ONE = {
    "adapt_checkpointed: every": lambda n: adapted(inner.adapt_checkpointed, every=n),
    "reptile: inner_batch": lambda n: learners.Reptile(Smooth("group"), inner_batch=n),
    "metanet: hidden": lambda n: learners.MetaNetwork(Smooth("group"), hidden=n),
}


@pytest.mark.parametrize("place", PLACES | FROM_ONE)
@pytest.mark.parametrize("wrong", [-1, 1.5, 2.0, True, "3", float("nan")], ids=repr)
def test_what_is_no_count_is_one_line(place, wrong):
    with pytest.raises(CourseError, match=r" is .*; give a whole number, [01] or more"):
        (PLACES | FROM_ONE)[place](wrong)


@pytest.mark.parametrize("place", PLACES | FROM_ONE)
def test_an_integer_of_numpy_is_a_count(place):
    (PLACES | FROM_ONE)[place](np.int64(2))


def test_the_least_count_is_asked():
    check_whole("n", 0)
    with pytest.raises(CourseError, match=r"^n is 0; give a whole number, 1 or more$"):
        check_whole("n", 0, least=1)
