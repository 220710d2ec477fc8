"""Convolutions, transposed ones, and padding."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from netparity.diagnosis.variants.variant import Variant, Variants, number, per_axis, same, sizes
from netparity.watching import Call

_CONVOLUTIONS: dict[int, Callable[..., torch.Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., torch.Tensor]] = {
    1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d,
}  # fmt: skip
_Change = Callable[[torch.Tensor], torch.Tensor]
_FLIPPED = "kernel flipped (convolution for cross-correlation)"


def _conv(
    call: Call, weight: _Change | None = None, bias: float = 1.0, x: _Change | None = None, **changed: Any
) -> torch.Tensor:
    given = {name: call[name] for name in ("stride", "padding", "dilation", "groups") if call[name] is not None}
    w, b = call["weight"], call["bias"]
    images = call.x if x is None else x(call.x)
    w = w if weight is None else weight(w)
    return _CONVOLUTIONS[w.ndim - 2](images, w, None if b is None else bias * b, **{**given, **changed})


def convolution(call: Call) -> Variants:
    """Other ways to make a convolution."""
    weight, axes = call["weight"], call["weight"].ndim - 2
    stride = per_axis(call["stride"] or 1, axes)
    dilation = per_axis(call["dilation"] or 1, axes)
    padding = call["padding"] if call["padding"] is not None else 0
    groups = call["groups"] or 1
    yield from _kernels(axes)
    if call["bias"] is not None:
        yield Variant("bias left out", lambda c: _conv(c, bias=0.0), "bias")
        yield Variant("bias added twice", lambda c: _conv(c, bias=2.0), "bias")
    yield from _paddings(call, weight.shape[2:], stride, dilation, padding)
    for s in range(1, 5):
        if (s,) * axes != stride:
            yield Variant("stride", lambda c, s=s: _conv(c, stride=s), "stride", str(s), sizes(stride))
    for d in range(1, 5):
        if (d,) * axes != dilation:
            kept = tuple(d * (k - 1) // 2 for k in weight.shape[2:])
            said = "dilation", f"{d}, padded to the same size,", sizes(dilation)
            yield Variant(said[0], lambda c, d=d, p=kept: _conv(c, dilation=d, padding=p), "dilation", *said[1:])
            yield Variant(
                said[0], lambda c, d=d: _conv(c, dilation=d), "dilation", f"{d}, not padded more,", sizes(dilation)
            )
    yield from _groupings(weight, groups)
    yield Variant(
        "its first two filters swapped",
        lambda c: torch.cat([(y := _conv(c))[:, 1:2], y[:, :1], y[:, 2:]], 1),
        "channel-order",
    )
    yield Variant("no gradient to its input", lambda c: _conv(c, x=torch.Tensor.detach), "gradient-cut")
    yield Variant("no gradient to its kernel", lambda c: _conv(c, weight=torch.Tensor.detach), "gradient-cut")


def _kernels(axes: int) -> Variants:
    window = tuple(range(2, axes + 2))
    yield Variant(_FLIPPED, lambda c: _conv(c, weight=lambda w: w.flip(window)), "kernel-flip")
    if axes > 1:
        yield Variant(
            "kernel with height and width swapped",
            lambda c: _conv(c, weight=lambda w: w.transpose(-1, -2)),
            "kernel-layout",
        )
    yield Variant(
        "kernel with input and output channels swapped",
        lambda c: _conv(c, weight=lambda w: w.transpose(0, 1)),
        "kernel-layout",
    )


def _paddings(
    call: Call, window: torch.Size, stride: tuple[int, ...], dilation: tuple[int, ...], padding: Any
) -> Variants:
    axes, was = len(stride), sizes(padding)
    extents = [d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True)]
    own = [((e - 1) // 2, e // 2) for e in extents] if padding == "same" else [
        (p, p) for p in per_axis(0 if padding == "valid" else padding, axes)
    ]  # fmt: skip
    usual = list(same(call.x.shape[2:], extents, stride))
    if usual != own and any(low != high for low, high in usual):  # else it is a number like any other
        said = ", ".join(f"({low}, {high})" for low, high in dict.fromkeys(usual))
        yield Variant("padding", _padded(usual), "same-stride", f'"SAME", which is {said} here,', was)
    for p in range(max(extents) + 1):
        if own != [(p, p)] * axes:
            also = usual == [(p, p)] * axes and max(stride) > 1
            said, key = (f'{p}, which is what "SAME" gives here,', "same-stride") if also else (str(p), "padding")
            yield Variant("padding", _padded([(p, p)] * axes), key, said, was)
    total = [low + high for low, high in own]
    if any(total):
        yield Variant("padding all on the right and bottom", _padded([(0, t) for t in total]), "padding")
        yield Variant("padding all on the left and top", _padded([(t, 0) for t in total]), "padding")
        for axis in range(axes) if axes > 1 else ():
            for one, said in (((0, total[axis]), "behind"), ((total[axis], 0), "in front")):
                moved = [one if i == axis else p for i, p in enumerate(own)]
                yield Variant(f"padding of axis {axis} of the window all {said}", _padded(moved), "padding")
        for mode, said in (
            ("replicate", "the edge repeated"),
            ("reflect", "reflection"),
            ("circular", "wrapping round"),
        ):
            yield Variant("padding", _padded(own, mode), "padding", f"by {said}", "by zeros")


def _padded(pads: list[tuple[int, int]], mode: str = "constant") -> Callable[[Call], torch.Tensor]:
    flat = list(itertools.chain.from_iterable(reversed(pads)))
    return lambda c: _conv(c, x=lambda x: F.pad(x, flat, mode=mode), padding=0)


def _groupings(weight: torch.Tensor, groups: int) -> Variants:
    out, inside = weight.shape[:2]
    if groups == 1 and out % 2 == 0 and inside % 2 == 0:

        def halves(w: torch.Tensor) -> torch.Tensor:
            mask = torch.ones_like(w)
            half = w.shape[0] // 2, w.shape[1] // 2
            mask[: half[0], half[1] :] = mask[half[0] :, : half[1]] = 0
            return w * mask

        yield Variant("two groups for one", lambda c: _conv(c, weight=halves), "groups")
    each = out // groups
    if groups > 1 and each > 1:
        yield Variant(
            "output channels in the order of one from each group",
            lambda c: _conv(c).unflatten(1, (groups, each)).transpose(1, 2).flatten(1, 2),
            "groups",
        )
    if groups > 1 and inside > 1:
        yield Variant(
            "each group taking every so many channels, not those beside one another",
            lambda c: _conv(c, x=lambda x: x.unflatten(1, (inside, groups)).transpose(1, 2).flatten(1, 2)),
            "groups",
        )


def _transposed(
    call: Call,
    weight: _Change | None = None,
    crop: list[tuple[int, int]] | None = None,
    bias: bool = True,
    **changed: Any,
) -> torch.Tensor:
    names = ("stride", "padding", "output_padding", "groups", "dilation")
    given = {name: call[name] for name in names if call[name] is not None} | changed
    w = call["weight"] if weight is None else weight(call["weight"])
    out = _TRANSPOSED[w.ndim - 2](call.x, w, call["bias"] if bias else None, **given)
    if crop is None:
        return out
    for axis, (low, high) in enumerate(crop, start=2):
        out = out.narrow(axis, low, out.shape[axis] - low - high)
    return out


def transposed(call: Call) -> Variants:
    """Other ways to make a transposed convolution."""
    weight, axes = call["weight"], call["weight"].ndim - 2
    window, turned = tuple(range(2, axes + 2)), lambda w: w.flip(window)
    stride = per_axis(call["stride"] or 1, axes)
    padding, was = call["padding"] if call["padding"] is not None else 0, sizes(call["padding"] or 0)
    yield Variant(
        "kernel not flipped for the transposed convolution", lambda c: _transposed(c, turned), "conv-transpose"
    )
    if axes > 1:
        yield Variant(
            "kernel with height and width swapped",
            lambda c: _transposed(c, lambda w: w.transpose(-1, -2)),
            "kernel-layout",
        )
    yield Variant(
        "kernel with input and output channels swapped",
        lambda c: _transposed(c, lambda w: w.transpose(0, 1)),
        "kernel-layout",
    )
    if call["bias"] is not None:
        yield Variant("bias left out", lambda c: _transposed(c, bias=False), "bias")
    crops: list[tuple[str, list[tuple[int, int]]]] = []
    extra = [max(k - s, 0) for k, s in zip(weight.shape[2:], stride, strict=True)]
    crops.append(('"SAME", the larger part cut off in front,', [(e - e // 2, e // 2) for e in extra]))
    crops.append(('"SAME", the larger part cut off behind,', [(e // 2, e - e // 2) for e in extra]))
    for said, crop in crops:
        for flip in (None, turned):
            more = said if flip is None else f"{said} and kernel not flipped,"
            yield Variant(
                "padding",
                lambda c, crop=crop, flip=flip: _transposed(c, flip, crop, output_padding=0, padding=0),
                "conv-transpose", more, was,
            )  # fmt: skip
    for p in range(max(weight.shape[2:])):
        if per_axis(padding, axes) != (p,) * axes:
            yield Variant("padding", lambda c, p=p: _transposed(c, padding=p), "conv-transpose", str(p), was)
    for p in range(max(stride)):
        if per_axis(call["output_padding"] or 0, axes) != (p,) * axes:
            before = sizes(call["output_padding"] or 0)
            yield Variant(
                "output padding", lambda c, p=p: _transposed(c, output_padding=p), "conv-transpose", str(p), before
            )


def pad(call: Call) -> Variants:
    """Other ways to pad."""
    mode, value = call["mode"] or "constant", call["value"] or 0.0
    x, given = call.x, call["pad"]
    said_of = {"replicate": "the edge repeated", "reflect": "reflection", "circular": "wrapping round"}
    own = f"by {said_of.get(mode, number(value) if value else 'zeros')}"
    for other, said in said_of.items():
        if other != mode and x.ndim > len(given) // 2:
            yield Variant("padding", lambda c, m=other: F.pad(c.x, c["pad"], mode=m), "padding", f"by {said}", own)
    if mode != "constant" or value != 0:
        yield Variant("padding", lambda c: F.pad(c.x, c["pad"]), "padding", "by zeros", own)
    if len(given) == 4:
        yield Variant(
            "padding of height and width swapped",
            lambda c: F.pad(c.x, [*c["pad"][2:], *c["pad"][:2]], mode=mode),
            "padding",
        )
    flipped = [given[i ^ 1] for i in range(len(given))]
    if flipped != list(given):
        yield Variant("padding in front and behind exchanged", lambda c: F.pad(c.x, flipped, mode=mode), "padding")
