"""The embedded data set: scikit-learn's handwritten digits, in the shape of CIFAR-10's images."""

from __future__ import annotations

import numpy as np

from jaxalex.data.splits import ImageSet, Published

_TEST_SIZE = 360
_TEST_SEED = 0  # the test set is the same in every run, whatever the run's own seed


def load() -> Published:
    """The 1,797 digits: 1,437 to train with and 360 held out as test.

    The 8x8 images with values 0 … 16 become uint8 ``[n, 32, 32, 3]``: stretched to 0 … 255, enlarged
    bilinearly, the same in each channel.

    Source: E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI, 1998; the copy that
    scikit-learn carries.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    size, bilinear = (32, 32), Image.Resampling.BILINEAR
    large = np.stack([np.asarray(Image.fromarray(image).resize(size, bilinear)) for image in small])
    digits = ImageSet(np.repeat(large[..., None], 3, axis=-1), bunch.target.astype(np.int32))
    order = np.random.RandomState(_TEST_SEED).permutation(len(digits))
    return Published(
        name="digits",
        source="scikit-learn",
        train=digits.take(order[_TEST_SIZE:]),
        test=digits.take(order[:_TEST_SIZE]),
        class_names=tuple("0123456789"),
    )
