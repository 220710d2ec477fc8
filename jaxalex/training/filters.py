"""The picture of what a network has learned to look for in pixels: its first layer's filters."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxalex.networks.rows import most_groups
from jaxalex.networks.tables import NETWORKS
from jaxalex.training import figures

_WIDE = 8 / 3  # columns by rows, about: those of figure 3 in Krizhevsky et al. 2012
_LONGEST = 1000  # pixels of the grid's width
_LARGEST = 120  # pixels of a tile's side
_GAP = 5  # pixels
_MARGIN, _TITLE, _LABEL = 0.2, 0.6, 0.3  # inches


def as_pixels(kernel: np.ndarray) -> np.ndarray:
    """Filters as pictures: each by itself, zero is grey, its weight of largest magnitude black or full colour.

    Args:
      kernel: float ``[height, width, channel, filter]`` of 1 or 3 channels.

    Returns:
      uint8 ``[filter, height, width, 3]``; filters of one channel are grey.

    >>> as_pixels(np.array([-2.0, 0.0, 1.0]).reshape(1, 3, 1, 1))[0, 0, :, 0].tolist()
    [0, 128, 191]
    """
    tiles = np.moveaxis(np.asarray(kernel, np.float64), -1, 0)
    largest = np.abs(tiles).max(axis=(1, 2, 3), keepdims=True)
    scaled = 0.5 + 0.5 * tiles / np.where(largest > 0, largest, 1)
    pixels = np.rint(255 * scaled).astype(np.uint8)
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def columns(filters: int, block: int) -> int:
    """In how many columns to lay out filters that are drawn in blocks: where it can be, every row is full.

    >>> columns(96, 96), columns(96, 48), columns(64, 64), columns(12, 6), columns(7, 7)
    (16, 16, 16, 6, 7)
    """
    least = min(block, math.ceil(math.sqrt(filters * _WIDE)))
    full = [number for number in range(least, min(block, 3 * least // 2) + 1) if block % number == 0]
    return full[0] if full else least


def grid(tiles: np.ndarray, across: int, zoom: int, gap: int) -> np.ndarray:
    """Tiles in rows, from left to right, with white gaps between them.

    Args:
      tiles: uint8 ``[n, height, width, 3]``.
      across: tiles in a row.
      zoom: how many pixels, in both directions, each pixel becomes.
      gap: in pixels.

    Returns:
      uint8 ``[height, width, 3]``.
    """
    tiles = tiles.repeat(zoom, axis=1).repeat(zoom, axis=2)
    number, height, width, _ = tiles.shape
    down = -(-number // across)
    page = np.full((down * (height + gap) - gap, across * (width + gap) - gap, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // across * (height + gap), i % across * (width + gap)
        page[top : top + height, left : left + width] = tile
    return page


def write_filters(path: pathlib.Path, params: Mapping[str, Any], model: str, title: str) -> None:
    """A PNG of the first layer's filters, as figure 3 of Krizhevsky et al. 2012; each tower is a block of its own.

    Args:
      path: the file.
      params: of a network; its conv1 has 1 or 3 input channels.
      model: the network's name.
      title: what was trained on what.
    """
    kernel = np.asarray(params["conv1"]["kernel"])
    tiles, towers = as_pixels(kernel), most_groups(NETWORKS[model].layers)
    number, side = len(tiles), tiles.shape[1]
    block = number // towers
    across = columns(number, block)
    zoom = max(1, min(_LARGEST, (_LONGEST + _GAP) // across - _GAP) // side)
    grids = [grid(tiles[start : start + block], across, zoom, _GAP) for start in range(0, number, block)]
    height, width = (length / figures.DPI for length in grids[0].shape[:2])
    label = _LABEL if towers > 1 else 0
    page_width = max(width + 2 * _MARGIN, 7.0)
    left, top = (page_width - width) / 2, _TITLE + _MARGIN / 2
    page = figures.page(page_width, top + towers * (label + height) + towers * _MARGIN)
    kind = "RGB" if kernel.shape[2] == 3 else "grey"
    room = page_width - 2 * _MARGIN
    figures.write(page, page_width / 2, 0.25, title, room, ha="center", fontsize=11)
    what = f"{_filters(1, number)} of the first layer: {side}x{side}, {kind}, each on its own scale; zero is grey"
    figures.write(page, page_width / 2, 0.48, what, room, ha="center", fontsize=8)
    for tower, pixels in enumerate(grids):
        if label:
            which = f"tower {tower + 1} of {towers}: {_filters(tower * block + 1, (tower + 1) * block)}"
            figures.write(page, left, top + label / 2, which, room, fontsize=8)
        top += label
        page.imshow(pixels, extent=(left, left + width, top + height, top), interpolation="nearest")
        top += height + _MARGIN
    figures.save_page(page, path)


def _filters(first: int, last: int) -> str:
    return f"filter {first}" if first == last else f"filters {first} to {last}"
