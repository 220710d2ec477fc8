"""How a stage's array lies on the PyTorch side; on the JAX side it lies in the common layout.

PyTorch puts channels before what they extend over (``[b, c, h, w]``), JAX behind it (``[b, h, w, c]``). What is
flattened from such a map keeps that order: its values are the same ones in another order. An attention map
``[b, head, query, key]`` or a sequence ``[b, time, feature]`` lies the same way on both sides.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class AsIs:
    """The same on both sides."""

    def to_torch(self, array: Any) -> Any:
        return array

    def to_common(self, array: Any) -> Any:
        return array


@dataclasses.dataclass(frozen=True)
class ChannelsFirst:
    """PyTorch's ``[b, c, …]`` is JAX's ``[b, …, c]``."""

    def to_torch(self, array: Any) -> Any:
        return array.transpose(0, array.ndim - 1, *range(1, array.ndim - 1))

    def to_common(self, array: Any) -> Any:
        return array.transpose(0, *range(2, array.ndim), 1)


@dataclasses.dataclass(frozen=True)
class Flattened:
    """``[b, h * w * c]`` on both sides, flattened channel by channel in PyTorch and row by row in JAX.

    Attributes:
      map: ``(height, width, channels)`` of what was flattened.
    """

    map: tuple[int, int, int]

    def to_torch(self, array: Any) -> Any:
        h, w, c = self.map
        return array.reshape(-1, h, w, c).transpose(0, 3, 1, 2).reshape(-1, h * w * c)

    def to_common(self, array: Any) -> Any:
        h, w, c = self.map
        return array.reshape(-1, c, h, w).transpose(0, 2, 3, 1).reshape(-1, h * w * c)


@dataclasses.dataclass(frozen=True)
class Regrouped:
    """The same numbers in the same order; axes of length 1 are left out, or the last ones joined, on one side.

    Attributes:
      jax, torch: the shapes behind the batch.
    """

    jax: Shape
    torch: Shape

    def to_torch(self, array: Any) -> Any:
        return array.reshape(array.shape[0], *self.torch)

    def to_common(self, array: Any) -> Any:
        return array.reshape(array.shape[0], *self.jax)


Layout = AsIs | ChannelsFirst | Flattened | Regrouped
AS_IS, CHANNELS_FIRST = AsIs(), ChannelsFirst()


def usual(ndim: int) -> Layout:
    """What is taken where nothing is stated and no shape tells: four axes are a feature map."""
    return CHANNELS_FIRST if ndim == 4 else AS_IS


def turned(shape: Shape) -> Shape:
    """PyTorch's shape of a map in JAX's.

    >>> turned((2, 12, 16, 3))
    (2, 3, 12, 16)
    """
    return (shape[0], shape[-1], *shape[1:-1]) if len(shape) > 2 else shape


def by_shape(jax: Shape, torch: Shape) -> Layout:
    """The layout under which two shapes are one; the usual one where both or neither of two fit.

    >>> by_shape((2, 12, 16, 3), (2, 3, 12, 16)), by_shape((2, 4, 7, 7), (2, 4, 7, 7))
    (ChannelsFirst(), AsIs())
    >>> by_shape((2, 7), (2, 7, 1, 1))
    Regrouped(jax=(7,), torch=(7, 1, 1))
    """
    if len(torch) != len(jax) and _regroups(jax, torch):
        return Regrouped(jax[1:], torch[1:])
    if len(torch) != len(jax) or (torch == jax and torch != turned(jax)):
        return AS_IS
    if torch == turned(jax) and torch != jax:
        return CHANNELS_FIRST
    return usual(len(jax))


def _regroups(jax: Shape, torch: Shape) -> bool:
    if not jax or not torch or jax[0] != torch[0]:
        return False
    if [n for n in jax[1:] if n != 1] == [n for n in torch[1:] if n != 1]:
        return True
    short, long = sorted((jax, torch), key=len)
    joined = len(short) > 2 and short[:-1] == long[: len(short) - 1]  # [b, t, heads * depth] and [b, t, heads, depth]
    return joined and short[-1] == math.prod(long[len(short) - 1 :])


def infer(jax: Mapping[str, Shape], torch: Mapping[str, Shape], flattened: Iterable[Shape]) -> dict[str, Layout]:
    """The layout of every stage, from the shapes on both sides.

    Args:
      jax, torch: shapes by stage, in the order of the network; PyTorch's may end early.
      flattened: ``(height, width, channels)`` of the maps that the table says are flattened.

    >>> found = infer({"pool": (2, 3, 4, 5), "drop": (2, 60)}, {"pool": (2, 5, 3, 4), "drop": (2, 60)}, [(3, 4, 5)])
    >>> found["drop"]
    Flattened(map=(3, 4, 5))
    """
    maps = set(flattened)
    found: dict[str, Layout] = {}
    before: Shape = ()  # the last feature map that nothing but flattening has changed yet
    for stage, shape in jax.items():
        if len(shape) == 4:
            before = shape[1:]
        elif len(shape) != 2 or shape[1] != math.prod(before):
            before = ()
        if len(shape) == 2 and before in maps and torch.get(stage, shape) == shape:
            h, w, c = before
            found[stage] = Flattened((h, w, c))
        else:
            found[stage] = by_shape(shape, torch[stage]) if stage in torch else usual(len(shape))
    return found
