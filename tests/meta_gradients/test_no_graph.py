"""No graph is never a gradient of 0: every public gradient function where PyTorch keeps no graph.

Under `no_grad`, `set_grad_enabled(False)` and `inference_mode` each is right, or says in one line that it cannot be.
The functions are found by looking into the modules, so a new one must be placed in one of the two tables.
"""

import inspect
from contextlib import contextmanager

import pytest
import torch
from core_helpers import random_episode
from torch import nn

from mlcourse import inner
from mlcourse.errors import CourseError
from mlcourse.learners import ImplicitMAML, Reptile, implicit, reptile
from mlcourse.meta_gradients import estimators, hypergradients, linear_solvers, saved_bytes, surrogate
from mlcourse.meta_optimization import evolution, learned_optimizers, optimizer_training, rate_tuning, small_tasks

F64 = torch.float64
MODULES = (
    evolution, hypergradients, implicit, inner, learned_optimizers, linear_solvers, estimators, optimizer_training,
    rate_tuning, reptile, saved_bytes, small_tasks, surrogate,
)  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tensor(*values):
    return torch.tensor(values, dtype=F64)


# ------------------------------------------------------------------ small problems, made anew for each call


MATRIX = tensor([2.0, 0.3], [0.3, 1.0])


def bilevel():
    return hypergradients.Bilevel(
        init=lambda lam: torch.zeros(2, dtype=F64),
        inner_loss=lambda phi, lam: 0.5 * phi @ MATRIX @ phi - lam @ phi + 0.1 * (phi**4).sum(),
        outer_loss=lambda phi, lam: (phi - 1).square().sum() + 0.1 * lam.sum(),
    )


def hyper(name, **options):
    return lambda: getattr(hypergradients, name)(bilevel(), None, tensor(0.7, -0.4), **options)


def task():
    return estimators.Task(
        inner_loss=lambda phi: (phi**4).sum() + phi.prod(), outer_loss=lambda phi: phi.sin().sum(), steps=2, rate=0.05
    )


def by(name):
    return lambda: getattr(estimators, name)(tensor(0.4, -0.9), task())


def unroll():
    """Descent on φ⁴ + φ² at the rate e^λ: its steps take gradients of their own."""
    slope = torch.func.grad(lambda phi: (phi**4 + phi**2).sum())
    return evolution.Unroll(
        init=lambda lam, draw: {"phi": draw + 0.5},
        step=lambda s, lam, t: {"phi": s["phi"] - lam.exp() * slope(s["phi"])},
        loss=lambda s, lam, t: (s["phi"] ** 2).sum(),
        horizon=4,
        draw=lambda n, generator: torch.rand(n, generator=generator, dtype=F64),
    )


LAM = torch.tensor(-2.0, dtype=F64)
PERTURBED = {"sigma": 0.1, "particles": 4}


def window(name, **options):
    return lambda: getattr(evolution, name)(unroll(), LAM, truncation=2, generator=seeded(), **options)[:2]


def whole(name, **options):
    return lambda: getattr(evolution, name)(unroll(), LAM, generator=seeded(), **options)


def tuned(way):
    lam, draws = tensor(-2.0, -1.0), unroll().draw(2, seeded())
    options = {"budget": 100, "truncation": 2, "generator": seeded()}
    return lambda: rate_tuning.descend(unroll(), lam, draws, way, **options | {"generator": seeded()})[1]


def params():
    return {"w": tensor(0.4, -0.9).requires_grad_()}


def slope_of(value, known):
    """The derivative of what came out: it must be there also where the call was made without gradients."""
    with torch.enable_grad():
        return inner.gradient(value, known)


def descended(adapt, **options):
    def call():
        known = params()
        fast = adapt(known, **options)
        with torch.enable_grad():
            return fast["w"].detach(), slope_of(fast["w"].sin().sum(), known)["w"]

    return call


def adapted(name, **options):
    def adapt(known):
        x = tensor(1.0, 2.0)
        f = getattr(inner, name)
        return f(lambda p, x: p["w"] * x, known, x, x, steps=3, rate=0.1, loss=nn.functional.mse_loss, **options)

    return descended(adapt)


