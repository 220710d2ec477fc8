"""A classifier of token sequences with an LSTM, in Flax Linen; its original is ``torch_modules.LSTMClassifier``."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn


class LSTMClassifier(nn.Module):
    """Integer tokens [batch, time] to logits [batch, num_classes], read off the last step's output."""

    vocabulary: int = 10_000
    features: int = 128
    hidden: int = 256
    num_classes: int = 10

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(self.vocabulary, self.features, name="embedding")(tokens)
        outputs: Any = nn.RNN(nn.OptimizedLSTMCell(self.hidden))(x)
        return nn.Dense(self.num_classes, name="head")(outputs[:, -1])
