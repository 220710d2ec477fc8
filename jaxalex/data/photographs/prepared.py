"""Image-classification sets that tensorflow-datasets has prepared as array_record, read without TensorFlow."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxalex.data.photographs.encoded import Encoded, Part, Picture
from jaxalex.data.prepared_files import refuse_strange
from jaxalex.errors import UsageError
from jaxalex.system import quiet

PREFIX = "tfds:"
# By their names in tensorflow-datasets; the first that there is.
_PARTS = {"train": ("train",), "val": ("validation", "val"), "test": ("test",)}
_INFO = "dataset_info.json"


def find(name: str, directory: Path) -> Encoded:
    """Opens a prepared set; decodes none of it.

    Args:
      name: ``name``, ``name/config``, and ``:version`` after either; by default the newest version.
      directory: what TFDS calls ``data_dir``.

    Raises:
      UsageError: there is no such set, it is damaged, in another format than array_record, or holds other things than
        one picture and one class label each.
    """
    folder = _find_folder(name, directory)
    try:
        refuse_strange(folder)
        sources, image, label, class_names = _open(folder)
        parts = {
            part: Part(len(sources[names[0]]), _Reader(folder, names[0], sources[names[0]], image, label, class_names))
            for part, known in _PARTS.items()
            if (names := [name for name in known if name in sources])
        }
    except Exception as error:  # TFDS, array_record and protobuf each raise their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{folder} cannot be read ({reason})") from error
    if "train" not in parts:
        raise UsageError(f"{folder}: has no split named train, but {', '.join(sources)}")
    return Encoded(f"{PREFIX}{name}", parts, class_names, lambda: {"files": _outline(folder)})


def _outline(folder: Path) -> str:
    """For people, and another where a file has another name or size, or TFDS describes the set otherwise."""
    found = sorted((path.name, path.stat().st_size) for path in folder.iterdir())
    crc = zlib.crc32((folder / _INFO).read_bytes() + repr(found).encode())
    return f"{len(found):,} files of {sum(size for _, size in found):,} bytes, CRC {crc:08x}"


def _find_folder(name: str, directory: Path) -> Path:
    """The folder ``directory/name[/config]/version``."""
    match = re.fullmatch(r"(\w+(?:/[\w.+-]+)?)(?::(\d+\.\d+\.\d+))?", name, re.ASCII)
    if not match:
        raise UsageError(f"{PREFIX}{name}: must be tfds:NAME, tfds:NAME/CONFIG or tfds:NAME:VERSION")
    base, version = match.groups()
    try:
        found = sorted(
            folder.parent.relative_to(directory) for depth in (2, 3) for folder in _prepared(directory, depth)
        )
    except OSError as error:
        raise UsageError(f"cannot read {directory}: {error.strerror}") from error
    versions = {folder.name: directory / folder for folder in found if folder.parent.as_posix() == base}
    if version in versions or (versions and not version):
        newest = max(versions, key=lambda text: tuple(map(int, text.split("."))))
        return versions[version or newest]
    there = ", ".join(f"{PREFIX}{folder.parent.as_posix()}:{folder.name}" for folder in found) or "nothing"
    raise UsageError(
        f"no {PREFIX}{name} in {directory}: prepared there is {there}; give --data-dir DIR, or prepare it with "
        'tensorflow-datasets and file_format="array_record"'
    )


def _prepared(directory: Path, depth: int) -> list[Path]:
    pattern = "/".join(["*"] * depth + [_INFO])
    return [path for path in directory.glob(pattern) if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)]


def _open(folder: Path) -> tuple[dict[str, Sequence[Any]], str, str, tuple[str, ...]]:
    """The records of every split; which of their features are the picture and the label; the names of the classes."""
    import tensorflow_datasets as tfds

    # TFDS prints a banner where TensorFlow is missing, and logs what it then raises.
    with quiet.logs(), contextlib.redirect_stderr(io.StringIO()):
        builder = tfds.builder_from_directory(os.fspath(folder))  # which runs no code of the data set's own
        features = dict(builder.info.features)
        images = [name for name, kind in features.items() if isinstance(kind, tfds.features.Image)]
        labels = [name for name, kind in features.items() if isinstance(kind, tfds.features.ClassLabel)]
        image, label = builder.info.supervised_keys or (*images, *labels)
        if image not in images or label not in labels:
            raise ValueError(f"it holds {', '.join(sorted(features))}, not one picture and one class label")
        # All of them, because a mask, say, is not wanted and would be decoded for nothing.
        sources = builder.as_data_source(decoders={name: tfds.decode.SkipDecoding() for name in images})
    return dict(sources), image, label, tuple(features[label].names)


class _Reader:
    """Reads the pictures of one split; another process that is given it opens the split for itself."""

    def __init__(
        self, folder: Path, split: str, records: Sequence[Any], image: str, label: str, class_names: tuple[str, ...]
    ) -> None:
        self._folder, self._split, self._records = folder, split, records
        self._image, self._label, self._num_classes = image, label, len(class_names)
        self._lock = threading.Lock()

    def __call__(self, index: int) -> Picture:
        name = f"{self._folder}: {self._split} {index}"
        try:
            with self._lock:
                record = self._records[index]
        except Exception as error:  # array_record and protobuf each raise their own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(f"{name}: cannot be read ({reason})") from error
        label = record[self._label]
        if not 0 <= label < self._num_classes:
            raise UsageError(f"{name}: its label is {label}, of {self._num_classes} classes")
        return Picture(name, record[self._image], int(label))

    def __reduce__(self) -> tuple[Callable[..., _Reader], tuple[Path, str]]:
        return _reopened, (self._folder, self._split)


def _reopened(folder: Path, split: str) -> _Reader:
    sources, image, label, class_names = _open(folder)
    return _Reader(folder, split, sources[split], image, label, class_names)
