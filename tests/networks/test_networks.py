"""The table of networks, ResNet-12, and what may be asked of any module."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mlcourse import networks
from mlcourse.errors import CourseError
from mlcourse.networks import NORMALISATIONS, parts
from mlcourse.networks.normalisation import SupportStatistics, normalisation


def test_a_network_is_made_by_its_name_and_a_wrong_name_is_named():
    assert isinstance(networks.make("conv4", channels=8), networks.Conv4)
    assert isinstance(networks.make("resnet12", channels=2), networks.ResNet12)
    with pytest.raises(CourseError, match=r"network 'resnet18' is unknown; use one of conv4, resnet12"):
        networks.make("resnet18")
    with pytest.raises(CourseError, match=r"network 'resnet12' has no option 'depth'; it has in_channels, channels"):
        networks.make("resnet12", depth=3)


# ------------------------------------------------------------------ ResNet-12


def test_resnet12_has_the_published_widths_and_number_of_weights():
    network = networks.make("resnet12", in_channels=3, size=84, average=False, normalisation="running")
    assert [block.shortcut.out_channels for block in network.blocks] == [64, 160, 320, 640]
    assert network.feature_shape == (640, 5, 5)
    assert network.embedding_size == 16000  # as Lee et al. 2019 have it
    # convolutions 3×3: 9(3·64 + 2·64²) + …, shortcuts 3·64 + 64·160 + …, and 2 numbers a channel in 4 layers a block
    widths = [3, 64, 160, 320, 640]
    pairs = list(pairwise(widths))
    count = sum(9 * (a * b + 2 * b * b) + a * b + 8 * b for a, b in pairs)
    assert sum(p.numel() for p in network.parameters()) == count == 12_424_320


@pytest.mark.parametrize("kind", NORMALISATIONS)
@pytest.mark.parametrize("average", [True, False])
def test_resnet12_shapes_in_float64(kind, average):
    made = {"in_channels": 2, "channels": 4, "size": 35, "normalisation": kind, "average": average}
    network = networks.make("resnet12", **made).double()
    x = torch.rand(6, 2, 35, 35, dtype=torch.float64)
    maps = network.features(x)
    assert maps.shape == (6, *network.feature_shape) == (6, 40, 2, 2)
    assert network(x).shape == (6, network.embedding_size)
    assert network.embedding_size == (40 if average else 160)
    assert networks.make("resnet12", **made, out=3).double()(x).shape == (6, 3)
    assert networks.normalisation_of(network) == kind


def test_a_residual_block_is_the_sum_of_its_two_ways_written_by_hand():
    torch.manual_seed(0)
    block = networks.resnet12.ResidualBlock(2, 4, "none").double()
    x = torch.rand(3, 2, 8, 8, dtype=torch.float64)
    y = x
    for index, conv in enumerate(block.convs):
        y = F.conv2d(y, conv.weight, padding=1)
        y = torch.where(y > 0, y, 0.1 * y) if index < 2 else y
    y = y + torch.einsum("oi,nihw->nohw", block.shortcut.weight[:, :, 0, 0], x)
    y = torch.where(y > 0, y, 0.1 * y)
    y = y.unfold(2, 2, 2).unfold(3, 2, 2).amax((-2, -1))
    torch.testing.assert_close(block(x), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_the_gradient_of_a_tiny_resnet12_equals_differences(kind):
    """Along five directions, by central differences in float64. Its kinks lie beside the points that are compared."""
    torch.manual_seed(1)
    network = networks.make("resnet12", channels=2, size=16, out=3, normalisation=kind).double()
    x, y = torch.rand(4, 1, 16, 16, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    reference = 3 if kind == "support" else None

    def loss():
        return F.cross_entropy(network(x, reference), y)

    parameters = list(network.parameters())
    slope = torch.autograd.grad(loss(), parameters)
    for _ in range(5):
        direction = [torch.randn_like(p) for p in parameters]
        expected = sum((g * v).sum() for g, v in zip(slope, direction, strict=True)).item()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, v in zip(parameters, direction, strict=True):
                    p.add_(v, alpha=sign * 1e-7)
                values.append(loss().item())
                for p, v in zip(parameters, direction, strict=True):
                    p.add_(v, alpha=-sign * 1e-7)
        assert abs((values[0] - values[1]) / 2e-7 - expected) < 1e-5 * max(1, abs(expected))


def test_support_statistics_answer_each_query_by_itself():
    network = networks.make("resnet12", channels=2, size=16, normalisation="support").double()
    x = torch.rand(7, 1, 16, 16, dtype=torch.float64)
    together, alone = network(x, 4), network(x[:5], 4)
    torch.testing.assert_close(together[:5], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"size": 15}, "size 15 vanish in 4 poolings"), ({"channels": 3}, "channels is 3"), ({"channels": 0}, "even")],
)
def test_resnet12_refuses_what_it_cannot_be(options, message):
    with pytest.raises(CourseError, match=message):
        networks.make("resnet12", **options)


# ------------------------------------------------------------------ normalisation, by the types of modules


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.Linear(2, 2), "none"),
        (nn.BatchNorm1d(2), "running"),
        (nn.BatchNorm2d(2), "running"),
        (nn.BatchNorm3d(2), "running"),
        (nn.SyncBatchNorm(2), "running"),
        (nn.BatchNorm2d(2, track_running_stats=False), "batch"),
        (nn.BatchNorm2d(2, affine=False), "running"),
        (nn.GroupNorm(1, 2), "group"),
        (nn.LayerNorm(2), "group"),
        (nn.RMSNorm(2), "group"),
        (nn.InstanceNorm2d(2), "group"),
        (nn.InstanceNorm2d(2, track_running_stats=True), "running"),
        (nn.Sequential(nn.LayerNorm(2), nn.BatchNorm1d(2)), "running"),
        (nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)), "batch"),
        (nn.Sequential(nn.Sequential(nn.Sequential(SupportStatistics(2)))), "support"),
        *((normalisation(kind, 4), kind) for kind in NORMALISATIONS),
        *((networks.Conv4(channels=4, normalisation=kind), kind) for kind in NORMALISATIONS),
    ],
)
def test_normalisation_is_found_by_type(module, name):
    assert networks.normalisation_of(module) == name


def test_an_attribute_says_nothing():
    network = nn.Sequential(nn.BatchNorm1d(2))
    network.normalisation = "none"
    assert networks.normalisation_of(network) == "running"


# ------------------------------------------------------------------ parts


def test_a_replaced_part_is_replaced_wherever_it_stands_and_everything_else_is_shared():
    body, head = nn.Linear(2, 3), nn.Linear(3, 4)
    network = nn.ModuleDict({"body": body, "head": head, "all": nn.Sequential(body, head), "rest": nn.Sequential(body)})
    twin = parts.replaced(network, head, nn.Identity())
    assert isinstance(twin["head"], nn.Identity)
    assert isinstance(twin["all"][1], nn.Identity)
    assert twin["all"][0] is twin["body"] is body
    assert twin["rest"] is network["rest"]
    assert network["head"] is network["all"][1] is head  # the network itself stays
    parts.exchange(network, head, body)
    assert network["head"] is network["all"][1] is body


@pytest.mark.parametrize("answer", [torch.zeros(3, 2), torch.zeros(()), (torch.zeros(4, 2),), None])
def test_what_is_no_row_for_each_image_is_refused(answer):
    class Odd(nn.Module):
        def forward(self, x):
            return answer

    with pytest.raises(CourseError, match="for 4 images; an encoder gives a tensor"):
        parts.embeddings(Odd(), torch.zeros(4, 1, 8, 8))


def test_maps_and_single_numbers_are_laid_flat():
    x = torch.rand(4, 2, 3, 3)
    assert parts.embeddings(nn.Identity(), x).shape == (4, 18)
    assert parts.embeddings(nn.Flatten(0), torch.rand(4, 1)).shape == (4, 1)
