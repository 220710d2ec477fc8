"""Where a training run stands: what a checkpoint records of it, when one is due, and what must agree to go on."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import shlex
import stat
import time
import typing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxalex import config as config_lib
from jaxalex.config import TrainConfig
from jaxalex.data import Splits
from jaxalex.errors import Stopped, UsageError
from jaxalex.system.interrupt import Asked
from jaxalex.training.checkpoint import Checkpoints
from jaxalex.training.epochs import Tally
from jaxalex.training.report import EpochRow
from jaxalex.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
      epoch: the epoch under way, from 1; one more than there are when all are done.
      tally: how far it has come.
      rows: the finished epochs.
      wall_seconds: spent on the run so far, interruptions left out.
    """

    epoch: int = 1
    tally: Tally = Tally()  # noqa: RUF009 (frozen)
    rows: tuple[EpochRow, ...] = ()
    wall_seconds: float = 0.0

    def to_record(self) -> dict[str, Any]:
        """As JSON values; Python writes floats so that they come back bit for bit."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Progress:
        """The inverse of `to_record`.

        Raises:
          UsageError: it is not what `to_record` wrote.
        """
        try:
            return Progress(
                epoch=_number(record["epoch"], int),
                tally=_build(Tally, record["tally"]),
                rows=tuple(_build(EpochRow, row) for row in record["rows"]),
                wall_seconds=_number(record["wall_seconds"], float),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"its record is damaged ({error!r})") from error


def _number(value: Any, kind: type[int] | type[float]) -> Any:
    if type(value) is not kind or not value >= 0:
        raise ValueError(f"{value!r} is no {kind.__name__} of at least 0")
    return value


def _build(kind: type, values: Mapping[str, Any]) -> Any:
    types = typing.get_type_hints(kind)
    if values.keys() != types.keys():
        raise ValueError(f"{sorted(values)} instead of {sorted(types)}")
    return kind(**{name: _number(value, types[name]) for name, value in values.items()})


class Keeper:
    """Saves a run's progress when it is due, and stops the run when a signal has asked for that.

    Args:
      checkpoints: where to.
      record: what every checkpoint says of the run: ``config``, ``split``, ``dropout_key``, ``environment``.
      config: the run's configuration.
      workdir: its folder.
      asked: which signal has asked the run to stop, if any.
      began: when this process began with the run, by `time.monotonic`; None is now.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        record: dict[str, Any],
        config: TrainConfig,
        workdir: pathlib.Path,
        asked: Asked,
        began: float | None = None,
    ) -> None:
        self._checkpoints = checkpoints
        self._record = record
        self._steps_per_epoch = -(-record["split"]["train"] // config.batch_size)
        self._every_steps, self._every_seconds = config_lib.parse_every(config.checkpoint_every)
        self._workdir = workdir
        self._asked = asked
        self._saved_at = time.monotonic()
        self._began = self._saved_at if began is None else began
        self._wall_before = 0.0
        self._saved_step: int | None = None

    def restore(self, like: TrainState, say: Callable[[str], None]) -> tuple[TrainState, Progress]:
        """State and progress of the newest checkpoint that is whole; ``like`` and none where nothing was saved yet.

        Raises:
          UsageError: all checkpoints are damaged, or they belong to another configuration or other data; all that
            differs is listed.
        """
        found = self._checkpoints.restore(like, say)
        if found is None:
            return like, Progress()
        step, state, record = found
        try:
            progress = Progress.from_record(record.get("progress", {}))
            self._compare(record)
            position = (progress.epoch - 1) * self._steps_per_epoch + progress.tally.step
            if not step == position == int(state.step):
                raise UsageError(f"its record is of step {position}, its state of step {int(state.step)}")
        except UsageError as error:
            raise UsageError(f"{self._workdir / 'checkpoints' / str(step)}: {error}") from error
        then, now = record.get("environment"), self._record["environment"]
        if then != now:
            say(f"note: {_differences(then, now)}: the result may differ in its last bits from an unbroken run's")
        self._wall_before, self._saved_step = progress.wall_seconds, step
        say(f"going on   after step {step:,}, in epoch {progress.epoch}")
        return state, progress

    def _compare(self, record: Mapping[str, Any]) -> None:
        for part in ("config", "split", "dropout_key"):
            then, now = record.get(part), self._record[part]
            if part == "config" and isinstance(then, dict):
                then, now = ({k: v for k, v in d.items() if k not in config_lib.MAY_CHANGE} for d in (then, now))
            if then != now:
                raise UsageError(f"is of another {part}: {_differences(then, now)}")

    def due(self, epoch: int, step: int) -> bool:
        """Whether the run should pause after this step of an epoch."""
        if self._asked():
            return True
        if self._every_seconds is not None and time.monotonic() - self._saved_at >= self._every_seconds:
            return True
        if self._every_steps is None:
            return False
        # A dispatch of several steps may pass the mark instead of hitting it.
        return self._position(epoch, step) // self._every_steps > (self._saved_step or 0) // self._every_steps

    def save(self, state: TrainState, progress: Progress, eval_accuracy: float | None = None) -> None:
        """Saves, unless this very step is saved already.

        Raises:
          RunError: as in `Checkpoints.save`.
        """
        step = self._position(progress.epoch, progress.tally.step)
        if step != self._saved_step:
            progress = dataclasses.replace(progress, wall_seconds=self.wall_seconds())
            record = self._record | {"progress": progress.to_record()}
            self._checkpoints.save(step, state, record, eval_accuracy)
            self._saved_step = step
        self._saved_at = time.monotonic()

    def stop_if_asked(self, state: TrainState, progress: Progress) -> None:
        """Saves and ends the run if a signal has asked for it.

        Raises:
          Stopped: then.
        """
        signal_number = self._asked()
        if signal_number is None:
            return
        self.save(state, progress)
        name = "Ctrl-C" if signal_number.name == "SIGINT" else signal_number.name
        raise Stopped(f"stopped by {name}; {self.advice()}", signal_number)

    def saved(self) -> str:
        """What is saved."""
        if self._saved_step is None:
            return "nothing was saved yet"
        if self._has_gone():
            return "what was saved has gone with the folder"
        return f"the run is saved up to step {self._saved_step:,}"

    def _has_gone(self) -> bool:
        try:
            return not stat.S_ISDIR(self._workdir.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:  # it may be there and only out of reach
            return False

    def advice(self) -> str:
        """What is saved, and how to go on from there."""
        if self._has_gone():
            return self.saved()
        return f"{self.saved()}: go on with python -m jaxalex.train --resume {shlex.quote(str(self._workdir))}"

    def wall_seconds(self) -> float:
        """Spent on the run so far, interruptions left out."""
        return self._wall_before + time.monotonic() - self._began

    def _position(self, epoch: int, step: int) -> int:
        return (epoch - 1) * self._steps_per_epoch + step


def describe_split(splits: Splits, seed: int) -> dict[str, Any]:
    """A split by its content, wherever it was read from: sizes, and SHA-256 over all images and labels in order."""
    digest = hashlib.sha256()
    parts = {"train": splits.train, "eval": splits.eval, "test": splits.test}
    for part in parts.values():
        for array in (part.images, part.labels):
            digest.update(np.ascontiguousarray(array).data)
    return {"dataset": splits.name, "seed": seed, **{n: len(p) for n, p in parts.items()}, "sha256": digest.hexdigest()}


def _differences(then: Any, now: Any) -> str:
    """Every entry in which two records differ, for people."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return f"{then!r} then, {now!r} now"
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return "; ".join(f"{name} {then.get(name)!r} then, {now.get(name)!r} now" for name in names)
