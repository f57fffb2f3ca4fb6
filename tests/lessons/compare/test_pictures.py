"""The pictures of notebook 03: what they say is true, they follow their values, and they are fast enough to drag."""

import numpy as np
import pytest
import torch
from picture_helpers import assert_follows
from torch.nn import functional as F

from mlcourse import learners
from mlcourse.lessons.compare import pictures
from mlcourse.teaching import figures

LABELS, ANSWERS = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 2])
COSINES = torch.tensor([[0.2, 0.1, 0.9, 0.3, 0.0, 0.4], [0.5, 0.5, 0.1, 0.2, 0.6, 0.3]], dtype=torch.float64)


def looks():
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return pictures.Attention(images, LABELS, images[:2], ANSWERS, COSINES)


WIDGETS = {
    "regions": (pictures.regions, pictures.regions_text),
    "attention": (looks().draw, looks().text),
}
VALUES = {
    "regions": [("squared", 3, -1.5, -1.0), ("plain", 1, 2.0, 1.0), ("nearest", 5, 3.5, -1.0), ("ridge", 2, 0.0, 0.0)],
    "attention": [(0, 0.1), (1, 0.1), (1, 1.0)],
}


@pytest.mark.parametrize("name", WIDGETS)
def test_the_picture_follows_its_controls(name):
    assert_follows(*WIDGETS[name], VALUES[name])


def places(n=40):
    return np.random.RandomState(1).uniform(-6, 6, (n, 2))


@pytest.mark.parametrize("shot", [1, 4])
@pytest.mark.parametrize("rule", pictures.RULES.values())
def test_the_regions_are_those_of_the_learners(rule, shot):
    """Each rule against the package's function for the same comparison, on features that are the points themselves."""
    points, asked = pictures.support(shot, 0.5, -0.5), places()
    x, q = torch.from_numpy(points.reshape(1, -1, 2)), torch.from_numpy(asked)[None]
    y = torch.arange(3).repeat_interleave(shot)[None]
    squares = learners.squared_distances(q, learners.prototypes(x, y, 3))
    if rule == "matching":
        cosines = F.normalize(q[0], dim=1) @ F.normalize(x[0], dim=1).T / 0.1
        right = cosines.softmax(1).view(len(asked), 3, shot).sum(2)
    elif rule == "nearest":
        right = (-learners.squared_distances(q, x)).view(1, -1, 3, shot).amax(3)[0].softmax(1)
    elif rule == "ridge":
        one = torch.ones(1, 1, dtype=torch.float64)
        bordered = [torch.cat([part[0], one.expand(part.shape[1], 1)], 1) for part in (x, q)]
        right = (5 * bordered[1] @ learners.ridge(bordered[0], F.one_hot(y[0], 3).double(), 0.5)).softmax(1)
    else:
        right = (-squares if rule == "squared" else -squares.clamp_min(0).sqrt())[0].softmax(1)
    np.testing.assert_allclose(pictures.probabilities(rule, points, asked), right.numpy(), rtol=1e-7, atol=1e-9)


def test_the_square_changes_the_probabilities_and_not_the_winner():
    points, asked = pictures.support(3, -1.5, -1.0), places(200)
    squared, plain = (pictures.probabilities(rule, points, asked) for rule in ("squared", "plain"))
    assert (squared.argmax(1) == plain.argmax(1)).all()
    assert (squared.max(1) > 0.999).any()
    assert (plain.max(1) < 0.999).all()


def test_the_words_say_the_numbers():
    _, text = pictures.regions("squared", 1, 3.5, 3.5)
    shares = [int(part.split()[-2]) for part in text.split(".")[0].split(":")[1].replace(" %", " % ").split(",")]
    assert sum(shares) == pytest.approx(100, abs=2)
    assert "The moving point of A is at (3.50, 3.50)" in pictures.regions_text("squared", 1, 3.5, 3.5)
    one = looks()
    assert one.weights(0, 0.3).sum() == pytest.approx(1)
    np.testing.assert_allclose(one.weights(0, 0.3), (COSINES[0] / 0.3).softmax(0).numpy())
    assert one.shares(0, 0.01)[1] > 0.99
    assert "right is 1" in one.draw(0, 0.1)[1]
    assert "Query 1, which is of class 2" in one.text(1, 0.5)


def test_how_sure_cosines_can_be():
    for way, tau in ((5, 1.0), (20, 0.1)):
        cosines = torch.zeros(way, dtype=torch.float64)
        cosines[0] = 1
        assert pictures.surest(way, tau) == pytest.approx(float((cosines / tau).softmax(0)[0]))


def test_mistakes_are_counted_pair_by_pair():
    share, half = pictures.mistaken([1.0, 2.0, 3.0], [2.0, 1.0, 2.0])
    assert share == pytest.approx(200 / 3)
    assert half == pytest.approx(1.96 * 100 * (1 / 3) ** 0.5 / 3**0.5)  # the spread of 0, 1, 1


def test_pictures_of_results_and_their_words():
    gaps = {"pixels": (torch.rand(50), torch.rand(50)), "trained network": (torch.rand(50), 1 + torch.rand(50))}
    rows = {"prototypes": (80.0, 1.0), "prototypes, untrained": (30.0, 2.0), "pixels": (35.0, 1.5)}
    pairs = {"pixels": (-45.0, 1.5), "prototypes, untrained": (-50.0, 2.0)}
    by_shot = {"prototypes": [(80.0, 1.0), (90.0, 0.5)], "pixels": [(35.0, 1.5), (50.0, 1.0)]}
    drawn = [
        pictures.within_between(gaps),
        pictures.forest(rows, pairs, xlabel="accuracy (%)", paired_label="minus prototypes", chance=20),
        pictures.reach(by_shot, (1, 5), how="5-way", chance=20),
    ]
    assert len({figures.png(fig) for fig in drawn}) == 3
    said = [text.get_text() for text in drawn[1].axes[1].texts]
    assert said == ["-50.0 ± 2.0", "-45.0 ± 1.5"]
    assert "trained network: 0 ± 0 %" in pictures.within_between_text(gaps)
    assert "prototypes 80.0 ± 1.0 % and 90.0 ± 0.5 %" in pictures.reach_text(by_shot, (1, 5))
