"""Signals: a command ends at once when it is asked to, and a training run saves first.

Ctrl-C, SIGTERM and SIGHUP (the terminal was closed) all ask. No handler here raises an exception, as Python's own does
for Ctrl-C: one that appears at a random moment turns imports into errors, gets lost in callbacks of the garbage
collector, or unwinds from under a compiler that is still at work.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

Asked = Callable[[], signal.Signals | None]
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# Launchers such as make or timeout pass a signal on that the terminal has sent already: that is no second request.
_ECHO_SECONDS = 1.0


def describe(number: signal.Signals) -> str:
    """A signal for people.

    >>> describe(signal.SIGINT), describe(signal.SIGTERM)
    ('Ctrl-C', 'SIGTERM')
    """
    return "Ctrl-C" if number == signal.SIGINT else number.name


@contextlib.contextmanager
def ending_at_once(say: Callable[[signal.Signals], None]) -> Iterator[None]:
    """A context in which a signal ends the process, with exit code 128 + its number, whatever it is doing.

    A thread does it, because a Python handler has to wait until the main thread is back from compiled code, and XLA can
    compile for half a minute. Nothing is unwound and no destructor runs: use it where nothing can be lost. Outside the
    main thread the context changes nothing. A signal that is ignored stays ignored.

    Args:
      say: called with the signal, from that thread, just before the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave_to_the_thread(number: int, frame: FrameType | None) -> None:
        pass

    def end_at_a_signal() -> None:
        for byte in iter(lambda: os.read(reader, 1), b""):
            # Where `watch` is at work inside this context the handler is its own.
            if signal.getsignal(byte[0]) is leave_to_the_thread:
                number = signal.Signals(byte[0])
                try:
                    say(number)
                finally:
                    os._exit(128 + number)

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    thread = threading.Thread(target=end_at_a_signal, name="signals", daemon=True)
    thread.start()
    waker = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = _install(leave_to_the_thread)
    try:
        yield
    finally:
        _restore(before)
        signal.set_wakeup_fd(waker)
        os.close(writer)
        thread.join()
        os.close(reader)


@contextlib.contextmanager
def watch() -> Iterator[Asked]:
    """A context in which the first signal is only noted; one that comes a second later acts as it did outside.

    After a signal the handlers outlive the context, up to that second request: an echo of the first may still come.

    Yields:
      a function that returns the signal that arrived, or None. Outside the main thread it always returns None.
    """
    came: list[tuple[signal.Signals, float]] = []
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not came:
            came.append((signal.Signals(number), now))
        elif now - came[0][1] >= _ECHO_SECONDS:
            _restore(before)
            before.clear()
            os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():
        before.update(_install(note))
    try:
        yield lambda: came[0][0] if came else None
    finally:
        if not came:
            _restore(before)


def _install(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Gives every signal that is not ignored a handler; returns those before."""
    before = {}
    for number in _SIGNALS:
        old = signal.getsignal(number)
        # A background job of a script ignores Ctrl-C, and one under nohup SIGHUP: they must keep ignoring it.
        if old not in (signal.SIG_IGN, None):
            before[number] = old
            signal.signal(number, handler)
    return before


def _restore(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
