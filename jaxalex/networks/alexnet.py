"""The AlexNet family in Flax Linen: one module that computes any table of `jaxalex.networks.tables`.

``model = build("cifar10")`` makes a network, ``params = model.init(key, images)["params"]`` its parameters, and
``model.apply({"params": params}, images)`` its logits. The output is logits, never probabilities: the loss
(softmax cross-entropy) holds the softmax.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxalex.errors import UsageError
from jaxalex.networks import initializers, layers, rows
from jaxalex.networks.rows import (
    LRN,
    AdaptiveAvgPool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layers,
    Logits,
    Pool,
    ReLU,
)
from jaxalex.networks.tables import CIFAR10, NETWORKS, ORIGINAL, PAPER, TORCHVISION


class _Affine(nn.Module):
    """Kernel and bias of one layer, initialised by a named scheme, cast to the dtype of the computation."""

    kernel_shape: tuple[int, ...]
    init_scheme: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        assert self.name is not None
        init = initializers.SCHEMES[self.init_scheme](self.name, math.prod(self.kernel_shape[:-1]))
        kernel = jnp.asarray(self.param("kernel", init.kernel, self.kernel_shape, jnp.float32))
        bias = jnp.asarray(self.param("bias", init.bias, self.kernel_shape[-1:], jnp.float32))
        dtype = kernel.dtype if self.dtype is None else self.dtype
        return x.astype(dtype), kernel.astype(dtype), bias.astype(dtype)


class AlexNet(nn.Module):
    """A network of the family, given by its table. The method named like a row's kind computes it.

    Attributes:
      layers: the table.
      num_classes: units of the `Logits` row.
      width: factor on every hidden channel and unit count; 1.0 is the published network.
      init_scheme: a key of `jaxalex.networks.initializers.SCHEMES`.
      dtype: of the computation; None means that of the parameters. Parameters are created in float32.
      precision: of products and convolutions. HIGHEST is true float32 on every device; DEFAULT lets a GPU use TF32.
    """

    layers: Layers
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
          ``(logits, intermediates)``: a dict in the order of the network, such as conv1 relu1 pool1 … fc2 relu7 drop2
          fc3.

        Raises:
          UsageError: if the images are too small for the network.
        """
        rows.check_image_size(self.layers, images.shape[1], images.shape[2])
        x, seen = jnp.asarray(images), {}
        # The rewritten table is faster; the intermediates are those of the published one.
        for row in self.layers if capture else rows.pool_before_relu(self.layers):
            match row:
                case Conv():
                    x = self.conv(x, row)
                case ReLU():
                    x = self.relu(x)
                case LRN():
                    x = self.lrn(x, row)
                case Pool():
                    x = self.pool(x, row)
                case AdaptiveAvgPool():
                    x = self.adaptive_avg_pool(x, row)
                case Flatten():
                    x = self.flatten(x)
                case Dropout():
                    x = self.dropout(x, row, train)
                case Dense():
                    x = self.dense(x, row)
                case Logits():
                    x = self.logits(x, row)
            if not isinstance(row, Flatten):
                seen[row.name] = x
        return (x, seen) if capture else x

    def conv(self, x: jax.Array, row: Conv) -> jax.Array:
        """``[batch, height, width, channel]`` to ``[batch, out_height, out_width, features]``."""
        features = rows.scaled(row.features, self.width, rows.most_groups(self.layers))
        shape = (row.kernel, row.kernel, x.shape[-1] // row.groups, features)
        x, kernel, bias = _Affine(shape, self.init_scheme, self.dtype, name=row.name)(x)
        out = layers.conv2d(x, kernel, row.stride, row.padding, row.groups, self.precision)
        return out + bias[None, None, None]

    def relu(self, x: jax.Array) -> jax.Array:
        """Any shape to the same; the gradient at 0 is 0, as PyTorch's is."""
        return nn.relu(x)

    def lrn(self, x: jax.Array, row: LRN) -> jax.Array:
        """``[batch, height, width, channel]`` to the same shape."""
        return layers.local_response_norm(x, row.size, row.alpha, row.beta, row.k)

    def pool(self, x: jax.Array, row: Pool) -> jax.Array:
        """``[batch, height, width, channel]`` to ``[batch, out_height, out_width, channel]``."""
        return layers.max_pool(x, row.kernel, row.stride)

    def adaptive_avg_pool(self, x: jax.Array, row: AdaptiveAvgPool) -> jax.Array:
        """``[batch, height, width, channel]`` to ``[batch, size, size, channel]``."""
        return layers.adaptive_avg_pool(x, row.size)

    def flatten(self, x: jax.Array) -> jax.Array:
        """``[batch, height, width, channel]`` to ``[batch, height * width * channel]``."""
        return x.reshape(x.shape[0], -1)

    def dropout(self, x: jax.Array, row: Dropout, train: bool) -> jax.Array:
        """Any shape to the same; without ``train`` nothing happens."""
        return nn.Dropout(row.rate, deterministic=not train, name=row.name)(x)

    def dense(self, x: jax.Array, row: Dense) -> jax.Array:
        """``[batch, in]`` to ``[batch, features]``."""
        return self._product(x, row.name, rows.scaled(row.features, self.width))

    def logits(self, x: jax.Array, row: Logits) -> jax.Array:
        """``[batch, in]`` to ``[batch, num_classes]``, at least float32."""
        x = self._product(x, row.name, self.num_classes)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def _product(self, x: jax.Array, name: str, features: int) -> jax.Array:
        x, kernel, bias = _Affine((x.shape[1], features), self.init_scheme, self.dtype, name=name)(x)
        return jnp.dot(x, kernel, precision=self.precision) + bias[None]


class AlexNetPaper(AlexNet):
    """The network of Krizhevsky et al. 2012 in one tower and without LRN, for 224×224 images: 62,378,344 parameters."""

    layers: Layers = PAPER.layers
    num_classes: int = PAPER.num_classes


class AlexNetCifar10(AlexNet):
    """The variant for CIFAR-10's 32×32 images: 3×3 kernels and 2×2 pooling, 36,113,290 parameters."""

    layers: Layers = CIFAR10.layers
    num_classes: int = CIFAR10.num_classes


class AlexNetOriginal(AlexNet):
    """The network of Krizhevsky et al. 2012 as published, two towers and all: 60,965,224 parameters."""

    layers: Layers = ORIGINAL.layers
    num_classes: int = ORIGINAL.num_classes


class AlexNetTorchvision(AlexNet):
    """torchvision's ``alexnet``, after Krizhevsky 2014, for images of 63×63 and more: 61,100,840 parameters."""

    layers: Layers = TORCHVISION.layers
    num_classes: int = TORCHVISION.num_classes


def build(
    name: str,
    num_classes: int | None = None,
    width: float = 1.0,
    *,
    init: str = "torch",
    precision: str = "float32",
) -> AlexNet:
    """Makes any network of `jaxalex.networks.tables.NETWORKS`.

    Args:
      name: ``"cifar10"``, ``"paper"``, ``"original"`` or ``"torchvision"``.
      num_classes: at least 1; None means the published number (10 for ``"cifar10"``, else 1000).
      width: factor on every hidden channel and unit count, above 0.
      init: ``"torch"``, ``"flax"``, ``"he"`` or ``"paper"``.
      precision: ``"float32"`` is full float32 on every device, ``"tf32"`` lets a GPU round products to TF32,
        ``"bfloat16"`` computes in bfloat16 from float32 parameters and returns float32 logits.

    Raises:
      UsageError: for an unknown name or a number out of range.

    >>> build("cifar10", num_classes=7).num_classes
    7
    """
    if name not in NETWORKS:
        raise UsageError(f"unknown model {name!r}: known are {', '.join(NETWORKS)}")
    if init not in initializers.SCHEMES:
        raise UsageError(f"unknown init {init!r}: known are {', '.join(sorted(initializers.SCHEMES))}")
    if not (math.isfinite(width) and width > 0):
        raise UsageError(f"width must be a number above 0, not {width}")
    if num_classes is not None and num_classes < 1:
        raise UsageError(f"num_classes must be at least 1, not {num_classes}")
    network = NETWORKS[name]
    return AlexNet(
        layers=network.layers,
        num_classes=network.num_classes if num_classes is None else num_classes,
        width=width,
        init_scheme=init,
        dtype=jnp.bfloat16 if precision == "bfloat16" else None,
        precision=lax.Precision.HIGHEST if precision == "float32" else lax.Precision.DEFAULT,
    )
