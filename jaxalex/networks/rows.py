"""The kinds of layer that a network's table is made of, and the arithmetic of their sizes. Plain Python, no JAX."""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar

from jaxalex.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution and its bias: square kernel, stride and zero padding in pixels.

    With ``groups`` the channels are cut into so many equal parts, and each part of the features sees one of them.
    """

    name: str
    features: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1


@dataclasses.dataclass(frozen=True)
class ReLU:
    """``max(x, 0)``, with gradient 0 at 0."""

    name: str


@dataclasses.dataclass(frozen=True)
class LRN:
    """Local response normalisation over neighbouring channels (Krizhevsky et al. 2012, section 3.3).

    ``x / (k + alpha * sum of x² over size channels around it)**beta``; alpha is not divided by ``size``, as PyTorch and
    Caffe do. The constants are the paper's.
    """

    name: str
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 2.0


@dataclasses.dataclass(frozen=True)
class Pool:
    """Max-pooling without padding; the output size is rounded down."""

    name: str
    kernel: int
    stride: int
    padding: ClassVar[int] = 0


@dataclasses.dataclass(frozen=True)
class AdaptiveAvgPool:
    """The mean over ``size`` by ``size`` windows that cover any feature map; one of that size is left as it is."""

    name: str
    size: int


@dataclasses.dataclass(frozen=True)
class Flatten:
    """The feature map as one row of numbers per image. It is no intermediate of its own, so it has no name."""


@dataclasses.dataclass(frozen=True)
class Dropout:
    """In training zeroes each number with probability ``rate`` and divides the others by ``1 - rate``."""

    name: str
    rate: float


@dataclasses.dataclass(frozen=True)
class Dense:
    """A fully-connected hidden layer and its bias."""

    name: str
    features: int


@dataclasses.dataclass(frozen=True)
class Logits:
    """The last fully-connected layer: one unit per class, and a result of at least float32."""

    name: str


Layer = Conv | ReLU | LRN | Pool | AdaptiveAvgPool | Flatten | Dropout | Dense | Logits
Layers = tuple[Layer, ...]


def pool_before_relu(layers: Layers) -> Layers:
    """The same function, gradient included, with every pooling ahead of a ReLU that it directly follows.

    The maximum commutes with any increasing function; pooling by 2 first leaves ReLU a quarter of the work.

    >>> pool_before_relu((Conv("conv1", 8, kernel=3), ReLU("relu1"), Pool("pool1", kernel=2, stride=2)))[1:]
    (Pool(name='pool1', kernel=2, stride=2), ReLU(name='relu1'))
    """
    rows = list(layers)
    for i, (row, following) in enumerate(itertools.pairwise(layers)):
        if isinstance(row, ReLU) and isinstance(following, Pool):
            rows[i : i + 2] = following, row
    return tuple(rows)


def scaled(features: int, width: float, multiple: int = 1) -> int:
    """A hidden layer's channels or units at a width factor: rounded to a multiple, at least once that.

    >>> scaled(96, 1.0), scaled(96, 0.125), scaled(64, 0.001), scaled(64, 0.1, multiple=2)
    (96, 12, 1, 6)
    """
    return multiple * max(1, round(features * width / multiple))


def most_groups(layers: Layers) -> int:
    """Into how many parts a table cuts its channels at most; every convolution's features are a multiple of it.

    >>> most_groups((Conv("conv1", 8, kernel=3), Conv("conv2", 8, kernel=3, groups=2)))
    2
    """
    return max((layer.groups for layer in layers if isinstance(layer, Conv)), default=1)


def out_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Output size of a convolution or pooling along one axis: ``floor((size - kernel + 2 padding) / stride) + 1``.

    Zero or negative where the window does not fit.

    >>> out_size(224, kernel=11, stride=4, padding=2), out_size(224, 11, 4, 0), out_size(227, 11, 4, 0)
    (55, 54, 55)
    """
    return (size - kernel + 2 * padding) // stride + 1


def feature_hw(layers: Layers, height: int, width: int) -> tuple[int, int]:
    """Height and width in pixels of the feature map that `Flatten` sees, for images of ``height`` by ``width``.

    Raises:
      UsageError: as `check_image_size` does.

    >>> layers = Conv("conv1", 96, kernel=11, stride=4, padding=2), Pool("pool1", kernel=3, stride=2)
    >>> feature_hw(layers, 224, 160), feature_hw((*layers, AdaptiveAvgPool("avgpool", 6)), 224, 160)
    ((27, 19), (6, 6))
    """
    size = (height, width)
    for layer in layers:
        if isinstance(layer, AdaptiveAvgPool):
            size = (layer.size, layer.size)
        if not isinstance(layer, Conv | Pool):
            continue
        kernel, stride, padding = layer.kernel, layer.stride, layer.padding
        out = out_size(size[0], kernel, stride, padding), out_size(size[1], kernel, stride, padding)
        for before, after in zip(size, out, strict=True):
            if after < 1:
                raise UsageError(
                    f"images of {height}x{width} are too small: {layer.name} gets {size[0]}x{size[1]} and gives "
                    f"floor(({before} - {kernel} + 2*{padding}) / {stride}) + 1 = {after}"
                )
        size = out
    return size


def check_image_size(layers: Layers, height: int, width: int) -> None:
    """Refuses images that leave some layer without a single output pixel, and shows the arithmetic.

    Raises:
      UsageError: naming the first layer whose window does not fit.

    >>> layers = (Pool("pool1", kernel=2, stride=2), Pool("pool2", kernel=2, stride=2))
    >>> check_image_size(layers, 4, 4)
    >>> check_image_size(layers, 8, 2)
    Traceback (most recent call last):
    ...
    jaxalex.errors.UsageError: images of 8x2 are too small: pool2 gets 4x1 and gives floor((1 - 2 + 2*0) / 2) + 1 = 0
    """
    feature_hw(layers, height, width)
