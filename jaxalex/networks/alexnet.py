"""The AlexNet family in Flax Linen: each network is its published table, one line a layer.

``model = build("cifar10")`` makes a network, ``params = model.init(key, images)["params"]`` its parameters, and
``model.apply({"params": params}, images)`` its logits. The output is logits, never probabilities: the loss
(softmax cross-entropy) holds the softmax.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxalex.errors import UsageError
from jaxalex.networks import initializers, layers


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution and its ReLU: square kernel, stride and zero padding in pixels."""

    name: str
    features: int
    kernel: int
    stride: int = 1
    padding: int = 0


@dataclasses.dataclass(frozen=True)
class Pool:
    """Max-pooling without padding; the output size is rounded down."""

    name: str
    kernel: int
    stride: int


@dataclasses.dataclass(frozen=True)
class Dense:
    """A fully-connected layer; a hidden one is followed by its ReLU and dropout."""

    name: str
    features: int


Layer = Conv | Pool | Dense

# One tower, without grouped convolutions and without local response normalisation.
PAPER: tuple[Layer, ...] = (
    Conv("conv1", 96, kernel=11, stride=4, padding=2),
    Pool("pool1", kernel=3, stride=2),
    Conv("conv2", 256, kernel=5, padding=2),
    Pool("pool2", kernel=3, stride=2),
    Conv("conv3", 384, kernel=3, padding=1),
    Conv("conv4", 384, kernel=3, padding=1),
    Conv("conv5", 256, kernel=3, padding=1),
    Pool("pool3", kernel=3, stride=2),
    Dense("fc1", 4096),
    Dense("fc2", 4096),
)

CIFAR10: tuple[Layer, ...] = (
    Conv("conv1", 64, kernel=3, padding=1),
    Pool("pool1", kernel=2, stride=2),
    Conv("conv2", 256, kernel=3, padding=1),
    Pool("pool2", kernel=2, stride=2),
    Conv("conv3", 384, kernel=3, padding=1),
    Conv("conv4", 256, kernel=3, padding=1),
    Conv("conv5", 256, kernel=3, padding=1),
    Pool("pool3", kernel=2, stride=2),
    Dense("fc1", 4096),
    Dense("fc2", 4096),
)

DROPOUT_RATE = 0.5


class _Affine(nn.Module):
    """Kernel and bias of one layer, initialised by a named scheme, cast to the dtype of the computation."""

    kernel_shape: tuple[int, ...]
    init_scheme: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        assert self.name is not None
        init = initializers.SCHEMES[self.init_scheme](self.name, math.prod(self.kernel_shape[:-1]))
        kernel = self.param("kernel", init.kernel, self.kernel_shape, jnp.float32)
        bias = self.param("bias", init.bias, self.kernel_shape[-1:], jnp.float32)
        dtype = kernel.dtype if self.dtype is None else self.dtype
        return x.astype(dtype), kernel.astype(dtype), bias.astype(dtype)


class AlexNet(nn.Module):
    """A network of the family, given by its table of layers; the last dense layer (fc3) gives the logits.

    Attributes:
      layers: every layer but the last.
      num_classes: units of fc3.
      width: factor on every hidden channel and unit count; 1.0 is the published network.
      init_scheme: a key of `jaxalex.networks.initializers.SCHEMES`.
      dtype: of the computation; None means that of the parameters. Parameters are created in float32.
      precision: of products and convolutions. HIGHEST is true float32 on every device; DEFAULT lets a GPU use TF32.
    """

    layers: tuple[Layer, ...]
    num_classes: int
    width: float = 1.0
    init_scheme: str = "torch"
    dtype: Any = None
    precision: lax.Precision = lax.Precision.HIGHEST

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, capture: bool = False
    ) -> jax.Array | tuple[jax.Array, dict[str, jax.Array]]:
        """Logits of a batch of normalised images.

        Args:
          images: ``[batch, height, width, channel]``, floating.
          train: apply dropout; needs ``rngs={"dropout": key}``.
          capture: also return every intermediate.

        Returns:
          logits ``[batch, num_classes]`` in float32 (float64 where the parameters are); with ``capture``,
          ``(logits, intermediates)``: a dict in the order of the network, conv1 relu1 pool1 … fc2 relu7 drop2 fc3.

        Raises:
          UsageError: if the images are too small for the network.
        """
        check_image_size(self.layers, images.shape[1], images.shape[2])
        x, seen = images, {}
        relus = dropouts = 0
        for position, layer in enumerate(self.layers):
            if isinstance(layer, Pool):
                if capture:  # otherwise done already: see below
                    x = seen[layer.name] = layers.max_pool(x, layer.kernel, layer.stride)
                continue
            relus += 1
            if isinstance(layer, Conv):
                x = seen[layer.name] = self._conv(x, layer)
                following = self.layers[position + 1]
                if isinstance(following, Pool) and not capture:
                    # ReLU and max-pooling commute, gradient included; pooling first leaves ReLU a quarter of the work.
                    x = layers.max_pool(x, following.kernel, following.stride)
                x = seen[f"relu{relus}"] = nn.relu(x)
            else:
                dropouts += 1
                x = seen[layer.name] = self._dense(x, layer.name, scaled(layer.features, self.width))
                x = seen[f"relu{relus}"] = nn.relu(x)
                drop = nn.Dropout(DROPOUT_RATE, deterministic=not train, name=f"drop{dropouts}")
                x = seen[f"drop{dropouts}"] = drop(x)
        x = self._dense(x, "fc3", self.num_classes)
        logits = seen["fc3"] = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return (logits, seen) if capture else logits

    def _conv(self, x: jax.Array, layer: Conv) -> jax.Array:
        shape = (layer.kernel, layer.kernel, x.shape[-1], scaled(layer.features, self.width))
        x, kernel, bias = _Affine(shape, self.init_scheme, self.dtype, name=layer.name)(x)
        return layers.conv2d(x, kernel, layer.stride, layer.padding, self.precision) + bias[None, None, None]

    def _dense(self, x: jax.Array, name: str, features: int) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        x, kernel, bias = _Affine((x.shape[1], features), self.init_scheme, self.dtype, name=name)(x)
        return jnp.dot(x, kernel, precision=self.precision) + bias[None]


