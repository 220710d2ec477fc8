"""What the fuzzer knows of a kind of input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Reader:
    """A kind of input.

    Attributes:
      make: writes whole files into a folder; returns those that are to be damaged.
      read: reads them; raises UsageError for what cannot be used.
      mend: called after the damage, to forge the checksums that would betray it.
      share: how many of all inputs it gets, relative to the others: a slow one gets fewer.
      strange: whether links, pipes … may take the files' place, too.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    mend: Callable[[Path], None] = lambda folder: None
    share: int = 10
    strange: bool = True


def write(path: Path, data: bytes) -> Path:
    """Writes a file and the folders it lies in; returns its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
