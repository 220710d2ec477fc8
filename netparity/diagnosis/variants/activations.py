"""Functions of single values, and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from netparity.diagnosis.variants.variant import Variant, Variants, gone, number
from netparity.watching import Call

_Function = Callable[[torch.Tensor], torch.Tensor]
# The commonest first: of several that give the same numbers the first is told.
KINDS: dict[str, _Function] = {
    "ReLU": torch.relu,
    "GELU (erf)": F.gelu,
    "GELU (tanh)": lambda x: F.gelu(x, approximate="tanh"),
    "SiLU (swish)": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "leaky ReLU with slope 0.01": lambda x: F.leaky_relu(x, 0.01),
    "leaky ReLU with slope 0.2": lambda x: F.leaky_relu(x, 0.2),
    "leaky ReLU with slope 0.1": lambda x: F.leaky_relu(x, 0.1),
    "leaky ReLU with slope 0.3": lambda x: F.leaky_relu(x, 0.3),
    "ReLU6": lambda x: x.clamp(0, 6),
    "ELU with alpha 1": F.elu,
    "hard swish": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "hard sigmoid, (x + 3) / 6 cut to 0 and 1": lambda x: (x + 3).clamp(0, 6) / 6,
    "hard sigmoid, x / 5 + 1/2 cut to 0 and 1": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "hard swish with x / 5 + 1/2": lambda x: x * (0.2 * x + 0.5).clamp(0, 1),
    "GELU by the sigmoid of 1.702 x": lambda x: x * torch.sigmoid(1.702 * x),
    "softplus": F.softplus,
    "mish": F.mish,
    "SELU": F.selu,
    "hard tanh": lambda x: x.clamp(-1, 1),
    "softsign": F.softsign,
    "squared ReLU": lambda x: torch.relu(x) ** 2,
    "log sigmoid": F.logsigmoid,
    "absolute value": torch.abs,
    "exponential": torch.exp,
    "softmax over the last axis": lambda x: x.softmax(-1),
    "log softmax over the last axis": lambda x: x.log_softmax(-1),
    "softmax over the first axis": lambda x: x.softmax(0),
}
_AT_ZERO: dict[str, _Function] = {
    "ReLU with gradient 1/2 at 0 (maximum(x, 0))": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "ReLU with gradient 1 at 0": lambda x: torch.where(x >= 0, x, torch.zeros_like(x)),
}
_NAMED = {
    "relu": "ReLU", "silu": "SiLU (swish)", "sigmoid": "sigmoid", "tanh": "tanh", "relu6": "ReLU6", "mish": "mish",
    "hardswish": "hard swish", "hardsigmoid": "hard sigmoid, (x + 3) / 6 cut to 0 and 1", "selu": "SELU",
    "softsign": "softsign", "logsigmoid": "log sigmoid", "abs": "absolute value", "exp": "exponential",
}  # fmt: skip
FUNCTIONS = frozenset({*_NAMED, "gelu", "leaky_relu", "elu", "celu", "hardtanh", "softplus", "prelu", "clamp", "clip"})


def kind(call: Call) -> str:
    """What a call of one of `FUNCTIONS` is, for people."""
    if call.name == "gelu":
        return f"GELU ({'tanh' if call['approximate'] == 'tanh' else 'erf'})"
    if call.name == "leaky_relu":
        slope = 0.01 if call["negative_slope"] is None else call["negative_slope"]
        return f"leaky ReLU with slope {number(slope)}"
    if call.name in ("elu", "celu"):
        return f"ELU with alpha {number(1.0 if call['alpha'] is None else call['alpha'])}"
    if call.name == "hardtanh":
        return {(0.0, 6.0): "ReLU6", (-1.0, 1.0): "hard tanh"}.get((call["min_val"], call["max_val"]), "hard tanh")
    return _NAMED.get(call.name, call.name)


def activation(call: Call) -> Variants:
    """Other functions of single values."""
    own = kind(call)
    yield gone(own, "activation")
    if own == "ReLU":
        for text, function in _AT_ZERO.items():
            yield Variant(text, lambda c, f=function: f(c.x), "relu-at-zero")
    for name, function in KINDS.items():
        if name != own:
            key = "gelu-tanh" if name.startswith("GELU (") and own.startswith("GELU (") else "activation"
            yield Variant("", lambda c, f=function: f(c.x), key, name, own)
    if own.startswith("ELU"):
        for alpha in (0.1, 0.3, 0.5, 1.5, 2.0):
            yield Variant("", lambda c, a=alpha: F.elu(c.x, a), "activation", f"ELU with alpha {number(alpha)}", own)
    if own.startswith("leaky"):
        for slope in (0.02, 0.03, 0.05, 0.25, 1 / 3, 0.5, 0.001):
            text = f"leaky ReLU with slope {number(slope)}"
            yield Variant("", lambda c, s=slope: F.leaky_relu(c.x, s), "activation", text, own)
    if own == "softplus":
        yield Variant("", lambda c: F.softplus(c.x, 1.0, 1e9), "activation", "softplus with no linear part", own)


def after(where: str) -> list[tuple[str, _Function, str]]:
    """What a port may have beside: text, function and key.

    Args:
      where: for people, such as ``"after it"``.
    """
    found = [(f"{_article(name)} {name} {where}", function, "activation") for name, function in KINDS.items()]
    return found[:6] + [one for one in found[6:] if "leaky" not in one[0]]


def _article(name: str) -> str:
    return "an" if name[0] in "aeiEL" and not name.startswith(("leaky", "log")) else "a"


def softmax(call: Call) -> Variants:
    """Other axes of a softmax, or none."""
    x = call.x
    own = int(call["dim"]) % x.ndim
    log = call.name == "log_softmax"
    function = torch.log_softmax if log else torch.softmax
    for axis in reversed(range(x.ndim)):
        if axis != own:
            yield Variant(
                "softmax over", lambda c, a=axis: function(c.x, a), "softmax-axis", f"axis {axis}", f"axis {own}"
            )
    yield gone("softmax", "softmax-twice")
    yield Variant(
        "", lambda c: (torch.softmax if log else torch.log_softmax)(c.x, own), "softmax-twice",
        "softmax" if log else "log softmax", "log softmax" if log else "softmax",
    )  # fmt: skip
    yield Variant("softmax twice", lambda c: function(function(c.x, own), own), "softmax-twice")
    yield Variant("", lambda c: torch.sigmoid(c.x), "softmax-twice", "sigmoid", "softmax")
    yield Variant(
        "1 added to the softmax's denominator",
        lambda c: torch.exp(c.x) / (1 + torch.exp(c.x).sum(own, keepdim=True)),
        "softmax-twice",
    )
    if x.ndim > 2 and x.shape[-1] == x.shape[-2] and own == x.ndim - 1:
        above = torch.ones(x.shape[-2:], dtype=torch.bool).triu(1)
        yield Variant(
            "",
            lambda c: function(c.x.masked_fill(above, -math.inf), own),
            "mask",
            "a causal mask before the softmax",
            "none",
        )
    for factor in (2.0, 0.5, 10.0, 0.1, math.sqrt(x.shape[own]), 1 / math.sqrt(x.shape[own])):
        yield Variant(
            f"softmax at temperature {number(1 / factor)}",
            lambda c, f=factor: function(c.x * f, own),
            "attention-scale",
        )
