"""Axes, orders, parts and masks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch

from netparity.diagnosis.variants import dense
from netparity.diagnosis.variants.variant import Variant, Variants, gone
from netparity.watching import Call

_MOVES = {
    "transpose": "a transposition", "permute": "a permutation of axes", "movedim": "a permutation of axes",
    "flip": "a reversal", "roll": "a shift", "channel_shuffle": "a shuffle of channels", "mT": "a transposition",
}  # fmt: skip


def move(call: Call) -> Variants:
    """An order of axes or entries that is not there, or another one."""
    x, out = call.x, call.plain()
    said = _MOVES[call.name]
    if out.shape == x.shape:
        yield gone(said, "")
    else:  # the numbers as they lie, read in the shape that is wanted
        yield Variant(f"a new shape for {said}", lambda c: c.x.contiguous().reshape(c.plain().shape), "head-order")
    for a, b in itertools.combinations(range(1, out.ndim), 2):
        if out.shape[a] == out.shape[b]:
            yield Variant(f"axes {a} and {b} exchanged after {said}", lambda c, a=a, b=b: c.plain().transpose(a, b), "")
    if call.name == "roll":
        yield Variant("a shift the other way", lambda c: _rolled_back(c), "")


def _rolled_back(call: Call) -> torch.Tensor:
    shifts = call["shifts"]
    other = tuple(-s for s in shifts) if isinstance(shifts, tuple | list) else -shifts
    dims = call["dims"]
    return torch.roll(call.x, other, dims) if dims is not None else torch.roll(call.x, other)


def reshaped(call: Call) -> Variants:
    """Other orders in which axes are joined or split."""
    x, out = call.x, call.plain()
    if not isinstance(out, torch.Tensor):
        return
    yield from dense.flatten(call)
    split = _split(x.shape, out.shape)
    if split is not None:
        axis, sizes = split

        def other(c: Call) -> torch.Tensor:
            order = (*sizes[1:], sizes[0])
            made = c.x.unflatten(axis, order)
            return made.movedim(axis + len(sizes) - 1, axis)

        said = " times ".join(map(str, sizes))
        yield Variant(f"{said} split in the other order (heads and depth)", other, "head-order")
        for first, second in itertools.combinations(range(len(sizes)), 2):
            order = list(range(len(sizes)))
            order[first], order[second] = order[second], order[first]

            def exchanged(c: Call, order: list[int] = order) -> torch.Tensor:
                made = c.x.unflatten(axis, [sizes[i] for i in order])
                places = [axis + order.index(i) for i in range(len(sizes))]
                return made.movedim(places, [axis + i for i in range(len(sizes))])

            yield Variant(f"{said} split in another order ({first} and {second} exchanged)", exchanged, "packed-order")
        for n in dense.divisors(x.shape[axis]) if len(sizes) == 2 else ():
            if n != sizes[0] and (n, x.shape[axis] // n) != sizes:
                # Split in n and joined again at once, whatever follows: as a shuffle by n groups has it.
                yield Variant(
                    "", lambda c, n=n: c.x.unflatten(axis, (n, -1)).transpose(axis, axis + 1).flatten(axis, axis + 1)
                    .unflatten(axis, (sizes[1], sizes[0])).transpose(axis, axis + 1),
                    "channel-shuffle", f"a shuffle by {n} groups", f"one by {sizes[0]}",
                )  # fmt: skip
    joined = _split(out.shape, x.shape)
    if joined is not None and x.ndim > 3:
        axis, sizes = joined
        yield Variant(
            f"{' times '.join(map(str, sizes))} joined in the other order",
            lambda c: c.x.movedim(axis, axis + len(sizes) - 1).reshape(c.plain().shape),
            "head-order",
        )
    if split is not None and x.ndim == 3 and out.ndim == 4 and len(split[1]) == 2:
        axis, sizes = split
        if axis == 2:  # [b, t, heads * depth]: read as [b, heads, t, depth] without a transposition
            yield Variant(
                "a new shape where the heads should be transposed",
                lambda c: c.x.reshape(c.x.shape[0], sizes[0], c.x.shape[1], sizes[1]).transpose(1, 2),
                "head-order",
            )


def _split(before: torch.Size, after: torch.Size) -> tuple[int, tuple[int, ...]] | None:
    """The one axis of ``before`` that is several in ``after``, and their sizes."""
    more = len(after) - len(before) + 1
    if more < 2:
        return None
    for axis in range(len(before)):
        parts = after[axis : axis + more]
        if (
            before[:axis] == after[:axis]
            and before[axis + 1 :] == after[axis + more :]
            and math.prod(parts) == before[axis]
        ):
            return axis, tuple(parts)
    return None


def parts(call: Call) -> Variants:
    """The parts of a split in another order, or taken in turns."""
    out = call.plain()
    if not isinstance(out, tuple | list) or not 2 <= len(out) <= 4 or len({x.shape for x in out}) > 1:
        return
    names = ("q, k, v" if len(out) == 3 else ", ".join(map(str, range(1, len(out) + 1)))).split(", ")
    for order in itertools.permutations(range(len(out))):
        if order != tuple(range(len(out))):
            yield Variant(
                "packed order", lambda c, o=order: tuple(c.plain()[i] for i in o), "packed-order",
                ", ".join(names[i] for i in order), ", ".join(names),
            )  # fmt: skip
    if call.name != "unbind":
        axis = int(call["dim"] or 0) % call.x.ndim
        n = len(out)

        def turns(c: Call) -> tuple[torch.Tensor, ...]:
            return tuple(c.x.unflatten(axis, (-1, n)).unbind(axis + 1))

        yield Variant("parts taken in turns, one by one (interleaved), not in blocks", turns, "rope")


def joined(call: Call) -> Variants:
    """What is joined, in another order or along another axis."""
    arrays = list(call.x)
    axis = int(call["dim"] or 0)
    stack = call.name == "stack"
    function: Callable[..., torch.Tensor] = torch.stack if stack else torch.cat
    if len(arrays) < 2:
        return
    yield Variant("what is joined, in the reverse order", lambda c: function(list(c.x)[::-1], axis), "concatenation")
    axes = arrays[0].ndim + stack
    for other in range(axes):
        if other != axis % axes:
            yield Variant(
                "joined along", lambda c, a=other: function(list(c.x), a), "concatenation",
                f"axis {other}", f"axis {axis % axes}",
            )  # fmt: skip
    if len({x.shape for x in arrays}) == 1:
        where = axis % arrays[0].ndim
        if not stack:
            yield Variant(
                "what is joined, interleaved one by one",
                lambda c: torch.stack(list(c.x), where + 1).flatten(where, where + 1),
                "rope",
            )
        yield Variant("what is joined, added", lambda c: _like(c, sum(list(c.x))), "concatenation")
    for i in range(len(arrays)):
        if len(arrays) == 2:
            yield Variant(
                f"the sign of the {('first', 'second')[i]} of what is joined changed",
                lambda c, i=i: function([-x if j == i else x for j, x in enumerate(c.x)], axis),
                "",
            )


def _like(call: Call, value: Any) -> torch.Tensor:
    return value


def indexed(call: Call) -> Variants:
    """Another entry of an axis."""
    x, index = call.args[0], call.args[1]
    where = index if isinstance(index, tuple) else (index,)
    if not isinstance(x, torch.Tensor) or any(isinstance(i, torch.Tensor | list | bool) or i is None for i in where):
        return
    places = [(axis, i) for axis, i in enumerate(where) if isinstance(i, int)]
    if Ellipsis in where or not places:
        yield from _halves(call, where)
        return
    for axis, i in places:
        n = x.shape[axis]
        for other, said in ((0, "the first"), (n - 1, "the last"), (1, "the second")):
            if other != i % n and other < n:
                changed = tuple(other if k == axis else value for k, value in enumerate(where))
                was = {0: "the first", n - 1: "the last"}.get(i % n, f"number {i % n}")
                yield Variant("", lambda c, w=changed: c.args[0][w], "class-token", f"{said} along axis {axis}", was)
        mean = tuple(slice(None) if k == axis else value for k, value in enumerate(where))
        gone = axis - sum(isinstance(value, int) for value in where[:axis])
        yield Variant(
            "",
            lambda c, w=mean, a=gone: c.args[0][w].mean(a),
            "class-token",
            f"the mean along axis {axis}",
            "one entry",
        )


def _halves(call: Call, where: tuple[Any, ...]) -> Variants:
    """A half of the last axis: every second entry, or the other way round."""
    x = call.args[0]
    last = where[-1]
    if not isinstance(last, slice) or x.ndim < 2:
        return
    n = x.shape[-1]
    start, stop, step = last.indices(n)
    if n % 2 == 0 and step == 1 and stop - start == n // 2 and start in (0, n // 2):
        first = int(start > 0)
        yield Variant("every second entry (interleaved), not a half", lambda c, f=first: c.args[0][..., f::2], "rope")
        yield Variant(
            "the other half",
            lambda c, s=start: c.args[0][..., n // 2 :] if s == 0 else c.args[0][..., : n // 2],
            "rope",
        )
    if n % 2 == 0 and step == 2 and start in (0, 1):
        yield Variant(
            "a half, not every second entry (interleaved)",
            lambda c, s=start: c.args[0][..., s * (n // 2) : (s + 1) * (n // 2)],
            "rope",
        )


def masked(call: Call) -> Variants:
    """Other masks, or other values under them."""
    mask = call["mask"]
    if not isinstance(mask, torch.Tensor):
        return

    def filled(c: Call, mask: torch.Tensor, value: float | None = None) -> torch.Tensor:
        return c.x.masked_fill(mask, c["value"] if value is None else value)

    yield gone("a mask", "mask")
    yield Variant("mask inverted", lambda c: filled(c, ~c["mask"]), "mask")
    if mask.ndim > 1 and mask.shape[-1] == mask.shape[-2]:
        yield Variant("mask transposed", lambda c: filled(c, c["mask"].transpose(-1, -2)), "mask")
        eye = torch.eye(mask.shape[-1], dtype=torch.bool)
        yield Variant("mask with its diagonal, too", lambda c: filled(c, c["mask"] | eye), "mask")
        yield Variant("mask without its diagonal", lambda c: filled(c, c["mask"] & ~eye), "mask")
        yield Variant("mask shifted by one", lambda c: filled(c, c["mask"] & ~eye.roll(1, -1)), "mask")
    own = call["value"]
    for value, said in ((0.0, "0"), (-1e9, "-1e9"), (-1e4, "-10000"), (1e-9, "1e-9"), (math.inf, "infinity")):
        if own != value:
            yield Variant("under the mask", lambda c, v=value: filled(c, c["mask"], v), "mask", said, f"{own}")


def triangle(call: Call) -> Variants:
    """The other triangle, or one shifted by one."""
    function = {"tril": torch.tril, "triu": torch.triu}
    other = "triu" if call.name == "tril" else "tril"
    k = int(call["diagonal"] or 0)
    yield Variant("the other triangle of a mask", lambda c: function[other](c.x, -k), "mask")
    for shift in (1, -1):
        yield Variant(
            "a mask's diagonal", lambda c, s=shift: function[c.name](c.x, k + s), "mask", f"{k + shift}", f"{k}"
        )
    yield Variant("a mask of ones alone", lambda c: torch.ones_like(c.x), "mask")
