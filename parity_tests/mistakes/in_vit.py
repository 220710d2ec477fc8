"""Mistakes in the vision transformer: attention, normalisation, GELU, tokens, dropout."""

from __future__ import annotations

from torch.nn import functional as F

from netparity import Part, infer_table
from netparity.pairs import MODES
from parity_tests.mistakes.planting import Given, Mistake, Setup, attributes, forward, jax, torch

VIT = "vit_b_16"
_LAYER = "encoder.layers.encoder_layer_0"
_DROPPED = "self.dropout, deterministic=not train)(x)\n        for"


def _query_for_key(setup: Setup) -> dict[str, object]:
    table = infer_table(setup.jax, setup.module, setup.inputs)
    names = [f"block0.attention.{name}.kernel" for name in ("query", "key")]
    assert all(isinstance(table[name], Part) for name in names)
    return {"table": {**table, names[0]: table[names[1]], names[1]: table[names[0]]}}


def _attention(change: str) -> tuple[str, str]:
    right = "            deterministic=not train,\n            name"
    wrong = f"attention_fn=lambda q, k, v, **named: nn.dot_product_attention({change}, **named),\n"
    return right, f"            deterministic=not train,\n            {wrong}            name"


MISTAKES = (
    Mistake("PyTorch's epsilon for torchvision's", "norm-epsilon", VIT, "jax", "block0.norm_attention",
            jax(('epsilon=1e-6, name="norm_attention"', 'epsilon=1e-5, name="norm_attention"')),
            ("epsilon", "JAX=1e-05", "PyTorch=1e-06")),
    Mistake("GELU by tanh", "gelu-tanh", VIT, "jax", "block0.mlp.Dropout_0", jax(("x, approximate=False", "x")),
            ("JAX=tanh",)),
    Mistake("relu for GELU", "activation", VIT, "jax", "block0.mlp.Dropout_0",
            jax(("nn.gelu(x, approximate=False)", "nn.relu(x)")), ("JAX=relu", "gelu")),
    Mistake("attention not scaled", "attention-scale", VIT, "jax", "block0.attention",
            jax(_attention("q * q.shape[-1] ** 0.5, k, v")), ("scale",)),
    Mistake("attention scaled by the number of features", "attention-scale", VIT, "jax", "block0.attention",
            jax(_attention("q * q.shape[-1] ** 0.5 / 32 ** 0.5, k, v")), ("scale",)),
    Mistake("half as many heads", "head-order", VIT, "jax", "block0.attention",
            jax(("            self.num_heads,\n", "            self.num_heads // 2,\n")), ("head",)),
    Mistake("query converted from the key's part", "packed-order", VIT, "jax", "block0.attention",
            Given(_query_for_key), ("query|q", "key|k", "swapped|exchanged|order")),
    Mistake("class token last", "class-token", VIT, "jax", "Dropout_0",
            jax(("[jnp.tile(token, (x.shape[0], 1, 1)), x]", "[x, jnp.tile(token, (x.shape[0], 1, 1))]")),
            ("token|roll|order",)),
    Mistake("mean of the tokens for the class token", "class-token", VIT, "jax", "head",
            jax(("x[:, 0]", "x.mean(axis=1)")), ("mean|average",)),
    Mistake("dropout twice as often", "dropout-rate", VIT, "jax", "Dropout_0",
            jax((_DROPPED, f"2 * {_DROPPED}")), ("rate", "JAX=0.2", "PyTorch=0.1")),
    Mistake("dropout in evaluation", "dropout-mode", VIT, "jax", "Dropout_0",
            jax((_DROPPED, _DROPPED.replace("not train", "False"))), ("dropout", "evaluation"), MODES),
    Mistake("skip connection lost", "skip", VIT, "jax", "block0.norm_mlp",
            jax(("        x = x + y\n", "        x = y\n")), ("skip|residual|shortcut",)),
    Mistake("PyTorch's epsilon for torchvision's", "norm-epsilon", VIT, "torch", "norm",
            attributes("encoder.ln", eps=1e-5),
            ("epsilon", "PyTorch=1e-05", "JAX=1e-06")),
    Mistake("GELU by tanh", "gelu-tanh", VIT, "torch", "block0.mlp.Dropout_0",
            attributes(f"{_LAYER}.mlp.1", approximate="tanh"), ("PyTorch=tanh",)),
    Mistake("GELU by sigmoid", "gelu-sigmoid", VIT, "torch", "block0.mlp.Dropout_0",
            forward(f"{_LAYER}.mlp.1", lambda self, x: x * (1.702 * x).sigmoid()), ("1.702|sigmoid|quick",)),
    Mistake("skip connection lost", "skip", VIT, "torch", "block0.norm_mlp", torch(_LAYER, ("x = x + input", "pass")),
            ("skip|residual|shortcut",)),
    Mistake("normalised over tokens and features", "norm-axes", VIT, "torch", "block0.norm_attention",
            forward(f"{_LAYER}.ln_1",
                    lambda self, x: F.layer_norm(x, x.shape[1:], eps=self.eps) * self.weight + self.bias),
            ("axes|axis|tokens",)),
    Mistake("attention over the batch", "batch-first", VIT, "torch", "block0.attention",
            attributes(f"{_LAYER}.self_attention", batch_first=False), ("batch",)),
    Mistake("positions left out", "position-embedding", VIT, "torch", "Dropout_0",
            torch("encoder", ("input = input + self.pos_embedding", "pass")),
            ("position|pos_embedding", "left out|nothing")),
    Mistake("normalisation's bias left out", "bias", VIT, "torch", "norm",
            forward("encoder.ln", lambda self, x: F.layer_norm(x, (32,), self.weight, None, self.eps)),
            ("PyTorch=bias", "PyTorch=left out")),
    Mistake("skip of the normalised", "skip", VIT, "torch", "block0",
            torch(_LAYER, ("return x + y", "return self.ln_2(x) + y")), ("skip|residual|layer norm",)),
)  # fmt: skip
