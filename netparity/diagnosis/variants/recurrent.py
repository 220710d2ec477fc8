"""Recurrent layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch

from netparity.diagnosis.variants.variant import Variant, Variants, number
from netparity.watching import Call

_GATES = {"lstm": ("i", "f", "g", "o"), "gru": ("r", "z", "n")}


def recurrence(call: Call) -> Variants:
    """Other ways to compute an LSTM or a GRU; gates in PyTorch's order."""
    if not isinstance(call.args[2], list | tuple) or len(call.args) != 9:  # packed sequences are called otherwise
        return
    gates = _GATES[call.name]
    for order in itertools.permutations(range(len(gates))):
        if order != tuple(range(len(gates))):
            said = ", ".join(gates[i] for i in order)
            own = ", ".join(gates)
            yield Variant("gates in the order", _changed(lambda w, o=order: _ordered(w, o)), "lstm-gates", said, own)
            yield Variant(
                "the gates of its kernels alone in the order",
                _changed(lambda ws, o=order: [w if w.ndim == 1 else _ordered([w], o)[0] for w in ws]),
                "lstm-gates", said, own,
            )  # fmt: skip
    hidden = call.args[2][1].shape[1]
    if call.args[3]:
        yield Variant("the second bias (of the state) left out", _changed(_without(slice(3, None, 4))), "lstm-bias")
        yield Variant("the first bias (of the input) left out", _changed(_without(slice(2, None, 4))), "lstm-bias")
        yield Variant("both biases left out", _changed(_without(slice(2, None, 4), slice(3, None, 4))), "lstm-bias")
        if call.name == "lstm":
            for extra in (1.0, -1.0):
                yield Variant(
                    f"{number(extra)} added to the bias of the forget gate",
                    _changed(lambda ws, e=extra: _forgetting(ws, hidden, e)),
                    "lstm-bias",
                )
    first = bool(call.args[8])
    time = 1 if first else 0
    yield Variant("the sequence read backwards", lambda c: _backwards(c, time, turn=False), "direction")
    yield Variant(
        "the sequence read backwards, its outputs turned round again",
        lambda c: _backwards(c, time, turn=True),
        "direction",
    )
    yield Variant("batch and time exchanged", _exchanged, "batch-first")
    cell = _lstm if call.name == "lstm" else _gru
    kinds: list[tuple[str, dict[str, Callable[[torch.Tensor], torch.Tensor] | bool]]] = [
        ("ReLU for tanh", {"act": torch.relu}),
        ("hard sigmoid (x / 5 + 1/2) for the gates' sigmoid", {"gate": lambda x: (0.2 * x + 0.5).clamp(0, 1)}),
        ("hard sigmoid ((x + 3) / 6) for the gates' sigmoid", {"gate": lambda x: (x + 3).clamp(0, 6) / 6}),
    ]
    if call.name == "gru":
        kinds.append(("the reset gate before the product with the state (not after)", {"before": True}))
        kinds.append(("the update gate and its complement exchanged", {"exchanged": True}))
    else:
        kinds.append(("no tanh of the cell's state at the output", {"plain": True}))
    if call.args[4] == 1 and not call.args[7]:
        for said, how in kinds:
            yield Variant(said, lambda c, h=how: cell(c, first, **h), "lstm-gates")


def _changed(change: Callable[..., Sequence[torch.Tensor]]) -> Callable[[Call], object]:
    def run(call: Call) -> object:
        args = list(call.args)
        args[2] = list(change(list(args[2])))
        return call.func(*args, **call.kwargs)

    return run


def _exchanged(call: Call) -> object:
    args = list(call.args)
    x, states = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
    args[8] = not args[8]
    fresh = tuple(x.new_zeros(h.shape[0], x.shape[0 if args[8] else 1], h.shape[2]) for h in states)
    args[1] = fresh if isinstance(args[1], tuple) else fresh[0]
    return call.func(*args, **call.kwargs)


def _ordered(weights: list[torch.Tensor], order: Sequence[int]) -> list[torch.Tensor]:
    return [torch.cat([w.chunk(len(order))[i] for i in order]) for w in weights]


def _without(*where: slice) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
    def change(weights: list[torch.Tensor]) -> list[torch.Tensor]:
        gone = {i for one in where for i in range(len(weights))[one]}
        return [w * 0 if i in gone else w for i, w in enumerate(weights)]

    return change


def _forgetting(weights: list[torch.Tensor], hidden: int, extra: float) -> list[torch.Tensor]:
    added = torch.zeros(4 * hidden, dtype=weights[0].dtype)
    added[hidden : 2 * hidden] = extra
    return [w + added if i % 4 == 2 else w for i, w in enumerate(weights)]


def _backwards(call: Call, time: int, turn: bool) -> tuple[torch.Tensor, ...]:
    args = (call.args[0].flip(time), *call.args[1:])
    out, *rest = call.func(*args, **call.kwargs)
    return (out.flip(time) if turn else out, *rest)


_Act = Callable[[torch.Tensor], torch.Tensor]


def _lstm(
    call: Call, first: bool, act: _Act = torch.tanh, gate: _Act = torch.sigmoid, plain: bool = False
) -> tuple[torch.Tensor, ...]:
    w_ih, w_hh, *biases = call.args[2]
    x = call.args[0].transpose(0, 1) if first else call.args[0]
    h, c = (state[0] for state in call.args[1])
    outputs = []
    for row in x:
        i, f, g, o = (row @ w_ih.T + h @ w_hh.T + sum(biases)).chunk(4, -1)
        c = gate(f) * c + gate(i) * act(g)
        h = gate(o) * (c if plain else act(c))
        outputs.append(h)
    out = torch.stack(outputs, 1 if first else 0)
    return out, h[None], c[None]


def _gru(
    call: Call,
    first: bool,
    act: _Act = torch.tanh,
    gate: _Act = torch.sigmoid,
    before: bool = False,
    exchanged: bool = False,
) -> tuple[torch.Tensor, ...]:
    w_ih, w_hh, *biases = call.args[2]
    b_ih, b_hh = biases or (torch.zeros(w_ih.shape[0], dtype=w_ih.dtype),) * 2
    x = call.args[0].transpose(0, 1) if first else call.args[0]
    h, hidden = call.args[1][0], w_hh.shape[1]
    outputs = []
    for row in x:
        ir, iz, i_n = (row @ w_ih.T + b_ih).chunk(3, -1)
        hr, hz, hn = (h @ w_hh.T + b_hh).chunk(3, -1)
        r, z = gate(ir + hr), gate(iz + hz)
        n = act(i_n + ((r * h) @ w_hh[2 * hidden :].T + b_hh[2 * hidden :] if before else r * hn))
        h = z * n + (1 - z) * h if exchanged else (1 - z) * n + z * h
        outputs.append(h)
    return torch.stack(outputs, 1 if first else 0), h[None]
