"""What people read when a run ends early: what went wrong, what is saved, and how to resume."""

from __future__ import annotations

import contextlib
import pathlib
import shlex
import stat
from collections.abc import Callable, Iterator

from jaxalex.errors import NotFiniteError, RunError


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


@contextlib.contextmanager
def failures_explained(
    workdir: pathlib.Path, learning_rate: float, saved_step: Callable[[], int | None]
) -> Iterator[None]:
    """Turns failures inside the context into errors that say what was saved and how to resume.

    Args:
      workdir: the run's folder.
      learning_rate: the run's.
      saved_step: gives the step of the newest checkpoint at the time of the failure, None where there is none.

    Raises:
      RunError: in place of any `RunError` or OSError.
    """
    try:
        yield
    except NotFiniteError as error:
        raise RunError(
            f"{error}, learning rate {learning_rate:g}: try a lower --learning-rate, another --init, or "
            f"--on-nonfinite skip ({saved(workdir, saved_step())})"
        ) from error
    except RunError as error:
        raise RunError(f"{error}; {how_to_resume(workdir, saved_step())}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"{error.filename or workdir}: {reason}; {how_to_resume(workdir, saved_step())}") from error
