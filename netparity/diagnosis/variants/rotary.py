"""Rotary positions (Su et al., "RoFormer", arXiv 2104.09864)."""

from __future__ import annotations

import torch

from netparity.diagnosis.variants.variant import Variant, Variants, number
from netparity.watching import Call

_BASES = (10_000.0, 500_000.0, 1_000_000.0, 100.0, 1_000.0)


def base(call: Call) -> Variants:
    """Other bases of the frequencies."""
    own = call["base"]
    if isinstance(own, float | int):
        for other in _BASES:
            if other != own:
                yield Variant("base", lambda c, b=other: b**c.x, "rope", number(other), number(own))


def sine(call: Call) -> Variants:
    """Angles of the other sign."""
    del call
    yield Variant("rotary positions turned backwards (the sine's sign)", lambda c: -torch.sin(c.x), "rope")


def left_out(call: Call) -> Variants:
    """Of a product of queries ``[b, head, time, depth]`` with keys ``[b, head, depth, time]``: both turned first."""
    q, k = call.args[:2]
    if q.ndim != 4 or k.shape != q.mT.shape or q.shape[-1] % 2:
        return
    for interleaved in (False, True):
        for rate in _BASES[:2]:

            def run(c: Call, interleaved: bool = interleaved, rate: float = rate) -> torch.Tensor:
                turned = [_turned(x, interleaved, rate) for x in (c.args[0], c.args[1].mT)]
                return torch.matmul(turned[0], turned[1].mT)

            said = f"rotary positions of {'neighbours' if interleaved else 'halves'} (base {number(rate)})"
            yield Variant("", run, "rope", said, "nothing")


def _turned(x: torch.Tensor, interleaved: bool, rate: float) -> torch.Tensor:
    half = x.shape[-1] // 2
    rates = rate ** (-torch.arange(half, dtype=x.dtype) / half)
    angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * rates
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    parts = [a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()]
    return torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
