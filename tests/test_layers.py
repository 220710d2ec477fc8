"""The fast layers equal the plain ones, in value and gradient, in float64, ties included."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalex.networks import layers, winograd
from jaxalex.networks.tables import out_size


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _close(actual: jax.Array, expected: jax.Array) -> None:
    scale = np.abs(expected).max()
    assert np.abs(np.asarray(actual) - np.asarray(expected)).max() <= 1e-13 * scale


def _same(conv2d: Callable[..., jax.Array], x: jax.Array, kernel: jax.Array, padding: int, key: jax.Array) -> None:
    """Value and both gradients are the plain convolution's, at stride 1."""
    fast, fast_vjp = jax.vjp(conv2d, x, kernel)
    plain, plain_vjp = jax.vjp(lambda x, k: layers.conv2d_plain(x, k, 1, padding), x, kernel)
    _close(fast, plain)
    cotangent = jax.random.normal(key, plain.shape)
    for actual, expected in zip(fast_vjp(cotangent), plain_vjp(cotangent), strict=True):
        _close(actual, expected)


# (kernel, stride, padding) of every convolution in the two networks, and a few that none has.
@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(3, 1, 1), (5, 1, 2), (11, 4, 2), (7, 1, 6), (3, 2, 0), (1, 1, 0), (2, 3, 1)]
)
# On the CPU the number of channels decides how it is computed.
@pytest.mark.parametrize("channels", [3, 17])
def test_conv2d_equals_plain(size: int, stride: int, padding: int, channels: int) -> None:
    keys = jax.random.split(jax.random.key(size), 3)
    x = jax.random.normal(keys[0], (2, 19, 14, channels))  # 19 and 14: the windows leave a remainder
    kernel = jax.random.normal(keys[1], (size, size, channels, 5))
    fast, fast_vjp = jax.vjp(lambda x, k: layers.conv2d(x, k, stride, padding), x, kernel)
    plain, plain_vjp = jax.vjp(lambda x, k: layers.conv2d_plain(x, k, stride, padding), x, kernel)
    height, width = (out_size(n, size, stride, padding) for n in (19, 14))
    assert fast.shape == (2, height, width, 5)
    _close(fast, plain)
    cotangent = jax.random.normal(keys[2], plain.shape)
    for actual, expected in zip(fast_vjp(cotangent), plain_vjp(cotangent), strict=True):
        _close(actual, expected)


@pytest.mark.parametrize(("size", "padding"), [(3, 1), (5, 2)])
@pytest.mark.parametrize("batch", [1, 2, 6])
def test_conv2d_of_few_tiles_equals_plain(size: int, padding: int, batch: int) -> None:
    """On the CPU the number of tiles of 2×2 outputs decides as well: 9, 18 and 54 of them."""
    keys = jax.random.split(jax.random.key(size), 3)
    x, kernel = jax.random.normal(keys[0], (batch, 6, 5, 17)), jax.random.normal(keys[1], (size, size, 17, 4))
    _same(lambda x, k: layers.conv2d(x, k, 1, padding), x, kernel, padding, keys[2])


def test_conv2d_by_hand() -> None:
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)  # 0 1 2 / 3 4 5
    kernel = jnp.array([[1.0, 0.0], [0.0, 10.0]]).reshape(2, 2, 1, 1)  # not flipped: top left + 10 bottom right
    out = layers.conv2d(x, kernel)
    assert out[0, :, :, 0].tolist() == [[40.0, 51.0]]


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2), (3, 3), (2, 1)])
def test_max_pool_equals_plain(window: int, stride: int) -> None:
    # Distinct values: where there are ties, PyTorch's rule decides and not XLA's.
    x = jax.random.permutation(jax.random.key(window), 2 * 11 * 8 * 3).reshape(2, 11, 8, 3).astype(jnp.float64)
    fast, fast_vjp = jax.vjp(lambda x: layers.max_pool(x, window, stride), x)
    plain, plain_vjp = jax.vjp(lambda x: layers.max_pool_plain(x, window, stride), x)
    np.testing.assert_array_equal(fast, plain)
    cotangent = jax.random.normal(jax.random.key(1), plain.shape)
    _close(fast_vjp(cotangent)[0], plain_vjp(cotangent)[0])


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_max_pool_gives_a_tie_to_the_first_maximum(sign: float) -> None:
    # By hand, PyTorch's rule: the first maximum of a window, row by row, gets everything. Overlapping windows add up.
    tied = jnp.full((1, 3, 5, 1), sign)
    grad = jax.grad(lambda x: layers.max_pool(x, 3, 2).sum())(tied)
    assert grad[0, :, :, 0].tolist() == [[1, 0, 1, 0, 0], [0] * 5, [0] * 5]
    column = jnp.array([[0.0, sign], [sign, sign]]).reshape(1, 2, 2, 1)
    grad = jax.grad(lambda x: layers.max_pool(x, 2, 2).sum())(column)
    assert grad[0, :, :, 0].tolist() == ([[0, 1], [0, 0]] if sign > 0 else [[1, 0], [0, 0]])


@pytest.mark.parametrize(("batch", "parts"), [(1, 1), (8, 1), (8, 2), (7, 2), (7, 7)])
def test_winograd_by_parts_of_a_batch(monkeypatch: pytest.MonkeyPatch, batch: int, parts: int) -> None:
    """Parts of one size, and such that the last one must be filled up."""
    numbers = batch * 4 * 3 * 16 * (4 + 5)  # images, tiles, points, channels
    monkeypatch.setattr(winograd, "_BYTES", 8 * numbers // parts)
    keys = jax.random.split(jax.random.key(batch), 3)
    x, kernel = jax.random.normal(keys[0], (batch, 7, 6, 4)), jax.random.normal(keys[1], (3, 3, 4, 5))
    _same(lambda x, k: winograd.conv2d(x, k, 1), x, kernel, 1, keys[2])


def test_how_it_is_computed_is_chosen_for_the_device() -> None:
    """When the program is lowered: on a GPU a convolution stays a convolution, on the CPU it becomes products."""

    def kernel_gradient(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.grad(lambda k: layers.conv2d(x, k, 1, 1).sum())(kernel)

    traced = jax.jit(kernel_gradient).trace(jnp.ones((4, 8, 6, 24)), jnp.ones((3, 3, 24, 4)))
    cpu, gpu = (traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda"))
    assert cpu.count("stablehlo.dot_general") >= 16
    assert cpu.count("stablehlo.convolution") == 0
    assert gpu.count("stablehlo.dot_general") == 0
    assert gpu.count("stablehlo.convolution") > 0
