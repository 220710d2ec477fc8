"""The embedded data set: scikit-learn's handwritten digits, in the shape of CIFAR-10's images."""

from __future__ import annotations

import importlib.util
import pathlib

import numpy as np

from jaxalex.data.splits import ImageSet, Published

CLASS_NAMES = tuple("0123456789")
_TEST_SIZE = 360
_TEST_SEED = 0  # fixed, so that the test set does not depend on the run's own seed


def load() -> Published:
    """The 1,797 digits: 1,437 for training and 360 held out as the test set.

    The 8x8 images with values 0 … 16 become uint8 ``[n, 32, 32, 3]``: scaled to 0 … 255, enlarged bilinearly, and
    repeated in each channel.

    Source: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI, 1998; the copy in
    scikit-learn.
    """
    from PIL import Image

    rows = np.loadtxt(_file(), np.uint8, delimiter=",")
    small = np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    size, bilinear = (32, 32), Image.Resampling.BILINEAR
    large = np.stack([np.asarray(Image.fromarray(image).resize(size, bilinear)) for image in small])
    digits = ImageSet(np.repeat(large[..., None], 3, axis=-1), rows[:, -1].astype(np.int32))
    order = np.random.RandomState(_TEST_SEED).permutation(len(digits))
    return Published(
        name="digits",
        source="scikit-learn",
        train=digits.take(order[_TEST_SIZE:]),
        test=digits.take(order[:_TEST_SIZE]),
        class_names=CLASS_NAMES,
    )


def _file() -> pathlib.Path:
    """scikit-learn's own file: 64 pixels and a label in each line.

    Its `load_digits` reads the same after an import of all of scikit-learn's data sets and of SciPy, which takes 2
    seconds.
    """
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None  # a dependency
    assert spec.submodule_search_locations is not None
    return pathlib.Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
