"""The picture that `jaxalex.predict` makes: photographs, and beside each a chart of its most likely classes."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxalex.training import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIDE = 2.4  # inches: a photograph
_BARS = 2.7  # inches: a chart's width
_BAR, _NAME = 0.1, 0.2  # inches: heights of a bar and of the name above it
_CLOSEST, _WIDEST = 0.32, 0.48  # inches: from one bar to the next
_HEADING, _GAP, _MARGIN = 0.3, 0.25, 0.2  # inches
_FIRST, _OTHERS = "#1f6fb4", "#9dbcd8"


def write_chart(
    path: pathlib.Path,
    names: Sequence[str],
    images: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    top: int,
) -> None:
    """A PNG after figure 4 of Krizhevsky et al. 2012: each photograph, and beside it its most likely classes as bars.

    Args:
      path: the file.
      names: of the photographs.
      images: uint8 ``[n, size, size, channel]`` of 1 or 3 channels, as the network sees them.
      probabilities: float ``[n, classes]``.
      class_names: in label order.
      top: how many bars.

    Raises:
      OSError: the file cannot be written.
    """
    bars = min(top, len(class_names))
    across = 1 if len(names) == 1 else 2 if len(names) <= 8 else 3
    wide = _SIDE + _GAP / 2 + _BARS
    step = min(_WIDEST, max(_CLOSEST, _SIDE / bars))
    high = _HEADING + max(_SIDE, bars * step)
    down = -(-len(names) // across)
    page = figures.page(2 * _MARGIN + across * (wide + _GAP) - _GAP, 2 * _MARGIN + down * (high + _GAP) - _GAP)
    for number, (name, image, shares) in enumerate(zip(names, images, probabilities, strict=True)):
        x = _MARGIN + number % across * (wide + _GAP)
        y = _MARGIN + number // across * (high + _GAP)
        figures.write(page, x, y + _HEADING / 2, name, wide, from_end=True, fontsize=10, fontweight="bold")
        figures.picture(page, x, y + _HEADING, _SIDE, image)
        for bar, label in enumerate(np.argsort(-shares, kind="stable")[:bars]):
            place = x + _SIDE + _GAP / 2, y + _HEADING + bar * step
            _draw_bar(page, *place, class_names[label], shares[label], _FIRST if bar == 0 else _OTHERS)
    figures.save_page(page, path)


def _draw_bar(page: Axes, x: float, y: float, name: str, share: float, colour: str) -> None:
    """One class: its name and its probability in a line, and below it the bar, on a rail as long as 100 %."""
    from matplotlib.patches import Rectangle

    percent, middle = 0.6, y + _NAME / 2
    figures.write(page, x, middle, name, _BARS - percent, fontsize=9)
    figures.write(page, x + _BARS, middle, f"{100 * share:.1f} %", percent, ha="right", fontsize=9)
    for length, shade in ((_BARS, "#eeeeee"), (_BARS * share, colour)):
        page.add_patch(Rectangle((x, y + _NAME), length, _BAR, color=shade, linewidth=0))
