"""Compares two sets of weights, of one framework or of two: which array is which, how it lies, how far it is off."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from netparity.measure import ParityError
from netparity.weights import layouts as weight_layouts
from netparity.weights.layouts import ALIKE, CHUNK, bits
from netparity.weights.names import certain, kind, likeliest

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class WeightPair:
    """One array of ``a`` and one of ``b`` that are the same.

    Attributes:
      a, b: their names; ``"in_proj_weight[0/3]"`` is the first third of an array along its first axis.
      a_shape, b_shape, a_dtype, b_dtype: as they are stored.
      layout: what makes ``b``'s layout of ``a``'s (``"transposed"``); empty where they lie the same way.
      error: the largest difference over the largest magnitude in ``b``; 0 where they are equal, infinite where
        something is not finite, or where the shapes fit in no layout.
      where: the place of the largest difference, in ``b``; None where there is none.
      note: whose numbers they are instead, where that is known.
    """

    a: str
    b: str
    a_shape: Shape
    b_shape: Shape
    a_dtype: str
    b_dtype: str
    layout: str = ""
    error: float = 0.0
    where: Shape | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class WeightsComparison:
    """What `compare_weights` found.

    Attributes:
      pairs: the worst first.
      only_a, only_b: names and shapes of what the other does not have.
      rtol: an error that still counts as equal.
    """

    pairs: list[WeightPair]
    only_a: dict[str, Shape]
    only_b: dict[str, Shape]
    rtol: float = 0.0

    @property
    def different(self) -> list[WeightPair]:
        """The pairs that differ by more than ``rtol``."""
        return [pair for pair in self.pairs if not pair.error <= self.rtol]

    @property
    def equal(self) -> bool:
        """Whether both have the same arrays with the same numbers, up to their layouts."""
        return bool(self.pairs) and not (self.different or self.only_a or self.only_b)


@dataclasses.dataclass(frozen=True)
class _Array:
    """What is kept of an array: the numbers themselves stay where they are.

    Attributes:
      name: of the array, with its part.
      source: the name under which it is stored.
      shape, dtype: of the array or the part.
      prints: numbers that any order of the same numbers has.
      part: axis, index and count of a part; None of a whole.
      added: the name of another array that is added to it.
    """

    name: str
    source: str
    shape: Shape
    dtype: str
    prints: tuple[int, ...]
    part: tuple[int, int, int] | None = None
    added: str = ""

    def of(self, arrays: Mapping[str, Any]) -> np.ndarray:
        whole = _numpy(self.source, arrays[self.source])
        if self.added:
            whole = whole + _numpy(self.added, arrays[self.added])
        return whole if self.part is None else _sliced(whole, *self.part)


@dataclasses.dataclass(frozen=True)
class _Side:
    """One set of weights, and what of it has no partner yet, by name."""

    arrays: Mapping[str, Any]
    left: dict[str, _Array]


def compare_weights(a: Mapping[str, Any], b: Mapping[str, Any], *, rtol: float = 0.0) -> WeightsComparison:
    """Compares two sets of weights by name, shape, layout and content.

    Arrays are paired by equal names; else by equal numbers, in whatever order (a transposed kernel, ``OIHW`` for
    ``HWIO``, a flattened map, heads or halves in another order, parts of a packed array, layers of a stacked one, the
    sum of an LSTM's two biases); else by nearly equal numbers; what is left by names, where these tell. It takes one
    array of each side at a time, so ``a`` and ``b`` may read theirs from files as they are asked for.

    Args:
      a, b: arrays by name, also in dictionaries and lists within: NumPy's, JAX's, PyTorch's on the CPU; numbers of any
        dtype. BatchNorm's ``num_batches_tracked`` is left out.
      rtol: an error, relative to an array's largest magnitude, that still counts as equal.

    Raises:
      ParityError: if a side has no arrays, or something that is none.

    >>> kernel = np.arange(6.0).reshape(2, 3)
    >>> found = compare_weights({"Dense_0.kernel": kernel}, {"fc.weight": kernel.T})
    >>> found.equal, found.pairs[0].layout
    (True, 'transposed')
    """
    ours, theirs = _looked(_by_path(a), "a"), _looked(_by_path(b), "b")
    known = {"a": dict(ours.left), "b": dict(theirs.left)}
    pairs = [_pair(ours, name, theirs, name) for name in list(ours.left) if name in theirs.left]
    for side in (ours, theirs):
        _add_up(side)
    pairs += _by_content(ours, theirs)
    pairs += _by_parts(ours, theirs)
    pairs += _by_likeness(ours, theirs)
    pairs += _by_name(ours, theirs)
    pairs = [pair if pair.error <= rtol else _with_note(pair, known["a"], known["b"]) for pair in pairs]
    only_a, only_b = ({one.name: one.shape for one in side.left.values()} for side in (ours, theirs))
    return WeightsComparison(sorted(pairs, key=lambda pair: -pair.error), only_a, only_b, rtol)


# ---------------------------------------------------------------------------------------------------- arrays


def flat(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dictionaries and lists, by their paths joined by dots.

    >>> dict(flat({"conv": {"kernel": 1}, "layers": [2, 3]}))
    {'conv.kernel': 1, 'layers.0': 2, 'layers.1': 3}
    """
    if isinstance(tree, Mapping | list | tuple):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, tree


def _by_path(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
    """A dictionary without dictionaries; what reads its arrays from a file as it is."""
    return dict(flat(arrays)) if isinstance(arrays, dict) else arrays


def _looked(arrays: Mapping[str, Any], side: str) -> _Side:
    found = {}
    for name in arrays:
        if name.rpartition(".")[2] == "num_batches_tracked":
            continue
        array = _numpy(name, arrays[name])
        found[name] = _Array(name, name, array.shape, array.dtype.name, _prints(array))
    if not found:
        raise ParityError(f"there are no arrays in {side}")
    return _Side(arrays, found)


def _numpy(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise ParityError(f"{name} is {type(value).__name__}, no array") from problem
    if array.dtype.kind in "OSUcMm":
        raise ParityError(f"{name} holds {array.dtype}, which is compared with nothing")
    return array


def _prints(array: np.ndarray) -> tuple[int, ...]:
    """The same for the same numbers in any order and shape: sums of their bits, which nothing rounds."""
    flat, first, second = array.reshape(-1), np.uint64(0), np.uint64(0)
    with np.errstate(over="ignore"):  # sums are modulo 2 ** 64
        for start in range(0, flat.size, CHUNK):
            some = bits(flat[start : start + CHUNK])
            first, second = first + some.sum(dtype=np.uint64), second + (some * some).sum(dtype=np.uint64)
    return array.size, int(first), int(second)


def _sliced(whole: np.ndarray, axis: int, index: int, count: int) -> np.ndarray:
    """A part along an axis, as a view; a single one of a stack gives up the axis."""
    size = whole.shape[axis] // count
    part = whole[(slice(None),) * axis + (slice(index * size, (index + 1) * size),)]
    return part[0] if axis == 0 and size == 1 and whole.ndim > 1 else part


# ---------------------------------------------------------------------------------------------------- pairs


def _pair(ours: _Side, name: str, theirs: _Side, other: str) -> WeightPair:
    """Takes two arrays out of what is left, and compares them."""
    x, y = ours.left.pop(name), theirs.left.pop(other)
    found, true = x.of(ours.arrays), y.of(theirs.arrays)
    pair = WeightPair(x.name, y.name, x.shape, y.shape, x.dtype, y.dtype)
    layout = weight_layouts.equal(found, true) if x.prints == y.prints else None
    if layout is not None:
        return dataclasses.replace(pair, layout=layout.text)
    layout = weight_layouts.nearest(found, true)
    if layout is None:
        return dataclasses.replace(pair, error=math.inf, note="these shapes fit in no layout")
    note = "the same numbers in another order" if x.prints == y.prints else ""
    error, where = _difference(layout.make(found), true)
    return dataclasses.replace(pair, layout=layout.text, error=error, where=where, note=note)


def _difference(found: np.ndarray, true: np.ndarray) -> tuple[float, Shape | None]:
    """The largest difference over the largest true magnitude, and where it is."""
    largest, worst, scale = 0.0, 0, 0.0
    ours, theirs = found.reshape(-1), true.reshape(-1)
    for start in range(0, theirs.size, CHUNK):
        x, y = (np.asarray(flat[start : start + CHUNK], np.float64) for flat in (ours, theirs))
        with np.errstate(invalid="ignore"):
            off = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
        off[np.isnan(off)] = np.inf
        if off.max() > largest:
            largest, worst = float(off.max()), start + int(off.argmax())
        scale = max(scale, float(np.abs(y[np.isfinite(y)]).max(initial=0.0)))
    if largest == 0:
        return 0.0, None
    return largest / scale if scale else math.inf, tuple(int(i) for i in np.unravel_index(worst, true.shape))


def _by_content(ours: _Side, theirs: _Side) -> Iterator[WeightPair]:
    """Arrays of the same numbers; of several alike, such as biases of zeros, the likeliest by name."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for one in theirs.left.values():
        groups.setdefault(one.prints, []).append(one.name)
    alike: dict[tuple[int, ...], list[str]] = {}
    for one in ours.left.values():
        if one.prints in groups:
            alike.setdefault(one.prints, []).append(one.name)
    for prints, names in alike.items():
        for name, other in likeliest(names, groups[prints]):
            yield _pair(ours, name, theirs, other)


def _by_parts(ours: _Side, theirs: _Side, alike: bool = False) -> Iterator[WeightPair]:
    """Arrays that are the equal parts of one: packed queries, keys and values, gates, stacked layers.

    ``alike``: the numbers need only be nearly the same.
    """
    for whole, parts in ((ours, theirs), (theirs, ours)):
        for name in list(whole.left):
            pieces, names = _divided(whole, name, parts, alike)
            if pieces:
                del whole.left[name]
                whole.left.update({piece.name: piece for piece in pieces})
            for piece, other in zip(pieces, names, strict=True):
                own = whole is ours
                yield _pair(ours, piece.name if own else other, theirs, other if own else piece.name)


def _divided(whole: _Side, name: str, parts: _Side, alike: bool) -> tuple[list[_Array], list[str]]:
    """The first division of an array, all parts of which are there, and their names; nothing if there is none."""
    one = whole.left[name]
    size = one.prints[0]
    sizes = {p.prints[0] for p in parts.left.values() if p.prints[0]}
    counts = sorted({size // part for part in sizes if not size % part} - {0, 1})
    for axis in sorted({0, len(one.shape) - 1} if one.shape else ()):
        for count in (count for count in counts if one.shape[axis] % count == 0):
            pieces, names = list[_Array](), dict[str, None]()
            for index in range(count):
                array = _sliced(one.of(whole.arrays), axis, index, count)
                piece = dataclasses.replace(
                    one, name=f"{name}[{index}/{count}]", shape=array.shape, prints=_prints(array),
                    part=(axis, index, count),
                )  # fmt: skip
                found = _likest(array, parts, names) if alike else _same(piece, parts, names)
                if found is None:
                    break
                pieces.append(piece)
                names[found] = None
            else:
                return pieces, list(names)
    return [], []


def _same(piece: _Array, parts: _Side, taken: Collection[str]) -> str | None:
    return next((p.name for p in parts.left.values() if p.prints == piece.prints and p.name not in taken), None)


def _likest(array: np.ndarray, parts: _Side, taken: Collection[str]) -> str | None:
    own = _summary(array)
    for part in parts.left.values():
        if part.prints[0] == array.size and part.name not in taken:
            other = part.of(parts.arrays)
            if _apart(own, _summary(other)) < ALIKE and weight_layouts.distance(array, other) < ALIKE:
                return part.name
    return None


def _add_up(side: _Side) -> None:
    """Puts the sum of a recurrent layer's two biases in PyTorch in their place: other frameworks have one."""
    for name, one in list(side.left.items()):
        other = side.left.get(name.replace("bias_ih", "bias_hh"))
        if other is not None and other is not one and other.shape == one.shape:
            both = dataclasses.replace(one, name=f"{name} + {other.name}", added=other.source)
            del side.left[name], side.left[other.name]
            side.left[both.name] = dataclasses.replace(both, prints=_prints(both.of(side.arrays)))


def _by_likeness(ours: _Side, theirs: _Side) -> Iterator[WeightPair]:
    """Arrays of nearly the same numbers, such as rounded or trained on: those whose summaries are nearest first."""
    sizes: dict[int, tuple[list[_Array], list[_Array]]] = {}
    for place, side in enumerate((ours, theirs)):
        for one in side.left.values():
            sizes.setdefault(one.prints[0], ([], []))[place].append(one)
    for some, others in sizes.values():
        a = [_summary(one.of(ours.arrays)) for one in some] if others else []
        b = [_summary(one.of(theirs.arrays)) for one in others] if some else []
        rated = sorted((_apart(x, y), i, j) for i, x in enumerate(a) for j, y in enumerate(b))
        for apart, i, j in rated:
            x, y = some[i], others[j]
            if apart > ALIKE or x.name not in ours.left or y.name not in theirs.left:
                continue
            if weight_layouts.distance(x.of(ours.arrays), y.of(theirs.arrays)) < ALIKE:
                yield _pair(ours, x.name, theirs, y.name)
    yield from _by_parts(ours, theirs, alike=True)


def _summary(array: np.ndarray) -> np.ndarray:
    """Extremes and moments, each of the size of the numbers themselves, whatever their order."""
    flat, low, high, sums = array.reshape(-1), math.inf, -math.inf, np.zeros(3)
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, flat.size, CHUNK):
            x = np.asarray(flat[start : start + CHUNK], np.float64)
            low, high = min(low, float(x.min())), max(high, float(x.max()))
            sums += [x.sum(), (x * x).sum(), (x * x * x).sum()]  # a power takes ten times as long
        mean, square, cube = sums / max(flat.size, 1)
        return np.array([low, high, mean, np.sqrt(square), np.cbrt(cube)]) if flat.size else np.zeros(5)


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of two summaries over their largest number; infinite where one is not finite."""
    with np.errstate(invalid="ignore"):
        off, scale = np.abs(a - b).max(initial=0.0), max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0))
    return float(off / scale) if scale and math.isfinite(off) else math.inf if off else 0.0


def _by_name(ours: _Side, theirs: _Side) -> Iterator[WeightPair]:
    """Of the same kind and size, those whose names are likest on both sides, and what is left over alone."""
    groups: dict[tuple[int, str], tuple[list[str], list[str]]] = {}
    for place, side in enumerate((ours, theirs)):
        for one in side.left.values():
            groups.setdefault((one.prints[0], kind(one.name)), ([], []))[place].append(one.name)
    for names, others in groups.values():
        for name, other in certain(names, others):
            yield _pair(ours, name, theirs, other)


def _with_note(pair: WeightPair, ours: Mapping[str, _Array], theirs: Mapping[str, _Array]) -> WeightPair:
    """Says whose numbers they are, if they are another array's."""
    if pair.note or pair.a not in ours or pair.b not in theirs:
        return pair
    told = []
    for own, others, side in ((ours[pair.a], theirs, "B"), (theirs[pair.b], ours, "A")):
        twins = [one.name for one in others.values() if one.prints == own.prints]
        told += [f"{'A' if side == 'B' else 'B'}'s numbers are {twins[0]}'s in {side}"] if len(twins) == 1 else []
    return dataclasses.replace(pair, note="; ".join(told))
