"""CIFAR-10: finds it on disk in any of its forms, or downloads it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxalex.data.cifar10 import tfds_reader
from jaxalex.data.cifar10.files import BINARY, FORMS, Form, read_archive, read_folder
from jaxalex.data.download import download
from jaxalex.data.splits import Published
from jaxalex.errors import UsageError
from jaxalex.system.files import kind  # not `files`: that is a module of this package, too

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"  # the archive that TFDS downloads, too


def find(directory: Path, forms: Sequence[Form] = FORMS) -> Callable[[], Published] | None:
    """Looks for CIFAR-10: extracted folders first, then archives, then what TFDS prepared.

    Args:
      directory: the folder that holds one of these, or an extracted folder itself.
      forms: the published forms to look for; the last one is what TFDS' content is checked against.

    Returns:
      A function that reads what was found and raises UsageError if that is damaged, or is no file or folder at all
      (a pipe, a link that leads nowhere …); None if nothing was found.

    Raises:
      OSError: ``directory`` cannot be read.
    """

    def there(name: str | Path) -> bool:
        return kind(directory / name) is not None

    for form in forms:
        if there(form.folder):
            return functools.partial(read_folder, directory / form.folder, form)
    for form in forms:
        if any(map(there, form.files)):
            return functools.partial(read_folder, directory, form)
    for form in forms:
        if there(form.archive_name):
            return functools.partial(read_archive, directory / form.archive_name, form)
    if there(tfds_reader.PREPARED):
        return functools.partial(tfds_reader.read, directory, forms[-1])
    return None


def fetch(directory: Path, *, url: str, form: Form = BINARY, timeout: float = 10.0) -> Published:
    """Downloads the archive to ``directory/downloads``, prepares it with TFDS, and reads that.

    Args:
      directory: created if it doesn't exist.
      url: where ``form``'s archive is.
      form: the published form, whose size and MD5 the download must have.
      timeout: seconds without an answer after which the download fails.

    Raises:
      UsageError: no network, a wrong file, a folder that can't be written to; the message says what else to do.
      RunError: the disk failed or is full.
    """
    destination = directory / "downloads" / form.archive_name
    try:
        archive = download(url, destination, size=form.archive.size, md5=form.archive.md5, timeout=timeout)
    except UsageError as error:
        known = " or ".join(form.archive_name for form in FORMS)
        raise UsageError(
            f"{error}: put {known}, or the folder extracted from one, into DIR and pass --data-dir DIR, "
            "or use --dataset digits"
        ) from error
    published = read_archive(archive, form)
    try:
        tfds_reader.prepare(directory, published)
    except ImportError as error:  # array_record is not built for every system
        raise UsageError(
            f"tensorflow-datasets cannot prepare CIFAR-10 here ({error}): move {archive} into {directory}, "
            "where it is read as it is"
        ) from error
    return tfds_reader.read(directory, form)
