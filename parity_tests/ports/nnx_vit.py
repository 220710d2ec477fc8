"""Vision Transformer in Flax NNX, as torchvision has it.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, and torchvision.models.VisionTransformer.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class MLP(nnx.Module):
    """Two dense layers with the exact GELU between them."""

    def __init__(self, features: int, hidden: int, dropout: float, *, rngs: nnx.Rngs) -> None:
        self.fc1 = nnx.Linear(features, hidden, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, features, rngs=rngs)
        self.drop1 = nnx.Dropout(dropout, rngs=rngs)
        self.drop2 = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.drop1(nnx.gelu(self.fc1(x), approximate=False))
        return self.drop2(self.fc2(x))


class EncoderBlock(nnx.Module):
    """Self-attention and an MLP, each normalised before and added to what came in."""

    def __init__(self, features: int, num_heads: int, mlp_features: int, dropout: float, *, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(features, epsilon=1e-6, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads, features, decode=False, rngs=rngs)
        self.drop = nnx.Dropout(dropout, rngs=rngs)
        self.norm2 = nnx.LayerNorm(features, epsilon=1e-6, rngs=rngs)
        self.mlp = MLP(features, mlp_features, dropout, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nnx.Module):
    """Images float ``[batch, image_size, image_size, 3]`` to logits; ViT-B/16 by default."""

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        num_layers: int = 12,
        num_heads: int = 12,
        features: int = 768,
        mlp_features: int = 3072,
        num_classes: int = 1000,
        dropout: float = 0.0,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        patch = (patch_size, patch_size)
        self.embed = nnx.Conv(3, features, patch, strides=patch, padding="VALID", rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros((1, 1, features)))
        tokens = (image_size // patch_size) ** 2 + 1
        self.position = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, tokens, features)))
        self.drop = nnx.Dropout(dropout, rngs=rngs)
        self.blocks = nnx.List(
            EncoderBlock(features, num_heads, mlp_features, dropout, rngs=rngs) for _ in range(num_layers)
        )
        self.norm = nnx.LayerNorm(features, epsilon=1e-6, rngs=rngs)
        self.head = nnx.Linear(features, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.embed(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        token = jnp.broadcast_to(self.class_token[...], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([token, x], axis=1)
        x = self.drop(x + self.position[...])
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])
