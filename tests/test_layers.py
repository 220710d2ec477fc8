"""The fast layers equal the plain ones, in value and gradient, in float64, ties included."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jaxalex.networks import layers, winograd
from jaxalex.networks.rows import out_size
from jaxalex.training import steps

_SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def _close(actual: jax.Array, expected: jax.Array) -> None:
    scale = np.abs(expected).max()
    assert np.abs(np.asarray(actual) - np.asarray(expected)).max() <= 1e-13 * scale


def _gradients(function: Callable[..., jax.Array], cotangent: jax.Array, *args: jax.Array) -> tuple[jax.Array, ...]:
    """Value and gradients in one compiled program; operation by operation they would be hundreds."""

    @jax.jit
    def both(cotangent: jax.Array, *args: jax.Array) -> tuple[jax.Array, ...]:
        value, vjp = jax.vjp(function, *args)
        return value, *vjp(cotangent)

    return both(cotangent, *args)


def _same(
    conv2d: Callable[..., jax.Array],
    x: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: int,
    key: jax.Array,
    groups: int = 1,
) -> None:
    """Value and both gradients are the plain convolution's."""
    sizes = (out_size(n, len(kernel), stride, padding) for n in x.shape[1:3])
    cotangent = jax.random.normal(key, (len(x), *sizes, kernel.shape[-1]))
    found = _gradients(conv2d, cotangent, x, kernel)
    plain = _gradients(lambda x, k: layers.conv2d_plain(x, k, stride, padding, groups), cotangent, x, kernel)
    assert found[0].shape == cotangent.shape
    for actual, expected in zip(found, plain, strict=True):
        _close(actual, expected)


# (kernel, stride, padding) of every convolution in the networks, and a few that none has.
@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [
        (3, 1, 1),
        (5, 1, 2),
        (11, 4, 2),
        (2, 3, 1),
        *(pytest.param(*one, marks=_SLOW) for one in [(7, 1, 6), (3, 2, 0), (1, 1, 0)]),
    ],
)
# On the CPU the number of channels decides how it is computed.
@pytest.mark.parametrize("channels", [3, 17])
def test_conv2d_equals_plain(size: int, stride: int, padding: int, channels: int) -> None:
    keys = jax.random.split(jax.random.key(size), 3)
    x = jax.random.normal(keys[0], (2, 19, 14, channels))  # 19 and 14: the windows leave a remainder
    kernel = jax.random.normal(keys[1], (size, size, channels, 5))
    _same(lambda x, k: layers.conv2d(x, k, stride, padding), x, kernel, stride, padding, keys[2])


@pytest.mark.parametrize(("size", "padding"), [(3, 1), (5, 2)])
@pytest.mark.parametrize("batch", [1, pytest.param(2, marks=_SLOW), 6])
def test_conv2d_of_few_tiles_equals_plain(size: int, padding: int, batch: int) -> None:
    """On the CPU the number of tiles of 2×2 outputs decides as well: 9, 18 and 54 of them."""
    keys = jax.random.split(jax.random.key(size), 3)
    x, kernel = jax.random.normal(keys[0], (batch, 6, 5, 17)), jax.random.normal(keys[1], (size, size, 17, 4))
    _same(lambda x, k: layers.conv2d(x, k, 1, padding), x, kernel, 1, padding, keys[2])


# 20 channels a group are enough for Winograd's products, 3 are not.
@pytest.mark.parametrize(("size", "padding", "channels"), [(3, 1, 20), (5, 2, 20), (3, 1, 3)])
def test_grouped_conv2d_equals_plain(size: int, padding: int, channels: int) -> None:
    keys = jax.random.split(jax.random.key(size), 3)
    x, kernel = (
        jax.random.normal(keys[0], (2, 13, 10, 2 * channels)),
        jax.random.normal(keys[1], (size, size, channels, 6)),
    )
    _same(lambda x, k: layers.conv2d(x, k, 1, padding, 2), x, kernel, 1, padding, keys[2], groups=2)


def test_a_group_sees_its_own_channels_only() -> None:
    x = jnp.arange(1.0, 5.0).reshape(1, 1, 1, 4)  # groups 1 2 and 3 4
    kernel = jnp.array([[1.0, 10.0], [100.0, 1000.0]]).reshape(1, 1, 2, 2)  # first feature 1 100, second 10 1000
    assert layers.conv2d(x, kernel, groups=2).ravel().tolist() == [1 + 200, 30 + 4000]


@pytest.mark.parametrize(
    "call",
    [
        lambda: layers.conv2d(jnp.ones((1, 4, 4, 4)), jnp.ones((3, 3, 4, 2)), 1, 1, 2),  # 4 channels where 2 are seen
        lambda: layers.max_pool(jnp.ones((4, 4, 1)), 2, 2),  # no batch
        lambda: layers.conv2d(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 5, 1))),  # 2 channels and 5
        lambda: layers.conv2d(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 2, 2, 1))),  # no square
        lambda: layers.max_pool(jnp.ones((1, 4, 4, 1), jnp.int32), 2, 2),
        lambda: winograd.conv2d(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2)), 1),
        lambda: jax.jit(winograd.conv2d, static_argnums=2)(jnp.ones((4, 4, 2)), jnp.ones((3, 3, 2, 1)), 1),
        lambda: steps.summed_metrics(jnp.ones((2, 3)), jnp.zeros(4, jnp.int32), jnp.ones(2, jnp.float32)),
    ],
)
def test_shapes_and_dtypes_are_checked_in_tests(call: Callable[[], object]) -> None:
    """Every call of these modules, inside ``jit`` too, is held against the shapes in its annotations."""
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


