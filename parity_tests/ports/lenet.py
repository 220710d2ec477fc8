"""LeNet-5 with hyperbolic tangents and average pooling, in Flax Linen; its original is ``torch_modules.LeNet5``."""

from __future__ import annotations

import jax
from flax import linen as nn


class LeNet5(nn.Module):
    """Images [batch, h, w, 1] to logits [batch, num_classes]."""

    num_classes: int = 10

    def setup(self) -> None:
        self.conv1 = nn.Conv(6, (5, 5), padding=2)
        self.conv2 = nn.Conv(16, (5, 5), padding="VALID")
        self.fc1 = nn.Dense(120)
        self.fc2 = nn.Dense(84)
        self.fc3 = nn.Dense(self.num_classes)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.avg_pool(nn.tanh(self.conv1(x)), (2, 2), strides=(2, 2))
        x = nn.avg_pool(nn.tanh(self.conv2(x)), (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.tanh(self.fc1(x))
        x = nn.tanh(self.fc2(x))
        return self.fc3(x)
