"""The pictures a run leaves: curves, a grid of predictions, a confusion matrix."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from jaxalex.training import figures
from jaxalex.training.figures import RIGHT, WRONG
from jaxalex.training.report import EpochRow

_TRAIN, _EVAL = "#1f6fb4", "#d9662b"
_SIDE, _GAP, _LINE = 1.2, 0.15, 0.16  # inches: a picture, between pictures, a line of text
_MARGIN, _TITLE = 0.2, 0.6  # inches
_LONGEST = 20  # characters of a class's name in a confusion matrix
_MOST_NAMED = 40  # classes whose names and counts can be read in a confusion matrix


def write_curves(path: pathlib.Path, rows: Sequence[EpochRow], title: str) -> None:
    """A PNG of loss and accuracy by epoch, on the train and eval splits."""
    from matplotlib.ticker import MaxNLocator

    figure = figures.figure(10, 4)
    figure.suptitle(figures.printable(title), fontsize=11, parse_math=False)
    axes = figure.subplots(1, 2)
    epochs = [row.epoch for row in rows]
    panels = (
        ("mean cross-entropy", [r.train_loss for r in rows], [r.eval_loss for r in rows]),
        ("accuracy, %", [r.train_accuracy for r in rows], [r.eval_accuracy for r in rows]),
    )
    for axis, (label, train, evaluation) in zip(axes, panels, strict=True):
        axis.plot(epochs, train, "o-", color=_TRAIN, markersize=4, label="train (during the epoch)")
        axis.plot(epochs, evaluation, "s-", color=_EVAL, markersize=4, label="eval (after the epoch)")
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figures.save(figure, path)


def write_predictions(
    path: pathlib.Path,
    images: Callable[[np.ndarray], np.ndarray],
    labels: np.ndarray,
    logits: np.ndarray,
    class_names: Sequence[str],
    columns: int = 8,
    rows: int = 4,
) -> None:
    """A PNG of test pictures with prediction and truth; mistakes are framed in red.

    The first half shows the first pictures of the test set, the second half the first mistakes; where there are too
    few of them, more pictures follow.

    Args:
      images: gives those at indices (int ``[m]``), uint8 ``[m, height, width, channel]``.
      labels: int ``[n]``.
      logits: ``[n, classes]``.
      class_names: in label order.
    """
    predictions = logits.argmax(axis=1)
    count = min(columns * rows, len(labels))
    first = np.arange(len(labels))[: (count + 1) // 2]
    wrong = np.flatnonzero(predictions != labels)
    mistakes = wrong[~np.isin(wrong, first)][: count - len(first)]
    others = np.setdiff1d(np.arange(len(labels)), np.concatenate([first, mistakes]))
    shown = np.concatenate([first, mistakes, others[: count - len(first) - len(mistakes)]])

    step = 2 * _LINE + _SIDE + _GAP
    width = 2 * _MARGIN + columns * (_SIDE + _GAP) - _GAP
    page = figures.page(width, _TITLE + rows * step + _MARGIN)
    right = int((predictions == labels).sum())
    title = (
        f"{right} of {len(labels)} test pictures right. First half: the first ones; second half: the first mistakes."
    )
    figures.write(page, width / 2, 0.2, title, width, ha="center", fontsize=9)
    colours = "Green: as predicted and true. Red: predicted, (true)."
    figures.write(page, width / 2, 0.4, colours, width, ha="center", fontsize=9)
    for place, (index, picture) in enumerate(zip(shown.tolist(), images(shown), strict=True)):
        x = _MARGIN + place % columns * (_SIDE + _GAP)
        y = _TITLE + place // columns * step
        predicted, truth = class_names[predictions[index]], class_names[labels[index]]
        good = predictions[index] == labels[index]
        colour = RIGHT if good else WRONG
        for line, name in enumerate(("", predicted) if good else (predicted, f"({truth})")):
            middle = x + _SIDE / 2, y + (line + 0.5) * _LINE
            figures.write(page, *middle, name, _SIDE + _GAP / 2, ha="center", fontsize=8, color=colour)
        figures.picture(page, x, y + 2 * _LINE + 0.03, _SIDE, picture, colour)
    figures.save_page(page, path)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts, int64 ``[true, predicted]``.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    flat = labels.astype(np.int64) * num_classes + predictions
    return np.bincount(flat, minlength=num_classes**2).reshape(num_classes, num_classes)


def _tick_size(names: Sequence[str]) -> float:
    """In points: matplotlib's own for ten classes, smaller where more must fit into the same length."""
    return 10 if len(names) <= 15 else 150 / len(names)


def write_confusion(path: pathlib.Path, labels: np.ndarray, logits: np.ndarray, class_names: Sequence[str]) -> None:
    """A PNG of the confusion matrix on the test set, shaded by the share of each true class.

    Of many classes there are neither names nor counts, only their numbers: the matrix is looked at as a whole.
    """
    counts = confusion_matrix(labels, logits.argmax(axis=1), len(class_names))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = figures.figure(7.2, 6.6)
    axis = figure.subplots()
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    named = len(class_names) <= _MOST_NAMED
    if named:
        names, ticks = [figures.shortened(name, _LONGEST) for name in class_names], range(len(class_names))
        axis.set_xticks(
            ticks, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=_tick_size(names), parse_math=False
        )
        axis.set_yticks(ticks, names, fontsize=_tick_size(names), parse_math=False)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(f"Confusion on {len(labels)} test pictures" + " (counts)" * named, fontsize=11)
    for (i, j), count in np.ndenumerate(counts):
        if count and named:
            axis.text(
                j,
                i,
                str(count),
                ha="center",
                va="center",
                fontsize=8 if len(class_names) <= 20 else 5,
                color="white" if share[i, j] > 0.5 else "black",
            )
    figure.colorbar(image, ax=axis, label="share of the true class", shrink=0.8)
    figures.save(figure, path)
