"""ResNet-18 as torchvision has it (``torchvision/models/resnet.py``), in Flax Linen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
from flax import linen as nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        conv = partial(nn.Conv, self.features, use_bias=False)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5)
        residual = x
        x = conv((3, 3), strides=self.stride, padding=1, name="conv1")(x)
        x = norm(name="bn1")(x)
        x = nn.relu(x)
        x = conv((3, 3), padding=1, name="conv2")(x)
        x = norm(name="bn2")(x)
        if residual.shape != x.shape:
            residual = conv((1, 1), strides=self.stride, padding=0, name="downsample_conv")(residual)
            residual = norm(name="downsample_bn")(residual)
        return nn.relu(x + residual)


class ResNet(nn.Module):
    """Images [batch, h, w, 3] to logits [batch, num_classes]; the defaults are ResNet-18."""

    blocks: Sequence[int] = (2, 2, 2, 2)
    num_classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(64, (7, 7), strides=2, padding=3, use_bias=False, name="conv1")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="bn1")(x)
        x = nn.relu(x)
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for i, count in enumerate(self.blocks):
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                x = BasicBlock(64 * 2**i, stride, name=f"layer{i + 1}_{j}")(x, train)
        x = x.mean(axis=(1, 2))
        return nn.Dense(self.num_classes, name="fc")(x)
