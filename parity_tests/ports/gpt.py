"""A small language model with rotary positions in Flax Linen; its original is ``torch_blocks.GPT``."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn


def rotated(x: jax.Array, interleaved: bool) -> jax.Array:
    """Rotary positions for queries or keys [batch, time, heads, features].

    What turns together are the features of the same place in both halves, or neighbours if ``interleaved``.
    """
    half = x.shape[-1] // 2
    rates = 10_000.0 ** (-jnp.arange(half, dtype=x.dtype) / half)
    angles = jnp.arange(x.shape[1], dtype=x.dtype)[:, None] * rates[None, :]
    cos, sin = jnp.cos(angles)[None, :, None, :], jnp.sin(angles)[None, :, None, :]
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


class Attention(nn.Module):
    """Causal self-attention [batch, time, features], with explicit scores."""

    num_heads: int
    interleaved: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, time, features = x.shape
        q, k, v = jnp.split(nn.Dense(3 * features, use_bias=False, name="qkv")(x), 3, axis=-1)
        q, k, v = (part.reshape(batch, time, self.num_heads, -1) for part in (q, k, v))
        q, k = rotated(q, self.interleaved), rotated(k, self.interleaved)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
        mask = jnp.tril(jnp.ones((time, time), bool))
        scores = jnp.where(mask[None, None], scores, -jnp.inf)
        weights = nn.softmax(scores, axis=-1)
        x = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, time, features)
        return nn.Dense(features, use_bias=False, name="out")(x)


class Block(nn.Module):
    """Attention and a gated MLP, each normalised before and added to its input."""

    num_heads: int
    hidden: int
    interleaved: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        y = nn.RMSNorm(epsilon=1e-6, name="norm_attention")(x)
        x = x + Attention(self.num_heads, self.interleaved, name="attention")(y)
        y = nn.RMSNorm(epsilon=1e-6, name="norm_mlp")(x)
        gate = nn.Dense(self.hidden, use_bias=False, name="gate")(y)
        up = nn.Dense(self.hidden, use_bias=False, name="up")(y)
        return x + nn.Dense(features, use_bias=False, name="down")(nn.silu(gate) * up)


class GPT(nn.Module):
    """Tokens int [batch, time] to logits [batch, num_classes], read off the last step."""

    vocabulary: int = 1000
    features: int = 64
    num_heads: int = 4
    hidden: int = 128
    num_classes: int = 10
    interleaved: bool = False

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(self.vocabulary, self.features, name="embedding")(tokens)
        x = x * math.sqrt(self.features)
        x = Block(self.num_heads, self.hidden, self.interleaved, name="block")(x)
        x = nn.RMSNorm(epsilon=1e-6, name="norm")(x)
        return nn.Dense(self.num_classes, name="head")(x[:, -1])
