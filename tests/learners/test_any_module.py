"""Any `nn.Module` as a network: as a backbone, side by side by vmap, with shared layers and with PyTorch's own
normalisation."""

import copy
import warnings

import pytest
import torch
import torch.utils.checkpoint
from core_helpers import Smooth, flat_gradient, loss_at, random_episode
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from mlcourse import inner, learners, networks
from mlcourse.episodes import SinusoidTasks
from mlcourse.errors import CourseError
from mlcourse.evaluation import evaluate
from mlcourse.learners import ANIL, MAML, FineTune, ImplicitMAML, PrototypicalNetwork, Reptile
from mlcourse.meta_gradients.estimators import richardson
from mlcourse.networks import parts

METRIC = ["prototypical", "matching", "r2d2", "incontext", "hypernet"]
CLASSES = {
    "prototypical": PrototypicalNetwork,
    "matching": learners.MatchingNetwork,
    "r2d2": learners.R2D2,
    "incontext": learners.InContextLearner,
    "hypernet": learners.HyperNetwork,
}


class Fixed:
    """A source of always the same episodes."""

    def __init__(self, episode):
        self.episode = episode

    def sample(self, tasks, generator):
        return self.episode.some(slice(0, tasks))


def mlp(out: int = 3, hidden: int = 6, activation=nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), activation(), nn.Linear(hidden, out)).double()


def gradient(learner, batch, **settings) -> torch.Tensor:
    learner.zero_grad()
    learner.train().outer_loss(batch, **settings)[0].backward()
    return torch.cat([p.grad.flatten() for p in learner.parameters() if p.requires_grad])


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


# ------------------------------------------------------------------ backbones of metric learners


def backbones():
    yield "mlp", mlp(), 3
    torch.manual_seed(0)
    maps = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))  # maps of 3 × 3
    yield "maps", maps.double(), 36
    yield "one number", nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0)).double(), 1
    yield "resnet12", networks.make("resnet12", channels=2, size=16, normalisation="running").double(), 20


@pytest.mark.parametrize("method", METRIC)
@pytest.mark.parametrize("name", ["mlp", "maps", "one number", "resnet12"])
def test_any_module_is_a_backbone(method, name):
    _, network, size = next(one for one in backbones() if one[0] == name)
    network.embedding_size = size  # for the learners that must know it
    learner = CLASSES[method](network).double()
    batch = random_episode(tasks=2, size=16 if name == "resnet12" else 8)
    loss, _ = learner.train().outer_loss(batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in network.parameters())
    learner.eval()
    state = learner.adapt(batch.support_x, batch.support_y)
    alone = torch.cat([learner.predict(state, batch.query_x[:, i : i + 1]) for i in range(batch.query_x.shape[1])], 1)
    torch.testing.assert_close(learner.predict(state, batch.query_x), alone, rtol=1e-9, atol=1e-9)
    assert learner.normalisation == ("running" if name in ("maps", "resnet12") else "none")


def test_prototypes_of_a_network_of_torchvision():
    resnet18 = pytest.importorskip("torchvision").models.resnet18
    network = resnet18(weights=None)
    network.fc = nn.Identity()
    learner, batch = PrototypicalNetwork(network), random_episode(tasks=2, size=32)
    colours = [x.float().expand(-1, -1, 3, -1, -1) for x in (batch.support_x, batch.query_x)]
    assert learner(colours[0], batch.support_y, colours[1]).shape == (2, 9, 3)
    assert learner.normalisation == "running"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PrototypicalNetwork(nn.BatchNorm2d(1, track_running_stats=False)), "'batch' does not fit Prototyp"),
        (lambda: PrototypicalNetwork(networks.Conv4(normalisation="support")), "'support' does not fit Prototypical"),
        (lambda: learners.RelationNetwork(mlp()), r"RelationNetwork needs a network with features\(x\), square maps"),
        (lambda: learners.FeatureModulation(mlp()), "FeatureModulation needs a network with blocks that have a conv"),
        (lambda: learners.FeatureModulation(networks.ResNet12(channels=2, normalisation="none")), "which ResNet12 lac"),
        (lambda: learners.HyperNetwork(mlp()), r"HyperNetwork must know how many numbers.*set network.embedding_size"),
        (lambda: learners.InContextLearner(mlp()), "InContextLearner must know how many numbers"),
        (lambda: FineTune(mlp()), "FineTune must know how many numbers"),
        (
            lambda: learners.HyperNetwork(networks.ResNet12(channels=2, normalisation="none"), writes="network"),
            r"HyperNetwork\('network'\) needs a network with blocks",
        ),
        (lambda: learners.MetaNetwork(mlp()), "MetaNetwork needs a network with a linear layer called head"),
        (lambda: MAML(nn.Sequential(networks.normalisation.SupportStatistics(1))), r"called as network\(x, reference"),
    ],
)
def test_learners_that_need_more_say_what(make, message):
    with pytest.raises(CourseError, match=message):
        make()


