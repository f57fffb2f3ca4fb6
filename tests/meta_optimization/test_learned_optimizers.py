"""Optimizers as pure functions: those by hand equal PyTorch's, those that learn have right gradients, and learn."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from mlcourse import files, inner, training
from mlcourse.errors import CourseError
from mlcourse.meta_optimization import evolution, learned_optimizers, small_tasks
from mlcourse.meta_optimization.evolution import Estimator
from mlcourse.meta_optimization.learned_optimizers import (
    SGD,
    Adam,
    LearnedOptimizer,
    LSTMRule,
    MLPRule,
    curves,
    inner_training,
    log_and_sign,
    tune_rate,
)
from mlcourse.teaching.oracles import gradient_error

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(kind, **options):
    """A rule with the weights of seed 0; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(**options).double()


ALL = {
    "sgd": lambda: SGD(0.05, momentum=0.9),
    "adam": lambda: Adam(0.02),
    "mlp": lambda: made(MLPRule),
    "lstm": lambda: made(LSTMRule, hidden=5),
}


def model_and_loss():
    """A small smooth network and a regression with another minibatch at each step, float64."""
    generator = seeded(1)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    for value in network.parameters():
        value.data.copy_(torch.randn(value.shape, generator=generator, dtype=F64))
    x, y = (torch.randn(200, n, generator=generator, dtype=F64) for n in (3, 2))

    def loss(predict, t):
        rows = slice(5 * t, 5 * t + 5)
        return (predict(x[rows]) - y[rows]).square().mean()

    return network, loss


def trained_by_torch(optimizer, steps=30, schedule=None):
    network, loss = model_and_loss()
    optimizer = optimizer(network.parameters())
    factor = schedule and torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    for t in range(steps):
        optimizer.zero_grad()
        loss(network, t).backward()
        optimizer.step()
        if factor:
            factor.step()
    return [value.detach() for value in network.parameters()]


def trained_by_rule(rule, steps=30):
    network, loss = model_and_loss()
    params = {name: value.detach() for name, value in network.named_parameters()}
    state = rule.init(params)
    for t in range(steps):
        grads = torch.func.grad(lambda p, t=t: loss(lambda x: functional_call(network, p, (x,)), t))(params)
        params, state = rule.update(params, grads, state, t + 1)
    return [value.detach() for value in params.values()]


def assert_same(got, expected, rtol=1e-12):
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=1e-14)


# ------------------------------------------------------------------ written by hand


def test_sgd_momentum_and_adam_equal_torch():
    assert_same(trained_by_rule(SGD(0.05)), trained_by_torch(lambda p: torch.optim.SGD(p, 0.05)))
    momentum = trained_by_torch(lambda p: torch.optim.SGD(p, 0.05, momentum=0.9))
    assert_same(trained_by_rule(SGD(0.05, momentum=0.9)), momentum)
    adam = trained_by_torch(lambda p: torch.optim.Adam(p, 0.02, betas=(0.8, 0.95)))
    assert_same(trained_by_rule(Adam(0.02, betas=(0.8, 0.95))), adam)
    cosine = trained_by_torch(lambda p: torch.optim.Adam(p, 0.02), schedule=lambda step: training.cosine(step, 30))
    assert_same(trained_by_rule(Adam(0.02, schedule=lambda t: training.cosine(t - 1, 30))), cosine)


def hand_set(feature_row, weight, **options):
    """An MLPRule whose network passes one feature on: relu(x) − relu(−x) = x, times a weight."""
    rule = MLPRule(normalise=False, hidden=2, layers=1, scale=1.0, **options).double()
    with torch.no_grad():
        for value in rule.parameters():
            value.zero_()
        rule.mlp[0].weight[0, feature_row], rule.mlp[0].weight[1, feature_row] = 1.0, -1.0
        rule.mlp[2].weight[0] = torch.tensor([weight, -weight], dtype=F64)
    return rule


