"""Poolings and activations of the less usual kinds in Flax Linen; its original is ``torch_blocks.Pooling``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn


def shuffled(x: jax.Array, groups: int) -> jax.Array:
    """Channels of a map [batch, h, w, channels] dealt out among groups, as ``nn.ChannelShuffle`` does."""
    *shape, channels = x.shape
    return x.reshape(*shape, groups, channels // groups).swapaxes(-1, -2).reshape(x.shape)


class Pooling(nn.Module):
    """Images [batch, h, w, 3] to logits [batch, num_classes]; h and w are such that poolings round up."""

    features: int = 32
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(self.features, (3, 3), padding=1, name="conv1")(x)
        x = nn.avg_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        x = nn.Conv(self.features, (3, 3), padding=1, feature_group_count=2, name="conv2")(x)
        x = nn.relu6(4 * x)
        x = shuffled(x, 2)
        x = nn.Conv(self.features, (1, 1), name="conv3")(x)
        x = nn.max_pool(x, (2, 2), strides=(2, 2), padding=((0, x.shape[1] % 2), (0, x.shape[2] % 2)))
        x = nn.Conv(self.features, (3, 3), padding=1, name="conv4")(x)
        x = nn.hard_swish(x)
        x = jnp.concatenate([x.mean(axis=(1, 2)), x.max(axis=(1, 2))], axis=-1)
        return nn.Dense(self.num_classes, name="head")(x)
