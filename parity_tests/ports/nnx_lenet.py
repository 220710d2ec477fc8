"""LeNet-5 in Flax NNX.

Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998, with plain average pooling and a
linear output layer.
"""

from __future__ import annotations

import jax
from flax import nnx


class LeNet5(nnx.Module):
    """Two convolutions and three dense layers, for images float ``[batch, height, width, 1]``; returns logits."""

    def __init__(self, num_classes: int = 10, image_size: tuple[int, int] = (32, 32), *, rngs: nnx.Rngs) -> None:
        height, width = ((size // 2 - 2) // 2 - 2 for size in image_size)  # each: a 5x5 convolution, halved
        self.conv1 = nnx.Conv(1, 6, (5, 5), padding="VALID", rngs=rngs)
        self.conv2 = nnx.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs)
        self.fc1 = nnx.Linear(height * width * 16, 120, rngs=rngs)
        self.fc2 = nnx.Linear(120, 84, rngs=rngs)
        self.fc3 = nnx.Linear(84, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.avg_pool(nnx.tanh(self.conv1(x)), (2, 2), strides=(2, 2))
        x = nnx.avg_pool(nnx.tanh(self.conv2(x)), (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nnx.tanh(self.fc1(x))
        x = nnx.tanh(self.fc2(x))
        return self.fc3(x)
