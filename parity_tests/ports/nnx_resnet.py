"""ResNet-18 in Flax NNX, as torchvision has it.

Source: He et al., "Deep Residual Learning for Image Recognition", 2015, and torchvision.models.resnet18.
"""

from __future__ import annotations

import functools

import jax
from flax import nnx

conv = functools.partial(
    nnx.Conv, use_bias=False, kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
)
batch_norm = functools.partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions, added to the input or, where the shape changes, to a projection of it."""

    def __init__(self, in_features: int, features: int, strides: int, *, rngs: nnx.Rngs) -> None:
        self.conv1 = conv(in_features, features, (3, 3), strides, padding=1, rngs=rngs)
        self.bn1 = batch_norm(features, rngs=rngs)
        self.conv2 = conv(features, features, (3, 3), padding=1, rngs=rngs)
        self.bn2 = batch_norm(features, rngs=rngs)
        if strides != 1 or in_features != features:
            self.shortcut = nnx.Sequential(
                conv(in_features, features, (1, 1), strides, padding=0, rngs=rngs), batch_norm(features, rngs=rngs)
            )
        else:
            self.shortcut = nnx.Sequential()

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + self.shortcut(x))


class ResNet(nnx.Module):
    """Images float ``[batch, height, width, 3]`` to logits; 18 layers by default."""

    def __init__(self, num_classes: int = 1000, stage_sizes: tuple[int, ...] = (2, 2, 2, 2), *, rngs: nnx.Rngs) -> None:
        self.stem = conv(3, 64, (7, 7), 2, padding=3, rngs=rngs)
        self.bn = batch_norm(64, rngs=rngs)
        self.blocks: nnx.List[BasicBlock] = nnx.List()
        in_features = 64
        for stage, size in enumerate(stage_sizes):
            features = 64 * 2**stage
            for i in range(size):
                strides = 2 if stage > 0 and i == 0 else 1
                self.blocks.append(BasicBlock(in_features, features, strides, rngs=rngs))
                in_features = features
        self.head = nnx.Linear(in_features, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn(self.stem(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(axis=(1, 2)))
