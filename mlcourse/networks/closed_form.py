"""Convolution, normalisation and pooling with their second derivatives written out, for the network of many tasks.

MAML differentiates a gradient. PyTorch can do that for every operation, by a recipe that fits all cases: for a
convolution in groups it goes group by group, for batch normalisation it makes a dozen passes over the images. Written
out by hand, the derivative of a convolution's gradient is three more convolutions, that of batch normalisation's is a
sum of three terms, and that of pooling's is a look-up, for which PyTorch copies the images twice. All of it stays in
the channels-last layout, in which these operations are fastest.

Each operation is a pair of functions: the backward pass of the first is the second, and the backward pass of the second
is the closed form. Nothing here can be differentiated a third time; who tries gets an error.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from mlcourse.errors import CourseError

convolution_backward = torch.ops.aten.convolution_backward
batch_norm_backward = torch.ops.aten.native_batch_norm_backward
pool_backward = torch.ops.aten.max_pool2d_with_indices_backward
threshold_backward = torch.ops.aten.threshold_backward
batch_statistics = torch.ops.aten.batch_norm_update_stats


def channels_last(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous(memory_format=torch.channels_last)


def column(v: Tensor) -> Tensor:
    """One number per channel, so that it meets images [images, channels, H, W]."""
    return v.view(1, -1, 1, 1)


def check_variance(x: Tensor) -> None:
    """Raise CourseError unless each channel of the reference images x [images, channels, H, W] holds two numbers."""
    if len(x) * x.shape[2:].numel() < 2:
        raise CourseError(
            "batch normalisation of a single number has no variance; give more images or larger ones, or use the "
            "normalisation group or none"
        )


def _check_precision(x: Tensor) -> None:
    # Autocast chooses a precision call by call: the saved images and their gradient would differ in theirs.
    if torch.is_autocast_enabled(x.device.type):
        raise CourseError(
            "tasks side by side do not work under torch.autocast; leave it, or build the learner with one_by_one=True"
        )


def _no_third_derivative() -> None:
    # PyTorch's own guard (once_differentiable) stays silent, with a wrong result, in `autograd.grad` by named tensors.
    if torch.is_grad_enabled():
        raise CourseError(
            "tasks side by side can be differentiated twice, not three times; build the learner with one_by_one=True"
        )


# ------------------------------------------------------------------ convolution


def convolution(x: Tensor, weight: Tensor, bias: Tensor, stride, padding, groups: int) -> Tensor:
    """`torch.nn.functional.conv2d(x, weight, bias, stride, padding, groups=groups)`, the same numbers."""
    _check_precision(x)
    return _Convolution.apply(channels_last(x), channels_last(weight), bias, stride, padding, groups)


class _Convolution(Function):
    """y = W * x + b."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, groups):
        ctx.save_for_backward(x, weight)
        ctx.how = (stride, padding, groups)
        return torch.conv2d(x, weight, bias, stride, padding, 1, groups)

    @staticmethod
    def backward(ctx, gy):
        x, weight = ctx.saved_tensors
        grads = ConvolutionGradient.apply(channels_last(gy), x, weight, ctx.how, ctx.needs_input_grad[0])
        return *grads, None, None, None


class ConvolutionGradient(Function):
    """(g, x, W) → (gx, gW, gb), the gradients of Σ g·y. It is linear in g, and bilinear in the rest."""

    @staticmethod
    def forward(ctx, gy, x, weight, how, of_x):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(gy, x, weight)
        ctx.how = how
        return _gradients(gy, x, weight, how, of_x)

    @staticmethod
    def backward(ctx, ux, uw, ub):
        _no_third_derivative()
        gy, x, weight = ctx.saved_tensors
        ux, uw = channels_last(ux), channels_last(uw)
        stride, padding, groups = ctx.how
        ggy = column(ub).expand_as(gy).clone() if ub is not None and uw is None else None
        if uw is not None:
            ggy = torch.conv2d(x, uw, ub, stride, padding, 1, groups)
        if ux is not None:
            through_x = torch.conv2d(ux, weight, None, stride, padding, 1, groups)
            ggy = through_x if ggy is None else ggy.add_(through_x)
        # Σ ux·gx = Σ g·(W * ux), and Σ uw·gW = Σ g·(uw * x): in each, the other factor's
        # gradient is an ordinary one.
        gx = gw = None
        if ux is not None and uw is not None:
            gx, gw, _ = _gradients(gy, ux, uw, ctx.how, True, bias=False)
        elif ux is not None:
            wanted = [False, True, False]
            gw = convolution_backward(gy, ux, weight, None, *_all(ctx.how), wanted)[1]
        elif uw is not None and ctx.needs_input_grad[1]:
            wanted = [True, False, False]
            gx = convolution_backward(gy, x, uw, None, *_all(ctx.how), wanted)[0]
        return ggy, gx, gw, None, None


def _all(how: tuple) -> tuple:
    """All that `convolution_backward` wants to know: (stride, padding, dilation, transposed, …, groups)."""
    stride, padding, groups = how
    return stride, padding, (1, 1), False, (0, 0), groups


def _gradients(gy, x, weight, how, of_x, bias=True):
    return convolution_backward(gy, x, weight, [len(weight)], *_all(how), [of_x, True, bias])


# ------------------------------------------------------------------ batch normalisation


def normalise(x: Tensor, weight: Tensor, bias: Tensor, eps: float, reference: int | None = None) -> Tensor:
    """Batch normalisation of x [images, channels, H, W], with the statistics of all or the first `reference` images.

    weight, bias: [channels]. The same numbers as `networks.normalisation.normalise`.
    """
    _check_precision(x)
    check_variance(x[:reference])
    return _Normalise.apply(channels_last(x), weight, bias, eps, len(x[:reference]))


