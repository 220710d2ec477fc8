"""The 2012 paper's changes to training pictures, as pure functions of a key: crop, mirror image and colour shift.

Krizhevsky et al. 2012, section 4.1: random 224x224 patches of 256x256 pictures and their mirror images, and a shift of
the colours along the principal components of the training set's RGB values; for a test, the central patch, or ten
patches whose predictions are averaged.

A patch is as large as what the network takes where the stored picture is larger than that. Where it is not, as
CIFAR-10's 32x32 are not, the patch is as large as the picture, and it is cut from the picture with a border of 4
reflected pixels. Each dimension is taken by itself.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxalex.networks.shapes import Array, Bool, Float, Int32, Key, UInt8

BORDER = 4
ALPHA_STD = 0.1
# Sets the draws apart from dropout, which folds the same step into the same key. Any other number would do.
_STREAM = 2012
_CHUNK = 500  # images at a time, so that temporary arrays stay small

Size = tuple[int, ...]  # height and width


class Draws(NamedTuple):
    """What chance decides for each sample of a batch.

    Attributes:
      corner: int32 ``[batch, 2]``, the patch's first row and column.
      mirrored: bool ``[batch]``.
      alpha: float32 ``[batch, component]``, from N(0, 0.1²).
    """

    corner: Int32[Array, "batch 2"]
    mirrored: Bool[Array, " batch"]
    alpha: Float[Array, "batch component"]


def stored_size(image_size: int) -> int:
    """Height and width at which photographs are kept, so that patches of ``image_size`` can be cut from them.

    >>> stored_size(224)
    256
    """
    return image_size * 8 // 7


def patch_size(stored_hw: Size, image_hw: Size) -> Size:
    """Height and width of a patch: the network's, or the stored picture's where that is smaller.

    >>> patch_size((256, 256), (224, 224)), patch_size((32, 32), (224, 224))
    ((224, 224), (32, 32))
    """
    return tuple(map(min, stored_hw, image_hw))


def margin(stored_hw: Size, image_hw: Size) -> Size:
    """The last row and column at which a patch may begin; the first is 0.

    >>> margin((256, 256), (224, 224)), margin((32, 32), (32, 32))
    ((32, 32), (8, 8))
    """
    return tuple(s - n if s > n else 2 * BORDER for s, n in zip(stored_hw, image_hw, strict=True))


def with_border(images: Array, image_hw: Size) -> Array:
    """``[batch, height, width, channel]`` with a reflected border in each dimension that is not larger than a patch."""
    top, left = (0 if s > n else BORDER for s, n in zip(images.shape[1:3], image_hw, strict=True))
    if not (top or left):
        return images
    return jnp.pad(images, ((0, 0), (top, top), (left, left), (0, 0)), mode="reflect")


def draw(
    key: Key[Array, ""], step: Int32[Array, ""] | int, index: Int32[Array, " batch"], last: Size, components: int
) -> Draws:
    """The draws of one step. A sample's depend on nothing but these arguments: not on its place in the batch.

    Args:
      key: the run's.
      step: training steps taken in the run.
      index: the samples' numbers in the training set.
      last: from `margin`. Every row and column from 0 to it is as likely as any other.
      components: principal components, one per channel.
    """
    step_key = jax.random.fold_in(jax.random.fold_in(key, step), _STREAM)

    def one(number: Array) -> Draws:
        corner, mirrored, alpha = jax.random.split(jax.random.fold_in(step_key, number), 3)
        return Draws(
            jax.random.randint(corner, (2,), 0, jnp.array(last, jnp.int32) + 1, jnp.int32),
            jax.random.bernoulli(mirrored),
            ALPHA_STD * jax.random.normal(alpha, (components,), jnp.float32),
        )

    return jax.vmap(one)(index)


def crop(images: Array, corner: Int32[Array, "batch 2"], mirrored: Bool[Array, " batch"], patch_hw: Size) -> Array:
    """A patch of each image, some of them mirrored from left to right.

    Args:
      images: ``[batch, height, width, channel]``.
      corner, mirrored: as in `Draws`.
      patch_hw: height and width of the result, ``[batch, height, width, channel]``.
    """

    def one(image: Array, corner: Array, mirrored: Array) -> Array:
        patch = lax.dynamic_slice(image, (corner[0], corner[1], 0), (*patch_hw, image.shape[2]))
        return jnp.where(mirrored, patch[:, ::-1], patch)

    return jax.vmap(one)(images, corner, mirrored)


def central(images: UInt8[Array, "batch height width channel"], image_hw: Size) -> UInt8[Array, "batch h w channel"]:
    """The central patch of each image, without any border; of an odd margin the smaller half lies above and left."""
    height, width = patch_size(images.shape[1:3], image_hw)
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    return images[:, top : top + height, left : left + width]


def ten_views(last: Size) -> tuple[np.ndarray, np.ndarray]:
    """The patches of ten-crop testing: the four corners and the centre, then the mirror images of the five.

    Args:
      last: from `margin`.

    Returns:
      first row and column, int32 ``[10, 2]``, and whether it is mirrored, bool ``[10]``.

    >>> corners, mirrored = ten_views((32, 8))
    >>> corners[:5].tolist(), mirrored.tolist() == 5 * [False] + 5 * [True]
    ([[0, 0], [0, 8], [32, 0], [32, 8], [16, 4]], True)
    """
    down, right = last
    five = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
    return np.array(five + five, np.int32), np.repeat([False, True], 5)


def colour_basis(images: np.ndarray) -> np.ndarray:
    """Principal components of the colours of all pixels, each as long as its eigenvalue: ``lambda_i p_i``.

    p and lambda are eigenvectors and eigenvalues of the covariance of the channels on the scale where 255 is 1. The
    paper's shift, the sum of ``alpha_i lambda_i p_i``, is not free of scale: lambda is the square of a pixel's unit. On
    the scale of 1 the first component moves a photograph by about 5 of 255 levels; on that of 255 it would be 255 times
    as much.

    Args:
      images: uint8 ``[n, height, width, channel]``, the training set.

    Returns:
      float64 ``[component, channel]``, the largest first. Each component's largest entry is positive.
    """
    channels = images.shape[3]
    total, products, count = np.zeros(channels), np.zeros((channels, channels)), 0
    for start in range(0, len(images), _CHUNK):
        pixels = images[start : start + _CHUNK].reshape(-1, channels).astype(np.float64)
        total += pixels.sum(axis=0)  # whole numbers, so that both sums are exact
        products += pixels.T @ pixels
        count += len(pixels)
    mean = total / count
    values, vectors = np.linalg.eigh((products / count - np.outer(mean, mean)) / 255**2)
    values, vectors = np.maximum(values[::-1], 0), vectors.T[::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1, keepdims=True), axis=1)
    return values[:, None] * vectors * np.sign(largest)
