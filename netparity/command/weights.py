"""``python -m netparity weights``: which arrays of two checkpoints are the same, how they lie, how far they are off."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator

from netparity.command.frame import UsageError
from netparity.measure import ParityError
from netparity.weights import checkpoints
from netparity.weights.compare import WeightPair, WeightsComparison, compare_weights

_EQUAL_SHOWN = 20


def run(a: pathlib.Path, b: pathlib.Path, rtol: float, everything: bool) -> int:
    """Prints a table of two checkpoints' arrays, the worst first.

    Args:
      a, b: see `netparity.weights.checkpoints.opened`.
      rtol: see `compare_weights`.
      everything: whether all equal ones are listed, too.

    Returns:
      0 if all are equal up to their layouts, else 1.

    Raises:
      UsageError: if a file cannot be read, or ``rtol`` is no tolerance.
    """
    if not 0 <= rtol < math.inf:
        raise UsageError(f"--rtol must be 0 or more, not {rtol}")
    try:
        with checkpoints.opened(a) as ours, checkpoints.opened(b) as theirs:
            found = compare_weights(ours, theirs, rtol=rtol)
    except ParityError as problem:
        raise UsageError(str(problem)) from problem
    print("\n".join(_lines(found, str(a), str(b), everything)))
    return 0 if found.equal else 1


def _lines(found: WeightsComparison, a: str, b: str, everything: bool) -> Iterator[str]:
    shown = [*found.different, *_equal(found)[: None if everything else _EQUAL_SHOWN]]
    rows = [("A", "B", "shape in A", "shape in B", ""), *(_row(pair, found.rtol) for pair in shown)]
    rows += [(name, "-", _shape(shape), "", "only in A") for name, shape in found.only_a.items()]
    rows += [("-", name, "", _shape(shape), "only in B") for name, shape in found.only_b.items()]
    yield f"A: {a}"
    yield f"B: {b}"
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip()
    hidden = len(found.pairs) - len(shown)
    if hidden:
        yield f"… and {hidden} more that are equal (--all lists them)"
    turned = sum(bool(pair.layout) for pair in _equal(found))
    yield ""
    yield (
        f"{len(_equal(found))} of {len(found.pairs)} pairs are equal, {turned} of them in another layout; "
        f"{len(found.only_a)} only in A, {len(found.only_b)} only in B"
    )
    yield "EQUAL" if found.equal else "DIFFERENT"


def _equal(found: WeightsComparison) -> list[WeightPair]:
    return [pair for pair in found.pairs if pair.error <= found.rtol]


def _row(pair: WeightPair, rtol: float) -> tuple[str, str, str, str, str]:
    if math.isinf(pair.error):
        said = "differs"
    elif pair.error > rtol:
        said = f"differs by {pair.error:.1e}"
    else:
        said = "equal" if pair.error == 0 else f"equal to {pair.error:.1e}"
    said += f" at {list(pair.where)}" if pair.where and pair.error > rtol else ""
    said += f" ({pair.layout})" if pair.layout else ""
    said += f"; {pair.a_dtype} and {pair.b_dtype}" if pair.a_dtype != pair.b_dtype else ""
    said += f"; {pair.note}" if pair.note else ""
    return pair.a, pair.b, _shape(pair.a_shape), _shape(pair.b_shape), said


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"
