"""Compares two sets of weights, of one framework or of two: which array is which, how it lies, how far it is off."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from netparity import weight_layouts
from netparity.measure import ParityError
from netparity.weight_layouts import CHUNK, bits

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
    """

    name: str
    source: str
    shape: Shape
    dtype: str
    prints: tuple[int, ...]
    part: tuple[int, int, int] | None = None

    def of(self, arrays: Mapping[str, Any]) -> np.ndarray:
        whole = _numpy(self.source, arrays[self.source])
        return whole if self.part is None else _sliced(whole, *self.part)


@dataclasses.dataclass(frozen=True)
class _Side:
    """One set of weights, and what of it has no partner yet, by name."""

    arrays: Mapping[str, Any]
    left: dict[str, _Array]


def compare_weights(a: Mapping[str, Any], b: Mapping[str, Any], *, rtol: float = 0.0) -> WeightsComparison:
    """Compares two sets of weights by name, shape, layout and content.

    Arrays are paired by equal names; else by equal numbers, in whatever order (a transposed kernel, ``OIHW`` for
    ``HWIO``, a flattened map, heads or halves in another order, parts of a packed array, layers of a stacked one); what
    is left by like names, kinds and sizes. It takes one array of each side at a time, so ``a`` and ``b`` may read
    theirs from files as they are asked for.

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
    pairs += _by_content(ours, theirs)
    pairs += _by_parts(ours, theirs)
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
        for name, other in _likeliest(names, groups[prints]):
            yield _pair(ours, name, theirs, other)


def _by_parts(ours: _Side, theirs: _Side) -> Iterator[WeightPair]:
    """Arrays that are the equal parts of one: packed queries, keys and values, gates, stacked layers."""
    for whole, parts in ((ours, theirs), (theirs, ours)):
        for name in list(whole.left):
            for pieces, names in _divided(whole, name, parts):
                del whole.left[name]
                whole.left.update({piece.name: piece for piece in pieces})
                for piece, other in zip(pieces, names, strict=True):
                    own = whole is ours
                    yield _pair(ours, piece.name if own else other, theirs, other if own else piece.name)


def _divided(whole: _Side, name: str, parts: _Side) -> Iterator[tuple[list[_Array], list[str]]]:
    """The first division of an array, all parts of which are there; nothing if there is none."""
    one = whole.left[name]
    size = one.prints[0]
    counts = sorted(
        {size // p.prints[0] for p in parts.left.values() if p.prints[0] and not size % p.prints[0]} - {0, 1}
    )
    for axis in sorted({0, len(one.shape) - 1} if one.shape else ()):
        for count in (count for count in counts if one.shape[axis] % count == 0):
            there = {p.prints: p.name for p in reversed(parts.left.values())}
            pieces = []
            for index in range(count):
                array = _sliced(one.of(whole.arrays), axis, index, count)
                pieces.append(
                    _Array(
                        f"{name}[{index}/{count}]", name, array.shape, one.dtype, _prints(array), (axis, index, count)
                    )
                )
                if pieces[-1].prints not in there:
                    break
            else:
                names = [there[piece.prints] for piece in pieces]
                if len(set(names)) == count:
                    yield pieces, names
                    return


def _by_name(ours: _Side, theirs: _Side) -> Iterator[WeightPair]:
    """Of the same kind and size, the likeliest by name, then in order."""
    groups: dict[tuple[int, str], tuple[list[str], list[str]]] = {}
    for place, side in enumerate((ours, theirs)):
        for one in side.left.values():
            groups.setdefault((one.prints[0], _kind(one.name)), ([], []))[place].append(one.name)
    for names, others in groups.values():
        for name, other in _likeliest(names, others):
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


# ---------------------------------------------------------------------------------------------------- names

_KINDS = {
    **dict.fromkeys(("kernel", "weight", "w", "scale", "gamma", "embedding"), "weight"),
    **dict.fromkeys(("bias", "b", "beta"), "bias"),
    **dict.fromkeys(("mean", "running_mean", "moving_mean"), "mean"),
    **dict.fromkeys(("var", "running_var", "moving_var", "variance", "moving_variance"), "variance"),
}
_NOISE = ("params", "batch_stats", "state_dict", "model", "module")  # what stands around a network's own names
_SYNONYMS = {"linear": "dense", "fc": "dense", "norm": "norm", "bn": "norm", "layernorm": "norm", "batchnorm": "norm"}


def _kind(name: str) -> str:
    """``weight``, ``bias``, ``mean`` or ``variance``, if the last part of a name says so, else that part.

    >>> _kind("Conv_0.kernel"), _kind("params/bn1/scale"), _kind("layer.in_proj_weight[0/3]")
    ('weight', 'weight', 'weight')
    """
    last = re.split(r"[./]", re.sub(r"\[.*", "", name))[-1].lower()
    return _KINDS.get(last) or _KINDS.get(last.rpartition("_")[2], last)


def _words(name: str) -> Counter[str]:
    tokens = re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", re.sub(r"\[.*", "", name))
    words = (_SYNONYMS.get(token.lower(), token.lower()) for token in tokens)
    return Counter(word for word in words if word not in _NOISE and word not in _KINDS)


def _likeliest(names: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names: those that share most words first, then in order."""
    names, others = list(names), list(others)
    words = {name: _words(name) for name in (*names, *others)}
    rated = sorted(
        (-(words[name] & words[other]).total(), abs(i - j), i, j)
        for i, name in enumerate(names)
        for j, other in enumerate(others)
    )
    taken: tuple[set[int], set[int]] = (set(), set())
    found = []
    for _, _, i, j in rated:
        if i not in taken[0] and j not in taken[1]:
            found.append((names[i], others[j]))
            taken[0].add(i)
            taken[1].add(j)
    return found
