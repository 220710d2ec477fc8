"""How one array of weights lies in another: the layouts between which frameworks differ, and orders of rows.

A candidate is a way to make an array of ``b``'s shape of ``a``. Whether it gives ``b``'s numbers is seen on a few of
them first, so that trying many costs little.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from netparity.table import regroups

Shape = tuple[int, ...]
Make = Callable[[np.ndarray], np.ndarray]
_MOST_AXES = 5  # of which all orders are tried
_SAMPLE = 256
CHUNK = 2**22  # numbers that are looked at together, so that a large array takes little more memory than its own
_FEW = 16  # blocks, whose order is told one by one
_KNOWN = {
    (2, (1, 0)): "transposed",
    (4, (2, 3, 1, 0)): "OIHW as HWIO",
    (4, (3, 2, 0, 1)): "HWIO as OIHW",
    (3, (2, 1, 0)): "OIW as WIO, or back",
    (5, (2, 3, 4, 1, 0)): "OIDHW as DHWIO",
    (5, (4, 3, 0, 1, 2)): "DHWIO as OIDHW",
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way to make one array of another.

    Attributes:
      text: for people; empty where the array is as it is.
      make: gives the array in the other's shape, as a view where that is possible.
    """

    text: str
    make: Make


def same_numbers(found: np.ndarray, true: np.ndarray) -> bool:
    """Whether two arrays of one shape hold the same numbers in the same places; NaN is the same as NaN."""
    indices = _sampled(true.size)
    if not np.array_equal(_taken(found, indices), _taken(true, indices), equal_nan=True):
        return False
    return np.array_equal(found, true, equal_nan=true.dtype.kind == "f")


def _sampled(size: int) -> np.ndarray:
    return np.unique(np.random.default_rng(0).integers(0, size, _SAMPLE)) if size else np.zeros(0, int)


