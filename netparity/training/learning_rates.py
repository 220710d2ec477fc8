"""Says in words how the learning rates that one side took, step by step, differ from those that were asked for."""

from __future__ import annotations

import math

import numpy as np

from netparity.training.mistakes import number

_SAME = 1e-9
_SHIFTS = (1, 2)
_SHOWN = 4  # rates of a schedule


def difference(
    taken: np.ndarray, asked: np.ndarray, side: str, batch: int = 0, alike: bool = True
) -> tuple[str, bool] | None:
    """What is wrong with the learning rates of a side.

    Args:
      taken: ``[steps]``, with which its steps were taken.
      asked: ``[steps + 1]``, what PyTorch's optimizer is told before each step and after the last.
      side: ``"JAX"`` or ``"PyTorch"``.
      batch: images in a batch, which sums exceed means by; 0 if not known.
      alike: whether all numbers have these rates, and not only rates in proportion to them.

    Returns:
      a line, and whether it names a mistake: if not, it only lists the rates. None where nothing differs.

    >>> difference(np.array([0.1, 0.1, 0.2]), np.array([0.1, 0.2, 0.3, 0.4]), "JAX")
    ("JAX's learning rate runs one step late", True)
    >>> difference(np.array([0.01, 0.01]), np.array([0.1, 0.1, 0.1]), "JAX")
    ('JAX has learning rate 0.01 where PyTorch has 0.1', True)
    """
    steps = len(taken)
    own, other = asked[:steps], "PyTorch" if side == "JAX" else "JAX"
    if _equal(taken, own):
        return None
    lines = []
    if not _constant(asked):
        lines = [line for shift in _SHIFTS if (line := _shifted(taken, asked, shift, side))]
    factor = taken[own != 0] / own[own != 0]
    if factor.size and _constant(factor) and _equal(taken, own * factor[0]):
        lines.append(_factor(taken, own, float(factor[0]), side, batch, alike))
    if lines:
        return ", or ".join(lines), True
    if not alike:
        return None
    if _constant(taken):
        return f"{side}'s learning rate stays {number(taken[0])} where {other}'s is {_listed(own)}", True
    periods = _period(taken), _period(own)
    if None not in periods and periods[0] != periods[1]:
        return f"{side}'s cosine schedule runs over {periods[0]} steps where {other}'s runs over {periods[1]}", True
    theirs = f"stays {number(own[0])}" if _constant(own) else f"is {_listed(own)}"
    return f"{side}'s learning rate is {_listed(taken)} where {other}'s {theirs}", False


def _shifted(taken: np.ndarray, asked: np.ndarray, shift: int, side: str) -> str | None:
    steps = len(taken)
    how = {1: "one step", 2: "two steps"}[shift]
    if shift == 1 and _equal(taken, asked[1:]):
        return f"{side}'s learning rate runs {how} early"
    if steps - shift >= 2 and _equal(taken[: steps - shift], asked[shift:steps]):
        return f"{side}'s learning rate runs {how} early"
    # Before a schedule's beginning, ports do this and that.
    if steps - shift >= 1 and _equal(taken[shift:], asked[: steps - shift]):
        return f"{side}'s learning rate runs {how} late"
    return None


def _factor(taken: np.ndarray, own: np.ndarray, factor: float, side: str, batch: int, alike: bool) -> str:
    if alike and abs(factor - 1) < 2.0**-23 and _equal(taken, own.astype(np.float32).astype(np.float64), 1e-12):
        return f"{side}'s learning rate {number(own[0])} is rounded to float32"
    if abs(factor) <= _SAME:
        return f"{side} takes no steps"
    if side == "PyTorch":
        line = f"PyTorch steps with {number(factor)} times its learning rate"
    elif alike and _constant(own):
        line = f"JAX has learning rate {number(taken[0])} where PyTorch has {number(own[0])}"
    else:
        line = f"JAX's learning rate is {number(factor)} times PyTorch's"
    for size, how in ((batch, "summed"), (1 / batch if batch else 0, "averaged twice")):
        if batch > 1 and math.isclose(factor, size, rel_tol=_SAME):
            line += f" (the batch is of {batch}: are gradients {how}?)"
    return line


def _period(rates: np.ndarray) -> int | None:
    """Over how many steps a cosine goes from its largest to its smallest, if that is what the rates are."""
    if len(rates) < 3 or rates[0] == rates[1]:
        return None
    # (s0 - s2) / (s0 - s1) = (1 - cos 2x) / (1 - cos x) = 2 (1 + cos x), whatever the smallest rate is.
    cosine = (rates[0] - rates[2]) / (rates[0] - rates[1]) / 2 - 1
    if not -1 < cosine < 1:
        return None
    period = math.pi / math.acos(cosine)
    made = (1 + np.cos(math.pi * np.arange(len(rates)) / period)) / 2
    low = (rates[1] - made[1] * rates[0]) / (1 - made[1])
    whole = round(period)
    if abs(period - whole) > 1e-5 * period or not _equal(low + (rates[0] - low) * made, rates, 1e-7):
        return None
    return whole


def _equal(a: np.ndarray, b: np.ndarray, limit: float = _SAME) -> bool:
    return bool(np.abs(a - b).max() <= limit * np.abs(b).max())


def _constant(rates: np.ndarray) -> bool:
    return _equal(rates, np.full_like(rates, rates[0]))


def _listed(rates: np.ndarray) -> str:
    shown = ", ".join(number(float(rate)) for rate in rates[:_SHOWN])
    return shown + (", …" if len(rates) > _SHOWN else "")
