"""A lock on a folder that one process can hold; the operating system releases it however that process ends."""

from __future__ import annotations

import contextlib
import datetime
import os
import pathlib
from collections.abc import Iterator

from jaxalex.errors import UsageError

NAME = ".lock"


@contextlib.contextmanager
def hold(folder: pathlib.Path) -> Iterator[None]:
    """Locks a folder, which is created if it does not exist; a file ``.lock`` in it names the process.

    What counts is the kernel's lock on that file, not the file itself: a stale lock file blocks nobody.

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
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone
            (folder / NAME).unlink()
        os.close(descriptor)


def _open_locked(path: pathlib.Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        if not _try_lock(descriptor):
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            raise UsageError(f"{path.parent}: another process trains there ({holder}): wait for it, or stop it")
        # The last holder may have removed the file after we opened it and before we locked it. Then ours is no longer
        # the file of that name, and locking it means nothing: try again.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


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