def test_the_mlp_with_hand_set_weights_is_sgd_with_momentum():
    rate, beta = 0.05, 0.9
    # the momentum is a mean, m ← βm + (1 − β)g; torch's is a sum
    rule = hand_set(1, rate / (1 - beta), features=("gradient", "momentum"), momenta=(beta,))
    expected = trained_by_torch(lambda p: torch.optim.SGD(p, rate, momentum=beta))
    assert_same(trained_by_rule(rule), expected)
    plain = hand_set(0, rate, features=("gradient", "momentum"), momenta=(beta,))
    assert_same(trained_by_rule(plain), trained_by_torch(lambda p: torch.optim.SGD(p, rate)))
    with pytest.raises(AssertionError):  # the comparison tells them apart
        assert_same(trained_by_rule(plain), expected)


def test_the_mlp_with_other_hand_set_weights_is_adam():
    rule = hand_set(1, 0.02, features=("scaled",), momenta=(0.9,), squares=0.999)
    assert_same(trained_by_rule(rule), trained_by_torch(lambda p: torch.optim.Adam(p, 0.02)), rtol=1e-5)


def test_magnitude_is_an_exponent_and_time_a_feature():
    rule = made(MLPRule, features=("time",), times=(10.0,), hidden=1, layers=1, activation="tanh", scale=0.5, gain=2.0)
    with torch.no_grad():
        rule.mlp[0].weight.fill_(1.0), rule.mlp[0].bias.zero_()
        (
            rule.mlp[2].weight.copy_(torch.tensor([[1.0], [3.0]], dtype=F64)),
            rule.mlp[2].bias.copy_(torch.tensor([0.2, 0.1], dtype=F64)),
        )
    params, grads = {"p": torch.zeros(2, dtype=F64)}, {"p": torch.ones(2, dtype=F64)}
    new = rule.update(params, grads, rule.init(params), 30)[0]["p"]
    hidden = math.tanh(math.tanh(30 / 10 - 1))
    expected = -0.5 * (hidden + 0.2) * math.exp(2 * (3 * hidden + 0.1))
    torch.testing.assert_close(new, torch.full((2,), expected, dtype=F64), rtol=1e-12, atol=0)


def test_gradients_go_into_the_lstm_as_logarithm_and_sign():
    g = torch.tensor([1.0, -math.e, math.exp(-10), math.exp(-11), 0.0, -math.exp(-12)], dtype=F64)
    expected = torch.tensor([[0, 1], [0.1, -1], [-1, 1], [-1, math.exp(-1)], [-1, 0], [-1, -math.exp(-2)]], dtype=F64)
    torch.testing.assert_close(log_and_sign(g, 10.0), expected, rtol=1e-12, atol=1e-15)
    g.requires_grad_()
    assert torch.isfinite(torch.autograd.grad(log_and_sign(g, 10.0).sum(), g)[0]).all()


# ------------------------------------------------------------------ all rules


