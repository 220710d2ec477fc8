"""Exact mean and standard deviation per channel, and the normalisations made from them."""

from __future__ import annotations

import math

import numpy as np

from jaxalex.errors import UsageError

NORMALIZATIONS = ("half", "dataset")
_CHUNK = 500 * 32 * 32  # pixels at a time, so that temporary arrays stay at a few MB


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and (population) standard deviation of each channel over all pixels of all images.

    One pass counts how often each value occurs; so the result does not depend on the order of the images, and only the
    last division and the square root round.

    Args:
      images: uint8 ``[n, height, width, channel]``, n ≥ 1.

    Returns:
      ``(mean, std)``: float64 ``[channel]`` each, on the scale where 255 is 1.

    Raises:
      UsageError: ``images`` is empty.

    >>> mean, std = channel_statistics(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
    >>> mean.tolist(), std.tolist()
    ([0.5], [0.5])
    """
    if images.size == 0:
        raise UsageError("cannot compute the mean and standard deviation of no images")
    # How often each value occurs, [channel, 256]: everything after this is exact in Python's integers.
    counts = np.zeros((images.shape[-1], 256), np.uint64)
    at_once = max(1, _CHUNK // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), at_once):
        chunk = images[start : start + at_once]
        for channel in range(len(counts)):
            counts[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256).astype(np.uint64)
    mean, std = [], []
    for histogram in counts.tolist():
        n = sum(histogram)
        total = sum(value * count for value, count in enumerate(histogram))
        squares = sum(value**2 * count for value, count in enumerate(histogram))
        mean.append(total / (255 * n))
        std.append(math.sqrt((n * squares - total**2) / (255 * n) ** 2))
    return np.array(mean), np.array(std)


def normalization(name: str, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation for the normalisation ``(x / 255 - mean) / std``.

    Args:
      name: ``"half"`` (0.5 and 0.5, which maps 0 … 255 to -1 … 1) or ``"dataset"`` (`channel_statistics`).
      images: the training images, uint8 ``[n, height, width, channel]``.

    Returns:
      ``(mean, std)``: float32 ``[channel]`` each.

    Raises:
      UsageError: the name is unknown, or a channel is constant over all images and so cannot be normalised.

    >>> normalization("half", np.zeros((1, 8, 8, 3), np.uint8))[0].tolist()
    [0.5, 0.5, 0.5]
    """
    if name == "half":
        half = np.full(images.shape[-1], 0.5, np.float32)
        return half, half.copy()
    if name != "dataset":
        raise UsageError(f"unknown normalisation {name!r}: known are {', '.join(NORMALIZATIONS)}")
    mean, std = channel_statistics(images)
    constant = ", ".join(str(channel) for channel in np.flatnonzero(std == 0))
    if constant:
        raise UsageError(
            f"channel {constant} is constant over the training images, so it has no standard deviation to "
            "divide by: use --normalize half"
        )
    return mean.astype(np.float32), std.astype(np.float32)
