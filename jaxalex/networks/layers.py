"""Convolution, pooling and local response normalisation as pure functions, with exact and fast gradients.

Every function here equals its plain ``jax.lax`` formulation in value and gradient; only the cost differs.
Where a formulation is faster on one kind of device only, it is chosen when the program is lowered for that
device (`jax.lax.platform_dependent`), never by the user.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxalex.networks import winograd
from jaxalex.networks.rows import out_size
from jaxalex.networks.shapes import Array, Float

# What goes in, and what comes out at a function's own ``stride``, ``padding`` and ``window``.
Images = Float[Array, "batch height width channels"]
Kernel = Float[Array, "size size channels features"]
GroupedKernel = Float[Array, "size size channels//{groups} features"]
Convolved = Float[Array, "batch (height+2*{padding}-size)//{stride}+1 (width+2*{padding}-size)//{stride}+1 features"]
Pooled = Float[Array, "batch (height-{window})//{stride}+1 (width-{window})//{stride}+1 channels"]

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# With 3 channels the transforms cost more than they save (7.5 ms against 2.2), with 48 less; between was not measured.
_MIN_WINOGRAD_FEATURES = 16
# With fewer tiles its kernel's transform costs more than it saves: 16 of them, a picture of 8×8, took 1.3 times as long
# as one matrix product of the windows, 32 as long or less.
_MIN_WINOGRAD_TILES = 32
# It is used if it needs at most this share of a direct convolution's products.
_MAX_WINOGRAD_SHARE = 0.75
# Windows of at most this many numbers are laid out as the rows of a matrix.
_MAX_PATCH = 256


def _taps(size: int) -> list[tuple[int, int]]:
    """Offsets inside a square window, row by row."""
    return list(itertools.product(range(size), range(size)))


def _shifted(
    x: Images, tap: tuple[int, int], out_hw: Sequence[int], stride: int
) -> Float[Array, "batch out_height out_width channels"]:
    """What one tap of a sliding window sees: ``[b, out_h, out_w, c]``."""
    (i, j), (h, w) = tap, out_hw
    limits = (x.shape[0], i + (h - 1) * stride + 1, j + (w - 1) * stride + 1, x.shape[3])
    return lax.slice(x, (0, i, j, 0), limits, (1, stride, stride, 1))


def conv2d_plain(
    x: Images,
    kernel: GroupedKernel,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    precision: lax.Precision | None = None,
) -> Convolved:
    """`conv2d` with the gradients that JAX derives itself: the definition that `conv2d` must equal."""
    pad = (padding, padding)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (pad, pad),
        dimension_numbers=_DIMENSIONS,
        feature_group_count=groups,
        precision=precision,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def conv2d(
    x: Images,
    kernel: GroupedKernel,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    precision: lax.Precision | None = None,
) -> Convolved:
    """Two-dimensional cross-correlation, as in ``torch.nn.functional.conv2d``, in NHWC.

    On the CPU it is computed with matrix products, by `jaxalex.networks.winograd` where that needs far fewer of them.
    XLA's own convolutions are avoided there in both passes: their kernel gradient is slow, and naive inside
    ``lax.scan``. ``docs/performance.md`` shows the gain.

    Args:
      x: ``[batch, height, width, in]``, floating.
      kernel: ``[k, k, in / groups, out]``, of x's dtype.
      stride: pixels between two windows, along both axes.
      padding: zeros added on each side of both axes.
      groups: equal parts of the channels; each part of the outputs sees the part of the inputs with its number.
      precision: of the products; ``lax.Precision.HIGHEST`` is true float32 on every device.

    Returns:
      ``[batch, out_size(height, …), out_size(width, …), out]``, of x's dtype.
    """
    on_cpu = functools.partial(_conv2d_cpu, stride=stride, padding=padding, groups=groups, precision=precision)
    plain = functools.partial(conv2d_plain, stride=stride, padding=padding, groups=groups, precision=precision)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=plain)


def _conv2d_fwd(
    x: Images, kernel: GroupedKernel, stride: int, padding: int, groups: int, precision: lax.Precision | None
) -> tuple[Convolved, tuple[Images, GroupedKernel]]:
    return conv2d(x, kernel, stride, padding, groups, precision), (x, kernel)


def _conv2d_bwd(
    stride: int,
    padding: int,
    groups: int,
    precision: lax.Precision | None,
    residuals: tuple[Images, GroupedKernel],
    grad: Convolved,
) -> tuple[Images, GroupedKernel]:
    # Each formulation's own gradient; its forward pass is not needed for that, and XLA drops it.
    def gradients(formulation: Callable[..., Array]) -> Callable[..., Any]:
        function = functools.partial(formulation, stride=stride, padding=padding, groups=groups, precision=precision)
        return lambda x, kernel, grad: jax.vjp(function, x, kernel)[1](grad)

    return lax.platform_dependent(*residuals, grad, cpu=gradients(_conv2d_cpu), default=gradients(conv2d_plain))


conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)


def _conv2d_cpu(
    x: Images, kernel: GroupedKernel, stride: int, padding: int, groups: int, precision: lax.Precision | None
) -> Convolved:
    if groups == 1:
        return _conv2d_cpu_group(x, kernel, stride, padding, precision)
    parts = zip(jnp.split(x, groups, axis=3), jnp.split(kernel, groups, axis=3), strict=True)
    return jnp.concatenate([_conv2d_cpu_group(*part, stride, padding, precision) for part in parts], axis=3)


def _conv2d_cpu_group(
    x: Images, kernel: Kernel, stride: int, padding: int, precision: lax.Precision | None
) -> Convolved:
    size, in_features = kernel.shape[0], kernel.shape[2]
    folded = -(-size // stride)
    tiles = len(x) * math.prod(-(-out_size(n, size, stride, padding) // 2) for n in x.shape[1:3])
    if (
        in_features * stride**2 >= _MIN_WINOGRAD_FEATURES
        and folded % 2
        and winograd.num_products(folded) * stride**2 <= _MAX_WINOGRAD_SHARE * size**2
        and padding < folded
        and tiles >= _MIN_WINOGRAD_TILES
        and x.dtype != jnp.bfloat16  # too coarse for the transforms
    ):
        if stride > 1:
            x, kernel, padding = *_space_to_depth(x, kernel, stride, padding), 0
        return winograd.conv2d(x, kernel, padding, precision)
    if size**2 * in_features <= _MAX_PATCH or tiles < _MIN_WINOGRAD_TILES:
        return _conv2d_patches(x, kernel, stride, padding, precision)
    return conv2d_plain(x, kernel, stride, padding, 1, precision)


def _space_to_depth(
    x: Images, kernel: Kernel, stride: int, padding: int
) -> tuple[Float[Array, "batch rows columns depth"], Float[Array, "folded folded depth features"]]:
    """Image and kernel of the same convolution at stride 1: squares of ``stride`` pixels a side become channels."""
    size, (in_features, out_features) = kernel.shape[0], kernel.shape[2:]
    folded = -(-size // stride)
    sides = [out_size(n, size, stride, padding) + folded - 1 for n in x.shape[1:3]]
    after = [side * stride - n - padding for side, n in zip(sides, x.shape[1:3], strict=True)]  # may cut pixels off
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((padding, n, 0) for n in after), (0, 0, 0)))
    x = x.reshape(len(x), sides[0], stride, sides[1], stride, in_features)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), *sides, stride**2 * in_features)
    missing = (0, folded * stride - size)
    kernel = jnp.pad(kernel, (missing, missing, (0, 0), (0, 0)))
    kernel = kernel.reshape(folded, stride, folded, stride, in_features, out_features).transpose(0, 2, 1, 3, 4, 5)
    return x, kernel.reshape(folded, folded, stride**2 * in_features, out_features)


def _conv2d_patches(x: Images, kernel: Kernel, stride: int, padding: int, precision: lax.Precision | None) -> Convolved:
    """One matrix product of the windows, each laid out as a row, with the kernel."""
    size = kernel.shape[0]
    out_hw = [out_size(n, size, stride, padding) for n in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    rows = jnp.concatenate([_shifted(x, tap, out_hw, stride) for tap in _taps(size)], axis=-1)
    flat = rows.reshape(-1, rows.shape[-1])
    out = jnp.dot(flat, kernel.reshape(-1, kernel.shape[-1]), precision=precision)
    return out.reshape(len(x), *out_hw, -1)


def max_pool_plain(x: Images, window: int, stride: int) -> Pooled:
    """`max_pool` as ``lax.reduce_window``: the definition that `max_pool` must equal."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), "VALID")


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: Images, window: int, stride: int) -> Pooled:
    """Max-pooling without padding, output size rounded down, as in ``torch.nn.functional.max_pool2d``.

    The gradient goes whole to the first maximum of a window, row by row, as PyTorch's does. It is a sum of masked
    slices: XLA's own form (``select_and_scatter``) took 9 to 40 times as long on the same machine and has no
    deterministic form on a GPU.

    Args:
      x: ``[batch, height, width, channel]``, floating.
      window: pixels along each side of the window, at most the smaller side of x.
      stride: pixels between two windows.

    Returns:
      ``[batch, out_size(height, …), out_size(width, …), channel]``, of x's dtype.
    """
    out_hw = tuple(out_size(n, window, stride, 0) for n in x.shape[1:3])
    return functools.reduce(jnp.maximum, (_shifted(x, tap, out_hw, stride) for tap in _taps(window)))