def test_a_relation_network_takes_the_maps_of_resnet12():
    network = networks.make("resnet12", channels=2, size=64, normalisation="running")
    learner, batch = learners.RelationNetwork(network), random_episode(tasks=2, size=64)
    assert learner(batch.support_x.float(), batch.support_y, batch.query_x.float()).shape == (2, 9, 3)


def test_what_is_no_embedding_is_refused():
    learner, batch = PrototypicalNetwork(nn.Flatten(0)), random_episode(tasks=2)
    with pytest.raises(CourseError, match="an encoder gives a tensor"):
        learner.outer_loss(batch)


# ------------------------------------------------------------------ MAML side by side on any module


class Branching(nn.Module):
    """A network with an `if` that looks at numbers, which vmap cannot map."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 3)

    def forward(self, x):
        z = self.layer(x.flatten(1))
        return torch.tanh(z) if z.mean() > 0 else torch.sin(z)


class Norms(nn.Module):
    """A network with one of PyTorch's own normalisations."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3, padding=1), norm, nn.Linear(4 * 16, 3)

    def forward(self, x):
        return self.head(F.avg_pool2d(torch.tanh(self.norm(self.conv(x))), 2).flatten(1))


MAPPED = {
    "mlp": mlp,
    "relu": lambda: mlp(activation=nn.ReLU),
    "smooth batch": lambda: Smooth("batch"),
    "smooth support": lambda: Smooth("support"),
    "smooth group": lambda: Smooth("group"),
    "smooth none": lambda: Smooth("none"),
    "BatchNorm2d": lambda: Norms(nn.BatchNorm2d(4, track_running_stats=False)),
    "BatchNorm2d without weights": lambda: Norms(nn.BatchNorm2d(4, track_running_stats=False, affine=False)),
    "GroupNorm": lambda: Norms(nn.GroupNorm(2, 4)),
    "LayerNorm": lambda: Norms(nn.LayerNorm((4, 8, 8))),
    "InstanceNorm2d": lambda: Norms(nn.InstanceNorm2d(4, affine=True)),
    "RMSNorm": lambda: Norms(nn.RMSNorm((4, 8, 8))),
    "encoder layer": lambda: Encoder(),
    "weight_norm": lambda: nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 5)), nn.Tanh(), nn.Linear(5, 3)
    ),
    "recurrent": lambda: Recurrent(),
    "in place": lambda: InPlace(),
    "attention": lambda: nn.Sequential(nn.Flatten(2), nn.Linear(64, 6), Attention(), nn.Flatten(), nn.Linear(6, 3)),
    "resnet12": lambda: networks.make("resnet12", channels=2, size=16, out=3, normalisation="batch"),
    "branching": Branching,
}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        return x + self.layer(x, x, x, need_weights=False)[0]


class Encoder(nn.Module):
    """A transformer layer, for which PyTorch has a fused kernel without derivatives in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(x.squeeze(1)).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.lstm(x.squeeze(1))[0][:, -1])


class InPlace(nn.Module):
    """It writes its answers into a tensor of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 3)

    def forward(self, x):
        out = torch.zeros(len(x), 3, dtype=x.dtype)
        out[:] = torch.tanh(self.layer(x.flatten(1)))
        return out


