"""Histograms of float32 errors as small multiples: JAX upwards, PyTorch downwards, one for every stage's output."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from netparity.measure import ULP_EDGES
from netparity.report.markup import text

_BAR, _TALL, _TOP = 8, 34, 4  # a bar's width, the height of either half, and the margin above
_HALF = 0.5  # of a unit: the most that correct rounding errs
# Its key, its name, and the way its bars go.
_SIDES = (("jax", "▲ JAX", -1), ("torch", "▼ PyTorch", 1))


def histogram(name: str, counts: Mapping[str, Sequence[int]]) -> str:
    """One stage's histogram, as a figure with its name and the shares that the bars do not show.

    Args:
      name: of the stage, for people.
      counts: by ``"jax"`` and ``"torch"``, as `netparity.measure.ulp_histogram` counts.
    """
    shares = {side: [n / max(1, sum(counts[side])) for n in counts[side]] for side, _, _ in _SIDES}
    scale = max(max(own[1:]) for own in shares.values()) or 1.0
    middle, foot, wide = _TOP + _TALL, _TOP + 2 * _TALL, _BAR * (len(ULP_EDGES) + 1)
    parts = [f'<path class="grid" d="M{_x(_HALF)} {_TOP}V{foot}"/>']
    for side, _, way in _SIDES:
        tall = [way * share / scale * _TALL for share in shares[side][1:]]
        bars = (f"M{_BAR * i + 0.5} {middle}v{y:.1f}h{_BAR - 1}V{middle}z" for i, y in enumerate(tall) if y)
        parts.append(f'<path class="bar {side}" d="{"".join(bars)}"/>')
    parts.append(f'<path class="axis" d="M0 {middle}H{wide}"/>')
    parts += [
        f'<text class="tick" text-anchor="middle" x="{_x(edge)}" y="{foot + 12}">{label}</text>'
        for edge, label in ((2.0**-6, "1/64"), (_HALF, "½"), (2.0**4, "16"))
    ]
    said = [f'<span class="{side}">{label}</span> {text(_said(shares[side]))}' for side, label, _ in _SIDES]
    broken = text(name).replace(".", ".<wbr/>").replace("_", "_<wbr/>")
    return (
        f'<figure class="histogram"><figcaption>{broken}</figcaption>'
        f'<svg viewBox="0 0 {wide} {foot + 15}" role="img" aria-label="{html.escape(f"Errors of {name}")}">'
        f'{"".join(parts)}</svg><p class="soft">{"<br/>".join(said)}</p></figure>'
    )


def _x(edge: float) -> int:
    return _BAR * (1 + ULP_EDGES.index(edge))


def is_exact(counts: Mapping[str, Sequence[int]]) -> bool:
    """Whether both sides got every number exactly right."""
    return not any(sum(own[1:]) for own in counts.values())


def _said(shares: Sequence[float]) -> str:
    """What the bars do not show: exact numbers, and how many err by more than correct rounding may."""
    beyond = sum(shares[2 + ULP_EDGES.index(_HALF) :])
    return f"{percent(shares[0])} exact, {percent(beyond)} > ½"


def percent(share: float) -> str:
    """A share for people: 0 % and 100 % only where it is exactly that.

    >>> [percent(share) for share in (0, 0.00001, 0.0123, 0.567, 0.9999, 1)]
    ['0 %', '< 0.1 %', '1.2 %', '57 %', '> 99 %', '100 %']
    """
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    if share < 0.001:
        return "< 0.1 %"
    if share > 0.99:
        return "> 99 %"
    return f"{100 * share:.1f} %" if share < 0.1 else f"{100 * share:.0f} %"
