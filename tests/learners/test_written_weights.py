"""Learners that write weights in one forward pass: the hypernetwork and feature-wise modulation."""

import copy
import json

import pytest
import torch
from core_helpers import Fixed, flat_gradient, loss_at, random_episode, squares
from torch import nn
from torch.nn import functional as F

import mlcourse
from mlcourse import learners, training
from mlcourse.commands import app
from mlcourse.episodes import Episode, EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.evaluation import evaluate
from mlcourse.learners import FeatureModulation, HyperNetwork, squared_distances
from mlcourse.networks.normalisation import normalisation as make_normalisation
from mlcourse.teaching.oracles import gradient_error

F64 = torch.float64
KINDS = ["head", "network", "film"]
METHODS = {"head": ("hypernet", {}), "network": ("hypernet", {"writes": "network"}), "film": ("film", {})}


class SmoothBlock(nn.Module):
    """A block of Conv-4 without a kink."""

    def __init__(self, in_channels, channels, normalisation):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm = make_normalisation(normalisation, channels)

    def forward(self, x, reference=None):
        return self.finish(self.conv(x), reference)

    def finish(self, x, reference=None, modulation=None):
        x = self.norm(x, reference)
        if modulation is not None:
            x = modulation[0] * x + modulation[1]
        return F.avg_pool2d(F.softplus(x), 2)


class SmoothBlocks(nn.Module):
    def __init__(self, normalisation="group", channels=4):
        super().__init__()
        self.normalisation, self.embedding_size = normalisation, 4 * channels
        self.blocks = nn.ModuleList(SmoothBlock(a, channels, normalisation) for a in (1, channels))

    def forward(self, x, reference=None):
        for block in self.blocks:
            x = block(x, reference)
        return x.flatten(1)


def smooth(kind, normalisation="group", seed=0):
    """A tiny learner in float64 whose writers have something to say (fresh post-multipliers are 0)."""
    torch.manual_seed(seed)
    network = SmoothBlocks(normalisation)
    learner = (
        FeatureModulation(network, hidden=6) if kind == "film" else HyperNetwork(network, writes=kind, hidden=6, rank=2)
    )
    return speaking(learner.double())


def speaking(learner):
    with torch.no_grad():
        for writer in getattr(learner, "writers", []):
            writer.multipliers.copy_(torch.tensor([0.5, 0.7]))
    return learner


def made(kind, **options):
    method, own = METHODS[kind]
    learner = learners.build(method, way=5, size=16, seed=0, **({"channels": 8} | own | options))
    for norm in learner.modules():  # running statistics that are not those of a fresh network
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(1))
    return speaking(learner)


def images(tasks=3, way=5, shot=1, query=3, dtype=F64):
    batch = EpisodeSampler(squares(), way, shot, query).sample(tasks, torch.Generator().manual_seed(0))
    return batch.support_x.to(dtype), batch.support_y, batch.query_x.to(dtype)


# ------------------------------------------------------------------ what is written, in plain loops


def plain_block(block, image, kernel=None, gamma=None, beta=None):
    """One image [C, H, W] through one block with weights of its own, in the block's order of operations."""
    conv = block.conv
    x = F.conv2d(image[None], conv.weight if kernel is None else kernel, conv.bias, conv.stride, conv.padding)
    x = block.norm(x)
    if gamma is not None:
        x = torch.stack([g * channel + b for g, channel, b in zip(gamma, x[0], beta, strict=True)])[None]
    return F.avg_pool2d(F.softplus(x), 2)[0]


def class_means(features, labels, way):
    return [torch.stack([f for f, y in zip(features, labels, strict=True) if y == k]).mean(0) for k in range(way)]


def plain_hypernetwork(learner, support, labels, queries, way):
    """Logits of one task [queries, way]."""
    first, last = learner.network.blocks
    kernel = None
    if learner.kernel is not None:
        pooled = [plain_block(first, image).mean((1, 2)) for image in support]
        said = torch.stack([learner.kernel.describe(c) for c in class_means(pooled, labels, way)]).mean(0)
        written = learner.kernel.write(said)
        u, v = written[: 4 * 2].view(4, 2), written[4 * 2 :].view(2, 4 * 9)
        kernel = last.conv.weight + learner.kernel.size_of_change * (u @ v).view(4, 4, 3, 3)

    def features(image):
        return plain_block(last, plain_block(first, image), kernel).flatten()

    means = class_means([features(image) for image in support], labels, way)
    context = sum(means) / way
    heads = [learner.head.write(torch.cat([c - context, context])) for c in means]
    return torch.stack([torch.stack([h[:-1] @ features(q) + h[-1] for h in heads]) for q in queries])