class Checkpointed(nn.Module):
    """It does a layer again in backward, where vmap is over."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(64, 5), nn.Linear(5, 3)

    def forward(self, x):
        again = torch.utils.checkpoint.checkpoint
        return self.head(again(lambda z: torch.tanh(self.layer(z)), x.flatten(1), use_reentrant=False))


METHODS = {
    "maml": (MAML, {"inner_steps": 3}),
    "fomaml": (MAML, {"inner_steps": 2, "first_order": True}),
    "truncated": (MAML, {"inner_steps": 3, "truncate": 1}),
    "checkpointed": (MAML, {"inner_steps": 3, "checkpoint": 2}),
    "meta-sgd": (MAML, {"inner_steps": 2, "learned_rates": "entry"}),
    "maml++": (MAML, {"inner_steps": 2, "learned_rates": "layer", "every_step_until": 9, "norm_per_step": False}),
    "reptile": (Reptile, {"inner_steps": 3}),
    "imaml": (ImplicitMAML, {"inner_steps": 3}),
}


@pytest.fixture
def everywhere(monkeypatch):
    """Side by side also where it does not pay: convolutions on a CPU."""
    monkeypatch.setattr("mlcourse.learners.maml.CONVOLVES", ())


def both_ways(cls, network, options, batch, step=None):
    found, mapped = [], None
    for one_by_one in (True, False):
        learner = cls(copy.deepcopy(network).double(), one_by_one=one_by_one, **options)
        found.append(gradient(learner, batch, step=step))
        mapped = learner.mappable and learner.side_by_side(batch.support_x)
    return found, mapped


@pytest.mark.parametrize("name", MAPPED)
def test_vmap_equals_the_plain_loop_in_second_order(name, everywhere):
    torch.manual_seed(1)
    network = MAPPED[name]().double()
    batch = random_episode(tasks=3, size=16 if name == "resnet12" else 8)
    (loop, wide), mapped = both_ways(MAML, network, {"inner_steps": 2}, batch)
    assert error(wide, loop) < 1e-10
    assert mapped == (name not in ("branching", "recurrent", "in place"))
    result = [evaluate(MAML(network, inner_steps=2, one_by_one=one), Fixed(batch), episodes=3) for one in (True, False)]
    assert torch.equal(result[0].per_episode, result[1].per_episode)


@pytest.mark.parametrize("method", METHODS)
def test_vmap_equals_the_plain_loop_for_each_method(method):
    cls, options = METHODS[method]
    (loop, wide), mapped = both_ways(cls, mlp(), options, random_episode(tasks=3), step=4)
    assert mapped
    assert error(wide, loop) < 1e-10


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.BatchNorm2d(4, track_running_stats=False), nn.LayerNorm(8)])
def test_gains_of_each_step_fit_the_normalisations_of_pytorch(norm, everywhere):
    options = {"inner_steps": 2, "norm_per_step": True}
    (loop, wide), _ = both_ways(MAML, Norms(norm), options, random_episode(tasks=2))
    assert error(wide, loop) < 1e-10
    learner = MAML(Norms(norm).double(), **options)
    assert {name: len(value) for name, value in learner.gains.items()} == {"norm-weight": 3, "norm-bias": 3}


def test_regression_goes_side_by_side():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 1)).double()
    batch = SinusoidTasks().sample(4, 5, 10, torch.Generator().manual_seed(0)).to(None, torch.float64)
    (loop, wide), mapped = both_ways(MAML, network, {"inner_steps": 5, "inner_rate": 0.01}, batch)
    assert mapped
    assert error(wide, loop) < 1e-10


def test_a_third_derivative_is_right_too():
    """Nothing here is written by hand, so one may go on: the gradient of the meta-gradient's length, both ways."""
    found = []
    for one_by_one in (True, False):
        learner = MAML(mlp(), inner_steps=1, one_by_one=one_by_one).train()
        loss = learner.outer_loss(random_episode(tasks=2))[0]
        slope = torch.autograd.grad(loss, list(learner.parameters()), create_graph=True)
        length = sum(g.square().sum() for g in slope)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(length, list(learner.parameters()))]))
    assert error(found[1], found[0]) < 1e-10


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_network_that_does_layers_again_in_backward_is_refused_not_wrong(one_by_one):
    learner = MAML(Checkpointed().double(), one_by_one=one_by_one).train()
    with pytest.raises(CourseError, match=r"uses torch.utils.checkpoint.*MAML's checkpoint"):
        learner.outer_loss(random_episode(tasks=2))


