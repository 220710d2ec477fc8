"""The vision transformer as torchvision has it (``torchvision/models/vision_transformer.py``), in Flax Linen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn


class MLP(nn.Module):
    """Two dense layers with an exact GELU between them."""

    hidden: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        features = x.shape[-1]
        x = nn.Dense(self.hidden, name="up")(x)
        x = nn.gelu(x, approximate=False)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.Dense(features, name="down")(x)
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class EncoderBlock(nn.Module):
    """Self-attention and an MLP, each normalised before and added to its input: [batch, tokens, features]."""

    num_heads: int
    mlp_dim: int
    dropout: float = 0.0
    attention_dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        y = nn.LayerNorm(epsilon=1e-6, name="norm_attention")(x)
        y = nn.MultiHeadDotProductAttention(
            self.num_heads,
            dropout_rate=self.attention_dropout,
            broadcast_dropout=False,  # PyTorch draws a mask for every image and every head
            deterministic=not train,
            name="attention",
        )(y)
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        x = x + y
        y = nn.LayerNorm(epsilon=1e-6, name="norm_mlp")(x)
        return x + MLP(self.mlp_dim, self.dropout, name="mlp")(y, train)


class VisionTransformer(nn.Module):
    """Images [batch, h, w, 3] to logits [batch, num_classes]; the defaults are ViT-B/16.

    h and w are multiples of the patch size.
    """

    patch_size: int = 16
    num_layers: int = 12
    num_heads: int = 12
    hidden_dim: int = 768
    mlp_dim: int = 3072
    num_classes: int = 1000
    dropout: float = 0.0
    attention_dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        patch = (self.patch_size, self.patch_size)
        x = nn.Conv(self.hidden_dim, patch, strides=patch, padding="VALID", name="patches")(x)
        x = x.reshape(x.shape[0], -1, self.hidden_dim)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.hidden_dim))
        x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, x.shape[1], self.hidden_dim))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for i in range(self.num_layers):
            block = EncoderBlock(self.num_heads, self.mlp_dim, self.dropout, self.attention_dropout, name=f"block{i}")
            x = block(x, train)
        x = nn.LayerNorm(epsilon=1e-6, name="norm")(x)
        return nn.Dense(self.num_classes, name="head")(x[:, 0])
