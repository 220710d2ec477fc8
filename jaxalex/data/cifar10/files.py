"""CIFAR-10 as its author publishes it: two forms, each a folder or an archive, each file checked."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from jaxalex.data import archives
from jaxalex.data.cifar10 import unpickler
from jaxalex.data.splits import ImageSet, Published
from jaxalex.errors import UsageError
from jaxalex.system import files

T = TypeVar("T")
CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


@dataclasses.dataclass(frozen=True)
class File:
    """What a published file must be: ``size`` in bytes, ``md5`` in hexadecimal."""

    size: int
    md5: str


@dataclasses.dataclass(frozen=True)
class Form:
    """One of the two forms in which CIFAR-10 is published.

    Attributes:
      folder, archive_name: what the extracted folder and the archive are called.
      archive: size and MD5 of the published archive. Only a download must have them: an archive packed anew from
        the published files is as good.
      batches: the batch files in order, test batch last.
      decode: content of a batch file to ``(images, labels)``: uint8 ``[n, 32, 32, 3]``, int32 ``[n]``.
      meta: name and check of the file with the class names; None where none is read.
    """

    folder: str
    archive_name: str
    archive: File
    batches: Mapping[str, File]
    decode: Callable[[bytes], tuple[np.ndarray, np.ndarray]]
    meta: tuple[str, File] | None = None

    @property
    def files(self) -> dict[str, File]:
        """Every file that is read, by its name."""
        return dict(self.batches) | (dict([self.meta]) if self.meta else {})


def decode_records(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a binary batch file.

    Args:
      data: records of 3,073 bytes: the label, then the pixels in channel-height-width order.

    Returns:
      ``(images, labels)``: uint8 ``[n, 32, 32, 3]`` and int32 ``[n]``.

    Raises:
      UsageError: the length is not a multiple of a record's, or a label is out of range.
    """
    if len(data) % 3073:
        raise UsageError(f"{len(data):,} bytes are not a whole number of records of 3,073")
    records = np.frombuffer(data, np.uint8).reshape(-1, 3073)
    if (records[:, 0] >= len(CLASS_NAMES)).any():
        raise UsageError(f"it holds the label {records[:, 0].max()}, the largest is {len(CLASS_NAMES) - 1}")
    images = np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, records[:, 0].astype(np.int32)


def encode_records(images: np.ndarray, labels: np.ndarray) -> bytes:
    """The binary batch file that holds these images and labels; undoes `decode_records`."""
    pixels = images.transpose(0, 3, 1, 2).reshape(-1, 3072)
    return np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1).tobytes()


# Archive MD5s: https://www.cs.toronto.edu/~kriz/cifar.html. Files of the Python form: torchvision's table.
# Files of the binary form: published in several projects' download scripts, and confirmed by writing the content of
# the checked Python files as binary records.
PYTHON = Form(
    folder="cifar-10-batches-py",
    archive_name="cifar-10-python.tar.gz",
    archive=File(170_498_071, "c58f30108f718f92721af3b95e74349a"),
    batches={
        "data_batch_1": File(31_035_704, "c99cafc152244af753f735de768cd75f"),
        "data_batch_2": File(31_035_320, "d4bba439e000b95fd0a9bffe97cbabec"),
        "data_batch_3": File(31_035_999, "54ebc095f3ab1f0389bbae665268c751"),
        "data_batch_4": File(31_035_696, "634d18415352ddfa80567beed471001a"),
        "data_batch_5": File(31_035_623, "482c414d41f54cd18b22e5b47cb7c3cb"),
        "test_batch": File(31_035_526, "40351d587109b95175f43aff81a1287e"),
    },
    decode=unpickler.load_batch,
    meta=("batches.meta", File(158, "5ff9c542aee3614f3951f8cda6e48888")),
)
BINARY = Form(
    folder="cifar-10-batches-bin",
    archive_name="cifar-10-binary.tar.gz",
    archive=File(170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),
    batches={
        "data_batch_1.bin": File(30_730_000, "5dd7e06a14cb22eb9f671a540d1b7c25"),
        "data_batch_2.bin": File(30_730_000, "5ea93a67294ea407fff1d09f752e9692"),
        "data_batch_3.bin": File(30_730_000, "942cd6a4bcdd0dd3c604fbe906cb4421"),
        "data_batch_4.bin": File(30_730_000, "ae636b3ba5c66a11e91e8cb52e771fcb"),
        "data_batch_5.bin": File(30_730_000, "53f37980c15c3d472c316c40844f3f0d"),
        "test_batch.bin": File(30_730_000, "803d5f7f4d78ea53de84dbe85f74fb6d"),
    },
    decode=decode_records,
)
FORMS = (PYTHON, BINARY)


def read_folder(folder: Path, form: Form) -> Published:
    """CIFAR-10 from an extracted folder, in the order of its files.

    Raises:
      UsageError: a file, which is named, is missing, truncated or altered, or can't be read.
    """
    contents = {}
    try:
        files.refuse_other_than(files.FOLDER, folder, follow=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from error
    for name, expected in form.files.items():
        path = folder / name
        try:
            with files.open_regular(path) as file:
                found = os.fstat(file.fileno()).st_size
                # A file of another size is never read: it could be too large for memory.
                contents[name] = file.read(expected.size) if found == expected.size else b""
        except FileNotFoundError as error:
            raise UsageError(f"{path} is missing; {_remedy(form)}") from error
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
        if found != expected.size:
            raise UsageError(f"{path} is damaged: {found:,} bytes, expected {expected.size:,}; {_remedy(form)}")
    return _assemble(contents, form, str(folder), source=form.folder)


def read_archive(archive: Path, form: Form) -> Published:
    """CIFAR-10 from a ``.tar.gz``, in the order of the files in it. Nothing is extracted to disk.

    Raises:
      UsageError: the archive or a file in it, which is named, is missing, truncated or altered.
    """
    prefix = form.folder + "/"
    sizes = {prefix + name: expected.size for name, expected in form.files.items()}
    members = archives.read_members(archive, sizes)
    contents = {name.removeprefix(prefix): content for name, content in members.items()}
    return _assemble(contents, form, f"{archive}:{form.folder}", source=form.archive_name)


def _assemble(contents: dict[str, bytes], form: Form, where: str, source: str) -> Published:
    """Checks and decodes each file; ``contents`` is emptied on the way, so that memory holds the data only once."""

    def decode(name: str, decoder: Callable[[bytes], T]) -> T:
        content = contents.pop(name)
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if md5 != form.files[name].md5:
            raise UsageError(f"{where}/{name} is damaged: MD5 {md5}, expected {form.files[name].md5}; {_remedy(form)}")
        try:
            return decoder(content)
        except (UsageError, ValueError) as error:
            raise UsageError(f"{where}/{name} cannot be decoded: {error}") from error

    *training, test = [ImageSet(*decode(name, form.decode)) for name in form.batches]
    train = ImageSet(
        np.concatenate([batch.images for batch in training]),
        np.concatenate([batch.labels for batch in training]),
    )
    names = decode(form.meta[0], unpickler.load_class_names) if form.meta else CLASS_NAMES
    return Published("cifar10", source, train, test, names)


def _remedy(form: Form) -> str:
    return f"put a fresh copy of {form.folder} or {form.archive_name} there"