def test_lazy_layers_want_one_call_first():
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    for cls in (MAML, PrototypicalNetwork, FineTune):
        with pytest.raises(CourseError, match="lazy layers without weights; call it once on images"):
            cls(network)
    network(torch.zeros(1, 1, 8, 8))
    MAML(network)


def test_dropout_is_drawn_for_each_task_and_its_gradient_is_right():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    learner = MAML(network, inner_steps=2).train()
    batch = random_episode(tasks=2)

    def loss():
        torch.manual_seed(7)
        return learner.outer_loss(batch)[0]

    loss().backward()
    assert learner.mappable
    for parameter in (network[1].weight, network[4].weight):
        direction = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * 1e-5)
                values.append(loss().item())
                parameter.add_(direction, alpha=-sign * 1e-5)
        assert abs((values[0] - values[1]) / 2e-5 - (parameter.grad * direction).sum().item()) < 1e-7
    same = batch.support_x[:1].expand(2, -1, -1, -1, -1), batch.support_y[:1].expand(2, -1)
    one, other = learner.adapt(*same)["fast"]["4.weight"]
    assert not torch.equal(one, other)
    learner.eval()
    one, other = learner.adapt(*same)["fast"]["4.weight"]
    assert torch.equal(one, other)


def test_checkpoints_and_dropout_do_not_go_together():
    with pytest.raises(CourseError, match="checkpoint does each step again, with other dropout"):
        MAML(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), checkpoint=2)


def test_an_error_of_the_network_is_told_as_it_is_and_vmap_is_tried_again():
    learner, batch = MAML(mlp()), random_episode(tasks=2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        learner.adapt(batch.support_x[..., :4], batch.support_y)
    assert learner.mappable


def test_convolutions_on_a_cpu_go_one_by_one_because_that_is_faster():
    x = random_episode(tasks=2).support_x
    assert not MAML(Smooth("none").double()).side_by_side(x)
    assert MAML(mlp()).side_by_side(x)
    assert MAML(networks.Conv4(channels=4, size=16, out=3)).side_by_side(x)
    assert not MAML(mlp(), one_by_one=True).side_by_side(x)


# ------------------------------------------------------------------ layers under two names, and tied weights


class TwoNames(nn.Module):
    """A body and a head that the network also holds under other names."""

    def __init__(self, first: bool):
        super().__init__()
        self.normalisation = "none"
        if first:  # the names in `net` come first
            self.net = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh()), nn.Linear(6, 3))
            self.body, self.head = self.net[0], self.net[1]
        else:
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh())
            self.head = nn.Linear(6, 3)
            self.net = nn.Sequential(self.body, self.head)

    def forward(self, x):
        return self.net(x)


class OneName(nn.Module):
    """The same network, written without sharing."""

    def __init__(self, like: TwoNames):
        super().__init__()
        self.body, self.head = copy.deepcopy(like.body), copy.deepcopy(like.head)

    def forward(self, x):
        return self.head(self.body(x))


class Tied(nn.Module):
    """One layer that is used twice, by two modules that share weight and bias."""

    def __init__(self):
        super().__init__()
        self.inlet, self.one, self.two, self.head = (
            nn.Linear(64, 5), nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3),
        )  # fmt: skip
        self.two.weight, self.two.bias = self.one.weight, self.one.bias

    def forward(self, x):
        x = torch.tanh(self.inlet(x.flatten(1)))
        return self.head(torch.tanh(self.two(torch.tanh(self.one(x)))))


