"""A picture seen several times: which views there are, whose mean counts, and what an embedding depends on."""

import numpy as np
import pytest
import torch
from core_helpers import squares

from mlcourse import learners
from mlcourse.datasets import distortion
from mlcourse.errors import CourseError
from mlcourse.learners.views import with_views
from mlcourse.networks import make
from mlcourse.networks.views import Views, maps

CHANGES = ("turn", "shear", "wide", "high", "right", "down")


@pytest.fixture
def images():
    return squares(classes=12, samples=1).images.float() / 255


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_the_views_are_what_training_may_draw_at_the_ends_of_one_change(images, monkeypatch, strength):
    """Each alone, at its largest, in either direction, drawn by `distorted` itself."""
    wanted = [images]
    for way in (1.0, 0.0):
        for change in range(len(CHANGES)):
            drawn = torch.full((len(images), len(CHANGES)), 0.5)
            drawn[:, change] = way
            monkeypatch.setattr(distortion.torch, "rand", lambda *_, generator, drawn=drawn: drawn)
            wanted.append(distortion.distorted(images, strength, torch.Generator()))
            monkeypatch.undo()
    seen = []

    class Eye(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.flatten(1)

    mean = Views(Eye(), strength).eval()(images)
    assert len(seen) == len(wanted) == len(maps(strength)) == 13
    for view, expected in zip(seen, wanted, strict=True):
        assert torch.allclose(view, expected, atol=1e-5)
    assert torch.allclose(mean, torch.stack(wanted).mean(0).flatten(1), atol=1e-5)


def test_an_embedding_depends_on_its_picture_alone(images):
    views = Views(make("conv4", size=16, channels=8, normalisation="running")).eval()
    together, alone = views(images), torch.cat([views(one) for one in images.split(1)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together, views.network(images), atol=1e-3)


def test_training_sees_the_picture_as_it_is(images):
    network = make("conv4", size=16, channels=8, normalisation="running")
    views = Views(network).train()
    assert torch.equal(views(images), network(images))


@pytest.mark.parametrize("symmetries", [4, 8])
def test_looks_are_what_rotations_and_mirrors_of_numpy_make(images, symmetries):
    network = make("conv4", size=16, channels=8, normalisation="running").eval()
    found = Views(network, 0.0, symmetries).eval()(images)
    pictures = images.numpy()
    sides = [pictures, pictures[..., ::-1]][: symmetries // 4]
    wanted = [np.rot90(side, turn, axes=(2, 3)) for side in sides for turn in range(4)]
    wanted = torch.cat([network(torch.from_numpy(one.copy())) for one in wanted], 1)
    assert found.shape == (len(images), symmetries * network(images).shape[1])
    assert torch.allclose(found, wanted, atol=1e-6)
    assert len({one.tobytes() for one in [np.rot90(p, k, axes=(2, 3)) for p in sides for k in range(4)]}) == symmetries


def test_distances_add_up_over_the_looks(images):
    """Prototypical networks with looks side by side: the sum of the squared distances in each of them."""
    network = make("conv4", size=16, channels=8, normalisation="running").eval()
    learner = learners.PrototypicalNetwork(Views(network, 0.5, 4)).eval()
    support, query, labels = images[None, :5], images[None, 5:], torch.arange(5)[None]
    total = 0
    for turn in range(4):
        one = learners.PrototypicalNetwork(Views(network, 0.5)).eval()
        total = total + one(support.rot90(turn, (3, 4)), labels, query.rot90(turn, (3, 4)))
    assert torch.allclose(learner(support, labels, query), total, rtol=1e-4, atol=1e-4)


def test_a_picture_that_is_not_square_has_no_quarter_turns(images):
    network = torch.nn.Flatten()
    assert Views(network, 1.0).eval()(images[:, :, 1:]).shape == (12, 240)
    with pytest.raises(CourseError, match="a picture of 15×16"):
        Views(network, 1.0, 4).eval()(images[:, :, 1:])


@pytest.mark.parametrize("symmetries", [0, 2, True, "4"])
def test_other_symmetries_are_refused(symmetries):
    with pytest.raises(CourseError, match="symmetries is"):
        Views(torch.nn.Flatten(), 1.0, symmetries)


OFFERED = {"prototypical", "cosine-prototypical", "matching", "r2d2", "meta-baseline"}
PAST = {"simpleshot", "rfs", "pretrained-ridge", "baseline++", "hypernet", "incontext", "film", "relation"}


@pytest.mark.parametrize("method", learners.METHODS)
@pytest.mark.parametrize("asked", [{"views": 0.5}, {"symmetries": 4}], ids=["views", "symmetries"])
def test_each_method_sees_views_or_refuses_in_one_line(images, method, asked):
    learner = learners.build(method, way=5, size=16, seed=0).eval()
    refused = refusal(learner, method, asked)
    if refused is not None:
        assert method not in OFFERED
        assert refused.startswith("views are for learners that compare")
        assert "\n" not in refused
        return
    assert method not in PAST  # a method that is new may be offered or refused
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    seen = with_views(learner, method, **asked)
    support, query, labels = images[None, :5], images[None, 5:], torch.arange(5)[None]
    once, often = learner(support, labels, query), seen(support, labels, query)
    assert once.shape == often.shape
    assert not torch.allclose(once, often, rtol=1e-3)
    assert all(torch.equal(value, learner.state_dict()[name]) for name, value in before.items())


def refusal(learner, method, asked):
    """What `with_views` says against a learner, or None."""
    try:
        with_views(learner, method, **asked)
    except CourseError as error:
        return str(error)
    return None


def test_an_encoder_that_is_gone_past_is_refused():
    class Past(learners.PrototypicalNetwork):
        def encode(self, x):
            return x.flatten(2)

    with pytest.raises(CourseError, match=r"in a way of its own \(encode"):
        with_views(Past(make("conv4", size=16, channels=8, normalisation="running")), "mine", views=1.0)


def test_a_mean_of_other_embeddings_is_refused():
    """Numbers that fit the embeddings of training do not fit those of views, be they buffers or parameters."""

    class Centred(learners.PrototypicalNetwork):
        def __init__(self, network):
            super().__init__(network)
            self.register_buffer("centre", torch.zeros(8))

    with pytest.raises(CourseError, match="centre"):
        with_views(Centred(make("conv4", size=16, channels=8, normalisation="running")), "mine", views=1.0)


def test_a_learner_with_views_is_saved_and_comes_back(images, tmp_path):
    network = Views(make("conv4", size=16, channels=8, normalisation="running"), 0.7)
    learner = learners.PrototypicalNetwork(network).eval()
    learners.save(learner, tmp_path / "run")
    again = learners.load(tmp_path / "run").eval()
    assert again.network.maps == maps(0.7)
    assert torch.equal(again.network(images), network(images))


@pytest.mark.parametrize("strength", [-1, 4, float("nan"), True, "1"])
def test_a_strength_out_of_bounds_is_refused(strength):
    with pytest.raises(CourseError, match=r"0 \(none\) to 3"):
        Views(torch.nn.Flatten(), strength)
