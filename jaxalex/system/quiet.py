"""Keeps libraries from writing to stderr what the errors that they raise say, too."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

_NEVER = logging.CRITICAL + 1
_LOGGERS = ("absl", "asyncio", "PIL")  # absl's is that of Orbax and tensorflow-datasets


@contextlib.contextmanager
def logs() -> Iterator[None]:
    """Inside it, Orbax, tensorflow-datasets and Pillow log nothing."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(_NEVER)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def threads() -> Iterator[None]:
    """Inside it, Orbax logs nothing and tensorstore's threads print no tracebacks when Orbax fails.

    Orbax reads and writes all arrays at once and closes its event loop when one of them fails; each of the others then
    prints a traceback of its own, at any time. So after a failure these, and Orbax's and asyncio's logs, stay unprinted
    for good.
    """
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    after: Callable[[Any], Any] = hook
    failed = False
    try:
        with logs():
            try:
                yield
            except Exception:
                failed = True
                time.sleep(0.3)  # most of them come within milliseconds
                with warnings.catch_warnings(action="ignore"):
                    gc.collect()  # asyncio complains of tasks nobody waited for when they are collected: let it do so
                raise
    finally:
        if failed:
            after = hook if isinstance(hook, _WithoutStragglers) else _WithoutStragglers(hook)
            for name in ("absl", "asyncio"):
                logging.getLogger(name).setLevel(_NEVER)
        sys.unraisablehook = after


class _WithoutStragglers:
    """A hook that hands on all but the complaint that an event loop is closed."""

    def __init__(self, hook: Callable[[Any], Any]) -> None:
        self._hook = hook

    def __call__(self, unraisable: Any) -> None:
        if not (isinstance(unraisable.exc_value, RuntimeError) and "loop is closed" in str(unraisable.exc_value)):
            self._hook(unraisable)
