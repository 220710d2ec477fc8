"""Keeps a run's progress safe: resumes from the newest checkpoint, saves when one is due, stops on a signal."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from jaxalex.errors import Stopped, UsageError
from jaxalex.system import interrupt, lock
from jaxalex.system.interrupt import Asked
from jaxalex.training import advice
from jaxalex.training.checkpoint import Checkpoints
from jaxalex.training.progress import Progress, check_same_run, differences
from jaxalex.training.schedule import Schedule, Stopwatch
from jaxalex.training.state import TrainState


class Keeper:
    """What stands between the training loop and the checkpoints.

    It remembers which step was saved last and when; everything else it is given.

    Args:
      checkpoints: where to save.
      record: what every checkpoint says of the run, from `jaxalex.training.progress.describe_run`.
      steps_per_epoch: training steps in each epoch.
      schedule: when a checkpoint is due inside an epoch.
      workdir: the run's folder, as people are to read it.
      asked: gives the signal that has asked the run to stop, or None.
      stopwatch: the time spent on the run.
      check_lock: raises RunError if the folder is no longer locked.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        record: dict[str, Any],
        steps_per_epoch: int,
        schedule: Schedule,
        workdir: pathlib.Path,
        asked: Asked,
        stopwatch: Stopwatch,
        check_lock: lock.Check = lambda: None,
    ) -> None:
        self._checkpoints = checkpoints
        self._record = record
        self._steps_per_epoch = steps_per_epoch
        self._schedule = schedule
        self._workdir = workdir
        self._asked = asked
        self._stopwatch = stopwatch
        self.check_lock = check_lock
        self._saved_at = stopwatch.now()
        self._saved_step: int | None = None

    def restore(self, like: TrainState, say: Callable[[str], None]) -> tuple[TrainState, Progress]:
        """State and progress of the newest intact checkpoint; ``like`` and no progress where nothing was saved yet.

        Args:
          like: a state of the same network and optimizer.
          say: gets a line for each thing worth knowing, damaged checkpoints among them.

        Raises:
          UsageError: all checkpoints are damaged, or they belong to another configuration or other data; the message
            lists every difference. Or more epochs were trained than the configuration has.
        """
        try:
            found = self._checkpoints.restore(like, say)
        except OSError as error:  # whether anything is saved is not known: to say so would be no help
            raise UsageError(f"{error.filename or self._workdir}: {error.strerror or error}") from error
        if found is None:
            return like, Progress()
        step, state, record = found
        try:
            progress = Progress.from_record(record.get("progress", {}))
            check_same_run(record, self._record)
            recorded = progress.step(self._steps_per_epoch)
            if not step == recorded == int(state.step):
                raise UsageError(f"its record is of step {recorded}, its state of step {int(state.step)}")
            self._check_epochs(progress)
        except UsageError as error:
            raise UsageError(f"{self._workdir / 'checkpoints' / str(step)}: {error}") from error
        then, now = record.get("environment"), self._record["environment"]
        if then != now:
            say(f"note: {differences(then, now)}: the result may differ in its last bits from an unbroken run's")
        self._stopwatch = dataclasses.replace(self._stopwatch, before=progress.wall_seconds)
        self._saved_step = step
        say(f"going on   after step {step:,}, in epoch {progress.epoch}")
        return state, progress

    def _check_epochs(self, progress: Progress) -> None:
        begun = progress.epoch if progress.tally.step else progress.epoch - 1
        wanted = self._record["config"]["num_epochs"]
        if begun > wanted:
            raise UsageError(
                f"{begun} epochs were begun, but num_epochs is {wanted} now: set it to {begun} or more in config.json"
            )

    def due(self, epoch: int, step: int) -> bool:
        """Whether the run should pause after this step of an epoch, to save or to stop."""
        if self._asked():
            return True
        taken = (epoch - 1) * self._steps_per_epoch + step
        return self._schedule.due(taken, self._saved_step or 0, self._stopwatch.now() - self._saved_at)

    def save(self, state: TrainState, progress: Progress, eval_accuracy: float | None = None) -> None:
        """Saves, unless this very step is saved already.

        Args:
          state: as in `Checkpoints.save`.
          progress: that belongs to it.
          eval_accuracy: as in `Checkpoints.save`.

        Raises:
          RunError: as in `Checkpoints.save`; or the folder is no longer locked.
        """
        self.check_lock()
        step = progress.step(self._steps_per_epoch)
        if step != self._saved_step:
            progress = dataclasses.replace(progress, wall_seconds=self.wall_seconds())
            self._checkpoints.save(step, state, self._record | {"progress": progress.to_record()}, eval_accuracy)
            self._saved_step = step
        self._saved_at = self._stopwatch.now()

    def stop_if_asked(self, state: TrainState, progress: Progress) -> None:
        """Saves and ends the run if a signal has asked for it.

        Raises:
          Stopped: a signal has; the message says how to resume.
        """
        signal_number = self._asked()
        if signal_number is None:
            return
        self.save(state, progress)
        raise Stopped(
            f"stopped by {interrupt.describe(signal_number)}; {advice.how_to_resume(self._workdir, self._saved_step)}",
            signal_number,
        )

    def saved_step(self) -> int | None:
        """Training steps behind the newest checkpoint; None where there is none."""
        return self._saved_step

    def wall_seconds(self) -> float:
        """Time spent on the run so far, without the pauses between its processes."""
        return self._stopwatch.seconds()