def _taken(array: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Single values, without a copy of a turned array."""
    return np.asarray(array[np.unravel_index(indices, array.shape)], np.float64)


def equal(a: np.ndarray, b: np.ndarray) -> Layout | None:
    """The layout in which two arrays of the same numbers are equal; None if there is none that is known."""
    for layout in candidates(a.shape, b.shape):
        if same_numbers(layout.make(a), b):
            return layout
    for layout in candidates(a.shape, b.shape, flips=False):
        found = _reordered(layout.make(a), b)
        if found is not None:
            axis, order, text = found
            name = f"{layout.text}, {text}" if layout.text else text
            return Layout(name, functools.partial(_ordered, layout.make, order, axis))
    return None


def nearest(a: np.ndarray, b: np.ndarray) -> Layout | None:
    """The layout in which two arrays differ least, on a few of their numbers; None if no layout gives the shape."""
    return min(_rated(a, b), key=lambda rated: rated[0], default=(0.0, None))[1]


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The mean difference over the mean magnitude in that layout; infinite if there is none."""
    return min((off for off, _ in _rated(a, b)), default=math.inf)


ALIKE = 0.3  # mean difference over mean magnitude, below which two arrays are one that was changed: others have 1.4


def _rated(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[float, Layout]]:
    """Layouts with the mean difference over the mean magnitude of a few numbers."""
    places = np.unravel_index(_sampled(b.size), b.shape)
    true, best = np.asarray(b[places], np.float64), math.inf
    for layout in candidates(a.shape, b.shape, flips=False):
        off = _off(layout.make(a), places, true)
        best = min(best, off)
        yield off, layout
    if best > ALIKE and b.ndim == 2:
        yield from _flattened(a, b.shape, places, true)


def _flattened(
    a: np.ndarray, shape: Shape, places: tuple[np.ndarray, ...], true: np.ndarray
) -> Iterator[tuple[float, Layout]]:
    """The layouts of a dense kernel before which a map is flattened in another order."""
    axes_and_splits = [(axis, inner) for axis in (0, 1) for inner in _divisors(shape[axis])[1:-1]]
    for layout in candidates(a.shape, shape, flips=False):
        made = layout.make(a)
        for axis, inner in axes_and_splits:
            order = np.arange(shape[axis]).reshape(-1, inner).T.ravel()
            off = _off(made, tuple(order[p] if i == axis else p for i, p in enumerate(places)), true)
            text = f"{_axis_name(axis, 2)} {described(order)}" if off < ALIKE else "in another order"
            make = functools.partial(_ordered, layout.make, order, axis)
            yield off, Layout(", ".join(filter(None, (layout.text, text))), make)


def _off(made: np.ndarray, places: tuple[np.ndarray, ...], true: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):
        off = float(np.abs(np.asarray(made[places], np.float64) - true).sum()) / (float(np.abs(true).sum()) or 1.0)
    return math.inf if math.isnan(off) else off


def candidates(a: Shape, b: Shape, flips: bool = True) -> Iterator[Layout]:
    """Every layout that makes shape ``b`` of ``a``, the likeliest first.

    >>> [layout.text for layout in candidates((3, 5), (5, 3), flips=False)]
    ['transposed']
    >>> [layout.text for layout in candidates((4, 6), (24,), flips=False)]
    ['reshaped', 'transposed, reshaped']
    """
    if math.prod(a) != math.prod(b):
        return
    plain = list(_turned(a, b))
    yield from plain
    if flips:
        for layout, axes in itertools.product(plain, _flips(len(b))):
            what = "the window reversed" if len(axes) > 1 else f"axis {axes[0]} reversed"
            text = f"{layout.text}, {what}" if layout.text else what
            yield Layout(text, functools.partial(_flipped, layout.make, axes))


def _ordered(make: Make, order: np.ndarray, axis: int, array: np.ndarray) -> np.ndarray:
    return make(array).take(order, axis)


def _flipped(make: Make, axes: Shape, array: np.ndarray) -> np.ndarray:
    return np.flip(make(array), axes)


def _turned(a: Shape, b: Shape) -> Iterator[Layout]:
    if a == b:
        yield Layout("", lambda x: x)
    if max(len(a), len(b)) > _MOST_AXES:
        return
    for axes in _orders(len(a)):
        shape, plain = tuple(a[axis] for axis in axes), list(axes) == sorted(axes)
        text = "" if plain else _KNOWN.get((len(a), axes), f"axes {list(axes)}")
        if shape == b and not plain:
            yield Layout(text, functools.partial(_turn, a, axes, b))
        elif shape != b and regroups(shape, b):
            yield Layout(", ".join(filter(None, (text, "reshaped"))), functools.partial(_turn, a, axes, b))
    for axes in _orders(len(b)) if len(b) > len(a) else ():
        shape = tuple(b[axis] for axis in axes)
        if list(axes) != sorted(axes) and regroups(a, shape):
            back = tuple(np.argsort(axes).tolist())
            yield Layout(f"reshaped, axes {list(back)}", functools.partial(_turn, shape, back, b))


def _turn(split: Shape, axes: Shape, joined: Shape, array: np.ndarray) -> np.ndarray:
    return array.reshape(split).transpose(axes).reshape(joined)


def _orders(count: int) -> list[tuple[int, ...]]:
    """All orders of axes, those that frameworks use first."""
    known = [tuple(range(count)), *(axes for ndim, axes in _KNOWN if ndim == count)]
    return [*known, *(order for order in itertools.permutations(range(count)) if order not in known)]


def _flips(ndim: int) -> Iterator[tuple[int, ...]]:
    """Axes that may be reversed together: a window before or behind the channels, or one axis."""
    if ndim > 3:
        yield tuple(range(2, ndim))
        yield tuple(range(ndim - 2))
    for axis in range(ndim):
        yield (axis,)


# ---------------------------------------------------------------------------------------------------- orders


def _reordered(found: np.ndarray, true: np.ndarray) -> tuple[int, np.ndarray, str] | None:
    """The axis and the order in which one array's slices are the other's, in words."""
    for axis in range(true.ndim):
        n = true.shape[axis]
        keys, wanted = (_keys(np.moveaxis(x, axis, 0)) for x in (found, true))
        here, there = np.argsort(keys, kind="stable"), np.argsort(wanted, kind="stable")
        if n < 2 or not np.array_equal(keys[here], wanted[there]):
            continue
        order = np.empty(n, int)
        order[there] = here
        if same_numbers(found.take(order, axis), true):
            return axis, order, f"{_axis_name(axis, true.ndim)} {described(order)}"
    return None


def _axis_name(axis: int, ndim: int) -> str:
    return "numbers" if ndim == 1 else "rows" if axis == 0 else "columns" if axis == ndim - 1 else f"axis {axis}"


def _keys(slices: np.ndarray) -> np.ndarray:
    """A number for each slice that depends on all of its numbers and their places."""
    rows = slices.reshape(len(slices), -1)
    weights = np.random.default_rng(1).integers(1, 2**63, rows.shape[1], np.uint64)
    some = max(1, CHUNK // max(1, rows.shape[1]))
    parts = [(bits(rows[i : i + some]) * weights).sum(axis=1, dtype=np.uint64) for i in range(0, len(rows), some)]
    return np.concatenate(parts)


def bits(array: np.ndarray) -> np.ndarray:
    """The bits of each number in float32, uint64: equal for equal numbers, whatever their dtype."""
    plain = np.ascontiguousarray(array, np.float32) + np.float32(0)  # no negative zeros
    return plain.view(np.uint32).astype(np.uint64)


def described(order: Sequence[int] | np.ndarray) -> str:
    """An order of rows in words.

    >>> described([3, 2, 1, 0]), described([0, 2, 4, 1, 3, 5])
    ('reversed', 'flattened as (2, 3) for (3, 2)')
    >>> described([0, 2, 1, 3, 4, 6, 5, 7])
    'in each of 2 groups as (2, 2) for (2, 2)'
    >>> described([1, 0, 3, 2, 5, 4]), described([0, 1, 3, 2])
    ('in pairs, each reversed', 'in another order')
    >>> described([2, 3, 0, 1, 4, 5])
    'in blocks of 2, in the order 1, 0, 2'
    """
    order = np.asarray(order)
    n = len(order)
    plain = np.arange(n)
    if np.array_equal(order, plain[::-1]):
        return "reversed"
    if n % 2 == 0 and np.array_equal(order.reshape(-1, 2)[:, ::-1].ravel(), plain):
        return "in pairs, each reversed"
    for groups, outer in itertools.product(_divisors(n), repeat=2):
        if n % (groups * outer):
            continue
        inner = n // groups // outer
        split = plain.reshape(groups, outer, inner)
        if np.array_equal(split.transpose(0, 2, 1).ravel(), order):
            how = f"as ({inner}, {outer}) for ({outer}, {inner})"
            return f"flattened {how}" if groups == 1 else f"in each of {groups} groups {how}"
        if np.array_equal(split.transpose(1, 0, 2).ravel(), order):
            return f"in blocks of {inner}, as ({outer}, {groups}) for ({groups}, {outer})"
    size = next(d for d in reversed(_divisors(n)) if d < n and _in_blocks(order, d))
    if size > 1 and n // size <= _FEW:
        return f"in blocks of {size}, in the order {', '.join(str(start // size) for start in order[::size])}"
    return "in another order"


def _in_blocks(order: np.ndarray, size: int) -> bool:
    blocks = order.reshape(-1, size)
    return bool((blocks[:, :1] % size == 0).all() and (np.diff(blocks, axis=1) == 1).all())


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
