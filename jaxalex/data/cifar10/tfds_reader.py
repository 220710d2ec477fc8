"""CIFAR-10 in tensorflow-datasets' own layout, written and read without TensorFlow."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxalex.data.cifar10.files import BINARY, CLASS_NAMES, Form, encode_records
from jaxalex.data.prepared_files import refuse_strange
from jaxalex.data.splits import ImageSet, Published
from jaxalex.errors import RunError, UsageError
from jaxalex.system import quiet

VERSION = "3.0.2"
PREPARED = Path("cifar10") / VERSION


def prepare(directory: Path, data: Published) -> None:
    """Writes ``directory/cifar10/3.0.2``, which the stock ``tfds.data_source("cifar10")`` reads.

    The stock builder needs TensorFlow to unpack, read and encode the images; this one is given them. TFDS writes to a
    folder named ``incomplete…`` and renames it at the end, so that a partial one is never found.

    Raises:
      RunError: the disk failed or is full.
    """
    import tensorflow_datasets as tfds

    builder = _builder_class(data)(data_dir=os.fspath(directory), file_format="array_record")
    _remove_leftovers((directory / PREPARED).parent)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        with _quiet_tfds():
            builder.download_and_prepare(download_dir=directory / "downloads", download_config=config)
    except (OSError, RuntimeError) as error:  # array_record reports a full disk as RuntimeError
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise RunError(f"failed to prepare {directory / PREPARED}: {reason}") from error


def _remove_leftovers(folder: Path) -> None:
    """Removes what TFDS was preparing when its process was killed; not within a day, as it may be alive."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            old = path.lstat().st_mtime < time.time() - 24 * 3600
            if old and re.fullmatch(rf"incomplete\.[A-Z0-9]{{6}}_{re.escape(VERSION)}", path.name):
                shutil.rmtree(path)  # refuses a link


def _builder_class(data: Published) -> Any:
    """The stock builder, but reading from ``data``. The data set is named after the class."""
    import tensorflow_datasets as tfds
    from PIL import Image
    from tensorflow_datasets.image_classification import cifar
    from tqdm import tqdm

    def examples(prefix: str, part: ImageSet) -> Iterator[tuple[int, dict[str, Any]]]:
        progress = tqdm(part.images, desc=f"preparing {prefix}", unit="image", mininterval=0.5)
        for index, (image, label) in enumerate(zip(progress, part.labels, strict=True)):
            # TFDS needs TensorFlow to encode NumPy arrays, but not for PIL images.
            yield (
                index,
                {
                    "id": f"{prefix}_{index:05d}",
                    "image": Image.fromarray(image),
                    "label": int(label),
                },
            )

    # Not registered, so that the registered "cifar10" stays the stock builder.
    class Cifar10(cifar.Cifar10, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version(VERSION)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            self.info.features["label"].names = list(data.class_names)
            return {"train": examples("train", data.train), "test": examples("test", data.test)}

    return Cifar10


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Silences TFDS' lines on stdout and its nested bars on stderr; `examples` shows one bar per split."""
    import tensorflow_datasets as tfds

    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.display_progress_bar(True)


def read(directory: Path, form: Form = BINARY) -> Published:
    """CIFAR-10 from ``directory/cifar10/3.0.2``, in the order of the published files.

    TFDS shuffles what it writes; the ``id`` of each record tells its original place. The content is checked against
    the published MD5s of the binary files, which hold the same bytes.

    Args:
      directory: what TFDS calls ``data_dir``.
      form: the binary form to check against.

    Raises:
      UsageError: the folder is damaged, holds other images, or is not in a readable format.
    """
    import tensorflow_datasets as tfds

    folder = directory / PREPARED
    remedy = "move it away and run again with --dataset cifar10, or pass another --data-dir"
    try:
        refuse_strange(folder)
        # TFDS prints a banner where TensorFlow is missing, and logs what it then raises.
        with quiet.logs(), contextlib.redirect_stderr(io.StringIO()):
            parts = tfds.data_source(
                f"cifar10:{VERSION}",
                data_dir=os.fspath(directory),
                download=False,
                decoders={"image": tfds.decode.SkipDecoding()},  # decoding by TFDS logs a warning
            )
        *train_sizes, test_size = (file.size // 3073 for file in form.batches.values())
        train, test = _in_order(parts["train"], sum(train_sizes)), _in_order(parts["test"], test_size)
    except Exception as error:  # TFDS, array_record, protobuf and Pillow each raise their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{folder} cannot be read ({reason}); {remedy}") from error
    *train_names, last = form.batches
    for part, names in ((train, train_names), (test, [last])):
        _check_content(part, names, form, where=str(folder), remedy=remedy)
    return Published("cifar10", str(PREPARED), train, test, CLASS_NAMES)


def _in_order(records: Any, expected: int, batch_size: int = 1000) -> ImageSet:
    """The samples of one TFDS split, each at the place that its id tells (``train_00000`` is the first)."""
    from PIL import Image

    if len(records) != expected:  # checked before any memory is allocated for them
        raise ValueError(f"{len(records):,} images, expected {expected:,}")
    images = np.zeros((len(records), 32, 32, 3), np.uint8)
    labels = np.full(len(records), 255, np.int32)
    for start in range(0, len(records), batch_size):
        for record in records.__getitems__(range(start, min(start + batch_size, len(records)))):
            index = int(record["id"].rpartition(b"_")[2])
            with Image.open(io.BytesIO(record["image"]), formats=["PNG"]) as picture:
                if (picture.size, picture.mode) != ((32, 32), "RGB"):  # before its pixels are unpacked
                    raise ValueError(f"an image of {picture.size} pixels, {picture.mode}")
                images[index] = np.asarray(picture)
            labels[index] = record["label"]
    return ImageSet(images, labels)


def _check_content(part: ImageSet, names: Sequence[str], form: Form, *, where: str, remedy: str) -> None:
    start = 0
    for name in names:
        stop = start + form.batches[name].size // 3073
        records = encode_records(part.images[start:stop], part.labels[start:stop])
        md5 = hashlib.md5(records, usedforsecurity=False).hexdigest()
        if md5 != form.batches[name].md5:
            raise UsageError(
                f"{where} is damaged: the content of {name} has MD5 {md5}, expected {form.batches[name].md5}; {remedy}"
            )
        start = stop
    if start != len(part):
        raise UsageError(f"{where} is damaged: {len(part):,} images, expected {start:,}; {remedy}")
