"""One process a folder: a lock that the operating system releases when its holder dies, however it dies."""

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
    """Holds a folder, which is made if it is not there; a file ``.lock`` in it says who does.

    What counts is the kernel's lock on that file, not the file: one that a killed process left behind holds nobody up.

    Raises:
      UsageError: another process holds it (it is named), or the folder cannot be made or written.
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
        with contextlib.suppress(OSError):  # the folder may have gone
            (folder / NAME).unlink()
        os.close(descriptor)


def _open_locked(path: pathlib.Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        if not _try_lock(descriptor):
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            raise UsageError(f"{path.parent}: another process trains there ({holder}): wait for it, or stop it")
        # Its last holder may have removed the file between our opening and our locking it: then we hold nothing.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: two processes are not kept apart there
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
