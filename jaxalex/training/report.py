"""What a run tells people and programs in text: lines on the screen, metrics.jsonl, summary.json."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxalex.config import TrainConfig
from jaxalex.data import Splits
from jaxalex.system import environment, files

# The trainer speaks up when the mean loss has stayed within 1 % of ln(classes) for this many steps.
_PLATEAU_STEPS = 100


@dataclasses.dataclass(frozen=True)
class EpochRow:
    """One epoch's figures: losses are means over samples, accuracies percent, times seconds."""

    epoch: int
    train_loss: float
    train_accuracy: float
    eval_loss: float
    eval_accuracy: float
    seconds: float
    images_per_second: float
    skipped_steps: int = 0


def header_lines(config: TrainConfig, splits: Splits, parameters: int, image_size: int, device: str) -> list[str]:
    """What a run prints before it compiles: everything that decides its result.

    Args:
      config: the run's configuration.
      splits: its data.
      parameters: how many numbers the network learns.
      image_size: height and width, in pixels, of the images the network takes.
      device: the device, for people.
    """
    height, width, channels = splits.train.images.shape[1:]
    found = environment.versions()
    names = ("jaxalex", "jax", "flax", "optax", "python")
    decay = f", weight decay {config.weight_decay:g}" if config.weight_decay else ""
    resized = "" if (height, width) == (image_size, image_size) else f" (images resized to {image_size}x{image_size})"
    scaled = "" if config.width == 1 else f" at width {config.width:g}"
    start = f"{config.init} initialisation" if config.weights is None else "from a weights file"
    return [
        "versions   " + ", ".join(f"{name} {found[name]}" for name in names),
        f"device     {device}; {config.precision}",
        f"dataset    {splits.name} ({splits.source}): {len(splits.train):,} train, {len(splits.eval):,} eval, "
        f"{len(splits.test):,} test; {splits.num_classes} classes, {height}x{width}x{channels}",
        f"model      {config.model}{scaled}{resized}, {parameters:,} parameters, {start}",
        f"training   recipe {config.recipe}: {config.num_epochs} epochs, batch size {config.batch_size}, SGD with "
        f"learning rate {config.learning_rate:g}, momentum {config.momentum:g}{decay}; seed {config.seed}",
    ]


def epoch_line(row: EpochRow) -> str:
    """The line that a run prints after each epoch.

    >>> epoch_line(EpochRow(1, 1.931, 26.18, 1.553, 42.7, 400.0, 100.0))
    '[Epoch   1] train_loss: 1.931 train_acc: 26.180% eval_loss: 1.553 eval_acc: 42.700%'
    """
    return (
        f"[Epoch {row.epoch:3d}] train_loss: {row.train_loss:.3f} train_acc: {row.train_accuracy:.3f}% "
        f"eval_loss: {row.eval_loss:.3f} eval_acc: {row.eval_accuracy:.3f}%"
        + (f" skipped_steps: {row.skipped_steps}" if row.skipped_steps else "")
    )


def test_line(loss: float, accuracy: float) -> str:
    """The line with the result on the test set; ``accuracy`` is in percent.

    >>> test_line(1.553, 42.7)
    '[Test     ] loss: 1.553 acc: 42.700%'
    """
    return f"[Test     ] loss: {loss:.3f} acc: {accuracy:.3f}%"


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


def plateau_hint(init: str, num_classes: int) -> str:
    """The line for a run whose loss stays at ln(classes): why, and what to do.

    Args:
      init: the run's initialisation.
      num_classes: number of classes.
    """
    if init == "torch":
        why = "PyTorch's initialisation starts this network so small that it can sit there for hundreds of steps"
        what = "wait, or use --init flax"
    else:
        why = "the network has not begun to learn"
        what = "try --init flax, or another --learning-rate"
    return f"note: the loss still sits at ln({num_classes}) = {math.log(num_classes):.3f}. {why}: {what}."


def append_row(path: pathlib.Path, row: EpochRow) -> None:
    """Adds one epoch to ``metrics.jsonl``."""
    files.append(path, _json_line(row))


def write_rows(path: pathlib.Path, rows: Sequence[EpochRow]) -> None:
    """Replaces ``metrics.jsonl`` as a whole."""
    files.write_whole(path, "".join(_json_line(row) for row in rows))


def _json_line(row: EpochRow) -> str:
    return json.dumps(dataclasses.asdict(row), allow_nan=False) + "\n"


def write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    """Writes a JSON object, indented, as a whole."""
    files.write_whole(path, files.to_json(values))