class Twice(nn.Module):
    """The same, written with one layer that is called twice."""

    def __init__(self, like: Tied):
        super().__init__()
        self.inlet, self.one, self.head = (copy.deepcopy(part) for part in (like.inlet, like.one, like.head))

    def forward(self, x):
        x = torch.tanh(self.inlet(x.flatten(1)))
        return self.head(torch.tanh(self.one(torch.tanh(self.one(x)))))


def shared(kind: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    if kind == "tied":
        tied = Tied().double()
        return tied, Twice(tied)
    two = TwoNames(first=kind == "named in net first").double()
    return two, OneName(two)


SHARING = {
    "maml": (MAML, {"inner_steps": 2}),
    "fomaml": (MAML, {"inner_steps": 2, "first_order": True}),
    "meta-sgd": (MAML, {"inner_steps": 2, "learned_rates": "entry"}),
    "zero head": (MAML, {"inner_steps": 2, "zero_head": True}),
    "checkpointed": (MAML, {"inner_steps": 4, "checkpoint": 2}),
    "anil": (ANIL, {"inner_steps": 2}),
    "anil, zero head": (ANIL, {"inner_steps": 2, "zero_head": True}),
    "reptile": (Reptile, {"inner_steps": 2}),
    "imaml": (ImplicitMAML, {"inner_steps": 2}),
}


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("method", SHARING)
@pytest.mark.parametrize("kind", ["named in net first", "named in net last", "tied"])
def test_shared_layers_adapt_as_the_same_network_without_sharing(kind, method, one_by_one):
    cls, options = SHARING[method]
    batch, found = random_episode(tasks=3), []
    for network in shared(kind):
        learner = cls(network, one_by_one=one_by_one, **options)
        slope = gradient(learner, batch)
        answers = learner.eval()(batch.support_x, batch.support_y, batch.query_x).detach()
        # by sorted size, since the order of the names is another one
        found.append((slope.sort().values, answers))
    assert error(found[0][0], found[1][0]) < 1e-10
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["named in net first", "named in net last", "tied"])
def test_shared_layers_are_fine_tuned_as_the_same_network_without_sharing(kind):
    batch, found = random_episode(tasks=2), []
    for network in shared(kind):
        network = nn.Sequential(network, nn.Identity())
        network.embedding_size = 3
        learner = FineTune(network, inner_steps=4).double()
        found.append(learner.eval()(batch.support_x, batch.support_y, batch.query_x).detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", [*SHARING, "finetune"])
@pytest.mark.parametrize("kind", ["named in net first", "named in net last", "tied"])
def test_no_evaluation_moves_a_shared_weight(kind, method):
    network = shared(kind)[0]
    if method == "finetune":
        network = nn.Sequential(network, nn.Identity())
        network.embedding_size = 3
    cls, options = SHARING.get(method, (FineTune, {"inner_steps": 2}))
    for one_by_one in (True, False) if cls is not FineTune else (None,):
        more = {} if one_by_one is None else {"one_by_one": one_by_one}
        learner = cls(copy.deepcopy(network), **options, **more).double()
        before = {name: value.clone() for name, value in learner.state_dict().items()}
        held = [id(p) for p in learner.parameters()]
        for mode in (True, False):
            evaluate(learner.train(mode), Fixed(random_episode(tasks=2)), episodes=2)
        assert [id(p) for p in learner.parameters()] == held
        assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())


def test_a_conv4_with_a_shared_block_goes_side_by_side_as_one_by_one():
    torch.manual_seed(0)
    network = networks.Conv4(channels=4, size=16, out=3, downsample="stride").double()
    network.blocks[2] = network.blocks[1]
    network.blocks[3].conv.weight = network.blocks[1].conv.weight
    (loop, wide), mapped = both_ways(MAML, network, {"inner_steps": 2}, random_episode(tasks=2, size=16))
    assert mapped
    assert error(wide, loop) < 1e-10


