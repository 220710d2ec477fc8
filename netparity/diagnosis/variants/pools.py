"""Poolings, means, and resizing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from netparity.diagnosis.variants.variant import Variant, Variants, per_axis, same, sizes
from netparity.watching import Call

_MAX: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Callable[..., Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def max_pool(call: Call) -> Variants:
    """Other ways to take the largest of each window."""
    axes, window, stride, padding = _geometry(call)
    up = bool(call["ceil_mode"])
    own = {"kernel_size": window, "stride": stride, "padding": padding, "ceil_mode": up}
    pool = _MAX[axes]
    yield from _geometries("max-pooling", pool, own, axes)
    usual = same(call.x.shape[2:], window, stride)
    if usual != tuple((p, p) for p in padding) and any(low != high for low, high in usual):
        around = list(itertools.chain.from_iterable(reversed(usual)))
        said = f'"SAME", which is {", ".join(map(str, dict.fromkeys(usual)))} here,'
        yield Variant(
            "padding",
            lambda c: pool(F.pad(c.x, around, value=-math.inf), window, stride),
            "same-stride",
            said,
            sizes(padding),
        )
    yield Variant("", _average(axes, window, stride, padding, up), "pooling", "average-pooling", "max-pooling")
    if any(padding):
        flat = [p for p in reversed(padding) for _ in range(2)]
        yield Variant(
            "max-pooling padded with zeros, not with minus infinity",
            lambda c: pool(F.pad(c.x, flat), window, stride, 0, ceil_mode=up),
            "pooling",
        )
    elif axes == 2 and not up:
        size, step = window[0], stride[0]
        if len({*window}) == len({*stride}) == 1:
            yield Variant(
                "max-pooling's gradient shared among ties",
                lambda c: _windows(c.x, size, step).amax((-2, -1)),
                "pooling-ties",
            )
            yield Variant(
                "max-pooling's gradient to the last of the ties",
                lambda c: _last(_windows(c.x, size, step).flatten(4).flip(-1)),
                "pooling-ties",
            )
            yield Variant(
                "max-pooling padded by 1 with zeros",
                lambda c: pool(F.pad(c.x, (1,) * 4), size, step),
                "pooling",
            )


def avg_pool(call: Call) -> Variants:
    """Other ways to average each window."""
    axes, window, stride, padding = _geometry(call)
    up, counted = bool(call["ceil_mode"]), call["count_include_pad"] is not False
    own = {"kernel_size": window, "stride": stride, "padding": padding, "ceil_mode": up, "count_include_pad": counted}
    pool = _AVERAGE[axes]
    if any(padding) or up:
        yield Variant(
            "the padding", lambda c: pool(c.x, **{**own, "count_include_pad": not counted}), "avg-pool-padding",
            "left out of the average" if counted else "counted in the average",
            "it counted (count_include_pad=True)" if counted else "it left out (count_include_pad=False)",
        )  # fmt: skip
    yield from _geometries("average-pooling", pool, own, axes)
    usual = same(call.x.shape[2:], window, stride)
    if usual != tuple((p, p) for p in padding):
        flat = list(itertools.chain.from_iterable(reversed(usual)))
        for include in (True, False):
            said = f'"SAME", {"counted" if include else "not counted"} in the average,'

            def padded(c: Call, include: bool = include) -> torch.Tensor:
                total = pool(F.pad(c.x, flat), window, stride)
                share = pool(F.pad(torch.ones_like(c.x), flat), window, stride)
                return total if include else total / share

            yield Variant("padding", padded, "same-stride", said, sizes(padding))
    yield Variant(
        "maximum for average in pooling",
        lambda c: _MAX[axes](c.x, window, stride, padding, ceil_mode=up),
        "pooling",
    )
    volume = 1
    for k in window:
        volume *= k
    yield Variant("", lambda c: pool(c.x, **own) * volume, "pooling", "sums in pooling", "averages")


def _geometry(call: Call) -> tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    axes = int(call.name[-2])
    window = per_axis(call["kernel_size"], axes)
    stride = per_axis(call["stride"], axes) if call["stride"] not in (None, (), []) else window
    return axes, window, stride, per_axis(call["padding"] or 0, axes)


def _geometries(name: str, pool: Callable[..., Any], own: dict[str, Any], axes: int) -> Variants:
    up = own["ceil_mode"]
    yield Variant(
        f"{name}'s size rounded", lambda c: pool(c.x, **{**own, "ceil_mode": not up}), "ceil-mode",
        "down" if up else "up (ceil_mode)", "up (ceil_mode)" if up else "down",
    )  # fmt: skip
    ranges = {"padding": range(4), "stride": range(1, 5), "kernel_size": range(1, 8)}
    said = {"padding": "padding", "stride": "stride", "kernel_size": "window"}
    for argument, values in ranges.items():
        for value in values:
            if own[argument] != (value,) * axes:
                yield Variant(
                    f"{name} with {said[argument]}",
                    lambda c, a=argument, v=value: pool(c.x, **{**own, a: v}),
                    {"padding": "padding", "stride": "stride", "kernel_size": "pooling"}[argument],
                    str(value), sizes(own[argument]),
                )  # fmt: skip
    for k, s, p in itertools.product(range(2, 5), range(1, 4), range(2)):
        if (k,) * axes != own["kernel_size"] and (s,) * axes != own["stride"]:
            yield Variant(
                "", lambda c, g=(k, s, p): pool(c.x, **{**own, "kernel_size": g[0], "stride": g[1], "padding": g[2]}),
                "pooling", f"{name} {k}/{s} with padding {p}",
                f"{sizes(own['kernel_size'])}/{sizes(own['stride'])} with padding {sizes(own['padding'])}",
            )  # fmt: skip


def _average(axes: int, window: Any, stride: Any, padding: Any, up: bool) -> Callable[[Call], torch.Tensor]:
    return lambda c: _AVERAGE[axes](c.x, window, stride, padding, up)


def _windows(x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    return x.unfold(2, size, stride).unfold(3, size, stride)


def _last(windows: torch.Tensor) -> torch.Tensor:
    return windows.gather(-1, windows.max(-1, keepdim=True).indices)[..., 0]


def adaptive_pool(call: Call) -> Variants:
    """Other ways to pool to a size."""
    axes = tuple(range(2, call.x.ndim))
    out = call.plain()
    for axis in axes:
        yield Variant(
            "", lambda c, a=axis: c.x.mean(a, keepdim=True), "global-average", f"the average over axis {axis} alone",
            f"that over {list(axes)}",
        )  # fmt: skip
    if any(n > 1 for n in out.shape[2:]):
        yield Variant(
            "", lambda c: c.x.mean(axes, keepdim=True).expand(out.shape), "pooling", "one global average",
            f"a grid of averages {tuple(out.shape[2:])}",
        )  # fmt: skip
    if all(n == 1 for n in out.shape[2:]):
        yield Variant("", lambda c: c.x.amax(axes, keepdim=True), "pooling", "global max-pooling", "average-pooling")
        yield Variant("", lambda c: c.x.sum(axes, keepdim=True), "pooling", "a global sum", "average-pooling")
        for axis in axes:
            for place, said in ((0, "first"), (-1, "last")):
                rest = [a for a in axes if a != axis]

                def one(c: Call, axis: int = axis, place: int = place, rest: Sequence[int] = rest) -> torch.Tensor:
                    taken = c.x.select(axis, place).unsqueeze(axis)
                    return taken.mean(list(rest), keepdim=True) if rest else taken

                yield Variant(f"only the {said} of axis {axis} in global pooling", one, "pooling")


def reduction(call: Call) -> Variants:
    """Other ways to sum or average over axes."""
    x, keep = call.x, bool(call["keepdim"])
    given = call["dim"]
    own = [axis % x.ndim for axis in ([given] if isinstance(given, int) else given or range(x.ndim))]
    functions: dict[str, Callable[..., Any]] = {"mean": torch.mean, "sum": torch.sum, "amax": torch.amax}
    for name, function in functions.items():
        if name != call.name:
            yield Variant(
                "", lambda c, f=function: f(c.x, own, keepdim=keep), "pooling",
                {"mean": "mean", "sum": "sum", "amax": "maximum"}[name],
                {"mean": "mean", "sum": "sum", "amax": "maximum"}[call.name] + f" over axes {own}",
            )  # fmt: skip
    function = functions[call.name]
    for axes in itertools.combinations(range(x.ndim), len(own)):
        if list(axes) != sorted(own):
            yield Variant(
                call.name, lambda c, a=axes: function(c.x, list(a), keepdim=keep), "global-average",
                f"over axes {list(axes)}", f"over axes {own}",
            )  # fmt: skip
    if len(own) == 1:
        for place, said in ((0, "first"), (-1, "last")):

            def taken(c: Call, place: int = place) -> torch.Tensor:
                one = c.x.select(own[0], place)
                return one.unsqueeze(own[0]) if keep else one

            yield Variant("", taken, "pooling", f"the {said} along axis {own[0]}", f"the {call.name} along it")
        if own[0] and x.shape[own[0]] > 1:
            yield Variant(
                "", lambda c: function(c.x.narrow(own[0], 1, c.x.shape[own[0]] - 1), own, keepdim=keep), "pooling",
                f"the {call.name} of all but the first along axis {own[0]}", "that of all",
            )  # fmt: skip


_RESIZED = ("bilinear", "nearest", "nearest-exact", "bicubic", "area")


def interpolate(call: Call) -> Variants:
    """Other ways to resize."""
    size = call.plain().shape[2:]
    own = call["mode"] or "nearest", bool(call["align_corners"]), bool(call["antialias"])
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    modes = [linear if mode == "bilinear" else mode for mode in _RESIZED if mode != "bicubic" or len(size) == 2]
    smooth = ("linear", "bilinear", "trilinear", "bicubic")
    for mode in modes:
        for align in (False, True) if mode in smooth else (False,):
            for anti in (False, True) if mode in ("bilinear", "bicubic") and not align else (False,):
                if (mode, align, anti) == own:
                    continue

                def resized(c: Call, mode: str = mode, align: bool = align, anti: bool = anti) -> torch.Tensor:
                    corners = align if mode in smooth else None
                    return F.interpolate(c.x, size, mode=mode, align_corners=corners, antialias=anti)

                yield Variant("resizing", resized, "resize", _told(mode, align, anti), _told(*own))
    cubic = "bicubic with a = -0.5 (Keys)"
    if len(size) == 2:
        yield Variant("resizing", lambda c: _keys(c.x, size), "resize", cubic, _told(*own))
    yield Variant(
        "resizing", lambda c: _unshifted(c.x, size), "resize", f"{linear} without half-pixel centres", _told(*own)
    )
    yield Variant(
        "height and width of the size swapped",
        lambda c: F.interpolate(c.x, size[::-1], mode=own[0], align_corners=own[1] if own[0] in smooth else None),
        "resize",
    )


def _told(mode: str, align: bool, anti: bool) -> str:
    more = ", corners aligned" if align else ", half-pixel centres" if mode not in ("nearest", "area") else ""
    return f"{mode}{more}{', antialiased' if anti else ''}"


def _weights(n: int, out: int, kernel: Callable[[torch.Tensor], torch.Tensor], shift: float, like: torch.Tensor) -> Any:
    places = (torch.arange(out, dtype=like.dtype) + shift) * (n / out) - shift
    distance = places[:, None] - torch.arange(n, dtype=like.dtype)[None]
    weights = kernel(distance.abs())
    return weights / weights.sum(1, keepdim=True)


def _separable(
    x: torch.Tensor, size: Sequence[int], kernel: Callable[[torch.Tensor], torch.Tensor], shift: float
) -> Any:
    for axis, out in enumerate(size, start=2):
        weights = _weights(x.shape[axis], out, kernel, shift, x)
        x = torch.tensordot(x, weights, ([axis], [1])).movedim(-1, axis)
    return x


def _keys(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Cubic interpolation as Keys (1981) has it, which `jax.image.resize` takes; PyTorch's a is -0.75."""

    def kernel(d: torch.Tensor) -> torch.Tensor:
        near = (1.5 * d - 2.5) * d * d + 1
        far = ((-0.5 * d + 2.5) * d - 4) * d + 2
        return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))

    return _separable(x, size, kernel, 0.5)


def _unshifted(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Linear interpolation whose first places lie upon one another."""
    return _separable(x, size, lambda d: (1 - d).clamp(min=0), 0.0)
