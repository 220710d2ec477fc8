"""Convolution at stride 1 by Winograd's minimal filtering, with its gradients, as matrix products.

A tile of 2×2 outputs of a 3×3 kernel needs 16 products a pair of channels instead of 36: F(2×2, 3×3). The 16
products of all tiles are 16 matrix products, which every backend runs near its peak; the transforms around them are
additions and halvings. Larger kernels are cut into parts of 3 and 2 taps an axis, two taps apart, so that a part sees
the tiles of its neighbour: a 5×5 kernel needs 49 products instead of 100. The sums are several times shorter than a
direct convolution's, which makes up for the transforms' rounding: float32 is as exact (measured: the parity tests).
Larger tiles would need still fewer products, and lose digits.

Source: A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, sections 4.1 to 4.3: with
the matrices given there, an output tile is ``Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A`` for a kernel g and an input tile d of 4×4.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxalex.networks.shapes import Array, Float

Arrays = Sequence[Array]
Images = Float[Array, "batch height width channels"]
Kernel = Float[Array, "size size channels features"]
Convolved = Float[Array, "batch height+2*{padding}-size+1 width+2*{padding}-size+1 features"]
# The parts of a kernel have different numbers of points, so the 16 matrices of a list differ in size.
Matrix = Float[Array, "_ _"]
_POINTS = 4  # of a tile, along each axis
# Bound on the intermediate arrays alive at once, in bytes: small enough for them to stay in the caches and reuse pages.
_BYTES = 16 * 2**20


def num_products(size: int) -> float:
    """Products for one output and a pair of channels; ``size**2`` in a direct convolution.

    >>> num_products(3), num_products(5)
    (4.0, 12.25)
    """
    return sum(taps + 1 for _, taps in _parts(size)) ** 2 / 4


def _parts(size: int) -> list[tuple[int, int]]:
    """How an odd kernel is cut along an axis: the first tap of each part, and its number of taps."""
    return [(first, 2) for first in range(0, size - 3, 2)] + [(size - 3, 3)]


def _input_transform(d: Arrays) -> list[Array]:
    """Bᵀ along one axis: 4 rows to 4."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _kernel_transform(g: Arrays) -> list[Array]:
    """G along one axis: 3 taps to 4 rows; 2 taps to 3, since the last would be zero."""
    outer = (g[0] + g[2]) / 2 if len(g) == 3 else g[0] / 2
    return [g[0], outer + g[1] / 2, outer - g[1] / 2, *g[2:]]


def _kernel_transposed(u: Arrays) -> list[Array]:
    """Gᵀ along one axis: 4 rows to 3 taps; 3 to 2."""
    half_sum = (u[1] + u[2]) / 2
    return [u[0] + half_sum, (u[1] - u[2]) / 2, *(half_sum + last for last in u[3:])]


def _output_transform(m: Arrays) -> list[Array]:
    """Aᵀ along one axis: 4 rows to 2."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _output_transposed(y: Arrays) -> list[Array]:
    """A along one axis: 2 rows to 4."""
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _along_both(transform: Callable[[Arrays], list[Array]], grid: Sequence[Arrays]) -> list[list[Array]]:
    """A transform along the columns of a grid of arrays, then along its rows."""
    columns = [transform([row[j] for row in grid]) for j in range(len(grid[0]))]
    return [transform(row) for row in zip(*columns, strict=True)]


def _grid_points() -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(_POINTS) for j in range(_POINTS))


def _parts_with(point: tuple[int, int], size: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The parts of a kernel, down and across, that have a point: a part of 2 taps has no last one."""
    down, across = ([part for part in _parts(size) if index <= part[1]] for index in point)
    return [(i, j) for i in down for j in across]


