"""A lock on a folder that one process can hold; the operating system releases it however that process ends."""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
import stat
from collections.abc import Callable, Iterator

from jaxalex.errors import RunError, UsageError

NAME = ".lock"
Check = Callable[[], None]


@contextlib.contextmanager
def hold(folder: pathlib.Path) -> Iterator[Check]:
    """Locks a folder, which is created if it does not exist; a file ``.lock`` in it names the process.

    What counts is the kernel's lock on that file, not the file itself: a stale lock file blocks nobody. But once the
    file is removed, another process can make and lock a new one.

    Yields:
      a function to call before anything is written: it raises RunError where that has happened.

    Raises:
      UsageError: another process, which is named, holds the lock; or the folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _open_locked(folder / NAME)
        os.truncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} since {datetime.datetime.now():%Y-%m-%d %H:%M:%S}\n".encode())
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}: cannot write there ({getattr(error, 'strerror', None) or error})") from error

    def check() -> None:
        if not _is_of_that_name(descriptor, folder / NAME):
            raise RunError(f"{folder / NAME}: was removed or replaced, so that another process may train there")

    try:
        yield check
    finally:
        with contextlib.suppress(OSError):  # the folder may have become read-only
            if _is_of_that_name(descriptor, folder / NAME):
                (folder / NAME).unlink()
        os.close(descriptor)


def _open_locked(path: pathlib.Path) -> int:
    while True:
        # Without waiting, as at a named pipe one would.
        never = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | never, 0o644)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # a second name is somebody's file: it is emptied
            os.close(descriptor)
            raise UsageError(f"{path}: is not a lock file: remove it")
        if not _try_lock(descriptor):
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            raise UsageError(f"{path.parent}: another process trains there ({holder}): wait for it, or stop it")
        # The last holder may have removed the file after we opened it and before we locked it. Then ours is no longer
        # the file of that name, and locking it means nothing: try again.
        if _is_of_that_name(descriptor, path):
            return descriptor
        os.close(descriptor)


def _is_of_that_name(descriptor: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _try_lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows has no fcntl: there, two processes are not kept apart
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
