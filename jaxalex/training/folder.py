"""The folder of a run: what may lie in it, and whether a run can begin or go on there.

A run folder may come from a stranger. Its own names must be regular files and folders: nothing is ever written or read
through a link in it, and nothing waits for a pipe. The run folder itself may be a link.
"""

from __future__ import annotations

import datetime
import itertools
import os
import pathlib
import shlex

from jaxalex.errors import UsageError
from jaxalex.system import files, lock
from jaxalex.training.checkpoint import Checkpoints

_CONFIG, _METRICS, _SUMMARY, _WEIGHTS = "config.json", "metrics.jsonl", "summary.json", "model.safetensors"
_PICTURES = ("curves.png", "predictions.png", "confusion.png", "filters.png", "examples.png", "mistakes.png")
_FILES = (_CONFIG, _METRICS, _SUMMARY, _WEIGHTS, *_PICTURES)
_CHECKPOINTS = "checkpoints"


def make_new(dataset: str) -> pathlib.Path:
    """Makes a folder under ``runs/``, named after the time and the data set; two runs never get the same.

    Raises:
      UsageError: it cannot be made.
    """
    stem = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{dataset}"
    for number in itertools.count(1):
        path = pathlib.Path("runs") / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"{path}: cannot be made ({error.strerror}): give --workdir") from error
    return path


def check(workdir: pathlib.Path, resume: bool = False) -> None:
    """Refuses a folder that a run cannot use: one that holds anything, as no run is ever overwritten.

    Args:
      workdir: the run's folder.
      resume: the folder must hold a run instead, with a checkpoint unless nothing came of it yet.

    Raises:
      UsageError: the folder cannot be used; it, or what is wrong in it, is named.
    """
    _refuse_unwritable_name(workdir)
    try:
        holds_run = files.kind(workdir / _CONFIG) is not None
        others = files.kind(workdir) is not None and (not workdir.is_dir() or bool(_strangers(workdir)))
        if resume and holds_run:
            refuse_strange(workdir)
            _refuse_without_checkpoints(workdir)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UsageError(f"{workdir}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if resume:
        if not holds_run:
            raise UsageError(f"{workdir}: holds no run to resume")
    elif holds_run:
        raise UsageError(
            f"{workdir}: already holds a run, which is never overwritten: choose another --workdir, or go on with it: "
            f"--resume {shlex.quote(str(workdir))}"
        )
    elif others:
        raise UsageError(f"{workdir}: is not an empty folder: choose another --workdir")


def _refuse_unwritable_name(workdir: pathlib.Path) -> None:
    """Refuses a name that Orbax could not write to, before an epoch is trained for nothing."""
    try:
        str(workdir.absolute()).encode()
    except UnicodeEncodeError as error:
        name = os.fsencode(workdir).decode(errors="backslashreplace")
        raise UsageError(
            f"{name}: its name is not UTF-8 here, which checkpoints need: choose another folder, or set PYTHONUTF8=1 "
            "if the name looks right to you"
        ) from error


def refuse_strange(workdir: pathlib.Path) -> None:
    """Refuses a run folder in which one of a run's own names is a link, a pipe, a socket, a device, or unreadable.

    Raises:
      UsageError: naming the first of them.
    """
    try:
        for name in (*_FILES, lock.NAME):
            _refuse_other_than(files.REGULAR, workdir / name)
        _refuse_other_than(files.FOLDER, workdir / _CHECKPOINTS)
        folders = [workdir / _CHECKPOINTS] if (workdir / _CHECKPOINTS).is_dir() else []
        while folders:
            folder = folders.pop()
            _refuse_unreadable(folder, os.R_OK | os.X_OK)
            for path in sorted(folder.iterdir()):
                if files.kind(path) == files.FOLDER:
                    folders.append(path)
                else:
                    _refuse_other_than(files.REGULAR, path)
                    _refuse_unreadable(path, os.R_OK)
    except OSError as error:
        raise UsageError(f"{error.filename or workdir}: cannot be read ({error.strerror})") from error


def _refuse_other_than(wanted: str, path: pathlib.Path) -> None:
    found = files.kind(path)
    if found not in (wanted, None):
        raise UsageError(f"{path}: is {found}, not {wanted}: a run folder must hold what is its own")


def _refuse_unreadable(path: pathlib.Path, mode: int) -> None:
    """What may not be read is not damaged: an older checkpoint must not silently take its place."""
    if not os.access(path, mode, effective_ids=os.access in os.supports_effective_ids):
        raise UsageError(f"{path}: cannot be read: change its permissions or its owner")


def _refuse_without_checkpoints(workdir: pathlib.Path) -> None:
    """Refuses a run whose checkpoints are gone: it would begin anew and overwrite what had come of it."""
    if Checkpoints(workdir / _CHECKPOINTS).steps():
        return
    rows = workdir / _METRICS
    left = [name for name in (_SUMMARY, _WEIGHTS) if files.kind(workdir / name)]
    if files.kind(rows) and rows.stat().st_size:
        left.insert(0, _METRICS)
    if left:
        raise UsageError(
            f"{workdir}: there is nothing to resume from: it holds {', '.join(left)}, but no checkpoint; train anew in "
            "another --workdir"
        )


def _strangers(workdir: pathlib.Path) -> list[pathlib.Path]:
    """What lies in a folder besides the lock and leftovers of a process that was killed before its run began."""
    return [path for path in workdir.iterdir() if path.name != lock.NAME and not _is_leftover(path)]


def remove_leftovers(workdir: pathlib.Path) -> None:
    """Removes what killed processes were about to write. Call it while the folder is locked.

    Raises:
      OSError: one cannot be removed.
    """
    for path in workdir.iterdir():
        if _is_leftover(path):
            path.unlink()


def _is_leftover(path: pathlib.Path) -> bool:
    return any(files.is_temporary(path, name) for name in _FILES)
