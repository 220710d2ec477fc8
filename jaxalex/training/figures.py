"""What the pictures of a run are drawn with: figures without a display, and pages that are laid out in inches."""

from __future__ import annotations

import contextlib
import pathlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from jaxalex.system import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
RIGHT, WRONG = "#2e7d32", "#c62828"
_LARGEST_OF_SQUARES = 64  # pixels: those of a picture no larger are seen as squares


def figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure; width and height in inches."""
    # Without pyplot, which has global state and may look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(made)
    return made


def page(width: float, height: float) -> Axes:
    """An empty figure to be drawn on in inches, from (0, 0) at its upper left to (width, height) at its lower right."""
    axis = figure(width, height, layout=None).add_axes((0, 0, 1, 1))
    axis.set_axis_off()
    axis.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    return axis


def save(drawn: Figure, path: pathlib.Path) -> None:
    """Writes a PNG.

    Raises:
      OSError: it cannot be written.
    """
    with files.replacing(path) as file, _glyphs_may_be_missing():
        drawn.savefig(file, format="png")


def save_page(drawn: Axes, path: pathlib.Path) -> None:
    """Writes a `page` as a PNG; see `save`."""
    save(cast("Figure", drawn.figure), path)


@contextlib.contextmanager
def _glyphs_may_be_missing() -> Iterator[None]:
    """Where the name of a class or file is in another script than the font's: it is drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        yield


def printable(text: str) -> str:
    """Text from a stranger, as a font can draw it.

    >>> printable("tench\\x1b, Tinca")
    'tench\N{REPLACEMENT CHARACTER}, Tinca'
    """
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def shortened(name: str, longest: int) -> str:
    """A name of at most so many characters.

    >>> shortened("coucal", 6), shortened("hummingbird", 6)
    ('coucal', 'hummi…')
    """
    name = printable(name)
    return name if len(name) <= longest else name[: longest - 1].rstrip() + "…"


def write(axis: Axes, x: float, y: float, text: str, room: float, from_end: bool = False, **style: Any) -> None:
    """Draws one line of text, shortened to ``room`` inches where it is longer.

    Args:
      axis: a `page`.
      x, y: where its left end and its middle are, in inches (matplotlib's ``ha`` and ``va`` say otherwise).
      text: never taken for a formula.
      room: in inches.
      from_end: shorten it in front, as names of files are.
      style: of `matplotlib.text.Text`.
    """
    text = printable(text)
    options: dict[str, Any] = {"va": "center", "parse_math": False}
    drawn = axis.text(x, y, text, **options | style)
    with _glyphs_may_be_missing():
        width = drawn.get_window_extent().width
        while width > room * DPI and len(text) > 1:
            # By its share first, then letter by letter: letters differ in width.
            keep = min(len(text) - 1, max(1, int(len(text) * room * DPI / width)))
            text = text[-keep:] if from_end else text[:keep]
            drawn.set_text(f"…{text.lstrip()}" if from_end else f"{text.rstrip()}…")
            width = drawn.get_window_extent().width


def picture(axis: Axes, x: float, y: float, side: float, pixels: np.ndarray, frame: str | None = None) -> None:
    """Draws a square picture.

    Args:
      axis: a `page`.
      x, y: its upper left corner, in inches.
      side: in inches.
      pixels: uint8 ``[height, width, channel]`` of 1 or 3 channels.
      frame: a colour.
    """
    from matplotlib.patches import Rectangle

    show(axis, pixels, extent=(x, x + side, y + side, y))
    if frame:
        axis.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=frame, linewidth=2))


def show(axis: Axes, pixels: np.ndarray, **options: Any) -> None:
    """Draws uint8 ``[height, width, channel]`` of 1 or 3 channels on any axes."""
    # Pixels of a small picture are to be seen; of a large one every second row must not be dropped.
    interpolation = "nearest" if len(pixels) <= _LARGEST_OF_SQUARES else "antialiased"
    pixels = pixels if pixels.shape[-1] == 3 else pixels[..., 0]
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation=interpolation, **options)
