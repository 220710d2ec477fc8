"""Charts on a logarithmic scale as inline SVG: text stays text, colours come from the page's style sheet."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterable, Mapping, Sequence

_LABEL, _ZERO, _PLOT, _MARGIN = 104, 44, 376, 14  # widths in a dot chart, from left to right; labels at least
_LETTER = 6.4  # the usual width of a letter at 12 pixels
_ROW, _AXIS = 17, 22


@dataclasses.dataclass(frozen=True)
class Series:
    """What one kind of mark or line stands for.

    Attributes:
      name: for people.
      style: its class in the style sheet.
      shape: of its marks: "circle", "square", "diamond" or "bar"; "line" for the key of a line.
    """

    name: str
    style: str
    shape: str = "circle"


@dataclasses.dataclass(frozen=True)
class LogScale:
    """Positions on a logarithmic axis of whole decades, ``10**low`` at ``start`` and ``10**high`` at ``end``.

    Zero has no logarithm: it stands at ``zero``, outside the axis. What is not finite stands at ``end``.
    """

    low: int
    high: int
    start: float
    end: float
    zero: float

    def __call__(self, value: float) -> float:
        if not math.isfinite(value):
            return self.end
        if value <= 0:
            return self.zero
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, at_most: int = 8) -> list[int]:
        """Powers of ten to mark: every decade, or every second one and so on where they would crowd."""
        step = math.ceil((self.high - self.low) / at_most)
        return list(range(self.low, self.high + 1, step))


def decades(values: Iterable[float | None]) -> tuple[int, int]:
    """The powers of ten around all positive finite values.

    >>> decades([0.0, None, 3e-16, 2e-7])
    (-16, -6)
    """
    logs = [math.log10(v) for v in values if v is not None and math.isfinite(v) and v > 0]
    if not logs:
        return -16, 0
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    return low, max(high, low + 1)


def figure_text(value: float | None) -> str:
    """An error for people: two digits, ``0`` only where it is exactly that.

    >>> [figure_text(v) for v in (2.34e-16, 0.0, None, float("nan"))]
    ['2.3e-16', '0', '–', 'NaN']
    """
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    return "0" if value == 0 else f"{value:.1e}"


def legend(series: Sequence[Series]) -> str:
    """The keys of a chart, as a paragraph."""
    keys = (
        f'<span><svg class="key" viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">{_mark(s, 7, 7)}</svg> '
        f"{html.escape(s.name)}</span>"
        for s in series
    )
    return f'<p class="legend">{" ".join(keys)}</p>'


def dot_chart(
    title: str,
    rows: Sequence[tuple[str, bool, Mapping[str, float | None]]],
    series: Sequence[Series],
    span: tuple[int, int],
) -> str:
    """A row of marks for each thing that was measured.

    Args:
      title: for readers that cannot see it.
      rows: a label, whether it passed, and the values by series name; None is not drawn.
      series: in drawing order.
      span: first and last power of ten of the axis.
    """
    top = 6
    bottom = top + _ROW * len(rows)
    wide = max(
        [_LABEL, *(20 + _LETTER * (len(label) if passed else 1.15 * len(label) + 2) for label, passed, _ in rows)]
    )
    start = wide + _ZERO
    scale = LogScale(*span, start=start, end=start + _PLOT, zero=wide + 12)
    parts = []
    for power in scale.ticks():
        x = scale(10.0**power)
        parts.append(f'<path class="grid" d="M{x:.1f} {top - 4}V{bottom}"/>')
        parts.append(_power(power, x, bottom + 15, "middle"))
    parts.append(f'<text class="tick" text-anchor="middle" x="{scale.zero:.1f}" y="{bottom + 15}">0</text>')
    for index, (label, passed, values) in enumerate(rows):
        y = top + _ROW * (index + 0.5)
        shown = [(s, v) for s in series if (v := values.get(s.name)) is not None]
        style, text = ("label", label) if passed else ("label fail", f"✗ {label}")
        parts.append(
            f'<text class="{style}" text-anchor="end" x="{wide - 8:g}" y="{y + 4:.1f}">{html.escape(text)}</text>'
        )
        parts.append(f'<path class="row" d="M{wide:g} {y:.1f}H{start + _PLOT:g}"/>')
        parts += [_mark(s, scale(v), y, f"{label}: {s.name} {figure_text(v)}") for s, v in shown]
    return _svg(start + _PLOT + _MARGIN, bottom + _AXIS, title, parts)


def line_chart(
    title: str, steps: Sequence[int], lines: Sequence[tuple[Series, Sequence[float]]], width: int = 1080
) -> str:
    """Values over steps, one line a series; a zero lies on the line at the foot.

    Args:
      title: for readers that cannot see it.
      steps: of every line's values.
      lines: each with one value a step.
    """
    left, right, top, bottom = 52, width - 12, 8, 272
    foot = bottom + 14
    low, high = decades(value for _, values in lines for value in values)
    scale = LogScale(low, high, start=bottom, end=top, zero=foot)
    first, last = steps[0], max(steps[-1], steps[0] + 1)
    parts = []
    for power in scale.ticks():
        y = scale(10.0**power)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
        parts.append(_power(power, left - 8, y + 4, "end"))
    parts.append(f'<path class="axis" d="M{left} {foot}H{right}"/>')
    parts.append(f'<text class="tick" text-anchor="end" x="{left - 8}" y="{foot + 4}">0</text>')

    def x_of(step: float) -> float:
        return left + (step - first) / (last - first) * (right - left)

    for step in sorted({first, last, *range(0, last, _round_step(last - first))} - set(range(first))):
        parts.append(f'<text class="tick" text-anchor="middle" x="{x_of(step):.1f}" y="{foot + 18}">{step}</text>')
    parts.append(f'<text class="tick" text-anchor="middle" x="{(left + right) / 2}" y="{foot + 36}">step</text>')
    for series, values in lines:
        points = " ".join(f"{x_of(s):.1f},{scale(v):.1f}" for s, v in zip(steps, values, strict=True))
        name = html.escape(series.name)
        parts.append(f'<polyline class="line {series.style}" points="{points}"><title>{name}</title></polyline>')
    return _svg(width, foot + 42, title, parts)


def _round_step(span: int) -> int:
    """A distance between ticks of 1, 2 or 5 times a power of ten that gives about ten of them."""
    power = 10 ** math.floor(math.log10(max(span / 10, 1)))
    return next(m * power for m in (1, 2, 5, 10) if span / (m * power) <= 10.5)


def _mark(series: Series, x: float, y: float, tooltip: str = "") -> str:
    paths = {
        "circle": f"M{x - 4.2:.1f} {y:.1f}a4.2 4.2 0 1 0 8.4 0a4.2 4.2 0 1 0 -8.4 0z",
        "square": f"M{x - 3.6:.1f} {y - 3.6:.1f}h7.2v7.2h-7.2z",
        "diamond": f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z",
        "bar": f"M{x:.1f} {y - 7:.1f}v14",
    }
    if series.shape == "line":
        return f'<path class="line {series.style}" d="M{x - 7:.1f} {y:.1f}h14"/>'
    note = f"<title>{html.escape(tooltip)}</title>" if tooltip else ""
    return f'<path class="mark {series.shape} {series.style}" d="{paths[series.shape]}">{note}</path>'


def _power(power: int, x: float, y: float, anchor: str) -> str:
    exponent = f'<tspan dy="-4" class="exponent">{str(power).replace("-", "−")}</tspan>'
    return f'<text class="tick" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">10{exponent}</text>'


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{html.escape(title)}" '
        f'style="max-width:{width * 1.1:.0f}px;min-width:{width * 0.62:.0f}px">{"".join(parts)}</svg>'
    )
