"""VGG-11 with and without batch normalisation as torchvision has it (``torchvision/models/vgg.py``), in Flax Linen."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import linen as nn

from parity_tests.ports.alexnet import adaptive_avg_pool

# Features of a convolution, or "M" for a max-pool: configuration A of the paper.
VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")


class VGG(nn.Module):
    """Images [batch, h, w, 3] to logits [batch, num_classes]."""

    layers: Sequence[int | str] = VGG11
    batch_norm: bool = False
    hidden: int = 4096
    num_classes: int = 1000
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for features in self.layers:
            if isinstance(features, str):
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
                continue
            x = nn.Conv(features, (3, 3), padding=1)(x)
            if self.batch_norm:
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)(x)
            x = nn.relu(x)
        x = adaptive_avg_pool(x, (7, 7))
        x = x.reshape(x.shape[0], -1)
        for _ in range(2):
            x = nn.Dense(self.hidden)(x)
            x = nn.relu(x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes)(x)
