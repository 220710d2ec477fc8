"""Two dense layers in Flax Linen: the smallest network that can be trained; its original is ``torch_blocks.mlp``."""

from __future__ import annotations

import jax
from flax import linen as nn


class MLP(nn.Module):
    """Features [batch, features] to logits [batch, num_classes]."""

    hidden: int = 64
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(self.hidden)(x)
        x = nn.relu(x)
        return nn.Dense(self.num_classes)(x)
