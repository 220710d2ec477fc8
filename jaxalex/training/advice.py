"""What people read when a run ends early: what went wrong, what is saved, and how to resume."""

from __future__ import annotations

import contextlib
import pathlib
import shlex
import stat
from collections.abc import Callable, Iterator

from jaxalex.config import TrainConfig
from jaxalex.errors import NotFiniteError, RunError
from jaxalex.system import files


def saved(workdir: pathlib.Path, step: int | None) -> str:
    """What is saved of a run.

    Args:
      workdir: the run's folder.
      step: training steps behind its newest checkpoint; None where there is none.

    >>> saved(pathlib.Path("."), 1200)
    'the run is saved up to step 1,200'
    """
    if step is None:
        return "nothing was saved yet"
    if _is_gone(workdir):
        return "what was saved has gone with the folder"
    return f"the run is saved up to step {step:,}"


def how_to_resume(workdir: pathlib.Path, step: int | None) -> str:
    """What is saved, and the command that resumes from it. The arguments are those of `saved`.

    >>> how_to_resume(pathlib.Path("."), None)
    'nothing was saved yet: go on with python -m jaxalex.train --resume .'
    """
    if _is_gone(workdir):
        return saved(workdir, step)
    return f"{saved(workdir, step)}: go on with python -m jaxalex.train --resume {shlex.quote(str(workdir))}"


def _is_gone(workdir: pathlib.Path) -> bool:
    try:
        return not stat.S_ISDIR(workdir.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it may exist and only be out of reach
        return False


def _against_nonfinite(config: TrainConfig) -> str:
    """What may have made a number infinite or NaN, and what to try.

    >>> _against_nonfinite(TrainConfig(learning_rate=9.0))
    'learning rate 9: try a lower --learning-rate, another --init, or --on-nonfinite skip'
    >>> _against_nonfinite(TrainConfig(weight_decay=1e9, on_nonfinite="skip"))
    'learning rate 0.01, weight decay 1e+09: try a lower --weight-decay'
    """
    values = f"learning rate {config.learning_rate:g}"
    if config.weight_decay:
        values += f", weight decay {config.weight_decay:g}"
    # Beyond this the decay alone makes every parameter grow from step to step, whatever the gradient.
    if config.learning_rate * config.weight_decay >= 2 * (1 + config.momentum):
        return f"{values}: try a lower --weight-decay"
    tries = ["a lower --learning-rate", "another --init"]
    if config.weight_decay:
        tries.insert(1, "a lower --weight-decay")
    if config.precision == "bfloat16":
        tries.append("--precision float32")
    if config.on_nonfinite != "skip":
        tries.append("--on-nonfinite skip")
    return f"{values}: try {', '.join(tries[:-1])}, or {tries[-1]}"


@contextlib.contextmanager
def failures_explained(
    workdir: pathlib.Path, config: TrainConfig, saved_step: Callable[[], int | None]
) -> Iterator[None]:
    """Turns failures inside the context into errors that say what was saved and how to resume.

    Args:
      workdir: the run's folder.
      config: the run's.
      saved_step: gives the step of the newest checkpoint at the time of the failure, None where there is none.

    Raises:
      RunError: in place of any `RunError`, OSError or FloatingPointError (under JAX_DEBUG_NANS).
    """
    try:
        yield
    except (NotFiniteError, FloatingPointError) as error:
        what = files.first_line(error).rstrip(".")
        raise RunError(f"{what}, {_against_nonfinite(config)} ({saved(workdir, saved_step())})") from error
    except RunError as error:
        raise RunError(f"{error}; {how_to_resume(workdir, saved_step())}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"{error.filename or workdir}: {reason}; {how_to_resume(workdir, saved_step())}") from error