def _max_pool_fwd(x: Images, window: int, stride: int) -> tuple[Pooled, tuple[Images, Pooled]]:
    out = max_pool(x, window, stride)
    return out, (x, out)


def _max_pool_bwd(window: int, stride: int, residuals: tuple[Images, Pooled], grad: Pooled) -> tuple[Images]:
    x, out = residuals
    (_, height, width, _), (_, out_h, out_w, _) = x.shape, out.shape
    zero = jnp.zeros((), grad.dtype)
    grad_x = jnp.zeros(x.shape, grad.dtype)
    taken = jnp.zeros(out.shape, bool)
    for i, j in _taps(window):
        is_max = _shifted(x, (i, j), (out_h, out_w), stride) == out
        share = jnp.where(is_max & ~taken, grad, zero)
        taken = taken | is_max
        after_h = height - i - (out_h - 1) * stride - 1
        after_w = width - j - (out_w - 1) * stride - 1
        spread = lax.pad(share, zero, ((0, 0, 0), (i, after_h, stride - 1), (j, after_w, stride - 1), (0, 0, 0)))
        grad_x = grad_x + spread
    return (grad_x,)


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def local_response_norm_plain(x: Images, size: int, alpha: float, beta: float, k: float) -> Images:
    """`local_response_norm` as ``lax.reduce_window`` and a power: the definition that it must equal."""
    return x * _denominator_plain(x, size, alpha, k) ** -beta


