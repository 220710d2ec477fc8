"""One other way to make a call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

Pads = tuple[tuple[int, int], ...]  # by axis, how much is added before and after
SIDES = {"jax": "JAX", "torch": "PyTorch"}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One other way to make a call.

    Attributes:
      what: ``"epsilon"``, or what is done: ``"kernel flipped"``.
      run: gets the call and gives what the other way gives.
      key: of the mistake in `netparity.diagnosis.mistakes`.
      now, was: the value in the other way, and the one that PyTorch's call has; empty where there is none.
    """

    what: str
    run: Callable[..., Any]
    key: str
    now: str = ""
    was: str = ""

    def told(self, side: str) -> str:
        """What a side does that gives these numbers.

        >>> Variant("epsilon", print, "norm-epsilon", "1e-06", "1e-05").told("jax")
        'JAX has epsilon 1e-06 where PyTorch has 1e-05'
        >>> Variant("kernel flipped", print, "kernel-flip").told("torch")
        'PyTorch: kernel flipped'
        """
        other = SIDES["torch" if side == "jax" else "jax"]
        if self.now:
            what = f"{self.what} " if self.what else ""
            return f"{SIDES[side]} has {what}{self.now} where {other} has {self.was}"
        return f"{SIDES[side]}: {self.what}"


Variants = Iterator[Variant]


def gone(what: str, key: str, run: Callable[..., Any] = lambda call: call.x * 1) -> Variant:
    """A call that is not made; what it is given goes on.

    >>> gone("tanh", "activation").told("jax")
    'JAX has nothing where PyTorch has tanh'
    """
    return Variant("", run, key, "nothing", what)


EPSILONS = (1e-5, 1e-6, 1e-3, 1e-8, 1e-7, 1e-12, 1e-4, 1e-2, 0.0)


def number(value: float) -> str:
    """A number for people.

    >>> number(1e-06), number(0.125), number(2.0), number(1 / 3)
    ('1e-06', '0.125', '2', '0.333333')
    """
    return f"{float(value):.6g}"


def sizes(value: Any) -> str:
    """Padding, strides or windows for people: one number where all are the same.

    >>> sizes((2, 2)), sizes((0, 1)), sizes(3), sizes("same")
    ('2', '(0, 1)', '3', '"same"')
    """
    if isinstance(value, str):
        return f'"{value}"'
    listed = per_axis(value, 1)
    return str(listed[0]) if len(set(listed)) == 1 else f"({', '.join(map(str, listed))})"


def per_axis(value: Any, axes: int) -> tuple[int, ...]:
    """A size for each axis.

    >>> per_axis(3, 2), per_axis([1, 2], 2), per_axis((4,), 2)
    ((3, 3), (1, 2), (4, 4))
    """
    listed = tuple(int(v) for v in value) if isinstance(value, Sequence) else (int(value),)
    return listed if len(listed) == axes or len(listed) > 1 else listed * axes


def same(sizes: Sequence[int], windows: Sequence[int], strides: Sequence[int], lower: bool = False) -> Pads:
    """What ``"SAME"`` adds: half before and half after, the odd one after (``lower``: before).

    >>> same((8,), (3,), (2,)), same((7,), (3,), (2,))
    (((0, 1),), ((1, 1),))
    """
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, windows, strides, strict=True)]
    return tuple(((t + lower) // 2, t - (t + lower) // 2) for t in totals)


def swapped(a: torch.Tensor) -> torch.Tensor:
    """With the first two rows exchanged."""
    return torch.cat([a[1:2], a[:1], a[2:]])


def divisors(n: int) -> list[int]:
    """Numbers that divide ``n``, but 1 and itself.

    >>> divisors(12)
    [2, 3, 4, 6]
    """
    return [k for k in range(2, n) if n % k == 0]
