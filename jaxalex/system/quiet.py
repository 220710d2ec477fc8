"""Keeps libraries from writing to stderr what the errors that they raise say, too."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import time
import warnings
from collections.abc import Iterator

_LOGGERS = ("absl", "asyncio", "PIL")  # absl's is that of Orbax and tensorflow-datasets


@contextlib.contextmanager
def logs() -> Iterator[None]:
    """Inside it, Orbax, tensorflow-datasets and Pillow log nothing."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def threads() -> Iterator[None]:
    """Inside it, Orbax logs nothing and tensorstore's threads print no tracebacks when Orbax fails.

    Orbax reads and writes all arrays at once and closes its event loop when one of them fails; each of the others then
    prints a traceback of its own.
    """
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        with logs():
            try:
                yield
            except Exception:
                time.sleep(0.3)  # the tracebacks come within milliseconds
                with warnings.catch_warnings(action="ignore"):
                    gc.collect()  # asyncio complains of tasks nobody waited for when they are collected: let it do so
                raise
    finally:
        sys.unraisablehook = hook
