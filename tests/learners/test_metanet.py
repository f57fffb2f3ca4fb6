"""Meta-Networks: the equations one image at a time, what a query may see, where the meta-gradient goes."""

import math
from dataclasses import replace

import pytest
import torch
from core_helpers import Fixed, Smooth, flat_gradient, loss_at, random_episode, squares
from torch import nn
from torch.nn import functional as F

import mlcourse
from mlcourse import datasets, learners, training
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.evaluation import compare, evaluate
from mlcourse.learners import metanet
from mlcourse.learners.metanet import MetaNetwork, OtherEpisode
from mlcourse.networks import Conv4
from mlcourse.teaching.oracles import gradient_error

SMALL = {"channels": 8, "hidden": 6, "meta_hidden": 4, "normalisation": "group"}


def made(**options):
    return learners.build("metanet", **{"way": 5, "size": 16, "seed": 0} | SMALL | options)


def episode(tasks=3, way=5, shot=1, query=3):
    return EpisodeSampler(squares(), way, shot, query).sample(tasks, torch.Generator().manual_seed(0))


def smooth(**options):
    """A Meta-Network without a kink, in float64."""
    torch.manual_seed(0)
    learner = MetaNetwork(Smooth("group"), hidden=5, meta_hidden=4, **options).double()
    learner.u.activation = learner.b.activation = F.softplus
    learner.m.layers[1] = learner.m.layers[3] = nn.Softplus()
    return learner


# ---------------------------------------------------------------------- the equations, in plain loops


def looped(learner, support_x, support_y, query_x):
    """The logits of ONE task: the paper's algorithm 1, one image after another."""
    u, b = learner.u, learner.b
    weights_u, weights_b = [u.fc.weight, u.fc.bias], [b.fc.weight, b.fc.bias, learner.head.weight, learner.head.bias]

    def gradient(loss, weights):
        found = torch.autograd.grad(loss, weights, create_graph=learner.second_order)
        return [torch.cat([w, bias[:, None]], 1) for w, bias in zip(found[::2], found[1::2], strict=True)]

    def augmented(slow, fast, x):
        return F.relu(slow(x)) + F.relu(fast[:, :-1] @ x + fast[:, -1])

    gradients, one_each = [], len(set(support_y.tolist())) == len(support_y)
    choose = metanet.singles if one_each else metanet.pairs_of
    places = choose(len(support_x), learner.examples, torch.Generator().manual_seed(0), torch.device("cpu"))
    for i, j in zip(*places, strict=True):  # lines 1 to 5
        if one_each:
            logits = learner.head_u @ F.relu(u.fc(u.features(support_x[None])[0, i]))
            loss = -logits.log_softmax(0)[support_y[i]]
        else:
            one, two = (F.relu(u.fc(u.features(support_x[None])[0, k])) for k in (i, j))
            squared = ((one - two) ** 2).sum()
            far = torch.relu(1 - torch.sqrt(squared + 1e-12))
            loss = squared / 2 if support_y[i] == support_y[j] else far**2 / 2
        gradients += gradient(loss, weights_u)
    fast_u = written_by_d(learner.d, gradients) / (u.fc.in_features + 1)  # line 6
    scales = 1 / (b.fc.in_features + 1), (learner.head.in_features + 1) ** 0.5
    memory, keys = [], []
    for x, y in zip(support_x, support_y, strict=True):  # lines 7 to 14
        logits = learner.head(F.relu(b.fc(b.features(x[None, None])[0, 0])))
        found = gradient(-logits.log_softmax(0)[y], weights_b)
        memory.append([written_by_m(learner.m, g) * scale for g, scale in zip(found, scales, strict=True)])
        keys.append(augmented(u.fc, fast_u, u.features(x[None, None])[0, 0]))
    answers = []
    for x in query_x:  # lines 16 to 20
        r = augmented(u.fc, fast_u, u.features(x[None, None])[0, 0])
        similar = torch.stack([r @ key / (r.norm() * key.norm()) for key in keys])
        attention = similar.exp() / similar.exp().sum()
        fast_fc, fast_head = (sum(a * fast[k] for a, fast in zip(attention, memory, strict=True)) for k in (0, 1))
        hidden = augmented(b.fc, fast_fc, b.features(x[None, None])[0, 0])
        answers.append(learner.head(hidden) + fast_head[:, :-1] @ hidden + fast_head[:, -1])
    return torch.stack(answers)