@pytest.mark.parametrize("name", ALL)
def test_coordinates_are_treated_alike(name):
    """Permute all coordinates of a tensor, and everything that comes out is permuted, and nothing else changes."""
    rule, generator, order = ALL[name](), seeded(), torch.randperm(12, generator=seeded(4))
    params = {"a": torch.randn(12, generator=generator, dtype=F64), "b": torch.randn(3, generator=generator, dtype=F64)}
    mixed = params | {"a": params["a"][order]}
    state, mixed_state = rule.init(params), rule.init(mixed)
    for t in (1, 2, 3):
        grads = {key: torch.randn(value.shape, generator=generator, dtype=F64) for key, value in params.items()}
        params, state = rule.update(params, grads, state, t)
        mixed, mixed_state = rule.update(mixed, grads | {"a": grads["a"][order]}, mixed_state, t)
    torch.testing.assert_close(mixed["a"], params["a"][order], rtol=1e-12, atol=0)
    torch.testing.assert_close(mixed["b"], params["b"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_the_wrapper_equals_the_pure_functions_and_survives_its_state_dict(name):
    rule = ALL[name]()
    expected = trained_by_rule(rule, steps=12)
    network, loss = model_and_loss()
    optimizer = LearnedOptimizer(network.parameters(), rule)
    for t in range(12):
        if t == 5:  # another optimizer goes on from what the first one remembers
            remembered = copy.deepcopy(optimizer.state_dict())
            optimizer = LearnedOptimizer(network.parameters(), rule)
            optimizer.load_state_dict(remembered)
        optimizer.zero_grad()
        loss(network, t).backward()
        assert optimizer.step() is None
    assert_same([value.detach() for value in network.parameters()], expected, rtol=1e-10)
    assert not any(value.grad_fn for value in network.parameters())


def test_the_wrapper_forgets_without_its_state_dict():
    """The state matters: or the test above would pass for an optimizer that saves nothing."""
    network, loss = model_and_loss()
    for t in range(12):
        if t in (0, 5):
            optimizer = LearnedOptimizer(network.parameters(), ALL["mlp"]())
        optimizer.zero_grad()
        loss(network, t).backward()
        optimizer.step()
    with pytest.raises(AssertionError):
        assert_same([v.detach() for v in network.parameters()], trained_by_rule(ALL["mlp"](), steps=12), rtol=1e-3)


def test_the_wrapper_is_an_optimizer_as_any_other():
    network, loss = model_and_loss()
    before = [value.detach().clone() for value in network.parameters()]
    network[0].bias.requires_grad_(False)
    optimizer = LearnedOptimizer(network.parameters(), SGD(0.1), lr=1.0)
    half = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)

    def closure():
        optimizer.zero_grad()
        value = loss(network, 0)
        value.backward()
        return value

    assert optimizer.step(closure).item() == loss(model_and_loss()[0], 0).item()
    assert torch.equal(network[0].bias, before[1])  # no gradient, no step
    reached = network[2].bias.detach() - before[3]
    torch.testing.assert_close(reached, -0.05 * network[2].bias.grad, rtol=1e-12, atol=0)
    half.step()
    with pytest.raises(CourseError, match=r"lr is -1\.0"):
        LearnedOptimizer(network.parameters(), SGD(0.1), lr=-1.0)


@pytest.mark.parametrize("name", ALL)
def test_rules_go_through_a_file(name, tmp_path):
    rule = ALL[name]()
    learned_optimizers.save(rule, tmp_path / "rule.safetensors", command="make it")
    again, about = learned_optimizers.load(tmp_path / "rule.safetensors")
    assert about == {"command": "make it"}
    assert type(again) is type(rule)
    assert_same(trained_by_rule(again, 5), trained_by_rule(rule, 5), rtol=0)
    files.save_tensors(tmp_path / "other.safetensors", {"w": torch.ones(1)}, {"rule": name, "options": {"size": 3}})
    with pytest.raises(CourseError, match="holds no rule"):
        learned_optimizers.load(tmp_path / "other.safetensors")


def test_a_loss_times_a_constant_trains_the_same():
    quadratics = small_tasks.quadratics(dtype=F64)
    hundredfold = small_tasks.Family(
        "hundredfold",
        quadratics.sample,
        lambda params, task, t: 100 * quadratics.loss(params, task, t),
        quadratics.validation,
    )
    tasks = quadratics.sample(4, seeded())
    normal = made(MLPRule)
    torch.testing.assert_close(
        curves(normal, hundredfold, tasks, horizon=10), curves(normal, quadratics, tasks, horizon=10), rtol=1e-3, atol=0
    )
    raw = made(MLPRule, normalise=False)
    changed = curves(raw, hundredfold, tasks, horizon=10) - curves(raw, quadratics, tasks, horizon=10)
    assert changed[:, -1].abs().max() > 0.1


# ------------------------------------------------------------------ the meta-loss


@pytest.mark.parametrize("family", ["quadratics", "blobs", "sinusoids"])
@pytest.mark.parametrize(("name", "h"), [("sgd", 1e-5), ("adam", 1e-5), ("mlp", 1e-4), ("lstm", 1e-3)])
def test_the_gradient_of_the_meta_loss_equals_richardson_differences(name, h, family):
    # h: as large as the rule is smooth. Adam's step bends sharply where a gradient is almost 0.
    options = {"size": 4} if family == "quadratics" else {"hidden": 3, "examples": 16, "batch": 8}
    family = small_tasks.FAMILIES[family](**options, dtype=F64)
    rule = made(MLPRule, activation="tanh", hidden=4, layers=1) if name == "mlp" else ALL[name]()
    problem = inner_training(rule, family, horizon=4)
    names, shapes = zip(*((key, value.shape) for key, value in rule.weights().items()), strict=True)

    def split(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        return {key: part.view(shape) for key, part, shape in zip(names, parts, shapes, strict=True)}

    def meta_loss(flat):
        return evolution.exact(problem, split(flat), trajectories=2, generator=seeded(3))[0]

    lam = rule.weights()
    gradient = evolution.exact(problem, lam, trajectories=2, generator=seeded(3))[1]
    flat, slope = (torch.cat([value.flatten() for value in tree.values()]) for tree in (lam, gradient))
    assert gradient_error(meta_loss, flat, slope, seeded(), h=h) < 1e-8


def test_first_order_leaves_a_term_out_and_weights_choose_what_counts():
    family, rule = small_tasks.quadratics(4, dtype=F64), SGD(0.1)

    def gradient(**options):
        problem = inner_training(rule, family, horizon=4, **options)
        return evolution.exact(problem, rule.weights(), generator=seeded())

    value, full = gradient()
    same, cut = gradient(first_order=True)
    assert value == same
    assert abs(cut["rate"] - full["rate"]) > 0.01 * abs(full["rate"])
    last, _ = gradient(weight=lambda t: float(t == 4))
    tasks = family.sample(1, seeded())
    measured = curves(rule, family, tasks, horizon=4)
    assert last.item() == pytest.approx(measured[0, -1].item(), rel=1e-12)
    assert value.item() == pytest.approx(measured[0, 1:].mean().item(), rel=1e-12)


def test_a_ceiling_catches_what_diverges():
    family, wild = small_tasks.quadratics(4, dtype=F64), SGD(1e200)
    options = {"sigma": 0.1, "particles": 4, "generator": seeded()}
    with pytest.raises(CourseError, match="4 of 4 trajectories is not finite"):
        evolution.es(inner_training(wild, family, horizon=3), wild.weights(), **options)
    value, gradient = evolution.es(inner_training(wild, family, horizon=3, ceiling=5.0), wild.weights(), **options)
    assert value.item() == pytest.approx(5.0)
    assert gradient["rate"] == 0
    with pytest.raises(CourseError, match="ceiling is nan"):
        inner_training(wild, family, horizon=3, ceiling=math.nan)


# ------------------------------------------------------------------ training


def test_untrained_rules_diverge_or_stall():
    """Five random MLPRules: none gets the mean loss of 64 quadratics below half of its start; SGD gets to 2 %."""
    family = small_tasks.quadratics()
    tasks = family.sample(64, seeded(9))
    start, *_, end = curves(SGD(0.1, momentum=0.9), family, tasks, horizon=40).mean(0).tolist()
    assert end < 0.02 * start
    with torch.random.fork_rng(devices=[]):
        for seed in range(5):
            torch.manual_seed(seed)
            assert not curves(MLPRule(), family, tasks, horizon=40).mean(0)[-1] < 0.5 * start


def paired(before, after):
    """(mean, standard error) of how much each held-out task gained in its mean loss over training."""
    gain = (before - after)[:, 1:].mean(1)
    return gain.mean().item(), gain.std().item() / len(gain) ** 0.5


@pytest.mark.parametrize(
    ("estimator", "settings"),
    [
        ("truncated", {"particles": 16}),
        ("pes", {"particles": 32, "sigma": 0.01}),
        ("es", {"particles": 32, "sigma": 0.01}),
    ],
)
def test_a_short_meta_training_learns_what_holds_on_tasks_it_has_not_seen(estimator, settings):
    family, horizon = small_tasks.quadratics(), 40
    held_out = family.sample(64, seeded(99))
    rule = made(MLPRule).float()
    before = curves(rule, family, held_out, horizon=horizon)
    problem = inner_training(rule, family, horizon=horizon, ceiling=None if estimator == "truncated" else 20.0)
    learner = Estimator(problem, rule, estimator=estimator, truncation=10, clip=1.0, **settings)
    training.train(learner, family, steps=60, tasks=16, rate=0.01, progress=False)
    after = curves(rule, family, held_out, horizon=horizon)
    mean, error = paired(before, after)
    assert mean > 10 * error
    assert after[:, 1:].mean() < 0.3 * before[:, 1:].mean()


def test_tuned_rates_are_the_best_of_those_tried_and_not_at_the_edge():
    family = small_tasks.quadratics()
    tasks = family.sample(16, seeded())
    rates = [*(10 ** (k / 2 - 3) for k in range(9)), 1e9]
    best, losses = tune_rate(SGD(), family, tasks, horizon=30, rates=rates)
    assert losses.min() == losses[rates.index(pytest.approx(best))]
    assert losses.shape == (10,)
    assert math.isinf(losses[-1]), "it diverges to inf or nan"
    with pytest.raises(CourseError, match=r"the best rate, 0\.01, is at the edge"):
        tune_rate(SGD(), family, tasks, horizon=30, rates=[0.001, 0.01])


# ------------------------------------------------------------------ the tasks


@pytest.mark.parametrize("name", small_tasks.FAMILIES)
def test_tasks_follow_their_seed_and_run_side_by_side_as_one_by_one(name):
    family = small_tasks.FAMILIES[name](dtype=F64)
    tasks, again, other = (family.sample(3, seeded(seed)) for seed in (0, 0, 1))
    flat = [evolution.leaves(one) for one in (tasks, again, other)]
    assert all(map(torch.equal, flat[0], flat[1]))
    assert not all(map(torch.equal, flat[0], flat[2]))
    rule = made(LSTMRule, hidden=3)
    together = curves(rule, family, tasks, horizon=9)
    for i in range(3):
        alone = evolution.map_tree(lambda value, i=i: value[i : i + 1], tasks)
        torch.testing.assert_close(curves(rule, family, alone, horizon=9)[0], together[i], rtol=1e-10, atol=0)
    assert curves(Adam(0.03), family, tasks, horizon=60)[:, -1].mean() < 0.6 * together[:, 0].mean()


def test_validation_is_not_the_training_data_and_minibatches_cycle():
    family = small_tasks.blobs(batch=16, examples=32)
    task = evolution.map_tree(lambda value: value[0], family.sample(1, seeded()))
    assert not torch.equal(task["x"], task["x_val"])
    losses = [family.loss(task["start"], task, t).item() for t in (1, 2, 3)]
    assert losses[0] == losses[2] != losses[1]
    assert family.validation(task["start"], task).item() not in losses


def test_the_spectrum_of_the_quadratics_is_within_its_condition():
    tasks = small_tasks.quadratics(6, condition=25.0, dtype=F64).sample(20, seeded())
    values = torch.linalg.eigvalsh(tasks["root"] @ tasks["root"].mT)
    assert values.min() >= 0.2 - 1e-9
    assert values.max() <= 5.0 + 1e-9
    assert values.max() > 4
    assert values.min() < 0.25


def test_scaled_tasks_are_the_same_tasks_in_other_units():
    family = small_tasks.sinusoids(dtype=F64)
    tasks = family.sample(3, seeded())
    other = small_tasks.scaled(family, loss=5.0, units=10.0)
    same = other.sample(3, seeded())
    task, written = (evolution.map_tree(lambda value: value[0], one) for one in (tasks, same))
    assert other.validation(written["start"], written) == pytest.approx(family.validation(task["start"], task).item())
    gradient = torch.func.grad(family.loss)(task["start"], task, 1)
    scaled = torch.func.grad(other.loss)(written["start"], written, 1)
    for name, g in gradient.items():
        torch.testing.assert_close(scaled[name], 50 * g, rtol=1e-10, atol=0)
    # SGD at a rate that is smaller by loss · units² goes the same way; at the same rate it does not
    home = curves(SGD(0.02), family, tasks, horizon=5)
    torch.testing.assert_close(curves(SGD(0.02 / 500), other, same, horizon=5), home, rtol=1e-8, atol=0)
    assert not torch.allclose(curves(SGD(0.02), other, same, horizon=5), home, rtol=0.1)


@pytest.mark.parametrize(("activation", "function"), [("tanh", torch.tanh), ("relu", torch.relu), ("sine", torch.sin)])
def test_the_activation_is_the_one_named(activation, function):
    family = small_tasks.sinusoids(activation=activation, dtype=F64)
    task = evolution.map_tree(lambda value: value[0], family.sample(1, seeded()))
    w = task["start"]
    predicted = function(task["x_val"] * w["w1"] + w["b1"]) @ w["w2"] + w["b2"]
    assert family.validation(w, task).item() == pytest.approx((predicted - task["y_val"]).square().mean().item())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(0.0), r"rate is 0\.0"),
        (lambda: Adam(math.nan), "rate is nan"),
        (lambda: MLPRule(features=("hessian",)), "feature 'hessian'"),
        (lambda: MLPRule(features=()), "feature None"),
        (lambda: MLPRule(activation="sine"), "activation 'sine'"),
        (lambda: MLPRule(hidden=0), "hidden is 0"),
        (lambda: LSTMRule(layers=0), "layers is 0"),
        (lambda: small_tasks.quadratics(0), "size is 0"),
        (lambda: small_tasks.quadratics(condition=0.5), r"condition is 0\.5"),
        (lambda: small_tasks.blobs(batch=10), "batch 10 does not divide the 128 examples"),
        (lambda: small_tasks.sinusoids(batch=0), "batch is 0"),
        (lambda: small_tasks.sinusoids(activation="cosine"), "activation 'cosine' is unknown; use one of tanh"),
        (lambda: small_tasks.scaled(small_tasks.quadratics(), units=0.0), r"units is 0\.0"),
        (lambda: small_tasks.scaled(small_tasks.quadratics(), loss=math.inf), "loss is inf"),
    ],
)
def test_errors_name_the_value(make, message):
    with pytest.raises(CourseError, match=message):
        make()