def put_behind():
    w = tensor(0.4, -0.9).requires_grad_()
    surrogate.surrogate(torch.tensor(2.0, dtype=F64), [w], [tensor(3.0, 4.0)]).backward()
    return w.grad


def learner_of(kind, **options):
    def call():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
        learner = kind(network, inner_steps=2, **options)
        loss, _ = learner.outer_loss(random_episode(tasks=2), generator=seeded())
        loss.backward()
        return loss.detach(), *(value.grad for value in learner.parameters())

    return call


def estimated(kind):
    def call():
        learner = evolution.Estimator(unroll(), LAM, estimator=kind, truncation=2, particles=4, sigma=0.1)
        loss, _ = learner.outer_loss(generator=seeded())
        loss.backward()
        return loss.detach(), *(value.grad for value in learner.parameters())

    return call


def short(kind=learned_optimizers.SGD):
    family = small_tasks.quadratics(2, dtype=F64)
    return kind(0.1), family, family.sample(2, seeded())


def meta_trained():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rule = learned_optimizers.MLPRule(hidden=2).double()
    family = small_tasks.quadratics(2, dtype=F64)
    optimizer_training.meta_train(rule, family, window=2, steps=2, tasks=2, horizon=4, progress=False)
    return list(rule.weights().values())


def stepped():
    model = nn.Linear(2, 1).double()
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(0.5)
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    learned_optimizers.LearnedOptimizer(model.parameters(), learned_optimizers.Adam(0.1)).step()
    return [value.detach() for value in model.parameters()]


def ruled():
    known, rule = params(), learned_optimizers.Adam(0.1)
    return rule.update({"w": known["w"].detach()}, {"w": tensor(1.0, -2.0)}, rule.init(known), 1)[0]


def of_tasks():
    rule, family, _ = short()
    return evolution.exact(
        learned_optimizers.inner_training(rule, family, horizon=3), rule.weights(), generator=seeded()
    )


