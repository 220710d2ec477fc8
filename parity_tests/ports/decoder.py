"""A decoder of feature maps in Flax Linen, as in segmentation; its original is ``torch_blocks.Decoder``."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn


def resized(x: jax.Array, height: int, width: int, method: str = "bilinear") -> jax.Array:
    """Images [batch, h, w, channels] resized without antialiasing, as ``F.interpolate`` does unless told otherwise."""
    return jax.image.resize(x, (x.shape[0], height, width, x.shape[3]), method, antialias=False)


class Decoder(nn.Module):
    """Images [batch, h, w, 3] to a map of logits [batch, h, w, num_classes]; h and w are multiples of 4."""

    features: int = 32
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, height, width, _ = x.shape
        x = resized(x, height * 3 // 4, width * 3 // 4)
        x = nn.Conv(self.features, (3, 3), padding=2, kernel_dilation=2, use_bias=False, name="dilated")(x)
        x = nn.GroupNorm(num_groups=4, epsilon=1e-5, name="norm")(x)
        x = nn.silu(x)
        x = nn.Conv(self.features, (3, 3), strides=2, padding=1, feature_group_count=4, name="down")(x)
        x = jnp.where(x > 0, x, 0.01 * x)  # nn.leaky_relu has the gradient 1 at 0, PyTorch's the slope
        # PyTorch's padding of 1 takes away what Flax's adds: each side gets kernel - 1 - padding.
        x = nn.ConvTranspose(self.features // 2, (4, 4), strides=(2, 2), padding=((2, 2), (2, 2)), name="up")(x)
        x = nn.elu(x)
        x = resized(x, height, width)
        return nn.Conv(self.num_classes, (1, 1), name="head")(x)