class AlexNetPaper(AlexNet):
    """The network of Krizhevsky et al. 2012 in one tower, for 224×224 images: 62,378,344 parameters."""

    layers: tuple[Layer, ...] = PAPER
    num_classes: int = 1000


class AlexNetCifar10(AlexNet):
    """The variant for CIFAR-10's 32×32 images: 3×3 kernels and 2×2 pooling, 36,113,290 parameters."""

    layers: tuple[Layer, ...] = CIFAR10
    num_classes: int = 10


@dataclasses.dataclass(frozen=True)
class Family:
    """A network's class and the images it was published for."""

    network: Callable[..., AlexNet]
    image_size: int


MODELS = {"paper": Family(AlexNetPaper, 224), "cifar10": Family(AlexNetCifar10, 32)}


def build(
    name: str,
    num_classes: int | None = None,
    width: float = 1.0,
    *,
    init: str = "torch",
    precision: str = "float32",
) -> AlexNet:
    """Any network of the family.

    Args:
      name: ``"paper"`` or ``"cifar10"``.
      num_classes: at least 1; None means the published number (1000, 10).
      width: factor on every hidden channel and unit count, above 0.
      init: ``"torch"``, ``"flax"``, ``"he"`` or ``"paper"``.
      precision: ``"float32"`` is full float32 on every device, ``"tf32"`` lets a GPU round products to TF32,
        ``"bfloat16"`` computes in bfloat16 from float32 parameters and returns float32 logits.

    Raises:
      UsageError: for an unknown name or a number out of range.

    >>> build("cifar10", num_classes=7).num_classes
    7
    """
    if name not in MODELS:
        raise UsageError(f"unknown model {name!r}: known are {', '.join(sorted(MODELS))}")
    if init not in initializers.SCHEMES:
        raise UsageError(f"unknown init {init!r}: known are {', '.join(sorted(initializers.SCHEMES))}")
    if not (math.isfinite(width) and width > 0):
        raise UsageError(f"width must be a number above 0, not {width}")
    if num_classes is not None and num_classes < 1:
        raise UsageError(f"num_classes must be at least 1, not {num_classes}")
    classes = {} if num_classes is None else {"num_classes": num_classes}
    return MODELS[name].network(
        **classes,
        width=width,
        init_scheme=init,
        dtype=jnp.bfloat16 if precision == "bfloat16" else None,
        precision=lax.Precision.HIGHEST if precision == "float32" else lax.Precision.DEFAULT,
    )


def scaled(features: int, width: float) -> int:
    """A hidden layer's channels or units at a width factor: rounded, at least 1.

    >>> scaled(96, 1.0), scaled(96, 0.125), scaled(64, 0.001)
    (96, 12, 1)
    """
    return max(1, round(features * width))


def check_image_size(table: tuple[Layer, ...], height: int, width: int) -> None:
    """Refuses images that leave some layer without a single output pixel, and shows the arithmetic.

    Raises:
      UsageError: naming the first layer whose window does not fit.

    >>> check_image_size(CIFAR10, 32, 32)
    >>> check_image_size(CIFAR10, 32, 7)
    Traceback (most recent call last):
    ...
    jaxalex.errors.UsageError: images of 32x7 are too small: pool3 gets 8x1 and gives floor((1 - 2 + 2*0) / 2) + 1 = 0
    """
    size = (height, width)
    for layer in table:
        if isinstance(layer, Dense):
            continue
        padding = layer.padding if isinstance(layer, Conv) else 0
        out = tuple(layers.out_size(n, layer.kernel, layer.stride, padding) for n in size)
        for before, after in zip(size, out, strict=True):
            if after < 1:
                raise UsageError(
                    f"images of {height}x{width} are too small: {layer.name} gets {size[0]}x{size[1]} and gives "
                    f"floor(({before} - {layer.kernel} + 2*{padding}) / {layer.stride}) + 1 = {after}"
                )
        size = (out[0], out[1])
