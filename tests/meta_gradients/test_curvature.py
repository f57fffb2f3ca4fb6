"""Power iteration finds the largest eigenvalue in size, and comes from below."""

import pytest
import torch

from mlcourse.errors import CourseError
from mlcourse.meta_gradients.curvature import largest_curvature


def test_curvature_is_the_largest_eigenvalue():
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    matrix = half + half.T - 3 * torch.eye(4, dtype=torch.float64)
    params = {"a": torch.zeros(1, dtype=torch.float64), "b": torch.zeros(3, dtype=torch.float64)}

    def loss(params):
        v = torch.cat([params["a"], params["b"]])
        return v @ matrix @ v / 2 + v.sum()

    largest = torch.linalg.eigvalsh(matrix).abs().max().item()
    assert largest_curvature(loss, params, generator, rounds=300) == pytest.approx(largest, rel=1e-6)
    assert largest_curvature(loss, params, generator, rounds=2) <= largest * (1 + 1e-12)


def test_where_there_is_no_curvature_it_is_0_and_never_nan():
    generator = torch.Generator().manual_seed(0)
    params = {"a": torch.zeros(3, dtype=torch.float64)}
    assert largest_curvature(lambda p: p["a"].sum(), params, generator) == 0
    assert largest_curvature(lambda p: (p["a"] ** 3).sum(), params, generator) == 0
    with torch.no_grad():
        assert largest_curvature(lambda p: (p["a"] ** 2).sum(), params, generator) == pytest.approx(2)
    with pytest.raises(CourseError, match="the curvature is not finite"):
        largest_curvature(lambda p: (p["a"].abs() ** 1.5).sum(), params, generator)
    with pytest.raises(CourseError, match="rounds is 0"):
        largest_curvature(lambda p: (p["a"] ** 2).sum(), params, generator, rounds=0)
