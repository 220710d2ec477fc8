"""Every data source ends as the same `Splits`: uint8 NHWC images and int32 labels, in memory."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from jaxalex.config import DATASETS
from jaxalex.data.splits import ImageSet, Published, Splits, split_indices
from jaxalex.errors import UsageError

__all__ = ["ImageSet", "Splits", "class_names", "load", "split_indices", "stored_dir"]


def load(
    dataset: str,
    data_dir: str | None,
    seed: int,
    *,
    limit_train: int | None = None,
    limit_eval: int | None = None,
    download: bool = False,
    notify: Callable[[str], None] = print,
) -> Splits:
    """Loads a data set and splits its training images 80/20 into train and eval.

    Args:
      dataset: ``"cifar10"``, ``"digits"`` (embedded), or ``"auto"``: CIFAR-10 if it is on disk, else the digits.
      data_dir: where to look for CIFAR-10 and to download it to. None means the environment variable
        JAXALEX_DATA_DIR, else tensorflow-datasets' default: TFDS_DATA_DIR, else ``~/tensorflow_datasets``.
      seed: of the split, in ``[0, 2**32)``. One seed gives the same split from every source of CIFAR-10.
      limit_train: how many samples of the shuffled training split to keep, from its start; None keeps all.
      limit_eval: the same for eval, and for test.
      download: whether to download a CIFAR-10 that is asked for by name and isn't on disk.
      notify: gets a line when the digits are used in place of CIFAR-10, or a download begins.

    Raises:
      UsageError: an unknown data set, a limit below 1, no CIFAR-10 (the message says where it was looked for),
        damaged or unreadable files, no network.
      RunError: the disk failed during a download.
    """
    if dataset not in DATASETS:
        raise UsageError(f"unknown dataset {dataset!r}: known are {', '.join(DATASETS)}")
    for flag, limit in (("--limit-train", limit_train), ("--limit-eval", limit_eval)):
        if limit is not None and limit < 1:
            raise UsageError(f"{flag} {limit}: must be at least 1")
    return _load(dataset, data_dir, download, notify).split(seed, limit_train, limit_eval)


def class_names(dataset: str) -> tuple[str, ...]:
    """The names of a data set's classes in label order, without reading it; ``dataset`` as in `Splits.name`.

    Raises:
      UsageError: an unknown data set.
    """
    from jaxalex.data import digits
    from jaxalex.data.cifar10 import files

    names = {"cifar10": files.CLASS_NAMES, "digits": digits.CLASS_NAMES}
    if dataset not in names:
        raise UsageError(f"unknown dataset {dataset!r}: known are {', '.join(names)}")
    return names[dataset]


def stored_dir(data_dir: str | None) -> str | None:
    """What a run stores of the folder that it was given, so that it is found from any other folder, too.

    Args:
      data_dir: as in `load`.

    Returns:
      an absolute name; None where only the environment says where the data is, in names that are absolute already.

    Raises:
      UsageError: no folder can have this name.
    """
    from_environment = os.environ.get("JAXALEX_DATA_DIR", "")
    folder = data_dir or (None if Path(from_environment).is_absolute() else from_environment)
    return _absolute(folder) if folder else None


def _load(dataset: str, data_dir: str | None, download: bool, notify: Callable[[str], None]) -> Published:
    from jaxalex.data import cifar10, digits

    if dataset == "digits":
        return digits.load()
    directory = _resolve(data_dir)
    try:
        found = cifar10.find(directory)
    except OSError as error:
        raise UsageError(f"cannot read {directory}: {error.strerror}") from error
    if found:
        return found()
    if dataset == "cifar10":
        if not download:
            raise UsageError(
                f"no CIFAR-10 in {directory}: give --data-dir DIR, or set JAXALEX_DATA_DIR, where DIR holds "
                f"{' or '.join(form.folder for form in cifar10.FORMS)}"
            )
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
    """The folder that holds CIFAR-10, or to download it to: absolute, so that messages say where that is."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"  # as TFDS itself does
    directory = Path(_absolute(data_dir or os.environ.get("JAXALEX_DATA_DIR") or default))
    try:
        is_file = directory.is_file()
    except (OSError, ValueError) as error:  # too long a name, a NUL character
        raise UsageError(f"--data-dir {directory}: not a valid folder name ({_reason(error)})") from error
    if is_file:
        raise UsageError(f"{directory} is a file: --data-dir takes the folder that holds the data")
    return directory


def _absolute(folder: str) -> str:
    try:
        return str(Path(folder).expanduser().absolute())
    except (OSError, RuntimeError, ValueError) as error:  # ~nobody; a current folder that is gone
        raise UsageError(f"--data-dir {folder}: not a valid folder name ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
