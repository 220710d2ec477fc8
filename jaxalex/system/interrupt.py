"""Notes Ctrl-C and SIGTERM, so that the work can ask for them between two steps and stop in good order."""

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
    """A context in which the first Ctrl-C or SIGTERM is only noted; a second one acts as it did outside.

    Yields:
      a function that returns the signal that arrived, or None. Outside the main thread it always returns None.
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
            # A background job of a script ignores Ctrl-C, and must keep ignoring it.
            if handler not in (signal.SIG_IGN, None):
                before[number] = handler
                signal.signal(number, note)
    try:
        yield lambda: came[0] if came else None
    finally:
        restore()
