"""What a run tells people and programs in text: lines on the screen, metrics.jsonl, summary.json."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxalex.config import TrainConfig
from jaxalex.data import Splits
from jaxalex.system import environment, files

# The trainer speaks up when the mean loss has stayed within 1 % of ln(classes) for this many steps.
_PLATEAU_STEPS = 100
# Of a field that the first checkpoints did not have: where it is missing, it had its default's value.
ADDED = {"added": True}


@dataclasses.dataclass(frozen=True)
class EpochRow:
    """One epoch's figures: losses are means over samples, accuracies percent, times seconds.

    ``learning_rate`` is None, and is left out of every file, where it is the same in all epochs; so is
    ``waiting_seconds``, in which the device waited for pictures, where all of them are in memory. ``unreadable`` counts
    pictures, of train and eval, that were left out.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    eval_loss: float
    eval_accuracy: float
    seconds: float
    images_per_second: float
    skipped_steps: int = 0
    learning_rate: float | None = None
    waiting_seconds: float | None = None
    unreadable: int = dataclasses.field(default=0, metadata=ADDED)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, without those that are None, and without a count of no unreadable pictures."""
        values = dataclasses.asdict(self)
        return {name: v for name, v in values.items() if v is not None and (name != "unreadable" or v)}


def header_lines(config: TrainConfig, splits: Splits, parameters: int, image_size: int, device: str) -> list[str]:
    """What a run prints before it compiles: everything that decides its result.

    Args:
      config: the run's configuration.
      splits: its data.
      parameters: how many numbers the network learns.
      image_size: height and width, in pixels, of the images the network takes.
      device: the device, for people.
    """
    height, width, channels = splits.train.image_shape
    found = environment.versions()
    names = ("jaxalex", "jax", "flax", "optax", "python")
    decay = f", weight decay {config.weight_decay:g}" if config.weight_decay else ""
    falls = " (plateau)" if config.schedule == "plateau" else ""
    fitted = _fitted(config, (height, width), image_size)
    left_out = f"; unreadable pictures left out: {splits.bad_images:,}" if splits.bad_images else ""
    scaled = "" if config.width == 1 else f" at width {config.width:g}"
    start = f"{config.init} initialisation" if config.weights is None else "from a weights file"
    return [
        "versions   " + ", ".join(f"{name} {found[name]}" for name in names),
        f"device     {device}; {config.precision}",
        f"dataset    {splits.name} ({splits.source}): {len(splits.train):,} train, {len(splits.eval):,} eval, "
        f"{len(splits.test):,} test; {splits.num_classes} classes, {height}x{width}x{channels}{left_out}",
        f"model      {config.model}{scaled}{fitted}, {parameters:,} parameters, {start}",
        f"training   recipe {config.recipe}: {config.num_epochs} epochs, batch size {config.batch_size}, SGD with "
        f"learning rate {config.learning_rate:g}{falls}, momentum {config.momentum:g}{decay}; seed {config.seed}",
    ]


def _fitted(config: TrainConfig, stored_hw: tuple[int, int], image_size: int) -> str:
    """How images of another size than the network takes are brought to it."""
    size = f"{image_size}x{image_size}"
    if config.augment == "paper":
        patch = "x".join(str(min(stored, image_size)) for stored in stored_hw)
        return f" (random patches of {patch}" + (")" if patch == size else f", resized to {size})")
    return "" if stored_hw == (image_size, image_size) else f" (images resized to {size})"


def epoch_line(row: EpochRow) -> str:
    """The line that a run prints after each epoch.

    >>> epoch_line(EpochRow(1, 1.931, 26.18, 1.553, 42.7, 400.0, 100.0))
    '[Epoch   1] train_loss: 1.931 train_acc: 26.180% eval_loss: 1.553 eval_acc: 42.700%'
    """
    return (
        f"[Epoch {row.epoch:3d}] train_loss: {row.train_loss:.3f} train_acc: {row.train_accuracy:.3f}% "
        f"eval_loss: {row.eval_loss:.3f} eval_acc: {row.eval_accuracy:.3f}%"
        + (f" skipped_steps: {row.skipped_steps}" if row.skipped_steps else "")
        + (f" learning_rate: {row.learning_rate:g}" if row.learning_rate is not None else "")
        + (f" unreadable: {row.unreadable}" if row.unreadable else "")
        + (f" waiting: {row.waiting_seconds / row.seconds:.1%}" if row.waiting_seconds is not None else "")
    )


def test_line(loss: float, accuracy: float, top5: float | None, crops: int) -> str:
    """The line with the result on the test set.

    Args:
      loss: the mean cross-entropy.
      accuracy, top5: in percent; the error is what they lack of 100. A top-5 accuracy of None is left out.
      crops: of how many views of each picture the predictions were averaged.

    >>> test_line(1.553, 42.7, None, crops=1)
    '[Test     ] loss: 1.553 acc: 42.700%'
    >>> test_line(1.503, 44.1, 89.2, crops=10)
    '[10 crops ] loss: 1.503 acc: 44.100% top5: 89.200%'
    """
    name = "Test" if crops == 1 else f"{crops} crops"
    return f"[{name:9}] loss: {loss:.3f} acc: {accuracy:.3f}%" + ("" if top5 is None else f" top5: {top5:.3f}%")


def top5_accuracy(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """How many labels are among the five classes of the highest logits, in percent; of equal ones the first classes.

    Args:
      logits: ``[n, classes]``.
      labels: int ``[n]``.

    Returns:
      None where there are no more than five classes.

    >>> top5_accuracy(np.zeros((2, 6)), np.array([4, 5]))
    50.0
    """
    classes = np.arange(logits.shape[1])[None]
    if classes.size <= 5:
        return None
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    before = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    return 100 * float((before.sum(axis=1) < 5).mean())


def reaches_plateau(rows: Sequence[EpochRow], steps_per_epoch: int, num_classes: int) -> bool:
    """Whether, with the last epoch, the loss has stayed at ln(classes) for long enough to say so; true only once.

    Args:
      rows: the epochs so far.
      steps_per_epoch: training steps in each.
      num_classes: a network that knows nothing has a loss of ln(classes).
    """
    level = math.log(num_classes)
    stayed = 0
    for row in reversed(rows):
        if abs(row.train_loss - level) > 0.01 * level:
            break
        stayed += steps_per_epoch
    return _PLATEAU_STEPS <= stayed < _PLATEAU_STEPS + steps_per_epoch


def plateau_hint(init: str | None, num_classes: int) -> str:
    """The line for a run whose loss stays at ln(classes): why, and what to do.

    Args:
      init: the run's initialisation; None for a run that started from a file of weights.
      num_classes: number of classes.
    """
    if init == "torch":
        why = "PyTorch's initialisation starts this network so small that it can sit there for hundreds of steps"
        what = "wait, or use --init flax"
    else:
        why = "the network has not begun to learn"
        what = "try another --learning-rate" if init is None else "try --init flax, or another --learning-rate"
    return f"note: the loss still sits at ln({num_classes}) = {math.log(num_classes):.3f}. {why}: {what}."


def append_row(path: pathlib.Path, row: EpochRow) -> None:
    """Adds one epoch to ``metrics.jsonl``."""
    files.append(path, _json_line(row))


def write_rows(path: pathlib.Path, rows: Sequence[EpochRow]) -> None:
    """Replaces ``metrics.jsonl`` as a whole."""
    files.write_whole(path, "".join(_json_line(row) for row in rows))


def _json_line(row: EpochRow) -> str:
    return json.dumps(row.to_json(), allow_nan=False) + "\n"


def write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Writes a JSON object, indented, as a whole."""
    files.write_whole(path, files.to_json(values))