def plain_modulation(learner, support, labels, queries, way):
    plain = [learner.network(image[None])[0] for image in support]
    task = sum(class_means(plain, labels, way)) / way
    pairs = []
    for writer in learner.writers:
        gamma, beta = writer.write(task).view(2, -1)
        pairs.append((1 + writer.multipliers[0] * gamma, writer.multipliers[1] * beta))

    def features(image):
        for block, (gamma, beta) in zip(learner.network.blocks, pairs, strict=True):
            image = plain_block(block, image, gamma=gamma, beta=beta)
        return image.flatten()

    centres = class_means([features(image) for image in support], labels, way)
    scale = learner.log_scale.exp()
    return torch.stack([torch.stack([-scale * (features(q) - c).square().sum() for c in centres]) for q in queries])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalisation", ["running", "group", "none"])
def test_tasks_side_by_side_equal_a_plain_loop_over_tasks_classes_and_images(kind, normalisation):
    learner = smooth(kind, normalisation).eval()
    batch = random_episode(tasks=3)
    plain = plain_modulation if kind == "film" else plain_hypernetwork
    tasks = zip(batch.support_x, batch.support_y, batch.query_x, strict=True)
    expected = torch.stack([plain(learner, x, y, q, 3) for x, y, q in tasks])
    torch.testing.assert_close(learner(batch.support_x, batch.support_y, batch.query_x), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(learner.outer_loss(batch)[0], learner.loss(expected, batch.query_y), rtol=1e-10, atol=0)


# ------------------------------------------------------------------ gradients


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalisation", ["running", "group", "none"])
def test_the_meta_gradient_reaches_all_parameters_and_equals_richardson_differences(kind, normalisation):
    learner = smooth(kind, normalisation).train()  # with `running`: also through the statistics of the batch
    with torch.no_grad():
        for block in learner.network.blocks:
            block.conv.weight *= 3  # noise through a fresh network is nearly the same for all images
    batch = random_episode(tasks=2)
    before = copy.deepcopy(learner)  # each loss moves the running statistics, which film's description depends on
    theta = loss_at(learner, batch)[1]
    learner.outer_loss(batch)[0].backward()
    for name, value in learner.named_parameters():
        # the mean of the batch takes a convolution's bias away again, but for what film's description sees of it
        assert value.grad.norm() > 1e-10 or (normalisation == "running" and name.endswith("conv.bias"))

    def f(vector):
        return loss_at(copy.deepcopy(before), batch)[0](vector)

    assert gradient_error(f, theta, flat_gradient(learner), torch.Generator().manual_seed(1)) < 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_in_training_mode_support_and_queries_share_the_statistics_of_one_pass(kind):
    learner, seen = smooth(kind, "running").train(), []
    for block in learner.network.blocks:
        block.norm.register_forward_hook(lambda norm, given, made: seen.append((norm.training, len(made))))
    learner.outer_loss(random_episode(tasks=2, way=3, shot=1, query=1))
    assert [images for training, images in seen if training] == [2 * 6, 2 * 6]
    assert [block.norm.layer.num_batches_tracked.item() for block in learner.network.blocks] == [1, 1]


# ------------------------------------------------------------------ what a query and a class may see


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalisation", ["running", "group", "none"])
def test_other_queries_and_the_order_of_the_support_set_change_no_logit(kind, normalisation):
    learner = made(kind, normalisation=normalisation).double()
    x, y, q = images(shot=2)
    for mode in (False, True):
        learner.train(mode)
        with torch.no_grad():
            state = learner.adapt(x, y)
            together = learner.predict(state, q)
            alone = torch.cat([learner.predict(state, one) for one in q.split(1, dim=1)], 1)
            order = torch.randperm(q.shape[1], generator=torch.Generator().manual_seed(0))
            among_others = learner.predict(state, torch.cat([q[:, order], torch.rand_like(q)], 1))[:, : len(order)]
            order_x = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(1))
            reordered = learner(x[:, order_x], y[:, order_x], q)
        close = {"rtol": 1e-9, "atol": 1e-9}
        torch.testing.assert_close(alone, together, **close)
        torch.testing.assert_close(among_others, together[:, order], **close)
        torch.testing.assert_close(reordered, together, **close)