# ------------------------------------------------------------------ where a gradient is exactly 0


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


X = drawn(6, 3, seed=1)
NETWORKS = {  # parameters, and a loss of them
    "two weights, one without a slope": (
        {"w": torch.tensor([0.7, -0.4], dtype=F64)},
        lambda p: (torch.tensor([1.0, 0.0], dtype=F64) * p["w"] ** 2).sum(),
    ),
    "blank pixels": (  # columns of zeros, as the edge of a glyph
        {"w": drawn(5, 2), "b": drawn(2, seed=2)},
        lambda p: (torch.cat([X, 0 * X[:, :2]], 1) @ p["w"] + p["b"]).square().mean(),
    ),
    "unused": ({"w": drawn(3, 2), "never": drawn(4, seed=2)}, lambda p: (X @ p["w"]).tanh().square().mean()),
    "beside frozen ones": (  # which the loss uses and the rule never sees
        {"w": drawn(3, 2)},
        lambda p: ((X @ p["w"]).tanh() * torch.tensor([0.0, 1.5], dtype=F64)).square().mean(),
    ),
    "shared": ({"w": drawn(3, 3)}, lambda p: ((X @ p["w"]).tanh() @ p["w"].T - X).square().mean()),
    "dead unit": ({"w": drawn(3, 2), "b": torch.tensor([0.5, -99.0], dtype=F64)}, lambda p: _rectified(p)),
    "all zero": ({"w": drawn(3)}, lambda p: 0.0 * p["w"].sum()),
}