def test_anil_refuses_a_head_that_it_cannot_tell_from_the_body():
    network = Tied().double()
    network.head = nn.Linear(5, 5)
    network.head.weight = network.one.weight
    with pytest.raises(CourseError, match="ANIL's head shares a weight with the body"):
        ANIL(network)

    class After(OneName):
        def forward(self, x):
            return super().forward(x).log_softmax(-1)

    learner, batch = ANIL(After(shared("named in net last")[0])), random_episode(tasks=2)
    with pytest.raises(CourseError, match="ANIL's network must end in its head"):
        learner.adapt(batch.support_x, batch.support_y)


# ------------------------------------------------------------------ PyTorch's batch normalisation, and buffers


def test_running_statistics_are_refused_by_maml_and_allowed_where_no_task_moves_them():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    for cls in (MAML, Reptile, ImplicitMAML):
        with pytest.raises(CourseError, match=r"'running' keeps one average.*BatchNorm2d\(track_running_stats=False\)"):
            cls(network)
    mixed = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), network)
    with pytest.raises(CourseError, match="'running' keeps one average"):
        MAML(mixed)
    anil = ANIL(Norms(nn.BatchNorm2d(4)).double())
    assert anil.normalisation == "running"
    before = {name: value.clone() for name, value in anil.state_dict().items()}
    result = evaluate(anil.train(), Fixed(random_episode(tasks=2)), episodes=2)
    assert result.transductive is False
    assert all(torch.equal(before[name], value) for name, value in anil.state_dict().items())


def test_batch_normalisation_without_running_statistics_is_batch_and_transductive():
    learner = MAML(Norms(nn.BatchNorm2d(4, track_running_stats=False)).double())
    result = evaluate(learner, Fixed(random_episode(tasks=2)), episodes=2)
    assert (result.normalisation, result.transductive) == ("batch", True)


@pytest.mark.parametrize("one_by_one", [True, False])
def test_what_a_network_writes_into_its_buffers_does_not_stay(one_by_one):
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 3)
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("mean", torch.zeros(64))

        def forward(self, x):
            x = x.flatten(1)
            self.calls += 1
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
            return self.layer(x - self.mean)

    learner = MAML(Counts().double(), one_by_one=one_by_one)
    batch = random_episode(tasks=2)
    evaluate(learner.train(), Fixed(batch), episodes=2)
    learner.outer_loss(batch)
    assert learner.network.calls == 0
    assert not learner.network.mean.any()


# ------------------------------------------------------------------ fine-tuning