GRADIENTS = {  # name → what it returns, tensors in any nesting
    "hypergradients.unrolled": hyper("unrolled", steps=5, rate=0.2),
    "hypergradients.truncated": hyper("truncated", steps=5, last=2, rate=0.2),
    "hypergradients.implicit_cg": hyper("implicit_cg", steps=5, rate=0.2),
    "hypergradients.implicit_neumann": hyper("implicit_neumann", steps=5, rate=0.2, eta=0.2),
    "hypergradients.exact": hyper("exact"),
    "hypergradients.implicit_gradient": lambda: hypergradients.implicit_gradient(
        bilevel(), None, tensor(0.7, -0.4), lambda product, b: 0.3 * b - 0.02 * product(b), steps=5, rate=0.2
    ),
    "estimators.gradient": lambda: estimators.gradient(task().inner_loss, tensor(0.4, -0.9)),
    "estimators.hessian_vector": lambda: estimators.hessian_vector(
        task().inner_loss, tensor(0.4, -0.9), tensor(1.0, 2.0)
    ),
    "estimators.path": by("path"),
    "estimators.meta_loss": by("meta_loss"),
    "estimators.by_hand": by("by_hand"),
    "estimators.first_order": by("first_order"),
    "estimators.by_autograd": by("by_autograd"),
    "estimators.by_differences": by("by_differences"),
    "estimators.rate_gradient": by("rate_gradient"),
    "estimators.forward_difference": lambda: tensor(
        estimators.forward_difference(lambda x: x.sin().sum(), tensor(0.4), tensor(1.0), 1e-5)
    ),
    "estimators.central_difference": lambda: tensor(
        estimators.central_difference(lambda x: x.sin().sum(), tensor(0.4), tensor(1.0), 1e-5)
    ),
    "estimators.richardson": lambda: tensor(
        estimators.richardson(lambda x: x.sin().sum(), tensor(0.4), tensor(1.0), 1e-3)
    ),
    "inner.descend": descended(lambda known: inner.descend(lambda p: (p["w"] ** 4).sum(), known, 3, 0.1)),
    "inner.adapt": adapted("adapt"),
    "inner.adapt_truncated": adapted("adapt_truncated", last=1),
    "inner.adapt_checkpointed": adapted("adapt_checkpointed", every=1),
    "evolution.truncated_window": window("truncated_window"),
    "evolution.es_window": window("es_window", **PERTURBED),
    "evolution.pes_window": window("pes_window", **PERTURBED),
    "evolution.exact": whole("exact"),
    "evolution.truncated": whole("truncated", truncation=2),
    "evolution.es": whole("es", **PERTURBED),
    "evolution.truncated_es": whole("truncated_es", truncation=2, **PERTURBED),
    "evolution.pes": whole("pes", truncation=2, **PERTURBED),
    "evolution.horizon_of": lambda: evolution.horizon_of(
        evolution.truncated_window, unroll(), LAM, truncation=2, generator=seeded()
    ),
    "evolution.measure": lambda: evolution.measure(
        evolution.pes, unroll(), LAM, repeats=3, generator=seeded(), truncation=2, **PERTURBED
    ),
    "evolution.Estimator, truncated": estimated("truncated"),
    "evolution.Estimator, es": estimated("es"),
    "evolution.Estimator, pes": estimated("pes"),
    "rate_tuning.descend, exact": tuned("exact"),
    "rate_tuning.descend, PES": tuned("PES"),
    "rate_tuning.estimates": lambda: rate_tuning.estimates(unroll(), LAM, "exact", 3, truncation=2, generator=seeded()),
    "rate_tuning.backwards": lambda: rate_tuning.backwards(
        unroll(), tensor(-2.0, -1.0), unroll().draw(2, seeded()), None, 2
    )[0],
    "rate_tuning.perturbed": lambda: rate_tuning.perturbed(
        unroll(), tensor(-2.0, -1.0), unroll().draw(2, seeded()), None, 2, tensor([0.1, 0.2]), 0.1
    )[0],
    "surrogate.surrogate": put_behind,
    "implicit.ImplicitMAML": learner_of(ImplicitMAML),
    "reptile.Reptile": learner_of(Reptile),
    "learned_optimizers.inner_training": of_tasks,
    "learned_optimizers.curves": lambda: learned_optimizers.curves(*short(), horizon=3),
    "learned_optimizers.tune_rate": lambda: learned_optimizers.tune_rate(
        *short(), horizon=3, rates=[0.01, 0.1, 1.0, 100.0]
    )[1],
    "learned_optimizers.LearnedOptimizer": stepped,
    "learned_optimizers.Adam": ruled,
    "optimizer_training.meta_train": meta_trained,
    "linear_solvers.conjugate_gradient": lambda: linear_solvers.conjugate_gradient(
        MATRIX.matmul, tensor(1.0, 2.0), iterations=2
    ),
    "linear_solvers.truncated_conjugate_gradient": lambda: linear_solvers.truncated_conjugate_gradient(
        MATRIX.matmul, tensor(1.0, 2.0), iterations=2
    ),
    "linear_solvers.neumann": lambda: linear_solvers.neumann(MATRIX.matmul, tensor(1.0, 2.0), terms=4, rate=0.3),
}

OTHERS = {  # public, and nothing of theirs is a derivative that a lost graph could turn into 0; or tested by name below
    "evolution": "Particles Unroll advance both_sides draws_of leaves map_tree perturbations repeated slope stand "
    "start",
    "hypergradients": "Bilevel",
    "implicit": "rows",
    "inner": "Recompute all_parameters by_every_name call gradient leaf "
    "log_and_sign parameters refuse_inference_mode sgd_step weight_norm with_gradients",
    "learned_optimizers": "SGD LSTMRule MLPRule Rule joined load moved save",
    "linear_solvers": "dot neumann_terms",
    "estimators": "Task as_function find_jump image_task small_network",
    "optimizer_training": "Tuned best_adam best_baseline compare factor late main make paired stretched",
    "rate_tuning": "price",
    "reptile": "",
    "saved_bytes": "saved_bytes",
    "small_tasks": "Family blobs first_weights network quadratics scaled sinusoids",
    "surrogate": "with_zeros",
}


def test_every_public_function_is_placed():
    placed = {name.split(",")[0] for name in GRADIENTS}
    placed |= {f"{module}.{name}" for module, names in OTHERS.items() for name in names.split()}
    found = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in MODULES
        for name, value in vars(module).items()
        if not name.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value))
        if value.__module__ == module.__name__
    }
    assert found == placed


