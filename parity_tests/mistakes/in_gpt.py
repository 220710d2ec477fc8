"""Mistakes in a small language model: rotary positions, masks, packed attention, the embedding's scale, RMSNorm."""

from __future__ import annotations

from torch.nn import functional as F

from parity_tests.mistakes.planting import Mistake, attributes, forward, jax, torch

GPT = "gpt"
_OUT, _ATTENTION = "block.attention.out", "block.attention"
_HALVES = "a, b = x[..., :half], x[..., half:]"
_NEIGHBOURS = "a, b = x[..., 0::2], x[..., 1::2]"

MISTAKES = (
    Mistake("embedding not scaled", "embedding-scale", GPT, "jax", "block.norm_attention",
            jax(("        x = x * math.sqrt(self.features)\n", "")), ("scale|factor|product with 4",)),
    Mistake("epsilon left at PyTorch's", "norm-epsilon", GPT, "torch", "block.norm_attention",
            attributes("block.norm_attention", eps=1e-3), ("epsilon", "PyTorch=0.001", "JAX=1e-06")),
    Mistake("LayerNorm for RMSNorm", "norm-kind", GPT, "torch", "block.norm_mlp",
            forward("block.norm_mlp", lambda self, x: F.layer_norm(x, (x.shape[-1],), self.weight, None, self.eps)),
            ("mean",)),
    Mistake("query, value, key", "packed-order", GPT, "jax", _OUT, jax(("q, k, v = jnp.split", "q, v, k = jnp.split")),
            ("order|swapped|exchanged",)),
    Mistake("key, query, value", "packed-order", GPT, "torch", _OUT,
            torch(_ATTENTION, ("q, k, v = self.qkv(x)", "k, q, v = self.qkv(x)")), ("order|swapped|exchanged",)),
    Mistake("features before heads", "head-order", GPT, "jax", _OUT,
            jax(("(part.reshape(batch, time, self.num_heads, -1) for",
                 "(part.reshape(batch, time, -1, self.num_heads).swapaxes(2, 3) for")),
            ("heads and depth|head order|joined in the other order|heads and features",)),
    Mistake("scores not scaled", "attention-scale", GPT, "jax", _OUT, jax((" / math.sqrt(q.shape[-1])", "")),
            ("JAX=scale|JAX=multiplied by|JAX=temperature",)),
    Mistake("scores scaled by the number of features", "attention-scale", GPT, "torch", _OUT,
            torch(_ATTENTION, ("math.sqrt(q.shape[-1])", "math.sqrt(features)")),
            ("scale|multiplied by|temperature",)),
    Mistake("mask of what came before", "mask", GPT, "jax", _OUT, jax(("jnp.tril(", "jnp.triu(")), ("mask|causal",)),
    Mistake("mask's sign", "mask", GPT, "torch", _OUT,
            torch(_ATTENTION, ('(~mask, float("-inf"))', "(mask, -1e9)")), ("mask",)),
    Mistake("no mask", "mask", GPT, "torch", _OUT,
            torch(_ATTENTION, ("scores.masked_fill(~mask, float(\"-inf\"))", "scores")),
            ("mask|causal",)),
    Mistake("softmax over the queries", "softmax-axis", GPT, "torch", _OUT,
            torch(_ATTENTION, ("F.softmax(scores, dim=-1)", "F.softmax(scores.nan_to_num(neginf=-1e4), dim=-2)")),
            ("softmax", "axis|over")),
    Mistake("rotary positions of neighbours", "rope", GPT, "jax", _OUT,
            jax((_HALVES, _NEIGHBOURS),
                ("jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)",
                 "jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)")),
            ("interleaved|neighbours",)),
    Mistake("rotary positions of halves", "rope", "gpt_interleaved", "torch", _OUT,
            attributes(_ATTENTION, interleaved=False), ("interleaved|neighbours|halves",)),
    Mistake("rotary positions left out", "rope", GPT, "torch", _OUT,
            torch(_ATTENTION, ("q, k = rotated(q, self.interleaved), rotated(k, self.interleaved)", "pass")),
            ("rotary|rope", "left out|nothing")),
    Mistake("rotary positions turned backwards", "rope", GPT, "jax", _OUT,
            jax(("angles = jnp.arange", "angles = -jnp.arange")), ("rotary|rope",)),
    Mistake("another base of rotary positions", "rope", "gpt_interleaved", "jax", _OUT,
            jax(("10_000.0", "500_000.0")), ("base|500000", )),
    Mistake("gate and value exchanged", "gate-order", GPT, "jax", "block.down",
            jax(("nn.silu(gate) * up", "gate * nn.silu(up)")), ("swapped|exchanged|other",)),
    Mistake("GELU for SiLU", "activation", GPT, "torch", "block.down",
            torch("block", ("F.silu(self.gate(y))", "F.gelu(self.gate(y))")), ("PyTorch=gelu", "silu|swish")),
    Mistake("skip connection lost", "skip", GPT, "torch", "block.norm_mlp",
            torch("block", ("x = x + self.attention(", "x = self.attention(")), ("skip|residual|shortcut",)),
    Mistake("normalised after the sum", "norm-order", GPT, "torch", "block.attention.qkv",
            torch("block", ("self.attention(self.norm_attention(x))", "self.norm_attention(self.attention(x))")),
            ("elsewhere|order",)),
    Mistake("first step for last", "last-step", GPT, "jax", "head", jax(("x[:, -1]", "x[:, 0]")),
            ("first|last|step|position",)),
)  # fmt: skip
