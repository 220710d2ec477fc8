"""Ctrl-C and SIGTERM as a question that the work asks when it suits it, so that it stops between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

Asked = Callable[[], signal.Signals | None]
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def watch() -> Iterator[Asked]:
    """A context in which the first Ctrl-C or SIGTERM only makes a note of itself; the second acts as before.

    Yields:
      a function that gives the signal that has come, or None. Outside the main thread none ever comes.
    """
    came: list[signal.Signals] = []
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        before.clear()

    def note(number: int, _: FrameType | None) -> None:
        came.append(signal.Signals(number))
        restore()

    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):  # a job in a script's background ignores Ctrl-C, and goes on to
                before[number] = handler
                signal.signal(number, note)
    try:
        yield lambda: came[0] if came else None
    finally:
        restore()
