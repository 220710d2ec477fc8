"""Keeps libraries from writing to stderr what the error that they raise says, too."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import time
from collections.abc import Iterator

_LOGGERS = ("absl", "asyncio")  # absl's is that of Orbax and tensorflow-datasets


@contextlib.contextmanager
def libraries() -> Iterator[None]:
    """Inside it, Orbax, tensorstore and tensorflow-datasets write neither logs nor tracebacks of their threads.

    Orbax reads and writes all arrays at once and closes its event loop when one of them fails; each of the others then
    prints a traceback of its own from tensorstore's threads.
    """
    hook = sys.unraisablehook
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    disabled = [logger.disabled for logger in loggers]
    sys.unraisablehook = lambda _: None
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    except Exception:
        time.sleep(0.3)  # the tracebacks come within milliseconds
        gc.collect()  # asyncio complains about tasks nobody waited for when they are collected: let it do so here
        raise
    finally:
        sys.unraisablehook = hook
        for logger, was in zip(loggers, disabled, strict=True):
            logger.disabled = was
