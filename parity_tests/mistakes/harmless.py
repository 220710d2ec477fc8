"""What looks like a mistake and changes nothing: planted as the others are, and compared as right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch as pytorch

from parity_tests.mistakes.optimizers import RATE
from parity_tests.mistakes.planting import Optimizer, Setup, jax, torch


@dataclasses.dataclass(frozen=True)
class Harmless:
    """A change that is right.

    Attributes:
      name: for people.
      network: the right pair that it is planted in.
      plant: turns the right setup into the changed one.
      why: it changes nothing.
    """

    name: str
    network: str
    plant: Callable[[Setup], Setup]
    why: str


_ATTENTION = "block.attention"
_POOLED = "        x = nn.relu(x)\n        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))\n"
_KEYS = "            deterministic=not train,\n            name"
_SHIFTED = "attention_fn=lambda q, k, v, **named: nn.dot_product_attention(q, k + 0.3, v, **named),\n            name"

HARMLESS = (
    Harmless("SAME at a stride of 1", "lenet5", jax(("padding=2", 'padding="SAME"')),
             "an odd window at a stride of 1 gets the same padding on both sides"),
    Harmless("both sides flatten by height, width, channel", "lenet5",
             torch("", ("torch.flatten(x, 1)", "torch.flatten(x.permute(0, 2, 3, 1), 1)")),
             "the kernel's rows are then in the same order on both sides, and the table finds it so"),
    Harmless("maximum before relu", "resnet18", jax((_POOLED, "".join(reversed(_POOLED.splitlines(True))))),
             "relu is monotonic: it may come before or after a maximum"),
    Harmless("maximum padded with zeros after relu", "resnet18",
             jax(("nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))",
                  "nn.max_pool(jax.numpy.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), strides=(2, 2))")),
             "what comes out of a relu is never below zero, and has no gradient there"),
    Harmless("a constant added to all keys", "vit_b_16",
             jax((_KEYS, _KEYS.replace("name", _SHIFTED))),
             "softmax does not see what all scores of a query have in common: a bias of the keys is one such"),
    Harmless("scores less their maximum", "gpt",
             torch(_ATTENTION, ("F.softmax(scores, dim=-1)", "F.softmax(scores - scores.amax(-1, True), dim=-1)")),
             "softmax does not see what all scores of a query have in common"),
    Harmless("-1e9 for minus infinity in the mask", "gpt", jax(("-jnp.inf", "-1e9")),
             "its exponential is zero in either precision"),
    Harmless("rotary positions counted from 1", "gpt",
             jax(("jnp.arange(x.shape[1], dtype=x.dtype)", "jnp.arange(1, 1 + x.shape[1], dtype=x.dtype)")),
             "a query and a key see the difference of their positions alone"),
    Harmless("the last step's state for the last output", "lstm",
             torch("", ("outputs, _ = ", "_, (states, _) = "), ("outputs[:, -1]", "states[-1]")),
             "they are the same numbers"),
    Harmless("mean of the rows' means", "mobilenet_v3_small",
             jax(("x = x.mean(axis=(1, 2))", "x = x.mean(axis=1).mean(axis=1)")), "all rows are of the same length"),
    Harmless("SAME where the stride divides the size", "convnext_tiny",
             jax(('strides=4, padding="VALID"', 'strides=4, padding="SAME"')), "there is nothing to pad"),
    Harmless("AdamW without decay", "mlp_adam",
             Optimizer("torch", lambda p: pytorch.optim.AdamW(p, lr=RATE, weight_decay=0.0)),
             "without decay AdamW is Adam"),
)  # fmt: skip