def _rectified(params):
    return nn.functional.softplus(X @ params["w"] + params["b"], 20).mul(X @ params["w"] + params["b"] > 0).mean()


SWEPT = {
    "sgd": lambda: SGD(0.05),
    "momentum": lambda: SGD(0.05, momentum=0.9),
    "adam": lambda: Adam(0.02, eps=1e-2),
    "adam as ever": lambda: Adam(0.02),
    "lstm": lambda: made(LSTMRule, hidden=4),
    "mlp": lambda: made(MLPRule, activation="tanh", hidden=4),
    "mlp, not normalised": lambda: made(MLPRule, activation="tanh", hidden=4, normalise=False),
} | {
    f"mlp of {name}{' alone' if normalise else ', not normalised'}": lambda name=name, normalise=normalise: made(
        MLPRule, activation="tanh", hidden=4, features=(name,), normalise=normalise, scale=0.01
    )
    for name in learned_optimizers.FEATURES
    for normalise in (True, False)
}


def test_every_rule_is_swept():
    assert {type(make()) for make in SWEPT.values()} == set(learned_optimizers.RULES.values())


def trained(rule, start, weights, loss, steps=3):
    """A number of the parameters after some updates, with the graph of all of them."""
    params, state = start, rule.init(start)
    for t in range(1, steps + 1):
        grads = inner.gradient(loss(params), params, create_graph=True)
        params, state = functional_call(rule, weights, (params, grads, state, t))
    flat = torch.cat([value.flatten() for value in params.values()])
    return flat @ torch.linspace(1, 2, len(flat), dtype=F64)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", SWEPT)
