"""Sums, factors, constants and matrix products between layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from netparity.diagnosis.variants import rotary
from netparity.diagnosis.variants.variant import EPSILONS, Variant, Variants, gone, number
from netparity.watching import Call

_SMALL = 0.02  # a constant below it that is added is taken for an epsilon


def addition(call: Call) -> Variants:
    """Other ways to add two things."""
    a, b = call.args[:2]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        large = torch.broadcast_shapes(a.shape, b.shape)
        for place in (0, 1):
            kept = call.args[place]
            if kept.shape == large:
                what = "skip" if a.shape == b.shape else "position-embedding"
                said = (
                    "a skip connection (the sum with another stage)" if what == "skip" else "a sum with another array"
                )
                yield gone(said, what, lambda c, i=place: c.args[i] * 1)
        yield Variant("the second summand subtracted", lambda c: c.args[0] - c.args[1], "")
        yield Variant("the first summand subtracted", lambda c: c.args[1] - c.args[0], "")
        yield Variant("what is added, doubled", lambda c: c.args[0] + 2 * c.args[1], "layer-scale")
        yield Variant("the product for the sum", lambda c: c.args[0] * c.args[1], "")
        yield Variant("half of the sum", lambda c: (c.args[0] + c.args[1]) / 2, "layer-scale")
        return
    constant, place = (b, 1) if isinstance(b, float | int) else (a, 0)
    if isinstance(constant, float | int) and abs(constant) < _SMALL:
        for eps in EPSILONS:
            if eps != constant:
                yield Variant(
                    "epsilon", lambda c, e=eps: c.args[1 - place] + e, "norm-epsilon", number(eps), number(constant)
                )
    else:
        yield gone(f"{number(constant)} added", "position-embedding", lambda c: c.args[1 - place] * 1)


def subtraction(call: Call) -> Variants:
    """Other ways to subtract."""
    yield Variant("a sum for a difference", lambda c: c.args[0] + c.args[1], "")
    yield gone("a subtraction", "position-embedding", lambda c: c.args[0] * 1)
    yield Variant("a difference the other way round", lambda c: c.args[1] - c.args[0], "")


def product(call: Call) -> Variants:
    """Other factors of a product, or divisors of a quotient."""
    divides = call.name == "div"
    for place in (0, 1) if not divides else (0,):
        if isinstance(call.args[place], torch.Tensor):
            other = call.args[1 - place]
            said = "a division by" if divides else "a product with"
            said += f" {number(other)}" if isinstance(other, float | int) else " another array"
            yield gone(said, _key(other), lambda c, i=place: c.args[i] * 1)
    a, b = call.args[:2]
    constant = next((x for x in (b, a) if isinstance(x, float | int)), None)
    x = a if isinstance(a, torch.Tensor) else b
    if constant:
        own = 1 / constant if divides else float(constant)
        for said, factor in _factors(x, own):
            yield Variant(
                "factor", lambda c, f=factor: (c.args[0] if isinstance(c.args[0], torch.Tensor) else c.args[1]) * f,
                _key(constant), said, number(own),
            )  # fmt: skip
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and not divides:
        yield Variant("1 added to the factor", lambda c: c.args[0] * (1 + c.args[1]), "layer-scale")
        yield Variant("the sum for the product", lambda c: c.args[0] + c.args[1], "")
    elif divides:
        yield Variant("the product for the quotient", lambda c: c.args[0] * c.args[1], "layer-scale")


def _key(constant: Any) -> str:
    return "attention-scale" if isinstance(constant, float | int) else "layer-scale"


def _factors(x: torch.Tensor, own: float) -> list[tuple[str, float]]:
    """Factors that are taken for others, of an array whose last axis may be features or positions."""
    found: dict[str, float] = {"1": 1.0, "2": 2.0, "1/2": 0.5, f"{number(own)} squared": own * own,
                               f"the root of {number(own)}": math.copysign(abs(own) ** 0.5, own),
                               f"1/{number(own)}": 1 / own, f"-{number(own)}": -own}  # fmt: skip
    for n in dict.fromkeys(reversed(x.shape[1:])):
        found |= {f"1/sqrt({n})": n**-0.5, f"1/{n}": 1 / n, f"sqrt({n})": n**0.5, f"{n}": float(n)}
    return [(said, factor) for said, factor in found.items() if not math.isclose(factor, own)]


def power(call: Call) -> Variants:
    """Other exponents."""
    names: dict[str, float] = {"square": 2.0, "sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0}
    own = names.get(call.name)
    if own is None and len(call.args) > 1 and isinstance(call.args[1], float | int):
        own = float(call.args[1])
    for exponent in (1.0, 2.0, 0.5, -0.5, -1.0, 3.0, 0.75):
        if exponent != own:
            was = "another" if own is None else number(own)
            yield Variant("exponent", lambda c, e=exponent: c.x**e, "layer-scale", number(exponent), was)


def matrix_product(call: Call) -> Variants:
    """Other ways to multiply matrices."""
    a, b = call.args[:2]

    def turned(place: int) -> Callable[[Call], torch.Tensor]:
        def run(c: Call) -> torch.Tensor:
            both = [c.args[0], c.args[1]]
            both[place] = both[place].transpose(-1, -2)
            return torch.matmul(*both)

        return run

    yield from rotary.left_out(call)
    if a.ndim > 1 and b.ndim > 1:
        yield Variant("the first matrix transposed", turned(0), "kernel-layout")
        yield Variant("the second matrix transposed", turned(1), "kernel-layout")
        if a.ndim == b.ndim:
            yield Variant(
                "the product transposed",
                lambda c: torch.matmul(c.args[0], c.args[1]).transpose(-1, -2),
                "kernel-layout",
            )
            yield Variant(
                "the factors of the product exchanged", lambda c: torch.matmul(c.args[1], c.args[0]), "packed-order"
            )
    for n in dict.fromkeys((a.shape[-1], *b.shape[-1:], *a.shape[1:-1])):
        for said, factor in ((f"1/sqrt({n})", n**-0.5), (f"1/{n}", 1 / n), (f"sqrt({n})", n**0.5)):
            yield Variant(
                "a product multiplied by",
                lambda c, f=factor: torch.matmul(c.args[0], c.args[1]) * f,
                "attention-scale",
                f"{said} = {number(factor)}",
                "1",
            )


def negation(call: Call) -> Variants:
    """A sign that is not there."""
    yield gone("a change of sign", "")