def _input_points(x: Images, size: int, padding: int) -> list[Float[Array, "tiles _"]]:
    """Bᵀ d B of every tile, seen by every part of the kernel: 16 matrices ``[tile, part and channel]``.

    There is a tile for every 2×2 outputs; the last may reach beyond.
    """
    height, width, channels = x.shape[1:]
    rows, columns = (-(-(n + 2 * padding - size + 1) // 2) for n in (height, width))
    shifts = _parts(size)[-1][0] // 2  # a part two taps further sees the next tile
    below, right = (2 * (n + shifts) + 2 - m - padding for n, m in ((rows, height), (columns, width)))
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (padding, below, 0), (padding, right, 0), (0, 0, 0)))
    stops = [2 * (n + shifts) - 1 for n in (rows, columns)]
    grid = [[x[:, i : i + stops[0] : 2, j : j + stops[1] : 2] for j in range(_POINTS)] for i in range(_POINTS)]
    transformed = _along_both(_input_transform, grid)

    def seen(point: tuple[int, int]) -> Matrix:
        tiles = transformed[point[0]][point[1]]
        starts = [(down // 2, across // 2) for (down, _), (across, _) in _parts_with(point, size)]
        parts = [tiles[:, i : i + rows, j : j + columns].reshape(-1, channels) for i, j in starts]
        return jnp.concatenate(parts, axis=1)

    return [seen(point) for point in _grid_points()]


def _kernel_points(kernel: Kernel, axis: int) -> list[Matrix]:
    """G g Gᵀ of every part: 16 matrices ``[in, out]``, the parts one after the other along an axis."""
    size = len(kernel)

    def transformed(down: tuple[int, int], across: tuple[int, int]) -> list[list[Array]]:
        taps = [[kernel[down[0] + i, across[0] + j] for j in range(across[1])] for i in range(down[1])]
        return _along_both(_kernel_transform, taps)

    parts = {(down, across): transformed(down, across) for down in _parts(size) for across in _parts(size)}
    return [jnp.concatenate([parts[part][i][j] for part in _parts_with((i, j), size)], axis) for i, j in _grid_points()]


def _outputs(
    products: Sequence[Float[Array, "tiles features"]], batch: int, out_hw: Sequence[int]
) -> Float[Array, "{batch} height width features"]:
    """Aᵀ m A of every tile, put together: ``[batch, height, width, out]``."""
    (height, width), features = out_hw, products[0].shape[-1]
    rows, columns = -(-height // 2), -(-width // 2)
    points = [product.reshape(batch, rows, columns, features) for product in products]
    tile = _along_both(_output_transform, [points[4 * i : 4 * i + 4] for i in range(_POINTS)])
    whole = jnp.stack([jnp.stack(row, axis=3) for row in tile], axis=2)
    return whole.reshape(batch, 2 * rows, 2 * columns, features)[:, :height, :width]


def _products(
    a: Sequence[Matrix], b: Sequence[Matrix], over: tuple[int, int], precision: lax.Precision | None
) -> list[Matrix]:
    """The 16 matrix products, summed over axis ``over[0]`` of a's and ``over[1]`` of b's matrices.

    One by one: as a batched product they would first be copied into one array.
    """
    dimensions = (((over[0],), (over[1],)), ((), ()))
    return [lax.dot_general(x, y, dimensions, precision=precision) for x, y in zip(a, b, strict=True)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(x: Images, kernel: Kernel, padding: int, precision: lax.Precision | None = None) -> Convolved:
    """Cross-correlation at stride 1.

    Args:
      x: ``[batch, height, width, in]``, floating.
      kernel: ``[k, k, in, out]``, of x's dtype, k odd and at least 3.
      padding: zeros added on each side of both axes, at most k - 1.
      precision: of the products.

    Returns:
      ``[batch, height + 2 padding - k + 1, width + 2 padding - k + 1, out]``, of x's dtype.
    """
    return _correlate(x, _kernel_points(kernel, axis=0), len(kernel), padding, 0, precision)


def _correlate(
    x: Images, kernel_points: Sequence[Matrix], size: int, padding: int, axis: int, precision: lax.Precision | None
) -> Float[Array, "batch height+2*{padding}-{size}+1 width+2*{padding}-{size}+1 features"]:
    """The convolution with a transformed kernel, summed over axis ``axis`` of its matrices."""
    out_hw = [n + 2 * padding - size + 1 for n in x.shape[1:3]]

    def some(x: Images) -> Float[Array, "batch _ _ features"]:
        return _outputs(_products(_input_points(x, size, padding), kernel_points, (1, axis), precision), len(x), out_hw)

    parts = _parts_of_batch(x, size, out_hw, kernel_points[0].shape[1 - axis])
    if parts == 1:
        return some(x)
    out = lax.map(some, _split(x, parts))
    return out.reshape(-1, *out.shape[2:])[: len(x)]


def _parts_of_batch(x: Images, size: int, out_hw: Sequence[int], features: int) -> int:
    """Into how many parts a batch is split, so that the arrays between the transforms fit into `_BYTES`."""
    tiles = math.prod(-(-n // 2) for n in out_hw)
    numbers = tiles * (4 * num_products(size) * x.shape[-1] + _POINTS**2 * features)
    fewest = min(len(x), math.ceil(len(x) * numbers * x.dtype.itemsize / _BYTES))
    # Parts of equal size if fewer than twice as many suffice; otherwise the last one is padded with zeros.
    return next((n for n in range(fewest, 2 * fewest) if len(x) % n == 0), fewest)


def _split(x: Float[Array, " batch *rest"], parts: int) -> Float[Array, "{parts} images *rest"]:
    """``[batch, …]`` to ``[parts, images, …]``, padded with zeros."""
    images = -(-len(x) // parts)
    missing = images * parts - len(x)
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, missing, 0), *[(0, 0, 0)] * (x.ndim - 1)))
    return x.reshape(parts, images, *x.shape[1:])


def _forward(
    x: Images, kernel: Kernel, padding: int, precision: lax.Precision | None
) -> tuple[Convolved, tuple[Images, Kernel]]:
    return conv2d(x, kernel, padding, precision), (x, kernel)


def _backward(
    padding: int, precision: lax.Precision | None, residuals: tuple[Images, Kernel], grad: Convolved
) -> tuple[Images, Kernel]:
    x, kernel = residuals
    size = len(kernel)
    # The input's gradient is a convolution with the kernel turned by 180 degrees, summed over the outputs.
    turned = _kernel_points(kernel[::-1, ::-1], axis=1)
    grad_x = _correlate(grad, turned, size, size - 1 - padding, 1, precision)

    def some(x: Images, grad: Float[Array, "batch _ _ features"]) -> list[Matrix]:
        odd = [(0, n % 2, 0) for n in grad.shape[1:3]]
        even = lax.pad(grad, jnp.zeros((), grad.dtype), ((0, 0, 0), *odd, (0, 0, 0)))
        tile = _along_both(_output_transposed, [[even[:, i::2, j::2] for j in range(2)] for i in range(2)])
        grad_products = [tile[i][j].reshape(-1, grad.shape[-1]) for i, j in _grid_points()]
        return _products(_input_points(x, size, padding), grad_products, (0, 0), precision)

    parts = _parts_of_batch(x, size, grad.shape[1:3], grad.shape[-1])
    if parts == 1:
        points = some(x, grad)
    else:

        def body(sums: list[Array], part: tuple[Array, Array]) -> tuple[list[Array], None]:
            return [a + b for a, b in zip(sums, some(*part), strict=True)], None

        split = _split(x, parts), _split(grad, parts)
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), jax.eval_shape(some, split[0][0], split[1][0]))
        points, _ = lax.scan(body, zeros, split)
    return grad_x, _kernel_gradient(points, size, x.shape[-1])


def _kernel_gradient(
    points: Sequence[Matrix], size: int, in_features: int
) -> Float[Array, "{size} {size} {in_features} features"]:
    """The transpose of `_kernel_points` (with ``axis=0``): ``[size, size, in, out]``."""
    by_part = {
        (point, part): points[_POINTS * point[0] + point[1]][n * in_features : (n + 1) * in_features]
        for point in _grid_points()
        for n, part in enumerate(_parts_with(point, size))
    }
    rows = []
    for down in _parts(size):
        parts = []
        for across in _parts(size):
            grid = [[by_part[(i, j), (down, across)] for j in range(across[1] + 1)] for i in range(down[1] + 1)]
            parts.append(_along_both(_kernel_transposed, grid))
        rows += [jnp.stack([tap for part in parts for tap in part[i]]) for i in range(down[1])]
    return jnp.stack(rows)


conv2d.defvjp(_forward, _backward)
