"""Dense layers, embeddings, and what is flattened for them."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from netparity.diagnosis.variants.variant import Variant, Variants, divisors, number, swapped
from netparity.watching import Call


def linear(call: Call) -> Variants:
    """Other ways to make a dense layer."""
    weight, bias = call["weight"], call["bias"]
    if weight.shape[0] == weight.shape[1]:
        yield Variant("kernel transposed", lambda c: F.linear(c.x, c["weight"].T, c["bias"]), "kernel-layout")
    if bias is not None:
        yield Variant("bias left out", lambda c: F.linear(c.x, c["weight"]), "bias")
        yield Variant("bias added twice", lambda c: F.linear(c.x, c["weight"], 2 * c["bias"]), "bias")
    yield from _orders(weight.shape[0])
    yield Variant(
        "its first two units swapped",
        lambda c: swapped(F.linear(c.x, c["weight"], c["bias"]).movedim(-1, 0)).movedim(0, -1),
        "channel-order",
    )
    yield Variant("no gradient to its input", lambda c: F.linear(c.x.detach(), c["weight"], c["bias"]), "gradient-cut")
    yield Variant("no gradient to its kernel", lambda c: F.linear(c.x, c["weight"].detach(), c["bias"]), "gradient-cut")


def _orders(out: int) -> Variants:
    """The units in another order: what is packed in thirds or by heads, packed otherwise."""
    if out % 3 == 0:
        third = out // 3
        for names, order in (("k, q, v", (1, 0, 2)), ("v, k, q", (2, 1, 0)), ("q, v, k", (0, 2, 1)),
                             ("k, v, q", (1, 2, 0)), ("v, q, k", (2, 0, 1))):  # fmt: skip
            rows = [i * third + j for i in order for j in range(third)]
            yield Variant(
                "packed order", lambda c, r=rows: F.linear(c.x, c["weight"], c["bias"])[..., r], "packed-order",
                names, "q, k, v",
            )  # fmt: skip
    for size in divisors(out):
        yield Variant(
            f"its units in the order of {out // size} times {size}, read the other way round",
            lambda c, s=size: (
                F.linear(c.x, c["weight"], c["bias"]).unflatten(-1, (-1, s)).transpose(-1, -2).flatten(-2)
            ),
            "head-order",
        )
    for parts in (2, 3, 4):
        for size in divisors(out // parts) if out % parts == 0 else ():
            yield Variant(
                f"its {parts} packed parts interleaved head by head ({size} units each)",
                lambda c, n=parts, s=size: F.linear(c.x, c["weight"], c["bias"])
                .unflatten(-1, (n, -1, s)).transpose(-2, -3).flatten(-3),
                "packed-order",
            )  # fmt: skip


def embedding(call: Call) -> Variants:
    """Other ways to look rows up."""
    width = call["weight"].shape[1]

    def looked(c: Call) -> torch.Tensor:
        return c.plain()

    yield Variant(
        f"embedding multiplied by the square root of its width, {number(math.sqrt(width))}",
        lambda c: looked(c) * math.sqrt(width),
        "embedding-scale",
    )
    yield Variant(
        "embedding divided by the square root of its width", lambda c: looked(c) / math.sqrt(width), "embedding-scale"
    )
    yield Variant("embeddings of norm one", lambda c: F.normalize(looked(c), dim=-1), "embedding-scale")
    if call["padding_idx"] is not None:
        row = call["padding_idx"]
        yield Variant("a gradient to the row of padding, too", lambda c: F.embedding(c.x, c["weight"]), "")
        yield Variant(
            "zeros for the row of padding",
            lambda c: looked(c) * (c.x != row)[..., None].to(c["weight"].dtype),
            "",
        )
    for shift in (1, -1):
        yield Variant(
            f"indices off by {shift:+d}",
            lambda c, k=shift: F.embedding((c.x + k) % c["weight"].shape[0], c["weight"]),
            "",
        )
    yield Variant(
        "positions from the first on for all",
        lambda c: F.embedding(torch.zeros_like(c.x), c["weight"]),
        "",
    )


def flatten(call: Call) -> Variants:
    """Other orders in which a map becomes a row."""
    x = call.x
    out = call.plain()
    if not isinstance(out, torch.Tensor) or out.ndim >= x.ndim or x.ndim < 3:
        return
    if x.ndim == 4 and out.ndim == 2:
        for said, order in (("height, width, channel", (0, 2, 3, 1)), ("channel, width, height", (0, 1, 3, 2)),
                            ("width, height, channel", (0, 3, 2, 1))):  # fmt: skip
            yield Variant(
                f"flatten order: {said}", lambda c, o=order: c.x.permute(o).reshape(c.plain().shape), "flatten-order"
            )
        _, c, h, w = x.shape
        yield Variant(
            "flatten order: kernel's rows not permuted",
            lambda call, s=(h, w, c): (
                call.x.reshape(call.x.shape[0], *s).permute(0, 3, 1, 2).reshape(call.plain().shape)
            ),
            "flatten-order",
        )
    elif x.ndim == 3 and out.ndim == 2:
        yield Variant(
            "flatten order: its two axes swapped",
            lambda c: c.x.transpose(1, 2).reshape(c.plain().shape),
            "flatten-order",
        )
