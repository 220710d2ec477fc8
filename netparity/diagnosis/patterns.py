"""How one array is made of another where no known mistake explains it: a factor, another order, one channel alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

_SAME = 1e-9  # of the largest value, both in float64


def relation(found: np.ndarray, true: np.ndarray, limit: float = _SAME, name: str = "PyTorch's") -> str | None:
    """What an array is in terms of another one.

    Args:
      found, true: of any shapes.
      limit: of the largest value, within which two numbers are the same.
      name: of ``true``, for people.

    Returns:
      ``"-1 times PyTorch's"``; None where no simple pattern fits, or where they are equal.

    >>> true = np.arange(12.0).reshape(3, 4) ** 2
    >>> relation(-2 * true, true), relation(true[::-1], true), relation(true.T, true)
    ("-2 times PyTorch's", "PyTorch's with axis 0 reversed", "PyTorch's with its axes in the order 1, 0")
    """
    found, true = np.asarray(found, np.float64), np.asarray(true, np.float64)
    if found.size == 0 or true.size == 0 or not (np.isfinite(found).all() and np.isfinite(true).all()):
        return None if np.isfinite(found).all() else "not finite (NaN or infinite)"
    scale = float(np.abs(true).max())

    def same(a: np.ndarray) -> bool:
        return a.shape == found.shape and float(np.abs(a - found).max()) <= limit * max(scale, 1e-300)

    if same(true):
        return None
    if not found.any():
        return "zero"
    found_scale = float(np.abs(found).max())
    tight = limit * max(scale, found_scale)
    for text, other in _simple(true):
        if same(other):
            return text.format(name)
    if found.shape == true.shape:
        return next((said for one in _PATTERNS if (said := one(found, true, tight, name))), None)
    return None


def _simple(true: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The same numbers in other orders."""
    for axis in range(true.ndim):
        if true.shape[axis] > 1:
            yield f"{{}} with axis {axis} reversed", np.flip(true, axis)
    for axes in itertools.permutations(range(true.ndim)) if true.ndim < 5 else ():
        if axes != tuple(range(true.ndim)):
            yield f"{{}} with its axes in the order {', '.join(map(str, axes))}", true.transpose(axes)
    for axis in range(true.ndim):
        n = true.shape[axis]
        for shift in (k for k in (1, -1, n // 2, n // 3, -(n // 3)) if k % n):
            yield f"{{}} shifted by {shift} along axis {axis}", np.roll(true, shift, axis)
        for parts in (k for k in range(2, n) if n % k == 0):
            split = true.reshape(*true.shape[:axis], parts, n // parts, *true.shape[axis + 1 :])
            turned = split.swapaxes(axis, axis + 1).reshape(true.shape)
            yield f"{{}} with axis {axis} read as {parts} times {n // parts} the other way round", turned


def _factor(found: np.ndarray, true: np.ndarray, limit: float, name: str) -> str | None:
    factor = float(np.vdot(true, found) / np.vdot(true, true)) if true.any() else math.nan
    if math.isfinite(factor) and factor and float(np.abs(found - factor * true).max()) <= limit:
        return f"{factor:.6g} times {name}"
    return None


def _constant(found: np.ndarray, true: np.ndarray, limit: float, name: str) -> str | None:
    difference = found - true
    return f"{name} plus {float(difference.mean()):.6g}" if float(np.ptp(difference)) <= limit else None


def _few(found: np.ndarray, true: np.ndarray, limit: float, name: str) -> str | None:
    """Whether few entries of an axis alone differ, or the border."""
    wrong = np.abs(found - true) > limit
    for axis in reversed(range(true.ndim)):
        at, n = np.flatnonzero(wrong.any(axis=_others(true, axis))), true.shape[axis]
        if n > 2 and len(at) <= max(1, n // 4):
            listed = ", ".join(map(str, at[:5])) + (", …" if len(at) > 5 else "")
            return f"{name} but for {len(at)} of {n} entries of axis {axis}: {listed}"
    return f"{name} but at the border" if true.ndim > 2 and _border_alone(wrong) else None


def _signs(found: np.ndarray, true: np.ndarray, limit: float, name: str) -> str | None:
    if float(np.abs(np.abs(found) - np.abs(true)).max()) > limit:
        return None
    return f"{name} with {int((np.sign(found) != np.sign(true)).sum())} of {true.size} signs changed"


def _factors(found: np.ndarray, true: np.ndarray, limit: float, name: str) -> str | None:
    for axis in range(true.ndim) if true.ndim > 1 else ():
        others = _others(true, axis)
        if math.prod(true.shape[a] for a in others) < 2:
            continue
        norm = (true * true).sum(others, keepdims=True)
        each = (true * found).sum(others, keepdims=True) / np.where(norm > 0, norm, 1)
        if float(np.abs(found - each * true).max()) <= limit:
            low, high = float(each.min()), float(each.max())
            return f"{name} with each entry of axis {axis} times a factor of its own, {low:.4g} to {high:.4g}"
    return None


def _constants(found: np.ndarray, true: np.ndarray, limit: float, name: str) -> str | None:
    for axis in range(true.ndim) if true.ndim > 1 else ():
        if float(np.ptp(found - true, axis=_others(true, axis)).max()) <= limit:
            return f"{name} plus a constant for each entry of axis {axis}"
    return None


def _order(found: np.ndarray, true: np.ndarray, limit: float, name: str) -> str | None:
    for axis in reversed(range(true.ndim)):
        if _permuted(found, true, axis, limit):
            return f"{name} with the entries of axis {axis} in another order"
    return None


_PATTERNS = (_factor, _constant, _few, _signs, _factors, _constants, _order)


def _others(array: np.ndarray, axis: int) -> tuple[int, ...]:
    return tuple(a for a in range(array.ndim) if a != axis)


def _border_alone(wrong: np.ndarray) -> bool:
    """Whether only the first or last places of the inner axes differ."""
    last = wrong.ndim - 1
    inner = tuple(
        slice(n // 4 or 1, -(n // 4 or 1)) if n > 3 and 0 < i < last else slice(None) for i, n in enumerate(wrong.shape)
    )
    kept = wrong[inner]
    return any(s != slice(None) for s in inner) and kept.size > 0 and not kept.any()


def _permuted(found: np.ndarray, true: np.ndarray, axis: int, limit: float) -> bool:
    a = np.moveaxis(found, axis, 0).reshape(found.shape[axis], -1)
    b = np.moveaxis(true, axis, 0).reshape(true.shape[axis], -1)
    if len(a) < 2 or len(a) > 4096 or a.shape[1] < 2:
        return False
    order_a, order_b = np.lexsort(a.T[:1]), np.lexsort(b.T[:1])
    return float(np.abs(a[order_a] - b[order_b]).max()) <= limit
