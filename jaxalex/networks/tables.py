"""The networks as tables: every layer, in the order in which it is computed, and the arithmetic of their sizes.

`NETWORKS` is the one list of networks. It is plain Python, so that commands can offer its names without loading JAX.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar

from jaxalex.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution and its bias: square kernel, stride and zero padding in pixels."""

    name: str
    features: int
    kernel: int
    stride: int = 1
    padding: int = 0


@dataclasses.dataclass(frozen=True)
class ReLU:
    """``max(x, 0)``, with gradient 0 at 0."""

    name: str


@dataclasses.dataclass(frozen=True)
class Pool:
    """Max-pooling without padding; the output size is rounded down."""

    name: str
    kernel: int
    stride: int
    padding: ClassVar[int] = 0


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


Layer = Conv | ReLU | Pool | Flatten | Dropout | Dense | Logits
Layers = tuple[Layer, ...]


@dataclasses.dataclass(frozen=True)
class Network:
    """A published network.

    Attributes:
      name: by which commands and files know it.
      layers: the table.
      image_size: height and width in pixels of the images it was published for.
      num_classes: the published number.
    """

    name: str
    layers: Layers
    image_size: int
    num_classes: int


# Krizhevsky et al. 2012 in one tower, without grouped convolutions and without local response normalisation.
PAPER = Network(
    name="paper",
    layers=(
        Conv("conv1", 96, kernel=11, stride=4, padding=2),
        ReLU("relu1"),
        Pool("pool1", kernel=3, stride=2),
        Conv("conv2", 256, kernel=5, padding=2),
        ReLU("relu2"),
        Pool("pool2", kernel=3, stride=2),
        Conv("conv3", 384, kernel=3, padding=1),
        ReLU("relu3"),
        Conv("conv4", 384, kernel=3, padding=1),
        ReLU("relu4"),
        Conv("conv5", 256, kernel=3, padding=1),
        ReLU("relu5"),
        Pool("pool3", kernel=3, stride=2),
        Flatten(),
        Dense("fc1", 4096),
        ReLU("relu6"),
        Dropout("drop1", rate=0.5),
        Dense("fc2", 4096),
        ReLU("relu7"),
        Dropout("drop2", rate=0.5),
        Logits("fc3"),
    ),
    image_size=224,
    num_classes=1000,
)

CIFAR10 = Network(
    name="cifar10",
    layers=(
        Conv("conv1", 64, kernel=3, padding=1),
        ReLU("relu1"),
        Pool("pool1", kernel=2, stride=2),
        Conv("conv2", 256, kernel=3, padding=1),
        ReLU("relu2"),
        Pool("pool2", kernel=2, stride=2),
        Conv("conv3", 384, kernel=3, padding=1),
        ReLU("relu3"),
        Conv("conv4", 256, kernel=3, padding=1),
        ReLU("relu4"),
        Conv("conv5", 256, kernel=3, padding=1),
        ReLU("relu5"),
        Pool("pool3", kernel=2, stride=2),
        Flatten(),
        Dense("fc1", 4096),
        ReLU("relu6"),
        Dropout("drop1", rate=0.5),
        Dense("fc2", 4096),
        ReLU("relu7"),
        Dropout("drop2", rate=0.5),
        Logits("fc3"),
    ),
    image_size=32,
    num_classes=10,
)

NETWORKS: dict[str, Network] = {network.name: network for network in (CIFAR10, PAPER)}


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


def scaled(features: int, width: float) -> int:
    """A hidden layer's channels or units at a width factor: rounded, at least 1.

    >>> scaled(96, 1.0), scaled(96, 0.125), scaled(64, 0.001)
    (96, 12, 1)
    """
    return max(1, round(features * width))


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

    >>> feature_hw(PAPER.layers, 224, 224), feature_hw(CIFAR10.layers, 40, 24)
    ((6, 6), (5, 3))
    """
    size = (height, width)
    for layer in layers:
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

    >>> check_image_size(CIFAR10.layers, 32, 32)
    >>> check_image_size(CIFAR10.layers, 32, 7)
    Traceback (most recent call last):
    ...
    jaxalex.errors.UsageError: images of 32x7 are too small: pool3 gets 8x1 and gives floor((1 - 2 + 2*0) / 2) + 1 = 0
    """
    feature_hw(layers, height, width)
