"""Mistakes in an LSTM: gates, biases, directions, and how PyTorch's four gates are converted."""

from __future__ import annotations

import torch as pytorch
from torch import nn
from torch.nn import functional as F

from netparity import DenseKernel, Part, infer_table
from parity_tests.mistakes.planting import Given, Mistake, Setup, forward, jax, torch

LSTM = "lstm"
_CELL = "OptimizedLSTMCell(self.hidden)"


def _gates_swapped(setup: Setup) -> dict[str, object]:
    """As a converter has it that takes PyTorch's gates to be in the order forget, input, cell, output."""
    table = dict(infer_table(setup.jax, setup.module, setup.inputs))
    for one, other in (("hi", "hf"), ("ii", "if")):
        names = [f"OptimizedLSTMCell_0.{gate}.kernel" for gate in (one, other)]
        table[names[0]], table[names[1]] = table[names[1]], table[names[0]]
    return {"table": table}


def _output_before_cell(setup: Setup) -> dict[str, object]:
    """As a converter has it that takes PyTorch's gates to be in the order input, forget, output, cell."""
    table = dict(infer_table(setup.jax, setup.module, setup.inputs))
    for kind, gates in (("hh", "h"), ("ih", "i")):
        for gate, place in (("o", 2), ("g", 3)):
            table[f"OptimizedLSTMCell_0.{gates}{gate}.kernel"] = Part(DenseKernel(f"lstm.weight_{kind}_l0"), place, 4)
    return {"table": table}


def _unrolled(self: nn.LSTM, x: pytorch.Tensor, order: str = "ifgo", biases: int = 2) -> tuple[pytorch.Tensor, None]:
    """An LSTM as it is written by hand: the gates' order in the weights, and how many of the biases are added."""
    h = c = x.new_zeros(x.shape[0], self.hidden_size)
    given, kept, *both = self.all_weights[0]
    bias = sum(both[:biases])
    outputs = []
    for t in range(x.shape[1]):
        parts = (F.linear(x[:, t], given) + F.linear(h, kept) + bias).chunk(4, -1)
        gates = dict(zip(order, parts, strict=True))
        c = gates["f"].sigmoid() * c + gates["i"].sigmoid() * gates["g"].tanh()
        h = gates["o"].sigmoid() * c.tanh()
        outputs.append(h)
    return pytorch.stack(outputs, 1), None


MISTAKES = (
    Mistake("forget and input gate exchanged in the converter", "lstm-gates", LSTM, "jax", "RNN_0",
            Given(_gates_swapped), ("gate",)),
    Mistake("output and cell gate exchanged in the converter", "lstm-gates", LSTM, "jax", "RNN_0",
            Given(_output_before_cell), ("gate",)),
    Mistake("gates in the order of Keras 1", "lstm-gates", LSTM, "torch", "RNN_0",
            forward("lstm", lambda self, x: _unrolled(self, x, "figo")), ("gate",)),
    Mistake("one of the two biases left out", "lstm-bias", LSTM, "torch", "RNN_0",
            forward("lstm", lambda self, x: _unrolled(self, x, biases=1)), ("bias",)),
    Mistake("relu for tanh", "activation", LSTM, "jax", "RNN_0",
            jax((_CELL, "OptimizedLSTMCell(self.hidden, activation_fn=nn.relu)")), ("JAX=relu", "tanh")),
    Mistake("hard sigmoid of Keras 2", "activation", LSTM, "jax", "RNN_0",
            jax((_CELL, "OptimizedLSTMCell(self.hidden, gate_fn=nn.hard_sigmoid)")), ("sigmoid",)),
    Mistake("read backwards", "direction", LSTM, "jax", "RNN_0",
            jax((f"{_CELL})", f"{_CELL}, reverse=True)")), ("revers|backward|direction",)),
    Mistake("time before batch", "batch-first", LSTM, "jax", "RNN_0",
            jax((f"{_CELL})", f"{_CELL}, time_major=True)")), ("time", "batch")),
    Mistake("first step for last", "last-step", LSTM, "jax", "head", jax(("outputs[:, -1]", "outputs[:, 0]")),
            ("first|last|step|position",)),
    Mistake("mean over time for the last step", "last-step", LSTM, "torch", "head",
            torch("", ("outputs[:, -1]", "outputs.mean(1)")), ("mean|average",)),
    Mistake("embedding scaled", "embedding-scale", LSTM, "jax", "RNN_0",
            jax(('name="embedding")(tokens)', 'name="embedding")(tokens) * self.features**0.5')),
            ("scale|factor|product",)),
    Mistake("softmax in the network", "softmax-twice", LSTM, "torch", "output",
            torch("", ("return self.head(outputs[:, -1])", "return self.head(outputs[:, -1]).softmax(-1)")),
            ("softmax",)),
    Mistake("embeddings of norm one", "embedding-scale", LSTM, "torch", "embedding",
            forward("embedding", lambda self, x: F.normalize(F.embedding(x, self.weight), dim=-1)),
            ("norm",)),
)  # fmt: skip
