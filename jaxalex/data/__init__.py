"""Every data source ends as the same `Splits`: uint8 NHWC images and int32 labels, in memory if they fit."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxalex.config import check_dataset
from jaxalex.data.splits import Images, ImageSet, Published, Splits, split_indices
from jaxalex.errors import UsageError

__all__ = [
    "ImageSet",
    "Images",
    "Splits",
    "class_names",
    "load",
    "short_name",
    "split_indices",
    "stored_dir",
    "stored_name",
]


def load(
    dataset: str,
    data_dir: str | None,
    seed: int,
    *,
    limit_train: int | None = None,
    limit_eval: int | None = None,
    image_size: int = 224,
    skip_bad: bool = False,
    only_test: bool = False,
    room: int | None = None,
    workers: int = 0,
    download: bool = False,
    notify: Callable[[str], None] = print,
) -> Splits[Any]:
    """Loads a data set and splits its training images 80/20 into train and eval.

    Photographs with a ``val`` and a ``test`` part have theirs from there; see `jaxalex.data.photographs`.

    Args:
      dataset: ``"cifar10"``, ``"digits"`` (embedded), or ``"auto"``: CIFAR-10 if it is on disk, else the digits;
        ``"folder:PATH"``, photographs in ``PATH/train/CLASS`` and ``PATH/val/CLASS``, or ``"tfds:NAME"``, prepared in
        ``data_dir``.
      data_dir: where to look for CIFAR-10 and to download it to. None means the environment variable
        JAXALEX_DATA_DIR, else tensorflow-datasets' default: TFDS_DATA_DIR, else ``~/tensorflow_datasets``.
      seed: of the split, in ``[0, 2**32)``. One seed gives the same split from every source of CIFAR-10.
      limit_train: how many samples of the shuffled training split to keep, from its start; None keeps all.
      limit_eval: the same for eval, and for test.
      image_size: height and width that photographs are brought to; CIFAR-10 and the digits have 32.
      skip_bad: leave out, and count, photographs that cannot be decoded, instead of refusing the set.
      only_test: the test photographs only; train and eval then hold none.
      room: bytes that decoded photographs may take; those of a set that needs more are decoded when they are wanted.
        None: as many as are free, and a set that needs more is refused.
      workers: processes that decode those; 0 for threads.
      download: whether to download a CIFAR-10 that is asked for by name and isn't on disk.
      notify: gets a line when the digits are used in place of CIFAR-10, a download begins, or photographs are left
        out.

    Raises:
      UsageError: an unknown data set, a limit below 1, no CIFAR-10 (the message says where it was looked for),
        damaged or unreadable files, no network; photographs that are missing, not laid out so, or too many for the
        memory.
      RunError: the disk failed during a download.
    """
    check_dataset(dataset)
    for flag, limit in (("--limit-train", limit_train), ("--limit-eval", limit_eval)):
        if limit is not None and limit < 1:
            raise UsageError(f"{flag} {limit}: must be at least 1")
    if ":" not in dataset:
        return _load(dataset, data_dir, download, notify).split(seed, limit_train, limit_eval)
    from jaxalex.data import photographs
    from jaxalex.data.photographs import folder, prepared

    kind, _, rest = dataset.partition(":")
    return photographs.load(
        folder.find(Path(_absolute(rest))) if kind == "folder" else prepared.find(rest, _resolve(data_dir)),
        seed,
        image_size,
        limit_train=limit_train,
        limit_eval=limit_eval,
        skip_bad=skip_bad,
        only_test=only_test,
        room=room,
        workers=workers,
        notify=notify,
    )


def class_names(dataset: str, recorded: object = None) -> tuple[str, ...]:
    """The names of a data set's classes in label order, without reading it.

    Args:
      dataset: as in `Splits.name`.
      recorded: of photographs, ``classes`` in `Splits.record`, as a checkpoint holds it.

    Raises:
      UsageError: an unknown data set; photographs without a record of their classes.
    """
    if recorded is not None:
        if not isinstance(recorded, list) or not all(isinstance(v, str) and v.isprintable() for v in recorded):
            raise UsageError(f"the names of the classes of {dataset} are damaged: {recorded!r}")
        return tuple(recorded)
    from jaxalex.data import digits
    from jaxalex.data.cifar10 import files

    names = {"cifar10": files.CLASS_NAMES, "digits": digits.CLASS_NAMES}
    if dataset not in names:
        raise UsageError(f"unknown dataset {dataset!r}: known are {', '.join(names)}")
    return names[dataset]


def short_name(dataset: str) -> str:
    """A data set's name for titles and file names.

    >>> short_name("folder:/srv/imagenette2-320"), short_name("tfds:imagenette/320px-v2:1.0.0"), short_name("digits")
    ('imagenette2-320', 'imagenette-320px-v2-1.0.0', 'digits')
    """
    kind, _, rest = dataset.partition(":")
    name = Path(rest).name if kind == "folder" else rest or dataset
    return re.sub(r"[^\w.-]+", "-", name) or kind


def stored_name(dataset: str) -> str:
    """What a run stores of a data set's name: the folder in it is absolute, so that it is found from any other, too.

    Raises:
      UsageError: no data set can have this name.
    """
    check_dataset(dataset)
    kind, _, rest = dataset.partition(":")
    return f"folder:{_absolute(rest, '--dataset folder:')}" if kind == "folder" else dataset


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


def _absolute(folder: str, flag: str = "--data-dir ") -> str:
    try:
        return str(Path(folder).expanduser().absolute())
    except (OSError, RuntimeError, ValueError) as error:  # ~nobody; a current folder that is gone
        raise UsageError(f"{flag}{folder}: not a valid folder name ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
