"""AlexNet as torchvision has it (``torchvision/models/alexnet.py``), in Flax Linen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn


def adaptive_avg_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Feature maps [batch, h, w, channels] averaged to [batch, *size, channels], as ``nn.AdaptiveAvgPool2d`` does.

    Window i of n covers rows floor(i·h/n) to ceil((i+1)·h/n); windows overlap where n does not divide h.
    """
    for axis, n in enumerate(size, start=1):
        length = x.shape[axis]
        windows = [(i * length // n, -(-(i + 1) * length // n)) for i in range(n)]
        x = jnp.stack([jax.lax.slice_in_dim(x, a, b, axis=axis).mean(axis) for a, b in windows], axis)
    return x


class AlexNet(nn.Module):
    """Images [batch, h, w, 3], 63 pixels or more each way, to logits [batch, num_classes]."""

    num_classes: int = 1000
    hidden: int = 4096
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.Conv(64, (11, 11), strides=4, padding=2, name="conv1")(x)
        x = nn.relu(x)
        x = nn.max_pool(x, (3, 3), strides=(2, 2))
        x = nn.Conv(192, (5, 5), padding=2, name="conv2")(x)
        x = nn.relu(x)
        x = nn.max_pool(x, (3, 3), strides=(2, 2))
        x = nn.relu(nn.Conv(384, (3, 3), padding=1, name="conv3")(x))
        x = nn.relu(nn.Conv(256, (3, 3), padding=1, name="conv4")(x))
        x = nn.relu(nn.Conv(256, (3, 3), padding=1, name="conv5")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2))

        x = adaptive_avg_pool(x, (6, 6))
        x = x.reshape(x.shape[0], -1)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        x = nn.relu(nn.Dense(self.hidden, name="fc1")(x))
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        x = nn.relu(nn.Dense(self.hidden, name="fc2")(x))
        return nn.Dense(self.num_classes, name="fc3")(x)
