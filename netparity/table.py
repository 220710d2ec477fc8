"""Matches the parameters of both sides, and turns one side's layout into the other's.

The common layout is JAX's. Each kind of entry turns a PyTorch array into it (``to_common``) and back
(``from_common``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from netparity.measure import Arrays, ParityError


@dataclasses.dataclass(frozen=True)
class Same:
    """The same layout on both sides: biases, scales."""

    torch: str

    def to_common(self, array: np.ndarray) -> np.ndarray:
        return array

    def from_common(self, array: np.ndarray) -> np.ndarray:
        return array


@dataclasses.dataclass(frozen=True)
class ConvKernel:
    """A convolution's kernel: PyTorch's ``[out, in, h, w]`` is JAX's ``[h, w, in, out]``."""

    torch: str

    def to_common(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(2, 3, 1, 0)

    def from_common(self, array: np.ndarray) -> np.ndarray:
        return array.transpose(3, 2, 0, 1)


@dataclasses.dataclass(frozen=True)
class DenseKernel:
    """A dense layer's kernel: PyTorch's ``[out, in]`` is JAX's ``[in, out]``.

    Attributes:
      torch: PyTorch's name.
      flattened: ``(height, width, channels)`` of the feature map that is flattened into the layer's input; None if
        there is none. PyTorch flattens it channel by channel, JAX row by row.
    """

    torch: str
    flattened: tuple[int, int, int] | None = None

    def to_common(self, array: np.ndarray) -> np.ndarray:
        if self.flattened is None:
            return array.T
        h, w, c = self.flattened
        return array.reshape(-1, c, h, w).transpose(2, 3, 1, 0).reshape(h * w * c, -1)

    def from_common(self, array: np.ndarray) -> np.ndarray:
        if self.flattened is None:
            return array.T
        h, w, c = self.flattened
        return array.reshape(h, w, c, -1).transpose(3, 2, 0, 1).reshape(-1, h * w * c)


Entry = Same | ConvKernel | DenseKernel


class NameTable:
    """The parameters of both sides, matched one to one.

    Args:
      entries: by JAX name (``"conv1.kernel"``, the path in the parameters joined by dots).
      jax: the JAX parameters' shapes, by that name.
      torch: the PyTorch parameters' shapes, by PyTorch's name.

    Raises:
      ParityError: listing every entry that is missing, superfluous or misshapen.
    """

    def __init__(
        self,
        entries: Mapping[str, Entry],
        jax: Mapping[str, tuple[int, ...]],
        torch: Mapping[str, tuple[int, ...]],
    ):
        problems = [f"{name}: a JAX parameter without an entry" for name in jax if name not in entries]
        named = [entry.torch for entry in entries.values()]
        problems += [f"{name}: a PyTorch parameter without an entry" for name in torch if name not in named]
        problems += [f"{name}: named by {named.count(name)} entries" for name in torch if named.count(name) > 1]
        for name, entry in entries.items():
            if name not in jax:
                problems.append(f"{name}: no such JAX parameter")
            if entry.torch not in torch:
                problems.append(f"{name}: no such PyTorch parameter {entry.torch}")
            if name in jax and entry.torch in torch:
                problems += _misshapen(name, entry, tuple(jax[name]), tuple(torch[entry.torch]))
        if problems:
            raise ParityError("the name table does not fit: " + "; ".join(problems))
        self._entries = dict(entries)

    def to_common(self, arrays: Arrays) -> Arrays:
        """Arrays by PyTorch's names to JAX's names and layouts."""
        return {n: np.ascontiguousarray(e.to_common(arrays[e.torch])) for n, e in self._entries.items()}

    def from_common(self, arrays: Arrays) -> Arrays:
        """The inverse of `to_common`."""
        return {e.torch: np.ascontiguousarray(e.from_common(arrays[n])) for n, e in self._entries.items()}


def _misshapen(name: str, entry: Entry, jax: tuple[int, ...], torch: tuple[int, ...]) -> list[str]:
    wanted_ndim = {ConvKernel: 4, DenseKernel: 2}.get(type(entry))
    if wanted_ndim is not None and len(torch) != wanted_ndim:
        return [f"{name}: {type(entry).__name__} takes {wanted_ndim} axes, PyTorch's {entry.torch} has {list(torch)}"]
    flattened = entry.flattened if isinstance(entry, DenseKernel) else None
    if flattened is not None and math.prod(flattened) != torch[1]:
        return [f"{name}: {entry.torch} has {torch[1]} inputs, which is not a flattened {list(flattened)}"]
    turned = entry.to_common(np.broadcast_to(np.zeros((), np.float32), torch)).shape
    if turned != jax:
        return [f"{name}: JAX has {list(jax)}, PyTorch's {entry.torch} gives {list(turned)}"]
    return []