@pytest.mark.parametrize("kind", ["running", "support", "batch", "group"])
@pytest.mark.parametrize("training", [True, False])
def test_fine_tuning_the_head_only_on_kept_features_equals_the_plain_loop(kind, training):
    torch.manual_seed(0)
    network = networks.Conv4(channels=4, size=16, normalisation=kind, downsample="stride")
    learner = FineTune(network, inner_steps=10, rate=0.5, head_only=True).double().train(training)
    batch = random_episode(tasks=3, size=16)
    answers = learner(batch.support_x, batch.support_y, batch.query_x).detach()
    network.eval()
    for task in range(3):
        x, y, q = batch.support_x[task], batch.support_y[task], batch.query_x[task]
        weight, bias = torch.zeros(3, network.embedding_size, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for _ in range(10):
            weight.requires_grad_(), bias.requires_grad_()
            loss = F.cross_entropy(F.linear(network(x), weight, bias), y)
            slopes = torch.autograd.grad(loss, [weight, bias])
            weight, bias = ((v - 0.5 * g).detach() for v, g in zip((weight, bias), slopes, strict=True))
        z = network(torch.cat([x, q]), len(x))[len(x) :] if kind == "support" else network(q)
        torch.testing.assert_close(answers[task], F.linear(z, weight, bias).detach(), rtol=1e-6, atol=1e-9)


def test_fine_tuning_the_head_only_asks_the_network_once_per_task():
    calls = []
    network = mlp()
    network.embedding_size = 3
    network.register_forward_hook(lambda *_: calls.append(1))
    learner = FineTune(network, inner_steps=50, head_only=True).double()
    batch = random_episode(tasks=4)
    learner.adapt(batch.support_x, batch.support_y)
    assert len(calls) == 4


def test_a_head_of_the_network_is_not_taken_for_the_tasks_head():
    network = OneName(shared("named in net last")[0])
    network.embedding_size = 3
    with pytest.raises(CourseError, match="the network has one, too"):
        FineTune(network)
    FineTune(network, head_only=True)


# ------------------------------------------------------------------ weights that a layer computes from others


def computed(rule, **options):
    """An MLP whose layers compute their weights by a parametrization of PyTorch."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    for layer in (network[1], network[3]):
        rule(layer, **options)
    return network


COMPUTED = {
    "weight_norm": (parametrizations.weight_norm, {}),
    "weight_norm of the inputs": (parametrizations.weight_norm, {"dim": 1}),
    "weight_norm of all": (parametrizations.weight_norm, {"dim": None}),
    "orthogonal by householder": (parametrizations.orthogonal, {"orthogonal_map": "householder"}),
    "orthogonal by matrix_exp": (parametrizations.orthogonal, {"orthogonal_map": "matrix_exp"}),
    "orthogonal by cayley": (parametrizations.orthogonal, {"orthogonal_map": "cayley"}),
}


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("name", COMPUTED)
def test_the_meta_gradient_through_computed_weights_equals_differences(name, one_by_one):
    rule, options = COMPUTED[name]
    learner = MAML(computed(rule, **options), inner_steps=2, inner_rate=0.3, one_by_one=one_by_one).train()
    batch = random_episode(tasks=2)
    learner.outer_loss(batch)[0].backward()
    f, at = loss_at(learner, batch)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        along = torch.randn(at.shape, generator=generator, dtype=torch.float64)
        along[at.abs() == 1] = 0  # Householder's diagonal: only its sign counts, and PyTorch takes 0.999 for 0
        along /= along.norm()
        slope = richardson(lambda x: f(x).item(), at, along, 1e-3)
        assert flat_gradient(learner) @ along == pytest.approx(slope, rel=1e-7, abs=1e-10)


def test_weight_norm_answers_as_pytorch_does_and_stays_as_it_was():
    for dim in (0, 1, None):
        network = computed(parametrizations.weight_norm, dim=dim)
        x = torch.rand(5, 64, dtype=torch.float64)
        torch.testing.assert_close(inner.call(network, inner.parameters(network), x), network(x))
        assert all("forward" not in vars(part) for part in network.modules())
    convolutions = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(1, 4, 3)), nn.Flatten(), nn.Linear(144, 3))
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(inner.call(convolutions, inner.parameters(convolutions), x), convolutions(x))


def test_what_has_no_second_derivative_is_refused_in_a_line():
    batch = random_episode(tasks=2)
    spectral = MAML(computed(parametrizations.spectral_norm), inner_steps=2)
    with pytest.raises(CourseError, match="spectral_norm, whose power iteration has no derivative") as raised:
        spectral.train().outer_loss(batch)
    assert "\n" not in str(raised.value)
    assert evaluate(spectral, Fixed(batch), episodes=2).episodes == 2  # its vectors stand still in evaluation mode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are old
        hooks = [computed(nn.utils.weight_norm), computed(nn.utils.spectral_norm)]
    for network in hooks:
        with pytest.raises(CourseError, match=r"old hook.*use torch\.nn\.utils\.parametrizations"):
            MAML(network, inner_steps=2).train().outer_loss(batch)


def hooked(network):
    network.head.register_forward_hook(lambda layer, given, made: 3 * made)
    return network


def normed(network):
    parametrizations.weight_norm(network.blocks[0].conv)
    return network


class Cosine(nn.Linear):
    def forward(self, x):
        return F.normalize(x, dim=-1) @ F.normalize(self.weight, dim=-1).t()


def with_cosines(network):
    network.head = Cosine(network.head.in_features, 3, bias=False)
    return network


def circular(network):
    network.blocks[1].conv.padding_mode = "circular"
    return network


def with_tanh(network):
    network.blocks[0] = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Tanh())
    network.blocks[0].forward = lambda x, reference=None: nn.Sequential.forward(network.blocks[0], x)
    return network


class Halved(networks.Conv4):
    def forward(self, x, reference=None):
        return 0.5 * super().forward(x, reference)


def halved(network):
    network.__class__ = Halved
    return network


@pytest.mark.parametrize("cls", [MAML, ANIL])
@pytest.mark.parametrize("change", [hooked, normed, with_cosines, circular, with_tanh, halved])
def test_what_a_wide_network_would_pass_over_is_done_all_the_same(cls, change):
    batch = random_episode(tasks=2, size=16)
    found = []
    for one_by_one in (True, False):
        torch.manual_seed(0)
        network = networks.make("conv4", size=16, channels=4, out=3, normalisation="group", downsample="stride")
        learner = cls(change(network.double()).double(), inner_steps=2, one_by_one=one_by_one).eval()
        if (cls, change) == (ANIL, halved):
            with pytest.raises(CourseError, match="must end in its head"):
                learner(batch.support_x, batch.support_y, batch.query_x)
            return
        found.append(learner(batch.support_x, batch.support_y, batch.query_x))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_a_head_that_does_more_is_not_exchanged_for_a_plain_one():
    for change in (hooked, with_cosines):
        with pytest.raises(CourseError, match="zero_head puts a plain linear layer"):
            MAML(change(networks.make("conv4", size=16, channels=4, out=3, normalisation="group")), zero_head=True)


# ------------------------------------------------------------------ names


class Named(nn.Module):
    """Parameters with a name that holds "-", or is that of a method of nn.ParameterDict."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.add_module("lin-1", nn.Linear(64, 3))
        self.add_module("lin", nn.ModuleDict({"1": nn.Linear(64, 3)}))
        self.register_parameter("a~-b", nn.Parameter(torch.rand(3)))
        self.keys, self.values = nn.Parameter(torch.rand(3)), nn.Parameter(torch.rand(3))
        self.norm = nn.LayerNorm(3)

    def forward(self, x):
        x = x.flatten(1)
        z = getattr(self, "lin-1")(x) + 0.5 * self.lin["1"](x)
        return self.norm(z) * getattr(self, "a~-b") + self.keys + self.values.exp()


@pytest.mark.parametrize("options", [{"learned_rates": "layer"}, {"learned_rates": "entry"}, {"norm_per_step": True}])
def test_parameters_may_be_called_anything(options):
    (loop, wide), _ = both_ways(MAML, Named(), {"inner_steps": 2, **options}, random_episode(tasks=2))
    assert error(wide, loop) < 1e-10
    learner = MAML(Named().double(), inner_steps=2, **options)
    if "learned_rates" in options:
        assert learner.rate(0).keys() == learner.start().keys()


class First(nn.LayerNorm):
    """A normalisation, so that its parameters have no prefix, and a layer that it holds."""

    def __init__(self):
        super().__init__(64)
        self.out = nn.Linear(64, 3)

    def forward(self, x):
        return self.out(super().forward(x.flatten(1)))


def test_a_network_may_be_a_normalisation_itself():
    options = {"inner_steps": 1, "norm_per_step": True}
    (loop, wide), _ = both_ways(MAML, First(), options, random_episode(tasks=2))
    assert error(wide, loop) < 1e-10


def test_names_and_keys_are_one_to_one():
    names = ["a.b", "a-b", "a~b", "a~-b", "a-.b", "a.-b", "keys", "~keys", "a~.b", "training", "", "-", "~"]
    keys = [parts.key_of(name) for name in names]
    assert len(set(keys)) == len(names)
    assert [parts.name_of(key) for key in keys] == names
    assert parts.key_of("blocks.0.conv.weight") == "blocks-0-conv-weight"  # as in files of earlier versions
    nn.ParameterDict({key: nn.Parameter(torch.ones(1)) for key in keys if key})
