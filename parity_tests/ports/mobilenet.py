"""MobileNetV3-Small as torchvision has it (``torchvision/models/mobilenetv3.py``), in Flax Linen."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from flax import linen as nn


class Bottleneck(NamedTuple):
    """One row of table 2 of the paper."""

    kernel: int
    expanded: int
    features: int
    squeeze: bool
    hard_swish: bool
    stride: int


MOBILENET_V3_SMALL = (
    Bottleneck(3, 16, 16, True, False, 2),
    Bottleneck(3, 72, 24, False, False, 2),
    Bottleneck(3, 88, 24, False, False, 1),
    Bottleneck(5, 96, 40, True, True, 2),
    Bottleneck(5, 240, 40, True, True, 1),
    Bottleneck(5, 240, 40, True, True, 1),
    Bottleneck(5, 120, 48, True, True, 1),
    Bottleneck(5, 144, 48, True, True, 1),
    Bottleneck(5, 288, 96, True, True, 2),
    Bottleneck(5, 576, 96, True, True, 1),
    Bottleneck(5, 576, 96, True, True, 1),
)


def make_divisible(channels: float) -> int:
    """The multiple of 8 nearest to a number of channels, never more than a tenth below it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class ConvNorm(nn.Module):
    """A convolution without bias, a batch normalisation and perhaps an activation."""

    features: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    activation: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=self.kernel // 2,
            feature_group_count=self.groups,
            use_bias=False,
        )(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3)(x)
        return x if self.activation is None else self.activation(x)


class SqueezeExcitation(nn.Module):
    """Every channel scaled by what the means of all channels say."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        scale = x.mean(axis=(1, 2), keepdims=True)
        scale = nn.Conv(make_divisible(channels // 4), (1, 1))(scale)
        scale = nn.relu(scale)
        scale = nn.Conv(channels, (1, 1))(scale)
        return x * nn.hard_sigmoid(scale)


class InvertedResidual(nn.Module):
    """Expand, convolve each channel by itself, squeeze and excite, project; add the input where the shapes agree."""

    kernel: int
    expanded: int
    features: int
    squeeze: bool
    activation: Callable[[jax.Array], jax.Array]
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        residual = x
        if self.expanded != x.shape[-1]:
            x = ConvNorm(self.expanded, activation=self.activation)(x, train)
        x = ConvNorm(self.expanded, self.kernel, self.stride, groups=self.expanded, activation=self.activation)(
            x, train
        )
        if self.squeeze:
            x = SqueezeExcitation()(x)
        x = ConvNorm(self.features)(x, train)
        if self.stride == 1 and residual.shape[-1] == self.features:
            x = x + residual
        return x


class MobileNetV3Small(nn.Module):
    """Images [batch, h, w, 3] to logits [batch, num_classes]; ``width`` multiplies all numbers of channels."""

    num_classes: int = 1000
    width: float = 1.0
    dropout: float = 0.2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = ConvNorm(make_divisible(16 * self.width), 3, stride=2, activation=nn.hard_swish)(x, train)
        for row in MOBILENET_V3_SMALL:
            x = InvertedResidual(
                row.kernel,
                make_divisible(row.expanded * self.width),
                make_divisible(row.features * self.width),
                row.squeeze,
                nn.hard_swish if row.hard_swish else nn.relu,
                row.stride,
            )(x, train)
        x = ConvNorm(6 * x.shape[-1], activation=nn.hard_swish)(x, train)
        x = x.mean(axis=(1, 2))
        x = nn.Dense(make_divisible(1024 * self.width))(x)
        x = nn.hard_swish(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes)(x)
