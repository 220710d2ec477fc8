"""When a checkpoint is due inside an epoch, when the learning rate falls, and how long a run has taken."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

_MOST_DIVISIONS = 3


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Checkpoints every so many steps or seconds; with neither, none is ever due inside an epoch.

    Attributes:
      every_steps: at least 1, or None.
      every_seconds: above 0, or None.
    """

    every_steps: int | None = None
    every_seconds: float | None = None

    def due(self, step: int, saved_step: int, seconds: float) -> bool:
        """Whether a checkpoint is due.

        Args:
          step: training steps taken in the run.
          saved_step: steps behind the newest checkpoint; 0 where there is none.
          seconds: since the newest checkpoint, or since the start.

        >>> [Schedule(every_steps=10).due(step, saved_step=8, seconds=0.0) for step in (9, 10, 12)]
        [False, True, True]
        >>> [Schedule(every_seconds=60.0).due(9, 8, seconds) for seconds in (59.0, 60.0)]
        [False, True]
        """
        if self.every_seconds is not None and seconds >= self.every_seconds:
            return True
        # One dispatch of several steps may jump over a multiple of every_steps instead of landing on it.
        return self.every_steps is not None and step // self.every_steps > saved_step // self.every_steps


def plateau_learning_rate(initial: float, accuracies: Sequence[float], patience: int) -> float:
    """The learning rate of the next epoch: divided by 10 whenever the evaluation has stopped improving.

    Krizhevsky et al. 2012, section 5: "divide the learning rate by 10 when the validation error rate stopped improving
    with the current learning rate", three times at most. Stopped means here: so many epochs in a row at this rate that
    were not better than every epoch before them.

    Args:
      initial: of the first epoch.
      accuracies: of the evaluation after each epoch so far, in percent.
      patience: epochs in a row without a new best one, at least 1.

    >>> [plateau_learning_rate(0.01, [50, 60, 60, 59][:n], patience=2) for n in range(5)]
    [0.01, 0.01, 0.01, 0.01, 0.001]
    """
    best, waited, divisions = -1.0, 0, 0
    for accuracy in accuracies:
        waited = 0 if accuracy > best else waited + 1
        best = max(best, accuracy)
        if waited == patience and divisions < _MOST_DIVISIONS:
            waited, divisions = 0, divisions + 1
    return initial / 10**divisions


@dataclasses.dataclass(frozen=True)
class Stopwatch:
    """Time spent on a run, without the pauses between its processes.

    Attributes:
      began: when this process began with the run, by ``now``.
      before: seconds that earlier processes spent on it.
      now: a clock in seconds that never goes back.
    """

    began: float
    before: float = 0.0
    now: Callable[[], float] = time.monotonic

    def seconds(self) -> float:
        """Spent on the run so far.

        >>> Stopwatch(began=100.0, before=7.0, now=lambda: 103.0).seconds()
        10.0
        """
        return self.before + self.now() - self.began
