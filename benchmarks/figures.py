"""Statistics of samples, and how busy the processor was."""

from __future__ import annotations

import os
import pathlib
import statistics
from collections.abc import Mapping, Sequence


def busy_seconds() -> float | None:
    """Seconds that the processor cores of this process have worked so far, whoever for; None where that is unknown."""
    try:
        lines = pathlib.Path("/proc/stat").read_text().splitlines()
        ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        ticks = [line.split() for line in lines if line.split()[0] in ours]
    except (OSError, AttributeError):
        return None
    # user, nice, system, …, irq, softirq: all but idle and waiting for disks
    return sum(sum(map(int, [*t[1:4], *t[6:8]])) for t in ticks) / os.sysconf("SC_CLK_TCK")


def spread(values: Sequence[float]) -> list[float] | None:
    """First and third quartile, None for fewer than two values.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    [2.0, 4.0]
    """
    return statistics.quantiles(values, n=4, method="inclusive")[::2] if len(values) > 1 else None


def pairwise(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Ratios of the samples taken in the same round, so that what disturbs a round disturbs both.

    >>> pairwise({0: 2.0, 1: 3.0, 2: 9.0}, {0: 1.0, 1: 2.0})
    [2.0, 1.5]
    """
    return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys())]