def _denominator_plain(x: Images, size: int, alpha: float, k: float) -> Images:
    half = size // 2
    sums = lax.reduce_window(x * x, 0.0, lax.add, (1, 1, 1, size), (1, 1, 1, 1), ((0, 0),) * 3 + ((half, half),))
    return k + alpha * sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def local_response_norm(x: Images, size: int, alpha: float, beta: float, k: float) -> Images:
    """Local response normalisation over neighbouring channels (Krizhevsky et al. 2012, section 3.3).

    ``x / (k + alpha * sum of x²)**beta``, the sum over the ``size`` channels around each, as many of them as there are.
    ``torch.nn.LocalResponseNorm`` divides its alpha by ``size``: give it ``size * alpha``.

    Args:
      x: ``[batch, height, width, channel]``, floating.
      size: an odd number of channels.

    Returns:
      x's shape and dtype.
    """
    return x * _power(_denominator(x, size, alpha, k), beta)


def _neighbours(x: Images, size: int) -> Images:
    """The sum over ``size`` channels around each. Slices: ``reduce_window`` is slow along the last axis on a CPU."""
    channels, half = x.shape[3], size // 2
    padded = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (half, half)))
    return functools.reduce(jnp.add, (padded[..., i : i + channels] for i in range(size)))


def _denominator(x: Images, size: int, alpha: float, k: float) -> Images:
    return k + alpha * _neighbours(x * x, size)


def _power(x: Images, beta: float) -> Images:
    """``x**-beta``; the paper's exponent by square roots, which a CPU computes many times faster than a power."""
    if beta == 0.75:
        root = jnp.sqrt(x)
        return 1 / (root * jnp.sqrt(root))
    return x**-beta


def _lrn_fwd(x: Images, size: int, alpha: float, beta: float, k: float) -> tuple[Images, Images]:
    return local_response_norm(x, size, alpha, beta, k), x


def _lrn_bwd(size: int, alpha: float, beta: float, k: float, x: Images, grad: Images) -> tuple[Images]:
    denominator = _denominator(x, size, alpha, k)
    scaled = grad * _power(denominator, beta)
    # With y = x d**-beta: a channel's x is also in its neighbours' d, as often as theirs is in its own.
    return (scaled - 2 * alpha * beta * x * _neighbours(scaled * x / denominator, size),)


local_response_norm.defvjp(_lrn_fwd, _lrn_bwd)


def adaptive_avg_pool(x: Images, size: int) -> Float[Array, "batch {size} {size} channels"]:
    """The mean over windows that cover a feature map, as in ``torch.nn.functional.adaptive_avg_pool2d``.

    Window i of an axis of n pixels goes from ``floor(i n / size)`` to ``ceil((i + 1) n / size)``.

    Args:
      x: ``[batch, height, width, channel]``, floating.
      size: height and width of the result; a feature map of that size is left as it is.

    Returns:
      ``[batch, size, size, channel]``, of x's dtype.
    """
    if x.shape[1:3] == (size, size):
        return x
    counts = []
    for axis in (1, 2):
        n = x.shape[axis]
        windows = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
        sums = [lax.slice_in_dim(x, first, stop, axis=axis).sum(axis) for first, stop in windows]
        x = jnp.stack(sums, axis)
        counts.append(np.array([stop - first for first, stop in windows]))
    area = counts[0][:, None] * counts[1][None, :]
    return x / jnp.asarray(area[None, :, :, None], x.dtype)
