"""Attention, of PyTorch's two functions for it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from netparity.diagnosis.variants.variant import Variant, Variants, number
from netparity.watching import Call


@dataclasses.dataclass(frozen=True)
class _How:
    """What a product of queries, keys and values may be made like."""

    scale: float | None = None
    mask: Callable[[torch.Tensor], torch.Tensor] | None = None
    axis: int = -1
    causal: bool | None = None
    exchanged: bool = False


def _product(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, causal: bool, how: _How
) -> torch.Tensor:
    """Attention over ``[…, time, depth]``."""
    if how.exchanged:
        q, k = k, q
    scores = q @ k.transpose(-1, -2) * (how.scale if how.scale is not None else 1 / math.sqrt(q.shape[-1]))
    if how.causal if how.causal is not None else causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        mask = mask if how.mask is None else how.mask(mask)
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    elif how.mask is not None:
        raise ValueError("there is no mask")
    return scores.softmax(how.axis).nan_to_num(0.0) @ v


def _ways(depth: int, heads: int, masked: bool, causal: bool) -> list[tuple[str, str, str, str, _How]]:
    """What, key, now, was, and how."""
    own, found = 1 / math.sqrt(depth), []
    whole = depth * heads
    scales = {"1": 1.0, "1/depth": 1 / depth, "1/sqrt(heads * depth)": 1 / math.sqrt(whole)}
    scales |= {"1/sqrt(heads)": 1 / math.sqrt(heads), "sqrt(depth)": math.sqrt(depth), "1/depth**0.25": depth**-0.25}
    for said, scale in scales.items():
        if not math.isclose(scale, own):
            now = f"{said} = {number(scale)}" if said != "1" else "1 (none)"
            found.append(("attention's scale", "attention-scale", now, f"1/sqrt(depth) = {number(own)}", _How(scale)))
    found.append(("softmax over", "softmax-axis", "the queries", "the keys", _How(axis=-2)))
    if masked or causal:
        found.append(("attention's mask left out", "mask", "", "", _How(mask=torch.ones_like, causal=causal)))
        found.append(("attention's mask inverted", "mask", "", "", _How(mask=_inverted)))
        found.append(("attention's mask transposed", "mask", "", "", _How(mask=lambda m: m.transpose(-1, -2))))
        found.append(("attention's mask without its diagonal", "mask", "", "", _How(mask=_without_diagonal)))
    if not causal:
        found.append(("attention masked causally", "mask", "", "", _How(causal=True)))
    found.append(("queries and keys exchanged", "packed-order", "", "", _How(exchanged=True)))
    return found


def _inverted(mask: torch.Tensor) -> torch.Tensor:
    return ~mask if mask.dtype == torch.bool else -mask


def _without_diagonal(mask: torch.Tensor) -> torch.Tensor:
    if mask.dtype != torch.bool:
        raise ValueError("not a mask of booleans")
    return mask & ~torch.eye(mask.shape[-2], mask.shape[-1], dtype=torch.bool)


def scaled_dot_product_attention(call: Call) -> Variants:
    """Other ways to attend, over ``[batch, head, time, depth]``."""
    query = call["query"]
    heads = query.shape[1] if query.ndim == 4 else 1
    scale = call["scale"]
    masked, causal = call["attn_mask"] is not None, bool(call["is_causal"])

    def attended(c: Call, how: _How, order: str = "qkv") -> torch.Tensor:
        named = {"q": c["query"], "k": c["key"], "v": c["value"]}
        if how.scale is None and scale is not None:
            how = dataclasses.replace(how, scale=scale)
        q, k, v = (named[name] for name in order)
        return _product(q, k, v, c["attn_mask"], causal, how)

    for what, key, now, was, how in _ways(query.shape[-1], heads, masked, causal):
        if scale is not None and what == "attention's scale":
            was = number(scale)
        yield Variant(what, lambda c, h=how: attended(c, h), key, now, was)
    for order in _orders(query.shape == call["key"].shape == call["value"].shape):
        said = ", ".join(order)
        yield Variant("packed order", lambda c, o=order: attended(c, _How(), o), "packed-order", said, "q, k, v")
    if query.ndim == 4:
        yield Variant("attention over the heads, not over time", lambda c: _over_heads(c, attended), "head-order")
        if query.shape == call["key"].shape:
            yield Variant("attention over the batch, not over time", lambda c: _over_batch(c, attended), "batch-first")
        yield Variant(
            "heads and depth in the other order",
            lambda c: _regrouped(attended(_changed(c, _regrouped), _How())),
            "head-order",
        )


def _orders(same: bool) -> list[str]:
    return ["kqv", "vkq", "qvk", "kvq", "vqk"] if same else []


def _changed(call: Call, change: Callable[[torch.Tensor], torch.Tensor]) -> Call:
    """The call with changed queries, keys and values."""
    given = call.bound
    names = ("query", "key", "value")
    rest = {name: value for name, value in given.items() if name not in names}
    return dataclasses.replace(call, args=tuple(change(given[name]) for name in names), kwargs=rest)


def _regrouped(x: torch.Tensor) -> torch.Tensor:
    """``[b, heads, t, depth]`` with features that were split as ``[depth, heads]``."""
    joined = x.transpose(1, 2).flatten(2)
    return joined.unflatten(2, (x.shape[3], x.shape[1])).permute(0, 3, 1, 2)


def _over_heads(call: Call, attended: Callable[[Call, _How], torch.Tensor]) -> torch.Tensor:
    return attended(_changed(call, lambda x: x.transpose(1, 2)), _How()).transpose(1, 2)


def _over_batch(call: Call, attended: Callable[[Call, _How], torch.Tensor]) -> torch.Tensor:
    return attended(_changed(call, lambda x: x.transpose(0, 2)), _How()).transpose(0, 2)


def multi_head(call: Call) -> Variants:
    """Other ways to make a whole attention layer, over ``[time, batch, feature]``."""
    width, heads = call["query"].shape[-1], call["num_heads"]
    depth = width // heads
    mask = call["attn_mask"]

    def layer(
        c: Call,
        how: _How = _How(),
        order: str = "qkv",
        split: Callable[[torch.Tensor], torch.Tensor] | None = None,
        join: Callable[[torch.Tensor], torch.Tensor] | None = None,
        weights: Callable[[torch.Tensor], torch.Tensor] = lambda w: w,
        biases: tuple[bool, bool] = (True, True),
        kernels: str = "qkv",
    ) -> Any:
        separate = c["use_separate_proj_weight"]
        matrices = [c[f"{n}_proj_weight"] for n in "qkv"] if separate else list(weights(c["in_proj_weight"]).chunk(3))
        packed = c["in_proj_bias"] if biases[0] else None
        matrices = [matrices["qkv".index(name)] for name in kernels]
        vectors = [None] * 3 if packed is None else list(weights(packed).chunk(3))
        given = [c["query"], c["key"], c["value"]]
        made = dict(zip("qkv", map(F.linear, given, matrices, vectors), strict=True))
        usual = split or (lambda x: x.unflatten(-1, (heads, depth)).permute(1, 2, 0, 3))
        q, k, v = (usual(made[name]) for name in order)
        if c["key_padding_mask"] is not None:
            raise ValueError("masks of padding are not followed")
        allowed = None if mask is None else ~mask if mask.dtype == torch.bool else mask
        found = _product(q, k, v, allowed, False, how)
        joined = (join or (lambda y: y.permute(2, 0, 1, 3).flatten(2)))(found)
        out = F.linear(joined, c["out_proj_weight"], c["out_proj_bias"] if biases[1] else None)
        return out, None

    for what, key, now, was, how in _ways(depth, heads, mask is not None, False):
        yield Variant(what, lambda c, h=how: layer(c, h), key, now, was)
    if call["query"].shape == call["key"].shape:
        yield Variant("attention over the batch, not over time", lambda c: _batched(c, layer), "batch-first")
    if call["in_proj_weight"] is not None:
        for order in _orders(True):
            said = ", ".join(order)
            yield Variant("packed order", lambda c, o=order: layer(c, order=o), "packed-order", said, "q, k, v")
            yield Variant(
                "packed order of the kernels alone",
                lambda c, o=order: layer(c, kernels=o),
                "packed-order",
                said,
                "q, k, v",
            )
        yield Variant(
            "its packed parts interleaved head by head",
            lambda c: layer(c, weights=lambda w: w.unflatten(0, (heads, 3, depth)).transpose(0, 1).flatten(0, 2)),
            "packed-order",
        )

    def turned(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (depth, heads)).permute(1, 3, 0, 2)

    yield Variant("heads and depth in the other order", lambda c: layer(
        c, split=turned, join=lambda y: y.permute(2, 0, 3, 1).flatten(2)), "head-order")  # fmt: skip
    yield Variant(
        "heads and depth in the other order where they are split", lambda c: layer(c, split=turned), "head-order"
    )
    yield Variant(
        "heads and depth in the other order where they are joined",
        lambda c: layer(c, join=lambda y: y.permute(2, 0, 3, 1).flatten(2)),
        "head-order",
    )
    for other in range(1, width + 1):
        if width % other == 0 and other != heads:

            def few(x: torch.Tensor, n: int = other) -> torch.Tensor:
                return x.unflatten(-1, (n, width // n)).permute(1, 2, 0, 3)

            yield Variant("", lambda c, f=few: layer(c, split=f), "head-order", f"{other} heads", str(heads))
    if call["in_proj_bias"] is not None:
        yield Variant("bias of queries, keys and values left out", lambda c: layer(c, biases=(False, True)), "bias")
    if call["out_proj_bias"] is not None:
        yield Variant("bias of the output left out", lambda c: layer(c, biases=(True, False)), "bias")
    if call["in_proj_bias"] is not None and call["out_proj_bias"] is not None:
        yield Variant("every bias left out", lambda c: layer(c, biases=(False, False)), "bias")


def _batched(call: Call, layer: Callable[[Call], Any]) -> Any:
    names = ("query", "key", "value")
    given = call.bound
    rest = {name: value for name, value in given.items() if name not in names}
    turned = tuple(given[name].transpose(0, 1) for name in names)
    out, weights = layer(dataclasses.replace(call, args=turned, kwargs=rest))
    return out.transpose(0, 1), weights