def flat(found):
    """All tensors of what a function returned."""
    if isinstance(found, torch.Tensor):
        return [found]
    values = found.values() if isinstance(found, dict) else found
    return [part for value in values for part in flat(value)]


MODES = {
    "no_grad": torch.no_grad,
    "set_grad_enabled(False)": lambda: torch.set_grad_enabled(False),
    "inference_mode": torch.inference_mode,
    "inference_mode, enable_grad": lambda: _both(torch.inference_mode(), torch.enable_grad()),
}


@contextmanager
def _both(one, other):
    with one, other:
        yield


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", GRADIENTS)
def test_without_a_graph_the_answer_is_right_or_refused(name, mode):
    expected = [value.clone() for value in flat(GRADIENTS[name]())]
    assert all(value.isfinite().all() for value in expected[:1])
    assert any(value.any() for value in expected)
    refused = None
    try:
        with MODES[mode]():
            found = flat(GRADIENTS[name]())
    except CourseError as error:
        refused = str(error)
    if refused is not None:
        assert mode.startswith("inference_mode"), f"{mode} is no reason to refuse: {refused}"
        assert "torch.inference_mode() forbids them all; use torch.no_grad()" in refused
        return
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.clone(), other, rtol=1e-12, atol=0)


def test_a_loss_without_a_graph_is_an_error_and_not_0():
    known = params()
    with torch.no_grad():
        lost = known["w"].square().sum()
    for loss in (lost, known["w"].detach().sum(), torch.tensor(3.0)):
        with pytest.raises(CourseError, match="the loss has no graph"):
            inner.gradient(loss, known)
    with torch.no_grad(), pytest.raises(CourseError, match="the loss has no graph"):
        inner.gradient(known["w"].square().sum(), known)


@pytest.mark.parametrize("part", ["inner_loss", "outer_loss"])
@pytest.mark.parametrize("name", ["unrolled", "truncated", "implicit_cg", "implicit_neumann", "exact"])
def test_a_bilevel_problem_that_loses_its_graph_itself_is_refused(name, part):
    """A loss that is computed under no_grad inside of the problem, or from detached tensors."""
    options = {
        "unrolled": {"steps": 2, "rate": 0.1},
        "truncated": {"steps": 2, "last": 1, "rate": 0.1},
        "implicit_neumann": {"eta": 0.1},
    }
    whole = getattr(bilevel(), part)
    for lost in (torch.no_grad()(whole), lambda phi, lam: whole(phi.detach(), lam.detach())):
        losses = {"inner_loss": bilevel().inner_loss, "outer_loss": bilevel().outer_loss, part: lost}
        problem = hypergradients.Bilevel(init=bilevel().init, **losses)
        with pytest.raises(CourseError, match="the loss has no graph"):
            getattr(hypergradients, name)(problem, None, tensor(0.7, -0.4), **options.get(name, {}))


@pytest.mark.parametrize("name", ["unrolled", "truncated", "implicit_cg", "implicit_neumann", "exact"])
def test_tensors_that_were_made_in_inference_mode_are_taken(name):
    """Outside of it, such a λ and φ give the same answer as ordinary ones."""
    options = {
        "unrolled": {"steps": 2, "rate": 0.1},
        "truncated": {"steps": 2, "last": 1, "rate": 0.1},
        "implicit_neumann": {"eta": 0.1},
    }
    estimator = getattr(hypergradients, name)
    lam, phi = tensor(0.7, -0.4), tensor(0.1, 0.2)
    expected = estimator(bilevel(), phi, lam, **options.get(estimator.__name__, {}))
    with torch.inference_mode():
        lam, phi = lam.clone(), phi.clone()
    found = estimator(bilevel(), phi, lam, **options.get(estimator.__name__, {}))
    assert torch.equal(found[1], expected[1])
    torch.testing.assert_close(estimators.by_hand(lam, task()), estimators.by_autograd(lam.clone(), task()))


def test_the_modes_are_what_they_say():
    """Or the tests above would show nothing."""
    w = tensor(1.0).requires_grad_()
    for mode in MODES.values():
        with mode():
            assert not (2 * w).requires_grad or torch.is_inference_mode_enabled()
    assert (2 * w).requires_grad
