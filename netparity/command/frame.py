"""What the commands share: one-line errors, exit codes, signals."""

from __future__ import annotations

import argparse
import os
import pathlib
import signal
import sys
import threading
from typing import NoReturn

EXIT_CODES = (
    "Exit codes: 0 they agree, 1 they differ or it failed, 2 bad input or usage, 130 or 143 stopped by a signal."
)
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class UsageError(Exception):
    """What was asked for makes no sense; the message is one line that says what to do."""


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that raises `UsageError`."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def fail(message: str) -> None:
    """Prints one line on stderr, without control characters: it may quote somebody's file."""
    line = " ".join(message.split())
    print("error: " + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line), file=sys.stderr)


def require_folder(flag: str, folder: pathlib.Path | None) -> None:
    """Refuses a folder that cannot be made or written to, before anything long is begun.

    Raises:
      UsageError: naming what stands in the way.
    """
    if folder is None:
        return
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UsageError(f"{flag} {folder}: {nearest} is a file")
    if not os.access(nearest, os.W_OK):
        raise UsageError(f"{flag} {folder}: {nearest} may not be written to")


def open_closed_streams() -> None:
    """What is printed to a stream that the command was started without (``>&-``) is dropped.

    Otherwise the next file that is opened gets the stream's number, and what libraries print with it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (for as long as the process lives)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def end_at_signals() -> None:
    """From now on Ctrl-C, SIGTERM and SIGHUP end the process with 128 + the signal's number, whatever it is doing.

    A thread does it: a handler has to wait until the main thread is back from a compiler, for half a minute at times.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup's stays ignored
            signal.signal(number, lambda number, stack: None)
    threading.Thread(target=_end_at_a_signal, args=(reader,), name="signals", daemon=True).start()


def _end_at_a_signal(reader: int) -> None:
    number = signal.Signals(os.read(reader, 1)[0])
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    try:
        os.write(2, f"error: stopped by {name}\n".encode())  # sys.stderr may be held by the main thread
    finally:
        os._exit(128 + number)
