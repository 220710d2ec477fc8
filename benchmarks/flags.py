"""The checks of flags that every benchmark shares: numbers in range, files that can be written."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping

from jaxalex import config
from jaxalex.errors import UsageError
from jaxalex.system import files

# By flag, the smallest and the largest value that makes sense; where a flag is not given, nothing is checked.
_LIMITS: Mapping[str, tuple[float, float]] = {
    "batch_size": (1, 1_000_000),
    "image_size": (1, 4096),
    "limit_eval": (1, 10**9),
    "limit_train": (1, 10**9),
    "memory_limit": (1, 10**9),
    "num_epochs": (1, 1_000_000),
    "pairs": (1, 1000),
    "repeats": (1, 1000),
    "sample_seconds": (0.001, 3600),
    "seed": (0, 2**32 - 1),
    "setting_seconds": (0, 10**6),
    "steps": (1, 1_000_000),
    "time_limit": (0, 10**9),
    "warmup": (1, 1000),
}


def check(args: argparse.Namespace, **at_least: float) -> None:
    """Checks every number and every output file among a benchmark's arguments.

    Args:
      args: as they were parsed.
      at_least: by flag, the smallest value where it is another than usual.

    Raises:
      UsageError: naming the first flag that is wrong, and its range.
    """
    given = vars(args)
    if "width" in given:
        config.check_range("width", args.width)
    for name, (low, high) in _LIMITS.items():
        low = at_least.get(name, low)
        values = given.get(name)
        for value in values if isinstance(values, list) else [values]:
            if value is not None and not low <= value <= high:  # nan is in no range
                raise UsageError(f"{_flag(name)} must be at least {low:,} and at most {high:,}, not {value}")
    outputs = {name: path for name, path in given.items() if isinstance(path, pathlib.Path)}
    for name, path in outputs.items():
        files.check_output(_flag(name), path)
    for name, path in outputs.items():
        others = [_flag(other) for other in outputs if other != name and outputs[other].absolute() == path.absolute()]
        if others:
            raise UsageError(f"{_flag(name)} and {others[0]} are both {path}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