class _Normalise(Function):
    """y = w·x̂ + b with x̂ = (x − m)·r: mean m and r = 1/√(variance + ε) of the n reference images R, by channel."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps, n):
        _, variance = batch_statistics(x[:n], None, None, 0.0)
        mean = x[:n].mean((0, 2, 3))  # the other's mean loses digits where it is far above the spread
        rstd = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.n = n
        return torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]

    @staticmethod
    def backward(ctx, gy):
        grads = _NormaliseGradient.apply(channels_last(gy), *ctx.saved_tensors, ctx.n)
        return *grads, None, None


class _NormaliseGradient(Function):
    """(g, x, w) → (gx, gw, gb). With S₁ = Σ g and S₂ = Σ g·x̂ over all images, and N numbers a channel in R:

    gb = S₁,   gw = S₂,   gx = w·r·(g − [in R]·(S₁ + x̂·S₂)/N)
    """

    @staticmethod
    def forward(ctx, gy, x, w, m, r, n):
        ctx.n, ctx.count = n, n * x.shape[2] * x.shape[3]
        fixed = (m, 1 / r.square(), None, None, False, 0.0)  # statistics that do not move: gx is w·r·g
        moving = (None, None, m, r, True, 0.0)
        gx, gw, gb = batch_norm_backward(gy, x, w, *(moving if n == len(x) else fixed), [True, True, True])
        if n < len(x):
            slope = w * r * r * gw / ctx.count
            gx[:n] -= torch.addcmul(column(w * r * gb / ctx.count - slope * m), x[:n], column(slope))
        ctx.save_for_backward(gy, x, w, m, r, gw, gb)
        return gx, gw, gb

    @staticmethod
    def backward(ctx, ux, uw, ub):
        """The gradient of Σ ux·gx + uw·S₂ + ub·S₁ by g, x and w. A = Σ_R ux and B = Σ_R ux·x̂."""
        _no_third_derivative()
        gy, x, w, m, r, s2, s1 = ctx.saved_tensors
        n, count, ux = ctx.n, ctx.count, channels_last(ux)
        inside, xs = ux[:n], x[:n]
        b, a = _sums(inside, xs, m, r)
        ug, _ = _sums(ux, gy, torch.zeros_like(m), torch.ones_like(r))
        q = ug - (a * s1 + b * s2) / count  # the derivative by w is r·q, that by r is w·q
        k = w * r / count

        # by g: w·r·ux + (uw − k·B)·x̂ + (ub − k·A)
        slope = r * (uw - k * b)
        ggy = torch.addcmul(column(ub - k * a - slope * m), x, column(slope)).addcmul_(ux, column(w * r))

        # by x̂: P = (uw − k·B)·g − [in R]·k·S₂·ux; then from x̂ and r back to x, whose mean and variance move with it
        sum_p = (uw - k * b) * s1 - k * s2 * a
        sum_px = (uw - k * b) * s2 - k * s2 * b
        of_g, slope = slope, -r * r * (sum_px + w * r * q) / count
        gx = torch.addcmul(column(-r * sum_p / count - slope * m), xs, column(slope)).addcmul_(
            inside, column(-r * k * s2)
        )
        if n < len(x):
            gx = torch.cat([gx, torch.zeros_like(x[n:])])
        return ggy, gx.addcmul_(gy, column(of_g)), r * q, None, None, None


def _sums(g: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """Σ g·(x − m)·r and Σ g, by channel: one pass over the images, and nothing of their size in memory."""
    one = torch.ones_like(mean)
    return batch_norm_backward(g, x, one, None, None, mean, rstd, True, 0.0, [False, True, True])[1:]


# ------------------------------------------------------------------ ReLU and max-pooling


def relu_and_pool(x: Tensor) -> Tensor:
    """`torch.nn.functional.max_pool2d(torch.relu(x), 2)`, the same numbers: [images, channels, H // 2, W // 2].

    ReLU is monotone, so it may come after the pooling, where it has a quarter of the numbers to look at.
    """
    _check_precision(x)
    return _Pool.apply(channels_last(x))


class _Pool(Function):
    """y = max(0, the largest of four); `places` tells which of the H·W numbers of a map that is."""

    @staticmethod
    def forward(ctx, x):
        y, places = F.max_pool2d(x, 2, return_indices=True)
        y.clamp_min_(0)
        ctx.save_for_backward(y, places)
        ctx.size = x.shape[2:]
        return y

    @staticmethod
    def backward(ctx, gy):
        return _PoolGradient.apply(channels_last(gy), *ctx.saved_tensors, ctx.size)


class _PoolGradient(Function):
    """g → gx: each number goes to the place that it came from, unless ReLU has cut it off. It is linear in g."""

    @staticmethod
    def forward(ctx, gy, y, places, size):
        ctx.save_for_backward(y, places)
        # of the images that were pooled, the operation wants to know the shape and the layout only
        like = torch.empty((*y.shape[:2], *size), dtype=y.dtype, device=y.device, memory_format=torch.channels_last)
        return pool_backward(threshold_backward(gy, y, 0), like, 2, [], 0, 1, False, places)

    @staticmethod
    def backward(ctx, ux):
        _no_third_derivative()
        y, places = ctx.saved_tensors
        picked = channels_last(ux).flatten(2).transpose(1, 2).gather(1, places.flatten(2).transpose(1, 2))
        picked = picked.transpose(1, 2).unflatten(2, y.shape[2:])
        return threshold_backward(picked, y, 0), None, None, None