@pytest.mark.parametrize("kind", KINDS)
def test_relabelling_the_classes_permutes_the_logits(kind):
    learner = made(kind).double().eval()
    x, y, q = images()
    permutation = torch.tensor([3, 1, 4, 0, 2])
    with torch.no_grad():
        plain, renamed = learner(x, y, q), learner(x, permutation[y], q)
    torch.testing.assert_close(renamed[..., permutation], plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_adapting_and_predicting_change_nothing_and_tasks_do_not_see_each_other(kind):
    learner = made(kind).double().train()
    x, y, q = images()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    with torch.no_grad():
        state = learner.adapt(x, y)
        together = learner.predict(state, q)
        alone = learner(x[1:2], y[1:2], q[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())
    assert not any(value.requires_grad for value in state.values())
    assert all(part.training for part in learner.modules())


# ------------------------------------------------------------------ what the written weights are


SHAPES = {
    "head": {"weight": (3, 5, 8), "bias": (3, 5)},
    "network": {"weight": (3, 5, 8), "bias": (3, 5), "kernel": (3, 8, 8, 3, 3)},
    "film": {"gamma": (3, 4, 8), "beta": (3, 4, 8), "prototypes": (3, 5, 8)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_holds_what_was_written_task_by_task_and_another_tasks_answers_differ(kind):
    learner = made(kind).double().eval()
    x, y, q = images()
    with torch.no_grad():
        state = learner.adapt(x, y)
        assert {name: tuple(value.shape) for name, value in state.items()} == SHAPES[kind]
        own = learner.predict(state, q)
        for name, value in state.items():  # each part matters by itself
            others = learner.predict(state | {name: value.roll(1, 0)}, q)
            assert (others - own).abs().max() > 1e-5 * own.abs().max()
        rolled = learner.predict({name: value.roll(1, 0) for name, value in state.items()}, q)
    torch.testing.assert_close(rolled[1:2], learner(x[:1], y[:1], q[1:2]), rtol=1e-9, atol=1e-9)


def test_a_kernel_that_nothing_is_added_to_is_the_network_itself():
    learner = made("network").double().eval()
    x, y, q = images()
    with torch.no_grad():
        for value in learner.kernel.write.parameters():
            value.zero_()
        state = learner.adapt(x, y)
        features = learner.network(q.flatten(0, 1)).unflatten(0, q.shape[:2])
        expected = features @ state["weight"].transpose(1, 2) + state["bias"].unsqueeze(1)
    assert torch.equal(state["kernel"], learner.network.blocks[-1].conv.weight.expand_as(state["kernel"]))
    torch.testing.assert_close(learner.predict(state, q), expected, rtol=1e-9, atol=1e-9)


def test_what_is_added_to_the_kernel_has_the_rank_that_was_asked_for():
    learner = made("network", rank=2).double()
    x, y, _ = images()
    added = learner.adapt(x, y)["kernel"] - learner.network.blocks[-1].conv.weight
    assert torch.linalg.matrix_rank(added.flatten(2), rtol=1e-6).tolist() == [2, 2, 2]


def test_gamma_one_and_beta_zero_are_the_network_without_modulation_and_training_starts_there():
    learner = made("film", scale=0.5).double().eval()
    x, y, q = images()
    plain = learners.PrototypicalNetwork(learner.network).eval()
    expected = 0.5 * plain(x, y, q)
    one = {"gamma": torch.ones(3, 4, 8, dtype=F64), "beta": torch.zeros(3, 4, 8, dtype=F64)}
    torch.testing.assert_close(learner.predict(learner.under(one, x, y), q), expected, rtol=1e-9, atol=1e-9)
    assert (learner(x, y, q) - expected).abs().max() > 0.01 * expected.abs().max()
    fresh = learners.build("film", way=5, size=16, seed=0, channels=8).double()
    fresh.network.load_state_dict(learner.network.state_dict())
    torch.testing.assert_close(fresh(x, y, q), 2 * expected, rtol=1e-9, atol=1e-9)


def test_another_tasks_modulation_can_be_put_on_a_task_by_itself():
    learner = made("film").double().eval()
    x, y, q = images()
    written = learner.modulation(x, y)
    state = learner.under({name: value.roll(1, 0) for name, value in written.items()}, x, y)
    z = learner.features({name: value.roll(1, 0) for name, value in written.items()}, torch.cat([x, q], 1))
    expected = -squared_distances(z[:, 5:], z[:, :5])
    torch.testing.assert_close(learner.predict(state, q), expected, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------ edges


@pytest.mark.parametrize("kind", KINDS)
def test_unbalanced_support_sets_one_class_and_a_missing_class_are_defined(kind):
    learner = made(kind).double().eval()
    x, _, q = images()
    uneven = torch.tensor([[0, 1, 1, 1, 2]] * 3)
    assert learner(x, uneven, q).shape == (3, 15, 3)
    assert learner(x, torch.zeros(3, 5, dtype=torch.long), q).shape == (3, 15, 1)
    with pytest.raises(CourseError, match="no image of some class below 5"):
        learner(x, torch.tensor([[0, 1, 1, 2, 4]] * 3), q)
    if kind != "film":  # a class counts once, however many images it has
        twice, labels = torch.cat([x, x[:, 1:4]], 1), torch.cat([uneven, uneven[:, 1:4]], 1)
        torch.testing.assert_close(learner(twice, labels, q), learner(x, uneven, q), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_that_are_not_finite_are_an_error_in_evaluation(kind):
    learner = made(kind).double().eval()
    x, y, q = images()
    with pytest.raises(CourseError, match="not finite"):
        evaluate(learner, Fixed(Episode(x, y, q * float("nan"), torch.zeros(q.shape[:2]).long())), episodes=1)


def test_settings_that_do_not_fit_are_named():
    with pytest.raises(CourseError, match="writes is 'all'; use head, or network"):
        made("head", writes="all")
    with pytest.raises(CourseError, match="rank is 0"):
        made("network", rank=0)
    with pytest.raises(CourseError, match="hidden is 0"):
        made("film", hidden=0)
    with pytest.raises(CourseError, match=r"scale is 0\.0"):
        made("film", scale=0.0)
    for kind in KINDS:
        with pytest.raises(CourseError, match="normalisation 'batch' does not fit"):
            made(kind, normalisation="batch")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalisation", ["running", "group"])
def test_a_saved_learner_comes_back_and_answers_the_same(tmp_path, kind, normalisation):
    learner = made(kind, normalisation=normalisation).eval()
    x, y, q = images(dtype=torch.float32)
    with torch.no_grad():
        expected = learner(x, y, q)
        learners.save(learner, tmp_path)
        assert torch.equal(mlcourse.load(tmp_path)(x, y, q), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_training_makes_it_better_than_an_untrained_one(kind):
    method, options = METHODS[kind]
    learner = learners.build(method, way=4, size=16, channels=8, seed=0, **options)
    validation = EpisodeSampler(squares(split="val"), 4, 1, 5)
    untrained = evaluate(learner, validation, episodes=60).accuracy
    source = EpisodeSampler(squares(), 6, 1, 3)
    training.train(learner, source, steps=60, tasks=2, rate=5e-3, seed=0, progress=False)
    assert evaluate(learner, validation, episodes=60).accuracy > max(0.9, untrained + 0.02)


@pytest.mark.parametrize("method", ["hypernet", "film"])
def test_the_commands_train_and_evaluate_it(tmp_path, method, capsys):
    out = str(tmp_path / "run")
    app(["train", method, "--recipe", "smoke", "--out", out], standalone_mode=False)
    capsys.readouterr()
    app(["evaluate", out, "--episodes", "10", "--query", "3", "--json"], standalone_mode=False)
    result = json.loads(capsys.readouterr().out)
    assert 0.1 < result["accuracy"] <= 1
    assert (result["normalisation"], result["transductive"]) == ("running", False)
    assert result["trained"]["train_way"] > result["way"] == 5
