"""The form that every data source is brought into: three uint8 NHWC image sets and their class names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np


class Images(Protocol):
    """Images and their labels, wherever they are: an `ImageSet` in memory, or photographs that are still encoded."""

    def __len__(self) -> int: ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that all of them take at once."""

    def take(self, indices: np.ndarray) -> ImageSet:
        """The samples at ``indices`` (int ``[m]``), in that order, in memory."""

    def sample(self) -> np.ndarray:
        """Images for statistics of the whole set, uint8 ``[m, height, width, channel]``: all that lie in memory."""

    def content(self) -> Iterable[np.ndarray]:
        """Arrays that tell this set from every other one."""


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images and their labels, in memory.

    Attributes:
      images: uint8 ``[n, height, width, channel]``.
      labels: int32 ``[n]``, each in ``[0, num_classes)``.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def nbytes(self) -> int:
        return self.images.nbytes + self.labels.nbytes

    def take(self, indices: np.ndarray) -> ImageSet:
        """The samples at ``indices`` (int ``[m]``), in that order."""
        return ImageSet(self.images[indices], self.labels[indices])

    def sample(self) -> np.ndarray:
        return self.images

    def content(self) -> Iterable[np.ndarray]:
        return self.images, self.labels


AnyImages = TypeVar("AnyImages", bound=Images)


@dataclasses.dataclass(frozen=True)
class Splits(Generic[AnyImages]):
    """A data set, ready to train on.

    Attributes:
      name: ``"cifar10"``, ``"digits"``, ``"folder:PATH"`` or ``"tfds:NAME"``.
      source: where it was read from, for people (``"cifar-10-batches-py"``, ``"scikit-learn"`` …).
      train, eval, test: the three sets of images.
      class_names: one name per class, in label order.
      bad_images: how many pictures were left out because they could not be decoded.
      record: JSON values that checkpoints hold beside the content's digest: the names of the classes, where only the
        data tells them, and what a change can be named by.
    """

    name: str
    source: str
    train: AnyImages
    eval: AnyImages
    test: AnyImages
    class_names: tuple[str, ...]
    bad_images: int = 0
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def split_indices(size: int, seed: int, eval_fraction: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Shuffled indices of the training and the evaluation part of ``size`` samples.

    The evaluation part holds ``ceil(size * eval_fraction)`` samples: 10,000 of CIFAR-10's 50,000, 288 of
    the digits' 1,437. The same seed gives the same indices on every machine.

    Args:
      size: number of samples, at least 2.
      seed: in ``[0, 2**32)``.
      eval_fraction: in ``(0, 1)``.

    Returns:
      ``(train, eval)``, two disjoint int64 arrays that together hold every index once.

    >>> train, evaluation = split_indices(1437, seed=0)
    >>> len(train), len(evaluation)
    (1149, 288)
    """
    import numpy as np

    # RandomState's stream is frozen by NumPy's compatibility policy (NEP 19); Generator's is not.
    order = np.random.RandomState(seed).permutation(size)
    num_eval = int(np.ceil(size * eval_fraction))
    return order[: size - num_eval], order[size - num_eval :]


@dataclasses.dataclass(frozen=True)
class Published:
    """A data set as its source publishes it, in the source's own order, with the training part not split yet.

    Attributes:
      name, source, class_names: as in `Splits`.
      train, test: the two image sets.
    """

    name: str
    source: str
    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]

    def split(self, seed: int, limit_train: int | None = None, limit_eval: int | None = None) -> Splits[ImageSet]:
        """`Splits` by ``seed`` (see `split_indices`).

        Args:
          seed: in ``[0, 2**32)``.
          limit_train: how many samples of the shuffled training part to keep, from its start; None keeps all.
          limit_eval: the same for the evaluation part, and for the test set in its own order.
        """
        train, evaluation = split_indices(len(self.train), seed)
        return Splits(
            name=self.name,
            source=self.source,
            train=self.train.take(train[:limit_train]),
            eval=self.train.take(evaluation[:limit_eval]),
            test=ImageSet(self.test.images[:limit_eval], self.test.labels[:limit_eval]),
            class_names=self.class_names,
        )
