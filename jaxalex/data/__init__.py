"""Every data source ends as the same `Splits`: uint8 NHWC images and int32 labels, in memory."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from jaxalex.config import DATASETS
from jaxalex.data.splits import ImageSet, Published, Splits, split_indices
from jaxalex.errors import UsageError

__all__ = ["ImageSet", "Splits", "load", "split_indices"]


def load(
    dataset: str,
    data_dir: str | None,
    seed: int,
    *,
    limit_train: int | None = None,
    limit_eval: int | None = None,
    notify: Callable[[str], None] = print,
) -> Splits:
    """Loads a data set and splits its training images 80/20 into train and eval.

    Args:
      dataset: ``"cifar10"`` (downloaded if it isn't on disk), ``"digits"`` (embedded), or ``"auto"``:
        CIFAR-10 if it is on disk, else the digits.
      data_dir: where CIFAR-10 is looked for and downloaded to. None means the environment variable
        JAXALEX_DATA_DIR, else tensorflow-datasets' default: TFDS_DATA_DIR, else ``~/tensorflow_datasets``.
      seed: of the split, in ``[0, 2**32)``. One seed gives the same split from every source of CIFAR-10.
      limit_train: keeps the first so many of the shuffled training split.
      limit_eval: keeps the first so many of eval and of test.
      notify: gets a line when the digits stand in for CIFAR-10, or a download begins.

    Raises:
      UsageError: an unknown data set, a limit below 1, damaged or unreadable files, no network.
      RunError: the disk failed during a download.
    """
    if dataset not in DATASETS:
        raise UsageError(f"unknown dataset {dataset!r}: known are {', '.join(DATASETS)}")
    for flag, limit in (("--limit-train", limit_train), ("--limit-eval", limit_eval)):
        if limit is not None and limit < 1:
            raise UsageError(f"{flag} {limit}: must be at least 1")
    return _load(dataset, data_dir, notify).split(seed, limit_train, limit_eval)


def _load(dataset: str, data_dir: str | None, notify: Callable[[str], None]) -> Published:
    from jaxalex.data import cifar10, digits

    if dataset == "digits":
        return digits.load()
    directory = _resolve(data_dir)
    try:
        found = cifar10.find(directory)
    except OSError as error:
        raise UsageError(f"cannot look into {directory}: {error.strerror}") from error
    if found:
        return found()
    if dataset == "cifar10":
        notify(f"No CIFAR-10 in {directory}: downloading it there from {cifar10.URL}")
        return cifar10.fetch(directory, url=cifar10.URL)
    there = "" if directory.exists() else ", which does not exist"
    command = "python -m jaxalex.train --dataset cifar10"
    if data_dir is not None:
        command += f" --data-dir {shlex.quote(data_dir)}"
    notify(
        f"*** NOT CIFAR-10 *** none in {directory}{there}; using the small embedded digits instead. "
        f"To download CIFAR-10 and train on it: {command}"
    )
    return digits.load()


def _resolve(data_dir: str | None) -> Path:
    """The folder that holds CIFAR-10, or will."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"  # TFDS' own rule
    directory = Path(data_dir or os.environ.get("JAXALEX_DATA_DIR") or default)
    try:
        directory = directory.expanduser()
        is_file = directory.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, ~nobody, a NUL character
        raise UsageError(
            f"--data-dir {directory}: no folder's name ({getattr(error, 'strerror', 0) or error})"
        ) from error
    if is_file:
        raise UsageError(f"{directory} is a file: --data-dir takes the folder that holds the data")
    return directory