def test_the_derivative_of_training_equals_differences_where_gradients_are_exactly_0(name, network):
    """With respect to the start and to the rule's own weights, over 3 updates."""
    rule, (start, loss) = SWEPT[name](), NETWORKS[network]
    known = {f"start.{key}": value for key, value in start.items()}
    known |= {f"rule.{key}": value for key, value in rule.weights().items()}

    def number(flat, graph=False):
        parts = flat.split([value.numel() for value in known.values()])
        parts = {key: part.view_as(value) for (key, value), part in zip(known.items(), parts, strict=True)}
        own = {key.removeprefix("start."): value for key, value in parts.items() if key.startswith("start.")}
        weights = {key.removeprefix("rule."): value for key, value in parts.items() if key.startswith("rule.")}
        own = own if graph else {key: value.detach().requires_grad_() for key, value in own.items()}
        return trained(rule, own, weights, loss)

    at = torch.cat([value.flatten() for value in known.values()]).requires_grad_()
    (slope,) = torch.autograd.grad(number(at, graph=True), at)
    assert slope.isfinite().all()
    error = gradient_error(lambda flat: number(flat).detach(), at.detach(), slope, seeded(5), h=1e-4)
    assert error < 1e-6


def test_adam_moves_a_weight_at_the_bottom_as_its_formula_says():
    """At w = 0 with the loss w², g = 0: φ − α g / (|g| + ε) has the slope 1 − 2α/ε there, not nan and not 1."""
    rule, eps = Adam(0.02, eps=0.1), 0.1
    w = torch.zeros(1, dtype=F64, requires_grad=True)
    grads = inner.gradient(w.square().sum(), {"w": w}, create_graph=True)
    new, _ = rule.update({"w": w}, grads, rule.init({"w": w}), 1)
    (slope,) = torch.autograd.grad(new["w"].sum(), w)
    assert slope.item() == pytest.approx(1 - 0.02 * 2 / eps, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_with_exact_zeros_the_values_are_torch_s_to_the_bit(dtype):
    rules = {
        "sgd": (SGD(0.05), lambda p: torch.optim.SGD(p, 0.05)),
        "momentum": (SGD(0.05, momentum=0.9), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
        "adam": (Adam(0.02), lambda p: torch.optim.Adam(p, 0.02)),
    }
    for network, (start, loss) in NETWORKS.items():
        if dtype == torch.float32 and network != "all zero" and "pixels" not in network:
            continue  # the others' data are float64
        for name, (rule, optimizer) in rules.items():
            params = {key: value.clone() for key, value in start.items()}
            own = [value.clone().requires_grad_() for value in start.values()]
            theirs, state = optimizer(own), rule.init(params)
            for t in range(1, 6):
                asked = {key: value.detach().requires_grad_() for key, value in params.items()}
                params, state = rule.update(params, inner.gradient(loss(asked), asked), state, t)
                theirs.zero_grad()
                loss(dict(zip(start, own, strict=True))).backward()
                theirs.step()
            for (key, value), other in zip(params.items(), own, strict=True):
                torch.testing.assert_close(value, other.detach(), rtol=1e-13, atol=0, msg=f"{network} {name} {key}")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SGD(math.nan), "rate is nan"),
        (lambda: SGD(-0.1), r"rate is -0\.1"),
        (lambda: SGD(0.1, momentum=-0.5), r"momentum is -0\.5"),
        (lambda: SGD(0.1, momentum=math.inf), "momentum is inf"),
        (lambda: Adam(betas=(0.9, 1.0)), r"beta is 1\.0"),
        (lambda: Adam(betas=(-0.1, 0.9)), r"beta is -0\.1"),
        (lambda: Adam(betas=(math.nan, 0.9)), "beta is nan"),
        (lambda: Adam(eps=math.nan), "eps is nan"),
        (lambda: Adam(eps=-1e-8), "eps is -1e-08"),
        (lambda: MLPRule(momenta=(0.9, 1.0)), r"momentum is 1\.0"),
        (lambda: MLPRule(squares=1.0), r"squares is 1\.0"),
        (lambda: MLPRule(times=(0.0,)), r"time is 0\.0"),
        (lambda: MLPRule(scale=math.inf), "scale is inf"),
        (lambda: MLPRule(gain=math.nan), "gain is nan"),
        (lambda: MLPRule(layers=-1), "layers is -1"),
        (lambda: LSTMRule(p=0.0), r"p is 0\.0"),
        (lambda: LSTMRule(p=math.nan), "p is nan"),
        (lambda: LSTMRule(scale=math.nan), "scale is nan"),
        (lambda: _tuned([0.1, -0.1, 1.0]), r"a rate is -0\.1"),
        (lambda: _tuned([0.1, math.nan, 1.0]), "a rate is nan"),
        (lambda: _tuned([0.1, math.inf, 1.0]), "a rate is inf"),
        (lambda: _tuned([0.0, 0.1, 1.0]), r"a rate is 0\.0"),
        (lambda: _tuned(["fast"]), "a rate is 'fast'"),
        (lambda: _tuned([]), "rates is empty"),
        (lambda: _tuned([0.1, 0.2, 0.3], horizon=0), "horizon is 0"),
        (lambda: _tuned([0.1, 0.2, 0.3], horizon=-2), "horizon is -2"),
        (lambda: small_tasks.quadratics(condition=math.inf), "condition is inf"),
        (lambda: small_tasks.quadratics(condition=math.nan), "condition is nan"),
        (lambda: small_tasks.scaled(small_tasks.quadratics(), units=math.nan), "units is nan"),
    ],
)
def test_options_out_of_range_are_one_line(make, words):
    with pytest.raises(CourseError, match=words) as found:
        make()
    assert "\n" not in str(found.value)


def _tuned(rates, horizon=3):
    family = small_tasks.quadratics(2)
    return tune_rate(SGD(), family, family.sample(2, seeded()), horizon=horizon, rates=rates)


@pytest.mark.parametrize("kind", [learned_optimizers.SGD, learned_optimizers.Adam])
def test_a_schedule_is_not_lost_without_a_word(kind, tmp_path):
    with pytest.raises(CourseError, match="with a schedule cannot be kept: keep one without it"):
        learned_optimizers.save(kind(0.1, schedule=lambda t: 0.0), tmp_path / "rule.safetensors")
    assert not list(tmp_path.iterdir())
