"""The pictures that show how a network judges: examples of each class, and its most confident mistakes."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxalex.training import figures
from jaxalex.training.figures import RIGHT, WRONG

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES = 20
_SIDE, _LARGER = 1.0, 1.3  # inches: a picture among examples, among mistakes
_GAP, _LINE = 0.12, 0.16  # inches: between pictures, a line of text
_MARGIN, _TITLE = 0.2, 0.65  # inches
_HEADING = 2.0  # inches: the name of a class in front of its row
_PER_CLASS = 8  # pictures
_ACROSS, _DOWN = 8, 4  # mistakes

Pictures = Callable[[np.ndarray], np.ndarray]


def examples(labels: np.ndarray, number: int, each: int) -> list[np.ndarray]:
    """For each class below ``number``, where its first ``each`` pictures are.

    >>> [found.tolist() for found in examples(np.array([1, 0, 1, 1, 2]), 2, 2)]
    [[1], [0, 2]]
    """
    return [np.flatnonzero(labels == label)[:each] for label in range(number)]


def write_examples(
    path: pathlib.Path, images: Pictures, labels: np.ndarray, logits: np.ndarray, class_names: Sequence[str]
) -> None:
    """A PNG with a row for each class, of the first 20 at most: its accuracy, and its first pictures with predictions.

    Args:
      path: the file.
      images: gives those at indices (int ``[m]``), uint8 ``[m, height, width, channel]``.
      labels: int ``[n]``.
      logits: ``[n, classes]``.
      class_names: in label order.
    """
    predictions = logits.argmax(axis=1)
    rows = examples(labels, min(len(class_names), MOST_CLASSES), _PER_CLASS)
    shown = np.concatenate(rows)
    pixels = dict(zip(shown.tolist(), images(shown), strict=True))
    step = _SIDE + _LINE + _GAP
    width = 2 * _MARGIN + _HEADING + _PER_CLASS * (_SIDE + _GAP) - _GAP
    page = figures.page(width, _TITLE + len(rows) * step + _MARGIN)
    which = f"The first {len(rows)} of {len(class_names):,} classes" if len(class_names) > len(rows) else "Every class"
    _title(
        page,
        width,
        f"{which}: its accuracy, and its first pictures in the test set",
        "Below each picture: what is predicted, green where it is right, red where it is wrong.",
    )
    for row, found in enumerate(rows):
        y = _TITLE + row * step
        here = labels == row
        right, count = int((predictions[here] == row).sum()), int(here.sum())
        figures.write(page, _MARGIN, y + 0.36, class_names[row], _HEADING - 0.1, fontsize=9, fontweight="bold")
        accuracy = f"{100 * right / count:.1f} %  ({right:,} of {count:,})" if count else "no test pictures"
        figures.write(page, _MARGIN, y + 0.58, accuracy, _HEADING - 0.1, fontsize=8)
        for column, index in enumerate(found.tolist()):
            x = _MARGIN + _HEADING + column * (_SIDE + _GAP)
            colour = RIGHT if predictions[index] == row else WRONG
            figures.picture(page, x, y, _SIDE, pixels[index], colour)
            below = x + _SIDE / 2, y + _SIDE + _LINE / 2 + 0.02
            name = class_names[predictions[index]]
            figures.write(page, *below, name, _SIDE + _GAP / 2, ha="center", fontsize=7, color=colour)
    figures.save_page(page, path)


def confident_mistakes(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Where the prediction is wrong, int64 ``[m]``: the surest first, by the softmax probability of what is predicted.

    >>> confident_mistakes(np.array([0, 0, 1]), np.array([[0.0, 1.0], [5.0, 0.0], [9.0, 0.0]])).tolist()
    [2, 0]
    """
    predictions = logits.argmax(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    # By the odds against it: of those that are almost sure the probabilities are all rounded to 1.
    against = np.exp(logits[wrong] - logits[wrong].max(axis=1, keepdims=True))
    against[np.arange(len(wrong)), predictions[wrong]] = 0
    return wrong[np.argsort(against.sum(axis=1), kind="stable")]


def write_mistakes(
    path: pathlib.Path, images: Pictures, labels: np.ndarray, logits: np.ndarray, class_names: Sequence[str]
) -> None:
    """A PNG of the 32 most confident mistakes, the surest first. The arguments are those of `write_examples`."""
    wrong = confident_mistakes(labels, logits)
    shown = wrong[: _ACROSS * _DOWN]
    step = _LARGER + 2 * _LINE + 2 * _GAP
    width = 2 * _MARGIN + _ACROSS * (_LARGER + _GAP) - _GAP
    page = figures.page(width, _TITLE + max(1, -(-len(shown) // _ACROSS)) * step + _MARGIN)
    if not len(shown):
        said = f"No mistakes: {len(labels):,} of {len(labels):,} test pictures are classified right."
        figures.write(page, width / 2, (_TITLE + step + _MARGIN) / 2, said, width, ha="center", fontsize=14)
        figures.save_page(page, path)
        return
    _title(
        page,
        width,
        f"Mistakes on {len(labels):,} test pictures: {len(shown)} of {len(wrong):,}, the most confident first",
        "Above each: what is predicted, with its probability; (what is true), with its probability.",
    )
    for place, (index, pixels) in enumerate(zip(shown.tolist(), images(shown), strict=True)):
        x = _MARGIN + place % _ACROSS * (_LARGER + _GAP)
        y = _TITLE + place // _ACROSS * step
        shares = _softmax(logits[index])
        predicted, true = logits[index].argmax(), labels[index]
        lines = ((class_names[predicted], shares[predicted], WRONG), (f"({class_names[true]})", shares[true], "black"))
        for line, (name, share, colour) in enumerate(lines):
            middle = y + (line + 0.5) * _LINE
            figures.write(page, x, middle, name, _LARGER - 0.45, fontsize=7, color=colour)
            percent = f"{100 * share:.1f} %"
            figures.write(page, x + _LARGER, middle, percent, 0.45, ha="right", fontsize=7, color=colour)
        figures.picture(page, x, y + 2 * _LINE + 0.03, _LARGER, pixels, WRONG)
    figures.save_page(page, path)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def _title(page: Axes, width: float, title: str, explanation: str) -> None:
    figures.write(page, width / 2, 0.22, title, width, ha="center", fontsize=11)
    figures.write(page, width / 2, 0.44, explanation, width, ha="center", fontsize=8)
