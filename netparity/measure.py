"""How far two arrays, or two sets of named arrays, are apart.

Every error is relative to the scale of the true values (their largest magnitude), so that it means the same for a
fresh network's logits of 0.03 as for a gradient of 1e-6. Nothing is averaged or summed with signs, and a value that
is not finite, on either side, is an infinite error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np

Arrays = dict[str, np.ndarray]

# Between the bins of a histogram of errors, in units in the last place.
ULP_EDGES = tuple(2.0**power for power in range(-8, 9))


class ParityError(Exception):
    """Two sides cannot be compared; the message lists every name or shape that does not match."""


@dataclasses.dataclass(frozen=True)
class Error:
    """How far an array is from the true one.

    Attributes:
      max: largest difference over largest true magnitude; infinite where anything is not finite.
      rms: root mean square of the difference over that of the true values; infinite likewise.
      ulps: largest difference in units in the last place of the largest true magnitude, in the found array's dtype.
    """

    max: float
    rms: float
    ulps: float


def error(found: np.ndarray, truth: np.ndarray, scale: float | None = None) -> Error:
    """The error of ``found`` against ``truth``.

    Args:
      found, truth: floating, of the same shape; compared in float64.
      scale: what errors are relative to; None is the true values' own.

    Raises:
      ParityError: if the shapes differ.

    >>> error(np.array([1.0, 4.0]), np.array([1.0, 2.0])).max
    1.0
    >>> error(np.array([np.nan]), np.array([np.nan])).max
    inf
    """
    found, truth = np.asarray(found), np.asarray(truth)
    if found.shape != truth.shape:
        raise ParityError(f"shapes {found.shape} and {truth.shape} differ")
    eps = float(np.finfo(found.dtype).eps) if found.dtype.kind == "f" else float(np.finfo(np.float64).eps)
    found, truth = found.astype(np.float64), truth.astype(np.float64)
    if found.size == 0:
        return Error(0.0, 0.0, 0.0)
    if not (np.isfinite(found).all() and np.isfinite(truth).all()):
        return Error(math.inf, math.inf, math.inf)
    difference = np.abs(found - truth)
    worst = float(difference.max())
    if scale is not None:
        rms = worst / scale * float(np.sqrt(np.mean((difference / worst) ** 2))) if worst else 0.0
        return Error(worst / scale, rms, worst / (eps * 2.0 ** math.floor(math.log2(scale))))
    scale = float(np.abs(truth).max())
    if worst == 0:
        return Error(0.0, 0.0, 0.0)
    if scale == 0:
        return Error(math.inf, math.inf, math.inf)
    # Divided by their scales first: the squares of small gradients would underflow.
    rms = worst / scale * float(np.sqrt(np.mean((difference / worst) ** 2) / np.mean((truth / scale) ** 2)))
    unit = eps * 2.0 ** math.floor(math.log2(scale))
    return Error(worst / scale, rms, worst / unit)


def ulp_histogram(found: np.ndarray, truth: np.ndarray) -> tuple[int, ...]:
    """How many numbers err by how much, in units in the last place (float32) of the largest true magnitude.

    One unit for the whole array: in units of each number's own last place, a small difference of large numbers would
    count as an enormous error.

    Args:
      found: float32.
      truth: float64, of the same shape.

    Returns:
      counts: of exactly right numbers; of errors below the first of `ULP_EDGES`; from each edge to the next; from the
      last edge on, and of what is not finite.

    >>> ulp_histogram(np.array([1.5, 1.0, 0.0], np.float32), np.array([1.5, 1.0 - 3 * 2.0**-24, 0.0]))[:2]
    (2, 0)
    """
    difference = np.abs(found.astype(np.float64) - truth)
    scale = float(np.abs(truth).max(initial=0))
    finite = np.isfinite(difference)
    if scale == 0 or not math.isfinite(scale):  # no unit
        place = np.where(difference == 0, 0, len(ULP_EDGES) + 1)
    else:
        unit = float(np.finfo(np.float32).eps) * 2.0 ** math.floor(math.log2(scale))
        place = np.searchsorted(ULP_EDGES, np.where(finite, difference / unit, np.inf), side="right") + 1
        place[difference == 0] = 0
    return tuple(int(n) for n in np.bincount(place.ravel(), minlength=len(ULP_EDGES) + 2))


def max_error(found: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> float:
    """The largest `error` of any array; the names must match exactly."""
    require_same_names(found, truth)
    return max((error(found[name], truth[name]).max for name in truth), default=0.0)


def require_same_names(jax: Iterable[object], torch: Iterable[object], what: str = "arrays") -> None:
    """Refuses two sets of names that differ.

    Raises:
      ParityError: listing every name that only one side has.
    """
    jax, torch = list(jax), list(torch)
    problems = [f"{name}: only on the JAX side" for name in jax if name not in torch]
    problems += [f"{name}: only on the PyTorch side" for name in torch if name not in jax]
    if problems:
        raise ParityError(f"the names of the {what} differ: " + "; ".join(problems))
