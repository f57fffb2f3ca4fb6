"""Operations with written-out second derivatives: the same numbers as PyTorch's, and right by finite differences."""

import pytest
import torch
from torch.nn import functional as F

from mlcourse.errors import CourseError
from mlcourse.networks import closed_form, normalisation

DOUBLE = {"dtype": torch.float64, "requires_grad": True}


def numbers(*shape):
    return torch.randn(*shape, **DOUBLE)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def convolve(x, weight, bias):
    return closed_form.convolution(x, weight, bias, (2, 2), (1, 1), 2)


@pytest.mark.parametrize("still", ["", "x", "w", "b", "xw", "xb", "wb"])
def test_convolution_by_finite_differences(still):
    """First and second derivatives, also when some of image, weight and bias ask for none."""
    inputs = {"x": numbers(2, 4, 5, 5), "w": numbers(6, 2, 3, 3), "b": numbers(6)}
    asked = {name: value for name, value in inputs.items() if name not in still}

    def call(*values):
        return convolve(*({n: v.detach() for n, v in inputs.items()} | dict(zip(asked, values, strict=True))).values())

    assert torch.autograd.gradcheck(call, tuple(asked.values()))
    if set(asked) != {"b"}:  # linear in the bias alone: no second derivative to speak of
        assert torch.autograd.gradgradcheck(call, tuple(asked.values()))


@pytest.mark.parametrize("reference", [None, 1, 3])
def test_normalisation_by_finite_differences(reference):
    inputs = (numbers(4, 4, 3, 3), torch.rand(4, **DOUBLE), numbers(4))

    def call(x, weight, bias):
        return closed_form.normalise(x, weight, bias, 1e-5, reference)

    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


def hessian_times(call, inputs):
    """The gradient of ‖gradient‖² of a curved function of the output: first and second derivatives in one number."""
    grads = torch.autograd.grad(call(*inputs).pow(3).sum(), inputs, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in grads), inputs)


def test_convolution_equals_pytorchs():
    inputs = (numbers(5, 12, 8, 8), numbers(9, 4, 3, 3), numbers(9))
    ours = hessian_times(lambda x, w, b: closed_form.convolution(x, w, b, (1, 1), (1, 1), 3), inputs)
    theirs = hessian_times(lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=3), inputs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= 1e-12 * b.norm()


@pytest.mark.parametrize("reference", [None, 2, 9])  # more than there are: all
def test_normalisation_equals_the_plain_one(reference):
    inputs = (numbers(5, 12, 4, 4), torch.rand(12, **DOUBLE), numbers(12))
    ours = hessian_times(lambda x, w, b: closed_form.normalise(x, w, b, 1e-5, reference), inputs)
    theirs = hessian_times(lambda x, w, b: normalisation.normalise(x, w, b, 1e-5, reference), inputs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= 1e-11 * b.norm()


def test_a_mean_far_above_the_spread_costs_no_more_digits_than_it_must():
    """float32, mean 100 times the spread: two or three times the plain one's error (18 times with one pass's mean)."""
    numbers64 = (
        torch.randn(40, 64, 7, 7, dtype=torch.float64) + 100,
        torch.rand(64).double(),
        torch.randn(64).double(),
    )
    rounded = [value.float().requires_grad_() for value in numbers64]
    doubled = [value.detach().double().requires_grad_() for value in rounded]
    right = hessian_times(lambda x, w, b: normalisation.normalise(x, w, b, 1e-5), doubled)[0]
    errors = []
    for normalise in (closed_form.normalise, normalisation.normalise):
        got = hessian_times(lambda x, w, b, call=normalise: call(x, w, b, 1e-5), rounded)[0]
        errors.append(((got.double() - right).norm() / right.norm()).item())
    assert errors[0] < 6 * errors[1] < 1e-4


def plain_relu_and_pool(x):
    return F.max_pool2d(F.relu(x), 2)


def test_pooling_by_finite_differences():
    """The numbers lie further apart than a step of the differences is long, so that no step crosses a kink."""
    x = (torch.randperm(2 * 3 * 5 * 4).double() - 60.5).div(20).view(2, 3, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(closed_form.relu_and_pool, x)
    assert torch.autograd.gradgradcheck(closed_form.relu_and_pool, x)


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (7, 8), (21, 21)])  # odd ones lose their last row
@pytest.mark.parametrize("kind", ["any", "ties", "all negative", "infinite and not a number"])
def test_pooling_equals_pytorchs_to_the_bit(size, kind):
    x = torch.randn(3, 4, *size, dtype=torch.float64)
    x = {"any": x, "ties": x.round(), "all negative": -x.abs(), "infinite and not a number": x / x.round()}[kind]
    x.requires_grad_()
    ours, theirs = closed_form.relu_and_pool(x), plain_relu_and_pool(x)
    assert torch.equal(ours.nan_to_num(nan=-1.0), theirs.nan_to_num(nan=-1.0))
    weights = torch.randn_like(ours)
    first = [torch.autograd.grad((y.pow(3) * weights).sum(), x, create_graph=True)[0] for y in (ours, theirs)]
    second = [torch.autograd.grad(g.square().sum(), x)[0] for g in first]
    for a, b in (first, second):
        assert torch.equal(a.nan_to_num(nan=-1.0), b.nan_to_num(nan=-1.0))


THREE_TIMES = {
    "normalise": lambda x: closed_form.normalise(x, torch.rand(2).double(), torch.zeros(2).double(), 1e-5),
    "convolution": lambda x: closed_form.convolution(x, x.detach()[:2], torch.zeros(2).double(), (1, 1), (1, 1), 1),
    "pooling": closed_form.relu_and_pool,
}


@pytest.mark.parametrize("name", THREE_TIMES)
def test_a_third_derivative_is_refused_not_wrong(name):
    x = numbers(3, 2, 2, 2)
    grad = torch.autograd.grad(THREE_TIMES[name](x).pow(3).sum(), x, create_graph=True)[0]
    with pytest.raises(CourseError, match="not three times"):
        torch.autograd.grad(grad.square().sum(), x, create_graph=True)


@pytest.mark.parametrize("normalise", [closed_form.normalise, normalisation.normalise])
@pytest.mark.parametrize(("images", "reference"), [(1, None), (3, 1), (3, 0)])
def test_a_single_number_has_no_variance(normalise, images, reference):
    with pytest.raises(CourseError, match="single number has no variance"):
        normalise(numbers(images, 2, 1, 1), torch.ones(2), torch.zeros(2), 1e-5, reference)


def test_autocast_is_refused():
    x, weight, bias = torch.rand(2, 2, 3, 3), torch.ones(2), torch.zeros(2)
    with torch.autocast("cpu"):
        for call in (
            lambda: closed_form.convolution(x, torch.rand(2, 2, 3, 3), bias, (1, 1), (1, 1), 1),
            lambda: closed_form.normalise(x, weight, bias, 1e-5),
            lambda: closed_form.relu_and_pool(x),
        ):
            with pytest.raises(CourseError, match=r"autocast.*one_by_one=True"):
                call()
