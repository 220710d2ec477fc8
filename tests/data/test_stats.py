"""Channel statistics are exact, and normalisation never divides by zero."""

from __future__ import annotations

import numpy as np
import pytest

from jaxalex.data.stats import channel_statistics, normalization
from jaxalex.errors import UsageError


def test_by_hand():
    # Channel 0: 0, 0, 255, 255. Channel 1: 51 and 102 (0.2 and 0.4), three to one. Channel 2: all 255.
    images = np.array([[0, 51, 255], [0, 51, 255], [255, 51, 255], [255, 102, 255]], np.uint8)
    mean, std = channel_statistics(images.reshape(2, 2, 1, 3))
    assert (mean.dtype, std.dtype) == (np.float64, np.float64)
    np.testing.assert_allclose(mean, [0.5, 0.25, 1.0], rtol=1e-15)
    np.testing.assert_allclose(std, [0.5, 0.2 * np.sqrt(3 / 16), 0.0], rtol=1e-15)


def test_uneven_batches_weigh_by_their_size():
    # 1,001 images do not fill whole chunks, and the odd one out is unlike the others.
    images = np.zeros((1001, 2, 2, 1), np.uint8)
    images[-1] = 255
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, [1 / 1001], rtol=1e-15)
    np.testing.assert_allclose(std, [np.sqrt(1000) / 1001], rtol=1e-15)


def test_against_numpy_and_in_any_order():
    images = np.random.default_rng(0).integers(0, 256, (1200, 5, 4, 3), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255.0).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255.0).std((0, 1, 2)), rtol=1e-12)
    again = channel_statistics(images[::-1])
    assert (again[0] == mean).all()
    assert (again[1] == std).all()


def test_normalizations():
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    for name in ("half", "dataset"):
        mean, std = normalization(name, images)
        assert (mean.dtype, std.dtype, mean.shape, std.shape) == (np.float32, np.float32, (3,), (3,))
    x = (images / 255.0 - mean) / std  # "dataset"
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(x.std((0, 1, 2)), 1, atol=1e-6)
    mean, std = normalization("half", images)
    assert mean.tolist() == std.tolist() == [0.5, 0.5, 0.5]


def test_constant_channel_is_named():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    images[..., 1] = 9
    with pytest.raises(UsageError, match="channel 1 is constant"):
        normalization("dataset", images)
    assert normalization("half", images)[1].all()


def test_bad_input():
    with pytest.raises(UsageError, match="'zscore': known are half, dataset"):
        normalization("zscore", np.zeros((1, 2, 2, 3), np.uint8))
    with pytest.raises(UsageError, match="no images"):
        channel_statistics(np.zeros((0, 2, 2, 3), np.uint8))
