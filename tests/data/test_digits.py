"""The embedded digits are scikit-learn's, whole, and in the shape of CIFAR-10."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from jaxalex import data
from jaxalex.data import digits


def test_sizes_and_types():
    splits = data.load("digits", None, seed=0)
    assert (len(splits.train), len(splits.eval), len(splits.test)) == (1149, 288, 360)
    for part in (splits.train, splits.eval, splits.test):
        assert part.images.shape == (len(part), 32, 32, 3)
        assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int32)
        assert part.images.flags.c_contiguous
        assert set(part.labels.tolist()) == set(range(10))
    assert splits.name == "digits"
    assert splits.class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert splits.num_classes == 10


def test_every_digit_is_there_once():
    published = digits.load()
    assert (len(published.train), len(published.test)) == (1437, 360)
    labels = np.concatenate([published.train.labels, published.test.labels])
    # Table of class sizes in the data set's description (UCI, test part of optdigits).
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    images = np.concatenate([published.train.images, published.test.images])
    assert len(np.unique(images.reshape(1797, -1), axis=0)) == 1797


def test_pictures_show_the_digits():
    published = digits.load()
    originals, labels = load_digits().images, load_digits().target
    images = np.concatenate([published.train.images, published.test.images])
    assert (images == images[..., :1]).all()  # grey
    # Averaged back to 8x8 a picture is its original, blurred: that is nearest, and the label fits.
    small = images[..., 0].reshape(-1, 8, 4, 8, 4).mean((2, 4)).reshape(-1, 64) * (16 / 255)
    found = np.concatenate([published.train.labels, published.test.labels])
    flat = originals.reshape(-1, 64)
    distances = (small**2).sum(1)[:, None] + (flat**2).sum(1) - 2 * small @ flat.T
    nearest = distances.argmin(1)
    assert len(set(nearest.tolist())) > 1780
    np.testing.assert_array_equal(found, labels[nearest])
    assert images.min() == 0
    assert images.max() == 255


def test_seed_moves_train_and_eval_but_never_the_test_set():
    first, same, other = (data.load("digits", None, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train.images, same.train.images)
    np.testing.assert_array_equal(first.test.images, other.test.images)
    assert (first.eval.labels != other.eval.labels).any()