def test_conv2d_by_hand() -> None:
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)  # 0 1 2 / 3 4 5
    kernel = jnp.array([[1.0, 0.0], [0.0, 10.0]]).reshape(2, 2, 1, 1)  # not flipped: top left + 10 bottom right
    out = layers.conv2d(x, kernel)
    assert out[0, :, :, 0].tolist() == [[40.0, 51.0]]


@pytest.mark.parametrize(
    ("window", "stride"), [(3, 2), (2, 1), *(pytest.param(*one, marks=_SLOW) for one in [(2, 2), (3, 3)])]
)
def test_max_pool_equals_plain(window: int, stride: int) -> None:
    # Distinct values: where there are ties, PyTorch's rule decides and not XLA's.
    x = jax.random.permutation(jax.random.key(window), 2 * 11 * 8 * 3).reshape(2, 11, 8, 3).astype(jnp.float64)
    out_hw = (out_size(n, window, stride, 0) for n in (11, 8))
    cotangent = jax.random.normal(jax.random.key(1), (2, *out_hw, 3))
    fast = _gradients(lambda x: layers.max_pool(x, window, stride), cotangent, x)
    plain = _gradients(lambda x: layers.max_pool_plain(x, window, stride), cotangent, x)
    np.testing.assert_array_equal(fast[0], plain[0])
    _close(fast[1], plain[1])


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_max_pool_gives_a_tie_to_the_first_maximum(sign: float) -> None:
    # By hand, PyTorch's rule: the first maximum of a window, row by row, gets everything. Overlapping windows add up.
    tied = jnp.full((1, 3, 5, 1), sign)
    grad = jax.grad(lambda x: layers.max_pool(x, 3, 2).sum())(tied)
    assert grad[0, :, :, 0].tolist() == [[1, 0, 1, 0, 0], [0] * 5, [0] * 5]
    column = jnp.array([[0.0, sign], [sign, sign]]).reshape(1, 2, 2, 1)
    grad = jax.grad(lambda x: layers.max_pool(x, 2, 2).sum())(column)
    assert grad[0, :, :, 0].tolist() == ([[0, 1], [0, 0]] if sign > 0 else [[1, 0], [0, 0]])


@pytest.mark.parametrize("beta", [0.75, 0.5])
def test_local_response_norm_equals_plain(beta: float) -> None:
    keys = jax.random.split(jax.random.key(0))
    x, cotangent = (jax.random.normal(key, (2, 3, 4, 9)) for key in keys)
    fast = _gradients(lambda x: layers.local_response_norm(x, 5, 0.2, beta, 2.0), cotangent, x)
    plain = _gradients(lambda x: layers.local_response_norm_plain(x, 5, 0.2, beta, 2.0), cotangent, x)
    for actual, expected in zip(fast, plain, strict=True):
        _close(actual, expected)


def test_local_response_norm_by_hand() -> None:
    # Krizhevsky et al. 2012, section 3.3, over 3 channels: the first and the last have one neighbour.
    x = jnp.array([2.0, 4.0, 4.0, 8.0]).reshape(1, 1, 1, 4)
    sums = [4 + 16, 4 + 16 + 16, 16 + 16 + 64, 16 + 64]
    expected = [a / (6 + 0.5 * s) ** 0.75 for a, s in zip([2, 4, 4, 8], sums, strict=True)]
    assert expected[0] == 2 / 8  # 16 to the power of 3/4
    out = layers.local_response_norm(x, 3, 0.5, 0.75, 6.0)
    np.testing.assert_allclose(out.ravel(), expected, rtol=1e-15)


def test_adaptive_avg_pool_by_hand() -> None:
    """7 pixels in 3 windows: 0 to 2, 2 to 4, 4 to 6; 2 in 3: 0, both, 1."""
    x = jnp.stack(jnp.meshgrid(jnp.arange(7.0), jnp.array([0.0, 4.0]), indexing="ij"), axis=-1)[None]
    out = layers.adaptive_avg_pool(x, 3)
    assert out[0, :, :, 0].tolist() == [[1.0] * 3, [3.0] * 3, [5.0] * 3]
    assert out[0, :, :, 1].tolist() == [[0.0, 2.0, 4.0]] * 3
    grown = layers.adaptive_avg_pool(jnp.array([5.0, 7.0]).reshape(1, 1, 2, 1), 2)  # one row becomes two
    assert grown[0, :, :, 0].tolist() == [[5.0, 7.0]] * 2
    assert layers.adaptive_avg_pool(x, 7).shape == (1, 7, 7, 2)


@pytest.mark.parametrize(
    ("batch", "parts"), [(1, 1), (7, 2), *(pytest.param(*one, marks=_SLOW) for one in [(8, 1), (8, 2), (7, 7)])]
)
def test_winograd_by_parts_of_a_batch(monkeypatch: pytest.MonkeyPatch, batch: int, parts: int) -> None:
    """Parts of one size, and such that the last one must be filled up."""
    numbers = batch * 4 * 3 * 16 * (4 + 5)  # images, tiles, points, channels
    monkeypatch.setattr(winograd, "_BYTES", 8 * numbers // parts)
    keys = jax.random.split(jax.random.key(batch), 3)
    x, kernel = jax.random.normal(keys[0], (batch, 7, 6, 4)), jax.random.normal(keys[1], (3, 3, 4, 5))
    _same(lambda x, k: winograd.conv2d(x, k, 1), x, kernel, 1, 1, keys[2])


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
