"""How the process handles memory that it has freed."""

from __future__ import annotations

import ctypes

# From glibc's malloc.h, where they belong to the stable interface of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8


def keep_freed_memory() -> None:
    """Has the C library keep freed memory for the next allocation instead of handing it back to the system.

    A training step on the CPU allocates and frees the same few hundred megabytes each time; without this, fetching
    them anew from the system, page by page, takes 15 to 20 % of the step. To be called before JAX is imported, whose
    threads would have heaps of their own. Only glibc (Linux) has the setting; elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for parameter, value in (
        (_MMAP_THRESHOLD, 2**30),
        (_TRIM_THRESHOLD, 2**31 - 1),
        (_TOP_PAD, 2**26),
        (_ARENA_MAX, 1),
    ):
        mallopt(parameter, value)
