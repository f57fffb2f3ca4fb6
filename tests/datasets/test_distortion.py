"""Distorted pictures: what changes, what does not, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlcourse.datasets.distortion import distorted
from mlcourse.errors import CourseError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def disc(size=28, channels=1):
    """A bright disc in the middle: float32 [1, channels, size, size]."""
    line = torch.linspace(-1, 1, size)
    return ((line[:, None] ** 2 + line[None] ** 2) < 0.25).float().expand(1, channels, size, size).clone()


def test_no_strength_changes_nothing_and_draws_nothing():
    pictures, drawn = torch.rand(3, 1, 8, 8), generator()
    before = drawn.get_state()
    assert distorted(pictures, 0, drawn) is pictures
    assert torch.equal(drawn.get_state(), before)


def test_each_picture_is_distorted_by_itself_and_one_seed_gives_the_same():
    pictures = disc().expand(6, 1, 28, 28)
    made = distorted(pictures, 1.0, generator(3))
    assert torch.equal(made, distorted(pictures, 1.0, generator(3)))
    assert len({tuple(one.flatten().tolist()) for one in made}) == 6
    assert not torch.equal(made, distorted(pictures, 1.0, generator(4)))


FORMATS = st.sampled_from([torch.float32, torch.float64])


@given(st.floats(0.01, 3), st.integers(0, 1000), st.sampled_from([1, 3]), FORMATS)
def test_values_stay_in_their_range_shape_and_format(strength, seed, channels, dtype):
    pictures = disc(20, channels).to(dtype)
    made = distorted(pictures, strength, generator(seed))
    assert made.shape == pictures.shape
    assert made.dtype == dtype
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1 + 1e-6


def test_the_ink_stays_in_the_picture_on_the_whole():
    """Affine maps of strength 1 move a character's middle by 2 pixels at most, and its area by 40 % or so."""
    pictures = disc().expand(200, 1, 28, 28)
    made = distorted(pictures, 1.0, generator())
    area = made.sum((1, 2, 3)) / pictures.sum((1, 2, 3))
    assert float(area.min()) > 0.6
    assert float(area.max()) < 1.6
    line = torch.arange(28.0)
    middle = (made.sum((1, 2)) * line).sum(1) / made.sum((1, 2, 3))
    assert 1.0 < float((middle - 13.5).abs().max()) < 3.5


@pytest.mark.parametrize("strength", [-1, 3.5, float("nan"), float("inf"), True, "1", None])
def test_a_strength_that_is_none_is_refused(strength):
    with pytest.raises(CourseError, match="strength"):
        distorted(disc(), strength, generator())
