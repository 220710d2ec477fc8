"""Memory: whether the process keeps what it has freed, how much is free, how much a compiled program needs."""

from __future__ import annotations

import ctypes
import pathlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax

# Constants of glibc's malloc.h; they are part of the stable interface of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8


def keep_freed_memory() -> None:
    """Makes the C library keep freed memory for the next allocation instead of returning it to the system.

    A training step on the CPU allocates and frees the same few hundred megabytes each time; without this, getting
    them from the system again, page by page, takes 15 to 20 % of the step. Call it before JAX is imported: JAX's
    threads would otherwise get heaps of their own. Only glibc (Linux) has the setting; elsewhere nothing happens.
    """
    if mallopt := _from_libc("mallopt"):
        for parameter, value in (
            (_MMAP_THRESHOLD, 2**30),
            (_TRIM_THRESHOLD, 2**31 - 1),
            (_TOP_PAD, 2**26),
            (_ARENA_MAX, 1),
        ):
            mallopt(parameter, value)


def return_freed_memory() -> None:
    """Makes the C library return to the system what has been freed so far and `keep_freed_memory` made it keep.

    Call it once between a program's compilation and its first run: initialisation and the compiler leave hundreds of
    megabytes in pieces too small for a step to use. Only glibc (Linux) can do this; elsewhere nothing happens.
    """
    if malloc_trim := _from_libc("malloc_trim"):
        malloc_trim(ctypes.c_size_t(0))


def _from_libc(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where it does not exist."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None


def free_bytes(device: jax.Device) -> int | None:
    """Bytes that a program may still take on a device; None where the system does not tell."""
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        limit, used = stats.get("bytes_limit"), stats.get("bytes_in_use", 0)
        return None if limit is None else limit - used
    return free_host_bytes()


def free_host_bytes() -> int | None:
    """Bytes of main memory that this process may still take; None where the system does not tell."""
    found = [_available(), _left_in_control_group()]
    return min((amount for amount in found if amount is not None), default=None)


def needed_bytes(program: jax.stages.Compiled) -> int:
    """Bytes that running a program takes in addition to its arguments; 0 where the compiler does not tell."""
    analysis = program.memory_analysis()
    if analysis is None:
        return 0
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes


def gigabytes(amount: int) -> str:
    """A number of bytes, for people.

    >>> gigabytes(1_500_000_000)
    '1.5 GB'
    """
    return f"{amount / 1e9:,.1f} GB"


def _available() -> int | None:
    """The kernel's estimate of the bytes that can be allocated without swapping; None where there is none."""
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB$", pathlib.Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match.group(1)) * 1024 if match else None


def _left_in_control_group(folder: pathlib.Path = pathlib.Path("/sys/fs/cgroup")) -> int | None:
    """Bytes left under a container's limit (control groups, version 2); the page cache counts as free."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cached = re.search(r"^inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return None
    if not limit.isdecimal():  # "max"
        return None
    return int(limit) - int(used) + (int(cached.group(1)) if cached else 0)