def prepared(g):
    """The two numbers of ONE coordinate."""
    if g.abs() >= math.exp(-7):
        return torch.stack([g.abs().log() / 7, g.sign()])
    return torch.stack([-torch.ones_like(g), math.exp(7) * g])


def written_by_m(m, gradient):
    coordinates = [prepared(g) for g in gradient.flatten()]
    return torch.stack([m.layers(two)[0] for two in coordinates]).view_as(gradient)


def written_by_d(d, gradients):
    """An LSTM by hand: input gate, forget gate, candidate, output gate."""
    lstm, hidden = d.lstm, d.lstm.hidden_size
    steps = [torch.stack([prepared(g) for g in gradient.flatten()]) for gradient in gradients]
    h = c = steps[0].new_zeros(len(steps[0]), hidden)
    for x in steps:
        gates = x @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + h @ lstm.weight_hh_l0.T + lstm.bias_hh_l0
        i, f, g, o = gates.split(hidden, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    return d.out(h).view_as(gradients[0])


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize(("way", "shot", "examples"), [(3, 1, 2), (3, 2, 4)])
def test_all_at_once_equals_one_image_at_a_time(second_order, way, shot, examples):
    learner = made(way=way, channels=2, hidden=4, examples=examples, second_order=second_order).double()
    batch = episode(tasks=2, way=way, shot=shot, query=2)
    x, y, queries = batch.support_x.double(), batch.support_y, batch.query_x.double()
    results = []
    for each in (
        lambda: learner(x, y, queries),
        lambda: torch.stack([looped(learner, *task) for task in zip(x, y, queries, strict=True)]),
    ):
        learner.zero_grad()
        logits = each()
        learner.loss(logits, batch.query_y).backward()
        grads = {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}
        results.append((logits.detach(), torch.cat([grads[name].flatten() for name in sorted(grads)])))
    (logits_a, grad_a), (logits_b, grad_b) = results
    assert (logits_a - logits_b).abs().max() < 1e-10
    assert (grad_a - grad_b).norm() / grad_b.norm() < 1e-10


def test_an_augmented_layer_adds_two_rectified_answers():
    torch.manual_seed(0)
    slow, fast, x = nn.Linear(3, 2), torch.randn(2, 2, 4), torch.randn(2, 5, 3)
    got = metanet.augmented(slow, fast, x)
    for task in range(2):
        for image in range(5):
            for unit in range(2):
                one, two = slow.bias[unit].item(), fast[task, unit, 3].item()
                for k in range(3):
                    one += slow.weight[unit, k].item() * x[task, image, k].item()
                    two += fast[task, unit, k].item() * x[task, image, k].item()
                assert got[task, image, unit].item() == pytest.approx(max(one, 0) + max(two, 0), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_fast_weights_start_as_descent_has_it_and_small_beside_the_slow_ones(seed):
    learner, batch = learners.build("metanet", way=5, size=16, seed=seed, channels=8), episode()
    with torch.no_grad():
        for write in (learner.m, learner.d):
            down, up = (write(torch.full((1, 1, 1), g)) for g in (-0.02, 0.02))
            assert down > 0
            assert up.item() == pytest.approx(0, abs=1e-6)
        state = learner.adapt(batch.support_x, batch.support_y)
        of_u, of_b = learner.features(batch.query_x)
        same = torch.full((3, 15, 5), 0.2)
        fast_b = metanet.mixed(same, state["memory_fc"], of_b)
        fast_u = metanet.with_one(of_u) @ state["fast_u"].transpose(1, 2)
        assert (fast_b > 0).any()
        assert (fast_u > 0).any()
        assert fast_b.abs().mean() < learner.b.fc(of_b).abs().mean()
        assert fast_u.abs().mean() < learner.u.fc(of_u).abs().mean()


def test_preprocessing_keeps_sign_and_order_of_magnitude():
    got = metanet.preprocess(torch.tensor([1.0, -math.exp(-3.5), math.exp(-8), 0.0], dtype=torch.float64))
    expected = torch.tensor([[0, 1], [-0.5, -1], [-1, math.exp(-1)], [-1, 0]], dtype=torch.float64)
    torch.testing.assert_close(got, expected)


def test_the_memory_is_read_by_a_softmax_of_cosines():
    learner, batch = made().eval(), episode()
    with torch.no_grad():
        state = learner.adapt(batch.support_x, batch.support_y)
        of_u, _ = learner.features(batch.query_x)
        got = learner.attention(state, of_u)
        r = metanet.augmented(learner.u.fc, state["fast_u"], of_u)
        expected = torch.cosine_similarity(r.unsqueeze(2), state["keys"].unsqueeze(1), dim=-1).softmax(-1)
        torch.testing.assert_close(got, expected)
        # A key that is the query's own representation is read most, the more so the sharper.
        state["keys"] = r[:, :5].clone()
        learner.sharpness = 1e4
        own = learner.attention(state, of_u[:, :5]).argmax(-1)
        assert torch.equal(own, torch.arange(5).expand(3, -1))


def test_shapes_of_the_state():
    learner, batch = made(), episode(tasks=2, shot=2)
    state = learner.adapt(batch.support_x, batch.support_y)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    features = learner.u.fc.in_features
    assert shapes == {
        "fast_u": (2, 6, features + 1),
        "keys": (2, 10, 6),
        "memory_fc": (2, 10, 6, features + 1),
        "memory_head": (2, 10, 5, 7),
    }


# ---------------------------------------------------------------------- what a query may see


@pytest.mark.parametrize("normalisation", ["running", "group", "none"])
def test_no_query_sees_another(normalisation):
    learner, batch = made(normalisation=normalisation).double(), episode()
    support, queries = batch.support_x.double(), batch.query_x.double()
    learner.train().outer_loss(replace(batch, support_x=support, query_x=queries))  # running statistics of some data
    with torch.no_grad():
        for mode in (True, False):
            learner.train(mode)
            state = learner.adapt(support, batch.support_y)
            together = learner.predict(state, queries)
            order = torch.randperm(queries.shape[1], generator=torch.Generator().manual_seed(1))
            more = torch.cat([queries, queries.flip(-1)], 1)
            torch.testing.assert_close(learner.predict(state, queries[:, order]), together[:, order])
            torch.testing.assert_close(learner.predict(state, queries[:, 2:3]), together[:, 2:3])
            torch.testing.assert_close(learner.predict(state, more)[:, : queries.shape[1]], together)


def test_tasks_do_not_see_each_other():
    learner, batch = made().eval(), episode(tasks=3)
    together = learner(batch.support_x, batch.support_y, batch.query_x)[1:2]
    one = batch.task(1)
    torch.testing.assert_close(learner(one.support_x, one.support_y, one.query_x), together, rtol=1e-3, atol=1e-4)


def test_adapting_and_predicting_change_no_parameter_and_no_buffer():
    learner, batch = made(normalisation="running").train(), episode()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    with torch.no_grad():
        state = learner.adapt(batch.support_x, batch.support_y)
        learner.predict(state, batch.query_x)
    assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())
    assert not any(value.requires_grad for value in state.values())
    assert all(part.training for part in learner.modules())
    learner.outer_loss(batch)
    changed = [not torch.equal(before[name], value) for name, value in learner.named_buffers() if "running" in name]
    assert all(changed)
    assert changed


# ---------------------------------------------------------------------- the meta-gradient


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("shot", [1, 2])
def test_the_meta_gradient_reaches_every_outer_parameter(second_order, shot):
    learner = made(second_order=second_order, normalisation="running")
    learner.outer_loss(episode(shot=shot))[0].backward()
    for name, p in learner.named_parameters():
        if name == "head_u" and shot > 1:  # a contrastive loss needs no softmax layer
            continue
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name


@pytest.mark.parametrize("shot", [1, 2])
def test_the_meta_gradient_equals_richardson_differences_with_the_inputs_of_m_and_d_held(shot):
    learner, batch = smooth(), random_episode(tasks=2, shot=shot)
    of_u, of_b = learner.features(batch.support_x)
    held = learner.representation_gradients(of_u, batch.support_y, None)
    held_task = learner.task_gradients(of_b, batch.support_y)
    learner.outer_loss(batch)[0].backward()
    got = flat_gradient(learner)
    learner.representation_gradients = lambda *arguments: held
    learner.task_gradients = lambda *arguments: held_task
    f, theta = loss_at(learner, batch)
    assert gradient_error(f, theta, got, torch.Generator().manual_seed(1)) < 1e-8


@pytest.mark.parametrize("shot", [1, 2])
def test_second_order_is_the_whole_derivative(monkeypatch, shot):
    # the preprocessing has kinks, at |g| = e^−p; this one has none
    monkeypatch.setattr(metanet, "preprocess", lambda g: torch.stack([g.tanh(), 10 * g], -1))
    batch, errors = random_episode(tasks=2, shot=shot), []
    for second_order in (True, False):
        learner = smooth(second_order=second_order)
        if second_order and shot > 1:  # a contrastive loss needs no softmax layer: its gradient would be None
            learner.head_u = None
        f, theta = loss_at(learner, batch)
        learner.outer_loss(batch)[0].backward()
        errors.append(gradient_error(f, theta, flat_gradient(learner), torch.Generator().manual_seed(1)))
    assert errors[0] < 1e-8
    assert errors[1] > 1e-4  # the term that a constant leaves out is really there


# ---------------------------------------------------------------------- fast weights of another episode, or none


def test_fast_weights_of_another_episode_change_the_answers():
    learner, batch = made().eval(), episode()
    with torch.no_grad():
        state = learner.adapt(batch.support_x, batch.support_y)
        own = learner.predict(state, batch.query_x)
        for name in state:
            other = state | {name: state[name].roll(1, 0)}
            assert (learner.predict(other, batch.query_x) - own).abs().max() > 1e-6, name
        swapped = OtherEpisode(learner).eval()
        got = swapped.predict(swapped.adapt(batch.support_x, batch.support_y), batch.query_x)
        rolled = {name: value.roll(1, 0) for name, value in state.items()}
        assert torch.equal(got, learner.predict(rolled, batch.query_x))
        part = OtherEpisode(learner, ("memory_head",)).adapt(batch.support_x, batch.support_y)
        assert torch.equal(part["memory_head"], rolled["memory_head"])
        assert torch.equal(part["keys"], state["keys"])
    with pytest.raises(CourseError, match="1 episode at a time"):
        swapped.adapt(batch.support_x[:1], batch.support_y[:1])
    with pytest.raises(CourseError, match=r"no 'weights'; it has memory_fc"):
        OtherEpisode(learner, ("weights",)).adapt(batch.support_x, batch.support_y)


def test_the_prototype_head_is_the_slow_network():
    learner, batch = made().eval(), episode()
    twin = learner.prototype_head().eval()
    z = F.relu(learner.u.fc(learner.u.features(batch.query_x)))
    torch.testing.assert_close(twin.embed(batch.query_x), z, rtol=1e-4, atol=1e-5)
    assert all(p is q for p, q in zip(twin.parameters(), learner.u.parameters(), strict=True))
    assert not torch.equal(learner.u.trunk.blocks[0].conv.weight, learner.b.trunk.blocks[0].conv.weight)


# ---------------------------------------------------------------------- use


def test_it_learns_and_fast_weights_of_another_episode_do_worse():
    data = datasets.load("glyphs", "train")
    learner = learners.build("metanet", way=3, seed=0, channels=16, hidden=16, meta_hidden=8, examples=2)
    sampler = EpisodeSampler(data, 3, 1, 5)
    before = evaluate(learner, sampler, episodes=40)
    settings = {"tasks": 4, "rate": 5e-3, "schedule": "constant", "progress": False}
    history = training.train(learner, sampler, steps=70, seed=0, **settings)
    after = evaluate(learner, sampler, episodes=40)
    assert sum(history.losses[-10:]) < 0.9 * sum(history.losses[:10])
    assert compare(after, before).lower > 0.1
    assert compare(after, evaluate(OtherEpisode(learner), sampler, episodes=40)).lower > 0.1


def test_more_shots_fewer_classes_and_too_many():
    learner = made()
    batch = episode(shot=4)
    assert learner(batch.support_x, batch.support_y, batch.query_x).shape == (3, 15, 5)
    few = episode(way=3)
    assert learner(few.support_x, few.support_y, few.query_x).shape == (3, 9, 3)
    many = episode(way=6)
    with pytest.raises(CourseError, match=r"6 classes.*has 5.*way=6"):
        learner.adapt(many.support_x, many.support_y)
    with pytest.raises(CourseError, match=r"6 classes.*has 5.*way=6"):
        learner.outer_loss(many)
    one = made(representation_loss="contrastive")
    with pytest.raises(CourseError, match="needs pairs"):
        one.adapt(batch.support_x[:, :1], batch.support_y[:, :1])


@pytest.mark.parametrize("second_order", [False, True])
def test_a_saved_learner_comes_back_and_answers_the_same(tmp_path, second_order):
    learner, batch = made(second_order=second_order).eval(), episode()
    with torch.no_grad():
        expected = learner(batch.support_x, batch.support_y, batch.query_x)
        learners.save(learner, tmp_path / "run")
        loaded = mlcourse.load(tmp_path / "run")
        got = loaded(batch.support_x, batch.support_y, batch.query_x)
    assert torch.equal(got, expected)
    assert loaded.config == learner.config


def test_the_same_seed_gives_the_same_weights():
    one, two, other = made(), made(), made(seed=1)
    for (name, p), q in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(p, q), name
    assert not torch.equal(one.head_u, other.head_u)
    assert not torch.equal(one.u.trunk.blocks[0].conv.weight, other.u.trunk.blocks[0].conv.weight)


def test_answers_that_are_not_finite_are_an_error_in_evaluation():
    learner, batch = made().eval(), episode()
    for images in (batch.support_x, batch.query_x):
        kept = images[0, 0].clone()
        images[0, 0] = float("nan")
        with pytest.raises(CourseError, match="not finite"):
            evaluate(learner, Fixed(batch), episodes=3)
        images[0, 0] = kept
    evaluate(learner, Fixed(batch), episodes=3)


@pytest.mark.parametrize(
    ("message", "options"),
    {
        "normalisation 'batch' does not fit Meta-Networks": {"normalisation": "batch"},
        "normalisation 'support' does not fit Meta-Networks": {"normalisation": "support"},
        "hidden is 0; give a whole number, 1 or more": {"hidden": 0},
        "meta_hidden is 0; give a whole number, 1 or more": {"meta_hidden": 0},
        "examples is 0; give a whole number, 1 or more": {"examples": 0},
        "representation_loss 'triplet' is unknown": {"representation_loss": "triplet"},
    }.items(),
)
def test_settings_that_do_not_fit_are_named(message, options):
    with pytest.raises(CourseError, match=message):
        made(**options)


def test_a_network_of_ones_own_is_taken_as_it_is():
    learner = MetaNetwork(Conv4(size=16, channels=4, out=2, normalisation="none", downsample="stride"), hidden=3)
    assert learner.head.out_features == 2
    assert learner.normalisation == "none"
